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

mod chain;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Backup, BackupId, CheckKind, Checked, DatabaseCopy, DatabaseName, Flag, Form, Tier, Verified, hex, timestamp,
};

pub use chain::{Chains, Readers, Relief, Remnant, Segment, Step, relief, remnants};
pub use plan::{Plan, Sending, Wishes, is_sendable, plan};

/// The format of entries, and of a catalog without segments.
pub const VERSION: u32 = 1;
/// The format of a catalog with segments: who doesn't know them must not touch it.
pub const WITH_SEGMENTS: u32 = 2;
/// Who writes there.
pub const LEASE: &str = "lease.json";
/// Below it lie the backups.
pub const BACKUPS: &str = "backups/";
/// Below it lie the catalogs.
pub const CATALOGS: &str = "catalog/";
/// Far below what the catalog of a backup directory holds, so that whatever comes from a replica leaves room above it.
const MAX_NUMBER: u64 = 1 << 48;
/// Bytes; SQLite's largest database has fewer (limits.html).
const MAX_SIZE: u64 = 1 << 50;
/// The smallest piece that an object is cut into.
const LEAST_PART: u64 = 1 << 20;
/// Of all objects of a replica together.
const MAX_ALL_PARTS: u64 = 2_000_000;
/// One is begun when a directory is put back or lies elsewhere, and goes with the window.
pub const MAX_JOURNALS: usize = 1000;
/// Texts in entries are for people.
const MAX_TEXT: usize = 2000;
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

/// Where a backup lies in a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Folder {
    /// Which backup.
    pub origin: Origin,
    /// Which sending of it.
    pub nonce: Nonce,
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { sequence, timestamp } = self.origin;
        write!(f, "{BACKUPS}{}-{sequence:010}-{}", timestamp.format(SECOND), hex(&self.nonce.0))
    }
}

impl Folder {
    /// Where a database of it lies, as a segment or whole.
    pub fn database(self, name: &DatabaseName, form: Form, is_segment: bool) -> String {
        format!("{self}/{name}.{}", if is_segment { chain::ending(form) } else { form.ending() })
    }

    /// Where its entry lies.
    pub fn entry(self, encrypted: bool) -> String {
        format!("{self}/{}", if encrypted { ENCRYPTED_ENTRY } else { PLAIN_ENTRY })
    }
}

const PLAIN_ENTRY: &str = "entry.json";
const ENCRYPTED_ENTRY: &str = "entry.json.age";

/// A part of an object, counted from 1.
pub fn part(key: &str, number: u32) -> String {
    format!("{key}.{number:05}")
}

/// Whether a key is one that we give to what belongs to a backup, or to what becomes it in a folder: nothing else is ever removed.
pub fn is_ours(key: &str) -> bool {
    let parsed = || {
        let key = &finished(key);
        let (folder, file) = key.strip_prefix(BACKUPS)?.split_once('/')?;
        let (second, rest) = folder.split_once('-')?;
        let (sequence, nonce) = rest.split_once('-')?;
        let timestamp = chrono::NaiveDateTime::parse_from_str(second, SECOND).ok()?.and_utc();
        let folder =
            Folder { origin: Origin { sequence: sequence.parse().ok()?, timestamp }, nonce: Nonce::parse(nonce)? };
        let whole = match file.rsplit_once('.') {
            Some((whole, number)) if number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit()) => whole,
            _ => file,
        };
        let of = |ending| whole.strip_suffix(ending)?.strip_suffix('.')?.parse().ok();
        let ends = |form: &Form| Some((of(form.ending())?, *form, false));
        let segments = |form: &Form| Some((of(chain::ending(*form))?, *form, true));
        let printed = match whole {
            PLAIN_ENTRY => folder.entry(false),
            ENCRYPTED_ENTRY => folder.entry(true),
            _ => {
                let found = Form::ALL.iter().find_map(ends).or_else(|| Form::ALL.iter().find_map(segments));
                let (name, form, is_segment): (DatabaseName, Form, bool) = found?;
                folder.database(&name, form, is_segment)
            }
        };
        Some(key.strip_suffix(&file[whole.len()..])? == printed)
    };
    parsed() == Some(true)
}

