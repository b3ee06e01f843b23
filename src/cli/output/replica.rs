//! How replicas are shown.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::json;

use super::{Output, bytes, local};
use crate::backup::ReplicaName;
use crate::backup::replica::ChainsThere;
use crate::engine::{Brought, Engine, Holding, ReplicaStatus, ReplicaVerification, Replicated, Window};

impl Output {
    pub fn replicas(&self, replicas: &[ReplicaStatus], engine: &Engine) -> anyhow::Result<()> {
        if self.json {
            return self.json(&json!({ "replicas": replicas }));
        }
        if replicas.is_empty() {
            return Ok(self.line("no replicas are configured; BACKUP_REPLICA_<NAME>_URL makes one")?);
        }
        let zone = engine.settings()?.schedule.timezone;
        let rows = replicas.iter().map(|it| {
            let success = it.last_success.map_or("never".to_owned(), |at| local(at, zone));
            let held = match it.damaged {
                0 => it.held.to_string(),
                damaged => format!("{}, {damaged} damaged", it.held),
            };
            [
                it.name.to_string(),
                it.url.clone(),
                it.mode.to_string(),
                held,
                bytes(it.size),
                it.pending.to_string(),
                success,
            ]
        });
        self.table(["NAME", "URL", "MODE", "HOLDS", "SIZE", "PENDING", "LAST SUCCESS"], rows.collect())?;
        for it in replicas {
            if let Some(journal) = &it.journal {
                let until = journal.until.map_or("nothing yet".to_owned(), |at| format!("until {}", exact(at, zone)));
                let damaged = match (journal.damaged, journal.lost) {
                    (0, _) => String::new(),
                    (damaged, 0) => format!("; {damaged} objects damaged"),
                    (damaged, lost) => format!("; {damaged} objects damaged, {lost} of which can't be sent again"),
                };
                let error =
                    journal.last_error.as_ref().map(|error| format!("; ! {}", error.detail)).unwrap_or_default();
                self.line(&format!("{}: the journal, {until}{damaged}{error}", it.name))?;
            }
            if let Some(chains) = &it.chains {
                self.line(&format!("{}: {}", it.name, stands(chains)))?;
            }
            if let Some(error) = &it.last_error {
                let next = it.next_try.map(|at| format!("; next try at {}", local(at, zone))).unwrap_or_default();
                self.line(&format!("! {}: {} (since {}{next})", it.name, error.detail, local(error.since, zone)))?;
            }
        }
        Ok(())
    }

    pub fn held(&self, holding: &Holding, window: Option<&Window>, engine: &Engine) -> anyhow::Result<()> {
        let Holding { backups, chains } = holding;
        if self.json {
            return self.json(&json!({ "backups": backups, "chains": chains, "journal": window }));
        }
        let zone = engine.settings()?.schedule.timezone;
        if let Some(window) = window {
            let (from, to) = (exact(window.from, zone), exact(window.to, zone));
            self.line(&format!("any second from {from} to {to} ({zone})"))?;
            for gap in &window.gaps {
                let (from, to) = (exact(gap.from, zone), exact(gap.to, zone));
                let why = if gap.wrong { ", which was found wrong" } else { "" };
                self.line(&format!("  but none between {from} and {to}{why}"))?;
            }
        }
        if backups.is_empty() {
            return Ok(self.line("it holds no backups")?);
        }
        let rows = backups.iter().map(|held| {
            let mut state: Vec<_> = held.flags.iter().map(ToString::to_string).collect();
            if held.damaged {
                state.push("DAMAGED".to_owned());
            }
            if held.entry.encrypted {
                state.push("encrypted".to_owned());
            }
            if held.databases.values().any(|it| it.ltx.is_some_and(|segment| segment.base.is_some())) {
                state.push("incremental".to_owned());
            }
            let names: Vec<_> = held.databases.keys().map(|name| name.as_str()).collect();
            let taken = local(held.origin.timestamp, zone);
            [held.id.to_string(), taken, bytes(held.size()), state.join(", "), names.join(", ")]
        });
        self.table(["ID", "TAKEN", "SIZE", "STATE", "DATABASES"], rows.collect())?;
        Ok(chains.iter().try_for_each(|chains| self.line(&stands(chains)))?)
    }

    pub fn replica_verified(&self, verification: &ReplicaVerification) -> anyhow::Result<()> {
        if self.json {
            return self.json(verification);
        }
        for (id, verdict) in &verification.backups {
            let found = match &verdict.reason {
                None => "every byte is as recorded",
                Some(reason) => &format!("DAMAGED: {reason}"),
            };
            self.line(&format!("{id}: {found}"))?;
            if verdict.ciphertext_only {
                self.line(&format!("  note: {}", super::CIPHERTEXT_ONLY))?;
            }
        }
        if let Some(journal) = &verification.journal {
            let found = match (journal.ok, journal.damaged.is_empty()) {
                (true, _) => "every file is whole",
                (false, true) => "NOT ALL IS THERE",
                (false, false) => "DAMAGED",
            };
            self.line(&format!("the journal: {} packs were read, {found}", journal.packs))?;
            let mut wrong = journal.damaged.iter().chain(&journal.missing);
            wrong.try_for_each(|reason| self.line(&format!("  {reason}")))?;
            if journal.ciphertext_only {
                self.line(&format!("  note: {}", super::CIPHERTEXT_ONLY))?;
            }
        }
        Ok(())
    }

    pub fn pulled(&self, brought: &Brought) -> anyhow::Result<()> {
        if self.json {
            return self.json(brought);
        }
        if *brought == Brought::default() {
            return Ok(self.line("it holds no backups")?);
        }
        for not in &brought.not_pulled {
            self.line(&format!("{}: NOT BROUGHT: {}", not.id, not.reason))?;
        }
        for it in &brought.pulled {
            let (id, was) = (it.id, it.from);
            self.line(&match it.was_here {
                true => format!("{id} is here already"),
                false if id == was => format!("{id} is here, read back and compared"),
                false => format!("{was} is here as {id}, read back and compared"),
            })?;
        }
        Ok(())
    }

    pub fn replicated(&self, name: &ReplicaName, done: &Replicated) -> anyhow::Result<()> {
        if self.json {
            return self.json(done);
        }
        for id in &done.sent {
            self.line(&format!("{id}: sent, and read back from {name}"))?;
        }
        for id in &done.dropped {
            self.line(&format!("{id}: gone from {name}"))?;
        }
        for id in &done.remade {
            self.line(&format!("{id}: sent again to {name}, so that more of what was dropped could go"))?;
        }
        for key in &done.removed {
            self.line(&format!("{key}: a leftover, removed from {name}"))?;
        }
        for key in &done.lost {
            self.line(&format!("{key}: was gone or cut short in {name}; look at that store"))?;
        }
        for not in &done.not_sent {
            self.line(&format!("{}: NOT SENT: {}", not.id, not.reason))?;
        }
        if *done == Replicated::default() {
            self.line(&format!("{name} lacks nothing"))?;
        }
        Ok(())
    }
}

fn stands(ChainsThere { longest, remnants, bytes: size }: &ChainsThere) -> String {
    format!("up to {longest} segments make up a database; remnants of dropped backups: {remnants}, {}", bytes(*size))
}

pub(super) fn exact(at: DateTime<Utc>, zone: Tz) -> String {
    at.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S%.3f").to_string()
}
