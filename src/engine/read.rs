//! Reading backups: list, verify, download. An open descriptor outlives rotation, so no lock is taken.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::Map;
use sha2::{Digest, Sha256};

use super::{Call, Engine, Error, entry, failure};
use crate::audit::{Entry, Kind};
use crate::backup::retention::{Fate, fates};
use crate::backup::{Backup, BackupId, DatabaseCopy, DatabaseName, Verified, hex};
use crate::disk::{self, Context, Partial};
use crate::sqlite::pages::read_back;
use crate::sqlite::{self, Control, Progress};

/// How long the result of a verification waits for the directory before it goes unrecorded.
const RECORD_WAIT: Duration = Duration::from_secs(2);

/// What was found when a backup was read back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verification {
    /// All of it is as recorded.
    pub ok: bool,
    /// Each database.
    pub databases: BTreeMap<DatabaseName, DatabaseVerdict>,
}

/// What was found of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DatabaseVerdict {
    /// It is as recorded.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

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

impl Engine {
    /// All backups, newest first.
    pub fn list(&self) -> Result<Vec<Backup>, Error> {
        let mut backups: Vec<_> = match self.read_catalog()? {
            Some(catalog) => catalog.standing().cloned().collect(),
            None => Vec::new(),
        };
        backups.sort_by_key(|backup| std::cmp::Reverse((backup.sequence, backup.id)));
        Ok(backups)
    }

    /// One backup.
    pub fn get(&self, id: &BackupId) -> Result<Backup, Error> {
        self.read_catalog()?.and_then(|catalog| catalog.get(id).cloned()).ok_or(Error::NotFound(*id))
    }

    /// Why each is kept and when it would go.
    pub fn fates(&self) -> Result<BTreeMap<BackupId, Fate>, Error> {
        let backups = self.read_catalog()?.map(|catalog| catalog.backups).unwrap_or_default();
        Ok(fates(&backups, &self.settings()?.retention, self.freeze()?.as_deref()))
    }

    /// Reads every byte of a backup back and compares it with what was recorded [P8]. The result goes into the catalog
    /// if the directory can be had for that moment.
    pub fn verify(&self, id: &BackupId, call: &Call) -> Result<Verification, Error> {
        let backup = self.get(id)?;
        let opened: Vec<_> =
            self.store.paths(&backup).map(|(name, path)| (name, disk::open_regular(&path), path)).collect();
        let mut databases = BTreeMap::new();
        let mut share = Share { before: 0, total: backup.stored_size() };
        for (name, file, path) in opened {
            let Some(copy) = backup.databases.get(name) else { continue };
            let fault = match file {
                Ok(file) => self.fault(name, copy, &file, &path, share, &call.control)?,
                Err(error) => Some(error.to_string()),
            };
            share.before += copy.stored_size;
            databases.insert(name.clone(), DatabaseVerdict { ok: fault.is_none(), reason: fault });
        }
        let verification = Verification { ok: databases.values().all(|verdict| verdict.ok), databases };
        self.record_verification(&backup, &verification, call);
        Ok(verification)
    }

    fn fault(
        &self,
        name: &DatabaseName,
        copy: &DatabaseCopy,
        file: &File,
        path: &Path,
        share: Share,
        control: &Control,
    ) -> Result<Option<String>, Error> {
        control.tell(Progress { database: name, done: share.before, total: share.total });
        let size = file.metadata().to("look at", path)?.len();
        if size != copy.stored_size {
            return Ok(Some(format!("{} has {size} bytes instead of {}", copy.file, copy.stored_size)));
        }
        match read_back(file, path, control) {
            Ok(read) if read.checksum == copy.stored_checksum => Ok(None),
            Ok(_) => Ok(Some(format!("{} holds other bytes than were recorded (SHA-256)", copy.file))),
            Err(sqlite::Error::Cancelled) => Err(sqlite::Error::Cancelled.into()),
            Err(error) => Ok(Some(error.to_string())),
        }
    }

    fn record_verification(&self, backup: &Backup, verification: &Verification, call: &Call) {
        let call = Call { wait: RECORD_WAIT, ..call.clone() };
        let recorded = self.begin("verify", &call).and_then(|mut session| {
            let verified = Verified { at: self.clock.now(), ok: verification.ok };
            // Promoted meanwhile, it has another id and the same files.
            let same = session.catalog.backups.iter_mut().filter(|other| other.sequence == backup.sequence);
            same.for_each(|other| other.verified = verified.clone());
            session.commit()
        });
        if let Err(error) = recorded {
            tracing::warn!(%error, id = %backup.id, "the verification is not recorded in the catalog");
        }
    }

    /// Reads the whole audit log, which must hold the line that the catalog remembers. Says how many lines there are.
    pub fn verify_audit(&self) -> Result<u64, Error> {
        let anchor = self.read_catalog()?.and_then(|catalog| catalog.audit);
        Ok(self.audit.verify(anchor.as_ref().map(|anchor| (anchor.seq, anchor.hash.as_str())))?)
    }

