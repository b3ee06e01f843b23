//! How things stand, as gauges. A sheet is filled anew each time, so that nothing stands on it that is no longer so.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts, Registry};

use super::PREFIX;
use crate::backup::Tier;
use crate::disk;
use crate::engine::status::Status;
use crate::engine::{Engine, Error, ReplicaStatus};
use crate::sqlite::{identify, wal_size};

/// Name, labels, what it tells.
const GAUGES: &[(&str, &[&str], &str)] = &[
    ("info", &["version", "sqlite"], "What runs; always 1"),
    ("readable", &[], "1 if catalog, settings and audit log could be read for this answer"),
    ("ready", &[], "1 if the newest proven backup is younger than BACKUP_STALE_AFTER, as /readyz has it"),
    ("scheduled", &[], "1 if scheduled backups are on"),
    ("stale_after_seconds", &[], "BACKUP_STALE_AFTER"),
    ("newest_proven_age_seconds", &[], "Age of the newest backup that was checked and read back"),
    ("newest_proven_timestamp_seconds", &[], "Its instant"),
    ("next_run_timestamp_seconds", &[], "When the next scheduled backup is due"),
    ("backups", &["type"], "Backups that are kept"),
    ("stored_bytes", &["type"], "Bytes that they take"),
    ("newest_bytes", &["database"], "Bytes of the database in the newest good backup"),
    ("database_bytes", &["database"], "Bytes of the live database"),
    ("wal_bytes", &["database"], "Bytes of its WAL"),
    ("free_bytes", &[], "Bytes that are free on the disk of the backup directory"),
    ("needed_bytes", &[], "Bytes that the next backup needs"),
    ("warnings", &["code"], "1 for each warning of the status, by its code"),
    ("operation_running", &["operation"], "1 for the operation that holds the backup directory"),
    ("drill_ok", &[], "1 if the last rehearsal of a restore went well"),
    ("drill_age_seconds", &[], "Time since the last rehearsal ended"),
    ("drill_duration_seconds", &[], "How long it took"),
    ("journal_lag_seconds", &["database"], "Time since the last instant that the journal can restore"),
    ("journal_window_seconds", &["database"], "How far back the journal goes"),
    ("replica_ok", &["replica"], "1 if nothing is wrong with the replica"),
    ("replica_lag_seconds", &["replica"], "Age of the oldest backup that it still lacks; 0 if it lacks none"),
    ("replica_pending", &["replica"], "Backups that it still lacks"),
    ("replica_backups", &["replica"], "Backups that it holds"),
    ("replica_bytes", &["replica"], "Bytes that they take there"),
    ("replica_damaged", &["replica"], "Backups that were found damaged there"),
    ("replica_success_age_seconds", &["replica"], "Time since all was there that was wanted"),
    ("replica_verified_age_seconds", &["replica"], "Time since every byte there was read back and was right"),
    ("replica_journal_lag_seconds", &["replica"], "Time since the last instant that its journal can restore"),
];

/// The gauges of one answer.
struct Sheet {
    registry: Registry,
    gauges: BTreeMap<&'static str, GaugeVec>,
    now: DateTime<Utc>,
}

