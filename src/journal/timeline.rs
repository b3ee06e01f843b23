//! When the journal knows what the databases held: until when (`journal/alive`), and when not (`journal/timeline.json`).
//!
//! `alive` is written over in place after each look at the databases, also where nothing had changed, and costs one small write
//! that nobody waits for. After a power cut it may be older than the journal, never newer than what is durable of it.
//! A gap is recorded, durably, before `alive` goes beyond it. What is true of one database alone stands in its folder (`absence`).
//!
//! Others leave word for whoever writes it, in a file each: that the databases were `restored`, and that the journal was found `wrong`. From
//! then on nothing is known since it was right, until the gap is recorded. When a database's was last found `right` stands in its folder.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::absence::{self, Absence};
use super::folder::folder;
use super::{Error, FOLDER};
use crate::backup::{DatabaseName, timestamp};
use crate::disk::{self, Context};

const ALIVE: &str = "alive";
pub(super) const GAPS: &str = "timeline.json";
const VERSION: u32 = 1;
/// Larger ones are none of ours.
const MAX_BYTES: u64 = 8 << 20;
/// More gaps than these are not remembered: the oldest becomes one with the next.
pub(super) const MAX_GAPS: usize = 10_000;
/// Whoever has restored something leaves it there: the journal begins anew with what there is now.
const RESTORED: &str = "restored";
/// Whoever has found the journal wrong leaves it there, with the time since when it may be so.
const WRONG: &str = "wrong";
/// Held by whoever changes that.
const WRONG_LOCK: &str = ".wrong";
/// In the folder of each database: when it was last known to be right.
const RIGHT: &str = "right";

/// A time of which it isn't known what the databases held, its ends apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// The last instant before it that is known.
    #[serde(with = "timestamp")]
    pub from: DateTime<Utc>,
    /// The first one after it.
    #[serde(with = "timestamp")]
    pub to: DateTime<Utc>,
    /// Something was recorded, and was found wrong.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wrong: bool,
}

impl Gap {
    /// In which nothing was recorded.
    pub fn new(from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        Self { from, to, wrong: false }
    }

    /// Why it isn't known, its ends as they are given.
    pub fn why(wrong: bool, from: impl Display, to: impl Display) -> String {
        match wrong {
            false => format!("nothing was recorded after {from} and before {to}"),
            true => format!("what was recorded after {from} and before {to} was found wrong"),
        }
    }

    /// With another one, which it meets.
    pub fn and(self, other: Self) -> Self {
        let (from, to) = (self.from.min(other.from), self.to.max(other.to));
        Self { from, to, wrong: self.wrong || other.wrong }
    }

    /// Whether that instant isn't known.
    pub fn holds(&self, at: DateTime<Utc>) -> bool {
        self.from < at && at < self.to
    }
}

/// Until when the journal knows, and when not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Timeline {
    /// The databases were looked at then. None before the first time, or where that was lost.
    pub alive: Option<DateTime<Utc>>,
    /// In order; those of single databases last.
    pub gaps: Vec<Gap>,
    /// Nothing is known since then, for the journal was found wrong, and hasn't begun anew yet.
    pub wrong_since: Option<DateTime<Utc>>,
}

/// What stands in a `timeline.json`: in that of the journal, or of a database.
#[derive(Serialize, Deserialize)]
pub(super) struct Gaps {
    version: u32,
    pub(super) gaps: Vec<Gap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) left: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) guessed: bool,
}

