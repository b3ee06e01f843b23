//! `replica …`, and what `restore --from` does before it restores.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::Output;
use crate::backup::{BackupId, Moment, ReplicaName};
use crate::engine::{Actor, Call, Elsewhere, Engine, Error, FetchedPoint, Pulled, Which};
use crate::sqlite::Control;

#[derive(Subcommand, Debug)]
pub(super) enum ReplicaCommand {
    /// Show the replicas and how they stand; with a name or a URL, ask that one what it holds
    List {
        /// A replica's name, or a URL such as s3://bucket/prefix (its credentials: BACKUP_REPLICA_FROM_…)
        from: Option<Elsewhere>,
    },
    /// Read a replica back, every byte of it, and compare it with what was recorded
    Verify {
        /// A replica's name, or a URL
        from: Elsewhere,
        /// One backup; all of them without it
        id: Option<BackupId>,
    },
    /// Bring backups from a replica into the backup directory; an empty one becomes that of the replica's store
    Pull {
        /// A replica's name, or a URL
        from: Elsewhere,
        /// An id, or latest
        #[arg(required_unless_present = "all")]
        which: Option<Which>,
        /// Every backup that isn't here yet
        #[arg(long, conflicts_with = "which")]
        all: bool,
        #[command(flatten)]
        wait: super::Wait,
    },
    /// Send now what a replica lacks
    Push(Push),
}

#[derive(Args, Debug)]
pub(super) struct Push {
    /// A replica's name
    name: ReplicaName,
    /// Another directory that wrote there does so no more: this one goes on in its place
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    wait: super::Wait,
}

/// `false` is a replica that isn't as it should be.
pub(super) fn operate(
    engine: &Engine,
    command: ReplicaCommand,
    control: &Control,
    out: &Output,
) -> anyhow::Result<bool> {
    let (bar, control) = out.progress(control);
    let call = |wait: Duration| Call { actor: Actor::cli(), wait, control: control.clone() };
    match command {
        ReplicaCommand::List { from: None } => out.replicas(&engine.replicas()?, engine)?,
        ReplicaCommand::List { from: Some(from) } => {
            let holding = engine.list_replica(&from, &control)?;
            let window = match engine.window_there(&from, &control) {
                // The backups are shown all the same.
                Err(error @ Error::ReplicaJournalLocked { .. }) => {
                    tracing::warn!("{error}");
                    None
                }
                window => window?,
            };
            out.held(&holding, window.as_ref(), engine)?;
        }
        ReplicaCommand::Verify { from, id } => {
            let verification = engine.verify_replica(&from, id, &call(Duration::from_secs(10)))?;
            bar.finish_and_clear();
            out.replica_verified(&verification)?;
            return Ok(verification.ok);
        }
        ReplicaCommand::Pull { from, which, wait, .. } => {
            let brought = engine.pull(&from, which.unwrap_or(Which::All), &call(wait.wait))?;
            bar.finish_and_clear();
            out.pulled(&brought)?;
            return Ok(brought.not_pulled.is_empty());
        }
        ReplicaCommand::Push(Push { name, take_over, wait }) => {
            let done = engine.replicate(&name, take_over, &call(wait.wait))?;
            bar.finish_and_clear();
            out.replicated(&name, &done)?;
            return Ok(done.not_sent.is_empty());
        }
    }
    bar.finish_and_clear();
    Ok(true)
}

/// Brings the backup that is to be restored; its id here.
pub(super) fn bring(
    engine: &Engine,
    from: &Elsewhere,
    which: Which,
    wait: Duration,
    control: &Control,
    out: &Output,
) -> anyhow::Result<BackupId> {
    let (bar, control) = out.progress(control);
    let brought = engine.pull(from, which, &Call { actor: Actor::cli(), wait, control })?;
    bar.finish_and_clear();
    match brought.pulled.as_slice() {
        [Pulled { id, .. }] => Ok(*id),
        _ => anyhow::bail!("one backup is restored, and {} were brought", brought.pulled.len()),
    }
}

/// Brings what leads to the time that is to be restored.
pub(super) fn bring_point(
    engine: &Engine,
    from: &Elsewhere,
    moment: Moment,
    wait: Duration,
    control: &Control,
    out: &Output,
) -> anyhow::Result<FetchedPoint> {
    let (bar, control) = out.progress(control);
    let fetched = engine.fetch_point(from, moment, &Call { actor: Actor::cli(), wait, control })?;
    bar.finish_and_clear();
    Ok(fetched)
}
