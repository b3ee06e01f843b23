//! Bodies of downloads: parts of files and of memory, one after the other, in bounded memory. Files are read on blocking
//! threads, one block ahead of what is being sent, and only as fast as the client takes it. A whole file is compared with
//! its checksum on the way: if it differs, the last block is held back and the connection broken, so that nobody takes a
//! damaged copy for a whole one.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::rt::task::{JoinHandle, spawn_blocking};
use actix_web::web::Bytes;
use sha2::{Digest, Sha256};

use super::OnDrop;
use crate::backup::hex;
use crate::engine::Broken;

/// Bytes read at once; two blocks are in memory.
const BLOCK: u64 = 256 << 10;

/// A part of a body.
pub enum Part {
    /// From memory.
    Bytes(Bytes),
    /// From a file.
    File(Slice),
}

/// Some bytes of a file.
pub struct Slice {
    file: File,
    at: u64,
    left: u64,
    /// Of a whole file: the hash so far, and what it must be at the end.
    expected: Option<(Sha256, String)>,
}

impl Slice {
    /// All of a file, which has the SHA-256 `checksum` (64 hex digits).
    pub fn whole(file: File, size: u64, checksum: String) -> Self {
        Self { file, at: 0, left: size, expected: Some((Sha256::new(), checksum)) }
    }

    /// `length` bytes from `start` on.
    pub fn range(file: File, start: u64, length: u64) -> Self {
        Self { file, at: start, left: length, expected: None }
    }

    fn read(&mut self) -> io::Result<Bytes> {
        let mut block = vec![0; BLOCK.min(self.left) as usize];
        self.file.read_exact_at(&mut block, self.at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("the copy has become shorter"),
            _ => error,
        })?;
        self.at += block.len() as u64;
        self.left -= block.len() as u64;
        if let Some((hash, expected)) = &mut self.expected {
            hash.update(&block);
            if self.left == 0 && hex(&hash.finalize_reset()) != *expected {
                return Err(damaged("the copy holds other bytes than were recorded (SHA-256)"));
            }
        }
        Ok(block.into())
    }
}

/// Whoever wants to know how a body ended: how many bytes were taken, and why not all of them.
pub type Ended = Box<dyn FnOnce(u64, Option<Broken>) + Send>;

/// The body.
pub struct Stream {
    size: u64,
    sent: u64,
    broken: Option<Broken>,
    reading: Option<JoinHandle<Read>>,
    ended: Option<Ended>,
}

impl Stream {
    /// A body of these parts, none of them empty.
    pub fn new(parts: Vec<Part>, ended: Ended) -> Self {
        let size = parts.iter().map(Part::size).sum();
        Self { size, sent: 0, broken: None, reading: Some(read_ahead(parts.into())), ended: Some(ended) }
    }
}

impl Part {
    fn size(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::File(slice) => slice.left,
        }
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn broken(error: &io::Error) -> Broken {
    match error.kind() {
        io::ErrorKind::InvalidData => Broken::Damaged(error.to_string()),
        _ => Broken::Unread(error.to_string()),
    }
}

/// What is left to be read, and the block that was.
type Read = (VecDeque<Part>, io::Result<Option<Bytes>>);

fn read_ahead(mut parts: VecDeque<Part>) -> JoinHandle<Read> {
    spawn_blocking(move || {
        let block = next(&mut parts);
        (parts, block)
    })
}

fn next(parts: &mut VecDeque<Part>) -> io::Result<Option<Bytes>> {
    match parts.pop_front() {
        None => Ok(None),
        Some(Part::Bytes(bytes)) => Ok(Some(bytes)),
        Some(Part::File(mut slice)) => {
            let block = slice.read()?;
            if slice.left > 0 {
                parts.push_front(Part::File(slice));
            }
            Ok(Some(block))
        }
    }
}

impl MessageBody for Stream {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        let block = match read {
            Ok((parts, Ok(block))) => {
                if block.is_some() && !parts.is_empty() {
                    self.reading = Some(read_ahead(parts));
                }
                block
            }
            Ok((_, Err(error))) => {
                tracing::error!(%error, "a download was broken off");
                self.broken = Some(broken(&error));
                return Poll::Ready(Some(Err(error)));
            }
            Err(error) => return Poll::Ready(Some(Err(io::Error::other(error)))),
        };
        self.sent += block.as_ref().map_or(0, |block| block.len() as u64);
        Poll::Ready(block.map(Ok))
    }
}

/// The body of an answer to HEAD: its size is told, and nothing of it comes.
pub struct Announced(pub u64);

impl MessageBody for Announced {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        Poll::Ready(None)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(ended) = self.ended.take() else { return };
        let (sent, missing) = (self.sent, self.sent < self.size);
        let broken = self.broken.take().or_else(|| missing.then_some(Broken::Aborted));
        let told = OnDrop(Some(move || ended(sent, broken)));
        // It writes to the disk. At the very end of the process there is no thread for that any more: what such a thread
        // is given is dropped, which tells as well.
        match tokio::runtime::Handle::try_current() {
            Ok(_) => drop(spawn_blocking(move || drop(told))),
            Err(_) => drop(told),
        }
    }
}
