//! A test of all channels, for whoever wants to see a notice arrive.

use serde::Serialize;
use serde_json::Map;
use utoipa::ToSchema;

use super::found;
use super::text::Teller;
use crate::audit::{Entry, Kind as LineKind};
use crate::engine::{Call, Engine, Error, entry};
use crate::notify::{Failure, Kind, LIMIT, Message, Sending};

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

impl Engine {
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
        let line = Entry { ok: Some(true), details, ..entry(LineKind::Outcome, "notify-test", &call.actor, None) };
        self.append_first(line)?;
        let status = self.status().ok();
        let in_time = status.as_ref().is_some_and(|status| !found(status).iter().any(|one| one.event.is_late()));
        let zone = self.settings_in_force().schedule.timezone;
        let teller = Teller { engine: self, status: status.as_ref(), zone, now: self.clock.now() };
        let message = Message { notice: teller.test(&call.actor), had: Vec::new(), now: teller.now };
        let test = |kind: Kind| {
            if kind == Kind::Ping && !in_time {
                let detail = "not sent: something is late, and the ping says that nothing is; `status` tells what";
                return ChannelTested { kind, ok: true, detail: detail.to_owned() };
            }
            let begun = match kind {
                Kind::Ping => self.config.notices.ping(|_| {}),
                Kind::Mail | Kind::Webhook => self.config.notices.send(kind, &message, |_| {}),
            };
            let late = || Err(Failure::slow().into());
            let ended = |sending: Sending| sending.wait(LIMIT, &|| call.control.is_cancelled()).unwrap_or_else(late);
            let sent = begun.and_then(ended);
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
}
