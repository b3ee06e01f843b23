//! What this process does to the directory just now, so that it can be stopped from elsewhere in the process.

use std::sync::{Arc, Mutex, PoisonError};

use super::permit::{Holder, LOCK};
use super::{Call, Engine, Error, entry};
use crate::audit::{Entry, Kind};
use crate::sqlite::Control;

/// The operation that holds the directory, if it is this process's, and how to stop it.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<Option<(Holder, Control)>>>);

/// Held while the operation runs.
pub(super) struct Guard(Running);

impl Running {
    /// `holder` as others see it in the lock: whoever has seen it there stops the very same.
    pub(super) fn begin(&self, holder: Holder, call: &Call) -> Guard {
        self.set(Some((holder, call.control.clone())));
        Guard(self.clone())
    }

    fn set(&self, running: Option<(Holder, Control)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }

    fn get(&self) -> Option<(Holder, Control)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Engine {
    /// Asks the operation that is under way in this process to stop, and says which that is; only the `meant` one, if the
    /// caller has one in mind. It undoes what it has begun and ends as `cancelled`; past its commit point it ends well.
    pub fn cancel(&self, meant: impl Fn(&Holder) -> bool, call: &Call) -> Result<Holder, Error> {
        match self.running.get().filter(|(holder, _)| meant(holder)) {
            Some((holder, control)) => self.cancel_by(holder, &control, call),
            None => Err(match self.under_way().filter(meant) {
                Some(other) => Error::RunsElsewhere(Box::new(other)),
                None => Error::NothingRuns,
            }),
        }
    }

    /// What holds the directory just now, in whichever process.
    pub fn under_way(&self) -> Option<Holder> {
        Holder::read(self.store.root(), LOCK, self.clock.now())
    }

    /// Asks what `holder` does to stop, by its own control.
    pub fn cancel_by(&self, holder: Holder, control: &Control, call: &Call) -> Result<Holder, Error> {
        let mut line = Entry { ok: Some(true), ..entry(Kind::Outcome, "cancel", &call.actor, None) };
        line.details.insert("cancelled".to_owned(), format!("{} by {}", holder.operation, holder.by).into());
        self.append_first(line)?;
        control.cancel();
        Ok(holder)
    }
}
