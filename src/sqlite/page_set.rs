//! Pages by number: which of them differ between two files.

use std::fs::File;
use std::path::Path;

use super::pages::{Fingerprint, Sum};
use super::{Control, Error};
use crate::disk::block::{Block, Direct};
use crate::disk::{self, Context};

/// The page that holds this byte belongs to SQLite's locks and never holds data (sqlite.org/fileformat2.html, section 1.4).
const LOCK_BYTE: u64 = 0x4000_0000;

/// Page numbers, a bit each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PageSet {
    bits: Vec<u64>,
}

impl PageSet {
    /// Adds a page; pages are counted from 1.
    pub fn insert(&mut self, page: u32) {
        let (word, bit) = (page as usize / 64, page % 64);
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << bit;
    }

    /// Adds all pages of another set.
    pub fn extend(&mut self, other: &PageSet) {
        if other.bits.len() > self.bits.len() {
            self.bits.resize(other.bits.len(), 0);
        }
        self.bits.iter_mut().zip(&other.bits).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// Whether it is among them.
    pub fn contains(&self, page: u32) -> bool {
        self.bits.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|word| *word == 0)
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.bits.iter().enumerate();
        words
            .flat_map(|(at, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u32 * 64 + bit))
    }
}

/// The number of the lock page.
pub fn lock_page(page_size: u32) -> u32 {
    (LOCK_BYTE / u64::from(page_size)) as u32 + 1
}

/// What tells one file from another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The pages of the new one that the old one doesn't hold just so, those beyond its end among them.
    pub pages: PageSet,
    /// What the new one holds.
    pub new: Fingerprint,
}

/// The new one of two files that are compared, a database of that page size.
#[derive(Clone, Copy)]
pub struct New<'a> {
    /// It.
    pub file: &'a File,
    /// Where it lies.
    pub path: &'a Path,
    /// Bytes.
    pub page_size: u32,
}

/// Compares a file that somebody reads with a new one. That one is read through the cache: it was written just now, and is written
/// from soon.
pub struct Comparison<'a> {
    new: New<'a>,
    file: Direct<'a>,
    block: Block,
    offset: u64,
    pages: PageSet,
    sum: Sum,
}

impl<'a> Comparison<'a> {
    /// At the start of both.
    pub fn with(new: New<'a>) -> Self {
        let (file, block) = (Direct::cached(new.file), Block::new());
        Self { new, file, block, offset: 0, pages: PageSet::default(), sum: Sum::default() }
    }

    /// What the old one holds next: a full block, or its end.
    pub fn old(&mut self, before: &[u8]) -> Result<(), disk::Error> {
        self.block.fill(&self.file, self.offset).to("read", self.new.path)?;
        let after = self.block.bytes();
        self.sum.add(after);
        insert_differing(&mut self.pages, before, after, self.offset, self.new.page_size);
        self.offset += after.len() as u64;
        Ok(())
    }

    /// The old one has ended; the new one may go on.
    pub fn end(mut self, control: &Control) -> Result<Difference, Error> {
        loop {
            control.check()?;
            let before = self.offset;
            self.old(&[])?;
            if self.offset == before {
                return Ok(Difference { pages: self.pages, new: self.sum.fingerprint() });
            }
        }
    }
}

/// Adds the pages of `after`, which lies at `offset`, that `before` doesn't hold.
pub(super) fn insert_differing(set: &mut PageSet, before: &[u8], after: &[u8], offset: u64, page_size: u32) {
    if before == after {
        return;
    }
    let size = page_size as usize;
    let first = (offset / u64::from(page_size)) as u32 + 1;
    for (number, page) in after.chunks(size).enumerate() {
        if before.get(number * size..number * size + page.len()) != Some(page) {
            set.insert(first + number as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_set_gives_back_what_was_put_in() {
        let mut set = PageSet::default();
        for page in [1, 63, 64, 65, 4096, 1] {
            set.insert(page);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 63, 64, 65, 4096]);
        let mut other = PageSet::default();
        other.insert(9000);
        set.extend(&other);
        assert_eq!((set.len(), set.iter().last()), (6, Some(9000)));
    }

    #[test]
    fn every_page_that_differs_is_found_and_no_other() {
        let size = 512;
        let pages = 3 * disk::block::BLOCK / size;
        let old: Vec<u8> = (0..pages * size).map(|n| (n % 249) as u8).collect();
        let mut new = old.clone();
        for page in [0, 2047, 2048, pages - 1] {
            new[page * size + 511] ^= 1;
        }
        new.extend(vec![7; 2 * size]);
        let file = |bytes: &[u8]| {
            let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            file.write_all(bytes).unwrap();
            file
        };
        let (old, new, path) = (file(&old), file(&new), Path::new("x"));
        let between = |old: &File, new| {
            let mut comparison = Comparison::with(New { file: new, path, page_size: size as u32 });
            let bytes = crate::sqlite::pages::read_back_through(old, path, &Control::default(), |it| {
                comparison.old(it).unwrap()
            });
            bytes.unwrap();
            comparison.end(&Control::default()).unwrap()
        };
        let found = between(&old, &new).pages;
        let last = pages as u32;
        assert_eq!(found.iter().collect::<Vec<_>>(), [1, 2048, 2049, last, last + 1, last + 2]);
        assert!(between(&new, &new).pages.is_empty());
        assert_eq!(between(&new, &old).pages.len(), 4);
        assert_eq!(between(&old, &new).new, between(&new, &new).new);
        assert_ne!(between(&old, &new).new, between(&new, &old).new);
    }

    #[test]
    fn the_lock_page_is_the_one_after_a_gibibyte() {
        assert_eq!((lock_page(4096), lock_page(65536), lock_page(512)), (262_145, 16_385, 2_097_153));
    }
}
