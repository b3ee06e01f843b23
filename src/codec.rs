//! The forms in which copies lie: plain → zstd → age, and back, as streams in bounded memory [P11]. What comes out is what
//! `zstd` and `age` understand without us [P12]: one zstd frame with its content checksum; an age file for X25519 recipients,
//! without plugins, passphrases or SSH keys.
//!
//! Reading back is strict, since a backup that was cut short must never pass for a whole one: the last chunk of age has to be
//! there, and the end of the frame; after it nothing may follow, no second frame either; and of a copy whose plain size is
//! recorded not a byte more is made, however much the file would unfold to.

mod keys;

use std::io::{self, BufReader, Read, Write};

use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Decryptor, Encryptor};

use crate::backup::Form;

pub use keys::{Identity, Keypair, Recipient, identities};

/// The largest window that levels 1 to 19 use, as a power of two: 8 MiB. A frame that wants more memory is none of ours.
const WINDOW: u32 = 23;
/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

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
        let level = self.level.unwrap_or_default();
        Ok(Encoder(match (self.level.is_some(), self.encrypts) {
            (false, false) => Layers::None(out),
            (true, false) => Layers::Zstd(compressor(out, level, size)?),
            (false, true) => Layers::Age(self.encryptor(out)?),
            (true, true) => Layers::Both(compressor(self.encryptor(out)?, level, size)?),
        }))
    }

    fn encryptor<W: Write>(&self, out: W) -> io::Result<StreamWriter<W>> {
        let recipients = self.recipients.iter().map(Recipient::as_age);
        Encryptor::with_recipients(recipients).map_err(io::Error::other)?.wrap_output(out)
    }

    /// Decodes a file, as far as its header says that this can be done. `size` are the bytes that have to come of it.
    pub fn decode<'a, R: Read + Send + 'a>(
        &self,
        input: R,
        form: Form,
        size: Option<u64>,
    ) -> Result<Decoder<'a>, Error> {
        let mut layers: Box<dyn Read + Send + 'a> = Box::new(input);
        if form.is_encrypted() {
            layers = Box::new(self.decryptor(layers)?);
        }
        if form.is_compressed() {
            layers = Box::new(Frame::new(layers).map_err(Error::of)?);
        }
        Ok(Decoder { layers, size, made: 0, ended: false })
    }

    /// Which of the identities opens a file, by its header; each gets the file anew.
    pub fn opener<R: Read + Send>(&self, file: impl Fn() -> Option<R>) -> Option<Recipient> {
        let opens = |identity: &&Identity| {
            let alone = Codec { identities: vec![(*identity).clone()], ..Codec::default() };
            file().is_some_and(|input| alone.decode(input, Form::Encrypted, None).is_ok())
        };
        self.identities.iter().find(opens).map(Identity::recipient)
    }

    fn decryptor<R: Read>(&self, input: R) -> Result<StreamReader<BufReader<R>>, Error> {
        let file = Decryptor::new_buffered(BufReader::with_capacity(BUFFER, input)).map_err(Error::of_age)?;
        file.decrypt(self.identities.iter().map(Identity::as_age)).map_err(Error::of_age)
    }
}

fn compressor<W: Write>(out: W, level: i32, size: u64) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(out, level)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(size))?;
    Ok(encoder)
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

/// A copy on its way to the disk. Only what was finished is whole.
pub struct Encoder<W: Write>(Layers<W>);

enum Layers<W: Write> {
    None(W),
    Zstd(zstd::Encoder<'static, W>),
    Age(StreamWriter<W>),
    Both(zstd::Encoder<'static, StreamWriter<W>>),
}

impl<W: Write> Encoder<W> {
    /// Writes the ends of all layers, and gives back what is beneath them.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Layers::None(out) => Ok(out),
            Layers::Zstd(out) => out.finish(),
            Layers::Age(out) => out.finish(),
            Layers::Both(out) => out.finish()?.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Layers::None(out) => out.write(bytes),
            Layers::Zstd(out) => out.write(bytes),
            Layers::Age(out) => out.write(bytes),
            Layers::Both(out) => out.write(bytes),
        }
    }

    /// Layers hold back what they need, until they are finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The plain bytes of a copy. The last of a known number is given only once the end of the file was found to be right.
pub struct Decoder<'a> {
    layers: Box<dyn Read + Send + 'a>,
    size: Option<u64>,
    made: u64,
    ended: bool,
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let read = read(&mut self.layers, buffer)?;
        self.made += read as u64;
        match self.size {
            Some(size) if self.made > size => return Err(damaged("it unfolds to more than was recorded")),
            Some(size) if self.made < size && read == 0 => return Err(damaged("it unfolds to less than was recorded")),
            Some(size) if self.made == size && read > 0 => {
                if self::read(&mut self.layers, &mut [0])? > 0 {
                    return Err(damaged("it unfolds to more than was recorded"));
                }
                self.ended = true;
            }
            _ => self.ended = read == 0,
        }
        Ok(read)
    }
}

fn read(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// One zstd frame, and nothing after it.
struct Frame<R: Read> {
    decoder: zstd::stream::read::Decoder<'static, BufReader<R>>,
    ended: bool,
}

impl<R: Read> Frame<R> {
    fn new(input: R) -> io::Result<Self> {
        let input = BufReader::with_capacity(BUFFER, input);
        let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
        decoder.window_log_max(WINDOW)?;
        Ok(Self { decoder, ended: false })
    }

    /// The layer beneath is read to its own end, which age only then looks at.
    fn assert_end(&mut self) -> io::Result<()> {
        self.decoder.finish_frame()?;
        match read(self.decoder.get_mut(), &mut [0])? {
            0 => Ok(()),
            _ => Err(damaged("something follows after the end of the zstd frame")),
        }
    }
}

impl<R: Read> Read for Frame<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let read = self.decoder.read(buffer)?;
        if read == 0 {
            self.assert_end()?;
            self.ended = true;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
