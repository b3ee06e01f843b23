//! LTX, version 3: one file with the pages that lead a database from one state to a later one, as litestream 0.5 reads and
//! writes it (github.com/superfly/ltx). Integers are big-endian.
//!
//! - Header, 100 bytes: `LTX1`, flags, page size, pages of the database after it, first and last txid, milliseconds since 1970;
//!   the rest tells of a WAL and is zero here.
//! - Per page, in ascending order: number, flags (1), length of the LZ4 block, the LZ4 block. Then six zeros.
//! - Index: per page its number, where it lies and how long it is, as uvarints; a zero; the index's length.
//! - Checksum of the database after it, zero here; checksum of the file (CRC-64/GO-ISO with the top bit set) over header, heads of
//!   pages, *uncompressed* pages, index and the checksum before.
//!
//! Flag 2 says that no checksums of the database are kept. litestream 0.5.17 restores no other files: it refuses to
//! put checksums into what it merges, "post-apply checksum not allowed".
//!
//! The page that holds SQLite's lock byte is in no file. A file from txid 1 on is a snapshot: it has every other page.

mod decoder;
mod encoder;
#[cfg(test)]
mod tests;

use std::io;

use crc_fast::{CrcAlgorithm, Digest};

use super::name::Txid;
use crate::sqlite::page_set::lock_page;

pub use decoder::Decoder;
pub use encoder::Encoder;

const MAGIC: [u8; 4] = *b"LTX1";
/// "No checksums of the database".
const UNTRACKED: u32 = 2;
const HEADER: usize = 100;
/// Number, flags and length before each page.
const FRAME: usize = 10;
/// Number and flags of no page.
const END: [u8; 6] = [0; 6];
/// The flag of a page whose length is told.
const SIZED: u16 = 1;

/// Why a file can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It isn't what the format says.
    #[error("{0}")]
    Malformed(&'static str),
}

/// What a file says of itself at its head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes a page.
    pub page_size: u32,
    /// Pages of the database after it.
    pub pages: u32,
    /// The first state that it leads to.
    pub min: Txid,
    /// The state that it ends with.
    pub max: Txid,
    /// When the database was in that state: milliseconds since 1970.
    pub millis: u64,
}

impl Header {
    /// It has the whole database.
    pub fn is_snapshot(&self) -> bool {
        self.min == Txid::FIRST
    }

    /// The page that is in no file.
    pub fn lock_page(&self) -> u32 {
        lock_page(self.page_size)
    }

    /// The page after `page`, the lock page apart.
    pub fn after(&self, page: u32) -> u32 {
        let next = page.saturating_add(1);
        if next == self.lock_page() { next + 1 } else { next }
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&UNTRACKED.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.pages.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.min.get().to_be_bytes());
        bytes[24..32].copy_from_slice(&self.max.get().to_be_bytes());
        bytes[32..40].copy_from_slice(&self.millis.to_be_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8; HEADER]) -> Result<Self, Error> {
        if bytes[..4] != MAGIC {
            return Err(Error::Malformed("it is no LTX file"));
        }
        if u32_at(bytes, 4) != UNTRACKED {
            return Err(Error::Malformed("its flags are none that this program knows"));
        }
        if u64_at(bytes, 40) != 0 {
            return Err(Error::Malformed("it has a checksum of a database where none is kept"));
        }
        let txid = |at| Txid::new(u64_at(bytes, at)).ok_or(Error::Malformed("a txid is 0"));
        let header = Self {
            page_size: u32_at(bytes, 8),
            pages: u32_at(bytes, 12),
            min: txid(16)?,
            max: txid(24)?,
            millis: u64_at(bytes, 32),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), Error> {
        let fault = if !(self.page_size.is_power_of_two() && (512..=65536).contains(&self.page_size)) {
            "its page size is none of SQLite's"
        } else if self.pages == 0 {
            "it leads to a database without pages"
        } else if self.min > self.max {
            "its first txid is after its last"
        } else if i64::try_from(self.millis).is_err() {
            "its time is none"
        } else {
            return Ok(());
        };
        Err(Error::Malformed(fault))
    }
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Which pages may follow which.
struct Order {
    header: Header,
    last: u32,
}

impl Order {
    fn new(header: Header) -> Self {
        Self { header, last: 0 }
    }

    fn take(&mut self, number: u32) -> Result<(), Error> {
        let fault = if number <= self.last {
            "its pages aren't in order"
        } else if number > self.header.pages {
            "it has a page beyond the database's end"
        } else if number == self.header.lock_page() {
            "it has SQLite's lock page"
        } else if self.header.is_snapshot() && number != self.header.after(self.last) {
            "it is a snapshot that lacks pages"
        } else {
            self.last = number;
            return Ok(());
        };
        Err(Error::Malformed(fault))
    }

    fn end(&self) -> Result<(), Error> {
        if self.header.is_snapshot() && self.header.after(self.last) <= self.header.pages {
            return Err(Error::Malformed("it is a snapshot that lacks pages"));
        }
        Ok(())
    }
}

/// The checksum of a file.
struct FileSum(Digest);

impl FileSum {
    fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64GoIso))
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn value(&self) -> u64 {
        1 << 63 | self.0.finalize()
    }
}

/// Appends a number, seven bits a byte, the lowest first; the top bit says that more follow.
fn push_uvarint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

/// Takes one from the front.
fn take_uvarint(from: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
        if shift > 63 {
            return None;
        }
    }
}
