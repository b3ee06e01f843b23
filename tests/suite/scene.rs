//! An operation that is ended by kill -9 again and again, each time in a twin of the same place, and what must hold
//! there: as the kill left it, and after whoever comes next.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Place, sha256, traces};
use crate::inject::{Spot, spots};
use crate::invariants::Live;
use crate::seasons;
use crate::tried::Tried;

/// The operation, where it happens, and how one sees what came of it.
pub struct Scene {
    pub place: Place,
    pub args: Vec<&'static str>,
    /// What it is called in the audit log, and how the ids of its lines begin.
    pub operation: (&'static str, &'static str),
    /// Backups that go with it.
    pub drops: Vec<&'static str>,
    /// Rotated backups that may stand in any catalog.
    pub limit: usize,
    /// Whether it was done, by what lies on disk.
    pub done: fn(&Place) -> bool,
    /// What an operator does next.
    pub next: Vec<Vec<&'static str>>,
    /// The backups before it.
    pub earlier: BTreeMap<String, String>,
    /// What the databases hold all the time.
    pub live: Live,
}

/// How the points of one kind of call came out.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    tried: usize,
    done: usize,
}

impl Tally {
    pub fn count(&mut self, done: bool) {
        self.tried += 1;
        self.done += usize::from(done);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>5} {:>5} {:>5}", self.tried, self.tried - self.done, self.done)
    }
}

/// Where it was ended; said when something fails.
pub struct Context(pub String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0);
        }
    }
}

