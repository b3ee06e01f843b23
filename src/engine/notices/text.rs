//! The words of notices: for somebody who is tired, and reads them on a phone.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde_json::Value;

use super::words::{began, meaning, recovered, todo};
use crate::audit::Line;
use crate::backup::hex;
use crate::backup::notices::{Event, Stage, Telling};
use crate::disk;
use crate::engine::status::Status;
use crate::engine::{Actor, Engine, ReplicaStatus, bytes, permit};
use crate::notify::Notice;

/// Characters of a text from elsewhere.
const MAX_TEXT: usize = 600;
/// Findings that are told one by one.
const MAX_LINES: usize = 10;

/// What all notices of one look have in common.
pub(super) struct Teller<'a> {
    pub(super) engine: &'a Engine,
    /// Nothing where it can't be found out.
    pub(super) status: Option<&'a Status>,
    pub(super) zone: Tz,
    pub(super) now: DateTime<Utc>,
}

impl Teller<'_> {
    /// What is wrong, or is no more.
    pub(super) fn standing(&self, telling: &Telling) -> Notice {
        let (event, stage) = (telling.event, telling.stage);
        let began = || match (event, self.age()) {
            (Event::Stale, Some(age)) if age.num_hours() >= 1 => {
                format!("no new backup for {}", hours(age.num_hours()))
            }
            (Event::Stale, None) => "there is no good backup".to_owned(),
            _ => began(event).to_owned(),
        };
        let subject = match stage {
            Stage::Reminder => format!("still: {}", began()),
            Stage::Recovered => recovered(event).to_owned(),
            Stage::Began | Stage::Once => began(),
        };
        let since = self.time(telling.since);
        let since = since.trim_start_matches("on ");
        let lead = match stage {
            Stage::Recovered => format!("It is over: {subject}. It was wrong since {since}. There is nothing to do."),
            Stage::Reminder => format!("This still stands, since {since}: {}", meaning(event)),
            Stage::Began | Stage::Once => meaning(event).to_owned(),
        };
        let todo: &[&str] = if stage == Stage::Recovered { &[] } else { todo(event) };
        let todo = todo.iter().map(|line| (*line).to_owned()).collect();
        self.notice(event, stage, telling.since, Words { subject, lead, happened: listed(&telling.details), todo })
    }

    /// Sign-ins that were refused, of which this was the last.
    pub(super) fn refused(&self, line: &Line, mut telling: Telling) -> Notice {
        telling.details.push(format!("the last one came from {}", line.entry.from));
        self.standing(&telling)
    }

    /// A restore that ended.
    pub(super) fn restore(&self, line: &Line) -> Notice {
        let entry = &line.entry;
        let what = entry.subject().map_or_else(|| "a backup".to_owned(), |subject| subject.to_string());
        let by = sentence(&format!("{}, {}", whom(&entry.by, &entry.from), self.time(line.at)));
        if entry.ok == Some(true) {
            let before = entry.details.get("preRestore").and_then(|id| id.as_str());
            let undo = match before {
                Some(id) => {
                    format!("If that was wrong, `attendance-backup undo` brings back what was there before ({id}).")
                }
                None => "What was there before could not be kept as a backup.".to_owned(),
            };
            let words = Words {
                subject: format!("the data was put back to {what}"),
                lead: format!("A restore has put the live databases back to {what}."),
                happened: vec![by],
                todo: vec!["If you know of it: nothing. If you don't: find out who it was, and why.".to_owned(), undo],
            };
            return self.notice(Event::RestoreDone, Stage::Once, line.at, words);
        }
        let reason = entry.reason.clone().unwrap_or_else(|| "no reason was recorded".to_owned());
        let words = Words {
            subject: format!("the restore of {what} failed"),
            lead: format!("A restore of {what} didn't do what was asked."),
            happened: vec![sentence(&reason), by],
            todo: vec![
                "Do what the reason says, and restore once more; `attendance-backup list` shows the backups that there are.".to_owned(),
                "`attendance-backup status` says whether the live databases are as they were.".to_owned(),
            ],
        };
        self.notice(Event::RestoreFailed, Stage::Once, line.at, words)
    }

    /// A change of the settings.
    pub(super) fn settings(&self, line: &Line) -> Notice {
        let entry = &line.entry;
        let told = |key: &str| entry.details.get(key).map(values).filter(|text| !text.is_empty());
        let told = |key: &str| told(key).unwrap_or_else(|| "nothing".to_owned());
        let dropped = entry.details.get("rotation").and_then(|it| it.as_array()).map_or(0, Vec::len);
        let mut happened = vec![
            sentence(&format!("{}, {}", whom(&entry.by, &entry.from), self.time(line.at))),
            format!("Saved before: {}. Saved now: {}.", told("before"), told("after")),
        ];
        if dropped > 0 {
            happened.push(format!("Backups that the new retention promoted or dropped at once: {dropped}."));
        }
        let words = Words {
            subject: "the settings were changed".to_owned(),
            lead: "Somebody has changed when backups are taken, or how many are kept.".to_owned(),
            happened,
            todo: vec![
                "If you know of it: nothing.".to_owned(),
                "If you don't: `attendance-backup config` shows what counts now, `attendance-backup config --reset` takes back all that was saved.".to_owned(),
            ],
        };
        self.notice(Event::SettingsChanged, Stage::Once, line.at, words)
    }

    /// To see whether notices arrive.
    pub(super) fn test(&self, actor: &Actor) -> Notice {
        let words = Words {
            subject: "this is a test".to_owned(),
            lead: "This is a test. If you can read it, notices arrive.".to_owned(),
            happened: vec![format!("It was sent {}.", whom(&actor.by, &actor.from))],
            todo: vec!["Nothing.".to_owned()],
        };
        self.notice(Event::Test, Stage::Once, self.now, words)
    }

    fn notice(&self, event: Event, stage: Stage, since: DateTime<Utc>, words: Words) -> Notice {
        let config = self.engine.config();
        let random = disk::random::<8>().map(|bytes| hex(&bytes));
        let clean = |lines: Vec<String>| lines.iter().map(|line| clean(line)).collect();
        Notice {
            // Only to tell one from another.
            id: random.unwrap_or_else(|_| format!("{}-{}", event.word(), self.now.timestamp_millis())),
            event,
            stage,
            at: self.now,
            since,
            subject: self::clean(&format!("attendance-backup: {}", words.subject)),
            lead: self::clean(&words.lead),
            happened: clean(words.happened),
            stands: clean(self.stands()),
            todo: clean(words.todo),
            link: config.public_url.as_ref().map(|url| format!("{url}/settings/backups")),
            from: self::clean(&format!(
                "Sent by attendance-backup on {}, for the backups in {}. Commands are typed there, with the settings of the service and \
                 as its user (compose: docker compose exec backup attendance-backup …; systemd: docs/deploying.md tells how). What is \
                 wrong is told once, again each day while it lasts, and when it is over.",
                permit::host(),
                config.directory.display()
            )),
        }
    }

    /// What there is to fall back on.
    fn stands(&self) -> Vec<String> {
        let Some(status) = self.status else {
            return vec!["What backups there are can't be told until that is mended.".to_owned()];
        };
        let counts = &status.counts;
        let count = counts.daily + counts.weekly + counts.monthly + counts.manual + counts.pre_restore;
        let mut lines = match &status.last_backup {
            Some(last) => vec![format!(
                "The newest good backup is {}, taken {}. In all there {} ({}).",
                last.id,
                self.time(last.timestamp),
                if count == 1 { "is 1 backup".to_owned() } else { format!("are {count} backups") },
                bytes(status.storage.total)
            )],
            None => vec![format!("There is no good backup here ({count} in all).")],
        };
        lines.extend(status.replicas.iter().map(|replica| self.elsewhere(replica)));
        lines
    }

    fn elsewhere(&self, replica: &ReplicaStatus) -> String {
        let held = match replica.held {
            0 => "no backup".to_owned(),
            1 => "1 backup".to_owned(),
            count => format!("{count} backups"),
        };
        let complete = match replica.last_success {
            Some(at) => format!("all that it should hold was there {}", self.time(at)),
            None => "it has never been complete".to_owned(),
        };
        format!("Replica {} holds {held}; {complete}.", replica.name)
    }

    fn age(&self) -> Option<chrono::TimeDelta> {
        self.status?.last_backup.as_ref().map(|last| self.now - last.timestamp)
    }

    /// `on Thu 26 Nov 2026 at 02:00 (Europe/Berlin)`.
    fn time(&self, at: DateTime<Utc>) -> String {
        let local = at.with_timezone(&self.zone);
        format!("{} ({})", local.format("on %a %-d %b %Y at %H:%M"), self.zone.name())
    }
}

