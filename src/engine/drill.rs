//! A rehearsal: the newest backup of each tier is restored into a private folder and looked at there. The order of steps:
//!
//! 1. The newest standing backup of each tier is chosen that can be opened here, and isn't known to be a copy of corrupt data. The
//!    intent is recorded.
//! 2. One after the other: its files are copied and compared with the catalog (`staging`). What was found of the bytes goes
//!    into the catalog, as `verify` does it.
//! 3. Each copy is opened and compared with what the catalog says of it, checked as thoroughly as SQLite can, its rows are
//!    counted, and what the owner wants to hold is asked of it.
//! 4. The folder is thrown away.
//! 5. Where a journal is kept, that is rebuilt too, and compared with the live databases (`journal`).
//! 6. The outcome is recorded, also that of a rehearsal which found something wrong.

mod history;
mod journal;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use rusqlite::Connection;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::read::Share;
use super::record::{SECONDS, seconds};
use super::staging::Copies;
use super::{Actor, Call, Engine, Error, Session, entry, failure};
use crate::audit::{Entry, Kind};
use crate::backup::{Backup, BackupId, CheckKind, DatabaseCopy, DatabaseName, Flag, Subject, Tier, Verified};
use crate::catalog::Catalog;
use crate::sqlite::check::{self, Report, Verdict};
use crate::sqlite::snapshot::{facts, patient};
use crate::sqlite::{self, Control, assertion, open_finished};

pub(super) use history::History;
pub use history::LastDrill;
pub use journal::{JournalDatabase, JournalRehearsal};

/// What a rehearsal is called in the audit log.
pub(super) const DRILL: &str = "drill";
/// The code of one that found something wrong.
const FAILED: &str = "drill-failed";

/// What a rehearsal found.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct Drilled {
    /// Every backup could be restored, and the journal is right.
    pub ok: bool,
    /// The newest of each tier, newest first.
    pub backups: Vec<Rehearsal>,
    /// The journal, where one is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub journal: Option<JournalRehearsal>,
    /// How long all of it took.
    #[schema(minimum = 0)]
    pub seconds: f64,
}

/// What was found of one backup.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct Rehearsal {
    /// The backup.
    pub id: BackupId,
    /// It could be restored.
    pub ok: bool,
    /// How long that took.
    #[schema(minimum = 0)]
    pub seconds: f64,
    /// Each database.
    pub databases: BTreeMap<DatabaseName, Rehearsed>,
}

/// What was found of one database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Rehearsed {
    /// It is whole, as recorded, and as its owner wants it.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// Rows of all tables, where they could be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rows: Option<u64>,
}

impl Drilled {
    /// The first backup that failed, and what is wrong with it and with the journal.
    pub fn failure(&self) -> Option<(Option<BackupId>, String)> {
        let failed = self.backups.iter().find(|backup| !backup.ok);
        let why = |(name, found): (&DatabaseName, &Rehearsed)| Some(format!("{name}: {}", found.reason.as_ref()?));
        let of_backup = failed.map(|failed| {
            let reasons: Vec<_> = failed.databases.iter().filter_map(why).collect();
            format!("{}: {}", failed.id, reasons.join("; "))
        });
        let of_journal = self.journal.as_ref().and_then(JournalRehearsal::failure);
        let reasons: Vec<_> = of_backup.into_iter().chain(of_journal).collect();
        (!self.ok).then(|| (failed.map(|failed| failed.id), reasons.join("; ")))
    }
}

/// Why a database doesn't pass.
enum Fault {
    /// What was found.
    Found(String),
    /// It was asked to stop.
    Stopped(Error),
}

impl Engine {
    /// Rehearses a restore of the newest backup of each tier. What is wrong with one is an answer, not an error.
    pub fn drill(&self, call: &Call) -> Result<Drilled, Error> {
        let mut session = self.begin(DRILL, call)?;
        let chosen = session.newest_of_each_tier();
        let Some((newest, _)) = chosen.first().copied() else {
            let (newest, error) = session.nothing_to_rehearse();
            self.refused(DRILL, call, newest.map(Subject::Backup), &error);
            return Err(error);
        };
        let ids = chosen.iter().map(|(id, _)| id.to_string().into()).collect();
        let details = Map::from_iter([("backups".to_owned(), Value::Array(ids))]);
        let line = |kind| entry(kind, DRILL, &call.actor, Some(newest.into()));
        session.record_or_owe(Entry { details, ..line(Kind::Intent) });
        let begun = Instant::now();
        let result = session.rehearse_all(&chosen, begun);
        session.record_or_owe(outcome(line(Kind::Outcome), &result, begun, call));
        result
    }
}

