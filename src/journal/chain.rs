//! Which files rebuild which state: pure rules over an index.
//!
//! A chain begins with a snapshot; each further file begins at most one state after the end of the one before and ends
//! later. Files may overlap: pages of the later one win.

use std::time::Duration;

use super::index::{Index, LtxFile};
use super::name::{FileName, Level, Txid};

/// The files that rebuild the state at an instant, the snapshot first. `None` before the first point, and where files that lead
/// there are missing.
pub fn plan(index: &Index, at_millis: u64) -> Option<Vec<LtxFile>> {
    let chain = lead(index, at_millis)?;
    let end = chain.last()?.name.max;
    let is_whole =
        Level::ALL.into_iter().all(|level| newest(index.level(level), at_millis).is_none_or(|max| max <= end));
    is_whole.then_some(chain)
}

/// The newest state among these that isn't later.
fn newest(files: &[LtxFile], at_millis: u64) -> Option<Txid> {
    let until = files.partition_point(|file| file.millis <= at_millis);
    files[..until].last().map(|file| file.name.max)
}

/// As litestream does it: from the newest snapshot on, always the file that leads farthest. Where one is missing, this ends there.
pub(super) fn lead(index: &Index, at_millis: u64) -> Option<Vec<LtxFile>> {
    let snapshots = index.level(Level::SNAPSHOT);
    let until = snapshots.partition_point(|file| file.millis <= at_millis);
    let mut end = *snapshots[..until].last()?;
    let mut chain = vec![end];
    loop {
        let levels = Level::ALL.into_iter().filter(|level| *level != Level::SNAPSHOT);
        let next = levels.filter_map(|level| farthest(index.level(level), end.name.max, at_millis));
        // Of equals the last one is taken: that of the highest level, which begins earliest.
        let Some(next) = next.max_by_key(|file| file.name.max) else { return Some(chain) };
        chain.push(*next);
        end = *next;
    }
}

/// Of a level the file that goes on after `end`.
fn farthest(files: &[LtxFile], end: Txid, at_millis: u64) -> Option<&LtxFile> {
    let until = files.partition_point(|file| file.name.min <= end.next());
    let mut going_on = files[..until].iter().rev().take_while(|file| file.name.max > end);
    going_on.find(|file| file.millis <= at_millis)
}

fn is_snapshot(file: &LtxFile) -> bool {
    file.name.level == Level::SNAPSHOT
}

/// Most files that are merged at once: each is open meanwhile.
pub(super) const MOST_AT_ONCE: usize = 256;

/// What is due at `level`, which spans `span` milliseconds a file: files of the level below that follow each other without a hole, of one
/// span that is over, or so many that it can't wait.
pub(super) fn due(index: &Index, (level, span): (Level, u64), now_millis: u64) -> Vec<Vec<LtxFile>> {
    let done = index.level(level).last().map(|file| file.name.max);
    let below = index.level(level.below());
    let from = below.partition_point(|file| Some(file.name.min) <= done);
    let together = |a: &LtxFile, b: &LtxFile| a.name.max.next() == b.name.min && a.millis / span == b.millis / span;
    let spans = below[from..].chunk_by(together).flat_map(|span| span.chunks(MOST_AT_ONCE));
    let is_due = |files: &&[LtxFile]| {
        let is_over = files.first().is_some_and(|file| file.millis / span < now_millis / span);
        is_over || files.len() == MOST_AT_ONCE
    };
    // In order, so that nothing is passed over.
    spans.take_while(is_due).map(<[LtxFile]>::to_vec).collect()
}

/// The name of several files merged.
pub(super) fn merged(level: Level, files: &[LtxFile]) -> Option<FileName> {
    let (first, last) = (files.first()?, files.last()?);
    Some(FileName { level, min: first.name.min, max: last.name.max })
}

/// How far back states are kept: since an instant, and by no jump of the clock less.
///
/// The clock alone would let all go that lies before the day to which it has jumped. So the window is counted in snapshots too, as a
/// rotation counts its days: one is older than the next by no more than the step in which they are made, and the newest no older than what
/// is known by another clock, which nobody puts on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Horizon {
    since: u64,
    until: u64,
    running: u64,
    long: u64,
    step: u64,
}

impl Horizon {
    /// A window so long, which ends at that time in milliseconds since 1970; `step` is what lies between two snapshots as a rule. For so long
    /// before its end it is known that time has gone by.
    pub fn until(until: u64, running: Duration, long: Duration, step: Duration) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let since = until.saturating_sub(millis(long));
        Self { since, until, running: millis(running), long: millis(long), step: millis(step) }
    }

    /// By the time alone: milliseconds since 1970.
    pub fn since(millis: u64) -> Self {
        Self { since: millis, until: millis, running: 0, long: 0, step: 0 }
    }

    /// Since when, by the time alone: milliseconds since 1970.
    pub fn begin(&self) -> u64 {
        self.since
    }

    /// The same, or from that time on where it is earlier.
    pub fn or_since(self, millis: u64) -> Self {
        Self { since: self.since.min(millis), ..self }
    }

    /// Whether that is over, by the time and by the snapshots that some database has since then.
    pub fn is_after<'a>(&self, millis: u64, mut snapshots: impl Iterator<Item = &'a [LtxFile]>) -> bool {
        let later = |all: &'a [LtxFile]| &all[all.partition_point(|file| file.millis < millis)..];
        millis < self.since && snapshots.any(|all| self.counted(later(all)).is_some())
    }

    /// With which snapshot what stays begins.
    fn base(&self, snapshots: &[LtxFile]) -> usize {
        let until = snapshots.partition_point(|file| file.millis <= self.since);
        until.saturating_sub(1).min(self.counted(snapshots).unwrap_or(0))
    }

    /// The newest that is as old as the window is long, by how many there are after it. A hole longer than the window is a jump of the clock,
    /// or a time in which nothing happened: by the first one nothing has become older.
    fn counted(&self, snapshots: &[LtxFile]) -> Option<usize> {
        let newest = snapshots.last()?.millis;
        let (mut age, mut has_jumped) = (self.until.saturating_sub(newest).min(self.running), false);
        let mut after = newest;
        for (at, LtxFile { millis, .. }) in snapshots.iter().enumerate().rev() {
            let between = after.saturating_sub(*millis);
            let jumps = !has_jumped && between > self.long.max(self.step);
            has_jumped |= jumps;
            age += if jumps { 0 } else { between.min(self.step) };
            if age >= self.long {
                return Some(at);
            }
            after = *millis;
        }
        None
    }
}

/// What retention removes.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Expired {
    /// The snapshot that all that stays begins with.
    pub(super) base: LtxFile,
    /// Older ones, oldest first.
    pub(super) snapshots: Vec<LtxFile>,
    /// What leads nowhere without those.
    pub(super) others: Vec<LtxFile>,
}

/// The newest snapshot that isn't later stays, or else the oldest, and all after it.
pub(super) fn expired(index: &Index, horizon: Horizon) -> Option<Expired> {
    let snapshots = index.level(Level::SNAPSHOT);
    let at = horizon.base(snapshots);
    let base = *snapshots.get(at)?;
    let others = index.files().filter(|file| !is_snapshot(file) && file.name.max <= base.name.max);
    Some(Expired { base, snapshots: snapshots[..at].to_vec(), others: others.copied().collect() })
}
