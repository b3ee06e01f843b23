//! The command line. Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 another operation holds the directory.

mod output;
mod replica;
mod restore;
mod shell;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::json;

use crate::app;
use crate::backup::settings::Saved;
use crate::backup::{BackupId, DatabaseName, Tier, reason};
use crate::clock::Clock;
use crate::codec::Keypair;
use crate::config::{self, Config};
use crate::demo;
use crate::disk;
use crate::engine::doctor::Severity;
use crate::engine::{Actor, Call, Change, Create, Download, Engine, Error, First, Leaves, Offline};
use crate::sqlite::Control;

use output::Output;

/// As it is called.
const NAME: &str = "attendance-backup";

/// Consistent backups of live SQLite databases: rotated, verified, given back.
///
/// Configured by BACKUP_* variables; `config` shows them all.
#[derive(Parser, Debug)]
#[command(name = NAME, version = app::version(), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON, in the shapes of the HTTP API
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the schedule and answer HTTP until stopped (what the image runs)
    Serve,
    /// Make sample databases, play the app beside them, and run on them
    Demo {
        /// Where to put it all
        #[arg(long, default_value = "demo")]
        directory: PathBuf,
        /// Where to answer HTTP
        #[arg(long, default_value = "127.0.0.1:8080")]
        bind: SocketAddr,
    },
    /// Play the app on the databases of a folder, until standard input ends
    #[command(hide = true)]
    DemoApp { directory: PathBuf },
    /// Take a backup now
    Create {
        /// daily counts as the scheduled one of today
        #[arg(long = "type", default_value = "manual", value_parser = createable)]
        tier: Tier,
        /// Why, for people
        #[arg(long, value_parser = reason)]
        reason: Option<String>,
        /// A database that is suddenly much smaller is right as it is
        #[arg(long)]
        accept_shrink: bool,
        /// What the app has yet to make is no failure: a database that is missing and was never in a backup here. For
        /// deployments, before the app starts
        #[arg(long)]
        if_present: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// List the backups, newest first
    List {
        /// Only this type
        #[arg(long = "type")]
        tier: Option<Tier>,
    },
    /// Read backups back and compare every byte with what was recorded
    Verify {
        #[arg(required_unless_present = "all")]
        id: Option<BackupId>,
        /// Every backup
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Put the live databases back to what a backup holds, or to what they held at a time, while the app has them open
    Restore(restore::RestoreArgs),
    /// Take the last restore back: restore the backup that it made of what it replaced
    Undo {
        #[command(flatten)]
        force: Force,
        #[command(flatten)]
        offline: OfflineArgs,
        #[command(flatten)]
        wait: Wait,
    },
    /// Rehearse a restore: copy the newest backup of each type aside, open and check it, compare it with what was recorded;
    /// rebuild the journal's newest instant and compare it with the live databases
    Drill {
        #[command(flatten)]
        wait: Wait,
    },
    /// Tell what a restore would change; nothing is changed
    Preview(restore::PreviewArgs),
    /// Delete a backup
    Delete {
        id: BackupId,
        /// Also the last one, or the last good one
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Keep a backup whatever rotation says
    Pin {
        id: BackupId,
        #[command(flatten)]
        wait: Wait,
    },
    /// Give a pinned backup back to rotation
    Unpin {
        id: BackupId,
        #[command(flatten)]
        wait: Wait,
    },
    /// Copy a backup to a file: one database, or all with SHA256SUMS in a tar
    Download {
        id: BackupId,
        /// One database
        #[arg(long)]
        database: Option<DatabaseName>,
        /// The files as they lie, compressed or encrypted
        #[arg(long)]
        stored: bool,
        /// A path that doesn't exist yet
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Show how things stand
    Status,
    /// Look for what tends to be wrong: user, mounts, file systems, modes, time zone, space
    Doctor,
    /// Show the settings and where they come from, or change what can be changed at run time
    Config(ConfigArgs),
    /// The catalog of the backup directory
    Catalog {
        #[command(subcommand)]
        command: CatalogCommand,
    },
    /// Copies elsewhere
    Replica {
        #[command(subcommand)]
        command: replica::ReplicaCommand,
    },
    /// Mails and other notices of what wants a look
    Notify {
        #[command(subcommand)]
        command: NotifyCommand,
    },
    /// The audit log
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Print a token for the HTTP API, signed with the configured secret
    Token(TokenArgs),
    /// Make a key to encrypt backups with: a file with the identity, and the recipient that goes with it
    Keygen {
        /// A path that doesn't exist yet, for the identity
        #[arg(short, long, value_name = "FILE", default_value = "attendance-backup-identity.txt")]
        output: PathBuf,
    },
    /// Ask a running `serve` whether it is alive (what the image's health check runs)
    Healthcheck,
    /// Print what a shell needs to complete commands and options
    Completions { shell: Shell },
    /// Print the manual page, or write one for each command into a folder
    Man {
        /// A folder that exists
        directory: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
struct TokenArgs {
    /// Whom it is for; the audit log shows it
    #[arg(long, default_value = "operator")]
    subject: String,
    /// Without the superuser's rights: it may look and not touch
    #[arg(long)]
    user: bool,
    /// Print a link with a one-time code instead, which POST /sign-in takes within 10 minutes
    #[arg(long, conflicts_with_all = ["user", "lifetime"])]
    link: bool,
    /// How long it counts, at most 30d
    #[arg(long = "for", default_value = "1h", value_name = "DURATION", value_parser = lifetime)]
    lifetime: Duration,
}

#[derive(Args, Debug)]
struct Wait {
    /// How long to wait for another operation, such as 30s
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

#[derive(Args, Debug)]
struct Force {
    /// Also over corrupt live data, with triggers and views that the live databases don't have, and of a backup that hasn't
    /// the very databases that are configured
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
struct OfflineArgs {
    /// Put whole files in place while the app is stopped: for another page size or encoding, or a live file that is missing
    /// or ruined
    #[arg(long)]
    offline: bool,
    /// It is, also where that can't be seen: a database that is not in WAL mode shows nobody who has it open
    #[arg(long, requires = "offline")]
    app_is_stopped: bool,
}

impl OfflineArgs {
    fn word(&self) -> Option<Offline> {
        self.offline.then_some(Offline { app_is_stopped: self.app_is_stopped })
    }
}

#[derive(Args, Debug)]
struct ConfigArgs {
    /// Save a value that counts before the environment's: enabled, schedule.hour, retention.daily …
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Forget all saved values
    #[arg(long)]
    reset: bool,
    /// Only tell what the change would do
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Subcommand, Debug)]
enum CatalogCommand {
    /// Make the catalog anew from the files; nothing is deleted
    Rebuild {
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Subcommand, Debug)]
enum NotifyCommand {
    /// Send a test by each channel, and say what came of it
    Test,
}

#[derive(Subcommand, Debug)]
enum AuditCommand {
    /// Prove that no line was changed, moved or cut off
    Verify,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if allowed.contains(&lifetime) { Ok(lifetime) } else { Err("from 1s to 30d".to_owned()) }
}

fn createable(text: &str) -> Result<Tier, String> {
    match text.parse()? {
        tier @ (Tier::Daily | Tier::Manual) => Ok(tier),
        _ => Err("daily or manual; the others come by rotation and by restores".to_owned()),
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Whatever is made here is for its owner only.
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
    let cli = Cli::parse();
    let mut output = Output::new(cli.json);
    match run(cli.command, &mut output) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output.error(&error);
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<config::Error>()
        || error.is::<restore::Unconfirmed>()
        || error.is::<restore::Unnamed>()
        || error.is::<restore::BadTime>()
    {
        return 2;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Held(_) | Error::Served(_) | Error::ReplicaBusy { .. }) => 3,
        Some(Error::Setting { .. }) => 2,
        _ => 1,
    }
}

/// Does it; `false` is an answer that isn't good: a backup that is damaged or can't be restored, a doctor's problem.
fn run(command: Command, out: &mut Output) -> anyhow::Result<bool> {
    let control = Control::default();
    app::signalled(&control)?;
    match command {
        Command::Serve => app::serve(&app::serving_engine(Config::from_process()?)?, &control).map(|()| true),
        Command::Demo { directory, bind } => demo::run(&directory, bind, &control).map(|()| true),
        Command::Healthcheck => app::healthcheck(&Config::from_process()?).map(|()| true),
        Command::Keygen { output } => keygen(&output, out).map(|()| true),
        Command::DemoApp { directory } => demo::play_app(&directory).map(|()| true),
        Command::Completions { shell } => shell::completions(shell, out).map(|()| true),
        Command::Man { directory } => shell::manual(directory.as_deref(), out).map(|()| true),
        command => operate(&app::engine()?, command, control, out),
    }
}

fn operate(engine: &Engine, command: Command, control: Control, out: &mut Output) -> anyhow::Result<bool> {
    let call = |wait: Duration, control| Call { actor: Actor::cli(), wait, control };
    match command {
        Command::Serve
        | Command::Demo { .. }
        | Command::DemoApp { .. }
        | Command::Keygen { .. }
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Healthcheck => {}
        Command::Create { tier, reason, accept_shrink, if_present, wait } => {
            let (bar, control) = out.progress(&control);
            let (create, call) = (Create { tier, reason, accept_shrink }, call(wait.wait, control));
            let first = match if_present {
                true => engine.create_first(&create, &call)?,
                false => First { created: Some(engine.create(&create, &call)?), awaited: Vec::new() },
            };
            bar.finish_and_clear();
            out.first(&first)?;
        }
        Command::List { tier } => {
            let backups = engine.list()?.into_iter().filter(|it| tier.is_none_or(|tier| it.tier == tier)).collect();
            out.list(engine, backups)?;
        }
        Command::Verify { id, .. } => return verify(engine, id, &control, out),
        Command::Restore(args) => restore::restore(engine, args, &control, out)?,
        Command::Undo { force, offline, wait } => {
            let (bar, control) = out.progress(&control);
            let restored = engine.undo(force.force, offline.word(), &call(wait.wait, control))?;
            bar.finish_and_clear();
            out.restored(&restored)?;
        }
        Command::Drill { wait } => {
            let (bar, control) = out.progress(&control);
            let drilled = engine.drill(&call(wait.wait, control))?;
            bar.finish_and_clear();
            out.drilled(&drilled)?;
            return Ok(drilled.ok);
        }
        Command::Preview(args) => restore::preview(engine, args, control, out)?,
        Command::Delete { id, force, wait } => {
            engine.delete(id, force, &call(wait.wait, control))?;
            out.done(&format!("deleted {id}"), &json!({ "deleted": id }))?;
        }
        Command::Pin { id, wait } => out.backup("pinned", &engine.pin(id, true, &call(wait.wait, control))?)?,
        Command::Unpin { id, wait } => out.backup("unpinned", &engine.pin(id, false, &call(wait.wait, control))?)?,
        Command::Download { id, database, stored, output } => {
            let (bar, control) = out.progress(&control);
            let leaves = if stored { Leaves::Stored } else { Leaves::Plain };
            let download = Download { id, database, leaves, target: output };
            let size = engine.download(&download, &call(Duration::ZERO, control))?;
            bar.finish_and_clear();
            out.downloaded(&download, size)?;
        }
        Command::Status => out.status(engine, &engine.status()?)?,
        Command::Doctor => {
            let findings = engine.doctor();
            out.doctor(&findings)?;
            return Ok(findings.iter().all(|finding| finding.severity != Severity::Problem));
        }
        Command::Config(args) => configure(engine, &args, control, out)?,
        Command::Catalog { command: CatalogCommand::Rebuild { wait } } => {
            out.rebuilt(&engine.rebuild(&call(wait.wait, control))?)?;
        }
        Command::Replica { command } => return replica::operate(engine, command, &control, out),
        Command::Token(args) => token(engine, &args, out)?,
        Command::Notify { command: NotifyCommand::Test } => {
            let tested = engine.test_notices(&call(Duration::ZERO, control))?;
            out.notices_tested(&tested)?;
            return Ok(tested.ok);
        }
        Command::Audit { command: AuditCommand::Verify } => {
            let lines = engine.verify_audit()?;
            out.done(&format!("the audit log is whole: {lines} lines"), &json!({ "ok": true, "lines": lines }))?;
        }
    }
    Ok(true)
}

fn verify(engine: &Engine, id: Option<BackupId>, control: &Control, out: &mut Output) -> anyhow::Result<bool> {
    let ids = match id {
        Some(id) => vec![id],
        None => engine.list()?.into_iter().map(|backup| backup.id).collect(),
    };
    let (bar, control) = out.progress(control);
    let call = Call { control, ..Call::new(Actor::cli()) };
    let mut results = Vec::new();
    for one in ids {
        match engine.verify(&one, &call) {
            // Rotation may have dropped or renamed it meanwhile.
            Err(Error::NotFound(_)) if id.is_none() => {}
            result => results.push((one, result?)),
        }
    }
    bar.finish_and_clear();
    out.verified(&results, id.is_none())?;
    Ok(results.iter().all(|(_, result)| result.ok))
}

fn configure(engine: &Engine, args: &ConfigArgs, control: Control, out: &mut Output) -> anyhow::Result<()> {
    if args.set.is_empty() && !args.reset {
        return out.config(engine);
    }
    let change = Change { set: saved(&args.set)?, reset: args.reset, dry_run: args.dry_run, expected: None };
    let changed = engine.change_settings(&change, &Call { actor: Actor::cli(), wait: args.wait.wait, control })?;
    out.changed(engine, &changed, args.dry_run)
}

fn token(engine: &Engine, args: &TokenArgs, out: &mut Output) -> anyhow::Result<()> {
    if !args.link {
        let token = app::token(engine, &args.subject, !args.user, args.lifetime)?;
        return out.done(&token, &json!({ "token": token }));
    }
    let code = app::sign_in_code(engine, &args.subject)?;
    let config = engine.config();
    let base = config.public_url.as_ref().map_or_else(|| format!("http://{}", config.bind), ToString::to_string);
    let link = format!("{base}/sign-in?code={code}");
    out.done(&link, &json!({ "link": link, "code": code }))
}

/// A key of its own for this machine's backups. The identity goes into a file and nowhere else.
fn keygen(path: &Path, out: &Output) -> anyhow::Result<()> {
    let pair = Keypair::generate(Clock::system().now());
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if path.symlink_metadata().is_ok() {
        return Err(Error::TargetExists { path }.into());
    }
    disk::write_new(&path, pair.file.as_bytes())?;
    out.generated(&path, &pair.recipient)
}

/// `retention.daily=14` as the part of the settings that it names.
fn saved(pairs: &[String]) -> Result<Saved, Error> {
    let bad = |problem: String| Error::Setting { name: "--set", problem };
    let mut tree = serde_json::Map::new();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(bad(format!("{pair:?} is not KEY=VALUE, such as retention.daily=14")));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        match key.split_once('.') {
            None => drop(tree.insert(key.to_owned(), value)),
            Some((table, key)) => {
                let inner = tree.entry(table).or_insert_with(|| json!({}));
                match inner.as_object_mut() {
                    Some(inner) => drop(inner.insert(key.to_owned(), value)),
                    None => return Err(bad(format!("{table} is given twice"))),
                }
            }
        }
    }
    serde_json::from_value(tree.into()).map_err(|error| bad(error.to_string()))
}
