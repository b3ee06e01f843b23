//! The audit log, `audit.jsonl`: JSON lines, each with the hash of the line before it. What changes or hands out data
//! is written before it begins (intent) and after it ends (outcome) [P10].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::backup::{BackupId, Moment, Subject, timestamp};
use crate::disk::{self, Context};

/// File name of the log.
pub const FILE: &str = "audit.jsonl";
/// Bytes set aside so that the deletion that makes room can be carried out and recorded on a full disk: its lines
/// here, and a catalog of many backups.
const RESERVE: &str = ".audit-reserve";
const RESERVE_BYTES: u64 = 256 << 10;
/// A line is shorter; what is recorded is cut to fit.
const MAX_LINE: u64 = 64 << 10;
/// What of it the details may take; texts of [`MAX_TEXT`] and the fields of fixed length have the rest.
const MAX_DETAILS: usize = 48 << 10;
/// Characters of a text from outside that are kept.
const MAX_TEXT: usize = 500;
/// `prev` of the first line.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A log that can't be written, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read or written.
    #[error("the audit log can't be kept: {0}")]
    Disk(#[from] disk::Error),
    /// A line isn't what its successor, or the catalog, says it was.
    #[error("the audit log is not whole at line {line} (seq {seq}): {reason}")]
    Broken {
        /// Line number, from 1.
        line: u64,
        /// The seq that was expected there.
        seq: u64,
        /// What is wrong.
        reason: String,
    },
}

/// What a line says of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = AuditKind)]
pub enum Kind {
    /// It is about to begin.
    Intent,
    /// It has ended.
    Outcome,
    /// It was not allowed.
    Refused,
    /// The line that was here was torn by a crash.
    Recovered,
}

/// What is to be recorded.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditEntry)]
pub struct Entry {
    /// Which of the four.
    pub kind: Kind,
    /// `create`, `delete`, `download` …
    pub operation: String,
    /// Who.
    pub by: String,
    /// From where.
    pub from: String,
    /// Which backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub id: Option<BackupId>,
    /// Which recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub point: Option<Moment>,
    /// Whether it was done; of outcomes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ok: Option<bool>,
    /// A stable word for how it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub code: Option<String>,
    /// The reason in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// What else is worth keeping.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

impl Entry {
    /// What it was done with: a backup or a recovery point.
    pub fn subject(&self) -> Option<Subject> {
        self.id.map(Subject::Backup).or(self.point.map(Subject::Point))
    }
}

/// A line as it stands in the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditLine)]
pub struct Line {
    /// Counts from 1.
    pub seq: u64,
    /// SHA-256 of the line before, 64 hex digits.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub prev: String,
    /// When.
    #[serde(with = "timestamp")]
    pub at: DateTime<Utc>,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// Where the log stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Number of the last line; 0 of an empty log.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
}

/// The log of a backup directory.
#[derive(Clone, Debug)]
pub struct Audit {
    path: PathBuf,
}

impl Audit {
    /// The log in `root`; nothing is touched.
    pub fn at(root: &Path) -> Self {
        Self { path: root.join(FILE) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line, durably, and tells where the log stands.
    pub fn append(&self, at: DateTime<Utc>, mut entry: Entry) -> Result<Head, Error> {
        for text in [Some(&mut entry.by), Some(&mut entry.from), entry.reason.as_mut()].into_iter().flatten() {
            shorten(text);
        }
        entry.details = fitting(entry.details);
        let file = disk::open_shared(&self.path)?;
        disk::lock(&file, &self.path)?;
        if file.metadata().to("look at", &self.path)?.len() == 0 {
            // Before its first line: whoever is told that a line could not be written writes it again.
            disk::sync_dir(disk::parent(&self.path))?;
        }
        let head = self.close_torn_line(&file, at)?;
        match self.write_line(&file, &head, at, &entry) {
            Err(Error::Disk(error)) if error.is_full() && self.give_up_reserve() => {
                self.write_line(&file, &head, at, &entry)
            }
            done => done,
        }
    }

    /// Sets bytes aside for a full disk; without room for them it simply isn't done.
    pub fn keep_reserve(&self) {
        let path = self.reserve();
        // A crash may have come between its name and its bytes.
        if path.metadata().is_ok_and(|meta| meta.len() >= RESERVE_BYTES) {
            return;
        }
        let kept = disk::open_shared(&path).and_then(|file| {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES).to("reserve", &path)
        });
        if kept.is_err() {
            let _ = disk::remove(&path);
        }
    }

    /// Where the log stands; takes no lock.
    pub fn head(&self) -> Result<Head, Error> {
        match open_for_reading(&self.path)? {
            Some(file) => Ok(self.last_line(&file)?.0),
            None => Ok(Head { seq: 0, hash: GENESIS.to_owned() }),
        }
    }

    /// Whether the log still has the line that an anchor names; one of an empty log names none. Takes no lock.
    pub fn holds(&self, seq: u64, sum: &str) -> Result<bool, Error> {
        let mut held = seq == 0;
        self.backwards(|line, text| {
            held |= line.seq == seq && hash(text) == sum;
            line.seq <= seq
        })?;
        Ok(held)
    }

    /// Lines from the newest to the oldest, until `enough` says so. Takes no lock; what isn't a line is passed over.
    pub fn newest_first(&self, mut enough: impl FnMut(&Line) -> bool) -> Result<(), Error> {
        self.backwards(|line, _| enough(line))
    }

    fn backwards(&self, mut enough: impl FnMut(&Line, &[u8]) -> bool) -> Result<(), Error> {
        let Some(file) = open_for_reading(&self.path)? else { return Ok(()) };
        let mut end = file.metadata().to("look at", &self.path)?.len();
        let mut tail: Vec<u8> = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(MAX_LINE);
            let mut block = read_at(&file, start, end - start).to("read", &self.path)?;
            block.extend_from_slice(&tail);
            // The first piece may go on in the block before.
            let cut =
                if start == 0 { 0 } else { block.iter().position(|b| *b == b'\n').map_or(block.len(), |at| at + 1) };
            for text in block[cut..].rsplit(|b| *b == b'\n').filter(|text| !text.is_empty()) {
                if serde_json::from_slice(text).is_ok_and(|line| enough(&line, text)) {
                    return Ok(());
                }
            }
            tail = block[..cut].to_vec();
            end = start;
        }
        Ok(())
    }

