//! What is read of a live database is kept from the app for as long as it takes to be read, and not for our disk: pages are
//! gathered in memory, and what doesn't fit there is written by another thread. Where the disk stands still the reader is let go in
//! time, and nothing comes of it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::ltx::Header;
use super::{Error, FileName, Journal, Level, LtxFile, Writer};
use crate::sqlite;
use crate::sqlite::pages::awaited;

/// Bytes of pages that go together.
const BATCH: usize = 1 << 18;
/// How many are in memory at most.
const BATCHES: usize = 4;

/// Pages and their numbers, which ascend.
#[derive(Default)]
struct Batch {
    numbers: Vec<u32>,
    bytes: Vec<u8>,
}

impl Batch {
    fn push(&mut self, number: u32, page: &[u8]) {
        self.numbers.push(number);
        self.bytes.extend_from_slice(page);
    }

    fn clear(&mut self) {
        self.numbers.clear();
        self.bytes.clear();
    }

    fn write(&self, writer: &mut Writer, page_size: u32) -> Result<(), Error> {
        let mut pages = self.bytes.chunks_exact(page_size as usize);
        self.numbers.iter().zip(&mut pages).try_for_each(|(number, page)| writer.page(*number, page))
    }
}

/// A file of the journal whose pages were read, and that isn't published.
pub(super) struct Gathered {
    file: FileName,
    header: Header,
    /// Once there were more pages than one batch has.
    disk: Option<Disk>,
    rest: Batch,
}

impl Gathered {
    /// Whether no page was gathered.
    pub(super) fn is_empty(&self) -> bool {
        self.disk.is_none() && self.rest.numbers.is_empty()
    }

    /// Writes what isn't written, and gives the file its name, durable.
    pub(super) fn publish(self, journal: &Journal) -> Result<LtxFile, Error> {
        let mut writer = self.disk.map_or_else(|| begin(journal, self.file, self.header), Disk::end)?;
        self.rest.write(&mut writer, self.header.page_size)?;
        writer.publish(journal)
    }
}

fn begin(journal: &Journal, file: FileName, header: Header) -> Result<Writer, Error> {
    if file.level == Level::SNAPSHOT {
        journal.assert_room(u64::from(header.pages) * u64::from(header.page_size))?;
    }
    journal.begin(file, header)
}

/// Gathers the pages that `read` passes on, as long as `in_time` says that the app may wait. `let_go` is called when nothing more will be
/// read, and told whether that was all: until then our disk isn't waited for.
pub(super) fn gather<T>(
    journal: &Journal,
    (file, header): (FileName, Header),
    in_time: impl Fn() -> Result<(), sqlite::Error>,
    let_go: impl FnOnce(bool),
    read: impl FnOnce(&mut dyn FnMut(u32, &[u8]) -> Result<(), Error>) -> Result<T, Error>,
) -> Result<(T, Gathered), Error> {
    let (mut rest, mut disk) = (Batch::default(), None);
    let all = read(&mut |number, page| {
        if rest.bytes.len() + page.len() > BATCH {
            let disk = disk.get_or_insert_with(|| Disk::of(journal.clone(), file, header));
            rest = disk.pass(std::mem::take(&mut rest), &in_time)?;
        }
        rest.push(number, page);
        Ok(())
    });
    let_go(all.is_ok());
    match (all, disk) {
        (Ok(all), disk) => Ok((all, Gathered { file, header, disk, rest })),
        // When the disk failed the reader only noticed that no batch comes back.
        (Err(error), disk) => Err(disk.map(Disk::end).transpose().err().unwrap_or(error)),
    }
}

/// The thread that writes. It has ended when this is gone, and what it has written with it.
struct Disk {
    full: Option<Sender<Batch>>,
    free: Receiver<Batch>,
    thread: Option<JoinHandle<Result<Writer, Error>>>,
}

impl Disk {
    fn of(journal: Journal, file: FileName, header: Header) -> Self {
        let ((full, to_write), (give_back, free)) = (channel::<Batch>(), channel());
        for _ in 1..BATCHES {
            // Both ends are at hand.
            let _ = give_back.send(Batch::default());
        }
        let thread = std::thread::spawn(move || {
            let mut writer = begin(&journal, file, header)?;
            while let Ok(mut batch) = to_write.recv() {
                batch.write(&mut writer, header.page_size)?;
                batch.clear();
                // The reader may have ended.
                let _ = give_back.send(batch);
            }
            Ok(writer)
        });
        Self { full: Some(full), free, thread: Some(thread) }
    }

    /// Gives a batch to be written for an empty one.
    fn pass(&self, batch: Batch, in_time: impl Fn() -> Result<(), sqlite::Error>) -> Result<Batch, Error> {
        // Whoever takes no more gives none back either.
        let _ = self.full.as_ref().map(|full| full.send(batch));
        Ok(awaited(&self.free, in_time)?.ok_or(sqlite::Error::Cancelled)?)
    }

    /// Waits for it. A panic goes on here.
    fn end(mut self) -> Result<Writer, Error> {
        self.full = None;
        let ended = self.thread.take().map(JoinHandle::join);
        ended.map_or(Err(sqlite::Error::Cancelled.into()), |ended| {
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.full = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
