//! Which journals the catalog of a replica names.

use chrono::DateTime;

use crate::backup::ReplicaName;
use crate::backup::replica::{HeldJournal, Nonce};
use crate::disk;
use crate::engine::journal::Window;
use crate::engine::replica::state::{OwnJournal, State};
use crate::engine::replica::writable::Writable;
use crate::engine::{Call, Engine, Error};
use crate::journal::folder::identity;

impl Writable<'_> {
    /// A journal that isn't the one that was sent before gets a new lineage: the directory lies elsewhere, or its journal was begun anew.
    /// One whose successor is older than the window goes.
    pub(in crate::engine::replica) fn plan_journals(&mut self) -> Result<(), Error> {
        let (root, now) = (self.engine.store.root(), self.engine.clock.now());
        if let Some(id) = self.engine.journal_here()? {
            let writer = self.state.writer(root)?;
            let is_named = |own: &OwnJournal| self.journals.iter().any(|held| held.lineage == own.lineage);
            let is_own = |own: &OwnJournal| own.writer == writer && own.id == id && is_named(own);
            if !self.journal.as_ref().is_some_and(is_own) {
                let lineage = Nonce(disk::random()?);
                // A clock that went back makes none older than what is there.
                let written = self.site.catalog.as_ref().map(|catalog| catalog.written_at);
                let since = self.journals.iter().map(|held| held.since).chain(written).fold(now, DateTime::max);
                self.journals.push(HeldJournal { lineage, since });
                self.journal = Some(OwnJournal { lineage, writer, id });
            }
        }
        // By the journal here, which no jump of the clock makes shorter.
        let kept = self.engine.recovery()?.as_ref().and_then(Window::common);
        let oldest = kept.map(|kept| kept.from);
        let is_over =
            |next: Option<&HeldJournal>| next.is_some_and(|next| oldest.is_some_and(|oldest| next.since < oldest));
        let over = (0..self.journals.len()).take_while(|at| is_over(self.journals.get(at + 1))).count();
        self.journals.drain(..over);
        Ok(())
    }
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
