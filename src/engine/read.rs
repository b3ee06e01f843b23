//! Reading backups: list and verify. An open descriptor outlives rotation, so no lock is taken.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::decode::{Coded, Fault, undecodable};
use super::status::CLOCKS_DIFFER;
use super::{Call, Engine, Error};
use crate::audit::{Kind, Line};
use crate::backup::retention::{Fate, fates};
use crate::backup::{Backup, BackupId, DatabaseCopy, DatabaseName, Form, Verified};
use crate::catalog::Catalog;
use crate::disk::block::Direct;
use crate::disk::{self, Context};
use crate::sqlite::pages::read_back;
use crate::sqlite::{self, Control, Progress};

/// How long the result of a verification waits for the directory before it goes unrecorded.
const RECORD_WAIT: Duration = Duration::from_secs(2);

/// What was found when a backup was read back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Verification {
    /// All of it is as recorded.
    pub ok: bool,
    /// Each database.
    pub databases: BTreeMap<DatabaseName, DatabaseVerdict>,
}

/// What was found of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseVerdict {
    /// It is as recorded.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// No identity was at hand to decrypt it, so only its bytes as they lie were compared.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ciphertext_only: bool,
    /// It couldn't be read just now, which says nothing of what it holds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
}

/// Which lines of the audit log.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// At most this many.
    #[serde(default)]
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 200, default = 50)]
    limit: PageSize,
    /// Only lines before this `seq`: the `next` of the page before.
    #[param(value_type = Option<u64>, nullable = false, maximum = 9007199254740991_u64)]
    before: Option<Seq>,
    /// Only of this operation, such as `create`.
    #[param(nullable = false)]
    operation: Option<String>,
    /// Only of this kind.
    #[param(nullable = false)]
    kind: Option<Kind>,
    /// Only of this backup.
    #[param(nullable = false)]
    id: Option<BackupId>,
}

/// The number of a line, as JSON can hold it (RFC 8259 section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "u64")]
struct Seq(u64);

impl TryFrom<u64> for Seq {
    type Error = &'static str;

    fn try_from(seq: u64) -> Result<Self, Self::Error> {
        if seq < 1 << 53 { Ok(Self(seq)) } else { Err("no line has so high a number") }
    }
}

/// 1 to 200 lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "u16")]
pub struct PageSize(u16);

impl Default for PageSize {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<u16> for PageSize {
    type Error = &'static str;

    fn try_from(lines: u16) -> Result<Self, Self::Error> {
        if (1..=200).contains(&lines) { Ok(Self(lines)) } else { Err("a page has 1 to 200 lines") }
    }
}

impl PageSize {
    fn get(self) -> usize {
        self.0.into()
    }
}

impl AuditQuery {
    fn takes(&self, line: &Line) -> bool {
        let entry = &line.entry;
        self.before.is_none_or(|before| line.seq < before.0)
            && self.operation.as_ref().is_none_or(|operation| entry.operation == *operation)
            && self.kind.is_none_or(|kind| entry.kind == kind)
            && self.id.is_none_or(|id| entry.id == Some(id))
    }
}

/// A page of the audit log.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct AuditPage {
    /// Newest first.
    pub lines: Vec<Line>,
    /// The `before` of the next page; nothing if this is the last.
    #[schema(required = true)]
    pub next: Option<u64>,
}

impl Verification {
    /// Something isn't as recorded, whatever else could not be read.
    pub fn is_damaged(&self) -> bool {
        self.databases.values().any(|verdict| !verdict.ok && !verdict.unread)
    }

    /// Of a part at least no more than the ciphertext was compared.
    pub fn is_ciphertext_only(&self) -> bool {
        self.databases.values().any(|verdict| verdict.ciphertext_only)
    }
}

impl DatabaseVerdict {
    fn as_recorded() -> Self {
        Self { ok: true, reason: None, ciphertext_only: false, unread: false }
    }

    fn differs(reason: String) -> Self {
        Self { ok: false, reason: Some(reason), ciphertext_only: false, unread: false }
    }

    fn failed(error: &disk::Error) -> Self {
        Self { unread: !error.is_no_file(), ..Self::differs(error.to_string()) }
    }
}

impl Engine {
    /// All backups, newest first.
    pub fn list(&self) -> Result<Vec<Backup>, Error> {
        let mut backups: Vec<_> = match self.standing_catalog()? {
            Some(catalog) => catalog.standing().cloned().collect(),
            None => Vec::new(),
        };
        backups.sort_by_key(|backup| std::cmp::Reverse((backup.sequence, backup.id)));
        Ok(backups)
    }

    /// One backup.
    pub fn get(&self, id: &BackupId) -> Result<Backup, Error> {
        self.standing_catalog()?.and_then(|catalog| catalog.get(id).cloned()).ok_or(Error::NotFound(*id))
    }

