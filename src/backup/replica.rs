//! What a replica holds, as its own catalog has it, and which objects that are. Pure; whatever comes from a replica is
//! untrusted, so ids, names and forms are parsed, and keys are printed from them alone [P9].
//!
//! ```text
//! backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db.zst.age     a database of a backup
//! backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/entry.json.age            what the catalog says of that backup
//! backups/20260109T010000Z-0000000413-0b6f3a1d5c8e9724/attendance.ltx.zst.age    the same in an incremental replica (`chain`)
//! catalog/0000000042-9f86d081884c7d65.json                                       the replica's catalog, by generation and SHA-256
//! journal/5f0c2a9be1d37784/…                                                     the journal, by lineage
//! lease.json                                                                     who writes there just now
//! ```
//!
//! An object is never changed or moved once a catalog names it: a promotion changes the catalog alone, and what is sent again, or by
//! another machine, gets a folder of its own by a random text. A catalog is a new object each time, so that one that was cut short
//! destroys none. Stores that take no long bodies have an object in parts, `….00001`
//! and on; one after the other they are the file.

mod catalog;
mod chain;
mod entry;
mod keys;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Backup, BackupId, CheckKind, Checked, DatabaseName, Flag, Form, Verified, hex, timestamp};

pub use catalog::{HeldJournal, MAX_JOURNALS, ReplicaCatalog};
pub use chain::{Chains, ChainsThere, Readers, Relief, Remnant, Segment, Step, relief, remnants};
pub use entry::ReplicaEntry;
pub use keys::{
    BACKUPS, CATALOGS, Folder, LEASE, catalog_key, is_folder_of_ours, is_ours, is_unfinished_catalog,
    parse_catalog_key, part,
};
pub use plan::{Plan, Sending, Wishes, is_sendable, plan, step_aside};

/// The format of entries, and of a catalog without segments.
pub const VERSION: u32 = 1;
/// The format of a catalog with segments: who doesn't know them must not touch it.
pub const WITH_SEGMENTS: u32 = 2;
/// Far below what the catalog of a backup directory holds, so that whatever comes from a replica leaves room above it.
const MAX_NUMBER: u64 = 1 << 48;
/// So many backups are never taken between one that is kept and the next. By a number that is farther above all others whoever holds a
/// store could leave us none.
const LEAP: u64 = 1 << 20;
/// Bytes; SQLite's largest database has fewer (limits.html).
const MAX_SIZE: u64 = 1 << 50;
/// The smallest piece that an object is cut into.
const LEAST_PART: u64 = 1 << 20;
/// The short name of a replica: `[a-z0-9]{1,32}`. Variables, routes and file names are built from it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9]{1,32}$")]
pub struct ReplicaName(String);

impl ReplicaName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ReplicaName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if (1..=32).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err("the name of a replica is 1 to 32 of a-z and 0-9".to_owned())
        }
    }
}

impl TryFrom<String> for ReplicaName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ReplicaName> for String {
    fn from(name: ReplicaName) -> Self {
        name.0
    }
}

impl fmt::Display for ReplicaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How a replica holds what is sent to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Each backup by itself.
    #[default]
    Full,
    /// What has changed since the backup before.
    Incremental,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Full => "full",
            Mode::Incremental => "incremental",
        })
    }
}

/// Which snapshot: ids change by promotion, this stays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Its place in the order of its store.
    pub sequence: u64,
    /// Its instant.
    #[serde(with = "timestamp")]
    pub timestamp: DateTime<Utc>,
}

/// Whether that number was given, where `last` is the highest that is known.
pub fn is_plausible(sequence: u64, last: u64) -> bool {
    sequence <= last.saturating_add(LEAP)
}

impl Origin {
    /// Of a backup.
    pub fn of(backup: &Backup) -> Self {
        Self { sequence: backup.sequence, timestamp: backup.timestamp }
    }
}

/// A text that tells one sending of a backup, or one lineage of a journal, from all others: 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(pub [u8; 8]);

impl TryFrom<String> for Nonce {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("it is no text of 16 hex digits")
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        hex(&nonce.0)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Nonce {
    fn parse(text: &str) -> Option<Self> {
        let nonce = Self(u64::from_str_radix(text, 16).ok()?.to_be_bytes());
        (hex(&nonce.0) == text).then_some(nonce)
    }
}

/// An object as it lies in a replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// Bytes.
    pub size: u64,
    /// SHA-256, 64 hex digits.
    pub checksum: String,
    /// In how many parts; none if it is whole.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parts: u32,
}

