//! The app's writers beside backups, in the modes and ways in which they could be kept waiting [P3].

use std::process::Command;

use crate::harness::{PROGRAM, Place, Run, Writer, sql_on_copy};

#[test]
fn a_writer_in_rollback_mode_waits_and_sees_no_error() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "100");
    for name in ["attendance", "auth"] {
        place.sql(name, "PRAGMA journal_mode=DELETE");
    }
    let writer = place.writer(0.0);
    for _ in 0..10 {
        let backup = place.create();
        let n = |name| sql_on_copy(&place.copy(&backup, name), "SELECT n FROM counter").parse::<i64>().unwrap();
        assert!((0..=1).contains(&(n("attendance") - n("auth"))));
    }
    let written = writer.stop();
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    assert!(written.slowest < 3.0, "a writer waited {} s", written.slowest);
    place.assert_whole();
}

/// Takes both databases in one transaction, the later name first.
const ATTACHED: &str = "import json, select, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
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

/// The program with a delay at each read of a file.
fn slowed(place: &Place, file: &std::path::Path, micros: u32, args: &[&str]) -> Run {
    let mut command = place.command_of("strace");
    let inject = format!("inject=pread64:delay_enter={micros}");
    command.args(["-f", "-o", "/dev/null", "-e", "trace=pread64", "-e", &inject, "-P"]);
    Run::of(command.arg(file).arg(PROGRAM).args(args).output().unwrap())
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
    place.set("BACKUP_ROLLBACK_HOLD", "2s");
    // The copy of attendance is slow to read back and to check; auth is not to be held for that.
    let today = place.json(&["create", "--type", "daily"])["localDate"].as_str().unwrap().to_owned();
    let partial = place.backups().join(format!("daily/.attendance-{today}-2.db.partial"));
    let run = slowed(&place, &partial, 10_000, &["create", "--type", "daily"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    place.assert_whole();
}

#[test]
fn writers_in_rollback_mode_are_held_no_longer_than_was_set() {
    let mut place = Place::new();
    in_rollback_mode(&place);
    place.set("BACKUP_ROLLBACK_HOLD", "500ms");
    let run = slowed(&place, &place.live("attendance"), 5_000, &["create"]);
    run.refused(1, &["copying `attendance` would have kept its writers waiting", "500ms", "journal_mode=WAL"]);
    assert_eq!(place.ids().len(), 0);
    place.assert_whole();
    place.create();
}
