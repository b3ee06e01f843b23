//! Brings the copy of a snapshot up to what its database holds now, while nobody can write.

use std::sync::mpsc::{Receiver, Sender};

use rusqlite::Connection;

use super::page_set::{PageSet, insert_differing};
use super::pages::{Content, Hasher, Share, stream};
use super::snapshot::{Copy, facts};
use super::{Control, Error, situation};
use crate::disk::block::{Block, Direct};
use crate::disk::{self, Context, Partial};

/// Writes the pages that `locked`'s transaction sees and `copy` doesn't hold, syncs them and reads those back [P8]. Says
/// which they were. What the copy's report says of the structure is that of before.
pub fn catch_up(locked: &Connection, copy: &mut Copy, control: &Control) -> Result<PageSet, Error> {
    let failed = |error| situation(&copy.name, error);
    let now = facts(locked).map_err(failed)?;
    let share = Share { before: 0, total: now.bytes() };
    let (partial, page_size) = (&copy.partial, now.page_size);
    let sink = |full: &Receiver<Block>, free: &Sender<Block>| bring(partial, page_size, full, free);
    let mut brought = stream(locked, &copy.name, share, control, sink)?;
    partial.file().set_len(brought.content.size()).to("cut", partial.path())?;
    partial.sync()?;
    if !brought.reads_back(partial)? {
        return Err(Error::ReadBack { name: copy.name.clone() });
    }
    // What was cut off isn't there any more either.
    (now.pages + 1..=copy.facts.pages).for_each(|page| brought.changed.insert(page as u32));
    (copy.content, copy.facts) = (brought.content, now);
    Ok(brought.changed)
}

struct Brought {
    content: Content,
    changed: PageSet,
    /// Offsets of the blocks that were written, and what they hold.
    written: Vec<(u64, u128)>,
}

fn bring(
    partial: &Partial,
    page_size: u32,
    full: &Receiver<Block>,
    free: &Sender<Block>,
) -> Result<Brought, disk::Error> {
    let (file, mut held) = (Direct::new(partial.file()), Block::new());
    let mut hasher = Hasher::default();
    let (mut changed, mut written, mut offset) = (PageSet::default(), Vec::new(), 0);
    while let Ok(mut block) = full.recv() {
        held.fill(&file, offset).to("read", partial.path())?;
        let held = held.bytes().get(..block.bytes().len());
        if held != Some(block.bytes()) {
            insert_differing(&mut changed, held.unwrap_or_default(), block.bytes(), offset, page_size);
            file.write_at(&block, offset).to("write", partial.path())?;
            written.push((offset, twox_hash::XxHash3_128::oneshot(block.bytes())));
        }
        hasher.add(block.bytes());
        offset += block.bytes().len() as u64;
        block.clear();
        // The reader may have ended.
        let _ = free.send(block);
    }
    Ok(Brought { content: hasher.content(), changed, written })
}

impl Brought {
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
