//! Rotation over months: the engine on a clock of its own, and the program itself under `faketime` [P4, P5].

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use attendance_backup::backup::retention::Retention;
use attendance_backup::backup::schedule::Decision;
use attendance_backup::backup::settings::{Saved, SavedRetention};
use attendance_backup::backup::{Backup, Tier};
use attendance_backup::clock::Clock;
use attendance_backup::config::Config;
use attendance_backup::engine::{Actor, Call, Change, Create, Created, Engine, Error, Restore};
use attendance_backup::scheduler;
use attendance_backup::sqlite::Control;
use chrono::{DateTime, Datelike, Duration, NaiveDate, Utc};

use crate::client::Server;
use crate::harness::{PROGRAM, Place, Run, thoroughness};
use crate::inject::Spot;
use crate::seasons;

/// An engine on the databases of a place, and the hands of its clock.
struct Timed {
    place: Place,
    engine: Engine,
    now: Arc<Mutex<DateTime<Utc>>>,
}

impl Timed {
    fn starting(place: Place, at: &str) -> Self {
        let now: Arc<Mutex<DateTime<Utc>>> = Arc::new(Mutex::new(at.parse().unwrap()));
        let hands = Arc::clone(&now);
        // Each look at the clock costs a millisecond, as it does in life.
        let ticks = AtomicI64::new(0);
        let clock = Clock::from_fn(move || {
            *hands.lock().unwrap() + Duration::milliseconds(ticks.fetch_add(1, Ordering::Relaxed) % 900)
        });
        let config = Config::load(&place.environment().into_iter().collect()).unwrap();
        let engine = Engine::new(Arc::new(config), clock).unwrap();
        Self { place, engine, now }
    }

    fn set(&self, at: DateTime<Utc>) {
        *self.now.lock().unwrap() = at;
    }

    fn now(&self) -> DateTime<Utc> {
        *self.now.lock().unwrap()
    }

    fn create(&self, tier: Tier) -> Result<Created, Error> {
        let create = Create { tier, reason: None, accept_shrink: false };
        self.engine.create(&create, &Call::new(Actor::cli()))
    }

    fn of(&self, tier: Tier) -> Vec<Backup> {
        let mut of = self.engine.list().unwrap();
        of.retain(|backup| backup.tier == tier);
        of.sort_by_key(|backup| backup.sequence);
        of
    }

    /// What the schedule asks for, done once.
    fn ring(&self) {
        scheduler::consider(&self.engine, &Control::default()).unwrap();
    }

    /// No more than 23 rotated ones in the catalog as it lies, whatever it still has to delete.
    fn assert_within_limits(&self, retention: &Retention) {
        let standing = |name: &str| {
            let catalog: serde_json::Value =
                serde_json::from_slice(&std::fs::read(self.place.backups().join(name)).unwrap()).unwrap();
            let rotated = |it: &&serde_json::Value| {
                it["deleting"] != true && ["daily", "weekly", "monthly"].contains(&it["type"].as_str().unwrap())
            };
            catalog["backups"].as_array().unwrap().iter().filter(rotated).count()
        };
        let limit = (retention.daily + retention.weekly + retention.monthly) as usize;
        assert!(standing("metadata.json") <= limit && standing("metadata.json.previous") <= limit);
    }
}

fn dates(backups: &[Backup]) -> Vec<NaiveDate> {
    backups.iter().map(|backup| backup.local_date).collect()
}

