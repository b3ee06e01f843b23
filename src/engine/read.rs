//! Reading backups: list and verify. An open descriptor outlives rotation, so no lock is taken.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::{Call, Engine, Error};
use crate::backup::retention::{Fate, fates};
use crate::backup::{Backup, BackupId, DatabaseCopy, DatabaseName, Verified};
use crate::disk::{self, Context};
use crate::sqlite::pages::read_back;
use crate::sqlite::{self, Control, Progress};

/// How long the result of a verification waits for the directory before it goes unrecorded.
const RECORD_WAIT: Duration = Duration::from_secs(2);

/// What was found when a backup was read back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verification {
    /// All of it is as recorded.
    pub ok: bool,
    /// Each database.
    pub databases: BTreeMap<DatabaseName, DatabaseVerdict>,
}

/// What was found of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DatabaseVerdict {
    /// It is as recorded.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Engine {
    /// All backups, newest first.
    pub fn list(&self) -> Result<Vec<Backup>, Error> {
        let mut backups: Vec<_> = match self.read_catalog()? {
            Some(catalog) => catalog.standing().cloned().collect(),
            None => Vec::new(),
        };
        backups.sort_by_key(|backup| std::cmp::Reverse((backup.sequence, backup.id)));
        Ok(backups)
    }

    /// One backup.
    pub fn get(&self, id: &BackupId) -> Result<Backup, Error> {
        self.read_catalog()?.and_then(|catalog| catalog.get(id).cloned()).ok_or(Error::NotFound(*id))
    }

    /// Why each is kept and when it would go.
    pub fn fates(&self) -> Result<BTreeMap<BackupId, Fate>, Error> {
        let backups = self.read_catalog()?.map(|catalog| catalog.backups).unwrap_or_default();
        Ok(fates(&backups, &self.settings()?.retention, self.freeze()?.as_deref()))
    }

    /// Reads every byte of a backup back and compares it with what was recorded [P8]. The result goes into the catalog
    /// if the directory can be had for that moment.
    pub fn verify(&self, id: &BackupId, call: &Call) -> Result<Verification, Error> {
        let backup = self.get(id)?;
        let opened: Vec<_> =
            self.store.paths(&backup).map(|(name, path)| (name, disk::open_regular(&path), path)).collect();
        let mut databases = BTreeMap::new();
        let mut share = Share { before: 0, total: backup.stored_size() };
        for (name, file, path) in opened {
            let Some(copy) = backup.databases.get(name) else { continue };
            let fault = match file {
                Ok(file) => self.fault(name, copy, &file, &path, share, &call.control)?,
                Err(error) => Some(error.to_string()),
            };
            share.before += copy.stored_size;
            databases.insert(name.clone(), DatabaseVerdict { ok: fault.is_none(), reason: fault });
        }
        let verification = Verification { ok: databases.values().all(|verdict| verdict.ok), databases };
        self.record_verification(&backup, &verification, call);
        Ok(verification)
    }

    fn fault(
        &self,
        name: &DatabaseName,
        copy: &DatabaseCopy,
        file: &File,
        path: &Path,
        share: Share,
        control: &Control,
    ) -> Result<Option<String>, Error> {
        control.tell(Progress { database: name, done: share.before, total: share.total });
        let size = file.metadata().to("look at", path)?.len();
        if size != copy.stored_size {
            return Ok(Some(format!("{} has {size} bytes instead of {}", copy.file, copy.stored_size)));
        }
        match read_back(file, path, control) {
            Ok(read) if read.checksum == copy.stored_checksum => Ok(None),
            Ok(_) => Ok(Some(format!("{} holds other bytes than were recorded (SHA-256)", copy.file))),
            Err(sqlite::Error::Cancelled) => Err(sqlite::Error::Cancelled.into()),
            Err(error) => Ok(Some(error.to_string())),
        }
    }

    fn record_verification(&self, backup: &Backup, verification: &Verification, call: &Call) {
        let call = Call { wait: RECORD_WAIT, ..call.clone() };
        let recorded = self.begin("verify", &call).and_then(|mut session| {
            let verified = Verified { at: self.clock.now(), ok: verification.ok };
            // Promoted meanwhile, it has another id and the same files.
            let same = session.catalog.backups.iter_mut().filter(|other| other.sequence == backup.sequence);
            same.for_each(|other| other.verified = verified.clone());
            session.commit()
        });
        if let Err(error) = recorded {
            tracing::warn!(%error, id = %backup.id, "the verification is not recorded in the catalog");
        }
    }

    /// Reads the whole audit log, which must hold the line that the catalog remembers. Says how many lines there are.
    pub fn verify_audit(&self) -> Result<u64, Error> {
        let anchor = self.read_catalog()?.and_then(|catalog| catalog.audit);
        Ok(self.audit.verify(anchor.as_ref().map(|anchor| (anchor.seq, anchor.hash.as_str())))?)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Share {
    pub(super) before: u64,
    pub(super) total: u64,
}
