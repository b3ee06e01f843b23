//! What a crash, or somebody with `rm`, may leave beside the live databases: a backup has what the app's own SQLite would find there
//! [P1, P8].

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::app::App;
use crate::calls::{Calls, Point};
use crate::client::{Server, superuser};
use crate::disk_full::{mount, run_in_namespace};
use crate::harness::{PROGRAM, Place, Run, dump, eventually, python3, sql_on, sql_on_copy};
use crate::held::{self, Language};
use crate::inject::{Spot, goes_on, signal, traced};
use crate::journal_live::timeline;
use crate::receivers::Receiver;
use crate::tried::Tried;

/// What happens to the files beside a database whose app was killed, with its commits in the WAL.
struct Left {
    what: &'static str,
    act: fn(&Path, &Path),
    /// Commits of the killed app that are there all the same.
    commits: std::ops::RangeInclusive<usize>,
}

const LEFT: [Left; 7] = [
    Left { what: "nothing is changed", act: |_, _| {}, commits: 20..=20 },
    Left { what: "no -shm", act: |_, shm| std::fs::remove_file(shm).unwrap(), commits: 20..=20 },
    Left { what: "a -shm of zeros", act: |_, shm| overwrite(shm, 0), commits: 20..=20 },
    Left { what: "a -shm of anything", act: |_, shm| overwrite(shm, 0xa5), commits: 20..=20 },
    Left { what: "an end of anything on the -wal", act: |wal, _| append(wal), commits: 20..=20 },
    Left { what: "a -wal that is cut in a frame", act: |wal, _| cut(wal), commits: 1..=19 },
    Left { what: "no -wal", act: |wal, _| std::fs::remove_file(wal).unwrap(), commits: 0..=0 },
];

fn overwrite(path: &Path, byte: u8) {
    let len = path.metadata().unwrap().len();
    std::fs::write(path, vec![byte; usize::try_from(len).unwrap()]).unwrap();
}

fn append(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.extend((0..9000_usize).map(|n| (n * 31 % 251) as u8));
    std::fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2 + 100]).unwrap();
}

#[test]
fn what_lies_beside_a_database_is_taken_for_what_it_is() {
    let killed = Place::new();
    let mut app = App::on(&[&killed.live("attendance")]);
    app.ok(0, "PRAGMA wal_autocheckpoint=0");
    for n in 0..20 {
        app.ok(0, &format!("INSERT INTO people (name) VALUES ('commit {n}')"));
    }
    app.kill();
    for Left { what, act, commits } in LEFT {
        let place = killed.twin();
        act(&place.path("attendance.db-wal"), &place.path("attendance.db-shm"));
        let others = place.twin();
        let backup = place.create();
        let copied = dump(&place.copy(&backup, "attendance"), true);
        assert_eq!(copied, dump(&others.live("attendance"), false), "{what}");
        assert!(commits.contains(&copied.matches("commit ").count()), "{what}: {copied}");
        place.assert_whole();
        Tried::of(1, 1, 0).report("create", "-wal or -shm lost, cut or overwritten");
    }
}

