//! What can't be backed up is refused: with the reason and what to do, nothing half kept, nothing made at the app's
//! path, the older backups as they were [P1, P4].

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::app::App;
use crate::disk_full::{mount, run_in_namespace};
use crate::harness::{PROGRAM, Place, Run, Writer, in_some_tries, in_time, python, sql_on, sql_on_copy};
use crate::inject::{Spot, goes_on};

/// What lies beside the live databases: names, and how large each is, but for the backups.
fn beside(place: &Place) -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap());
    let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()));
    named.filter(|(name, _)| name != "backups").collect()
}

/// A place with a good backup, whose `attendance` then isn't what it was.
fn spoilt(spoil: impl FnOnce(&Place, &Path)) -> Place {
    let mut place = Place::new();
    place.set("BACKUP_LOCK_TIMEOUT", "500ms");
    place.create();
    // The app closes: nothing is left in the WAL.
    place.sql("attendance", "SELECT 1");
    spoil(&place, &place.live("attendance"));
    place
}

/// A backup is refused, and nothing else happens. Should it hang, it is ended.
#[track_caller]
fn assert_refused(place: &Place, words: &[&str]) {
    let before = beside(place);
    let mut command = place.command_of("timeout");
    let run = Run::of(command.args(["20", PROGRAM, "create"]).output().unwrap());
    run.refused(1, words);
    assert_eq!(beside(place), before, "something changed beside the live databases");
    assert_eq!(place.ids().len(), 1);
    place.assert_whole();
    let failed = place.json(&["status"])["lastFailure"]["reason"].to_string();
    assert!(failed.contains("attendance"), "{failed}");
}

#[test]
fn a_missing_database_is_refused_and_stays_missing() {
    let place = spoilt(|_, live| std::fs::remove_file(live).unwrap());
    assert_refused(&place, &["`attendance` is missing", "BACKUP_DATABASES", "mounted"]);
    assert!(!place.live("attendance").exists());
    assert!(place.warnings().contains(&"rotation-frozen".to_owned()));
}

#[test]
fn an_empty_database_is_refused_and_its_wal_survives() {
    let place = spoilt(|_, live| std::fs::write(live, b"").unwrap());
    assert_refused(&place, &["`attendance`", "is empty (0 bytes)"]);
    std::fs::write(place.path("attendance.db-wal"), [7; 5000]).unwrap();
    assert_refused(&place, &["`attendance`", "is empty (0 bytes)"]);
    assert_eq!(std::fs::read(place.path("attendance.db-wal")).unwrap(), [7; 5000]);
}

#[test]
fn what_is_no_database_is_refused() {
    let noise: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for content in [b"Dear diary,\n".repeat(500), noise, b"short".to_vec()] {
        let place = spoilt(|_, live| std::fs::write(live, &content).unwrap());
        assert_refused(&place, &["`attendance` is not a SQLite database", "encrypted"]);
        assert_eq!(std::fs::read(place.live("attendance")).unwrap(), content);
    }
}

#[test]
fn what_is_no_file_is_refused_and_does_not_hang() {
    let folder = |_: &Place, live: &Path| {
        std::fs::remove_file(live).unwrap();
        std::fs::create_dir(live).unwrap();
    };
    assert_refused(&spoilt(folder), &["`attendance`", "is not a file"]);
    let pipe = |_: &Place, live: &Path| {
        std::fs::remove_file(live).unwrap();
        python("import os, sys; os.mkfifo(sys.argv[1])", &[live]);
    };
    assert_refused(&spoilt(pipe), &["`attendance`", "is not a file"]);
}

#[test]
fn a_second_name_of_a_database_is_refused() {
    let place = spoilt(|place, live| std::fs::hard_link(live, place.path("other.db")).unwrap());
    assert_refused(&place, &["`attendance`", "2 hard links", "remove the other names"]);
}

/// As `-v ./attendance.db:/data/attendance.db` has it: the app's `-wal` lies elsewhere.
#[test]
fn a_file_that_is_mounted_alone_is_refused_and_a_folder_is_not() {
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        run_in_namespace("refusals::a_file_that_is_mounted_alone_is_refused_and_a_folder_is_not");
        return;
    }
    let alone = |place: &Place, live: &Path| {
        let elsewhere = place.path("elsewhere.db");
        std::fs::rename(live, &elsewhere).unwrap();
        std::fs::write(live, b"").unwrap();
        mount(&["--bind", elsewhere.to_str().unwrap()], live);
    };
    let mut place = spoilt(alone);
    let words = ["`attendance`", "is a mount by itself", "mount the folder that holds it"];
    assert_refused(&place, &words);
    let (id, before) = (place.ids().remove(0), std::fs::read(place.live("attendance")).unwrap());
    for more in [&[][..], &["--offline", "--app-is-stopped"]] {
        place.run(&[&["restore", &id, "--confirm", &id][..], more].concat()).refused(1, &words);
    }
    let preview = place.run(&["preview", &id]).stdout;
    assert!(preview.contains("a restore would be refused") && preview.contains(words[1]), "{preview}");
    assert!(std::fs::read(place.live("attendance")).unwrap() == before);
    let live = place.live("attendance");
    assert!(Command::new("umount").arg(&live).status().unwrap().success());
    std::fs::rename(place.path("elsewhere.db"), &live).unwrap();
    std::fs::create_dir(place.path("data")).unwrap();
    mount(&["--bind", place.path("").to_str().unwrap()], &place.path("data"));
    let named =
        ["attendance", "auth"].map(|name| format!("{name}={}", place.path(&format!("data/{name}.db")).display()));
    place.set("BACKUP_DATABASES", &named.join(","));
    place.ok(&["create"]);
}

