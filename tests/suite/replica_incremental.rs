//! Replicas that are sent what has changed: each backup there can be had back, by us and by litestream, whatever rotation drops
//! between; a day costs its changed pages; and what is lost there is made good.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::fault::{Fault, When};
use crate::forms::IDENTITY;
use crate::harness::{Place, dump};
use crate::objects::key_of;
use crate::replica_scene::{PUSH, another, empty_machine, pushes, told, with_replica};
use crate::restore_app::id;
use crate::segments::depth;
use crate::stores::Store;

/// With an incremental replica, encrypted.
fn scene(store: &Store) -> Place {
    let mut place = with_replica(store);
    place.set("BACKUP_REPLICA_OFFSITE_MODE", "incremental");
    place
}

/// Stored bytes of a backup.
fn size(held: &Value) -> u64 {
    held["databases"].as_object().unwrap().values().map(|it| it["size"].as_u64().unwrap()).sum()
}

#[test]
fn a_day_costs_its_changed_pages_and_comes_back() {
    for store in Store::all() {
        let place = scene(&store);
        place.fill(2);
        let taken = [place.create(), another(&place), another(&place)];
        pushes(&place, &store);
        let held = store.objects.held();
        assert_eq!(store.objects.catalog().unwrap()["version"], 2);
        assert!(size(&held[0]) > 2_000_000, "{held:?}");
        assert!(held[1..].iter().all(|it| size(it) < 20_000), "{held:?}");
        assert_eq!(held.iter().map(|it| depth(&store.objects, it, "attendance")).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((&told(&place)["mode"], &told(&place)["damaged"]), (&json!("incremental"), &json!(0)));
        place.ok(&["replica", "verify", "offsite"]);
        // Wherever it is brought to, it is the very database.
        let live = ["attendance", "auth"].map(|name| dump(&place.live(name), false));
        let machine = empty_machine(&place, &store);
        machine.ok(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]);
        assert_eq!(["attendance", "auth"].map(|name| dump(&machine.live(name), false)), live, "{}", store.url);
        machine.ok(&["replica", "pull", "offsite", "--all"]);
        machine.ok(&["verify", "--all"]);
        for (backup, there) in machine.list().iter().zip(place.list()) {
            assert_eq!(backup["databases"]["auth"]["checksum"], there["databases"]["auth"]["checksum"]);
        }
        assert_eq!(machine.list().len(), taken.len());
        machine.assert_whole();
    }
}

/// However many go, and from where: what is left stands.
#[test]
fn what_rotation_drops_stays_as_long_as_it_is_stood_on() {
    for store in [Store::folder(), Store::strict_s3()] {
        let mut place = scene(&store);
        place.set("BACKUP_RETENTION_MANUAL", "3");
        let (mut remade, mut most) = (0, 0);
        for _ in 0..14 {
            another(&place);
            let done = place.json(&PUSH);
            remade += done["remade"].as_array().map_or(0, Vec::len);
            store.objects.assert_complete(&place);
            most = most.max(store.objects.remnants().len());
        }
        // Their pages are always the same: a run is soon worth less than what stands on it.
        assert!(remade >= 2 && (3..=8).contains(&most), "{remade} were sent again, and at most {most} left");
        place.ok(&["replica", "verify", "offsite"]);
        let machine = empty_machine(&place, &store);
        machine.ok(&["replica", "pull", "offsite", "--all"]);
        machine.ok(&["verify", "--all"]);
        assert_eq!(machine.ids(), place.ids());
    }
}

