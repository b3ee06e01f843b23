//! A place with a past: backups in three months, so that the next daily promotes into both longer tiers and drops a
//! month, and a manual backup beside.

use crate::harness::{PROGRAM, Place, Run};

/// The only daily, weekly and monthly that there is, and a manual one.
pub const DAILY: &str = "daily-2025-03-03";
pub const WEEKLY: &str = "weekly-2025-W06";
pub const MONTHLY: &str = "monthly-2025-01";
pub const MANUAL: &str = "manual-2025-03-04T030000Z";
/// One of each tier is kept.
pub fn of_three_months() -> Place {
    let mut place = Place::new();
    for tier in ["DAILY", "WEEKLY", "MONTHLY"] {
        place.set(&format!("BACKUP_RETENTION_{tier}"), "1");
    }
    for date in ["2025-01-06", "2025-02-03", "2025-03-03"] {
        then(&place, date, "daily");
    }
    then(&place, "2025-03-04", "manual");
    let mut ids = place.ids();
    ids.sort();
    assert_eq!(ids, [DAILY, MANUAL, MONTHLY, WEEKLY]);
    place
}

/// Four days and a manual one, none of them too many.
pub fn of_four_days() -> Place {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_DAILY", "4").set("BACKUP_RETENTION_WEEKLY", "1").set("BACKUP_RETENTION_MONTHLY", "1");
    for date in ["2025-02-03", "2025-02-10", "2025-02-17", "2025-03-03"] {
        then(&place, date, "daily");
    }
    then(&place, "2025-03-04", "manual");
    assert_eq!(place.ids().len(), 5);
    place
}

/// The files that a daily of today is written to.
pub fn partials_of_today(place: &Place) -> [String; 2] {
    let created = place.twin().json(&["create", "--type", "daily"]);
    let partial = |name: &str| created["databases"][name]["file"].as_str().unwrap().replace("daily/", "daily/.");
    ["attendance", "auth"].map(|name| partial(name) + ".partial")
}

/// A backup at three in the morning of that date, with data that no other has.
pub fn then(place: &Place, date: &str, tier: &str) {
    place.sql("attendance", &format!("INSERT INTO people (name) VALUES ('of {date}')"));
    place.sql("auth", &format!("INSERT INTO users (email) VALUES ('{date}@school.example')"));
    let mut command = place.command_of("faketime");
    // A clock that stands: the ids are named after the second, however slowly the program starts. Waits still pass.
    command.args(["-f", &format!("{date} 03:00:00"), PROGRAM, "create", "--type", tier]);
    command.env("TZ", "UTC").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let run = Run::of(command.output().expect("faketime is needed"));
    assert_eq!(run.code, 0, "{}", run.stderr);
}
