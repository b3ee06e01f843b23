//! Copies in the form in which they are to lie: compressed, encrypted, or both.
//!
//! The databases are copied and checked as plain files first (`sqlite::snapshot`), private ones that are removed when this is
//! done. So neither the app's writers nor its WAL wait for zstd, whatever its level [P3]; the structure is looked at in the
//! very file, as of any copy; and a restore compares its pages. It costs room for a plain copy while a backup is made, and it
//! means that plain pages reach the disk of the backup directory for that time. Each copy then goes through these steps:
//!
//! 1. The plain file is read once more, block by block, and encoded into a file of its own. What is encoded has the fingerprint of
//!    what was checked.
//! 2. The encoded file is made durable, and read back from the disk. Its bytes are those that were written [P8].
//! 3. Where it can be decoded here, the same pass decodes it: the SHA-256 of what comes out is that of the database. Without an
//!    identity the ciphertext is all that can be compared, and the backup says so.
//! 4. The plain file is removed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::decode::{Coded, Fault};
use super::{Engine, Error, Session};
use crate::backup::{BackupId, DatabaseName, Form};
use crate::codec::{Codec, Recipient};
use crate::disk::block::{BlockReader, BlockWriter, Direct};
use crate::disk::{self, Context, Partial};
use crate::sqlite::pages::{Content, Fingerprint, Sum, read_back};
use crate::sqlite::snapshot::{Copy, Snapshot};
use crate::sqlite::{self, Control, Progress};

/// Bytes that are encoded at once.
const PIECE: usize = 256 << 10;

/// A file as it lies, for the catalog.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) form: Form,
    pub(super) content: Content,
    pub(super) recipients: Vec<String>,
    /// It could not be decoded here.
    pub(super) ciphertext_only: bool,
}

/// A copy that was encoded, not under its final name yet.
pub(super) struct Encoded {
    pub(super) partial: Partial,
    pub(super) stored: Stored,
}

/// Encoded copies by database; those that lie plain have none.
pub(super) type AllEncoded = BTreeMap<DatabaseName, Encoded>;
/// What is recorded of them.
pub(super) type AllStored = BTreeMap<DatabaseName, Stored>;

impl Session<'_> {
    /// All copies of a snapshot, whose plain files stay: they are written to and compared with once more.
    pub(super) fn encode_beside(
        &self,
        id: &BackupId,
        snapshot: &Snapshot,
        control: &Control,
    ) -> Result<AllEncoded, Error> {
        let mut all = AllEncoded::new();
        for copy in &snapshot.copies {
            all.extend(self.encode(id, copy, control)?.map(|encoded| (copy.name.clone(), encoded)));
        }
        Ok(all)
    }

    /// All copies of a snapshot, each plain file removed as soon as its encoded one is proven.
    pub(super) fn encode_in_place(
        &self,
        id: &BackupId,
        snapshot: &mut Snapshot,
        control: &Control,
    ) -> Result<AllStored, Error> {
        let mut all = AllStored::new();
        for copy in &mut snapshot.copies {
            if let Some(Encoded { partial, stored }) = self.encode(id, copy, control)? {
                copy.partial = partial;
                all.insert(copy.name.clone(), stored);
            }
        }
        Ok(all)
    }

    /// One copy; nothing if it lies as it is to lie already.
    pub(super) fn encode(&self, id: &BackupId, copy: &Copy, control: &Control) -> Result<Option<Encoded>, Error> {
        let form = self.engine.config.codec.form();
        if form == Form::Plain {
            return Ok(None);
        }
        let partial = Partial::create(&self.engine.store.path(id, &copy.name, form))?;
        let (from, to) = ((copy.partial.file(), copy.partial.path()), (partial.file(), partial.path()));
        let stored = self.engine.encode_into(&copy.name, from, &copy.content, to, control)?;
        Ok(Some(Encoded { partial, stored }))
    }

    /// A copy of corrupt data that was kept for a look, in the form in which copies are to lie. Gives its name; where that
    /// can't be done it is not kept plain where copies have to be encrypted. There it is a partial until then, which recovery
    /// removes after a crash.
    pub(super) fn encode_corrupt(&self, name: &DatabaseName, kept: String) -> Option<String> {
        let (codec, store) = (&self.engine.config.codec, &self.engine.store);
        if codec.form() == Form::Plain {
            return Some(kept);
        }
        let plain = store.root().join(&kept);
        let plain = if codec.encrypts { disk::partial_path(&plain) } else { plain };
        let encoded = self.encode_file(name, &plain, &store.corrupt_path(&kept, codec.form()));
        if let Err(error) = &encoded {
            tracing::warn!(%error, "the corrupt copy is not kept in the form that is configured");
        }
        if (encoded.is_ok() || codec.encrypts)
            && let Err(error) = disk::remove(&plain)
        {
            tracing::warn!(%error, "a plain copy of corrupt data is still there");
        }
        match encoded {
            Ok(file) => Some(file),
            Err(_) => (!codec.encrypts).then_some(kept),
        }
    }

    fn encode_file(&self, name: &DatabaseName, plain: &Path, target: &Path) -> Result<String, Error> {
        let (codec, file) = (&self.engine.config.codec, disk::open_regular(plain)?);
        let size = file.metadata().to("look at", plain)?.len();
        let partial = Partial::create(target)?;
        let control = &self.call.control.unstoppable();
        Job { codec, name, control, size }.write((&file, plain), (partial.file(), partial.path()), None)?;
        partial.publish_new()?;
        disk::sync_dir(disk::parent(target))?;
        let below = target.strip_prefix(self.engine.store.root()).unwrap_or(target);
        Ok(below.to_string_lossy().into_owned())
    }
}