/// The disk of the live data fails, and ours is well.
#[test]
fn a_live_database_that_cant_be_read_is_named_and_told() {
    let mut place = Place::new();
    place.fill(1);
    let calls = Calls::of(&place.twin(), &["create"]);
    let of_live =
        |point: &&Point| point.spot.call == "pread64" && point.spot.path.as_deref() == Some("../attendance.db");
    let points: Vec<_> = calls.reading.iter().filter(of_live).collect();
    assert!(points.len() > 50, "{}", points.len());
    let last = points.last().unwrap().n;
    let mut codes = BTreeSet::new();
    let spot = Spot::on("pread64", "../attendance.db");
    for n in [1, 2, 3, 10, last / 2, last - 20] {
        let twin = place.twin();
        let run = Run::of(twin.faulty(&spot, &format!("error=EIO:when={n}+"), &["create"]).output().unwrap());
        run.refused(1, &["the live database `attendance`", "look at", "dmesg"]);
        assert!(!run.stderr.contains("`auth`") && !run.stderr.contains("backup directory"), "{n}: {}", run.stderr);
        let outcome = twin.audit().pop().unwrap();
        assert_eq!((&outcome["operation"], &outcome["ok"]), (&"create".into(), &false.into()), "{outcome}");
        // Within a statement SQLite calls it damage, and so do we, with a word of the disk.
        let code = outcome["code"].as_str().unwrap();
        assert_eq!(
            code == "live-corrupt",
            run.stderr.contains("or the disk could not be read"),
            "{code}: {}",
            run.stderr
        );
        codes.insert(code.to_owned());
        assert_eq!(twin.ids().len(), 0);
        twin.assert_whole();
    }
    assert!(codes.remove("live-io") && (codes.is_empty() || codes.remove("live-corrupt")), "{codes:?}");
    let hook = Receiver::start();
    place.set("BACKUP_WEBHOOK_URL", &hook.url("/x")).set("BACKUP_NOTIFY_PRIVATE", "true");
    let _server = Server::start(&place);
    assert_eq!(Run::of(place.faulty(&spot, "error=EIO:when=1+", &["create"]).output().unwrap()).code, 1);
    let told = hook.event("backup-failed", "began");
    let text = told["text"].as_str().unwrap();
    assert!(text.contains("`attendance`") && text.contains("dmesg"), "{told}");
    place.create();
}

const NAMES: [&str; 2] = ["attendance", "auth"];
const COUNT: &str = "SELECT min(n), max(n) FROM state";

/// Two databases with one number in each of many pages, which an app has open in WAL mode.
fn open_in_wal_mode() -> (Place, held::App) {
    let mut place = Place::new();
    place.set("BACKUP_LOCK_TIMEOUT", "500ms");
    for name in NAMES {
        place.sql(
            name,
            "CREATE TABLE state (n, filler); WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 200) \
             INSERT INTO state SELECT 0, hex(zeroblob(1500)) FROM i",
        );
    }
    let mut app = held::App::of(Language::Python, &place);
    commit(&mut app, 1);
    (place, app)
}

fn commit(app: &mut held::App, n: usize) {
    NAMES.into_iter().for_each(|name| drop(app.ok(name, &format!("UPDATE state SET n = {n}"))));
}

/// Takes those files away that somebody took for rubbish.
fn unlink(place: &Place, ending: &str) {
    NAMES.into_iter().for_each(|name| std::fs::remove_file(place.path(&format!("{name}.db{ending}"))).unwrap());
}

/// A process that opens the database next would make new ones, and the locks of the one would be none for the other.
#[test]
fn what_loses_its_shm_or_wal_while_it_is_copied_is_of_one_instant() {
    for ending in ["-shm", "-wal"] {
        let (place, mut app) = open_in_wal_mode();
        checkpoint(&mut app);
        commit(&mut app, 2);
        let stopped = place.stopped(&Spot::on("pread64", "../attendance.db-wal"), 30, &["create"]);
        let (strace, pid) = stopped.expect("so many pages lie in the WAL");
        unlink(&place, ending);
        commit(&mut app, 3);
        checkpoint(&mut app);
        goes_on(strace, &pid);
        for backup in place.list() {
            for name in NAMES {
                assert_eq!(sql_on_copy(&place.copy(&backup, name), COUNT), "2|2", "{ending}: {name}");
            }
        }
        place.run(&["create"]).refused(1, &["`attendance`", ending]);
        commit(&mut app, 4);
        place.assert_whole();
    }
}

fn checkpoint(app: &mut held::App) {
    NAMES.into_iter().for_each(|name| drop(app.ok(name, "PRAGMA wal_checkpoint(PASSIVE)")));
}

