//! A restore on a disk that is full or fails, stopped, interrupted, and cut off from its power: old or new, the same in
//! both databases, and what is said of it is true [P6, P7, P10].

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use serde_json::Value;

use crate::disk_full::{mount, run_in_namespace};
use crate::harness::{Place, Run, thoroughness};
use crate::inject::{Spot, goes_on};
use crate::restore_scene::{ID, NAMES, Past, RESTORE, app, assert_goes_on, assert_settled_files, identities};
use crate::tried::Tried;

/// Calls that fail, and with what.
const FAILING: [(&str, &str); 5] =
    [("pwrite64", "ENOSPC"), ("ftruncate", "ENOSPC"), ("pread64", "EIO"), ("fsync", "EIO"), ("fdatasync", "EIO")];

/// How the faulty restores of one kind came out.
#[derive(Default)]
struct Tally {
    tried: usize,
    done: usize,
    unsettled: usize,
    refused: usize,
}

impl Tally {
    fn add(&mut self, one: &Tally) {
        self.tried += one.tried;
        self.done += one.done;
        self.unsettled += one.unsettled;
        self.refused += one.refused;
    }
}

/// One faulty restore in a twin, and what must hold after it. Nothing when it made too few calls for the fault.
fn strike(past: &Past, spot: &Spot, effect: &str) -> Option<Tally> {
    let place = past.twin();
    let (before, log) = (identities(&place), place.path("strace"));
    let run = Run::of(place.faulty_into(&log, spot, effect, &RESTORE).output().unwrap());
    if !std::fs::read_to_string(&log).unwrap().contains("(INJECTED)") {
        return None;
    }
    if run.code == 127 {
        // It has struck whoever loads the program.
        return Some(Tally::default());
    }
    let context = crate::scene::Context(format!("{effect} at {spot}: {} {}{}", run.code, run.stdout, run.stderr));
    assert!([0, 1].contains(&run.code) && !run.stderr.contains("panicked"));
    // Opened by another program after all have closed it: what a failed commit has left would be played in here.
    let (is_new, _) = past.found(&place);
    let unsettled = run.stderr.contains("is not settled");
    if !unsettled {
        assert_eq!(is_new[0], is_new[1], "it doesn't say that they differ");
        assert_eq!(run.code == 0 || run.stderr.contains("was restored"), is_new[0], "what it says is not what it did");
    }
    let says_unchanged = run.stderr.to_lowercase().contains("nothing was changed");
    assert!(!says_unchanged || !unsettled && is_new == [false, false], "something was changed");
    let told = restores(&place);
    assert!(
        told.first().is_none_or(|line| line["ok"] == (run.code == 0) && (run.code == 0 || !line["code"].is_null()))
    );
    place.ok(&["create"]);
    let done = past.assert_whole(&place, &before, None);
    assert!(unsettled || done == is_new[0], "the next operation has changed it");
    if unsettled {
        assert_told_later(&place, done);
    }
    drop(context);
    let refused = usize::from(run.code != 0);
    Some(Tally { tried: 1, done: usize::from(done), unsettled: usize::from(unsettled), refused })
}

/// The outcomes of restores.
fn restores(place: &Place) -> Vec<Value> {
    place.audit().into_iter().filter(|line| line["kind"] == "outcome" && line["operation"] == "restore").collect()
}

/// What became of a restore that had ended unsettled is in the audit log too.
fn assert_told_later(place: &Place, done: bool) {
    let lines = place.audit();
    let settled = |line: &&Value| line["operation"] == "restore" && !line["details"]["recoveredBy"].is_null();
    let told = lines.iter().rfind(settled).unwrap_or_else(|| panic!("it is not told what became of the restore"));
    assert_eq!((&told["ok"], &told["id"]), (&done.into(), &ID.into()), "{told}");
}

/// The files that SQLite writes in each mode.
pub fn live_files(modes: [&str; 2]) -> Vec<String> {
    let beside = |mode: &str| if mode == "wal" { "-wal" } else { "-journal" };
    let files = NAMES.into_iter().zip(modes);
    files.flat_map(|(name, mode)| ["", beside(mode)].map(|end| format!("../{name}.db{end}"))).collect()
}

