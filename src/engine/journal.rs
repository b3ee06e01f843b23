//! What the engine does with the journal: which instants it reaches, and what the databases held then.

mod point;
mod window;

use super::Error;
use crate::backup::Moment;
use crate::journal;

pub(super) use point::Point;
pub use window::{Recovery, Window};

/// As an error of what was asked for.
fn failed(error: journal::Error, moment: Moment) -> Error {
    match error {
        journal::Error::Disk(error) => error.into(),
        journal::Error::Stopped(error) => error.into(),
        error @ journal::Error::Timeline { .. } => error.into(),
        error => Error::Damaged { subject: moment.into(), reason: error.to_string() },
    }
}
