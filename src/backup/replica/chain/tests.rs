use super::super::tests::{catalog_of, day, held, object};
use super::super::{Mode, Plan, ReplicaCatalog, Sending, VERSION, WITH_SEGMENTS, Wishes, is_sendable, plan};
use super::*;
use crate::backup::retention::{self, Retention};
use crate::backup::sample::{apply, backup};
use crate::backup::{Backup, Tier};
use proptest::prelude::*;
use serde_json::{Value, json};

fn name() -> DatabaseName {
    "attendance".parse().unwrap()
}

fn catalog() -> ReplicaCatalog {
    ReplicaCatalog { version: WITH_SEGMENTS, ..catalog_of(Vec::new()) }
}

/// As a segment on that base.
fn segment(backup: &Backup, base: Option<Origin>) -> Held {
    let mut held = held(backup);
    let size = if base.is_some() { 100 } else { 1000 };
    for it in held.databases.values_mut() {
        (it.ltx, it.object) = (Some(Segment { base, size: 8192 }), object(size, 0));
    }
    held
}

/// What `Writable::write` makes of it.
fn write(there: &mut ReplicaCatalog, backups: Vec<Held>) {
    let left = there.remnants.iter().cloned().chain(there.backups.iter().map(Remnant::of));
    let remnants = remnants(&backups, left);
    (there.backups, there.remnants) = (backups, remnants);
    there.validate().unwrap();
}

/// Each on the one before, and of these some dropped.
fn chain_of(count: u64, dropped: std::ops::RangeInclusive<u64>) -> ReplicaCatalog {
    let (mut there, mut base, mut all) = (catalog(), None, Vec::new());
    for number in 1..=count {
        let backup = backup(number, Tier::Daily, day(number));
        all.push(segment(&backup, base));
        base = Some(Origin::of(&backup));
    }
    write(&mut there, all.clone());
    all.retain(|held| !dropped.contains(&held.origin.sequence));
    write(&mut there, all);
    there
}

