//! Restoring a backup, or what the databases held at an instant, under a running app. The order of steps:
//!
//! 1. The backup's files are copied into a private folder while they are hashed (`staging`), or the databases are rebuilt there from
//!    the journal (`journal::point`); it is these very copies that are checked and restored. They are whole, and of the same kind as the live databases. The intent was recorded before.
//! 2. A pre-restore snapshot of all live databases, not under its final name yet. While it is read back the pages that differ are found.
//! 3. Locks on all live databases, in name order. What was committed since step 2 is brought into the snapshot.
//! 4. `restore.json`, durable: which backup or instant, which private files, which pre-restore backup, and for each database the mark that
//!    its commit will leave (`plan`). Then the pre-restore backup is published: every commit that the app was told of is in it,
//!    before the first live byte changes [P7].
//! 5. The differing pages are written, within one transaction of each database.
//! 6. All are committed, right after each other.
//! 7. The live databases are read back. The outcome is recorded; `restore.json` goes, then the private files.
//!
//! A crash before 4, or an error before the first commit of 6, leaves the old state; a crash later is settled by the marks
//! (`settle`): none there, nothing has changed; all there, it is done; some there, the others follow [P6].

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::create::OVERHEAD;
use super::past::{Origin, Past};
use super::plan::Planned;
use super::record::{HELD, PRE_RESTORE};
use super::recovery::RECOVERY;
use super::replace::Done;
use super::settle::Settled;
use super::staging::Staged;
use super::{Call, Engine, Error, FetchedPoint, Session, Unrecorded};
use crate::audit::Kind as Line;
use crate::backup::{BackupId, DatabaseCopy, DatabaseName, Form, Subject};
use crate::disk::{self, Partial};
use crate::sqlite::check::{self, Verdict};
use crate::sqlite::kind::{Kind, Misfit};
use crate::sqlite::page_set::New;
use crate::sqlite::restore::{ReadBack, Target};
use crate::sqlite::snapshot::facts;
use crate::sqlite::{self, Control, Source, open_finished, situation};

/// How often a restore is begun anew when the app's writers would have to wait for too long.
pub(super) const ROUNDS: usize = 3;
/// How long a live database in WAL mode may be looked at.
const LOOK: Duration = Duration::from_secs(600);

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restore {
    /// Which backup, or which instant.
    pub subject: Subject,
    /// Also over corrupt live data, and with triggers and views that the live databases don't have.
    pub force: bool,
    /// By putting whole files in place while the app is stopped.
    pub offline: Option<Offline>,
}

/// The word of whoever has stopped the app.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offline {
    /// Also where it can't be seen: nobody shows that has a database in rollback mode open and does nothing just now.
    pub app_is_stopped: bool,
}

fn is_stopped(offline: Option<Offline>) -> bool {
    offline.is_some_and(|offline| offline.app_is_stopped)
}

/// What was done.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The backup or the instant that the live databases hold now.
    #[serde(flatten)]
    pub subject: Subject,
    /// The backup of what they held before: restoring it takes all of this back. Nothing if there was nothing to keep.
    #[schema(required = true)]
    pub pre_restore: Option<BackupId>,
    /// Each database that was restored.
    pub databases: BTreeMap<DatabaseName, RestoredDatabase>,
    /// Milliseconds for which the app's writers were kept waiting.
    pub held_millis: u64,
    /// Microseconds between the first commit and the last: whoever read then saw one database old and another one new.
    pub apart_micros: u64,
    /// What is worth knowing besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What was done to one database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredDatabase {
    /// Pages that it has now.
    pub pages: u64,
    /// Pages that were written, since they differed.
    pub written: u64,
    /// Every page was read back and is as it was then. Otherwise the app had written again, or pages of another size were taken
    /// over, and the structure was looked at.
    pub read_back: bool,
}

impl Restored {
    /// What the audit log says of it.
    pub(super) fn details(&self) -> Map<String, Value> {
        let mut details = Map::from_iter([
            (PRE_RESTORE.to_owned(), serde_json::to_value(self.pre_restore).unwrap_or_default()),
            ("databases".to_owned(), serde_json::to_value(&self.databases).unwrap_or_default()),
            (HELD.to_owned(), self.held_millis.into()),
            ("apartMicros".to_owned(), self.apart_micros.into()),
        ]);
        if !self.notes.is_empty() {
            details.insert("notes".to_owned(), self.notes.clone().into());
        }
        details
    }
}

