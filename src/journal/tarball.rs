//! A pack's tar: its files as they lie here, `attendance/ltx/0/<txid>-<txid>.ltx`, each with its time to the millisecond before it (a pax
//! header), so that what GNU tar makes of it is a folder that litestream reads. What the state that a file ends with was as a whole
//! (`states`) stands beside the time as a comment, which other tools pass over; packs of older programs have none.
//!
//! What is read is untrusted: nothing but the very files that the pack's name promises, in their order, with no links, no other
//! paths, and nothing after them.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::index::LtxFile;
use super::ltx;
use super::name::{FileName, Level, Txid};
use super::pack::Span;
use super::sums::Whole;
use crate::backup::DatabaseName;

const BLOCK: usize = 512;
/// What a tar ends with.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The bytes before a file: when it is of, what its state was as a whole where that is known, how it is called, how long it is.
pub fn head(database: &DatabaseName, file: &LtxFile, whole: Option<Whole>) -> Vec<u8> {
    let record = records(file.millis, whole);
    let mut bytes = header("PaxHeader", EntryType::XHeader, record.len() as u64, file.millis).as_bytes().to_vec();
    bytes.extend_from_slice(record.as_bytes());
    bytes.resize(2 * BLOCK, 0);
    let header = header(&path(database, file.name), EntryType::Regular, file.size, file.millis);
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

/// The bytes after a file of that size.
pub fn padding(size: u64) -> &'static [u8] {
    &END[..(BLOCK - (size % BLOCK as u64) as usize) % BLOCK]
}

/// Bytes of the tar of these.
pub fn size(files: &[LtxFile]) -> u64 {
    let one = |file: &LtxFile| 3 * BLOCK as u64 + file.size + padding(file.size).len() as u64;
    files.iter().map(one).sum::<u64>() + END.len() as u64
}

fn path(database: &DatabaseName, name: FileName) -> String {
    format!("{database}/ltx/{name}")
}

fn header(path: &str, kind: EntryType, size: u64, millis: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(millis / 1000);
    // A tar takes names of 100 bytes; ours have 76 at most.
    let named = header.set_path(path);
    debug_assert!(named.is_ok(), "{path}");
    header.set_cksum();
    header
}

/// As pax has them: each its own length, what it is, and the value, with seconds as a decimal fraction.
fn records(millis: u64, whole: Option<Whole>) -> String {
    // Two digits: one has from 13 to 54 bytes.
    let record = |rest: String| format!("{}{rest}", rest.len() + 2);
    let time = record(format!(" mtime={}.{:03}\n", millis / 1000, millis % 1000));
    let told = |it: Whole| record(format!(" comment={} {} {:016x}\n", it.page_size, it.pages, it.total));
    time + &whole.map(told).unwrap_or_default()
}

fn of_records(bytes: &[u8]) -> Option<(u64, Option<Whole>)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (time, rest) = text.split_once('\n')?;
    let (seconds, millis) = time.split_once(" mtime=")?.1.split_once('.')?;
    let millis = seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(millis.parse().ok()?)?;
    let told = || {
        let told = rest.strip_suffix('\n')?.split_once(" comment=")?.1;
        let [page_size, pages, total] = told.split(' ').collect::<Vec<_>>()[..] else { return None };
        let total = u64::from_str_radix(total, 16).ok()?;
        Some(Whole { page_size: page_size.parse().ok()?, pages: pages.parse().ok()?, total })
    };
    let whole = told();
    (records(millis, whole) == text).then_some((millis, whole))
}

/// Reads a pack, file by file; between two of them its bytes are read from itself.
pub struct Unpacker<'a, R> {
    input: R,
    database: &'a DatabaseName,
    span: Span,
    /// The one before.
    before: Option<LtxFile>,
    /// What its state was as a whole, where the pack says so.
    whole: Option<Whole>,
    /// Bytes of the current file that weren't read yet.
    left: u64,
    padding: usize,
}

impl<'a, R: Read> Unpacker<'a, R> {
    /// Of a pack with these files.
    pub fn new(input: R, database: &'a DatabaseName, span: Span) -> Self {
        Self { input, database, span, before: None, whole: None, left: 0, padding: 0 }
    }

