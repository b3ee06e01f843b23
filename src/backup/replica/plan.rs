//! What a replica lacks, and what it need not keep: a pure function of what is here and what is there. It is computed anew each
//! time, so nothing is lost with a process that ends in the middle.

use std::collections::{BTreeMap, BTreeSet};

use super::{Held, Origin};
use crate::backup::retention::{self, Retention, Step, free_id};
use crate::backup::{Backup, BackupId};

/// Above all numbers.
const LEAD: u64 = 1 << 60;

/// What is wanted of a replica.
#[derive(Clone, Copy)]
pub struct Wishes<'a> {
    /// How many backups of each tier it keeps.
    pub retention: &'a Retention,
    /// It has a retention of its own; otherwise it follows what is here.
    pub own: bool,
    /// What is sent is encrypted.
    pub encrypts: bool,
    /// What was here and there at once, or here when all was done that was planned: what is gone from here since was deleted, and not
    /// just never here; and what is not there, with a retention of its own, was dropped by it.
    pub known: &'a BTreeSet<Origin>,
    /// Why nothing good may be dropped just now.
    pub freeze: Option<&'a str>,
}

/// What is to be done.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Backups to be sent, the newest first: it is the one that would be missed most.
    pub send: Vec<Sending>,
    /// Backups that go, and why. Only after everything was sent.
    pub drop: Vec<(Origin, String)>,
    /// What of it goes also where there is no room for what is to be sent: it would go if nothing more came.
    pub room: BTreeSet<Origin>,
    /// What the replica's catalog then says of those that stay: ids, pins, flags.
    pub amend: Vec<Held>,
}

/// A backup to be sent, and how it is called there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sending {
    /// Which.
    pub origin: Origin,
    /// Its id in the replica.
    pub id: BackupId,
    /// The id it had before it was promoted.
    pub promoted_from: Option<BackupId>,
}

impl Plan {
    /// Nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.send.is_empty() && self.drop.is_empty() && self.amend.is_empty()
    }
}

/// Plans it. `here` are the backups of the backup directory, `there` those of the replica.
pub fn plan(here: &[Backup], there: &[Held], wishes: Wishes<'_>) -> Plan {
    let local: BTreeMap<Origin, &Backup> =
        here.iter().filter(|backup| !backup.deleting).map(|backup| (Origin::of(backup), backup)).collect();
    // What is damaged there, or plain though it could be encrypted, is sent again where it is whole here.
    let is_lost = |held: &&Held| {
        let wants_another = held.damaged || wishes.encrypts && !held.entry.encrypted;
        wants_another && local.get(&held.origin).copied().is_some_and(is_sendable)
    };
    let held: BTreeMap<Origin, &Held> =
        there.iter().filter(|held| !is_lost(held)).map(|held| (held.origin, held)).collect();
    let dropped = |origin: &Origin| {
        wishes.own && wishes.known.contains(origin) && !there.iter().any(|held| held.origin == *origin)
    };
    let is_lacking = |origin: &Origin| !held.contains_key(origin) && !dropped(origin);
    let lacking: Vec<&Backup> =
        local.values().copied().filter(|backup| is_sendable(backup) && is_lacking(&Origin::of(backup))).collect();

    let mut future = Future { items: Vec::new(), wishes, local: &local };
    future.items.extend(held.values().map(|held| Item::held(held, local.get(&held.origin).copied(), wishes.own)));
    let as_it_is = future.clone();
    future.items.extend(lacking.iter().map(|backup| Item { origin: Origin::of(backup), as_backup: (*backup).clone() }));
    future.name_apart();
    let room = as_it_is.room(&future);
    let gone = future.rotate();

    let mut plan = Plan::default();
    for Item { origin, as_backup } in &future.items {
        match held.get(origin) {
            None => {
                let Backup { id, promoted_from, .. } = *as_backup;
                plan.send.push(Sending { origin: *origin, id, promoted_from });
            }
            Some(held) => plan.amend.extend(amended(held, as_backup)),
        }
    }
    plan.send.sort_by_key(|sending| std::cmp::Reverse(sending.origin));
    // Also what was to be sent again, and is overtaken.
    let is_there = |origin: &Origin| there.iter().any(|held| held.origin == *origin);
    plan.drop = gone.into_iter().filter(|(origin, _)| is_there(origin)).collect();
    plan.room = plan.drop.iter().map(|(origin, _)| *origin).filter(|origin| room.contains(origin)).collect();
    plan
}