/// A restore that is ready to be carried out.
pub(super) struct Job {
    pub(super) subject: Subject,
    pub(super) force: bool,
    /// The name of the private folder.
    pub(super) folder: String,
    /// The copies of the databases that are to be restored.
    pub(super) files: BTreeMap<DatabaseName, PrivateFile>,
    /// Those that an attempt which was cut short has restored already, and the backup of what they held before.
    pub(super) restored: Option<Restoring>,
}

/// What may take a live database's place though it has what that lacks.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    /// Someone has said so.
    pub(super) force: bool,
    /// It was the app's own before the last restore.
    pub(super) is_undo: bool,
}

impl Allowed {
    /// What stands in the way all the same.
    pub(super) fn stops(self, copy: &Kind, live: &Target) -> impl Iterator<Item = Misfit> {
        // SQLite would take the copy's mode over with its pages, under an app that has the database open in the other one.
        let is_wal = live.is_wal() || copy.is_wal;
        copy.misfits(&live.kind).into_iter().filter(move |misfit| match misfit {
            Misfit::Empty => !self.is_undo,
            Misfit::Code(_) => !self.is_undo && !self.force,
            Misfit::PageSize { .. } => is_wal,
            Misfit::Foreign(_) | Misfit::Incompatible(_) => true,
        })
    }
}

/// The databases that are restored already, and the backup of what was there before, if anything was.
pub(super) type Restoring = (BTreeMap<DatabaseName, Planned>, Option<BackupId>);

/// A restore that has changed the live databases: of what, and the backup of what was there before.
#[derive(Clone, Copy)]
pub(super) struct Replaced {
    pub(super) subject: Subject,
    pub(super) pre_restore: Option<BackupId>,
}

impl Replaced {
    fn wrong(self, name: &DatabaseName, reason: String) -> Error {
        let Self { subject, pre_restore } = self;
        Error::RestoredWrong { subject, pre_restore, name: name.clone(), reason }
    }
}

/// A copy that nobody else touches.
pub(super) struct PrivateFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) copy: DatabaseCopy,
}

impl PrivateFile {
    pub(super) fn at(path: PathBuf, copy: DatabaseCopy) -> Result<Self, Error> {
        Ok(Self { file: disk::open_regular(&path)?, path, copy })
    }

    pub(super) fn both(&self) -> (&File, &Path) {
        (&self.file, &self.path)
    }

    /// As what takes the place of the live one.
    pub(super) fn as_new(&self) -> New<'_> {
        New { file: &self.file, path: &self.path, page_size: self.copy.page_size }
    }

    pub(super) fn pages(&self) -> u64 {
        self.copy.size / u64::from(self.copy.page_size.max(1))
    }
}

impl Engine {
    /// Puts the live databases back to what a backup holds, or to what they held at an instant, while the app has them open.
    pub fn restore(&self, restore: &Restore, call: &Call) -> Result<Restored, Error> {
        self.restore_with(restore, None, call)
    }

    /// The same of an instant whose journal was brought from a replica.
    pub fn restore_fetched(&self, restore: &Restore, fetched: &FetchedPoint, call: &Call) -> Result<Restored, Error> {
        self.restore_with(restore, Some(fetched), call)
    }

    fn restore_with(&self, restore: &Restore, fetched: Option<&FetchedPoint>, call: &Call) -> Result<Restored, Error> {
        let mut session = self.begin_while("restore", is_stopped(restore.offline), call)?;
        let subject = Some(restore.subject);
        let looked_up = || self.origin(restore.subject);
        let origin = fetched.map_or_else(looked_up, |fetched| Ok(fetched.origin()));
        let origin = origin.inspect_err(|error| self.refused("restore", call, subject, error))?;
        let mut planned = Map::from_iter([("force".to_owned(), restore.force.into())]);
        if let Some(fetched) = fetched {
            planned.insert("from".to_owned(), fetched.label().into());
        }
        if let Some(offline) = restore.offline {
            planned.insert("offline".to_owned(), true.into());
            planned.insert("appIsStopped".to_owned(), offline.app_is_stopped.into());
        }
        let restored = session.audited(subject, Unrecorded::IsRefused, planned, |session| {
            let restored = match restore.offline {
                None => session.restore(restore, &origin)?,
                Some(_) => session.restore_offline(restore, &origin)?,
            };
            let details = restored.details();
            Ok((restored, details))
        });
        // What isn't settled is left to the next operation, with all that it needs.
        if !matches!(restored, Err(Error::RestoreUnfinished { .. })) {
            session.conclude();
        }
        restored
    }

    /// Takes the last restore back, whose end is waited for if it was cut short.
    pub fn undo(&self, force: bool, offline: Option<Offline>, call: &Call) -> Result<Restored, Error> {
        if self.is_unsettled() {
            self.begin_while(RECOVERY, is_stopped(offline), call)?;
        }
        self.restore(&Restore { subject: self.undoable()?.into(), force, offline }, call)
    }

