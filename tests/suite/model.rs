//! A long random sequence of all that can happen, held against a simple model after each step. The seed says it all: `make model` prints
//! it, and `MODEL_SEED=… MODEL_STEPS=…` does the same again.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;

use crate::model_book::{Book, Content, MARKS};
use crate::model_checks::{assert_as_foretold, assert_content, assert_files, assert_readers, ends};
use crate::model_deeds::{Deed, End};
use crate::model_random::{Random, wishes};
use crate::model_replica::There;
use crate::model_world::{Form, KEEP, World, refill, written};

/// One walk through the program's states.
pub struct Walk {
    seed: u64,
    pub world: World,
    pub book: Book,
    pub there: There,
    /// What was done, for whoever has to look why it went wrong.
    done: Vec<String>,
    tally: BTreeMap<String, usize>,
}

impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let steps = self.done.len();
            println!("MODEL_SEED={} MODEL_STEPS={steps}, of which these are the last ones:", self.seed);
            for (at, done) in self.done.iter().enumerate().skip(steps.saturating_sub(200)) {
                println!("{:>5}  {done}", at + 1);
            }
        }
    }
}

/// What may happen, and how often.
const STEPS: [(&str, usize); 22] = [
    ("write", 12),
    ("lose", 3),
    ("find again", 4),
    ("daily of the next day", 16),
    ("daily", 4),
    ("manual", 7),
    ("verify", 6),
    ("restore", 8),
    ("undo", 4),
    ("delete", 5),
    ("pin", 4),
    ("unpin", 4),
    ("acknowledge", 4),
    ("settings", 5),
    ("clock", 4),
    ("spoil", 6),
    ("mend", 4),
    ("live is missing", 2),
    ("replica goes or comes", 3),
    ("push", 7),
    ("crash", 9),
    ("restart", 2),
];

impl Walk {
    fn new(seed: u64, form: Form) -> Self {
        let now = "2026-01-06T03:00:00Z".parse().unwrap();
        let book = Book {
            live: Content::default(),
            kept: Vec::new(),
            last_sequence: 0,
            keep: KEEP,
            zone: Tz::UTC,
            configured: (KEEP, Tz::UTC),
            unusable: false,
            restored: None,
            undo: None,
        };
        let (world, there) = (World::new(form, now), There::new(form));
        Self { seed, world, book, there, done: Vec::new(), tally: BTreeMap::new() }
    }

    /// The n-th step is the same whatever came of those before it.
    fn step(&mut self, n: u64) {
        let mut random = Random::new(self.seed.wrapping_mul(0x0001_0000_0001) ^ n);
        let mut chosen = random.below(STEPS.iter().map(|(_, often)| often).sum());
        let mut name = "";
        for (step, often) in STEPS {
            name = step;
            match chosen.checked_sub(often) {
                Some(rest) => chosen = rest,
                None => break,
            }
        }
        self.done.push(name.to_owned());
        let had_good = self.book.has_good();
        let may_lose = self.take(name, &mut random);
        assert!(!had_good || may_lose || self.book.has_good(), "no good backup is left");
        self.assert_whole(n, &mut random);
    }

    /// Does it. Says whether the last good backup may be gone after it.
    fn take(&mut self, name: &str, random: &mut Random) -> bool {
        match name {
            "write" | "lose" | "find again" => self.write(name, random),
            "clock" => self.set_clock(random),
            "spoil" | "mend" => self.touch(name, random),
            "live is missing" => self.miss_live(),
            "replica goes or comes" => self.there.goes_or_comes(&self.world),
            "push" => {
                let came = self.there.push(&mut self.world, &mut self.book, random);
                return self.note(&format!("push {came}"), true);
            }
            "crash" => return self.crash(random),
            "restart" => self.world.restart(),
            // Mostly there is nothing to be said of: then something is lost first.
            "acknowledge" if self.book.small_newest().is_none() && random.once_in(2) => {
                self.write("find again", random);
                self.perform(&Deed::Create { daily: false, right: true });
                self.write("lose", random);
                self.perform(&Deed::Create { daily: false, right: false });
                let deed = self.deed(name, random);
                return self.perform(&deed);
            }
            name => {
                let deed = self.deed(name, random);
                return self.perform(&deed);
            }
        }
        self.note(name, name == "spoil")
    }

