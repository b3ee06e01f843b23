//! A database that isn't configured for a while: nothing is offered of the time in which nobody looked at it, neither under its name
//! meanwhile nor once it is back, here and in replicas; and all of the others'.

use std::process::Stdio;

use attendance_backup::journal::timeline::{Gap, Timeline};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::client::Server;
use crate::harness::{Place, eventually, sql_on};
use crate::inject::Spot;
use crate::journal_dies::Doomed;
use crate::journal_live::{place, ticked, timeline};
use crate::journal_lost::{number, numbers_at};
use crate::journal_replica::{self, kill_server, refused_at, shipping, text};
use crate::replica_scene::empty_machine;
use crate::stores::Store;

const BOTH: [(&str, &str); 2] = [("attendance", "attendance"), ("auth", "auth")];
const ONE: [(&str, &str); 1] = [("attendance", "attendance")];
const RENAMED: [(&str, &str); 2] = [("attendance", "attendance"), ("users", "auth")];

/// Under these names these files.
fn configure(place: &mut Place, databases: &[(&str, &str)]) {
    let listed: Vec<_> =
        databases.iter().map(|(name, file)| format!("{name}={}", place.live(file).display())).collect();
    place.unset("BACKUP_DATABASES").set("BACKUP_DATABASES", &listed.join(","));
}

/// `serve` with these while both are given a number; when that was so.
fn serves(place: &mut Place, databases: &[(&str, &str)], n: u64) -> DateTime<Utc> {
    configure(place, databases);
    let server = Server::start(place);
    ticked(place);
    let at = number(place, n);
    kill_server(server);
    at
}

fn begun() -> Place {
    let place = place("200ms");
    for name in ["attendance", "auth"] {
        place.sql(name, "CREATE TABLE stamps (n INTEGER)");
    }
    place.create();
    place
}

/// What is known of a database by itself.
fn known(place: &Place, name: &str) -> Timeline {
    timeline(place).of(&place.backups(), [&name.parse().unwrap()]).unwrap()
}

/// The gap of a database by itself.
fn own_gap(place: &Place, name: &str, at: DateTime<Utc>) -> Gap {
    let of_all = timeline(place).gaps;
    let gap = known(place, name).gaps.into_iter().find(|gap| gap.holds(at) && !of_all.contains(gap));
    gap.unwrap_or_else(|| panic!("{at} is known of {name}"))
}

/// It is refused, since only that one lacks it.
#[track_caller]
fn refused(place: &Place, at: DateTime<Utc>, name: &str, words: &[&str]) {
    let (at, only) = (text(at), format!("only `{name}` can't go back to it"));
    let words = [words, &[only.as_str(), "BACKUP_DATABASES"]].concat();
    for command in [&["preview", "--at", &at][..], &["restore", "--at", &at, "--confirm", &at]] {
        place.run(command).refused(1, &words);
    }
}

/// The last number that comes back of those that are configured.
fn restored(place: &Place, at: DateTime<Utc>, file: &str) -> u64 {
    let at = text(at);
    place.ok(&["restore", "--at", &at, "--confirm", &at]);
    sql_on(&place.live(file), "SELECT max(n) FROM stamps").parse().unwrap()
}

#[test]
fn what_nobody_looked_at_is_a_gap_of_that_database_alone() {
    let mut place = begun();
    let first = serves(&mut place, &BOTH, 1);
    let left = timeline(&place).alive.unwrap();
    let second = serves(&mut place, &ONE, 2);
    // It is asked for by its name.
    configure(&mut place, &BOTH);
    assert_eq!(known(&place, "auth").alive, Some(left));
    refused(&place, second, "auth", &["the journal reaches from", &text(left)]);
    assert_eq!(numbers_at(&place, left), [1, 1]);
    configure(&mut place, &ONE);
    assert_eq!(restored(&place, second, "attendance"), 2);

    let third = serves(&mut place, &BOTH, 3);
    let gap = own_gap(&place, "auth", second);
    assert!(gap.from == left && gap.to <= third && !gap.wrong, "{gap:?} of {left} to {third}");
    refused(&place, second, "auth", &["nothing was recorded after", &text(left), &text(gap.to)]);
    let recovery = place.json(&["status"])["recovery"].clone();
    let has = |name: &str| {
        let gaps = recovery[name]["gaps"].as_array().unwrap();
        gaps.iter().any(|it| it["from"] == text(left))
    };
    assert!(has("auth") && !has("attendance"), "{recovery}");
    for (at, numbers) in [(first, [1, 1]), (left, [1, 1]), (third, [3, 3])] {
        assert_eq!(numbers_at(&place, at), numbers, "{at}");
    }
    configure(&mut place, &ONE);
    assert_eq!(restored(&place, second, "attendance"), 2);
}