/// What there is to rehearse. A copy of corrupt data, kept by a restore, say, is known for what it is.
fn sound(catalog: &Catalog) -> impl Iterator<Item = &Backup> {
    catalog.standing().filter(|backup| backup.checked.ok)
}

impl Engine {
    /// What is rehearsed, the newest first: of each tier the newest that an identity at hand opens.
    fn newest_of_each_tier<'c>(&self, catalog: &'c Catalog) -> Vec<&'c Backup> {
        let opens = |backup: &&Backup| self.assert_drillable(backup).is_ok();
        let of = |tier| sound(catalog).filter(|it| it.tier == tier).filter(opens).max_by_key(|it| it.sequence);
        let mut newest: Vec<_> = Tier::ALL.into_iter().filter_map(of).collect();
        newest.sort_by_key(|backup| std::cmp::Reverse(backup.sequence));
        newest
    }

    /// An identity is at hand wherever one is needed.
    fn assert_drillable(&self, backup: &Backup) -> Result<(), Error> {
        backup.databases.iter().try_for_each(|(name, copy)| self.assert_opens(backup.id, name, copy))
    }
}

fn outcome(line: Entry, result: &Result<Drilled, Error>, begun: Instant, call: &Call) -> Entry {
    let mut line = match result {
        Ok(drilled) => match drilled.failure() {
            None => Entry { ok: Some(true), ..line },
            Some((id, why)) => {
                Entry { ok: Some(false), id: id.or(line.id), code: Some(FAILED.to_owned()), reason: Some(why), ..line }
            }
        },
        Err(error) => failure(Entry { ok: Some(false), ..line }, error),
    };
    if let Ok(drilled) = result {
        line.details.insert("backups".to_owned(), serde_json::to_value(&drilled.backups).unwrap_or_default());
        if let Some(journal) = &drilled.journal {
            line.details.insert(history::JOURNAL.to_owned(), serde_json::to_value(journal).unwrap_or_default());
        }
    }
    if call.actor == Actor::scheduler() && call.control.is_cancelled_alone() {
        line.details.insert(history::UNWANTED.to_owned(), true.into());
    }
    line.details.insert(SECONDS.to_owned(), seconds(begun).into());
    line
}

impl Session<'_> {
    /// Ids and bytes, the newest first.
    fn newest_of_each_tier(&self) -> Vec<(BackupId, u64)> {
        let newest = self.engine.newest_of_each_tier(&self.catalog);
        newest.into_iter().map(|backup| (backup.id, backup.size())).collect()
    }

    /// There is none, or none that can be opened here: what the newest lacks.
    fn nothing_to_rehearse(&self) -> (Option<BackupId>, Error) {
        let newest = sound(&self.catalog).max_by_key(|backup| backup.sequence);
        let locked = newest.and_then(|it| Some((it.id, self.engine.assert_drillable(it).err()?)));
        locked.map_or((None, Error::NoBackups), |(id, error)| (Some(id), error))
    }

    fn rehearse_all(&mut self, chosen: &[(BackupId, u64)], begun: Instant) -> Result<Drilled, Error> {
        let control = self.call.control.also(self.permit.noting());
        let mut share = Share { before: 0, total: chosen.iter().map(|(_, size)| size).sum() };
        let mut backups = Vec::new();
        for (id, size) in chosen {
            backups.push(self.rehearse(id, share, &control)?);
            share.before += size;
        }
        let journal = self.engine.rehearse_journal(&control)?;
        let ok = backups.iter().all(|backup| backup.ok) && journal.as_ref().is_none_or(|journal| journal.ok);
        Ok(Drilled { ok, backups, journal, seconds: seconds(begun) })
    }

    fn rehearse(&mut self, id: &BackupId, share: Share, control: &Control) -> Result<Rehearsal, Error> {
        let begun = Instant::now();
        let Copies { backup, files, folder } = self.engine.copies(id, share, control)?;
        self.note_bytes(&backup.id, &files);
        let mut databases = BTreeMap::new();
        for (name, file) in files {
            let rows = file.map_err(Fault::from).and_then(|path| self.look_at(&backup, &name, &path, control));
            let found = match rows {
                Ok(rows) => Rehearsed { ok: true, reason: None, rows: Some(rows) },
                Err(Fault::Found(reason)) => Rehearsed { ok: false, reason: Some(reason), rows: None },
                Err(Fault::Stopped(error)) => return Err(error),
            };
            databases.insert(name, found);
        }
        drop(folder);
        let ok = databases.values().all(|found| found.ok);
        Ok(Rehearsal { id: backup.id, ok, seconds: seconds(begun), databases })
    }

    /// Every byte was read back and compared, so the catalog says what came of it. A file that couldn't be read leaves it
    /// with what it knew.
    fn note_bytes(&mut self, id: &BackupId, files: &BTreeMap<DatabaseName, Result<PathBuf, Error>>) {
        let damaged = files.values().any(|file| matches!(file, Err(Error::Damaged { .. })));
        if !damaged && files.values().any(Result::is_err) {
            return;
        }
        let verified = Verified { at: self.engine.clock.now(), ok: !damaged, ciphertext_only: false };
        if let Some(backup) = self.catalog.get_mut(id) {
            backup.verified = verified;
        }
        if let Err(error) = self.commit() {
            tracing::warn!(%error, %id, "what a rehearsal found is not recorded in the catalog");
        }
    }

    /// Step 3. Gives the rows.
    fn look_at(
        &self,
        backup: &Backup,
        name: &DatabaseName,
        path: &std::path::Path,
        control: &Control,
    ) -> Result<u64, Fault> {
        let Some(copy) = backup.databases.get(name) else { return Err(Error::NotFound(backup.id).into()) };
        let mut connection = open_finished(path).map_err(unopened)?;
        let facts = facts(&connection).map_err(unopened)?;
        for (what, found, recorded) in [
            ("page_size", i64::from(facts.page_size), i64::from(copy.page_size)),
            ("user_version", facts.user_version.into(), copy.user_version.into()),
        ] {
            if found != recorded {
                return Err(Fault::Found(format!("its {what} is {found} instead of {recorded}")));
            }
        }
        let report = checked(&mut connection, name, backup, &patient(&facts, control))?;
        compare_rows(copy, &report)?;
        if let Some(wanted) = self.engine.config.drill.sql.get(name) {
            let answer = assertion::ask(&mut connection, name, &wanted.sql, control).map_err(Error::from)?;
            answer.map_err(|why| Fault::Found(format!("{} does not hold: {why}", wanted.variable)))?;
        }
        Ok(report.tables.values().sum())
    }
}

