//! The operations on a backup directory, one at a time, by permit. Readers take no lock and change nothing.

mod activity;
mod call;
mod create;
mod decode;
pub mod doctor;
mod download;
mod drill;
mod encode;
mod error;
mod first;
mod handout;
mod journal;
mod lost;
mod memo;
pub mod metrics;
mod notices;
mod offline;
mod outlook;
mod past;
pub mod permit;
mod plan;
mod preview;
mod read;
mod rebuild;
pub mod record;
mod recording;
mod recovery;
mod remove;
mod replace;
mod replica;
mod restore;
mod rotation;
mod running;
mod settings;
mod settle;
mod staging;
pub mod status;
mod transfer;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::audit::{self, Audit, Entry, Kind};
use crate::backup::{BackupId, DatabaseName, Subject, hex};
use crate::catalog::{self, Anchor, Catalog};
use crate::clock::Clock;
use crate::config::Config;
use crate::disk;
use crate::journal::Journal;
use crate::sqlite::{self, Source};
use crate::store::Store;

pub use activity::{Activity, End};
pub use call::{Actor, Call};
pub use create::{Create, Created};
pub use download::Download;
pub use drill::{Drilled, JournalDatabase, JournalRehearsal, LastDrill, Rehearsal, Rehearsed};
pub use error::Error;
pub use first::First;
pub use handout::{Body, Broken, Handed, Handout, Leaves, Leaving, SUMS, TAR_BLOCK, tar_fill, tar_header};
pub use journal::{Recovery, Window};
pub use notices::{ChannelStatus, ChannelTested, Look, NoticesStatus, NoticesTested};
pub use outlook::Outlook;
pub use past::Past;
pub use permit::Holder;
pub use preview::{DatabasePreview, Preview};
pub use read::{AuditPage, AuditQuery, DatabaseVerdict, Verification};
pub use rebuild::Rebuilt;
pub use recording::{Recording, Tending};
pub use replica::{
    BackupVerdict, Brought, Elsewhere, FetchedPoint, Holding, JournalThere, JournalVerdict, LastError, NotSent, Pulled,
    ReplicaStatus, ReplicaVerification, Replicated, Shipping, Which,
};
pub use restore::{Offline, Restore, Restored, RestoredDatabase};
pub use settings::{Change, Changed};
pub use staging::{Staged, Staging};

use memo::Memo;
use metrics::Metrics;
use permit::{Permit, Refusal};
use recovery::{RECOVERED_BY, RECOVERY, UNBEGUN};
use running::Running;

/// Bytes for people: `4.1 MB`.
pub fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}

/// Codes that say that the live data itself can't be backed up: rotation stands still [P4].
const LIVE_DATA: [&str; 6] =
    ["live-missing", "live-empty", "live-not-a-file", "live-not-a-database", "live-corrupt", "live-io"];

/// A store that was met.
struct Met {
    store_id: String,
    is_empty: bool,
}

/// What a panic left in it is as good as before.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The operations of one backup directory.
#[derive(Clone)]
pub struct Engine {
    config: Arc<Config>,
    clock: Clock,
    store: Store,
    audit: Audit,
    /// The store that was met first: a running `serve` goes on with no other.
    met: Arc<Mutex<Option<Met>>>,
    /// What this process does to the directory just now.
    running: Running,
    /// The journals that this process writes.
    journals: Arc<Mutex<BTreeMap<DatabaseName, Journal>>>,
    /// When it took them up.
    recorded: Arc<Mutex<Option<recording::TakenUp>>>,
    catalog: Memo<Arc<Catalog>>,
    /// What was counted since this process began.
    metrics: Arc<Metrics>,
    said: record::Said,
    /// What the audit log lacks.
    unwritten: record::Unwritten,
    /// Why this process could not write its last line.
    append_fails: Arc<Mutex<Option<String>>>,
    /// This process is `serve`.
    serves: Arc<AtomicBool>,
    /// What the audit log says of failures.
    failures: Memo<status::Failures>,
    /// What it says of rehearsals.
    drills: Memo<drill::History>,
    /// What it says of the live data ([`Engine::freeze`]).
    unusable: Memo<Option<create::Learned>>,
    /// What this process knows of notices.
    notices: Arc<Mutex<notices::Kept>>,
}

