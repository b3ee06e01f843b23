//! Every operation with every fault that a disk, a limit or a signal can put to one call of it, in a table: it is done, or it is not
//! and says so, and whoever comes next finds all in order [P1, P4, P5, P6, P8, P10].

use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use crate::calls::{Calls, Point};
use crate::harness::{Place, Run, SECRET, thoroughness};
use crate::inject::{goes_on, until_stopped};
use crate::invariants::Live;
use crate::scene::{Context, Scene};
use crate::tried::Tried;

/// What happens at a call, and at which.
struct Fault {
    name: &'static str,
    /// In strace's words, but for when.
    effect: &'static str,
    /// After the number of the call: from then on at each.
    ever: &'static str,
    calls: Which,
}

enum Which {
    /// By which it changes the disk: these of them, or all.
    Changing(&'static [&'static str]),
    Reading(&'static [&'static str]),
    /// By which SQLite reads, in files that have another name each time as well.
    Anywhere,
    /// By which it speaks with others, where it does.
    Speaking(&'static [&'static str]),
}

const ALL: &[&str] = &[];
/// What makes or removes a name.
const NAMING: &[&str] =
    &["mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "ftruncate"];
const BYTES: &[&str] = &["read", "pread64"];
const REACHING: &[&str] = &["connect"];
const HEARING: &[&str] = &["recvfrom"];
const SENDING: &[&str] = &["sendto", "sendmsg", "writev"];
const OPENED: &[&str] = &["read", "pread64", "openat"];
const WRITING: &[&str] = &["write", "pwrite64", "fsync", "fdatasync"];

const FAULTS: [Fault; 24] = [
    Fault { name: "ENOSPC, once", effect: "error=ENOSPC", ever: "", calls: Which::Changing(ALL) },
    Fault { name: "ENOSPC, for ever", effect: "error=ENOSPC", ever: "+", calls: Which::Changing(ALL) },
    Fault { name: "EDQUOT, for ever", effect: "error=EDQUOT", ever: "+", calls: Which::Changing(ALL) },
    Fault { name: "EIO, once", effect: "error=EIO", ever: "", calls: Which::Changing(ALL) },
    Fault { name: "EIO, for ever", effect: "error=EIO", ever: "+", calls: Which::Changing(ALL) },
    Fault { name: "EIO on reading, once", effect: "error=EIO", ever: "", calls: Which::Reading(BYTES) },
    Fault { name: "EIO on reading, for ever", effect: "error=EIO", ever: "+", calls: Which::Reading(BYTES) },
    Fault { name: "EIO on a look", effect: "error=EIO", ever: "", calls: Which::Reading(&["statx"]) },
    Fault { name: "EMFILE, once", effect: "error=EMFILE", ever: "", calls: Which::Reading(&["openat"]) },
    Fault { name: "EMFILE, for ever", effect: "error=EMFILE", ever: "+", calls: Which::Reading(&["openat"]) },
    Fault { name: "EROFS, for ever", effect: "error=EROFS", ever: "+", calls: Which::Changing(NAMING) },
    Fault { name: "SIGTERM", effect: "signal=TERM", ever: "", calls: Which::Changing(ALL) },
    Fault { name: "kill -9", effect: "signal=KILL", ever: "", calls: Which::Changing(ALL) },
    Fault { name: "EINTR, once", effect: "error=EINTR", ever: "", calls: Which::Changing(ALL) },
    Fault { name: "EINTR on reading, once", effect: "error=EINTR", ever: "", calls: Which::Reading(OPENED) },
    Fault { name: "EAGAIN, once", effect: "error=EAGAIN", ever: "", calls: Which::Changing(WRITING) },
    Fault { name: "EAGAIN on reading, once", effect: "error=EAGAIN", ever: "", calls: Which::Reading(BYTES) },
    Fault { name: "EIO on reading anywhere", effect: "error=EIO", ever: "", calls: Which::Anywhere },
    Fault { name: "ENETUNREACH, once", effect: "error=ENETUNREACH", ever: "", calls: Which::Speaking(REACHING) },
    Fault { name: "ENETUNREACH, for ever", effect: "error=ENETUNREACH", ever: "+", calls: Which::Speaking(REACHING) },
    Fault { name: "ECONNRESET, once", effect: "error=ECONNRESET", ever: "", calls: Which::Speaking(HEARING) },
    Fault { name: "ECONNRESET, for ever", effect: "error=ECONNRESET", ever: "+", calls: Which::Speaking(HEARING) },
    Fault { name: "EPIPE, once", effect: "error=EPIPE", ever: "", calls: Which::Speaking(SENDING) },
    Fault { name: "SIGSTOP", effect: "signal=STOP", ever: "", calls: Which::Changing(ALL) },
];

impl Fault {
    fn points(&self, calls: &Calls) -> Vec<Point> {
        let (points, meant) = match self.calls {
            Which::Changing(meant) => (&calls.changing, meant),
            Which::Reading(meant) => (&calls.reading, meant),
            Which::Anywhere => (&calls.anywhere, ALL),
            Which::Speaking(meant) => (&calls.network, meant),
        };
        points.iter().filter(|point| meant.is_empty() || meant.contains(&point.spot.call)).cloned().collect()
    }
}

/// What a fault did.
pub struct Struck {
    pub run: Run,
    pub what: String,
    /// Only one call was struck.
    pub once: bool,
}

impl Struck {
    /// What holds of a scene. Where only one call was struck nothing keeps the audit log from being whole. An outcome may say that it
    /// failed of what is there all the same: a catalog that was renamed, and whose folder could not be synced.
    pub fn settled(&self, scene: &Scene, place: &Place) -> bool {
        let done = scene.settles(place);
        if self.once {
            scene.outcome(place);
        }
        done
    }
}

/// Looks at a place in which a fault has struck.
pub type Settles<'a> = Box<dyn Fn(&Place, &Struck) -> bool + 'a>;

/// One operation that is tried in a new place each time.
pub struct Operation<'a> {
    pub name: &'static str,
    pub fresh: Box<dyn Fn() -> Rc<Place> + 'a>,
    /// `{}` is the folder of the place.
    pub args: Vec<&'static str>,
    /// What holds as the fault has left it and once whoever comes next has been by. Says whether it was done.
    pub settles: Settles<'a>,
}

