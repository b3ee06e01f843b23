//! Pages of a pinned snapshot into a file: bit for bit through `sqlite_dbpage` (sqlite.org/dbpage.html), hashed and
//! written by a second thread through a few bounded buffers [P11].

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::{Control, Error, Progress, situation};
use crate::backup::{DatabaseName, hex};
use crate::disk::{self, Context, Partial};

/// Bytes that pass from reader to writer at once.
const BUFFER: usize = 1 << 20;
/// Buffers in flight.
const BUFFERS: usize = 4;
/// The largest page that SQLite knows.
const MAX_PAGE: usize = 65536;
/// Bytes after which the kernel is asked to begin writing back, so that the final fsync has little left to do.
const WRITE_BACK: u64 = 16 << 20;

/// What was written.
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
    let (full, to_write) = sync_channel(BUFFERS);
    let (free, to_fill) = channel();
    for _ in 0..BUFFERS {
        // Both ends are at hand.
        let _ = free.send(Vec::with_capacity(BUFFER + MAX_PAGE));
    }
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || write(target, &to_write, &free));
        let read = Reader { name, share, control }.read(reader, &to_fill, &full);
        drop(full);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // When the writer failed the reader only noticed that nobody listens: the writer knows why.
        let written = written?;
        read?;
        Ok(written)
    })
}

struct Reader<'a> {
    name: &'a DatabaseName,
    share: Share,
    control: &'a Control,
}

impl Reader<'_> {
    fn read(&self, reader: &Connection, free: &Receiver<Vec<u8>>, full: &SyncSender<Vec<u8>>) -> Result<(), Error> {
        let failed = |error| situation(self.name, error);
        let mut statement = reader.prepare("SELECT data FROM sqlite_dbpage").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let (mut done, mut buffer) = (0, Vec::new());
        while let Some(row) = rows.next().map_err(failed)? {
            let data = row.get_ref(0).map_err(failed)?;
            let page = data.as_blob().map_err(|error| failed(error.into()))?;
            if buffer.capacity() == 0 {
                let Ok(next) = free.recv() else { return Ok(()) };
                buffer = next;
            }
            buffer.extend_from_slice(page);
            done += page.len() as u64;
            if buffer.len() >= BUFFER {
                if full.send(std::mem::take(&mut buffer)).is_err() {
                    return Ok(());
                }
                self.pause(done)?;
            }
        }
        if !buffer.is_empty() {
            let _ = full.send(buffer);
        }
        self.pause(done)
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

fn write(target: &Partial, full: &Receiver<Vec<u8>>, free: &Sender<Vec<u8>>) -> Result<Written, disk::Error> {
    let mut file = target.file();
    let (mut hash, mut size, mut begun) = (Sha256::new(), 0, 0);
    while let Ok(mut buffer) = full.recv() {
        file.write_all(&buffer).to("write", target.path())?;
        hash.update(&buffer);
        size += buffer.len() as u64;
        if size - begun >= WRITE_BACK {
            begin_write_back(file, begun, size - begun);
            begun = size;
        }
        buffer.clear();
        // The reader may have ended.
        let _ = free.send(buffer);
    }
    Ok(Written { size, checksum: hex(&hash.finalize()) })
}

/// Starts the disk early; only a hint, the fsync that follows is what counts.
fn begin_write_back(file: &File, from: u64, len: u64) {
    let _ = (file, from, len);
}

/// Reads a file back from its first to its last byte.
pub fn read_back(file: &File, path: &std::path::Path, control: &Control) -> Result<Written, Error> {
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
    loop {
        control.check()?;
        match file.read_at(&mut buffer, size).to("read back", path)? {
            0 => return Ok(Written { size, checksum: hex(&hash.finalize()) }),
            read => {
                hash.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
}