impl Scene {
    /// Of a place where one backup of each tier is kept, and where a manual backup comes next.
    pub fn of(place: Place, args: &[&'static str], operation: &'static str, done: fn(&Place) -> bool) -> Self {
        let next = vec![vec!["create"]];
        let (earlier, live) = (contents(&place), Live::of(&place));
        Self {
            place,
            args: args.to_vec(),
            operation: (operation, ""),
            drops: Vec::new(),
            limit: 3,
            done,
            next,
            earlier,
            live,
        }
    }

    /// Every kind of call; a create's writes into its copies by themselves.
    fn spots(&self) -> Vec<Spot> {
        if self.operation.0 != "create" {
            return spots(&[]);
        }
        spots(&seasons::partials_of_today(&self.place))
    }

    /// Ends it at the first and every `stride`-th call of each kind from the second on until it gets through.
    pub fn kill_everywhere(&self, stride: usize) {
        let mut tallies = BTreeMap::new();
        for spot in self.spots() {
            let mut tally = Tally::default();
            let mut n = 1;
            while let Some(place) = self.killed(&spot, n) {
                tally.count(self.recovers(&place, &format!("{spot} {n}")));
                n += if n == 1 { 1 } else { stride };
            }
            tallies.insert(spot.to_string(), tally);
        }
        report(&self.args.join(" "), &tallies);
    }

    fn killed(&self, spot: &Spot, n: usize) -> Option<Place> {
        let place = self.place.twin();
        place.killed(spot, n, &self.args).then_some(place)
    }

    /// What holds in the place as the kill left it, and after the next operation. Says whether it went forward.
    pub fn recovers(&self, place: &Place, at: &str) -> bool {
        let context = Context(format!("{:?} was ended at {at}", self.args));
        let done = self.settles(place);
        self.assert_recorded(place, done);
        drop(context);
        done
    }

    /// The same after any fault, but for what the audit log says of it: where a line couldn't be written, backups and recoveries go on
    /// without it.
    pub fn settles(&self, place: &Place) -> bool {
        let done = (self.done)(place);
        self.assert_sound(place);
        assert_readers_change_nothing(place);
        for args in &self.next {
            place.ok(args);
        }
        self.assert_kept(place, done);
        place.assert_invariants(&[&self.live]);
        done
    }

    /// Before anybody has put anything right: not too many backups, and each of them is there.
    fn assert_sound(&self, place: &Place) {
        let Ok(bytes) = std::fs::read(place.backups().join("metadata.json")) else { return };
        let Ok(catalog) = serde_json::from_slice::<Value>(&bytes) else {
            return assert_eq!(self.operation.0, "rebuild", "the catalog is damaged");
        };
        let standing = catalog["backups"].as_array().unwrap().iter().filter(|backup| backup["deleting"] != true);
        let mut rotated = 0;
        for backup in standing {
            rotated += usize::from(["daily", "weekly", "monthly"].contains(&backup["type"].as_str().unwrap()));
            for copy in backup["databases"].as_object().unwrap().values() {
                let bytes = std::fs::read(place.backups().join(copy["file"].as_str().unwrap())).unwrap();
                assert_eq!(sha256(&bytes), copy["storedChecksum"].as_str().unwrap());
            }
        }
        // Where a promotion failed, and is told, the new one comes on top until the next rotation.
        let more = usize::from(catalog["unpromoted"].is_string());
        assert!(rotated <= self.limit + more, "{rotated} rotated backups");
    }

    /// Every earlier backup is there under one id or another; what the operation drops went if, and only if, it was done.
    fn assert_kept(&self, place: &Place, done: bool) {
        let now = contents(place);
        for (content, id) in &self.earlier {
            let dropped = done && self.drops.contains(&id.as_str());
            assert_eq!(now.contains_key(content), !dropped, "{id}");
        }
        assert_eq!((self.done)(place), done || self.is_repeated(), "whether it is done now");
    }

    fn is_repeated(&self) -> bool {
        self.next.contains(&self.args)
    }

    /// The outcome of what was ended is true.
    pub fn assert_recorded(&self, place: &Place, done: bool) {
        let said = self.outcome(place);
        // Ended before its intent, it has done nothing.
        let silent = !done && (said.is_none() || self.is_repeated());
        assert!(said == Some(done) || silent, "said {said:?}, was {done}");
    }

    /// What the audit log says of the operation, if anything. Each intent has its outcome before the next begins, but for a
    /// rotation within.
    pub fn outcome(&self, place: &Place) -> Option<bool> {
        let (mut open, mut said): (Vec<Value>, _) = (Vec::new(), None);
        for line in place.audit() {
            match line["kind"].as_str().unwrap() {
                "intent" => {
                    let within = open.last().is_some_and(|outer| outer["operation"] != "rotate");
                    assert_eq!(within, line["operation"] == "rotate", "an intent has no outcome, before {line}");
                    open.push(line);
                }
                // What a recovery finishes for an operation that has its outcome already stands alone, and what failed before
                // its intent.
                "outcome" if line["operation"] != "recovery" && line["details"]["unbegun"].is_null() => {
                    let intent = open.pop().unwrap_or_else(|| panic!("no intent of {line}"));
                    let of = |line: &Value| ["operation", "id", "point"].map(|name| line[name].clone());
                    assert_eq!(of(&intent), of(&line));
                    if said.is_none() && self.is_ours(&line) {
                        said = line["ok"].as_bool();
                    }
                }
                _ => {}
            }
        }
        assert!(open.is_empty(), "the last intent has no outcome");
        said
    }

    fn is_ours(&self, line: &Value) -> bool {
        let ours = line["operation"] == self.operation.0;
        ours && line["id"].as_str().unwrap_or_default().starts_with(self.operation.1) && is_of_today(line)
    }

    /// A second kill, while the next operation recovers from the first one at `spot` and `n`.
    pub fn kill_recovery(&self, spot: &Spot, n: usize, stride: usize) -> Tally {
        let crashed = self.killed(spot, n).unwrap_or_else(|| panic!("{:?} is through before {spot} {n}", self.args));
        let mut tally = Tally::default();
        for (offset, second) in spots(&[]).into_iter().enumerate() {
            let mut m = 1 + (offset + n) % stride;
            loop {
                let place = crashed.twin();
                if !place.killed(&second, m, &self.next[0]) {
                    break;
                }
                tally.count(self.recovers(&place, &format!("{spot} {n}, then {second} {m}")));
                m += stride;
            }
        }
        tally
    }
}

/// What the place's past is made of was done in 2025.
fn is_of_today(line: &Value) -> bool {
    !line["at"].as_str().unwrap().starts_with("2025")
}

/// Ids by what the backups hold: the same backup has another id after a promotion.
fn contents(place: &Place) -> BTreeMap<String, String> {
    if !place.backups().exists() {
        return BTreeMap::new();
    }
    let backups = place.list().into_iter();
    backups
        .map(|it| (it["databases"]["attendance"]["checksum"].to_string(), it["id"].as_str().unwrap().to_owned()))
        .collect()
}

/// `list` and `status` answer, or say what is wrong, and touch nothing.
pub fn assert_readers_change_nothing(place: &Place) {
    let before = traces(&place.backups());
    for reader in ["list", "status"] {
        let run = place.run(&[reader]);
        assert!([0, 1].contains(&run.code) && !run.stderr.contains("panicked"), "{}", run.stderr);
    }
    assert_eq!(traces(&place.backups()), before);
}

/// How the points came out, as a table.
pub fn report(title: &str, tallies: &BTreeMap<String, Tally>) {
    println!("{title}: ended at, tried, undone, done");
    let mut all = Tally::default();
    for (spot, tally) in tallies.iter().filter(|(_, tally)| tally.tried > 0) {
        println!("  {spot:<55} {tally}");
        all.tried += tally.tried;
        all.done += tally.done;
    }
    println!("  {:<55} {all}", "in all");
    Tried::of(all.tried, all.done, 0).report(title, "kill -9");
    assert!(all.tried > 0, "{title} was never ended");
}
