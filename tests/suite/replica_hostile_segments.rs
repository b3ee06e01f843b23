//! An incremental replica that somebody else can write to: a segment is believed only where it is the very one that is meant, and
//! takes neither the disk nor the time whatever it says [P9].

use std::io::Write;
use std::time::Duration;

use attendance_backup::codec::Codec;
use attendance_backup::journal::Txid;
use attendance_backup::journal::ltx::{Encoder, Header};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::harness::{Place, in_time, sha256};
use crate::objects::{Objects, key_of};
use crate::replica_hostile::{forge, machine, plain_place};
use crate::replica_scene::{another, pushes};
use crate::restore_app::id;
use crate::scene::Context;
use crate::stores::Store;

/// Three backups, each on the one before, and what is said of the last one.
fn scene(store: &Store) -> (Place, Vec<Value>) {
    let mut place = plain_place(store);
    place.set("BACKUP_REPLICA_OFFSITE_MODE", "incremental");
    for _ in 0..3 {
        another(&place);
    }
    pushes(&place, store);
    (place, store.objects.held())
}

fn key(held: &Value) -> String {
    key_of(held, "auth", &held["databases"]["auth"])
}

/// In place of the last segment, and the catalog says so.
fn put(objects: &Objects, last: &Value, bytes: &[u8]) {
    objects.put(&key(last), bytes);
    forge(objects, |it| {
        let said = &mut it["backups"][2]["databases"]["auth"];
        (said["size"], said["checksum"]) = (bytes.len().into(), sha256(bytes).into());
    });
}

/// Nothing comes of the last one, which is said of that one by these words, and nothing is left.
#[track_caller]
fn comes_to_nothing(store: &Store, words: &[&str]) {
    let machine = in_time(Duration::from_secs(20), || {
        let machine = machine(store);
        let verified = machine.run(&["replica", "verify", "offsite", "--json"]);
        verified.refused(1, &[]);
        let verdict: Value = serde_json::from_str(&verified.stdout).unwrap_or_else(|_| panic!("{}", verified.stderr));
        let held = store.objects.held();
        let of = |at: usize| &verdict["backups"][id(&held[at])];
        assert!(of(0)["ok"] == true && of(1)["ok"] == true && of(2)["ok"] == false, "{verdict}");
        let reason = of(2)["reason"].as_str().unwrap();
        assert!(words.iter().all(|word| reason.contains(word)), "{words:?}: {reason}");
        let run = machine.run(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]);
        run.refused(1, words);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        machine
    });
    assert!(machine.ids().is_empty() && !machine.live("auth").exists());
    machine.assert_whole();
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let codec = Codec { level: Some(1), ..Codec::default() };
    let mut encoder = codec.encode(Vec::new(), bytes.len() as u64).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// So many MiB.
fn nothing(count: u64) -> Vec<u8> {
    let codec = Codec { level: Some(1), ..Codec::default() };
    let mut encoder = codec.encode(Vec::new(), count << 20).unwrap();
    (0..count).for_each(|_| encoder.write_all(&[0; 1 << 20]).unwrap());
    encoder.finish().unwrap()
}

/// As it has to begin, but for how many pages the database then has, of which so many are there.
fn of_pages(last: &Value, pages: u32, there: u32) -> Vec<u8> {
    let at: DateTime<Utc> = last["timestamp"].as_str().unwrap().parse().unwrap();
    let txid = Txid::new(last["sequence"].as_u64().unwrap()).unwrap();
    let millis = at.timestamp_millis().unsigned_abs();
    let header = Header { page_size: 4096, pages, min: txid, max: txid, millis };
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    (1..=there).for_each(|number| encoder.page(number, &[0; 4096]).unwrap());
    compressed(&encoder.finish().unwrap())
}

#[test]
fn forged_segments_lead_nowhere() {
    let store = Store::folder();
    let (_place, held) = scene(&store);
    let [first, second, last] = [0, 1, 2].map(|n| store.objects.get(&key(&held[n])).unwrap());
    for (name, bytes) in [
        ("the first one", first),
        ("the one before it", second),
        ("one that was cut short", last[..last.len() - 1].to_vec()),
        ("no LTX", compressed(b"holiday")),
        ("nothing", Vec::new()),
        ("more pages than any disk has", of_pages(&held[2], u32::MAX, 0)),
        ("pages that it does not have", of_pages(&held[2], 1000, 0)),
        ("pages that nobody backed up", of_pages(&held[2], 5000, 5000)),
        ("2 GiB of nothing", nothing(2048)),
    ] {
        let context = Context(name.to_owned());
        put(&store.objects, &held[2], &bytes);
        comes_to_nothing(&store, &[&key(&held[2])]);
        drop(context);
    }
    put(&store.objects, &held[2], &last);
    machine(&store).ok(&["replica", "verify", "offsite"]);
}

/// On another base it leads elsewhere.
#[test]
fn another_base_is_found_out() {
    let store = Store::folder();
    let (_place, held) = scene(&store);
    forge(&store.objects, |it| {
        let base = &mut it["backups"][2]["databases"]["auth"]["ltx"]["base"];
        (base["sequence"], base["timestamp"]) = (held[0]["sequence"].clone(), held[0]["timestamp"].clone());
    });
    comes_to_nothing(&store, &[&key(&held[2])]);
}

/// Both say what they like: what the entry says of the database counts.
#[test]
fn no_more_is_made_of_it_than_was_backed_up() {
    let store = Store::folder();
    let (_place, held) = scene(&store);
    let pages = 1 << 20;
    put(&store.objects, &held[2], &of_pages(&held[2], pages, 0));
    forge(&store.objects, |it| {
        it["backups"][2]["databases"]["auth"]["ltx"]["size"] = (u64::from(pages) << 12).into();
    });
    comes_to_nothing(&store, &["entry.json", "says what can't be"]);
}

/// Its catalog doesn't say how large the databases are.
fn forget_sizes(objects: &Objects) {
    forge(objects, |it| {
        for backup in it["backups"].as_array_mut().unwrap() {
            let databases = backup["databases"].as_object_mut().unwrap();
            databases.values_mut().for_each(|it| drop(it["ltx"].as_object_mut().unwrap().remove("size")));
        }
    });
}

/// The first programs with segments didn't say it.
#[test]
fn where_no_sizes_are_said_all_comes_back_and_no_more() {
    let store = Store::folder();
    let (_place, held) = scene(&store);
    forget_sizes(&store.objects);
    let there = machine(&store);
    there.ok(&["replica", "verify", "offsite"]);
    there.ok(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]);
    put(&store.objects, &held[2], &of_pages(&held[2], 1 << 20, 0));
    comes_to_nothing(&store, &[&key(&held[2]), "another size than was recorded"]);
}