/// The key that a file gets which is being written in a folder; any other is its own.
fn finished(key: &str) -> String {
    let Some((folder, file)) = key.rsplit_once('/') else { return key.to_owned() };
    match file.strip_prefix('.').and_then(|file| file.strip_suffix(".partial")) {
        Some(file) => format!("{folder}/{file}"),
        None => key.to_owned(),
    }
}

/// Whether a key is that of a catalog which was not written to its end in a folder.
pub fn is_unfinished_catalog(key: &str) -> bool {
    let finished = finished(key);
    finished != key && parse_catalog_key(&finished).is_some()
}

/// The key of a catalog: its generation, and the first 16 hex digits of the SHA-256 of its bytes.
pub fn catalog_key(generation: u64, sha256: &str) -> String {
    format!("{CATALOGS}{generation:010}-{}.json", &sha256[..16.min(sha256.len())])
}

/// Generation and digits of a catalog's key, if it is one.
pub fn parse_catalog_key(key: &str) -> Option<(u64, &str)> {
    let (generation, digits) = key.strip_prefix(CATALOGS)?.strip_suffix(".json")?.split_once('-')?;
    let hex = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parsed = generation.parse().ok().filter(|generation| hex && *generation <= MAX_NUMBER)?;
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
    /// The journals that lie there and count, in the order in which they were begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub journals: Vec<HeldJournal>,
    /// What stays of those that were dropped, by sequence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remnants: Vec<Remnant>,
    /// What else a newer version recorded.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The journal of one directory, whose states are numbered without a second meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldJournal {
    /// What tells it from all others.
    pub lineage: Nonce,
    /// When it was begun.
    #[serde(with = "timestamp")]
    pub since: DateTime<Utc>,
}

