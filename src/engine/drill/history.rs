//! What the audit log tells of past rehearsals, and what follows from it: what the status says, and whether one is due.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::DRILL;
use crate::audit::{Entry, Kind};
use crate::backup::schedule::{self, DrillSchedule};
use crate::backup::settings::Settings;
use crate::backup::{BackupId, timestamp};
use crate::engine::record::SECONDS;
use crate::engine::{Engine, Error};

/// In the details of an outcome: what was found of the journal.
pub(super) const JOURNAL: &str = "journal";
/// There too: somebody wanted this very rehearsal of the schedule to stop.
pub(super) const UNWANTED: &str = "unwanted";

/// The last rehearsal that came to an end.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct LastDrill {
    /// When it ended.
    #[serde(with = "timestamp")]
    pub at: DateTime<Utc>,
    /// Every backup could be restored, and the journal was right.
    pub ok: bool,
    /// The newest backup that was rehearsed, or the first that failed; nothing if it never came to one.
    #[schema(required = true)]
    pub id: Option<BackupId>,
    /// How long it took.
    #[schema(minimum = 0)]
    pub seconds: f64,
    /// Whether the journal was right; nothing where none was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub journal: Option<bool>,
    /// Why it failed.
    #[serde(skip)]
    pub reason: String,
}

/// What the log tells, up to a line.
#[derive(Clone, Default)]
pub(in crate::engine) struct History {
    /// The newest line that was read: its number, and the hash that it holds of the one before.
    newest: Option<(u64, String)>,
    last: Option<LastDrill>,
    /// When the last one ended that is not to be made up for.
    counted: Option<DateTime<Utc>>,
    /// How many since then ended the whole program, and when the newest of these.
    crashed: (u32, Option<DateTime<Utc>>),
}

/// So many in a row that ended the whole program (too little memory, say) are a rehearsal that failed. Else it would be begun again at
/// each start, for ever, and be told to nobody.
const CRASHES: u32 = 3;

impl Engine {
    /// The last rehearsal that came to an end.
    pub fn last_drill(&self) -> Result<Option<LastDrill>, Error> {
        Ok(self.history()?.last)
    }

    /// Whether the schedule wants a rehearsal now. `last` is when this process tried one: the log may not tell it.
    pub fn drill_is_due(
        &self,
        settings: &Settings,
        now: DateTime<Utc>,
        last: Option<DateTime<Utc>>,
    ) -> Result<bool, Error> {
        let every = self.config.drill.schedule;
        let due = |last| schedule::drill_is_due(&settings.schedule, every, now, last);
        // Asked every few seconds: mostly this is enough.
        if every == DrillSchedule::Off || !due(last) {
            return Ok(false);
        }
        let Some(catalog) = self.standing_catalog()? else { return Ok(false) };
        // Where the log can't be read, what this process tried is all that is known.
        let counted = || self.history().map_or(last, |history| history.counted);
        // What can't be decrypted here can't be rehearsed here; the status says so.
        Ok(!self.newest_of_each_tier(&catalog).is_empty() && due(counted()))
    }

    fn history(&self) -> Result<History, Error> {
        let (recorded, mut unwritten) = (self.recorded_history()?, History::default());
        let is_newer = |at| recorded.counted.is_none_or(|counted| counted < at);
        self.unwritten.newest(|at, entry| (!is_newer(at) || unwritten.take(at, entry)).then_some(()));
        Ok(unwritten.after(&recorded))
    }

    /// Only lines that came since the last look are read.
    fn recorded_history(&self) -> Result<History, Error> {
        self.drills.follow(self.audit.path(), |before| {
            let mut history = History::default();
            self.audit.newest_first(|line| {
                let here = (line.seq, line.prev.clone());
                if let Some(before) = before.as_ref().filter(|before| before.newest.as_ref() == Some(&here)) {
                    history.newest.get_or_insert(here);
                    history = std::mem::take(&mut history).after(before);
                    return true;
                }
                history.newest.get_or_insert(here);
                history.take(line.at, &line.entry)
            })?;
            Ok(history)
        })
    }
}

