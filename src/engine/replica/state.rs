//! What is known here of a replica without asking it: `replicas/<name>.json` in the backup directory. It is no truth about the
//! replica, but for what this directory wrote there last: who writes over another's catalog would destroy that one's backups.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::report::LastError;
use crate::backup::replica::{Chains, ChainsThere, Held, HeldDatabase, Nonce, Origin, Remnant};
use crate::backup::retention::Retention;
use crate::backup::{DatabaseName, ReplicaName, hex, timestamp};
use crate::disk::{self, Context};
use crate::engine::Error;
use crate::engine::permit::host;

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

/// The journal of this directory, as it is known there: it is another one when any of this differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct OwnJournal {
    pub(super) lineage: Nonce,
    /// This directory's name in leases.
    pub(super) writer: String,
    /// What this directory is called whatever the machine is called: a container that is made anew gets another name.
    #[serde(default)]
    pub(super) directory: String,
    /// That of the journal in it.
    pub(super) id: String,
}

/// What goes wrong again and again.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trouble {
    /// In a row.
    failures: u32,
    #[serde(with = "timestamp")]
    next_try: DateTime<Utc>,
    pub(super) error: LastError,
}

/// What is remembered.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct State {
    /// Where it was: of another place nothing is known.
    place: String,
    /// Half of this directory's name in leases; the other half is where it lies, which no copy has.
    secret: String,
    /// The catalog that was written last.
    pub(super) written: Option<Mark>,
    /// The one that may have been written since.
    pub(super) writing: Option<Mark>,
    /// What that one names that was sent for it: known once it is there.
    coming: Option<Origin>,
    /// What its journal is called there, once the catalog names it.
    pub(super) journal: Option<OwnJournal>,
    /// Why its catalog couldn't be made to name the journal, if it can't be.
    pub(super) journal_trouble: Option<Trouble>,
    /// What was here and there at once, or here when all was done that was planned.
    known: BTreeSet<Origin>,
    /// By which lineage of the catalog here.
    lineage: Option<String>,
    /// By which retention, where the replica has its own.
    retention: Option<Retention>,
    /// What the replica holds.
    pub(super) held: BTreeSet<Origin>,
    /// Bytes there.
    pub(super) size: u64,
    /// How many of these can be read by whoever holds it.
    pub(super) plain: usize,
    /// How many of these are damaged there, as its catalog says.
    pub(super) damaged: usize,
    /// How far these stand on each other.
    pub(super) chains: Option<ChainsThere>,
    /// Found damaged there, and its catalog doesn't say so yet.
    pub(super) found_damaged: BTreeSet<Origin>,
    /// Which of their databases, where it isn't the entry.
    pub(super) found_databases: BTreeSet<(Origin, DatabaseName)>,
    /// Found whole there, though its catalog says that it is damaged.
    pub(super) found_whole: BTreeSet<Origin>,
    /// Packs of the journal found damaged there: those that are here still are sent again.
    pub(super) damaged_packs: BTreeSet<String>,
    /// How many remnants a run had when it was last looked at whether it pays to be rid of it, by the sequence of its oldest.
    pub(super) collapsing: BTreeMap<u64, usize>,
    /// What was wanted when all was done, as a digest.
    pub(super) done: String,
    #[serde(with = "optional")]
    pub(super) last_success: Option<DateTime<Utc>>,
    #[serde(with = "optional")]
    pub(super) last_verified: Option<DateTime<Utc>>,
    /// In a row.
    failures: u32,
    #[serde(with = "optional")]
    pub(super) next_try: Option<DateTime<Utc>>,
    pub(super) last_error: Option<LastError>,
}

/// What is remembered in a file of at most so many bytes; nothing where it isn't there or can't be read.
pub(super) fn read<T: DeserializeOwned>(path: &Path, most: u64) -> Result<Option<T>, Error> {
    let file = match disk::open_regular(path) {
        Err(error) if error.is_missing() => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).to("read", path)?;
    let told = |error: &serde_json::Error| {
        tracing::warn!(path = %path.display(), %error, "it can't be read; a new one is made");
    };
    Ok(serde_json::from_slice(&bytes).inspect_err(told).ok())
}

/// Remembers it. Durable when it returns.
pub(super) fn write(path: &Path, remembered: &impl Serialize) -> Result<(), Error> {
    let mut bytes = serde_json::to_vec_pretty(remembered).unwrap_or_default();
    bytes.push(b'\n');
    Ok(disk::write_durable(path, &bytes)?)
}

impl State {
    fn path(root: &Path, name: &ReplicaName) -> PathBuf {
        root.join(FOLDER).join(format!("{name}.json"))
    }

