//! Taking a backup. The order of steps:
//!
//! 1. Preflight: room, a free id. The intent is recorded.
//! 2. Snapshot into partial files, checked, durable, read back (`sqlite::snapshot`); then, where copies are to be compressed or
//!    encrypted, each in its form, read back as well (`encode`).
//! 3. The entry: what it holds, what is remarkable about it, and the rotation that follows from it.
//! 4. Promoted files get their second names; the new files get their final names; the folders are synced.
//! 5. One catalog write: the backup, the promoted entries, what goes. The backup exists from here on [P1].
//! 6. What goes is removed. The outcome is recorded.
//!
//! A crash before 5 leaves the catalog as it was, and files that recovery removes; after 5 it leaves marked deletions that
//! recovery finishes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::encode::{AllStored, Stored};
use super::record::{BARRIER, WAL_GROWN};
use super::{Call, Engine, Error, LIVE_DATA, Session, Unrecorded};
use crate::audit::{Entry, Kind};
use crate::backup::retention::{Plan, Step, free_id};
use crate::backup::{Backup, BackupId, Checked, DatabaseCopy, DatabaseName, Flag, Form, Tier, Verified};
use crate::disk::{self, Partial};
use crate::sqlite::check::{Report, Verdict};
use crate::sqlite::pages::Content;
use crate::sqlite::snapshot::{self, Facts, Instead, Snapshot};
use crate::sqlite::{self, identify};

/// What a backup needs beside its databases: catalog, audit, folders.
pub(super) const OVERHEAD: u64 = 1 << 20;
/// Copies that failed their check, kept per database: the first and the latest ones tell the story.
const CORRUPT_KEPT: usize = 3;
/// Smaller databases halve and double by a page.
const SHRINK_FLOOR: u64 = 32 << 10;
/// Fewer rows come and go by themselves.
const ROWS_FLOOR: u64 = 100;
/// So many are never all gone by themselves.
const FEW_ROWS: u64 = 10;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Create {
    /// `daily` or `manual`; `weekly` and `monthly` come by promotion.
    pub tier: Tier,
    /// Why, for people.
    pub reason: Option<String>,
    /// A much smaller database is right as it is.
    pub accept_shrink: bool,
}

/// What a snapshot minds.
#[derive(Clone, Copy)]
pub(super) struct Care {
    /// Corrupt data is copied all the same.
    pub(super) corrupt_too: bool,
    /// How long writers of a rollback-journal database may be kept waiting.
    pub(super) rollback_hold: Duration,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Created {
    /// The backup.
    pub backup: Backup,
    /// The rotation that followed.
    pub rotation: Plan,
    /// How long the app's writers were held.
    pub barrier: Duration,
    /// Bytes that the `-wal` of each database grew by while it was copied.
    pub wal_grown: BTreeMap<DatabaseName, u64>,
}

impl Engine {
    /// Takes a backup.
    pub fn create(&self, create: &Create, call: &Call) -> Result<Created, Error> {
        let mut session = self.begin("create", call)?;
        let id = session.free_id(create.tier).inspect_err(|error| session.record_failure(error))?;
        session.audited(Some(id.into()), Unrecorded::GoesOn, Map::new(), |session| {
            let created = session.create(create, id)?;
            let details = session.details(&created);
            Ok((created, details))
        })
    }

    /// Bytes that have to be free for a backup of the live databases as they are.
    pub(super) fn room_for_backup(&self) -> u64 {
        let sizes = self.sources().into_iter().filter_map(|source| identify(&source).ok()).map(|live| live.size);
        let sizes: Vec<u64> = sizes.collect();
        // A plain copy goes as soon as the encoded one beside it is proven.
        let beside = match self.config.codec.form() {
            Form::Plain => 0,
            _ => sizes.iter().copied().max().unwrap_or(0),
        };
        sizes.iter().sum::<u64>() + beside + OVERHEAD
    }

