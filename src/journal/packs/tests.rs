use std::time::Duration;

use super::*;
use crate::journal::FileName;

fn txid(number: u64) -> Txid {
    Txid::new(number).unwrap()
}

/// State n was at 1000 n.
fn pack(level: &str, min: u64, max: u64) -> Pack {
    let level: Level = level.parse().unwrap();
    let first = if level == Level::CAPTURED { min } else { max } * 1000;
    let span = Span { level, min: txid(min), max: txid(max), first, last: max * 1000 };
    Pack { span, size: 100, parts: 0, encrypted: false }
}

fn packs(packs: &[(&str, u64, u64)]) -> Packs {
    let mut all = Packs::default();
    packs.iter().for_each(|(level, min, max)| all.insert(pack(level, *min, *max)));
    all
}

fn file(name: FileName) -> LtxFile {
    LtxFile { name, millis: name.max.get() * 1000, size: 100 }
}

/// A journal here: snapshots, and what was captured.
fn here(snapshots: &[u64], captured: impl IntoIterator<Item = u64>) -> Index {
    let snapshots = snapshots.iter().map(|max| file(FileName::snapshot(txid(*max))));
    snapshots.chain(captured.into_iter().map(|number| file(FileName::captured(txid(number))))).collect()
}

fn spans(chosen: Option<Vec<Pack>>) -> Option<Vec<(u64, u64)>> {
    chosen.map(|packs| packs.iter().map(|pack| (pack.span.min.get(), pack.span.max.get())).collect())
}

fn numbers(run: Option<Vec<LtxFile>>) -> Option<(u64, u64)> {
    run.map(|run| (run[0].name.min.get(), run[run.len() - 1].name.max.get()))
}

#[test]
fn what_goes_on_without_a_hole_is_reached() {
    let hole = |hole: &Hole| (hole.after.millis, hole.before.millis);
    let reach = |of: &[(&str, u64, u64)]| {
        let holes = |reach: &Reach| reach.holes.iter().map(hole).collect::<Vec<_>>();
        packs(of).reach().map(|it| (it.from.txid.get(), it.to.txid.get(), holes(&it)))
    };
    assert_eq!(reach(&[("0", 2, 9)]), None);
    assert_eq!(reach(&[("9", 1, 1)]), Some((1, 1, vec![])));
    assert_eq!(reach(&[("9", 1, 1), ("0", 2, 4), ("0", 5, 9)]), Some((1, 9, vec![])));
    // A snapshot of a state that is among the others, and one that is the next state itself.
    assert_eq!(reach(&[("9", 1, 1), ("0", 2, 4), ("9", 1, 4), ("0", 5, 9)]), Some((1, 9, vec![])));
    assert_eq!(reach(&[("9", 1, 1), ("0", 2, 9), ("9", 1, 5)]), Some((1, 9, vec![])));
    assert_eq!(reach(&[("9", 1, 1), ("0", 2, 4), ("9", 1, 5), ("0", 6, 9)]), Some((1, 9, vec![])));
    // What came between was never sent.
    assert_eq!(reach(&[("9", 1, 1), ("0", 2, 4), ("9", 1, 7), ("0", 8, 9)]), Some((1, 9, vec![(4000, 7000)])));
    assert_eq!(reach(&[("9", 1, 1), ("0", 2, 4), ("0", 7, 9), ("9", 1, 8)]), Some((1, 9, vec![(4000, 8000)])));
    assert_eq!(reach(&[("9", 1, 1), ("0", 2, 4), ("0", 6, 9)]), Some((1, 4, vec![])));
    // A larger step says nothing of the states within.
    assert_eq!(reach(&[("9", 1, 1), ("3", 2, 9)]), Some((1, 1, vec![])));
    // What was before the first snapshot is of no use.
    assert_eq!(reach(&[("0", 2, 4), ("9", 1, 6), ("0", 7, 7)]), Some((6, 7, vec![])));
    // Small ones, and a large one of the same files.
    assert_eq!(reach(&[("9", 1, 1), ("0", 2, 3), ("0", 4, 5), ("0", 2, 5), ("0", 6, 6)]), Some((1, 6, vec![])));
}

