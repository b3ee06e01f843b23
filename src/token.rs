//! Tokens (RFC 7519): who comes in, and as what. The key and the one algorithm are the configuration's; nothing in a token
//! chooses them. Signature, audience and issuer are checked by jsonwebtoken, times on our own clock and with strict types.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::config::{Access, Algorithm, Key, Secret};

/// Clocks of two machines differ by this much.
const LEEWAY: chrono::Duration = chrono::Duration::seconds(30);
/// A longer token is no token.
const MAX_TOKEN: usize = 8 << 10;
/// Characters of a subject.
const MAX_SUBJECT: usize = 200;
/// An `exp` beyond year 9999 is none (RFC 3339 can't write it).
const LAST_SECOND: i64 = 253_402_300_799;
/// Bytes of an RSA key of 2048 bits: the modulus, the smallest exponent and their frames (RFC 8017 appendix A.1.1).
const LEAST_RSA: usize = 268;
/// Bytes of a point on P-256, uncompressed (SEC 1 section 2.3.3).
const P256_POINT: usize = 65;
/// Bytes of a public key (RFC 8032 section 5.1.5).
const ED25519_KEY: usize = 32;
/// Where issuers say what a token is for.
const PURPOSES: [&str; 6] = ["typ", "type", "token_type", "token_use", "use", "purpose"];

/// Whoever holds a token that counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Who.
    pub subject: String,
    /// May do everything.
    pub superuser: bool,
}

/// Why a token doesn't count. For logs: whoever sent it learns nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It isn't a token of the configured algorithm.
    #[error("it is not a token of the configured algorithm")]
    Malformed,
    /// Another key signed it, or nobody.
    #[error("the signature is not by a key of ours")]
    Signature,
    /// Its time is over, or has not come.
    #[error("it has expired, or does not count yet")]
    Time,
    /// It is for another audience, by another issuer, or for another purpose.
    #[error("it is for another audience, of another issuer, or for another purpose")]
    Purpose,
    /// A claim is missing, is there twice or isn't of the right type.
    #[error("a claim is missing or malformed")]
    Claims,
}

/// Why no token can be made, or none checked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Nobody could come in.
    #[error(
        "there is no key to check tokens with: set BACKUP_JWT_SECRET (or BACKUP_JWT_SECRET_FILE) to the secret that the app \
         signs with, or BACKUP_JWT_PUBLIC_KEY_FILE and BACKUP_JWT_ALGORITHM"
    )]
    NoKey,
    /// Public keys check and don't sign.
    #[error("only a public key is configured, which can check tokens but not sign any; get one from the app")]
    CannotSign,
    /// The PEM isn't such a key.
    #[error(
        "{0} is not a public key for BACKUP_JWT_ALGORITHM={1}: RS256 takes an RSA key of at least 2048 bits, ES256 one on the \
         curve P-256, EdDSA an Ed25519 key"
    )]
    BadKey(&'static str, &'static str),
    /// A subject that tokens can't carry.
    #[error("a subject has 1 to {MAX_SUBJECT} characters, none of them a control character")]
    BadSubject,
}

/// The keys, ready to check with and, where it is a shared secret, to sign with.
#[derive(Clone)]
pub struct Keyring {
    access: Access,
    validation: Validation,
    current: DecodingKey,
    previous: Option<(DecodingKey, DateTime<Utc>)>,
    signing: Option<EncodingKey>,
    clock: Clock,
}

impl Keyring {
    /// The configured keys.
    pub fn new(access: &Access, clock: &Clock) -> Result<Self, Error> {
        let Some(key) = &access.key else { return Err(Error::NoKey) };
        let previous = match &key.previous {
            Some((secret, until)) => Some((decoding(key.algorithm, secret, "BACKUP_JWT_PREVIOUS_PUBLIC_KEY")?, *until)),
            None => None,
        };
        Ok(Self {
            validation: validation(access, key),
            current: decoding(key.algorithm, &key.current, "BACKUP_JWT_PUBLIC_KEY")?,
            previous,
            signing: matches!(key.algorithm, Algorithm::Hs256)
                .then(|| EncodingKey::from_secret(key.current.reveal().as_bytes())),
            access: access.clone(),
            clock: clock.clone(),
        })
    }

