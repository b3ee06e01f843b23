//! A snapshot: copies of several live databases from one instant, while the app keeps writing.
//!
//! 1. Look at each file by path: it is there, a file, not empty, has one name. Remember who it is.
//! 2. Open a gate and two readers per database.
//! 3. Take all gates (`BEGIN IMMEDIATE`), in name order; if one isn't had soon, let all go and begin again with jitter,
//!    so that an app that has attached both can't deadlock with us. Somebody who writes into a database in WAL mode for long
//!    isn't waited for: that nobody commits there until step 4 is over stands for its gate.
//! 4. Pin the readers (`BEGIN`, one SELECT). Roll the gates back: the instant is fixed [P2], writers go on [P3].
//! 5. Copy from the first reader; check the structure on the second meanwhile. Rollback-journal databases come first,
//!    all of them, and are checked on the finished copies, since their writers wait for our readers. Nobody waits for our
//!    disk: readers are let go in time also where it stands still.
//! 6. The files themselves: fsync, read back, compare, open [P8].
//! 7. The live paths still lead to the same files.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rusqlite::{Connection, ErrorCode};

use super::check::{self, Report, Verdict};
use super::page_set::{Comparison, Difference, New};
use super::pages::{self, Content, Fingerprint, Share, Writing, joined};
use super::{
    Control, Error, Identity, Source, assert_ended, code, identify, identify_to_open, is_left_half, is_wal,
    open_finished, open_live, situation, wal_size,
};
use crate::backup::{CheckKind, DatabaseName};
use crate::clock::Clock;
use crate::disk::{self, Partial};

/// A copy or check may take this long whatever its size …
const LEAST_PATIENCE: Duration = Duration::from_secs(600);
/// … and this many bytes a second more.
const SLOWEST: u64 = 5_000_000;
/// How long the first gate is waited for in one go: nothing is held meanwhile.
pub(super) const FIRST_GATE: Duration = Duration::from_millis(250);
/// How long a further gate is waited for while others are held: writers of those wait as long.
pub(super) const NEXT_GATE: Duration = Duration::from_millis(15);
/// Whoever has written for so long into a database in WAL mode, in which nobody has committed meanwhile, needn't come to his end. Sooner
/// it might be somebody who has attached several and commits one after the other.
const LONG_WRITER: Duration = Duration::from_secs(5);
/// Between two tries at a gate.
const GATE_POLL: Duration = Duration::from_micros(300);

/// How a snapshot is taken.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How thoroughly the structure is checked.
    pub check: CheckKind,
    /// How long to try for the instant.
    pub lock_timeout: Duration,
    /// How long writers of a rollback-journal database may be kept waiting.
    pub rollback_hold: Duration,
    /// A copy of corrupt data is a copy all the same; its report tells.
    pub corrupt_too: bool,
    /// Otherwise it is kept as a partial of the name that is told: it may not lie there as it is.
    pub corrupt_as_partial: bool,
}

/// What a snapshot gave.
#[derive(Debug)]
pub struct Snapshot {
    /// The instant.
    pub at: DateTime<Utc>,
    /// How long all writers were held to fix it.
    pub barrier: Duration,
    /// The copies, durable and compared, not yet under their final names.
    pub copies: Vec<Copy>,
}

/// One database of a snapshot.
#[derive(Debug)]
pub struct Copy {
    /// Which.
    pub name: DatabaseName,
    /// The file.
    pub partial: Partial,
    /// Its bytes, as they were read back.
    pub content: Content,
    /// What SQLite says of it.
    pub facts: Facts,
    /// The look at its structure.
    pub report: Report,
    /// How it differs from what takes its place.
    pub difference: Option<Difference>,
    /// Bytes that its `-wal` grew by while readers were pinned: nobody can begin it anew meanwhile.
    pub wal_grown: u64,
}

/// What SQLite says of a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Bytes a page.
    pub page_size: u32,
    /// Pages.
    pub pages: u64,
    /// Pages not in use.
    pub free_pages: u64,
    /// `wal`, `delete`, …
    pub journal_mode: String,
    /// The app's schema version.
    pub user_version: i32,
}

impl Facts {
    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.pages * u64::from(self.page_size)
    }
}

/// What takes the place of databases.
pub type Instead<'a> = BTreeMap<&'a DatabaseName, New<'a>>;

