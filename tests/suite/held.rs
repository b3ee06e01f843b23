//! An app that keeps what it has opened, in each of the two languages: connections and prepared statements are as old as
//! the process, whatever happens to the databases under them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::Place;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Python,
    Node,
}

impl Language {
    pub const BOTH: [Self; 2] = [Self::Python, Self::Node];

    fn command(self) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (program, script) = match self {
            Self::Python => ("python3", "tests/suite/python/held.py"),
            Self::Node => ("node", "tests/node/app.mjs"),
        };
        let built = root.join("tests/node/node_modules/.made-of");
        assert!(self == Self::Python || built.exists(), "better-sqlite3 is missing: run `scripts/setup test`");
        let mut command = Command::new(program);
        command.arg(root.join(script));
        command
    }
}

/// A process with one connection for each database, which waits a minute for a lock: how fast the machine is just now makes no error.
pub struct App {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl App {
    pub fn open(language: Language, place: &Place, names: &[&str]) -> Self {
        let mut command = language.command();
        command.args(names.iter().map(|name| format!("{name}={}", place.live(name).display())));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut app = Self { child, answers };
        assert_eq!(app.answer(), json!("ready"));
        app
    }

    /// Both databases of a place.
    pub fn of(language: Language, place: &Place) -> Self {
        Self::open(language, place, &["attendance", "auth"])
    }

    /// Runs a statement, prepared when this text came first: its rows, or how many it changed. Fails with `CODE: message`.
    pub fn ask(&mut self, db: &str, sql: &str) -> Result<Value, String> {
        self.ask_with(db, sql, &json!([]))
    }

    /// The same with a value for each `?`.
    pub fn ask_with(&mut self, db: &str, sql: &str, values: &Value) -> Result<Value, String> {
        let answer = self.command(&json!({ "db": db, "sql": sql, "values": values }))?;
        Ok(answer.get("rows").unwrap_or_else(|| &answer["changes"]).clone())
    }

    /// Runs a statement, which must go well.
    #[track_caller]
    pub fn ok(&mut self, db: &str, sql: &str) -> Value {
        self.ask(db, sql).unwrap_or_else(|error| panic!("{db}: {sql}: {error}"))
    }

    /// The first column of the only row.
    #[track_caller]
    pub fn one(&mut self, db: &str, sql: &str) -> Value {
        let rows = self.ok(db, sql);
        assert_eq!(rows.as_array().map(Vec::len), Some(1), "{db}: {sql}: {rows}");
        rows[0][0].clone()
    }

    /// One row more of a statement that stays where it is until it has no more; then `null`.
    #[track_caller]
    pub fn step(&mut self, db: &str, sql: &str) -> Value {
        let command = json!({ "db": db, "sql": sql, "step": true });
        self.command(&command).unwrap_or_else(|error| panic!("{db}: {sql}: {error}"))["row"].clone()
    }

    /// Ends it as an app ends: the connections are closed.
    pub fn close(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    fn command(&mut self, command: &Value) -> Result<Value, String> {
        let line = format!("{command}\n");
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        let answer = self.answer();
        match answer.get("error") {
            Some(code) => Err(format!("{}: {}", code.as_str().unwrap(), answer["message"].as_str().unwrap())),
            None => Ok(answer),
        }
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the app died: {error}: {line:?}"))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells threads to end, also when what they are waiting for fails.
pub struct Ending<'a>(pub &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Each language sees at its next statement what the other has committed, by statements that it prepared before.
#[test]
fn apps_in_both_languages_work_side_by_side() {
    for mode in ["wal", "delete"] {
        let place = Place::new();
        place.sql("attendance", &format!("PRAGMA journal_mode={mode}"));
        let mut apps = Language::BOTH.map(|language| App::of(language, &place));
        let count = "SELECT count(*) FROM people";
        for (n, writer) in [0, 1, 0, 1].into_iter().enumerate() {
            for app in &mut apps {
                assert_eq!(app.one("attendance", count), 3 + n);
                assert_eq!(app.one("attendance", "PRAGMA journal_mode"), mode);
            }
            assert_eq!(apps[writer].ok("attendance", "INSERT INTO people (name) VALUES ('Zoë')"), 1);
        }
        apps.into_iter().for_each(App::close);
        assert_eq!(place.sql("attendance", count), "7");
    }
}

/// What fails is told, and the next command is obeyed.
#[test]
fn an_app_survives_its_errors() {
    for language in Language::BOTH {
        let place = Place::new();
        let mut app = App::of(language, &place);
        assert_eq!(app.ask("attendance", "SELECT * FROM ghosts").unwrap_err(), "SQLITE_ERROR: no such table: ghosts");
        assert_eq!(app.ok("attendance", "SELECT * FROM people WHERE id < 3"), json!([[1, "Ada"], [2, "Ben"]]));
        // A kept statement meets a changed schema, made by another.
        place.sql("attendance", "ALTER TABLE people ADD COLUMN class TEXT DEFAULT '5b'");
        assert_eq!(app.ok("attendance", "SELECT * FROM people WHERE id < 3")[0], json!([1, "Ada", "5b"]));
        place.sql("attendance", "DROP TABLE people");
        let error = app.ask("attendance", "SELECT * FROM people WHERE id < 3").unwrap_err();
        assert_eq!(error, "SQLITE_ERROR: no such table: people");
        assert_eq!(app.one("auth", "SELECT email FROM users"), "a@school.example");
        // A lock that another holds is waited for, and then told.
        let mut other = App::of(language, &place);
        other.ok("auth", "BEGIN IMMEDIATE");
        app.ok("auth", "PRAGMA busy_timeout=2000");
        let error = app.ask("auth", "INSERT INTO users (email) VALUES ('b@school.example')").unwrap_err();
        assert_eq!(error, "SQLITE_BUSY: database is locked");
    }
}

/// A transaction and a statement that was not read to its end each keep what they began with.
#[test]
fn an_app_keeps_its_snapshots() {
    for language in Language::BOTH {
        let place = Place::new();
        let mut apps = [App::of(language, &place), App::of(language, &place)];
        let (rows, count) = ("SELECT name FROM people ORDER BY id", "SELECT count(*) FROM people");
        apps[0].ok("attendance", "BEGIN");
        assert_eq!(apps[0].one("attendance", count), 3);
        assert_eq!(apps[1].step("attendance", rows), json!(["Ada"]));
        place.sql("attendance", "DELETE FROM people WHERE id > 1");
        assert_eq!(apps[0].one("attendance", count), 3);
        assert_eq!(apps[1].step("attendance", rows), json!(["Ben"]));
        assert_eq!(apps[1].step("attendance", rows), json!(["Carla"]));
        assert_eq!(apps[1].step("attendance", rows), Value::Null);
        apps[0].ok("attendance", "COMMIT");
        for app in &mut apps {
            assert_eq!(app.one("attendance", count), 1);
        }
        assert_eq!(apps[1].step("attendance", rows), json!(["Ada"]));
    }
}
