//! A store that loses the newest catalog when all was done: the one before it finds all that it names.

use serde_json::json;

use crate::replica_scene::{PUSH, Wrongs, another, empty_machine, with_replica};
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
