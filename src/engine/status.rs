//! How things stand, for people and programs. Reads only.

mod warnings;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::permit::{Holder, LOCK};
use super::{Engine, Error, LastDrill, NoticesStatus, Recovery, ReplicaStatus, Window, notices, replica};
use crate::audit::{Entry, Kind};
use crate::backup::schedule::{self, Decision};
use crate::backup::settings::Settings;
use crate::backup::{Backup, BackupId, DatabaseName, ReplicaName, Tier, hex, timestamp};
use crate::catalog::Catalog;
use crate::config::{Origin, VARIABLES};

pub(super) use warnings::list;
use warnings::{Warnings, drill_failed};

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
    pub replicas: Vec<ReplicaStatus>,
    /// The instants that can be restored besides the backups, of each database that has any; null where no journal is kept, nor was.
    #[schema(value_type = Option<BTreeMap<String, Window>>, required = true)]
    pub recovery: Option<Recovery>,
    /// The last rehearsal.
    #[schema(required = true)]
    pub last_drill: Option<LastDrill>,
    /// How notices go.
    pub notices: NoticesStatus,
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
    timestamp::is_implausible(now)
}

impl Engine {
    /// How things stand.
    pub fn status(&self) -> Result<Status, Error> {
        let now = self.clock.now();
        let settings = self.settings()?;
        let catalog = self.standing_catalog()?;
        let catalog = catalog.as_deref();
        let backups: Vec<&Backup> = catalog.into_iter().flat_map(Catalog::standing).collect();
        let found = self.store.scan()?;
        let missing = self.missing(&backups, &found)?;
        let good = backups
            .iter()
            .copied()
            .filter(|backup| backup.is_good() && !backup.came_from_elsewhere() && !missing.contains(&backup.id));
        let newest = good.max_by_key(|backup| backup.sequence);
        let unmanaged = self.unmanaged(catalog, found, now);
        let (failures, last_drill) = (self.failures()?, self.last_drill()?);
        let mut warnings = self.warnings(&settings, catalog, failures.of_create.as_ref(), now)?;
        warnings.splice(0..0, Warnings::of_age(newest, &backups, &self.config, now));
        warnings.extend(Warnings::of_files(&missing, &unmanaged));
        warnings.extend(last_drill.as_ref().and_then(drill_failed));
        let recovery = self.recovery();
        warnings.extend(self.warn_of_journal(&recovery, now));
        let replicas = self.replicas()?;
        let is_local =
            |name: &ReplicaName| self.config.replicas.get(name).is_some_and(|it| it.place.is_on_this_machine());
        let kept = recovery.as_ref().ok().and_then(Option::as_ref).and_then(Window::common);
        warnings.extend(replica::warnings(&replicas, is_local, kept.map(|kept| (kept.from, kept.to)), now));
        let told = self.notices_status();
        warnings.extend(notices::warnings(&told));
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
            replicas,
            recovery: recovery.unwrap_or_default(),
            last_drill,
            notices: told,
            store_id: catalog.map(|catalog| catalog.store_id.clone()),
            unmanaged,
        })
    }

    /// The settings in force and where they come from.
    pub fn config_view(&self) -> Result<ConfigView, Error> {
        let saved = self.saved()?.names();
        let base = self.base()?;
        let origin = |key: String, from: Origin| {
            let from = match key.as_str() {
                key if saved.contains(&key) => Origin::Saved,
                key if base.number(key) != self.config.settings.number(key) => Origin::Serve,
                _ => from,
            };
            (key, from)
        };
        let sources = VARIABLES.iter().filter_map(|v| Some(origin(v.json_key(), *self.config.origins.get(v.key)?)));
        let assertions = self.config.drill.sql.iter().map(|(name, it)| (format!("drill.sql.{name}"), it.origin));
        let replicas = self.config.replica_values.iter().map(|it| (it.key.clone(), it.origin));
        Ok(ConfigView {
            settings: self.settings()?,
            directory: self.store.root().display().to_string(),
            databases: self.config.databases.keys().cloned().collect(),
            sources: sources.chain(assertions).chain(replicas).collect(),
        })
    }

    /// A catch-up or a retry may come before the next planned instant.
    pub(super) fn next_run(&self, settings: &Settings, now: DateTime<Utc>) -> Result<DateTime<Utc>, Error> {
        Ok(match self.decide(settings, now)? {
            Decision::Run { .. } => now,
            Decision::Wait { until } => until,
        })
    }

    /// What the schedule asks for now.
    pub fn decide(&self, settings: &Settings, now: DateTime<Utc>) -> Result<Decision, Error> {
        self.decide_after(settings, now, |slot| self.failures_since(slot))
    }

    /// The same where the audit log can't be read, and so nothing is known of failures.
    pub fn decide_unread(&self, settings: &Settings, now: DateTime<Utc>) -> Result<Decision, Error> {
        self.decide_after(settings, now, |slot| Ok(self.failures_unwritten(slot)))
    }

    fn decide_after(
        &self,
        settings: &Settings,
        now: DateTime<Utc>,
        failures: impl FnOnce(DateTime<Utc>) -> Result<Vec<DateTime<Utc>>, Error>,
    ) -> Result<Decision, Error> {
        let catalog = self.standing_catalog()?;
        let backups = catalog.as_ref().map_or(&[][..], |catalog| &catalog.backups);
        // Shrunk ones count too: another try would find the same data.
        let whole = |backup: &&Backup| backup.tier.is_scheduled() && backup.checked.ok && backup.verified.ok;
        let dailies = || backups.iter().filter(whole).map(|backup| backup.timestamp);
        // Asked every few seconds: mostly the backups say that nothing is due.
        match schedule::decide(&settings.schedule, now, dailies(), []) {
            Decision::Run { slot, .. } => Ok(schedule::decide(&settings.schedule, now, dailies(), failures(slot)?)),
            wait => Ok(wait),
        }
    }

    fn failures_since(&self, slot: DateTime<Utc>) -> Result<Vec<DateTime<Utc>>, Error> {
        let (mut failures, mut good) = (Vec::new(), None);
        self.audit.newest_first(|line| {
            if is_scheduled_create(&line.entry) && line.entry.ok == Some(true) {
                good = Some(line.at);
            }
            takes_failure(&mut failures, slot, line.at, &line.entry)
        })?;
        let unwritten = self.failures_unwritten(slot).into_iter();
        failures.extend(unwritten.filter(|at| good.is_none_or(|good| good < *at)));
        Ok(failures)
    }

    /// Those that the log lacks.
    fn failures_unwritten(&self, slot: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let mut failures = Vec::new();
        self.unwritten.newest(|at, entry| takes_failure(&mut failures, slot, at, entry).then_some(()));
        failures
    }

    /// The last failure that no success followed, and that of the last backup if it failed: whatever failed since doesn't
    /// hide it.
    fn failures(&self) -> Result<Failures, Error> {
        let read = self.failures.get(self.audit.path(), || self.read_failures())?;
        let is_create = |entry: &Entry| is_end(entry) && entry.operation == "create";
        let unwritten = self.unwritten.newest(|at, entry| is_create(entry).then(|| (at, entry.clone())));
        Ok(match unwritten.filter(|(at, _)| read.created.is_none_or(|created| created < *at)) {
            None => read,
            Some((at, entry)) => {
                let of_create = (entry.ok == Some(false)).then(|| LastFailure::of(at, &entry));
                let other = read.last.filter(|failure| failure.operation != "create");
                Failures { last: of_create.clone().or(other), of_create, created: Some(at) }
            }
        })
    }

    fn read_failures(&self) -> Result<Failures, Error> {
        let (mut last, mut of_create, mut created) = (None, None, None);
        let (mut ended, mut looked) = (BTreeSet::new(), 0);
        self.audit.newest_first(|line| {
            looked += 1;
            let entry = &line.entry;
            let is_newest = is_end(entry) && ended.insert(entry.operation.clone());
            if is_newest && entry.operation == "create" {
                created = Some(line.at);
            }
            if is_newest && entry.ok == Some(false) {
                let failure = LastFailure::of(line.at, entry);
                if entry.operation == "create" {
                    of_create = Some(failure.clone());
                }
                if looked <= LINES {
                    last.get_or_insert(failure);
                }
            }
            ended.contains("create") && (last.is_some() || looked >= LINES)
        })?;
        Ok(Failures { last, of_create, created })
    }
}