/// Whoever names more databases than the `serve` that runs finds nothing wrong with a journal that is right.
#[test]
fn a_rehearsal_of_one_that_nobody_looks_at_compares_nothing() {
    let mut place = begun();
    serves(&mut place, &BOTH, 1);
    configure(&mut place, &ONE);
    let server = Server::start(&place);
    ticked(&place);
    let at = number(&place, 2);
    ticked(&place);
    configure(&mut place, &BOTH);
    let journal = place.json(&["drill"])["journal"].clone();
    assert_eq!((&journal["ok"], &journal["written"]), (&true.into(), &false.into()), "{journal}");
    kill_server(server);
    assert!(!place.backups().join("journal/wrong").exists());
    configure(&mut place, &ONE);
    assert_eq!(restored(&place, at, "attendance"), 2);
}

/// The same file under another name is another database. Each is known as long as it has its name.
#[test]
fn a_database_under_another_name_and_back() {
    let mut place = begun();
    let first = serves(&mut place, &BOTH, 1);
    let second = serves(&mut place, &RENAMED, 2);
    let third = serves(&mut place, &BOTH, 3);
    refused(&place, second, "auth", &["nothing was recorded after"]);
    configure(&mut place, &RENAMED);
    refused(&place, third, "users", &["the journal reaches from"]);
    assert_eq!(restored(&place, second, "auth"), 2);
    configure(&mut place, &BOTH);
    for (at, numbers) in [(first, [1, 1]), (third, [3, 3])] {
        assert_eq!(numbers_at(&place, at), numbers, "{at}");
    }
}

/// As programs left it that noted nothing of single databases.
#[test]
fn of_one_that_left_without_a_note_what_came_after_its_last_state_is_not_known() {
    let mut place = begun();
    serves(&mut place, &BOTH, 1);
    let left = timeline(&place).alive.unwrap();
    for name in ["attendance", "auth"] {
        std::fs::remove_file(place.backups().join(format!("journal/{name}/timeline.json"))).unwrap();
    }
    let second = serves(&mut place, &ONE, 2);
    let third = serves(&mut place, &BOTH, 3);
    let gap = own_gap(&place, "auth", second);
    assert!(gap.from <= left && gap.to <= third, "{gap:?} of {left} to {third}");
    refused(&place, second, "auth", &["nothing was recorded after"]);
    for (at, numbers) in [(gap.from, [1, 1]), (third, [3, 3])] {
        assert_eq!(numbers_at(&place, at), numbers, "{at}");
    }
}

/// Lets `serve` die at the first such call, if it comes to that before a tick.
fn dies(place: &Place, spot: &Spot) {
    let mut command = place.faulty(spot, "signal=KILL:when=1", &["serve"]);
    let mut doomed = Doomed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the kill", || doomed.0.try_wait().unwrap());
}

/// At each step the old or the new is known, and never what nobody looked at.
#[test]
fn killed_while_it_notes_who_leaves_and_who_is_back() {
    let note = "journal/auth/.timeline.json.partial";
    let spots = ["write", "fsync", "rename"].map(|call| Spot::on(call, note));
    let spots: Vec<_> = spots.into_iter().chain([Spot::on("pwrite64", "journal/alive")]).collect();
    let mut kept = begun();
    let first = serves(&mut kept, &BOTH, 1);
    for (leaves, returns) in spots.iter().zip(spots.iter().rev()) {
        let mut place = kept.twin();
        configure(&mut place, &ONE);
        dies(&place, leaves);
        let second = serves(&mut place, &ONE, 2);
        configure(&mut place, &BOTH);
        refused(&place, second, "auth", &["the journal reaches from"]);
        dies(&place, returns);
        refused(&place, second, "auth", &[]);
        let third = serves(&mut place, &BOTH, 3);
        refused(&place, second, "auth", &["nothing was recorded after"]);
        for (at, numbers) in [(first, [1, 1]), (third, [3, 3])] {
            assert_eq!(numbers_at(&place, at), numbers, "{leaves} and {returns}: {at}");
        }
    }
}

#[test]
fn what_nobody_looked_at_is_a_gap_in_replicas_too() {
    let store = Store::s3();
    let mut place = shipping(&store);
    let mut sends = |databases: &[(&str, &str)], n| {
        configure(&mut place, databases);
        let server = Server::start(&place);
        let at = journal_replica::number(&place, n);
        kill_server(server);
        at
    };
    let [first, second, third] = [sends(&BOTH, 1), sends(&ONE, 2), sends(&BOTH, 3)];
    let machine = empty_machine(&place, &store);
    refused_at(&machine, second, &["nothing was recorded after"]);
    for (at, numbers) in [(first, [1, 1]), (third, [3, 3])] {
        assert_eq!(journal_replica::numbers_at(&machine, at), numbers, "{at}");
    }
    let listed: Value = machine.json(&["replica", "list", "offsite"])["journal"]["gaps"].clone();
    let holds = |gap: &Value| gap["from"].as_str() < Some(&text(second)) && gap["to"].as_str() > Some(&text(second));
    assert!(listed.as_array().unwrap().iter().any(holds), "{listed}");
}
