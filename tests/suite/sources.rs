//! Live databases of every kind: the copy holds what the app has, page for page where the file is at rest.

use std::path::Path;

use crate::app::App;
use crate::harness::{Place, dump, python, sql_on, sql_on_copy};

/// Name, what makes it, and what the catalog says of its page size and journal mode.
const KINDS: &[(&str, &str, u64, &str)] = &[
    ("plain_wal", "PRAGMA journal_mode=WAL", 4096, "wal"),
    ("rollback", "PRAGMA journal_mode=DELETE", 4096, "delete"),
    ("truncated", "PRAGMA journal_mode=TRUNCATE", 4096, "delete"),
    ("persistent", "PRAGMA journal_mode=PERSIST", 4096, "delete"),
    ("page_512", "PRAGMA page_size=512; PRAGMA journal_mode=WAL", 512, "wal"),
    ("page_1024", "PRAGMA page_size=1024", 1024, "delete"),
    ("page_2048", "PRAGMA page_size=2048; PRAGMA journal_mode=WAL", 2048, "wal"),
    ("page_8192", "PRAGMA page_size=8192", 8192, "delete"),
    ("page_16384", "PRAGMA page_size=16384; PRAGMA journal_mode=WAL", 16384, "wal"),
    ("page_32768", "PRAGMA page_size=32768", 32768, "delete"),
    ("page_65536", "PRAGMA page_size=65536; PRAGMA journal_mode=WAL", 65536, "wal"),
    ("utf_16", "PRAGMA encoding='UTF-16le'; PRAGMA journal_mode=WAL", 4096, "wal"),
    ("utf_16_be", "PRAGMA encoding='UTF-16be'", 4096, "delete"),
    ("vacuum_full", "PRAGMA auto_vacuum=FULL; PRAGMA journal_mode=WAL", 4096, "wal"),
    ("vacuum_some", "PRAGMA auto_vacuum=INCREMENTAL", 4096, "delete"),
];

/// What each of them holds besides.
const CONTENT: &str = "PRAGMA application_id=1096040772; PRAGMA user_version=7;
    CREATE TABLE marks (day TEXT, person INTEGER, mark TEXT, PRIMARY KEY (day, person)) WITHOUT ROWID;
    CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, short TEXT AS (substr(name, 1, 3)) STORED, long TEXT AS (name || '!'));
    CREATE INDEX by_long ON people (long) WHERE id > 3;
    CREATE VIEW present AS SELECT * FROM marks WHERE mark = 'present';
    CREATE VIRTUAL TABLE notes USING fts5(text);
    INSERT INTO notes VALUES ('Zoë was late'), ('Bjørn 美咲 was not');
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
        INSERT INTO people (name) SELECT 'Zoë ' || i FROM n;
    INSERT INTO marks SELECT '2026-01-' || (id % 28), id, 'present' FROM people;
    DELETE FROM people WHERE id % 5 = 0";

#[test]
fn copies_of_every_kind_are_the_same_page_for_page() {
    let mut place = Place::empty();
    let mut pairs = Vec::new();
    for (name, pragmas, _, _) in KINDS {
        place.sql(name, &format!("{pragmas}; {CONTENT}"));
        pairs.push(format!("{name}={}", place.live(name).display()));
    }
    place.set("BACKUP_DATABASES", &pairs.join(","));
    let backup = place.create();
    assert_eq!(backup["flags"], serde_json::json!([]), "{backup}");
    for (name, _, page_size, journal_mode) in KINDS {
        let (live, copy) = (place.live(name), place.copy(&backup, name));
        let recorded = &backup["databases"][name];
        assert_eq!(recorded["pageSize"], *page_size, "{name}");
        assert_eq!(recorded["journalMode"], *journal_mode, "{name}");
        assert_eq!(recorded["userVersion"], 7, "{name}");
        assert_eq!(recorded["tables"]["people"], 560, "{name}");
        assert!(std::fs::read(&live).unwrap() == std::fs::read(&copy).unwrap(), "{name}: the pages differ");
        assert_eq!(dump(&live, false), dump(&copy, true), "{name}");
        assert_eq!(sql_on_copy(&copy, "PRAGMA application_id"), "1096040772", "{name}");
        assert_eq!(sql_on_copy(&copy, "SELECT count(*) FROM notes WHERE notes MATCH 'zoë'"), "1", "{name}");
    }
    place.assert_whole();
}

/// A schema that only the app can work with: a CHECK, an index and a primary key that need functions and a collation.
const OWN: &str = "import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.create_function('is_card', 1, lambda card: card.startswith('K'), deterministic=True)
c.create_collation('swedish', lambda a, b: (a > b) - (a < b))
c.execute('PRAGMA journal_mode=WAL')
c.execute('CREATE TABLE cards (id INTEGER PRIMARY KEY, card TEXT CHECK (is_card(card)))')
c.execute('CREATE TABLE names (name TEXT COLLATE swedish PRIMARY KEY) WITHOUT ROWID')
c.execute('CREATE INDEX by_card ON cards (is_card(card))')
c.execute('CREATE TABLE plain (id INTEGER PRIMARY KEY, text TEXT)')
for n in range(500):
    c.execute('INSERT INTO cards (card) VALUES (?)', (f'K{n}',))
    c.execute('INSERT INTO names VALUES (?)', (f'name {n}',))
    c.execute('INSERT INTO plain (text) VALUES (?)', (f'text {n}' * 9,))";

