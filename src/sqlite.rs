//! How databases are opened, and what is never done to a live one.
//!
//! Nothing in this process opens a live `.db`, `-wal` or `-shm` by file calls while a connection to it is open: closing
//! any descriptor of a file drops all POSIX locks that the process holds on it, SQLite's too
//! (sqlite.org/howtocorrupt.html, section 2.2). Live files are looked at by path (`stat`) and read through SQLite. The
//! exceptions are `-wal` and `-journal`, on which no lock lies (`wal` reads headers, `super_journal` an end, `exclusive` syncs an emptied
//! one), and a file that isn't closed before it is gone (`parted`).

pub mod assertion;
pub mod catch_up;
pub mod check;
mod conditions;
mod control;
pub mod cut;
pub mod diff;
pub mod exclusive;
pub mod kind;
pub mod page_set;
pub mod pages;
mod parted;
mod references;
pub mod restore;
pub mod snapshot;
mod super_journal;
mod tokens;
pub mod wal;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

use crate::backup::DatabaseName;
use crate::disk::{self, Context};

pub use control::{Control, Progress};
pub use parted::Users;

/// Before this version SQLite could lose committed pages when two connections wrote and reset the WAL at once
/// (sqlite.org/wal.html#walresetbug).
pub const LEAST_VERSION: i32 = 3_051_003;

/// Stops the program that was built with an SQLite that could harm the app's data.
pub fn assert_version() -> Result<(), String> {
    let version = rusqlite::version_number();
    if version >= LEAST_VERSION {
        return Ok(());
    }
    Err(format!("built with SQLite {}; 3.51.3 or newer is needed (WAL-reset bug)", rusqlite::version()))
}

