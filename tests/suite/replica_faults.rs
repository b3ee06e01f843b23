//! A replica behind a network that does everything that networks and stores do: the local backup is good at once, what is wrong
//! is told, nothing wrong is ever named in the replica's catalog, and it catches up.

use crate::client::Server;
use crate::disk_full::{mount, run_in_namespace};
use crate::fault::{Fault, Reply, When};
use crate::harness::{Place, Run, eventually};
use crate::objects::Objects;
use crate::proxy::Proxy;
use crate::replica_scene::{PUSH, TIMEOUT, Wrongs, another, in_rows, last_error, push, pushes, told, with_replica};
use crate::scene::Context;
use crate::stores::Store;

/// What is spoilt, how, and what that is called.
struct Case {
    name: &'static str,
    when: When,
    fault: Fault,
    code: &'static str,
}

const UNREACHABLE: &str = "replica-unreachable";
const REFUSED: &str = "replica-refused";
const DAMAGED: &str = "replica-damaged";

fn case(name: &'static str, when: When, fault: Fault, code: &'static str) -> Case {
    Case { name, when, fault, code }
}

/// What a store that works again would let through at a second try. Reading goes on where it broke off, so what is to fail for
/// good gets nowhere: `down` bytes come down each time.
fn passing(down: u64) -> Vec<Case> {
    let (data, catalog) = (|| When::of("PUT", "attendance.db"), || When::of("PUT", "catalog/"));
    let (back, listing) = (|| When::of("GET", "attendance.db"), || When::of("GET", "list-type"));
    vec![
        case("nobody answers", data(), Fault::Silence, UNREACHABLE),
        case("nobody answers anything", When::any(), Fault::Silence, UNREACHABLE),
        case("the upload stalls", data(), Fault::StallUp(5_000), UNREACHABLE),
        case("the upload is reset", data(), Fault::ResetUp(5_000), UNREACHABLE),
        case("the answer is lost", data(), Fault::Lost, UNREACHABLE),
        case("the catalog stalls", catalog(), Fault::StallUp(100), UNREACHABLE),
        case("the catalog is reset", catalog(), Fault::ResetUp(100), UNREACHABLE),
        case("the reading back stalls", back(), Fault::StallDown(down), UNREACHABLE),
        case("the reading back is reset", back(), Fault::ResetDown(down), UNREACHABLE),
        case("the reading back is cut short", back(), Fault::CutDown(down), UNREACHABLE),
        case("the listing is cut short", listing(), Fault::CutDown(50), UNREACHABLE),
        case("the listing is reset", listing(), Fault::ResetDown(down.min(50)), UNREACHABLE),
        case("500", data(), Fault::error(500, "InternalError"), UNREACHABLE),
        case("503 for the data", data(), Fault::error(503, "SlowDown"), UNREACHABLE),
        case("503 for the catalog", catalog(), Fault::error(503, "SlowDown"), UNREACHABLE),
        case("503 for the listing", listing(), Fault::error(503, "SlowDown"), UNREACHABLE),
        case("503 for everything", When::any(), Fault::error(503, "SlowDown"), UNREACHABLE),
        case("503 for what is looked up", When::of("GET", "catalog/0"), Fault::error(503, "SlowDown"), UNREACHABLE),
        case("429", data(), Fault::error(429, "TooManyRequests"), UNREACHABLE),
    ]
}

