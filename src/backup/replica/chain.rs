//! What stands on what in an incremental replica. A database lies there as a *segment*, an LTX file: the pages that lead from the
//! backup that is its base to its own, or, without a base, all of them. The txids of a segment are sequences: from the one after
//! its base's to its own.
//!
//! - A base has a lower sequence, so that nothing stands on itself, and is a segment itself. What lies there as a whole database
//!   (`.db`) stands on nothing, and nothing stands on it.
//! - A base is named by its origin and not by where it lies: what is sent again takes the place of what was there before, and what
//!   stands on it goes on to do so.
//! - A base has the very readers of what stands on it: whoever can read a segment can read all that is needed besides, also once the
//!   key was changed and the old one thrown away.
//! - A backup that was dropped leaves its segments for as long as others stand on them: its remnant.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{Folder, Held, HeldDatabase, MAX_NUMBER, MAX_SIZE, Nonce, Origin};
use crate::backup::{DatabaseName, Form};

/// A chain that is longer is none that was ever made.
const MAX_LENGTH: usize = 4096;

/// That an object is a segment. What a newer version records of it stands beside this, in `HeldDatabase`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segment {
    /// What it stands on; without one it has every page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Origin>,
    /// Bytes of the database that it leads to: no more is ever made of it, whatever the segment says. 0 where that isn't known: the
    /// first programs that sent segments didn't record it.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub size: u64,
}

fn is_unknown(size: &u64) -> bool {
    *size == 0
}

/// Who can read a segment: the recipients to whom it is encrypted, as the first 16 hex digits of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Readers(Nonce);

impl Readers {
    /// Of these recipients, in whatever order. None if there are none: anyone can read it.
    pub fn of(recipients: &[String]) -> Option<Self> {
        let recipients: BTreeSet<&str> = recipients.iter().map(String::as_str).collect();
        let texts: Vec<&str> = recipients.into_iter().collect();
        let digest = Sha256::digest(texts.join("\n"));
        let first = digest.first_chunk().filter(|_| !texts.is_empty());
        first.map(|first| Self(Nonce(*first)))
    }
}

/// What is left of a backup that was dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Remnant {
    /// Which snapshot.
    #[serde(flatten)]
    pub origin: Origin,
    /// Which sending of it.
    pub nonce: Nonce,
    /// The segments on which others stand.
    pub databases: BTreeMap<DatabaseName, HeldDatabase>,
    /// What else a newer version recorded.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Remnant {
    /// Of a backup.
    pub fn of(held: &Held) -> Self {
        Self { origin: held.origin, nonce: held.nonce, databases: held.databases.clone(), extra: Map::new() }
    }

    /// Where it lies.
    pub fn folder(&self) -> Folder {
        Folder { origin: self.origin, nonce: self.nonce }
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.databases.values().fold(0, |sum: u64, it| sum.saturating_add(it.object.size))
    }
}

/// A segment of a chain, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Of which backup.
    pub origin: Origin,
    /// Where that lies.
    pub folder: Folder,
    /// What the catalog says of it.
    pub held: &'a HeldDatabase,
}

impl Step<'_> {
    /// What it stands on.
    pub fn base(&self) -> Option<Origin> {
        self.held.ltx.and_then(|segment| segment.base)
    }

    /// Bytes of the database that it leads to, if that is known.
    pub fn size(&self) -> Option<u64> {
        self.held.ltx.map(|segment| segment.size).filter(|size| !is_unknown(size))
    }

    /// Under which key it lies.
    pub fn key(&self, name: &DatabaseName) -> String {
        self.folder.database(name, self.held.form, true)
    }
}

/// How far backups in a replica stand on each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ChainsThere {
    /// The most segments that make up a database: so many are read when it is wanted back.
    #[schema(value_type = u64)]
    pub longest: usize,
    /// Backups that were dropped, and on which others stand.
    #[schema(value_type = u64)]
    pub remnants: usize,
    /// Bytes that are left of these.
    pub bytes: u64,
}

impl ChainsThere {
    /// Of these backups, and what is left of others. None where nothing lies there as segments.
    pub fn of(backups: &[Held], remnants: &[Remnant]) -> Option<Self> {
        let bytes = remnants.iter().map(Remnant::size).fold(0, u64::saturating_add);
        let longest = Chains::of(backups, remnants).longest();
        (longest > 0).then_some(Self { longest, remnants: remnants.len(), bytes })
    }
}

