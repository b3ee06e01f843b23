//! kill -9 at every call that changes the disk, of every operation that does, and again during the recovery from it:
//! the old state or the new one, and nothing in between [P1, P4, P5, P10].

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Place, thoroughness};
use crate::inject::Spot;
use crate::scene::{Scene, report};
use crate::seasons::{self, DAILY, MANUAL, MONTHLY};

/// Between two points that are tried: all of them when there is time.
fn stride() -> usize {
    if thoroughness() >= 2 { 1 } else { 6 }
}

/// The catalog as it lies there; nothing of one that isn't there or is damaged.
fn entries(place: &Place) -> Vec<Value> {
    let bytes = std::fs::read(place.backups().join("metadata.json")).unwrap_or_default();
    let catalog: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let standing = catalog["backups"].as_array().cloned().unwrap_or_default().into_iter();
    standing.filter(|backup| backup["deleting"] != true).collect()
}

fn entry(place: &Place, id: &str) -> Option<Value> {
    entries(place).into_iter().find(|backup| backup["id"] == id)
}

fn has_a_new_daily(place: &Place) -> bool {
    entries(place).iter().any(|backup| backup["type"] == "daily" && backup["id"] != DAILY)
}

/// A daily that promotes into weeks and months and drops a month.
fn create() -> Scene {
    let place = seasons::of_three_months();
    let scene = Scene::of(place, &["create", "--type", "daily"], "create", has_a_new_daily);
    Scene { operation: ("create", "daily-"), drops: vec![MONTHLY], ..scene }
}

#[test]
fn a_create_that_rotates() {
    create().kill_everywhere(stride());
}

#[test]
fn the_first_create() {
    let scene = Scene::of(Place::new(), &["create", "--type", "daily"], "create", has_a_new_daily);
    Scene { operation: ("create", "daily-"), ..scene }.kill_everywhere(stride());
}

fn deletion() -> Scene {
    let is_gone = |place: &Place| entry(place, MONTHLY).is_none();
    let scene = Scene::of(seasons::of_three_months(), &["delete", MONTHLY], "delete", is_gone);
    Scene { drops: vec![MONTHLY], ..scene }
}

#[test]
fn a_deletion() {
    deletion().kill_everywhere(stride());
}

#[test]
fn a_pin() {
    let is_pinned = |place: &Place| entry(place, MONTHLY).unwrap()["pinned"] == true;
    Scene::of(seasons::of_three_months(), &["pin", MONTHLY], "pin", is_pinned).kill_everywhere(stride());
}

/// Of four days, the saved setting leaves the last; the others become a week and a month, but for one.
fn changed_retention() -> Scene {
    let is_saved = |place: &Place| {
        let bytes = std::fs::read(place.backups().join("settings.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).is_ok_and(|saved: Value| saved["retention"]["daily"] == 1)
    };
    let args = ["config", "--set", "retention.daily=1"];
    let scene = Scene::of(seasons::of_four_days(), &args, "settings", is_saved);
    Scene { drops: vec!["daily-2025-02-10"], limit: 4, ..scene }
}

#[test]
fn a_changed_retention() {
    changed_retention().kill_everywhere(stride());
}

/// What only the catalog before knew, a pin, is still known after any number of tries.
#[test]
fn a_rebuild() {
    let place = seasons::of_three_months();
    place.ok(&["pin", MANUAL]);
    let is_readable = |place: &Place| entry(place, MANUAL).is_some_and(|backup| backup["pinned"] == true);
    let args = ["catalog", "rebuild"];
    let mut scene = Scene::of(place, &args, "rebuild", is_readable);
    scene.next = vec![args.to_vec(), vec!["create"]];
    let catalog = scene.place.backups().join("metadata.json");
    let bytes = std::fs::read(&catalog).unwrap();
    std::fs::write(&catalog, &bytes[..bytes.len() / 2]).unwrap();
    scene.kill_everywhere(stride());
}

/// A crash has cut the last line of the audit log in two: who comes next puts that right, and is ended at it.
#[test]
fn after_a_torn_audit_line() {
    let place = seasons::of_three_months();
    let log = place.backups().join("audit.jsonl");
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 100]).unwrap();
    let is_pinned = |place: &Place| entry(place, MONTHLY).unwrap()["pinned"] == true;
    Scene::of(place, &["pin", MONTHLY], "pin", is_pinned).kill_everywhere(stride());
}

/// Ended again during the recovery from a first end at each of these calls.
fn kill_recoveries(title: &str, scene: &Scene, firsts: &[(&'static str, usize)]) {
    let stride = if thoroughness() >= 2 { 1 } else { 23 };
    let mut tallies = BTreeMap::new();
    for &(call, n) in firsts {
        let spot = Spot { call, path: None };
        tallies.insert(format!("{spot} {n}"), scene.kill_recovery(&spot, n, stride));
    }
    report(title, &tallies);
}

/// First ended between names, catalog and removals, where recovery has most to do.
#[test]
fn a_recovery_from_a_create() {
    let early = [("fdatasync", 1), ("fsync", 2), ("linkat", 3), ("renameat2", 2), ("rename", 1), ("rename", 2)];
    let late = [("unlink", 3), ("unlink", 5), ("unlink", 8), ("rename", 4), ("fdatasync", 2), ("fsync", 12)];
    kill_recoveries("recovery from a create that rotates", &create(), &[early, late].concat());
}

#[test]
fn a_recovery_from_a_deletion() {
    let firsts = [("rename", 1), ("unlink", 3), ("unlink", 4), ("rename", 3), ("fdatasync", 2)];
    kill_recoveries("recovery from a deletion", &deletion(), &firsts);
}

/// Also with the rotation that was due and is now done by the recovery itself.
#[test]
fn a_recovery_from_a_changed_retention() {
    let firsts = [("rename", 1), ("fsync", 2), ("linkat", 2), ("rename", 3), ("unlink", 6), ("fdatasync", 2)];
    kill_recoveries("recovery from a changed retention", &changed_retention(), &firsts);
}
