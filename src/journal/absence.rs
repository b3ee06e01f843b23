//! When one database wasn't looked at, though others were: it wasn't configured. `alive` and the gaps of all say nothing of that, so it
//! stands in `journal/<database>/timeline.json`, which is replaced as a whole:
//!
//! 1. Whoever takes the journal up notes of each database that lies there and isn't configured that it is looked at no more since `alive`,
//!    if that isn't noted yet. `alive` goes on only after that.
//! 2. At the first tick that looks at it again the time between becomes a gap, and with that the note goes. Then `alive` goes on.
//!
//! A database that is configured has the file from the start. Earlier programs didn't write it: of one that they left it is known until
//! they captured it last, found it right, as they did every hour with what was configured and in WAL mode, or backed it up. That is a
//! guess: where the first tick finds nothing that has changed since, it is no gap.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};

use super::Error;
use super::folder::{all, folder};
use super::index::{Index, Point, oldest};
use super::timeline::{GAPS, Gap, Gaps, add, right};
use crate::backup::DatabaseName;
use crate::disk;

/// What was configured all the time was found right, or captured, in so many hours.
const LATELY: TimeDelta = TimeDelta::hours(2);

/// When a database alone wasn't looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Absence {
    /// It is looked at no more since then.
    pub(super) left: Option<DateTime<Utc>>,
    /// Nobody has noted that: it is the last time of which something is known.
    guessed: bool,
    /// In order.
    pub(super) gaps: Vec<Gap>,
}

/// Step 1. What is known of those that are configured. `backed_up` says of each when it was last.
pub(super) fn take_up(
    root: &Path,
    configured: BTreeSet<DatabaseName>,
    alive: Option<DateTime<Utc>>,
    backed_up: &BTreeMap<DatabaseName, DateTime<Utc>>,
) -> Result<BTreeMap<DatabaseName, Absence>, Error> {
    let last_known = |name: &DatabaseName| {
        let known = captured(root, name)?.max(right(root, name)).max(backed_up.get(name).copied());
        Ok::<_, Error>(known)
    };
    let mut absences = BTreeMap::new();
    for name in configured {
        disk::make_own_dir(&folder(root, &name))?;
        let absence = match noted(root, &name)? {
            // It had changed, and whoever has captured that died before the gap was recorded.
            Some(absence) if absence.guessed && captured(root, &name)? > absence.left => {
                Absence { guessed: false, ..absence }.written(root, &name)?
            }
            Some(absence) => absence,
            None => {
                let left = last_known(&name)?.filter(|known| alive.is_some_and(|alive| alive - *known > LATELY));
                Absence { left, guessed: left.is_some(), gaps: Vec::new() }.written(root, &name)?
            }
        };
        absences.insert(name, absence);
    }
    for name in all(root)?.iter().filter(|name| !absences.contains_key(*name)) {
        let note = noted(root, name)?;
        if note.as_ref().is_some_and(|absence| absence.left.is_some()) {
            continue;
        }
        let known = match alive {
            Some(_) if note.is_some() => alive,
            _ => last_known(name)?,
        };
        // What was captured after `alive` was never offered.
        if let Some(left) = known.into_iter().chain(alive).min() {
            let guessed = note.is_none();
            Absence { left: Some(left), guessed, ..note.unwrap_or_default() }.written(root, name)?;
        }
    }
    Ok(absences)
}

/// When the first state was of any database that isn't among these.
pub(super) fn oldest_of_others(
    root: &Path,
    configured: &BTreeMap<DatabaseName, Absence>,
) -> Result<Option<DateTime<Utc>>, Error> {
    let mut found = None;
    for name in all(root)?.iter().filter(|name| !configured.contains_key(*name)) {
        let first = oldest(&folder(root, name))?.and_then(|point| point.at());
        found = found.into_iter().chain(first).min();
    }
    Ok(found)
}

/// When the newest state of a database was.
fn captured(root: &Path, database: &DatabaseName) -> Result<Option<DateTime<Utc>>, Error> {
    Ok(Index::scan(&folder(root, database))?.newest().as_ref().and_then(Point::at))
}

fn path(root: &Path, database: &DatabaseName) -> PathBuf {
    folder(root, database).join(GAPS)
}

/// Nothing where it was damaged, and is put aside.
fn noted(root: &Path, database: &DatabaseName) -> Result<Option<Absence>, Error> {
    Ok(Gaps::read_or_put_aside(&path(root, database))?.map(Absence::from))
}

impl From<Gaps> for Absence {
    fn from(Gaps { left, guessed, gaps, .. }: Gaps) -> Self {
        Self { left, guessed, gaps }
    }
}

impl Absence {
    /// As it stands. Nothing where no word is of it.
    pub(super) fn read(root: &Path, database: &DatabaseName) -> Result<Self, Error> {
        Ok(Gaps::read(&path(root, database))?.map(Self::from).unwrap_or_default())
    }

