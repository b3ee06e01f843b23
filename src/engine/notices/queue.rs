//! What is remembered of notices: `notices.json` in the backup directory. What was told, what is still to be sent, and how each
//! channel stands. It is written before a notice is sent and after it: a crash in between sends one twice, and loses none.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::backup::notices::{Memory, Stage};
use crate::disk::{self, Context};
use crate::engine::{Error, LastError};
use crate::notify::{Kind, Notice, Unsent};

/// Below the backup directory.
const FILE: &str = "notices.json";
/// Larger ones are none of ours.
const MAX_BYTES: u64 = 8 << 20;
/// Notices that wait; the oldest give way.
const MOST: usize = 100;
/// What couldn't be sent for so long is of no use any more.
const OLDEST: TimeDelta = TimeDelta::days(7);
/// After the first failure.
const FIRST: TimeDelta = TimeDelta::minutes(1);
/// After many.
const LONGEST: TimeDelta = TimeDelta::hours(1);

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
    /// To whom alone it is still to go, after a try that reached others.
    left: Vec<String>,
    tries: u32,
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
    /// One that isn't there or can't be read is a new one.
    pub(super) fn load(root: &Path) -> Result<Self, Error> {
        let path = root.join(FILE);
        let file = match disk::open_regular(&path) {
            Err(error) if error.is_missing() => return Ok(Self::default()),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).to("read", &path)?;
        let told = |error: &serde_json::Error| {
            tracing::warn!(path = %path.display(), %error, "it can't be read; a new one is made");
        };
        Ok(serde_json::from_slice(&bytes).inspect_err(told).unwrap_or_default())
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

    /// A notice for each of these channels. It takes the place of reminders of the same that still wait.
    pub(super) fn add(&mut self, notice: &Notice, kinds: impl Iterator<Item = Kind>) {
        let is_outdated = |it: &Queued| it.notice.event == notice.event && it.notice.stage == Stage::Reminder;
        self.queue.retain(|it| !is_outdated(it));
        self.queue.extend(kinds.map(|kind| Queued { kind, notice: notice.clone(), left: Vec::new(), tries: 0 }));
        let more = self.queue.len().saturating_sub(MOST);
        for gone in self.queue.drain(..more) {
            tracing::warn!(kind = %gone.kind, subject = gone.notice.subject, "too many notices wait: this one is given up");
        }
    }

    /// What waited for too long, or for a channel that there is no more, is given up.
    pub(super) fn expire(&mut self, kinds: &[Kind], now: DateTime<Utc>) {
        self.queue.retain(|it| {
            let stays = kinds.contains(&it.kind) && now - it.notice.at <= OLDEST;
            if !stays {
                tracing::warn!(kind = %it.kind, subject = it.notice.subject, "a notice could not be sent, and is given up");
            }
            stays
        });
        self.channels.retain(|kind, _| kinds.contains(kind));
    }

    /// What a channel is to send now: what was tried least, then what is oldest, so that one that is refused is in no other's way.
    pub(super) fn next(&self, kind: Kind, now: DateTime<Utc>) -> Option<&Queued> {
        let ready = self.queue.iter().filter(|it| it.kind == kind && self.may_try(kind, now));
        ready.min_by_key(|it| it.tries)
    }

    /// Whether a channel that failed may be tried again. A clock that went back makes nobody wait for longer than a pause.
    pub(super) fn may_try(&self, kind: Kind, now: DateTime<Utc>) -> bool {
        let next = self.channels.get(&kind).and_then(|channel| channel.next_try);
        next.is_none_or(|next| next <= now || next - now > LONGEST)
    }

    /// What came of a try.
    pub(super) fn tried(&mut self, kind: Kind, id: &str, sent: &Result<(), Unsent>, now: DateTime<Utc>) {
        self.channels.entry(kind).or_default().tried(sent, now);
        let at = self.queue.iter().position(|it| it.kind == kind && it.notice.id == id);
        match (at, sent) {
            (Some(at), Ok(())) => drop(self.queue.remove(at)),
            (Some(at), Err(unsent)) => {
                self.queue[at].tries += 1;
                self.queue[at].left.clone_from(&unsent.left);
            }
            (None, _) => {}
        }
    }
}

impl Queued {
    /// To whom alone it is still to go.
    pub(super) fn left(&self) -> &[String] {
        &self.left
    }
}

