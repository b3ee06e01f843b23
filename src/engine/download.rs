//! Handing out a copy: one database, or all of them in a tar; plain, whatever the form in which they lie, unless the files are
//! wanted as they lie. No lock is taken.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Map;

use super::decode::{Fault, locked, undecodable};
use super::handout::{Body, Handed, Leaves, SUMS, tar_fill, tar_header};
use super::read::{OpenFile, Opened, Share, other_bytes};
use super::record::{SECONDS, seconds};
use super::transfer::Target;
use super::{Call, Engine, Error, entry, failure};
use crate::audit::{Entry, Kind};
use crate::backup::{Backup, BackupId, DatabaseName};
use crate::codec;
use crate::disk::block::Direct;
use crate::disk::{self, Context, Partial};
use crate::sqlite::{BESIDE, Control, Progress, beside};

/// What to fetch, and where to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Download {
    /// Which backup.
    pub id: BackupId,
    /// One database by itself; without a name all of them and `SHA256SUMS` in a tar.
    pub database: Option<DatabaseName>,
    /// Plain, or as they lie.
    pub leaves: Leaves,
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
        // A tar is no database, nor what is encoded.
        let parts = BESIDE.into_iter().filter(|_| self.database.is_some() && self.leaves == Leaves::Plain);
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
        use Error::{Beside, NeedsIdentity, NoSuchDatabase, NotFound, TargetExists, Unfinished};
        if let Err(
            error @ (NotFound(_)
            | NoSuchDatabase { .. }
            | NeedsIdentity { .. }
            | TargetExists { .. }
            | Unfinished { .. }
            | Beside { .. }),
        ) = &result
        {
            self.refused("download", call, Some(download.id.into()), error);
        }
        result
    }

    fn audited_download(&self, download: &Download, call: &Call) -> Result<u64, Error> {
        let Opened { backup, files } = self.opened(&download.id)?;
        let chosen = chosen(&backup, files, download.database.as_ref())?;
        download.assert_free()?;
        if download.leaves == Leaves::Plain {
            chosen.iter().try_for_each(|it| self.assert_opens(backup.id, &it.name, &it.copy))?;
        }
        let names = chosen.iter().map(|it| it.name.to_string()).collect::<Vec<_>>().join(",");
        let line = |kind| {
            let mut line = entry(kind, "download", &call.actor, Some(backup.id.into()));
            line.details = Map::from_iter([("databases".to_owned(), names.clone().into())]);
            line
        };
        // Data that leaves is recorded first, or it doesn't leave.
        self.append_first(line(Kind::Intent))?;
        let begun = Instant::now();
        let result = self.copy_out(&backup, chosen, download, &call.control);
        let mut outcome = match &result {
            Ok(_) => Entry { ok: Some(true), ..line(Kind::Outcome) },
            Err(error) => failure(Entry { ok: Some(false), ..line(Kind::Outcome) }, error),
        };
        outcome.details.insert(SECONDS.to_owned(), seconds(begun).into());
        outcome.details.extend(result.as_ref().ok().map(|bytes| ("bytes".to_owned(), (*bytes).into())));
        self.append(outcome)?;
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
        let partial = Partial::create_own(&target)?;
        let leaving = |it: OpenFile| {
            let path = it.path.clone();
            Ok((self.handed(backup.id, it.usable(backup.id)?, download.leaves)?, path))
        };
        let chosen = chosen.into_iter().map(leaving).collect::<Result<Vec<_>, Error>>()?;
        let total = chosen.iter().map(|(it, _)| it.size()).sum();
        let mut out = Out { backup, partial: &partial, share: Share { before: 0, total }, control };
        match download.database {
            Some(_) => chosen.into_iter().try_for_each(|(it, path)| out.copy(it, &path))?,
            None => out.tar(chosen)?,
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

/// Where copies go to, one after the other.
struct Out<'a> {
    backup: &'a Backup,
    partial: &'a Partial,
    share: Share,
    control: &'a Control,
}

impl Out<'_> {
    fn tar(&mut self, chosen: Vec<(Handed, PathBuf)>) -> Result<(), Error> {
        let mut sums = String::new();
        for (it, path) in chosen {
            let (file, size) = (it.file_name(), it.size());
            sums.push_str(&format!("{}  {file}\n", it.checksum()));
            self.write(tar_header(self.backup, &file, size).as_bytes())?;
            self.copy(it, &path)?;
            self.write(tar_fill(size))?;
        }
        let mut end = tar::Builder::new(self.partial.file());
        end.append(&tar_header(self.backup, SUMS, sums.len() as u64), sums.as_bytes())
            .and_then(|()| end.into_inner().map(drop))
            .to("write", self.partial.path())?;
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<(), disk::Error> {
        self.partial.file().write_all(bytes).to("write", self.partial.path())
    }

    /// Appends one copy, as long as was recorded, and compares it with the catalog. It is hashed meanwhile.
    fn copy(&mut self, it: Handed, path: &Path) -> Result<(), Error> {
        let (id, size, checksum) = (self.backup.id, it.size(), it.checksum().to_owned());
        let file = self.backup.databases.get(&it.name).map_or_else(String::new, |copy| copy.file.clone());
        let (Handed { name, mut body, .. }, Share { before, total }) = (it, self.share);
        // Nobody here reads it again: the cache is left to the app's pages, and little is left to be synced at the end.
        let target = Target { file: Direct::new(self.partial.file()), path: self.partial.path(), size };
        let content = target.take(
            |block, _| match &mut body {
                Body::File(file) => block.fill_from(file),
                Body::Decoded(decoder) => block.fill_from(decoder),
            },
            |done| {
                self.control.tell(Progress { database: &name, done: before + done, total });
                Ok(self.control.check()?)
            },
        )?;
        let content = content.map_err(|failed| match Fault::of(codec::Error::of(failed), path) {
            Fault::Unread(error) => error.into(),
            Fault::Damaged(reason) => Error::Damaged { subject: id.into(), reason: undecodable(&file, &reason) },
            Fault::Locked => locked(id, &name, &[]),
        })?;
        if content.checksum != checksum {
            return Err(Error::Damaged { subject: id.into(), reason: other_bytes(&file) });
        }
        self.share.before += size;
        Ok(())
    }
}
