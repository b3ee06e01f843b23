//! A tick: looks at all databases at one instant, and writes down the pages that have changed. The order of steps:
//!
//! 1. Each database says whether anybody has committed. Where nobody has, what it held is known until now: step 6.
//! 2. The instant (`sqlite::cut`). A restore that is under way has one database new and another one old at times: then nothing of
//!    it is taken. Whoever asks afterwards sees it too: its plan is there before its first commit, and word of it before the plan goes.
//! 3. Of each database that has changed, the pages that differ from what is known of it: those that its WAL names, where that is
//!    proven to be all, or else every page is compared. Where it is only likely to be all (`sqlite::wal`), every page is compared
//!    from time to time: then it shows what the WAL didn't name. They are gathered (`gather`), in a partial once they are many; where
//!    nothing is known, or a new base is wanted, all pages are. Its reader is let go.
//! 4. When all are read, each file is written and published, durable: the database's next state. Nobody waits for the disk. What all
//!    pages come to is noted beside it (`states`).
//! 5. Where the time since the last look isn't known, the gap is recorded, and so is what was found wrong, since the new bases are there,
//!    and for how long a database that is looked at again wasn't.
//! 6. `alive`: the instant can be restored. A crash before leaves files that are of a gap, and no point.
//!
//! What is known is what the published files say, never more: an error leaves it as it was, and the next tick compares with that.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use super::check::Check;
use super::gather::{Gathered, gather};
use super::ltx::Header;
use super::name::FileName;
use super::sums::{Sums, page_sum};
use super::timeline::{Gap, Keeper};
use super::{Error, Journal, Point, chain};
use crate::backup::DatabaseName;
use crate::clock::Clock;
use crate::sqlite::cut::{self, Watched};
use crate::sqlite::pages::in_time;
use crate::sqlite::snapshot::{Facts, patient};
use crate::sqlite::wal::Hint;
use crate::sqlite::{self, Control, Source};

/// One database, and what the journal knows of it.
pub struct Track {
    source: Source,
    /// None while it can't be opened.
    watched: Option<Watched>,
    journal: Journal,
    /// Its newest state.
    newest: Option<Point>,
    /// The pages of its newest state; none where a new base is needed.
    known: Option<Sums>,
    /// Why the next state is a snapshot, though it needn't be.
    renew: Option<&'static str>,
    /// It wasn't compared since the start.
    unseen: bool,
    /// When every page was looked at last, by the clock and by the time that has passed: a clock that was put back stands still here.
    compared: Option<(DateTime<Utc>, Instant)>,
    /// What was likely was taken for all since then.
    relied: bool,
}

impl Track {
    /// Takes up a database's journal as `known` has found its newest state to be.
    pub fn new(source: Source, journal: Journal, known: Option<Sums>) -> Self {
        let newest = journal.index().newest();
        Self { source, watched: None, journal, newest, known, renew: None, unseen: true, compared: None, relied: false }
    }

    /// Opens the database, also anew where another file has taken its place: of that nothing is known.
    fn watched(&mut self) -> Result<&mut Watched, Error> {
        if self.watched.as_mut().is_some_and(|watched| watched.assert_in_place().is_err()) {
            // First of all: what is opened while the old one is open would share its WAL.
            (self.watched, self.known) = (None, None);
        }
        let watched = match self.watched.take() {
            Some(watched) => watched,
            None => Watched::open(&self.source)?,
        };
        Ok(self.watched.insert(watched))
    }

    fn is_wal(&self) -> bool {
        let facts = self.watched.as_ref().and_then(|watched| watched.pinned().facts().ok());
        facts.is_some_and(|facts| facts.journal_mode == "wal")
    }

    /// Whether a tick has anything to do here.
    fn is_due(&mut self) -> Result<bool, Error> {
        let wanted = self.known.is_none() || self.renew.is_some();
        Ok(self.watched()?.has_changed()? || wanted)
    }
}

/// How a tick is done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the instant is tried for.
    pub patience: Duration,
    /// How long writers of a rollback-journal database may be kept waiting.
    pub rollback_hold: Duration,
    /// A longer time between two looks is a gap.
    pub longest: Duration,
    /// For so long what a WAL likely names is taken for all that has changed.
    pub compare_every: Duration,
}

