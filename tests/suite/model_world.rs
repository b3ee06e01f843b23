//! The real thing that the model is held against: an app with its databases, the engine on a clock that is set, the program under
//! strace, a replica in a folder that can be taken away.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use attendance_backup::backup::ReplicaName;
use attendance_backup::clock::Clock;
use attendance_backup::config::Config;
use attendance_backup::engine::{Actor, Call, Engine, Error, Replicated};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::app::App;
use crate::harness::{Place, Run};
use crate::inject::Spot;
use crate::model_book::{Content, Keep, Spoiled};
use crate::serving::faketime_library;
use crate::stores::Store;

/// All that a database holds, in one text. [`Content::told`] says the same.
pub const ASKED: [(&str, &str); 2] = [
    (
        "attendance",
        "SELECT (SELECT count(*) FROM FROM_marks) || ':' || coalesce(group_concat(id || '=' || name, ' '), '') \
         FROM (SELECT id, name FROM FROM_people ORDER BY id)",
    ),
    (
        "auth",
        "SELECT '0:' || coalesce(group_concat(id || '=' || email, ' '), '') FROM (SELECT id, email FROM FROM_users ORDER BY id)",
    ),
];

/// How copies lie here, and whether the replica holds what has changed only.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub compressed: bool,
    pub encrypted: bool,
    pub incremental: bool,
}

/// As configured: little is kept, so that much goes.
pub const KEEP: Keep = Keep { daily: 3, weekly: 2, monthly: 2, manual: 3, pre_restore: 2 };

pub struct World {
    pub place: Place,
    pub store: Store,
    pub engine: Engine,
    hands: Arc<Mutex<DateTime<Utc>>>,
    app: App,
    faketime: String,
    /// How much of the audit log was looked at.
    told: usize,
}

impl World {
    pub fn new(form: Form, now: DateTime<Utc>) -> Self {
        let mut place = Place::empty();
        place.sql(
            "attendance",
            "PRAGMA journal_mode=WAL; CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT); \
             CREATE TABLE marks (id INTEGER PRIMARY KEY, mark TEXT)",
        );
        place.sql("auth", "PRAGMA journal_mode=WAL; CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT)");
        if form.encrypted {
            place.keyed();
        }
        place.writes(form.compressed, form.encrypted);
        let store = Store::folder();
        place.replica("OFFSITE", &store);
        place.set("BACKUP_REPLICA_OFFSITE_MODE", if form.incremental { "incremental" } else { "full" });
        // However slow the machine is: what is to be done is done.
        for limit in ["BACKUP_LOCK_TIMEOUT", "BACKUP_REPLICA_OFFSITE_TIMEOUT"] {
            place.set(limit, "10m");
        }
        let Keep { daily, weekly, monthly, manual, pre_restore } = KEEP;
        for (tier, number) in [
            ("DAILY", daily),
            ("WEEKLY", weekly),
            ("MONTHLY", monthly),
            ("MANUAL", manual),
            ("PRE_RESTORE", pre_restore),
        ] {
            place.set(&format!("BACKUP_RETENTION_{tier}"), &number.to_string());
        }
        let hands = Arc::new(Mutex::new(now));
        let engine = engine(&place, &hands);
        let app = App::on(&[&place.live("attendance"), &place.live("auth"), Path::new(":memory:")]);
        Self { place, store, engine, hands, app, faketime: faketime_library(), told: 0 }
    }

    /// As after a new start.
    pub fn restart(&mut self) {
        self.engine = engine(&self.place, &self.hands);
    }

    pub fn now(&self) -> DateTime<Utc> {
        *self.hands.lock().unwrap()
    }

    pub fn set_clock(&self, now: DateTime<Utc>) {
        *self.hands.lock().unwrap() = now;
    }

    pub fn call() -> Call {
        Call::new(Actor::cli())
    }

    pub fn push(&self) -> Result<Replicated, Error> {
        self.engine.replicate(&offsite(), false, &Self::call())
    }

    /// The app writes this.
    pub fn write(&mut self, database: usize, sql: &str) {
        self.app.ok(database, sql);
    }

    /// What its open connections see, and whether the structure is whole.
    pub fn live(&mut self) -> [String; 2] {
        [0, 1].map(|at| only(&self.app.ok(at, &ASKED[at].1.replace("FROM_", ""))))
    }

    pub fn is_sound(&mut self) -> bool {
        [0, 1].into_iter().all(|at| only(&self.app.ok(at, "PRAGMA integrity_check")) == "ok")
    }

