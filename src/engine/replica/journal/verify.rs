//! Reading the journal in a replica back: every pack, and every file in it [P8].

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use super::unpack::{Bad, Packed};
use crate::backup::replica::Object;
use crate::engine::replica::site::{Link, Site};
use crate::engine::{Engine, Error};
use crate::journal::pack::Key;
use crate::sqlite::{Control, Progress};

/// So many damaged ones are named.
const MOST_NAMED: usize = 100;

/// What was found of the journal in a replica.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalVerdict {
    /// All of it is whole.
    pub ok: bool,
    /// Packs that were read.
    pub packs: u64,
    /// What is damaged, and how; the first hundred.
    pub damaged: Vec<String>,
    /// No identity was at hand to decrypt it, so it was only read to its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ciphertext_only: bool,
}

impl Engine {
    /// Reads all of it, and tells the keys of what is damaged. Nothing where no journal lies there.
    pub(in crate::engine::replica) fn verify_journals(
        &self,
        site: &Site,
        keys: &mut BTreeSet<String>,
        control: &Control,
    ) -> Result<Option<JournalVerdict>, Error> {
        let mut verdict = JournalVerdict { ok: true, ..JournalVerdict::default() };
        for held in site.journals() {
            let listing = self.listing_there(&site.link, held.lineage)?;
            let total = listing.packs.values().flat_map(|packs| packs.all()).map(|pack| pack.size).sum();
            let mut done = 0;
            for (database, packs) in &listing.packs {
                for pack in packs.all() {
                    control.tell(Progress { database, done, total });
                    let packed = Packed { link: &site.link, lineage: held.lineage, database, pack: *pack, control };
                    self.look_into(&packed, &mut verdict, keys)?;
                    done += pack.size;
                }
            }
        }
        Ok((verdict.packs > 0).then_some(verdict))
    }

    fn look_into(
        &self,
        packed: &Packed<'_>,
        verdict: &mut JournalVerdict,
        keys: &mut BTreeSet<String>,
    ) -> Result<(), Error> {
        let reason = match packed.read(self, &|_| None)? {
            Ok(()) => None,
            Err(Bad::Damaged(reason)) => Some(reason),
            Err(Bad::Locked) => {
                verdict.ciphertext_only = true;
                self.read_ciphertext(packed.link, &packed.key(), packed)?
            }
        };
        verdict.packs += 1;
        // What has gone by its age meanwhile is no damage.
        let Some(reason) = reason.filter(|_| self.is_still_there(packed).unwrap_or(true)) else { return Ok(()) };
        verdict.ok = false;
        if verdict.damaged.len() < MOST_NAMED {
            keys.insert(packed.key());
            verdict.damaged.push(reason);
        }
        Ok(())
    }

    fn read_ciphertext(&self, link: &Link, key: &str, packed: &Packed<'_>) -> Result<Option<String>, Error> {
        let object = Object { size: packed.pack.size, checksum: String::new(), parts: packed.pack.parts };
        self.read_whole(link, key, &object, &mut || Ok(packed.control.check()?))
    }

    fn is_still_there(&self, packed: &Packed<'_>) -> Result<bool, Error> {
        let key = packed.key();
        let Some(Key::Pack { lineage, database, span, .. }) = Key::parse(&key) else { return Ok(true) };
        let listing = self.listing_there(packed.link, lineage)?;
        Ok(listing.packs.get(&database).is_some_and(|packs| packs.all().iter().any(|pack| pack.span == span)))
    }
}
