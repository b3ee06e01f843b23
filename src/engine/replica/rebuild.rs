//! Segments as they come back, and the databases that they make up. A database is led from state to state in one private file, so
//! that backups that stand on each other are rebuilt by reading each segment once. What comes is untrusted: a segment has to be
//! the very one that the catalog there names, of the very states, and counts once all its bytes were compared.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::fetch::Arriving;
use super::send::{Coming, Tick, drain, gone};
use super::site::Link;
use crate::backup::replica::{Chains, Held, HeldDatabase, Origin, ReplicaCatalog, ReplicaEntry, Step};
use crate::backup::{BackupId, DatabaseCopy, DatabaseName, Form};
use crate::codec;
use crate::disk::{self, Context};
use crate::engine::create::OVERHEAD;
use crate::engine::decode::undecodable;
use crate::engine::{Engine, Error};
use crate::journal::ltx::{self, Header};
use crate::journal::rebuild::{Piece, advance};
use crate::journal::{self, Txid};
use crate::remote;
use crate::sqlite::pages::{Content, read_back};
use crate::sqlite::{Control, Progress};

/// Why a segment is no use.
pub(super) enum Unfit {
    /// None of the identities opens it.
    Locked,
    /// It isn't what was written.
    Damaged(String),
}

/// Why a database can't be rebuilt.
pub(super) struct Broken {
    /// By whose segment.
    pub(super) origin: Origin,
    /// What is wrong with it.
    pub(super) unfit: Unfit,
}

impl Engine {
    /// Reads a segment there, by what `take` does with it, and compares every byte.
    fn segment_there<T>(
        &self,
        link: &Link,
        key: &str,
        held: &HeldDatabase,
        tick: Tick<'_>,
        take: impl FnOnce(&mut Noted<'_>, Tick<'_>) -> Result<Result<T, String>, Error>,
    ) -> Result<Result<T, Unfit>, Error> {
        let damaged = |reason: Option<String>| Ok(Err(Unfit::Damaged(reason.unwrap_or_default())));
        let mut coming = match Coming::begin(link, key, &held.object) {
            Err(error @ remote::Error::Absent(_)) => return damaged(gone(link, key, &held.object, error)?),
            coming => link.at(coming)?,
        };
        let taken = match self.config.codec.decode(&mut coming, held.form, None) {
            Ok(decoder) => take(&mut Noted { from: decoder, error: None }, tick)?.map_err(Some),
            Err(codec::Error::Locked) => Err(None),
            Err(error) => Err(Some(error.to_string())),
        };
        // What decodes badly may still be the very bytes that were sent.
        drain(&mut coming, tick)?.ok();
        match coming.error.take() {
            Some(error @ remote::Error::Absent(_)) => return damaged(gone(link, key, &held.object, error)?),
            Some(error) => return Err(link.failed(error)),
            None => {}
        }
        if coming.sum.size != held.object.size || coming.sum.checksum() != held.object.checksum {
            return damaged(Some(format!("{key} holds other bytes than were recorded (SHA-256)")));
        }
        Ok(taken.map_err(|reason| match reason {
            Some(reason) => Unfit::Damaged(undecodable(key, &reason)),
            None => Unfit::Locked,
        }))
    }

    /// Reads back what was just sent, through all its layers. Says what is wrong with it.
    pub(super) fn proven_there(
        &self,
        link: &Link,
        key: &str,
        held: &HeldDatabase,
        header: Header,
        tick: Tick<'_>,
    ) -> Result<Option<String>, Error> {
        let proven = self.segment_there(link, key, held, tick, |from, tick| {
            let read = || -> Result<Result<(), ltx::Error>, Error> {
                let mut page = Vec::new();
                let mut decoder = match ltx::Decoder::new(from) {
                    Ok(decoder) if decoder.header() == header => decoder,
                    Ok(_) => return Ok(Err(ltx::Error::Malformed("its header is another than was sent"))),
                    Err(error) => return Ok(Err(error)),
                };
                loop {
                    tick()?;
                    match decoder.page(&mut page) {
                        Ok(Some(_)) => {}
                        Ok(None) => return Ok(decoder.finish()),
                        Err(error) => return Ok(Err(error)),
                    }
                }
            };
            Ok(read()?.map_err(|error| error.to_string()))
        })?;
        Ok(match proven {
            Ok(()) => None,
            Err(Unfit::Locked) => Some(undecodable(key, "its header was changed")),
            Err(Unfit::Damaged(reason)) => Some(reason),
        })
    }
}

