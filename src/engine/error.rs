//! Why operations don't do what was asked, by situation.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::record::PRE_RESTORE;
use super::{Holder, bytes};
use crate::backup::{BackupId, DatabaseName, Moment, ReplicaName, Subject};
use crate::journal::timeline::Gap;
use crate::sqlite::kind::Misfit;
use crate::{audit, catalog, disk, journal, remote, sqlite};

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
    /// Nobody is told of anything.
    #[error(
        "no notices are set up; set BACKUP_SMTP_URL, BACKUP_WEBHOOK_URL or BACKUP_HEALTHCHECK_URL, as docs/notices.md says"
    )]
    NoChannels,
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
    /// A file of a backup isn't what the catalog says, or what the journal holds of an instant isn't whole.
    #[error("{subject} is damaged: {reason}; use {}, and look at the disk", subject.another())]
    Damaged {
        /// The backup, or the point.
        subject: Subject,
        /// What was found.
        reason: String,
    },
    /// A copy is encrypted, and nothing at hand opens it.
    #[error(
        "the copy of `{name}` in {id} is encrypted, and no identity at hand opens it; set BACKUP_ENCRYPTION_IDENTITY_FILE to the file with the identity of {}",
        of_recipients(recipients)
    )]
    NeedsIdentity {
        /// The backup.
        id: BackupId,
        /// Which.
        name: DatabaseName,
        /// Those that it is encrypted to, where they are known.
        recipients: Vec<String>,
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
    /// The audit log has all that the catalog remembers.
    #[error("the audit log lacks nothing that the catalog remembers; `audit verify` reads all of it")]
    NothingLost,
    /// No restore has made a backup of what it replaced.
    #[error("there is no pre-restore backup, so there is no restore to undo; `list` shows the backups that there are")]
    NothingToUndo,
    /// The backup is of another set of databases.
    #[error(
        "{subject} is not of the same databases as are configured: {}; with force the databases that both have are restored, and the others stay as they are",
        other_databases(not_held, unknown)
    )]
    OtherDatabases {
        /// The backup, or the point.
        subject: Subject,
        /// Configured, but not in it.
        not_held: Vec<DatabaseName>,
        /// In it, but not configured.
        unknown: Vec<DatabaseName>,
    },
    /// No journal was kept.
    #[error(
        "there is no journal in the backup directory, so there is no time to go back to; `list` shows the backups that there are. BACKUP_PITR=true keeps a journal from then on"
    )]
    NoJournal,
    /// The journal doesn't reach that instant.
    #[error(
        "{moment} can't be restored: the journal reaches from {from} to {to}. Take a time between these, or a backup{}",
        of_others(lacking)
    )]
    PointOutside {
        /// What was asked for.
        moment: Moment,
        /// The first instant that it reaches.
        from: Moment,
        /// The last one.
        to: Moment,
        /// The databases that don't have it, where others do.
        lacking: Vec<DatabaseName>,
    },
    /// Nobody knows what the databases held at that instant.
    #[error(
        "{moment} can't be restored: {}. Take one of these two, or another time{}", Gap::why(*wrong, before, after), of_others(lacking)
    )]
    PointInGap {
        /// What was asked for.
        moment: Moment,
        /// The last instant before it that can be restored.
        before: Moment,
        /// The first one after it.
        after: Moment,
        /// Something was recorded, and was found wrong.
        wrong: bool,
        /// The databases that don't have it, where others do.
        lacking: Vec<DatabaseName>,
    },
    /// The live database can't be restored while the app has it open.
    #[error(
        "{reason}; nothing was changed. Stop the app, and use `restore --offline`, which puts whole files in place"
    )]
    NeedsOffline {
        /// Why.
        reason: String,
    },
    /// SQLite can't read what lies there.
    #[error(
        "the live database `{name}` can't be read ({reason}), so no backup of it can be made first; with --force it is moved aside, and the backup takes its place"
    )]
    RuinedLive {
        /// Which.
        name: DatabaseName,
        /// In SQLite's words.
        reason: String,
    },
    /// Someone has it open.
    #[error(
        "`{name}` is open in another process; nothing was changed. Stop the app, and whatever else has it open, first"
    )]
    AppRuns {
        /// Which.
        name: DatabaseName,
    },
    /// Nobody can see whether someone has it open.
    #[error(
        "`{name}` is not in WAL mode, or can't be read any more, so it can't be seen whether the app has it open; nothing was changed. Stop the app, and say so: --app-is-stopped"
    )]
    AppMayRun {
        /// Which.
        name: DatabaseName,
    },
    /// The copy isn't of the same kind as the live database.
    #[error(
        "{} is of another kind than the live database: {reason}; nothing was changed. Look whether BACKUP_DATABASES names the right files",
        copy_of(name, subject)
    )]
    Foreign {
        /// The backup, or the point.
        subject: Subject,
        /// Which.
        name: DatabaseName,
        /// What tells them apart.
        reason: String,
    },
    /// The copy brings code that the live database doesn't have.
    #[error("{} has what runs by itself within the app and what the live database doesn't have: {}; nothing was changed. If it is meant to be there, restore with force", copy_of(name, subject), code.join(", "))]
    ForeignCode {
        /// The backup, or the point.
        subject: Subject,
        /// Which.
        name: DatabaseName,
        /// `trigger NAME`, `view NAME`, `virtual table NAME`, `function NAME`, `generated columns of NAME`.
        code: Vec<String>,
    },
    /// What a restore would replace is corrupt.
    #[error("the live database `{name}` is corrupt: {}; nothing was changed. With force it is restored all the same, and what its pages hold now is kept as the pre-restore backup", findings.join("; "))]
    CorruptLive {
        /// Which.
        name: DatabaseName,
        /// What SQLite said.
        findings: Vec<String>,
    },
    /// The app's writers would have to wait for too long.
    #[error("restoring `{name}` would have kept the app's writers waiting for more than {}; nothing was changed. Raise BACKUP_RESTORE_HOLD, or restore when the app writes less", humantime::format_duration(*hold))]
    RestoreHold {
        /// At which database the time was up.
        name: DatabaseName,
        /// The bound.
        hold: Duration,
        /// The app had written since the pre-restore snapshot, which took a part of that time.
        moved: bool,
    },
    /// There is no room for the pages on the disk of a live database.
    #[error("the disk of the live databases ({}) is full: {} are needed to restore, {} are free; make room there. Nothing was changed", path.display(), bytes(*needed), bytes(*free))]
    DataFull {
        /// The folder of the live database.
        path: PathBuf,
        /// Bytes that the pages take.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A restored database isn't what was written.
    #[error(
        "`{name}` was restored from {subject}, but {reason}: the disk of the live databases is not to be trusted. Restore onto another one; the backups are as they were{}",
        kept_before(pre_restore)
    )]
    RestoredWrong {
        /// The backup, or the point.
        subject: Subject,
        /// The backup of what was there before, if anything was.
        pre_restore: Option<BackupId>,
        /// Which.
        name: DatabaseName,
        /// What was found.
        reason: String,
    },
    /// A restore has neither come to its end nor left the old state everywhere.
    #[error(
        "the restore of {subject} is not settled: {reason}. The live databases may be of different times until it is, and nothing else is done before: it is tried again with every operation and at each start. If it can't be settled, stop the app, remove restore.json from the backup directory, and restore the newest pre-restore backup"
    )]
    RestoreUnfinished {
        /// The backup, or the point.
        subject: Subject,
        /// What is in the way.
        reason: String,
    },
    /// The plan of a restore that was cut short can't be read.
    #[error("{} can't be read ({reason}), and tells of a restore that was cut short; nothing else is done before it is settled. If it can't be mended, stop the app, remove the file, and restore a backup", path.display())]
    PlanUnreadable {
        /// The plan.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It tells of databases that aren't configured.
    #[error("it was of databases that BACKUP_DATABASES no longer names ({}); name them again", named(names))]
    PlanNamesUnknown {
        /// Which.
        names: Vec<DatabaseName>,
    },
    /// No replica of that name is configured.
    #[error("there is no replica `{name}`: {}", known_replicas(known))]
    ReplicaUnknown {
        /// As it was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// No place to have a replica in.
    #[error("{problem}")]
    BadPlace {
        /// What is wrong and what to do.
        problem: String,
    },
    /// The store of a replica doesn't do what it was asked for.
    #[error("the replica {at}: {}", error.to_string().replace("<NAME>", name))]
    Replica {
        /// Its name or URL.
        at: String,
        /// As its variables have it.
        name: String,
        /// What it was.
        error: remote::Error,
    },
    /// Nothing is there to be taken.
    #[error(
        "the replica {at} holds no backup that could be taken; is it the right place? `replica list` shows what is configured"
    )]
    ReplicaEmpty {
        /// Its name or URL.
        at: String,
    },
    /// What is there isn't what was sent.
    #[error("the replica {at} is damaged: {reason}")]
    ReplicaDamaged {
        /// Its name or URL.
        at: String,
        /// What was found.
        reason: String,
    },
    /// Objects without a catalog.
    #[error(
        "the replica {at} has no catalog that could be read, but {remains} objects of backups: bring the folder `catalog` back from the store's trash or its older versions, or give this replica an empty place. Nothing was changed there"
    )]
    ReplicaCatalogLost {
        /// Its name or URL.
        at: String,
        /// How many objects are there.
        remains: usize,
    },
    /// Its catalog went while it was written to.
    #[error(
        "the catalog of the replica {at} was there when this began, and is gone ({key}): is what it lies on still mounted, and was it emptied? Nothing more was written there"
    )]
    ReplicaVanished {
        /// Which.
        at: String,
        /// The key of the catalog.
        key: String,
    },
    /// It was written to before, and is empty now.
    #[error(
        "the replica {at} is empty, though backups were sent there: is it the right place? If it was emptied, `replica push {name} --take-over` sends all of them again"
    )]
    ReplicaEmptied {
        /// Its name or URL.
        at: String,
        /// Its name.
        name: ReplicaName,
    },
    /// It belongs to another store.
    #[error(
        "the replica {at} holds {backups} backups of another store ({theirs}; this one is {ours}), and they are not touched: give this one a place of its own in BACKUP_REPLICA_{}_URL",
        name.as_str().to_uppercase()
    )]
    ReplicaForeign {
        /// Its name or URL.
        at: String,
        /// Its name.
        name: ReplicaName,
        /// Whose it is.
        theirs: String,
        /// Ours.
        ours: String,
        /// How many are there.
        backups: usize,
    },
    /// Another directory writes to it just now.
    #[error(
        "another machine ({host}) writes to the replica {at} until {until}; if it is gone for good, `replica push {name} --take-over` doesn't wait for that"
    )]
    ReplicaHeld {
        /// Its name or URL.
        at: String,
        /// Its name.
        name: ReplicaName,
        /// On which host.
        host: String,
        /// Until when.
        until: String,
    },
    /// Another directory wrote the catalog that is there.
    #[error("the replica {at} was written by another backup directory of the same store ({host}, {when}){}; if that one is gone for good, or this one is to go on in its place, say so: `replica push {name} --take-over`", if *wrote { " since this one wrote there" } else { "" })]
    ReplicaTakenOver {
        /// Its name or URL.
        at: String,
        /// Its name.
        name: ReplicaName,
        /// On which host.
        host: String,
        /// When.
        when: String,
        /// This one wrote there before.
        wrote: bool,
    },
    /// Another process has to do with it.
    #[error("the replica `{name}` is being sent to or verified: {}; try again when that is done", held(holder))]
    ReplicaBusy {
        /// Which.
        name: ReplicaName,
        /// Who.
        holder: Option<Box<Holder>>,
    },
    /// Nothing is here that could be sent.
    #[error("there is no backup directory in {} yet, so there is nothing to send; is its volume mounted? `create` takes the first backup", root.display())]
    NothingToSend {
        /// The backup directory.
        root: PathBuf,
    },
    /// There is nowhere to put the databases.
    #[error("the folder of the live databases, {}, is not there; make it, owned by the app's user, or mount the volume that it is on. Nothing was changed", path.display())]
    NoDataFolder {
        /// The folder.
        path: PathBuf,
    },
    /// An identity is missing to take a backup from there.
    #[error(
        "{id} in the replica {at} is encrypted, and no identity at hand opens it; set BACKUP_ENCRYPTION_IDENTITY_FILE to the file that `keygen` made"
    )]
    ReplicaNeedsIdentity {
        /// Its name or URL.
        at: String,
        /// Which backup.
        id: BackupId,
    },
    /// Nothing of a journal lies there.
    #[error(
        "no journal lies in the replica {at}, so there is no time to go back to; `replica list` with its name shows the backups that it holds. BACKUP_PITR=true sends one from then on"
    )]
    ReplicaNoJournal {
        /// Its name or URL.
        at: String,
    },
    /// An identity is missing to read the journal there.
    #[error(
        "the journal in the replica {at} is encrypted, and no identity at hand opens it; set BACKUP_ENCRYPTION_IDENTITY_FILE to the file that `keygen` made"
    )]
    ReplicaJournalLocked {
        /// Its name or URL.
        at: String,
    },
    /// Some backups were not sent.
    #[error("{reason}")]
    NotSent {
        /// Which, and why.
        reason: String,
    },
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
    /// The journal.
    #[error(transparent)]
    Journal(#[from] journal::Error),
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
            Error::NoChannels => "no-channels",
            Error::NoSuchDatabase { .. } => "no-such-database",
            Error::LastGood(_) => "last-good",
            Error::Damaged { .. } => "damaged",
            Error::NeedsIdentity { .. } => "needs-identity",
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
            Error::NothingToUndo => "nothing-to-undo",
            Error::NothingLost => "nothing-lost",
            Error::OtherDatabases { .. } => "other-databases",
            Error::NoJournal | Error::ReplicaNoJournal { .. } | Error::PointOutside { .. } => "point-outside",
            Error::PointInGap { .. } => "point-in-gap",
            Error::NeedsOffline { .. } => "needs-offline",
            Error::RuinedLive { .. } => "live-ruined",
            Error::AppRuns { .. } | Error::AppMayRun { .. } => "app-runs",
            Error::Foreign { .. } => "foreign",
            Error::ForeignCode { .. } => "foreign-code",
            Error::CorruptLive { .. } => "live-corrupt",
            Error::ReplicaUnknown { .. } | Error::BadPlace { .. } => "replica-unknown",
            Error::Replica { error, .. } => error.code(),
            Error::ReplicaEmpty { .. } => "replica-empty",
            Error::ReplicaDamaged { .. } => "replica-damaged",
            Error::ReplicaCatalogLost { .. } | Error::ReplicaVanished { .. } | Error::ReplicaEmptied { .. } => {
                "replica-catalog-lost"
            }
            Error::ReplicaForeign { .. } => "replica-foreign",
            Error::ReplicaHeld { .. } => "replica-held",
            Error::ReplicaTakenOver { .. } => "replica-taken-over",
            Error::ReplicaNeedsIdentity { .. } | Error::ReplicaJournalLocked { .. } => "needs-identity",
            Error::NotSent { .. } => "replica-incomplete",
            Error::ReplicaBusy { .. } => "held",
            Error::NothingToSend { .. } => "no-backups",
            Error::NoDataFolder { .. } => "live-missing",
            Error::RestoreHold { .. } => "restore-hold",
            Error::RestoredWrong { .. } => "read-back",
            Error::RestoreUnfinished { .. } | Error::PlanUnreadable { .. } | Error::PlanNamesUnknown { .. } => {
                "restore-unfinished"
            }
            error if error.is_full() => "disk-full",
            Error::Sqlite(error) => match error {
                Live::Missing { .. } => "live-missing",
                Live::Empty { .. } => "live-empty",
                Live::NotAFile { .. } => "live-not-a-file",
                Live::HardLinked { .. } => "live-hard-linked",
                Live::MountedAlone { .. } => "live-mounted-alone",
                Live::Parted { .. } => "live-parted",
                Live::HalfCommitted { .. } => "live-half-committed",
                Live::NotADatabase { .. } => "live-not-a-database",
                Live::Locked { .. } => "live-locked",
                Live::HeldTooLong { .. } => "rollback-hold",
                Live::Corrupt { .. } => "live-corrupt",
                Live::Swapped { .. } => "live-swapped",
                Live::ReadBack { .. } => "read-back",
                Live::SourceIo { .. } | Live::Write { .. } => "live-io",
                Live::Full { .. } => "disk-full",
                Live::NotAllowed { .. } => "live-not-allowed",
                Live::TooSlow { .. } => "too-slow",
                Live::Cancelled => "cancelled",
                Live::NoDescriptor { .. } | Live::Disk(_) => "disk",
                Live::Sqlite { .. } => "sqlite",
            },
            Error::Catalog(_) => "catalog",
            Error::Audit(_) => "audit",
            Error::Journal(_) => "journal",
            Error::Full { .. } | Error::DataFull { .. } => "disk-full",
            Error::Disk(_) => "disk",
        }
    }

    /// What the audit log says of it besides. A restore that failed once it had changed the data tells what an undo brings back.
    pub(super) fn details(&self) -> Map<String, Value> {
        match self {
            Error::RestoredWrong { pre_restore, .. } => {
                Map::from_iter([(PRE_RESTORE.to_owned(), serde_json::to_value(pre_restore).unwrap_or_default())])
            }
            _ => Map::new(),
        }
    }

    /// Why a live database can't be written page by page.
    pub(super) fn of_target(error: sqlite::Error) -> Self {
        use sqlite::Error::{Corrupt, Empty, Missing, NotADatabase};
        match error {
            Missing { .. } | Empty { .. } | NotADatabase { .. } | Corrupt { .. } => {
                Self::NeedsOffline { reason: error.to_string() }
            }
            other => other.into(),
        }
    }

    /// Why a copy can't be read: it is damaged, unless what SQLite says is none of its faults (it can't be opened just now, say).
    pub(super) fn of_copy(subject: Subject, error: sqlite::Error) -> Self {
        let reason = match error {
            sqlite::Error::Corrupt { name, findings, .. } => format!("the copy of `{name}`: {}", findings.join("; ")),
            sqlite::Error::SourceIo { name, source } => {
                format!("the copy of `{name}`: the disk can't read it: {source}")
            }
            sqlite::Error::Sqlite { name, source } if !sqlite::is_out_of_memory(&source) => {
                format!("the copy of `{name}`: {source}")
            }
            sqlite::Error::NotADatabase { name } => format!("the copy of `{name}` is not a SQLite database"),
            // Its words are of a live database.
            sqlite::Error::NotAllowed { name, source } => return sqlite::Error::Sqlite { name, source }.into(),
            other => return other.into(),
        };
        Self::Damaged { subject, reason }
    }

    /// Why the copy of a database may not take the live one's place.
    pub(super) fn misfit(subject: Subject, name: &DatabaseName, misfit: Misfit) -> Self {
        let unfit =
            |how: String| Self::NeedsOffline { reason: format!("{} doesn't fit: {how}", copy_of(name, &subject)) };
        let name = name.clone();
        match misfit {
            Misfit::Empty => Self::Foreign { subject, name, reason: "it has no table at all".to_owned() },
            Misfit::Foreign(reason) => Self::Foreign { subject, name, reason },
            Misfit::Code(code) => Self::ForeignCode { subject, name, code },
            Misfit::Incompatible(how) => unfit(how),
            Misfit::PageSize { copy, live } => {
                unfit(format!("its page size is {copy}, that of the live database is {live}"))
            }
        }
    }

    /// A restore that may take less time when it is begun anew.
    pub(super) fn may_begin_anew(&self) -> bool {
        matches!(self, Error::RestoreHold { moved: true, .. })
    }

    /// A disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Error::Full { .. }
            | Error::DataFull { .. }
            | Error::Journal(journal::Error::NoRoom { .. })
            | Error::Sqlite(sqlite::Error::Full { .. }) => true,
            other => other.disk().is_some_and(disk::Error::is_full),
        }
    }

    /// The process, or the whole machine, may open no more files just now.
    pub(super) fn lacks_descriptors(&self) -> bool {
        match self {
            Error::Sqlite(sqlite::Error::NoDescriptor { .. }) => true,
            other => other.disk().is_some_and(disk::Error::lacks_descriptors),
        }
    }

    /// What a disk said.
    fn disk(&self) -> Option<&disk::Error> {
        match self {
            Error::Disk(error)
            | Error::Sqlite(sqlite::Error::Disk(error))
            | Error::Catalog(catalog::Error::Disk(error))
            | Error::Audit(audit::Error::Disk(error))
            | Error::Journal(journal::Error::Disk(error)) => Some(error),
            _ => None,
        }
    }
}

