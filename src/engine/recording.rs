//! The journal in the hands of `serve`: ticks on one thread, and on another what makes it small and quick to read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::Map;

use super::lost::read_newest;
use super::permit::{Holder, LOCK};
use super::recovery::RECOVERY;
use super::{Actor, Engine, Error, entry, locked};
use crate::audit::{Entry, Kind};
use crate::backup::DatabaseName;
use crate::journal::capture::{Capture, Options, Tick, Track};
use crate::journal::chain::Horizon;
use crate::journal::check::{Check, Checked};
use crate::journal::folder::make_identity;
use crate::journal::sums::Sums;
use crate::journal::timeline::{self, Keeper};
use crate::journal::{self, Index, Journal, Level, Point};
use crate::sqlite::Control;

/// What it is called in the audit log.
pub(super) const JOURNAL: &str = "journal";
/// The journal is held against the databases this often, and soon after the start.
const CHECK_EVERY: Duration = Duration::from_secs(3600);
const FIRST_CHECK: Duration = Duration::from_secs(60);
/// What holds the directory while live databases are restored.
const RESTORES: [&str; 2] = ["restore", RECOVERY];
/// How long the instant of a tick is tried for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// So often all pages are compared where the WAL names them only very likely.
const COMPARE_EVERY: Duration = Duration::from_secs(600);
/// Between two looks at what is older than the window.
const RETAIN_EVERY: Duration = Duration::from_secs(600);

/// Ticks.
pub struct Recording {
    capture: Capture,
    next_check: Instant,
    /// A restore was made, and the new bases after it are asked for.
    renewing: bool,
    /// No tick has come to its end yet.
    first: bool,
    /// The journal was found wrong since then, and the new bases after that are asked for.
    wrong_since: Option<DateTime<Utc>>,
    tending: Tending,
}

/// When this process took the journal up.
#[derive(Clone, Copy)]
pub(super) struct TakenUp {
    /// By the journal's time.
    from: DateTime<Utc>,
    /// By a clock that nobody puts on.
    since: Instant,
}

/// What is done with the journal besides.
#[derive(Clone)]
pub struct Tending {
    journals: Vec<Journal>,
    retained: Option<Instant>,
}

impl Engine {
    /// Takes the journal up. What its files come to is computed, and so their checksums are compared.
    pub fn record(&self, control: &Control) -> Result<Recording, Error> {
        self.assert_expected()?;
        self.store.make_dirs()?;
        let root = self.store.root();
        let keeper = Keeper::open(root, self.config.databases.keys(), &self.last_backed_up())?;
        make_identity(root)?;
        let (mut tracks, mut journals) = (Vec::new(), Vec::new());
        for source in self.sources() {
            let journal = Journal::open(root, &source.name)?;
            let known = self.known(&source.name, &journal, &keeper, control)?;
            locked(&self.journals).insert(source.name.clone(), journal.clone());
            journals.push(journal.clone());
            tracks.push(Track::new(source, journal, known));
        }
        let pitr = &self.config.pitr;
        let options = Options {
            patience: PATIENCE,
            rollback_hold: self.config.rollback_hold,
            longest: 3 * pitr.interval + Duration::from_secs(2),
            compare_every: COMPARE_EVERY,
        };
        let from = keeper.timeline().alive.unwrap_or_else(|| self.clock.now());
        *locked(&self.recorded) = Some(TakenUp { from, since: Instant::now() });
        let tending = Tending { journals, retained: None };
        Ok(Recording {
            capture: Capture::new(tracks, keeper, options),
            next_check: Instant::now() + FIRST_CHECK,
            renewing: false,
            first: true,
            wrong_since: None,
            tending,
        })
    }

    /// When each database was last, as far as the catalog can be read.
    fn last_backed_up(&self) -> BTreeMap<DatabaseName, DateTime<Utc>> {
        let catalog = self.read_catalog().ok().flatten();
        let taken_here = catalog.iter().flat_map(|catalog| &catalog.backups).filter(|it| !it.came_from_elsewhere());
        let mut last = BTreeMap::new();
        for backup in taken_here {
            for name in backup.databases.keys() {
                let at = last.entry(name.clone()).or_insert(backup.timestamp);
                *at = backup.timestamp.max(*at);
            }
        }
        last
    }

