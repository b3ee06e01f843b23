//! Deleting, pinning.

use serde_json::{Map, Value};

use super::{Call, Engine, Error, Session, Unrecorded};
use crate::backup::{Backup, BackupId};

impl Engine {
    /// Deletes a backup: marked in the catalog first, then its files, then the entry. The last good one only with `force`.
    pub fn delete(&self, id: BackupId, force: bool, call: &Call) -> Result<(), Error> {
        let mut session = self.begin("delete", call)?;
        if let Err(error) = session.may_delete(&id, force) {
            self.refused("delete", call, Some(id), &error);
            return Err(error);
        }
        session.audited(Some(id), Unrecorded::IsRefused, Map::new(), |session| {
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
            self.refused(session.operation, call, Some(id), &error);
            return Err(error);
        }
        session.audited(Some(id), Unrecorded::IsRefused, Map::new(), |session| {
            let backup = session.catalog.get_mut(&id).ok_or(Error::NotFound(id))?;
            backup.pinned = pinned;
            let backup = backup.clone();
            session.commit()?;
            Ok((backup, Map::from_iter([("pinned".to_owned(), Value::Bool(pinned))])))
        })
    }
}

impl Session<'_> {
    fn may_delete(&self, id: &BackupId, force: bool) -> Result<(), Error> {
        let backup = self.catalog.get(id).ok_or(Error::NotFound(*id))?;
        let good = self.catalog.standing().filter(|backup| backup.is_good()).count();
        let last = self.catalog.standing().count() == 1 || backup.is_good() && good == 1;
        if last && !force { Err(Error::LastGood(*id)) } else { Ok(()) }
    }
}
