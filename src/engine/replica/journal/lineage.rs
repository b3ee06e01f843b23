//! Which journals the catalog of a replica names.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::listing::Listing;
use super::state::Remembered;
use crate::backup::ReplicaName;
use crate::backup::replica::{HeldJournal, MAX_JOURNALS, Nonce};
use crate::disk;
use crate::engine::replica::state::{OwnJournal, State};
use crate::engine::replica::sync::chance;
use crate::engine::replica::writable::Writable;
use crate::engine::{Call, Engine, Error};
use crate::journal::folder::identity;
use crate::journal::pack::folder_of;
use crate::journal::timeline::Timeline;
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
        let oldest = self.engine.oldest_kept()?;
        self.journals.drain(..over(&self.journals, oldest));
        Ok(())
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
        let millis = |until: DateTime<Utc>| u64::try_from(until.timestamp_millis()).unwrap_or_default();
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

/// How many of them go, the oldest first: those whose successor is older than the window, and those that no catalog has room for.
fn over(journals: &[HeldJournal], oldest: Option<DateTime<Utc>>) -> usize {
    let is_over =
        |next: Option<&HeldJournal>| next.is_some_and(|next| oldest.is_some_and(|oldest| next.since < oldest));
    let over = (0..journals.len()).take_while(|at| is_over(journals.get(at + 1))).count();
    over.max(journals.len().saturating_sub(MAX_JOURNALS))
}

/// Since when instants are kept, whatever of them a database lacks. By the journal here too, which no jump of the clock makes shorter:
/// where one of its databases reaches back farther, so does this.
fn kept_since(
    alive: Option<DateTime<Utc>>,
    window: Duration,
    oldest: impl IntoIterator<Item = DateTime<Utc>>,
) -> Option<DateTime<Utc>> {
    let begun = alive?.checked_sub_signed(TimeDelta::from_std(window).ok()?)?;
    Some(oldest.into_iter().fold(begun, DateTime::min))
}

impl Engine {
    fn oldest_kept(&self) -> Result<Option<DateTime<Utc>>, Error> {
        let oldest = self.of_journals(|index, _| index.oldest())?;
        let alive = Timeline::read(self.store.root())?.alive;
        let oldest = oldest.into_values().flatten().filter_map(|point| point.at());
        Ok(kept_since(alive, self.config.pitr.retention, oldest))
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
    use super::*;

    /// As a directory that gets another name each time.
    #[test]
    fn a_new_one_every_day_is_never_too_many() {
        let begun: DateTime<Utc> = "2026-01-08T02:00:00Z".parse().unwrap();
        let kept = |days: i64| {
            let (mut journals, mut most) = (Vec::new(), 0);
            for day in 0..1200 {
                let since = begun + TimeDelta::days(day);
                journals.push(HeldJournal { lineage: Nonce(u64::to_be_bytes(day as u64)), since });
                journals.drain(..over(&journals, Some(since - TimeDelta::days(days))));
                most = most.max(journals.len());
                assert_eq!(journals.last().map(|held| held.since), Some(since));
            }
            most
        };
        assert_eq!(kept(7), 9, "those of the window, and the one that it begins in");
        assert_eq!(kept(36500), MAX_JOURNALS);
        let journals = [HeldJournal { lineage: Nonce([1; 8]), since: begun }];
        assert_eq!([over(&journals, None), over(&journals, Some(begun + TimeDelta::days(99)))], [0, 0]);
    }

    /// After a machine was lost: another one goes on.
    #[test]
    fn one_that_is_needed_stays_until_the_next_is_older_than_the_window() {
        let begun: DateTime<Utc> = "2026-01-08T02:00:00Z".parse().unwrap();
        let (hours, day) = (|hours| begun + TimeDelta::hours(hours), Duration::from_secs(86400));
        let journal = |number, since| HeldJournal { lineage: Nonce([number; 8]), since };
        let gone = |since, alive, oldest: &[i64]| {
            let oldest = oldest.iter().map(|at| hours(*at));
            over(&[journal(1, begun), journal(2, hours(since))], kept_since(Some(hours(alive)), day, oldest))
        };
        assert_eq!(gone(48, 49, &[49]), 0, "its first snapshot came later");
        assert_eq!(gone(48, 71, &[48, 70]), 0, "a database was added");
        assert_eq!(gone(48, 71, &[]), 0, "nothing of it is here");
        assert_eq!(gone(48, 73, &[47]), 0, "what is here reaches back farther");
        assert_eq!(gone(48, 73, &[73, 49]), 1);
        assert_eq!(kept_since(None, day, [begun]), None);
    }
}
