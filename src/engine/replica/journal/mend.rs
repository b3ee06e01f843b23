//! What lies in a replica and is to lie there in another way: what was found damaged is sent again, as far as it is here, and the many
//! small packs of an hour become one. Until that one was read back, the small ones stay.

use std::time::Instant;

use super::listing::keys_of;
use super::send::{Sent, stops_all};
use super::shipping::{Going, Ready, Shipping, There, delete};
use super::tend::EVERY;
use super::unpack::Packed;
use crate::backup::DatabaseName;
use crate::engine::replica::site::Link;
use crate::engine::replica::state::State;
use crate::engine::{Actor, Call, Engine, Error, locked};
use crate::journal::pack::Key;
use crate::journal::packs::{Pack, is_damaged_here, made_of};
use crate::journal::timeline::Timeline;
use crate::journal::{Journal, Level, LtxFile};
use crate::sqlite::Control;

/// What came of a pack that was found damaged.
enum Mended {
    /// It isn't damaged any more, or isn't there any more.
    Done,
    /// What it holds is here no more: it stays as it is.
    Lost,
    /// It isn't known just now what lies there, or something else comes first.
    Later,
}

impl Engine {
    /// Sends again what was found damaged. What is here no more stays, damaged as it is, and is remembered: nothing older goes on its word.
    /// What the store doesn't take is tried again later, and is in no other's way.
    pub(super) fn mend(&self, shipping: &Shipping, ready: &Ready, link: &Link, control: &Control) -> Result<(), Error> {
        self.forget_found_whole(shipping, ready)?;
        for key in due(shipping, ready) {
            let mended = self.mend_one(shipping, ready, link, key, control);
            match mended {
                Ok(Mended::Done) => {
                    locked(&shipping.shared.going).remove(key);
                    locked(&shipping.shared.mended).insert(key.clone());
                }
                Ok(Mended::Lost) => {
                    locked(&shipping.shared.going).remove(key);
                    self.note_lost(shipping, key)?;
                }
                Ok(Mended::Later) => {}
                Err(error) if stops_all(&error) => return Err(error),
                Err(error) => {
                    let told = format!("{key} is damaged there, and can't be sent again: {error}");
                    tracing::error!(replica = %shipping.name, "{told}");
                    locked(&shipping.shared.unmended).insert(key.clone(), Instant::now());
                    self.note_error(shipping, Some((&error, told)), |remembered| &mut remembered.last_error_of_mending);
                }
            }
        }
        let mended = locked(&shipping.shared.mended).clone();
        locked(&shipping.shared.unmended).retain(|key, _| !mended.contains(key));
        if locked(&shipping.shared.unmended).is_empty() {
            self.note_error(shipping, None, |remembered| &mut remembered.last_error_of_mending);
        }
        self.forget_mended(shipping, &Call { control: control.clone(), ..Call::new(Actor::scheduler()) })
    }

    /// Whoever has read the replica back since may have found it whole: the store has got it back, say.
    fn forget_found_whole(&self, shipping: &Shipping, ready: &Ready) -> Result<(), Error> {
        locked(&shipping.shared.unmended).retain(|key, _| ready.damaged.contains(key));
        locked(&shipping.shared.going).retain(|key, _| ready.damaged.contains(key));
        let mut remembered = shipping.remembered();
        let before = remembered.lost.len();
        remembered.lost.retain(|key| ready.damaged.contains(key));
        if remembered.lost.len() == before { Ok(()) } else { remembered.save(self.store.root(), &shipping.name) }
    }

    fn note_lost(&self, shipping: &Shipping, key: &str) -> Result<(), Error> {
        tracing::error!(replica = %shipping.name, key, "it is damaged there, and what it holds is here no more");
        let mut remembered = shipping.remembered();
        remembered.lost.insert(key.to_owned());
        remembered.save(self.store.root(), &shipping.name)
    }

