//! Bodies of downloads: parts of files and of memory, one after the other, in bounded memory. Files are read on blocking
//! threads, one block ahead of what is being sent, and only as fast as the client takes it. A whole file is compared with
//! its checksum on the way: if it differs, the last block is held back and the connection broken, so that nobody takes a
//! damaged copy for a whole one. The first block is waited for before anything is answered: what is found damaged by then is
//! answered as such. What is decoded on its way is decoded from its start, also for a range: what comes before that
//! is thrown away, a bounded part at each visit to a blocking thread.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::rt::task::{JoinHandle, spawn_blocking};
use actix_web::web::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_128;

use super::OnDrop;
use crate::backup::{hex, xxh3};
use crate::codec;
use crate::engine::{Body, Broken, Handed};

/// Bytes read at once, by one visit to a blocking thread. Two blocks are in memory, and both are read into again.
const BLOCK: usize = 1 << 20;
/// Bytes read, hashed and sent in one go. They stay in the processor's cache meanwhile, and actix copies them into a
/// buffer that it keeps; one of more than 128 KiB it would allocate anew each time.
const PIECE: usize = 64 << 10;

/// A part of a body.
pub enum Part {
    /// From memory.
    Bytes(Bytes),
    /// From a file.
    File(Slice),
}

/// Bytes that are decoded and thrown away by one visit to a blocking thread: whoever goes away meanwhile is noticed soon.
const SKIPPED: u64 = 16 << 20;

/// Some bytes of a copy.
pub struct Slice {
    source: Source,
    left: u64,
    /// Of a whole file: the hash so far, and what it must be at the end.
    expected: Option<(Sum, String)>,
}

/// Where they come from.
enum Source {
    File { file: File, at: u64 },
    Decoded { decoder: codec::Decoder<'static>, skip: u64 },
}

impl Source {
    fn of(body: Body, start: u64) -> Self {
        match body {
            Body::File(file) => Source::File { file, at: start },
            Body::Decoded(decoder) => Source::Decoded { decoder, skip: start },
        }
    }

    fn fill(&mut self, piece: &mut [u8]) -> io::Result<()> {
        match self {
            Source::File { file, at } => {
                file.read_exact_at(piece, *at).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => damaged("the copy has become shorter"),
                    _ => error,
                })?;
                *at += piece.len() as u64;
                Ok(())
            }
            Source::Decoded { decoder, .. } => {
                decoder.read_exact(piece).map_err(|error| match codec::Error::of(error) {
                    codec::Error::Unread(error) => error,
                    error => damaged(&format!("the copy can't be decoded: {error}")),
                })
            }
        }
    }

    /// Goes on towards the first byte that is wanted. Says whether it is there.
    fn advance(&mut self, piece: &mut BytesMut) -> io::Result<bool> {
        let Source::Decoded { skip, .. } = self else { return Ok(true) };
        let mut now = (*skip).min(SKIPPED);
        *skip -= now;
        let there = *skip == 0;
        while now > 0 {
            piece.resize(now.min(PIECE as u64) as usize, 0);
            self.fill(piece)?;
            now -= piece.len() as u64;
        }
        Ok(there)
    }
}

/// What a whole file is known by. SHA-256 would be most of what a download costs; XXH3 notices a damaged copy as well, and
/// is recorded of every copy since it costs next to nothing. (Whoever mistrusts the way compares `Repr-Digest`.)
enum Sum {
    Xxh3(Box<XxHash3_128>),
    Sha256(Box<Sha256>),
}

impl Sum {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Xxh3(sum) => sum.write(bytes),
            Sum::Sha256(sum) => sum.update(bytes),
        }
    }

    /// Hex digits.
    fn finish(self) -> String {
        match self {
            Sum::Xxh3(sum) => xxh3(sum.finish_128()),
            Sum::Sha256(sum) => hex(&sum.finalize()),
        }
    }
}

impl Slice {
    /// All of a copy, which must be what the catalog says of it.
    pub fn whole(it: Handed) -> Self {
        let expected = match it.xxh3() {
            Some(sum) => (Sum::Xxh3(Box::default()), sum.clone()),
            None => (Sum::Sha256(Box::default()), it.checksum().to_owned()),
        };
        let left = it.size();
        Self { source: Source::of(it.body, 0), left, expected: Some(expected) }
    }

    /// `length` bytes from `start` on.
    pub fn range(it: Handed, start: u64, length: u64) -> Self {
        Self { source: Source::of(it.body, start), left: length, expected: None }
    }