impl Channel {
    fn tried(&mut self, sent: &Result<(), Unsent>, now: DateTime<Utc>) {
        match sent {
            Ok(()) => *self = Self { last_success: Some(now), ..Self::default() },
            Err(unsent) => {
                self.failures = self.failures.saturating_add(1);
                let pause = FIRST * (1 << self.failures.saturating_sub(1).min(6));
                self.next_try = Some(now + pause.min(LONGEST));
                let since = self.last_error.as_ref().map_or(now, |last| last.since);
                let failure = &unsent.failure;
                let (code, detail) = (failure.code.to_owned(), failure.detail.clone());
                self.last_error = Some(LastError { at: now, since, code, detail });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::notices::Event;
    use crate::notify::Failure;

    fn at(minutes: i64) -> DateTime<Utc> {
        "2026-01-08T01:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
    }

    fn notice(id: u32, event: Event, stage: Stage) -> Notice {
        let (at, text) = (at(0), String::new);
        let lines = Vec::new;
        let (happened, stands, todo) = (lines(), lines(), lines());
        let (subject, lead, from, id) = (text(), text(), text(), id.to_string());
        Notice { id, event, stage, at, since: at, subject, lead, happened, stands, todo, link: None, from }
    }

    fn failed() -> Result<(), Unsent> {
        Err(Failure { code: "notice-refused", detail: "no".to_owned() }.into())
    }

    fn next(remembered: &Remembered, minutes: i64) -> Option<String> {
        remembered.next(Kind::Mail, at(minutes)).map(|it| it.notice.id.clone())
    }

    #[test]
    fn a_failure_puts_the_channel_off_and_the_notice_behind_the_others() {
        let mut remembered = Remembered::default();
        for id in [1, 2] {
            remembered.add(&notice(id, Event::RestoreDone, Stage::Once), [Kind::Mail, Kind::Webhook].into_iter());
        }
        assert_eq!(next(&remembered, 0).as_deref(), Some("1"));
        remembered.tried(Kind::Mail, "1", &failed(), at(0));
        assert_eq!(next(&remembered, 0), None);
        assert_eq!(remembered.next(Kind::Webhook, at(0)).unwrap().notice.id, "1", "each channel by itself");
        assert_eq!(next(&remembered, 1).as_deref(), Some("2"));
        remembered.tried(Kind::Mail, "2", &failed(), at(1));
        assert_eq!((next(&remembered, 2), next(&remembered, 3).as_deref()), (None, Some("1")));
        for _ in 0..70 {
            remembered.tried(Kind::Mail, "1", &failed(), at(3));
        }
        assert_eq!((next(&remembered, 62), next(&remembered, 63).as_deref()), (None, Some("2")));
        assert_eq!(remembered.channels[&Kind::Mail].last_error.as_ref().unwrap().since, at(0));
        // A clock that was wrong once makes nobody wait.
        assert!(next(&remembered, -1_000_000).is_some());
        remembered.tried(Kind::Mail, "2", &Ok(()), at(63));
        assert_eq!((next(&remembered, 63).as_deref(), remembered.channels[&Kind::Mail].failures), (Some("1"), 0));
    }

    #[test]
    fn what_waits_is_bounded_and_gives_way() {
        let (mut remembered, kinds) = (Remembered::default(), [Kind::Mail]);
        remembered.add(&notice(0, Event::Stale, Stage::Began), kinds.into_iter());
        for id in 1..4 {
            remembered.add(&notice(id, Event::Stale, Stage::Reminder), kinds.into_iter());
        }
        let ids = |it: &Remembered| it.queue.iter().map(|it| it.notice.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&remembered), ["0", "3"]);
        for id in 4..300 {
            remembered.add(&notice(id, Event::SettingsChanged, Stage::Once), kinds.into_iter());
        }
        assert_eq!((remembered.queue.len(), ids(&remembered)[99].as_str()), (MOST, "299"));
        remembered.expire(&kinds, at(7 * 24 * 60));
        assert_eq!(remembered.queue.len(), MOST);
        remembered.expire(&[Kind::Webhook], at(0));
        assert!(remembered.queue.is_empty());
    }

    #[test]
    fn it_comes_back_as_it_was_kept() {
        let (dir, mut remembered) = (tempfile::tempdir().unwrap(), Remembered::default());
        assert_eq!(Remembered::load(dir.path()).unwrap(), remembered);
        remembered.add(&notice(1, Event::Stale, Stage::Began), [Kind::Mail].into_iter());
        remembered.tried(Kind::Mail, "1", &failed(), at(0));
        remembered.seen = Some(7);
        remembered.save(dir.path()).unwrap();
        assert_eq!(Remembered::load(dir.path()).unwrap(), remembered);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Remembered::load(dir.path()).unwrap(), Remembered::default());
    }
}
