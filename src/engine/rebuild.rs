//! `catalog rebuild`: a new catalog from the files themselves. Times, pins and reasons come from the catalog before and
//! from the audit log; every file is read and looked at, decoded into a private copy where it is no plain database. Of what is
//! encrypted, and no identity opens, only a catalog can still tell what is in it: its bytes as they lie are compared with that.
//! Nothing is deleted; the bad catalog is kept beside.

mod files;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use super::create::recorded;
use super::decode::{Coded, Fault, locked, undecodable};
use super::encode::Stored;
use super::read::other_bytes;
use super::{Call, Engine, Error, Session, Unrecorded};
use crate::audit::{Kind, Line};
use crate::backup::{Backup, BackupId, Checked, DatabaseCopy, DatabaseName, Flag, Form, Tier, Verified};
use crate::catalog::{self, Catalog};
use crate::disk;
use crate::disk::block::Direct;
use crate::sqlite::check::{self, Verdict};
use crate::sqlite::pages::{Content, read_back};
use crate::sqlite::{self, open_finished, situation, snapshot};

use files::{Files, in_order, sets, twins};

/// What a rebuild found.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebuilt {
    /// The entries of the new catalog, newest first.
    pub backups: Vec<Backup>,
    /// Files that are in no entry, and why.
    pub left_out: Vec<String>,
    /// Where the catalog that couldn't be read lies now.
    pub kept: Option<String>,
}

/// What is still known of a backup besides its files.
struct Memory {
    catalogs: Vec<Catalog>,
    created: BTreeMap<BackupId, Line>,
    /// The ids that promoted backups had before.
    promoted: BTreeMap<BackupId, BackupId>,
    /// Pinned, or unpinned, last.
    pins: BTreeMap<BackupId, bool>,
}

impl Engine {
    /// Makes the catalog anew.
    pub fn rebuild(&self, call: &Call) -> Result<Rebuilt, Error> {
        self.assert_there()?;
        self.store.make_dirs()?;
        let permit = self.permit("rebuild", call)?;
        let _running = self.running.begin(permit.holder(), call);
        let memory = self.memory()?;
        let empty = Catalog::empty(self.remembered_store(&memory)?);
        self.assert_store(&empty)?;
        let present = readable(Catalog::load(self.store.root()))?;
        let catalog = present.unwrap_or_else(|| empty.clone());
        let mut session = Session {
            engine: self,
            operation: "rebuild",
            call: call.clone(),
            app_is_stopped: false,
            recorded: catalog.ids(),
            catalog,
            owed: RefCell::default(),
            unlooked: RefCell::default(),
            is_recovered: false,
            _running,
            permit,
        };
        session.close_unfinished()?;
        session.is_recovered = true;
        // An anchor that the log has lost isn't forgotten by a rebuild either.
        let audit = memory.catalogs.iter().find_map(|old| old.audit.clone());
        let retention = memory.catalogs.iter().find_map(|old| old.retention);
        session.catalog = Catalog { audit, retention, lineage: Some(super::random_id()?), ..empty };
        session.audited(None, Unrecorded::IsRefused, Map::new(), |session| {
            let rebuilt = session.rebuild(&memory)?;
            let details = Map::from_iter([
                ("backups".to_owned(), rebuilt.backups.len().into()),
                ("leftOut".to_owned(), rebuilt.left_out.clone().into()),
            ]);
            Ok((rebuilt, details))
        })
    }

