//! A replica to which this directory may write: by its lease, and its catalogs one after the other.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use super::Target;
use super::journal::Left;
use super::site::{MAX_CATALOG, Site};
use super::state::{Mark, OwnJournal, State};
use crate::backup::replica::{
    CATALOGS, Held, HeldJournal, LEASE, Lease, Origin, Remnant, ReplicaCatalog, catalog_key, is_unfinished_catalog,
    parse_catalog_key, remnants,
};
use crate::backup::retention::Retention;
use crate::backup::{BackupId, ReplicaName, hex, timestamp};
use crate::engine::permit::host;
use crate::engine::{Engine, Error};
use crate::remote::Pace;
use crate::sqlite::Control;

/// Larger leases are none.
const MAX_LEASE: u64 = 64 << 10;
/// How long a lease counts.
const LEASE_TIME: TimeDelta = TimeDelta::minutes(15);
/// How old it becomes before it is renewed.
const RENEWAL: TimeDelta = TimeDelta::minutes(4);
/// How long a store may take to let a lease go: it ends by itself.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A replica that this directory may write to.
pub(super) struct Writable<'e> {
    pub(super) engine: &'e Engine,
    pub(super) name: ReplicaName,
    pub(super) site: Site,
    pub(super) state: State,
    pub(super) store_id: String,
    /// The catalog there is another's, which has to find out by ours.
    pub(super) is_others: bool,
    /// The catalog that counts is not the last: what it doesn't name may be what that one did.
    pub(super) keeps_leftovers: bool,
    /// The journals that the next catalog is to name, and which of them is this directory's.
    pub(super) journals: Vec<HeldJournal>,
    pub(super) journal: Option<OwnJournal>,
    /// What was there of that one, where this directory goes on with it under another name.
    pub(super) left: Option<Left>,
    /// Copies here that have turned out to read badly.
    pub(super) doubted: BTreeSet<BackupId>,
    /// The catalog before the one that counts names nothing that this one doesn't: what neither names may go.
    is_settled: bool,
    lease: Option<Lease>,
}

impl<'e> Writable<'e> {
    /// Steps 1 and 2 of a replication but for the lease.
    pub(super) fn of(
        engine: &'e Engine,
        name: &ReplicaName,
        site: Site,
        mut state: State,
        store_id: &str,
        take_over: bool,
    ) -> Result<Self, Error> {
        let (at, name, store_id) = (site.link.label(), name.clone(), store_id.to_owned());
        let mut is_others = false;
        let written = state.written.as_ref().map(|mark| catalog_key(mark.generation, &mark.checksum));
        let torn = written.filter(|key| site.torn.contains(key));
        if let (Some(key), false) = (&torn, take_over) {
            return Err(site.link.damaged(format!(
                "{key}, which was written last and was whole, is so no more: bring it back from the store's older versions, or go on \
                 with the one before: `replica push {name} --take-over`"
            )));
        }
        match &site.catalog {
            Some(catalog) if catalog.store_id != store_id => {
                let theirs = catalog.store_id.clone();
                return Err(Error::ReplicaForeign { at, name, theirs, ours: store_id, backups: catalog.backups.len() });
            }
            Some(catalog) => {
                is_others =
                    [&state.written, &state.writing].into_iter().flatten().all(|ours| Some(ours) != site.mark.as_ref());
                if is_others && !take_over {
                    let (host, when) = (plain(&catalog.host), timestamp::text(catalog.written_at));
                    return Err(Error::ReplicaTakenOver { at, name, host, when, wrote: state.written.is_some() });
                }
            }
            None if state.written.is_some() && !take_over => return Err(Error::ReplicaEmptied { at, name }),
            None => {}
        }
        if is_others || site.catalog.is_none() {
            state.forget();
        } else {
            state.has_written(site.mark.clone());
        }
        state.holds(site.backups(), site.remnants());
        let keeps_leftovers = torn.is_some();
        let (journals, journal) = (site.journals().to_vec(), state.journal.clone());
        Ok(Self {
            engine,
            name,
            site,
            state,
            store_id,
            is_others,
            keeps_leftovers,
            journals,
            journal,
            left: None,
            doubted: BTreeSet::new(),
            is_settled: false,
            lease: None,
        })
    }

    pub(super) fn save(&self) -> Result<(), Error> {
        self.state.save(self.engine.store.root(), &self.name)
    }

