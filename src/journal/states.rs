//! What each state was as a whole when it was captured: a second word beside the files, in `journal/<database>/states`. An LTX file has
//! a place for it, but litestream refuses those that use it.
//!
//! Records of 40 bytes, integers big-endian: txid, time, pages, bytes a page, the total of all pages, XXH3 of these. The first
//! says whose file it is.
//!
//! It accuses files that are whole and yet wrong: written over by another's, put back from elsewhere. And it tells of states to which
//! no file leads any more. Nothing rests on it, so it is never synced: a record that is torn or missing only means that its state has no
//! second word, and that nobody notices that its file, the last one, is gone. That it accuses no good file:
//!
//! 1. A record is appended when its file is there for good. From then on every other state has a higher number, for the next is one
//!    more than that of any file. A try that failed, or a crash before the record, leaves none.
//! 2. Should such a file be lost all the same, on a disk that promised more than it kept or to somebody who puts an older copy back,
//!    another state gets its number, at a later time. A record is that of a number *and* a time, and of several the last one counts.
//! 3. Records lie at multiples of their length, and each has its checksum: a torn one is none, and hides no other.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use twox_hash::XxHash3_64;

use super::index::Point;
use super::ltx::Header;
use super::name::Txid;
use super::sums::Whole;
use super::{BUFFER, Error};
use crate::disk::{self, Context, Partial};

const FILE: &str = "states";
const LENGTH: usize = 40;
const MARK: &[u8; LENGTH] = b"attendance-backup, states, version 1    ";
/// Fewer records than these aren't worth to be forgotten.
const FEW: u64 = 1000;

type Record = [u8; LENGTH];

/// The file in the hands of whoever writes the journal.
#[derive(Debug)]
pub(super) struct States {
    path: PathBuf,
    /// None before the first record, and where it can't be opened.
    file: Option<File>,
    /// Records, the mark among them.
    records: u64,
    /// That something is wrong with it was said.
    told: bool,
}

impl States {
    /// Of the database whose journal lies in `folder`. One that isn't ours is put aside: nothing is wrong with the journal.
    pub(super) fn open(folder: &Path) -> Self {
        let mut states = Self { path: folder.join(FILE), file: None, records: 0, told: false };
        if let Err(error) = states.take_up() {
            states.tell(&error);
        }
        states
    }

    fn take_up(&mut self) -> Result<(), disk::Error> {
        let opened = match disk::open_regular(&self.path) {
            Err(error) if error.is_missing() => return Ok(()),
            opened => opened?,
        };
        if is_ours(&opened) {
            let file = disk::open_shared(&self.path)?;
            self.records = file.metadata().to("look at", &self.path)?.len() / LENGTH as u64;
            self.file = Some(file);
            return Ok(());
        }
        let aside = self.path.with_extension("damaged");
        tracing::warn!("{} is damaged; it is put aside as {}, and begun anew", self.path.display(), aside.display());
        disk::remove(&aside)?;
        disk::rename_new(&self.path, &aside)
    }

    /// A state whose file is there for good. Whether or not that could be recorded, the journal goes on.
    pub(super) fn append(&mut self, point: Point, whole: Whole) {
        match self.try_append(&record(point, whole)) {
            Ok(()) => self.told = false,
            Err(error) => self.tell(&error),
        }
    }

    fn try_append(&mut self, record: &Record) -> Result<(), disk::Error> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = disk::open_shared(&self.path)?;
                file.write_all_at(MARK, 0).to("write", &self.path)?;
                self.records = 1;
                file
            }
        };
        let file = self.file.insert(file);
        // What a failure has left there is written over by the next one.
        file.write_all_at(record, self.records * LENGTH as u64).to("write", &self.path)?;
        self.records += 1;
        Ok(())
    }

    fn tell(&mut self, error: &disk::Error) {
        if !self.told {
            tracing::warn!(
                "what the states of the journal were as a whole can't be kept, and is not compared: {error}"
            );
            self.told = true;
        }
    }
}

