//! Notices on their way to people: what one is, and the channels by which it goes: mail, a webhook in one of several forms, and
//! the ping of a dead man's switch. Every address is looked up once, judged (`guard`), and only what was judged is connected to;
//! nobody is followed to another address, and nothing of an answer but its status is kept.

mod guard;
mod hook;
mod mail;
mod render;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::Certificate;
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use crate::backup::notices::{Event, Stage};
use crate::backup::timestamp;

pub use hook::{Form, Key, Webhook};
pub use mail::{Mail, Server, recipients, sender};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// What takes longer than that for one who is told is said to be slow, and waited for all the same.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at the wish to stop.
const NAP: Duration = Duration::from_millis(50);

/// What is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// The same in each try to send it.
    pub id: String,
    /// What it is about.
    pub event: Event,
    /// Where that stands.
    pub stage: Stage,
    /// When it was written.
    #[serde(with = "timestamp")]
    pub at: DateTime<Utc>,
    /// Since when it is so.
    #[serde(with = "timestamp")]
    pub since: DateTime<Utc>,
    /// In one line.
    pub subject: String,
    /// In a sentence.
    pub lead: String,
    /// What was found, each with what to do about it.
    pub happened: Vec<String>,
    /// What there is to fall back on.
    pub stands: Vec<String>,
    /// What to do now.
    pub todo: Vec<String>,
    /// Where the page is.
    pub link: Option<String>,
    /// Who says so.
    pub from: String,
}

/// A notice on its way.
#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    /// What is told.
    pub notice: Notice,
    /// Who has it already.
    pub had: Vec<String>,
    /// When it is sent.
    pub now: DateTime<Utc>,
}

/// By which way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = NoticeChannel)]
pub enum Kind {
    /// E-mail.
    Mail,
    /// A webhook, ntfy, Slack or Discord.
    Webhook,
    /// The dead man's switch; notices don't go there.
    Ping,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Mail => "mail",
            Kind::Webhook => "webhook",
            Kind::Ping => "ping",
        })
    }
}

/// An address that may hold what nobody else should know.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Address {
    /// One of HTTP or HTTPS, with a host, and nothing that isn't sent.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok().filter(|_| text.len() <= 2000 && !text.contains(char::is_control))?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.host().is_some() && url.port() != Some(0);
        (is_http && url.fragment().is_none()).then_some(Self(url))
    }
}

/// All that is configured.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Channels {
    /// E-mail.
    pub mail: Option<Mail>,
    /// A webhook.
    pub webhook: Option<Webhook>,
    /// The dead man's switch.
    pub ping: Option<Address>,
    /// What they have in common.
    pub trust: Trust,
}

/// Whom to connect to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trust {
    /// Also addresses within this machine and the networks around it.
    pub private: bool,
    /// Certificates of authorities besides the system's, in PEM.
    pub authorities: Option<String>,
}

impl Trust {
    /// The PEM, if all of it is certificates.
    pub fn authorities(pem: &str) -> Option<String> {
        let count = Certificate::from_pem_bundle(pem.as_bytes()).ok()?.len();
        (count > 0 && pem.matches("-----BEGIN").count() == count).then(|| pem.to_owned())
    }

    /// Each certificate by itself.
    fn pieces(&self) -> impl Iterator<Item = String> {
        let begun = |piece: &str| format!("-----BEGIN{piece}");
        let pem = self.authorities.as_deref().unwrap_or_default();
        pem.split("-----BEGIN").skip(1).map(begun)
    }
}

/// Why a notice did not go.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// A stable word.
    pub code: &'static str,
    /// What happened, and what to do.
    pub detail: String,
}

impl Failure {
    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// Nobody knows yet what becomes of it.
    pub fn slow() -> Self {
        let text = "no end of it is seen yet, which should take seconds; is that server overloaded?";
        Self::new("notice-slow", text)
    }

    fn fault() -> Self {
        Self::new("notice-unsent", "it ended by a fault of this program's own; look at the log of `serve`")
    }
}