    /// What the step was, once that is known.
    pub fn says(&mut self, what: String) {
        if let Some(last) = self.done.last_mut() {
            *last = what;
        }
    }

    pub fn note(&mut self, what: &str, may_lose: bool) -> bool {
        *self.tally.entry(what.to_owned()).or_default() += 1;
        may_lose
    }

    /// An id: mostly of what is there.
    fn id(&self, random: &mut Random) -> String {
        let (at, stray) = (random.next(), random.once_in(20));
        match self.book.kept.len() {
            0 => "manual-2020-01-01T000000Z".to_owned(),
            _ if stray => "daily-2020-02-29".to_owned(),
            count => self.book.kept[at as usize % count].id.clone(),
        }
    }

    pub fn deed(&mut self, name: &str, random: &mut Random) -> Deed {
        let id = self.id(random);
        match name {
            "daily of the next day" => {
                self.world.set_clock(self.world.now() + Duration::hours(20 + random.below(9) as i64));
                Deed::Create { daily: true, right: random.once_in(8) }
            }
            "daily" | "manual" => Deed::Create { daily: name == "daily", right: random.once_in(8) },
            "verify" => Deed::Verify(id),
            "restore" => Deed::Restore(id),
            "undo" => Deed::Undo,
            "delete" => {
                // Pinned and damaged ones stay until somebody does this.
                let crowded = self.book.kept.iter().filter(|kept| kept.bad || kept.pinned).map(|kept| kept.id.clone());
                let crowded: Vec<_> = crowded.collect();
                let id = if crowded.len() > 8 { random.of(&crowded).clone() } else { id };
                Deed::Delete { id, force: random.once_in(3) }
            }
            "pin" | "unpin" => Deed::Pin { id, on: name == "pin" },
            "acknowledge" => {
                let newest = self.book.small_newest().map(|newest| newest.id.clone());
                Deed::Acknowledge(newest.filter(|_| !random.once_in(4)).unwrap_or(id))
            }
            "settings" => Deed::Settings(wishes(random, true)),
            other => panic!("{other}"),
        }
    }

    /// Does it by the engine; it ends as the model says.
    fn perform(&mut self, deed: &Deed) -> bool {
        let (after, end) = deed.foretold(&self.book, self.world.now());
        self.says(format!("{} {deed:?}: {end:?}", self.world.now()));
        let came = deed.by(&self.world.engine, &World::call());
        let is_well = matches!(end, End::Done | End::Unsaid(true));
        assert_eq!(came.as_ref().is_ok_and(|well| *well), is_well, "{deed:?} is to be {end:?}, and is {came:?}");
        let told = ends(&self.world.newly_told(), deed.operation());
        assert_eq!(
            told,
            if let End::Unsaid(_) = end { Vec::new() } else { vec![end] },
            "what the audit log has of {deed:?}"
        );
        self.book = after;
        let may_lose = matches!(deed, Deed::Delete { force: true, .. } | Deed::Verify(_));
        self.note(&format!("{} {}", deed.operation(), if is_well { "done" } else { "not done" }), may_lose)
    }

    fn write(&mut self, name: &str, random: &mut Random) {
        match name {
            "lose" => {
                self.world.write(0, "DELETE FROM marks");
                self.book.live.marks = 0;
            }
            "find again" => {
                let lacking = MARKS - self.book.live.marks;
                if lacking > 0 {
                    self.world.write(0, &refill(lacking));
                }
                self.book.live.marks = MARKS;
            }
            _ => {
                for _ in 0..1 + random.below(6) {
                    let sql = written(&mut self.book.live, random.below(2), random.next());
                    let database = usize::from(sql.contains("users"));
                    self.world.write(database, &sql);
                }
            }
        }
    }