impl Gaps {
    pub(super) fn new(gaps: Vec<Gap>, left: Option<DateTime<Utc>>) -> Self {
        Self { version: VERSION, gaps, left, guessed: false }
    }

    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        let Some(text) = contents(path)? else { return Ok(None) };
        let damaged = |reason: String| Error::Timeline { path: path.to_owned(), reason };
        let read: Self = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if read.version != VERSION {
            return Err(damaged(format!("its version is {}", read.version)));
        }
        Ok(Some(read))
    }

    /// The same in the hands of whoever writes the journal: one that is damaged is put aside.
    pub(super) fn read_or_put_aside(path: &Path) -> Result<Option<Self>, Error> {
        match Self::read(path) {
            Err(error @ Error::Timeline { .. }) => {
                tracing::error!("{error}");
                let aside = path.with_extension("json.damaged");
                disk::remove(&aside)?;
                disk::rename_new(path, &aside)?;
                Ok(None)
            }
            read => read,
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), disk::Error> {
        let text = serde_json::to_vec(self);
        disk::write_durable(path, &text.map_err(std::io::Error::from).to("write", path)?)
    }
}

/// Adds a gap. Of too many the oldest two become one.
pub(super) fn add(gaps: &mut Vec<Gap>, gap: Gap) {
    gaps.push(gap);
    if gaps.len() > MAX_GAPS {
        let oldest = gaps.remove(0);
        gaps[0] = oldest.and(gaps[0]);
    }
}

impl Timeline {
    /// As it stands in a backup directory.
    pub fn read(root: &Path) -> Result<Self, Error> {
        let folder = root.join(FOLDER);
        let alive = contents(&folder.join(ALIVE))?.and_then(|text| text.trim_end().parse().ok());
        // Before the gaps: one is recorded before that is over.
        let wrong_since = wrong_since(root);
        let gaps = Gaps::read(&folder.join(GAPS))?.map_or_else(Vec::new, |read| read.gaps);
        Ok(Self { alive, gaps, wrong_since })
    }

    /// As it is true of all of these databases. What one of them lacks is noted before `alive` goes on, so it is read after that.
    pub fn of<'a>(mut self, root: &Path, databases: impl IntoIterator<Item = &'a DatabaseName>) -> Result<Self, Error> {
        for database in databases {
            let Absence { left, gaps, .. } = Absence::read(root, database)?;
            self.alive = self.alive.into_iter().chain(left).min();
            self.gaps.extend(gaps);
        }
        Ok(self)
    }
}

/// Since when the journal may be wrong, as somebody has found since that was last seen to. Where that can't be read, since ever.
pub fn wrong_since(root: &Path) -> Option<DateTime<Utc>> {
    let text = contents(&root.join(FOLDER).join(WRONG)).unwrap_or_else(|_| Some(String::new()))?;
    Some(text.trim_end().parse().unwrap_or(DateTime::UNIX_EPOCH))
}

