//! Rehearsals by the schedule: after the backup, once a week, and never again at once because one has failed.

use std::process::Command;

use serde_json::Value;

use crate::client::Server;
use crate::disk_full::SmallDisk;
use crate::harness::{PROGRAM, Place, Run, eventually};
use crate::seasons;
use crate::serving::faketime_library;

/// `serve` on a clock that begins at that time in UTC, with the schedule on.
fn serve(place: &Place, at: &str) -> Server {
    let mut command = place.command(&["serve"]);
    command.env("TZ", "UTC").env("FAKETIME", format!("@{at}")).env("LD_PRELOAD", faketime_library());
    Server::of(command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("BACKUP_ENABLED", "true"), place.path("serve.log"))
}

/// Outcomes of backups and rehearsals that the schedule wanted: the operation and whether it went well.
fn scheduled(place: &Place) -> Vec<(String, bool)> {
    if !place.backups().join("audit.jsonl").exists() {
        return Vec::new();
    }
    let ours = |line: &Value| line["kind"] == "outcome" && line["by"] == "scheduler" && line["operation"] != "recovery";
    let lines = place.audit().into_iter().filter(ours);
    lines.map(|line| (line["operation"].as_str().unwrap().to_owned(), line["ok"] == true)).collect()
}

/// Time for what may not come: the alarm rings every five seconds.
fn rings() {
    std::thread::sleep(std::time::Duration::from_secs(7));
}

fn told(of: &[(&str, bool)]) -> Vec<(String, bool)> {
    of.iter().map(|(operation, ok)| (operation.to_string(), *ok)).collect()
}

#[test]
fn the_schedule_rehearses_once_a_week_after_the_backup() {
    let place = Place::new();
    // A Monday; the first backup of all, and then the first rehearsal.
    let server = serve(&place, "2026-11-09 15:00:00");
    eventually("the rehearsal", || (scheduled(&place).len() == 2).then_some(()));
    assert!(server.stop().contains("done operation=\"drill\""));
    assert_eq!(scheduled(&place), told(&[("create", true), ("drill", true)]));
    // Neither on Sunday …
    let server = serve(&place, "2026-11-15 15:00:00");
    eventually("Sunday's backup", || (scheduled(&place).len() == 3).then_some(()));
    rings();
    server.stop();
    assert_eq!(scheduled(&place)[2..], told(&[("create", true)]));
    // … nor on Monday before it is time for the backup.
    let server = serve(&place, "2026-11-16 01:00:00");
    rings();
    server.stop();
    assert_eq!(scheduled(&place).len(), 3);
    let server = serve(&place, "2026-11-16 02:00:00");
    eventually("Monday's rehearsal", || (scheduled(&place).len() == 5).then_some(()));
    rings();
    server.stop();
    assert_eq!(scheduled(&place)[3..], told(&[("create", true), ("drill", true)]));
    place.assert_whole();
}

#[test]
fn one_that_fails_is_said_once_and_comes_again_next_week() {
    let mut place = Place::new();
    place.set("BACKUP_DRILL_SQL_AUTH", "SELECT count(*) > 5 FROM users");
    let server = serve(&place, "2026-11-09 15:00:00");
    eventually("the rehearsal", || (scheduled(&place).len() == 2).then_some(()));
    rings();
    let log = server.stop();
    assert_eq!(scheduled(&place), told(&[("create", true), ("drill", false)]));
    assert!(log.contains("BACKUP_DRILL_SQL_AUTH does not hold: it is false"), "{log}");
    // A restart makes it no better, and the next backup comes as ever.
    let server = serve(&place, "2026-11-10 15:00:00");
    eventually("the next backup", || (scheduled(&place).len() == 3).then_some(()));
    rings();
    server.stop();
    assert_eq!(scheduled(&place)[2..], told(&[("create", true)]));
    assert!(place.warnings().contains(&"drill-failed".to_owned()));
    let server = serve(&place, "2026-11-16 15:00:00");
    eventually("the next rehearsal", || (scheduled(&place).len() == 5).then_some(()));
    server.stop();
    assert_eq!(scheduled(&place)[3..], told(&[("create", true), ("drill", false)]));
}

