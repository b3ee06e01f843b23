//! Sending one backup, and reading back what was sent.
//!
//! 1. Each of its files is held open, and leaves as it lies, compressed and encrypted on the way as far as it isn't yet; or, to an
//!    incremental replica, as the pages that have changed (`segment`). What is read here has to be what the catalog recorded, or
//!    nothing is stored there at all.
//! 2. It is read back from there to its last byte: size and SHA-256 are those of what was sent, and where an identity is at hand it
//!    decodes to the very database [P8].
//! 3. The entry follows, and is read back as well.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::carry::is_of_one_here;
use super::passing::{Coming, Sum, Summed, Tick, drain, gone};
use super::segment::Base;
use super::site::Link;
use super::writable::Writable;
use crate::backup::replica::{Folder, Held, HeldDatabase, HeldEntry, Nonce, Object, Origin, ReplicaEntry, Sending};
use crate::backup::{Backup, BackupId, DatabaseCopy, DatabaseName, Form, Subject, hex};
use crate::codec::{self, Codec, Recipient};
use crate::disk::block::{BlockReader, Direct};
use crate::disk::{self, Context};
use crate::engine::read::{OpenFile, Opened, other_bytes};
use crate::engine::{Call, Engine, Error};
use crate::remote;
use crate::sqlite::{Control, Progress};

/// Bytes that are sent at once.
pub(super) const PIECE: usize = 256 << 10;
/// Larger entries are none of ours.
pub(super) const MAX_ENTRY: u64 = 4 << 20;

/// How often a backup is looked for by its name, which rotation may change.
const LOOKS: usize = 3;

/// How a file that lies in one form is to lie in a replica: always compressed, and encrypted where there is anyone to encrypt to.
pub(super) fn form_there(here: Form, encrypts: bool) -> Form {
    match here {
        Form::Encrypted => Form::Encrypted,
        form => Form::of(true, encrypts || form.is_encrypted()),
    }
}

/// A file of a backup on its way.
pub(super) struct Leaving<'a> {
    pub(super) folder: Folder,
    pub(super) backup: &'a Backup,
    pub(super) name: &'a DatabaseName,
    pub(super) copy: &'a DatabaseCopy,
    /// Bytes of the backup before it.
    pub(super) before: u64,
}

/// A file that isn't there is found out by every other reader from now on; one that can't be opened just now says nothing.
fn unopened(backup: &Backup, error: &disk::Error) -> Error {
    let reason = error.to_string();
    match error.is_no_file() {
        true => Error::Damaged { subject: backup.id.into(), reason },
        false => Error::NotSent { reason },
    }
}