    /// Hands out a copy. It is complete and compared with the checksum, or it isn't there.
    pub fn download(&self, download: &Download, call: &Call) -> Result<u64, Error> {
        let result = self.audited_download(download, call);
        if let Err(error @ (Error::NotFound(_) | Error::NoSuchDatabase { .. } | Error::TargetExists { .. })) = &result {
            self.refused("download", call, Some(download.id), error);
        }
        result
    }

    fn audited_download(&self, download: &Download, call: &Call) -> Result<u64, Error> {
        let backup = self.get(&download.id)?;
        let chosen = chosen(&backup, download.database.as_ref())?;
        if download.target.symlink_metadata().is_ok() {
            return Err(Error::TargetExists { path: download.target.clone() });
        }
        let line = |kind| {
            let mut line = entry(kind, "download", &call.actor, Some(download.id));
            let names = chosen.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(",");
            line.details = Map::from_iter([("databases".to_owned(), names.into())]);
            line
        };
        // Data that leaves is recorded first, or it doesn't leave.
        self.audit.append(self.clock.now(), line(Kind::Intent))?;
        let result = self.copy_out(&backup, &chosen, download, &call.control);
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
        chosen: &[(&DatabaseName, &DatabaseCopy)],
        download: &Download,
        control: &Control,
    ) -> Result<u64, Error> {
        let target = std::path::absolute(&download.target).unwrap_or_else(|_| download.target.clone());
        let partial = Partial::create(&target)?;
        let total = chosen.iter().map(|(_, copy)| copy.stored_size).sum();
        let mut out = Out { backup, partial: &partial, share: Share { before: 0, total }, control };
        match download.database {
            Some(_) => {
                for (name, copy) in chosen {
                    let path = self.store.path(&backup.id, name, copy.form);
                    let mut file = partial.file();
                    out.checked(name, copy, &path, |input| std::io::copy(input, &mut file).map(drop))?;
                }
            }
            None => self.write_tar(chosen, &mut out)?,
        }
        partial.sync()?;
        let size = partial.file().metadata().to("look at", partial.path())?.len();
        partial.publish_new()?;
        disk::sync_dir(disk::parent(&target))?;
        Ok(size)
    }

    fn write_tar(&self, chosen: &[(&DatabaseName, &DatabaseCopy)], out: &mut Out<'_>) -> Result<(), Error> {
        let (backup, partial) = (out.backup, out.partial);
        let mut tar = tar::Builder::new(partial.file());
        let mut sums = String::new();
        let header = |size: u64| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o600);
            header.set_size(size);
            header.set_mtime(backup.timestamp.timestamp().try_into().unwrap_or(0));
            header
        };
        for (name, copy) in chosen {
            let path = self.store.path(&backup.id, name, copy.form);
            let file = format!("{name}.{}", copy.form.ending());
            let mut header = header(copy.stored_size);
            out.checked(name, copy, &path, |input| tar.append_data(&mut header, &file, input))?;
            sums.push_str(&format!("{}  {file}\n", copy.stored_checksum));
        }
        tar.append_data(&mut header(sums.len() as u64), "SHA256SUMS", sums.as_bytes())
            .and_then(|()| tar.into_inner().map(drop))
            .to("write", partial.path())?;
        Ok(())
    }
}

fn chosen<'a>(
    backup: &'a Backup,
    name: Option<&DatabaseName>,
) -> Result<Vec<(&'a DatabaseName, &'a DatabaseCopy)>, Error> {
    let all = backup.databases.iter();
    let Some(wanted) = name else { return Ok(all.collect()) };
    let found: Vec<_> = all.filter(|(name, _)| *name == wanted).collect();
    if found.is_empty() {
        let names = backup.databases.keys().map(ToString::to_string).collect();
        return Err(Error::NoSuchDatabase { id: backup.id, name: wanted.clone(), names });
    }
    Ok(found)
}

#[derive(Clone, Copy)]
struct Share {
    before: u64,
    total: u64,
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
        name: &DatabaseName,
        copy: &DatabaseCopy,
        path: &Path,
        write: impl FnOnce(&mut Hashing<'_>) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let damaged = |reason: String| Error::Damaged { id: self.backup.id, reason };
        let file = disk::open_regular(path).map_err(|error| damaged(error.to_string()))?;
        let size = file.metadata().to("look at", path)?.len();
        if size != copy.stored_size {
            return Err(damaged(format!("{} has {size} bytes instead of {}", copy.file, copy.stored_size)));
        }
        let mut input = Hashing {
            file,
            name,
            hash: Sha256::new(),
            done: self.share.before,
            total: self.share.total,
            control: self.control,
        };
        let written = write(&mut input);
        self.control.check()?;
        written.to("write", self.partial.path())?;
        if hex(&input.hash.finalize()) != copy.stored_checksum {
            return Err(damaged(format!("{} holds other bytes than were recorded (SHA-256)", copy.file)));
        }
        self.share.before += copy.stored_size;
        Ok(())
    }
}

/// Hashes and reports what is read through it; ends with an error when cancelled.
struct Hashing<'a> {
    file: File,
    name: &'a DatabaseName,
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
        let read = self.file.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.done += read as u64;
        self.control.tell(Progress { database: self.name, done: self.done, total: self.total });
        Ok(read)
    }
}
