//! The forms in which copies lie: plain → zstd → age, and back, as streams in bounded memory [P11]. What comes out is what
//! `zstd` and `age` understand without us [P12]: one zstd frame with its content checksum; an age file for X25519 recipients,
//! without plugins, passphrases or SSH keys.
//!
//! Reading back is strict, since a backup that was cut short must never pass for a whole one: the last chunk of age has to be
//! there, and the end of the frame; after it nothing may follow, no second frame either; and of a copy whose plain size is
//! recorded not a byte more is made, however much the file would unfold to.

mod decoder;
mod encoder;
mod keys;
mod stages;

use std::io::{self, BufReader, Read, Write};

use age::DecryptError;

use crate::backup::Form;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use keys::{Identity, Keypair, Recipient, identities};

/// How copies are written, and what can be read.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Codec {
    /// zstd's level; without one nothing is compressed.
    pub level: Option<i32>,
    /// What is written locally is encrypted.
    pub encrypts: bool,
    /// To whom.
    pub recipients: Vec<Recipient>,
    /// What is encrypted to one of these can be read.
    pub identities: Vec<Identity>,
}

/// Why a file isn't decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of the identities is one of its recipients.
    #[error("none of the identities at hand opens it")]
    Locked,
    /// It isn't what its name says, or damaged.
    #[error("{0}")]
    Damaged(String),
    /// It can't be read, which says nothing of what it holds.
    #[error(transparent)]
    Unread(io::Error),
}

impl Codec {
    /// The form in which copies are written.
    pub fn form(&self) -> Form {
        Form::of(self.level.is_some(), self.encrypts)
    }

    /// To whom copies are encrypted.
    pub fn written_to(&self) -> &[Recipient] {
        if self.encrypts { &self.recipients } else { &[] }
    }

    /// Whether a file of that form for these recipients can be read.
    pub fn opens(&self, form: Form, recipients: &[String]) -> bool {
        !form.is_encrypted() || self.identities.iter().any(|it| recipients.contains(&it.recipient().to_string()))
    }

    /// Encodes what is written to it, `size` bytes in all.
    pub fn encode<W: Write>(&self, out: W, size: u64) -> io::Result<Encoder<W>> {
        Encoder::new(self, out, Some(size))
    }

    /// The same where nobody knows how many bytes it will be.
    pub fn encode_stream<W: Write>(&self, out: W) -> io::Result<Encoder<W>> {
        Encoder::new(self, out, None)
    }

    /// Decodes a file, as far as its header says that this can be done. `size` are the bytes that have to come of it.
    pub fn decode<'a, R: Read + Send + 'a>(
        &self,
        input: R,
        form: Form,
        size: Option<u64>,
    ) -> Result<Decoder<'a>, Error> {
        Decoder::new(self, Box::new(input), form, size)
    }

    /// Which of the identities opens a file, by its header; each gets the file anew.
    pub fn opener<R: Read + Send>(&self, file: impl Fn() -> Option<R>) -> Option<Recipient> {
        let opens = |identity: &&Identity| {
            file()
                .is_some_and(|input| decoder::decrypted(BufReader::new(input), std::slice::from_ref(*identity)).is_ok())
        };
        self.identities.iter().find(opens).map(Identity::recipient)
    }
}

impl Error {
    /// What the system said comes with its number; whatever has none was found in the bytes.
    pub fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(_) => Error::Unread(error),
            None => Error::Damaged(error.to_string()),
        }
    }

    fn of_age(error: DecryptError) -> Self {
        match error {
            DecryptError::NoMatchingKeys => Error::Locked,
            DecryptError::Io(error) => Error::of(error),
            // Its own words are for people at a terminal, over several lines.
            DecryptError::InvalidMac => Error::Damaged("the header of the age file was changed".to_owned()),
            DecryptError::UnknownFormat => Error::Damaged("it is an age file of another version".to_owned()),
            _ => Error::Damaged("it is not an age file as it was written".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
