//! What an operator asks for, by the engine or by the command line, and what is to come of it.

use attendance_backup::backup::settings::{Saved, SavedRetention, SavedSchedule};
use attendance_backup::backup::{BackupId, Subject, Tier};
use attendance_backup::engine::{Call, Change, Create, Engine, Error, Restore};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::model_book::Book;

/// One operation.
#[derive(Clone, Debug)]
pub enum Deed {
    Create { daily: bool, right: bool },
    Verify(String),
    Restore(String),
    Undo,
    Delete { id: String, force: bool },
    Pin { id: String, on: bool },
    Acknowledge(String),
    Settings(Wishes),
}

/// A change of settings.
#[derive(Clone, Debug)]
pub struct Wishes {
    pub reset: bool,
    pub zone: Option<Tz>,
    pub keep: Vec<(&'static str, usize)>,
}

/// How it ends, and what the audit log has of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// An intent, and an outcome that is good.
    Done,
    /// An intent, and an outcome that isn't.
    Failed,
    /// One line that says so.
    Refused,
    /// Nothing; whether it is as it should be.
    Unsaid(bool),
}

/// A clock that says so was never set.
fn never_set(now: DateTime<Utc>) -> bool {
    now < "2025-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap()
}

impl Deed {
    /// What the audit log calls it.
    pub fn operation(&self) -> &'static str {
        match self {
            Deed::Create { .. } => "create",
            Deed::Verify(_) => "verify",
            Deed::Restore(_) | Deed::Undo => "restore",
            Deed::Delete { .. } => "delete",
            Deed::Pin { on: true, .. } => "pin",
            Deed::Pin { on: false, .. } => "unpin",
            Deed::Acknowledge(_) => "acknowledge",
            Deed::Settings(_) => "settings",
        }
    }

    /// What is there after it, and how it ends.
    pub fn foretold(&self, book: &Book, now: DateTime<Utc>) -> (Book, End) {
        let mut after = book.clone();
        let end = match self {
            Deed::Create { daily, right } => {
                let small = !right && book.is_small();
                after.add(if *daily { "daily" } else { "manual" }, now, small);
                after.rotate(never_set(now), true);
                (after.unusable, after.restored) = (false, None);
                End::Done
            }
            Deed::Verify(id) => match after.find_mut(id) {
                Some(kept) => {
                    kept.bad = kept.spoiled.is_some();
                    End::Unsaid(!kept.bad)
                }
                None => End::Unsaid(false),
            },
            Deed::Restore(id) => return restored(book, id, now),
            Deed::Undo => match book.undo.clone().filter(|id| book.find(id).is_some()) {
                Some(id) => return restored(book, &id, now),
                None => End::Unsaid(false),
            },
            Deed::Delete { id, force } => after.delete(id, *force),
            Deed::Pin { id, on } => match after.find_mut(id) {
                Some(kept) => {
                    kept.pinned = *on;
                    End::Done
                }
                None => End::Refused,
            },
            Deed::Acknowledge(id) if book.small_newest().is_some_and(|newest| newest.id == *id) => {
                after.find_mut(id).unwrap().small = false;
                after.rotate(book.unusable || never_set(now), false);
                End::Done
            }
            Deed::Acknowledge(_) => End::Refused,
            Deed::Settings(wishes) => after.change(wishes, now),
        };
        (after, end)
    }

    /// What may be found if it was cut short, besides its two ends: before anything live was changed, and after.
    pub fn between(&self, book: &Book, now: DateTime<Utc>) -> (Vec<Book>, Vec<Book>) {
        let id = match self {
            Deed::Restore(id) => Some(id),
            Deed::Undo => book.undo.as_ref(),
            _ => None,
        };
        let kept = id.and_then(|id| book.find(id)).filter(|kept| kept.spoiled.is_none());
        let Some(sequence) = kept.map(|kept| kept.sequence) else { return (Vec::new(), Vec::new()) };
        // Its pre-restore backup is there. Where it was brought to its end, what rotation does about it may be still to come; and where
        // one database was restored already, another such backup came first.
        let mut begun = book.clone();
        let first = begun.add("pre-restore", now, false);
        let (mut unrotated, mut twice) = (begun.clone(), begun.clone());
        unrotated.is_restored(sequence, first);
        let second = twice.add("pre-restore", now, false);
        twice.is_restored(sequence, second);
        let mut rotated = twice.clone();
        rotated.rotate(book.unusable || never_set(now), false);
        (vec![begun], vec![unrotated, twice, rotated])
    }

    /// As it is typed.
    pub fn args(&self) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match self {
            Deed::Create { daily, right } => {
                let mut args = words(&["create", "--type", if *daily { "daily" } else { "manual" }]);
                args.extend(right.then(|| "--accept-shrink".to_owned()));
                args
            }
            Deed::Verify(id) => words(&["verify", id]),
            Deed::Restore(id) => words(&["restore", id, "--confirm", id]),
            Deed::Undo => words(&["undo"]),
            Deed::Delete { id, force: true } => words(&["delete", id, "--force"]),
            Deed::Delete { id, force: false } => words(&["delete", id]),
            Deed::Pin { id, on } => words(&[if *on { "pin" } else { "unpin" }, id]),
            Deed::Acknowledge(_) => panic!("only the page and the API take that"),
            Deed::Settings(wishes) => wishes.args(),
        }
    }

    /// By the engine. Says whether what was looked at is as it should be.
    pub fn by(&self, engine: &Engine, call: &Call) -> Result<bool, Error> {
        let parsed = |id: &str| id.parse::<BackupId>().unwrap();
        match self {
            Deed::Create { daily, right } => {
                let tier = if *daily { Tier::Daily } else { Tier::Manual };
                engine.create(&Create { tier, reason: None, accept_shrink: *right }, call).map(drop)?;
            }
            Deed::Verify(id) => return Ok(engine.verify(&parsed(id), call)?.ok),
            Deed::Restore(id) => {
                let subject = Subject::Backup(parsed(id));
                engine.restore(&Restore { subject, force: false, offline: None }, call).map(drop)?;
            }
            Deed::Undo => engine.undo(false, None, call).map(drop)?,
            Deed::Delete { id, force } => engine.delete(parsed(id), *force, call)?,
            Deed::Pin { id, on } => engine.pin(parsed(id), *on, call).map(drop)?,
            Deed::Acknowledge(id) => engine.acknowledge(parsed(id), call).map(drop)?,
            Deed::Settings(wishes) => engine.change_settings(&wishes.change(), call).map(drop)?,
        }
        Ok(true)
    }
}

