use super::*;
use crate::backup::Tier;
use crate::backup::retention::{self, Retention};
use crate::backup::sample::{apply, backup};
use proptest::prelude::*;

pub(super) fn object(size: u64, parts: u32) -> Object {
    Object { size, checksum: "0".repeat(64), parts }
}

pub(super) fn held(backup: &Backup) -> Held {
    Held {
        origin: Origin::of(backup),
        nonce: Nonce([7; 8]),
        id: backup.id,
        local_date: backup.local_date,
        promoted_from: backup.promoted_from,
        pinned: backup.pinned,
        flags: backup.flags.clone(),
        damaged: false,
        entry: HeldEntry { encrypted: true, object: object(900, 0) },
        databases: BTreeMap::from([(
            "attendance".parse().unwrap(),
            HeldDatabase {
                form: Form::CompressedEncrypted,
                ltx: None,
                readers: None,
                damaged: false,
                object: object(9 << 20, 3),
                extra: Map::new(),
            },
        )]),
        extra: Map::new(),
    }
}

pub(super) fn day(number: u64) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 1, 1).unwrap() + chrono::Days::new(number)
}

/// What the replica holds once a plan was carried out.
fn carry_out(here: &[Backup], there: &mut Vec<Held>, known: &mut BTreeSet<Origin>, retention: &Retention, own: bool) {
    let plan = plan(here, there, Wishes { retention, own, encrypts: true, known, freeze: None });
    for Sending { origin, id, promoted_from } in plan.send {
        there.retain(|other| other.origin != origin);
        let sent = held(here.iter().find(|backup| Origin::of(backup) == origin).unwrap());
        there.push(Held { id, promoted_from, ..sent });
    }
    for amended in plan.amend {
        let held = there.iter_mut().find(|held| held.origin == amended.origin).unwrap();
        *held = amended;
    }
    there.retain(|held| !plan.drop.iter().any(|(origin, _)| *origin == held.origin));
    *known = here.iter().map(Origin::of).collect();
}

fn ids(there: &[Held]) -> BTreeSet<BackupId> {
    let ids: BTreeSet<_> = there.iter().map(|held| held.id).collect();
    assert_eq!(ids.len(), there.len(), "an id is there twice");
    ids
}

#[test]
fn keys_are_ours_only_as_they_are_printed() {
    let origin = Origin { sequence: 412, timestamp: "2026-01-08T01:00:00.412Z".parse().unwrap() };
    let name: DatabaseName = "attendance".parse().unwrap();
    let folder = Folder { origin, nonce: Nonce([0x5f, 0x0c, 0x2a, 0x9b, 0xe1, 0xd3, 0x77, 0x84]) };
    let key = folder.database(&name, Form::CompressedEncrypted, false);
    assert_eq!(key, "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db.zst.age");
    let partial = folder.database(&name, Form::Plain, false).replace("attendance.db", ".attendance.db.partial");
    for ours in
        [&key, &partial, &part(&key, 1), &folder.entry(true), &folder.entry(false), &part(&folder.entry(true), 7)]
    {
        assert!(is_ours(ours), "{ours}");
    }
    let strange = [
        "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/../../etc/passwd",
        "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db.zst.age.1",
        "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db.zst.age.00001.00001",
        "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/Attendance.db",
        "backups/20260108T010000Z-412-5f0c2a9be1d37784/attendance.db",
        "backups/20260108T010000Z-0000000412/attendance.db",
        "backups/20260108T010000Z-0000000412-5F0C2A9BE1D37784/attendance.db",
        "backups/20260108T010000Z-0000000412-+f0c2a9be1d37784/attendance.db",
        "backups/20260108T010000Z-00000000412-5f0c2a9be1d37784/attendance.db",
        "backups/20261308T010000Z-0000000412-5f0c2a9be1d37784/attendance.db",
        "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db/x",
        "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db\0",
        "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/entry.json.zst",
        "backups//attendance.db",
        "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/.holiday.jpg.partial",
        "backups/",
        "catalog/0000000001-0123456789abcdef.json",
        "holiday.jpg",
        "",
    ];
    for strange in strange {
        assert!(!is_ours(strange), "{strange}");
    }
    let key = catalog_key(42, &"ab".repeat(32));
    assert_eq!(parse_catalog_key(&key), Some((42, "abababababababab")));
    for strange in ["catalog/42-abababababababab.json", "catalog/0000000042-abababababababaB.json", "catalog/x.json"] {
        assert_eq!(parse_catalog_key(strange), None, "{strange}");
    }
}