#[test]
fn what_only_the_app_can_check_is_kept_and_said() {
    let mut place = Place::new();
    std::fs::remove_file(place.live("attendance")).unwrap();
    python(OWN, &[&place.live("attendance")]);
    place.set("BACKUP_RETENTION_MANUAL", "1");
    place.create();
    let backup = place.create();
    assert_eq!(backup["flags"], serde_json::json!(["not-checkable"]));
    let findings = backup["findings"].to_string();
    assert!(findings.contains("attendance: not checkable") && findings.contains("cards, names"), "{findings}");
    assert!(!findings.contains("plain"), "{findings}");
    assert_eq!(backup["databases"]["attendance"]["tables"]["cards"], 500);
    // It is good: it is the last backup, and the one before had to go for it.
    assert_eq!(place.ids(), [backup["id"].as_str().unwrap()]);
    assert_eq!(place.json(&["status"])["lastBackup"]["id"], backup["id"]);
    place.assert_whole();
}

/// What was right when it was written breaks a condition that asks for the time by waiting: no backup, rehearsal or restore fails for it.
#[test]
fn a_row_that_breaks_a_check_is_told_and_is_no_damage() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "1");
    place.sql("attendance", "CREATE TABLE sessions (key TEXT, expires TEXT CHECK (expires > CURRENT_TIMESTAMP))");
    let expired = "PRAGMA ignore_check_constraints=ON; INSERT INTO sessions VALUES ('k', '2020-01-01 00:00:00')";
    place.sql("attendance", expired);
    place.create();
    let backup = place.create();
    let told = serde_json::json!(["attendance: rows of these tables break a CHECK: sessions"]);
    assert_eq!((&backup["flags"], &backup["findings"]), (&serde_json::json!([]), &told));
    // Nothing stands still for it.
    let id = backup["id"].as_str().unwrap();
    assert_eq!(place.ids(), [id]);
    assert!(!place.warnings().contains(&"rotation-frozen".to_owned()));
    place.ok(&["drill"]);
    place.ok(&["verify", id]);
    place.ok(&["restore", id, "--confirm", id]);
    // A database that is replaced as a whole is looked at afterwards.
    place.sql("attendance", "PRAGMA journal_mode=DELETE");
    let id = place.create()["id"].as_str().unwrap().to_owned();
    place.sql("attendance", "PRAGMA page_size=8192; VACUUM");
    place.ok(&["restore", &id, "--confirm", &id]);
    assert_eq!(place.sql("attendance", "PRAGMA page_size; SELECT expires FROM sessions"), "4096\n2020-01-01 00:00:00");
    place.assert_whole();
}

/// Nor one of its own that shows when its rows are counted.
#[test]
fn a_table_that_can_not_be_checked_hides_no_fault_of_another() {
    for (check, table) in [("quick", "plain"), ("integrity", "plain"), ("quick", "cards"), ("integrity", "cards")] {
        let mut place = Place::new();
        std::fs::remove_file(place.live("attendance")).unwrap();
        python(OWN, &[&place.live("attendance")]);
        place.set("BACKUP_CHECK", check).create();
        let root = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{table}'");
        let root: usize = place.sql("attendance", &root).parse().unwrap();
        let mut bytes = std::fs::read(place.live("attendance")).unwrap();
        bytes[(root - 1) * 4096..][..5].copy_from_slice(&[0x7f; 5]);
        std::fs::write(place.live("attendance"), bytes).unwrap();
        place.run(&["create"]).refused(1, &["`attendance` is corrupt", "the copy is kept"]);
        assert_eq!(place.ids().len(), 1);
        place.assert_whole();
    }
}

#[test]
fn a_schema_that_is_only_in_the_wal_is_copied() {
    let place = Place::new();
    std::fs::remove_file(place.live("attendance")).unwrap();
    let mut app = App::on(&[&place.live("attendance")]);
    app.ok(0, "PRAGMA journal_mode=WAL");
    app.ok(0, "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)");
    app.ok(0, "INSERT INTO people (name) VALUES ('Ada'), ('Ben')");
    let backup = place.create();
    assert_eq!(sql_on_copy(&place.copy(&backup, "attendance"), "SELECT name FROM people"), "Ada\nBen");
    place.assert_whole();
}

