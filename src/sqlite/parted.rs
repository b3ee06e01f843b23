//! What the locks on a database tell of whoever has it open, asked without SQLite and without taking any.
//!
//! Above all whether somebody has one open whose `-wal` or `-shm` was removed behind him. He goes on in files that have no name any more.
//! Whoever opens the database next makes others, and shares no lock with him: each overwrites what the other commits, and a copy has some
//! of both (sqlite.org/howtocorrupt.html, section 2.4).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{DirEntry, File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

use super::beside;
use crate::disk;

/// Whoever has a database open in WAL mode has a shared lock on these bytes, as long as he has; in exclusive mode it is one for writing, and
/// there is no `-shm` (sqlite.org/lockingv3.html; `SHARED_FIRST` and `SHARED_SIZE` in os.h).
const SHARED: (u64, u64) = (0x4000_0002, 510);
/// All bytes that SQLite puts locks on: pending, reserved, shared. Whoever writes has one for writing there, and whoever takes a commit back
/// that another has left half done.
const LOCKS: (u64, u64) = (0x4000_0000, 512);
/// The first bytes of a header, and its bytes 18 and 19 in WAL mode (sqlite.org/fileformat2.html, section 1.3).
const MAGIC: &[u8] = b"SQLite format 3\0";
const WAL: [u8; 2] = [2, 2];
/// Whoever opens it has the lock a moment before his files are there.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// By device and inode. None of them is closed as long as anybody here can open that file: with it would go all locks that this process has
/// on it, SQLite's too (section 2.2 there).
static OPENED: Mutex<BTreeMap<(u64, u64), File>> = Mutex::new(BTreeMap::new());

/// What is missing beside a database that somebody else has open. No lock is taken, so that nobody waits. Where it can't be looked at,
/// SQLite will say why.
pub(super) fn missing(path: &Path) -> Option<&'static str> {
    close_removed();
    let mut found = None;
    for _ in 0..LOOKS {
        found = ["-wal", "-shm"].into_iter().find(|ending| !beside(path, ending).exists());
        if found.is_none() || !is_shared(path)? {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
    found
}

/// What was removed beside a database while this very process has it open, for the journal or a comparison. All connections of a process
/// share the `-shm` of the first (`unixShmNode` in os_unix.c): another one would take its locks there, and write into the `-wal` of
/// whoever has come since.
pub(super) fn missing_here(path: &Path) -> Option<&'static str> {
    // A list that can't be had shows nothing.
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<_> = open.filter_map(|entry| Some((entry.path(), std::fs::read_link(entry.path()).ok()?))).collect();
    let removed = ["-wal", "-shm"].into_iter().find(|ending| {
        let mut removed = beside(path, ending).into_os_string();
        removed.push(" (deleted)");
        open.iter().any(|(_, open)| *open == *removed)
    })?;
    // Of a database that another file has replaced nothing is shared.
    let now = id(&std::fs::metadata(path).ok()?);
    let ours = open.iter().filter(|(link, _)| std::fs::metadata(link).is_ok_and(|meta| id(&meta) == now)).count();
    let looking = OPENED.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&now);
    (ours > usize::from(looking)).then_some(removed)
}

fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Who has a database open besides this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Users {
    /// At least one.
    Somebody,
    /// It is for us alone.
    Nobody,
    /// In rollback mode whoever does nothing just now has no lock; and of a file that isn't a database any more it isn't known which mode
    /// it was in.
    Unknown,
}

/// Asks for the users of the file at `path`.
pub(super) fn users(path: &Path) -> Users {
    if path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Users::Nobody;
    }
    let asked = asked(path, |file| {
        let in_the_way = in_the_way(file, SHARED, FlockType::WriteLock)?;
        Some(if in_the_way.is_some() {
            Users::Somebody
        } else if is_wal(file)? {
            Users::Nobody
        } else {
            Users::Unknown
        })
    });
    asked.unwrap_or(Users::Unknown)
}

/// Whether somebody else writes into it just now.
pub(super) fn is_written(path: &Path) -> bool {
    asked(path, |file| in_the_way(file, LOCKS, FlockType::ReadLock)).flatten().is_some()
}

fn is_shared(path: &Path) -> Option<bool> {
    asked(path, |file| {
        Some(is_wal(file)? && in_the_way(file, SHARED, FlockType::WriteLock)? == Some(FlockType::ReadLock))
    })
}

/// Asks what is open for that; it is opened first where it isn't.
fn asked<T>(path: &Path, ask: impl FnOnce(&File) -> Option<T>) -> Option<T> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut key = id(&std::fs::metadata(path).ok()?);
    if !opened.contains_key(&key) {
        let file = disk::open_regular(path).ok()?;
        // Another may have come to its name meanwhile.
        key = id(&file.metadata().ok()?);
        match opened.entry(key) {
            Entry::Vacant(free) => {
                free.insert(file);
            }
            Entry::Occupied(_) => std::mem::forget(file),
        }
    }
    ask(opened.get(&key)?)
}

/// None where it is too short to be a database.
fn is_wal(file: &File) -> Option<bool> {
    let mut header = [0; 20];
    file.read_exact_at(&mut header, 0).ok()?;
    Some(header.starts_with(MAGIC) && header.ends_with(&WAL))
}

/// The kind of another's lock that keeps one of that kind away from these bytes, if there is one.
fn in_the_way(file: &File, (start, length): (u64, u64), typ: FlockType) -> Option<Option<FlockType>> {
    let asked = Flock { start, length, pid: None, typ, offset_type: FlockOffsetType::Set };
    Some(fcntl_getlk(file, &asked).ok()?.map(|lock| lock.typ))
}

/// Closes what no name leads to any more and nothing else here has open: nobody can open it again, so no lock is on it that could go. Else
/// a file that was replaced would take its room on the disk as long as this process lives.
fn close_removed() {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    opened.retain(|key, file| !file.metadata().is_ok_and(|meta| meta.nlink() == 0) || is_open_besides(*key));
}

/// Whether this process has more than the one descriptor of it. A list that can't be had shows nothing.
fn is_open_besides(key: (u64, u64)) -> bool {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return true };
    let is_it = |entry: &DirEntry| std::fs::metadata(entry.path()).is_ok_and(|meta| id(&meta) == key);
    open.flatten().filter(is_it).count() > 1
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::open_live;

    fn made(path: &Path) -> (u64, u64) {
        Connection::open_in_memory().unwrap().execute("VACUUM INTO ?1", [path.to_str()]).unwrap();
        id(&path.metadata().unwrap())
    }

    fn descriptors(key: (u64, u64)) -> usize {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.filter(|entry| entry.path().metadata().is_ok_and(|meta| id(&meta) == key)).count()
    }

    #[test]
    fn a_file_that_was_replaced_is_closed_once_nothing_else_has_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let (path, next) = (dir.path().join("app.db"), dir.path().join("next.db"));
        let replaced = made(&path);
        assert_eq!((missing(&path), descriptors(replaced)), (None, 1));
        let connection = open_live(&path).unwrap();
        let new = made(&next);
        std::fs::rename(&next, &path).unwrap();
        assert_eq!((missing(&path), descriptors(replaced)), (None, 2));
        drop(connection);
        assert_eq!((missing(&path), descriptors(replaced), descriptors(new)), (None, 0, 1));
    }
}
