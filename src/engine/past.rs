//! What the live databases go back to: a backup, as the catalog has it, or what the journal holds of an instant.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::journal::Point;
use super::staging::Staged;
use super::{Engine, Error};
use crate::backup::{Backup, BackupId, DatabaseCopy, DatabaseName, Subject};
use crate::sqlite::Control;

/// What is known of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Past {
    /// The backup, or the point.
    pub subject: Subject,
    /// When the databases were so.
    pub at: DateTime<Utc>,
    /// The plain copy of each.
    pub databases: BTreeMap<DatabaseName, DatabaseCopy>,
    /// It was kept of corrupt data, and is known for that.
    pub is_corrupt: bool,
}

impl From<Backup> for Past {
    fn from(backup: Backup) -> Self {
        let Backup { id, timestamp, databases, checked, .. } = backup;
        Self { subject: id.into(), at: timestamp, databases, is_corrupt: !checked.ok }
    }
}

/// Where it comes from, looked up and not read yet.
pub(super) enum Origin {
    /// A backup of the catalog, and the bytes of its plain databases.
    Backup(BackupId, u64),
    /// Files of the journal.
    Point(Point),
}

impl Origin {
    /// Bytes of its plain databases.
    pub(super) fn size(&self) -> u64 {
        match self {
            Origin::Backup(_, size) => *size,
            Origin::Point(point) => point.size(),
        }
    }
}

impl Engine {
    /// Looks it up: that there is such a backup, or that the journal reaches that instant.
    pub(super) fn origin(&self, subject: Subject) -> Result<Origin, Error> {
        match subject {
            Subject::Backup(id) => Ok(Origin::Backup(id, self.get(&id)?.size())),
            Subject::Point(moment) => Ok(Origin::Point(self.point(moment)?)),
        }
    }

    /// That it is there to be restored, before anybody is asked whether it shall be.
    pub fn assert_restorable(&self, subject: Subject) -> Result<(), Error> {
        self.origin(subject).map(drop)
    }

    /// Private copies of it. They stay only as long as their folder is held.
    pub(super) fn stage_past(&self, origin: &Origin, control: &Control) -> Result<Staged, Error> {
        match origin {
            Origin::Backup(id, _) => self.stage(id, control),
            Origin::Point(point) => self.stage_point(point, control),
        }
    }
}
