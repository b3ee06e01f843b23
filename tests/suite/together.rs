//! Many at once, and operations that are in each other's way, are stopped or are left: each is told what it needs to
//! know, and whatever was done is whole [P1, P3, P4, P5].

use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};

use crate::client::{Answer, Request, Server, superuser, token};
use crate::disk_full::SmallDisk;
use crate::harness::{Place, eventually, sha256, sql_on_copy, thoroughness};
use crate::held::Ending;
use crate::inject::{SLOW_COMMITS, SLOW_COPIES, SLOW_READS, Spot, at_full_speed};
use crate::journal_live::now;
use crate::patience::PATIENCE;
use crate::replica_scene::Clock;
use crate::serving::daily_at;
use crate::tried::Tried;

const NAMES: [&str; 2] = ["attendance", "auth"];

pub fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Who says to hold the directory.
pub fn holder(place: &Place) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(place.backups().join(".lock")).ok()?).ok()
}

/// Waits until an operation of that name is at its copies.
pub fn under_way(place: &Place, operation: &str) -> Value {
    let at_work = |holder: &Value| holder["operation"] == operation && holder["database"] == "attendance";
    eventually(operation, || holder(place).filter(at_work))
}

fn create(server: &Server) -> Request {
    server.request("POST", "/api/backup/create").token(&superuser())
}

fn cancel(server: &Server) -> Answer {
    server.post("/api/backup/operation/cancel")
}

/// A client goes away in such a way that the server is told at once, and not when it answers.
fn cut(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Nothing of a create is left, and nothing is in the way of the next.
fn assert_undone(place: &Place) {
    assert_eq!(place.json(&["list"])["backups"], json!([]));
    place.assert_whole();
}

/// What a client of that number does; the answer is one that is documented for it.
fn act(server: &Server, client: usize, round: usize) {
    let token = token(json!({ "sub": format!("user {client}"), "role": "superuser" }));
    let send = |method: &str, path: &str| server.request(method, path).token(&token).send();
    let listed = send("GET", "/api/backup/list").ok();
    let backups = listed["backups"].as_array().unwrap();
    let one = backups.get((client * 7 + round) % backups.len().max(1)).map(|backup| backup["id"].as_str().unwrap());
    let one = one.unwrap_or("daily-2026-01-08");
    let (answer, documented): (Answer, &[u16]) = match client % 4 {
        0 => (send("POST", "/api/backup/create"), &[201, 409]),
        1 => (send("DELETE", &format!("/api/backup/{one}")), &[204, 404, 409]),
        2 => (send("GET", &format!("/api/backup/download/{one}?database=auth")), &[200, 404]),
        _ => (send("POST", &format!("/api/backup/verify/{one}")), &[200, 404, 409]),
    };
    assert!(documented.contains(&answer.status), "client {client}: {} {}", answer.status, answer.text());
    match answer.status {
        200 if client % 4 == 2 => assert_eq!(answer.header("etag").unwrap(), format!("\"{}\"", sha256(&answer.body))),
        200 => assert_eq!(answer.json()["ok"], true),
        404 => drop(answer.problem(404, "not-found")),
        409 if answer.text().contains("last-good") => drop(answer.problem(409, "last-good")),
        409 => {
            // Between a lock and its holder's name there is a moment.
            if answer.problem(409, "held").contains("has not said who it is") {
                return;
            }
            let operation = &answer.json()["operation"];
            assert!(operation["operation"].is_string() && operation["by"].is_string(), "{}", answer.text());
            assert!(operation["pid"] == server.child.id() && operation["startedAt"].is_string(), "{operation}");
        }
        _ => {}
    }
}

#[test]
fn twenty_clients_and_the_app_at_once_leave_everything_whole() {
    let mut place = Place::new();
    place.set("BACKUP_DOWNLOADS_PER_MINUTE", "1000").set("BACKUP_RETENTION_MANUAL", "5");
    let server = Server::start(&place);
    let writer = place.writer(0.0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..20 {
            let (server, over) = (&server, &over);
            scope.spawn(move || {
                for round in 0.. {
                    act(server, client, round);
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                }
            });
        }
        let _ending = Ending(&over);
        std::thread::sleep(Duration::from_secs(5 * thoroughness() as u64));
        let went_well = |operation: &&str| {
            let done =
                |line: &Value| line["kind"] == "outcome" && line["operation"] == *operation && line["ok"] == true;
            place.audit().iter().any(done)
        };
        eventually("one of each", || ["create", "delete", "download"].iter().all(went_well).then_some(()));
    });
    let written = writer.stop();
    assert!(written.errors.is_empty() && written.pairs > 10, "{:?}", written.errors);
    server.stop();
    place.assert_whole();
}