/// Takes a snapshot of `sources` (in name order) into `targets`, one each. While a copy is read back it is compared with what takes
/// the place of its database.
pub fn take(
    sources: &[Source],
    targets: Vec<Partial>,
    instead: &Instead,
    options: &Options,
    clock: &Clock,
    control: &Control,
) -> Result<Snapshot, Error> {
    let identities = sources.iter().map(identify_to_open).collect::<Result<Vec<_>, _>>()?;
    let mut instant = pin(sources, options, clock, control)?;
    still_the_same(sources, &identities)?;
    let total = instant.pinned.iter().map(|pinned| pinned.facts.bytes()).sum();
    let mut share = Share { before: 0, total };
    let jobs = instant.pinned.drain(..).zip(targets);
    let (wal, rollback): (Vec<_>, Vec<_>) = jobs.partition(|(pinned, _)| pinned.is_wal());
    let (written, mut copies) = (copy_held(&rollback, &wal, &mut share, options, instant.since, control)?, Vec::new());
    for ((pinned, target), written) in rollback.into_iter().zip(written) {
        let copied = pinned.copied(target, written);
        let new = instead.get(&copied.name).copied();
        copies.push(check_copied(copied, new, options, control)?);
    }
    let mut wal = wal.into_iter();
    while let Some((pinned, target)) = wal.next() {
        let (bytes, new) = (pinned.facts.bytes(), instead.get(&pinned.name).copied());
        let others = || wal.as_slice().iter().for_each(|(it, _)| it.let_go());
        copies.push(copy_and_check(pinned, target, new, share, options, control, others)?);
        share.before += bytes;
    }
    still_the_same(sources, &identities)?;
    copies.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Snapshot { at: instant.at, barrier: instant.barrier, copies })
}

fn still_the_same(sources: &[Source], identities: &[Identity]) -> Result<(), Error> {
    for (source, before) in sources.iter().zip(identities) {
        if !identify(source).is_ok_and(|now| now.is(before)) {
            return Err(Error::Swapped { name: source.name.clone() });
        }
    }
    Ok(())
}

struct Fixed {
    at: DateTime<Utc>,
    barrier: Duration,
    since: Instant,
    pinned: Vec<Pinned>,
}

struct Pinned {
    name: DatabaseName,
    copy: Connection,
    check: Connection,
    facts: Facts,
    wal: Wal,
}

/// The `-wal` of a database.
struct Wal {
    /// That of the database.
    path: PathBuf,
    /// Bytes of the WAL when the readers were pinned.
    before: u64,
}

impl Wal {
    fn of(source: &Source) -> Self {
        Self { path: source.path.clone(), before: wal_size(&source.path) }
    }

    fn grown(&self) -> u64 {
        wal_size(&self.path).saturating_sub(self.before)
    }
}

impl Pinned {
    fn is_wal(&self) -> bool {
        self.facts.journal_mode == "wal"
    }

    fn copied(self, target: Partial, written: Fingerprint) -> Copied {
        Copied { name: self.name, target, written, facts: self.facts, wal_grown: self.wal.grown() }
    }

    fn let_go(&self) {
        [&self.copy, &self.check].into_iter().for_each(roll_back);
    }
}

fn roll_back(connection: &Connection) {
    if !connection.is_autocommit() {
        // Nothing was written: there is nothing that a failed rollback could leave.
        let _ = connection.execute_batch("ROLLBACK");
    }
}

struct Trio {
    name: DatabaseName,
    gate: Connection,
    copy: Connection,
    check: Connection,
    /// Since when somebody else has the gate, and what the database has told of its commits since then.
    busy: Cell<Option<(Instant, i64)>>,
}

impl Trio {
    fn open(source: &Source) -> Result<Self, Error> {
        let open = || open_live(&source.path).map_err(|error| situation(&source.name, error));
        let reader = || {
            let connection = open()?;
            // The gate can't have it: `query_only` forbids BEGIN IMMEDIATE too.
            connection.execute_batch("PRAGMA query_only=ON").map_err(|error| situation(&source.name, error))?;
            Ok::<_, Error>(connection)
        };
        Ok(Self { name: source.name.clone(), gate: open()?, copy: reader()?, check: reader()?, busy: Cell::default() })
    }

