//! Restores while apps commit without pause [P6, P7]: every commit that an app was told of is in the pre-restore backup or
//! in the live database, and both databases change together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Place, dump, sql_on_copy, thoroughness};
use crate::held::{App, Ending, Language};
use crate::restore_app::{in_mode, restore, taken_before};

const NAMES: [&str; 2] = ["attendance", "auth"];

/// A commit that the app was told of; it happened between these two.
struct Commit {
    name: &'static str,
    row: String,
    asked: Instant,
    told: Instant,
}

/// Commits n to `attendance` and then n to `auth`, each a row of its own. Says what was told and what went wrong.
fn commit_flat_out(app: &mut App, by: &str, over: &AtomicBool) -> (Vec<Commit>, Vec<String>) {
    let (mut commits, mut errors) = (Vec::new(), Vec::new());
    for n in 1.. {
        for name in NAMES {
            let asked = Instant::now();
            match app.ask_with(name, "INSERT INTO ledger (by, n) VALUES (?, ?)", &json!([by, n])) {
                Ok(_) => commits.push(Commit { name, row: format!("{by}|{n}"), asked, told: Instant::now() }),
                Err(error) => errors.push(format!("{name}, {n} by {by}: {error}")),
            }
        }
        if over.load(Ordering::Acquire) {
            break;
        }
    }
    (commits, errors)
}

/// A restore: when it began and ended, and the backup that it took before.
struct Restored {
    begun: Instant,
    ended: Instant,
    taken: Value,
}

fn restore_again_and_again(place: &Place, backup: &Value, times: usize) -> Vec<Restored> {
    let once = |_| {
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        let restored = restore(place, backup);
        let ended = Instant::now();
        Restored { begun, ended, taken: taken_before(place, &restored) }
    };
    let restored = (0..times).map(once).collect();
    std::thread::sleep(Duration::from_millis(300));
    restored
}

const LEDGER: &str = "SELECT by, n FROM ledger";

fn rows(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

/// The ledger of each database: one for each pre-restore backup, and last that of the live one.
fn ledgers(place: &Place, restored: &[Restored]) -> BTreeMap<&'static str, Vec<BTreeSet<String>>> {
    let of = |name: &'static str| {
        let taken = restored.iter().map(|it| rows(&sql_on_copy(&place.copy(&it.taken, name), LEDGER)));
        (name, taken.chain([rows(&place.sql(name, LEDGER))]).collect())
    };
    NAMES.map(of).into()
}

/// In a backup of one instant, whoever writes n to one and then n to the other is at most one ahead.
fn assert_one_instant(ledgers: &BTreeMap<&str, Vec<BTreeSet<String>>>, place: usize, by: &str) {
    let last = |name: &str| {
        let numbers = ledgers[name][place].iter().filter_map(|row| row.strip_prefix(by)?.strip_prefix('|'));
        numbers.map(|n| n.parse::<i64>().unwrap()).max()
    };
    // Where one has nothing yet, it began after the restore before.
    if let (Some(first), Some(second)) = (last("attendance"), last("auth")) {
        assert!((0..=1).contains(&(first - second)), "{by}: {first} and {second} in pre-restore backup {place}");
    }
}

fn nothing_told_is_lost(mode: &str) {
    let mut place = in_mode(mode);
    place.set("BACKUP_RETENTION_PRE_RESTORE", "100").set("BACKUP_LOCK_TIMEOUT", "30s");
    for name in NAMES {
        place.sql(name, "CREATE TABLE ledger (by TEXT, n INTEGER)");
    }
    let backup = place.create();
    let mut apps = Language::BOTH.map(|language| (format!("{language:?}"), App::of(language, &place)));
    let over = AtomicBool::new(false);
    let (told, restored) = std::thread::scope(|scope| {
        let over = &over;
        let writers: Vec<_> =
            apps.iter_mut().map(|(by, app)| scope.spawn(move || commit_flat_out(app, by, over))).collect();
        let ending = Ending(over);
        let restored = restore_again_and_again(&place, &backup, 4 * thoroughness());
        drop(ending);
        let told: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        (told, restored)
    });
    let ledgers = ledgers(&place, &restored);
    let mut slowest = Duration::ZERO;
    for (commits, errors) in &told {
        assert!(errors.is_empty(), "{errors:?}");
        for commit in commits {
            // It is in what the first restore that can have come after it took before, or later.
            let first = restored.iter().filter(|it| it.ended <= commit.asked).count();
            let last = restored.iter().filter(|it| it.begun < commit.told).count();
            let found = ledgers[commit.name][first..=last].iter().any(|rows| rows.contains(&commit.row));
            assert!(found, "{} of {} is lost, which belongs in {first} to {last}", commit.row, commit.name);
            slowest = slowest.max(commit.told - commit.asked);
        }
    }
    for (by, app) in &mut apps {
        (0..restored.len()).for_each(|place| assert_one_instant(&ledgers, place, by));
        for name in NAMES {
            assert_eq!(app.ok(name, "PRAGMA integrity_check"), json!([["ok"]]));
        }
    }
    let commits = told.iter().map(|(commits, _)| commits.len());
    println!("{mode}: {} restores, commits {:?}, the slowest {slowest:?}", restored.len(), commits.collect::<Vec<_>>());
    place.assert_whole();
}

