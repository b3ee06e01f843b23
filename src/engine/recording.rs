//! The journal in the hands of `serve`: ticks on one thread, and on another what makes it small and quick to read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Map;

use super::{Actor, Engine, Error, entry};
use crate::audit::{Entry, Kind};
use crate::journal::capture::{Capture, Options, Tick, Track};
use crate::journal::check::{Check, Checked};
use crate::journal::rebuild::{Sums, sums};
use crate::journal::timeline::Keeper;
use crate::journal::{self, Index, Journal, Level, Point, chain};
use crate::sqlite::Control;

/// What it is called in the audit log.
const JOURNAL: &str = "journal";
/// The journal is held against the databases this often, and soon after the start.
const CHECK_EVERY: Duration = Duration::from_secs(3600);
const FIRST_CHECK: Duration = Duration::from_secs(60);
/// How long the instant of a tick is tried for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at what is older than the window.
const RETAIN_EVERY: Duration = Duration::from_secs(600);

/// Ticks.
pub struct Recording {
    capture: Capture,
    next_check: Instant,
    /// Databases of which a check has found something.
    doubts: Arc<AtomicBool>,
    tending: Tending,
}

/// What is done with the journal besides.
#[derive(Clone)]
pub struct Tending {
    journals: Vec<Journal>,
    /// Time for which the journal was kept is what counts: a jump of the clock makes nothing old.
    from: DateTime<Utc>,
    since: Instant,
    retained: Option<Instant>,
}

impl Engine {
    /// Takes the journal up. What its files come to is computed, and so their checksums are compared.
    pub fn record(&self, control: &Control) -> Result<Recording, Error> {
        self.assert_expected()?;
        self.store.make_dirs()?;
        let root = self.store.root();
        let keeper = Keeper::open(root)?;
        let (mut tracks, mut journals) = (Vec::new(), Vec::new());
        for source in self.sources() {
            let journal = Journal::open(root, &source.name)?;
            let known = newest(&journal, control)?;
            journals.push(journal.clone());
            tracks.push(Track::new(source, journal, known));
        }
        let pitr = &self.config.pitr;
        let options = Options {
            patience: PATIENCE,
            rollback_hold: self.config.rollback_hold,
            longest: 3 * pitr.interval + Duration::from_secs(2),
        };
        let from = keeper.timeline().alive.unwrap_or_else(|| self.clock.now());
        let tending = Tending { journals, from, since: Instant::now(), retained: None };
        let capture = Capture::new(tracks, keeper, options);
        Ok(Recording { capture, next_check: Instant::now() + FIRST_CHECK, doubts: Arc::default(), tending })
    }

    /// One look at all databases.
    pub fn tick(&self, recording: &mut Recording, control: &Control) -> Result<Tick, Error> {
        self.assert_expected()?;
        let restored = recording.capture.keeper().was_restored() && !self.is_unsettled();
        if restored {
            recording.capture.renew("a restore was made");
        }
        if recording.doubts.swap(false, Ordering::Relaxed) {
            recording.capture.renew("it was found to differ from the database");
        }
        let check = Instant::now() >= recording.next_check;
        let tick = recording.capture.tick(&self.clock, &|| self.is_unsettled(), check, control)?;
        if tick.at.is_some() {
            if restored {
                recording.capture.keeper().restored_is_known()?;
            }
            if check {
                recording.next_check = Instant::now() + CHECK_EVERY;
                self.forget_gaps(recording)?;
            }
        }
        for written in &tick.written {
            if let Some(why) = written.why {
                let details = [("database".to_owned(), written.name.as_str().into()), ("why".to_owned(), why.into())];
                self.note(Entry { ok: Some(true), details: Map::from_iter(details), ..line() });
            }
        }
        Ok(tick)
    }

    fn forget_gaps(&self, recording: &mut Recording) -> Result<(), Error> {
        let oldest = recording.tending.journals.iter().filter_map(|journal| journal.index().oldest());
        let oldest = oldest.map(|point| point.millis).min().and_then(|it| i64::try_from(it).ok());
        if let Some(oldest) = oldest.and_then(DateTime::from_timestamp_millis) {
            recording.capture.keeper().forget_before(oldest)?;
        }
        Ok(())
    }

    /// Holds what the journal comes to against a database as it was at the tick. A difference is recorded, and a new base follows.
    pub fn check_journal(&self, recording: &Doubts, check: Check, control: &Control) -> Result<Checked, Error> {
        let checked = check.run(control)?;
        if let Some(difference) = &checked.difference {
            recording.0.store(true, Ordering::Relaxed);
            let reason = Some(format!("the journal of `{}` is wrong: {difference}; a new base follows", checked.name));
            self.note(Entry { ok: Some(false), code: Some("journal-wrong".to_owned()), reason, ..line() });
        }
        Ok(checked)
    }

    /// Compacts what is due, makes the next snapshot, and lets go what is older than the window.
    pub fn tend_journal(&self, tending: &mut Tending, control: &Control) -> Result<(), Error> {
        let now = self.clock.now().timestamp_millis().max(0) as u64;
        let pitr = &self.config.pitr;
        let retains = tending.retained.is_none_or(|at| at.elapsed() > RETAIN_EVERY);
        for journal in &tending.journals {
            journal.compact(now, control)?;
            if wants_snapshot(&journal.index(), pitr.snapshot_every) {
                journal.snapshot_from_files(control)?;
            }
            if retains {
                let kept = self.clock.now().min(tending.from + tending.since.elapsed());
                let oldest = kept - TimeDelta::from_std(pitr.retention).unwrap_or(TimeDelta::MAX);
                journal.retain(oldest.timestamp_millis().max(0) as u64, control)?;
            }
        }
        if retains {
            tending.retained = Some(Instant::now());
        }
        Ok(())
    }

    fn note(&self, entry: Entry) {
        if let Err(error) = self.audit.append(self.clock.now(), entry) {
            tracing::warn!(%error, "what happened to the journal could not be recorded");
        }
    }
}

fn line() -> Entry {
    entry(Kind::Outcome, JOURNAL, &Actor::scheduler(), None)
}

/// Where a check that found something says so.
#[derive(Clone)]
pub struct Doubts(Arc<AtomicBool>);

impl Recording {
    /// For the thread that tends the journal.
    pub fn tending(&self) -> Tending {
        self.tending.clone()
    }

    /// For the threads that check it.
    pub fn doubts(&self) -> Doubts {
        Doubts(Arc::clone(&self.doubts))
    }
}

/// The pages of the newest state; nothing where a new base is needed.
fn newest(journal: &Journal, control: &Control) -> Result<Option<Sums>, Error> {
    let last = journal.index().last();
    let chain = chain::plan(&journal.index(), u64::MAX);
    let Some(chain) = chain.filter(|chain| chain.last().map(Point::from) == last) else { return Ok(None) };
    match sums(journal.folder(), &chain, control) {
        Ok(sums) => Ok(Some(sums)),
        Err(error @ journal::Error::Damaged { .. }) => {
            tracing::error!("{error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The newest snapshot is so much older than the newest state.
fn wants_snapshot(index: &Index, every: Duration) -> bool {
    let (newest, snapshot) = (index.newest(), index.level(Level::SNAPSHOT).last().map(Point::from));
    let apart =
        |newest: Point, snapshot: Point| newest.millis.saturating_sub(snapshot.millis) >= every.as_millis() as u64;
    matches!((newest, snapshot), (Some(newest), Some(snapshot)) if apart(newest, snapshot))
}
