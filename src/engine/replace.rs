//! Steps 2 to 6 of a restore: from the pre-restore snapshot to the commits.

use std::collections::BTreeMap;

use super::create::{Create, OVERHEAD};
use super::plan::{Plan, Sign};
use super::restore::Job;
use super::{Error, Session};
use crate::backup::{Backup, BackupId, DatabaseName, Tier};
use crate::disk;
use crate::sqlite::catch_up::catch_up;
use crate::sqlite::page_set::{PageSet, differing};
use crate::sqlite::restore::{Committed, Locked, Target};
use crate::sqlite::snapshot::Snapshot;
use crate::sqlite::{self, Control, Source};

/// Bytes that a page takes in a WAL besides its own (sqlite.org/fileformat2.html, section 4.1), and more than in a journal.
const FRAME: u64 = 24;

/// What an attempt did.
pub(super) struct Done {
    /// The backup of what was there before.
    pub(super) pre_restore: BackupId,
    /// Pages that were written.
    pub(super) written: BTreeMap<DatabaseName, u64>,
    /// How long the app waited.
    pub(super) committed: Committed,
    /// Databases whose pre-restore copy was completed under the locks.
    pub(super) caught_up: Vec<DatabaseName>,
}

type Changed = BTreeMap<DatabaseName, PageSet>;

