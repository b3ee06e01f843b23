//! The journal on machines that die and on disks that fail: whatever a look at the files says can be rebuilt is what it was, and
//! all that is to be kept is there [P4, P5, P10].

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use attendance_backup::journal::chain::Horizon;
use attendance_backup::journal::ltx::Header;
use attendance_backup::journal::{Error, FileName, Index, Journal, Level, Txid, chain, folder, rebuild};
use attendance_backup::sqlite::Control;
use tempfile::TempDir;

use crate::harness::{thoroughness, tree};
use crate::inject::CALLS;
use crate::journal_scene::points;
use crate::tried::Tried;

/// The test that is run as a process of its own, and how it is told its folder.
const CHILD: &str = "journal_crash::tends_the_journal_that_it_is_told";
const FOLDER: &str = "JOURNAL_TO_TEND";

const SIZE: usize = 512;
const STATES: usize = 60;
/// A minute's begin, and the time from one state to the next.
const START: u64 = 1_760_000_040_000;
const STEP: u64 = 173_000;
/// Since when retention keeps.
const KEPT: usize = 25;
/// A state before which nobody looked.
const BASE: usize = 35;

fn millis(state: usize) -> u64 {
    START + STEP * state as u64
}

/// What a database was: it grows, shrinks, and changes here and there.
fn pages(state: usize) -> Vec<Vec<u8>> {
    let count = 40 + state % 17 * 3;
    let changed =
        |page: usize| (0..=state).rev().find(|state| (state * 7 + page).is_multiple_of(11)).unwrap_or_default();
    let page = |page: usize| (0..SIZE).map(|at| (at * (page + 1) + changed(page) * 31) as u8).collect();
    (0..count).map(page).collect()
}

fn try_open(root: &Path) -> Result<Journal, Error> {
    Journal::open(root, &"attendance".parse().unwrap())
}

fn open(root: &Path) -> Journal {
    try_open(root).unwrap()
}

/// Sixty states over three hours, with snapshots from files, compacted in part, and with a hole in level 0.
fn recorded() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let mut before: Vec<Vec<u8>> = Vec::new();
    for state in 0..STATES {
        let now = pages(state);
        let txid = journal.index().next();
        let is_base = [0, BASE].contains(&state);
        let name = if is_base { FileName::snapshot(txid) } else { FileName::captured(txid) };
        let header = Header {
            page_size: SIZE as u32,
            pages: now.len() as u32,
            min: name.min,
            max: name.max,
            millis: millis(state),
        };
        let mut writer = journal.begin(name, header).unwrap();
        for (number, page) in (1..).zip(&now) {
            if is_base || before.get(number as usize - 1) != Some(page) {
                writer.page(number, page).unwrap();
            }
        }
        writer.publish(&journal).unwrap();
        before = now;
        if [10, 20, 45].contains(&state) {
            assert!(journal.snapshot_from_files(&Control::default()).unwrap());
            journal.compact(millis(state), &Control::default()).unwrap();
        }
    }
    dir
}

/// All that is ever done with a journal but to append.
fn tend(journal: &Journal) -> Result<(), Error> {
    let control = Control::default();
    journal.compact(millis(STATES), &control)?;
    journal.snapshot_from_files(&control)?;
    journal.retain(Horizon::since(millis(KEPT)), &control)?;
    Ok(())
}

/// By itself nothing. As `serve` does it, what has failed is tried again.
#[test]
fn tends_the_journal_that_it_is_told() {
    let Some(root) = std::env::var_os(FOLDER) else { return };
    let root = Path::new(&root);
    let journal = try_open(root).unwrap_or_else(|_| open(root));
    if let Err(first) = tend(&journal) {
        tend(&journal).unwrap_or_else(|error| panic!("again: {error}; at first: {first}"));
    }
}

/// A journal, and the calls that tending it makes.
pub struct Scene {
    pub recorded: TempDir,
    /// How many of each kind one thread makes.
    pub calls: BTreeMap<String, usize>,
}