    /// One that isn't there or can't be read is a new one.
    pub(super) fn load(root: &Path, name: &ReplicaName, place: &str) -> Result<Self, Error> {
        let read: Option<Self> = read(&Self::path(root, name), MAX_BYTES)?;
        let new = || Self { place: place.to_owned(), ..Self::default() };
        Ok(read.filter(|state| state.place == place).unwrap_or_else(new))
    }

    /// Where it was.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Durable when it returns.
    pub(super) fn save(&self, root: &Path, name: &ReplicaName) -> Result<(), Error> {
        write(&Self::path(root, name), self)
    }

    /// This directory's name in leases, which a copy of it has not: another machine, or another place on this one.
    pub(super) fn writer(&mut self, root: &Path) -> Result<String, Error> {
        self.called(root, &host())
    }

    /// The same whatever the machine is called. The copy of a whole disk has it too.
    pub(super) fn directory(&mut self, root: &Path) -> Result<String, Error> {
        self.called(root, "")
    }

    fn called(&mut self, root: &Path, host: &str) -> Result<String, Error> {
        if self.secret.is_empty() {
            self.secret = hex(&disk::random::<16>()?);
        }
        let folder = root.join(FOLDER);
        let inode = folder.metadata().to("look at", &folder)?.ino();
        let name = Sha256::digest(format!("{}\n{host}\n{inode}", self.secret));
        Ok(hex(&name[..16]))
    }

    /// What the replica's catalog says.
    pub(super) fn holds(&mut self, backups: &[Held], remnants: &[Remnant]) {
        let unsound = Chains::of(backups, remnants).unsound();
        let sizes = backups.iter().map(Held::size).chain(remnants.iter().map(Remnant::size));
        self.held = backups.iter().map(|held| held.origin).collect();
        self.chains = ChainsThere::of(backups, remnants);
        self.size = sizes.fold(0, u64::saturating_add);
        self.plain = backups.iter().filter(|held| !held.entry.encrypted).count();
        self.damaged = backups.iter().filter(|held| unsound.contains(&held.origin)).count();
    }

    /// What was found of the databases of a backup, or of what is left of it.
    pub(super) fn mark(&self, origin: Origin, databases: &mut BTreeMap<DatabaseName, HeldDatabase>) {
        for (name, it) in databases {
            let is_found = self.found_databases.contains(&(origin, name.clone()));
            it.damaged = is_found || it.damaged && !self.found_whole.contains(&origin);
        }
    }

    /// The catalog there says of it what there is to say.
    pub(super) fn found_is_told(&mut self) {
        self.found_damaged.clear();
        self.found_databases.clear();
        self.found_whole.clear();
    }

    /// What was known of a replica that is empty now, or another's.
    pub(super) fn forget(&mut self) {
        (self.journal, self.journal_trouble) = (None, None);
        (self.coming, self.known) = (None, BTreeSet::new());
        self.found_is_told();
        self.collapsing.clear();
        self.holds(&[], &[]);
    }

    /// All is done that was wanted of what is here.
    pub(super) fn is_done(
        &mut self,
        here: BTreeSet<Origin>,
        lineage: Option<&str>,
        retention: Retention,
        digest: &str,
    ) {
        self.known = here;
        self.lineage = lineage.map(str::to_owned);
        self.retention = Some(retention);
        digest.clone_into(&mut self.done);
    }

    /// What is there, and was here when it was looked at, is known whatever becomes of the plan: it goes there when it goes here.
    pub(super) fn was_here(&mut self, both: impl Iterator<Item = Origin>, lineage: Option<&str>) {
        if self.lineage.as_deref() != lineage {
            self.known.clear();
            self.lineage = lineage.map(str::to_owned);
        }
        self.known.extend(both);
    }

    /// That catalog is about to be written, perhaps for a backup that was sent. This isn't known before: what is known and not there was
    /// dropped there, where the replica has a retention of its own.
    pub(super) fn writes(&mut self, mark: Mark, sent: Option<Origin>) {
        (self.writing, self.coming) = (Some(mark), sent);
    }

    /// That catalog is there.
    pub(super) fn has_written(&mut self, mark: Option<Mark>) {
        let coming = self.coming.take();
        if self.writing == mark {
            self.known.extend(coming);
        }
        (self.written, self.writing) = (mark, None);
    }

    /// What was here then. A catalog that was made anew since names other backups, and has deleted none.
    pub(super) fn known(&self, lineage: Option<&str>) -> BTreeSet<Origin> {
        if self.lineage.as_deref() == lineage { self.known.clone() } else { BTreeSet::new() }
    }

