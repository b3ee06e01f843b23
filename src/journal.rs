//! The journal: what the databases held at each tick, as LTX files that litestream reads too, below
//! `journal/<database>/ltx/<level>/` of the backup directory.
//!
//! - Level 0: what one tick captured. Level 9: whole databases, from the first state to that one. Levels 1 to 3 are made from the level
//!   below and only save time.
//! - The state at an instant is that of the newest file whose time isn't later. A file's time is the mtime, and in its header too.
//! - A file appears by rename, whole and durable, and is never changed.
//! - What each state was as a whole is noted beside them, so that files are found out that are whole, and not those that were written.
//!
//! One process writes (`serve`); anyone may read meanwhile.

mod absence;
pub mod capture;
pub mod chain;
pub mod check;
pub mod folder;
mod gather;
pub mod index;
pub mod ltx;
mod merge;
pub mod name;
pub mod pack;
pub mod packs;
pub mod rebuild;
mod retain;
pub mod states;
pub mod sums;
pub mod tarball;
#[cfg(test)]
mod tests;
pub mod timeline;
pub mod until;
pub mod witness;

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::backup::Moment;
use crate::disk::{self, Context};
use crate::sqlite;

pub use folder::{Journal, Writer};
pub use index::{Index, LtxFile, Point};
pub use name::{FileName, Level, Txid};

/// The folder of all journals in a backup directory.
pub const FOLDER: &str = "journal";

/// Why a journal can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read or written.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// Stopped by whoever asked for it.
    #[error(transparent)]
    Stopped(#[from] sqlite::Error),
    /// A file isn't what was once written.
    #[error(
        "the journal's file {} is damaged ({reason}): what it leads to can't be rebuilt; choose an instant before it, or a \
         backup",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Files that are whole come to something else than was captured.
    #[error(
        "the journal's files in {} don't come to what the database was (state {txid}), though each is whole: one of them isn't the one \
         that was written; choose another instant, or a backup",
        folder.display()
    )]
    Unlike {
        /// The folder of the database.
        folder: PathBuf,
        /// The state.
        txid: Txid,
    },
    /// `timeline.json` is none.
    #[error("{} is damaged ({reason}); `serve` puts it aside and begins a new one, and forgets the gaps in it", path.display())]
    Timeline {
        /// The file.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// Retention removed it after it was looked up, or somebody else did.
    #[error("the journal's file {} is gone; choose the instant again, for older ones may not be kept any more", path.display())]
    Gone {
        /// Which.
        path: PathBuf,
    },
    /// A snapshot doesn't fit.
    #[error("a snapshot of {needed} bytes doesn't fit into {}, where {free} are free; make room there", folder.display())]
    NoRoom {
        /// The folder of the database.
        folder: PathBuf,
        /// Bytes that it may take.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// A file that would lead nowhere.
    #[error("the journal in {} can't take {name} ({reason}); a new snapshot must begin it anew", folder.display())]
    Astray {
        /// The folder of the database.
        folder: PathBuf,
        /// Which.
        name: FileName,
        /// Why not.
        reason: &'static str,
    },
}

impl Error {
    /// The last instant that needs nothing of what this says is wrong with `files`, which lie in `folder` and lead on from each other. What
    /// is damaged is needed from the state on that it leads to; where states come out wrong, all after the last right one.
    pub fn right_before(&self, folder: &Path, files: &[LtxFile]) -> Option<DateTime<Utc>> {
        match self {
            Self::Damaged { path, .. } => {
                let file = files.iter().find(|file| file.name.path(folder) == *path)?;
                just_before(file.millis)
            }
            Self::Unlike { txid, .. } => {
                let at = files.iter().position(|file| file.name.max == *txid)?;
                Point::from(files.get(at.checked_sub(1)?)?).at()
            }
            _ => None,
        }
    }

    /// What the system says of a call on the file at `path`.
    fn io(source: io::Error, action: &'static str, path: &Path) -> Self {
        let Err(error) = Err::<Infallible, _>(source).to(action, path);
        error.into()
    }
}

/// The millisecond before that one.
pub fn just_before(millis: u64) -> Option<DateTime<Utc>> {
    Moment::of_millis(millis.checked_sub(1)?).map(Moment::at)
}

/// A file of the journal, open for reading, whose header says what its name says.
struct Source<R = BufReader<File>> {
    decoder: ltx::Decoder<R>,
    path: PathBuf,
}

impl Source {
    fn open(folder: &Path, file: &LtxFile) -> Result<Self, Error> {
        let path = file.name.path(folder);
        let opened = open(&path)?;
        let reader = BufReader::with_capacity(BUFFER, opened);
        Source::begin(reader, path, (file.name.min, file.name.max, file.millis))
    }
}

impl<R: Read> Source<R> {
    /// What is read says itself, by its first and last txid and its time, that it is what was meant.
    fn begin(reader: R, path: PathBuf, (min, max, millis): (Txid, Txid, u64)) -> Result<Self, Error> {
        let decoder = ltx::Decoder::new(reader).map_err(|error| unreadable(error, &path))?;
        let source = Self { decoder, path };
        let header = source.header();
        if (header.min, header.max, header.millis) != (min, max, millis) {
            return Err(source.damaged("its header isn't that of its name and its time"));
        }
        Ok(source)
    }

    fn header(&self) -> ltx::Header {
        self.decoder.header()
    }

    fn page(&mut self, into: &mut Vec<u8>) -> Result<Option<u32>, Error> {
        self.decoder.page(into).map_err(|error| unreadable(error, &self.path))
    }

    fn finish(self) -> Result<(), Error> {
        self.decoder.finish().map_err(|error| unreadable(error, &self.path))
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), reason }
    }
}

/// Opens a file of the journal. What the disk can't give is damaged.
pub fn open(path: &Path) -> Result<File, Error> {
    match disk::open_regular(path) {
        Err(error) if error.is_missing() => Err(Error::Gone { path: path.to_owned() }),
        Err(error) if error.is_lost() => Err(Error::Damaged { path: path.to_owned(), reason: LOST }),
        opened => Ok(opened?),
    }
}

/// What a file of the journal says of itself at its head.
pub fn header(path: &Path) -> Result<ltx::Header, Error> {
    let decoder = ltx::Decoder::new(BufReader::new(open(path)?)).map_err(|error| unreadable(error, path))?;
    Ok(decoder.header())
}

/// Reads a file of a journal to its end from whatever hands it on, and compares all its checksums.
pub fn read_whole(from: impl Read, file: &LtxFile, path: &Path) -> Result<(), Error> {
    Source::begin(from, path.to_owned(), (file.name.min, file.name.max, file.millis))?.finish()
}

fn unreadable(error: ltx::Error, path: &Path) -> Error {
    match error {
        ltx::Error::Malformed(reason) => Error::Damaged { path: path.to_owned(), reason },
        ltx::Error::Io(source) if disk::is_lost(&source) => Error::Damaged { path: path.to_owned(), reason: LOST },
        ltx::Error::Io(source) => Error::io(source, "read", path),
    }
}

const LOST: &str = "the disk can't read it";
/// Bytes that are read or written at once.
const BUFFER: usize = 32 << 10;
