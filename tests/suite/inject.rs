//! Faults in the program's system calls: strace gives the N-th call of a kind an error, a delay, or a signal.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{PROGRAM, Place, Run, eventually};

/// Every kind of call by which the program changes what lies on disk. Kinds that this machine doesn't know, or that
/// the program doesn't make, are through at once.
pub const CALLS: [&str; 16] = [
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "ftruncate",
    "fallocate",
    "mkdir",
    "mkdirat",
    "copy_file_range",
];

/// Where a fault strikes. strace counts calls in each thread by itself: those of the threads that write the copies hide
/// behind the earlier ones of the main thread, unless only calls on the copy's path count.
#[derive(Clone, Debug)]
pub struct Spot {
    pub call: &'static str,
    /// Below the backup directory, or after `../` beside it, where the live databases are.
    pub path: Option<String>,
}

impl Spot {
    pub fn anywhere(call: &'static str) -> Self {
        Self { call, path: None }
    }

    pub fn on(call: &'static str, path: &str) -> Self {
        Self { call, path: Some(path.to_owned()) }
    }
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            None => write!(f, "{}", self.call),
            Some(path) => write!(f, "{} on {path}", self.call),
        }
    }
}

/// All kinds of calls, and the writes into these files by themselves.
pub fn spots(files: &[String]) -> Vec<Spot> {
    let anywhere = CALLS.into_iter().map(|call| Spot { call, path: None });
    let in_files = files.iter().map(|path| Spot { call: "write", path: Some(path.clone()) });
    anywhere.chain(in_files).collect()
}

impl Place {
    /// The program with `effect` (strace's words, such as `error=EIO:when=3`) at `spot`; what was called goes to `log`.
    pub fn faulty_into(&self, log: &Path, spot: &Spot, effect: &str, args: &[&str]) -> Command {
        let mut command = self.command_of("strace");
        command.args(["-f", "-y", "-o"]).arg(log);
        command.args(["-e", &format!("trace=?{}", spot.call), "-e", &format!("inject=?{}:{effect}", spot.call)]);
        if let Some(path) = &spot.path {
            // strace compares names as they are written.
            let beside = path.strip_prefix("../").map(|name| self.path(name));
            command.arg("-P").arg(beside.unwrap_or_else(|| self.backups().join(path)));
        }
        command.arg(PROGRAM).args(args);
        command
    }

    pub fn faulty(&self, spot: &Spot, effect: &str, args: &[&str]) -> Command {
        self.faulty_into(Path::new("/dev/null"), spot, effect, args)
    }

    /// Runs it with kill -9 at the `n`-th call at `spot`. Says whether it came to that: strace ends as the program did.
    pub fn killed(&self, spot: &Spot, n: usize, args: &[&str]) -> bool {
        let output = self.faulty(spot, &format!("signal=KILL:when={n}"), args).output().expect("strace is needed");
        let killed = output.status.signal() == Some(9);
        if !killed {
            let run = Run::of(output);
            assert_eq!(run.code, 0, "not killed, but not well either: {}{}", run.stdout, run.stderr);
        }
        killed
    }

    /// Runs it until it stops itself at the `n`-th call at `spot`: strace, and its own pid. Nothing when it is through before.
    pub fn stopped(&self, spot: &Spot, n: usize, args: &[&str]) -> Option<(Child, String)> {
        let mut command = self.faulty(spot, &format!("signal=STOP:when={n}"), args);
        until_stopped(&mut command)
    }
}

/// Runs strace until what it runs has stopped: strace, and the pid of the other. Nothing when that ended before.
pub fn until_stopped(strace: &mut Command) -> Option<(Child, String)> {
    let mut child = strace.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("strace is needed");
    eventually("the stop", || {
        if child.try_wait().unwrap().is_some() {
            return Some(None);
        }
        let pid = traced(child.id())?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let is_stopped = stat.rsplit_once(") ")?.1.starts_with(['T', 't']);
        (is_stopped && is_still(&pid)).then_some(Some(pid))
    })
    .map(|pid| (child, pid))
}

/// The pid of what strace runs.
pub fn traced(strace: u32) -> Option<String> {
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).ok()?;
    children.split_whitespace().next().map(str::to_owned)
}

/// A process that strace merely looks at goes on at once.
fn is_still(pid: &str) -> bool {
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>())
    };
    let before = switches();
    std::thread::sleep(Duration::from_millis(300));
    before.is_some() && switches() == before
}

pub fn signal(pid: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
}