/// Says how an operation has ended.
fn is_end(entry: &Entry) -> bool {
    // The operation that wanted a rotation tells its failure too; a client that went away is no failure of ours, and what someone wanted
    // to stop is none at all.
    entry.kind == Kind::Outcome
        && entry.operation != super::rotation::ROTATE
        // Each replica tells its own.
        && entry.operation != replica::REPLICATE
        && !matches!(entry.code.as_deref(), Some(super::handout::ABORTED | "cancelled"))
}

fn is_scheduled_create(entry: &Entry) -> bool {
    entry.operation == "create" && entry.by == "scheduler" && entry.kind == Kind::Outcome
}

/// Takes one that the schedule's backup of that slot had, and says whether older lines tell nothing more.
fn takes_failure(failures: &mut Vec<DateTime<Utc>>, slot: DateTime<Utc>, at: DateTime<Utc>, entry: &Entry) -> bool {
    let ours = is_scheduled_create(entry);
    // Ended from outside is not failed: the next start tries again at once.
    let failed = ours && entry.ok == Some(false) && !matches!(entry.code.as_deref(), Some("cancelled" | "interrupted"));
    if failed {
        failures.push(at);
    }
    at < slot || ours && entry.ok == Some(true)
}

impl LastFailure {
    fn of(at: DateTime<Utc>, entry: &Entry) -> Self {
        Self { at, operation: entry.operation.clone(), reason: entry.reason.clone().unwrap_or_default() }
    }
}

#[derive(Clone)]
pub(super) struct Failures {
    last: Option<LastFailure>,
    of_create: Option<LastFailure>,
    /// When the last backup ended, well or not.
    created: Option<DateTime<Utc>>,
}

pub(super) fn optional_timestamp<S: serde::Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => timestamp::serialize(at, serializer),
        None => serializer.serialize_none(),
    }
}
