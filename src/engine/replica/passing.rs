//! What goes there and what comes from there, summed up while it passes by.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::send::PIECE;
use super::site::Link;
use crate::backup::hex;
use crate::backup::replica::{MAX_PARTS, Object};
use crate::engine::{Error, bytes};
use crate::remote::{self, Download, Upload};

/// Called again and again while something comes; its error ends it.
pub(super) type Tick<'a> = &'a mut dyn FnMut() -> Result<(), Error>;

/// What a store says not to have.
pub(super) fn gone(link: &Link, key: &str, object: &Object, error: remote::Error) -> Result<Option<String>, Error> {
    match link.is_there(key, object)? {
        false => Ok(Some(format!("{key} is gone"))),
        true => Err(link.failed(remote::Error::Unreachable(format!(
            "{error}, and yet it is in the listing; it is tried again later"
        )))),
    }
}

pub(super) fn drain(from: &mut impl Read, tick: Tick<'_>) -> Result<Result<Sum, String>, Error> {
    let (mut sum, mut piece) = (Sum::default(), vec![0; PIECE]);
    loop {
        tick()?;
        match from.read(&mut piece) {
            Ok(0) => return Ok(Ok(sum)),
            Ok(length) => sum.add(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error.to_string())),
        }
    }
}

/// Bytes and SHA-256 of what went by.
#[derive(Default)]
pub(super) struct Sum {
    pub(super) size: u64,
    hash: Sha256,
}

impl Sum {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.hash.update(bytes);
    }

    pub(super) fn checksum(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// Whether it was that object.
    pub(super) fn is_of(&self, object: &Object) -> bool {
        self.size == object.size && self.checksum() == object.checksum
    }
}

/// What is sent, summed up.
pub(super) struct Summed {
    out: Upload,
    sum: Sum,
}

impl Summed {
    pub(super) fn new(out: Upload) -> Self {
        Self { out, sum: Sum::default() }
    }

    /// Gives it its name.
    pub(super) fn finish(self, link: &Link, key: &str) -> Result<Object, Error> {
        let written = link.at(self.out.finish())?;
        if written.parts > MAX_PARTS {
            return Err(link.damaged(format!("{key} would take more than {MAX_PARTS} parts")));
        }
        Ok(Object { size: self.sum.size, checksum: self.sum.checksum(), parts: written.parts })
    }
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.add(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes a second below which nobody waits for an object, once [`GRACE`] is over: a store that drips is as good as none.
const LEAST_RATE: u64 = 512;
/// Time-outs that an object may take besides.
const GRACE: u32 = 10;

/// What comes, summed up, and never more than was recorded. What goes wrong on the way is kept: a decoder would take it for
/// damage.
pub(super) struct Coming {
    from: Download,
    limit: u64,
    begun: Instant,
    patience: Duration,
    pub(super) sum: Sum,
    pub(super) error: Option<remote::Error>,
}

impl Coming {
    pub(super) fn begin(link: &Link, key: &str, object: &Object) -> Result<Self, remote::Error> {
        let from = link.remote.download(key, object.parts)?;
        let patience = link.timeout() * GRACE + Duration::from_secs(object.size / LEAST_RATE);
        let (limit, begun) = (object.size, Instant::now());
        Ok(Self { from, limit, begun, patience, sum: Sum::default(), error: None })
    }

    fn too_slow(&self) -> remote::Error {
        let (came, size) = (bytes(self.sum.size), bytes(self.limit));
        let waited = humantime::format_duration(Duration::from_secs(self.begun.elapsed().as_secs()));
        remote::Error::Unreachable(format!(
            "{came} of {size} came in {waited}, which is too slow; it is tried again later"
        ))
    }
}

impl Read for Coming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.error.is_some() || self.sum.size > self.limit {
            return Err(io::Error::other("it is longer than was recorded, or broke off"));
        }
        let read = match self.begun.elapsed() > self.patience {
            true => Err(self.too_slow().into()),
            false => self.from.read(buffer),
        };
        match read {
            Ok(length) => {
                self.sum.add(&buffer[..length]);
                Ok(length)
            }
            Err(error) => {
                let error = remote::Error::of_io(error)?;
                let text = error.to_string();
                self.error = Some(error);
                Err(io::Error::other(text))
            }
        }
    }
}