#[test]
fn the_packs_of_an_instant_have_its_very_state() {
    let all = packs(&[("9", 1, 1), ("0", 2, 10), ("0", 11, 20), ("2", 2, 20), ("0", 21, 30), ("9", 1, 25)]);
    let choose = |at| spans(all.choose(at, &BTreeSet::new()));
    assert_eq!(choose(999), None);
    assert_eq!(choose(1000), Some(vec![(1, 1)]));
    assert_eq!(choose(1999), Some(vec![(1, 1)]));
    assert_eq!(choose(5500), Some(vec![(1, 1), (2, 10)]));
    assert_eq!(choose(15_500), Some(vec![(1, 1), (2, 10), (11, 20)]));
    assert_eq!(choose(20_000), Some(vec![(1, 1), (2, 20)]));
    assert_eq!(choose(22_000), Some(vec![(1, 1), (2, 20), (21, 30)]));
    assert_eq!(choose(25_000), Some(vec![(1, 25), (21, 30)]));
    assert_eq!(choose(99_000), Some(vec![(1, 25), (21, 30)]));
    let without = |at, level: &str, min, max| spans(all.choose(at, &[pack(level, min, max).span].into()));
    // Others cover it, where they do.
    assert_eq!(without(25_000, "9", 1, 25), Some(vec![(1, 1), (2, 20), (21, 30)]));
    assert_eq!(without(22_000, "2", 2, 20), Some(vec![(1, 1), (2, 10), (11, 20), (21, 30)]));
    assert_eq!(without(22_000, "0", 2, 10), Some(vec![(1, 1), (2, 20), (21, 30)]));
    assert_eq!(without(22_000, "0", 21, 30), None);
    assert_eq!(without(15_500, "0", 2, 10), None);
    assert_eq!(without(5_500, "9", 1, 1), None);
}

#[test]
fn the_newest_seconds_are_sent_first_and_then_what_is_missing() {
    let lacks = |there: &[(&str, u64, u64)], here: &Index| numbers(packs(there).lacks(here));
    let journal = here(&[1, 10], 2..=20);
    // A new lineage begins with the newest snapshot.
    assert_eq!(lacks(&[], &journal), Some((11, 20)));
    assert_eq!(lacks(&[], &here(&[], [])), None);
    assert_eq!(lacks(&[("9", 1, 10)], &journal), Some((11, 20)));
    assert_eq!(lacks(&[("9", 1, 10), ("0", 11, 15)], &journal), Some((16, 20)));
    assert_eq!(lacks(&[("9", 1, 10), ("0", 11, 20)], &journal), None);
    // An object that went is sent again, after the newest.
    assert_eq!(lacks(&[("9", 1, 10), ("0", 11, 12), ("0", 15, 18)], &journal), Some((19, 20)));
    assert_eq!(lacks(&[("9", 1, 10), ("0", 11, 12), ("0", 15, 20)], &journal), Some((13, 14)));
    // The journal began anew: state 11 is a snapshot.
    let anew = here(&[1, 11], (2..=10).chain(12..=20));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 10)], &anew), Some((12, 20)));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 8)], &anew), Some((9, 10)));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 10)], &here(&[1, 11], 2..=10)), None);
    // Away for so long that what comes next lies here no more.
    let later = here(&[50, 80], 51..=99);
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 10)], &later), Some((81, 99)));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 10), ("0", 81, 99)], &later), Some((51, 80)));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 10), ("0", 51, 99)], &later), None);
    // The snapshot went, and what led from it.
    assert_eq!(lacks(&[("0", 15, 20)], &journal), Some((11, 14)));
    assert_eq!(lacks(&[("0", 15, 20)], &here(&[1, 18], 2..=20)), Some((2, 14)));
    // A pack has so many files.
    assert_eq!(lacks(&[("9", 1, 1)], &here(&[1], 2..=2000)), Some((2, 257)));
}

