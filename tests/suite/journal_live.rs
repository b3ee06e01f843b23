//! The journal of databases that an app writes to: what it holds of any instant is what they were then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, SystemTime};

use attendance_backup::journal::folder::folder;
use attendance_backup::journal::timeline::Timeline;
use attendance_backup::journal::{Index, Level, chain, rebuild};
use attendance_backup::sqlite::Control;
use chrono::{DateTime, Utc};
use rustix::process::{Pid, Signal, kill_process};

use crate::app::App;
use crate::client::Server;
use crate::harness::{Place, eventually, kill, sql_on_copy};

/// A place whose journal is written at such intervals.
pub fn place(interval: &str) -> Place {
    let mut place = Place::new();
    place.set("BACKUP_PITR", "true").set("BACKUP_PITR_INTERVAL", interval);
    place
}

pub fn timeline(place: &Place) -> Timeline {
    Timeline::read(&place.backups()).unwrap()
}

fn millis(at: DateTime<Utc>) -> u64 {
    at.timestamp_millis() as u64
}

#[allow(clippy::disallowed_methods)]
pub fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

/// Waits until a tick has looked at the databases as they are now; says when.
pub fn ticked(place: &Place) -> DateTime<Utc> {
    let since = now() + chrono::TimeDelta::milliseconds(2);
    eventually("a tick", || timeline(place).alive.filter(|alive| *alive > since))
}

pub fn index(place: &Place, name: &str) -> Index {
    Index::scan(&folder(&place.backups(), &name.parse().unwrap())).unwrap()
}

/// What the journal says that a database was.
pub fn rebuilt(place: &Place, name: &str, at: DateTime<Utc>) -> Vec<u8> {
    let folder = folder(&place.backups(), &name.parse().unwrap());
    let chain = chain::plan(&Index::scan(&folder).unwrap(), millis(at)).unwrap_or_else(|| panic!("nothing at {at}"));
    let file = tempfile::NamedTempFile::new().unwrap();
    rebuild::rebuild(&folder, &chain, (file.as_file(), file.path()), &Control::default()).unwrap();
    std::fs::read(file.path()).unwrap()
}

/// What litestream makes of it.
fn restored_by_litestream(place: &Place, name: &str, at: Option<DateTime<Utc>>) -> Vec<u8> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/litestream");
    let target = place.path("litestream.db");
    let _ = std::fs::remove_file(&target);
    let mut command = Command::new(program);
    command.args(["restore", "-o"]).arg(&target);
    if let Some(at) = at {
        command.arg("-timestamp").arg(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
    }
    let replica = format!("file://{}", folder(&place.backups(), &name.parse().unwrap()).display());
    let output = command.arg(replica).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(&target).unwrap()
}