/// Who did it, and where.
fn whom(by: &str, from: &str) -> String {
    match (by, by.strip_prefix("user:")) {
        ("cli", _) => format!("from the command line ({from})"),
        ("scheduler", _) => format!("by the schedule (on {from})"),
        (_, Some(user)) => format!("by {user}, from {from}"),
        (other, None) => format!("by {other}, from {from}"),
    }
}

/// `retention.daily=9, enabled=false`.
fn values(saved: &Value) -> String {
    let Value::Object(fields) = saved else { return saved.to_string() };
    let part = |(key, value): (&String, &Value)| match value {
        Value::Object(_) => {
            values(value).split(", ").filter(|it| !it.is_empty()).map(|it| format!("{key}.{it}")).collect()
        }
        value => vec![format!("{key}={value}")],
    };
    fields.iter().flat_map(part).collect::<Vec<String>>().join(", ")
}

struct Words {
    subject: String,
    lead: String,
    happened: Vec<String>,
    todo: Vec<String>,
}

fn hours(count: i64) -> String {
    match count {
        1 => "1 hour".to_owned(),
        count @ ..72 => format!("{count} hours"),
        count => format!("{} days", count / 24),
    }
}

/// The first few, each as a sentence.
fn listed(details: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = details.iter().take(MAX_LINES).map(|line| sentence(line)).collect();
    let more = details.len().saturating_sub(MAX_LINES);
    lines.extend((more > 0).then(|| format!("And {more} more; `attendance-backup status` shows all.")));
    lines
}