/// A segment that is changed there, or gone, takes what stands on it with it; what is whole here makes all of it good.
#[test]
fn what_stands_on_damage_is_made_good() {
    for store in [Store::folder(), Store::strict_s3()] {
        let mut place = scene(&store);
        place.set("BACKUP_RETENTION_MANUAL", "3");
        for _ in 0..5 {
            another(&place);
            pushes(&place, &store);
        }
        let (left, held) = (store.objects.remnants(), store.objects.held());
        assert_eq!((left.len(), held.len()), (2, 3));
        let of = |held: &Value| key_of(held, "attendance", &held["databases"]["attendance"]);
        let newest = id(&held[2]).to_owned();
        for (whose, is_gone) in [(&left[0], false), (&left[1], true)] {
            // What it was stands on has been sent anew by the second time.
            let Some(mut bytes) = store.objects.get(&of(whose)) else { continue };
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            if is_gone {
                std::fs::remove_file(store.objects.path(&of(whose))).unwrap();
            } else {
                store.objects.put(&of(whose), &bytes);
            }
            let found = place.run(&["replica", "verify", "offsite", "--json"]);
            let verdict: Value = serde_json::from_str(&found.stdout).unwrap();
            assert_eq!((found.code, &verdict["ok"]), (1, &json!(false)), "{verdict}");
            let backups = verdict["backups"].as_object().unwrap();
            assert!(backups.len() == 3 && backups.values().all(|it| it["ok"] == false), "{verdict}");
            let machine = empty_machine(&place, &store);
            let args = ["restore", newest.as_str(), "--from", "offsite", "--confirm", newest.as_str()];
            machine.run(&args).refused(1, &["offsite"]);
            assert!(!machine.live("attendance").exists() && machine.ids().is_empty());
            pushes(&place, &store);
            place.ok(&["replica", "verify", "offsite"]);
            assert_eq!(told(&place)["damaged"], 0);
            assert!(!store.objects.catalog().unwrap().to_string().contains("damaged"));
        }
    }
}

/// One of several on which nothing was dropped: its own object is sent again, and those after it are whole by that.
#[test]
fn one_that_is_lost_is_sent_again_alone() {
    let store = Store::folder();
    let place = scene(&store);
    let ids: Vec<_> = (0..4).map(|_| another(&place)["id"].clone()).collect();
    pushes(&place, &store);
    let held = store.objects.held();
    std::fs::remove_file(store.objects.path(&key_of(&held[1], "auth", &held[1]["databases"]["auth"]))).unwrap();
    let done = place.json(&PUSH);
    assert_eq!((&done["sent"], done["lost"].as_array().unwrap().len()), (&json!([ids[1]]), 1), "{done}");
    store.objects.assert_complete(&place);
    assert_eq!(depth(&store.objects, &store.objects.held()[3], "auth"), 3);
}

/// What lies there whole is no base, what is sent after a change stands by itself or on its like, and all of it can be had.
#[test]
fn the_mode_may_change() {
    let store = Store::folder();
    let mut place = with_replica(&store);
    for (mode, version) in [("full", 1), ("incremental", 2), ("full", 2), ("incremental", 2)] {
        place.set("BACKUP_REPLICA_OFFSITE_MODE", mode);
        for _ in 0..2 {
            another(&place);
            pushes(&place, &store);
        }
        assert_eq!(store.objects.catalog().unwrap()["version"], version, "{mode}");
        place.ok(&["replica", "verify", "offsite"]);
    }
    let held = store.objects.held();
    let bases =
        held.iter().map(|it| it["databases"]["auth"]["ltx"].as_object().map(|it| it.get("base")?["sequence"].as_u64()));
    assert_eq!(
        bases.collect::<Vec<_>>(),
        [None, None, Some(None), Some(Some(3)), None, None, Some(Some(4)), Some(Some(7))]
    );
    place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_MODE", "full");
    for _ in 0..2 {
        another(&place);
        pushes(&place, &store);
    }
    assert_eq!((store.objects.catalog().unwrap()["version"].as_u64(), store.objects.remnants().len()), (Some(1), 0));
}