    /// Why rotation must stand still [P4].
    pub(super) fn freeze(&self) -> Result<Option<String>, Error> {
        Ok(self.unusable_live()?.or_else(|| self.implausible_clock()))
    }

    /// A machine without a clock says 1970; what it would date and replace is not to be trusted.
    fn implausible_clock(&self) -> Option<String> {
        super::status::clock_is_implausible(self.clock.now())
            .then(|| "the clock of this machine is wrong (before 2025); set it".to_owned())
    }

    /// Why the live data is no use: the last backup or restore that learned something of it failed because of it. One that was
    /// cancelled, or found a lock or a full disk in its way, learned nothing.
    pub(super) fn unusable_live(&self) -> Result<Option<String>, Error> {
        let read = self.unusable.get(self.audit.path(), || {
            let mut read = None;
            self.audit.newest_first(|line| {
                read = learned(line.at, &line.entry);
                read.is_some()
            })?;
            Ok(read)
        })?;
        let newest = self.unwritten.newest(learned).into_iter().chain(read).max_by_key(|(at, _)| *at);
        Ok(newest.and_then(|(_, unusable)| unusable))
    }
}

/// When an operation ended that learned something of the live data: why that is no use, or that it is.
pub(super) type Learned = (DateTime<Utc>, Option<String>);

fn learned(at: DateTime<Utc>, entry: &Entry) -> Option<Learned> {
    if entry.kind != Kind::Outcome || !matches!(entry.operation.as_str(), "create" | "restore") {
        return None;
    }
    // What was written by a restore didn't come back as it was.
    let wrong = entry.operation == "restore" && entry.code.as_deref() == Some("read-back");
    let unusable = wrong || entry.code.as_deref().is_some_and(|code| LIVE_DATA.contains(&code));
    (unusable || entry.ok == Some(true)).then(|| (at, entry.reason.clone().filter(|_| unusable)))
}

impl Session<'_> {
    pub(super) fn free_id(&self, tier: Tier) -> Result<BackupId, Error> {
        let now = self.engine.clock.now();
        let settings = self.engine.settings()?;
        let known: BTreeSet<_> = self.catalog.backups.iter().map(|backup| backup.id).collect();
        let wanted = BackupId::new(tier, now, settings.schedule.local_date(now)).after(known.iter().copied());
        let names: Vec<_> = self.engine.config.databases.keys().cloned().collect();
        let is_taken = |id: &BackupId| known.contains(id) || self.engine.store.has(id, &names);
        let free = free_id(wanted, is_taken);
        // One that was cut short before any file had its name would have had this one; as long as the log doesn't tell its end, whatever
        // gets that id would be taken for it.
        Ok(if self.bring_log_up_to_date().is_ok() { free } else { free_id(free.next(), is_taken) })
    }

