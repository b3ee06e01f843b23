//! Which instants a replica has: of each lineage that its catalog names what lies there, by listings, and until when all of it does.
//! What comes from there is untrusted; an instant in a hole, in a gap, or after `until` is none.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::listing::Listing;
use crate::backup::replica::{HeldJournal, Nonce};
use crate::backup::{DatabaseName, Form, Moment};
use crate::codec;
use crate::engine::journal::{Recovery, Window};
use crate::engine::replica::Elsewhere;
use crate::engine::replica::site::{Link, Site};
use crate::engine::{Engine, Error};
use crate::journal::pack::{Key, Span, folder_of};
use crate::journal::packs::{Packs, Reach};
use crate::journal::timeline::Gap;
use crate::journal::until::Until;
use crate::remote;
use crate::sqlite::Control;

/// A lineage from which something can be had.
pub(super) struct LineageThere {
    pub(super) held: HeldJournal,
    pub(super) packs: BTreeMap<DatabaseName, Packs>,
    /// The instants that all of its databases have.
    pub(super) window: Window,
    until: Until,
}

impl LineageThere {
    /// The instants next to this one, before and after it, that can be had without these packs of a database.
    pub(super) fn nearest(
        &self,
        of: &DatabaseName,
        damaged: &BTreeSet<Span>,
        moment: Moment,
    ) -> impl Iterator<Item = Moment> {
        let of = |(name, packs): (&DatabaseName, &Packs)| {
            let (mut left, damaged) = (packs.clone(), damaged.iter().filter(|_| name == of));
            damaged.for_each(|span| left.remove(span));
            Some((name.clone(), window(&left.reach()?, &self.until, name)?))
        };
        let windows: Recovery = self.packs.iter().filter_map(of).collect();
        nearest(Window::common(&windows).as_ref(), moment)
    }
}

/// A lineage from which nothing can be had, though it was sent.
pub(super) struct LineageLost {
    /// The databases of which nothing can be rebuilt; nothing where they have no instant in common.
    lost: Vec<DatabaseName>,
    until: Until,
}

/// The lineages that a catalog names, in the order in which they were begun.
#[derive(Default)]
pub(super) struct LineagesThere {
    pub(super) found: Vec<LineageThere>,
    lost: Vec<LineageLost>,
}

impl LineagesThere {
    /// The latest that has that instant. The reason says why it can't be had.
    pub(super) fn with(&self, moment: Moment, link: &Link) -> Result<&LineageThere, Error> {
        let reaches = |it: &&LineageThere| it.window.assert_reaches(moment).is_ok();
        if let Some(found) = self.found.iter().rev().find(reaches) {
            return Ok(found);
        }
        let window = joined(&self.found);
        let had = |lost: &&LineageLost| (lost.until.from..=lost.until.alive).contains(&moment.at());
        let lost = self.lost.iter().rev().find(had).or_else(|| self.lost.last().filter(|_| window.is_none()));
        if let Some(LineageLost { lost, .. }) = lost {
            let names: Vec<_> = lost.iter().map(|name| format!("`{name}`")).collect();
            let why = match &names[..] {
                [] => "its databases have no instant in common there any more".to_owned(),
                names => format!("nothing of {} can be rebuilt from what is left there", names.join(", ")),
            };
            let near = instead(nearest(window.as_ref(), moment));
            return Err(link.damaged(format!("{moment} can't be had: {why}, as packs were lost; {near}")));
        }
        let none = || Error::ReplicaNoJournal { at: link.label() };
        window.ok_or_else(none)?.assert_reaches(moment)?;
        Err(none())
    }
}

/// The instants of a window next to one that can't be had, before and after it.
fn nearest(window: Option<&Window>, moment: Moment) -> impl Iterator<Item = Moment> + use<> {
    let (spans, at) = (window.map(known).unwrap_or_default(), moment.at());
    let before = spans.iter().filter(|span| span.0 <= at).map(|span| span.1.min(at)).filter(|it| *it < at).max();
    let after = spans.iter().map(|span| span.0).filter(|from| *from > at).min();
    [before, after].into_iter().flatten().map(Moment::new)
}

/// In words.
pub(super) fn instead(near: impl Iterator<Item = Moment>) -> String {
    let near = near.map(|at| at.to_string()).collect::<Vec<_>>().join(" and ");
    if near.is_empty() { "take a backup".to_owned() } else { format!("next to it can be had: {near}") }
}

impl Engine {
    /// The instants that can be restored from a replica, all databases at once. Nothing where no journal lies there.
    pub fn window_there(&self, from: &Elsewhere, control: &Control) -> Result<Option<Window>, Error> {
        let site = Site::look(&self.target(from)?, control)?;
        Ok(joined(&self.lineages_there(&site)?.found))
    }

    /// All that its catalog names.
    pub(super) fn lineages_there(&self, site: &Site) -> Result<LineagesThere, Error> {
        let mut journals = site.journals().to_vec();
        journals.sort_by_key(|held| held.since);
        let (mut lineages, mut locked) = (LineagesThere::default(), None);
        for held in journals {
            let link = &site.link;
            let listing = self.listing_there(link, held.lineage)?;
            let until = match self.until_there(link, held.lineage, &listing) {
                // One that an older key opens is in no other's way.
                Err(error @ Error::ReplicaJournalLocked { .. }) => {
                    locked = Some(error);
                    continue;
                }
                until => until?,
            };
            let Some(until) = until else { continue };
            let packs: BTreeMap<_, _> =
                listing.packs.into_iter().filter(|(name, _)| until.databases.contains_key(name)).collect();
            let of =
                |(name, packs): (&DatabaseName, &Packs)| Some((name.clone(), window(&packs.reach()?, &until, name)?));
            let windows: Recovery = packs.iter().filter_map(of).collect();
            // Without one of them it would be an instant of the others.
            let lost: Vec<_> = until.databases.keys().filter(|name| !windows.contains_key(name)).cloned().collect();
            match Window::common(&windows).filter(|_| lost.is_empty()) {
                Some(window) => lineages.found.push(LineageThere { held, packs, window, until }),
                None => {
                    tracing::warn!(replica = link.label(), lineage = %held.lineage, ?lost, "nothing can be had of a journal there: packs of it are gone");
                    lineages.lost.push(LineageLost { lost, until });
                }
            }
        }
        match locked {
            Some(locked) if lineages.found.is_empty() => Err(locked),
            _ => Ok(lineages),
        }
    }

