use std::path::PathBuf;

use super::*;
use crate::sqlite::page_set::{Comparison, New};
use crate::sqlite::pages::read_back_through;

const WAIT: Duration = Duration::from_millis(200);

struct Scene {
    _dir: tempfile::TempDir,
    live: Source,
    copy: PathBuf,
}

impl Scene {
    /// A live database made by `before`, a finished copy of it, and `since` done to the live one after that.
    fn new(before: &str, since: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("live.db");
        let copy = dir.path().join("copy.db");
        // The last to close leaves no WAL behind.
        app(&path).execute_batch(before).unwrap();
        std::fs::copy(&path, &copy).unwrap();
        app(&path).execute_batch(since).unwrap();
        Self { _dir: dir, live: Source { name: "attendance".parse().unwrap(), path }, copy }
    }

    fn restore(&self) -> (ReadBack, u64) {
        let control = Control::default();
        let targets = [Target::open(&self.live, WAIT, &control).unwrap()];
        let target = &targets[0];
        let copy = File::open(&self.copy).unwrap();
        let all = (0..copy.metadata().unwrap().len() / u64::from(target.kind.page_size)).fold(
            PageSet::default(),
            |mut set, page| {
                set.insert(page as u32 + 1);
                set
            },
        );
        let locked = Locked::take(&targets, WAIT, &control).unwrap();
        target.has_moved().unwrap();
        let mark = target.draw_mark().unwrap();
        let written = target.write((&copy, &self.copy), &all, mark, || Ok(())).unwrap();
        locked.commit().unwrap();
        assert!(target.is_marked(mark, WAIT, &control).unwrap());
        (target.read_back((&copy, &self.copy), WAIT, &control).unwrap(), written)
    }

    fn assert_restored(&self, app: &Connection) {
        let ok: String = app.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(ok, "ok");
        // In WAL mode the main file gets its new length by a checkpoint.
        let _ = app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        let bytes = [&self.live.path, &self.copy].map(|path| std::fs::read(path).unwrap());
        assert_eq!(bytes[0].len(), bytes[1].len());
        let size: u32 = app.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
        for (number, (live, copy)) in bytes[0].chunks(size as usize).zip(bytes[1].chunks(size as usize)).enumerate() {
            assert!(is_same(number as u32 + 1, live, copy), "page {}", number + 1);
        }
    }
}