    fn create(&mut self, create: &Create, id: BackupId) -> Result<Created, Error> {
        self.make_room()?;
        let (snapshot, stored) = match self.taken(&id) {
            // Our own partials are gone already: they are removed when they are dropped.
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "applying the rotation that is due, then trying once more");
                self.rotate_due()?;
                self.taken(&id).map_err(|error| self.full(error))?
            }
            taken => taken?,
        };
        let barrier = snapshot.barrier;
        let wal_grown = snapshot.copies.iter().map(|copy| (copy.name.clone(), copy.wal_grown)).collect();
        let (backup, partials) = self.entry(create, id, snapshot, stored)?;
        let rotation = self.publish(&backup, partials)?;
        // From here on the backup exists.
        self.finish_deletions();
        Ok(Created { backup, rotation, barrier, wal_grown })
    }

    /// Step 2.
    fn taken(&self, id: &BackupId) -> Result<(Snapshot, AllStored), Error> {
        let mut snapshot = self.snapshot(id, self.engine.sources(), &Instead::new(), self.care())?;
        let control = self.call.control.also(self.permit.noting());
        let stored = self.encode_in_place(id, &mut snapshot, &control)?;
        Ok((snapshot, stored))
    }

    /// Step 1. The databases may be unusable: then the snapshot says so better.
    fn make_room(&mut self) -> Result<(), Error> {
        let needed = self.engine.room_for_backup();
        let free = disk::free_space(self.engine.store.root())?;
        if free >= needed {
            return Ok(());
        }
        self.rotate_due()?;
        let free = disk::free_space(self.engine.store.root())?;
        if free >= needed { Ok(()) } else { Err(Error::Full { needed, free }) }
    }

    fn full(&self, error: Error) -> Error {
        let needed = self.engine.room_for_backup();
        match disk::free_space(self.engine.store.root()) {
            Ok(free) if error.is_full() && free < needed => Error::Full { needed, free },
            // A quota, or no inodes: sizes would mislead.
            _ => error,
        }
    }

    fn care(&self) -> Care {
        Care { corrupt_too: false, rollback_hold: self.engine.config.rollback_hold }
    }

    pub(super) fn rotate_due(&mut self) -> Result<Plan, Error> {
        let retention = self.engine.settings()?.retention;
        let freeze = self.engine.freeze()?;
        self.rotate_now(&retention, freeze.as_deref())
    }

    /// Step 2, the snapshot.
    pub(super) fn snapshot(
        &self,
        id: &BackupId,
        sources: Vec<sqlite::Source>,
        instead: &Instead,
        care: Care,
    ) -> Result<Snapshot, Error> {
        let (engine, config) = (self.engine, &self.engine.config);
        engine.assert_distinct()?;
        let target = |source: &sqlite::Source| Partial::create(&engine.store.path(id, &source.name, Form::Plain));
        let targets = sources.iter().map(target).collect::<Result<_, _>>()?;
        let options = snapshot::Options {
            check: config.check,
            lock_timeout: config.lock_timeout,
            rollback_hold: care.rollback_hold,
            corrupt_too: care.corrupt_too,
            corrupt_as_partial: config.codec.encrypts,
        };
        let control = self.call.control.also(self.permit.noting());
        let mut snapshot = snapshot::take(&sources, targets, instead, &options, &engine.clock, &control);
        if let Err(sqlite::Error::Corrupt { name, kept, .. }) = &mut snapshot {
            *kept = kept.take().and_then(|kept| self.encode_corrupt(name, kept));
            if let Err(error) = self.thin_corrupt(name) {
                tracing::warn!(%error, "older copies of corrupt data are still there");
            }
        }
        let snapshot = snapshot?;
        // The snapshot holds the files that links led to; a link that was turned meanwhile leads elsewhere.
        let now = engine.sources();
        match sources.into_iter().find(|before| !now.contains(before)) {
            Some(before) => Err(sqlite::Error::Swapped { name: before.name }.into()),
            None => Ok(snapshot),
        }
    }

    /// Retries on corrupt data must not fill the disk.
    fn thin_corrupt(&self, name: &DatabaseName) -> Result<(), Error> {
        let store = &self.engine.store;
        let ours = |file: &str| file.rsplit('/').next().is_some_and(|file| file.starts_with(&format!("{name}-")));
        let mut kept: Vec<_> =
            store.scan()?.into_iter().filter(|found| found.is_corrupt() && ours(&found.file)).collect();
        kept.sort_by_key(|found| store.root().join(&found.file).metadata().and_then(|meta| meta.modified()).ok());
        // The first one shows the damage as it began.
        while kept.len() > CORRUPT_KEPT {
            disk::remove(&store.root().join(kept.remove(1).file))?;
        }
        Ok(())
    }

    /// Step 3, but for the rotation.
    pub(super) fn entry(
        &self,
        create: &Create,
        id: BackupId,
        snapshot: Snapshot,
        mut stored: AllStored,
    ) -> Result<(Backup, Vec<Partial>), Error> {
        // A daily is of the date that its id says, also if midnight came before its instant.
        let local_date = match id.tier() {
            Tier::Daily => id.first_date(),
            _ => self.engine.settings()?.schedule.local_date(snapshot.at),
        };
        let now = self.engine.clock.now();
        let mut backup = Backup {
            sequence: self.next_sequence(),
            id,
            tier: id.tier(),
            timestamp: snapshot.at,
            local_date,
            databases: BTreeMap::new(),
            promoted_from: None,
            reason: create.reason.clone(),
            created_by: self.call.actor.by.clone(),
            pinned: false,
            flags: BTreeSet::new(),
            findings: Vec::new(),
            checked: Checked { at: now, kind: self.engine.config.check, ok: true },
            verified: Verified { at: now, ok: true, ciphertext_only: stored.values().any(|it| it.ciphertext_only) },
            deleting: false,
            extra: Map::new(),
        };
        // Without the log nothing is known of a restore: what it brought back may be flagged.
        let restored = if create.accept_shrink { None } else { self.restored_since().unwrap_or_default() };
        let mut partials = Vec::new();
        for copy in snapshot.copies {
            let stored = stored.remove(&copy.name);
            let (recorded, partial) = record(&id, copy, stored, &mut backup);
            if !create.accept_shrink {
                self.note_shrunk(&recorded.0, &recorded.1, &mut backup, restored.as_ref());
            }
            backup.databases.insert(recorded.0, recorded.1);
            partials.push(partial);
        }
        if !create.accept_shrink {
            self.note_left_out(&mut backup);
        }
        Ok((backup, partials))
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.catalog.highest_sequence() + 1
    }

    /// The backup that was restored since the last one was taken: what it holds is no loss.
    fn restored_since(&self) -> Result<Option<Backup>, Error> {
        let mut restored = None;
        self.engine.audit.newest_first(|line| {
            let entry = &line.entry;
            let done = entry.kind == Kind::Outcome && entry.ok == Some(true);
            if done && entry.operation == "restore" {
                restored = entry.id;
            }
            done && (entry.operation == "restore" || entry.operation == "create")
        })?;
        // Rotation may have given it another name since.
        let by_name =
            |id| self.catalog.get(&id).or_else(|| self.catalog.standing().find(|it| it.promoted_from == Some(id)));
        Ok(restored.and_then(by_name).cloned())
    }

    /// The good backups that say how the live data was.
    fn measures(&self) -> impl Iterator<Item = &Backup> {
        self.catalog.standing().filter(|other| other.is_good() && other.is_measure())
    }

    /// Compares with the backup that was restored, or, where that doesn't hold this database, with the newest good one that does.
    fn note_shrunk(&self, name: &DatabaseName, copy: &DatabaseCopy, backup: &mut Backup, restored: Option<&Backup>) {
        let holds = |other: &&Backup| other.databases.contains_key(name);
        let newest = self.measures().filter(holds).max_by_key(|other| other.sequence);
        let measure = restored.filter(holds).or(newest);
        let Some((id, before)) = measure.and_then(|it| Some((it.id, it.databases.get(name)?))) else { return };
        let found = shrunk(before, copy, self.engine.config.shrink_alarm);
        if !found.is_empty() {
            backup.flags.insert(Flag::Shrunk);
            // Before all else: it is why rotation stands still.
            backup.findings.splice(0..0, found.into_iter().map(|what| format!("{name}: {what} since {id}")));
        }
    }

    /// A database that was in the newest good backup, and is named no more: a slip, or meant so, which somebody is to say.
    fn note_left_out(&self, backup: &mut Backup) {
        let Some(newest) = self.measures().max_by_key(|other| other.sequence) else { return };
        for name in newest.databases.keys().filter(|name| !backup.databases.contains_key(*name)) {
            backup.flags.insert(Flag::Shrunk);
            backup.findings.insert(0, format!("{name}: BACKUP_DATABASES names it no more, and {} has it", newest.id));
        }
    }

    /// Steps 4 and 5.
    fn publish(&mut self, backup: &Backup, partials: Vec<Partial>) -> Result<Plan, Error> {
        let retention = self.engine.settings()?.retention;
        // The live data has just been found good.
        let frozen = self.engine.implausible_clock();
        self.publish_with(backup, partials, |session| session.plan(&retention, frozen.as_deref(), Some(backup.id)))
    }

    /// The same without a rotation.
    pub(super) fn publish_as_it_is(&mut self, backup: &Backup, partials: Vec<Partial>) -> Result<(), Error> {
        self.publish_with(backup, partials, |_| Plan::default()).map(drop)
    }

    fn publish_with(
        &mut self,
        backup: &Backup,
        partials: Vec<Partial>,
        plan: impl FnOnce(&mut Self) -> Plan,
    ) -> Result<Plan, Error> {
        let before = self.catalog.clone();
        self.catalog.backups.push(backup.clone());
        self.catalog.last_sequence = self.catalog.last_sequence.max(backup.sequence);
        let mut plan = plan(self);
        let published = self.publish_planned(&mut plan, backup, partials);
        if published.is_err() {
            self.undo_publish(before, backup, &plan);
        }
        published.map(|()| plan)
    }

    fn publish_planned(&mut self, plan: &mut Plan, backup: &Backup, partials: Vec<Partial>) -> Result<(), Error> {
        if let Some(reason) = self.prepare(plan)? {
            *plan = Plan::standing(reason);
        }
        for partial in partials {
            partial.publish_new()?;
        }
        self.engine.store.sync([backup.tier])?;
        self.commit()
    }

    /// The catalog was not written (a full disk): the files that it doesn't name go. What can't be removed is told as
    /// unmanaged.
    fn undo_publish(&mut self, before: crate::catalog::Catalog, backup: &Backup, plan: &Plan) {
        // A write that failed after its rename did happen: then the backup exists, and recovery goes on from there.
        let written = crate::catalog::Catalog::load(self.engine.store.root());
        if !written.is_ok_and(|catalog| catalog.is_some_and(|catalog| catalog.get(&backup.id).is_none())) {
            return;
        }
        for (_, path) in self.engine.store.paths(backup) {
            let _ = disk::remove(&path);
        }
        let promoted = plan.steps.iter().filter_map(|step| match step {
            Step::Promote { to, .. } => self.catalog.get(to),
            Step::Drop { .. } => None,
        });
        for (_, path) in promoted.flat_map(|new| self.engine.store.paths(new)) {
            let _ = disk::remove(&path);
        }
        self.catalog = before;
    }

    fn details(&self, created: &Created) -> Map<String, Value> {
        let backup = &created.backup;
        let steps = serde_json::to_value(&created.rotation.steps).unwrap_or_default();
        let checksums = backup.databases.iter().map(|(name, copy)| (name.to_string(), copy.checksum.clone().into()));
        Map::from_iter([
            ("timestamp".to_owned(), crate::backup::timestamp::text(backup.timestamp).into()),
            ("localDate".to_owned(), backup.local_date.to_string().into()),
            ("sequence".to_owned(), backup.sequence.into()),
            ("storeId".to_owned(), self.catalog.store_id.clone().into()),
            ("size".to_owned(), backup.stored_size().into()),
            ("reason".to_owned(), backup.reason.clone().into()),
            ("createdBy".to_owned(), backup.created_by.clone().into()),
            (BARRIER.to_owned(), (created.barrier.as_micros() as u64).into()),
            (WAL_GROWN.to_owned(), serde_json::to_value(&created.wal_grown).unwrap_or_default()),
            ("checksums".to_owned(), Value::Object(checksums.collect())),
            ("flags".to_owned(), serde_json::to_value(&backup.flags).unwrap_or_default()),
            ("findings".to_owned(), backup.findings.clone().into()),
            ("rotation".to_owned(), steps),
            ("frozen".to_owned(), created.rotation.frozen.clone().into()),
        ])
    }
}

