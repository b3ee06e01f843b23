//! A place with live databases and a backup directory, the program run on it, an app beside it, and what must hold
//! after everything.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::patience::{PATIENCE, Watched};

/// The program as it was built.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_attendance-backup");

/// What the app and the program sign tokens with.
pub const SECRET: &str = "9b1f7c52e0d84a36b7fd02c9e5a1486dd3705fae92c84b1b";
/// Whom tokens are for.
pub const AUDIENCE: &str = "backup";

/// How thorough the long tests are: 1 in CI, more by `make faults`.
pub fn thoroughness() -> usize {
    std::env::var("THOROUGH").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A folder with `attendance.db`, `auth.db` and `backups`.
pub struct Place {
    dir: TempDir,
    env: Vec<(String, String)>,
    _watched: Watched,
}

impl Place {
    /// Without databases yet.
    pub fn empty() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    /// How long the app's writers may be held is no matter of how fast this machine is just now: a disk that stands still for some
    /// seconds is no fault of what a test looks at. The tests of these limits set their own.
    pub fn in_dir(dir: TempDir) -> Self {
        let limits = ["BACKUP_RESTORE_HOLD", "BACKUP_ROLLBACK_HOLD"].map(|name| (name.to_owned(), "1m".to_owned()));
        Self { dir, env: limits.into(), _watched: Watched::now() }
    }

    /// With two small databases in WAL mode.
    pub fn new() -> Self {
        let place = Self::empty();
        place.sql("attendance", "PRAGMA journal_mode=WAL; CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT);");
        place.sql("attendance", "INSERT INTO people (name) VALUES ('Ada'), ('Ben'), ('Carla');");
        place.sql("auth", "PRAGMA journal_mode=WAL; CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT UNIQUE);");
        place.sql("auth", "INSERT INTO users (email) VALUES ('a@school.example');");
        place
    }

    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a setting back.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.env.retain(|(known, _)| known != name);
        self
    }

    /// The same once more, second names of files included.
    pub fn twin(&self) -> Self {
        self.twin_in(tempfile::tempdir().unwrap())
    }

    pub fn twin_in(&self, dir: TempDir) -> Self {
        let twin = Self { dir, env: self.env.clone(), _watched: Watched::now() };
        let copied = Command::new("cp").arg("-a").arg(self.dir.path().join(".")).arg(twin.dir.path()).status();
        assert!(copied.unwrap().success());
        twin
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn live(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.db"))
    }

    pub fn backups(&self) -> PathBuf {
        self.path("backups")
    }

    /// Runs SQL on a live database, as the app's own SQLite would.
    pub fn sql(&self, name: &str, sql: &str) -> String {
        sql_on(&self.live(name), sql)
    }

    /// Fills `attendance` with so many megabytes that don't repeat.
    pub fn fill(&self, megabytes: usize) {
        let rows =
            format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})", megabytes * 2);
        self.sql("attendance", "CREATE TABLE blobs (bytes)");
        self.sql("attendance", &format!("{rows} INSERT INTO blobs SELECT randomblob(500000) FROM n"));
        self.sql("attendance", "PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// The variables that the program runs with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let databases =
            format!("attendance={},auth={}", self.live("attendance").display(), self.live("auth").display());
        let mut env = vec![
            ("BACKUP_DATABASES".to_owned(), databases),
            ("BACKUP_DIRECTORY".to_owned(), self.backups().display().to_string()),
            ("BACKUP_TIMEZONE".to_owned(), "UTC".to_owned()),
            ("BACKUP_BIND".to_owned(), "127.0.0.1:0".to_owned()),
            ("BACKUP_JWT_SECRET".to_owned(), SECRET.to_owned()),
            ("BACKUP_JWT_AUDIENCE".to_owned(), AUDIENCE.to_owned()),
        ];
        env.extend(self.env.clone());
        env
    }

    /// `program` with those variables and no other `BACKUP_*`.
    pub fn command_of(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BACKUP_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment()).stdin(Stdio::null());
        command
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.command_of(PROGRAM);
        command.args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).output().unwrap())
    }

    /// Runs it, which must go well.
    pub fn ok(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, 0, "{args:?}: {}{}", run.stdout, run.stderr);
        run
    }

    /// Runs it with `--json`, which must go well.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        serde_json::from_str(&self.ok(&args).stdout).unwrap()
    }

    /// A backup that must succeed, as the program shows it.
    pub fn create(&self) -> Value {
        self.json(&["create"])
    }

    pub fn list(&self) -> Vec<Value> {
        self.json(&["list"])["backups"].as_array().unwrap().clone()
    }

    pub fn ids(&self) -> Vec<String> {
        self.list().iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
    }

    pub fn warnings(&self) -> Vec<String> {
        let status = self.json(&["status"]);
        status["warnings"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap().to_owned()).collect()
    }

    /// The file of a backup's database.
    pub fn copy(&self, backup: &Value, name: &str) -> PathBuf {
        self.backups().join(backup["databases"][name]["file"].as_str().unwrap())
    }

    pub fn catalog(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.backups().join("metadata.json")).unwrap()).unwrap()
    }

    /// Lines of the audit log.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.backups().join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What must hold after every operation, however it ended: the catalog names only whole and true files, nothing else
    /// lies about unreported, all of it is private, and the audit log is whole.
    pub fn assert_whole(&self) {
        let catalog = self.catalog();
        let (mut named, mut opened, aside) = (BTreeSet::new(), Vec::new(), tempfile::tempdir().unwrap());
        for backup in catalog["backups"].as_array().unwrap() {
            assert_ne!(backup["deleting"], true, "a deletion was left half done: {}", backup["id"]);
            for copy in backup["databases"].as_object().unwrap().values() {
                let file = copy["file"].as_str().unwrap();
                let path = self.backups().join(file);
                let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
                assert_eq!(bytes.len() as u64, copy["storedSize"].as_u64().unwrap(), "{file}");
                assert_eq!(sha256(&bytes), copy["storedChecksum"].as_str().unwrap(), "{file}");
                opened.extend(self.decoded(copy, aside.path()));
                named.insert(file.to_owned());
            }
        }
        assert_structure(&opened);
        let mut unnamed = BTreeSet::new();
        for (file, mode, is_dir) in tree(&self.backups()) {
            assert_eq!(mode & 0o777, if is_dir { 0o700 } else { 0o600 }, "mode of {file}");
            for ending in ["-wal", "-shm", "-journal", ".partial"] {
                assert!(!file.ends_with(ending), "{file} was left");
            }
            if file == ".audit-reserve" {
                assert!(self.backups().join(&file).metadata().unwrap().blocks() > 0, "the reserve is a mere name");
            }
            // What is known of replicas is no backup, nor is the journal.
            let is_known = file.starts_with("replicas/") || file.starts_with("journal/");
            if !is_dir && file.contains('/') && !is_known && !named.contains(&file) {
                unnamed.insert(file);
            }
        }
        let status = self.json(&["status"]);
        let reported: BTreeSet<String> =
            status["unmanaged"].as_array().unwrap().iter().map(|file| file.as_str().unwrap().to_owned()).collect();
        assert_eq!(unnamed, reported, "what lies about is not what the status reports");
        self.ok(&["audit", "verify"]);
    }

    /// An app that commits n to `attendance` and then n to `auth` without pause.
    pub fn writer(&self, pause: f64) -> Writer {
        Writer::start(&self.live("attendance"), &self.live("auth"), pause)
    }

    /// The same, for how long it is kept waiting.
    pub fn timed_writer(&self, pause: f64) -> Writer {
        Writer::timed(&self.live("attendance"), &self.live("auth"), pause)
    }
}