    /// The next block, in the memory of one that was sent; an empty one while the first byte is still ahead.
    fn read(&mut self, mut block: BytesMut) -> io::Result<Bytes> {
        if !self.source.advance(&mut block)? {
            return Ok(Bytes::new());
        }
        block.resize(self.left.min(BLOCK as u64) as usize, 0);
        for piece in block.chunks_mut(PIECE) {
            self.source.fill(piece)?;
            self.left -= piece.len() as u64;
            if let Some((sum, _)) = &mut self.expected {
                sum.update(piece);
            }
        }
        if self.left == 0
            && let Some((sum, expected)) = self.expected.take()
            && sum.finish() != expected
        {
            return Err(damaged("the copy holds other bytes than were recorded"));
        }
        Ok(block.freeze())
    }
}

/// Whoever wants to know how a body ended: how many bytes were taken, and why not all of them.
pub type Ended = Box<dyn FnOnce(u64, Option<Broken>) + Send>;

/// The body.
pub struct Stream {
    size: u64,
    sent: u64,
    broken: Option<Broken>,
    /// What is being sent, and how much of it was.
    block: Bytes,
    taken: usize,
    reading: Option<Reading>,
    ended: Option<Ended>,
}

/// The next block.
enum Reading {
    UnderWay(JoinHandle<Read>),
    Done(Read),
}

impl Stream {
    /// A body of these parts, none of them empty, once the first block of the first file is there. If it can't be had, that
    /// is how the body has ended.
    pub async fn begun(parts: Vec<Part>, ended: Ended) -> io::Result<Self> {
        let size = parts.iter().map(Part::size).sum();
        let mut parts = VecDeque::from(parts);
        let block = match parts.pop_front_if(|part| matches!(part, Part::Bytes(_))) {
            Some(Part::Bytes(bytes)) => bytes,
            _ => Bytes::new(),
        };
        let reading = Some(read_ahead(parts, BytesMut::new()));
        let mut body = Self { size, sent: 0, broken: None, block, taken: 0, reading, ended: Some(ended) };
        while let Some(Reading::UnderWay(reading)) = &mut body.reading {
            let (parts, block) = reading.await.map_err(io::Error::other)?;
            let block = block.inspect_err(|error| body.breaks(error))?;
            body.reading = Some(match block.is_empty() && !parts.is_empty() {
                true => read_ahead(parts, block.try_into_mut().unwrap_or_default()),
                false => Reading::Done((parts, Ok(block))),
            });
        }
        Ok(body)
    }

    fn breaks(&mut self, error: &io::Error) {
        tracing::error!(%error, "a download was broken off");
        self.broken = Some(broken(error));
    }

    /// Goes on to the block that was read ahead, and has the one after it read into the memory of the last.
    fn poll_block(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let read = match self.reading.take() {
            None => return Poll::Ready(Ok(())),
            Some(Reading::Done(read)) => read,
            Some(Reading::UnderWay(mut reading)) => match Pin::new(&mut reading).poll(context) {
                Poll::Ready(read) => read.map_err(io::Error::other)?,
                Poll::Pending => {
                    self.reading = Some(Reading::UnderWay(reading));
                    return Poll::Pending;
                }
            },
        };
        let (parts, block) = read;
        let block = block.inspect_err(|error| self.breaks(error))?;
        let sent = std::mem::replace(&mut self.block, block);
        self.taken = 0;
        if !parts.is_empty() {
            self.reading = Some(read_ahead(parts, sent.try_into_mut().unwrap_or_default()));
        }
        Poll::Ready(Ok(()))
    }

    /// The next piece of the block; nothing when all of it was taken.
    fn piece(&mut self) -> Option<Bytes> {
        let piece = self.block.slice(self.taken..self.block.len().min(self.taken + PIECE));
        self.taken += piece.len();
        self.sent += piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
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

/// Whether it tells of the copy, and not of what was in the way of reading it.
pub fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

fn broken(error: &io::Error) -> Broken {
    if is_damage(error) { Broken::Damaged(error.to_string()) } else { Broken::Unread(error.to_string()) }
}

/// What is left to be read, and the block that was.
type Read = (VecDeque<Part>, io::Result<Bytes>);

fn read_ahead(mut parts: VecDeque<Part>, memory: BytesMut) -> Reading {
    Reading::UnderWay(spawn_blocking(move || {
        let block = next(&mut parts, memory);
        (parts, block)
    }))
}

fn next(parts: &mut VecDeque<Part>, memory: BytesMut) -> io::Result<Bytes> {
    match parts.pop_front() {
        None => Ok(Bytes::new()),
        Some(Part::Bytes(bytes)) => Ok(bytes),
        Some(Part::File(mut slice)) => {
            let block = slice.read(memory)?;
            if slice.left > 0 {
                parts.push_front(Part::File(slice));
            }
            Ok(block)
        }
    }
}

impl MessageBody for Stream {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        while self.taken == self.block.len() && self.reading.is_some() {
            ready!(self.poll_block(context))?;
        }
        Poll::Ready(self.piece().map(Ok))
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
