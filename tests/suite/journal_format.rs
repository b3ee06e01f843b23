//! The journal's files and litestream's are the same: it restores ours at every instant, and we read its.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use attendance_backup::backup::timestamp;
use attendance_backup::journal::ltx::{Decoder, Header};
use attendance_backup::journal::{FileName, Index, Journal, Level, LtxFile, chain, folder, rebuild};
use attendance_backup::sqlite::Control;
use chrono::DateTime;
use tempfile::TempDir;

use crate::harness::{python, tree};
use crate::journal_scene::points;

/// A minute's begin.
const START: u64 = 1_760_000_040_000;
/// What makes the states, each in a file of its own: the database grows, shrinks, grows again and changes here and there.
const STATES: &str = "import sqlite3, sys, shutil, random\n\
    folder, size = sys.argv[1], int(sys.argv[2])\n\
    random.seed(size)\n\
    c = sqlite3.connect(folder + '/app.db', isolation_level=None)\n\
    c.execute(f'PRAGMA page_size={size}')\n\
    c.execute('CREATE TABLE marks (id INTEGER PRIMARY KEY, mark BLOB)')\n\
    for n in range(40):\n\
    \x20   for _ in range(12 if n % 10 == 5 else 2):\n\
    \x20       c.execute('INSERT INTO marks (mark) VALUES (?)', (random.randbytes(random.randrange(size)),))\n\
    \x20   if n % 13 == 7: c.execute('DELETE FROM marks WHERE id % 3 > 0')\n\
    \x20   if n % 13 == 7: c.execute('VACUUM')\n\
    \x20   shutil.copy(folder + '/app.db', f'{folder}/state-{n}')\n";

/// litestream, from the folder that `scripts/setup test` fills.
fn litestream(args: &[&str]) -> Output {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/litestream");
    assert!(Path::new(program).exists(), "{program} is missing: run `scripts/setup test`");
    Command::new(program).args(args).output().unwrap()
}

/// What litestream restores, at the end or just before an instant.
fn restored(replica: &Path, out: &Path, before: Option<u64>) -> Vec<u8> {
    let _ = std::fs::remove_file(out);
    let url = format!("file://{}", replica.display());
    let at = before.map(|millis| timestamp::text(DateTime::from_timestamp_millis(millis as i64).unwrap()));
    let mut args = vec!["restore", "-o", out.to_str().unwrap()];
    args.extend(at.iter().flat_map(|at| ["-timestamp", at.as_str()]));
    args.push(&url);
    let output = litestream(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(out).unwrap()
}

/// What we rebuild.
fn rebuilt(replica: &Path, chain: &[LtxFile]) -> Vec<u8> {
    let target = tempfile::NamedTempFile::new().unwrap();
    rebuild::rebuild(replica, chain, (target.as_file(), target.path()), &Control::default()).unwrap();
    std::fs::read(target.path()).unwrap()
}

struct Scene {
    dir: TempDir,
    journal: Journal,
    page_size: usize,
}

impl Scene {
    fn new(page_size: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path(), &"attendance".parse().unwrap()).unwrap();
        Self { dir, journal, page_size }
    }

    fn replica(&self) -> PathBuf {
        folder::folder(self.dir.path(), &"attendance".parse().unwrap())
    }

    fn append(&mut self, name: FileName, before: &[u8], now: &[u8], millis: u64) {
        let (page_size, pages) = (self.page_size as u32, (now.len() / self.page_size) as u32);
        let header = Header { page_size, pages, min: name.min, max: name.max, millis };
        let mut writer = self.journal.begin(name, header).unwrap();
        let before: Vec<_> = before.chunks(self.page_size).collect();
        for (at, page) in now.chunks(self.page_size).enumerate() {
            if name.level == Level::SNAPSHOT || before.get(at) != Some(&page) {
                writer.page(at as u32 + 1, page).unwrap();
            }
        }
        writer.publish(&self.journal).unwrap();
    }

    /// Captures states 7 seconds to an hour apart, with a new base at one, a snapshot from files at another, and compacts on the way.
    fn capture(&mut self, states: &[Vec<u8>]) -> Vec<u64> {
        let (mut times, mut now) = (Vec::new(), START);
        for (at, state) in states.iter().enumerate() {
            let txid = self.journal.index().next();
            let name = if [0, 30].contains(&at) { FileName::snapshot(txid) } else { FileName::captured(txid) };
            let before = at.checked_sub(1).map_or(&[][..], |before| &states[before]);
            self.append(name, before, state, now);
            times.push(now);
            now += if at == 20 {
                3_600_000
            } else if at % 5 == 0 {
                120_000
            } else {
                7_321
            };
            self.journal.compact(now, &Control::default()).unwrap();
            if at == 20 {
                assert!(self.journal.snapshot_from_files(&Control::default()).unwrap());
            }
        }
        times
    }
}

