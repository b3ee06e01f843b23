//! What a WAL that was begun anew leaves open: the pages that it likely names are taken for all, until all are compared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use attendance_backup::backup::DatabaseName;
use attendance_backup::clock::Clock;
use attendance_backup::journal::capture::{Capture, Options, Tick, Track};
use attendance_backup::journal::timeline::Keeper;
use attendance_backup::journal::{Error, Journal};
use attendance_backup::sqlite::{Control, Source};
use chrono::{DateTime, Utc};

use crate::app::App;
use crate::harness::{Place, sql_on_copy};
use crate::journal_live::{live, rebuilt};

/// Bytes of a WAL with that many frames (sqlite.org/fileformat2.html, section 4.1).
const fn wal(frames: u64) -> u64 {
    32 + frames * (24 + 4096)
}

/// A journal that is written when it is told to, and its clock.
struct Scene {
    place: Place,
    app: App,
    /// Rows, a page each.
    written: u64,
    capture: Capture,
    millis: Arc<AtomicI64>,
}

impl Scene {
    fn new(setup: &str) -> Self {
        let place = Place::new();
        let name: DatabaseName = "attendance".parse().unwrap();
        let mut app = App::on(&[&place.live("attendance")]);
        app.ok(0, "PRAGMA wal_checkpoint(TRUNCATE)");
        let table = "CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)";
        let rows = "INSERT INTO rows (text) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
                    SELECT 'old' || hex(randomblob(1500)) FROM n";
        for statement in ["PRAGMA wal_autocheckpoint=0", table, rows, "PRAGMA wal_checkpoint(TRUNCATE)", setup] {
            app.ok(0, statement);
        }
        std::fs::create_dir_all(place.backups()).unwrap();
        let (keeper, journal) = (
            Keeper::open(&place.backups(), [&name], &BTreeMap::new()).unwrap(),
            Journal::open(&place.backups(), &name).unwrap(),
        );
        let track = Track::new(Source { name, path: place.live("attendance") }, journal, None);
        let seconds = Duration::from_secs;
        let options = Options {
            patience: seconds(5),
            rollback_hold: seconds(3),
            longest: seconds(3600),
            compare_every: seconds(600),
        };
        let millis = Arc::new(AtomicI64::new(1_800_000_000_000));
        Self { place, app, written: 0, capture: Capture::new(vec![track], keeper, options), millis }
    }

    /// So many seconds later.
    fn tick(&mut self, later: i64) -> (DateTime<Utc>, Tick) {
        let tick = self.look(later).unwrap();
        (tick.at.unwrap(), tick)
    }

    fn look(&mut self, later: i64) -> Result<Tick, Error> {
        self.millis.fetch_add(later * 1000, Ordering::Relaxed);
        let millis = Arc::clone(&self.millis);
        let clock = Clock::from_fn(move || DateTime::from_timestamp_millis(millis.load(Ordering::Relaxed)).unwrap());
        self.capture.tick(&clock, &|| false, false, &Control::default())
    }

    /// Commits of a frame each until the WAL has so many.
    fn fill(&mut self, frames: u64) {
        let path = self.place.path("attendance.db-wal");
        let len = || std::fs::metadata(&path).map_or(0, |meta| meta.len());
        while len() < wal(frames) {
            self.write();
        }
        assert_eq!(len(), wal(frames));
    }

    fn write(&mut self) {
        self.written += 1;
        assert!(self.written <= 500);
        let sql = format!("UPDATE rows SET text = 'new' || hex(randomblob(1500)) WHERE id = {}", self.written);
        self.app.ok(0, &sql);
    }

    /// The app fills its WAL to 300 frames and `more` between two looks, and begins it anew.
    fn reset(&mut self, more: u64) -> (DateTime<Utc>, Tick) {
        self.tick(1);
        self.fill(290);
        self.tick(1);
        self.fill(300 + more);
        self.app.ok(0, "PRAGMA wal_checkpoint(FULL)");
        self.write();
        self.tick(1)
    }

    /// How many of the rows that were written the journal knows.
    fn known(&self, at: DateTime<Utc>) -> u64 {
        let path = self.place.path("rebuilt.db");
        std::fs::write(&path, rebuilt(&self.place, "attendance", at)).unwrap();
        sql_on_copy(&path, "SELECT count(*) FROM rows WHERE text LIKE 'new%'").trim().parse().unwrap()
    }
}

fn missed(tick: &Tick) -> Vec<u64> {
    tick.written.iter().map(|written| written.missed).collect()
}

#[test]
fn what_it_likely_names_is_all() {
    let mut scene = Scene::new("PRAGMA journal_size_limit=-1");
    let (at, tick) = scene.reset(50);
    assert_eq!((missed(&tick), scene.known(at)), (vec![0], scene.written));
    assert_eq!(tick.written[0].pages, 61);
    scene.write();
    let (at, tick) = scene.tick(601);
    assert_eq!(missed(&tick), [0]);
    assert!(rebuilt(&scene.place, "attendance", at) == live(&scene.place, "attendance"));
}

/// What the app wrote between two looks is gone with the part that was cut off, and what it wrote since is as long as what was known.
#[test]
fn a_wal_that_was_cut_is_not_taken_for_all() {
    for (setup, checkpoint) in [("PRAGMA journal_size_limit=-1", "TRUNCATE"), ("PRAGMA journal_size_limit=0", "FULL")] {
        let mut scene = Scene::new(setup);
        scene.fill(3);
        scene.tick(1);
        scene.fill(20);
        scene.app.ok(0, &format!("PRAGMA wal_checkpoint({checkpoint})"));
        (0..3).for_each(|_| scene.write());
        let (at, _) = scene.tick(1);
        assert_eq!(scene.known(at), scene.written, "{setup}");
        assert!(rebuilt(&scene.place, "attendance", at) == live(&scene.place, "attendance"), "{setup}");
    }
}

/// An app that lets SQLite cut its WAL exactly behind a frame, and that within a second writes beyond that and begins anew.
#[test]
fn where_it_does_not_it_is_found_out() {
    let mut scene = Scene::new(&format!("PRAGMA journal_size_limit={}", wal(300)));
    let (at, tick) = scene.reset(50);
    assert_eq!(missed(&tick), [0], "nobody can know it yet");
    assert!(scene.known(at) < scene.written);
    scene.write();
    assert_eq!(missed(&scene.tick(300).1), [0]);
    scene.write();
    let (at, tick) = scene.tick(301);
    assert_eq!(missed(&tick), [50]);
    assert!(rebuilt(&scene.place, "attendance", at) == live(&scene.place, "attendance"));
}

/// The disk takes the file that shows it, and not the gap that comes after that.
#[test]
fn what_was_found_out_is_told_though_that_look_failed() {
    let mut scene = Scene::new(&format!("PRAGMA journal_size_limit={}", wal(300)));
    scene.reset(50);
    scene.write();
    let in_the_way = scene.place.backups().join("journal/timeline.json");
    let _ = std::fs::remove_file(&in_the_way);
    std::fs::create_dir_all(in_the_way.join("in the way")).unwrap();
    assert!(scene.look(3601).is_err());
    assert!(scene.look(1).is_err());
    std::fs::remove_dir_all(&in_the_way).unwrap();
    let (_, tick) = scene.tick(1);
    assert_eq!((missed(&tick), tick.gap.is_some()), (vec![50], true));
    assert!(scene.tick(1).1.written.is_empty(), "it is told once");
}
