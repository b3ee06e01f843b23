//! What is wrong, each with what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{CLOCKS_DIFFER, LastFailure, Warning, clock_is_implausible};
use crate::backup::retention;
use crate::backup::settings::Settings;
use crate::backup::{Backup, BackupId, DatabaseName, Form, timestamp};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::disk;
use crate::engine::create::OVERHEAD;
use crate::engine::permit::{Holder, LOCK};
use crate::engine::plan::Plan;
use crate::engine::{Engine, Error, LastDrill, Recovery, bytes, locked};
use crate::store::{Found, is_corrupt};

/// The journal may be so far behind before anybody is told.
const LATE: Duration = Duration::from_secs(60);
/// Of what shrank so many findings are told.
const FINDINGS: usize = 2;

impl Engine {
    /// Backups whose files are not there, or not as long as they were. What has just been removed with its entry is looked
    /// up once more.
    pub(super) fn missing(&self, backups: &[&Backup], found: &[Found]) -> Result<BTreeSet<BackupId>, Error> {
        let sizes: BTreeMap<&str, u64> = found.iter().map(|found| (found.file.as_str(), found.size)).collect();
        let is_there = |backup: &Backup| {
            backup.databases.values().all(|copy| sizes.get(copy.file.as_str()) == Some(&copy.stored_size))
        };
        let mut missing: BTreeSet<BackupId> =
            backups.iter().filter(|backup| !is_there(backup)).map(|backup| backup.id).collect();
        if !missing.is_empty() {
            let standing = self.standing_catalog()?;
            let standing: BTreeSet<_> = standing.iter().flat_map(|it| it.standing()).map(|backup| backup.id).collect();
            missing.retain(|id| standing.contains(id));
        }
        Ok(missing)
    }

    pub(super) fn unmanaged(&self, catalog: Option<&Catalog>, found: Vec<Found>, now: DateTime<Utc>) -> Vec<String> {
        let named: BTreeSet<&str> = catalog
            .iter()
            .flat_map(|catalog| &catalog.backups)
            .flat_map(|backup| backup.databases.values().map(|copy| copy.file.as_str()))
            .collect();
        let scanned = found.into_iter().map(|found| found.file);
        let makes = |holder: Holder| holder.operation == "create" || holder.operation == "restore";
        let under_way = Holder::read(self.store.root(), LOCK, now).is_some_and(makes);
        // Between the names and the catalog of a backup that is being made there is nothing to report.
        if under_way { Vec::new() } else { scanned.filter(|file| !named.contains(file.as_str())).collect() }
    }

