//! Half a commit that only whoever sees it by the app's paths can bring to its end.
//!
//! An app in rollback mode that commits to several databases at once writes into the `-journal` of each the path of a file that decides about
//! all of them, the super-journal: as long as that is there, the commit is to be taken back (sqlite.org/atomiccommit.html, section 5). It is
//! the path that the app has. Where the folder lies elsewhere for us, SQLite doesn't find that file, takes the commit for done and removes
//! the `-journal` (`pager_playback`): what was written of it by then would stay, in one database and not in the other.

use std::ffi::{OsStr, c_char};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{beside, parted};
use crate::disk::{self, Context};

/// What ends a `-journal` that names one: the length of the name before it, the sum of the name's bytes, this (`readSuperJournal`).
const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
const TAIL: u64 = 16;
/// Bytes of a list of names that are read: SQLite attaches 125 databases at most.
const LONGEST_LIST: u64 = 1 << 17;
/// Bytes of a name that SQLite takes (`MAX_PATHNAME` in os_unix.c).
const LONGEST: u32 = 512;

/// The super-journal that half a commit to the database at `path` hangs on, if it isn't to be seen here whether it is there. No locks lie
/// on a `-journal`, so it is read by file calls.
pub(super) fn unseen(path: &Path) -> Result<Option<PathBuf>, disk::Error> {
    let Some(named) = named_elsewhere(path)? else { return Ok(None) };
    // Whoever is at that commit just now ends it himself; or he has done so since.
    if parted::is_written(path) {
        return Ok(None);
    }
    Ok(named_elsewhere(path)?.filter(|still| *still == named))
}

/// What SQLite does with it here is what it would do for the app where the databases of that commit are seen here by the app's paths, and
/// are these: where the super-journal is there, those that it names, this one among them. Of one that it doesn't find SQLite takes the
/// commit for ended, and removes the super-journal with the last that it does find. Where it isn't there, because the commit was ended,
/// only its folder can be known, which is this one's.
fn named_elsewhere(path: &Path) -> Result<Option<PathBuf>, disk::Error> {
    let Some(named) = named(&beside(path, "-journal"))? else { return Ok(None) };
    let is_seen = match of_commit(&named)? {
        Some(databases) => databases.iter().all(|it| it.exists()) && databases.iter().any(|it| is_same(it, path)),
        None => named.parent().zip(path.parent()).is_some_and(|(there, here)| is_same(there, here)),
    };
    Ok((!is_seen).then_some(named))
}

/// Others may lie at the app's paths here: what was there before it went into a container, say.
fn is_same(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    id(a).is_some_and(|a| id(b) == Some(a))
}

/// The databases whose journals a super-journal names, each ended by a zero; nothing where it isn't there.
fn of_commit(super_journal: &Path) -> Result<Option<Vec<PathBuf>>, disk::Error> {
    let file = match disk::open_regular(super_journal) {
        Err(error) if error.is_no_file() => return Ok(None),
        file => file?,
    };
    let mut names = Vec::new();
    file.take(LONGEST_LIST).read_to_end(&mut names).to("read", super_journal)?;
    let journals = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let database = |name: &[u8]| OsStr::from_bytes(name.strip_suffix(b"-journal").unwrap_or(name)).into();
    Ok(Some(journals.map(database).collect()))
}

fn named(journal: &Path) -> Result<Option<PathBuf>, disk::Error> {
    // By path first: mostly there is none.
    if !journal.metadata().is_ok_and(|meta| meta.len() > TAIL) {
        return Ok(None);
    }
    let file = match disk::open_regular(journal) {
        Err(error) if error.is_no_file() => return Ok(None),
        file => file?,
    };
    match name(&file) {
        // Somebody has ended it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        name => name.to("read", journal),
    }
}