impl Writable<'_> {
    /// Sends a backup. Nothing, if it is gone from here meanwhile. A base that reads badly here is passed over.
    pub(super) fn send(&mut self, sending: &Sending, call: &Call) -> Result<Option<Held>, Error> {
        loop {
            let base = self.base_of(sending.origin)?;
            match (self.send_on(sending, base.as_ref(), &call.control), base) {
                (Err(error @ Error::Damaged { subject: Subject::Backup(id), .. }), Some(base)) if id == base.id => {
                    self.doubts(&error);
                }
                (sent, _) => return sent,
            }
        }
    }

    /// A copy here that reads badly is nothing's base any more, and is read once more when the lease is given back: that may take
    /// longer than a lease.
    pub(super) fn doubts(&mut self, error: &Error) {
        if let Error::Damaged { subject: Subject::Backup(id), .. } = error {
            self.doubted.insert(*id);
        }
    }

    fn send_on(&mut self, sending: &Sending, base: Option<&Base>, control: &Control) -> Result<Option<Held>, Error> {
        let Some(opened) = self.opened(sending.origin)? else { return Ok(None) };
        self.send_opened(sending, &opened, base, control).map(Some)
    }

    /// Wherever its files come from. Where it is not the store that is in the way, nothing is left there of what could not be sent.
    pub(super) fn send_opened(
        &mut self,
        sending: &Sending,
        opened: &Opened,
        base: Option<&Base>,
        control: &Control,
    ) -> Result<Held, Error> {
        let folder = Folder { origin: sending.origin, nonce: Nonce(disk::random()?) };
        let sent = self.send_into(folder, sending, opened, base, control);
        if sent.as_ref().is_err_and(is_of_one_here)
            && let Err(error) = self.take_away(folder)
        {
            tracing::warn!(%error, replica = %self.name, "what was sent of {} goes with the next replication", sending.id);
        }
        sent
    }

    fn take_away(&mut self, folder: Folder) -> Result<(), Error> {
        let link = self.site.link.clone();
        for listed in link.at(link.remote.list(&folder.to_string()))? {
            self.hold(false)?;
            link.at(link.remote.delete(&listed.key))?;
        }
        Ok(())
    }

    fn send_into(
        &mut self,
        folder: Folder,
        sending: &Sending,
        Opened { backup, files }: &Opened,
        base: Option<&Base>,
        control: &Control,
    ) -> Result<Held, Error> {
        let (mut databases, mut recipients, mut before) = (BTreeMap::new(), BTreeMap::new(), 0);
        let mut leave = Vec::new();
        // What can't leave keeps the others from being sent for nothing.
        for OpenFile { name, copy, path, file } in files {
            let file = file.as_ref().map_err(|error| unopened(backup, error))?;
            leave.push((file, self.change(backup, name, (copy, file, path), base)?));
        }
        for (OpenFile { name, copy, path, .. }, (file, change)) in files.iter().zip(leave) {
            let leaving = Leaving { folder, backup, name, copy, before };
            let (held, to) = match change {
                Some(change) => self.send_segment(&leaving, &change, base.map(|base| base.origin), control)?,
                None => self.send_file(&leaving, BlockReader::new(Direct::new(file)), path, control)?,
            };
            before += copy.stored_size;
            recipients.insert(name.clone(), to);
            databases.insert(name.clone(), held);
        }
        let entry = self.send_entry(folder, backup, recipients)?;
        Ok(Held {
            origin: sending.origin,
            nonce: folder.nonce,
            id: sending.id,
            local_date: backup.local_date,
            promoted_from: sending.promoted_from,
            pinned: backup.pinned,
            flags: backup.flags.clone(),
            damaged: false,
            entry,
            databases,
            extra: serde_json::Map::new(),
        })
    }

    /// Nothing, if it is gone from here. Where rotation gives it another name meanwhile it is looked for again.
    pub(super) fn opened(&self, origin: Origin) -> Result<Option<Opened>, Error> {
        for _ in 0..LOOKS {
            let backups = self.engine.list()?;
            let Some(backup) = backups.iter().find(|backup| Origin::of(backup) == origin) else { return Ok(None) };
            if let Some(opened) = self.opened_as(origin, &backup.id)? {
                return Ok(Some(opened));
            }
        }
        let reason =
            "it had another name each time it was to be opened; it is sent with the next replication".to_owned();
        Err(Error::NotSent { reason })
    }

    /// Nothing, if that is not its name by now, but nobody's or another's.
    pub(super) fn opened_as(&self, origin: Origin, id: &BackupId) -> Result<Option<Opened>, Error> {
        match self.engine.opened(id) {
            Err(Error::NotFound(_)) => Ok(None),
            opened => Ok(Some(opened?).filter(|opened| Origin::of(&opened.backup) == origin)),
        }
    }

    /// Steps 1 and 2.
    fn send_file(
        &mut self,
        leaving: &Leaving<'_>,
        mut input: BlockReader<'_>,
        path: &std::path::Path,
        control: &Control,
    ) -> Result<(HeldDatabase, Vec<String>), Error> {
        let Leaving { folder, backup, name, copy, before } = *leaving;
        let codec = self.engine.codec_there(copy.form);
        let form = form_there(copy.form, !self.engine.config.codec.recipients.is_empty());
        let to: Vec<String> = match codec.encrypts {
            true => codec.recipients.iter().map(Recipient::to_string).collect(),
            false => copy.recipients.clone(),
        };
        let key = folder.database(name, form, false);
        let link = self.site.link.clone();
        let out = Summed::new(link.at(link.remote.upload(&key))?);
        let mut encoder = codec.encode(out, copy.stored_size).map_err(|error| broken(&link, error))?;
        let (mut read, mut piece) = (Sum::default(), vec![0; PIECE]);
        loop {
            control.check()?;
            control.tell(Progress { database: name, done: before + read.size, total: backup.stored_size() });
            self.hold(false)?;
            let length = input.read(&mut piece).to("read", path);
            let length = length.map_err(|error| Error::NotSent { reason: error.to_string() })?;
            if length == 0 {
                break;
            }
            read.add(&piece[..length]);
            encoder.write_all(&piece[..length]).map_err(|error| broken(&link, error))?;
        }
        if read.size != copy.stored_size || read.checksum() != copy.stored_checksum {
            return Err(Error::Damaged { subject: backup.id.into(), reason: other_bytes(&copy.file) });
        }
        let object = encoder.finish().map_err(|error| broken(&link, error))?.finish(&link, &key)?;
        let plain = self.engine.config.codec.opens(form, &to).then_some(copy);
        let engine = self.engine;
        let mut tick = || {
            control.check()?;
            self.hold(false)
        };
        match engine.read_there(&link, &key, form, &object, plain, &mut tick)? {
            None => {
                let extra = serde_json::Map::new();
                Ok((HeldDatabase { form, ltx: None, readers: None, damaged: false, object, extra }, to))
            }
            Some(reason) => Err(link.damaged(format!("{reason}, though it was sent well; it is sent again"))),
        }
    }

    /// Step 3.
    fn send_entry(
        &self,
        folder: Folder,
        backup: &Backup,
        recipients: BTreeMap<DatabaseName, Vec<String>>,
    ) -> Result<HeldEntry, Error> {
        let codec = Codec { level: None, ..self.engine.codec_there(Form::Plain) };
        let encrypted = codec.encrypts;
        let entry = ReplicaEntry::new(self.store_id.clone(), backup.clone(), recipients);
        let mut bytes = serde_json::to_vec_pretty(&entry).unwrap_or_default();
        bytes.push(b'\n');
        let encoded = codec.encode(Vec::new(), bytes.len() as u64).and_then(|mut encoder| {
            encoder.write_all(&bytes)?;
            encoder.finish()
        });
        let link = &self.site.link;
        let bytes = encoded.map_err(|error| broken(link, error))?;
        let key = folder.entry(encrypted);
        link.at(link.remote.put(&key, &bytes))?;
        if link.at(link.remote.get(&key, MAX_ENTRY))?.as_ref() != Some(&bytes) {
            return Err(link.damaged(format!("{key} is not there as it was sent; it is sent again")));
        }
        let object = Object { size: bytes.len() as u64, checksum: hex(&Sha256::digest(&bytes)), parts: 0 };
        Ok(HeldEntry { encrypted, object })
    }
}

