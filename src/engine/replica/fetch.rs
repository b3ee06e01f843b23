//! Coming back: what a replica holds, and backups brought from there into the backup directory. Whatever comes from there is
//! untrusted: paths are printed from parsed ids and names, every byte is compared with what was recorded, and nothing that the
//! catalog here doesn't name yet is left under a final name.
//!
//! An empty directory becomes that of the replica's store: its backups keep their order and their ids. In a directory of another
//! store they come in as manual backups.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use serde::Serialize;
use serde_json::Map;
use sha2::{Digest, Sha256};

use super::send::{Coming, MAX_ENTRY};
use super::site::Site;
use super::verify::Unopened;
use super::{Elsewhere, details};
use crate::backup::replica::{self, Held, HeldDatabase, Origin, ReplicaEntry};
use crate::backup::retention::free_id;
use crate::backup::{Backup, BackupId, DatabaseCopy, DatabaseName, Form, Tier, Verified, hex};
use crate::catalog::Catalog;
use crate::codec;
use crate::disk::block::{BlockWriter, Direct};
use crate::disk::{self, Context, Partial};
use crate::engine::create::OVERHEAD;
use crate::engine::decode::{Coded, Fault, undecodable};
use crate::engine::{Call, Engine, Error, Session, Unrecorded};
use crate::sqlite::pages::read_back;
use crate::sqlite::{Control, Progress};

/// What it is called in the audit log.
pub(in crate::engine) const PULL: &str = "pull";
/// Bytes that are written at once.
const PIECE: usize = 256 << 10;

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

impl Engine {
    /// What a replica holds, the newest first.
    pub fn list_replica(&self, from: &Elsewhere, control: &Control) -> Result<Vec<Held>, Error> {
        let site = Site::look(&self.target(from)?, control)?;
        let mut backups = site.catalog()?.backups.clone();
        backups.sort_by_key(|held| std::cmp::Reverse(held.origin));
        Ok(backups)
    }

    /// Brings backups from a replica into the backup directory, the newest first.
    pub fn pull(&self, from: &Elsewhere, which: Which, call: &Call) -> Result<Vec<Pulled>, Error> {
        let site = Site::look(&self.target(from)?, &call.control)?;
        let catalog = site.catalog()?;
        let mut chosen: Vec<&Held> = match which {
            Which::Id(id) => vec![catalog.get(&id).ok_or(Error::NotFound(id))?],
            Which::Latest => vec![catalog.latest().ok_or_else(|| Error::ReplicaEmpty { at: site.label.clone() })?],
            Which::All => catalog.backups.iter().collect(),
        };
        chosen.sort_by_key(|held| std::cmp::Reverse(held.origin));
        self.adopt(catalog, call)?;
        let mut session = self.begin(PULL, call)?;
        chosen.into_iter().map(|held| session.pull(&site, held)).collect()
    }

    /// A directory in which nothing is yet becomes that of the replica's store.
    fn adopt(&self, there: &replica::ReplicaCatalog, call: &Call) -> Result<(), Error> {
        if self.read_catalog()?.is_some() {
            return Ok(());
        }
        let last = there.backups.iter().map(|held| held.origin.sequence).max().unwrap_or(0);
        let mut adopted = Catalog { last_sequence: last, ..Catalog::empty(there.store_id.clone()) };
        if self.config.store_id.as_ref().is_some_and(|expected| *expected != adopted.store_id) {
            return self.assert_store(&adopted);
        }
        let _permit = self.permit(PULL, call)?;
        if self.read_catalog()?.is_none() {
            adopted.save(self.store.root())?;
        }
        Ok(())
    }

    /// What a replica says of a backup, opened. Nothing is believed of it that the catalog there doesn't say too.
    pub(super) fn entry_there(
        &self,
        site: &Site,
        held: &Held,
    ) -> Result<Result<Option<ReplicaEntry>, Unopened>, Error> {
        let key = held.origin.entry(held.entry.encrypted);
        let damaged = |reason: String| Ok(Err(Unopened::Damaged(reason)));
        let Some(bytes) = site.at(site.remote.get(&key, MAX_ENTRY))? else { return damaged(format!("{key} is gone")) };
        if hex(&Sha256::digest(&bytes)) != held.entry.object.checksum {
            return damaged(format!("{key} holds other bytes than were recorded (SHA-256)"));
        }
        let form = if held.entry.encrypted { Form::Encrypted } else { Form::Plain };
        let mut plain = Vec::new();
        match self
            .config
            .codec
            .decode(bytes.as_slice(), form, None)
            .map(|decoder| decoder.take(MAX_ENTRY).read_to_end(&mut plain))
        {
            Ok(Ok(_)) => {}
            Err(codec::Error::Locked) => return Ok(Err(Unopened::Locked)),
            Ok(Err(error)) => return damaged(undecodable(&key, &error.to_string())),
            Err(error) => return damaged(undecodable(&key, &error.to_string())),
        }
        match serde_json::from_slice::<ReplicaEntry>(&plain) {
            Ok(entry) if is_of(&entry, held) => Ok(Ok(Some(entry))),
            Ok(_) => damaged(format!("{key} is of another backup than the catalog there says")),
            Err(error) => damaged(format!("{key} is no entry: {error}")),
        }
    }
}

