//! Steps 2 to 6 of a restore: from the pre-restore snapshot to the commits.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::create::{Care, Create, OVERHEAD};
use super::encode::{AllEncoded, AllStored, Encoded};
use super::plan::{Plan, Sign};
use super::restore::Job;
use super::{Error, Session};
use crate::backup::{Backup, BackupId, DatabaseName, Tier};
use crate::disk::{self, Context, Partial};
use crate::sqlite::catch_up::{Brought, catch_up};
use crate::sqlite::page_set::PageSet;
use crate::sqlite::pages::{self, beside, read_back};
use crate::sqlite::restore::{Committed, Locked, Target};
use crate::sqlite::snapshot::{Instead, Snapshot};
use crate::sqlite::{self, Control, Source};

/// Bytes that a page takes in a WAL besides its own (sqlite.org/fileformat2.html, section 4.1), and more than in a journal.
const FRAME: u64 = 24;
/// How long the app's writers may be kept waiting to end a restore that was cut short.
const FORWARD: Duration = Duration::from_secs(600);

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
    /// The plain files of pre-restore copies that lie in another form.
    pub(super) plain: BTreeMap<DatabaseName, Partial>,
}

type Changed = BTreeMap<DatabaseName, PageSet>;

impl Session<'_> {
    /// Steps 2 to 6, once. `planned` is set as soon as `restore.json` may be there: from then on only the marks tell what an
    /// error has left.
    pub(super) fn attempt(&mut self, job: &Job, targets: &[Target], planned: &mut Option<Plan>) -> Result<Done, Error> {
        let (control, timeout) = (self.control(), self.engine.config.lock_timeout);
        targets.iter().try_for_each(|target| target.watch(timeout, &control))?;
        let pre_restore = self.free_id(Tier::PreRestore)?;
        let hold = self.hold(job);
        let instead = job.files.iter().map(|(name, file)| (name, file.as_new())).collect();
        let mut snapshot = self.pre_restore_snapshot(&pre_restore, self.sources_of(job), &instead, job)?;
        let mut changed = self.changed(job, &mut snapshot)?;
        let mut encoded = self.encode_beside(&pre_restore, &snapshot, &control)?;
        assert_data_room(job, targets, &changed)?;
        // Goes after the locks, whatever comes: that is work of our disk.
        let plain;
        let locked = Locked::take(targets, timeout, &control)?;
        targets.iter().try_for_each(Target::assert_in_place)?;
        let held = locked.within(hold, &control);
        let brought = self.catch_up(&locked, targets, &snapshot, &held)?;
        let caught_up: Vec<_> = brought.keys().cloned().collect();
        let too_long = |error: Error| too_long(error, !caught_up.is_empty());
        let page_size = |target: &Target| job.files[&target.name].copy.page_size;
        let (whole, by_page): (Vec<_>, Vec<_>) = targets.iter().partition(|it| it.is_replaced_by(page_size(it)));
        let marks = by_page.iter().map(|target| Ok((target.name.clone(), target.draw_mark()?)));
        let marks = marks.collect::<Result<BTreeMap<_, _>, sqlite::Error>>()?;
        let mut signs: BTreeMap<_, _> = marks.iter().map(|(name, mark)| (name.clone(), Sign::Commit(*mark))).collect();
        signs.extend(whole.iter().map(|it| (it.name.clone(), Sign::PageSize { page_size: page_size(it) })));
        let in_time =
            || targets.last().map_or(Ok(()), |target| Ok(pages::in_time(&target.name, &held)?)).map_err(too_long);
        let files: BTreeMap<_, _> = targets.iter().map(|target| (target.name.clone(), target.identity())).collect();
        let ours = || {
            self.caught_up(brought, &mut snapshot, &mut changed)?;
            self.encode_again(&pre_restore, &snapshot, &caught_up, &mut encoded, &held).map_err(too_long)?;
            planned.insert(self.plan_restore(job, Some(pre_restore), signs)?).files = files;
            self.publish_pre_restore(job, pre_restore, snapshot, encoded)
        };
        plain = beside(in_time, || locked.let_go(), ours)?;
        let mut written = BTreeMap::new();
        for (target, name) in by_page.iter().map(|target| (target, &target.name)) {
            let pause = || pages::in_time(name, &held);
            let pages = target.write(job.files[name].both(), &changed[name], marks[name], pause);
            written.insert(name.clone(), pages.map_err(|error| too_long(error.into()))?);
        }
        targets.iter().try_for_each(Target::assert_in_place)?;
        in_time()?;
        // These commit by themselves; all others are written by now.
        for target in whole {
            let file = &job.files[&target.name];
            target.replace(&file.path)?;
            written.insert(target.name.clone(), file.pages());
        }
        let committed = locked.commit().map_err(|uncommitted| uncommitted.error)?;
        Ok(Done { pre_restore, written, committed, caught_up, plain })
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

    /// Step 4, second half. Gives the plain files of what is published in another form.
    pub(super) fn publish_pre_restore(
        &mut self,
        job: &Job,
        id: BackupId,
        mut snapshot: Snapshot,
        mut encoded: AllEncoded,
    ) -> Result<BTreeMap<DatabaseName, Partial>, Error> {
        let (mut plain, mut all_stored) = (BTreeMap::new(), AllStored::new());
        for copy in &mut snapshot.copies {
            if let Some(Encoded { partial, stored }) = encoded.remove(&copy.name) {
                plain.insert(copy.name.clone(), std::mem::replace(&mut copy.partial, partial));
                all_stored.insert(copy.name.clone(), stored);
            }
        }
        let reason = Some(format!("before restoring {}", job.subject));
        let create = Create { tier: Tier::PreRestore, reason, accept_shrink: true };
        let (mut backup, partials) = self.entry(&create, id, snapshot, all_stored)?;
        self.complete(job, &mut backup)?;
        self.publish_as_it_is(&backup, partials)?;
        Ok(plain)
    }

    /// Step 2. Corrupt data is kept as it is, with force; and when other databases are restored already, whatever it is.
    pub(super) fn pre_restore_snapshot(
        &self,
        id: &BackupId,
        sources: Vec<Source>,
        instead: &Instead,
        job: &Job,
    ) -> Result<Snapshot, Error> {
        let corrupt_too = job.force || job.restored.is_some();
        let rollback_hold = match job.restored {
            Some(_) => FORWARD,
            None => self.engine.config.rollback_hold,
        };
        self.snapshot(id, sources, instead, Care { corrupt_too, rollback_hold }).map_err(|error| match error {
            // Its pages could be read; otherwise there is nothing to be written into.
            Error::Sqlite(sqlite::Error::Corrupt { name, findings, kept: Some(_) }) => {
                Error::CorruptLive { name, findings }
            }
            Error::Sqlite(error @ sqlite::Error::Corrupt { .. }) => Error::NeedsOffline { reason: error.to_string() },
            other => other,
        })
    }

    /// The live databases that the job restores.
    pub(super) fn sources_of(&self, job: &Job) -> Vec<Source> {
        self.engine.sources().into_iter().filter(|source| job.files.contains_key(&source.name)).collect()
    }

    /// How long the app's writers may be kept waiting: while one database is new and another old, for as long as it takes.
    fn hold(&self, job: &Job) -> Duration {
        if job.restored.is_some() { FORWARD } else { self.engine.config.restore_hold }
    }

    /// The pages that the snapshot doesn't hold as the backup does. The private copies are read to their ends for it, and
    /// are what the catalog says also as they lie on the disk.
    fn changed(&self, job: &Job, snapshot: &mut Snapshot) -> Result<Changed, Error> {
        let mut changed = Changed::new();
        for copy in &mut snapshot.copies {
            let Some(file) = job.files.get(&copy.name) else { continue };
            let unread = || sqlite::Error::ReadBack { name: copy.name.clone() };
            let found = copy.difference.take().ok_or_else(unread)?;
            let same = match file.copy.plain_xxh3() {
                Some(recorded) => *recorded == found.new.xxh3(),
                None => read_back(&file.file, &file.path, &self.control())?.checksum == file.copy.checksum,
            };
            if !same {
                return Err(sqlite::Error::ReadBack { name: copy.name.clone() }.into());
            }
            changed.insert(copy.name.clone(), found.pages);
        }
        Ok(changed)
    }

    /// Step 3: the copies as they would be now, of the databases that others have written into since.
    fn catch_up(
        &self,
        locked: &Locked,
        targets: &[Target],
        snapshot: &Snapshot,
        held: &Control,
    ) -> Result<BTreeMap<DatabaseName, Brought>, Error> {
        let mut all = BTreeMap::new();
        for target in targets {
            let copies = &snapshot.copies;
            let Some(copy) = copies.iter().find(|copy| copy.name == target.name && target.has_moved().unwrap_or(true))
            else {
                continue;
            };
            let brought = catch_up(&target.connection(), copy, held, || locked.let_go());
            all.insert(target.name.clone(), brought.map_err(|error| too_long(error.into(), true))?);
        }
        Ok(all)
    }

    /// The rest of it: the copies as they lie on the disk.
    fn caught_up(
        &self,
        mut brought: BTreeMap<DatabaseName, Brought>,
        snapshot: &mut Snapshot,
        changed: &mut Changed,
    ) -> Result<(), Error> {
        if !brought.is_empty() {
            snapshot.at = self.engine.clock.now();
        }
        for copy in &mut snapshot.copies {
            if let Some(brought) = brought.remove(&copy.name) {
                let name = copy.name.clone();
                changed.entry(name).or_default().extend(&brought.settle(copy)?);
            }
        }
        Ok(())
    }

    /// Step 3 of copies that lie in another form: whatever was brought into the plain file is encoded once more.
    fn encode_again(
        &self,
        id: &BackupId,
        snapshot: &Snapshot,
        caught_up: &[DatabaseName],
        encoded: &mut AllEncoded,
        held: &Control,
    ) -> Result<(), Error> {
        for copy in snapshot.copies.iter().filter(|copy| caught_up.contains(&copy.name)) {
            // The name has to be free.
            if encoded.remove(&copy.name).is_some() {
                let again = self.encode(id, copy, held)?;
                encoded.extend(again.map(|again| (copy.name.clone(), again)));
            }
        }
        Ok(())
    }

    /// Databases that an earlier attempt has restored are in the new pre-restore backup as they were before that one.
    fn complete(&self, job: &Job, backup: &mut Backup) -> Result<(), Error> {
        let Some((restored, Some(first))) = &job.restored else { return Ok(()) };
        for name in restored.keys() {
            let before = self.catalog.get(first).and_then(|first| first.databases.get(name));
            let mut copy = before.cloned().ok_or(Error::NotFound(*first))?;
            let store = &self.engine.store;
            let target = store.path(&backup.id, name, copy.form);
            if !self.second_name(&store.path(first, name, copy.form), &target, &copy.stored_checksum)? {
                return Err(sqlite::Error::ReadBack { name: name.clone() }.into());
            }
            copy.file = backup.id.file(name, copy.form);
            backup.databases.insert(name.clone(), copy);
        }
        Ok(())
    }
}

/// Room for the pages that are written and for what the files grow by, on the disks of the live databases.
fn assert_data_room(job: &Job, targets: &[Target], changed: &Changed) -> Result<(), Error> {
    let mut needed = BTreeMap::new();
    for target in targets {
        let folder = disk::parent(target.path());
        let device = std::fs::metadata(folder).to("look at", folder)?.dev();
        let pages = changed.get(&target.name).map_or(0, PageSet::len);
        let grown = job.files[&target.name].copy.size.saturating_sub(target.size());
        let of_disk = needed.entry(device).or_insert_with(|| (folder.to_owned(), OVERHEAD));
        of_disk.1 += pages * (u64::from(target.kind.page_size) + FRAME) + grown;
    }
    for (path, needed) in needed.into_values() {
        let free = disk::free_space(&path)?;
        if free < needed {
            return Err(Error::DataFull { path, needed, free });
        }
    }
    Ok(())
}

fn too_long(error: Error, moved: bool) -> Error {
    match error {
        Error::Sqlite(sqlite::Error::TooSlow { name, limit }) => Error::RestoreHold { name, hold: limit, moved },
        other => other,
    }
}
