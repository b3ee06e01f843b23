//! The catalog of a replica, and what can't be in one.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::entry::{is_store_id, is_text};
use super::{Chains, Held, MAX_NUMBER, Nonce, Object, Origin, Remnant, VERSION, WITH_SEGMENTS, is_plausible, objects};
use crate::backup::retention::Retention;
use crate::backup::{BackupId, Flag, Tier, can_be_named, timestamp};

/// Of all objects of a replica together.
const MAX_ALL_PARTS: u64 = 2_000_000;
/// One is begun when a directory is put back or lies elsewhere, and goes with the window.
pub const MAX_JOURNALS: usize = 1000;

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
    /// How many backups the directory keeps that wrote it: what is begun anew from here keeps no fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// How many backups are kept here, where that isn't as many as in the directory: a command that was given no such numbers goes by these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Retention>,
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
            if ![held.local_date, held.origin.timestamp.date_naive()].into_iter().all(can_be_named) {
                return Err(format!("{id} is of a time that no clock shows"));
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

    /// The highest number that was given to anything that lies there, or `last`, the highest that is known without it.
    pub fn last_sequence(&self, last: u64) -> u64 {
        let held = self.backups.iter().map(|held| held.origin.sequence);
        let left = self.remnants.iter().map(|left| left.origin.sequence);
        let numbers: BTreeSet<u64> = held.chain(left).collect();
        numbers.into_iter().fold(last, |last, next| if is_plausible(next, last) { last.max(next) } else { last })
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
