//! Settling a restore that was cut short, by the marks that its commits leave. Done by whoever has just gained `.lock`, and
//! by a restore itself that met an error once `restore.json` was there.
//!
//! - No live database has its mark: nothing has changed. What a failed commit may have left in a WAL is buried.
//! - All have it: it is done. The structure of each is looked at.
//! - Some have it: the app goes on with one old and one new database, so the others follow at once. What the app has
//!   written to them since is brought into a second pre-restore backup first; those that are restored are in it as they were
//!   before. What the app has written to *those* since stays in them.
//!
//! `restore.json` goes once the outcome is recorded, and the private copies after it. Each step can be cut short and begun again.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{Plan, Sign};
use super::read::other_bytes;
use super::restore::{Job, PrivateFile, ROUNDS, Restored, RestoredDatabase};
use super::staging::private_name;
use super::{Error, Session, bytes};
use crate::backup::{BackupId, DatabaseCopy, DatabaseName};
use crate::disk;
use crate::journal::timeline::tell_restored;
use crate::sqlite::check::Verdict;
use crate::sqlite::pages::read_back;
use crate::sqlite::restore::Target;
use crate::sqlite::{self, Source, cookie_on_disk, identify};

/// What a restore that was cut short has come to.
pub(super) enum Settled {
    /// Nothing has changed.
    Unchanged,
    /// The live databases hold what was to be restored.
    Restored(Box<Restored>),
}

impl Settled {
    /// What was done, if anything was.
    pub(super) fn restored(&self) -> Option<&Restored> {
        match self {
            Settled::Unchanged => None,
            Settled::Restored(restored) => Some(restored),
        }
    }
}

