//! What is remembered of notices: `notices.json` in the backup directory. What was told, what is still to be sent, and how each
//! channel stands. It is written before a notice is sent and after it: a crash in between sends one twice, and loses none.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::backup::notices::{Memory, Stage};
use crate::backup::timestamp;
use crate::disk::{self, Context};
use crate::engine::{Error, LastError};
use crate::notify::{Extent, Kind, Notice, Unsent};

/// Below the backup directory.
const FILE: &str = "notices.json";
/// Larger ones are none of ours.
const MAX_BYTES: u64 = 8 << 20;
/// Notices that wait; the oldest give way.
const MOST: usize = 100;
/// What couldn't be sent for so long is of no use any more.
const OLDEST: TimeDelta = TimeDelta::days(7);
/// Between two looks there is no more than a minute, unless the clock has jumped.
const JUMP: TimeDelta = TimeDelta::hours(1);
/// After the first failure.
const FIRST: TimeDelta = TimeDelta::minutes(1);
/// After many.
const LONGEST: TimeDelta = TimeDelta::hours(1);
/// The same for the ping, whose monitor waits for so long that it is late only if something is.
const LONGEST_PING: TimeDelta = TimeDelta::minutes(5);
/// So often a server may refuse a recipient when others have the notice.
const REFUSALS: u32 = 3;

/// All of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Remembered {
    /// The last line of the audit log that was looked at.
    pub(super) seen: Option<u64>,
    pub(super) memory: Memory,
    pub(super) queue: Vec<Queued>,
    pub(super) channels: BTreeMap<Kind, Channel>,
}

/// A notice that a channel is to send.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Queued {
    pub(super) kind: Kind,
    pub(super) notice: Notice,
    /// Who has it already.
    #[serde(default)]
    pub(super) had: Vec<String>,
    /// Somebody took it in the try that goes on.
    #[serde(skip)]
    was_taken: bool,
    tries: u32,
    /// Of them such as nobody took, by the word of a server that others were told by.
    #[serde(default)]
    refusals: u32,
    /// Of those who lack it.
    #[serde(default)]
    next_try: Option<DateTime<Utc>>,
}

/// How one stands.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Channel {
    pub(super) last_success: Option<DateTime<Utc>>,
    pub(super) last_error: Option<LastError>,
    /// In a row.
    pub(super) failures: u32,
    next_try: Option<DateTime<Utc>>,
}

impl Remembered {
    /// One that isn't there is a new one; nothing, if it is there and none of ours.
    pub(super) fn load(root: &Path) -> Result<Option<Self>, Error> {
        let path = root.join(FILE);
        let file = match disk::open_regular(&path) {
            Err(error) if error.is_missing() => return Ok(Some(Self::default())),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).to("read", &path)?;
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Makes room for a new one.
    pub(super) fn set_aside(root: &Path, now: DateTime<Utc>) -> Result<(), Error> {
        let (path, aside) = (root.join(FILE), root.join(format!("{FILE}.{}", now.timestamp_millis())));
        disk::rename_new(&path, &aside)?;
        tracing::warn!(path = %path.display(), aside = %aside.display(), "it isn't to be understood; a new one is made");
        Ok(disk::sync_dir(root)?)
    }

    /// As it was before, and what this process has found out since.
    pub(super) fn follow(&mut self, before: Self) {
        let since = std::mem::replace(self, before);
        self.memory.follow(since.memory);
        self.queue.extend(since.queue);
        self.channels.extend(since.channels);
    }

    /// Durable when it returns.
    pub(super) fn save(&self, root: &Path) -> Result<(), Error> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        let path = root.join(FILE);
        // Whoever has just gained the directory sweeps partials, and may take ours away in the middle: then once more.
        match disk::write_durable(&path, &bytes) {
            Err(error) if error.is_missing() => Ok(disk::write_durable(&path, &bytes)?),
            written => Ok(written?),
        }
    }

    /// A notice for each of these channels. It takes the place of reminders of the same that still wait; what is over takes that of
    /// all that was said of it, and tells those who know nothing of it what it was.
    pub(super) fn add(&mut self, notice: &Notice, kinds: impl Iterator<Item = Kind>) {
        let is_over = notice.stage == Stage::Recovered;
        let is_outdated = |it: &mut Queued| {
            it.notice.event == notice.event && it.is_standing() && (is_over || it.notice.stage == Stage::Reminder)
        };
        let gone: Vec<Queued> = self.queue.extract_if(.., is_outdated).collect();
        for kind in kinds {
            let mut notice = notice.clone();
            let unknown = gone.iter().filter(|it| is_over && it.kind == kind && it.had.is_empty());
            notice.happened.extend(unknown.flat_map(|it| it.notice.happened.clone()));
            self.queue.push(Queued::new(kind, notice));
        }
        self.give_way();
        let more = self.queue.len().saturating_sub(MOST);
        for gone in self.queue.drain(..more) {
            tracing::warn!(kind = %gone.kind, subject = gone.notice.subject, "too many notices wait: this one is given up");
        }
    }

    /// Who lacks what others have gets what is newer of the same instead.
    fn give_way(&mut self) {
        let newest: BTreeMap<_, _> =
            self.queue.iter().enumerate().map(|(at, it)| ((it.kind, it.notice.event), at)).collect();
        let mut at = 0;
        self.queue.retain(|it| {
            let is_newest = newest[&(it.kind, it.notice.event)] == at;
            at += 1;
            is_newest || it.had.is_empty() || !it.is_standing()
        });
    }