    /// Reads the whole chain. `anchor` is a line that must be part of it. Says how many lines there are.
    pub fn verify(&self, anchor: Option<(u64, &str)>) -> Result<u64, Error> {
        let mut chain = Chain { expected: Head { seq: 0, hash: GENESIS.to_owned() }, anchor };
        if let Some(file) = open_for_reading(&self.path)? {
            let mut reader = BufReader::new(file);
            let mut text = Vec::new();
            for number in 1.. {
                text.clear();
                if reader.read_until(b'\n', &mut text).to("read", &self.path)? == 0 {
                    break;
                }
                chain.follow(number, &text)?;
            }
        }
        chain.end()
    }

    fn write_line(&self, mut file: &File, head: &Head, at: DateTime<Utc>, entry: &Entry) -> Result<Head, Error> {
        let line = Line { seq: head.seq + 1, prev: head.hash.clone(), at, entry: entry.clone() };
        let mut bytes = serde_json::to_vec(&line).map_err(io::Error::other).to("write", &self.path)?;
        let next = Head { seq: line.seq, hash: hash(&bytes) };
        bytes.push(b'\n');
        let end = file.seek(SeekFrom::End(0)).to("read", &self.path)?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_data()).to("write", &self.path);
        if written.is_err() {
            // Half a line would be closed as torn by the next writer; better that it was never there.
            let _ = file.set_len(end);
        }
        written?;
        Ok(next)
    }

    /// Makes the room that was set aside. Says whether there was any.
    pub fn give_up_reserve(&self) -> bool {
        let path = self.reserve();
        path.exists() && disk::remove(&path).is_ok()
    }

    fn reserve(&self) -> PathBuf {
        self.path.with_file_name(RESERVE)
    }

    /// A crash may have left half a line: it is cut off, and a line that says so takes its place. A crash in between
    /// leaves a whole log.
    fn close_torn_line(&self, mut file: &File, at: DateTime<Utc>) -> Result<Head, Error> {
        let (head, torn) = self.last_line(file)?;
        if torn.is_empty() {
            return Ok(head);
        }
        // Only the line's end was lost: it counts.
        if serde_json::from_slice::<Line>(&torn).is_ok_and(|line| line.seq == head.seq + 1 && line.prev == head.hash) {
            file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(b"\n")).to("write", &self.path)?;
            return Ok(Head { seq: head.seq + 1, hash: hash(&torn) });
        }
        let len = file.metadata().to("look at", &self.path)?.len();
        file.set_len(len - torn.len() as u64).to("shorten", &self.path)?;
        let mut text = String::from_utf8_lossy(&torn).into_owned();
        shorten(&mut text);
        let entry = Entry {
            kind: Kind::Recovered,
            operation: "audit".to_owned(),
            by: "attendance-backup".to_owned(),
            from: "local".to_owned(),
            id: None,
            point: None,
            ok: None,
            code: None,
            reason: Some("the line that was here was cut short by a crash".to_owned()),
            details: Map::from_iter([("torn".to_owned(), text.into())]),
        };
        self.write_line(file, &head, at, &entry)
    }

    /// The last whole line, and the bytes after it.
    fn last_line(&self, file: &File) -> Result<(Head, Vec<u8>), Error> {
        let len = file.metadata().to("look at", &self.path)?.len();
        let mut window = 3 * MAX_LINE;
        loop {
            let start = len.saturating_sub(window);
            let block = read_at(file, start, len - start).to("read", &self.path)?;
            let end = block.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            // What isn't a line was damaged by somebody, which `verify` tells: the chain goes on from the one before it,
            // however far back that is. Numbers begin anew only in a log that has no line at all.
            let mut whole = block[..end].split(|b| *b == b'\n').rev().filter(|text| !text.is_empty());
            let last = whole.find_map(|text| serde_json::from_slice::<Line>(text).ok().map(|line| (line, text)));
            let head = match last {
                Some((line, text)) => Head { seq: line.seq, hash: hash(text) },
                None if start > 0 => {
                    window *= 2;
                    continue;
                }
                None => Head { seq: 0, hash: GENESIS.to_owned() },
            };
            return Ok((head, block[end..].to_vec()));
        }
    }
}