/// With these in it.
pub(super) fn catalog_of(backups: Vec<Held>) -> ReplicaCatalog {
    ReplicaCatalog {
        version: VERSION,
        store_id: "s".to_owned(),
        generation: 1,
        written_at: "2026-01-08T01:00:00Z".parse().unwrap(),
        host: "h".to_owned(),
        retention: None,
        kept: None,
        backups,
        journals: Vec::new(),
        remnants: Vec::new(),
        extra: Map::new(),
    }
}

#[test]
fn a_catalog_is_looked_at_before_it_is_believed() {
    let good = catalog_of(vec![held(&backup(1, Tier::Daily, day(1))), held(&backup(2, Tier::Daily, day(2)))]);
    let json = serde_json::to_value(&good).unwrap();
    let read = |value: &Value| ReplicaCatalog::parse(&serde_json::to_vec(value).unwrap());
    assert_eq!(read(&json).unwrap(), good);
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 12] = [
        (|it| it["version"] = 3.into(), "format 3"),
        (|it| it["backups"][0]["id"] = "daily-../../x".into(), "no catalog"),
        (|it| it["backups"][0]["id"] = it["backups"][1]["id"].clone(), "there twice"),
        (|it| it["backups"][0]["databases"] = Value::Object(Map::new()), "has no database"),
        (
            |it| it["backups"][0]["databases"]["../x"] = it["backups"][0]["databases"]["attendance"].clone(),
            "no catalog",
        ),
        (|it| it["backups"][0]["databases"]["attendance"]["form"] = "exe".into(), "no catalog"),
        (|it| it["backups"][0]["databases"]["attendance"]["parts"] = 11.into(), "can't be"),
        (|it| it["backups"][0]["sequence"] = (1_u64 << 60).into(), "larger than any"),
        (|it| it["backups"][0]["nonce"] = "../../../../../x".into(), "no catalog"),
        (|it| it["backups"][0]["entry"]["size"] = u64::MAX.into(), "can't be"),
        (|it| it["generation"] = u64::MAX.into(), "generation"),
        (|it| it["storeId"] = "\u{1b}[2J".into(), "storeId"),
    ];
    for (change, expected) in changes {
        let mut value = json.clone();
        change(&mut value);
        let error = read(&value).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert!(ReplicaCatalog::parse(b"<html>").unwrap_err().contains("no JSON"));
}

#[test]
fn it_follows_and_sends_the_newest_first() {
    let here: Vec<_> = (1..=3).map(|number| backup(number, Tier::Daily, day(number))).collect();
    let known = BTreeSet::new();
    let wishes = Wishes { retention: &Retention::default(), own: false, encrypts: true, known: &known, freeze: None };
    let first = plan(&here, &[], wishes);
    assert_eq!(first.send.iter().map(|sending| sending.origin.sequence).collect::<Vec<_>>(), [3, 2, 1]);
    let there: Vec<_> = here.iter().map(held).collect();
    assert!(plan(&here, &there, wishes).is_empty());
}

#[test]
fn only_what_was_deleted_here_is_deleted_there() {
    let all: Vec<_> = (1..=4).map(|number| backup(number, Tier::Daily, day(number))).collect();
    let there: Vec<_> = all.iter().map(held).collect();
    let retention = Retention::default();
    let dropped = |here: &[Backup], known: &BTreeSet<Origin>| {
        let plan =
            plan(here, &there, Wishes { retention: &retention, own: false, encrypts: true, known, freeze: None });
        plan.drop.into_iter().map(|(origin, _)| origin.sequence).collect::<Vec<_>>()
    };
    let known: BTreeSet<_> = all.iter().map(Origin::of).collect();
    assert_eq!(dropped(&all[1..], &known), [1]);
    // A directory that has taken back one backup of many knows of no deletion.
    assert_eq!(dropped(&all[3..], &BTreeSet::new()), [] as [u64; 0]);
    // Nor is it the time to delete when nothing good is left here.
    assert_eq!(dropped(&[], &known), [] as [u64; 0]);
}

