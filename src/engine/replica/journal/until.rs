//! Saying in a replica until when all is there: a small object after the packs, which says too how long states were the newest after which
//! others are missing, and what each database begins with. Nothing goes there by its age before that is said.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::shipping::{Going, Ready, Shipping};
use super::tend::{damaged, kept, spans};
use crate::backup::{DatabaseName, Form, Moment};
use crate::codec::Codec;
use crate::engine::replica::send::broken;
use crate::engine::replica::site::Link;
use crate::engine::{Engine, Error, locked};
use crate::journal::pack::Key;
use crate::journal::packs::{Packs, Reach};
use crate::journal::timeline::Gap;
use crate::journal::until::{Lasted, Until};
use crate::journal::{Index, Level, Txid};

/// What was read before it was looked at what lies here.
pub(super) struct Seen {
    /// The first state of any database.
    pub(super) oldest: DateTime<Utc>,
    /// The databases were looked at then.
    pub(super) alive: DateTime<Utc>,
    pub(super) gaps: Vec<Gap>,
    /// The newest state of each database.
    pub(super) newest: BTreeMap<DatabaseName, Txid>,
}

impl Engine {
    /// Writes it, reads it back, and removes all but the one before.
    pub(super) fn write_until(&self, shipping: &Shipping, ready: &Ready, link: &Link, seen: Seen) -> Result<(), Error> {
        let going: Vec<String> = locked(&shipping.shared.going).keys().cloned().collect();
        let Some((from, until)) = self.until_now(shipping, ready, &going, seen) else { return Ok(()) };
        let alive = until.alive;
        if from > alive || shipping.remembered().until.is_some_and(|until| until >= alive) {
            return Ok(());
        }
        let bytes = self.sealed(&until.to_bytes()).map_err(|error| broken(link, error))?;
        let mut digits = [0; 8];
        digits.copy_from_slice(&Sha256::digest(&bytes)[..8]);
        let millis = u64::try_from(alive.timestamp_millis()).unwrap_or_default();
        let encrypted = !self.config.codec.recipients.is_empty();
        let key = Key::Until { lineage: ready.lineage, millis, digits, encrypted }.to_string();
        let mut remembered = shipping.remembered();
        remembered.writing = Some(alive);
        remembered.save(self.store.root(), &shipping.name)?;
        drop(remembered);
        link.at(link.remote.put(&key, &bytes))?;
        if link.at(link.remote.get(&key, Until::MAX_BYTES))?.as_ref() != Some(&bytes) {
            return Err(link.damaged(format!("{key} is not there as it was sent; it is sent again")));
        }
        let older = match shipping.there().as_mut() {
            Some(there) => {
                let untils = &mut there.listing.untils;
                untils.push((millis, key, bytes.len() as u64));
                untils.sort();
                // One before it stays, for whoever reads it just now.
                untils.drain(..untils.len().saturating_sub(2)).map(|(_, key, _)| key).collect()
            }
            None => Vec::new(),
        };
        *locked(&shipping.shared.written) = Some(Instant::now());
        locked(&shipping.shared.going)
            .iter_mut()
            .filter(|(key, _)| going.contains(key))
            .for_each(|(_, told)| *told = Going::Told);
        let bases = until.bases.iter().filter_map(|(name, base)| Some((name.clone(), Txid::new(*base)?)));
        *locked(&shipping.shared.bases) = Some((ready.lineage, bases.collect()));
        let mut remembered = shipping.remembered();
        (remembered.from, remembered.until, remembered.writing) = (Some(from), Some(alive), None);
        remembered.lasted = until.lasted;
        remembered.save(self.store.root(), &shipping.name)?;
        drop(remembered);
        older.iter().try_for_each(|key: &String| link.at(link.remote.delete(key)))
    }

    /// What is to be said, and the first instant that can be had, without the packs that are to go. Nothing before each database has a
    /// snapshot there.
    fn until_now(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        going: &[String],
        seen: Seen,
    ) -> Option<(DateTime<Utc>, Until)> {
        let packs = shipping.there().as_ref()?.listing.packs.clone();
        let reach = |name, packs: &Packs| packs.without(&spans(going.iter(), ready.lineage, name)).reach();
        let reaches: BTreeMap<_, _> =
            packs.iter().filter_map(|(name, packs)| Some((name.clone(), reach(name, packs)?))).collect();
        let Seen { oldest, alive, gaps, newest } = seen;
        let from = newest.keys().filter_map(|name| reaches.get(name)?.from.at()).chain([oldest]).max()?;
        let before = shipping.remembered().lasted.clone();
        let (mut lasted, mut bases) = (BTreeMap::new(), BTreeMap::new());
        for (name, txid) in &newest {
            let (reach, index) = (reaches.get(name)?, ready.journals.get(name)?.index());
            let before = before.get(name).map_or(&[][..], Vec::as_slice);
            lasted.insert(name.clone(), Lasted::all(reach, &index, before, (*txid, alive)));
            let kept = kept(self.horizon(), &index);
            let base = packs.get(name).and_then(|packs| packs.base(kept, &damaged(ready, name)));
            bases.extend(base.map(|base| (name.clone(), base.get())));
        }
        let next = |name: &DatabaseName, reached| first_after(&ready.journals.get(name)?.index(), reached);
        let (alive, newest) = there_until(next, &reaches, (alive, &gaps), &newest)?;
        // What isn't there now and comes later is no gap then. One before `from` says why nothing before that is there.
        let holes = reaches.iter().flat_map(|(name, reach)| {
            let lasted: &[Lasted] = lasted.get(name).map_or(&[], Vec::as_slice);
            reach.gaps(lasted).collect::<Vec<_>>()
        });
        let gaps = gaps.into_iter().chain(holes).filter(|gap| gap.to > oldest).collect();
        let mut until = Until::new(oldest, alive, gaps, &newest);
        (until.lasted, until.bases) = (lasted, bases);
        Some((from, until))
    }

