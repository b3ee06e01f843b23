//! The journal here goes bad before it is sent: what is damaged isn't sent for whole, and what is whole and not the one that was written
//! is found out by whoever brings it back.

use std::path::Path;

use attendance_backup::journal::folder::folder;
use attendance_backup::journal::timeline::Gap;
use attendance_backup::journal::{FileName, Level, LtxFile, Point, Txid};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::client::Server;
use crate::damage::flip;
use crate::harness::{Place, eventually};
use crate::journal_live::{index, ticked, timeline};
use crate::journal_replica::{
    assert_none_of_its_own, is_needed, kill_server, number, numbers_at, packs_of, refused_at, shipping, text, until,
    window,
};
use crate::journal_states::falsify;
use crate::replica_scene::{Clock, empty_machine};
use crate::stores::Store;
use crate::together::signal;

/// Numbers from `first` on, until one wasn't sent yet, nor is on its way: its file of `attendance` is spoiled. Which, and when that was.
fn spoiled(place: &Place, store: &Store, server: &Server, first: u64, spoil: impl Fn(&Path)) -> (u64, DateTime<Utc>) {
    for n in first.. {
        for name in ["attendance", "auth"] {
            place.sql(name, &format!("INSERT INTO stamps VALUES ({n}, '')"));
        }
        let at = ticked(place);
        signal(server.child.id(), "-STOP");
        let state = newest(place).max;
        let is_sent =
            packs_of(store, "/attendance/").into_iter().chain(sending(place)).any(|key| last_state(&key) >= state);
        if !is_sent {
            spoil(&newest(place).path(&folder(&place.backups(), &"attendance".parse().unwrap())));
        }
        signal(server.child.id(), "-CONT");
        if !is_sent {
            return (n, at);
        }
    }
    unreachable!("each was sent at once")
}

/// The packs of `attendance` that may be under way.
fn sending(place: &Place) -> Vec<String> {
    let remembered = std::fs::read(place.backups().join("replicas/offsite-journal.json")).unwrap();
    let remembered: Value = serde_json::from_slice(&remembered).unwrap();
    let keys = remembered["sending"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned());
    keys.filter(|key| key.contains("/attendance/")).collect()
}

/// The last state in a pack.
fn last_state(key: &str) -> Txid {
    let name = key.rsplit('/').next().unwrap().trim_start_matches('.');
    Txid::new(u64::from_str_radix(&name[17..33], 16).unwrap()).unwrap()
}

fn newest(place: &Place) -> FileName {
    index(place, "attendance").level(Level::CAPTURED).last().unwrap().name
}

/// That one was found wrong, there as here, and nothing else is unknown there alone.
#[track_caller]
fn assert_only_wrong(machine: &Place, place: &Place, gap: &Gap) {
    let listed = machine.json(&["replica", "list", "offsite"])["journal"]["gaps"].clone();
    let wrong: Vec<_> = listed.as_array().unwrap().iter().filter(|gap| gap["wrong"] == true).collect();
    assert_eq!(wrong, [&json!({ "from": text(gap.from), "to": text(gap.to), "wrong": true })]);
    assert_none_of_its_own(&window(machine).2, timeline(place).gaps);
}

