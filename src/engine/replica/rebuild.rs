//! Segments as they come back, and the databases that they make up. A database is led from state to state in one private file, so
//! that backups that stand on each other are rebuilt by reading each segment once. What comes is untrusted: a segment has to be
//! the very one that the catalog there names, of the very states, and counts once all its bytes were compared.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::arriving::Arriving;
use super::passing::{Coming, Tick, drain, gone};
use super::rebuilders::Rebuilders;
use super::site::Link;
use crate::backup::replica::{Chains, Held, HeldDatabase, Origin, ReplicaCatalog, ReplicaEntry, Step};
use crate::backup::{BackupId, DatabaseCopy, DatabaseName, Form};
use crate::codec;
use crate::disk::block::{Block, Direct};
use crate::disk::{self, Context};
use crate::engine::create::OVERHEAD;
use crate::engine::decode::undecodable;
use crate::engine::{Engine, Error};
use crate::journal::ltx::{self, Header};
use crate::journal::rebuild::{Begun, Piece};
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
        if !coming.sum.is_of(&held.object) {
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

/// The same, and what is to be done again and again while it comes: its error ends it, and says nothing of what is read.
struct Ticking<'a, 'b> {
    from: &'a mut Noted<'b>,
    tick: Tick<'a>,
    stopped: Option<Error>,
}

impl Read for Ticking<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (self.tick)() {
            Ok(()) => self.from.read(buffer),
            Err(error) => {
                self.stopped = Some(error);
                Err(io::Error::other("it was to stop"))
            }
        }
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
        let file = disk::create_own(&path)?;
        Ok(Self { engine, link, chains, name: name.clone(), file, path, at: None, broken: BTreeMap::new() })
    }

    /// The file, and where it lies.
    pub(super) fn file(&self) -> (&File, &Path) {
        (&self.file, &self.path)
    }

    /// Whether a database of that size can lie in the file.
    fn assert_room(&self, size: u64) -> Result<(), Error> {
        let taken = self.file.metadata().to("look at", &self.path)?.len();
        let needed = size.saturating_add(OVERHEAD).saturating_sub(taken);
        let free = disk::free_space(&self.path)?;
        if free < needed { Err(Error::Full { needed, free }) } else { Ok(()) }
    }

    /// A copy of its own, while it is led elsewhere.
    pub(super) fn copied(&self, to: &Path, tick: Tick<'_>) -> Result<(File, PathBuf), Error> {
        let size = self.file.metadata().to("look at", &self.path)?.len();
        let (needed, free) = (size.saturating_add(OVERHEAD), disk::free_space(&self.path)?);
        if free < needed {
            return Err(Error::Full { needed, free });
        }
        let file = disk::create_own(to)?;
        let (from, into) = (Direct::cached(&self.file), Direct::cached(&file));
        let (mut block, mut done) = (Block::new(), 0);
        loop {
            tick()?;
            block.fill(&from, done).to("read", &self.path)?;
            if block.is_empty() {
                break;
            }
            into.write(&block).to("write", to)?;
            done += block.bytes().len() as u64;
        }
        drop(into);
        Ok((file, to.to_owned()))
    }

    /// The same, for good.
    pub(super) fn into_file(self) -> (File, PathBuf) {
        (self.file, self.path)
    }

    /// Leads it to the state of that backup, of which its entry says how many bytes it has; from where it is, if that is on the way. The
    /// key of each segment that was read well is told to `read`.
    pub(super) fn reach(
        &mut self,
        (origin, id, size): (Origin, BackupId, u64),
        tick: Tick<'_>,
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
        let steps = &steps[at.map_or(0, |at| at + 1)..];
        // Before anything of it is fetched, and also for what is larger on the way; where that isn't known, once the segment says it.
        if let Some(most) = steps.iter().filter_map(Step::size).max() {
            self.assert_room(most)?;
        }
        for step in steps {
            // What a failure leaves in the file is no state.
            let before = self.at.take().map(|(_, header)| header);
            let size = step.size().or((step.origin == origin).then_some(size));
            match self.step(step, size, before, tick)? {
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

    fn step(
        &self,
        step: &Step<'_>,
        size: Option<u64>,
        before: Option<Header>,
        tick: Tick<'_>,
    ) -> Result<Result<Header, Unfit>, Error> {
        let key = step.key(&self.name);
        let txid = |sequence: u64| Txid::new(sequence).unwrap_or(Txid::FIRST);
        let min = step.base().map_or(Txid::FIRST, |base| txid(base.sequence).next());
        let piece = Piece {
            called: Path::new(&key),
            txids: (min, txid(step.origin.sequence)),
            millis: step.origin.timestamp.timestamp_millis().unsigned_abs(),
            size,
        };
        let target = (&self.file, self.path.as_path());
        self.engine.segment_there(self.link, &key, step.held, tick, |from, tick| {
            let mut ticking = Ticking { from, tick, stopped: None };
            let led = match Begun::new(&mut ticking, piece) {
                Ok(begun) => {
                    if size.is_none() {
                        self.assert_room(begun.size())?;
                    }
                    begun.lead(before, target, &Control::default())
                }
                Err(error) => Err(error),
            };
            let error = match led {
                Ok(header) => return Ok(Ok(header)),
                Err(error) => error,
            };
            match (ticking.stopped.take(), ticking.from.error.take(), error) {
                (Some(error), ..) => Err(error),
                (None, _, journal::Error::Damaged { reason, .. }) => Ok(Err(reason.to_owned())),
                (None, Some(reason), _) => Ok(Err(reason)),
                (None, None, journal::Error::Disk(error)) => Err(error.into()),
                (None, None, error) => Err(error.into()),
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
        along: Option<&mut Rebuilders<'_>>,
        folder: &Path,
        copy: &DatabaseCopy,
    ) -> Result<(File, PathBuf, DatabaseCopy), Error> {
        let (id, name, control) = (self.held.id, self.name, self.control);
        self.control.tell(Progress { database: name, done: self.before, total: self.held.size() });
        let (file, path) = match along {
            None => {
                let chains = there.chains();
                let mut alone = Rebuilder::new(engine, self.link, &chains, name, folder)?;
                self.lead(&mut alone, copy.size)?;
                alone.into_file()
            }
            Some(along) => {
                let rebuilder = along.of(name)?;
                self.lead(rebuilder, copy.size)?;
                rebuilder.copied(&folder.join(format!("{name}.db")), &mut || Ok(control.check()?))?
            }
        };
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
        let encoded = disk::create_own(&target)?;
        let as_stored = engine.encode_into(name, (&file, &path), &content, (&encoded, &target), control)?;
        disk::remove(&path)?;
        let copy = stored(&as_stored.content, as_stored.recipients);
        Ok((encoded, target, copy))
    }

    fn lead(&self, rebuilder: &mut Rebuilder<'_>, size: u64) -> Result<(), Error> {
        let (id, control) = (self.held.id, self.control);
        match rebuilder.reach((self.held.origin, id, size), &mut || Ok(control.check()?), |_| ())? {
            Ok(()) => Ok(()),
            Err(Broken { unfit: Unfit::Damaged(reason), .. }) => Err(self.link.damaged(format!("{id}: {reason}"))),
            Err(Broken { unfit: Unfit::Locked, .. }) => Err(Error::ReplicaNeedsIdentity { at: self.link.label(), id }),
        }
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