    /// Takes the gate. Of a database in WAL mode that somebody writes into for long, says what it tells of its commits instead: what
    /// isn't committed is seen by nobody.
    fn hold_or_see(&self, patience: Duration, long: Duration) -> rusqlite::Result<Option<i64>> {
        let asked = Instant::now();
        match take_gate(&self.gate, "BEGIN IMMEDIATE", patience) {
            Err(error) if is_busy(&error) && !is_left_half(&self.gate) && is_wal(&self.gate)? => {
                let version = data_version(&self.gate)?;
                let (since, _) = self.busy.get().filter(|(_, before)| *before == version).unwrap_or((asked, version));
                self.busy.set(Some((since, version)));
                if since.elapsed() >= long { Ok(Some(version)) } else { Err(error) }
            }
            taken => {
                self.busy.set(None);
                taken.map(|()| None)
            }
        }
    }

    fn pin(&self) -> rusqlite::Result<()> {
        for (reader, cache_kib) in [(&self.copy, 512), (&self.check, 8192)] {
            // Setting the size of the cache reads the schema: only under the gate is nobody in the way of that.
            reader.execute_batch(&format!("BEGIN; PRAGMA cache_size=-{cache_kib}"))?;
            reader.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        }
        Ok(())
    }

    fn release(&self) {
        [&self.gate, &self.copy, &self.check].into_iter().for_each(roll_back);
    }

    fn pinned(self, source: &Source) -> Result<Pinned, Error> {
        let facts = facts(&self.copy).map_err(|error| situation(&self.name, error))?;
        Ok(Pinned { name: self.name, copy: self.copy, check: self.check, facts, wal: Wal::of(source) })
    }
}

/// Asks SQLite.
pub fn facts(reader: &Connection) -> rusqlite::Result<Facts> {
    let number = |pragma: &str| reader.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
    Ok(Facts {
        page_size: number("page_size")? as u32,
        pages: number("page_count")? as u64,
        free_pages: number("freelist_count")? as u64,
        journal_mode: match is_wal(reader)? {
            true => "wal".to_owned(),
            false => reader.query_row("PRAGMA journal_mode", [], |row| row.get(0))?,
        },
        user_version: number("user_version")? as i32,
    })
}

/// Steps 2 to 4.
fn pin(sources: &[Source], options: &Options, clock: &Clock, control: &Control) -> Result<Fixed, Error> {
    let begun = Instant::now();
    let trios = sources.iter().map(Trio::open).collect::<Result<Vec<_>, _>>()?;
    let (mut round, mut busy) = (0, 0);
    loop {
        control.check()?;
        sources.iter().try_for_each(assert_ended)?;
        match fix_instant(&trios, LONG_WRITER.min(options.lock_timeout / 3), clock) {
            Ok(Some((at, since))) => {
                let barrier = since.elapsed();
                let pinned = trios.into_iter().zip(sources).map(|(trio, source)| trio.pinned(source));
                let pinned = pinned.collect::<Result<_, _>>()?;
                return Ok(Fixed { at, barrier, since, pinned });
            }
            Ok(None) => (),
            Err((at, error)) if is_busy(&error) => busy = at,
            Err((at, error)) => {
                trios.iter().for_each(Trio::release);
                return Err(situation(&trios[at].name, error));
            }
        }
        trios.iter().for_each(Trio::release);
        if begun.elapsed() >= options.lock_timeout {
            return Err(Error::Locked { name: trios[busy].name.clone(), waited: options.lock_timeout });
        }
        std::thread::sleep(jitter(round));
        round += 1;
    }
}

/// The instant, and since when writers may have had to wait for it.
type FixedAt = (DateTime<Utc>, Instant);

/// All gates, all readers, gates let go; or who was in the way, with whatever was taken still to be released. Nothing where
/// somebody has committed meanwhile who has had his gate for so long.
fn fix_instant(trios: &[Trio], long: Duration, clock: &Clock) -> Result<Option<FixedAt>, (usize, rusqlite::Error)> {
    let (mut since, mut seen) = (Instant::now(), Vec::new());
    for (at, trio) in trios.iter().enumerate() {
        let patience = if at == 0 { FIRST_GATE } else { NEXT_GATE };
        seen.push(trio.hold_or_see(patience, long).map_err(|error| (at, error))?);
        if at == 0 {
            since = Instant::now();
        }
    }
    let instant = clock.now();
    for (at, trio) in trios.iter().enumerate() {
        trio.pin().map_err(|error| (at, error))?;
    }
    for (at, (trio, seen)) in trios.iter().zip(seen).enumerate() {
        match seen {
            None => trio.gate.execute_batch("ROLLBACK").map_err(|error| (at, error))?,
            Some(version) if data_version(&trio.gate).map_err(|error| (at, error))? == version => (),
            Some(_) => return Ok(None),
        }
    }
    Ok(Some((instant, since)))
}

