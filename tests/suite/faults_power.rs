//! The power goes in the midst of an operation, or as soon as it has said that it is done: what it said is so, and what it didn't
//! come to is as before [P1, P4, P5, P10].

use std::fs::File;
use std::path::Path;

use serde_json::Value;

use crate::calls::{Calls, Point};
use crate::disk_full::run_in_namespace;
use crate::faults::Change;
use crate::harness::{Place, Run, in_some_tries, thoroughness};
use crate::inject::{Spot, signal};
use crate::journal_restore::{POINT, killable};
use crate::objects::Objects;
use crate::power::Disk;
use crate::replica_scene::{PULL, PUSH, another, comes_whole, empty_machine, with_replica, with_two_there};
use crate::restore_scene::{ID, Past, RESTORE};
use crate::scene::{Context, Scene};
use crate::seasons::{self, DAILY, MANUAL, MONTHLY};
use crate::stores::Store;
use crate::tried::Tried;

/// As soon as the intent is recorded, and another one; all of them when there is time.
fn some(points: Vec<Point>, turn: usize) -> Vec<Point> {
    if thoroughness() == 1 {
        let intent = points.iter().find(|point| point.spot.call == "fdatasync");
        return intent.into_iter().chain(points.get(points.len() / 3 + turn * 2)).cloned().collect();
    }
    points.into_iter().step_by(if thoroughness() < 10 { 5 } else { 1 }).collect()
}

/// Runs an operation on a disk that is as it was before, and leaves there what is durable when the power goes at that point, or
/// right after its end. Nothing when it was through before the point.
fn cut(disk: &Disk, place: &Place, args: &[&str], at: Option<&Point>) -> Option<()> {
    disk.copy("before", "running");
    disk.swap("running");
    if let Some(point) = at {
        let (mut child, pid) = place.stopped(&point.spot, point.n, args)?;
        disk.copy("running", "cut");
        signal(&pid, "-KILL");
        child.wait().unwrap();
    } else {
        place.ok(args);
        disk.copy("running", "cut");
    }
    disk.swap("cut");
    Some(())
}

/// Cuts the power everywhere; `settles` says whether the operation was done.
fn cut_everywhere(name: &str, disk: &Disk, place: &Place, args: &[&str], turn: usize, settles: impl Fn() -> bool) {
    disk.swap("live");
    disk.copy("live", "before");
    let points = some(Calls::of(place, args).changing, turn);
    let mut tried = Tried::default();
    for at in points.iter().map(Some).chain([None]) {
        let context = Context(format!("{name}: the power was cut at {at:?}"));
        if cut(disk, place, args, at).is_some() {
            let done = settles();
            assert!(done || at.is_some(), "what was said to be done is not");
            tried.count(done, false);
        }
        drop(context);
    }
    println!("{name}, power cut: {tried:?}");
    assert!(tried.points > points.len() / 2 && tried.new < tried.points, "{name}: {tried:?}");
    tried.report(name, "power cut");
}

fn entries(place: &Place) -> Vec<Value> {
    let catalog = place.catalog();
    let standing = catalog["backups"].as_array().unwrap().iter().filter(|backup| backup["deleting"] != true);
    standing.cloned().collect()
}

pub fn place_on(disk: &Disk, of: &Place) -> Place {
    of.twin_in(tempfile::tempdir_in(disk.mounted()).unwrap())
}

/// In a namespace of its own, with a disk. Nothing where that can't be.
pub fn disk_for(test: &str) -> Option<Disk> {
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        let said = run_in_namespace(test);
        said.lines().filter(|line| line.contains("power")).for_each(|line| println!("{line}"));
        return None;
    }
    let disk = Disk::new();
    if disk.is_none() {
        println!("skipped, no power is cut: an image can't be mounted here (mount -o loop)");
    }
    disk
}

/// Files that were there before, all of it durable, and what somebody does who syncs and somebody who doesn't.
fn write_and_rename(in_folder: &Path, syncs: bool) {
    let synced = |path: &Path| {
        if syncs {
            File::open(path).unwrap().sync_all().unwrap();
        }
    };
    std::fs::write(in_folder.join("new"), "new").unwrap();
    synced(&in_folder.join("new"));
    std::fs::rename(in_folder.join("from"), in_folder.join("to")).unwrap();
    // As the catalog is replaced: what comes was synced, the folder wasn't.
    std::fs::rename(in_folder.join("next"), in_folder.join("current")).unwrap();
    synced(in_folder);
}

/// What there is of that: the new file, the one name and the other, and what the replaced file holds.
fn found(in_folder: &Path) -> (String, [bool; 2], String) {
    let text = |name: &str| std::fs::read_to_string(in_folder.join(name)).unwrap_or_default();
    (text("new"), ["from", "to"].map(|name| in_folder.join(name).exists()), text("current"))
}

