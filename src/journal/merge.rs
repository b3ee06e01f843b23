//! Several files that follow each other into one, page by page in order of number: of each page the newest, and none beyond the
//! database's end. Memory doesn't grow with the files, only with how many there are [P11].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use super::ltx::Header;
use super::{Error, LtxFile, Source};

/// Files being merged.
pub(super) struct Merge {
    inputs: Vec<Input>,
    /// The next page of each; of those with one number the newest comes first.
    next: BinaryHeap<Reverse<(u32, Reverse<usize>)>>,
    header: Header,
}

struct Input {
    /// `None` once its checksum was compared.
    source: Option<Source>,
    /// The least number of pages that the database had from here on: what lay beyond is gone.
    end: u32,
    page: Vec<u8>,
}

impl Merge {
    /// Opens the files of a chain, or a part of one.
    pub(super) fn open(folder: &Path, files: &[LtxFile]) -> Result<Option<Self>, Error> {
        let mut inputs = Vec::new();
        let mut header: Option<Header> = None;
        for file in files {
            let source = Source::open(folder, file)?;
            let own = source.header();
            if header.is_some_and(|header| header.page_size != own.page_size) {
                return Err(source.damaged("its pages aren't as long as those before"));
            }
            let (min, millis) = header.map_or((own.min, own.millis), |header| (header.min, header.millis));
            header = Some(Header { min, millis: millis.max(own.millis), ..own });
            inputs.push(Input { source: Some(source), end: own.pages, page: Vec::new() });
        }
        let Some(header) = header else { return Ok(None) };
        for at in (1..inputs.len()).rev() {
            inputs[at - 1].end = inputs[at - 1].end.min(inputs[at].end);
        }
        let mut merge = Self { inputs, next: BinaryHeap::new(), header };
        for at in 0..merge.inputs.len() {
            merge.read(at)?;
        }
        Ok(Some(merge))
    }

    /// Of what comes out.
    pub(super) fn header(&self) -> Header {
        self.header
    }

    /// The next page. After the last one all files have been compared with their checksums.
    pub(super) fn page(&mut self, into: &mut Vec<u8>) -> Result<Option<u32>, Error> {
        let Some(Reverse((number, Reverse(newest)))) = self.next.pop() else { return Ok(None) };
        std::mem::swap(into, &mut self.inputs[newest].page);
        self.read(newest)?;
        while let Some(Reverse((_, Reverse(older)))) = self.next.peek().filter(|next| next.0.0 == number) {
            let older = *older;
            self.next.pop();
            self.read(older)?;
        }
        Ok(Some(number))
    }

    fn read(&mut self, at: usize) -> Result<(), Error> {
        let input = &mut self.inputs[at];
        while let Some(source) = &mut input.source {
            match source.page(&mut input.page)? {
                Some(number) if number <= input.end => {
                    self.next.push(Reverse((number, Reverse(at))));
                    break;
                }
                Some(_) => {}
                None => input.source.take().map_or(Ok(()), Source::finish)?,
            }
        }
        Ok(())
    }
}