fn is_zero(parts: &u32) -> bool {
    *parts == 0
}

impl Object {
    fn can_be(&self) -> bool {
        let is_cut = u64::from(self.parts) <= self.size / LEAST_PART + 1;
        self.size <= MAX_SIZE && is_cut && self.checksum.len() == 64
    }

    /// All keys under which it lies.
    pub fn keys(&self, key: &str) -> Vec<String> {
        match self.parts {
            0 => vec![key.to_owned()],
            parts => (1..=parts).map(|number| part(key, number)).collect(),
        }
    }
}

/// A database as it lies in a replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldDatabase {
    /// Its form; also how its key ends.
    pub form: Form,
    /// It is a segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ltx: Option<Segment>,
    /// Who can read it, if it is an encrypted segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readers: Option<Readers>,
    /// Its object was found to be another than was written: what stands on it can't be had either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// Its bytes.
    #[serde(flatten)]
    pub object: Object,
    /// What else a newer version recorded.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The entry of a backup as it lies in a replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldEntry {
    /// Only an identity opens it.
    pub encrypted: bool,
    /// Its bytes.
    #[serde(flatten)]
    pub object: Object,
}

/// A backup in a replica: what has to be known without opening it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Which snapshot.
    #[serde(flatten)]
    pub origin: Origin,
    /// Which sending of it.
    pub nonce: Nonce,
    /// Its id in the replica.
    pub id: BackupId,
    /// The date of its instant in the schedule's time zone.
    pub local_date: NaiveDate,
    /// The id it had before it was promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted_from: Option<BackupId>,
    /// Never dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// What is remarkable about it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub flags: BTreeSet<Flag>,
    /// An object of its own was found to be another than was written, and nothing is there to replace it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// What its catalog entry is.
    pub entry: HeldEntry,
    /// Its databases.
    pub databases: BTreeMap<DatabaseName, HeldDatabase>,
    /// What else a newer version recorded.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Held {
    /// Where it lies.
    pub fn folder(&self) -> Folder {
        Folder { origin: self.origin, nonce: self.nonce }
    }

    /// Each object with its key.
    pub fn objects(&self) -> impl Iterator<Item = (String, &Object)> {
        let folder = self.folder();
        let entry = (folder.entry(self.entry.encrypted), &self.entry.object);
        std::iter::once(entry).chain(objects(folder, &self.databases))
    }

    /// All keys under which they lie.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        self.objects().flat_map(|(key, object)| object.keys(&key))
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.objects().fold(0, |sum: u64, (_, object)| sum.saturating_add(object.size))
    }

    /// Some of it stands on another backup, or can have others stand on it.
    pub fn has_segments(&self) -> bool {
        self.databases.values().any(|it| it.ltx.is_some())
    }

    /// As rotation sees it.
    fn as_backup(&self) -> Backup {
        let at = self.origin.timestamp;
        Backup {
            sequence: self.origin.sequence,
            id: self.id,
            tier: self.id.tier(),
            timestamp: at,
            local_date: self.local_date,
            databases: BTreeMap::new(),
            promoted_from: self.promoted_from,
            reason: None,
            created_by: String::new(),
            pinned: self.pinned,
            flags: self.flags.clone(),
            findings: Vec::new(),
            checked: Checked { at, kind: CheckKind::Quick, ok: true },
            verified: Verified { at, ok: !self.damaged, ciphertext_only: false },
            deleting: false,
            extra: Map::new(),
        }
    }
}

fn objects(
    folder: Folder,
    databases: &BTreeMap<DatabaseName, HeldDatabase>,
) -> impl Iterator<Item = (String, &Object)> {
    databases.iter().map(move |(name, it)| (folder.database(name, it.form, it.ltx.is_some()), &it.object))
}

/// Parts are numbered by five digits.
pub const MAX_PARTS: u32 = 99_999;

/// Who writes to a replica just now.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Whose backups.
    pub store_id: String,
    /// Which backup directory: a random text of its own.
    pub writer: String,
    /// On which host.
    pub host: String,
    /// Since when.
    #[serde(with = "timestamp")]
    pub at: DateTime<Utc>,
    /// Until when, unless it is renewed.
    #[serde(with = "timestamp")]
    pub until: DateTime<Utc>,
}

#[cfg(test)]
mod tests;
