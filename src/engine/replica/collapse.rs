//! What rotation has dropped stays there as remnants, for as long as later backups stand on them. Where that is more than it is
//! worth, the backup after such a run is sent again on the kept one before it, or with every page where there is none; then nothing
//! stands on the run any more, and it goes.
//!
//! - It pays if what is sent is at most two thirds of what goes; of a whole database, half. That is measured here first, by making it.
//! - A run is looked at when it has grown to twice of what it had the last time: so looking costs little, however often rotation
//!   drops something. Where the store fails in between, it is looked at again with the next replication.
//! - A run of very many goes anyway, unless what is sent would be more.
//! - What isn't here any more is had from there, where it can be read (`merge`).

use std::collections::BTreeSet;

use super::Replicated;
use super::carry::{is_of_one_here, is_of_one_there};
use super::writable::Writable;
use crate::backup::replica::{Held, Origin, Relief, Sending, is_sendable, relief};
use crate::backup::{Backup, BackupId};
use crate::engine::{Call, Error};

/// Fewer remnants aren't worth a look.
const LEAST: usize = 4;
/// Of more nobody wants to read each when a backup is wanted back.
const MANY: usize = 16;
/// The same of those at the head of a chain: to be rid of them costs a whole database.
const MANY_AT_HEAD: usize = 64;

impl Writable<'_> {
    /// A run is worth a look.
    pub(super) fn has_run(&self) -> Result<bool, Error> {
        let here = self.engine.list()?;
        let is_due = |origin| self.way(origin, &here).is_some_and(|way| self.run_before(origin, way.on()).is_some());
        Ok(self.after_runs().into_iter().any(is_due))
    }

    /// Looks at each run that has become longer.
    pub(super) fn collapse(&mut self, call: &Call, done: &mut Replicated) -> Result<(), Error> {
        if !done.is_all() {
            return Ok(());
        }
        let left: BTreeSet<u64> = self.site.remnants().iter().map(|left| left.origin.sequence).collect();
        self.state.collapsing.retain(|oldest, _| left.contains(oldest));
        for origin in self.after_runs() {
            match self.collapse_before(origin, call, done) {
                // Nothing is lost by that: it is tried again with the next replication.
                Err(error) if is_of_one_there(&error) => {
                    tracing::warn!(replica = %self.name, %error, "what was dropped there stays for now");
                    return Ok(());
                }
                looked => looked?,
            }
        }
        Ok(())
    }

    /// Backups right after a run.
    fn after_runs(&self) -> Vec<Origin> {
        let left: BTreeSet<Origin> = self.site.remnants().iter().map(|left| left.origin).collect();
        let is_after =
            |held: &&Held| held.databases.values().filter_map(|it| it.ltx?.base).any(|base| left.contains(&base));
        let after = self.site.backups().iter().filter(|_| self.is_incremental());
        after.filter(is_after).map(|held| held.origin).collect()
    }

    /// How a backup can be sent again, if it can.
    fn way(&self, origin: Origin, here: &[Backup]) -> Option<Way> {
        let on_here = self.bases(origin, here).first().map(|(base, _)| *base);
        let on_there = self.bases_there(origin).first().copied();
        let is_here = here.iter().any(|backup| is_sendable(backup) && Origin::of(backup) == origin);
        match is_here {
            true if on_here == on_there => Some(Way::FromHere(on_here)),
            _ if self.reads(origin) => Some(Way::FromThere(on_there)),
            true => Some(Way::FromHere(on_here)),
            false => None,
        }
    }

    /// The run between a backup and the one on which it could be sent again, if it is worth a look.
    fn run_before(&self, origin: Origin, on: Option<Origin>) -> Option<Run> {
        let relief = relief(self.site.backups(), self.site.remnants(), origin, on);
        let (oldest, most) = (relief.oldest?.sequence, most(relief, on.is_none()));
        let looked = self.state.collapsing.get(&oldest).copied().unwrap_or(0);
        is_worth_a_look(relief, looked, most).then_some(Run { oldest, remnants: relief.remnants, most })
    }

    fn collapse_before(&mut self, origin: Origin, call: &Call, done: &mut Replicated) -> Result<(), Error> {
        let Some(way) = self.way(origin, &self.engine.list()?) else { return Ok(()) };
        let Some(run) = self.run_before(origin, way.on()) else { return Ok(()) };
        let sent = match way {
            Way::FromHere(_) => self.remade(origin, run.most, call),
            Way::FromThere(on) => self.merged(origin, on, run.most, call),
        };
        match sent {
            Ok(Some((id, bytes))) => {
                done.remade.push(id);
                done.bytes += bytes;
            }
            Ok(None) => {
                self.state.collapsing.insert(run.oldest, run.remnants);
            }
            // What is wrong with a copy here is recorded once all is done, and it is passed over then.
            Err(error) if is_of_one_here(&error) || matches!(error, Error::Full { .. }) => {
                tracing::debug!(%error, "a run of remnants stays");
                self.doubts(&error);
                self.state.collapsing.insert(run.oldest, run.remnants);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// From the copies here.
    fn remade(&mut self, origin: Origin, most: u64, call: &Call) -> Result<Option<(BackupId, u64)>, Error> {
        let base = self.base_of(origin)?;
        let Some(opened) = self.opened(origin)? else { return Ok(None) };
        if self.measure(&opened, base.as_ref(), most, call)?.is_none() {
            return Ok(None);
        }
        let held = self.site.backups().iter().find(|held| held.origin == origin);
        let Some(Held { id, promoted_from, .. }) = held else { return Ok(None) };
        let sending = Sending { origin, id: *id, promoted_from: *promoted_from };
        Ok(self.sent(&sending, call)?.map(|bytes| (sending.id, bytes)))
    }
}

/// How a backup is sent again, and on what.
enum Way {
    /// Both are here.
    FromHere(Option<Origin>),
    /// Both are rebuilt from what lies there.
    FromThere(Option<Origin>),
}

impl Way {
    fn on(&self) -> Option<Origin> {
        let (Way::FromHere(on) | Way::FromThere(on)) = self;
        *on
    }
}

/// Remnants that are to go.
struct Run {
    /// The sequence of the oldest: it stays the same while the run grows.
    oldest: u64,
    remnants: usize,
    /// Bytes that may be sent for it.
    most: u64,
}

/// What may be sent to be rid of so much.
fn most(Relief { remnants, bytes, .. }: Relief, is_head: bool) -> u64 {
    match is_head {
        true if remnants < MANY_AT_HEAD => bytes / 2,
        false if remnants < MANY => bytes / 3 * 2,
        _ => bytes,
    }
}

/// What is sent is hardly smaller than the largest object that goes.
fn is_worth_a_look(relief: Relief, looked: usize, most: u64) -> bool {
    // A run that is shorter than it was is another one.
    let looked = if relief.remnants < looked { 0 } else { looked };
    relief.remnants >= LEAST.max(2 * looked) && relief.largest <= most
}
