//! A run of remnants whose neighbours aren't here any more, as where the replica keeps more than the backup directory: both are rebuilt
//! from what lies there, in private files, and the later one is sent again on the earlier one as if they were here.
//!
//! - It takes an identity where the replica is encrypted, and is done with what is for those to whom is encrypted now.
//! - What is rebuilt has to be what was backed up, to the last byte, or nothing comes of it. What is found damaged on the way is
//!   remembered, and told with the next catalog.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::rebuild::{Broken, Rebuilder, Unfit};
use super::segment::Base;
use super::verify::Unopened;
use super::writable::Writable;
use crate::backup::replica::{Chains, Held, Origin, Readers, ReplicaEntry, Sending};
use crate::backup::{Backup, BackupId, DatabaseCopy, DatabaseName, Form, Subject};
use crate::engine::read::{OpenFile, Opened};
use crate::engine::staging::Staging;
use crate::engine::{Call, Error};
use crate::sqlite::{Control, Progress};

/// A backup and the one on which it is to be sent, rebuilt.
struct Both {
    new: Opened,
    old: Option<Opened>,
}

impl Writable<'_> {
    /// Whether it can be rebuilt here from what lies there.
    pub(super) fn reads(&self, origin: Origin) -> bool {
        let (to, chains) = (self.recipients(), self.site.chains());
        let (there, left) = (self.marked(&[]), self.remnants());
        let is_sound = !Chains::of(&there, &left).unsound().contains(&origin);
        let is_for = |held: &Held| {
            let mut each = held.databases.iter();
            each.all(|(name, it)| it.ltx.is_some() && chains.is_for(Readers::of(&to), origin, name))
        };
        let opens = self.engine.config.codec.opens(Form::of(true, !to.is_empty()), &to);
        opens && is_sound && there.iter().any(|held| held.origin == origin && is_for(held))
    }

    /// Sends a backup that lies there again on that one, if it takes at most so many bytes. Its id, and the bytes that it took.
    pub(super) fn merged(
        &mut self,
        origin: Origin,
        on: Option<Origin>,
        most: u64,
        call: &Call,
    ) -> Result<Option<(BackupId, u64)>, Error> {
        let folder = Staging::create(self.engine.store.root())?;
        let Some(Both { new, old }) = self.both_there(origin, on, folder.path(), &call.control)? else {
            return Ok(None);
        };
        let base = old.map(Base::of);
        match self.measure(&new, base.as_ref(), most, call) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            // It isn't what was backed up, though each segment is the one that was sent.
            Err(Error::Damaged { subject: Subject::Backup(id), reason }) => {
                tracing::warn!(replica = %self.name, %id, reason, "what lies there leads to another database");
                self.finds_all_damaged(id);
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let Backup { id, promoted_from, .. } = new.backup;
        let sending = Sending { origin, id, promoted_from };
        let held = self.send_opened(&sending, &new, base.as_ref(), &call.control)?;
        Ok(Some((id, self.put(held, None)?)))
    }

    /// Nothing if it can't be had.
    fn both_there(
        &mut self,
        origin: Origin,
        on: Option<Origin>,
        folder: &Path,
        control: &Control,
    ) -> Result<Option<Both>, Error> {
        let Some(there) = self.site.catalog.clone() else { return Ok(None) };
        let (engine, link, chains) = (self.engine, self.site.link.clone(), there.chains());
        let (mut new, mut old) = (None, None);
        for held in there.backups.iter().filter(|held| held.origin == origin || Some(held.origin) == on) {
            let Some(entry) = self.entry_of(held)? else { return Ok(None) };
            let into = if held.origin == origin { &mut new } else { &mut old };
            *into = Some((held, entry));
        }
        let Some((held, entry)) = new else { return Ok(None) };
        let (mut new_files, mut old_files) = (Vec::new(), Vec::new());
        for name in held.databases.keys() {
            let mut rebuilder = Rebuilder::new(engine, &link, &chains, name, folder)?;
            let is_in = |held: &Held| held.databases.get(name).is_some_and(|it| it.ltx.is_some());
            if let Some((held, entry)) = old.as_ref().filter(|(held, _)| is_in(held)) {
                if !self.leads(&mut rebuilder, (held, entry), name, control)? {
                    return Ok(None);
                }
                let mut tick = || {
                    control.check()?;
                    self.hold(false)
                };
                let copied = rebuilder.copied(&folder.join(format!("{name}.before")), &mut tick)?;
                old_files.extend(file(name, entry, copied));
            }
            if !self.leads(&mut rebuilder, (held, &entry), name, control)? {
                return Ok(None);
            }
            new_files.extend(file(name, &entry, rebuilder.into_file()));
        }
        let old = old.map(|(held, entry)| Opened { backup: as_named(held, entry), files: old_files });
        Ok(Some(Both { new: Opened { backup: as_named(held, entry), files: new_files }, old }))
    }

    fn entry_of(&mut self, held: &Held) -> Result<Option<ReplicaEntry>, Error> {
        Ok(match self.engine.entry_there(&self.site, held)? {
            Ok(entry) => Some(entry),
            Err(Unopened::Locked) => None,
            Err(Unopened::Damaged(reason)) => {
                tracing::warn!(replica = %self.name, id = %held.id, reason, "what lies there is damaged");
                self.state.found_damaged.insert(held.origin);
                None
            }
        })
    }

    /// Whether it came to the state of that backup.
    fn leads(
        &mut self,
        rebuilder: &mut Rebuilder<'_>,
        (held, entry): (&Held, &ReplicaEntry),
        name: &DatabaseName,
        control: &Control,
    ) -> Result<bool, Error> {
        let Some(copy) = entry.backup.databases.get(name) else { return Ok(false) };
        control.tell(Progress { database: name, done: 0, total: held.size() });
        let mut tick = || {
            control.check()?;
            self.hold(false)
        };
        match rebuilder.reach((held.origin, held.id, copy.size), &mut tick, |_| ())? {
            Ok(()) => Ok(true),
            Err(Broken { unfit: Unfit::Locked, .. }) => Ok(false),
            Err(Broken { origin, unfit: Unfit::Damaged(reason) }) => {
                tracing::warn!(replica = %self.name, id = %held.id, reason, "what lies there is damaged");
                self.state.found_damaged.insert(origin);
                self.state.found_databases.insert((origin, name.clone()));
                Ok(false)
            }
        }
    }

    fn finds_all_damaged(&mut self, id: BackupId) {
        let held = self.site.catalog.as_ref().and_then(|catalog| catalog.get(&id));
        if let Some(held) = held {
            self.state.found_damaged.insert(held.origin);
            let names = held.databases.keys().cloned();
            self.state.found_databases.extend(names.map(|name| (held.origin, name)));
        }
    }
}

/// As the catalog there calls it by now.
fn as_named(held: &Held, entry: ReplicaEntry) -> Backup {
    Backup {
        id: held.id,
        tier: held.id.tier(),
        local_date: held.local_date,
        promoted_from: held.promoted_from,
        pinned: held.pinned,
        flags: held.flags.clone(),
        ..entry.backup
    }
}

/// A plain copy of what was backed up.
fn file(name: &DatabaseName, entry: &ReplicaEntry, (file, path): (File, PathBuf)) -> Option<OpenFile> {
    let copy = entry.backup.databases.get(name)?;
    let copy = DatabaseCopy {
        form: Form::Plain,
        stored_size: copy.size,
        stored_checksum: copy.checksum.clone(),
        stored_xxh3: None,
        recipients: Vec::new(),
        ..copy.clone()
    };
    Some(OpenFile { name: name.clone(), copy, path, file: Ok(file) })
}