    /// The next file; the one before was read to its end. Nothing after the last, and then the pack is whole.
    pub fn next_file(&mut self) -> Result<Option<LtxFile>, ltx::Error> {
        if self.left > 0 {
            return malformed("a file in it wasn't read to its end");
        }
        let mut block = [0; BLOCK];
        self.exact(&mut block[..self.padding])?;
        self.padding = 0;
        self.exact(&mut block)?;
        if block == [0; BLOCK] {
            return self.end().map(|()| None);
        }
        let length = checked(&block, EntryType::XHeader)?.entry_size().unwrap_or(u64::MAX);
        self.exact(&mut block)?;
        let record = usize::try_from(length).ok().and_then(|length| block.get(..length));
        let (millis, whole) = record.and_then(of_records).ok_or(ltx::Error::Malformed("a file in it has no time"))?;
        let Some(name) = self.expected() else { return malformed("it has more files than its name says") };
        self.exact(&mut block)?;
        let header = checked(&block, EntryType::Regular)?;
        let size = header.entry_size()?;
        if *header.path_bytes() != *path(self.database, name).as_bytes() {
            return malformed("a file in it isn't one that its name says");
        }
        let earliest = self.before.map_or(self.span.first, |before| before.millis);
        let is_first = self.before.is_none();
        if millis < earliest || is_first && millis != earliest || millis > self.span.last {
            return malformed("the time of a file in it isn't what its name says");
        }
        let file = LtxFile { name, millis, size };
        (self.before, self.whole, self.left, self.padding) = (Some(file), whole, size, padding(size).len());
        Ok(Some(file))
    }

    /// What the state that the current file ends with was as a whole, where the pack says so.
    pub fn whole(&self) -> Option<Whole> {
        self.whole
    }

    /// What has to follow.
    fn expected(&self) -> Option<FileName> {
        let Span { level, min, max, .. } = self.span;
        match (level, self.before) {
            (Level::CAPTURED, None) => Some(FileName::captured(min)),
            (Level::CAPTURED, Some(before)) if before.name.max < max => {
                Some(FileName::captured(before.name.max.next()))
            }
            (_, None) => Some(self.span.name()),
            _ => None,
        }
    }

    fn end(&mut self) -> Result<(), ltx::Error> {
        let mut block = [0; BLOCK];
        self.exact(&mut block)?;
        let last: Option<(Txid, u64)> = self.before.map(|before| (before.name.max, before.millis));
        if last != Some((self.span.max, self.span.last)) {
            return malformed("it has fewer files than its name says");
        }
        if block != [0; BLOCK] || self.input.read(&mut [0])? > 0 {
            return malformed("something follows its end");
        }
        Ok(())
    }

    fn exact(&mut self, into: &mut [u8]) -> Result<(), ltx::Error> {
        self.input.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ltx::Error::Malformed("it ends too early"),
            _ => error.into(),
        })
    }
}

impl<R: Read> Read for Unpacker<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(into.len(), |left| left.min(into.len()));
        let length = self.input.read(&mut into[..most])?;
        self.left -= length as u64;
        Ok(length)
    }
}

/// A header of that kind, whose checksum is right.
fn checked(block: &[u8; BLOCK], kind: EntryType) -> Result<&Header, ltx::Error> {
    let header = Header::from_byte_slice(block);
    let sum = |at: usize, byte: u8| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(byte) };
    let sum: u32 = block.iter().enumerate().map(|(at, byte)| sum(at, *byte)).sum();
    if header.cksum().ok() != Some(sum) || header.entry_type() != kind {
        return malformed("it is no tar of files of a journal");
    }
    Ok(header)
}

