//! `demo`: two realistic databases, a second process that plays the app, a first backup, the schedule.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use rusqlite::Connection;

use crate::app::{self, Service};
use crate::backup::{BackupId, Tier, hex};
use crate::config::Config;
use crate::disk;
use crate::engine::{Actor, Call, Create, Engine};
use crate::session::CODE_LIFETIME;
use crate::sqlite::Control;

/// Pupils of the sample school.
const PEOPLE: u32 = 400;
/// Days of attendance that it begins with.
const DAYS: u32 = 200;
/// How long the printed commands work.
const TOKEN_LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// Between two commits of the app.
const PACE: Duration = Duration::from_millis(250);

/// Sets it up in `directory`, and runs until cancelled.
pub fn run(directory: &Path, bind: SocketAddr, control: &Control) -> anyhow::Result<()> {
    let directory = std::path::absolute(directory)?;
    let databases = directory.join("databases");
    std::fs::create_dir_all(&databases).with_context(|| format!("cannot make {}", databases.display()))?;
    let (attendance, auth) = (databases.join("attendance.db"), databases.join("auth.db"));
    make(&attendance, ATTENDANCE)?;
    make(&auth, AUTH)?;
    let _app = App::start(&databases)?;
    let environment = BTreeMap::from([
        ("BACKUP_DIRECTORY".to_owned(), databases.join("backups").display().to_string()),
        ("BACKUP_DATABASES".to_owned(), format!("attendance={},auth={}", attendance.display(), auth.display())),
        ("BACKUP_BIND".to_owned(), bind.to_string()),
        // What it would hold for a moment is for whoever tries the commands.
        ("BACKUP_DRILL_SCHEDULE".to_owned(), "off".to_owned()),
        // Of this run alone.
        ("BACKUP_JWT_SECRET".to_owned(), hex(&disk::random::<32>()?)),
        ("BACKUP_JWT_AUDIENCE".to_owned(), "attendance-backup-demo".to_owned()),
    ]);
    let engine = app::serving_engine(Config::load(&environment)?)?;
    let service = Service::bind(&engine, control)?;
    let create = Create { tier: Tier::Daily, reason: Some("the demo's first".to_owned()), accept_shrink: false };
    let call = Call { control: control.clone(), ..Call::new(Actor::cli()) };
    let created = engine.create(&create, &call)?;
    let header = directory.join("token.header");
    write_token(&engine, &header)?;
    tell_of_page(&engine, &directory, &created.backup.id, service.address()?)?;
    tell(&directory, &created.backup.id.to_string())?;
    tell_of_http(&header, service.address()?, &created.backup.id.to_string())?;
    service.run()
}

/// The token goes into a file, as the header that carries it: on a command line every user of the machine could read it.
fn write_token(engine: &Engine, path: &Path) -> anyhow::Result<()> {
    let token = app::token(engine, "demo", true, TOKEN_LIFETIME)?;
    Ok(disk::write_durable(path, format!("Authorization: Bearer {token}\n").as_bytes())?)
}

fn tell_of_page(engine: &Engine, directory: &Path, id: &BackupId, address: SocketAddr) -> anyhow::Result<()> {
    let code = app::sign_in_code(engine, "demo")?;
    let minutes = CODE_LIFETIME.as_secs() / 60;
    let mut out = std::io::stdout();
    writeln!(out, "\nAn app is writing to {}/databases, and the first backup is taken: {id}.", directory.display())?;
    writeln!(out, "\nThe page, by a link that signs in once within {minutes} minutes:\n")?;
    writeln!(out, "  http://{address}/sign-in?code={code}")?;
    Ok(())
}

fn tell_of_http(header: &Path, address: SocketAddr, id: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "\nOr over HTTP, with the token in {} (a superuser's, for 8 hours):\n", header.display())?;
    let bytes = format!("curl -sS --fail-with-body -H @{}", quoted(header));
    // JSON has no line end of its own.
    let curl = format!("{bytes} -w '\\n'");
    let json = "-H 'Content-Type: application/json'";
    let base = format!("http://{address}/api/backup");
    let commands = [
        format!("{curl} {base}/status"),
        format!("{curl} {base}/list"),
        format!("{curl} {base}/create {json} -d '{{\"reason\": \"before the exams\"}}'"),
        format!("{curl} -X POST {base}/verify/{id}"),
        format!("{curl} {base}/{id}/preview"),
        format!("{curl} {base}/restore {json} -d '{{\"id\": \"{id}\", \"confirm\": \"{id}\"}}'"),
        format!("{bytes} -o /tmp/auth-{}.db '{base}/download/{id}?database=auth'", address.port()),
        format!("{bytes} {base}/download/{id} | tar -tv"),
        format!(
            "{curl} -X PUT '{base}/config?dryRun=true' -H 'If-Match: *' {json} -d '{{\"retention\": {{\"daily\": 3}}}}'"
        ),
        format!("{curl} '{base}/audit?limit=3'"),
        format!("curl -sS -w '\\n' http://{address}/readyz"),
    ];
    for command in commands {
        writeln!(out, "  {command}")?;
    }
    writeln!(out, "\nCtrl-C ends it all; the files stay for a look.\n")?;
    Ok(())
}