/// Forgets the states before `oldest`, once they are most of all. Whoever appends waits only for what came meanwhile.
pub(super) fn forget_before(states: &Mutex<States>, oldest: Txid) {
    if let Err(error) = try_forget(states, oldest) {
        held(states).tell(&error);
    }
}

/// Each change of it is whole, whatever panicked after it.
pub(super) fn held(states: &Mutex<States>) -> MutexGuard<'_, States> {
    states.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_forget(states: &Mutex<States>, oldest: Txid) -> Result<(), disk::Error> {
    let (path, records) = {
        let states = held(states);
        (states.path.clone(), states.records)
    };
    let file = match disk::open_regular(&path) {
        Err(error) if error.is_missing() => return Ok(()),
        file => file?,
    };
    let kept = copy(&file, 1..records, oldest, &mut io::sink()).to("read", &path)?;
    let gone = records.saturating_sub(1 + kept);
    if gone < FEW || gone < kept {
        return Ok(());
    }
    disk::remove(&disk::partial_path(&path))?;
    let partial = Partial::create(&path)?;
    let mut into = BufWriter::with_capacity(BUFFER, partial.file());
    into.write_all(MARK).to("write", partial.path())?;
    let mut kept = 1 + copy(&file, 1..records, oldest, &mut into).to("copy", &path)?;
    into.flush().to("write", partial.path())?;
    partial.sync()?;
    let mut states = held(states);
    kept += copy(&file, records..states.records, oldest, &mut into).to("copy", &path)?;
    into.flush().to("write", partial.path())?;
    drop(into);
    partial.publish_over()?;
    states.file = Some(disk::open_shared(&path)?);
    states.records = kept;
    Ok(())
}

/// Copies what is of `oldest` or later, and says how many.
fn copy(file: &File, records: std::ops::Range<u64>, oldest: Txid, into: &mut impl Write) -> io::Result<u64> {
    let mut kept = 0;
    let length = records.end.saturating_sub(records.start) * LENGTH as u64;
    let from = At { file, offset: records.start * LENGTH as u64 };
    each(from.take(length), |record| {
        if is_whole(record) && number(record, 0) >= oldest.get() {
            into.write_all(record)?;
            kept += 1;
        }
        Ok(())
    })?;
    Ok(kept)
}

/// What a state was, where that is known.
pub fn find(folder: &Path, point: Point) -> Option<Whole> {
    let path = folder.join(FILE);
    let unread = |error: &dyn std::fmt::Display| tracing::warn!("nothing is compared with what was noted: {error}");
    let file = match disk::open_regular(&path) {
        Err(error) if error.is_missing() => return None,
        opened => opened.inspect_err(|error| unread(error)).ok().filter(is_ours)?,
    };
    let key = record(point, Whole { page_size: 0, pages: 0, total: 0 });
    let mut found = None;
    let read = each(At { file: &file, offset: LENGTH as u64 }, |record| {
        if record[..16] == key[..16] && is_whole(record) {
            found = Some(whole_of(record));
        }
        Ok(())
    });
    read.to("read", &path).inspect_err(|error| unread(error)).ok().and(found)
}

/// What of these states is known, in the order of their numbers. A look at what was noted since the first of them: it is the newest that
/// are asked for, mostly.
pub fn find_all(folder: &Path, points: &[Point]) -> Vec<Option<Whole>> {
    let mut found = vec![None; points.len()];
    let (Some(first), path) = (points.first(), folder.join(FILE)) else { return found };
    let Some(file) = disk::open_regular(&path).ok().filter(is_ours) else { return found };
    let records = file.metadata().map_or(0, |meta| meta.len()) / LENGTH as u64;
    let from = At { file: &file, offset: since(&file, records, first.txid) * LENGTH as u64 };
    let read = each(from, |record| {
        let (txid, millis) = (number(record, 0), number(record, 8));
        let at = points.partition_point(|point| point.txid.get() < txid);
        if points.get(at).is_some_and(|point| (point.txid.get(), point.millis) == (txid, millis)) && is_whole(record) {
            found[at] = Some(whole_of(record));
        }
        Ok(())
    });
    if let Err(error) = read.to("read", &path) {
        tracing::warn!("nothing is said of what was noted: {error}");
    }
    found
}