#[test]
fn what_was_never_here_is_rotated_all_the_same() {
    let old: Vec<_> = (1..=9).map(|number| backup(number, Tier::Daily, day(number))).collect();
    let mut there: Vec<_> = old.iter().map(held).collect();
    let here = [backup(10, Tier::Daily, day(10))];
    carry_out(&here, &mut there, &mut BTreeSet::new(), &Retention::default(), false);
    let dailies = there.iter().filter(|held| held.id.tier() == Tier::Daily).count();
    assert_eq!(dailies, 7, "{:?}", ids(&there));
    assert!(there.iter().any(|held| held.id.tier() == Tier::Weekly));
}

#[test]
fn what_is_damaged_there_is_sent_again_where_it_is_whole_here() {
    let here = [backup(1, Tier::Daily, day(1)), backup(2, Tier::Daily, day(2))];
    let mut there: Vec<_> = here.iter().map(held).collect();
    there[0].damaged = true;
    let (retention, known) = (Retention::default(), BTreeSet::new());
    let wishes = Wishes { retention: &retention, own: false, encrypts: true, known: &known, freeze: None };
    assert_eq!(plan(&here, &there, wishes).send[0].origin, Origin::of(&here[0]));
    assert!(plan(&here[1..], &there, wishes).is_empty());
    let mut damaged = here.clone();
    damaged[0].verified.ok = false;
    assert!(plan(&damaged, &there, wishes).send.is_empty());
}

/// It has the time that it would have if it were whole, whoever rotates there, and costs no good one its place.
#[test]
fn what_is_damaged_there_and_nowhere_else_goes_in_its_time() {
    let retention = Retention { manual: 3, ..Retention::default() };
    for own in [true, false] {
        let old: Vec<_> = (1..=4).map(|number| backup(number, Tier::Manual, day(number))).collect();
        let (mut there, mut known) = (old.iter().map(held).collect::<Vec<_>>(), BTreeSet::new());
        there[1..].iter_mut().for_each(|held| held.damaged = true);
        there[3].pinned = true;
        let mut here = Vec::new();
        let mut left = Vec::new();
        for number in 5..=9 {
            here.push(backup(number, Tier::Manual, day(number)));
            carry_out(&here, &mut there, &mut known, &retention, own);
            left.push(there.iter().map(|held| held.origin.sequence).filter(|it| *it < 5).collect::<Vec<_>>());
        }
        // Of the good ones the newest three, and the damaged ones as long as not three others are newer.
        assert_eq!(left, [vec![1, 2, 3, 4], vec![1, 3, 4], vec![4], vec![4], vec![4]], "{own}");
    }
}

/// While it isn't the time to drop anything good it isn't the time for them either.
#[test]
fn what_is_damaged_there_stays_while_rotation_stands_still() {
    let all: Vec<_> = (1..=9).map(|number| backup(number, Tier::Daily, day(number))).collect();
    let mut there: Vec<_> = all.iter().map(held).collect();
    there.iter_mut().for_each(|held| held.damaged = true);
    let (retention, known) = (Retention { weekly: 0, monthly: 0, ..Retention::default() }, BTreeSet::new());
    let wishes = Wishes { retention: &retention, own: true, encrypts: true, known: &known, freeze: None };
    assert_eq!(plan(&[], &there, wishes).drop.len(), 2);
    assert!(plan(&[], &there, Wishes { freeze: Some("the live data is gone"), ..wishes }).drop.is_empty());
}

#[test]
fn what_lies_there_plain_is_sent_again_once_it_can_be_encrypted() {
    let here = [backup(1, Tier::Daily, day(1))];
    let mut there: Vec<_> = here.iter().map(held).collect();
    there[0].entry.encrypted = false;
    let (retention, known) = (Retention::default(), BTreeSet::new());
    let wishes = Wishes { retention: &retention, own: false, encrypts: true, known: &known, freeze: None };
    assert_eq!(plan(&here, &there, wishes).send.len(), 1);
    assert!(plan(&[], &there, wishes).is_empty());
    assert!(plan(&here, &there, Wishes { encrypts: false, ..wishes }).is_empty());
}

