//! Faults in the program's system calls: strace gives the N-th call of a kind an error, a delay, or a signal.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::client::Server;
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

/// A megabyte of pages a second is read of each database.
pub const SLOW_READS: &str = "pread64:delay_enter=1000000:when=256+256";
/// As many are written into them.
pub const SLOW_COMMITS: &str = "pwrite64:delay_enter=1000000:when=256+256";
/// Two megabytes of copies a second. What others write comes to so many calls in no thread at first.
pub const SLOW_COPIES: &str = "write:delay_enter=500000:when=12+1";

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
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = self.faulty_into(log.path(), spot, &format!("signal=STOP:when={n}"), args);
        until_stopped(&mut command, log.path())
    }

    /// A create that stands still in the midst of its copies.
    pub fn halted_create(&self) -> Halted {
        let (strace, pid) = self.stopped(&Spot::anywhere("write"), 8, &["create"]).expect("so large a database");
        Halted::of(strace, pid)
    }

    /// A `serve` with such delays until it goes at full speed: what it does is still under way when somebody who had no time for a while
    /// comes to it. It is no child of strace.
    pub fn slowed(&self, delays: &str) -> Server {
        let mut command = self.slow_command(delays, None, &Command::new(PROGRAM));
        Server::of(command.env("BACKUP_ENABLED", "false"), self.path("serve.log"))
    }

    /// The same, where only calls on that file are slow, with the variables of another command: what they put on is not put on strace.
    pub fn slow_command(&self, delays: &str, file: Option<&Path>, with: &Command) -> Command {
        let mut command = self.command_of("strace");
        let trace = format!("trace={}", delays.split(':').next().unwrap());
        let inject = format!("inject={delays}");
        command.args(["-D", "-I2", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
        if let Some(file) = file {
            command.arg("-P").arg(file);
        }
        for (name, value) in with.get_envs() {
            let value = value.map(|value| format!("={}", value.to_str().unwrap())).unwrap_or_default();
            command.args(["-E", &format!("{}{value}", name.to_str().unwrap())]);
        }
        command.args([PROGRAM, "serve"]);
        command
    }
}

/// From here on it goes at full speed.
pub fn at_full_speed(server: &Server) {
    let status = || std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let tracer = || status().lines().find_map(|line| Some(line.strip_prefix("TracerPid:")?.trim().to_owned())).unwrap();
    signal(&tracer(), "-TERM");
    eventually("strace has gone", || (tracer() == "0").then_some(()));
}

/// What strace runs has stopped, or is slow; it ends with the test.
pub struct Halted {
    strace: Option<Child>,
    pub pid: String,
}

impl Halted {
    pub fn of(strace: Child, pid: String) -> Self {
        Self { strace: Some(strace), pid }
    }

    /// How it ended, when it may go on; strace ends as the program does.
    pub fn goes_on(mut self) -> Run {
        goes_on(self.strace.take().unwrap(), &self.pid)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        if let Some(mut strace) = self.strace.take() {
            let _ = Command::new("kill").args(["-KILL", &self.pid]).status();
            let _ = strace.wait();
        }
    }
}

/// Runs strace until what it runs has stopped: strace, and the pid of the other. Nothing when that ended before. strace stops each
/// thread for a moment at every call; those that stay so are told in its log.
pub fn until_stopped(strace: &mut Command, log: &Path) -> Option<(Child, String)> {
    let mut child = strace.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("strace is needed");
    eventually("the stop", || {
        if child.try_wait().unwrap().is_some() {
            return Some(None);
        }
        let pid = traced(child.id())?;
        let log = std::fs::read_to_string(log).ok()?;
        let told = log.lines().filter(|line| line.ends_with("--- stopped by SIGSTOP ---"));
        let stopped: BTreeSet<_> = told.filter_map(|line| line.split(' ').next()).collect();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let threads = threads.collect::<Result<Vec<_>, _>>().ok()?;
        let all = threads.iter().all(|thread| stopped.contains(thread.file_name().to_str().unwrap()));
        (!threads.is_empty() && all).then_some(Some(pid))
    })
    .map(|pid| (child, pid))
}

/// The pid of what strace runs.
pub fn traced(strace: u32) -> Option<String> {
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).ok()?;
    children.split_whitespace().next().map(str::to_owned)
}

/// Lets what strace runs go on, until it ends. Each of its threads may stop at its own N-th call.
pub fn goes_on(mut strace: Child, pid: &str) -> Run {
    eventually("the end of what had stopped", || {
        let _ = Command::new("kill").args(["-CONT", pid]).stderr(Stdio::null()).status();
        strace.try_wait().unwrap()
    });
    Run::of(strace.wait_with_output().unwrap())
}

pub fn signal(pid: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
}
