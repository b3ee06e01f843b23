//! What a replica holds, as its own catalog has it, and which objects that are. Pure; whatever comes from a replica is
//! untrusted, so ids, names and forms are parsed, and keys are printed from them alone [P9].
//!
//! ```text
//! backups/20260108T010000Z-0000000412/attendance.db.zst.age      a database of a backup
//! backups/20260108T010000Z-0000000412/entry.json.age             what the catalog says of that backup
//! catalog/0000000042-9f86d081884c7d65.json                       the replica's catalog, by generation and SHA-256
//! lease.json                                                     who writes there just now
//! ```
//!
//! An object is never changed or moved once a catalog names it: a promotion changes the catalog alone. A catalog is a new object
//! each time, so that one that was cut short destroys none. Stores that take no long bodies have an object in parts, `….00001`
//! and on; one after the other they are the file.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Backup, BackupId, CheckKind, Checked, DatabaseName, Flag, Form, Verified, timestamp};

pub use plan::{Plan, Sending, Wishes, is_sendable, plan};

/// The format that this version writes.
pub const VERSION: u32 = 1;
/// Who writes there.
pub const LEASE: &str = "lease.json";
/// Below it lie the backups.
pub const BACKUPS: &str = "backups/";
/// Below it lie the catalogs.
pub const CATALOGS: &str = "catalog/";
/// As the catalog of a backup directory: JSON's numbers are exact up to here.
const MAX_SEQUENCE: u64 = 1 << 53;
/// How the second of an instant is written in a key.
const SECOND: &str = "%Y%m%dT%H%M%SZ";

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

/// Which snapshot: ids change by promotion, this stays.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Its place in the order of its store.
    pub sequence: u64,
    /// Its instant.
    #[serde(with = "timestamp")]
    pub timestamp: DateTime<Utc>,
}

impl Origin {
    /// Of a backup.
    pub fn of(backup: &Backup) -> Self {
        Self { sequence: backup.sequence, timestamp: backup.timestamp }
    }

    fn folder(self) -> String {
        format!("{BACKUPS}{}-{:010}/", self.timestamp.format(SECOND), self.sequence)
    }

    /// Where a database of it lies.
    pub fn database(self, name: &DatabaseName, form: Form) -> String {
        format!("{}{name}.{}", self.folder(), form.ending())
    }

    /// Where its entry lies.
    pub fn entry(self, encrypted: bool) -> String {
        format!("{}{}", self.folder(), if encrypted { ENCRYPTED_ENTRY } else { PLAIN_ENTRY })
    }
}

const PLAIN_ENTRY: &str = "entry.json";
const ENCRYPTED_ENTRY: &str = "entry.json.age";

/// A part of an object, counted from 1.
pub fn part(key: &str, number: u32) -> String {
    format!("{key}.{number:05}")
}

/// Whether a key is one that we give to what belongs to a backup: nothing else is ever removed.
pub fn is_ours(key: &str) -> bool {
    let parsed = || {
        let (folder, file) = key.strip_prefix(BACKUPS)?.split_once('/')?;
        let (second, sequence) = folder.split_once('-')?;
        let timestamp = chrono::NaiveDateTime::parse_from_str(second, SECOND).ok()?.and_utc();
        let origin = Origin { sequence: sequence.parse().ok()?, timestamp };
        let whole = match file.rsplit_once('.') {
            Some((whole, number)) if number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit()) => whole,
            _ => file,
        };
        let ends = |form: &Form| Some((whole.strip_suffix(form.ending())?.strip_suffix('.')?.parse().ok()?, *form));
        let printed = match whole {
            PLAIN_ENTRY => origin.entry(false),
            ENCRYPTED_ENTRY => origin.entry(true),
            _ => {
                let (name, form): (DatabaseName, Form) = Form::ALL.iter().find_map(ends)?;
                origin.database(&name, form)
            }
        };
        Some(key.strip_suffix(&file[whole.len()..])? == printed)
    };
    parsed() == Some(true)
}

