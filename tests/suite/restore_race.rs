//! Twenty at once who restore, delete and create, by command and by HTTP: one at a time, the others are told who holds
//! the directory, and whatever was done is whole [P1, P6, P10].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Answer, Server, token};
use crate::harness::{Place, Run, eventually, sql_on_copy, thoroughness};
use crate::held::{App, Ending, Language};

const NAMES: [&str; 2] = ["attendance", "auth"];
const STATE: &str = "SELECT n FROM state";

/// Databases that have the same number in both, and backups with the numbers 1 to 3.
fn place() -> Place {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "6").set("BACKUP_RETENTION_PRE_RESTORE", "6");
    NAMES.iter().for_each(|name| drop(place.sql(name, "CREATE TABLE state (n); INSERT INTO state VALUES (0)")));
    for n in 1..=3 {
        NAMES.iter().for_each(|name| drop(place.sql(name, &format!("UPDATE state SET n = {n}"))));
        place.create();
    }
    place
}

/// Both have the same number, live and in every backup: no restore and no copy has mixed two states.
fn assert_unmixed(place: &Place) {
    let numbers = |read: &dyn Fn(&str) -> String| {
        let [first, second] = NAMES.map(read);
        assert!(first == second && ["1", "2", "3"].contains(&first.as_str()), "{first} and {second}");
    };
    numbers(&|name| place.sql(name, STATE));
    for backup in place.list() {
        numbers(&|name| sql_on_copy(&place.copy(&backup, name), STATE));
    }
}

/// How often what was asked for was done (restores, deletes, creates), and how often another operation was in the way.
#[derive(Debug, Default)]
struct Count {
    done: [AtomicUsize; 3],
    held: AtomicUsize,
}

impl Count {
    fn done(&self, client: usize) {
        self.done[client % 3].fetch_add(1, Ordering::AcqRel);
    }

    fn held(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
    }

    /// Each kind was done at least once, and at least once one was told of another.
    fn is_enough(&self) -> bool {
        self.done.iter().chain([&self.held]).all(|it| it.load(Ordering::Acquire) > 0)
    }
}

/// One of the backups that there are, another for each client and round.
fn choose(backups: &[Value], client: usize, round: usize) -> String {
    let chosen = backups.get((client * 7 + round) % backups.len().max(1));
    chosen.map_or("daily-2026-01-08", |backup| backup["id"].as_str().unwrap()).to_owned()
}

/// Twenty clients until the time is over and all that is counted has happened, beside an app that reads.
fn twenty(place: &Place, counts: &[&Count], act: impl Fn(usize, usize) + Sync) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (act, over) = (&act, &over);
        for client in 0..20 {
            scope.spawn(move || {
                for round in 0.. {
                    act(client, round);
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                }
            });
        }
        let _ending = Ending(over);
        let mut app = App::of(Language::Python, place);
        for _ in 0..30 * thoroughness() {
            std::thread::sleep(Duration::from_millis(100));
            NAMES.iter().for_each(|name| drop(app.one(name, STATE)));
        }
        eventually("one of each", || counts.iter().all(|count| count.is_enough()).then_some(()));
    });
}

/// What a client of that number does by command: 0 and 1 for what can come of it, 3 with the name of who is in the way.
fn command(place: &Place, count: &Count, client: usize, round: usize) {
    let one = choose(&place.list(), client, round);
    let args = match client % 3 {
        0 => vec!["restore", &one, "--confirm", &one],
        1 => vec!["delete", &one],
        _ => vec!["create"],
    };
    let run: Run = place.run(&args);
    match run.code {
        0 => count.done(client),
        3 => {
            run.refused(3, &["another operation holds the backup directory: "]);
            // Of a server that has just started the first is its recovery.
            let known = ["restore", "delete", "create", "recovery"].iter().any(|name| run.stderr.contains(name));
            // Between its lock and its name there is a moment.
            assert!(known || run.stderr.contains("has not said who it is"), "{}", run.stderr);
            count.held();
        }
        _ => {
            let gone = run.stderr.contains(&format!("there is no backup {one}")) && client % 3 < 2;
            let last = run.stderr.contains("the last good one") && client % 3 == 1;
            assert!(run.code == 1 && (gone || last), "{args:?}: {}: {}", run.code, run.stderr);
        }
    }
}

#[test]
fn twenty_commands_at_once_leave_everything_whole() {
    let place = place();
    let count = Count::default();
    twenty(&place, &[&count], |client, round| command(&place, &count, client, round));
    assert_unmixed(&place);
    place.assert_whole();
}

/// The same by HTTP, where each client is a user of its own.
fn request(server: &Server, count: &Count, client: usize, round: usize) {
    let token = token(json!({ "sub": format!("user {client}"), "role": "superuser" }));
    let ask = |method: &str, path: &str| server.request(method, path).token(&token);
    let listed = ask("GET", "/api/backup/list").send().ok();
    let one = choose(listed["backups"].as_array().unwrap(), client, round);
    let (answer, code): (Answer, u16) = match client % 3 {
        0 => (ask("POST", "/api/backup/restore").json(&json!({ "id": one, "confirm": one })).send(), 200),
        1 => (ask("DELETE", &format!("/api/backup/{one}")).send(), 204),
        _ => (ask("POST", "/api/backup/create").send(), 201),
    };
    match answer.status {
        status if status == code => count.done(client),
        404 if client % 3 < 2 => drop(answer.problem(404, "not-found")),
        409 if client % 3 == 1 && answer.text().contains("last-good") => drop(answer.problem(409, "last-good")),
        _ => {
            // Between a lock and its holder's name there is a moment.
            if !answer.problem(409, "held").contains("has not said who it is") {
                let operation = &answer.json()["operation"];
                assert!(operation["operation"].is_string() && operation["by"].is_string(), "{}", answer.text());
                assert!(operation["startedAt"].is_string() && operation["pid"].is_u64(), "{operation}");
            }
            count.held();
        }
    }
}

#[test]
fn twenty_requests_at_once_leave_everything_whole() {
    let place = place();
    let server = Server::start(&place);
    let count = Count::default();
    twenty(&place, &[&count], |client, round| request(&server, &count, client, round));
    server.stop();
    assert_unmixed(&place);
    place.assert_whole();
}

/// Half of them by command and half by HTTP, on one directory.
#[test]
fn commands_and_requests_at_once_leave_everything_whole() {
    let place = place();
    let server = Server::start(&place);
    let (by_command, by_http) = (Count::default(), Count::default());
    twenty(&place, &[&by_command, &by_http], |client, round| match client % 2 {
        0 => command(&place, &by_command, client / 2, round),
        _ => request(&server, &by_http, client / 2, round),
    });
    server.stop();
    assert_unmixed(&place);
    place.assert_whole();
}
