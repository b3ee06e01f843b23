//! Reading one pack from a replica: what comes is compared with its name, and every checksum of every file in it, before any of it
//! counts.

use std::fs::{File, FileTimes};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::backup::DatabaseName;
use crate::backup::replica::{Nonce, Object};
use crate::codec;
use crate::disk::{self, Context};
use crate::engine::create::OVERHEAD;
use crate::engine::replica::passing::{Coming, gone};
use crate::engine::replica::site::Link;
use crate::engine::{Engine, Error};
use crate::journal::pack::Key;
use crate::journal::packs::Pack;
use crate::journal::sums::Whole;
use crate::journal::tarball::Unpacker;
use crate::journal::{FileName, LtxFile, Point, ltx};
use crate::remote;
use crate::sqlite::Control;

/// Bytes that are read at once.
const PIECE: usize = 32 << 10;
/// After so many bytes it is looked whether there is room for more.
const STRIDE: u64 = 8 << 20;

/// A pack that is to be read.
pub(super) struct Packed<'a> {
    pub(super) link: &'a Link,
    pub(super) lineage: Nonce,
    pub(super) database: &'a DatabaseName,
    pub(super) pack: Pack,
    pub(super) control: &'a Control,
}

/// Why a pack isn't taken.
pub(super) enum Bad {
    /// An identity is missing.
    Locked,
    /// It isn't what was sent.
    Damaged(String),
}

impl Packed<'_> {
    pub(super) fn key(&self) -> String {
        let key = Key::pack(self.lineage, self.database, self.pack.span, self.pack.encrypted);
        key.map_or_else(String::new, |key| key.to_string())
    }

    /// Reads it to its end, and tells what its states were as a whole, as far as it says so. Its files are written where `place` says, if
    /// it says so. An error is of the way, or of the disk here, and says nothing of the pack.
    pub(super) fn read(
        &self,
        engine: &Engine,
        place: &dyn Fn(FileName) -> Option<PathBuf>,
    ) -> Result<Result<Vec<(Point, Whole)>, Bad>, Error> {
        let (key, link) = (self.key(), self.link);
        let object = Object { size: self.pack.size, checksum: String::new(), parts: self.pack.parts };
        let is_gone =
            |error| Ok(gone(link, &key, &object, error)?.map_or(Ok(Vec::new()), |reason| Err(Bad::Damaged(reason))));
        let mut coming = match Coming::begin(link, &key, &object) {
            Err(error @ remote::Error::Absent(_)) => return is_gone(error),
            coming => link.at(coming)?,
        };
        let mut written = Written { files: Vec::new(), states: Vec::new(), place, control: self.control };
        let unpacked = self.unpacked(engine, &mut coming, &mut written);
        let bad = match coming.error.take() {
            Some(error @ remote::Error::Absent(_)) => is_gone(error)?.err(),
            Some(error) => return Err(link.failed(error)),
            None => unpacked?.err(),
        };
        match bad {
            None => Ok(Ok(written.states)),
            Some(bad) => {
                // What is left of it counts for nothing.
                written.files.iter().try_for_each(|path| disk::remove(path))?;
                Ok(Err(bad))
            }
        }
    }

    fn unpacked(
        &self,
        engine: &Engine,
        coming: &mut Coming,
        written: &mut Written<'_>,
    ) -> Result<Result<(), Bad>, Error> {
        let (key, form) = (self.key(), crate::backup::Form::of(true, self.pack.encrypted));
        let damaged = |reason: &dyn std::fmt::Display| Ok(Err(Bad::Damaged(format!("{key}: {reason}"))));
        let decoder = match engine.config.codec.decode(coming, form, None) {
            Ok(decoder) => decoder,
            Err(codec::Error::Locked) => return Ok(Err(Bad::Locked)),
            Err(error) => return damaged(&error),
        };
        let input = BufReader::with_capacity(PIECE, decoder);
        let mut unpacker = Unpacker::new(input, self.database, self.pack.span);
        loop {
            let file = match unpacker.next_file() {
                Ok(Some(file)) => file,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return damaged(&error),
            };
            if let Err(error) = written.take(file, &mut unpacker)? {
                return damaged(&error);
            }
            written.states.extend(unpacker.whole().map(|whole| (Point::from(&file), whole)));
        }
    }
}

/// What was written of a pack.
struct Written<'a> {
    files: Vec<PathBuf>,
    states: Vec<(Point, Whole)>,
    place: &'a dyn Fn(FileName) -> Option<PathBuf>,
    control: &'a Control,
}

impl Written<'_> {
    /// One file, which has to be whole, and to say of itself what its name says.
    fn take(&mut self, file: LtxFile, from: &mut impl Read) -> Result<Result<(), ltx::Error>, Error> {
        let path = (self.place)(file.name).filter(|path| path.symlink_metadata().is_err());
        let out = match &path {
            Some(path) => Some((disk::create_private(path)?, path.as_path())),
            None => None,
        };
        self.files.extend(path.clone());
        let mut copying = Copying { from, out, before: STRIDE, control: self.control, failed: None };
        let read = whole(&mut copying, file);
        if let Some(error) = copying.failed.take() {
            return Err(error);
        }
        if let (Ok(()), Some((opened, path))) = (&read, &copying.out) {
            let modified = UNIX_EPOCH + Duration::from_millis(file.millis);
            opened.set_times(FileTimes::new().set_modified(modified)).to("set the time of", path)?;
        }
        Ok(read)
    }
}

fn whole(from: &mut impl Read, file: LtxFile) -> Result<(), ltx::Error> {
    let decoder = ltx::Decoder::new(BufReader::with_capacity(PIECE, from))?;
    let header = decoder.header();
    if (header.min, header.max, header.millis) != (file.name.min, file.name.max, file.millis) {
        return Err(ltx::Error::Malformed("the header of a file in it isn't that of its name and its time"));
    }
    decoder.finish()
}

/// Writes what is read from it, as far as there is room. What goes wrong here is kept: it is no damage of what comes.
struct Copying<'a, R> {
    from: &'a mut R,
    out: Option<(File, &'a Path)>,
    /// Bytes before the next look at the room.
    before: u64,
    control: &'a Control,
    failed: Option<Error>,
}

impl<R: Read> Copying<'_, R> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.control.check()?;
        let Some((file, path)) = &mut self.out else { return Ok(()) };
        self.before = self.before.saturating_sub(bytes.len() as u64);
        if self.before == 0 {
            let (needed, free) = (STRIDE + OVERHEAD, disk::free_space(path)?);
            if free < needed {
                return Err(Error::Full { needed, free });
            }
            self.before = STRIDE;
        }
        Ok(file.write_all(bytes).to("write", path)?)
    }
}

impl<R: Read> Read for Copying<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(into)?;
        match self.write(&into[..length]) {
            Ok(()) => Ok(length),
            Err(error) => {
                self.failed = Some(error);
                Err(io::Error::other("it can't be written here"))
            }
        }
    }
}
