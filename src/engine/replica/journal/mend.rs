//! What lies in a replica and is to lie there in another way: what was found damaged is sent again, as far as it is here, and the many
//! small packs of an hour become one. Until that one was read back, the small ones stay.

use std::time::Instant;

use super::listing::keys_of;
use super::send::{Sent, stops_all};
use super::shipping::{Ready, Shipping, There, delete};
use super::tend::EVERY;
use crate::backup::DatabaseName;
use crate::engine::replica::site::Link;
use crate::engine::replica::state::State;
use crate::engine::{Actor, Call, Engine, Error, locked};
use crate::journal::Journal;
use crate::journal::pack::Key;
use crate::journal::packs::{Pack, made_of};
use crate::journal::timeline::Timeline;
use crate::sqlite::Control;

impl Engine {
    /// Sends again what was found damaged. What is here no more stays, damaged as it is, and is remembered: nothing older goes on its word.
    /// What the store doesn't take is tried again later, and is in no other's way.
    pub(super) fn mend(&self, shipping: &Shipping, ready: &Ready, link: &Link, control: &Control) -> Result<(), Error> {
        for key in due(shipping, ready) {
            match self.mend_one(shipping, ready, link, key, control) {
                Ok(()) => drop(locked(&shipping.shared.mended).insert(key.clone())),
                Err(error) if stops_all(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(replica = %shipping.name, key, "it is damaged there, and can't be sent again: {error}");
                    locked(&shipping.shared.unmended).insert(key.clone(), Instant::now());
                }
            }
        }
        self.forget_mended(shipping, &Call { control: control.clone(), ..Call::new(Actor::scheduler()) })
    }

    fn mend_one(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        key: &str,
        control: &Control,
    ) -> Result<(), Error> {
        let Some(Key::Pack { lineage, database, span, .. }) = Key::parse(key) else { return Ok(()) };
        let journal = ready.journals.get(&database).filter(|_| lineage == ready.lineage);
        let Some(journal) = journal else { return Ok(()) };
        let made_of = made_of(&span, &journal.index());
        let there = shipping.there();
        let packs = there.as_ref().and_then(|there| there.listing.packs.get(&database));
        let pack = packs.and_then(|packs| packs.all().iter().find(|pack| pack.span == span)).copied();
        drop(there);
        let Some(pack) = pack else { return Ok(()) };
        let mut is_mended = false;
        if let Some(files) = made_of {
            // A whole object is written over; of parts some could stay.
            if pack.parts > 0 {
                self.remove_pack(shipping, ready, link, (&database, &pack), control)?;
            }
            let sent = self.send_pack(shipping, ready, link, (&database, journal), &files, control)?;
            is_mended = sent != Sent::Gone;
            if sent == Sent::Damaged && pack.parts == 0 {
                // It is damaged in both places: what is whole of it here is sent by itself.
                self.remove_pack(shipping, ready, link, (&database, &pack), control)?;
            }
        }
        if !is_mended {
            let mut remembered = shipping.remembered();
            remembered.lost.insert(key.to_owned());
            remembered.save(self.store.root(), &shipping.name)?;
        }
        Ok(())
    }

    /// What was mended is damaged no more.
    fn forget_mended(&self, shipping: &Shipping, call: &Call) -> Result<(), Error> {
        let mended = locked(&shipping.shared.mended).clone();
        let Some(replica) = self.config.replicas.get(&shipping.name).filter(|_| !mended.is_empty()) else {
            return Ok(());
        };
        let _permit = match self.replica_permit(&shipping.name, call) {
            // Backups are being sent; it is forgotten later.
            Err(Error::ReplicaBusy { .. }) => return Ok(()),
            permit => permit?,
        };
        let mut state = State::load(self.store.root(), &shipping.name, &replica.place.identity())?;
        state.damaged_packs.retain(|key| !mended.contains(key));
        state.save(self.store.root(), &shipping.name)?;
        locked(&shipping.shared.unmended).retain(|key, _| state.damaged_packs.contains(key));
        locked(&shipping.shared.mended).clear();
        Ok(())
    }

    pub(super) fn remove_pack(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        (database, pack): (&DatabaseName, &Pack),
        control: &Control,
    ) -> Result<(), Error> {
        delete(link, keys_of(ready.lineage, database, pack), control)?;
        if let Some(There { listing, .. }) = shipping.there().as_mut() {
            listing.packs.entry(database.clone()).or_default().remove(&pack.span);
        }
        Ok(())
    }

    /// Joins the packs of past hours.
    pub(super) fn join_shipped(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        control: &Control,
    ) -> Result<(), Error> {
        let Some(alive) = Timeline::read(self.store.root())?.alive else { return Ok(()) };
        let now = u64::try_from(alive.timestamp_millis()).unwrap_or_default();
        let mut first = Ok(());
        for (name, journal) in &ready.journals {
            match self.join_of(shipping, ready, link, (name, journal), now, control) {
                Err(error) if stops_all(&error) => return Err(error),
                joined => first = first.and(joined),
            }
        }
        first
    }

    fn join_of(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        (name, journal): (&DatabaseName, &Journal),
        now_millis: u64,
        control: &Control,
    ) -> Result<(), Error> {
        let joinable = || {
            let there = shipping.there();
            there.as_ref()?.listing.packs.get(name)?.joinable(&journal.index(), now_millis)
        };
        while let Some((files, packs)) = joinable() {
            match self.send_pack(shipping, ready, link, (name, journal), &files, control)? {
                Sent::Whole => {}
                Sent::Damaged => continue,
                Sent::Gone => break,
            }
            for pack in &packs {
                self.remove_pack(shipping, ready, link, (name, pack), control)?;
            }
            tracing::debug!(replica = %shipping.name, database = %name, packs = packs.len(), "joined");
        }
        Ok(())
    }
}

/// Keys that are to be sent again now.
fn due<'a>(shipping: &Shipping, ready: &'a Ready) -> Vec<&'a String> {
    let (mended, failed) = (locked(&shipping.shared.mended), locked(&shipping.shared.unmended));
    let is_due = |key: &&String| !mended.contains(*key) && failed.get(*key).is_none_or(|at| at.elapsed() >= EVERY);
    ready.damaged.iter().filter(is_due).collect()
}

/// Whether any is, or was and is still to be forgotten as damaged.
pub(super) fn wants_mending(shipping: &Shipping, ready: &Ready) -> bool {
    !due(shipping, ready).is_empty() || !locked(&shipping.shared.mended).is_empty()
}
