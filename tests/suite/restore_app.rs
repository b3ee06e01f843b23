//! A restore under an app that keeps its connections, cursors and prepared statements [P6, P7]: what it sees, what it can
//! still do, and what comes back.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Place, dump, in_time, sql_on_copy};
use crate::held::{App, Language};

const NAMES: [&str; 2] = ["attendance", "auth"];
const PEOPLE: &str = "SELECT name FROM people ORDER BY id";
const ADD: &str = "INSERT INTO people (name) VALUES ('Dora')";

/// Both databases in this journal mode. A lock that stays is given up soon.
pub fn in_mode(mode: &str) -> Place {
    let mut place = Place::new();
    place.set("BACKUP_LOCK_TIMEOUT", "500ms");
    for name in NAMES {
        assert_eq!(place.sql(name, &format!("PRAGMA journal_mode={mode}")), mode);
    }
    place
}

/// For each language and each journal mode; which of them it was is seen when it fails.
fn everywhere(test: impl Fn(Language, &Place, &str)) {
    for language in Language::BOTH {
        for mode in ["wal", "delete"] {
            println!("{language:?}, journal_mode={mode}");
            test(language, &in_mode(mode), mode);
        }
    }
}

pub fn id(backup: &Value) -> &str {
    backup["id"].as_str().unwrap()
}

/// Restores it, which must go well.
pub fn restore(place: &Place, backup: &Value) -> Value {
    place.json(&["restore", id(backup), "--confirm", id(backup)])
}

