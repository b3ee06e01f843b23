//! One replica, one writer: another machine's backups are never overwritten, whoever wrote there last knows it, and whoever
//! takes over says so.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Server;
use crate::fault::{Fault, When};
use crate::harness::{PROGRAM, Place, Run, eventually, traces};
use crate::proxy::Proxy;
use crate::replica_scene::{PUSH, another, empty_machine, last_error, push, pushes, told, with_replica};
use crate::restore_app::id;
use crate::stores::Store;

const TAKE_OVER: [&str; 4] = ["replica", "push", "offsite", "--take-over"];

/// It is refused, under that code, and nothing there has changed.
#[track_caller]
fn is_refused(place: &Place, store: &Store, args: &[&str], code: &str, words: &[&str]) {
    let before = store.objects.all();
    place.run(args).refused(1, words);
    assert_eq!(last_error(place).as_deref(), Some(code));
    assert!(store.objects.all() == before, "something has changed there");
}

#[test]
fn another_store_s_replica_is_left_alone() {
    for store in Store::all() {
        let (first, second) = (with_replica(&store), with_replica(&store));
        first.create();
        second.create();
        pushes(&first, &store);
        let (ours, theirs) = (second.catalog()["storeId"].clone(), first.catalog()["storeId"].clone());
        let words = [ours.as_str().unwrap(), theirs.as_str().unwrap()];
        is_refused(&second, &store, &PUSH, "replica-foreign", &words);
        is_refused(&second, &store, &TAKE_OVER, "replica-foreign", &words);
        let server = Server::start(&second);
        let before = traces(&store.objects.0);
        another(&second);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(traces(&store.objects.0), before);
        server.stop();
        assert!(second.warnings().contains(&"replica-failing".to_owned()));
        pushes(&first, &store);
    }
}

/// What is taken from another store's replica comes in as manual backups, beside what is here.
#[test]
fn backups_of_another_store_can_be_brought_in() {
    let store = Store::folder();
    let (first, mut second) = (with_replica(&store), Place::new());
    let theirs = first.create();
    pushes(&first, &store);
    let ours = second.create();
    std::fs::copy(first.path("identity.txt"), second.path("identity.txt")).unwrap();
    second.set("BACKUP_ENCRYPTION_IDENTITY_FILE", second.path("identity.txt").to_str().unwrap());
    second.replica("OFFSITE", &store);
    for was_here in [false, true] {
        let pulled = second.json(&["replica", "pull", "offsite", "latest"]);
        assert_eq!((&pulled["pulled"][0]["from"], &pulled["pulled"][0]["wasHere"]), (&theirs["id"], &json!(was_here)));
    }
    let came = second.list().into_iter().find(|it| it["id"] != ours["id"]).unwrap();
    assert_eq!(
        (&came["type"], &came["databases"]["auth"]["checksum"]),
        (&json!("manual"), &theirs["databases"]["auth"]["checksum"])
    );
    second.ok(&["verify", id(&came)]);
    second.assert_whole();
}

/// A copy of a whole machine is another one: whichever of the two comes second is told.
#[test]
fn of_a_machine_and_its_copy_one_writes() {
    for store in Store::all() {
        let place = with_replica(&store);
        place.create();
        pushes(&place, &store);
        let copy = place.twin();
        let of_place = another(&place);
        pushes(&place, &store);
        let of_copy = another(&copy);
        is_refused(&copy, &store, &PUSH, "replica-taken-over", &["--take-over"]);
        copy.ok(&TAKE_OVER);
        store.objects.assert_tidy();
        assert!(store.objects.ids().contains(&id(&of_copy).to_owned()));
        let sequences: Vec<_> = store.objects.held().iter().map(|held| held["timestamp"].clone()).collect();
        assert!(sequences.contains(&of_place["timestamp"]), "what only the replica has is gone");
        is_refused(&place, &store, &PUSH, "replica-taken-over", &["--take-over"]);
        another(&copy);
        copy.ok(&PUSH);
        store.objects.assert_tidy();
    }
}

/// A push that is held up at a request until it may go on.
pub struct HeldUp {
    child: Child,
    goes_on: Arc<AtomicBool>,
}

