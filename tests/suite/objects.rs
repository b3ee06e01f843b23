//! What lies in a replica, and what must hold there: at every instant, and when all is done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::forms::{IDENTITY, decode};
use crate::harness::{Place, sha256, tree};
use crate::journal_live::now;

const LEASE: &str = "lease.json";

/// Objects that are files: below this folder each of them is called as its key.
#[derive(Clone)]
pub struct Objects(pub PathBuf);

impl Objects {
    pub fn keys(&self) -> Vec<String> {
        if !self.0.exists() {
            return Vec::new();
        }
        let files = tree(&self.0).into_iter().filter(|(_, _, is_dir)| !is_dir);
        let mut keys: Vec<_> = files.map(|(key, ..)| key).collect();
        keys.sort();
        keys
    }

    /// Keys in which that stands.
    pub fn keys_with(&self, part: &str) -> Vec<String> {
        self.keys().into_iter().filter(|key| key.contains(part)).collect()
    }

    pub fn path(&self, key: &str) -> PathBuf {
        self.0.join(key)
    }

    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path(key)).ok()
    }

    /// All of it.
    pub fn all(&self) -> BTreeMap<String, Vec<u8>> {
        self.keys().into_iter().filter_map(|key| Some((key.clone(), self.get(&key)?))).collect()
    }

    /// Puts something there by hand.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        std::fs::create_dir_all(self.path(key).parent().unwrap()).unwrap();
        std::fs::write(self.path(key), bytes).unwrap();
    }

    /// Catalogs that are what their names say, the newest last.
    pub fn catalogs(&self) -> Vec<(String, Value)> {
        let whole = |key: String| {
            let digits = key.strip_suffix(".json")?.split_once('-')?.1.to_owned();
            let bytes = self.get(&key)?;
            let catalog = serde_json::from_slice(&bytes).ok()?;
            (digits.len() == 16 && sha256(&bytes).starts_with(&digits)).then_some((key, catalog))
        };
        self.keys().into_iter().filter(|key| key.starts_with("catalog/")).filter_map(whole).collect()
    }

    /// The one that counts.
    pub fn catalog(&self) -> Option<Value> {
        self.catalogs().pop().map(|(_, catalog)| catalog)
    }

    /// What it says of each backup.
    pub fn held(&self) -> Vec<Value> {
        self.catalog().map(|catalog| catalog["backups"].as_array().unwrap().clone()).unwrap_or_default()
    }

    /// What it says of dropped ones on which others stand.
    pub fn remnants(&self) -> Vec<Value> {
        let catalog = self.catalog().unwrap_or_default();
        catalog["remnants"].as_array().cloned().unwrap_or_default()
    }

    /// Every object that it names, and what it says of it.
    pub fn named(&self) -> Vec<(String, Value)> {
        self.held().iter().chain(&self.remnants()).flat_map(objects_of).collect()
    }

    /// Their ids, sorted.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.held().iter().map(|held| held["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }

    /// An object's bytes, of all its parts.
    pub fn bytes_of(&self, key: &str, object: &Value) -> Option<Vec<u8>> {
        keys_of(key, object).iter().map(|key| self.get(key)).collect::<Option<Vec<_>>>().map(|parts| parts.concat())
    }

    /// What the newest catalog says that isn't so. There is no instant at which there may be any.
    pub fn wrongs(&self) -> Vec<String> {
        let (mut wrongs, mut ids) = (Vec::new(), BTreeSet::new());
        for held in self.held() {
            if !ids.insert(held["id"].to_string()) {
                wrongs.push(format!("{} is there twice", held["id"]));
            }
        }
        for (key, object) in self.named() {
            match self.bytes_of(&key, &object) {
                None => wrongs.push(format!("{key} is named and isn't there")),
                Some(bytes) if bytes.len() as u64 != object["size"] => wrongs.push(format!("{key}: another size")),
                Some(bytes) if sha256(&bytes) != object["checksum"].as_str().unwrap() => {
                    wrongs.push(format!("{key}: other bytes"));
                }
                Some(_) => {}
            }
        }
        wrongs
    }

    /// What the catalog before the newest names and isn't there: should the newest one be lost, that one counts.
    pub fn wrongs_before(&self) -> Vec<String> {
        let Some((key, catalog)) = self.catalogs().into_iter().rev().nth(1) else { return Vec::new() };
        let lists = ["backups", "remnants"].map(|list| catalog[list].as_array().cloned().unwrap_or_default());
        let named = lists.concat().iter().flat_map(objects_of).collect::<Vec<_>>();
        let gone = named.iter().flat_map(|(key, object)| keys_of(key, object)).filter(|key| !self.path(key).exists());
        gone.map(|gone| format!("{gone} is named by {key} and isn't there")).collect()
    }

    #[track_caller]
    pub fn assert_true(&self) {
        assert_eq!(self.wrongs(), [""; 0], "in {:?}", self.catalogs().pop());
    }

    /// Keys below `backups/` that the newest catalog doesn't name.
    pub fn orphans(&self) -> Vec<String> {
        let named: BTreeSet<_> = self.named().iter().flat_map(|(key, object)| keys_of(key, object)).collect();
        self.keys().into_iter().filter(|key| key.starts_with("backups/") && !named.contains(key)).collect()
    }

    /// It holds what the place has, to the last row, by the tools that people have, and nothing else.
    #[track_caller]
    pub fn assert_complete(&self, place: &Place) {
        let mut ids = place.ids();
        ids.sort();
        assert_eq!(self.ids(), ids);
        self.assert_tidy();
        let here: BTreeMap<_, _> = place.list().into_iter().map(|it| (it["sequence"].as_u64().unwrap(), it)).collect();
        for held in self.held() {
            let backup = &here[&held["sequence"].as_u64().unwrap()];
            assert_eq!((&held["id"], &held["timestamp"]), (&backup["id"], &backup["timestamp"]));
            for (name, plain) in self.decoded(place, &held) {
                let checksum = sha256(&std::fs::read(plain.path()).unwrap());
                assert_eq!(checksum, backup["databases"][&name]["checksum"].as_str().unwrap(), "{name} of {held}");
            }
        }
    }

    /// The lease, where somebody holds it. A store that takes two seconds to let one go is not waited for, and the lease left to end by
    /// itself: so one that has lain for longer is no fault.
    pub fn held_by(&self) -> Option<Vec<u8>> {
        let taken: DateTime<Utc> = self.path(LEASE).metadata().ok()?.modified().unwrap().into();
        let is_fresh = now() - taken < TimeDelta::seconds(2);
        is_fresh.then(|| self.get(LEASE)).flatten()
    }

    /// All that lies there belongs to what the catalog names, nobody holds it, and there is one older catalog at most.
    #[track_caller]
    pub fn assert_tidy(&self) {
        self.assert_true();
        assert_eq!(self.orphans(), [""; 0]);
        let held = self.held_by().map(|lease| String::from_utf8_lossy(&lease).into_owned());
        assert_eq!(held, None, "the lease was not given back");
        let others = self.keys().into_iter().filter(|key| !key.starts_with("backups/") && key != LEASE);
        let others: Vec<_> = others.collect();
        let strange: Vec<_> = others.iter().filter(|key| !key.starts_with("catalog/")).collect();
        assert!(strange.is_empty() && (1..=2).contains(&others.len()), "{others:?}");
    }

    /// Each database of a backup as a plain file, decoded by Debian's `age` and `zstd`, and by litestream where it is in segments.
    pub fn decoded(&self, place: &Place, held: &Value) -> BTreeMap<String, tempfile::NamedTempFile> {
        let mut plain = BTreeMap::new();
        for (name, database) in held["databases"].as_object().unwrap() {
            let (stored, out) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
            if database["ltx"].is_object() {
                crate::segments::restore(self, place, held, name, out.path());
                plain.insert(name.clone(), out);
                continue;
            }
            let bytes = self.bytes_of(&key_of(held, name, database), database).unwrap();
            std::fs::write(stored.path(), bytes).unwrap();
            decode(stored.path(), database["form"].as_str().unwrap(), &place.path(IDENTITY), out.path());
            plain.insert(name.clone(), out);
        }
        plain
    }

    /// What lies beside the databases of a backup, as JSON.
    pub fn entry(&self, place: &Place, held: &Value) -> Value {
        let key = entry_key(held);
        let bytes = self.bytes_of(&key, &held["entry"]).unwrap();
        if held["entry"]["encrypted"] != true {
            return serde_json::from_slice(&bytes).unwrap();
        }
        let stored = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(stored.path(), bytes).unwrap();
        let opened = opened(stored.path(), &place.path(IDENTITY));
        serde_json::from_slice(&opened).unwrap()
    }
}

