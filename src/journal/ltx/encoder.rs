//! Writes a file, page by page.

use std::io::Write;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::{END, Error, FRAME, FileSum, HEADER, Header, Order, SIZED, push_uvarint, take_uvarint};

/// Writes a file. What was written counts only once [`Encoder::finish`] has returned.
pub struct Encoder<W> {
    writer: W,
    order: Order,
    sum: FileSum,
    /// Per page: how far its number is from the one before, and the length of its frame. About three bytes.
    index: Vec<u8>,
    frame: Vec<u8>,
    /// Without one, pages lie in their blocks as they are.
    table: Option<CompressTable>,
}

impl<W: Write> Encoder<W> {
    /// Writes the header.
    pub fn new(writer: W, header: Header) -> Result<Self, Error> {
        Self::with(writer, header, Some(CompressTable::default()))
    }

    /// The same of a file that is compressed as a whole: blocks that hold a page as it is leave more to be found in it.
    pub fn stored(writer: W, header: Header) -> Result<Self, Error> {
        Self::with(writer, header, None)
    }

    fn with(writer: W, header: Header, table: Option<CompressTable>) -> Result<Self, Error> {
        header.check()?;
        let frame = vec![0; FRAME + get_maximum_output_size(header.page_size as usize)];
        let mut encoder =
            Self { writer, order: Order::new(header), sum: FileSum::new(), index: Vec::new(), frame, table };
        encoder.put(&header.to_bytes())?;
        Ok(encoder)
    }

    /// Writes a page; their numbers ascend.
    pub fn page(&mut self, number: u32, data: &[u8]) -> Result<(), Error> {
        if data.len() != self.order.header.page_size as usize {
            return Err(Error::Malformed("a page isn't as long as the others"));
        }
        let before = self.order.last;
        self.order.take(number)?;
        let block = &mut self.frame[FRAME..];
        let length = match &mut self.table {
            Some(table) => compress_into_with_table(data, block, table)
                .map_err(|_| Error::Malformed("a page can't be compressed"))?,
            None => store(data, block),
        };
        self.frame[..4].copy_from_slice(&number.to_be_bytes());
        self.frame[4..6].copy_from_slice(&SIZED.to_be_bytes());
        // At most 64 KiB and a little.
        self.frame[6..FRAME].copy_from_slice(&(length as u32).to_be_bytes());
        self.writer.write_all(&self.frame[..FRAME + length])?;
        self.sum.add(&self.frame[..FRAME]);
        self.sum.add(data);
        push_uvarint(&mut self.index, u64::from(number - before));
        push_uvarint(&mut self.index, (FRAME + length) as u64);
        Ok(())
    }

    /// Writes what comes after the pages, and gives the writer back.
    pub fn finish(mut self) -> Result<W, Error> {
        self.order.end()?;
        self.put(&END)?;
        let index = std::mem::take(&mut self.index);
        let (mut rest, mut number, mut offset, mut length) = (&index[..], 0, HEADER as u64, 0);
        let mut entry = Vec::new();
        while let (Some(step), Some(frame)) = (take_uvarint(&mut rest), take_uvarint(&mut rest)) {
            number += step;
            entry.clear();
            [number, offset, frame].into_iter().for_each(|part| push_uvarint(&mut entry, part));
            self.put(&entry)?;
            offset += frame;
            length += entry.len() as u64;
        }
        self.put(&[0])?;
        self.put(&(length + 1).to_be_bytes())?;
        self.put(&0_u64.to_be_bytes())?;
        self.writer.write_all(&self.sum.value().to_be_bytes())?;
        self.writer.flush()?;
        Ok(self.writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.sum.add(bytes);
        Ok(self.writer.write_all(bytes)?)
    }
}

/// An LZ4 block of literals alone: how many, and they themselves. A page has 512 at least.
fn store(data: &[u8], block: &mut [u8]) -> usize {
    let (more, rest) = ((data.len() - 15) / 255, (data.len() - 15) % 255);
    block[0] = 0xf0;
    block[1..=more].fill(255);
    block[more + 1] = rest as u8;
    block[more + 2..more + 2 + data.len()].copy_from_slice(data);
    more + 2 + data.len()
}