/// What stays there, and can't be sent again itself, goes on to have a segment to stand on.
#[test]
fn what_is_stood_on_stays_a_segment() {
    let store = Store::folder();
    let mut place = scene(&store);
    place.writes(true, true);
    let taken: Vec<_> = (0..3).map(|_| another(&place)).collect();
    pushes(&place, &store);
    let file = place.copy(&taken[1], "auth");
    std::fs::write(&file, &std::fs::read(&file).unwrap()[1..]).unwrap();
    place.run(&["verify", id(&taken[1])]).refused(1, &[]);
    let lose = |n: usize| {
        let held = store.objects.held();
        std::fs::remove_file(store.objects.path(&key_of(&held[n], "auth", &held[n]["databases"]["auth"]))).unwrap();
    };
    lose(0);
    place.set("BACKUP_REPLICA_OFFSITE_MODE", "full");
    place.ok(&PUSH);
    let held = store.objects.held();
    let has_segments: Vec<_> = held.iter().map(|it| it["databases"]["auth"]["ltx"].is_object()).collect();
    assert_eq!(has_segments, [true, true, false]);
    place.ok(&["replica", "verify", "offsite"]);
    // What can't be taken apart any more stays here: that is found out before it is sent.
    lose(0);
    place.writes(true, false).unset("BACKUP_ENCRYPTION_RECIPIENTS");
    place.run(&PUSH).refused(1, &[id(&taken[0]), "BACKUP_ENCRYPTION_RECIPIENTS"]);
    assert_eq!(store.objects.orphans(), [""; 0]);
}

/// Growing, shrinking, other pages, other databases: each backup is what it was.
#[test]
fn databases_change_their_shape() {
    let store = Store::folder();
    let mut place = scene(&store);
    place.set("BACKUP_SHRINK_ALARM", "100").fill(1);
    let changes = [
        "INSERT INTO blobs SELECT randomblob(300000) FROM blobs",
        "DELETE FROM blobs WHERE rowid > 1",
        "VACUUM",
        "PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM; PRAGMA journal_mode = WAL",
        "INSERT INTO people (name) VALUES ('with small pages')",
        "DROP TABLE blobs; VACUUM",
    ];
    place.create();
    for sql in changes {
        place.sql("attendance", sql);
        another(&place);
        pushes(&place, &store);
    }
    let depths: Vec<_> = store.objects.held().iter().map(|it| depth(&store.objects, it, "attendance")).collect();
    assert_eq!(depths, [0, 1, 2, 3, 0, 1, 2], "with other pages it begins anew");
    place.set("BACKUP_DATABASES", &format!("auth={}", place.live("auth").display()));
    place.create();
    place.ok(&PUSH);
    let newest = store.objects.held().pop().unwrap();
    assert_eq!((newest["databases"].as_object().unwrap().len(), depth(&store.objects, &newest, "auth")), (1, 7));
    place.ok(&["replica", "verify", "offsite"]);
}

/// A copy here that reads badly is nothing's base, and is found out by that. What had been sent on it doesn't stay.
#[test]
fn a_base_that_is_damaged_here_is_passed_over() {
    for name in ["attendance", "auth"] {
        let store = Store::folder();
        let mut place = scene(&store);
        place.set("BACKUP_COMPRESSION", "zstd");
        let taken = [place.create(), another(&place)];
        pushes(&place, &store);
        let file = place.copy(&taken[1], name);
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        another(&place);
        place.ok(&PUSH);
        let newest = store.objects.held().pop().unwrap();
        assert_eq!(newest["databases"][name]["ltx"]["base"]["sequence"], 1, "{newest}");
        let backup = place.list().into_iter().find(|it| it["id"] == taken[1]["id"]).unwrap();
        assert_eq!(backup["verified"]["ok"], false);
        assert_eq!(store.objects.orphans(), [""; 0]);
        place.ok(&["replica", "verify", "offsite"]);
    }
}

