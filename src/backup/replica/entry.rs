//! What lies beside the databases of a backup in a replica.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Held, HeldDatabase, MAX_SIZE, Origin, VERSION};
use crate::backup::{Backup, DatabaseCopy, DatabaseName, can_be_named};

/// Texts in entries are for people.
const MAX_TEXT: usize = 2000;

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
        let leads_to = |(name, it): (&DatabaseName, &HeldDatabase)| match (it.ltx, backup.databases.get(name)) {
            (Some(segment), Some(copy)) => [0, copy.size].contains(&segment.size),
            (segment, _) => segment.is_none(),
        };
        let texts = [Some(&backup.created_by), backup.reason.as_ref()];
        let texts = texts.into_iter().flatten().chain(&backup.findings);
        self.version <= VERSION
            && self.store_id == store_id
            && Origin::of(backup) == held.origin
            && can_be_named(backup.local_date)
            && backup.databases.keys().eq(held.databases.keys())
            && backup.databases.values().all(sizes)
            && held.databases.iter().all(leads_to)
            && texts.into_iter().all(|text| is_text(text))
            && backup.flags.iter().all(|flag| is_text(&flag.to_string()))
    }
}

pub(super) fn is_store_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn as_text(text: &str) -> String {
    let mut plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.truncate(plain.floor_char_boundary(MAX_TEXT));
    plain
}

pub(super) fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}
