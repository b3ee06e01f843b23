//! One operation at a time in a backup directory: a flock on `.lock`, which also tells others who holds it and how
//! far they are. The kernel lets it go when the holder dies, so there is no stale lock.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::recovery::RECOVERY;
use crate::backup::{DatabaseName, timestamp};
use crate::disk::{self, Context};
use crate::sqlite::Progress;

/// One operation at a time.
pub const LOCK: &str = ".lock";
/// One `serve` at a time.
pub const SERVE: &str = ".serve";
/// Between two tries at a lock that another holds.
const POLL: Duration = Duration::from_millis(50);
/// A holder says who it is right after it has the lock, and unsays it right before it lets go: one that says nothing is
/// given this long to do either.
const MOMENT: Duration = Duration::from_millis(500);
/// What a crash left is put right without anybody's wish, and mostly at once: so nobody is turned away for it that can wait this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two notes of progress.
const NOTE: Duration = Duration::from_millis(200);
/// A holder on another host is believed for this long after its last note.
const FRESH: Duration = Duration::from_secs(60);

/// Who holds a directory, for what, and how far they are.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Process id, on `host`.
    pub pid: u32,
    /// When that process began, in clock ticks since boot: tells a later process of the same id.
    #[serde(default)]
    #[schema(required = true)]
    pub process_start: u64,
    /// Host, or container.
    pub host: String,
    /// `create`, `delete` …
    pub operation: String,
    /// On whose behalf.
    pub by: String,
    /// Since when.
    #[serde(with = "timestamp")]
    pub started_at: DateTime<Utc>,
    /// The database it is at.
    #[serde(default)]
    #[schema(required = true)]
    pub database: Option<DatabaseName>,
    /// 0 to 1.
    #[serde(default)]
    #[schema(required = true, minimum = 0, maximum = 1)]
    pub progress: Option<f64>,
}

impl Holder {
    /// This process, beginning an operation.
    pub fn new(operation: &str, by: &str, now: DateTime<Utc>) -> Self {
        let pid = std::process::id();
        Self {
            pid,
            process_start: process_start(pid).unwrap_or(0),
            host: host(),
            operation: operation.to_owned(),
            by: by.to_owned(),
            started_at: now,
            database: None,
            progress: None,
        }
    }

    /// Whoever says to hold `lock`, if that is still true. Takes no lock.
    pub fn read(root: &Path, lock: &str, now: DateTime<Utc>) -> Option<Self> {
        let mut file = disk::open_regular(&root.join(lock)).ok()?;
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        let holder: Self = serde_json::from_str(text.trim()).ok()?;
        let alive = if holder.host == host() {
            process_start(holder.pid) == Some(holder.process_start)
        } else {
            let noted = DateTime::<Utc>::from(file.metadata().ok()?.modified().ok()?);
            (now - noted).to_std().is_ok_and(|age| age < FRESH)
        };
        alive.then_some(holder)
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} by {} (process {} on {}) since {}",
            self.operation,
            self.by,
            self.pid,
            self.host,
            timestamp::text(self.started_at)
        )?;
        if let Some(progress) = self.progress {
            write!(f, ", {:.0} % done", progress * 100.0)?;
        }
        Ok(())
    }
}

/// The name of this host or container.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); the name before it may hold anything, so it is counted from the last `)`.
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The right to change a backup directory; let go on drop.
#[derive(Debug)]
pub struct Permit {
    note: Arc<Note>,
}

#[derive(Debug)]
struct Note {
    file: File,
    state: Mutex<(Holder, Instant)>,
}

/// How taking a lock ended, when not well.
#[derive(Debug)]
pub enum Refusal {
    /// Another holds it.
    Held(Option<Box<Holder>>),
    /// Asked to stop while waiting.
    Cancelled,
    /// The file can't be used.
    Disk(disk::Error),
}