/// What a tick found.
#[derive(Default)]
pub struct Tick {
    /// When, if it came to its end.
    pub at: Option<DateTime<Utc>>,
    /// What was written.
    pub written: Vec<Written>,
    /// What isn't known before it.
    pub gap: Option<Gap>,
    /// What was asked to be held against the databases as they were.
    pub checks: Vec<Check>,
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The database.
    pub name: DatabaseName,
    /// Pages in it.
    pub pages: u64,
    /// Why it is a snapshot.
    pub why: Option<&'static str>,
    /// Pages that had changed unnoticed: the states since all pages were compared before may lack them.
    pub missed: u64,
}

/// Looks at all databases, and remembers what isn't done.
pub struct Capture {
    /// The databases, in name order.
    tracks: Vec<Track>,
    keeper: Keeper,
    options: Options,
    /// Not all files of the last tick were published, so that what it saw is no instant.
    torn: bool,
    /// The journal was found wrong since then, and that isn't recorded yet.
    wrong_since: Option<DateTime<Utc>>,
    /// No tick of this process has come to its end yet.
    first: bool,
    /// The newest state of any database when this began.
    before: Option<DateTime<Utc>>,
    /// The newest one that each of them had come to: `alive` may be lost, and the last tick have come to some of them only.
    before_of_all: Option<DateTime<Utc>>,
    /// What ticks have published that then failed: nobody has been told of it yet.
    untold: Vec<Written>,
}

impl Capture {
    /// Nothing is looked at yet.
    pub fn new(tracks: Vec<Track>, keeper: Keeper, options: Options) -> Self {
        let (before, before_of_all) = (newests(&tracks).max(), newests(&tracks).min());
        Self {
            tracks,
            keeper,
            options,
            torn: false,
            wrong_since: None,
            first: true,
            before,
            before_of_all,
            untold: Vec::new(),
        }
    }

    /// Until when it is known what the databases held, and when not.
    pub fn keeper(&mut self) -> &mut Keeper {
        &mut self.keeper
    }

    /// Lets the databases go, so that whoever wants one for itself can have it. The next tick opens them again.
    pub fn stand_aside(&mut self) {
        self.tracks.iter_mut().for_each(|track| track.watched = None);
    }

    /// The next states of all are whole snapshots.
    pub fn renew(&mut self, why: &'static str) {
        self.tracks.iter_mut().for_each(|track| track.renew = Some(why));
    }

    /// The journal was found wrong since then: what was kept since isn't known once the new bases are there, which were asked for.
    pub fn doubt(&mut self, since: DateTime<Utc>) {
        self.wrong_since = Some(self.wrong_since.map_or(since, |earlier| earlier.min(since)));
    }

    /// One look. `unsettled` tells whether a restore is under way, or has ended since this was called; with `check` the journal is to be
    /// held against the databases.
    /// What was written by one that fails is told by the next that doesn't.
    pub fn tick(
        &mut self,
        clock: &Clock,
        unsettled: &dyn Fn() -> bool,
        check: bool,
        control: &Control,
    ) -> Result<Tick, Error> {
        let mut tick = Tick { written: std::mem::take(&mut self.untold), ..Tick::default() };
        match self.look(clock, unsettled, check, &mut tick, control) {
            Ok(()) => Ok(tick),
            Err(error) => {
                self.untold = tick.written;
                Err(error)
            }
        }
    }

