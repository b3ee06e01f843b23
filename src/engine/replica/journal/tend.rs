//! What is in no hurry: snapshots and larger steps, each file a pack of its own, and what is older than the window, or of a lineage that
//! the catalog names no more. A large snapshot holds up no seconds, since this is a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use super::send::{Sent, stops_all};
use super::shipping::{Ready, Shipping, delete};
use crate::backup::replica::Nonce;
use crate::backup::{DatabaseName, Moment};
use crate::engine::replica::Elsewhere;
use crate::engine::replica::site::{Link, Site};
use crate::engine::{Engine, Error, locked};
use crate::journal::pack::{JOURNALS, Key, Span};
use crate::journal::packs::Packs;
use crate::journal::timeline::Timeline;
use crate::journal::{Journal, Level, LtxFile};
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
        let listed = shipping.there().as_ref().filter(|there| there.lineage == ready.lineage).map(|there| there.listed);
        let Some(listed) = listed else { return Ok(false) };
        let next = next(shipping, &ready);
        if next.is_empty() && !is_due {
            return Ok(false);
        }
        let Some(link) = self.link_to_own(shipping, ready.lineage, control)? else { return Ok(false) };
        let (mut more, mut first) = (false, Ok(()));
        for (name, file) in &next {
            let Some(journal) = ready.journals.get(name) else { continue };
            match self.send_pack(shipping, &ready, &link, (name, journal), &[*file], control) {
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
        if is_due {
            self.retain_shipped(shipping, &ready, &link, control)?;
            let joined = self.join_shipped(shipping, &ready, &link, control);
            self.look_over(shipping, control)?;
            *looked = Some(Instant::now());
            if listed.elapsed() >= EVERY {
                *shipping.there() = None;
            }
            first = first.and(joined);
        }
        first.map(|()| more)
    }

    /// As here: every state since the window began stays. Where the journal here reaches back farther, so does the one there.
    fn retain_shipped(&self, shipping: &Shipping, ready: &Ready, link: &Link, control: &Control) -> Result<(), Error> {
        let Some(alive) = Timeline::read(self.store.root())?.alive else { return Ok(()) };
        let window = TimeDelta::from_std(self.config.pitr.retention).unwrap_or(TimeDelta::MAX);
        let Some(oldest) = alive.checked_sub_signed(window) else { return Ok(()) };
        let oldest = u64::try_from(oldest.timestamp_millis()).unwrap_or_default();
        let there: BTreeMap<_, _> = match shipping.there().as_ref() {
            Some(there) => there.listing.packs.iter().map(|(name, packs)| (name.clone(), packs.clone())).collect(),
            None => return Ok(()),
        };
        for (name, packs) in there {
            let expired = match ready.journals.get(&name) {
                Some(journal) => {
                    let oldest = oldest.min(journal.index().oldest().map_or(0, |point| point.millis));
                    packs.expired(oldest, &damaged(shipping, ready, &name))
                }
                // A database that isn't kept any more goes as a whole.
                None if packs.all().iter().all(|pack| pack.span.last < oldest) => packs.all().to_vec(),
                None => Vec::new(),
            };
            for pack in expired {
                self.remove_pack(shipping, ready, link, (&name, &pack), control)?;
            }
        }
        self.forget_lost(shipping)
    }

    /// Of what has gone there it needn't be known any more that it was damaged.
    fn forget_lost(&self, shipping: &Shipping) -> Result<(), Error> {
        let is_there = |key: &String| match (Key::parse(key), shipping.there().as_ref()) {
            (Some(Key::Pack { lineage, database, span, .. }), Some(there)) if lineage == there.lineage => {
                let packs = there.listing.packs.get(&database);
                packs.is_some_and(|packs| packs.all().iter().any(|pack| pack.span == span))
            }
            (_, there) => there.is_none(),
        };
        let lost = shipping.remembered().lost.clone();
        let gone: Vec<_> = lost.iter().filter(|key| !is_there(key)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut remembered = shipping.remembered();
        remembered.lost.retain(|key| !gone.contains(&key));
        remembered.save(self.store.root(), &shipping.name)
    }

    /// All that lies there: what can be read by whoever holds it is counted, and what belongs to a lineage that the catalog names no
    /// more goes.
    fn look_over(&self, shipping: &Shipping, control: &Control) -> Result<(), Error> {
        let site = Site::look(&self.target(&Elsewhere::Name(shipping.name.clone()))?, control)?;
        let listed = site.link.at(site.link.remote.list(JOURNALS))?;
        let is_named = |lineage: Nonce| site.journals().iter().any(|held| held.lineage == lineage);
        let lineage = |key: &str| Key::parse_part(key).map(|(key, _)| key.lineage());
        let plain = plain(listed.iter().map(|it| it.key.as_str()));
        let strangers: Vec<String> =
            listed.into_iter().map(|it| it.key).filter(|key| lineage(key).is_some_and(|it| !is_named(it))).collect();
        // Nothing is removed on the word of another's catalog.
        let Some(ready) = self.ready(shipping)?.filter(|ready| is_named(ready.lineage)) else { return Ok(()) };
        let mut remembered = shipping.remembered();
        (remembered.plain, remembered.plain_to) = plain;
        remembered.save(self.store.root(), &shipping.name)?;
        drop(remembered);
        match self.link_to_own(shipping, ready.lineage, control)? {
            Some(link) => delete(&link, strangers, control),
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
fn damaged(shipping: &Shipping, ready: &Ready, of: &DatabaseName) -> BTreeSet<Span> {
    let remembered = shipping.remembered();
    let keys = ready.damaged.iter().chain(&remembered.lost).filter_map(|key| Key::parse(key));
    let span = |key| match key {
        Key::Pack { lineage, database, span, .. } if lineage == ready.lineage && database == *of => Some(span),
        _ => None,
    };
    keys.filter_map(span).collect()
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
