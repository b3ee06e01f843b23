//! The folder of one database, and who writes into it. How a file comes in:
//!
//! 1. Its pages, into `.<name>.partial`, and what comes after them. A crash leaves a partial, which is swept at the next start.
//! 2. Its time becomes the mtime; fsync, of both. The same.
//! 3. Rename, never over another. The file is there, or the partial still is.
//! 4. The folder is synced. The file is there for good. After an error it is taken away again: nothing counts on it yet, and the
//!    next try needs its name.
//! 5. The index knows it.
//!
//! How files go is said in `retain`.

use std::collections::BTreeSet;
use std::fs::{FileTimes, read_dir};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use super::index::{Index, LtxFile, Point, level_folder};
use super::ltx::{self, Encoder, Header};
use super::merge::Merge;
use super::name::{FileName, Level};
use super::states::{States, held};
use super::sums::Whole;
use super::{BUFFER, Error, FOLDER, chain, states};
use crate::backup::{DatabaseName, hex};
use crate::disk::{self, Context, Partial};
use crate::sqlite::Control;

/// What tells it from another.
const IDENTITY: &str = "id";
/// Bytes that a snapshot leaves to others.
const SPARE: u64 = 8 << 20;

/// The journal of one database, for the process that alone writes it. Its clones are the same journal: one may append while another
/// compacts.
#[derive(Clone, Debug)]
pub struct Journal {
    pub(super) folder: PathBuf,
    index: Arc<Mutex<Index>>,
    pub(super) states: Arc<Mutex<States>>,
}

/// The folder of a database's journal in the backup directory `root`.
pub fn folder(root: &Path, database: &DatabaseName) -> PathBuf {
    root.join(FOLDER).join(database.as_str())
}

/// The databases of which a journal lies there.
pub(super) fn all(root: &Path) -> Result<BTreeSet<DatabaseName>, Error> {
    let (path, mut names) = (root.join(FOLDER), BTreeSet::new());
    for entry in read_dir(&path).to("read the folder", &path)? {
        let entry = entry.to("read the folder", &path)?;
        let is_one = entry.path().join("ltx").is_dir();
        names.extend(entry.file_name().to_str().filter(|_| is_one).and_then(|name| name.parse().ok()));
    }
    Ok(names)
}

