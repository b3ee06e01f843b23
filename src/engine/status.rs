//! How things stand, for people and programs. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::permit::{Holder, LOCK};
use super::plan::Plan;
use super::{Engine, Error, LastDrill, bytes};
use crate::audit::Kind;
use crate::backup::retention;
use crate::backup::schedule::{self, Decision};
use crate::backup::settings::Settings;
use crate::backup::{Backup, BackupId, DatabaseName, Form, Tier, hex, timestamp};
use crate::catalog::Catalog;
use crate::config::{Origin, VARIABLES};
use crate::disk;
use crate::store::is_corrupt;

/// A backup may seem to lie this far ahead.
pub(super) const CLOCKS_DIFFER: chrono::Duration = chrono::Duration::minutes(5);
/// Audit lines among which the last failure is looked for.
const LINES: usize = 1000;

/// `status --json`, and `GET /api/backup/status`.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Scheduled backups are taken.
    pub enabled: bool,
    /// When.
    pub schedule: ScheduleStatus,
    /// The newest good backup.
    #[schema(required = true)]
    pub last_backup: Option<LastBackup>,
    /// The last failure, if no success of the same operation came after it.
    #[schema(required = true)]
    pub last_failure: Option<LastFailure>,
    /// How many backups of each tier.
    #[schema(value_type = ByTier<u64>)]
    pub counts: ByTier<usize>,
    /// Bytes.
    pub storage: Storage,
    /// What is under way.
    #[schema(required = true)]
    pub operation: Option<Operation>,
    /// What is wrong, each with what to do.
    pub warnings: Vec<Warning>,
    /// Copies elsewhere.
    #[schema(value_type = Vec<Object>)]
    pub replicas: [(); 0],
    /// Recovery points.
    #[schema(value_type = Option<Object>, required = true)]
    pub recovery: Option<()>,
    /// The last rehearsal.
    #[schema(required = true)]
    pub last_drill: Option<LastDrill>,
    /// The name of this directory.
    #[schema(required = true)]
    pub store_id: Option<String>,
    /// Files below the directory that no backup names; never touched.
    pub unmanaged: Vec<String>,
}

/// The schedule and what follows from it.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ScheduleStatus {
    pub hour: u8,
    pub minute: u8,
    #[schema(value_type = String)]
    pub timezone: Tz,
    /// Nothing when scheduled backups are off.
    #[serde(serialize_with = "optional_timestamp")]
    #[schema(required = true)]
    pub next_run: Option<DateTime<Utc>>,
}

/// The newest good backup.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct LastBackup {
    pub id: BackupId,
    #[serde(with = "timestamp")]
    pub timestamp: DateTime<Utc>,
    /// Negative if the clock went back.
    pub age_seconds: i64,
}

/// An operation that failed.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct LastFailure {
    #[serde(with = "timestamp")]
    pub at: DateTime<Utc>,
    pub operation: String,
    pub reason: String,
}

/// A figure for each tier.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ByTier<T> {
    pub daily: T,
    pub weekly: T,
    pub monthly: T,
    pub manual: T,
    pub pre_restore: T,
}

impl<T> ByTier<T> {
    /// The figure of one.
    pub fn of(&self, tier: Tier) -> &T {
        match tier {
            Tier::Daily => &self.daily,
            Tier::Weekly => &self.weekly,
            Tier::Monthly => &self.monthly,
            Tier::Manual => &self.manual,
            Tier::PreRestore => &self.pre_restore,
        }
    }

    fn by(mut of: impl FnMut(Tier) -> T) -> Self {
        Self {
            daily: of(Tier::Daily),
            weekly: of(Tier::Weekly),
            monthly: of(Tier::Monthly),
            manual: of(Tier::Manual),
            pre_restore: of(Tier::PreRestore),
        }
    }
}

/// Bytes that backups take.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Storage {
    pub total: u64,
    pub by_type: ByTier<u64>,
}

/// What is under way.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Operation {
    pub kind: String,
    #[serde(with = "timestamp")]
    pub started_at: DateTime<Utc>,
    #[schema(required = true)]
    pub database: Option<DatabaseName>,
    /// 0 to 1.
    #[schema(required = true, minimum = 0, maximum = 1)]
    pub progress: Option<f64>,
}

