//! Work on a stream, divided among threads: each stage is a thread of its own, and a few blocks of memory go round between it
//! and the next one, so that memory doesn't grow with the stream [P11]. The file at the start is read by whoever takes what comes
//! out at the end, whenever the first stage asks for more: it may be borrowed, and no thread of ours ever waits for a disk or a
//! network. An error goes the way of the bytes, after those that were made before it. When the stages are dropped, each finds
//! that nobody takes or gives anything any more, and ends.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use super::Error;

/// Bytes that are handed on at once.
const BLOCK: usize = 256 << 10;
/// Blocks between two stages: one that is filled, one that is emptied, and some for whoever is late.
const BLOCKS: usize = 4;

/// Memory that goes round.
struct Block {
    bytes: Box<[u8]>,
    len: usize,
}

impl Block {
    fn new() -> Self {
        Self { bytes: vec![0; BLOCK].into_boxed_slice(), len: 0 }
    }

    /// As much as comes, up to all of it. What was read before an error counts.
    fn fill(&mut self, from: &mut impl Read) -> Option<io::Error> {
        self.len = 0;
        while self.len < BLOCK {
            match from.read(&mut self.bytes[self.len..]) {
                Ok(0) => break,
                Ok(read) => self.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(error),
            }
        }
        None
    }
}

/// A block that was filled, with nothing in it at the end; or why there are no more.
type Filled = io::Result<Block>;

/// What the stages tell whoever reads.
enum Told {
    /// The first one has emptied this block.
    Emptied(Block),
    /// One of them can begin, or can't.
    Begun(Result<(), Error>),
    /// The last one has filled this.
    Filled(Filled),
}

/// What becomes of the bytes that come to a stage, if that can be begun.
pub(super) type Stage = Box<dyn FnOnce(Inlet) -> Result<Box<dyn Read>, Error> + Send>;

/// Where filled blocks go; says whether anybody is there. And where empty ones go back to.
type Forward = Box<dyn Fn(Filled) -> bool + Send>;
type Back = Box<dyn Fn(Block) + Send>;

/// What a stage reads: the blocks that the one before it has filled.
pub(super) struct Inlet {
    filled: Receiver<Filled>,
    back: Back,
    block: Option<Block>,
    taken: usize,
}

impl BufRead for Inlet {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // At the end an empty block stays here.
        if let Some(block) = self.block.take_if(|block| block.len > 0 && block.len == self.taken) {
            (self.back)(block);
        }
        if self.block.is_none() {
            self.block = Some(self.filled.recv().unwrap_or_else(|_| Err(broken_off()))?);
            self.taken = 0;
        }
        Ok(self.block.as_ref().map_or(&[], |block| &block.bytes[self.taken..block.len]))
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

impl Read for Inlet {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// What comes out of the last stage.
pub(super) struct Stages<R> {
    /// The file, until its end or an error; and that error.
    input: Option<R>,
    failed: Option<io::Error>,
    told: Receiver<Told>,
    feed: Option<Forward>,
    back: Option<Sender<Block>>,
    threads: Vec<JoinHandle<()>>,
    /// Blocks for the first stage that are still to be made: one is enough to begin with, and much may begin long before it
    /// is read.
    spare: usize,
    block: Option<Block>,
    taken: usize,
}

impl<R: Read> Stages<R> {
    /// Begins with all of these, one after the other. An error that one of them begins with is told here.
    pub(super) fn begin(input: R, stages: Vec<Stage>) -> Result<Self, Error> {
        let (tell, told) = channel();
        let (back, mut empty) = blocks();
        let tells = tell.clone();
        let mut forward: Forward = Box::new(move |filled| tells.send(Told::Filled(filled)).is_ok());
        let mut all = Self {
            input: Some(input),
            failed: None,
            told,
            feed: None,
            back: Some(back),
            threads: Vec::new(),
            spare: BLOCKS - 1,
            block: None,
            taken: 0,
        };
        let count = stages.len();
        // From the last to the first, since each is given the ways to the next.
        for (at, stage) in stages.into_iter().enumerate().rev() {
            let (feed, filled) = channel();
            let (give, before) = blocks();
            let back: Back = if at == 0 { to_reader(&tell) } else { Box::new(move |block| drop(give.send(block))) };
            let (inlet, tell) = (Inlet { filled, back, block: None, taken: 0 }, tell.clone());
            let work = move || run(stage, inlet, tell, &empty, &forward);
            all.threads.push(Builder::new().name("codec".to_owned()).spawn(work).map_err(Error::Unread)?);
            forward = Box::new(move |filled| feed.send(filled).is_ok());
            empty = before;
        }
        all.feed = Some(forward);
        drop(tell);
        (0..count).try_for_each(|_| all.listen_until_begun())?;
        Ok(all)
    }

