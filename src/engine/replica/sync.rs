//! A replication of one replica. The order of steps is in `replica`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::carry::is_full;
use super::done::Replicated;
use super::site::{Site, is_listed};
use super::state::{FOLDER, State};
use super::writable::Writable;
use super::{Elsewhere, details, ids};
use crate::audit::{Entry, Kind};
use crate::backup::replica::{BACKUPS, Chains, Held, Origin, Plan, Wishes, is_ours, is_sendable, plan, step_aside};
use crate::backup::retention::Retention;
use crate::backup::{Backup, BackupId, ReplicaName, hex};
use crate::catalog::Catalog;
use crate::disk;
use crate::engine::permit::{Holder, Permit, Refusal};
use crate::engine::record::{SECONDS, seconds};
use crate::engine::{Call, Engine, Error, entry, failure};
use crate::remote::Contents;
use crate::sqlite;

/// What it is called in the audit log.
pub(in crate::engine) const REPLICATE: &str = "replicate";
/// Between two looks at a replica that lacks nothing: does it still hold what its catalog says?
const LOOK_AGAIN: chrono::TimeDelta = chrono::TimeDelta::hours(24);

/// What is here, and what is wanted there.
pub(super) struct Wanted {
    catalog: Arc<Catalog>,
    retention: Retention,
    encrypts: bool,
    freeze: Option<String>,
    digest: String,
}

impl Wanted {
    /// Those that a replica is to have.
    fn here(&self) -> BTreeSet<Origin> {
        self.catalog.standing().filter(|backup| is_sendable(backup)).map(Origin::of).collect()
    }

    /// What is here hasn't changed since.
    pub(super) fn is_still(&self, engine: &Engine, name: &ReplicaName) -> Result<bool, Error> {
        Ok(engine.wanted(name)?.is_some_and(|now| now.digest == self.digest))
    }
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
        let Some(replica) = self.config.replicas.get(name) else { return Ok(false) };
        let Some(wanted) = self.wanted(name)? else { return Ok(false) };
        let state = State::load(self.store.root(), name, &replica.place.identity())?;
        let looked = state.last_success.is_some_and(|at| (now - at).abs() < LOOK_AGAIN);
        let found = !state.found_damaged.is_empty()
            || !state.found_whole.is_empty()
            || state.wants_journal(|| self.lacks_lineage(&state).unwrap_or(false), now);
        Ok(!state.waits(now) && (state.done != wanted.digest || found || !looked))
    }

    /// Nothing where no backup directory is yet.
    fn wanted(&self, name: &ReplicaName) -> Result<Option<Wanted>, Error> {
        let Some(catalog) = self.standing_catalog()? else { return Ok(None) };
        let replica = self.config.replicas.get(name).ok_or_else(|| self.unknown(name))?;
        let retention = replica.retention.over(&self.settings()?.retention);
        let (own, encrypts) = (!replica.retention.is_empty(), !self.config.codec.recipients.is_empty());
        let freeze = self.freeze()?;
        let here: Vec<_> =
            catalog.standing().map(|it| (Origin::of(it), it.id, it.pinned, &it.flags, is_sendable(it))).collect();
        // The last says that numbers of its own stand there, which earlier programs didn't write.
        let how = (replica.place.identity(), replica.mode, own.then_some("kept"));
        let heeded = freeze.as_ref().filter(|_| own);
        let wanted = (&here, &catalog.lineage, retention, own, encrypts, heeded, how);
        let digest = hex(&Sha256::digest(serde_json::to_vec(&wanted).unwrap_or_default()));
        Ok(Some(Wanted { catalog, retention, encrypts, freeze, digest }))
    }

    /// Brings a replica to what it is to hold. `take_over` says that another directory that wrote there does so no more.
    pub fn replicate(&self, name: &ReplicaName, take_over: bool, call: &Call) -> Result<Replicated, Error> {
        let target = self.target(&Elsewhere::Name(name.clone()))?;
        let nothing = || Error::NothingToSend { root: self.store.root().to_owned() };
        self.standing_catalog()?.ok_or_else(nothing)?;
        let _permit = self.replica_permit(name, call)?;
        // Only now: what is here by the time of the permit counts, since what was sent meanwhile is remembered.
        let wanted = self.wanted(name)?.ok_or_else(nothing)?;
        let mut state = State::load(self.store.root(), name, &target.place.identity())?;
        state.writer(self.store.root())?;
        // What can't be remembered isn't begun: it would be begun again and again.
        state.save(self.store.root(), name)?;
        let done = Site::look(&target, &call.control)
            .and_then(|site| Writable::of(self, name, site, state.clone(), &wanted.catalog.store_id, take_over))
            .and_then(|mut there| {
                let counted = self.count_on(there.site.catalog.as_ref(), call);
                let done = counted.and_then(|()| there.replicate_all(wanted, take_over, call));
                there.let_go();
                self.verify_doubted(&there.doubted, call);
                state = there.state;
                done
            });
        let now = self.clock.now();
        match &done {
            Ok(done) => match done.not_sent.first() {
                None => state.succeeded(now),
                Some(not) => state.failed(now, &not.error(name), chance()?),
            },
            // That it was to stop is no failure of the replica.
            Err(Error::Sqlite(sqlite::Error::Cancelled)) => {}
            Err(error) => state.failed(now, error, chance()?),
        }
        state.save(self.store.root(), name)?;
        done
    }

    /// What reads badly is found out by every other reader from now on.
    fn verify_doubted(&self, doubted: &BTreeSet<BackupId>, call: &Call) {
        for id in doubted {
            if let Err(error) = self.verify(id, call) {
                tracing::warn!(%error, %id, "what was found is not recorded");
            }
        }
    }

    /// One process at a time has to do with a replica's state.
    pub(super) fn replica_permit(&self, name: &ReplicaName, call: &Call) -> Result<Permit, Error> {
        let folder = self.store.root().join(FOLDER);
        disk::make_own_dir(&folder)?;
        let holder = Holder::new(REPLICATE, &call.actor.by, self.clock.now());
        let taken = Permit::take(&folder, &lock(name), holder, call.wait, &|| call.control.is_cancelled());
        taken.map_err(|refusal| match refusal {
            Refusal::Held(holder) => Error::ReplicaBusy { name: name.clone(), holder },
            Refusal::Cancelled => sqlite::Error::Cancelled.into(),
            Refusal::Disk(error) => error.into(),
        })
    }

    /// Who has to do with it just now.
    pub(super) fn replicating(&self, name: &ReplicaName) -> Option<Holder> {
        Holder::read(&self.store.root().join(FOLDER), &lock(name), self.clock.now())
    }
}

