//! How long the tests wait for what must come. It is far longer than it takes on a slow machine, since no figure comes from here:
//! it is there so that what never comes fails, and says so.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// For one thing. After a failure the program itself pauses up to a minute and a quarter.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// For a whole test of CI's form: none takes three minutes on two processors.
const WHOLE: Duration = Duration::from_secs(20 * 60);

/// A test's place is in use. One that hangs, say in waiting for a process, is named and ends the run, which would go on for ever.
#[derive(Debug)]
pub struct Watched(u64);

struct Since {
    next: u64,
    held: BTreeMap<u64, (Instant, String)>,
}

static SINCE: Mutex<Since> = Mutex::new(Since { next: 0, held: BTreeMap::new() });

impl Watched {
    pub fn now() -> Self {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| {
            // Runs that somebody asked to be long are.
            let is_long = |name: &&str| std::env::var_os(name).is_some();
            if !["THOROUGH", "MODEL_STEPS", "FUZZ_CASES"].iter().any(is_long) {
                std::thread::spawn(watch);
            }
        });
        let name = std::thread::current().name().unwrap_or("a thread of a test").to_owned();
        let mut since = SINCE.lock().unwrap_or_else(PoisonError::into_inner);
        since.next += 1;
        let number = since.next;
        since.held.insert(number, (Instant::now(), name));
        Self(number)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        SINCE.lock().unwrap_or_else(PoisonError::into_inner).held.remove(&self.0);
    }
}

fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(10));
        let since = SINCE.lock().unwrap_or_else(PoisonError::into_inner);
        let hanging = since.held.values().find(|(begun, _)| begun.elapsed() > WHOLE);
        if let Some((_, name)) = hanging {
            // Past what the tests' own output is caught by.
            let _ = writeln!(std::io::stderr(), "it hangs: {name}. What runs:");
            let _ = Command::new("ps").args(["-o", "pid,ppid,stat,etime,args", "--forest", "-A"]).status();
            end_children(std::process::id());
            std::process::exit(124);
        }
    }
}

/// Ends what a process has started, and what that has: it would hold the run's output open.
fn end_children(pid: u32) {
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            end_children(child);
            let _ = Command::new("kill").args(["-9", &child.to_string()]).status();
        }
    }
}