    fn look(
        &mut self,
        clock: &Clock,
        unsettled: &dyn Fn() -> bool,
        check: bool,
        tick: &mut Tick,
        control: &Control,
    ) -> Result<(), Error> {
        let asked = clock.now();
        let mut due = check;
        for track in &mut self.tracks {
            due |= track.is_due()?;
        }
        // Asked before the cut and after it: one that ends meanwhile counts too.
        if unsettled() {
            return Ok(());
        }
        if !due {
            return self.conclude(asked, tick);
        }
        let mut watched: Vec<_> = self.tracks.iter_mut().filter_map(|track| track.watched.as_mut()).collect();
        let (at, since) = cut::take(&mut watched, self.options.patience, clock, control)?;
        let taken = match unsettled() {
            true => Ok(false),
            false => self.write(at, check, since, tick, control).map(|()| true),
        };
        // Without the others a file that was published is of no instant.
        self.torn |= taken.is_err() && !tick.written.is_empty();
        for watched in self.tracks.iter_mut().filter_map(|track| track.watched.as_mut()) {
            if matches!(taken, Ok(true)) {
                watched.keep();
            }
            watched.unpin();
        }
        if taken? { self.conclude(at, tick) } else { Ok(()) }
    }

    /// Steps 3 and 4. Hints count from the last tick that came to its end, also where a part of a later one is written already.
    /// Databases whose writers wait for their readers come first, and each is let go when it is read: none waits for our disk.
    fn write(
        &mut self,
        at: DateTime<Utc>,
        check: bool,
        since: Instant,
        tick: &mut Tick,
        control: &Control,
    ) -> Result<(), Error> {
        // What was committed in this very millisecond is in it.
        let at = self.in_order(at + TimeDelta::milliseconds(1), TimeDelta::milliseconds(1));
        let held = control.within(since, self.options.rollback_hold);
        // Asked while all are pinned, so that none is looked at twice.
        let mut tracks: Vec<_> = self.tracks.iter_mut().map(|track| (track.is_wal(), track)).collect();
        tracks.sort_by_key(|(wal, _)| *wal);
        let (mut taken, mut rest) = (Vec::new(), &mut tracks[..]);
        while let Some(((wal, track), others)) = rest.split_first_mut() {
            let let_go = || others.iter().for_each(|(_, track)| track.unpin());
            let read = match wal {
                true => track.read(at, self.options.compare_every, control, &let_go),
                false => track.read(at, self.options.compare_every, &held, &let_go).map_err(held_too_long),
            };
            if read.is_err() {
                // Before what was read of the others goes, which our disk has to do.
                track.unpin();
                let_go();
            }
            let read = read?;
            // The writers of others would have to wait for the check.
            let checks = check && *wal;
            if !checks {
                track.unpin();
            }
            taken.push((track, read, checks));
            rest = others;
        }
        for (track, read, checks) in taken {
            tick.written.extend(read.map(|read| track.publish(read)).transpose()?);
            if checks {
                tick.checks.extend(track.check(at)?);
                track.unpin();
            }
        }
        Ok(())
    }

    /// Time never goes back along the states: it comes so long after the newest at least.
    fn in_order(&self, at: DateTime<Utc>, after: TimeDelta) -> DateTime<Utc> {
        let newest = newests(&self.tracks).max().map(|newest| newest + after);
        let alive = self.keeper.timeline().alive.map(|alive| alive + after);
        newest.into_iter().chain(alive).fold(at, DateTime::max)
    }

    /// Steps 5 and 6.
    fn conclude(&mut self, at: DateTime<Utc>, tick: &mut Tick) -> Result<(), Error> {
        let at = self.in_order(at, TimeDelta::zero());
        if let Some(from) = self.keeper.timeline().alive.or(self.before_of_all) {
            let away = (at - from).to_std().unwrap_or_default() > self.options.longest;
            // After a start it is known that nothing has changed, where nothing had to be written, nor was by a tick that didn't end.
            let unknown = if self.first { !tick.written.is_empty() || self.before > Some(from) } else { away };
            if self.torn || unknown {
                tick.gap = Some(Gap::new(from, at));
            }
        }
        if let Some(gap) = tick.gap {
            self.keeper.gap(gap)?;
        }
        if let Some(since) = self.wrong_since.filter(|since| *since < at) {
            self.keeper.gap(Gap { wrong: true, ..Gap::new(since, at) })?;
        }
        self.wrong_since = None;
        self.keeper.are_back(at, |name| tick.written.iter().any(|written| written.name == *name))?;
        self.keeper.alive(at)?;
        (self.torn, self.first, tick.at) = (false, false, Some(at));
        Ok(())
    }
}

