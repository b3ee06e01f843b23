//! What was read of a file, kept for as long as it is the same file. Only what is asked for again and again is worth it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;

/// The last value, and of what it was read.
pub(super) struct Memo<T>(Arc<Mutex<Option<(Stamp, T)>>>);

impl<T> Clone for Memo<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Changes with every write and every rename: device, inode, size, times of the last change of bytes and of anything.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp([i128; 5]);

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = path.symlink_metadata().ok()?;
        let instant = |seconds: i64, nanoseconds: i64| i128::from(seconds) << 32 | i128::from(nanoseconds);
        let (modified, changed) = (instant(meta.mtime(), meta.mtime_nsec()), instant(meta.ctime(), meta.ctime_nsec()));
        Some(Self([meta.dev().into(), meta.ino().into(), meta.len().into(), modified, changed]))
    }
}

impl<T: Clone> Memo<T> {
    /// What `read` makes of the file at `path`, or has made of it as it still is.
    pub(super) fn get(&self, path: &Path, read: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.follow(path, |_| read())
    }

    /// The same of a file that grows: `read` is given what was made of it before, and has to find out whether that counts.
    pub(super) fn follow(&self, path: &Path, read: impl FnOnce(Option<T>) -> Result<T, Error>) -> Result<T, Error> {
        let stamp = Stamp::of(path);
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let kept = match (stamp, kept) {
            (Some(stamp), Some((of, value))) if stamp == of => return Ok(value),
            (_, kept) => kept.map(|(_, value)| value),
        };
        let value = read(kept)?;
        // Of a file that changed meanwhile nobody knows what was read.
        if let Some(stamp) = stamp.filter(|stamp| Stamp::of(path) == Some(*stamp)) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((stamp, value.clone()));
        }
        Ok(value)
    }
}