#[test]
fn four_hundred_days_through_the_engine_in_three_zones() {
    let days = if thoroughness() > 1 { 800 } else { 400 };
    for zone in ["UTC", "America/St_Johns", "Pacific/Auckland"] {
        let mut place = Place::new();
        place.set("BACKUP_TIMEZONE", zone);
        let timed = Timed::starting(place, "2026-01-01T14:00:00Z");
        for day in 0..days {
            let settings = timed.engine.settings().unwrap();
            timed.set(settings.schedule.next_run(timed.now()) + Duration::seconds(day % 5));
            timed.ring();
            timed.assert_within_limits(&Retention::default());
            if day % 40 == 0 {
                timed.create(Tier::Manual).unwrap();
            }
        }
        let (daily, weekly, monthly) = (timed.of(Tier::Daily), timed.of(Tier::Weekly), timed.of(Tier::Monthly));
        assert_eq!((daily.len(), weekly.len(), monthly.len()), (7, 4, 12), "{zone}");
        assert!(dates(&daily).windows(2).all(|pair| (pair[1] - pair[0]).num_days() == 1), "{zone}");
        assert!(dates(&weekly).windows(2).all(|pair| (pair[1] - pair[0]).num_days() == 7), "{zone}");
        let months: BTreeSet<_> = dates(&monthly).iter().map(|date| (date.year(), date.month())).collect();
        assert_eq!(months.len(), 12);
        // Weeks and months are named after the date where the schedule lives, through New Year and week 53.
        assert!(weekly.iter().chain(&monthly).all(|backup| backup.id.covers(backup.local_date)));
        timed.place.assert_whole();
    }
}

#[test]
fn days_missed_failures_and_dozens_of_manual_ones_push_nothing_out() {
    let timed = Timed::starting(Place::new(), "2026-12-01T02:00:00Z");
    for day in 0..40 {
        timed.set("2026-12-01T02:00:05Z".parse::<DateTime<Utc>>().unwrap() + Duration::days(day));
        if day % 5 != 3 {
            timed.ring();
        }
        for _ in 0..3 {
            timed.set(timed.now() + Duration::minutes(1));
            timed.create(Tier::Manual).unwrap();
        }
    }
    assert_eq!(timed.of(Tier::Daily).len(), 7);
    assert_eq!(timed.of(Tier::Manual).len(), 10);
    let before = timed.engine.list().unwrap();

    // The live data goes: a run of failing days takes nothing away.
    let live = timed.place.live("auth");
    let aside = timed.place.path("auth.aside");
    std::fs::rename(&live, &aside).unwrap();
    for day in 0..20 {
        timed.set("2027-01-15T02:00:05Z".parse::<DateTime<Utc>>().unwrap() + Duration::days(day));
        let failed = scheduler::consider(&timed.engine, &Control::default()).unwrap_err();
        assert_eq!(failed.code(), "live-missing");
    }
    assert_eq!(timed.engine.list().unwrap(), before);
    assert!(!live.exists());
    std::fs::rename(&aside, &live).unwrap();
    timed.set("2027-02-20T09:00:00Z".parse().unwrap());
    timed.ring();
    assert_eq!(timed.of(Tier::Daily).len(), 7);
    timed.place.assert_whole();
}

#[test]
fn failures_are_retried_after_1_5_15_and_30_minutes_across_restarts() {
    let timed = Timed::starting(Place::new(), "2026-05-05T02:00:00Z");
    timed.ring();
    std::fs::rename(timed.place.live("auth"), timed.place.path("aside")).unwrap();
    let mut tried = Vec::new();
    for minute in 0..120 {
        timed.set("2026-05-06T02:00:00Z".parse::<DateTime<Utc>>().unwrap() + Duration::minutes(minute));
        let settings = timed.engine.settings().unwrap();
        if let Decision::Run { .. } = timed.engine.decide(&settings, timed.now()).unwrap() {
            tried.push(minute);
            assert!(scheduler::consider(&timed.engine, &Control::default()).is_err());
        }
    }
    // The clock of a test creeps within a minute, so a retry may come one look later.
    assert_eq!(tried.len(), 5, "{tried:?}");
    assert!(tried.iter().zip([0, 1, 6, 21, 51]).all(|(at, planned)| (0..=4).contains(&(at - planned))), "{tried:?}");
    std::fs::rename(timed.place.path("aside"), timed.place.live("auth")).unwrap();
    let status = timed.engine.status().unwrap();
    assert!(status.last_failure.unwrap().reason.contains("missing"));
    timed.set("2026-05-07T02:00:00Z".parse().unwrap());
    timed.ring();
    assert!(timed.engine.status().unwrap().last_failure.is_none());
}

