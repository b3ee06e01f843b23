//! A replica in each kind of store from one end to the other: backups go there, are promoted, rotated and deleted, are read
//! back, and come back to a machine that has nothing [P8, P12].

use serde_json::json;

use crate::harness::{Place, dump, tree};
use crate::objects::{key_of, objects_of};
use crate::replica_scene::{OFFSITE, PUSH, another, empty_machine, pushes, told, with_replica};
use crate::restore_app::id;
use crate::seasons;
use crate::stores::Store;

#[test]
fn every_store_follows_what_is_here() {
    for store in Store::all() {
        let place = with_replica(&store);
        let first = place.create();
        assert_eq!((told(&place)["pending"].as_u64(), &told(&place)["lastSuccess"]), (Some(1), &json!(null)));
        pushes(&place, &store);
        let second = another(&place);
        let sent = place.json(&PUSH);
        assert_eq!(sent["sent"], json!([id(&second)]), "{sent}");
        assert_eq!((&sent["dropped"], &sent["removed"], &sent["lost"]), (&json!([]), &json!([]), &json!([])));
        store.objects.assert_complete(&place);
        place.ok(&["pin", id(&first)]);
        pushes(&place, &store);
        assert_eq!(store.objects.held()[0]["pinned"], true);
        place.ok(&["delete", id(&second)]);
        assert_eq!(place.json(&PUSH)["dropped"], json!([id(&second)]));
        store.objects.assert_complete(&place);
        let now = told(&place);
        assert_eq!(
            (now["held"].as_u64(), now["pending"].as_u64(), &now["lastError"]),
            (Some(1), Some(0), &json!(null))
        );
        assert!(now["lastSuccess"].is_string() && now["url"] == store.url.as_str(), "{now}");
        let size: usize =
            store.objects.all().iter().filter(|(key, _)| key.starts_with("backups/")).map(|it| it.1.len()).sum();
        assert_eq!(now["size"], size);
        assert_eq!(place.json(&PUSH)["sent"], json!([]), "nothing is to be done");
        place.assert_whole();
    }
}

/// A promotion there is a word in the catalog: no object is sent again, or touched.
#[test]
fn promotions_move_nothing() {
    let stores = Store::all().map(|store| (store, "full"));
    for (store, mode) in stores.into_iter().chain(Store::all().map(|store| (store, "incremental"))) {
        let mut place = with_replica(&store);
        place.set("BACKUP_REPLICA_OFFSITE_MODE", mode);
        for tier in ["DAILY", "WEEKLY", "MONTHLY"] {
            place.set(&format!("BACKUP_RETENTION_{tier}"), "1");
        }
        for date in ["2025-01-06", "2025-02-03", "2025-03-03", "2025-04-07"] {
            seasons::then(&place, date, "daily");
            let before = store.objects.all();
            let done = place.json(&PUSH);
            assert_eq!(done["sent"], json!([format!("daily-{date}")]), "{done}");
            store.objects.assert_complete(&place);
            let after = store.objects.all();
            for held in store.objects.held().iter().filter(|held| held["localDate"] != date) {
                for (key, _) in objects_of(held) {
                    assert!(before.get(&key).is_some_and(|it| Some(it) == after.get(&key)), "{key} was sent again");
                }
            }
        }
        assert_eq!(store.objects.ids(), ["daily-2025-04-07", "monthly-2025-02", "weekly-2025-W10"]);
        let promoted = store.objects.held().into_iter().find(|held| held["id"] == "weekly-2025-W10").unwrap();
        assert_eq!(promoted["promotedFrom"], "daily-2025-03-03");
    }
}

