//! Who may come in over HTTP: keys, claims, the address that browsers use.

use std::fmt;

use chrono::{DateTime, Utc};
use url::{Host, Url};

use super::{Error, Values};

/// The fewest and the most bytes of a secret (RFC 7518 section 3.2: HS256 wants a key of at least the hash's size).
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 32..=1024;
/// A secret of fewer different bytes was typed, not drawn.
const DIFFERENT_BYTES: usize = 10;
/// What examples and templates put where a secret belongs.
pub(super) const PLACEHOLDERS: [&str; 10] = [
    "change",
    "example",
    "secret",
    "password",
    "replace",
    "insert",
    "0123456789",
    "abcdefgh",
    "placeholder",
    "default",
];

/// How tokens are checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Access {
    /// Without one nobody comes in, and `serve` doesn't start.
    pub key: Option<Key>,
    /// The `aud` that tokens must carry.
    pub audience: Option<String>,
    /// The `iss` that tokens must carry.
    pub issuer: Option<String>,
    /// The claim that says who it is.
    pub subject_claim: String,
    /// The cookie in which the app keeps its token.
    pub cookie: String,
    /// The claim that makes a superuser …
    pub superuser_claim: String,
    /// … when it is exactly this text.
    pub superuser_value: String,
}

impl Access {
    /// How our own sessions are checked: by a key that nobody else has, and for an audience that nobody else is.
    pub fn of_sessions(key: String) -> Self {
        Self {
            key: Some(Key { algorithm: Algorithm::Hs256, current: Secret(key), previous: None }),
            audience: Some("attendance-backup session".to_owned()),
            issuer: None,
            subject_claim: "sub".to_owned(),
            cookie: String::new(),
            superuser_claim: "role".to_owned(),
            superuser_value: "superuser".to_owned(),
        }
    }

    /// Whatever else the app signs with the shared secret would do for a token.
    pub fn admits_all_tokens(&self) -> bool {
        let shared = self.key.as_ref().is_some_and(Key::is_shared);
        shared && self.audience.is_none()
    }
}

/// The key that tokens are signed with, and the one before it.
#[derive(Clone, PartialEq, Debug)]
pub struct Key {
    /// The one algorithm that is taken.
    pub algorithm: Algorithm,
    /// A shared secret, or a public key in PEM.
    pub current: Secret,
    /// The key before, and until when it counts.
    pub previous: Option<(Secret, DateTime<Utc>)>,
}

impl Key {
    /// The app has it too, and signs with it.
    pub fn is_shared(&self) -> bool {
        self.algorithm == Algorithm::Hs256
    }
}

/// Signatures of RFC 7518 and RFC 8037.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text, for whoever signs or checks with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Where browsers find this service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicUrl {
    /// Scheme, host and port, as `Origin` headers have them (RFC 6454).
    pub origin: String,
    /// The path before ours, without a slash at its end; mostly empty.
    pub prefix: String,
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.prefix)
    }
}

impl PublicUrl {
    /// Browsers reach us encrypted.
    pub fn is_https(&self) -> bool {
        self.origin.starts_with("https:")
    }

    /// Browsers trust the way to us: it is encrypted, or within one machine (W3C Secure Contexts, section 3.1).
    pub fn is_trustworthy(&self) -> bool {
        let url = Url::parse(&self.origin);
        let is_here = match url.as_ref().ok().and_then(Url::host) {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        is_here || self.is_https()
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok().filter(|_| !text.contains(char::is_control))?;
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.has_host();
        let http = matches!(url.scheme(), "http" | "https");
        let prefix = url.path().trim_end_matches('/').to_owned();
        (plain && http).then(|| Self { origin: url.origin().ascii_serialization(), prefix })
    }
}

impl Values {
    pub(super) fn access(&self) -> Result<Access, Error> {
        let text = |text: &str| {
            let fits = (1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control);
            fits.then(|| text.to_owned())
        };
        if self.merged.get("jwt.subject_claim") == self.merged.get("superuser.claim") {
            return Err(
                self.trouble("superuser.claim", "it is the subject's claim already; the two say different things")
            );
        }
        Ok(Access {
            key: self.key()?,
            audience: self.optional("jwt.audience", text)?,
            issuer: self.optional("jwt.issuer", text)?,
            subject_claim: self.parse("jwt.subject_claim", claim)?,
            cookie: self.parse("jwt.cookie", |name| word(name, "_-."))?,
            superuser_claim: self.parse("superuser.claim", claim)?,
            superuser_value: self.parse("superuser.value", text)?,
        })
    }