#[test]
fn what_lost_its_shm_or_wal_is_not_restored_behind_its_app() {
    for ending in ["-shm", "-wal"] {
        let (place, mut app) = open_in_wal_mode();
        let backup = place.create();
        commit(&mut app, 2);
        checkpoint(&mut app);
        unlink(&place, ending);
        let id = backup["id"].as_str().unwrap();
        let run = place.run(&["restore", id, "--confirm", id]);
        for name in NAMES {
            assert_eq!(app.ok(name, COUNT), json!([[2, 2]]), "{ending}: {name} after: {}{}", run.stdout, run.stderr);
            assert_eq!(app.ok(name, "PRAGMA integrity_check"), json!([["ok"]]));
        }
        run.refused(1, &["`attendance`", ending]);
        commit(&mut app, 3);
        // It goes well as soon as the app has opened them anew.
        app.close();
        let mut app = held::App::of(Language::Python, &place);
        place.ok(&["restore", id, "--confirm", id]);
        NAMES.into_iter().for_each(|name| assert_eq!(app.ok(name, COUNT), json!([[1, 1]])));
        place.assert_whole();
    }
}

/// `serve` itself has them open, for the journal: what it opens then would have its locks beside those, and the `-wal` of the app. What is
/// committed is all there as soon as it has found its way back, or was started anew.
#[test]
fn what_lost_both_while_serve_has_it_open_is_not_copied_or_restored_beside_that() {
    let (mut place, app) = open_in_wal_mode();
    place.set("BACKUP_ENABLED", "false").set("BACKUP_PITR", "true").set("BACKUP_PITR_INTERVAL", "1h");
    let server = Server::start(&place);
    eventually("a tick", || timeline(&place).alive);
    let id = place.create()["id"].clone();
    ["-wal", "-shm"].into_iter().for_each(|ending| unlink(&place, ending));
    app.close();
    let mut app = held::App::of(Language::Python, &place);
    commit(&mut app, 3);
    for answer in [
        server.post("/api/backup/create"),
        server
            .request("POST", "/api/backup/restore")
            .token(&superuser())
            .json(&json!({ "id": id, "confirm": id }))
            .send(),
    ] {
        let detail = answer.problem(422, "live-parted");
        assert!(detail.contains("`attendance`") && detail.contains("`serve` too"), "{detail}");
    }
    NAMES.into_iter().for_each(|name| assert_eq!(app.ok(name, COUNT), json!([[3, 3]])));
    server.stop();
    let backup = place.create();
    for name in NAMES {
        assert_eq!(sql_on_copy(&place.copy(&backup, name), COUNT), "3|3", "{name}");
        assert_eq!(app.ok(name, "PRAGMA integrity_check"), json!([["ok"]]));
    }
    place.assert_whole();
}

const ONE: &str = "CREATE TABLE t (n); INSERT INTO t VALUES (1)";

/// An app that commits to two databases at once. That comes to its calls of that kind, on `path` if any is named.
fn committing_to_both(paths: &[PathBuf; 2], calls: &str, happens: &str, path: Option<&Path>) -> Command {
    let commit = "import sqlite3, sys\n\
         c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
         c.execute('ATTACH ? AS other', (sys.argv[2],))\n\
         for s in ('BEGIN', 'UPDATE main.t SET n = 2', 'UPDATE other.t SET n = 2', 'COMMIT'): c.execute(s)\n";
    let (python, mut strace) = (python3(), Command::new("strace"));
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    strace.args(["-e", &format!("inject={calls}:{happens}")]);
    if let Some(path) = path {
        strace.arg("-P").arg(path);
    }
    strace.arg(python.get_program()).args(python.get_args()).args(["-c", commit]).args(paths);
    strace
}

/// It is killed at its `n`-th call.
fn killed_in_a_commit_to_both(paths: &[PathBuf; 2], calls: &str, n: usize, path: Option<&Path>) {
    let mut strace = committing_to_both(paths, calls, &format!("signal=KILL:when={n}"), path);
    assert_eq!(strace.status().unwrap().signal(), Some(9), "it came to the end of its commit");
}

