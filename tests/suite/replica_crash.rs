//! kill -9 in the middle of what has to do with a replica, again and again: whenever it strikes, the replica's catalog is
//! true, and the next push catches up and clears away what was left.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use serde_json::{Value, json};

use crate::client::Server;
use crate::fault::{Fault, When};
use crate::harness::{Place, eventually, thoroughness};
use crate::inject::spots;
use crate::proxy::Proxy;
use crate::replica_scene::{
    PULL, PUSH, Wrongs, another, comes_whole, empty_machine, pushes, told, with_replica, with_two_there,
};
use crate::scene::{Context, Tally, report};
use crate::stores::Store;

/// What the kill is with.
#[derive(Clone, Copy, PartialEq, Debug)]
enum At {
    /// A request that goes nowhere any more.
    Request,
    /// The answer to one that the store has done.
    Answer,
}

/// Every third request in CI, others of them for each kind of end; all by `make faults`.
fn numbers(at: At) -> impl Iterator<Item = usize> {
    let stride = if thoroughness() >= 2 { 1 } else { 3 };
    (1 + at as usize % stride..).step_by(stride)
}

/// Runs it with kill -9 at its `n`-th request. Says whether it came to that.
fn killed(place: &Place, proxy: &Proxy, at: At, n: usize, args: &[&str]) -> bool {
    killed_when(place, proxy, at, When::any().from(n).once(), args)
}

/// The same at any request.
fn killed_when(place: &Place, proxy: &Proxy, at: At, when: When, args: &[&str]) -> bool {
    let pid = Arc::new(AtomicI32::new(0));
    let known = pid.clone();
    let kill = move |_: &str| {
        let pid = eventually("it has begun", || rustix::process::Pid::from_raw(known.load(Ordering::SeqCst)));
        // It may be through by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    };
    let fault = if at == At::Request { Fault::in_place(kill) } else { Fault::after(kill) };
    proxy.spoil(when, fault);
    let mut child = place.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    pid.store(i32::try_from(child.id()).unwrap(), Ordering::SeqCst);
    let status = child.wait().unwrap();
    proxy.heal();
    assert!(status.success() || status.code().is_none(), "not killed, but not well either");
    status.code().is_none()
}

/// Ended when it was about to give the lease back, and with nothing to do since: it ends by itself.
fn end_lease(store: &Store, done: &Value) {
    if done["sent"] == json!([]) && !store.objects.keys_with("lease").is_empty() {
        std::fs::remove_file(store.objects.path("lease.json")).unwrap();
    }
}

/// As the kill left it, and after the next push. Says whether what was to be sent is already named.
fn recovers(place: &Place, store: &Store) -> bool {
    store.objects.assert_true();
    let (orphans, named) = (store.objects.orphans(), store.objects.ids());
    let newest = place.ids().remove(0);
    assert!(told(place)["lastError"].is_null(), "an end is no failure");
    let done = place.json(&PUSH);
    end_lease(store, &done);
    store.objects.assert_complete(place);
    let named_now: Vec<_> = store.objects.named().into_iter().map(|(key, _)| key).collect();
    for orphan in orphans {
        let is_used = named_now.iter().any(|key| orphan.starts_with(key.as_str()));
        let is_reported = done["removed"].as_array().unwrap().iter().any(|key| *key == orphan.as_str());
        assert!(is_used || is_reported, "{orphan} is gone without a word: {done}");
    }
    place.assert_whole();
    named.contains(&newest)
}

#[test]
fn a_push_to_s3_at_each_of_its_requests() {
    pushed_at_each_request("full");
}

/// With what was dropped and is stood on, and what is sent again so that it can go.
#[test]
fn an_incremental_push_to_s3_at_each_of_its_requests() {
    pushed_at_each_request("incremental");
}

fn pushed_at_each_request(mode: &str) {
    let (store, proxy) = Store::s3().proxied();
    let mut place = with_replica(&store);
    place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_MODE", mode);
    place.create();
    another(&place);
    pushes(&place, &store);
    let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
    let mut tallies = BTreeMap::new();
    for at in [At::Request, At::Answer] {
        let mut tally = Tally::default();
        for n in numbers(at) {
            // One comes, one goes.
            another(&place);
            let context = Context(format!("ended at {at:?} {n}"));
            if !killed(&place, &proxy, at, n, &PUSH) {
                break;
            }
            tally.count(recovers(&place, &store));
            wrongs.assert_none();
            drop(context);
        }
        tallies.insert(format!("{at:?}"), tally);
    }
    report(&format!("replica push to S3, {mode}"), &tallies);
}

/// Objects that somebody has deleted there are sent again; ended in the middle of that, they still are.
#[test]
fn the_making_good_of_what_was_lost() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    for at in [At::Request, At::Answer] {
        for n in numbers(at) {
            let context = Context(format!("ended at {at:?} {n}"));
            let lost = store.objects.keys_with("auth.db").remove(0);
            std::fs::remove_file(store.objects.path(&lost)).unwrap();
            let killed = killed(&place, &proxy, at, n, &PUSH);
            let done = place.json(&PUSH);
            end_lease(&store, &done);
            store.objects.assert_complete(&place);
            drop(context);
            if !killed {
                break;
            }
        }
    }
}