    /// Takes the lease, or renews it when that is due.
    pub(super) fn hold(&mut self, take_over: bool) -> Result<(), Error> {
        let now = self.engine.clock.now();
        if self.lease.as_ref().is_some_and(|lease| (now - lease.at).abs() < RENEWAL) {
            return Ok(());
        }
        let writer = self.state.writer(self.engine.store.root())?;
        let theirs = self.lease_there()?.filter(|lease| lease.writer != writer && lease.is_in_force(now));
        if let Some(theirs) = theirs.filter(|_| !take_over) {
            return Err(self.held(&theirs));
        }
        let lease = Lease { store_id: self.store_id.clone(), writer, host: host(), at: now, until: now + LEASE_TIME };
        let bytes = serde_json::to_vec_pretty(&lease).unwrap_or_default();
        self.site.link.at(self.site.link.remote.put(LEASE, &bytes))?;
        match self.lease_there()? {
            Some(there) if there.writer != lease.writer => Err(self.held(&there)),
            _ => {
                self.lease = Some(lease);
                Ok(())
            }
        }
    }

    /// Gives it back, also when all else was to stop; that it can't be is no failure.
    pub(super) fn let_go(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let target = &self.site.link.target;
        let pace = Pace { timeout: target.pace.timeout.min(LAST_WORDS), ..target.pace.clone() };
        let target = Target { pace, ..target.clone() };
        let given_back = target.remote(&Control::default()).and_then(|remote| {
            let there = remote.get(LEASE, MAX_LEASE).map_err(|error| target.failed(error))?;
            match there.and_then(|bytes| serde_json::from_slice::<Lease>(&bytes).ok()) {
                Some(there) if there.writer == lease.writer => {
                    remote.delete(LEASE).map_err(|error| target.failed(error))
                }
                _ => Ok(()),
            }
        });
        if let Err(error) = given_back {
            tracing::debug!(replica = %self.name, %error, "the lease is left to end by itself");
        }
    }

    /// Takes back a lease of this very directory that something cut short has left.
    pub(super) fn take_back(&mut self) -> Result<(), Error> {
        let writer = self.state.writer(self.engine.store.root())?;
        match self.lease_there()? {
            Some(lease) if self.lease.is_none() && lease.writer == writer => {
                self.site.link.at(self.site.link.remote.delete(LEASE))
            }
            _ => Ok(()),
        }
    }

