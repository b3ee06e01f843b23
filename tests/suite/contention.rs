//! Many at once: one operation at a time, the others hear who it is or wait; readers are never in the way; whoever is
//! told to stop leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Place, Run, dump, eventually, kill, traces, tree};
use crate::inject::{Halted, Spot, signal};
use crate::journal_restore::{POINT, killable};
use crate::replica_scene::{PULL, comes_whole, empty_machine, with_two_there};
use crate::restore_scene::assert_settled_files;
use crate::stores::Store;

/// Larger than what fits between two looks at how far it is.
fn large() -> Place {
    let place = Place::new();
    place.sql("attendance", "CREATE TABLE photos (data BLOB)");
    let forty = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)";
    place.sql("attendance", &format!("{forty} INSERT INTO photos SELECT randomblob(1000000) FROM n"));
    place
}

/// Each megabyte takes a while, in the midst of its copies.
fn slow(place: &Place, args: &[&str]) -> Halted {
    let mut command = place.faulty(&Spot::anywhere("write"), "delay_enter=300000", args);
    let strace = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("strace is needed");
    let holder = eventually("it tells how far it is", || holder(place).filter(|holder| holder["progress"].is_f64()));
    Halted::of(strace, holder["pid"].to_string())
}

/// It stops for good in the middle of the copy: the thread that writes it makes more calls than any other.
fn halted(place: &Place) -> Halted {
    let busy = halted_at(place, &Spot::anywhere("write"), 8, &["create", "--reason", "halted"]);
    let holder = holder(place).unwrap();
    assert!(holder["progress"].is_f64(), "it doesn't tell how far it is: {holder}");
    busy
}

/// It stops when it has made its `n`-th call at `spot`.
fn halted_at(place: &Place, spot: &Spot, n: usize, args: &[&str]) -> Halted {
    let (strace, pid) = place.stopped(spot, n, args).expect("it comes to that");
    Halted::of(strace, pid)
}

/// What the lock says.
fn holder(place: &Place) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(place.backups().join(".lock")).ok()?).ok()
}

/// Twenty creates at the same time, and how each ended.
fn twenty(place: &Place, args: &[&str]) -> Vec<(u32, Run)> {
    let start = |_| place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let children: Vec<Child> = (0..20).map(start).collect();
    children.into_iter().map(|child| (child.id(), Run::of(child.wait_with_output().unwrap()))).collect()
}

#[test]
fn of_twenty_at_once_one_at_a_time_succeeds_and_the_others_hear_who_it_is() {
    let mut place = large();
    place.set("BACKUP_RETENTION_MANUAL", "30");
    let runs = twenty(&place, &["create"]);
    let winners: Vec<_> = runs.iter().filter(|(_, run)| run.code == 0).map(|(pid, _)| *pid).collect();
    let mut named = 0;
    for (_, run) in runs.iter().filter(|(_, run)| run.code != 0) {
        run.refused(3, &["another operation holds the backup directory: "]);
        // Between its lock and its name there is a moment.
        if !run.stderr.contains("has not said who it is") {
            run.refused(3, &["another operation holds the backup directory: create by cli"]);
            assert!(winners.iter().any(|pid| run.stderr.contains(&format!("(process {pid} on"))), "{}", run.stderr);
            named += 1;
        }
    }
    assert!(named > 0, "nobody heard who it is");
    assert!((1..20).contains(&winners.len()), "{winners:?}: nobody was in anybody's way");
    assert_eq!(place.list().len(), winners.len());
    let refused = place.audit().into_iter().filter(|line| line["kind"] == "refused").count();
    assert_eq!(refused, 20 - winners.len());
    place.assert_whole();
}

#[test]
fn twenty_that_wait_all_succeed() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "30");
    for (_, run) in twenty(&place, &["create", "--wait", "60s"]) {
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
    assert_eq!(place.list().len(), 20);
    place.assert_whole();
}

#[test]
fn readers_answer_while_a_backup_runs_and_touch_nothing() {
    let place = large();
    place.create();
    let before = place.ids();
    let busy = halted(&place);
    let lies_there = traces(&place.backups());
    assert!(lies_there.iter().any(|(name, ..)| name.ends_with(".partial")));
    let begun = Instant::now();
    assert_eq!(place.ids(), before);
    let status = place.json(&["status"]);
    // It would be stopped for ever.
    assert!(begun.elapsed() < Duration::from_secs(60), "readers waited");
    let operation = &status["operation"];
    assert_eq!((&operation["kind"], &operation["database"]), (&"create".into(), &"attendance".into()));
    assert!((0.01..0.99).contains(&operation["progress"].as_f64().unwrap()), "{operation}");
    assert_eq!(status["unmanaged"], serde_json::json!([]));
    assert_eq!(traces(&place.backups()), lies_there);
    assert_eq!(busy.goes_on().code, 0);
    assert_eq!(place.ids().len(), 2);
    place.assert_whole();
}

