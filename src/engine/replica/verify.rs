//! Reading a replica back: every byte of every object [P8].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use super::passing::Tick;
use super::rebuild::{Broken, Unfit};
use super::rebuilders::Rebuilders;
use super::site::Site;
use super::state::State;
use super::{Elsewhere, JournalVerdict};
use crate::backup::replica::{Chains, Held, Origin, ReplicaCatalog, ReplicaEntry};
use crate::backup::{BackupId, DatabaseCopy, DatabaseName};
use crate::engine::read::Share;
use crate::engine::{Call, Engine, Error};
use crate::sqlite::pages::read_back;
use crate::sqlite::{Control, Progress};

/// How long what was found waits for a replication under way before it goes unremembered.
const REMEMBER_WAIT: Duration = Duration::from_secs(10);
/// So many damaged packs of the journal are remembered of each reading.
const MOST_PACKS: usize = 1000;
/// How often a backup is read whose objects are replaced meanwhile.
const READINGS: usize = 3;

/// What was found when a replica was read back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct ReplicaVerification {
    /// All of it is as recorded.
    pub ok: bool,
    /// Each backup.
    pub backups: BTreeMap<BackupId, BackupVerdict>,
    /// The journal; nothing where none lies there, or one backup was asked for.
    #[schema(required = true)]
    pub journal: Option<JournalVerdict>,
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

/// What is worth remembering of it, by the keys of objects.
#[derive(Default)]
struct Findings {
    /// They are as recorded.
    whole: BTreeSet<String>,
    /// They aren't, and whose they are.
    damaged: BTreeMap<String, Culprit>,
    /// Packs of the journal that aren't, if it was read.
    packs: Option<BTreeSet<String>>,
    /// Of some only the ciphertext was compared: those that aren't among these may be damaged all the same.
    packs_locked: bool,
}

impl Findings {
    /// Backups and remnants whose objects were all read, each as recorded.
    fn whole_of(&self, there: &ReplicaCatalog) -> BTreeSet<Origin> {
        let (mut read, mut others) = (BTreeSet::new(), BTreeSet::new());
        for (origin, key, _) in there.objects() {
            let is_whole = self.whole.contains(&key) && !self.damaged.contains_key(&key);
            if is_whole {
                read.insert(origin)
            } else {
                others.insert(origin)
            };
        }
        read.difference(&others).copied().collect()
    }

    /// What is damaged of what is there still: what was sent again meanwhile lies elsewhere.
    fn damaged_of(&self, there: &ReplicaCatalog) -> BTreeSet<Origin> {
        let damaged = there.objects().filter_map(|(_, key, _)| self.damaged.get(&key));
        damaged.map(|culprit| culprit.origin).collect()
    }
}

/// The object that is to blame.
#[derive(Clone)]
struct Culprit {
    key: String,
    origin: Origin,
}

impl Culprit {
    fn is_named(&self, site: &Site) -> bool {
        let mut objects = site.catalog.iter().flat_map(ReplicaCatalog::objects);
        objects.any(|(_, key, _)| key == self.key)
    }
}

/// Backups whose objects went while they were read.
type Moved = BTreeSet<Origin>;

impl Engine {
    /// Reads a replica back, or one backup of it. What is found damaged is remembered, and sent again with the next replication.
    pub fn verify_replica(
        &self,
        from: &Elsewhere,
        id: Option<BackupId>,
        call: &Call,
    ) -> Result<ReplicaVerification, Error> {
        let begun = Instant::now();
        let verified = self.replica_verified(from, id, call);
        self.tell_read("verify-replica", id.map(Into::into), call, begun, &verified, |found| {
            (!found.ok).then(|| ("replica-damaged", "not every byte there is as it was sent".to_owned()))
        });
        verified
    }

