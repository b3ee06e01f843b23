//! A journal that a test writes by itself: what the live databases hold at instants of its choice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use attendance_backup::journal::ltx::Header;
use attendance_backup::journal::{FileName, Index, Journal, Point, Txid, chain};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::harness::{Place, python};

/// The databases whose journal is kept.
const NAMES: [&str; 2] = ["attendance", "auth"];

/// An instant of the day on which all of it happens.
pub fn at(time: &str) -> DateTime<Utc> {
    format!("2025-03-04T{time}Z").parse().unwrap()
}

/// All states that can be rebuilt, with their times.
pub fn points(index: &Index) -> Vec<(Txid, u64)> {
    let leads = |point: &Point| chain::plan(index, point.millis)?.last().map(Point::from).filter(|last| last == point);
    let points = index.files().map(Point::from).filter_map(|point| leads(&point));
    points.map(|point| (point.txid, point.millis)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// One database: its journal, and the pages that it had last.
struct Kept {
    journal: Journal,
    pages: Vec<Vec<u8>>,
}

/// Whoever keeps the journal of a place.
pub struct Recorder {
    root: PathBuf,
    kept: BTreeMap<&'static str, Kept>,
    gaps: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

impl Recorder {
    /// In a place without a backup directory, which a first backup makes.
    pub fn of(place: &Place) -> Self {
        place.create();
        Self::only(place, &NAMES)
    }

    /// Of these databases, where there is a backup directory.
    pub fn only(place: &Place, names: &[&'static str]) -> Self {
        let open = |name: &str| Journal::open(&place.backups(), &name.parse().unwrap()).unwrap();
        let kept = names.iter().map(|name| (*name, Kept { journal: open(name), pages: Vec::new() }));
        Self { root: place.backups(), kept: kept.collect(), gaps: Vec::new() }
    }

    /// What the live databases hold is what they held at that instant.
    pub fn tick(&mut self, place: &Place, now: DateTime<Utc>) {
        self.tick_of(now, |name| place.live(name));
    }

    /// The same of other files.
    pub fn tick_of(&mut self, now: DateTime<Utc>, path: impl Fn(&str) -> PathBuf) {
        for (name, kept) in &mut self.kept {
            kept.take(pages(&path(name)), u64::try_from(now.timestamp_millis()).unwrap());
        }
        self.alive(now);
    }

    /// A tick that found nothing new.
    pub fn alive(&self, now: DateTime<Utc>) {
        write(&self.root.join("journal/alive"), &text(now));
    }

    /// Nobody looked between these two.
    pub fn gap(&mut self, from: DateTime<Utc>, to: DateTime<Utc>) {
        self.gaps.push((from, to));
        let gaps: Vec<_> = self.gaps.iter().map(|(from, to)| json!({ "from": text(*from), "to": text(*to) })).collect();
        write(&self.root.join("journal/timeline.json"), &json!({ "version": 1, "gaps": gaps }).to_string());
    }

    /// The newest file of a database.
    pub fn newest(&self, name: &str) -> PathBuf {
        let journal = &self.kept[name].journal;
        let newest = journal.index().files().max_by_key(|file| (file.name.max, file.name.level)).copied().unwrap();
        newest.name.path(journal.folder())
    }
}

impl Kept {
    /// The first state is a snapshot, a later one what has changed; nothing if nothing has.
    fn take(&mut self, pages: Vec<Vec<u8>>, millis: u64) {
        if pages == self.pages {
            return;
        }
        let txid = self.journal.index().next();
        let name = if txid == Txid::FIRST { FileName::snapshot(txid) } else { FileName::captured(txid) };
        let page_size = u32::try_from(pages[0].len()).unwrap();
        let count = u32::try_from(pages.len()).unwrap();
        let header = Header { page_size, pages: count, min: name.min, max: name.max, millis };
        let mut writer = self.journal.begin(name, header).unwrap();
        for (number, page) in (1..).zip(&pages) {
            if self.pages.get(number as usize - 1) != Some(page) {
                writer.page(number, page).unwrap();
            }
        }
        writer.publish(&self.journal).unwrap();
        self.pages = pages;
    }
}

/// As SQLite's own backup copies them.
fn pages(path: &Path) -> Vec<Vec<u8>> {
    let copy = tempfile::NamedTempFile::new().unwrap();
    let copied = "import sqlite3, sys, urllib.parse\n\
                  a = sqlite3.connect('file:' + urllib.parse.quote(sys.argv[1]) + '?mode=rw', uri=True, timeout=10)\n\
                  b = sqlite3.connect(sys.argv[2])\n\
                  a.backup(b)\n\
                  b.close()\n";
    python(copied, &[path, copy.path()]);
    let bytes = std::fs::read(copy.path()).unwrap();
    let size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65536,
        size => usize::from(size),
    };
    bytes.chunks(size).map(<[u8]>::to_vec).collect()
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// For its owner alone, as `serve` writes it.
fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
