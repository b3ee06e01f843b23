//! Two live databases, a backup of what they held before, and what must hold once a restore of it was cut short and
//! whoever came next has settled it: the old content or the new one, the same in both [P6, P7].

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::app::App;
use crate::harness::{Place, python};
use crate::inject::Spot;
use crate::scene::Scene;
use crate::seasons;

/// The backup that is restored.
pub const ID: &str = seasons::DAILY;
pub const RESTORE: [&str; 4] = ["restore", ID, "--confirm", ID];
pub const NAMES: [&str; 2] = ["attendance", "auth"];

/// What the app writes to each database, and what that row has in it.
const WRITES: [&str; 2] =
    ["INSERT INTO people (name) VALUES ('in between')", "INSERT INTO users (email) VALUES ('in between')"];
const ROW: &str = "'in between'";
/// Whether a connection sees the content of the backup.
const IS_NEW: [&str; 2] = [
    "SELECT count(*) = 0 FROM sqlite_schema WHERE name = 'marks'",
    "SELECT count(*) = 1 FROM sqlite_schema WHERE name = 'sessions'",
];
const ALL: [[&str; 2]; 2] = [
    ["SELECT * FROM sqlite_schema ORDER BY name", "SELECT * FROM people ORDER BY id"],
    ["SELECT * FROM sqlite_schema ORDER BY name", "SELECT * FROM users ORDER BY id"],
];

/// The place before the restore, and what the databases hold before and after it.
pub struct Past {
    pub scene: Scene,
    modes: [&'static str; 2],
    old: Vec<String>,
    new: Vec<String>,
    ids: Vec<String>,
}

/// Who a live file is, and whose.
pub type Identity = (u64, u32, u32, u32);

/// A database as another SQLite reads it.
#[derive(Deserialize, Debug)]
pub struct Looked {
    check: String,
    mode: String,
    dump: String,
}

impl Looked {
    /// The content without the row that was written in between, and whether that is there.
    fn parted(&self) -> (String, bool) {
        let (with, without): (Vec<_>, Vec<_>) = self.dump.lines().partition(|line| line.contains(ROW));
        (without.join("\n"), !with.is_empty())
    }
}

/// Each of these databases: what `integrity_check` says, the journal mode, all that it holds.
fn look(paths: &[PathBuf], how: &str) -> Vec<Looked> {
    let text = python(
        "import json, sqlite3, sys, urllib.parse\n\
         def look(path):\n\
         \x20   c = sqlite3.connect('file:' + urllib.parse.quote(path) + sys.argv[1], uri=True, timeout=10)\n\
         \x20   one = lambda pragma: '; '.join(row[0] for row in c.execute('PRAGMA ' + pragma))\n\
         \x20   return {'check': one('integrity_check'), 'mode': one('journal_mode'), 'dump': '\\n'.join(c.iterdump())}\n\
         print(json.dumps([look(path) for path in sys.argv[2:]]))\n",
        &std::iter::once(Path::new(how)).chain(paths.iter().map(PathBuf::as_path)).collect::<Vec<_>>(),
    );
    serde_json::from_str(&text).unwrap()
}

impl Past {
    /// The restore makes `attendance` shorter and `auth` longer, takes a table away and brings one back.
    pub fn of(modes: [&'static str; 2]) -> Self {
        Self::at(Place::empty(), modes)
    }

    pub fn at(place: Place, modes: [&'static str; 2]) -> Self {
        let rows = |n: usize| format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})");
        let fill = |table: &str, n| format!("{} INSERT INTO {table} SELECT i, hex(randomblob(300)) FROM n", rows(n));
        for (name, mode) in NAMES.into_iter().zip(modes) {
            place.sql(name, &format!("PRAGMA journal_mode={mode}"));
        }
        place.sql("attendance", &format!("CREATE TABLE people (id INTEGER PRIMARY KEY, name); {}", fill("people", 30)));
        place.sql("auth", &format!("CREATE TABLE users (id INTEGER PRIMARY KEY, email); {}", fill("users", 30)));
        place.sql("auth", &format!("CREATE TABLE sessions (id INTEGER PRIMARY KEY, key); {}", fill("sessions", 30)));
        seasons::then(&place, "2025-03-03", "daily");
        let new = dumps(&place);
        place.sql("attendance", &format!("CREATE TABLE marks (id INTEGER PRIMARY KEY, mark); {}", fill("marks", 40)));
        place.sql("attendance", "UPDATE people SET name = hex(randomblob(300)) WHERE id % 4 = 0");
        place.sql("auth", "DROP TABLE sessions; DELETE FROM users WHERE id > 20; VACUUM");
        let (old, ids) = (dumps(&place), place.ids());
        Self { scene: Scene::of(place, &RESTORE, "restore", |_| false), modes, old, new, ids }
    }

