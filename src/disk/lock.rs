//! Locks that are held for a moment only (flock(2)): whoever waits for one waits for a disk at most, so one that isn't let go
//! is held by a process that was stopped, or hangs. Then it is said which, instead of waiting with it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock, major, minor};
use rustix::io::Errno;

use super::{Context, Error};

/// How long one is waited for: many times what any holder needs, on a slow disk and with others before us.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const POLL: Duration = Duration::from_millis(5);

/// Locks `file` against others, until it is closed.
pub fn lock(file: &File, path: &Path) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => std::thread::sleep(POLL),
            Err(Errno::WOULDBLOCK) => return Err(held(file)).to("lock", path),
            Err(Errno::INTR) => {}
            done => return done.to("lock", path),
        }
    }
}

fn held(file: &File) -> io::Error {
    let (holder, cure) = match holder(file) {
        Some(pid) => (format!("process {pid}"), format!("let it go on (kill -CONT {pid}) or end it")),
        None => ("another process".to_owned(), "let it go on or end it (`lslocks` shows which)".to_owned()),
    };
    let seconds = PATIENCE.as_secs();
    let reason = format!("{holder} has held it for {seconds} s and may be stopped; {cure}, then try again");
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

/// Who holds it, as the kernel tells: `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF` (proc_locks(5)).
fn holder(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let (device, inode) = (meta.dev(), meta.ino());
    let place = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let mut lines = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Those who wait have an arrow before the kind. A holder outside of this container has no number here.
    let line = lines.find(|line| line.get(1) == Some(&"FLOCK") && line.get(5) == Some(&place.as_str()))?;
    line.get(4)?.parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_not_let_go_is_waited_for_no_longer_than_that_and_its_holder_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let open = || crate::disk::open_shared(&path).unwrap();
        let first = open();
        lock(&first, &path).unwrap();
        let begun = Instant::now();
        let said = lock(&open(), &path).unwrap_err().to_string();
        assert!((PATIENCE..12 * PATIENCE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(said.contains(&format!("process {} has held it", std::process::id())), "{said}");
        // One that is let go meanwhile is had.
        let other = std::thread::spawn({
            let (path, file) = (path.clone(), open());
            move || lock(&file, &path)
        });
        std::thread::sleep(Duration::from_millis(50));
        drop(first);
        other.join().unwrap().unwrap();
    }
}