/// What reads badly here is not sent; what was sent of it before stays.
pub fn is_sendable(backup: &Backup) -> bool {
    !backup.deleting && backup.checked.ok && backup.verified.ok
}

/// While not all of a plan is done, something may be there that is to go, or to be called otherwise, and has the id of a backup that comes
/// first: it steps aside, to an id that nobody has.
pub fn step_aside(backups: &mut [Held], comes_first: impl Fn(&Held) -> bool) {
    let wanted: BTreeSet<BackupId> = backups.iter().filter(|held| comes_first(held)).map(|held| held.id).collect();
    let mut taken: BTreeSet<BackupId> = backups.iter().map(|held| held.id).collect();
    for held in backups.iter_mut().filter(|held| !comes_first(held) && wanted.contains(&held.id)) {
        held.id = free_id(held.id, |id| taken.contains(id));
        taken.insert(held.id);
    }
}

/// What the catalog of the replica is to say of a backup, where it says something else.
fn amended(held: &Held, as_backup: &Backup) -> Option<Held> {
    let Backup { id, promoted_from, pinned, flags, .. } = as_backup.clone();
    let amended = Held { id, promoted_from, pinned, flags, ..held.clone() };
    (amended != *held).then_some(amended)
}

/// A backup that the replica is to hold, unless it is dropped.
#[derive(Clone)]
struct Item {
    origin: Origin,
    as_backup: Backup,
}

impl Item {
    /// What is here says how it is called, pinned and flagged; with a retention of its own the replica has its own ids.
    fn held(held: &Held, local: Option<&Backup>, own: bool) -> Self {
        let mut as_backup = held.as_backup();
        if let Some(local) = local {
            as_backup.pinned = local.pinned;
            as_backup.flags = local.flags.clone();
            // From which store it came.
            as_backup.extra = local.extra.clone();
            if !own {
                (as_backup.id, as_backup.tier, as_backup.promoted_from) = (local.id, local.tier, local.promoted_from);
            }
        }
        Self { origin: held.origin, as_backup }
    }
}

#[derive(Clone)]
struct Future<'a> {
    items: Vec<Item>,
    wishes: Wishes<'a>,
    local: &'a BTreeMap<Origin, &'a Backup>,
}