#[test]
fn a_clock_that_jumps_a_day_forth_and_back_makes_no_burst_and_deletes_nothing() {
    let timed = Timed::starting(Place::new(), "2026-03-01T02:00:01Z");
    for day in 0..30 {
        timed.set("2026-03-01T02:00:01Z".parse::<DateTime<Utc>>().unwrap() + Duration::days(day));
        timed.ring();
    }
    let ids = || timed.engine.list().unwrap().into_iter().map(|it| it.id).collect::<BTreeSet<_>>();
    let before = ids();
    timed.set("2026-03-31T12:00:00Z".parse().unwrap());
    (0..10).for_each(|_| timed.ring());
    let ahead = ids();
    // One backup for the day that the clock claimed, and for it the oldest daily goes, as on any day: it is a week's by now, or in one.
    assert_eq!(ahead.difference(&before).count(), 1);
    let gone: Vec<_> = before.difference(&ahead).map(|id| id.to_string()).collect();
    assert_eq!(gone, ["daily-2026-03-24"]);
    timed.set("2026-03-30T12:00:00Z".parse().unwrap());
    (0..10).for_each(|_| timed.ring());
    assert_eq!(ids(), ahead);
    // A machine without a clock of its own that has just started.
    timed.set("1970-01-01T00:00:30Z".parse().unwrap());
    (0..10).for_each(|_| timed.ring());
    assert!(ids().is_superset(&ahead) && ids().len() == ahead.len() + 1, "{:?}", ids());
    timed.set("2026-03-31T02:00:03Z".parse().unwrap());
    timed.ring();
    let newest = timed.engine.status().unwrap().last_backup.unwrap();
    assert_eq!(newest.timestamp.date_naive(), "2026-03-31".parse().unwrap());
    assert_eq!(timed.of(Tier::Daily).len(), 7);
    timed.place.assert_whole();
}

/// Whatever rotates otherwise: a backup, a change of settings, a restore.
#[test]
fn under_a_clock_that_was_never_set_nothing_is_dropped() {
    let timed = Timed::starting(Place::new(), "2026-03-01T02:00:01Z");
    for day in 0..7 {
        timed.set("2026-03-01T02:00:01Z".parse::<DateTime<Utc>>().unwrap() + Duration::days(day));
        timed.ring();
    }
    let newest = timed.of(Tier::Daily).pop().unwrap().id;
    timed.set("1970-01-01T00:00:30Z".parse().unwrap());
    for _ in 0..3 {
        timed.create(Tier::Daily).unwrap();
    }
    let ids = || timed.engine.list().unwrap().into_iter().map(|it| it.id).collect::<BTreeSet<_>>();
    let (before, call) = (ids(), Call::new(Actor::cli()));
    assert_eq!(before.len(), 10);
    let retention = SavedRetention { daily: Some(1), weekly: Some(0), ..SavedRetention::default() };
    let change = Change { set: Saved { retention, ..Saved::default() }, reset: false, dry_run: false, expected: None };
    timed.engine.change_settings(&change, &call).unwrap();
    assert_eq!(ids(), before);
    timed.engine.restore(&Restore { subject: newest.into(), force: false, offline: None }, &call).unwrap();
    assert!(ids().is_superset(&before) && ids().len() == before.len() + 1, "{:?}", ids());
    let warnings = timed.engine.status().unwrap().warnings;
    let frozen = warnings.iter().find(|warning| warning.code == "rotation-frozen").unwrap();
    assert!(frozen.detail.contains("clock"), "{}", frozen.detail);
    assert!(warnings.iter().all(|warning| warning.code != "live-unusable"));
    // As soon as it is set, what the settings say is done.
    timed.set("2026-03-08T02:00:01Z".parse().unwrap());
    timed.ring();
    assert!(ids().len() < before.len(), "{:?}", ids());
    timed.place.assert_whole();
}

