//! What a restore would change, told beforehand: the live databases compared with a backup's, or with what they held at an
//! instant. No lock is taken and nothing changed. A copy that is compressed or encrypted is decoded into a private folder
//! (`staging`), and what they held is rebuilt there; it goes as soon as SQLite has the copy open. What is told is true of the moment in which each database was looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;
use utoipa::ToSchema;

use super::decode::Coded;
use super::handout::Usable;
use super::past::Past;
use super::read::Opened;
use super::restore::Allowed;
use super::staging::Staged;
use super::status::{Warning, list};
use super::{Call, Engine, Error};
use crate::backup::{Backup, BackupId, DatabaseName, Form, Moment, Subject, timestamp};
use crate::disk::block::Direct;
use crate::sqlite::diff::{self, Bounds, Difference, Failure};
use crate::sqlite::kind::Kind;
use crate::sqlite::restore::Target;
use crate::sqlite::{self, open_finished, situation};
use crate::store::inode;

/// The database that by its name says who may come in.
const AUTH: &str = "auth";

/// `GET /api/backup/{id}/preview`, `GET /api/backup/preview?at=…`: what a restore would change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Preview {
    /// The backup, or the instant.
    #[serde(flatten)]
    pub subject: Subject,
    /// Its instant: the "then" of all figures.
    #[serde(with = "timestamp")]
    pub timestamp: DateTime<Utc>,
    /// Each database that would be restored.
    pub databases: BTreeMap<DatabaseName, DatabasePreview>,
    /// What to think of before a restore.
    pub warnings: Vec<Warning>,
}

/// What a restore would change in one database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum DatabasePreview {
    /// How the live database differs from what it was.
    Compared(Difference),
    /// There is nothing to compare it with.
    NotCompared {
        /// Why, and what to do.
        reason: String,
    },
}

/// A copy that SQLite has open, or why it doesn't.
type OpenedCopy = (DatabaseName, Result<Connection, Error>);

impl Engine {
    /// What a restore would change.
    pub fn preview(&self, subject: Subject, call: &Call) -> Result<Preview, Error> {
        let begun = Instant::now();
        let previewed = self.previewed(subject, call);
        if let Err(error) = &previewed {
            use sqlite::Error::Locked;
            if matches!(
                error,
                Error::NotFound(_)
                    | Error::NoJournal
                    | Error::PointOutside { .. }
                    | Error::PointInGap { .. }
                    | Error::Damaged { .. }
                    | Error::NeedsIdentity { .. }
                    | Error::Sqlite(Locked { .. })
            ) {
                self.refused("preview", call, Some(subject), error);
                return previewed;
            }
        }
        self.tell_read("preview", Some(subject), call, begun, &previewed, |_| None);
        previewed
    }

    fn previewed(&self, subject: Subject, call: &Call) -> Result<Preview, Error> {
        let (past, copies, known) = match subject {
            Subject::Backup(id) => {
                let (backup, copies) = self.opened_copies(&id, call)?;
                let known = warnings_of_backup(&backup);
                (backup.into(), copies, known)
            }
            Subject::Point(moment) => {
                let (past, copies) = self.opened_point(moment, call)?;
                (past, copies, Vec::new())
            }
        };
        let (mut databases, mut kinds, mut found) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (name, copy) in copies {
            // What is wrong with the copy is told by the comparison.
            let kind = copy.as_ref().ok().and_then(|copy| Kind::of(copy).ok());
            kinds.extend(kind.map(|kind| (name.clone(), kind)));
            let compared = match copy.and_then(|copy| self.compared(&past, &name, copy, call)) {
                Ok(compared) => compared,
                // Kept of corrupt data, and put back as it was by whoever wants that.
                Err(error @ Error::Damaged { .. }) if past.is_corrupt => {
                    let reason = error.to_string();
                    found.push(error);
                    DatabasePreview::NotCompared { reason }
                }
                Err(Error::Sqlite(error @ sqlite::Error::Corrupt { .. })) => {
                    let reason = error.to_string();
                    found.extend(corrupt_live(error));
                    DatabasePreview::NotCompared { reason }
                }
                Err(error) => return Err(error),
            };
            databases.insert(name, compared);
        }
        found.extend(self.obstacles(&past, &kinds, call)?);
        let mut warnings: Vec<Warning> = found.into_iter().map(|error| self.refusal(error)).collect();
        warnings.extend(known);
        warnings.extend(self.warnings_of(&past, &databases));
        Ok(Preview { subject: past.subject, timestamp: past.at, databases, warnings })
    }

