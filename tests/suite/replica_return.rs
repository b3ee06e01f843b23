//! Coming back over a bad network, and from a store that has gone bad: it is tried again, and what can't be had is told; nothing
//! half comes in, and no live data is touched.

use crate::client::Server;
use crate::fault::{Fault, Reply, When};
use crate::harness::{Place, Run, dump, eventually};
use crate::inject::Spot;
use crate::proxy::Proxy;
use crate::replica_scene::{PUSH, TIMEOUT, another, empty_machine, in_rows, push, pushes, with_replica};
use crate::scene::Context;
use crate::stores::Store;

const RESTORE: [&str; 6] = ["restore", "latest", "--from", "offsite", "--confirm", "latest"];

/// With bodies that are long enough to break off within.
fn scene() -> (Place, Store, Proxy) {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    place.sql("attendance", "CREATE TABLE blobs (bytes); INSERT INTO blobs VALUES (randomblob(300000))");
    place.create();
    another(&place);
    pushes(&place, &store);
    (place, store, proxy)
}

/// Faults of what is read; `down` bytes come down each time.
fn faults(down: u64) -> Vec<(&'static str, Fault)> {
    vec![
        ("nobody answers", Fault::Silence),
        ("it stalls", Fault::StallDown(down)),
        ("it is reset", Fault::ResetDown(down)),
        ("it is cut short", Fault::CutDown(down)),
        ("the answer is lost", Fault::Lost),
        ("500", Fault::error(500, "InternalError")),
        ("503", Fault::error(503, "SlowDown")),
        ("429", Fault::error(429, "TooManyRequests")),
    ]
}

/// Each fault of an object, and of one other thing that is read.
fn cases(down: u64) -> Vec<(&'static str, &'static str, Fault)> {
    let others = ["catalog/0", "entry.json", "list-type"].into_iter().cycle();
    let of_others = faults(down.min(40)).into_iter().zip(others).map(|((name, fault), part)| (name, part, fault));
    faults(down).into_iter().map(|(name, fault)| (name, "attendance.db", fault)).chain(of_others).collect()
}

#[test]
fn what_passes_by_is_not_noticed() {
    let (place, store, proxy) = scene();
    let live = dump(&place.live("attendance"), false);
    for (name, part, fault) in cases(70_000) {
        let context = Context(format!("{name}: {part}"));
        let mut machine = empty_machine(&place, &store);
        // The next try is to go well.
        machine.set(TIMEOUT, fault.timeout("5s"));
        proxy.spoil(When::of("GET", part).once(), fault);
        machine.ok(&RESTORE);
        proxy.heal();
        assert_eq!(dump(&machine.live("attendance"), false), live);
        machine.assert_whole();
        drop(context);
    }
}

#[test]
fn what_goes_on_is_told_and_leaves_nothing_behind() {
    in_rows(cases(0), |cases| {
        let (place, store, proxy) = scene();
        let live = dump(&place.live("attendance"), false);
        for (name, part, fault) in cases {
            let context = Context(format!("{name}: {part}"));
            let timeout = fault.timeout("500ms");
            proxy.spoil(When::of("GET", part), fault);
            let machine = empty_machine(&place, &store);
            let run = |at: &Place, args: &[&str]| Run::of(at.command(args).env(TIMEOUT, timeout).output().unwrap());
            run(&machine, &RESTORE).refused(1, &["offsite"]);
            assert!(!machine.live("attendance").exists() && !machine.live("auth").exists());
            // Where there is an app it goes on, with what it has.
            run(&place, &["replica", "verify", "offsite"]).refused(1, &["offsite"]);
            proxy.heal();
            assert_eq!(dump(&place.live("attendance"), false), live);
            machine.ok(&RESTORE);
            machine.assert_whole();
            drop(context);
        }
        assert_eq!(place.json(&["status"])["replicas"][0]["damaged"], 0, "what can't be reached isn't damaged");
        place.assert_whole();
    });
}

/// A new machine whose variables say less, or nothing, keeps what was kept; but what somebody has said there counts.
#[test]
fn what_begins_from_a_replica_keeps_no_fewer() {
    let store = Store::folder();
    let mut place = with_replica(&store);
    place.set("BACKUP_RETENTION_MANUAL", "12");
    place.ok(&["config", "--set", "retention.daily=30"]);
    for _ in 0..12 {
        another(&place);
    }
    pushes(&place, &store);
    let (machine, said) = (empty_machine(&place, &store), empty_machine(&place, &store));
    said.ok(&["config", "--set", "retention.manual=11"]);
    for (at, manual) in [(&machine, 12), (&said, 11)] {
        at.ok(&["replica", "pull", "offsite", "--all"]);
        let config = at.json(&["config"]);
        assert_eq!(
            (&config["retention"]["daily"], &config["retention"]["manual"]),
            (&30.into(), &manual.into()),
            "{config}"
        );
        assert_eq!(
            (&config["sources"]["retention.daily"], &config["retention"]["weekly"]),
            (&"saved".into(), &4.into())
        );
        at.ok(&RESTORE);
        at.create();
        assert_eq!(at.ids().iter().filter(|id| id.starts_with("manual-")).count(), manual);
        at.assert_whole();
    }
}

