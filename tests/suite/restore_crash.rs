//! kill -9 at every call that changes the disk, of a restore of two databases and of the recovery from it, with and
//! without an app that has them open: both are old or both are new, and all of the old is in a backup [P6, P7, P10].

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Instant;

use crate::client::Server;
use crate::harness::{Place, Run, eventually, kill, thoroughness};
use crate::inject::{Spot, spots};
use crate::restore_scene::{
    ID, Identity, NAMES, Past, RESTORE, app, assert_goes_on, assert_settled_files, identities, live_spots,
    write_meanwhile,
};
use crate::scene::{Context, Tally, assert_readers_change_nothing, report};
use crate::together::holder;

/// What the app does while the program is killed and is down.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    /// There is no app.
    Away,
    /// It has both databases open and does nothing.
    Idle,
    /// It has both open, and writes before the next operation.
    Writing,
    /// It comes, writes, and closes all.
    Passing,
}

const MEANWHILES: [Meanwhile; 4] = [Meanwhile::Away, Meanwhile::Writing, Meanwhile::Idle, Meanwhile::Passing];

/// Whoever comes next: a command, or a service that is started and stopped.
fn recover(place: &Place, by_serving: bool) {
    if by_serving {
        Server::start(place).stop();
    } else {
        place.ok(&["create"]);
    }
}

/// One kill in a twin, and what must hold after it. Says which content is there; nothing when it was through before.
fn kill_at(past: &Past, spot: &Spot, n: usize, meanwhile: Meanwhile) -> Option<bool> {
    let context = Context(format!("a restore was ended at {spot} {n}; the app: {meanwhile:?}"));
    let place = past.twin();
    let before = identities(&place);
    let held = matches!(meanwhile, Meanwhile::Idle | Meanwhile::Writing).then(|| app(&place));
    let done = place.killed(spot, n, &RESTORE).then(|| settle(past, &place, &before, meanwhile, held, n));
    drop(context);
    done
}

fn settle(
    past: &Past,
    place: &Place,
    before: &[Identity],
    meanwhile: Meanwhile,
    mut held: Option<crate::app::App>,
    n: usize,
) -> bool {
    assert_readers_change_nothing(place);
    let seen = match (&mut held, meanwhile) {
        (Some(app), Meanwhile::Writing) => Some(write_meanwhile(app)),
        (None, Meanwhile::Passing) => {
            let mut passing = app(place);
            let seen = write_meanwhile(&mut passing);
            passing.end();
            Some(seen)
        }
        _ => None,
    };
    recover(place, n % 5 == 4);
    // What an idle app has open may hide what whoever opens it next would find.
    if let (Some(app), Meanwhile::Idle) = (held.take_if(|_| seen.is_none()), meanwhile) {
        app.kill();
    }
    let done = past.assert_settled(place, before, seen);
    if done && (n.is_multiple_of(4) || seen.is_some_and(|seen| seen[0] != seen[1])) {
        past.assert_undone(place, seen);
    }
    if let Some(app) = held {
        assert_goes_on(app, place);
    }
    done
}