    /// Opens all copies of a backup. Rotation may take a file away, or give it another name, before SQLite has it open too:
    /// then all are looked up once more.
    fn opened_copies(&self, id: &BackupId, call: &Call) -> Result<(Backup, Vec<OpenedCopy>), Error> {
        'opened: loop {
            let Opened { backup, files } = self.opened(id)?;
            let mut copies = Vec::new();
            for file in files {
                let usable = file.usable(backup.id)?;
                let opened = match usable.copy.form {
                    Form::Plain => {
                        let opened = open_finished(&usable.path);
                        if !is_at(&usable.file, &usable.path) {
                            continue 'opened;
                        }
                        opened
                    }
                    _ => self.opened_aside(backup.id, &usable, call)?,
                };
                let copy = opened.map_err(|error| Error::of_copy(backup.id.into(), situation(&usable.name, error)));
                copies.push((usable.name, copy));
            }
            return Ok((backup, copies));
        }
    }

    /// Rebuilds what the databases held.
    fn opened_point(&self, moment: Moment, call: &Call) -> Result<(Past, Vec<OpenedCopy>), Error> {
        let Staged { past, files, folder } = self.stage_point(&self.point(moment)?, &call.control)?;
        let open = |(name, path): (DatabaseName, PathBuf)| {
            let copy = open_finished(&path).map_err(|error| Error::of_copy(past.subject, situation(&name, error)));
            (name, copy)
        };
        let copies = files.into_iter().map(open).collect();
        // SQLite has them open.
        drop(folder);
        Ok((past, copies))
    }

    /// A copy that is no plain database.
    fn opened_aside(&self, id: BackupId, usable: &Usable, call: &Call) -> Result<rusqlite::Result<Connection>, Error> {
        let Usable { name, copy, file, path } = usable;
        self.assert_opens(id, name, copy)?;
        let coded = Coded { file: Direct::cached(file), path, form: copy.form, size: Some(copy.size) };
        let aside = self.decode_aside(name, coded, &call.control)?.map_err(|fault| fault.told(id, name, copy))?;
        match aside.decoded.differs(copy) {
            Some(reason) => Err(Error::Damaged { subject: id.into(), reason }),
            None => Ok(open_finished(&aside.path)),
        }
    }

    fn compared(
        &self,
        past: &Past,
        name: &DatabaseName,
        copy: Connection,
        call: &Call,
    ) -> Result<DatabasePreview, Error> {
        let Some(source) = self.sources().into_iter().find(|source| source.name == *name) else {
            let reason = "it is none of the live databases any more (BACKUP_DATABASES)".to_owned();
            return Ok(DatabasePreview::NotCompared { reason });
        };
        let bounds = Bounds { lock_timeout: self.config.lock_timeout, rollback_hold: self.config.rollback_hold };
        let rows = past.databases.get(name).map(|copy| copy.tables.clone()).unwrap_or_default();
        match diff::compare(&source, copy, &rows, &bounds, &call.control) {
            Ok(difference) => Ok(DatabasePreview::Compared(difference)),
            Err(Failure::Live(error)) if is_told(&error) => Err(error.into()),
            Err(Failure::Live(error)) => Ok(DatabasePreview::NotCompared { reason: error.to_string() }),
            Err(Failure::Copy(error)) => Err(Error::of_copy(past.subject, error)),
        }
    }

    /// Why a restore would be refused as things stand, and what it would take.
    fn obstacles(&self, past: &Past, kinds: &BTreeMap<DatabaseName, Kind>, call: &Call) -> Result<Vec<Error>, Error> {
        let allowed = Allowed { force: false, is_undo: self.is_undo(past.subject) };
        let same = self.assert_same_databases(past, allowed.force).err();
        let mut found: Vec<Error> = same.into_iter().collect();
        for source in self.sources() {
            let Some(kind) = kinds.get(&source.name) else { continue };
            match Target::open(&source, self.config.lock_timeout, &call.control) {
                Ok(live) => {
                    let stops = allowed.stops(kind, &live);
                    found.extend(stops.map(|misfit| Error::misfit(past.subject, &source.name, misfit)));
                }
                Err(sqlite::Error::Cancelled) => return Err(sqlite::Error::Cancelled.into()),
                Err(error) => found.push(Error::of_target(error)),
            }
        }
        Ok(found)
    }

    /// As a warning, which says whether force would lift it.
    fn refusal(&self, error: Error) -> Warning {
        let lifted = match &error {
            Error::OtherDatabases { not_held, .. } => not_held.len() < self.config.databases.len(),
            Error::ForeignCode { .. } | Error::CorruptLive { .. } | Error::Damaged { .. } => true,
            _ => false,
        };
        let code = if lifted { "needs-force" } else { "refused" };
        Warning { code, detail: format!("a restore would be refused: {error}") }
    }

    fn warnings_of(&self, past: &Past, databases: &BTreeMap<DatabaseName, DatabasePreview>) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |code, detail: String| warnings.push(Warning { code, detail });
        let subject = past.subject;
        let age = (self.clock.now() - past.at).to_std().unwrap_or_default();
        if age > self.config.stale_after {
            let hours = age.as_secs() / 3600;
            warn(
                "old",
                format!(
                    "{subject} is {hours} hours old: what was written since goes; look whether a younger one will do"
                ),
            );
        }
        for name in self.config.databases.keys().filter(|name| !past.databases.contains_key(*name)) {
            warn(
                "not-in-backup",
                format!("`{name}` is not in {subject}: it stays as it is now beside the others as they were then"),
            );
        }
        for (name, preview) in databases {
            warn_of(name, preview, self.config.databases.contains_key(name), &mut warn);
        }
        warnings
    }
}