    /// Why each is kept and when it would go.
    pub fn fates(&self) -> Result<BTreeMap<BackupId, Fate>, Error> {
        let catalog = self.standing_catalog()?;
        let backups = catalog.as_ref().map_or(&[][..], |catalog| &catalog.backups);
        Ok(fates(backups, &self.settings()?.retention, self.freeze()?.as_deref()))
    }

    /// Why one is kept and when it would go.
    pub fn fate(&self, id: &BackupId) -> Result<Fate, Error> {
        self.fates()?.remove(id).ok_or(Error::NotFound(*id))
    }

    /// Whether there is a proven backup (checked and read back) that is young enough.
    pub fn is_ready(&self) -> Result<bool, Error> {
        Ok(self.is_recent(self.newest_proven()?.as_ref()))
    }

    /// Whether the newest proven backup is one that `/readyz` is content with.
    pub(super) fn is_recent(&self, newest: Option<&Backup>) -> bool {
        let now = self.clock.now();
        // Of one from the future nobody knows how old it is.
        let dated = newest.filter(|backup| backup.timestamp <= now + CLOCKS_DIFFER);
        let age = dated.map(|backup| (now - backup.timestamp).to_std().unwrap_or_default());
        age.is_some_and(|age| age <= self.config.stale_after)
    }

    /// The newest backup that was checked and read back here, and whose files are there.
    pub(super) fn newest_proven(&self) -> Result<Option<Backup>, Error> {
        let proven = |backup: &Backup| backup.checked.ok && backup.verified.ok && !backup.came_from_elsewhere();
        let mut proven: Vec<Backup> = self.list()?.into_iter().filter(proven).collect();
        // The newest first, so that no more than one is looked at as a rule.
        proven.sort_by_key(|backup| std::cmp::Reverse(backup.sequence));
        Ok(proven.into_iter().find(|backup| self.store.is_there(backup).unwrap_or(false)))
    }

    /// Lines of the audit log, newest first.
    pub fn audit_page(&self, query: &AuditQuery) -> Result<AuditPage, Error> {
        self.lines(query.limit.get(), |line| query.takes(line))
    }

    /// So many of those that are taken, newest first.
    pub(super) fn lines(&self, limit: usize, mut takes: impl FnMut(&Line) -> bool) -> Result<AuditPage, Error> {
        let mut lines = Vec::new();
        self.audit.newest_first(|line| {
            if takes(line) {
                lines.push(line.clone());
            }
            lines.len() > limit
        })?;
        let more = lines.len() > limit;
        lines.truncate(limit);
        Ok(AuditPage { next: lines.last().filter(|_| more).map(|line| line.seq), lines })
    }

    /// Reads every byte of a backup back and compares it with what was recorded [P8]; what is compressed or encrypted is decoded
    /// as well, where that can be done. The result goes into the catalog
    /// if the directory can be had for that moment.
    pub fn verify(&self, id: &BackupId, call: &Call) -> Result<Verification, Error> {
        let begun = Instant::now();
        let verified = self.verified(id, call);
        self.tell_read("verify", Some((*id).into()), call, begun, &verified, |found| {
            let wrong = |(name, verdict): (&DatabaseName, &DatabaseVerdict)| {
                Some(format!("{name}: {}", verdict.reason.as_ref()?))
            };
            let reasons: Vec<_> = found.databases.iter().filter_map(wrong).collect();
            (!found.ok).then(|| (if found.is_damaged() { "damaged" } else { "disk" }, reasons.join("; ")))
        });
        verified
    }

    fn verified(&self, id: &BackupId, call: &Call) -> Result<Verification, Error> {
        let Opened { backup, files } = self.opened(id)?;
        let mut databases = BTreeMap::new();
        let mut share = Share { before: 0, total: backup.stored_size() };
        for OpenFile { name, copy, path, file } in files {
            call.control.tell(Progress { database: &name, done: share.before, total: share.total });
            let verdict = match file {
                Ok(file) => self.compare(&copy, &file, &path, &call.control)?,
                Err(error) => DatabaseVerdict::failed(&error),
            };
            share.before += copy.stored_size;
            databases.insert(name, verdict);
        }
        let verification = Verification { ok: databases.values().all(|verdict| verdict.ok), databases };
        // A file that couldn't be read leaves the catalog with what it knew.
        if verification.ok || verification.is_damaged() {
            self.record_verification(&backup, &verification, call);
        }
        Ok(verification)
    }