/// What was read, and what went wrong with that: an error of the target is told apart.
struct Noted<'a> {
    from: codec::Decoder<'a>,
    error: Option<String>,
}

impl Read for Noted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.from.read(buffer).inspect_err(|error| self.error = Some(error.to_string()))
    }
}

/// A database in a private file, led from state to state.
pub(super) struct Rebuilder<'a> {
    engine: &'a Engine,
    link: &'a Link,
    chains: &'a Chains<'a>,
    name: DatabaseName,
    file: File,
    path: PathBuf,
    at: Option<(Origin, Header)>,
    /// Segments that are no use, and why.
    broken: BTreeMap<Origin, String>,
}

impl<'a> Rebuilder<'a> {
    /// In a file that is made in that folder.
    pub(super) fn new(
        engine: &'a Engine,
        link: &'a Link,
        chains: &'a Chains<'a>,
        name: &DatabaseName,
        folder: &Path,
    ) -> Result<Self, Error> {
        let path = folder.join(format!("{name}.db"));
        let file = disk::create_private(&path)?;
        Ok(Self { engine, link, chains, name: name.clone(), file, path, at: None, broken: BTreeMap::new() })
    }

    /// The file, and where it lies.
    pub(super) fn file(&self) -> (&File, &Path) {
        (&self.file, &self.path)
    }

    /// Whether a database of that size can lie in the file, before anything of it is fetched.
    pub(super) fn assert_room(&self, size: u64) -> Result<(), Error> {
        let taken = self.file.metadata().to("look at", &self.path)?.len();
        let needed = size.saturating_add(OVERHEAD).saturating_sub(taken);
        let free = disk::free_space(&self.path)?;
        if free < needed { Err(Error::Full { needed, free }) } else { Ok(()) }
    }

    /// The same, for good.
    pub(super) fn into_file(self) -> (File, PathBuf) {
        (self.file, self.path)
    }

    /// Leads it to the state of that backup; from where it is, if that is on the way. The key of each segment that was
    /// read well is told to `read`.
    pub(super) fn reach(
        &mut self,
        (origin, id): (Origin, BackupId),
        control: &Control,
        mut read: impl FnMut(String),
    ) -> Result<Result<(), Broken>, Error> {
        let Some(steps) = self.chains.steps(origin, &self.name) else {
            let unfit = Unfit::Damaged(format!("{} of {id} stands on what isn't there", self.name));
            return Ok(Err(Broken { origin, unfit }));
        };
        if let Some((origin, reason)) = steps.iter().find_map(|step| self.broken.get_key_value(&step.origin)) {
            return Ok(Err(Broken { origin: *origin, unfit: Unfit::Damaged(reason.clone()) }));
        }
        let at = self.at.and_then(|(at, _)| steps.iter().position(|step| step.origin == at));
        if at.is_none() {
            self.at = None;
            self.file.set_len(0).to("set the length of", &self.path)?;
        }
        for step in &steps[at.map_or(0, |at| at + 1)..] {
            // What a failure leaves in the file is no state.
            let before = self.at.take().map(|(_, header)| header);
            match self.step(step, before, control)? {
                Ok(header) => self.at = Some((step.origin, header)),
                Err(unfit) => {
                    if let Unfit::Damaged(reason) = &unfit {
                        self.broken.insert(step.origin, reason.clone());
                    }
                    return Ok(Err(Broken { origin: step.origin, unfit }));
                }
            }
            read(step.key(&self.name));
        }
        Ok(Ok(()))
    }