    /// The pages of the newest state; nothing where a new base is needed. What of the journal is lost is told, so that it is a gap.
    fn known(
        &self,
        name: &DatabaseName,
        journal: &Journal,
        keeper: &Keeper,
        control: &Control,
    ) -> Result<Option<Sums>, Error> {
        let read = read_newest(journal.folder(), &journal.index(), keeper.alive_of(name), control)?;
        match read {
            Ok(known) => Ok(known),
            Err(lost) => {
                tracing::error!(database = %name, "{}", lost.why);
                self.tell_wrong(self.right_before(name, &lost), &lost.why)?;
                Ok(None)
            }
        }
    }

    /// While a restore holds the directory no database is open here: an offline one wants them for itself. Says whether one does.
    pub fn make_way(&self, recording: &mut Recording) -> bool {
        let holder = Holder::read(self.store.root(), LOCK, self.clock.now());
        let restores = holder.is_some_and(|holder| RESTORES.contains(&holder.operation.as_str()));
        if restores {
            recording.capture.stand_aside();
        }
        restores
    }

    /// One look at all databases.
    pub fn tick(&self, recording: &mut Recording, control: &Control) -> Result<Tick, Error> {
        self.assert_expected()?;
        if self.make_way(recording) {
            return Ok(Tick::default());
        }
        let restored = recording.capture.keeper().was_restored() && !self.is_unsettled();
        if restored && !recording.renewing {
            recording.capture.renew("a restore was made");
            recording.renewing = true;
        }
        recording.doubt();
        let check = Instant::now() >= recording.next_check;
        // One that has begun and ended while this process stood still has taken its plan away, and left word.
        let moved = || self.is_unsettled() || (!restored && timeline::is_restored(self.store.root()));
        let tick = recording.capture.tick(&self.clock, &moved, check, control)?;
        for written in &tick.written {
            if let Some(why) = written.why {
                let details = [("database".to_owned(), written.name.as_str().into()), ("why".to_owned(), why.into())];
                self.note(Entry { ok: Some(true), details: Map::from_iter(details), ..line() });
            }
            if written.missed > 0 {
                let why = format!("{} pages of `{}` had changed unnoticed", written.missed, written.name);
                self.begin_journal_anew([&written.name], &why);
            }
        }
        let Some(at) = tick.at else { return Ok(tick) };
        if std::mem::take(&mut recording.first) {
            // All were compared when the journal was taken up, and with the databases just now.
            self.are_right(at);
        }
        if restored {
            recording.capture.keeper().restored_is_known()?;
            recording.renewing = false;
        }
        self.settle_doubt(recording, at)?;
        if check {
            recording.next_check = Instant::now() + CHECK_EVERY;
            // Gaps that stay harm nobody.
            if let Err(error) = self.forget_gaps(recording) {
                tracing::warn!(%error, "what is known of times of which nothing is left stays for now");
            }
        }
        Ok(tick)
    }

    /// The new bases are there, and the gap before them is recorded: that is seen to.
    fn settle_doubt(&self, recording: &mut Recording, at: DateTime<Utc>) -> Result<(), Error> {
        let Some(since) = recording.wrong_since else { return Ok(()) };
        self.are_right(at);
        recording.capture.keeper().wrong_is_known(since, at)?;
        recording.wrong_since = None;
        Ok(())
    }

    fn are_right(&self, at: DateTime<Utc>) {
        self.config.databases.keys().for_each(|name| self.note_right(name, at));
    }

    fn forget_gaps(&self, recording: &mut Recording) -> Result<(), Error> {
        let journals = locked(&self.journals).clone();
        let first = journals.iter().filter_map(|(name, journal)| Some((name.clone(), journal.index().oldest()?.at()?)));
        Ok(recording.capture.keeper().forget_before(&first.collect())?)
    }