    /// Opens all files of a backup. What the catalog still says after that holds for what was opened; if rotation came
    /// between and gave the backup another name, they are opened once more by that one.
    pub(super) fn opened(&self, id: &BackupId) -> Result<Opened, Error> {
        let mut backup = self.get(id)?;
        loop {
            let files = self.open_files(&backup);
            let catalog = self.standing_catalog()?;
            let same = |other: &&Backup| other.sequence == backup.sequence;
            let find = |catalog: &Catalog| {
                let unchanged = catalog.get(&backup.id).filter(same);
                unchanged.or_else(|| catalog.standing().find(same)).cloned()
            };
            let now = catalog.as_deref().and_then(find);
            match now {
                None => return Err(Error::NotFound(*id)),
                Some(now) if now.id == backup.id => return Ok(Opened { backup, files }),
                Some(now) => backup = now,
            }
        }
    }

    fn open_files(&self, backup: &Backup) -> Vec<OpenFile> {
        let open = |(name, copy): (&DatabaseName, &DatabaseCopy)| {
            let path = self.store.path(&backup.id, name, copy.form);
            OpenFile { name: name.clone(), copy: copy.clone(), file: disk::open_regular(&path), path }
        };
        backup.databases.iter().map(open).collect()
    }

    fn compare(
        &self,
        copy: &DatabaseCopy,
        file: &File,
        path: &Path,
        control: &Control,
    ) -> Result<DatabaseVerdict, Error> {
        let size = file.metadata().to("look at", path)?.len();
        if size != copy.stored_size {
            return Ok(DatabaseVerdict::differs(format!(
                "{} has {size} bytes instead of {}",
                copy.file, copy.stored_size
            )));
        }
        if copy.form != Form::Plain && self.opens(copy) {
            let coded = Coded { file: Direct::new(file), path, form: copy.form, size: Some(copy.size) };
            return Ok(match self.decode(coded, control, |_| Ok(()))? {
                Ok(decoded) => {
                    decoded.differs(copy).map_or_else(DatabaseVerdict::as_recorded, DatabaseVerdict::differs)
                }
                Err(Fault::Unread(error)) => DatabaseVerdict::failed(&error),
                Err(Fault::Damaged(reason)) => DatabaseVerdict::differs(undecodable(&copy.file, &reason)),
                Err(Fault::Locked) => DatabaseVerdict::differs(undecodable(&copy.file, "its header was changed")),
            });
        }
        match read_back(file, path, control) {
            Ok(read) if read.checksum == copy.stored_checksum => {
                Ok(DatabaseVerdict { ciphertext_only: copy.form.is_encrypted(), ..DatabaseVerdict::as_recorded() })
            }
            Ok(_) => Ok(DatabaseVerdict::differs(other_bytes(&copy.file))),
            Err(sqlite::Error::Disk(error)) => Ok(DatabaseVerdict::failed(&error)),
            Err(error) => Err(error.into()),
        }
    }

    fn record_verification(&self, backup: &Backup, verification: &Verification, call: &Call) {
        let call = Call { wait: RECORD_WAIT, ..call.clone() };
        let recorded = self.begin("verify", &call).and_then(|mut session| {
            let (ok, ciphertext_only) = (verification.ok, verification.is_ciphertext_only());
            let verified = Verified { at: self.clock.now(), ok, ciphertext_only };
            // Promoted meanwhile, it has another id; damage is only told of the very files that were read.
            let same = session
                .catalog
                .backups
                .iter_mut()
                .filter(|other| other.sequence == backup.sequence && (verification.ok || other.id == backup.id));
            same.for_each(|other| other.verified = verified.clone());
            session.commit()
        });
        if let Err(error) = recorded {
            tracing::warn!(%error, id = %backup.id, "the verification is not recorded in the catalog");
        }
    }

    /// Reads the whole audit log, which must hold the line that the catalog remembers. Says how many lines there are.
    pub fn verify_audit(&self) -> Result<u64, Error> {
        let anchor = self.standing_catalog()?.and_then(|catalog| catalog.audit.clone());
        Ok(self.audit.verify(anchor.as_ref().map(|anchor| (anchor.seq, anchor.hash.as_str())))?)
    }
}

pub(super) fn other_bytes(file: &str) -> String {
    format!("{file} holds other bytes than were recorded (SHA-256)")
}

/// A backup with its files open: rotation can't take them away any more.
pub(super) struct Opened {
    pub(super) backup: Backup,
    pub(super) files: Vec<OpenFile>,
}

/// One database of it.
pub(super) struct OpenFile {
    pub(super) name: DatabaseName,
    pub(super) copy: DatabaseCopy,
    pub(super) path: PathBuf,
    pub(super) file: Result<File, disk::Error>,
}

#[derive(Clone, Copy)]
pub(super) struct Share {
    pub(super) before: u64,
    pub(super) total: u64,
}
