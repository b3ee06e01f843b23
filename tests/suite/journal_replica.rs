//! The journal in a replica: with the machine gone, any second comes back from there, seconds before the end; what nobody sent is no
//! instant; and what lies there is nobody's to read.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use attendance_backup::journal::timeline::Gap;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::client::Server;
use crate::harness::{Place, eventually, kill, sql_on};
use crate::journal_live::{Stamper, Stamps, now, seconds, stamps, ticked, timeline};
use crate::replica_scene::{Clock, OFFSITE, TIMEOUT, empty_machine, told};
use crate::stores::Store;

/// A place whose journal goes to that store, encrypted.
pub fn shipping(store: &Store) -> Place {
    let mut place = Place::new();
    place.keyed();
    place.set("BACKUP_PITR", "true").set("BACKUP_PITR_INTERVAL", "500ms");
    place.replica(OFFSITE, store).set(TIMEOUT, "1m");
    for name in ["attendance", "auth"] {
        place.sql(name, "CREATE TABLE stamps (n INTEGER, filler TEXT)");
    }
    place
}

/// Until when the replica has the journal.
pub fn until(place: &Place) -> Option<DateTime<Utc>> {
    told(place)["journal"]["until"].as_str().map(|text| text.parse().unwrap())
}

/// A number in both databases, in the replica; when that was so.
pub fn number(place: &Place, number: u64) -> DateTime<Utc> {
    for name in ["attendance", "auth"] {
        place.sql(name, &format!("INSERT INTO stamps VALUES ({number}, hex(randomblob(300)))"));
    }
    let at = ticked(place);
    eventually("it is sent", || until(place).filter(|until| *until >= at));
    at
}

