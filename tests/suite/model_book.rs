//! What the program is to do, written down a second time and naively, from the README and the manual alone: no disk, no SQLite, and
//! none of the program's own rules.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use chrono_tz::Tz;

/// So many marks there are, or none.
pub const MARKS: usize = 120;
/// Small backups that stay for a look.
const SMALL_ONES: usize = 3;

/// The rows of both databases.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Content {
    pub people: BTreeMap<u64, String>,
    pub marks: usize,
    pub users: BTreeMap<u64, String>,
}

impl Content {
    /// As each database answers to [`crate::model_world::ASKED`].
    pub fn told(&self) -> [String; 2] {
        let rows = |rows: &BTreeMap<u64, String>| {
            let rows: Vec<_> = rows.iter().map(|(id, text)| format!("{id}={text}")).collect();
            rows.join(" ")
        };
        [format!("{}:{}", self.marks, rows(&self.people)), format!("0:{}", rows(&self.users))]
    }
}

/// What was done to one of a backup's files behind the program's back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spoiled {
    pub database: &'static str,
    /// Also what a look at names and sizes shows.
    pub shows: bool,
    /// As it was.
    pub bytes: Vec<u8>,
}

/// A backup.
#[derive(Clone, Debug)]
pub struct Kept {
    pub sequence: u64,
    pub tier: &'static str,
    pub id: String,
    pub date: NaiveDate,
    pub pinned: bool,
    /// Suspiciously small, and nobody has said that this is right.
    pub small: bool,
    /// Found damaged.
    pub bad: bool,
    pub spoiled: Option<Spoiled>,
    pub content: Content,
}

impl Kept {
    pub fn is_good(&self) -> bool {
        !self.bad && !self.small
    }

    /// A file of it is gone or cut: a look at names and sizes shows that.
    pub fn shows(&self) -> bool {
        self.spoiled.as_ref().is_some_and(|spoiled| spoiled.shows)
    }
}

/// How many of each tier are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    pub daily: usize,
    pub weekly: usize,
    pub monthly: usize,
    pub manual: usize,
    pub pre_restore: usize,
}

impl Keep {
    fn of(mut self, tier: &str) -> usize {
        *self.of_mut(tier)
    }

    pub fn of_mut(&mut self, tier: &str) -> &mut usize {
        match tier {
            "daily" => &mut self.daily,
            "weekly" => &mut self.weekly,
            "monthly" => &mut self.monthly,
            "manual" => &mut self.manual,
            _ => &mut self.pre_restore,
        }
    }

    /// The next longer tier that keeps anything.
    fn longer(&self, tier: &str) -> Option<&'static str> {
        match tier {
            "daily" if self.weekly > 0 => Some("weekly"),
            "daily" | "weekly" if self.monthly > 0 => Some("monthly"),
            _ => None,
        }
    }
}

/// All that is known.
#[derive(Clone, Debug)]
pub struct Book {
    pub live: Content,
    /// The oldest first.
    pub kept: Vec<Kept>,
    pub last_sequence: u64,
    pub keep: Keep,
    pub zone: Tz,
    /// Both as they are configured.
    pub configured: (Keep, Tz),
    /// The last look at the live data found it unusable.
    pub unusable: bool,
    /// The last thing that was done was to restore the backup of this sequence.
    pub restored: Option<u64>,
    /// What `undo` restores.
    pub undo: Option<String>,
}

