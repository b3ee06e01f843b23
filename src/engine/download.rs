//! Handing out a copy: one database as it is, or all of them in a tar. No lock is taken.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Map;
use sha2::{Digest, Sha256};

use super::handout::{Handed, SUMS, file_name, tar_header};
use super::read::{OpenFile, Opened, Share, other_bytes};
use super::{Call, Engine, Error, entry, failure};
use crate::audit::{Entry, Kind};
use crate::backup::{Backup, BackupId, DatabaseName, hex};
use crate::disk::{self, Context, Partial};
use crate::sqlite::{BESIDE, Control, Progress, beside};

/// What to fetch, and where to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Download {
    /// Which backup.
    pub id: BackupId,
    /// One database as it is; without a name all of them and `SHA256SUMS` in a tar.
    pub database: Option<DatabaseName>,
    /// A path that doesn't exist yet.
    pub target: PathBuf,
}

impl Download {
    fn assert_free(&self) -> Result<(), Error> {
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        let path = self.target.clone();
        if is_there(&path) {
            return Err(Error::TargetExists { path });
        }
        let path = disk::partial_path(&self.target);
        if is_there(&path) {
            return Err(Error::Unfinished { path });
        }
        // A tar is no database.
        let parts = BESIDE.into_iter().filter(|_| self.database.is_some());
        let mut parts = parts.map(|ending| beside(&self.target, ending));
        match parts.find(|path| is_there(path)) {
            Some(path) => Err(Error::Beside { path }),
            None => Ok(()),
        }
    }
}

impl Engine {
    /// Hands out a copy. It is complete and compared with the checksum, or it isn't there.
    pub fn download(&self, download: &Download, call: &Call) -> Result<u64, Error> {
        let result = self.audited_download(download, call);
        use Error::{Beside, NoSuchDatabase, NotFound, TargetExists, Unfinished};
        if let Err(
            error @ (NotFound(_) | NoSuchDatabase { .. } | TargetExists { .. } | Unfinished { .. } | Beside { .. }),
        ) = &result
        {
            self.refused("download", call, Some(download.id), error);
        }
        result
    }

    fn audited_download(&self, download: &Download, call: &Call) -> Result<u64, Error> {
        let Opened { backup, files } = self.opened(&download.id)?;
        let chosen = chosen(&backup, files, download.database.as_ref())?;
        download.assert_free()?;
        let names = chosen.iter().map(|it| it.name.to_string()).collect::<Vec<_>>().join(",");
        let line = |kind| {
            let mut line = entry(kind, "download", &call.actor, Some(backup.id));
            line.details = Map::from_iter([("databases".to_owned(), names.clone().into())]);
            line
        };
        // Data that leaves is recorded first, or it doesn't leave.
        self.audit.append(self.clock.now(), line(Kind::Intent))?;
        let result = self.copy_out(&backup, chosen, download, &call.control);
        let outcome = match &result {
            Ok(_) => Entry { ok: Some(true), ..line(Kind::Outcome) },
            Err(error) => failure(Entry { ok: Some(false), ..line(Kind::Outcome) }, error),
        };
        self.audit.append(self.clock.now(), outcome)?;
        result
    }

    fn copy_out(
        &self,
        backup: &Backup,
        chosen: Vec<OpenFile>,
        download: &Download,
        control: &Control,
    ) -> Result<u64, Error> {
        let target = std::path::absolute(&download.target).unwrap_or_else(|_| download.target.clone());
        let partial = Partial::create(&target)?;
        let total = chosen.iter().map(|it| it.copy.stored_size).sum();
        let mut out = Out { backup, partial: &partial, share: Share { before: 0, total }, control };
        match download.database {
            Some(_) => {
                for it in chosen {
                    let mut file = partial.file();
                    out.checked(it, |input| std::io::copy(input, &mut file).map(drop))?;
                }
            }
            None => write_tar(chosen, &mut out)?,
        }
        partial.sync()?;
        let size = partial.file().metadata().to("look at", partial.path())?.len();
        partial.publish_new()?;
        disk::sync_dir(disk::parent(&target))?;
        Ok(size)
    }
}

pub(super) fn chosen(
    backup: &Backup,
    mut files: Vec<OpenFile>,
    name: Option<&DatabaseName>,
) -> Result<Vec<OpenFile>, Error> {
    let Some(wanted) = name else { return Ok(files) };
    files.retain(|it| it.name == *wanted);
    if files.is_empty() {
        let names = backup.databases.keys().map(ToString::to_string).collect();
        return Err(Error::NoSuchDatabase { id: backup.id, name: wanted.clone(), names });
    }
    Ok(files)
}

fn write_tar(chosen: Vec<OpenFile>, out: &mut Out<'_>) -> Result<(), Error> {
    let (backup, partial) = (out.backup, out.partial);
    let mut tar = tar::Builder::new(partial.file());
    let mut sums = String::new();
    for it in chosen {
        let file = file_name(&it.name, &it.copy);
        let header = tar_header(backup, &file, it.copy.stored_size);
        sums.push_str(&format!("{}  {file}\n", it.copy.stored_checksum));
        out.checked(it, |input| tar.append(&header, input))?;
    }
    tar.append(&tar_header(backup, SUMS, sums.len() as u64), sums.as_bytes())
        .and_then(|()| tar.into_inner().map(drop))
        .to("write", partial.path())?;
    Ok(())
}

/// A copy on its way out.
struct Out<'a> {
    backup: &'a Backup,
    partial: &'a Partial,
    share: Share,
    control: &'a Control,
}

impl Out<'_> {
    /// Lets `write` take the whole file, and compares what it took with the catalog.
    fn checked(
        &mut self,
        it: OpenFile,
        write: impl FnOnce(&mut Hashing<'_>) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let path = it.path.clone();
        let Handed { name, copy, file } = it.usable(self.backup.id)?;
        let mut input = Hashing {
            file,
            name: &name,
            failed: None,
            hash: Sha256::new(),
            done: self.share.before,
            total: self.share.total,
            control: self.control,
        };
        let written = write(&mut input);
        self.control.check()?;
        if let Some(failed) = input.failed {
            Err(failed).to("read", &path)?;
        }
        written.to("write", self.partial.path())?;
        if hex(&input.hash.finalize()) != copy.stored_checksum {
            return Err(Error::Damaged { id: self.backup.id, reason: other_bytes(&copy.file) });
        }
        self.share.before += copy.stored_size;
        Ok(())
    }
}

/// Hashes and reports what is read through it; ends with an error when cancelled.
struct Hashing<'a> {
    file: File,
    name: &'a DatabaseName,
    /// Why it couldn't be read; whoever writes what it gives takes that for its own failure.
    failed: Option<std::io::Error>,
    hash: Sha256,
    done: u64,
    total: u64,
    control: &'a Control,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.control.is_cancelled() {
            return Err(std::io::Error::other("cancelled"));
        }
        let read = match self.file.read(buffer) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                self.failed = Some(error);
                return Err(std::io::Error::other("the copy can't be read"));
            }
            read => read?,
        };
        self.hash.update(&buffer[..read]);
        self.done += read as u64;
        self.control.tell(Progress { database: self.name, done: self.done, total: self.total });
        Ok(read)
    }
}