/// The first state that was captured after that one, of which there is a record: if no file leads to it, its file is gone.
pub fn captured_after(folder: &Path, last: Point) -> Option<Point> {
    let file = disk::open_regular(&folder.join(FILE)).ok().filter(is_ours)?;
    let mut first = None;
    let read = each(At { file: &file, offset: LENGTH as u64 }, |record| {
        let (txid, millis) = (number(record, 0), number(record, 8));
        // An earlier one was lost before that, and its number is taken again.
        if txid > last.txid.get() && millis > last.millis && is_whole(record) {
            first = first.into_iter().chain([(millis, txid)]).min();
        }
        Ok(())
    });
    let (millis, txid) = read.ok().and(first)?;
    Some(Point { txid: Txid::new(txid)?, millis })
}

/// Which record is the first of that number or a later one. Where numbers don't ascend, as after an older copy was put back, it may be too late.
fn since(file: &File, records: u64, txid: Txid) -> u64 {
    let (mut from, mut to) = (1, records);
    while from < to {
        let (middle, mut record) = (from + (to - from) / 2, [0; LENGTH]);
        let read = file.read_exact_at(&mut record, middle * LENGTH as u64);
        if read.is_ok() && number(&record, 0) < txid.get() { from = middle + 1 } else { to = middle }
    }
    from
}

fn whole_of(record: &Record) -> Whole {
    let pages = number(record, 16);
    Whole { pages: (pages >> 32) as u32, page_size: pages as u32, total: number(record, 24) }
}

/// Notes what states were as a whole in the folder of a journal that was brought from elsewhere.
pub fn note(folder: &Path, brought: &[(Point, Whole)]) {
    let mut states = States::open(folder);
    brought.iter().for_each(|(point, whole)| states.append(*point, *whole));
}

/// That what files come to is what was captured, where that is known. Their last one has this header.
pub(super) fn compare(folder: &Path, header: &Header, found: Whole) -> Result<(), Error> {
    match find(folder, Point { txid: header.max, millis: header.millis }) {
        Some(captured) if captured != found => Err(Error::Unlike { folder: folder.to_owned(), txid: header.max }),
        _ => Ok(()),
    }
}

fn record(point: Point, whole: Whole) -> Record {
    let mut record = [0; LENGTH];
    record[..8].copy_from_slice(&point.txid.get().to_be_bytes());
    record[8..16].copy_from_slice(&point.millis.to_be_bytes());
    record[16..20].copy_from_slice(&whole.pages.to_be_bytes());
    record[20..24].copy_from_slice(&whole.page_size.to_be_bytes());
    record[24..32].copy_from_slice(&whole.total.to_be_bytes());
    let sum = XxHash3_64::oneshot(&record[..32]);
    record[32..].copy_from_slice(&sum.to_be_bytes());
    record
}

fn is_whole(record: &Record) -> bool {
    number(record, 32) == XxHash3_64::oneshot(&record[..32])
}

fn number(record: &Record, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[at..at + 8]);
    u64::from_be_bytes(bytes)
}

fn is_ours(file: &File) -> bool {
    let mut mark = [0; LENGTH];
    file.read_exact_at(&mut mark, 0).is_ok() && mark == *MARK
}