impl Scene {
    pub fn new() -> Self {
        let recorded = recorded();
        let mut scene = Self { recorded, calls: BTreeMap::new() };
        let twin = scene.twin();
        let kinds: Vec<_> = CALLS.iter().chain(&["utimensat"]).map(|call| format!("?{call}")).collect();
        let log = twin.path().join("calls");
        let output = tended(twin.path(), &log, &["-e", &format!("trace={}", kinds.join(","))]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for line in std::fs::read_to_string(&log).unwrap().lines() {
            let Some((thread, call)) = line.split_once('(').and_then(|(start, _)| start.split_once(' ')) else {
                continue;
            };
            *counts.entry((thread.to_owned(), call.trim().to_owned())).or_default() += 1;
        }
        for ((_, call), count) in counts {
            let most = scene.calls.entry(call).or_default();
            *most = count.max(*most);
        }
        assert_whole(twin.path(), 0, "without a fault");
        scene
    }

    /// The same once more, times included.
    fn twin(&self) -> TempDir {
        let twin = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(self.recorded.path().join(".")).arg(twin.path()).status();
        assert!(copied.unwrap().success());
        twin
    }
}

/// Tends the journal in a process of its own, under strace.
fn tended(root: &Path, log: &Path, options: &[&str]) -> Output {
    tending(root, log, options).output().expect("strace is needed")
}

pub fn tending(root: &Path, log: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-o"]).arg(log).args(options).arg(std::env::current_exe().unwrap());
    command.args(["--exact", CHILD, "--nocapture"]).env(FOLDER, root).stdin(Stdio::null());
    command
}

/// What must hold of the journal, however it was left; looks at some of the states, others each time.
pub fn assert_whole(root: &Path, turn: usize, what: &str) {
    let folder = folder::folder(root, &"attendance".parse().unwrap());
    let index = Index::scan(&folder).unwrap();
    let points: Vec<_> = points(&index).iter().map(|(txid, millis)| (txid.get() as usize - 1, *millis)).collect();
    assert!(points.iter().all(|(state, at)| *at == millis(*state)), "{what}: {points:?}");
    for state in KEPT..STATES {
        assert!(points.contains(&(state, millis(state))), "{what}: state {state} is gone");
    }
    let oldest = points[0].0;
    assert_eq!(index.oldest().map(|point| point.txid), Txid::new(oldest as u64 + 1), "{what}");
    for state in 0..STATES {
        if ![oldest, KEPT, BASE - 1, BASE, STATES - 1].contains(&state) && !(state + turn).is_multiple_of(6) {
            continue;
        }
        // An instant leads to what was then, or to nothing.
        let Some(chain) = chain::plan(&index, millis(state)) else {
            assert!(!points.contains(&(state, millis(state))), "{what}: nothing leads to state {state}");
            continue;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        rebuild::rebuild(&folder, &chain, (file.as_file(), file.path()), &Control::default())
            .unwrap_or_else(|error| panic!("{what}: state {state}: {error}"));
        assert!(std::fs::read(file.path()).unwrap() == pages(state).concat(), "{what}: state {state} is another");
    }
}

/// After the next start all is done, and nothing lies about.
pub fn assert_ends_well(root: &Path, turn: usize, what: &str) {
    let journal = open(root);
    let is_partial = |name: &str| name.ends_with(".partial");
    assert!(!tree(root).iter().any(|(name, ..)| is_partial(name)), "{what}: a partial stays");
    tend(&journal).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_whole(root, turn, what);
    let index = Index::scan(journal.folder()).unwrap();
    assert_eq!(index, *journal.index(), "{what}");
    let done =
        |level: Level| index.level(level).iter().map(|file| file.name.max.get() as usize - 1).collect::<Vec<_>>();
    assert_eq!(done(Level::SNAPSHOT), [20, BASE, 45, STATES - 1], "{what}");
    assert_eq!(index.oldest().map(|point| point.txid.get()), Some(21), "{what}: older ones stay");
}

/// Every kind of call, a few of each; all when there is time. Odd strides, since a file and its folder are synced in turn.
fn strike_everywhere(effect: &str, mut strike: impl FnMut(&Scene, &str, usize) -> usize) {
    let scene = Scene::new();
    let mut struck = 0;
    for (offset, (call, count)) in scene.calls.iter().enumerate() {
        let stride = if thoroughness() >= 2 { 1 } else { (count / 3).min(8) | 1 };
        for n in (1 + offset % stride..*count).step_by(stride).chain([*count]) {
            struck += strike(&scene, call, n);
        }
    }
    println!("{effect} while a journal is tended, at {:?}: {struck} tried", scene.calls);
    assert!(scene.calls.len() >= 5 && struck > 20, "{struck} at {:?}", scene.calls);
}

#[test]
fn killed_while_it_is_tended() {
    strike_everywhere("kill -9", |scene, call, n| {
        let twin = scene.twin();
        let what = format!("killed at {call} {n}");
        let inject = format!("inject={call}:signal=KILL:when={n}");
        let output = tended(twin.path(), Path::new("/dev/null"), &["-e", &format!("trace={call}"), "-e", &inject]);
        assert_eq!(output.status.signal(), Some(9), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        assert_whole(twin.path(), n, &what);
        assert_ends_well(twin.path(), n, &what);
        Tried::of(1, 0, 0).report("merge, snapshot, retain", "kill -9");
        1
    });
}

#[test]
fn calls_fail_while_it_is_tended() {
    strike_everywhere("an error", |scene, call, n| {
        let errors = [("ENOSPC", ""), ("EIO", ""), ("ENOSPC", "+"), ("EIO", "+")];
        let tried = if thoroughness() >= 2 { &errors[..] } else { &errors[n / 2 % 4..][..1] };
        tried.iter().filter(|(error, ever)| fails(scene, call, n, error, ever)).count()
    });
}

/// What fails once is done by the next try of the same process, what fails for ever by the next process. Says whether it was a call
/// of the journal's.
fn fails(scene: &Scene, call: &str, n: usize, error: &str, ever: &str) -> bool {
    let twin = scene.twin();
    let (what, log) = (format!("{error}{ever} at {call} {n}"), twin.path().join("calls"));
    let inject = format!("inject={call}:error={error}:when={n}{ever}");
    let output = tended(twin.path(), &log, &["-e", &format!("trace={call}"), "-e", &inject]);
    let calls = std::fs::read_to_string(&log).unwrap();
    let root = twin.path().to_str().unwrap();
    let struck: Vec<_> = calls.lines().filter(|line| line.contains("(INJECTED)")).collect();
    // The process of a test says something of itself too.
    let is_ours = !struck.is_empty() && struck.iter().all(|line| line.contains(root));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let passes = is_ours && ever.is_empty();
    assert!(!passes || output.status.success(), "{what}: {said}");
    assert!(!passes || is_synced_again(&calls), "{what}: a folder isn't synced again:\n{calls}");
    Tried::of(usize::from(is_ours), usize::from(is_ours && passes), usize::from(is_ours && !passes))
        .report_error("merge, snapshot, retain", &format!("{error}{ever}"));
    assert_whole(twin.path(), n, &what);
    assert_ends_well(twin.path(), n, &what);
    is_ours
}

/// Where a folder couldn't be synced, nothing that counts on it is done before it is.
fn is_synced_again(calls: &str) -> bool {
    let mut after = calls.lines().skip_while(|line| !line.contains("(INJECTED)"));
    let path =
        |line: &str| line.split_once("fsync(").and_then(|(_, rest)| rest.split(['<', '>']).nth(1).map(str::to_owned));
    let failed = after.next().and_then(path).filter(|path| !path.ends_with(".partial"));
    failed.is_none_or(|failed| after.any(|line| path(line).is_some_and(|path| path == failed)))
}