struct Chain<'a> {
    expected: Head,
    anchor: Option<(u64, &'a str)>,
}

impl Chain<'_> {
    fn follow(&mut self, number: u64, text: &[u8]) -> Result<(), Error> {
        let (text, ended) = match text.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let expected = self.expected.seq + 1;
        let broken = |reason: &str| Error::Broken { line: number, seq: expected, reason: reason.to_owned() };
        let Ok(line) = serde_json::from_slice::<Line>(text) else {
            // An unfinished end is what a crash leaves; the next line will account for it.
            return if ended { Err(broken("it is not a line of the log")) } else { Ok(()) };
        };
        if line.seq != self.expected.seq + 1 {
            return Err(broken(&format!("it is numbered {}: a line is missing, doubled or moved", line.seq)));
        }
        if line.prev != self.expected.hash {
            return Err(broken("the line before it was changed after it was written"));
        }
        self.expected = Head { seq: line.seq, hash: hash(text) };
        match self.anchor {
            Some((seq, hash)) if seq == line.seq && hash != self.expected.hash => {
                Err(broken("it isn't the line that the catalog remembers"))
            }
            _ => Ok(()),
        }
    }

    fn end(self) -> Result<u64, Error> {
        let seq = self.expected.seq;
        match self.anchor {
            Some((anchor, _)) if anchor > seq => Err(Error::Broken {
                line: seq + 1,
                seq: seq + 1,
                reason: format!("the log ends here, but the catalog remembers line {anchor}: its end was cut off"),
            }),
            _ => Ok(seq),
        }
    }
}

fn open_for_reading(path: &Path) -> Result<Option<File>, Error> {
    match disk::open_regular(path) {
        Err(error) if error.is_missing() => Ok(None),
        file => Ok(Some(file?)),
    }
}

fn read_at(mut file: &File, start: u64, len: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn hash(bytes: &[u8]) -> String {
    crate::backup::hex(&Sha256::digest(bytes))
}

fn shorten(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(at);
        text.push('…');
    }
}

/// The details, cut as far as they must be: lists and texts to ever fewer parts, with the number of those left out.
fn fitting(whole: Map<String, Value>) -> Map<String, Value> {
    let size = |details: &Map<String, Value>| serde_json::to_vec(details).map_or(0, |bytes| bytes.len());
    let (mut details, mut most) = (whole.clone(), 1 << 12);
    while size(&details) > MAX_DETAILS && most > 0 {
        details = whole.clone();
        details.values_mut().for_each(|value| cut(value, most));
        most /= 2;
    }
    details
}

/// Checksums, ids and the fields of a step stay whole; so a list is cut that holds them.
fn cut(value: &mut Value, most: usize) {
    let more = |count: usize| format!("… and {count} more");
    match value {
        Value::String(text) => {
            let most = most.max(100);
            if let Some((at, _)) = text.char_indices().nth(most) {
                let rest = more(text[at..].chars().count());
                text.truncate(at);
                text.push_str(&rest);
            }
        }
        Value::Array(list) => {
            let rest = list.len().saturating_sub(most);
            list.truncate(most);
            list.iter_mut().for_each(|value| cut(value, most));
            list.extend((rest > 0).then(|| more(rest).into()));
        }
        Value::Object(fields) => {
            let most = most.max(16);
            let rest = fields.len().saturating_sub(most);
            *fields = std::mem::take(fields).into_iter().take(most).collect();
            fields.values_mut().for_each(|value| cut(value, most));
            fields.extend((rest > 0).then(|| (more(rest), Value::Null)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
