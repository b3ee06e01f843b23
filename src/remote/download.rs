//! An object on its way in, piece by piece. A body that ends early is an error.

use std::io::{self, Read};
use std::sync::Arc;

use futures_util::TryStreamExt;
use opendal::{Buffer, BufferStream};

use super::error::{self, Error};
use super::wire::Call;
use super::{Remote, part_key};

/// An object, or its parts one after the other, being read.
pub struct Download {
    remote: Remote,
    key: String,
    parts: u32,
    /// The part that is being read; 0 is the object itself.
    part: u32,
    stream: Option<(BufferStream, Arc<Call>)>,
    piece: Buffer,
    failed: Option<Error>,
}

impl Download {
    pub(super) fn begin(remote: &Remote, key: &str, parts: u32) -> Result<Self, Error> {
        let (key, part) = (key.to_owned(), parts.min(1));
        let mut download =
            Self { remote: remote.clone(), key, parts, part, stream: None, piece: Buffer::new(), failed: None };
        download.open()?;
        Ok(download)
    }

    fn current(&self) -> String {
        if self.part == 0 { self.key.clone() } else { part_key(&self.key, self.part) }
    }

    /// Opens the part, and reads its first piece: only then is it known to be there.
    fn open(&mut self) -> Result<(), Error> {
        let key = self.current();
        let opened = self.remote.attempt(|operator, call| {
            let key = key.clone();
            async move {
                let mut stream = operator.reader(&key).await?.into_stream(..).await?;
                let first = stream.try_next().await?;
                Ok((stream, first, call))
            }
        });
        let (stream, first, call) = opened.map_err(|fault| self.remote.unread(&key, fault))?;
        self.stream = first.is_some().then_some((stream, call));
        self.take(first.unwrap_or_default())
    }

    fn take(&mut self, piece: Buffer) -> Result<(), Error> {
        if self.remote.shared.place.is_on_this_machine() {
            self.remote.pause(piece.len())?;
        }
        self.piece = piece;
        Ok(())
    }

    /// The next piece, of this part or of the next one; nothing after the last.
    fn advance(&mut self) -> Result<(), Error> {
        while self.piece.is_empty() {
            if let Some((stream, call)) = &mut self.stream {
                let next = super::waited(call, stream.try_next())?;
                let place = &self.remote.shared.place;
                let key = if self.part == 0 { self.key.clone() } else { part_key(&self.key, self.part) };
                match next.map_err(|error| error::understood(place, &key, &error, call.verdict().as_ref()))? {
                    Some(piece) => self.take(piece)?,
                    None => self.stream = None,
                }
            } else if self.part < self.parts {
                self.part += 1;
                self.open()?;
            } else {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        if into.is_empty() {
            return Ok(0);
        }
        if let Err(error) = self.advance() {
            self.failed = Some(error.clone());
            return Err(error.into());
        }
        self.piece.read(into)
    }
}