fn contents(path: &Path) -> Result<Option<String>, disk::Error> {
    let file = match disk::open_regular(path) {
        Err(error) if error.is_missing() => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).to("read", path)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Tells whoever writes the journal, if anybody does, that the databases were restored.
pub fn tell_restored(root: &Path) -> Result<(), disk::Error> {
    let folder = root.join(FOLDER);
    if folder.is_dir() { disk::open_shared(&folder.join(RESTORED)).map(drop) } else { Ok(()) }
}

/// Whether the databases were restored since whoever writes the journal has last seen to that.
pub fn is_restored(root: &Path) -> bool {
    root.join(FOLDER).join(RESTORED).symlink_metadata().is_ok()
}

/// Tells whoever writes the journal, if anybody does, that it isn't what the databases are, and since when that may be so: it begins
/// anew, and that time is a gap. What was told and isn't seen to yet counts too: says whether that is later.
pub fn tell_wrong(root: &Path, since: DateTime<Utc>) -> Result<bool, disk::Error> {
    let folder = root.join(FOLDER);
    let _lock = lock_wrong(&folder)?;
    if wrong_since(root).is_some_and(|told| told <= since) {
        return Ok(false);
    }
    disk::write_durable(&folder.join(WRONG), text(since).as_bytes())?;
    Ok(true)
}

/// Against all who tell it or see to it, in whatever process: of two who do so at once each would undo what the other did.
fn lock_wrong(folder: &Path) -> Result<File, disk::Error> {
    let path = folder.join(WRONG_LOCK);
    let file = disk::open_shared(&path)?;
    disk::lock(&file, &path)?;
    Ok(file)
}

/// When the journal of a database was last known to be what that was, all of it.
pub fn right(root: &Path, database: &DatabaseName) -> Option<DateTime<Utc>> {
    contents(&folder(root, database).join(RIGHT)).ok()??.trim_end().parse().ok()
}

/// It was so then. Written over in place, as `alive` is.
pub fn note_right(root: &Path, database: &DatabaseName, at: DateTime<Utc>) -> Result<(), disk::Error> {
    let path = folder(root, database).join(RIGHT);
    disk::open_shared(&path)?.write_all_at(text(at).as_bytes(), 0).to("write", &path)
}

/// It is another one after each tick, whatever the clock says. None before the first.
pub fn beat(root: &Path) -> Option<(i64, i64)> {
    let meta = root.join(FOLDER).join(ALIVE).symlink_metadata().ok()?;
    Some((meta.mtime(), meta.mtime_nsec()))
}

/// Always as long, so that it covers what was there.
fn text(at: DateTime<Utc>) -> String {
    format!("{}\n", at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The timeline in the hands of whoever writes the journal.
pub struct Keeper {
    root: PathBuf,
    folder: PathBuf,
    alive: File,
    timeline: Timeline,
    /// Of each database that is looked at, when that alone wasn't.
    absences: BTreeMap<DatabaseName, Absence>,
}

impl Keeper {
    /// Takes it up for these databases; of others that lie there it is noted that they aren't looked at. What is damaged is put aside.
    /// `backed_up` says of each when it was last.
    pub fn open<'a>(
        root: &Path,
        databases: impl IntoIterator<Item = &'a DatabaseName>,
        backed_up: &BTreeMap<DatabaseName, DateTime<Utc>>,
    ) -> Result<Self, Error> {
        let folder = root.join(FOLDER);
        disk::make_own_dir(&folder)?;
        Gaps::read_or_put_aside(&folder.join(GAPS))?;
        let timeline = Timeline::read(root)?;
        let configured = databases.into_iter().cloned().collect();
        let absences = absence::take_up(root, configured, timeline.alive, backed_up)?;
        let alive = disk::open_shared(&folder.join(ALIVE))?;
        Ok(Self { root: root.to_owned(), folder, alive, timeline, absences })
    }

    /// As it stands.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Until when a database was looked at.
    pub fn alive_of(&self, database: &DatabaseName) -> Option<DateTime<Utc>> {
        let left = self.absences.get(database).and_then(|absence| absence.left);
        self.timeline.alive.into_iter().chain(left).min()
    }

    /// Whether the databases were restored since that was last seen to.
    pub fn was_restored(&self) -> bool {
        is_restored(&self.root)
    }

    /// It is seen to.
    pub fn restored_is_known(&self) -> Result<(), disk::Error> {
        disk::remove(&self.folder.join(RESTORED))
    }

    /// Since when the journal may be wrong, as somebody has found since that was last seen to.
    pub fn wrong_since(&self) -> Option<DateTime<Utc>> {
        wrong_since(&self.root)
    }

    /// It is seen to: new bases are there, and the gap from `since` to `at` is recorded. What was told meanwhile is of what was before them
    /// too.
    pub fn wrong_is_known(&mut self, since: DateTime<Utc>, at: DateTime<Utc>) -> Result<(), disk::Error> {
        let _lock = lock_wrong(&self.folder)?;
        if let Some(from) = self.wrong_since().filter(|from| *from < since) {
            self.gap(Gap { wrong: true, ..Gap::new(from, at) })?;
        }
        disk::remove(&self.folder.join(WRONG))
    }

    /// Records that nothing is known between these two. Durable when it returns.
    pub fn gap(&mut self, gap: Gap) -> Result<(), disk::Error> {
        let mut gaps = self.timeline.gaps.clone();
        add(&mut gaps, gap);
        self.write(gaps)
    }

    /// Those that weren't looked at for a while were so then: what was between is a gap of theirs. Of those of which that was guessed only
    /// where they have `changed` since. Durable when it returns.
    pub fn are_back(&mut self, at: DateTime<Utc>, changed: impl Fn(&DatabaseName) -> bool) -> Result<(), disk::Error> {
        self.absences.iter_mut().try_for_each(|(name, absence)| absence.ends(&self.root, name, at, changed(name)))
    }

    /// Forgets what ended before anything that lies there began: no point before it can be restored. `first` says of those that are looked
    /// at when that was; what is left of others can be had by their names, and has the same gaps. A database's own gap stays as long as
    /// anything of another one is before it: in a replica that may hold more of it, and gaps count from what all have here.
    pub fn forget_before(&mut self, first: &BTreeMap<DatabaseName, DateTime<Utc>>) -> Result<(), Error> {
        let mut oldest = absence::oldest_of_others(&self.root, &self.absences)?;
        if let Some(first) = first.values().min() {
            for (name, absence) in &mut self.absences {
                absence.forget_before(&self.root, name, *first)?;
            }
            oldest = oldest.into_iter().chain([*first]).min();
        }
        let is_kept = |gap: &Gap| oldest.is_none_or(|oldest| gap.to > oldest);
        let gaps: Vec<_> = self.timeline.gaps.iter().copied().filter(is_kept).collect();
        if gaps.len() < self.timeline.gaps.len() {
            self.write(gaps)?;
        }
        Ok(())
    }

    fn write(&mut self, gaps: Vec<Gap>) -> Result<(), disk::Error> {
        Gaps::new(gaps.clone(), None).write(&self.folder.join(GAPS))?;
        self.timeline.gaps = gaps;
        Ok(())
    }

    /// The databases were looked at then, and all that had changed is durable.
    pub fn alive(&mut self, at: DateTime<Utc>) -> Result<(), disk::Error> {
        self.alive.write_all_at(text(at).as_bytes(), 0).to("write", &self.folder.join(ALIVE))?;
        self.timeline.alive = Some(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-26T{text}Z").parse().unwrap()
    }

    #[test]
    fn what_is_recorded_is_read_and_damage_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Timeline::read(dir.path()).unwrap(), Timeline::default());
        let mut keeper = Keeper::open(dir.path(), [], &BTreeMap::new()).unwrap();
        keeper.alive(at("09:00:00.250")).unwrap();
        let gap = Gap::new(at("09:00:00.250"), at("09:05:00"));
        keeper.gap(gap).unwrap();
        keeper.alive(at("09:05:00")).unwrap();
        let read = Timeline::read(dir.path()).unwrap();
        assert_eq!(read, Timeline { alive: Some(at("09:05:00")), gaps: vec![gap], wrong_since: None });
        assert!(gap.holds(at("09:01:00")) && !gap.holds(gap.from) && !gap.holds(gap.to));
        keeper.forget_before(&BTreeMap::new()).unwrap();
        assert_eq!(Timeline::read(dir.path()).unwrap().gaps.len(), 1);
        std::fs::write(dir.path().join("journal/timeline.json"), "{\"version\":1,\"ga").unwrap();
        std::fs::write(dir.path().join("journal/alive"), "2026-").unwrap();
        let said = Timeline::read(dir.path()).unwrap_err().to_string();
        assert!(said.contains("timeline.json is damaged"), "{said}");
        let keeper = Keeper::open(dir.path(), [], &BTreeMap::new()).unwrap();
        assert_eq!(*keeper.timeline(), Timeline::default());
        assert!(dir.path().join("journal/timeline.json.damaged").exists());
    }

    #[test]
    fn what_others_tell_is_known_until_it_is_seen_to() {
        let dir = tempfile::tempdir().unwrap();
        let (root, name): (_, DatabaseName) = (dir.path(), "attendance".parse().unwrap());
        assert_eq!((beat(root), right(root, &name)), (None, None));
        super::super::Journal::open(root, &name).unwrap();
        let mut keeper = Keeper::open(root, [&name], &BTreeMap::new()).unwrap();
        assert_eq!((keeper.wrong_since(), keeper.was_restored()), (None, false));
        assert!(tell_wrong(root, at("09:00:00.250")).unwrap());
        assert_eq!(keeper.wrong_since(), Some(at("09:00:00.250")));
        assert!(!tell_wrong(root, at("09:30:00")).unwrap());
        assert_eq!(Timeline::read(root).unwrap().wrong_since, Some(at("09:00:00.250")), "the earlier one counts");
        std::fs::write(root.join("journal/wrong"), "2026-").unwrap();
        assert_eq!(keeper.wrong_since(), Some(DateTime::UNIX_EPOCH));
        keeper.wrong_is_known(DateTime::UNIX_EPOCH, at("09:31:00")).unwrap();
        assert_eq!((keeper.wrong_since(), keeper.timeline().gaps.len()), (None, 0));
        for time in ["09:00:00", "09:00:00.750"] {
            note_right(root, &name, at(time)).unwrap();
            assert_eq!(right(root, &name), Some(at(time)));
        }
        let before = beat(root);
        std::thread::sleep(std::time::Duration::from_millis(20));
        keeper.alive(at("08:00:00")).unwrap();
        assert!(before.is_some() && beat(root) != before);
    }

    /// Each in a thread of its own, which is as good as a process: all of them open the lock anew.
    #[test]
    fn of_those_who_find_it_wrong_at_once_the_earliest_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut keeper = Keeper::open(root, [], &BTreeMap::new()).unwrap();
        let second = |second: i64| at("09:00:00") + chrono::TimeDelta::seconds(second);
        for round in 0..25 {
            let begin = Barrier::new(8);
            let tell = |n: i64| {
                begin.wait();
                tell_wrong(root, second(n)).unwrap();
            };
            std::thread::scope(|scope| (0..8).for_each(|n| drop(scope.spawn(move || tell((n + round) % 8)))));
            assert_eq!(wrong_since(root), Some(second(0)), "{round}");
            keeper.wrong_is_known(second(0), second(10)).unwrap();
        }
        // Told while a later one is seen to, it is left or recorded.
        for round in 0..50 {
            let (begin, until) = (Barrier::new(2), second(100 + round));
            tell_wrong(root, second(50)).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    begin.wait();
                    tell_wrong(root, second(20)).unwrap();
                });
                begin.wait();
                keeper.wrong_is_known(second(50), until).unwrap();
            });
            let gap = Gap { wrong: true, ..Gap::new(second(20), until) };
            let is_left = wrong_since(root) == Some(second(20));
            assert!(is_left != keeper.timeline().gaps.contains(&gap), "{round}");
            keeper.wrong_is_known(second(20), until).unwrap();
        }
    }

    #[test]
    fn too_many_gaps_become_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::open(dir.path(), [], &BTreeMap::new()).unwrap();
        let gap = |minute: i64| {
            let from = at("00:00:00") + chrono::TimeDelta::minutes(2 * minute);
            Gap { wrong: minute == 0, ..Gap::new(from, from + chrono::TimeDelta::minutes(1)) }
        };
        keeper.write((0..MAX_GAPS as i64).map(gap).collect()).unwrap();
        keeper.gap(gap(MAX_GAPS as i64)).unwrap();
        let gaps = Timeline::read(dir.path()).unwrap().gaps;
        assert_eq!((gaps.len(), gaps[0]), (MAX_GAPS, gap(0).and(gap(1))));
        assert!(gaps[0].wrong && !gaps[1].wrong && gaps[0].from == gap(0).from && gaps[0].to == gap(1).to);
    }
}