/// The backup that a restore took before.
pub fn taken_before(place: &Place, restored: &Value) -> Value {
    let taken = restored["preRestore"].as_str().unwrap();
    assert!(taken.starts_with("pre-restore-"), "{restored}");
    place.list().into_iter().find(|backup| id(backup) == taken).unwrap_or_else(|| panic!("{taken} is not listed"))
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// All that the live databases hold.
fn live(place: &Place) -> Vec<Vec<String>> {
    NAMES.map(|name| sorted(&dump(&place.live(name), false))).into()
}

/// All that a backup holds.
fn held_by(place: &Place, backup: &Value) -> Vec<Vec<String>> {
    NAMES.map(|name| sorted(&dump(&place.copy(backup, name), true))).into()
}

/// Inode, owner, group and mode of each database.
fn belongings(place: &Place) -> Vec<(u64, u32, u32, u32)> {
    let of = |name| place.live(name).metadata().unwrap();
    NAMES.map(of).map(|meta| (meta.ino(), meta.uid(), meta.gid(), meta.mode())).into()
}

#[track_caller]
fn assert_sound(app: &mut App, mode: &str) {
    for name in NAMES {
        assert_eq!(app.ok(name, "PRAGMA integrity_check"), json!([["ok"]]), "{name}");
        assert_eq!(app.one(name, "PRAGMA journal_mode"), mode, "{name}");
    }
}

#[test]
fn the_app_goes_on_with_what_was_restored() {
    everywhere(|language, place, mode| {
        for name in NAMES {
            std::fs::set_permissions(place.live(name), PermissionsExt::from_mode(0o640)).unwrap();
            // Only root can give a file away.
            let _ = chown(place.live(name), Some(1234), Some(1234));
        }
        let backup = place.create();
        let mut app = App::of(language, place);
        let people = app.ok("attendance", PEOPLE);
        for statement in [ADD, "DELETE FROM people WHERE name = 'Ada'", "UPDATE people SET name = 'Bea' WHERE id = 2"] {
            assert_eq!(app.ok("attendance", statement), 1);
        }
        app.ok("auth", "UPDATE users SET email = 'z@school.example'");
        let (before, belonged) = (live(place), belongings(place));

        let restored = restore(place, &backup);
        assert_eq!(app.ok("attendance", PEOPLE), people);
        assert_eq!(app.one("auth", "SELECT email FROM users"), "a@school.example");
        assert_sound(&mut app, mode);
        assert_eq!(belongings(place), belonged);
        for name in NAMES {
            let told = &restored["databases"][name];
            assert_eq!(told["pages"], app.one(name, "PRAGMA page_count"), "{restored}");
            assert!(told["written"].as_u64().unwrap() > 0 && told["written"].as_u64() <= told["pages"].as_u64());
        }
        assert_eq!(restored["id"], backup["id"]);
        assert!(held_by(place, &taken_before(place, &restored)) == before, "the pre-restore backup is another state");

        assert_eq!(app.ok("attendance", ADD), 1);
        assert_sound(&mut app, mode);
        app.close();
        assert_eq!(place.sql("attendance", PEOPLE), "Ada\nBen\nCarla\nDora");
        assert_eq!(place.sql("attendance", "PRAGMA journal_mode"), mode);
        place.assert_whole();
    });
}

/// One is in a transaction, the other in the middle of a statement.
#[test]
fn readers_keep_their_snapshot_until_they_end() {
    for language in Language::BOTH {
        let place = in_mode("wal");
        let backup = place.create();
        let [mut one, mut other] = [App::of(language, &place), App::of(language, &place)];
        one.ok("attendance", ADD);
        one.ok("attendance", "BEGIN");
        let before = one.ok("attendance", PEOPLE);
        assert_eq!(other.step("attendance", PEOPLE), json!(["Ada"]));
        restore(&place, &backup);
        assert_eq!(one.ok("attendance", PEOPLE), before);
        assert_eq!(one.ok("attendance", "PRAGMA integrity_check"), json!([["ok"]]));
        for name in ["Ben", "Carla", "Dora"] {
            assert_eq!(other.step("attendance", PEOPLE), json!([name]));
        }
        assert_eq!(other.step("attendance", PEOPLE), Value::Null);
        one.ok("attendance", "COMMIT");
        for app in [&mut one, &mut other] {
            assert_eq!(app.ok("attendance", PEOPLE), json!([["Ada"], ["Ben"], ["Carla"]]));
            assert_sound(app, "wal");
        }
        // With no reader left, the app's own checkpoint gets through.
        assert_eq!(one.ok("attendance", "PRAGMA wal_checkpoint(TRUNCATE)"), json!([[0, 0, 0]]));
    }
}

/// A restore that doesn't get its locks gives up in time and has changed nothing; once they are gone, it goes well.
#[track_caller]
fn assert_given_up(place: &Place, backup: &Value, app: &mut App, end: &str) {
    let (before, ids) = (app.ok("attendance", PEOPLE), place.ids());
    let run = in_time(Duration::from_secs(15), || place.run(&["restore", id(backup), "--confirm", id(backup)]));
    run.refused(1, &["`attendance`", "locked"]);
    assert_eq!(place.ids(), ids, "a pre-restore backup of no restore was kept");
    place.assert_whole();
    app.ok("attendance", end);
    assert_eq!(app.ok("attendance", PEOPLE), before, "something changed");
    let restored = restore(place, backup);
    let taken = place.copy(&taken_before(place, &restored), "attendance");
    assert_eq!(sql_on_copy(&taken, PEOPLE), "Ada\nBen\nCarla\nDora");
    assert_eq!(app.ok("attendance", PEOPLE), json!([["Ada"], ["Ben"], ["Carla"]]));
}

/// In rollback mode a reader keeps every writer out.
#[test]
fn a_reader_that_stays_in_rollback_mode_is_told_of() {
    for language in Language::BOTH {
        let place = in_mode("delete");
        let backup = place.create();
        let mut app = App::of(language, &place);
        app.ok("attendance", ADD);
        app.ok("attendance", "BEGIN");
        app.ok("attendance", PEOPLE);
        assert_given_up(&place, &backup, &mut app, "COMMIT");
    }
}

/// Its transaction isn't lost: it is committed afterwards, and is in the pre-restore backup of the next try.
#[test]
fn a_writer_that_stays_is_told_of() {
    everywhere(|language, place, mode| {
        let backup = place.create();
        let mut app = App::of(language, place);
        app.ok("attendance", "BEGIN IMMEDIATE");
        app.ok("attendance", ADD);
        assert_given_up(place, &backup, &mut app, "COMMIT");
        assert_sound(&mut app, mode);
    });
}

#[test]
fn an_app_that_lets_nobody_in_is_told_of() {
    everywhere(|language, place, mode| {
        let backup = place.create();
        let mut app = App::of(language, place);
        app.ok("attendance", PEOPLE);
        app.ok("attendance", "PRAGMA locking_mode=EXCLUSIVE");
        app.ok("attendance", ADD);
        assert_given_up(place, &backup, &mut app, "PRAGMA locking_mode=NORMAL");
        assert_sound(&mut app, mode);
    });
}

/// It leaves a hot journal, or frames without a commit: what was never committed is in no backup, and in the way of nothing.
#[test]
fn an_app_that_died_in_a_transaction_is_in_the_way_of_nothing() {
    everywhere(|language, place, mode| {
        let backup = place.create();
        let mut app = App::of(language, place);
        app.ok("attendance", ADD);
        app.ok("attendance", "PRAGMA cache_size=1");
        app.ok("attendance", "BEGIN IMMEDIATE");
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)";
        app.ok("attendance", &format!("INSERT INTO people (name) {rows} SELECT 'nobody ' || i FROM n"));
        app.ok("attendance", "UPDATE people SET name = 'nobody' WHERE id < 4");
        drop(app);
        // A transaction that is larger than the cache has reached the file.
        let written = place.path(if mode == "wal" { "attendance.db-wal" } else { "attendance.db" });
        assert!(written.metadata().unwrap().len() > 30_000, "it left nothing");
        let restored = restore(place, &backup);
        let taken = place.copy(&taken_before(place, &restored), "attendance");
        assert_eq!(sql_on_copy(&taken, PEOPLE), "Ada\nBen\nCarla\nDora");
        let mut next = App::of(language, place);
        assert_eq!(next.ok("attendance", PEOPLE), json!([["Ada"], ["Ben"], ["Carla"]]));
        assert_sound(&mut next, mode);
        place.assert_whole();
    });
}