#[test]
fn while_another_process_holds_the_directory_it_is_named_and_not_waited_for() {
    let place = Place::new();
    place.fill(40);
    let server = Server::start(&place);
    let other = place.halted_create();
    let pid: u32 = other.pid.parse().unwrap();
    under_way(&place, "create");
    for (answer, code) in [
        (create(&server).send(), "held"),
        (acknowledge(&server, "daily-2026-01-08").send(), "held"),
        (cancel(&server), "runs-elsewhere"),
    ] {
        let detail = answer.problem(409, code);
        assert!(detail.contains("create by cli"), "{detail}");
        let operation = &answer.json()["operation"];
        assert_eq!((&operation["pid"], &operation["operation"]), (&pid.into(), &"create".into()));
        assert_eq!((&operation["by"], &operation["database"]), (&"cli".into(), &"attendance".into()));
        assert!(operation["startedAt"].as_str().unwrap().ends_with('Z'), "{operation}");
        assert_eq!(answer.header("retry-after").is_some(), code == "held");
    }
    let status = server.get("/api/backup/status").ok();
    assert_eq!(status["operation"]["kind"], "create", "{status}");
    let run = other.goes_on();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(create(&server).send().status, 201);
    cancel(&server).problem(409, "nothing-runs");
    server.stop();
    place.assert_whole();
}

#[test]
fn a_create_goes_on_when_its_client_goes_away() {
    let place = Place::new();
    place.fill(40);
    let server = place.slowed(SLOW_READS);
    let stream = create(&server).open().unwrap();
    under_way(&place, "create");
    cut(stream);
    at_full_speed(&server);
    eventually("the backup", || (place.ids().len() == 1).then_some(()));
    eventually("its end", || holder(&place).is_none().then_some(()));
    server.stop();
    place.assert_whole();
}

/// Both databases have the number 1, and a backup with that; then they have 2. Large enough that a restore takes a while.
fn numbered() -> (Place, String) {
    numbered_with(40)
}

/// And so many megabytes besides.
fn numbered_with(megabytes: usize) -> (Place, String) {
    let place = Place::new();
    place.fill(megabytes);
    NAMES.iter().for_each(|name| drop(place.sql(name, "CREATE TABLE state (n); INSERT INTO state VALUES (1)")));
    let id = place.create()["id"].as_str().unwrap().to_owned();
    NAMES.iter().for_each(|name| drop(place.sql(name, "UPDATE state SET n = 2")));
    (place, id)
}

fn numbers(place: &Place) -> [String; 2] {
    NAMES.map(|name| place.sql(name, "SELECT n FROM state"))
}

fn restore(server: &Server, id: &str) -> Request {
    server.request("POST", "/api/backup/restore").token(&superuser()).json(&json!({ "id": id, "confirm": id }))
}

#[test]
fn a_restore_goes_on_when_its_client_goes_away() {
    let (place, id) = numbered();
    let server = place.slowed(SLOW_READS);
    let stream = restore(&server, &id).open().unwrap();
    under_way(&place, "restore");
    cut(stream);
    assert_eq!(holder(&place).unwrap()["operation"], "restore", "it was over before the client went away");
    at_full_speed(&server);
    let ended = |line: &Value| line["operation"] == "restore" && line["kind"] == "outcome";
    let outcome = eventually("its end", || place.audit().into_iter().find(ended));
    assert_eq!((&outcome["ok"], &outcome["by"]), (&true.into(), &"user:ada".into()), "{outcome}");
    assert_eq!(numbers(&place), ["1", "1"]);
    server.stop();
    place.assert_whole();
}