/// Why a live database or a copy can't serve. Named by situation, each with what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No file there.
    #[error("the live database `{name}` is missing at {}; check BACKUP_DATABASES and that the data volume is mounted", path.display())]
    Missing {
        /// Which.
        name: DatabaseName,
        /// Where it should be.
        path: PathBuf,
    },
    /// Zero bytes.
    #[error("the live database `{name}` at {} is empty (0 bytes); the app has not made it yet, or it was truncated", path.display())]
    Empty {
        /// Which.
        name: DatabaseName,
        /// Where.
        path: PathBuf,
    },
    /// A folder, a FIFO, a device.
    #[error("the live database `{name}` at {} is not a file; BACKUP_DATABASES wants the path of the .db file itself", path.display())]
    NotAFile {
        /// Which.
        name: DatabaseName,
        /// Where.
        path: PathBuf,
    },
    /// Another name of it has a WAL of its own.
    #[error("the live database `{name}` at {} has {links} hard links; SQLite keeps one WAL per name, so a second name loses commits: remove the other names", path.display())]
    HardLinked {
        /// Which.
        name: DatabaseName,
        /// Where.
        path: PathBuf,
        /// How many names.
        links: u64,
    },
    /// A mount of its own: what the app has beside it is not here.
    #[error("the live database `{name}` at {} is a mount by itself, so the app's -wal isn't seen here and commits get lost: mount the folder that holds it, not the file", path.display())]
    MountedAlone {
        /// Which.
        name: DatabaseName,
        /// Where.
        path: PathBuf,
    },
    /// What SQLite keeps beside it was removed while somebody has it open.
    #[error(
        "the `{ending}` beside the live database `{name}` was removed while the app has it open: whoever opens it now shares no lock with the app, and commits get lost; restart the app, and `serve` too if it doesn't find its way back by itself, and never remove `-wal` or `-shm` while it runs"
    )]
    Parted {
        /// Which.
        name: DatabaseName,
        /// What is missing.
        ending: &'static str,
    },
    /// A commit to several databases was cut short, and what decides about it isn't seen here.
    #[error(
        "the app was ended while it committed to `{name}` and other databases at once, and what decides about that commit is not seen here at the app's path for it ({}): whoever opens `{name}` by another path leaves half of that commit in it. Let the app open it first; and mount its folder at the same path here as there", decided_by.display()
    )]
    HalfCommitted {
        /// Which.
        name: DatabaseName,
        /// The super-journal, as the app sees it.
        decided_by: PathBuf,
    },
    /// Not SQLite's format.
    #[error("`{name}` is not a SQLite database, or it is encrypted (SQLCipher), which can't be read here")]
    NotADatabase {
        /// Which.
        name: DatabaseName,
    },
    /// The process has no room for one more open file.
    #[error("`{name}` can't be opened: too many open files; raise the limit (`ulimit -n`, `LimitNOFILE=`)")]
    NoDescriptor {
        /// Which.
        name: DatabaseName,
    },
    /// Another process holds it and doesn't let go.
    #[error(
        "the live database `{name}` was locked by another process for {}; a write transaction stays open, or the app uses locking_mode=EXCLUSIVE, which keeps everyone else out",
        seconds(waited)
    )]
    Locked {
        /// Which.
        name: DatabaseName,
        /// How long it was tried.
        waited: Duration,
    },
    /// A rollback-journal database couldn't be copied in the time its writers may be kept waiting.
    #[error(
        "copying `{name}` would have kept its writers waiting for more than {}; set the app to WAL mode (PRAGMA journal_mode=WAL), where nobody waits, or raise BACKUP_ROLLBACK_HOLD",
        seconds(hold)
    )]
    HeldTooLong {
        /// Which.
        name: DatabaseName,
        /// The bound.
        hold: Duration,
    },
    /// The check of the structure found faults.
    #[error("the live database `{name}` is corrupt: {}; older backups are left alone: restore one of them{}", findings.join("; "), look(kept))]
    Corrupt {
        /// Which.
        name: DatabaseName,
        /// What SQLite said.
        findings: Vec<String>,
        /// File name of the copy, if pages could be read.
        kept: Option<String>,
    },
    /// The path leads to another file now.
    #[error(
        "the live database `{name}` was replaced by another file meanwhile; nothing was done. If a deployment does that, let it stop the app and `serve` first, and move `-wal` and `-shm` away with the old file"
    )]
    Swapped {
        /// Which.
        name: DatabaseName,
    },
    /// The copy read back differs from what was written.
    #[error(
        "the copy of `{name}` reads back differently from what was written; the disk of the backup directory is not to be trusted"
    )]
    ReadBack {
        /// Which.
        name: DatabaseName,
    },
    /// Reading the live file failed.
    #[error("reading the live database `{name}` failed: {source}; look at the disk that holds it (dmesg)")]
    SourceIo {
        /// Which.
        name: DatabaseName,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Writing the live file failed.
    #[error("writing the live database `{name}` failed: {source}; look at the disk that holds it (dmesg)")]
    Write {
        /// Which.
        name: DatabaseName,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The disk of the live file is full.
    #[error("the disk that holds the live database `{name}` is full; make room there, then try again")]
    Full {
        /// Which.
        name: DatabaseName,
    },
    /// The folder or the file isn't ours to use.
    #[error(
        "the live database `{name}` can't be opened: {source}; run the service as the user who owns the file, with its folder writable (SQLite needs -wal and -shm beside it)"
    )]
    NotAllowed {
        /// Which.
        name: DatabaseName,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// It took unreasonably long.
    #[error("copying `{name}` did not end within {}; the disk is too slow or stuck", seconds(limit))]
    TooSlow {
        /// Which.
        name: DatabaseName,
        /// The bound.
        limit: Duration,
    },
    /// Someone asked for it.
    #[error("cancelled")]
    Cancelled,
    /// Our own disk.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// Anything else SQLite says.
    #[error("`{name}`: {source}")]
    Sqlite {
        /// Which.
        name: DatabaseName,
        /// What it said.
        source: rusqlite::Error,
    },
}

fn seconds(duration: &Duration) -> String {
    humantime::format_duration(Duration::from_millis(duration.as_millis() as u64)).to_string()
}

fn look(kept: &Option<String>) -> String {
    kept.as_ref().map(|file| format!(", and the copy is kept beside them for a look: {file}")).unwrap_or_default()
}

/// A name as SQL takes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Puts a situation to an error of SQLite.
pub(crate) fn situation(name: &DatabaseName, source: rusqlite::Error) -> Error {
    let name = name.clone();
    // Reading in WAL mode takes room too, for the index of the WAL.
    if source.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE) {
        return Error::Full { name };
    }
    // SQLite looks at the path as it begins to write.
    if source.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_READONLY_DBMOVED) {
        return Error::Swapped { name };
    }
    match code(&source) {
        Some(ErrorCode::NotADatabase) => Error::NotADatabase { name },
        Some(ErrorCode::DatabaseCorrupt) => Error::Corrupt { name, findings: vec![in_words(&source)], kept: None },
        Some(ErrorCode::SystemIoFailure) => Error::SourceIo { name, source },
        // SQLite doesn't tell it apart from what may not be opened.
        Some(ErrorCode::CannotOpen) if disk::has_no_descriptor() => Error::NoDescriptor { name },
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            Error::NotAllowed { name, source }
        }
        Some(ErrorCode::OperationInterrupted) => Error::Cancelled,
        _ => Error::Sqlite { name, source },
    }
}

/// This says nothing of what was read.
pub fn is_out_of_memory(error: &rusqlite::Error) -> bool {
    code(error) == Some(ErrorCode::OutOfMemory)
}