    /// Step 2. What was guessed of one that hasn't `changed` since was wrong, or harms nobody.
    pub(super) fn ends(
        &mut self,
        root: &Path,
        database: &DatabaseName,
        at: DateTime<Utc>,
        changed: bool,
    ) -> Result<(), disk::Error> {
        let Some(left) = self.left else { return Ok(()) };
        let mut gaps = self.gaps.clone();
        if left < at && (changed || !self.guessed) {
            let why = if self.guessed { "nobody may have looked at it" } else { "it was not configured" };
            tracing::warn!(%database, from = %left, to = %at, "nothing is known of it of this time, in which {why}");
            add(&mut gaps, Gap::new(left, at));
        }
        *self = Self { left: None, guessed: false, gaps }.written(root, database)?;
        Ok(())
    }

    /// Forgets what ended before `oldest`.
    pub(super) fn forget_before(
        &mut self,
        root: &Path,
        database: &DatabaseName,
        oldest: DateTime<Utc>,
    ) -> Result<(), disk::Error> {
        let gaps: Vec<_> = self.gaps.iter().copied().filter(|gap| gap.to > oldest).collect();
        if gaps.len() < self.gaps.len() {
            *self = Self { gaps, ..self.clone() }.written(root, database)?;
        }
        Ok(())
    }

    /// Durable when it returns.
    fn written(self, root: &Path, database: &DatabaseName) -> Result<Self, disk::Error> {
        let mut gaps = Gaps::new(self.gaps.clone(), self.left);
        gaps.guessed = self.guessed;
        gaps.write(&path(root, database))?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::ltx::Header;
    use crate::journal::timeline::{Keeper, Timeline, note_right};
    use crate::journal::{FileName, Journal, Txid};

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-26T{text}:00Z").parse().unwrap()
    }

    fn names() -> [DatabaseName; 2] {
        ["attendance", "auth"].map(|name| name.parse().unwrap())
    }

    fn of(root: &Path, database: &DatabaseName) -> (Option<DateTime<Utc>>, Vec<Gap>) {
        let timeline = Timeline::read(root).unwrap().of(root, [database]).unwrap();
        (timeline.alive, timeline.gaps)
    }