impl From<Holder> for Operation {
    fn from(holder: Holder) -> Self {
        Self {
            kind: holder.operation,
            started_at: holder.started_at,
            database: holder.database,
            progress: holder.progress,
        }
    }
}

/// Something that wants a look.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Warning {
    /// A stable word.
    pub code: &'static str,
    /// What it is and what to do.
    pub detail: String,
}

/// `config --json`, and `GET /api/backup/config`.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct ConfigView {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub settings: Settings,
    /// Where backups lie.
    pub directory: String,
    /// The live databases.
    pub databases: Vec<DatabaseName>,
    /// Where each value comes from.
    pub sources: BTreeMap<String, Origin>,
}

impl ConfigView {
    /// Changes whenever any of it does: SHA-256 of its JSON, 64 hex digits.
    pub fn version(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        hex(&Sha256::digest(text))
    }
}

/// A clock that says so has never been set.
pub fn clock_is_implausible(now: DateTime<Utc>) -> bool {
    now.timestamp() < 1_735_689_600
}

impl Engine {
    /// How things stand.
    pub fn status(&self) -> Result<Status, Error> {
        let now = self.clock.now();
        let settings = self.settings()?;
        let catalog = self.standing_catalog()?;
        let catalog = catalog.as_deref();
        let backups: Vec<&Backup> = catalog.into_iter().flat_map(Catalog::standing).collect();
        let newest = catalog.and_then(Catalog::newest_good);
        let unmanaged = self.unmanaged(catalog, now)?;
        let (failures, last_drill) = (self.failures()?, self.last_drill()?);
        let mut warnings = self.warnings(&settings, catalog, failures.of_create.as_ref(), &unmanaged, now)?;
        warnings.extend(last_drill.as_ref().and_then(drill_failed));
        let size =
            |tier: Tier| backups.iter().filter(|backup| backup.tier == tier).map(|backup| backup.stored_size()).sum();
        Ok(Status {
            enabled: settings.enabled,
            schedule: ScheduleStatus {
                hour: settings.schedule.hour,
                minute: settings.schedule.minute,
                timezone: settings.schedule.timezone,
                next_run: settings.enabled.then(|| self.next_run(&settings, now)).transpose()?,
            },
            last_backup: newest.map(|backup| LastBackup {
                id: backup.id,
                timestamp: backup.timestamp,
                age_seconds: (now - backup.timestamp).num_seconds(),
            }),
            counts: ByTier::by(|tier| backups.iter().filter(|backup| backup.tier == tier).count()),
            storage: Storage { total: Tier::ALL.into_iter().map(size).sum(), by_type: ByTier::by(size) },
            operation: Holder::read(self.store.root(), LOCK, now).map(Operation::from),
            warnings,
            last_failure: failures.last,
            replicas: [],
            recovery: None,
            last_drill,
            store_id: catalog.map(|catalog| catalog.store_id.clone()),
            unmanaged,
        })
    }

    /// The settings in force and where they come from.
    pub fn config_view(&self) -> Result<ConfigView, Error> {
        let saved = self.saved()?.names();
        let origin = |key: String, from: Origin| {
            let from = if saved.contains(&key.as_str()) { Origin::Saved } else { from };
            (key, from)
        };
        let sources = VARIABLES.iter().filter_map(|v| Some(origin(v.json_key(), *self.config.origins.get(v.key)?)));
        let assertions = self.config.drill.sql.iter().map(|(name, it)| (format!("drill.sql.{name}"), it.origin));
        Ok(ConfigView {
            settings: self.settings()?,
            directory: self.store.root().display().to_string(),
            databases: self.config.databases.keys().cloned().collect(),
            sources: sources.chain(assertions).collect(),
        })
    }

    /// A catch-up or a retry may come before the next planned instant.
    fn next_run(&self, settings: &Settings, now: DateTime<Utc>) -> Result<DateTime<Utc>, Error> {
        Ok(match self.decide(settings, now)? {
            Decision::Run { .. } => now,
            Decision::Wait { until } => until,
        })
    }

