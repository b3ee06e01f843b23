//! What must hold after every fault, once whoever comes next has been by, and whatever the operation was:
//!
//! - each backup that is listed is there, whole, of the tables that were recorded, and none is called damaged;
//! - nothing lies about unreported;
//! - the live databases are sound and hold what they held before, or what a restore brings: the same in all of them;
//! - where there was a backup, there is one that is proven;
//! - the live files have the owner and the mode that they had, and an app can write;
//! - no file of ours has the secret in it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::forms::holds;
use crate::harness::{Place, SECRET, python, tree};

const NAMES: [&str; 2] = ["attendance", "auth"];

/// The live databases as they are: all that they hold, and whose they are.
#[derive(Clone, PartialEq)]
pub struct Live {
    dumps: Vec<String>,
    owners: Vec<(u32, u32, u32)>,
    has_backups: bool,
}

impl Live {
    /// Of a place that an app may write to.
    pub fn of(place: &Place) -> Self {
        let dumps = looked(place, &[]).0;
        let has_backups = place.backups().join("metadata.json").exists() && !place.ids().is_empty();
        Self { dumps, owners: owners(place), has_backups }
    }
}

impl Place {
    /// All of it; says which of `lives` the databases hold now.
    pub fn assert_invariants(&self, lives: &[&Live]) -> usize {
        self.assert_whole();
        let catalog = self.catalog();
        let backups = catalog["backups"].as_array().unwrap();
        let aside = tempfile::tempdir().unwrap();
        let mut copies = Vec::new();
        for backup in backups {
            assert!(backup["verified"]["ok"] == true, "it is called damaged: {backup}");
            let databases = backup["databases"].as_object().unwrap().values();
            copies
                .extend(databases.filter_map(|copy| Some((self.decoded(copy, aside.path())?, copy["tables"].clone()))));
        }
        let proven = backups.iter().any(|backup| backup["checked"]["ok"] == true);
        assert!(proven || !lives[0].has_backups, "there was a backup, and there is no proven one");
        let (dumps, counts) = looked(self, &copies);
        assert!(copies.iter().map(|(_, tables)| tables).eq(&counts), "other rows than were recorded: {counts:?}");
        assert_eq!(owners(self), lives[0].owners, "mode or owner of a live file");
        self.assert_secret_is_nowhere();
        let held = lives.iter().position(|live| live.dumps == dumps);
        held.unwrap_or_else(|| panic!("the live databases are a mix: {dumps:?}"))
    }

    fn assert_secret_is_nowhere(&self) {
        for (file, _, is_dir) in tree(&self.backups()) {
            let is_secret = !is_dir && holds(&std::fs::read(self.backups().join(&file)).unwrap(), SECRET);
            assert!(!is_secret, "the secret is in {file}");
        }
    }
}

/// What an app reads in the live databases, which are sound and can be written to; and how many rows the tables of finished
/// copies have.
fn looked(place: &Place, copies: &[(PathBuf, Value)]) -> (Vec<String>, Vec<Value>) {
    let asked: Vec<_> = copies.iter().map(|(path, tables)| json!([path, tables])).collect();
    let asked = Value::from(asked).to_string();
    let paths = NAMES.map(|name| place.live(name));
    let told = python(
        "import json, sqlite3, sys, urllib.parse\n\
         def opened(path, how): return sqlite3.connect('file:' + urllib.parse.quote(path) + how, uri=True, timeout=10)\n\
         def live(path):\n\
         \x20   c = opened(path, '?mode=rw')\n\
         \x20   c.isolation_level = None\n\
         \x20   assert [('ok',)] == list(c.execute('PRAGMA integrity_check')), path\n\
         \x20   for sql in ('BEGIN IMMEDIATE', 'CREATE TABLE an_app_can_write (a)', 'ROLLBACK'): c.execute(sql)\n\
         \x20   return '\\n'.join(c.iterdump())\n\
         def rows(path, tables):\n\
         \x20   c = opened(path, '?immutable=1')\n\
         \x20   return {name: c.execute('SELECT count(*) FROM \"%s\"' % name).fetchone()[0] for name in tables}\n\
         print(json.dumps([[live(path) for path in sys.argv[2:]], [rows(*copy) for copy in json.loads(sys.argv[1])]]))\n",
        &std::iter::once(Path::new(&asked)).chain(paths.iter().map(PathBuf::as_path)).collect::<Vec<_>>(),
    );
    serde_json::from_str(&told).unwrap()
}

/// Mode and owner of the live files; those beside them have the same.
fn owners(place: &Place) -> Vec<(u32, u32, u32)> {
    let of = |path: &Path| path.metadata().ok().map(|meta| (meta.mode() & 0o777, meta.uid(), meta.gid()));
    let owner = |name: &str| {
        let owner = of(&place.live(name)).unwrap();
        for end in ["-wal", "-shm", "-journal"] {
            let beside = of(&place.path(&format!("{name}.db{end}")));
            assert!(beside.is_none_or(|beside| beside == owner), "{name}.db{end} is somebody else's");
        }
        owner
    };
    NAMES.map(owner).to_vec()
}
