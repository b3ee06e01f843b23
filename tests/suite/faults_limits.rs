//! What stands in the way of a whole process: limits of files and of their size, a disk that is read-only, a stop of a while. What
//! can't be done is refused in words, and done as soon as the way is free [P1, P3, P4, P8].

use std::process::Command;

use crate::app::App;
use crate::client::{Answer, Server};
use crate::disk_full::{SmallDisk, mount};
use crate::harness::{PROGRAM, Place, Run, thoroughness, traces, tree};
use crate::inject::{Spot, goes_on};
use crate::invariants::Live;
use crate::seasons::{self, MANUAL, MONTHLY};
use crate::tried::Tried;

/// The program with a limit of prlimit(1).
fn limited(place: &Place, limit: &str, args: &[&str]) -> Run {
    let mut command = place.command_of("prlimit");
    Run::of(command.args([limit, PROGRAM]).args(args).output().expect("prlimit is needed"))
}

/// From too few to be loaded with to as many as it needs.
#[test]
fn with_too_few_open_files_it_is_refused() {
    let place = seasons::of_three_months();
    let (live, ids) = (Live::of(&place), place.ids());
    let (mut tried, mut files) = (Tried::default(), 4);
    loop {
        let run = limited(&place, &format!("--nofile={files}"), &["create"]);
        assert!([0, 1, 127].contains(&run.code), "{files}: {}", run.stderr);
        if run.code == 0 {
            break;
        }
        if run.code == 1 {
            assert!(!run.stderr.contains("panicked") && run.stderr.contains("open"), "{files}: {}", run.stderr);
            tried.count(false, true);
        }
        assert_eq!(place.ids(), ids, "{files}");
        files += if thoroughness() >= 2 { 1 } else { 3 };
    }
    println!("too few open files: {tried:?}, {files} do");
    assert!(tried.points >= 3, "{tried:?}");
    tried.report("create", "EMFILE, of all files");
    place.assert_invariants(&[&live]);
}

/// A backup that can't be opened for want of descriptors is not called damaged.
#[test]
fn with_too_few_open_files_no_backup_is_called_damaged() {
    let place = Place::new();
    place.create();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let live = Live::of(&place);
    for args in [&["preview", &id][..], &["restore", &id, "--confirm", &id]] {
        let (mut tried, mut files) = (Tried::default(), 4);
        loop {
            let run = limited(&place, &format!("--nofile={files}"), args);
            let told = format!("{args:?} with {files}: {}{}", run.stdout, run.stderr);
            assert!(!told.contains("damaged") && !told.contains("panicked"), "{told}");
            place.assert_invariants(&[&live]);
            if run.code == 0 {
                break;
            }
            assert!(run.code == 127 || run.code == 1 && run.stderr.contains("open"), "{told}");
            tried.count(false, run.code == 1);
            files += 1;
        }
        assert!(tried.points >= 2, "{args:?}: {tried:?}");
        tried.report(args[0], "EMFILE, of all files");
    }
}

/// No file may be larger than that: no signal ends it, and the copy isn't kept.
#[test]
fn with_too_small_files_it_is_refused() {
    let place = seasons::of_three_months();
    place.fill(1);
    let live = Live::of(&place);
    let mut tried = Tried::default();
    for (args, size) in [(["create", "--reason", "small"], 600_000), (["create", "--reason", "none"], 0)] {
        let ids = place.ids();
        let run = limited(&place, &format!("--fsize={size}"), &args);
        run.refused(1, &["File too large"]);
        assert_eq!(place.ids(), ids);
        place.ok(&["create"]);
        place.assert_invariants(&[&live]);
        tried.count(false, true);
    }
    tried.report("create", "EFBIG");
}

/// Nothing is written any more, and everything can still be read.
#[test]
fn on_a_disk_that_is_read_only_it_is_refused() {
    let test = "faults_limits::on_a_disk_that_is_read_only_it_is_refused";
    let Some(disk) = SmallDisk::of(test, "size=16m,mode=0700") else { return };
    let place = &disk.place;
    let (live, before) = (Live::of(place), place.list());
    mount(&["-o", "remount,ro"], &place.backups());
    let restore = ["restore", MANUAL, "--confirm", MANUAL];
    let operations: [&[&str]; 8] = [
        &["create"],
        &["create", "--type", "daily"],
        &["delete", MONTHLY],
        &["pin", MONTHLY],
        &["config", "--set", "retention.daily=1"],
        &["catalog", "rebuild"],
        &["drill"],
        &restore,
    ];
    for args in operations {
        let run = place.run(args);
        run.refused(1, &["Read-only file system"]);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        Tried::of(1, 0, 1).report(args[0], "EROFS, the whole disk");
    }
    assert_eq!(place.list(), before);
    place.ok(&["status"]);
    place.ok(&["verify", MANUAL]);
    mount(&["-o", "remount,rw"], &place.backups());
    place.ok(&["create"]);
    place.assert_invariants(&[&live]);
}

