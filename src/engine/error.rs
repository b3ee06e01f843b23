//! Why operations don't do what was asked, by situation.

use std::path::PathBuf;

use super::{Holder, bytes};
use crate::backup::{BackupId, DatabaseName};
use crate::{audit, catalog, disk, sqlite};

/// Why an operation didn't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another operation is under way.
    #[error("another operation holds the backup directory: {}; try again when it is done", held(.0))]
    Held(Option<Box<Holder>>),
    /// Another `serve` runs on the directory.
    #[error("another `serve` already runs on this backup directory: {}; one is enough, stop the other first", held(.0))]
    Served(Option<Box<Holder>>),
    /// No such backup.
    #[error("there is no backup {0}; `list` shows those that there are")]
    NotFound(BackupId),
    /// There is nothing to rehearse with.
    #[error("there is no backup yet, so there is nothing to rehearse; take one first")]
    NoBackups,
    /// No such database in the backup.
    #[error("the backup {id} has no database `{name}`; it has {}", names.join(", "))]
    NoSuchDatabase {
        /// The backup.
        id: BackupId,
        /// What was asked for.
        name: DatabaseName,
        /// What there is.
        names: Vec<String>,
    },
    /// The last backup, or the last good one, goes only when told twice.
    #[error("{0} is the last backup that is left, or the last good one; make another first, or delete it with --force")]
    LastGood(BackupId),
    /// A file of a backup isn't what the catalog says.
    #[error("{id} is damaged: {reason}; use another backup, and look at the disk")]
    Damaged {
        /// The backup.
        id: BackupId,
        /// What was found.
        reason: String,
    },
    /// The place to put a copy is taken.
    #[error("{} exists already and is not overwritten; choose another name or remove it", path.display())]
    TargetExists {
        /// The place.
        path: PathBuf,
    },
    /// A download to that place has begun and not ended.
    #[error("{} lies there, of a download that is under way or was ended before it was done; if none is, remove it and try again", path.display())]
    Unfinished {
        /// What it has left.
        path: PathBuf,
    },
    /// SQLite would take it for a part of the downloaded database.
    #[error("{} lies there, and SQLite would play it into the downloaded database; move it away first, or choose another name", path.display())]
    Beside {
        /// What lies beside the place.
        path: PathBuf,
    },
    /// There is no room.
    #[error("the disk of the backup directory is full: {} are needed, {} are free; make room or delete backups, older ones are untouched", bytes(*needed), bytes(*free))]
    Full {
        /// Bytes that the backup takes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// It isn't the directory that was meant.
    #[error("the backup directory is the store {found}, but {expected} was expected; is another volume mounted there?")]
    AnotherStore {
        /// By `BACKUP_STORE_ID`, or since the start of `serve`.
        expected: String,
        /// By its catalog.
        found: String,
    },
    /// It isn't there at all.
    #[error("the backup directory {} is empty, but the store {expected} was expected; is its volume mounted? (For a new start unset BACKUP_STORE_ID, if it is set, and restart)", root.display())]
    StoreGone {
        /// By `BACKUP_STORE_ID`, or since the start of `serve`.
        expected: String,
        /// The directory.
        root: PathBuf,
    },
    /// Two names of one file.
    #[error("the databases `{0}` and `{1}` are one and the same file; BACKUP_DATABASES wants each file once")]
    SameFile(DatabaseName, DatabaseName),
    /// Someone else has changed the settings since they were looked at.
    #[error("the settings have changed since you looked at them; look again, then decide again")]
    Stale,
    /// Nothing is there to be cancelled.
    #[error("no operation is under way, so there is nothing to cancel")]
    NothingRuns,
    /// Another process does it.
    #[error("{0} is under way in another process; stop it there")]
    RunsElsewhere(Box<Holder>),
    /// It waits for no word.
    #[error(
        "{0} is not the newest backup, or not flagged as shrunk, so there is nothing to acknowledge; look at the list again"
    )]
    NotFlagged(BackupId),
    /// Settings out of range.
    #[error("{name}: {problem}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The saved settings can't be read.
    #[error("{} can't be read ({reason}); mend it, or remove it to go back to the configured values", path.display())]
    SavedSettings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A live database or a copy.
    #[error(transparent)]
    Sqlite(#[from] sqlite::Error),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] audit::Error),
    /// A file call.
    #[error(transparent)]
    Disk(#[from] disk::Error),
}

impl Error {
    /// A stable word for audit lines and problem types.
    pub fn code(&self) -> &'static str {
        use sqlite::Error as Live;
        match self {
            Error::Held(_) => "held",
            Error::Served(_) => "served",
            Error::NotFound(_) => "not-found",
            Error::NoBackups => "no-backups",
            Error::NoSuchDatabase { .. } => "no-such-database",
            Error::LastGood(_) => "last-good",
            Error::Damaged { .. } => "damaged",
            Error::TargetExists { .. } => "target-exists",
            Error::Unfinished { .. } => "target-unfinished",
            Error::Beside { .. } => "target-beside",
            Error::AnotherStore { .. } | Error::StoreGone { .. } => "another-store",
            Error::SameFile(..) => "same-file",
            Error::Stale => "stale",
            Error::NothingRuns => "nothing-runs",
            Error::RunsElsewhere(_) => "runs-elsewhere",
            Error::NotFlagged(_) => "not-flagged",
            Error::Setting { .. } => "bad-setting",
            Error::SavedSettings { .. } => "settings-unreadable",
            error if error.is_full() => "disk-full",
            Error::Sqlite(error) => match error {
                Live::Missing { .. } => "live-missing",
                Live::Empty { .. } => "live-empty",
                Live::NotAFile { .. } => "live-not-a-file",
                Live::HardLinked { .. } => "live-hard-linked",
                Live::NotADatabase { .. } => "live-not-a-database",
                Live::Locked { .. } => "live-locked",
                Live::HeldTooLong { .. } => "rollback-hold",
                Live::Corrupt { .. } => "live-corrupt",
                Live::Swapped { .. } => "live-swapped",
                Live::ReadBack { .. } => "read-back",
                Live::SourceIo { .. } => "live-io",
                Live::NotAllowed { .. } => "live-not-allowed",
                Live::TooSlow { .. } => "too-slow",
                Live::Cancelled => "cancelled",
                Live::Disk(_) => "disk",
                Live::Sqlite { .. } => "sqlite",
            },
            Error::Catalog(_) => "catalog",
            Error::Audit(_) => "audit",
            Error::Full { .. } => "disk-full",
            Error::Disk(_) => "disk",
        }
    }

    /// The disk of the backup directory is full.
    pub fn is_full(&self) -> bool {
        match self {
            Error::Full { .. } => true,
            Error::Disk(error)
            | Error::Sqlite(sqlite::Error::Disk(error))
            | Error::Catalog(catalog::Error::Disk(error))
            | Error::Audit(audit::Error::Disk(error)) => error.is_full(),
            _ => false,
        }
    }
}

fn held(holder: &Option<Box<Holder>>) -> String {
    holder.as_ref().map_or("its holder has not said who it is".to_owned(), |holder| holder.to_string())
}