/// It changes whenever anybody else commits (sqlite.org/pragma.html#pragma_data_version).
pub(super) fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0))
}

/// Begins a transaction that takes its lock at once; tries for as long as `patience`. Half a commit that somebody leaves meanwhile counts
/// as one who is in the way: [`assert_ended`], which comes before the next try, says so.
pub(super) fn take_gate(gate: &Connection, begin: &str, patience: Duration) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        if is_left_half(gate) {
            return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None));
        }
        match gate.execute_batch(begin) {
            Err(error) if is_busy(&error) && begun.elapsed() < patience => std::thread::sleep(GATE_POLL),
            done => return done,
        }
    }
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        code(error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed)
    )
}

/// 5 to 50 ms, never in step with whoever else tries.
pub(super) fn jitter(round: u64) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    Duration::from_millis(5 + RandomState::new().hash_one(round) % 46)
}

/// A copy that is not looked at yet; its database is let go.
struct Copied {
    name: DatabaseName,
    target: Partial,
    written: Fingerprint,
    facts: Facts,
    wal_grown: u64,
}

/// Step 5 for rollback-journal databases: nothing but the copies, while their writers wait. Each is let go when it is read, and where one
/// can't be, so are all that would come after it.
fn copy_held(
    rollback: &[(Pinned, Partial)],
    wal: &[(Pinned, Partial)],
    share: &mut Share,
    options: &Options,
    since: Instant,
    control: &Control,
) -> Result<Vec<Fingerprint>, Error> {
    let held = control.within(since, options.rollback_hold);
    std::thread::scope(|scope| {
        let mut all = Vec::new();
        for (at, (pinned, target)) in rollback.iter().enumerate() {
            let writing = pages::copy(scope, &pinned.copy, &pinned.name, target, *share, &held);
            share.before += pinned.facts.bytes();
            pinned.let_go();
            let is_read = writing.is_read();
            all.push(writing);
            if !is_read {
                rollback[at..].iter().chain(wal).for_each(|(pinned, _)| pinned.let_go());
                break;
            }
        }
        all.into_iter().map(Writing::end).collect::<Result<Vec<_>, _>>()
    })
    .map_err(|error| match error {
        Error::TooSlow { name, .. } => Error::HeldTooLong { name, hold: options.rollback_hold },
        other => other,
    })
}

/// Step 6 for it, and the check that the others had in step 5.
fn check_copied(copied: Copied, new: Option<New>, options: &Options, control: &Control) -> Result<Copy, Error> {
    let name = &copied.name;
    let found = compare(name, &copied.target, copied.written, new, control)?;
    let mut copy = open_finished(copied.target.path()).map_err(|error| ours(situation(name, error)))?;
    let patient = patient(&copied.facts, control);
    let report = check::check_finished(&mut copy, copied.target.path(), name, options.check, &patient).map_err(ours)?;
    judged(copied, found, report, options)
}

/// Steps 5 and 6 for a WAL database: the copy on this thread, the check of the same snapshot on another. Its writers don't wait, but
/// its `-wal` grows: where nothing comes of it, it is let go at once, and by `others` those whose turn would come.
fn copy_and_check(
    pinned: Pinned,
    target: Partial,
    new: Option<New>,
    share: Share,
    options: &Options,
    control: &Control,
    others: impl FnOnce(),
) -> Result<Copy, Error> {
    let Pinned { name, mut copy, mut check, facts, wal } = pinned;
    let (control, named, file) = (&patient(&facts, control), &name, &target);
    let (written, found, report) = std::thread::scope(|scope| {
        let looker = scope.spawn(move || check::look(&mut check, named, options.check, control));
        let writing = pages::copy(scope, &copy, named, file, share, control);
        if !writing.is_read() {
            control.abandon();
            roll_back(&copy);
            others();
        }
        let written = writing.end().and_then(|written| {
            // This connection has done its copying, and its snapshot is as good for the rules.
            let ruler = scope.spawn(move || check::rules(&mut copy, named, control));
            let found = compare(named, file, written, new, control);
            if found.is_err() {
                control.abandon();
            }
            let rules = joined(ruler);
            Ok((written, found?, rules?))
        });
        if written.is_err() {
            control.abandon();
        }
        let report = joined(looker);
        let (written, found, rules) = written?;
        Ok::<_, Error>((written, found, report?.with(rules)))
    })?;
    let wal_grown = wal.grown();
    judged(Copied { name, target, written, facts, wal_grown }, found, report, options)
}