    fn listen_until_begun(&mut self) -> Result<(), Error> {
        loop {
            match self.told.recv() {
                Ok(Told::Emptied(block)) => self.feed(block),
                Ok(Told::Begun(begun)) => return begun,
                Ok(Told::Filled(Err(error))) => return Err(Error::of(error)),
                Ok(Told::Filled(Ok(_))) | Err(_) => return Err(Error::of(broken_off())),
            }
        }
    }

    /// What the file holds next goes to the first stage; an error after what was read before it. Then nothing is read any more.
    fn feed(&mut self, mut block: Block) {
        block.len = 0;
        if let Some(input) = &mut self.input {
            self.failed = block.fill(input);
            if self.failed.is_some() || block.len == 0 {
                self.input = None;
            }
        }
        let filled = if block.len > 0 { Ok(block) } else { self.failed.take().map_or(Ok(block), Err) };
        // Whoever isn't there any more has told why.
        let _ = self.feed.as_ref().is_some_and(|feed| feed(filled));
    }

    fn next(&mut self) -> Filled {
        for _ in 0..std::mem::take(&mut self.spare) {
            self.feed(Block::new());
        }
        loop {
            match self.told.recv() {
                Ok(Told::Emptied(block)) => self.feed(block),
                Ok(Told::Filled(filled)) => return filled,
                Ok(Told::Begun(_)) => {}
                Err(_) => return Err(broken_off()),
            }
        }
    }
}

impl<R: Read> Read for Stages<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(block) = self.block.take_if(|block| block.len > 0 && block.len == self.taken)
            && let Some(back) = &self.back
        {
            let _ = back.send(block);
        }
        if self.block.is_none() {
            self.block = Some(self.next()?);
            self.taken = 0;
        }
        let read = self.block.as_ref().map_or(&[][..], |block| &block.bytes[self.taken..block.len]).read(buffer)?;
        self.taken += read;
        Ok(read)
    }
}

impl<R> Drop for Stages<R> {
    /// Nobody gives or takes anything any more: each stage ends.
    fn drop(&mut self) {
        (self.feed, self.back) = (None, None);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// One stage, on its thread: until the end, an error, or nobody wants any more.
fn run(stage: Stage, inlet: Inlet, tell: Sender<Told>, empty: &Receiver<Block>, forward: &Forward) {
    let mut from = match stage(inlet) {
        Ok(from) => {
            let _ = tell.send(Told::Begun(Ok(())));
            from
        }
        Err(error) => return drop(tell.send(Told::Begun(Err(error)))),
    };
    // Whoever reads notices that all stages have gone.
    drop(tell);
    while let Ok(mut block) = empty.recv() {
        let failed = block.fill(&mut from);
        let ended = block.len == 0 || failed.is_some();
        if (block.len > 0 || failed.is_none()) && !forward(Ok(block)) {
            return;
        }
        if let Some(error) = failed {
            forward(Err(error));
        }
        if ended {
            return;
        }
    }
}

/// Blocks to begin with, and the way by which they come back.
fn blocks() -> (Sender<Block>, Receiver<Block>) {
    let (give, empty) = channel();
    // Both ends are at hand.
    (0..BLOCKS).for_each(|_| drop(give.send(Block::new())));
    (give, empty)
}

/// The first stage's blocks are those that are filled from the file; one of them now.
fn to_reader(tell: &Sender<Told>) -> Back {
    let tell = tell.clone();
    let back = move |block| drop(tell.send(Told::Emptied(block)));
    back(Block::new());
    Box::new(back)
}

/// A stage has gone without a word.
fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its decoding broke off")
}
