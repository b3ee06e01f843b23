//! What is older than the window goes, so that after a crash anywhere all that is left is whole:
//!
//! 1. The snapshot that the window begins with is read, and its checksum compared: it stands in for all that goes.
//! 2. Older snapshots, the oldest first. What they led to can't be rebuilt any more, and nothing says that it can.
//! 3. Their folder is synced, also where they went at an earlier try: no snapshot comes back without what follows it.
//! 4. What leads nowhere without them, of all levels; and what is noted of such states.

use super::chain::Horizon;
use super::index::level_folder;
use super::name::Level;
use super::{Error, Journal, LtxFile, Source, chain, states};
use crate::disk;
use crate::sqlite::Control;

impl Journal {
    /// Keeps every state since then, and the newest in any case; tells how many files went.
    pub fn retain(&self, horizon: Horizon, control: &Control) -> Result<usize, Error> {
        let Some(expired) = chain::expired(&self.index(), horizon) else { return Ok(0) };
        if !expired.snapshots.is_empty() {
            let mut base = Source::open(&self.folder, &expired.base)?;
            let mut page = Vec::new();
            while base.page(&mut page)?.is_some() {
                control.check()?;
            }
            base.finish()?;
        }
        let removed = self.remove(&expired.snapshots, control)?;
        if removed + expired.others.len() > 0 {
            disk::sync_dir(&level_folder(&self.folder, Level::SNAPSHOT))?;
        }
        let removed = removed + self.remove(&expired.others, control)?;
        states::forget_before(&self.states, expired.base.name.max);
        Ok(removed)
    }

    fn remove(&self, files: &[LtxFile], control: &Control) -> Result<usize, Error> {
        let mut removed = Vec::new();
        let all = files.iter().try_for_each(|file| {
            control.check()?;
            disk::remove(&file.name.path(&self.folder))?;
            removed.push(file.name);
            Ok(())
        });
        self.index().remove(&removed);
        all.map(|()| removed.len())
    }
}
