//! The journal in a replica: with the machine gone, any second comes back from there, seconds before the end; what nobody sent is no
//! instant; and what lies there is nobody's to read.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::client::Server;
use crate::harness::{Place, eventually, kill, sql_on};
use crate::journal_live::{Stamper, Stamps, now, seconds, stamps, ticked};
use crate::replica_scene::{OFFSITE, empty_machine, told};
use crate::stores::Store;

/// A place whose journal goes to that store, encrypted.
pub fn shipping(store: &Store) -> Place {
    let mut place = Place::new();
    place.keyed();
    place.set("BACKUP_PITR", "true").set("BACKUP_PITR_INTERVAL", "500ms");
    place.replica(OFFSITE, store).set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "5s");
    for name in ["attendance", "auth"] {
        place.sql(name, "CREATE TABLE stamps (n INTEGER, filler TEXT)");
    }
    place
}

/// Until when the replica has the journal.
pub fn until(place: &Place) -> Option<DateTime<Utc>> {
    told(place)["journal"]["until"].as_str().map(|text| text.parse().unwrap())
}

/// Waits until all that was written before is in the replica.
pub fn shipped(place: &Place) -> DateTime<Utc> {
    let at = ticked(place);
    eventually("it is sent", || until(place).filter(|until| *until >= at))
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// Restores it on that machine, and says the last number in each database.
#[track_caller]
pub fn numbers_at(machine: &Place, at: DateTime<Utc>) -> [u64; 2] {
    let at = text(at);
    let restored = machine.json(&["restore", "--from", "offsite", "--at", &at, "--confirm", &at]);
    assert_eq!(restored["at"], at, "{restored}");
    ["attendance", "auth"]
        .map(|name| sql_on(&machine.live(name), "SELECT coalesce(max(n), 0) FROM stamps").parse().unwrap())
}

/// What was restored is an instant of both databases, not after `at`, and no older than ticks are apart.
#[track_caller]
fn assert_was(stamps: &Stamps, [first, second]: [u64; 2], at: DateTime<Utc>) {
    assert!(second == first || second + 1 == first, "{first} and {second} at {at}: no instant of both");
    let begun = stamps.get(&("begun".to_owned(), first)).copied().unwrap_or_default();
    assert!(begun <= seconds(at), "{first} was begun after {at}");
    let there = |((name, _), done): &(&(String, u64), &f64)| name == "first" && **done <= seconds(at) - 3.5;
    let earlier = stamps.iter().filter(there).map(|((_, number), _)| *number).max().unwrap_or_default();
    assert!(earlier <= first, "{first} at {at}, though {earlier} was there long before");
}

fn kill_server(mut server: Server) {
    kill(&mut server.child);
}

fn journal_keys(store: &Store) -> Vec<String> {
    store.objects.keys().into_iter().filter(|key| key.starts_with("journal/")).collect()
}

#[test]
fn with_the_machine_gone_any_second_comes_back() {
    for store in [Store::s3(), Store::folder(), Store::webdav()] {
        let place = shipping(&store);
        let server = Server::start(&place);
        let app = Stamper::start(&place);
        let log = app.log.clone();
        let from = eventually("the first of it is there", || {
            told(&place)["journal"]["from"].as_str().map(|text| text.parse::<DateTime<Utc>>().unwrap())
        });
        std::thread::sleep(Duration::from_secs(14));
        // A round takes five seconds, and a tick half of one.
        let (end, until) = (now(), until(&place).unwrap());
        assert!(end - until < TimeDelta::seconds(12), "{until} is long before {end}");
        assert_eq!(told(&place)["journal"]["lastError"], Value::Null);
        kill_server(server);
        drop(app);
        let stamps = stamps(&log);
        std::fs::remove_dir_all(place.backups()).unwrap();
        let machine = empty_machine(&place, &store);
        let listed = machine.json(&["replica", "list", "offsite"]);
        assert_eq!(listed["journal"]["gaps"], serde_json::json!([]), "{listed}");
        let until: DateTime<Utc> = listed["journal"]["to"].as_str().unwrap().parse().unwrap();
        assert!(until >= from && end - until < TimeDelta::seconds(12));
        for step in 0..=4 {
            let at = from + (until - from) * step / 4;
            let at = DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap();
            assert_was(&stamps, numbers_at(&machine, at), at);
        }
        let later = text(until + TimeDelta::seconds(1));
        let run = machine.run(&["restore", "--from", "offsite", "--at", &later, "--confirm", &later]);
        run.refused(1, &[&text(until), "can't be restored"]);
        machine.assert_whole();
        let verified = machine.json(&["replica", "verify", "offsite"]);
        assert!(verified["ok"] == true && verified["journal"]["packs"].as_u64().unwrap() >= 4, "{verified}");
        // Nothing of it can be read there.
        for key in journal_keys(&store) {
            assert!(key.contains(".age"), "{key}");
            assert!(store.objects.get(&key).unwrap().starts_with(b"age-encryption.org/") || key.contains(".age.0"));
        }
    }
}