/// Every path below `root` with its mode and whether it is a folder. What goes while it is looked at isn't there.
pub fn tree(root: &Path) -> Vec<(String, u32, bool)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder);
        let entries = if folder == root { Some(entries.unwrap()) } else { unless_gone(entries) };
        for entry in entries.into_iter().flatten() {
            let path = entry.unwrap().path();
            let Some(meta) = unless_gone(path.symlink_metadata()) else { continue };
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.push((name, meta.permissions().mode(), meta.is_dir()));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

fn unless_gone<T>(looked: std::io::Result<T>) -> Option<T> {
    match looked {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        looked => Some(looked.unwrap()),
    }
}

/// Every path below `root`, and what changes with any touch: inode, size, time of the last change (nanoseconds).
pub fn traces(root: &Path) -> Vec<(String, u64, u64, i64, i64)> {
    let trace = |(name, _, _)| {
        let meta = root.join(&name).symlink_metadata().unwrap();
        (name, meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec())
    };
    let found = if root.exists() { tree(root) } else { Vec::new() };
    let mut traces: Vec<_> = found.into_iter().map(trace).collect();
    traces.sort();
    traces
}

/// What comes of asking again and again; it must come.
pub fn eventually<T>(what: &str, mut asked: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = asked() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What comes of it in that time.
#[track_caller]
pub fn in_time<T>(limit: Duration, mut done: impl FnMut() -> T) -> T {
    in_some_tries(|| {
        let begun = Instant::now();
        let result = done();
        let took = begun.elapsed();
        if took < limit { Ok(result) } else { Err(format!("{took:?}, where {limit:?} is the limit")) }
    })
}

/// What comes of it when it is in time, and else what it took. A machine that has no time for it is given some more tries.
#[track_caller]
pub fn in_some_tries<T>(mut tried: impl FnMut() -> Result<T, String>) -> T {
    let mut late = Vec::new();
    for _ in 0..4 {
        match tried() {
            Ok(done) => return done,
            Err(why) => late.push(why),
        }
    }
    panic!("it is never done in time: {late:?}");
}

/// Details of an outcome without how long it took, which has to be there.
#[track_caller]
pub fn untimed(details: &Value) -> Value {
    let mut details = details.clone();
    let seconds = details.as_object_mut().and_then(|details| details.remove("seconds"));
    assert!(seconds.is_some_and(|seconds| seconds.as_f64() >= Some(0.0)), "{details}");
    details
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Ends a process. On a faked clock it leaves a semaphore under its number, and the next process of that number could not
/// make its own.
pub fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        let _ = std::fs::remove_file(format!("/dev/shm/{name}{}", child.id()));
    }
}

/// How the program ended.
pub struct Run {
    /// -1 when a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It failed with that code, saying all of `words`.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
    }
}