#[test]
fn what_others_stand_on_stays_and_nothing_else() {
    let left = |dropped| {
        let there = chain_of(6, dropped);
        there.remnants.iter().map(|it| it.origin.sequence).collect::<Vec<_>>()
    };
    assert_eq!(left(2..=4), [2, 3, 4]);
    assert_eq!(left(1..=2), [1, 2]);
    assert_eq!(left(5..=6), [] as [u64; 0]);
    assert_eq!(left(1..=6), [] as [u64; 0]);
    let there = chain_of(6, 2..=4);
    let steps = there.chains().steps(there.backups[1].origin, &name()).unwrap();
    assert_eq!(steps.iter().map(|step| step.origin.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(there.keys().len(), 6 + 3, "three entries, six segments");
}

#[test]
fn what_is_won_is_told() {
    let there = chain_of(6, 2..=4);
    let of = |at: usize, base: Option<usize>| {
        let base = base.map(|base| there.backups[base].origin);
        relief(&there.backups, &there.remnants, there.backups[at].origin, base)
    };
    let oldest = |of: &ReplicaCatalog| Some(of.remnants[0].origin);
    assert_eq!(of(1, Some(0)), Relief { remnants: 3, oldest: oldest(&there), bytes: 400, largest: 100 });
    // The one after it stands on it, and goes on to do so.
    assert_eq!(of(2, Some(1)), Relief { remnants: 0, oldest: None, bytes: 100, largest: 0 });
    let headless = chain_of(6, 1..=4);
    let origin = headless.backups[0].origin;
    let won = relief(&headless.backups, &headless.remnants, origin, None);
    assert_eq!(won, Relief { remnants: 4, oldest: oldest(&headless), bytes: 1000 + 400, largest: 1000 });
}

#[test]
fn all_of_a_chain_is_for_the_same_readers() {
    let of = |texts: &[&str]| Readers::of(&texts.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert!(of(&["a", "b"]) == of(&["b", "a"]) && of(&["a", "b"]) != of(&["a"]) && of(&["ab"]) != of(&["a", "b"]));
    assert_eq!(of(&[]), None);
    let mut there = chain_of(3, 2..=2);
    let (origin, name) = (there.backups[1].origin, name());
    assert!(!there.chains().is_for(None, origin, &name), "it is encrypted, and nobody knows to whom");
    let databases = there.backups.iter_mut().map(|it| &mut it.databases);
    let databases = databases.chain(there.remnants.iter_mut().map(|it| &mut it.databases));
    databases.flat_map(|it| it.values_mut()).for_each(|it| it.readers = of(&["a"]));
    assert!(there.chains().is_for(of(&["a"]), origin, &name) && !there.chains().is_for(of(&["b"]), origin, &name));
    for it in there.remnants[0].databases.values_mut() {
        it.readers = of(&["a", "b"]);
    }
    assert!(!there.chains().is_for(of(&["a"]), origin, &name));
}

fn damage(databases: &mut BTreeMap<DatabaseName, HeldDatabase>) {
    databases.values_mut().for_each(|it| it.damaged = true);
}

#[test]
fn what_stands_on_damage_is_unsound() {
    let mut there = chain_of(6, 2..=4);
    assert!(there.chains().unsound().is_empty());
    let unsound = |there: &ReplicaCatalog| -> Vec<u64> {
        there.chains().unsound().into_iter().map(|origin| origin.sequence).collect()
    };
    damage(&mut there.remnants[1].databases);
    assert_eq!(unsound(&there), [3, 4, 5, 6]);
    assert_eq!(there.latest(None).unwrap().origin.sequence, 1);
    // An entry is its own backup's alone, and gone with it.
    let mut there = chain_of(6, 2..=4);
    there.backups[1].damaged = true;
    assert_eq!(unsound(&there), [5]);
    let staying = there.backups.iter().filter(|held| !held.damaged).cloned().collect();
    write(&mut there, staying);
    assert_eq!((unsound(&there), there.remnants.len()), (vec![], 4));
    // And a database is no other's base.
    let mut there = chain_of(4, 1..=1);
    let auth: DatabaseName = "auth".parse().unwrap();
    let last = there.backups.len() - 1;
    for (at, base) in [(0, None), (last, Some(there.backups[0].origin))] {
        let segment =
            HeldDatabase { ltx: Some(Segment { base, size: 8192 }), ..there.backups[at].databases[&name()].clone() };
        there.backups[at].databases.insert(auth.clone(), segment);
    }
    there.validate().unwrap();
    there.backups[0].databases.get_mut(&auth).unwrap().damaged = true;
    assert_eq!(unsound(&there), [2, 4]);
    assert_eq!(there.latest(None).unwrap().origin.sequence, 3);
}

#[test]
fn what_a_newer_version_recorded_stays() {
    let mut json = serde_json::to_value(chain_of(3, 1..=1)).unwrap();
    for owner in ["backups", "remnants"] {
        json[owner][0]["colour"] = "green".into();
        json[owner][0]["databases"]["attendance"]["colour"] = "red".into();
    }
    let read = ReplicaCatalog::parse(&serde_json::to_vec(&json).unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&read.to_bytes()).unwrap(), json);
    let left = &read.remnants[0];
    assert_eq!((&left.extra["colour"], left.extra.len()), (&json!("green"), 1));
    assert_eq!(left.databases[&name()].extra.len(), 1);
}

/// As the first programs with segments wrote it.
#[test]
fn a_segment_whose_database_nobody_has_measured_is_one() {
    let mut json = serde_json::to_value(chain_of(3, 1..=1)).unwrap();
    for (owner, at) in [("backups", 0), ("backups", 1), ("remnants", 0)] {
        drop(json[owner][at]["databases"]["attendance"]["ltx"].as_object_mut().unwrap().remove("size"));
    }
    let read = ReplicaCatalog::parse(&serde_json::to_vec(&json).unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&read.to_bytes()).unwrap(), json);
    let steps = read.chains().steps(read.backups[0].origin, &name()).unwrap();
    assert!(steps.len() == 2 && steps.iter().all(|step| step.size().is_none()), "{steps:?}");
}

#[test]
fn only_what_has_segments_is_of_the_later_format() {
    let backups = [held(&backup(1, Tier::Daily, day(1)))];
    assert_eq!(ReplicaCatalog::format_of(&backups, &[]), VERSION);
    let there = chain_of(2, 1..=1);
    assert_eq!(ReplicaCatalog::format_of(&there.backups, &there.remnants), WITH_SEGMENTS);
    let text = String::from_utf8(serde_json::to_vec(&ReplicaCatalog { backups: backups.into(), ..catalog() }).unwrap());
    assert!(!text.as_ref().unwrap().contains("remnants") && !text.unwrap().contains("ltx"), "nothing of it is told");
    assert_eq!(serde_json::to_value(Mode::Incremental).unwrap(), "incremental");
}

#[test]
fn chains_that_cannot_be_are_refused() {
    let json = serde_json::to_value(chain_of(6, 2..=4)).unwrap();
    let read = |value: &Value| ReplicaCatalog::parse(&serde_json::to_vec(value).unwrap());
    read(&json).unwrap();
    fn first(of: &mut Value) -> &mut Value {
        &mut of["databases"]["attendance"]
    }
    fn itself(of: &Value) -> Value {
        json!({ "base": { "sequence": of["sequence"], "timestamp": of["timestamp"] }, "size": 8192 })
    }
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 14] = [
        (|it| first(&mut it["backups"][0])["ltx"] = itself(&it["backups"][0].clone()), "isn't older"),
        (|it| first(&mut it["backups"][0])["ltx"] = itself(&it["backups"][2].clone()), "isn't older"),
        (|it| first(&mut it["remnants"][0])["ltx"] = itself(&it["remnants"][2].clone()), "isn't older"),
        (|it| it["remnants"][1]["sequence"] = 40.into(), "isn't"),
        (|it| drop(it.as_object_mut().unwrap().remove("remnants")), "isn't there"),
        (|it| first(&mut it["backups"][0])["ltx"] = Value::Null, "isn't there"),
        (|it| first(&mut it["backups"][1])["form"] = "db.age".into(), "no segment"),
        (|it| first(&mut it["backups"][1])["ltx"]["base"]["timestamp"] = "2026-01-05T01:00:01Z".into(), "isn't there"),
        (|it| it["remnants"][0]["databases"] = json!({}), "isn't there"),
        (|it| first(&mut it["remnants"][2])["ltx"] = Value::Null, "isn't there"),
        (|it| it["remnants"][1] = it["remnants"][0].clone(), "there twice"),
        (|it| first(&mut it["remnants"][1])["size"] = u64::MAX.into(), "can't be"),
        (|it| it["backups"][0]["sequence"] = 0.into(), "no segment"),
        (|it| first(&mut it["remnants"][0])["ltx"]["size"] = (1_u64 << 51).into(), "no segment"),
    ];
    for (at, (change, expected)) in changes.into_iter().enumerate() {
        let mut value = json.clone();
        change(&mut value);
        let error = read(&value).unwrap_err();
        assert!(error.contains(expected), "{at}: {error}");
    }
    // Alone, and on which nobody stands.
    let mut value = serde_json::to_value(chain_of(2, 2..=2)).unwrap();
    value["remnants"] = json!([json["remnants"][0]]);
    value["remnants"][0]["databases"]["attendance"]["ltx"] = Value::Null;
    assert!(read(&value).unwrap_err().contains("is none"));
}