fn is_of(entry: &ReplicaEntry, held: &Held) -> bool {
    Origin::of(&entry.backup) == held.origin && entry.backup.databases.keys().eq(held.databases.keys())
}

impl Session<'_> {
    /// Brings one backup, unless it is here and whole.
    fn pull(&mut self, site: &Site, held: &Held) -> Result<Pulled, Error> {
        let theirs = site.catalog()?.store_id.clone();
        // After a fork of histories the same number may be of another backup here.
        let is_taken = |backup: &Backup| backup.sequence == held.origin.sequence && Origin::of(backup) != held.origin;
        let is_same_store = theirs == self.catalog.store_id && !self.catalog.backups.iter().any(is_taken);
        let here = self.catalog.standing().find(|backup| match is_same_store {
            true => Origin::of(backup) == held.origin,
            false => is_from(backup, &theirs, held.origin),
        });
        if let Some(here) = here
            && here.verified.ok
            && self.engine.store.is_there(here)?
        {
            return Ok(Pulled { from: held.id, id: here.id, was_here: true });
        }
        let id = self.id_for(held, is_same_store);
        let planned = details([("from", site.label.clone().into()), ("theirId", held.id.to_string().into())]);
        self.audited(Some(id), Unrecorded::IsRefused, planned.clone(), |session| {
            session.bring(site, held, id, is_same_store)?;
            Ok((Pulled { from: held.id, id, was_here: false }, planned))
        })
    }

    fn id_for(&self, held: &Held, is_same_store: bool) -> BackupId {
        let wanted = match is_same_store {
            true => held.id,
            false => BackupId::new(Tier::Manual, held.origin.timestamp, held.local_date),
        };
        let names: Vec<_> = held.databases.keys().cloned().collect();
        let known = |id: &BackupId| self.catalog.backups.iter().any(|backup| backup.id == *id);
        free_id(wanted, |id| known(id) || self.engine.store.has(id, &names))
    }

    fn bring(&mut self, site: &Site, held: &Held, id: BackupId, is_same_store: bool) -> Result<(), Error> {
        let entry = match self.engine.entry_there(site, held)? {
            Ok(Some(entry)) => entry,
            Err(Unopened::Damaged(reason)) => return Err(site.damaged(format!("{}: {reason}", held.id))),
            Ok(None) | Err(Unopened::Locked) => {
                return Err(Error::ReplicaNeedsIdentity { at: site.label.clone(), id: held.id });
            }
        };
        let (needed, free) = (held.size().saturating_add(OVERHEAD), disk::free_space(self.engine.store.root())?);
        if free < needed {
            return Err(Error::Full { needed, free });
        }
        let control = self.control();
        let (mut databases, mut partials, mut before, mut ciphertext_only) = (BTreeMap::new(), Vec::new(), 0, false);
        for (name, it) in &held.databases {
            let Some(copy) = entry.backup.databases.get(name) else { continue };
            let recipients = entry.recipients.get(name).cloned().unwrap_or_default();
            let arriving = Arriving { site, held, name, it, before, control: &control };
            let partial = Partial::create(&self.engine.store.path(&id, name, it.form))?;
            let mut copy = DatabaseCopy {
                file: id.file(name, it.form),
                form: it.form,
                stored_size: it.object.size,
                stored_checksum: it.object.checksum.clone(),
                recipients,
                ..copy.clone()
            };
            copy.stored_xxh3 = Some(arriving.receive(self.engine, &partial, &copy)?);
            ciphertext_only |= !self.engine.opens(&copy);
            before += it.object.size;
            databases.insert(name.clone(), copy);
            partials.push(partial);
        }
        let backup = self.arrived(entry, held, id, databases, ciphertext_only, is_same_store);
        self.publish_as_it_is(&backup, partials)
    }

    /// The entry here of what has come.
    fn arrived(
        &self,
        entry: ReplicaEntry,
        held: &Held,
        id: BackupId,
        databases: BTreeMap<DatabaseName, DatabaseCopy>,
        ciphertext_only: bool,
        is_same_store: bool,
    ) -> Backup {
        let verified = Verified { at: self.engine.clock.now(), ok: true, ciphertext_only };
        let came = Backup {
            id,
            tier: id.tier(),
            databases,
            pinned: held.pinned,
            flags: held.flags.clone(),
            promoted_from: held.promoted_from,
            verified,
            deleting: false,
            ..entry.backup
        };
        if is_same_store {
            return came;
        }
        let reason = came.reason.unwrap_or_else(|| format!("{} of the store {}", held.id, entry.store_id));
        let from = serde_json::json!({ "storeId": entry.store_id, "origin": held.origin });
        let mut extra = Map::clone(&came.extra);
        extra.insert(CAME_FROM.to_owned(), from);
        Backup {
            sequence: self.next_sequence(),
            promoted_from: None,
            reason: crate::backup::reason(&reason).ok(),
            extra,
            ..came
        }
    }
}