/// Each of its calls on files takes a while: what only asks is not kept waiting by a create.
#[test]
fn on_a_slow_disk_it_answers_while_a_create_is_under_way() {
    let place = Place::new();
    place.create();
    place.fill(8);
    let (log, slow) = (place.path("calls"), Spot::anywhere("pread64,?read,?write,?fsync,?fdatasync"));
    let mut command = place.faulty_into(&log, &slow, "delay_enter=5000", &["serve"]);
    let mut server = Server::of(command.env("BACKUP_ENABLED", "false"), place.path("serve.log"));
    let begun = Instant::now();
    let mut creating = create(&server).open().unwrap();
    let serving = under_way(&place, "create");
    let (mut slowest, mut asked) = (Duration::ZERO, 0);
    let is_under_way = || holder(&place).is_some_and(|holder| holder["operation"] == "create");
    let mut meanwhile = 0;
    while holder(&place).is_some() {
        for path in ["/healthz", "/readyz", "/api/backup/status"] {
            let begun = Instant::now();
            let answer = server.get(path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            slowest = slowest.max(begun.elapsed());
        }
        asked += 1;
        meanwhile += usize::from(is_under_way());
    }
    assert_eq!(Answer::read(&mut creating, false).unwrap().status, 201);
    let whole = begun.elapsed();
    println!("asked {asked} times in {whole:?}, the slowest answer took {slowest:?}");
    // One that waits for it comes when it has ended.
    assert!(meanwhile >= 3, "{meanwhile} of {asked} were answered while it was under way: {slowest:?} of {whole:?}");
    signal(serving["pid"].as_u64().unwrap() as u32, "-TERM");
    assert!(server.ended().success());
    assert!(std::fs::read_to_string(&log).unwrap().contains("(DELAYED)"));
    place.assert_whole();
}

#[test]
fn a_full_disk_is_507_and_costs_nothing() {
    let test = "together::a_full_disk_is_507_and_costs_nothing";
    let Some(disk) = SmallDisk::of(test, "size=4m,mode=0700") else { return };
    let before = disk.place.list();
    let server = Server::start(&disk.place);
    disk.fill();
    for kind in ["manual", "daily"] {
        let answer = create(&server).json(&json!({ "type": kind })).send();
        let detail = answer.problem(507, "disk-full");
        assert!(detail.contains("make room") && detail.contains("older ones are untouched"), "{detail}");
        assert_eq!(disk.place.list(), before);
        disk.place.assert_whole();
    }
    assert_eq!(server.get("/api/backup/status").ok()["lastFailure"]["operation"], "create");
    disk.empty();
    assert_eq!(create(&server).send().status, 201);
    server.stop();
    disk.place.assert_whole();
}

#[test]
fn a_create_that_is_cancelled_leaves_nothing() {
    let place = Place::new();
    place.fill(60);
    let server = place.slowed(SLOW_COPIES);
    cancel(&server).problem(409, "nothing-runs");
    let mut stream = create(&server).open().unwrap();
    under_way(&place, "create");
    let cancelling = cancel(&server);
    assert_eq!(cancelling.status, 202, "{}", cancelling.text());
    assert_eq!(cancelling.json()["operation"]["kind"], "create");
    Answer::read(&mut stream, false).unwrap().problem(409, "cancelled");
    assert_undone(&place);
    let lines = place.audit();
    let line = lines.iter().find(|line| line["operation"] == "cancel").unwrap();
    assert_eq!((&line["by"], &line["details"]["cancelled"]), (&"user:ada".into(), &"create by user:ada".into()));
    // What was cancelled concerns no later one.
    at_full_speed(&server);
    assert_eq!(create(&server).send().status, 201);
    cancel(&server).problem(409, "nothing-runs");
}

#[test]
fn a_stop_during_a_create_undoes_it() {
    let place = Place::new();
    place.fill(60);
    let server = place.slowed(SLOW_COPIES);
    let mut stream = create(&server).open().unwrap();
    under_way(&place, "create");
    server.stop();
    // It is told so, if it is still there; it is never told that all is well.
    if let Ok(answer) = Answer::read(&mut stream, false) {
        answer.problem(409, "cancelled");
    }
    assert_undone(&place);
}

/// What a stop breaks off is the old in both databases or the new in both, at once or after the next start.
#[test]
fn a_stop_during_a_restore_leaves_all_old_or_all_new() {
    let (place, id) = numbered();
    let replaces =
        |place: &Place| eventually("it replaces", || place.backups().join("restore.json").exists().then_some(()));
    let copies = |place: &Place| drop(under_way(place, "restore"));
    for (slow, reaches) in [(SLOW_READS, &copies as &dyn Fn(&Place)), (SLOW_COMMITS, &replaces)] {
        let server = place.slowed(slow);
        let mut stream = restore(&server, &id).open().unwrap();
        reaches(&place);
        server.stop();
        let told = Answer::read(&mut stream, false);
        let server = Server::start(&place);
        eventually("it is settled", || (!place.backups().join("restore.json").exists()).then_some(()));
        let found = numbers(&place);
        println!("told {:?}, found {found:?}", told.as_ref().map(|answer| answer.status));
        assert!(found == ["1", "1"] || found == ["2", "2"], "{found:?}");
        if let Ok(answer) = told {
            assert_eq!(answer.status == 200, found[0] == "1", "{}", answer.text());
        }
        server.stop();
        place.assert_whole();
    }
}

/// The schedule is met while the restore's pages are written; its backup comes after that, once, and has what was restored.
#[test]
fn a_backup_that_falls_due_during_a_restore_comes_after_it_once() {
    let (mut place, id) = numbered_with(1);
    // Where it is morning: two days, whatever the hour is.
    let now = now();
    let zone = if now.hour() < 12 { "UTC" } else { "Etc/GMT+12" };
    let wall = |at: DateTime<Utc>| at.with_timezone(&zone.parse::<Tz>().unwrap());
    let due = now + TimeDelta::minutes(10);
    place.set("BACKUP_TIMEZONE", zone).set("BACKUP_ENABLED", "true").set("BACKUP_DRILL_SCHEDULE", "off");
    place.set("BACKUP_SCHEDULE_HOUR", &wall(due).hour().to_string());
    place.set("BACKUP_SCHEDULE_MINUTE", &wall(due).minute().to_string());
    daily_at(&place, &(now - TimeDelta::minutes(24 * 60 - 20)).format("%F %T").to_string());
    let dailies = || place.list().into_iter().filter(|it| it["type"] == "daily").collect::<Vec<_>>();

    let mut clocked = place.command(&[]);
    let clock = Clock::of(&place, &mut clocked);
    let delay = "pwrite64:delay_enter=600000000:when=3";
    let mut command = place.slow_command(delay, Some(&place.path("attendance.db-wal")), &clocked);
    let server = Server::of(&mut command, place.path("serve.log"));
    let mut stream = restore(&server, &id).open().unwrap();
    eventually("it replaces", || place.backups().join("restore.json").exists().then_some(()));
    clock.put_on(660);
    // The alarm rings every five seconds, or when it sees that it should have.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(holder(&place).map(|holder| holder["operation"].clone()), Some("restore".into()));
    assert_eq!(dailies().len(), 1);
    at_full_speed(&server);
    let restored = Answer::read(&mut stream, false).unwrap().ok();
    clock.put_on(670);
    eventually("the backup of the day", || (dailies().len() > 1).then_some(()));
    clock.put_on(680);
    std::thread::sleep(Duration::from_secs(1));
    server.stop();

    let today = format!("daily-{}", wall(due).format("%F"));
    let [daily, _] = dailies().try_into().unwrap();
    assert_eq!(daily["id"], today);
    let before = place.list().into_iter().find(|it| it["id"] == restored["preRestore"]).expect("it stands");
    for (backup, held) in [(&daily, "1"), (&before, "2")] {
        let held_by = NAMES.map(|name| sql_on_copy(&place.copy(backup, name), "SELECT n FROM state"));
        assert_eq!(held_by, [held; 2], "{}", backup["id"]);
    }
    assert_eq!(numbers(&place), ["1", "1"]);
    let outcomes = place.audit().into_iter().filter(|line| line["kind"] == "outcome" && line["by"] == "scheduler");
    let outcomes: Vec<_> = outcomes.map(|line| (line["operation"].clone(), line["ok"].clone())).collect();
    assert_eq!(outcomes, [("create".into(), true.into())]);
    place.assert_whole();
}

#[test]
fn one_verification_at_a_time_and_the_second_is_told_of_the_first() {
    let place = Place::new();
    place.fill(40);
    let backup = place.create();
    let id = backup["id"].as_str().unwrap();
    let server = Server::start(&place);
    let verify = server.request("POST", &format!("/api/backup/verify/{id}")).token(&superuser());
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "never two at once");
        let mut first = verify.open().unwrap();
        let second = verify.send();
        let first = Answer::read(&mut first, false).unwrap();
        let Some(refused) = [&first, &second].into_iter().find(|answer| answer.status == 409) else { continue };
        refused.problem(409, "held");
        let operation = &refused.json()["operation"];
        assert_eq!((&operation["operation"], &operation["by"]), (&format!("verify {id}").into(), &"user:ada".into()));
        assert!(first.status == 200 || second.status == 200, "both were refused");
        break;
    }
    // A backup isn't kept waiting for it.
    let mut verifying = verify.open().unwrap();
    assert_eq!(create(&server).send().status, 201);
    assert_eq!(Answer::read(&mut verifying, false).unwrap().json()["ok"], true);
}

