//! The power goes while the journal is written or tended: what it says can be rebuilt is what it was, and it goes on from what the
//! disk still has of the databases [P4, P5].

use std::path::Path;
use std::process::Command;

use chrono::DateTime;

use crate::client::Server;
use crate::faults_power::{disk_for, place_on};
use crate::harness::thoroughness;
use crate::inject::{Spot, signal, until_stopped};
use crate::journal_crash::{Scene, assert_ends_well, assert_whole, tending};
use crate::journal_dies::both;
use crate::journal_live::{index, live, place, ticked, timeline};
use crate::power::Disk;
use crate::scene::Context;
use crate::tried::Tried;

const NAMES: [&str; 2] = ["attendance", "auth"];

/// Every so many of the calls of a kind.
fn some(calls: usize, offset: usize) -> Vec<usize> {
    let stride = match thoroughness() {
        1 => calls / 2 + 1,
        2..10 => 5,
        _ => 1,
    };
    (1 + offset % stride..=calls).step_by(stride).collect()
}

#[test]
fn whose_power_is_cut_while_it_is_tended() {
    let Some(disk) = disk_for("journal_power::whose_power_is_cut_while_it_is_tended") else { return };
    let scene = Scene::new();
    let root = Path::new(&disk.mounted()).join("tended");
    let copied = Command::new("cp").arg("-a").arg(scene.recorded.path()).arg(&root).status();
    assert!(copied.unwrap().success());
    disk.swap("live");
    disk.copy("live", "before");
    let mut tried = 0;
    for (offset, (call, count)) in scene.calls.iter().enumerate() {
        for n in some(*count, offset) {
            disk.copy("before", "running");
            disk.swap("running");
            let inject = format!("inject={call}:signal=STOP:when={n}");
            let options = ["-e", &format!("trace={call}"), "-e", &inject];
            let log = tempfile::NamedTempFile::new().unwrap();
            let stopped = until_stopped(&mut tending(&root, log.path(), &options), log.path());
            let Some((mut child, pid)) = stopped else { continue };
            disk.copy("running", "cut");
            signal(&pid, "-KILL");
            child.wait().unwrap();
            disk.swap("cut");
            let what = format!("the power was cut at {call} {n}");
            assert_whole(&root, n, &what);
            assert_ends_well(&root, n, &what);
            tried += 1;
        }
    }
    println!("power cut while a journal is tended, at {:?}: {tried} tried", scene.calls);
    Tried::of(tried, 0, 0).report("merge, snapshot, retain", "power cut");
    assert!(tried >= scene.calls.len(), "{tried} at {:?}", scene.calls);
    disk.swap("live");
}

#[test]
fn whose_power_is_cut_while_it_captures() {
    let Some(disk) = disk_for("journal_power::whose_power_is_cut_while_it_captures") else { return };
    let calls = [("fsync", 24), ("renameat2", 12), ("pwrite64", 8), ("utimensat", 12), ("write", 16)];
    let (mut tried, mut knew) = (0, 0);
    for (offset, (call, count)) in calls.into_iter().enumerate() {
        for n in some(count, offset) {
            let context = Context(format!("the power was cut at {call} {n}"));
            knew += usize::from(is_cut_and_goes_on(&disk, call, n));
            tried += 1;
            drop(context);
        }
    }
    println!("power cut while the journal is captured: {tried} tried, {knew} after a tick");
    Tried::of(tried, knew, 0).report("capture", "power cut");
    assert!(knew > 0 && knew < tried, "{knew} of {tried}");
}

/// Says whether a tick was known then. The app's machine is this one: its databases are what the disk has of them.
fn is_cut_and_goes_on(disk: &Disk, call: &'static str, n: usize) -> bool {
    let mut place = place_on(disk, &place("100ms"));
    place.set("BACKUP_ENABLED", "false");
    place.create();
    if n.is_multiple_of(2) {
        // An earlier one has left its note of the last tick.
        let (writer, server) = (place.writer(0.005), Server::start(&place));
        ticked(&place);
        server.stop();
        assert_eq!(writer.stop().errors, Vec::<String>::new());
    }
    // What was there before is on the disk, and each commit of the app from now on.
    disk.swap("live");
    let writer = place.writer(0.005);
    let (mut child, pid) = place.stopped(&Spot::anywhere(call), n, &["serve"]).expect("a call");
    drop(writer);
    disk.copy("live", "cut");
    signal(&pid, "-KILL");
    child.wait().unwrap();
    disk.swap("cut");
    let alive = timeline(&place).alive;
    let newest: Vec<_> =
        NAMES.iter().filter_map(|name| index(&place, name).newest()).map(|point| point.millis).collect();
    let known = alive.map(|at| both(&place, at));
    let server = Server::start(&place);
    let now = ticked(&place);
    assert!(both(&place, now) == NAMES.map(|name| live(&place, name)));
    if let (Some(alive), Some(known)) = (alive, &known) {
        assert!(both(&place, alive) == *known, "what was known is another");
        let gaps = timeline(&place).gaps;
        assert!(gaps.iter().any(|gap| gap.from == alive && gap.to <= now), "{gaps:?} after {alive}");
    } else if newest.len() == 2 {
        // No tick is known to have come to its end.
        let gaps = timeline(&place).gaps;
        let last_of_both = DateTime::from_timestamp_millis(newest.iter().min().copied().unwrap() as i64).unwrap();
        assert!(gaps.iter().any(|gap| gap.from <= last_of_both && gap.to <= now), "{gaps:?} after {newest:?}");
        gaps.iter().for_each(|gap| drop(both(&place, gap.from)));
    }
    server.stop();
    place.assert_whole();
    disk.swap("live");
    known.is_some()
}