/// In whatever form copies lie here, and come to lie there.
#[test]
fn copies_here_may_be_compressed_and_encrypted() {
    let store = Store::folder();
    let mut place = scene(&store);
    place.create();
    place.set("BACKUP_COMPRESSION", "zstd").set("BACKUP_ENCRYPT_LOCAL", "true");
    another(&place);
    another(&place);
    pushes(&place, &store);
    let held = store.objects.held();
    assert_eq!(depth(&store.objects, &held[2], "attendance"), 2, "{held:?}");
    let mut machine = empty_machine(&place, &store);
    machine.set("BACKUP_COMPRESSION", "zstd").set("BACKUP_ENCRYPT_LOCAL", "true");
    for (name, value) in place.environment().into_iter().filter(|(name, _)| name == "BACKUP_ENCRYPTION_RECIPIENTS") {
        machine.set(&name, &value);
    }
    machine.ok(&["replica", "pull", "offsite", "--all"]);
    assert!(machine.list().iter().all(|it| it["databases"]["auth"]["form"] == "db.zst.age"), "{:?}", machine.list());
    machine.ok(&["verify", "--all"]);
    machine.assert_whole();
    // Without the identity nothing here can be compared; that is said before anything is begun.
    place.unset("BACKUP_ENCRYPTION_IDENTITY_FILE");
    let refused = place.run(&["status"]);
    refused.refused(2, &["BACKUP_REPLICA_OFFSITE_MODE", "BACKUP_ENCRYPTION_IDENTITY_FILE"]);
}

/// Public keys alone are enough to send; what comes back is compared as it lies.
#[test]
fn sending_takes_no_identity() {
    let store = Store::folder();
    let mut place = scene(&store);
    let identity = place.environment().into_iter().find(|(name, _)| name == "BACKUP_ENCRYPTION_IDENTITY_FILE").unwrap();
    place.unset("BACKUP_ENCRYPTION_IDENTITY_FILE").set("BACKUP_RETENTION_MANUAL", "2");
    for _ in 0..4 {
        another(&place);
        pushes(&place, &store);
    }
    let verified = place.json(&["replica", "verify", "offsite"]);
    let backups = verified["backups"].as_object().unwrap();
    assert!(backups.values().all(|it| it["ok"] == true && it["ciphertextOnly"] == true), "{verified}");
    let left = &store.objects.remnants()[0];
    let key = key_of(left, "auth", &left["databases"]["auth"]);
    let mut bytes = store.objects.get(&key).unwrap();
    bytes[100] ^= 1;
    store.objects.put(&key, &bytes);
    place.run(&["replica", "verify", "offsite"]).refused(1, &[]);
    place.set(&identity.0, &identity.1);
    pushes(&place, &store);
    place.ok(&["replica", "verify", "offsite"]);
}

/// With another key it begins anew: what is encrypted to the new one is had back without the old one.
#[test]
fn the_key_may_change() {
    let store = Store::folder();
    let mut place = scene(&store);
    place.set("BACKUP_RETENTION_MANUAL", "3");
    for _ in 0..3 {
        another(&place);
        pushes(&place, &store);
    }
    std::fs::remove_file(place.path(IDENTITY)).unwrap();
    let recipient = place.keyed();
    for depths in [[1, 2, 0], [2, 0, 1], [0, 1, 2]] {
        another(&place);
        place.ok(&PUSH);
        store.objects.assert_tidy();
        let held = store.objects.held();
        assert_eq!(held.iter().map(|it| depth(&store.objects, it, "auth")).collect::<Vec<_>>(), depths);
    }
    assert!(store.objects.remnants().is_empty(), "{:?}", store.objects.catalog());
    store.objects.assert_complete(&place);
    let machine = empty_machine(&place, &store);
    machine.ok(&["replica", "pull", "offsite", "--all"]);
    machine.ok(&["verify", "--all"]);
    assert_eq!(machine.ids(), place.ids());
    // Who is one of two readers reads no more than what is for both.
    let other = store.objects.held()[0]["databases"]["auth"]["readers"].clone();
    let second = place.json(&["keygen", "-o", place.path("second.txt").to_str().unwrap()])["recipient"].clone();
    place.set("BACKUP_ENCRYPTION_RECIPIENTS", &format!("{},{recipient}", second.as_str().unwrap()));
    another(&place);
    pushes(&place, &store);
    let newest = store.objects.held().pop().unwrap();
    assert_ne!(newest["databases"]["auth"]["readers"], other);
    assert_eq!(depth(&store.objects, &newest, "auth"), 0);
}

