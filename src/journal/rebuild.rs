//! A chain into the database that it leads to: its snapshot, and then file by file what changed. Only one file is open at a time, and
//! memory doesn't grow with any of them [P11]. All checksums are compared before this says that it is done, and what comes out with what
//! was captured (`states`).

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::ltx::Header;
use super::sums::{Sums, Whole, page_sum};
use super::{Error, LtxFile, Point, Source, Txid, states};
use crate::disk::Context;
use crate::sqlite::Control;
use crate::sqlite::pages::{Content, read_back_through};

/// A database that was rebuilt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// Bytes a page.
    pub page_size: u32,
    /// Pages.
    pub pages: u32,
    /// The file, as it was read back.
    pub content: Content,
}

/// Writes the database into `target`, which is private and empty. The caller makes it durable. What is read back is what was captured,
/// where that is known.
pub fn rebuild(folder: &Path, chain: &[LtxFile], target: (&File, &Path), control: &Control) -> Result<Rebuilt, Error> {
    let header = walk(folder, chain, &mut Target { file: target.0, path: target.1 }, control)?;
    let (mut whole, mut number) = (Whole::of(&header), 0);
    let content = read_back_through(target.0, target.1, control, |block| {
        for page in block.chunks(header.page_size as usize) {
            number += 1;
            whole.add(number, page);
        }
    })?;
    states::compare(folder, &header, whole)?;
    Ok(Rebuilt { page_size: header.page_size, pages: header.pages, content })
}

/// A file of a chain that doesn't lie in a journal's folder.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// What it is called in errors.
    pub called: &'a Path,
    /// The first state that it leads to, and the one that it ends with.
    pub txids: (Txid, Txid),
    /// The time of the state that it ends with.
    pub millis: u64,
    /// Bytes of the database that it leads to, if that is known.
    pub size: Option<u64>,
}

/// A piece whose header was read, and is that of the piece.
pub struct Begun<R>(Source<R>);

impl<R: Read> Begun<R> {
    /// Reads the header.
    pub fn new(from: R, piece: Piece<'_>) -> Result<Self, Error> {
        let (min, max) = piece.txids;
        let begun = Self(Source::begin(from, piece.called.to_owned(), (min, max, piece.millis))?);
        match piece.size.is_none_or(|size| size == begun.size()) {
            true => Ok(begun),
            false => Err(begun.0.damaged("it leads to a database of another size than was recorded")),
        }
    }

    /// Bytes of the database that it says to lead to: no more is made of it.
    pub fn size(&self) -> u64 {
        let header = self.0.header();
        u64::from(header.pages) * u64::from(header.page_size)
    }

    /// Leads the database in `target` from the state `before`, or from nothing, to the next. The caller reads to the end of what is
    /// beneath, and throws the database away if this fails.
    pub fn lead(self, before: Option<Header>, target: (&File, &Path), control: &Control) -> Result<Header, Error> {
        apply(self.0, before, &mut Target { file: target.0, path: target.1 }, control)
    }
}

/// The same without a file. Of a state that comes out wrong it is told from which one on it does.
pub fn sums(folder: &Path, chain: &[LtxFile], control: &Control) -> Result<Sums, Error> {
    let noted = states::find_all(folder, &chain.iter().map(Point::from).collect::<Vec<_>>());
    let (mut sums, mut state, mut wrong) = (Sums::default(), None, None);
    for (file, noted) in chain.iter().zip(noted) {
        control.check()?;
        state = Some(apply(Source::open(folder, file)?, state, &mut sums, control)?);
        wrong = match noted {
            Some(noted) if noted == sums.whole() => None,
            Some(_) => wrong.or(Some(file.name.max)),
            None => wrong,
        };
    }
    let header = state.ok_or_else(|| Error::Gone { path: folder.to_owned() })?;
    match (states::compare(folder, &header, sums.whole()), wrong) {
        (Err(Error::Unlike { folder, .. }), Some(txid)) => Err(Error::Unlike { folder, txid }),
        (compared, _) => compared.map(|()| sums),
    }
}

/// Where pages go.
trait Sink {
    /// Takes a page; the first one beyond the end lies right after it, or after the lock page there.
    fn put(&mut self, number: u32, data: &[u8]) -> Result<(), Error>;
    /// Makes it so many pages long.
    fn set_len(&mut self, header: &Header) -> Result<(), Error>;
}

struct Target<'a> {
    file: &'a File,
    path: &'a Path,
}

impl Sink for Target<'_> {
    fn put(&mut self, number: u32, data: &[u8]) -> Result<(), Error> {
        let offset = (u64::from(number) - 1) * data.len() as u64;
        Ok(self.file.write_all_at(data, offset).to("write", self.path)?)
    }

    fn set_len(&mut self, header: &Header) -> Result<(), Error> {
        let bytes = u64::from(header.pages) * u64::from(header.page_size);
        Ok(self.file.set_len(bytes).to("set the length of", self.path)?)
    }
}

impl Sink for Sums {
    fn put(&mut self, number: u32, data: &[u8]) -> Result<(), Error> {
        self.set(number, page_sum(data));
        Ok(())
    }

    fn set_len(&mut self, header: &Header) -> Result<(), Error> {
        self.resize(header.page_size, header.pages);
        Ok(())
    }
}

fn walk(folder: &Path, chain: &[LtxFile], sink: &mut impl Sink, control: &Control) -> Result<Header, Error> {
    let mut state: Option<Header> = None;
    for file in chain {
        control.check()?;
        state = Some(apply(Source::open(folder, file)?, state, sink, control)?);
    }
    state.ok_or_else(|| Error::Gone { path: folder.to_owned() })
}

/// Leads from one state to the one that a file ends with.
fn apply<R: Read>(
    mut source: Source<R>,
    before: Option<Header>,
    sink: &mut impl Sink,
    control: &Control,
) -> Result<Header, Error> {
    let header = source.header();
    check_follows(&source, before)?;
    // What lies beyond is cut off at last; whatever is there later comes from its own file.
    let mut end = before.map_or(0, |before| before.pages.min(header.pages));
    let mut page = Vec::new();
    while let Some(number) = source.page(&mut page)? {
        control.check()?;
        if number > end {
            if number != header.after(end) {
                return Err(source.damaged("it lacks pages at the database's end"));
            }
            end = number;
        }
        sink.put(number, &page)?;
    }
    if header.after(end) <= header.pages {
        return Err(source.damaged("it lacks pages at the database's end"));
    }
    sink.set_len(&header)?;
    source.finish()?;
    Ok(header)
}

fn check_follows<R: Read>(source: &Source<R>, before: Option<Header>) -> Result<(), Error> {
    let own = source.header();
    let fault = match before {
        None if !own.is_snapshot() => "it is no snapshot, which a chain begins with",
        Some(before) if own.page_size != before.page_size => "its pages aren't as long as those before",
        Some(before) if own.min > before.max.next() || own.max <= before.max => "it doesn't follow the one before it",
        _ => return Ok(()),
    };
    Err(source.damaged(fault))
}
