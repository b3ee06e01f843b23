//! Notices by e-mail: one message to each recipient, in plain text and in HTML, over SMTP with TLS.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use lettre::Message as Letter;
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Mailboxes, MultiPart};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{Certificate, SmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};
use url::{Host, Url};

use super::{Extent, Failure, Message, PATIENCE, Trust, Unsent, guard, render};
use crate::backup::hex;

/// How long a server may think about a mail: it asks others, and looks for what is bad in it (RFC 5321 section 4.5.3.2). Whoever
/// gives up before sends twice what was taken.
const THINKING: Duration = Duration::from_secs(300);
/// More are a mailing list's matter.
const RECIPIENTS: usize = 20;

/// From whom, to whom, by which server.
#[derive(Clone, PartialEq, Debug)]
pub struct Mail {
    /// Who takes it.
    pub server: Server,
    /// From whom.
    pub from: Mailbox,
    /// To whom.
    pub to: Vec<Mailbox>,
}

/// A mail server.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    host: String,
    port: u16,
    encryption: Encryption,
    login: Option<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encryption {
    /// From the first byte.
    Whole,
    /// Asked for first; without it nothing is sent.
    Upgraded,
    /// Within a network of one's own.
    None,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} (secret)", self.host, self.port)
    }
}

impl Server {
    /// `smtps://user:password@host`, `smtp://host:587`; the password may come apart. The error says what is wrong, without the
    /// text; nothing where it isn't of that form at all.
    pub fn parse(text: &str, password: Option<&str>) -> Result<Self, Option<&'static str>> {
        let url = Url::parse(text).ok().filter(|_| !text.contains(char::is_control)).ok_or(None)?;
        let (encryption, port) = match (url.scheme(), url.query()) {
            ("smtps", None) => (Encryption::Whole, 465),
            ("smtp", None) => (Encryption::Upgraded, 587),
            ("smtp", Some("tls=none")) => (Encryption::None, 25),
            _ => return Err(None),
        };
        let host = match url.host().ok_or(None)? {
            Host::Domain(name) if is_name(name) => name.to_owned(),
            Host::Domain(_) => return Err(None),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() || url.port() == Some(0) {
            return Err(None);
        }
        let login = login(&url, password)?;
        if login.is_some() && encryption == Encryption::None {
            return Err(Some("a password is never sent without TLS; take out ?tls=none, or the user"));
        }
        Ok(Self { host, port: url.port().unwrap_or(port), encryption, login })
    }
}

/// The user in the URL, and the password there or beside it.
fn login(url: &Url, password: Option<&str>) -> Result<Option<(String, String)>, Option<&'static str>> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().ok()?.into_owned();
        (!text.contains(char::is_control)).then_some(text)
    };
    let user = decoded(url.username()).ok_or(None)?;
    let within = url.password().map(|text| decoded(text).ok_or(None)).transpose()?;
    match (user.is_empty(), within, password) {
        (_, Some(_), Some(_)) => Err(Some("the password is in it and in BACKUP_SMTP_PASSWORD too; keep one")),
        (true, None, None) => Ok(None),
        (true, ..) => Err(Some("there is a password and no user; write smtps://user@host")),
        (false, None, None) => Err(Some("there is a user and no password; set BACKUP_SMTP_PASSWORD")),
        (false, Some(password), None) => Ok(Some((user, password))),
        (false, None, Some(password)) => Ok(Some((user, password.to_owned()))),
    }
}

fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// `Backups <backup@school.example>`.
pub fn sender(text: &str) -> Option<Mailbox> {
    Mailbox::from_str(text).ok().filter(|_| !text.contains(char::is_control))
}

/// Some of those, divided by commas.
pub fn recipients(text: &str) -> Option<Vec<Mailbox>> {
    let boxes = Mailboxes::from_str(text).ok().filter(|_| !text.contains(char::is_control))?;
    let all: Vec<Mailbox> = boxes.into_iter().collect();
    (1..=RECIPIENTS).contains(&all.len()).then_some(all)
}

/// Nobody's absence is to be told to a program (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// Who has a notice is remembered by this, so that no address lies in a file.
fn mark(to: &Mailbox) -> String {
    hex(&Sha256::digest(to.email.to_string())[..8])
}

impl Mail {
    /// To each by itself, so that one that is refused is in no other's way, and nobody sees who else is told.
    pub(super) fn send(&self, message: &Message, trust: &Trust, taken: &mut dyn FnMut(String)) -> Result<(), Unsent> {
        let encrypted = self.server.encryption != Encryption::None;
        let mut addresses = guard::addresses(&self.server.host, self.server.port, encrypted, trust)?;
        let (mut first, mut extent) = (None, Extent::Refused);
        for (place, to) in self.to.iter().enumerate().filter(|(_, to)| !message.had.contains(&mark(to))) {
            let sent = match self.letter(message, to) {
                Ok(letter) => self.submit(&letter, self.connection(&mut addresses, trust)?),
                Err(failure) => Err((failure, Extent::Refused)),
            };
            match sent {
                Ok(()) => taken(mark(to)),
                Err((failure, whose)) => {
                    extent = if whose == Extent::Refused { extent } else { whose };
                    first.get_or_insert((place + 1, failure));
                }
            }
        }
        let Some((number, failure)) = first else { return Ok(()) };
        let failure = match self.to.len() {
            1 => failure,
            count => {
                Failure::new(failure.code, format!("number {number} of {count} in BACKUP_EMAIL_TO: {}", failure.detail))
            }
        };
        Err(Unsent { failure, extent })
    }