#[test]
fn litestream_restores_at_every_instant_what_we_rebuild() {
    for page_size in [512, 1024, 4096, 65536] {
        let mut scene = Scene::new(page_size);
        python(STATES, &[scene.dir.path(), Path::new(&page_size.to_string())]);
        let state = |n: usize| std::fs::read(scene.dir.path().join(format!("state-{n}"))).unwrap();
        let states: Vec<_> = (0..40).map(state).collect();
        assert!(states.windows(2).any(|two| two[0].len() > two[1].len()), "it never shrank");
        let times = scene.capture(&states);
        let (replica, out) = (scene.replica(), scene.dir.path().join("out.db"));
        let index = Index::scan(&replica).unwrap();
        assert_eq!(points(&index).iter().map(|point| point.1).collect::<Vec<_>>(), times);
        let mut used = Vec::new();
        for (at, millis) in times.iter().enumerate() {
            let chain = chain::plan(&index, *millis).unwrap();
            used.extend(chain.iter().map(|file| file.name.level));
            assert!(rebuilt(&replica, &chain) == states[at], "{page_size}, state {at}");
            // It takes what is older than the instant, and refuses one after all that there is.
            if at % 6 == 0 && at + 1 < times.len() {
                assert!(restored(&replica, &out, Some(millis + 1)) == states[at], "{page_size}, state {at}");
                assert!(restored(&replica, &out, Some(times[at + 1])) == states[at], "{page_size}, state {at}");
            }
        }
        used.sort();
        used.dedup();
        assert_eq!(used, Level::ALL);
        assert!(restored(&replica, &out, None) == states[39], "{page_size}");
    }
}

/// A second snapshot of 1 GiB and a page takes a while; so litestream's own is looked at where it matters.
#[test]
fn litestream_passes_over_the_lock_page_too() {
    let scene = Scene::new(65536);
    let name = FileName::snapshot(scene.journal.index().next());
    let header = Header { page_size: 65536, pages: 16_386, min: name.min, max: name.max, millis: START };
    let mut writer = scene.journal.begin(name, header).unwrap();
    let page = |number: u32| vec![(number % 251) as u8; 65536];
    (1..=16_384).chain([16_386]).for_each(|number| writer.page(number, &page(number)).unwrap());
    writer.publish(&scene.journal).unwrap();
    let out = scene.dir.path().join("out.db");
    let url = format!("file://{}", scene.replica().display());
    let output = litestream(&["restore", "-o", out.to_str().unwrap(), &url]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = std::fs::File::open(&out).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 16_386 * 65536);
    for (number, expected) in
        [(1_u32, page(1)), (16_384, page(16_384)), (16_385, vec![0; 65536]), (16_386, page(16_386))]
    {
        let mut found = vec![1; 65536];
        file.read_exact_at(&mut found, (u64::from(number) - 1) * 65536).unwrap();
        assert!(found == expected, "page {number}");
    }
}

/// The app, for four seconds at least: rows that come and go, and now and then a VACUUM.
const APP: &str = "import sqlite3, sys, time, random\n\
    c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n\
    end, n = time.time() + 4, 0\n\
    while time.time() < end or n < 150:\n\
    \x20   n += 1\n\
    \x20   c.execute('INSERT INTO marks VALUES (?)', (random.randbytes(300 * (n % 20)),))\n\
    \x20   if n % 40 == 0: c.execute('DELETE FROM marks WHERE rowid % 3 = 0')\n\
    \x20   if n % 90 == 0: c.execute('VACUUM')\n\
    \x20   time.sleep(0.02)\n";

/// A replica that litestream makes of a live database.
fn replicated(dir: &Path) -> PathBuf {
    let (live, replica, app) = (dir.join("live.db"), dir.join("replica"), dir.join("app.py"));
    python(
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('PRAGMA journal_mode=WAL')\n\
         c.execute('CREATE TABLE marks (mark)')\n",
        &[&live],
    );
    std::fs::write(&app, APP).unwrap();
    let config = dir.join("litestream.yml");
    let text = format!(
        "snapshot: {{interval: 2s, retention: 1h}}\nlevels: [{{interval: 1s}}, {{interval: 2s}}]\nl0-retention: 1h\n\
         dbs: [{{path: {}, replica: {{type: file, path: {}, sync-interval: 100ms}}}}]\n",
        live.display(),
        replica.display()
    );
    std::fs::write(&config, text).unwrap();
    let app = format!("python3 {} {}", app.display(), live.display());
    let output = litestream(&["replicate", "-config", config.to_str().unwrap(), "-exec", &app]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    replica
}

#[test]
fn what_litestream_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let replica = replicated(dir.path());
    let index = Index::scan(&replica).unwrap();
    let lie_there = tree(&replica).into_iter().filter(|(name, ..)| name.ends_with(".ltx")).count();
    assert_eq!(index.files().count(), lie_there);
    let mut pages = 0;
    for file in index.files() {
        let mut decoder = Decoder::new(std::fs::File::open(file.name.path(&replica)).unwrap()).unwrap();
        let mut page = Vec::new();
        while decoder.page(&mut page).unwrap().is_some() {
            pages += 1;
        }
        assert_eq!(decoder.header().millis, file.millis, "{}", file.name);
        decoder.finish().unwrap();
    }
    assert!(pages > 100 && index.files().any(|file| file.name.level == Level::COMPACTED[0].0), "{pages}");
    let chain = chain::plan(&index, u64::MAX).unwrap();
    let ours = rebuilt(&replica, &chain);
    let out = dir.path().join("out.db");
    assert!(ours == restored(&replica, &out, None));
    let earlier = points(&index);
    let (txid, millis) = earlier[earlier.len() / 2];
    let chain = chain::plan(&index, millis).unwrap();
    assert!(rebuilt(&replica, &chain) == restored(&replica, &out, Some(millis + 1)), "{txid}");
}
