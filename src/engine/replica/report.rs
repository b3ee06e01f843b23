//! How replicas stand, without asking them.

use std::collections::BTreeSet;
use std::ops::Bound;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::JournalThere;
use super::state::State;
use super::sync::pending;
use crate::backup::replica::{ChainsThere, Mode, Origin, is_sendable};
use crate::backup::{Backup, ReplicaName, timestamp};
use crate::engine::status::Warning;
use crate::engine::{Engine, Error};

/// A backup that isn't elsewhere after this long is worth a warning, whatever the reason.
const BEHIND: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// One that is newer than all there is, though it is being sent to: it takes too long.
const TOO_LONG: chrono::TimeDelta = chrono::TimeDelta::hours(24);

/// So much of the journal may lie here only.
const JOURNAL_BEHIND: chrono::TimeDelta = chrono::TimeDelta::minutes(10);

/// A replica, as it is known here.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Its name.
    pub name: ReplicaName,
    /// Where it is; credentials are never part of it.
    pub url: String,
    /// How it holds what it is sent.
    pub mode: Mode,
    /// What is sent is encrypted.
    pub encrypted: bool,
    /// Backups there that can be read by whoever holds it.
    #[schema(value_type = u64)]
    pub plain: usize,
    /// Somebody sends, or reads, just now.
    pub under_way: bool,
    /// Backups that it holds.
    #[schema(value_type = u64)]
    pub held: usize,
    /// Bytes that these take there.
    pub size: u64,
    /// How far these stand on each other; null where each stands by itself.
    #[schema(required = true)]
    pub chains: Option<ChainsThere>,
    /// Backups that are here and still to be sent.
    #[schema(value_type = u64)]
    pub pending: usize,
    /// The instant of the oldest of these.
    #[serde(serialize_with = "crate::engine::status::optional_timestamp")]
    #[schema(required = true)]
    pub pending_since: Option<DateTime<Utc>>,
    /// The instant of the first of these that is newer than all that are there.
    #[serde(skip)]
    pub newest_pending: Option<DateTime<Utc>>,
    /// When all was there that was wanted.
    #[serde(serialize_with = "crate::engine::status::optional_timestamp")]
    #[schema(required = true)]
    pub last_success: Option<DateTime<Utc>>,
    /// When every byte there was read back and was right.
    #[serde(serialize_with = "crate::engine::status::optional_timestamp")]
    #[schema(required = true)]
    pub last_verified: Option<DateTime<Utc>>,
    /// Backups found damaged there.
    #[schema(value_type = u64)]
    pub damaged: usize,
    /// What went wrong last, if nothing went well since.
    #[schema(required = true)]
    pub last_error: Option<LastError>,
    /// When it is tried again.
    #[serde(serialize_with = "crate::engine::status::optional_timestamp")]
    #[schema(required = true)]
    pub next_try: Option<DateTime<Utc>>,
    /// The journal there; null where none is kept.
    #[schema(required = true)]
    pub journal: Option<JournalThere>,
}

/// What went wrong.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LastError {
    /// When, the last time.
    #[serde(with = "timestamp")]
    pub at: DateTime<Utc>,
    /// Since when nothing went well.
    #[serde(with = "timestamp")]
    pub since: DateTime<Utc>,
    /// A stable word.
    pub code: String,
    /// What it was, and what to do.
    pub detail: String,
}

impl ReplicaStatus {
    /// It lacks something for longer than sending takes.
    pub fn is_behind(&self, now: DateTime<Utc>) -> bool {
        let is_idle = !self.under_way && self.pending_since.is_some_and(|since| now - since > BEHIND);
        is_idle || self.is_slow(now)
    }

    /// It is sent to, and not as fast as backups are taken.
    fn is_slow(&self, now: DateTime<Utc>) -> bool {
        self.under_way && self.newest_pending.is_some_and(|since| now - since > TOO_LONG)
    }
}

