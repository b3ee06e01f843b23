//! Which journals the catalog of a replica names.

use chrono::{DateTime, Utc};

use super::listing::Listing;
use super::state::Remembered;
use crate::backup::ReplicaName;
use crate::backup::replica::{HeldJournal, MAX_JOURNALS, Nonce};
use crate::disk;
use crate::engine::journal::Window;
use crate::engine::replica::state::{OwnJournal, State};
use crate::engine::replica::writable::Writable;
use crate::engine::{Call, Engine, Error};
use crate::journal::folder::identity;
use crate::journal::pack::folder_of;

impl Writable<'_> {
    /// A journal that isn't the one that was sent before gets a new lineage: the directory lies elsewhere, or its journal was begun anew.
    /// Those that are over go.
    pub(in crate::engine::replica) fn plan_journals(&mut self) -> Result<(), Error> {
        let root = self.engine.store.root();
        if let Some(id) = self.engine.journal_here()? {
            let (writer, directory) = (self.state.writer(root)?, self.state.directory(root)?);
            let is_named = |own: &OwnJournal| self.journals.iter().any(|held| held.lineage == own.lineage);
            match self.journal.clone().filter(|own| own.id == id && is_named(own)) {
                Some(own) if own.writer == writer => {}
                Some(own) if own.directory == directory && self.is_as_left(own.lineage)? => {
                    // Should the other name still live, on a copy of the disk, it finds another's catalog, as after any change of writers.
                    self.journal = Some(OwnJournal { writer, ..own });
                    self.is_others = true;
                }
                _ => self.begin_lineage(writer, directory, id)?,
            }
        }
        // By the journal here, which no jump of the clock makes shorter.
        let kept = self.engine.recovery()?.as_ref().and_then(Window::common);
        self.journals.drain(..over(&self.journals, kept.map(|kept| kept.from)));
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

    /// Nobody has sent anything of that lineage since this directory did: who writes a journal says so there every minute.
    fn is_as_left(&self, lineage: Nonce) -> Result<bool, Error> {
        let link = &self.site.link;
        let listing = Listing::of(lineage, &link.at(link.remote.list(&format!("{}until/", folder_of(lineage))))?);
        let there = listing.untils.last().map(|(millis, ..)| *millis);
        let remembered = Remembered::load(self.engine.store.root(), &self.name, self.state.place())?;
        let millis = |until: DateTime<Utc>| u64::try_from(until.timestamp_millis()).unwrap_or_default();
        let left = [remembered.until, remembered.writing].map(|until| until.map(millis));
        Ok(remembered.lineage == Some(lineage) && left.contains(&there))
    }
}

/// How many of them go, the oldest first: those whose successor is older than the window, and those that no catalog has room for.
fn over(journals: &[HeldJournal], oldest: Option<DateTime<Utc>>) -> usize {
    let is_over =
        |next: Option<&HeldJournal>| next.is_some_and(|next| oldest.is_some_and(|oldest| next.since < oldest));
    let over = (0..journals.len()).take_while(|at| is_over(journals.get(at + 1))).count();
    over.max(journals.len().saturating_sub(MAX_JOURNALS))
}

impl Engine {
    /// The id of the journal that is written here, if one is.
    fn journal_here(&self) -> Result<Option<String>, Error> {
        if self.config.pitr.enabled { Ok(identity(self.store.root())?) } else { Ok(None) }
    }

    /// Whether the replica's catalog doesn't name the journal that is written here.
    pub(in crate::engine::replica) fn lacks_lineage(&self, state: &State) -> Result<bool, Error> {
        Ok(self.journal_here()?.is_some() && self.lineage_here(state)?.is_none())
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
}
