//! A second look at a live database, by somebody who doesn't write the journal: what a tick captured is held against what the
//! database was, though nobody here knows at which commit that tick looked. The order of steps:
//!
//! 1. A reader is pinned. It stays so, and with it the app's WAL goes on without beginning anew.
//! 2. The caller waits until a tick has begun and ended.
//! 3. Another look, which tells the pages that were written since the first one: every one of them, or there is no answer. All others
//!    are what they were at the tick too.
//! 4. The pages that the first reader sees are hashed, and it is let go.
//!
//! What was written meanwhile isn't compared: that very tick wrote it down, or the next one does.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::Error;
use super::check::differ;
use super::sums::{Sums, page_sum};
use crate::backup::DatabaseName;
use crate::clock::Clock;
use crate::disk::Context;
use crate::sqlite::cut::{self, Pinned, Watched};
use crate::sqlite::page_set::{PageSet, lock_page};
use crate::sqlite::wal::Hint;
use crate::sqlite::{self, Control, Source};

/// How an instant is got.
#[derive(Clone, Copy)]
pub struct Looking<'a> {
    /// How long it is tried for.
    pub patience: Duration,
    /// The clock.
    pub clock: &'a Clock,
    /// What stops it.
    pub control: &'a Control,
}

impl Looking<'_> {
    fn at(&self, watched: &mut Watched) -> Result<(), sqlite::Error> {
        cut::take(&mut [watched], self.patience, self.clock, self.control).map(drop)
    }
}

/// A database that was looked at once.
pub struct Witness {
    watched: Watched,
    pinned: Pinned,
}

/// What a database was, but for pages that were written meanwhile.
pub struct Seen {
    sums: Sums,
    written: PageSet,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// Pages that were compared.
    pub pages: u64,
    /// What is different, if anything is.
    pub difference: Option<String>,
}

impl Witness {
    /// Step 1. None of a database whose writers would have to wait for the reader.
    pub fn begin(source: &Source, looking: Looking<'_>) -> Result<Option<Self>, Error> {
        let mut watched = Watched::open(source)?;
        watched.assert_in_place()?;
        looking.at(&mut watched)?;
        if watched.pinned().facts()?.journal_mode != "wal" {
            return Ok(None);
        }
        watched.keep();
        let pinned = watched.hand_over()?;
        watched.unpin();
        Ok(Some(Self { watched, pinned }))
    }

    /// Which database.
    pub fn name(&self) -> &DatabaseName {
        self.pinned.name()
    }

    /// Steps 3 and 4. None where it isn't known what was written meanwhile.
    pub fn end(self, looking: Looking<'_>) -> Result<Option<Seen>, Error> {
        let Self { mut watched, pinned } = self;
        if watched.assert_in_place().is_err() {
            return Ok(None);
        }
        let facts = pinned.facts()?;
        looking.at(&mut watched)?;
        let proven = |hint: Hint| hint.proven.then_some(hint.pages);
        let written = match watched.differs() {
            true => watched.hint(facts.page_size)?.and_then(proven),
            false => Some(PageSet::default()),
        };
        drop(watched);
        let Some(written) = written else { return Ok(None) };
        let sums = Sums::of(&pinned, &facts, looking.control)?;
        Ok(Some(Seen { sums, written }))
    }
}

impl Seen {
    /// Nobody has written meanwhile: all pages are compared.
    pub fn is_whole(&self) -> bool {
        self.written.is_empty()
    }

    /// Compares what was rebuilt, page by page, each of that size.
    pub fn compare(&self, rebuilt: (&File, &Path), size: u32, control: &Control) -> Result<Compared, Error> {
        let (file, path) = rebuilt;
        let pages = (file.metadata().to("look at", path)?.len() / u64::from(size.max(1))) as u32;
        let live = self.sums.pages().len() as u32;
        // Whoever makes a database longer or shorter writes its first page.
        let is_long = pages == live || self.written.contains(1);
        if size != self.sums.page_size() || !is_long {
            let difference = Some(differ::in_size((size, pages), (self.sums.page_size(), live)));
            return Ok(Compared { pages: 0, difference });
        }
        let (mut compared, mut differing, mut first) = (0, 0, None);
        let mut page = vec![0; size as usize];
        for number in (1..=pages.min(live)).filter(|it| *it != lock_page(size) && !self.written.contains(*it)) {
            control.check()?;
            file.read_exact_at(&mut page, u64::from(number - 1) * u64::from(size)).to("read", path)?;
            compared += 1;
            if self.sums.page(number) != Some(page_sum(&page)) {
                differing += 1;
                first.get_or_insert(number);
            }
        }
        Ok(Compared { pages: compared, difference: first.map(|first| differ::in_pages(differing, first)) })
    }
}