fn strike_everywhere(modes: [&'static str; 2]) {
    let past = Past::of(modes);
    let (stride, ways) = match thoroughness() {
        1 => (23, 1),
        2..10 => (5, 2),
        _ => (1, 2),
    };
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for (turn, (call, error)) in FAILING.into_iter().enumerate() {
        let live = live_files(modes).into_iter().map(|file| Spot::on(call, &file));
        for (offset, spot) in std::iter::once(Spot::anywhere(call)).chain(live).enumerate() {
            for ever in ["", "+"].into_iter().cycle().skip(turn + offset).take(ways) {
                let tally = tallies.entry(format!("{error}{ever} at {spot}")).or_default();
                // Of the few syncs of the live files each decides something else.
                let stride = if call == "fsync" && spot.path.is_some() { 1 } else { stride };
                let mut n = 1 + if stride > 5 { (turn * 5 + offset * 3) % 7 } else { 0 };
                if n > 1 && strike(&past, &spot, &format!("error={error}:when={n}{ever}")).is_none() {
                    n = 1;
                }
                while let Some(struck) = strike(&past, &spot, &format!("error={error}:when={n}{ever}")) {
                    tally.add(&struck);
                    n += stride;
                }
            }
        }
    }
    println!(
        "restore over {modes:?} with an error at a call (+: and ever after): tried, old, new, unsettled until the next"
    );
    for (kind, Tally { tried, done, unsettled, refused }) in tallies.iter().filter(|(_, tally)| tally.tried > 0) {
        println!("  {kind:<50} {tried:>5} {:>5} {done:>5} {unsettled:>5}", tried - done);
        let fault = kind.split(" at ").next().unwrap();
        Tried::of(*tried, *done, *refused).report_error(&format!("restore over {modes:?}"), fault);
    }
    let all = |count: fn(&Tally) -> usize| tallies.values().map(count).sum::<usize>();
    println!(
        "  {:<50} {:>5} {:>5} {:>5}",
        "in all",
        all(|it| it.tried),
        all(|it| it.tried - it.done),
        all(|it| it.done)
    );
    assert!(all(|it| it.tried - it.done) > 0, "no fault ever mattered");
}

#[test]
fn a_restore_with_faults_in_wal_mode() {
    strike_everywhere(["wal", "wal"]);
}

#[test]
fn a_restore_with_faults_in_rollback_mode() {
    strike_everywhere(["delete", "delete"]);
}

#[test]
fn a_restore_with_faults_in_one_of_each_mode() {
    strike_everywhere(["wal", "delete"]);
}

/// Frames of a commit that failed lie behind the last that counts: whoever opens it next must not find them.
#[test]
fn a_restore_whose_commit_faults_is_not_played_in_later() {
    let past = Past::of(["wal", "wal"]);
    let place = past.twin();
    // The first sync of a new WAL is that of its header.
    let sync = Spot::on("fsync", "../attendance.db-wal");
    let run = Run::of(place.faulty(&sync, "error=EIO:when=2", &RESTORE).output().unwrap());
    run.refused(1, &["writing the live database `attendance` failed", "look at the disk"]);
    assert_settled_files(&place);
    assert_eq!(past.found(&place), ([false; 2], [false; 2]));
    assert_eq!((&restores(&place)[0]["ok"], &restores(&place)[0]["code"]), (&false.into(), &"live-io".into()));
}

/// Both are committed, and something else fails then: it is not said that nothing came of it.
#[test]
fn a_restore_whose_reading_back_faults_says_that_it_was_done() {
    let past = Past::of(["delete", "delete"]);
    for (call, path) in [("ftruncate", "../attendance.db"), ("unlink", "restore.json")] {
        let place = past.twin();
        let run = Run::of(place.faulty(&Spot::on(call, path), "error=EIO", &RESTORE).output().unwrap());
        let (is_new, _) = past.found(&place);
        assert_eq!((run.code == 0, is_new), (is_new[0], [is_new[0]; 2]), "{call} of {path}: {}", run.stderr);
        place.ok(&["create"]);
        past.assert_whole(&place, &identities(&place), None);
    }
}

/// What it has written can't be read back: the data is changed all the same, and it is this restore that an undo takes back, not the one
/// before it [P7].
#[test]
fn a_restore_that_reads_back_wrong_is_the_one_that_is_undone() {
    let before = Past::of(["wal", "wal"]).twin();
    before.ok(&RESTORE);
    before.sql("attendance", "INSERT INTO people (name) VALUES ('since then')");
    let since = |place: &Place| place.sql("attendance", "SELECT count(*) FROM people WHERE name = 'since then'");
    for more in [&[][..], &["--offline"]] {
        let args = [&RESTORE[..], more].concat();
        let read = Spot::on("pread64", "../attendance.db");
        let (place, run) = (1..400)
            .map(|n| {
                let place = before.twin();
                let run = Run::of(place.faulty(&read, &format!("error=EIO:when={n}"), &args).output().unwrap());
                (place, run)
            })
            .find(|(place, run)| run.code == 1 && since(place) == "0")
            .expect("what was written is read back");
        let made = place.ids().into_iter().find(|id| id.starts_with("pre-restore")).unwrap();
        run.refused(1, &["`attendance` was restored", "it can't be read back", &made, "`undo` brings it back"]);
        let told = restores(&place).pop().unwrap();
        assert_eq!((&told["code"], &told["details"]["preRestore"]), (&"read-back".into(), &made.into()), "{told}");
        place.ok(&[&["undo"], more].concat());
        assert_eq!(since(&place), "1", "another restore was undone");
        place.assert_whole();
    }
}

/// Asked to end, it is old at once, or new when it was past the commits; nothing is left to the next operation.
#[test]
fn a_restore_that_is_interrupted_ends_old_or_new() {
    let mut seen = [0, 0];
    for modes in [["wal", "wal"], ["delete", "delete"]] {
        let past = Past::of(modes);
        let [_, first, _, last] = live_files(modes).try_into().unwrap();
        let last_commit = if modes[1] == "wal" { "../auth.db-wal".to_owned() } else { "../auth.db".to_owned() };
        let spots = [
            (Spot::anywhere("fsync"), 2),
            (Spot::anywhere("renameat2"), 1),
            (Spot::on("pwrite64", &first), 4),
            (Spot::on("pwrite64", &last), 3),
            (Spot::on("fsync", &last_commit), if modes[1] == "wal" { 2 } else { 1 }),
            (Spot::anywhere("fdatasync"), 2),
        ];
        for (spot, n) in spots {
            let place = past.twin();
            let before = identities(&place);
            let run = Run::of(place.faulty(&spot, &format!("signal=TERM:when={n}"), &RESTORE).output().unwrap());
            let context = crate::scene::Context(format!("{modes:?}, interrupted at {spot} {n}: {}", run.stderr));
            assert_settled_files(&place);
            let (is_new, _) = past.found(&place);
            assert_eq!(is_new, [run.code == 0; 2]);
            assert!(run.code == 0 || run.stderr.contains("cancelled"));
            assert_eq!(past.assert_settled(&place, &before, None), run.code == 0);
            seen[usize::from(run.code == 0)] += 1;
            drop(context);
        }
    }
    println!("interrupted: old, new: {seen:?}");
    Tried::of(seen[0] + seen[1], seen[1], seen[0]).report("restore", "SIGTERM");
    assert!(seen[0] >= 4 && seen[1] >= 2, "old, new: {seen:?}");
}

/// Stopped for ten seconds with its locks held, it keeps the app out at worst, and then begins anew.
#[test]
fn a_restore_that_is_stopped_for_long_faults_nothing() {
    for modes in [["wal", "wal"], ["delete", "delete"]] {
        let past = Past::of(modes);
        let place = past.twin();
        let before = identities(&place);
        let mut held = app(&place);
        let file = &live_files(modes)[1];
        let (child, pid) = place.stopped(&Spot::on("pwrite64", file), 4, &RESTORE).unwrap();
        for _ in 0..20 {
            for (at, sql) in ["SELECT count(*) FROM people", "SELECT count(*) FROM users"].into_iter().enumerate() {
                let read = held.sql(at, sql);
                assert!(!read.starts_with("error") || modes[at] != "wal" && read.contains("locked"), "{read}");
                let written = held.sql(at, "BEGIN IMMEDIATE");
                assert_eq!(written, "error: database is locked");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        let run = goes_on(child, &pid);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(past.assert_settled(&place, &before, None));
        assert_goes_on(held, &place);
    }
}

/// The disk of the live databases is full to the last byte: the restore is refused before it has touched them. (The backup
/// directory is a disk of its own.)
#[test]
fn a_restore_onto_a_full_disk_is_refused() {
    let test = "restore_faults::a_restore_onto_a_full_disk_is_refused";
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        run_in_namespace(test);
        return;
    }
    for modes in [["wal", "wal"], ["delete", "delete"]] {
        let place = Place::empty();
        for (name, size) in [("", "3m"), ("backups", "64m")] {
            std::fs::create_dir_all(place.path(name)).unwrap();
            let options = format!("size={size},mode=0700");
            mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], &place.path(name));
        }
        let past = Past::at(place, modes);
        let place = &past.scene.place;
        let before = identities(place);
        let full = || {
            let mut filler = std::fs::File::create(place.path("filler")).unwrap();
            assert!(std::io::copy(&mut std::io::repeat(0).take(1 << 30), &mut filler).is_err());
            place.run(&RESTORE).refused(1, &["the disk", "is full", "make room there"]);
            let told = restores(place);
            let told = told.last().unwrap();
            assert_eq!((&told["ok"], &told["code"]), (&false.into(), &"disk-full".into()));
            std::fs::remove_file(place.path("filler")).unwrap();
        };
        // Without an app there isn't even room for what SQLite makes beside a database to read it.
        full();
        let held = app(place);
        full();
        held.end();
        assert!(!past.assert_settled(place, &before, None));
        place.ok(&RESTORE);
        assert!(past.assert_whole(place, &before, None));
    }
}
