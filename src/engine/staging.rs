//! Private copies of a backup's files in a folder of their own, `restoring/<32 hex digits>`: what is done with them touches
//! neither the backup nor what rotation does to it. The folder goes when it is let go; what a crash leaves of it, the next
//! operation removes. It knows a folder that is in use by its lock: a preview holds no `.lock`.
//!
//! 1. The backup's files are opened: rotation can't take them away any more. They are there, and as long as they were.
//! 2. There is room for all of them.
//! 3. Each is copied while it is hashed, as many bytes as the catalog says, and made durable. Its checksum is the recorded one.
//!    What is compressed or encrypted is decoded on the way: the private copies are plain databases, whatever the backup is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::create::OVERHEAD;
use super::decode::{Coded, Decoded, Fault};
use super::handout::Usable;
use super::past::Past;
use super::read::{Opened, Share, other_bytes};
use super::transfer::Target;
use super::{Engine, Error, Session};
use crate::backup::{Backup, BackupId, DatabaseName, Form, hex};
use crate::disk::block::{BlockWriter, Direct};
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
    /// That it is in use.
    _held: File,
}

/// How often a folder is made anew that went before it could be held.
const TRIES: usize = 10;

/// The databases of a backup or of an instant in a private folder, compared with what was recorded of them.
#[derive(Debug)]
pub struct Staged {
    /// What they are of; a backup by the id that it had when its files were opened.
    pub past: Past,
    /// The copy of each database.
    pub files: BTreeMap<DatabaseName, PathBuf>,
    /// Where they lie.
    pub folder: Staging,
}

impl Staging {
    pub(super) fn create(root: &Path) -> Result<Self, Error> {
        let mut tries = 1;
        loop {
            match Self::try_create(root) {
                // Whoever has just begun an operation takes what nobody holds for a leftover.
                Err(error) if error.is_missing() && tries < TRIES => tries += 1,
                created => return Ok(created?),
            }
        }
    }

    fn try_create(root: &Path) -> Result<Self, disk::Error> {
        let parent = root.join(RESTORING);
        disk::make_own_dir(&parent)?;
        let name = hex(&disk::random::<16>()?);
        let path = parent.join(&name);
        disk::make_private_dir(&path)?;
        let staging = Self { _held: disk::hold_dir(&path)?, path, name, kept: false };
        staging.path.symlink_metadata().to("look at", &staging.path)?;
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
        disk::remove_empty_dir(disk::parent(&self.path));
    }
}

/// The same, as far as it went: a file that isn't what was recorded, or can't be read, stands in no other's way.
pub(super) struct Copies {
    pub(super) backup: Backup,
    pub(super) files: BTreeMap<DatabaseName, Result<PathBuf, Error>>,
    pub(super) folder: Staging,
}

/// What the copy of a database is called there.
pub(super) fn private_name(name: &DatabaseName) -> String {
    format!("{name}.db")
}

impl Engine {
    /// A private folder that was kept, by its name.
    pub(super) fn private_folder(&self, name: &str) -> PathBuf {
        self.store.root().join(RESTORING).join(name)
    }

    /// Copies a backup into a private folder. Only whoever holds `.lock` may call it: the next one removes what is there.
    pub fn stage(&self, id: &BackupId, control: &Control) -> Result<Staged, Error> {
        let share = Share { before: 0, total: self.get(id)?.size() };
        let Copies { backup, files, folder } = self.copies(id, share, control)?;
        let files = files.into_iter().map(|(name, file)| Ok((name, file?))).collect::<Result<_, Error>>()?;
        Ok(Staged { past: backup.into(), files, folder })
    }

    /// The same, as a part of more, and with a word for each file.
    pub(super) fn copies(&self, id: &BackupId, mut share: Share, control: &Control) -> Result<Copies, Error> {
        let Opened { backup, files } = self.opened(id)?;
        let (needed, free) = (backup.size() + OVERHEAD, disk::free_space(self.store.root())?);
        if free < needed {
            return Err(Error::Full { needed, free });
        }
        let folder = Staging::create(self.store.root())?;
        let mut copies = BTreeMap::new();
        for it in files {
            let (name, size, path) = (it.name.clone(), it.copy.size, it.path.clone());
            let copied = match it.usable(backup.id) {
                Ok(from) => {
                    let folder = folder.path();
                    Job { engine: self, id: backup.id, from, path: &path, folder, share, control }.copy()?
                }
                Err(error) => Err(error),
            };
            share.before += size;
            copies.insert(name, copied);
        }
        disk::sync_dir(folder.path())?;
        Ok(Copies { backup, files: copies, folder })
    }
}

