//! Somebody puts another file in a live database's place while a restore is under way: the restore fails and says so, and neither that
//! file, nor the one that was there, nor the other database is changed [P6].

use std::path::Path;

use crate::harness::{Place, dump, python};
use crate::inject::{Spot, goes_on};
use crate::restore_faults::live_files;
use crate::restore_scene::{Past, RESTORE, assert_settled_files};
use crate::scene::Context;

/// As a deployment would bring it: a database that none of the past is. Its schema was changed so often; that of one that was restored
/// before counts far.
fn another(place: &Place, mode: &str, cookie: u32) -> Vec<u8> {
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)";
    let table = "CREATE TABLE people (id INTEGER PRIMARY KEY, name)";
    let fill = format!("{rows} INSERT INTO people SELECT i, 'deployed ' || i FROM n");
    place.sql("new", &format!("PRAGMA journal_mode={mode}; {table}; {fill}; PRAGMA schema_version={cookie}"));
    std::fs::read(place.live("new")).unwrap()
}

/// Somebody reads all of it, and closes it again: whatever lies beside it would be played into it.
fn opened_and_closed(path: &Path) -> Vec<u8> {
    python(
        "import sqlite3, sys\n\
         c = sqlite3.connect(sys.argv[1], timeout=10)\n\
         assert c.execute('PRAGMA integrity_check').fetchall() == [('ok',)]\n\
         assert c.execute('SELECT count(*), max(name) FROM people').fetchall() == [(50, 'deployed 9')]\n\
         c.close()\n",
        &[path],
    );
    std::fs::read(path).unwrap()
}

/// It stops at that call, and goes on once another file lies there.
fn swapped_at(past: &Past, spot: &Spot, n: usize, (mode, cookie): (&str, u32)) {
    let place = past.twin();
    let context = Context(format!("another file, in {mode} mode and of cookie {cookie}, came at {spot} {n}"));
    let new = another(&place, mode, cookie);
    let (live, aside) = (place.live("attendance"), place.path("aside.db"));
    let (old, other) = (std::fs::read(&live).unwrap(), dump(&place.live("auth"), false));
    let (strace, pid) = place.stopped(spot, n, &RESTORE).expect("it comes to that");
    std::fs::rename(&live, &aside).unwrap();
    std::fs::rename(place.live("new"), &live).unwrap();
    let run = goes_on(strace, &pid);
    let is_new = |found: &[u8]| found == new;
    assert!(is_new(&std::fs::read(&live).unwrap()), "the restore has written into it");
    run.refused(1, &["`attendance` was replaced by another file", "stop the app"]);
    assert!(is_new(&opened_and_closed(&live)), "what the restore has left was played into it");
    assert!(std::fs::read(&aside).unwrap() == old, "the file that was there was changed");
    assert_eq!(dump(&place.live("auth"), false), other, "auth was restored");
    assert_settled_files(&place);
    let told = place.audit().into_iter().rfind(|line| line["kind"] == "outcome" && line["operation"] == "restore");
    let told = told.unwrap();
    assert_eq!((&told["ok"], &told["code"]), (&false.into(), &"live-swapped".into()), "{told}");
    place.assert_whole();
    // Whoever comes next takes it as it is.
    place.ok(&["create"]);
    assert!(is_new(&std::fs::read(&live).unwrap()), "the next operation has written into it");
    place.assert_whole();
    drop(context);
}

const OTHERS: [(&str, u32); 3] = [("delete", 1), ("wal", 1), ("delete", 400_000)];

/// While its pages are written.
#[test]
fn a_file_that_comes_while_pages_are_written_is_left_alone() {
    for modes in [["wal", "wal"], ["delete", "delete"], ["wal", "delete"], ["delete", "wal"]] {
        let past = Past::of(modes);
        for other in OTHERS {
            swapped_at(&past, &Spot::on("pwrite64", &live_files(modes)[1]), 4, other);
        }
    }
}

/// Before the first page is written.
#[test]
fn a_file_that_comes_while_the_restore_is_planned_is_left_alone() {
    for modes in [["wal", "wal"], ["delete", "delete"]] {
        let past = Past::of(modes);
        for other in OTHERS {
            swapped_at(&past, &Spot::anywhere("renameat2"), 1, other);
        }
    }
}
