//! Whether the journal is kept, how often databases are looked at for it, and for how long it goes back.

use std::time::Duration;

use super::{Error, Values};

/// Going back to any second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pitr {
    /// The journal is written.
    pub enabled: bool,
    /// Between two looks at the databases.
    pub interval: Duration,
    /// How far back one can go.
    pub retention: Duration,
    /// A whole snapshot this often: what a restore begins with.
    pub snapshot_every: Duration,
}

impl Values {
    pub(super) fn pitr(&self) -> Result<Pitr, Error> {
        let pitr = Pitr {
            enabled: self.parse("pitr.enabled", |text| text.parse().ok())?,
            interval: self.duration("pitr.interval", "100ms", "1h")?,
            retention: self.duration("pitr.retention", "1h", "366d")?,
            snapshot_every: self.duration("pitr.snapshot_every", "1m", "30d")?,
        };
        if pitr.enabled && self.parse("encrypt_local", |text| text.parse().ok())? {
            let problem = "the journal lies in plain files, which BACKUP_ENCRYPT_LOCAL=true promises not to leave here; \
                           set one of the two to false";
            return Err(self.trouble("pitr.enabled", problem));
        }
        Ok(pitr)
    }
}
