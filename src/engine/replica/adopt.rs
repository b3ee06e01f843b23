//! What this directory takes on from a replica: its store, where nothing is here yet, and its numbers.

use std::sync::Arc;

use super::details;
use super::fetch::PULL;
use super::sync::REPLICATE;
use crate::audit::{Entry, Kind};
use crate::backup::replica::ReplicaCatalog;
use crate::catalog::Catalog;
use crate::engine::recovery::UNBEGUN;
use crate::engine::{Call, Engine, Error, entry};

impl Engine {
    /// A directory in which nothing is yet becomes that of the replica's store.
    pub(super) fn adopt(&self, there: &ReplicaCatalog, call: &Call) -> Result<(), Error> {
        let is_new = |catalog: Option<Arc<Catalog>>| catalog.is_none_or(|catalog| catalog.is_new());
        if !is_new(self.read_catalog()?) {
            return Ok(());
        }
        let mut adopted = Catalog { last_sequence: there.last_sequence(0), ..Catalog::empty(there.store_id.clone()) };
        if self.config.store_id.as_ref().is_some_and(|expected| *expected != adopted.store_id) {
            return self.assert_store(&adopted);
        }
        let _permit = self.permit(PULL, call)?;
        if is_new(self.read_catalog()?) {
            // It ends nothing that another has left open.
            let mut told = details([
                ("adopted", there.store_id.clone().into()),
                ("host", there.host.clone().into()),
                (UNBEGUN, true.into()),
            ]);
            // Before anything of it is here that a rotation could drop.
            if let Some(kept) = there.retention {
                let more = self.keep_no_fewer(&kept)?;
                told.extend(more.map(|more| ("retention".to_owned(), serde_json::to_value(more).unwrap_or_default())));
            }
            let line = Entry { ok: Some(true), details: told, ..entry(Kind::Outcome, PULL, &call.actor, None) };
            self.append_first(line)?;
            adopted.save(self.store.root())?;
        }
        Ok(())
    }

    /// The next backup here gets a number above all there, before anything is sent. Where an older copy of this directory was put back,
    /// or one came from a replica that lagged, its numbers would be given once more: by them what was given up would be the newest.
    pub(super) fn count_on(&self, there: Option<&ReplicaCatalog>, call: &Call) -> Result<(), Error> {
        let (Some(there), Some(here)) = (there, self.standing_catalog()?) else { return Ok(()) };
        let last = here.highest_sequence();
        let higher = there.last_sequence(last);
        if higher == last {
            return Ok(());
        }
        let mut session = self.begin(REPLICATE, call)?;
        session.catalog.last_sequence = session.catalog.last_sequence.max(higher);
        session.commit()
    }
}