    fn set_clock(&mut self, random: &mut Random) {
        let now = self.world.now();
        let first: DateTime<Utc> = "1970-01-01T00:00:10Z".parse().unwrap();
        let then = match random.below(9) {
            0 => now + Duration::seconds(1),
            1 => now + Duration::days(1),
            2 => now + Duration::days(40),
            3 => now + Duration::days(400),
            4 => now - Duration::hours(3),
            5 => now - Duration::days(3),
            6 => now - Duration::days(200),
            7 => first,
            _ => "2026-06-29T23:59:58Z".parse().unwrap(),
        };
        // It doesn't go on for ever.
        let last: DateTime<Utc> = "2099-12-31T23:59:59Z".parse().unwrap();
        self.world.set_clock(then.clamp(first, last));
        self.says(format!("the clock says {}", self.world.now()));
    }

    /// Somebody touches a file of a backup.
    fn touch(&mut self, name: &str, random: &mut Random) {
        let (at, how, database) = (random.next() as usize, random.below(3), *random.of(&["attendance", "auth"]));
        let of_them = self.book.kept.iter_mut().filter(|kept| kept.spoiled.is_none() == (name == "spoil"));
        let mut of_them: Vec<_> = of_them.collect();
        let count = of_them.len();
        // Some are left as they are.
        if count == 0 || name == "spoil" && count < 4 {
            return;
        }
        let kept = &mut of_them[at % count];
        match kept.spoiled.take() {
            None => kept.spoiled = Some(self.world.spoil(&kept.id, database, how)),
            Some(spoiled) => self.world.mend(&kept.id, &spoiled),
        }
        let told = format!("{name} {database} of {} ({how})", kept.id);
        self.says(told);
    }

    /// A volume isn't there, and a backup is tried; then it is back.
    fn miss_live(&mut self) {
        let (live, aside) = (self.world.place.live("auth"), self.world.place.path("auth.aside"));
        std::fs::rename(&live, &aside).unwrap();
        let create = Deed::Create { daily: true, right: false };
        let came = create.by(&self.world.engine, &World::call());
        std::fs::rename(&aside, &live).unwrap();
        assert_eq!(came.unwrap_err().code(), "live-missing");
        assert_eq!(ends(&self.world.newly_told(), "create"), [End::Failed]);
        self.book.unusable = true;
    }

    fn assert_whole(&mut self, n: u64, random: &mut Random) {
        assert_as_foretold(&mut self.world, &self.book);
        assert_files(&self.world, &self.book, true);
        assert_readers(&self.world, &self.book);
        assert_eq!(ends(&self.world.newly_told(), ""), [], "somebody did something");
        let whole: Vec<_> = self.book.kept.iter().filter(|kept| kept.spoiled.is_none()).cloned().collect();
        if !whole.is_empty() {
            assert_content(&mut self.world, random.of(&whole));
        }
        if n.is_multiple_of(20) {
            assert!(self.world.is_sound());
            self.world.engine.verify_audit().unwrap();
        }
    }
}

/// That number from the environment, or this one.
fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Seeds of the same kind one after another, with so many steps each.
fn walk(seeds: &[u64], steps: u64, form: Form) {
    let (steps, mut tally) = (asked("MODEL_STEPS", steps), BTreeMap::<String, usize>::new());
    let asked = std::env::var("MODEL_SEED").is_ok().then(|| vec![asked("MODEL_SEED", 0)]);
    for seed in asked.unwrap_or(seeds.to_vec()) {
        let mut walk = Walk::new(seed, form);
        (0..steps).for_each(|n| walk.step(n));
        walk.there.comes_up(&mut walk.world, &mut walk.book);
        walk.world.place.ok(&["audit", "verify"]);
        walk.tally.iter().for_each(|(what, count)| *tally.entry(what.clone()).or_default() += count);
        println!("{form:?}, seed {seed}: {steps} steps");
    }
    tally.iter().for_each(|(what, count)| println!("{count:>7}  {what}"));
}

#[test]
fn plain_copies_and_a_full_replica() {
    walk(&[1, 2], 100, Form { compressed: false, encrypted: false, incremental: false });
}

#[test]
fn compressed_copies_and_an_incremental_replica() {
    walk(&[3], 100, Form { compressed: true, encrypted: false, incremental: true });
}

#[test]
fn encrypted_copies() {
    walk(&[4], 100, Form { compressed: true, encrypted: true, incremental: false });
}
