//! Rotation: a pure function of (backups, retention) that returns steps with reasons. It knows no clock and no
//! disk; it counts and never ages, so a wrong clock can't delete anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Days, NaiveDate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Backup, BackupId, Tier};

/// How many suspiciously small backups are kept for a look; the older ones go. (Damaged ones stay until a person has
/// looked: what reads badly today may read well tomorrow, and the other databases of a backup may be whole.)
pub const FLAGGED_KEPT: usize = 3;

/// How many backups of each tier are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// At least 1.
    pub daily: u32,
    /// 0 passes the tier over: dailies go straight into months.
    pub weekly: u32,
    /// 0 keeps none.
    pub monthly: u32,
    /// At least 1.
    pub manual: u32,
    /// At least 2: an undo of an undo needs both.
    pub pre_restore: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { daily: 7, weekly: 4, monthly: 12, manual: 10, pre_restore: 5 }
    }
}

impl Retention {
    /// How many of a tier are kept.
    pub fn of(&self, tier: Tier) -> usize {
        let count = match tier {
            Tier::Daily => self.daily,
            Tier::Weekly => self.weekly,
            Tier::Monthly => self.monthly,
            Tier::Manual => self.manual,
            Tier::PreRestore => self.pre_restore,
        };
        count as usize
    }

    /// As many of each tier as either keeps.
    pub fn at_least(&self, other: &Self) -> Self {
        Self {
            daily: self.daily.max(other.daily),
            weekly: self.weekly.max(other.weekly),
            monthly: self.monthly.max(other.monthly),
            manual: self.manual.max(other.manual),
            pre_restore: self.pre_restore.max(other.pre_restore),
        }
    }

    /// The next longer tier that keeps anything.
    fn next_tier(&self, tier: Tier) -> Option<Tier> {
        let longer: &[Tier] = match tier {
            Tier::Daily => &[Tier::Weekly, Tier::Monthly],
            Tier::Weekly => &[Tier::Monthly],
            _ => &[],
        };
        longer.iter().copied().find(|tier| self.of(*tier) > 0)
    }
}

/// One thing that rotation does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(tag = "step", rename_all = "camelCase")]
pub enum Step {
    /// The files get a name in a longer tier; the old name goes.
    Promote {
        /// The name it has.
        from: BackupId,
        /// The name it gets.
        to: BackupId,
        /// Why, for the audit log.
        why: String,
    },
    /// The backup is deleted.
    Drop {
        /// Which.
        id: BackupId,
        /// Why, for the audit log.
        why: String,
    },
}

/// What rotation would do now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// In the order in which they follow from each other.
    pub steps: Vec<Step>,
    /// Why nothing good is dropped or promoted, when rotation stands still [P4].
    pub frozen: Option<String>,
}

impl Plan {
    /// Nothing is done, for that reason.
    pub fn standing(reason: String) -> Self {
        Self { steps: Vec::new(), frozen: Some(reason) }
    }
}

/// What rotation sees of a backup.
#[derive(Clone, Copy)]
struct Item {
    sequence: u64,
    id: BackupId,
    date: NaiveDate,
    pinned: bool,
    good: bool,
    shrunk: bool,
    /// It says how the live data was.
    measure: bool,
}

impl Item {
    fn of(backup: &Backup) -> Self {
        Self {
            sequence: backup.sequence,
            id: backup.id,
            date: backup.local_date,
            pinned: backup.pinned,
            good: backup.is_good(),
            shrunk: backup.is_shrunk(),
            measure: backup.is_measure(),
        }
    }
}

/// Plans the rotation. `freeze` is a reason from outside (the live data can't be backed up) to drop nothing good.
pub fn plan(backups: &[Backup], retention: &Retention, freeze: Option<&str>) -> Plan {
    let mut rotation = Rotation::new(items(backups), retention);
    // What is still to be removed has its name until then.
    rotation.taken.extend(backups.iter().map(|backup| backup.id));
    rotation.plan(freeze)
}

fn items(backups: &[Backup]) -> Vec<Item> {
    backups.iter().filter(|backup| !backup.deleting).map(Item::of).collect()
}

struct Rotation<'a> {
    retention: &'a Retention,
    items: Vec<Item>,
    taken: BTreeSet<BackupId>,
    steps: Vec<Step>,
}

impl<'a> Rotation<'a> {
    fn new(mut items: Vec<Item>, retention: &'a Retention) -> Self {
        items.sort_by_key(|item| (item.sequence, item.id));
        let taken = items.iter().map(|item| item.id).collect();
        Self { retention, items, taken, steps: Vec::new() }
    }

    fn plan(mut self, freeze: Option<&str>) -> Plan {
        let frozen = freeze.map(str::to_owned).or_else(|| self.shrunk_newest());
        self.drop_flagged();
        if frozen.is_none() {
            self.rotate();
            self.shorten(Tier::PreRestore);
            self.shorten(Tier::Manual);
        }
        Plan { steps: self.steps, frozen }
    }