    fn key(&self) -> Result<Option<Key>, Error> {
        let algorithm = self.parse("jwt.algorithm", algorithm)?;
        let secret = self.optional("jwt.secret", secret)?;
        let public = self.optional("jwt.public_key", public_key)?;
        let previous_secret = self.optional("jwt.previous_secret", secret_of_before)?;
        let previous_public = self.optional("jwt.previous_public_key", public_key)?;
        let until = self.optional("jwt.previous_until", instant)?;
        let (current, previous, names) = match algorithm {
            Algorithm::Hs256 => (secret, previous_secret, ["jwt.public_key", "jwt.previous_public_key"]),
            _ => (public, previous_public, ["jwt.secret", "jwt.previous_secret"]),
        };
        if let Some(name) = names.into_iter().find(|name| self.merged.contains_key(*name)) {
            let problem = "it is not for this BACKUP_JWT_ALGORITHM: HS256 takes a secret, the others a public key";
            return Err(self.trouble(name, problem));
        }
        let Some(current) = current else {
            let orphan = ["jwt.previous_secret", "jwt.previous_public_key", "jwt.previous_until"]
                .into_iter()
                .find(|name| self.merged.contains_key(*name));
            return orphan.map_or(Ok(None), |name| Err(self.trouble(name, "there is no current key beside it")));
        };
        let previous = match (previous, until) {
            (Some(previous), _) if previous == current => {
                return Err(self.trouble("jwt.previous_until", "the previous key and the current one are the same"));
            }
            (Some(previous), Some(until)) => Some((previous, until)),
            (None, None) => None,
            _ => {
                let problem = "a previous key and the instant until which it counts go together; set both or none";
                return Err(self.trouble("jwt.previous_until", problem));
            }
        };
        Ok(Some(Key { algorithm, current, previous }))
    }
}

fn algorithm(text: &str) -> Option<Algorithm> {
    Some(match text {
        "HS256" => Algorithm::Hs256,
        "RS256" => Algorithm::Rs256,
        "ES256" => Algorithm::Es256,
        "EdDSA" => Algorithm::EdDsa,
        _ => return None,
    })
}

/// Long enough, and nothing that stands in an example.
fn secret(text: &str) -> Option<Secret> {
    let lower = text.to_lowercase();
    let mut different: Vec<u8> = text.bytes().collect();
    different.sort_unstable();
    different.dedup();
    let drawn = different.len() >= DIFFERENT_BYTES && !PLACEHOLDERS.iter().any(|word| lower.contains(word));
    (drawn && SECRET_BYTES.contains(&text.len())).then(|| Secret(text.to_owned()))
}

/// What was in use until now may be worse than what is taken today, but not shorter.
fn secret_of_before(text: &str) -> Option<Secret> {
    SECRET_BYTES.contains(&text.len()).then(|| Secret(text.to_owned()))
}

fn public_key(text: &str) -> Option<Secret> {
    let text = text.trim();
    let pem = text.starts_with("-----BEGIN PUBLIC KEY-----") && text.ends_with("-----END PUBLIC KEY-----");
    pem.then(|| Secret(text.to_owned()))
}

fn instant(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc())
}

fn claim(text: &str) -> Option<String> {
    word(text, "_-.:/")
}

fn word(text: &str, besides: &str) -> Option<String> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || besides.contains(c));
    (plain && (1..=64).contains(&text.len())).then(|| text.to_owned())
}