impl Engine {
    /// Each replica.
    pub fn replicas(&self) -> Result<Vec<ReplicaStatus>, Error> {
        let catalog = self.standing_catalog()?;
        let retention = self.settings()?.retention;
        let here: Vec<&Backup> = catalog.iter().flat_map(|catalog| catalog.standing()).collect();
        self.config
            .replicas
            .iter()
            .map(|(name, replica)| {
                let state = State::load(self.store.root(), name, &replica.place.identity())?;
                let lineage = catalog.as_ref().and_then(|catalog| catalog.lineage.as_deref());
                let decided = match replica.retention.is_empty() {
                    true => BTreeSet::new(),
                    false => state.decided(lineage, &replica.retention.over(&retention)),
                };
                let pending = pending(here.iter().copied(), &state, &decided);
                Ok(ReplicaStatus {
                    name: name.clone(),
                    url: replica.place.url().to_owned(),
                    mode: replica.mode,
                    encrypted: !self.config.codec.recipients.is_empty(),
                    plain: state.plain,
                    under_way: self.replicating(name).is_some(),
                    held: state.held.len(),
                    size: state.size,
                    chains: state.chains,
                    pending: pending.len(),
                    pending_since: pending.iter().map(|backup| backup.timestamp).min(),
                    newest_pending: newer_since(&pending, &here),
                    last_success: state.last_success,
                    last_verified: state.last_verified,
                    damaged: state.damaged.max(state.found_damaged.len()),
                    journal: self.journal_there(name, &state)?,
                    last_error: state.last_error,
                    next_try: state.next_try,
                })
            })
            .collect()
    }
}

/// Since when a backup waits that is newer than all that are there; where none is, the newest one counts.
fn newer_since(pending: &[&Backup], here: &[&Backup]) -> Option<DateTime<Utc>> {
    let origins = |of: &[&Backup]| -> BTreeSet<Origin> {
        of.iter().filter(|backup| is_sendable(backup)).map(|backup| Origin::of(backup)).collect()
    };
    let pending = origins(pending);
    match origins(here).difference(&pending).max() {
        None => pending.last().map(|newest| newest.timestamp),
        Some(there) => pending.range((Bound::Excluded(there), Bound::Unbounded)).next().map(|first| first.timestamp),
    }
}

/// What of it wants a look. `alive` is the first and the last instant that the journal here has.
pub(in crate::engine) fn warnings(
    replicas: &[ReplicaStatus],
    is_local: impl Fn(&ReplicaName) -> bool,
    alive: Option<(DateTime<Utc>, DateTime<Utc>)>,
    now: DateTime<Utc>,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for replica in replicas {
        warnings.extend(alive.and_then(|alive| behind(replica, alive)));
        let name = &replica.name;
        let mut warn = |code, detail| warnings.push(Warning { code, detail });
        if let Some(error) = &replica.last_error {
            let pending = match replica.pending {
                0 => "it lacks nothing that is known here".to_owned(),
                pending => format!("it lacks {pending} of the backups that are here"),
            };
            warn("replica-failing", format!("{}; {pending}", error.detail));
        } else if replica.is_behind(now) {
            let text = match replica.is_slow(now) {
                true => format!(
                    "replica {name} lacks backups that are newer than all it has for more than a day, though it is being sent to ({} to send); is the bandwidth enough?",
                    replica.pending
                ),
                false => format!(
                    "replica {name} lacks {} of the backups that are here, and none of it is under way; is `serve` running? `replica push {name}` sends them now",
                    replica.pending
                ),
            };
            warn("replica-behind", text);
        }
        if replica.damaged > 0 {
            let text = format!(
                "replica {name}: backups that were found damaged there: {}; what is whole here is sent again by itself; look at that store",
                replica.damaged
            );
            warn("replica-damaged", text);
        }
        if let Some(text) = damaged_journal(replica) {
            warn("replica-damaged", text);
        }
        if let Some(text) = plain(replica).filter(|_| !is_local(name)) {
            warn("replica-plain", text);
        }
    }
    warnings
}

/// What whoever holds it can read.
fn plain(replica: &ReplicaStatus) -> Option<String> {
    let name = &replica.name;
    if !replica.encrypted {
        return Some(format!(
            "what is sent to replica {name} can be read by whoever holds it; set BACKUP_ENCRYPTION_RECIPIENTS to what `keygen` prints"
        ));
    }
    let mut told = Vec::new();
    if replica.plain > 0 {
        told.push(format!(
            "{} of its backups; what is here is sent again by itself, the others go by rotation",
            replica.plain
        ));
    }
    if let Some(journal) = replica.journal.as_ref().filter(|journal| journal.plain > 0) {
        let until =
            journal.plain_until.map_or_else(String::new, |at| format!(", by {} at the latest", timestamp::text(at)));
        told.push(format!(
            "{} objects of its journal; they go as the window moves on{until}, or now if you remove those below journal/ there whose names have \
             no .age, and most of the instants before this with them",
            journal.plain
        ));
    }
    let text = "is from before encryption was turned on and can be read by whoever holds it";
    (!told.is_empty()).then(|| format!("what lies in replica {name} {text}, in part: {}", told.join("; and ")))
}

