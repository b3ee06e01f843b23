//! The catalog, `metadata.json`: which backups exist, where their files lie, their sizes and checksums. Writing it is
//! the commit point of every operation; readers need no lock, since a rename is atomic.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::backup::retention::Retention;
use crate::backup::{Backup, BackupId, can_be_named};
use crate::disk::{self, Context};

/// The format that this version writes.
pub const VERSION: u32 = 1;
/// File name of the catalog.
pub const FILE: &str = "metadata.json";
/// File name of the catalog as it was before the last change.
pub const PREVIOUS: &str = "metadata.json.previous";
/// Larger ones are not read: 23 backups take 30 kB.
const MAX_BYTES: u64 = 64 << 20;

/// JSON's numbers are exact up to here (RFC 8259, section 6), and a backup a second takes 285 million years.
const MAX_SEQUENCE: u64 = 1 << 53;

/// Of all copies together, in bytes: 9 PB, which JSON's numbers say exactly too.
const MAX_SIZE: u64 = 1 << 53;

/// What is wrong with a catalog.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read or written.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// Neither a catalog nor an empty place.
    #[error(
        "there are backup files in {}, but no catalog ({FILE}): is this the right directory? If it is, \
         `catalog rebuild` reads the files and makes a new catalog",
        root.display()
    )]
    Missing {
        /// The backup directory.
        root: PathBuf,
    },
    /// Not JSON, or not a catalog.
    #[error(
        "the catalog {} can't be read ({reason}); nothing was changed. `catalog rebuild` keeps it beside and makes \
         a new one from the files",
        path.display()
    )]
    Unreadable {
        /// The catalog.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What was to be written is no catalog.
    #[error(
        "the catalog {} was not written, since it could not be read again ({reason}); what is there is as it was. That \
         is a fault of this program: please report it",
        path.display()
    )]
    Unwritable {
        /// The catalog.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a later version.
    #[error(
        "the catalog {} is of format {version}, and this program knows {VERSION}; use the program that wrote it, \
         or a newer one",
        path.display()
    )]
    Newer {
        /// The catalog.
        path: PathBuf,
        /// Its format.
        version: u64,
    },
}

/// The newest audit line that was written before this catalog: a cut end of the audit log shows by it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Anchor {
    /// Number of the line.
    pub seq: u64,
    /// SHA-256 of the line.
    pub hash: String,
}

