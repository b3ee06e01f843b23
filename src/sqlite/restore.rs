//! Writes the pages of a finished copy into a live database, while the app has it open: only those that differ, through
//! `sqlite_dbpage`, in one transaction of SQLite's own. Readers keep their snapshot until they end, and whoever begins a
//! transaction after the commit sees the restored data, on the same file.
//!
//! The order within a transaction matters:
//!
//! 1. Pages other than the first. (Before them a database that vacuums itself at each commit is told not to.)
//! 2. Page 1, with the live file's own journal mode (bytes 18 and 19) and schema cookie: with another cookie the next
//!    statement would read the schema anew, by what this connection remembers of the old pages, and find it malformed.
//! 3. The new length (`VALUES (last + 1, NULL)`), as the last statement on pages: any later write of one cancels it silently.
//!    No statement with more than one row, which would make SQLite believe that the length is right already.
//! 4. The [`Mark`] as schema cookie, so that every connection prepares its statements anew, and so that it shows later
//!    whether the commit came to pass.
//!
//! The page of SQLite's locks is left out. Nothing is attached: such a write opens a transaction on each attached database.

use std::cell::{Cell, Ref, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::types::Null;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::check::{self, Verdict};
use super::kind::Kind;
use super::page_set::{PageSet, lock_page};
use super::snapshot::{FIRST_GATE, NEXT_GATE, data_version, is_busy, jitter, take_gate};
use super::{
    Control, Error, Identity, Progress, Source, assert_ended, identify, identify_to_open, is_wal, mode_bytes,
    of_writing, open_finished, open_live, situation,
};
use crate::backup::{CheckKind, DatabaseName};
use crate::disk::{self, Context};

/// How long a commit that is kept out (a reader of a rollback-journal database) is tried again.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that are read back in one transaction: readers of a rollback-journal database keep its writers waiting.
const READ_BACK: usize = 16 << 20;

/// A live database that is to be written.
pub struct Target {
    /// Which.
    pub name: DatabaseName,
    /// What it holds now.
    pub kind: Kind,
    source: Source,
    identity: Identity,
    connection: RefCell<Connection>,
    wal: bool,
    version: Cell<i64>,
}

/// The schema cookie before a restore and the one that it writes. The cookie counts changes of the schema
/// (sqlite.org/fileformat2.html, section 1.3.9); a restore advances it by far more than an app would meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    before: u32,
    after: u32,
}

impl Mark {
    /// Where the header holds it: the schema cookie, four bytes, the highest first.
    pub const OFFSET: u64 = COOKIE.start as u64;

    /// A mark that no earlier restore has made, upon the cookie of what is replaced.
    pub fn draw(before: u32) -> Result<Self, disk::Error> {
        let step = (1 << 16) + u32::from_le_bytes(disk::random()?) % ((1 << 20) - (1 << 16));
        Ok(Self { before, after: before.wrapping_add(step) })
    }

    /// Whether a database with this cookie bears it, however often its schema was changed since. One that came in its place bears
    /// another, as that of an earlier restore, or none.
    pub fn is_borne(self, cookie: u32) -> bool {
        cookie.wrapping_sub(self.after) < 1 << 15
    }

    /// As it stands in the header.
    pub fn bytes(self) -> [u8; 4] {
        self.after.to_be_bytes()
    }
}

/// What reading a restored database back has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadBack {
    /// Every page is the backup's.
    Same,
    /// The app has written since.
    Overtaken,
    /// A page is another one than was written: its number.
    Differs(u32),
}

