//! A replica as it is found: the way there, and its catalog.

use std::collections::BTreeSet;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Target;
use super::state::Mark;
use crate::backup::hex;
use crate::backup::replica::{
    self, BACKUPS, CATALOGS, Chains, Held, HeldJournal, Object, Remnant, ReplicaCatalog, catalog_key, parse_catalog_key,
};
use crate::engine::Error;
use crate::journal::pack::{JOURNALS, Key};
use crate::remote::{self, Remote};
use crate::sqlite::Control;

/// Larger catalogs are not read.
pub(super) const MAX_CATALOG: u64 = 64 << 20;
/// A catalog may go between its listing and its reading: another one is there then.
const LOOKS: usize = 3;
/// The way to a replica, and how it is called.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) target: Target,
    pub(super) remote: Remote,
}

impl Link {
    /// Over connections that are there already.
    pub(super) fn over(target: &Target, remote: Remote, control: &Control) -> Self {
        let control = control.clone();
        Self { remote: remote.cancelled_by(move || control.is_cancelled()), target: target.clone() }
    }

    pub(super) fn label(&self) -> String {
        self.target.label.clone()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.target.pace.timeout
    }

    pub(super) fn at<T>(&self, result: Result<T, remote::Error>) -> Result<T, Error> {
        result.map_err(|error| self.failed(error))
    }

    pub(super) fn failed(&self, error: remote::Error) -> Error {
        self.target.failed(error)
    }

    pub(super) fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::ReplicaDamaged { at: self.label(), reason: reason.into() }
    }

    /// Whether an object is there, as long as it was, by a second word, of its own folder alone: a listing that breaks off within,
    /// or a proxy that answers "not found" for a moment, would have whole backups sent again.
    pub(super) fn is_there(&self, key: &str, object: &Object) -> Result<bool, Error> {
        let folder = key.rsplit_once('/').map_or(key, |(folder, _)| folder);
        let listed = self.at(self.remote.list(&format!("{folder}/")))?;
        Ok(is_listed(key, object, |key| listed.iter().find(|listed| listed.key == key).map(|listed| listed.size)))
    }
}

/// Whether all of an object is in a listing, as long as it was.
pub(super) fn is_listed(key: &str, object: &Object, size: impl Fn(&str) -> Option<u64>) -> bool {
    let parts: Option<Vec<u64>> = object.keys(key).iter().map(|key| size(key)).collect();
    parts.is_some_and(|parts| parts.into_iter().fold(0, u64::saturating_add) == object.size)
}

/// A replica, its catalog read.
pub(super) struct Site {
    pub(super) link: Link,
    pub(super) catalog: Option<ReplicaCatalog>,
    pub(super) mark: Option<Mark>,
    /// All catalogs that lie there, by generation.
    pub(super) catalogs: Vec<String>,
    /// Those above the one that counts, which aren't whole.
    pub(super) torn: Vec<String>,
}

impl Site {
    /// Finds out what is there; nothing is changed.
    pub(super) fn look(target: &Target, control: &Control) -> Result<Self, Error> {
        let link = Link { remote: target.remote(control)?, target: target.clone() };
        let mut site = Self { link, catalog: None, mark: None, catalogs: Vec::new(), torn: Vec::new() };
        for _ in 0..LOOKS {
            if site.read()? {
                return Ok(site);
            }
        }
        Err(site.link.damaged("its catalog changes all the time; does another machine write there?"))
    }

    /// Reads the newest catalog that is whole. `false` if it went while it was looked at.
    fn read(&mut self) -> Result<bool, Error> {
        let link = &self.link;
        let listed = link.at(link.remote.list(CATALOGS))?;
        let mut found: Vec<_> = listed
            .into_iter()
            .filter_map(|listed| {
                let (generation, digits) = parse_catalog_key(&listed.key)?;
                Some((generation, digits.to_owned(), listed.key.clone()))
            })
            .collect();
        found.sort();
        self.catalogs = found.iter().map(|(.., key)| key.clone()).collect();
        self.torn.clear();
        for (generation, digits, key) in found.iter().rev() {
            let mut whole = None;
            // Twice: what a proxy cut short once is no torn catalog.
            for _ in 0..2 {
                let Some(bytes) = link.at(link.remote.get(key, MAX_CATALOG))? else { return Ok(false) };
                let checksum = hex(&Sha256::digest(&bytes));
                if checksum.starts_with(digits.as_str()) {
                    whole = Some((bytes, checksum));
                    break;
                }
            }
            let Some((bytes, checksum)) = whole else {
                tracing::warn!(replica = link.label(), key, "a catalog that is not whole is passed over");
                self.torn.push(key.clone());
                continue;
            };
            let catalog = ReplicaCatalog::parse(&bytes).map_err(|reason| link.damaged(format!("{key}: {reason}")))?;
            if catalog.generation != *generation {
                return Err(link.damaged(format!("{key} says to be of generation {}", catalog.generation)));
            }
            self.mark = Some(Mark { generation: *generation, checksum });
            self.catalog = Some(catalog);
            return Ok(true);
        }
        // The first catalog is there before the first object: without either it is a new place, whatever was cut short.
        let mut listed = link.at(link.remote.list(BACKUPS))?;
        listed.extend(link.at(link.remote.list(JOURNALS))?);
        let is_ours = |key: &str| replica::is_ours(key) || Key::parse_part(key).is_some();
        match listed.iter().filter(|listed| is_ours(&listed.key)).count() {
            0 => Ok(true),
            remains => Err(Error::ReplicaCatalogLost { at: link.label(), remains }),
        }
    }

    /// The catalog, for whoever wants something of it.
    pub(super) fn catalog(&self) -> Result<&ReplicaCatalog, Error> {
        self.catalog.as_ref().ok_or_else(|| Error::ReplicaEmpty { at: self.link.label() })
    }

    /// All but the catalog that counts and, for people, the one before it: older ones, and those that were cut short.
    pub(super) fn superfluous(&self) -> Vec<String> {
        let Some(mark) = &self.mark else { return Vec::new() };
        let key = catalog_key(mark.generation, &mark.checksum);
        let is_older =
            |key: &&String| parse_catalog_key(key).is_some_and(|(generation, _)| generation < mark.generation);
        let before = self.catalogs.iter().rfind(is_older);
        self.catalogs.iter().filter(|other| **other != key && Some(*other) != before).cloned().collect()
    }

    /// The journals that count there.
    pub(super) fn journals(&self) -> &[HeldJournal] {
        self.catalog.as_ref().map_or(&[], |catalog| &catalog.journals)
    }

    /// What the replica holds, as its catalog says.
    pub(super) fn backups(&self) -> &[Held] {
        self.catalog.as_ref().map_or(&[], |catalog| &catalog.backups)
    }

    /// What is left there of what it held.
    pub(super) fn remnants(&self) -> &[Remnant] {
        self.catalog.as_ref().map_or(&[], |catalog| &catalog.remnants)
    }

    /// What stands on what.
    pub(super) fn chains(&self) -> Chains<'_> {
        Chains::of(self.backups(), self.remnants())
    }

    /// All keys that its catalog names.
    pub(super) fn named(&self) -> BTreeSet<String> {
        self.catalog.as_ref().map(ReplicaCatalog::keys).unwrap_or_default()
    }
}
