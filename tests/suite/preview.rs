//! What a restore would change, told beforehand: every figure is what another program finds by brute force, and looking
//! holds nobody up and changes nothing [P3, P13].

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::app::App;
use crate::client::{Answer, Server, superuser, user};
use crate::harness::{Place, Run, eventually, in_some_tries, python, python3, traces};
use crate::inject::Spot;
use crate::seasons::{MANUAL, then};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/python/difference.py");

fn difference(args: &[&Path]) -> String {
    let output = python3().arg(SCRIPT).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn id(backup: &Value) -> &str {
    backup["id"].as_str().unwrap()
}

fn codes(preview: &Value) -> Vec<&str> {
    preview["warnings"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap()).collect()
}

#[test]
fn every_figure_is_what_brute_force_finds() {
    let mut changes = 0;
    for seed in 1..=12 {
        let place = Place::empty();
        place.sql("auth", "CREATE TABLE users (id INTEGER PRIMARY KEY)");
        let (live, seed) = (place.live("attendance"), seed.to_string());
        difference(&[Path::new("make"), &live, Path::new(&seed)]);
        let backup = place.create();
        difference(&[Path::new("change"), &live, Path::new(&seed)]);
        let preview = place.json(&["preview", id(&backup)]);
        let found: Value =
            serde_json::from_str(&difference(&[Path::new("compare"), &live, &place.copy(&backup, "attendance")]))
                .unwrap();
        let ours = &preview["databases"]["attendance"];
        assert_eq!(ours["tables"], found, "seed {seed}");
        assert_eq!((&ours["complete"], &ours["schema"]["changed"]), (&true.into(), &json!([])));
        changes += found.as_object().unwrap().values().map(|table| table["changed"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(found["same"]["changed"], 0);
        assert_eq!((preview["id"].as_str(), &preview["timestamp"]), (Some(id(&backup)), &backup["timestamp"]));
    }
    assert!(changes > 1000, "the seeds change hardly anything: {changes}");
}

/// A backup of version 7 of an app, and the app at version 8.
fn upgraded() -> (Place, Value) {
    let place = Place::new();
    place.sql("attendance", "PRAGMA user_version=7; CREATE TABLE marks (id INTEGER PRIMARY KEY, mark INT)");
    place.sql(
        "attendance",
        "INSERT INTO marks (mark) VALUES (1), (2), (3), (4); CREATE TABLE rooms (name TEXT PRIMARY KEY)",
    );
    place.sql("attendance", "CREATE VIRTUAL TABLE notes USING fts5(text); INSERT INTO notes VALUES ('late'), ('ill')");
    let backup = place.create();
    place.sql("attendance", "PRAGMA user_version=8; ALTER TABLE people ADD COLUMN email TEXT; DROP TABLE rooms");
    place.sql("attendance", "CREATE TABLE groups (id INTEGER PRIMARY KEY); INSERT INTO groups VALUES (1), (2), (3)");
    place.sql("attendance", "CREATE INDEX by_mark ON marks (mark); DELETE FROM marks WHERE mark = 4; UPDATE marks SET mark = 9 WHERE mark < 3");
    place.sql(
        "attendance",
        "INSERT INTO people (name, email) VALUES ('Dora', 'd@school.example'); DELETE FROM notes WHERE rowid = 2",
    );
    (place, backup)
}

#[test]
fn a_restore_over_an_upgraded_app_is_told_for_what_it_is() {
    let (place, backup) = upgraded();
    let preview = place.json(&["preview", id(&backup)]);
    let attendance = &preview["databases"]["attendance"];
    assert_eq!(attendance["userVersion"], json!({ "now": 8, "then": 7 }));
    let table = |now: u64, then: u64, only_now: u64, only_then: u64, changed: u64| json!({ "now": now, "then": then, "onlyNow": only_now, "onlyThen": only_then, "changed": changed, "complete": true });
    let mut people = table(4, 3, 1, 0, 0);
    people["columns"] = json!({ "onlyNow": ["email"], "onlyThen": [] });
    let expected = json!({
        "groups": table(3, 0, 3, 0, 0), "marks": table(3, 4, 0, 1, 2), "notes": table(1, 2, 0, 1, 0), "people": people,
        "rooms": table(0, 0, 0, 0, 0),
    });
    assert_eq!(attendance["tables"], expected);
    let object = |kind: &str, name: &str| json!({ "type": kind, "name": name });
    let schema = json!({
        "onlyNow": [object("index", "by_mark"), object("table", "groups")],
        "onlyThen": [object("table", "rooms")],
        "changed": [object("table", "people")],
    });
    assert_eq!(attendance["schema"], schema);
    assert_eq!(codes(&preview), ["schema", "auth"]);
    let text = place.ok(&["preview", id(&backup)]).stdout;
    for line in [
        "user_version 8 now, 7 then",
        "  marks   3 now, 4 then: 1 only then, 2 changed",
        "  people  4 now, 3 then: 1 only now",
        "          columns only now: email",
        "  1 other table is the same",
        "  only now: index by_mark, table groups",
        "  defined otherwise then: table people",
        "! auth: passwords",
        "nothing was changed",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
    let table = text.lines().filter(|line| !line.starts_with(['!', 'w']));
    assert!(table.clone().count() > 8 && table.clone().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn over_http_it_is_for_superusers_and_the_same_as_on_the_command_line() {
    let (place, backup) = upgraded();
    let server = Server::start(&place);
    let path = format!("/api/backup/{}/preview", id(&backup));
    assert_eq!(server.get(&path).ok(), place.json(&["preview", id(&backup)]));
    server.request("GET", &path).token(&user()).send().problem(403, "forbidden");
    server.request("GET", &path).send().problem(401, "unauthenticated");
    server.get("/api/backup/daily-2020-01-01/preview").problem(404, "not-found");
    server.get("/api/backup/..%2Fauth/preview").problem(404, "not-found");
    let refused: Vec<_> = place.audit().into_iter().filter(|line| line["kind"] == "refused").collect();
    assert_eq!(refused.last().unwrap()["code"], "not-found");
    let lines = place.audit().len();
    server.get(&path).ok();
    assert_eq!(place.audit().len(), lines, "figures hand nothing out");

    let file = place.copy(&backup, "attendance");
    let bytes = std::fs::read(&file).unwrap();
    let mut damaged = bytes.clone();
    damaged[..16].fill(0);
    for (damage, says) in [(&damaged[..], "not a SQLite database"), (&bytes[..4096], "bytes instead of")] {
        std::fs::write(&file, damage).unwrap();
        let detail = server.get(&path).problem(422, "damaged");
        assert!(detail.contains(says) && detail.contains("another backup"), "{detail}");
        place.run(&["preview", id(&backup)]).refused(1, &["is damaged", "another backup"]);
    }
    std::fs::remove_file(&file).unwrap();
    assert!(server.get(&path).problem(422, "damaged").contains("No such file"));
    assert_eq!(place.audit().last().unwrap()["code"], "damaged");
    server.stop();
}

#[test]
fn a_locked_database_is_waited_for_and_then_said_to_be_locked() {
    let mut place = Place::new();
    place.set("BACKUP_LOCK_TIMEOUT", "300ms");
    place.sql("attendance", "PRAGMA journal_mode=DELETE");
    let backup = place.create();
    let mut app = App::on(&[&place.live("attendance")]);
    app.ok(0, "BEGIN EXCLUSIVE");
    let server = Server::start(&place);
    let path = format!("/api/backup/{}/preview", id(&backup));
    let begun = Instant::now();
    assert!(server.get(&path).problem(409, "live-locked").contains("`attendance`"));
    assert!(begun.elapsed() > Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(place.audit().last().unwrap()["code"], "live-locked");
    app.ok(0, "COMMIT");
    assert_eq!(server.get(&path).ok()["databases"]["attendance"]["complete"], true);
}

/// One at a time, and it can be stopped.
#[test]
fn a_preview_under_way_is_told_to_others_and_can_be_cancelled() {
    let place = Place::new();
    place.sql("attendance", "PRAGMA journal_mode=DELETE");
    let backup = place.create();
    let mut app = App::on(&[&place.live("attendance")]);
    app.ok(0, "BEGIN EXCLUSIVE");
    let server = Server::start(&place);
    let preview = server.request("GET", &format!("/api/backup/{}/preview", id(&backup))).token(&superuser());
    let mut waiting: Vec<_> = (0..2).map(|_| preview.open().unwrap()).collect();
    // Which of them came first is anyone's guess.
    let held = eventually("one of two is refused", || {
        let answers = |stream: &mut std::net::TcpStream| {
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            Answer::read(stream, false).ok()
        };
        let (at, answer) = waiting.iter_mut().enumerate().find_map(|(at, stream)| Some((at, answers(stream)?)))?;
        waiting.remove(at);
        Some(answer)
    });
    held.problem(409, "held");
    assert_eq!(held.json()["operation"]["operation"], format!("preview {}", id(&backup)));
    assert_eq!(server.post("/api/backup/operation/cancel").status, 202);
    waiting[0].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    Answer::read(&mut waiting[0], false).unwrap().problem(409, "cancelled");
}

#[test]
fn what_can_not_be_compared_says_why_and_the_rest_goes_on() {
    let mut place = Place::new();
    let backup = place.create();
    let aside = place.path("aside.db");
    std::fs::rename(place.live("auth"), &aside).unwrap();
    let preview = place.json(&["preview", id(&backup)]);
    let reason = preview["databases"]["auth"]["reason"].as_str().unwrap();
    assert!(reason.contains("missing at") && preview["databases"]["attendance"]["complete"] == true, "{preview}");
    assert!(place.ok(&["preview", id(&backup)]).stdout.contains("auth: the live database `auth` is missing"));
    assert!(!place.live("auth").exists(), "it was made");
    for (bytes, says) in [(&b""[..], "empty (0 bytes)"), (&[7; 9000], "not a SQLite database")] {
        std::fs::write(place.live("auth"), bytes).unwrap();
        let preview = place.json(&["preview", id(&backup)]);
        assert!(preview["databases"]["auth"]["reason"].as_str().unwrap().contains(says), "{preview}");
        assert!(std::fs::read(place.live("auth")).unwrap() == bytes);
    }
    std::fs::rename(&aside, place.live("auth")).unwrap();
    place.sql("library", "CREATE TABLE books (x)");
    let live = |name: &str| format!("{name}={}", place.live(name).display());
    let databases = format!("{},{}", live("attendance"), live("library"));
    place.set("BACKUP_DATABASES", &databases);
    let preview = place.json(&["preview", id(&backup)]);
    assert_eq!(codes(&preview), ["needs-force", "not-in-backup", "not-live"]);
    assert!(preview["databases"]["auth"]["reason"].as_str().unwrap().contains("BACKUP_DATABASES"), "{preview}");
    assert_eq!(preview["databases"].as_object().unwrap().len(), 2);
}

#[test]
fn a_backup_that_is_not_to_be_trusted_comes_with_a_warning() {
    let place = Place::new();
    then(&place, "2025-03-04", "manual");
    assert_eq!(codes(&place.json(&["preview", MANUAL])), ["old", "auth"]);
    place.sql("attendance", "CREATE TABLE marks (id INTEGER PRIMARY KEY); INSERT INTO marks VALUES (1)");
    let first = place.create();
    place.sql("attendance", "DROP TABLE marks");
    let shrunk = place.create();
    assert_eq!(codes(&place.json(&["preview", id(&shrunk)])), ["shrunk", "auth"]);
    let file = place.copy(&first, "auth");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(place.run(&["verify", id(&first)]).code, 1);
    assert_eq!(codes(&place.json(&["preview", id(&first)])), ["damaged", "schema", "auth"]);
    place.run(&["preview", "daily-2020-01-01"]).refused(1, &["there is no backup daily-2020-01-01"]);
}

/// A school's databases with a table of many rows, and a backup of them.
fn large() -> (Place, Value) {
    let place = Place::empty();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/make_databases.py");
    assert!(Command::new(script).arg(place.path("")).arg("60").output().unwrap().status.success());
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000)";
    place.sql("attendance", "CREATE TABLE many (id INTEGER PRIMARY KEY, v)");
    place.sql("attendance", &format!("{rows} INSERT INTO many SELECT i, i % 7 FROM n"));
    let backup = place.create();
    place.sql("attendance", "UPDATE many SET v = 8 WHERE id % 5 = 0; DELETE FROM many WHERE id % 5 = 1");
    (place, backup)
}

#[test]
fn in_wal_mode_the_app_writes_on_and_in_rollback_mode_it_waits_no_longer_than_allowed() {
    let (mut place, backup) = large();
    in_some_tries(|| {
        let writer = place.timed_writer(0.001);
        let begun = Instant::now();
        let preview = place.json(&["preview", id(&backup)]);
        let took = begun.elapsed();
        let written = writer.stop();
        println!("{took:?}; slowest commit {} s of {}", written.slowest, written.pairs);
        assert!(written.errors.is_empty(), "{:?}", written.errors);
        let many = &preview["databases"]["attendance"]["tables"]["many"];
        // In WAL mode it is given ten seconds.
        if many["complete"] != true || written.pairs <= 50 || Duration::from_secs_f64(written.slowest) >= took / 2 {
            return Err(format!("{took:?}, {} commits, the slowest {} s; {many}", written.pairs, written.slowest));
        }
        assert_eq!((&many["changed"], &many["onlyThen"]), (&80_000.into(), &80_000.into()));
        Ok(())
    });

    place.set("BACKUP_ROLLBACK_HOLD", "200ms");
    for name in ["attendance", "auth"] {
        place.sql(name, "PRAGMA journal_mode=DELETE");
    }
    let (preview, text) = in_some_tries(|| {
        let writer = place.timed_writer(0.001);
        let preview = place.json(&["preview", id(&backup)]);
        let text = place.ok(&["preview", id(&backup)]).stdout;
        let written = writer.stop();
        println!("slowest commit {} s of {}", written.slowest, written.pairs);
        assert!(written.errors.is_empty(), "{:?}", written.errors);
        if written.slowest < 2.0 { Ok((preview, text)) } else { Err(format!("a commit took {} s", written.slowest)) }
    });
    let many = &preview["databases"]["attendance"]["tables"]["many"];
    assert_eq!((&many["complete"], &preview["databases"]["attendance"]["complete"]), (&false.into(), &false.into()));
    assert!(many["changed"].as_u64().unwrap() <= 80_000 && codes(&preview).contains(&"incomplete"), "{preview}");
    assert!(text.contains("at least") || text.contains("there was no time"), "{text}");
}

/// Bytes of the live files, and what lies beside them.
fn live_files(place: &Place) -> Vec<Vec<u8>> {
    ["attendance.db", "attendance.db-wal", "auth.db"].map(|name| std::fs::read(place.path(name)).unwrap()).into()
}

#[test]
fn nothing_is_changed_by_looking() {
    let place = Place::new();
    let backup = place.create();
    let live = place.live("attendance");
    let mut app = App::on(&[&live, &live]);
    app.ok(0, "INSERT INTO people (name) VALUES ('Dora')");
    app.ok(1, "BEGIN");
    app.ok(1, "SELECT count(*) FROM people");
    app.ok(0, "INSERT INTO people (name) VALUES ('Emil')");
    let (files, backups) = (live_files(&place), traces(&place.backups()));
    assert!(files[1].len() > 4096, "there is nothing in the WAL");
    let preview = place.json(&["preview", id(&backup)]);
    assert_eq!(preview["databases"]["attendance"]["tables"]["people"]["onlyNow"], 2);
    assert!(live_files(&place) == files, "the live files differ");
    assert_eq!(traces(&place.backups()), backups);
    app.ok(1, "COMMIT");
    app.ok(0, "INSERT INTO people (name) VALUES ('Fred')");
    assert_eq!(app.ok(0, "PRAGMA integrity_check"), "[[\"ok\"]]");
}

#[test]
fn memory_does_not_grow_with_the_rows() {
    let place = Place::new();
    place.fill(60);
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)";
    place.sql("attendance", "CREATE TABLE many (name TEXT PRIMARY KEY, v)");
    place.sql("attendance", &format!("{rows} INSERT INTO many SELECT hex(randomblob(60)), i FROM n; ANALYZE"));
    let backup = place.create();
    place.sql(
        "attendance",
        "UPDATE many SET v = 0 WHERE v % 2; UPDATE blobs SET bytes = zeroblob(500000) WHERE rowid % 2",
    );
    let server = Server::start(&place);
    server.get("/api/backup/status").ok();
    let before = server.memory();
    let path = format!("/api/backup/{}/preview", id(&backup));
    let (mut most, mut looks) = (before, 0);
    let preview = std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.get(&path).ok());
        while !asked.is_finished() {
            (most, looks) = (most.max(server.memory()), looks + 1);
            std::thread::sleep(Duration::from_millis(5));
        }
        asked.join().unwrap()
    });
    println!("it grew by {} kB in {looks} looks", (most - before) >> 10);
    let tables = &preview["databases"]["attendance"]["tables"];
    assert_eq!((&tables["many"]["changed"], &tables["blobs"]["changed"]), (&50_000.into(), &60.into()), "{tables}");
    assert!(looks > 20 && most - before < 12 << 20, "{} MB more in {looks} looks", (most - before) >> 20);
}

#[test]
fn rotation_may_take_the_backup_away_meanwhile() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "1");
    place.create();
    let server = Server::start(&place);
    let (found, mut gone) = (AtomicUsize::new(0), 0);
    std::thread::scope(|scope| {
        // On a slow machine most are gone before they can be looked at.
        let is_enough = |n: &usize| *n >= 12 && (found.load(Ordering::Relaxed) > 3 || *n >= 300);
        let create = |_| drop(server.post("/api/backup/create").ok());
        let creating = scope.spawn(move || (0..).take_while(|n| !is_enough(n)).for_each(create));
        while !creating.is_finished() {
            for id in place.ids() {
                let answer = server.get(&format!("/api/backup/{id}/preview"));
                match answer.status {
                    200 => {
                        found.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {
                        answer.problem(404, "not-found");
                        gone += 1;
                    }
                }
            }
        }
    });
    let found = found.into_inner();
    println!("{found} previews, {gone} came too late");
    assert!(found > 3);
    server.stop();
    place.assert_whole();
}

/// Deleted while it is being opened, at one call after another: it is gone then, or still seen whole, and never taken for
/// damaged.
#[test]
fn a_backup_that_goes_while_it_is_opened_is_not_found_or_seen_whole() {
    let place = Place::new();
    let backup = place.create();
    let path = backup["databases"]["attendance"]["file"].as_str().unwrap().to_owned();
    let spot = Spot { call: "%file,%desc", path: Some(path) };
    let mut gone = 0;
    for call in 1..=10 {
        let twin = place.twin();
        let effect = format!("delay_enter=1000000:when={call}");
        let mut command = twin.faulty(&spot, &effect, &["preview", id(&backup)]);
        let preview = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("strace is needed");
        std::thread::sleep(Duration::from_millis(400));
        twin.ok(&["delete", id(&backup), "--force"]);
        let run = Run::of(preview.wait_with_output().unwrap());
        if run.code != 0 {
            run.refused(1, &["there is no backup"]);
            gone += 1;
        }
    }
    println!("gone at {gone} calls");
    assert!(gone > 0);
}

/// Names of a database are someone's text: none of it reaches a terminal as a command.
#[test]
fn names_do_not_steer_the_terminal() {
    let place = Place::new();
    let backup = place.create();
    let live = place.live("attendance");
    python("import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('CREATE TABLE \"x\\x1b[2Jy\" (a)')", &[&live]);
    let text = place.ok(&["preview", id(&backup)]).stdout;
    assert!(text.contains("[2Jy") && !text.contains('\x1b'), "{text:?}");
    let preview = place.json(&["preview", id(&backup)]);
    assert_eq!(preview["databases"]["attendance"]["schema"]["onlyNow"][0]["name"], "x\x1b[2Jy");
}