#[test]
fn a_daily_that_is_found_damaged_is_taken_again_and_one_that_shrank_is_not() {
    let timed = Timed::starting(Place::new(), "2026-03-01T02:00:01Z");
    timed.ring();
    let settings = timed.engine.settings().unwrap();
    let [daily] = &timed.of(Tier::Daily)[..] else { panic!("one daily") };
    let file = timed.place.backups().join(daily.databases.values().next().unwrap().file.clone());
    std::fs::write(&file, "gone").unwrap();
    timed.set("2026-03-01T09:00:00Z".parse().unwrap());
    assert!(!timed.engine.verify(&daily.id, &Call::new(Actor::cli())).unwrap().ok);
    assert!(matches!(timed.engine.decide(&settings, timed.now()).unwrap(), Decision::Run { failures: 0, .. }));
    (0..5).for_each(|_| timed.ring());
    assert_eq!(timed.of(Tier::Daily).iter().filter(|backup| backup.is_good()).count(), 1);
    // A table is gone: flagged, and no reason to try again.
    timed.place.sql("attendance", "DROP TABLE people");
    timed.set("2026-03-02T02:00:01Z".parse().unwrap());
    (0..5).for_each(|_| timed.ring());
    let shrunk = timed.of(Tier::Daily).iter().filter(|backup| backup.is_shrunk()).count();
    assert_eq!((timed.of(Tier::Daily).len(), shrunk), (3, 1));
}

#[test]
fn the_audit_log_is_only_asked_when_a_backup_is_due() {
    let timed = Timed::starting(Place::new(), "2026-03-01T02:00:01Z");
    timed.ring();
    let settings = timed.engine.settings().unwrap();
    let log = timed.place.backups().join("audit.jsonl");
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    let decide = |at: &str| timed.engine.decide(&settings, at.parse().unwrap());
    assert!(matches!(decide("2026-03-01T14:00:00Z"), Ok(Decision::Wait { .. })));
    assert!(decide("2026-03-02T02:00:00Z").is_err());
}

#[test]
fn an_audit_log_that_can_not_be_read_keeps_no_scheduled_backup_away() {
    let timed = Timed::starting(Place::new(), "2026-03-01T02:00:01Z");
    timed.ring();
    let log = timed.place.backups().join("audit.jsonl");
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    timed.set("2026-03-02T02:00:01Z".parse().unwrap());
    timed.ring();
    timed.ring();
    assert_eq!(timed.of(Tier::Daily).len(), 2);
    // Nor a rehearsal, once.
    let settings = timed.engine.settings().unwrap();
    let is_due = |last| timed.engine.drill_is_due(&settings, timed.now(), last).unwrap();
    assert!(is_due(None) && timed.engine.drill(&Call::new(Actor::cli())).unwrap().ok);
    assert!(!is_due(Some(timed.now())));
}

/// The binary itself, run daily for 120 days.
#[test]
fn the_program_under_faketime_leaves_7_dailies_4_weeks_and_a_backup_a_month() {
    let place = Place::new();
    let first: NaiveDate = "2026-10-01".parse().unwrap();
    for day in 0..120 {
        let at = format!("{} 02:00:00", first + chrono::Days::new(day));
        let mut command = place.command_of("faketime");
        command.args([&at, PROGRAM, "create", "--type", "daily"]).env("TZ", "UTC");
        let run = Run::of(command.output().unwrap());
        assert_eq!(run.code, 0, "{at}: {}", run.stderr);
        let catalog = place.catalog();
        assert!(catalog["backups"].as_array().unwrap().len() <= 23, "too many on {at}");
    }
    let ids = place.ids();
    let of = |tier: &str| ids.iter().rev().filter(|id| id.starts_with(tier)).cloned().collect::<Vec<_>>();
    let days: Vec<_> = (22..29).map(|day| format!("daily-2027-01-{day}")).collect();
    assert_eq!(of("daily"), days);
    assert_eq!(of("weekly"), ["weekly-2026-W53", "weekly-2027-W01", "weekly-2027-W02", "weekly-2027-W03"]);
    assert_eq!(of("monthly"), ["monthly-2026-10", "monthly-2026-11", "monthly-2026-12"]);
    place.assert_whole();
    assert!(Path::new(&place.backups().join("weekly/auth-2026-W53.db")).exists());
}

