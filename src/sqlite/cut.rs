//! Looks at live databases again and again, each at one instant for all of them [P2], without holding anyone who writes: readers
//! are pinned one after the other, and count as one instant when nobody has committed meanwhile. Only where that never comes true
//! are the writers held for a moment, as a snapshot does it.
//!
//! 1. What each database says of its commits, and how far its WAL is written: before the readers, so that no frame is missed.
//! 2. All readers are pinned. The clock is read.
//! 3. Each database says the same of its commits as in step 1: at that reading of the clock all of them were what the readers see.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use super::page_set::{PageSet, lock_page};
use super::pages::in_time;
use super::snapshot::{FIRST_GATE, Facts, NEXT_GATE, data_version, facts, is_busy, jitter, take_gate};
use super::wal::{Hint, Position, Wal};
use super::{Control, Error, Identity, Source, assert_ended, beside, identify, identify_to_open, open_live, situation};
use crate::backup::DatabaseName;
use crate::clock::Clock;

/// How often readers are pinned before writers are held instead.
const ROUNDS: u64 = 8;

/// A live database that is kept open to be looked at.
pub struct Watched {
    source: Source,
    identity: Identity,
    /// Device and inode of `-wal` and of `-shm`, once they are there.
    beside: [Option<(u64, u64)>; 2],
    /// Never in a transaction, but to hold writers.
    watch: Connection,
    reader: Pinned,
    /// As of the last look that was kept.
    kept: Option<Look>,
    /// As of the cut that goes on.
    look: Option<Look>,
}

/// A reader of a live database. While it is pinned it sees the database as of one instant.
pub struct Pinned {
    name: DatabaseName,
    connection: Connection,
}

impl Pinned {
    fn open(source: &Source) -> Result<Self, Error> {
        let failed = |error| situation(&source.name, error);
        let connection = open_live(&source.path).map_err(failed)?;
        connection.execute_batch("PRAGMA query_only=ON").map_err(failed)?;
        Ok(Self { name: source.name.clone(), connection })
    }

    /// Which.
    pub fn name(&self) -> &DatabaseName {
        &self.name
    }

    /// What SQLite says of the database.
    pub fn facts(&self) -> Result<Facts, Error> {
        facts(&self.connection).map_err(|error| situation(&self.name, error))
    }

    /// Reads all pages as of the cut, in order, but for that of SQLite's locks.
    pub fn each_page<E: From<Error>>(
        &self,
        facts: &Facts,
        control: &Control,
        mut each: impl FnMut(u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| situation(&self.name, error);
        let lock = lock_page(facts.page_size);
        let mut statement = self.connection.prepare("SELECT pgno, data FROM sqlite_dbpage").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let number: u32 = row.get(0).map_err(failed)?;
            if number != lock {
                let data = row.get_ref(1).map_err(failed)?;
                each(number, data.as_blob().map_err(|error| failed(error.into()))?)?;
            }
            if number.is_multiple_of(256) {
                in_time(&self.name, control)?;
            }
        }
        Ok(())
    }

    /// Reads these pages as of the cut, in order; those beyond its end are left out, and that of SQLite's locks.
    pub fn pages<E: From<Error>>(
        &self,
        pages: &PageSet,
        facts: &Facts,
        control: &Control,
        mut each: impl FnMut(u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| situation(&self.name, error);
        let lock = lock_page(facts.page_size);
        let sql = "SELECT data FROM sqlite_dbpage WHERE pgno = ?";
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        for number in pages.iter().filter(|number| *number != lock && u64::from(*number) <= facts.pages) {
            let mut rows = statement.query([number]).map_err(failed)?;
            let row = rows.next().map_err(failed)?.ok_or_else(|| failed(rusqlite::Error::QueryReturnedNoRows))?;
            let data = row.get_ref(0).map_err(failed)?;
            each(number, data.as_blob().map_err(|error| failed(error.into()))?)?;
            in_time(&self.name, control)?;
        }
        Ok(())
    }
}

/// What a database says of its commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Look {
    /// [`data_version`].
    version: i64,
    position: Option<Position>,
}

impl Watched {
    /// Opens a live database.
    pub fn open(source: &Source) -> Result<Self, Error> {
        let identity = identify_to_open(source)?;
        let failed = |error| situation(&source.name, error);
        let (watch, reader) = (open_live(&source.path).map_err(failed)?, Pinned::open(source)?);
        let beside = [None; 2];
        Ok(Self { source: source.clone(), identity, beside, watch, reader, kept: None, look: None })
    }

    /// Which.
    pub fn name(&self) -> &DatabaseName {
        &self.source.name
    }

    /// That it may be read, that the path still leads to the file that is open, and that nobody has removed what lies beside it: SQLite
    /// itself doesn't as long as it is open here, and whoever opened it after that would have a WAL of its own.
    pub fn assert_in_place(&mut self) -> Result<(), Error> {
        assert_ended(&self.source)?;
        let beside = self.beside();
        let same = self.beside.iter().zip(&beside).all(|(before, now)| before.is_none() || before == now);
        if same && identify(&self.source)?.is(&self.identity) {
            self.beside = beside;
            return Ok(());
        }
        Err(Error::Swapped { name: self.source.name.clone() })
    }

    fn beside(&self) -> [Option<(u64, u64)>; 2] {
        use std::os::unix::fs::MetadataExt;
        let identity = |ending| std::fs::metadata(beside(&self.source.path, ending)).ok();
        ["-wal", "-shm"].map(|ending| identity(ending).map(|meta| (meta.dev(), meta.ino())))
    }

