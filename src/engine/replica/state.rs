//! What is known here of a replica without asking it: `replicas/<name>.json` in the backup directory. It is no truth about the
//! replica, but for what this directory wrote there last: who writes over another's catalog would destroy that one's backups.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::report::LastError;
use crate::backup::replica::Origin;
use crate::backup::{ReplicaName, hex};
use crate::disk::{self, Context};
use crate::engine::Error;

/// Below the backup directory.
pub(super) const FOLDER: &str = "replicas";
/// Larger ones are none of ours.
const MAX_BYTES: u64 = 64 << 20;
/// After the first failure.
const FIRST: Duration = Duration::from_secs(60);
/// After many.
const LONGEST: Duration = Duration::from_secs(3600);

/// Which catalog of a replica: its generation and the SHA-256 of its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) generation: u64,
    pub(super) checksum: String,
}

/// What is remembered.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct State {
    /// Where it was: of another place nothing is known.
    pub(super) url: String,
    /// This directory's name in leases.
    pub(super) writer: String,
    /// The catalog that was written last.
    pub(super) written: Option<Mark>,
    /// The one that may have been written since.
    pub(super) writing: Option<Mark>,
    /// What was here when all was done that was planned.
    pub(super) known: BTreeSet<Origin>,
    /// What the replica holds.
    pub(super) held: BTreeSet<Origin>,
    /// Bytes there.
    pub(super) size: u64,
    /// What was wanted when all was done, as a digest.
    pub(super) done: String,
    /// Found damaged there.
    pub(super) damaged: BTreeSet<Origin>,
    #[serde(with = "optional")]
    pub(super) last_success: Option<DateTime<Utc>>,
    #[serde(with = "optional")]
    pub(super) last_verified: Option<DateTime<Utc>>,
    /// In a row.
    pub(super) failures: u32,
    #[serde(with = "optional")]
    pub(super) next_try: Option<DateTime<Utc>>,
    pub(super) last_error: Option<LastError>,
}

impl State {
    pub(super) fn path(root: &Path, name: &ReplicaName) -> PathBuf {
        root.join(FOLDER).join(format!("{name}.json"))
    }

    /// One that isn't there or can't be read is a new one.
    pub(super) fn load(root: &Path, name: &ReplicaName, url: &str) -> Result<Self, Error> {
        let path = Self::path(root, name);
        let read = match disk::open_regular(&path) {
            Err(error) if error.is_missing() => None,
            file => {
                let mut bytes = Vec::new();
                file?.take(MAX_BYTES).read_to_end(&mut bytes).to("read", &path)?;
                let parsed = serde_json::from_slice::<Self>(&bytes);
                parsed
                    .inspect_err(
                        |error| tracing::warn!(path = %path.display(), %error, "it can't be read; a new one is made"),
                    )
                    .ok()
            }
        };
        Ok(read.filter(|state| state.url == url).unwrap_or_else(|| Self { url: url.to_owned(), ..Self::default() }))
    }

    /// Durable when it returns.
    pub(super) fn save(&self, root: &Path, name: &ReplicaName) -> Result<(), Error> {
        let path = Self::path(root, name);
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        Ok(disk::write_durable(&path, &bytes)?)
    }

    /// This directory's name in leases, made when it is first wanted.
    pub(super) fn writer(&mut self) -> Result<String, Error> {
        if self.writer.is_empty() {
            self.writer = hex(&disk::random::<16>()?);
        }
        Ok(self.writer.clone())
    }

    pub(super) fn succeeded(&mut self, now: DateTime<Utc>) {
        (self.last_success, self.failures, self.next_try, self.last_error) = (Some(now), 0, None, None);
    }

    pub(super) fn failed(&mut self, now: DateTime<Utc>, error: &Error, chance: u8) {
        self.failures = self.failures.saturating_add(1);
        self.next_try = Some(now + pause(self.failures, chance));
        let since = self.last_error.as_ref().map_or(now, |last| last.since);
        self.last_error = Some(LastError { at: now, since, code: error.code().to_owned(), detail: error.to_string() });
    }

    /// Not yet. A clock that went back makes nobody wait for longer than a pause.
    pub(super) fn waits(&self, now: DateTime<Utc>) -> bool {
        self.next_try
            .is_some_and(|next| now < next && next - now <= chrono::TimeDelta::seconds(2 * LONGEST.as_secs() as i64))
    }
}

/// How long to wait after so many failures: twice as long each time, up to an hour, and up to a quarter more or less by chance, so
/// that many don't come back at once.
fn pause(failures: u32, chance: u8) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST);
    doubled.mul_f64(0.75 + f64::from(chance) / 510.0)
}

/// An instant as the formats have it, or none.
mod optional {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::backup::timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => timestamp::serialize(at, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
        Option::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_differ() {
        let minutes = |failures| [0, 255].map(|chance| pause(failures, chance).as_secs_f64() / 60.0);
        assert_eq!(minutes(1), [0.75, 1.25]);
        assert_eq!(minutes(2), [1.5, 2.5]);
        assert_eq!(minutes(7), [45.0, 75.0]);
        assert_eq!(minutes(u32::MAX), [45.0, 75.0]);
    }

    #[test]
    fn a_clock_that_went_back_makes_nobody_wait() {
        let now: DateTime<Utc> = "2026-01-08T01:00:00Z".parse().unwrap();
        let state = State { next_try: Some(now), ..State::default() };
        assert!(state.waits(now - chrono::TimeDelta::minutes(5)) && !state.waits(now));
        assert!(!state.waits(now - chrono::TimeDelta::days(1)));
    }
}
