//! kill -9 at every call that changes the disk, of a restore of two databases and of the recovery from it, with and
//! without an app that has them open: both are old or both are new, and all of the old is in a backup [P6, P7, P10].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::client::Server;
use crate::harness::{Place, thoroughness};
use crate::inject::{Spot, spots};
use crate::restore_scene::{Identity, NAMES, Past, RESTORE, app, assert_goes_on, identities, write_meanwhile};
use crate::scene::{Context, Tally, assert_readers_change_nothing, report};

/// What the app does while the program is killed and is down.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    /// There is no app.
    Away,
    /// It has both databases open and does nothing.
    Idle,
    /// It has both open, and writes before the next operation.
    Writing,
    /// It comes, writes, and closes all.
    Passing,
}

const MEANWHILES: [Meanwhile; 4] = [Meanwhile::Away, Meanwhile::Writing, Meanwhile::Idle, Meanwhile::Passing];

/// Calls on the live databases: what a restore does there hides behind its other calls of the same kind.
fn live_spots() -> Vec<Spot> {
    let files = NAMES.into_iter().flat_map(|name| ["", "-wal", "-journal"].map(|end| format!("../{name}.db{end}")));
    let calls = ["pwrite64", "fsync", "fdatasync", "ftruncate", "unlink"];
    files.flat_map(|file| calls.map(|call| Spot::on(call, &file))).collect()
}

/// Whoever comes next: a command, or a service that is started and stopped.
fn recover(place: &Place, by_serving: bool) {
    if by_serving {
        Server::start(place).stop();
    } else {
        place.ok(&["create"]);
    }
}

/// One kill in a twin, and what must hold after it. Says which content is there; nothing when it was through before.
fn kill(past: &Past, spot: &Spot, n: usize, meanwhile: Meanwhile) -> Option<bool> {
    let context = Context(format!("a restore was ended at {spot} {n}; the app: {meanwhile:?}"));
    let place = past.twin();
    let before = identities(&place);
    let held = matches!(meanwhile, Meanwhile::Idle | Meanwhile::Writing).then(|| app(&place));
    let done = place.killed(spot, n, &RESTORE).then(|| settle(past, &place, &before, meanwhile, held, n));
    drop(context);
    done
}

fn settle(
    past: &Past,
    place: &Place,
    before: &[Identity],
    meanwhile: Meanwhile,
    mut held: Option<crate::app::App>,
    n: usize,
) -> bool {
    assert_readers_change_nothing(place);
    let seen = match (&mut held, meanwhile) {
        (Some(app), Meanwhile::Writing) => Some(write_meanwhile(app)),
        (None, Meanwhile::Passing) => {
            let mut passing = app(place);
            let seen = write_meanwhile(&mut passing);
            passing.end();
            Some(seen)
        }
        _ => None,
    };
    recover(place, n % 5 == 4);
    // What an idle app has open may hide what whoever opens it next would find.
    if let (Some(app), Meanwhile::Idle) = (held.take_if(|_| seen.is_none()), meanwhile) {
        app.kill();
    }
    let done = past.assert_settled(place, before, seen);
    if done && (n % 4 == 0 || seen.is_some_and(|seen| seen[0] != seen[1])) {
        past.assert_undone(place, seen);
    }
    if let Some(app) = held {
        assert_goes_on(app, place);
    }
    done
}

/// At every call when there is time; else at the first and every so many of a kind, with the app at this or that.
fn kill_everywhere(modes: [&'static str; 2]) {
    let past = Past::of(modes);
    let stride = if thoroughness() >= 2 { 1 } else { 17 };
    let each = if thoroughness() >= 10 { MEANWHILES.len() } else { 1 };
    let (mut tallies, mut turn) = (BTreeMap::new(), 0);
    for spot in spots(&[]).into_iter().chain(live_spots()) {
        let mut tally = Tally::default();
        let mut n = 1;
        'through: loop {
            for _ in 0..each {
                let Some(done) = kill(&past, &spot, n, MEANWHILES[turn % MEANWHILES.len()]) else { break 'through };
                turn += 1;
                tally.count(done);
            }
            n += stride;
        }
        tallies.insert(spot.to_string(), tally);
    }
    report(&format!("restore over {modes:?}"), &tallies);
}

#[test]
fn a_restore_that_is_killed_over_two_in_wal_mode() {
    kill_everywhere(["wal", "wal"]);
}

#[test]
fn a_restore_that_is_killed_over_two_in_rollback_mode() {
    kill_everywhere(["delete", "delete"]);
}

#[test]
fn a_restore_that_is_killed_over_one_of_each_mode() {
    kill_everywhere(["wal", "delete"]);
}