/// What the catalog says against it.
fn warnings_of_backup(backup: &Backup) -> Vec<Warning> {
    let (id, mut warnings) = (backup.id, Vec::new());
    if !backup.verified.ok || !backup.checked.ok {
        let detail = format!("{id} was found damaged when it was last read back; use another backup");
        warnings.push(Warning { code: "damaged", detail });
    }
    if backup.is_shrunk() {
        let detail = format!("{id} is suspiciously small; look at what it lacks before you take it");
        warnings.push(Warning { code: "shrunk", detail });
    }
    warnings
}

/// What the caller is to know of a live database, rather than that it wasn't compared.
fn is_told(error: &sqlite::Error) -> bool {
    use sqlite::Error::{Cancelled, Corrupt, Locked};
    matches!(error, Cancelled | Locked { .. } | Corrupt { .. })
}

fn corrupt_live(error: sqlite::Error) -> Option<Error> {
    match error {
        sqlite::Error::Corrupt { name, findings, .. } => Some(Error::CorruptLive { name, findings }),
        _ => None,
    }
}

fn warn_of(name: &DatabaseName, preview: &DatabasePreview, is_live: bool, warn: &mut impl FnMut(&'static str, String)) {
    if !is_live {
        return warn("not-live", format!("`{name}` is in the backup and not in BACKUP_DATABASES: it is left out"));
    }
    if name.as_str() == AUTH {
        warn(
            "auth",
            format!(
                "passwords, rights and sessions in `{name}` go back in time too: who was locked out since may come in again. Look at who is superuser right after"
            ),
        );
    }
    let DatabasePreview::Compared(found) = preview else { return };
    let versions = found.user_version;
    if !found.schema.is_empty() || versions.now != versions.then {
        warn(
            "schema",
            format!(
                "the schema of `{name}` was another one (user_version {} now, {} then): the app's code must fit it",
                versions.now, versions.then
            ),
        );
    }
    let of = |is_comparable: bool| {
        let missed = found.tables.iter().filter(|(_, table)| !table.complete);
        let names = missed.filter(|(_, table)| table.not_comparable.is_none() == is_comparable).map(|(name, _)| name);
        names.collect::<Vec<_>>()
    };
    let (unfinished, unknown) = (of(true), of(false));
    if !unfinished.is_empty() {
        let tables = list(&unfinished);
        warn(
            "incomplete",
            format!("there was no time to compare all of `{name}`: figures of {tables} are the least they can be"),
        );
    }
    if !unknown.is_empty() {
        warn("not-comparable", format!("rows of these tables of `{name}` can't be compared: {}", list(&unknown)));
    }
}

/// The path still leads to the file that is held open.
fn is_at(file: &File, path: &Path) -> bool {
    matches!((file.metadata(), path.symlink_metadata()), (Ok(held), Ok(there)) if inode(&held) == inode(&there))
}
