//! A database of many pages under a writer that hardly pauses: a pinned reader is disturbed by no commit, so the backup
//! ends, in its time [P3].

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Place, sql_on_copy};

#[test]
fn a_backup_of_a_large_database_ends_while_the_app_writes() {
    let place = Place::empty();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/make_databases.py");
    assert!(Command::new(script).arg(place.path("")).arg("80").output().unwrap().status.success());
    let writer = place.timed_writer(0.001);
    let begun = Instant::now();
    let backup = place.create();
    let took = begun.elapsed();
    let written = writer.stop();
    assert!(took < Duration::from_secs(60), "it took {took:?}");
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    assert!(written.pairs > 50, "the writer hardly wrote: {}", written.pairs);
    assert!(written.slowest < 4.0, "a commit took {} s", written.slowest);
    let copy = place.copy(&backup, "attendance");
    assert!(copy.metadata().unwrap().len() > 79_000_000);
    assert_eq!(sql_on_copy(&copy, "PRAGMA integrity_check"), "ok");
    assert_eq!(backup["flags"], serde_json::json!([]));
    place.assert_whole();
}