/// The `-journal` of each names what decides about both, by the path that the app has. To whoever comes by another path that is not there,
/// and SQLite would take what was written into the first for committed [P2].
#[test]
fn half_a_commit_to_two_databases_is_left_to_whoever_sees_what_decides_about_it() {
    let mut place = Place::empty();
    let at = |place: &Place, folder: &str| NAMES.map(|name| place.path(folder).join(format!("{name}.db")));
    let configured = |place: &mut Place, folder: &str| {
        let [attendance, auth] = at(place, folder).map(|path| path.display().to_string());
        place.unset("BACKUP_DATABASES").set("BACKUP_DATABASES", &format!("attendance={attendance},auth={auth}"));
    };
    let held = |place: &Place| {
        let backup = place.create();
        NAMES.map(|name| sql_on_copy(&place.copy(&backup, name), "SELECT n FROM t"))
    };
    std::fs::create_dir(place.path("app")).unwrap();
    let both = at(&place, "app");
    both.iter().for_each(|path| drop(sql_on(path, ONE)));
    configured(&mut place, "app");
    let id = place.create()["id"].as_str().unwrap().to_owned();
    // The first is written, the second isn't yet.
    killed_in_a_commit_to_both(&both, "write,pwrite64", 1, Some(&both[1]));
    std::fs::rename(place.path("app"), place.path("elsewhere")).unwrap();
    configured(&mut place, "elsewhere");
    let journal = place.path("elsewhere/attendance.db-journal");
    let before = std::fs::read(&journal).unwrap();
    for args in [&["create"][..], &["create", "--type", "daily"]] {
        let said = ["`attendance`", "app/attendance.db-mj", "Let the app open it first", "at the same path"];
        place.run(args).refused(1, &said);
        assert!(std::fs::read(&journal).unwrap() == before, "its journal was touched");
    }
    // Where there is no app any more, it is moved aside as it is, with what somebody would need to put it right.
    let mut carried = place.twin();
    configured(&mut carried, "elsewhere");
    carried.ok(&["restore", &id, "--confirm", &id, "--offline", "--force", "--app-is-stopped"]);
    assert!(std::fs::read(carried.path("elsewhere/attendance.db.replaced-1-journal")).unwrap() == before);
    assert_eq!(held(&carried), ["1", "1"]);
    std::fs::rename(place.path("elsewhere"), place.path("app")).unwrap();
    configured(&mut place, "app");
    assert_eq!(held(&place), ["1", "1"]);
    // What is decided already is for us to see, by the app's path: only the journals are left of it.
    killed_in_a_commit_to_both(&both, "unlink", 2, None);
    assert!(place.path("app/auth.db-journal").exists());
    assert_eq!(held(&place), ["2", "2"]);
    place.assert_whole();
}

/// Whoever waits for its lock meets that half commit as soon as the app is dead.
#[test]
fn half_a_commit_whose_app_dies_while_it_is_waited_for_is_left_alone_too() {
    let mut place = Place::empty();
    std::fs::create_dir(place.path("app")).unwrap();
    let both = NAMES.map(|name| place.path(&format!("app/{name}.db")));
    both.iter().for_each(|path| drop(sql_on(path, ONE)));
    let seen = NAMES.map(|name| format!("{name}={}", place.path(&format!("seen/{name}.db")).display())).join(",");
    place.set("BACKUP_DATABASES", &seen);
    std::fs::rename(place.path("app"), place.path("seen")).unwrap();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let restore = ["restore", &id, "--confirm", &id];
    for args in [&["create"][..], &["preview", &id], &restore, &[&restore[..], &["--offline"]].concat()] {
        std::fs::rename(place.path("seen"), place.path("app")).unwrap();
        both.iter().for_each(|path| assert_eq!(sql_on(path, "SELECT n FROM t"), "1", "{args:?}"));
        let before = std::fs::read(&both[1]).unwrap();
        // The first is written, and it stops in the midst of the second.
        let mut app =
            committing_to_both(&both, "write,pwrite64", "signal=STOP:when=1", Some(&both[1])).spawn().unwrap();
        eventually("it comes to the second", || (std::fs::read(&both[1]).unwrap() != before).then_some(()));
        std::fs::rename(place.path("app"), place.path("seen")).unwrap();
        let mut command = place.command(args);
        let waits = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        signal(&traced(app.id()).unwrap(), "-KILL");
        assert_eq!(app.wait().unwrap().signal(), Some(9));
        let run = Run::of(waits.wait_with_output().unwrap());
        let said = run.stdout + &run.stderr;
        for words in ["`attendance`", "app/attendance.db-mj", "Let the app open it first"] {
            assert!(said.contains(words), "{args:?}: {said}");
        }
        assert!(place.path("seen/attendance.db-journal").exists(), "{args:?}: {said}");
    }
}

