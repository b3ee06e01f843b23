//! Notices: what is to be told of how things stand and of what was done, whoever did it, by which process. It comes from the status and from
//! the audit log, so a restart loses and repeats nothing. `serve` looks and sends; all others only read how the channels stand.

mod queue;
mod text;
mod trial;
mod words;

use std::sync::MutexGuard;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::lost::JOURNAL_WRONG;
use super::recording::JOURNAL;
use super::status::{Status, Warning, optional_timestamp};
use super::{Engine, Error, LastError, ReplicaStatus, locked};
use crate::audit::{Entry, Kind as LineKind, Line};
use crate::backup::notices::{Event, Found};
use crate::backup::{BackupId, timestamp};
use crate::notify::{Failure, Kind, Message, Notice, Sending, Told, Unsent};
use queue::Remembered;
use text::Teller;
pub use trial::{ChannelTested, NoticesTested};

/// Lines of the audit log that are looked at for notices; more have come only where nobody looked for a long time.
const LINES: usize = 1000;
/// What was done so long ago is told to nobody any more.
const OLDEST: TimeDelta = TimeDelta::days(7);
/// What a token was refused for that was good once: somebody's page is open still.
const EXPIRED: &str = "it has expired";
/// So many tries of a channel that failed, one after the other, are worth a warning.
const FAILURES: u32 = 2;

/// How notices stand.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct NoticesStatus {
    /// Each that is configured.
    pub channels: Vec<ChannelStatus>,
    /// Notices that wait to be sent.
    #[schema(value_type = u64)]
    pub queued: usize,
}

/// A way by which notices go.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelStatus {
    /// Which.
    pub kind: Kind,
    /// When something went by it.
    #[serde(serialize_with = "optional_timestamp")]
    #[schema(required = true)]
    pub last_success: Option<DateTime<Utc>>,
    /// What went wrong last, if not all has gone well since.
    #[schema(required = true)]
    pub last_error: Option<LastError>,
    /// How often in a row.
    #[serde(skip)]
    failures: u32,
}

/// What a look has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    /// Everything is in time: the dead man's switch may be told so.
    pub in_time: bool,
    /// The newest good backup.
    pub newest: Option<BackupId>,
}

/// What is remembered, as this process has it: it is told also where it can't be written.
#[derive(Clone, Default)]
pub(super) struct Kept {
    remembered: Remembered,
    is_read: bool,
    is_saved: bool,
    /// That it can't be read was said.
    is_said: bool,
    looked: Option<DateTime<Utc>>,
}

impl Engine {
    /// By which ways notices go.
    pub fn notice_channels(&self) -> Vec<Kind> {
        self.config.notices.kinds()
    }

    /// Changes whenever something was done: how long the audit log is.
    pub fn last_done(&self) -> u64 {
        self.audit.path().metadata().map_or(0, |meta| meta.len())
    }

    /// Looks what is to be told, and puts that where it is sent from.
    pub fn look_for_notices(&self) -> Look {
        let (now, status) = (self.clock.now(), self.status());
        let zone = self.settings_in_force().schedule.timezone;
        let teller = Teller { engine: self, status: status.as_ref().ok(), zone, now };
        let found = match &status {
            Ok(status) => found(status),
            Err(error) => vec![unreadable(error)],
        };
        let is_known = |event| match (&status, event) {
            (Err(_), event) => event == Event::Unreadable,
            // Room that is taken while it is written is given back.
            (Ok(status), Event::StorageLow) => !is_written(status),
            (Ok(_), _) => true,
        };
        let mut kept = self.kept();
        let (before, looked, is_read) = (kept.remembered.clone(), kept.looked.replace(now), kept.is_read);
        let remembered = &mut kept.remembered;
        // In the order in which it came about; where it isn't known what was told of it, later.
        let happened = if is_read { self.happened(remembered, &teller, looked) } else { Ok(Vec::new()) };
        let mut notices = happened.unwrap_or_else(|error| {
            tracing::warn!(%error, "what was done can't be read, and is told later");
            Vec::new()
        });
        let tellings = remembered.memory.stand(&found, is_known, now);
        notices.extend(tellings.iter().map(|telling| teller.standing(telling)));
        let told = self.notice_channels().into_iter().filter(|kind| *kind != Kind::Ping);
        for notice in &notices {
            tracing::info!(event = notice.event.word(), "{}", notice.subject);
            remembered.add(notice, told.clone());
        }
        remembered.expire(&self.notice_channels(), looked, now);
        if before != kept.remembered || !kept.is_saved {
            self.keep(&mut kept);
        }
        Look {
            in_time: status.is_ok() && !found.iter().any(|one| one.event.is_late()),
            newest: status.ok().and_then(|status| status.last_backup.map(|last| last.id)),
        }
    }