/// What stays wrong until somebody does something about it, or until it is sent again.
fn lasting(objects: &Objects) -> Vec<Case> {
    let (data, catalog, entry) = ("attendance.db", "catalog/", "entry.json");
    let stored = || Fault::Instead(Reply::of(200, b"").header("ETag", "\"9b2cf535f27731c974343645a3985328\""));
    let older = || Fault::Instead(Reply::of(200, b"an older object, as it seems").header("ETag", "\"e\""));
    let emptied = || {
        let objects = objects.clone();
        Fault::after(move |target| objects.put(key(target), b""))
    };
    let put = |part| When::of("PUT", part);
    vec![
        case("nothing is stored though 200 is said", put(data), stored(), DAMAGED),
        case("no entry is stored", put(entry), stored(), DAMAGED),
        case("no catalog is stored", put(catalog), stored(), DAMAGED),
        case("0 bytes are stored", put(data), emptied(), DAMAGED),
        case("0 bytes of the entry are stored", put(entry), emptied(), DAMAGED),
        case("0 bytes of the catalog are stored", put(catalog), emptied(), DAMAGED),
        case("another object is served", When::of("GET", data), older(), DAMAGED),
        case("403", put(data), Fault::error(403, "AccessDenied"), REFUSED),
        case("403 for the listing", When::of("GET", "list-type"), Fault::error(403, "AccessDenied"), REFUSED),
        case("the token has expired", When::any(), Fault::error(400, "ExpiredToken"), REFUSED),
        case("it is full", put(data), Fault::error(507, "XMinioStorageFull"), "replica-full"),
        case("there is no such bucket", When::any(), Fault::error(404, "NoSuchBucket"), "replica-absent"),
        case("it moved", When::any(), Fault::Instead(Reply::error(301, "PermanentRedirect")), REFUSED),
    ]
}

/// Of a request's path and query.
fn key(target: &str) -> &str {
    target.split('?').next().unwrap().split("/offsite/").nth(1).unwrap()
}

/// The backup is good at once; the push says what is wrong, and so does the status; and then all is made up for.
fn suffers(place: &Place, store: &Store, proxy: &Proxy, case: Case) {
    let context = Context(format!("{:?} for {}", case.code, case.name));
    proxy.forget();
    another(place);
    assert_eq!(proxy.seen().len(), 0, "a backup asks the replica");
    place.assert_whole();
    let timeout = case.fault.timeout("500ms");
    proxy.spoil(case.when, case.fault);
    let failed = Run::of(place.command(&PUSH).env(TIMEOUT, timeout).output().unwrap());
    proxy.heal();
    failed.refused(1, &["offsite"]);
    assert_eq!(last_error(place).as_deref(), Some(case.code), "{}", failed.stderr);
    pushes(place, store);
    assert_eq!(last_error(place), None);
    drop(context);
}

/// It passes by, and is not even noticed.
fn bears(place: &mut Place, store: &Store, proxy: &Proxy, case: Case) {
    let context = Context(format!("once: {}", case.name));
    another(place);
    place.set(TIMEOUT, case.fault.timeout(BORNE));
    proxy.spoil(case.when.once(), case.fault);
    pushes(place, store);
    proxy.heal();
    drop(context);
}

/// How long a store is waited for that is silent once: the next try is to go well, so it is longer than a machine stalls.
const BORNE: &str = "5s";

fn scene() -> (Place, Store, Proxy) {
    let (store, proxy) = Store::s3().proxied();
    let mut place = with_replica(&store);
    place.set("BACKUP_RETENTION_MANUAL", "3");
    place.sql("attendance", "CREATE TABLE blobs (bytes); INSERT INTO blobs VALUES (randomblob(300000))");
    place.create();
    pushes(&place, &store);
    (place, store, proxy)
}

#[test]
fn what_goes_on_is_told_and_made_up_for() {
    in_rows(passing(0), |cases| {
        let (place, store, proxy) = scene();
        let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
        for case in cases {
            suffers(&place, &store, &proxy, case);
            wrongs.assert_none();
        }
    });
}

#[test]
fn what_stays_wrong_is_told_and_made_up_for() {
    let (place, store, proxy) = scene();
    for case in lasting(&store.objects) {
        suffers(&place, &store, &proxy, case);
    }
}

/// Once is never: it is tried again at once.
#[test]
fn what_passes_by_is_not_even_noticed() {
    let (mut place, store, proxy) = scene();
    let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
    for case in passing(5_000) {
        bears(&mut place, &store, &proxy, case);
    }
    wrongs.assert_none();
}

#[test]
fn what_is_delivered_twice_is_there_once() {
    let (place, store, proxy) = scene();
    let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
    for method in ["PUT", "DELETE", "POST", "GET", "HEAD"] {
        another(&place);
        proxy.spoil(When::of(method, ""), Fault::Twice);
        pushes(&place, &store);
        proxy.heal();
    }
    wrongs.assert_none();
}