    /// In the empty place of a volume that isn't mounted, a new catalog would bear the very id that is expected.
    fn assert_there(&self) -> Result<(), Error> {
        let root = self.store.root();
        match self.expected_store() {
            Some(expected) if !root.join(catalog::FILE).exists() && !self.has_remains()? => {
                Err(Error::StoreGone { expected, root: root.to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn memory(&self) -> Result<Memory, Error> {
        let read = |name: &str| readable(Catalog::read(&self.store.root().join(name))).transpose();
        let catalogs = [catalog::FILE, catalog::PREVIOUS].into_iter().filter_map(read).collect::<Result<_, _>>()?;
        let (mut created, mut promoted, mut pins) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        self.audit.newest_first(|line| {
            // By whatever operation; one that was cut short has no more than its intent.
            for (from, to) in promotions(line) {
                promoted.entry(to).or_insert(from);
            }
            let done = line.entry.kind == Kind::Outcome && line.entry.ok == Some(true);
            if let Some(id) = line.entry.id.filter(|_| done) {
                match line.entry.operation.as_str() {
                    "create" => drop(created.entry(id).or_insert_with(|| line.clone())),
                    // Of an earlier backup of that id, if one was made after it.
                    "pin" | "unpin" if !created.contains_key(&id) => {
                        pins.entry(id).or_insert(line.entry.operation == "pin");
                    }
                    _ => {}
                }
            }
            false
        })?;
        Ok(Memory { catalogs, created, promoted, pins })
    }

    fn remembered_store(&self, memory: &Memory) -> Result<String, Error> {
        let known = memory.catalogs.first().map(|catalog| catalog.store_id.clone());
        let told = || memory.created.values().filter_map(|line| text(line, "storeId")).next_back();
        match known.or_else(told).or_else(|| self.config.store_id.clone()) {
            Some(id) => Ok(id),
            None => super::random_id(),
        }
    }
}

impl Session<'_> {
    fn rebuild(&mut self, memory: &Memory) -> Result<Rebuilt, Error> {
        self.engine.store.sweep()?;
        let found = self.engine.store.scan()?;
        let twins = twins(&found, memory);
        let configured: BTreeSet<_> = self.engine.config.databases.keys().cloned().collect();
        let wanted = |id: &BackupId| memory.names(id).unwrap_or_else(|| configured.clone());
        let form = |id: &BackupId, name: &DatabaseName| Some(memory.copy(id, name)?.form);
        let (sets, mut left_out) = sets(found, wanted, form);
        for (id, names) in sets {
            if let Some(twin) = twins.get(&id) {
                left_out.push(format!("{id}: another name of {twin}"));
                continue;
            }
            match self.remade(&id, &names, memory) {
                Ok(backup) => self.catalog.backups.push(backup),
                // That says nothing of the backup: no catalog without it.
                Err(error)
                    if error.is_full()
                        || error.lacks_descriptors()
                        || matches!(error, Error::Sqlite(sqlite::Error::Cancelled)) =>
                {
                    return Err(error);
                }
                Err(error) => left_out.push(format!("{id}: {error}")),
            }
        }
        self.number(memory);
        let kept = self.keep_bad()?;
        self.commit()?;
        let mut backups = self.catalog.backups.clone();
        backups.reverse();
        Ok(Rebuilt { backups, left_out, kept })
    }

    /// The entry of a set of files, from the files.
    fn remade(&self, id: &BackupId, files: &Files, memory: &Memory) -> Result<Backup, Error> {
        let now = self.engine.clock.now();
        let mut backup = memory.known(id).cloned().unwrap_or_else(|| self.guessed(id, memory));
        backup.pinned = memory.pins.get(id).copied().unwrap_or(backup.pinned);
        backup.flags.insert(Flag::Recovered);
        backup.databases = BTreeMap::new();
        let mut ciphertext_only = false;
        for (name, form) in files {
            let copy = match form {
                Form::Plain => self.looked_at(id, name, &mut backup)?,
                form => self.decoded(id, name, *form, memory, &mut backup, &mut ciphertext_only)?,
            };
            if memory.checksum(id, name).is_some_and(|was| was != copy.checksum) {
                return Err(Error::Damaged {
                    subject: (*id).into(),
                    reason: format!("{} holds other bytes than were recorded", copy.file),
                });
            }
            backup.databases.insert(name.clone(), copy);
        }
        backup.checked = Checked { at: now, kind: self.engine.config.check, ok: true };
        backup.verified = Verified { at: now, ok: true, ciphertext_only };
        Ok(backup)
    }

    /// What an id and the audit log tell, when no catalog does.
    fn guessed(&self, id: &BackupId, memory: &Memory) -> Backup {
        let line = memory.origin(id);
        let written = self.engine.config.databases.keys().find_map(|name| {
            let form = self.engine.store.form_of(id, name)?;
            let meta = self.engine.store.path(id, name, form).metadata().ok()?;
            Some(DateTime::<Utc>::from(meta.modified().ok()?))
        });
        let timestamp = line.and_then(|line| text(line, "timestamp")?.parse().ok()).or(written);
        let timestamp = timestamp.unwrap_or_else(|| id.first_date().and_time(chrono::NaiveTime::MIN).and_utc());
        let told = line.and_then(|line| text(line, "localDate")?.parse().ok());
        let date = told.unwrap_or_else(|| self.engine.config.settings.schedule.local_date(timestamp));
        Backup {
            sequence: line.and_then(sequence).unwrap_or(0),
            id: *id,
            tier: id.tier(),
            timestamp,
            local_date: if id.covers(date) { date } else { id.first_date() },
            databases: BTreeMap::new(),
            promoted_from: memory.promoted.get(id).copied(),
            reason: line.and_then(|line| text(line, "reason")),
            created_by: line.and_then(|line| text(line, "createdBy")).unwrap_or_else(|| "unknown".to_owned()),
            pinned: false,
            flags: line.and_then(|line| list(line, "flags")).unwrap_or_default(),
            findings: line.and_then(|line| list(line, "findings")).unwrap_or_default(),
            checked: Checked { at: timestamp, kind: self.engine.config.check, ok: true },
            verified: Verified { at: timestamp, ok: true, ciphertext_only: false },
            deleting: false,
            extra: Map::new(),
        }
    }

    /// Every byte, and the structure.
    fn looked_at(&self, id: &BackupId, name: &DatabaseName, backup: &mut Backup) -> Result<DatabaseCopy, Error> {
        let path = self.engine.store.path(id, name, Form::Plain);
        let content = read_back(&disk::open_regular(&path)?, &path, &self.call.control)?;
        self.structure(id, name, (&path, content), None, backup)
    }

    /// The same of what isn't plain.
    fn decoded(
        &self,
        id: &BackupId,
        name: &DatabaseName,
        form: Form,
        memory: &Memory,
        backup: &mut Backup,
        ciphertext_only: &mut bool,
    ) -> Result<DatabaseCopy, Error> {
        let path = self.engine.store.path(id, name, form);
        let known = memory.copy(id, name).filter(|copy| copy.form == form);
        let file = disk::open_regular(&path)?;
        let coded = Coded { file: Direct::new(&file), path: &path, form, size: known.map(|copy| copy.size) };
        let aside = match self.engine.decode_aside(name, coded, &self.call.control)? {
            Ok(aside) => aside,
            Err(Fault::Locked) => {
                *ciphertext_only = true;
                return self.as_remembered(id, name, &path, known);
            }
            Err(Fault::Unread(error)) => return Err(error.into()),
            Err(Fault::Damaged(reason)) => {
                return Err(Error::Damaged {
                    subject: (*id).into(),
                    reason: undecodable(&id.file(name, form), &reason),
                });
            }
        };
        let (content, plain) = (aside.decoded.stored.clone(), aside.decoded.plain.clone());
        let opener = || self.engine.config.codec.opener(|| disk::open_regular(&path).ok()).map(|it| it.to_string());
        let recipients = match known {
            Some(known) if known.stored_checksum == content.checksum => known.recipients.clone(),
            _ if form.is_encrypted() => opener().into_iter().collect(),
            _ => Vec::new(),
        };
        let stored = Stored { form, content, recipients, ciphertext_only: false };
        self.structure(id, name, (&aside.path, plain), Some(stored), backup)
    }

    /// What a catalog says of a file that can't be opened here, if it is that very file.
    fn as_remembered(
        &self,
        id: &BackupId,
        name: &DatabaseName,
        path: &Path,
        known: Option<&DatabaseCopy>,
    ) -> Result<DatabaseCopy, Error> {
        let Some(known) = known else { return Err(locked(*id, name, &[])) };
        let read = read_back(&disk::open_regular(path)?, path, &self.call.control)?;
        if read.checksum == known.stored_checksum {
            return Ok(known.clone());
        }
        Err(Error::Damaged { subject: (*id).into(), reason: other_bytes(&known.file) })
    }

    /// What SQLite says of a plain file.
    fn structure(
        &self,
        id: &BackupId,
        name: &DatabaseName,
        (path, content): (&Path, Content),
        stored: Option<Stored>,
        backup: &mut Backup,
    ) -> Result<DatabaseCopy, Error> {
        let control = &self.call.control;
        let damaged = |reason: String| Error::Damaged { subject: (*id).into(), reason };
        if content.size() == 0 {
            return Err(damaged(format!("{name} is empty")));
        }
        let open = |error| Error::of_copy((*id).into(), situation(name, error));
        let mut copy = open_finished(path).map_err(open)?;
        let facts = snapshot::facts(&copy).map_err(open)?;
        let patient = snapshot::patient(&facts, control);
        let report = check::check_finished(&mut copy, path, name, self.engine.config.check, &patient)?;
        match &report.verdict {
            Verdict::Corrupt(findings) => return Err(damaged(findings.join("; "))),
            Verdict::NotCheckable(_) => drop(backup.flags.insert(Flag::NotCheckable)),
            Verdict::Whole => {}
        }
        if facts.bytes() != content.size() {
            return Err(damaged(format!("{name} has {} bytes instead of {}", content.size(), facts.bytes())));
        }
        Ok(recorded(id, name, content, stored, facts, report))
    }

    /// New numbers, above all that were ever given, in the order of the old ones: a clock may have been wrong. Only
    /// where nobody knows a number, time says where the backup belongs.
    fn number(&mut self, memory: &Memory) {
        let told = memory.created.values().filter_map(sequence).max();
        let above = memory.catalogs.iter().map(Catalog::highest_sequence).max().max(told).unwrap_or(0);
        self.catalog.last_sequence = above;
        self.catalog.backups = in_order(std::mem::take(&mut self.catalog.backups));
        for (sequence, backup) in (above + 1..).zip(&mut self.catalog.backups) {
            backup.sequence = sequence;
            self.catalog.last_sequence = sequence;
        }
    }

    /// The catalog that is there gets another name, if it can't be read.
    fn keep_bad(&self) -> Result<Option<String>, Error> {
        let path = self.engine.store.root().join(catalog::FILE);
        if !path.exists() || Catalog::read(&path).is_ok() {
            return Ok(None);
        }
        let kept = format!("{}.corrupt-{}", catalog::FILE, self.engine.clock.now().format("%Y%m%dT%H%M%SZ"));
        disk::link_over(&path, &self.engine.store.root().join(&kept))?;
        disk::sync_dir(self.engine.store.root())?;
        Ok(Some(kept))
    }
}

impl Memory {
    fn known(&self, id: &BackupId) -> Option<&Backup> {
        self.catalogs.iter().find_map(|catalog| catalog.get(id))
    }

    /// The databases that a backup had; those that are configured may be more by now, or others.
    fn names(&self, id: &BackupId) -> Option<BTreeSet<DatabaseName>> {
        if let Some(known) = self.known(id) {
            return Some(known.databases.keys().cloned().collect());
        }
        let checksums = self.origin(id)?.entry.details.get("checksums")?.as_object()?;
        checksums.keys().map(|name| name.parse().ok()).collect()
    }

    /// What a catalog says of a copy.
    fn copy(&self, id: &BackupId, name: &DatabaseName) -> Option<&DatabaseCopy> {
        self.known(id)?.databases.get(name)
    }

    fn checksum(&self, id: &BackupId, name: &DatabaseName) -> Option<&str> {
        if let Some(known) = self.known(id) {
            return known.databases.get(name).map(|copy| copy.checksum.as_str());
        }
        self.origin(id)?.entry.details.get("checksums")?.get(name.as_str())?.as_str()
    }

    /// The creation of a backup, also under the id that it had before it was promoted.
    fn origin(&self, id: &BackupId) -> Option<&Line> {
        let mut id = *id;
        for _ in Tier::ALL {
            if let Some(line) = self.created.get(&id) {
                return Some(line);
            }
            id = *self.promoted.get(&id)?;
        }
        None
    }
}

/// A damaged catalog is what a rebuild is for; one that a newer program wrote is not damaged.
fn readable(read: Result<Option<Catalog>, catalog::Error>) -> Result<Option<Catalog>, Error> {
    match read {
        Err(error @ catalog::Error::Newer { .. }) => Err(error.into()),
        read => Ok(read.ok().flatten()),
    }
}

/// The promotions that a line tells of: the id before and the id after.
fn promotions(line: &Line) -> impl Iterator<Item = (BackupId, BackupId)> {
    let steps = line.entry.details.get("rotation").and_then(Value::as_array).into_iter().flatten();
    let id = |step: &Value, key: &str| step.get(key)?.as_str()?.parse().ok();
    steps.filter_map(move |step| Some((id(step, "from")?, id(step, "to")?)))
}

fn text(line: &Line, key: &str) -> Option<String> {
    line.entry.details.get(key)?.as_str().map(str::to_owned)
}

fn sequence(line: &Line) -> Option<u64> {
    line.entry.details.get("sequence")?.as_u64()
}

fn list<T: serde::de::DeserializeOwned>(line: &Line, key: &str) -> Option<T> {
    serde_json::from_value(line.entry.details.get(key)?.clone()).ok()
}