/// One command, a key and the credentials: all is as it was, and goes on.
#[test]
fn an_empty_machine_is_made_whole() {
    for store in Store::all() {
        let place = with_replica(&store);
        place.create();
        place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
        let newest = place.create();
        pushes(&place, &store);
        let live = ["attendance", "auth"].map(|name| dump(&place.live(name), false));
        let machine = empty_machine(&place, &store);
        machine.ok(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]);
        assert_eq!(["attendance", "auth"].map(|name| dump(&machine.live(name), false)), live, "{}", store.url);
        assert_eq!(machine.ids(), [id(&newest)]);
        assert_eq!(machine.catalog()["storeId"], place.catalog()["storeId"]);
        machine.ok(&["verify", "--all"]);
        machine.assert_whole();
        machine.ok(&["replica", "pull", "offsite", "--all"]);
        assert_eq!(machine.ids(), place.ids());
        for (here, there) in machine.list().iter().zip(place.list()) {
            for what in ["sequence", "timestamp", "localDate", "tables"] {
                assert_eq!(here[what], there[what]);
            }
            assert_eq!(here["databases"]["auth"]["checksum"], there["databases"]["auth"]["checksum"]);
        }
        machine.ok(&["verify", "--all"]);
        machine.assert_whole();
        let again = machine.json(&["replica", "pull", "offsite", "--all"]);
        assert!(again["pulled"].as_array().unwrap().iter().all(|it| it["wasHere"] == true), "{again}");
        // Another directory wrote there last, as far as this one knows.
        let refused = machine.run(&PUSH);
        refused.refused(1, &["--take-over"]);
        another(&machine);
        machine.ok(&[&PUSH[..], &["--take-over"]].concat());
        store.objects.assert_complete(&machine);
    }
}

/// Any replica by its URL, from a machine that isn't told of any.
#[test]
fn a_url_will_do() {
    for store in Store::all() {
        let place = with_replica(&store);
        let backup = place.create();
        pushes(&place, &store);
        let mut machine = empty_machine(&place, &store);
        machine.unset("BACKUP_REPLICA_OFFSITE_URL");
        for (what, _) in &store.credentials {
            machine.unset(&format!("BACKUP_REPLICA_OFFSITE_{what}"));
        }
        machine.unset("BACKUP_REPLICA_OFFSITE_TIMEOUT").credentials("FROM", &store);
        let held = machine.json(&["replica", "list", &store.url]);
        assert_eq!(held["backups"][0]["id"], id(&backup));
        assert_eq!(machine.json(&["replica", "verify", &store.url])["ok"], true);
        assert!(!machine.backups().join("metadata.json").exists(), "looking at it has made something");
        machine.ok(&["restore", id(&backup), "--from", &store.url, "--confirm", id(&backup)]);
        assert_eq!(machine.sql("attendance", "SELECT count(*) FROM people"), "3");
        machine.assert_whole();
    }
}

#[test]
fn what_is_larger_than_one_request_goes_up_in_pieces() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = with_replica(&store);
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "60s").fill(70);
    let backup = place.create();
    let checksum = &backup["databases"]["attendance"]["checksum"];
    pushes(&place, &store);
    let seen = proxy.seen();
    let pieces = seen.iter().filter(|it| it.target.contains("partNumber=")).count();
    let size = store.objects.held()[0]["databases"]["attendance"]["size"].as_u64().unwrap();
    assert!(size > 64 << 20 && pieces > 1, "{size} bytes in {pieces} pieces");
    let (up, down) = seen.iter().fold((0, 0), |(up, down), it| (up + it.up, down + it.down));
    assert!(up < size + (1 << 20) && down < size + (1 << 20), "{up} bytes went up, {down} came down");
    let machine = empty_machine(&place, &store);
    machine.ok(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]);
    assert_eq!(&machine.list()[0]["databases"]["attendance"]["checksum"], checksum);
    assert_eq!(machine.sql("attendance", "SELECT count(*) FROM blobs"), "140");
}

