//! A restore of databases of many shapes, larger and smaller than what is live: page for page what the backup has, and a
//! file that is as long as its pages [P6].

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::Place;
use crate::held::{App, Language};
use crate::restore_app::{restore, taken_before};

/// Name and what makes it.
const SHAPES: [(&str, &str); 5] = [
    ("vacuum_none", "PRAGMA page_size=4096; PRAGMA auto_vacuum=NONE"),
    ("vacuum_full", "PRAGMA auto_vacuum=FULL"),
    ("vacuum_some", "PRAGMA auto_vacuum=INCREMENTAL"),
    ("page_512", "PRAGMA page_size=512"),
    ("page_65536", "PRAGMA page_size=65536"),
];

/// What each holds; with the full-text search it has tables that SQLite keeps itself.
const CONTENT: &str = "CREATE TABLE marks (id INTEGER PRIMARY KEY, text TEXT); CREATE INDEX by_text ON marks (text);
    CREATE VIRTUAL TABLE notes USING fts5(text)";

/// So many rows more, of which every third goes again and leaves its place empty.
fn grow(app: &mut App, name: &str, rows: usize) {
    let numbers = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
    app.ok(name, &format!("INSERT INTO marks (text) {numbers} SELECT i || hex(randomblob(100)) FROM n"));
    app.ok(name, &format!("INSERT INTO notes {numbers} SELECT 'note ' || hex(randomblob(20)) FROM n"));
    app.ok(name, "DELETE FROM marks WHERE id % 3 = 0");
}

fn in_mode(mode: &str) -> Place {
    let mut place = Place::empty();
    let mut pairs = Vec::new();
    for (name, pragmas) in SHAPES {
        place.sql(name, &format!("{pragmas}; PRAGMA journal_mode={mode}; {CONTENT}"));
        pairs.push(format!("{name}={}", place.live(name).display()));
    }
    place.set("BACKUP_DATABASES", &pairs.join(","));
    place
}

/// The pages but for what SQLite counts on by itself: journal mode, changes, schema cookie, and the version that wrote last.
fn pages(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    for counted in [18..20, 24..28, 40..44, 92..100] {
        bytes[counted].fill(0);
    }
    bytes
}

/// The live databases are what this backup holds, with so many notes: for the app that had them open, and on the disk.
#[track_caller]
fn assert_restored(place: &Place, app: &mut App, backup: &Value, mode: &str, notes: usize) {
    for (name, _) in SHAPES {
        let (live, copy) = (place.live(name), place.copy(backup, name));
        assert_eq!(app.one(name, "PRAGMA journal_mode"), mode, "{name}");
        assert_eq!(app.ok(name, "PRAGMA integrity_check"), json!([["ok"]]), "{name}");
        app.ok(name, "INSERT INTO notes (notes) VALUES ('integrity-check')");
        assert_eq!(app.one(name, "SELECT count(*) FROM notes WHERE notes MATCH 'note'"), notes, "{name}");
        if mode == "wal" {
            assert_eq!(app.ok(name, "PRAGMA wal_checkpoint(TRUNCATE)"), json!([[0, 0, 0]]), "{name}");
        }
        let number = |app: &mut App, pragma| app.one(name, pragma).as_u64().unwrap();
        let length = number(app, "PRAGMA page_count") * number(app, "PRAGMA page_size");
        assert_eq!(live.metadata().unwrap().len(), length, "{name}");
        assert!(pages(&live) == pages(&copy), "{name}: the pages differ");
    }
}

/// The app commits to each, and leaves beside it what its mode leaves: a journal without the head that would make it count, an empty one,
/// or none.
#[track_caller]
fn leaves_its_journal(place: &Place, app: &mut App, mode: &str) {
    for (name, _) in SHAPES {
        assert_eq!(app.ok(name, "UPDATE marks SET text = text WHERE id = 1"), 1, "{name}");
        let journal = std::fs::read(place.path(&format!("{name}.db-journal"))).ok();
        match mode {
            "persist" => {
                let left = journal.unwrap_or_else(|| panic!("{name} has no journal"));
                assert!(left.len() > 512 && left[..8] == [0; 8], "{name}: {} bytes", left.len());
            }
            "truncate" => assert_eq!(journal, Some(Vec::new()), "{name}"),
            _ => assert_eq!(journal, None, "{name}"),
        }
    }
}

fn length(place: &Place, backup: &Value, name: &str) -> u64 {
    place.copy(backup, name).metadata().unwrap().len()
}

fn all_shapes(language: Language, mode: &str) {
    println!("{language:?}, journal_mode={mode}");
    let place = in_mode(mode);
    let mut app = App::open(language, &place, &SHAPES.map(|(name, _)| name));
    // But for WAL each connection has its own.
    SHAPES.iter().for_each(|(name, _)| assert_eq!(app.one(name, &format!("PRAGMA journal_mode={mode}")), mode));
    SHAPES.iter().for_each(|(name, _)| grow(&mut app, name, 30));
    let small = place.create();
    SHAPES.iter().for_each(|(name, _)| grow(&mut app, name, 2000));

    leaves_its_journal(&place, &mut app, mode);
    let restored = restore(&place, &small);
    let large = taken_before(&place, &restored);
    for (name, _) in SHAPES {
        assert!(length(&place, &large, name) > length(&place, &small, name), "{name} did not grow");
    }
    assert_restored(&place, &mut app, &small, mode, 30);
    restore(&place, &large);
    assert_restored(&place, &mut app, &large, mode, 2030);
    // It can be worked with, also where free pages are given back.
    leaves_its_journal(&place, &mut app, mode);
    let last = restore(&place, &small);
    for (name, _) in SHAPES {
        grow(&mut app, name, 500);
        app.ok(name, "DELETE FROM marks WHERE id % 2 = 0");
        app.ok(name, "PRAGMA incremental_vacuum");
        assert_eq!(app.ok(name, "PRAGMA integrity_check"), json!([["ok"]]), "{name}");
    }
    let before = taken_before(&place, &last);
    assert_eq!(place.json(&["undo"])["id"], before["id"]);
    assert_restored(&place, &mut app, &before, mode, 2030);
    leaves_its_journal(&place, &mut app, mode);
    place.assert_whole();
}

#[test]
fn every_shape_in_wal_mode() {
    Language::BOTH.into_iter().for_each(|language| all_shapes(language, "wal"));
}

#[test]
fn every_shape_in_rollback_mode() {
    Language::BOTH.into_iter().for_each(|language| all_shapes(language, "delete"));
}

/// The app leaves a journal that doesn't count any more beside each database.
#[test]
fn every_shape_beside_a_journal_that_stays() {
    Language::BOTH.into_iter().for_each(|language| all_shapes(language, "persist"));
}

#[test]
fn every_shape_beside_an_empty_journal() {
    all_shapes(Language::Python, "truncate");
}

/// What the app could roll back it has in mind alone.
#[test]
fn every_shape_without_a_journal_on_the_disk() {
    all_shapes(Language::Node, "memory");
}