    pub(super) fn warnings(
        &self,
        settings: &Settings,
        catalog: Option<&Catalog>,
        failed: Option<&LastFailure>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Warning>, Error> {
        let backups: Vec<&Backup> = catalog.into_iter().flat_map(Catalog::standing).collect();
        let mut warnings = Warnings(Vec::new());
        if !settings.enabled {
            warnings.add("disabled", "scheduled backups are off (BACKUP_ENABLED, or the saved setting); turn them on");
        }
        // But for the restore itself: whoever tries again and again to settle it holds the directory most of the time.
        let restores = |holder: Holder| holder.operation == "restore";
        if Plan::is_there(self.store.root()) && !Holder::read(self.store.root(), LOCK, now).is_some_and(restores) {
            let text = "a restore was cut short, and the live databases may be of different times: the next operation, or the start of `serve`, brings it to its end; run `create`, say";
            warnings.add("restore-unfinished", text);
        }
        if let Some(failed) = failed {
            warnings.add("backup-failed", format!("the last backup failed: {}", failed.reason));
        }
        let recorded = catalog.map_or(&[][..], |catalog| &catalog.backups);
        let (unusable, freeze) = (self.unusable_live()?, self.freeze()?);
        if let (Some(reason), None) = (&unusable, failed) {
            let text = format!("the live data was found unusable: {reason}; look at it, or restore a backup");
            warnings.add("live-unusable", text);
        }
        if let Some(frozen) = retention::plan(recorded, &settings.retention, freeze.as_deref()).frozen {
            let found = freeze.is_none().then(|| shrinkage(&backups)).flatten().unwrap_or_default();
            warnings.add("rotation-frozen", format!("nothing older is dropped: {frozen}{found}"));
        } else if let Some(reason) = catalog.and_then(|catalog| catalog.unpromoted.as_ref()) {
            let text =
                format!("nothing older is dropped: {reason}; look at the disk. It is tried again with the next backup");
            warnings.add("rotation-frozen", text);
        }
        for backup in backups.iter().filter(|backup| !backup.verified.ok) {
            warnings.add(
                "damaged",
                format!("{} was read back damaged; take another backup, and look at the disk", backup.id),
            );
        }
        if self.config.store_id.is_none() && !backups.iter().any(|backup| backup.tier.is_scheduled()) {
            let text = "this backup directory is new; if it should not be, look whether its volume is mounted";
            warnings.add("new-store", text);
        }
        self.warn_of_identity(&backups, &mut warnings);
        if let Some(seq) = catalog.map_or(Ok(None), |catalog| self.lost_anchor(catalog))? {
            warnings.add("audit-broken", format!("the audit log no longer holds line {seq}, which the catalog remembers: its end was cut off, or it was removed; put it back from a copy, or say by `audit accept` that it doesn't come back. Backups go on"));
        }
        let writable = disk::assert_writable(self.audit.path());
        if let Err(error) = &writable {
            let text = format!(
                "the audit log can't be written: {error}. Backups go on, and nothing else that changes data or hands it out; see whose the log is, and what its disk says"
            );
            warnings.add("audit-broken", text);
        }
        if let (Ok(()), Some(error)) = (writable, locked(&self.append_fails).clone()) {
            let text = format!(
                "the last line of the audit log could not be written: {error}. The next one shows whether it can be again; backups go on, and nothing else that changes data or hands it out does without its line"
            );
            warnings.add("audit-broken", text);
        }
        self.warn_of_space(&backups, &mut warnings);
        if clock_is_implausible(now) {
            warnings.add("clock-implausible", "the clock of this machine is wrong (before 2025); set it");
        }
        Ok(warnings.0)
    }

    /// What stands in the way of going back to any second.
    pub(super) fn warn_of_journal(
        &self,
        recovery: &Result<Option<Recovery>, Error>,
        now: DateTime<Utc>,
    ) -> Option<Warning> {
        let pitr = &self.config.pitr;
        let text = match recovery {
            Err(error) => error.to_string(),
            Ok(_) if !pitr.enabled => return None,
            Ok(recovery) => {
                let to = recovery.iter().flatten().map(|(_, window)| window.to).min();
                let late = LATE.max(10 * pitr.interval);
                if let Some(to) = to.filter(|to| (*to - now).to_std().unwrap_or_default() > late) {
                    let text =
                        "the times of the journal are ahead of the clock, which was wrong once: until it comes to";
                    let text = format!(
                        "{text} {}, states can't be told apart to the second; stop `serve` and move journal/ aside to begin anew",
                        timestamp::text(to)
                    );
                    return Some(Warning { code: "journal-ahead", detail: text });
                }
                if to.is_some_and(|to| (now - to).to_std().unwrap_or_default() < late) {
                    return None;
                }
                let since =
                    to.map_or_else(|| "was never".to_owned(), |to| format!("is not since {}", timestamp::text(to)));
                format!("the journal {since} written: is `serve` running? Its log says what is in the way")
            }
        };
        Some(Warning { code: "journal-behind", detail: text })
    }

    /// Without an identity backups can be taken and not be used.
    fn warn_of_identity(&self, backups: &[&Backup], warnings: &mut Warnings) {
        let codec = &self.config.codec;
        let to: Vec<_> = codec.written_to().iter().map(ToString::to_string).collect();
        let locked = backups.iter().filter(|backup| backup.databases.values().any(|copy| !self.opens(copy))).count();
        if locked > 0 || !codec.opens(codec.form(), &to) {
            let text = format!(
                "{locked} of {} backups are encrypted, and no identity at hand opens them: `verify` compares the ciphertext only, and \
                 they can't be rehearsed, previewed or restored here; set BACKUP_ENCRYPTION_IDENTITY_FILE where that is to be done",
                backups.len()
            );
            warnings.add("no-identity", text);
        }
    }

    fn warn_of_space(&self, backups: &[&Backup], warnings: &mut Warnings) {
        // What is encoded lies plain beside it meanwhile.
        let is_plain = self.config.codec.form() == Form::Plain;
        let taken = |backup: &&Backup| if is_plain { backup.stored_size() } else { backup.size() };
        let largest = backups.iter().map(taken).max().unwrap_or(0);
        let free = disk::free_space(self.store.root()).unwrap_or(u64::MAX);
        // Without that much besides, none is begun.
        if free < largest.saturating_mul(2).saturating_add(OVERHEAD) {
            let text = format!("{} are free and a backup takes {}; make room", bytes(free), bytes(largest));
            warnings.add("space-low", text);
        }
    }
}

/// Stands until a rehearsal goes well.
pub(super) fn drill_failed(last: &LastDrill) -> Option<Warning> {
    let advice = match last.journal {
        Some(false) => "the journal begins anew; if a backup is named too, take another; then run `drill` again",
        _ => "don't rely on that backup, take another, and run `drill` again",
    };
    let detail = format!("the last rehearsal of a restore failed: {}; {advice}", last.reason);
    (!last.ok).then_some(Warning { code: "drill-failed", detail })
}

pub(super) struct Warnings(Vec<Warning>);

impl Warnings {
    fn add(&mut self, code: &'static str, detail: impl Into<String>) {
        self.0.push(Warning { code, detail: detail.into() });
    }