/// In the entry of a backup that came from another store.
const CAME_FROM: &str = "cameFrom";

fn is_from(backup: &Backup, store_id: &str, origin: Origin) -> bool {
    let from = serde_json::json!({ "storeId": store_id, "origin": origin });
    backup.extra.get(CAME_FROM) == Some(&from)
}

/// An object on its way here.
struct Arriving<'a> {
    site: &'a Site,
    held: &'a Held,
    name: &'a DatabaseName,
    it: &'a HeldDatabase,
    before: u64,
    control: &'a Control,
}

impl Arriving<'_> {
    /// Writes it, makes it durable, and reads it back from the disk; where an identity is at hand it is decoded as well. Gives the
    /// XXH3 of the file.
    fn receive(&self, engine: &Engine, partial: &Partial, copy: &DatabaseCopy) -> Result<String, Error> {
        let (id, key) = (self.held.id, self.held.origin.database(self.name, self.it.form));
        let wrong = |reason: String| self.site.damaged(format!("{id}: {reason}"));
        self.write(partial, &key)?;
        partial.sync()?;
        let content = match engine.opens(copy) && copy.form != Form::Plain {
            false => read_back(partial.file(), partial.path(), self.control)?,
            true => {
                let file = Direct::new(partial.file());
                let coded = Coded { file, path: partial.path(), form: copy.form, size: Some(copy.size) };
                match engine.decode(coded, self.control, |_| Ok(()))? {
                    Ok(decoded) => match decoded.differs(copy) {
                        None => decoded.stored,
                        Some(reason) => return Err(wrong(reason)),
                    },
                    Err(Fault::Unread(error)) => return Err(error.into()),
                    Err(Fault::Locked) => return Err(wrong(undecodable(&key, "its header was changed"))),
                    Err(Fault::Damaged(reason)) => return Err(wrong(undecodable(&key, &reason))),
                }
            }
        };
        match content.checksum == copy.stored_checksum {
            true => Ok(content.fingerprint.xxh3()),
            false => Err(wrong(format!("{key} did not reach the disk as it was read"))),
        }
    }

    fn write(&self, partial: &Partial, key: &str) -> Result<(), Error> {
        let object = &self.it.object;
        let mut coming = self.site.at(Coming::begin(self.site, key, object))?;
        let mut out = BlockWriter::new(Direct::new(partial.file()));
        let mut piece = vec![0; PIECE];
        loop {
            self.control.check()?;
            self.control.tell(Progress {
                database: self.name,
                done: self.before + coming.sum.size,
                total: self.held.size(),
            });
            match coming.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => out.write_all(&piece[..length]).to("write", partial.path())?,
                Err(error) => {
                    return Err(match coming.error.take() {
                        Some(error) => self.site.failed(error),
                        None => self.site.damaged(format!("{key}: {error}")),
                    });
                }
            }
        }
        out.finish().to("write", partial.path())?;
        if coming.sum.size != object.size || coming.sum.checksum() != object.checksum {
            return Err(self
                .site
                .damaged(format!("{}: {key} holds other bytes than were recorded (SHA-256)", self.held.id)));
        }
        Ok(())
    }
}
