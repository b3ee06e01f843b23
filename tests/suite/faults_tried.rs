//! The operations that the faults are tried on.

use std::rc::Rc;

use serde_json::Value;

use crate::faults::{Operation, Struck};
use crate::harness::Place;
use crate::inject::Spot;
use crate::replica_scene::{PULL, PUSH, another, comes_whole, empty_machine, with_replica, with_two_there};
use crate::restore_scene::{ID, Past, RESTORE};
use crate::scene::Scene;
use crate::seasons::{self, DAILY, MANUAL, MONTHLY};
use crate::stores::Store;

/// Entries that stand in the catalog as it lies there; nothing of one that isn't there or is damaged.
fn entries(place: &Place) -> Vec<Value> {
    let bytes = std::fs::read(place.backups().join("metadata.json")).unwrap_or_default();
    let catalog: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let standing = catalog["backups"].as_array().cloned().unwrap_or_default().into_iter();
    standing.filter(|backup| backup["deleting"] != true).collect()
}

fn has_a_new_daily(place: &Place) -> bool {
    entries(place).iter().any(|backup| backup["type"] == "daily" && backup["id"] != DAILY)
}

fn is_pinned(place: &Place, id: &str) -> bool {
    entries(place).iter().any(|backup| backup["id"] == id && backup["pinned"] == true)
}

pub fn a_create() -> Scene {
    let place = seasons::of_three_months();
    let scene = Scene::of(place, &["create", "--type", "daily"], "create", has_a_new_daily);
    Scene { operation: ("create", "daily-"), drops: vec![MONTHLY], ..scene }
}

#[test]
fn of_a_create_and_of_the_recovery_from_one() {
    let scene = a_create();
    Operation::changing("create", &scene).suffers(0);
    // Ended between the names and the catalog, and between the catalog and the removals.
    let ended = [(Spot::anywhere("linkat"), 3, false), (Spot::on("unlink", "monthly/attendance-2025-01.db"), 1, true)];
    for (turn, (spot, n, done)) in ended.into_iter().enumerate() {
        let crashed = scene.place.twin();
        assert!(crashed.killed(&spot, n, &scene.args) && has_a_new_daily(&crashed) == done, "{spot} {n}");
        let settles = |place: &Place, struck: &Struck| struck.settled(&scene, place);
        Operation::of("recovery", &crashed, &["create"], settles).suffers(turn + 1);
    }
}