/// Whom a failure is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Whoever should be told by this channel.
    Channel,
    /// Some who should be told.
    Recipients,
    /// The same, and the server will say nothing else another time.
    Refused,
}

/// A notice that did not go, or not to all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsent {
    /// Why.
    pub failure: Failure,
    /// Whom that is about.
    pub extent: Extent,
}

impl From<Failure> for Unsent {
    fn from(failure: Failure) -> Self {
        Self { failure, extent: Extent::Channel }
    }
}

/// What comes of a notice, as it comes: whoever waits for its end may have given up by then.
pub enum Told {
    /// This one has it.
    Taken(String),
    /// That is all.
    Ended(Result<(), Unsent>),
}

impl Channels {
    /// Those that are configured.
    pub fn kinds(&self) -> Vec<Kind> {
        let all = [
            (Kind::Mail, self.mail.is_some()),
            (Kind::Webhook, self.webhook.is_some()),
            (Kind::Ping, self.ping.is_some()),
        ];
        all.into_iter().filter(|(_, is_there)| *is_there).map(|(kind, _)| kind).collect()
    }

    /// How long a notice may take by one of them.
    pub fn limit(&self, kind: Kind) -> Duration {
        let recipients = self.mail.as_ref().filter(|_| kind == Kind::Mail).map_or(1, |mail| mail.to.len());
        LIMIT * u32::try_from(recipients.max(1)).unwrap_or(1)
    }

    /// Begins to send a notice by one of them.
    pub fn send(
        &self,
        kind: Kind,
        message: &Message,
        told: impl FnMut(Told) + Send + 'static,
    ) -> Result<Sending, Unsent> {
        let (channels, message) = (self.clone(), message.clone());
        Sending::begin(kind, told, move |taken| match (kind, &channels.mail, &channels.webhook) {
            (Kind::Mail, Some(mail), _) => mail.send(&message, &channels.trust, taken),
            (Kind::Webhook, _, Some(webhook)) => Ok(webhook.send(&message, &channels.trust)?),
            // Taken out of the configuration, with notices still to be sent; or none for notices.
            _ => Ok(()),
        })
    }

    /// Begins to tell the dead man's switch that all is in time.
    pub fn ping(&self, told: impl FnMut(Told) + Send + 'static) -> Result<Sending, Unsent> {
        let (ping, trust) = (self.ping.clone(), self.trust.clone());
        Sending::begin(Kind::Ping, told, move |_| Ok(ping.map_or(Ok(()), |address| hook::ping(&address, &trust))?))
    }
}

/// A notice on its way, by a thread of its own: what hangs is left to itself, and what comes of it is told however late.
pub struct Sending(mpsc::Receiver<Result<(), Unsent>>);

impl Sending {
    fn begin(
        kind: Kind,
        mut told: impl FnMut(Told) + Send + 'static,
        act: impl FnOnce(&mut dyn FnMut(String)) -> Result<(), Unsent> + Send + 'static,
    ) -> Result<Self, Unsent> {
        let (tell, ended) = mpsc::channel();
        let sending = std::thread::Builder::new().name(format!("notices by {kind}")).spawn(move || {
            let acted = AssertUnwindSafe(|| act(&mut |who| told(Told::Taken(who))));
            let sent = catch_unwind(acted).unwrap_or_else(|_| Err(Failure::fault().into()));
            told(Told::Ended(sent.clone()));
            // Whoever waited may have given up.
            let _ = tell.send(sent);
        });
        let none = |_| Failure::new("notice-unsent", "no thread could be had for it; it is tried again").into();
        sending.map(|_| Self(ended)).map_err(none)
    }

    /// What came of it; nothing, if that isn't known after so long, or nobody wants to wait any more.
    pub fn wait(&self, limit: Duration, cancelled: &dyn Fn() -> bool) -> Option<Result<(), Unsent>> {
        let begun = Instant::now();
        loop {
            match self.0.recv_timeout(NAP.min(limit)) {
                Ok(sent) => return Some(sent),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Some(Err(Failure::fault().into())),
                Err(mpsc::RecvTimeoutError::Timeout) if begun.elapsed() >= limit || cancelled() => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