impl Engine {
    /// A plain file into the form in which copies are to lie: steps 1 to 3.
    pub(super) fn encode_into(
        &self,
        name: &DatabaseName,
        from: (&File, &Path),
        plain: &Content,
        to: (&File, &Path),
        control: &Control,
    ) -> Result<Stored, Error> {
        let (codec, form) = (&self.config.codec, self.config.codec.form());
        let job = Job { codec, name, control, size: plain.size() };
        let written = job.write(from, to, Some(plain.fingerprint))?;
        let recipients: Vec<_> = codec.written_to().iter().map(Recipient::to_string).collect();
        let ciphertext_only = !codec.opens(form, &recipients);
        let content = match ciphertext_only {
            true => read_back(to.0, to.1, control)?,
            false => self.decoded_again(name, to, plain, control)?,
        };
        if content.fingerprint != written {
            return Err(sqlite::Error::ReadBack { name: name.clone() }.into());
        }
        Ok(Stored { form, content, recipients, ciphertext_only })
    }

    /// Steps 2 and 3 in one pass.
    fn decoded_again(
        &self,
        name: &DatabaseName,
        (file, path): (&File, &Path),
        plain: &Content,
        control: &Control,
    ) -> Result<Content, Error> {
        let (form, size) = (self.config.codec.form(), Some(plain.size()));
        let coded = Coded { file: Direct::new(file), path, form, size };
        match self.decode(coded, control, |_| in_time(name, control))? {
            Ok(decoded) if decoded.plain.checksum == plain.checksum => Ok(decoded.stored),
            Err(Fault::Unread(error)) => Err(error.into()),
            Ok(_) | Err(Fault::Damaged(_) | Fault::Locked) => {
                Err(sqlite::Error::ReadBack { name: name.clone() }.into())
            }
        }
    }
}

/// One file on its way through the codec.
struct Job<'a> {
    codec: &'a Codec,
    name: &'a DatabaseName,
    control: &'a Control,
    size: u64,
}

impl Job<'_> {
    /// Steps 1 and the first half of 2. What is read has to be what was checked, where that is known.
    fn write(
        &self,
        (from, path): (&File, &Path),
        (to, target): (&File, &Path),
        checked: Option<Fingerprint>,
    ) -> Result<Fingerprint, Error> {
        let (mut plain, mut stored) = (Sum::default(), Sum::default());
        let out = Summed { out: BlockWriter::new(Direct::new(to)), sum: &mut stored };
        let mut encoder = self.codec.encode(out, self.size).to("write", target)?;
        let mut input = BlockReader::new(Direct::new(from));
        let (mut piece, mut done) = (vec![0; PIECE], 0);
        loop {
            in_time(self.name, self.control)?;
            self.control.tell(Progress { database: self.name, done, total: self.size });
            let read = input.read(&mut piece).to("read", path)?;
            if read == 0 {
                break;
            }
            plain.add(&piece[..read]);
            encoder.write_all(&piece[..read]).to("write", target)?;
            done += read as u64;
        }
        let finished = encoder.finish().and_then(|out| out.out.finish());
        finished.to("write", target)?;
        to.sync_all().to("sync", target)?;
        if checked.is_some_and(|checked| checked != plain.fingerprint()) {
            return Err(sqlite::Error::ReadBack { name: self.name.clone() }.into());
        }
        Ok(stored.fingerprint())
    }
}

/// Under the locks of a restore the time is up sooner or later.
fn in_time(name: &DatabaseName, control: &Control) -> Result<(), Error> {
    control.check()?;
    if control.is_late() {
        return Err(sqlite::Error::TooSlow { name: name.clone(), limit: control.limit() }.into());
    }
    Ok(())
}

/// Sums up what is written through it.
struct Summed<'a> {
    out: BlockWriter<'a>,
    sum: &'a mut Sum,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.add(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
