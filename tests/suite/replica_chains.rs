//! What an incremental replica does with long chains: it says how long they are, merges what nobody needs by itself, reads each
//! segment once when all of it comes back, and stands on nothing that is lost.

use serde_json::{Value, json};

use crate::fault::{Fault, When};
use crate::harness::Place;
use crate::objects::key_of;
use crate::replica_scene::{Clock, PUSH, another, empty_machine, pushes, told, with_replica};
use crate::restore_app::id;
use crate::segments::depth;
use crate::stores::Store;

/// With an incremental replica, encrypted.
fn scene(store: &Store) -> Place {
    let mut place = with_replica(store);
    place.set("BACKUP_REPLICA_OFFSITE_MODE", "incremental");
    place
}

/// Each is there as it was when it was taken.
#[track_caller]
fn all_come_back(place: &Place, store: &Store, taken: &[Value]) {
    place.ok(&["replica", "verify", "offsite"]);
    let machine = empty_machine(place, store);
    machine.ok(&["replica", "pull", "offsite", "--all"]);
    machine.ok(&["verify", "--all"]);
    let backups = machine.list();
    assert_eq!(backups.len(), store.objects.held().len());
    for backup in backups {
        let as_taken = taken.iter().find(|it| it["timestamp"] == backup["timestamp"]).unwrap();
        for name in ["attendance", "auth"] {
            assert_eq!(backup["databases"][name]["checksum"], as_taken["databases"][name]["checksum"]);
        }
    }
}

/// Where both neighbours of a run are only there, they are rebuilt from there; without an identity that can't be, and shows.
#[test]
fn what_is_not_here_any_more_is_merged_there() {
    let store = Store::folder();
    let mut place = scene(&store);
    place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL", "3");
    let identity = place.environment().into_iter().find(|(name, _)| name == "BACKUP_ENCRYPTION_IDENTITY_FILE").unwrap();
    place.unset(&identity.0);
    // It stays there for ever, and not here.
    let mut taken = vec![another(&place)];
    place.ok(&["pin", id(&taken[0])]);
    place.ok(&PUSH);
    for n in 2..=12 {
        taken.push(another(&place));
        place.ok(&PUSH);
        if n == 2 {
            place.ok(&["delete", id(&taken[0])]);
        }
    }
    let remnants = store.objects.remnants();
    assert_eq!((store.objects.held().len(), remnants.len()), (4, 8));
    let size =
        |it: &Value| it["databases"].as_object().unwrap().values().map(|it| it["size"].as_u64().unwrap()).sum::<u64>();
    let chains = json!({ "longest": 12, "remnants": 8, "bytes": remnants.iter().map(size).sum::<u64>() });
    assert_eq!(told(&place)["chains"], chains);
    assert_eq!(place.json(&["replica", "list", "offsite"])["chains"], chains);
    for args in [&["replica", "list"][..], &["replica", "list", "offsite"]] {
        let shown = place.ok(args).stdout;
        assert!(shown.contains("12 segments") && shown.contains("remnants of dropped backups: 8"), "{shown}");
    }
    place.set(&identity.0, &identity.1);
    taken.push(another(&place));
    let done = place.json(&PUSH);
    assert_eq!(done["remade"].as_array().map(Vec::len), Some(1), "{done}");
    store.objects.assert_tidy();
    assert_eq!(store.objects.remnants(), [Value::Null; 0]);
    let held = store.objects.held();
    assert_eq!(held.iter().map(|it| depth(&store.objects, it, "auth")).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!((&told(&place)["chains"]["longest"], &told(&place)["chains"]["remnants"]), (&json!(4), &json!(0)));
    all_come_back(&place, &store, &taken);
}

/// Where it keeps more than is here what is left goes by what lies there; where it keeps less, by what is here.
#[test]
fn it_may_keep_other_numbers() {
    let store = Store::folder();
    let mut place = scene(&store);
    place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL", "4");
    for _ in 0..12 {
        another(&place);
        place.ok(&PUSH);
        store.objects.assert_tidy();
    }
    assert!(store.objects.held().len() == 4 && store.objects.remnants().len() <= 5, "{:?}", store.objects.catalog());
    place.ok(&["replica", "verify", "offsite"]);
    place.set("BACKUP_RETENTION_MANUAL", "5").set("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL", "1");
    for _ in 0..5 {
        another(&place);
        place.ok(&PUSH);
        store.objects.assert_tidy();
    }
    assert!(store.objects.held().len() == 1 && store.objects.remnants().len() < 8, "{:?}", store.objects.catalog());
    place.ok(&["replica", "verify", "offsite"]);
}

/// What turns out to be lost while it is merged is told, and what is whole here is sent again.
#[test]
fn damage_that_is_met_while_merging_is_remembered() {
    let store = Store::folder();
    let mut place = scene(&store);
    place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL", "3");
    place.set("BACKUP_LOG", "warn");
    let mut spoilt = None;
    let run = (0..20).find_map(|_| {
        another(&place);
        if let (None, [_, left, ..]) = (&spoilt, &store.objects.remnants()[..]) {
            let key = key_of(left, "auth", &left["databases"]["auth"]);
            let mut bytes = store.objects.get(&key).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            store.objects.put(&key, &bytes);
            spoilt = Some(key);
        }
        let run = place.ok(&PUSH);
        run.stderr.contains("what lies there is damaged").then_some(run)
    });
    let (run, spoilt) = (run.expect("nothing was merged"), spoilt.unwrap());
    assert!(run.stderr.contains(&spoilt), "{}", run.stderr);
    assert!(told(&place)["damaged"].as_u64() > Some(0), "{}", told(&place));
    // Of what is there two are here.
    let done = place.json(&PUSH);
    assert!((1..=2).contains(&done["sent"].as_array().unwrap().len()), "{done}");
    let verified = place.run(&["replica", "verify", "offsite", "--json"]);
    let verdict: Value = serde_json::from_str(&verified.stdout).unwrap();
    // Ids of one second come again when those who had them are gone: there they are another's.
    let held = store.objects.held();
    let there = |backup: &Value| held.iter().find(|it| it["sequence"] == backup["sequence"]).unwrap()["id"].clone();
    let is_whole = |backup| verdict["backups"][there(backup).as_str().unwrap()]["ok"] == true;
    assert!(place.list().iter().all(is_whole), "{verdict}");
    for _ in 0..3 {
        another(&place);
        place.ok(&PUSH);
    }
    place.ok(&["replica", "verify", "offsite"]);
}

/// Once for the newest, which comes first, and once for all that stand below it.
#[test]
fn each_segment_is_read_once_for_all() {
    let (store, proxy) = Store::s3().proxied();
    let place = scene(&store);
    let taken: Vec<_> = (0..7).map(|_| another(&place)).collect();
    pushes(&place, &store);
    let mut strange = Place::new();
    let (identity, key) = ("BACKUP_ENCRYPTION_IDENTITY_FILE", place.path(crate::forms::IDENTITY));
    strange.replica("OFFSITE", &store).set(identity, key.to_str().unwrap()).create();
    for (machine, most) in [(empty_machine(&place, &store), 7 + 6), (strange, 7)] {
        proxy.forget();
        let brought = machine.json(&["replica", "pull", "offsite", "--all"]);
        let is_segment = |target: &str| target.contains("/auth.ltx");
        let read = proxy.seen().iter().filter(|it| it.method == "GET" && is_segment(&it.target)).count();
        assert_eq!((read, &brought["notPulled"]), (most, &json!([])));
        let pulled: Vec<_> = brought["pulled"].as_array().unwrap().iter().map(|it| it["from"].clone()).collect();
        assert_eq!((pulled.len(), pulled.contains(&taken[6]["id"])), (7, true));
        machine.ok(&["verify", "--all"]);
        machine.assert_whole();
    }
}

/// Whoever reads for longer than a lease lasts goes on to hold it.
#[test]
fn the_lease_is_renewed_while_copies_here_are_read() {
    let (store, proxy) = Store::webdav().proxied();
    let mut place = scene(&store);
    place.set("BACKUP_SHRINK_ALARM", "100").set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "60s").fill(48);
    place.create();
    pushes(&place, &store);
    // What is to be sent is little; what it is compared with is read to its end.
    place.sql("attendance", "DROP TABLE blobs; VACUUM");
    another(&place);
    proxy.forget();
    let mut command = place.command(&PUSH);
    let clock = Clock::of(&place, &mut command);
    clock.runs(8000);
    assert!(command.status().unwrap().success());
    let renewed = proxy.seen().iter().filter(|it| it.method == "PUT" && it.target.contains("lease.json")).count();
    // Each as soon as it is due; without that there are as many as requests.
    assert!(renewed >= 30, "{renewed} leases");
    store.objects.assert_complete(&place);
}