/// Who reads a part of a backup knows nothing of the rest of it; who reads all of it does.
#[test]
fn what_was_found_damaged_is_so_until_all_of_it_was_read() {
    let store = Store::folder();
    let place = scene(&store);
    let taken = [place.create(), another(&place), another(&place)];
    pushes(&place, &store);
    let all = store.objects.all();
    let (key, good) = all.iter().find(|(key, _)| key.contains("-0000000001-") && key.contains("/entry.json")).unwrap();
    store.objects.put(key, b"holiday");
    let found = || {
        let state = std::fs::read_to_string(place.path("backups/replicas/offsite.json")).unwrap();
        serde_json::from_str::<Value>(&state).unwrap()["foundDamaged"].as_array().unwrap().len()
    };
    place.run(&["replica", "verify", "offsite"]).refused(1, &[]);
    assert_eq!(found(), 1);
    // All that is there of the first but its entry.
    place.ok(&["replica", "verify", "offsite", id(&taken[2])]);
    assert_eq!(found(), 1);
    store.objects.put(key, good);
    place.ok(&["replica", "verify", "offsite"]);
    assert_eq!(found(), 0);
    store.objects.put(key, b"holiday");
    place.run(&["replica", "verify", "offsite"]).refused(1, &[]);
    assert_eq!(place.json(&PUSH)["sent"], json!([taken[0]["id"]]));
    place.ok(&["replica", "verify", "offsite"]);
}

/// What is sent again while somebody reads it lies elsewhere by then, and is whole there.
#[test]
fn what_moves_while_it_is_read_is_no_damage() {
    let (store, proxy) = Store::webdav().proxied();
    let mut place = scene(&store);
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "5m");
    for _ in 0..4 {
        another(&place);
    }
    pushes(&place, &store);
    let place = Arc::new(place);
    let machine = empty_machine(&place, &store);
    for who in [&*place, &machine] {
        let held = &store.objects.held()[1];
        let lost = store.objects.path(&key_of(held, "auth", &held["databases"]["auth"]));
        let owner = place.clone();
        let sent_again = move |_: &str| {
            std::fs::remove_file(&lost).unwrap();
            owner.ok(&PUSH);
        };
        proxy.spoil(When::of("GET", "backups/").once(), Fault::After(Arc::new(sent_again)));
        if std::ptr::eq(who, &machine) {
            let brought = who.json(&["replica", "pull", "offsite", "--all"]);
            assert_eq!(
                (brought["pulled"].as_array().unwrap().len(), &brought["notPulled"]),
                (4, &json!([])),
                "{brought}"
            );
        } else {
            let verified = who.json(&["replica", "verify", "offsite"]);
            assert_eq!(verified["backups"].as_object().unwrap().len(), 4, "{verified}");
        }
        assert_ne!(store.objects.held()[1]["nonce"], held["nonce"], "nothing has moved");
        proxy.heal();
        store.objects.assert_complete(&place);
    }
}

/// The same after it was found damaged, and before that is remembered.
#[test]
fn what_was_sent_again_meanwhile_is_not_remembered_as_damaged() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = scene(&store);
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "5m");
    for _ in 0..3 {
        another(&place);
    }
    pushes(&place, &store);
    let held = store.objects.held();
    let last = &held[2];
    std::fs::remove_file(store.objects.path(&key_of(&held[1], "attendance", &held[1]["databases"]["attendance"])))
        .unwrap();
    let place = Arc::new(place);
    let owner = place.clone();
    // Of the last one, which is read after that was found.
    let entry = crate::objects::entry_key(last);
    proxy.spoil(When::of("GET", &entry).once(), Fault::after(move |_| drop(owner.ok(&PUSH))));
    assert_eq!(place.run(&["replica", "verify", "offsite"]).code, 1);
    let sent = store.objects.held();
    assert_ne!(sent[1]["nonce"], held[1]["nonce"], "nothing was sent again");
    place.ok(&PUSH);
    assert_eq!(store.objects.held(), sent, "what is whole was sent again");
    store.objects.assert_complete(&place);
}
