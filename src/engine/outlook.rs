//! What would follow from a change of settings. Nothing is changed.

use chrono::{DateTime, Utc};

use super::{Call, Change, Engine, Error};
use crate::backup::BackupId;
use crate::backup::retention::{Plan, Step};
use crate::backup::settings::Settings;

/// Runs that are foretold.
const RUNS: usize = 3;

/// What would follow.
#[derive(Clone, PartialEq, Debug)]
pub struct Outlook {
    /// The settings in force after it.
    pub settings: Settings,
    /// When backups would be taken next; nothing while the schedule is off.
    pub runs: Vec<DateTime<Utc>>,
    /// What the new retention would drop and promote at once.
    pub rotation: Plan,
}

impl Outlook {
    /// The backups that would be dropped at once.
    pub fn drops(&self) -> impl Iterator<Item = BackupId> {
        self.rotation.steps.iter().filter_map(|step| match step {
            Step::Drop { id, .. } => Some(*id),
            Step::Promote { .. } => None,
        })
    }
}

impl Engine {
    /// What would follow from this change.
    pub fn outlook(&self, change: &Change, call: &Call) -> Result<Outlook, Error> {
        let changed = self.change_settings(&Change { dry_run: true, ..change.clone() }, call)?;
        let (settings, now) = (changed.settings, self.clock.now());
        let mut runs = Vec::new();
        if settings.enabled {
            let first = self.next_run(&settings, now)?;
            let after = |run: &DateTime<Utc>| Some(settings.schedule.next_run(*run));
            runs.extend(std::iter::successors(Some(first), after).take(RUNS));
        }
        Ok(Outlook { settings, runs, rotation: changed.rotation })
    }
}