    fn mend_one(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        key: &str,
        control: &Control,
    ) -> Result<Mended, Error> {
        let Some(Key::Pack { lineage, database, span, encrypted }) = Key::parse(key) else {
            return Ok(Mended::Done);
        };
        let Some(journal) = ready.journals.get(&database).filter(|_| lineage == ready.lineage) else {
            return Ok(Mended::Lost);
        };
        let pack = {
            let there = shipping.there();
            let Some(there) = there.as_ref().filter(|there| there.lineage == lineage) else {
                return Ok(Mended::Later);
            };
            let packs = there.listing.packs.get(&database);
            packs.and_then(|packs| packs.all().iter().find(|pack| pack.span == span)).copied()
        };
        let Some(pack) = pack else { return Ok(Mended::Done) };
        // It may have been the way there, or a store that has healed itself.
        if let Ok(_whole) = (Packed { link, lineage, database: &database, pack, control }).read(self, &|_| None)? {
            // Or it was sent again in another form, and what was damaged didn't go yet.
            if pack.encrypted != encrypted {
                delete(link, vec![key.to_owned()], control)?;
            }
            return Ok(Mended::Done);
        }
        let (files, is_damaged_too) = {
            let index = journal.index();
            (made_of(&span, &index), is_damaged_here(&span, &index))
        };
        let sent = match files {
            Some(files) => self.send_in_place(shipping, ready, link, (&database, journal), (pack, &files), control)?,
            None if is_damaged_too => Sent::Damaged,
            None => Sent::Gone,
        };
        match sent {
            Sent::Whole => Ok(Mended::Done),
            // Of others a part is here still, and whoever comes back finds a gap instead of something damaged. What follows a snapshot
            // would lead nowhere.
            Sent::Damaged if span.level != Level::SNAPSHOT => {
                // First what is whole of it here is sent by itself, then it is said there what is missing, and for how long the state before
                // was the newest, and then it goes: in between whoever comes back would find a gap that begins too early, or states that are
                // missing.
                let told = *locked(&shipping.shared.going).entry(key.to_owned()).or_insert(Going::Untold);
                *locked(&shipping.shared.written) = None;
                if told == Going::Untold {
                    return Ok(Mended::Later);
                }
                tracing::warn!(replica = %shipping.name, key, "it is damaged there and here, and goes; what is whole of it here was sent by itself");
                self.remove_pack(shipping, ready, link, (&database, &pack), control)?;
                Ok(Mended::Done)
            }
            Sent::Damaged | Sent::Gone => Ok(Mended::Lost),
        }
    }

    /// What is damaged here too isn't begun: what was begun and not done is removed at the next look. A whole object is written over, or
    /// removed once the pack lies under another key, where encryption was turned on or off since: a listing tells of one of the two only.
    /// Of parts some could stay: they are removed before.
    fn send_in_place(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        of: (&DatabaseName, &Journal),
        (pack, files): (Pack, &[LtxFile]),
        control: &Control,
    ) -> Result<Sent, Error> {
        match self.are_whole_here(of, files, control)? {
            Sent::Whole if pack.parts > 0 => self.remove_pack(shipping, ready, link, (of.0, &pack), control)?,
            Sent::Whole => {}
            not => return Ok(not),
        }
        let sent = self.send_pack(shipping, ready, link, of, files, control)?;
        let encrypts = !self.config.codec.recipients.is_empty();
        if sent == Sent::Whole && pack.parts == 0 && pack.encrypted != encrypts {
            delete(link, keys_of(ready.lineage, of.0, &pack), control)?;
        }
        Ok(sent)
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

/// Keys that are to be sent again now, or to go.
fn due<'a>(shipping: &Shipping, ready: &'a Ready) -> Vec<&'a String> {
    let lost = shipping.remembered().lost.clone();
    let (mended, failed) = (locked(&shipping.shared.mended), locked(&shipping.shared.unmended));
    let going = locked(&shipping.shared.going);
    let is_due = |key: &&String| {
        let waits = going.get(*key) == Some(&Going::Untold);
        let is_open = !mended.contains(*key) && !lost.contains(*key) && !waits;
        is_open && failed.get(*key).is_none_or(|at| at.elapsed() >= EVERY)
    };
    ready.damaged.iter().filter(is_due).collect()
}

/// Whether any is, or was and is still to be forgotten as damaged.
pub(super) fn wants_mending(shipping: &Shipping, ready: &Ready) -> bool {
    !due(shipping, ready).is_empty() || !locked(&shipping.shared.mended).is_empty()
}
