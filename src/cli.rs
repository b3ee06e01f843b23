//! The command line. Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 another operation holds the directory.

mod command;
mod output;
mod replica;
mod restore;
mod shell;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use crate::app;
use crate::backup::BackupId;
use crate::backup::settings::Saved;
use crate::clock::Clock;
use crate::codec::Keypair;
use crate::config::{self, Config};
use crate::demo;
use crate::disk;
use crate::engine::doctor::Severity;
use crate::engine::{Actor, Call, Change, Create, Download, Engine, Error, First, Leaves};
use crate::sqlite::Control;

use command::{
    AuditCommand, CatalogCommand, Cli, Command, ConfigArgs, Force, NotifyCommand, OfflineArgs, TokenArgs, Wait,
};
use output::Output;

/// As it is called.
const NAME: &str = "attendance-backup";

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
        Command::Audit { command: AuditCommand::Accept { wait } } => {
            let lost = engine.accept_audit(&call(wait.wait, control))?;
            let said = format!("the audit log counts as whole without the lines up to {lost} that it has lost");
            out.done(&said, &json!({ "lost": lost }))?;
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
