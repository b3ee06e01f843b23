//! The doctor judges by what is in force, and calls nothing ill that is well.

use serde_json::Value;

use crate::app::App;
use crate::client::Server;
use crate::harness::{Place, Run, sql_on};
use crate::visitor::Visitor;

/// What it finds about something.
fn finding(place: &Place, about: &str) -> Value {
    let run = place.run(&["doctor", "--json"]);
    let findings: Value = serde_json::from_str(&run.stdout).unwrap();
    let found = findings["findings"].as_array().unwrap();
    found.iter().find(|it| it["about"] == about).unwrap_or_else(|| panic!("{about}: {findings}")).clone()
}

#[test]
fn saved_settings_count() {
    let place = Place::new();
    place.create();
    place.ok(&["config", "--set", "schedule.timezone=Asia/Tokyo"]);
    assert!(finding(&place, "time")["found"].as_str().unwrap().contains("Asia/Tokyo"));
    // Saying so is enough, be it UTC.
    let bare = |args: &[&str]| Run::of(place.command(args).env_remove("BACKUP_TIMEZONE").output().unwrap());
    assert!(bare(&["config", "--reset"]).code == 0 && bare(&["doctor"]).stdout.contains("no time zone is set"));
    assert_eq!(bare(&["config", "--set", "schedule.timezone=UTC"]).code, 0);
    assert!(!bare(&["doctor"]).stdout.contains("no time zone is set"));
}

#[test]
fn the_space_for_all_is_that_of_the_saved_retention() {
    let place = Place::new();
    place.create();
    let before = finding(&place, "space")["found"].clone();
    place.ok(&["config", "--set", "retention.daily=300"]);
    assert_ne!(
        finding(&place, "space")["found"].as_str().unwrap().split(';').nth(1),
        before.as_str().unwrap().split(';').nth(1)
    );
}

#[test]
fn room_for_one_backup_is_a_warning_and_for_less_a_problem() {
    let place = Place::new();
    let stat = rustix::fs::statvfs(place.path("")).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    for (tenths, severity) in [(7, "warning"), (13, "problem")] {
        // It is all a hole.
        std::fs::File::create(place.live("auth")).unwrap().set_len(free / 10 * tenths).unwrap();
        assert_eq!(finding(&place, "space")["severity"], severity);
    }
}

/// Page 1 has come into the main file and names pages that are still in the WAL only.
#[test]
fn an_app_that_was_killed_in_mid_checkpoint_is_not_ill() {
    let place = Place::new();
    let live = place.live("attendance");
    let mut app = App::on(&[&live]);
    app.ok(0, "PRAGMA wal_autocheckpoint=0");
    for n in 0..60 {
        app.ok(0, &format!("CREATE TABLE t{n} (id INTEGER PRIMARY KEY, a_long_name_for_a_column_{n} TEXT)"));
    }
    let done = place.path("done.db");
    std::fs::copy(&live, &done).unwrap();
    std::fs::copy(place.path("attendance.db-wal"), place.path("done.db-wal")).unwrap();
    app.kill();
    sql_on(&done, "PRAGMA wal_checkpoint(TRUNCATE)");
    let mut pages = std::fs::read(&live).unwrap();
    pages[..4096].copy_from_slice(&std::fs::read(&done).unwrap()[..4096]);
    std::fs::write(&live, pages).unwrap();
    let finding = finding(&place, "database `attendance`");
    assert_eq!(finding["severity"], "warning", "{finding}");
    assert!(finding.to_string().contains("can't be looked at from outside just now"), "{finding}");
    let backup = place.create();
    assert_eq!(backup["databases"]["attendance"]["tables"].as_object().unwrap().len(), 61);
}

#[test]
fn what_is_no_database_is_a_problem() {
    let place = Place::new();
    std::fs::write(place.live("auth"), b"Dear diary,\n".repeat(500)).unwrap();
    let finding = finding(&place, "database `auth`");
    assert_eq!(finding["severity"], "problem");
    assert!(finding["found"].as_str().unwrap().contains("is not a SQLite database"), "{finding}");
}

/// `serve` has its settings from systemd, compose or the demo; whoever looks from a terminal has others.
#[test]
fn a_key_that_only_serve_has_is_missed_by_nobody() {
    let place = Place::new();
    place.create();
    let bare = || Run::of(place.command(&["doctor"]).env_remove("BACKUP_JWT_SECRET").output().unwrap()).stdout;
    assert!(bare().contains("no key for tokens is set, so `serve` doesn't start"), "{}", bare());
    let server = Server::start(&place);
    let said = bare();
    assert!(said.contains("a `serve` runs here, with a key") && !said.contains("no key for tokens is set"), "{said}");
    // On the page what is no problem stands below the list.
    let page = Visitor::superuser(&server).get("/settings/backups").text();
    let is_first = page.find("id=\"checks\"").unwrap() < page.find("id=\"list\"").unwrap();
    let answer = server.get("/api/backup/doctor").ok();
    let has_problem = answer["findings"].as_array().unwrap().iter().any(|it| it["severity"] == "problem");
    assert_eq!(is_first, has_problem, "{answer}");
    server.stop();
}