#[test]
fn a_damaged_file_is_not_sent_and_the_journal_begins_anew() {
    let store = Store::folder();
    let place = shipping(&store);
    let server = Server::start(&place);
    let first = number(&place, 1);
    let (n, lost) = spoiled(&place, &store, &server, 2, |path| flip(path, |len| len / 2));
    let wrong = eventually("it is told", || place.audit().into_iter().find(|line| line["code"] == "journal-wrong"));
    assert!(wrong["reason"].as_str().unwrap().contains("is damaged"), "{wrong}");
    eventually("that it is seen to", || (!place.backups().join("journal/wrong").exists()).then_some(()));
    let last = number(&place, n + 1);
    kill_server(server);
    let gap = timeline(&place).gaps.into_iter().find(|gap| gap.holds(lost)).unwrap();
    let machine = empty_machine(&place, &store);
    refused_at(&machine, lost, &[&text(gap.to)]);
    assert!(first <= gap.from, "what was before it is right: {gap:?}");
    // It is known there too for how long the state before was the newest.
    assert_only_wrong(&machine, &place, &gap);
    assert_eq!(numbers_at(&machine, gap.from)[0], n - 1);
    assert_eq!(numbers_at(&machine, last), [n + 1, n + 1]);
    let verified = machine.json(&["replica", "verify", "offsite"]);
    assert_eq!(verified["ok"], true, "{verified}");
}

/// What was sent goes bad there, and so does the file here that it could be sent again from.
#[test]
fn what_is_damaged_there_and_here_is_a_gap() {
    let (store, place, seen, last) = (0..5)
        .find_map(|_| {
            let store = Store::s3();
            let place = shipping(&store);
            let server = Server::start(&place);
            let seen = [1, 2, 3].map(|n| number(&place, n));
            kill_server(server);
            let last = packs_of(&store, "/attendance/0/").pop().unwrap();
            is_needed(&store, &place, &last, seen[2]).then_some((store, place, seen, last))
        })
        .expect("a pack without which there is no such instant");
    let last = &last;
    let mut bytes = store.objects.get(last).unwrap();
    let middle = bytes.len() - 40;
    bytes[middle] ^= 1;
    store.objects.put(last, &bytes);
    let journal = folder(&place.backups(), &"attendance".parse().unwrap());
    // What is joined holds it too.
    let holds_it = |name: &FileName| name.level != Level::SNAPSHOT && name.max == newest(&place).max;
    let files = index(&place, "attendance");
    files.files().map(|file| file.name).filter(holds_it).for_each(|name| flip(&name.path(&journal), |len| len / 2));
    let verified = place.run(&["replica", "verify", "offsite"]);
    assert!(verified.code == 1 && (verified.stdout + &verified.stderr).contains(last.as_str()));
    let server = Server::start(&place);
    let gap = eventually("the gap", || timeline(&place).gaps.into_iter().find(|gap| gap.holds(seen[2])));
    // It is known there before what is damaged goes: nothing may come after that.
    eventually("what is damaged goes", || store.objects.get(last).is_none().then_some(()));
    kill_server(server);
    let machine = empty_machine(&place, &store);
    assert_only_wrong(&machine, &place, &gap);
    assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true);
    let server = Server::start(&place);
    let fourth = number(&place, 4);
    eventually("all that is left there is whole", || {
        place.run(&["replica", "verify", "offsite"]).code.eq(&0).then_some(())
    });
    kill_server(server);
    assert!(gap.wrong && seen[1] <= gap.from, "what was before it is right: {gap:?}");
    let machine = empty_machine(&place, &store);
    assert_only_wrong(&machine, &place, &gap);
    refused_at(&machine, seen[2], &[&text(gap.to)]);
    assert_eq!(numbers_at(&machine, seen[1]), [2, 2]);
    assert_eq!(numbers_at(&machine, fourth), [4, 4]);
}