fn lock(name: &ReplicaName) -> String {
    format!(".{name}")
}

pub(super) fn chance() -> Result<u8, Error> {
    let [chance] = disk::random::<1>()?;
    Ok(chance)
}

impl Writable<'_> {
    /// Until what is here has stayed as it was planned.
    fn replicate_all(&mut self, mut wanted: Wanted, take_over: bool, call: &Call) -> Result<Replicated, Error> {
        let mut done = self.replicate(&wanted, take_over, call)?;
        while done.is_overtaken {
            call.control.check()?;
            // Nothing is here any more: what is there stays.
            let Some(now) = self.engine.wanted(&self.name)? else { break };
            wanted = now;
            done = done.and(self.replicate(&wanted, false, call)?);
        }
        Ok(done)
    }

    fn replicate(&mut self, wanted: &Wanted, take_over: bool, call: &Call) -> Result<Replicated, Error> {
        let Contents { objects, folders } = self.site.link.at(self.site.link.remote.contents(BACKUPS))?;
        let listed: BTreeMap<String, u64> = objects.into_iter().map(|listed| (listed.key, listed.size)).collect();
        let mut done = Replicated { lost: self.look_for_lost(&listed)?, ..Replicated::default() };
        let here = wanted.here();
        let both = self.site.backups().iter().map(|held| held.origin).filter(|origin| here.contains(origin));
        self.state.was_here(both, wanted.catalog.lineage.as_deref());
        let numbers = self.numbers(wanted)?;
        let plan = self.plan(wanted, &numbers);
        let orphans = self.orphans(listed.into_keys());
        self.see_to_journals()?;
        let is_marked = self.marked(&plan.amend) == self.site.backups()
            && self.remnants() == self.site.remnants()
            && self.journals == self.site.journals()
            && !self.keeps_others()?;
        let is_all = plan.is_empty() && orphans.is_empty() && is_marked && !self.has_run()?;
        if !is_all || self.is_others {
            // Whatever ends it from here on, it is looked at again.
            self.state.done.clear();
            self.save()?;
            self.hold(take_over)?;
            // What was seen before the lease was had may be another's doing since.
            self.assert_unchanged()?;
            let result = self.audited(wanted, &plan, &orphans, take_over, call, &mut done);
            if result.as_ref().err().is_none_or(is_full) {
                self.sweep(&folders, &call.control);
            }
            result?;
        }
        self.thin_catalogs()?;
        self.take_back()?;
        // What can't be had from there though it is whole here is to be sent again.
        let is_sound = self.site.chains().unsound().is_disjoint(&here);
        if done.is_all() && is_sound {
            self.state.is_done(here, wanted.catalog.lineage.as_deref(), numbers.0, &wanted.digest);
        }
        // What could be sent again has been, and the catalog there says what is damaged still; what was found since is told next time.
        if self.marked(&[]) == self.site.backups() && self.remnants() == self.site.remnants() {
            self.state.found_is_told();
        }
        Ok(done)
    }

    /// How many backups are kept there, and whether these are numbers of its own. A command that was given none of those goes by what the
    /// last one had, or `serve`: else an archive would lose what is nowhere else.
    fn numbers(&self, wanted: &Wanted) -> Result<(Retention, bool), Error> {
        Ok(self.kept()?.map_or((wanted.retention, false), |kept| (kept, true)))
    }

    fn plan(&self, wanted: &Wanted, (retention, own): &(Retention, bool)) -> Plan {
        let Wanted { encrypts, freeze, catalog, .. } = wanted;
        let lineage = catalog.lineage.as_deref();
        let known = if *own { self.state.decided(lineage, retention) } else { self.state.known(lineage) };
        let freeze = freeze.as_deref().filter(|_| *own);
        let wishes = Wishes { retention, own: *own, encrypts: *encrypts, known: &known, freeze };
        let mut there = self.marked(&[]);
        // What stands on something damaged can't be had either.
        let unsound = Chains::of(&there, &self.remnants()).unsound();
        there.iter_mut().for_each(|held| held.damaged = unsound.contains(&held.origin));
        let mut plan = plan(&catalog.backups, &there, wishes);
        if self.is_incremental() {
            // Each stands on the one before.
            plan.send.reverse();
        }
        plan
    }

    /// What the catalog there is to say: with these amendments, and with what was found damaged, or whole after all.
    pub(super) fn marked(&self, amend: &[Held]) -> Vec<Held> {
        let State { found_damaged, found_whole, .. } = &self.state;
        let mark = |held: &Held| {
            let mut marked = amend.iter().find(|amended| amended.origin == held.origin).unwrap_or(held).clone();
            marked.damaged =
                (held.damaged && !found_whole.contains(&held.origin)) || found_damaged.contains(&held.origin);
            self.state.mark(held.origin, &mut marked.databases);
            marked
        };
        let mut marked: Vec<Held> = self.site.backups().iter().map(mark).collect();
        step_aside(&mut marked, |held| amend.iter().any(|amended| amended.origin == held.origin));
        marked
    }

    /// Objects that the catalog names and that are not there, or not as long: what they belong to is damaged.
    fn look_for_lost(&mut self, sizes: &BTreeMap<String, u64>) -> Result<Vec<String>, Error> {
        let mut lost = Vec::new();
        let Some(catalog) = &self.site.catalog else { return Ok(lost) };
        let (damaged, chains) = (catalog.damaged(), catalog.chains());
        for (origin, key, object) in catalog.objects().filter(|(_, key, _)| !damaged.contains(key)) {
            let is_seen = is_listed(&key, object, |key| sizes.get(key).copied());
            if !is_seen && !self.site.link.is_there(&key, object)? {
                self.state.found_damaged.insert(origin);
                self.state.found_databases.extend(chains.name(origin, &key).map(|name| (origin, name.clone())));
                lost.push(key);
            }
        }
        Ok(lost)
    }

    /// Objects of ours that no backup names.
    fn orphans(&self, listed: impl Iterator<Item = String>) -> Vec<String> {
        let named = self.site.named();
        listed.filter(|key| !self.keeps_leftovers && is_ours(key) && !named.contains(key)).collect()
    }

    /// Steps 3 to 7.
    fn audited(
        &mut self,
        wanted: &Wanted,
        plan: &Plan,
        orphans: &[String],
        take_over: bool,
        call: &Call,
        done: &mut Replicated,
    ) -> Result<(), Error> {
        let engine = self.engine;
        self.close_interrupted(call)?;
        let mut planned = details([
            ("replica", self.name.to_string().into()),
            ("send", ids(&plan.send.iter().map(|sending| sending.id).collect::<Vec<_>>())),
            ("drop", ids(&self.ids_of(plan).into_values().collect::<Vec<_>>())),
        ]);
        if !orphans.is_empty() {
            planned.insert("leftovers".to_owned(), orphans.len().into());
        }
        if take_over {
            planned.insert("takeOver".to_owned(), true.into());
        }
        if let Some(journal) = self.journal.as_ref().filter(|_| self.journals != self.site.journals()) {
            planned.insert("journal".to_owned(), journal.lineage.to_string().into());
        }
        let intent = Entry { details: planned, ..entry(Kind::Intent, REPLICATE, &call.actor, None) };
        // What leaves this machine, and what is deleted, isn't done unrecorded.
        engine.append_first(intent)?;
        let begun = Instant::now();
        let result = self.carry_out(wanted, plan, orphans, call, done);
        let outcome = Entry { details: done.details(&self.name), ..entry(Kind::Outcome, REPLICATE, &call.actor, None) };
        let mut outcome = match (&result, done.not_sent.first()) {
            (Ok(()), None) => Entry { ok: Some(true), ..outcome },
            (Ok(()), Some(not)) => failure(Entry { ok: Some(false), ..outcome }, &not.error(&self.name)),
            (Err(error), _) => failure(Entry { ok: Some(false), ..outcome }, error),
        };
        outcome.details.insert(SECONDS.to_owned(), seconds(begun).into());
        if let Err(error) = engine.append(outcome) {
            tracing::warn!(%error, operation = REPLICATE, "going on without an audit line");
        }
        result
    }

    /// One that was cut short has no outcome: it gets one.
    fn close_interrupted(&self, call: &Call) -> Result<(), Error> {
        let (engine, ours) = (self.engine, Some(self.name.to_string().into()));
        let mut open = false;
        engine.audit.newest_first(|line| {
            let is_ours = line.entry.operation == REPLICATE && line.entry.details.get("replica") == ours.as_ref();
            open |= is_ours && line.entry.kind == Kind::Intent;
            is_ours
        })?;
        if open {
            let outcome = Entry {
                ok: Some(false),
                code: Some("interrupted".to_owned()),
                reason: Some("the program was ended before this was done; what is lacking is sent now".to_owned()),
                details: details([("replica", self.name.to_string().into())]),
                ..entry(Kind::Outcome, REPLICATE, &call.actor, None)
            };
            engine.append(outcome)?;
        }
        Ok(())
    }

    pub(super) fn ids_of(&self, plan: &Plan) -> BTreeMap<Origin, BackupId> {
        let id = |origin: &Origin| self.site.backups().iter().find(|held| held.origin == *origin).map(|held| held.id);
        plan.drop.iter().filter_map(|(origin, _)| Some((*origin, id(origin)?))).collect()
    }
}

/// What is still to be sent, of what is here.
pub(super) fn pending<'a>(
    here: impl Iterator<Item = &'a Backup>,
    state: &State,
    decided: &BTreeSet<Origin>,
) -> Vec<&'a Backup> {
    let lacks = |backup: &&Backup| {
        let origin = Origin::of(backup);
        let is_missing = !state.held.contains(&origin) && !decided.contains(&origin);
        is_sendable(backup) && (is_missing || state.found_damaged.contains(&origin))
    };
    here.filter(lacks).collect()
}
