//! What may not be restored is refused before anything is touched, with the reason and a line in the audit log.

use std::path::Path;

use serde_json::{Value, json};

use crate::app::App;
use crate::client::{Server, superuser};
use crate::damage::flip;
use crate::harness::{Place, Run, sha256, sql_on};

/// Everything that both live databases hold.
fn dump(place: &Place) -> String {
    let tables = "SELECT group_concat(sql, '|') FROM sqlite_schema";
    let people = "SELECT group_concat(id || name, '|') FROM people";
    let users = "SELECT group_concat(id || email, '|') FROM users";
    [("attendance", people), ("auth", users)]
        .map(|(name, rows)| place.sql(name, &format!("{tables}; {rows}; PRAGMA user_version; PRAGMA integrity_check")))
        .join("\n")
}

fn restore(place: &Place, id: &str, more: &[&str]) -> Run {
    place.run(&[&["restore", id, "--confirm", id], more].concat())
}

/// A place with a backup, and with live databases that hold something else.
fn changed() -> (Place, Value, String) {
    let mut place = Place::new();
    place.set("BACKUP_LOCK_TIMEOUT", "300ms");
    let backup = place.create();
    place.sql("attendance", "DELETE FROM people WHERE id = 1; PRAGMA user_version = 9");
    place.sql("auth", "INSERT INTO users (email) VALUES ('b@school.example')");
    let id = backup["id"].as_str().unwrap().to_owned();
    (place, backup, id)
}

/// What the preview says of a restore that would be refused.
fn foretold(place: &Place, id: &str) -> Vec<String> {
    let warnings = place.json(&["preview", id])["warnings"].as_array().unwrap().clone();
    let refusals = warnings.iter().filter(|it| it["code"] == "refused" || it["code"] == "needs-force");
    refusals.map(|it| it["detail"].as_str().unwrap().to_owned()).collect()
}

/// It fails with that code, says each word, changes nothing, and the audit log has it.
#[track_caller]
fn refused(place: &Place, id: &str, more: &[&str], code: &str, words: &[&str]) {
    let before = dump(place);
    let run = restore(place, id, more);
    assert_eq!(run.code, 1, "{}{}", run.stdout, run.stderr);
    for word in words {
        assert!(run.stderr.contains(word), "{word:?} is not in: {}", run.stderr);
    }
    assert_eq!(dump(place), before);
    let line = place.audit().pop().unwrap();
    assert_eq!((line["operation"].as_str(), line["code"].as_str()), (Some("restore"), Some(code)), "{line}");
    assert!(!place.backups().join("restore.json").exists() && !place.backups().join("restoring").exists());
}

#[test]
fn what_is_not_there_is_said_before_anybody_is_asked() {
    let (place, _, id) = changed();
    place.run(&["restore", &id]).refused(2, &["nothing was changed", &format!("--confirm {id}")]);
    for more in [&[][..], &["--confirm", "manual-2020-01-01T000000Z"]] {
        place.run(&[&["restore", "daily-2020-01-01"], more].concat()).refused(1, &["daily-2020-01-01", "`list` shows"]);
    }
}

/// Puts another file in the place of a copy, and has the catalog say that it was always that one.
pub fn forge(place: &Place, backup: &Value, name: &str, file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    std::fs::write(place.copy(backup, name), &bytes).unwrap();
    let mut catalog = place.catalog();
    let entries = catalog["backups"].as_array_mut().unwrap();
    let entry = entries.iter_mut().find(|entry| entry["id"] == backup["id"]).unwrap();
    let copy = entry["databases"][name].as_object_mut().unwrap();
    copy.remove("storedXxh3");
    for key in ["size", "storedSize"] {
        copy.insert(key.to_owned(), bytes.len().into());
    }
    for key in ["checksum", "storedChecksum"] {
        copy.insert(key.to_owned(), sha256(&bytes).into());
    }
    std::fs::write(place.backups().join("metadata.json"), catalog.to_string()).unwrap();
}