impl Target {
    /// Opens a live database; tries for `timeout` where the app keeps everyone out.
    pub fn open(source: &Source, timeout: Duration, control: &Control) -> Result<Self, Error> {
        let identity = identify_to_open(source)?;
        persist(source, timeout, control, || {
            let connection = open_live(&source.path)?;
            // Defensive mode forbids writing `sqlite_dbpage`. What is committed is to outlive a power cut; and a checkpoint
            // between the commits of two databases would part them.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
            connection.execute_batch("PRAGMA synchronous=EXTRA; PRAGMA wal_autocheckpoint=0")?;
            let (wal, version) = (is_wal(&connection)?, Cell::new(data_version(&connection)?));
            // Setting the size of the cache reads the schema.
            connection.execute_batch("PRAGMA cache_size=-16384")?;
            let kind = Kind::of(&connection)?;
            let connection = RefCell::new(connection);
            Ok(Self { name: source.name.clone(), kind, source: source.clone(), identity, connection, wal, version })
        })
    }

    /// The connection, to read what its lock protects. After a commit it still has parts of the old pages in mind.
    pub fn connection(&self) -> Ref<'_, Connection> {
        self.connection.borrow()
    }

    /// Whether a copy with pages of that size takes its place as a whole: only the backup API can change their size, and only
    /// of a database in rollback mode. It takes over the journal mode of the copy, which has to be the same.
    pub fn is_replaced_by(&self, page_size: u32) -> bool {
        self.kind.page_size != page_size
    }

    /// Replaces all of it by a copy with pages of another size, by SQLite's backup API (sqlite.org/backup.html), in one step
    /// and one transaction, and commits that. Nobody else comes in between: the lock of the open transaction, in which nothing
    /// is written yet, is kept meanwhile.
    pub fn replace(&self, copy: &Path) -> Result<(), Error> {
        let failed = |error| of_writing(&self.name, error);
        let mut live = self.connection.borrow_mut();
        live.execute_batch("PRAGMA locking_mode=EXCLUSIVE; ROLLBACK").map_err(failed)?;
        let replaced = open_finished(copy).and_then(|copy| Backup::new(&copy, &mut live)?.step(-1));
        // The next access lets the lock go.
        let let_go = live.execute_batch("PRAGMA locking_mode=NORMAL; SELECT count(*) FROM sqlite_schema");
        match replaced.map_err(failed)? {
            StepResult::Done => let_go.map_err(failed),
            _ => Err(Error::Locked { name: self.name.clone(), waited: Duration::ZERO }),
        }
    }

    /// From here on [`Target::has_moved`] tells of what others commit.
    pub fn watch(&self, timeout: Duration, control: &Control) -> Result<(), Error> {
        self.version.set(persist(&self.source, timeout, control, || data_version(&self.connection()))?);
        Ok(())
    }

    /// Whether another connection has committed since this was asked last (sqlite.org/pragma.html#pragma_data_version).
    pub fn has_moved(&self) -> Result<bool, Error> {
        let now = data_version(&self.connection()).map_err(|error| self.situation(error))?;
        Ok(self.version.replace(now) != now)
    }

    /// The file that is open here.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The path still leads to the file that is open here.
    pub fn assert_in_place(&self) -> Result<(), Error> {
        match identify(&self.source) {
            Ok(now) if now.is(&self.identity) => Ok(()),
            _ => Err(Error::Swapped { name: self.name.clone() }),
        }
    }

    /// The mark that a restore will leave; asked under the lock.
    pub fn draw_mark(&self) -> Result<Mark, Error> {
        Ok(Mark::draw(self.cookie().map_err(|error| self.situation(error))?)?)
    }

    /// Whether the restore of that mark was committed.
    pub fn is_marked(&self, mark: Mark, timeout: Duration, control: &Control) -> Result<bool, Error> {
        persist(&self.source, timeout, control, || self.cookie()).map(|cookie| mark.is_borne(cookie))
    }

    /// Makes sure that a commit which failed half-way stays undone. Its frames may lie in the WAL behind the last that counts,
    /// where whoever opens the database next after everyone has closed it would take them for committed: a commit that
    /// changes nothing is written over the first of them, and the others no longer follow from anything
    /// (sqlite.org/walformat.html, section 4).
    pub fn bury(&self, timeout: Duration, control: &Control) -> Result<(), Error> {
        if !self.wal {
            // What is left of a rollback journal was rolled back when this was opened.
            return Ok(());
        }
        let targets = std::slice::from_ref(self);
        let locked = Locked::take(targets, timeout, control)?;
        let failed = |error| of_writing(&self.name, error);
        let version: i32 = self.connection().query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        self.connection().execute_batch(&format!("PRAGMA user_version={version}")).map_err(failed)?;
        locked.commit().map(drop).map_err(|uncommitted| uncommitted.error)
    }

    fn cookie(&self) -> rusqlite::Result<u32> {
        cookie(&self.connection())
    }

    fn situation(&self, error: rusqlite::Error) -> Error {
        situation(&self.name, error)
    }

    fn begin(&self) -> &'static str {
        if self.wal { "BEGIN IMMEDIATE" } else { "BEGIN EXCLUSIVE" }
    }

    /// Writes the pages of `copy` that `changed` names, and the length of `copy`, into the open transaction, and flushes
    /// them: what a commit needs besides is one page and a sync. `pause` is asked before each page whether to go on. Says
    /// how many pages were written.
    pub fn write(
        &self,
        copy: (&File, &Path),
        changed: &PageSet,
        mark: Mark,
        mut pause: impl FnMut() -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let size = self.kind.page_size;
        let length = copy.0.metadata().to("look at", copy.1)?.len();
        let pages = (length / u64::from(size)) as u32;
        let failed = |error| of_writing(&self.name, error);
        let mode = mode_bytes(&self.connection()).map_err(failed)?;
        self.vacuum_by_itself_no_more().map_err(failed)?;
        let sql = "INSERT OR REPLACE INTO sqlite_dbpage (pgno, data) VALUES (?1, ?2)";
        let connection = self.connection();
        let mut insert = connection.prepare(sql).map_err(failed)?;
        let mut page = vec![0; size as usize];
        let read = |number: u32, page: &mut [u8]| {
            copy.0.read_exact_at(page, u64::from(number - 1) * u64::from(size)).to("read", copy.1)
        };
        let others = changed.iter().filter(|number| *number != 1 && *number != lock_page(size) && *number <= pages);
        let mut written = 0;
        for number in others {
            pause()?;
            read(number, &mut page)?;
            insert.execute(params![number, page]).map_err(failed)?;
            written += 1;
        }
        read(1, &mut page)?;
        page[MODE].copy_from_slice(&mode);
        page[COOKIE].copy_from_slice(&mark.before.to_be_bytes());
        insert.execute(params![1, page]).map_err(failed)?;
        insert.execute(params![i64::from(pages) + 1, Null]).map_err(failed)?;
        // As SQLite takes numbers there: with a sign.
        let cookie = format!("PRAGMA schema_version={}", mark.after as i32);
        self.connection().execute_batch(&cookie).map_err(failed)?;
        self.connection().cache_flush().map_err(failed)?;
        Ok(written + 1)
    }

    /// With `auto_vacuum=FULL` the commit would move the pages that were just written, by the header that they brought. What
    /// is set here holds for this connection, and on disk page 1 is written after it.
    fn vacuum_by_itself_no_more(&self) -> rusqlite::Result<()> {
        let full = self.connection().query_row("PRAGMA auto_vacuum", [], |row| Ok(row.get::<_, i64>(0)? == 1))?;
        if full { self.connection().execute_batch("PRAGMA auto_vacuum=2") } else { Ok(()) }
    }

    /// Compares the committed database with `copy`, page by page, on a connection that has read nothing yet, unless others
    /// commit meanwhile.
    pub fn read_back(&self, copy: (&File, &Path), timeout: Duration, control: &Control) -> Result<ReadBack, Error> {
        let mut reader = persist(&self.source, timeout, control, || open_live(&self.source.path))?;
        control.watch(&mut reader).map_err(|error| self.situation(error))?;
        let size = self.kind.page_size as usize;
        let length = copy.0.metadata().to("look at", copy.1)?.len();
        let pages = (length / size as u64) as u32;
        let mut next = 1;
        while next <= pages {
            let last = pages.min(next + (READ_BACK / size) as u32 - 1);
            control.tell(Progress { database: &self.name, done: u64::from(next) * size as u64, total: length });
            control.check()?;
            let batch = || self.same_pages(&reader, copy, next..=last, pages);
            match persist(&self.source, timeout, control, batch)?? {
                ReadBack::Same => next = last + 1,
                other => return Ok(other),
            }
        }
        Ok(ReadBack::Same)
    }

    fn same_pages(
        &self,
        reader: &Connection,
        copy: (&File, &Path),
        numbers: std::ops::RangeInclusive<u32>,
        pages: u32,
    ) -> rusqlite::Result<Result<ReadBack, Error>> {
        let snapshot = reader.unchecked_transaction()?;
        let count: u32 = reader.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        // Asked once the reader has its snapshot: what came later isn't in it.
        if data_version(&self.connection())? != self.version.get() {
            return Ok(Ok(ReadBack::Overtaken));
        }
        if count != pages {
            return Ok(Ok(ReadBack::Differs(pages.min(count) + 1)));
        }
        let size = self.kind.page_size;
        let mut statement = reader.prepare("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?;
        let mut page = vec![0; size as usize];
        for number in numbers.filter(|number| *number != lock_page(size)) {
            let offset = u64::from(number - 1) * u64::from(size);
            if let Err(error) = copy.0.read_exact_at(&mut page, offset).to("read", copy.1) {
                return Ok(Err(error.into()));
            }
            let same = statement.query_row([number], |row| Ok(is_same(number, row.get_ref(0)?.as_blob()?, &page)))?;
            if !same {
                return Ok(Ok(ReadBack::Differs(number)));
            }
        }
        snapshot.finish()?;
        Ok(Ok(ReadBack::Same))
    }

    /// What a quick look at the structure finds, on a connection that has read nothing yet.
    pub fn look(&self, timeout: Duration, control: &Control) -> Result<Verdict, Error> {
        let mut reader = persist(&self.source, timeout, control, || {
            let reader = open_live(&self.source.path)?;
            reader.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
            Ok(reader)
        })?;
        Ok(check::check(&mut reader, &self.name, CheckKind::Quick, control)?.verdict)
    }

    /// Bytes of the main file when it was opened.
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// Whether it is in WAL mode.
    pub fn is_wal(&self) -> bool {
        self.wal
    }

    /// Brings what was committed from the WAL into the main file, as far as nobody is in the way [P13].
    pub fn checkpoint(&self) {
        if self.wal
            && let Err(error) = self.connection().query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        {
            tracing::debug!(%error, name = %self.name, "the app's next checkpoint brings the restored pages into the main file");
        }
    }
}