impl Future<'_> {
    /// Ids are unique, those of what is here come first, and of the others those of older ones.
    fn name_apart(&mut self) {
        let follows = |item: &Item| !self.wishes.own && self.local.contains_key(&item.origin);
        self.items.sort_by_key(|item| (!follows(item), item.origin));
        let mut taken: BTreeSet<BackupId> = BTreeSet::new();
        for item in &mut self.items {
            let id = free_id(item.as_backup.id, |id| taken.contains(id));
            taken.insert(id);
            item.as_backup.id = id;
        }
    }

    /// Takes out what goes, and gives what is promoted its new id.
    fn rotate(&mut self) -> Vec<(Origin, String)> {
        let mut gone = Vec::new();
        if !self.wishes.own && self.has_good_here() {
            let deleted =
                |item: &Item| !self.local.contains_key(&item.origin) && self.wishes.known.contains(&item.origin);
            let deleted: Vec<_> = self.items.iter().filter(|item| deleted(item)).map(|item| item.origin).collect();
            self.items.retain(|item| !deleted.contains(&item.origin));
            gone.extend(
                deleted.into_iter().map(|origin| (origin, "it was deleted in the backup directory".to_owned())),
            );
        }
        gone.extend(self.overdue());
        for step in retention::plan(&self.ranked(), self.wishes.retention, self.wishes.freeze).steps {
            let (Step::Promote { from: id, .. } | Step::Drop { id, .. }) = step;
            let Some(at) = self.items.iter().position(|item| item.as_backup.id == id) else { continue };
            // What is here is followed.
            if !self.wishes.own && self.local.contains_key(&self.items[at].origin) {
                continue;
            }
            match step {
                Step::Promote { from, to, .. } => {
                    let item = &mut self.items[at].as_backup;
                    (item.id, item.tier, item.promoted_from) = (to, to.tier(), Some(from));
                }
                Step::Drop { why, .. } => gone.push((self.items.remove(at).origin, why)),
            }
        }
        gone
    }

    /// Takes out what is damaged there and can't be sent again, once it would go if it were whole. It counts for nothing: no good one goes
    /// for it, and what may read well again one day has its time.
    fn overdue(&mut self) -> Vec<(Origin, String)> {
        let mut backups = self.ranked();
        backups.iter_mut().for_each(|backup| backup.verified.ok = true);
        let mut overdue = Vec::new();
        for step in retention::plan(&backups, self.wishes.retention, self.wishes.freeze).steps {
            let Step::Drop { id, why } = step else { continue };
            let is_damaged = |item: &Item| !item.as_backup.verified.ok && item.as_backup.id == id;
            let follows = |item: &Item| !self.wishes.own && self.local.contains_key(&item.origin);
            if let Some(at) = self.items.iter().position(|item| is_damaged(item) && !follows(item)) {
                overdue.push((self.items.remove(at).origin, format!("{why}; it was found damaged there")));
            }
        }
        overdue
    }

    /// What goes also if nothing of what `future` has besides can come: what rotation takes out of what is there by now, and what was
    /// deleted here and rotation would not take out for what is to come. The newest good one stays.
    fn room(mut self, future: &Self) -> BTreeSet<Origin> {
        self.name_apart();
        let (Some(now), Some(then)) = (self.by_numbers(), future.by_numbers()) else { return BTreeSet::new() };
        let newest = self.items.iter().filter(|item| item.as_backup.is_good()).map(|item| item.origin).max();
        let goes = |origin: &Origin| now.contains(origin) || !self.wishes.own && !then.contains(origin);
        self.items.iter().map(|item| item.origin).filter(|origin| Some(*origin) != newest && goes(origin)).collect()
    }

    /// What rotation takes out, whatever was deleted here. Nothing is said while it stands still.
    fn by_numbers(&self) -> Option<BTreeSet<Origin>> {
        let mut left = self.clone();
        let mut out: BTreeSet<Origin> = left.overdue().into_iter().map(|(origin, _)| origin).collect();
        let rotation = retention::plan(&left.ranked(), self.wishes.retention, self.wishes.freeze);
        let dropped = rotation.steps.into_iter().filter_map(|step| match step {
            Step::Drop { id, .. } => Some(id),
            Step::Promote { .. } => None,
        });
        let of = |id: BackupId| left.items.iter().find(|item| item.as_backup.id == id).map(|item| item.origin);
        out.extend(dropped.filter_map(of));
        rotation.frozen.is_none().then_some(out)
    }

    /// As rotation is to see them. From the newest good one on, what is here comes after all that is only there, of which numbers may be
    /// higher: those of a history that was given up when an older copy of the directory was put back.
    fn ranked(&self) -> Vec<Backup> {
        let leads = self.local.iter().rfind(|(_, backup)| backup.is_good()).map(|(origin, _)| *origin);
        let as_ranked = |item: &Item| {
            let mut backup = item.as_backup.clone();
            if self.local.contains_key(&item.origin) && leads.is_some_and(|leads| item.origin >= leads) {
                backup.sequence = backup.sequence.saturating_add(LEAD);
            }
            backup
        };
        self.items.iter().map(as_ranked).collect()
    }

    /// Where nothing good is left, it is not the time to delete elsewhere.
    fn has_good_here(&self) -> bool {
        self.local.values().any(|backup| backup.is_good())
    }
}
