//! Which journals the catalog of a replica names.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::listing::Listing;
use super::state::Remembered;
use crate::backup::replica::{HeldJournal, MAX_JOURNALS, Nonce};
use crate::backup::{DatabaseName, Moment, ReplicaName};
use crate::disk;
use crate::engine::replica::state::{OwnJournal, State};
use crate::engine::replica::sync::chance;
use crate::engine::replica::writable::Writable;
use crate::engine::{Call, Engine, Error};
use crate::journal::chain::Horizon;
use crate::journal::folder::identity;
use crate::journal::pack::{Key, folder_of};
use crate::journal::packs::Packs;
use crate::journal::timeline::Timeline;
use crate::journal::{Level, LtxFile};
use crate::sqlite;

impl Writable<'_> {
    /// What is wrong with the journal stops no backup.
    pub(in crate::engine::replica) fn see_to_journals(&mut self) -> Result<(), Error> {
        match self.plan_journals() {
            Ok(()) => self.state.journal_trouble = None,
            Err(error @ Error::Sqlite(sqlite::Error::Cancelled)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, replica = %self.name, "its journal is left as it is");
                self.state.journal_failed(self.engine.clock.now(), &error, chance()?);
            }
        }
        Ok(())
    }

    /// A journal that isn't the one that was sent before gets a new lineage: the directory lies elsewhere, or its journal was begun anew.
    /// Those that are over go.
    fn plan_journals(&mut self) -> Result<(), Error> {
        let root = self.engine.store.root();
        if let Some(id) = self.engine.journal_here()? {
            let is_begun = self.engine.has_snapshots()?;
            let (writer, directory) = (self.state.writer(root)?, self.state.directory(root)?);
            let is_known = |own: &OwnJournal| own.id == id && self.journals.iter().any(|it| it.lineage == own.lineage);
            let own = self.journal.clone().filter(is_known);
            // The first programs that sent journals didn't note the directory.
            let is_of_here = |own: &OwnJournal| own.directory.is_empty() || own.directory == directory;
            let left = match &own {
                Some(own) if own.writer != writer && is_of_here(own) => self.as_left(own.lineage)?,
                _ => None,
            };
            match (own, left) {
                (Some(own), _) if own.writer == writer => {
                    self.journal = Some(OwnJournal { directory, ..own });
                    self.state.journal.clone_from(&self.journal);
                }
                (Some(own), Some(left)) => {
                    // Should the other name still live, on a copy of the disk, it finds another's catalog, as after any change of writers.
                    self.journal = Some(OwnJournal { writer, directory, ..own });
                    (self.is_others, self.left) = (true, Some(left));
                }
                // Before there is anything to be sent it would only make those before it older.
                _ if is_begun => self.begin_lineage(writer, directory, id)?,
                _ => {}
            }
        }
        // First: what can't be listed is in no catalog's way.
        make_room(&mut self.journals);
        let kept = self.engine.kept_journal()?;
        let over = over(&self.journals, &kept, |lineage| self.reaches_back(lineage, &kept))?;
        self.journals.drain(..over);
        Ok(())
    }

    /// Whether each of its databases has there what is kept, as far as it is known to be whole. Since when the catalog names it says little: its
    /// first snapshot may have come much later.
    fn reaches_back(&self, lineage: Nonce, kept: &Kept) -> Result<bool, Error> {
        let listing = self.listing(lineage)?;
        let damaged: Vec<_> = self.state.damaged_packs.iter().filter_map(|key| Key::parse(key)).collect();
        let reaches = |(name, packs): (&DatabaseName, &Packs)| {
            let of = |key: &Key| match key {
                Key::Pack { lineage: of, database, span, .. } if *of == lineage && database == name => Some(*span),
                _ => None,
            };
            let reach = packs.without(&damaged.iter().filter_map(of).collect()).reach();
            reach.is_some_and(|reach| reach.from.millis <= kept.of(name).begin())
        };
        Ok(!listing.untils.is_empty() && !listing.packs.is_empty() && listing.packs.iter().all(reaches))
    }

    fn begin_lineage(&mut self, writer: String, directory: String, id: String) -> Result<(), Error> {
        let lineage = Nonce(disk::random()?);
        // A clock that went back makes none older than what is there.
        let written = self.site.catalog.as_ref().map(|catalog| catalog.written_at);
        let now = self.engine.clock.now();
        let since = self.journals.iter().map(|held| held.since).chain(written).fold(now, DateTime::max);
        self.journals.push(HeldJournal { lineage, since });
        self.journal = Some(OwnJournal { lineage, writer, directory, id });
        Ok(())
    }

    /// What lies there of that lineage, if nobody has sent anything of it since this directory did: who writes a journal says so there every
    /// minute.
    fn as_left(&self, lineage: Nonce) -> Result<Option<Left>, Error> {
        let listing = self.listing(lineage)?;
        let there = listing.untils.last().map(|(millis, ..)| *millis);
        let remembered = Remembered::load(self.engine.store.root(), &self.name, self.state.place())?;
        let millis = |until: DateTime<Utc>| Moment::new(until).millis();
        let left = [remembered.until, remembered.writing].map(|until| until.map(millis));
        let is_left = remembered.lineage == Some(lineage) && left.contains(&there);
        Ok(is_left.then_some(Left { lineage, listing }))
    }

    fn listing(&self, lineage: Nonce) -> Result<Listing, Error> {
        let link = &self.site.link;
        Ok(Listing::of(lineage, &link.at(link.remote.list(&folder_of(lineage)))?))
    }

    /// Once the catalog says whose the lineage is: whoever had it too, and sent more of it until now, keeps it, and the next replication
    /// begins another one.
    pub(in crate::engine::replica) fn look_at_left(&mut self) -> Result<(), Error> {
        let Some(Left { lineage, listing }) = self.left.take() else { return Ok(()) };
        let now = self.listing(lineage)?;
        if (&now.packs, &now.untils) != (&listing.packs, &listing.untils) {
            tracing::warn!(replica = %self.name, "another machine sends the journal that was sent from here; another one is begun beside it");
            self.journal = None;
        }
        Ok(())
    }
}