fn opened(file: &Path, identity: &Path) -> Vec<u8> {
    let output = Command::new("age").args(["-d", "-i"]).arg(identity).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Where a backup's objects lie: the second of its instant, its sequence, and which sending of it.
fn folder(held: &Value) -> String {
    let second = held["timestamp"].as_str().unwrap()[..19].replace(['-', ':'], "");
    format!("backups/{second}Z-{:010}-{}", held["sequence"].as_u64().unwrap(), held["nonce"].as_str().unwrap())
}

pub fn key_of(held: &Value, name: &str, database: &Value) -> String {
    let form = database["form"].as_str().unwrap();
    let ending = if database["ltx"].is_object() { form.replacen("db", "ltx", 1) } else { form.to_owned() };
    format!("{}/{name}.{ending}", folder(held))
}

pub fn entry_key(held: &Value) -> String {
    format!("{}/entry.json{}", folder(held), if held["entry"]["encrypted"] == true { ".age" } else { "" })
}

/// Every object of a backup, or of what is left of one, and what the catalog says of it.
pub fn objects_of(held: &Value) -> Vec<(String, Value)> {
    let databases = held["databases"].as_object().unwrap().iter();
    let databases = databases.map(|(name, database)| (key_of(held, name, database), database.clone()));
    let entry = held.get("entry").map(|entry| (entry_key(held), entry.clone()));
    databases.chain(entry).collect()
}

/// The keys of an object that may be in parts.
fn keys_of(key: &str, object: &Value) -> Vec<String> {
    match object["parts"].as_u64().unwrap_or(0) {
        0 => vec![key.to_owned()],
        parts => (1..=parts).map(|n| format!("{key}.{n:05}")).collect(),
    }
}
