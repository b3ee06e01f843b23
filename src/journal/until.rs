//! Until when all of a journal lies in a replica: a small object of its own beside the packs, written after them. It is what tells a
//! quiet hour from one of which nobody has sent anything.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::index::{Index, LtxFile};
use super::name::{Level, Txid};
use super::packs::{Hole, Pack, Packs, Reach};
use super::timeline::{Gap, MAX_GAPS};
use crate::backup::{DatabaseName, Moment, timestamp};

const VERSION: u32 = 1;
/// Of databases; nobody has more.
const MOST: usize = 10_000;

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Until {
    version: u32,
    /// Of what was before that, the gaps may be forgotten.
    #[serde(with = "timestamp")]
    pub from: DateTime<Utc>,
    /// The databases were looked at then, and all that had changed has been sent.
    #[serde(with = "timestamp")]
    pub alive: DateTime<Utc>,
    /// Spans before it of which nobody knows what they held, or whose states aren't there.
    pub gaps: Vec<Gap>,
    /// Whose journal it is, and the number of the newest state that was sent: without that one, nobody knows what they held.
    pub databases: BTreeMap<DatabaseName, u64>,
    /// Of the states after which others are missing, and of the newest.
    #[serde(default)]
    pub lasted: BTreeMap<DatabaseName, Vec<Lasted>>,
    /// The number of the state that each begins with: what leads to those before it may go at any time.
    #[serde(default)]
    pub bases: BTreeMap<DatabaseName, u64>,
}

/// A state was the newest one at least until then, but for the gaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lasted {
    /// Its number.
    pub state: u64,
    /// Until when.
    #[serde(with = "timestamp")]
    pub until: DateTime<Utc>,
}

impl Lasted {
    /// Of each state of a database after which others are missing, and of the last one: by what was known before, by when the next one was, as
    /// far as that lies here, and by `alive`, when `newest` was the newest.
    pub fn all(reach: &Reach, here: &Index, before: &[Self], (newest, alive): (Txid, DateTime<Utc>)) -> Vec<Self> {
        let ends = reach.holes.iter().map(|hole| hole.after).chain([reach.to]);
        let lasted = ends.filter_map(|end| {
            let state = end.txid.get();
            let told = before.iter().filter(|it| it.state == state).map(|it| it.until).max();
            let next = when(here, end.txid.next()).and_then(|next| Moment::of_millis(next.checked_sub(1)?));
            let now = (end.txid == newest).then_some(alive);
            let until = told.max(next.map(Moment::at)).max(now).filter(|until| Some(*until) > end.at())?;
            Some(Self { state, until })
        });
        lasted.collect()
    }
}

/// When a state was captured that lies here: milliseconds since 1970.
fn when(here: &Index, txid: Txid) -> Option<u64> {
    let of = |level| {
        let files: &[LtxFile] = here.level(level);
        files.get(files.partition_point(|file| file.name.max < txid)).filter(|file| file.name.max == txid)
    };
    [Level::CAPTURED, Level::SNAPSHOT].into_iter().find_map(of).map(|file| file.millis)
}

impl Until {
    /// Larger ones are none.
    pub const MAX_BYTES: u64 = 8 << 20;

    /// Of these. Of too many gaps the oldest become one.
    pub fn new(
        from: DateTime<Utc>,
        alive: DateTime<Utc>,
        mut gaps: Vec<Gap>,
        newest: &BTreeMap<DatabaseName, Txid>,
    ) -> Self {
        gaps.sort_unstable_by_key(|gap| gap.from);
        let over = gaps.len().saturating_sub(MAX_GAPS);
        let oldest = gaps.drain(..over).next();
        if let Some(oldest) = oldest {
            gaps[0] = oldest.and(gaps[0]);
        }
        let databases = newest.iter().map(|(name, txid)| (name.clone(), txid.get())).collect();
        Self { version: VERSION, from, alive, gaps, databases, lasted: BTreeMap::new(), bases: BTreeMap::new() }
    }

    /// What is known of how long states of a database were the newest.
    pub fn lasted(&self, name: &DatabaseName) -> &[Lasted] {
        self.lasted.get(name).map_or(&[], Vec::as_slice)
    }

