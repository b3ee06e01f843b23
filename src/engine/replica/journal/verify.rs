//! Reading the journal in a replica back: every pack, and every file in it [P8]; and whether all is there that was sent.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use utoipa::ToSchema;

use super::listing::Listing;
use super::unpack::{Bad, Packed};
use crate::backup::replica::{Nonce, Object};
use crate::backup::{DatabaseName, Moment};
use crate::engine::replica::site::{Link, Site};
use crate::engine::{Engine, Error};
use crate::journal::pack::{Span, folder_of};
use crate::journal::until::Missing;
use crate::sqlite::{Control, Progress};

/// So often it is looked at again, as long as what came meanwhile reads badly: it may not be there to its end.
const LOOKS: usize = 3;
/// So many damaged ones are named.
const MOST_NAMED: usize = 100;

/// What was found of the journal in a replica.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalVerdict {
    /// All of it is whole, and nothing is missing.
    pub ok: bool,
    /// Packs that were read.
    pub packs: u64,
    /// What is damaged, and how; the first hundred.
    pub damaged: Vec<String>,
    /// What was sent and is there no more; the first hundred. A gap that is known is none of it.
    pub missing: Vec<String>,
    /// No identity was at hand to decrypt it, so it was only read to its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ciphertext_only: bool,
}

/// What is wrong with one lineage.
#[derive(Default)]
struct Wrong {
    /// Packs: their keys, and how they are damaged.
    damaged: BTreeMap<(DatabaseName, Span), (String, String)>,
    missing: BTreeSet<String>,
}

impl Engine {
    /// Reads all of it, and tells the keys of all that is damaged. Nothing where no journal lies there.
    pub(in crate::engine::replica) fn verify_journals(
        &self,
        site: &Site,
        keys: &mut BTreeSet<String>,
        control: &Control,
    ) -> Result<Option<JournalVerdict>, Error> {
        let mut verdict = JournalVerdict::default();
        for held in site.journals() {
            let (listing, mut wrong) = (self.listing_there(&site.link, held.lineage)?, Wrong::default());
            wrong.missing = self.missing_there(&site.link, held.lineage, &listing)?;
            // What a store says of sizes may be anything.
            let sizes = listing.packs.values().flat_map(|packs| packs.all()).map(|pack| pack.size);
            let total = sizes.fold(0, u64::saturating_add);
            let mut done: u64 = 0;
            for (database, packs) in &listing.packs {
                for pack in packs.all() {
                    control.tell(Progress { database, done, total });
                    let packed = Packed { link: &site.link, lineage: held.lineage, database, pack: *pack, control };
                    verdict.packs += 1;
                    if let Some(reason) = self.look_into(&packed, &mut verdict)? {
                        wrong.damaged.insert((database.clone(), pack.span), (packed.key(), reason));
                    }
                    done = done.saturating_add(pack.size);
                }
            }
            let mut seen = listing;
            for _ in 0..LOOKS {
                match self.look_again(site, held.lineage, &seen, &mut wrong, &mut verdict, control)? {
                    Some(again) => seen = again,
                    None => break,
                }
            }
            keys.extend(wrong.damaged.values().map(|(key, _)| key.clone()));
            verdict.damaged.extend(wrong.damaged.into_values().map(|(_, reason)| reason));
            verdict.missing.extend(wrong.missing);
        }
        verdict.ok = verdict.damaged.is_empty() && verdict.missing.is_empty();
        verdict.damaged.truncate(MOST_NAMED);
        verdict.missing.truncate(MOST_NAMED);
        Ok((verdict.packs > 0 || !verdict.ok).then_some(verdict))
    }

    /// Why it isn't what was sent.
    fn look_into(&self, packed: &Packed<'_>, verdict: &mut JournalVerdict) -> Result<Option<String>, Error> {
        match packed.read(self, &|_| None)? {
            Ok(_) => Ok(None),
            Err(Bad::Damaged(reason)) => Ok(Some(reason)),
            Err(Bad::Locked) => {
                verdict.ciphertext_only = true;
                self.read_ciphertext(packed.link, &packed.key(), packed)
            }
        }
    }

    fn read_ciphertext(&self, link: &Link, key: &str, packed: &Packed<'_>) -> Result<Option<String>, Error> {
        let object = Object { size: packed.pack.size, checksum: String::new(), parts: packed.pack.parts };
        self.read_whole(link, key, &object, &mut || Ok(packed.control.check()?))
    }

    /// What has gone by its age meanwhile, or has become a part of something else, or is of a lineage that the newest catalog names no more, is
    /// no damage; what was sent again meanwhile is whole, and what lay elsewhere just then isn't missing, and is read. Where it can't be
    /// looked at again, what was found stands. Says what lies there now, if some of it was read for the first time and is damaged.
    fn look_again(
        &self,
        site: &Site,
        lineage: Nonce,
        first: &Listing,
        wrong: &mut Wrong,
        verdict: &mut JournalVerdict,
        control: &Control,
    ) -> Result<Option<Listing>, Error> {
        if wrong.damaged.is_empty() && wrong.missing.is_empty() {
            return Ok(None);
        }
        let Ok(again) = Site::look(&site.link.target, control) else { return Ok(None) };
        if again.catalog.is_some() && !again.journals().iter().any(|held| held.lineage == lineage) {
            *wrong = Wrong::default();
            return Ok(None);
        }
        let link = &site.link;
        let Ok(listing) = self.listing_there(link, lineage) else { return Ok(None) };
        let (damaged, mut is_new) = (std::mem::take(&mut wrong.damaged), false);
        for (database, pack) in
            listing.packs.iter().flat_map(|(name, packs)| packs.all().iter().map(move |it| (name, it)))
        {
            let (at, was_read) = ((database.clone(), pack.span), first.has(database, pack));
            if was_read && !damaged.contains_key(&at) {
                continue;
            }
            let is_first = !damaged.contains_key(&at);
            verdict.packs += u64::from(is_first);
            let packed = Packed { link, lineage, database, pack: *pack, control };
            if let Some(reason) = self.look_into(&packed, verdict)? {
                is_new |= is_first;
                wrong.damaged.insert(at, (packed.key(), reason));
            }
        }
        if let Ok(missing) = self.missing_there(link, lineage, &listing) {
            wrong.missing.retain(|text| missing.contains(text));
        }
        Ok(is_new.then_some(listing))
    }

    /// What the replica says to have of that lineage, and doesn't.
    fn missing_there(&self, link: &Link, lineage: Nonce, listing: &Listing) -> Result<BTreeSet<String>, Error> {
        let until = match self.until_there(link, lineage, listing) {
            // What it says can't be read without an identity.
            Err(Error::ReplicaJournalLocked { .. }) => return Ok(BTreeSet::new()),
            until => until?,
        };
        let Some(until) = until else {
            let text = format!("{}until/: none of what says until when all is there can be read", folder_of(lineage));
            return Ok((!listing.untils.is_empty()).then_some(text).into_iter().collect());
        };
        let told = |name: &DatabaseName, Missing { after, before }: Missing| {
            let at = |millis| Moment::of_millis(millis).map_or_else(String::new, |at| at.to_string());
            let when = match before {
                Some(before) => format!("between {} and {}", at(after), at(before)),
                None => format!("after {}", at(after)),
            };
            format!(
                "{name}: states {when} were sent and are missing; what of them lies here is sent again within an hour"
            )
        };
        let of = |name| until.missing(name, listing.packs.get(name)).into_iter().map(move |it| told(name, it));
        Ok(until.databases.keys().flat_map(of).collect())
    }
}
