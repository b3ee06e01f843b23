//! What has changed in a day is little, and lies elsewhere for long: it is compressed as strongly as is worth while. What turns out
//! to be much goes on as all copies do, without being held back [P11].

use std::io::{self, Write};

use crate::codec::{Codec, Encoder};

/// Bytes that are held back. At [`LEVEL`] a processor takes two seconds for them.
const LITTLE: usize = 4 << 20;
/// Of zstd: a fifth smaller than at level 3; those above gain nothing.
const LEVEL: i32 = 18;

/// A segment on its way through the codec.
pub(super) struct Squeeze<'c, W: Write> {
    codec: &'c Codec,
    so_far: SoFar<W>,
}

enum SoFar<W: Write> {
    Little(W, Vec<u8>),
    Much(Box<Encoder<W>>),
    /// It could not be begun.
    Failed,
}

impl<'c, W: Write> Squeeze<'c, W> {
    pub(super) fn new(codec: &'c Codec, out: W) -> Self {
        Self { codec, so_far: SoFar::Little(out, Vec::new()) }
    }

    /// Writes the ends of all layers, and gives back what is beneath them.
    pub(super) fn finish(self) -> io::Result<W> {
        match self.so_far {
            SoFar::Little(out, bytes) => {
                let level = self.codec.level.map(|level| level.max(LEVEL));
                let codec = Codec { level, ..self.codec.clone() };
                let mut encoder = codec.encode(out, bytes.len() as u64)?;
                encoder.write_all(&bytes)?;
                encoder.finish()
            }
            SoFar::Much(encoder) => encoder.finish(),
            SoFar::Failed => Err(failed()),
        }
    }

    /// Begins with what was held back.
    fn let_go(&mut self) -> io::Result<()> {
        if let SoFar::Little(out, bytes) = std::mem::replace(&mut self.so_far, SoFar::Failed) {
            let mut encoder = self.codec.encode_stream(out)?;
            encoder.write_all(&bytes)?;
            self.so_far = SoFar::Much(Box::new(encoder));
        }
        Ok(())
    }
}

impl<W: Write> Write for Squeeze<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.so_far {
            SoFar::Little(_, held) if held.len() + bytes.len() <= LITTLE => held.extend_from_slice(bytes),
            SoFar::Little(..) => {
                self.let_go()?;
                return self.write(bytes);
            }
            SoFar::Much(encoder) => return encoder.write(bytes),
            SoFar::Failed => return Err(failed()),
        }
        Ok(bytes.len())
    }

    /// Layers hold back what they need, until they are finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed() -> io::Error {
    io::Error::other("it could not be begun")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::backup::Form;

    #[test]
    fn little_and_much_come_out_as_they_went_in() {
        let codec = Codec { level: Some(3), ..Codec::default() };
        for size in [0, 1, LITTLE - 1, LITTLE, LITTLE + 1, 3 * LITTLE] {
            let bytes: Vec<u8> = (0..size).map(|at| (at / 7 % 251) as u8).collect();
            let mut squeeze = Squeeze::new(&codec, Vec::new());
            bytes.chunks(100_000).for_each(|piece| squeeze.write_all(piece).unwrap());
            assert_eq!(matches!(squeeze.so_far, SoFar::Much(_)), size > LITTLE, "{size}");
            let out = squeeze.finish().unwrap();
            let mut back = Vec::new();
            codec.decode(&out[..], Form::Compressed, None).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{size}");
        }
    }
}
