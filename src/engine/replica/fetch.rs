//! Coming back: what a replica holds, and backups brought from there into the backup directory. Whatever comes from there is
//! untrusted: paths are printed from parsed ids and names, every byte is compared with what was recorded, and nothing that the
//! catalog here doesn't name yet is left under a final name.
//!
//! What lies there in segments is rebuilt (`rebuild`), and comes in the form in which copies lie here.
//!
//! A directory in which nothing is yet becomes that of the replica's store: its backups keep their order and their ids. In a
//! directory of another store they come in as manual backups, pinned, which push out none of those that are there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::arriving::Arriving;
use super::rebuild::room_for;
use super::rebuilders::Rebuilders;
use super::send::MAX_ENTRY;
use super::site::Site;
use super::verify::Unopened;
use super::{Elsewhere, NotSent, Target, details};
use crate::backup::replica::{ChainsThere, Held, Origin, ReplicaEntry, is_plausible};
use crate::backup::retention::free_id;
use crate::backup::{Backup, BackupId, CAME_FROM, DatabaseCopy, DatabaseName, Form, Tier, Verified, hex};
use crate::catalog::Catalog;
use crate::codec;
use crate::disk::{self, Partial};
use crate::engine::decode::undecodable;
use crate::engine::staging::Staging;
use crate::engine::{Call, Engine, Error, Session, Unrecorded};
use crate::sqlite::Control;

/// What it is called in the audit log.
pub(in crate::engine) const PULL: &str = "pull";
/// Which backup of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// By its id there.
    Id(BackupId),
    /// The newest that can be relied on.
    Latest,
    /// Each that isn't here yet.
    All,
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Which::Latest),
            id => id.parse().map(Which::Id),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Id(id) => id.fmt(f),
            Which::Latest => f.write_str("latest"),
            Which::All => f.write_str("all"),
        }
    }
}

/// What a replica holds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Holding {
    /// Its backups, the newest first.
    pub backups: Vec<Held>,
    /// How far they stand on each other; null where each stands by itself.
    pub chains: Option<ChainsThere>,
}

/// A backup that was brought.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Pulled {
    /// Its id in the replica.
    pub from: BackupId,
    /// Its id here.
    pub id: BackupId,
    /// It was here already.
    #[serde(rename = "wasHere")]
    pub was_here: bool,
}

/// What was brought, and what could not be.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Brought {
    /// As they came.
    pub pulled: Vec<Pulled>,
    /// What is damaged there; the others were brought.
    pub not_pulled: Vec<NotSent>,
}

impl Engine {
    /// What a replica holds. What stands on something damaged is so too.
    pub fn list_replica(&self, from: &Elsewhere, control: &Control) -> Result<Holding, Error> {
        let site = Site::look(&self.target(from)?, control)?;
        let catalog = site.catalog()?;
        let (mut backups, unsound) = (catalog.backups.clone(), catalog.chains().unsound());
        backups.iter_mut().for_each(|held| held.damaged = unsound.contains(&held.origin));
        backups.sort_by_key(|held| std::cmp::Reverse(held.origin));
        Ok(Holding { chains: ChainsThere::of(&backups, &catalog.remnants), backups })
    }

