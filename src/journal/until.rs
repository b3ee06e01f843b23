//! Until when all of a journal lies in a replica: a small object of its own beside the packs, written after them. It is what tells a
//! quiet hour from one of which nobody has sent anything.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::name::Txid;
use super::timeline::{Gap, MAX_GAPS};
use crate::backup::{DatabaseName, timestamp};

const VERSION: u32 = 1;
/// Of databases; nobody has more.
const MOST: usize = 10_000;

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Until {
    version: u32,
    /// Of what was before that, the gaps may be forgotten.
    #[serde(with = "timestamp")]
    pub from: DateTime<Utc>,
    /// The databases were looked at then, and all that had changed has been sent.
    #[serde(with = "timestamp")]
    pub alive: DateTime<Utc>,
    /// Spans before it of which nobody knows what they held.
    pub gaps: Vec<Gap>,
    /// Whose journal it is, and the number of the newest state that was sent: without that one, nobody knows what they held.
    pub databases: BTreeMap<DatabaseName, u64>,
}

impl Until {
    /// Larger ones are none.
    pub const MAX_BYTES: u64 = 8 << 20;

    /// Of these.
    pub fn new(
        from: DateTime<Utc>,
        alive: DateTime<Utc>,
        gaps: Vec<Gap>,
        newest: &BTreeMap<DatabaseName, Txid>,
    ) -> Self {
        let databases = newest.iter().map(|(name, txid)| (name.clone(), txid.get())).collect();
        Self { version: VERSION, from, alive, gaps, databases }
    }

    /// Reads one. The reason says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let until: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let is_one = until.version == VERSION
            && until.gaps.len() <= MAX_GAPS
            && until.databases.len() <= MOST
            && until.gaps.iter().all(|gap| gap.from <= gap.to);
        if is_one { Ok(until) } else { Err(format!("its version is {}, or it says what can't be", until.version)) }
    }

    /// As it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let at = |text: &str| format!("2026-11-26T{text}Z").parse::<DateTime<Utc>>().unwrap();
        let gaps = vec![Gap { from: at("09:00:00.250"), to: at("09:05:00") }];
        let newest = [("auth".parse().unwrap(), Txid::FIRST)].into();
        let until = Until::new(at("08:00:00"), at("09:14:05.123"), gaps, &newest);
        let bytes = until.to_bytes();
        assert_eq!(Until::parse(&bytes), Ok(until));
        let text = String::from_utf8(bytes).unwrap();
        for (old, new) in
            [("\"version\":1", "\"version\":2"), ("09:05:00", "07:05:00"), ("auth", "../auth"), ("}]", "")]
        {
            let other = text.replace(old, new);
            assert!(other != text && Until::parse(other.as_bytes()).is_err(), "{other}");
        }
    }
}