    /// What the lines of the audit log tell that have come since the last look.
    fn happened(
        &self,
        remembered: &mut Remembered,
        teller: &Teller,
        looked: Option<DateTime<Utc>>,
    ) -> Result<Vec<Notice>, Error> {
        let head = self.audit.head()?.seq;
        // What was done before anybody wanted to be told is told to nobody; nor is a log that begins anew told twice.
        let seen = remembered.seen.unwrap_or(head).min(head);
        // A clock that was put right since makes nothing old.
        let oldest = looked.map_or(teller.now, |looked| looked.min(teller.now)) - OLDEST;
        let is_young = |line: &Line| line.at >= oldest || timestamp::is_implausible(line.at);
        let mut lines = Vec::new();
        if seen < head {
            self.audit.newest_first(|line| {
                let is_new = line.seq > seen;
                if is_new && line.seq <= head && is_young(line) && is_told(&line.entry) {
                    lines.push(line.clone());
                }
                !is_new || lines.len() >= LINES
            })?;
        }
        // Only what could be read counts as seen.
        remembered.seen = Some(head);
        let mut notices = Vec::new();
        for line in lines.iter().rev() {
            notices.extend(match line.entry.operation.as_str() {
                "restore" => Some(teller.restore(line)),
                "settings" => Some(teller.settings(line)),
                JOURNAL => {
                    let why = line.entry.reason.clone().unwrap_or_default();
                    remembered.memory.wrong(line.at, why).map(|telling| teller.standing(&telling))
                }
                _ => remembered.memory.refused(line.at).map(|telling| teller.refused(line, telling)),
            });
        }
        Ok(notices)
    }

    /// A notice that a channel is to send now.
    pub fn next_notice(&self, kind: Kind) -> Option<Message> {
        let now = self.clock.now();
        let kept = self.kept();
        let next = kept.remembered.next(kind, now)?;
        Some(Message { notice: next.notice.clone(), had: next.had.clone(), now })
    }

    /// Whether the dead man's switch may be told that all is well: not if that failed a moment ago.
    pub fn may_ping(&self) -> bool {
        self.kept().remembered.may_try(Kind::Ping, self.clock.now())
    }

    /// Begins to send a notice. What comes of that is remembered, whoever waits for it.
    pub fn send_notice(&self, kind: Kind, message: &Message) -> Result<Sending, Unsent> {
        let (engine, id) = (self.clone(), message.notice.id.clone());
        let told = move |told| engine.came(kind, &id, told);
        let begun = self.config.notices.send(kind, message, told);
        begun.inspect_err(|unsent| self.came(kind, &message.notice.id, Told::Ended(Err(unsent.clone()))))
    }

    /// Begins to tell the dead man's switch that all is well.
    pub fn ping(&self) -> Result<Sending, Unsent> {
        let engine = self.clone();
        let begun = self.config.notices.ping(move |told| engine.came(Kind::Ping, "", told));
        begun.inspect_err(|unsent| self.came(Kind::Ping, "", Told::Ended(Err(unsent.clone()))))
    }

    /// How long a notice may take.
    pub fn notice_limit(&self, kind: Kind) -> Duration {
        self.config.notices.limit(kind)
    }

    /// A notice takes longer than that, and goes on: how the channel stands is to show it.
    pub fn notice_is_late(&self, kind: Kind) -> Unsent {
        let unsent = Unsent::from(Failure::slow());
        self.came(kind, "", Told::Ended(Err(unsent.clone())));
        unsent
    }

    fn came(&self, kind: Kind, id: &str, told: Told) {
        let mut kept = self.kept();
        match told {
            Told::Taken(who) => kept.remembered.taken(kind, id, who),
            Told::Ended(sent) => kept.remembered.tried(kind, id, &sent, self.clock.now()),
        }
        self.keep(&mut kept);
    }

    /// How the channels stand.
    pub fn notices_status(&self) -> NoticesStatus {
        let kinds = self.notice_channels();
        let kept = locked(&self.notices);
        let is_ours = kept.is_read || kept.looked.is_some();
        let remembered = match (is_ours, kinds.is_empty()) {
            (true, _) => kept.remembered.clone(),
            (false, true) => Remembered::default(),
            // What another process knows.
            (false, false) => Remembered::load(self.store.root()).ok().flatten().unwrap_or_default(),
        };
        let status = |kind| {
            let channel = remembered.channels.get(&kind).cloned().unwrap_or_default();
            let queue::Channel { last_success, last_error, failures, .. } = channel;
            ChannelStatus { kind, last_success, last_error, failures }
        };
        NoticesStatus { channels: kinds.into_iter().map(status).collect(), queued: remembered.queue.len() }
    }

