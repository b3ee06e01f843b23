//! Asking long work to stop, and hearing how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::limits::Limit;

use super::Error;
use crate::backup::DatabaseName;

type Listener = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// Asks an operation to stop, and tells how far it is.
#[derive(Clone, Default)]
pub struct Control {
    cancelled: Arc<AtomicBool>,
    /// Of whoever this was begun for: what stops that stops this too.
    above: Vec<Arc<AtomicBool>>,
    /// Set when one part has failed and the others may stop; not a wish of the user.
    abandoned: Arc<AtomicBool>,
    patience: Option<Patience>,
    progress: Option<Listener>,
}

/// Steps of SQLite's between two looks whether to go on. Where the schema computes, one may take milliseconds; and a page of a tree is one,
/// with all that its cells have on other pages. Ten times as many would save a fiftieth of a check.
const STEPS: i32 = 100;
/// Bytes that a value may always have.
const LONGEST: i64 = 1 << 20;

/// Bytes that a value may have: no more than all of the database, for one call of a function that takes the square of its length is one
/// step. Of what can't even be asked how long it is, nothing more will come.
fn longest(connection: &Connection) -> i32 {
    let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let bytes = connection.query_row(sql, [], |row| row.get(0)).unwrap_or(0);
    // SQLite cuts it to what it was built for.
    LONGEST.max(bytes).try_into().unwrap_or(i32::MAX)
}

#[derive(Clone, Copy)]
struct Patience {
    since: Instant,
    limit: Duration,
}

impl Patience {
    fn left(self) -> Duration {
        self.limit.saturating_sub(self.since.elapsed())
    }
}

/// How far a copy is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The database it is at.
    pub database: &'a DatabaseName,
    /// Bytes done, of all databases.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Cancels a control where it is dropped by a panic.
pub struct Lifeline<'a>(&'a Control);

impl Drop for Lifeline<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

impl Control {
    /// For each of several that are of no use without the others: where one panics all are told to stop, instead of going on and
    /// looking well.
    pub fn lifeline(&self) -> Lifeline<'_> {
        Lifeline(self)
    }

    /// The same, with another listener besides.
    pub fn also(&self, more: impl Fn(Progress<'_>) + Send + Sync + 'static) -> Self {
        let first = self.progress.clone();
        let both = move |progress: Progress<'_>| {
            if let Some(first) = &first {
                first(progress);
            }
            more(progress);
        };
        Self { progress: Some(Arc::new(both)), ..self.clone() }
    }

    /// The same, with an end to its patience, unless that ends sooner already.
    pub fn within(&self, since: Instant, limit: Duration) -> Self {
        let patience = Patience { since, limit };
        let sooner = self.patience.filter(|own| own.left() < patience.left()).unwrap_or(patience);
        Self { patience: Some(sooner), abandoned: Arc::default(), ..self.clone() }
    }

    /// The same for a part of the work that can be abandoned alone.
    pub(super) fn part(&self) -> Self {
        Self { abandoned: Arc::default(), ..self.clone() }
    }

    /// For one operation of many: it can be cancelled by itself, and is when this is.
    pub fn child(&self) -> Self {
        let mut above = self.above.clone();
        above.push(Arc::clone(&self.cancelled));
        Self { cancelled: Arc::default(), above, ..self.clone() }
    }

    /// The same, but that nobody's wish stops it: for what must come to its end once it was begun.
    pub fn unstoppable(&self) -> Self {
        Self { cancelled: Arc::default(), above: Vec::new(), ..self.clone() }
    }

    /// Lets the other parts of the work stop, since one has failed.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Asks whoever works under this control to stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Set by a signal handler, say, it cancels.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// Whether that was asked.
    pub fn is_cancelled(&self) -> bool {
        std::iter::once(&self.cancelled).chain(&self.above).any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Whether that was asked of this very work, and not of all that goes on.
    pub fn is_cancelled_alone(&self) -> bool {
        self.is_cancelled() && !self.above.iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Whether the time is up.
    pub fn is_late(&self) -> bool {
        self.patience.is_some_and(|patience| patience.since.elapsed() > patience.limit)
    }

    /// The time that was up.
    pub fn limit(&self) -> Duration {
        self.patience.map(|patience| patience.limit).unwrap_or_default()
    }

    /// An error once it was asked to stop.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    pub(super) fn must_stop(&self) -> bool {
        self.is_cancelled() || self.is_late() || self.abandoned.load(Ordering::Relaxed)
    }

    /// Tells the listeners how far it is.
    pub fn tell(&self, progress: Progress<'_>) {
        if let Some(listener) = &self.progress {
            listener(progress);
        }
    }

    /// Lets statements on `connection`, which has its snapshot, end when it was asked to stop or the time is up; and none of
    /// them makes a value that is longer than all of the database, whatever its schema computes.
    pub(super) fn watch(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, longest(connection))?;
        let control = self.clone();
        connection.progress_handler(STEPS, Some(move || control.must_stop()))
    }
}