fn malformed<T>(reason: &'static str) -> Result<T, ltx::Error> {
    Err(ltx::Error::Malformed(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(txid: u64, millis: u64, size: u64) -> LtxFile {
        LtxFile { name: FileName::captured(Txid::new(txid).unwrap()), millis, size }
    }

    fn span(files: &[LtxFile]) -> Span {
        let (first, last) = (files.first().unwrap(), files.last().unwrap());
        let (level, min, max) = (first.name.level, first.name.min, last.name.max);
        Span { level, min, max, first: first.millis, last: last.millis }
    }

    /// Of every other state it isn't known.
    fn whole(file: &LtxFile) -> Option<Whole> {
        let total = u64::MAX / file.name.max.get();
        file.name.max.get().is_multiple_of(2).then_some(Whole { page_size: 65536, pages: u32::MAX, total })
    }

    fn packed(files: &[LtxFile]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for it in files {
            bytes.extend(head(&"auth".parse().unwrap(), it, whole(it)));
            bytes.extend(vec![7; it.size as usize]);
            bytes.extend(padding(it.size));
        }
        bytes.extend(END);
        assert_eq!(bytes.len() as u64, size(files));
        bytes
    }

    fn read(bytes: &[u8], span: Span) -> Result<Vec<LtxFile>, String> {
        let name = "auth".parse().unwrap();
        let (mut unpacker, mut found) = (Unpacker::new(bytes, &name, span), Vec::new());
        while let Some(file) = unpacker.next_file().map_err(|error| error.to_string())? {
            if unpacker.whole() != whole(&file) {
                return Err("another whole".to_owned());
            }
            let mut content = Vec::new();
            unpacker.read_to_end(&mut content).unwrap();
            if content != vec![7; file.size as usize] {
                return Err("other bytes".to_owned());
            }
            found.push(file);
        }
        Ok(found)
    }

    const FILES: [(u64, u64, u64); 4] = [
        (5, 1_764_147_600_007, 0),
        (6, 1_764_147_600_007, 511),
        (7, 1_764_147_601_000, 512),
        (8, 1_764_147_999_999, 1300),
    ];

    #[test]
    fn what_was_packed_is_read_and_nothing_else() {
        let files = FILES.map(|(txid, millis, size)| file(txid, millis, size));
        let (bytes, whole) = (packed(&files), span(&files));
        assert_eq!(read(&bytes, whole), Ok(files.to_vec()));
        let less = Span { max: Txid::new(7).unwrap(), ..whole };
        for other in [
            less,
            Span { max: Txid::new(9).unwrap(), ..whole },
            Span { min: Txid::new(4).unwrap(), ..whole },
            Span { first: whole.first - 1, ..whole },
            Span { first: whole.first + 1, ..whole },
            Span { last: whole.last + 1, ..whole },
            Span { last: whole.last - 1, ..whole },
            Span { level: Level::SNAPSHOT, min: Txid::FIRST, ..whole },
        ] {
            assert!(read(&bytes, other).is_err(), "{other:?}");
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], whole).is_err(), "{length}");
        }
        assert!(read(&[&bytes[..], &[0]].concat(), whole).is_err());
        let swapped = packed(&[files[0], files[2], files[1], files[3]]);
        assert!(read(&swapped, whole).is_err());
    }

    #[test]
    fn a_byte_of_a_head_that_is_another_is_noticed() {
        let files = [file(6, 1_764_147_600_007, 600)];
        let (bytes, whole) = (packed(&files), span(&files));
        for at in (0..3 * BLOCK).filter(|at| bytes[*at] != 0) {
            let mut other = bytes.clone();
            other[at] ^= 1;
            let found = read(&other, whole);
            assert!(found.is_err(), "{at}: {found:?}");
        }
    }

    #[test]
    fn gnu_tar_makes_the_folder_of_it_with_its_times() {
        use std::os::unix::fs::MetadataExt;
        let files = FILES.map(|(txid, millis, size)| file(txid, millis, size));
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("pack.tar");
        std::fs::write(&tar, packed(&files)).unwrap();
        let done = std::process::Command::new("tar").arg("xf").arg(&tar).arg("-C").arg(dir.path()).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
        for it in files {
            let meta = it.name.path(&dir.path().join("auth")).metadata().unwrap();
            let millis = meta.mtime() as u64 * 1000 + meta.mtime_nsec() as u64 / 1_000_000;
            assert_eq!((meta.len(), millis), (it.size, it.millis));
        }
    }
}
