//! What is remembered here of the journal in a replica: `replicas/<name>-journal.json`. Only `serve` sends, so only it writes this.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::backup::replica::Nonce;
use crate::backup::{DatabaseName, ReplicaName};
use crate::disk;
use crate::engine::Error;
use crate::engine::replica::report::LastError;
use crate::engine::replica::state::{FOLDER, optional, read, write};
use crate::journal::until::Lasted;

/// Larger ones are none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// What is remembered.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Remembered {
    /// Where it was: of another place nothing is known.
    place: String,
    /// Of which lineage.
    pub(super) lineage: Option<Nonce>,
    /// The first instant that can be had from there.
    #[serde(with = "optional")]
    pub(super) from: Option<DateTime<Utc>>,
    /// The last one.
    #[serde(with = "optional")]
    pub(super) until: Option<DateTime<Utc>>,
    /// The one that may have been written since.
    #[serde(with = "optional")]
    pub(super) writing: Option<DateTime<Utc>>,
    /// How long states of each database were known to be the newest, when that was written last.
    pub(super) lasted: BTreeMap<DatabaseName, Vec<Lasted>>,
    /// Keys of what was begun and not yet read back.
    pub(super) sending: BTreeSet<String>,
    /// Keys of packs that were found damaged there and can't be sent again, for what they hold lies here no more.
    pub(super) lost: BTreeSet<String>,
    /// Packs there that can be read by whoever holds it, when that was last looked at.
    pub(super) plain: u64,
    /// The last instant in these.
    #[serde(with = "optional")]
    pub(super) plain_to: Option<DateTime<Utc>>,
    /// What went wrong last with the newest seconds, if nothing went well since.
    pub(super) last_error: Option<LastError>,
    /// The same with snapshots and larger steps.
    pub(super) last_error_of_larger: Option<LastError>,
    /// The same with what was found damaged there and is to be sent again.
    pub(super) last_error_of_mending: Option<LastError>,
}

/// The journal in a replica, as it is known here.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalThere {
    /// The first instant that can be restored from there.
    #[serde(serialize_with = "crate::engine::status::optional_timestamp")]
    #[schema(required = true)]
    pub from: Option<DateTime<Utc>>,
    /// The last one; nothing before the first whole snapshot is there.
    #[serde(serialize_with = "crate::engine::status::optional_timestamp")]
    #[schema(required = true)]
    pub until: Option<DateTime<Utc>>,
    /// Objects of it that can be read by whoever holds it.
    pub plain: u64,
    /// The last of these goes then at the latest.
    #[serde(serialize_with = "crate::engine::status::optional_timestamp")]
    #[schema(required = true)]
    pub plain_until: Option<DateTime<Utc>>,
    /// Objects of it that were found damaged there and are so still.
    #[schema(value_type = u64)]
    pub damaged: usize,
    /// How many of these can't be sent again, for what they hold lies here no more.
    #[schema(value_type = u64)]
    pub lost: usize,
    /// What went wrong last, if nothing went well since.
    #[schema(required = true)]
    pub last_error: Option<LastError>,
    /// Why damaged ones can't be sent again that are here still.
    #[serde(skip)]
    pub unmended: Option<String>,
}

impl JournalThere {
    /// With the keys of packs that were found damaged. What an instant needs goes so long after it at the latest.
    pub(super) fn of(remembered: Remembered, damaged: &BTreeSet<String>, kept: TimeDelta) -> Self {
        let lost = remembered.lost.intersection(damaged).count();
        let Remembered { from, until, plain, plain_to, .. } = remembered;
        let plain_until = plain_to.and_then(|to| to.checked_add_signed(kept));
        let Remembered { last_error, last_error_of_larger, last_error_of_mending, .. } = remembered;
        let unmended = last_error_of_mending.as_ref().map(|error| error.detail.clone());
        let last_error = last_error.or(last_error_of_larger).or(last_error_of_mending);
        Self { from, until, plain, plain_until, damaged: damaged.len(), lost, last_error, unmended }
    }
}

impl Remembered {
    fn path(root: &Path, name: &ReplicaName) -> PathBuf {
        root.join(FOLDER).join(format!("{name}-journal.json"))
    }

    /// One that isn't there or can't be read is a new one.
    pub(super) fn load(root: &Path, name: &ReplicaName, place: &str) -> Result<Self, Error> {
        let read: Option<Self> = read(&Self::path(root, name), MAX_BYTES)?;
        let new = || Self { place: place.to_owned(), ..Self::default() };
        Ok(read.filter(|remembered| remembered.place == place).unwrap_or_else(new))
    }

    /// Durable when it returns.
    pub(super) fn save(&self, root: &Path, name: &ReplicaName) -> Result<(), Error> {
        disk::make_own_dir(&root.join(FOLDER))?;
        write(&Self::path(root, name), self)
    }

    /// Of another lineage nothing is known but what was begun.
    pub(super) fn is_of(&mut self, lineage: Nonce) {
        if self.lineage != Some(lineage) {
            (self.lineage, self.from, self.until, self.writing) = (Some(lineage), None, None, None);
            self.lasted.clear();
        }
    }
}