    fn letter(&self, message: &Message, to: &Mailbox) -> Result<Letter, Failure> {
        let notice = &message.notice;
        let letter = Letter::builder()
            .from(self.from.clone())
            .to(to.clone())
            .subject(&notice.subject)
            .date(SystemTime::from(notice.at))
            .message_id(Some(format!("<{}@{}>", notice.id, self.from.email.domain())))
            .header(AutoSubmitted)
            .multipart(MultiPart::alternative_plain_html(render::plain(notice), render::html(notice)));
        letter.map_err(|_| {
            Failure::new("notice-refused", "no mail can be made of it; look at BACKUP_EMAIL_FROM and BACKUP_EMAIL_TO")
        })
    }

    /// Nothing is given to another server once this one may have it.
    fn submit(&self, letter: &Letter, mut connection: SmtpConnection) -> Result<(), (Failure, Extent)> {
        // What can't be set is felt when it is read.
        let _ = connection.set_timeout(Some(THINKING));
        let sent = connection.send(letter.envelope(), &letter.formatted());
        let _ = connection.set_timeout(Some(PATIENCE));
        connection.abort();
        let extent = |error: &Error| if error.is_permanent() { Extent::Refused } else { Extent::Recipients };
        sent.map(drop).map_err(|error| (self.understood(&error, THINKING), extent(&error)))
    }

    /// To the first of the server's addresses that answers, which is the first for all that follow.
    fn connection(&self, addresses: &mut [SocketAddr], trust: &Trust) -> Result<SmtpConnection, Failure> {
        let mut failure = None;
        for at in 0..addresses.len() {
            match self.connect(addresses[at], trust)? {
                Ok(connection) => {
                    addresses.swap(0, at);
                    return Ok(connection);
                }
                // Somebody answered.
                Err(error) if error.status().is_some() || error.is_tls() || error.is_client() => {
                    return Err(self.understood(&error, PATIENCE));
                }
                Err(error) => failure = Some(self.understood(&error, PATIENCE)),
            }
        }
        Err(failure.unwrap_or_else(Failure::slow))
    }

    /// Signed in, with TLS if that is wanted.
    fn connect(&self, address: SocketAddr, trust: &Trust) -> Result<Result<SmtpConnection, Error>, Failure> {
        let encryption = self.server.encryption;
        // The certificate must be the host's; what is connected to is the address that was judged.
        let parameters = if encryption == Encryption::None { None } else { Some(self.parameters(trust)?) };
        let (hello, whole) = (ClientId::Domain(self.from.email.domain().to_owned()), encryption == Encryption::Whole);
        let begin = || {
            let at_once = parameters.as_ref().filter(|_| whole);
            let mut connection = SmtpConnection::connect(address, Some(PATIENCE), &hello, at_once, None)?;
            if let Some(parameters) = parameters.as_ref().filter(|_| !whole) {
                connection.starttls(parameters, &hello)?;
            }
            if let Some((user, password)) = self.server.login.clone() {
                connection.auth(DEFAULT_MECHANISMS, &Credentials::new(user, password))?;
            }
            Ok(connection)
        };
        Ok(begin())
    }

    fn parameters(&self, trust: &Trust) -> Result<TlsParameters, Failure> {
        let broken = |_| {
            Failure::new("notice-certificate", "no certificates of authorities can be had; install ca-certificates")
        };
        let builder = TlsParameters::builder(self.server.host.clone());
        let mut authorities = Vec::new();
        for pem in trust.pieces() {
            authorities.push(Certificate::from_pem(pem.as_bytes()).map_err(broken)?);
        }
        authorities.into_iter().fold(builder, |builder, one| builder.add_root_certificate(one)).build().map_err(broken)
    }

    /// What it means and what to do. What the server said is not repeated, but for its code.
    fn understood(&self, error: &Error, waited: Duration) -> Failure {
        let server = "the mail server";
        let Some(status) = error.status() else {
            return self.unanswered(error, waited);
        };
        match u16::from(status) {
            code @ (530 | 534 | 535 | 538) => {
                let what = "look at the user in BACKUP_SMTP_URL and at the password";
                Failure::new("notice-refused", format!("{server} refuses the sign-in ({code}); {what}"))
            }
            code @ 500..600 => {
                let what = "look at BACKUP_EMAIL_FROM and BACKUP_EMAIL_TO, and at that server's log";
                Failure::new("notice-refused", format!("{server} refuses the mail ({code}); {what}"))
            }
            code => Failure::new("notice-put-off", format!("{server} wants it later ({code}); it is tried again")),
        }
    }

    fn unanswered(&self, error: &Error, waited: Duration) -> Failure {
        let (server, mut why, mut is_late) = ("the mail server", error.to_string(), false);
        let mut source = error.source();
        while let Some(inner) = source {
            why += &inner.to_string();
            let kind = inner.downcast_ref::<io::Error>().map(io::Error::kind);
            // The one of a connection, the other of an answer.
            is_late |= matches!(kind, Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock));
            source = inner.source();
        }
        if why.contains("certificate") || error.is_tls() {
            let what = "it must be of that name and by an authority that is trusted; BACKUP_NOTIFY_CA_FILE names one of your own";
            Failure::new("notice-certificate", format!("{server} has no certificate that counts; {what}"))
        } else if error.is_client() && self.server.encryption == Encryption::Upgraded {
            let what = "nothing was sent; use smtps://, or ask who looks after that server";
            Failure::new(
                "notice-certificate",
                format!("{server} doesn't offer STARTTLS, or not the sign-in that is wanted; {what}"),
            )
        } else if is_late {
            let what = "is it overloaded, or is it smtps:// that is meant?";
            Failure::new("notice-slow", format!("{server} says nothing for {} s; {what}", waited.as_secs()))
        } else {
            let what = "look at the host and the port in BACKUP_SMTP_URL, and whether a firewall is between";
            Failure::new("notice-unreachable", format!("{server} doesn't answer as one; {what}"))
        }
    }
}