/// All records that are there to their ends.
fn each(from: impl Read, mut each: impl FnMut(&Record) -> io::Result<()>) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    let mut record = [0; LENGTH];
    loop {
        match from.read_exact(&mut record) {
            Ok(()) => each(&record)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// A file from an offset on; whoever else reads it is in no one's way.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(txid: u64) -> Point {
        Point { txid: Txid::new(txid).unwrap(), millis: 1_760_000_000_000 + 1000 * txid }
    }

    fn whole(total: u64) -> Whole {
        Whole { page_size: 65536, pages: 7, total }
    }

    fn written(folder: &Path, txids: std::ops::RangeInclusive<u64>) -> States {
        let mut states = States::open(folder);
        txids.for_each(|txid| states.append(point(txid), whole(txid)));
        states
    }

    #[test]
    fn what_was_appended_is_found_by_number_and_time_and_the_last_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path(), point(1)), None);
        let mut states = written(dir.path(), 1..=5);
        let again = Point { millis: point(3).millis + 1, ..point(3) };
        states.append(again, whole(33));
        assert_eq!([find(dir.path(), point(3)), find(dir.path(), again)], [Some(whole(3)), Some(whole(33))]);
        states.append(point(3), whole(333));
        assert_eq!(find(dir.path(), point(3)), Some(whole(333)));
        assert_eq!(find(dir.path(), point(6)), None);
        let after = |point| captured_after(dir.path(), point);
        assert_eq!([1, 3, 4].map(|txid| after(point(txid))), [2, 4, 5].map(|txid| Some(point(txid))));
        assert_eq!(after(point(5)), None);
        assert_eq!(after(again), Some(point(4)));
        assert_eq!(
            after(Point { millis: point(6).millis, ..point(3) }),
            None,
            "3 was captured again after those were lost"
        );
    }

    #[test]
    fn many_are_found_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find_all(dir.path(), &[point(1)]), [None]);
        let mut states = written(dir.path(), 1..=5);
        let again = Point { millis: point(6).millis + 1, ..point(6) };
        states.append(again, whole(66));
        note(dir.path(), &[(point(8), whole(8)), (point(9), whole(9))]);
        let found = |points: &[Point]| find_all(dir.path(), points);
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[point(1), point(3)]), [Some(whole(1)), Some(whole(3))]);
        assert_eq!(found(&[point(5), point(6), point(7), point(9)]), [Some(whole(5)), None, None, Some(whole(9))]);
        assert_eq!(found(&[again, point(8), point(10)]), [Some(whole(66)), Some(whole(8)), None]);
        std::fs::write(dir.path().join(FILE), "[]").unwrap();
        assert_eq!(found(&[point(1)]), [None]);
    }

    #[test]
    fn a_torn_record_is_none_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        written(dir.path(), 1..=3);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
        assert_eq!([2, 3].map(|txid| find(dir.path(), point(txid))), [Some(whole(2)), None]);
        written(dir.path(), 4..=5);
        assert_eq!([2, 3, 4, 5].map(|txid| find(dir.path(), point(txid)).is_some()), [true, false, true, true]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[2 * LENGTH + 30] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!([1, 2, 4].map(|txid| find(dir.path(), point(txid)).is_some()), [true, false, true]);
    }

    #[test]
    fn what_is_not_ours_is_put_aside_and_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for foreign in ["", "[]", &"x".repeat(400)] {
            std::fs::write(&path, foreign).unwrap();
            assert_eq!(find(dir.path(), point(1)), None);
            written(dir.path(), 1..=1);
            assert_eq!(find(dir.path(), point(1)), Some(whole(1)));
            assert_eq!(std::fs::read_to_string(dir.path().join("states.damaged")).unwrap(), foreign);
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let states = written(dir.path(), 1..=2);
        assert!(states.told && find(dir.path(), point(1)).is_none());
    }

    #[test]
    fn what_can_not_be_rebuilt_any_more_is_forgotten_once_it_is_much() {
        let dir = tempfile::tempdir().unwrap();
        let states = Mutex::new(written(dir.path(), 1..=3000));
        let length = || std::fs::metadata(dir.path().join(FILE)).unwrap().len();
        let before = length();
        forget_before(&states, Txid::new(1400).unwrap());
        assert_eq!(length(), before, "it isn't most of them");
        forget_before(&states, Txid::new(1700).unwrap());
        assert_eq!(length(), LENGTH as u64 * 1302);
        states.lock().unwrap().append(point(3001), whole(3001));
        let found = [1699, 1700, 3000, 3001].map(|txid| find(dir.path(), point(txid)));
        assert_eq!(found, [None, Some(whole(1700)), Some(whole(3000)), Some(whole(3001))]);
        drop(states);
        written(dir.path(), 3002..=3002);
        assert_eq!([3001, 3002].map(|txid| find(dir.path(), point(txid)).is_some()), [true; 2]);
    }
}
