//! A replication of one replica. The order of steps is in `replica`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::site::{Site, Writable};
use super::state::{FOLDER, State};
use super::{Elsewhere, details, ids};
use crate::audit::{Entry, Kind};
use crate::backup::replica::{self, BACKUPS, Held, Origin, Plan, Sending, Wishes, is_ours, is_sendable, plan};
use crate::backup::retention::Retention;
use crate::backup::{Backup, BackupId, ReplicaName, hex};
use crate::catalog::Catalog;
use crate::disk;
use crate::engine::permit::{Holder, Permit, Refusal};
use crate::engine::{Call, Engine, Error, entry, failure};
use crate::sqlite;

/// What it is called in the audit log.
pub(in crate::engine) const REPLICATE: &str = "replicate";
/// Between two looks at a replica that lacks nothing: does it still hold what its catalog says?
const LOOK_AGAIN: chrono::TimeDelta = chrono::TimeDelta::hours(24);

/// What a replication did.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replicated {
    /// Sent, and read back from there.
    pub sent: Vec<BackupId>,
    /// Dropped there.
    pub dropped: Vec<BackupId>,
    /// Leftovers of something that was cut short, removed.
    pub removed: Vec<String>,
    /// Objects that were gone or had another length: what they belong to is sent again.
    pub lost: Vec<String>,
    /// Bytes sent.
    pub bytes: u64,
    /// What could not be sent, and why; the others were.
    pub not_sent: Vec<NotSent>,
}

/// A backup that could not be sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NotSent {
    /// Which.
    pub id: BackupId,
    /// Why.
    pub reason: String,
}

