//! Notices: what is to be told of how things stand and of what was done, whoever did it, by which process. It comes from the status and from
//! the audit log, so a restart loses and repeats nothing. `serve` looks and sends; all others only read how the channels stand.

mod queue;
mod text;

use std::sync::MutexGuard;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Map;
use utoipa::ToSchema;

use super::status::{Status, Warning, optional_timestamp};
use super::{Call, Engine, Error, LastError, ReplicaStatus, entry, locked};
use crate::audit::{Entry, Kind as Line};
use crate::backup::notices::{Event, Found};
use crate::backup::{BackupId, timestamp};
use crate::notify::{Kind, Message, Notice, Unsent, Wait};
use queue::Remembered;
use text::Teller;

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
    /// What went wrong last, if nothing went well since.
    #[schema(required = true)]
    pub last_error: Option<LastError>,
    /// How often in a row.
    #[serde(skip)]
    failures: u32,
}

/// What a test of all channels came to.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct NoticesTested {
    /// Every one took it.
    pub ok: bool,
    /// Each that is configured.
    pub channels: Vec<ChannelTested>,
}

/// What a test of one came to.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct ChannelTested {
    /// Which.
    pub kind: Kind,
    /// It was taken.
    pub ok: bool,
    /// What happened, and what to do.
    pub detail: String,
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
        let zone =
            self.settings().map_or(self.config.settings.schedule.timezone, |settings| settings.schedule.timezone);
        let teller = Teller { engine: self, status: status.as_ref().ok(), zone, now };
        let found = match &status {
            Ok(status) => found(status),
            Err(error) => vec![unreadable(error)],
        };
        let is_known = |event| status.is_ok() || event == Event::Unreadable;
        let mut kept = self.kept();
        let before = kept.remembered.clone();
        let remembered = &mut kept.remembered;
        // In the order in which it came about.
        let mut notices = self.happened(remembered, &teller).unwrap_or_else(|error| {
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
        remembered.expire(&self.notice_channels(), now);
        if before != kept.remembered || !kept.is_saved {
            self.keep(&mut kept);
        }
        Look {
            in_time: status.is_ok() && !found.iter().any(|one| one.event.is_late()),
            newest: status.ok().and_then(|status| status.last_backup.map(|last| last.id)),
        }
    }

    /// What the lines of the audit log tell that have come since the last look.
    fn happened(&self, remembered: &mut Remembered, teller: &Teller) -> Result<Vec<Notice>, Error> {
        let head = self.audit.head()?.seq;
        // What was done before anybody wanted to be told is told to nobody; nor is a log that begins anew told twice.
        let seen = remembered.seen.unwrap_or(head).min(head);
        remembered.seen = Some(head);
        if seen == head {
            return Ok(Vec::new());
        }
        let mut lines = Vec::new();
        self.audit.newest_first(|line| {
            let is_new = line.seq > seen && teller.now - line.at <= OLDEST;
            if is_new && line.seq <= head && is_told(&line.entry) {
                lines.push(line.clone());
            }
            !is_new || lines.len() >= LINES
        })?;
        let mut notices = Vec::new();
        for line in lines.iter().rev() {
            notices.extend(match line.entry.operation.as_str() {
                "restore" => Some(teller.restore(line)),
                "settings" => Some(teller.settings(line)),
                _ => remembered.memory.refused(line.at).map(|telling| teller.standing(&telling)),
            });
        }
        Ok(notices)
    }

    /// A notice that a channel is to send now.
    pub fn next_notice(&self, kind: Kind) -> Option<Message> {
        let now = self.clock.now();
        let kept = self.kept();
        let next = kept.remembered.next(kind, now)?;
        Some(Message { notice: next.notice.clone(), left: next.left().to_vec(), now })
    }

    /// Whether the dead man's switch may be told that all is well: not if that failed a moment ago.
    pub fn may_ping(&self) -> bool {
        self.kept().remembered.may_try(Kind::Ping, self.clock.now())
    }

    /// Sends a notice, and remembers what came of that.
    pub fn send_notice<T: Send + 'static>(&self, kind: Kind, message: &Message, wait: Wait<T>) -> Result<(), Unsent> {
        let cancelled = wait.cancelled;
        let sent = self.config.notices.send(kind, message, wait);
        self.tried(kind, &message.notice.id, sent, cancelled)
    }

    /// Tells the dead man's switch that all is well.
    pub fn ping<T: Send + 'static>(&self, wait: Wait<T>) -> Result<(), Unsent> {
        let cancelled = wait.cancelled;
        self.tried(Kind::Ping, "", self.config.notices.ping(wait), cancelled)
    }

    /// What was given up because the service stops is no failure.
    fn tried(
        &self,
        kind: Kind,
        id: &str,
        sent: Result<(), Unsent>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), Unsent> {
        if sent.is_err() && cancelled() {
            return Ok(());
        }
        let mut kept = self.kept();
        kept.remembered.tried(kind, id, &sent, self.clock.now());
        self.keep(&mut kept);
        sent
    }

    /// Sends a test by every channel, and says what came of it.
    pub fn test_notices(&self, call: &Call) -> Result<NoticesTested, Error> {
        let kinds = self.notice_channels();
        if kinds.is_empty() {
            return Err(Error::NoChannels);
        }
        self.assert_expected()?;
        self.store.make_dirs()?;
        let names = kinds.iter().map(ToString::to_string).collect::<Vec<_>>();
        let details = Map::from_iter([("channels".to_owned(), names.into())]);
        let line = Entry { ok: Some(true), details, ..entry(Line::Outcome, "notify-test", &call.actor, None) };
        self.audit.append(self.clock.now(), line)?;
        let status = self.status().ok();
        let in_time = status.as_ref().is_some_and(|status| !found(status).iter().any(|one| one.event.is_late()));
        let zone = self.config.settings.schedule.timezone;
        let teller = Teller { engine: self, status: status.as_ref(), zone, now: self.clock.now() };
        let message = Message { notice: teller.test(&call.actor.by), left: Vec::new(), now: teller.now };
        let test = |kind: Kind| {
            if kind == Kind::Ping && !in_time {
                let detail = "not sent: something is late, and the ping says that nothing is; `status` tells what";
                return ChannelTested { kind, ok: true, detail: detail.to_owned() };
            }
            let wait = Wait { cancelled: &|| call.control.is_cancelled(), busy: () };
            let sent = match kind {
                Kind::Ping => self.config.notices.ping(wait),
                Kind::Mail | Kind::Webhook => self.config.notices.send(kind, &message, wait),
            };
            let detail = match &sent {
                Ok(()) => "it was taken; look whether it has arrived".to_owned(),
                Err(unsent) => unsent.failure.detail.clone(),
            };
            ChannelTested { kind, ok: sent.is_ok(), detail }
        };
        let test = &test;
        let channels: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = kinds.into_iter().map(|kind| (kind, scope.spawn(move || test(kind)))).collect();
            let lost =
                |kind| ChannelTested { kind, ok: false, detail: "the test ended by a fault of its own".to_owned() };
            threads.into_iter().map(|(kind, thread)| thread.join().unwrap_or_else(|_| lost(kind))).collect()
        });
        Ok(NoticesTested { ok: channels.iter().all(|channel| channel.ok), channels })
    }

    /// How the channels stand.
    pub fn notices_status(&self) -> NoticesStatus {
        let kinds = self.notice_channels();
        let kept = locked(&self.notices);
        let remembered = match (kept.is_read, kinds.is_empty()) {
            (true, _) => kept.remembered.clone(),
            (false, true) => Remembered::default(),
            // What another process knows.
            (false, false) => Remembered::load(self.store.root()).unwrap_or_default(),
        };
        let status = |kind| {
            let channel = remembered.channels.get(&kind).cloned().unwrap_or_default();
            let queue::Channel { last_success, last_error, failures, .. } = channel;
            ChannelStatus { kind, last_success, last_error, failures }
        };
        NoticesStatus { channels: kinds.into_iter().map(status).collect(), queued: remembered.queue.len() }
    }

    /// What is remembered: from the first look on it is this process that knows it.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        let mut kept = locked(&self.notices);
        if !kept.is_read {
            let told = |error: &Error| tracing::warn!(%error, "what was told before can't be read");
            let read = Remembered::load(self.store.root()).inspect_err(told);
            *kept = Kept { remembered: read.unwrap_or_default(), is_read: true, is_saved: true };
        }
        kept
    }

    /// Writes it; where that can't be done, it is done later.
    fn keep(&self, kept: &mut Kept) {
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

/// What of the status is worth a notice.
fn found(status: &Status) -> Vec<Found> {
    let worth = |warning: &Warning| {
        let event = Event::of_warning(warning.code)?;
        let about = about(warning, &status.replicas);
        Some(Found { event, code: warning.code.to_owned(), about, detail: warning.detail.clone() })
    };
    let mut found: Vec<Found> = status.warnings.iter().filter_map(worth).collect();
    // That nothing is dropped while no backup can be taken goes without saying.
    if found.iter().any(|one| one.event == Event::BackupFailed) {
        found.retain(|one| one.event != Event::RotationFrozen);
    }
    found
}

/// Tells a warning from others of its kind: by the backup that it begins with, by the replica that it names.
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
    format!("{} {}", warning.code, about.unwrap_or_default())
}

fn unreadable(error: &Error) -> Found {
    let (code, detail) = (error.code().to_owned(), error.to_string());
    Found { event: Event::Unreadable, code, about: String::new(), detail }
}

/// What is told whenever it is done, or tried.
fn is_told(entry: &Entry) -> bool {
    let ended = entry.kind == Line::Outcome;
    match entry.operation.as_str() {
        "restore" => ended && entry.code.as_deref() != Some("cancelled"),
        "settings" => ended && entry.ok == Some(true),
        "sign-in" => entry.kind == Line::Refused && !entry.reason.as_ref().is_some_and(|it| it.starts_with(EXPIRED)),
        _ => false,
    }
}