#[test]
fn what_is_damaged_here_is_sent_by_nobody() {
    let lacks = |there: &[(&str, u64, u64)], here: &Index| numbers(packs(there).lacks(here));
    let mut journal = here(&[1], 2..=20);
    assert!(journal.note_damaged(FileName::captured(txid(8))) && !journal.note_damaged(FileName::captured(txid(8))));
    assert!(!journal.goes_on_without(FileName::captured(txid(8))));
    assert_eq!(lacks(&[("9", 1, 1)], &journal), Some((2, 7)));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 7)], &journal), Some((9, 20)));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 7), ("0", 9, 20)], &journal), None);
    // The journal has begun anew because of it.
    let mut anew = here(&[1, 21], (2..=20).chain(22..=30));
    anew.note_damaged(FileName::captured(txid(8)));
    assert!(anew.goes_on_without(FileName::captured(txid(8))));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 7)], &anew), Some((22, 30)));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 7), ("0", 22, 30)], &anew), Some((9, 20)));
    assert_eq!(lacks(&[("9", 1, 1), ("0", 2, 7), ("0", 9, 20), ("0", 22, 30)], &anew), None);
    assert_eq!(packs(&[("9", 1, 1)]).lacks_larger(&anew).unwrap().name, FileName::snapshot(txid(21)));
    anew.note_damaged(FileName::snapshot(txid(21)));
    assert_eq!(packs(&[("9", 1, 1)]).lacks_larger(&anew), None);
    assert!(!anew.goes_on_without(FileName::snapshot(txid(21))) && !anew.goes_on_without(FileName::captured(txid(8))));
    assert!(is_damaged_here(&pack("0", 2, 9).span, &anew) && !is_damaged_here(&pack("0", 9, 20).span, &anew));
    assert!(is_damaged_here(&pack("9", 1, 21).span, &anew) && !is_damaged_here(&pack("9", 1, 1).span, &anew));
    // Nor as a part of something else, and none of it once it has gone.
    assert!(made_of(&pack("0", 2, 7).span, &anew).is_some() && made_of(&pack("0", 2, 9).span, &anew).is_none());
    anew.remove(&[FileName::captured(txid(8))]);
    assert!(anew.note_damaged(FileName::captured(txid(8))));
}

#[test]
fn larger_files_are_sent_one_by_one() {
    let mut journal: Vec<LtxFile> = here(&[1, 10, 30], 2..=40).files().copied().collect();
    let merged =
        |level: &str, min, max| file(FileName { level: level.parse().unwrap(), min: txid(min), max: txid(max) });
    journal.extend([merged("1", 2, 6), merged("2", 2, 20), merged("2", 21, 38), merged("3", 2, 38)]);
    let journal: Index = journal.into_iter().collect();
    let lacks = |there: &[(&str, u64, u64)]| {
        packs(there)
            .lacks_larger(&journal)
            .map(|file| file.name.to_string()[..1].to_owned() + &format!(" {}", file.name.max.get()))
    };
    assert_eq!(lacks(&[]).unwrap(), "9 30");
    assert_eq!(lacks(&[("9", 1, 30)]), None);
    assert_eq!(lacks(&[("9", 1, 10)]).unwrap(), "9 30");
    assert_eq!(lacks(&[("9", 1, 1)]).unwrap(), "9 30");
    assert_eq!(lacks(&[("9", 1, 1), ("9", 1, 30)]).unwrap(), "9 10");
    assert_eq!(lacks(&[("9", 1, 10), ("9", 1, 30)]).unwrap(), "2 38");
    // What was sent follows a snapshot, which isn't there yet, or went.
    assert_eq!(lacks(&[("0", 31, 40)]).unwrap(), "9 30");
    assert_eq!(lacks(&[("9", 1, 30), ("0", 11, 40)]).unwrap(), "9 10");
    assert_eq!(lacks(&[("9", 1, 30), ("0", 15, 40)]).unwrap(), "9 10");
    let all = [("9", 1, 1), ("9", 1, 10), ("9", 1, 30)];
    assert_eq!(lacks(&all).unwrap(), "2 20");
    assert_eq!(lacks(&[&all[..], &[("2", 2, 20), ("2", 21, 38)]].concat()).unwrap(), "3 38");
    assert_eq!(lacks(&[&all[..], &[("2", 2, 20), ("2", 21, 38), ("3", 2, 38)]].concat()), None);
}