    fn step(&self, step: &Step<'_>, before: Option<Header>, control: &Control) -> Result<Result<Header, Unfit>, Error> {
        let key = step.key(&self.name);
        let txid = |sequence: u64| Txid::new(sequence).unwrap_or(Txid::FIRST);
        let min = step.base().map_or(Txid::FIRST, |base| txid(base.sequence).next());
        let free = disk::free_space(&self.path)?;
        let taken = before.map_or(0, |it| u64::from(it.pages) * u64::from(it.page_size));
        let piece = Piece {
            called: Path::new(&key),
            txids: (min, txid(step.origin.sequence)),
            millis: step.origin.timestamp.timestamp_millis().unsigned_abs(),
            room: free.saturating_sub(OVERHEAD).saturating_add(taken),
        };
        let target = (&self.file, self.path.as_path());
        let mut tick = || Ok(control.check()?);
        self.engine.segment_there(self.link, &key, step.held, &mut tick, |from, _| {
            match advance(&mut *from, piece, before, target, control) {
                Ok(header) => Ok(Ok(header)),
                Err(journal::Error::Damaged { reason, .. }) => Ok(Err(reason.to_owned())),
                Err(journal::Error::Stopped(error)) => Err(error.into()),
                // Which says nothing of what is there.
                Err(journal::Error::NoRoom { needed, free, .. }) => Err(Error::Full { needed, free }),
                Err(error) => match (from.error.take(), error) {
                    (Some(reason), _) => Ok(Err(reason)),
                    (None, journal::Error::Disk(error)) => Err(error.into()),
                    (None, error) => Err(error.into()),
                },
            }
        })
    }
}

impl Arriving<'_> {
    /// From its segments, in the form in which copies lie here.
    pub(super) fn rebuilt(
        &self,
        engine: &Engine,
        there: &ReplicaCatalog,
        folder: &Path,
        copy: &DatabaseCopy,
    ) -> Result<(File, PathBuf, DatabaseCopy), Error> {
        let (chains, id, name, control) = (there.chains(), self.held.id, self.name, self.control);
        self.control.tell(Progress { database: name, done: self.before, total: self.held.size() });
        let mut rebuilder = Rebuilder::new(engine, self.link, &chains, name, folder)?;
        match rebuilder.reach((self.held.origin, id), control, |_| ())? {
            Ok(()) => {}
            Err(Broken { unfit: Unfit::Damaged(reason), .. }) => {
                return Err(self.link.damaged(format!("{id}: {reason}")));
            }
            Err(Broken { unfit: Unfit::Locked, .. }) => {
                return Err(Error::ReplicaNeedsIdentity { at: self.link.label(), id });
            }
        }
        let (file, path) = rebuilder.into_file();
        file.sync_all().to("sync", &path)?;
        let content = read_back(&file, &path, control)?;
        if content.size() != copy.size || content.checksum != copy.checksum {
            return Err(self
                .link
                .damaged(format!("{id}: the segments of {name} lead to another database than was sent")));
        }
        let form = engine.config.codec.form();
        let stored = |content: &Content, recipients| DatabaseCopy {
            form,
            stored_size: content.size(),
            stored_checksum: content.checksum.clone(),
            stored_xxh3: Some(content.fingerprint.xxh3()),
            recipients,
            ..copy.clone()
        };
        if form == Form::Plain {
            let copy = stored(&content, Vec::new());
            return Ok((file, path, copy));
        }
        let target = folder.join(format!("{name}.{}", form.ending()));
        let encoded = disk::create_private(&target)?;
        let as_stored = engine.encode_into(name, (&file, &path), &content, (&encoded, &target), control)?;
        disk::remove(&path)?;
        let copy = stored(&as_stored.content, as_stored.recipients);
        Ok((encoded, target, copy))
    }
}

/// What lies there whole comes as it is; what is rebuilt takes its plain size, and as much again where it is encoded then.
pub(super) fn room_for(held: &Held, entry: &ReplicaEntry) -> u64 {
    let of = |(name, it): (&DatabaseName, &HeldDatabase)| match (it.ltx, entry.backup.databases.get(name)) {
        (Some(_), Some(copy)) => copy.size.saturating_mul(2),
        _ => it.object.size,
    };
    held.databases.iter().map(of).fold(OVERHEAD, u64::saturating_add)
}
