//! The journal in a rehearsal: its newest instant is rebuilt, as a restore of it would do it, and held against the live databases. The
//! order of steps:
//!
//! 1. A reader of each database is pinned, and a tick is waited for (`journal::witness`). Where none comes nobody writes the journal,
//!    and it is only rebuilt and checked.
//! 2. The last instant that can be restored is looked up; then the databases are looked at again.
//! 3. That instant is rebuilt into a private folder. All checksums are compared on the way, and what comes out with what was captured.
//! 4. Each database is compared with what was seen of it, page by page, and checked as thoroughly as SQLite can.
//! 5. What is wrong is recorded, and whoever writes the journal is told: it begins anew, and the time since it was last right is a gap.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use super::{Fault, seconds, unopened};
use crate::backup::{CheckKind, DatabaseName, Moment};
use crate::disk;
use crate::engine::recording::PATIENCE;
use crate::engine::staging::Staged;
use crate::engine::{Engine, Error, Window};
use crate::journal::timeline::{self, beat};
use crate::journal::witness::{Looking, Seen, Witness};
use crate::sqlite::check::{self, Verdict};
use crate::sqlite::snapshot::{facts, patient};
use crate::sqlite::{Control, open_finished};

/// How often what was written between two looks is asked for, where it can't be told.
const ROUNDS: usize = 3;
/// Between two looks at whether a tick has come.
const NAP: Duration = Duration::from_millis(20);
/// A tick may be so late.
const LATE: Duration = Duration::from_secs(5);
/// Where ticks are rarer, no reader is pinned for so long.
const RARE: Duration = Duration::from_secs(30);

/// What was found of the journal.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct JournalRehearsal {
    /// Its newest instant could be rebuilt, and is what the databases were, as far as they were compared.
    pub ok: bool,
    /// That instant; nothing where it holds none, or none that could be looked up.
    #[schema(required = true)]
    pub at: Option<Moment>,
    /// Somebody writes it. Else nothing is compared with the databases.
    pub written: bool,
    /// How long that took.
    #[schema(minimum = 0)]
    pub seconds: f64,
    /// Why it could not be rebuilt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// Each database.
    pub databases: BTreeMap<DatabaseName, JournalDatabase>,
}

/// What was found of one database in the journal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
pub struct JournalDatabase {
    /// It is sound, and nothing is different.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// How many pages were compared: those that nobody wrote in that moment. Nothing where none could be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub compared: Option<u64>,
}

impl JournalRehearsal {
    /// Some pages of it were compared with a database.
    pub fn is_compared(&self) -> bool {
        self.databases.values().any(|found| found.compared.is_some())
    }

    /// What is wrong.
    pub fn failure(&self) -> Option<String> {
        let why =
            |(name, found): (&DatabaseName, &JournalDatabase)| Some(format!("{name}: {}", found.reason.as_ref()?));
        let reasons: Vec<_> = self.reason.iter().cloned().chain(self.databases.iter().filter_map(why)).collect();
        (!self.ok).then(|| format!("the journal: {}", reasons.join("; ")))
    }
}

/// What was seen of the databases.
#[derive(Default)]
struct Looked {
    /// A tick came.
    written: bool,
    /// The last instant that can be restored, of a tick between the looks.
    to: Option<Moment>,
    seen: BTreeMap<DatabaseName, Seen>,
    /// Of some it isn't known what was written meanwhile.
    again: bool,
}

impl Engine {
    /// Nothing where no journal is kept. What is wrong with it is an answer, not an error.
    pub(super) fn rehearse_journal(&self, control: &Control) -> Result<Option<JournalRehearsal>, Error> {
        if !self.config.pitr.enabled {
            return Ok(None);
        }
        let begun = Instant::now();
        let (mut looked, mut databases) = (Looked::default(), BTreeMap::new());
        let result = self.look_at_live(control).and_then(|found| {
            looked = found;
            looked.to.map_or(Ok(()), |to| self.hold_journal_against(to, &looked, &mut databases, control))
        });
        // As long as it waits for that, nothing of it is compared.
        let waits = timeline::Timeline::read(self.store.root())?.wrong_since.is_some();
        let reason = match result.map_err(|error| (matches!(error, Error::Damaged { .. }), Fault::from(error))) {
            Ok(()) if waits && databases.values().all(|found| found.ok) => {
                Some("it was found wrong, and begins anew once `serve` runs".to_owned())
            }
            Ok(()) => None,
            Err((_, Fault::Stopped(error))) => return Err(error),
            Err((wrong, Fault::Found(reason))) => {
                if wrong {
                    let why = format!("the journal is wrong: {reason}");
                    self.begin_journal_anew_as_read(self.config.databases.keys(), &why, control);
                }
                Some(reason)
            }
        };
        let ok = reason.is_none() && databases.values().all(|found| found.ok);
        Ok(Some(JournalRehearsal {
            ok,
            at: looked.to,
            written: looked.written,
            seconds: seconds(begun),
            reason,
            databases,
        }))
    }

