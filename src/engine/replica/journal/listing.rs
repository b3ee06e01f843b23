//! What lies in a replica below the folder of a lineage, by a listing: nothing is read.

use std::collections::BTreeMap;

use crate::backup::DatabaseName;
use crate::backup::replica::{Nonce, part};
use crate::journal::pack::Key;
use crate::journal::packs::{Pack, Packs};
use crate::remote::Listed;

/// The objects of a lineage.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Listing {
    /// The packs of each database.
    pub(super) packs: BTreeMap<DatabaseName, Packs>,
    /// Until when all is there: the keys, the newest last, with their sizes.
    pub(super) untils: Vec<(u64, String, u64)>,
    /// Keys of ours that are no whole object.
    pub(super) unfinished: Vec<String>,
}

/// The bytes of an object's parts, by number; 0 is the object itself.
type Parts = BTreeMap<u32, u64>;

impl Listing {
    /// What of it belongs to that lineage. Keys that aren't ours are passed over.
    pub(super) fn of(lineage: Nonce, listed: &[Listed]) -> Self {
        let mut listing = Self::default();
        let mut objects: BTreeMap<String, (Key, Parts)> = BTreeMap::new();
        for Listed { key, size } in listed {
            match Key::parse_part(key) {
                Some((parsed, part)) if parsed.lineage() == lineage => {
                    objects.entry(parsed.to_string()).or_insert((parsed, Parts::new())).1.insert(part, *size);
                }
                None if Key::is_unfinished(key) => listing.unfinished.push(key.clone()),
                _ => {}
            }
        }
        for (key, (parsed, parts)) in objects {
            listing.take(key, parsed, &parts);
        }
        listing.untils.sort();
        listing
    }

    /// Whether that pack was in it.
    pub(super) fn has(&self, database: &DatabaseName, pack: &Pack) -> bool {
        self.packs.get(database).is_some_and(|packs| packs.all().contains(pack))
    }

    fn take(&mut self, key: String, parsed: Key, parts: &Parts) {
        let count = match parts.contains_key(&0) {
            true => 0,
            false => parts.len() as u32,
        };
        // Parts that follow each other from the first on; of an object that is there whole, others are leftovers.
        let last = parts.last_key_value().map_or(0, |(last, _)| *last);
        if last != count {
            self.unfinished.extend(parts.keys().filter(|number| **number > 0).map(|number| part(&key, *number)));
        }
        let size = match (count, last == count) {
            (0, _) => parts.get(&0).copied().unwrap_or_default(),
            (_, true) => parts.values().fold(0, |sum: u64, size| sum.saturating_add(*size)),
            (_, false) => return,
        };
        match parsed {
            Key::Pack { database, span, encrypted, .. } => {
                self.packs.entry(database).or_default().insert(Pack { span, size, parts: count, encrypted });
            }
            Key::Until { millis, .. } => self.untils.push((millis, key, size)),
        }
    }
}

/// All keys of a pack.
pub(super) fn keys_of(lineage: Nonce, database: &DatabaseName, pack: &Pack) -> Vec<String> {
    let Some(key) = Key::pack(lineage, database, pack.span, pack.encrypted) else { return Vec::new() };
    let key = key.to_string();
    match pack.parts {
        0 => vec![key],
        parts => (1..=parts).map(|number| part(&key, number)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_one_object_only_where_all_are_there() {
        let lineage = Nonce([7; 8]);
        let pack = |min: u32| {
            format!(
                "journal/{lineage}/auth/0/{min:016x}-{min:016x}-00176414760000{min}-00176414760000{min}.tar.zst.age"
            )
        };
        let until = format!("journal/{lineage}/until/001764147600001-{}.json", Nonce([1; 8]));
        let listed = [
            (pack(2), 10),
            (format!("{}.00001", pack(3)), 5),
            (format!("{}.00002", pack(3)), 6),
            (format!("{}.00002", pack(4)), 6),
            (until.clone(), 3),
            (format!("journal/{lineage}/auth/0/.{}.partial", pack(5).rsplit_once('/').unwrap().1), 1),
            (pack(6).replace(&lineage.to_string(), &Nonce([8; 8]).to_string()), 10),
            (format!("journal/{lineage}/auth/0/photo.jpg"), 1),
        ];
        let listed: Vec<_> = listed.into_iter().map(|(key, size)| Listed { key, size }).collect();
        let listing = Listing::of(lineage, &listed);
        let name: DatabaseName = "auth".parse().unwrap();
        let found: Vec<_> =
            listing.packs[&name].all().iter().map(|it| (it.span.min.get(), it.size, it.parts, it.encrypted)).collect();
        assert_eq!(found, [(2, 10, 0, true), (3, 11, 2, true)]);
        assert_eq!(listing.untils, [(1_764_147_600_001, until, 3)]);
        assert_eq!(listing.unfinished.len(), 2, "{:?}", listing.unfinished);
        let keys = keys_of(lineage, &name, &listing.packs[&name].all()[1]);
        assert_eq!(keys, [listed[1].key.clone(), listed[2].key.clone()]);
    }
}
