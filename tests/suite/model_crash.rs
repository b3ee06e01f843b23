//! The program is ended in the midst of what it does, and whoever comes next puts it right.

use crate::inject::{CALLS, Spot};
use crate::model::Walk;
use crate::model_book::Book;
use crate::model_checks::{assert_files, differences, ends};
use crate::model_deeds::{Deed, End};
use crate::model_random::{Random, wishes};
use crate::model_world::World;

impl Walk {
    /// The program is ended by kill -9 in the midst of an operation, and whoever comes next puts it right.
    pub fn crash(&mut self, random: &mut Random) -> bool {
        let names = [
            "daily of the next day",
            "manual",
            "restore",
            "restore",
            "undo",
            "delete",
            "pin",
            "settings",
            "verify",
            "push",
        ];
        let name = *random.of(&names);
        // Mostly one of those that there are many of.
        let often = ["write", "fsync", "fdatasync", "rename", "unlink", "linkat"];
        let call = if random.once_in(3) { *random.of(&CALLS) } else { *random.of(&often) };
        let far = *random.of(&[3, 8, 20]);
        let n = 1 + random.below(far);
        if name == "push" {
            self.there.is_cut_short(&mut self.world, &mut self.book, &Spot::anywhere(call), n);
            self.world.newly_told();
            return self.note("crash of push", true);
        }
        let deed = if name == "settings" { Deed::Settings(wishes(random, false)) } else { self.deed(name, random) };
        let (after, end) = deed.foretold(&self.book, self.world.now());
        self.says(format!("{} {deed:?} is ended at {call} {n}, or {end:?}", self.world.now()));
        let may_lose = matches!(deed, Deed::Delete { force: true, .. } | Deed::Verify(_));
        if let Some(run) = self.world.killed(&Spot::anywhere(call), n, &deed.args()) {
            let is_well = matches!(end, End::Done | End::Unsaid(true));
            assert_eq!(run.code == 0, is_well, "{deed:?} is to be {end:?}: {}{}", run.stdout, run.stderr);
            let told = ends(&self.world.newly_told(), deed.operation());
            assert_eq!(told, if let End::Unsaid(_) = end { Vec::new() } else { vec![end] }, "of {deed:?}");
            self.book = after;
            return self.note(&format!("{} by the program", deed.operation()), may_lose);
        }
        self.recovers(&deed, after, random);
        self.note(&format!("crash of {}", deed.operation()), may_lose)
    }

    /// What a kill left is sound for readers, and is one of two ends once it is put right; the audit log says which.
    fn recovers(&mut self, deed: &Deed, after: Book, random: &mut Random) {
        assert_files(&self.world, &self.book, false);
        self.world.engine.list().unwrap();
        self.world.engine.status().unwrap();
        if random.once_in(2) {
            self.world.restart();
        }
        self.world.engine.recover(&World::call()).unwrap();
        let told = ends(&self.world.newly_told(), deed.operation());
        let (undone, done) = deed.between(&self.book, self.world.now());
        let (undone, done) = ([vec![self.book.clone()], undone].concat(), [vec![after], done].concat());
        let is_verify = matches!(deed, Deed::Verify(_));
        let ends = match told.last() {
            _ if is_verify => [undone, done].concat(),
            Some(End::Done) => done,
            _ => undone,
        };
        let found = ends.iter().find(|book| differences(&mut self.world, book).is_empty());
        let found = found.unwrap_or_else(|| {
            let all: Vec<_> = ends.iter().map(|book| differences(&mut self.world, book).join("\n")).collect();
            panic!(
                "{deed:?} was cut short, and the audit log says {told:?}. None of its ends:\n{}",
                all.join("\nnor\n")
            )
        });
        self.book = found.clone();
    }
}