/// When the newest state of each database began.
fn newests(tracks: &[Track]) -> impl Iterator<Item = DateTime<Utc>> {
    tracks.iter().filter_map(|track| track.newest?.at())
}

impl Track {
    fn check(&mut self, at: DateTime<Utc>) -> Result<Option<Check>, Error> {
        let Some(watched) = &mut self.watched else { return Ok(None) };
        let Some(chain) = chain::plan(&self.journal.index(), u64::MAX) else { return Ok(None) };
        let folder = self.journal.folder().to_owned();
        Ok(Some(Check { pinned: watched.hand_over()?, at, folder, chain }))
    }

    fn unpin(&self) {
        self.watched.iter().for_each(Watched::unpin);
    }

    /// Step 3. After a start nobody has seen what came before it: where anything has changed since, a new base is taken.
    /// Where nothing comes of it `others` lets go what would be read after it.
    fn read(
        &mut self,
        at: DateTime<Utc>,
        every: Duration,
        control: &Control,
        others: &dyn Fn(),
    ) -> Result<Option<Taken>, Error> {
        let Some(watched) = &self.watched else { return Ok(None) };
        if !watched.differs() && self.known.is_some() && self.renew.is_none() {
            return Ok(None);
        }
        let facts = watched.pinned().facts()?;
        let control = &patient(&facts, control);
        let known = self.known.as_ref().filter(|known| known.page_size() == facts.page_size);
        if let (Some(known), None, true) = (known, self.renew, self.unseen) {
            if known.is_what(watched.pinned(), &facts, control)? {
                (self.unseen, self.compared) = (false, Some((at, Instant::now())));
                return Ok(None);
            }
            self.renew = Some("it has changed while nobody looked");
        }
        match (known, self.renew) {
            (Some(_), None) => self.read_changes(at, &facts, every, control, others),
            (known, renew) => {
                let why = renew.unwrap_or(match known {
                    None if self.newest.is_none() => "it is the first",
                    _ => "what was known of it is not what it holds",
                });
                self.read_all(at, &facts, why, control, others)
            }
        }
    }

    /// Whether every page is to be compared, and not only those that the WAL names.
    fn compares_all(&self, hint: Option<&Hint>, at: DateTime<Utc>, every: Duration) -> bool {
        let Some(hint) = hint else { return true };
        let lately = |(compared, passed): (DateTime<Utc>, Instant)| {
            (at - compared).to_std().is_ok_and(|ago| ago < every) && passed.elapsed() < every
        };
        (self.relied || !hint.proven) && !self.compared.is_some_and(lately)
    }

    fn read_changes(
        &mut self,
        at: DateTime<Utc>,
        facts: &Facts,
        every: Duration,
        control: &Control,
        others: &dyn Fn(),
    ) -> Result<Option<Taken>, Error> {
        let (Some(watched), Some(known)) = (&self.watched, &self.known) else { return Ok(None) };
        let txid = self.journal.index().next();
        let file = FileName::captured(txid);
        let hint = watched.hint(facts.page_size)?;
        let all = self.compares_all(hint.as_ref(), at, every);
        let named = |number| hint.as_ref().is_none_or(|hint| hint.pages.contains(number));
        let (mut changed, mut missed) = (Vec::new(), 0);
        let ((), gathered) = self.gather(watched, file, header(facts, file, at), control, others, |pass| {
            let each = |number: u32, page: &[u8]| -> Result<(), Error> {
                let sum = page_sum(page);
                if known.page(number) != Some(sum) {
                    pass(number, page)?;
                    missed += u64::from(!named(number));
                    changed.push((number, sum));
                }
                Ok(())
            };
            match &hint {
                Some(hint) if !all => watched.pinned().pages(&hint.pages, facts, control, each),
                _ => watched.pinned().each_page(facts, control, each),
            }
        })?;
        let looked = Looked { compared: all.then_some(at), relied: hint.is_some_and(|hint| !hint.proven), missed };
        let pages = facts.pages as u32;
        // It may only have become shorter.
        if gathered.is_empty() && pages as usize == known.pages().len() {
            self.note(looked);
            return Ok(None);
        }
        Ok(Some(Taken { gathered, pages: Pages::Changed(facts.page_size, pages, changed), why: None, looked }))
    }

