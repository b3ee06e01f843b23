//! The app's writers beside backups, in the modes and ways in which they could be kept waiting [P3].

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{PROGRAM, Place, Run, Writer, dump, in_some_tries, sql_on_copy};
use crate::held::{App, Language};

#[test]
fn a_writer_in_rollback_mode_waits_and_sees_no_error() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "100");
    for name in ["attendance", "auth"] {
        place.sql(name, "PRAGMA journal_mode=DELETE");
    }
    in_some_tries(|| {
        let writer = place.timed_writer(0.0);
        for _ in 0..10 {
            let backup = place.create();
            let n = |name| sql_on_copy(&place.copy(&backup, name), "SELECT n FROM counter").parse::<i64>().unwrap();
            assert!((0..=1).contains(&(n("attendance") - n("auth"))));
        }
        let written = writer.stop();
        assert!(written.errors.is_empty(), "{:?}", written.errors);
        if written.slowest < 3.0 { Ok(()) } else { Err(format!("a writer waited {} s", written.slowest)) }
    });
    place.assert_whole();
}

/// Takes both databases in one transaction, the later name first.
const ATTACHED: &str = "import json, select, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
c.execute('ATTACH ? AS auth', (sys.argv[2],))
c.execute('CREATE TABLE main.counter (n)')
c.execute('INSERT INTO main.counter VALUES (0)')
c.execute('CREATE TABLE auth.counter (n)')
c.execute('INSERT INTO auth.counter VALUES (0)')
print('ready', flush=True)
pairs, errors = 0, []
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        c.execute('BEGIN')
        c.execute('UPDATE auth.counter SET n = n + 1')
        c.execute('UPDATE main.counter SET n = n + 1')
        c.execute('COMMIT')
        pairs += 1
    except sqlite3.Error as error:
        errors.append(str(error))
        if c.in_transaction: c.execute('ROLLBACK')
print(json.dumps({'pairs': pairs, 'errors': errors[:10], 'slowest': 0}), flush=True)";

#[test]
fn an_app_that_attached_both_and_backups_never_wait_for_each_other() {
    for mode in ["WAL", "DELETE"] {
        let place = Place::new();
        for name in ["attendance", "auth"] {
            place.sql(name, &format!("PRAGMA journal_mode={mode}"));
        }
        let mut python = Command::new("python3");
        let writer = Writer::spawn(python.args(["-c", ATTACHED]).arg(place.live("attendance")).arg(place.live("auth")));
        for _ in 0..10 {
            place.create();
        }
        let written = writer.stop();
        assert!(written.errors.is_empty(), "{mode}: {:?}", written.errors);
        assert!(written.pairs > 10, "{mode}: the writer hardly wrote: {}", written.pairs);
        place.assert_whole();
    }
}

/// The program with a delay at each read of a file, and how long it was kept waiting so in all.
fn slowed(place: &Place, file: &Path, micros: u32, args: &[&str]) -> (Run, Duration) {
    let (mut command, log) = (place.command_of("strace"), place.path("delays"));
    let inject = format!("inject=pread64:delay_enter={micros}");
    command.args(["-f", "-o"]).arg(&log).args(["-e", "trace=pread64", "-e", &inject, "-P"]);
    let run = Run::of(command.arg(file).arg(PROGRAM).args(args).output().unwrap());
    let delays = std::fs::read_to_string(log).unwrap().matches("(DELAYED)").count();
    (run, Duration::from_micros(u64::from(micros)) * u32::try_from(delays).unwrap())
}

fn in_rollback_mode(place: &Place) {
    for name in ["attendance", "auth"] {
        place.sql(name, "PRAGMA journal_mode=DELETE");
    }
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
                INSERT INTO people (name) SELECT hex(zeroblob(1800)) FROM n";
    place.sql("attendance", rows);
}

#[test]
fn writers_in_rollback_mode_wait_for_copies_but_not_for_checks() {
    let mut place = Place::new();
    in_rollback_mode(&place);
    place.set("BACKUP_ROLLBACK_HOLD", "10s");
    // The copy of attendance is slow to read back and to check; auth is not to be held for that.
    let today = place.json(&["create", "--type", "daily"])["localDate"].as_str().unwrap().to_owned();
    let partial = place.backups().join(format!("daily/.attendance-{today}-2.db.partial"));
    let (run, delayed) = slowed(&place, &partial, 50_000, &["create", "--type", "daily"]);
    assert!(delayed > Duration::from_secs(10), "it was slow for no longer than {delayed:?}");
    assert_eq!(run.code, 0, "{}", run.stderr);
    place.assert_whole();
}

#[test]
fn writers_in_rollback_mode_are_held_no_longer_than_was_set() {
    let mut place = Place::new();
    in_rollback_mode(&place);
    place.set("BACKUP_ROLLBACK_HOLD", "500ms");
    let (run, delayed) = slowed(&place, &place.live("attendance"), 5_000, &["create"]);
    assert!(delayed > Duration::from_millis(500), "it was slow for no longer than {delayed:?}");
    run.refused(1, &["copying `attendance` would have kept its writers waiting", "500ms", "journal_mode=WAL"]);
    assert_eq!(place.ids().len(), 0);
    place.assert_whole();
    place.set("BACKUP_ROLLBACK_HOLD", "1m").create();
}

/// Each connection of an app has such a mode for itself: the file says nothing of it, and no journal lies beside it that would tell
/// of a half commit. Only the app's locks keep a copy from one.
#[test]
fn an_app_without_a_journal_on_disk_keeps_its_mode_and_its_half_commits_to_itself() {
    for mode in ["memory", "off"] {
        let mut place = Place::new();
        in_rollback_mode(&place);
        place.set("BACKUP_LOCK_TIMEOUT", "300ms");
        let mut app = App::open(Language::Python, &place, &["attendance"]);
        assert_eq!(app.one("attendance", &format!("PRAGMA journal_mode={mode}")), mode);
        app.ok("attendance", "INSERT INTO people (name) VALUES ('whole')");
        assert_copied(&place, &place.create());

        // Half of it lies in the file: the cache holds ten pages.
        app.ok("attendance", "PRAGMA cache_size=10");
        let before = std::fs::read(place.live("attendance")).unwrap();
        app.ok("attendance", "BEGIN");
        app.ok("attendance", "UPDATE people SET name = 'half' || name");
        assert!(std::fs::read(place.live("attendance")).unwrap() != before, "{mode}: nothing is written yet");
        place.run(&["create"]).refused(1, &["the live database `attendance` was locked by another process for 300ms"]);
        assert_eq!(place.ids().len(), 1);

        app.ok("attendance", "COMMIT");
        let backup = place.create();
        assert_copied(&place, &backup);
        assert_eq!(sql_on_copy(&place.copy(&backup, "attendance"), "SELECT min(name LIKE 'half%') FROM people"), "1");
        assert_eq!(app.one("attendance", "PRAGMA journal_mode"), mode);
        assert_eq!(backup["databases"]["attendance"]["journalMode"], "delete");
        assert!(place.run(&["doctor"]).stdout.contains("journal mode rollback"), "{mode}");
        assert_eq!(place.warnings(), ["new-store"], "{mode}");
        place.assert_whole();
    }
}

fn assert_copied(place: &Place, backup: &Value) {
    let live = place.live("attendance");
    assert_eq!(dump(&place.copy(backup, "attendance"), true), dump(&live, false));
}