impl Sheet {
    fn new(now: DateTime<Utc>) -> prometheus::Result<Self> {
        let (registry, mut gauges) = (Registry::new(), BTreeMap::new());
        for (name, labels, help) in GAUGES {
            let gauge = GaugeVec::new(Opts::new(format!("{PREFIX}_{name}"), *help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            gauges.insert(*name, gauge);
        }
        Ok(Self { registry, gauges, now })
    }

    fn set(&self, name: &str, labels: &[&str], value: f64) {
        // A name that isn't in the table sets nothing, which the test that knows all names would see.
        if let Some(Ok(gauge)) = self.gauges.get(name).map(|gauge| gauge.get_metric_with_label_values(labels)) {
            gauge.set(value);
        }
    }

    fn age(&self, name: &str, labels: &[&str], at: Option<DateTime<Utc>>) {
        if let Some(at) = at {
            self.set(name, labels, seconds(self.now - at));
        }
    }
}

fn seconds(span: chrono::TimeDelta) -> f64 {
    span.num_milliseconds() as f64 / 1000.0
}

fn timestamp(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}

fn one(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// The gauges as they are now.
pub(super) fn sheet(engine: &Engine, counted: bool) -> prometheus::Result<Vec<MetricFamily>> {
    let sheet = Sheet::new(engine.clock.now())?;
    sheet.set("info", &[env!("CARGO_PKG_VERSION"), rusqlite::version()], 1.0);
    sheet.set("stale_after_seconds", &[], engine.config.stale_after.as_secs_f64());
    sheet.live(engine);
    let told = sheet.proven(engine).and_then(|()| sheet.status(engine, &engine.status()?));
    if let Err(error) = &told {
        tracing::warn!(code = error.code(), "not all metrics could be looked up: {error}");
        sheet.set("ready", &[], 0.0);
    }
    sheet.set("readable", &[], one(told.is_ok() && counted));
    Ok(sheet.registry.gather())
}

impl Sheet {
    fn live(&self, engine: &Engine) {
        for source in engine.sources() {
            let name = source.name.as_str();
            if let Ok(live) = identify(&source) {
                self.set("database_bytes", &[name], live.size as f64);
            }
            self.set("wal_bytes", &[name], wal_size(&source.path) as f64);
        }
        if let Ok(free) = disk::free_space(engine.store.root()) {
            self.set("free_bytes", &[], free as f64);
        }
        self.set("needed_bytes", &[], engine.room_for_backup() as f64);
    }

    fn proven(&self, engine: &Engine) -> Result<(), Error> {
        let newest = engine.newest_proven()?;
        self.set("ready", &[], one(engine.is_recent(newest.as_ref())));
        let Some(newest) = newest else { return Ok(()) };
        self.age("newest_proven_age_seconds", &[], Some(newest.timestamp));
        self.set("newest_proven_timestamp_seconds", &[], timestamp(newest.timestamp));
        for (name, copy) in &newest.databases {
            self.set("newest_bytes", &[name.as_str()], copy.size as f64);
        }
        Ok(())
    }

    fn status(&self, engine: &Engine, status: &Status) -> Result<(), Error> {
        self.set("scheduled", &[], one(status.enabled));
        if let Some(at) = status.schedule.next_run {
            self.set("next_run_timestamp_seconds", &[], timestamp(at));
        }
        for tier in Tier::ALL {
            self.set("backups", &[tier.name()], *status.counts.of(tier) as f64);
            self.set("stored_bytes", &[tier.name()], *status.storage.by_type.of(tier) as f64);
        }
        for warning in &status.warnings {
            self.set("warnings", &[warning.code], 1.0);
        }
        if let Some(operation) = &status.operation {
            let known = super::OPERATIONS.into_iter().find(|known| *known == operation.kind);
            self.set("operation_running", &[known.unwrap_or("other")], 1.0);
        }
        if let Some(last) = &status.last_drill {
            self.set("drill_ok", &[], one(last.ok));
            self.age("drill_age_seconds", &[], Some(last.at));
            self.set("drill_duration_seconds", &[], last.seconds);
        }
        // Of a journal that is kept no longer there is no lag.
        let journals = status.recovery.iter().flatten().filter(|_| engine.config.pitr.enabled);
        for (name, window) in journals {
            self.age("journal_lag_seconds", &[name.as_str()], Some(window.to));
            self.set("journal_window_seconds", &[name.as_str()], seconds(window.to - window.from));
        }
        status.replicas.iter().for_each(|replica| self.replica(replica));
        Ok(())
    }

    fn replica(&self, replica: &ReplicaStatus) {
        let name = [replica.name.as_str()];
        let journal = replica.journal.as_ref();
        let is_well = replica.last_error.is_none() && journal.is_none_or(|journal| journal.last_error.is_none());
        let is_whole = replica.damaged == 0 && journal.is_none_or(|journal| journal.damaged == 0);
        self.set("replica_ok", &name, one(is_well && is_whole));
        self.set("replica_lag_seconds", &name, replica.pending_since.map_or(0.0, |since| seconds(self.now - since)));
        self.set("replica_pending", &name, replica.pending as f64);
        self.set("replica_backups", &name, replica.held as f64);
        self.set("replica_bytes", &name, replica.size as f64);
        self.set("replica_damaged", &name, replica.damaged as f64);
        self.age("replica_success_age_seconds", &name, replica.last_success);
        self.age("replica_verified_age_seconds", &name, replica.last_verified);
        self.age("replica_journal_lag_seconds", &name, journal.and_then(|journal| journal.until));
    }
}