fn unopened(error: rusqlite::Error) -> Fault {
    Fault::Found(format!("it can't be opened: {error}"))
}

/// All that SQLite can check. Where that needs more of the app than the check that the backup had, that one is enough.
fn checked(
    connection: &mut Connection,
    name: &DatabaseName,
    backup: &Backup,
    control: &Control,
) -> Result<Report, Fault> {
    let flagged = backup.flags.contains(&Flag::NotCheckable);
    let mut check = |kind| check::check(connection, name, kind, control).map_err(Error::from);
    let mut report = check(CheckKind::Integrity)?;
    if matches!(report.verdict, Verdict::NotCheckable(_)) && !flagged && backup.checked.kind == CheckKind::Quick {
        report = check(CheckKind::Quick)?;
    }
    match &report.verdict {
        Verdict::Corrupt(findings) => Err(Fault::Found(format!("it is corrupt: {}", findings.join("; ")))),
        Verdict::NotCheckable(tables) if !flagged => {
            Err(Fault::Found(format!("it can't be checked any more, though it could once: {}", tables.join(", "))))
        }
        _ => Ok(report),
    }
}

fn compare_rows(copy: &DatabaseCopy, report: &Report) -> Result<(), Fault> {
    let tables: BTreeSet<_> = copy.tables.keys().chain(report.tables.keys()).collect();
    let rows = |count: Option<&u64>| count.map_or("no rows that can be counted".to_owned(), |n| format!("{n} rows"));
    for table in tables {
        let (recorded, found) = (copy.tables.get(table), report.tables.get(table));
        if recorded != found {
            let text = format!("the table {table} has {} instead of {}", rows(found), rows(recorded));
            return Err(Fault::Found(text));
        }
    }
    Ok(())
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        use sqlite::Error as Copy;
        match error {
            Error::Sqlite(Copy::Cancelled) => Self::Stopped(error),
            Error::Journal(crate::journal::Error::Stopped(Copy::Cancelled)) => Self::Stopped(Copy::Cancelled.into()),
            // Not of a live database, as those say, but of a copy.
            Error::Sqlite(
                Copy::SourceIo { source, .. } | Copy::NotAllowed { source, .. } | Copy::Sqlite { source, .. },
            ) => Self::Found(source.to_string()),
            Error::Sqlite(Copy::TooSlow { limit, .. }) => {
                let limit = humantime::format_duration(limit);
                Self::Found(format!("it could not be checked within {limit}; the disk is too slow or stuck"))
            }
            Error::Damaged { reason, .. } => Self::Found(reason),
            error => Self::Found(error.to_string()),
        }
    }
}