/// Two backups, of which the newer is flagged: a table is gone. Of manual ones, one is kept.
fn shrunk() -> Place {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "1");
    place.sql("attendance", "CREATE TABLE marks (id INTEGER PRIMARY KEY); INSERT INTO marks VALUES (1)");
    place.create();
    place.sql("attendance", "DROP TABLE marks");
    assert_eq!(place.create()["flags"], json!(["shrunk"]));
    assert_eq!(place.ids().len(), 2);
    place
}

fn acknowledge(server: &Server, id: &str) -> Request {
    server.request("POST", "/api/backup/acknowledge").token(&superuser()).json(&json!({ "id": id }))
}

fn is_frozen(place: &Place) -> bool {
    place.warnings().contains(&"rotation-frozen".to_owned())
}

#[test]
fn an_acknowledged_shrink_counts_and_rotation_goes_on() {
    let place = shrunk();
    let ids = place.ids();
    let server = Server::start(&place);
    let acknowledge = |id: &str| acknowledge(&server, id).send();
    assert!(is_frozen(&place));
    // Whoever looked at another one has not looked at this.
    acknowledge(&ids[1]).problem(409, "not-flagged");
    let backup = acknowledge(&ids[0]).ok();
    assert_eq!((&backup["id"], &backup["flags"]), (&ids[0].as_str().into(), &json!([])));
    assert!(!is_frozen(&place));
    assert_eq!(place.ids(), [ids[0].as_str()]);
    acknowledge(&ids[0]).problem(409, "not-flagged");
    let lines = place.audit();
    let line = lines.iter().rfind(|line| line["operation"] == "acknowledge" && line["ok"] == true).unwrap();
    assert_eq!((&line["by"], &line["details"]["rotation"][0]["id"]), (&"user:ada".into(), &ids[1].as_str().into()));
    assert_eq!(create(&server).send().json()["flags"], json!([]));
    server.stop();
    place.assert_whole();
}