/// A lineage that goes on under another name of this machine, and what lay there of it.
pub(in crate::engine::replica) struct Left {
    lineage: Nonce,
    listing: Listing,
}

/// The oldest go that no catalog has room for.
fn make_room<T>(journals: &mut Vec<T>) {
    journals.drain(..journals.len().saturating_sub(MAX_JOURNALS));
}

/// How many of them go, the oldest first: those before one that is older than what is kept, and `reaches_back` as far.
fn over(
    journals: &[HeldJournal],
    kept: &Kept,
    reaches_back: impl Fn(Nonce) -> Result<bool, Error>,
) -> Result<usize, Error> {
    for (at, held) in journals.iter().enumerate().skip(1).rev() {
        if kept.is_after(held.since) && reaches_back(held.lineage)? {
            return Ok(at);
        }
    }
    Ok(0)
}

/// Since when instants are kept, whatever of them a database lacks. By the journal here too: where a database reaches back farther, so
/// does this.
struct Kept {
    horizon: Horizon,
    /// Of each database here, the oldest first.
    snapshots: BTreeMap<DatabaseName, Vec<LtxFile>>,
}

impl Kept {
    /// Whether that was before any database's.
    fn is_after(&self, since: DateTime<Utc>) -> bool {
        let oldest = self.snapshots.values().filter_map(|all| all.first());
        let horizon = oldest.fold(self.horizon, |horizon, oldest| horizon.or_since(oldest.millis));
        horizon.is_after(Moment::new(since).millis(), self.snapshots.values().map(Vec::as_slice))
    }

    /// Of that one.
    fn of(&self, name: &DatabaseName) -> Horizon {
        let oldest = self.snapshots.get(name).and_then(|all| all.first());
        oldest.map_or(self.horizon, |oldest| self.horizon.or_since(oldest.millis))
    }
}

impl Engine {
    fn kept_journal(&self) -> Result<Kept, Error> {
        let snapshots = self.of_journals(|index, _| index.level(Level::SNAPSHOT).to_vec())?;
        // Whoever pushes need not be who writes the journal.
        let (alive, pitr) = (Timeline::read(self.store.root())?.alive, &self.config.pitr);
        let until = alive.map_or(0, |alive| Moment::new(alive).millis());
        let horizon = Horizon::until(until, Duration::ZERO, pitr.retention, pitr.snapshot_every);
        Ok(Kept { horizon, snapshots })
    }

    /// Whether each database has a state in the journal that is written here.
    fn has_snapshots(&self) -> Result<bool, Error> {
        let oldest = self.of_journals(|index, _| index.oldest())?;
        Ok(oldest.values().all(Option::is_some))
    }

    /// The id of the journal that is written here, if one is.
    fn journal_here(&self) -> Result<Option<String>, Error> {
        if self.config.pitr.enabled { Ok(identity(self.store.root())?) } else { Ok(None) }
    }

    /// Whether the replica's catalog doesn't name the journal that is written here, and could.
    pub(in crate::engine::replica) fn lacks_lineage(&self, state: &State) -> Result<bool, Error> {
        Ok(self.journal_here()?.is_some() && self.lineage_here(state)?.is_none() && self.has_snapshots()?)
    }

    /// What the journal that is written here is called there.
    pub(super) fn lineage_here(&self, state: &State) -> Result<Option<Nonce>, Error> {
        let (Some(id), Some(own)) = (self.journal_here()?, &state.journal) else { return Ok(None) };
        let writer = state.clone().writer(self.store.root())?;
        Ok((own.writer == writer && own.id == id).then_some(own.lineage))
    }