    fn rotate(&mut self) {
        self.replace_same_day();
        for tier in [Tier::Daily, Tier::Weekly, Tier::Monthly] {
            self.shorten(tier);
        }
    }

    fn shrunk_newest(&self) -> Option<String> {
        let newest = self.items.iter().rfind(|item| item.measure)?;
        newest.shrunk.then(|| {
            format!(
                "{} is suspiciously smaller than the backup before it, or lacks a database; look at the live data, and if it is right \
                 run `create --accept-shrink`",
                newest.id
            )
        })
    }

    fn drop_flagged(&mut self) {
        let flagged: Vec<_> =
            self.items.iter().filter(|item| item.shrunk && !item.pinned).map(|item| item.id).collect();
        let excess = flagged.len().saturating_sub(FLAGGED_KEPT);
        for id in &flagged[..excess] {
            self.drop_one(*id, format!("only the newest {FLAGGED_KEPT} flagged backups are kept"));
        }
    }

    fn replace_same_day(&mut self) {
        let mut newest = BTreeMap::new();
        for item in self.counted(Tier::Daily) {
            if let Some(older) = newest.insert(item.date, item) {
                self.drop_one(older.id, format!("replaced by {}, the later one of that day", item.id));
            }
        }
    }

    fn shorten(&mut self, tier: Tier) {
        let counted = self.counted(tier);
        let excess = counted.len().saturating_sub(self.retention.of(tier));
        // Whatever the count says: the newest good backup stays where it is [P5].
        let newest = self.items.iter().rfind(|item| item.good).map(|item| item.id);
        for item in counted[..excess].iter().filter(|item| Some(item.id) != newest) {
            let over = format!("more than {} {tier} backups", self.retention.of(tier));
            match self.retention.next_tier(tier) {
                Some(longer) => self.promote_or_drop(*item, longer, &over),
                None => self.drop_one(item.id, over),
            }
        }
    }

    fn promote_or_drop(&mut self, item: Item, tier: Tier, over: &str) {
        let wanted = BackupId::new(tier, DateTime::UNIX_EPOCH, item.date);
        let stands = self.counted(tier).into_iter().find(|other| wanted.covers(other.date));
        if let Some(other) = stands {
            return self.drop_one(item.id, format!("{over}, and {} stands for its time", other.id));
        }
        let to = free_id(wanted, |id| self.taken.contains(id));
        self.taken.insert(to);
        self.items.retain(|other| other.id != item.id);
        let at = self.items.partition_point(|other| other.sequence < item.sequence);
        self.items.insert(at, Item { id: to, ..item });
        let why = format!("{over}, and nothing stands for {} yet", to.stem());
        self.steps.push(Step::Promote { from: item.id, to, why });
    }

    fn drop_one(&mut self, id: BackupId, why: String) {
        self.items.retain(|item| item.id != id);
        // What was promoted a step ago and goes at once was never there: one drop of the old name says it.
        let promoted = self.steps.iter().position(|step| matches!(step, Step::Promote { to, .. } if *to == id));
        let id = match promoted.map(|at| self.steps.remove(at)) {
            Some(Step::Promote { from, .. }) => from,
            _ => id,
        };
        self.steps.push(Step::Drop { id, why });
    }

    /// What fills the tier's quota and stands for its days, weeks and months; oldest first.
    fn counted(&self, tier: Tier) -> Vec<Item> {
        self.items.iter().filter(|item| item.id.tier() == tier && item.good && !item.pinned).copied().collect()
    }
}

/// The newest backup, if it is so small that rotation stands still for it.
pub fn shrunk_newest<'b>(standing: impl IntoIterator<Item = &'b Backup>) -> Option<&'b Backup> {
    let measures = standing.into_iter().filter(|backup| backup.is_measure());
    measures.max_by_key(|backup| backup.sequence).filter(|backup| backup.is_shrunk())
}

/// The first of `id`, `id-2`, `id-3` … that isn't taken.
pub fn free_id(id: BackupId, taken: impl Fn(&BackupId) -> bool) -> BackupId {
    let mut id = id;
    while taken(&id) {
        id = id.next();
    }
    id
}

/// Why a backup is kept, and what becomes of it if a daily backup follows each day.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fate {
    /// "daily 3 of 7".
    pub kept: String,
    /// What follows, in order.
    pub then: Vec<Event>,
}

/// A change that lies ahead of a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// It gets another name in a longer tier.
    Becomes {
        /// The name.
        id: BackupId,
        /// The local date.
        on: NaiveDate,
    },
    /// It is dropped.
    Goes {
        /// The local date.
        on: NaiveDate,
    },
    /// It is dropped after that many more backups of its kind.
    GoesAfter {
        /// How many.
        newer: usize,
    },
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kept)?;
        for event in &self.then {
            match event {
                Event::Becomes { id, on } => write!(f, "; becomes {id} on {on}")?,
                Event::Goes { on } => write!(f, "; goes on {on}")?,
                Event::GoesAfter { newer } => write!(f, "; goes after {newer} more")?,
            }
        }
        Ok(())
    }
}