impl ReplicaCatalog {
    /// Reads one, and looks whether it is one. The reason says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON: {error}"))?;
        if let Some(version) = value.get("version").and_then(Value::as_u64).filter(|it| *it > WITH_SEGMENTS.into()) {
            return Err(format!(
                "it is of format {version}, and this program knows {WITH_SEGMENTS}; use the program that wrote it"
            ));
        }
        let catalog: Self = serde_json::from_value(value).map_err(|error| format!("it is no catalog: {error}"))?;
        catalog.validate().map(|()| catalog)
    }

    /// As it is written. One with segments names many objects, and is written each day: it goes without spaces.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = match self.version {
            VERSION => serde_json::to_vec_pretty(self),
            _ => serde_json::to_vec(self),
        };
        bytes.unwrap_or_default()
    }

    /// What serde can't say.
    pub fn validate(&self) -> Result<(), String> {
        if !is_store_id(&self.store_id) || self.generation > MAX_NUMBER {
            return Err("its storeId or its generation is none that was ever given".to_owned());
        }
        let (mut ids, mut origins, mut parts) = (BTreeSet::new(), BTreeSet::new(), 0);
        for held in &self.backups {
            let id = held.id;
            if held.origin.sequence > MAX_NUMBER {
                return Err(format!("the sequence of {id} is larger than any that was given"));
            }
            if !ids.insert(id) || !origins.insert(held.origin) {
                return Err(format!("{id} is there twice"));
            }
            if held.databases.is_empty() {
                return Err(format!("{id} has no database"));
            }
            if !held.objects().all(|(_, object)| object.can_be()) {
                return Err(format!("{id} has an object that can't be"));
            }
            parts += held.objects().map(|(_, object)| u64::from(object.parts).max(1)).sum::<u64>();
            if !held.flags.iter().all(|flag| is_text(&flag.to_string())) {
                return Err(format!("{id} has a flag that is no word"));
            }
        }
        for remnant in &self.remnants {
            let sequence = remnant.origin.sequence;
            if !origins.insert(remnant.origin) {
                return Err(format!("sequence {sequence} is there twice"));
            }
            if !remnant.databases.values().all(|it| it.object.can_be()) {
                return Err(format!("what is left of sequence {sequence} has an object that can't be"));
            }
            parts += remnant.databases.values().map(|it| u64::from(it.object.parts).max(1)).sum::<u64>();
        }
        if parts > MAX_ALL_PARTS {
            return Err("it names more objects than any replica has".to_owned());
        }
        let lineages: BTreeSet<Nonce> = self.journals.iter().map(|journal| journal.lineage).collect();
        if lineages.len() < self.journals.len() || lineages.len() > MAX_JOURNALS {
            return Err(format!("it names a journal twice, or more than {MAX_JOURNALS}"));
        }
        self.chains().validate(&self.remnants)
    }

    /// What stands on what.
    pub fn chains(&self) -> Chains<'_> {
        Chains::of(&self.backups, &self.remnants)
    }

    /// Each object with its key, and to what it belongs.
    pub fn objects(&self) -> impl Iterator<Item = (Origin, String, &Object)> {
        let held = self.backups.iter().flat_map(|it| it.objects().map(|(key, object)| (it.origin, key, object)));
        let left = self
            .remnants
            .iter()
            .flat_map(|it| objects(it.folder(), &it.databases).map(|(key, object)| (it.origin, key, object)));
        held.chain(left)
    }

    /// The keys of what it says is damaged; the entry of a backup isn't told apart from the backup.
    pub fn damaged(&self) -> BTreeSet<String> {
        let entries = self.backups.iter().filter(|held| held.damaged);
        let entries = entries.map(|held| held.folder().entry(held.entry.encrypted));
        let held = self.backups.iter().map(|held| (held.folder(), &held.databases));
        let left = self.remnants.iter().map(|left| (left.folder(), &left.databases));
        let databases = held.chain(left).flat_map(|(folder, databases)| {
            let damaged = databases.iter().filter(|(_, it)| it.damaged);
            damaged.map(move |(name, it)| folder.database(name, it.form, it.ltx.is_some()))
        });
        entries.chain(databases).collect()
    }

    /// All keys that it names.
    pub fn keys(&self) -> BTreeSet<String> {
        self.objects().flat_map(|(_, key, object)| object.keys(&key)).collect()
    }

    /// The format that it needs.
    pub fn format_of(backups: &[Held], remnants: &[Remnant]) -> u32 {
        let is_plain = remnants.is_empty() && !backups.iter().any(Held::has_segments);
        if is_plain { VERSION } else { WITH_SEGMENTS }
    }

    /// The backup of that id.
    pub fn get(&self, id: &BackupId) -> Option<&Held> {
        self.backups.iter().find(|held| held.id == *id)
    }

    /// The newest that can be relied on, older than one if that is given. What a restore had replaced is the last to be taken:
    /// somebody wanted to be rid of it.
    pub fn latest(&self, before: Option<Origin>) -> Option<&Held> {
        let unsound = self.chains().unsound();
        let good = |held: &&Held| !unsound.contains(&held.origin) && !held.flags.contains(&Flag::Shrunk);
        let older = |held: &&Held| before.is_none_or(|before| held.origin < before);
        self.backups
            .iter()
            .filter(good)
            .filter(older)
            .max_by_key(|held| (held.id.tier() != Tier::PreRestore, held.origin))
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

impl ReplicaEntry {
    /// Of a backup. Texts that were made from what is in a database, such as the names of its tables, become such as every reader
    /// takes.
    pub fn new(store_id: String, mut backup: Backup, recipients: BTreeMap<DatabaseName, Vec<String>>) -> Self {
        let texts = backup.findings.iter_mut().chain(&mut backup.reason).chain([&mut backup.created_by]);
        texts.for_each(|text| *text = as_text(text));
        Self { version: VERSION, store_id, backup, recipients }
    }

    /// Whether it is of that backup, of that store, and says nothing that can't be.
    pub fn is_of(&self, held: &Held, store_id: &str) -> bool {
        let backup = &self.backup;
        let sizes =
            |copy: &DatabaseCopy| copy.size <= MAX_SIZE && copy.free_pages <= MAX_SIZE && copy.page_size <= 1 << 16;
        let texts = [Some(&backup.created_by), backup.reason.as_ref()];
        let texts = texts.into_iter().flatten().chain(&backup.findings);
        self.version <= VERSION
            && self.store_id == store_id
            && Origin::of(backup) == held.origin
            && backup.databases.keys().eq(held.databases.keys())
            && backup.databases.values().all(sizes)
            && texts.into_iter().all(|text| is_text(text))
            && backup.flags.iter().all(|flag| is_text(&flag.to_string()))
    }
}

fn is_store_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn as_text(text: &str) -> String {
    let mut plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.truncate(plain.floor_char_boundary(MAX_TEXT));
    plain
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
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
