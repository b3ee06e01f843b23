//! `restore` and `preview`: of a backup, or of what the databases held at a time.

use std::io::IsTerminal;
use std::time::Duration;

use chrono::SecondsFormat;
use clap::Args;

use super::output::Output;
use super::{Force, OfflineArgs, Wait, replica};
use crate::backup::{BackupId, Moment, Subject};
use crate::engine::{Actor, Call, Elsewhere, Engine, Offline, Restore, Which};
use crate::sqlite::Control;

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    /// The backup's id, as `list` shows it; with --from also `latest`
    #[arg(value_name = "ID", required_unless_present = "at")]
    which: Option<Which>,
    /// What the databases held at that time instead: "2026-11-26 09:14:05" where the schedule lives, or
    /// 2026-11-26T09:14:05+01:00
    #[arg(long, value_name = "TIME", conflicts_with = "which")]
    at: Option<String>,
    /// The id or the time once more; asked for on a terminal
    #[arg(long, value_name = "ID|TIME")]
    confirm: Option<String>,
    /// Bring it from this replica first, or what leads to that time: a name, or a URL such as s3://bucket/prefix. On an empty machine
    /// this is all
    #[arg(long, value_name = "REPLICA")]
    from: Option<Elsewhere>,
    #[command(flatten)]
    force: Force,
    #[command(flatten)]
    offline: OfflineArgs,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args, Debug)]
pub(super) struct PreviewArgs {
    /// Of a backup
    #[arg(required_unless_present = "at")]
    id: Option<BackupId>,
    /// Of what the databases held at that time, as for `restore`
    #[arg(long, value_name = "TIME", conflicts_with = "id")]
    at: Option<String>,
}

/// What is asked for, as it has to be said once more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Which(Which),
    At(Moment),
}

/// A restore that was not said twice.
#[derive(Debug, thiserror::Error)]
#[error("nothing was changed: this replaces the live data, so say which {what} once more: --confirm {said}")]
pub(super) struct Unconfirmed {
    what: &'static str,
    said: String,
}

/// A restore of nothing in particular.
#[derive(Debug, thiserror::Error)]
#[error("nothing was changed: `latest` is for replicas (--from); `list` shows the ids of the backups that are here")]
pub(super) struct Unnamed;

/// A time that is none.
#[derive(Debug, thiserror::Error)]
#[error("--at {text:?}: {allowed}")]
pub(super) struct BadTime {
    text: String,
    allowed: String,
}

pub(super) fn restore(engine: &Engine, args: RestoreArgs, control: &Control, out: &Output) -> anyhow::Result<()> {
    let RestoreArgs { which, at, confirm, from, force, offline, wait } = args;
    let said = match (at, which) {
        (Some(text), _) => Said::At(moment(engine, &text)?),
        (None, Some(which)) => Said::Which(which),
        (None, None) => return Err(Unnamed.into()),
    };
    let mut fetched = None;
    let subject: Subject = match (&from, said) {
        (Some(from), Said::At(moment)) => {
            engine.assert_data_folders()?;
            confirmed(engine, said, Some(from), confirm, out)?;
            fetched = Some(replica::bring_point(engine, from, moment, wait.wait, control, out)?);
            moment.into()
        }
        (Some(from), Said::Which(which)) => {
            engine.assert_data_folders()?;
            confirmed(engine, said, Some(from), confirm, out)?;
            replica::bring(engine, from, which, wait.wait, control, out)?.into()
        }
        (None, Said::At(moment)) => {
            confirmed(engine, said, None, confirm, out)?;
            moment.into()
        }
        (None, Said::Which(Which::Id(id))) => {
            confirmed(engine, said, None, confirm, out)?;
            id.into()
        }
        (None, Said::Which(Which::Latest | Which::All)) => return Err(Unnamed.into()),
    };
    // Where no live database is, nobody has one open.
    let is_new = from.is_some() && !engine.has_live_databases();
    let offline = offline.word().or(is_new.then_some(Offline { app_is_stopped: false }));
    let (bar, control) = out.progress(control);
    let call = Call { actor: Actor::cli(), wait: wait.wait, control };
    let restore = Restore { subject, force: force.force, offline };
    let restored = match &fetched {
        Some(fetched) => engine.restore_fetched(&restore, fetched, &call)?,
        None => engine.restore(&restore, &call)?,
    };
    bar.finish_and_clear();
    out.restored(&restored)
}