    /// What a plain copy holds. It is looked at as another copy of it, so that nothing appears beside it.
    pub fn content(&mut self, database: usize, file: &Path) -> String {
        let aside = self.place.path("aside.db");
        std::fs::copy(file, &aside).unwrap();
        self.app.ok(2, &format!("ATTACH '{}' AS aside", aside.display()));
        assert_eq!(only(&self.app.ok(2, "PRAGMA aside.integrity_check")), "ok", "{}", file.display());
        let told = only(&self.app.ok(2, &ASKED[database].1.replace("FROM_", "aside.")));
        self.app.ok(2, "DETACH aside");
        for ending in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{ending}", aside.display()));
        }
        told
    }

    /// The same of both databases of a backup, as `list` has it.
    pub fn contents(&mut self, backup: &Value) -> [String; 2] {
        let dir = tempfile::tempdir().unwrap();
        [0, 1].map(|at| {
            let file = self.place.decoded(&backup["databases"][ASKED[at].0], dir.path()).unwrap();
            self.content(at, &file)
        })
    }

    /// Runs the program at the model's time until the `n`-th call at `spot`, which kills it. Says whether it came to that, or else how
    /// it ended.
    pub fn killed(&self, spot: &Spot, n: usize, args: &[String]) -> Option<Run> {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let mut command = self.place.faulty(spot, &format!("signal=KILL:when={n}"), &args);
        // A clock that stands.
        command.env("LD_PRELOAD", &self.faketime).env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("TZ", "UTC");
        command.env("FAKETIME", self.now().format("%Y-%m-%d %H:%M:%S").to_string());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("strace is needed");
        let id = child.id();
        let output = child.wait_with_output().unwrap();
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{name}{id}"));
        }
        (output.status.signal() != Some(9)).then(|| Run::of(output))
    }

    /// Where a file of a backup lies.
    pub fn file(&self, id: &str, database: &str) -> PathBuf {
        let catalog = self.place.catalog();
        let backup = catalog["backups"].as_array().unwrap().iter().find(|backup| backup["id"] == id).unwrap();
        self.place.copy(backup, database)
    }

    /// Does something to a file: 0 changes a byte, 1 cuts one off, 2 removes it.
    pub fn spoil(&self, id: &str, database: &'static str, how: usize) -> Spoiled {
        let file = self.file(id, database);
        let bytes = std::fs::read(&file).unwrap();
        match how {
            0 => {
                let mut other = bytes.clone();
                other[bytes.len() / 2] ^= 0xff;
                std::fs::write(&file, other).unwrap();
            }
            1 => std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap(),
            _ => std::fs::remove_file(&file).unwrap(),
        }
        Spoiled { database, shows: how > 0, bytes }
    }

    /// Puts it back.
    pub fn mend(&self, id: &str, spoiled: &Spoiled) {
        use std::os::unix::fs::PermissionsExt;
        let file = self.file(id, spoiled.database);
        std::fs::write(&file, &spoiled.bytes).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The lines that the audit log has got since it was asked last.
    pub fn newly_told(&mut self) -> Vec<Value> {
        let lines = self.place.backups().join("audit.jsonl");
        if !lines.exists() {
            return Vec::new();
        }
        let lines = self.place.audit();
        let new = lines[self.told..].to_vec();
        self.told = lines.len();
        new
    }

    /// The folder of the replica isn't where it should be; and back.
    pub fn take_away(&self, away: bool) {
        let there = &self.store.objects.0;
        let aside = there.with_extension("away");
        let (from, to) = if away { (there, &aside) } else { (&aside, there) };
        assert!(!to.exists(), "something was written where the replica isn't");
        std::fs::rename(from, to).unwrap();
    }

    /// What the replica holds: sequence and id.
    pub fn there(&self) -> Vec<(u64, String)> {
        let held = self.store.objects.held().into_iter();
        held.map(|held| (held["sequence"].as_u64().unwrap(), held["id"].as_str().unwrap().to_owned())).collect()
    }
}

fn engine(place: &Place, hands: &Arc<Mutex<DateTime<Utc>>>) -> Engine {
    let config = Config::load(&place.environment().into_iter().collect()).unwrap();
    let hands = Arc::clone(hands);
    Engine::new(Arc::new(config), Clock::from_fn(move || *hands.lock().unwrap())).unwrap()
}

pub fn offsite() -> ReplicaName {
    "offsite".parse().unwrap()
}

/// The only value of the only row.
fn only(answer: &str) -> String {
    let rows: Vec<Vec<String>> = serde_json::from_str(answer).unwrap_or_else(|_| panic!("{answer}"));
    rows[0][0].clone()
}

/// How the app fills what is lost.
pub fn refill(marks: usize) -> String {
    format!(
        "INSERT INTO marks (mark) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {marks}) \
         SELECT 'present' FROM n"
    )
}

/// What the app writes, and what is there then.
pub fn written(content: &mut Content, database: usize, random: u64) -> String {
    let (rows, table, column) = match database {
        0 => (&mut content.people, "people", "name"),
        _ => (&mut content.users, "users", "email"),
    };
    let id = 1 + random % 25;
    let text = format!("{:04x}", random >> 32 & 0xffff);
    if random >> 60 == 0 && rows.remove(&id).is_some() {
        return format!("DELETE FROM {table} WHERE id = {id}");
    }
    let sql = format!("INSERT OR REPLACE INTO {table} (id, {column}) VALUES ({id}, '{text}')");
    rows.insert(id, text);
    sql
}