/// What went wrong between the codec and the store.
pub(super) fn broken(link: &Link, error: io::Error) -> Error {
    match remote::Error::of_io(error) {
        Ok(error) => link.failed(error),
        Err(error) => link.damaged(format!("what is sent can't be encoded: {error}")),
    }
}

impl Engine {
    /// What is done on the way with a file that lies here in that form.
    pub(super) fn codec_there(&self, here: Form) -> Codec {
        let Codec { recipients, identities, .. } = self.config.codec.clone();
        let encrypts = !recipients.is_empty() && !here.is_encrypted();
        let level = (here == Form::Plain).then_some(self.config.compression_level);
        Codec { level, encrypts, recipients, identities }
    }

    /// Reads an object of a replica to its end. Says what is wrong with it; an error is of the way, and says nothing of the object.
    pub(super) fn read_there(
        &self,
        link: &Link,
        key: &str,
        form: Form,
        object: &Object,
        plain: Option<&DatabaseCopy>,
        tick: Tick<'_>,
    ) -> Result<Option<String>, Error> {
        let mut coming = match Coming::begin(link, key, object) {
            Err(error @ remote::Error::Absent(_)) => return gone(link, key, object, error),
            coming => link.at(coming)?,
        };
        let decoded = match plain {
            Some(copy) => self.decoded_there(&mut coming, form, copy.size, tick)?,
            None => drain(&mut coming, tick)?,
        };
        match coming.error.take() {
            Some(error @ remote::Error::Absent(_)) => return gone(link, key, object, error),
            Some(error) => return Err(link.failed(error)),
            None => {}
        }
        if !coming.sum.is_of(object) {
            return Ok(Some(format!("{key} holds other bytes than were recorded (SHA-256)")));
        }
        Ok(match (decoded, plain) {
            (Err(reason), _) => Some(format!("{key} can't be decoded: {reason}")),
            (Ok(sum), Some(copy)) if sum.checksum() != copy.checksum => {
                Some(format!("{key} holds the bytes that were recorded, but decodes to another database"))
            }
            _ => None,
        })
    }

    /// Reads an object of which only the length is known.
    pub(super) fn read_whole(
        &self,
        link: &Link,
        key: &str,
        object: &Object,
        tick: Tick<'_>,
    ) -> Result<Option<String>, Error> {
        let mut coming = match Coming::begin(link, key, object) {
            Err(error @ remote::Error::Absent(_)) => return gone(link, key, object, error),
            coming => link.at(coming)?,
        };
        let read = drain(&mut coming, tick)?;
        match coming.error.take() {
            Some(error @ remote::Error::Absent(_)) => gone(link, key, object, error),
            Some(error) => Err(link.failed(error)),
            None if read.is_err() || coming.sum.size != object.size => {
                Ok(Some(format!("{key} is not as long as it was")))
            }
            None => Ok(None),
        }
    }

    fn decoded_there(
        &self,
        coming: &mut Coming,
        form: Form,
        size: u64,
        tick: Tick<'_>,
    ) -> Result<Result<Sum, String>, Error> {
        let decoded = match self.config.codec.decode(&mut *coming, form, Some(size)) {
            Ok(mut decoder) => drain(&mut decoder, tick),
            Err(codec::Error::Locked) => Ok(Err("its header was changed".to_owned())),
            Err(error) => Ok(Err(error.to_string())),
        }?;
        // What decodes badly may still be the very bytes that were sent.
        drain(coming, tick)?.ok();
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_compressed_there_and_encrypted_where_that_can_be_done() {
        use Form::{Compressed, CompressedEncrypted, Encrypted, Plain};
        for (here, plain, encrypted) in [
            (Plain, Compressed, CompressedEncrypted),
            (Compressed, Compressed, CompressedEncrypted),
            (Encrypted, Encrypted, Encrypted),
            (CompressedEncrypted, CompressedEncrypted, CompressedEncrypted),
        ] {
            assert_eq!((form_there(here, false), form_there(here, true)), (plain, encrypted), "{here:?}");
        }
    }
}