/// Where a store can't take a body bit by bit, an object is in parts, and `cat` of them is the object.
#[test]
fn parts_one_after_the_other_are_the_file() {
    let store = Store::webdav();
    let mut place = with_replica(&store);
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "60s").fill(20);
    place.create();
    pushes(&place, &store);
    let held = store.objects.held().remove(0);
    let database = &held["databases"]["attendance"];
    assert_eq!(database["parts"], 2, "{database}");
    let key = key_of(&held, "attendance", database);
    assert_eq!(store.objects.keys_with(&key), [format!("{key}.00001"), format!("{key}.00002")]);
    // In this order, and with none missing.
    let first = store.objects.get(&format!("{key}.00001")).unwrap();
    let second = store.objects.get(&format!("{key}.00002")).unwrap();
    assert!(first.len() == 16 << 20 && !second.is_empty());
    store.objects.put(&format!("{key}.00001"), &second);
    store.objects.put(&format!("{key}.00002"), &first);
    let verified = place.run(&["replica", "verify", "offsite"]);
    assert!(verified.code == 1 && verified.stdout.contains("DAMAGED"), "{}{}", verified.stdout, verified.stderr);
    pushes(&place, &store);
    std::fs::remove_file(store.objects.path(&store.objects.keys_with(".00002").remove(0))).unwrap();
    pushes(&place, &store);
    place.ok(&["replica", "verify", "offsite"]);
}

/// What lies here in such a form already leaves as it lies; what doesn't is compressed, and encrypted where there is a key.
#[test]
fn each_form_leaves_in_the_form_it_should() {
    for (compressed, encrypted, keyed) in
        [(true, true, true), (false, true, true), (true, false, true), (false, false, true), (false, false, false)]
    {
        let store = Store::folder();
        let mut place = Place::new();
        if keyed {
            place.keyed();
        }
        place.writes(compressed, encrypted).replica(OFFSITE, &store);
        let backup = place.create();
        pushes(&place, &store);
        let held = store.objects.held().remove(0);
        let database = &held["databases"]["auth"];
        let form = match (encrypted, compressed, keyed) {
            (true, false, _) => "db.age",
            (_, _, true) => "db.zst.age",
            (_, _, false) => "db.zst",
        };
        assert_eq!((&database["form"], &held["entry"]["encrypted"]), (&json!(form), &json!(keyed)));
        let here = std::fs::read(place.copy(&backup, "auth")).unwrap();
        let there = store.objects.bytes_of(&key_of(&held, "auth", database), database).unwrap();
        assert_eq!(here == there, encrypted, "{form}");
        let entry = store.objects.entry(&place, &held);
        assert_eq!(entry["backup"]["databases"]["auth"]["checksum"], backup["databases"]["auth"]["checksum"]);
    }
}

#[test]
fn a_folder_is_for_its_owner_alone() {
    let store = Store::folder();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    for (name, mode, is_dir) in tree(&store.objects.0) {
        assert_eq!(mode & 0o777, if is_dir { 0o700 } else { 0o600 }, "{name}");
    }
}

