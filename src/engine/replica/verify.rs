//! Reading a replica back: every byte of every object [P8].

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::Elsewhere;
use super::rebuild::{Broken, Rebuilder, Unfit};
use super::send::Tick;
use super::site::Site;
use super::state::State;
use crate::backup::replica::{Chains, Folder, Held, Origin, ReplicaEntry};
use crate::backup::{BackupId, DatabaseCopy, DatabaseName};
use crate::disk;
use crate::engine::read::Share;
use crate::engine::staging::Staging;
use crate::engine::{Call, Engine, Error};
use crate::sqlite::pages::read_back;
use crate::sqlite::{Control, Progress};

/// How long what was found waits for a replication under way before it goes unremembered.
const REMEMBER_WAIT: Duration = Duration::from_secs(10);

/// What was found when a replica was read back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct ReplicaVerification {
    /// All of it is as recorded.
    pub ok: bool,
    /// Each backup.
    pub backups: BTreeMap<BackupId, BackupVerdict>,
}

/// What was found of one backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupVerdict {
    /// It is as recorded.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// No identity was at hand to decrypt it, so only its bytes as they lie were compared.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ciphertext_only: bool,
}

/// What is worth remembering of it.
#[derive(Default)]
struct Findings {
    whole: BTreeSet<Origin>,
    damaged: BTreeSet<Origin>,
    /// Objects that were read as they lie.
    read: BTreeSet<String>,
}

impl Engine {
    /// Reads a replica back, or one backup of it. What is found damaged is remembered, and sent again with the next replication.
    pub fn verify_replica(
        &self,
        from: &Elsewhere,
        id: Option<BackupId>,
        call: &Call,
    ) -> Result<ReplicaVerification, Error> {
        let target = self.target(from)?;
        let site = Site::look(&target, &call.control)?;
        let chosen: Vec<&Held> =
            site.catalog()?.backups.iter().filter(|held| id.is_none_or(|id| held.id == id)).collect();
        if let (Some(id), true) = (id, chosen.is_empty()) {
            return Err(Error::NotFound(id));
        }
        let total = chosen.iter().fold(0, |sum: u64, held| sum.saturating_add(held.size()));
        let (mut share, mut backups, mut found) = (Share { before: 0, total }, BTreeMap::new(), Findings::default());
        let chains = site.catalog()?.chains();
        let mut reading =
            Reading { engine: self, site: &site, chains: &chains, rebuilders: BTreeMap::new(), folder: None };
        for held in chosen {
            let (verdict, culprit) = reading.verdict(held, share, &mut found, &call.control)?;
            share.before = share.before.saturating_add(held.size());
            // What rotation has dropped meanwhile, or what was sent again, is no damage.
            if let Some(culprit) = culprit {
                let now = Site::look(&target, &call.control)?;
                if !now.named().iter().any(|key| key.starts_with(&format!("{culprit}/"))) {
                    continue;
                }
                found.damaged.insert(culprit.origin);
            } else {
                found.whole.insert(held.origin);
            }
            backups.insert(held.id, verdict);
        }
        if let Elsewhere::Name(_) = from {
            self.remember(from, id.is_none(), &found, call);
        }
        Ok(ReplicaVerification { ok: backups.values().all(|verdict| verdict.ok), backups })
    }

    /// A failure to remember it is said, and changes nothing of what was found.
    fn remember(&self, from: &Elsewhere, all: bool, found: &Findings, call: &Call) {
        let Elsewhere::Name(name) = from else { return };
        // An empty folder is perhaps only where a volume isn't mounted.
        if !self.standing_catalog().is_ok_and(|catalog| catalog.is_some()) {
            return;
        }
        let call = Call { wait: call.wait.max(REMEMBER_WAIT), ..call.clone() };
        let remembered = self.replica_permit(name, &call).and_then(|_permit| {
            let mut state = State::load(self.store.root(), name, &self.target(from)?.place.identity())?;
            state.found_damaged.retain(|origin| !found.whole.contains(origin));
            state.found_damaged.extend(&found.damaged);
            if state.damaged > 0 {
                state.found_whole.extend(&found.whole);
            }
            state.found_whole.retain(|origin| !found.damaged.contains(origin));
            if all && found.damaged.is_empty() {
                state.last_verified = Some(self.clock.now());
            }
            state.save(self.store.root(), name)
        });
        if let Err(error) = remembered {
            tracing::warn!(%error, replica = %name, "what was found of the replica is not remembered");
        }
    }
}

/// A replica being read back.
struct Reading<'a> {
    engine: &'a Engine,
    site: &'a Site,
    chains: &'a Chains<'a>,
    /// Databases that are led from backup to backup.
    rebuilders: BTreeMap<DatabaseName, Rebuilder<'a>>,
    folder: Option<Room>,
}

