//! The journal as it lies in a replica: packs, each a tar of files of one database and one level that follow each other, compressed
//! and encrypted as backups are. A key says all that is needed to choose packs, so a listing is the index. Parsed strictly; keys are
//! printed from what was parsed alone [P9].
//!
//! ```text
//! journal/5f0c2a9be1d37784/attendance/0/<first txid>-<last txid>-<millis of the first>-<millis of the last>.tar.zst.age
//! journal/5f0c2a9be1d37784/until/<millis>-9f86d081884c7d65.json.age            until when all of it is there, and the gaps
//! ```
//!
//! The random text is the *lineage*: the states of one directory, numbered without a second meaning. The replica's catalog names those
//! that count.

use std::fmt;

use super::name::{FileName, Level, Txid};
use crate::backup::replica::Nonce;
use crate::backup::{DatabaseName, Form};

/// Below it lie the journals in a replica.
pub const JOURNALS: &str = "journal/";
/// Milliseconds have so many digits, which last until the year 33658.
const MOST_MILLIS: u64 = 999_999_999_999_999;
const PLAIN: &str = ".tar.zst";
const ENCRYPTED: &str = ".tar.zst.age";

/// The lineage of which a folder below [`JOURNALS`] is, or lies in.
pub fn lineage_of(folder: &str) -> Option<Nonce> {
    let (lineage, _) = folder.strip_prefix(JOURNALS)?.split_once('/')?;
    Nonce::try_from(lineage.to_owned()).ok()
}

/// Which files a pack has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Span {
    /// Their level.
    pub level: Level,
    /// The first state that the first one leads to.
    pub min: Txid,
    /// The state that the last one ends with.
    pub max: Txid,
    /// When the first one's last state was: milliseconds since 1970.
    pub first: u64,
    /// The same of the last one.
    pub last: u64,
}

impl Span {
    /// As a file that leads as far.
    pub fn name(&self) -> FileName {
        FileName { level: self.level, min: self.min, max: self.max }
    }

    fn can_be(&self) -> bool {
        let fits = match self.level {
            Level::CAPTURED => true,
            level => self.first == self.last && (level != Level::SNAPSHOT || self.min == Txid::FIRST),
        };
        fits && self.min <= self.max && self.first <= self.last && self.last <= MOST_MILLIS
    }
}

/// What a key names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key {
    /// A pack.
    Pack {
        /// Whose states.
        lineage: Nonce,
        /// Of which database.
        database: DatabaseName,
        /// Which files.
        span: Span,
        /// Only an identity opens it.
        encrypted: bool,
    },
    /// Until when all is there.
    Until {
        /// Of what.
        lineage: Nonce,
        /// Milliseconds since 1970.
        millis: u64,
        /// How the SHA-256 of its bytes begins: 16 hex digits.
        digits: [u8; 8],
        /// Only an identity opens it.
        encrypted: bool,
    },
}

impl Key {
    /// Of a pack that can be.
    pub fn pack(lineage: Nonce, database: &DatabaseName, span: Span, encrypted: bool) -> Option<Self> {
        span.can_be().then(|| Key::Pack { lineage, database: database.clone(), span, encrypted })
    }

    /// Reads one; a key of anything else is none.
    pub fn parse(key: &str) -> Option<Self> {
        let (lineage, rest) = key.strip_prefix(JOURNALS)?.split_once('/')?;
        let lineage = Nonce::try_from(lineage.to_owned()).ok()?;
        let parsed = match rest.split('/').collect::<Vec<_>>()[..] {
            ["until", file] => until(lineage, file)?,
            [database, level, file] => pack(lineage, database.parse().ok()?, level.parse().ok()?, file)?,
            _ => return None,
        };
        (parsed.to_string() == key).then_some(parsed)
    }

    /// The same of what may be a numbered part of an object; 0 is the object itself.
    pub fn parse_part(key: &str) -> Option<(Self, u32)> {
        match key.rsplit_once('.') {
            Some((whole, number)) if number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit()) => {
                Some((Self::parse(whole)?, number.parse().ok().filter(|number| *number > 0)?))
            }
            _ => Some((Self::parse(key)?, 0)),
        }
    }

    /// Whether it is what becomes an object in a folder, and was never written to its end if nobody writes it now.
    pub fn is_unfinished(key: &str) -> bool {
        let finished = || {
            let (folder, file) = key.rsplit_once('/')?;
            let file = file.strip_prefix('.')?.strip_suffix(".partial")?;
            Self::parse_part(&format!("{folder}/{file}"))
        };
        finished().is_some()
    }

    /// Whose it is.
    pub fn lineage(&self) -> Nonce {
        let (Key::Pack { lineage, .. } | Key::Until { lineage, .. }) = self;
        *lineage
    }

    /// How it is encoded.
    pub fn form(&self) -> Form {
        match self {
            Key::Pack { encrypted, .. } => Form::of(true, *encrypted),
            Key::Until { encrypted, .. } => Form::of(false, *encrypted),
        }
    }
}

/// The folder of a lineage.
pub fn folder_of(lineage: Nonce) -> String {
    format!("{JOURNALS}{lineage}/")
}

