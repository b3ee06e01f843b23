//! What the audit log tells of past rehearsals, and what follows from it: what the status says, and whether one is due.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::DRILL;
use crate::audit::{Kind, Line};
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
}

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

    /// Only lines that came since the last look are read.
    fn history(&self) -> Result<History, Error> {
        self.drills.follow(self.audit.path(), |before| {
            let mut history = History::default();
            self.audit.newest_first(|line| {
                let here = (line.seq, line.prev.clone());
                if let Some(before) = before.as_ref().filter(|before| before.newest.as_ref() == Some(&here)) {
                    history.last = history.last.take().or_else(|| before.last.clone());
                    history.counted = history.counted.or(before.counted);
                    history.newest.get_or_insert(here);
                    return true;
                }
                history.newest.get_or_insert(here);
                history.take(line)
            })?;
            Ok(history)
        })
    }
}

impl History {
    /// Says whether older lines tell nothing more.
    fn take(&mut self, line: &Line) -> bool {
        let entry = &line.entry;
        if entry.kind != Kind::Outcome || entry.operation != DRILL {
            return false;
        }
        let ended = match entry.code.as_deref() {
            // Ended from outside it proves nothing, and the next start makes up for it.
            Some("interrupted") => return false,
            Some("cancelled") => {
                if entry.details.get(UNWANTED) == Some(&Value::Bool(true)) {
                    self.counted.get_or_insert(line.at);
                }
                return false;
            }
            _ => line.at,
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