    /// What it says is there of a database, and isn't.
    pub fn missing(&self, name: &DatabaseName, there: Option<&Packs>) -> Vec<Missing> {
        let (from, sent) = (millis(self.from), self.databases.get(name).copied().unwrap_or_default());
        let Some(reach) = there.and_then(Packs::reach) else { return vec![Missing { after: from, before: None }] };
        let mut missing = Vec::new();
        // What was before that goes by its age, one by one.
        let base = self.bases.get(name).copied().unwrap_or_default();
        let leads_there =
            |pack: &&Pack| pack.span.max <= reach.from.txid && pack.span.last >= from && pack.span.max.get() > base;
        // What was to be rebuilt from an older snapshot is still there. That one may never have been sent: it was damaged.
        let is_known = self.knows(from, reach.from.millis);
        if !is_known && there.is_some_and(|packs| packs.level(Level::CAPTURED).iter().any(|pack| leads_there(&pack))) {
            missing.push(Missing { after: from, before: Some(reach.from.millis) });
        }
        let holes = reach.holes.iter().filter(|hole| hole.before.txid.get() > base);
        let between = |hole: &Hole| hole.gap(self.lasted(name)).map(|gap| (millis(gap.from), millis(gap.to)));
        let unknown = holes.filter_map(between).filter(|(after, before)| !self.knows(*after, *before));
        missing.extend(unknown.map(|(after, before)| Missing { after, before: Some(before) }));
        if reach.to.txid.get() < sent {
            missing.push(Missing { after: reach.to.millis, before: None });
        }
        missing
    }

    /// Whether all between two instants is in its gaps.
    fn knows(&self, after: u64, before: u64) -> bool {
        let mut gaps: Vec<_> = self.gaps.iter().map(|gap| (millis(gap.from), millis(gap.to))).collect();
        gaps.sort_unstable();
        let known = gaps.into_iter().fold(after, |at, (from, to)| if from <= at { at.max(to) } else { at });
        before <= known
    }

    /// Reads one. The reason says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let until: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let is_one = until.version == VERSION
            && until.gaps.len() <= MAX_GAPS
            && until.databases.len() <= MOST
            && until.lasted.values().all(|lasted| lasted.len() <= MAX_GAPS)
            && until.gaps.iter().all(|gap| gap.from <= gap.to);
        if is_one { Ok(until) } else { Err(format!("its version is {}, or it says what can't be", until.version)) }
    }

    /// As it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// States that are missing: after that time, and before that one, or all that follow; milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing {
    /// When the last one before them was.
    pub after: u64,
    /// When the first one after them was.
    pub before: Option<u64>,
}