/// A folder of a longer type that takes no files, say: it is told, it keeps no new backup away, and the next one tries again.
#[test]
fn a_promotion_that_fails_keeps_no_backup_away() {
    let place = seasons::of_three_months();
    let before = place.ids();
    let target = place.backups().join("weekly/attendance-2025-W10.db");
    let mut command = place.command_of("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "trace=linkat,openat", "-e", "inject=linkat:error=EPERM"]);
    command.args(["-e", "inject=openat:error=EROFS", "-P"]).arg(&target);
    command.arg("-P").arg(place.backups().join("weekly/.attendance-2025-W10.db.partial"));
    let run = Run::of(command.args([PROGRAM, "create", "--type", "daily", "--json"]).output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stderr.contains("nothing is promoted or dropped: daily-2025-03-03 can't become weekly-2025-W10"),
        "{}",
        run.stderr
    );
    let after = place.ids();
    assert!(after.len() == before.len() + 1 && before.iter().all(|id| after.contains(id)), "{after:?}");
    let told = place.json(&["status"])["warnings"].to_string();
    assert!(told.contains("rotation-frozen") && told.contains("can't become weekly-2025-W10"), "{told}");
    place.ok(&["verify", "--all"]);
    place.ok(&["create"]);
    assert!(place.ids().contains(&"weekly-2025-W10".to_owned()), "{:?}", place.ids());
    assert!(!place.warnings().contains(&"rotation-frozen".to_owned()));
    place.assert_whole();
}

/// Who restores at night may give a command none of the variables of `serve`: it keeps as much as that does.
#[test]
fn a_command_that_is_told_to_keep_less_keeps_as_much_as_serve() {
    let mut place = seasons::of_four_days();
    let dailies = |place: &Place| place.ids().into_iter().filter(|id| id.starts_with("daily-")).count();
    let server = Server::start(&place);
    assert_eq!(server.post("/api/backup/create").status, 201);
    server.stop();
    for tier in ["DAILY", "WEEKLY", "MONTHLY"] {
        place.set(&format!("BACKUP_RETENTION_{tier}"), if tier == "DAILY" { "1" } else { "0" });
    }
    // Also where the catalog had to be made anew.
    std::fs::write(place.backups().join("metadata.json"), "{").unwrap();
    place.ok(&["catalog", "rebuild"]);
    let config = place.json(&["config"]);
    assert_eq!((&config["retention"]["daily"], &config["retention"]["weekly"]), (&4.into(), &1.into()), "{config}");
    assert_eq!(config["sources"]["retention.daily"], "serve");
    place.ok(&["restore", seasons::MANUAL, "--confirm", seasons::MANUAL]);
    assert_eq!(dailies(&place), 4);
    place.ok(&["create", "--type", "daily"]);
    assert_eq!(dailies(&place), 4, "one more, and the oldest became a weekly");
    assert!(place.ids().iter().any(|id| id.starts_with("weekly-")));
    // What somebody says counts, and so does what `serve` itself is told.
    place.ok(&["config", "--set", "retention.daily=3"]);
    assert_eq!(dailies(&place), 3);
    place.ok(&["config", "--reset"]);
    let server = Server::start(&place);
    assert_eq!(server.post("/api/backup/create").status, 201);
    server.stop();
    assert_eq!(dailies(&place), 1);
    place.assert_whole();
}

/// A folder on another disk, or a file system without hard links: what is promoted is copied, and counts once it was read back [P8].
#[test]
fn where_there_are_no_second_names_a_copy_is_read_back_before_it_counts() {
    let rotate = |place: &Place| {
        let args = ["config", "--set", "retention.daily=1"];
        let run = Run::of(place.faulty(&Spot::anywhere("linkat"), "error=EPERM", &args).output().unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
        place.ids().into_iter().filter(|id| !id.starts_with("manual")).collect::<Vec<_>>()
    };
    let place = seasons::of_four_days();
    let rotten = place.twin();
    assert_eq!(rotate(&place), ["daily-2025-03-03", "weekly-2025-W08", "monthly-2025-02"]);
    place.ok(&["verify", "--all"]);
    place.assert_whole();
    let file = rotten.backups().join("daily/attendance-2025-02-17.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let before = rotten.ids();
    rotate(&rotten);
    assert_eq!(rotten.ids(), before, "what would go may go only because of it");
    let found = rotten.list().into_iter().find(|it| it["id"] == "daily-2025-02-17").unwrap();
    assert_eq!(found["verified"]["ok"], false);
    // The next one goes on without it.
    rotten.ok(&["create"]);
    let left = rotten.ids();
    assert!(
        left.iter().any(|id| id.starts_with("weekly-")) && left.contains(&"daily-2025-02-17".to_owned()),
        "{left:?}"
    );
}
