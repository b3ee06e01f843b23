//! Whole files in large blocks past the page cache, where the file system can: what is written reaches the disk at once,
//! what is read back comes from it, and the app's pages stay in memory. Where it can't, the same calls go through the cache.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Bytes of a full block: a multiple of every page size of SQLite.
pub const BLOCK: usize = 1 << 20;
/// What O_DIRECT asks of addresses, offsets and lengths: at most the logical block size of a disk (open(2)).
const ALIGN: usize = 4096;

/// A buffer of [`BLOCK`] bytes at an address that O_DIRECT takes.
pub struct Block {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl Block {
    /// An empty one.
    pub fn new() -> Self {
        let storage = vec![0; BLOCK + ALIGN];
        let start = storage.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { storage, start, len: 0 }
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    /// No page fits in any more.
    pub fn is_full(&self) -> bool {
        self.len == BLOCK
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Keeps no more than the first `len` bytes.
    pub fn truncate(&mut self, len: u64) {
        self.len = usize::try_from(len).map_or(self.len, |len| self.len.min(len));
    }

    /// Appends a page; says whether it fitted.
    #[must_use]
    pub fn push(&mut self, page: &[u8]) -> bool {
        let (from, to) = (self.len, self.len + page.len());
        if to > BLOCK {
            return false;
        }
        self.storage[self.start + from..self.start + to].copy_from_slice(page);
        self.len = to;
        true
    }

    /// Fills it with what `file` holds from `offset` on, up to the end of the file.
    pub fn fill(&mut self, file: &Direct<'_>, offset: u64) -> io::Result<()> {
        // A short read ends inside a disk block, from where only the cache can go on; at the end of the file it finds nothing more.
        self.fill_by(|space, filled| file.read_at(space, offset + filled as u64))
    }

    /// Fills it with what comes next, up to the end.
    pub fn fill_from(&mut self, from: &mut impl Read) -> io::Result<()> {
        self.fill_by(|space, _| from.read(space))
    }

    fn fill_by(&mut self, mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>) -> io::Result<()> {
        self.len = 0;
        while self.len < BLOCK {
            match read(&mut self.storage[self.start + self.len..self.start + BLOCK], self.len) {
                Ok(0) => break,
                Ok(read) => self.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Default for Block {
    fn default() -> Self {
        Self::new()
    }
}

/// A file past the page cache, for as long as this lives and the file system can.
pub struct Direct<'a> {
    file: &'a File,
    /// It may be.
    wanted: bool,
}

impl<'a> Direct<'a> {
    /// Turns the cache off for `file`.
    pub fn new(file: &'a File) -> Self {
        set(file, true);
        Self { file, wanted: true }
    }

    /// Through the cache all the same: what is read again right away.
    pub fn cached(file: &'a File) -> Self {
        Self { file, wanted: false }
    }

    /// Appends a block.
    pub fn write(&self, block: &Block) -> io::Result<()> {
        let mut file = self.file;
        self.write_all(block, |rest, _| file.write(rest))
    }

    /// Writes a block to where it belongs, which is a multiple of [`BLOCK`] from the file's start.
    pub fn write_at(&self, block: &Block, offset: u64) -> io::Result<()> {
        self.write_all(block, |rest, done| self.file.write_at(rest, offset + done as u64))
    }

    fn write_all(&self, block: &Block, mut write: impl FnMut(&[u8], usize) -> io::Result<usize>) -> io::Result<()> {
        if !block.is_full() {
            set(self.file, false);
        }
        let mut done = 0;
        while done < block.len {
            match write(&block.bytes()[done..], done) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                // The file system can't, or a short write left an end that O_DIRECT doesn't take.
                Err(error) if is_refused(&error) && set(self.file, false) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_at(&self, space: &mut [u8], offset: u64) -> io::Result<usize> {
        if !offset.is_multiple_of(ALIGN as u64) {
            set(self.file, false);
        }
        match self.file.read_at(space, offset) {
            Err(error) if is_refused(&error) && set(self.file, false) => self.file.read_at(space, offset),
            read => read,
        }
    }
}

impl Drop for Direct<'_> {
    fn drop(&mut self) {
        if self.wanted {
            set(self.file, false);
        }
    }
}

/// Reads a file from its start, block by block.
pub struct BlockReader<'a> {
    file: Direct<'a>,
    block: Block,
    /// Where the next block begins, and how much of this one was taken.
    next: u64,
    taken: usize,
}

impl<'a> BlockReader<'a> {
    /// At the start.
    pub fn new(file: Direct<'a>) -> Self {
        Self { file, block: Block::new(), next: 0, taken: 0 }
    }
}

impl Read for BlockReader<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.block.bytes().len() {
            self.block.fill(&self.file, self.next)?;
            self.next += self.block.bytes().len() as u64;
            self.taken = 0;
        }
        let mut left = &self.block.bytes()[self.taken..];
        let read = left.read(space)?;
        self.taken += read;
        Ok(read)
    }
}

/// Writes a file from its start, block by block. What fills no block is written when it is finished.
pub struct BlockWriter<'a> {
    file: Direct<'a>,
    block: Block,
}

impl<'a> BlockWriter<'a> {
    /// At the start.
    pub fn new(file: Direct<'a>) -> Self {
        Self { file, block: Block::new() }
    }

    /// Writes the rest.
    pub fn finish(self) -> io::Result<()> {
        if self.block.is_empty() { Ok(()) } else { self.file.write(&self.block) }
    }
}

impl Write for BlockWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.is_full() {
            self.file.write(&self.block)?;
            self.block.clear();
        }
        let fits = bytes.len().min(BLOCK - self.block.bytes().len());
        // It was cut to what fits.
        let _ = self.block.push(&bytes[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

/// Says whether anything changed.
fn set(file: &File, direct: bool) -> bool {
    let Ok(flags) = fcntl_getfl(file) else { return false };
    flags.contains(OFlags::DIRECT) != direct && {
        let mut wanted = flags;
        wanted.set(OFlags::DIRECT, direct);
        fcntl_setfl(file, wanted).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_blocks_reads_back_whatever_its_length() {
        for size in [1, 512, 4096, 5000, BLOCK - 512, BLOCK, BLOCK + 1, 3 * BLOCK + 12_345] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let writer = Direct::new(&file);
            for part in bytes.chunks(BLOCK) {
                let mut block = Block::new();
                assert!(block.push(part));
                writer.write(&block).unwrap();
            }
            drop(writer);
            let (reader, mut block, mut read) = (Direct::new(&file), Block::new(), Vec::new());
            loop {
                block.fill(&reader, read.len() as u64).unwrap();
                if block.is_empty() {
                    break;
                }
                read.extend_from_slice(block.bytes());
            }
            assert_eq!(read, bytes);
        }
    }

    #[test]
    fn what_is_written_in_pieces_reads_back_in_others() {
        for size in [0, 1, 4096, BLOCK, BLOCK + 1, 3 * BLOCK + 12_345] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            let mut writer = BlockWriter::new(Direct::new(&file));
            bytes.chunks(70_001).for_each(|part| writer.write_all(part).unwrap());
            writer.finish().unwrap();
            let mut read = Vec::new();
            BlockReader::new(Direct::new(&file)).read_to_end(&mut read).unwrap();
            assert!(read == bytes, "{size}");
        }
    }

    #[test]
    fn a_block_never_overflows() {
        let mut block = Block::new();
        assert!(block.push(&vec![1; BLOCK]) && block.is_full());
        assert!(!block.push(&[1]));
    }
}