impl Book {
    pub fn find(&self, id: &str) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.id == id)
    }

    pub fn find_mut(&mut self, id: &str) -> Option<&mut Kept> {
        self.kept.iter_mut().find(|kept| kept.id == id)
    }

    pub fn goods(&self) -> usize {
        self.kept.iter().filter(|kept| kept.is_good()).count()
    }

    /// One that is good is there, as far as names and sizes show.
    pub fn has_good(&self) -> bool {
        self.kept.iter().any(|kept| kept.is_good() && !kept.shows())
    }

    /// The newest backup but for those that restores make, if it is small.
    pub fn small_newest(&self) -> Option<&Kept> {
        let counts = self.kept.iter().filter(|kept| kept.tier != "pre-restore");
        counts.max_by_key(|kept| kept.sequence).filter(|kept| kept.small)
    }

    /// The date of that instant where the schedule lives.
    pub fn date(&self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.zone).date_naive()
    }

    /// A backup of the live data comes, and nothing goes for it.
    pub fn add(&mut self, tier: &'static str, at: DateTime<Utc>, small: bool) -> String {
        let date = self.date(at);
        let name = match tier {
            "daily" => format!("daily-{date}"),
            tier => format!("{tier}-{}", at.format("%Y-%m-%dT%H%M%SZ")),
        };
        let numbered = |id: &str| match id.strip_prefix(&name)? {
            "" => Some(1),
            rest => rest.strip_prefix('-')?.parse::<u32>().ok(),
        };
        // A name goes on from the highest that stands.
        let id = match self.kept.iter().filter_map(|kept| numbered(&kept.id)).max() {
            None => name.clone(),
            Some(highest) => format!("{name}-{}", highest + 1),
        };
        self.last_sequence += 1;
        let (sequence, content) = (self.last_sequence, self.live.clone());
        let entry = Kept { sequence, tier, id, date, pinned: false, small, bad: false, spoiled: None, content };
        self.kept.push(entry);
        self.kept[self.kept.len() - 1].id.clone()
    }

    /// All marks are gone since the backup that it is compared with: the one that was restored last, or the newest good one.
    pub fn is_small(&self) -> bool {
        let restored = self.kept.iter().find(|kept| Some(kept.sequence) == self.restored);
        // What a restore has kept is what was given up.
        let measures = |kept: &&Kept| kept.is_good() && kept.tier != "pre-restore";
        let good = || self.kept.iter().filter(measures).max_by_key(|kept| kept.sequence);
        restored.or_else(good).is_some_and(|before| before.content.marks > 0) && self.live.marks == 0
    }

    /// Rotation. It stands still while the live data is unusable, and for a clock that was never set. What it finds out on its way is
    /// written down only with something else.
    pub fn rotate(&mut self, stands_still: bool, is_written: bool) {
        let mut after = self.clone();
        after.kept.iter_mut().filter(|kept| kept.is_good() && kept.shows()).for_each(|kept| kept.bad = true);
        after.rotated(stands_still);
        let ids = |book: &Book| book.kept.iter().map(|kept| kept.id.clone()).collect::<Vec<_>>();
        if is_written || ids(&after) != ids(self) {
            *self = after;
        }
    }

    /// The same, as if every file were there.
    fn rotated(&mut self, stands_still: bool) {
        let mut taken: BTreeSet<_> = self.kept.iter().map(|kept| kept.id.clone()).collect();
        let is_suspicious = self.small_newest().is_some();
        let small: Vec<_> = self.sequences(|kept| kept.small && !kept.pinned);
        small.iter().rev().skip(SMALL_ONES).for_each(|sequence| self.drop(*sequence));
        if stands_still || is_suspicious {
            return;
        }
        self.replace_same_days();
        for tier in ["daily", "weekly", "monthly", "pre-restore", "manual"] {
            self.shorten(tier, &mut taken);
        }
    }

    /// Of the dailies of one date only the last one stays.
    fn replace_same_days(&mut self) {
        let days = self.counted("daily");
        for (at, sequence) in days.iter().enumerate() {
            let date = |sequence: &u64| self.kept.iter().find(|kept| kept.sequence == *sequence).map(|kept| kept.date);
            if days[at + 1..].iter().any(|later| date(later) == date(sequence)) {
                self.drop(*sequence);
            }
        }
    }

    /// The oldest ones beyond the limit go, or become what a longer tier lacks; the newest good one of all stays.
    fn shorten(&mut self, tier: &'static str, taken: &mut BTreeSet<String>) {
        let counted = self.counted(tier);
        let newest = self.kept.iter().filter(|kept| kept.is_good()).map(|kept| kept.sequence).max();
        let over = counted.len().saturating_sub(self.keep.of(tier));
        for sequence in counted.into_iter().take(over).filter(|sequence| Some(*sequence) != newest) {
            let Some(longer) = self.keep.longer(tier) else {
                self.drop(sequence);
                continue;
            };
            let date = self.kept.iter().find(|kept| kept.sequence == sequence).map(|kept| kept.date).unwrap();
            let name = period(longer, date);
            let counts = |kept: &Kept| kept.tier == longer && kept.is_good() && !kept.pinned;
            if self.kept.iter().any(|kept| counts(kept) && period(longer, kept.date) == name) {
                self.drop(sequence);
                continue;
            }
            let id = free(&name, taken);
            taken.insert(id.clone());
            let kept = self.kept.iter_mut().find(|kept| kept.sequence == sequence).unwrap();
            (kept.tier, kept.id) = (longer, id);
        }
    }

    fn drop(&mut self, sequence: u64) {
        self.kept.retain(|kept| kept.sequence != sequence);
    }

    /// What fills the places of a tier, the oldest first.
    fn counted(&self, tier: &str) -> Vec<u64> {
        self.sequences(|kept| kept.tier == tier && kept.is_good() && !kept.pinned)
    }

    fn sequences(&self, which: impl Fn(&Kept) -> bool) -> Vec<u64> {
        self.kept.iter().filter(|kept| which(kept)).map(|kept| kept.sequence).collect()
    }
}

/// The week or the month of a date.
fn period(tier: &str, date: NaiveDate) -> String {
    match tier {
        "weekly" => format!("weekly-{:04}-W{:02}", date.iso_week().year(), date.iso_week().week()),
        _ => format!("monthly-{:04}-{:02}", date.year(), date.month()),
    }
}

/// That name, or the first of `…-2`, `…-3` that is free.
fn free(name: &str, taken: &BTreeSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(|id| !taken.contains(id)).unwrap()
}
