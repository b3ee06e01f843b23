mod folder;
mod model;

use std::collections::BTreeSet;

use tempfile::TempDir;

use super::ltx::Header;
use super::sums::{Sums, page_sum};
use super::*;
use crate::backup::DatabaseName;
use crate::sqlite::Control;

const SIZE: u32 = 512;
/// A minute's begin.
const START: u64 = 1_760_000_040_000;

type Pages = Vec<Vec<u8>>;

/// A backup directory of its own, with a journal in it.
struct Place {
    dir: TempDir,
    journal: Journal,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(&dir);
        Self { dir, journal }
    }

    fn reopen(&mut self) {
        self.journal = open(&self.dir);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.journal.folder().join("ltx").join(name)
    }

    /// The state that comes next, as a tick or as a new base.
    fn capture(&mut self, before: &Pages, now: &Pages, millis: u64, is_base: bool) -> Result<Txid, Error> {
        let txid = self.journal.index().next();
        let name = if is_base { FileName::snapshot(txid) } else { FileName::captured(txid) };
        let header = Header { page_size: SIZE, pages: now.len() as u32, min: name.min, max: name.max, millis };
        let mut writer = self.journal.begin(name, header)?;
        for (at, page) in now.iter().enumerate().filter(|(at, page)| is_base || before.get(*at) != Some(page)) {
            writer.page(at as u32 + 1, page)?;
        }
        let file = writer.publish(&self.journal)?;
        self.journal.remember((&file).into(), sums_of(now).whole());
        Ok(txid)
    }

    /// Captures `states` one after the other, a second each, the first as a snapshot.
    fn captured(states: &[Pages]) -> Self {
        let mut place = Self::new();
        for (at, state) in states.iter().enumerate() {
            let before = at.checked_sub(1).map_or(&[][..], |before| &states[before]).to_vec();
            place.capture(&before, state, START + 1000 * at as u64, at == 0).unwrap();
        }
        place
    }

    /// The database at an instant, rebuilt in both ways.
    fn at(&self, millis: u64) -> Result<Pages, Error> {
        let index = Index::scan(self.journal.folder())?;
        let chain = chain::plan(&index, millis).unwrap_or_default();
        let target = tempfile::NamedTempFile::new_in(&self.dir).unwrap();
        let control = Control::default();
        let folder = self.journal.folder();
        let rebuilt = rebuild::rebuild(folder, &chain, (target.as_file(), target.path()), &control)?;
        let bytes = std::fs::read(target.path()).unwrap();
        let pages: Pages = bytes.chunks(SIZE as usize).map(<[u8]>::to_vec).collect();
        let sums = rebuild::sums(folder, &chain, &control)?;
        assert_eq!(sums, sums_of(&pages));
        assert_eq!((rebuilt.page_size, rebuilt.pages as usize), (SIZE, pages.len()));
        assert_eq!(rebuilt.content.size(), bytes.len() as u64);
        Ok(pages)
    }

    fn points(&self) -> Vec<(u64, u64)> {
        let index = Index::scan(self.journal.folder()).unwrap();
        assert_eq!(index, *self.journal.index());
        let points = points(&index);
        assert_eq!(index.newest().map(|point| (point.txid.get(), point.millis)), points.last().copied());
        points
    }
}

/// All states that can be rebuilt, with their times.
fn points(index: &Index) -> Vec<(u64, u64)> {
    let leads = |point: &Point| chain::plan(index, point.millis)?.last().map(Point::from).filter(|last| last == point);
    let points = index.files().map(Point::from).filter_map(|point| leads(&point));
    let points: BTreeSet<_> = points.map(|point| (point.txid.get(), point.millis)).collect();
    points.into_iter().collect()
}

fn open(dir: &TempDir) -> Journal {
    let name: DatabaseName = "attendance".parse().unwrap();
    Journal::open(dir.path(), &name).unwrap()
}

fn sums_of(pages: &Pages) -> Sums {
    let mut sums = Sums::new(SIZE, pages.len());
    (1..).zip(pages).for_each(|(number, page)| sums.set(number, page_sum(page)));
    sums
}

fn page(seed: u8) -> Vec<u8> {
    (0..SIZE as usize).map(|at| if at < 40 { (at as u8).wrapping_mul(seed) } else { seed }).collect()
}

/// States of a database that grows, shrinks, and grows again with other pages.
fn states() -> Vec<Pages> {
    let state = |seeds: &[u8]| seeds.iter().map(|seed| page(*seed)).collect();
    vec![
        state(&[1, 2, 3, 4, 5, 6]),
        state(&[7, 2, 3, 4, 5, 6]),
        state(&[8, 2]),
        state(&[9, 2, 10, 11, 12]),
        state(&[9, 13, 10, 11, 12, 14, 15]),
    ]
}
