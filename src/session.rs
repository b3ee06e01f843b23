//! Sessions of browsers. A session is a token of our own, signed by `session.key`; a one-time code from the command line
//! opens one. Codes are kept as hashes in `sign-in.json`, with the sessions that were signed out before their time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::backup::{hex, timestamp};
use crate::clock::Clock;
use crate::config::Access;
use crate::disk::{self, Context};
use crate::token::{Caller, Keyring};

/// How long a session counts.
pub const LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// How long a session that was signed out is remembered: longer than any counts, also when clocks were set.
const REMEMBERED: Duration = Duration::from_secs(48 * 3600);
/// How long a code can be redeemed.
pub const CODE_LIFETIME: Duration = Duration::from_secs(600);
const KEY: &str = "session.key";
const STATE: &str = "sign-in.json";
/// Held while `sign-in.json` is read and written anew.
const LOCK: &str = ".sign-in.lock";
/// Bytes of `sign-in.json` that are read: more than [`MAX_SIGNED_OUT`] take.
const MAX_STATE: u64 = 32 << 20;
/// Where more sessions than these were signed out, those are forgotten that no clock but a wrong one lets count.
const MAX_SIGNED_OUT: usize = 40_000;
/// Bytes of the key, and of a code.
const RANDOM: usize = 32;

/// A session or a code that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file call.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The files aren't ours.
    #[error("{} is not what was written there; remove it, and everyone signs in anew", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
    },
    /// A subject that tokens can't carry.
    #[error(transparent)]
    Token(#[from] crate::token::Error),
}

/// The sessions of one backup directory.
pub struct Sessions {
    root: PathBuf,
    clock: Clock,
    keyring: Keyring,
    /// Hashes of the sessions that were signed out, until when they would have counted: what `sign-in.json` says, since
    /// one `serve` a directory writes it.
    signed_out: Mutex<BTreeMap<String, DateTime<Utc>>>,
}

/// `sign-in.json`.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignIn {
    /// Not redeemed yet.
    codes: Vec<Code>,
    /// Sessions that were signed out.
    signed_out: Vec<SignedOut>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Code {
    /// SHA-256 of the code.
    hash: String,
    subject: String,
    #[serde(with = "timestamp")]
    until: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct SignedOut {
    /// SHA-256 of the session.
    hash: String,
    /// When it would have ended anyway.
    #[serde(with = "timestamp")]
    until: DateTime<Utc>,
}

impl Sessions {
    /// The sessions of the directory `root`; its key is made if there is none yet. Files that can't be understood are made
    /// anew, the key first: then no session counts any more, whatever was known of them.
    pub fn of(root: &Path, clock: &Clock) -> Result<Self, Error> {
        match Self::read(root, clock) {
            Err(Error::Unreadable { path }) => {
                tracing::warn!(file = %path.display(), "it can't be understood: everyone has to sign in anew");
                disk::remove(&root.join(KEY))?;
                disk::remove(&root.join(STATE))?;
                disk::sync_dir(root)?;
                Self::read(root, clock)
            }
            sessions => sessions,
        }
    }

    fn read(root: &Path, clock: &Clock) -> Result<Self, Error> {
        let keyring = Keyring::new(&Access::of_sessions(key(root)?), clock)?;
        let signed_out = read_state(&root.join(STATE))?.signed_out.into_iter().map(|gone| (gone.hash, gone.until));
        Ok(Self { root: root.to_owned(), clock: clock.clone(), keyring, signed_out: Mutex::new(signed_out.collect()) })
    }

    /// A session of this caller, which counts for [`LIFETIME`].
    pub fn open(&self, caller: &Caller) -> Result<String, Error> {
        Ok(self.keyring.sign(&caller.subject, caller.superuser, LIFETIME)?)
    }

    /// Whose session it is, if it counts.
    pub fn check(&self, session: &str) -> Option<Caller> {
        let caller = self.keyring.check(session).ok()?;
        (!self.gone().contains_key(&hash(session))).then_some(caller)
    }

    fn gone(&self) -> MutexGuard<'_, BTreeMap<String, DateTime<Utc>>> {
        self.signed_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on the session doesn't count any more.
    pub fn sign_out(&self, session: &str) -> Result<(), Error> {
        if self.check(session).is_none() {
            return Ok(());
        }
        let (now, hash) = (self.clock.now(), hash(session));
        let until = now + REMEMBERED;
        change(&self.root, now, |state| state.signed_out.push(SignedOut { hash: hash.clone(), until }))?;
        // Written down first: what only memory knew would count again after a restart.
        let mut gone = self.gone();
        gone.retain(|_, until| now < *until);
        gone.insert(hash, until);
        Ok(())
    }

    /// A superuser's code, to be redeemed once within [`CODE_LIFETIME`].
    pub fn issue_code(root: &Path, clock: &Clock, subject: &str) -> Result<String, Error> {
        let code = URL_SAFE_NO_PAD.encode(disk::random::<RANDOM>()?);
        let until = clock.now() + CODE_LIFETIME;
        let kept = Code { hash: hash(&code), subject: subject.to_owned(), until };
        change(root, clock.now(), |state| state.codes.push(kept))?;
        Ok(code)
    }

    /// Whom a code would let in. It is as good as before.
    pub fn known_code(&self, code: &str) -> Result<Option<Caller>, Error> {
        let (wanted, now) = (hash(code), self.clock.now());
        let codes = read_state(&self.root.join(STATE))?.codes;
        let found = codes.into_iter().find(|code| code.hash == wanted && now < code.until);
        Ok(found.map(|code| Caller { subject: code.subject, superuser: true }))
    }

    /// Takes a code, which is none from then on, and says whom it lets in.
    pub fn redeem(&self, code: &str) -> Result<Option<Caller>, Error> {
        let wanted = hash(code);
        change(&self.root, self.clock.now(), |state| {
            let at = state.codes.iter().position(|code| code.hash == wanted)?;
            Some(Caller { subject: state.codes.swap_remove(at).subject, superuser: true })
        })
    }
}

/// Comparing hashes tells nothing of what was hashed, however long it takes.
fn hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// Whoever comes first makes it; all others read that one.
fn key(root: &Path) -> Result<String, Error> {
    let path = root.join(KEY);
    let _lock = lock(root)?;
    let text = match disk::open_regular(&path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(1024).read_to_end(&mut bytes).to("read", &path)?;
            String::from_utf8(bytes).unwrap_or_default()
        }
        Err(error) if error.is_missing() => {
            let text = hex(&disk::random::<RANDOM>()?);
            disk::write_durable(&path, text.as_bytes())?;
            text
        }
        Err(error) => return Err(error.into()),
    };
    let drawn = text.len() == 2 * RANDOM && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if drawn { Ok(text) } else { Err(Error::Unreadable { path }) }
}

