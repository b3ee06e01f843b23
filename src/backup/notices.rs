//! When notices are told: once when something begins to be wrong, once a day while it is, once when it is over. A pure rule
//! of what was found, what was told before, and the time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::timestamp;

/// Between two notices of what stands.
const AGAIN: TimeDelta = TimeDelta::hours(24);
/// What isn't found for so long is over: much comes and goes.
const CALM: TimeDelta = TimeDelta::minutes(15);
/// So many refused sign-ins …
const REFUSALS: usize = 10;
/// … within this are worth a notice.
const WITHIN: TimeDelta = TimeDelta::minutes(10);

macro_rules! events {
    ($($(#[$text:meta])* $name:ident = $word:literal;)*) => {
        /// What a notice is about.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        pub enum Event {
            $($(#[$text])* #[serde(rename = $word)] $name,)*
        }

        impl Event {
            /// All events.
            pub const ALL: &[Event] = &[$(Event::$name),*];

            /// A stable word.
            pub fn word(self) -> &'static str {
                match self {
                    $(Event::$name => $word,)*
                }
            }
        }
    };
}

events! {
    /// The last backup failed.
    BackupFailed = "backup-failed";
    /// The live data can't be backed up.
    LiveUnusable = "live-unusable";
    /// The newest good backup is too old, or there is none.
    Stale = "stale";
    /// What was read back isn't what was recorded, or is gone.
    VerificationFailed = "verification-failed";
    /// The same in a replica.
    ReplicaDamaged = "replica-damaged";
    /// The last rehearsal of a restore failed.
    DrillFailed = "drill-failed";
    /// A replica lacks backups, or the journal.
    ReplicaBehind = "replica-behind";
    /// The journal is not written.
    JournalBehind = "journal-behind";
    /// There is little room for backups.
    StorageLow = "storage-low";
    /// Nothing older is dropped.
    RotationFrozen = "rotation-frozen";
    /// A restore was cut short.
    RestoreUnfinished = "restore-unfinished";
    /// The audit log isn't whole.
    AuditBroken = "audit-broken";
    /// The clock is, or was, wrong.
    ClockWrong = "clock-wrong";
    /// How things stand can't be found out.
    Unreadable = "unreadable";
    /// Live databases were put back to what they were.
    RestoreDone = "restore-done";
    /// A restore didn't do what was asked.
    RestoreFailed = "restore-failed";
    /// The journal was found wrong, and begins anew.
    JournalWrong = "journal-wrong";
    /// The settings were changed.
    SettingsChanged = "settings-changed";
    /// Somebody tries tokens that don't count.
    SignInRefused = "sign-in-refused";
    /// Somebody wanted to see whether notices arrive.
    Test = "test";
}

impl Event {
    /// What a warning of the status is about; many are for whoever looks, and not worth a notice.
    pub fn of_warning(code: &str) -> Option<Self> {
        Some(match code {
            "backup-failed" => Self::BackupFailed,
            "live-unusable" => Self::LiveUnusable,
            "no-backup" | "stale" | "not-covered" => Self::Stale,
            "damaged" | "files-missing" => Self::VerificationFailed,
            "replica-damaged" => Self::ReplicaDamaged,
            "drill-failed" => Self::DrillFailed,
            "replica-failing" | "replica-behind" | "replica-journal-behind" => Self::ReplicaBehind,
            "journal-behind" | "journal-ahead" => Self::JournalBehind,
            "space-low" => Self::StorageLow,
            "rotation-frozen" => Self::RotationFrozen,
            "restore-unfinished" => Self::RestoreUnfinished,
            "audit-broken" => Self::AuditBroken,
            "clock-implausible" | "clock-went-back" => Self::ClockWrong,
            _ => return None,
        })
    }

    /// While it stands not everything is in time, and the ping of the dead man's switch stays away.
    pub fn is_late(self) -> bool {
        !matches!(self, Self::StorageLow | Self::RotationFrozen)
    }

    /// How long a finding has to stand before it is told: some pass by themselves.
    fn patience(self, code: &str) -> TimeDelta {
        match (self, code) {
            // A first start, and one after days, takes a backup at once.
            (Self::Stale, _) => TimeDelta::minutes(30),
            // A backup needs room for a while, and gives it back.
            (Self::StorageLow, _) => TimeDelta::minutes(15),
            (Self::ReplicaBehind, "replica-failing") => TimeDelta::hours(1),
            (Self::JournalBehind | Self::RestoreUnfinished, _) => TimeDelta::minutes(5),
            (Self::Unreadable, _) => TimeDelta::minutes(1),
            _ => TimeDelta::zero(),
        }
    }
}

/// Where a notice stands in the course of things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is new.
    Began,
    /// It still stands.
    Reminder,
    /// It is over.
    Recovered,
    /// It happened, and that is all.
    Once,
}

/// Something that is wrong now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Of which kind.
    pub event: Event,
    /// The word of the warning.
    pub code: String,
    /// Tells it from others of its kind: which backup, which replica.
    pub about: String,
    /// What it is and what to do.
    pub detail: String,
}

/// What is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Telling {
    /// About what.
    pub event: Event,
    /// Where it stands.
    pub stage: Stage,
    /// Since when it was found.
    pub since: DateTime<Utc>,
    /// All that is found of it now; nothing once it is over.
    pub details: Vec<String>,
}

