//! What this process knows of the journal in a replica while it sends, and what has to hold before anything is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::listing::{Listing, keys_of};
use super::send::stops_all;
use super::state::{JournalThere, Remembered};
use super::tend::EVERY;
use crate::backup::replica::{CATALOGS, Nonce, catalog_key, parse_catalog_key};
use crate::backup::{DatabaseName, ReplicaName};
use crate::engine::replica::report::LastError;
use crate::engine::replica::site::Link;
use crate::engine::replica::state::State;
use crate::engine::replica::{Elsewhere, Target};
use crate::engine::{Actor, Call, Engine, Error, locked};
use crate::journal::pack::{Key, folder_of};
use crate::journal::{Journal, Txid};
use crate::remote::Remote;
use crate::sqlite::{self, Control};

/// After a look that found another's catalog the next one comes so much later; a replication says what is wrong.
const FOREIGN: Duration = Duration::from_secs(30);

/// What this process knows of the journal in one replica. Clones are the same.
#[derive(Clone)]
pub struct Shipping {
    pub(super) name: ReplicaName,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    there: Mutex<Option<There>>,
    remembered: Mutex<Remembered>,
    /// Keys that this process sends just now.
    pub(super) busy: Mutex<BTreeSet<String>>,
    /// When `until` was written last.
    pub(super) written: Mutex<Option<Instant>>,
    /// The state that each database begins with, as was written there with it, and of which lineage.
    pub(super) bases: Mutex<Option<(Nonce, BTreeMap<DatabaseName, Txid>)>>,
    /// What is older than these waits until that is written.
    pub(super) keeps: Mutex<bool>,
    /// Keys of what was found damaged, is so no more or has gone, and isn't forgotten as such yet.
    pub(super) mended: Mutex<BTreeSet<String>>,
    /// Those with which that failed, and when.
    pub(super) unmended: Mutex<BTreeMap<String, Instant>>,
    /// Keys of what is damaged there and here, and what is known there of it.
    pub(super) going: Mutex<BTreeMap<String, Going>>,
    /// The catalog there wasn't this directory's then: it isn't asked again and again.
    foreign: Mutex<Option<Instant>>,
    /// Its connections, and its access token where there is one.
    remote: Mutex<Option<Remote>>,
}

/// A pack that can't be had again, and goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Going {
    /// What is missing without it is still to be said there.
    Untold,
    /// That was said: it may go at any line.
    Told,
}

/// What lies there, as it was listed and as it was changed since.
pub(super) struct There {
    pub(super) lineage: Nonce,
    pub(super) listing: Listing,
    pub(super) listed: Instant,
}

impl Shipping {
    pub(super) fn there(&self) -> MutexGuard<'_, Option<There>> {
        locked(&self.shared.there)
    }

    pub(super) fn remembered(&self) -> MutexGuard<'_, Remembered> {
        locked(&self.shared.remembered)
    }

    /// What lies there has to be looked at anew.
    fn forget(&self) {
        *self.there() = None;
    }
}

/// The journals that are written here, and what is to be sent of them where.
pub(super) struct Ready {
    pub(super) lineage: Nonce,
    pub(super) journals: BTreeMap<DatabaseName, Journal>,
    /// Keys of packs that were found damaged there.
    pub(super) damaged: BTreeSet<String>,
}

impl Engine {
    /// For sending the journal to a replica; nothing where none is kept.
    pub fn shipping(&self, name: &ReplicaName) -> Result<Option<Shipping>, Error> {
        let Some(replica) = self.config.replicas.get(name).filter(|_| self.config.pitr.enabled) else {
            return Ok(None);
        };
        let remembered = Remembered::load(self.store.root(), name, &replica.place.identity())?;
        let shared = Shared {
            there: Mutex::default(),
            remembered: Mutex::new(remembered),
            busy: Mutex::default(),
            written: Mutex::default(),
            bases: Mutex::default(),
            keeps: Mutex::default(),
            mended: Mutex::default(),
            unmended: Mutex::default(),
            going: Mutex::default(),
            foreign: Mutex::default(),
            remote: Mutex::default(),
        };
        Ok(Some(Shipping { name: name.clone(), shared: Arc::new(shared) }))
    }

    /// How the journal stands in a replica; nothing where none is kept.
    pub(in crate::engine::replica) fn journal_there(
        &self,
        name: &ReplicaName,
        state: &State,
    ) -> Result<Option<JournalThere>, Error> {
        let Some(replica) = self.config.replicas.get(name).filter(|_| self.config.pitr.enabled) else {
            return Ok(None);
        };
        let mut remembered = Remembered::load(self.store.root(), name, &replica.place.identity())?;
        let unnamed = state.journal_trouble.as_ref().map(|trouble| trouble.error.clone());
        remembered.last_error = remembered.last_error.or(unnamed);
        // What a snapshot begins with stays until the next one is as old as the window, which is looked at every hour.
        let pitr = &self.config.pitr;
        let kept = pitr.retention.saturating_add(pitr.snapshot_every).saturating_add(EVERY);
        let kept = TimeDelta::from_std(kept).unwrap_or(TimeDelta::MAX);
        Ok(Some(JournalThere::of(remembered, &state.damaged_packs, kept)))
    }