    #[test]
    fn one_that_is_not_configured_has_left_and_is_back_with_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let (root, [stays, goes]) = (dir.path(), names());
        Journal::open(root, &goes).unwrap();
        Keeper::open(root, [&stays, &goes], &BTreeMap::new()).unwrap().alive(at("09:00")).unwrap();
        assert_eq!([of(root, &stays), of(root, &goes)], [(Some(at("09:00")), vec![]), (Some(at("09:00")), vec![])]);
        for time in ["09:10", "09:20"] {
            let mut keeper = Keeper::open(root, [&stays], &BTreeMap::new()).unwrap();
            keeper.are_back(at(time), |_| false).unwrap();
            keeper.alive(at(time)).unwrap();
        }
        assert_eq!([of(root, &stays), of(root, &goes)], [(Some(at("09:20")), vec![]), (Some(at("09:00")), vec![])]);
        // It is configured, and wasn't looked at yet.
        let mut keeper = Keeper::open(root, [&stays, &goes], &BTreeMap::new()).unwrap();
        assert_eq!([&stays, &goes].map(|name| keeper.alive_of(name)), [Some(at("09:20")), Some(at("09:00"))]);
        keeper.are_back(at("09:21"), |_| false).unwrap();
        assert_eq!(keeper.alive_of(&goes), Some(at("09:20")));
        keeper.alive(at("09:21")).unwrap();
        let gap = Gap::new(at("09:00"), at("09:21"));
        assert_eq!([of(root, &stays), of(root, &goes)], [(Some(at("09:21")), vec![]), (Some(at("09:21")), vec![gap])]);
        let both = Timeline::read(root).unwrap().of(root, [&stays, &goes]).unwrap();
        assert_eq!((both.alive, both.gaps), (Some(at("09:21")), vec![gap]));
        // It is forgotten when nothing of any is before that any more, and only then.
        for (first, other, left) in [("09:20", "09:30", 1), ("09:21", "09:20", 1), ("09:21", "09:30", 0)] {
            let first = [(stays.clone(), at(other)), (goes.clone(), at(first))].into();
            keeper.forget_before(&first).unwrap();
            assert_eq!(of(root, &goes).1.len(), left);
        }
    }

    #[test]
    fn what_is_known_of_one_without_a_note_or_with_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let (root, [stays, goes]) = (dir.path(), names());
        Journal::open(root, &goes).unwrap();
        Keeper::open(root, [&stays, &goes], &BTreeMap::new()).unwrap().alive(at("09:30")).unwrap();
        note_right(root, &goes, at("09:05")).unwrap();
        let note = path(root, &goes);
        for (right, left) in [("09:05", "09:05"), ("09:40", "09:30")] {
            std::fs::write(&note, "{\"version\":1,\"ga").unwrap();
            note_right(root, &goes, at(right)).unwrap();
            let said = Timeline::read(root).unwrap().of(root, [&goes]).unwrap_err().to_string();
            assert!(said.contains("auth/timeline.json is damaged"), "{said}");
            Keeper::open(root, [&stays], &BTreeMap::new()).unwrap();
            assert_eq!(of(root, &goes).0, Some(at(left)));
            assert!(note.with_file_name("timeline.json.damaged").exists());
            std::fs::remove_file(&note).unwrap();
            Keeper::open(root, [&stays], &BTreeMap::new()).unwrap();
            assert_eq!(of(root, &goes).0, Some(at(left)));
        }
        // It is configured again, or was all the time.
        for (right, left) in [("07:29", "07:29"), ("07:30", "09:30")] {
            std::fs::remove_file(&note).unwrap();
            note_right(root, &goes, at(right)).unwrap();
            let mut keeper = Keeper::open(root, [&stays, &goes], &BTreeMap::new()).unwrap();
            assert_eq!(of(root, &goes).0, Some(at(left)));
            // It was guessed: where nothing has changed since, nothing is unknown.
            for (changed, gaps) in [(false, 0), (true, usize::from(left == "07:29"))] {
                keeper.are_back(at("09:31"), |_| changed).unwrap();
                assert_eq!(of(root, &goes), (Some(at("09:30")), vec![Gap::new(at("07:29"), at("09:31")); gaps]));
                std::fs::remove_file(&note).unwrap();
                keeper = Keeper::open(root, [&stays, &goes], &BTreeMap::new()).unwrap();
            }
        }
    }

    /// Whoever found that it had changed didn't come to record the gap: the next one sees nothing of that but the state.
    #[test]
    fn a_guess_is_none_once_a_change_was_captured() {
        let dir = tempfile::tempdir().unwrap();
        let (root, [stays, goes]) = (dir.path(), names());
        let journal = Journal::open(root, &goes).unwrap();
        Keeper::open(root, [&stays], &BTreeMap::new()).unwrap().alive(at("09:30")).unwrap();
        note_right(root, &goes, at("07:00")).unwrap();
        drop(Keeper::open(root, [&stays, &goes], &BTreeMap::new()).unwrap());
        assert_eq!(of(root, &goes).0, Some(at("07:00")));
        snapshot(&journal, at("09:31"));
        let mut keeper = Keeper::open(root, [&stays, &goes], &BTreeMap::new()).unwrap();
        keeper.are_back(at("09:32"), |_| false).unwrap();
        assert_eq!(of(root, &goes).1, [Gap::new(at("07:00"), at("09:32"))]);
    }

    /// Earlier programs looked for nothing in what isn't in WAL mode; but it was backed up.
    #[test]
    fn what_was_backed_up_was_configured_then() {
        let (root, [stays, goes]) = (tempfile::tempdir().unwrap(), names());
        let root = root.path();
        Journal::open(root, &goes).unwrap();
        Keeper::open(root, [&stays], &BTreeMap::new()).unwrap().alive(at("09:30")).unwrap();
        note_right(root, &goes, at("01:00")).unwrap();
        for (backed_up, left) in [("04:00", "04:00"), ("07:30", "09:30"), ("00:30", "01:00")] {
            drop(Keeper::open(root, [&goes], &[(goes.clone(), at(backed_up))].into()).unwrap());
            assert_eq!(of(root, &goes).0, Some(at(left)), "{backed_up}");
            std::fs::remove_file(path(root, &goes)).unwrap();
        }
    }

    fn snapshot(journal: &Journal, at: DateTime<Utc>) {
        let (name, millis) = (FileName::snapshot(Txid::FIRST), at.timestamp_millis() as u64);
        let header = Header { page_size: 512, pages: 1, min: name.min, max: name.max, millis };
        let mut writer = journal.begin(name, header).unwrap();
        writer.page(1, &[7; 512]).unwrap();
        writer.publish(journal).unwrap();
    }

    #[test]
    fn gaps_stay_as_long_as_anything_lies_there_that_began_before() {
        let dir = tempfile::tempdir().unwrap();
        let (root, [stays, goes]) = (dir.path(), names());
        let journal = Journal::open(root, &goes).unwrap();
        snapshot(&journal, at("09:00"));
        let mut keeper = Keeper::open(root, [&stays], &BTreeMap::new()).unwrap();
        keeper.gap(Gap::new(at("09:10"), at("09:20"))).unwrap();
        let first = BTreeMap::from([(stays, at("10:00"))]);
        keeper.forget_before(&first).unwrap();
        assert_eq!(keeper.timeline().gaps.len(), 1);
        std::fs::remove_dir_all(journal.folder()).unwrap();
        keeper.forget_before(&first).unwrap();
        assert_eq!(keeper.timeline().gaps.len(), 0);
    }
}
