//! A restore past a gibibyte, where SQLite keeps a page for its locks, in little memory.

use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Place, thoroughness};

/// The most memory that the process has used, in bytes (proc(5)).
pub fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Megabytes in the database: past a gibibyte when all of it is tried.
fn megabytes() -> usize {
    if thoroughness() >= 2 { 1200 } else { 150 }
}

#[test]
fn a_restore_that_grows_far_on_a_disk_that_never_fails_takes_little_memory() {
    let place = Place::empty();
    for name in ["attendance", "auth"] {
        place.sql(name, "PRAGMA page_size=65536; PRAGMA journal_mode=wal; CREATE TABLE t (a)");
    }
    place.fill(megabytes());
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let digest =
        "SELECT count(*), sum(unicode(hex(substr(bytes, 1, 64)))), sum(unicode(hex(substr(bytes, -64)))) FROM blobs";
    let before = place.sql("attendance", digest);
    place.sql("attendance", "DROP TABLE blobs; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(place.live("attendance").metadata().unwrap().len() < 1 << 20);
    let mut child = place.command(&["restore", &id, "--confirm", &id]).stdout(Stdio::null()).spawn().unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(peak(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(place.sql("attendance", digest), before);
    assert_eq!(place.sql("attendance", "PRAGMA integrity_check"), "ok");
    place.sql("attendance", "PRAGMA wal_checkpoint(TRUNCATE)");
    let pages: u64 = place.sql("attendance", "PRAGMA page_count").parse().unwrap();
    assert_eq!(place.live("attendance").metadata().unwrap().len(), pages * 65536);
    assert!(thoroughness() < 2 || pages * 65536 > 1 << 30);
    println!("restored {} MB in {} MB of memory", (pages * 65536) >> 20, most >> 20);
    assert!(most < 96 << 20, "{most} bytes of memory");
    place.ok(&["undo"]);
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM sqlite_schema WHERE name = 'blobs'"), "0");
    place.assert_whole();
}
