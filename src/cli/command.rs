//! Every command with its arguments, as the help and the manual show them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::{NAME, replica, restore};
use crate::app;
use crate::backup::{BackupId, DatabaseName, Tier, reason};
use crate::engine::Offline;

/// Consistent backups of live SQLite databases: rotated, verified, given back.
///
/// Configured by BACKUP_* variables; `config` shows them all.
#[derive(Parser, Debug)]
#[command(name = NAME, version = app::version(), max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    /// Print JSON, in the shapes of the HTTP API
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
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
        /// Accept that a database is suddenly much smaller: rotation goes on
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
pub(super) struct TokenArgs {
    /// Whom it is for; the audit log shows it
    #[arg(long, default_value = "operator")]
    pub(super) subject: String,
    /// Without the superuser's rights: it may look and not touch
    #[arg(long)]
    pub(super) user: bool,
    /// Print a link with a one-time code instead, which POST /sign-in takes within 10 minutes
    #[arg(long, conflicts_with_all = ["user", "lifetime"])]
    pub(super) link: bool,
    /// How long it counts, at most 30d
    #[arg(long = "for", default_value = "1h", value_name = "DURATION", value_parser = lifetime)]
    pub(super) lifetime: Duration,
}

#[derive(Args, Debug)]
pub(super) struct Wait {
    /// How long to wait for another operation, such as 30s
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(super) wait: Duration,
}

#[derive(Args, Debug)]
pub(super) struct Force {
    /// Restore all the same: over corrupt live data; with triggers, views or functions that the live databases lack; or a backup
    /// that holds other databases than are configured
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Args, Debug)]
pub(super) struct OfflineArgs {
    /// Put whole files in place while the app is stopped: for another page size or encoding, or a live file that is missing
    /// or ruined
    #[arg(long)]
    pub(super) offline: bool,
    /// Vouch that the app is stopped: a database that is not in WAL mode, or is ruined, doesn't show who has it open
    #[arg(long, requires = "offline")]
    pub(super) app_is_stopped: bool,
}

impl OfflineArgs {
    pub(super) fn word(&self) -> Option<Offline> {
        self.offline.then_some(Offline { app_is_stopped: self.app_is_stopped })
    }
}

#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    /// Save a value, which wins over the environment: enabled, schedule.hour, retention.daily …
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Forget all saved values
    #[arg(long)]
    pub(super) reset: bool,
    /// Only tell what the change would do
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) wait: Wait,
}

#[derive(Subcommand, Debug)]
pub(super) enum CatalogCommand {
    /// Make the catalog anew from the files; nothing is deleted
    Rebuild {
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum NotifyCommand {
    /// Send a test by each channel, and say what came of it
    Test,
}

#[derive(Subcommand, Debug)]
pub(super) enum AuditCommand {
    /// Prove that no line was changed, moved or cut off
    Verify,
    /// Say that lines were cut off which don't come back: the log counts as whole without them
    Accept {
        #[command(flatten)]
        wait: Wait,
    },
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