/// The same of a `serve` that has the databases open all the time, for the journal, with their folder mounted elsewhere than the app has it.
#[test]
fn serve_leaves_half_a_commit_to_the_app_too() {
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        run_in_namespace("faults_source::serve_leaves_half_a_commit_to_the_app_too");
        return;
    }
    let mut place = Place::empty();
    ["app", "seen"].iter().for_each(|folder| std::fs::create_dir(place.path(folder)).unwrap());
    let both = NAMES.map(|name| place.path(&format!("app/{name}.db")));
    both.iter().for_each(|path| drop(sql_on(path, ONE)));
    let seen = NAMES.map(|name| format!("{name}={}", place.path(&format!("seen/{name}.db")).display())).join(",");
    place.set("BACKUP_DATABASES", &seen).set("BACKUP_ENABLED", "false").set("BACKUP_PITR", "true");
    let mut command = place.command_of("unshare");
    let mounted = "mount --bind \"$1\" \"$2\" && mount -t tmpfs tmpfs \"$1\" && exec \"$0\" serve";
    command.args(["--mount", "sh", "-c", mounted, PROGRAM]).args([place.path("app"), place.path("seen")]);
    let server = Server::of(&mut command, place.path("serve.log"));
    eventually("a tick", || timeline(&place).alive);
    let pid = server.child.id().to_string();
    // So that it isn't in the midst of a tick that has looked already.
    signal(&pid, "-STOP");
    killed_in_a_commit_to_both(&both, "write,pwrite64", 1, Some(&both[1]));
    signal(&pid, "-CONT");
    let journal = place.path("app/attendance.db-journal");
    eventually("a tick that meets it", || {
        (!journal.exists() || server.log().contains("what decides about that commit is not seen here")).then_some(())
    });
    assert!(journal.exists(), "{}", server.log());
    both.iter().for_each(|path| assert_eq!(sql_on(path, "SELECT n FROM t"), "1"));
    eventually("it goes on", || server.log().contains("the journal is written again").then_some(()));
    server.stop();
}

/// SQLite opens for reading what it may not write: its locks keep nobody away then, and two databases would be copied at two instants.
#[test]
fn what_is_mounted_read_only_is_left_alone() {
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        run_in_namespace("faults_source::what_is_mounted_read_only_is_left_alone");
        return;
    }
    let mut place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let mut app = App::on(&[&place.live("attendance")]);
    app.ok(0, "INSERT INTO people (name) VALUES ('Dora')");
    std::fs::create_dir(place.path("data")).unwrap();
    mount(&["--bind", place.path("").to_str().unwrap()], &place.path("data"));
    mount(&["-o", "remount,bind,ro"], &place.path("data"));
    let named = |name: &str| format!("{name}={}", place.path(&format!("data/{name}.db")).display());
    let named = NAMES.map(named).join(",");
    place.set("BACKUP_DATABASES", &named);
    let restore = ["restore", &id, "--confirm", &id];
    assert!(place.ok(&["preview", &id]).stdout.contains("a restore would be refused: cannot write"));
    for args in [&["create"][..], &restore, &[&restore[..], &["--offline"]].concat()] {
        let run = place.run(args);
        assert_eq!(run.code, 1, "{args:?}: {}", run.stdout);
        assert!(
            run.stderr.contains("Read-only file system") && run.stderr.contains("`:ro`"),
            "{args:?}: {}",
            run.stderr
        );
        assert!(!place.backups().join("restore.json").exists(), "{args:?}");
        assert_eq!(place.ids(), [&*id]);
    }
    assert_eq!(app.ok(0, "SELECT count(*) FROM people"), "[[4]]");
    place.assert_whole();
}
