//! `serve` that dies or finds no room while it writes the journal of databases that an app writes to: what is told of the past stays
//! true, what isn't known is a gap, and it goes on [P4, P5, P10].

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use chrono::{DateTime, Utc};

use crate::client::Server;
use crate::disk_full::SmallDisk;
use crate::harness::{PROGRAM, Place, Run, eventually, sql_on_copy, thoroughness};
use crate::inject::{Spot, signal, traced};
use crate::journal_live::{index, live, place, rebuilt, ticked, timeline};
use crate::tried::Tried;

const NAMES: [&str; 2] = ["attendance", "auth"];

/// A `serve` under strace. It would outlive strace.
pub struct Doomed(pub Child);

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some(pid) = traced(self.0.id()) {
            signal(&pid, "-KILL");
        }
        let _ = self.0.wait();
    }
}

/// Lets it die at the `n`-th call of a kind of any of its threads.
fn dies(place: &Place, call: &'static str, n: usize) {
    let mut command = place.faulty(&Spot::anywhere(call), &format!("signal=KILL:when={n}"), &["serve"]);
    let mut doomed = Doomed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let status = eventually("the kill", || doomed.0.try_wait().unwrap());
    assert_eq!(status.signal(), Some(9), "{call} {n}");
}

/// The number in a database that was rebuilt, which is whole.
fn number(place: &Place, bytes: &[u8]) -> u64 {
    let path = place.path("rebuilt.db");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(sql_on_copy(&path, "PRAGMA integrity_check").trim(), "ok");
    sql_on_copy(&path, "SELECT n FROM counter").trim().parse().unwrap()
}

/// Both databases at an instant that is said to be known.
pub fn both(place: &Place, at: DateTime<Utc>) -> [Vec<u8>; 2] {
    let databases = NAMES.map(|name| rebuilt(place, name, at));
    let [first, second] = [&databases[0], &databases[1]].map(|bytes| number(place, bytes));
    assert!(second == first || second + 1 == first, "{first} and {second} at {at}: no instant of both");
    databases
}

#[test]
fn killed_while_it_captures() {
    let calls: [(_, &[usize]); 5] = [
        ("fsync", &[3, 8, 13, 22]),
        ("renameat2", &[2, 4, 7]),
        ("pwrite64", &[1, 4]),
        ("utimensat", &[4, 7]),
        ("write", &[13]),
    ];
    let (mut died, mut knew) = (0, 0);
    for (call, some) in calls {
        let all: Vec<_> = (1..=24).collect();
        for n in if thoroughness() >= 2 { &all } else { some } {
            knew += usize::from(dies_and_goes_on(call, *n));
            died += 1;
        }
    }
    println!("serve killed while it captures: {died} tried, {knew} after a tick");
    Tried::of(died, knew, 0).report("capture", "kill -9");
    assert!(knew > 0 && knew < died, "{knew} of {died}");
}

/// Says whether a tick had come to its end before it died.
fn dies_and_goes_on(call: &'static str, n: usize) -> bool {
    let mut place = place("100ms");
    place.set("BACKUP_ENABLED", "false");
    place.create();
    let writer = place.writer(0.005);
    dies(&place, call, n);
    let alive = timeline(&place).alive;
    let known = alive.map(|at| both(&place, at));
    for name in NAMES {
        // Also of a tick that didn't come to its end.
        if let Some(newest) = index(&place, name).newest() {
            number(&place, &rebuilt(&place, name, DateTime::from_timestamp_millis(newest.millis as i64).unwrap()));
        }
    }
    let written = writer.stop();
    assert_eq!(written.errors, Vec::<String>::new(), "{call} {n}");
    let server = Server::start(&place);
    let now = ticked(&place);
    assert!(both(&place, now) == NAMES.map(|name| live(&place, name)), "{call} {n}");
    if let (Some(alive), Some(known)) = (alive, &known) {
        assert!(both(&place, alive) == *known, "{call} {n}: what was known is another");
        let gaps = timeline(&place).gaps;
        assert!(gaps.iter().any(|gap| gap.from == alive && gap.to <= now), "{call} {n}: {gaps:?} after {alive}");
    }
    server.stop();
    place.assert_whole();
    known.is_some()
}

#[test]
fn a_full_disk_makes_a_gap() {
    let test = "journal_dies::a_full_disk_makes_a_gap";
    let Some(mut disk) = SmallDisk::of(test, "size=16m,mode=0700") else { return };
    disk.place.set("BACKUP_PITR", "true").set("BACKUP_PITR_INTERVAL", "200ms");
    let writer = disk.place.writer(0.005);
    let server = Server::start(&disk.place);
    ticked(&disk.place);
    disk.fill();
    let told = |server: &Server| {
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains("the journal is not written"));
        lines.map(|line| line.split_once("the journal").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    eventually("a failure", || (!told(&server).is_empty()).then_some(()));
    let known = timeline(&disk.place).alive.unwrap();
    // Several tries of a tick.
    std::thread::sleep(std::time::Duration::from_secs(11));
    assert_eq!(timeline(&disk.place).alive, Some(known), "nothing is known of now");
    let before = both(&disk.place, known);
    let lines = told(&server);
    assert!(lines.iter().all(|line| line.contains("the disk is full")), "{lines:?}");
    assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len(), "said again: {lines:?}");
    assert!(warnings_later(&disk.place).contains("journal-behind"));
    disk.empty();
    eventually("the journal", || server.log().contains("the journal is written again").then_some(()));
    assert_eq!(writer.stop().errors, Vec::<String>::new());
    let now = ticked(&disk.place);
    assert!(both(&disk.place, now) == NAMES.map(|name| live(&disk.place, name)));
    assert!(both(&disk.place, known) == before, "what was known is another");
    let gaps = timeline(&disk.place).gaps;
    let of_it: Vec<_> = gaps.iter().filter(|gap| gap.from <= known && known < gap.to).collect();
    assert!(of_it.len() == 1 && of_it[0].from == known && of_it[0].to <= now, "{gaps:?} after {known}");
    server.stop();
    disk.place.assert_whole();
}

/// What the status says when all has stayed like this for some minutes.
fn warnings_later(place: &Place) -> String {
    let mut command = place.command_of("faketime");
    command.args(["-f", "+5m", PROGRAM, "status", "--json"]).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let run = Run::of(command.output().expect("faketime is needed"));
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str::<serde_json::Value>(&run.stdout).unwrap()["warnings"].to_string()
}