/// Pieces that were never put together are named by nobody, and are not made more by the push that comes next.
#[test]
fn a_push_in_pieces() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = with_replica(&store);
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "60s").fill(30);
    place.create();
    pushes(&place, &store);
    let requests = proxy.seen().iter().position(|it| it.target.contains("partNumber=")).unwrap();
    for n in [requests + 1, requests + 2, requests + 3] {
        another(&place);
        assert!(killed(&place, &proxy, At::Answer, n, &PUSH), "through before {n}");
        store.objects.assert_true();
        let left = store.unfinished();
        place.ok(&PUSH);
        store.objects.assert_complete(&place);
        assert_eq!(store.unfinished(), left, "ended at {n}");
    }
}

#[test]
fn a_push_to_a_folder_at_each_call_that_changes_something() {
    let store = Store::folder();
    let mut place = with_replica(&store);
    place.set("BACKUP_RETENTION_MANUAL", "2");
    place.create();
    another(&place);
    pushes(&place, &store);
    let stride = if thoroughness() >= 2 { 1 } else { 9 };
    let mut tallies = BTreeMap::new();
    for (number, spot) in spots(&[]).into_iter().enumerate() {
        let mut tally = Tally::default();
        let mut n = 1 + number % stride;
        loop {
            another(&place);
            let context = Context(format!("ended at {spot} {n}"));
            if !place.killed(&spot, n, &PUSH) {
                break;
            }
            tally.count(recovers(&place, &store));
            drop(context);
            n += stride;
        }
        tallies.insert(spot.to_string(), tally);
    }
    report("replica push to a folder", &tallies);
}

/// The backup directory is whole, however it ends, and the rest comes with the next one.
#[test]
fn a_pull_at_each_of_its_requests() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    place.create();
    another(&place);
    pushes(&place, &store);
    let pull = ["replica", "pull", "offsite", "--all"];
    for at in [At::Request, At::Answer] {
        for n in 1.. {
            let machine = empty_machine(&place, &store);
            if !killed(&machine, &proxy, at, n, &pull) {
                break;
            }
            let context = Context(format!("ended at {at:?} {n}"));
            machine.ok(&pull);
            assert_eq!(machine.ids(), place.ids());
            machine.ok(&["verify", "--all"]);
            machine.assert_whole();
            drop(context);
        }
    }
}

/// And at the calls by which it writes.
#[test]
fn a_pull_at_each_call_that_changes_something() {
    let store = Store::folder();
    let place = with_two_there(&store);
    let stride = if thoroughness() >= 2 { 1 } else { 9 };
    for (number, spot) in spots(&[]).into_iter().enumerate() {
        let mut n = 1 + number % stride;
        loop {
            let machine = empty_machine(&place, &store);
            if !machine.killed(&spot, n, &PULL) {
                break;
            }
            let context = Context(format!("ended at {spot} {n}"));
            comes_whole(&machine, &place, &store);
            drop(context);
            n += stride;
        }
    }
}

/// A restore from a replica on an empty machine: nothing, or all of it; and said once more, it is done.
#[test]
fn a_restore_from_there() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    let restore = ["restore", "latest", "--from", "offsite", "--confirm", "latest"];
    for at in [At::Request, At::Answer] {
        for n in 1.. {
            let machine = empty_machine(&place, &store);
            if !killed(&machine, &proxy, at, n, &restore) {
                break;
            }
            let context = Context(format!("ended at {at:?} {n}"));
            assert!(!machine.live("attendance").exists() && !machine.live("auth").exists());
            machine.ok(&restore);
            assert_eq!(machine.sql("attendance", "SELECT count(*) FROM people"), "3");
            machine.assert_whole();
            drop(context);
        }
    }
}

/// A server that is killed in the middle of sending goes on where it was when it comes back, by itself.
#[test]
fn a_server_goes_on_when_it_comes_back() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
    let mut killed = 0;
    for (round, at) in [At::Request, At::Answer].into_iter().cycle().take(12).enumerate() {
        let context = Context(format!("ended at {at:?} {}", round + 1));
        let server = Server::start(&place);
        let pid = rustix::process::Pid::from_raw(i32::try_from(server.child.id()).unwrap());
        let kill = move |_: &str| {
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        };
        proxy.spoil(
            When::any().from(round + 1).once(),
            if at == At::Request { Fault::in_place(kill) } else { Fault::after(kill) },
        );
        another(&place);
        eventually("it is sent, or ended", || {
            let ended = std::fs::read_to_string(format!("/proc/{}/stat", server.child.id()))
                .is_ok_and(|it| it.contains(") Z "));
            killed += usize::from(ended);
            (ended || told(&place)["pending"] == 0).then_some(())
        });
        proxy.heal();
        drop(server);
        store.objects.assert_true();
        drop(context);
    }
    assert!(killed > 6, "it was ended {killed} times");
    let server = Server::start(&place);
    eventually("it catches up", || (told(&place)["pending"] == 0).then_some(()));
    eventually("it has given back the lease", || store.objects.keys_with("lease").is_empty().then_some(()));
    server.stop();
    store.objects.assert_complete(&place);
    wrongs.assert_none();
    place.assert_whole();
}

/// Killed when the replica's catalog names it, and before that is remembered here: it goes there all the same when it goes here.
#[test]
fn what_was_named_when_it_was_killed_goes_when_it_goes_here() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    place.create();
    let newest = another(&place);
    // The first of all catalogs names nothing.
    assert!(killed_when(&place, &proxy, At::Answer, When::of("PUT", "catalog/").from(2).once(), &PUSH));
    assert_eq!(store.objects.ids(), [newest["id"].as_str().unwrap()]);
    place.ok(&["delete", newest["id"].as_str().unwrap()]);
    let done = place.json(&PUSH);
    assert_eq!(done["dropped"], json!([newest["id"]]), "{done}");
    store.objects.assert_complete(&place);
}