    /// The backup that the last restore which changed anything made of what it replaced, whether or not it went well.
    fn undoable(&self) -> Result<BackupId, Error> {
        let mut made = None;
        self.audit.newest_first(|line| {
            let entry = &line.entry;
            let before = entry.details.get(PRE_RESTORE);
            let changed = entry.ok == Some(true) || before.is_some();
            let restored = entry.kind == Line::Outcome && entry.operation == "restore" && changed;
            if restored {
                made = before.and_then(Value::as_str).and_then(|id| id.parse().ok());
            }
            restored
        })?;
        let standing = self.list()?.into_iter().map(|backup| backup.id);
        made.filter(|made| standing.into_iter().any(|id| id == *made)).ok_or(Error::NothingToUndo)
    }

    /// What the last restore replaced was the app's own, whatever it is.
    pub(super) fn is_undo(&self, subject: Subject) -> bool {
        self.undoable().is_ok_and(|undoable| subject == undoable.into())
    }

    /// The live databases that it holds. Without force it has to be all: an undo too would leave two ages behind, where a restore that began
    /// with a ruined database had nothing of that to keep.
    pub(super) fn assert_same_databases(&self, past: &Past, force: bool) -> Result<Vec<Source>, Error> {
        let configured = self.sources();
        let (held, not_held): (Vec<_>, Vec<_>) =
            configured.into_iter().partition(|source| past.databases.contains_key(&source.name));
        let unknown = past.databases.keys().filter(|name| !self.config.databases.contains_key(*name));
        let unknown: Vec<_> = unknown.cloned().collect();
        let not_held: Vec<_> = not_held.into_iter().map(|source| source.name).collect();
        if held.is_empty() || !force && (!unknown.is_empty() || !not_held.is_empty()) {
            return Err(Error::OtherDatabases { subject: past.subject, not_held, unknown });
        }
        Ok(held)
    }
}