/// kill -9 at each call by which it changes the disk: flagged and frozen as before, or acknowledged and rotated, once
/// somebody has come by.
#[test]
fn an_acknowledgement_that_is_killed_is_done_or_not() {
    let shrunk = shrunk();
    // What the first start notes, of how many are kept, is there.
    Server::start(&shrunk).stop();
    let ids = shrunk.ids();
    let mut seen = [0, 0];
    let anywhere = ["fsync", "fdatasync", "rename", "renameat2", "unlink"].map(|call| Spot { call, path: None });
    // Threads that wake each other write as well.
    let in_log = Spot { call: "write", path: Some("audit.jsonl".to_owned()) };
    for spot in anywhere.into_iter().chain([in_log]) {
        for n in (1..).step_by(if thoroughness() >= 2 { 1 } else { 2 }) {
            let place = shrunk.twin();
            let mut command = place.faulty(&spot, &format!("signal=KILL:when={n}"), &["serve"]);
            command.env("BACKUP_ENABLED", "false");
            // Its start writes too.
            let Some(server) = Server::try_of(&mut command, place.path("serve.log")) else { continue };
            let serving: Value =
                serde_json::from_slice(&std::fs::read(place.backups().join(".serve")).unwrap()).unwrap();
            let answer = acknowledge(&server, &ids[0]).try_send();
            // Not killed it answers, and strace doesn't take it along when it is stopped itself.
            if let Ok(answer) = answer {
                signal(serving["pid"].as_u64().unwrap() as u32, "-TERM");
                let mut server = server;
                assert!(server.ended().success());
                answer.ok();
                break;
            }
            drop(server);
            // Whoever comes next puts it right before his own operation.
            place.ok(&["pin", &ids[0]]);
            let done = !is_frozen(&place);
            assert_eq!(place.ids().len(), if done { 1 } else { 2 }, "{spot} {n}");
            assert_eq!(place.list()[0]["flags"], if done { json!([]) } else { json!(["shrunk"]) }, "{spot} {n}");
            let told =
                place.audit().into_iter().rfind(|it| it["operation"] == "acknowledge" && it["kind"] == "outcome");
            assert!(told.map_or(!done, |line| line["ok"] == done), "{spot} {n}");
            place.assert_whole();
            seen[usize::from(done)] += 1;
        }
    }
    println!("undone, done: {seen:?}");
    Tried::of(seen[0] + seen[1], seen[1], 0).report("acknowledge", "kill -9");
    assert!(seen[0] > 2 && seen[1] > 2, "undone, done: {seen:?}");
}
