//! What lies in a replica and is to lie there in another way: what was found damaged is sent again, as far as it is here, and the many
//! small packs of an hour become one. Until that one was read back, the small ones stay.

use super::listing::keys_of;
use super::send::Sent;
use super::shipping::{Ready, Shipping, There, delete};
use crate::backup::DatabaseName;
use crate::engine::replica::site::Link;
use crate::engine::replica::state::State;
use crate::engine::{Actor, Call, Engine, Error, locked};
use crate::journal::pack::Key;
use crate::journal::packs::{Pack, made_of};
use crate::journal::timeline::Timeline;
use crate::sqlite::Control;

impl Engine {
    /// Sends again what was found damaged. What is here no more stays, damaged as it is, and is remembered: nothing older goes on its word.
    pub(super) fn mend(&self, shipping: &Shipping, ready: &Ready, link: &Link, control: &Control) -> Result<(), Error> {
        if ready.damaged.is_empty() {
            return Ok(());
        }
        let mended = locked(&shipping.shared.mended).clone();
        for key in ready.damaged.difference(&mended) {
            let Some(Key::Pack { lineage, database, span, .. }) = Key::parse(key) else { continue };
            let journal = ready.journals.get(&database).filter(|_| lineage == ready.lineage);
            let Some(journal) = journal else { continue };
            let made_of = made_of(&span, &journal.index());
            let there = shipping.there();
            let packs = there.as_ref().and_then(|there| there.listing.packs.get(&database));
            let pack = packs.and_then(|packs| packs.all().iter().find(|pack| pack.span == span)).copied();
            drop(there);
            let Some(pack) = pack else { continue };
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
                remembered.lost.insert(key.clone());
                remembered.save(self.store.root(), &shipping.name)?;
            }
            locked(&shipping.shared.mended).insert(key.clone());
        }
        let Some(replica) = self.config.replicas.get(&shipping.name) else { return Ok(()) };
        let call = Call { control: control.clone(), ..Call::new(Actor::scheduler()) };
        let _permit = match self.replica_permit(&shipping.name, &call) {
            // Backups are being sent; it is forgotten later.
            Err(Error::ReplicaBusy { .. }) => return Ok(()),
            permit => permit?,
        };
        let mut state = State::load(self.store.root(), &shipping.name, &replica.place.identity())?;
        state.damaged_packs.retain(|key| !ready.damaged.contains(key));
        state.save(self.store.root(), &shipping.name)?;
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
        for (name, journal) in &ready.journals {
            let joinable = || {
                let there = shipping.there();
                there.as_ref()?.listing.packs.get(name)?.joinable(&journal.index(), now)
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
        }
        Ok(())
    }
}