pub fn text(at: DateTime<Utc>) -> String {
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

/// It is refused there, saying all that.
#[track_caller]
pub fn refused_at(machine: &Place, at: DateTime<Utc>, words: &[&str]) {
    let at = text(at);
    machine.run(&["restore", "--from", "offsite", "--at", &at, "--confirm", &at]).refused(1, words);
}

/// What was restored is an instant of both databases, not after `at`, and no older than ticks are apart.
#[track_caller]
pub fn assert_was(stamps: &Stamps, [first, second]: [u64; 2], at: DateTime<Utc>) {
    assert!(second == first || second + 1 == first, "{first} and {second} at {at}: no instant of both");
    let begun = stamps.get(&("begun".to_owned(), first)).copied().unwrap_or_default();
    assert!(begun <= seconds(at), "{first} was begun after {at}");
    let there = |((name, _), done): &(&(String, u64), &f64)| name == "first" && **done <= seconds(at) - 3.5;
    let earlier = stamps.iter().filter(there).map(|((_, number), _)| *number).max().unwrap_or_default();
    assert!(earlier <= first, "{first} at {at}, though {earlier} was there long before");
}

pub type Span = (DateTime<Utc>, DateTime<Utc>);

/// What the replica says of itself: from when to when, and the gaps.
pub fn window(machine: &Place) -> (DateTime<Utc>, DateTime<Utc>, Vec<Span>) {
    let journal = machine.json(&["replica", "list", "offsite"])["journal"].clone();
    let at = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let gaps = journal["gaps"].as_array().unwrap().iter().map(|gap| (at(&gap["from"]), at(&gap["to"]))).collect();
    (at(&journal["from"]), at(&journal["to"]), gaps)
}

/// It has none there that isn't one here: there is one where a machine had no time for some ticks.
#[track_caller]
pub fn assert_none_of_its_own(gaps: &[Span], mut here: Vec<Gap>) {
    here.sort_by_key(|gap| gap.from);
    for (from, to) in gaps {
        let unknown = here.iter().fold(*from, |at, gap| if gap.from <= at { at.max(gap.to) } else { at });
        assert!(*to <= unknown, "{from} to {to} is known here: {here:?}");
    }
}

/// So many instants, from the first to the last: each comes back there, unless it lies in a gap.
#[track_caller]
pub fn assert_each_comes_back(
    machine: &Place,
    stamps: &Stamps,
    (from, to, gaps): (DateTime<Utc>, DateTime<Utc>, &[Span]),
    steps: i32,
) {
    for step in 0..=steps {
        let at = DateTime::from_timestamp_millis((from + (to - from) * step / steps).timestamp_millis()).unwrap();
        match gaps.iter().find(|(from, to)| *from < at && at < *to) {
            Some((before, after)) => refused_at(machine, at, &[&text(*before), &text(*after)]),
            None if at >= from => assert_was(stamps, numbers_at(machine, at), at),
            None => {}
        }
    }
}

pub fn kill_server(mut server: Server) {
    kill(&mut server.child);
}

pub fn packs_of(store: &Store, part: &str) -> Vec<String> {
    journal_keys(store).into_iter().filter(|key| key.contains(part)).collect()
}

/// Whether that instant can't be had without that object. What was sent later in larger steps may stand for it.
pub fn is_needed(store: &Store, place: &Place, key: &str, at: DateTime<Utc>) -> bool {
    let (whole, at) = (store.objects.get(key).unwrap(), text(at));
    store.objects.put(key, b"");
    let run = empty_machine(place, store).run(&["restore", "--from", "offsite", "--at", &at, "--confirm", &at]);
    store.objects.put(key, &whole);
    run.code == 1
}

pub fn journal_keys(store: &Store) -> Vec<String> {
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
        // A round takes five seconds, and a tick half of one. The machine may have no time for one, and has for the next.
        let sent = eventually("it is seconds behind, and stays so", || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(14) {
                std::thread::sleep(Duration::from_millis(500));
                until(&place).filter(|until| now() - until < TimeDelta::seconds(12))?;
            }
            until(&place)
        });
        assert_eq!(told(&place)["journal"]["lastError"], Value::Null);
        kill_server(server);
        drop(app);
        let (stamps, here) = (stamps(&log), timeline(&place).gaps);
        std::fs::remove_dir_all(place.backups()).unwrap();
        let machine = empty_machine(&place, &store);
        let (_, until, gaps) = window(&machine);
        assert_none_of_its_own(&gaps, here);
        assert!(until >= from && until >= sent, "{until} is before {sent}");
        assert_each_comes_back(&machine, &stamps, (from, until, &gaps), 4);
        refused_at(&machine, until + TimeDelta::seconds(1), &[&text(until), "can't be restored"]);
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

/// With `age`, `zstd`, `tar` and litestream alone.
#[test]
fn standard_tools_get_it_back() {
    let store = Store::folder();
    let place = shipping(&store);
    let server = Server::start(&place);
    let mut seen = Vec::new();
    for n in 1..=4 {
        number(&place, n);
        seen.push((now(), crate::journal_live::live(&place, "attendance")));
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_server(server);
    let (out, identity) = (place.path("out"), place.path(crate::forms::IDENTITY));
    let lineage = journal_keys(&store)[0].split('/').nth(1).unwrap().to_owned();
    let folder = store.objects.path(&format!("journal/{lineage}/attendance"));
    let script = r#"set -e
        mkdir "$1"
        for pack in "$2"/*/*.tar.zst.age; do age -d -i "$3" "$pack" | zstd -d | tar x -C "$1"; done"#;
    let unpacked =
        Command::new("bash").args(["-c", script, "-"]).arg(&out).arg(&folder).arg(&identity).output().unwrap();
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    for (n, (at, bytes)) in seen.into_iter().enumerate() {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/litestream");
        let target = place.path("litestream.db");
        let _ = std::fs::remove_file(&target);
        let mut command = Command::new(program);
        command.args(["restore", "-o"]).arg(&target);
        // litestream knows of no time after the last file.
        if n < 3 {
            command.args(["-timestamp", &text(at)]);
        }
        let restored = command.arg(format!("file://{}", out.join("attendance").display())).output().unwrap();
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        assert!(std::fs::read(&target).unwrap() == bytes, "at {at}");
    }
}

/// Of an hour that is over the packs of seconds become one, and every second of it is still there.
#[test]
fn the_packs_of_a_past_hour_are_joined() {
    let store = Store::folder();
    let place = shipping(&store);
    let server = Server::start(&place);
    let seen: Vec<_> = (1..=4).map(|n| (n, number(&place, n))).collect();
    kill_server(server);
    let of_level_0 =
        || journal_keys(&store).into_iter().filter(|key| key.contains("/attendance/0/")).collect::<Vec<_>>();
    let before = of_level_0();
    assert!(before.len() >= 3, "{before:?}");
    let mut command = place.command(&["serve"]);
    let clock = Clock::of(&place, command.env("BACKUP_ENABLED", "false"));
    clock.put_on(2 * 3600);
    let server = Server::of(&mut command, place.path("serve.log"));
    eventually("they are joined", || before.iter().any(|key| !of_level_0().contains(key)).then_some(()));
    eventually("the small ones have gone", || before[1..].iter().all(|key| !of_level_0().contains(key)).then_some(()));
    kill_server(server);
    let machine = empty_machine(&place, &store);
    for (n, at) in seen {
        assert_eq!(numbers_at(&machine, at), [n, n]);
    }
    assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true);
}

/// What is older than the window goes there as here, and so does a lineage whose successor is older. A clock that is put on, and no more,
/// makes nothing older: what counts is what was recorded.
#[test]
fn what_is_older_than_the_window_goes_there_too() {
    let store = Store::s3();
    let mut place = shipping(&store);
    place.set("BACKUP_PITR_RETENTION", "1h").set("BACKUP_PITR_SNAPSHOT_EVERY", "1h");
    let start = |hours: u64| {
        let mut command = place.command(&["serve"]);
        let clock = Clock::of(&place, command.env("BACKUP_ENABLED", "false"));
        clock.put_on(hours * 3600);
        Server::of(&mut command, place.path("serve.log"))
    };
    // A journal that was lost, and another.
    let server = start(0);
    eventually("the first is there", || until(&place));
    kill_server(server);
    std::fs::remove_dir_all(place.backups().join("journal")).unwrap();
    let server = start(0);
    let lost = eventually("another is begun", || {
        let journals = store.objects.catalog()?["journals"].as_array()?.clone();
        (journals.len() == 2).then(|| journals[0]["lineage"].as_str().unwrap().to_owned())
    });
    let first = number(&place, 1);
    kill_server(server);
    let server = start(2);
    let ahead = TimeDelta::hours(2);
    for name in ["attendance", "auth"] {
        place.sql(name, "INSERT INTO stamps VALUES (2, '')");
    }
    // An instant between the two would have it in one alone.
    let since = now() + ahead;
    let second = eventually("it is sent", || until(&place).filter(|until| *until > since));
    let snapshots =
        || journal_keys(&store).into_iter().filter(|key| key.contains("/9/") && !key.contains(&lost)).count();
    eventually("a snapshot of it is sent", || (snapshots() == 4).then_some(()));
    kill_server(server);
    for hours in [4, 6] {
        let server = start(hours);
        eventually("a tick", || {
            timeline(&place).alive.filter(|alive| *alive > now() + TimeDelta::hours(hours as i64 - 1))
        });
        std::thread::sleep(Duration::from_secs(6));
        kill_server(server);
    }
    let server = start(1000);
    eventually("a tick", || timeline(&place).alive.filter(|at| *at > now() + TimeDelta::days(40)));
    std::thread::sleep(Duration::from_secs(6));
    // One that was under way when `serve` was killed is put away, and sent again.
    eventually("all four are there", || (snapshots() == 4).then_some(()));
    kill_server(server);
    let machine = empty_machine(&place, &store);
    for (number, at) in [(1, first), (2, second)] {
        assert_eq!(numbers_at(&machine, at), [number, number], "{:?}", journal_keys(&store));
    }
    let before = journal_keys(&store);
    let (mut third, mut seen) = (None, BTreeSet::new());
    for (hours, snapshots) in [(1002, 2), (1004, 4), (1006, 6)] {
        let server = start(hours);
        let ahead = TimeDelta::hours(hours as i64);
        for name in ["attendance", "auth"] {
            place.sql(name, &format!("INSERT INTO stamps VALUES ({hours}, '')"));
        }
        let since = now() + ahead;
        let sent = eventually("it is sent", || until(&place).filter(|until| *until > since));
        third = third.or(Some(sent));
        let newest = |key: &String| key.contains("/9/") && !before.contains(key);
        eventually("a snapshot of it is sent", || {
            seen.extend(journal_keys(&store).into_iter().filter(newest));
            (seen.len() >= snapshots).then_some(())
        });
        std::thread::sleep(Duration::from_secs(6));
        kill_server(server);
    }
    let server = start(1040);
    eventually("the older snapshots go", || (snapshots() == 6).then_some(()));
    eventually("the lost one goes", || journal_keys(&store).iter().all(|key| !key.contains(&lost)).then_some(()));
    kill_server(server);
    assert_eq!(store.objects.catalog().unwrap()["journals"].as_array().unwrap().len(), 1);
    let machine = empty_machine(&place, &store);
    for gone in [first, second] {
        refused_at(&machine, gone, &["the journal reaches from"]);
    }
    assert_eq!(numbers_at(&machine, third.unwrap()), [1002, 1002]);
    assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true);
}

#[test]
fn what_is_missing_is_said() {
    let store = Store::folder();
    let mut place = Place::new();
    place.keyed();
    place.replica(OFFSITE, &store);
    let mut machine = empty_machine(&place, &store);
    refused_at(&machine, now(), &["holds no backup that could be taken"]);
    place.create();
    place.ok(&["replica", "push", "offsite"]);
    assert_eq!(machine.json(&["replica", "list", "offsite"])["journal"], Value::Null);
    refused_at(&machine, now(), &["no journal lies in the replica `offsite`", "BACKUP_PITR=true"]);
    assert_eq!(told(&place)["journal"], Value::Null);
    place.set("BACKUP_PITR", "true").set("BACKUP_PITR_INTERVAL", "500ms");
    for name in ["attendance", "auth"] {
        place.sql(name, "CREATE TABLE stamps (n INTEGER, filler TEXT)");
    }
    let server = Server::start(&place);
    let at = number(&place, 1);
    kill_server(server);
    machine.forgets_its_identity();
    refused_at(&machine, at, &["is encrypted, and no identity at hand opens it", "BACKUP_ENCRYPTION_IDENTITY_FILE"]);
    let listed = machine.json(&["replica", "list", "offsite"]);
    assert!(listed["journal"].is_null() && listed["backups"].as_array().unwrap().len() == 1, "{listed}");
    let verified = place.forgets_its_identity().json(&["replica", "verify", "offsite"]);
    assert!(verified["ok"] == true && verified["journal"]["ciphertextOnly"] == true, "{verified}");
    let time = text(at);
    let run = machine.run(&["restore", "latest", "--from", "offsite", "--at", &time, "--confirm", &time]);
    run.refused(2, &["cannot be used with"]);
    machine.run(&["restore", "--from", "offsite", "--at", &time]).refused(2, &["nothing was changed", "--confirm"]);
}
