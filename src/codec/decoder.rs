//! From the file back to the plain bytes: age on one thread, zstd on another, and whoever reads on a third.

use std::io::{self, BufRead, Read};

use age::Decryptor;

use super::stages::{Inlet, Stage, Stages};
use super::{Codec, Error, Identity};
use crate::backup::Form;

/// The largest window that levels 1 to 19 use, as a power of two: 8 MiB. A frame that wants more memory is none of ours.
const WINDOW: u32 = 23;

/// The plain bytes of a copy. The last of a known number is given only once the end of the file was found to be right.
pub struct Decoder<'a>(Layers<'a>);

enum Layers<'a> {
    None(Measured<Box<dyn Read + Send + 'a>>),
    Some(Stages<Box<dyn Read + Send + 'a>>),
}

impl<'a> Decoder<'a> {
    pub(super) fn new(
        codec: &Codec,
        input: Box<dyn Read + Send + 'a>,
        form: Form,
        size: Option<u64>,
    ) -> Result<Self, Error> {
        let identities = codec.identities.clone();
        let stages: Vec<Stage> = match form {
            Form::Plain => return Ok(Self(Layers::None(Measured::new(input, size)))),
            Form::Compressed => vec![Box::new(move |inlet| Ok(Box::new(Measured::new(Frame::new(inlet)?, size))))],
            Form::Encrypted => {
                vec![Box::new(move |inlet| Ok(Box::new(Measured::new(decrypted(inlet, &identities)?, size))))]
            }
            Form::CompressedEncrypted => vec![
                Box::new(move |inlet| Ok(Box::new(decrypted(inlet, &identities)?))),
                Box::new(move |inlet| Ok(Box::new(Measured::new(Frame::new(inlet)?, size)))),
            ],
        };
        Ok(Self(Layers::Some(Stages::begin(input, stages)?)))
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Layers::None(plain) => plain.read(buffer),
            Layers::Some(stages) => stages.read(buffer),
        }
    }
}

/// An age file, as far as its header says that it can be read.
pub(super) fn decrypted<'a>(input: impl BufRead + 'a, identities: &[Identity]) -> Result<impl Read + 'a, Error> {
    let file = Decryptor::new_buffered(input).map_err(Error::of_age)?;
    file.decrypt(identities.iter().map(Identity::as_age)).map_err(Error::of_age)
}

/// What has to come to so many bytes, where that is known.
struct Measured<R> {
    from: R,
    size: Option<u64>,
    made: u64,
    ended: bool,
}

impl<R: Read> Measured<R> {
    fn new(from: R, size: Option<u64>) -> Self {
        Self { from, size, made: 0, ended: false }
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let read = read(&mut self.from, buffer)?;
        self.made += read as u64;
        match self.size {
            Some(size) if self.made > size => return Err(damaged("it unfolds to more than was recorded")),
            Some(size) if self.made < size && read == 0 => return Err(damaged("it unfolds to less than was recorded")),
            Some(size) if self.made == size && read > 0 => {
                if self::read(&mut self.from, &mut [0])? > 0 {
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
struct Frame {
    decoder: zstd::stream::read::Decoder<'static, Inlet>,
    ended: bool,
}

impl Frame {
    fn new(input: Inlet) -> Result<Self, Error> {
        let decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(Error::of)?;
        let mut decoder = decoder.single_frame();
        decoder.window_log_max(WINDOW).map_err(Error::of)?;
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

impl Read for Frame {
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