/// A stop of the service is made up for; the wish of somebody is not.
#[test]
fn one_that_was_stopped_comes_again_and_one_that_was_cancelled_does_not() {
    let mut place = Place::new();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    place.set("BACKUP_DRILL_SQL_AUTH", endless);
    let begins = |n: usize| {
        eventually("it begins", || {
            let intent = |line: &&Value| line["operation"] == "drill" && line["kind"] == "intent";
            let log = place.backups().join("audit.jsonl").exists();
            (log && place.audit().iter().filter(intent).count() == n).then_some(())
        });
    };
    let server = serve(&place, "2026-11-09 15:00:00");
    begins(1);
    server.stop();
    let server = serve(&place, "2026-11-09 15:10:00");
    begins(2);
    // A token of the clock that the server has.
    let mut token = place.command_of("faketime");
    token.args(["2026-11-09 15:10:30", PROGRAM, "token"]).env("TZ", "UTC");
    let token = Run::of(token.output().unwrap()).stdout;
    let answer = server.request("POST", "/api/backup/operation/cancel").token(token.trim()).send();
    assert_eq!(answer.status, 202, "{}", answer.text());
    eventually("it ends", || (scheduled(&place).len() == 3).then_some(()));
    server.stop();
    let server = serve(&place, "2026-11-09 15:20:00");
    rings();
    server.stop();
    assert_eq!(scheduled(&place), told(&[("create", true), ("drill", false), ("drill", false)]));
    assert_eq!(place.json(&["status"])["lastDrill"], Value::Null);
    place.assert_whole();
}

/// Between the tries at a backup nothing is rehearsed: the backup comes first.
#[test]
fn while_a_backup_is_to_be_tried_again_nothing_is_rehearsed() {
    let place = Place::new();
    seasons::then(&place, "2026-11-06", "daily");
    std::fs::rename(place.live("auth"), place.path("aside.db")).unwrap();
    let server = serve(&place, "2026-11-09 15:00:00");
    eventually("the first try", || (scheduled(&place).len() == 1).then_some(()));
    server.stop();
    // Another process, which remembers nothing of it.
    let server = serve(&place, "2026-11-09 15:00:20");
    rings();
    server.stop();
    assert_eq!(scheduled(&place), told(&[("create", false)]));
    std::fs::rename(place.path("aside.db"), place.live("auth")).unwrap();
    let server = serve(&place, "2026-11-09 15:01:30");
    eventually("both", || (scheduled(&place).len() == 3).then_some(()));
    server.stop();
    assert_eq!(scheduled(&place)[1..], told(&[("create", true), ("drill", true)]));
    place.assert_whole();
}

/// Where the audit log can't be written nobody can read there that a rehearsal has been: this process knows it all the same.
#[test]
fn one_that_can_not_be_recorded_is_not_repeated() {
    let test = "drill_schedule::one_that_can_not_be_recorded_is_not_repeated";
    let Some(disk) = SmallDisk::of(test, "size=16m,mode=0700") else { return };
    let log = disk.place.backups().join("audit.jsonl");
    for args in [&["--bind"][..], &["-o", "remount,bind,ro"]] {
        assert!(Command::new("mount").args(args).args([&log, &log]).status().unwrap().success());
    }
    let server = serve(&disk.place, "2026-11-09 15:00:00");
    eventually("the rehearsal", || server.log().contains("done operation=\"drill\"").then_some(()));
    rings();
    let said = server.stop();
    assert_eq!(said.matches("done operation=\"drill\"").count(), 1, "{said}");
    assert!(said.contains("going on without an audit line"), "{said}");
}

#[test]
fn off_is_off() {
    let mut place = Place::new();
    place.set("BACKUP_DRILL_SCHEDULE", "off");
    let server = serve(&place, "2026-11-09 15:00:00");
    eventually("the backup", || place.backups().join("metadata.json").exists().then_some(()));
    rings();
    server.stop();
    assert_eq!(scheduled(&place), told(&[("create", true)]));
    // By hand it goes on.
    assert!(Command::new(PROGRAM).arg("drill").envs(place.environment()).output().unwrap().status.success());
}