/// The time that reading and checking a database may take.
pub fn patient(facts: &Facts, control: &Control) -> Control {
    control.within(Instant::now(), LEAST_PATIENCE + Duration::from_secs(facts.bytes() / SLOWEST))
}

/// A corrupt copy is kept, and is no copy, unless it is wanted as it is.
fn judged(copied: Copied, found: Found, report: Report, options: &Options) -> Result<Copy, Error> {
    let Copied { name, target, facts, wal_grown, .. } = copied;
    let Found { content, difference } = found;
    if options.corrupt_too && matches!(report.verdict, Verdict::Corrupt(_)) {
        return Ok(Copy { name, partial: target, content, facts, report, difference, wal_grown });
    }
    if let Verdict::Corrupt(findings) = report.verdict {
        // That the data is corrupt counts, whether or not a copy of it can be kept.
        let kept = keep_corrupt(target, options)
            .inspect_err(|error| tracing::warn!(%error, "the corrupt copy is not kept"))
            .ok();
        return Err(Error::Corrupt { name, findings, kept });
    }
    opens_as(&name, &target, &facts)?;
    Ok(Copy { name, partial: target, content, facts, report, difference, wal_grown })
}

/// What reading a copy back showed.
struct Found {
    content: Content,
    difference: Option<Difference>,
}

/// fsync, then every byte read back [P8].
fn compare(
    name: &DatabaseName,
    target: &Partial,
    written: Fingerprint,
    new: Option<New>,
    control: &Control,
) -> Result<Found, Error> {
    target.sync()?;
    let (mut comparison, mut compared) = (new.map(Comparison::with), Ok(()));
    let content = pages::read_back_through(target.file(), target.path(), control, |bytes| {
        if let (Some(comparison), Ok(())) = (&mut comparison, &compared) {
            compared = comparison.old(bytes);
        }
    })?;
    if content.fingerprint != written {
        return Err(Error::ReadBack { name: name.clone() });
    }
    compared?;
    let difference = comparison.map(|comparison| comparison.end(control)).transpose()?;
    Ok(Found { content, difference })
}

/// What goes wrong with a finished copy is the matter of our disk, not of the live data.
fn ours(error: Error) -> Error {
    match error {
        Error::SourceIo { name, .. }
        | Error::NotAllowed { name, .. }
        | Error::NotADatabase { name }
        | Error::Corrupt { name, .. }
        | Error::Sqlite { name, .. } => Error::ReadBack { name },
        other => other,
    }
}

/// The finished file is a database of the pages that were pinned.
fn opens_as(name: &DatabaseName, target: &Partial, pinned: &Facts) -> Result<(), Error> {
    let failed = |error| ours(situation(name, error));
    let copy = open_finished(target.path()).map_err(failed)?;
    let found = facts(&copy).map_err(failed)?;
    let size = target.file().metadata().map_err(|_| Error::ReadBack { name: name.clone() })?.len();
    let same =
        (found.page_size, found.pages, found.user_version) == (pinned.page_size, pinned.pages, pinned.user_version);
    if same && size > 0 && size == found.bytes() { Ok(()) } else { Err(Error::ReadBack { name: name.clone() }) }
}

/// A copy that failed its check gets a name that no backup has. Says which.
fn keep_corrupt(target: Partial, options: &Options) -> Result<String, Error> {
    target.sync()?;
    let path = corrupt_name(target.target());
    target.publish_as(&if options.corrupt_as_partial { disk::partial_path(&path) } else { path.clone() })?;
    disk::sync_dir(disk::parent(&path))?;
    let tier = disk::parent(&path).file_name().unwrap_or_default();
    Ok(format!("{}/{}", tier.to_string_lossy(), path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Nor has an earlier such copy that name: a daily that is tried again has the same id.
fn corrupt_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let mut path = target.with_file_name(format!("{name}.corrupt"));
    let mut number = 1;
    while path.symlink_metadata().is_ok() {
        number += 1;
        path = target.with_file_name(format!("{name}.{number}.corrupt"));
    }
    path
}
