//! An object that lies there whole, on its way here: every byte is compared with what was recorded, as it comes and once more from the
//! disk.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::passing::{Coming, gone};
use super::site::Link;
use crate::backup::replica::{Held, HeldDatabase};
use crate::backup::{DatabaseCopy, DatabaseName, Form};
use crate::disk::block::{BlockWriter, Direct};
use crate::disk::{self, Context};
use crate::engine::decode::{Coded, Fault, undecodable};
use crate::engine::{Engine, Error};
use crate::remote;
use crate::sqlite::pages::read_back;
use crate::sqlite::{Control, Progress};

/// Bytes that are written at once.
const PIECE: usize = 256 << 10;

/// An object on its way here.
pub(super) struct Arriving<'a> {
    pub(super) link: &'a Link,
    pub(super) held: &'a Held,
    pub(super) name: &'a DatabaseName,
    pub(super) it: &'a HeldDatabase,
    pub(super) before: u64,
    pub(super) control: &'a Control,
}

impl Arriving<'_> {
    /// As it lies there.
    pub(super) fn whole(
        &self,
        engine: &Engine,
        folder: &Path,
        copy: &DatabaseCopy,
        recipients: Vec<String>,
    ) -> Result<(File, PathBuf, DatabaseCopy), Error> {
        let it = self.it;
        let mut copy = DatabaseCopy {
            form: it.form,
            stored_size: it.object.size,
            stored_checksum: it.object.checksum.clone(),
            recipients,
            ..copy.clone()
        };
        let path = folder.join(format!("{}.{}", self.name, it.form.ending()));
        let file = disk::create_private(&path)?;
        copy.stored_xxh3 = Some(self.receive(engine, (&file, &path), &copy)?);
        Ok((file, path, copy))
    }

    /// Writes it, makes it durable, and reads it back from the disk; where an identity is at hand it is decoded as well. Gives the
    /// XXH3 of the file.
    fn receive(&self, engine: &Engine, to: (&File, &Path), copy: &DatabaseCopy) -> Result<String, Error> {
        let (id, key) = (self.held.id, self.held.folder().database(self.name, self.it.form, false));
        let wrong = |reason: String| self.link.damaged(format!("{id}: {reason}"));
        self.write(to, &key)?;
        let (file, path) = to;
        file.sync_all().to("sync", path)?;
        let content = match engine.opens(copy) && copy.form != Form::Plain {
            false => read_back(file, path, self.control)?,
            true => {
                let coded = Coded { file: Direct::new(file), path, form: copy.form, size: Some(copy.size) };
                match engine.decode(coded, self.control, |_| Ok(()))? {
                    Ok(decoded) => match decoded.differs(copy) {
                        None => decoded.stored,
                        Some(reason) => return Err(wrong(reason)),
                    },
                    Err(Fault::Unread(error)) => return Err(error.into()),
                    Err(Fault::Locked) => return Err(wrong(undecodable(&key, "its header was changed"))),
                    Err(Fault::Damaged(reason)) => return Err(wrong(undecodable(&key, &reason))),
                }
            }
        };
        match content.checksum == copy.stored_checksum {
            true => Ok(content.fingerprint.xxh3()),
            false => Err(wrong(format!("{key} did not reach the disk as it was read"))),
        }
    }

    /// What is gone for sure is damage of this one backup.
    fn failed(&self, key: &str, error: remote::Error) -> Error {
        match error {
            error @ remote::Error::Absent(_) => match gone(self.link, key, &self.it.object, error) {
                Ok(reason) => self.link.damaged(format!("{}: {}", self.held.id, reason.unwrap_or_default())),
                Err(error) => error,
            },
            error => self.link.failed(error),
        }
    }

    fn write(&self, (file, path): (&File, &Path), key: &str) -> Result<(), Error> {
        let object = &self.it.object;
        let mut coming = Coming::begin(self.link, key, object).map_err(|error| self.failed(key, error))?;
        let mut out = BlockWriter::new(Direct::new(file));
        let mut piece = vec![0; PIECE];
        loop {
            self.control.check()?;
            let (done, total) = (self.before + coming.sum.size, self.held.size());
            self.control.tell(Progress { database: self.name, done, total });
            match coming.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => out.write_all(&piece[..length]).to("write", path)?,
                Err(error) => {
                    return Err(match coming.error.take() {
                        Some(error) => self.failed(key, error),
                        None => self.link.damaged(format!("{key}: {error}")),
                    });
                }
            }
        }
        out.finish().to("write", path)?;
        if !coming.sum.is_of(object) {
            let id = self.held.id;
            return Err(self.link.damaged(format!("{id}: {key} holds other bytes than were recorded (SHA-256)")));
        }
        Ok(())
    }
}
