//! Restoring while the app is stopped: whole files take the place of others. For what can't be written page by page: another
//! page size or text encoding, a live file that is missing or ruined. The order of steps:
//!
//! 1. Private copies, as in `restore`.
//! 2. A pre-restore snapshot of the live databases that can be read.
//! 3. SQLite's exclusive lock on each of these that is replaced, which shows that nobody has it open in WAL mode; in rollback
//!    mode the operator has to say so, as of one that is ruined, unless its locks tell. What was committed since step 2 is brought
//!    into the snapshot, and the WAL is emptied.
//! 4. The new files, beside the live ones: written, with the owner, the mode and the journal mode of what they replace and a
//!    mark as schema cookie, durable.
//! 5. `restore.json`, with these marks; then the pre-restore backup is published.
//! 6. One after the other: what lies there of a missing or ruined database is moved aside; the new file takes its name.
//! 7. Read back; the outcome is recorded; `restore.json` goes.
//!
//! A crash is settled by the marks (`settle`): none of the new files in its place, nothing has changed; some, the others
//! follow.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::encode::AllEncoded;
use super::past::Origin;
use super::plan::{Plan, Sign};
use super::restore::{Job, PrivateFile, Replaced, Restore, Restored, RestoredDatabase};
use super::settle::Settled;
use super::staging::Staged;
use super::{Error, Session};
use crate::backup::{BackupId, Tier};
use crate::disk::{self, Context, Partial};
use crate::sqlite::catch_up::catch_up;
use crate::sqlite::exclusive::{Exclusive, users_of_ruined};
use crate::sqlite::kind::{Kind, Misfit};
use crate::sqlite::pages::read_back;
use crate::sqlite::restore::{Mark, Target};
use crate::sqlite::snapshot::{Instead, Snapshot};
use crate::sqlite::{self, BESIDE, Source, Users, beside};

/// How a live database was found.
enum Found {
    /// SQLite reads it.
    Usable(Kind),
    /// No file is there.
    Missing,
    /// SQLite can't read it, in its words.
    Ruined(String),
}

/// A new file that is ready to take a live one's place.
struct Ready {
    source: Source,
    partial: Partial,
    /// Nobody else has the old one open while this lives.
    held: Option<Exclusive>,
    /// What shows that it is the new one.
    mark: Mark,
}

