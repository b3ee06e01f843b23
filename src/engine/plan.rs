//! `restore.json`: what a restore that is under way needs to be settled after a crash.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::restore::Job;
use super::{Error, staging};
use crate::backup::{BackupId, DatabaseCopy, DatabaseName, Subject};
use crate::disk::{self, Context};
use crate::sqlite::Identity;
use crate::sqlite::restore::{Mark, Target};

/// Its name below the backup directory.
pub(super) const FILE: &str = "restore.json";
const VERSION: u32 = 1;
/// Larger ones are none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// What is being restored, with what, and how to tell whether it was.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    version: u32,
    /// The backup, or the instant.
    #[serde(flatten)]
    pub(super) subject: Subject,
    /// The backups of what was there before; the last one has all of it. None if nothing was there.
    pub(super) pre_restore: Vec<BackupId>,
    /// The folder of the private copies.
    pub(super) folder: String,
    /// Also over corrupt live data.
    pub(super) force: bool,
    pub(super) databases: BTreeMap<DatabaseName, Planned>,
    /// The files that it was made for, as long as this process lives. After a crash only the signs tell: the folders may have been carried
    /// elsewhere.
    #[serde(skip)]
    pub(super) files: BTreeMap<DatabaseName, Identity>,
}

/// One database of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Planned {
    /// How to tell that it is done.
    pub(super) sign: Sign,
    /// SHA-256 of the private copy.
    pub(super) checksum: String,
    /// What else is known of it, where no catalog has that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) copy: Option<DatabaseCopy>,
}

/// What shows that a live database was restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Sign {
    /// What the commit leaves in the live database.
    Commit(Mark),
    /// The page size of a database that is replaced as a whole, since it had another one.
    #[serde(rename_all = "camelCase")]
    PageSize { page_size: u32 },
    /// What the file bears that takes the place of the live one, of an offline restore. It is in its bytes: a copy of the folders has it too.
    File { file: Mark },
}

impl Plan {
    /// Whether another file has come in the place of the one that it was made for.
    pub(super) fn knows_another(&self, found: &Target) -> bool {
        self.files.get(&found.name).is_some_and(|file| !file.is(&found.identity()))
    }

    /// The plan of a job, with the signs that what is restored now will bear.
    pub(super) fn of(job: &Job, pre_restore: Option<BackupId>, signs: BTreeMap<DatabaseName, Sign>) -> Self {
        let (mut databases, first) = job.restored.clone().unwrap_or_default();
        for (name, sign) in signs {
            let copy = job.files.get(&name).map(|file| &file.copy);
            let checksum = copy.map(|copy| copy.checksum.clone()).unwrap_or_default();
            let copy = copy.filter(|_| job.subject.point().is_some()).cloned();
            databases.insert(name, Planned { sign, checksum, copy });
        }
        let (folder, force) = (job.folder.clone(), job.force);
        let pre_restore = first.into_iter().chain(pre_restore).collect();
        let files = BTreeMap::new();
        Self { version: VERSION, subject: job.subject, pre_restore, folder, force, databases, files }
    }

    /// What lies there; nothing if no restore is under way.
    pub(super) fn load(root: &Path) -> Result<Option<Self>, Error> {
        let path = root.join(FILE);
        let file = match disk::open_regular(&path) {
            Err(error) if error.is_missing() => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).to("read", &path)?;
        let unreadable = |reason: String| Error::PlanUnreadable { path: path.clone(), reason };
        let plan: Self = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if plan.version != VERSION || !staging::is_ours(&plan.folder) || plan.databases.is_empty() {
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

    /// Whether whole files take the place of others.
    pub(super) fn is_offline(&self) -> bool {
        self.databases.values().all(|planned| matches!(planned.sign, Sign::File { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As versions wrote it that knew no instants.
    const OLDER: &str = r#"{
      "version": 1,
      "id": "daily-2026-01-08",
      "preRestore": ["pre-restore-2026-01-08T150112Z"],
      "folder": "00112233445566778899aabbccddeeff",
      "force": false,
      "databases": { "auth": { "sign": { "file": { "before": 7, "after": 4294967295 } }, "checksum": "ab" } }
    }"#;

    #[test]
    fn what_an_older_version_wrote_is_read_and_written_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(FILE), OLDER).unwrap();
        let plan = Plan::load(root.path()).unwrap().unwrap();
        assert_eq!(plan.subject, "daily-2026-01-08".parse::<BackupId>().unwrap().into());
        plan.save(root.path()).unwrap();
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let saved = std::fs::read_to_string(root.path().join(FILE)).unwrap();
        assert_eq!(json(&saved), json(OLDER));
    }

    #[test]
    fn a_plan_of_an_instant_comes_back() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(
            root.path().join(FILE),
            OLDER.replace(r#""id": "daily-2026-01-08""#, r#""at": "2026-01-08T15:00:00.5Z""#),
        )
        .unwrap();
        let plan = Plan::load(root.path()).unwrap().unwrap();
        assert_eq!(plan.subject.to_string(), "2026-01-08T15:00:00.500Z");
        plan.save(root.path()).unwrap();
        assert_eq!(Plan::load(root.path()).unwrap(), Some(plan));
    }
}