fn tell(directory: &Path, id: &str) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let mut out = std::io::stdout();
    writeln!(out, "\nOr, in another terminal:\n")?;
    let commands = [
        "status".to_owned(),
        "list".to_owned(),
        "create --reason 'before the exams'".to_owned(),
        format!("verify {id}"),
        "drill".to_owned(),
        format!("preview {id}"),
        format!("restore {id} --confirm {id}"),
        "undo".to_owned(),
        format!("download {id} --database auth -o /tmp/auth-{}.db", std::process::id()),
        "config --set retention.daily=14".to_owned(),
        "doctor".to_owned(),
        "audit verify".to_owned(),
    ];
    for command in commands {
        writeln!(out, "  (cd {} && {} {command})", quoted(directory), quoted(&program))?;
    }
    Ok(())
}

/// A word for the shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// The second process; ended on drop, and by itself when its standard input ends, however this process ends.
struct App(Child);

impl App {
    fn start(databases: &Path) -> anyhow::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg("demo-app")
            .arg(databases)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start the process that plays the app")?;
        Ok(Self(child))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It is on its way out already.
        let _ = self.0.wait();
    }
}

/// Commits small changes to both databases on connections that stay open, until standard input ends.
pub fn play_app(directory: &Path) -> anyhow::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    std::thread::spawn(move || {
        // Nothing is ever written there: it ends when the parent does.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        seen.store(true, Ordering::Relaxed);
    });
    let attendance = connect(&directory.join("attendance.db"))?;
    let auth = connect(&directory.join("auth.db"))?;
    let mut round = 0_u32;
    while !ended.load(Ordering::Relaxed) {
        attendance.execute(
            "INSERT INTO marks (person_id, day, status) VALUES (1 + ?1 % ?2, ?3, 'present') \
             ON CONFLICT DO UPDATE SET status = 'late'",
            (round, PEOPLE, DAYS + round / PEOPLE),
        )?;
        auth.execute("UPDATE users SET seen = seen + 1 WHERE id = 1 + ?1 % 40", [round])?;
        round = round.wrapping_add(1);
        std::thread::sleep(PACE);
    }
    Ok(())
}

const ATTENDANCE: &str = "
    CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, class TEXT NOT NULL);
    CREATE TABLE marks (
        person_id INTEGER NOT NULL REFERENCES people (id), day INTEGER NOT NULL, status TEXT NOT NULL,
        PRIMARY KEY (person_id, day)
    );
    CREATE INDEX marks_by_day ON marks (day, status);
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?people)
    INSERT INTO people SELECT i, 'Pupil ' || i, (5 + i % 8) || char(97 + i % 3) FROM n;
    WITH RECURSIVE d (day) AS (SELECT 0 UNION ALL SELECT day + 1 FROM d WHERE day < ?days - 1)
    INSERT INTO marks SELECT id, day, CASE (id * 31 + day * 17) % 19 WHEN 0 THEN 'absent' WHEN 1 THEN 'late' ELSE 'present' END
    FROM people, d;
";

const AUTH: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, role TEXT NOT NULL, seen INTEGER NOT NULL DEFAULT 0);
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
    INSERT INTO users (id, email, role) SELECT i, 'teacher' || i || '@school.example', iif(i = 1, 'superuser', 'teacher') FROM n;
";

/// Makes a database that isn't there yet; one from an earlier demo goes on.
fn make(path: &Path, schema: &str) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let connection = connect(path)?;
    let schema = schema.replace("?people", &PEOPLE.to_string()).replace("?days", &DAYS.to_string());
    let made = connection.execute_batch(&format!("BEGIN; {schema} COMMIT;"));
    if let Err(error) = made {
        bail!("cannot make {}: {error}", path.display());
    }
    Ok(())
}

/// As an app does it: this is the app's side, not ours.
#[allow(clippy::disallowed_methods)]
fn connect(path: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    Ok(connection)
}