/// A `serve` that runs needs no restart. A disk can't be remounted while a file on it is open for writing, as `.serve` is; the kernel
/// does it all the same when the disk fails. Here a read-only view of it is laid over it.
#[test]
fn a_serve_whose_disk_was_read_only_goes_on() {
    let test = "faults_limits::a_serve_whose_disk_was_read_only_goes_on";
    let Some(disk) = SmallDisk::of(test, "size=16m,mode=0700") else { return };
    let (place, backups) = (&disk.place, disk.place.backups());
    let server = Server::start(place);
    assert_eq!(server.post("/api/backup/create").status, 201);
    let before = traces(&backups);
    mount(&["--bind", backups.to_str().unwrap()], &backups);
    mount(&["-o", "remount,bind,ro"], &backups);
    assert_refused(&server, "Read-only file system");
    assert_eq!(traces(&backups), before);
    // No line of it can be written, and it is told all the same.
    let warnings = || {
        let status = server.get("/api/backup/status").ok();
        status["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["code"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let told = warnings();
    assert!(["backup-failed", "audit-broken"].iter().all(|code| told.contains(&(*code).to_owned())), "{told:?}");
    assert!(Command::new("umount").arg(&backups).status().unwrap().success());
    assert_eq!(server.post("/api/backup/create").status, 201);
    let told = warnings();
    assert!(!["backup-failed", "audit-broken"].iter().any(|code| told.contains(&(*code).to_owned())), "{told:?}");
    server.stop();
    place.ok(&["audit", "verify"]);
    place.assert_whole();
}

#[test]
fn a_serve_that_had_too_few_descriptors_goes_on() {
    let place = Place::new();
    let server = Server::start(&place);
    assert_eq!(server.post("/api/backup/create").status, 201);
    let (ids, open) = (place.ids(), server.descriptors());
    // One is for the request itself.
    for more in [1, 2] {
        allow(&server, open + more);
        assert_refused(&server, "Too many open files");
        assert_eq!(place.ids(), ids);
        assert!(!tree(&place.backups()).iter().any(|(file, ..)| file.ends_with(".partial")));
    }
    allow(&server, 1024);
    assert_eq!(server.post("/api/backup/create").status, 201);
    server.stop();
    place.assert_whole();
}

/// Whatever it was about to open, nobody is sent to look for a wrong user.
#[test]
fn too_few_descriptors_are_told_as_such() {
    let place = Place::new();
    let server = Server::start(&place);
    assert_eq!(server.post("/api/backup/create").status, 201);
    let open = server.descriptors();
    for more in [4, 8, 12] {
        allow(&server, open + more);
        let answer = server.post("/api/backup/create");
        assert!(answer.status >= 400 && !answer.text().contains("the user who owns"), "{}", answer.text());
        assert_logged(&server, &answer, "oo many open files");
    }
    server.stop();
}

/// So many descriptors, from now on.
fn allow(server: &Server, files: usize) {
    let (pid, limit) = (server.child.id().to_string(), format!("--nofile={files}:"));
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
}

/// It makes no backup, and the log has the cause under the number that came with the answer.
fn assert_refused(server: &Server, cause: &str) {
    let answer = server.post("/api/backup/create");
    answer.problem(500, "internal");
    assert_logged(server, &answer, cause);
}

fn assert_logged(server: &Server, answer: &Answer, cause: &str) {
    let (id, log) = (answer.header("x-request-id").unwrap(), server.log());
    assert!(log.lines().any(|line| line.contains(id) && line.contains(cause)), "{id}: {log}");
}

/// A backup that is stopped in its midst keeps no app from writing, and is of one instant when it goes on.
#[test]
fn while_it_is_stopped_the_app_writes_on() {
    let place = Place::new();
    place.fill(12);
    let mut app = App::on(&[&place.live("attendance"), &place.live("auth")]);
    let (child, pid) = place.stopped(&Spot::anywhere("write"), 8, &["create"]).unwrap();
    // It waits for no lock: one that is held is an error.
    for _ in 0..50 {
        app.ok(0, "INSERT INTO people (name) VALUES ('while it is stopped')");
        app.ok(1, "INSERT INTO users (email) VALUES (hex(randomblob(8)))");
    }
    let partial = tree(&place.backups()).into_iter().map(|(file, ..)| place.backups().join(file));
    let partial = partial.filter(|file| file.to_str().unwrap().ends_with(".partial"));
    let size = partial.map(|file| file.metadata().unwrap().len()).max();
    assert!(size.is_some_and(|size| (1..12_000_000).contains(&size)), "it isn't in the midst of a copy: {size:?}");
    let run = goes_on(child, &pid);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let tables = |name: &str| place.list()[0]["databases"][name]["tables"].clone();
    assert_eq!((tables("attendance")["people"].clone(), tables("auth")["users"].clone()), (3.into(), 1.into()));
    app.end();
    place.assert_invariants(&[&Live::of(&place)]);
    Tried::of(1, 1, 0).report("create", "SIGSTOP");
}
