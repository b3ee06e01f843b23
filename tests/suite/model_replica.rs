//! What a replica holds by the model: all that is whole here once something was sent, and nothing that was deleted here.

use std::collections::{BTreeMap, BTreeSet};

use crate::inject::Spot;
use crate::model_book::{Book, Content, Kept};
use crate::model_random::Random;
use crate::model_world::{ASKED, Form, World};

pub struct There {
    form: Form,
    /// It can't be reached.
    away: bool,
    /// What it holds, by sequence.
    held: BTreeMap<u64, String>,
    /// What was here when all had been sent.
    known: BTreeSet<u64>,
    /// What each backup that was ever here holds.
    contents: BTreeMap<u64, Content>,
}

impl There {
    pub fn new(form: Form) -> Self {
        Self { form, away: false, held: BTreeMap::new(), known: BTreeSet::new(), contents: BTreeMap::new() }
    }

    pub fn goes_or_comes(&mut self, world: &World) {
        self.away = !self.away;
        world.take_away(self.away);
    }

    /// Sends what is lacking. Says how that went.
    pub fn push(&mut self, world: &mut World, book: &mut Book, random: &mut Random) -> &'static str {
        self.contents.extend(book.kept.iter().map(|kept| (kept.sequence, kept.content.clone())));
        if !world.place.backups().join("metadata.json").exists() {
            assert_eq!(world.push().unwrap_err().code(), "no-backups");
            return "of nothing";
        }
        if self.away {
            assert_eq!(world.push().unwrap_err().code(), "replica-unreachable");
            return "to nobody";
        }
        assert_eq!(held(world), self.held, "what is there changed by itself");
        let unsent: BTreeSet<_> = book
            .kept
            .iter()
            .filter(|kept| !kept.bad && !self.held.contains_key(&kept.sequence))
            .map(|kept| kept.sequence)
            .collect();
        let done = world.push().unwrap();
        let is_read = |kept: &Kept| unsent.contains(&kept.sequence) && kept.spoiled.is_some();
        let unreadable = book.kept.iter().filter(|kept| is_read(kept)).count();
        assert_eq!(done.not_sent.len(), unreadable, "{:?}", done.not_sent);
        book.kept.iter_mut().filter(|kept| is_read(kept)).for_each(|kept| kept.bad = true);
        if self.form.incremental {
            adopt_found(world, book);
        }
        self.assert_there(world, book, unreadable == 0);
        if done.not_sent.is_empty() {
            self.known = book.kept.iter().filter(|kept| !kept.bad).map(|kept| kept.sequence).collect();
        }
        if !self.form.incremental || random.once_in(4) {
            self.assert_content(world, random);
        }
        if unreadable > 0 { "of some" } else { "done" }
    }

    /// Where one couldn't be sent, nothing goes yet, and what was sent of it before lies about until the next time.
    fn assert_there(&mut self, world: &World, book: &Book, is_all: bool) {
        self.held = held(world);
        let objects = &world.store.objects;
        objects.assert_true();
        assert!(!is_all || objects.orphans().is_empty(), "{:?}", objects.orphans());
        assert_eq!(objects.held_by(), None, "the lease was not given back");
        for kept in &book.kept {
            match self.held.get(&kept.sequence) {
                Some(id) => assert_eq!(*id, kept.id, "its id there"),
                None => assert!(kept.bad, "{} is not there", kept.id),
            }
        }
        for (sequence, id) in &self.held {
            let is_here = book.kept.iter().any(|kept| kept.sequence == *sequence);
            let stays = !is_all || book.goods() == 0 || !self.known.contains(sequence);
            assert!(is_here || stays, "{id} ({sequence}) is there, and was deleted here");
        }
    }

    /// One of them, by the tools that people have.
    fn assert_content(&self, world: &mut World, random: &mut Random) {
        let held = world.store.objects.held();
        if held.is_empty() {
            return;
        }
        let held = random.of(&held);
        let files = world.store.objects.decoded(&world.place, held);
        let told = ASKED.map(|(name, _)| files[name].path().to_owned());
        let told = [world.content(0, &told[0]), world.content(1, &told[1])];
        let sequence = held["sequence"].as_u64().unwrap();
        assert_eq!(told, self.contents[&sequence].told(), "{} there", held["id"]);
    }

    /// The program is killed while it sends, unless it is through before. What is there stays true.
    pub fn is_cut_short(&mut self, world: &mut World, book: &mut Book, spot: &Spot, n: usize) {
        self.contents.extend(book.kept.iter().map(|kept| (kept.sequence, kept.content.clone())));
        let args = ["replica", "push", "offsite"].map(str::to_owned);
        let ended = world.killed(spot, n, &args);
        if self.away {
            assert!(ended.is_none_or(|run| run.code == 1));
        } else {
            world.store.objects.assert_true();
            self.held = held(world);
        }
        world.engine.recover(&World::call()).unwrap();
        adopt_found(world, book);
    }

    /// In the end it can be reached, all that was spoiled is put back, and all is there.
    pub fn comes_up(&mut self, world: &mut World, book: &mut Book) {
        if self.away {
            self.goes_or_comes(world);
        }
        for kept in &mut book.kept {
            if let Some(spoiled) = kept.spoiled.take() {
                world.mend(&kept.id, &spoiled);
            }
            assert!(world.engine.verify(&kept.id.parse().unwrap(), &World::call()).unwrap().ok, "{}", kept.id);
            kept.bad = false;
        }
        self.push(world, book, &mut Random::new(1));
        assert!(book.kept.iter().all(|kept| self.held.contains_key(&kept.sequence)));
    }
}

fn held(world: &World) -> BTreeMap<u64, String> {
    world.there().into_iter().collect()
}

/// Whoever reads a backup to send it, or to see what has changed since, may have found out that it is spoiled.
fn adopt_found(world: &World, book: &mut Book) {
    let catalog = world.place.backups().join("metadata.json");
    if !catalog.exists() {
        return;
    }
    for found in world.place.catalog()["backups"].as_array().unwrap() {
        let spoiled = book.kept.iter_mut().find(|kept| kept.sequence == found["sequence"] && kept.spoiled.is_some());
        if let Some(kept) = spoiled {
            kept.bad = found["verified"]["ok"] != true;
        }
    }
}