    /// Holds what the journal comes to against a database as it was at the tick. A difference is recorded, what was kept since it was
    /// last known to be right isn't offered any more, and a new base follows.
    pub fn check_journal(&self, check: Check, control: &Control) -> Result<Checked, Error> {
        let name = check.name().clone();
        let checked = match check.run(control) {
            Err(error @ journal::Error::Gone { .. }) => {
                self.begin_journal_anew_where_lost([&name], control)?;
                return Err(error.into());
            }
            checked => checked?,
        };
        match &checked.difference {
            None => self.note_right(&name, checked.at),
            Some(difference) => {
                let why = format!("the journal of `{name}` is wrong: {difference}");
                self.begin_journal_anew_as_read([&name], &why, control);
            }
        }
        Ok(checked)
    }

    /// Lets go what is older than the window, compacts what is due, and makes the next snapshot. What is wrong with one stops no other.
    pub fn tend_journal(&self, tending: &mut Tending, control: &Control) -> Result<(), Error> {
        self.assert_expected()?;
        let retains = tending.retained.is_none_or(|at| at.elapsed() > RETAIN_EVERY);
        let horizon = self.horizon();
        let mut first = Ok(());
        for journal in &tending.journals {
            let retained = if retains { journal.retain(horizon, control).map(drop) } else { Ok(()) };
            let compacted = journal.compact(millis(self.clock.now()), control).map(drop);
            let wants = wants_snapshot(&journal.index(), self.config.pitr.snapshot_every);
            let made = if wants { journal.snapshot_from_files(control).map(drop) } else { Ok(()) };
            // What leads to the newest state leads nowhere, and each further one would rest on it.
            match &made {
                Err(error @ (journal::Error::Damaged { .. } | journal::Error::Unlike { .. })) => {
                    self.begin_journal_anew_as_read(self.config.databases.keys(), &error.to_string(), control);
                }
                Err(journal::Error::Gone { .. }) => {
                    self.begin_journal_anew_where_lost(self.config.databases.keys(), control)?;
                }
                _ => {}
            }
            first = first.and(retained).and(compacted).and(made);
        }
        if retains {
            tending.retained = Some(Instant::now());
        }
        Ok(first?)
    }

    /// What of the journal is kept. Time for which it was written is what counts: a jump of the clock makes nothing old.
    pub(super) fn horizon(&self) -> Horizon {
        let (recorded, pitr) = (*locked(&self.recorded), &self.config.pitr);
        let of = |taken_up: TakenUp| (taken_up.from, taken_up.since.elapsed());
        let (from, running) = recorded.map_or((DateTime::UNIX_EPOCH, Duration::ZERO), of);
        Horizon::until(millis(self.clock.now().min(from + running)), running, pitr.retention, pitr.snapshot_every)
    }

    pub(super) fn note(&self, entry: Entry) {
        if let Err(error) = self.append_at(self.clock.now(), entry) {
            tracing::warn!(%error, "what happened to the journal could not be recorded");
        }
    }
}

pub(super) fn line() -> Entry {
    entry(Kind::Outcome, JOURNAL, &Actor::scheduler(), None)
}

impl Recording {
    /// Asks for new bases where somebody has found the journal wrong.
    fn doubt(&mut self) {
        let Some(told) = self.capture.keeper().wrong_since() else { return };
        if self.wrong_since.is_none() {
            self.capture.renew("it was found to differ from the database");
        }
        self.capture.doubt(told);
        self.wrong_since = Some(self.wrong_since.map_or(told, |since| since.min(told)));
    }

    /// For the thread that tends the journal.
    pub fn tending(&self) -> Tending {
        self.tending.clone()
    }
}

fn millis(at: DateTime<Utc>) -> u64 {
    at.timestamp_millis().max(0) as u64
}

/// The newest snapshot is so much older than the newest state.
fn wants_snapshot(index: &Index, every: Duration) -> bool {
    let (newest, snapshot) = (index.newest(), index.level(Level::SNAPSHOT).last().map(Point::from));
    let apart =
        |newest: Point, snapshot: Point| newest.millis.saturating_sub(snapshot.millis) >= every.as_millis() as u64;
    matches!((newest, snapshot), (Some(newest), Some(snapshot)) if apart(newest, snapshot))
}