impl Session<'_> {
    /// Steps 2 to 6, once. `planned` is set as soon as `restore.json` may be there: from then on only the marks tell what an
    /// error has left.
    pub(super) fn attempt(&mut self, job: &Job, targets: &[Target], planned: &mut Option<Plan>) -> Result<Done, Error> {
        let (control, timeout) = (self.control(), self.engine.config.lock_timeout);
        targets.iter().try_for_each(|target| target.watch(timeout, &control))?;
        let pre_restore = self.free_id(Tier::PreRestore)?;
        let mut snapshot = self.pre_restore_snapshot(&pre_restore, self.still_old(job), job.force)?;
        let mut changed = self.changed(job, &snapshot)?;
        assert_data_room(targets, &changed)?;
        let locked = Locked::take(targets, timeout, &control)?;
        let held = locked.within(self.engine.config.restore_hold, &control);
        let caught_up = self.catch_up(targets, &mut snapshot, &mut changed, &held)?;
        let marks = targets.iter().map(|target| Ok((target.name.clone(), target.draw_mark()?)));
        let marks = marks.collect::<Result<BTreeMap<_, _>, sqlite::Error>>()?;
        let signs = marks.iter().map(|(name, mark)| (name.clone(), Sign::Commit(*mark)));
        *planned = Some(self.plan_restore(job, Some(pre_restore), signs.collect())?);
        self.publish_pre_restore(job, pre_restore, snapshot)?;
        let mut written = BTreeMap::new();
        for (target, name) in targets.iter().map(|target| (target, &target.name)) {
            let pause = || assert_held(name, &held);
            let pages = target.write(job.files[name].both(), &changed[name], marks[name], pause);
            written.insert(name.clone(), pages.map_err(too_long)?);
        }
        let committed = locked.commit().map_err(|uncommitted| uncommitted.error)?;
        Ok(Done { pre_restore, written, committed, caught_up })
    }

    /// Step 4, first half: what settles a crash from here on.
    pub(super) fn plan_restore(
        &self,
        job: &Job,
        pre_restore: Option<BackupId>,
        signs: BTreeMap<DatabaseName, Sign>,
    ) -> Result<Plan, Error> {
        let plan = Plan::of(job, pre_restore, signs);
        plan.save(self.engine.store.root())?;
        Ok(plan)
    }

    /// Step 4, second half.
    pub(super) fn publish_pre_restore(&mut self, job: &Job, id: BackupId, snapshot: Snapshot) -> Result<(), Error> {
        let reason = Some(format!("before restoring {}", job.id));
        let create = Create { tier: Tier::PreRestore, reason, accept_shrink: true };
        let (mut backup, partials) = self.entry(&create, id, snapshot)?;
        self.complete(job, &mut backup)?;
        self.publish_as_it_is(&backup, partials)
    }

    /// Step 2. Corrupt data is kept as it is, with force.
    pub(super) fn pre_restore_snapshot(
        &self,
        id: &BackupId,
        sources: Vec<Source>,
        force: bool,
    ) -> Result<Snapshot, Error> {
        self.snapshot(id, sources, force).map_err(|error| match error {
            Error::Sqlite(sqlite::Error::Corrupt { name, findings, .. }) => Error::CorruptLive { name, findings },
            other => other,
        })
    }

    /// All live databases but those that an attempt which was cut short has restored.
    pub(super) fn still_old(&self, job: &Job) -> Vec<Source> {
        let restored = |source: &Source| job.restored.as_ref().is_some_and(|(done, _)| done.contains_key(&source.name));
        self.engine.sources().into_iter().filter(|source| !restored(source)).collect()
    }

    /// The pages that the snapshot doesn't hold as the backup does. The private copies are read to their ends for it, and
    /// are what the catalog says also as they lie on the disk.
    fn changed(&self, job: &Job, snapshot: &Snapshot) -> Result<Changed, Error> {
        let mut changed = Changed::new();
        for copy in snapshot.copies.iter().filter(|copy| job.files.contains_key(&copy.name)) {
            let file = &job.files[&copy.name];
            let old = (copy.partial.file(), copy.partial.path());
            let found = differing(old, file.both(), file.copy.page_size, &self.control())?;
            if file.copy.stored_xxh3.as_ref().is_some_and(|recorded| *recorded != found.new.xxh3()) {
                return Err(sqlite::Error::ReadBack { name: copy.name.clone() }.into());
            }
            changed.insert(copy.name.clone(), found.pages);
        }
        Ok(changed)
    }

    /// Step 3: the snapshot as it would be now. Says which copies it was brought into.
    fn catch_up(
        &self,
        targets: &[Target],
        snapshot: &mut Snapshot,
        changed: &mut Changed,
        held: &Control,
    ) -> Result<Vec<DatabaseName>, Error> {
        let mut caught_up = Vec::new();
        for target in targets {
            let copies = &mut snapshot.copies;
            let Some(copy) =
                copies.iter_mut().find(|copy| copy.name == target.name && target.has_moved().unwrap_or(true))
            else {
                continue;
            };
            let moved = catch_up(target.connection(), copy, held).map_err(too_long)?;
            changed.entry(target.name.clone()).or_default().extend(&moved);
            caught_up.push(target.name.clone());
        }
        if !caught_up.is_empty() {
            snapshot.at = self.engine.clock.now();
        }
        Ok(caught_up)
    }

    /// Databases that an earlier attempt has restored are in the new pre-restore backup as they were before that one.
    fn complete(&self, job: &Job, backup: &mut Backup) -> Result<(), Error> {
        let Some((restored, Some(first))) = &job.restored else { return Ok(()) };
        for name in restored.keys() {
            let before = self.catalog.get(first).and_then(|first| first.databases.get(name));
            let mut copy = before.cloned().ok_or(Error::NotFound(*first))?;
            let store = &self.engine.store;
            let target = store.path(&backup.id, name, copy.form);
            self.second_name(&store.path(first, name, copy.form), &target, &copy.stored_checksum)?;
            copy.file = backup.id.file(name, copy.form);
            backup.databases.insert(name.clone(), copy);
        }
        Ok(())
    }
}

/// Room for the pages that are written, on the disk of each live database.
fn assert_data_room(targets: &[Target], changed: &Changed) -> Result<(), Error> {
    for target in targets {
        let pages = changed.get(&target.name).map_or(0, PageSet::len);
        let needed = pages * (u64::from(target.kind.page_size) + FRAME) + OVERHEAD;
        let free = disk::free_space(disk::parent(target.path()))?;
        if free < needed {
            let path = disk::parent(target.path()).to_owned();
            return Err(Error::DataFull { path, needed, free });
        }
    }
    Ok(())
}

fn assert_held(name: &DatabaseName, held: &Control) -> Result<(), sqlite::Error> {
    held.check()?;
    if held.is_late() {
        return Err(sqlite::Error::TooSlow { name: name.clone(), limit: held.limit() });
    }
    Ok(())
}

fn too_long(error: sqlite::Error) -> Error {
    match error {
        sqlite::Error::TooSlow { name, limit } => Error::RestoreHold { name, hold: limit },
        other => other.into(),
    }
}