/// What is live becomes a backup of its own, then what was there then comes back, and the limits count again.
fn restored(book: &Book, id: &str, now: DateTime<Utc>) -> (Book, End) {
    let mut after = book.clone();
    let Some(kept) = book.find(id) else { return (after, End::Refused) };
    if kept.spoiled.is_some() {
        return (after, End::Failed);
    }
    let pre_restore = after.add("pre-restore", now, false);
    after.is_restored(kept.sequence, pre_restore);
    // Whether the live data was unusable is only known to be over when all is done.
    after.rotate(book.unusable || never_set(now), false);
    (after, End::Done)
}

impl Book {
    fn is_restored(&mut self, sequence: u64, pre_restore: String) {
        let kept = self.kept.iter().find(|kept| kept.sequence == sequence).unwrap();
        self.live = kept.content.clone();
        (self.unusable, self.restored, self.undo) = (false, Some(sequence), Some(pre_restore));
    }

    fn delete(&mut self, id: &str, force: bool) -> End {
        let Some(kept) = self.find(id) else { return End::Refused };
        let mut others = self.kept.iter().filter(|kept| kept.id != id);
        let is_last = self.kept.len() == 1 || kept.is_good() && !others.any(|kept| kept.is_good() && !kept.shows());
        if is_last && !force {
            return End::Refused;
        }
        self.kept.retain(|kept| kept.id != id);
        End::Done
    }

    fn change(&mut self, wishes: &Wishes, now: DateTime<Utc>) -> End {
        let mut keep = if wishes.reset { self.configured.0 } else { self.keep };
        let zone = if wishes.reset { self.configured.1 } else { self.zone };
        wishes.keep.iter().for_each(|(tier, number)| *keep.of_mut(tier) = *number);
        // At least one daily, one manual one, and two that restores make.
        if keep.daily < 1 || keep.manual < 1 || keep.pre_restore < 2 {
            return End::Refused;
        }
        (self.keep, self.zone) = (keep, wishes.zone.unwrap_or(zone));
        self.rotate(self.unusable || never_set(now), false);
        End::Done
    }
}

impl Wishes {
    fn of(&self, tier: &str) -> Option<u32> {
        self.keep.iter().find(|(other, _)| *other == tier).map(|(_, number)| *number as u32)
    }

    fn change(&self) -> Change {
        let retention = SavedRetention {
            daily: self.of("daily"),
            weekly: self.of("weekly"),
            monthly: self.of("monthly"),
            manual: self.of("manual"),
            pre_restore: self.of("pre-restore"),
        };
        let schedule = SavedSchedule { timezone: self.zone, ..SavedSchedule::default() };
        let set = Saved { enabled: None, schedule, retention };
        Change { set, reset: self.reset, dry_run: false, expected: None }
    }

    fn args(&self) -> Vec<String> {
        let mut set: Vec<_> = self.keep.iter().map(|(tier, number)| format!("retention.{tier}={number}")).collect();
        set.iter_mut().for_each(|set| *set = set.replace("pre-restore", "preRestore"));
        set.extend(self.zone.map(|zone| format!("schedule.timezone={zone}")));
        let set = set.into_iter().flat_map(|set| ["--set".to_owned(), set]);
        let reset = self.reset.then(|| "--reset".to_owned());
        std::iter::once("config".to_owned()).chain(reset).chain(set).collect()
    }
}
