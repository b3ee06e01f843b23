//! What lies in the tier folders, as backups: whose files belong together, in which form, and in which order they were taken.

use std::collections::{BTreeMap, BTreeSet};

use super::Memory;
use crate::backup::{Backup, BackupId, DatabaseName, Form};
use crate::store::Found;

/// By their numbers. One without a number comes where it stands against the time of the fewest others, so that a wrong
/// clock misplaces no neighbours.
pub(super) fn in_order(backups: Vec<Backup>) -> Vec<Backup> {
    let (mut ordered, mut others): (Vec<_>, Vec<_>) = backups.into_iter().partition(|backup| backup.sequence > 0);
    ordered.sort_by_key(|backup| (backup.sequence, backup.timestamp, backup.id));
    others.sort_by_key(|backup| (backup.timestamp, backup.id));
    for other in others {
        let (mut place, mut against, mut fewest) = (0, 0, 0);
        for (index, backup) in ordered.iter().enumerate() {
            against += if backup.timestamp <= other.timestamp { -1 } else { 1 };
            if against <= fewest {
                (place, fewest) = (index + 1, against);
            }
        }
        ordered.insert(place, other);
    }
    ordered
}

/// Ids whose files are those of another id: a promotion that was cut short. The one that a catalog knew stays, else the
/// one it was promoted from.
pub(super) fn twins(found: &[Found], memory: &Memory) -> BTreeMap<BackupId, BackupId> {
    let known = |id: &BackupId| memory.known(id).is_some();
    let mut named: Vec<_> = found.iter().filter_map(|file| Some((file.name.as_ref()?.0, file.inode))).collect();
    named.sort_by_key(|(id, _)| (!known(id), *id));
    let (mut first, mut twins) = (BTreeMap::new(), BTreeMap::new());
    for (id, inode) in named {
        let kept = *first.entry(inode).or_insert(id);
        if kept != id {
            twins.insert(id, kept);
        }
    }
    twins
}

/// The files of a backup: in which form each database lies.
pub(super) type Files = BTreeMap<DatabaseName, Form>;

/// Files by id; a set that lacks a database is no backup [P1]. Where one lies about in two forms, the one that was recorded
/// counts, else the one that takes the least to be read.
pub(super) fn sets(
    found: Vec<Found>,
    wanted: impl Fn(&BackupId) -> BTreeSet<DatabaseName>,
    recorded: impl Fn(&BackupId, &DatabaseName) -> Option<Form>,
) -> (BTreeMap<BackupId, Files>, Vec<String>) {
    let mut sets: BTreeMap<BackupId, Files> = BTreeMap::new();
    let mut left_out = Vec::new();
    let mut add = |id: BackupId, name: DatabaseName, form: Form| {
        let files = sets.entry(id).or_default();
        let Some(other) = files.get(&name).copied() else {
            files.insert(name, form);
            return;
        };
        let better = if recorded(&id, &name) == Some(form) { form } else { other };
        let worse = if better == form { other } else { form };
        left_out.push(format!("{}: another form of {}", id.file(&name, worse), id.file(&name, better)));
        files.insert(name, better);
    };
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for file in found {
        match file.name {
            Some(name) => named.push(name),
            None => others.push(format!("{}: not a backup's file", file.file)),
        }
    }
    named.sort_by_key(|(_, _, form)| *form);
    named.into_iter().for_each(|(id, name, form)| add(id, name, form));
    left_out.extend(others);
    sets.retain(|id, files| {
        let names = files.keys().cloned().collect();
        let missing: Vec<_> = wanted(id).difference(&names).map(ToString::to_string).collect();
        if !missing.is_empty() {
            left_out.push(format!("{id}: {} is missing", missing.join(", ")));
        }
        missing.is_empty()
    });
    (sets, left_out)
}
