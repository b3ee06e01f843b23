//! `restore.json`: what a restore that is under way needs to be settled after a crash.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use super::restore::Job;
use crate::backup::{BackupId, DatabaseName};
use crate::disk::{self, Context};
use crate::sqlite::restore::Mark;

/// Its name below the backup directory.
pub(super) const FILE: &str = "restore.json";
const VERSION: u32 = 1;
/// Larger ones are none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// What is being restored, with what, and how to tell whether it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    version: u32,
    /// The backup.
    pub(super) id: BackupId,
    /// The backups of what was there before; the last one has all of it.
    pub(super) pre_restore: Vec<BackupId>,
    /// The folder of the private copies.
    pub(super) folder: String,
    /// Also over corrupt live data.
    pub(super) force: bool,
    pub(super) databases: BTreeMap<DatabaseName, Planned>,
}

/// One database of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Planned {
    /// What its commit leaves.
    pub(super) mark: Mark,
    /// SHA-256 of the private copy.
    pub(super) checksum: String,
}

impl Plan {
    /// The plan of a job whose live databases are locked.
    pub(super) fn draw(job: &Job, pre_restore: BackupId) -> Result<Self, Error> {
        let (mut databases, mut backups) = (BTreeMap::new(), Vec::new());
        if let Some((restored, first)) = &job.restored {
            databases = restored.clone();
            backups.push(*first);
        }
        backups.push(pre_restore);
        for target in &job.targets {
            let checksum = job.files[&target.name].copy.checksum.clone();
            databases.insert(target.name.clone(), Planned { mark: target.draw_mark()?, checksum });
        }
        let (folder, force) = (job.folder.clone(), job.force);
        Ok(Self { version: VERSION, id: job.id, pre_restore: backups, folder, force, databases })
    }

    /// What lies there; nothing if no restore is under way.
    pub(super) fn load(root: &Path) -> Result<Option<Self>, Error> {
        let path = root.join(FILE);
        let file = match disk::open_regular(&path) {
            Err(error) if error.is_missing() => return Ok(None),
            file => file?,
        };
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).to("read", &path)?;
        let unreadable = |reason: String| Error::PlanUnreadable { path: path.clone(), reason };
        let plan: Self = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        let is_folder = plan.folder.len() == 32 && plan.folder.bytes().all(|byte| byte.is_ascii_hexdigit());
        if plan.version != VERSION || !is_folder || plan.pre_restore.is_empty() || plan.databases.is_empty() {
            return Err(unreadable("it is of another version, or not what was written".to_owned()));
        }
        Ok(Some(plan))
    }

    /// Durable before anything happens that it tells of.
    pub(super) fn save(&self, root: &Path) -> Result<(), Error> {
        let path = root.join(FILE);
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::PlanUnreadable { path: path.clone(), reason: error.to_string() })?;
        bytes.push(b'\n');
        Ok(disk::write_durable(&path, &bytes)?)
    }

    /// Whether a restore is under way, or was cut short.
    pub(super) fn is_there(root: &Path) -> bool {
        root.join(FILE).symlink_metadata().is_ok()
    }

    /// The restore is settled.
    pub(super) fn remove(root: &Path) -> Result<(), disk::Error> {
        disk::remove(&root.join(FILE))?;
        disk::sync_dir(root)
    }

    /// The backup that an undo restores.
    pub(super) fn newest_pre_restore(&self) -> BackupId {
        // Never empty: it is drawn with one, and one without is not read.
        self.pre_restore.last().copied().unwrap_or(self.id)
    }
}
