//! A backup before an app is started, which may be for the first time: what it has yet to make is no failure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Call, Create, Created, Engine, Error};
use crate::backup::DatabaseName;
use crate::sqlite::{self, identify};

/// What could be done.
#[derive(Clone, Debug)]
pub struct First {
    /// The backup of those that are there; `None` when none is.
    pub created: Option<Created>,
    /// Those that aren't there yet.
    pub awaited: Vec<DatabaseName>,
}

impl Engine {
    /// Takes a backup of the databases that are there. One that is missing or empty and was ever in a backup here is lost, and
    /// fails it as always; one that never was is awaited.
    pub fn create_first(&self, create: &Create, call: &Call) -> Result<First, Error> {
        let awaited = self.awaited()?;
        let mut config = self.config.as_ref().clone();
        config.databases.retain(|name, _| !awaited.contains(name));
        if config.databases.is_empty() {
            return Ok(First { created: None, awaited });
        }
        let engine = Self { config: Arc::new(config), ..self.clone() };
        Ok(First { created: Some(engine.create(create, call)?), awaited })
    }

    fn awaited(&self) -> Result<Vec<DatabaseName>, Error> {
        let catalog = self.standing_catalog()?;
        let backups = catalog.iter().flat_map(|catalog| &catalog.backups);
        let known: BTreeSet<_> = backups.flat_map(|backup| backup.databases.keys()).collect();
        let is_made = |source: &sqlite::Source| {
            !matches!(identify(source), Err(sqlite::Error::Missing { .. } | sqlite::Error::Empty { .. }))
        };
        let unmade = self.sources().into_iter().filter(|source| !is_made(source) && !known.contains(&source.name));
        Ok(unmade.map(|source| source.name).collect())
    }
}