#[test]
fn two_databases_in_one_file_stop_the_start() {
    let place = Place::new();
    std::fs::remove_file(place.live("auth")).unwrap();
    symlink(place.live("attendance"), place.live("auth")).unwrap();
    let commands: [&[&str]; 3] = [&["create"], &["status"], &["serve"]];
    for args in commands {
        place.run(args).refused(1, &["`attendance` and `auth` are one and the same file", "BACKUP_DATABASES"]);
    }
    std::fs::remove_file(place.live("auth")).unwrap();
    std::fs::hard_link(place.live("attendance"), place.live("auth")).unwrap();
    place.run(&["create"]).refused(1, &["one and the same file"]);
    assert!(!place.backups().exists());
}

#[test]
fn a_backup_directory_that_can_not_be_is_told_once() {
    let place = Place::new();
    std::fs::write(place.backups(), "notes").unwrap();
    for args in [&["create"][..], &["catalog", "rebuild"]] {
        let run = place.run(args);
        run.refused(1, &["/backups", "(os error "]);
        assert_eq!(run.stderr.matches("(os error ").count(), 1, "{}", run.stderr);
    }
    assert_eq!(std::fs::read_to_string(place.backups()).unwrap(), "notes");
}

/// Refused within the time that was set; once the lock is gone, all is well.
#[track_caller]
fn assert_locked(place: &Place, app: App) {
    let words = ["`attendance` was locked by another process for 500ms", "locking_mode=EXCLUSIVE"];
    assert_refused(place, &words);
    in_time(Duration::from_secs(4), || place.run(&["create"])).refused(1, &words);
    // The live data is as good as ever.
    assert!(!place.warnings().contains(&"rotation-frozen".to_owned()));
    app.kill();
    place.create();
    place.assert_whole();
}

#[test]
fn an_exclusive_lock_that_stays_is_refused_in_time() {
    let place = spoilt(|place, _| drop(place.sql("attendance", "PRAGMA journal_mode=DELETE")));
    let mut app = App::on(&[&place.live("attendance")]);
    app.ok(0, "BEGIN EXCLUSIVE");
    app.ok(0, "INSERT INTO people (name) VALUES ('Dora')");
    assert_locked(&place, app);
}

/// Whoever writes for minutes, or has forgotten to commit, keeps nobody in WAL mode from reading: what is committed is backed up, of
/// the database that he writes to and of the other.
#[test]
fn a_write_that_never_ends_is_not_waited_for_in_wal_mode() {
    for [long, other] in [["attendance", "auth"], ["auth", "attendance"]] {
        let mut place = Place::new();
        place.set("BACKUP_LOCK_TIMEOUT", "2s");
        let mut app = App::on(&[&place.live(long)]);
        app.ok(0, "BEGIN IMMEDIATE");
        app.ok(0, "CREATE TABLE half (n)");
        let writer = Writer::start(&place.live(other), &place.path("third.db"), 0.01);
        let backup = place.create();
        let written = writer.stop();
        assert_eq!(written.errors, Vec::<String>::new());
        let tables = |name| sql_on_copy(&place.copy(&backup, name), "SELECT group_concat(name) FROM sqlite_schema");
        assert!(
            !tables(long).contains("half") && tables(other).contains("counter"),
            "{}, {}",
            tables(long),
            tables(other)
        );
        // A restore has to write there: it is refused in time.
        let id = backup["id"].as_str().unwrap();
        let words = format!("`{long}` was locked by another process for 2s");
        place.run(&["restore", id, "--confirm", id]).refused(1, &[&words]);
        app.ok(0, "COMMIT");
        assert_eq!(place.ids(), [id]);
        place.assert_whole();
    }
}

#[test]
fn an_app_in_exclusive_locking_mode_is_refused_in_time() {
    for mode in ["WAL", "DELETE"] {
        let place = spoilt(|place, _| drop(place.sql("attendance", &format!("PRAGMA journal_mode={mode}"))));
        let mut app = App::on(&[&place.live("attendance")]);
        app.ok(0, "PRAGMA locking_mode=EXCLUSIVE");
        app.ok(0, "INSERT INTO people (name) VALUES ('Dora')");
        assert_locked(&place, app);
    }
}

