//! Handing out copies as a stream. The files are held open, so rotation can't take them away. What leaves is recorded
//! before its first byte (intent) and after its last (outcome).

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::download::chosen;
use super::read::{OpenFile, Opened};
use super::record::{SECONDS, seconds};
use super::{Actor, Call, Engine, Error, entry};
use crate::audit::{Entry, Kind};
use crate::backup::{Backup, BackupId, DatabaseCopy, DatabaseName, Form};
use crate::codec::Decoder;
use crate::disk::Context;

/// The code of a download that the client didn't take whole.
pub(super) const ABORTED: &str = "aborted";

/// Copies of a backup, ready to leave.
pub struct Handout {
    /// The backup, by the id that it has now.
    pub backup: Backup,
    /// What was chosen of it.
    pub files: Vec<Handed>,
}

/// In which form copies leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Leaves {
    /// As the plain database, whatever lies there.
    #[default]
    Plain,
    /// As the file lies.
    Stored,
}

/// One copy on its way out.
pub struct Handed {
    /// The database.
    pub name: DatabaseName,
    /// What leaves of it.
    pub body: Body,
    copy: DatabaseCopy,
}

/// Where its bytes come from.
pub enum Body {
    /// The file as it lies, held open; as long as the catalog says.
    File(File),
    /// The database that comes out of it.
    Decoded(Decoder<'static>),
}

/// One copy, held open; as long as the catalog says.
pub(super) struct Usable {
    pub(super) name: DatabaseName,
    pub(super) copy: DatabaseCopy,
    pub(super) file: File,
    pub(super) path: PathBuf,
}

/// A download whose intent is recorded.
pub struct Leaving {
    engine: Engine,
    line: Entry,
    begun: Instant,
    /// Of the request that asked for it.
    span: tracing::Span,
}

impl Engine {
    /// Opens one database of a backup, or all of them. Nothing is recorded but a refusal.
    pub fn hand_out(
        &self,
        id: BackupId,
        database: Option<&DatabaseName>,
        leaves: Leaves,
        call: &Call,
    ) -> Result<Handout, Error> {
        let opened = self.opened(&id).and_then(|Opened { backup, files }| {
            let chosen = chosen(&backup, files, database)?.into_iter();
            let files = chosen.map(|file| self.handed(backup.id, file.usable(backup.id)?, leaves));
            let files = files.collect::<Result<_, _>>()?;
            Ok(Handout { backup, files })
        });
        opened.inspect_err(|error| self.refused("download", call, Some(id.into()), error))
    }

    /// One copy as it is to leave. What can't be decoded here leaves only as it lies.
    pub(super) fn handed(&self, id: BackupId, usable: Usable, leaves: Leaves) -> Result<Handed, Error> {
        let Usable { name, copy, file, path } = usable;
        let body = match leaves {
            Leaves::Plain if copy.form != Form::Plain => {
                Body::Decoded(self.decoder(id, &name, &copy, (file, &path))?)
            }
            Leaves::Plain | Leaves::Stored => Body::File(file),
        };
        Ok(Handed { name, body, copy })
    }

    /// Records that a handout is about to leave; without that line it doesn't.
    pub fn leaving(&self, handout: &Handout, actor: &Actor, details: Map<String, Value>) -> Result<Leaving, Error> {
        self.assert_expected()?;
        let mut line = entry(Kind::Intent, "download", actor, Some(handout.backup.id.into()));
        let names: Vec<_> = handout.files.iter().map(|it| it.name.as_str()).collect();
        line.details = details;
        line.details.insert("databases".to_owned(), names.join(",").into());
        self.append_first(line.clone())?;
        let line = Entry { kind: Kind::Outcome, ..line };
        Ok(Leaving { engine: self.clone(), line, begun: Instant::now(), span: tracing::Span::current() })
    }
}

/// Why a download ended before it was whole.
pub enum Broken {
    /// The client went away.
    Aborted,
    /// The copy isn't what was recorded.
    Damaged(String),
    /// The copy couldn't be read, which says nothing of what it holds.
    Unread(String),
}

impl Broken {
    fn told(self) -> (&'static str, String) {
        match self {
            Broken::Aborted => (ABORTED, "the client went away, or was too slow".to_owned()),
            Broken::Damaged(reason) => ("damaged", reason),
            Broken::Unread(reason) => ("disk", reason),
        }
    }
}

impl Leaving {
    /// Records how it ended: bytes that left, and why not all of them did.
    pub fn ended(mut self, sent: u64, broken: Option<Broken>) {
        let span = self.span.clone();
        let _request = span.enter();
        self.line.details.insert("bytes".to_owned(), sent.into());
        self.line.details.insert(SECONDS.to_owned(), seconds(self.begun).into());
        self.line.ok = Some(broken.is_none());
        if let Some((code, reason)) = broken.map(Broken::told) {
            self.line.code = Some(code.to_owned());
            self.line.reason = Some(reason);
        }
        if let Err(error) = self.engine.append(self.line) {
            tracing::warn!(%error, "the end of a download could not be recorded");
        }
    }
}

impl Handed {
    fn is_decoded(&self) -> bool {
        matches!(self.body, Body::Decoded(_))
    }

    /// In which form it leaves.
    pub fn form(&self) -> Form {
        if self.is_decoded() { Form::Plain } else { self.copy.form }
    }

    /// Bytes that leave.
    pub fn size(&self) -> u64 {
        if self.is_decoded() { self.copy.size } else { self.copy.stored_size }
    }

    /// Their SHA-256, 64 hex digits.
    pub fn checksum(&self) -> &str {
        if self.is_decoded() { &self.copy.checksum } else { &self.copy.stored_checksum }
    }

    /// Their XXH3, where it is recorded.
    pub fn xxh3(&self) -> Option<&String> {
        if self.is_decoded() { None } else { self.copy.stored_xxh3.as_ref() }
    }

    /// What it is called in a tar.
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.form().ending())
    }
}

/// The last file of a tar: the checksums of the others, as `sha256sum -c` reads them.
pub const SUMS: &str = "SHA256SUMS";

/// A tar's header, and the unit that its parts are filled up to (POSIX.1-2017, pax, ustar).
pub const TAR_BLOCK: usize = 512;

/// What follows a file of so many bytes in a tar.
pub fn tar_fill(size: u64) -> &'static [u8] {
    let begun = (size % TAR_BLOCK as u64) as usize;
    &[0; TAR_BLOCK][..(TAR_BLOCK - begun) % TAR_BLOCK]
}

/// The header of a file in a tar of this backup.
pub fn tar_header(backup: &Backup, name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(size);
    header.set_mtime(backup.timestamp.timestamp().try_into().unwrap_or(0));
    // A tar takes names of 100 bytes; ours are a database's of at most 32 and a form's.
    let named = header.set_path(name);
    debug_assert!(named.is_ok(), "{name}");
    header.set_cksum();
    header
}

impl OpenFile {
    /// The file, if it is there and as long as it was.
    pub(super) fn usable(self, id: BackupId) -> Result<Usable, Error> {
        let Self { name, copy, path, file } = self;
        let damaged = |reason: String| Error::Damaged { subject: id.into(), reason };
        let file = file.map_err(|error| if error.is_no_file() { damaged(error.to_string()) } else { error.into() })?;
        let size = file.metadata().to("look at", &path)?.len();
        if size != copy.stored_size {
            return Err(damaged(format!("{} has {size} bytes instead of {}", copy.file, copy.stored_size)));
        }
        Ok(Usable { name, copy, file, path })
    }
}