    /// Steps 1 and 2.
    fn look_at_live(&self, control: &Control) -> Result<Looked, Error> {
        let mut round = 1;
        loop {
            let looked = self.try_look(control)?;
            if !looked.again || round == ROUNDS {
                return Ok(looked);
            }
            round += 1;
        }
    }

    fn try_look(&self, control: &Control) -> Result<Looked, Error> {
        let looking = Looking { patience: PATIENCE, clock: &self.clock, control };
        let (is_rare, mut witnesses) = (self.config.pitr.interval > RARE, Vec::new());
        let before = timeline::Timeline::read(self.store.root())?.alive;
        for source in self.sources().iter().filter(|_| !is_rare) {
            witnesses.extend(seen_or_told(&source.name, Witness::begin(source, looking))?);
        }
        let mut looked = Looked { written: self.has_ticked(control)?, ..Looked::default() };
        looked.to = self.recovery()?.as_ref().and_then(Window::common).map(|window| Moment::new(window.to));
        // Somebody ticks, but not all of these: `serve` was given others. What is of an older instant can't be compared.
        let is_between = looked.to.is_some_and(|to| before.is_none_or(|before| before < to.at()));
        looked.written &= is_rare || is_between;
        if looked.written {
            for witness in witnesses {
                let name = witness.name().clone();
                let seen = seen_or_told(&name, witness.end(looking))?;
                looked.again |= seen.is_none();
                looked.seen.extend(seen.map(|seen| (name, seen)));
            }
        }
        Ok(looked)
    }

    /// Waits until a tick has begun and ended: the next but one that ends, for the next may have begun already. Where ticks are rare
    /// it only asks whether the last one is as young as it should be.
    fn has_ticked(&self, control: &Control) -> Result<bool, Error> {
        let (root, interval) = (self.store.root(), self.config.pitr.interval);
        if interval > RARE {
            let alive = timeline::Timeline::read(root)?.alive;
            let longest = 3 * interval + LATE;
            return Ok(alive.is_some_and(|alive| (self.clock.now() - alive).to_std().is_ok_and(|age| age <= longest)));
        }
        for _ in 0..2 {
            let (before, begun) = (beat(root), Instant::now());
            while beat(root) == before {
                control.check()?;
                if begun.elapsed() > 3 * interval + LATE {
                    return Ok(false);
                }
                std::thread::sleep(NAP);
            }
        }
        Ok(true)
    }

    /// Steps 3 to 5.
    fn hold_journal_against(
        &self,
        to: Moment,
        looked: &Looked,
        databases: &mut BTreeMap<DatabaseName, JournalDatabase>,
        control: &Control,
    ) -> Result<(), Error> {
        let Staged { past, files, folder } = self.stage_point(&self.point(to)?, control)?;
        for (name, path) in &files {
            let page_size = past.databases.get(name).map_or(0, |copy| copy.page_size);
            let mut found = JournalDatabase::default();
            if let Some(seen) = looked.seen.get(name) {
                let compared = seen.compare((&disk::open_regular(path)?, path), page_size, control)?;
                (found.compared, found.reason) = (Some(compared.pages), compared.difference);
                match &found.reason {
                    Some(difference) => {
                        let why = format!("the journal of `{name}` is wrong: {difference}");
                        self.begin_journal_anew_as_read([name], &why, control);
                    }
                    None if seen.is_whole() => self.note_right(name, to.at()),
                    None => {}
                }
            }
            match is_sound(name, path, control) {
                Err(Fault::Found(reason)) => drop(found.reason.get_or_insert(reason)),
                Err(Fault::Stopped(error)) => return Err(error),
                Ok(()) => {}
            }
            found.ok = found.reason.is_none();
            databases.insert(name.clone(), found);
        }
        drop(folder);
        Ok(())
    }
}

/// Who doesn't get to see a database compares nothing with it.
fn seen_or_told<T>(name: &DatabaseName, looked: Result<Option<T>, crate::journal::Error>) -> Result<Option<T>, Error> {
    match looked.map_err(|error| Fault::from(Error::from(error))) {
        Ok(seen) => Ok(seen),
        Err(Fault::Stopped(error)) => Err(error),
        Err(Fault::Found(reason)) => {
            tracing::warn!(database = %name, "the journal is not compared with it: {reason}");
            Ok(None)
        }
    }
}

/// As thoroughly as SQLite can, without what only the app can check.
fn is_sound(name: &DatabaseName, path: &Path, control: &Control) -> Result<(), Fault> {
    let mut connection = open_finished(path).map_err(unopened)?;
    let control = patient(&facts(&connection).map_err(unopened)?, control);
    let report = check::check(&mut connection, name, CheckKind::Integrity, &control).map_err(Error::from)?;
    match report.verdict {
        Verdict::Corrupt(findings) => Err(Fault::Found(format!("it is corrupt: {}", findings.join("; ")))),
        _ => Ok(()),
    }
}
