//! Encoded backups on machines that die and disks that are full, and under an app that writes: as plain ones
//! [P1, P3, P4, P6, P7, P11].

use std::time::Duration;

use serde_json::Value;

use crate::disk_full::SmallDisk;
use crate::harness::{PROGRAM, Place, thoroughness, tree};
use crate::inject::{Spot, goes_on};
use crate::restore_app::{id, restore};
use crate::restore_scene::{Past, RESTORE, identities, live_spots};
use crate::scene::Scene;
use crate::seasons::{self, MONTHLY};
use crate::tried::Tried;

fn stride() -> usize {
    if thoroughness() >= 2 { 1 } else { 17 }
}

fn has_a_new_daily(place: &Place) -> bool {
    let bytes = std::fs::read(place.backups().join("metadata.json")).unwrap_or_default();
    let catalog: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut standing = catalog["backups"].as_array().into_iter().flatten().filter(|it| it["deleting"] != true);
    standing.any(|backup| backup["type"] == "daily" && backup["id"] != seasons::DAILY)
}

/// A daily in a form of its own after plain ones, which promotes and drops some of them.
#[test]
fn a_killed_create_leaves_the_old_or_the_new() {
    let mut place = seasons::of_three_months();
    place.keyed();
    place.writes(true, true);
    let scene = Scene::of(place, &["create", "--type", "daily"], "create", has_a_new_daily);
    Scene { operation: ("create", "daily-"), drops: vec![MONTHLY], ..scene }.kill_everywhere(stride());
}

/// Both databases are old or both are new, and the pre-restore backup has all that was there.
#[test]
fn a_killed_restore_is_settled() {
    let mut place = Place::empty();
    place.keyed();
    place.writes(true, true);
    let past = Past::at(place, ["wal", "delete"]);
    let anywhere = ["write", "fsync", "rename", "renameat2", "unlink"].map(Spot::anywhere);
    let (mut tried, mut done) = (0, 0);
    for (number, spot) in anywhere.into_iter().chain(live_spots()).enumerate() {
        let mut n = 1 + number % 3;
        loop {
            let place = past.twin();
            let before = identities(&place);
            if !place.killed(&spot, n, &RESTORE) {
                break;
            }
            place.ok(&["create"]);
            tried += 1;
            done += usize::from(past.assert_settled(&place, &before, None));
            n += if thoroughness() >= 2 { 1 } else { 13 };
        }
    }
    println!("restores of encoded backups: {tried} tried, {done} done");
    Tried::of(tried, done, 0).report("restore of encoded backups", "kill -9");
    assert!(tried > 10 && done > 0 && done < tried, "{tried} {done}");
}

