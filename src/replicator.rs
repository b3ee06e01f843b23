//! Keeps replicas up with the backup directory: a thread for each, so that one that hangs is in no other's way, nor in that of
//! backups. What a replica lacks is asked of the engine again and again; nothing that decides is kept in memory.

use std::time::{Duration, Instant};

use crate::backup::ReplicaName;
use crate::engine::{Actor, Call, Engine, Error, Shipping};
use crate::sqlite::{self, Control};

/// Between two looks at what is here.
const TICK: Duration = Duration::from_millis(500);

/// After a failure nothing is tried for this long, also where the failure couldn't be remembered.
const PAUSE: Duration = Duration::from_secs(30);

/// Between two rounds of the journal's newest seconds, and between two looks at its larger files.
const ROUND: Duration = Duration::from_secs(5);
/// After failures the next round comes twice as late each time, up to this.
const LATEST: Duration = Duration::from_secs(300);
/// Between two looks at the wish to stop.
const NAP: Duration = Duration::from_millis(50);

/// Runs until cancelled.
pub fn run(engine: &Engine, control: &Control) {
    std::thread::scope(|scope| {
        for name in engine.replica_names() {
            scope.spawn(move || keep_up(engine, name, control));
            scope.spawn(move || ship_journal(engine, name, control));
        }
    });
}

/// The newest seconds, and beside them the larger files.
fn ship_journal(engine: &Engine, name: &ReplicaName, control: &Control) {
    let _lifeline = control.lifeline();
    let Some(shipping) = begun(engine, name, control) else { return };
    std::thread::scope(|scope| {
        let tending = shipping.clone();
        scope.spawn(move || ship(name, control, |control| engine.ship_journal(&shipping, control)));
        let mut looked = None;
        ship(name, control, |control| engine.tend_shipped(&tending, &mut looked, control));
    });
}

/// For sending it; nothing where none is kept. What is remembered of the replica may be unreadable for a while.
fn begun(engine: &Engine, name: &ReplicaName, control: &Control) -> Option<Shipping> {
    let mut told = false;
    while !control.is_cancelled() {
        match engine.shipping(name) {
            Ok(shipping) => return shipping,
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::error!(code = error.code(), replica = %name, "the journal is not sent there: {error}");
            }
            Err(_) => {}
        }
        rest(control, PAUSE);
    }
    None
}

/// Round after round of the journal; what a round sends is all that has gathered since the one before.
fn ship(name: &ReplicaName, control: &Control, mut round: impl FnMut(&Control) -> Result<bool, Error>) {
    let _lifeline = control.lifeline();
    let (mut told, mut pause) = (None, ROUND);
    while !control.is_cancelled() {
        match round(&control.child()) {
            Ok(more) => {
                if told.take().is_some() {
                    tracing::info!(replica = %name, "the journal is sent again");
                }
                pause = if more { Duration::ZERO } else { ROUND };
            }
            Err(Error::Sqlite(sqlite::Error::Cancelled)) => pause = ROUND,
            Err(error) => {
                // A standing trouble is said once.
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::error!(code = error.code(), replica = %name, "the journal is not sent: {text}");
                    told = Some(text);
                }
                pause = (2 * pause).clamp(ROUND, LATEST);
            }
        }
        rest(control, pause);
    }
}

/// Waits for so long, unless it is to stop.
fn rest(control: &Control, pause: Duration) {
    let begun = Instant::now();
    while !control.is_cancelled() && begun.elapsed() < pause {
        std::thread::sleep(NAP);
    }
}

fn keep_up(engine: &Engine, name: &ReplicaName, control: &Control) {
    let _lifeline = control.lifeline();
    let mut told = None;
    let mut failed: Option<Instant> = None;
    while !control.is_cancelled() {
        std::thread::sleep(TICK);
        if failed.is_some_and(|at| at.elapsed() < PAUSE) {
            continue;
        }
        let (text, said) = match consider(engine, name, control) {
            Ok(()) => (None, false),
            Err(error) => (Some((error.code(), error.to_string())), engine.has_told(&error)),
        };
        // A standing trouble is said once.
        if let Some((code, detail)) = text.as_ref().filter(|text| !said && told.as_ref() != Some(*text)) {
            tracing::error!(code, replica = %name, "{detail}");
        }
        failed = text.is_some().then(Instant::now);
        if text.is_some() || told.is_some() && !is_failing(engine, name) {
            told = text;
        }
    }
}

/// What went wrong last is still so, though nothing was tried since.
fn is_failing(engine: &Engine, name: &ReplicaName) -> bool {
    let replicas = engine.replicas().unwrap_or_default();
    replicas.iter().any(|replica| replica.name == *name && replica.last_error.is_some())
}

fn consider(engine: &Engine, name: &ReplicaName, control: &Control) -> Result<(), Error> {
    if !engine.replication_is_due(name)? {
        return Ok(());
    }
    let call = Call { control: control.child(), ..Call::new(Actor::scheduler()) };
    match engine.replicate(name, false, &call) {
        // Another process is at it, or this one stops.
        Err(Error::ReplicaBusy { .. } | Error::Sqlite(sqlite::Error::Cancelled)) => Ok(()),
        Err(error) => Err(error),
        Ok(done) => {
            for key in &done.removed {
                tracing::warn!(replica = %name, key, "a leftover was removed");
            }
            for key in &done.lost {
                tracing::warn!(replica = %name, key, "it was gone or cut short; look at that store");
            }
            match done.not_sent.first() {
                Some(not) => Err(not.error(name)),
                None => Ok(()),
            }
        }
    }
}
