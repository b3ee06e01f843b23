//! A replica as it is found: its catalog, and who may write there.

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use super::Target;
use super::state::{Mark, State};
use crate::backup::replica::{
    self, BACKUPS, CATALOGS, Held, LEASE, Lease, ReplicaCatalog, catalog_key, parse_catalog_key,
};
use crate::backup::{ReplicaName, hex, timestamp};
use crate::engine::permit::host;
use crate::engine::{Engine, Error};
use crate::remote::{self, Remote};
use crate::sqlite::Control;

/// Larger catalogs are not read.
const MAX_CATALOG: u64 = 64 << 20;
/// Larger leases are none.
const MAX_LEASE: u64 = 64 << 10;
/// A catalog may go between its listing and its reading: another one is there then.
const LOOKS: usize = 3;
/// How long a lease counts.
const LEASE_TIME: TimeDelta = TimeDelta::minutes(15);
/// How old it becomes before it is renewed.
const RENEWAL: TimeDelta = TimeDelta::minutes(4);

/// A replica, its catalog read.
pub(super) struct Site {
    target: Target,
    pub(super) label: String,
    pub(super) remote: Remote,
    pub(super) catalog: Option<ReplicaCatalog>,
    mark: Option<Mark>,
    /// All catalogs that lie there.
    catalogs: Vec<String>,
}

impl Site {
    /// Finds out what is there; nothing is changed.
    pub(super) fn look(target: &Target, control: &Control) -> Result<Self, Error> {
        let remote = target.remote(control)?;
        let (label, target) = (target.label.clone(), target.clone());
        let mut site = Self { target, label, remote, catalog: None, mark: None, catalogs: Vec::new() };
        for _ in 0..LOOKS {
            if site.read()? {
                return Ok(site);
            }
        }
        Err(site.damaged("its catalog changes all the time; does another machine write there?"))
    }

    pub(super) fn at<T>(&self, result: Result<T, remote::Error>) -> Result<T, Error> {
        result.map_err(|error| self.failed(error))
    }

    pub(super) fn failed(&self, error: remote::Error) -> Error {
        self.target.failed(error)
    }

    pub(super) fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::ReplicaDamaged { at: self.label.clone(), reason: reason.into() }
    }

    /// Reads the newest catalog that is whole. `false` if it went while it was looked at.
    fn read(&mut self) -> Result<bool, Error> {
        let listed = self.at(self.remote.list(CATALOGS))?;
        let mut found: Vec<_> = listed
            .into_iter()
            .filter_map(|listed| {
                let (generation, digits) = parse_catalog_key(&listed.key)?;
                Some((generation, digits.to_owned(), listed.key.clone()))
            })
            .collect();
        found.sort();
        self.catalogs = found.iter().map(|(.., key)| key.clone()).collect();
        for (generation, digits, key) in found.iter().rev() {
            let Some(bytes) = self.at(self.remote.get(key, MAX_CATALOG))? else { return Ok(false) };
            let checksum = hex(&Sha256::digest(&bytes));
            if !checksum.starts_with(digits.as_str()) {
                tracing::debug!(replica = self.label, key, "a catalog that was not written to its end is passed over");
                continue;
            }
            let catalog = ReplicaCatalog::parse(&bytes).map_err(|reason| self.damaged(format!("{key}: {reason}")))?;
            if catalog.generation != *generation {
                return Err(self.damaged(format!("{key} says to be of generation {}", catalog.generation)));
            }
            self.mark = Some(Mark { generation: *generation, checksum });
            self.catalog = Some(catalog);
            return Ok(true);
        }
        let remains =
            self.at(self.remote.list(BACKUPS))?.into_iter().filter(|listed| replica::is_ours(&listed.key)).count();
        match found.len() + remains {
            0 => Ok(true),
            remains => Err(Error::ReplicaCatalogLost { at: self.label.clone(), remains }),
        }
    }

    /// The catalog, for whoever wants something of it.
    pub(super) fn catalog(&self) -> Result<&ReplicaCatalog, Error> {
        self.catalog.as_ref().ok_or_else(|| Error::ReplicaEmpty { at: self.label.clone() })
    }
}

/// A replica that this directory may write to.
pub(super) struct Writable<'e> {
    pub(super) engine: &'e Engine,
    pub(super) name: ReplicaName,
    pub(super) site: Site,
    pub(super) state: State,
    pub(super) store_id: String,
    /// The catalog there is another's, which has to find out by ours.
    pub(super) is_others: bool,
    lease: Option<Lease>,
}

