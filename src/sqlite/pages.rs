//! Pages of a pinned snapshot into a file: bit for bit through `sqlite_dbpage` (sqlite.org/dbpage.html). One thread reads,
//! one hashes, one writes; a few blocks go round between them, so that memory doesn't grow with the database [P11].

use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::{Control, Error, Progress, situation};
use crate::backup::{DatabaseName, hex};
use crate::disk::block::{Block, Direct};
use crate::disk::{self, Context, Partial};

/// Blocks in flight.
const BLOCKS: usize = 6;

/// What was written, or read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// SHA-256, 64 hex digits.
    pub checksum: String,
}

/// How far the whole snapshot is.
#[derive(Clone, Copy)]
pub struct Share {
    /// Bytes of the databases before this one.
    pub before: u64,
    /// Bytes of all databases.
    pub total: u64,
}

/// Copies all pages that `reader`'s open transaction sees.
pub fn copy(
    reader: &Connection,
    name: &DatabaseName,
    target: &Partial,
    share: Share,
    control: &Control,
) -> Result<Written, Error> {
    let (free, to_fill) = blocks();
    let (full, to_hash) = channel();
    let (hashed, to_write) = channel();
    std::thread::scope(|scope| {
        let hasher = scope.spawn(move || hash(&to_hash, &hashed));
        let writer = scope.spawn(move || write(target, &to_write, &free));
        let read = Reader { name, share, control }.read(reader, &to_fill, &full);
        drop(full);
        let written = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // When the writer failed the others only noticed that no block comes back: the writer knows why.
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        read?;
        Ok(written)
    })
}

/// Reads a file back from its first to its last byte, from the disk where the file system can.
pub fn read_back(file: &File, path: &Path, control: &Control) -> Result<Written, Error> {
    let (free, to_fill) = blocks();
    let (full, to_hash) = channel();
    std::thread::scope(|scope| {
        let hasher = scope.spawn(move || hash(&to_hash, &free));
        let read = read_blocks(file, path, &to_fill, &full, control);
        drop(full);
        let written = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read.map(|()| written)
    })
}

fn blocks() -> (Sender<Block>, Receiver<Block>) {
    let (free, to_fill) = channel();
    for _ in 0..BLOCKS {
        // Both ends are at hand.
        let _ = free.send(Block::new());
    }
    (free, to_fill)
}

struct Reader<'a> {
    name: &'a DatabaseName,
    share: Share,
    control: &'a Control,
}

impl Reader<'_> {
    /// Ends early and well when no block comes back: whoever kept it has the reason.
    fn read(&self, reader: &Connection, free: &Receiver<Block>, full: &Sender<Block>) -> Result<(), Error> {
        let failed = |error| situation(self.name, error);
        let mut statement = reader.prepare("SELECT data FROM sqlite_dbpage").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let Ok(mut block) = free.recv() else { return Ok(()) };
        let mut done = 0;
        while let Some(row) = rows.next().map_err(failed)? {
            let data = row.get_ref(0).map_err(failed)?;
            let page = data.as_blob().map_err(|error| failed(error.into()))?;
            if !block.push(page) {
                let Ok(next) = self.pass(block, full, free) else { return Ok(()) };
                block = next;
                self.pause(done)?;
                // An empty block takes any page.
                let _ = block.push(page);
            }
            done += page.len() as u64;
        }
        // The hasher may have ended, and has the reason.
        let _ = full.send(block);
        self.pause(done)
    }

    fn pass(&self, block: Block, full: &Sender<Block>, free: &Receiver<Block>) -> Result<Block, ()> {
        full.send(block).map_err(drop)?;
        free.recv().map_err(drop)
    }

    fn pause(&self, done: u64) -> Result<(), Error> {
        self.control.tell(Progress { database: self.name, done: self.share.before + done, total: self.share.total });
        self.control.check()?;
        if self.control.is_late() {
            let limit = super::snapshot::LEAST_PATIENCE;
            return Err(Error::TooSlow { name: self.name.clone(), limit });
        }
        Ok(())
    }
}

fn hash(full: &Receiver<Block>, onward: &Sender<Block>) -> Written {
    let (mut hash, mut size) = (Sha256::new(), 0);
    while let Ok(block) = full.recv() {
        hash.update(block.bytes());
        size += block.bytes().len() as u64;
        if onward.send(block).is_err() {
            break;
        }
    }
    Written { size, checksum: hex(&hash.finalize()) }
}

fn write(target: &Partial, hashed: &Receiver<Block>, free: &Sender<Block>) -> Result<(), disk::Error> {
    let file = Direct::new(target.file());
    while let Ok(mut block) = hashed.recv() {
        file.write(&block).to("write", target.path())?;
        block.clear();
        // The reader may have ended.
        let _ = free.send(block);
    }
    Ok(())
}

fn read_blocks(
    file: &File,
    path: &Path,
    free: &Receiver<Block>,
    full: &Sender<Block>,
    control: &Control,
) -> Result<(), Error> {
    let file = Direct::new(file);
    let mut offset = 0;
    while let Ok(mut block) = free.recv() {
        control.check()?;
        block.fill(&file, offset).to("read back", path)?;
        if block.is_empty() {
            break;
        }
        offset += block.bytes().len() as u64;
        if full.send(block).is_err() {
            break;
        }
    }
    Ok(())
}
