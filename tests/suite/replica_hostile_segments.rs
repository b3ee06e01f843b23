//! An incremental replica that somebody else can write to: a segment is believed only where it is the very one that is meant, and
//! takes neither the disk nor the time whatever it says [P9].

use std::io::Write;
use std::time::{Duration, Instant};

use attendance_backup::codec::Codec;
use attendance_backup::journal::Txid;
use attendance_backup::journal::ltx::{Encoder, Header};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::harness::{Place, sha256};
use crate::objects::{Objects, key_of};
use crate::replica_hostile::{forge, machine, plain_place};
use crate::replica_scene::{another, pushes};
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

/// Nothing comes of it, and nothing is left.
#[track_caller]
fn comes_to_nothing(store: &Store) {
    let begun = Instant::now();
    let machine = machine(store);
    machine.run(&["replica", "verify", "offsite"]).refused(1, &[]);
    let run = machine.run(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]);
    run.refused(1, &[]);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
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

/// As it has to begin, but for how many pages the database then has.
fn of_pages(last: &Value, pages: u32) -> Vec<u8> {
    let at: DateTime<Utc> = last["timestamp"].as_str().unwrap().parse().unwrap();
    let txid = Txid::new(last["sequence"].as_u64().unwrap()).unwrap();
    let millis = at.timestamp_millis().unsigned_abs();
    let header = Header { page_size: 4096, pages, min: txid, max: txid, millis };
    compressed(&Encoder::new(Vec::new(), header).unwrap().finish().unwrap())
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
        ("more pages than any disk has", of_pages(&held[2], u32::MAX)),
        ("pages that it does not have", of_pages(&held[2], 1000)),
        ("2 GiB of nothing", nothing(2048)),
    ] {
        let context = Context(name.to_owned());
        put(&store.objects, &held[2], &bytes);
        comes_to_nothing(&store);
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
    comes_to_nothing(&store);
}
