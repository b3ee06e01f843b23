//! A store that loses the newest catalog when all was done: the one before it finds all that it names. And one that loses all of them
//! while it is written to.

use serde_json::json;

use crate::fault::{Fault, When};
use crate::replica_scene::{PUSH, Wrongs, another, empty_machine, last_error, push, pushes, with_replica};
use crate::stores::Store;

const TAKE_OVER: [&str; 4] = ["replica", "push", "offsite", "--take-over"];

#[test]
fn the_catalog_before_the_newest_is_as_good() {
    for (mode, most) in [("full", 4), ("incremental", 14)] {
        let (store, proxy) = Store::s3().proxied();
        let mut place = with_replica(&store);
        place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_MODE", mode);
        let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
        for n in 1.. {
            another(&place);
            let done = place.json(&PUSH);
            // What was dropped there is gone at once.
            store.objects.assert_tidy();
            if mode == "full" && n == most || done["remade"].is_array() {
                break;
            }
            assert!(n < most, "nothing was sent again");
        }
        wrongs.assert_none();
        let (newest, _) = store.objects.catalogs().pop().unwrap();
        let bytes = store.objects.get(&newest).unwrap();
        store.objects.put(&newest, &bytes[..bytes.len() / 2]);
        store.objects.assert_true();
        empty_machine(&place, &store).ok(&["replica", "verify", "offsite"]);
        place.run(&PUSH).refused(1, &["--take-over"]);
        let done = place.json(&TAKE_OVER);
        assert_eq!((&done["lost"], &done["sent"]), (&json!([]), &json!([])), "{mode}");
        another(&place);
        place.ok(&PUSH);
        store.objects.assert_complete(&place);
    }
}

/// What it lies on is unmounted while it is sent to, and what is beneath can be written to all the same.
#[test]
fn on_what_is_beneath_a_disk_that_was_unmounted_no_replica_is_begun() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    another(&place);
    let there = store.objects.0.clone();
    let (mounted, aside) = (there.clone(), there.with_extension("aside"));
    let unmount = move |_: &str| {
        std::fs::rename(&mounted, mounted.with_extension("aside")).unwrap();
        std::fs::create_dir(&mounted).unwrap();
    };
    proxy.spoil(When::of("PUT", "attendance.db").once(), Fault::before(unmount));
    push(&place).refused(1, &["is gone", "mounted"]);
    assert_eq!(last_error(&place).as_deref(), Some("replica-catalog-lost"));
    assert_eq!(store.objects.keys_with("catalog/"), [""; 0]);
    std::fs::remove_dir_all(&there).unwrap();
    std::fs::rename(aside, there).unwrap();
    pushes(&place, &store);
}
