//! A place elsewhere that keeps objects: a folder, S3, WebDAV, Google Drive or Dropbox, by OpenDAL, as calls that block.
//! Called from threads of our own only, never from one that answers requests.
//!
//! What may be relied on:
//! - Every call ends: each piece of a body and each answer is waited for no longer than the timeout, what may pass is tried
//!   four times within seconds, and whoever calls decides when to try again.
//! - "Not there" is only said when the store said so itself. Everything else that went wrong is an error.
//! - Bodies stream: a chunk or two are in memory, whatever the size. Where a store takes bodies only as a whole, they go in parts.
//! - No secret is in any error, whatever a store or a library says.

mod absence;
mod download;
mod error;
mod folder;
mod listing;
mod pace;
mod place;
mod service;
#[cfg(test)]
mod tests;
mod upload;
mod wire;

use std::future::Future;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use futures_util::TryStreamExt;
use futures_util::future::{Either, select};
use opendal::Operator;
use tokio::runtime::{Builder, Runtime};

pub use download::Download;
pub use error::Error;
pub use pace::Pace;
pub use place::{Credentials, Place};
pub use upload::{Upload, Written};

use listing::{Found, MOST_LISTED, is_surely_empty, swept, walked};
use pace::Line;
use place::Kind;
use wire::{Call, Cancel, Client, Verdict};

/// An object, as a listing names it. The key is whatever the store says, and may be anything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listed {
    /// Below the place's root.
    pub key: String,
    /// In bytes.
    pub size: u64,
}

/// All that lies in a folder, and below it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// In the order of their keys.
    pub objects: Vec<Listed>,
    /// Each with a `/` at its end, where folders stay when nothing is left in them. What lies in another comes after it.
    pub folders: Vec<String>,
}

/// A place elsewhere, ready to be used. Clones share the connections and the bandwidth.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
    cancel: Option<Cancel>,
}

struct Shared {
    place: Place,
    pace: Pace,
    line: Arc<Line>,
    client: Option<Client>,
    /// Holds the access token, where there is one.
    service: Mutex<Option<Operator>>,
}

/// All remotes' transfers; the threads that call do the work themselves.
static RUNTIME: LazyLock<std::io::Result<Runtime>> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).thread_name("remote").enable_all().build());

/// A key of the numbered parts that an object lies in where a store can't stream: `cat` of them all is the object.
pub fn part_key(key: &str, number: u32) -> String {
    format!("{key}.{number:05}")
}

impl Remote {
    /// Makes ready; nothing is asked of the store yet.
    pub fn open(place: &Place, pace: &Pace) -> Result<Remote, Error> {
        let client = match place.kind {
            Kind::Folder { .. } => None,
            _ => Some(Client::new(place, pace.timeout).map_err(Error::Refused)?),
        };
        Ok(Self::with(place, pace, client))
    }

    fn with(place: &Place, pace: &Pace, client: Option<Client>) -> Self {
        let line = Arc::new(Line::new(pace.bandwidth));
        let (place, pace) = (place.clone(), pace.clone());
        Self { shared: Arc::new(Shared { place, pace, line, client, service: Mutex::new(None) }), cancel: None }
    }

    /// The same place, whose transfers end soon after `cancelled` says so.
    pub fn cancelled_by(mut self, cancelled: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.cancel = Some(Arc::new(cancelled));
        self
    }

