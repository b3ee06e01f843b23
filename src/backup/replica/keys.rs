//! Under which keys objects lie in a replica, and which of those that lie there are ours.

use std::fmt;

use super::{MAX_NUMBER, Nonce, Origin, chain};
use crate::backup::{DatabaseName, Form, hex};

/// Who writes there.
pub const LEASE: &str = "lease.json";
/// Below it lie the backups.
pub const BACKUPS: &str = "backups/";
/// Below it lie the catalogs.
pub const CATALOGS: &str = "catalog/";
/// How the second of an instant is written in a key.
const SECOND: &str = "%Y%m%dT%H%M%SZ";

/// Where a backup lies in a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Folder {
    /// Which backup.
    pub origin: Origin,
    /// Which sending of it.
    pub nonce: Nonce,
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { sequence, timestamp } = self.origin;
        write!(f, "{BACKUPS}{}-{sequence:010}-{}", timestamp.format(SECOND), hex(&self.nonce.0))
    }
}

impl Folder {
    /// Where a database of it lies, as a segment or whole.
    pub fn database(self, name: &DatabaseName, form: Form, is_segment: bool) -> String {
        format!("{self}/{name}.{}", if is_segment { chain::ending(form) } else { form.ending() })
    }

    /// Where its entry lies.
    pub fn entry(self, encrypted: bool) -> String {
        format!("{self}/{}", if encrypted { ENCRYPTED_ENTRY } else { PLAIN_ENTRY })
    }
}

const PLAIN_ENTRY: &str = "entry.json";
const ENCRYPTED_ENTRY: &str = "entry.json.age";

/// A part of an object, counted from 1.
pub fn part(key: &str, number: u32) -> String {
    format!("{key}.{number:05}")
}

/// Whether a key is one that we give to what belongs to a backup, or to what becomes it in a folder: nothing else is ever removed.
pub fn is_ours(key: &str) -> bool {
    let parsed = || {
        let key = &finished(key);
        let (folder, file) = key.strip_prefix(BACKUPS)?.split_once('/')?;
        let (second, rest) = folder.split_once('-')?;
        let (sequence, nonce) = rest.split_once('-')?;
        let timestamp = chrono::NaiveDateTime::parse_from_str(second, SECOND).ok()?.and_utc();
        let folder =
            Folder { origin: Origin { sequence: sequence.parse().ok()?, timestamp }, nonce: Nonce::parse(nonce)? };
        let whole = match file.rsplit_once('.') {
            Some((whole, number)) if number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit()) => whole,
            _ => file,
        };
        let of = |ending| whole.strip_suffix(ending)?.strip_suffix('.')?.parse().ok();
        let ends = |form: &Form| Some((of(form.ending())?, *form, false));
        let segments = |form: &Form| Some((of(chain::ending(*form))?, *form, true));
        let printed = match whole {
            PLAIN_ENTRY => folder.entry(false),
            ENCRYPTED_ENTRY => folder.entry(true),
            _ => {
                let found = Form::ALL.iter().find_map(ends).or_else(|| Form::ALL.iter().find_map(segments));
                let (name, form, is_segment): (DatabaseName, Form, bool) = found?;
                folder.database(&name, form, is_segment)
            }
        };
        Some(key.strip_suffix(&file[whole.len()..])? == printed)
    };
    parsed() == Some(true)
}

/// Whether a folder, with a `/` at its end, is one that we give to a backup.
pub fn is_folder_of_ours(folder: &str) -> bool {
    is_ours(&format!("{folder}{PLAIN_ENTRY}"))
}

/// The key that a file gets which is being written in a folder; any other is its own.
fn finished(key: &str) -> String {
    let Some((folder, file)) = key.rsplit_once('/') else { return key.to_owned() };
    match file.strip_prefix('.').and_then(|file| file.strip_suffix(".partial")) {
        Some(file) => format!("{folder}/{file}"),
        None => key.to_owned(),
    }
}

/// Whether a key is that of a catalog which was not written to its end in a folder.
pub fn is_unfinished_catalog(key: &str) -> bool {
    let finished = finished(key);
    finished != key && parse_catalog_key(&finished).is_some()
}

/// The key of a catalog: its generation, and the first 16 hex digits of the SHA-256 of its bytes.
pub fn catalog_key(generation: u64, sha256: &str) -> String {
    format!("{CATALOGS}{generation:010}-{}.json", &sha256[..16.min(sha256.len())])
}

/// Generation and digits of a catalog's key, if it is one.
pub fn parse_catalog_key(key: &str) -> Option<(u64, &str)> {
    let (generation, digits) = key.strip_prefix(CATALOGS)?.strip_suffix(".json")?.split_once('-')?;
    let hex = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parsed = generation.parse().ok().filter(|generation| hex && *generation <= MAX_NUMBER)?;
    (catalog_key(parsed, digits) == key).then_some((parsed, digits))
}
