//! Rehearsals: each tier's newest backup is restored aside and looked at, what is wrong with one is told and stands until it
//! is right, and nothing of it is left [P8, P11].

use std::path::Path;

use serde_json::{Value, json};

use crate::client::{Answer, Server, superuser, user};
use crate::damage::flip;
use crate::forms::IDENTITY;
use crate::harness::{Place, Run, eventually};
use crate::inject::Spot;
use crate::seasons::{self, DAILY, MANUAL, MONTHLY, WEEKLY};
use crate::tried::Tried;

/// What a rehearsal says, with its exit code.
fn drill(place: &Place) -> (i32, Value) {
    let run = place.run(&["drill", "--json"]);
    (run.code, serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}{}", run.stdout, run.stderr)))
}

/// It fails, for that reason, at that database of the newest backup. Says all of it.
#[track_caller]
fn assert_fails(place: &Place, name: &str, words: &str) -> Value {
    let (code, drilled) = drill(place);
    assert_eq!((code, &drilled["ok"], &drilled["backups"][0]["ok"]), (1, &false.into(), &false.into()), "{drilled}");
    let found = &drilled["backups"][0]["databases"];
    let reason = found[name]["reason"].as_str().unwrap_or_else(|| panic!("{drilled}"));
    assert!(reason.contains(words), "{reason}");
    let others = found.as_object().unwrap().iter().filter(|(other, _)| *other != name);
    assert!(others.map(|(_, found)| &found["ok"]).all(|ok| ok == true), "{drilled}");
    assert!(!place.backups().join("restoring").exists());
    drilled
}

fn change_catalog(place: &Place, change: impl FnOnce(&mut Value)) {
    let mut catalog = place.catalog();
    change(&mut catalog);
    std::fs::write(place.backups().join("metadata.json"), catalog.to_string()).unwrap();
}

/// As a restore will leave it: a copy of what was there before.
fn make_pre_restore(place: &Place) -> String {
    let id = "pre-restore-2025-03-05T030000Z";
    let manual = place.list().into_iter().find(|backup| backup["id"] == MANUAL).unwrap();
    let mut entry = manual.clone();
    (entry["id"], entry["type"], entry["sequence"]) = (json!(id), json!("pre-restore"), json!(1000));
    for name in ["attendance", "auth"] {
        let file = format!("pre-restore/{name}-2025-03-05T030000Z.db");
        std::fs::copy(place.copy(&manual, name), place.backups().join(&file)).unwrap();
        entry["databases"][name]["file"] = file.into();
    }
    change_catalog(place, |catalog| catalog["backups"].as_array_mut().unwrap().push(entry));
    id.to_owned()
}

