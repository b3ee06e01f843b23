//! `serve` while calls fail by which it writes the journal: what isn't known is a gap, what is known stays, and it goes on by itself
//! [P4].

use std::process::Stdio;

use attendance_backup::journal::timeline::Gap;
use chrono::TimeDelta;

use crate::client::Server;
use crate::harness::{Place, Run, eventually, thoroughness};
use crate::inject::{Spot, signal, traced};
use crate::journal_dies::{Doomed, both};
use crate::journal_live::{index, live, place, ticked, timeline};
use crate::journal_replica::text;
use crate::replica_scene::Clock;
use crate::tried::Tried;

const NAMES: [&str; 2] = ["attendance", "auth"];

/// A call, what it fails with, and which of them are tried without time for all. Of writes, those of the N-th file of the journal:
/// others go to what wakes a thread, which no full disk stops.
const FAILING: [(&str, &str, usize); 6] = [
    ("fsync", "EIO", 5),
    ("pwrite64", "ENOSPC", 2),
    ("renameat2", "EIO", 3),
    ("write", "ENOSPC", 3),
    ("utimensat", "EIO", 4),
    ("pread64", "EIO", 30),
];

#[test]
fn serve_goes_on_after_each() {
    let cases: Vec<_> = match thoroughness() {
        1 => FAILING.to_vec(),
        _ => FAILING.into_iter().flat_map(|(call, error, _)| (1..=24).map(move |n| (call, error, n))).collect(),
    };
    for row in cases.chunks(3) {
        std::thread::scope(|scope| {
            for &(call, error, n) in row {
                scope.spawn(move || {
                    let is_met = fails_and_goes_on(call, error, n);
                    Tried::of(usize::from(is_met), 0, 0).report_error("capture", error);
                });
            }
        });
    }
}

/// Says whether the call was made at all.
fn fails_and_goes_on(call: &'static str, error: &str, n: usize) -> bool {
    let mut place: Place = place("100ms");
    place.set("BACKUP_ENABLED", "false");
    place.create();
    let writer = place.writer(0.005);
    let log = place.path("strace");
    let (spot, n) = match call {
        "write" => (Spot::on(call, &format!("journal/auth/ltx/0/.{0:016x}-{0:016x}.ltx.partial", n + 1)), 1),
        _ => (Spot::anywhere(call), n),
    };
    let mut command = place.faulty_into(&log, &spot, &format!("error={error}:when={n}"), &["serve"]);
    let mut doomed = Doomed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let is_met = || std::fs::read_to_string(&log).unwrap().contains("(INJECTED)");
    let ended = eventually("some ticks", || {
        let ended = doomed.0.try_wait().unwrap().is_some();
        let ticks = timeline(&place).alive.is_some() && is_met();
        (ended || ticks).then_some(ended)
    });
    // Its start may be what failed.
    if !ended {
        let known = ticked(&place);
        let before = both(&place, known);
        assert_eq!(writer.stop().errors, Vec::<String>::new(), "{error} at {call} {n}");
        let now = ticked(&place);
        assert!(both(&place, now) == NAMES.map(|name| live(&place, name)), "{error} at {call} {n}");
        assert!(both(&place, known) == before, "{error} at {call} {n}: what was known is another");
        signal(&traced(doomed.0.id()).unwrap(), "-TERM");
        let ended = eventually("its end", || doomed.0.try_wait().unwrap());
        assert!(ended.success(), "{error} at {call} {n}");
    }
    place.assert_whole();
    is_met()
}

/// By an hour and then by a day, while it is recorded: time goes on from the newest state, and each is what it was.
#[test]
fn a_clock_that_is_put_back_loses_no_state_and_mixes_none_up() {
    let place = place("1s");
    let mut command = place.command(&["serve"]);
    let clock = Clock::of(&place, command.env("BACKUP_ENABLED", "false"));
    clock.put_on(48 * 3600);
    let server = Server::of(&mut command, place.path("serve.log"));
    let newest = || index(&place, "attendance").newest();
    let mut known = eventually("the first state", newest).at().unwrap();
    let (mut states, people) = (Vec::new(), "SELECT group_concat(name) FROM people");
    for (hours, name) in [(48, "Dora"), (47, "Emil"), (23, "Fay")] {
        clock.put_on(hours * 3600);
        place.sql("attendance", &format!("INSERT INTO people (name) VALUES ('{name}')"));
        known = eventually("the next state", || newest()?.at().filter(|at| *at > known));
        states.push((known, place.sql("attendance", people)));
    }
    let timeline = timeline(&place);
    // It has none of the clock; a machine that has no time for five seconds of ticks makes one of them.
    let of_the_clock = |gap: &Gap| !(TimeDelta::seconds(5)..TimeDelta::minutes(30)).contains(&(gap.to - gap.from));
    assert!(timeline.alive.is_some_and(|alive| alive >= known), "{timeline:?}");
    assert!(!timeline.gaps.iter().any(of_the_clock), "{timeline:?}");
    for (at, held) in states.iter().rev().chain(&states) {
        let at = text(*at);
        let mut restore = place.command(&["restore", "--at", &at, "--confirm", &at]);
        Clock::of(&place, &mut restore).put_on(23 * 3600);
        let run = Run::of(restore.output().unwrap());
        assert_eq!(run.code, 0, "{at}: {}", run.stderr);
        assert_eq!(place.sql("attendance", people), *held, "{at}");
    }
    assert!(!server.stop().contains("ERROR"));
    place.assert_whole();
}