fn millis(at: DateTime<Utc>) -> u64 {
    u64::try_from(at.timestamp_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::FileName;
    use crate::journal::pack::Span;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let at = |text: &str| format!("2026-11-26T{text}Z").parse::<DateTime<Utc>>().unwrap();
        let gaps = vec![Gap { wrong: true, ..Gap::new(at("09:00:00.250"), at("09:05:00")) }];
        let newest = [("auth".parse().unwrap(), Txid::FIRST)].into();
        let until = Until::new(at("08:00:00"), at("09:14:05.123"), gaps, &newest);
        let bytes = until.to_bytes();
        assert_eq!(Until::parse(&bytes), Ok(until));
        let text = String::from_utf8(bytes).unwrap();
        for (old, new) in
            [("\"version\":1", "\"version\":2"), ("09:05:00", "07:05:00"), ("auth", "../auth"), ("}]", "")]
        {
            let other = text.replace(old, new);
            assert!(other != text && Until::parse(other.as_bytes()).is_err(), "{other}");
        }
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    /// State n was at n seconds.
    fn packs(of: &[(&str, u64, u64)]) -> Packs {
        let mut packs = Packs::default();
        for (level, min, max) in of {
            let level: Level = level.parse().unwrap();
            let [min, max] = [min, max].map(|number| Txid::new(*number).unwrap());
            let first = if level == Level::CAPTURED { min } else { max };
            let span = Span { level, min, max, first: 1000 * first.get(), last: 1000 * max.get() };
            packs.insert(Pack { span, size: 1, parts: 0, encrypted: false });
        }
        packs
    }

    const HOLE: [(&str, u64, u64); 5] = [("9", 1, 1), ("0", 2, 10), ("9", 1, 20), ("2", 2, 20), ("0", 21, 30)];

    #[test]
    fn what_it_says_and_is_not_there_is_missing() {
        let name = "auth".parse().unwrap();
        let newest = [("auth".parse().unwrap(), Txid::new(30).unwrap())].into();
        let until = |gaps: &[(i64, i64)]| {
            let gaps = gaps.iter().map(|(from, to)| Gap::new(at(*from), at(*to))).collect();
            Until::new(at(1), at(60), gaps, &newest)
        };
        let missing = |gaps: &[(i64, i64)], of: &[(&str, u64, u64)]| {
            let missing = until(gaps).missing(&name, Some(&packs(of)));
            missing.iter().map(|it| (it.after / 1000, it.before.map(|it| it / 1000))).collect::<Vec<_>>()
        };
        let whole = [("9", 1, 1), ("0", 2, 20), ("9", 1, 20), ("0", 21, 30)];
        assert_eq!(missing(&[], &whole), []);
        assert_eq!(missing(&[], &whole[..3]), [(20, None)]);
        assert_eq!(missing(&[], &whole[1..]), [(1, Some(20))], "what leads nowhere without its snapshot");
        assert_eq!(missing(&[(0, 20)], &whole[1..]), [], "it was never sent");
        assert_eq!(missing(&[(0, 19)], &whole[1..]), [(1, Some(20))], "the gap ends before");
        assert_eq!(missing(&[], &whole[2..]), [], "it went by its age");
        assert_eq!(missing(&[], &[]), [(1, None)]);
        assert_eq!(until(&[]).missing(&name, None).len(), 1);
        assert_eq!(missing(&[], &HOLE), [(10, Some(20))]);
        assert_eq!(missing(&[(10, 20)], &HOLE), []);
        assert_eq!(missing(&[(15, 25), (9, 15)], &HOLE), [], "gaps that go on");
        assert_eq!(missing(&[(9, 14), (15, 25)], &HOLE), [(10, Some(20))], "gaps that don't");
        let many = (0..MAX_GAPS as i64 + 2).map(|n| Gap::new(at(10 * n), at(10 * n + 5))).rev().collect();
        let Until { gaps, .. } = Until::new(at(1), at(60), many, &newest);
        assert_eq!((gaps.len(), gaps[0].from, gaps[0].to), (MAX_GAPS, at(0), at(25)));
    }

    #[test]
    fn a_hole_begins_when_the_state_before_it_ended() {
        let name: DatabaseName = "auth".parse().unwrap();
        let reach = packs(&HOLE).reach().unwrap();
        let file = |name: FileName| LtxFile { name, millis: 1000 * name.max.get(), size: 1 };
        let txid = |number| Txid::new(number).unwrap();
        let here = |from: u64| (from..=30).map(|number| file(FileName::captured(txid(number)))).collect::<Index>();
        let all = |here: &Index, before: &[Lasted], newest| {
            let lasted = Lasted::all(&reach, here, before, (txid(newest), at(60)));
            lasted.iter().map(|it| (it.state, it.until.timestamp_millis())).collect::<Vec<_>>()
        };
        assert_eq!(all(&here(2), &[], 30), [(10, 10_999), (30, 60_000)], "the next one is damaged here, say");
        assert_eq!(all(&here(12), &[], 30), [(30, 60_000)], "it lies here no more");
        let lasted = |state, until| Lasted { state, until: at(until) };
        let before = [lasted(10, 15), lasted(8, 17)];
        assert_eq!(all(&here(12), &before, 30), [(10, 15_000), (30, 60_000)], "and was known when that was written");
        assert_eq!(
            all(&here(12), &[lasted(10, 9)], 31),
            [],
            "what is no later says nothing, nor what isn't the newest"
        );
        // What is said of it.
        let gap = |state, until| {
            let gap = reach.holes[0].gap(&[lasted(state, until)]).unwrap();
            (gap.from.timestamp(), gap.to.timestamp())
        };
        assert_eq!([gap(10, 15), gap(9, 15), gap(10, 9), gap(10, 25)], [(15, 20), (10, 20), (10, 20), (20, 20)]);
        let newest = [(name.clone(), txid(30))].into();
        let until = |lasted: &[Lasted], base: u64| {
            let until = Until::new(at(1), at(60), vec![Gap::new(at(15), at(20))], &newest);
            let lasted = [(name.clone(), lasted.to_vec())].into();
            Until { lasted, bases: [(name.clone(), base)].into(), ..until }
        };
        let missing = |lasted: &[Lasted], base, of: &[(&str, u64, u64)]| {
            let until = until(lasted, base);
            assert_eq!(Until::parse(&until.to_bytes()), Ok(until.clone()));
            until.missing(&name, Some(&packs(of))).len()
        };
        assert_eq!([missing(&[], 1, &HOLE), missing(&[lasted(10, 15)], 1, &HOLE)], [1, 0]);
        // Before what it begins with all goes, bit by bit.
        let going = [("0", 2, 10), ("0", 11, 15), ("9", 1, 20), ("0", 21, 30)];
        assert_eq!([missing(&[], 1, &going), missing(&[], 20, &going), missing(&[], 20, &HOLE)], [1, 0, 0]);
        assert_eq!(missing(&[], 20, &going[..3]), 1, "what came after it is missed");
    }
}
