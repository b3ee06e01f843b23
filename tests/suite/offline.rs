//! Restoring while the app is stopped: whole files take the place of others.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use serde_json::Value;

use crate::app::App;
use crate::client::Server;
use crate::harness::{PROGRAM, Place, Run, eventually, sql_on, thoroughness};
use crate::inject::{Spot, spots};
use crate::restore_crash::{kill_recovery, rare};
use crate::scene::report;
use crate::tried::Tried;

fn backup(place: &Place) -> String {
    let run = place.run(&["create", "--json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str::<Value>(&run.stdout).unwrap()["id"].as_str().unwrap().to_owned()
}

/// By which somebody vouches for what can't be seen.
const WORD: &str = "--app-is-stopped";
/// What half a restore waits for then.
const AGAIN: &str = "stop the app, and restore once more with --offline --app-is-stopped";

fn offline(place: &Place, id: &str, more: &[&str]) -> Run {
    place.run(&[&["restore", id, "--confirm", id, "--offline", "--json"], more].concat())
}

fn rows(place: &Place, database: &str, table: &str) -> String {
    place.sql(database, &format!("SELECT count(*) FROM {table}"))
}

fn ok(place: &Place) {
    for database in ["attendance", "auth"] {
        assert_eq!(place.sql(database, "PRAGMA integrity_check"), "ok", "{database}");
    }
    for left in ["backups/restore.json", "backups/restoring", ".attendance.db.partial", ".auth.db.partial"] {
        assert!(!place.path(left).exists(), "{left}");
    }
    place.assert_whole();
}

#[test]
fn another_page_size_wants_the_app_stopped_and_then_comes() {
    let place = Place::new();
    let id = backup(&place);
    place.sql(
        "attendance",
        "DELETE FROM people; PRAGMA journal_mode=delete; PRAGMA page_size=8192; VACUUM; PRAGMA journal_mode=wal",
    );
    let before = place.path("attendance.db").metadata().unwrap();
    let preview = place.ok(&["preview", &id]).stdout;
    assert!(preview.contains("a restore would be refused") && preview.contains("--offline"), "{preview}");
    let run = place.run(&["restore", &id, "--confirm", &id]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("page size is 4096, that of the live database is 8192"), "{}", run.stderr);
    assert!(run.stderr.contains("restore --offline"), "{}", run.stderr);
    assert_eq!(rows(&place, "attendance", "people"), "0");
    let run = offline(&place, &id, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(rows(&place, "attendance", "people"), "3");
    assert_eq!(place.sql("attendance", "PRAGMA page_size"), "4096");
    assert_eq!(place.sql("attendance", "PRAGMA journal_mode"), "wal");
    let after = place.path("attendance.db").metadata().unwrap();
    assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
    ok(&place);
    let run = place.run(&["undo", "--offline"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(rows(&place, "attendance", "people"), "0");
    assert_eq!(place.sql("attendance", "PRAGMA page_size"), "8192");
    ok(&place);
}

/// In rollback mode SQLite can take over pages of another size, and the app goes on.
fn in_rollback_mode(place: &Place) -> String {
    for database in ["attendance", "auth"] {
        place.sql(database, "PRAGMA journal_mode=delete");
    }
    let id = backup(place);
    place.sql("attendance", "DELETE FROM people; PRAGMA page_size=8192; VACUUM; PRAGMA user_version=7");
    place.sql("auth", "INSERT INTO users (email) VALUES ('b@school.example')");
    id
}

#[test]
fn another_page_size_needs_no_stop_in_rollback_mode() {
    let place = Place::new();
    let id = in_rollback_mode(&place);
    assert!(!place.ok(&["preview", &id]).stdout.contains("refused"));
    let mut app = App::on(&[&place.live("attendance"), &place.live("auth")]);
    assert_eq!(app.ok(0, "SELECT count(*) FROM people"), "[[0]]");
    let inode = || place.live("attendance").metadata().unwrap().ino();
    let before = inode();
    place.ok(&["restore", &id, "--confirm", &id]);
    assert_eq!(app.ok(0, "SELECT count(*) FROM people"), "[[3]]");
    assert_eq!(app.ok(1, "SELECT count(*) FROM users"), "[[1]]");
    assert_eq!(app.ok(0, "PRAGMA integrity_check"), "[[\"ok\"]]");
    app.ok(0, "INSERT INTO people (name) VALUES ('after')");
    let facts = |place: &Place| place.sql("attendance", "PRAGMA page_size; PRAGMA journal_mode; PRAGMA user_version");
    assert_eq!((facts(&place).as_str(), inode()), ("4096\ndelete\n0", before));
    ok(&place);
    place.ok(&["undo"]);
    assert_eq!(app.ok(0, "SELECT count(*) FROM people"), "[[0]]");
    assert_eq!(app.ok(1, "SELECT count(*) FROM users"), "[[2]]");
    assert_eq!((facts(&place).as_str(), inode()), ("8192\ndelete\n7", before));
    assert_eq!(app.ok(0, "PRAGMA integrity_check"), "[[\"ok\"]]");
    ok(&place);
}

/// SQLite would take over the mode of the backup with its pages, and whoever has it open would be kept out until he opens it anew.
#[test]
fn another_page_size_from_wal_mode_wants_the_app_stopped_in_rollback_mode() {
    let place = Place::new();
    let id = backup(&place);
    place.sql("attendance", "PRAGMA journal_mode=delete; DELETE FROM people; PRAGMA page_size=8192; VACUUM");
    let mut app = App::on(&[&place.live("attendance")]);
    assert_eq!(app.ok(0, "SELECT count(*) FROM people"), "[[0]]");
    let preview = place.ok(&["preview", &id]).stdout;
    assert!(preview.contains("a restore would be refused") && preview.contains("--offline"), "{preview}");
    place.run(&["restore", &id, "--confirm", &id]).refused(1, &["page size is 4096", "restore --offline"]);
    app.ok(0, "INSERT INTO people (name) VALUES ('goes on')");
    app.end();
    let facts = || place.sql("attendance", "PRAGMA page_size; PRAGMA journal_mode; SELECT count(*) FROM people");
    assert_eq!(facts(), "8192\ndelete\n1");
    let run = offline(&place, &id, &["--app-is-stopped"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(facts(), "4096\ndelete\n3");
    ok(&place);
}

#[test]
fn another_page_size_is_taken_over_whole_or_not_at_all_wherever_it_is_killed() {
    let past = Place::new();
    let id = in_rollback_mode(&past);
    let args = ["restore", &id, "--confirm", &id];
    let stride = if thoroughness() >= 2 { 1 } else { 5 };
    let (mut points, mut restored) = (0, 0);
    for (offset, spot) in spots(&[]).into_iter().enumerate() {
        let mut n = 1 + offset % stride;
        loop {
            let place = past.twin();
            if !place.killed(&spot, n, &args) {
                break;
            }
            place.ok(&["create"]);
            let found = [rows(&place, "attendance", "people"), rows(&place, "auth", "users")];
            let is_new = found[0] == "3";
            assert_eq!(found, if is_new { ["3", "1"] } else { ["0", "2"] }, "{spot} {n}");
            ok(&place);
            points += 1;
            restored += usize::from(is_new);
            n += stride;
        }
    }
    println!("pages of another size: killed at {points} points, {restored} of them came out restored");
    assert!(restored > 0 && restored < points);
}

#[test]
fn another_encoding_too() {
    let place = Place::empty();
    for database in ["attendance", "auth"] {
        place.sql(
            database,
            "PRAGMA encoding='UTF-16le'; PRAGMA journal_mode=wal; CREATE TABLE t (a); INSERT INTO t VALUES ('ä')",
        );
    }
    let id = backup(&place);
    std::fs::remove_file(place.path("auth.db")).unwrap();
    place.sql("auth", "PRAGMA journal_mode=wal; CREATE TABLE t (a)");
    let run = place.run(&["restore", &id, "--confirm", &id]);
    assert!(run.code == 1 && run.stderr.contains("text encoding"), "{}", run.stderr);
    assert_eq!(rows(&place, "auth", "t"), "0");
    assert_eq!(offline(&place, &id, &[]).code, 0);
    assert_eq!(place.sql("auth", "PRAGMA encoding"), "UTF-16le");
    assert_eq!(place.sql("auth", "SELECT a FROM t"), "ä");
    ok(&place);
}

#[test]
fn nobody_may_have_it_open() {
    for mode in ["wal", "delete"] {
        let place = Place::new();
        for database in ["attendance", "auth"] {
            place.sql(database, &format!("PRAGMA journal_mode={mode}"));
        }
        let mut place = place;
        place.set("BACKUP_LOCK_TIMEOUT", "300ms");
        let id = backup(&place);
        place.sql("attendance", "DELETE FROM people");
        let inode = || place.path("attendance.db").metadata().unwrap().ino();
        let before = inode();
        let mut app = App::on(&[&place.path("attendance.db")]);
        assert_eq!(app.ok(0, "SELECT count(*) FROM people"), "[[0]]");
        let run = offline(&place, &id, &[]);
        assert_eq!(run.code, 1, "{mode}");
        // In rollback mode nobody sees an app that does nothing just now.
        let said = if mode == "wal" { "`attendance` is open in another process" } else { "--app-is-stopped" };
        assert!(run.stderr.contains(said), "{mode}: {}", run.stderr);
        assert_eq!((inode(), app.ok(0, "SELECT count(*) FROM people").as_str()), (before, "[[0]]"));
        drop(app);
        let run = offline(&place, &id, if mode == "wal" { &[] } else { &["--app-is-stopped"] });
        assert_eq!(run.code, 0, "{mode}: {}", run.stderr);
        assert_eq!(rows(&place, "attendance", "people"), "3");
        assert_eq!(place.sql("attendance", "PRAGMA journal_mode"), mode);
        let audit = place.audit();
        assert!(audit.iter().any(|line| line["details"]["appIsStopped"] == Value::Bool(mode == "delete")));
        ok(&place);
    }
}

#[test]
fn a_missing_file_comes_back_with_its_folders_owner_and_nothing_old_is_played_into_it() {
    let place = Place::new();
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    let id = backup(&place);
    // A WAL that the lost file has left behind.
    let mut app = App::on(&[&place.path("attendance.db")]);
    app.ok(0, "INSERT INTO people (name) VALUES ('Emil')");
    std::fs::copy(place.path("attendance.db-wal"), place.path("kept")).unwrap();
    drop(app);
    std::fs::remove_file(place.path("attendance.db")).unwrap();
    std::fs::rename(place.path("kept"), place.path("attendance.db-wal")).unwrap();
    let run = place.run(&["restore", &id, "--confirm", &id]);
    assert!(run.code == 1 && run.stderr.contains("missing") && run.stderr.contains("--offline"), "{}", run.stderr);
    assert!(!place.path("attendance.db").exists());
    let run = offline(&place, &id, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(rows(&place, "attendance", "people"), "4");
    let (file, folder) = (place.path("attendance.db").metadata().unwrap(), place.path("").metadata().unwrap());
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (folder.uid(), folder.gid(), folder.mode() & 0o666));
    assert!(place.path("attendance.db.replaced-1-wal").exists());
    ok(&place);
}

/// `serve` has them open for the journal, and lets go of them however seldom it looks.
#[test]
fn a_serve_that_seldom_looks_at_the_databases_makes_way() {
    let mut place = Place::new();
    place.set("BACKUP_PITR", "true").set("BACKUP_PITR_INTERVAL", "30m");
    let id = backup(&place);
    let server = Server::start(&place);
    eventually("the journal is written", || place.backups().join("journal/alive").exists().then_some(()));
    let run = offline(&place, &id, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    server.stop();
    ok(&place);
}

#[test]
fn a_ruined_file_is_moved_aside_when_that_is_wanted() {
    let place = Place::new();
    let id = backup(&place);
    let noise = vec![0xa5; 8192];
    std::fs::write(place.path("auth.db"), &noise).unwrap();
    std::fs::set_permissions(place.path("auth.db"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let _ = std::fs::remove_file(place.path("auth.db-wal"));
    let run = place.run(&["restore", &id, "--confirm", &id]);
    assert!(run.code == 1 && run.stderr.contains("--offline"), "{}", run.stderr);
    let run = offline(&place, &id, &[]);
    assert!(run.code == 1 && run.stderr.contains("--force"), "{}", run.stderr);
    place.sql("attendance", "DELETE FROM people");
    // It doesn't tell any more which mode it was in, and so whether somebody has it open.
    let run = offline(&place, &id, &["--force"]);
    assert!(run.code == 1 && run.stderr.contains("`auth`") && run.stderr.contains(WORD), "{}", run.stderr);
    assert_eq!(std::fs::read(place.path("auth.db")).unwrap(), noise);
    let run = offline(&place, &id, &["--force", WORD]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(std::fs::read(place.path("auth.db.replaced-1")).unwrap(), noise);
    assert_eq!(place.path("auth.db").metadata().unwrap().mode() & 0o777, 0o640);
    assert_eq!((rows(&place, "auth", "users"), rows(&place, "attendance", "people")), ("1".to_owned(), "3".to_owned()));
    // What could be read is in the pre-restore backup.
    let before: Value = serde_json::from_str(&run.stdout).unwrap();
    let before = before["preRestore"].as_str().unwrap().strip_prefix("pre-restore-").unwrap().to_owned();
    let copy = place.backups().join(format!("pre-restore/attendance-{before}.db"));
    assert_eq!(sql_on(&copy, "SELECT count(*) FROM people"), "0");
    ok(&place);
    // And nothing else is, so an undo would leave the two at different ages: somebody has to want that.
    let run = place.run(&["undo"]);
    assert!(
        run.code == 1 && run.stderr.contains("no copy of `auth`") && run.stderr.contains("force"),
        "{}",
        run.stderr
    );
    assert_eq!(rows(&place, "attendance", "people"), "3");
    place.ok(&["undo", "--force"]);
    assert_eq!((rows(&place, "auth", "users"), rows(&place, "attendance", "people")), ("1".to_owned(), "0".to_owned()));
    ok(&place);
}

/// An app that has the schema in memory goes on committing over damage to it: into the file that would be moved aside.
#[test]
fn a_ruined_file_that_the_app_has_open_stays_where_it_is() {
    for mode in ["wal", "delete"] {
        let mut place = Place::new();
        place.set("BACKUP_LOCK_TIMEOUT", "300ms");
        let id = backup(&place);
        place.sql("auth", &format!("PRAGMA journal_mode={mode}"));
        let mut app = App::on(&[&place.live("auth")]);
        app.ok(0, "INSERT INTO users (email) VALUES ('b@school.example')");
        app.ok(0, "PRAGMA wal_checkpoint(TRUNCATE)");
        // Behind the header of the database: the first page of its schema.
        let live = std::fs::File::options().write(true).open(place.live("auth")).unwrap();
        live.write_all_at(&[0x7f; 8], 100).unwrap();
        drop(live);
        let said = if mode == "wal" { "`auth` is open in another process" } else { WORD };
        let run = offline(&place, &id, &["--force"]);
        assert!(run.code == 1 && run.stderr.contains(said), "{mode}: {}", run.stderr);
        if mode == "wal" {
            let run = offline(&place, &id, &["--force", WORD]);
            assert!(run.code == 1 && run.stderr.contains(said), "{}", run.stderr);
            app.ok(0, "INSERT INTO users (email) VALUES ('c@school.example')");
            assert_eq!(app.ok(0, "SELECT count(*) FROM users"), "[[3]]");
        }
        assert!(!place.path("auth.db.replaced-1").exists());
        app.kill();
        let run = offline(&place, &id, if mode == "wal" { &["--force"] } else { &["--force", WORD] });
        assert_eq!(run.code, 0, "{mode}: {}", run.stderr);
        assert_eq!(rows(&place, "auth", "users"), "1");
        ok(&place);
    }
}

/// What the WAL held is in the old file, and would be played into the new one if the power were cut before its emptiness is on the disk.
#[test]
fn the_wal_is_empty_on_the_disk_before_another_file_takes_the_name() {
    let place = Place::new();
    let id = backup(&place);
    let mut app = App::on(&[&place.live("attendance")]);
    app.ok(0, "INSERT INTO people (name) VALUES ('only in the WAL')");
    app.kill();
    let trace = place.path("trace");
    let mut command = place.command_of("strace");
    command.args(["-f", "-y", "-e", "trace=ftruncate,fsync,rename", "-o"]).arg(&trace).arg(PROGRAM);
    command.args(["restore", &id, "--confirm", &id, "--offline"]);
    let run = Run::of(command.output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let trace = std::fs::read_to_string(trace).unwrap();
    let wal = format!("{}-wal>", place.live("attendance").display());
    let at = |call: &str, of: &str| trace.lines().position(|line| line.contains(call) && line.contains(of));
    let cut = at("ftruncate(", &format!("{wal}, 0)")).expect("the WAL is emptied");
    let named = at("rename(", &format!(", \"{}\")", place.live("attendance").display())).expect("another file comes");
    let synced = trace.lines().skip(cut).take(named - cut).any(|line| line.contains("fsync(") && line.contains(&wal));
    assert!(cut < named && synced, "{trace}");
}

#[test]
fn what_was_committed_last_is_in_the_pre_restore_backup() {
    let place = Place::new();
    let id = backup(&place);
    // An app that was killed leaves its commits in the WAL.
    let mut app = App::on(&[&place.path("attendance.db")]);
    app.ok(0, "INSERT INTO people (name) VALUES ('only in the WAL')");
    app.kill();
    assert_eq!(offline(&place, &id, &[]).code, 0);
    assert_eq!(rows(&place, "attendance", "people"), "3");
    assert_eq!(place.run(&["undo"]).code, 0);
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people WHERE name = 'only in the WAL'"), "1");
    ok(&place);
}

#[test]
fn app_is_stopped_is_nothing_without_offline() {
    let place = Place::new();
    let id = backup(&place);
    assert_eq!(place.run(&["restore", &id, "--confirm", &id, "--app-is-stopped"]).code, 2);
}

/// A backup, and what has other rows in both since then.
fn changed_since() -> (Place, String) {
    let past = Place::new();
    let id = backup(&past);
    past.sql("attendance", "DELETE FROM people; PRAGMA wal_checkpoint(TRUNCATE)");
    past.sql("auth", "INSERT INTO users (email) VALUES ('b@school.example'); PRAGMA wal_checkpoint(TRUNCATE)");
    (past, id)
}

/// A live database that is there and one that is missing: wherever the program is killed, the next operation leaves all as it
/// was, or all as it was to be. (What is missing may have come back first: then all of it comes.)
#[test]
fn an_offline_restore_that_is_killed_anywhere_is_settled() {
    let (past, id) = changed_since();
    let args = ["restore", &id, "--confirm", &id, "--offline", "--force", WORD];
    let (old, new) = (["0", "2"], ["3", "1"]);
    let stride = if thoroughness() >= 2 { 1 } else { 6 };
    let (mut points, mut restored, mut waited) = (0, 0, 0);
    for ruined in [false, true] {
        for (offset, spot) in spots(&[]).into_iter().enumerate() {
            let mut n = 1 + offset % stride;
            loop {
                let place = past.twin();
                if ruined {
                    std::fs::write(place.live("auth"), "no database at all").unwrap();
                }
                if !place.killed(&spot, n, &args) {
                    break;
                }
                // The folders may be carried elsewhere before that: what is known of files there is in their bytes.
                let place = if n / 2 % 2 == 0 { place.twin() } else { place };
                let by = if n % 2 == 0 { ["list"] } else { ["status"] };
                assert!(place.run(&by).code <= 1);
                // What is ruined lets no backup be taken, but all is settled before that is found out: unless nobody sees who has it
                // open, and the word that nobody has is waited for.
                let next = place.run(&["create"]);
                assert!(next.code == 0 || ruined, "{}", next.stderr);
                if next.stderr.contains(AGAIN) {
                    waited += 1;
                    place.ok(&args);
                }
                let attendance = rows(&place, "attendance", "people");
                let is_new = attendance == new[0];
                if ruined && !is_new {
                    let live = std::fs::read_to_string(place.live("auth")).unwrap();
                    assert_eq!((attendance.as_str(), live.as_str()), (old[0], "no database at all"), "{spot} {n}");
                } else {
                    let wanted = if is_new { new } else { old };
                    let found = [attendance, rows(&place, "auth", "users")];
                    assert_eq!(found, wanted, "{spot} {n}");
                    ok(&place);
                }
                assert!(!place.path("backups/restore.json").exists(), "{spot} {n}");
                assert_eq!(place.run(&["audit", "verify"]).code, 0);
                points += 1;
                restored += usize::from(is_new);
                n += stride;
            }
        }
    }
    println!("offline restore: killed at {points} points, {restored} of them came out restored, {waited} at the word");
    Tried::of(points, restored, 0).report("offline restore", "kill -9");
    assert!(restored > 0 && restored < points);
}

/// One file is in place and the other isn't yet when it is killed, and again while that is settled: it goes forward all the same.
#[test]
fn a_recovery_from_half_an_offline_restore_that_is_killed() {
    let (past, id) = changed_since();
    let args = ["restore", &id, "--confirm", &id, "--offline"];
    let found = |place: &Place| [rows(place, "attendance", "people"), rows(place, "auth", "users")];
    let half = (1..12).find_map(|n| {
        let place = past.twin();
        let is_half = place.killed(&Spot::anywhere("rename"), n, &args) && found(&place.twin()) == ["3", "2"];
        is_half.then_some(place)
    });
    let half = half.expect("half a restore");
    let tally = kill_recovery(
        || half.twin(),
        rare(0),
        |place, _| {
            assert_eq!(found(place), ["3", "1"]);
            ok(place);
            true
        },
    );
    report("recovery from an offline restore", &BTreeMap::from([("one file in place".to_owned(), tally)]));
}

/// Nobody sees who has a database in rollback mode open, so half a restore waits for the word that the app is stopped.
#[test]
fn half_an_offline_restore_in_rollback_mode_waits_for_the_word() {
    let past = Place::new();
    let id = backup(&past);
    past.sql("attendance", "PRAGMA journal_mode=delete; DELETE FROM people");
    past.sql("auth", "PRAGMA journal_mode=delete; DELETE FROM users");
    let args = ["restore", &id, "--confirm", &id, "--offline", "--app-is-stopped"];
    let undo = ["undo", "--offline", "--app-is-stopped"];
    for (again, wanted) in [(&args[..], ["3", "1"]), (&undo, ["0", "0"])] {
        let half = (1..10).find_map(|n| {
            let place = past.twin();
            let is_half = place.killed(&Spot::anywhere("rename"), n, &args)
                && rows(&place, "attendance", "people") != rows(&place, "auth", "users");
            is_half.then_some(place)
        });
        let place = half.expect("half a restore");
        let refused = place.run(&["create"]);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains(AGAIN), "{}", refused.stderr);
        assert!(!refused.stderr.contains("nothing was changed"), "{}", refused.stderr);
        place.ok(again);
        assert_eq!([rows(&place, "attendance", "people"), rows(&place, "auth", "users")], wanted);
        ok(&place);
    }
}