impl Engine {
    /// An engine; nothing on disk is touched. Two names of one live file are refused.
    pub fn new(config: Arc<Config>, clock: Clock) -> Result<Self, Error> {
        let store = Store::at(&config.directory);
        let audit = Audit::at(&config.directory);
        let engine = Self {
            config,
            clock,
            store,
            audit,
            met: Arc::default(),
            running: Running::default(),
            journals: Arc::default(),
            recorded: Arc::default(),
            catalog: Memo::default(),
            metrics: Arc::default(),
            said: record::Said::default(),
            unwritten: record::Unwritten::default(),
            append_fails: Arc::default(),
            serves: Arc::default(),
            failures: Memo::default(),
            drills: Memo::default(),
            unusable: Memo::default(),
            notices: Arc::default(),
        };
        engine.assert_distinct()?;
        Ok(engine)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The live databases, links resolved; a file that isn't there keeps the path that was given.
    pub fn sources(&self) -> Vec<Source> {
        let resolve = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        self.config.databases.iter().map(|(name, path)| Source { name: name.clone(), path: resolve(path) }).collect()
    }

    /// Whether anything is there that could be replaced, or that someone could have open.
    pub fn has_live_databases(&self) -> bool {
        self.sources().iter().any(|source| source.path.symlink_metadata().is_ok())
    }

    /// That there is a folder for each live database, whether or not it is there itself.
    pub fn assert_data_folders(&self) -> Result<(), Error> {
        let folders = self.sources().into_iter().map(|source| disk::parent(&source.path).to_owned());
        folders.into_iter().find(|folder| !folder.is_dir()).map_or(Ok(()), |path| Err(Error::NoDataFolder { path }))
    }

    fn assert_distinct(&self) -> Result<(), Error> {
        let mut seen = BTreeMap::new();
        for source in self.sources() {
            let key = match source.path.metadata() {
                Ok(meta) => Ok(crate::store::inode(&meta)),
                Err(_) => Err(source.path.clone()),
            };
            if let Some(other) = seen.insert(key, source.name.clone()) {
                return Err(Error::SameFile(other, source.name));
            }
        }
        Ok(())
    }

    /// The catalog as it stands, for readers; `None` before the first operation.
    fn read_catalog(&self) -> Result<Option<Arc<Catalog>>, Error> {
        let missing = || catalog::Error::Missing { root: self.store.root().to_owned() };
        let load = || Catalog::load(self.store.root())?.map(Arc::new).ok_or_else(|| missing().into());
        match self.catalog.get(&self.store.root().join(catalog::FILE), load) {
            Err(Error::Catalog(catalog::Error::Missing { .. })) if !self.has_remains()? => Ok(None),
            read => read.map(Some),
        }
    }

    /// The same for readers of backups: those of another directory than the one that is meant are none of ours.
    fn standing_catalog(&self) -> Result<Option<Arc<Catalog>>, Error> {
        let catalog = self.read_catalog()?;
        match (&catalog, self.expected_store()) {
            (Some(catalog), _) => self.assert_store(catalog)?,
            (None, None) => {}
            (None, Some(expected)) => {
                return Err(Error::StoreGone { expected, root: self.store.root().to_owned() });
            }
        }
        Ok(catalog)
    }

    /// The line that the catalog remembers, if the audit log hasn't got it any more.
    fn lost_anchor(&self, catalog: &Catalog) -> Result<Option<u64>, Error> {
        match &catalog.audit {
            Some(anchor) if !self.audit.holds(anchor.seq, &anchor.hash)? => Ok(Some(anchor.seq)),
            _ => Ok(None),
        }
    }

    /// Files that only a catalog can have put there.
    fn has_remains(&self) -> Result<bool, Error> {
        let previous = self.store.root().join(catalog::PREVIOUS).exists();
        Ok(previous || self.store.scan()?.iter().any(|found| found.name.is_some()))
    }

    /// Takes the directory, makes it whole after whatever a crash left, and checks that it is the one that is meant.
    fn begin(&self, operation: &'static str, call: &Call) -> Result<Session<'_>, Error> {
        self.begin_while(operation, false, call)
    }

    /// The same, with the word of whoever has stopped the app, if it was given: a restore that was cut short may need it.
    fn begin_while(&self, operation: &'static str, app_is_stopped: bool, call: &Call) -> Result<Session<'_>, Error> {
        self.assert_expected().inspect_err(|error| {
            if matches!(error, Error::AnotherStore { .. } | Error::StoreGone { .. }) {
                self.refused(operation, call, None, error);
            }
        })?;
        let permit = self.permit(operation, call)?;
        let running = self.running.begin(permit.holder(), call);
        let catalog = match self.read_catalog()? {
            Some(catalog) => Arc::unwrap_or_clone(catalog),
            None => self.new_catalog()?,
        };
        self.assert_store(&catalog)?;
        let mut session = Session {
            engine: self,
            operation,
            call: call.clone(),
            app_is_stopped,
            recorded: catalog.ids(),
            catalog,
            owed: RefCell::default(),
            unlooked: RefCell::default(),
            is_recovered: false,
            _running: running,
            permit,
        };
        session.recover().inspect_err(|error| session.record_failure(error))?;
        self.audit.keep_reserve();
        Ok(session)
    }

    fn permit(&self, operation: &'static str, call: &Call) -> Result<Permit, Error> {
        self.store.make_dirs()?;
        let holder = Holder::new(operation, &call.actor.by, self.clock.now());
        let cancelled = || call.control.is_cancelled();
        match Permit::take(self.store.root(), permit::LOCK, holder, call.wait, &cancelled) {
            Ok(permit) => Ok(permit),
            Err(Refusal::Held(holder)) => {
                let error = Error::Held(holder);
                // The schedule asks again by itself.
                if call.actor != Actor::scheduler() {
                    self.refused(operation, call, None, &error);
                }
                Err(error)
            }
            Err(Refusal::Cancelled) => Err(sqlite::Error::Cancelled.into()),
            Err(Refusal::Disk(error)) => {
                let (error, now) = (error.into(), self.clock.now());
                let line = unbegun(operation, &call.actor, &error);
                // Where the disk takes no writes there is no line of it either.
                if self.append_at(now, line.clone()).is_err() {
                    self.unwritten.add(now, line);
                }
                Err(error)
            }
        }
    }

    /// One `serve` a directory, for as long as the permit lives.
    pub fn serve_permit(&self) -> Result<Permit, Error> {
        self.assert_expected()?;
        self.store.make_dirs()?;
        let holder = Holder::new("serve", "serve", self.clock.now());
        match Permit::take(self.store.root(), permit::SERVE, holder, Duration::ZERO, &|| false) {
            Ok(permit) => {
                self.serves.store(true, Ordering::Relaxed);
                Ok(permit)
            }
            Err(Refusal::Held(holder)) => Err(Error::Served(holder)),
            Err(Refusal::Cancelled) => Err(sqlite::Error::Cancelled.into()),
            Err(Refusal::Disk(error)) => Err(error.into()),
        }
    }

    /// Whether this process is `serve`.
    fn is_serve(&self) -> bool {
        self.serves.load(Ordering::Relaxed)
    }

    /// Takes the directory once and lets it go: whatever a crash left is put right.
    pub fn recover(&self, call: &Call) -> Result<(), Error> {
        let mut session = self.begin(RECOVERY, call)?;
        // What `serve` keeps is known from its start on.
        if self.is_serve()
            && session.catalog.retention != Some(self.config.settings.retention)
            && let Err(error) = session.commit()
        {
            tracing::warn!(%error, "how many backups are kept is not noted yet");
        }
        Ok(())
    }

    /// Whether a restore is under way or was cut short: the live databases may be of different times until it is settled.
    pub fn is_unsettled(&self) -> bool {
        plan::Plan::is_there(self.store.root())
    }

    fn new_catalog(&self) -> Result<Catalog, Error> {
        let mut catalog = Catalog::empty(random_id()?);
        catalog.save(self.store.root())?;
        Ok(catalog)
    }

    fn expected_store(&self) -> Option<String> {
        let met = || locked(&self.met).as_ref().map(|met| met.store_id.clone());
        self.config.store_id.clone().or_else(met)
    }

    /// Before anything is made: an unmounted volume looks like a first start.
    pub fn assert_expected(&self) -> Result<(), Error> {
        if self.expected_store().is_some() { self.standing_catalog().map(drop) } else { Ok(()) }
    }

    /// A store in which nothing was yet may become another: that of a replica from which backups were brought, or that of the volume
    /// that was mounted late.
    fn assert_store(&self, catalog: &Catalog) -> Result<(), Error> {
        let found = &catalog.store_id;
        let expected = match &self.config.store_id {
            Some(id) => id.clone(),
            None => {
                let mut met = locked(&self.met);
                let now = Met { store_id: found.clone(), is_empty: catalog.is_new() };
                match &mut *met {
                    Some(before) if before.store_id == *found => before.is_empty &= now.is_empty,
                    Some(before) if !before.is_empty => {}
                    new => *new = Some(now),
                }
                met.as_ref().map_or_else(|| found.clone(), |met| met.store_id.clone())
            }
        };
        if expected == *found { Ok(()) } else { Err(Error::AnotherStore { expected, found: found.clone() }) }
    }

    /// Records what was not allowed; the refusal stands whether or not it could be recorded.
    fn refused(&self, operation: &str, call: &Call, subject: Option<Subject>, error: &Error) {
        self.append_refusal(failure(entry(Kind::Refused, operation, &call.actor, subject), error));
    }

    /// The same of what was refused before it came to the engine: `code` is a stable word, `reason` says why.
    pub fn record_refusal(&self, operation: &str, actor: &Actor, code: &str, reason: String) {
        let refused = entry(Kind::Refused, operation, actor, None);
        self.append_refusal(Entry { code: Some(code.to_owned()), reason: Some(reason), ..refused });
    }

    /// Records that a token, a code or a session is about to be given out; without that line it isn't.
    pub fn record_access(&self, operation: &str, actor: &Actor, details: Map<String, Value>) -> Result<(), Error> {
        self.assert_expected()?;
        self.store.make_dirs()?;
        let line = Entry { ok: Some(true), details, ..entry(Kind::Outcome, operation, actor, None) };
        self.append_first(line)?;
        Ok(())
    }

    fn append_refusal(&self, entry: Entry) {
        // Where the volume has gone, nothing is written into the folder that it leaves.
        if let Err(error) = self.assert_expected() {
            self.tell(&entry);
            return tracing::warn!(%error, "a refusal could not be recorded");
        }
        if let Err(error) = self.append(entry) {
            tracing::warn!(%error, "a refusal could not be recorded");
        }
    }
}

/// What tells one backup directory from all others.
fn random_id() -> Result<String, Error> {
    Ok(hex(&disk::random::<16>()?))
}

/// Whether an operation may go on when the audit log can't be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unrecorded {
    /// Backups go on.
    GoesOn,
    /// What changes or deletes data, or hands it out, doesn't.
    IsRefused,
}

/// An operation that holds the directory.
struct Session<'e> {
    engine: &'e Engine,
    operation: &'static str,
    call: Call,
    /// Somebody says so; see [`restore::Offline`].
    app_is_stopped: bool,
    catalog: Catalog,
    /// Lines for the audit log that could not be written yet, in their order, and when they should have been.
    owed: RefCell<Vec<record::Dated>>,
    /// The audit log could not be read: the catalog as it stood before anything was done ([`Session::looked`]).
    unlooked: RefCell<Option<Catalog>>,
    /// Recovery is over: what is written of the catalog from here on is this operation's.
    is_recovered: bool,
    /// The backups that stood when the log told of all that was done, as far as this knows.
    recorded: BTreeSet<BackupId>,
    // Before the permit: the next operation puts its own there as soon as it has that.
    _running: running::Guard,
    permit: Permit,
}

impl Session<'_> {
    /// Writes the catalog: the commit point.
    fn commit(&mut self) -> Result<(), Error> {
        self.save()?;
        if self.is_recorded() {
            self.recorded = self.catalog.ids();
        }
        // What was empty when it was met isn't any more.
        if let Some(met) = &mut *locked(&self.engine.met)
            && met.store_id == self.catalog.store_id
        {
            met.is_empty &= self.catalog.is_new();
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Error> {
        if self.engine.is_serve() {
            self.catalog.retention = Some(self.engine.config.settings.retention);
        }
        let is_recorded = self.is_recorded();
        if !is_recorded {
            self.catalog.unrecorded.get_or_insert_with(|| self.recorded.clone());
        } else if self.is_recovered {
            self.catalog.unrecorded = None;
        }
        // A new anchor would make a log whole again that was cut off before the old one. And it says that an operation of the log has
        // written this catalog.
        if is_recorded
            && self.is_recovered
            && self.engine.lost_anchor(&self.catalog).is_ok_and(|lost| lost.is_none())
            && let Ok(head) = self.engine.audit.head()
        {
            self.catalog.audit = Some(Anchor { seq: head.seq, hash: head.hash });
        }
        let makes_room = self.catalog.backups.iter().any(|backup| backup.deleting);
        match self.catalog.save(self.engine.store.root()) {
            // What goes must be marked before it goes, and on a full disk there is no room for that either.
            Err(catalog::Error::Disk(error))
                if error.is_full() && makes_room && self.engine.audit.give_up_reserve() =>
            {
                Ok(self.catalog.save(self.engine.store.root())?)
            }
            saved => Ok(saved?),
        }
    }

    /// Does `work` between its intent, which says what is `planned`, and its outcome.
    fn audited<T>(
        &mut self,
        subject: Option<Subject>,
        unrecorded: Unrecorded,
        planned: Map<String, Value>,
        work: impl FnOnce(&mut Self) -> Result<(T, Map<String, Value>), Error>,
    ) -> Result<T, Error> {
        let intent = Entry { details: planned, ..entry(Kind::Intent, self.operation, &self.call.actor, subject) };
        match unrecorded {
            Unrecorded::GoesOn => self.record_or_owe(intent),
            Unrecorded::IsRefused => self.record(intent).inspect_err(|error| {
                let outcome = entry(Kind::Outcome, self.operation, &self.call.actor, subject);
                self.engine.tell(&failure(Entry { ok: Some(false), ..outcome }, error));
            })?,
        }
        let begun = Instant::now();
        let result = work(self);
        let outcome = entry(Kind::Outcome, self.operation, &self.call.actor, subject);
        let mut outcome = match &result {
            Ok((_, details)) => Entry { ok: Some(true), details: details.clone(), ..outcome },
            Err(error) => failure(Entry { ok: Some(false), ..outcome }, error),
        };
        outcome.details.insert(record::SECONDS.to_owned(), record::seconds(begun).into());
        // What is done is done: an outcome that can't be written is told, not undone.
        self.record_or_owe(outcome);
        result.map(|(value, _)| value)
    }

    /// Records a failure that came before the intent: the schedule counts it, and the status tells it.
    fn record_failure(&self, error: &Error) {
        self.record_or_owe(unbegun(self.operation, &self.call.actor, error));
    }

    /// What isn't done without its line.
    fn record(&self, entry: Entry) -> Result<(), Error> {
        let written = self.write(&entry);
        self.engine.tell(&entry);
        written
    }

    fn write(&self, entry: &Entry) -> Result<(), Error> {
        self.bring_log_up_to_date()?;
        self.engine.append_at(self.engine.clock.now(), entry.clone())?;
        Ok(())
    }

    fn is_recorded(&self) -> bool {
        self.unlooked.borrow().is_none() && self.owed.borrow().is_empty()
    }

    /// Makes sure that the log tells of all that came before.
    fn bring_log_up_to_date(&self) -> Result<(), Error> {
        self.looked().inspect_err(|error| *locked(&self.engine.append_fails) = Some(error.to_string()))?;
        Ok(self.write_owed()?)
    }

    /// What goes on without its line, or has ended, owes it: no later one of the session is written before it, but for refusals.
    fn record_or_owe(&self, entry: Entry) {
        let at = self.engine.clock.now();
        if let Err(error) = self.record(entry.clone()) {
            tracing::warn!(%error, operation = self.operation, "going on without an audit line");
            // What was interrupted its open intent tells, again and again.
            if entry.kind == Kind::Outcome && !entry.details.contains_key(RECOVERED_BY) {
                self.engine.unwritten.add(at, entry.clone());
            }
            self.owed.borrow_mut().push((at, entry));
        }
    }

    /// All of that was told already.
    fn write_owed(&self) -> Result<(), audit::Error> {
        let mut owed = self.owed.borrow_mut();
        while let Some((at, entry)) = owed.first() {
            self.engine.append_at(*at, entry.clone())?;
            self.engine.unwritten.remove(&owed.remove(0));
        }
        Ok(())
    }

    /// How an operation of that name has ended stands nowhere but in memory.
    fn owes(&self, operation: &str) -> bool {
        let is_of = |entry: &Entry| entry.kind == Kind::Outcome && entry.operation == operation;
        self.bring_log_up_to_date().is_err() && self.owed.borrow().iter().any(|(_, entry)| is_of(entry))
    }
}

fn entry(kind: Kind, operation: &str, actor: &Actor, subject: Option<Subject>) -> Entry {
    Entry {
        kind,
        operation: operation.to_owned(),
        by: actor.by.clone(),
        from: actor.from.clone(),
        id: subject.and_then(Subject::backup),
        point: subject.and_then(Subject::point),
        ok: None,
        code: None,
        reason: None,
        details: Map::new(),
    }
}

/// An outcome of what failed before its intent.
fn unbegun(operation: &str, actor: &Actor, error: &Error) -> Entry {
    let details = Map::from_iter([(UNBEGUN.to_owned(), true.into())]);
    failure(Entry { ok: Some(false), details, ..entry(Kind::Outcome, operation, actor, None) }, error)
}

fn failure(mut entry: Entry, error: &Error) -> Entry {
    entry.details.extend(error.details());
    Entry { code: Some(error.code().to_owned()), reason: Some(error.to_string()), ..entry }
}