impl Replicated {
    fn details(&self, name: &ReplicaName) -> Map<String, Value> {
        let mut told = details([
            ("replica", name.to_string().into()),
            ("sent", ids(&self.sent)),
            ("dropped", ids(&self.dropped)),
            ("bytes", self.bytes.into()),
        ]);
        for (key, list) in [("removed", &self.removed), ("lost", &self.lost)] {
            if !list.is_empty() {
                // Anyone who can write there can make it long.
                told.insert(key.to_owned(), list.iter().take(100).cloned().collect::<Vec<_>>().into());
            }
        }
        told
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What is here, and what is wanted there.
struct Wanted {
    catalog: std::sync::Arc<Catalog>,
    retention: Retention,
    own: bool,
    freeze: Option<String>,
    digest: String,
}

impl Engine {
    /// The replicas that are configured.
    pub fn replica_names(&self) -> impl Iterator<Item = &ReplicaName> {
        self.config.replicas.keys()
    }

    /// Whether a replica is to be looked at now: something has changed here since all was done, or nobody has looked for a day; and
    /// it isn't to be left alone after a failure.
    pub fn replication_is_due(&self, name: &ReplicaName) -> Result<bool, Error> {
        let now = self.clock.now();
        let (Some(replica), Some(wanted)) = (self.config.replicas.get(name), self.wanted(name)?) else {
            return Ok(false);
        };
        let state = State::load(self.store.root(), name, replica.place.url())?;
        let looked = state.last_success.is_some_and(|at| (now - at).abs() < LOOK_AGAIN);
        Ok(!state.waits(now) && (state.done != wanted.digest || !state.damaged.is_empty() || !looked))
    }

    /// Nothing where no backup directory is yet.
    fn wanted(&self, name: &ReplicaName) -> Result<Option<Wanted>, Error> {
        let Some(catalog) = self.standing_catalog()? else { return Ok(None) };
        let replica = self.config.replicas.get(name).ok_or_else(|| self.unknown(name))?;
        let settings = self.settings()?;
        let retention = replica.retention.over(&settings.retention);
        let own = !replica.retention.is_empty();
        let freeze = self.freeze()?.filter(|_| own);
        let here: Vec<_> = catalog
            .standing()
            .map(|backup| {
                (backup.sequence, backup.timestamp, backup.id, backup.pinned, &backup.flags, is_sendable(backup))
            })
            .collect();
        let text = serde_json::to_vec(&(&here, retention, own, &freeze, replica.place.url())).unwrap_or_default();
        let digest = hex(&Sha256::digest(&text));
        Ok(Some(Wanted { catalog, retention, own, freeze, digest }))
    }

    /// Brings a replica to what it is to hold. `take_over` says that another directory that wrote there does so no more.
    pub fn replicate(&self, name: &ReplicaName, take_over: bool, call: &Call) -> Result<Replicated, Error> {
        let target = self.target(&Elsewhere::Name(name.clone()))?;
        let Some(wanted) = self.wanted(name)? else { return Ok(Replicated::default()) };
        let _permit = self.replica_permit(name, call)?;
        let mut state = State::load(self.store.root(), name, target.place.url())?;
        state.writer()?;
        let done = Site::look(&target, &call.control)
            .and_then(|site| Writable::of(self, name, site, state.clone(), &wanted.catalog.store_id, take_over))
            .and_then(|mut there| {
                let done = there.replicate(&wanted, take_over, call);
                there.let_go();
                state = there.state;
                done
            });
        let now = self.clock.now();
        match &done {
            Ok(done) => match done.not_sent.first() {
                None => state.succeeded(now),
                Some(NotSent { id, reason }) => {
                    let reason = format!(
                        "{id} could not be sent to the replica {}, what else was wanted was: {reason}",
                        target.label
                    );
                    state.failed(now, &Error::NotSent { reason }, chance()?);
                }
            },
            // That it was to stop is no failure of the replica.
            Err(Error::Sqlite(sqlite::Error::Cancelled)) => {}
            Err(error) => state.failed(now, error, chance()?),
        }
        state.save(self.store.root(), name)?;
        done
    }

    /// One process at a time has to do with a replica's state.
    pub(super) fn replica_permit(&self, name: &ReplicaName, call: &Call) -> Result<Permit, Error> {
        let folder = self.store.root().join(FOLDER);
        disk::make_own_dir(&folder)?;
        let holder = Holder::new(REPLICATE, &call.actor.by, self.clock.now());
        let taken = Permit::take(&folder, &format!(".{name}"), holder, call.wait, &|| call.control.is_cancelled());
        taken.map_err(|refusal| match refusal {
            Refusal::Held(holder) => Error::Held(holder),
            Refusal::Cancelled => sqlite::Error::Cancelled.into(),
            Refusal::Disk(error) => error.into(),
        })
    }
}

fn chance() -> Result<u8, Error> {
    let [chance] = disk::random::<1>()?;
    Ok(chance)
}

impl Writable<'_> {
    fn replicate(&mut self, wanted: &Wanted, take_over: bool, call: &Call) -> Result<Replicated, Error> {
        let mut done = Replicated { lost: self.look_for_lost()?, ..Replicated::default() };
        let plan = self.plan(wanted);
        let orphans = self.orphans()?;
        if !(plan.is_empty() && orphans.is_empty() && done.is_nothing()) || self.is_others {
            self.hold(take_over)?;
            self.audited(&plan, &orphans, call, &mut done)?;
        }
        if done.not_sent.is_empty() {
            let here = wanted.catalog.standing().filter(|backup| is_sendable(backup)).map(Origin::of);
            (self.state.known, self.state.done) = (here.collect(), wanted.digest.clone());
            self.state.damaged.clear();
        }
        Ok(done)
    }

    fn plan(&self, wanted: &Wanted) -> Plan {
        let Wanted { retention, own, freeze, catalog, .. } = wanted;
        let mut there = self.backups().to_vec();
        for held in &mut there {
            held.damaged |= self.state.damaged.contains(&held.origin);
        }
        let wishes = Wishes { retention, own: *own, known: &self.state.known, freeze: freeze.as_deref() };
        plan(&catalog.backups, &there, wishes)
    }

    /// Objects that the catalog names and that are not there, or not as long: what they belong to is damaged.
    fn look_for_lost(&mut self) -> Result<Vec<String>, Error> {
        let listed = self.site.at(self.site.remote.list(BACKUPS))?;
        let sizes: BTreeMap<String, u64> = listed.into_iter().map(|listed| (listed.key, listed.size)).collect();
        let mut lost = Vec::new();
        for held in self.site.catalog.iter().flat_map(|catalog| &catalog.backups).filter(|held| !held.damaged) {
            let is_there = |key: &str, object: &replica::Object| {
                let parts: Option<Vec<u64>> = object.keys(key).iter().map(|key| sizes.get(key).copied()).collect();
                parts.is_some_and(|parts| parts.into_iter().fold(0, u64::saturating_add) == object.size)
            };
            let gone: Vec<_> =
                held.objects().filter(|(key, object)| !is_there(key, object)).map(|(key, _)| key).collect();
            if !gone.is_empty() {
                self.state.damaged.insert(held.origin);
                lost.extend(gone);
            }
        }
        Ok(lost)
    }

    /// Objects of ours that no backup names.
    fn orphans(&self) -> Result<Vec<String>, Error> {
        let named: BTreeSet<String> = self.backups().iter().flat_map(Held::keys).collect();
        let listed = self.site.at(self.site.remote.list(BACKUPS))?;
        Ok(listed.into_iter().map(|listed| listed.key).filter(|key| is_ours(key) && !named.contains(key)).collect())
    }

    /// Steps 3 to 7.
    fn audited(&mut self, plan: &Plan, orphans: &[String], call: &Call, done: &mut Replicated) -> Result<(), Error> {
        let engine = self.engine;
        let planned = details([
            ("replica", self.name.to_string().into()),
            ("send", ids(&plan.send.iter().map(|sending| sending.id).collect::<Vec<_>>())),
            ("drop", ids(&self.ids_of(plan))),
        ]);
        let intent = Entry { details: planned, ..entry(Kind::Intent, REPLICATE, &call.actor, None) };
        // What leaves this machine, and what is deleted, isn't done unrecorded.
        engine.audit.append(engine.clock.now(), intent)?;
        let result = self.carry_out(plan, orphans, call, done);
        let outcome = Entry { details: done.details(&self.name), ..entry(Kind::Outcome, REPLICATE, &call.actor, None) };
        let outcome = match (&result, done.not_sent.first()) {
            (Ok(()), None) => Entry { ok: Some(true), ..outcome },
            (Ok(()), Some(not)) => {
                failure(Entry { ok: Some(false), ..outcome }, &Error::NotSent { reason: not.reason.clone() })
            }
            (Err(error), _) => failure(Entry { ok: Some(false), ..outcome }, error),
        };
        if let Err(error) = engine.audit.append(engine.clock.now(), outcome) {
            tracing::warn!(%error, operation = REPLICATE, "going on without an audit line");
        }
        result
    }

    fn ids_of(&self, plan: &Plan) -> Vec<BackupId> {
        let id = |origin: &Origin| self.backups().iter().find(|held| held.origin == *origin).map(|held| held.id);
        plan.drop.iter().filter_map(|(origin, _)| id(origin)).collect()
    }

    fn carry_out(&mut self, plan: &Plan, orphans: &[String], call: &Call, done: &mut Replicated) -> Result<(), Error> {
        for sending in &plan.send {
            match self.sent(sending, call) {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    done.sent.push(sending.id);
                    done.bytes += bytes;
                }
                // What is wrong with a backup here is in no other's way.
                Err(error) if is_of_one(&error) => {
                    tracing::error!(code = error.code(), replica = %self.name, id = %sending.id, "{error}");
                    done.not_sent.push(NotSent { id: sending.id, reason: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
        self.amend(plan, done)?;
        let named: BTreeSet<String> = self.backups().iter().flat_map(Held::keys).collect();
        for orphan in orphans.iter().filter(|key| !named.contains(*key)) {
            call.control.check()?;
            self.hold(false)?;
            self.site.at(self.site.remote.delete(orphan))?;
            done.removed.push(orphan.clone());
        }
        Ok(())
    }

    /// Step 4 for one backup.
    fn sent(&mut self, sending: &Sending, call: &Call) -> Result<Option<u64>, Error> {
        let Some(held) = self.send(sending, &call.control)? else { return Ok(None) };
        let (bytes, origin) = (held.size(), held.origin);
        let mut backups: Vec<Held> = self.backups().iter().filter(|other| other.origin != origin).cloned().collect();
        name_apart(&mut backups, &held);
        backups.push(held);
        self.write(backups)?;
        self.state.damaged.remove(&origin);
        tracing::debug!(replica = %self.name, id = %sending.id, bytes, "sent and read back");
        Ok(Some(bytes))
    }

    /// Step 5.
    fn amend(&mut self, plan: &Plan, done: &mut Replicated) -> Result<(), Error> {
        let damaged = &self.state.damaged;
        let mut backups = self.backups().to_vec();
        for held in &mut backups {
            if let Some(amended) = plan.amend.iter().find(|amended| amended.origin == held.origin) {
                *held = amended.clone();
            }
            held.damaged |= damaged.contains(&held.origin);
        }
        // Nothing goes as long as something is missing that was to come.
        let drop: BTreeSet<Origin> = match done.not_sent.is_empty() {
            true => plan.drop.iter().map(|(origin, _)| *origin).collect(),
            false => BTreeSet::new(),
        };
        let (gone, backups): (Vec<Held>, Vec<Held>) = backups.into_iter().partition(|held| drop.contains(&held.origin));
        if backups != self.backups() || self.site.catalog.is_none() || self.is_others {
            self.write(backups)?;
        }
        for held in gone {
            done.dropped.push(held.id);
            for key in held.keys() {
                self.hold(false)?;
                self.site.at(self.site.remote.delete(&key))?;
            }
        }
        Ok(())
    }
}

/// Until the catalog is amended a backup that has its id here may be there under that of another.
fn name_apart(backups: &mut [Held], held: &Held) {
    let taken: BTreeSet<BackupId> = backups.iter().map(|other| other.id).collect();
    for other in backups.iter_mut().filter(|other| other.id == held.id) {
        other.id = crate::backup::retention::free_id(other.id, |id| taken.contains(id));
    }
}

/// Of a backup here, and not of the replica.
fn is_of_one(error: &Error) -> bool {
    matches!(error, Error::Damaged { .. } | Error::Disk(_) | Error::NotFound(_))
}

/// What is still to be sent, of what is here.
pub(super) fn pending<'a>(here: impl Iterator<Item = &'a Backup>, state: &State, own: bool) -> Vec<&'a Backup> {
    let lacks = |backup: &&Backup| {
        let origin = Origin::of(backup);
        let dropped = own && state.known.contains(&origin);
        is_sendable(backup) && (!state.held.contains(&origin) && !dropped || state.damaged.contains(&origin))
    };
    here.filter(lacks).collect()
}