impl<'e> Writable<'e> {
    /// Steps 1 and 2 of a replication but for the lease.
    pub(super) fn of(
        engine: &'e Engine,
        name: &ReplicaName,
        site: Site,
        state: State,
        store_id: &str,
        take_over: bool,
    ) -> Result<Self, Error> {
        let (at, name, store_id) = (site.label.clone(), name.clone(), store_id.to_owned());
        let mut is_others = false;
        if let Some(catalog) = &site.catalog {
            if catalog.store_id != store_id {
                let theirs = catalog.store_id.clone();
                return Err(Error::ReplicaForeign { at, theirs, ours: store_id, backups: catalog.backups.len() });
            }
            let ours =
                [&state.written, &state.writing].into_iter().flatten().any(|mark| Some(mark) == site.mark.as_ref());
            is_others = !ours;
            if is_others && !take_over {
                return Err(Error::ReplicaTakenOver {
                    at,
                    name,
                    host: plain(&catalog.host),
                    when: timestamp::text(catalog.written_at),
                    wrote: state.written.is_some(),
                });
            }
        } else if state.written.is_some() && !take_over {
            return Err(Error::ReplicaEmptied { at, name });
        }
        Ok(Self { engine, name, site, state, store_id, is_others, lease: None })
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
        let writer = self.state.writer()?;
        let theirs = self.lease_there()?.filter(|lease| lease.writer != writer && lease.is_in_force(now));
        if let Some(theirs) = theirs.filter(|_| !take_over) {
            return Err(self.held(&theirs));
        }
        let lease = Lease { store_id: self.store_id.clone(), writer, host: host(), at: now, until: now + LEASE_TIME };
        let bytes = serde_json::to_vec_pretty(&lease).unwrap_or_default();
        self.site.at(self.site.remote.put(LEASE, &bytes))?;
        match self.lease_there()? {
            Some(there) if there.writer != lease.writer => Err(self.held(&there)),
            _ => {
                self.lease = Some(lease);
                Ok(())
            }
        }
    }

    /// Gives it back; that it can't be is no failure: it ends by itself.
    pub(super) fn let_go(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let given_back = match self.lease_there() {
            Ok(Some(there)) if there.writer == lease.writer => self.site.at(self.site.remote.delete(LEASE)),
            looked => looked.map(drop),
        };
        if let Err(error) = given_back {
            tracing::debug!(replica = %self.name, %error, "the lease is left to end by itself");
        }
    }

    /// Nobody has written a catalog since this one was read: a lease is a promise among clocks, and this is looked at.
    fn assert_unchanged(&self) -> Result<(), Error> {
        let listed = self.site.at(self.site.remote.list(CATALOGS))?;
        let is_new = |key: &String| parse_catalog_key(key).is_some() && !self.site.catalogs.contains(key);
        match listed.into_iter().map(|listed| listed.key).find(is_new) {
            None => Ok(()),
            Some(key) => Err(Error::ReplicaTakenOver {
                at: self.site.label.clone(),
                name: self.name.clone(),
                host: "another machine".to_owned(),
                when: format!("just now ({key})"),
                wrote: true,
            }),
        }
    }

    fn lease_there(&self) -> Result<Option<Lease>, Error> {
        let bytes = self.site.at(self.site.remote.get(LEASE, MAX_LEASE))?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn held(&self, lease: &Lease) -> Error {
        let (at, name) = (self.site.label.clone(), self.name.clone());
        Error::ReplicaHeld { at, name, host: plain(&lease.host), until: timestamp::text(lease.until) }
    }

    /// Writes a new catalog with these backups, reads it back, and removes all but the one before. It is remembered before that it
    /// may come to be there: a crash in between is none of another's doing.
    pub(super) fn write(&mut self, mut backups: Vec<Held>) -> Result<(), Error> {
        self.hold(false)?;
        backups.sort_by_key(|held| (held.origin, held.id));
        let before = self.site.mark.clone();
        let generation = before.as_ref().map_or(0, |mark| mark.generation) + 1;
        let extra = self.site.catalog.as_ref().map(|catalog| catalog.extra.clone()).unwrap_or_default();
        let catalog = ReplicaCatalog {
            version: replica::VERSION,
            store_id: self.store_id.clone(),
            generation,
            written_at: self.engine.clock.now(),
            host: host(),
            backups,
            extra,
        };
        let mut bytes = serde_json::to_vec_pretty(&catalog).unwrap_or_default();
        bytes.push(b'\n');
        let mark = Mark { generation, checksum: hex(&Sha256::digest(&bytes)) };
        let key = catalog_key(generation, &mark.checksum);
        self.assert_unchanged()?;
        self.state.writing = Some(mark.clone());
        self.save()?;
        self.site.at(self.site.remote.put(&key, &bytes))?;
        if self.site.at(self.site.remote.get(&key, MAX_CATALOG))?.as_ref() != Some(&bytes) {
            return Err(self.site.damaged(format!("{key} is not there as it was sent")));
        }
        self.state.held = catalog.backups.iter().map(|held| held.origin).collect();
        self.state.size = catalog.backups.iter().fold(0, |sum: u64, held| sum.saturating_add(held.size()));
        (self.state.written, self.state.writing) = (Some(mark.clone()), None);
        self.save()?;
        let previous = before.map(|before| catalog_key(before.generation, &before.checksum));
        for older in std::mem::take(&mut self.site.catalogs) {
            match Some(&older) == previous.as_ref() {
                true => self.site.catalogs.push(older),
                false if older != key => self.site.at(self.site.remote.delete(&older))?,
                false => {}
            }
        }
        self.site.catalogs.push(key);
        self.is_others = false;
        (self.site.catalog, self.site.mark) = (Some(catalog), Some(mark));
        Ok(())
    }

    /// What the replica holds, as its catalog says.
    pub(super) fn backups(&self) -> &[Held] {
        self.site.catalog.as_ref().map_or(&[], |catalog| &catalog.backups)
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