#[test]
fn the_latest_is_what_somebody_wants_back() {
    let of = |number, tier| held(&backup(number, tier, day(number)));
    let mut catalog =
        catalog_of(vec![of(1, Tier::PreRestore), of(2, Tier::Daily), of(3, Tier::Manual), of(4, Tier::PreRestore)]);
    let latest = |catalog: &ReplicaCatalog, before| catalog.latest(before).map(|held| held.origin);
    let third = latest(&catalog, None).unwrap();
    assert_eq!(third.sequence, 3);
    assert_eq!(latest(&catalog, Some(third)).unwrap().sequence, 2);
    catalog.backups.retain(|held| held.id.tier() == Tier::PreRestore);
    assert_eq!(latest(&catalog, None).unwrap().sequence, 4);
}

/// Else what is numbered by it would be taken for no number of ours in its turn.
#[test]
fn a_number_far_above_all_others_is_none() {
    let last = |numbers: &[u64], last| {
        let numbered = |sequence: &u64| {
            let held = held(&backup(1, Tier::Daily, day(1)));
            Held { origin: Origin { sequence: *sequence, ..held.origin }, ..held }
        };
        let backups = numbers.iter().map(numbered).collect();
        catalog_of(backups).last_sequence(last)
    };
    assert_eq!([last(&[], 0), last(&[], 9), last(&[3, 1, 412], 0), last(&[3, 1], 412)], [0, 9, 412, 412]);
    assert_eq!(last(&[412, 9_000], 10), 9_000, "what was given up when an older copy was put back");
    for forged in [1 << 21, (1 << 39) - 1, (1 << 40) - 1, MAX_NUMBER, u64::MAX] {
        let mut numbers = vec![412, forged];
        for _ in 0..3 {
            let next = last(&numbers, 0) + 1;
            assert_eq!(next, 410 + numbers.len() as u64 + 1);
            numbers.insert(0, next);
        }
    }
}

#[test]
fn an_entry_that_is_written_can_be_read() {
    let mut backup = backup(1, Tier::Daily, day(1));
    backup.findings = vec!["tables are gone (\u{1b}[2J\n…)".to_owned(), "ä".repeat(3000)];
    backup.reason = Some("one\nline".to_owned());
    let held = Held { databases: BTreeMap::new(), ..held(&backup) };
    let is_of = |entry: &ReplicaEntry| entry.is_of(&held, "s");
    let raw = ReplicaEntry {
        version: VERSION,
        store_id: "s".to_owned(),
        backup: backup.clone(),
        recipients: BTreeMap::new(),
    };
    assert!(!is_of(&raw));
    let entry = ReplicaEntry::new("s".to_owned(), backup, BTreeMap::new());
    assert!(is_of(&entry), "{entry:?}");
    assert!(!entry.is_of(&held, "another"));
}

/// An older copy of the directory was put back: what is here has lower numbers than what is there.
#[test]
fn the_newest_that_is_here_is_sent_whatever_the_numbers_there() {
    let retention = Retention { daily: 3, ..Retention::default() };
    for newest in [5, 6] {
        let mut there: Vec<_> = (4..=9).map(|number| held(&backup(number, Tier::Daily, day(number)))).collect();
        let here: Vec<_> = (4..=newest).map(|number| backup(number, Tier::Daily, day(number + 10))).collect();
        let mut known = BTreeSet::new();
        for _ in 0..2 {
            carry_out(&here, &mut there, &mut known, &retention, true);
            let dailies: BTreeSet<_> =
                there.iter().filter(|it| it.id.tier() == Tier::Daily).map(|it| it.origin).collect();
            assert!(dailies.contains(&Origin::of(here.last().unwrap())), "{:?}", ids(&there));
            assert_eq!(dailies.len(), 3, "{:?}", ids(&there));
        }
    }
}

