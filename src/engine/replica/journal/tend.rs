//! What is in no hurry: snapshots and larger steps, each file a pack of its own, and what is older than the window, or of a lineage that
//! the catalog names no more. A large snapshot holds up no seconds, since this is a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::send::{Sent, stops_all};
use super::shipping::{Ready, Shipping, delete};
use crate::backup::replica::Nonce;
use crate::backup::{DatabaseName, Moment};
use crate::engine::replica::Elsewhere;
use crate::engine::replica::site::{Link, Site};
use crate::engine::{Engine, Error, locked};
use crate::journal::chain::Horizon;
use crate::journal::pack::{JOURNALS, Key, Span, lineage_of};
use crate::journal::packs::Packs;
use crate::journal::{Index, Journal, Level, LtxFile};
use crate::remote::Contents;
use crate::sqlite::Control;

/// Between two looks at what is too old, and at what is there at all.
pub(super) const EVERY: Duration = Duration::from_secs(3600);

impl Engine {
    /// Sends the next snapshot or larger step of each database, if one is lacking, and removes what is too old. What is wrong with one
    /// stops neither the others nor that. Says whether more is to be sent at once.
    pub fn tend_shipped(
        &self,
        shipping: &Shipping,
        looked: &mut Option<Instant>,
        control: &Control,
    ) -> Result<bool, Error> {
        // Listing is left to whoever is in a hurry, and says nothing of how this went last.
        if shipping.there().is_none() {
            return Ok(false);
        }
        let tended = self.tended(shipping, looked, control);
        self.note_outcome(shipping, tended.as_ref().err(), |remembered| &mut remembered.last_error_of_larger);
        tended
    }

    fn tended(&self, shipping: &Shipping, looked: &mut Option<Instant>, control: &Control) -> Result<bool, Error> {
        let Some(ready) = self.ready(shipping)? else { return Ok(false) };
        let is_due = looked.is_none_or(|at| at.elapsed() >= EVERY);
        let keeps = *locked(&shipping.shared.keeps);
        let listed = shipping.there().as_ref().filter(|there| there.lineage == ready.lineage).map(|there| there.listed);
        let Some(listed) = listed else { return Ok(false) };
        let next = next(shipping, &ready);
        if next.is_empty() && !is_due && !keeps {
            return Ok(false);
        }
        let Some(link) = self.link_to_own(shipping, ready.lineage, control)? else { return Ok(false) };
        let sent = self.send_larger(shipping, &ready, &link, &next, control);
        if control.is_cancelled() {
            return sent;
        }
        // An object that the store doesn't take is no reason to keep what is too old.
        let retained = if is_due || keeps { self.retain_shipped(shipping, &ready, &link, control) } else { Ok(()) };
        let mut joined = Ok(());
        if is_due {
            joined = self.join_shipped(shipping, &ready, &link, control);
            let looked_over = self.look_over(shipping, &ready, control);
            if retained.is_ok() && looked_over.is_ok() {
                *looked = Some(Instant::now());
            }
            if listed.elapsed() >= EVERY {
                *shipping.there() = None;
            }
            joined = joined.and(looked_over);
        }
        let more = sent?;
        retained.and(joined).map(|()| more)
    }

