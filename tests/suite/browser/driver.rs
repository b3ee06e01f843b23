//! The process that drives a browser: started on a port of its own, and ended with all that it started.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::{Rc, Weak};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::patience::PATIENCE;
use crate::ports::free_address;

/// A running chromedriver with a home of its own, in which everything lies that it and its browser write.
pub struct Driver {
    child: Child,
    home: TempDir,
    address: String,
}

impl Driver {
    /// It dies also when the thread that starts it does, and its browser with it: nothing outlives a test run that is killed.
    pub fn start() -> Self {
        let (home, address) = (tempfile::tempdir().unwrap(), free_address());
        let log = home.path().join("driver.log");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "chromedriver"]);
        // Not one of its own choice (0): it asks for one under one address, and gives up if it is taken under the other.
        command.arg(format!("--port={}", address.port()));
        command.env("HOME", home.path()).env("TMPDIR", home.path());
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut driver = Self { child: command.spawn().unwrap(), home, address: format!("http://{address}") };
        let begun = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if text.contains("started successfully") {
                return driver;
            }
            let ended = driver.child.try_wait().unwrap().is_some() || begun.elapsed() > PATIENCE;
            assert!(!ended, "chromedriver did not start, `scripts/setup test` installs it: {text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its own number and those of all processes below it. The ones that leave the family still carry its home with them.
    pub fn family(&self) -> Vec<i32> {
        let parents: BTreeMap<i32, i32> = processes().collect();
        let own = self.child.id().cast_signed();
        let below = |mut pid: i32| {
            while pid != own {
                let Some(parent) = parents.get(&pid) else { return false };
                pid = *parent;
            }
            true
        };
        parents.keys().copied().filter(|pid| below(*pid) || self.carries_home(*pid)).collect()
    }

    fn carries_home(&self, pid: i32) -> bool {
        let wanted = format!("HOME={}", self.home().display());
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let family = self.family();
        for pid in family.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let begun = Instant::now();
        while processes().any(|(pid, _)| family.contains(&pid)) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// All processes that live, with their parents.
fn processes() -> impl Iterator<Item = (i32, i32)> {
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: the state and the parent.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let dead = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        (!dead).then_some((pid, parent))
    })
}

/// How many browsers may live at once: more would only slow each other down.
pub const TURNS: usize = 2;
static FREE: Mutex<usize> = Mutex::new(TURNS);
static FREED: Condvar = Condvar::new();

thread_local! {
    static MINE: RefCell<Weak<Turn>> = const { RefCell::new(Weak::new()) };
}

/// The right to have browsers. A test that has it may start a second one: it would wait for itself otherwise.
pub struct Turn(());

impl Turn {
    pub fn take() -> Rc<Self> {
        if let Some(mine) = MINE.with_borrow(Weak::upgrade) {
            return mine;
        }
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        *FREED.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner) -= 1;
        let turn = Rc::new(Self(()));
        MINE.set(Rc::downgrade(&turn));
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        FREED.notify_one();
    }
}
