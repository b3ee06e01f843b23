//! An app that does what a test tells it, one statement after another: it holds locks, dies, or looks what is left.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use crate::harness::python3;

/// A process with connections that stay open, none of which waits for a lock.
pub struct App {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl App {
    /// With one connection for each path.
    pub fn on(paths: &[&Path]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/python/app.py");
        let mut command = python3();
        command.arg(script).args(paths).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut app = Self { child, answers };
        assert_eq!(app.answer(), "ready");
        app
    }

    /// Runs a statement on a connection. Says the rows as JSON, or `error: …`.
    pub fn sql(&mut self, connection: usize, sql: &str) -> String {
        let line = format!("{connection} {sql}\n");
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        self.answer()
    }

    /// Runs a statement that must go well.
    #[track_caller]
    pub fn ok(&mut self, connection: usize, sql: &str) -> String {
        let answer = self.sql(connection, sql);
        assert!(!answer.starts_with("error:"), "{sql}: {answer}");
        answer
    }

    /// Lets it close its connections and end.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// Ends it in the midst of whatever it does.
    pub fn kill(self) {
        // `Drop` does it.
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