impl Permit {
    /// Takes `lock` in `root`, waiting for it no longer than `wait` (or what is given to a recovery, and to a holder that says nothing),
    /// and until `cancelled`.
    pub fn take(
        root: &Path,
        lock: &str,
        holder: Holder,
        wait: Duration,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self, Refusal> {
        let path = root.join(lock);
        let (begun, mut silent) = (Instant::now(), None);
        loop {
            if let Some(file) = try_lock(&path).map_err(Refusal::Disk)? {
                let state = Mutex::new((holder, Instant::now()));
                let note = Note { file, state };
                note.write();
                return Ok(Self { note: Arc::new(note) });
            }
            let now = holder.started_at + begun.elapsed();
            let other = Holder::read(root, lock, now);
            let is_over = match &other {
                None => silent.get_or_insert_with(Instant::now).elapsed() >= MOMENT,
                Some(other) => {
                    silent = None;
                    other.operation != RECOVERY || begun.elapsed() >= PATIENCE
                }
            };
            if is_over && begun.elapsed() >= wait {
                return Err(Refusal::Held(other.map(Box::new)));
            }
            if cancelled() {
                return Err(Refusal::Cancelled);
            }
            std::thread::sleep(POLL);
        }
    }

    /// As the lock says it.
    pub fn holder(&self) -> Holder {
        self.note.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.clone()
    }

    /// A listener that notes progress in the lock for others to see.
    pub fn noting(&self) -> impl Fn(Progress<'_>) + Send + Sync + 'static {
        let note = Arc::clone(&self.note);
        move |progress| note.progress(progress)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Emptied first, so that nobody reads of a holder that is gone. A listener may outlive the permit, so the
        // lock is let go by name and not by the file's end.
        let _ = self.note.file.set_len(0);
        let _ = rustix::fs::flock(&self.note.file, FlockOperation::Unlock);
    }
}

impl Note {
    fn progress(&self, progress: Progress<'_>) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.1.elapsed() < NOTE && state.0.database.as_ref() == Some(progress.database) {
            return;
        }
        state.0.database = Some(progress.database.clone());
        let share = progress.done as f64 / progress.total.max(1) as f64;
        state.0.progress = Some((share * 1000.0).round() / 1000.0);
        state.1 = Instant::now();
        drop(state);
        self.write();
    }

    /// One call of one length, so that a reader sees the old note or the new one. It tells, it doesn't decide: a
    /// failure costs others their look and no more.
    fn write(&self) {
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let text = serde_json::to_string(&state.0).unwrap_or_default();
        let _ = self.file.write_all_at(format!("{text:<1023}\n").as_bytes(), 0);
    }
}

/// The locked file, or nothing if another holds it. A file that was replaced meanwhile doesn't count.
fn try_lock(path: &Path) -> Result<Option<File>, disk::Error> {
    let file = disk::open_shared(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        done => done.to("lock", path)?,
    }
    let held = crate::store::inode(&file.metadata().to("look at", path)?);
    let named = path.metadata().ok().map(|meta| crate::store::inode(&meta));
    Ok((named == Some(held)).then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(root: &Path, operation: &str) -> Result<Permit, Refusal> {
        let now = "2026-11-28T09:00:00Z".parse().unwrap();
        Permit::take(root, LOCK, Holder::new(operation, "cli", now), Duration::ZERO, &|| false)
    }

    #[test]
    fn what_puts_right_what_a_crash_left_turns_nobody_away() {
        let dir = tempfile::tempdir().unwrap();
        let let_go_later = |permit: Permit| {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                drop(permit);
            })
        };
        let (begun, recovery) = (Instant::now(), let_go_later(take(dir.path(), RECOVERY).unwrap()));
        let create = take(dir.path(), "create").unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(150), "it held it");
        recovery.join().unwrap();
        let refused = take(dir.path(), RECOVERY).unwrap_err();
        assert!(matches!(refused, Refusal::Held(Some(holder)) if holder.operation == "create"));
        drop(create);
    }
}