impl History {
    /// With what is known of the time before.
    fn after(mut self, before: &Self) -> Self {
        if self.last.is_none() {
            let (count, newest) = self.crashed;
            self.crashed = (count + before.crashed.0, newest.or(before.crashed.1));
            self.last.clone_from(&before.last);
            if newest.is_some() {
                self.judge_crashes();
            }
        }
        self.counted = self.counted.or(before.counted);
        self.newest = self.newest.or_else(|| before.newest.clone());
        self
    }

    /// Says whether that is a rehearsal that has failed.
    fn judge_crashes(&mut self) -> bool {
        let (CRASHES.., Some(at)) = self.crashed else { return false };
        let reason = format!(
            "the last {CRASHES} were ended with the whole program, killed or for want of memory; look into its log, and into that of the \
             system (`dmesg`)"
        );
        self.counted.get_or_insert(at);
        self.last = Some(LastDrill { at, ok: false, id: None, seconds: 0.0, journal: None, reason });
        true
    }

    /// Says whether older lines tell nothing more.
    fn take(&mut self, at: DateTime<Utc>, entry: &Entry) -> bool {
        if entry.kind != Kind::Outcome || entry.operation != DRILL {
            return false;
        }
        let ended = match entry.code.as_deref() {
            // Ended from outside it proves nothing, and the next start makes up for it.
            Some("interrupted") => {
                self.crashed = (self.crashed.0 + 1, self.crashed.1.or(Some(at)));
                return self.judge_crashes();
            }
            Some("cancelled") => {
                if entry.details.get(UNWANTED) == Some(&Value::Bool(true)) {
                    self.counted.get_or_insert(at);
                }
                return false;
            }
            _ => at,
        };
        self.counted.get_or_insert(ended);
        self.last = Some(LastDrill {
            at: ended,
            ok: entry.ok == Some(true),
            id: entry.id,
            journal: entry.details.get(JOURNAL).and_then(|journal| journal.get("ok")?.as_bool()),
            seconds: entry.details.get(SECONDS).and_then(Value::as_f64).unwrap_or_default(),
            reason: entry.reason.clone().unwrap_or_default(),
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::engine::{Actor, entry};

    fn ended(code: Option<&str>) -> Entry {
        let ok = Some(code.is_none());
        let line = entry(Kind::Outcome, DRILL, &Actor::scheduler(), None);
        Entry { ok, code: code.map(str::to_owned), details: Map::new(), ..line }
    }

    /// Newest first, each a minute older than the one before.
    fn read(newest: &str, codes: &[Option<&str>]) -> History {
        let (mut history, mut at) = (History::default(), newest.parse::<DateTime<Utc>>().unwrap());
        for code in codes {
            if history.take(at, &ended(*code)) {
                break;
            }
            at -= chrono::Duration::minutes(1);
        }
        history
    }

    #[test]
    fn what_ends_the_program_again_and_again_is_a_rehearsal_that_failed() {
        const CRASHED: Option<&str> = Some("interrupted");
        let at = |text: &str| Some(text.parse::<DateTime<Utc>>().unwrap());
        let twice = read("2026-01-08T12:02:00Z", &[CRASHED, CRASHED, None]);
        assert!(
            twice.last.as_ref().unwrap().ok && twice.counted == at("2026-01-08T12:00:00Z"),
            "the next start makes up for it"
        );
        let first = "2026-01-08T12:03:00Z";
        for history in [
            read(first, &[CRASHED, CRASHED, CRASHED, None]),
            read(first, &[CRASHED]).after(&twice),
            read(first, &[CRASHED, Some("cancelled"), CRASHED, CRASHED]),
            read(first, &[CRASHED]).after(&read("2026-01-01T12:00:00Z", &[CRASHED, CRASHED, CRASHED])),
        ] {
            let last = history.last.clone().unwrap();
            assert!(
                !last.ok && last.reason.contains("3") && Some(last.at) == at(first) && history.counted == at(first)
            );
            let after = read("2026-01-08T13:00:00Z", &[None]).after(&history);
            assert!(after.last.unwrap().ok && after.crashed.0 == 0);
        }
    }
}