fn sentence(text: &str) -> String {
    let word = text.split([' ', ';', ',']).next().unwrap_or_default();
    let (first, rest) = text.split_at_checked(1).unwrap_or((text, ""));
    let begun =
        if word.bytes().all(|byte| byte.is_ascii_lowercase()) { first.to_uppercase() } else { first.to_owned() };
    let end = if rest.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{begun}{rest}{end}")
}

/// One line, of nothing that hides or turns text around, and not too long: some of it comes from elsewhere.
fn clean(text: &str) -> String {
    let is_unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut shown: String = text.chars().map(|c| if is_unseen(c) { ' ' } else { c }).take(MAX_TEXT).collect();
    if text.chars().nth(MAX_TEXT).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_stays_one_line() {
        assert_eq!(clean("a\r\nBcc: x\u{202e}y"), "a  Bcc: x y");
        assert_eq!(clean(&"ä".repeat(700)).chars().count(), MAX_TEXT + 1);
        assert_eq!(sentence("the disk is full; make room"), "The disk is full; make room.");
        assert_eq!(sentence("daily-2026-01-08 is damaged"), "daily-2026-01-08 is damaged.");
        assert_eq!((sentence(""), sentence("is it?").as_str()), (".".to_owned(), "Is it?"));
        assert_eq!((hours(1).as_str(), hours(31).as_str(), hours(73).as_str()), ("1 hour", "31 hours", "3 days"));
        let many: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(listed(&many)[MAX_LINES], "And 2 more; `attendance-backup status` shows all.");
    }

    #[test]
    fn settings_are_told_as_they_are_set() {
        let saved = serde_json::json!({ "enabled": false, "schedule": {}, "retention": { "daily": 9, "weekly": 3 } });
        assert_eq!(values(&saved), "enabled=false, retention.daily=9, retention.weekly=3");
        assert_eq!(values(&serde_json::json!({ "schedule": {} })), "");
    }
}