#[test]
fn what_was_sent_from_elsewhere_is_noticed() {
    let there = packs(&[("9", 1, 1), ("0", 2, 10)]);
    assert!(there.is_of(&here(&[1], 2..=10)) && there.is_of(&here(&[1, 20], 2..=30)));
    assert!(there.is_of(&here(&[20], 21..=30)), "what lies here no more tells nothing");
    assert!(!there.is_of(&here(&[1], 2..=9)), "the directory was put back");
    assert!(!there.is_of(&here(&[], [])));
    assert!(!there.is_of(&here(&[1, 10], 2..=9)), "it has begun anew with that very number");
    let mut other: Vec<LtxFile> = here(&[1], 2..=12).files().copied().collect();
    other.iter_mut().filter(|file| file.name.max >= txid(8)).for_each(|file| file.millis += 1);
    assert!(!there.is_of(&other.into_iter().collect()), "and has gone on in another way");
}

#[test]
fn what_expires_leaves_every_later_state() {
    let all =
        packs(&[("9", 1, 1), ("0", 2, 10), ("0", 11, 20), ("2", 2, 20), ("9", 1, 15), ("9", 1, 30), ("0", 21, 40)]);
    let gone = |oldest| spans(Some(all.expired(Horizon::since(oldest), &BTreeSet::new()))).unwrap();
    let base = |oldest| all.base(Horizon::since(oldest), &BTreeSet::new()).map(Txid::get);
    assert_eq!([base(0), base(14_999), base(15_000), base(99_000)], [1, 1, 15, 30].map(Some));
    assert_eq!(gone(14_999), []);
    assert_eq!(gone(15_000), [(1, 1), (2, 10)]);
    assert_eq!(gone(99_000), [(1, 1), (1, 15), (2, 10), (11, 20), (2, 20)]);
    // A snapshot that is known to be damaged stands for nothing that was before it.
    let without =
        |oldest, max| spans(Some(all.expired(Horizon::since(oldest), &[pack("9", 1, max).span].into()))).unwrap();
    assert_eq!(without(15_000, 15), []);
    assert_eq!(without(99_000, 15), [(1, 1), (1, 15), (2, 10), (11, 20), (2, 20)]);
    assert_eq!(without(99_000, 30), [(1, 1), (2, 10)]);
    assert_eq!(without(15_000, 1), [(1, 1), (2, 10)], "nor does it stay for ever");
    assert_eq!(without(14_000, 1), [], "and where there is no other, nothing goes");
}

