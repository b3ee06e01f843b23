//! Copies elsewhere.
use super::Config;
use crate::backup::retention::Retention;
use crate::remote::{Pace, Place};

/// A copy elsewhere.
#[derive(Clone, PartialEq, Debug)]
pub struct Replica {
    /// Where.
    pub place: Place,
    /// How fast.
    pub pace: Pace,
    /// What it keeps, where that is its own.
    pub retention: OwnRetention,
}

/// What a replica keeps; what isn't said is as in the backup directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct OwnRetention {
    pub daily: Option<u32>,
    pub weekly: Option<u32>,
    pub monthly: Option<u32>,
    pub manual: Option<u32>,
    pub pre_restore: Option<u32>,
}

impl OwnRetention {
    /// Anything is said.
    pub fn is_own(&self) -> bool {
        *self != Self::default()
    }

    /// The numbers in force.
    pub fn over(&self, local: Retention) -> Retention {
        Retention {
            daily: self.daily.unwrap_or(local.daily),
            weekly: self.weekly.unwrap_or(local.weekly),
            monthly: self.monthly.unwrap_or(local.monthly),
            manual: self.manual.unwrap_or(local.manual),
            pre_restore: self.pre_restore.unwrap_or(local.pre_restore),
        }
    }
}

impl Config {
    /// A place by its URL.
    pub fn place(&self, url: &str) -> Result<(Place, Pace), String> {
        let _ = url;
        Err("x".into())
    }
}