#[test]
fn the_newest_backup_of_each_tier_is_rehearsed() {
    let place = seasons::of_three_months();
    let pre_restore = make_pre_restore(&place);
    assert_eq!(place.json(&["status"])["lastDrill"], Value::Null);
    let before = place.list();
    let (code, drilled) = drill(&place);
    assert_eq!((code, &drilled["ok"]), (0, &true.into()), "{drilled}");
    let backups = drilled["backups"].as_array().unwrap();
    let ids: Vec<_> = backups.iter().map(|backup| backup["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&pre_restore, MANUAL, DAILY, WEEKLY, MONTHLY]);
    for (backup, people) in backups.iter().zip([7, 7, 6, 5, 4]) {
        assert!(backup["ok"] == true && backup["seconds"].is_f64(), "{backup}");
        assert_eq!(backup["databases"]["attendance"], json!({ "ok": true, "rows": people }));
    }
    let last = &place.json(&["status"])["lastDrill"];
    assert_eq!((&last["ok"], &last["id"]), (&true.into(), &pre_restore.into()), "{last}");
    assert!(last["seconds"].as_f64().unwrap() > 0.0 && last["at"].as_str().unwrap().ends_with('Z'), "{last}");
    let status = place.ok(&["status"]).stdout;
    assert!(status.contains("last drill") && status.contains("went well"), "{status}");
    assert_eq!(place.warnings(), ["stale"]);
    let audit = place.audit();
    let [intent, outcome] = &audit[audit.len() - 2..] else { panic!() };
    assert_eq!((&intent["operation"], &intent["kind"]), (&"drill".into(), &"intent".into()));
    assert_eq!(intent["details"]["backups"], json!(ids));
    assert_eq!((&outcome["kind"], &outcome["ok"]), (&"outcome".into(), &true.into()));
    assert_eq!(outcome["details"]["backups"], drilled["backups"]);
    // What was read back is recorded as such; else nothing has changed.
    for (before, after) in before.iter().zip(place.list()) {
        assert!(after["verified"]["at"].as_str() > before["verified"]["at"].as_str(), "{after}");
        let same = |key: &str| before[key] == after[key];
        assert!(["id", "sequence", "databases", "checked", "pinned", "flags"].into_iter().all(same), "{after}");
    }
    let told = place.ok(&["drill"]).stdout;
    assert!(told.contains(DAILY) && told.contains("  attendance: 7 rows"), "{told}");
    place.assert_whole();
}

#[test]
fn only_the_newest_of_a_tier_is_rehearsed() {
    let place = Place::new();
    let old = place.create();
    let new = place.create();
    flip(&place.copy(&old, "auth"), |len| len - 1);
    let (code, drilled) = drill(&place);
    assert_eq!((code, drilled["backups"].as_array().unwrap().len()), (0, 1));
    assert_eq!(drilled["backups"][0]["id"], new["id"]);
}

/// Whom nobody would restore without a word: what was kept of corrupt data is known to be that, and fails no rehearsal.
#[test]
fn corrupt_data_that_a_restore_has_kept_is_not_rehearsed() {
    let place = Place::new();
    let good = place.create();
    let id = good["id"].as_str().unwrap();
    place.sql("attendance", "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=delete");
    let mut bytes = std::fs::read(place.live("attendance")).unwrap();
    bytes[4096 + 8..4096 + 200].fill(0xee);
    std::fs::write(place.live("attendance"), bytes).unwrap();
    place.ok(&["restore", id, "--confirm", id, "--force"]);
    assert_eq!(place.list()[0]["checked"]["ok"], false, "what was kept");
    let (code, drilled) = drill(&place);
    assert_eq!((code, drilled["backups"].as_array().unwrap().len()), (0, 1), "{drilled}");
    assert_eq!(drilled["backups"][0]["id"], id);
    assert!(!place.warnings().contains(&"drill-failed".to_owned()));
    place.ok(&["delete", id, "--force"]);
    place.run(&["drill"]).refused(1, &["there is no backup"]);
}

#[test]
fn of_each_tier_the_newest_that_can_be_opened_here_is_rehearsed() {
    let mut place = Place::new();
    let recipient = place.keyed();
    place.writes(false, true);
    let (daily, first) = (place.json(&["create", "--type", "daily"]), place.create());
    std::fs::rename(place.path(IDENTITY), place.path("old.txt")).unwrap();
    place.forgets_its_identity().keyed();
    let second = place.create();
    assert_eq!(rehearsed(&place), [second["id"].clone()]);
    let old = place.path("old.txt").display().to_string();
    place.set("BACKUP_ENCRYPTION_IDENTITY_FILE", &old).set("BACKUP_ENCRYPTION_RECIPIENTS", &recipient);
    assert_eq!(rehearsed(&place), [first["id"].clone(), daily["id"].clone()]);
    place.forgets_its_identity();
    place.run(&["drill"]).refused(1, &[second["id"].as_str().unwrap(), "BACKUP_ENCRYPTION_IDENTITY_FILE"]);
}

/// The ids of a rehearsal that goes well.
fn rehearsed(place: &Place) -> Vec<Value> {
    let (code, drilled) = drill(place);
    assert_eq!(code, 0, "{drilled}");
    drilled["backups"].as_array().unwrap().iter().map(|backup| backup["id"].clone()).collect()
}

#[test]
fn damage_is_found_recorded_and_told_until_it_is_mended() {
    // At the end of the file, where rows are; and in space that no structure uses, where SQLite's check finds nothing.
    let spots: [fn(usize) -> usize; 2] = [|len| len - 1, |_| 4096 - 1500];
    for spot in spots {
        let place = Place::new();
        let backup = place.create();
        let (id, file) = (backup["id"].as_str().unwrap(), place.copy(&backup, "auth"));
        let whole = std::fs::read(&file).unwrap();
        flip(&file, spot);
        assert_fails(&place, "auth", "holds other bytes than were recorded (SHA-256)");
        assert!(place.ok(&["list"]).stdout.contains("DAMAGED"));
        let status = place.json(&["status"]);
        assert_eq!((&status["lastDrill"]["ok"], &status["lastDrill"]["id"]), (&false.into(), &id.into()));
        assert_eq!(status["lastFailure"]["operation"], "drill");
        let warnings = status["warnings"].to_string();
        assert!(warnings.contains("drill-failed") && warnings.contains(id) && warnings.contains("`drill` again"));
        assert!(!warnings.contains("backup-failed"), "{warnings}");
        let text = place.run(&["drill"]);
        assert!(text.code == 1 && text.stdout.contains(&format!("{id}: FAILED")), "{}", text.stdout);
        // A backup doesn't take it away; a rehearsal that goes well does.
        place.ok(&["create", "--type", "daily"]);
        assert!(place.warnings().contains(&"drill-failed".to_owned()));
        std::fs::write(&file, whole).unwrap();
        assert_eq!(drill(&place).0, 0);
        assert_eq!(place.warnings(), Vec::<String>::new());
        assert!(!place.ok(&["list"]).stdout.contains("DAMAGED"));
        place.assert_whole();
    }
}

/// One that fails hides no other, and the first of them is named.
#[test]
fn each_tier_has_its_own_verdict() {
    let place = seasons::of_three_months();
    let list = place.list();
    let of = |id: &str| list.iter().find(|backup| backup["id"] == id).unwrap();
    std::fs::remove_file(place.copy(of(DAILY), "auth")).unwrap();
    let cut = std::fs::OpenOptions::new().write(true).open(place.copy(of(MONTHLY), "attendance")).unwrap();
    cut.set_len(4096).unwrap();
    let (code, drilled) = drill(&place);
    let verdicts: Vec<_> = drilled["backups"].as_array().unwrap().iter().map(|it| (&it["id"], &it["ok"])).collect();
    let expected =
        [(MANUAL, true), (DAILY, false), (WEEKLY, true), (MONTHLY, false)].map(|(id, ok)| (json!(id), json!(ok)));
    assert_eq!((code, verdicts), (1, expected.iter().map(|(id, ok)| (id, ok)).collect()));
    let reason = |n: usize, name: &str| drilled["backups"][n]["databases"][name]["reason"].as_str().unwrap();
    assert!(reason(1, "auth").contains("No such file"), "{drilled}");
    assert!(reason(3, "attendance").contains("bytes instead of"), "{drilled}");
    assert_eq!(place.json(&["status"])["lastDrill"]["id"], DAILY);
    let damaged = place.list().into_iter().filter(|backup| backup["verified"]["ok"] == false).count();
    assert_eq!(damaged, 2);
}

#[test]
fn what_can_not_be_read_just_now_fails_it_and_is_not_recorded_as_damage() {
    let place = Place::new();
    let backup = place.create();
    let path = backup["databases"]["auth"]["file"].as_str().unwrap().to_owned();
    for (call, error, words) in [("openat", "EACCES", "permission denied"), ("pread64", "EIO", "Input/output error")] {
        let before = place.catalog()["backups"].clone();
        let spot = Spot { call, path: Some(path.clone()) };
        let run = Run::of(place.faulty(&spot, &format!("error={error}"), &["drill"]).output().unwrap());
        assert!(run.code == 1 && run.stdout.contains(words), "{}{}", run.stdout, run.stderr);
        assert_eq!(place.catalog()["backups"], before, "{error}");
    }
    assert_eq!(drill(&place).0, 0);
    place.assert_whole();
}

#[test]
fn what_the_catalog_says_of_a_database_is_compared() {
    let place = Place::new();
    place.create();
    for (pointer, value, words) in [
        ("/tables/people", json!(4), "the table people has 3 rows instead of 4 rows"),
        ("/tables/people", Value::Null, "the table people has 3 rows instead of no rows"),
        ("/tables/marks", json!(0), "the table marks has no rows that can be counted instead of 0 rows"),
        ("/userVersion", json!(7), "its user_version is 0 instead of 7"),
        ("/pageSize", json!(512), "its page_size is 4096 instead of 512"),
    ] {
        let catalog = std::fs::read(place.backups().join("metadata.json")).unwrap();
        change_catalog(&place, |catalog| {
            let copy = &mut catalog["backups"][0]["databases"]["attendance"];
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = copy.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            drop(if value.is_null() { parent.remove(key) } else { parent.insert(key.to_owned(), value.clone()) });
        });
        assert_fails(&place, "attendance", words);
        // The bytes are as they were.
        assert_eq!(place.list()[0]["verified"]["ok"], true);
        std::fs::write(place.backups().join("metadata.json"), catalog).unwrap();
    }
    assert_eq!(drill(&place).0, 0);
}

/// An index that has lost its rows: a quick check, which every backup has, doesn't see it.
#[test]
fn the_check_is_the_thorough_one() {
    let place = Place::new();
    place.sql("attendance", "CREATE INDEX by_name ON people (name)");
    let change = "UPDATE sqlite_schema SET sql = 'CREATE INDEX by_name ON people (name || 1)' WHERE name = 'by_name'";
    place.sql("attendance", &format!("PRAGMA writable_schema=ON; {change}"));
    place.create();
    assert_fails(&place, "attendance", "it is corrupt: row 1 missing from index by_name");
    assert_eq!(place.list()[0]["verified"]["ok"], true, "the bytes are as recorded");
}

/// An index on the app's own function: the quick check, which every backup has, does without it. For a primary key in the
/// app's own order nothing does.
#[test]
fn what_only_the_app_can_check_fails_no_rehearsal() {
    for (table, flags, rows) in [
        ("CREATE TABLE names (name TEXT); CREATE INDEX own ON names (short(name))", json!([]), 53),
        ("CREATE TABLE names (name TEXT COLLATE swedish PRIMARY KEY) WITHOUT ROWID", json!(["not-checkable"]), 3),
    ] {
        let place = Place::new();
        let own = "import sqlite3, sys\n\
                   c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                   c.create_function('short', 1, lambda name: name[:3], deterministic=True)\n\
                   c.create_collation('swedish', lambda a, b: (a > b) - (a < b))\n\
                   c.executescript(sys.argv[2])\n\
                   for n in range(50): c.execute('INSERT INTO names VALUES (?)', (f'name {n}',))";
        crate::harness::python(own, &[&place.live("attendance"), Path::new(table)]);
        let backup = place.create();
        assert_eq!(backup["flags"], flags, "{backup}");
        let (code, drilled) = drill(&place);
        assert_eq!(code, 0, "{drilled}");
        // Without that order not even the rows of the table can be counted.
        assert_eq!(drilled["backups"][0]["databases"]["attendance"]["rows"], rows, "{drilled}");
    }
}

#[test]
fn what_the_owner_wants_to_hold_is_asked_of_the_copy_alone() {
    let mut place = Place::new();
    let backup = place.create();
    let file = place.copy(&backup, "attendance");
    let (bytes, live) = (std::fs::read(&file).unwrap(), std::fs::read(place.live("attendance")).unwrap());
    let attach = format!("ATTACH '{}' AS live", place.live("attendance").display());
    for (sql, words) in [
        ("SELECT count(*) = 3 FROM people", ""),
        ("SELECT count(*) = 0 FROM pragma_foreign_key_check", ""),
        ("SELECT count(*) > 3 FROM people", "it is false"),
        ("SELECT max(name) FROM people WHERE id > 9", "it gives NULL"),
        ("SELECT name FROM people WHERE id > 9", "it gives no row"),
        ("SELECT count(* FROM people", "syntax error"),
        ("SELECT 1; SELECT 1", "it is more than one statement"),
        ("DELETE FROM people", "not authorized"),
        ("INSERT INTO people (name) VALUES ('Eve') RETURNING 1", "not authorized"),
        ("PRAGMA writable_schema=ON", "not authorized"),
        (&attach, "not authorized"),
    ] {
        place.set("BACKUP_DRILL_SQL_ATTENDANCE", sql);
        if words.is_empty() {
            assert_eq!(drill(&place).0, 0, "{sql}");
        } else {
            let drilled = assert_fails(&place, "attendance", words);
            assert!(drilled.to_string().contains("BACKUP_DRILL_SQL_ATTENDANCE does not hold: "), "{drilled}");
        }
        assert!(std::fs::read(&file).unwrap() == bytes, "{sql} has changed the backup");
        assert!(std::fs::read(place.live("attendance")).unwrap() == live, "{sql} has changed the live database");
    }
    assert_eq!(place.list()[0]["verified"]["ok"], true, "the bytes are as recorded");
    place.assert_whole();
}

#[test]
fn assertions_stand_in_the_configuration() {
    let mut place = Place::new();
    let toml = place.path("backup.toml");
    std::fs::write(&toml, "[drill]\nschedule = 'monthly'\n[drill.sql]\nauth = '''SELECT\n count(*) FROM users'''\n")
        .unwrap();
    std::fs::write(place.path("sql"), "SELECT 7\n").unwrap();
    place.set("BACKUP_CONFIG_FILE", toml.to_str().unwrap());
    let sql = place.path("sql").display().to_string();
    place.set("BACKUP_DRILL_SQL_ATTENDANCE_FILE", &sql);
    let shown = place.ok(&["config"]).stdout;
    let row = |name: &str| {
        let line = shown.lines().find(|line| line.split(' ').next() == Some(name)).unwrap_or_else(|| panic!("{shown}"));
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("BACKUP_DRILL_SCHEDULE"), "monthly file");
    assert_eq!(row("BACKUP_DRILL_SQL_AUTH"), "SELECT count(*) FROM users file");
    assert_eq!(row("BACKUP_DRILL_SQL_ATTENDANCE"), "(read from a file) env");
    let sources = &place.json(&["config"])["sources"];
    let told = ["drill.schedule", "drill.sql.auth", "drill.sql.attendance"].map(|key| &sources[key]);
    assert_eq!(told, ["file", "file", "env"], "{sources}");
    place.create();
    assert_eq!(drill(&place).0, 0);
    place.set("BACKUP_DRILL_SQL_STAFF", "SELECT 1");
    place.run(&["drill"]).refused(2, &["BACKUP_DRILL_SQL_STAFF", "no database of that name", "attendance, auth"]);
}

fn status(server: &Server) -> Value {
    server.get("/api/backup/status").ok()
}

#[test]
fn over_http_a_superuser_rehearses() {
    let place = Place::new();
    let server = Server::start(&place);
    let path = "/api/backup/drill";
    assert!(server.post(path).problem(409, "no-backups").contains("take one first"));
    server.request("POST", path).token(&user()).send().problem(403, "forbidden");
    server.request("POST", path).send().problem(401, "unauthenticated");
    assert_eq!(status(&server)["lastDrill"], Value::Null);
    let backup = place.create();
    let drilled = server.post(path).ok();
    assert_eq!((&drilled["ok"], &drilled["backups"][0]["id"]), (&true.into(), &backup["id"]), "{drilled}");
    assert_eq!(status(&server)["lastDrill"]["ok"], true);
    // What another process adds is seen, and so is a log that is another one.
    flip(&place.copy(&backup, "auth"), |len| len - 1);
    assert_eq!(drill(&place).0, 1);
    assert_eq!(status(&server)["lastDrill"]["ok"], false);
    let drilled = server.post(path).ok();
    assert_eq!((&drilled["ok"], &drilled["backups"][0]["ok"]), (&false.into(), &false.into()), "{drilled}");
    place.ok(&["list"]);
    assert_eq!(status(&server)["lastDrill"]["ok"], false);
    let log = place.backups().join("audit.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let upto = text.lines().position(|line| line.contains("\"drill\"") && line.contains("\"outcome\"")).unwrap();
    std::fs::write(&log, text.lines().take(upto + 1).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert_eq!(status(&server)["lastDrill"]["ok"], true);
    server.stop();
}

/// A question without an end keeps the directory until somebody stops it, and that is neither success nor failure.
#[test]
fn a_rehearsal_is_shown_holds_the_directory_and_can_be_cancelled() {
    let mut place = Place::new();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    place.set("BACKUP_DRILL_SQL_AUTH", endless);
    place.create();
    let server = Server::start(&place);
    let request = server.request("POST", "/api/backup/drill").token(&superuser());
    let mut stream = request.open().unwrap();
    let scratch = place.backups().join("restoring");
    eventually("its copies", || scratch.exists().then_some(()));
    let operation = eventually("it is shown", || Some(status(&server)["operation"].clone()).filter(|it| !it.is_null()));
    assert_eq!(operation["kind"], "drill", "{operation}");
    assert!(request.send().problem(409, "held").contains("drill by user:ada"));
    place.run(&["create"]).refused(3, &["drill by user:ada"]);
    let cancelling = server.post("/api/backup/operation/cancel");
    assert_eq!((cancelling.status, &cancelling.json()["operation"]["kind"]), (202, &"drill".into()));
    Answer::read(&mut stream, false).unwrap().problem(409, "cancelled");
    assert!(!scratch.exists());
    let status = status(&server);
    assert_eq!((&status["lastDrill"], &status["operation"]), (&Value::Null, &Value::Null));
    assert!(!status["warnings"].to_string().contains("drill-failed"), "{status}");
    server.stop();
    place.assert_whole();
}

/// Ended anywhere, it leaves nothing that the next operation doesn't put right.
#[test]
fn a_rehearsal_that_is_killed_leaves_nothing_for_long() {
    let place = Place::new();
    place.create();
    let (mut left, mut tried) = (0, Tried::default());
    for call in ["mkdir", "fsync", "fdatasync", "write", "unlinkat", "rename"] {
        let spot = Spot { call, path: None };
        for n in (1..).step_by(if call == "write" { 4 } else { 1 }) {
            let twin = place.twin();
            if !twin.killed(&spot, n, &["drill"]) {
                break;
            }
            left += usize::from(twin.backups().join("restoring").exists());
            let began = twin.audit().iter().filter(|line| line["operation"] == "drill").count() == 1;
            twin.ok(&["create"]);
            assert!(!twin.backups().join("restoring").exists(), "{spot} {n}");
            let lines = twin.audit();
            let closed = lines
                .iter()
                .any(|line| line["operation"] == "drill" && line["code"] == "interrupted" && line["ok"] == false);
            assert_eq!(closed, began, "{spot} {n}: {lines:?}");
            assert!(twin.json(&["status"])["lastDrill"].is_null() || !began, "{spot} {n}");
            twin.assert_whole();
            tried.count(false, false);
        }
    }
    assert!(left > 5, "it was never ended in its midst");
    tried.report("drill", "kill -9");
}

/// What is not ours in that folder stays, and nothing is followed out of it.
#[test]
fn only_our_own_leftovers_are_removed() {
    let place = Place::new();
    place.create();
    let restoring = place.backups().join("restoring");
    let ours = restoring.join("0123456789abcdef0123456789abcdef");
    std::fs::create_dir_all(ours.join("deeper")).unwrap();
    std::fs::write(ours.join("deeper/attendance.db"), "of a crash").unwrap();
    std::os::unix::fs::symlink(place.path(""), ours.join("out")).unwrap();
    std::fs::create_dir(restoring.join("notes")).unwrap();
    assert_eq!(drill(&place).0, 0);
    assert!(!ours.exists() && restoring.join("notes").exists() && place.live("attendance").exists());
    std::fs::remove_dir_all(&restoring).unwrap();
    // A link in its place leads out too.
    std::fs::create_dir_all(place.path("elsewhere/0123456789abcdef0123456789abcdef")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), &restoring).unwrap();
    let (code, drilled) = (place.run(&["drill"]), place.path("elsewhere/0123456789abcdef0123456789abcdef"));
    code.refused(1, &["restoring", "symbolic link"]);
    assert_eq!(std::fs::read_dir(place.path("elsewhere")).unwrap().count(), 1);
    assert!(drilled.exists());
    std::fs::remove_file(&restoring).unwrap();
    place.assert_whole();
}

#[test]
fn it_goes_on_when_the_audit_log_can_not_be_written() {
    let place = Place::new();
    place.create();
    let spot = Spot { call: "fdatasync", path: None };
    let run = Run::of(place.faulty(&spot, "error=EIO", &["drill"]).output().unwrap());
    assert!(run.code == 0 && run.stderr.contains("going on without an audit line"), "{}{}", run.stdout, run.stderr);
    assert_eq!(place.json(&["status"])["lastDrill"], Value::Null);
    place.assert_whole();
}

#[test]
fn a_disk_that_is_full_is_said_and_nothing_is_left() {
    let test = "drill::a_disk_that_is_full_is_said_and_nothing_is_left";
    let Some(disk) = crate::disk_full::SmallDisk::of(test, "size=4m,mode=0700") else { return };
    let before = disk.place.list();
    disk.fill();
    disk.place.run(&["drill"]).refused(1, &["the disk of the backup directory is full", "make room"]);
    assert_eq!(disk.place.list(), before);
    assert!(disk.place.warnings().contains(&"drill-failed".to_owned()));
    disk.place.assert_whole();
    disk.empty();
    assert_eq!(drill(&disk.place).0, 0);
    disk.place.assert_whole();
}

#[test]
fn memory_does_not_grow_with_the_database() {
    let place = Place::new();
    place.fill(200);
    place.create();
    let server = Server::start(&place);
    server.get("/api/backup/status").ok();
    let before = server.memory();
    let mut most = before;
    std::thread::scope(|scope| {
        let drilled = scope.spawn(|| server.post("/api/backup/drill").ok());
        while !drilled.is_finished() {
            most = most.max(server.memory());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(drilled.join().unwrap()["ok"], true);
    });
    println!("it grew by {} kB", (most - before) >> 10);
    assert!(most - before < 32 << 20, "{} MB more", (most - before) >> 20);
    server.stop();
}