/// A snapshot in the midst of the pack stands for the damaged file: nothing begins anew here, and what follows in that pack is whole.
#[test]
fn what_is_damaged_there_and_here_before_a_snapshot_is_a_gap_up_to_that() {
    let store = Store::folder();
    let mut place = shipping(&store);
    place.set("BACKUP_PITR_SNAPSHOT_EVERY", "1h");
    let start = |hours: u64, sends: bool| {
        let mut command = place.command(&["serve"]);
        Clock::of(&place, command.env("BACKUP_ENABLED", "false")).put_on(hours * 3600);
        for (name, _) in place.environment().iter().filter(|(name, _)| !sends && name.starts_with("BACKUP_REPLICA_")) {
            command.env_remove(name);
        }
        Server::of(&mut command, place.path("serve.log"))
    };
    let server = start(0, true);
    number(&place, 1);
    kill_server(server);
    // All that is captured meanwhile is sent at once.
    let server = start(0, false);
    // What comes before the first tick is in a new snapshot.
    ticked(&place);
    let captured = || index(&place, "attendance").level(Level::CAPTURED).to_vec();
    let snapshot = || *index(&place, "attendance").level(Level::SNAPSHOT).last().unwrap();
    let state = || index(&place, "attendance").last().unwrap().txid;
    let capture = |n: u64| {
        let before = state();
        for name in ["attendance", "auth"] {
            place.sql(name, &format!("INSERT INTO stamps VALUES ({n}, '')"));
        }
        eventually("it is captured", || (state() > before).then_some(()));
        let last = index(&place, "attendance").last().unwrap().at();
        eventually("it can be restored", || timeline(&place).alive.filter(|alive| Some(*alive) >= last));
    };
    let (first, sent) = (snapshot(), state());
    (2..=4).for_each(capture);
    kill_server(server);
    let server = start(2, false);
    ticked(&place);
    let mut n = 4;
    while snapshot() == first || state() <= snapshot().name.max.next() {
        n += 1;
        capture(n);
    }
    let (files, base) = (captured(), snapshot());
    let at = |file: &LtxFile| Point::from(file).at().unwrap();
    let last = files.last().unwrap();
    kill_server(server);
    let server = start(2, true);
    eventually("it is sent", || {
        packs_of(&store, "/attendance/0/").iter().any(|key| last_state(key) == newest(&place).max).then_some(())
    });
    eventually("and said", || until(&place).filter(|until| *until >= at(last)));
    kill_server(server);
    let packs = packs_of(&store, "/attendance/0/");
    let pack = packs.into_iter().find(|key| last_state(key) > base.name.max).unwrap();
    let nth = files.iter().position(|file| file.name.max == base.name.max).unwrap();
    let (before, lost) = (files[nth - 2], files[nth - 1]);
    assert!(lost.name.max > sent, "it is in that pack");
    let mut bytes = store.objects.get(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.objects.put(&pack, &bytes);
    flip(&lost.name.path(&folder(&place.backups(), &"attendance".parse().unwrap())), |len| len / 2);
    assert_eq!(place.run(&["replica", "verify", "offsite"]).code, 1);
    let server = start(2, true);
    eventually("what is damaged goes", || store.objects.get(&pack).is_none().then_some(()));
    kill_server(server);
    let machine = empty_machine(&place, &store);
    assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true);
    let gap = (at(&lost) - TimeDelta::milliseconds(1), at(&base));
    let gaps = window(&machine).2;
    assert!(gaps.contains(&gap), "{gap:?}: {gaps:?}");
    refused_at(&machine, at(&lost), &[&text(gap.0), &text(gap.1)]);
    for file in [&before, &base, last] {
        let number = n - (newest(&place).max.get() - file.name.max.get());
        assert_eq!(numbers_at(&machine, at(file))[0], number, "{file:?}");
    }
}

#[test]
fn a_whole_file_that_is_not_the_one_that_was_written_is_found_out_there_too() {
    let store = Store::folder();
    let place = shipping(&store);
    let server = Server::start(&place);
    let first = number(&place, 1);
    let (_, changed) = spoiled(&place, &store, &server, 2, falsify);
    eventually("it is sent", || until(&place).filter(|until| *until >= changed));
    kill_server(server);
    let machine = empty_machine(&place, &store);
    assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true, "each file is whole");
    refused_at(&machine, changed, &["don't come to what the database was", "choose another instant, or a backup"]);
    assert!(!machine.live("attendance").exists() && !machine.backups().join("restoring").exists());
    assert_eq!(numbers_at(&machine, first), [1, 1]);
}