    fn replica_verified(
        &self,
        from: &Elsewhere,
        id: Option<BackupId>,
        call: &Call,
    ) -> Result<ReplicaVerification, Error> {
        let target = self.target(from)?;
        let look = || Site::look(&target, &call.control);
        let (mut found, mut backups, mut site) = (Findings::default(), BTreeMap::new(), look()?);
        let is_chosen = |held: &&Held| id.is_none_or(|id| held.id == id);
        let mut left: Moved = site.catalog()?.backups.iter().filter(is_chosen).map(|held| held.origin).collect();
        for _ in 0..READINGS {
            left = self.read_through(&site, &left, &mut backups, &mut found, &look, &call.control)?;
            if left.is_empty() {
                break;
            }
            site = look()?;
            // What rotation has dropped isn't asked for any more.
            left.retain(|origin| site.backups().iter().any(|held| held.origin == *origin));
        }
        for held in site.backups().iter().filter(|held| left.contains(&held.origin)) {
            let reason = Some("its objects were replaced each time that it was read; verify it again".to_owned());
            backups.insert(held.id, BackupVerdict { ok: false, reason, ciphertext_only: false });
        }
        if let (Some(id), true) = (id, backups.is_empty()) {
            return Err(Error::NotFound(id));
        }
        let journal = match id {
            None => self.verify_journals(&site, found.packs.get_or_insert_default(), &call.control),
            Some(_) => Ok(None),
        };
        if let Ok(Some(JournalVerdict { ciphertext_only: true, .. })) | Err(_) = &journal {
            found.packs_locked = true;
        }
        let is_whole = journal.as_ref().is_ok_and(|journal| journal.as_ref().is_none_or(|journal| journal.ok));
        self.remember(from, id.is_none() && left.is_empty() && is_whole, &found, &site, call);
        let journal = journal?;
        let ok = backups.values().all(|verdict| verdict.ok) && is_whole;
        Ok(ReplicaVerification { ok, backups, journal })
    }

    /// What is found of these, but for those whose objects the replica doesn't name any more when they turn out to be another's: these
    /// were dropped, or sent again, or stand on something else by now, which is no damage.
    fn read_through(
        &self,
        site: &Site,
        wanted: &Moved,
        backups: &mut BTreeMap<BackupId, BackupVerdict>,
        found: &mut Findings,
        look: &dyn Fn() -> Result<Site, Error>,
        control: &Control,
    ) -> Result<Moved, Error> {
        let chosen: Vec<&Held> = site.backups().iter().filter(|held| wanted.contains(&held.origin)).collect();
        let total = chosen.iter().fold(0, |sum: u64, held| sum.saturating_add(held.size()));
        let (mut share, chains) = (Share { before: 0, total }, site.catalog()?.chains());
        let rebuilders = Rebuilders::new(self, &site.link, &chains);
        let mut reading = Reading { engine: self, site, chains: &chains, rebuilders };
        let (mut moved, mut gone) = (Moved::new(), BTreeSet::new());
        for held in chosen {
            let (verdict, culprit) = reading.verdict(held, share, found, control)?;
            share.before = share.before.saturating_add(held.size());
            if let Some(culprit) = culprit
                && !found.damaged.contains_key(&culprit.key)
            {
                if gone.contains(&culprit.key) || !culprit.is_named(&look()?) {
                    gone.insert(culprit.key);
                    moved.insert(held.origin);
                    continue;
                }
                found.damaged.insert(culprit.key.clone(), culprit);
            }
            backups.insert(held.id, verdict);
        }
        Ok(moved)
    }