/// What SQLite says of damage. A statement that met EIO has the same word for it (`SQLITE_IOERR_CORRUPTFS` in vdbe.c).
fn in_words(error: &rusqlite::Error) -> String {
    match code(error) {
        Some(ErrorCode::DatabaseCorrupt) => {
            format!("{error} (or the disk could not be read, which SQLite tells alike: look at `dmesg`)")
        }
        _ => error.to_string(),
    }
}

/// The same for what was to change a live database.
fn of_writing(name: &DatabaseName, source: rusqlite::Error) -> Error {
    let name = name.clone();
    match code(&source) {
        Some(ErrorCode::DiskFull) => Error::Full { name },
        Some(ErrorCode::SystemIoFailure) => Error::Write { name, source },
        _ => situation(&name, source),
    }
}

/// SQLite's word for an error, also of one in the text of a statement, which rusqlite keeps apart.
fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    match error {
        rusqlite::Error::SqlInputError { error, .. } => Some(error.code),
        other => other.sqlite_error_code(),
    }
}

/// A live database: its name and the path that its links were resolved to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The name.
    pub name: DatabaseName,
    /// The file.
    pub path: PathBuf,
}

/// Who a file is, by device and inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// Bytes of the main file; the WAL holds more.
    pub size: u64,
}

impl Identity {
    /// Same file, whatever its size.
    pub fn is(&self, other: &Identity) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Looks at a live file by path, without opening it by SQLite: it is there, a file, not empty, has one name and its folder, may be
/// written, and has beside it what those who have it open share. Where it may not be written, SQLite would open it all the same,
/// leave a `-shm` that the app can't write, and hold no writer.
///
/// SQLite takes an empty file for a new database and would delete the WAL beside it, so this comes before any open.
pub fn identify(source: &Source) -> Result<Identity, Error> {
    use std::os::unix::fs::MetadataExt;
    let (name, path) = (source.name.clone(), source.path.clone());
    let meta = match std::fs::metadata(&path).to("look at", &path) {
        Err(error) if error.is_missing() => return Err(Error::Missing { name, path }),
        meta => meta?,
    };
    if !meta.is_file() {
        return Err(Error::NotAFile { name, path });
    }
    if is_mount(&path)? {
        return Err(Error::MountedAlone { name, path });
    }
    if meta.len() == 0 {
        return Err(Error::Empty { name, path });
    }
    if meta.nlink() > 1 {
        return Err(Error::HardLinked { name, path, links: meta.nlink() });
    }
    let writable = rustix::fs::access(&path, rustix::fs::Access::WRITE_OK);
    if let Err(denied @ (Errno::ACCESS | Errno::ROFS)) = writable {
        Err(denied).to("write", &path)?;
    }
    if let Some(ending) = parted::missing(&path) {
        return Err(Error::Parted { name, ending });
    }
    Ok(Identity { device: meta.dev(), inode: meta.ino(), size: meta.len() })
}

/// The same for who is about to open it.
fn identify_to_open(source: &Source) -> Result<Identity, Error> {
    let identity = identify(source)?;
    assert_ended(source)?;
    match parted::missing_here(&source.path) {
        Some(ending) => Err(Error::Parted { name: source.name.clone(), ending }),
        None => Ok(identity),
    }
}

/// Whoever reads it next doesn't end a commit of the app's the wrong way.
fn assert_ended(source: &Source) -> Result<(), Error> {
    match super_journal::unseen(&source.path)? {
        Some(decided_by) => Err(Error::HalfCommitted { name: source.name.clone(), decided_by }),
        None => Ok(()),
    }
}

/// The same of what that has open, without the words.
fn is_left_half(connection: &Connection) -> bool {
    connection.path().is_some_and(|path| !matches!(super_journal::unseen(Path::new(path)), Ok(None)))
}

/// Whether something is mounted there (statx(2), since Linux 5.8; older ones don't say, and there `doctor` does).
fn is_mount(path: &Path) -> Result<bool, disk::Error> {
    match statx(CWD, path, AtFlags::empty(), StatxFlags::empty()) {
        Err(Errno::NOSYS) => Ok(false),
        found => Ok(found.to("look at", path)?.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
    }
}

/// Opens a live database: for reading and writing, since a read-only connection can neither recover a hot journal nor
/// use an idle WAL database; never creating it, never as a URI, and without the checkpoint that the last connection
/// to close would make [P13]. Who is kept out is told so at once and waits by its own rules, for it may hold other
/// databases meanwhile; rusqlite's default is to wait for 5 s within any statement.
#[allow(clippy::disallowed_methods)]
pub fn open_live(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    if connection.is_readonly(MAIN_DB)? {
        // SQLite opens for reading what it may not write, and then takes no lock that would keep a writer away (BEGIN IMMEDIATE too).
        return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY), None));
    }
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    harden(&connection)?;
    Ok(connection)
}

