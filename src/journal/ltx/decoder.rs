//! Reads a file, page by page. What it reads is untrusted: nothing is allocated, and nothing believed, by what the file says.

use std::hash::Hasher;
use std::io::{self, Read};

use lz4_flex::block::{decompress_into, get_maximum_output_size};
use twox_hash::XxHash3_64;

use super::{END, Error, FRAME, FileSum, HEADER, Header, Order, SIZED, push_uvarint};

/// Reads a file. Its pages count only once [`Decoder::finish`] has returned: the checksum comes last.
pub struct Decoder<R> {
    reader: R,
    order: Order,
    sum: FileSum,
    block: Vec<u8>,
    index: Expected,
    ended: bool,
}

/// The index as it must be: it follows from the pages.
struct Expected {
    hash: XxHash3_64,
    length: u64,
    offset: u64,
    entry: Vec<u8>,
}

impl Expected {
    fn add(&mut self, number: u32, frame: u64) {
        self.entry.clear();
        [u64::from(number), self.offset, frame].into_iter().for_each(|part| push_uvarint(&mut self.entry, part));
        self.hash.write(&self.entry);
        self.length += self.entry.len() as u64;
        self.offset += frame;
    }
}

impl<R: Read> Decoder<R> {
    /// Reads the header.
    pub fn new(mut reader: R) -> Result<Self, Error> {
        let mut bytes = [0; HEADER];
        read_exact(&mut reader, &mut bytes)?;
        let header = Header::of_bytes(&bytes)?;
        let mut sum = FileSum::new();
        sum.add(&bytes);
        let block = vec![0; get_maximum_output_size(header.page_size as usize)];
        let index = Expected { hash: XxHash3_64::with_seed(0), length: 0, offset: HEADER as u64, entry: Vec::new() };
        Ok(Self { reader, order: Order::new(header), sum, block, index, ended: false })
    }

    /// What it says of itself.
    pub fn header(&self) -> Header {
        self.order.header
    }

    /// Reads the next page into `into` and tells its number; `None` after the last.
    pub fn page(&mut self, into: &mut Vec<u8>) -> Result<Option<u32>, Error> {
        if self.ended {
            return Ok(None);
        }
        let mut frame = [0; FRAME];
        read_exact(&mut self.reader, &mut frame[..END.len()])?;
        let [n0, n1, n2, n3, f0, f1, ..] = frame;
        if frame[..END.len()] == END {
            self.sum.add(&END);
            self.order.end()?;
            self.ended = true;
            return Ok(None);
        }
        if u16::from_be_bytes([f0, f1]) != SIZED {
            return Err(Error::Malformed("a page has flags that this program doesn't know"));
        }
        let number = u32::from_be_bytes([n0, n1, n2, n3]);
        self.order.take(number)?;
        read_exact(&mut self.reader, &mut frame[END.len()..])?;
        let [.., l0, l1, l2, l3] = frame;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let block = self.block.get_mut(..length).ok_or(Error::Malformed("a page is longer than one can be"))?;
        read_exact(&mut self.reader, block)?;
        into.resize(self.order.header.page_size as usize, 0);
        if !decompress_into(block, into).is_ok_and(|length| length == into.len()) {
            return Err(Error::Malformed("a page can't be decompressed"));
        }
        self.sum.add(&frame);
        self.sum.add(into);
        self.index.add(number, (FRAME + length) as u64);
        Ok(Some(number))
    }

    /// Reads what comes after the pages, all of which were read, and compares it with them.
    pub fn finish(mut self) -> Result<(), Error> {
        let mut page = Vec::new();
        while self.page(&mut page)?.is_some() {}
        self.index.hash.write(&[0]);
        self.index.length += 1;
        let (mut found, mut left, mut piece) = (XxHash3_64::with_seed(0), self.index.length, [0; 4096]);
        while left > 0 {
            // At most 4096.
            let piece = &mut piece[..left.min(4096) as usize];
            read_exact(&mut self.reader, piece)?;
            self.sum.add(piece);
            found.write(piece);
            left -= piece.len() as u64;
        }
        if found.finish() != self.index.hash.finish() || self.number()? != self.index.length {
            return Err(Error::Malformed("its index isn't that of its pages"));
        }
        if self.number()? != 0 {
            return Err(Error::Malformed("it has a checksum of a database where none is kept"));
        }
        let expected = self.sum.value();
        if self.number()? != expected {
            return Err(Error::Malformed("its checksum is wrong"));
        }
        loop {
            // What is beneath may say itself that it was cut short.
            match self.reader.read(&mut [0]) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(Error::Malformed("something follows its end")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn number(&mut self) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        read_exact(&mut self.reader, &mut bytes)?;
        self.sum.add(&bytes);
        Ok(u64::from_be_bytes(bytes))
    }
}

fn read_exact(reader: &mut impl Read, into: &mut [u8]) -> Result<(), Error> {
    reader.read_exact(into).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Malformed("it ends too early"),
        _ => Error::Io(error),
    })
}
