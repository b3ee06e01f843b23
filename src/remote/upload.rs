//! An object on its way out, chunk by chunk. What isn't finished is undone as far as that can be.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use opendal::{Buffer, Writer};

use super::error::{self, Error, named};
use super::place::{Kind, Place};
use super::wire::Call;
use super::{RUNTIME, Remote, folder, part_key};
use crate::disk::Partial;

/// What became of an upload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// In bytes, of all parts together.
    pub size: u64,
    /// How many parts it lies in; 0 is one object under the key itself.
    pub parts: u32,
}

/// An object that is being written. It counts once it is finished; dropped before, it is undone.
pub struct Upload {
    remote: Remote,
    key: String,
    size: u64,
    chunk: usize,
    buffer: Vec<u8>,
    to: To,
    failed: Option<Error>,
}

/// How a store takes a long body.
enum To {
    /// A file that has no name yet.
    Folder(Option<Arc<Partial>>),
    /// By chunks of one upload.
    Stream {
        writer: Box<Writer>,
        call: Arc<Call>,
        chunks: u32,
    },
    /// As objects of their own; so many are there.
    Parts(u32),
    Done,
}

const MIB: usize = 1024 * 1024;
/// S3 takes no more chunks than this in one upload.
const MOST_CHUNKS: u32 = 10_000;
/// How long undoing may take.
const TIDYING: Duration = Duration::from_secs(5);
/// How long a chunk may take to notice that it is cancelled; then what was begun can be told to the store.
const NOTICING: Duration = Duration::from_secs(3);

/// Bytes that go at once; where a store can't stream, of a part.
pub(super) fn chunk(place: &Place) -> usize {
    match place.kind {
        Kind::Folder { .. } => MIB,
        Kind::S3 { .. } => 8 * MIB,
        // Drive's simple upload takes 5 MB.
        Kind::Drive { .. } => 4 * MIB,
        Kind::Webdav { .. } | Kind::Dropbox { .. } => 16 * MIB,
    }
}

impl Remote {
    /// Whether an upload of so many bytes, and what an encoding adds to them, leaves what lay under its key as it was when it is dropped.
    /// Parts may be there already, and can only be deleted again.
    pub fn undoes(&self, size: u64) -> bool {
        let place = &self.shared.place;
        matches!(place.kind, Kind::Folder { .. } | Kind::S3 { .. }) || size <= chunk(place) as u64 / 2
    }
}

impl Upload {
    pub(super) fn begin(remote: &Remote, key: &str) -> Result<Self, Error> {
        let place = &remote.shared.place;
        let to = match &place.kind {
            Kind::Folder { root } => {
                let (root, key) = (root.clone(), key.to_owned());
                To::Folder(Some(Arc::new(remote.on_disk(move || folder::begin(&root, &key))?)))
            }
            Kind::S3 { .. } => {
                let call = remote.call();
                let operator = remote.operator(&call)?;
                let writer = super::waited(&call, async { operator.writer(key).await })?;
                let writer = writer.map_err(|error| error::understood(place, key, &error, call.verdict().as_ref()))?;
                To::Stream { writer: Box::new(writer), call, chunks: 0 }
            }
            _ => To::Parts(0),
        };
        let chunk = chunk(place);
        Ok(Self { remote: remote.clone(), key: key.to_owned(), size: 0, chunk, buffer: Vec::new(), to, failed: None })
    }

    /// Sends what is left and gives it its name. What the answer says has been taken by the store; whether it keeps it shows
    /// when it is read back.
    pub fn finish(mut self) -> Result<Written, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self.buffer.is_empty() && !matches!(self.to, To::Parts(0)) {
            self.send()?;
        }
        let parts = match &mut self.to {
            To::Folder(partial) => {
                let partial = partial.take();
                self.remote.on_disk(move || partial.and_then(Arc::into_inner).map_or(Ok(()), folder::publish))?;
                0
            }
            To::Stream { writer, call, chunks } => {
                let closed = patiently(call, writer.close())?;
                let place = &self.remote.shared.place;
                let meta =
                    closed.map_err(|error| error::understood(place, &self.key, &error, call.verdict().as_ref()))?;
                if *chunks > 1 && meta.etag().is_none_or(str::is_empty) {
                    return Err(Error::Broken(format!(
                        "{} does not say that it has put {} together",
                        named(place),
                        self.key
                    )));
                }
                0
            }
            To::Parts(0) => {
                self.remote.put(&self.key, &self.buffer)?;
                0
            }
            To::Parts(parts) => *parts,
            To::Done => 0,
        };
        self.to = To::Done;
        Ok(Written { size: self.size, parts })
    }

    /// Sends the chunk.
    fn send(&mut self) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.buffer);
        match &mut self.to {
            To::Folder(Some(partial)) => {
                self.remote.pause(bytes.len())?;
                let partial = Arc::clone(partial);
                self.remote.on_disk(move || folder::write(&partial, &bytes))
            }
            To::Stream { writer, call, chunks } => {
                let place = &self.remote.shared.place;
                *chunks += 1;
                if *chunks > MOST_CHUNKS {
                    let most = self.chunk as u64 * u64::from(MOST_CHUNKS) / (MIB as u64 * 1024);
                    return Err(Error::Refused(format!(
                        "{} takes no more than {most} GiB in one object",
                        named(place)
                    )));
                }
                let sent = patiently(call, writer.write(Buffer::from(bytes)))?;
                sent.map_err(|error| error::understood(place, &self.key, &error, call.verdict().as_ref()))
            }
            To::Parts(parts) => {
                // It may be there though its answer got lost.
                *parts += 1;
                self.remote.put(&part_key(&self.key, *parts), &bytes)
            }
            To::Folder(None) | To::Done => Ok(()),
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        if self.buffer.len() == self.chunk
            && let Err(error) = self.send()
        {
            self.failed = Some(error.clone());
            return Err(error.into());
        }
        let taken = bytes.len().min(self.chunk - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.size += taken as u64;
        Ok(taken)
    }

    /// Nothing is durable before the end; a chunk goes when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.to, To::Done) {
            // The file without a name goes with its handle.
            To::Folder(_) | To::Done => {}
            To::Stream { mut writer, call, .. } => {
                call.close();
                if let Ok(runtime) = &*RUNTIME {
                    // Chunks that nobody put together cost money and are in no listing.
                    drop(runtime.block_on(async { tokio::time::timeout(TIDYING, writer.abort()).await }));
                }
            }
            To::Parts(parts) => {
                let until = Instant::now() + TIDYING;
                let remote =
                    Remote { cancel: None, ..self.remote.clone() }.cancelled_by(move || Instant::now() >= until);
                // What stays is listed, and named by no catalog.
                (1..=parts).rev().all(|number| remote.delete(&part_key(&self.key, number)).is_ok());
            }
        }
    }
}

/// Waits for it; when it is cancelled, until that was noticed: what is dropped half done can't be undone.
fn patiently<T>(call: &Call, work: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = RUNTIME.as_ref().map_err(|error| Error::Unreachable(format!("no threads for transfers: {error}")))?;
    runtime.block_on(async {
        let cancelled = async {
            call.cancelled().await;
            tokio::time::sleep(NOTICING).await;
        };
        match select(std::pin::pin!(work), std::pin::pin!(cancelled)).await {
            Either::Left((done, _)) => Ok(done),
            Either::Right(_) => Err(Error::Cancelled),
        }
    })
}
