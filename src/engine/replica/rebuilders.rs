//! Databases that are led from backup to backup, each in one private file: where backups stand on each other, and are asked for the
//! oldest first, each segment is read once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::path::{Path, PathBuf};

use super::rebuild::Rebuilder;
use super::site::Link;
use crate::backup::DatabaseName;
use crate::backup::replica::Chains;
use crate::disk;
use crate::engine::staging::Staging;
use crate::engine::{Engine, Error};

/// One for each database.
pub(super) struct Rebuilders<'a> {
    engine: &'a Engine,
    link: &'a Link,
    chains: &'a Chains<'a>,
    each: BTreeMap<DatabaseName, Rebuilder<'a>>,
    room: Option<Room>,
}

impl<'a> Rebuilders<'a> {
    pub(super) fn new(engine: &'a Engine, link: &'a Link, chains: &'a Chains<'a>) -> Self {
        Self { engine, link, chains, each: BTreeMap::new(), room: None }
    }

    /// That of a database, where it was left.
    pub(super) fn of(&mut self, name: &DatabaseName) -> Result<&mut Rebuilder<'a>, Error> {
        let room = match self.room.take() {
            Some(room) => room,
            None => Room::make(self.engine.store.root())?,
        };
        let folder = self.room.insert(room).staging.path();
        Ok(match self.each.entry(name.clone()) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => slot.insert(Rebuilder::new(self.engine, self.link, self.chains, name, folder)?),
        })
    }
}

/// A private folder; where there is no backup directory yet, one goes with it.
struct Room {
    staging: Staging,
    _made: Option<Made>,
}

/// A backup directory that was made for a look, and goes if nothing else has come.
struct Made(PathBuf);

impl Room {
    fn make(root: &Path) -> Result<Self, Error> {
        let made = (!root.exists()).then(|| Made(root.to_owned()));
        disk::make_dirs(root)?;
        Ok(Self { staging: Staging::create(root)?, _made: made })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        disk::remove_empty_dir(&self.0);
    }
}