#[derive(Clone, Copy)]
struct Node<'a> {
    folder: Folder,
    databases: &'a BTreeMap<DatabaseName, HeldDatabase>,
    /// Any of its objects is.
    damaged: bool,
}

/// All that a replica holds, by origin.
pub struct Chains<'a>(BTreeMap<Origin, Node<'a>>);

impl<'a> Chains<'a> {
    /// Of these backups, and what is left of others.
    pub fn of(backups: &'a [Held], remnants: &'a [Remnant]) -> Self {
        let held = backups
            .iter()
            .map(|it| (it.origin, Node { folder: it.folder(), databases: &it.databases, damaged: it.damaged }));
        let left = remnants
            .iter()
            .map(|it| (it.origin, Node { folder: it.folder(), databases: &it.databases, damaged: false }));
        Self(held.chain(left).collect())
    }

    /// The segments that make up a database, the one with all pages first. None if one is missing, or if it is no segment.
    pub fn steps(&self, origin: Origin, name: &DatabaseName) -> Option<Vec<Step<'a>>> {
        let (mut steps, mut next) = (Vec::new(), Some(origin));
        while let Some(origin) = next {
            let node = self.0.get(&origin)?;
            let held = node.databases.get(name)?;
            let base = held.ltx?.base;
            // Origins descend, so this ends.
            if base.is_some_and(|base| base >= origin) {
                return None;
            }
            next = base;
            steps.push(Step { origin, folder: node.folder, held });
        }
        steps.reverse();
        Some(steps)
    }

    /// Whether others stand on a database.
    pub fn is_stood_on(&self, origin: Origin, name: &DatabaseName) -> bool {
        let bases = |node: &Node<'a>| node.databases.get(name).and_then(|held| held.ltx?.base);
        self.0.values().any(|node| bases(node) == Some(origin))
    }

    /// Whether all segments that make up a database are for these readers and no others.
    pub fn is_for(&self, readers: Option<Readers>, origin: Origin, name: &DatabaseName) -> bool {
        let is_for = |held: &HeldDatabase| held.readers == readers && held.form.is_encrypted() == readers.is_some();
        self.steps(origin, name).is_some_and(|steps| steps.iter().all(|step| is_for(step.held)))
    }

    /// Under which key a database of a backup lies, or what is left of it.
    pub fn key(&self, origin: Origin, name: &DatabaseName) -> Option<String> {
        let node = self.0.get(&origin)?;
        let held = node.databases.get(name)?;
        Some(node.folder.database(name, held.form, held.ltx.is_some()))
    }

    /// Which database of a backup lies under that key, if it isn't its entry.
    pub fn name(&self, origin: Origin, key: &str) -> Option<&'a DatabaseName> {
        let names = self.0.get(&origin)?.databases.keys();
        names.into_iter().find(|name| self.key(origin, name).as_deref() == Some(key))
    }

    /// Backups and remnants that are damaged, or of which a database stands on something that is. An entry is nobody's base.
    pub fn unsound(&self) -> BTreeSet<Origin> {
        let (mut unsound, mut lost) = (BTreeSet::new(), BTreeSet::new());
        // Bases come first.
        for (origin, node) in &self.0 {
            for (name, it) in node.databases {
                let has = |base: Origin| self.0.get(&base).is_some_and(|node| node.databases.contains_key(name));
                let base = it.ltx.and_then(|segment| segment.base);
                if it.damaged || base.is_some_and(|base| lost.contains(&(base, name)) || !has(base)) {
                    lost.insert((*origin, name));
                    unsound.insert(*origin);
                }
            }
            if node.damaged {
                unsound.insert(*origin);
            }
        }
        unsound
    }

    /// The most segments that make up a database.
    fn longest(&self) -> usize {
        let mut lengths = BTreeMap::new();
        for (origin, node) in &self.0 {
            for (name, segment) in node.databases.iter().filter_map(|(name, it)| Some((name, it.ltx?))) {
                let before = segment.base.and_then(|base| lengths.get(&(base, name)).copied());
                lengths.insert((*origin, name), before.unwrap_or(0) + 1);
            }
        }
        lengths.into_values().max().unwrap_or(0)
    }

    /// What can't be in a catalog.
    pub(super) fn validate(&self, remnants: &[Remnant]) -> Result<(), String> {
        let mut lengths: BTreeMap<(Origin, &DatabaseName), usize> = BTreeMap::new();
        for (origin, node) in &self.0 {
            for (name, held) in node.databases {
                let Some(segment) = held.ltx else { continue };
                let what = format!("{name} of sequence {}", origin.sequence);
                let can_be = segment.size <= MAX_SIZE && origin.sequence > 0;
                if !held.form.is_compressed() || !can_be {
                    return Err(format!("{what} is no segment that was ever made"));
                }
                let before = match segment.base {
                    None => 0,
                    Some(base) if base.sequence >= origin.sequence || base >= *origin => {
                        return Err(format!("{what} stands on what isn't older"));
                    }
                    Some(base) => {
                        *lengths.get(&(base, name)).ok_or_else(|| format!("{what} stands on what isn't there"))?
                    }
                };
                if before >= MAX_LENGTH {
                    return Err(format!("{what} stands on more than was ever made"));
                }
                lengths.insert((*origin, name), before + 1);
            }
        }
        let is_whole = |remnant: &Remnant| remnant.databases.values().any(|it| it.ltx.is_none());
        match remnants.iter().find(|it| it.databases.is_empty() || is_whole(it) || it.origin.sequence > MAX_NUMBER) {
            Some(remnant) => Err(format!("what is left of sequence {} is none", remnant.origin.sequence)),
            None => Ok(()),
        }
    }
}