/// The key of a catalog: its generation, and the first 16 hex digits of the SHA-256 of its bytes.
pub fn catalog_key(generation: u64, sha256: &str) -> String {
    format!("{CATALOGS}{generation:010}-{}.json", &sha256[..16.min(sha256.len())])
}

/// Generation and digits of a catalog's key, if it is one.
pub fn parse_catalog_key(key: &str) -> Option<(u64, &str)> {
    let (generation, digits) = key.strip_prefix(CATALOGS)?.strip_suffix(".json")?.split_once('-')?;
    let hex = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parsed = generation.parse().ok().filter(|_| hex)?;
    (catalog_key(parsed, digits) == key).then_some((parsed, digits))
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
    /// Its bytes.
    #[serde(flatten)]
    pub object: Object,
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
    /// An object was found to be another than was written, and nothing is there to replace it.
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
    /// Each object with its key.
    pub fn objects(&self) -> impl Iterator<Item = (String, &Object)> {
        let entry = (self.origin.entry(self.entry.encrypted), &self.entry.object);
        let databases = self.databases.iter().map(|(name, it)| (self.origin.database(name, it.form), &it.object));
        std::iter::once(entry).chain(databases)
    }

    /// All keys under which they lie.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        self.objects().flat_map(|(key, object)| object.keys(&key))
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.objects().fold(0, |sum: u64, (_, object)| sum.saturating_add(object.size))
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

/// The catalog of a replica: plain JSON, so that it can be kept with public keys alone. What is in the databases, why a backup was
/// taken and by whom stands in the entries.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaCatalog {
    /// The format.
    pub version: u32,
    /// Whose backups they are.
    pub store_id: String,
    /// One more than that of the catalog before.
    pub generation: u64,
    /// When it was written.
    #[serde(with = "timestamp")]
    pub written_at: DateTime<Utc>,
    /// On which host.
    pub host: String,
    /// What it holds, by sequence.
    pub backups: Vec<Held>,
    /// What else a newer version recorded.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ReplicaCatalog {
    /// Reads one, and looks whether it is one. The reason says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON: {error}"))?;
        if let Some(version) = value.get("version").and_then(Value::as_u64).filter(|it| *it > VERSION.into()) {
            return Err(format!(
                "it is of format {version}, and this program knows {VERSION}; use the program that wrote it"
            ));
        }
        let catalog: Self = serde_json::from_value(value).map_err(|error| format!("it is no catalog: {error}"))?;
        let (mut ids, mut origins) = (BTreeSet::new(), BTreeSet::new());
        for held in &catalog.backups {
            if held.origin.sequence > MAX_SEQUENCE {
                return Err("a sequence is larger than any that was given".to_owned());
            }
            if !ids.insert(held.id) || !origins.insert(held.origin) {
                return Err(format!("{} is there twice", held.id));
            }
            if held.databases.is_empty() {
                return Err(format!("{} has no database", held.id));
            }
            if held.objects().any(|(_, object)| object.parts > MAX_PARTS) {
                return Err(format!("{} has more parts than any object", held.id));
            }
        }
        Ok(catalog)
    }

    /// The backup of that id.
    pub fn get(&self, id: &BackupId) -> Option<&Held> {
        self.backups.iter().find(|held| held.id == *id)
    }

    /// The newest that can be relied on.
    pub fn latest(&self) -> Option<&Held> {
        let good = |held: &&Held| !held.damaged && !held.flags.contains(&Flag::Shrunk);
        self.backups.iter().filter(good).max_by_key(|held| held.origin)
    }
}

/// Parts are numbered by five digits.
pub const MAX_PARTS: u32 = 99_999;

/// What lies beside the databases of a backup: its entry in the catalog that it came from, and to whom the objects are encrypted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaEntry {
    /// The format.
    pub version: u32,
    /// Whose backup it is.
    pub store_id: String,
    /// The entry.
    pub backup: Backup,
    /// To whom each database is encrypted.
    pub recipients: BTreeMap<DatabaseName, Vec<String>>,
}

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
