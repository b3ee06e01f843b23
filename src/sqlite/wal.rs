//! Which pages a WAL says were written since an earlier look at it: a hint, and the proof that it names every one of them.
//!
//! The file is read by file calls, unlike all others of a live database: SQLite's locks lie on the database file and on `-shm`,
//! none on `-wal`, so closing it drops none (sqlite.org/walformat.html, section 2.3.1). Only headers are read. Frames that were
//! not committed, or were after the look, do no harm: a page too many is compared and found unchanged.
//!
//! The proof rests on three things that SQLite does (sqlite.org/fileformat2.html, section 4; sqlite.org/walformat.html):
//!
//! 1. Frames of one generation are written one after the other, before the number of committed frames in the index of the WAL
//!    tells of them, and that number never falls.
//! 2. A generation begins by overwriting the WAL from its first frame, header first, with a salt that is one higher. It begins
//!    only when all frames of the one before are in the database file.
//! 3. What lies behind the frames of a generation are those of earlier ones, as they were written, unless the file was cut.
//!
//! So within a generation all frames from the one number to the other were written since; and when just one generation has begun,
//! all of its own, and those of the old one that it has not overwritten yet, up to a frame of an older one. In any other case there is
//! no proof.
//!
//! One of these cases is what most resets are, since an app that always writes alike fills its WAL to the same length each time: the
//! frames of the old generation reach to the end of the file. SQLite cuts a WAL that it goes on with to `journal_size_limit`
//! (sqlite.org/pragma.html#pragma_journal_size_limit; it is off unless an app sets it), or behind the first commit of the new generation
//! where that ends later; and a TRUNCATE checkpoint cuts all of it off. So where a file ends right behind a frame of the *old* generation
//! that ends a commit, it isn't cut, unless that limit were this very number of bytes. That is likely, and not proven: who takes it for
//! the truth looks at all pages from time to time. Where it ends with the new generation, that one may have cut it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::Connection;

use super::beside;
use super::page_set::PageSet;
use crate::disk;

/// Bytes of the file's header (fileformat2, section 4.1).
const HEADER: u64 = 32;
/// Bytes of a frame's header; a page follows.
const FRAME: u64 = 24;

/// The salts in the header of a WAL: another pair for each generation of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Salts(u32, u32);

impl Salts {
    /// Whether these are of the generation right after `before`'s. The second salt is random.
    fn follows(self, before: Salts) -> bool {
        self.0 == before.0.wrapping_add(1) && self.1 != before.1
    }
}

/// How far a WAL was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    salts: Salts,
    /// Committed frames.
    frames: u32,
}

/// Pages that may have changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// Every one that has is among them.
    pub pages: PageSet,
    /// That is proven, and not merely likely.
    pub proven: bool,
}

/// What a frame's header says (fileformat2, section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frame {
    page: u32,
    /// It is the last of a commit.
    commits: bool,
    salts: Salts,
}

/// An open WAL.
pub struct Wal {
    file: File,
    page_size: u32,
}

