//! Files of the journal go bad, or go, while nobody writes it or beside whoever does. What they led to is a gap from its first instant on,
//! and not only from the last one that `serve` saw: no restore is offered that fails, and none brings back what was before it.

use std::path::Path;

use attendance_backup::journal::Level;
use attendance_backup::journal::folder::folder;
use chrono::{DateTime, Utc};

use crate::client::Server;
use crate::damage::flip;
use crate::harness::{Place, eventually, kill, sql_on};
use crate::journal_live::{index, place, ticked, timeline};
use crate::journal_replica::{kill_server, text};

/// Restores both, and says the last number in each.
pub fn numbers_at(place: &Place, at: DateTime<Utc>) -> [u64; 2] {
    let at = text(at);
    place.ok(&["restore", "--at", &at, "--confirm", &at]);
    ["attendance", "auth"].map(|name| sql_on(&place.live(name), "SELECT max(n) FROM stamps").parse().unwrap())
}

/// That number in both, and when it was recorded.
pub fn number(place: &Place, number: u64) -> DateTime<Utc> {
    for name in ["attendance", "auth"] {
        place.sql(name, &format!("INSERT INTO stamps VALUES ({number})"));
    }
    ticked(place)
}

/// Four numbers are recorded, then `spoil` has the files of `attendance` that lead to the third and, so it is told, to the fourth alone; and
/// somebody finds out: `serve` when it starts, or else a rehearsal beside it.
fn loses_the_last_two(spoil: impl Fn(&Path, bool), is_running: bool, why: &str) {
    let place = place("500ms");
    for name in ["attendance", "auth"] {
        place.sql(name, "CREATE TABLE stamps (n INTEGER)");
    }
    place.create();
    let mut server = Server::start(&place);
    ticked(&place);
    let seen = [1, 2, 3, 4].map(|n| number(&place, n));
    if !is_running {
        kill(&mut server.child);
    }
    let journal = folder(&place.backups(), &"attendance".parse().unwrap());
    let index = index(&place, "attendance");
    let [.., third, _] = index.level(Level::CAPTURED) else { panic!("{index:?}") };
    // Those of some time are joined.
    let files = index.files().map(|file| file.name).filter(|name| name.level != Level::SNAPSHOT);
    files
        .filter(|name| name.max >= third.name.max)
        .for_each(|name| spoil(&name.path(&journal), name.min > third.name.max));
    if is_running {
        assert_eq!(place.run(&["drill"]).code, 1);
    } else {
        let at = text(seen[3]);
        place.run(&["restore", "--at", &at, "--confirm", &at]).refused(1, &["is damaged"]);
        server = Server::start(&place);
    }
    let gap = eventually("the gap", || timeline(&place).gaps.into_iter().find(|gap| gap.wrong && gap.holds(seen[3])));
    assert!(gap.holds(seen[2]) && seen[1] <= gap.from, "{gap:?} of {seen:?}");
    let wrong: Vec<_> = place.audit().into_iter().filter(|line| line["code"] == "journal-wrong").collect();
    assert!(wrong.len() == 1 && wrong[0]["reason"].as_str().unwrap().contains(why), "{wrong:?}");
    let fifth = number(&place, 5);
    // A tick that the machine had no time for makes another.
    let wrong = || timeline(&place).gaps.into_iter().filter(|gap| gap.wrong).collect::<Vec<_>>();
    let gaps = wrong();
    kill_server(server);
    let server = Server::start(&place);
    ticked(&place);
    kill_server(server);
    assert_eq!(wrong(), gaps, "it is seen to");
    // The tick of the third may have been one for which the machine had no time: then they are one.
    let from =
        timeline(&place).gaps.into_iter().filter(|it| it.holds(gap.from)).map(|it| it.from).fold(gap.from, Ord::min);
    for lost in [seen[2], seen[3]].map(text) {
        let args = ["restore", "--at", &lost, "--confirm", &lost];
        place.run(&args).refused(1, &["was found wrong", &text(from), &text(gap.to)]);
    }
    assert_eq!(numbers_at(&place, from), [2, 2]);
    assert_eq!(numbers_at(&place, fifth), [5, 5]);
}

fn remove(path: &Path, _: bool) {
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_is_damaged_is_a_gap_from_its_first_instant_on() {
    loses_the_last_two(|path, _| flip(path, |len| len / 2), false, "is damaged");
}

/// Bytes 32 to 39 of an LTX file: the time, here one in 139 years.
#[test]
fn the_time_of_a_damaged_file_is_not_believed() {
    loses_the_last_two(|path, _| flip(path, |_| 34), false, "is damaged");
}

#[test]
fn what_is_gone_is_a_gap_from_its_first_instant_on() {
    loses_the_last_two(remove, false, "are gone");
}

#[test]
fn what_goes_beside_serve_is_a_gap_from_its_first_instant_on() {
    loses_the_last_two(remove, true, "the journal is wrong");
}

#[test]
fn what_is_missing_in_between_is_a_gap_from_its_first_instant_on() {
    let remove_third = |path: &Path, is_fourth: bool| {
        if !is_fourth {
            remove(path, is_fourth);
        }
    };
    loses_the_last_two(remove_third, false, "are missing");
}