    fn lease_there(&self) -> Result<Option<Lease>, Error> {
        let bytes = self.site.link.at(self.site.link.remote.get(LEASE, MAX_LEASE))?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn held(&self, lease: &Lease) -> Error {
        let (at, name) = (self.site.link.label(), self.name.clone());
        Error::ReplicaHeld { at, name, host: plain(&lease.host), until: timestamp::text(lease.until) }
    }

    /// Nobody has written a catalog since this one was read: a lease is a promise among clocks, and this is looked at. And it is still
    /// there. What was never written to its end is removed.
    pub(super) fn assert_unchanged(&self) -> Result<(), Error> {
        let link = &self.site.link;
        let mut listed = link.at(link.remote.list(CATALOGS))?.into_iter().map(|listed| listed.key);
        let is_new = |key: &String| parse_catalog_key(key).is_some() && !self.site.catalogs.contains(key);
        let (unfinished, listed): (Vec<String>, Vec<String>) =
            listed.by_ref().partition(|key| is_unfinished_catalog(key));
        if let Some(key) = listed.iter().find(|key| is_new(key)) {
            let (at, name) = (link.label(), self.name.clone());
            let (host, when) = ("another machine".to_owned(), format!("just now: {}", plain(key)));
            return Err(Error::ReplicaTakenOver { at, name, host, when, wrote: true });
        }
        self.assert_still_there(&listed)?;
        unfinished.iter().try_for_each(|key| link.at(link.remote.delete(key)))
    }

    /// The catalog that counts. Where it was and isn't, a disk was unmounted or a place was emptied meanwhile: on what is there now is
    /// written nothing more. A listing may be late, so it is asked for itself as well.
    fn assert_still_there(&self, listed: &[String]) -> Result<(), Error> {
        let Some(mark) = &self.site.mark else { return Ok(()) };
        let (link, key) = (&self.site.link, catalog_key(mark.generation, &mark.checksum));
        if listed.contains(&key) || link.at(link.remote.get(&key, MAX_CATALOG))?.is_some() {
            return Ok(());
        }
        Err(Error::ReplicaVanished { at: link.label(), key })
    }

    /// What is left there, with what was found of it.
    pub(super) fn remnants(&self) -> Vec<Remnant> {
        let mark = |left: &Remnant| {
            let mut marked = left.clone();
            self.state.mark(left.origin, &mut marked.databases);
            marked
        };
        self.site.remnants().iter().map(mark).collect()
    }

    /// How many backups are kept there by numbers of its own: those that this process was given, or else, where it isn't `serve`, those that
    /// stand there.
    pub(super) fn kept(&self) -> Result<Option<Retention>, Error> {
        let given = self.engine.config.replicas.get(&self.name).map(|it| it.retention).filter(|it| !it.is_empty());
        let there = || self.site.catalog.as_ref().and_then(|catalog| catalog.kept);
        Ok(match given {
            Some(own) => Some(own.over(&self.engine.settings()?.retention)),
            None => there().filter(|_| !self.engine.is_serve()),
        })
    }

    /// That is not what stands there.
    pub(super) fn keeps_others(&self) -> Result<bool, Error> {
        let kept = self.kept()?;
        Ok(self.site.catalog.as_ref().is_some_and(|catalog| catalog.kept != kept))
    }

    /// Writes a new catalog with these backups, reads it back, and removes all but the one before. It is remembered before that it
    /// may come to be there: a crash in between is none of another's doing.
    pub(super) fn write(&mut self, backups: Vec<Held>) -> Result<(), Error> {
        self.write_with(backups, None)
    }

    /// The same, where one of them was sent just now: it is known as soon as the catalog is.
    pub(super) fn write_with(&mut self, mut backups: Vec<Held>, sent: Option<Origin>) -> Result<(), Error> {
        self.hold(false)?;
        backups.sort_by_key(|held| (held.origin, held.id));
        let generation = self.site.mark.as_ref().map_or(0, |mark| mark.generation) + 1;
        let extra = self.site.catalog.as_ref().map(|catalog| catalog.extra.clone()).unwrap_or_default();
        // What was dropped or replaced stays as far as others stand on it.
        let left = self.remnants().into_iter().chain(self.site.backups().iter().map(Remnant::of));
        let remnants = remnants(&backups, left);
        let catalog = ReplicaCatalog {
            version: ReplicaCatalog::format_of(&backups, &remnants),
            store_id: self.store_id.clone(),
            generation,
            written_at: self.engine.clock.now(),
            host: host(),
            retention: Some(self.engine.settings()?.retention),
            kept: self.kept()?,
            backups,
            journals: self.journals.clone(),
            remnants,
            extra,
        };
        // What nobody could read any more isn't written.
        let link = self.site.link.clone();
        catalog.validate().map_err(|reason| link.damaged(format!("no catalog can be made of this: {reason}")))?;
        let mut bytes = catalog.to_bytes();
        bytes.push(b'\n');
        let mark = Mark { generation, checksum: hex(&Sha256::digest(&bytes)) };
        let key = catalog_key(generation, &mark.checksum);
        self.assert_unchanged()?;
        self.state.writes(mark.clone(), sent);
        self.save()?;
        link.at(link.remote.put(&key, &bytes))?;
        if link.at(link.remote.get(&key, MAX_CATALOG))?.as_ref() != Some(&bytes) {
            return Err(link.damaged(format!("{key} is not there as it was sent")));
        }
        // Who wrote at the same time, without a lease or by one that had ended, may have removed what this names: it is taken back.
        self.site.catalogs.push(key.clone());
        if let Err(error) = self.assert_unchanged() {
            link.at(link.remote.delete(&key))?;
            self.site.catalogs.retain(|other| *other != key);
            return Err(error);
        }
        self.look_at_left()?;
        self.state.holds(&catalog.backups, &catalog.remnants);
        self.state.has_written(Some(mark.clone()));
        self.state.journal.clone_from(&self.journal);
        self.save()?;
        self.is_others = false;
        let before = self.site.named();
        (self.site.catalog, self.site.mark) = (Some(catalog), Some(mark));
        self.is_settled = before.is_subset(&self.site.named());
        self.thin_catalogs()
    }
}

impl Writable<'_> {
    /// Before anything is removed that the catalog doesn't name: the one before it doesn't either, or is replaced by the same once more.
    /// Should the store lose the newest catalog, the other one still finds all that it names.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.is_settled { Ok(()) } else { self.write(self.site.backups().to_vec()) }
    }

    /// Removes the catalogs that nobody needs any more.
    pub(super) fn thin_catalogs(&mut self) -> Result<(), Error> {
        for key in self.site.superfluous() {
            self.hold(false)?;
            self.site.link.at(self.site.link.remote.delete(&key))?;
            self.site.catalogs.retain(|other| *other != key);
        }
        Ok(())
    }
}

impl Lease {
    /// One that seems to be from the future is believed for no longer than one of now would be.
    fn is_in_force(&self, now: DateTime<Utc>) -> bool {
        now < self.until && self.at <= now + LEASE_TIME
    }
}

/// A text that came from elsewhere, for a message.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
