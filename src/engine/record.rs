//! What is told of each operation: its line in the audit log, and, when it has ended or was refused, one line in the log of this
//! process. What only reads has no line in the audit log and one in the other all the same.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{Call, Engine, Error, entry, failure, handout, locked};
use crate::audit::{self, Entry, Head, Kind};
use crate::backup::Subject;

/// The target of these lines: whoever runs one command is told on the terminal.
pub const OPERATION: &str = concat!(env!("CARGO_CRATE_NAME"), "::operation");

/// In the details of an outcome: how long it took.
pub(super) const SECONDS: &str = "seconds";
/// How long the app's writers were held to fix the instant of a snapshot.
pub(super) const BARRIER: &str = "barrierMicros";
/// How much the `-wal` of each database grew by while it was copied.
pub(super) const WAL_GROWN: &str = "walGrown";
/// How long the app's writers were held by a restore.
pub(super) const HELD: &str = "heldMillis";
/// In the outcome of a restore that has changed the data, however it ended: the backup of what was there before.
pub(super) const PRE_RESTORE: &str = "preRestore";
/// Bytes that were written, or that left.
const BYTES: [&str; 2] = ["bytes", "size"];

/// So many are kept.
const MOST_UNWRITTEN: usize = 100;

/// Codes of what can't be read as it was asked for.
const REFUSALS: [&str; 4] = ["not-found", "replica-unknown", "needs-identity", "held"];

/// What was said last of a failure.
#[derive(Clone, Default)]
pub(super) struct Said(Arc<Mutex<String>>);

/// How operations of this process have ended whose line could not be written. Nobody else ever knows; here it counts until the log
/// tells of something newer.
#[derive(Clone, Default)]
pub(super) struct Unwritten(Arc<Mutex<Vec<Dated>>>);

pub(super) type Dated = (DateTime<Utc>, Entry);

impl Unwritten {
    pub(super) fn add(&self, at: DateTime<Utc>, entry: Entry) {
        let mut all = locked(&self.0);
        if all.len() >= MOST_UNWRITTEN {
            all.remove(0);
        }
        all.push((at, entry));
    }

    /// It could be written after all.
    pub(super) fn remove(&self, written: &Dated) {
        locked(&self.0).retain(|it| it != written);
    }

    /// What the newest of them tells of which `told` says something.
    pub(super) fn newest<T>(&self, mut told: impl FnMut(DateTime<Utc>, &Entry) -> Option<T>) -> Option<T> {
        locked(&self.0).iter().rev().find_map(|(at, entry)| told(*at, entry))
    }
}

/// To the millisecond.
pub(super) fn seconds(begun: Instant) -> f64 {
    begun.elapsed().as_millis() as f64 / 1000.0
}

/// How many bytes an operation wrote or sent.
pub(super) fn bytes(entry: &Entry) -> Option<u64> {
    BYTES.iter().find_map(|key| entry.details.get(*key)?.as_u64())
}

/// How long an operation took. Under the same word tokens and codes tell for how long they count.
pub(super) fn duration(entry: &Entry) -> Option<f64> {
    let lasts = matches!(entry.operation.as_str(), "token" | "sign-in-code");
    entry.details.get(SECONDS).and_then(Value::as_f64).filter(|_| !lasts)
}

/// It was ended from outside, which says nothing of how things stand.
pub(super) fn was_stopped(entry: &Entry) -> bool {
    matches!(entry.code.as_deref(), Some("cancelled" | "interrupted" | handout::ABORTED))
}

fn text<'e>(entry: &'e Entry, key: &str) -> Option<&'e str> {
    entry.details.get(key).and_then(Value::as_str)
}

macro_rules! told {
    ($level:ident, $entry:expr, $($text:tt)+) => {
        tracing::$level!(
            target: OPERATION,
            operation = $entry.operation,
            id = $entry.subject().map(tracing::field::display),
            replica = text($entry, "replica"),
            ok = $entry.ok,
            seconds = duration($entry),
            bytes = bytes($entry),
            by = $entry.by,
            from = $entry.from,
            code = $entry.code,
            $($text)+
        )
    };
}

impl Engine {
    /// Appends a line to the audit log, and tells of it.
    pub(super) fn append(&self, entry: Entry) -> Result<Head, audit::Error> {
        let appended = self.append_at(self.clock.now(), entry.clone());
        // What has ended has ended, whether or not it could be recorded.
        self.tell(&entry);
        appended
    }

    /// Without a word of it; but the status tells whether lines can be written.
    pub(super) fn append_at(&self, at: DateTime<Utc>, entry: Entry) -> Result<Head, audit::Error> {
        let appended = self.audit.append(at, entry);
        *locked(&self.append_fails) = appended.as_ref().err().map(ToString::to_string);
        appended
    }

    /// The same of what isn't done unless it is recorded.
    pub(super) fn append_first(&self, entry: Entry) -> Result<Head, audit::Error> {
        let head = self.append_at(self.clock.now(), entry.clone())?;
        self.tell(&entry);
        Ok(head)
    }

    /// One line for what has ended, or was refused.
    pub(super) fn tell(&self, entry: &Entry) {
        let reason = entry.reason.as_deref().unwrap_or_default();
        match (entry.kind, entry.ok) {
            (Kind::Outcome, Some(true) | None) => told!(info, entry, "done"),
            (Kind::Outcome, Some(false)) if was_stopped(entry) => told!(warn, entry, "stopped: {reason}"),
            (Kind::Outcome, Some(false)) => told!(error, entry, "failed: {reason}"),
            (Kind::Refused, _) => told!(warn, entry, "refused: {reason}"),
            (Kind::Intent | Kind::Recovered, _) => return,
        }
        if !reason.is_empty() {
            reason.clone_into(&mut locked(&self.said.0));
        }
    }

    /// The line of an operation that only reads; `wrong` is what it found, if that is not as it should be.
    pub(super) fn tell_read<T>(
        &self,
        operation: &str,
        subject: Option<Subject>,
        call: &Call,
        begun: Instant,
        result: &Result<T, Error>,
        wrong: impl FnOnce(&T) -> Option<(&'static str, String)>,
    ) {
        let mut line = entry(Kind::Outcome, operation, &call.actor, subject);
        line = match result {
            Ok(found) => match wrong(found) {
                None => Entry { ok: Some(true), ..line },
                Some((code, reason)) => {
                    Entry { ok: Some(false), code: Some(code.to_owned()), reason: Some(reason), ..line }
                }
            },
            // What was asked for can't be had, which says nothing of what there is.
            Err(error) if REFUSALS.contains(&error.code()) => failure(Entry { kind: Kind::Refused, ..line }, error),
            Err(error) => failure(Entry { ok: Some(false), ..line }, error),
        };
        line.details.insert(SECONDS.to_owned(), seconds(begun).into());
        self.tell(&line);
        self.metrics.ended(&line);
    }

    /// Whether that is what was said last: a scheduler that asked for the operation has nothing to add.
    pub fn has_told(&self, error: &Error) -> bool {
        *locked(&self.said.0) == error.to_string()
    }
}