fn name(journal: &File) -> io::Result<Option<PathBuf>> {
    let Some(end) = journal.metadata()?.len().checked_sub(TAIL) else { return Ok(None) };
    let (mut first, mut tail) = ([0; 1], [0; TAIL as usize]);
    journal.read_exact_at(&mut first, 0)?;
    journal.read_exact_at(&mut tail, end)?;
    let [a, b, c, d, e, f, g, h, magic @ ..] = tail;
    let (length, sum) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    // One that begins with a zero was ended (`PRAGMA journal_mode=PERSIST`).
    let is_whole = first != [0] && magic == MAGIC && (1..=LONGEST).contains(&length);
    let Some(at) = end.checked_sub(length.into()).filter(|_| is_whole) else { return Ok(None) };
    let mut name = vec![0; length as usize];
    journal.read_exact_at(&mut name, at)?;
    // With signs, where C has them.
    let found = name.iter().fold(0_u32, |sum, byte| sum.wrapping_add(*byte as c_char as u32));
    Ok((found == sum).then(|| OsStr::from_bytes(&name).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<PathBuf> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db-journal");
        std::fs::write(&path, bytes).unwrap();
        named(&path).unwrap()
    }

    fn journal(name: &[u8]) -> Vec<u8> {
        let sum = name.iter().fold(0_u32, |sum, byte| sum.wrapping_add(*byte as c_char as u32));
        let length = (name.len() as u32).to_be_bytes();
        [&MAGIC[..], &[0; 512], name, &length, &sum.to_be_bytes(), &MAGIC].concat()
    }

    /// By the paths that the app has: wherever the databases of one commit lie, and whether it is decided already.
    #[test]
    fn a_commit_is_seen_where_all_its_databases_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        ["main", "other"].iter().for_each(|folder| std::fs::create_dir(at(folder)).unwrap());
        let [main, beside, other] = ["main/app.db", "main/auth.db", "other/aux.db"].map(at);
        let decides = at("main/app.db-mj4A1B2C9D0");
        let left = |of: &Path| {
            let mut journal_of = of.as_os_str().to_owned();
            journal_of.push("-journal");
            std::fs::write(journal_of, journal(decides.as_os_str().as_bytes())).unwrap();
        };
        [&main, &beside, &other].into_iter().for_each(|of| left(of));
        let unseen = |path: &Path| named_elsewhere(path).unwrap().is_some();
        assert!(unseen(&other), "nothing is there by the app's paths");
        std::fs::write(&main, b"x").unwrap();
        assert!(unseen(&other), "whatever lies there, it isn't known to be the app's");
        assert!(!unseen(&main) && !unseen(&beside), "it is decided, for the app too");
        let decided_by = |of: &[&Path]| {
            let list = of.iter().map(|path| [path.as_os_str().as_bytes(), b"-journal\0"].concat());
            std::fs::write(&decides, list.collect::<Vec<_>>().concat()).unwrap();
        };
        decided_by(&[&main, &other]);
        assert!(unseen(&main) && unseen(&other), "the other is not seen by its path");
        std::fs::write(&other, b"x").unwrap();
        assert!(!unseen(&main) && !unseen(&other));
        std::fs::write(&beside, b"x").unwrap();
        assert!(unseen(&beside), "another commit's");
    }

    #[test]
    fn a_name_is_read_as_sqlite_reads_it() {
        for name in ["/data/app.db-mj4A1B2C9D0", "/Zoë/app.db-mj4A1B2C9D0"] {
            assert_eq!(read(&journal(name.as_bytes())), Some(name.into()));
        }
        let whole = journal(b"/data/app.db-mj4A1B2C9D0");
        let ended = [&[0][..], &whole[1..]].concat();
        let mut other = whole.clone();
        other[521] ^= 1;
        let longer = [&whole[..], &[0; 4]].concat();
        for no in [&ended, &other, &longer, &journal(b""), &journal(&[b'a'; 513]), &whole[536..].to_vec(), &Vec::new()]
        {
            assert_eq!(read(no), None, "{no:?}");
        }
    }
}