/// A place with one daily backup, and what makes the program promote it to a week: the next day's.
fn with_a_daily() -> (Place, Value) {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_DAILY", "1").set("BACKUP_TIMEZONE", "Pacific/Niue");
    let daily = place.json(&["create", "--type", "daily"]);
    // 25 hours apart: two dates, whatever the hour is.
    place.set("BACKUP_TIMEZONE", "Pacific/Kiritimati");
    (place, daily)
}

/// It has read the catalog and opened the first file when rotation gives both files other names.
#[test]
fn a_reader_goes_on_with_a_backup_that_is_promoted_meanwhile() {
    for what in ["verify", "download"] {
        let (place, daily) = with_a_daily();
        let id = daily["id"].as_str().unwrap();
        let first = daily["databases"]["attendance"]["file"].as_str().unwrap().to_owned();
        let target = place.path("out");
        let args = [what, id, "-o", target.to_str().unwrap()];
        let args = if what == "verify" { &args[..2] } else { &args[..] };
        let reader = halted_at(&place, &Spot { call: "openat", path: Some(first) }, 1, args);
        place.json(&["create", "--type", "daily"]);
        let weekly = place.list().into_iter().find(|backup| backup["promotedFrom"] == id).expect("it was promoted");
        let run = reader.goes_on();
        assert_eq!(run.code, 0, "{what}: {}{}", run.stdout, run.stderr);
        assert!(!place.ok(&["list"]).stdout.contains("DAMAGED"), "{what}");
        if what == "download" {
            let last = place.audit().pop().unwrap();
            assert_eq!((&last["operation"], &last["ok"], &last["id"]), (&what.into(), &true.into(), &weekly["id"]));
        }
        place.assert_whole();
    }
}

#[test]
fn a_reader_of_a_backup_that_is_deleted_meanwhile_finds_none() {
    let place = Place::new();
    let (backup, _) = (place.create(), place.create());
    let id = backup["id"].as_str().unwrap();
    let first = backup["databases"]["attendance"]["file"].as_str().unwrap().to_owned();
    let reader = halted_at(&place, &Spot { call: "openat", path: Some(first) }, 1, &["verify", id]);
    place.ok(&["delete", id]);
    reader.goes_on().refused(1, &["there is no backup", id]);
    assert!(!place.ok(&["list"]).stdout.contains("DAMAGED"));
    place.assert_whole();
}

#[test]
fn whoever_changes_things_hears_who_holds_the_directory_or_waits() {
    let place = large();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let busy = halted(&place);
    let process = format!("(process {} on", busy.pid);
    let changes: [&[&str]; 6] = [
        &["create"],
        &["create", "--wait", "200ms"],
        &["delete", &id],
        &["pin", &id],
        &["config", "--set", "retention.daily=3"],
        &["catalog", "rebuild"],
    ];
    for args in changes {
        place.run(args).refused(3, &["create by cli", &process, "% done"]);
    }
    let log = place.path("tries");
    let look = Spot { call: "flock", path: None };
    let mut waits = place.faulty_into(&log, &look, "delay_enter=1", &["pin", &id, "--wait", "60s"]).spawn().unwrap();
    let tries = || std::fs::read_to_string(&log).unwrap_or_default().matches("EAGAIN").count();
    eventually("it has tried more than once", || (tries() > 1).then_some(()));
    assert!(waits.try_wait().unwrap().is_none());
    assert_eq!(busy.goes_on().code, 0);
    assert!(waits.wait().unwrap().success());
    assert_eq!(place.list()[1]["pinned"], true);
    place.assert_whole();
}

#[test]
fn kill_9_of_the_holder_lets_go_at_once() {
    let place = large();
    let busy = halted(&place);
    signal(&busy.pid, "-KILL");
    assert_eq!(busy.goes_on().code, -1);
    assert_eq!(place.json(&["status"])["operation"], Value::Null);
    place.create();
    let lines = place.audit();
    assert!(lines.iter().any(|line| line["code"] == "interrupted" && line["ok"] == false));
    assert_eq!(place.list().len(), 1);
    place.assert_whole();
}

/// It can't be recorded then: what changes or deletes is refused, and backups go on [P10].
#[test]
fn a_stopped_process_that_holds_the_audit_log_stops_nobody_else() {
    let place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let source = "import fcntl, os, signal, sys\nlog = open(sys.argv[1], 'a')\nfcntl.flock(log, fcntl.LOCK_EX)\n\
                  print('held', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)";
    let mut python = Command::new("python3");
    python.args(["-c", source]).arg(place.backups().join("audit.jsonl")).stdout(Stdio::piped());
    let mut holder = python.spawn().unwrap();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let process = format!("process {} has held it", holder.id());
    place.run(&["pin", &id]).refused(1, &["audit log", &process, "kill -CONT", "try again"]);
    place.create();
    kill(&mut holder);
    place.ok(&["pin", &id]);
    place.assert_whole();
}