/// Opens a finished copy that nobody writes: `immutable`, so that nothing appears beside it.
#[allow(clippy::disallowed_methods)]
pub fn open_finished(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(immutable_uri(path), flags)?;
    harden(&connection)?;
    Ok(connection)
}

/// What a live file's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peeked {
    /// Its journal mode is WAL, and no other.
    pub is_wal: bool,
    /// Bytes a page.
    pub page_size: u32,
}

/// Asks it through an immutable connection, which takes no lock and lets nothing appear beside the file; the app may have it
/// locked.
pub fn peek(path: &Path) -> rusqlite::Result<Peeked> {
    let connection = open_finished(path)?;
    let page_size = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    Ok(Peeked { is_wal: is_wal(&connection)?, page_size })
}

/// The schema cookie in its header, asked in the same way. None where what lies there is no database.
pub fn cookie_on_disk(source: &Source) -> Result<Option<u32>, Error> {
    let sql = "SELECT substr(data, 41, 4) FROM sqlite_dbpage WHERE pgno = 1";
    let asked = open_finished(&source.path).and_then(|found| found.query_row(sql, [], |row| row.get(0)));
    match asked {
        Ok(cookie) => Ok(Some(u32::from_be_bytes(cookie))),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
        Err(error) => match situation(&source.name, error) {
            Error::Corrupt { .. } | Error::NotADatabase { .. } => Ok(None),
            error => Err(error),
        },
    }
}

/// By its header: an immutable connection takes no part in a WAL and says `delete`.
fn is_wal(connection: &Connection) -> rusqlite::Result<bool> {
    // 2 is WAL (sqlite.org/fileformat2.html, section 1.3.3).
    Ok(mode_bytes(connection)?[0] == 2)
}

/// Bytes 18 and 19 of the header, which hold the journal mode.
fn mode_bytes(connection: &Connection) -> rusqlite::Result<[u8; 2]> {
    let sql = "SELECT substr(data, 19, 2) FROM sqlite_dbpage WHERE pgno = 1";
    connection.query_row(sql, [], |row| row.get(0))
}

/// What SQLite keeps beside a database, and takes for a part of it.
pub const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The path with more letters at its end.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Bytes of the WAL beside that database, looked at by path; of one that isn't there, none.
pub fn wal_size(path: &Path) -> u64 {
    std::fs::metadata(beside(path, "-wal")).map_or(0, |meta| meta.len())
}

/// What lies in a database is data: its schema may not run functions with side effects, nor its pages lie unseen. Nothing here sets
/// a trigger off.
fn harden(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.execute_batch("PRAGMA mmap_size=0; PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY;")
}

/// sqlite.org/uri.html: everything but unreserved characters and `/` as `%XX`.
fn immutable_uri(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut uri = "file:".to_owned();
    for byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => uri.push(*byte as char),
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_sqlite_is_new_enough() {
        assert_eq!(assert_version(), Ok(()));
    }

    #[test]
    fn a_missing_file_is_not_created_and_file_colon_is_a_path() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open_live(&dir.path().join("none.db")).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(open_live(Path::new("file:/tmp/x?mode=memory")).is_err());
    }

    /// Asked of the connections themselves: whoever opens a database that somebody else has written stands on it.
    #[test]
    fn every_connection_is_hardened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let made = "VACUUM INTO ?1";
        Connection::open_in_memory().unwrap().execute(made, [path.to_str()]).unwrap();
        for (what, connection) in [("live", open_live(&path)), ("finished", open_finished(&path))] {
            let connection = connection.unwrap();
            let config = |config| connection.db_config(config).unwrap();
            let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap();
            let said: [(&str, i64); 6] = [
                ("triggers", config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER).into()),
                ("trusted schema", config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA).into()),
                ("defensive", config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE).into()),
                ("mmap_size", pragma("mmap_size")),
                ("cell_size_check", pragma("cell_size_check")),
                ("temp_store", pragma("temp_store")),
            ];
            let wanted = [0, 0, 1, 0, 1, 2];
            assert_eq!(said.map(|(_, value)| value), wanted, "{what}: {said:?}");
        }
    }

    #[test]
    fn uris_hide_no_part_of_a_path() {
        assert_eq!(immutable_uri(Path::new("/a b/c?d#e%'.db")), "file:/a%20b/c%3Fd%23e%25%27.db?immutable=1");
    }
}
