//! The words of the trade: databases, tiers, ids and backups. Pure data; it touches neither disk nor clock.

pub mod calendar;
pub mod id;
pub mod notices;
pub mod replica;
pub mod retention;
#[cfg(test)]
pub(crate) mod sample;
pub mod schedule;
pub mod settings;
pub mod subject;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};

pub use id::{BackupId, Tier};
pub use replica::ReplicaName;
pub use subject::{Moment, Subject};

/// The short name of a live database: `[a-z][a-z0-9_]{0,31}`. File names and routes are built from it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z][a-z0-9_]{0,31}$")]
pub struct DatabaseName(String);

impl DatabaseName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatabaseName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let tail = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if text.len() <= 32 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(tail) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a database name is 1 to 32 of a-z, 0-9 and _, and begins with a letter".to_owned())
        }
    }
}

impl TryFrom<String> for DatabaseName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DatabaseName> for String {
    fn from(name: DatabaseName) -> Self {
        name.0
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How a copy lies on disk; also how its file name ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
pub enum Form {
    /// The plain SQLite database.
    #[serde(rename = "db")]
    Plain,
    /// Compressed by zstd.
    #[serde(rename = "db.zst")]
    Compressed,
    /// Encrypted by age.
    #[serde(rename = "db.age")]
    Encrypted,
    /// Compressed, then encrypted.
    #[serde(rename = "db.zst.age")]
    CompressedEncrypted,
}

impl Form {
    /// All forms.
    pub const ALL: [Form; 4] = [Form::Plain, Form::Compressed, Form::Encrypted, Form::CompressedEncrypted];

    /// The form with these layers.
    pub fn of(compressed: bool, encrypted: bool) -> Self {
        match (compressed, encrypted) {
            (false, false) => Form::Plain,
            (true, false) => Form::Compressed,
            (false, true) => Form::Encrypted,
            (true, true) => Form::CompressedEncrypted,
        }
    }

    /// The file name's ending, without the dot.
    pub fn ending(self) -> &'static str {
        match self {
            Form::Plain => "db",
            Form::Compressed => "db.zst",
            Form::Encrypted => "db.age",
            Form::CompressedEncrypted => "db.zst.age",
        }
    }

    /// zstd has to decompress it.
    pub fn is_compressed(self) -> bool {
        matches!(self, Form::Compressed | Form::CompressedEncrypted)
    }

    /// Only an identity opens it.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Form::Encrypted | Form::CompressedEncrypted)
    }
}

/// One database of a backup, as the catalog records it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseCopy {
    /// Path below the backup directory. Compared with what id and form imply, never trusted.
    pub file: String,
    /// How the file lies.
    pub form: Form,
    /// Bytes of the plain database.
    pub size: u64,
    /// SHA-256 of the plain database, 64 hex digits.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub checksum: String,
    /// Bytes of the file as it lies.
    pub stored_size: u64,
    /// SHA-256 of the file as it lies.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub stored_checksum: String,
    /// XXH3 (128 bits) of the file as it lies, 32 hex digits: to notice damage where SHA-256 would take too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_xxh3: Option<String>,
    /// Public keys that the file is encrypted to.
    #[serde(default)]
    #[schema(required = true)]
    pub recipients: Vec<String>,
    /// SQLite page size in bytes.
    pub page_size: u32,
    /// Unused pages inside the file (`PRAGMA freelist_count`).
    #[serde(default)]
    #[schema(required = true)]
    pub free_pages: u64,
    /// `wal`, or what `PRAGMA journal_mode` said of the live database.
    pub journal_mode: String,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// Rows per table at the instant of the snapshot.
    pub tables: BTreeMap<String, u64>,
    /// What else a newer version recorded.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl DatabaseCopy {
    /// XXH3 of the plain database, where it is recorded.
    pub fn plain_xxh3(&self) -> Option<&String> {
        self.stored_xxh3.as_ref().filter(|_| self.form == Form::Plain)
    }

    /// Bytes in pages that hold data: the measure of "shrunk", which a deletion without VACUUM changes too.
    pub fn used_bytes(&self) -> u64 {
        self.size.saturating_sub(self.free_pages.saturating_mul(self.page_size.into()))
    }
}

/// What is remarkable about a backup.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// Much smaller than the last good one, or a table is gone; rotation stands still until acknowledged.
    Shrunk,
    /// Part of the structure needs the app's own functions or collations to be checked, or is a search index that the app has not kept up.
    NotCheckable,
    /// The entry was remade from the files by `catalog rebuild`.
    Recovered,
    /// A flag of a newer version, kept as it is.
    #[serde(untagged)]
    Other(String),
}

impl utoipa::PartialSchema for Flag {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).examples(["shrunk", "not-checkable", "recovered"]);
        text.description(Some("What is remarkable about a backup; newer versions may know more.")).into()
    }
}

impl ToSchema for Flag {}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flag::Shrunk => "shrunk",
            Flag::NotCheckable => "not-checkable",
            Flag::Recovered => "recovered",
            Flag::Other(text) => text,
        })
    }
}