    /// A failure to remember it is said, and changes nothing of what was found. What is no more there when nobody here can send any more is
    /// nobody's: it was replaced after it was read.
    fn remember(&self, from: &Elsewhere, all: bool, found: &Findings, site: &Site, call: &Call) {
        let Elsewhere::Name(name) = from else { return };
        // An empty folder is perhaps only where a volume isn't mounted.
        if !self.standing_catalog().is_ok_and(|catalog| catalog.is_some()) {
            return;
        }
        let call = Call { wait: call.wait.max(REMEMBER_WAIT), ..call.clone() };
        let remembered = self.replica_permit(name, &call).and_then(|_permit| {
            // Where it can't be looked at again, what was found stands.
            let again = Site::look(&site.link.target, &call.control).ok().filter(|again| again.catalog.is_some());
            let there = again.as_ref().unwrap_or(site).catalog()?;
            let (whole, damaged, chains) = (found.whole_of(there), found.damaged_of(there), there.chains());
            let of_database =
                |culprit: &Culprit| Some((culprit.origin, chains.name(culprit.origin, &culprit.key)?.clone()));
            let mut state = State::load(self.store.root(), name, &self.target(from)?.place.identity())?;
            state.found_damaged.retain(|origin| !whole.contains(origin));
            state.found_damaged.extend(&damaged);
            state.found_databases.retain(|(origin, _)| !whole.contains(origin));
            state.found_databases.extend(found.damaged.values().filter_map(of_database));
            if state.damaged > 0 {
                state.found_whole.extend(&whole);
            }
            state.found_whole.retain(|origin| !damaged.contains(origin));
            if let Some(packs) = &found.packs {
                state.damaged_packs.retain(|key| found.packs_locked || packs.contains(key));
                state.damaged_packs.extend(packs.iter().take(MOST_PACKS).cloned());
            }
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
    rebuilders: Rebuilders<'a>,
}

impl<'a> Reading<'a> {
    /// What is found of one backup, and which object is to blame.
    fn verdict(
        &mut self,
        held: &'a Held,
        share: Share,
        found: &mut Findings,
        control: &Control,
    ) -> Result<(BackupVerdict, Option<Culprit>), Error> {
        let engine = self.engine;
        let damaged = |reason, ciphertext_only, culprit| {
            Ok((BackupVerdict { ok: false, reason: Some(reason), ciphertext_only }, Some(culprit)))
        };
        let key = held.folder().entry(held.entry.encrypted);
        let entry = match engine.entry_there(self.site, held)? {
            Ok(entry) => Some(entry),
            Err(Unopened::Locked) => None,
            Err(Unopened::Damaged(reason)) => return damaged(reason, false, Culprit { key, origin: held.origin }),
        };
        found.whole.insert(key);
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
                    if reason.is_none() {
                        found.whole.insert(key.clone());
                    }
                    reason.map(|reason| (reason, Culprit { key, origin: held.origin }))
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
        let rebuilder = self.rebuilders.of(name)?;
        let whole = |key| found.whole.extend([key]);
        match rebuilder.reach((held.origin, held.id, copy.size), &mut || Ok(control.check()?), whole)? {
            Ok(()) => {}
            Err(Broken { unfit: Unfit::Locked, .. }) => return Ok(Rebuilt::Locked),
            Err(Broken { origin, unfit: Unfit::Damaged(reason) }) => {
                return Ok(Rebuilt::Wrong(reason, self.culprit(origin, name)));
            }
        }
        let (file, path) = rebuilder.file();
        Ok(match read_back(file, path, control)?.checksum == copy.checksum {
            true => Rebuilt::Whole,
            false => {
                let reason = format!("the segments of {name} lead to another database than was sent");
                Rebuilt::Wrong(reason, self.culprit(held.origin, name))
            }
        })
    }

    /// A segment by whose it is.
    fn culprit(&self, origin: Origin, name: &DatabaseName) -> Culprit {
        Culprit { key: self.chains.key(origin, name).unwrap_or_default(), origin }
    }

    /// The segments of a database as they lie.
    fn stored(
        &self,
        held: &Held,
        name: &DatabaseName,
        found: &mut Findings,
        tick: Tick<'_>,
    ) -> Result<Option<(String, Culprit)>, Error> {
        let Some(steps) = self.chains.steps(held.origin, name) else {
            let culprit = self.culprit(held.origin, name);
            return Ok(Some((format!("{name} stands on what isn't there"), culprit)));
        };
        for step in steps {
            let key = step.key(name);
            if let Some(culprit) = found.damaged.get(&key) {
                return Ok(Some((format!("{name} stands on what is damaged there"), culprit.clone())));
            }
            if found.whole.contains(&key) {
                continue;
            }
            let (form, object) = (step.held.form, &step.held.object);
            if let Some(reason) = self.engine.read_there(&self.site.link, &key, form, object, None, tick)? {
                return Ok(Some((reason, Culprit { key, origin: step.origin })));
            }
            found.whole.insert(key);
        }
        Ok(None)
    }
}

/// What came of a database.
enum Rebuilt {
    Whole,
    Locked,
    Wrong(String, Culprit),
}

/// Why an entry wasn't opened.
pub(super) enum Unopened {
    /// An identity is missing.
    Locked,
    /// It isn't what was written.
    Damaged(String),
}