#[test]
fn a_killed_app_leaves_no_uncommitted_row_in_the_copy() {
    let place = Place::new();
    place.sql("attendance", "PRAGMA journal_mode=DELETE");
    let mut app = App::on(&[&place.live("attendance")]);
    app.ok(0, "PRAGMA cache_size=4");
    app.ok(0, "BEGIN");
    app.ok(0, "UPDATE people SET name = 'never'");
    app.ok(
        0,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
         INSERT INTO people (name) SELECT 'never' FROM n",
    );
    app.kill();
    let journal = place.path("attendance.db-journal");
    assert!(journal.metadata().unwrap().len() > 0, "the journal is not hot");
    assert!(place.live("attendance").metadata().unwrap().len() > 20_000, "nothing was spilled");
    let backup = place.create();
    assert_eq!(sql_on_copy(&place.copy(&backup, "attendance"), "SELECT name FROM people"), "Ada\nBen\nCarla");
    place.assert_whole();
}

#[test]
fn commits_that_a_killed_app_left_in_its_wal_are_copied() {
    let place = Place::new();
    let mut app = App::on(&[&place.live("attendance")]);
    app.ok(0, "PRAGMA wal_autocheckpoint=0");
    app.ok(0, "INSERT INTO people (name) VALUES ('Dora')");
    app.ok(0, "BEGIN");
    app.ok(0, "INSERT INTO people (name) VALUES ('never')");
    app.kill();
    let backup = place.create();
    let names = sql_on_copy(&place.copy(&backup, "attendance"), "SELECT name FROM people");
    assert_eq!(names, "Ada\nBen\nCarla\nDora");
    // The app finds its WAL as it left it.
    assert!(place.path("attendance.db-wal").metadata().unwrap().len() > 0);
    place.assert_whole();
}

#[test]
fn names_that_mean_something_elsewhere_are_paths_here() {
    let mut place = Place::empty();
    let names =
        ["a b.db", "c'd.db", "e\"f.db", "g?h#i.db", "50%.db", "%41.db", "x,y=z.db", "file:x?mode=memory", "ü.db"];
    let mut table = String::from("[databases]\n");
    for (at, name) in names.iter().enumerate() {
        let path = place.path(name);
        sql_on(&path, &format!("PRAGMA journal_mode=WAL; CREATE TABLE t (n); INSERT INTO t VALUES ({at})"));
        table += &format!("d{at} = {}\n", serde_json::json!(path.to_str().unwrap()));
    }
    // A relative one that SQLite would take for a URI of a database in memory.
    table += "relative = \"file:x?mode=memory\"\n";
    let table = table.replace("d7 =", "# d7 =");
    std::fs::write(place.path("backup.toml"), table).unwrap();
    let config = place.path("backup.toml").display().to_string();
    place.set("BACKUP_CONFIG_FILE", &config);
    let output = place
        .command(&["create", "--json"])
        .env_remove("BACKUP_DATABASES")
        .current_dir(place.path(""))
        .output()
        .unwrap();
    let backup: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    for (at, _) in names.iter().enumerate() {
        let name = if at == 7 { "relative".to_owned() } else { format!("d{at}") };
        assert_eq!(sql_on_copy(&place.copy(&backup, &name), "SELECT n FROM t"), at.to_string());
    }
}

#[test]
fn a_link_leads_to_the_database_and_to_its_wal() {
    let place = Place::new();
    let real = place.path("elsewhere.db");
    std::fs::rename(place.live("attendance"), &real).unwrap();
    std::os::unix::fs::symlink(&real, place.live("attendance")).unwrap();
    let mut app = App::on(&[&real]);
    app.ok(0, "INSERT INTO people (name) VALUES ('Dora')");
    let backup = place.create();
    assert_eq!(sql_on_copy(&place.copy(&backup, "attendance"), "SELECT count(*) FROM people"), "4");
    assert!(!Path::new(&format!("{}-wal", place.live("attendance").display())).exists());
    place.assert_whole();
}

#[test]
fn rows_that_refer_to_none_are_told_and_no_damage() {
    let place = Place::new();
    place.sql("attendance", "CREATE TABLE marks (id INTEGER PRIMARY KEY, person INTEGER REFERENCES people (id))");
    place.sql("attendance", "INSERT INTO marks (person) VALUES (1), (99), (98)");
    let backup = place.create();
    assert_eq!(backup["flags"], serde_json::json!([]));
    let findings = backup["findings"].to_string();
    assert!(findings.contains("attendance: 2 rows refer to rows that don't exist"), "{findings}");
    place.assert_whole();
}

/// SQLite's own check looks into FTS5: an index that lags behind a table of the app's is the app's matter, one that
/// disagrees with its own content is damage.
#[test]
fn a_search_index_is_checked_against_its_own_content_only() {
    let place = Place::new();
    place.sql("attendance", "CREATE VIRTUAL TABLE names USING fts5(name, content=people, content_rowid=id)");
    place.sql("attendance", "INSERT INTO names(names) VALUES ('rebuild'); DELETE FROM people WHERE id = 2");
    assert_eq!(place.create()["flags"], serde_json::json!([]));
    place.sql("auth", "CREATE VIRTUAL TABLE notes USING fts5(text); INSERT INTO notes VALUES ('one'), ('two')");
    place.create();
    place.sql("auth", "DELETE FROM notes_content WHERE id = 1");
    place.run(&["create"]).refused(1, &["`auth` is corrupt", "main.notes"]);
    place.assert_whole();
}