/// A store that takes no more of it keeps what it has: that is told, and tried again.
#[test]
fn a_run_that_can_not_go_yet_stays_until_it_can() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = scene(&store);
    place.set("BACKUP_RETENTION_MANUAL", "3").set("BACKUP_LOG", "warn");
    let mut refused = 0;
    for n in 1..=14 {
        another(&place);
        // The one after the run is the oldest that is kept.
        let oldest = format!("-{:010}-", n - 2);
        proxy.spoil(When::of("PUT", &oldest), Fault::error(403, "AccessDenied"));
        let run = place.ok(&PUSH);
        let was_refused = run.stderr.contains("what was dropped there stays");
        proxy.heal();
        store.objects.assert_true();
        if was_refused {
            refused += 1;
            let before = store.objects.remnants().len();
            // With nothing else to do.
            let done = place.json(&PUSH);
            assert_eq!(done["remade"].as_array().map(Vec::len), Some(1), "{done}");
            assert!(store.objects.remnants().len() < before);
            store.objects.assert_complete(&place);
            break;
        }
    }
    assert_eq!(refused, 1, "nothing was to be sent again");
    assert!(told(&place)["lastError"].is_null());
}

/// Deep below what is whole by itself something is lost, and what stands right on it can't be sent again: the others begin anew.
#[test]
fn nothing_stands_on_what_is_lost_deep_below() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = scene(&store);
    place.set("BACKUP_RETENTION_MANUAL", "3");
    for _ in 0..5 {
        another(&place);
        pushes(&place, &store);
    }
    let lost = store.objects.remnants()[0].clone();
    std::fs::remove_file(store.objects.path(&key_of(&lost, "auth", &lost["databases"]["auth"]))).unwrap();
    proxy.spoil(When::of("PUT", "-0000000003-"), Fault::error(403, "AccessDenied"));
    place.run(&PUSH).refused(1, &["replica-refused"]);
    proxy.heal();
    let depths = |of: &Store| of.objects.held().iter().map(|it| depth(&of.objects, it, "auth")).collect::<Vec<_>>();
    assert_eq!(depths(&store), [2, 0, 1]);
    pushes(&place, &store);
    assert_eq!(depths(&store), [0, 0, 1]);
    place.ok(&["replica", "verify", "offsite"]);
    assert_eq!(told(&place)["damaged"], 0);
}
