//! Databases that mean harm: schemas that SQLite would take hours or gigabytes over, code that isn't seen as code, headers and pages
//! that lie. Everything that looks into one ends, says what it found, and puts nothing of it into a live database by itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use attendance_backup::backup::{CheckKind, DatabaseName};
use attendance_backup::sqlite::diff::{self, Bounds};
use attendance_backup::sqlite::kind::Kind;
use attendance_backup::sqlite::{Control, Source, check, open_finished};
use serde_json::Value;

use crate::client::Server;
use crate::harness::{Place, Run, python};
use crate::restore_refusals::forge;

/// Each of these takes about a second; what hangs takes for ever, and a machine that does much else a minute.
const SOON: Duration = Duration::from_secs(300);

fn id(backup: &Value) -> &str {
    backup["id"].as_str().unwrap()
}

/// The program's end, which must come.
#[track_caller]
fn ended(place: &Place, args: &[&str]) -> Run {
    let told = ["said.out", "said.err"].map(|name| place.path(name));
    let [out, err] = told.each_ref().map(|path| File::create(path).unwrap());
    let mut child = place.command(args).stdout(out).stderr(err).spawn().unwrap();
    let begun = Instant::now();
    while is_running(&mut child) {
        if begun.elapsed() > SOON {
            child.kill().unwrap();
            panic!("{args:?} did not end within {SOON:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let [stdout, stderr] = told.map(|path| std::fs::read_to_string(path).unwrap());
    Run { code: child.wait().unwrap().code().unwrap_or(-1), stdout, stderr }
}

fn is_running(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

/// It ends as a failure, and somewhere it says each of these words.
#[track_caller]
fn fails(place: &Place, args: &[&str], words: &[&str]) {
    let run = ended(place, args);
    let said = run.stdout + &run.stderr;
    assert_eq!(run.code, 1, "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: {word:?} is not in: {said}");
    }
}

#[track_caller]
fn ends_well(place: &Place, args: &[&str]) -> String {
    let run = ended(place, args);
    assert_eq!(run.code, 0, "{args:?}: {}{}", run.stdout, run.stderr);
    run.stdout
}

/// Each statement by itself, on a database as the app would.
fn does(path: &Path, statements: &[&str]) {
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nfor s in sys.argv[2:]: c.execute(s)";
    python(script, &[&[path], statements.iter().map(Path::new).collect::<Vec<_>>().as_slice()].concat());
}

/// A backup whose copy of `auth` another database has taken the place of, which these statements make.
fn forged(statements: &[&str]) -> (Place, Value) {
    let place = Place::new();
    let backup = place.create();
    let file = place.path("forged.db");
    does(&file, &[&["CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE)"], statements].concat());
    forge(&place, &backup, "auth", &file);
    (place, backup)
}

/// Each view asks the one before twice: the last one is a million times the first, and SQLite spells all of it out.
fn views_upon_views() -> Vec<String> {
    let first = "CREATE VIEW v0 AS SELECT id FROM users".to_owned();
    let next = |n: u32| format!("CREATE VIEW v{n} AS SELECT a.id FROM v{before} a, v{before} b", before = n - 1);
    std::iter::once(first).chain((1..=30).map(next)).collect()
}

#[test]
fn views_upon_views_are_not_looked_into() {
    let views = views_upon_views();
    let views: Vec<_> = views.iter().map(String::as_str).collect();
    let (place, backup) = forged(&views);
    let preview = ends_well(&place, &["preview", id(&backup)]);
    assert!(preview.contains("needs-force") && preview.contains("view v30"), "{preview}");
    ends_well(&place, &["verify", id(&backup)]);
    fails(&place, &["restore", id(&backup), "--confirm", id(&backup)], &["view v30", "force"]);
    // And those of the app itself stop nothing.
    does(&place.live("auth"), &views);
    let backup: Value = serde_json::from_str(&ends_well(&place, &["create", "--json"])).unwrap();
    for args in [&["preview", id(&backup)][..], &["drill"], &["restore", id(&backup), "--confirm", id(&backup)]] {
        ends_well(&place, args);
    }
    let server = Server::start(&place);
    let html = server.request("GET", &format!("/settings/backups/backup/{}/restore", id(&backup)));
    assert_eq!(html.token(&crate::client::superuser()).header("Accept", "text/html").send().status, 200);
}

/// It computes for ever, whoever asks it.
#[test]
fn a_view_without_an_end_is_not_asked() {
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
    let view = format!("CREATE VIEW endless AS {rows} SELECT i FROM n");
    let (place, backup) = forged(&[&view]);
    let preview = ends_well(&place, &["preview", id(&backup)]);
    assert!(preview.contains("needs-force") && preview.contains("view endless"), "{preview}");
    ends_well(&place, &["verify", id(&backup)]);
    fails(&place, &["restore", id(&backup), "--confirm", id(&backup)], &["view endless", "force"]);
    does(&place.live("auth"), &[&view]);
    let backup: Value = serde_json::from_str(&ends_well(&place, &["create", "--json"])).unwrap();
    for args in [&["preview", id(&backup)][..], &["drill"], &["restore", id(&backup), "--confirm", id(&backup)]] {
        ends_well(&place, args);
    }
}

/// An app that has the live database open would fail from then on.
#[test]
fn a_copy_in_another_text_encoding_is_not_restored() {
    for encoding in ["UTF-16le", "UTF-16be"] {
        let place = Place::new();
        let backup = place.create();
        let file = place.path("forged.db");
        let table = "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE)";
        does(
            &file,
            &[&format!("PRAGMA encoding='{encoding}'"), table, "INSERT INTO users (email) VALUES ('ö@b.example')"],
        );
        forge(&place, &backup, "auth", &file);
        let preview = ended(&place, &["preview", id(&backup)]);
        assert!((preview.stdout + &preview.stderr).contains("text encoding"), "{encoding}");
        fails(&place, &["restore", id(&backup), "--confirm", id(&backup)], &["auth", "text encoding", encoding]);
        assert_eq!(place.sql("auth", "SELECT email FROM users"), "a@school.example");
        assert_eq!(place.sql("auth", "PRAGMA encoding"), "UTF-8");
    }
}

/// What a rehearsal is to ask may be asked of a view, as before.
#[test]
fn the_owner_may_ask_a_view() {
    let mut place = Place::new();
    does(&place.live("auth"), &["CREATE VIEW known AS SELECT count(*) AS n FROM users"]);
    place.create();
    place.set("BACKUP_DRILL_SQL_AUTH", "SELECT n = 1 FROM known");
    ends_well(&place, &["drill"]);
    place.unset("BACKUP_DRILL_SQL_AUTH").set("BACKUP_DRILL_SQL_AUTH", "SELECT n = 2 FROM known");
    fails(&place, &["drill"], &["BACKUP_DRILL_SQL_AUTH"]);
}

/// An index of FTS4 may have a view for its content, which its check asks.
#[test]
fn a_search_index_over_a_view_is_checked() {
    let place = Place::new();
    let view = "CREATE VIEW found_in AS SELECT id AS rowid, email FROM users";
    let index = "CREATE VIRTUAL TABLE found USING fts4(content='found_in', email)";
    does(&place.live("auth"), &[view, index, "INSERT INTO found (docid, email) SELECT id, email FROM users"]);
    let backup = place.create();
    assert_eq!(backup["flags"], serde_json::json!([]), "{backup}");
    ends_well(&place, &["drill"]);
    ends_well(&place, &["preview", id(&backup)]);
}

/// A few bytes that compute a gigabyte wherever they are looked at: they can't be checked, and that is said.
#[test]
fn what_computes_a_gigabyte_is_not_computed() {
    let place = Place::new();
    let bomb = "UPDATE sqlite_schema SET sql = 'CREATE TABLE bomb (a, b AS (hex(zeroblob(450000000))) NOT NULL)' WHERE name = 'bomb'";
    let statements = [
        "CREATE TABLE bomb (a, b AS (a) NOT NULL)",
        "INSERT INTO bomb VALUES (1), (2), (3)",
        "PRAGMA writable_schema=ON",
        bomb,
    ];
    does(&place.live("attendance"), &statements);
    let (idle, most) = (peak_of(&place, &["list"]), peak_of(&place, &["create"]));
    assert!(most < idle + (200 << 20), "{} MiB, {} to list", most >> 20, idle >> 20);
    let backup = place.list().remove(0);
    assert_eq!(backup["flags"], serde_json::json!(["not-checkable"]), "{backup}");
    assert_eq!(backup["databases"]["attendance"]["tables"]["bomb"], 3, "{backup}");
    for args in [&["preview", id(&backup)][..], &["verify", id(&backup)], &["drill"]] {
        let most = peak_of(&place, args);
        assert!(most < idle + (200 << 20), "{args:?}: {} MiB, {} to list", most >> 20, idle >> 20);
    }
}

/// One call that takes the square of a length is one step, in the midst of which nothing looks at a deadline.
#[test]
fn what_would_take_hours_in_one_step_is_not_computed() {
    let place = Place::new();
    let slow = "UPDATE sqlite_schema SET sql = 'CREATE TABLE slow (a CHECK (instr(printf(''%.*c'', 60000000, ''a''), \
                printf(''%.*c'', 30000000, ''a'') || ''b'') = 0))' WHERE name = 'slow'";
    let statements = ["CREATE TABLE slow (a)", "INSERT INTO slow VALUES (1)", "PRAGMA writable_schema=ON", slow];
    does(&place.live("attendance"), &statements);
    let within_a_minute = |args: &[&str]| {
        let run =
            Run::of(place.command_of("timeout").args(["60", crate::harness::PROGRAM]).args(args).output().unwrap());
        assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
    };
    within_a_minute(&["create"]);
    let backup = place.list().remove(0);
    assert_eq!(backup["flags"], serde_json::json!(["not-checkable"]), "{backup}");
    for args in [&["preview", id(&backup)][..], &["drill"], &["restore", id(&backup), "--confirm", id(&backup)]] {
        within_a_minute(args);
    }
}

/// By the kernel's own word (getrusage(2)).
fn peak_of(place: &Place, args: &[&str]) -> u64 {
    let script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); \
                  print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let output = place.command_of("python3").args(["-c", script, crate::harness::PROGRAM]).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap() << 10
}

/// Not only triggers run by themselves (sqlite.org/security.html): so do functions in constraints, defaults and indexes, and
/// generated columns.
#[test]
fn code_within_tables_and_indexes_wants_force_and_is_named() {
    let more = |sql: &str| sql.to_owned();
    let hidden =
        |sql: &str| format!("UPDATE sqlite_schema SET sql = '{}' WHERE name = 'more'", sql.replace('\'', "''"));
    for (sql, name) in [
        (more("CREATE TABLE more (a CHECK (load_extension(a)))"), "function load_extension"),
        (more("CREATE TABLE more (a, b DEFAULT (grant_rights('ada')))"), "function grant_rights"),
        (more("CREATE TABLE more (a, b AS ('superuser'))"), "generated columns of more"),
        (hidden("CREATE TABLE more (a CHECK (\"Evil\"(a)))"), "function evil"),
        (hidden("CREATE TABLE more (a CHECK (a REGEXP 'x'))"), "function regexp"),
    ] {
        let table = if sql.starts_with("CREATE") { "SELECT 1" } else { "CREATE TABLE more (a)" };
        let (place, backup) = forged(&[table, "PRAGMA writable_schema=ON", &sql]);
        let preview = ends_well(&place, &["preview", id(&backup)]);
        assert!(preview.contains("needs-force") && preview.contains(name), "{sql}: {preview}");
        fails(&place, &["restore", id(&backup), "--confirm", id(&backup)], &[name, "force"]);
        assert_eq!(place.sql("auth", "SELECT count(*) FROM sqlite_schema WHERE name = 'more'"), "0");
    }
    // What calls nothing but SQLite's own, and what the live database has as well, is no news.
    let plain =
        "CREATE TABLE more (a decimal(10, 2) CHECK (length(a) < 9 AND a IN (1, 2)), at DEFAULT (datetime('now')))";
    let (place, backup) = forged(&[plain, "CREATE INDEX by_more ON more (lower(a)) WHERE coalesce(a, 1) > 0"]);
    ends_well(&place, &["restore", id(&backup), "--confirm", id(&backup)]);
    let own = ["CREATE TABLE own (a, b AS (a + 1))", "CREATE TABLE carded (card DEFAULT (new_card()))"];
    let (place, backup) = forged(&own);
    does(&place.live("auth"), &own);
    ends_well(&place, &["restore", id(&backup), "--confirm", id(&backup)]);
}

#[test]
fn thousands_of_tables_and_long_names_are_borne() {
    let place = Place::new();
    let many = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nc.execute('BEGIN')\n\
                for n in range(1000): c.execute(f'CREATE TABLE t{n} (a REFERENCES t{n // 2})')\n\
                name = 'n' * 100000\nc.execute(f'CREATE TABLE {name} ({name} PRIMARY KEY, b)')\n\
                c.execute('CREATE TABLE wide (' + ', '.join(f'c{n}' for n in range(1999)) + ')')\nc.execute('COMMIT')";
    python(many, &[&place.live("attendance")]);
    let backup: Value = serde_json::from_str(&ends_well(&place, &["create", "--json"])).unwrap();
    assert_eq!(backup["databases"]["attendance"]["tables"].as_object().unwrap().len(), 1003);
    place.sql("attendance", "DELETE FROM people");
    for args in [
        &["preview", id(&backup)][..],
        &["verify", id(&backup)],
        &["drill"],
        &["restore", id(&backup), "--confirm", id(&backup)],
    ] {
        ends_well(&place, args);
    }
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "3");
}

/// Damage within a search index lies in rows that are whole for SQLite: only its module sees it.
#[test]
fn a_search_index_that_is_damaged_is_no_backup_and_not_restored() {
    let damage = ["UPDATE found_data SET block = zeroblob(length(block)) WHERE id > 10"];
    let made = ["CREATE VIRTUAL TABLE found USING fts5(text)", "INSERT INTO found VALUES ('late today'), ('ill')"];
    let place = Place::new();
    does(&place.live("auth"), &made);
    let good = place.create();
    let file = place.path("forged.db");
    does(&file, &[&["CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE)"][..], &made, &damage].concat());
    forge(&place, &good, "auth", &file);
    fails(&place, &["restore", id(&good), "--confirm", id(&good)], &["auth", "found"]);
    fails(&place, &["drill"], &["found"]);
    does(&place.live("auth"), &damage);
    fails(&place, &["create"], &["auth", "corrupt", "found"]);
    ended(&place, &["preview", id(&good)]);
}

/// A terabyte of nothing where a copy should be.
#[test]
fn a_copy_without_end_is_not_read_to_its_end() {
    let place = Place::new();
    let backup = place.create();
    File::options().write(true).open(place.copy(&backup, "auth")).unwrap().set_len(1 << 40).unwrap();
    fails(&place, &["verify", id(&backup)], &["1099511627776"]);
    for args in [&["preview", id(&backup)][..], &["restore", id(&backup), "--confirm", id(&backup)], &["drill"]] {
        fails(&place, args, &["1099511627776"]);
    }
    ended(&place, &["list"]);
    ends_well(&place, &["create"]);
}

/// Each byte of the header at its extremes, and then anything anywhere: what looks into it ends, without a panic.
#[test]
fn headers_and_pages_that_lie_are_looked_into_and_left() {
    let place = Place::new();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)";
    let statements = [
        "CREATE TABLE marks (id INTEGER PRIMARY KEY, person REFERENCES people, note TEXT UNIQUE)",
        &format!("{rows} INSERT INTO marks SELECT i, i % 3, hex(randomblob(i % 200)) FROM n"),
        "CREATE TABLE keyed (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID",
        &format!("{rows} INSERT INTO keyed SELECT i % 7, i FROM n"),
        "CREATE VIRTUAL TABLE found USING fts5(text)",
        "INSERT INTO found SELECT note FROM marks",
        "CREATE TRIGGER seen AFTER INSERT ON marks BEGIN DELETE FROM keyed; END",
    ];
    does(&place.live("attendance"), &statements);
    let backup = place.create();
    let good = std::fs::read(place.copy(&backup, "attendance")).unwrap();
    let source = Source { name: "attendance".parse().unwrap(), path: place.live("attendance") };
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut told = [0; 3];
    let extremes = (0..100).flat_map(|at| [0, 1, 0x7f, 0xff].map(|byte| (at, byte)));
    let headers = extremes.map(|(at, byte)| vec![(at, byte)]);
    let pages = (0..300).map(|n| (0..1 + n % 5).map(|_| (random(good.len()), random(256) as u8)).collect::<Vec<_>>());
    for changes in headers.chain(pages.collect::<Vec<_>>()) {
        let mut bytes = good.clone();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        let file = place.path("lies.db");
        std::fs::write(&file, bytes).unwrap();
        let begun = Instant::now();
        told[looked_into(&file, &source)] += 1;
        assert!(begun.elapsed() < SOON / 3, "{changes:?} took {:?}", begun.elapsed());
    }
    println!("not opened, looked into, compared: {told:?}");
    assert!(told[2] > 100 && told[0] + told[1] > 50, "{told:?}");
}

/// How far it was looked into: not opened, its structure looked at, compared with the live database.
fn looked_into(file: &Path, source: &Source) -> usize {
    let control = Control::default();
    let Ok(mut copy) = open_finished(file) else { return 0 };
    let name: &DatabaseName = &source.name;
    if check::check(&mut copy, name, CheckKind::Integrity, &control).is_err() || Kind::of(&copy).is_err() {
        return 1;
    }
    let bounds = Bounds { lock_timeout: Duration::from_secs(5), rollback_hold: Duration::from_secs(5) };
    if diff::compare(source, copy, &BTreeMap::new(), &bounds, &control).is_ok() { 2 } else { 1 }
}