#[test]
fn of_what_changes_the_catalog() {
    let of = |args: &[&'static str], operation, done: fn(&Place) -> bool| {
        Scene::of(seasons::of_three_months(), args, operation, done)
    };
    let is_gone = |place: &Place| !entries(place).iter().any(|backup| backup["id"] == MONTHLY);
    let deletion = Scene { drops: vec![MONTHLY], ..of(&["delete", MONTHLY], "delete", is_gone) };
    Operation::changing("delete", &deletion).suffers(0);
    let pin = of(&["pin", MONTHLY], "pin", |place| is_pinned(place, MONTHLY));
    Operation::changing("pin", &pin).suffers(1);
    let is_saved = |place: &Place| {
        let bytes = std::fs::read(place.backups().join("settings.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).is_ok_and(|saved: Value| saved["retention"]["daily"] == 1)
    };
    let settings = Scene::of(seasons::of_four_days(), &["config", "--set", "retention.daily=1"], "settings", is_saved);
    let settings = Scene { drops: vec!["daily-2025-02-10"], limit: 4, ..settings };
    Operation::changing("settings", &settings).suffers(2);
    let rebuild = a_rebuild_of(seasons::of_three_months());
    // On a disk that goes bad what can be read comes back, and what can't is told.
    let settles = |place: &Place, struck: &Struck| {
        let (done, run) = (struck.settled(&rebuild, place), &struck.run);
        assert!(
            done || run.code != 0 || run.stdout.contains(&format!("left out: {MANUAL}")),
            "it says that it is done: {}",
            run.stdout
        );
        done
    };
    Operation::of("rebuild", &rebuild.place, &rebuild.args, settles).suffers(0);
}

/// A catalog that was cut in two; only the one before it knows of a pin.
pub fn a_rebuild_of(place: Place) -> Scene {
    place.ok(&["pin", MANUAL]);
    let args = ["catalog", "rebuild"];
    let mut scene = Scene::of(place, &args, "rebuild", |place| is_pinned(place, MANUAL));
    scene.next = vec![args.to_vec(), vec!["create"]];
    let catalog = scene.place.backups().join("metadata.json");
    let bytes = std::fs::read(&catalog).unwrap();
    std::fs::write(&catalog, &bytes[..bytes.len() / 2]).unwrap();
    scene
}

#[test]
fn of_what_reads_backups() {
    let place = seasons::of_three_months();
    let scene = |args: &[&'static str]| Scene::of(place.twin(), args, "none", |_| false);
    for (turn, args) in [&["verify", MANUAL][..], &["preview", MANUAL], &["drill"]].into_iter().enumerate() {
        Operation::reading(args[0], &scene(args)).suffers(turn);
    }
    let download = scene(&["download", MANUAL, "--database", "auth", "-o", "{}/out"]);
    let whole = std::fs::read(place.backups().join("manual/auth-2025-03-04T030000Z.db")).unwrap();
    let settles = |place: &Place, struck: &Struck| {
        download.settles(place);
        let out = std::fs::read(place.path("out")).ok();
        assert!(out.as_ref().is_none_or(|out| *out == whole), "half a download");
        assert!(out.is_some() || struck.run.code != 0, "it says that it is done");
        out.is_some()
    };
    Operation::of("download", &place, &download.args, settles).suffers(0);
}

#[test]
fn of_what_brings_data_back() {
    for (turn, modes) in [["wal", "delete"], ["delete", "wal"]].into_iter().enumerate() {
        let past = Past::of(modes);
        let restored = past.twin();
        restored.ok(&RESTORE);
        Operation::restoring("undo", &restored, &["undo"]).suffers(turn);
        let offline = ["restore", ID, "--confirm", ID, "--offline", "--app-is-stopped"];
        Operation::restoring("offline restore", &past.scene.place, &offline).suffers(turn + 1);
    }
    let past = crate::journal_restore::killable(["wal", "wal"]);
    Operation::restoring("restore --at", &past.scene.place, &crate::journal_restore::POINT).suffers(2);
}

fn pull<'a>(name: &'static str, place: &'a Place, store: &'a Store) -> Operation<'a> {
    let settles = move |machine: &Place, struck: &Struck| {
        let done = struck.run.code == 0;
        assert!(!done || machine.ids() == place.ids(), "it says that it is done");
        comes_whole(machine, place, store);
        done
    };
    let fresh = move || Rc::new(empty_machine(place, store));
    Operation { name, fresh: Box::new(fresh), args: PULL.to_vec(), settles: Box::new(settles) }
}

/// One comes and one goes there each time.
fn push<'a>(name: &'static str, place: &'a Rc<Place>, store: &'a Store) -> Operation<'a> {
    let settles = move |place: &Place, struck: &Struck| {
        store.objects.assert_true();
        let done = store.objects.ids().contains(&place.ids()[0]);
        assert!(done || struck.run.code != 0, "it says that it is done");
        place.ok(&PUSH);
        store.objects.assert_complete(place);
        place.assert_whole();
        done
    };
    let fresh = move || {
        another(place);
        Rc::clone(place)
    };
    Operation { name, fresh: Box::new(fresh), args: PUSH.to_vec(), settles: Box::new(settles) }
}

/// Two of the two that may be there.
fn pushed(store: &Store, mode: &str) -> Rc<Place> {
    let mut place = with_replica(store);
    place.set("BACKUP_RETENTION_MANUAL", "2").set("BACKUP_REPLICA_OFFSITE_MODE", mode);
    for _ in 0..2 {
        another(&place);
        place.ok(&PUSH);
    }
    Rc::new(place)
}

#[test]
fn of_a_pull() {
    let store = Store::folder();
    pull("pull", &with_two_there(&store), &store).suffers(0);
}

#[test]
fn of_a_push() {
    for (turn, (name, mode)) in [("push", "full"), ("push of changes", "incremental")].into_iter().enumerate() {
        let store = Store::folder();
        push(name, &pushed(&store, mode), &store).suffers(turn + 1);
    }
}

#[test]
fn of_what_goes_over_a_network() {
    let names = [["push to S3", "pull from S3"], ["push to WebDAV", "pull from WebDAV"]];
    for (turn, (store, [there, back])) in [Store::s3(), Store::webdav()].into_iter().zip(names).enumerate() {
        push(there, &pushed(&store, if turn == 0 { "incremental" } else { "full" }), &store).suffers(turn);
        let store = if turn == 0 { Store::s3() } else { Store::webdav() };
        pull(back, &with_two_there(&store), &store).suffers(turn + 1);
    }
}
