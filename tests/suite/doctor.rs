//! The doctor judges by what is in force, and calls nothing ill that is well.

use serde_json::Value;

use crate::harness::{Place, Run};

/// What it finds about something.
fn finding(place: &Place, about: &str) -> Value {
    let run = place.run(&["doctor", "--json"]);
    let findings: Value = serde_json::from_str(&run.stdout).unwrap();
    let found = findings.as_array().or(findings["findings"].as_array()).unwrap();
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
    let stat = rustix::fs::statvfs(&place.path("")).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    for (tenths, severity) in [(7, "warning"), (13, "problem")] {
        // It is all a hole.
        std::fs::File::create(place.live("auth")).unwrap().set_len(free / 10 * tenths).unwrap();
        assert_eq!(finding(&place, "space")["severity"], severity);
    }
}
