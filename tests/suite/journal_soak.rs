//! The journal beside an app that is at work: two minutes of `scripts/soak`, and who waits for our disk.

use std::time::Duration;

use attendance_backup::journal::Level;

use crate::client::Server;
use crate::harness::{PROGRAM, eventually, in_some_tries, python3, thoroughness};
use crate::inject::{Spot, signal, traced};
use crate::journal_live::{index, place, ticked};

#[test]
fn whatever_instant_of_a_busy_app_is_restored_is_row_by_row_what_the_app_did() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = python3();
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/soak")).args(["--busy", "--size", "5", "--every", "20"]);
    command.args(["--seconds", &(120 * thoroughness()).to_string(), "--binary", PROGRAM]).arg("--dir").arg(dir.path());
    let output = command.output().unwrap();
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{said}");
    println!("{told}");
    assert!(told.matches("rows equal").count() >= 4, "{told}");
}

/// In rollback-journal mode whoever commits waits for our readers. Those don't wait for the disk that the journal lies on.
#[test]
fn an_app_in_rollback_mode_does_not_wait_for_our_disk() {
    let mut place = place("1s");
    for name in ["attendance", "auth"] {
        place.sql(name, "PRAGMA journal_mode=DELETE");
    }
    // strace wants the folder to be there.
    let server = Server::start(place.set("BACKUP_ENABLED", "false"));
    ticked(&place);
    server.stop();
    let delay = Duration::from_secs(3);
    let spot = Spot::on("fsync", "journal/attendance/ltx/0");
    let mut command = place.faulty(&spot, &format!("delay_enter={}", delay.as_micros()), &["serve"]);
    let mut server = Server::of(&mut command, place.path("slow.log"));
    ticked(&place);
    let captured =
        || index(&place, "attendance").level(Level::CAPTURED).iter().map(|file| file.millis).collect::<Vec<_>>();
    let ticks = in_some_tries(|| {
        let (writer, before) = (place.timed_writer(0.01), captured().len());
        let ticks = eventually("three slow ticks", || Some(captured()).filter(|ticks| ticks.len() >= before + 3));
        let written = writer.stop();
        assert_eq!(written.errors, Vec::<String>::new());
        if written.slowest < delay.as_secs_f64() / 2.0 {
            Ok(ticks.into_iter().skip(before).collect::<Vec<_>>())
        } else {
            Err(format!("a commit took {} s", written.slowest))
        }
    });
    signal(&traced(server.child.id()).unwrap(), "-TERM");
    server.child.wait().unwrap();
    assert!(u128::from(ticks[2] - ticks[1]) >= delay.as_millis(), "the disk was not slow: {ticks:?}");
}
