//! Brings the copy of a snapshot up to what its database holds now, while nobody can write.

use std::sync::mpsc::{Receiver, Sender};

use rusqlite::Connection;

use super::page_set::{PageSet, insert_differing};
use super::pages::{Content, Hasher, in_time, stream};
use super::snapshot::{Copy, Facts, facts};
use super::{Control, Error, situation};
use crate::disk::block::{Block, Direct};
use crate::disk::{self, Context, Partial};

/// Writes the pages that `locked`'s transaction sees and `copy` doesn't hold. What the copy's report says of the structure is that
/// of before. `let_go` is called where nothing comes of it.
pub fn catch_up(locked: &Connection, copy: &Copy, control: &Control, let_go: impl FnOnce()) -> Result<Brought, Error> {
    let now = facts(locked).map_err(|error| situation(&copy.name, error))?;
    let partial = &copy.partial;
    let sink = |full: &Receiver<Block>, free: &Sender<Block>| bring(partial, now, full, free);
    std::thread::scope(|scope| {
        let writing = stream(scope, locked, &copy.name, control, sink);
        writing.end_in_time(|| in_time(&copy.name, control), let_go)
    })
}

/// What a copy has caught up with, not synced yet.
pub struct Brought {
    now: Facts,
    content: Content,
    changed: PageSet,
    /// Offsets of the blocks that were written, and what they hold.
    written: Vec<(u64, u128)>,
}

fn bring(partial: &Partial, now: Facts, full: &Receiver<Block>, free: &Sender<Block>) -> Result<Brought, disk::Error> {
    let (file, mut held) = (Direct::new(partial.file()), Block::new());
    let mut hasher = Hasher::default();
    let (mut changed, mut written, mut offset) = (PageSet::default(), Vec::new(), 0);
    while let Ok(mut block) = full.recv() {
        held.fill(&file, offset).to("read", partial.path())?;
        let held = held.bytes().get(..block.bytes().len());
        if held != Some(block.bytes()) {
            insert_differing(&mut changed, held.unwrap_or_default(), block.bytes(), offset, now.page_size);
            file.write_at(&block, offset).to("write", partial.path())?;
            written.push((offset, twox_hash::XxHash3_128::oneshot(block.bytes())));
        }
        hasher.add(block.bytes());
        offset += block.bytes().len() as u64;
        block.clear();
        // The reader may have ended.
        let _ = free.send(block);
    }
    Ok(Brought { now, content: hasher.content(), changed, written })
}

impl Brought {
    /// Syncs what was written into `copy`, and reads it back [P8]. Says which pages it was.
    pub fn settle(mut self, copy: &mut Copy) -> Result<PageSet, Error> {
        let partial = &copy.partial;
        partial.file().set_len(self.content.size()).to("cut", partial.path())?;
        partial.sync()?;
        if !self.reads_back(partial)? {
            return Err(Error::ReadBack { name: copy.name.clone() });
        }
        // What was cut off isn't there any more either.
        (self.now.pages + 1..=copy.facts.pages).for_each(|page| self.changed.insert(page as u32));
        (copy.content, copy.facts) = (self.content, self.now);
        Ok(self.changed)
    }

    fn reads_back(&self, partial: &Partial) -> Result<bool, disk::Error> {
        let (file, mut block) = (Direct::new(partial.file()), Block::new());
        for (offset, sum) in &self.written {
            block.fill(&file, *offset).to("read back", partial.path())?;
            if twox_hash::XxHash3_128::oneshot(block.bytes()) != *sum {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