/// The journal mode, in page 1 (sqlite.org/fileformat2.html, section 1.3).
const MODE: std::ops::Range<usize> = 18..20;
/// The schema cookie.
const COOKIE: std::ops::Range<usize> = 40..44;
/// What SQLite itself writes on a commit: the change counter, and for which change the size in the header is valid, by
/// which version.
const COMMITTED: [std::ops::Range<usize>; 2] = [24..28, 92..100];

fn is_same(number: u32, live: &[u8], copy: &[u8]) -> bool {
    if number != 1 || live.len() != copy.len() {
        return live == copy;
    }
    let ours = |at: &usize| [&MODE, &COOKIE].into_iter().chain(&COMMITTED).any(|range| range.contains(at));
    (0..live.len()).all(|at| live[at] == copy[at] || ours(&at))
}

pub(super) fn cookie(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0)).map(|cookie| cookie as u32)
}

/// Tries again while others are in the way, as long as none of them leaves half a commit behind.
pub(super) fn persist<T>(
    source: &Source,
    timeout: Duration,
    control: &Control,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> Result<T, Error> {
    let (begun, mut round) = (Instant::now(), 0);
    loop {
        control.check()?;
        assert_ended(source)?;
        match attempt() {
            Err(error) if is_busy(&error) && begun.elapsed() < timeout => std::thread::sleep(jitter(round)),
            Err(error) if is_busy(&error) => return Err(Error::Locked { name: source.name.clone(), waited: timeout }),
            done => return done.map_err(|error| situation(&source.name, error)),
        }
        round += 1;
    }
}

/// All targets, locked: nobody else commits until they are, or until this is dropped, which rolls back what isn't.
pub struct Locked<'t> {
    targets: &'t [Target],
    since: Instant,
}

