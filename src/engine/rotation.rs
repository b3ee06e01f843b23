//! Carrying out a rotation plan.
//!
//! 1. The files of promoted backups get their new names (hard links; copies where links fail), durable.
//! 2. One catalog write names the promoted entries and marks what goes. (A create adds its backup to that very write.)
//! 3. The marked files are removed, then their entries.
//!
//! A crash before 2 leaves second names of known files, which recovery removes; after 2 it leaves marked entries, which
//! recovery finishes.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Map;

use super::{Engine, Error, Session, Unrecorded};
use crate::backup::retention::{self, Plan, Retention, Step};
use crate::backup::{Backup, BackupId, Verified};
use crate::catalog::Catalog;
use crate::disk::{self, Context};
use crate::sqlite;
use crate::sqlite::pages::read_back;

/// What a rotation without a new backup is called in the audit log.
pub(super) const ROTATE: &str = "rotate";

impl Engine {
    /// The backups as rotation sees them. A good one whose files are not as long as they were, or not there, fills no place, is not the
    /// newest good one and stands for no week or month [P5]: it is damaged. One whose files can't be looked at just now is left where
    /// it is.
    pub(super) fn as_they_lie(&self, backups: &[Backup], new: Option<BackupId>) -> Vec<Backup> {
        let mut backups = backups.to_vec();
        for backup in backups.iter_mut().filter(|backup| backup.is_good() && Some(backup.id) != new) {
            match self.store.is_there(backup) {
                Ok(true) => {}
                Ok(false) => {
                    backup.verified = Verified { at: self.clock.now(), ok: false, ciphertext_only: false };
                }
                Err(error) => {
                    tracing::warn!(id = %backup.id, %error, "it can't be looked at, so it is left where it is");
                    backup.pinned = true;
                }
            }
        }
        backups
    }
}