    /// The same as far as a retention of the replica's own has decided on it.
    pub(super) fn decided(&self, lineage: Option<&str>, retention: &Retention) -> BTreeSet<Origin> {
        if self.retention.as_ref() == Some(retention) { self.known(lineage) } else { BTreeSet::new() }
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

    /// Its journal couldn't be seen to; backups aren't held up by that.
    pub(super) fn journal_failed(&mut self, now: DateTime<Utc>, error: &Error, chance: u8) {
        let before = self.journal_trouble.take();
        let failures = before.as_ref().map_or(0, |before| before.failures).saturating_add(1);
        let since = before.map_or(now, |before| before.error.since);
        let error = LastError { at: now, since, code: error.code().to_owned(), detail: error.to_string() };
        self.journal_trouble = Some(Trouble { failures, next_try: now + pause(failures, chance), error });
    }

    /// Not yet.
    pub(super) fn waits(&self, now: DateTime<Utc>) -> bool {
        self.next_try.is_some_and(|next| is_before(now, next))
    }

    /// Whether its journal is to be seen to: it lacks something, or that went wrong before and is tried again now.
    pub(super) fn wants_journal(&self, lacks: impl FnOnce() -> bool, now: DateTime<Utc>) -> bool {
        match &self.journal_trouble {
            Some(trouble) => !is_before(now, trouble.next_try),
            None => lacks(),
        }
    }
}

/// A clock that went back makes nobody wait for longer than a pause.
fn is_before(now: DateTime<Utc>, next: DateTime<Utc>) -> bool {
    let longest = TimeDelta::seconds(2 * LONGEST.as_secs() as i64);
    now < next && next - now <= longest
}

/// How long to wait after so many failures: twice as long each time, up to an hour, and up to a quarter more or less by chance, so
/// that many don't come back at once.
fn pause(failures: u32, chance: u8) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST);
    doubled.mul_f64(0.75 + f64::from(chance) / 510.0)
}

/// An instant as the formats have it, or none.
pub(super) mod optional {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::backup::timestamp;

    pub(in crate::engine::replica) fn serialize<S: Serializer>(
        at: &Option<DateTime<Utc>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => timestamp::serialize(at, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::engine::replica) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DateTime<Utc>>, D::Error> {
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
        assert!(state.waits(now - TimeDelta::minutes(5)) && !state.waits(now));
        assert!(!state.waits(now - TimeDelta::days(1)));
    }

    #[test]
    fn trouble_with_the_journal_is_tried_again_ever_later() {
        let now: DateTime<Utc> = "2026-01-08T01:00:00Z".parse().unwrap();
        let (mut state, error) = (State::default(), Error::BadPlace { problem: "it may not be listed".to_owned() });
        let wants = |state: &State, seconds| state.wants_journal(|| true, now + TimeDelta::seconds(seconds));
        assert!(wants(&state, 0) && !state.wants_journal(|| false, now));
        for (seconds, later) in [(59, 60), (119, 120), (239, 240)] {
            state.journal_failed(now, &error, 127);
            assert!(!wants(&state, seconds) && wants(&state, later + 1), "{state:?}");
        }
        assert!(!state.waits(now) && state.last_error.is_none(), "backups don't wait for it");
        assert!(state.wants_journal(|| false, now + TimeDelta::hours(1)), "until it is known to be well");
    }

    /// Ended between the catalog there and what is remembered of it, whichever of the two came to be.
    #[test]
    fn what_was_sent_is_known_with_the_catalog_that_names_it() {
        let mark = |generation| Mark { generation, checksum: String::new() };
        let origin = Origin { sequence: 1, timestamp: "2026-01-08T01:00:00Z".parse().unwrap() };
        for (there, known) in [(1, 0), (2, 1)] {
            let mut state = State { written: Some(mark(1)), ..State::default() };
            state.writes(mark(2), Some(origin));
            assert!(state.known(None).is_empty());
            let mut state: State = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
            state.has_written(Some(mark(there)));
            assert_eq!((state.known(None).len(), state.written, state.writing), (known, Some(mark(there)), None));
            assert_eq!(state.coming, None);
        }
    }

    #[test]
    fn a_catalog_made_anew_has_deleted_nothing() {
        let origin = Origin { sequence: 1, timestamp: "2026-01-08T01:00:00Z".parse().unwrap() };
        let (mut state, seven) = (State::default(), Retention::default());
        state.is_done([origin].into(), Some("a"), seven, "");
        assert_eq!(state.known(Some("a")).len(), 1);
        assert!(state.known(Some("b")).is_empty() && state.known(None).is_empty());
        assert!(state.decided(Some("a"), &Retention { daily: 8, ..seven }).is_empty());
        assert_eq!(state.decided(Some("a"), &seven).len(), 1);
    }
}