#[test]
fn nothing_an_app_was_told_of_is_lost_in_wal_mode() {
    nothing_told_is_lost("wal");
}

#[test]
fn nothing_an_app_was_told_of_is_lost_in_rollback_mode() {
    nothing_told_is_lost("delete");
}

/// What a poll of one database after the other saw.
struct Poll {
    begun: Instant,
    ended: Instant,
    seen: [Value; 2],
}

fn poll(app: &mut App) -> Poll {
    let begun = Instant::now();
    let seen = NAMES.map(|name| app.one(name, "SELECT n FROM state"));
    Poll { begun, ended: Instant::now(), seen }
}

fn poll_until(app: &mut App, over: &AtomicBool, first: Poll) -> Vec<Poll> {
    let mut polls = vec![first];
    loop {
        let last = over.load(Ordering::Acquire);
        polls.push(poll(app));
        if last {
            return polls;
        }
    }
}

/// Old for a while, one new and one old for a moment, new for ever. Says how long the moment was and how often it was seen.
fn window(polls: &[Poll]) -> (Duration, usize) {
    let both = |poll: &Poll, n: u64| poll.seen.iter().all(|seen| *seen == n);
    let last_old = polls.iter().rposition(|poll| both(poll, 2)).expect("the app never saw what was");
    let first_new = polls.iter().position(|poll| both(poll, 1)).expect("the app never saw what was restored");
    assert!(last_old < first_new, "what was came back after the restore");
    assert!(polls[first_new..].iter().all(|poll| both(poll, 1)), "one database went back to what was");
    (polls[first_new].ended - polls[last_old].begun, first_new - last_old - 1)
}

#[test]
fn both_databases_change_together() {
    for language in Language::BOTH {
        for mode in ["wal", "delete"] {
            let place = in_mode(mode);
            NAMES.iter().for_each(|name| drop(place.sql(name, "CREATE TABLE state (n); INSERT INTO state VALUES (1)")));
            let backup = place.create();
            place.fill(4);
            NAMES.iter().for_each(|name| drop(place.sql(name, "UPDATE state SET n = 2")));
            let mut app = App::of(language, &place);
            let over = AtomicBool::new(false);
            // What was is seen however long the others take to begin.
            let first = poll(&mut app);
            let (polls, restored) = std::thread::scope(|scope| {
                let polls = scope.spawn(|| poll_until(&mut app, &over, first));
                let ending = Ending(&over);
                let restored = restore(&place, &backup);
                drop(ending);
                (polls.join().unwrap(), restored)
            });
            let (moment, mixed) = window(&polls);
            let told = &restored["apartMicros"];
            println!(
                "{language:?}, {mode}: {} polls, {mixed} of them mixed, new within {moment:?}; told: {told} µs",
                polls.len()
            );
            assert!(dump(&place.live("auth"), false).contains("\"state\" VALUES(1)"));
        }
    }
}

/// The check above can fail.
#[test]
fn a_database_that_goes_back_would_be_seen() {
    let now = Instant::now();
    let poll = |first: u64, second: u64| Poll { begun: now, ended: now, seen: [json!(first), json!(second)] };
    assert_eq!(window(&[poll(2, 2), poll(1, 2), poll(1, 1)]).1, 1);
    for bad in [[(2, 2), (1, 1), (2, 1)], [(2, 2), (2, 1), (2, 1)], [(2, 2), (1, 1), (2, 2)]] {
        let polls = bad.map(|(first, second)| poll(first, second));
        assert!(std::panic::catch_unwind(|| window(&polls)).is_err());
    }
}