    /// A small object as it is to lie there.
    fn sealed(&self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let codec = Codec { level: None, ..self.codec_there(Form::Plain) };
        let mut encoder = codec.encode(Vec::new(), bytes.len() as u64)?;
        encoder.write_all(bytes)?;
        encoder.finish()
    }
}

/// When the first state after that one was, as far as it lies here: milliseconds since 1970.
fn first_after(here: &Index, reached: Txid) -> Option<u64> {
    let next = |level| {
        let files = here.level(level);
        files.get(files.partition_point(|file| file.name.max <= reached)).map(|file| file.millis)
    };
    [Level::CAPTURED, Level::SNAPSHOT].into_iter().filter_map(next).min()
}

/// Until when all is there, and which states that are: where one is lacking, until right before it was (`next`). Nothing before each
/// database has a snapshot there.
fn there_until(
    next: impl Fn(&DatabaseName, Txid) -> Option<u64>,
    reaches: &BTreeMap<DatabaseName, Reach>,
    (alive, gaps): (DateTime<Utc>, &[Gap]),
    newest: &BTreeMap<DatabaseName, Txid>,
) -> Option<(DateTime<Utc>, BTreeMap<DatabaseName, Txid>)> {
    let (mut until, mut states) = (alive, BTreeMap::new());
    for (name, txid) in newest {
        let reached = reaches.get(name)?.to.txid;
        states.insert(name.clone(), reached.min(*txid));
        if reached < *txid {
            let before = Moment::of_millis(next(name, reached)?.checked_sub(1)?)?.at();
            until = until.min(before);
        }
    }
    // Within a gap nothing is known, its first end apart.
    let until = gaps.iter().find(|gap| gap.holds(until)).map_or(until, |gap| gap.from);
    Some((until, states))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::pack::Span;
    use crate::journal::packs::Pack;
    use crate::journal::{FileName, LtxFile};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn txid(number: u64) -> Txid {
        Txid::new(number).unwrap()
    }

    /// State n was at n seconds: a snapshot, and what was captured up to `last`.
    fn packs(last: u64) -> Packs {
        let mut packs = Packs::default();
        for (level, min, max) in [("9", 1, 1), ("0", 2, last)] {
            let first = if level == "0" { min } else { max } * 1000;
            let span = Span { level: level.parse().unwrap(), min: txid(min), max: txid(max), first, last: max * 1000 };
            packs.insert(Pack { span, size: 1, parts: 0, encrypted: false });
        }
        packs
    }

    fn here(last: u64) -> Index {
        let file = |name: FileName| LtxFile { name, millis: name.max.get() * 1000, size: 1 };
        let captured = (2..=last).map(|number| FileName::captured(txid(number)));
        [FileName::snapshot(txid(1))].into_iter().chain(captured).map(file).collect()
    }

    #[test]
    fn all_is_there_until_right_before_what_is_lacking_and_never_within_a_gap() {
        let names: [DatabaseName; 2] = ["attendance", "auth"].map(|name| name.parse().unwrap());
        let newest: BTreeMap<_, _> = names.iter().cloned().zip([txid(30), txid(20)]).collect();
        let until = |sent: [Option<u64>; 2], gaps: &[Gap]| {
            let reach = |(name, sent): (&DatabaseName, Option<u64>)| Some((name.clone(), packs(sent?).reach()?));
            let reaches = names.iter().zip(sent).filter_map(reach).collect();
            let next = |_: &DatabaseName, reached| first_after(&here(30), reached);
            let told = there_until(next, &reaches, (at(60), gaps), &newest)?;
            Some((told.0.timestamp_millis(), told.1.values().map(|txid| txid.get()).collect::<Vec<_>>()))
        };
        let all = [Some(30), Some(20)];
        assert_eq!(until(all, &[]), Some((60_000, vec![30, 20])));
        assert_eq!(until([Some(30), None], &[]), None, "nothing of one of them can be rebuilt");
        assert_eq!(until([Some(31), Some(25)], &[]), Some((60_000, vec![30, 20])), "sent since that was read");
        assert_eq!(until([Some(24), Some(20)], &[]), Some((24_999, vec![24, 20])));
        assert_eq!(until([Some(24), Some(12)], &[]), Some((12_999, vec![24, 12])), "the earlier one counts");
        // A gap is recorded before `alive` goes beyond it: whoever reads in between finds it right behind.
        let gap = |from, to| Gap::new(at(from), at(to));
        assert_eq!(until(all, &[gap(60, 70)]), Some((60_000, vec![30, 20])));
        assert_eq!(until(all, &[gap(55, 60)]), Some((60_000, vec![30, 20])));
        assert_eq!(until(all, &[gap(50, 70)]), Some((50_000, vec![30, 20])), "its end is no tick's word yet");
        assert_eq!(until([Some(24), Some(20)], &[gap(3, 8), gap(20, 40)]), Some((20_000, vec![24, 20])));
    }
}