    /// What waited for too long, or for a channel that there is no more, is given up. A clock that was put right, or a machine that
    /// slept, since the last look makes nothing old.
    pub(super) fn expire(&mut self, kinds: &[Kind], looked: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        let jumped_from = looked.filter(|looked| now - *looked > JUMP);
        self.queue.retain_mut(|it| {
            let at = &mut it.notice.at;
            let was_young = jumped_from.is_some_and(|before| before - *at <= OLDEST);
            if now - *at > OLDEST && (was_young || timestamp::is_implausible(*at)) {
                *at = now;
            }
            let stays = kinds.contains(&it.kind) && now - it.notice.at <= OLDEST;
            if !stays {
                tracing::warn!(kind = %it.kind, subject = it.notice.subject, "a notice could not be sent, and is given up");
            }
            stays
        });
        self.channels.retain(|kind, _| kinds.contains(kind));
    }

    /// What a channel is to send now: what was tried least, then what is oldest, so that one that is refused is in no other's way. That
    /// something is over is never told before it was told that it began.
    pub(super) fn next(&self, kind: Kind, now: DateTime<Utc>) -> Option<&Queued> {
        let of_kind: Vec<&Queued> = self.queue.iter().filter(|it| it.kind == kind && self.may_try(kind, now)).collect();
        let is_first = |at: usize| {
            let (it, older) = (of_kind[at], &of_kind[..at]);
            !it.is_standing() || older.iter().all(|older| older.notice.event != it.notice.event)
        };
        let ready = (0..of_kind.len()).filter(|at| is_first(*at) && is_due(of_kind[*at].next_try, LONGEST, now));
        ready.map(|at| of_kind[at]).min_by_key(|it| it.tries)
    }

    /// Whether a channel that failed may be tried again.
    pub(super) fn may_try(&self, kind: Kind, now: DateTime<Utc>) -> bool {
        is_due(self.channels.get(&kind).and_then(|channel| channel.next_try), longest(kind), now)
    }

    /// Somebody has it.
    pub(super) fn taken(&mut self, kind: Kind, id: &str, who: String) {
        if let Some(it) = self.queue.iter_mut().find(|it| it.kind == kind && it.notice.id == id) {
            it.had.push(who);
            it.was_taken = true;
        }
    }

    /// What came of a try. A channel by which somebody was told is well, whoever else can't be told.
    pub(super) fn tried(&mut self, kind: Kind, id: &str, sent: &Result<(), Unsent>, now: DateTime<Utc>) {
        let channel = self.channels.entry(kind).or_default();
        let at = self.queue.iter().position(|it| it.kind == kind && it.notice.id == id);
        let (Some(at), Err(unsent)) = (at, sent) else {
            channel.tried(kind, sent, now);
            at.map(|at| self.queue.remove(at));
            return;
        };
        let it = &mut self.queue[at];
        let was_taken = std::mem::take(&mut it.was_taken);
        let is_theirs = !it.had.is_empty() && (was_taken || unsent.extent != Extent::Channel);
        it.tries = it.tries.saturating_add(1);
        if is_theirs {
            channel.missed(was_taken, unsent, now);
            it.refusals = it.refusals.saturating_add(u32::from(unsent.extent == Extent::Refused));
            it.next_try = Some(now + pause(it.tries, LONGEST));
        } else {
            channel.tried(kind, sent, now);
        }
        if it.refusals >= REFUSALS {
            tracing::warn!(%kind, subject = it.notice.subject, "not all could be told, and that is given up: {}", unsent.failure);
            self.queue.remove(at);
        }
        self.give_way();
    }
}

impl Queued {
    fn new(kind: Kind, notice: Notice) -> Self {
        Self { kind, notice, had: Vec::new(), was_taken: false, tries: 0, refusals: 0, next_try: None }
    }

    /// It is of something that begins, stands and is over.
    fn is_standing(&self) -> bool {
        self.notice.stage != Stage::Once
    }
}

impl Channel {
    fn tried(&mut self, kind: Kind, sent: &Result<(), Unsent>, now: DateTime<Utc>) {
        match sent {
            Ok(()) => *self = Self { last_success: Some(now), ..Self::default() },
            Err(unsent) => {
                self.failures = self.failures.saturating_add(1);
                self.next_try = Some(now + pause(self.failures, longest(kind)));
                self.went_wrong(unsent, now);
            }
        }
    }

    /// Others were told, now or before.
    fn missed(&mut self, was_taken: bool, unsent: &Unsent, now: DateTime<Utc>) {
        if was_taken {
            *self = Self { last_success: Some(now), last_error: self.last_error.take(), ..Self::default() };
        }
        self.went_wrong(unsent, now);
    }

    fn went_wrong(&mut self, unsent: &Unsent, now: DateTime<Utc>) {
        let since = self.last_error.as_ref().map_or(now, |last| last.since);
        let failure = &unsent.failure;
        let (code, detail) = (failure.code.to_owned(), failure.detail.clone());
        self.last_error = Some(LastError { at: now, since, code, detail });
    }
}

fn longest(kind: Kind) -> TimeDelta {
    if kind == Kind::Ping { LONGEST_PING } else { LONGEST }
}

/// Until the next try, after so many.
fn pause(tries: u32, longest: TimeDelta) -> TimeDelta {
    longest.min(FIRST * (1 << tries.saturating_sub(1).min(6)))
}

/// A clock that went back makes nobody wait for longer than a pause.
fn is_due(next: Option<DateTime<Utc>>, longest: TimeDelta, now: DateTime<Utc>) -> bool {
    next.is_none_or(|next| next <= now || next - now > longest)
}

#[cfg(test)]
mod tests;
