//! What the folder of a journal takes, keeps and gives back.

use std::fs::{FileTimes, OpenOptions, metadata, read_dir};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::journal::chain::Horizon;

const CAPTURED: &str = "0/0000000000000002-0000000000000002.ltx";

fn modified(place: &Place, name: &str) -> Duration {
    metadata(place.path(name)).unwrap().modified().unwrap().duration_since(UNIX_EPOCH).unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    let times = FileTimes::new().set_modified(metadata(path).unwrap().modified().unwrap());
    std::fs::write(path, bytes).unwrap();
    OpenOptions::new().write(true).open(path).unwrap().set_times(times).unwrap();
}

#[test]
fn each_state_comes_back_until_the_next_one() {
    let states = states();
    let place = Place::captured(&states);
    assert!(place.at(START - 1).is_err());
    for (at, state) in states.iter().enumerate() {
        let millis = START + 1000 * at as u64;
        assert_eq!(&place.at(millis).unwrap(), state);
        assert_eq!(&place.at(millis + 999).unwrap(), state);
    }
    assert_eq!(place.points(), (0..5).map(|at| (at + 1, START + 1000 * at)).collect::<Vec<_>>());
    assert_eq!(modified(&place, CAPTURED), Duration::from_millis(START + 1000));
    for (name, mode) in [("", 0o700), ("0", 0o700), (CAPTURED, 0o600)] {
        assert_eq!(metadata(place.path(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn what_leads_nowhere_is_refused() {
    let states = states();
    let mut place = Place::new();
    let astray = |place: &mut Place, is_base, millis| {
        place.capture(&states[0], &states[1], millis, is_base).unwrap_err().to_string()
    };
    assert!(astray(&mut place, false, START).contains("the last state can't be rebuilt"));
    place.capture(&Vec::new(), &states[0], START, true).unwrap();
    assert!(astray(&mut place, false, START - 1).contains("it is older than the last"));
    assert!(astray(&mut place, true, START - 1).contains("it is older than the last"));
    let name = FileName::captured(Txid::new(3).unwrap());
    let header = Header { page_size: SIZE, pages: 1, min: name.min, max: name.max, millis: START };
    assert!(place.journal.begin(name, header).err().unwrap().to_string().contains("its number isn't the next"));
    let other = Header { max: Txid::new(4).unwrap(), ..header };
    assert!(place.journal.begin(name, other).err().unwrap().to_string().contains("its header isn't that of its name"));
    let name = FileName::snapshot(place.journal.index().next());
    let mut lacking = place.journal.begin(name, Header { min: name.min, max: name.max, ..header }).unwrap();
    assert!(lacking.page(2, &page(1)).unwrap_err().to_string().contains("it has a page beyond the database's end"));
    let told = lacking.publish(&place.journal).unwrap_err();
    assert!(matches!(&told, Error::Astray { name: told, .. } if *told == name), "{told}");
    assert_eq!(place.points(), [(1, START)]);
    assert_eq!((read_dir(place.path("0")).unwrap().count(), read_dir(place.path("9")).unwrap().count()), (0, 1));
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing_and_a_partial_is_swept() {
    let mut place = Place::captured(&states()[..1]);
    let name = FileName::captured(place.journal.index().next());
    let header = Header { page_size: SIZE, pages: 6, min: name.min, max: name.max, millis: START };
    drop(place.journal.begin(name, header).unwrap());
    assert_eq!(read_dir(place.path("0")).unwrap().count(), 0);
    let ours = place.path("0/.0000000000000002-0000000000000002.ltx.partial");
    let others = [place.path("0/.x.partial"), place.path("0/notes.txt")];
    std::fs::write(&ours, "x").unwrap();
    others.iter().for_each(|path| std::fs::write(path, "x").unwrap());
    place.reopen();
    assert!(!ours.exists() && others.iter().all(|path| path.exists()));
    assert_eq!(place.points().len(), 1);
}

#[test]
fn damage_is_told_with_the_file_and_the_states_before_it_stay() {
    let states = states();
    let place = Place::captured(&states);
    let length = metadata(place.path(CAPTURED)).unwrap().len() as usize;
    for at in [0, 20, 120, length - 1] {
        flip(&place.path(CAPTURED), at);
        let told = place.at(START + 1000).unwrap_err();
        assert!(matches!(&told, Error::Damaged { path, .. } if *path == place.path(CAPTURED)), "{told}");
        assert_eq!(place.at(START + 999).unwrap(), states[0]);
        flip(&place.path(CAPTURED), at);
    }
    assert_eq!(place.at(START + 1000).unwrap(), states[1]);
}

/// Each file is whole, and its own.
#[test]
fn a_file_in_whose_place_another_whole_one_lies_is_found_out() {
    let states = states();
    let place = Place::captured(&states);
    let (name, millis) = (FileName::captured(Txid::new(2).unwrap()), START + 1000);
    let header = Header { page_size: SIZE, pages: 6, min: name.min, max: name.max, millis };
    let mut encoder = ltx::Encoder::new(Vec::new(), header).unwrap();
    encoder.page(1, &page(99)).unwrap();
    std::fs::write(place.path(CAPTURED), encoder.finish().unwrap()).unwrap();
    let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_millis(millis));
    OpenOptions::new().write(true).open(place.path(CAPTURED)).unwrap().set_times(times).unwrap();
    let told = place.at(millis).unwrap_err();
    assert!(matches!(&told, Error::Unlike { txid, .. } if *txid == name.max), "{told}");
    // The third state has the same page anew.
    assert_eq!(place.at(START).unwrap(), states[0]);
    assert_eq!(place.at(START + 2000).unwrap(), states[2]);
    let names: Vec<LtxFile> = place.journal.index().level(Level::CAPTURED)[1..].to_vec();
    names.iter().for_each(|file| std::fs::remove_file(file.name.path(place.journal.folder())).unwrap());
    let journal = open(&place.dir);
    assert!(matches!(journal.snapshot_from_files(&Control::default()), Err(Error::Unlike { .. })));
    assert_eq!(journal.index().level(Level::SNAPSHOT).len(), 1);
    // Nothing says so without the second word.
    std::fs::remove_file(place.journal.folder().join("states")).unwrap();
    assert_eq!(place.at(millis).unwrap()[0], page(99));
}

#[test]
fn a_file_that_is_gone_is_a_hole_until_a_new_base() {
    let states = states();
    let mut place = Place::captured(&states);
    let chain = chain::plan(&place.journal.index(), u64::MAX).unwrap();
    std::fs::remove_file(place.path(CAPTURED)).unwrap();
    assert!(matches!(rebuild::sums(place.journal.folder(), &chain, &Control::default()), Err(Error::Gone { .. })));
    place.reopen();
    assert_eq!(place.points(), [(1, START)]);
    // Until then the first state is known, and from then on nothing.
    assert_eq!(place.at(START + 1999).unwrap(), states[0]);
    assert!(chain::plan(&place.journal.index(), START + 2000).is_none());
    assert!(place.capture(&states[4], &states[0], START + 9000, false).is_err());
    place.capture(&states[4], &states[0], START + 9000, true).unwrap();
    assert_eq!(place.points(), [(1, START), (6, START + 9000)]);
    assert_eq!(place.at(START + 9000).unwrap(), states[0]);
}

#[test]
fn what_another_file_leads_over_is_no_hole() {
    let states = states();
    let mut place = Place::captured(&states);
    assert_eq!(place.journal.compact(START + 30_000, &Control::default()).unwrap(), 1);
    std::fs::remove_file(place.path(CAPTURED)).unwrap();
    place.reopen();
    assert_eq!(place.points(), [(1, START), (5, START + 4000)]);
    assert_eq!(place.at(START + 4000).unwrap(), states[4]);
}

#[test]
fn no_file_leads_over_a_new_base() {
    let states = states();
    let mut place = Place::captured(&states[..2]);
    place.capture(&states[1], &states[2], START + 2000, true).unwrap();
    place.capture(&states[2], &states[3], START + 3000, false).unwrap();
    place.capture(&states[3], &states[4], START + 4000, false).unwrap();
    assert_eq!(place.journal.compact(START + 4_000_000, &Control::default()).unwrap(), 6);
    let index = place.journal.index().clone();
    let ranges = index.level(Level::COMPACTED[2].0).iter();
    assert_eq!(ranges.map(|file| (file.name.min.get(), file.name.max.get())).collect::<Vec<_>>(), [(2, 2), (4, 5)]);
    // Without the base nothing says that it knows what came after it.
    std::fs::remove_file(place.path("9/0000000000000001-0000000000000003.ltx")).unwrap();
    place.reopen();
    assert_eq!(place.points(), [(1, START), (2, START + 1000)]);
    assert!(chain::plan(&place.journal.index(), u64::MAX).is_none());
}

#[test]
fn a_database_that_grows_brings_its_new_pages() {
    let states = states();
    for numbers in [&[1][..], &[8], &[7]] {
        let place = Place::captured(&states[..1]);
        let name = FileName::captured(place.journal.index().next());
        let header = Header { page_size: SIZE, pages: 8, min: name.min, max: name.max, millis: START + 1000 };
        let mut writer = place.journal.begin(name, header).unwrap();
        numbers.iter().for_each(|number| writer.page(*number, &page(1)).unwrap());
        writer.publish(&place.journal).unwrap();
        let told = place.at(START + 1000).unwrap_err().to_string();
        assert!(told.contains("it lacks pages at the database's end"), "{numbers:?}: {told}");
        assert!(place.journal.snapshot_from_files(&Control::default()).is_err());
    }
}

#[test]
fn times_that_a_copy_lost_are_mended() {
    let states = states();
    let mut place = Place::captured(&states);
    place.journal.compact(START + 30_000, &Control::default()).unwrap();
    let (points, lost) = (place.points(), UNIX_EPOCH + Duration::from_secs(2_000_000_000));
    let every: Vec<PathBuf> =
        place.journal.index().files().map(|file| file.name.path(place.journal.folder())).collect();
    // All of them, or one that is neither first nor last.
    for some in [&every[..], &every[1..2]] {
        for path in some {
            OpenOptions::new().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(lost)).unwrap();
        }
        assert_eq!(place.points(), points);
        assert_eq!(place.at(START + 2000).unwrap(), states[2]);
        place.reopen();
        assert_eq!(modified(&place, CAPTURED), Duration::from_millis(START + 1000));
    }
}

#[test]
fn a_base_that_is_damaged_lets_nothing_go() {
    let states = states();
    let place = Place::captured(&states);
    assert!(place.journal.snapshot_from_files(&Control::default()).unwrap());
    assert!(!place.journal.snapshot_from_files(&Control::default()).unwrap());
    let base = place.path("9/0000000000000001-0000000000000005.ltx");
    flip(&base, 130);
    let count = place.journal.index().files().count();
    assert!(
        matches!(place.journal.retain(Horizon::since(u64::MAX), &Control::default()), Err(Error::Damaged { path, .. }) if path == base)
    );
    assert_eq!(place.journal.index().files().count(), count);
    flip(&base, 130);
    assert_eq!(place.journal.retain(Horizon::since(START + 3999), &Control::default()).unwrap(), 0);
    assert_eq!(place.journal.retain(Horizon::since(u64::MAX), &Control::default()).unwrap(), 5);
    assert_eq!(place.points(), [(5, START + 4000)]);
    assert_eq!(place.at(u64::MAX).unwrap(), states[4]);
}

#[test]
fn what_is_noted_of_states_goes_with_them() {
    let states = states();
    let mut place = Place::captured(&states);
    let first = Point { txid: Txid::FIRST, millis: START };
    (0..1000).for_each(|_| place.journal.remember(first, sums_of(&states[0]).whole()));
    assert!(place.journal.snapshot_from_files(&Control::default()).unwrap());
    place.journal.retain(Horizon::since(START + 3999), &Control::default()).unwrap();
    assert!(states::find(place.journal.folder(), first).is_some());
    place.journal.retain(Horizon::since(u64::MAX), &Control::default()).unwrap();
    assert_eq!(states::find(place.journal.folder(), first), None);
    let newest = Point { txid: Txid::new(5).unwrap(), millis: START + 4000 };
    assert_eq!(states::find(place.journal.folder(), newest), Some(sums_of(&states[4]).whole()));
    place.capture(&states[4], &states[0], START + 9000, false).unwrap();
    assert_eq!(place.at(u64::MAX).unwrap(), states[0]);
    place.reopen();
    assert_eq!(metadata(place.journal.folder().join("states")).unwrap().len(), 3 * 40);
}

#[test]
fn what_is_stopped_leaves_what_was_there() {
    let place = Place::captured(&states());
    let control = Control::default();
    control.cancel();
    let points = place.points();
    assert!(matches!(place.journal.compact(START + 30_000, &control), Err(Error::Stopped(_))));
    assert!(matches!(place.journal.snapshot_from_files(&control), Err(Error::Stopped(_))));
    assert_eq!(place.points(), points);
    let names: Vec<_> = read_dir(place.path("9")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["0000000000000001-0000000000000001.ltx"]);
}

#[test]
fn what_is_damaged_keeps_nothing_else_from_being_merged() {
    let states = states();
    let mut place = Place::captured(&states[..3]);
    place.capture(&states[2], &states[3], START + 30_000, true).unwrap();
    place.capture(&states[3], &states[4], START + 31_000, false).unwrap();
    flip(&place.path(CAPTURED), 120);
    for due in [30_000, 60_000] {
        let told = place.journal.compact(START + due, &Control::default());
        assert!(matches!(told, Err(Error::Damaged { .. })), "{told:?}");
    }
    let index = place.journal.index().clone();
    let ranges = index.level(Level::COMPACTED[0].0).iter();
    assert_eq!(ranges.map(|file| (file.name.min.get(), file.name.max.get())).collect::<Vec<_>>(), [(5, 5)]);
    assert_eq!(place.journal.compact(START + 60_000, &Control::default()).unwrap(), 0);
    assert_eq!(place.at(START + 31_000).unwrap(), states[4]);
}

#[test]
fn more_files_than_can_be_open_at_once_are_merged_in_parts() {
    let mut place = Place::new();
    let state = |number: u16| vec![page(1), number.to_be_bytes().repeat(256)];
    place.capture(&Vec::new(), &state(0), START, true).unwrap();
    for number in 1..=300_u16 {
        place.capture(&state(number - 1), &state(number), START + u64::from(number), false).unwrap();
    }
    let before = place.points();
    // So many are not waited with until their time is over.
    assert_eq!(place.journal.compact(START + 1000, &Control::default()).unwrap(), 1);
    assert_eq!(place.journal.compact(START + 30_000, &Control::default()).unwrap(), 1);
    assert_eq!(place.journal.index().level(Level::COMPACTED[0].0).len(), 2);
    assert_eq!(place.points(), before);
    std::fs::remove_dir_all(place.path("1")).unwrap();
    place.reopen();
    assert!(place.journal.snapshot_from_files(&Control::default()).unwrap());
    assert_eq!(place.journal.index().level(Level::SNAPSHOT).len(), 3);
    assert_eq!(place.points(), before);
    assert_eq!(place.at(u64::MAX).unwrap(), state(300));
}

/// A database whose merge takes longer than a tick.
#[test]
fn what_is_captured_during_a_snapshot_is_left_to_the_next() {
    const PAGES: u32 = 20_000;
    let place = Place::new();
    let journal = &place.journal;
    let write = |name: FileName, numbers: RangeInclusive<u32>| {
        let millis = START + name.max.get();
        let header = Header { page_size: SIZE, pages: PAGES, min: name.min, max: name.max, millis };
        let mut writer = journal.begin(name, header).unwrap();
        numbers.for_each(|number| writer.page(number, &page(name.max.get() as u8)).unwrap());
        writer.publish(journal).unwrap();
    };
    let tick = || {
        let next = journal.index().next();
        write(FileName::captured(next), 1..=1);
    };
    write(FileName::snapshot(Txid::FIRST), 1..=PAGES);
    tick();
    let (snapshots, is_over) = (|| journal.index().level(Level::SNAPSHOT).len(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // It ends in any case.
            let goes_on = |_: &u32| !is_over.load(Ordering::Relaxed) && snapshots() < 6;
            (0..10_000).take_while(goes_on).for_each(|_| tick());
        });
        assert!(journal.snapshot_from_files(&Control::default()).unwrap());
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(snapshots(), 2, "the first, and that of what was the newest state");
}

#[test]
fn nothing_is_written_over() {
    let place = Place::captured(&states()[..1]);
    let name = FileName::captured(place.journal.index().next());
    let header = Header { page_size: SIZE, pages: 6, min: name.min, max: name.max, millis: START };
    let writer = place.journal.begin(name, header).unwrap();
    assert!(matches!(place.journal.begin(name, header), Err(Error::Disk(_))));
    std::fs::write(place.path(CAPTURED), "x").unwrap();
    assert!(matches!(writer.publish(&place.journal), Err(Error::Disk(_))));
    assert_eq!(std::fs::read(place.path(CAPTURED)).unwrap(), b"x");
    assert_eq!(read_dir(place.path("0")).unwrap().count(), 1);
}

/// 1 GiB and a page, of zeros but for the last.
#[test]
fn a_database_past_the_lock_page_is_whole() {
    let place = Place::new();
    let name = FileName::snapshot(Txid::FIRST);
    let header = Header { page_size: 65536, pages: 16_386, min: name.min, max: name.max, millis: START };
    let mut writer = place.journal.begin(name, header).unwrap();
    let (zeros, last) = (vec![0; 65536], vec![7; 65536]);
    (1..=16_384).for_each(|number| writer.page(number, &zeros).unwrap());
    writer.page(16_386, &last).unwrap();
    let file = writer.publish(&place.journal).unwrap();
    let sums = rebuild::sums(place.journal.folder(), &[file], &Control::default()).unwrap();
    assert_eq!(sums.pages().len(), 16_386);
    assert_eq!(sums.pages()[16_383..], [page_sum(&zeros), 0, page_sum(&last)]);
}