impl Session<'_> {
    /// What rotation does to the backups as they lie there, but for `new`, which has no files yet. What is found damaged counts as
    /// that from here on, and new backups go on without it.
    pub(super) fn plan(&mut self, retention: &Retention, freeze: Option<&str>, new: Option<BackupId>) -> Plan {
        self.catalog.unpromoted = None;
        let backups = self.engine.as_they_lie(&self.catalog.backups, new);
        for found in backups.iter().filter(|backup| !backup.verified.ok) {
            if let Some(recorded) = self.catalog.get_mut(&found.id).filter(|recorded| recorded.verified.ok) {
                tracing::warn!(id = %found.id, "its files are not what was recorded, so rotation doesn't count it");
                recorded.verified = found.verified.clone();
            }
        }
        retention::plan(&backups, retention, freeze)
    }

    /// Step 1, and the entries of step 2 in memory; or why there is a promotion that can't be had: what is dropped may go only because of
    /// it, so nothing is done, the catalog remembers why, and the next rotation plans anew. It keeps no new backup away.
    pub(super) fn prepare(&mut self, plan: &Plan) -> Result<Option<String>, Error> {
        let before = self.catalog.clone();
        let promotions = plan.steps.iter().filter_map(|step| match step {
            Step::Promote { from, to, .. } => Some((*from, *to)),
            Step::Drop { .. } => None,
        });
        let (mut named, mut refused) = (Vec::new(), None);
        for (from, to) in promotions.clone() {
            let reason = match self.promote(&from, to, &mut named) {
                Ok(true) => continue,
                Ok(false) => "its copy reads back otherwise than was recorded".to_owned(),
                Err(error @ Error::Sqlite(sqlite::Error::Cancelled)) => return Err(error),
                Err(error) => error.to_string(),
            };
            refused = Some((Some(from), format!("{from} can't become {to}: {reason}")));
            break;
        }
        if refused.is_none()
            && let Err(error) = self.engine.store.sync(promotions.map(|(_, to)| to.tier()))
        {
            refused = Some((None, error.to_string()));
        }
        let Some((culprit, reason)) = refused else {
            for step in &plan.steps {
                if let Step::Drop { id, .. } = step {
                    self.catalog.mark_deleting(id);
                }
            }
            return Ok(None);
        };
        self.catalog = before;
        self.demote(culprit, &named);
        tracing::error!("nothing is promoted or dropped: {reason}");
        self.catalog.unpromoted = Some(reason.clone());
        Ok(Some(reason))
    }

    /// Names its files a second time, which are `named` then, and its entry. `false` is a copy that reads back otherwise than was recorded.
    fn promote(&mut self, from: &BackupId, to: BackupId, named: &mut Vec<PathBuf>) -> Result<bool, Error> {
        let Some(old) = self.catalog.get(from).cloned() else { return Ok(true) };
        let mut new = Backup { id: to, tier: to.tier(), promoted_from: Some(*from), ..old.clone() };
        for (name, copy) in &mut new.databases {
            copy.file = to.file(name, copy.form);
            let target = self.engine.store.path(&to, name, copy.form);
            let source = self.engine.store.path(from, name, copy.form);
            if !self.second_name(&source, &target, &copy.stored_checksum)? {
                return Ok(false);
            }
            named.push(target);
        }
        self.catalog.mark_deleting(from);
        self.catalog.backups.push(new);
        Ok(true)
    }

    /// Takes back the names that were given; what can't be removed is left to recovery. If the backup that can't be promoted is itself
    /// not what was recorded, it counts as damaged from here on. One that can't be read may be whole.
    fn demote(&mut self, culprit: Option<BackupId>, named: &[PathBuf]) {
        for path in named {
            if let Err(error) = disk::remove(path) {
                tracing::warn!(%error, "a second name is left");
            }
        }
        let Some(old) = culprit.and_then(|id| self.catalog.get(&id)).cloned() else { return };
        for (name, copy) in &old.databases {
            let path = self.engine.store.path(&old.id, name, copy.form);
            let Ok(file) = disk::open_regular(&path) else { continue };
            if read_back(&file, &path, &self.call.control).is_ok_and(|read| read.checksum != copy.stored_checksum)
                && let Some(recorded) = self.catalog.get_mut(&old.id)
            {
                recorded.verified = Verified { at: self.engine.clock.now(), ok: false, ciphertext_only: false };
            }
        }
    }

    /// Names the file a second time, or copies it where the file system has no second names or the folder is on another one. A file
    /// that has that name already is adopted if it holds the same, else moved aside. `false` is a copy that reads back otherwise [P8].
    pub(super) fn second_name(&self, from: &Path, target: &Path, checksum: &str) -> Result<bool, Error> {
        let there = disk::open_regular(target).ok();
        let there = there.map(|file| read_back(&file, target, &self.call.control)).transpose()?;
        if there.is_some_and(|there| there.checksum == checksum) {
            return Ok(true);
        }
        if target.symlink_metadata().is_ok() {
            let aside = free_name(target);
            tracing::warn!(file = %target.display(), aside = %aside.display(), "an unknown file was moved aside");
            disk::rename_new(target, &aside)?;
        }
        if std::fs::hard_link(from, target).is_ok() {
            return Ok(true);
        }
        let partial = disk::Partial::create(target)?;
        let mut source = disk::open_regular(from)?;
        let copied: std::io::Result<u64> = std::io::copy(&mut source, &mut partial.file() as &mut &File);
        copied.to("copy", from)?;
        partial.sync()?;
        if read_back(partial.file(), partial.path(), &self.call.control)?.checksum != checksum {
            return Ok(false);
        }
        partial.publish_new()?;
        Ok(true)
    }

    /// Step 3. Marked entries are gone for everyone already; what can't be removed now is left to the next operation, and
    /// stands in nobody's way.
    pub(super) fn finish_deletions(&mut self) -> Deletions {
        let mut deletions = Deletions::default();
        deletions.failed = self.remove_marked(&mut deletions.done).err();
        if let Some(error) = &deletions.failed {
            tracing::warn!(%error, "what was deleted is not removed yet");
        }
        deletions
    }

    fn remove_marked(&mut self, done: &mut Vec<BackupId>) -> Result<(), Error> {
        let going: Vec<Backup> = self.catalog.backups.iter().filter(|backup| backup.deleting).cloned().collect();
        if going.is_empty() {
            return Ok(());
        }
        // The marks are durable before a file goes, also where the catalog write failed after its rename.
        disk::sync_dir(self.engine.store.root())?;
        let mut failed = None;
        let mut removed = Vec::new();
        for backup in &going {
            match self.engine.store.paths(backup).try_for_each(|(_, path)| disk::remove(&path)) {
                Ok(()) => removed.push(backup.id),
                Err(error) => failed = Some(error),
            }
        }
        self.engine.store.sync(going.iter().map(|backup| backup.tier))?;
        self.catalog.backups.retain(|backup| !(backup.deleting && removed.contains(&backup.id)));
        if !removed.is_empty() {
            self.commit()?;
        }
        done.append(&mut removed);
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// A rotation that follows from what is saved already: a failure of it makes that no failure. The next backup brings
    /// the rotation with it.
    pub(super) fn rotate_after(&mut self, rotate: impl FnOnce(&mut Self) -> Result<Plan, Error>) -> Plan {
        let before = self.catalog.clone();
        rotate(self).unwrap_or_else(|error| {
            tracing::warn!(%error, "the rotation that is due waits for the next backup");
            // What was planned may be marked in memory already; what counts is what was written.
            self.catalog = Catalog::load(self.engine.store.root()).ok().flatten().unwrap_or(before);
            Plan::default()
        })
    }

    /// Applies what is due without a new backup. It is an operation of its own within the one that wants it: what went,
    /// and what has another name now, is told even if that one fails.
    pub(super) fn rotate_now(&mut self, retention: &Retention, freeze: Option<&str>) -> Result<Plan, Error> {
        let plan = self.plan(retention, freeze, None);
        if plan.steps.is_empty() {
            return Ok(plan);
        }
        let steps = serde_json::to_value(&plan.steps).unwrap_or_default();
        let steps = Map::from_iter([("rotation".to_owned(), steps)]);
        let wanted_by = std::mem::replace(&mut self.operation, ROTATE);
        let rotated = self.audited(None, Unrecorded::IsRefused, steps.clone(), |session| {
            let (plan, steps) = match session.prepare(&plan)? {
                None => (plan, steps),
                Some(reason) => {
                    (Plan::standing(reason.clone()), Map::from_iter([("frozen".to_owned(), reason.into())]))
                }
            };
            session.commit()?;
            session.finish_deletions();
            Ok((plan, steps))
        });
        self.operation = wanted_by;
        rotated
    }
}

/// How far the removal of marked backups came.
#[derive(Default)]
pub(super) struct Deletions {
    /// These are gone.
    pub(super) done: Vec<BackupId>,
    /// What stood in the way of others.
    pub(super) failed: Option<Error>,
}

fn free_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut number = 1;
    loop {
        let aside = target.with_file_name(format!("{name}.aside-{number}"));
        if aside.symlink_metadata().is_err() {
            return aside;
        }
        number += 1;
    }
}