impl Wal {
    /// The WAL of the database at `path`; none where there is no file, or an empty one.
    pub fn open(path: &Path, page_size: u32) -> Result<Option<Self>, disk::Error> {
        match disk::open_regular(&beside(path, "-wal")) {
            Ok(file) => Ok(Some(Self { file, page_size })),
            Err(error) if error.is_no_file() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How far it is written now, or was a moment ago. `other` is a connection to the database that has no transaction open.
    /// None where nothing follows from it.
    pub fn position(&self, other: &Connection) -> rusqlite::Result<Option<Position>> {
        let Ok(Some(salts)) = self.salts() else { return Ok(None) };
        Ok(committed(other)?.map(|frames| Position { salts, frames }))
    }

    /// The pages that were written since `before`, which was taken before a reader was pinned that saw the old state. A reader
    /// of the new state is pinned meanwhile, and somebody has committed since. None where that can't be told.
    pub fn written_since(&self, before: Position, other: &Connection) -> rusqlite::Result<Option<Hint>> {
        let Some(frames) = committed(other)? else { return Ok(None) };
        // In this order: a generation that has committed frames has written its header. One that has none may not have.
        let Ok(Some(salts)) = self.salts() else { return Ok(None) };
        let mut pages = PageSet::default();
        let proven = if salts == before.salts {
            // No new frame, though somebody has committed, is no proof of anything.
            (frames > before.frames && self.add(&mut pages, before.frames..frames, salts)).then_some(true)
        } else if salts.follows(before.salts)
            && (1..=before.frames).contains(&frames)
            && self.add(&mut pages, 0..frames, salts)
        {
            self.add_rest(&mut pages, before, salts)
        } else {
            None
        };
        // No other generation has begun meanwhile.
        let proven = proven.filter(|_| matches!(self.salts(), Ok(Some(now)) if now == salts));
        Ok(proven.map(|proven| Hint { pages, proven }))
    }

    /// Adds the pages of all these frames, counted from 0, if each is of that generation.
    fn add(&self, pages: &mut PageSet, frames: std::ops::Range<u32>, salts: Salts) -> bool {
        for frame in frames {
            match self.frame(frame) {
                Ok(Some(frame)) if frame.salts == salts && frame.page > 0 => pages.insert(frame.page),
                _ => return false,
            }
        }
        true
    }

    /// Adds what lies behind the frames that `before` counts, to the end of its generation: proven where a frame of an older one
    /// follows, likely where the file ends with the generation's last commit.
    fn add_rest(&self, pages: &mut PageSet, before: Position, now: Salts) -> Option<bool> {
        let first = self.frame(before.frames).ok()?;
        // What is counted ends with a commit, and is one frame at least.
        let (mut committed, mut proven) = (true, None);
        for number in before.frames.. {
            match self.frame(number).ok()? {
                Some(frame) if frame.salts == before.salts && frame.page > 0 => {
                    pages.insert(frame.page);
                    committed = frame.commits;
                }
                Some(frame) if frame.salts != before.salts && frame.salts != now => proven = Some(true),
                None if committed && self.ends_before(number) && self.is_of(before.salts, number - 1) => {
                    proven = Some(false);
                }
                _ => return None,
            }
            if proven.is_some() {
                break;
            }
        }
        // What overwrites comes from the front: as long as the first is still there, so were all behind it.
        proven.filter(|_| self.frame(before.frames).is_ok_and(|still| still == first))
    }

    fn is_of(&self, salts: Salts, frame: u32) -> bool {
        matches!(self.frame(frame), Ok(Some(frame)) if frame.salts == salts)
    }

    /// Whether the file has as many bytes as that many frames take.
    fn ends_before(&self, frame: u32) -> bool {
        self.file.metadata().is_ok_and(|meta| meta.len() == self.offset(frame))
    }

    fn offset(&self, frame: u32) -> u64 {
        HEADER + u64::from(frame) * (FRAME + u64::from(self.page_size))
    }

    fn salts(&self) -> io::Result<Option<Salts>> {
        let mut header = [0; HEADER as usize];
        if !self.read(&mut header, 0)? {
            return Ok(None);
        }
        let page_size = number(&header, 8);
        // Either order of bytes in checksums (fileformat2, section 4.1).
        let known = matches!(number(&header, 0), 0x377f_0682 | 0x377f_0683) && page_size == self.page_size;
        Ok(known.then(|| Salts(number(&header, 16), number(&header, 20))))
    }

    /// What a frame's header says; none where the file ends before it.
    fn frame(&self, frame: u32) -> io::Result<Option<Frame>> {
        let mut header = [0; FRAME as usize];
        let there = self.read(&mut header, self.offset(frame))?;
        let salts = Salts(number(&header, 8), number(&header, 12));
        Ok(there.then(|| Frame { page: number(&header, 0), commits: number(&header, 4) > 0, salts }))
    }

    /// Whether the file goes on that far.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
        match self.file.read_exact_at(bytes, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The number of committed frames. NOOP looks at the index of the WAL and moves nothing
/// (sqlite.org/pragma.html#pragma_wal_checkpoint).
fn committed(other: &Connection) -> rusqlite::Result<Option<u32>> {
    let frames: i64 = other.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?;
    Ok(u32::try_from(frames).ok())
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::sqlite::open_live;

    struct Scene {
        _dir: tempfile::TempDir,
        path: PathBuf,
        app: Connection,
        ours: Connection,
    }

    impl Scene {
        #[allow(clippy::disallowed_methods)]
        fn new(setup: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("live.db");
            let app = Connection::open(&path).unwrap();
            app.execute_batch(&format!(
                "{setup}; PRAGMA page_size=1024; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
                 CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)"
            ))
            .unwrap();
            let ours = open_live(&path).unwrap();
            Self { _dir: dir, path, app, ours }
        }

        fn wal(&self) -> Wal {
            Wal::open(&self.path, 1024).unwrap().unwrap()
        }

        fn position(&self) -> Position {
            self.wal().position(&self.ours).unwrap().unwrap()
        }

        /// Rows of a page each.
        fn write(&self, rows: u32) {
            for _ in 0..rows {
                self.app.execute("INSERT INTO rows (text) VALUES (hex(randomblob(400)))", []).unwrap();
            }
        }

        /// Commits of a frame each, on pages of their own.
        fn update(&self, rows: std::ops::RangeInclusive<u32>) {
            for row in rows {
                let changed = self.app.execute("UPDATE rows SET text = hex(randomblob(400)) WHERE id = ?", [row]);
                assert_eq!(changed.unwrap(), 1);
            }
        }

        fn pages(&self) -> Vec<Vec<u8>> {
            let mut all = self.ours.prepare("SELECT data FROM sqlite_dbpage").unwrap();
            all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        }

        fn checkpoint(&self, mode: &str) {
            self.app.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(())).unwrap();
        }

        /// What is proven of `change`, after it was held against the pages themselves.
        fn proven(&self, change: impl FnOnce(&Self)) -> Option<PageSet> {
            let (hint, missing) = self.hint(change);
            assert!(missing.is_empty() || hint.as_ref().is_none_or(|hint| !hint.proven), "{missing:?} are not named");
            hint.filter(|hint| hint.proven).map(|hint| hint.pages)
        }

        /// What is likely of `change`; and the pages that changed and aren't named.
        fn likely(&self, change: impl FnOnce(&Self)) -> (Option<PageSet>, Vec<u32>) {
            let (hint, missing) = self.hint(change);
            (hint.filter(|hint| !hint.proven).map(|hint| hint.pages), missing)
        }

        fn hint(&self, change: impl FnOnce(&Self)) -> (Option<Hint>, Vec<u32>) {
            let (before, old) = (self.position(), self.pages());
            change(self);
            let hint = self.wal().written_since(before, &self.ours).unwrap();
            let pages = self.pages();
            let changed = (1..).zip(&pages).filter(|(number, page)| old.get(*number as usize - 1) != Some(page));
            let named = |number| hint.as_ref().is_some_and(|hint| hint.pages.contains(number));
            let missing = changed.map(|(number, _)| number).filter(|number| !named(*number)).collect();
            (hint, missing)
        }
    }

    #[test]
    fn within_a_generation_every_page_is_named_and_few_besides() {
        let scene = Scene::new("");
        scene.write(50);
        let hint = scene.proven(|scene| scene.write(3)).unwrap();
        assert!(hint.len() < 12, "{hint:?}");
        // Frames of a transaction that was rolled back after it was spilled lie there too, and count for nothing.
        scene.app.execute_batch("PRAGMA cache_size=2; BEGIN").unwrap();
        scene.write(200);
        scene.app.execute_batch("ROLLBACK").unwrap();
        assert!(scene.proven(|scene| scene.write(1)).is_some());
    }

    #[test]
    fn over_one_reset_the_rest_of_the_old_generation_is_read_too() {
        let scene = Scene::new("");
        scene.write(60);
        scene.checkpoint("FULL");
        scene.write(40);
        // The second generation ends before the first did.
        let hint = scene.proven(|scene| {
            scene.write(4);
            scene.checkpoint("FULL");
            scene.write(2);
        });
        assert!(hint.is_some_and(|hint| hint.len() < 30));
    }

    #[test]
    fn what_reaches_to_the_end_of_the_file_is_likely_to_be_all() {
        let scene = Scene::new("");
        scene.write(30);
        let reset = |more| {
            move |scene: &Scene| {
                scene.write(more);
                scene.checkpoint("FULL");
                scene.write(1)
            }
        };
        let (hint, missing) = scene.likely(reset(7));
        assert!(hint.is_some_and(|hint| hint.len() < 20) && missing.is_empty());
        // Nothing more was written before it.
        scene.write(60);
        let (hint, missing) = scene.likely(reset(0));
        assert!(hint.is_some_and(|hint| hint.len() < 5) && missing.is_empty());
        // A file that was cut to a limit ends anywhere, but where that limit is.
        for (frames, is_taken) in [(70, true), (90, false)] {
            let scene = Scene::new("");
            let end = HEADER + frames * (FRAME + 1024);
            let limit = if is_taken { end } else { end + 100 };
            scene.app.query_row(&format!("PRAGMA journal_size_limit={limit}"), [], |_| Ok(())).unwrap();
            while u64::from(scene.position().frames) < frames - 20 {
                scene.write(1);
            }
            let (hint, missing) = scene.likely(reset(40));
            assert_eq!((hint.is_some(), missing.is_empty()), (is_taken, false));
        }
    }

    /// A generation that has cut the file grows with it, to any length: as long as what was counted of the one before, too.
    #[test]
    fn nothing_is_likely_where_the_file_ends_with_the_new_generation() {
        for (setup, checkpoint) in
            [("PRAGMA journal_size_limit=-1", "TRUNCATE"), ("PRAGMA journal_size_limit=0", "FULL")]
        {
            for (counted, new) in [(1, 1), (3, 3), (3, 2)] {
                let scene = Scene::new("");
                scene.app.query_row(setup, [], |_| Ok(())).unwrap();
                scene.write(60);
                scene.checkpoint("TRUNCATE");
                scene.update(1..=counted);
                assert_eq!(scene.position().frames, counted, "of one frame each");
                let (hint, missing) = scene.likely(|scene| {
                    scene.update(20..=29);
                    scene.checkpoint(checkpoint);
                    scene.update(40..=39 + new);
                });
                assert_eq!((hint, missing.is_empty()), (None, false), "{setup}: {counted} and {new}");
            }
        }
    }

    #[test]
    fn nothing_is_proven_where_frames_may_be_missing() {
        let scene = Scene::new("");
        scene.write(30);
        // The generation reaches to the end of the file, which may have been cut.
        assert_eq!(
            scene.proven(|scene| {
                scene.checkpoint("FULL");
                scene.write(1)
            }),
            None
        );
        // It has overwritten what was not seen yet.
        scene.checkpoint("FULL");
        scene.write(2);
        assert_eq!(
            scene.proven(|scene| {
                scene.write(2);
                scene.checkpoint("FULL");
                scene.write(9)
            }),
            None
        );
        // Two resets.
        scene.checkpoint("FULL");
        scene.write(20);
        let twice = |scene: &Scene| {
            (0..2).for_each(|_| {
                scene.checkpoint("FULL");
                scene.write(1)
            })
        };
        assert_eq!(scene.proven(twice), None);
        // Cut off.
        assert_eq!(
            scene.proven(|scene| {
                scene.write(2);
                scene.checkpoint("TRUNCATE");
                scene.write(1)
            }),
            None
        );
        // Nobody has committed, which the caller would know.
        assert_eq!(scene.proven(|_| {}), None);
    }

    #[test]
    fn what_is_no_wal_proves_nothing() {
        let scene = Scene::new("");
        scene.write(3);
        let other = Wal { file: scene.wal().file, page_size: 4096 };
        assert_eq!(other.position(&scene.ours).unwrap(), None);
        scene.checkpoint("TRUNCATE");
        assert_eq!(scene.wal().position(&scene.ours).unwrap(), None);
        std::fs::write(beside(&scene.path, "-wal"), "no WAL at all, but long enough to be read").unwrap();
        assert_eq!(scene.wal().position(&scene.ours).unwrap(), None);
    }
}
