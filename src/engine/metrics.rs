//! Figures for Prometheus. How things stand is looked up when somebody asks (`sheet`); what was done is counted from the audit log,
//! line by line since this process began, so that operations of the command line beside `serve` count too. What only reads has no line
//! there, and counts where it was done.

mod sheet;

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

use super::lost::JOURNAL_WRONG;
use super::record::{BARRIER, HELD, WAL_GROWN, bytes, duration, was_stopped};
use super::recording::JOURNAL;
use super::{Engine, Error, locked};
use crate::audit::{Entry, Kind};

/// What every name begins with.
const PREFIX: &str = "attendance_backup";
/// What was looked up counts for so long: anyone may ask, as often as they like.
const FRESH: Duration = Duration::from_secs(1);
/// Operations with series of their own.
const OPERATIONS: [&str; 24] = [
    "acknowledge",
    "cancel",
    "create",
    "delete",
    "download",
    "drill",
    "journal",
    "notify-test",
    "pin",
    "preview",
    "pull",
    "rebuild",
    "recovery",
    "replicate",
    "request",
    "restore",
    "rotate",
    "settings",
    "sign-in",
    "sign-in-code",
    "token",
    "unpin",
    "verify",
    "verify-replica",
];
/// Those whose first failure should be seen as a rise: they have a series from the start.
const WATCHED: [&str; 7] = ["create", "restore", "rotate", "recovery", "drill", "replicate", "verify"];
/// The same of what is found: bytes that are not as recorded, a disk that doesn't give them, and a journal that isn't what the databases
/// were.
const FOUND: [(&str, &str); 3] = [("verify", "damaged"), ("verify", "disk"), (JOURNAL, JOURNAL_WRONG)];
/// Seconds of operations.
const DURATIONS: [f64; 11] = [0.05, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0];
/// Seconds for which writers wait.
const WAITS: [f64; 10] = [0.00005, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 3.0];
/// Bytes of a WAL.
const GROWTHS: [f64; 8] = [0.0, 65536.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0, 268435456.0, 1073741824.0];

/// What is counted.
pub struct Metrics {
    registry: Registry,
    operations: IntCounterVec,
    failures: IntCounterVec,
    refusals: IntCounterVec,
    written: IntCounterVec,
    requests: IntCounterVec,
    durations: HistogramVec,
    barriers: HistogramVec,
    holds: HistogramVec,
    growths: HistogramVec,
    /// The last line of the audit log that was counted.
    counted: Mutex<Option<u64>>,
    /// What was handed out last, and when.
    last: Mutex<Option<(Instant, String)>>,
}

