//! The journal held against the live databases: what its files come to is compared, page by page, with what the databases were at
//! the tick that wrote the last of them.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::rebuild::sums;
use super::sums::{Sums, page_sum};
use super::{Error, LtxFile};
use crate::backup::DatabaseName;
use crate::sqlite::Control;
use crate::sqlite::cut::Pinned;
use crate::sqlite::snapshot::Facts;

/// A database at the instant of a tick, and the files that lead there.
pub struct Check {
    /// The database as it was.
    pub(super) pinned: Pinned,
    /// When it was so.
    pub(super) at: DateTime<Utc>,
    /// The folder of its journal.
    pub(super) folder: PathBuf,
    /// What its newest state is rebuilt from.
    pub(super) chain: Vec<LtxFile>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// The database.
    pub name: DatabaseName,
    /// The instant that was looked at.
    pub at: DateTime<Utc>,
    /// What is different, if anything is.
    pub difference: Option<String>,
}

impl Check {
    /// The database.
    pub fn name(&self) -> &DatabaseName {
        self.pinned.name()
    }

    /// Reads both to their ends.
    pub fn run(self, control: &Control) -> Result<Checked, Error> {
        let facts = self.pinned.facts()?;
        let live = Sums::of(&self.pinned, &facts, control)?;
        // It keeps the app's WAL from beginning anew.
        let Self { pinned, at, folder, chain } = self;
        let name = pinned.name().clone();
        drop(pinned);
        let rebuilt = match sums(&folder, &chain, control) {
            Err(error @ (Error::Damaged { .. } | Error::Unlike { .. })) => Err(error.to_string()),
            rebuilt => Ok(rebuilt?),
        };
        let difference = rebuilt.map_or_else(Some, |rebuilt| difference(&rebuilt, &live));
        Ok(Checked { name, at, difference })
    }
}

impl Sums {
    /// Those of a database as it is pinned.
    pub(super) fn of(pinned: &Pinned, facts: &Facts, control: &Control) -> Result<Self, Error> {
        let mut sums = Self::new(facts.page_size, facts.pages as usize);
        pinned.each_page(facts, control, |number, page| -> Result<(), Error> {
            sums.set(number, page_sum(page));
            Ok(())
        })?;
        Ok(sums)
    }

    /// Whether that is a database as it is pinned.
    pub(super) fn is_what(&self, pinned: &Pinned, facts: &Facts, control: &Control) -> Result<bool, Error> {
        Ok(*self == Self::of(pinned, facts, control)?)
    }
}

fn difference(rebuilt: &Sums, live: &Sums) -> Option<String> {
    if rebuilt == live {
        return None;
    }
    let size = |sums: &Sums| (sums.page_size(), sums.pages().len() as u32);
    if size(rebuilt) != size(live) {
        return Some(differ::in_size(size(rebuilt), size(live)));
    }
    let pages = (1..).zip(rebuilt.pages().iter().zip(live.pages()));
    let differing: Vec<u32> = pages.filter(|(_, (a, b))| a != b).map(|(number, _)| number).collect();
    Some(differ::in_pages(differing.len(), differing.first().copied().unwrap_or_default()))
}

/// In words.
pub(super) mod differ {
    /// Bytes a page, and pages.
    pub(crate) fn in_size(rebuilt: (u32, u32), live: (u32, u32)) -> String {
        let of = |(size, pages): (u32, u32)| format!("{pages} pages of {size} bytes");
        format!("it comes to {}, and the database had {}", of(rebuilt), of(live))
    }

    pub(crate) fn in_pages(count: usize, first: u32) -> String {
        format!("{count} pages differ from the database, page {first} first")
    }
}