/// What of the journal there isn't what was sent.
fn damaged_journal(replica: &ReplicaStatus) -> Option<String> {
    let (name, journal) = (&replica.name, replica.journal.as_ref().filter(|journal| journal.damaged > 0)?);
    let mut text = format!("replica {name}: {} objects of its journal were found damaged there", journal.damaged);
    match (journal.lost, &journal.unmended) {
        (0, None) => text += "; what is whole here is sent again by itself, look at that store",
        (0, Some(_)) => {}
        (lost, _) => {
            text += &format!(
                "; {lost} of them can't be sent again, for what they held is whole here no more: instants that need them can't be had from \
                 there until the window has moved past them; where that store keeps older versions, bring these back, and run `replica verify \
                 {name}`"
            );
        }
    }
    if let Some(reason) = &journal.unmended {
        text += &format!("; {reason}; it is tried again every hour");
    }
    Some(text)
}

/// The journal there lacks what is here for longer than sending takes.
fn behind(replica: &ReplicaStatus, (from, to): (DateTime<Utc>, DateTime<Utc>)) -> Option<Warning> {
    let (name, journal) = (&replica.name, replica.journal.as_ref()?);
    if to - journal.until.unwrap_or(from) <= JOURNAL_BEHIND {
        return None;
    }
    let until = match journal.until {
        Some(until) => format!("ends at {}", timestamp::text(until)),
        None => "is not there yet".to_owned(),
    };
    let why = match (&journal.last_error, &replica.last_error) {
        (Some(error), _) | (None, Some(error)) => error.detail.clone(),
        (None, None) => "nothing failed; is `serve` running, and is the bandwidth enough?".to_owned(),
    };
    let detail = format!("the journal in replica {name} {until}, and what came since lies here only: {why}");
    Some(Warning { code: "replica-journal-behind", detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Tier;
    use crate::backup::sample::backup;

    /// A backlog that is sent is none: it is the newest one that counts.
    #[test]
    fn the_newest_is_missed_after_a_day_also_where_it_is_sent() {
        let of = |number: u64| backup(number, Tier::Daily, "2026-01-08".parse().unwrap());
        let here = [of(1), of(2)];
        let here: Vec<&Backup> = here.iter().collect();
        assert_eq!(newer_since(&here, &here), Some(here[1].timestamp));
        assert_eq!(newer_since(&here[..1], &here), None);
        assert_eq!(newer_since(&here[1..], &here), Some(here[1].timestamp));
        // The next one that comes makes it no younger.
        let three = [here[0], here[1], &of(3)];
        assert_eq!(newer_since(&three[1..], &three), Some(here[1].timestamp));
        let at = here[1].timestamp;
        let replica = |under_way, newest_pending| ReplicaStatus {
            name: "offsite".parse().unwrap(),
            url: "fs:///mnt".to_owned(),
            mode: Mode::Full,
            encrypted: true,
            plain: 0,
            under_way,
            held: 0,
            size: 0,
            chains: None,
            pending: 2,
            pending_since: Some(at),
            newest_pending,
            last_success: None,
            last_verified: None,
            damaged: 0,
            last_error: None,
            next_try: None,
            journal: None,
        };
        let told = |replica, hours| {
            let told = warnings(&[replica], |_| false, None, at + chrono::TimeDelta::hours(hours));
            told.into_iter().map(|warning| warning.detail).collect::<Vec<_>>()
        };
        assert!(told(replica(true, Some(at)), 24).is_empty() && told(replica(true, None), 99).is_empty());
        assert!(told(replica(true, Some(at)), 25)[0].contains("bandwidth"));
        assert!(told(replica(false, Some(at)), 25)[0].contains("none of it is under way"));
    }
}