    /// What lies there under the lineage isn't what was sent from here: the next replication begins another one.
    pub(super) fn leave_lineage(&self, name: &ReplicaName, lineage: Nonce, call: &Call) -> Result<(), Error> {
        let replica = self.config.replicas.get(name).ok_or_else(|| self.unknown(name))?;
        let _permit = self.replica_permit(name, call)?;
        let mut state = State::load(self.store.root(), name, &replica.place.identity())?;
        state.journal = state.journal.filter(|own| own.lineage != lineage);
        state.save(self.store.root(), name)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::journal::{FileName, Txid};

    fn at(hours: i64) -> DateTime<Utc> {
        "2026-01-08T02:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::hours(hours)
    }

    fn hours(hours: u32) -> Duration {
        hours * Duration::from_secs(3600)
    }

    fn journals(since: &[i64]) -> Vec<HeldJournal> {
        let journal = |(number, since): (usize, &i64)| HeldJournal {
            lineage: Nonce(u64::to_be_bytes(number as u64)),
            since: at(*since),
        };
        since.iter().enumerate().map(journal).collect()
    }

    /// At that hour, with a window so long, and databases that have a snapshot at each of these. The program was started just now.
    fn kept(now: i64, window: u32, snapshots: &[&[i64]]) -> Kept {
        let millis = |hours: i64| Moment::new(at(hours)).millis();
        let file = |hours: &i64| {
            let txid = Txid::new(1 + *hours as u64).unwrap();
            LtxFile { name: FileName { level: Level::SNAPSHOT, min: txid, max: txid }, millis: millis(*hours), size: 1 }
        };
        let all = snapshots.iter().map(|hours| hours.iter().map(file).collect());
        Kept {
            horizon: Horizon::until(millis(now), Duration::ZERO, hours(window), hours(24)),
            snapshots: all.enumerate().map(|(at, all)| (named(at), all)).collect(),
        }
    }

    fn named(database: usize) -> DatabaseName {
        format!("db{database}").parse().unwrap()
    }

    /// As a directory that gets another name each time.
    #[test]
    fn a_new_one_every_day_is_never_too_many() {
        let kept = |days: u32| {
            let (mut since, mut snapshots, mut most) = (Vec::new(), Vec::new(), 0);
            for day in 0..1200 {
                since.push(24 * day);
                snapshots.push(24 * day);
                snapshots.drain(..snapshots.len().saturating_sub(days as usize + 2));
                let kept = kept(24 * day, 24 * days, &[&snapshots]);
                let over = over(&journals(&since), &kept, |_| Ok(true)).unwrap();
                since.drain(..over);
                make_room(&mut since);
                most = most.max(since.len());
                assert_eq!(since.last(), Some(&(24 * day)));
            }
            most
        };
        assert_eq!(kept(7), 10, "those of the window, the one that it begins in, and the one before");
        assert_eq!(kept(36500), MAX_JOURNALS);
        assert_eq!(over(&journals(&[0]), &self::kept(9999, 24, &[&[0, 24, 48]]), |_| Ok(true)).unwrap(), 0);
    }

    /// After a machine was lost: another one goes on.
    #[test]
    fn one_that_is_needed_stays_until_the_next_is_older_than_the_window() {
        let gone = |since, now, snapshots: &[&[i64]]| {
            over(&journals(&[0, since]), &kept(now, 24, snapshots), |_| Ok(true)).unwrap()
        };
        assert_eq!(gone(48, 49, &[&[49]]), 0, "its first snapshot came later");
        assert_eq!(gone(48, 71, &[&[48, 70], &[70]]), 0, "a database was added");
        assert_eq!(gone(48, 71, &[]), 0, "nothing of it is here");
        assert_eq!(gone(48, 73, &[&[47, 73]]), 0, "what is here reaches back farther");
        assert_eq!(gone(48, 74, &[&[49, 73], &[73]]), 1);
        assert_eq!(gone(48, 1000, &[&[49, 60], &[60]]), 0, "a clock that jumped makes no window");
        let kept = kept(73, 24, &[&[80], &[40]]);
        let begins = [0, 1, 2].map(|database| kept.of(&named(database)).begin());
        assert_eq!(begins, [49, 40, 49].map(|hours| Moment::new(at(hours)).millis()));
    }

    /// What a lineage has there counts too, and not only since when the catalog names it.
    #[test]
    fn one_that_does_not_reach_back_there_makes_none_before_it_go() {
        let gone = |since: &[i64], reaching: &[u8]| {
            let kept = kept(75, 24, &[&[51, 75]]);
            over(&journals(since), &kept, |lineage| Ok(reaching.contains(&lineage.0[7]))).unwrap()
        };
        assert_eq!(gone(&[0, 10], &[]), 0);
        assert_eq!(gone(&[0, 10], &[1]), 1);
        assert_eq!(gone(&[0, 10, 20], &[2]), 2, "nor is one kept for the sake of another that is over");
        assert_eq!(gone(&[0, 10, 20], &[1]), 1);
        assert_eq!(gone(&[0, 10, 60], &[1, 2]), 1);
        assert_eq!(gone(&[0, 60], &[0, 1]), 0);
    }
}
