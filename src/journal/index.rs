//! What lies in the journal of a database: a look at names, sizes and times, without reading the files.
//!
//! A file's time is its mtime, as litestream has it. Tools that copy without times ruin that, so the first and the last file of
//! each level are compared with their headers, and the times must ascend; else the files of the whole level are read. A header is
//! only believed where its file is whole.

use std::collections::BTreeSet;
use std::fs::{DirEntry, read_dir};
use std::io::BufReader;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::ltx::{Decoder, Header};
use super::name::{FileName, Level, Txid};
use super::{BUFFER, Error, chain};
use crate::backup::Moment;
use crate::disk::{self, Context};

/// A file of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LtxFile {
    /// Its name.
    pub name: FileName,
    /// When the database was in the state that it ends with: milliseconds since 1970.
    pub millis: u64,
    /// Bytes.
    pub size: u64,
}

/// A state that can be rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// Its number.
    pub txid: Txid,
    /// Since when the database was in it: milliseconds since 1970.
    pub millis: u64,
}

impl Point {
    /// Since when; nothing if no calendar reaches it.
    pub fn at(&self) -> Option<DateTime<Utc>> {
        Moment::of_millis(self.millis).map(Moment::at)
    }
}

impl From<&LtxFile> for Point {
    fn from(file: &LtxFile) -> Self {
        Self { txid: file.name.max, millis: file.millis }
    }
}

/// What lies in the journal of a database.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Index {
    /// As [`Level::ALL`] has them; each in order of names.
    levels: [Vec<LtxFile>; Level::ALL.len()],
    /// Those that turned out to be damaged.
    damaged: BTreeSet<FileName>,
}

impl Index {
    /// Looks into the folder of a database; one that isn't there holds nothing. What has no name of ours is passed over.
    pub fn scan(folder: &Path) -> Result<Self, Error> {
        Self::look(folder).map(|(index, _)| index)
    }

    /// The same, and the files whose mtime isn't the time in their header.
    pub(super) fn look(folder: &Path) -> Result<(Self, Vec<LtxFile>), Error> {
        let (mut index, mut lost) = (Self::default(), Vec::new());
        for (level, files) in Level::ALL.into_iter().zip(&mut index.levels) {
            *files = list(folder, level)?;
            if !are_times_kept(folder, files) {
                for file in files {
                    let told = header_of_whole(folder, file.name).map_or(file.millis, |header| header.millis);
                    if file.millis != told {
                        file.millis = told;
                        lost.push(*file);
                    }
                }
            }
        }
        Ok((index, lost))
    }

    /// All files: by level, then by name.
    pub fn files(&self) -> impl Iterator<Item = &LtxFile> {
        self.levels.iter().flatten()
    }

    /// Those of a level, by name.
    pub fn level(&self, level: Level) -> &[LtxFile] {
        self.levels.get(place(level)).map_or(&[], Vec::as_slice)
    }

    /// The newest state that can be rebuilt.
    pub fn newest(&self) -> Option<Point> {
        chain::lead(self, u64::MAX).and_then(|chain| chain.last().map(Point::from))
    }

    /// The oldest state that can be rebuilt.
    pub fn oldest(&self) -> Option<Point> {
        self.level(Level::SNAPSHOT).first().map(Point::from)
    }

    /// The last number that any file has, also one that can't be rebuilt.
    pub fn last(&self) -> Option<Point> {
        self.levels.iter().filter_map(|files| files.last()).max_by_key(|file| file.name.max).map(Point::from)
    }

    /// A file turned out to be damaged. Says whether that is new.
    pub fn note_damaged(&mut self, name: FileName) -> bool {
        self.damaged.insert(name)
    }

    /// Whether it turned out so.
    pub fn is_damaged(&self, file: &LtxFile) -> bool {
        self.damaged.contains(&file.name)
    }