    /// Brings backups from a replica into the backup directory. The directory is held only while each is put in its place.
    pub fn pull(&self, from: &Elsewhere, which: Which, call: &Call) -> Result<Brought, Error> {
        let refused = |error: &Error| self.refused(PULL, call, None, error);
        let target = self.target(from).inspect_err(refused)?;
        let site = Site::look(&target, &call.control).inspect_err(refused)?;
        let mut chosen = chosen(&site, which).inspect_err(refused)?;
        self.adopt(site.catalog()?, call).inspect_err(refused)?;
        let here = self.standing_catalog()?;
        in_order(
            &mut chosen,
            here.is_some_and(|here| site.catalog().is_ok_and(|there| there.store_id == here.store_id)),
        );
        let chains = site.chains();
        let mut along = (which == Which::All).then(|| Rebuilders::new(self, &site.link, &chains));
        let mut brought = Brought::default();
        for held in chosen {
            match self.pull_as_it_is(&target, &site, held, along.as_mut(), call) {
                Ok(Some(pulled)) => brought.pulled.push(pulled),
                Ok(None) if which == Which::All => {}
                Ok(None) => return Err(Error::NotFound(held.id)),
                Err(error) if which == Which::All && is_of_one(&error) => {
                    brought.not_pulled.push(NotSent { id: held.id, reason: error.to_string() });
                }
                Err(Error::ReplicaDamaged { at, reason }) if which == Which::Latest => {
                    let older = site
                        .catalog()?
                        .latest(Some(held.origin))
                        .map(|older| format!("; the one before is {}", older.id));
                    return Err(Error::ReplicaDamaged { at, reason: reason + &older.unwrap_or_default() });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(brought)
    }

    /// What a replica says of a backup, opened. Nothing is believed of it that the catalog there doesn't say too.
    pub(super) fn entry_there(&self, site: &Site, held: &Held) -> Result<Result<ReplicaEntry, Unopened>, Error> {
        let key = held.folder().entry(held.entry.encrypted);
        let damaged = |reason: String| Ok(Err(Unopened::Damaged(reason)));
        let link = &site.link;
        let Some(bytes) = link.at(link.remote.get(&key, MAX_ENTRY))? else { return damaged(format!("{key} is gone")) };
        if hex(&Sha256::digest(&bytes)) != held.entry.object.checksum {
            return damaged(format!("{key} holds other bytes than were recorded (SHA-256)"));
        }
        let form = if held.entry.encrypted { Form::Encrypted } else { Form::Plain };
        let mut plain = Vec::new();
        let decoded = self.config.codec.decode(bytes.as_slice(), form, None);
        match decoded.map(|decoder| decoder.take(MAX_ENTRY).read_to_end(&mut plain)) {
            Ok(Ok(_)) => {}
            Err(codec::Error::Locked) => return Ok(Err(Unopened::Locked)),
            Ok(Err(error)) => return damaged(undecodable(&key, &error.to_string())),
            Err(error) => return damaged(undecodable(&key, &error.to_string())),
        }
        match serde_json::from_slice::<ReplicaEntry>(&plain) {
            Ok(entry) if entry.is_of(held, &site.catalog()?.store_id) => Ok(Ok(entry)),
            Ok(_) => damaged(format!("{key} is of another backup than the catalog there says, or says what can't be")),
            Err(error) => damaged(format!("{key} is no entry: {error}")),
        }
    }

    /// Brings one backup. What was replaced while it was read is no damage: it is read once more as it is now. Nothing if it was dropped.
    fn pull_as_it_is(
        &self,
        target: &Target,
        site: &Site,
        held: &Held,
        along: Option<&mut Rebuilders<'_>>,
        call: &Call,
    ) -> Result<Option<Pulled>, Error> {
        let error = match self.pull_one(site, held, along, call) {
            Err(error @ Error::ReplicaDamaged { .. }) => error,
            done => return done.map(Some),
        };
        let now = Site::look(target, &call.control)?;
        if now.catalog()?.generation == site.catalog()?.generation {
            return Err(error);
        }
        let held = now.backups().iter().find(|it| it.origin == held.origin);
        held.map(|held| self.pull_one(&now, held, None, call)).transpose()
    }

    /// Brings one backup, unless it is here and whole.
    fn pull_one(
        &self,
        site: &Site,
        held: &Held,
        along: Option<&mut Rebuilders<'_>>,
        call: &Call,
    ) -> Result<Pulled, Error> {
        let theirs = &site.catalog()?.store_id;
        let here = self.standing_catalog()?;
        let twins = || {
            here.iter().flat_map(|catalog| catalog.standing().filter(|backup| is_twin(catalog, backup, theirs, held)))
        };
        for twin in twins().filter(|twin| twin.verified.ok) {
            if self.store.is_there(twin)? {
                return Ok(Pulled { from: held.id, id: twin.id, was_here: true });
            }
        }
        let arrived = self.receive(site, held, along, call)?;
        let mut session = self.begin(PULL, call)?;
        let id = session.place_for(held, theirs).inspect_err(|error| session.record_failure(error))?;
        let planned = details([("from", site.link.label().into()), ("theirId", held.id.to_string().into())]);
        session.audited(Some(id.into()), Unrecorded::IsRefused, planned.clone(), |session| {
            session.settle_in(arrived, held, id, theirs)?;
            Ok((Pulled { from: held.id, id, was_here: false }, planned))
        })
    }

    /// Its files in a private folder, each read back and compared. No lock is held: it may take hours.
    fn receive(
        &self,
        site: &Site,
        held: &Held,
        mut along: Option<&mut Rebuilders<'_>>,
        call: &Call,
    ) -> Result<Arrived, Error> {
        let entry = match self.entry_there(site, held)? {
            Ok(entry) => entry,
            Err(Unopened::Damaged(reason)) => return Err(site.link.damaged(format!("{}: {reason}", held.id))),
            Err(Unopened::Locked) => return Err(Error::ReplicaNeedsIdentity { at: site.link.label(), id: held.id }),
        };
        let (needed, free) = (room_for(held, &entry), disk::free_space(self.store.root())?);
        if free < needed {
            return Err(Error::Full { needed, free });
        }
        let folder = Staging::create(self.store.root())?;
        let (mut files, mut before) = (BTreeMap::new(), 0);
        for (name, it) in &held.databases {
            let Some(copy) = entry.backup.databases.get(name) else { continue };
            let recipients = entry.recipients.get(name).cloned().unwrap_or_default();
            let arriving = Arriving { link: &site.link, held, name, it, before, control: &call.control };
            let file = match it.ltx {
                None => arriving.whole(self, folder.path(), copy, recipients)?,
                Some(_) => arriving.rebuilt(self, site.catalog()?, along.as_deref_mut(), folder.path(), copy)?,
            };
            before += it.object.size;
            files.insert(name.clone(), file);
        }
        Ok(Arrived { entry, files, _folder: folder })
    }
}

fn chosen(site: &Site, which: Which) -> Result<Vec<&Held>, Error> {
    let catalog = site.catalog()?;
    Ok(match which {
        Which::Id(id) => vec![catalog.get(&id).ok_or(Error::NotFound(id))?],
        Which::Latest => vec![catalog.latest(None).ok_or_else(|| Error::ReplicaEmpty { at: site.link.label() })?],
        Which::All => catalog.backups.iter().collect(),
    })
}

/// In a directory of the same store each has its place, and the newest is wanted most: it comes first, and the others after it, the
/// newest before the oldest unless they stand on each other. In another the newest comes last, since it is to be the newest there too.
fn in_order(chosen: &mut [&Held], is_same_store: bool) {
    chosen.sort_by_key(|held| held.origin);
    match (is_same_store, chosen.iter().any(|held| held.has_segments())) {
        (true, true) => chosen.rotate_right(1),
        (true, false) => chosen.reverse(),
        (false, _) => {}
    }
}

/// What is wrong with one backup is in no other's way.
fn is_of_one(error: &Error) -> bool {
    matches!(error, Error::ReplicaDamaged { .. } | Error::ReplicaNeedsIdentity { .. })
}

/// The same snapshot, whichever store it came from.
fn is_twin(catalog: &Catalog, backup: &Backup, theirs: &str, held: &Held) -> bool {
    let origin = match backup.extra.get(CAME_FROM) {
        Some(from) => return *from == came_from(theirs, held.origin),
        None => Origin::of(backup),
    };
    catalog.store_id == theirs && origin == held.origin
}

fn came_from(store_id: &str, origin: Origin) -> Value {
    serde_json::json!({ "storeId": store_id, "origin": origin })
}

/// A backup that has come, not under its final names yet.
struct Arrived {
    entry: ReplicaEntry,
    files: BTreeMap<DatabaseName, (File, PathBuf, DatabaseCopy)>,
    /// What is left in it goes with it.
    _folder: Staging,
}

impl Session<'_> {
    /// Whether it takes the place that it had; after a fork of histories the same number may be of another backup here.
    fn is_same_store(&self, held: &Held, theirs: &str) -> bool {
        let is_taken = |backup: &Backup| backup.sequence == held.origin.sequence && Origin::of(backup) != held.origin;
        let is_given = is_plausible(held.origin.sequence, self.catalog.highest_sequence());
        let is_ours = theirs == self.catalog.store_id && is_given;
        is_ours && !self.catalog.backups.iter().any(is_taken)
    }

    fn place_for(&self, held: &Held, theirs: &str) -> Result<BackupId, Error> {
        let wanted = match self.is_same_store(held, theirs) {
            true => held.id,
            false => BackupId::new(Tier::Manual, held.origin.timestamp, held.local_date),
        };
        let names: Vec<_> = held.databases.keys().cloned().collect();
        let known = |id: &BackupId| self.catalog.backups.iter().any(|backup| backup.id == *id);
        Ok(free_id(wanted, |id| known(id) || self.engine.store.has(id, &names)))
    }

    /// Gives the files their names, and the catalog the entry. A broken twin that was here goes with the same write.
    fn settle_in(&mut self, arrived: Arrived, held: &Held, id: BackupId, theirs: &str) -> Result<(), Error> {
        let Arrived { entry, files, _folder } = arrived;
        let is_same_store = self.is_same_store(held, theirs);
        let broken: Vec<BackupId> = self
            .catalog
            .standing()
            .filter(|backup| is_twin(&self.catalog, backup, theirs, held))
            .map(|backup| backup.id)
            .collect();
        let (mut databases, mut partials, mut ciphertext_only) = (BTreeMap::new(), Vec::new(), false);
        for (name, (file, path, copy)) in files {
            ciphertext_only |= !self.engine.opens(&copy);
            partials.push(Partial::made(file, path, self.engine.store.path(&id, &name, copy.form)));
            let copy = DatabaseCopy { file: id.file(&name, copy.form), ..copy };
            databases.insert(name, copy);
        }
        let came = Backup {
            id,
            tier: id.tier(),
            databases,
            pinned: held.pinned,
            flags: held.flags.clone(),
            promoted_from: held.promoted_from,
            verified: Verified { at: self.engine.clock.now(), ok: true, ciphertext_only },
            deleting: false,
            ..entry.backup
        };
        let backup = if is_same_store { came } else { self.adapted(came, held, theirs) };
        broken.iter().for_each(|id| self.catalog.mark_deleting(id));
        self.publish_as_it_is(&backup, partials)?;
        self.finish_deletions();
        Ok(())
    }

    /// Pinned, so that it pushes out none of those that are here.
    fn adapted(&self, came: Backup, held: &Held, theirs: &str) -> Backup {
        let reason = came.reason.unwrap_or_else(|| format!("{} of the store {theirs}", held.id));
        let mut extra = came.extra;
        extra.insert(CAME_FROM.to_owned(), came_from(theirs, held.origin));
        let (sequence, reason) = (self.next_sequence(), crate::backup::reason(&reason).ok());
        Backup { sequence, promoted_from: None, reason, pinned: true, extra, ..came }
    }
}
