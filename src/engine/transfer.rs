//! Bytes on their way into a file, hashed on another thread meanwhile.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};

use super::Error;
use crate::disk::Context;
use crate::disk::block::{Block, Direct};
use crate::sqlite::pages::{Content, hashed};

/// A file that they are appended to, and how many of them at most.
pub(super) struct Target<'a> {
    pub(super) file: Direct<'a>,
    pub(super) path: &'a Path,
    pub(super) size: u64,
}

impl Target<'_> {
    /// Takes what `read` fills blocks with (given how many bytes came before), until nothing comes any more. `may_go_on` is asked
    /// before each block, with the same number. What is wrong with what is read (the inner error) is told apart from what is wrong
    /// with where it is written.
    pub(super) fn take(
        &self,
        read: impl FnMut(&mut Block, u64) -> io::Result<()>,
        may_go_on: impl FnMut(u64) -> Result<(), Error>,
    ) -> Result<io::Result<Content>, Error> {
        let (taken, content) = hashed(|_| (), |free, full| self.pass_on(read, may_go_on, free, full));
        taken.map(|read| read.map(|()| content))
    }

    fn pass_on(
        &self,
        mut read: impl FnMut(&mut Block, u64) -> io::Result<()>,
        mut may_go_on: impl FnMut(u64) -> Result<(), Error>,
        free: &Receiver<Block>,
        full: &Sender<Block>,
    ) -> Result<io::Result<()>, Error> {
        let mut done = 0;
        while let Ok(mut block) = free.recv() {
            may_go_on(done)?;
            if let Err(error) = read(&mut block, done) {
                return Ok(Err(error));
            }
            block.truncate(self.size - done);
            if block.is_empty() {
                break;
            }
            self.file.write(&block).to("write", self.path)?;
            done += block.bytes().len() as u64;
            if full.send(block).is_err() {
                break;
            }
        }
        Ok(Ok(()))
    }
}