impl Session<'_> {
    /// Brings a restore to one of its two ends. Whoever asks it to stop is heard after that: who is told that it was
    /// cancelled finds the old state.
    pub(super) fn settle(&mut self, plan: Plan) -> Result<Settled, Error> {
        self.undisturbed(|session| session.settle_whole(plan))
    }

    fn settle_whole(&mut self, mut plan: Plan) -> Result<Settled, Error> {
        let mut round = 1;
        loop {
            let mut next = None;
            let settled = self.settle_once(&plan, &mut next);
            if let Some(next) = next {
                self.discard_superseded(&plan, &next);
                plan = next;
            }
            match settled {
                Ok(settled) => return Ok(settled),
                Err(error @ Error::RestoredWrong { .. }) => return Err(error),
                Err(error) => {
                    let reason = in_the_way(error);
                    if round == ROUNDS {
                        return Err(Error::RestoreUnfinished { subject: plan.subject, reason });
                    }
                    tracing::warn!(reason, "a restore is not settled yet; trying again");
                }
            }
            round += 1;
        }
    }

    /// Each try has a pre-restore backup, which holds what the one before it did and what the app has written since. So of a restore
    /// the first stays and the newest: however often it is tried, it pushes no other restore's out.
    fn discard_superseded(&mut self, before: &Plan, next: &Plan) {
        let newest = self.newest_of(next);
        if newest.is_none() || newest != next.pre_restore.last().copied() {
            return;
        }
        let is_over = |id: &&BackupId| Some(**id) != newest && self.catalog.get(id).is_some();
        let over: Vec<_> = before.pre_restore.iter().skip(1).filter(is_over).copied().collect();
        over.into_iter().for_each(|id| self.discard(id));
    }

    fn settle_once(&mut self, plan: &Plan, next: &mut Option<Plan>) -> Result<Settled, Error> {
        let sources = self.engine.sources();
        let unknown = plan.databases.keys().filter(|name| !sources.iter().any(|source| source.name == **name));
        let unknown: Vec<_> = unknown.cloned().collect();
        if !unknown.is_empty() {
            return Err(Error::PlanNamesUnknown { names: unknown });
        }
        let planned = sources.into_iter().filter(|source| plan.databases.contains_key(&source.name)).collect();
        if plan.is_offline() {
            self.settle_files(plan, planned, next)
        } else {
            self.settle_commits(plan, planned, next)
        }
    }

    fn settle_commits(&mut self, plan: &Plan, sources: Vec<Source>, next: &mut Option<Plan>) -> Result<Settled, Error> {
        let (control, timeout) = (self.control(), self.engine.config.lock_timeout);
        let (mut reached, mut rest) = (Vec::new(), Vec::new());
        for source in &sources {
            let target = Target::open(source, timeout, &control)?;
            if plan.knows_another(&target) {
                rest.push(target);
                continue;
            }
            let is_marked = match plan.databases[&source.name].sign {
                Sign::Commit(mark) => target.is_marked(mark, timeout, &control)?,
                Sign::PageSize { page_size } => target.kind.page_size == page_size,
                Sign::File { file } => target.is_marked(file, timeout, &control)?,
            };
            if is_marked { &mut reached } else { &mut rest }.push(target);
        }
        if reached.is_empty() {
            // A file that has come in its place has nothing to do with this.
            let mut ours = rest.iter().filter(|target| !plan.knows_another(target));
            ours.try_for_each(|target| target.bury(timeout, &control))?;
            return Ok(Settled::Unchanged);
        }
        if rest.is_empty() {
            return Ok(Settled::Restored(Box::new(self.found_restored(plan, &reached))));
        }
        let rest_names = rest.iter().map(|target| target.name.clone()).collect();
        let job = self.rest_of(plan, &rest_names)?;
        let done = self.attempt(&job, &rest, next)?;
        Ok(Settled::Restored(Box::new(self.finished(&job, &rest, done)?)))
    }

    /// The same of an offline restore: a file is in its place, or it isn't.
    fn settle_files(&mut self, plan: &Plan, sources: Vec<Source>, next: &mut Option<Plan>) -> Result<Settled, Error> {
        let (mut there, mut rest, mut is_missing) = (Vec::new(), Vec::new(), false);
        for source in sources {
            // By the header alone: who has the old file locked, or has ruined it, is in nobody's way.
            let cookie = match identify(&source) {
                Err(sqlite::Error::Missing { .. }) => {
                    // It was so, or was moved aside for the new file: that comes in any case.
                    is_missing = true;
                    None
                }
                Err(sqlite::Error::Empty { .. }) => None,
                found => found.and_then(|_| cookie_on_disk(&source))?,
            };
            let is_there = match plan.databases[&source.name].sign {
                Sign::File { file } => cookie.is_some_and(|cookie| file.is_borne(cookie)),
                Sign::Commit(_) | Sign::PageSize { .. } => false,
            };
            if is_there { &mut there } else { &mut rest }.push(source);
        }
        if there.is_empty() && !is_missing {
            rest.iter().try_for_each(|source| disk::remove(&disk::partial_path(&source.path)))?;
            return Ok(Settled::Unchanged);
        }
        if rest.is_empty() {
            let (timeout, control) = (self.engine.config.lock_timeout, self.control());
            let open = |source| Target::open(source, timeout, &control);
            let targets = there.iter().map(open).collect::<Result<Vec<_>, _>>()?;
            return Ok(Settled::Restored(Box::new(self.found_restored(plan, &targets))));
        }
        let job = self.rest_of(plan, &rest.into_iter().map(|source| source.name).collect())?;
        Ok(Settled::Restored(Box::new(self.swap(&job, next)?)))
    }

    /// Nothing was known of what the app has written since, so no page can be held against it: the structure is looked at.
    fn found_restored(&self, plan: &Plan, targets: &[Target]) -> Restored {
        let mut databases = BTreeMap::new();
        let mut notes = vec!["it was found to be done when it was looked for; it could not say so itself".to_owned()];
        for target in targets {
            match self.look(target) {
                Ok(Verdict::Corrupt(findings)) => {
                    notes.push(format!("`{}` is corrupt: {}; restore again", target.name, findings.join("; ")));
                }
                Ok(Verdict::Whole | Verdict::NotCheckable(_)) => {}
                Err(error) => notes.push(format!("the structure of `{}` could not be looked at: {error}", target.name)),
            }
            let pages =
                self.recorded(plan, &target.name).map_or(0, |copy| copy.size / u64::from(copy.page_size.max(1)));
            databases.insert(target.name.clone(), RestoredDatabase { pages, written: 0, read_back: false });
        }
        let (subject, pre_restore) = (plan.subject, self.newest_of(plan));
        Restored { subject, pre_restore, databases, held_millis: 0, apart_micros: 0, notes }
    }

    /// By the plan, or by the catalog.
    fn recorded<'p>(&'p self, plan: &'p Plan, name: &DatabaseName) -> Option<&'p DatabaseCopy> {
        let of_backup = || self.catalog.get(&plan.subject.backup()?)?.databases.get(name);
        plan.databases.get(name)?.copy.as_ref().or_else(of_backup)
    }

    /// What is left to do, with the private copies as they were checked.
    fn rest_of(&self, plan: &Plan, rest: &BTreeSet<DatabaseName>) -> Result<Job, Error> {
        let mut folder = plan.folder.clone();
        let files = self.private_files(plan, &folder, rest).or_else(|error| {
            tracing::warn!(%error, "the private copies are made anew");
            let staged = self.engine.stage_past(&self.engine.origin(plan.subject)?, &self.control())?;
            folder = staged.folder.name().to_owned();
            staged.folder.keep();
            self.private_files(plan, &folder, rest)
        })?;
        let mut restored = plan.databases.clone();
        restored.retain(|name, _| !rest.contains(name));
        // It has the databases that were restored before it as they were.
        Ok(Job {
            subject: plan.subject,
            force: plan.force,
            folder,
            files,
            restored: Some((restored, self.newest_of(plan))),
        })
    }

    /// The newest pre-restore backup that came to be.
    fn newest_of(&self, plan: &Plan) -> Option<BackupId> {
        plan.pre_restore.iter().rev().find(|id| self.catalog.get(id).is_some()).copied()
    }

    fn private_files(
        &self,
        plan: &Plan,
        folder: &str,
        rest: &BTreeSet<DatabaseName>,
    ) -> Result<BTreeMap<DatabaseName, PrivateFile>, Error> {
        let folder = self.engine.private_folder(folder);
        let mut files = BTreeMap::new();
        for name in rest {
            let damaged = |reason: String| Error::Damaged { subject: plan.subject, reason };
            let unknown = || damaged(format!("nothing is known of its copy of `{name}`"));
            let unknown = || plan.subject.backup().map_or_else(unknown, Error::NotFound);
            let copy = self.recorded(plan, name).ok_or_else(unknown)?;
            if copy.checksum != plan.databases[name].checksum {
                let reason = format!("the catalog has another copy of `{name}` than was being restored");
                return Err(damaged(reason));
            }
            let file = PrivateFile::at(folder.join(private_name(name)), copy.clone())?;
            if read_back(&file.file, &file.path, &self.call.control)?.checksum != copy.checksum {
                return Err(damaged(other_bytes(&private_name(name))));
            }
            files.insert(name.clone(), file);
        }
        Ok(files)
    }

    /// The restore is settled and its outcome is recorded.
    pub(super) fn conclude(&self) {
        if self.owes("restore") {
            // Only as long as `restore.json` is there can the next operation say what came of it.
            return;
        }
        let root = self.engine.store.root();
        // The journal knows of it before anything is captured again.
        if Plan::is_there(root)
            && let Err(error) = tell_restored(root).and_then(|()| Plan::remove(root))
        {
            // The next operation settles it once more, and comes to the same end.
            return tracing::warn!(%error, "restore.json is still there");
        }
        self.remove_leftovers();
    }
}

/// Some of these say that nothing was changed, which is true of a restore that they stop before it has begun.
fn in_the_way(error: Error) -> String {
    match error {
        Error::NeedsOffline { reason } => reason,
        Error::AppRuns { name } => {
            format!("`{name}` is open in another process; stop the app, and whatever else has it open")
        }
        Error::AppMayRun { name } => format!(
            "`{name}` is not in WAL mode, or can't be read any more, so it can't be seen whether the app has it open; stop the app, and restore once more with --offline --app-is-stopped"
        ),
        Error::RestoreHold { name, hold, .. } => {
            let hold = humantime::format_duration(hold);
            format!("the app's writers would have to wait for more than {hold} at `{name}` (BACKUP_RESTORE_HOLD)")
        }
        Error::DataFull { path, needed, free } => {
            let (path, needed, free) = (path.display(), bytes(needed), bytes(free));
            format!(
                "the disk of the live databases ({path}) is full: {needed} are needed, {free} are free; make room there"
            )
        }
        Error::CorruptLive { name, findings } => {
            format!("the live database `{name}` is corrupt: {}", findings.join("; "))
        }
        other => other.to_string(),
    }
}
