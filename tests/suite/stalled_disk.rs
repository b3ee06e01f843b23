//! The disk of the backups stands still in the midst of something. The app goes on: what it waits for is let go in time.

use std::time::Duration;

use attendance_backup::journal::FileName;
use attendance_backup::journal::folder::folder;

use crate::client::Server;
use crate::harness::{Place, Run, Written, eventually};
use crate::inject::{Spot, signal, traced};
use crate::journal_live::{index, place, ticked};
use crate::seasons::partials_of_today;

/// For how long it does.
const STILL: Duration = Duration::from_secs(6);

fn stands_still() -> String {
    format!("delay_enter={}:when=1", STILL.as_micros())
}

/// Runs the program beside an app that writes, while the first call at `spot` takes so long.
fn beside_an_app(place: &Place, spot: &Spot, args: &[&str]) -> (Run, Written) {
    let (writer, log) = (place.timed_writer(0.01), place.path("calls"));
    let run = Run::of(place.faulty_into(&log, spot, &stands_still(), args).output().unwrap());
    let written = writer.stop();
    assert!(std::fs::read_to_string(&log).unwrap().contains("(DELAYED)"), "nothing stood still");
    (run, written)
}

#[track_caller]
fn assert_not_held(written: &Written) {
    assert_eq!(written.errors, Vec::<String>::new());
    assert!(written.slowest < STILL.as_secs_f64() * 0.7, "a commit took {} s", written.slowest);
}

fn in_rollback_mode(place: &Place) {
    for name in ["attendance", "auth"] {
        place.sql(name, "PRAGMA journal_mode=DELETE");
    }
}

/// Its writers wait for our readers, and those for room in memory, but no longer than was set; nor for what others are told of it.
#[test]
fn a_large_database_in_rollback_mode_is_let_go_when_its_time_is_up() {
    let [partial, _] = partials_of_today(&Place::new());
    for spot in [Spot::on("write", &partial), Spot::on("pwrite64", ".lock")] {
        let mut place = Place::new();
        place.set("BACKUP_ROLLBACK_HOLD", "1s").fill(20);
        in_rollback_mode(&place);
        let (run, written) = beside_an_app(&place, &spot, &["create", "--type", "daily"]);
        run.refused(1, &["copying `attendance` would have kept its writers waiting for more than 1s"]);
        assert_not_held(&written);
        assert_eq!(place.ids().len(), 0);
        place.assert_whole();
    }
}

#[test]
fn a_database_that_is_in_memory_is_let_go_at_once() {
    let place = Place::new();
    in_rollback_mode(&place);
    let [partial, _] = partials_of_today(&place);
    let (run, written) = beside_an_app(&place, &Spot::on("write", &partial), &["create", "--type", "daily"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_not_held(&written);
    place.assert_whole();
}

/// The backup of what is there, and the plan, become durable under the locks.
#[test]
fn a_restore_is_given_up_when_the_time_of_the_writers_is_up() {
    for file in [".restore.json.partial", ".metadata.json.partial"] {
        let mut place = Place::new();
        let id = place.create()["id"].as_str().unwrap().to_owned();
        place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
        place.set("BACKUP_RESTORE_HOLD", "500ms");
        let args = ["restore", &id, "--confirm", &id];
        let (run, written) = beside_an_app(&place, &Spot::on("fsync", file), &args);
        run.refused(1, &["would have kept the app's writers waiting for more than 500ms; nothing was changed"]);
        assert_not_held(&written);
        assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "4");
        place.assert_whole();
        place.set("BACKUP_RESTORE_HOLD", "1m").ok(&args);
        assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "3");
    }
}

/// What `serve` says while its journal's disk stands still, at each of its tries: each writes on a thread of its own, whose calls strace
/// counts anew. So much has changed when it begins to.
fn beside_the_journal(megabytes: usize) -> String {
    let mut place = place("1s");
    in_rollback_mode(&place);
    let server = Server::start(place.set("BACKUP_ENABLED", "false").set("BACKUP_ROLLBACK_HOLD", "2s"));
    ticked(&place);
    server.stop();
    let state = index(&place, "attendance").next();
    let partial = attendance_backup::disk::partial_path(
        &FileName::captured(state).path(&folder(&place.backups(), &"attendance".parse().unwrap())),
    );
    let spot = Spot::on("write", partial.strip_prefix(place.backups()).unwrap().to_str().unwrap());
    let log = place.path("calls");
    let mut server =
        Server::of(&mut place.faulty_into(&log, &spot, &stands_still(), &["serve"]), place.path("slow.log"));
    ticked(&place);
    place.fill(megabytes);
    let writer = place.timed_writer(0.01);
    eventually("the disk has stood still", || {
        let calls = std::fs::read_to_string(&log).unwrap();
        let is_over = index(&place, "attendance").next() > state;
        (calls.contains("(DELAYED)") && is_over || calls.matches("(DELAYED)").count() >= 2).then_some(())
    });
    let written = writer.stop();
    signal(&traced(server.child.id()).unwrap(), "-TERM");
    server.child.wait().unwrap();
    assert_not_held(&written);
    let said = std::fs::read_to_string(place.path("slow.log")).unwrap();
    let server = Server::start(&place);
    ticked(&place);
    server.stop();
    assert!(index(&place, "attendance").next() > state);
    place.assert_whole();
    said
}

/// More has changed than is kept in memory.
#[test]
fn the_journal_lets_a_database_in_rollback_mode_go_when_its_time_is_up() {
    let said = beside_the_journal(3);
    assert!(said.contains("copying `attendance` would have kept its writers waiting for more than 2s"), "{said}");
}

#[test]
fn the_journal_lets_what_is_in_memory_go_at_once() {
    let said = beside_the_journal(1);
    assert!(!said.contains("would have kept its writers waiting"), "{said}");
}