    /// What the schedule asks for now.
    pub fn decide(&self, settings: &Settings, now: DateTime<Utc>) -> Result<Decision, Error> {
        let catalog = self.standing_catalog()?;
        let backups = catalog.as_ref().map_or(&[][..], |catalog| &catalog.backups);
        // Shrunk ones count too: another try would find the same data.
        let whole = |backup: &&Backup| backup.tier.is_scheduled() && backup.checked.ok && backup.verified.ok;
        let dailies = || backups.iter().filter(whole).map(|backup| backup.timestamp);
        // Asked every few seconds: mostly the backups say that nothing is due.
        match schedule::decide(&settings.schedule, now, dailies(), []) {
            Decision::Run { slot, .. } => {
                Ok(schedule::decide(&settings.schedule, now, dailies(), self.failures_since(slot)?))
            }
            wait => Ok(wait),
        }
    }

    fn failures_since(&self, slot: DateTime<Utc>) -> Result<Vec<DateTime<Utc>>, Error> {
        let mut failures = Vec::new();
        self.audit.newest_first(|line| {
            let entry = &line.entry;
            let ours = entry.operation == "create" && entry.by == "scheduler" && entry.kind == Kind::Outcome;
            // Ended from outside is not failed: the next start tries again at once.
            let failed =
                ours && entry.ok == Some(false) && !matches!(entry.code.as_deref(), Some("cancelled" | "interrupted"));
            if failed {
                failures.push(line.at);
            }
            line.at < slot || ours && entry.ok == Some(true)
        })?;
        Ok(failures)
    }

    /// The last failure that no success followed, and that of the last backup if it failed: whatever failed since doesn't
    /// hide it.
    fn failures(&self) -> Result<Failures, Error> {
        self.failures.get(self.audit.path(), || self.read_failures())
    }

    fn read_failures(&self) -> Result<Failures, Error> {
        let (mut last, mut of_create, mut ended, mut looked) = (None, None, BTreeSet::new(), 0);
        self.audit.newest_first(|line| {
            looked += 1;
            let entry = &line.entry;
            // The operation that wanted a rotation tells its failure too; a client that went away is no failure of ours.
            let tells = entry.kind == Kind::Outcome
                && entry.operation != super::rotation::ROTATE
                && entry.code.as_deref() != Some(super::handout::ABORTED);
            if tells && ended.insert(entry.operation.clone()) && entry.ok == Some(false) {
                let failure = LastFailure {
                    at: line.at,
                    operation: entry.operation.clone(),
                    reason: entry.reason.clone().unwrap_or_default(),
                };
                if entry.operation == "create" {
                    of_create = Some(failure.clone());
                }
                if looked <= LINES {
                    last.get_or_insert(failure);
                }
            }
            ended.contains("create") && (last.is_some() || looked >= LINES)
        })?;
        Ok(Failures { last, of_create })
    }

    fn unmanaged(&self, catalog: Option<&Catalog>, now: DateTime<Utc>) -> Result<Vec<String>, Error> {
        let named: BTreeSet<&str> = catalog
            .iter()
            .flat_map(|catalog| &catalog.backups)
            .flat_map(|backup| backup.databases.values().map(|copy| copy.file.as_str()))
            .collect();
        let scanned = self.store.scan()?.into_iter().map(|found| found.file);
        let makes = |holder: Holder| holder.operation == "create" || holder.operation == "restore";
        let under_way = Holder::read(self.store.root(), LOCK, now).is_some_and(makes);
        // Between the names and the catalog of a backup that is being made there is nothing to report.
        Ok(if under_way { Vec::new() } else { scanned.filter(|file| !named.contains(file.as_str())).collect() })
    }