/// What comes up in pieces is put together by a request whose 200 may hold an error.
#[test]
fn a_200_may_mean_an_error() {
    let (place, store, proxy) = scene();
    place.sql("attendance", "INSERT INTO blobs VALUES (randomblob(20000000))");
    let completion = || When::of("POST", "uploadId=");
    for (name, when, code) in [("goes on", completion(), "InternalError"), ("is busy", completion(), "SlowDown")] {
        suffers(&place, &store, &proxy, case(name, when, Fault::error(200, code), UNREACHABLE));
    }
    another(&place);
    proxy.spoil(completion().once(), Fault::error(200, "InternalError"));
    pushes(&place, &store);
    proxy.heal();
    // It is done, and nobody hears so: the next try finds no upload any more.
    for fault in [Fault::Lost, Fault::Twice] {
        another(&place);
        proxy.spoil(completion().once(), fault);
        push(&place);
        proxy.heal();
        pushes(&place, &store);
    }
}

/// The same network before another kind of store.
#[test]
fn webdav_suffers_and_makes_up_for_it() {
    let (store, proxy) = Store::webdav().proxied();
    let mut place = with_replica(&store);
    place.set("BACKUP_RETENTION_MANUAL", "3");
    place.sql("attendance", "CREATE TABLE blobs (bytes); INSERT INTO blobs VALUES (randomblob(300000))");
    place.create();
    pushes(&place, &store);
    let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
    let (data, catalog) = (|| When::of("PUT", "attendance.db"), || When::of("PUT", "catalog/"));
    let cases = || {
        vec![
            case("nobody answers", data(), Fault::Silence, UNREACHABLE),
            case("the upload stalls", data(), Fault::StallUp(5_000), UNREACHABLE),
            case("the catalog is reset", catalog(), Fault::ResetUp(100), UNREACHABLE),
            case("the answer is lost", catalog(), Fault::Lost, UNREACHABLE),
            case("the reading back is cut short", When::of("GET", "attendance.db"), Fault::CutDown(0), UNREACHABLE),
            case("the listing is reset", When::of("PROPFIND", ""), Fault::ResetDown(50), UNREACHABLE),
            case("503", When::any(), Fault::Instead(Reply::of(503, b"later")), UNREACHABLE),
            case("it is locked", data(), Fault::Instead(Reply::of(423, b"")), UNREACHABLE),
        ]
    };
    for case in cases() {
        suffers(&place, &store, &proxy, case);
    }
    for case in cases() {
        bears(&mut place, &store, &proxy, case);
    }
    place.set(TIMEOUT, "1m");
    let lasting = [
        case("401", When::any(), Fault::Instead(Reply::of(401, b"<html>no</html>")), REFUSED),
        case("403", data(), Fault::Instead(Reply::of(403, b"")), REFUSED),
        case("it is full", data(), Fault::Instead(Reply::of(507, b"")), "replica-full"),
        case("nothing is stored though 201 is said", data(), Fault::Instead(Reply::of(201, b"")), DAMAGED),
    ];
    for case in lasting {
        suffers(&place, &store, &proxy, case);
    }
    wrongs.assert_none();
}

/// A disk of its own for the replica, and too small: what is there stays, what is here is good, and with more room all is made up for.
#[test]
fn a_folder_that_is_full_is_told() {
    let test = "replica_faults::a_folder_that_is_full_is_told";
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        run_in_namespace(test);
        return;
    }
    let store = Store::folder();
    mount(&["-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs"], &store.objects.0);
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    place.sql("attendance", "CREATE TABLE blobs (bytes); INSERT INTO blobs VALUES (randomblob(3000000))");
    for _ in 0..2 {
        place.create();
        place.assert_whole();
        push(&place).refused(1, &["offsite", "full"]);
        assert_eq!(last_error(&place).as_deref(), Some("replica-full"));
        store.objects.assert_true();
        assert_eq!(store.objects.ids().len(), 1);
    }
    mount(&["-o", "remount,size=20m"], &store.objects.0);
    pushes(&place, &store);
}

