//! Pages of a pinned snapshot into a file: bit for bit through `sqlite_dbpage` (sqlite.org/dbpage.html). One thread reads
//! and one writes; a few blocks go round between them, so that memory doesn't grow with the database [P11].
//!
//! What was written is known by a fingerprint (XXH3, 128 bits), which costs next to nothing beside the app. The SHA-256 that
//! the catalog records is of the bytes that were read back from the disk, and counts only if their fingerprint is the same:
//! so each byte is compared [P8], and hashed by SHA-256 once.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::{Control, Error, Progress, situation};
use crate::backup::{DatabaseName, hex, xxh3};
use crate::disk::block::{Block, Direct};
use crate::disk::{self, Context, Partial};

/// Blocks in flight.
const BLOCKS: usize = 6;
/// Between two looks whether whoever holds something of the app's may still wait for our disk.
const LOOK: Duration = Duration::from_millis(50);
/// The same where it takes a moment as a rule.
const SOON: Duration = Duration::from_micros(500);

/// What was written: enough to know it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// Bytes.
    pub size: u64,
    xxh3: u128,
}

impl Fingerprint {
    /// 32 hex digits.
    pub fn xxh3(&self) -> String {
        xxh3(self.xxh3)
    }
}

/// What a file holds, by its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    /// To be compared with that of what was written.
    pub fingerprint: Fingerprint,
    /// SHA-256, 64 hex digits.
    pub checksum: String,
}

impl Content {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.fingerprint.size
    }
}

/// How far the whole snapshot is.
#[derive(Clone, Copy)]
pub struct Share {
    /// Bytes of the databases before this one.
    pub before: u64,
    /// Bytes of all databases.
    pub total: u64,
}

/// A database that is on its way to our disk: what was read of it, and the thread that writes. Whatever the app waits for is let go
/// before that is waited for, since our disk may stand still for as long as it likes.
pub struct Writing<'scope, T> {
    read: Result<(), Error>,
    sink: ScopedJoinHandle<'scope, Result<T, disk::Error>>,
}

impl<T> Writing<'_, T> {
    /// Whether all was read. Nothing more will be.
    pub fn is_read(&self) -> bool {
        self.read.is_ok()
    }

    /// Waits for the disk; once `in_time` says that the app has waited long enough `let_go` is called, and that is the answer.
    pub fn end_in_time(mut self, in_time: impl Fn() -> Result<(), Error>, let_go: impl FnOnce()) -> Result<T, Error> {
        while self.read.is_ok() && !self.sink.is_finished() {
            self.read = in_time();
            std::thread::sleep(SOON);
        }
        if self.read.is_err() {
            let_go();
        }
        self.end()
    }

    /// Waits for the disk.
    pub fn end(self) -> Result<T, Error> {
        match joined(self.sink) {
            // When the sink failed the reader only noticed that no block comes back: the sink knows why.
            Err(error) => Err(error.into()),
            Ok(done) => self.read.map(|()| done),
        }
    }
}

/// Copies all pages that `reader`'s open transaction sees.
pub fn copy<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    reader: &Connection,
    name: &'env DatabaseName,
    target: &'env Partial,
    share: Share,
    control: &'env Control,
) -> Writing<'scope, Fingerprint> {
    // Told by who writes: what listens may write to our disk too.
    let total = share.total;
    let tell = move |done| control.tell(Progress { database: name, done: share.before + done, total });
    stream(scope, reader, name, control, move |full, free| write(target, full, free, tell))
}

/// Passes all pages that `reader`'s open transaction sees to a second thread, in blocks that it gives back when it has done
/// with them.
pub(super) fn stream<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    reader: &Connection,
    name: &DatabaseName,
    control: &Control,
    sink: impl FnOnce(&Receiver<Block>, &Sender<Block>) -> Result<T, disk::Error> + Send + 'scope,
) -> Writing<'scope, T> {
    let (free, to_fill) = blocks();
    let (full, to_write) = channel();
    let sink = scope.spawn(move || sink(&to_write, &free));
    let read = Reader { name, control }.read(reader, &to_fill, &full);
    Writing { read, sink }
}

/// Does on another thread what our disk has to do while the app waits for this one. Once `in_time` says that it has waited long enough
/// `let_go` is called, however long the disk still takes, and that is the answer; but for what the disk itself says.
pub fn beside<T: Send, E: Send>(
    in_time: impl Fn() -> Result<(), E>,
    let_go: impl FnOnce(),
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    std::thread::scope(|scope| {
        let (working, ended) = channel::<()>();
        let work = scope.spawn(move || {
            let _working = working;
            work()
        });
        let waited = awaited(&ended, in_time);
        if waited.is_err() {
            let_go();
        }
        let done = joined(work)?;
        waited.map(|_| done)
    })
}