/// What an operation makes of the live databases, and what was there before.
pub struct Change<'a> {
    old: Live,
    new: Live,
    ids: Vec<String>,
    args: Vec<&'a str>,
}

impl<'a> Change<'a> {
    pub fn of(place: &Place, args: &[&'a str]) -> Self {
        let (old, ids) = (Live::of(place), place.ids());
        let restored = place.twin();
        restored.ok(args);
        Self { old, new: Live::of(&restored), ids, args: args.to_vec() }
    }

    /// Whoever comes next finds the one or leaves the other, in all of them. Says whether it is the new one.
    pub fn settles(&self, place: &Place) -> bool {
        let next = place.run(&["create"]);
        if next.code == 1 && next.stderr.contains("restore once more with --offline --app-is-stopped") {
            place.ok(&self.args);
            place.ok(&["create"]);
        } else {
            assert_eq!(next.code, 0, "{}", next.stderr);
        }
        let done = place.assert_invariants(&[&self.old, &self.new]) == 1;
        crate::restore_scene::assert_settled_files(place);
        // However often it was tried until it was settled.
        let now = place.ids();
        assert!(self.ids.iter().all(|id| now.contains(id)), "{now:?}");
        done
    }
}

impl<'a> Operation<'a> {
    /// One that changes what a scene says.
    pub fn changing(name: &'static str, scene: &'a Scene) -> Self {
        let settles = |place: &Place, struck: &Struck| {
            let done = struck.settled(scene, place);
            assert!(done || struck.run.code != 0, "it says that it is done");
            done
        };
        Self::of(name, &scene.place, &scene.args, settles)
    }

    /// One that only reads backups.
    pub fn reading(name: &'static str, scene: &'a Scene) -> Self {
        Self::of(name, &scene.place, &scene.args, |place, struck| {
            scene.settles(place);
            struck.run.code == 0
        })
    }

