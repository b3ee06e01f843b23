//! Reading a replica back: every byte of every object [P8].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::site::Site;
use super::state::State;
use super::{Elsewhere, JournalVerdict};
use crate::backup::BackupId;
use crate::backup::replica::{Held, Origin, ReplicaEntry};
use crate::engine::read::Share;
use crate::engine::{Call, Engine, Error};
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

/// What is worth remembering of it.
#[derive(Default)]
struct Findings {
    whole: BTreeSet<Origin>,
    damaged: BTreeSet<Origin>,
    packs: BTreeSet<String>,
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
        for held in chosen {
            let verdict = self.verdict(&site, held, share, &call.control)?;
            share.before = share.before.saturating_add(held.size());
            // What rotation has dropped meanwhile, or what was sent again, is no damage.
            if !verdict.ok
                && !Site::look(&target, &call.control)?.backups().iter().any(|now| now.folder() == held.folder())
            {
                continue;
            }
            if verdict.ok {
                found.whole.insert(held.origin)
            } else {
                found.damaged.insert(held.origin)
            };
            backups.insert(held.id, verdict);
        }
        let journal =
            if id.is_none() { self.verify_journals(&site, &mut found.packs, &call.control) } else { Ok(None) };
        let is_whole = journal.as_ref().is_ok_and(|journal| journal.as_ref().is_none_or(|journal| journal.ok));
        if let Elsewhere::Name(_) = from {
            self.remember(from, id.is_none() && is_whole, &found, call);
        }
        let journal = journal?;
        Ok(ReplicaVerification { ok: found.damaged.is_empty() && is_whole, backups, journal })
    }

    fn verdict(&self, site: &Site, held: &Held, share: Share, control: &Control) -> Result<BackupVerdict, Error> {
        let damaged = |reason, ciphertext_only| Ok(BackupVerdict { ok: false, reason: Some(reason), ciphertext_only });
        let entry = match self.entry_there(site, held)? {
            Ok(entry) => Some(entry),
            Err(Unopened::Locked) => None,
            Err(Unopened::Damaged(reason)) => return damaged(reason, false),
        };
        let ciphertext_only = entry.is_none();
        let Share { before: mut done, total } = share;
        for (name, it) in &held.databases {
            control.tell(Progress { database: name, done, total });
            done = done.saturating_add(it.object.size);
            let key = held.folder().database(name, it.form);
            let plain = entry.as_ref().and_then(|entry: &ReplicaEntry| {
                let recipients = entry.recipients.get(name).map_or(&[][..], Vec::as_slice);
                entry.backup.databases.get(name).filter(|_| self.config.codec.opens(it.form, recipients))
            });
            let mut tick = || Ok(control.check()?);
            if let Some(reason) = self.read_there(&site.link, &key, it.form, &it.object, plain, &mut tick)? {
                return damaged(reason, ciphertext_only);
            }
        }
        Ok(BackupVerdict { ok: true, reason: None, ciphertext_only })
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
            state.damaged_packs.extend(found.packs.iter().cloned());
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

/// Why an entry wasn't opened.
pub(super) enum Unopened {
    /// An identity is missing.
    Locked,
    /// It isn't what was written.
    Damaged(String),
}
