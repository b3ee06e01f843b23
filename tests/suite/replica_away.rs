//! A running `serve` and its replicas: it sends by itself and at once, bears with a store that is away for an hour, doesn't
//! storm it, and lets none delay another or a backup.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Server;
use crate::fault::{Fault, When};
use crate::harness::{Place, eventually};
use crate::replica_scene::{Clock, Wrongs, another, told, told_of, with_replica};
use crate::scene::Context;
use crate::stores::Store;

fn catches_up(place: &Place, store: &Store) {
    let _context = Context(format!("{} and {:?}", told(place), place.ids()));
    eventually("it catches up", || {
        (told(place)["pending"] == 0 && store.objects.ids().len() == place.ids().len()).then_some(())
    });
    eventually("the last error is over", || told(place)["lastError"].is_null().then_some(()));
    eventually("the lease is given back", || store.objects.keys_with("lease").is_empty().then_some(()));
    store.objects.assert_complete(place);
}

#[test]
fn it_sends_by_itself_after_each_change() {
    for store in Store::all() {
        let place = with_replica(&store);
        let server = Server::start(&place);
        let backup = server.post("/api/backup/create").ok();
        catches_up(&place, &store);
        another(&place);
        catches_up(&place, &store);
        let id = backup["id"].as_str().unwrap();
        place.ok(&["delete", id]);
        eventually("it is gone there too", || (!store.objects.ids().contains(&id.to_owned())).then_some(()));
        catches_up(&place, &store);
        server.stop();
        place.assert_whole();
    }
}

#[test]
fn a_store_that_is_gone_for_an_hour_is_made_up_for() {
    let (store, proxy) = Store::s3().proxied();
    let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
    let place = with_replica(&store);
    let mut command = place.command(&["serve"]);
    let clock = Clock::of(&place, command.env("BACKUP_ENABLED", "false"));
    let server = Server::of(&mut command, place.path("serve.log"));
    server.post("/api/backup/create").ok();
    catches_up(&place, &store);
    proxy.go();
    for _ in 0..2 {
        let backup = server.post("/api/backup/create").ok();
        assert_eq!(backup["verified"]["ok"], true);
    }
    let error = eventually("it is told", || {
        let told = told(&place);
        told["lastError"].is_object().then(|| told.clone())
    });
    assert_eq!(error["lastError"]["code"], "replica-unreachable", "{error}");
    assert!(error["nextTry"].is_string(), "{error}");
    eventually("both are missed", || (told(&place)["pending"] == 2).then_some(()));
    place.assert_whole();
    for minutes in [2, 60] {
        let before = told(&place)["lastError"]["at"].clone();
        clock.put_on(minutes * 60);
        eventually("it is tried again", || (told(&place)["lastError"]["at"] != before).then_some(()));
    }
    assert!(place.warnings().contains(&"replica-failing".to_owned()));
    proxy.come_back();
    clock.put_on(3 * 3600);
    catches_up(&place, &store);
    wrongs.assert_none();
    let log = server.stop();
    // One line at first, and not one for each try.
    assert_eq!(log.matches("replica-unreachable").count(), 1, "{log}");
    place.assert_whole();
}

/// As long as the clock stands there is one try, whatever happens here; later there are fewer and fewer.
#[test]
fn a_store_that_has_too_much_to_do_is_not_stormed() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = with_replica(&store);
    // What is given up is asked for again.
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "60s");
    let mut command = place.command(&["serve"]);
    let clock = Clock::of(&place, command.env("BACKUP_ENABLED", "false"));
    let server = Server::of(&mut command, place.path("serve.log"));
    server.post("/api/backup/create").ok();
    catches_up(&place, &store);
    proxy.spoil(When::any(), Fault::error(503, "SlowDown"));
    proxy.forget();
    let mut since = Instant::now();
    another(&place);
    let failed = || Some(told(&place)["lastError"]["at"].clone()).filter(Value::is_string);
    let mut last = eventually("it is told", failed);
    let first = proxy.seen().len();
    assert!((1..=6).contains(&first), "{first} requests for one try");
    another(&place);
    let mut now = 0;
    // The pauses are of 1 and 2 minutes, more or less; by another clock nothing is tried for half a minute either.
    // The first pause may be of 45 seconds.
    for (too_early, seconds, time, least) in [(0, 25, 80, 45), (30, 35, 160, 90)] {
        let before = proxy.seen().len();
        clock.put_on(now + too_early);
        std::thread::sleep(Duration::from_secs(seconds));
        let is_time = since.elapsed().as_secs() + too_early >= least;
        assert!(proxy.seen().len() == before || is_time, "it is asked again before its time");
        since = Instant::now();
        now += time;
        clock.put_on(now);
        eventually("the next try", || (proxy.seen().len() >= before + first).then_some(()));
        last = eventually("it is told", || failed().filter(|at| *at != last));
    }
    proxy.heal();
    clock.put_on(now + 3600);
    catches_up(&place, &store);
}

/// Not one request of it has got anywhere when the backup is taken and the other replica has it.
#[test]
fn a_dead_replica_delays_neither_a_backup_nor_another_replica() {
    let (dead, proxy) = Store::s3().proxied();
    let store = Store::s3();
    let mut place = with_replica(&store);
    place.replica("DEAD", &dead).set("BACKUP_REPLICA_DEAD_TIMEOUT", "10m");
    let lets_through = Arc::new(AtomicBool::new(false));
    let door = lets_through.clone();
    proxy.spoil(
        When::any(),
        Fault::before(move |_| {
            while !door.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }),
    );
    let server = Server::start(&place);
    for _ in 0..3 {
        server.post("/api/backup/create").ok();
        place.create();
    }
    catches_up(&place, &store);
    assert!(!proxy.seen().is_empty() && proxy.seen().iter().all(|it| it.status.is_none()), "{:?}", proxy.seen());
    assert!(dead.objects.keys().is_empty());
    assert_eq!(told_of(&place, "dead")["pending"], 6);
    // Nor the end of the server.
    let begun = Instant::now();
    server.stop();
    // It would say nothing for ten minutes.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    lets_through.store(true, Ordering::SeqCst);
    let server = Server::start(&place);
    eventually("the other one has all too", || (told_of(&place, "dead")["pending"] == 0).then_some(()));
    eventually("its lease is given back", || dead.objects.keys_with("lease").is_empty().then_some(()));
    server.stop();
    dead.objects.assert_complete(&place);
    place.assert_whole();
}
