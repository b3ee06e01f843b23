//! What reads a whole backup is done one at a time: who is at it, and how to stop that.

use std::sync::{Arc, Mutex};

use super::{OnDrop, locked};
use crate::engine::{Error, Holder};
use crate::sqlite::Control;

/// Taken by one at a time.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Option<(Holder, Control)>>>);

impl Slot {
    /// Takes it; free again when the place is dropped.
    pub(super) fn take(&self, holder: Holder, control: &Control) -> Result<impl Drop + Send + 'static, Error> {
        let mut taken = locked(&self.0);
        if let Some((other, _)) = taken.as_ref() {
            return Err(Error::Held(Some(Box::new(other.clone()))));
        }
        *taken = Some((holder, control.clone()));
        let slot = Arc::clone(&self.0);
        Ok(OnDrop(Some(move || *locked(&slot) = None)))
    }

    /// Who has it, and how to stop that.
    pub(super) fn taken(&self) -> Option<(Holder, Control)> {
        locked(&self.0).clone()
    }
}