/// What has to stay of backups that are named no more: the segments on which those that are named stand.
pub fn remnants(backups: &[Held], candidates: impl IntoIterator<Item = Remnant>) -> Vec<Remnant> {
    let named: BTreeSet<Origin> = backups.iter().map(|held| held.origin).collect();
    let candidates: BTreeMap<Origin, Remnant> =
        candidates.into_iter().filter(|it| !named.contains(&it.origin)).map(|it| (it.origin, it)).collect();
    let bases = |databases: &BTreeMap<DatabaseName, HeldDatabase>| -> Vec<(Origin, DatabaseName)> {
        databases.iter().filter_map(|(name, it)| Some((it.ltx?.base?, name.clone()))).collect()
    };
    let mut wanted: Vec<_> = backups.iter().flat_map(|held| bases(&held.databases)).collect();
    let mut staying: BTreeMap<Origin, Remnant> = BTreeMap::new();
    while let Some((origin, name)) = wanted.pop() {
        let Some(candidate) = candidates.get(&origin) else { continue };
        let Some(held) = candidate.databases.get(&name) else { continue };
        let empty = || Remnant { databases: BTreeMap::new(), ..candidate.clone() };
        let stays = staying.entry(origin).or_insert_with(empty);
        if stays.databases.insert(name.clone(), held.clone()).is_none() {
            wanted.extend(held.ltx.and_then(|segment| segment.base).map(|base| (base, name)));
        }
    }
    staying.into_values().collect()
}

/// What goes once a backup stands on another base, or on none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relief {
    /// Remnants that nothing would stand on any more.
    pub remnants: usize,
    /// The oldest of them.
    pub oldest: Option<Origin>,
    /// Their bytes, and those of the segments that the backup has now.
    pub bytes: u64,
    /// The largest object among them: what replaces them is hardly smaller.
    pub largest: u64,
}

/// What is won if that backup is sent again on `base`.
pub fn relief(backups: &[Held], left: &[Remnant], origin: Origin, base: Option<Origin>) -> Relief {
    let mut after = backups.to_vec();
    let mut own = Vec::new();
    for held in after.iter_mut().filter(|held| held.origin == origin) {
        for it in held.databases.values_mut() {
            own.push(it.object.size);
            it.ltx = Some(Segment { base, size: it.ltx.map_or(0, |segment| segment.size) });
        }
    }
    let staying = remnants(&after, left.to_vec());
    let sizes = |of: &[Remnant]| -> Vec<u64> {
        of.iter().flat_map(|it| it.databases.values()).map(|it| it.object.size).collect()
    };
    let (before, after) = (sizes(left), sizes(&staying));
    let sum = |sizes: &[u64]| sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
    let gone = left.iter().filter(|it| !staying.iter().any(|stays| stays.origin == it.origin));
    let largest = gone.clone().flat_map(|it| it.databases.values()).map(|it| it.object.size).max();
    Relief {
        oldest: gone.clone().map(|it| it.origin).min(),
        remnants: gone.count(),
        bytes: sum(&before).saturating_sub(sum(&after)).saturating_add(sum(&own)),
        largest: largest.unwrap_or(0),
    }
}

/// How the key of a segment ends, by its form.
pub(super) fn ending(form: Form) -> &'static str {
    if form.is_encrypted() { "ltx.zst.age" } else { "ltx.zst" }
}

#[cfg(test)]
mod tests;