    /// Remembers what went wrong, or that nothing does any more. After an error it isn't known what lies there.
    pub(super) fn note_outcome(
        &self,
        shipping: &Shipping,
        error: Option<&Error>,
        of: impl Fn(&mut Remembered) -> &mut Option<LastError>,
    ) {
        self.note_error(shipping, error.map(|error| (error, error.to_string())), of);
        if error.is_some() {
            shipping.forget();
        }
    }

    /// Remembers what went wrong, in these words, or that nothing does any more.
    pub(super) fn note_error(
        &self,
        shipping: &Shipping,
        error: Option<(&Error, String)>,
        of: impl Fn(&mut Remembered) -> &mut Option<LastError>,
    ) {
        let (mut remembered, now) = (shipping.remembered(), self.clock.now());
        let before = of(&mut remembered).clone();
        let last = match error {
            None => None,
            // That it was to stop is no failure of the replica.
            Some((Error::Sqlite(sqlite::Error::Cancelled), _)) => before.clone(),
            Some((error, detail)) => Some(LastError {
                at: now,
                since: before.as_ref().map_or(now, |before| before.since),
                code: error.code().to_owned(),
                detail,
            }),
        };
        if last != before {
            *of(&mut remembered) = last;
            if let Err(error) = remembered.save(self.store.root(), &shipping.name) {
                tracing::warn!(%error, replica = %shipping.name, "how its journal stands is not remembered");
            }
        }
    }

    /// What there is to be sent; nothing as long as not all journals are written, or the replica's catalog doesn't name them.
    pub(super) fn ready(&self, shipping: &Shipping) -> Result<Option<Ready>, Error> {
        self.assert_expected()?;
        let Some(replica) = self.config.replicas.get(&shipping.name) else { return Ok(None) };
        let state = State::load(self.store.root(), &shipping.name, &replica.place.identity())?;
        let Some(lineage) = self.lineage_here(&state)? else { return Ok(None) };
        let journals = locked(&self.journals).clone();
        let damaged = state.damaged_packs;
        Ok(self.config.databases.keys().eq(journals.keys()).then_some(Ready { lineage, journals, damaged }))
    }

    /// The way there, if the newest catalog there is still the one that this directory wrote, and names the lineage.
    pub(super) fn link_to_own(
        &self,
        shipping: &Shipping,
        lineage: Nonce,
        control: &Control,
    ) -> Result<Option<Link>, Error> {
        if locked(&shipping.shared.foreign).is_some_and(|at| at.elapsed() < FOREIGN) {
            return Ok(None);
        }
        let target = self.target(&Elsewhere::Name(shipping.name.clone()))?;
        let remote = match &mut *locked(&shipping.shared.remote) {
            Some(remote) => remote.clone(),
            new => new.insert(target.remote(&Control::default())?).clone(),
        };
        let link = Link::over(&target, remote, control);
        let look = || self.is_own_there(&link, &target, shipping, lineage);
        // Twice: between listing and state a replication may have written the next one to its end.
        let is_own = look()? || look()?;
        *locked(&shipping.shared.foreign) = (!is_own).then(Instant::now);
        Ok(is_own.then_some(link))
    }

    fn is_own_there(&self, link: &Link, target: &Target, shipping: &Shipping, lineage: Nonce) -> Result<bool, Error> {
        let listed = link.at(link.remote.list(CATALOGS))?;
        let newest = listed.iter().filter_map(|it| Some((parse_catalog_key(&it.key)?.0, &it.key))).max();
        // A replication may be writing one just now: what it is about to write is noted before.
        let state = State::load(self.store.root(), &shipping.name, &target.place.identity())?;
        let own = [&state.written, &state.writing].into_iter().flatten();
        let is_own = own
            .map(|mark| catalog_key(mark.generation, &mark.checksum))
            .any(|key| newest.is_some_and(|it| *it.1 == key));
        Ok(is_own && self.lineage_here(&state)? == Some(lineage))
    }