/// Else the old state that is found after these cuts would show nothing. What the kernel writes by itself after some seconds is no
/// matter of who syncs: where the machine had no time meanwhile it is tried again.
#[test]
fn what_was_not_synced_is_lost_when_the_power_is_cut() {
    let Some(disk) = disk_for("faults_power::what_was_not_synced_is_lost_when_the_power_is_cut") else { return };
    let folders = ["synced", "unsynced"].map(|name| Path::new(&disk.mounted()).join(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
        for (name, text) in [("from", "it"), ("current", "old"), ("next", "next")] {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    disk.swap("live");
    disk.copy("live", "before");
    let new = || ("new".to_owned(), [false, true], "next".to_owned());
    in_some_tries(|| {
        disk.copy("before", "running");
        disk.swap("running");
        for (folder, syncs) in folders.iter().zip([true, false]) {
            write_and_rename(folder, syncs);
        }
        assert_eq!(folders.each_ref().map(|folder| found(folder)), [new(), new()]);
        disk.copy("running", "cut");
        disk.swap("cut");
        assert_eq!(found(&folders[0]), new(), "what was synced is not there");
        let unsynced = found(&folders[1]);
        let lost = (String::new(), [true, false], "old".to_owned());
        if unsynced == lost { Ok(()) } else { Err(format!("it is there without a sync: {unsynced:?}")) }
    });
    println!("power cut: what was not synced is lost");
    disk.swap("live");
}

/// A backup whose every sync is a mere word is not there after the cut: it would be seen here if one were left out.
#[test]
fn a_create_that_never_syncs_is_lost_when_the_power_is_cut() {
    let Some(disk) = disk_for("faults_power::a_create_that_never_syncs_is_lost_when_the_power_is_cut") else { return };
    let place = place_on(&disk, &seasons::of_three_months());
    disk.swap("live");
    disk.copy("live", "before");
    let before = place.ids().len();
    let create = ["create", "--type", "manual"];
    in_some_tries(|| {
        disk.copy("before", "running");
        disk.swap("running");
        let run = Run::of(place.faulty(&Spot::anywhere("fsync,?fdatasync"), "retval=0", &create).output().unwrap());
        assert_eq!((run.code, entries(&place).len() > before), (0, true), "{}", run.stderr);
        disk.copy("running", "cut");
        disk.swap("cut");
        let left = entries(&place).len();
        if left == before { Ok(()) } else { Err(format!("{left} backups without a sync")) }
    });
    println!("power cut: a backup that was not synced is lost");
    disk.swap("live");
}

fn is_pinned(place: &Place) -> bool {
    entries(place).iter().any(|it| it["id"] == MONTHLY && it["pinned"] == true)
}

#[test]
fn a_create_a_deletion_and_pins_whose_power_is_cut() {
    let Some(disk) = disk_for("faults_power::a_create_a_deletion_and_pins_whose_power_is_cut") else { return };
    let past = seasons::of_three_months();
    let has_a_new_daily =
        |place: &Place| entries(place).iter().any(|backup| backup["type"] == "daily" && backup["id"] != DAILY);
    let create = Scene::of(place_on(&disk, &past), &["create", "--type", "daily"], "create", has_a_new_daily);
    let create = Scene { operation: ("create", "daily-"), drops: vec![MONTHLY], ..create };
    let is_gone = |place: &Place| !entries(place).iter().any(|backup| backup["id"] == MONTHLY);
    let deletion = Scene::of(place_on(&disk, &past), &["delete", MONTHLY], "delete", is_gone);
    let deletion = Scene { drops: vec![MONTHLY], ..deletion };
    let pin = Scene::of(place_on(&disk, &past), &["pin", MONTHLY], "pin", is_pinned);
    let pinned = place_on(&disk, &past);
    pinned.ok(&["pin", MONTHLY]);
    let unpin = Scene::of(pinned, &["unpin", MONTHLY], "unpin", |place| !is_pinned(place));
    for (turn, scene) in [create, deletion, pin, unpin].iter().enumerate() {
        let settles = || scene.recovers(&scene.place, "a power cut");
        cut_everywhere(scene.operation.0, &disk, &scene.place, &scene.args, turn, settles);
    }
    disk.swap("live");
}

#[test]
fn a_change_of_settings_and_a_rebuild_whose_power_is_cut() {
    let Some(disk) = disk_for("faults_power::a_change_of_settings_and_a_rebuild_whose_power_is_cut") else { return };
    let is_saved = |place: &Place| {
        let bytes = std::fs::read(place.backups().join("settings.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).is_ok_and(|saved: Value| saved["retention"]["daily"] == 1)
    };
    let place = place_on(&disk, &seasons::of_four_days());
    let settings = Scene::of(place, &["config", "--set", "retention.daily=1"], "settings", is_saved);
    let settings = Scene { drops: vec!["daily-2025-02-10"], limit: 4, ..settings };
    let rebuild = crate::faults_tried::a_rebuild_of(place_on(&disk, &seasons::of_three_months()));
    for (turn, scene) in [settings, rebuild].iter().enumerate() {
        let settles = || scene.recovers(&scene.place, "a power cut");
        cut_everywhere(scene.operation.0, &disk, &scene.place, &scene.args, turn, settles);
    }
    disk.swap("live");
}

/// What was said to be whole is recorded as read back today.
#[test]
fn a_verification_and_a_rehearsal_whose_power_is_cut() {
    let Some(disk) = disk_for("faults_power::a_verification_and_a_rehearsal_whose_power_is_cut") else { return };
    let past = seasons::of_three_months();
    let is_verified = |place: &Place| {
        let verified = |it: &Value| it["id"] == MANUAL && !it["verified"]["at"].as_str().unwrap().starts_with("2025");
        entries(place).iter().any(verified)
    };
    let is_rehearsed = |place: &Place| place.json(&["status"])["lastDrill"]["ok"] == true;
    let verification = Scene::of(place_on(&disk, &past), &["verify", MANUAL], "verify", is_verified);
    let rehearsal = Scene::of(place_on(&disk, &past), &["drill"], "drill", is_rehearsed);
    // The audit log has no word of a verification.
    let settles = || verification.settles(&verification.place);
    cut_everywhere("verify", &disk, &verification.place, &verification.args, 0, settles);
    let settles = || rehearsal.recovers(&rehearsal.place, "a power cut");
    cut_everywhere("drill", &disk, &rehearsal.place, &rehearsal.args, 1, settles);
    disk.swap("live");
}

/// What was said to be sent is there, and nothing is named that isn't.
#[test]
fn a_push_to_a_folder_whose_power_is_cut() {
    let Some(disk) = disk_for("faults_power::a_push_to_a_folder_whose_power_is_cut") else { return };
    let store = Store::folder_in(tempfile::tempdir_in(disk.mounted()).unwrap());
    let mut built = with_replica(&store);
    built.set("BACKUP_RETENTION_MANUAL", "2");
    for _ in 0..2 {
        another(&built);
    }
    let place = place_on(&disk, &built);
    place.ok(&PUSH);
    another(&place);
    let newest = place.ids().remove(0);
    let settles = || {
        let objects: &Objects = &store.objects;
        objects.assert_true();
        let done = objects.ids().contains(&newest);
        place.ok(&PUSH);
        objects.assert_complete(&place);
        place.assert_whole();
        done
    };
    cut_everywhere("push", &disk, &place, &PUSH, 2, settles);
    disk.swap("live");
}

/// What was said to have come is here.
#[test]
fn a_pull_from_a_folder_whose_power_is_cut() {
    let Some(disk) = disk_for("faults_power::a_pull_from_a_folder_whose_power_is_cut") else { return };
    let store = Store::folder();
    let sender = with_two_there(&store);
    let empty = empty_machine(&sender, &store);
    let machine = place_on(&disk, &empty);
    let settles = || {
        let done = machine.backups().join("metadata.json").exists() && machine.ids() == sender.ids();
        comes_whole(&machine, &sender, &store);
        done
    };
    cut_everywhere("pull", &disk, &machine, &PULL, 1, settles);
    disk.swap("live");
}

/// Besides a restore of a backup (`restore_power`): all of it came back, or nothing did.
#[test]
fn what_brings_data_back_in_other_ways_and_whose_power_is_cut() {
    let test = "faults_power::what_brings_data_back_in_other_ways_and_whose_power_is_cut";
    let Some(disk) = disk_for(test) else { return };
    let (past, instant) = (Past::of(["wal", "delete"]), killable(["wal", "wal"]));
    let restored = past.twin();
    restored.ok(&RESTORE);
    let offline = ["restore", ID, "--confirm", ID, "--offline", "--app-is-stopped"];
    let ways = [
        ("undo", &restored, &["undo"][..]),
        ("offline restore", &past.scene.place, &offline),
        ("restore --at", &instant.scene.place, &POINT),
    ];
    let ways = ways.map(|(name, of, args)| (name, place_on(&disk, of), args));
    let ways = ways.map(|(name, place, args)| (name, Change::of(&place, args), place, args));
    for (turn, (name, change, place, args)) in ways.iter().enumerate() {
        cut_everywhere(name, &disk, place, args, turn, || change.settles(place));
    }
    disk.swap("live");
}