    /// Writes a small object, in place of what was under the key.
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        plain(key)?;
        if let Kind::Folder { .. } = self.shared.place.kind {
            let mut upload = self.upload(key)?;
            std::io::Write::write_all(&mut upload, bytes).map_err(in_error)?;
            return upload.finish().map(drop);
        }
        let body = opendal::Buffer::from(bytes.to_vec());
        self.attempt(|operator, _| {
            let body = body.clone();
            async move { operator.write(key, body).await.map(drop) }
        })
        .map_err(|fault| self.understood(key, fault))
    }

    /// Reads a small object. `None` only when the store says itself that it has none of that name.
    pub fn get(&self, key: &str, at_most: u64) -> Result<Option<Vec<u8>>, Error> {
        plain(key)?;
        let read = self.attempt(|operator, _| async move {
            let mut stream = operator.reader(key).await?.into_stream(..).await?;
            let mut bytes = Vec::new();
            while let Some(piece) = stream.try_next().await? {
                if (bytes.len() + piece.len()) as u64 > at_most {
                    return Ok(None);
                }
                piece.for_each(|piece| bytes.extend_from_slice(&piece));
            }
            Ok(Some(bytes))
        });
        match read {
            Ok(Some(bytes)) => Ok(Some(bytes)),
            Ok(None) => Err(Error::Broken(format!(
                "{key} in {} is larger than the {at_most} bytes that it may have; it is none of ours, or damaged",
                error::named(&self.shared.place)
            ))),
            Err(fault) if self.is_surely_absent(&fault)? => Ok(None),
            Err(fault) => Err(self.understood(key, fault)),
        }
    }

    /// Begins an object; it counts once it is finished.
    pub fn upload(&self, key: &str) -> Result<Upload, Error> {
        plain(key)?;
        Upload::begin(self, key)
    }

    /// Opens an object, or the parts that [`Upload::finish`] told of.
    pub fn download(&self, key: &str, parts: u32) -> Result<Download, Error> {
        plain(key)?;
        Download::begin(self, key, parts)
    }

    /// All objects in the folder `prefix` and below; of the whole place for an empty one.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        self.contents(prefix).map(|contents| contents.objects)
    }

    /// The same, and the folders.
    pub fn contents(&self, prefix: &str) -> Result<Contents, Error> {
        if !prefix.is_empty() {
            plain(prefix.strip_suffix('/').unwrap_or(prefix))?;
        }
        let folder = if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
        let one_by_one = matches!(self.shared.place.kind, Kind::Dropbox { .. } | Kind::Webdav { .. });
        let found = self.attempt(|operator, call| {
            let folder = folder.clone();
            async move {
                if one_by_one { walked(&operator, &call, folder).await } else { swept(&operator, &call, folder).await }
            }
        });
        let Some(Found { mut contents, absent }) = found.map_err(|fault| self.understood(prefix, fault))? else {
            return Err(Error::Broken(format!(
                "{} holds more than {MOST_LISTED} objects; give the backups a place of their own",
                error::named(&self.shared.place)
            )));
        };
        for (folder, verdict) in absent {
            self.believe_no_folder(&folder, verdict)?;
        }
        if !self.leaves_folders() {
            contents.folders.clear();
        }
        contents.objects.sort();
        contents.folders.sort();
        Ok(contents)
    }

    /// Removes an object and nothing else; one that isn't there is fine. In a folder, here or mounted here, also what it lay in when
    /// nothing else is in it.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        plain(key)?;
        if let Kind::Folder { root } = &self.shared.place.kind {
            let (root, key) = (root.clone(), key.to_owned());
            return self.on_disk(move || folder::remove(&root, &key));
        }
        let removed = self.attempt(|operator, call| async move {
            operator.delete(key).await?;
            Ok(call.verdict())
        });
        self.believe(key, removed.map_err(|fault| self.understood(key, fault))?)
    }

    /// Removes a folder, a key with a `/` at its end, if nothing is in it. These stores remove a folder with all that is in it by
    /// then, so this is for those alone in which nobody writes any more.
    pub fn remove_folder(&self, folder: &str) -> Result<(), Error> {
        plain(folder.strip_suffix('/').unwrap_or_default())?;
        if !self.leaves_folders() {
            return Ok(());
        }
        // Dropbox tells of what is in a folder, and never of the folder.
        let is_named = !matches!(self.shared.place.kind, Kind::Dropbox { .. });
        let removed = self.attempt(|operator, call| async move {
            if is_surely_empty(&operator, &call, folder, is_named).await? {
                operator.delete(folder).await?;
            }
            Ok(())
        });
        removed.map_err(|fault| self.understood(folder, fault))
    }

    /// Whether folders stay there when nothing is left in them.
    fn leaves_folders(&self) -> bool {
        !matches!(self.shared.place.kind, Kind::Folder { .. } | Kind::S3 { .. })
    }
}

/// A key is a path of names that lead downwards, and nothing that a store could take for something else.
fn plain(key: &str) -> Result<(), Error> {
    let is_plain =
        |name: &str| !matches!(name, "" | "." | "..") && !name.contains(|c: char| c.is_control() || c == '\\');
    if key.split('/').all(is_plain) { Ok(()) } else { Err(Error::Broken(format!("{key:?} is no object's name"))) }
}