impl HeldUp {
    /// Before the store hears of the request, or after it has done it.
    pub fn at(proxy: &Proxy, when: When, after: bool, place: &Place, args: &[&str]) -> Self {
        let (reached, goes_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (tell, released) = (reached.clone(), goes_on.clone());
        let wait = move |_: &str| {
            tell.store(true, Ordering::SeqCst);
            eventually("it goes on", || released.load(Ordering::SeqCst).then_some(()));
        };
        proxy.spoil(when.once(), if after { Fault::after(wait) } else { Fault::before(wait) });
        let child = place.command(args).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        eventually("it is held up", || reached.load(Ordering::SeqCst).then_some(()));
        Self { child, goes_on }
    }

    /// To its end.
    pub fn goes_on(self) -> Run {
        self.goes_on.store(true, Ordering::SeqCst);
        Run::of(self.child.wait_with_output().unwrap())
    }
}

/// A machine and its copy, of which the first one's replica is up to date.
fn of_two(store: &Store) -> [Place; 2] {
    let mut place = with_replica(store);
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "60s");
    place.create();
    pushes(&place, store);
    let copy = place.twin();
    [place, copy]
}

/// The schedule has both take the next backup in the same second: it has the same number, and is another. The copy has looked
/// at the replica, and is about to send, when the other one sends all of its own.
#[test]
fn a_machine_and_its_copy_on_one_schedule() {
    for args in [&PUSH[..], &TAKE_OVER] {
        let (store, proxy) = Store::s3().proxied();
        let [place, copy] = of_two(&store);
        for (machine, instant) in [(&place, "2026-03-01 03:00:00.123"), (&copy, "2026-03-01 03:00:00.456")] {
            machine.sql("attendance", "INSERT INTO people (name) VALUES (hex(randomblob(8)))");
            let mut command = machine.command_of("faketime");
            command.args(["-f", instant, PROGRAM, "create", "--type", "daily"]).env("TZ", "UTC");
            assert!(command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").status().unwrap().success());
        }
        let held_up = HeldUp::at(&proxy, When::of("PUT", "attendance.db"), false, &copy, args);
        end_lease(&store);
        let first = push(&place);
        let second = held_up.goes_on();
        store.objects.assert_true();
        assert_eq!((first.code, second.code), (0, 1), "{} {}", first.stderr, second.stderr);
        assert_eq!(last_error(&copy).as_deref(), Some("replica-taken-over"));
        copy.ok(&TAKE_OVER);
        store.objects.assert_tidy();
    }
}

/// An older copy of the directory was put back: its numbers are lower than those that it had given, and the replica keeps few.
#[test]
fn after_a_take_over_the_newest_here_is_the_newest_there() {
    for own in [false, true] {
        let store = Store::folder();
        let mut place = with_replica(&store);
        if own {
            place.set("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL", "2");
        }
        place.create();
        pushes(&place, &store);
        let copy = place.twin();
        (0..3).for_each(|_| drop(another(&place)));
        place.ok(&PUSH);
        let given_up = store.objects.held().iter().filter_map(|held| held["sequence"].as_u64()).max();
        let there = |backup: &Value| store.objects.held().iter().any(|held| held["timestamp"] == backup["timestamp"]);
        let before = another(&copy);
        assert!(before["sequence"].as_u64() < given_up);
        copy.ok(&TAKE_OVER);
        assert!(there(&before), "the newest here isn't there");
        assert_eq!(copy.catalog()["lastSequence"].as_u64(), given_up);
        let newest = another(&copy);
        copy.ok(&PUSH);
        assert!(there(&newest) && newest["sequence"].as_u64() > given_up);
        let machine = empty_machine(&copy, &store);
        machine.ok(&["replica", "pull", "offsite", "latest"]);
        assert_eq!(machine.list()[0]["timestamp"], newest["timestamp"]);
        copy.assert_whole();
    }
}

/// Whoever is held up that long has no lease any more.
fn end_lease(store: &Store) {
    std::fs::remove_file(store.objects.path("lease.json")).unwrap();
}

/// Two that write at the same time, one of them held up in the middle, by its lease or in spite of one that has ended: what both
/// have named is true, and one of them is told.
#[test]
fn of_two_that_write_at_once_one_is_told() {
    // Where the one is held up: at its first object, at its catalog, and when it has written that.
    for (part, after, ends, codes) in [
        ("attendance.db", false, false, (0, 1)),
        ("attendance.db", false, true, (1, 0)),
        // The later one finds the other's catalog beside its own, and takes its own back.
        ("catalog/", false, true, (1, 0)),
        ("catalog/", true, true, (0, 1)),
    ] {
        let (store, proxy) = Store::s3().proxied();
        let [place, copy] = of_two(&store);
        another(&place);
        another(&copy);
        let held_up = HeldUp::at(&proxy, When::of("PUT", part), after, &place, &PUSH);
        if ends {
            end_lease(&store);
        }
        let second = push(&copy);
        store.objects.assert_true();
        let first = held_up.goes_on();
        store.objects.assert_true();
        assert_eq!((first.code, second.code), codes, "{part}: {} {}", first.stderr, second.stderr);
        // Now that they know of each other, one of them is refused, and the other is complete.
        let outcomes = [push(&place), push(&copy)];
        let codes = [outcomes[0].code, outcomes[1].code];
        assert!(codes == [0, 1] || codes == [1, 0], "{codes:?}: {} {}", outcomes[0].stderr, outcomes[1].stderr);
        // What the other one sent goes with the next catalog.
        let winner = if codes[0] == 0 { &place } else { &copy };
        another(winner);
        pushes(winner, &store);
    }
}

fn lease(writer: &str, at: chrono::DateTime<chrono::Utc>, minutes: i64) -> Vec<u8> {
    let until = at + chrono::TimeDelta::minutes(minutes);
    let text = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    json!({ "storeId": "any", "writer": writer, "host": "the-other-machine", "at": text(at), "until": text(until) })
        .to_string()
        .into_bytes()
}

#[test]
fn a_lease_counts_while_it_lasts() {
    let store = Store::s3();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    let now: chrono::DateTime<chrono::Utc> = told(&place)["lastSuccess"].as_str().unwrap().parse().unwrap();
    another(&place);
    store.objects.put("lease.json", &lease("another", now, 15));
    is_refused(&place, &store, &PUSH, "replica-held", &["the-other-machine"]);
    // Over, from a clock that is far ahead, or no lease at all.
    let hours = chrono::TimeDelta::hours;
    for bytes in
        [lease("another", now - hours(1), 15), lease("another", now + hours(48), 15), b"<html>".to_vec(), Vec::new()]
    {
        another(&place);
        store.objects.put("lease.json", &bytes);
        pushes(&place, &store);
    }
}

/// Who has lost its memory of the replica, but not its store, says that it goes on.
#[test]
fn a_forgotten_state_is_no_licence() {
    let store = Store::folder();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    std::fs::remove_file(place.backups().join("replicas/offsite.json")).unwrap();
    another(&place);
    is_refused(&place, &store, &PUSH, "replica-taken-over", &["--take-over"]);
    place.ok(&TAKE_OVER);
    store.objects.assert_complete(&place);
    pushes(&place, &store);
}

/// A replica whose catalogs are gone is no empty one, and one that was emptied is no new one.
#[test]
fn a_lost_catalog_is_not_answered_by_a_new_one() {
    for store in Store::all() {
        let place = with_replica(&store);
        place.create();
        another(&place);
        pushes(&place, &store);
        for key in store.objects.keys_with("catalog/") {
            std::fs::remove_file(store.objects.path(&key)).unwrap();
        }
        is_refused(&place, &store, &PUSH, "replica-catalog-lost", &[]);
        for reader in [
            &["replica", "list", "offsite"][..],
            &["replica", "verify", "offsite"],
            &["replica", "pull", "offsite", "latest"],
        ] {
            assert_eq!(place.run(reader).code, 1);
        }
        for key in store.objects.keys() {
            std::fs::remove_file(store.objects.path(&key)).unwrap();
        }
        let refused = push(&place);
        refused.refused(1, &["--take-over"]);
        assert!(store.objects.keys().is_empty());
        place.ok(&TAKE_OVER);
        store.objects.assert_complete(&place);
    }
}

/// The newest catalog that is whole counts; one that was cut short is nothing.
#[test]
fn a_catalog_that_was_cut_short_is_passed_over() {
    let store = Store::s3();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    let (newest, _) = store.objects.catalogs().pop().unwrap();
    let bytes = store.objects.get(&newest).unwrap();
    let generation: u64 = newest["catalog/".len()..][..10].parse().unwrap();
    let torn = format!("catalog/{:010}-{}.json", generation + 1, &crate::harness::sha256(b"what it was to be")[..16]);
    store.objects.put(&torn, &bytes[..bytes.len() / 2]);
    let held: Value = place.json(&["replica", "list", "offsite"]);
    assert_eq!(held["backups"].as_array().unwrap().len(), 1);
    another(&place);
    pushes(&place, &store);
    assert!(store.objects.keys_with(&torn).is_empty());
    let machine = empty_machine(&place, &store);
    machine.ok(&["replica", "pull", "offsite", "latest"]);
}
