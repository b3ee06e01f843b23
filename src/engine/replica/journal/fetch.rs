//! Coming back to an instant: what leads there is brought from a replica into a private folder, as it lies in a backup directory, and
//! rebuilt from that. No lock is held meanwhile.
//!
//! 1. Of the lineages that the catalog there names the latest that has the instant is chosen, and of each database the packs that lead to
//!    it. A directory in which nothing is yet becomes that of the replica's store.
//! 2. Each pack is read, compared and written. For one that is damaged others may stand in; else it is said which instants there are.
//! 3. The files that lead to the instant are chosen as those of a journal here, and whatever follows is the same.

use std::collections::BTreeSet;
use std::path::Path;

use super::site::{LineageThere, LineagesThere, instead};
use super::unpack::{Bad, Packed};
use crate::backup::{DatabaseName, Moment};
use crate::disk;
use crate::engine::create::OVERHEAD;
use crate::engine::journal::Point;
use crate::engine::past::Origin;
use crate::engine::replica::Elsewhere;
use crate::engine::replica::site::{Link, Site};
use crate::engine::staging::Staging;
use crate::engine::{Call, Engine, Error};
use crate::journal::folder::folder;
use crate::journal::pack::Span;
use crate::journal::packs::{Pack, Packs};
use crate::journal::{FileName, states};
use crate::sqlite::{Control, Progress};

/// An instant, and what leads there, brought from a replica.
pub struct FetchedPoint {
    label: String,
    point: Point,
    /// It goes with this.
    _folder: Staging,
}

impl FetchedPoint {
    pub(in crate::engine) fn origin(&self) -> Origin {
        Origin::Point(self.point.clone())
    }

    /// The replica's name or URL.
    pub(in crate::engine) fn label(&self) -> String {
        self.label.clone()
    }
}

impl Engine {
    /// Brings what leads to an instant from a replica.
    pub fn fetch_point(&self, from: &Elsewhere, moment: Moment, call: &Call) -> Result<FetchedPoint, Error> {
        let fetched = self.fetched(from, moment, call);
        fetched.inspect_err(|error| self.refused("restore", call, Some(moment.into()), error))
    }

    /// What is there may be joined, or go by its age, while it is brought: then it is looked up once more.
    fn fetched(&self, from: &Elsewhere, moment: Moment, call: &Call) -> Result<FetchedPoint, Error> {
        let site = Site::look(&self.target(from)?, &call.control)?;
        site.catalog()?;
        let lineages = self.lineages_there(&site)?;
        match self.fetched_of(&site, &lineages, moment, call) {
            Err(error @ Error::ReplicaDamaged { .. }) => {
                let again = self.lineages_there(&site)?;
                let packs = |of: &LineagesThere| of.found.iter().map(|it| it.packs.clone()).collect::<Vec<_>>();
                if packs(&again) == packs(&lineages) {
                    Err(error)
                } else {
                    self.fetched_of(&site, &again, moment, call)
                }
            }
            fetched => fetched,
        }
    }

    fn fetched_of(
        &self,
        site: &Site,
        lineages: &LineagesThere,
        moment: Moment,
        call: &Call,
    ) -> Result<FetchedPoint, Error> {
        let link = &site.link;
        let lineage = lineages.with(moment, link)?;
        self.adopt(site.catalog()?, call)?;
        let chosen = lineage.packs.values().filter_map(|packs| packs.choose(moment.millis(), &BTreeSet::new()));
        let total = chosen.flatten().fold(0, |sum: u64, pack| sum.saturating_add(pack.size));
        let (needed, free) = (total.saturating_add(OVERHEAD), disk::free_space(self.store.root())?);
        if free < needed {
            return Err(Error::Full { needed, free });
        }
        let staging = Staging::create(self.store.root())?;
        let mut done = 0;
        for (name, packs) in &lineage.packs {
            let bringing = Bringing { engine: self, link, lineage, name, packs, moment, control: &call.control };
            bringing.bring(staging.path(), &mut done, total)?;
        }
        let point = self.point_in(staging.path(), lineage.packs.keys().cloned(), moment)?;
        Ok(FetchedPoint { label: link.label(), point, _folder: staging })
    }
}

/// The journal of one database on its way here.
struct Bringing<'a> {
    engine: &'a Engine,
    link: &'a Link,
    lineage: &'a LineageThere,
    name: &'a DatabaseName,
    packs: &'a Packs,
    moment: Moment,
    control: &'a Control,
}

impl Bringing<'_> {
    fn bring(&self, root: &Path, done: &mut u64, total: u64) -> Result<(), Error> {
        let folder = folder(root, self.name);
        let (mut here, mut damaged, mut reason) = (BTreeSet::new(), BTreeSet::new(), String::new());
        'chosen: loop {
            let Some(chosen) = self.packs.choose(self.moment.millis(), &damaged) else {
                return Err(self.lost(&damaged, &reason));
            };
            for pack in chosen {
                if here.contains(&pack.span) {
                    continue;
                }
                self.control.tell(Progress { database: self.name, done: *done, total });
                *done += pack.size;
                match self.bring_pack(&folder, &pack)? {
                    Ok(()) => drop(here.insert(pack.span)),
                    Err(Bad::Locked) => return Err(Error::ReplicaJournalLocked { at: self.link.label() }),
                    Err(Bad::Damaged(why)) => {
                        tracing::warn!(replica = self.link.label(), "{why}; it is tried without");
                        damaged.insert(pack.span);
                        reason = why;
                        continue 'chosen;
                    }
                }
            }
            return Ok(());
        }
    }

    fn bring_pack(&self, folder: &Path, pack: &Pack) -> Result<Result<(), Bad>, Error> {
        let level = folder.join("ltx").join(pack.span.level.to_string());
        for path in [disk::parent(folder), folder, &folder.join("ltx"), &level] {
            disk::make_own_dir(path)?;
        }
        let (link, lineage, database) = (self.link, self.lineage.held.lineage, self.name);
        let packed = Packed { link, lineage, database, pack: *pack, control: self.control };
        let read = packed.read(self.engine, &|name: FileName| Some(name.path(folder)))?;
        // What is rebuilt from it is compared with that.
        Ok(read.map(|told| states::note(folder, &told)))
    }

    /// What can't be rebuilt without what is damaged, and what can.
    fn lost(&self, damaged: &BTreeSet<Span>, reason: &str) -> Error {
        if damaged.is_empty() {
            let text = "packs that lead there are missing";
            return self.link.damaged(format!("{text} for `{}`; take another time, or a backup", self.name));
        }
        let near = instead(self.lineage.nearest(self.name, damaged, self.moment));
        self.link.damaged(format!("{reason}. {} can't be rebuilt without it; {near}", self.moment))
    }
}