/// Why a call gave nothing.
enum Fault {
    /// OpenDAL's error, and the last that was seen of the store.
    Of(Box<opendal::Error>, Option<Verdict>),
    Known(Error),
}

impl Remote {
    fn call(&self) -> Arc<Call> {
        Arc::new(Call::new(self.shared.pace.timeout, Arc::clone(&self.shared.line), self.cancel.clone()))
    }

    /// OpenDAL's operator for one call.
    fn operator(&self, call: &Arc<Call>) -> Result<Operator, Error> {
        if let Kind::Folder { root } = &self.shared.place.kind {
            let (root, shared) = (root.clone(), Arc::clone(&self.shared));
            return self.on_disk(move || {
                folder::stand(&root)?;
                service::operator(&shared.place, &shared.pace, &shared.line)
            });
        }
        let mut service = self.shared.service.lock().unwrap_or_else(PoisonError::into_inner);
        let operator = match &*service {
            Some(operator) => operator.clone(),
            None => {
                service.insert(service::operator(&self.shared.place, &self.shared.pace, &self.shared.line)?).clone()
            }
        };
        Ok(service::over(operator, &self.shared.place, self.shared.client.as_ref(), call))
    }

    /// Does it, and once more with a new access token when the old one has stopped to count before its time.
    fn attempt<T, F>(&self, mut work: impl FnMut(Operator, Arc<Call>) -> F) -> Result<T, Fault>
    where
        F: Future<Output = opendal::Result<T>>,
    {
        let mut is_renewed = false;
        loop {
            let call = self.call();
            let operator = self.operator(&call).map_err(Fault::Known)?;
            let error = match waited(&call, work(operator, Arc::clone(&call))).map_err(Fault::Known)? {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let verdict = call.verdict();
            let is_stale = matches!(verdict, Some(Verdict::Answered { status: 401, of_token: false, .. }));
            if !is_stale || is_renewed || !matches!(self.shared.place.kind, Kind::Drive { .. } | Kind::Dropbox { .. }) {
                return Err(Fault::Of(Box::new(error), verdict));
            }
            *self.shared.service.lock().unwrap_or_else(PoisonError::into_inner) = None;
            is_renewed = true;
        }
    }

    fn understood(&self, key: &str, fault: Fault) -> Error {
        match fault {
            Fault::Known(error) => error,
            Fault::Of(error, verdict) => error::understood(&self.shared.place, key, &error, verdict.as_ref()),
        }
    }

    /// Waits until the line is free for so many bytes more.
    fn pause(&self, bytes: usize) -> Result<(), Error> {
        let wait = self.shared.line.book(bytes);
        if wait.is_zero() { Ok(()) } else { waited(&self.call(), async move { tokio::time::sleep(wait).await }) }
    }

    /// File calls, waited for like everything else: a mount whose server is gone hangs.
    fn on_disk<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        let call = self.call();
        let timeout = self.shared.pace.timeout;
        let worked = waited(&call, async { tokio::time::timeout(timeout, tokio::task::spawn_blocking(work)).await })?;
        match worked {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Error::Broken(format!("{} could not be used", error::named(&self.shared.place)))),
            Err(_) => Err(Error::Unreachable(format!(
                "{} did not answer within {}; it is tried again later (BACKUP_REPLICA_<NAME>_TIMEOUT is how long to wait)",
                error::named(&self.shared.place),
                humantime::format_duration(timeout)
            ))),
        }
    }
}

/// What an upload's own error was.
fn in_error(error: std::io::Error) -> Error {
    Error::of_io(error).unwrap_or_else(|error| Error::Broken(error.to_string()))
}

/// Waits for it on this thread; dropped when it is cancelled.
fn waited<T>(call: &Call, work: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = RUNTIME.as_ref().map_err(|error| Error::Unreachable(format!("no threads for transfers: {error}")))?;
    if call.is_cancelled() {
        return Err(Error::Cancelled);
    }
    runtime.block_on(async {
        match select(std::pin::pin!(work), std::pin::pin!(call.cancelled())).await {
            Either::Left((done, _)) => Ok(done),
            Either::Right(_) => Err(Error::Cancelled),
        }
    })
}