/// A random text of 32 hex digits that tells this journal from one that is begun anew in its place; none before it is begun.
pub fn identity(root: &Path) -> Result<Option<String>, Error> {
    let path = root.join(FOLDER).join(IDENTITY);
    let file = match disk::open_regular(&path) {
        Err(error) if error.is_missing() => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(64).read_to_end(&mut bytes).to("read", &path)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_end();
    let is_one = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    Ok(is_one.then(|| text.to_owned()))
}

/// Gives it one, if it has none. Durable when it returns.
pub fn make_identity(root: &Path) -> Result<(), Error> {
    if identity(root)?.is_some() {
        return Ok(());
    }
    let text = format!("{}\n", hex(&disk::random::<16>()?));
    Ok(disk::write_durable(&root.join(FOLDER).join(IDENTITY), text.as_bytes())?)
}

impl Journal {
    /// Makes the folders that are missing, sweeps what a crash left, and looks at what lies there.
    pub fn open(root: &Path, database: &DatabaseName) -> Result<Self, Error> {
        let folder = folder(root, database);
        for path in [&root.join(FOLDER), &folder, &folder.join("ltx")] {
            disk::make_own_dir(path)?;
        }
        for level in Level::ALL {
            let path = level_folder(&folder, level);
            disk::make_own_dir(&path)?;
            sweep(&path, level)?;
        }
        let (index, lost) = Index::look(&folder)?;
        lost.iter().try_for_each(|file| mend_time(&folder, file))?;
        let states = Arc::new(Mutex::new(States::open(&folder)));
        Ok(Self { folder, index: Arc::new(Mutex::new(index)), states })
    }

    /// What lies there. Held only for a look.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        // Each change of it is whole, whatever panicked after it.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a state was as a whole, once its file is published.
    pub fn remember(&self, state: Point, whole: Whole) {
        held(&self.states).append(state, whole);
    }

    /// The folder of the database.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// That there is room for a file of that many bytes of pages, and some more: a disk that is full is in everybody's way.
    pub fn assert_room(&self, needed: u64) -> Result<(), Error> {
        let free = disk::free_space(&self.folder)?;
        if free < needed + SPARE {
            return Err(Error::NoRoom { folder: self.folder.clone(), needed, free });
        }
        Ok(())
    }

    /// Begins a file.
    pub fn begin(&self, name: FileName, header: Header) -> Result<Writer, Error> {
        self.check(name, header)?;
        let path = name.path(&self.folder);
        let sink = Sink(Partial::create(&path)?);
        let encoder = Encoder::new(BufWriter::with_capacity(BUFFER, sink), header);
        let encoder = encoder.map_err(|error| unwritten(error, &self.folder, name))?;
        Ok(Writer { name, millis: header.millis, encoder, folder: self.folder.clone() })
    }

    /// A file that is captured, or a snapshot of a new state, follows all that lies there, and not before it in time.
    fn check(&self, name: FileName, header: Header) -> Result<(), Error> {
        let index = self.index();
        let (last, newest) = (index.last(), index.newest());
        let is_new = name.level == Level::CAPTURED || last.is_none_or(|last| name.max > last.txid);
        let fault = if (name.min, name.max) != (header.min, header.max) {
            "its header isn't that of its name"
        } else if is_new && name.max != index.next() {
            "its number isn't the next"
        } else if is_new && last.is_some_and(|last| header.millis < last.millis) {
            "it is older than the last"
        } else if name.level == Level::CAPTURED && (newest.is_none() || newest != last) {
            "the last state can't be rebuilt"
        } else {
            return Ok(());
        };
        Err(Error::Astray { folder: self.folder.clone(), name, reason: fault })
    }

    /// Makes levels 1 to 3 as far as they are due; tells how many files. What they are made from stays. One that is damaged or gone is in
    /// no other's way: that is told when all others are made, and it is passed over from then on.
    pub fn compact(&self, now_millis: u64, control: &Control) -> Result<usize, Error> {
        let (mut made, mut lost) = (0, None);
        for level in Level::COMPACTED {
            let due = chain::due(&self.index(), level, now_millis);
            for files in due {
                match self.merge(level.0, &files, control) {
                    Err(error @ (Error::Damaged { .. } | Error::Gone { .. })) => lost = lost.or(Some(error)),
                    merged => made += usize::from(merged?.is_some()),
                }
            }
        }
        lost.map_or(Ok(made), Err)
    }

    /// Makes a snapshot of the newest state from the files that lead to it, unless there is one; tells whether it did. What is captured
    /// meanwhile is left to the next: where a merge takes longer than a tick this would never end.
    pub fn snapshot_from_files(&self, control: &Control) -> Result<bool, Error> {
        let (newest, mut made) = (self.index().newest().map(|newest| newest.txid), false);
        loop {
            let chain = chain::lead(&self.index(), u64::MAX).unwrap_or_default();
            let is_there = chain.first().map(|snapshot| snapshot.name.max) >= newest;
            if is_there || chain.len() < 2 {
                return Ok(made);
            }
            // A long chain takes several, each good in itself.
            let part = &chain[..chain.len().min(chain::MOST_AT_ONCE)];
            self.assert_room(part.iter().map(|file| file.size).sum())?;
            made |= self.merge(Level::SNAPSHOT, part, control)?.is_some();
        }
    }

    fn merge(&self, level: Level, files: &[LtxFile], control: &Control) -> Result<Option<LtxFile>, Error> {
        let (Some(name), Some(mut merge)) = (chain::merged(level, files), Merge::open(&self.folder, files)?) else {
            return Ok(None);
        };
        let header = merge.header();
        let mut writer = self.begin(name, header)?;
        let (mut page, mut whole) = (Vec::new(), Whole::of(&header));
        while let Some(number) = merge.page(&mut page)? {
            control.check()?;
            whole.add(number, &page);
            writer.page(number, &page)?;
        }
        if level == Level::SNAPSHOT {
            // What it stands for will go.
            states::compare(&self.folder, &header, whole)?;
        }
        writer.publish(self).map(Some)
    }
}

/// A file that is being written. Dropped unpublished, it is removed.
pub struct Writer {
    name: FileName,
    millis: u64,
    encoder: Encoder<BufWriter<Sink>>,
    folder: PathBuf,
}

impl Writer {
    /// Writes a page; their numbers ascend.
    pub fn page(&mut self, number: u32, data: &[u8]) -> Result<(), Error> {
        self.encoder.page(number, data).map_err(|error| unwritten(error, &self.folder, self.name))
    }

    /// Gives it its name, durable, and tells the journal that it was begun for.
    pub fn publish(self, journal: &Journal) -> Result<LtxFile, Error> {
        let written = self.encoder.finish().map_err(|error| unwritten(error, &self.folder, self.name))?;
        let path = self.name.path(&self.folder);
        let Sink(partial) = written.into_inner().map_err(io::IntoInnerError::into_error).to("write", &path)?;
        set_time(partial.file(), self.millis).to("set the time of", partial.path())?;
        partial.sync()?;
        let size = partial.file().metadata().to("look at", partial.path())?.len();
        partial.publish_new()?;
        disk::sync_dir(disk::parent(&path)).inspect_err(|_| drop(disk::remove(&path)))?;
        let file = LtxFile { name: self.name, millis: self.millis, size };
        journal.index().insert(file);
        Ok(file)
    }
}

fn unwritten(error: ltx::Error, folder: &Path, name: FileName) -> Error {
    match error {
        ltx::Error::Malformed(reason) => Error::Astray { folder: folder.to_owned(), name, reason },
        ltx::Error::Io(source) => Error::io(source, "write", &name.path(folder)),
    }
}

struct Sink(Partial);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn set_time(file: &std::fs::File, millis: u64) -> io::Result<()> {
    file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_millis(millis)))
}

/// Gives a file the time of its header again, which a copy lost.
fn mend_time(folder: &Path, file: &LtxFile) -> Result<(), Error> {
    let path = file.name.path(folder);
    let opened = disk::open_regular(&path)?;
    Ok(set_time(&opened, file.millis).to("set the time of", &path)?)
}

/// Removes partials of ours.
fn sweep(path: &Path, level: Level) -> Result<(), Error> {
    for entry in read_dir(path).to("read the folder", path)? {
        let entry = entry.to("read the folder", path)?;
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".partial"));
        if name.is_some_and(|name| format!("{level}/{name}").parse::<FileName>().is_ok()) {
            disk::remove(&entry.path())?;
        }
    }
    Ok(())
}
