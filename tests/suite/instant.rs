//! One instant for all databases, a writer that never waits long and never sees an error [P1, P2, P3].

use crate::harness::{Place, sql_on_copy};

#[test]
fn fifty_backups_under_a_writer_show_one_instant() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "100");
    let writer = place.writer(0.0);
    let mut last = -1;
    for _ in 0..50 {
        let backup = place.create();
        let n = |name| sql_on_copy(&place.copy(&backup, name), "SELECT n FROM counter").parse::<i64>().unwrap();
        let (first, second) = (n("attendance"), n("auth"));
        assert!((0..=1).contains(&(first - second)), "{first} and {second} are not of one instant");
        assert!(second >= last, "time went back");
        last = second;
    }
    let written = writer.stop();
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    assert!(written.pairs > 50, "the writer hardly wrote: {}", written.pairs);
    assert_eq!(place.list().len(), 50);
    place.assert_whole();
}
