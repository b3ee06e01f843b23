//! Keys of age: recipients, which may be known, and identities, which may not.

use std::fmt;
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use age::x25519;
use chrono::{DateTime, Utc};

use crate::backup::timestamp;

/// The public half of a key: `age1…`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient(x25519::Recipient);

impl Recipient {
    pub(super) fn as_age(&self) -> &dyn age::Recipient {
        &self.0
    }
}

impl FromStr for Recipient {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let recipient: x25519::Recipient = text.parse().map_err(drop)?;
        // A point that no secret belongs to is of the right form, and nothing can be encrypted to it.
        let honoured = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient));
        honoured.map(|_| Self(recipient)).map_err(drop)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The secret half of a key: it opens what is encrypted to its recipient, and is never shown.
#[derive(Clone)]
pub struct Identity(x25519::Identity);

impl Identity {
    /// The public half.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    pub(super) fn as_age(&self) -> &dyn age::Identity {
        &self.0
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.recipient() == other.recipient()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(identity of {})", self.recipient())
    }
}

/// The identities of a file as `age-keygen` and `keygen` write it. Nothing of it is quoted when it is wrong.
pub fn identities(text: &str) -> Result<Vec<Identity>, String> {
    if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE") {
        return Err("it is itself encrypted; decrypt it first (age -d), nobody is here to be asked".to_owned());
    }
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let identity = line.parse().map_err(|_| {
            format!("line {} is not an identity; they look like AGE-SECRET-KEY-1… (X25519 only)", number + 1)
        })?;
        found.push(Identity(identity));
    }
    if found.is_empty() { Err("there is no identity in it (AGE-SECRET-KEY-1…)".to_owned()) } else { Ok(found) }
}

/// A new key.
pub struct Keypair {
    /// The public half.
    pub recipient: Recipient,
    /// The file for the secret half, as age reads it.
    pub file: String,
}

impl Keypair {
    /// Draws one.
    pub fn generate(now: DateTime<Utc>) -> Self {
        let identity = x25519::Identity::generate();
        let recipient = Recipient(identity.to_public());
        let (created, secret) = (timestamp::text(now), identity.to_string());
        let file = format!("# created: {created}\n# public key: {recipient}\n{}\n", secret.expose_secret());
        Self { recipient, file }
    }
}
