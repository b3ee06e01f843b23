//! A journal against a model of it: random states, compaction, snapshots and retention.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::journal::chain::Horizon;

#[derive(Clone, Debug)]
enum Step {
    /// So many pages, these of them other ones; so much later.
    Tick {
        pages: usize,
        changed: Vec<(usize, u8)>,
        later: u64,
        is_base: bool,
    },
    Compact {
        later: u64,
    },
    Snapshot,
    /// How far back the window reaches.
    Retain {
        window: u64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let later = prop_oneof![0..3_u64, 500..20_000_u64, 100_000..5_000_000_u64];
    let tick = (1..9_usize, prop::collection::vec((0..9_usize, any::<u8>()), 1..4), later, prop::bool::weighted(0.1))
        .prop_map(|(pages, changed, later, is_base)| Step::Tick { pages, changed, later, is_base });
    prop_oneof![
        8 => tick,
        2 => (0..100_000_u64).prop_map(|later| Step::Compact { later }),
        1 => Just(Step::Snapshot),
        1 => (0..400_000_u64).prop_map(|window| Step::Retain { window }),
        1 => Just(Step::Reopen),
    ]
}

/// What the journal must hold.
#[derive(Default)]
struct Model {
    now: u64,
    state: Pages,
    /// By number: when, and what.
    kept: BTreeMap<u64, (u64, Pages)>,
    snapshots: BTreeMap<u64, u64>,
}

impl Model {
    fn tick(&mut self, pages: usize, changed: &[(usize, u8)]) {
        let grown = self.state.len()..pages;
        self.state.truncate(pages);
        self.state.extend(grown.map(|at| page(at as u8 ^ changed[0].1)));
        for (at, seed) in changed {
            let at = at % pages;
            self.state[at] = page(*seed);
        }
    }

    fn retain(&mut self, oldest: u64) {
        let base = self.snapshots.iter().filter(|(_, millis)| **millis <= oldest).map(|(txid, _)| *txid).max();
        let Some(base) = base.or(self.snapshots.keys().next().copied()) else { return };
        self.kept.retain(|txid, _| *txid >= base);
        self.snapshots.retain(|txid, _| *txid >= base);
    }

    /// Of each millisecond the last state.
    fn points(&self) -> Vec<(u64, u64)> {
        let last = |txid: &u64, millis: u64| self.kept.range(txid + 1..).next().is_none_or(|next| next.1.0 != millis);
        self.kept.iter().filter(|(txid, kept)| last(txid, kept.0)).map(|(txid, kept)| (*txid, kept.0)).collect()
    }
}

fn perform(step: &Step, place: &mut Place, model: &mut Model) {
    let control = Control::default();
    match step {
        Step::Tick { pages, changed, later, is_base } => {
            let before = model.state.clone();
            model.now += later;
            model.tick(*pages, changed);
            let is_base = *is_base || model.kept.is_empty();
            let txid = place.capture(&before, &model.state, model.now, is_base).unwrap().get();
            model.kept.insert(txid, (model.now, model.state.clone()));
            if is_base {
                model.snapshots.insert(txid, model.now);
            }
        }
        Step::Compact { later } => {
            model.now += later;
            place.journal.compact(model.now, &control).unwrap();
        }
        Step::Snapshot => {
            if place.journal.snapshot_from_files(&control).unwrap() {
                let (txid, (millis, _)) = model.kept.last_key_value().unwrap();
                model.snapshots.insert(*txid, *millis);
            }
        }
        Step::Retain { window } => {
            let oldest = model.now - window;
            place.journal.retain(Horizon::since(oldest), &control).unwrap();
            model.retain(oldest);
        }
        Step::Reopen => place.reopen(),
    }
}

fn compare(place: &Place, model: &Model) {
    let points = model.points();
    assert_eq!(place.points(), points);
    for (at, (txid, millis)) in points.iter().enumerate() {
        let state = &model.kept[txid].1;
        assert_eq!(&place.at(*millis).unwrap(), state, "{txid}");
        let point = Point { txid: Txid::new(*txid).unwrap(), millis: *millis };
        assert_eq!(states::find(place.journal.folder(), point), Some(sums_of(state).whole()), "{txid}");
        let (index, until) = (place.journal.index().clone(), points.get(at + 1).map_or(u64::MAX, |next| next.1 - 1));
        assert_eq!(chain::plan(&index, until), chain::plan(&index, *millis), "{txid}");
    }
    if let Some((_, millis)) = points.first() {
        assert!(chain::plan(&place.journal.index(), millis - 1).is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_state_that_is_kept_comes_back_and_no_other(steps in prop::collection::vec(step(), 1..30)) {
        let (mut place, mut model) = (Place::new(), Model { now: START, ..Model::default() });
        for step in &steps {
            perform(step, &mut place, &mut model);
            if matches!(step, Step::Retain { .. }) {
                compare(&place, &model);
            }
        }
        compare(&place, &model);
        // With all that there is to compact, from there on, and without it.
        model.now += 10_000_000;
        place.journal.compact(model.now, &Control::default()).unwrap();
        compare(&place, &model);
        for (level, _) in Level::COMPACTED {
            std::fs::remove_dir_all(place.path(&level.to_string())).unwrap();
        }
        place.reopen();
        compare(&place, &model);
    }
}
