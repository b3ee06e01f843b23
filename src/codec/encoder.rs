//! From the plain bytes to the file. zstd compresses on threads of its own, one piece of the stream each, into one frame; whoever
//! writes encrypts meanwhile, and writes out.
//!
//! What this takes in memory is bounded for every level [P11]: the stronger a level, the larger its tables, of which each thread
//! has its own. So those that take much have one thread, and smaller tables than zstd would give them, which costs at most a
//! hundredth of the size, and no time.

use std::io::{self, Write};
use std::num::NonZero;
use std::thread::available_parallelism;

use age::Encryptor;
use age::stream::StreamWriter;
use zstd::stream::raw::{self, CParameter};
use zstd::stream::zio;

use super::{Codec, Recipient};

/// The strongest levels whose tables several threads may have, and how many: 6 MiB each, then 12.
const MANY: (i32, u32) = (8, 4);
const SOME: (i32, u32) = (9, 2);
/// Those above have two tables of 16 to 64 MiB, unless they are told to do with 8: as a power of two of their entries.
const TABLE: u32 = 21;
/// Bytes that one thread compresses at once. zstd keeps up to twelve such pieces for two threads, eighteen for four.
const PIECE: u32 = 2 << 20;
/// How much of the piece before each of them looks at again: nothing. zstd's own choice, an eighth of the window, takes a tenth
/// of the time and saves a thousandth of the size.
const OVERLAP: u32 = 1;
/// Bytes that are encrypted and written out at once.
const BUFFER: usize = 256 << 10;

/// A copy on its way to the disk. Only what was finished is whole.
pub struct Encoder<W: Write>(Layers<W>);

enum Layers<W: Write> {
    None(W),
    Zstd(zstd::Encoder<'static, W>),
    Age(StreamWriter<W>),
    Both(zstd::Encoder<'static, StreamWriter<W>>),
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(codec: &Codec, out: W, size: Option<u64>) -> io::Result<Self> {
        Ok(Self(match (codec.level, codec.encrypts) {
            (None, false) => Layers::None(out),
            (Some(level), false) => Layers::Zstd(compressor(out, level, size)?),
            (None, true) => Layers::Age(encryptor(codec, out)?),
            (Some(level), true) => Layers::Both(compressor(encryptor(codec, out)?, level, size)?),
        }))
    }

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

fn encryptor<W: Write>(codec: &Codec, out: W) -> io::Result<StreamWriter<W>> {
    let recipients = codec.recipients.iter().map(Recipient::as_age);
    Encryptor::with_recipients(recipients).map_err(io::Error::other)?.wrap_output(out)
}

fn compressor<W: Write>(out: W, level: i32, size: Option<u64>) -> io::Result<zstd::Encoder<'static, W>> {
    let encoder = raw::Encoder::new(level)?;
    let mut encoder = zstd::Encoder::with_writer(zio::Writer::new_with_capacity(out, encoder, BUFFER));
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(size)?;
    if level > SOME.0 {
        encoder.set_parameter(CParameter::HashLog(TABLE))?;
        encoder.set_parameter(CParameter::ChainLog(TABLE))?;
    }
    // One thread alone would only have to hand over what it can do itself.
    if let threads @ 2.. = threads(level) {
        encoder.set_parameter(CParameter::NbWorkers(threads))?;
        encoder.set_parameter(CParameter::JobSize(PIECE))?;
        encoder.set_parameter(CParameter::OverlapSizeLog(OVERLAP))?;
    }
    Ok(encoder)
}

fn threads(level: i32) -> u32 {
    let processors = available_parallelism().map_or(1, NonZero::get) as u32;
    match level {
        level if level <= MANY.0 => processors.min(MANY.1),
        level if level <= SOME.0 => processors.min(SOME.1),
        _ => 1,
    }
}
