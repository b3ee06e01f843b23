//! Replicas that are sent what has changed: each backup there can be had back, by us and by litestream, whatever rotation drops
//! between; a day costs its changed pages; and what is lost there is made good.

use serde_json::{Value, json};

use crate::harness::{Place, dump};
use crate::replica_scene::{PUSH, another, empty_machine, pushes, told, with_replica};
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