/// Longer than any that was made, and yet looked at in no time.
#[test]
fn a_chain_without_end_is_refused() {
    let long = |count| {
        let mut there = catalog();
        let mut base = None;
        for number in 1..=count {
            let origin = Origin { sequence: number, timestamp: there.written_at };
            let mut held = segment(&backup(1, Tier::Daily, day(1)), base);
            held.origin = origin;
            there.remnants.push(Remnant::of(&held));
            base = Some(origin);
        }
        let mut last = segment(&backup(1, Tier::Daily, day(1)), base);
        last.origin = Origin { sequence: count + 1, timestamp: there.written_at };
        there.backups.push(last);
        there
    };
    // A base of the same instant is older by its sequence.
    long(100).validate().unwrap();
    let endless = long(50_000);
    assert!(endless.validate().unwrap_err().contains("more than was ever made"));
    assert!(endless.chains().steps(endless.backups[0].origin, &name()).is_some());
}

/// A replica that is brought to what is here, as `Writable` does it.
struct Model {
    here: Vec<Backup>,
    there: ReplicaCatalog,
    known: BTreeSet<Origin>,
}

impl Model {
    fn sync(&mut self) {
        let mut seen = self.there.backups.clone();
        let unsound = self.there.chains().unsound();
        seen.iter_mut().for_each(|held| held.damaged = unsound.contains(&held.origin));
        let retention = Retention::default();
        let wishes = Wishes { retention: &retention, own: false, encrypts: true, known: &self.known, freeze: None };
        let Plan { mut send, drop, amend, .. } = plan(&self.here, &seen, wishes);
        send.reverse();
        for sending in send {
            let is_there = self.there.backups.iter().any(|held| held.origin == sending.origin);
            if !is_there || self.there.chains().unsound().contains(&sending.origin) {
                self.send(sending);
            }
        }
        let is_dropped = |held: &Held| drop.iter().any(|(origin, _)| *origin == held.origin);
        let mut staying = self.there.backups.clone();
        staying.retain(|held| !is_dropped(held));
        for held in &mut staying {
            if let Some(amended) = amend.iter().find(|amended| amended.origin == held.origin) {
                *held = Held { damaged: held.damaged, ..amended.clone() };
            }
        }
        write(&mut self.there, staying);
        self.known = self.here.iter().map(Origin::of).collect();
    }