    /// Who holds this token.
    pub fn check(&self, token: &str) -> Result<Caller, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(Refused::Malformed);
        }
        let now = self.clock.now();
        let previous = self.previous.iter().filter(|(_, until)| now < *until).map(|(key, _)| key);
        let mut refused = Refused::Signature;
        for key in std::iter::once(&self.current).chain(previous) {
            match self.claims(token, key) {
                Ok(claims) => return self.caller(&claims, now),
                Err(error) => refused = error,
            }
            if refused != Refused::Signature {
                break;
            }
        }
        Err(refused)
    }

    /// A token for `subject`, counting for `lifetime`.
    pub fn sign(&self, subject: &str, superuser: bool, lifetime: Duration) -> Result<String, Error> {
        let Some(key) = &self.signing else { return Err(Error::CannotSign) };
        if !is_subject(subject) {
            return Err(Error::BadSubject);
        }
        let now = self.clock.now().timestamp();
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let mut claims = json!({ "iat": now, "exp": now.saturating_add(lifetime).min(LAST_SECOND) });
        if superuser {
            claims[&self.access.superuser_claim] = json!(self.access.superuser_value);
        }
        claims[&self.access.subject_claim] = json!(subject);
        for (name, value) in [("aud", &self.access.audience), ("iss", &self.access.issuer)] {
            if let Some(value) = value {
                claims[name] = json!(value);
            }
        }
        let header = Header::new(jsonwebtoken::Algorithm::HS256);
        // An HMAC key takes any bytes and the claims are JSON already: what is left to fail is the wrong kind of key.
        jsonwebtoken::encode(&header, &claims, key).map_err(|_| Error::CannotSign)
    }

    fn claims(&self, token: &str, key: &DecodingKey) -> Result<Claims, Refused> {
        use jsonwebtoken::errors::ErrorKind;
        let data =
            jsonwebtoken::decode::<Claims>(token, key, &self.validation).map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => Refused::Signature,
                ErrorKind::InvalidAudience | ErrorKind::InvalidIssuer => Refused::Purpose,
                ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Refused::Claims,
                _ => Refused::Malformed,
            })?;
        // An extension that must be understood isn't (RFC 7515 section 4.1.11); another type is for another purpose.
        let typ = data.header.typ.as_deref().unwrap_or("JWT");
        if data.header.crit.is_some() {
            return Err(Refused::Malformed);
        }
        if !["jwt", "at+jwt", "application/at+jwt"].iter().any(|known| typ.eq_ignore_ascii_case(known)) {
            return Err(Refused::Purpose);
        }
        Ok(data.claims)
    }

    fn caller(&self, Claims(claims): &Claims, now: DateTime<Utc>) -> Result<Caller, Refused> {
        let instant = |name: &str| match claims.get(name).map(Value::as_i64) {
            Some(Some(second @ 0..=LAST_SECOND)) => Ok(DateTime::from_timestamp(second, 0)),
            Some(_) => Err(Refused::Claims),
            None => Ok(None),
        };
        let expires = instant("exp")?.ok_or(Refused::Claims)?;
        let begins = instant("nbf")?.unwrap_or(DateTime::UNIX_EPOCH);
        if expires + LEEWAY <= now || now < begins - LEEWAY {
            return Err(Refused::Time);
        }
        // A list of issuers, which jsonwebtoken takes, is none (RFC 7519 section 4.1.1).
        if self.access.issuer.is_some() && !claims.get("iss").is_some_and(Value::is_string) {
            return Err(Refused::Purpose);
        }
        let refreshes = |name: &str| {
            claims.get(name).and_then(Value::as_str).is_some_and(|use_| use_.to_ascii_lowercase().contains("refresh"))
        };
        if PURPOSES.iter().any(|name| refreshes(name)) {
            return Err(Refused::Purpose);
        }
        let subject = match claims.get(&self.access.subject_claim) {
            Some(Value::String(subject)) => subject.clone(),
            // Apps that take the row's number for a name.
            Some(Value::Number(number)) if number.is_u64() => number.to_string(),
            _ => return Err(Refused::Claims),
        };
        if !is_subject(&subject) {
            return Err(Refused::Claims);
        }
        let role = claims.get(&self.access.superuser_claim).and_then(Value::as_str);
        Ok(Caller { subject, superuser: role == Some(self.access.superuser_value.as_str()) })
    }
}

fn validation(access: &Access, key: &Key) -> Validation {
    let mut validation = Validation::new(algorithm(key.algorithm));
    // Times are checked by `caller`.
    validation.validate_exp = false;
    let mut required = Vec::new();
    if let Some(audience) = &access.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    if let Some(issuer) = &access.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}

fn decoding(algorithm: Algorithm, key: &Secret, name: &'static str) -> Result<DecodingKey, Error> {
    let bytes = key.reveal().as_bytes();
    let (parsed, sizes, algorithm) = match algorithm {
        Algorithm::Hs256 => return Ok(DecodingKey::from_secret(bytes)),
        Algorithm::Rs256 => (DecodingKey::from_rsa_pem(bytes), LEAST_RSA..=usize::MAX, "RS256"),
        Algorithm::Es256 => (DecodingKey::from_ec_pem(bytes), P256_POINT..=P256_POINT, "ES256"),
        Algorithm::EdDsa => (DecodingKey::from_ed_pem(bytes), ED25519_KEY..=ED25519_KEY, "EdDSA"),
    };
    // A key of another curve or size is parsed as well, and then no token would count.
    let fits = |key: &DecodingKey| key.try_get_as_bytes().is_ok_and(|bytes| sizes.contains(&bytes.len()));
    parsed.ok().filter(fits).ok_or(Error::BadKey(name, algorithm))
}

fn is_subject(text: &str) -> bool {
    (1..=MAX_SUBJECT).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// All claims, each there once: of two readers of a doubled claim one would take the first and one the last.
struct Claims(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(de::Error::custom("a claim is there twice"));
                    }
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Once)
    }
}