pub(super) fn preview(engine: &Engine, args: PreviewArgs, control: Control, out: &Output) -> anyhow::Result<()> {
    let subject: Subject = match (args.at, args.id) {
        (Some(text), _) => moment(engine, &text)?.into(),
        (None, Some(id)) => id.into(),
        (None, None) => return Err(Unnamed.into()),
    };
    let call = Call { actor: Actor::cli(), wait: Duration::ZERO, control };
    out.preview(engine, &engine.preview(subject, &call)?)
}

/// A time as it was typed: with its offset, or where the schedule lives.
fn moment(engine: &Engine, text: &str) -> anyhow::Result<Moment> {
    let zone = engine.settings()?.schedule.timezone;
    Moment::typed(text, zone).map_err(|allowed| BadTime { text: text.to_owned(), allowed }.into())
}

/// The live data is replaced only by whoever says so twice.
fn confirmed(
    engine: &Engine,
    said: Said,
    from: Option<&Elsewhere>,
    confirm: Option<String>,
    out: &Output,
) -> anyhow::Result<()> {
    let zone = engine.settings()?.schedule.timezone;
    let name = match said {
        Said::Which(which) => which.to_string(),
        Said::At(moment) => moment.at().with_timezone(&zone).to_rfc3339_opts(SecondsFormat::AutoSi, true),
    };
    let is_same = |text: &str| match said {
        Said::Which(which) => text.parse() == Ok(which),
        Said::At(moment) => Moment::typed(text, zone) == Ok(moment),
    };
    if confirm.as_deref().is_some_and(is_same) {
        return Ok(());
    }
    // Nobody is asked about what isn't there. What a replica holds is looked up there, later.
    match (said, from) {
        (Said::Which(Which::Id(id)), None) => engine.assert_restorable(id.into())?,
        (Said::At(moment), None) => engine.assert_restorable(moment.into())?,
        (_, Some(_)) | (Said::Which(Which::Latest | Which::All), None) => {}
    }
    if confirm.is_none() && std::io::stdin().is_terminal() {
        let again = out.ask(&question(engine, said, from, &name)?)?;
        if is_same(&again) {
            return Ok(());
        }
    }
    let what = if matches!(said, Said::At(_)) { "time" } else { "backup" };
    Err(Unconfirmed { what, said: name }.into())
}

/// What is put back to what, and how to say yes.
fn question(engine: &Engine, said: Said, from: Option<&Elsewhere>, name: &str) -> anyhow::Result<String> {
    let zone = engine.settings()?.schedule.timezone;
    let taken = match (said, from) {
        (Said::Which(Which::Id(id)), None) => {
            let taken = engine.get(&id)?.timestamp.with_timezone(&zone).format("%A, %Y-%m-%d %H:%M");
            format!("they held on {taken}")
        }
        (Said::At(moment), _) => {
            let at = moment.at().with_timezone(&zone).format("%A, %Y-%m-%d at %H:%M:%S%.3f");
            format!("they held on {at} ({zone})")
        }
        (Said::Which(which), _) => format!("{which} of the replica holds"),
    };
    let names: Vec<_> = engine.config().databases.keys().map(|name| name.as_str()).collect();
    Ok(format!(
        "This puts {} back to what {taken}.\n\
         What they hold now is kept as a backup; `undo` brings it back.\n\
         Type {name} once more to go on: ",
        names.join(" and ")
    ))
}