    pub fn twin(&self) -> Place {
        self.scene.place.twin()
    }

    /// As it was killed at a write or a sync of the first database, when these held the backup's content.
    pub fn crashed(&self, args: &[&str], is_new: [bool; 2]) -> Place {
        let files = [format!("../{}.db-wal", NAMES[0]), format!("../{}.db-wal", NAMES[1])];
        let spots = [Spot::on("pwrite64", &files[1]), Spot::on("fsync", &files[0])];
        let found = spots.iter().flat_map(|spot| (1..6).map(move |n| (spot, n))).find_map(|(spot, n)| {
            let place = self.twin();
            (place.killed(spot, n, args) && self.found(&place.twin()).0 == is_new).then_some(place)
        });
        found.unwrap_or_else(|| panic!("{args:?} is never cut short at {is_new:?}"))
    }

    /// Which of the live databases hold the backup's content; each holds just that or just what was there before. And
    /// which of them have the row that was written in between.
    pub fn found(&self, place: &Place) -> ([bool; 2], [bool; 2]) {
        let looked = look(&NAMES.map(|name| place.live(name)), "?mode=rw");
        let parts: Vec<_> = looked.iter().map(Looked::parted).collect();
        let is_new = [0, 1].map(|at| {
            let (one, name) = (&looked[at], NAMES[at]);
            assert_eq!((one.check.as_str(), one.mode.as_str()), ("ok", self.modes[at]), "{name}");
            assert!(parts[at].0 == self.old[at] || parts[at].0 == self.new[at], "{name} is a mix");
            parts[at].0 == self.new[at]
        });
        (is_new, [parts[0].1, parts[1].1])
    }

    /// All of it, once it is settled. Says whether the new content is there.
    pub fn assert_settled(&self, place: &Place, before: &[Identity], meanwhile: Option<[bool; 2]>) -> bool {
        let done = self.assert_whole(place, before, meanwhile);
        self.scene.assert_recorded(place, done);
        done
    }

    /// The same, but for what the audit log says of it.
    pub fn assert_whole(&self, place: &Place, before: &[Identity], meanwhile: Option<[bool; 2]>) -> bool {
        let (is_new, rows) = self.found(place);
        assert_eq!(is_new[0], is_new[1], "one database is old and one is new");
        let done = is_new[0];
        assert_eq!(identities(place), before, "inode, mode or owner of a live file");
        assert_settled_files(place);
        place.assert_whole();
        let ids = place.ids();
        assert!(self.ids.iter().all(|id| ids.contains(id)), "{ids:?}");
        // What the app wrote to a database that was still old is in the backup, what it wrote to a new one is still live.
        let moved = meanwhile.map_or([false; 2], |seen| seen.map(|new| done && !new));
        assert!(meanwhile.is_none_or(|seen| seen.contains(&true) == done), "the app had seen {meanwhile:?}");
        assert_eq!(rows, moved.map(|moved| meanwhile.is_some() && !moved), "rows of {meanwhile:?}");
        self.assert_kept(place, done, moved);
        done
    }

