//! Steps 4 to 6 of a replication: what changes what is there. Their order is in `replica`.

use std::collections::{BTreeMap, BTreeSet};

use super::done::{NotSent, Replicated};
use super::state::State;
use super::sync::Wanted;
use super::writable::Writable;
use crate::backup::BackupId;
use crate::backup::replica::{Chains, Held, Origin, Plan, Sending, is_folder_of_ours, step_aside};
use crate::engine::{Call, Error};
use crate::remote;
use crate::sqlite::{self, Control};

impl Writable<'_> {
    pub(super) fn carry_out(
        &mut self,
        wanted: &Wanted,
        plan: &Plan,
        orphans: &[String],
        call: &Call,
        done: &mut Replicated,
    ) -> Result<(), Error> {
        let going = self.ids_of(plan);
        if self.site.catalog.is_none() {
            // Before any object: whoever looks then knows what to make of it.
            self.write(Vec::new())?;
        }
        let untidy = self.tidy(orphans, call, done)?;
        if let Err(error) = self.send_all(wanted, plan, call, done) {
            if is_full(&error) {
                self.make_room(plan, &going, done);
            }
            return Err(error);
        }
        // Nothing goes as long as something is missing that was to come.
        let going = if done.is_all() { going } else { BTreeMap::new() };
        self.amend(&plan.amend, &going, done)?;
        self.collapse(call, done)?;
        untidy.map_or(Ok(()), Err)
    }

    /// Step 4, before anything is sent: it may be what there is no room for. What the store doesn't let go is in no backup's way; the
    /// first of it is given back, to be told in the end.
    fn tidy(&mut self, orphans: &[String], call: &Call, done: &mut Replicated) -> Result<Option<Error>, Error> {
        let mut first = None;
        for orphan in orphans {
            call.control.check()?;
            let removed = match self.settle() {
                Err(error) if !is_full(&error) => return Err(error),
                Err(error) => Err(error),
                Ok(()) => {
                    self.hold(false)?;
                    self.site.link.at(self.site.link.remote.delete(orphan))
                }
            };
            match removed {
                Ok(()) => done.removed.push(orphan.clone()),
                Err(error @ Error::Sqlite(sqlite::Error::Cancelled)) => return Err(error),
                Err(error) => {
                    tracing::warn!(replica = %self.name, key = orphan, %error, "a leftover stays for now");
                    let is_of_one = is_of_one_there(&error);
                    first = first.or(Some(error));
                    if !is_of_one {
                        break;
                    }
                }
            }
        }
        Ok(first)
    }

    /// Where the store is full: what would go if nothing more came goes now, and the next try has its room.
    fn make_room(&mut self, plan: &Plan, going: &BTreeMap<Origin, BackupId>, done: &mut Replicated) {
        let mut going = going.clone();
        going.retain(|origin, _| plan.room.contains(origin));
        if going.is_empty() {
            return;
        }
        if let Err(error) = self.amend(&[], &going, done) {
            tracing::warn!(replica = %self.name, %error, "what is to go there is not gone yet");
        }
    }

    /// Step 5. What is wrong with a backup here is in no other's way, and what the store has against one may be nothing against the
    /// next: it has to refuse two in a row, or all, to count as a failure of the replica.
    fn send_all(&mut self, wanted: &Wanted, plan: &Plan, call: &Call, done: &mut Replicated) -> Result<(), Error> {
        let mut refused: Option<Error> = None;
        for (at, sending) in plan.send.iter().enumerate() {
            // What has come meanwhile may be missed more than what is next.
            if at > 0 && !wanted.is_still(self.engine, &self.name)? {
                done.is_overtaken = true;
                break;
            }
            if self.is_healed(sending.origin) {
                continue;
            }
            let error = match self.sent(sending, call) {
                Ok(Some(bytes)) => {
                    done.sent.push(sending.id);
                    done.bytes += bytes;
                    refused = None;
                    continue;
                }
                // What it was to push out stays.
                Ok(None) => {
                    done.is_overtaken = true;
                    continue;
                }
                Err(error) => error,
            };
            let is_there = is_of_one_there(&error);
            if !is_there && !is_of_one_here(&error) || is_there && refused.is_some() {
                return Err(error);
            }
            tracing::error!(code = error.code(), replica = %self.name, id = %sending.id, "{error}");
            done.not_sent.push(NotSent { id: sending.id, reason: error.to_string() });
            if is_there {
                refused = Some(error);
            } else {
                self.doubts(&error);
            }
        }
        match refused {
            Some(error) if done.sent.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// It is there, and was to be sent again for nothing but what it stands on, which is whole by now.
    fn is_healed(&self, origin: Origin) -> bool {
        let State { found_damaged, .. } = &self.state;
        let held = self.site.backups().iter().find(|held| held.origin == origin);
        let encrypts = !self.engine.config.codec.recipients.is_empty();
        let is_wanted = |held: &Held| held.damaged || encrypts && !held.entry.encrypted;
        held.is_some_and(|held| held.has_segments() && !is_wanted(held))
            && !found_damaged.contains(&origin)
            && !Chains::of(&self.marked(&[]), &self.remnants()).unsound().contains(&origin)
    }

    /// One backup.
    pub(super) fn sent(&mut self, sending: &Sending, call: &Call) -> Result<Option<u64>, Error> {
        let Some(held) = self.send(sending, call)? else { return Ok(None) };
        let sent = Some(held.origin);
        self.put(held, sent).map(Some)
    }

    /// What came takes its place in the catalog; `sent` says that it is of what is here.
    pub(super) fn put(&mut self, held: Held, sent: Option<Origin>) -> Result<u64, Error> {
        let (id, bytes, origin, before) = (held.id, held.size(), held.origin, self.site.named());
        let mut backups = self.marked(&[]);
        backups.retain(|other| other.origin != origin);
        backups.push(held);
        step_aside(&mut backups, |held| held.origin == origin);
        self.write_with(backups, sent)?;
        // What was found of the one that is replaced is nothing of this one.
        self.state.found_damaged.remove(&origin);
        self.state.found_databases.retain(|(other, _)| *other != origin);
        self.remove_objects(&before)?;
        tracing::debug!(replica = %self.name, %id, bytes, "sent and read back");
        Ok(bytes)
    }

    /// Step 6.
    fn amend(
        &mut self,
        amend: &[Held],
        going: &BTreeMap<Origin, BackupId>,
        done: &mut Replicated,
    ) -> Result<(), Error> {
        let goes = |held: &Held| going.contains_key(&held.origin);
        let staying: Vec<Held> = self.marked(amend).into_iter().filter(|held| !goes(held)).collect();
        let gone: Vec<Origin> = self.site.backups().iter().filter(|held| goes(held)).map(|held| held.origin).collect();
        let before = self.site.named();
        let is_another = staying != self.site.backups()
            || self.remnants() != self.site.remnants()
            || self.journals != self.site.journals()
            || self.keeps_others()?;
        if is_another || self.is_others {
            self.write(staying)?;
        }
        done.dropped.extend(gone.iter().filter_map(|origin| going.get(origin)));
        self.remove_objects(&before)
    }

    /// Of the objects that were named before, those that the catalog doesn't name any more.
    fn remove_objects(&mut self, before: &BTreeSet<String>) -> Result<(), Error> {
        for key in before.difference(&self.site.named()) {
            self.settle()?;
            self.hold(false)?;
            self.site.link.at(self.site.link.remote.delete(key))?;
        }
        Ok(())
    }

    /// Folders of backups that no catalog names, where nothing is left in them: each would have to be asked for at every listing, for
    /// ever. A sending has a folder of its own, so nobody writes in these any more. What stays is in nobody's way.
    pub(super) fn sweep(&mut self, folders: &[String], control: &Control) {
        let named = self.site.named();
        let is_named =
            |folder: &String| named.range(folder.clone()..).next().is_some_and(|key| key.starts_with(folder));
        let is_over = |folder: &&String| !self.keeps_leftovers && is_folder_of_ours(folder) && !is_named(folder);
        let over: Vec<&String> = folders.iter().filter(is_over).collect();
        let swept = over.into_iter().try_for_each(|folder| {
            control.check()?;
            self.settle()?;
            self.hold(false)?;
            self.site.link.at(self.site.link.remote.remove_folder(folder))
        });
        if let Err(error) = swept {
            tracing::debug!(replica = %self.name, %error, "empty folders stay for now");
        }
    }
}

/// Of a backup here, and not of the replica.
pub(super) fn is_of_one_here(error: &Error) -> bool {
    matches!(error, Error::Damaged { .. } | Error::NotSent { .. } | Error::NotFound(_) | Error::NeedsIdentity { .. })
}

/// There is no room there.
pub(super) fn is_full(error: &Error) -> bool {
    matches!(error, Error::Replica { error: remote::Error::Full(_), .. })
}

/// Of an object there, as far as one can tell.
pub(super) fn is_of_one_there(error: &Error) -> bool {
    match error {
        Error::ReplicaDamaged { .. } => true,
        Error::Replica { error, .. } => !error.is_temporary() && !matches!(error, remote::Error::Full(_)),
        _ => false,
    }
}
