//! Notices on their way to people: what one is, and the channels by which it goes: mail, a webhook in one of several forms, and
//! the ping of a dead man's switch. Every address is looked up once, judged (`guard`), and only what was judged is connected to;
//! nobody is followed to another address, and nothing of an answer but its status is kept.

mod guard;
mod hook;
mod mail;
mod render;

use std::fmt;
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
/// How long all of a channel's work for one notice is waited for, however slowly it goes on.
const LIMIT: Duration = Duration::from_secs(60);
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
    /// To whom alone; to all, where nobody is named.
    pub left: Vec<String>,
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

    fn slow() -> Self {
        let text = format!("it took longer than {} s; is that server overloaded?", LIMIT.as_secs());
        Self::new("notice-slow", text)
    }
}

/// A notice that did not go, or not to all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsent {
    /// Why.
    pub failure: Failure,
    /// To whom it did not; all, where nobody is named.
    pub left: Vec<String>,
}

impl From<Failure> for Unsent {
    fn from(failure: Failure) -> Self {
        Self { failure, left: Vec::new() }
    }
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

    /// Sends a notice by one of them.
    pub fn send<T: Send + 'static>(&self, kind: Kind, message: &Message, wait: Wait<T>) -> Result<(), Unsent> {
        let (channels, message) = (self.clone(), message.clone());
        wait.for_end_of(kind, move || match (kind, &channels.mail, &channels.webhook) {
            (Kind::Mail, Some(mail), _) => mail.send(&message, &channels.trust),
            (Kind::Webhook, _, Some(webhook)) => Ok(webhook.send(&message, &channels.trust)?),
            // Taken out of the configuration, with notices still to be sent; or none for notices.
            _ => Ok(()),
        })
    }

    /// Tells the dead man's switch that all is in time.
    pub fn ping<T: Send + 'static>(&self, wait: Wait<T>) -> Result<(), Unsent> {
        let (ping, trust) = (self.ping.clone(), self.trust.clone());
        wait.for_end_of(Kind::Ping, move || Ok(ping.map_or(Ok(()), |address| hook::ping(&address, &trust))?))
    }
}

/// For how long somebody waits: a minute at most, and no longer than until it is cancelled. What hangs is left to itself.
pub struct Wait<'a, T> {
    /// Nobody waits any more.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Held until it has ended, whoever waits.
    pub busy: T,
}

impl<T: Send + 'static> Wait<'_, T> {
    fn for_end_of(self, kind: Kind, act: impl FnOnce() -> Result<(), Unsent> + Send + 'static) -> Result<(), Unsent> {
        let (tell, told) = mpsc::channel();
        let busy = self.busy;
        let sending = std::thread::Builder::new().name(format!("notices by {kind}")).spawn(move || {
            let _busy = busy;
            // Whoever waited may have given up.
            let _ = tell.send(act());
        });
        if sending.is_err() {
            return Err(Failure::new("notice-unsent", "no thread could be had for it; it is tried again").into());
        }
        let begun = Instant::now();
        while begun.elapsed() < LIMIT && !(self.cancelled)() {
            match told.recv_timeout(NAP) {
                Ok(sent) => return sent,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        Err(Failure::slow().into())
    }
}