/// The same with a database that `sql` makes.
fn forge_sql(place: &Place, backup: &Value, name: &str, sql: &str) {
    let file = place.path("forged.db");
    let _ = std::fs::remove_file(&file);
    sql_on(&file, sql);
    forge(place, backup, name, &file);
}

#[test]
fn damaged_copies_are_refused_whichever_way() {
    for (what, act) in [
        ("SHA-256", (|file: &Path| flip(file, |len| len - 7)) as fn(&Path)),
        ("bytes instead of", |file| {
            std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(4096).unwrap();
        }),
        ("No such file", |file| std::fs::remove_file(file).unwrap()),
        ("has 0 bytes", |file| std::fs::write(file, b"").unwrap()),
    ] {
        for name in ["attendance", "auth"] {
            let (place, backup, id) = changed();
            act(&place.copy(&backup, name));
            refused(&place, &id, &[], "damaged", &[what, "use another backup"]);
            refused(&place, &id, &["--force"], "damaged", &[what]);
        }
    }
}

#[test]
fn a_structure_that_is_corrupt_is_refused_though_its_checksum_is_right() {
    let (place, backup, id) = changed();
    let mut bytes = std::fs::read(place.copy(&backup, "attendance")).unwrap();
    bytes[4096..8192].fill(0x5a);
    std::fs::write(place.path("forged.db"), bytes).unwrap();
    forge(&place, &backup, "attendance", &place.path("forged.db"));
    refused(&place, &id, &[], "damaged", &["attendance"]);
    refused(&place, &id, &["--force"], "damaged", &["attendance"]);
}

#[test]
fn another_kind_of_database_is_refused() {
    let people = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)";
    for (sql, word) in [
        ("CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE)", "its tables are users"),
        ("PRAGMA application_id = 7; CREATE TABLE orders (a)", "its tables are orders"),
        ("PRAGMA user_version = 1", "no table at all"),
    ] {
        let (place, backup, id) = changed();
        forge_sql(&place, &backup, "attendance", sql);
        refused(&place, &id, &[], "foreign", &[word, "BACKUP_DATABASES"]);
        refused(&place, &id, &["--force"], "foreign", &[word]);
    }
    let (place, backup, id) = changed();
    place.sql("attendance", "PRAGMA application_id = 8");
    forge_sql(&place, &backup, "attendance", &format!("PRAGMA application_id = 7; {people}"));
    refused(&place, &id, &[], "foreign", &["application_id is 7", "is 8"]);
}

#[test]
fn copies_that_were_swapped_are_refused() {
    let (place, backup, id) = changed();
    let [one, other] = ["attendance", "auth"].map(|name| place.copy(&backup, name));
    std::fs::copy(&one, place.path("one.db")).unwrap();
    std::fs::copy(&other, place.path("other.db")).unwrap();
    std::fs::copy(place.path("other.db"), &one).unwrap();
    refused(&place, &id, &[], "damaged", &["attendance"]);
    forge(&place, &backup, "attendance", &place.path("other.db"));
    forge(&place, &backup, "auth", &place.path("one.db"));
    refused(&place, &id, &[], "foreign", &["attendance"]);
}

