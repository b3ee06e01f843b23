//! How long to wait for a store, and how fast to go.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a store may take, and how much of the line it gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pace {
    /// For each call, and for each piece of a body.
    pub timeout: Duration,
    /// Bytes a second, up and down together; `None` is as fast as it goes.
    pub bandwidth: Option<u64>,
}

/// The most that goes over the line at once.
const PIECE: u64 = 64 * 1024;

/// One line for all transfers of a remote: whoever wants to send books time on it.
pub(super) struct Line {
    bandwidth: Option<u64>,
    free_at: Mutex<Option<Instant>>,
}

impl Line {
    pub(super) fn new(bandwidth: Option<u64>) -> Self {
        Self { bandwidth, free_at: Mutex::new(None) }
    }

    /// Bytes to send at once: a tenth of a second's worth.
    pub(super) fn piece(&self) -> usize {
        self.bandwidth.map_or(PIECE, |rate| (rate / 10).clamp(1024, PIECE)) as usize
    }

    /// Books the time that so many bytes take; the answer is how long it is until that is over.
    pub(super) fn book(&self, bytes: usize) -> Duration {
        let Some(rate) = self.bandwidth else { return Duration::ZERO };
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let start = free_at.map_or(now, |free| free.max(now));
        let end = start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        *free_at = Some(end);
        end - now
    }

    /// The longest that so many bytes may take before the line must be dead.
    pub(super) fn patience(&self, bytes: usize) -> Duration {
        let slowest = self.bandwidth.map_or(SLOWEST, |rate| rate.clamp(1, SLOWEST));
        Duration::from_secs(bytes as u64 / slowest)
    }
}

/// Bytes a second below which a line isn't one.
const SLOWEST: u64 = 16 * 1024;
