//! Private copies of a backup's files in a folder of their own, `restoring/<32 hex digits>`: what is done with them touches
//! neither the backup nor what rotation does to it. The folder goes when it is let go; what a crash leaves of it, the next
//! operation removes.
//!
//! 1. The backup's files are opened: rotation can't take them away any more. They are there, and as long as they were.
//! 2. There is room for all of them.
//! 3. Each is copied while it is hashed, as many bytes as the catalog says, and made durable. Its checksum is the recorded one.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::create::OVERHEAD;
use super::handout::{Handed, file_name};
use super::read::{Opened, Share, other_bytes};
use super::{Engine, Error, Session, random_id};
use crate::backup::{Backup, BackupId, DatabaseName, hex};
use crate::disk::block::{Block, Direct};
use crate::disk::{self, Context};
use crate::sqlite::{Control, Progress};

/// Where such folders lie, below the backup directory.
const RESTORING: &str = "restoring";

/// A private folder. Dropped, it is removed with all that is in it, unless it was kept.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    name: String,
    kept: bool,
}

/// A backup's files, copied into a private folder and compared with the catalog.
#[derive(Debug)]
pub struct Staged {
    /// The backup, by the id that it had when its files were opened.
    pub backup: Backup,
    /// The copy of each database.
    pub files: BTreeMap<DatabaseName, PathBuf>,
    /// Where they lie.
    pub folder: Staging,
}

impl Staging {
    fn create(root: &Path) -> Result<Self, Error> {
        let parent = root.join(RESTORING);
        disk::make_own_dir(&parent)?;
        let name = random_id()?;
        let staging = Self { path: parent.join(&name), name, kept: false };
        disk::make_own_dir(&staging.path)?;
        Ok(staging)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, 32 hex digits.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets the folder stay, also over a crash if its name is given to recovery. Says where it is.
    pub fn keep(mut self) -> PathBuf {
        self.kept = true;
        std::mem::take(&mut self.path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = disk::remove_tree(&self.path) {
            tracing::warn!(%error, "private copies are left to the next operation");
        }
        remove_empty(disk::parent(&self.path));
    }
}

impl Engine {
    /// Copies a backup into a private folder. Only whoever holds `.lock` may call it: the next one removes what is there.
    pub fn stage(&self, id: &BackupId, control: &Control) -> Result<Staged, Error> {
        let Opened { backup, files } = self.opened(id)?;
        let files = files.into_iter().map(|it| it.usable(backup.id)).collect::<Result<Vec<_>, _>>()?;
        let total = files.iter().map(|it| it.copy.stored_size).sum();
        let (needed, free) = (total + OVERHEAD, disk::free_space(self.store.root())?);
        if free < needed {
            return Err(Error::Full { needed, free });
        }
        let folder = Staging::create(self.store.root())?;
        let (mut share, mut staged) = (Share { before: 0, total }, BTreeMap::new());
        for handed in files {
            let target = folder.path().join(file_name(&handed.name, &handed.copy));
            if copy(&handed, &self.store.path(&backup.id, &handed.name, handed.copy.form), &target, share, control)?
                != handed.copy.stored_checksum
            {
                return Err(Error::Damaged { id: backup.id, reason: other_bytes(&handed.copy.file) });
            }
            share.before += handed.copy.stored_size;
            staged.insert(handed.name, target);
        }
        disk::sync_dir(folder.path())?;
        Ok(Staged { backup, files: staged, folder })
    }
}

/// As many bytes as were recorded, however long the file has become. Gives their SHA-256.
fn copy(from: &Handed, path: &Path, target: &Path, share: Share, control: &Control) -> Result<String, Error> {
    let file = disk::create_private(target)?;
    let hash = pass_on(from, &file, path, target, share, control)?;
    file.sync_all().to("sync", target)?;
    Ok(hash)
}

fn pass_on(
    from: &Handed,
    file: &File,
    path: &Path,
    target: &Path,
    share: Share,
    control: &Control,
) -> Result<String, Error> {
    let (reader, writer) = (Direct::new(&from.file), Direct::new(file));
    let (mut block, mut hash, mut done) = (Block::new(), Sha256::new(), 0);
    loop {
        control.check()?;
        control.tell(Progress { database: &from.name, done: share.before + done, total: share.total });
        block.fill(&reader, done).to("read", path)?;
        block.truncate(from.copy.stored_size - done);
        if block.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(block.bytes());
        writer.write(&block).to("write", target)?;
        done += block.bytes().len() as u64;
    }
}

impl Session<'_> {
    /// Removes the private copies that a crash has left, but for the folder that is still needed. What can't be removed is
    /// left to the next operation, and stops none.
    pub(super) fn remove_leftovers(&self, except: Option<&str>) {
        let parent = self.engine.store.root().join(RESTORING);
        // What a link leads to is not ours.
        if !parent.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            return;
        }
        let names = std::fs::read_dir(&parent).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        for name in names.filter(|name| is_ours(name) && Some(name.as_str()) != except) {
            match disk::remove_tree(&parent.join(&name)) {
                Ok(()) => tracing::info!(folder = %name, "removed the private copies of an interrupted operation"),
                Err(error) => tracing::warn!(%error, "the private copies of an interrupted operation are still there"),
            }
        }
        remove_empty(&parent);
    }
}

fn is_ours(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A folder that others still use stays.
fn remove_empty(parent: &Path) {
    let _ = std::fs::remove_dir(parent);
}