#[test]
fn a_disk_that_fills_up_costs_no_older_backup_and_leaves_nothing_plain() {
    let test = "codec_crash::a_disk_that_fills_up_costs_no_older_backup_and_leaves_nothing_plain";
    let Some(mut disk) = SmallDisk::of(test, "size=6m,mode=0700") else { return };
    disk.place.keyed();
    disk.place.writes(true, true);
    disk.place.sql("attendance", "CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(2000000))");
    disk.place.sql("attendance", "PRAGMA wal_checkpoint(TRUNCATE)");
    let before = disk.place.list();
    // Room for the plain copy, and not for the encoded one besides.
    let filler = disk.place.path("backups/filler");
    let free = 6 << 20;
    for taken in [free - (2 << 20), free - (7 << 19), free - (9 << 19)] {
        std::fs::write(&filler, vec![1; taken]).unwrap();
        std::fs::set_permissions(&filler, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        disk.place.run(&["create"]).refused(1, &["full"]);
        assert_eq!(disk.place.list(), before);
        disk.place.assert_whole();
    }
    std::fs::remove_file(&filler).unwrap();
    // By the preflight there is room, and then there isn't.
    for call in ["write", "fsync", "renameat2"] {
        for n in [1, 2] {
            let spot = Spot::anywhere(call);
            let run = disk.place.faulty(&spot, &format!("error=ENOSPC:when={n}+"), &["create"]).output().unwrap();
            assert!(!run.status.success(), "{call} {n}");
            assert_eq!(disk.place.list().len(), before.len(), "{call} {n}");
            disk.place.assert_whole();
        }
    }
    let backup = disk.place.create();
    disk.place.ok(&["verify", id(&backup)]);
    disk.place.assert_whole();
    // A rebuild that has no room to look into a copy leaves it in the catalog.
    let before = disk.place.list();
    disk.fill();
    disk.place.run(&["catalog", "rebuild"]).refused(1, &["full"]);
    assert_eq!(disk.place.list(), before);
    disk.empty();
    assert_eq!(disk.place.json(&["catalog", "rebuild"])["backups"].as_array().unwrap().len(), before.len());
    disk.place.assert_whole();
}

/// An app that writes without pause loses nothing and gets no error, while it is backed up, restored and given back.
#[test]
fn restores_go_on_under_an_app_that_writes() {
    let place = Place::of_form(true, true);
    let writer = place.writer(0.001);
    let backup = place.create();
    std::thread::sleep(Duration::from_millis(300));
    place.ok(&["create"]);
    restore(&place, &backup);
    std::thread::sleep(Duration::from_millis(200));
    place.ok(&["verify", "--all"]);
    let written = writer.stop();
    assert!(written.errors.is_empty() && written.pairs > 20, "{:?} {}", written.errors, written.pairs);
    let taken = place.list().into_iter().find(|it| it["type"] == "pre-restore").unwrap();
    assert_eq!(taken["databases"]["auth"]["form"], "db.zst.age");
    assert_eq!(taken["checked"]["ok"], true);
    place.assert_whole();
    place.ok(&["undo"]);
    place.assert_whole();
}

/// What an app commits between the snapshot and the locks is in the encoded pre-restore backup as well [P7].
#[test]
fn what_came_since_the_snapshot_is_in_the_pre_restore_backup() {
    let place = Place::of_form(true, true);
    let backup = place.create();
    // Stopped where the copies are encoded already, and no lock is taken yet: the app goes on.
    let partial = tree(&place.backups()).len();
    assert!(partial > 0);
    let args = ["restore", id(&backup), "--confirm", id(&backup)];
    let mut commits = 0;
    for n in 1..200 {
        let twin = place.twin();
        let spot = Spot::anywhere("fsync");
        let Some((child, pid)) = twin.stopped(&spot, n, &args) else { break };
        let encoded = tree(&twin.backups()).iter().filter(|it| it.0.ends_with(".db.zst.age.partial")).count();
        if encoded == 2 {
            twin.sql("attendance", "INSERT INTO people (name) VALUES ('in between')");
            commits += 1;
        }
        let run = goes_on(child, &pid);
        assert_eq!(run.code, 0, "{n}: {}", run.stderr);
        if encoded == 2 {
            let taken = twin.list().into_iter().find(|it| it["type"] == "pre-restore").unwrap();
            let dir = tempfile::tempdir().unwrap();
            let plain = twin.decoded(&taken["databases"]["attendance"], dir.path()).unwrap();
            let people = crate::harness::sql_on_copy(&plain, "SELECT count(*) FROM people WHERE name = 'in between'");
            assert_eq!(people, "1", "a commit that the app was told of is lost");
            assert_eq!(taken["databases"]["attendance"]["tables"]["people"], 4);
            twin.assert_whole();
            break;
        }
    }
    assert_eq!(commits, 1, "never stopped between the snapshot and the locks");
}

/// Runs it, in no more than 40 MiB above what the program takes to list backups: 64 MiB in all as it is released, and more only
/// by the pages of a program that is not optimised.
fn ran(place: &Place, args: &[&str]) {
    let (idle, most) = (peak_of(place, &["list"]), peak_of(place, args));
    println!("{args:?}: {} MB of memory, {} to list", most >> 20, idle >> 20);
    assert!(most < idle + (40 << 20), "{args:?}: {most} bytes of memory, {idle} to list");
}

/// By the kernel's own word (getrusage(2)); the shell that starts it is smaller than it is.
fn peak_of(place: &Place, args: &[&str]) -> u64 {
    let script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); \
                  print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let mut python = place.command_of("python3");
    let output = python.args(["-c", script, PROGRAM]).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap() << 10
}

/// Memory is that of the codec, whatever the size of the database.
#[test]
fn a_large_database_takes_little_memory() {
    let place = Place::of_form(true, true);
    place.fill(300);
    ran(&place, &["create"]);
    let backup = place.list().remove(0);
    assert!(backup["databases"]["attendance"]["size"].as_u64().unwrap() > 300_000_000);
    ran(&place, &["verify", id(&backup)]);
    place.sql("attendance", "DELETE FROM blobs WHERE rowid % 2 = 0");
    let out = place.path("out").display().to_string();
    ran(&place, &["download", id(&backup), "--database", "attendance", "-o", &out]);
    ran(&place, &["restore", id(&backup), "--confirm", id(&backup)]);
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM blobs"), "600");
}

/// And whatever the level: of those that have the largest tables for what they do, and the most threads.
#[test]
fn no_level_takes_much_memory() {
    let mut place = Place::of_form(true, true);
    place.fill(20);
    for level in ["4", "8", "9", "10", "19"] {
        place.set("BACKUP_COMPRESSION_LEVEL", level);
        ran(&place, &["create"]);
        ran(&place, &["verify", place.ids()[0].as_str()]);
    }
}