/// `metadata.json`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Catalog {
    /// The format.
    pub version: u32,
    /// Random name of this directory; the same in its replicas.
    pub store_id: String,
    /// The highest sequence ever given, also to backups that are gone.
    #[serde(default)]
    pub last_sequence: u64,
    /// Another one since the catalog was made anew from the files: what is missing from it since was deleted by nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
    /// Why the last rotation did nothing, though it was to promote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpromoted: Option<String>,
    /// The retention for which the last `serve` is configured: a command that was given less, or none of its variables, keeps as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Where the audit log stood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Anchor>,
    /// The backups that stood when the log last told of all that was done: since then it could not be read or written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrecorded: Option<BTreeSet<BackupId>>,
    /// The entries, by sequence.
    pub backups: Vec<Backup>,
    /// What else a newer version recorded.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Catalog {
    /// A catalog of nothing.
    pub fn empty(store_id: String) -> Self {
        Self {
            version: VERSION,
            store_id,
            last_sequence: 0,
            lineage: None,
            unpromoted: None,
            retention: None,
            audit: None,
            unrecorded: None,
            backups: Vec::new(),
            extra: Map::new(),
        }
    }

    /// Nothing was ever in it.
    pub fn is_new(&self) -> bool {
        self.backups.is_empty() && self.last_sequence == 0
    }

    /// Those that stand.
    pub fn ids(&self) -> BTreeSet<BackupId> {
        self.standing().map(|backup| backup.id).collect()
    }

    /// Those that stood when the audit log last told of all that was done.
    pub fn recorded(&self) -> BTreeSet<BackupId> {
        self.unrecorded.clone().unwrap_or_else(|| self.ids())
    }

    /// The highest sequence ever given, also by programs that didn't note it.
    pub fn highest_sequence(&self) -> u64 {
        self.backups.iter().map(|backup| backup.sequence).max().unwrap_or(0).max(self.last_sequence)
    }

    /// Reads the catalog of a backup directory; `None` if there is none.
    pub fn load(root: &Path) -> Result<Option<Self>, Error> {
        Self::read(&root.join(FILE))
    }

    /// Reads a catalog file; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let file = match disk::open_regular(path) {
            Err(error) if error.is_missing() => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).to("read", path)?;
        Self::parse(path, &bytes).map(Some)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(unreadable(path, "it is larger than any catalog"));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|error| unreadable(path, error))?;
        if let Some(version) = value.get("version").and_then(Value::as_u64).filter(|v| *v > VERSION.into()) {
            return Err(Error::Newer { path: path.to_owned(), version });
        }
        let catalog: Self = serde_json::from_value(value).map_err(|error| unreadable(path, error))?;
        catalog.validate().map_err(|reason| unreadable(path, reason))?;
        Ok(catalog)
    }

    /// What serde can't say: ids are unique, and every file is where id and form imply.
    fn validate(&self) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        if self.backups.iter().map(|backup| backup.sequence).max().max(Some(self.last_sequence)) > Some(MAX_SEQUENCE) {
            return Err("a sequence is larger than any that was given".to_owned());
        }
        let copies = self.backups.iter().flat_map(|backup| backup.databases.values());
        let sizes = copies.flat_map(|copy| [copy.size, copy.stored_size]);
        if sizes.fold(0, u64::saturating_add) > MAX_SIZE {
            return Err("its copies are larger than any disk".to_owned());
        }
        for backup in &self.backups {
            let id = backup.id;
            if !ids.insert(id) {
                return Err(format!("{id} is there twice"));
            }
            if backup.tier != id.tier() {
                return Err(format!("{id} is said to be {}", backup.tier));
            }
            if backup.databases.is_empty() {
                return Err(format!("{id} has no database"));
            }
            if ![backup.local_date, backup.timestamp.date_naive()].into_iter().all(can_be_named) {
                return Err(format!("{id} is of a time that no clock shows"));
            }
            for (name, copy) in &backup.databases {
                if copy.file != id.file(name, copy.form) {
                    return Err(format!("{id} names a file that isn't its own: {:?}", copy.file));
                }
            }
        }
        Ok(())
    }

    /// Writes the catalog durably, and keeps the one before as `metadata.json.previous`. Only under `.lock`.
    ///
    /// Order: the present one gets its second name, then the new one takes its place. A crash in between leaves the
    /// present one under both names. One that can't be read is no catalog to go back to: the one before it stays, since
    /// a rebuild that was cut short learns from it again. What could not be read again is not written at all.
    pub fn save(&mut self, root: &Path) -> Result<(), Error> {
        self.backups.sort_by_key(|backup| (backup.sequence, backup.id));
        let path = root.join(FILE);
        let bytes = self.written(&path)?;
        match Self::read(&path) {
            Ok(Some(_)) => disk::link_over(&path, &root.join(PREVIOUS))?,
            // Nor is what a newer program wrote ours to replace.
            Err(error @ Error::Newer { .. }) => return Err(error),
            _ => {}
        }
        Ok(disk::write_durable(&path, &bytes)?)
    }

    fn written(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let unwritable = |reason: String| Error::Unwritable { path: path.to_owned(), reason };
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| unwritable(error.to_string()))?;
        bytes.push(b'\n');
        match Self::parse(path, &bytes) {
            Ok(_) => Ok(bytes),
            Err(Error::Unreadable { reason, .. }) => Err(unwritable(reason)),
            Err(error) => Err(error),
        }
    }

    /// The entry of that id, unless it is marked for deletion.
    pub fn get(&self, id: &BackupId) -> Option<&Backup> {
        self.backups.iter().find(|backup| backup.id == *id && !backup.deleting)
    }

    /// The same to change.
    pub fn get_mut(&mut self, id: &BackupId) -> Option<&mut Backup> {
        self.backups.iter_mut().find(|backup| backup.id == *id && !backup.deleting)
    }

    /// Entries not marked for deletion.
    pub fn standing(&self) -> impl DoubleEndedIterator<Item = &Backup> {
        self.backups.iter().filter(|backup| !backup.deleting)
    }

    /// Marks for deletion.
    pub fn mark_deleting(&mut self, id: &BackupId) {
        if let Some(backup) = self.get_mut(id) {
            backup.deleting = true;
        }
    }
}

fn unreadable(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Unreadable { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{Tier, sample};

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::empty("store".to_owned());
        catalog.save(dir.path()).unwrap();
        let before = std::fs::read(dir.path().join(FILE)).unwrap();
        catalog.backups = vec![sample::backup(1, Tier::Daily, "2026-01-08".parse().unwrap())];
        assert!(catalog.save(dir.path()).unwrap_err().to_string().contains("daily-2026-01-08 has no database"));
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), before);
        assert!(!dir.path().join(PREVIOUS).exists());
    }
}