fn lock(root: &Path) -> Result<File, disk::Error> {
    let path = root.join(LOCK);
    let file = disk::open_shared(&path)?;
    disk::lock(&file, &path)?;
    Ok(file)
}

fn read_state(path: &Path) -> Result<SignIn, Error> {
    let file = match disk::open_regular(path) {
        Err(error) if error.is_missing() => return Ok(SignIn::default()),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_STATE).read_to_end(&mut bytes).to("read", path)?;
    serde_json::from_slice(&bytes).map_err(|_| Error::Unreadable { path: path.to_owned() })
}

/// Reads, changes and durably writes `sign-in.json`; what is over is forgotten. A code that was taken out is gone before
/// anyone is let in by it.
fn change<T>(root: &Path, now: DateTime<Utc>, act: impl FnOnce(&mut SignIn) -> T) -> Result<T, Error> {
    let path = root.join(STATE);
    let _lock = lock(root)?;
    let mut state = read_state(&path)?;
    state.codes.retain(|code| now < code.until);
    state.signed_out.retain(|gone| now < gone.until);
    let done = act(&mut state);
    if state.signed_out.len() > MAX_SIGNED_OUT {
        state.signed_out.retain(|gone| now < gone.until - REMEMBERED + 2 * LIFETIME);
    }
    let mut text = serde_json::to_vec_pretty(&state).unwrap_or_default();
    text.push(b'\n');
    write(&path, &text)?;
    Ok(done)
}

/// Whoever has just gained the directory sweeps partials, and may take ours away in the middle: then once more.
fn write(path: &Path, text: &[u8]) -> Result<(), disk::Error> {
    let mut tries = 3;
    loop {
        tries -= 1;
        match disk::write_durable(path, text) {
            Err(error) if error.is_missing() && tries > 0 => {}
            written => return written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One flipped bit may leave no text at all.
    #[test]
    fn what_is_no_text_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        Sessions::issue_code(dir.path(), &clock, "ada").unwrap();
        for file in [STATE, KEY] {
            let before = Sessions::of(dir.path(), &clock).unwrap();
            let caller = Caller { subject: "ada".to_owned(), superuser: true };
            let session = before.open(&caller).unwrap();
            let path = dir.path().join(file);
            let mut bytes = std::fs::read(&path).unwrap_or_default();
            bytes.insert(0, 0xff);
            std::fs::write(&path, bytes).unwrap();
            assert!(Sessions::of(dir.path(), &clock).unwrap().check(&session).is_none(), "{file}");
        }
    }

    /// A session that was signed out counts for none of them, but for one whose clock went back by hours.
    #[test]
    fn where_too_many_were_signed_out_those_that_have_ended_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let now: DateTime<Utc> = "2026-01-08T12:00:00Z".parse().unwrap();
        let gone =
            |hash: String, hours: i64| SignedOut { hash, until: now - chrono::Duration::hours(hours) + REMEMBERED };
        let kept = |signed_out: Vec<SignedOut>| {
            change(dir.path(), now, |state| state.signed_out = signed_out).unwrap();
            read_state(&dir.path().join(STATE)).unwrap().signed_out.len()
        };
        let many = |count: usize| (0..count).map(|n| gone(n.to_string(), if n < 3 { 15 } else { 17 })).collect();
        assert_eq!(kept(many(MAX_SIGNED_OUT)), MAX_SIGNED_OUT);
        assert_eq!(kept(many(MAX_SIGNED_OUT + 1)), 3);
    }
}