#[test]
fn while_one_database_is_locked_writers_of_the_other_go_on() {
    let mut place = Place::new();
    place.set("BACKUP_LOCK_TIMEOUT", "4s").sql("auth", "PRAGMA journal_mode=DELETE");
    sql_on(&place.path("third.db"), "CREATE TABLE t (n)");
    let mut app = App::on(&[&place.live("auth")]);
    app.ok(0, "BEGIN IMMEDIATE");
    let third = place.path("third.db");
    in_some_tries(|| {
        let writer = Writer::timed(&place.live("attendance"), &third, 0.0);
        place.run(&["create"]).refused(1, &["`auth` was locked by another process for 4s"]);
        let written = writer.stop();
        assert!(written.errors.is_empty(), "{:?}", written.errors);
        if written.slowest < 1.0 {
            Ok(())
        } else {
            Err(format!("a writer of attendance waited {} s for auth", written.slowest))
        }
    });
}

/// A backup of a larger `attendance`, during whose copy something happens; it must notice.
#[track_caller]
fn disturbed(place: &Place, disturb: impl FnOnce()) {
    let live = place.live("attendance").canonicalize().unwrap();
    let spot = Spot::on("pread64", &format!("../{}", live.file_name().unwrap().display()));
    let (strace, pid) = place.stopped(&spot, 200, &["create"]).expect("so many pages");
    let is_copying = crate::harness::tree(&place.backups()).iter().any(|(file, ..)| file.ends_with(".partial"));
    assert!(is_copying, "it isn't in the midst of the copy");
    disturb();
    goes_on(strace, &pid).refused(1, &["`attendance` was replaced by another file", "stop the app"]);
    assert_eq!(place.ids().len(), 1);
    place.assert_whole();
    place.create();
}

/// Some hundred pages more.
fn grow(place: &Place) {
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600) \
                INSERT INTO people (name) SELECT hex(zeroblob(1800)) FROM n";
    place.sql("attendance", rows);
}

#[test]
fn a_database_swapped_in_mid_copy_fails_the_backup() {
    let place = spoilt(|place, _| grow(place));
    std::fs::copy(place.live("attendance"), place.path("new.db")).unwrap();
    disturbed(&place, || std::fs::rename(place.path("new.db"), place.live("attendance")).unwrap());
}

#[test]
fn a_link_turned_in_mid_copy_fails_the_backup() {
    let place = spoilt(|place, live| {
        grow(place);
        std::fs::rename(live, place.path("old.db")).unwrap();
        symlink(place.path("old.db"), live).unwrap();
    });
    std::fs::copy(place.path("old.db"), place.path("new.db")).unwrap();
    symlink(place.path("new.db"), place.path("link")).unwrap();
    disturbed(&place, || std::fs::rename(place.path("link"), place.live("attendance")).unwrap());
}

#[test]
fn a_download_that_was_cut_short_is_named() {
    let place = Place::new();
    let backup = place.create();
    let (target, leftover) = (place.path("out.tar"), place.path(".out.tar.partial"));
    let args = ["download", backup["id"].as_str().unwrap(), "-o", target.to_str().unwrap()];
    std::fs::write(&leftover, "half of it").unwrap();
    place.run(&args).refused(1, &[leftover.to_str().unwrap(), "ended before it was done", "remove it"]);
    assert_eq!(std::fs::read(&leftover).unwrap(), b"half of it");
    assert!(!target.exists());
    std::fs::remove_file(&leftover).unwrap();
    place.ok(&args);
}

/// A WAL that was left there would be played into the downloaded database.
#[test]
fn a_database_is_not_put_beside_parts_of_another() {
    let place = Place::new();
    let backup = place.create();
    let id = backup["id"].as_str().unwrap();
    let target = place.path("copy.db");
    let args = ["download", id, "--database", "auth", "-o", target.to_str().unwrap()];
    for ending in ["-wal", "-shm", "-journal"] {
        let part = place.path(&format!("copy.db{ending}"));
        std::fs::write(&part, "stale").unwrap();
        place.run(&args).refused(1, &[part.to_str().unwrap(), "move it away"]);
        let last = place.audit().pop().unwrap();
        assert_eq!((&last["kind"], &last["code"]), (&"refused".into(), &"target-beside".into()));
        assert!(!target.exists() && part.exists());
        std::fs::remove_file(&part).unwrap();
    }
    place.ok(&args);
    // A tar is no database.
    std::fs::write(place.path("all.tar-wal"), "unrelated").unwrap();
    place.ok(&["download", id, "-o", place.path("all.tar").to_str().unwrap()]);
}

#[test]
fn a_failed_backup_is_warned_of_until_one_succeeds_whatever_else_fails() {
    let place = Place::new();
    let backup = place.create();
    std::fs::rename(place.live("auth"), place.path("aside")).unwrap();
    assert_eq!(place.run(&["create"]).code, 1);
    std::fs::write(place.copy(&backup, "auth"), "gone").unwrap();
    let target = place.path("out");
    let args = ["download", backup["id"].as_str().unwrap(), "-o", target.to_str().unwrap()];
    assert_eq!(place.run(&args).code, 1);
    let status = place.json(&["status"]);
    assert_eq!(status["lastFailure"]["operation"], "download");
    assert!(status["warnings"].to_string().contains("the last backup failed: the live database `auth` is missing"));
    std::fs::rename(place.path("aside"), place.live("auth")).unwrap();
    place.create();
    assert!(!place.warnings().contains(&"backup-failed".to_owned()));
}