/// One database's part of the entry.
fn record(
    id: &BackupId,
    copy: snapshot::Copy,
    stored: Option<Stored>,
    backup: &mut Backup,
) -> ((DatabaseName, DatabaseCopy), Partial) {
    let snapshot::Copy { name, partial, content, facts, report, .. } = copy;
    match &report.verdict {
        Verdict::Whole => {}
        Verdict::NotCheckable(tables) => {
            backup.flags.insert(Flag::NotCheckable);
            backup.findings.push(format!(
                "{name}: not checkable without the app's own functions or an up-to-date search index: {}",
                tables.join(", ")
            ));
        }
        Verdict::Corrupt(findings) => {
            backup.checked.ok = false;
            backup.findings.push(format!("{name}: corrupt: {}", findings.join("; ")));
        }
    }
    if let Some(rows) = report.orphans.filter(|rows| *rows > 0) {
        backup.findings.push(format!("{name}: {rows} rows refer to rows that don't exist (foreign_key_check)"));
    }
    if !report.unmet.is_empty() {
        backup.findings.push(format!("{name}: rows of these tables break a CHECK: {}", report.unmet.join(", ")));
    }
    let recorded = recorded(id, &name, content, stored, facts, report);
    ((name, recorded), partial)
}

/// The catalog's record of a file; without a form of its own it is the plain database itself.
pub(super) fn recorded(
    id: &BackupId,
    name: &DatabaseName,
    plain: Content,
    stored: Option<Stored>,
    facts: Facts,
    report: Report,
) -> DatabaseCopy {
    let itself =
        || Stored { form: Form::Plain, content: plain.clone(), recipients: Vec::new(), ciphertext_only: false };
    let Stored { form, content, recipients, .. } = stored.unwrap_or_else(itself);
    DatabaseCopy {
        file: id.file(name, form),
        form,
        size: plain.size(),
        checksum: plain.checksum,
        stored_size: content.size(),
        stored_xxh3: Some(content.fingerprint.xxh3()),
        stored_checksum: content.checksum,
        recipients,
        page_size: facts.page_size,
        free_pages: facts.free_pages,
        journal_mode: facts.journal_mode,
        user_version: facts.user_version,
        tables: report.tables,
        extra: Map::new(),
    }
}