/// What comes from a thread that our disk may keep, or nothing once that has ended; for as long as `in_time` has no error.
pub fn awaited<T, E>(from: &Receiver<T>, in_time: impl Fn() -> Result<(), E>) -> Result<Option<T>, E> {
    loop {
        let next = from.recv_timeout(LOOK);
        in_time()?;
        match next {
            Ok(next) => return Ok(Some(next)),
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// An error once it was asked to stop, or the time is up.
pub fn in_time(name: &DatabaseName, control: &Control) -> Result<(), Error> {
    control.check()?;
    if control.is_late() {
        return Err(Error::TooSlow { name: name.clone(), limit: control.limit() });
    }
    Ok(())
}

/// Reads a file back from its first to its last byte, from the disk where the file system can.
pub fn read_back(file: &File, path: &Path, control: &Control) -> Result<Content, Error> {
    read_back_through(file, path, control, |_| ())
}

/// The same; all bytes go by `each` too, in blocks with whole pages.
pub fn read_back_through(
    file: &File,
    path: &Path,
    control: &Control,
    each: impl FnMut(&[u8]) + Send,
) -> Result<Content, Error> {
    let (read, content) = hashed(each, |to_fill, full| read_blocks(file, path, to_fill, full, control));
    read.map(|()| content)
}

/// Hashes on another thread what `fill` puts into the blocks that it is given, and passes on; `each` sees it there.
pub fn hashed<T>(
    each: impl FnMut(&[u8]) + Send,
    fill: impl FnOnce(&Receiver<Block>, &Sender<Block>) -> T,
) -> (T, Content) {
    let (free, to_fill) = blocks();
    let (full, to_hash) = channel();
    std::thread::scope(|scope| {
        let hasher = scope.spawn(move || hash(&to_hash, &free, each));
        let filled = fill(&to_fill, &full);
        drop(full);
        (filled, joined(hasher))
    })
}

/// A panic goes on where the thread is waited for.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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
    control: &'a Control,
}

impl Reader<'_> {
    /// Ends early and well when no block comes back: whoever kept it has the reason.
    fn read(&self, reader: &Connection, free: &Receiver<Block>, full: &Sender<Block>) -> Result<(), Error> {
        let failed = |error| situation(self.name, error);
        let mut statement = reader.prepare("SELECT data FROM sqlite_dbpage").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let Ok(mut block) = free.recv() else { return Ok(()) };
        while let Some(row) = rows.next().map_err(failed)? {
            let data = row.get_ref(0).map_err(failed)?;
            let page = data.as_blob().map_err(|error| failed(error.into()))?;
            if !block.push(page) {
                let Some(next) = self.pass(block, full, free)? else { return Ok(()) };
                block = next;
                // An empty block takes any page.
                let _ = block.push(page);
            }
        }
        // The writer may have ended, and has the reason.
        let _ = full.send(block);
        in_time(self.name, self.control)
    }

    fn pass(&self, block: Block, full: &Sender<Block>, free: &Receiver<Block>) -> Result<Option<Block>, Error> {
        if full.send(block).is_err() {
            return Ok(None);
        }
        awaited(free, || in_time(self.name, self.control))
    }
}

fn write(
    target: &Partial,
    full: &Receiver<Block>,
    free: &Sender<Block>,
    tell: impl Fn(u64),
) -> Result<Fingerprint, disk::Error> {
    let file = Direct::new(target.file());
    let mut sum = Sum::default();
    while let Ok(mut block) = full.recv() {
        file.write(&block).to("write", target.path())?;
        sum.add(block.bytes());
        block.clear();
        // The reader may have ended.
        let _ = free.send(block);
        tell(sum.size);
    }
    Ok(sum.fingerprint())
}

fn hash(full: &Receiver<Block>, free: &Sender<Block>, mut each: impl FnMut(&[u8])) -> Content {
    let mut hasher = Hasher::default();
    while let Ok(block) = full.recv() {
        hasher.add(block.bytes());
        each(block.bytes());
        // The reader may have ended.
        let _ = free.send(block);
    }
    hasher.content()
}

/// Hashes what a file holds, piece by piece.
#[derive(Default)]
pub struct Hasher {
    sha256: Sha256,
    sum: Sum,
}

impl Hasher {
    /// The next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.sum.add(bytes);
    }

    /// What all of them are.
    pub fn content(self) -> Content {
        Content { fingerprint: self.sum.fingerprint(), checksum: hex(&self.sha256.finalize()) }
    }
}

/// The fingerprint of what a file holds, piece by piece.
#[derive(Default)]
pub struct Sum {
    size: u64,
    xxh3: twox_hash::XxHash3_128,
}

impl Sum {
    /// The next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.xxh3.write(bytes);
    }

    /// That of all of them.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { size: self.size, xxh3: self.xxh3.finish_128() }
    }
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