    /// What is remembered: once it could be read it is this process that knows it. What is found before that comes after it.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        let mut kept = locked(&self.notices);
        if !kept.is_read {
            match self.told_before() {
                Ok(before) => {
                    let is_saved = kept.remembered == Remembered::default();
                    kept.remembered.follow(before);
                    (kept.is_read, kept.is_saved, kept.is_said) = (true, is_saved, false);
                }
                Err(error) if !kept.is_said => {
                    tracing::warn!(%error, "what was told before can't be read; what is found meanwhile is told all the same");
                    kept.is_said = true;
                }
                Err(_) => {}
            }
        }
        kept
    }

    /// What isn't to be understood is kept for a look.
    fn told_before(&self) -> Result<Remembered, Error> {
        // Where the volume isn't there yet, nothing was told before only as it seems.
        self.assert_expected()?;
        match Remembered::load(self.store.root())? {
            Some(before) => Ok(before),
            None => Remembered::set_aside(self.store.root(), self.clock.now()).map(|()| Remembered::default()),
        }
    }

    /// Writes it; where that can't be done, it is done later.
    fn keep(&self, kept: &mut Kept) {
        // Nothing is written over what couldn't be read.
        if !kept.is_read {
            return;
        }
        // Where the volume has gone, nothing is written into the folder that it leaves.
        let saved = self.assert_expected().and_then(|()| kept.remembered.save(self.store.root()));
        if let Some(error) = saved.as_ref().err().filter(|_| kept.is_saved) {
            tracing::warn!(%error, "what was told can't be written; it may be told once more after a restart");
        }
        kept.is_saved = saved.is_ok();
    }
}

/// What of it wants a look.
pub(super) fn warnings(notices: &NoticesStatus) -> impl Iterator<Item = Warning> {
    let failing = notices.channels.iter().filter(|channel| channel.failures >= FAILURES);
    failing.filter_map(|channel| {
        let error = channel.last_error.as_ref()?;
        let (kind, since) = (channel.kind, timestamp::text(error.since));
        let detail = format!("notices by {kind} don't go since {since}: {}; `notify test` tries it", error.detail);
        Some(Warning { code: "notices-not-sent", detail })
    })
}

/// Something is under way that needs room for a while.
fn is_written(status: &Status) -> bool {
    status.operation.as_ref().is_some_and(|operation| ["create", "restore"].contains(&operation.kind.as_str()))
}

/// What of the status is worth a notice.
fn found(status: &Status) -> Vec<Found> {
    let worth = |warning: &Warning| {
        let event = Event::of_warning(warning.code)?;
        let about = about(warning, &status.replicas);
        Some(Found { event, code: warning.code.to_owned(), about, detail: warning.detail.clone() })
    };
    let mut found: Vec<Found> = status.warnings.iter().filter_map(worth).collect();
    // That nothing is dropped while no backup can be taken goes without saying.
    if found.iter().any(|one| matches!(one.event, Event::BackupFailed | Event::LiveUnusable)) {
        found.retain(|one| one.event != Event::RotationFrozen);
    }
    found
}

/// Tells a warning from others of its kind: by the backup that it begins with, by the replica that it names, and whether by its journal.
fn about(warning: &Warning, replicas: &[ReplicaStatus]) -> String {
    let words: Vec<&str> = warning.detail.split([' ', ':', '`', ';']).filter(|word| !word.is_empty()).collect();
    let named = |name: &str| words.windows(2).any(|pair| pair[0] == "replica" && pair[1] == name);
    let about = match warning.code {
        "damaged" => words.first().copied(),
        code if code.starts_with("replica-") => {
            replicas.iter().map(|replica| replica.name.as_str()).find(|name| named(name))
        }
        _ => None,
    };
    let part = if warning.code == "replica-damaged" && words.contains(&"journal") { " journal" } else { "" };
    format!("{} {}{part}", warning.code, about.unwrap_or_default())
}

fn unreadable(error: &Error) -> Found {
    let (code, detail) = (error.code().to_owned(), error.to_string());
    Found { event: Event::Unreadable, code, about: String::new(), detail }
}

/// What is told whenever it is done, or tried.
fn is_told(entry: &Entry) -> bool {
    let ended = entry.kind == LineKind::Outcome;
    match entry.operation.as_str() {
        "restore" => ended && entry.code.as_deref() != Some("cancelled"),
        "settings" => ended && entry.ok == Some(true),
        JOURNAL => ended && entry.code.as_deref() == Some(JOURNAL_WRONG),
        "sign-in" => {
            entry.kind == LineKind::Refused && !entry.reason.as_ref().is_some_and(|it| it.starts_with(EXPIRED))
        }
        _ => false,
    }
}