/// What is suspicious about `now` after `before`; `alarm` is the percentage that may be lost.
fn shrunk(before: &DatabaseCopy, now: &DatabaseCopy, alarm: u8) -> Vec<String> {
    let mut found = Vec::new();
    let (was, is) = (before.used_bytes(), now.used_bytes());
    let least = |was: u64| was / 100 * (100 - u64::from(alarm.min(100)));
    if was >= SHRINK_FLOOR && is < least(was) {
        found.push(format!("{} of data instead of {}", super::bytes(is), super::bytes(was)));
    }
    let rows = |copy: &DatabaseCopy| copy.tables.values().sum::<u64>();
    let is_all_gone = rows(before) >= FEW_ROWS && rows(now) == 0;
    if is_all_gone || rows(before) >= ROWS_FLOOR && rows(now) < least(rows(before)) {
        found.push(format!("{} rows instead of {}", rows(now), rows(before)));
    }
    let emptied = |(table, was): &(&String, &u64)| **was >= ROWS_FLOOR && now.tables.get(*table) == Some(&0);
    let emptied: Vec<_> = before.tables.iter().filter(emptied).map(|(table, _)| table.clone()).collect();
    if !emptied.is_empty() {
        found.push(format!("tables are empty that were not ({})", emptied.join(", ")));
    }
    let gone: Vec<_> = before.tables.keys().filter(|table| !now.tables.contains_key(*table)).cloned().collect();
    if !gone.is_empty() {
        found.push(format!("tables are gone ({})", gone.join(", ")));
    }
    found
}