/// Segments are put together in a private folder here: where there is no room for that, nothing is said of what is there.
#[test]
fn little_room_here_is_no_damage_there() {
    let test = "replica_faults::little_room_here_is_no_damage_there";
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        run_in_namespace(test);
        return;
    }
    let store = Store::folder();
    let mut place = with_replica(&store);
    place.set("BACKUP_REPLICA_OFFSITE_MODE", "incremental").set("BACKUP_SHRINK_ALARM", "100");
    std::fs::create_dir_all(place.backups()).unwrap();
    mount(&["-t", "tmpfs", "-o", "size=40m,mode=0700", "tmpfs"], &place.backups());
    place.fill(6);
    let first = place.create();
    place.sql("attendance", "DELETE FROM blobs; VACUUM");
    let last = another(&place);
    pushes(&place, &store);
    let df = std::process::Command::new("df").args(["--output=avail", "-B1"]).arg(place.backups()).output().unwrap();
    let free: usize = String::from_utf8_lossy(&df.stdout).lines().last().unwrap().trim().parse().unwrap();
    let filler = place.path("backups/filler");
    std::fs::write(&filler, vec![0; free - (4 << 20)]).unwrap();
    // The last one is small by itself, and led through what was large.
    for id in [None, Some(&first["id"]), Some(&last["id"])] {
        let args = ["replica", "verify", "offsite"].into_iter().chain(id.and_then(|id| id.as_str()));
        place.run(&args.collect::<Vec<_>>()).refused(1, &["free"]);
        let state = std::fs::read_to_string(place.path("backups/replicas/offsite.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        assert_eq!((&state["foundDamaged"], &told(&place)["damaged"]), (&serde_json::json!([]), &0.into()));
    }
    std::fs::remove_file(filler).unwrap();
    place.ok(&["replica", "verify", "offsite"]);
    assert_eq!(place.json(&PUSH)["sent"], serde_json::json!([]));
}

/// Where a listing is made of many, one that fails isn't left out.
#[test]
fn a_folder_that_is_not_listed_is_not_lost() {
    let (store, proxy) = Store::webdav().proxied();
    let mut place = with_replica(&store);
    place.create();
    another(&place);
    another(&place);
    pushes(&place, &store);
    let before = store.objects.all();
    let replies = [503, 404].map(|status| Fault::Instead(Reply::of(status, b"")));
    for fault in [Fault::ResetDown(50), Fault::CutDown(50), Fault::StallDown(50)].into_iter().chain(replies) {
        place.set(TIMEOUT, fault.timeout(BORNE));
        for n in 1..=3 {
            proxy.spoil(When::of("PROPFIND", "backups/2").from(n).once(), fault.clone());
            let done = place.json(&PUSH);
            proxy.heal();
            assert_eq!((&done["lost"], &done["sent"]), (&serde_json::json!([]), &serde_json::json!([])));
        }
    }
    assert!(store.objects.all() == before);
}

/// All was sent before, so that nothing else asks for another look.
#[test]
fn leftovers_that_could_not_be_removed_are_tried_again() {
    let (place, store, proxy) = scene();
    another(&place);
    pushes(&place, &store);
    let (key, _) = store.objects.named().into_iter().next().unwrap();
    let leftover = key.replace(store.objects.held()[0]["nonce"].as_str().unwrap(), "5f0c2a9be1d37784");
    store.objects.put(&leftover, b"cut short");
    proxy.spoil(When::of("DELETE", "5f0c2a9be1d37784"), Fault::error(403, "AccessDenied"));
    push(&place).refused(1, &[]);
    proxy.heal();
    // After the pause.
    let path = place.backups().join("replicas/offsite.json");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(state["nextTry"].is_string(), "{state}");
    state["nextTry"] = serde_json::Value::Null;
    std::fs::write(path, state.to_string()).unwrap();
    let server = Server::start(&place);
    eventually("it is removed", || store.objects.get(&leftover).is_none().then_some(()));
    server.stop();
}
