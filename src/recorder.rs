//! Writes the journal: looks at the databases at every tick on one thread; compacts and checks on others, which are in no tick's way.

use std::time::{Duration, Instant};

use crate::engine::{Engine, Error, Recording};
use crate::journal;
use crate::sqlite::{self, Control};

/// Between two looks at the wish to stop. They cost more than a tick in which little has changed.
const NAP: Duration = Duration::from_millis(250);
/// After a failure of a tick the next comes so much later.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two looks whether a restore wants the databases for itself.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at what is to be compacted.
const TEND: Duration = Duration::from_secs(5);

/// After a failure of that.
const LATER: Duration = Duration::from_secs(120);

/// Runs until cancelled.
pub fn run(engine: &Engine, control: &Control) {
    if !engine.config().pitr.enabled {
        return;
    }
    let mut told = Told::default();
    while !control.is_cancelled() {
        match engine.record(control) {
            Ok(recording) => keep(engine, recording, control, &mut told),
            Err(error) => told.tell(&error),
        }
        nap(PAUSE, control);
    }
}

/// A standing trouble is said once.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    fn tell(&mut self, error: &Error) {
        use sqlite::Error::Cancelled;
        if matches!(error, Error::Sqlite(Cancelled) | Error::Journal(journal::Error::Stopped(Cancelled))) {
            return;
        }
        let text = error.to_string();
        if self.0.as_ref() != Some(&text) {
            tracing::error!(code = error.code(), "the journal is not written: {text}");
            self.0 = Some(text);
        }
    }

    fn is_well(&mut self) {
        if self.0.take().is_some() {
            tracing::info!("the journal is written again");
        }
    }
}

fn nap(time: Duration, control: &Control) {
    let begun = Instant::now();
    while !control.is_cancelled() && begun.elapsed() < time {
        std::thread::sleep(NAP.min(time - begun.elapsed().min(time)));
    }
}

/// Ticks until cancelled, or until the journal must be taken up anew.
fn keep(engine: &Engine, mut recording: Recording, control: &Control, told: &mut Told) {
    let ends = control.child();
    let mut tending = recording.tending();
    std::thread::scope(|scope| {
        let (ends, other) = (&ends, &ends);
        let _lifeline = control.lifeline();
        scope.spawn(move || {
            let _lifeline = control.lifeline();
            let mut told = Told::default();
            while !other.is_cancelled() {
                match engine.tend_journal(&mut tending, other) {
                    Ok(()) => told.is_well(),
                    Err(error) => {
                        told.tell(&error);
                        nap(LATER, other);
                    }
                }
                nap(TEND, other);
            }
        });
        let mut failed = 0;
        while !control.is_cancelled() && failed < 3 {
            let begun = Instant::now();
            match engine.tick(&mut recording, control) {
                Ok(tick) => {
                    failed = 0;
                    told.is_well();
                    for written in tick.written.iter().filter_map(|it| it.why.map(|why| (it, why))) {
                        tracing::info!(database = %written.0.name, pages = written.0.pages, "a snapshot begins the journal anew: {}", written.1);
                    }
                    if let Some(gap) = tick.gap {
                        tracing::warn!(from = %gap.from, to = %gap.to, "nothing is known of this time");
                    }
                    for check in tick.checks {
                        scope.spawn(move || {
                            let _lifeline = control.lifeline();
                            let name = check.name().clone();
                            match engine.check_journal(check, ends).map(|checked| checked.difference) {
                                Ok(None) => tracing::debug!(database = %name, "the journal is what the database was"),
                                Ok(Some(difference)) => tracing::error!(code = "journal-wrong", database = %name, "the journal was wrong: {difference}"),
                                Err(error) => tracing::warn!(database = %name, %error, "the journal could not be checked"),
                            }
                        });
                    }
                }
                Err(error) => {
                    // What can't be written may be there all the same: after that the journal is taken up anew.
                    let unwritten =
                        matches!(&error, Error::Journal(journal::Error::Disk(_) | journal::Error::Astray { .. }));
                    failed += u32::from(unwritten && !error.is_full());
                    told.tell(&error);
                    nap(PAUSE, control);
                }
            }
            let rest = engine.config().pitr.interval.saturating_sub(begun.elapsed());
            let begun = Instant::now();
            while !control.is_cancelled() && begun.elapsed() < rest {
                nap(LOOK.min(rest.saturating_sub(begun.elapsed())), control);
                engine.make_way(&mut recording);
            }
        }
        ends.cancel();
    });
}