    /// The next file of each database. Says whether more is to be sent at once.
    fn send_larger(
        &self,
        shipping: &Shipping,
        ready: &Ready,
        link: &Link,
        next: &[(DatabaseName, LtxFile)],
        control: &Control,
    ) -> Result<bool, Error> {
        let (mut more, mut first) = (false, Ok(()));
        for (name, file) in next {
            let Some(journal) = ready.journals.get(name) else { continue };
            match self.send_pack(shipping, ready, link, (name, journal), &[*file], control) {
                Ok(Sent::Gone) => {}
                Ok(sent) => {
                    more = true;
                    if sent == Sent::Whole && file.name.level == Level::SNAPSHOT {
                        // What waited for it can be rebuilt now, and the next round says so.
                        *locked(&shipping.shared.written) = None;
                    }
                }
                Err(error) if stops_all(&error) => return Err(error),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first.map(|()| more)
    }

    /// As here: every state since the window began stays. Where the journal here reaches back farther, so does the one there. What goes is no
    /// more in what the replica was told last that it has: else whoever reads it meanwhile misses it.
    fn retain_shipped(&self, shipping: &Shipping, ready: &Ready, link: &Link, control: &Control) -> Result<(), Error> {
        let there: BTreeMap<_, _> = match shipping.there().as_ref() {
            Some(there) => there.listing.packs.iter().map(|(name, packs)| (name.clone(), packs.clone())).collect(),
            None => return Ok(()),
        };
        let told = locked(&shipping.shared.bases).clone().filter(|(lineage, _)| *lineage == ready.lineage);
        let (told, mut keeps) = (told.map(|(_, told)| told).unwrap_or_default(), false);
        let horizon = self.horizon();
        let snapshots: Vec<_> = ready.journals.values().map(|it| it.index().level(Level::SNAPSHOT).to_vec()).collect();
        for (name, packs) in there {
            let expired = match ready.journals.get(&name) {
                Some(journal) => {
                    let (kept, damaged) = (kept(horizon, &journal.index()), damaged(ready, &name));
                    let expired = packs.expired(kept, &damaged);
                    let is_told = packs.base(kept, &damaged) <= told.get(&name).copied();
                    keeps |= !is_told && !expired.is_empty();
                    if is_told { expired } else { Vec::new() }
                }
                // A database that isn't kept any more goes as a whole.
                None => {
                    let last = packs.all().iter().map(|pack| pack.span.last).max().unwrap_or_default();
                    let is_over = horizon.is_after(last, snapshots.iter().map(Vec::as_slice));
                    if is_over { packs.all().to_vec() } else { Vec::new() }
                }
            };
            for pack in expired {
                self.remove_pack(shipping, ready, link, (&name, &pack), control)?;
            }
        }
        *locked(&shipping.shared.keeps) = keeps;
        if keeps {
            *locked(&shipping.shared.written) = None;
        }
        Ok(())
    }

    /// All that lies there: what can be read by whoever holds it is counted, what belongs to a lineage that the catalog names no more goes, and
    /// of what isn't there any more it needn't be known that it was damaged.
    fn look_over(&self, shipping: &Shipping, ready: &Ready, control: &Control) -> Result<(), Error> {
        let site = Site::look(&self.target(&Elsewhere::Name(shipping.name.clone()))?, control)?;
        let Contents { objects: listed, folders } = site.link.at(site.link.remote.contents(JOURNALS))?;
        let is_named = |lineage: Nonce| site.journals().iter().any(|held| held.lineage == lineage);
        let lineage = |key: &str| Key::parse_part(key).map(|(key, _)| key.lineage());
        let plain = plain(listed.iter().map(|it| it.key.as_str()));
        let there: BTreeSet<String> =
            listed.iter().filter_map(|it| Some(Key::parse_part(&it.key)?.0.to_string())).collect();
        let strangers: Vec<String> =
            listed.into_iter().map(|it| it.key).filter(|key| lineage(key).is_some_and(|it| !is_named(it))).collect();
        // Nothing is removed on the word of another's catalog.
        if !is_named(ready.lineage) {
            return Ok(());
        }
        let gone: Vec<&String> = ready
            .damaged
            .iter()
            .filter(|key| !there.contains(*key) || lineage(key).is_none_or(|it| !is_named(it)))
            .collect();
        locked(&shipping.shared.mended).extend(gone.iter().map(|key| (*key).clone()));
        let mut remembered = shipping.remembered();
        (remembered.plain, remembered.plain_to) = plain;
        remembered.lost.retain(|key| !gone.contains(&key));
        remembered.save(self.store.root(), &shipping.name)?;
        drop(remembered);
        match self.link_to_own(shipping, ready.lineage, control)? {
            Some(link) => {
                delete(&link, strangers, control)?;
                // Nobody writes there any more. What lies within comes first; those of a lineage that counts are filled again.
                let is_over = |folder: &&String| lineage_of(folder).is_some_and(|it| !is_named(it));
                folders.iter().rev().filter(is_over).try_for_each(|folder| {
                    control.check()?;
                    link.at(link.remote.remove_folder(folder))
                })
            }
            None => Ok(()),
        }
    }
}

/// How many packs aren't encrypted, and the last instant in them.
fn plain<'a>(keys: impl Iterator<Item = &'a str>) -> (u64, Option<DateTime<Utc>>) {
    let last = |key: &str| match Key::parse_part(key)? {
        (Key::Pack { span, encrypted: false, .. }, 0 | 1) => Some(span.last),
        _ => None,
    };
    let (count, to) = keys.filter_map(last).fold((0, 0), |(count, to), last| (count + 1, last.max(to)));
    (count, (count > 0).then(|| Moment::of_millis(to).map(Moment::at)).flatten())
}

/// Which packs of a database are known to be damaged there.
pub(super) fn damaged(ready: &Ready, of: &DatabaseName) -> BTreeSet<Span> {
    spans(ready.damaged.iter(), ready.lineage, of)
}

/// Those among these keys that are packs of a database in that lineage.
pub(super) fn spans<'a>(keys: impl Iterator<Item = &'a String>, of: Nonce, name: &DatabaseName) -> BTreeSet<Span> {
    let span = |key| match key {
        Key::Pack { lineage, database, span, .. } if lineage == of && database == *name => Some(span),
        _ => None,
    };
    keys.filter_map(|key| span(Key::parse(key)?)).collect()
}

/// Every state of a database since then stays: the journal here may reach back farther than the window.
pub(super) fn kept(horizon: Horizon, here: &Index) -> Horizon {
    horizon.or_since(here.oldest().map_or(0, |point| point.millis))
}

/// The next file of each database that is a pack of its own.
fn next(shipping: &Shipping, ready: &Ready) -> Vec<(DatabaseName, LtxFile)> {
    let there = shipping.there();
    let Some(there) = there.as_ref().filter(|there| there.lineage == ready.lineage) else { return Vec::new() };
    let none = Packs::default();
    let lacks = |(name, journal): (&DatabaseName, &Journal)| {
        let packs = there.listing.packs.get(name).unwrap_or(&none);
        Some((name.clone(), packs.lacks_larger(&journal.index())?))
    };
    ready.journals.iter().filter_map(lacks).collect()
}