/// Other numbers there than here, in both directions.
#[test]
fn a_replica_may_keep_other_numbers() {
    let store = Store::folder();
    let mut place = with_replica(&store);
    place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL", "4");
    let mut taken = Vec::new();
    for _ in 0..6 {
        taken.push(another(&place)["sequence"].as_u64().unwrap());
        place.ok(&PUSH);
        store.objects.assert_tidy();
    }
    let held = || store.objects.held().iter().map(|held| held["sequence"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(held(), taken[2..], "the last four, though only two are here");
    assert_eq!(place.list().len(), 2);
    place.set("BACKUP_RETENTION_MANUAL", "5").set("BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL", "1");
    place.ok(&PUSH);
    assert_eq!(held(), taken[5..]);
    store.objects.assert_tidy();
    assert_eq!(place.json(&PUSH)["sent"], json!([]), "what it doesn't keep isn't sent again and again");
    assert_eq!(told(&place)["pending"], 0);
}

/// Damage is found by reading, told, remembered, and made good from what is whole here.
#[test]
fn what_is_damaged_there_is_found_and_sent_again() {
    for store in Store::all() {
        let place = with_replica(&store);
        let (damaged, whole) = (place.create(), another(&place));
        pushes(&place, &store);
        for n in 0..3 {
            let (key, object) = objects_of(&store.objects.held()[0]).remove(n);
            let key = if object["parts"].is_null() { key } else { format!("{key}.00001") };
            let mut bytes = store.objects.get(&key).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            store.objects.put(&key, &bytes);
            let found = place.run(&["replica", "verify", "offsite", "--json"]);
            let verdict: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
            assert_eq!((found.code, &verdict["ok"]), (1, &json!(false)), "{verdict}");
            assert_eq!(verdict["backups"][id(&whole)]["ok"], true);
            assert!(verdict["backups"][id(&damaged)]["reason"].as_str().unwrap().contains("SHA-256"), "{verdict}");
            assert_eq!(told(&place)["damaged"], 1);
            assert!(place.warnings().contains(&"replica-damaged".to_owned()));
            place.run(&["replica", "pull", "offsite", id(&damaged)]).refused(0, &[]);
            let machine = empty_machine(&place, &store);
            let args = ["restore", id(&damaged), "--from", "offsite", "--confirm", id(&damaged)];
            machine.run(&args).refused(1, &["SHA-256"]);
            assert!(!machine.live("attendance").exists() && machine.ids().is_empty());
            pushes(&place, &store);
            assert_eq!(told(&place)["damaged"], 0);
            place.ok(&["replica", "verify", "offsite"]);
            assert!(told(&place)["lastVerified"].is_string());
        }
    }
}

#[test]
fn a_bandwidth_is_kept_to() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = with_replica(&store);
    place.set("BACKUP_REPLICA_OFFSITE_BANDWIDTH", "1MiB").fill(4);
    place.create();
    let begun = std::time::Instant::now();
    pushes(&place, &store);
    let up: u64 = proxy.seen().iter().map(|it| it.up).sum();
    let rate = up as f64 / begun.elapsed().as_secs_f64();
    assert!(up > 4_000_000 && rate < 1_200_000.0, "{rate} bytes a second");
}

/// Each would be asked for at every listing. Where something else was put into one, it stays with that.
#[test]
fn empty_folders_do_not_pile_up() {
    let store = Store::webdav();
    let place = with_replica(&store);
    let backups = [(); 4].map(|()| another(&place));
    pushes(&place, &store);
    let folders = || {
        let all = tree(&store.objects.path("backups")).into_iter().filter(|(.., is_dir)| *is_dir);
        let mut all: Vec<_> = all.map(|(name, ..)| format!("backups/{name}")).collect();
        all.sort();
        all
    };
    let of = |backup: &serde_json::Value| {
        let held = store.objects.held().into_iter().find(|held| held["sequence"] == backup["sequence"]).unwrap();
        key_of(&held, "auth", &held["databases"]["auth"]).rsplit_once('/').unwrap().0.to_owned()
    };
    let (empty, foreign) = (of(&backups[0]), of(&backups[1]));
    store.objects.put(&format!("{foreign}/photo.jpg"), b"x");
    // What was begun and given up leaves one too.
    std::fs::create_dir(store.objects.path(&format!("{}5f0c2a9be1d37784", &empty[..empty.len() - 16]))).unwrap();
    std::fs::create_dir(store.objects.path("backups/holidays")).unwrap();
    backups[..2].iter().for_each(|backup| drop(place.ok(&["delete", id(backup)])));
    place.ok(&PUSH);
    let mut expected = [of(&backups[2]), of(&backups[3]), foreign.clone(), "backups/holidays".to_owned()];
    expected.sort();
    assert_eq!(folders(), expected);
    assert_eq!(store.objects.get(&format!("{foreign}/photo.jpg")).unwrap(), b"x");
    assert_eq!(store.objects.ids().len(), 2);
    assert_eq!(place.json(&["replica", "verify", "offsite"])["ok"], true);
}