#[test]
fn code_that_the_live_database_lacks_wants_force_and_is_named() {
    let users = "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE)";
    for (code, name, otherwise) in [
        (
            "CREATE TRIGGER up AFTER INSERT ON users BEGIN UPDATE users SET email = 'x' WHERE 0; END",
            "trigger up",
            "CREATE TRIGGER up AFTER INSERT ON users BEGIN UPDATE users SET email = 'x' WHERE 1; END",
        ),
        ("CREATE VIEW seen AS SELECT * FROM users", "view seen", "CREATE VIEW seen AS SELECT id FROM users"),
        (
            "CREATE VIRTUAL TABLE found USING fts5(email)",
            "virtual table found",
            "CREATE VIRTUAL TABLE found USING fts5(email, name)",
        ),
    ] {
        let (place, backup, id) = changed();
        // The trigger has a semicolon within, which divides statements for the helper.
        let file = place.path("forged.db");
        crate::harness::python(
            "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nfor s in sys.argv[2:]: c.execute(s)",
            &[&file, Path::new(users), Path::new(code)],
        );
        forge(&place, &backup, "auth", &file);
        let foretold = foretold(&place, &id);
        assert!(foretold.len() == 1 && foretold[0].contains(name), "{foretold:?}");
        refused(&place, &id, &[], "foreign-code", &[name, "force"]);
        let run = restore(&place, &id, &["--force"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        // What the live database has already is no news.
        assert_eq!(restore(&place, &id, &[]).code, 0);
        // One of the same name that does something else is.
        let other = place.path("other.db");
        crate::harness::python(
            "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nfor s in sys.argv[2:]: c.execute(s)",
            &[&other, Path::new(users), Path::new(otherwise)],
        );
        forge(&place, &backup, "auth", &other);
        refused(&place, &id, &[], "foreign-code", &[name]);
    }
}

/// SQLite runs it whatever the case of its type, and it passes every check.
#[test]
fn code_under_a_type_that_is_written_otherwise_is_code() {
    let (place, backup, id) = changed();
    let file = place.path("forged.db");
    let trigger = "CREATE TRIGGER up AFTER INSERT ON users BEGIN UPDATE users SET email = 'x'; END";
    let users = "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE)";
    let hidden = "UPDATE sqlite_schema SET type = 'TRIGGER' WHERE type = 'trigger'";
    crate::harness::python(
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nfor s in sys.argv[2:]: c.execute(s)",
        &[&file, Path::new(users), Path::new(trigger), Path::new("PRAGMA writable_schema=ON"), Path::new(hidden)],
    );
    assert_eq!(sql_on(&file, "INSERT INTO users (email) VALUES ('a'); SELECT email FROM users"), "x");
    forge(&place, &backup, "auth", &file);
    refused(&place, &id, &[], "foreign-code", &["trigger up"]);
}

/// An undo puts back what was the app's own, so no trigger that came after the backup is in its way.
#[test]
fn an_undo_needs_no_force() {
    let (place, _, id) = changed();
    place.sql("auth", "CREATE VIEW seen AS SELECT * FROM users");
    let before = dump(&place);
    assert_eq!(foretold(&place, &id), Vec::<String>::new());
    let told = place.json(&["restore", &id, "--confirm", &id]);
    assert_eq!(foretold(&place, told["preRestore"].as_str().unwrap()), Vec::<String>::new());
    place.ok(&["undo"]);
    assert_eq!(dump(&place), before);
    // Of an older restore it is a backup like any other.
    place.sql("auth", "DROP VIEW seen");
    place.ok(&["restore", &id, "--confirm", &id]);
    refused(&place, told["preRestore"].as_str().unwrap(), &[], "foreign-code", &["view seen"]);
}

/// What the backup lacked is lacking because someone wanted it so.
#[test]
fn a_backup_after_a_restore_is_not_suspiciously_small() {
    let (place, _, id) = changed();
    place.sql("attendance", "CREATE TABLE more (a); INSERT INTO more VALUES (1)");
    place.create();
    place.ok(&["restore", &id, "--confirm", &id]);
    assert_eq!(place.create()["flags"], json!([]));
    // Whatever goes after that is looked at again.
    place.sql("attendance", "DROP TABLE people; CREATE TABLE other (a)");
    assert_eq!(place.create()["flags"], json!(["shrunk"]));
}

/// A restore that changed nothing is none to undo.
#[test]
fn an_undo_is_of_the_last_restore_that_changed_something() {
    let (place, _, id) = changed();
    let before = dump(&place);
    place.ok(&["restore", &id, "--confirm", &id]);
    place.sql("attendance", "INSERT INTO people (name) VALUES ('later')");
    let mut app = App::on(&[&place.live("auth")]);
    app.ok(0, "BEGIN IMMEDIATE");
    assert_eq!(restore(&place, &id, &[]).code, 1);
    app.ok(0, "ROLLBACK");
    place.ok(&["undo"]);
    assert_eq!(dump(&place), before);
}

#[test]
fn a_backup_of_other_databases_wants_force() {
    let (place, _, id) = changed();
    let mut catalog = place.catalog();
    let file = catalog["backups"][0]["databases"].as_object_mut().unwrap().remove("auth").unwrap();
    std::fs::write(place.backups().join("metadata.json"), catalog.to_string()).unwrap();
    refused(&place, &id, &[], "other-databases", &["no copy of `auth`", "force"]);
    assert!(foretold(&place, &id)[0].contains("no copy of `auth`"));
    let run = restore(&place, &id, &["--force"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "3");
    assert_eq!(place.sql("auth", "SELECT count(*) FROM users"), "2");
    std::fs::remove_file(place.backups().join(file["file"].as_str().unwrap())).unwrap();
    place.assert_whole();
}

#[test]
fn a_writer_that_never_ends_is_waited_for_and_named() {
    let (place, _, id) = changed();
    let mut app = App::on(&[&place.live("auth")]);
    app.ok(0, "BEGIN IMMEDIATE");
    let run = restore(&place, &id, &[]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("`auth` was locked by another process for 300ms"), "{}", run.stderr);
    app.ok(0, "ROLLBACK");
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "2");
    assert_eq!(place.audit().pop().unwrap()["code"], "live-locked");
    place.assert_whole();
    assert_eq!(restore(&place, &id, &[]).code, 0);
}

#[test]
fn an_app_that_keeps_everyone_out_or_a_reader_that_never_ends_is_no_reason_to_wait_for_ever() {
    for (mode, hold) in [("wal", "PRAGMA locking_mode=EXCLUSIVE"), ("delete", "PRAGMA locking_mode=NORMAL")] {
        let (place, _, id) = changed();
        for name in ["attendance", "auth"] {
            place.sql(name, &format!("PRAGMA journal_mode={mode}"));
        }
        let before = dump(&place);
        let mut app = App::on(&[&place.live("attendance")]);
        app.ok(0, hold);
        app.ok(0, "BEGIN");
        app.ok(0, "SELECT count(*) FROM people");
        if mode == "wal" {
            app.ok(0, "DELETE FROM people WHERE 0");
        }
        let run = restore(&place, &id, &[]);
        assert_eq!(run.code, 1, "{mode}: {}", run.stdout);
        assert!(run.stderr.contains("`attendance` was locked"), "{mode}: {}", run.stderr);
        drop(app);
        assert_eq!(dump(&place), before, "{mode}");
        assert_eq!(restore(&place, &id, &[]).code, 0, "{mode}");
        place.assert_whole();
    }
}

#[test]
fn corrupt_live_data_is_kept_and_replaced_with_force_alone() {
    let (place, _, id) = changed();
    place.sql("attendance", "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=delete");
    let mut bytes = std::fs::read(place.live("attendance")).unwrap();
    bytes[4096 + 8..4096 + 200].fill(0xee);
    std::fs::write(place.live("attendance"), &bytes).unwrap();
    let run = restore(&place, &id, &[]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("`attendance` is corrupt") && run.stderr.contains("With force"), "{}", run.stderr);
    assert_eq!(std::fs::read(place.live("attendance")).unwrap(), bytes);
    let run = restore(&place, &id, &["--force", "--json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "3");
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    let catalog = place.catalog();
    let entry =
        catalog["backups"].as_array().unwrap().iter().find(|it| it["id"] == told["preRestore"]).unwrap().clone();
    assert_eq!(entry["checked"]["ok"], false);
    assert_eq!(std::fs::read(place.copy(&entry, "attendance")).unwrap(), bytes);
    // It comes back just so, and only with force.
    let run = place.run(&["undo"]);
    assert_eq!(run.code, 1, "{}", run.stdout);
    assert_eq!(place.run(&["undo", "--force"]).code, 0);
    let back = std::fs::read(place.live("attendance")).unwrap();
    assert_eq!(back[4096..], bytes[4096..]);
}

#[test]
fn what_would_hold_the_app_for_too_long_is_given_up_and_leaves_no_pre_restore_backup() {
    let (mut place, _, _) = changed();
    place.set("BACKUP_RESTORE_HOLD", "100ms");
    place.fill(150);
    let id = place.create()["id"].as_str().unwrap().to_owned();
    place.sql("attendance", "UPDATE blobs SET bytes = randomblob(500000)");
    let before = place.sql("attendance", "SELECT sum(unicode(hex(bytes))) FROM blobs");
    let run = restore(&place, &id, &[]);
    assert_eq!(run.code, 1, "{}", run.stdout);
    assert!(
        run.stderr.contains("for more than 100ms") && run.stderr.contains("Raise BACKUP_RESTORE_HOLD"),
        "{}",
        run.stderr
    );
    assert_eq!(place.sql("attendance", "SELECT sum(unicode(hex(bytes))) FROM blobs"), before);
    assert!(!place.ids().iter().any(|id| id.starts_with("pre-restore")));
    assert_eq!(place.audit().iter().rfind(|line| line["operation"] == "restore").unwrap()["code"], "restore-hold");
    place.assert_whole();
    place.set("BACKUP_RESTORE_HOLD", "1m");
    assert_eq!(restore(&place, &id, &[]).code, 0);
}

#[test]
fn unknown_backups_and_words_said_once_change_nothing() {
    let (place, _, id) = changed();
    let before = dump(&place);
    assert_eq!(place.run(&["restore", &id]).code, 2);
    assert_eq!(place.run(&["restore", &id, "--confirm", "daily-2026-01-01"]).code, 2);
    assert_eq!(place.run(&["restore", "../../etc/passwd", "--confirm", "../../etc/passwd"]).code, 2);
    let run = restore(&place, "daily-2026-01-01", &[]);
    assert!(run.code == 1 && run.stderr.contains("there is no backup"), "{}", run.stderr);
    let line = place.audit().pop().unwrap();
    assert_eq!((line["kind"].as_str(), line["code"].as_str()), (Some("refused"), Some("not-found")));
    let run = place.run(&["undo"]);
    assert!(run.code == 1 && run.stderr.contains("no restore to undo"), "{}", run.stderr);
    assert_eq!(dump(&place), before);
}

#[test]
fn over_http_the_same_words_and_the_same_refusals() {
    let (place, backup, id) = changed();
    let server = Server::start(&place);
    let token = superuser();
    let post = |body: Value| server.request("POST", "/api/backup/restore").token(&token).json(&body).send();
    let before = dump(&place);
    post(json!({ "id": id })).problem(400, "bad-body");
    post(json!({ "id": id, "confirm": "daily-2026-01-01" })).problem(400, "bad-body");
    post(json!({ "id": id, "confirm": id, "offline": true })).problem(400, "bad-body");
    post(json!({ "id": "daily-2026-01-01", "confirm": "daily-2026-01-01" })).problem(404, "not-found");
    let kept = std::fs::read(place.copy(&backup, "auth")).unwrap();
    flip(&place.copy(&backup, "auth"), |len| len - 7);
    post(json!({ "id": id, "confirm": id })).problem(422, "damaged");
    std::fs::write(place.copy(&backup, "auth"), kept).unwrap();
    let mut app = App::on(&[&place.live("auth")]);
    app.ok(0, "BEGIN IMMEDIATE");
    post(json!({ "id": id, "confirm": id })).problem(409, "live-locked");
    app.ok(0, "ROLLBACK");
    assert_eq!(dump(&place), before);
    let told = post(json!({ "id": id, "confirm": id })).ok();
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "3");
    let undo = told["preRestore"].as_str().unwrap();
    post(json!({ "id": undo, "confirm": undo })).ok();
    assert_eq!(dump(&place), before);
    let line = place.audit().pop().unwrap();
    assert!(line["by"].as_str().unwrap().starts_with("user:") && line["ok"] == true, "{line}");
    place.assert_whole();
}