/// Commits that no checkpoint has brought into the database's file count as any other.
#[test]
fn undo_brings_back_what_lay_only_in_the_wal() {
    everywhere(|language, place, mode| {
        let backup = place.create();
        let mut app = App::of(language, place);
        for name in NAMES {
            app.ok(name, "PRAGMA wal_autocheckpoint=0");
        }
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)";
        assert_eq!(app.ok("attendance", &format!("INSERT INTO people (name) {rows} SELECT 'Zoë ' || i FROM n")), 2000);
        app.ok("auth", "DELETE FROM users");
        if mode == "wal" {
            let file = place.path("alone.db");
            std::fs::copy(place.live("attendance"), &file).unwrap();
            assert_eq!(sql_on_copy(&file, "SELECT count(*) FROM people"), "3", "the app has made a checkpoint");
        }
        let before = live(place);
        let restored = restore(place, &backup);
        assert_eq!(app.one("attendance", "SELECT count(*) FROM people"), 3);
        assert!(held_by(place, &taken_before(place, &restored)) == before, "the pre-restore backup is another state");

        let undone = place.json(&["undo"]);
        assert_eq!(undone["id"], restored["preRestore"]);
        assert_eq!(app.one("attendance", "SELECT count(*) FROM people"), 2003);
        assert_eq!(app.one("auth", "SELECT count(*) FROM users"), 0);
        assert!(live(place) == before, "undo has brought back another state");
        // It can itself be undone.
        assert_eq!(place.json(&["undo"])["id"], undone["preRestore"]);
        assert!(live(place) == held_by(place, &backup), "the second undo has brought back another state");
        assert_sound(&mut app, mode);
        place.assert_whole();
    });
}

/// What only the backup has.
const OLD: &str = "PRAGMA user_version=7; CREATE TABLE rooms (id INTEGER PRIMARY KEY); INSERT INTO rooms VALUES (12);
    CREATE INDEX by_name ON people (name)";
/// What the live database has instead.
const NEW: &str = "PRAGMA user_version=8; DROP TABLE rooms; DROP INDEX by_name;
    ALTER TABLE people ADD COLUMN class TEXT DEFAULT '5b'; CREATE TABLE marks (mark TEXT); INSERT INTO marks VALUES ('late')";

/// Asks for all of it, always in the same words. `None` where the schema has no such thing.
fn schema_seen(app: &mut App) -> [Option<Value>; 6] {
    assert_eq!(app.ok("attendance", "SELECT name FROM people WHERE id = 2"), json!([["Ben"]]));
    let statements = [
        "SELECT * FROM people WHERE id = 1",
        "SELECT id FROM people INDEXED BY by_name WHERE name = 'Ben'",
        "SELECT class FROM people LIMIT 1",
        "SELECT id FROM rooms",
        "SELECT mark FROM marks",
    ];
    let mut seen: Vec<_> = statements
        .iter()
        .map(|sql| match app.ask("attendance", sql) {
            Ok(rows) => Some(rows[0].clone()),
            Err(error) => {
                assert!(error.starts_with("SQLITE_ERROR: no such "), "{sql}: {error}");
                None
            }
        })
        .collect();
    seen.push(Some(app.one("attendance", "PRAGMA user_version")));
    seen.try_into().unwrap()
}

#[test]
fn kept_statements_go_on_when_the_schema_changes_both_ways() {
    let in_old = [Some(json!([1, "Ada"])), Some(json!([2])), None, Some(json!([12])), None, Some(json!(7))];
    let with_class = Some(json!([1, "Ada", "5b"]));
    let in_new = [with_class, None, Some(json!(["5b"])), None, Some(json!(["late"])), Some(json!(8))];
    everywhere(|language, place, mode| {
        place.sql("attendance", OLD);
        let mut app = App::of(language, place);
        assert_eq!(schema_seen(&mut app), in_old);
        let backup = place.create();
        place.sql("attendance", NEW);
        assert_eq!(schema_seen(&mut app), in_new);
        let mut other = App::of(language, place);
        assert_eq!(schema_seen(&mut other), in_new);
        restore(place, &backup);
        for app in [&mut app, &mut other] {
            assert_eq!(schema_seen(app), in_old);
            assert_eq!(app.ok("attendance", ADD), 1);
            assert_sound(app, mode);
        }
        place.json(&["undo"]);
        for app in [&mut app, &mut other] {
            assert_eq!(schema_seen(app), in_new);
            assert_eq!(app.ok("attendance", ADD), 1);
            assert_sound(app, mode);
        }
        place.assert_whole();
    });
}