    /// The newest pre-restore backup has the whole content of before; of a restore that was done there is one.
    fn assert_kept(&self, place: &Place, done: bool, moved: [bool; 2]) {
        let kept = place.list().into_iter().find(|backup| backup["type"] == "pre-restore");
        assert!(kept.is_some() || !done, "no pre-restore backup");
        let Some(kept) = kept else { return };
        let dir = tempfile::tempdir().unwrap();
        let copies = NAMES.map(|name| place.decoded(&kept["databases"][name], dir.path()).unwrap());
        let copies = look(&copies, "?immutable=1");
        for (at, copy) in copies.iter().enumerate() {
            let (dump, row) = copy.parted();
            assert!(copy.check == "ok" && dump == self.old[at], "the pre-restore backup of {}", NAMES[at]);
            assert_eq!(row, moved[at], "the row of {} in {}", NAMES[at], kept["id"]);
        }
    }

    /// What the restore replaced comes back, with what the app wrote to it before it was replaced.
    pub fn assert_undone(&self, place: &Place, meanwhile: Option<[bool; 2]>) {
        place.ok(&["undo"]);
        let (is_new, rows) = self.found(place);
        assert_eq!(is_new, [false, false], "undone");
        let some = meanwhile.is_some_and(|new| new.contains(&true));
        assert_eq!(rows, meanwhile.unwrap_or_default().map(|new| some && !new), "rows after undo");
        place.assert_whole();
    }
}

/// Calls on the live databases: what a restore does there hides behind its other calls of the same kind.
pub fn live_spots() -> Vec<Spot> {
    let files = NAMES.into_iter().flat_map(|name| ["", "-wal", "-journal"].map(|end| format!("../{name}.db{end}")));
    let calls = ["pwrite64", "fsync", "fdatasync", "ftruncate", "unlink"];
    files.flat_map(|file| calls.map(|call| Spot::on(call, &file))).collect()
}

/// Nothing is left of a restore under way.
pub fn assert_settled_files(place: &Place) {
    for name in ["restore.json", "restoring"] {
        assert!(!place.backups().join(name).exists(), "{name} is still there");
    }
}

fn dumps(place: &Place) -> Vec<String> {
    look(&NAMES.map(|name| place.live(name)), "?mode=rw").into_iter().map(|it| it.dump).collect()
}

pub fn identities(place: &Place) -> Vec<Identity> {
    let meta = |name| place.live(name).metadata().unwrap();
    NAMES.map(meta).iter().map(|it| (it.ino(), it.mode(), it.uid(), it.gid())).collect()
}

/// An app that has both databases open and has read and written through these very connections.
pub fn app(place: &Place) -> App {
    let mut app = App::on(&[&place.live("attendance"), &place.live("auth")]);
    for (at, table) in ["people", "users"].into_iter().enumerate() {
        app.ok(at, &format!("UPDATE {table} SET id = id WHERE id = 1"));
        for sql in ALL[at] {
            app.ok(at, sql);
        }
    }
    app
}

/// Which databases it sees as the backup has them; and it writes a row to each.
pub fn write_meanwhile(app: &mut App) -> [bool; 2] {
    let seen = [0, 1].map(|at| app.ok(at, IS_NEW[at]) == "[[1]]");
    for (at, sql) in WRITES.into_iter().enumerate() {
        app.ok(at, sql);
    }
    seen
}

/// Connections that were open all the time read what new ones read, and write what new ones see.
pub fn assert_goes_on(mut app: App, place: &Place) {
    let mut fresh = App::on(&[&place.live("attendance"), &place.live("auth")]);
    for at in [0, 1] {
        for sql in ALL[at] {
            assert_eq!(app.ok(at, sql), fresh.ok(at, sql), "{sql}");
        }
        app.ok(at, &WRITES[at].replace("in between", "afterwards"));
        assert!(fresh.ok(at, ALL[at][1]).contains("afterwards"));
        assert_eq!(app.ok(at, "PRAGMA integrity_check"), "[[\"ok\"]]");
    }
}