/// The app's Python with its own library alone. It is looked up once: thousands are started, and where a version manager
/// stands in its place, each time that chooses takes longer than what Python does here.
pub fn python3() -> Command {
    static FOUND: LazyLock<PathBuf> = LazyLock::new(|| {
        let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().into()
    });
    let mut command = Command::new(&*FOUND);
    command.arg("-S");
    command
}

/// Runs a Python program, the app's side; it must go well. Says what it printed.
pub fn python(source: &str, args: &[&Path]) -> String {
    let output = python3().arg("-c").arg(source).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Runs SQL through the SQLite of Python; rows come one a line, columns divided by `|`.
pub fn sql_on(path: &Path, sql: &str) -> String {
    python(
        "import sqlite3, sys\n\
         c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)\n\
         for s in sys.argv[2].split(';'):\n\
         \x20   for row in c.execute(s): print('|'.join(map(str, row)))\n",
        &[path, Path::new(sql)],
    )
}

/// Each of these finished copies is a whole database for another SQLite than ours, with the function and the collation
/// that the app of `sources` brings.
fn assert_structure(copies: &[PathBuf]) {
    let checked = python(
        "import sqlite3, sys, urllib.parse\n\
         for path in sys.argv[1:]:\n\
         \x20   c = sqlite3.connect('file:' + urllib.parse.quote(path) + '?immutable=1', uri=True)\n\
         \x20   c.create_function('is_card', 1, lambda card: card.startswith('K'), deterministic=True)\n\
         \x20   c.create_collation('swedish', lambda a, b: (a > b) - (a < b))\n\
         \x20   for row in c.execute('PRAGMA integrity_check'): print(*row)\n",
        &copies.iter().map(PathBuf::as_path).collect::<Vec<_>>(),
    );
    assert!(checked.lines().all(|line| line == "ok") && checked.lines().count() == copies.len(), "{checked}");
}

/// The same on a finished copy, beside which nothing may appear.
pub fn sql_on_copy(path: &Path, sql: &str) -> String {
    python(
        "import sqlite3, sys, urllib.parse\n\
         c = sqlite3.connect('file:' + urllib.parse.quote(sys.argv[1]) + '?immutable=1', uri=True)\n\
         for row in c.execute(sys.argv[2]): print('|'.join(map(str, row)))\n",
        &[path, Path::new(sql)],
    )
}

/// The text of a whole database, by Python's SQLite.
pub fn dump(path: &Path, immutable: bool) -> String {
    let how = if immutable { "?immutable=1" } else { "?mode=rw" };
    python(
        "import sqlite3, sys, urllib.parse\n\
         c = sqlite3.connect('file:' + urllib.parse.quote(sys.argv[1]) + sys.argv[2], uri=True)\n\
         print('\\n'.join(c.iterdump()))\n",
        &[path, Path::new(how)],
    )
}

/// A second process that writes.
pub struct Writer {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

/// What it saw.
#[derive(serde::Deserialize)]
pub struct Written {
    pub pairs: u64,
    pub errors: Vec<String>,
    pub slowest: f64,
}

impl Writer {
    pub fn start(first: &Path, second: &Path, pause: f64) -> Self {
        Self::spawn(Self::command(first, second).arg(pause.to_string()))
    }

    /// It doesn't wait for the disk: what keeps it waiting is our doing.
    pub fn timed(first: &Path, second: &Path, pause: f64) -> Self {
        Self::spawn(Self::command(first, second).arg(pause.to_string()).arg("OFF"))
    }

    fn command(first: &Path, second: &Path) -> Command {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/python/writer.py");
        let mut command = python3();
        command.arg(script).arg(first).arg(second);
        command
    }

    /// Any process that says `ready`, and that ends when its standard input does.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, lines }
    }

    /// Ends it, and says what it printed last.
    pub fn last_line(mut self) -> String {
        drop(self.child.stdin.take().map(|mut stdin| stdin.write_all(b"end\n")));
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(self.child.wait().unwrap().success());
        line
    }

    pub fn stop(self) -> Written {
        serde_json::from_str(&self.last_line()).unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