/// Away for days, and then there is no room: nothing that is to be replaced goes first.
#[test]
fn what_is_to_be_pushed_out_makes_no_room() {
    let retention = Retention { daily: 3, weekly: 0, monthly: 0, ..Retention::default() };
    let of = |numbers: std::ops::RangeInclusive<u64>| -> Vec<_> {
        numbers.map(|number| backup(number, Tier::Daily, day(number))).collect()
    };
    let room = |here: &[Backup], there: &[Held], retention: &Retention, own: bool| {
        let known: BTreeSet<Origin> = there.iter().map(|held| held.origin).filter(|_| !own).collect();
        let plan = plan(here, there, Wishes { retention, own, encrypts: true, known: &known, freeze: None });
        let drop: BTreeSet<Origin> = plan.drop.iter().map(|(origin, _)| *origin).collect();
        assert!(plan.room.is_subset(&drop));
        plan.room.into_iter().map(|origin| origin.sequence).collect::<Vec<_>>()
    };
    let there: Vec<_> = of(1..=3).iter().map(held).collect();
    for own in [false, true] {
        assert_eq!(room(&of(4..=6), &there, &retention, own), [] as [u64; 0]);
        assert_eq!(room(&of(3..=4), &there, &Retention { daily: 2, ..retention }, own), [1]);
        assert_eq!(room(&[], &there, &Retention { daily: 2, ..retention }, own), [1]);
    }
    // By hand, all but one: the newest there stays.
    assert_eq!(room(&of(4..=4), &there, &Retention { daily: 9, ..retention }, false), [1, 2]);
}

#[test]
fn what_would_be_sent_again_and_is_overtaken_goes() {
    let here: Vec<_> = (1..=3).map(|number| backup(number, Tier::Manual, day(number))).collect();
    let mut there: Vec<_> = here.iter().map(held).collect();
    there[0].damaged = true;
    let (retention, known) = (Retention { manual: 2, ..Retention::default() }, BTreeSet::new());
    let wishes = Wishes { retention: &retention, own: true, encrypts: true, known: &known, freeze: None };
    let plan = plan(&here, &there, wishes);
    assert!(plan.send.is_empty());
    assert_eq!(plan.drop.iter().map(|(origin, _)| origin.sequence).collect::<Vec<_>>(), [1]);
}

#[test]
fn who_steps_aside_takes_nobodys_id() {
    let there = |number| held(&backup(number, Tier::Manual, day(0)));
    let id = there(1).id;
    let named = |number, id| Held { id, ..there(number) };
    // What is to go, what stays as it is, and what has just got the id of the first.
    let mut backups = [named(1, id), named(2, id.next()), named(3, id)];
    step_aside(&mut backups, |held| held.origin.sequence == 3);
    assert_eq!(backups.map(|held| held.id), [id.next().next(), id.next(), id]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// However long it was away, it ends up with what is here, under the same ids.
    #[test]
    fn it_catches_up(away in proptest::collection::vec(1_usize..30, 1..12)) {
        let retention = Retention::default();
        let (mut here, mut there, mut known) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut number = 0;
        for days in away {
            for _ in 0..days {
                number += 1;
                here.push(backup(number, Tier::Daily, day(number)));
                let rotation = retention::plan(&here, &retention, None);
                apply(&mut here, &rotation);
            }
            carry_out(&here, &mut there, &mut known, &retention, false);
            prop_assert_eq!(ids(&there), here.iter().map(|backup| backup.id).collect::<BTreeSet<_>>());
        }
    }

    /// With numbers of its own it never holds more than they say, whatever is kept here, and always the newest.
    #[test]
    fn its_own_numbers_hold(away in proptest::collection::vec(1_usize..30, 1..12), daily in 1_u32..20, weekly in 0_u32..6) {
        let retention = Retention { daily, weekly, monthly: 3, ..Retention::default() };
        let (mut here, mut there, mut known) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut number = 0;
        for days in away {
            for _ in 0..days {
                number += 1;
                here.push(backup(number, Tier::Daily, day(number)));
                let rotation = retention::plan(&here, &Retention::default(), None);
                apply(&mut here, &rotation);
            }
            carry_out(&here, &mut there, &mut known, &retention, true);
            for tier in [Tier::Daily, Tier::Weekly, Tier::Monthly] {
                let count = there.iter().filter(|held| held.id.tier() == tier).count();
                prop_assert!(count <= retention.of(tier), "{count} {tier}");
            }
            prop_assert!(there.iter().any(|held| held.origin.sequence == number));
            ids(&there);
            let (retention, own) = (&retention, true);
            let wishes = Wishes { retention, own, encrypts: true, known: &known, freeze: None };
            prop_assert_eq!(plan(&here, &there, wishes), Plan::default());
        }
    }
}