impl Default for Metrics {
    #[allow(clippy::expect_used)]
    fn default() -> Self {
        // Names, labels and buckets are constants of the right form, and none stands twice; the first test of anything here would
        // not come past this line.
        Self::new().expect("constant names are good names")
    }
}

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(format!("{PREFIX}_{name}"), help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let options = HistogramOpts::new(format!("{PREFIX}_{name}"), help).buckets(buckets.to_vec());
            let made = HistogramVec::new(options, labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let operation = ["operation"];
        let metrics = Self {
            operations: counter("operations_total", "Operations that ended", &["operation", "outcome"])?,
            failures: counter("failures_total", "Operations that failed, by the code of why", &["operation", "code"])?,
            refusals: counter("refusals_total", "What was not allowed, by the code of why", &["operation", "code"])?,
            written: counter("written_bytes_total", "Bytes that operations wrote or sent", &operation)?,
            requests: counter("http_requests_total", "Answers over HTTP", &["route", "method", "class"])?,
            durations: histogram("operation_duration_seconds", "How long operations took", &operation, &DURATIONS)?,
            barriers: histogram("barrier_seconds", "How long writers waited for the instant of a backup", &[], &WAITS)?,
            holds: histogram("restore_hold_seconds", "How long writers waited for a restore", &[], &WAITS)?,
            growths: histogram("wal_growth_bytes", "How much a WAL grew while a backup read", &["database"], &GROWTHS)?,
            registry,
            counted: Mutex::default(),
            last: Mutex::default(),
        };
        for operation in WATCHED {
            metrics.operations.with_label_values(&[operation, "done"]);
            metrics.operations.with_label_values(&[operation, "failed"]);
        }
        for (operation, code) in FOUND {
            metrics.failures.with_label_values(&[operation, code]);
        }
        Ok(metrics)
    }

    /// An answer over HTTP: by the route's template, never by the path that was asked for.
    pub fn answered(&self, route: &str, method: &str, status: u16) {
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let method = known.into_iter().find(|known| *known == method).unwrap_or("other");
        self.requests.with_label_values(&[route, method, class]).inc();
    }

    /// An operation that came to its end, or wasn't allowed.
    pub(super) fn ended(&self, entry: &Entry) {
        let operation = OPERATIONS.into_iter().find(|known| *known == entry.operation).unwrap_or("other");
        let code = code(entry);
        match (entry.kind, entry.ok) {
            (Kind::Refused, _) => return self.refusals.with_label_values(&[operation, code]).inc(),
            (Kind::Outcome, Some(false)) if was_stopped(entry) => {
                self.operations.with_label_values(&[operation, "stopped"]).inc();
            }
            (Kind::Outcome, Some(false)) => {
                self.operations.with_label_values(&[operation, "failed"]).inc();
                self.failures.with_label_values(&[operation, code]).inc();
            }
            (Kind::Outcome, _) => self.operations.with_label_values(&[operation, "done"]).inc(),
            (Kind::Intent | Kind::Recovered, _) => return,
        }
        if let Some(seconds) = duration(entry) {
            self.durations.with_label_values(&[operation]).observe(seconds);
        }
        if let Some(bytes) = bytes(entry) {
            self.written.with_label_values(&[operation]).inc_by(bytes);
        }
        self.waited(entry);
    }

    /// What the app felt of it.
    fn waited(&self, entry: &Entry) {
        let figure = |key: &str| entry.details.get(key).and_then(serde_json::Value::as_f64);
        if let Some(micros) = figure(BARRIER) {
            self.barriers.with_label_values::<&str>(&[]).observe(micros / 1e6);
        }
        if let Some(millis) = figure(HELD) {
            self.holds.with_label_values::<&str>(&[]).observe(millis / 1e3);
        }
        let grown = entry.details.get(WAL_GROWN).and_then(serde_json::Value::as_object);
        for (database, bytes) in grown.into_iter().flatten() {
            self.growths.with_label_values(&[database.as_str()]).observe(bytes.as_f64().unwrap_or_default());
        }
    }
}

/// A word of ours; anything else may come from a log that others have written.
fn code(entry: &Entry) -> &str {
    let code = entry.code.as_deref().unwrap_or("none");
    let is_word = code.len() <= 32 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    if is_word { code } else { "other" }
}

impl Engine {
    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// From here on lines of the audit log count.
    pub fn count_from_here(&self) {
        match self.audit.head() {
            Ok(head) => *locked(&self.metrics.counted) = Some(head.seq),
            Err(error) => tracing::warn!(%error, "what is done is counted from the first look at the metrics on"),
        }
    }

    /// All figures, in the text format 0.0.4. What can't be looked up is left out, and `readable` says so.
    pub fn metrics_text(&self) -> prometheus::Result<String> {
        let mut last = locked(&self.metrics.last);
        if let Some((_, text)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(text.clone());
        }
        let counted = self.count().inspect_err(|error| tracing::warn!(%error, "the audit log could not be counted"));
        let sheet = sheet::sheet(self, counted.is_ok())?;
        let mut families = self.metrics.registry.gather();
        families.extend(sheet);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let text = TextEncoder::new().encode_to_string(&families)?;
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }

    /// Counts what has come since the last look.
    fn count(&self) -> Result<(), Error> {
        let mut counted: MutexGuard<'_, Option<u64>> = locked(&self.metrics.counted);
        let head = self.audit.head()?.seq;
        // A log that is shorter than it was is another one.
        if let Some(before) = counted.filter(|before| *before < head) {
            // All of them count or none: what can't be read to its end is counted by another look, and nothing of it twice.
            self.audit.newest_first(|line| line.seq <= before)?;
            self.audit.newest_first(|line| {
                if line.seq > before && line.seq <= head {
                    self.metrics.ended(&line.entry);
                }
                line.seq <= before
            })?;
        }
        *counted = Some(head);
        Ok(())
    }
}
