//! The audit log for people: how each operation ended. That it was begun is told only where nothing says how it ended.

use std::collections::HashMap;

use super::recovery::UNBEGUN;
use super::replica::REPLICATE;
use super::{AuditPage, Engine, Error};
use crate::audit::{Entry, Kind, Line};
use crate::backup::BackupId;

/// Lines of a page.
const PAGE: usize = 50;
/// Goes on beside every other operation, and beside its like.
const DOWNLOAD: &str = "download";

/// Which lines.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Activity {
    /// Only of this operation.
    pub operation: Option<String>,
    /// Only of this backup.
    pub id: Option<BackupId>,
    /// Only with this end.
    pub end: Option<End>,
    /// Only lines before this `seq`.
    pub before: Option<u64>,
}

/// What a line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It has ended, well or not.
    Ended,
    /// It has ended otherwise than it should.
    Failed,
    /// It was not allowed.
    Refused,
    /// It is about to begin.
    Begun,
}

impl End {
    fn takes(self, entry: &Entry) -> bool {
        match self {
            End::Ended => entry.kind == Kind::Outcome,
            End::Failed => entry.kind == Kind::Outcome && entry.ok == Some(false),
            End::Refused => entry.kind == Kind::Refused,
            End::Begun => entry.kind == Kind::Intent,
        }
    }
}

impl Activity {
    fn takes(&self, line: &Line) -> bool {
        let entry = &line.entry;
        self.before.is_none_or(|before| line.seq < before)
            && self.operation.as_ref().is_none_or(|operation| entry.operation == *operation)
            && self.id.is_none_or(|id| entry.id == Some(id))
            && self.end.is_none_or(|end| end.takes(entry))
    }
}

impl Engine {
    /// A page of it, newest first.
    pub fn activity(&self, activity: &Activity) -> Result<AuditPage, Error> {
        let mut ends = Ends::default();
        self.lines(PAGE, |line| {
            // Of every line, also of those that aren't shown: an end tells of what was begun before it.
            let is_known = ends.know(&line.entry);
            activity.takes(line) && (activity.end == Some(End::Begun) || !is_known)
        })
    }
}

/// The ends that were met on the way back through the log, and not yet what they are the ends of.
#[derive(Default)]
struct Ends(HashMap<(String, Option<BackupId>, Option<String>), usize>);

impl Ends {
    /// Whether it is an intent whose outcome was met.
    fn know(&mut self, entry: &Entry) -> bool {
        // The others hold the directory: one ends before the next begins.
        let whose = match entry.operation.as_str() {
            DOWNLOAD => Some(entry.by.clone()),
            // One at a time of each replica.
            REPLICATE => entry.details.get("replica").map(ToString::to_string),
            _ => None,
        };
        let beside = entry.operation == DOWNLOAD;
        let key = (entry.operation.clone(), entry.id.filter(|_| beside), whose);
        match entry.kind {
            Kind::Outcome if entry.details.contains_key(UNBEGUN) => false,
            Kind::Outcome => {
                let met = self.0.entry(key).or_default();
                *met = if beside { *met + 1 } else { 1 };
                false
            }
            Kind::Intent => {
                let Some(met) = self.0.get_mut(&key).filter(|met| **met > 0) else { return false };
                *met -= 1;
                if *met == 0 {
                    self.0.remove(&key);
                }
                true
            }
            Kind::Refused | Kind::Recovered => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, operation: &str, id: Option<&str>) -> Entry {
        Entry {
            kind,
            operation: operation.to_owned(),
            by: "cli".to_owned(),
            from: "here".to_owned(),
            id: id.map(|id| id.parse().unwrap()),
            point: None,
            ok: None,
            code: None,
            reason: None,
            details: serde_json::Map::new(),
        }
    }

    /// Newest first, as the log is read.
    fn known(lines: &[(Kind, &str, Option<&str>)]) -> Vec<bool> {
        let mut ends = Ends::default();
        lines.iter().map(|(kind, operation, id)| ends.know(&entry(*kind, operation, *id))).collect()
    }

    #[test]
    fn an_end_tells_of_one_beginning() {
        use Kind::{Intent, Outcome, Refused};
        let (one, two) = (Some("daily-2026-01-08"), Some("daily-2026-01-09"));
        // A rehearsal ends with the backup that failed, whichever it began with.
        assert_eq!(
            known(&[(Outcome, "drill", one), (Intent, "drill", two), (Intent, "drill", two)]),
            [false, true, false]
        );
        assert_eq!(known(&[(Refused, "create", one), (Intent, "create", one)]), [false, false]);
        // Two downloads at once, of which one goes on, and one of another backup.
        let downloads = [
            (Outcome, "download", one),
            (Intent, "download", two),
            (Intent, "download", one),
            (Intent, "download", one),
        ];
        assert_eq!(known(&downloads), [false, false, true, false]);
        // What never began has ended nothing.
        let mut ends = Ends::default();
        let mut unbegun = entry(Outcome, "create", None);
        unbegun.details.insert(UNBEGUN.to_owned(), true.into());
        assert!(!ends.know(&unbegun) && !ends.know(&entry(Intent, "create", one)));
    }
}
