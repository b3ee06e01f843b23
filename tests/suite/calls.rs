//! Which calls an operation makes, seen once without a fault: where faults can strike it.

use std::collections::BTreeMap;

use crate::harness::Place;
use crate::inject::{CALLS, Spot};

/// Calls by which it reads, on the files of the place alone: the loader's come before those of the program.
const READING: [&str; 4] = ["read", "pread64", "openat", "statx"];

/// Calls by which it speaks with others.
const NETWORK: [&str; 5] = ["connect", "sendto", "sendmsg", "writev", "recvfrom"];

/// The `n`-th call at a spot.
#[derive(Clone, Debug)]
pub struct Point {
    pub spot: Spot,
    pub n: usize,
}

/// All points of an operation.
pub struct Calls {
    /// By which it changes the disk, wherever that is.
    pub changing: Vec<Point>,
    /// By which it reads the files of the place, file by file.
    pub reading: Vec<Point>,
    /// By which SQLite reads pages, wherever they are.
    pub anywhere: Vec<Point>,
    /// By which it speaks with others.
    pub network: Vec<Point>,
}

impl Calls {
    pub fn of(place: &Place, args: &[&str]) -> Self {
        let log = place.path("calls");
        let kinds: Vec<_> = CALLS.iter().chain(&READING).chain(&NETWORK).map(|call| format!("?{call}")).collect();
        let mut command = place.command_of("strace");
        command.args(["-f", "-y", "-e", &format!("trace={}", kinds.join(",")), "-o"]).arg(&log);
        let output = command.arg(crate::harness::PROGRAM).args(args).output().expect("strace is needed");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(&log).unwrap();
        let root = place.path("").display().to_string();
        let lines = || text.lines().filter_map(|line| parted(line, &root));
        let changing = most(lines().filter_map(|line| Some((line.0, known(&CALLS, line.1)?, None))));
        let reading = most(lines().filter_map(|line| {
            let path = line.2.filter(|path| is_lasting(place, path))?;
            Some((line.0, known(&READING, line.1)?, Some(path)))
        }));
        // The loader makes some before the program does.
        let is_paged = lines().any(|line| line.1 == "pread64" && line.2.is_some());
        let paged = lines().filter(|line| is_paged && line.1 == "pread64");
        let anywhere = most(paged.map(|line| (line.0, "pread64", None)));
        let network = most(lines().filter_map(|line| Some((line.0, known(&NETWORK, line.1)?, None))));
        Self { changing, reading, anywhere, network }
    }
}

/// Thread, call, and the first path below `root` in a line of strace.
fn parted<'l>(line: &'l str, root: &str) -> Option<(&'l str, &'l str, Option<&'l str>)> {
    let (thread, rest) = line.split_once(' ')?;
    let (call, rest) = rest.trim_start().split_once('(')?;
    let path = rest.split_once(root).map(|(_, rest)| rest.split(['>', '"', ',']).next().unwrap_or_default());
    (!call.starts_with(['<', '-', '+'])).then_some((thread, call, path))
}

fn known(calls: &'static [&'static str], call: &str) -> Option<&'static str> {
    calls.iter().find(|known| **known == call).copied()
}

/// Files that have the same name the next time, below the backup directory or beside it.
fn is_lasting(place: &Place, path: &str) -> bool {
    let is_ours = path.starts_with("backups/") || path.contains(".db");
    is_ours && (place.path(path).is_file() || path.ends_with(".json"))
}

/// strace counts in each thread by itself.
fn most<'l>(calls: impl Iterator<Item = (&'l str, &'static str, Option<&'l str>)>) -> Vec<Point> {
    let mut counts: BTreeMap<(&'static str, Option<&str>), BTreeMap<&str, usize>> = BTreeMap::new();
    for (thread, call, path) in calls {
        *counts.entry((call, path)).or_default().entry(thread).or_default() += 1;
    }
    let points = counts.into_iter().flat_map(|((call, path), threads)| {
        let path = path.map(|path| path.strip_prefix("backups/").map_or_else(|| format!("../{path}"), str::to_owned));
        let spot = Spot { call, path };
        (1..=threads.values().copied().max().unwrap_or_default()).map(move |n| Point { spot: spot.clone(), n })
    });
    points.collect()
}
