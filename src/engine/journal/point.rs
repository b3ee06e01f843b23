//! What the databases held at an instant, rebuilt from the journal into a private folder. The order of steps:
//!
//! 1. The journal reaches the instant, and it lies in no gap. Of each database the files are chosen that lead to the newest state
//!    that isn't later: all of these are from one tick, or have not changed since.
//! 2. There is room for all of them.
//! 3. Each is rebuilt, with all checksums compared on the way, read back and made durable.
//!
//! `serve` may remove a file meanwhile that a larger one stands for: then the files are chosen once more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Map;

use super::failed;
use super::window::{Recovery, Window, window};
use crate::backup::{DatabaseCopy, DatabaseName, Form, Moment};
use crate::disk::{self, Context};
use crate::engine::create::OVERHEAD;
use crate::engine::past::Past;
use crate::engine::staging::{Staged, Staging, private_name};
use crate::engine::{Engine, Error};
use crate::journal::folder::folder;
use crate::journal::rebuild::{Rebuilt, rebuild};
use crate::journal::timeline::Timeline;
use crate::journal::{self, Index, LtxFile, chain, states};
use crate::sqlite::snapshot::facts;
use crate::sqlite::{Control, open_finished, situation};

/// How often the files are chosen anew when some of them are gone.
const TRIES: usize = 5;

/// An instant that can be restored, and what leads there.
#[derive(Clone)]
pub struct Point {
    moment: Moment,
    chains: BTreeMap<DatabaseName, Chain>,
    /// Where the journal lies that leads there: in the backup directory, or in a private folder into which it was brought.
    root: PathBuf,
}

/// The files of one database, and how large it was.
#[derive(Clone)]
struct Chain {
    files: Vec<LtxFile>,
    size: u64,
}

impl Point {
    fn of(
        root: &Path,
        planned: Vec<(DatabaseName, Option<Vec<LtxFile>>)>,
        moment: Moment,
    ) -> Result<Result<Self, journal::Error>, Error> {
        let mut chains = BTreeMap::new();
        for (name, chain) in planned {
            let Some((files, last)) = chain.and_then(|files| Some((files.clone(), *files.last()?))) else {
                let reason = format!("files of the journal that lead there are missing for `{name}`");
                return Err(Error::Damaged { subject: moment.into(), reason });
            };
            let folder = folder(root, &name);
            if states::captured_after(&folder, (&last).into()).is_some_and(|state| state.millis <= moment.millis()) {
                let reason = format!("files of the journal are gone that lead to a later state of `{name}` before it");
                return Err(Error::Damaged { subject: moment.into(), reason });
            }
            match size_after(&folder, &last) {
                Ok(size) => drop(chains.insert(name, Chain { files, size })),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(Self { moment, chains, root: root.to_owned() }))
    }

    /// Bytes of the databases as they were then.
    pub(in crate::engine) fn size(&self) -> u64 {
        self.chains.values().map(|chain| chain.size).sum()
    }
}

impl Engine {
    /// Step 1.
    pub(in crate::engine) fn point(&self, moment: Moment) -> Result<Point, Error> {
        self.assert_expected()?;
        let mut tries = 1;
        loop {
            match self.looked_up(moment)? {
                Err(journal::Error::Gone { .. }) if tries < TRIES => tries += 1,
                point => return point.map_err(|error| failed(error, moment)),
            }
        }
    }

    fn looked_up(&self, moment: Moment) -> Result<Result<Point, journal::Error>, Error> {
        let look =
            |index: &Index, timeline: &Timeline| Some((window(index, timeline)?, chain::plan(index, moment.millis())));
        let found = match self.of_journals(look) {
            Ok(found) => found.into_iter().filter_map(|(name, found)| Some((name, found?))),
            Err(error) => return Ok(Err(error)),
        };
        let (mut recovery, mut planned) = (Recovery::new(), Vec::new());
        for (name, (window, chain)) in found {
            recovery.insert(name.clone(), window);
            planned.push((name, chain));
        }
        Window::assert_all_reach(&recovery, moment)?;
        Point::of(self.store.root(), planned, moment)
    }

    /// An instant by a journal that was brought into a private folder.
    pub(in crate::engine) fn point_in(
        &self,
        root: &Path,
        names: impl Iterator<Item = DatabaseName>,
        moment: Moment,
    ) -> Result<Point, Error> {
        let plan = |name: DatabaseName| -> Result<_, journal::Error> {
            let index = Index::scan(&folder(root, &name))?;
            Ok((name, chain::plan(&index, moment.millis())))
        };
        let planned = names.map(plan).collect::<Result<_, _>>()?;
        Point::of(root, planned, moment)?.map_err(|error| failed(error, moment))
    }

    /// Steps 2 and 3.
    pub(in crate::engine) fn stage_point(&self, point: &Point, control: &Control) -> Result<Staged, Error> {
        let mut tries = 1;
        let mut point = point.clone();
        loop {
            match self.rebuilt(&point, control)? {
                Err(journal::Error::Gone { .. }) if tries < TRIES && point.root == self.store.root() => {
                    tries += 1;
                    point = self.point(point.moment)?;
                }
                staged => return staged.map_err(|error| failed(error, point.moment)),
            }
        }
    }

    fn rebuilt(&self, point: &Point, control: &Control) -> Result<Result<Staged, journal::Error>, Error> {
        let root = self.store.root();
        let (needed, free) = (point.size() + OVERHEAD, disk::free_space(root)?);
        if free < needed {
            return Err(Error::Full { needed, free });
        }
        let staging = Staging::create(root)?;
        let (mut files, mut databases) = (BTreeMap::new(), BTreeMap::new());
        for (name, chain) in &point.chains {
            let path = staging.path().join(private_name(name));
            let file = disk::create_own(&path)?;
            let rebuilt = match rebuild(&folder(&point.root, name), &chain.files, (&file, &path), control) {
                Ok(rebuilt) => rebuilt,
                Err(error) => return Ok(Err(error)),
            };
            file.sync_all().to("sync", &path)?;
            databases.insert(name.clone(), described(name, &path, rebuilt, point.moment)?);
            files.insert(name.clone(), path);
        }
        disk::sync_dir(staging.path())?;
        let past = Past { subject: point.moment.into(), at: point.moment.at(), databases, is_corrupt: false };
        Ok(Ok(Staged { past, files, folder: staging }))
    }
}

/// Bytes of the database in the state that a file ends with.
fn size_after(folder: &Path, file: &LtxFile) -> Result<u64, journal::Error> {
    let header = journal::header(&file.name.path(folder))?;
    Ok(u64::from(header.pages) * u64::from(header.page_size))
}

/// What the catalog would say of it; nobody has counted its rows.
fn described(name: &DatabaseName, path: &Path, rebuilt: Rebuilt, moment: Moment) -> Result<DatabaseCopy, Error> {
    let unread = |error| Error::of_copy(moment.into(), situation(name, error));
    let facts = open_finished(path).and_then(|connection| facts(&connection)).map_err(unread)?;
    let (size, checksum) = (rebuilt.content.size(), rebuilt.content.checksum.clone());
    Ok(DatabaseCopy {
        file: private_name(name),
        form: Form::Plain,
        size,
        checksum: checksum.clone(),
        stored_size: size,
        stored_checksum: checksum,
        stored_xxh3: Some(rebuilt.content.fingerprint.xxh3()),
        recipients: Vec::new(),
        page_size: rebuilt.page_size,
        free_pages: facts.free_pages,
        journal_mode: facts.journal_mode,
        user_version: facts.user_version,
        tables: BTreeMap::new(),
        extra: Map::new(),
    })
}