/// A day is a thousand of what `packs` counts in, and the window is a week.
#[test]
fn a_clock_that_jumps_lets_nothing_go() {
    const DAY: u64 = 1_000;
    let step = Duration::from_millis(1000 * DAY);
    // Which snapshot is the first to stay at that time, when they are of these.
    let first_after = |snapshots: &[u64], now: u64, days: u32| {
        let all: Vec<_> = snapshots.iter().map(|max| ("9", 1, *max)).collect();
        packs(&all).base(Horizon::until(1000 * now, days * step, 7 * step, step), &BTreeSet::new()).map(Txid::get)
    };
    let first = |snapshots: &[u64], now: u64| first_after(snapshots, now, 1);
    let days: Vec<u64> = (1..=12).map(|day| day * (DAY + 1)).collect();
    let with = |more: &[u64]| [&days, more].concat();
    let (today, jump) = (days[11] + DAY / 2, 400 * DAY);
    assert_eq!(first(&days, today), Some(days[4]), "by the clock alone it is the same");
    assert_eq!(first_after(&days, today + 7 * DAY, 8), Some(days[11]), "a week in which nothing more happens");
    assert_eq!(first_after(&days, today + jump, 0), Some(days[4]), "a start at a time to which the clock has jumped");
    // What is captured after a jump, and after a start that takes the journal's word for the time.
    for now in [today, today + jump] {
        assert_eq!(first(&with(&[today + jump]), now), Some(days[4]));
    }
    let later: Vec<u64> = (0..5).map(|more| today + jump + more).collect();
    assert_eq!(first(&with(&later), today + jump + 5), Some(days[4]), "however often it begins anew then");
    assert_eq!(first(&with(&[today + jump, today + jump + DAY]), today + jump + DAY), Some(days[5]), "a day is a day");
    // Jumps that are shorter than the window: each is a day.
    assert_eq!(first(&with(&[today + 3 * DAY]), today + 3 * DAY), Some(days[5]));
    // One that goes back keeps more.
    assert_eq!(first(&days, days[7]), Some(days[0]));
    // What changes once in a fortnight goes too, one after the other.
    let rare: Vec<u64> = (1..=20).map(|number| number * 14 * DAY).collect();
    assert_eq!(first(&rare, rare[19]), Some(rare[11]));
}

#[test]
fn the_small_packs_of_a_past_hour_become_one() {
    let journal = here(&[1], 2..=9000);
    let joinable = |there: &[(&str, u64, u64)], here: &Index, hours: u64| {
        let (files, packs) = packs(there).joinable(here, hours * JOINED)?;
        Some((numbers(Some(files)).unwrap(), spans(Some(packs)).unwrap()))
    };
    // State 3600 is the first of the second hour.
    let small = [("9", 1, 1), ("0", 2, 3), ("0", 4, 900), ("0", 901, 3599), ("0", 3600, 3700), ("0", 3701, 3800)];
    assert_eq!(joinable(&small, &journal, 0), None);
    assert_eq!(joinable(&small, &journal, 1), Some(((2, 3599), vec![(2, 3), (4, 900), (901, 3599)])));
    let done = [("9", 1, 1), ("0", 2, 3599), ("0", 3600, 3700), ("0", 3701, 3800)];
    assert_eq!(joinable(&done, &journal, 1), None);
    assert_eq!(joinable(&done, &journal, 2), Some(((3600, 3800), vec![(3600, 3700), (3701, 3800)])));
    // Not over a hole, nor of what is here no more.
    assert_eq!(joinable(&[("0", 2, 3), ("0", 5, 6)], &journal, 1), None);
    assert_eq!(joinable(&small, &here(&[700], 701..=9000), 1), None);
    assert_eq!(joinable(&small, &here(&[3], 4..=9000), 1), Some(((4, 3599), vec![(4, 900), (901, 3599)])));
    // Nor more than fits.
    let large: Index = journal.files().map(|file| LtxFile { size: MOST_BYTES / 1000, ..*file }).collect();
    assert_eq!(joinable(&small, &large, 1), Some(((2, 900), vec![(2, 3), (4, 900)])));
    assert_eq!(joinable(&[("0", 2, 900), ("0", 901, 3599)], &large, 1), None);
    for span in [pack("0", 2, 3).span, pack("9", 1, 1).span] {
        assert!(made_of(&span, &journal).is_some() && made_of(&Span { last: 9, ..span }, &journal).is_none());
    }
}
