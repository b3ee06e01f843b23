//! Reading the journal here while it is packed: every checksum of every file is compared, so that nothing damaged is sent for whole. What
//! is damaged leads to what damage of the journal always leads to: it begins anew with a whole snapshot, sending goes on from that, and
//! the states between are a gap.

use std::io::{self, BufReader, Read};
use std::path::Path;

use crate::backup::{DatabaseName, Moment};
use crate::disk;
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
            // What was before the states in it needs no file that follows.
            let before = file.millis.checked_sub(1).and_then(Moment::of_millis).map(Moment::at);
            self.begin_journal_anew_since(before.unwrap_or_default(), &error.to_string());
        }
    }
}

/// Reads a file of the journal, which is as long as the index says, and hands it on. Whoever takes it throws it away after an error.
pub(super) fn hand_on(
    path: &Path,
    file: &LtxFile,
    control: &Control,
    write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let from = match disk::open_regular(path) {
        Err(error) if error.is_missing() => return Err(journal::Error::Gone { path: path.to_owned() }.into()),
        opened => opened?.take(file.size),
    };
    let mut handing = Handing { from, control, write, failed: None };
    let read = journal::read_whole(BufReader::with_capacity(PIECE, &mut handing), file, path);
    match handing.failed.take() {
        Some(error) => Err(error),
        None => Ok(read?),
    }
}

/// Hands on what is read from it. What goes wrong with that is kept: it is no damage here.
struct Handing<'a, R> {
    from: R,
    control: &'a Control,
    write: &'a mut dyn FnMut(&[u8]) -> Result<(), Error>,
    failed: Option<Error>,
}

impl<R: Read> Read for Handing<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(into)?;
        let stopped = self.control.check().map_err(Error::from);
        match stopped.and_then(|()| (self.write)(&into[..length])) {
            Ok(()) => Ok(length),
            Err(error) => {
                self.failed = Some(error);
                Err(io::Error::other("it can't be handed on"))
            }
        }
    }
}
