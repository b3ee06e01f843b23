//! Copies that don't lie there as plain databases are read through their codec, in one pass: the bytes of the file are hashed
//! as they lie, and those of the database as they come out. So what is taken for a backup's database is what was recorded,
//! from the disk to the last layer.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::read::other_bytes;
use super::{Engine, Error};
use crate::backup::{BackupId, DatabaseCopy, DatabaseName, Form};
use crate::codec;
use crate::disk::block::{BlockReader, Direct};
use crate::disk::{self, Context};
use crate::sqlite::Control;
use crate::sqlite::pages::{Content, Hasher};

/// Bytes that are given on at once.
const PIECE: usize = 256 << 10;

/// A file, and what has to come of it.
pub(super) struct Coded<'a> {
    pub(super) file: Direct<'a>,
    pub(super) path: &'a Path,
    pub(super) form: Form,
    /// Bytes of the plain database, where they are known.
    pub(super) size: Option<u64>,
}

/// What came of it.
pub(super) struct Decoded {
    /// The file as it lies.
    pub(super) stored: Content,
    /// The database.
    pub(super) plain: Content,
}

/// Why nothing came of it, or not all.
#[derive(Debug)]
pub(super) enum Fault {
    /// No identity is at hand that opens it.
    Locked,
    /// It isn't what was written.
    Damaged(String),
    /// It couldn't be read just now.
    Unread(disk::Error),
}

impl Fault {
    pub(super) fn of(error: codec::Error, path: &Path) -> Self {
        match error {
            codec::Error::Locked => Fault::Locked,
            codec::Error::Damaged(reason) => Fault::Damaged(reason),
            codec::Error::Unread(error) => match Err::<(), _>(error).to("read", path) {
                Err(error) => Fault::Unread(error),
                Ok(()) => Fault::Damaged("it can't be read".to_owned()),
            },
        }
    }

    /// Of a copy whose recipients are known to be ours, or not.
    pub(super) fn told(self, id: BackupId, name: &DatabaseName, copy: &DatabaseCopy) -> Error {
        match self {
            Fault::Locked => locked(id, name, &copy.recipients),
            Fault::Damaged(reason) => Error::Damaged { subject: id.into(), reason: undecodable(&copy.file, &reason) },
            Fault::Unread(error) => error.into(),
        }
    }
}

/// How it is said that a file can't be decoded.
pub(super) fn undecodable(file: &str, reason: &str) -> String {
    format!("{file} can't be decoded: {reason}")
}

/// An identity is missing.
pub(super) fn locked(id: BackupId, name: &DatabaseName, recipients: &[String]) -> Error {
    Error::NeedsIdentity { id, name: name.clone(), recipients: recipients.to_vec() }
}

impl Decoded {
    /// What isn't as the catalog says.
    pub(super) fn differs(&self, copy: &DatabaseCopy) -> Option<String> {
        if self.stored.checksum != copy.stored_checksum {
            return Some(other_bytes(&copy.file));
        }
        let same = self.plain.checksum == copy.checksum;
        (!same).then(|| format!("{} holds the bytes that were recorded, but decodes to another database", copy.file))
    }
}

impl Engine {
    /// Whether an identity is at hand where one is needed.
    pub(super) fn opens(&self, copy: &DatabaseCopy) -> bool {
        self.config.codec.opens(copy.form, &copy.recipients)
    }

    /// Says what is missing otherwise.
    pub(super) fn assert_opens(&self, id: BackupId, name: &DatabaseName, copy: &DatabaseCopy) -> Result<(), Error> {
        if self.opens(copy) { Ok(()) } else { Err(locked(id, name, &copy.recipients)) }
    }

    /// Reads a file to its end, and gives `take` what comes out of it. What is wrong with the file is told apart from what is
    /// wrong with whoever takes it.
    pub(super) fn decode(
        &self,
        coded: Coded<'_>,
        control: &Control,
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Result<Decoded, Fault>, Error> {
        let (mut stored, mut plain) = (Hasher::default(), Hasher::default());
        let Coded { file, path, form, size } = coded;
        let input = Hashed { input: BlockReader::new(file), hasher: &mut stored };
        let mut decoder = match self.config.codec.decode(input, form, size) {
            Ok(decoder) => decoder,
            Err(error) => return Ok(Err(Fault::of(error, path))),
        };
        let mut piece = vec![0; PIECE];
        loop {
            control.check()?;
            match decoder.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => {
                    plain.add(&piece[..read]);
                    take(&piece[..read])?;
                }
                Err(error) => return Ok(Err(Fault::of(codec::Error::of(error), path))),
            }
        }
        drop(decoder);
        Ok(Ok(Decoded { stored: stored.content(), plain: plain.content() }))
    }

    /// Opens what is to leave decoded.
    pub(super) fn decoder(
        &self,
        id: BackupId,
        name: &DatabaseName,
        copy: &DatabaseCopy,
        (file, path): (File, &Path),
    ) -> Result<codec::Decoder<'static>, Error> {
        self.assert_opens(id, name, copy)?;
        let decoder = self.config.codec.decode(file, copy.form, Some(copy.size));
        decoder.map_err(|error| match Fault::of(error, path) {
            // It is said to be for one of ours.
            Fault::Locked => Fault::Damaged("its header was changed".to_owned()).told(id, name, copy),
            fault => fault.told(id, name, copy),
        })
    }
}

/// Hashes what is read through it.
struct Hashed<'a> {
    input: BlockReader<'a>,
    hasher: &'a mut Hasher,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hasher.add(&buffer[..read]);
        Ok(read)
    }
}
