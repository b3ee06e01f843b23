//! Reading the journal here while it is packed: every checksum of every file is compared, so that nothing damaged is sent for whole. What
//! is damaged, or can't be read any more, leads to what damage of the journal always leads to: it begins anew with a whole snapshot, sending goes on from that, and
//! the states between are a gap.

use std::io::{self, BufReader, Read};
use std::path::Path;

use super::send::Sent;
use crate::backup::DatabaseName;
use crate::engine::{Engine, Error};
use crate::journal::{self, Journal, LtxFile};
use crate::sqlite::Control;

/// Bytes that are read and encoded at once.
const PIECE: usize = 256 << 10;

impl Engine {
    /// One of these turned out to be damaged: it is sent nowhere any more. Where what came last rests on it, the journal begins anew.
    pub(super) fn is_damaged_here(
        &self,
        (name, journal): (&DatabaseName, &Journal),
        files: &[LtxFile],
        error: &journal::Error,
    ) {
        let journal::Error::Damaged { path, .. } = error else { return };
        let Some(file) = files.iter().find(|file| file.name.path(journal.folder()) == *path) else { return };
        let (is_new, is_needed) = {
            let mut index = journal.index();
            (index.note_damaged(file.name), !index.goes_on_without(file.name))
        };
        if is_new {
            tracing::error!(database = %name, "it is sent to no replica: {error}");
        }
        if is_new && is_needed {
            let before = error.right_before(journal.folder(), files);
            self.begin_journal_anew_since(before.unwrap_or_default(), &error.to_string());
        }
    }
}

impl Engine {
    /// Reads these to their end, before anything that they are to replace is removed.
    pub(super) fn are_whole_here(
        &self,
        of: (&DatabaseName, &Journal),
        files: &[LtxFile],
        control: &Control,
    ) -> Result<Sent, Error> {
        for file in files {
            match hand_on(&file.name.path(of.1.folder()), file, control, &mut |_| Ok(())) {
                Err(Error::Journal(journal::Error::Gone { .. })) => return Ok(Sent::Gone),
                Err(Error::Journal(error @ journal::Error::Damaged { .. })) => {
                    self.is_damaged_here(of, files, &error);
                    return Ok(Sent::Damaged);
                }
                read => read?,
            }
        }
        Ok(Sent::Whole)
    }
}

/// Reads a file of the journal, which is as long as the index says, and hands it on. Whoever takes it throws it away after an error.
pub(super) fn hand_on(
    path: &Path,
    file: &LtxFile,
    control: &Control,
    write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let from = journal::open(path)?.take(file.size);
    let mut handing = Handing { from, handed: 0, control, write, failed: None };
    let read = journal::read_whole(BufReader::with_capacity(PIECE, &mut handing), file, path);
    if let Some(error) = handing.failed.take() {
        return Err(error);
    }
    read?;
    match handing.handed == file.size {
        true => Ok(()),
        false => Err(journal::Error::Damaged { path: path.to_owned(), reason: "it is shorter than it was" }.into()),
    }
}

/// Hands on what is read from it. What goes wrong with that is kept: it is no damage here.
struct Handing<'a, R> {
    from: R,
    handed: u64,
    control: &'a Control,
    write: &'a mut dyn FnMut(&[u8]) -> Result<(), Error>,
    failed: Option<Error>,
}

impl<R: Read> Read for Handing<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(into)?;
        let stopped = self.control.check().map_err(Error::from);
        match stopped.and_then(|()| (self.write)(&into[..length])) {
            Ok(()) => {
                self.handed += length as u64;
                Ok(length)
            }
            Err(error) => {
                self.failed = Some(error);
                Err(io::Error::other("it can't be handed on"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::ltx::{Encoder, Header};
    use crate::journal::{FileName, Txid};

    fn handed(path: &Path, file: &LtxFile) -> Result<usize, Error> {
        let mut handed = 0;
        let mut write = |bytes: &[u8]| {
            handed += bytes.len();
            Ok(())
        };
        hand_on(path, file, &Control::default(), &mut write).map(|()| handed)
    }

    fn is_damaged(handed: Result<usize, Error>, why: &str) -> bool {
        matches!(handed, Err(Error::Journal(journal::Error::Damaged { reason, .. })) if reason == why)
    }

    #[test]
    fn what_is_cut_or_can_not_be_read_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ltx");
        let header = Header { page_size: 512, pages: 1, min: Txid::FIRST, max: Txid::FIRST, millis: 7 };
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        encoder.page(1, &[3; 512]).unwrap();
        let bytes = encoder.finish().unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let file = |size| LtxFile { name: FileName::snapshot(Txid::FIRST), millis: 7, size };
        let size = bytes.len() as u64;
        assert_eq!(handed(&path, &file(size)).unwrap(), bytes.len());
        // It is whole by itself, and what was said of it before is more.
        assert!(is_damaged(handed(&path, &file(size + 1)), "it is shorter than it was"));
        assert!(is_damaged(handed(&path, &file(size - 1)), "it ends too early"));
        // A file whose first bytes nobody can read.
        assert!(is_damaged(handed(Path::new("/proc/self/mem"), &file(size)), "the disk can't read it"));
        let gone = handed(&dir.path().join("b.ltx"), &file(size));
        assert!(matches!(gone, Err(Error::Journal(journal::Error::Gone { .. }))));
    }
}
