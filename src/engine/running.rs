//! What this process does to the directory just now, so that it can be stopped from elsewhere in the process.

use std::sync::{Arc, Mutex, PoisonError};

use super::permit::{Holder, LOCK};
use super::{Call, Engine, Error, entry};
use crate::audit::{Entry, Kind};
use crate::sqlite::Control;

/// The control of the operation that holds the directory, if it is this process's.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<Option<Control>>>);

/// Held while the operation runs.
pub(super) struct Guard(Running);

impl Running {
    pub(super) fn begin(&self, control: &Control) -> Guard {
        self.set(Some(control.clone()));
        Guard(self.clone())
    }

    fn set(&self, control: Option<Control>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = control;
    }

    fn get(&self) -> Option<Control> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Engine {
    /// Asks the operation that is under way in this process to stop, and says which that is. It undoes what it has begun
    /// and ends as `cancelled`; past its commit point it ends well.
    pub fn cancel(&self, call: &Call) -> Result<Holder, Error> {
        let now = self.clock.now();
        let holder = Holder::read(self.store.root(), LOCK, now);
        let (Some(holder), running) = (holder, self.running.get()) else { return Err(Error::NothingRuns) };
        let Some(control) = running else { return Err(Error::RunsElsewhere(Box::new(holder))) };
        let mut line = Entry { ok: Some(true), ..entry(Kind::Outcome, "cancel", &call.actor, None) };
        line.details.insert("cancelled".to_owned(), format!("{} by {}", holder.operation, holder.by).into());
        self.audit.append(now, line)?;
        control.cancel();
        Ok(holder)
    }
}
