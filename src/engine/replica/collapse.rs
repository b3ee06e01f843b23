//! What rotation has dropped stays there as remnants, for as long as later backups stand on them. Where that is more than it is
//! worth, the backup after such a run is sent again on the kept one before it, or with every page where there is none; then nothing
//! stands on the run any more, and it goes.
//!
//! - It pays if what is sent is at most two thirds of what goes; of a whole database, half. That is measured here first, by making it.
//! - A run is looked at when it has grown to twice of what it had the last time: so looking costs little, however often rotation
//!   drops something.
//! - A run of very many goes anyway, unless what is sent would be more.

use std::collections::BTreeSet;

use super::Replicated;
use super::site::Writable;
use super::sync::is_of_one_here;
use crate::backup::replica::{Held, Origin, Relief, Sending, relief};
use crate::engine::{Call, Error};

/// Fewer remnants aren't worth a look.
const LEAST: usize = 4;
/// Of more nobody wants to read each when a backup is wanted back.
const MANY: usize = 16;
/// The same of those at the head of a chain: to be rid of them costs a whole database.
const MANY_AT_HEAD: usize = 64;

impl Writable<'_> {
    /// Looks at each run that the last deletions have made longer.
    pub(super) fn collapse(&mut self, call: &Call, done: &mut Replicated) -> Result<(), Error> {
        if !self.is_incremental() || done.dropped.is_empty() || !done.not_sent.is_empty() {
            return Ok(());
        }
        let kept: BTreeSet<u64> = self.site.backups().iter().map(|held| held.origin.sequence).collect();
        self.state.collapsing.retain(|sequence, _| *sequence == 0 || kept.contains(sequence));
        let standing = self.site.backups().iter().filter(|held| held.has_segments());
        for origin in standing.map(|held| held.origin).collect::<Vec<_>>() {
            match self.collapse_before(origin, call, done) {
                // What is wrong with a copy here is found out where it is sent, or read.
                Err(error) if is_of_one_here(&error) => tracing::debug!(%error, "a run of remnants stays"),
                looked => looked?,
            }
        }
        Ok(())
    }

    fn collapse_before(&mut self, origin: Origin, call: &Call, done: &mut Replicated) -> Result<(), Error> {
        let base = self.base_of(origin)?;
        let on = base.as_ref().map(|base| base.origin);
        let (key, relief) =
            (on.map_or(0, |on| on.sequence), relief(self.site.backups(), self.site.remnants(), origin, on));
        let looked = self.state.collapsing.get(&key).copied().unwrap_or(0);
        let most = most(relief, on.is_none());
        if !is_worth_a_look(relief, looked, most) {
            return Ok(());
        }
        self.state.collapsing.insert(key, relief.remnants);
        if self.measure(origin, base.as_ref(), most, call)?.is_none() {
            return Ok(());
        }
        let Some(Held { id, promoted_from, .. }) = self.site.backups().iter().find(|held| held.origin == origin) else {
            return Ok(());
        };
        let sending = Sending { origin, id: *id, promoted_from: *promoted_from };
        if let Some(bytes) = self.sent(&sending, call)? {
            self.state.collapsing.remove(&key);
            done.remade.push(sending.id);
            done.bytes += bytes;
        }
        Ok(())
    }
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
