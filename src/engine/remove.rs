//! Deleting, pinning, and taking the word of whoever has looked.

use serde_json::{Map, Value};

use super::recovery::AUDIT;
use super::{Call, Engine, Error, Session, Unrecorded};
use crate::backup::retention::{self, Plan};
use crate::backup::{Backup, BackupId, Flag};
use crate::catalog::Catalog;

impl Engine {
    /// Deletes a backup: marked in the catalog first, then its files, then the entry. The last good one only with `force`.
    pub fn delete(&self, id: BackupId, force: bool, call: &Call) -> Result<(), Error> {
        let mut session = self.begin("delete", call)?;
        if let Err(error) = session.may_delete(&id, force) {
            self.refused("delete", call, Some(id.into()), &error);
            return Err(error);
        }
        session.audited(Some(id.into()), Unrecorded::IsRefused, Map::new(), |session| {
            session.catalog.mark_deleting(&id);
            session.commit()?;
            let deletions = session.finish_deletions();
            match deletions.failed.filter(|_| !deletions.done.contains(&id)) {
                Some(error) => Err(error),
                None => Ok(((), Map::new())),
            }
        })
    }

    /// Pins a backup, so that rotation never drops or promotes it, or takes the pin off.
    pub fn pin(&self, id: BackupId, pinned: bool, call: &Call) -> Result<Backup, Error> {
        let mut session = self.begin(if pinned { "pin" } else { "unpin" }, call)?;
        if session.catalog.get(&id).is_none() {
            let error = Error::NotFound(id);
            self.refused(session.operation, call, Some(id.into()), &error);
            return Err(error);
        }
        session.audited(Some(id.into()), Unrecorded::IsRefused, Map::new(), |session| {
            let backup = session.catalog.get_mut(&id).ok_or(Error::NotFound(id))?;
            backup.pinned = pinned;
            let backup = backup.clone();
            session.commit()?;
            Ok((backup, Map::from_iter([("pinned".to_owned(), Value::Bool(pinned))])))
        })
    }

    /// Takes the word of whoever looked at the live data: this backup, the newest, is small because it is right so. It
    /// counts from then on, and the rotation that stood still goes on.
    pub fn acknowledge(&self, id: BackupId, call: &Call) -> Result<Backup, Error> {
        let mut session = self.begin("acknowledge", call)?;
        // Another one may have come since that nobody has looked at.
        if shrunk_newest(&session.catalog) != Some(id) {
            let error = Error::NotFlagged(id);
            self.refused("acknowledge", call, Some(id.into()), &error);
            return Err(error);
        }
        session.audited(Some(id.into()), Unrecorded::IsRefused, Map::new(), |session| {
            let backup = session.catalog.get_mut(&id).ok_or(Error::NotFound(id))?;
            backup.flags.remove(&Flag::Shrunk);
            let backup = backup.clone();
            session.commit()?;
            let rotation = session.rotate_after(Session::rotate_due);
            let steps = serde_json::to_value(&rotation.steps).unwrap_or(Value::Null);
            Ok((backup, Map::from_iter([("rotation".to_owned(), steps)])))
        })
    }
}

impl Engine {
    /// Takes the word of whoever has looked into it: lines of the audit log are gone that the catalog remembers, and don't come back.
    /// From here on the log is whole without them. Says which was the last of them.
    pub fn accept_audit(&self, call: &Call) -> Result<u64, Error> {
        let mut session = self.begin(AUDIT, call)?;
        let Some(lost) = self.lost_anchor(&session.catalog)? else {
            self.refused(AUDIT, call, None, &Error::NothingLost);
            return Err(Error::NothingLost);
        };
        let remembered = serde_json::to_value(&session.catalog.audit).unwrap_or_default();
        let told = Map::from_iter([("lost".to_owned(), remembered)]);
        session.audited(None, Unrecorded::IsRefused, told, |session| {
            session.catalog.audit = None;
            session.commit()?;
            Ok((lost, Map::new()))
        })
    }

    /// What rotation would do once [`Engine::acknowledge`] lets it go on. Nothing is changed.
    pub fn acknowledging(&self, id: BackupId) -> Result<Plan, Error> {
        let catalog = self.standing_catalog()?;
        let catalog = catalog.filter(|it| shrunk_newest(it) == Some(id)).ok_or(Error::NotFlagged(id))?;
        let mut backups = catalog.backups.clone();
        for backup in backups.iter_mut().filter(|backup| backup.id == id) {
            backup.flags.remove(&Flag::Shrunk);
        }
        let backups = self.as_they_lie(&backups, None);
        Ok(retention::plan(&backups, &self.settings()?.retention, self.freeze()?.as_deref()))
    }
}

/// The newest backup, if it is why rotation stands still.
fn shrunk_newest(catalog: &Catalog) -> Option<BackupId> {
    retention::shrunk_newest(catalog.standing()).map(|backup| backup.id)
}

impl Session<'_> {
    fn may_delete(&self, id: &BackupId, force: bool) -> Result<(), Error> {
        let backup = self.catalog.get(id).ok_or(Error::NotFound(*id))?;
        // What its entry says is no use where its files are gone.
        let is_there = |other: &Backup| self.engine.store.is_there(other).unwrap_or(false);
        let mut others = self.catalog.standing().filter(|other| other.id != *id);
        let last = self.catalog.standing().count() == 1
            || backup.is_good() && !others.any(|other| other.is_good() && is_there(other));
        if last && !force { Err(Error::LastGood(*id)) } else { Ok(()) }
    }
}