    /// Remembered once what was found is published: until then the next look has to find it again.
    fn note(&mut self, looked: Looked) {
        match looked.compared {
            Some(at) => (self.compared, self.relied) = (Some((at, Instant::now())), false),
            None => self.relied |= looked.relied,
        }
    }

    fn read_all(
        &self,
        at: DateTime<Utc>,
        facts: &Facts,
        why: &'static str,
        control: &Control,
        others: &dyn Fn(),
    ) -> Result<Option<Taken>, Error> {
        let Some(watched) = &self.watched else { return Ok(None) };
        let file = FileName::snapshot(self.journal.index().next());
        let mut sums = Sums::new(facts.page_size, facts.pages as usize);
        let ((), gathered) = self.gather(watched, file, header(facts, file, at), control, others, |pass| {
            watched.pinned().each_page(facts, control, |number, page| -> Result<(), Error> {
                pass(number, page)?;
                sums.set(number, page_sum(page));
                Ok(())
            })
        })?;
        let looked = Looked { compared: Some(at), relied: false, missed: 0 };
        Ok(Some(Taken { gathered, pages: Pages::All(sums), why: Some(why), looked }))
    }

    fn gather<T>(
        &self,
        watched: &Watched,
        file: FileName,
        header: Header,
        control: &Control,
        others: &dyn Fn(),
        read: impl FnOnce(&mut dyn FnMut(u32, &[u8]) -> Result<(), Error>) -> Result<T, Error>,
    ) -> Result<(T, Gathered), Error> {
        let let_go = |all: bool| {
            // Whoever is in WAL mode waits for nobody, and may be wanted for a check.
            if !all || !self.is_wal() {
                watched.unpin();
            }
            if !all {
                others();
            }
        };
        gather(&self.journal, (file, header), || in_time(watched.name(), control), let_go, read)
    }

    /// Step 4.
    fn publish(&mut self, taken: Taken) -> Result<Written, Error> {
        let newest = Point::from(&taken.gathered.publish(&self.journal)?);
        self.newest = Some(newest);
        let count = match taken.pages {
            Pages::Changed(page_size, pages, changed) => {
                let count = changed.len();
                if let Some(known) = &mut self.known {
                    known.resize(page_size, pages);
                    changed.into_iter().for_each(|(number, sum)| known.set(number, sum));
                }
                count
            }
            Pages::All(sums) => {
                let count = sums.pages().len();
                (self.known, self.renew, self.unseen) = (Some(sums), None, false);
                count
            }
        };
        if let Some(known) = &self.known {
            self.journal.remember(newest, known.whole());
        }
        self.note(taken.looked);
        let name = self.source.name.clone();
        Ok(Written { name, pages: count as u64, why: taken.why, missed: taken.looked.missed })
    }
}

/// What was read of a database, in a file that isn't published.
struct Taken {
    gathered: Gathered,
    pages: Pages,
    /// Why it is a snapshot.
    why: Option<&'static str>,
    looked: Looked,
}

/// How it was read.
#[derive(Clone, Copy)]
struct Looked {
    /// When every page was.
    compared: Option<DateTime<Utc>>,
    /// The pages that were named were taken for all, or are likely to be.
    relied: bool,
    /// Pages that have changed and weren't named.
    missed: u64,
}

/// What its pages come to.
enum Pages {
    /// Bytes a page, how many there are, and those that aren't what was known.
    Changed(u32, u32, Vec<(u32, u64)>),
    All(Sums),
}

/// The writers of a database in rollback mode wait while it is read.
fn held_too_long(error: Error) -> Error {
    match error {
        Error::Stopped(sqlite::Error::TooSlow { name, limit }) => {
            sqlite::Error::HeldTooLong { name, hold: limit }.into()
        }
        other => other,
    }
}

fn header(facts: &Facts, file: FileName, at: DateTime<Utc>) -> Header {
    Header {
        page_size: facts.page_size,
        pages: facts.pages as u32,
        min: file.min,
        max: file.max,
        millis: at.timestamp_millis().max(0) as u64,
    }
}
