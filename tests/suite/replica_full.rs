//! A replica without room: what was cut short takes none for long, and what is to go there goes before the rest has to fail again.

use serde_json::Value;

use crate::disk_full::{mount, run_in_namespace};
use crate::fault::{Fault, When};
use crate::harness::Place;
use crate::replica_scene::{PUSH, Wrongs, another, last_error, push, pushes, with_replica};
use crate::restore_app::id;
use crate::stores::Store;

/// The link dies again and again, each time after one of two databases is there.
#[test]
fn what_was_cut_short_does_not_pile_up() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    another(&place);
    proxy.spoil(When::of("PUT", "auth.db"), Fault::error(503, "SlowDown"));
    for _ in 0..3 {
        push(&place).refused(1, &["offsite"]);
        let left = store.objects.orphans();
        assert!(left.len() == 1 && left[0].contains("attendance.db"), "{left:?}");
    }
    proxy.heal();
    pushes(&place, &store);
}

/// A store that lets nothing go is sent to all the same.
#[test]
fn a_leftover_that_stays_is_in_no_backup_s_way() {
    let (store, proxy) = Store::s3().proxied();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    let leftover = leftover(&store);
    store.objects.put(&leftover, b"cut short");
    another(&place);
    proxy.spoil(When::of("DELETE", "5f0c2a9be1d37784"), Fault::error(403, "AccessDenied"));
    push(&place).refused(1, &["offsite"]);
    assert_eq!(last_error(&place).as_deref(), Some("replica-refused"));
    assert_eq!(store.objects.ids().len(), 2);
    proxy.heal();
    pushes(&place, &store);
    assert!(store.objects.get(&leftover).is_none());
}

/// What another sending of a backup would be called.
fn leftover(store: &Store) -> String {
    let (key, _) = store.objects.named().into_iter().next().unwrap();
    key.replace(store.objects.held()[0]["nonce"].as_str().unwrap(), "5f0c2a9be1d37784")
}

#[test]
fn what_is_left_there_takes_no_backup_s_room() {
    let test = "replica_full::what_is_left_there_takes_no_backup_s_room";
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        run_in_namespace(test);
        return;
    }
    let store = Store::folder();
    mount(&["-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs"], &store.objects.0);
    let place = with_replica(&store);
    place.sql("attendance", "CREATE TABLE blobs (bytes); INSERT INTO blobs VALUES (randomblob(1000000))");
    place.create();
    pushes(&place, &store);
    store.objects.put(&leftover(&store), &vec![0; 2_500_000]);
    another(&place);
    pushes(&place, &store);
}

/// What becomes of four backups there when a fifth doesn't fit, and what was wanted by then.
struct Case {
    name: &'static str,
    wanted: fn(&mut Place, &[Value]),
    left: &'static [u64],
}

/// All of it will never fit. What came of it goes when it goes here, and makes room.
#[test]
fn what_came_before_it_was_full_is_let_go() {
    let (store, proxy) = Store::s3().proxied();
    let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
    let place = with_replica(&store);
    let backups: Vec<Value> = (0..4).map(|_| another(&place)).collect();
    proxy.spoil(When::of("PUT", "attendance.db").from(3), Fault::error(507, "XMinioStorageFull"));
    let there = || store.objects.held().iter().map(|held| held["sequence"].as_u64().unwrap()).collect::<Vec<_>>();
    push(&place).refused(1, &["full"]);
    assert_eq!(there(), [3, 4]);
    place.ok(&["delete", id(&backups[2])]);
    push(&place).refused(1, &["full"]);
    assert_eq!(there(), [4]);
    proxy.heal();
    pushes(&place, &store);
    assert_eq!(there(), [1, 2, 4]);
    wrongs.assert_none();
}

const OWN: &str = "BACKUP_REPLICA_OFFSITE_RETENTION_MANUAL";
const HERE: &str = "BACKUP_RETENTION_MANUAL";

const CASES: [Case; 5] = [
    Case { name: "nothing else", wanted: |_, _| {}, left: &[1, 2, 3, 4] },
    Case { name: "fewer there", wanted: |place, _| _ = place.set(OWN, "2"), left: &[3, 4] },
    Case { name: "fewer here", wanted: |place, _| _ = place.set(HERE, "2"), left: &[3, 4] },
    Case {
        name: "two were deleted",
        wanted: |place, backups| backups[1..3].iter().for_each(|it| drop(place.ok(&["delete", id(it)]))),
        left: &[1, 4],
    },
    Case {
        name: "the newest there was deleted too",
        wanted: |place, backups| backups[2..].iter().for_each(|it| drop(place.ok(&["delete", id(it)]))),
        left: &[1, 2, 4],
    },
];

/// Nothing goes for the sake of what isn't there yet, nor the newest that is.
#[test]
fn a_full_store_lets_go_what_would_go_anyway() {
    for Case { name, wanted, left } in CASES {
        let (store, proxy) = Store::s3().proxied();
        let wrongs = Wrongs::in_all_of(&proxy, &store.objects);
        let mut place = with_replica(&store);
        place.set(HERE, "4");
        let backups: Vec<Value> = (0..4).map(|_| another(&place)).collect();
        pushes(&place, &store);
        wanted(&mut place, &backups);
        another(&place);
        proxy.spoil(When::of("PUT", "attendance.db"), Fault::error(507, "XMinioStorageFull"));
        for _ in 0..2 {
            push(&place).refused(1, &["full"]);
            assert_eq!(last_error(&place).as_deref(), Some("replica-full"));
            let there: Vec<_> = store.objects.held().iter().filter_map(|held| held["sequence"].as_u64()).collect();
            assert_eq!(there, left, "{name}");
            store.objects.assert_tidy();
        }
        proxy.heal();
        place.ok(&PUSH);
        store.objects.assert_tidy();
        let newest = store.objects.held().pop().unwrap();
        assert_eq!(newest["sequence"], 5, "{name}");
        wrongs.assert_none();
    }
}