fn until(lineage: Nonce, file: &str) -> Option<Key> {
    let (name, encrypted) = match file.strip_suffix(".json.age") {
        Some(name) => (name, true),
        None => (file.strip_suffix(".json")?, false),
    };
    let (millis, digits) = name.split_once('-')?;
    let millis = millis.parse().ok().filter(|millis| *millis <= MOST_MILLIS)?;
    let digits = Nonce::try_from(digits.to_owned()).ok()?.0;
    Some(Key::Until { lineage, millis, digits, encrypted })
}

fn pack(lineage: Nonce, database: DatabaseName, level: Level, file: &str) -> Option<Key> {
    let (name, encrypted) = match file.strip_suffix(ENCRYPTED) {
        Some(name) => (name, true),
        None => (file.strip_suffix(PLAIN)?, false),
    };
    let [min, max, first, last] = name.split('-').collect::<Vec<_>>()[..] else { return None };
    let (min, max) = (min.parse().ok()?, max.parse().ok()?);
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    Key::pack(lineage, &database, Span { level, min, max, first, last }, encrypted)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Pack { lineage, database, span, encrypted } => {
                let Span { level, min, max, first, last } = span;
                let ending = if *encrypted { ENCRYPTED } else { PLAIN };
                write!(f, "{JOURNALS}{lineage}/{database}/{level}/{min}-{max}-{first:015}-{last:015}{ending}")
            }
            Key::Until { lineage, millis, digits, encrypted } => {
                let ending = if *encrypted { ".json.age" } else { ".json" };
                write!(f, "{JOURNALS}{lineage}/until/{millis:015}-{}{ending}", Nonce(*digits))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "journal/5f0c2a9be1d37784";

    #[test]
    fn keys_read_as_they_are_printed() {
        for key in [
            "attendance/0/0000000000000002-00000000000000ff-001764147600123-001764147700000.tar.zst.age",
            "auth/3/0000000000000002-00000000000000ff-001764147600123-001764147600123.tar.zst",
            "auth/9/0000000000000001-00000000000000ff-001764147600123-001764147600123.tar.zst",
            "until/0/0000000000000002-0000000000000002-000000000000000-000000000000000.tar.zst",
            "until/001764147600123-9f86d081884c7d65.json",
            "until/001764147600123-9f86d081884c7d65.json.age",
        ] {
            let key = format!("{FOLDER}/{key}");
            assert_eq!(Key::parse(&key).unwrap_or_else(|| panic!("{key}")).to_string(), key);
            assert_eq!(Key::parse_part(&format!("{key}.00012")), Some((Key::parse(&key).unwrap(), 12)));
            let (folder, file) = key.rsplit_once('/').unwrap();
            assert!(Key::is_unfinished(&format!("{folder}/.{file}.partial")), "{key}");
            assert!(!Key::is_unfinished(&key) && Key::parse_part(&format!("{key}.00000")).is_none());
        }
    }

    #[test]
    fn nothing_else_is_a_key() {
        for file in [
            "0/0000000000000002-00000000000000ff-1764147600123-1764147700000.tar.zst",
            "0/0000000000000002-00000000000000FF-001764147600123-001764147700000.tar.zst",
            "0/0000000000000003-0000000000000002-001764147600123-001764147700000.tar.zst",
            "0/0000000000000002-00000000000000ff-001764147700000-001764147600123.tar.zst",
            "0/0000000000000000-00000000000000ff-001764147600123-001764147700000.tar.zst",
            "4/0000000000000002-00000000000000ff-001764147600123-001764147700000.tar.zst",
            "3/0000000000000002-00000000000000ff-001764147600123-001764147700000.tar.zst",
            "9/0000000000000002-00000000000000ff-001764147600123-001764147600123.tar.zst",
            "0/0000000000000002-00000000000000ff-001764147600123-+01764147700000.tar.zst",
            "0/0000000000000002-00000000000000ff-001764147600123-1001764147700000.tar.zst",
            "0/../0/0000000000000002-00000000000000ff-001764147600123-001764147700000.tar.zst",
            "0/0000000000000002-00000000000000ff-001764147600123.tar.zst",
            "0/0000000000000002-00000000000000ff-001764147600123-001764147700000.tar",
            "0/0000000000000002-00000000000000ff-001764147600123-001764147700000.tar.zst/x",
            "0/",
            "",
        ] {
            assert!(Key::parse(&format!("{FOLDER}/attendance/{file}")).is_none(), "{file}");
        }
        let good = "attendance/0/0000000000000002-00000000000000ff-001764147600123-001764147700000.tar.zst";
        for key in [
            format!("journal/5F0C2A9BE1D37784/{good}"),
            format!("journal/../{good}"),
            format!("journals/5f0c2a9be1d37784/{good}"),
            format!("{FOLDER}/Attendance{}", &good[10..]),
            format!("{FOLDER}/until/1764147600123-9f86d081884c7d65.json"),
            format!("{FOLDER}/until/001764147600123-9f86d081884c7d6.json"),
            format!("{FOLDER}/until/001764147600123-9f86d081884c7d65.json.gz"),
        ] {
            assert!(Key::parse(&key).is_none(), "{key}");
        }
    }
}
