//! The pages of a state by their hashes, and what it is as a whole: a sum over all pages, in whatever order they come. The change of a
//! page costs that page.

use twox_hash::XxHash3_64;

use super::ltx::Header;
use crate::sqlite::page_set::lock_page;

/// The pages of a state, each by its hash.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sums {
    page_size: u32,
    pages: Vec<u64>,
    total: u64,
}

/// A state as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Whole {
    /// Bytes a page.
    pub page_size: u32,
    /// Pages.
    pub pages: u32,
    /// What all of them come to.
    pub total: u64,
}

/// XXH3 (64 bits) of a page.
pub fn page_sum(data: &[u8]) -> u64 {
    XxHash3_64::oneshot(data)
}

/// What a page adds to the total, by where it lies. One that isn't known, or is SQLite's lock page, adds nothing.
fn share(number: u32, sum: u64) -> u64 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes[4..].copy_from_slice(&sum.to_be_bytes());
    if sum == 0 { 0 } else { XxHash3_64::oneshot(&bytes) }
}

impl Sums {
    /// So many pages, none of them known.
    pub fn new(page_size: u32, pages: usize) -> Self {
        Self { page_size, pages: vec![0; pages], total: 0 }
    }

    /// Bytes a page.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// [`page_sum`] of each page, from page 1 on; 0 for SQLite's lock page.
    pub fn pages(&self) -> &[u64] {
        &self.pages
    }

    /// Of one page, counted from 1.
    pub fn page(&self, number: u32) -> Option<u64> {
        self.pages.get((number as usize).checked_sub(1)?).copied()
    }

    /// A page is this one now; one beyond the end makes it longer.
    pub fn set(&mut self, number: u32, sum: u64) {
        let Some(at) = (number as usize).checked_sub(1) else { return };
        if at >= self.pages.len() {
            self.pages.resize(at + 1, 0);
        }
        self.total = self.total.wrapping_sub(share(number, self.pages[at])).wrapping_add(share(number, sum));
        self.pages[at] = sum;
    }

    /// It is so long now; what is new isn't known.
    pub(super) fn resize(&mut self, page_size: u32, pages: u32) {
        let gone = (pages + 1..).zip(self.pages.iter().skip(pages as usize));
        let gone = gone.fold(0_u64, |total, (number, sum)| total.wrapping_add(share(number, *sum)));
        self.total = self.total.wrapping_sub(gone);
        self.pages.resize(pages as usize, 0);
        self.page_size = page_size;
    }

    /// All of it.
    pub fn whole(&self) -> Whole {
        Whole { page_size: self.page_size, pages: self.pages.len() as u32, total: self.total }
    }
}

impl Whole {
    /// Of a state whose pages come one by one.
    pub(super) fn of(header: &Header) -> Self {
        Self { page_size: header.page_size, pages: header.pages, total: 0 }
    }

    /// A page of it.
    pub(super) fn add(&mut self, number: u32, data: &[u8]) {
        if number != lock_page(self.page_size) {
            self.total = self.total.wrapping_add(share(number, page_sum(data)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_that_of_the_pages_however_it_came_to_them() {
        let pages: Vec<[u8; 4]> = (1..9).map(|seed: u32| seed.to_be_bytes()).collect();
        let whole = |pages: &[[u8; 4]]| {
            let mut whole = Whole { page_size: 512, pages: pages.len() as u32, total: 0 };
            (1..).zip(pages).for_each(|(number, page)| whole.add(number, page));
            whole
        };
        let mut sums = Sums::new(512, 3);
        assert_eq!(sums.whole(), Whole { page_size: 512, pages: 3, total: 0 });
        // Backwards, over what was there, and longer than it is at last.
        for (number, page) in (1..9).zip(&pages).rev() {
            sums.set(number, page_sum(&pages[0]));
            sums.set(number, page_sum(page));
        }
        assert_eq!(sums.whole(), whole(&pages));
        sums.resize(512, 5);
        assert_eq!(sums.whole(), whole(&pages[..5]));
        sums.resize(512, 6);
        sums.set(6, page_sum(&pages[5]));
        assert_eq!((sums.whole(), sums.page(6), sums.page(7)), (whole(&pages[..6]), Some(page_sum(&pages[5])), None));
        let mut swapped = pages.clone();
        swapped.swap(0, 1);
        assert_ne!(whole(&swapped).total, whole(&pages).total);
    }
}