    /// Lists what lies there, unless that is known, and removes what was never read back. `false` if it isn't this journal's: the next
    /// replication begins another one.
    pub(super) fn look(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        control: &Control,
    ) -> Result<bool, Error> {
        // Whoever changes what is there waits.
        let mut there = shipping.there();
        if there.as_ref().is_some_and(|there| there.lineage == ready.lineage) {
            return Ok(true);
        }
        let listed = link.at(link.remote.list(&folder_of(ready.lineage)))?;
        let mut listing = Listing::of(ready.lineage, &listed);
        self.remove_leftovers(shipping, ready, link, &mut listing, control)?;
        let is_own = |(name, journal): (&DatabaseName, &Journal)| {
            listing.packs.get(name).is_none_or(|packs| packs.is_of(&journal.index()))
        };
        if !ready.journals.iter().all(is_own) {
            tracing::warn!(replica = %shipping.name, "its journal has states that this directory never had; another one is begun beside it");
            let call = Call { control: control.clone(), ..Call::new(Actor::scheduler()) };
            self.leave_lineage(&shipping.name, ready.lineage, &call)?;
            return Ok(false);
        }
        *there = Some(There { lineage: ready.lineage, listing, listed: Instant::now() });
        Ok(true)
    }

    /// What was begun and never read back, by this process or by one that was ended, and is not under way.
    fn remove_leftovers(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        listing: &mut Listing,
        control: &Control,
    ) -> Result<(), Error> {
        let (busy, begun): (BTreeSet<String>, Vec<String>) = {
            // Both at once: what begins or ends meanwhile is in neither, or in both.
            let remembered = shipping.remembered();
            let busy = locked(&shipping.shared.busy).clone();
            let begun = remembered.sending.difference(&busy).cloned().collect();
            (busy, begun)
        };
        for key in &busy {
            // The parts that are there already are no whole pack.
            if let Some(Key::Pack { database, span, .. }) = Key::parse(key) {
                listing.packs.entry(database).or_default().remove(&span);
            }
        }
        let mut removed = BTreeSet::new();
        for key in &begun {
            if let Some((Key::Pack { lineage, database, span, .. }, 0)) = Key::parse_part(key) {
                let pack = listing.packs.get(&database).and_then(|packs| packs.all().iter().find(|it| it.span == span));
                if let Some(pack) = pack.copied().filter(|_| lineage == ready.lineage) {
                    // It was never read back, whether or not the store lets it go.
                    listing.packs.entry(database.clone()).or_default().remove(&span);
                    match delete(link, keys_of(lineage, &database, &pack), control) {
                        Err(error) if stops_all(&error) => return Err(error),
                        Err(error) => {
                            tracing::warn!(replica = %shipping.name, key, "a leftover can't be removed: {error}");
                            continue;
                        }
                        Ok(()) => {}
                    }
                }
            }
            removed.insert(key);
        }
        let is_idle = |key: &&String| !busy.iter().any(|busy| is_becoming(key, busy));
        let unfinished: Vec<String> = listing.unfinished.iter().filter(is_idle).cloned().collect();
        delete(link, unfinished, control)?;
        let mut remembered = shipping.remembered();
        remembered.is_of(ready.lineage);
        remembered.sending.retain(|key| !removed.contains(key));
        remembered.save(self.store.root(), &shipping.name)?;
        Ok(())
    }

    /// Remembers that it is sent now.
    pub(super) fn note_sending(&self, shipping: &Shipping, key: &str) -> Result<(), Error> {
        let mut remembered = shipping.remembered();
        locked(&shipping.shared.busy).insert(key.to_owned());
        remembered.sending.insert(key.to_owned());
        remembered.save(self.store.root(), &shipping.name)
    }

    /// Remembers that it was read back.
    pub(super) fn note_sent(&self, shipping: &Shipping, key: &str) -> Result<(), Error> {
        let mut remembered = shipping.remembered();
        if remembered.lost.remove(key) {
            locked(&shipping.shared.mended).insert(key.to_owned());
        }
        remembered.sending.remove(key);
        remembered.save(self.store.root(), &shipping.name)
    }

    /// Remembers that nothing of it was stored: what lies there under its key is what lay there before.
    pub(super) fn note_given_up(&self, shipping: &Shipping, key: &str) -> Result<(), Error> {
        let mut remembered = shipping.remembered();
        remembered.sending.remove(key);
        remembered.save(self.store.root(), &shipping.name)
    }
}

/// Whether it is a part of that object, or what becomes one in a folder.
fn is_becoming(key: &str, object: &str) -> bool {
    let file = |key: &str| key.rsplit_once('/').map(|(folder, file)| (folder.to_owned(), file.to_owned()));
    let (Some((folder, name)), Some((of, object))) = (file(key), file(object)) else { return false };
    folder == of && name.trim_start_matches('.').starts_with(&object)
}

pub(super) fn delete(link: &Link, keys: Vec<String>, control: &Control) -> Result<(), Error> {
    for key in keys {
        control.check()?;
        link.at(link.remote.delete(&key))?;
    }
    Ok(())
}