    fn send(&mut self, sending: Sending) {
        let unsound = self.there.chains().unsound();
        let is_here = |origin: &Origin| self.here.iter().any(|it| Origin::of(it) == *origin && is_sendable(it));
        let sound = self.there.backups.iter().map(|held| held.origin).filter(|it| !unsound.contains(it));
        let base = sound.filter(|base| *base < sending.origin && is_here(base)).max();
        let backup = self.here.iter().find(|backup| Origin::of(backup) == sending.origin).unwrap();
        let sent = Held { id: sending.id, promoted_from: sending.promoted_from, ..segment(backup, base) };
        let mut backups = self.there.backups.clone();
        backups.retain(|held| held.origin != sending.origin);
        for other in backups.iter_mut().filter(|other| other.id == sent.id) {
            other.id = retention::free_id(other.id, |id| *id == sent.id);
        }
        backups.push(sent);
        let left = self.there.remnants.iter().cloned().chain(self.there.backups.iter().map(Remnant::of));
        self.there.remnants = remnants(&backups, left);
        self.there.backups = backups;
    }

    /// Every kept backup can be had, and nothing lies there for nobody.
    fn check(&self) -> Result<(), TestCaseError> {
        let chains = self.there.chains();
        prop_assert!(chains.unsound().is_empty(), "{:?}", chains.unsound());
        let mut used = BTreeSet::new();
        for held in &self.there.backups {
            let steps = chains.steps(held.origin, &name());
            prop_assert!(steps.as_ref().is_some_and(|steps| steps[0].base().is_none()), "{:?}", held.id);
            used.extend(steps.unwrap().iter().map(|step| step.origin));
        }
        for left in &self.there.remnants {
            prop_assert!(used.contains(&left.origin), "nobody stands on {:?}", left.origin);
        }
        let ids = |ids: Vec<_>| ids.into_iter().collect::<BTreeSet<_>>();
        let there = ids(self.there.backups.iter().map(|held| held.id).collect());
        prop_assert_eq!(there, ids(self.here.iter().map(|backup| backup.id).collect()));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Rotation, deletions, damage and runs that are collapsed, in any order.
    #[test]
    fn every_backup_can_be_had_at_any_time(steps in proptest::collection::vec((0_u8..10, 0_usize..1000), 1..90)) {
        let mut model = Model { here: Vec::new(), there: catalog(), known: BTreeSet::new() };
        let mut number = 0;
        for (what, which) in steps {
            match what {
                0..=5 => {
                    for _ in 0..=which % 3 {
                        number += 1;
                        model.here.push(backup(number, Tier::Daily, day(number)));
                        let rotation = retention::plan(&model.here, &Retention::default(), None);
                        apply(&mut model.here, &rotation);
                    }
                }
                6 if model.here.len() > 1 => drop(model.here.remove(which % model.here.len())),
                7 if !model.there.backups.is_empty() => {
                    let at = which % model.there.backups.len();
                    model.there.backups[at].damaged = true;
                    if which % 2 == 0 {
                        damage(&mut model.there.backups[at].databases);
                    }
                }
                8 if !model.there.remnants.is_empty() => {
                    let at = which % model.there.remnants.len();
                    damage(&mut model.there.remnants[at].databases);
                }
                9 if !model.there.backups.is_empty() => {
                    let Held { origin, id, promoted_from, .. } = model.there.backups[which % model.there.backups.len()];
                    if model.here.iter().any(|backup| Origin::of(backup) == origin) {
                        model.send(Sending { origin, id, promoted_from });
                    }
                }
                _ => {}
            }
            model.sync();
            model.check()?;
        }
    }
}