    /// Whether what came last can be rebuilt without that file: a snapshot stands for it.
    pub fn goes_on_without(&self, name: FileName) -> bool {
        let stands = |file: &LtxFile| file.name != name && file.name.max >= name.max && !self.is_damaged(file);
        self.level(Level::SNAPSHOT).iter().any(stands)
    }

    /// The number of the next state.
    pub fn next(&self) -> Txid {
        self.last().map_or(Txid::FIRST, |last| last.txid.next())
    }

    pub(super) fn insert(&mut self, file: LtxFile) {
        if let Some(files) = self.levels.get_mut(place(file.name.level)) {
            let at = files.partition_point(|other| other.name < file.name);
            files.insert(at, file);
        }
    }

    /// Forgets these, which are in order of names.
    pub(super) fn remove(&mut self, names: &[FileName]) {
        self.levels.iter_mut().for_each(|files| files.retain(|file| names.binary_search(&file.name).is_err()));
        self.damaged.retain(|name| names.binary_search(name).is_err());
    }
}

impl FromIterator<LtxFile> for Index {
    fn from_iter<I: IntoIterator<Item = LtxFile>>(files: I) -> Self {
        let mut index = Self::default();
        files.into_iter().for_each(|file| index.insert(file));
        index
    }
}

fn place(level: Level) -> usize {
    Level::ALL.iter().position(|other| *other == level).unwrap_or(Level::ALL.len())
}

/// The folder of a level.
pub(super) fn level_folder(folder: &Path, level: Level) -> std::path::PathBuf {
    folder.join("ltx").join(level.to_string())
}

fn list(folder: &Path, level: Level) -> Result<Vec<LtxFile>, Error> {
    let path = level_folder(folder, level);
    let entries = match read_dir(&path).to("read the folder", &path) {
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.to("read the folder", &path)?;
        files.extend(look_at(level, &entry)?);
    }
    files.sort_unstable_by_key(|file: &LtxFile| file.name);
    Ok(files)
}

fn look_at(level: Level, entry: &DirEntry) -> Result<Option<LtxFile>, disk::Error> {
    let name = entry.file_name().to_str().and_then(|name| format!("{level}/{name}").parse().ok());
    let Some(name) = name else { return Ok(None) };
    match entry.metadata().to("look at", &entry.path()) {
        // Retention removed it just now.
        Err(error) if error.is_missing() => Ok(None),
        meta => {
            let meta = meta?;
            let millis = meta.mtime().saturating_mul(1000).saturating_add(meta.mtime_nsec() / 1_000_000);
            let file = LtxFile { name, millis: u64::try_from(millis).unwrap_or(0), size: meta.size() };
            Ok(meta.is_file().then_some(file))
        }
    }
}

/// The first snapshot of a database, by its header: whoever copied it may have lost the file's time.
pub(super) fn oldest(folder: &Path) -> Result<Option<Point>, Error> {
    let point = |file: &LtxFile| {
        let millis = header(folder, file.name).map_or(file.millis, |header| header.millis);
        Point { txid: file.name.max, millis }
    };
    Ok(list(folder, Level::SNAPSHOT)?.first().map(point))
}

fn are_times_kept(folder: &Path, files: &[LtxFile]) -> bool {
    let told = |file: &LtxFile| header(folder, file.name).is_none_or(|header| header.millis == file.millis);
    files.is_sorted_by_key(|file| file.millis) && files.first().is_none_or(told) && files.last().is_none_or(told)
}

/// The header of a file whose checksum is right.
fn header_of_whole(folder: &Path, name: FileName) -> Option<Header> {
    let file = disk::open_regular(&name.path(folder)).ok()?;
    let decoder = Decoder::new(BufReader::with_capacity(BUFFER, file)).ok()?;
    let header = decoder.header();
    decoder.finish().ok().map(|()| header)
}

/// What a file says of itself; one that can't be read says nothing here, and why when its pages are wanted.
pub(super) fn header(folder: &Path, name: FileName) -> Option<Header> {
    let file = disk::open_regular(&name.path(folder)).ok()?;
    Decoder::new(file).ok().map(|decoder| decoder.header())
}