impl<'a> Reading<'a> {
    /// What is found of one backup, and whose objects are to blame.
    fn verdict(
        &mut self,
        held: &'a Held,
        share: Share,
        found: &mut Findings,
        control: &Control,
    ) -> Result<(BackupVerdict, Option<Folder>), Error> {
        let engine = self.engine;
        let damaged = |reason, ciphertext_only, culprit| {
            Ok((BackupVerdict { ok: false, reason: Some(reason), ciphertext_only }, Some(culprit)))
        };
        let entry = match engine.entry_there(self.site, held)? {
            Ok(entry) => Some(entry),
            Err(Unopened::Locked) => None,
            Err(Unopened::Damaged(reason)) => return damaged(reason, false, held.folder()),
        };
        let mut ciphertext_only = entry.is_none();
        let Share { before: mut done, total } = share;
        for (name, it) in &held.databases {
            control.tell(Progress { database: name, done, total });
            done = done.saturating_add(it.object.size);
            let plain = entry.as_ref().and_then(|entry: &ReplicaEntry| {
                let recipients = entry.recipients.get(name).map_or(&[][..], Vec::as_slice);
                entry.backup.databases.get(name).filter(|_| engine.config.codec.opens(it.form, recipients))
            });
            let key = held.folder().database(name, it.form, it.ltx.is_some());
            let mut tick = || Ok(control.check()?);
            let wrong = match (it.ltx, plain) {
                (Some(_), Some(copy)) => match self.rebuilt(held, name, copy, found, control)? {
                    Rebuilt::Whole => None,
                    Rebuilt::Wrong(reason, culprit) => Some((reason, culprit)),
                    Rebuilt::Locked => {
                        ciphertext_only = true;
                        self.stored(held, name, found, &mut tick)?
                    }
                },
                (Some(_), None) => self.stored(held, name, found, &mut tick)?,
                (None, plain) => {
                    let reason = engine.read_there(&self.site.link, &key, it.form, &it.object, plain, &mut tick)?;
                    reason.map(|reason| (reason, held.folder()))
                }
            };
            if let Some((reason, culprit)) = wrong {
                return damaged(reason, ciphertext_only, culprit);
            }
        }
        Ok((BackupVerdict { ok: true, reason: None, ciphertext_only }, None))
    }

    /// A database from its segments, compared with what was sent.
    fn rebuilt(
        &mut self,
        held: &Held,
        name: &DatabaseName,
        copy: &DatabaseCopy,
        found: &mut Findings,
        control: &Control,
    ) -> Result<Rebuilt, Error> {
        if self.folder.is_none() {
            self.folder = Some(Room::make(self.engine.store.root())?);
        }
        let rebuilder = match (self.rebuilders.entry(name.clone()), &self.folder) {
            (Slot::Occupied(slot), _) => slot.into_mut(),
            (Slot::Vacant(slot), Some(folder)) => {
                slot.insert(Rebuilder::new(self.engine, &self.site.link, self.chains, name, folder.staging.path())?)
            }
            (Slot::Vacant(_), None) => return Ok(Rebuilt::Locked),
        };
        rebuilder.assert_room(copy.size)?;
        let whole = |origin| found.whole.extend([origin]);
        match rebuilder.reach((held.origin, held.id), control, whole)? {
            Ok(()) => {}
            Err(Broken { unfit: Unfit::Locked, .. }) => return Ok(Rebuilt::Locked),
            Err(Broken { origin, unfit: Unfit::Damaged(reason) }) => {
                return Ok(Rebuilt::Wrong(reason, self.chains.folder(origin).unwrap_or(held.folder())));
            }
        }
        let (file, path) = rebuilder.file();
        Ok(match read_back(file, path, control)?.checksum == copy.checksum {
            true => Rebuilt::Whole,
            false => {
                let reason = format!("the segments of {name} lead to another database than was sent");
                Rebuilt::Wrong(reason, held.folder())
            }
        })
    }

    /// The segments of a database as they lie.
    fn stored(
        &self,
        held: &Held,
        name: &DatabaseName,
        found: &mut Findings,
        tick: Tick<'_>,
    ) -> Result<Option<(String, Folder)>, Error> {
        let Some(steps) = self.chains.steps(held.origin, name) else {
            return Ok(Some((format!("{name} stands on what isn't there"), held.folder())));
        };
        for step in steps {
            if found.damaged.contains(&step.origin) {
                return Ok(Some((format!("{name} stands on what is damaged there"), step.folder)));
            }
            let key = step.folder.database(name, step.held.form, true);
            if !found.read.insert(key.clone()) {
                continue;
            }
            let (form, object) = (step.held.form, &step.held.object);
            if let Some(reason) = self.engine.read_there(&self.site.link, &key, form, object, None, tick)? {
                return Ok(Some((reason, step.folder)));
            }
            found.whole.insert(step.origin);
        }
        Ok(None)
    }
}

/// A private folder; where there is no backup directory yet, one goes with it.
struct Room {
    staging: Staging,
    _made: Option<Made>,
}

/// A backup directory that was made for a look, and goes if nothing else has come.
struct Made(PathBuf);

impl Room {
    fn make(root: &Path) -> Result<Self, Error> {
        let made = (!root.exists()).then(|| Made(root.to_owned()));
        disk::make_dirs(root)?;
        Ok(Self { staging: Staging::create(root)?, _made: made })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        disk::remove_empty_dir(&self.0);
    }
}

/// What came of a database.
enum Rebuilt {
    Whole,
    Locked,
    Wrong(String, Folder),
}

/// Why an entry wasn't opened.
pub(super) enum Unopened {
    /// An identity is missing.
    Locked,
    /// It isn't what was written.
    Damaged(String),
}