/// When and how thoroughly the structure was looked at.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Checked {
    /// When.
    #[serde(with = "timestamp")]
    pub at: DateTime<Utc>,
    /// `quick` or `integrity`, as in SQLite's pragmas.
    pub kind: CheckKind,
    /// No fault was found in what could be checked.
    pub ok: bool,
}

/// Which of SQLite's checks is run on the structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// `PRAGMA quick_check`: everything but the agreement of indexes with their tables.
    Quick,
    /// `PRAGMA integrity_check`: everything.
    Integrity,
}

/// When the bytes were last read back from where they lie and compared with the checksums.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// When.
    #[serde(with = "timestamp")]
    pub at: DateTime<Utc>,
    /// All bytes were as recorded.
    pub ok: bool,
    /// No identity was at hand to decrypt them: they are the bytes that were written, and nobody has looked inside since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ciphertext_only: bool,
}

/// One set of copies, all from one instant: an entry of the catalog, and the JSON that lists show.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Order among all backups; kept on promotion. Never the clock.
    pub sequence: u64,
    /// Its name.
    pub id: BackupId,
    /// The tier, which is also the first part of the id.
    #[serde(rename = "type")]
    pub tier: Tier,
    /// The instant of the snapshot.
    #[serde(with = "timestamp")]
    pub timestamp: DateTime<Utc>,
    /// The date of the instant in the schedule's time zone as it was then; week and month come from it.
    pub local_date: NaiveDate,
    /// The copies.
    pub databases: BTreeMap<DatabaseName, DatabaseCopy>,
    /// The id it had before rotation promoted it.
    #[serde(default)]
    #[schema(required = true)]
    pub promoted_from: Option<BackupId>,
    /// Why it was asked for.
    #[serde(default)]
    #[schema(required = true)]
    pub reason: Option<String>,
    /// Who asked for it.
    pub created_by: String,
    /// Never dropped or promoted by rotation.
    #[serde(default)]
    #[schema(required = true)]
    pub pinned: bool,
    /// What is remarkable about it.
    #[serde(default)]
    #[schema(required = true)]
    pub flags: BTreeSet<Flag>,
    /// What was noticed, in words: what shrank, what could not be checked, rows that point at none or break a `CHECK`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// The look at the structure.
    pub checked: Checked,
    /// The read-back.
    pub verified: Verified,
    /// Marked for deletion: the files may be gone already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
    /// What else a newer version recorded.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// In the entry of a backup that was brought from a replica of another store.
pub const CAME_FROM: &str = "cameFrom";

impl Backup {
    /// It was brought from another store: how old it is, and how large, says nothing of what was taken here.
    pub fn came_from_elsewhere(&self) -> bool {
        self.extra.contains_key(CAME_FROM)
    }

    /// What comes after it is measured by it. What a restore has kept is what was given up, and what was brought is another
    /// store's: neither says how the live data was here.
    pub fn is_measure(&self) -> bool {
        self.tier != Tier::PreRestore && !self.came_from_elsewhere()
    }

    /// Counts as a backup for quotas, promotion and "last good": not found damaged, not suspiciously small [P4].
    pub fn is_good(&self) -> bool {
        self.checked.ok && self.verified.ok && !self.is_shrunk() && !self.deleting
    }

    /// Flagged as suspiciously small and not acknowledged.
    pub fn is_shrunk(&self) -> bool {
        self.flags.contains(&Flag::Shrunk)
    }

    /// Bytes of the plain databases.
    pub fn size(&self) -> u64 {
        self.databases.values().map(|copy| copy.size).sum()
    }

    /// Bytes on disk.
    pub fn stored_size(&self) -> u64 {
        self.databases.values().map(|copy| copy.stored_size).sum()
    }
}

/// Timestamps as the formats have them: UTC, milliseconds, `Z`.
pub mod timestamp {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    /// `2026-01-05T01:00:00.412Z`.
    pub fn text(at: DateTime<Utc>) -> String {
        at.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// A clock that says so has never been set.
    pub fn is_implausible(at: DateTime<Utc>) -> bool {
        at.timestamp() < 1_735_689_600
    }

    /// Serializes as [`text`].
    pub fn serialize<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(*at))
    }

    /// Reads any RFC 3339 time.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        DateTime::<Utc>::deserialize(deserializer)
    }
}

/// Whether ids and times can be written of that date: a year has four digits, and the first week of the year 0 began in the year
/// before it. What says otherwise was written by nobody's clock, and made into an id it would be read by nobody.
pub fn can_be_named(date: NaiveDate) -> bool {
    (1..=9999).contains(&date.year())
}

/// A reason for people, if it is one: at most 200 characters, in one line.
pub fn reason(text: &str) -> Result<String, String> {
    let fits = text.chars().count() <= 200 && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("a reason has at most 200 characters, in one line".to_owned()) }
}

/// An XXH3 of 128 bits, as the catalog has it.
pub fn xxh3(sum: u128) -> String {
    format!("{sum:032x}")
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