impl Session<'_> {
    pub(super) fn restore_offline(&mut self, restore: &Restore, origin: &Origin) -> Result<Restored, Error> {
        self.assert_room(origin)?;
        let staged = self.engine.stage_past(origin, &self.control())?;
        let job = self.offline_job(restore, staged)?;
        let mut plan = None;
        let error = match self.swap(&job, &mut plan) {
            Ok(restored) => return Ok(restored),
            // All is in its place, and isn't what was put there.
            Err(error @ Error::RestoredWrong { .. }) => return Err(error),
            Err(error) => error,
        };
        if let Some(plan) = plan
            && let Settled::Restored(restored) = self.settle(plan)?
        {
            return Ok(*restored);
        }
        Err(error)
    }

    /// Step 1. What the live databases hold is compared as far as it can be read.
    fn offline_job(&self, restore: &Restore, staged: Staged) -> Result<Job, Error> {
        let Staged { past, files: paths, folder } = staged;
        let mut files = BTreeMap::new();
        let force = restore.force || self.engine.is_undo(past.subject);
        for source in self.engine.assert_same_databases(&past, restore.force)? {
            let name = &source.name;
            let (Some(path), Some(copy)) = (paths.get(name), past.databases.get(name)) else { continue };
            let file = PrivateFile::at(path.clone(), copy.clone())?;
            let kind = self.check_private(&past, &file, name, restore.force)?;
            let misfits = match self.find(&source)? {
                Found::Usable(live) => kind.misfits(&live),
                Found::Ruined(reason) if !restore.force => {
                    return Err(Error::RuinedLive { name: name.clone(), reason });
                }
                Found::Missing | Found::Ruined(_) => Vec::new(),
            };
            let stops = |misfit: &Misfit| match misfit {
                Misfit::Incompatible(_) | Misfit::PageSize { .. } => false,
                Misfit::Code(_) => !force,
                Misfit::Empty | Misfit::Foreign(_) => true,
            };
            if let Some(misfit) = misfits.into_iter().find(stops) {
                return Err(Error::misfit(past.subject, name, misfit));
            }
            files.insert(name.clone(), file);
        }
        let folder_name = folder.name().to_owned();
        // From here on it goes when the restore is settled.
        folder.keep();
        Ok(Job { subject: past.subject, force: restore.force, folder: folder_name, files, restored: None })
    }

    fn find(&self, source: &Source) -> Result<Found, Error> {
        use sqlite::Error::{Corrupt, Empty, HalfCommitted, Missing, NotADatabase};
        match Target::open(source, self.engine.config.lock_timeout, &self.control()) {
            Ok(target) => Ok(Found::Usable(target.kind)),
            Err(Missing { .. }) => Ok(Found::Missing),
            Err(Corrupt { findings, .. }) => Ok(Found::Ruined(findings.join("; "))),
            Err(error @ (Empty { .. } | NotADatabase { .. } | HalfCommitted { .. })) => {
                Ok(Found::Ruined(error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Steps 2 to 7, once. `planned` is set as soon as `restore.json` may be there.
    pub(super) fn swap(&mut self, job: &Job, planned: &mut Option<Plan>) -> Result<Restored, Error> {
        let mut usable = Vec::new();
        for source in self.sources_of(job) {
            if let Found::Usable(_) = self.find(&source)? {
                usable.push(source);
            }
        }
        let mut snapshot = match usable.is_empty() {
            true => None,
            false => {
                let id = self.free_id(Tier::PreRestore)?;
                Some((id, self.pre_restore_snapshot(&id, usable, &Instead::new(), job)?))
            }
        };
        let ready = self.ready(job, snapshot.as_mut().map(|(_, snapshot)| snapshot))?;
        let encoded = match &snapshot {
            Some((id, snapshot)) => self.encode_beside(id, snapshot, &self.control())?,
            None => AllEncoded::new(),
        };
        let signs = ready.iter().map(|it| (it.source.name.clone(), Sign::File { file: it.mark })).collect();
        let pre_restore = snapshot.as_ref().map(|(id, _)| *id);
        *planned = Some(self.plan_restore(job, pre_restore, signs)?);
        if let Some((id, snapshot)) = snapshot {
            self.publish_pre_restore(job, id, snapshot, encoded)?;
        }
        let mut notes = Vec::new();
        for Ready { source, partial, held, .. } in ready {
            if held.is_none() {
                // It took a while to come here.
                self.assert_let_go(&source)?;
                notes.extend(move_aside(&source.path)?);
            }
            partial.publish_over()?;
            disk::sync_dir(disk::parent(&source.path))?;
        }
        self.rotate_after(Session::rotate_due);
        self.undisturbed(|session| session.read_back_all(job, pre_restore, notes))
    }

    /// Steps 3 and 4.
    fn ready(&self, job: &Job, mut snapshot: Option<&mut Snapshot>) -> Result<Vec<Ready>, Error> {
        let (control, timeout) = (self.control(), self.engine.config.lock_timeout);
        let mut ready = Vec::new();
        for source in self.engine.sources() {
            let Some(file) = job.files.get(&source.name) else { continue };
            let name = source.name.clone();
            let copies = snapshot.as_mut().map(|snapshot| &mut snapshot.copies);
            let copy = copies.and_then(|copies| copies.iter_mut().find(|copy| copy.name == name));
            let mut held = None;
            if let Some(copy) = copy {
                let exclusive = Exclusive::take(&source, timeout, &control)?;
                let exclusive = exclusive.ok_or_else(|| Error::AppRuns { name: name.clone() })?;
                if !exclusive.is_wal() && !self.app_is_stopped {
                    return Err(Error::AppMayRun { name });
                }
                exclusive.connection().execute_batch("BEGIN").map_err(|error| sqlite::situation(&name, error))?;
                catch_up(exclusive.connection(), copy, &control, || ())?.settle(copy)?;
                exclusive.connection().execute_batch("ROLLBACK").map_err(|error| sqlite::situation(&name, error))?;
                exclusive.empty_wal()?;
                held = Some(exclusive);
            } else {
                self.assert_let_go(&source)?;
            }
            let (partial, mark) = self.new_file(&source, file, held.as_ref())?;
            ready.push(Ready { source, partial, held, mark });
        }
        Ok(ready)
    }

    /// Step 3 of what is missing or ruined. Damage keeps nobody from going on who has what he needs of it in memory: what he commits would
    /// go into the file that is moved aside.
    fn assert_let_go(&self, source: &Source) -> Result<(), Error> {
        let name = source.name.clone();
        match users_of_ruined(source, self.engine.config.lock_timeout, &self.control())? {
            Users::Somebody => Err(Error::AppRuns { name }),
            Users::Unknown if !self.app_is_stopped => Err(Error::AppMayRun { name }),
            Users::Nobody | Users::Unknown => Ok(()),
        }
    }

    /// Step 4 for one: what is written is compared with what is recorded, and then bears the mark.
    fn new_file(&self, source: &Source, file: &PrivateFile, old: Option<&Exclusive>) -> Result<(Partial, Mark), Error> {
        // A leftover of a crash.
        disk::remove(&disk::partial_path(&source.path))?;
        let partial = Partial::create_own(&source.path)?;
        let copied = std::io::copy(&mut &file.file, &mut partial.file());
        copied.to("copy", &file.path)?;
        let read = read_back(partial.file(), partial.path(), &self.control())?;
        if read.checksum != file.copy.checksum {
            return Err(sqlite::Error::ReadBack { name: source.name.clone() }.into());
        }
        // Of what is missing or ruined there is no cookie; somebody may put the backup itself there meanwhile.
        let mut cookie = [0; 4];
        partial.file().read_exact_at(&mut cookie, Mark::OFFSET).to("read back", partial.path())?;
        let mut before = u32::from_be_bytes(cookie);
        if let Some(old) = old {
            partial.file().write_all_at(&old.mode_bytes()?, 18).to("write", partial.path())?;
            before = old.cookie()?;
        }
        let mark = Mark::draw(before)?;
        partial.file().write_all_at(&mark.bytes(), Mark::OFFSET).to("write", partial.path())?;
        match std::fs::metadata(&source.path).to("look at", &source.path) {
            Err(error) if error.is_missing() => partial.give_to_folder()?,
            old => {
                let old = old?;
                partial.give_to((old.uid(), old.gid()), old.mode() & 0o666)?;
            }
        }
        partial.sync()?;
        Ok((partial, mark))
    }

    fn read_back_all(
        &self,
        job: &Job,
        pre_restore: Option<BackupId>,
        mut notes: Vec<String>,
    ) -> Result<Restored, Error> {
        let mut databases = BTreeMap::new();
        let replaced = Replaced { subject: job.subject, pre_restore };
        for source in self.engine.sources() {
            let Some(file) = job.files.get(&source.name) else { continue };
            let read_back = match self.target(&source) {
                Ok(target) => self.proven(replaced, &target, file, &mut notes)?,
                Err(error) => {
                    notes.push(format!("`{}` was restored, but could not be read back: {error}", source.name));
                    false
                }
            };
            let pages = file.pages();
            databases.insert(source.name.clone(), RestoredDatabase { pages, written: pages, read_back });
        }
        Ok(Restored { subject: job.subject, pre_restore, databases, held_millis: 0, apart_micros: 0, notes })
    }
}

/// Gives what lies there of a database that is missing or ruined names that SQLite would still take for one database: it is
/// never played into the file that comes. The database goes first: where it is missing, a crash is settled by going on.
fn move_aside(path: &Path) -> Result<Vec<String>, Error> {
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let parts = || [""].into_iter().chain(BESIDE);
    let mut number = 1;
    let aside = loop {
        let aside = beside(path, &format!(".replaced-{number}"));
        if !parts().any(|ending| is_there(&beside(&aside, ending))) {
            break aside;
        }
        number += 1;
    };
    let mut moved = Vec::new();
    for ending in parts().filter(|ending| is_there(&beside(path, ending))) {
        let (from, to) = (beside(path, ending), beside(&aside, ending));
        disk::rename_new(&from, &to)?;
        moved.push(format!("{} is kept as {}", from.display(), to.display()));
    }
    Ok(moved)
}
