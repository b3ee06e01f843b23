//! Putting a directory right after a crash: done by whoever has just gained `.lock`, before its own operation.
//!
//! 1. Partials are swept.
//! 2. An operation that began (intent) and never ended (outcome) is undone: files that a create had named, but that no
//!    catalog names, are removed. The catalog write is the commit point, so what it names stays. The same of one that said that it
//!    failed, on a disk where it could not remove them by itself.
//! 3. Second names of known files, left by a promotion that was not committed, are removed.
//! 4. Marked deletions are finished.
//! 5. A restore that was under way is settled (`settle`).
//! 6. The outcome of the interrupted operation is recorded, that of a rotation within it first, or what was finished for
//!    one that had failed. Before a change of settings or an acknowledgement is closed, the rotation that it sets free is done.
//! 6. Private copies that nobody needs any more (`staging`) are removed.
//!
//! Each step can be cut short and begun again. What can't be removed is left to the next recovery, and stops no operation. Where the
//! audit log can't be read, a backup and a rehearsal go on without step 2. They try it again before each line of theirs, and write none
//! before it is done (`Session::looked`): so whoever can read the log again finds there, as the newest, what was cut short.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::drill::DRILL;
use super::plan::Plan;
use super::replica::PULL;
use super::restore::Restored;
use super::rotation::ROTATE;
use super::settle::Settled;
use super::{Error, Session, entry};
use crate::audit::{Entry, Kind, Line};
use crate::backup::{BackupId, Subject};
use crate::catalog::Catalog;
use crate::disk;
use crate::store::inode;

/// Operations that hold `.lock`: at most one of them is open at a time, and within it a rotation.
const EXCLUSIVE: [&str; 12] =
    ["create", PULL, "delete", "pin", "unpin", "acknowledge", AUDIT, "settings", "rebuild", "restore", DRILL, ROTATE];

/// Somebody's word that lines of the audit log are gone.
pub(super) const AUDIT: &str = "audit";

/// Operations that go on where the log can't be read.
const UNREAD: [&str; 2] = ["create", DRILL];

/// Putting right what a crash left, and nothing else.
pub(super) const RECOVERY: &str = "recovery";

/// In the outcome of an operation that failed before its intent.
pub(super) const UNBEGUN: &str = "unbegun";

/// In an outcome that somebody else has found: by whom.
pub(super) const RECOVERED_BY: &str = "recoveredBy";

/// What step 2 undoes.
struct CutShort {
    /// Operations that are open, the innermost first.
    open: Vec<Unfinished>,
    /// Else the newest, if it failed.
    failed: Option<Entry>,
}

/// An operation that has no outcome.
struct Unfinished {
    intent: Line,
    /// It came past its commit point all the same.
    done: bool,
}