impl Session<'_> {
    /// Does what has to be done whoever wants to stop: the live databases are changed already, or may be.
    pub(super) fn undisturbed<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        let unstoppable = self.call.control.unstoppable();
        let control = std::mem::replace(&mut self.call.control, unstoppable);
        let done = act(self);
        self.call.control = control;
        done
    }

    pub(super) fn control(&self) -> Control {
        self.call.control.also(self.permit.noting())
    }

    fn restore(&mut self, restore: &Restore, origin: &Origin) -> Result<Restored, Error> {
        self.assert_room(origin)?;
        let staged = self.engine.stage_past(origin, &self.control())?;
        let (job, targets) = self.job(restore, staged)?;
        let mut round = 1;
        loop {
            self.call.control.check()?;
            let mut plan = None;
            let error = match self.attempt(&job, &targets, &mut plan) {
                Ok(done) => return self.undisturbed(|session| session.finished(&job, &targets, done)),
                Err(error) => error,
            };
            if let Some(plan) = plan {
                let made = plan.pre_restore.last().copied();
                match self.settle(plan)? {
                    Settled::Restored(restored) => return Ok(*restored),
                    Settled::Unchanged => self.discard_in_vain(made, &error),
                }
            }
            if !error.may_begin_anew() || round == ROUNDS {
                return Err(error);
            }
            tracing::info!(round, "the app's writers would have had to wait for too long; beginning anew");
            round += 1;
        }
    }

    /// Room for the private copies and the pre-restore backup together.
    pub(super) fn assert_room(&self, origin: &Origin) -> Result<(), Error> {
        let private = origin.size();
        let live: u64 = self.engine.sources().iter().filter_map(|it| sqlite::identify(it).ok()).map(|it| it.size).sum();
        // Its plain files stay until the encoded ones are published.
        let encoded = if self.engine.config.codec.form() == Form::Plain { 0 } else { live };
        let (needed, free) = (private + live + encoded + OVERHEAD, disk::free_space(self.engine.store.root())?);
        if free < needed { Err(Error::Full { needed, free }) } else { Ok(()) }
    }

    /// Step 1, but for the copying: the private copies are whole, and fit the live databases.
    fn job(&self, restore: &Restore, staged: Staged) -> Result<(Job, Vec<Target>), Error> {
        let Staged { past, files: paths, folder } = staged;
        let allowed = Allowed { force: restore.force, is_undo: self.engine.is_undo(past.subject) };
        let sources = self.engine.assert_same_databases(&past, allowed.force)?;
        let (mut files, mut targets) = (BTreeMap::new(), Vec::new());
        for source in sources {
            let name = &source.name;
            let (Some(path), Some(copy)) = (paths.get(name), past.databases.get(name)) else { continue };
            let file = PrivateFile::at(path.clone(), copy.clone())?;
            let target = self.target(&source)?;
            self.assert_fits(&past, &file, &target, allowed)?;
            files.insert(name.clone(), file);
            targets.push(target);
        }
        let folder_name = folder.name().to_owned();
        // From here on it goes when the restore is settled.
        folder.keep();
        let (subject, force) = (past.subject, restore.force);
        Ok((Job { subject, force, folder: folder_name, files, restored: None }, targets))
    }

    pub(super) fn target(&self, source: &Source) -> Result<Target, Error> {
        Target::open(source, self.engine.config.lock_timeout, &self.control()).map_err(Error::of_target)
    }

    fn assert_fits(&self, past: &Past, file: &PrivateFile, target: &Target, allowed: Allowed) -> Result<(), Error> {
        let (subject, name) = (past.subject, &target.name);
        let kind = self.check_private(past, file, name, allowed.force)?;
        let stop = allowed.stops(&kind, target).next();
        stop.map_or(Ok(()), |misfit| Err(Error::misfit(subject, name, misfit)))
    }

    /// The copy's structure is whole, as is what is known of it. One that was kept of corrupt data is put back as it
    /// was, with force.
    pub(super) fn check_private(
        &self,
        past: &Past,
        file: &PrivateFile,
        name: &DatabaseName,
        force: bool,
    ) -> Result<Kind, Error> {
        let damaged = |reason: String| Error::Damaged { subject: past.subject, reason: format!("{name}: {reason}") };
        let said = |error| Error::of_copy(past.subject, situation(name, error));
        let mut copy = open_finished(&file.path).map_err(said)?;
        let found = facts(&copy).map_err(said)?;
        if found.bytes() != file.copy.size || found.bytes() == 0 || found.page_size != file.copy.page_size {
            return Err(damaged(format!("it holds {} bytes of pages instead of {}", found.bytes(), file.copy.size)));
        }
        let control = sqlite::snapshot::patient(&found, &self.control());
        let report = check::check_finished(&mut copy, &file.path, name, self.engine.config.check, &control)?;
        if let Verdict::Corrupt(findings) = report.verdict
            && !(past.is_corrupt && force)
        {
            return Err(damaged(findings.join("; ")));
        }
        Kind::of(&copy).map_err(said)
    }

    /// Step 7, but for the outcome: the live databases hold what was to be restored, as far as the app has not written since.
    pub(super) fn finished(&mut self, job: &Job, targets: &[Target], done: Done) -> Result<Restored, Error> {
        let (mut databases, mut notes) = (BTreeMap::new(), Vec::new());
        let replaced = Replaced { subject: job.subject, pre_restore: Some(done.pre_restore) };
        for target in targets {
            let (name, file) = (&target.name, &job.files[&target.name]);
            let read_back = match target.is_replaced_by(file.copy.page_size) {
                false => self.proven(replaced, target, file, &mut notes)?,
                true => self.looks_whole(replaced, target, &mut notes)?,
            };
            let written = done.written.get(name).copied().unwrap_or_default();
            databases.insert(name.clone(), RestoredDatabase { pages: file.pages(), written, read_back });
            target.checkpoint();
        }
        notes.extend(self.look_at_caught_up(&done));
        self.rotate_after(Session::rotate_due);
        notes.extend(job.restored.iter().flat_map(|(restored, _)| restored.keys()).map(|name| {
            format!("`{name}` had been restored already when the restore was cut short; what the app wrote to it since is kept")
        }));
        Ok(Restored {
            subject: job.subject,
            pre_restore: Some(done.pre_restore),
            databases,
            held_millis: done.committed.held.as_millis() as u64,
            apart_micros: done.committed.apart.as_micros() as u64,
            notes,
        })
    }

    /// A database that was replaced as a whole: nobody kept the app out between that and a look, so no page is compared.
    fn looks_whole(&self, replaced: Replaced, target: &Target, notes: &mut Vec<String>) -> Result<bool, Error> {
        match self.look(target) {
            Ok(Verdict::Corrupt(findings)) => Err(replaced.wrong(&target.name, findings.join("; "))),
            Ok(_) => Ok(false),
            Err(error) => {
                notes.push(format!("`{}` was restored, and could not be looked at: {error}", target.name));
                Ok(false)
            }
        }
    }

    /// Says whether every page could be compared. What is committed stays so, whatever is in the way of that: a look that
    /// could not be had is noted, and what the live file itself has done wrong is an error.
    pub(super) fn proven(
        &self,
        replaced: Replaced,
        target: &Target,
        file: &PrivateFile,
        notes: &mut Vec<String>,
    ) -> Result<bool, Error> {
        use sqlite::Error as Live;
        let name = &target.name;
        match self.compare(replaced, target, file) {
            Err(
                error @ (Error::Disk(_)
                | Error::Sqlite(
                    Live::Cancelled
                    | Live::Locked { .. }
                    | Live::TooSlow { .. }
                    | Live::HalfCommitted { .. }
                    | Live::Disk(_),
                )),
            ) => {
                notes.push(format!("`{name}` was restored, and could not be read back: {error}"));
                Ok(false)
            }
            Err(Error::Sqlite(error)) => Err(replaced.wrong(name, format!("it can't be read back ({error})"))),
            compared => compared,
        }
    }

    /// Page by page; what the app has committed since then is looked at as a whole instead.
    fn compare(&self, replaced: Replaced, target: &Target, file: &PrivateFile) -> Result<bool, Error> {
        let (control, timeout) = (self.control(), self.engine.config.lock_timeout);
        let wrong = |reason| replaced.wrong(&target.name, reason);
        match target.read_back(file.both(), timeout, &control)? {
            ReadBack::Same => Ok(true),
            ReadBack::Differs(page) => Err(wrong(format!("page {page} reads back differently from what was written"))),
            ReadBack::Overtaken => match self.look(target)? {
                Verdict::Corrupt(findings) => Err(wrong(findings.join("; "))),
                _ => Ok(false),
            },
        }
    }

    /// The structure of a live database, for no longer than its writers may be kept waiting.
    pub(super) fn look(&self, target: &Target) -> Result<Verdict, Error> {
        let (control, config) = (self.control(), &self.engine.config);
        let bound = if target.is_wal() { LOOK } else { config.rollback_hold };
        match target.look(config.lock_timeout, &control.within(Instant::now(), bound)) {
            Err(sqlite::Error::TooSlow { .. }) => Ok(Verdict::NotCheckable(vec!["it took too long".to_owned()])),
            looked => Ok(looked?),
        }
    }

    /// What was brought into the pre-restore backup under the locks had its structure looked at as it was before.
    fn look_at_caught_up(&mut self, done: &Done) -> Vec<String> {
        let look = |name| self.look_at_copy(&done.pre_restore, name, done.plain.get(name));
        let looked = done.caught_up.iter().try_for_each(look);
        let looked = looked.and_then(|()| if done.caught_up.is_empty() { Ok(()) } else { self.commit() });
        match looked {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("the structure of {} could not be looked at: {error}", done.pre_restore)],
        }
    }

    /// An encoded one has its plain file still.
    fn look_at_copy(&mut self, id: &BackupId, name: &DatabaseName, plain: Option<&Partial>) -> Result<(), Error> {
        let said = |error| Error::of_copy((*id).into(), situation(name, error));
        let Some(form) = self.catalog.get(id).and_then(|it| it.databases.get(name)).map(|copy| copy.form) else {
            return Ok(());
        };
        let path = plain.map_or_else(|| self.engine.store.path(id, name, form), |plain| plain.path().to_owned());
        let mut copy = open_finished(&path).map_err(said)?;
        let patient = sqlite::snapshot::patient(&facts(&copy).map_err(said)?, &self.control());
        let report = check::check_finished(&mut copy, &path, name, self.engine.config.check, &patient)?;
        let Some(backup) = self.catalog.get_mut(id) else { return Ok(()) };
        if let Verdict::Corrupt(findings) = &report.verdict {
            backup.checked.ok = false;
            backup.findings.push(format!("{name}: corrupt: {}", findings.join("; ")));
        }
        if let Some(copy) = backup.databases.get_mut(name) {
            copy.tables = report.tables;
        }
        Ok(())
    }

    /// The pre-restore backup of a restore that was given up before it changed anything, and that is no sign of a disk that
    /// can't be trusted: it would only push out those that tell of something.
    fn discard_in_vain(&mut self, made: Option<BackupId>, error: &Error) {
        if let Some(id) = made.filter(|_| matches!(error.code(), "restore-hold" | "cancelled")) {
            self.discard(id);
        }
    }

    /// A pre-restore backup that nobody needs. One that isn't there any more is none.
    pub(super) fn discard(&mut self, id: BackupId) {
        self.catalog.mark_deleting(&id);
        if let Err(error) = self.commit() {
            tracing::warn!(%error, %id, "a pre-restore backup that nobody needs is still there");
        }
        self.finish_deletions();
    }
}