/// What was found and told before.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    standing: BTreeMap<Event, Standing>,
    /// Of the last refused sign-ins.
    refusals: Vec<DateTime<Utc>>,
    refusals_told: Option<DateTime<Utc>>,
    wrong_told: Option<DateTime<Utc>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Standing {
    #[serde(with = "timestamp")]
    since: DateTime<Utc>,
    /// When it was told last.
    told: Option<DateTime<Utc>>,
    /// Since when nothing of it is found.
    #[serde(default)]
    gone: Option<DateTime<Utc>>,
    findings: BTreeMap<String, Finding>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Finding {
    #[serde(with = "timestamp")]
    since: DateTime<Utc>,
    told: bool,
}

/// What happened was told within a day.
fn is_lately(told: Option<DateTime<Utc>>, at: DateTime<Utc>) -> bool {
    told.is_some_and(|told| told <= at && at - told < AGAIN)
}

impl Memory {
    /// What of all that is `found` now is to be told. Of events that `is_known` denies nothing can be said: they stand as they stood.
    pub fn stand(&mut self, found: &[Found], is_known: impl Fn(Event) -> bool, now: DateTime<Utc>) -> Vec<Telling> {
        let mut by_event: BTreeMap<Event, Vec<&Found>> = BTreeMap::new();
        for one in found.iter().filter(|one| is_known(one.event)) {
            by_event.entry(one.event).or_default().push(one);
        }
        let events: BTreeSet<Event> = by_event.keys().chain(self.standing.keys()).copied().collect();
        let known = events.into_iter().filter(|event| is_known(*event));
        known.filter_map(|event| self.consider(event, by_event.get(&event).map_or(&[], Vec::as_slice), now)).collect()
    }

    /// Takes in what was found before this could be read.
    pub fn follow(&mut self, later: Self) {
        for (event, standing) in later.standing {
            match self.standing.entry(event) {
                Entry::Vacant(place) => drop(place.insert(standing)),
                Entry::Occupied(mut before) => before.get_mut().follow(standing),
            }
        }
    }

    fn consider(&mut self, event: Event, found: &[&Found], now: DateTime<Utc>) -> Option<Telling> {
        let telling = |stage, since| {
            let details = found.iter().map(|one| one.detail.clone()).collect();
            Some(Telling { event, stage, since, details })
        };
        if found.is_empty() {
            let standing = self.standing.get_mut(&event)?;
            standing.clock_went_to(now);
            standing.findings.retain(|_, finding| finding.told);
            let gone = *standing.gone.get_or_insert(now);
            if standing.told.is_some() && now - gone < CALM {
                return None;
            }
            let over = self.standing.remove(&event)?;
            return over.told.and_then(|_| telling(Stage::Recovered, over.since));
        }
        let new = || Standing { since: now, told: None, gone: None, findings: BTreeMap::new() };
        let standing = self.standing.entry(event).or_insert_with(new);
        standing.clock_went_to(now);
        standing.gone = None;
        let is_new = standing.find(found, now);
        let stage = match standing.told {
            _ if is_new => Stage::Began,
            Some(told) if now - told >= AGAIN => Stage::Reminder,
            _ => return None,
        };
        standing.told = Some(now);
        let since = standing.since;
        telling(stage, since)
    }

    /// The journal was found wrong. Says whether that is told: once a day, however often it is.
    pub fn wrong(&mut self, at: DateTime<Utc>, why: String) -> Option<Telling> {
        if is_lately(self.wrong_told, at) {
            return None;
        }
        self.wrong_told = Some(at);
        Some(Telling { event: Event::JournalWrong, stage: Stage::Once, since: at, details: vec![why] })
    }

    /// A sign-in was refused. Says whether that is one too many.
    pub fn refused(&mut self, at: DateTime<Utc>) -> Option<Telling> {
        self.refusals.retain(|before| *before <= at && at - *before <= WITHIN);
        self.refusals.push(at);
        if self.refusals.len() < REFUSALS || is_lately(self.refusals_told, at) {
            // More are never needed.
            let more = self.refusals.len().saturating_sub(REFUSALS);
            self.refusals.drain(..more);
            return None;
        }
        self.refusals_told = Some(at);
        let (count, since) = (self.refusals.len(), self.refusals[0]);
        self.refusals.clear();
        let minutes = ((at - since).num_seconds() + 59) / 60;
        let detail = format!("{count} sign-ins were refused within {} min", minutes.max(1));
        Some(Telling { event: Event::SignInRefused, stage: Stage::Once, since, details: vec![detail] })
    }
}

impl Standing {
    /// Nothing was found or told later than now, nor before the clock was set.
    fn clock_went_to(&mut self, now: DateTime<Utc>) {
        let mend = |at: &mut DateTime<Utc>| {
            if *at > now || timestamp::is_implausible(*at) {
                *at = now;
            }
        };
        mend(&mut self.since);
        self.told.iter_mut().chain(&mut self.gone).for_each(mend);
        self.findings.values_mut().for_each(|finding| mend(&mut finding.since));
    }

    /// As it stood before, and what was found out since.
    fn follow(&mut self, later: Self) {
        (self.told, self.gone) = (self.told.max(later.told), later.gone);
        for (about, finding) in later.findings {
            let known = self.findings.entry(about).or_insert_with(|| finding.clone());
            known.told |= finding.told;
        }
    }

    /// Whether any of it is to be told that wasn't. What was told and comes and goes is told no second time, as long as
    /// anything of its event stands.
    fn find(&mut self, found: &[&Found], now: DateTime<Utc>) -> bool {
        self.findings.retain(|about, finding| finding.told || found.iter().any(|one| one.about == *about));
        let mut is_new = false;
        for one in found {
            let finding = self.findings.entry(one.about.clone()).or_insert(Finding { since: now, told: false });
            if !finding.told && now - finding.since >= one.event.patience(&one.code) {
                finding.told = true;
                is_new = true;
            }
        }
        is_new
    }
}

#[cfg(test)]
mod tests;