    pub(super) fn listing_there(&self, link: &Link, lineage: Nonce) -> Result<Listing, Error> {
        Ok(Listing::of(lineage, &link.at(link.remote.list(&folder_of(lineage)))?))
    }

    /// The newest that is whole. One that went meanwhile was followed by another, which says more.
    pub(super) fn until_there(&self, link: &Link, lineage: Nonce, listing: &Listing) -> Result<Option<Until>, Error> {
        for (_, key, _) in listing.untils.iter().rev() {
            if let Some(until) = self.until_of(link, key)? {
                return Ok(Some(until));
            }
        }
        let again = match listing.untils.is_empty() {
            true => return Ok(None),
            false => self.listing_there(link, lineage)?,
        };
        again.untils.last().map_or(Ok(None), |(_, key, _)| self.until_of(link, key))
    }

    fn until_of(&self, link: &Link, key: &str) -> Result<Option<Until>, Error> {
        let Some(Key::Until { digits, encrypted, .. }) = Key::parse(key) else { return Ok(None) };
        let bytes = match link.remote.get(key, Until::MAX_BYTES) {
            Err(remote::Error::Broken(reason)) => {
                tracing::warn!(replica = link.label(), key, reason, "it is passed over");
                None
            }
            read => link.at(read)?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        if Sha256::digest(&bytes)[..8] != digits {
            tracing::warn!(replica = link.label(), key, "it is not whole, and passed over");
            return Ok(None);
        }
        let mut plain = Vec::new();
        let decoded = self.config.codec.decode(bytes.as_slice(), Form::of(false, encrypted), None);
        let read = decoded.map(|decoder| decoder.take(Until::MAX_BYTES).read_to_end(&mut plain));
        let reason = match read {
            Ok(Ok(_)) => match Until::parse(&plain) {
                Ok(until) => return Ok(Some(until)),
                Err(reason) => reason,
            },
            Err(codec::Error::Locked) => return Err(Error::ReplicaJournalLocked { at: link.label() }),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(replica = link.label(), key, reason, "it can't be read, and is passed over");
        Ok(None)
    }
}

/// Of one database.
fn window(reach: &Reach, until: &Until, name: &DatabaseName) -> Option<Window> {
    let from = reach.from.at()?.max(until.from);
    // Where a state is missing that was sent, nobody knows for how long the one before was the newest. What lies beyond is later.
    let is_all = until.databases.get(name).is_some_and(|newest| reach.to.txid.get() >= *newest);
    let to = if is_all { until.alive } else { reach.to.at()?.min(until.alive) };
    Window::of(from, to, until.gaps.iter().copied().chain(reach.gaps(until.lasted(name))))
}

/// All instants that one of them has.
pub(super) fn joined(lineages: &[LineageThere]) -> Option<Window> {
    let mut spans: Vec<(DateTime<Utc>, DateTime<Utc>)> = lineages.iter().flat_map(|it| known(&it.window)).collect();
    spans.sort_unstable();
    let mut joined: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.0 <= last.1 => last.1 = last.1.max(span.1),
            _ => joined.push(span),
        }
    }
    let (first, last) = (joined.first()?, joined.last()?);
    let found = || lineages.iter().flat_map(|it| &it.window.gaps).filter(|gap| gap.wrong);
    let gaps = joined.windows(2).map(|pair| {
        let (from, to) = (pair[0].1, pair[1].0);
        Gap { from, to, wrong: found().any(|gap| gap.from < to && from < gap.to) }
    });
    Window::of(first.0, last.1, gaps)
}

/// What lies between its gaps, with both ends.
fn known(window: &Window) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let begins = std::iter::once(window.from).chain(window.gaps.iter().map(|gap| gap.to));
    let ends = window.gaps.iter().map(|gap| gap.from).chain([window.to]);
    begins.zip(ends).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u32) -> DateTime<Utc> {
        format!("2026-11-26T09:{minute:02}:00Z").parse().unwrap()
    }

    fn lineage(from: u32, to: u32, gaps: &[(u32, u32)]) -> LineageThere {
        let gaps = gaps.iter().map(|(from, to)| Gap::new(at(*from), at(*to)));
        let held = HeldJournal { lineage: Nonce([0; 8]), since: at(from) };
        let until = Until::new(at(from), at(to), Vec::new(), &BTreeMap::new());
        LineageThere { held, packs: BTreeMap::new(), window: Window::of(at(from), at(to), gaps).unwrap(), until }
    }

    #[test]
    fn an_instant_that_any_lineage_has_is_one() {
        let joined =
            joined(&[lineage(10, 30, &[(15, 20)]), lineage(17, 18, &[]), lineage(25, 28, &[]), lineage(40, 50, &[])]);
        let gap = |from, to| Gap::new(at(from), at(to));
        assert_eq!(joined, (Window::of(at(10), at(50), [gap(15, 17), gap(18, 20), gap(30, 40)])));
        assert_eq!(super::joined(&[]), None);
    }
}