impl<'t> Locked<'t> {
    /// Takes all locks, in the order of `targets`; if one isn't had soon, lets all go and begins again with jitter, like a
    /// snapshot does with its gates.
    pub fn take(targets: &'t [Target], timeout: Duration, control: &Control) -> Result<Self, Error> {
        let (begun, mut round) = (Instant::now(), 0);
        loop {
            control.check()?;
            targets.iter().try_for_each(|target| assert_ended(&target.source))?;
            let mut locked = Self { targets, since: Instant::now() };
            let taken = targets.iter().enumerate().try_for_each(|(at, target)| {
                let patience = if at == 0 { FIRST_GATE } else { NEXT_GATE };
                take_gate(&target.connection(), target.begin(), patience).map_err(|error| (target, error))?;
                if at == 0 {
                    locked.since = Instant::now();
                }
                Ok(())
            });
            let Err((target, error)) = taken else { return Ok(locked) };
            if !is_busy(&error) {
                return Err(target.situation(error));
            }
            if begun.elapsed() >= timeout {
                return Err(Error::Locked { name: target.name.clone(), waited: timeout });
            }
            drop(locked);
            std::thread::sleep(jitter(round));
            round += 1;
        }
    }

    /// Rolls back what isn't committed: the app goes on.
    pub fn let_go(&self) {
        for target in self.targets {
            if !target.connection().is_autocommit() {
                // One that fails leaves a transaction that the connection's end rolls back.
                let _ = target.connection().execute_batch("ROLLBACK");
            }
        }
    }