fn known_replicas(known: &[String]) -> String {
    match known {
        [] => "none is configured; BACKUP_REPLICA_<NAME>_URL makes one".to_owned(),
        known => format!("there are {}", known.join(", ")),
    }
}

/// Those whose identity is wanted.
fn of_recipients(recipients: &[String]) -> String {
    if recipients.is_empty() { "whoever it was encrypted to".to_owned() } else { recipients.join(" or ") }
}

/// "the copy of `x` in daily-2026-01-08", "`x` as it was at 2026-11-26T09:14:05.000Z".
fn copy_of(name: &DatabaseName, subject: &Subject) -> String {
    match subject {
        Subject::Backup(id) => format!("the copy of `{name}` in {id}"),
        Subject::Point(moment) => format!("`{name}` as it was at {moment}"),
    }
}

/// "it has no copy of `x`, and one of `y`".
fn other_databases(not_held: &[DatabaseName], unknown: &[DatabaseName]) -> String {
    let lacks = (!not_held.is_empty()).then(|| format!("it has no copy of {}", named(not_held)));
    let has = (!unknown.is_empty()).then(|| format!("it has one of {} besides", named(unknown)));
    [lacks, has].into_iter().flatten().collect::<Vec<_>>().join(", and ")
}

/// How the databases come back that have an instant which these lack.
fn of_others(lacking: &[DatabaseName]) -> String {
    if lacking.is_empty() {
        return String::new();
    }
    let names = named(lacking);
    format!("; only {names} can't go back to it: with BACKUP_DATABASES set to the others for that one command these do")
}

fn kept_before(pre_restore: &Option<BackupId>) -> String {
    pre_restore.map(|id| format!(", and {id} is what was there before: `undo` brings it back")).unwrap_or_default()
}

fn named(names: &[DatabaseName]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ")
}

fn held(holder: &Option<Box<Holder>>) -> String {
    holder.as_ref().map_or("its holder has not said who it is".to_owned(), |holder| holder.to_string())
}