/// Why each backup is kept and when it would go.
pub fn fates(backups: &[Backup], retention: &Retention, freeze: Option<&str>) -> BTreeMap<BackupId, Fate> {
    let rotation = Rotation::new(items(backups), retention);
    let frozen = freeze.is_some() || rotation.shrunk_newest().is_some();
    let ranks = ranks(&rotation);
    let kept = |item: &Item| (item.id, kept(retention, item, ranks.get(&item.id).copied().unwrap_or(0)));
    let mut fates: BTreeMap<_, _> = rotation.items.iter().map(kept).collect();
    if frozen {
        for fate in fates.values_mut() {
            fate.kept.push_str("; rotation stands still");
            fate.then.clear();
        }
    } else {
        foresee(&rotation.items, retention, &mut fates);
    }
    fates
}

/// How many of its kind are newer than each.
fn ranks(rotation: &Rotation<'_>) -> BTreeMap<BackupId, usize> {
    let flagged = rotation.items.iter().filter(|item| item.shrunk && !item.pinned).copied().collect();
    let kinds = Tier::ALL.into_iter().map(|tier| rotation.counted(tier)).chain([flagged]);
    kinds.flat_map(|kind| kind.into_iter().rev().enumerate().map(|(rank, item)| (item.id, rank))).collect()
}

fn kept(retention: &Retention, item: &Item, rank: usize) -> Fate {
    let tier = item.id.tier();
    if item.pinned {
        return Fate { kept: "pinned".to_owned(), then: Vec::new() };
    }
    if !item.good && !item.shrunk {
        return Fate { kept: "damaged; look at it and delete it by hand".to_owned(), then: Vec::new() };
    }
    if item.shrunk {
        let then = vec![Event::GoesAfter { newer: FLAGGED_KEPT.saturating_sub(rank) }];
        return Fate { kept: format!("flagged {} of {FLAGGED_KEPT}", rank + 1), then };
    }
    let limit = retention.of(tier);
    let mut then = Vec::new();
    if !tier.is_scheduled() {
        then.push(Event::GoesAfter { newer: limit.saturating_sub(rank) });
    }
    Fate { kept: format!("{tier} {} of {limit}", rank + 1), then }
}

/// Plays one daily backup a day forward until every scheduled one has met its end.
fn foresee(items: &[Item], retention: &Retention, fates: &mut BTreeMap<BackupId, Fate>) {
    let mut awaited: BTreeMap<u64, BackupId> = items
        .iter()
        .filter(|item| item.good && !item.pinned && item.id.tier().is_scheduled())
        .map(|item| (item.sequence, item.id))
        .collect();
    let Some(mut date) = items.iter().map(|item| item.date).max() else { return };
    let newest = items.iter().map(|item| item.sequence).max().unwrap_or(0);
    let mut now = items.to_vec();
    let horizon = retention.daily + 7 * retention.weekly + 31 * retention.monthly + 62;
    for sequence in newest + 1..newest + 1 + u64::from(horizon) {
        if awaited.is_empty() {
            break;
        }
        let mut rotation = Rotation::new(std::mem::take(&mut now), retention);
        rotation.rotate();
        for (id, event) in rotation.steps.iter().filter_map(|step| settle(step, items, &mut awaited, date)) {
            if let Some(fate) = fates.get_mut(&id) {
                fate.then.push(event);
            }
        }
        now = rotation.items;
        let Some(tomorrow) = date.checked_add_days(Days::new(1)) else { return };
        date = tomorrow;
        let wanted = BackupId::new(Tier::Daily, DateTime::UNIX_EPOCH, date);
        let id = free_id(wanted, |id| now.iter().any(|item| item.id == *id));
        now.push(Item { sequence, id, date, pinned: false, good: true, shrunk: false, measure: true });
    }
}

/// What a step of the play means for a backup of today, found again by its sequence.
fn settle(
    step: &Step,
    today: &[Item],
    awaited: &mut BTreeMap<u64, BackupId>,
    on: NaiveDate,
) -> Option<(BackupId, Event)> {
    let current = match step {
        Step::Promote { from, .. } | Step::Drop { id: from, .. } => *from,
    };
    let sequence = awaited.iter().find(|(_, id)| **id == current).map(|(sequence, _)| *sequence)?;
    let original = today.iter().find(|item| item.sequence == sequence)?.id;
    match step {
        Step::Promote { to, .. } => {
            awaited.insert(sequence, *to);
            Some((original, Event::Becomes { id: *to, on }))
        }
        Step::Drop { .. } => {
            awaited.remove(&sequence);
            Some((original, Event::Goes { on }))
        }
    }
}

#[cfg(test)]
mod tests;
