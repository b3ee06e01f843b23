//! What a replication did.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{details, ids};
use crate::backup::{BackupId, ReplicaName};
use crate::engine::Error;

/// What a replication did.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replicated {
    /// Sent, and read back from there.
    pub sent: Vec<BackupId>,
    /// Dropped there.
    pub dropped: Vec<BackupId>,
    /// Leftovers of something that was cut short, removed.
    pub removed: Vec<String>,
    /// Objects that were gone or had another length: what they belong to is sent again.
    pub lost: Vec<String>,
    /// Sent again, so that what was dropped before them could go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remade: Vec<BackupId>,
    /// Bytes sent.
    pub bytes: u64,
    /// What could not be sent, and why; the others were.
    pub not_sent: Vec<NotSent>,
    /// What is here has changed since it was planned: it is planned anew.
    #[serde(skip)]
    pub(super) is_overtaken: bool,
}

/// A backup that could not be sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NotSent {
    /// Which.
    pub id: BackupId,
    /// Why.
    pub reason: String,
}

impl Replicated {
    /// And then what the next plan did, which tries again what this one couldn't send.
    pub(super) fn and(mut self, next: Self) -> Self {
        self.sent.extend(next.sent);
        self.dropped.extend(next.dropped);
        self.removed.extend(next.removed);
        self.lost.extend(next.lost);
        self.remade.extend(next.remade);
        self.bytes += next.bytes;
        Self { not_sent: next.not_sent, is_overtaken: next.is_overtaken, ..self }
    }

    /// All came that was to come.
    pub(super) fn is_all(&self) -> bool {
        self.not_sent.is_empty() && !self.is_overtaken
    }

    pub(super) fn details(&self, name: &ReplicaName) -> Map<String, Value> {
        let mut told = details([
            ("replica", name.to_string().into()),
            ("sent", ids(&self.sent)),
            ("dropped", ids(&self.dropped)),
            ("bytes", self.bytes.into()),
        ]);
        if !self.remade.is_empty() {
            told.insert("remade".to_owned(), ids(&self.remade));
        }
        for (key, list) in [("removed", &self.removed), ("lost", &self.lost)] {
            if !list.is_empty() {
                // Anyone who can write there can make it long.
                told.insert(key.to_owned(), list.iter().take(100).cloned().collect::<Vec<_>>().into());
            }
        }
        told
    }
}

impl NotSent {
    /// As an error of the whole.
    pub fn error(&self, name: &ReplicaName) -> Error {
        Error::NotSent { reason: format!("{} could not be sent to the replica `{name}`: {}", self.id, self.reason) }
    }
}