impl Session<'_> {
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        let swept = self.engine.store.sweep()?;
        let plan = Plan::load(self.engine.store.root())?;
        let CutShort { open, failed } = self.cut_short_or_unlooked(plan.is_some())?;
        let mut removed = Vec::new();
        for id in plan.iter().flat_map(|plan| &plan.pre_restore) {
            removed.extend(self.remove_uncommitted(id, false)?);
        }
        removed.extend(self.remove_begun(&open, failed.as_ref())?);
        removed.extend(self.remove_second_names()?);
        let deleted = self.finish_deletions().done;
        let mut details = details(&removed, &deleted);
        if open.is_empty() {
            self.record_put_right(std::mem::take(&mut details));
        }
        let subject = plan.as_ref().map(|plan| plan.subject);
        let settled = plan.map(|plan| self.settle(plan)).transpose()?;
        if let (Some(settled), Some(subject), false) = (&settled, subject, open.iter().any(|open| open.is("restore"))) {
            self.record_settled(subject, settled)?;
        }
        for open in open {
            if (open.is("settings") || open.is("acknowledge")) && open.done {
                // Nothing else is open any more, and how this has ended doesn't stand in the catalog.
                self.is_recovered = true;
                // Whatever is in its way, it is in no operation's way.
                self.rotate_after(Self::rotate_due);
            }
            self.close_undone(open, settled.as_ref(), std::mem::take(&mut details));
        }
        if !(swept.is_empty() && removed.is_empty() && deleted.is_empty()) {
            tracing::info!(?swept, ?removed, ?deleted, "put right what an interrupted operation had left");
        }
        self.is_recovered = true;
        if self.catalog.unrecorded.is_some()
            && self.is_recorded()
            && let Err(error) = self.commit()
        {
            tracing::warn!(%error, "that the audit log tells of everything again is not noted yet");
        }
        self.conclude();
        Ok(())
    }

    /// A restore has its outcome: that it was not settled yet, or what could be written of it. Now it is.
    fn record_settled(&self, subject: Subject, settled: &Settled) -> Result<(), Error> {
        let restored = settled.restored();
        if !self.was_left_open(subject)? {
            return Ok(());
        }
        let mut outcome =
            Entry { ok: Some(restored.is_some()), ..entry(Kind::Outcome, "restore", &self.call.actor, Some(subject)) };
        outcome.details = restored.map(Restored::details).unwrap_or_default();
        outcome.details.insert(RECOVERED_BY.to_owned(), self.operation.into());
        if restored.is_none() {
            outcome.code = Some("interrupted".to_owned());
            outcome.reason = Some("it was settled: nothing was changed".to_owned());
        }
        self.record_or_owe(outcome);
        Ok(())
    }

    /// Whether the last word on a restore is that it wasn't settled, or that nobody knew.
    fn was_left_open(&self, subject: Subject) -> Result<bool, Error> {
        let mut open = false;
        self.engine.audit.newest_first(|line| {
            let entry = &line.entry;
            let ours = entry.kind == Kind::Outcome && entry.operation == "restore" && entry.subject() == Some(subject);
            if ours {
                let by_rebuild = entry.details.get(RECOVERED_BY) == Some(&"rebuild".into());
                open = entry.code.as_deref() == Some("restore-unfinished") || by_rebuild;
            }
            ours
        })?;
        Ok(open)
    }

    /// Files that an offline restore had not put in place yet.
    fn remove_new_files(&self) {
        for source in self.engine.sources() {
            if let Err(error) = disk::remove(&disk::partial_path(&source.path)) {
                tracing::warn!(%error, "what an interrupted restore had left is still there");
            }
        }
    }

    /// Before a rebuild nothing is undone, but what was interrupted gets its outcome.
    pub(super) fn close_unfinished(&self) -> Result<(), Error> {
        for open in self.unfinished(&self.catalog)? {
            self.close(open, "the catalog was then rebuilt from what lay there", Map::new());
        }
        Ok(())
    }

    /// Nothing where the audit log can't be read, and that is in no way of the operation. A restore that isn't settled waits for the
    /// log, which is to hold its end.
    fn cut_short_or_unlooked(&self, is_unsettled: bool) -> Result<CutShort, Error> {
        match self.cut_short(&self.catalog) {
            Err(error @ Error::Audit(_)) if UNREAD.contains(&self.operation) && !is_unsettled => {
                tracing::warn!(%error, operation = self.operation, "going on without a look at the audit log");
                self.unlooked.replace(Some(self.catalog.clone()));
                Ok(CutShort { open: Vec::new(), failed: None })
            }
            read => read,
        }
    }

    /// Step 2 and 6 for whoever went on without. Its own lines come after those; a rotation that is due comes with the next backup.
    pub(super) fn looked(&self) -> Result<(), Error> {
        let Some(before) = self.unlooked.take() else { return Ok(()) };
        // What was cut short came before anything that this operation has done to the catalog.
        let looked = self.cut_short(&before).and_then(|cut| {
            let removed = self.remove_begun(&cut.open, cut.failed.as_ref())?;
            Ok((cut.open, details(&removed, &[])))
        });
        let (open, mut details) = looked.inspect_err(|_| drop(self.unlooked.replace(Some(before))))?;
        let own = self.owed.take();
        if open.is_empty() {
            self.record_put_right(std::mem::take(&mut details));
        }
        for open in open {
            self.close_undone(open, None, std::mem::take(&mut details));
        }
        self.owed.borrow_mut().extend(own);
        Ok(())
    }

    fn cut_short(&self, catalog: &Catalog) -> Result<CutShort, Error> {
        let open = self.unfinished(catalog)?;
        let failed = if open.is_empty() { self.failed()? } else { None };
        Ok(CutShort { open, failed })
    }

    /// Files of backups that were begun, and that no catalog names.
    fn remove_begun(&self, open: &[Unfinished], failed: Option<&Entry>) -> Result<Vec<String>, Error> {
        let begun = open.iter().map(|open| &open.intent.entry).chain(failed);
        let create = begun.filter(|entry| ["create", PULL].contains(&entry.operation.as_str()));
        let mut removed = Vec::new();
        for (operation, id) in create.filter_map(|entry| Some((&entry.operation, entry.id?))) {
            removed.extend(self.remove_uncommitted(&id, operation == PULL)?);
        }
        Ok(removed)
    }

    /// The operation that left it has its outcome: that this couldn't be done yet. Now it is.
    fn record_put_right(&self, details: Map<String, Value>) {
        if details.values().any(|done| done.as_array().is_some_and(|done| !done.is_empty())) {
            let done = Entry { ok: Some(true), details, ..entry(Kind::Outcome, RECOVERY, &self.call.actor, None) };
            self.record_or_owe(done);
        }
    }

    fn close_undone(&self, mut open: Unfinished, settled: Option<&Settled>, mut details: Map<String, Value>) {
        if !open.is("restore") {
            return self.close(open, "what it had begun was undone", details);
        }
        self.remove_new_files();
        let restored = settled.and_then(Settled::restored);
        open.done = restored.is_some();
        details.extend(restored.map(Restored::details).unwrap_or_default());
        self.close(open, "nothing was changed", details);
    }

    fn unfinished(&self, catalog: &Catalog) -> Result<Vec<Unfinished>, Error> {
        let open = self.open_intents()?.into_iter();
        Ok(open.map(|intent| Unfinished { done: self.was_done(&intent, catalog), intent }).collect())
    }

    /// Each kind of operation has one durable write that decides.
    fn was_done(&self, intent: &Line, catalog: &Catalog) -> bool {
        let Entry { operation, id, .. } = &intent.entry;
        // Backups without a line may have dropped and promoted others since.
        let stood = catalog.recorded();
        let is_gone = |id: &BackupId| catalog.get(id).is_none();
        match operation.as_str() {
            // Its marks decide, which are looked at when it is settled.
            "restore" => false,
            // One without a line gets no id that such a one may have had.
            "create" => id.is_some_and(|id| stood.contains(&id) || !is_gone(&id)),
            PULL => id.is_some_and(|id| stood.contains(&id)),
            "delete" => id.is_some_and(|id| !stood.contains(&id) && is_gone(&id)),
            "acknowledge" => id.and_then(|id| catalog.get(&id)).is_none_or(|backup| !backup.is_shrunk()),
            "settings" => self.engine.is_saved(&intent.entry),
            // Half a rehearsal proves nothing.
            DRILL => false,
            ROTATE => leaving(&intent.entry).all(|id| !stood.contains(&id) && is_gone(&id)),
            // A rotation that came since drops none that is pinned.
            "pin" | "unpin" => {
                let pinned = id.is_some_and(|id| catalog.get(&id).is_some_and(|backup| backup.pinned));
                pinned == (operation == "pin")
            }
            // A catalog that was written after the intent says so, unless the log was cut off since.
            _ => {
                let held = self.engine.lost_anchor(catalog).is_ok_and(|lost| lost.is_none());
                held && catalog.audit.as_ref().is_some_and(|anchor| anchor.seq >= intent.seq)
            }
        }
    }

    /// The newest exclusive operation and the rotations within it, as far as they have no outcome; the innermost first.
    fn open_intents(&self) -> Result<Vec<Line>, Error> {
        let (mut open, mut rotated) = (Vec::new(), false);
        self.engine.audit.newest_first(|line| {
            let Entry { kind, operation, .. } = &line.entry;
            if !is_of_exclusive(&line.entry) {
                return false;
            }
            if *kind == Kind::Intent && !std::mem::take(&mut rotated) {
                open.push(line.clone());
            }
            rotated |= *kind == Kind::Outcome;
            operation != ROTATE
        })?;
        Ok(open)
    }

    /// The newest exclusive operation, if it said that it failed.
    fn failed(&self) -> Result<Option<Entry>, Error> {
        let mut failed = None;
        self.engine.audit.newest_first(|line| {
            let found = is_of_exclusive(&line.entry);
            if found && line.entry.kind == Kind::Outcome && line.entry.ok == Some(false) {
                failed = Some(line.entry.clone());
            }
            found
        })?;
        Ok(failed)
    }

    /// Files of our databases under the final names of a backup that isn't in the catalog. Those names were free when its
    /// intent was written.
    fn remove_uncommitted(&self, id: &BackupId, any: bool) -> Result<Vec<String>, Error> {
        if self.catalog.backups.iter().any(|backup| backup.id == *id) {
            return Ok(Vec::new());
        }
        let mut removed = Vec::new();
        for found in self.engine.store.scan()? {
            // What was brought may be of databases that aren't configured here.
            let ours = |name| any || self.engine.config.databases.contains_key(name);
            if found.name.as_ref().is_some_and(|(other, name, _)| other == id && ours(name)) {
                removed.extend(self.removed(found.file));
            }
        }
        self.engine.store.sync([id.tier()])?;
        Ok(removed)
    }

    fn remove_second_names(&self) -> Result<Vec<String>, Error> {
        let store = &self.engine.store;
        let mut named = BTreeSet::new();
        let mut inodes = BTreeSet::new();
        for backup in &self.catalog.backups {
            named.extend(backup.databases.values().map(|copy| copy.file.clone()));
            inodes.extend(
                store.paths(backup).filter_map(|(_, path)| path.symlink_metadata().ok().map(|meta| inode(&meta))),
            );
        }
        let mut removed = Vec::new();
        for found in store.scan()? {
            if found.name.is_some() && !named.contains(&found.file) && inodes.contains(&found.inode) {
                removed.extend(self.removed(found.file));
            }
        }
        Ok(removed)
    }

    /// A file that can't be removed is told as unmanaged from then on, and stands in nobody's way.
    fn removed(&self, file: String) -> Option<String> {
        match disk::remove(&self.engine.store.root().join(&file)) {
            Ok(()) => Some(file),
            Err(error) => {
                tracing::warn!(%error, "what an interrupted operation had left is still there");
                None
            }
        }
    }

    fn close(&self, open: Unfinished, otherwise: &str, details: Map<String, Value>) {
        let was = open.intent.entry;
        let subject = was.subject();
        let reason = if open.done {
            "the program was ended after this was done, before it could say so".to_owned()
        } else {
            format!("the program was ended before this was done; {otherwise}")
        };
        let mut outcome = Entry {
            ok: Some(open.done),
            code: Some("interrupted".to_owned()),
            reason: Some(reason),
            by: was.by,
            from: was.from,
            details,
            ..entry(Kind::Outcome, &was.operation, &self.call.actor, subject)
        };
        outcome.details.insert(RECOVERED_BY.to_owned(), self.operation.into());
        self.record_or_owe(outcome);
    }
}

impl Unfinished {
    fn is(&self, operation: &str) -> bool {
        self.intent.entry.operation == operation
    }
}

/// The begin or the end of an exclusive operation. One that never came to its intent left open what it found so.
fn is_of_exclusive(entry: &Entry) -> bool {
    let ends = matches!(entry.kind, Kind::Intent | Kind::Outcome);
    ends && EXCLUSIVE.contains(&entry.operation.as_str()) && !entry.details.contains_key(UNBEGUN)
}

/// The backups that are not there under the same id after the rotation that `intent` announces.
fn leaving(intent: &Entry) -> impl Iterator<Item = BackupId> {
    let steps = intent.details.get("rotation").and_then(Value::as_array).into_iter().flatten();
    steps.filter_map(|step| step.get("from").or_else(|| step.get("id"))?.as_str()?.parse().ok())
}

fn details(removed: &[String], deleted: &[BackupId]) -> Map<String, Value> {
    let deleted: Vec<_> = deleted.iter().map(ToString::to_string).collect();
    Map::from_iter([("removed".to_owned(), removed.into()), ("deleted".to_owned(), deleted.into())])
}