/// It is refused, since no line of it can be written.
#[track_caller]
fn unrecorded(place: &Place, args: &[&str]) {
    let run = Run::of(place.faulty(&Spot::on("write", "audit.jsonl"), "error=EIO", args).output().unwrap());
    run.refused(1, &["audit"]);
}

/// A change wants its line first [P10].
#[test]
fn what_cannot_be_recorded_is_not_done() {
    let place = Place::new();
    let [older, newer] = [(); 2].map(|()| place.create()["id"].as_str().unwrap().to_owned());
    place.ok(&["restore", &older, "--confirm", &older]);
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    place.ok(&["pin", &older]);
    let lies_there = || {
        let mut traces = traces(&place.backups());
        traces.retain(|(name, ..)| !name.starts_with('.') && name != "audit.jsonl");
        (traces, ["attendance", "auth"].map(|name| dump(&place.live(name), false)), place.audit().len())
    };
    let before = lies_there();
    let aside = place.path("aside");
    for args in [
        &["pin", &newer][..],
        &["unpin", &older],
        &["delete", &newer],
        &["restore", &newer, "--confirm", &newer],
        &["restore", &newer, "--confirm", &newer, "--offline", "--app-is-stopped"],
        &["undo"],
        &["catalog", "rebuild"],
        &["config", "--set", "retention.daily=9"],
        &["download", &newer, "-o", aside.to_str().unwrap()],
    ] {
        unrecorded(&place, args);
        assert_eq!(lies_there(), before, "{args:?}");
    }
    assert!(!aside.exists());
    place.ok(&["undo"]);
    place.assert_whole();
}

#[test]
fn a_restore_of_an_instant_that_cannot_be_recorded_is_not_done() {
    let past = killable(["wal", "wal"]);
    let place = &past.scene.place;
    let (before, lines) = (past.found(place), place.audit().len());
    unrecorded(place, &POINT);
    assert_eq!((past.found(place), place.audit().len()), (before, lines));
    assert_settled_files(place);
    place.ok(&POINT);
    assert_eq!(past.found(place).0, [true; 2]);
    place.assert_whole();
}

#[test]
fn a_pull_that_cannot_be_recorded_brings_nothing() {
    let store = Store::folder();
    let sender = with_two_there(&store);
    let machine = empty_machine(&sender, &store);
    unrecorded(&machine, &PULL);
    // Neither what has come nor where it lay meanwhile.
    let left = tree(&machine.backups()).into_iter().map(|(name, ..)| name);
    let left: Vec<_> = left.filter(|name| !name.starts_with("replicas") && name.contains('/')).collect();
    assert_eq!(left, [""; 0]);
    assert!(machine.list().is_empty());
    comes_whole(&machine, &sender, &store);
}

/// Nothing is left of it, without anybody recovering, and the audit log says why.
fn assert_cancelled(place: &Place, by: &str) {
    let lines = place.audit();
    let last = lines.last().unwrap();
    let expected = (&"outcome".into(), &"create".into(), &"cancelled".into(), &by.into());
    assert_eq!((&last["kind"], &last["operation"], &last["code"], &last["by"]), expected);
    assert_eq!(place.ids(), Vec::<String>::new());
    place.assert_whole();
}

#[test]
fn a_create_that_is_told_to_stop_leaves_nothing() {
    let place = large();
    for told in ["-TERM", "-INT"] {
        let busy = slow(&place, &["create"]);
        signal(&busy.pid, told);
        busy.goes_on().refused(1, &["cancelled"]);
        assert_cancelled(&place, "cli");
    }
    place.create();
}

#[test]
fn a_serve_that_is_told_to_stop_ends_well_and_leaves_nothing() {
    let place = large();
    let busy = slow(&place, &["serve"]);
    signal(&busy.pid, "-TERM");
    let run = busy.goes_on();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_cancelled(&place, "scheduler");
}

#[test]
fn a_second_serve_names_the_first() {
    let mut place = Place::new();
    place.set("BACKUP_ENABLED", "false");
    let mut first = place.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap();
    let serving = place.backups().join(".serve");
    eventually("it serves", || std::fs::read(&serving).is_ok_and(|note| !note.is_empty()).then_some(()));
    place.run(&["serve"]).refused(3, &["another `serve`", &format!("(process {} on", first.id())]);
    // It may still look for what a crash has left.
    place.ok(&["create", "--wait", "30s"]);
    kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    assert!(first.wait().unwrap().success());
    place.assert_whole();
}