    /// A control that is late once writers have been kept waiting for longer than `limit`.
    pub fn within(&self, limit: Duration, control: &Control) -> Control {
        control.within(self.since, limit)
    }

    /// Commits all: rollback-journal ones first, whose commits can be kept out by a reader, then the WAL ones, whose commits
    /// can't. Before the first has come to pass an error means that nothing has changed.
    pub fn commit(self) -> Result<Committed, Uncommitted> {
        let (mut committed, mut since) = (Vec::new(), None);
        // One that was replaced as a whole is committed already.
        let open = self.targets.iter().filter(|target| !target.connection().is_autocommit());
        let (wal, rollback): (Vec<_>, Vec<_>) = open.partition(|target| target.wal);
        for target in rollback.into_iter().chain(wal) {
            let done = take_gate(&target.connection(), "COMMIT", COMMIT_PATIENCE);
            if let Err(error) = done {
                return Err(Uncommitted { committed, error: of_writing(&target.name, error) });
            }
            since.get_or_insert_with(Instant::now);
            committed.push(target.name.clone());
        }
        Ok(Committed { held: self.since.elapsed(), apart: since.map(|since| since.elapsed()).unwrap_or_default() })
    }
}

/// How long a restore was in the app's way.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// Writers were kept waiting for this long.
    pub held: Duration,
    /// The time between the first commit and the last: whoever looked at both databases saw one old and one new.
    pub apart: Duration,
}

/// A commit that failed for good.
#[derive(Debug)]
pub struct Uncommitted {
    /// These were committed before.
    pub committed: Vec<DatabaseName>,
    /// Why the next wasn't.
    pub error: Error,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests;