/// What was saved can't be read for a moment: nothing goes there by the numbers that count without it.
#[test]
fn where_settings_can_not_be_read_nothing_is_dropped_by_others() {
    let store = Store::folder();
    let mut place = with_replica(&store);
    place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_RETENTION_MONTHLY", "120");
    place.ok(&["config", "--set", "retention.manual=8"]);
    for _ in 0..6 {
        another(&place);
    }
    place.ok(&PUSH);
    another(&place);
    let read = Spot::on("openat", "settings.json");
    let failed = (1..30).take_while(|n| {
        let run = Run::of(place.faulty(&read, &format!("error=EMFILE:when={n}"), &PUSH).output().unwrap());
        assert!(store.objects.held().len() >= 6, "{n}: {}", run.stderr);
        run.code != 0
    });
    assert!(failed.count() >= 2);
    assert_eq!(store.objects.held().len(), 7);
    store.objects.assert_complete(&place);
}

/// An archive that keeps more than the machine does loses nothing by a command that knows only where it is.
#[test]
fn a_push_that_was_not_told_how_much_is_kept_there_drops_nothing() {
    let store = Store::folder();
    let mut place = with_replica(&store);
    place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL", "8");
    for _ in 0..6 {
        another(&place);
        place.ok(&PUSH);
    }
    assert_eq!((place.ids().len(), store.objects.held().len()), (2, 6));
    place.unset("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL");
    another(&place);
    for more in [&[][..], &["--take-over"]] {
        place.ok(&[&PUSH, more].concat());
        assert_eq!(store.objects.held().len(), 7, "{more:?}");
    }
    // What `serve` is told counts.
    let server = Server::start(&place);
    another(&place);
    eventually("it is rotated there as here", || (store.objects.held().len() == 2).then_some(()));
    server.stop();
    place.assert_whole();
}

/// An older catalog, an older object, somebody else's page: what isn't what it should be doesn't come in.
#[test]
fn what_is_served_instead_is_not_taken() {
    let (place, store, proxy) = scene();
    let held = store.objects.held();
    let [older, newer] =
        [0, 1].map(|n| crate::objects::key_of(&held[n], "attendance", &held[n]["databases"]["attendance"]));
    for (part, body) in [
        (newer.as_str(), store.objects.get(&older).unwrap()),
        (newer.as_str(), b"<html>sign in</html>".to_vec()),
        (newer.as_str(), Vec::new()),
        ("entry.json", b"<html>sign in</html>".to_vec()),
        ("catalog/0", b"<html>sign in</html>".to_vec()),
        ("list-type", b"<html>sign in</html>".to_vec()),
        ("list-type", b"<?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>".to_vec()),
        (
            "list-type",
            b"<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".to_vec(),
        ),
    ] {
        let context = Context(format!("{part}: {:?}", String::from_utf8_lossy(&body[..body.len().min(100)])));
        proxy.spoil(When::of("GET", part), Fault::Instead(Reply::of(200, &body)));
        let machine = empty_machine(&place, &store);
        let run = machine.run(&RESTORE);
        proxy.heal();
        run.refused(1, &["offsite"]);
        assert!(!machine.live("attendance").exists() && !machine.live("auth").exists());
        machine.ok(&RESTORE);
        drop(context);
    }
}

/// A catalog older than one that was seen is no reason to send everything again, or to delete anything.
#[test]
fn a_listing_of_yesterday_deletes_nothing() {
    let (place, store, proxy) = scene();
    let before = store.objects.all();
    let nothing = b"<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    proxy.spoil(When::of("GET", "list-type"), Fault::Instead(Reply::of(200, nothing)));
    push(&place).refused(1, &["offsite"]);
    proxy.heal();
    assert!(store.objects.all() == before);
    pushes(&place, &store);
}

/// A clock that is wrong by more than a store bears is named as what it is.
#[test]
fn a_wrong_clock_is_named() {
    let store = Store::strict_s3();
    let mut place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    another(&place);
    let mut command = place.command_of("faketime");
    command.args(["-f", "+20m", crate::harness::PROGRAM, "replica", "push", "offsite"]);
    let run = Run::of(command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").output().unwrap());
    run.refused(1, &["clock"]);
    pushes(&place, &store);
    // A bucket that isn't there, too.
    place
        .unset("BACKUP_REPLICA_OFFSITE_URL")
        .set("BACKUP_REPLICA_OFFSITE_URL", &store.url.replace("school", "another"));
    push(&place).refused(1, &["another"]);
}