/// The file of a live database that nobody writes to just now.
pub fn live(place: &Place, name: &str) -> Vec<u8> {
    place.sql(name, "PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::read(place.live(name)).unwrap()
}

fn kill_server(mut server: Server) {
    kill(&mut server.child);
}

#[test]
fn quiet_ticks_write_nothing_and_a_restart_goes_on() {
    let place = place("1s");
    let server = Server::start(&place);
    ticked(&place);
    // What is joined meanwhile no tick has written.
    let files = |name: &str| [Level::SNAPSHOT, Level::CAPTURED].map(|level| index(&place, name).level(level).len());
    assert_eq!((files("attendance"), files("auth")), ([1, 0], [1, 0]), "a snapshot each");
    ticked(&place);
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    ticked(&place);
    assert_eq!((files("attendance"), files("auth")), ([1, 1], [1, 0]));
    kill_server(server);
    // A tick may come late on a machine that has much to do, and that is a gap too: another one.
    let gap_after = |last| timeline(&place).gaps.into_iter().find(|gap| gap.from == last);
    let before = timeline(&place).alive.unwrap();
    let server = Server::start(&place);
    ticked(&place);
    assert_eq!((files("attendance"), files("auth")), ([1, 1], [1, 0]), "nothing had changed");
    assert_eq!(gap_after(before), None, "so nothing is unknown");
    kill_server(server);
    let before = timeline(&place).alive.unwrap();
    place.sql("auth", "INSERT INTO users (email) VALUES ('b@school.example')");
    let server = Server::start(&place);
    let after = ticked(&place);
    let gap = gap_after(before).unwrap_or_else(|| panic!("{:?}", timeline(&place).gaps));
    assert!(gap.to <= after, "{gap:?}");
    assert_eq!(index(&place, "auth").level(Level::SNAPSHOT).len(), 2, "a new base after it");
    assert_eq!(rebuilt(&place, "auth", after), live(&place, "auth"));
    kill_server(server);
}

#[test]
fn whatever_shape_a_database_has_or_gets() {
    let mut place = Place::empty();
    let sizes = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
    let mut names: Vec<String> = sizes.iter().map(|size| format!("p{size}")).collect();
    for (name, size) in names.iter().zip(sizes) {
        place.sql(name, &format!("PRAGMA page_size={size}; PRAGMA journal_mode=WAL"));
    }
    place.sql("vacuumed", "PRAGMA auto_vacuum=FULL; PRAGMA journal_mode=WAL");
    names.extend(["vacuumed", "rollback", "later"].map(str::to_owned));
    let listed: Vec<_> = names.iter().map(|name| format!("{name}={}", place.live(name).display())).collect();
    place.set("BACKUP_DATABASES", &listed.join(","));
    place.set("BACKUP_PITR", "true").set("BACKUP_PITR_INTERVAL", "200ms");
    for name in &names {
        place.sql(name, "CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT); CREATE INDEX texts ON rows (text)");
    }
    let rows = |count: u32| {
        format!(
            "INSERT INTO rows (text) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT hex(randomblob(150)) FROM n"
        )
    };
    let mut seen = Vec::new();
    let mut server = Some(Server::start(&place));
    for step in 0..8 {
        for name in &names {
            match step {
                0 => place.sql(name, &rows(400)),
                1 => place.sql(name, "UPDATE rows SET text = 'changed' WHERE id % 7 = 0"),
                2 => place.sql(name, "DELETE FROM rows WHERE id > 60; VACUUM"),
                3 => place.sql(
                    name,
                    &format!("{}; PRAGMA wal_checkpoint(TRUNCATE); UPDATE rows SET text = 'x' WHERE id = 3", rows(30)),
                ),
                // Both the app's and our own end lie between two ticks.
                4 => {
                    server.take().into_iter().for_each(kill_server);
                    place.sql(name, &format!("{}; PRAGMA wal_checkpoint(TRUNCATE)", rows(20)))
                }
                5 => {
                    server.get_or_insert_with(|| Server::start(&place));
                    place.sql(name, "DELETE FROM rows WHERE id % 2 = 0")
                }
                6 if name == "later" => changes_to_wal(&place),
                _ => place.sql(name, &rows(5)),
            };
        }
        if server.is_some() {
            let at = ticked(&place);
            let files: BTreeMap<_, _> = names.iter().map(|name| (name, live(&place, name))).collect();
            seen.push((at, files));
        }
    }
    assert!(seen.len() == 7);
    for (step, (at, databases)) in seen.iter().enumerate() {
        for (name, bytes) in databases {
            assert!(rebuilt(&place, name, *at) == *bytes, "{name} after step {step}");
        }
    }
    for name in ["p512", "p65536", "vacuumed", "rollback"] {
        assert!(restored_by_litestream(&place, name, None) == seen[6].1[&name.to_owned()], "{name}");
    }
    server.into_iter().for_each(kill_server);
}

/// The app changes its mind. It needs the database for itself for that, and asks again if it was being looked at.
fn changes_to_wal(place: &Place) -> String {
    let mut app = App::on(&[&place.live("later")]);
    eventually("WAL mode", || (app.sql(0, "PRAGMA journal_mode=WAL") == "[[\"wal\"]]").then_some(()));
    // The first to open the WAL keeps all others out for a moment.
    eventually("a row", || {
        Some(app.sql(0, "INSERT INTO rows (text) VALUES ('in WAL mode')")).filter(|it| !it.starts_with("error:"))
    })
}

#[test]
fn a_database_that_is_replaced_begins_anew() {
    let place = place("100ms");
    let server = Server::start(&place);
    ticked(&place);
    let other = place.path("other.db");
    crate::harness::sql_on(
        &other,
        "PRAGMA page_size=8192; CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO people (name) VALUES ('Eve')",
    );
    std::fs::rename(&other, place.live("auth")).unwrap();
    let at = ticked(&place);
    assert_eq!(rebuilt(&place, "auth", at), live(&place, "auth"));
    assert_eq!(restored_by_litestream(&place, "auth", None), live(&place, "auth"));
    kill_server(server);
}

/// The stamping app, which can be killed and begun again.
pub struct Stamper {
    child: Child,
    pub log: PathBuf,
}

impl Stamper {
    pub fn start(place: &Place) -> Self {
        let log = place.path("stamps");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/python/stamper.py");
        let mut command = Command::new("python3");
        command.arg(script).args([place.live("attendance"), place.live("auth")]).arg("0.05").arg(&log);
        Self { child: command.stdout(Stdio::null()).spawn().unwrap(), log }
    }

    /// Lets it end between two commits. Of one that is killed in a commit the last may be in the WAL and yet unseen (SQLite syncs the
    /// frames before it tells of them): whoever recovers the WAL, once nobody has it open, finds one more than all readers did.
    pub fn end(mut self) -> PathBuf {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.log.clone()
    }
}

impl Drop for Stamper {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// When each number was begun, and when its commits were there.
pub type Stamps = BTreeMap<(String, u64), f64>;

pub fn stamps(log: &Path) -> Stamps {
    let text = std::fs::read_to_string(log).unwrap();
    let read = |line: &str| {
        let mut words = line.split(' ');
        let key = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some((key, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(read).collect()
}

pub fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

/// The last number in a database.
fn number(place: &Place, bytes: &[u8]) -> u64 {
    let path = place.path("rebuilt.db");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(sql_on_copy(&path, "PRAGMA integrity_check").trim(), "ok");
    sql_on_copy(&path, "SELECT coalesce(max(n), 0) FROM stamps").trim().parse().unwrap()
}

/// What goes on in a day, in half a minute: backups, rotation, checkpoints of the app, kills of the app and of ours.
fn day(place: &Place) -> (Vec<(f64, f64)>, PathBuf) {
    let mut dead = Vec::new();
    let (mut server, mut app) = (Server::start(place), Stamper::start(place));
    for hour in 0..10 {
        std::thread::sleep(Duration::from_millis(2200));
        match hour {
            1 | 6 => drop(place.create()),
            2 | 7 => {
                drop(app);
                app = Stamper::start(place);
            }
            3 => drop(place.ok(&["verify", "--all"])),
            4 | 8 => {
                let from = seconds(now());
                kill_server(server);
                std::thread::sleep(Duration::from_millis(700));
                server = Server::start(place);
                ticked(place);
                dead.push((from, seconds(now())));
            }
            _ => {}
        }
    }
    let log = app.end();
    ticked(place);
    kill_server(server);
    (dead, log)
}

/// When `serve` is seen to have looked at the databases while all that goes on.
fn looks_during<T>(place: &Place, all: impl FnOnce() -> T) -> (T, BTreeSet<DateTime<Utc>>) {
    let (going, is_over) = channel::<()>();
    std::thread::scope(|scope| {
        let watching = scope.spawn(move || {
            let mut looks = BTreeSet::new();
            while is_over.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                looks.extend(timeline(place).alive);
            }
            looks
        });
        // Dropped also where it fails.
        let going = going;
        let done = all();
        drop(going);
        (done, watching.join().unwrap())
    })
}

#[test]
fn any_instant_is_the_last_commit_before_it_in_both_databases() {
    let (interval, longest) = (1.0, 5.0);
    let place = place("1s");
    for name in ["attendance", "auth"] {
        place.sql(name, "CREATE TABLE stamps (n INTEGER, filler TEXT)");
    }
    let ((dead, log), looks) = looks_during(&place, || day(&place));
    let apart: Vec<_> =
        looks.iter().zip(looks.iter().skip(1)).map(|(one, next)| seconds(*next) - seconds(*one)).collect();
    // How many are late is the machine's doing; that none are in time would be ours.
    let in_time = apart.iter().filter(|apart| **apart <= interval + 0.3).count();
    assert!(apart.len() > 10 && in_time >= 3, "{apart:?}");
    let stamps = stamps(&log);
    let timeline = timeline(&place);
    for gap in &timeline.gaps {
        assert!(!looks.iter().any(|at| gap.holds(*at)), "{gap:?} though it was looked at: {looks:?}");
        let (begun, ended) = (seconds(gap.from), seconds(gap.to));
        // A tick before the end, and one after the beginning; or the machine had no time for one.
        let is_of = |(from, to): &(f64, f64)| (from - longest..*to).contains(&begun) && (*from..=*to).contains(&ended);
        assert!(dead.iter().any(is_of) || ended - begun > longest, "{gap:?} though we were alive: {dead:?}");
    }
    let (from, to) = (index(&place, "auth").oldest().unwrap().millis, millis(timeline.alive.unwrap()));
    // litestream takes no file of the very instant.
    for step in 1..31 {
        // Neither in step with the ticks nor with the app.
        let at = DateTime::from_timestamp_millis((from + (to - from) * step / 31 + 17 * step) as i64).unwrap();
        if timeline.gaps.iter().any(|gap| gap.holds(at)) || millis(at) > to {
            continue;
        }
        let bytes = ["attendance", "auth"].map(|name| rebuilt(&place, name, at));
        let [first, second] = [&bytes[0], &bytes[1]].map(|bytes| number(&place, bytes));
        assert!(second == first || second + 1 == first, "{first} and {second} at {at}: no instant of both");
        let begun = |number| stamps.get(&("begun".to_owned(), number)).copied().unwrap_or_default();
        assert!(begun(first) <= seconds(at), "{first} was begun after {at}");
        let there_by = |by: f64| {
            let there = |((name, _), done): &(&(String, u64), &f64)| name == "first" && **done <= by;
            stamps.iter().filter(there).map(|((_, number), _)| *number).max().unwrap_or_default()
        };
        // What is longer is a gap.
        assert!(there_by(seconds(at) - longest) <= first, "{first} at {at}");
        // A look is told as a millisecond later than it was.
        let look = looks.range(..=at).next_back();
        assert!(look.is_none_or(|look| there_by(seconds(*look) - 0.002) <= first), "{first} at {at}: {look:?}");
        if step % 3 > 0 {
            for (name, bytes) in ["attendance", "auth"].iter().zip(&bytes) {
                assert!(restored_by_litestream(&place, name, Some(at)) == *bytes, "{name} at {at}");
            }
        }
    }
    for name in ["attendance", "auth"] {
        let [known, held] = [rebuilt(&place, name, timeline.alive.unwrap()), live(&place, name)];
        let last = [&known, &held].map(|bytes| number(&place, bytes));
        assert!(known == held, "{name}: the journal ends with {}, the database with {}", last[0], last[1]);
    }
}

/// Its recovery waits for the directory; what looks at the databases doesn't.
#[test]
fn a_serve_that_starts_while_another_process_holds_the_directory_keeps_the_journal() {
    let place = place("1s");
    place.fill(40);
    let other = place.halted_create();
    let server = Server::start(&place);
    ticked(&place);
    let run = other.goes_on();
    assert_eq!(run.code, 0, "{}", run.stderr);
    server.stop();
    place.assert_whole();
}