/// The plain copy of one file.
pub(super) struct Aside {
    pub(super) path: PathBuf,
    pub(super) decoded: Decoded,
    /// It goes with this.
    _folder: Staging,
}

impl Engine {
    /// Decodes a file into a private folder, for as long as there is room: how much comes of it may not be known.
    pub(super) fn decode_aside(
        &self,
        name: &DatabaseName,
        coded: Coded<'_>,
        control: &Control,
    ) -> Result<Result<Aside, Fault>, Error> {
        let root = self.store.root();
        let folder = Staging::create(root)?;
        let path = folder.path().join(private_name(name));
        let file = disk::create_own(&path)?;
        let (mut writer, mut needed) = (BlockWriter::new(Direct::cached(&file)), OVERHEAD);
        let free = disk::free_space(root)?;
        let decoded = self.decode(coded, control, |bytes| {
            needed += bytes.len() as u64;
            if needed > free {
                return Err(Error::Full { needed, free });
            }
            Ok(writer.write_all(bytes).to("write", &path)?)
        })?;
        writer.finish().to("write", &path)?;
        Ok(decoded.map(|decoded| Aside { path, decoded, _folder: folder }))
    }
}

/// One file to be copied.
struct Job<'a> {
    engine: &'a Engine,
    id: BackupId,
    from: Usable,
    path: &'a Path,
    folder: &'a Path,
    share: Share,
    control: &'a Control,
}

impl Job<'_> {
    /// As many bytes as were recorded, however long the file has become. What is wrong with the file is told apart from
    /// what is wrong with the copy.
    fn copy(&self) -> Result<Result<PathBuf, Error>, Error> {
        let target = self.folder.join(private_name(&self.from.name));
        let file = disk::create_own(&target)?;
        if self.from.copy.form != Form::Plain {
            let decoded = self.decode(&file, &target)?;
            file.sync_all().to("sync", &target)?;
            return Ok(decoded.map(|()| target));
        }
        // It is checked, compared and restored from there.
        let reader = Direct::cached(&self.from.file);
        let content = Target { file: Direct::cached(&file), path: &target, size: self.from.copy.stored_size }.take(
            |block, done| block.fill(&reader, done),
            |done| {
                let (database, Share { before, total }) = (&self.from.name, self.share);
                self.control.tell(Progress { database, done: before + done, total });
                Ok(self.control.check()?)
            },
        )?;
        let content = match content.to("read", self.path) {
            Ok(content) => content,
            Err(error) => return Ok(Err(error.into())),
        };
        file.sync_all().to("sync", &target)?;
        if content.checksum == self.from.copy.stored_checksum {
            return Ok(Ok(target));
        }
        Ok(Err(Error::Damaged { subject: self.id.into(), reason: other_bytes(&self.from.copy.file) }))
    }

    /// The same of a file that is no plain database.
    fn decode(&self, file: &File, target: &Path) -> Result<Result<(), Error>, Error> {
        let Usable { name, copy, file: stored, .. } = &self.from;
        if let Err(error) = self.engine.assert_opens(self.id, name, copy) {
            return Ok(Err(error));
        }
        let mut writer = BlockWriter::new(Direct::cached(file));
        let mut done = self.share.before;
        let coded = Coded { file: Direct::cached(stored), path: self.path, form: copy.form, size: Some(copy.size) };
        let decoded = self.engine.decode(coded, self.control, |bytes| {
            self.control.tell(Progress { database: name, done, total: self.share.total });
            done += bytes.len() as u64;
            Ok(writer.write_all(bytes).to("write", target)?)
        })?;
        writer.finish().to("write", target)?;
        Ok(match decoded {
            Ok(decoded) => match decoded.differs(copy) {
                None => Ok(()),
                Some(reason) => Err(Error::Damaged { subject: self.id.into(), reason }),
            },
            Err(Fault::Locked) => Err(Fault::Damaged("its header was changed".to_owned()).told(self.id, name, copy)),
            Err(fault) => Err(fault.told(self.id, name, copy)),
        })
    }
}

impl Session<'_> {
    /// Removes the private copies that nobody needs any more. What can't be removed is left to the next operation, and
    /// stops none.
    pub(super) fn remove_leftovers(&self) {
        let parent = self.engine.store.root().join(RESTORING);
        // What a link leads to is not ours.
        if !parent.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            return;
        }
        let names = std::fs::read_dir(&parent).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        for path in names.filter(|name| is_ours(name)).map(|name| parent.join(name)) {
            if disk::is_held(&path) {
                continue;
            }
            if let Err(error) = disk::remove_tree(&path) {
                tracing::warn!(%error, "private copies are still there");
            }
        }
        disk::remove_empty_dir(&parent);
    }
}

/// The name of such a folder.
pub(super) fn is_ours(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
