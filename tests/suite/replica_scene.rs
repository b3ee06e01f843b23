//! A place whose backups are copied elsewhere, looked at all the time.

use std::process::Command;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::forms::IDENTITY;
use crate::harness::{Place, Run};
use crate::journal_live::now;
use crate::objects::Objects;
use crate::proxy::Proxy;
use crate::serving::faketime_library;
use crate::stores::Store;

/// What the replica is called by the variables, and by the program.
pub const OFFSITE: &str = "OFFSITE";
pub const PUSH: [&str; 3] = ["replica", "push", "offsite"];
/// How long its store may take. A disk that stands still for some seconds is no fault of it: where one is to be found silent, a test
/// sets less.
pub const TIMEOUT: &str = "BACKUP_REPLICA_OFFSITE_TIMEOUT";

/// Two small databases with a replica, encrypted, in that store.
pub fn with_replica(store: &Store) -> Place {
    let mut place = Place::new();
    place.keyed();
    place.replica(OFFSITE, store).set(TIMEOUT, "1m");
    place
}

/// Another machine with the same key and credentials and nothing else.
pub fn empty_machine(of: &Place, store: &Store) -> Place {
    let mut place = Place::empty();
    let identity = place.path(IDENTITY);
    std::fs::copy(of.path(IDENTITY), &identity).unwrap();
    place.set("BACKUP_ENCRYPTION_IDENTITY_FILE", identity.to_str().unwrap());
    place.replica(OFFSITE, store).set(TIMEOUT, "1m");
    place
}

/// A row that no other backup has, and a backup of it.
pub fn another(place: &Place) -> Value {
    place.sql("attendance", "INSERT INTO people (name) VALUES (hex(randomblob(8)))");
    place.create()
}

pub fn push(place: &Place) -> Run {
    place.run(&PUSH)
}

/// It goes well, and all is there.
#[track_caller]
pub fn pushes(place: &Place, store: &Store) {
    place.ok(&PUSH);
    store.objects.assert_complete(place);
    assert_eq!(store.unfinished(), [""; 0], "pieces of an upload are left");
}

/// Cases that mostly wait for what never comes: in four rows beside each other, each row with a store of its own.
pub fn in_rows<T: Send>(cases: Vec<T>, row: impl Fn(Vec<T>) + Sync) {
    let mut rows = [const { Vec::new() }; 4];
    cases.into_iter().enumerate().for_each(|(n, case)| rows[n % 4].push(case));
    let row = &row;
    std::thread::scope(|scope| rows.into_iter().for_each(|cases| drop(scope.spawn(move || row(cases)))));
}

/// How `status` has the replica.
pub fn told(place: &Place) -> Value {
    told_of(place, "offsite")
}

/// The same of any replica.
pub fn told_of(place: &Place, name: &str) -> Value {
    let status = place.json(&["status"]);
    let mut replicas = status["replicas"].as_array().unwrap().iter();
    replicas.find(|it| it["name"] == name).unwrap_or_else(|| panic!("{status}")).clone()
}

/// The code of the last error, if it failed last.
pub fn last_error(place: &Place) -> Option<String> {
    told(place)["lastError"]["code"].as_str().map(str::to_owned)
}

/// What a replica's catalog ever said that wasn't so, at any instant.
#[derive(Clone, Default)]
pub struct Wrongs(Arc<Mutex<Vec<String>>>);

impl Wrongs {
    /// Looks after each request.
    pub fn in_all_of(proxy: &Proxy, objects: &Objects) -> Self {
        let (wrongs, objects) = (Self::default(), objects.clone());
        let noted = wrongs.clone();
        proxy.watch(move |target| {
            let found = [objects.wrongs(), objects.wrongs_before()].concat();
            if !found.is_empty() {
                noted.0.lock().unwrap().push(format!("after {target}: {found:?}"));
            }
        });
        wrongs
    }

    #[track_caller]
    pub fn assert_none(&self) {
        assert_eq!(*self.0.lock().unwrap(), [""; 0]);
    }
}

/// A clock that is put on from outside.
pub struct Clock(std::path::PathBuf);

impl Clock {
    /// The command runs on it.
    pub fn of(place: &Place, command: &mut Command) -> Self {
        let clock = Self(place.path("clock"));
        clock.put_on(0);
        command.env("LD_PRELOAD", faketime_library()).env("FAKETIME_TIMESTAMP_FILE", &clock.0);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        clock
    }

    /// So many seconds past the time of the day.
    pub fn put_on(&self, seconds: u64) {
        self.set(&format!("+{seconds}s\n"));
    }

    /// At that time in the command's zone when it begins, and so many times as fast from there.
    pub fn runs_from(&self, local: &str, times: u64) {
        self.set(&format!("@{local} x{times}\n"));
    }

    /// The same from an instant, which a zone's clock may show twice.
    pub fn runs_from_utc(&self, instant: &str, times: u64) {
        let ahead = instant.parse::<DateTime<Utc>>().unwrap() - now();
        self.set(&format!("{:+}s x{times}\n", ahead.num_seconds()));
    }

    /// So many times as fast.
    pub fn runs(&self, times: u64) {
        self.set(&format!("+0s x{times}\n"));
    }

    fn set(&self, text: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }
}

/// Brings all that a replica holds.
pub const PULL: [&str; 4] = ["replica", "pull", "offsite", "--all"];

/// Whose two backups are in that replica.
pub fn with_two_there(store: &Store) -> Place {
    let place = with_replica(store);
    place.create();
    another(&place);
    pushes(&place, store);
    place
}

/// What came, or didn't, of an earlier pull is no matter: the next one brings all of it.
pub fn comes_whole(machine: &Place, sender: &Place, store: &Store) {
    machine.ok(&PULL);
    assert_eq!(machine.ids(), sender.ids());
    machine.ok(&["verify", "--all"]);
    machine.assert_whole();
    store.objects.assert_true();
}
