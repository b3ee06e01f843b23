//! The alarm that asks whether a backup is due, or else a rehearsal. job_scheduler_ng rings on the wall clock every few seconds and missed
//! rings come as one; what a ring means is decided on our clock by `backup::schedule`, so neither a jump of the clock nor
//! a stop of the process makes a burst or a stall.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use job_scheduler_ng::{Job, JobScheduler};

use crate::backup::Tier;
use crate::backup::schedule::Decision;
use crate::engine::{Actor, Call, Create, Engine, Error};
use crate::sqlite::Control;

/// At second 0, 5, 10 … of every minute: a planned instant is met to the second.
const RINGS: &str = "*/5 * * * * *";
/// How long the directory is waited for before it is asked again whether the backup is still due.
const WAIT: Duration = Duration::from_secs(4);
/// After a failure nothing is tried for this long, also where the failure couldn't be recorded.
const PAUSE: Duration = Duration::from_secs(50);
/// Between two looks at the alarm and at the wish to stop.
const TICK: Duration = Duration::from_millis(200);

/// Runs until cancelled.
pub fn run(engine: &Engine, control: &Control) {
    let mut asked = Asked::default();
    // A restart postpones nothing.
    asked.consider(engine, control);
    let mut alarm = JobScheduler::new();
    match RINGS.parse() {
        Ok(rings) => drop(alarm.add(Job::new(rings, || asked.consider(engine, control)))),
        Err(error) => return tracing::error!(%error, "the alarm can't be set"),
    }
    while !control.is_cancelled() {
        alarm.tick();
        std::thread::sleep(TICK);
    }
}

/// What was said last, so that a standing trouble is said once, and what was tried.
#[derive(Default)]
struct Asked {
    trouble: Option<String>,
    failed: Option<Instant>,
    /// The last rehearsal: it counts, also where it couldn't be recorded.
    drilled: Option<DateTime<Utc>>,
}

impl Asked {
    fn consider(&mut self, engine: &Engine, control: &Control) {
        if self.failed.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        match self.act(engine, control) {
            Ok(()) => (self.trouble, self.failed) = (None, None),
            Err(error) => {
                let text = error.to_string();
                if self.trouble.as_ref() != Some(&text) && !engine.has_told(&error) {
                    tracing::error!(code = error.code(), "{text}");
                }
                (self.trouble, self.failed) = (Some(text), Some(Instant::now()));
            }
        }
    }

    /// The backup first, then the rehearsal.
    fn act(&mut self, engine: &Engine, control: &Control) -> Result<(), Error> {
        consider(engine, control)?;
        self.rehearse(engine, control)
    }

    /// Rehearses a restore, if that is due. Never while a backup is due or will be tried again.
    fn rehearse(&mut self, engine: &Engine, control: &Control) -> Result<(), Error> {
        let (settings, now) = (engine.settings()?, engine.clock().now());
        if !settings.enabled || control.is_cancelled() || !engine.drill_is_due(&settings, now, self.drilled)? {
            return Ok(());
        }
        if engine.decide(&settings, now)? != (Decision::Wait { until: settings.schedule.next_run(now) }) {
            return Ok(());
        }
        tracing::debug!("a rehearsal is due");
        let drilled = match engine.drill(&call(control)) {
            Err(Error::Held(_)) => return Ok(()),
            drilled => drilled,
        };
        self.drilled = Some(engine.clock().now());
        drilled.map(drop)
    }
}

fn call(control: &Control) -> Call {
    Call { actor: Actor::scheduler(), wait: WAIT, control: control.child() }
}

/// Settles a restore that was cut short, and takes the backup that is due, if one is.
pub fn consider(engine: &Engine, control: &Control) -> Result<(), Error> {
    if engine.is_unsettled() && !control.is_cancelled() {
        // Whoever holds the directory is perhaps the very restore that is under way: nobody waits in line behind that, to be in the way of
        // whatever comes next.
        match engine.recover(&Call { wait: Duration::ZERO, ..call(control) }) {
            Err(Error::Held(_)) => return Ok(()),
            settled => settled?,
        }
    }
    let settings = engine.settings()?;
    if !settings.enabled || control.is_cancelled() {
        return Ok(());
    }
    let now = engine.clock().now();
    let decided = match engine.decide(&settings, now) {
        // It keeps no backup away. After a failure, whoever asks waits.
        Err(Error::Audit(_)) => engine.decide_unread(&settings, now)?,
        decided => decided?,
    };
    let Decision::Run { slot, failures } = decided else { return Ok(()) };
    tracing::debug!(%slot, failures, "a backup is due");
    let create = Create { tier: Tier::Daily, reason: None, accept_shrink: false };
    let created = match engine.create(&create, &call(control)) {
        // Another operation is under way; it may even be the backup that is due.
        Err(Error::Held(_)) => return Ok(()),
        created => created?,
    };
    for finding in &created.backup.findings {
        tracing::warn!(id = %created.backup.id, "{finding}");
    }
    if let Some(frozen) = &created.rotation.frozen {
        tracing::warn!("rotation stands still: {frozen}");
    }
    Ok(())
}