    /// Whether anybody has committed since the last cut that was kept. Whoever is at it just now counts too.
    pub fn has_changed(&self) -> Result<bool, Error> {
        match data_version(&self.watch) {
            Ok(version) => Ok(self.kept.is_none_or(|kept| kept.version != version)),
            Err(error) if is_busy(&error) => Ok(true),
            Err(error) => Err(situation(self.name(), error)),
        }
    }

    /// Whether anybody had, as of the cut that goes on.
    pub fn differs(&self) -> bool {
        match (self.kept, self.look) {
            (Some(kept), Some(look)) => kept.version != look.version,
            _ => true,
        }
    }

    /// The pages that may have changed from the last cut that was kept to this one. None where only the pages themselves can tell.
    pub fn hint(&self, page_size: u32) -> Result<Option<Hint>, Error> {
        let Some(before) = self.kept.and_then(|kept| kept.position) else { return Ok(None) };
        let Some(wal) = Wal::open(&self.source.path, page_size)? else { return Ok(None) };
        wal.written_since(before, &self.watch).map_err(|error| situation(self.name(), error))
    }

    /// The next cut's hints count from this one.
    pub fn keep(&mut self) {
        self.kept = self.look;
    }

    /// Lets the reader go; the look can still be kept.
    pub fn unpin(&self) {
        for connection in [&self.reader.connection, &self.watch] {
            if !connection.is_autocommit() {
                // Nothing was written: there is nothing that a failed rollback could leave.
                let _ = connection.execute_batch("ROLLBACK");
            }
        }
    }

    /// The reader, which a cut has pinned.
    pub fn pinned(&self) -> &Pinned {
        &self.reader
    }

    /// Gives the reader away as it is pinned; another one takes its place.
    pub fn hand_over(&mut self) -> Result<Pinned, Error> {
        Ok(std::mem::replace(&mut self.reader, Pinned::open(&self.source)?))
    }

    /// Step 1.
    fn look(&mut self) -> rusqlite::Result<()> {
        let page_size = self.watch.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let version = data_version(&self.watch)?;
        let position = match Wal::open(&self.source.path, page_size) {
            Ok(Some(wal)) => wal.position(&self.watch)?,
            _ => None,
        };
        self.look = Some(Look { version, position });
        Ok(())
    }

    /// Step 2.
    fn pin(&self) -> rusqlite::Result<()> {
        self.reader.connection.execute_batch("BEGIN; PRAGMA cache_size=-512")?;
        self.reader.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
    }

    /// Step 3.
    fn stands(&self) -> rusqlite::Result<bool> {
        let version = data_version(&self.watch)?;
        Ok(self.look.is_some_and(|look| look.version == version))
    }
}

/// Pins a reader of each database, all of one instant, and gives that, and since when writers may have had to wait for it. Whoever gets it
/// releases them.
pub fn take(
    databases: &mut [&mut Watched],
    patience: Duration,
    clock: &Clock,
    control: &Control,
) -> Result<(DateTime<Utc>, Instant), Error> {
    let begun = Instant::now();
    for round in 0.. {
        control.check()?;
        databases.iter().try_for_each(|database| assert_ended(&database.source))?;
        let since = Instant::now();
        let taken = if round < ROUNDS { without_holding(databases, clock) } else { holding(databases, clock) };
        let busy = match taken {
            Ok(Some(at)) => return Ok((at, since)),
            Ok(None) => None,
            Err((at, error)) if is_busy(&error) => Some(at),
            Err((at, error)) => {
                databases.iter().for_each(|database| database.unpin());
                return Err(situation(databases[at].name(), error));
            }
        };
        databases.iter().for_each(|database| database.unpin());
        if begun.elapsed() >= patience {
            let name = databases[busy.unwrap_or_default()].name().clone();
            return Err(Error::Locked { name, waited: patience });
        }
        std::thread::sleep(jitter(round) / 4);
    }
    Err(Error::Cancelled)
}

type Taken = Result<Option<DateTime<Utc>>, (usize, rusqlite::Error)>;

fn without_holding(databases: &mut [&mut Watched], clock: &Clock) -> Taken {
    for (at, database) in databases.iter_mut().enumerate() {
        database.look().map_err(|error| (at, error))?;
    }
    for (at, database) in databases.iter().enumerate() {
        database.pin().map_err(|error| (at, error))?;
    }
    let now = clock.now();
    for (at, database) in databases.iter().enumerate() {
        if !database.stands().map_err(|error| (at, error))? {
            return Ok(None);
        }
    }
    Ok(Some(now))
}

fn holding(databases: &mut [&mut Watched], clock: &Clock) -> Taken {
    // While nothing is held yet: what comes until the gates are taken only makes the hints larger.
    for (at, database) in databases.iter_mut().enumerate() {
        database.look().map_err(|error| (at, error))?;
    }
    for (at, database) in databases.iter().enumerate() {
        take_gate(&database.watch, "BEGIN IMMEDIATE", if at == 0 { FIRST_GATE } else { NEXT_GATE })
            .map_err(|error| (at, error))?;
    }
    for (at, database) in databases.iter_mut().enumerate() {
        let version = data_version(&database.watch).map_err(|error| (at, error))?;
        database.look = database.look.map(|look| Look { version, ..look });
        database.pin().map_err(|error| (at, error))?;
    }
    let now = clock.now();
    for (at, database) in databases.iter().enumerate() {
        database.watch.execute_batch("ROLLBACK").map_err(|error| (at, error))?;
    }
    Ok(Some(now))
}
