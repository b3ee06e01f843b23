//! Reading a replica back: every byte of every object [P8].

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use utoipa::ToSchema;

use super::Elsewhere;
use super::site::Site;
use super::state::State;
use crate::backup::BackupId;
use crate::backup::replica::{Held, Origin, ReplicaEntry};
use crate::engine::{Call, Engine, Error};
use crate::sqlite::{Control, Progress};

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
        let (mut backups, mut whole, mut damaged) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let chosen: Vec<&Held> =
            site.catalog()?.backups.iter().filter(|held| id.is_none_or(|id| held.id == id)).collect();
        if let (Some(id), true) = (id, chosen.is_empty()) {
            return Err(Error::NotFound(id));
        }
        for held in chosen {
            let verdict = self.verdict(&site, held, &call.control)?;
            if verdict.ok {
                whole.insert(held.origin)
            } else {
                damaged.insert(held.origin)
            };
            backups.insert(held.id, verdict);
        }
        if let Elsewhere::Name(_) = from {
            self.remember(from, id.is_none(), &whole, &damaged, call);
        }
        Ok(ReplicaVerification { ok: damaged.is_empty(), backups })
    }

    fn verdict(&self, site: &Site, held: &Held, control: &Control) -> Result<BackupVerdict, Error> {
        let opened = self.entry_there(site, held)?;
        let (entry, ciphertext_only) = match opened {
            Ok(entry) => (entry, false),
            Err(Unopened::Locked) => (None, true),
            Err(Unopened::Damaged(reason)) => {
                return Ok(BackupVerdict { ok: false, reason: Some(reason), ciphertext_only: false });
            }
        };
        let total = held.size();
        let mut done = 0;
        for (name, it) in &held.databases {
            control.tell(Progress { database: name, done, total });
            done += it.object.size;
            let key = held.origin.database(name, it.form);
            let plain = entry.as_ref().and_then(|entry: &ReplicaEntry| {
                let recipients = entry.recipients.get(name).map_or(&[][..], Vec::as_slice);
                entry.backup.databases.get(name).filter(|_| self.config.codec.opens(it.form, recipients))
            });
            if let Some(reason) = self.read_there(site, &key, it.form, &it.object, plain, control)? {
                return Ok(BackupVerdict { ok: false, reason: Some(reason), ciphertext_only });
            }
        }
        Ok(BackupVerdict { ok: true, reason: None, ciphertext_only })
    }

    /// A failure to remember it is said, and changes nothing of what was found.
    fn remember(&self, from: &Elsewhere, all: bool, whole: &BTreeSet<Origin>, damaged: &BTreeSet<Origin>, call: &Call) {
        let Elsewhere::Name(name) = from else { return };
        let remembered = self.replica_permit(name, call).and_then(|_permit| {
            let url = self.target(from)?.place.url().to_owned();
            let mut state = State::load(self.store.root(), name, &url)?;
            state.damaged.retain(|origin| !whole.contains(origin));
            state.damaged.extend(damaged);
            if all && damaged.is_empty() {
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
