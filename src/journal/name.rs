//! Names of the journal's files: `<level>/<first txid>-<last txid>.ltx`, 16 hex digits each. Parsed strictly; paths are
//! printed from them alone [P9].

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The number of a captured state; they are counted from 1, without holes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Txid(u64);

impl Txid {
    /// That of the first state.
    pub const FIRST: Txid = Txid(1);

    /// The one with this number, if it is one.
    pub fn new(number: u64) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// Its number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The one after it.
    pub fn next(self) -> Self {
        // A state a nanosecond lasts for 584 years.
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Txid {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16 && text.chars().all(digit));
        number.and_then(Txid::new).ok_or(())
    }
}

/// How far a file was compacted; also the name of its folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Level(u8);

impl Level {
    /// What one tick captured.
    pub const CAPTURED: Level = Level(0);
    /// Whole databases.
    pub const SNAPSHOT: Level = Level(9);
    /// Levels that are made from the one below them, and the time that a file of each spans, in milliseconds.
    pub const COMPACTED: [(Level, u64); 3] = [(Level(1), 30_000), (Level(2), 300_000), (Level(3), 3_600_000)];
    /// Those of them that go to replicas, each file by itself.
    pub const PACKED: [Level; 2] = [Level(2), Level(3)];
    /// All that there are.
    pub const ALL: [Level; 5] = [Level(0), Level(1), Level(2), Level(3), Level(9)];

    /// The level that this one is made from.
    pub fn below(self) -> Level {
        Level(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Level::ALL.into_iter().find(|level| level.to_string() == text).ok_or(())
    }
}

/// Which states a file leads through, and how far it was compacted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileName {
    /// Its folder.
    pub level: Level,
    /// The first state that it leads to; of a snapshot always [`Txid::FIRST`].
    pub min: Txid,
    /// The state that it ends with.
    pub max: Txid,
}

impl FileName {
    /// What a tick captured.
    pub fn captured(txid: Txid) -> Self {
        Self { level: Level::CAPTURED, min: txid, max: txid }
    }

    /// The whole database in that state.
    pub fn snapshot(txid: Txid) -> Self {
        Self { level: Level::SNAPSHOT, min: Txid::FIRST, max: txid }
    }

    /// Where it lies below the folder of its database.
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join("ltx").join(self.to_string())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}.ltx", self.level, self.min, self.max)
    }
}

impl FromStr for FileName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (level, name) = text.split_once('/').ok_or(())?;
        let (min, max) = name.strip_suffix(".ltx").and_then(|name| name.split_once('-')).ok_or(())?;
        let name = Self { level: level.parse()?, min: min.parse()?, max: max.parse()? };
        let fits = match name.level {
            Level::CAPTURED => name.min == name.max,
            Level::SNAPSHOT => name.min == Txid::FIRST,
            _ => name.min <= name.max,
        };
        if fits { Ok(name) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_they_are_printed_and_nothing_else_does() {
        for text in [
            "0/0000000000000001-0000000000000001.ltx",
            "1/0000000000000002-00000000000000ff.ltx",
            "3/ffffffffffffffff-ffffffffffffffff.ltx",
            "9/0000000000000001-00000000000000ab.ltx",
        ] {
            assert_eq!(text.parse::<FileName>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "0/",
            "4/0000000000000001-0000000000000001.ltx",
            "00/0000000000000001-0000000000000001.ltx",
            "0000000000000001-0000000000000001.ltx",
            "0/0000000000000001-0000000000000002.ltx",
            "0/0000000000000000-0000000000000000.ltx",
            "1/0000000000000003-0000000000000002.ltx",
            "9/0000000000000002-0000000000000002.ltx",
            "1/000000000000000A-000000000000000B.ltx",
            "1/+00000000000000a-000000000000000b.ltx",
            "1/0000000000000001-0000000000000002.ltx.partial",
            "1/.0000000000000001-0000000000000002.ltx",
            "1/../0000000000000001-0000000000000002.ltx",
            "1/00000000000000001-0000000000000002.ltx",
            "1/0000000000000001-0000000000000002.LTX",
        ] {
            assert!(text.parse::<FileName>().is_err(), "{text}");
        }
    }
}
