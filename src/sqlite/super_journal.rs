//! Half a commit that only whoever sees it by the app's paths can bring to its end.
//!
//! An app in rollback mode that commits to several databases at once writes into the `-journal` of each the path of a file that decides about
//! all of them, the super-journal: as long as that is there, the commit is to be taken back (sqlite.org/atomiccommit.html, section 5). It is
//! the path that the app has. Where the folder lies elsewhere for us, SQLite doesn't find that file, takes the commit for done and removes
//! the `-journal` (`pager_playback`): what was written of it by then would stay, in one database and not in the other.

use std::ffi::{OsStr, c_char};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{beside, parted};
use crate::disk::{self, Context};

/// What ends a `-journal` that names one: the length of the name before it, the sum of the name's bytes, this (`readSuperJournal`).
const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
const TAIL: u64 = 16;
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

fn named_elsewhere(path: &Path) -> Result<Option<PathBuf>, disk::Error> {
    let Some(named) = named(&beside(path, "-journal"))? else { return Ok(None) };
    let is_there = named.metadata().is_ok_and(|meta| meta.len() > 0);
    let folder = |path: &Path| disk::parent(path).metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    // The app calls the database's own folder as we do: what isn't there is gone for the app too.
    let is_ours = folder(&named).is_some_and(|named| Some(named) == folder(path));
    Ok((!is_there && !is_ours).then_some(named))
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