    /// Of the newest good backup: how old it is, and what it lacks.
    pub(super) fn of_age(
        newest: Option<&Backup>,
        backups: &[&Backup],
        config: &Config,
        now: DateTime<Utc>,
    ) -> Vec<Warning> {
        let mut warnings = Self(Vec::new());
        match newest {
            None if backups.is_empty() => warnings.add("no-backup", "there is no backup yet; `create` takes one now"),
            None => {
                let text = "none of the backups is good: each is damaged, suspiciously small, or its files are gone; take another now, and look at the disk";
                warnings.add("no-backup", text);
            }
            Some(newest) => warnings.of_newest(newest, config, now),
        }
        warnings.0
    }

    fn of_newest(&mut self, newest: &Backup, config: &Config, now: DateTime<Utc>) {
        let age = (now - newest.timestamp).to_std().unwrap_or_default();
        if age > config.stale_after {
            let hours = age.as_secs() / 3600;
            self.add(
                "stale",
                format!("the newest backup is {hours} hours old; look at the log of `serve`, or run `create`"),
            );
        }
        if newest.timestamp > now + CLOCKS_DIFFER {
            self.add(
                "clock-went-back",
                format!("{} lies in the future; was the clock wrong, or is it now?", newest.id),
            );
        }
        let lacks = config.databases.keys().filter(|name| !newest.databases.contains_key(*name));
        let lacks: Vec<_> = lacks.map(DatabaseName::as_str).collect();
        if !lacks.is_empty() {
            let text = format!("{} has no copy of {}; take another backup now", newest.id, lacks.join(", "));
            self.add("not-covered", text);
        }
    }

    /// Files that should be there, and files that nobody expects.
    pub(super) fn of_files(missing: &BTreeSet<BackupId>, unmanaged: &[String]) -> Vec<Warning> {
        let mut warnings = Self(Vec::new());
        if !missing.is_empty() {
            let ids: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let text = "the files of these backups are gone or not whole: ";
            let what =
                "bring them back, or take another backup and look at the disk; `catalog rebuild` forgets what is gone";
            warnings.add("files-missing", format!("{text}{}; {what}", list(&ids.iter().collect::<Vec<_>>())));
        }
        let (corrupt, other): (Vec<&String>, Vec<_>) = unmanaged.iter().partition(|file| is_corrupt(file));
        if !corrupt.is_empty() {
            let text = "copies of corrupt data are kept for a look; remove them by hand when done: ";
            warnings.add("corrupt-copies", format!("{text}{}", list(&corrupt)));
        }
        if !other.is_empty() {
            let what = "move them away, or `catalog rebuild` takes in what is a backup";
            warnings.add("unmanaged", format!("files that no backup names are left alone: {}; {what}", list(&other)));
        }
        warnings.0
    }
}

/// What the newest backup has less of, where that is suspicious.
fn shrinkage(backups: &[&Backup]) -> Option<String> {
    let newest = retention::shrunk_newest(backups.iter().copied())?;
    let told: Vec<_> = newest.findings.iter().take(FINDINGS).map(String::as_str).collect();
    (!told.is_empty()).then(|| format!(" ({})", told.join("; ")))
}

/// The first few of them.
pub(in crate::engine) fn list(files: &[&String]) -> String {
    let shown: Vec<_> = files.iter().take(5).map(|file| file.as_str()).collect();
    match files.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