    pub fn of(
        name: &'static str,
        place: &'a Place,
        args: &[&'static str],
        settles: impl Fn(&Place, &Struck) -> bool + 'a,
    ) -> Self {
        Self { name, fresh: Box::new(|| Rc::new(place.twin())), args: args.to_vec(), settles: Box::new(settles) }
    }

    /// One that brings other content into the live databases: what was there before stays, or all of it comes.
    pub fn restoring(name: &'static str, place: &'a Place, args: &[&'static str]) -> Self {
        let change = Change::of(place, args);
        Self::of(name, place, args, move |place, struck| {
            let done = change.settles(place);
            assert!(done || struck.run.code != 0, "it says that it is done");
            done
        })
    }

    fn args_in(&self, place: &Place) -> Vec<String> {
        let root = place.path("").display().to_string();
        self.args.iter().map(|arg| arg.replace("{}", &root)).collect()
    }

    /// Each fault at each of its points when there is time; else a few faults of the table at one point each, other ones for each
    /// `turn`.
    pub fn suffers(&self, turn: usize) {
        if !is_wanted(self.name) {
            println!("  {:<10} is none of OPERATIONS", self.name);
            return;
        }
        let place = (self.fresh)();
        let args = self.args_in(&place);
        let calls = Calls::of(&place, &args.iter().map(String::as_str).collect::<Vec<_>>());
        for (number, fault) in FAULTS.iter().enumerate() {
            let points = fault.points(&calls);
            let is_due = thoroughness() >= 2 || (number + turn).is_multiple_of(3);
            if !is_due || points.is_empty() {
                continue;
            }
            let tried = self.strike(fault, &points, (turn * 5 + number * 11) % points.len());
            println!("  {:<10} {:<26} {tried:?} of {}", self.name, fault.name, points.len());
            assert!(tried.points > 0, "{} never met {}", self.name, fault.name);
            tried.report(self.name, fault.name);
        }
    }

    /// One point, or every seventh, or all; where one isn't met this time, the next.
    fn strike(&self, fault: &Fault, points: &[Point], first: usize) -> Tried {
        let (step, wanted) = match thoroughness() {
            1 => (1, 1),
            2..10 => (7, usize::MAX),
            _ => (1, usize::MAX),
        };
        let (mut tried, mut after) = (Tried::default(), 0);
        for (number, point) in points.iter().cycle().skip(first).take(points.len()).enumerate() {
            if tried.points == wanted {
                break;
            }
            if number < after {
                continue;
            }
            let place = (self.fresh)();
            let args = self.args_in(&place);
            let effect = format!("{}:when={}{}", fault.effect, point.n, fault.ever);
            let Some((run, what)) = struck(&place, point, &effect, &args) else { continue };
            after = number + step;
            let struck = Struck { run, what, once: fault.ever.is_empty() };
            let context = Context(format!("{}, {}: {}", self.name, struck.what, struck.run.stderr));
            let done = (self.settles)(&place, &struck);
            tried.count(done, struck.run.code == 1);
            drop(context);
        }
        tried
    }
}

/// What the table is tried on.
const OPERATIONS: [&str; 20] = [
    "create",
    "recovery",
    "delete",
    "pin",
    "settings",
    "rebuild",
    "verify",
    "preview",
    "drill",
    "download",
    "undo",
    "offline restore",
    "restore --at",
    "pull",
    "push",
    "push of changes",
    "push to S3",
    "pull from S3",
    "push to WebDAV",
    "pull from WebDAV",
];

/// Whether it is one of those that the environment names, if it names any.
fn is_wanted(name: &str) -> bool {
    assert!(OPERATIONS.contains(&name), "{name} has no name in OPERATIONS");
    let Ok(wanted) = std::env::var("OPERATIONS") else { return true };
    let unknown = wanted.split(',').find(|name| !OPERATIONS.contains(name));
    assert_eq!(unknown, None, "OPERATIONS names what the table isn't tried on");
    wanted.split(',').any(|wanted| wanted == name)
}

/// Runs it with the fault; nothing if that was never met, or by the loader alone.
fn struck(place: &Place, point: &Point, effect: &str, args: &[String]) -> Option<(Run, String)> {
    let log = place.path("strace");
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut command = place.faulty_into(&log, &point.spot, effect, &args);
    let stops = effect.contains("STOP");
    let run = if stops { stopped(place, &mut command, &log)? } else { Run::of(command.output().unwrap()) };
    let calls = std::fs::read_to_string(&log).unwrap();
    let signs = ["(INJECTED)", "--- SIGTERM", "--- stopped by SIGSTOP", "+++ killed by SIGKILL"];
    let is_met = signs.into_iter().any(|sign| calls.contains(sign));
    // What threads wake each other by is on no disk.
    let is_elsewhere = injected(&calls).any(|call| call.contains("[eventfd]"));
    if !is_met || is_elsewhere || run.code == 127 {
        return None;
    }
    let what = format!("{effect} at {}", point.spot);
    assert!([-1, 0, 1].contains(&run.code), "{what}: {} {}", run.code, run.stderr);
    assert!(run.code == 0 || !stops, "{what}: it did not go on: {}", run.stderr);
    assert!(run.code != -1 || effect.starts_with("signal"), "{what}: it died: {}", run.stderr);
    // Its own words are written too.
    let is_heard = point.spot.call == "write" || !(run.stderr.is_empty() && run.stdout.is_empty());
    assert!(run.code != 1 || is_heard, "{what}: it says nothing");
    for said in [&run.stdout, &run.stderr] {
        assert!(!said.contains("panicked") && !said.contains(SECRET), "{what}: {said}");
    }
    // The fault changed no byte. (A catalog that is made anew was cut before.)
    let said = run.stderr.replace("metadata.json.corrupt", "");
    let blames = ["corrupt", "damaged", "malformed"].into_iter().any(|word| said.contains(word));
    let knows_better = said.contains("dmesg") || said.contains("the disk can't read it");
    assert!(!blames || effect.starts_with("signal") || knows_better, "{what} is told as damage: {said}");
    Some((run, what))
}

/// Lets it go on again when it has stopped; meanwhile others can look at what is there. Nothing if it never stopped.
fn stopped(place: &Place, command: &mut Command, log: &Path) -> Option<Run> {
    let (child, pid) = until_stopped(command, log)?;
    for looks in [&["list"][..], &["status"]] {
        let run = place.run(looks);
        assert!([0, 1].contains(&run.code), "{looks:?} while it is stopped: {}", run.stderr);
    }
    Some(goes_on(child, &pid))
}

/// The calls that a fault struck, as strace wrote them: where another thread came between, their begin is a line of its own.
fn injected(calls: &str) -> impl Iterator<Item = &str> {
    let lines = calls.lines().enumerate();
    lines.filter(|(_, line)| line.contains("(INJECTED)")).map(|(at, line)| {
        let thread = line.split_whitespace().next();
        let begins = |before: &&str| before.split_whitespace().next() == thread && before.contains("<unfinished ...>");
        let begin = calls.lines().take(at).filter(begins).last();
        begin.filter(|_| line.contains("resumed>")).unwrap_or(line)
    })
}