/// At every call when there is time; else at the first and every so many of a kind, with the app at this or that.
fn kill_everywhere(modes: [&'static str; 2]) {
    let past = Past::of(modes);
    let stride = if thoroughness() >= 2 { 1 } else { 17 };
    let each = if thoroughness() >= 10 { MEANWHILES.len() } else { 1 };
    let (mut tallies, mut turn) = (BTreeMap::new(), 0);
    for spot in spots(&[]).into_iter().chain(live_spots()) {
        let mut tally = Tally::default();
        let mut n = 1;
        'through: loop {
            for _ in 0..each {
                let Some(done) = kill_at(&past, &spot, n, MEANWHILES[turn % MEANWHILES.len()]) else { break 'through };
                turn += 1;
                tally.count(done);
            }
            n += stride;
        }
        tallies.insert(spot.to_string(), tally);
    }
    report(&format!("restore over {modes:?}"), &tallies);
}

#[test]
fn a_restore_that_is_killed_over_two_in_wal_mode() {
    kill_everywhere(["wal", "wal"]);
}

#[test]
fn a_restore_that_is_killed_over_two_in_rollback_mode() {
    kill_everywhere(["delete", "delete"]);
}

#[test]
fn a_restore_that_is_killed_over_one_of_each_mode() {
    kill_everywhere(["wal", "delete"]);
}

/// At any time, also where no call is made.
#[test]
fn a_restore_that_is_killed_between_its_calls() {
    let points = if thoroughness() >= 2 { 40 * thoroughness() as u32 } else { 9 };
    let mut tallies = BTreeMap::new();
    for modes in [["wal", "wal"], ["delete", "delete"]] {
        let (past, mut tally) = (Past::of(modes), Tally::default());
        let begun = Instant::now();
        past.twin().ok(&RESTORE);
        let whole = begun.elapsed();
        for point in 0..points {
            let place = past.twin();
            let before = identities(&place);
            let meanwhile = MEANWHILES[point as usize % MEANWHILES.len()];
            let held = matches!(meanwhile, Meanwhile::Idle | Meanwhile::Writing).then(|| app(&place));
            let mut child = place.command(&RESTORE).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(whole * point / points);
            kill(&mut child);
            let context =
                Context(format!("over {modes:?} a restore was ended at {point}/{points}; the app: {meanwhile:?}"));
            // Ended before it had made its folder, it has written no line.
            tally.count(settle(&past, &place, &before, meanwhile, held, point as usize));
            drop(context);
        }
        tallies.insert(format!("{modes:?}, by time"), tally);
    }
    report("restore", &tallies);
}

/// Where the first kill strikes, and what the next operation then finds: neither committed, one, or both.
fn firsts(modes: [&str; 2]) -> [(Spot, usize, &'static str); 4] {
    // The first sync of a new WAL is that of its header.
    let (one, n) = if modes[1] == "wal" { ("../attendance.db-wal", 2) } else { ("../auth.db", 1) };
    let none = if modes[0] == "wal" { "../attendance.db-wal" } else { "../attendance.db-journal" };
    [
        (Spot::on("pwrite64", none), 6, "none"),
        (Spot::on("fsync", one), n, "one"),
        (Spot::on("unlink", "restore.json"), 1, "both"),
        (Spot::on("unlinkat", "restoring"), 1, "both"),
    ]
}

/// Ended again while the next operation settles it, at every so many calls, and settled by the one after that.
fn kill_recoveries(modes: [&'static str; 2]) {
    let past = Past::of(modes);
    let stride = if thoroughness() >= 2 { 1 } else { 29 };
    let mut tallies = BTreeMap::new();
    for (first, n, committed) in firsts(modes) {
        let crashed = past.twin();
        if !crashed.killed(&first, n, &RESTORE) {
            assert!(first.call == "unlinkat", "{first} is never called");
            continue;
        }
        let found = past.found(&crashed.twin()).0.into_iter().filter(|new| *new).count();
        assert_eq!(["none", "one", "both"][found], committed, "committed at {first} {n}");
        let _context = Context(format!("a restore was ended at {first} {n}"));
        let tally = kill_recovery(
            || crashed.twin(),
            [n, stride, 1],
            |place, before| {
                let done = past.assert_settled(place, before, None);
                assert_eq!(done, found > 0, "settled otherwise than it was committed");
                done
            },
        );
        tallies.insert(format!("{modes:?}, {committed} committed, at {first} {n}"), tally);
    }
    report("recovery from a restore", &tallies);
}

/// Ended at every so many calls of the next operation, which settles what it finds in such a place, and settled by the one after
/// that. `settled` says what came of it. Of its calls every so many kinds are tried, each from another one on, by `offset`.
pub fn kill_recovery(
    crashed: impl Fn() -> Place,
    [offset, stride, kinds]: [usize; 3],
    settled: impl Fn(&Place, &[Identity]) -> bool,
) -> Tally {
    let mut tally = Tally::default();
    let all = spots(&[]).into_iter().chain(live_spots()).enumerate();
    for (kind, spot) in all.skip(offset % kinds).step_by(kinds) {
        let mut n = 1 + if stride > 1 { (kind + offset) % 11 } else { 0 };
        loop {
            let place = crashed();
            let before = identities(&place);
            let context = Context(format!("the recovery was ended at {spot} {n}"));
            if !place.killed(&spot, n, &["create"]) {
                break;
            }
            assert_readers_change_nothing(&place);
            recover(&place, n % 5 == 4);
            tally.count(settled(&place, &before));
            drop(context);
            n += stride;
        }
    }
    tally
}

#[test]
fn a_recovery_from_a_restore_that_is_killed_in_wal_mode() {
    kill_recoveries(["wal", "wal"]);
}

#[test]
fn a_recovery_from_a_restore_that_is_killed_in_rollback_mode() {
    kill_recoveries(["delete", "delete"]);
}

/// One database is new and one is old when somebody keeps the next operation from settling it: that fails and says so,
/// nothing is lost of what is to be told, and once the way is free all is settled.
#[test]
fn a_restore_that_was_killed_and_can_not_be_settled_yet() {
    for modes in [["wal", "wal"], ["delete", "delete"]] {
        let mut past = Past::of(modes);
        past.scene.place.set("BACKUP_LOCK_TIMEOUT", "300ms");
        let mut place = past.twin();
        let before = identities(&place);
        let (spot, n, _) = &firsts(modes)[1];
        assert!(place.killed(spot, *n, &RESTORE));
        let mut held = app(&place);
        for (at, begin) in [(0, "BEGIN IMMEDIATE"), (1, "BEGIN IMMEDIATE")] {
            held.ok(at, begin);
        }
        let warned = |place: &Place| place.warnings().contains(&"restore-unfinished".to_owned());
        assert!(warned(&place));
        // That somebody tries to settle it is no reason to say less.
        let mut patient = place.command(&["create"]);
        let mut waits = patient.env("BACKUP_LOCK_TIMEOUT", "1m").spawn().unwrap();
        eventually("it tries", || holder(&place));
        assert!(warned(&place));
        kill(&mut waits);
        for args in [["create"], ["undo"]] {
            place.run(&args).refused(1, &["is not settled", "locked by another process", ID]);
        }
        for at in [0, 1] {
            held.ok(at, "ROLLBACK");
        }
        // The way forward takes as long as it takes.
        place.set("BACKUP_RESTORE_HOLD", "100ms");
        let slow = place.faulty(&Spot::anywhere("renameat2"), "delay_enter=150000", &["pin", ID]).output();
        let run = Run::of(slow.unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(!warned(&place));
        assert!(past.assert_whole(&place, &before, None));
        let told = place.audit();
        let told: Vec<_> = told.iter().filter(|it| is_of_begun(it)).map(|it| (&it["kind"], &it["ok"])).collect();
        assert_eq!(told, [(&"intent".into(), &serde_json::Value::Null), (&"outcome".into(), &true.into())]);
        assert_goes_on(held, &place);
    }
}

/// Each try takes a pre-restore backup of its own. The first stays, and the newest.
#[test]
fn a_restore_that_is_tried_again_and_again_pushes_out_no_others_backup() {
    let modes = ["wal", "wal"];
    let past = Past::of(modes);
    let place = past.twin();
    let before = identities(&place);
    let made = || place.ids().into_iter().filter(|id| id.starts_with("pre-restore")).collect::<Vec<_>>();
    let (spot, n, _) = &firsts(modes)[1];
    assert!(place.killed(spot, *n, &RESTORE));
    let first = made();
    let old = past.found(&place.twin()).0.iter().position(|is_new| !is_new).unwrap();
    let full = Spot::on("pwrite64", &format!("../{}.db-wal", NAMES[old]));
    for _ in 0..3 {
        let run = Run::of(place.faulty(&full, "error=ENOSPC:when=1+", &["create"]).output().unwrap());
        run.refused(1, &["is not settled"]);
        assert_eq!(made().len(), 2, "{:?}", made());
    }
    place.ok(&["create"]);
    assert!(past.assert_settled(&place, &before, None));
    assert!(made().len() <= 3 && made().contains(&first[0]), "{:?}", made());
}

/// A line of a restore, but for one that failed before its intent.
fn is_of_begun(line: &serde_json::Value) -> bool {
    line["operation"] == "restore" && line["details"]["unbegun"].is_null()
}

/// Killed with one of both committed, or none; and again while that is settled.
#[test]
fn a_recovery_from_an_undo_that_is_killed() {
    let past = Past::of(["wal", "wal"]);
    past.scene.place.ok(&RESTORE);
    let mut tallies = BTreeMap::new();
    for (at, is_new) in [[true, true], [false, true]].into_iter().enumerate() {
        let crashed = past.crashed(&["undo"], is_new);
        let tally = kill_recovery(
            || crashed.twin(),
            rare(at),
            |place, before| {
                assert_eq!(past.found(place).0, [is_new[0]; 2], "settled otherwise than it was committed");
                assert_eq!(identities(place), before, "inode, mode or owner of a live file");
                assert_settled_files(place);
                place.assert_whole();
                !is_new[0]
            },
        );
        tallies.insert(format!("new content at first: {is_new:?}"), tally);
    }
    report("recovery from an undo", &tallies);
}

/// For [`kill_recovery`]: all of it when there is time, else a sample.
pub fn rare(offset: usize) -> [usize; 3] {
    if thoroughness() >= 10 { [offset, 1, 1] } else { [offset, 40, 5] }
}

/// A recovery that can't write how the restore has ended leaves what tells it: else the next one would say that nothing was changed, and
/// `undo` would take back an older one.
#[test]
fn a_restore_that_is_settled_without_a_line_is_settled_again() {
    let place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    let log = || Spot::on("write", "audit.jsonl");
    assert!(place.killed(&log(), 2, &["restore", &id, "--confirm", &id]));
    assert_eq!(
        place.sql("attendance", "SELECT count(*) FROM people WHERE name = 'Dora'"),
        "0",
        "it was killed too soon"
    );
    let run = Run::of(place.faulty(&log(), "error=EIO", &["create"]).output().unwrap());
    assert!(run.code == 0 && run.stderr.contains("going on without an audit line"), "{}", run.stderr);
    assert!(place.backups().join("restore.json").exists());
    place.create();
    assert!(!place.backups().join("restore.json").exists());
    let outcome = place.audit().into_iter().rfind(|line| line["kind"] == "outcome" && line["operation"] == "restore");
    assert_eq!(outcome.unwrap()["ok"], true);
    place.ok(&["undo"]);
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people WHERE name = 'Dora'"), "1");
    place.assert_whole();
}