    fn warnings(
        &self,
        settings: &Settings,
        catalog: Option<&Catalog>,
        failed: Option<&LastFailure>,
        unmanaged: &[String],
        now: DateTime<Utc>,
    ) -> Result<Vec<Warning>, Error> {
        let backups: Vec<&Backup> = catalog.into_iter().flat_map(Catalog::standing).collect();
        let mut warnings = Warnings(Vec::new());
        warnings.age(&backups, self.config.stale_after, now);
        if !settings.enabled {
            warnings.add("disabled", "scheduled backups are off (BACKUP_ENABLED, or the saved setting); turn them on");
        }
        if Plan::is_there(self.store.root()) && Holder::read(self.store.root(), LOCK, now).is_none() {
            let text = "a restore was cut short, and the live databases may be of different times: the next operation, or the start of `serve`, brings it to its end; run `create`, say";
            warnings.add("restore-unfinished", text);
        }
        if let Some(failed) = failed {
            warnings.add("backup-failed", format!("the last backup failed: {}", failed.reason));
        }
        let recorded = catalog.map_or(&[][..], |catalog| &catalog.backups);
        if let Some(frozen) = retention::plan(recorded, &settings.retention, self.freeze()?.as_deref()).frozen {
            warnings.add("rotation-frozen", format!("nothing older is dropped: {frozen}"));
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
        warnings.files(unmanaged);
        if let Some(seq) = catalog.map_or(Ok(None), |catalog| self.lost_anchor(catalog))? {
            warnings.add("audit-broken", format!("the audit log no longer holds line {seq}, which the catalog remembers: its end was cut off, or it was removed; put it back from a copy. Backups go on"));
        }
        self.warn_of_space(&backups, &mut warnings);
        if clock_is_implausible(now) {
            warnings.add("clock-implausible", "the clock of this machine is wrong (before 2025); set it");
        }
        Ok(warnings.0)
    }

    /// Without an identity backups can be taken and not be used.
    fn warn_of_identity(&self, backups: &[&Backup], warnings: &mut Warnings) {
        let codec = &self.config.codec;
        let to: Vec<_> = codec.written_to().iter().map(ToString::to_string).collect();
        let locked = backups.iter().filter(|backup| backup.databases.values().any(|copy| !self.opens(copy))).count();
        if locked > 0 || !codec.opens(codec.form(), &to) {
            let text = format!(
                "{locked} of {} backups are encrypted, and no identity at hand opens them: `verify` compares the ciphertext only, and                  they can't be rehearsed, previewed or restored here; set BACKUP_ENCRYPTION_IDENTITY_FILE where that is to be done",
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
        if free < largest.saturating_mul(2) {
            let text = format!("{} are free and a backup takes {}; make room", bytes(free), bytes(largest));
            warnings.add("space-low", text);
        }
    }
}

#[derive(Clone)]
pub(super) struct Failures {
    last: Option<LastFailure>,
    of_create: Option<LastFailure>,
}

/// Stands until a rehearsal goes well.
fn drill_failed(last: &LastDrill) -> Option<Warning> {
    let detail = format!(
        "the last rehearsal of a restore failed: {}; don't rely on that backup, take another, and run `drill` again",
        last.reason
    );
    (!last.ok).then_some(Warning { code: "drill-failed", detail })
}

struct Warnings(Vec<Warning>);

impl Warnings {
    fn add(&mut self, code: &'static str, detail: impl Into<String>) {
        self.0.push(Warning { code, detail: detail.into() });
    }

    fn age(&mut self, backups: &[&Backup], stale_after: Duration, now: DateTime<Utc>) {
        let good = backups.iter().filter(|backup| backup.is_good()).max_by_key(|backup| backup.sequence);
        let Some(newest) = good else {
            return self.add("no-backup", "there is no backup yet; `create` takes one now");
        };
        let age = (now - newest.timestamp).to_std().unwrap_or_default();
        if age > stale_after {
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
    }

    fn files(&mut self, unmanaged: &[String]) {
        let (corrupt, other): (Vec<&String>, Vec<_>) = unmanaged.iter().partition(|file| is_corrupt(file));
        if !corrupt.is_empty() {
            self.add(
                "corrupt-copies",
                format!(
                    "copies of corrupt data are kept for a look; remove them by hand when done: {}",
                    list(&corrupt)
                ),
            );
        }
        if !other.is_empty() {
            self.add("unmanaged", format!("files that no backup names are left alone: {}; move them away, or `catalog rebuild` takes in what is a backup", list(&other)));
        }
    }
}

/// The first few of them.
pub(super) fn list(files: &[&String]) -> String {
    let shown: Vec<_> = files.iter().take(5).map(|file| file.as_str()).collect();
    match files.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn optional_timestamp<S: serde::Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => timestamp::serialize(at, serializer),
        None => serializer.serialize_none(),
    }
}