#[allow(clippy::disallowed_methods)]
fn app(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO marks (text) SELECT printf('%0200d', i) FROM n;";

#[test]
fn whatever_the_mode_the_page_size_and_the_vacuum_the_app_goes_on() {
    for mode in ["wal", "delete", "truncate", "persist"] {
        for size in [512, 4096, 65536] {
            for vacuum in ["none", "full", "incremental"] {
                let setup = format!(
                    "PRAGMA page_size={size}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode={mode};
                     CREATE TABLE marks (id INTEGER PRIMARY KEY, text TEXT); CREATE INDEX by_text ON marks (text);"
                );
                let grown = format!("{setup}{FILL}");
                for (before, since) in [
                    (
                        grown.as_str(),
                        "DELETE FROM marks WHERE id > 10; DROP INDEX by_text; VACUUM; PRAGMA user_version=8",
                    ),
                    (setup.as_str(), FILL),
                    (grown.as_str(), "UPDATE marks SET text = 'x' WHERE id = 7; CREATE TABLE more (a)"),
                ] {
                    let scene = Scene::new(before, since);
                    let app = app(&scene.live.path);
                    // Only WAL lies in the file; the others are each connection's own.
                    app.execute_batch(&format!("PRAGMA journal_mode={mode}")).unwrap();
                    let mut count = app.prepare("SELECT count(*), total(id) FROM marks").unwrap();
                    let mut counted = || count.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
                    let first: (i64, f64) = counted();
                    assert_eq!(scene.restore().0, ReadBack::Same, "{mode} {size} {vacuum}");
                    let then = counted();
                    assert!(first != then || since.contains("UPDATE"));
                    scene.assert_restored(&app);
                    let now: String = app.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
                    assert_eq!(now, mode);
                    app.execute("INSERT INTO marks (text) VALUES ('after')", []).unwrap();
                    assert_eq!(counted().0, then.0 + 1);
                }
            }
        }
    }
}

/// The backup's pages count, also where the live database would move them by its own rules when it commits.
#[test]
fn whatever_vacuums_itself_holds_the_backup_afterwards() {
    let modes = ["none", "full", "incremental"];
    for (before, now) in modes.into_iter().flat_map(|before| modes.map(|now| (before, now))) {
        for journal in ["wal", "delete"] {
            for rows in [10, 2990, 6000] {
                let setup = format!(
                    "PRAGMA auto_vacuum={before}; PRAGMA journal_mode={journal};
                     CREATE TABLE marks (id INTEGER PRIMARY KEY, text TEXT); {FILL} DELETE FROM marks WHERE id % 3 = 0"
                );
                let since = format!(
                    "PRAGMA journal_mode=delete; PRAGMA auto_vacuum={now}; VACUUM; PRAGMA journal_mode={journal};
                     {FILL} DELETE FROM marks WHERE id > {rows}"
                );
                let scene = Scene::new(&setup, &since);
                let app = app(&scene.live.path);
                assert_eq!(scene.restore().0, ReadBack::Same, "{before} {now} {journal} {rows}");
                scene.assert_restored(&app);
                app.execute_batch("DELETE FROM marks WHERE id < 100; INSERT INTO marks (text) VALUES ('after')")
                    .unwrap();
                let ok: String = app.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
                assert_eq!(ok, "ok", "{before} {now} {journal} {rows}");
            }
        }
    }
}

/// Between the snapshot and the lock the app may write whatever it likes.
#[test]
fn what_came_since_the_snapshot_is_in_the_copy_and_hides_no_page() {
    use crate::backup::CheckKind;
    use crate::clock::Clock;
    use crate::disk::Partial;
    use crate::sqlite::catch_up::catch_up;
    use crate::sqlite::snapshot::{Instead, Options, take};
    let setup = format!(
        "PRAGMA auto_vacuum=full; PRAGMA journal_mode=wal; CREATE TABLE marks (id INTEGER PRIMARY KEY, text TEXT); {FILL}"
    );
    for meanwhile in ["DELETE FROM marks WHERE id > 100", "UPDATE marks SET text = 'y' WHERE id % 50 = 0", FILL] {
        // The ends of the backup and of the snapshot are the same.
        let scene = Scene::new(&setup, "UPDATE marks SET text = 'x' WHERE id = 7");
        let (control, target) = (Control::default(), scene.copy.with_file_name("snapshot.db"));
        let targets = [Target::open(&scene.live, WAIT, &control).unwrap()];
        targets[0].watch(WAIT, &control).unwrap();
        let options = Options {
            check: CheckKind::Quick,
            lock_timeout: WAIT,
            rollback_hold: WAIT,
            corrupt_too: false,
            corrupt_as_partial: false,
        };
        let partials = vec![Partial::create(&target).unwrap()];
        let file = File::open(&scene.copy).unwrap();
        let both = (&file, scene.copy.as_path());
        let live = &scene.live;
        let instead = Instead::from([(&live.name, New { file: &file, path: &scene.copy, page_size: 4096 })]);
        let mut snapshot =
            take(std::slice::from_ref(live), partials, &instead, &options, &Clock::system(), &control).unwrap();
        let snapped = &mut snapshot.copies[0];
        let mut changed = snapped.difference.take().unwrap().pages;
        assert!(changed.len() < 5);
        app(&scene.live.path).execute_batch(meanwhile).unwrap();
        let expected: i64 = app(&scene.live.path)
            .query_row("SELECT total(unicode(text)) + count(*) FROM marks", [], |row| row.get(0))
            .map(|sum: f64| sum as i64)
            .unwrap();
        let locked = Locked::take(&targets, WAIT, &control).unwrap();
        assert!(targets[0].has_moved().unwrap());
        let brought = catch_up(&targets[0].connection(), snapped, &control, || ()).unwrap();
        changed.extend(&brought.settle(snapped).unwrap());
        let mark = targets[0].draw_mark().unwrap();
        targets[0].write(both, &changed, mark, || Ok(())).unwrap();
        locked.commit().unwrap();
        assert_eq!(targets[0].read_back(both, WAIT, &control).unwrap(), ReadBack::Same, "{meanwhile}");
        scene.assert_restored(&app(&scene.live.path));
        let copy = open_finished(snapped.partial.path()).unwrap();
        let held: f64 =
            copy.query_row("SELECT total(unicode(text)) + count(*) FROM marks", [], |row| row.get(0)).unwrap();
        assert_eq!(held as i64, expected, "{meanwhile}");
        let bytes = std::fs::read(snapped.partial.path()).unwrap();
        assert_eq!(bytes.len() as u64, snapped.content.size());
        assert_eq!(crate::backup::hex(&<sha2::Sha256 as sha2::Digest>::digest(&bytes)), snapped.content.checksum);
    }
}

#[test]
fn what_others_commit_after_the_restore_is_no_damage() {
    let setup = format!("PRAGMA journal_mode=wal; CREATE TABLE marks (id INTEGER PRIMARY KEY, text TEXT); {FILL}");
    let scene = Scene::new(&setup, "DELETE FROM marks");
    let control = Control::default();
    let targets = [Target::open(&scene.live, WAIT, &control).unwrap()];
    let copy = File::open(&scene.copy).unwrap();
    let live = File::open(&scene.live.path).unwrap();
    let mut comparison = Comparison::with(New { file: &copy, path: &scene.copy, page_size: 4096 });
    read_back_through(&live, &scene.live.path, &control, |it| comparison.old(it).unwrap()).unwrap();
    let changed = comparison.end(&control).unwrap().pages;
    let locked = Locked::take(&targets, WAIT, &control).unwrap();
    targets[0].has_moved().unwrap();
    let mark = targets[0].draw_mark().unwrap();
    targets[0].write((&copy, &scene.copy), &changed, mark, || Ok(())).unwrap();
    locked.commit().unwrap();
    app(&scene.live.path).execute("DELETE FROM marks WHERE id = 5", []).unwrap();
    assert_eq!(targets[0].read_back((&copy, &scene.copy), WAIT, &control).unwrap(), ReadBack::Overtaken);
}

#[test]
fn what_is_not_committed_leaves_no_trace() {
    for mode in ["wal", "delete"] {
        let setup =
            format!("PRAGMA journal_mode={mode}; CREATE TABLE marks (id INTEGER PRIMARY KEY, text TEXT); {FILL}");
        let scene = Scene::new(&setup, "DELETE FROM marks WHERE id > 9");
        let control = Control::default();
        let targets = [Target::open(&scene.live, WAIT, &control).unwrap()];
        let copy = File::open(&scene.copy).unwrap();
        let all = (1..100).fold(PageSet::default(), |mut set, page| {
            set.insert(page);
            set
        });
        let locked = Locked::take(&targets, WAIT, &control).unwrap();
        let mark = targets[0].draw_mark().unwrap();
        targets[0].write((&copy, &scene.copy), &all, mark, || Ok(())).unwrap();
        drop(locked);
        assert!(!targets[0].is_marked(mark, WAIT, &control).unwrap());
        let rows: i64 = app(&scene.live.path).query_row("SELECT count(*) FROM marks", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 9);
        // A cancelled one stops where it is asked to.
        let locked = Locked::take(&targets, WAIT, &control).unwrap();
        let stopped = targets[0].write((&copy, &scene.copy), &all, mark, || Err(Error::Cancelled));
        assert!(matches!(stopped, Err(Error::Cancelled)));
        drop(locked);
        assert_eq!(rows, 9);
    }
}

#[test]
fn a_mark_is_known_again_whatever_the_app_does_to_its_schema() {
    for before in [0, 5, u32::MAX - 3] {
        let mark = Mark::draw(before).unwrap();
        for by_the_app in [0, 1, 30_000] {
            assert!(!mark.is_borne(before.wrapping_add(by_the_app)));
            assert!(mark.is_borne(mark.after.wrapping_add(by_the_app)));
        }
    }
}

#[test]
fn a_writer_that_never_ends_is_waited_for_and_named() {
    let scene = Scene::new("PRAGMA journal_mode=wal; CREATE TABLE marks (id INTEGER PRIMARY KEY);", "");
    let control = Control::default();
    let targets = [Target::open(&scene.live, WAIT, &control).unwrap()];
    let other = app(&scene.live.path);
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO marks VALUES (1)").unwrap();
    assert!(matches!(Locked::take(&targets, WAIT, &control), Err(Error::Locked { .. })));
    other.execute_batch("COMMIT").unwrap();
    assert!(targets[0].has_moved().unwrap());
    drop(Locked::take(&targets, WAIT, &control).unwrap());
}
