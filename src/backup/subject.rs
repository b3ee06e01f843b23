//! What can be put back: a backup, or what the databases held at an instant.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, LocalResult, NaiveDateTime, SubsecRound, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{BackupId, timestamp};

/// An instant to the millisecond, such as `2026-11-26T09:14:05.000Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(DateTime<Utc>);

impl Moment {
    /// The millisecond that the instant lies in.
    pub fn new(at: DateTime<Utc>) -> Self {
        Self(at.trunc_subsecs(3))
    }

    /// By its milliseconds since 1970; nothing if no calendar reaches it.
    pub fn of_millis(millis: u64) -> Option<Self> {
        DateTime::from_timestamp_millis(i64::try_from(millis).ok()?).map(Self)
    }

    /// The instant.
    pub fn at(self) -> DateTime<Utc> {
        self.0
    }

    /// Milliseconds since 1970; what was before that is 0.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.timestamp_millis()).unwrap_or_default()
    }

    /// One that can be written again: RFC 3339 ends with the year 9999, in UTC too.
    fn written(at: DateTime<Utc>) -> Result<Self, String> {
        let is_one = (0..=9999).contains(&at.year());
        if is_one { Ok(Self::new(at)) } else { Err("a time is of a year from 0000 to 9999, in UTC too".to_owned()) }
    }

    /// What people type: a time with its offset, or the local time of `zone`, such as `2026-11-26 09:14:05`.
    pub fn typed(text: &str, zone: Tz) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(moment) = text.parse() {
            return Ok(moment);
        }
        let formats = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
        let local = formats.into_iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
        let local = local.ok_or_else(|| format!("a time is like 2026-11-26 09:14:05 (in {zone}), or {WITH_OFFSET}"))?;
        match zone.from_local_datetime(&local) {
            LocalResult::Single(at) => Self::written(at.to_utc()),
            LocalResult::Ambiguous(first, second) => Err(format!(
                "the clocks of {zone} showed that time twice; say which is meant: {} or {}",
                first.to_rfc3339(),
                second.to_rfc3339()
            )),
            LocalResult::None => Err(format!("the clocks of {zone} never showed that time; say another")),
        }
    }
}

/// How a time looks that nobody can take for another.
const WITH_OFFSET: &str = "2026-11-26T09:14:05Z, with its offset";

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = DateTime::parse_from_rfc3339(text).map_err(|_| format!("a time is like {WITH_OFFSET}"))?;
        Self::written(at.to_utc())
    }
}

impl TryFrom<String> for Moment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&timestamp::text(self.0))
    }
}

impl PartialSchema for Moment {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let text = text.format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        text.description(Some("An instant with its offset (RFC 3339), taken to the millisecond.")).into()
    }
}

impl ToSchema for Moment {}

/// What is put back, or looked at before that. In JSON a field of the object that it belongs to: `id` or `at`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
pub enum Subject {
    /// A backup, by its id.
    #[serde(rename = "id")]
    Backup(BackupId),
    /// What the databases held at an instant, by the journal.
    #[serde(rename = "at")]
    Point(Moment),
}

impl Subject {
    /// The backup, if it is one.
    pub fn backup(self) -> Option<BackupId> {
        match self {
            Subject::Backup(id) => Some(id),
            Subject::Point(_) => None,
        }
    }

    /// The instant, if it is one.
    pub fn point(self) -> Option<Moment> {
        match self {
            Subject::Backup(_) => None,
            Subject::Point(moment) => Some(moment),
        }
    }

    /// What else could be taken.
    pub fn another(self) -> &'static str {
        match self {
            Subject::Backup(_) => "another backup",
            Subject::Point(_) => "another time, or a backup",
        }
    }
}

impl From<BackupId> for Subject {
    fn from(id: BackupId) -> Self {
        Subject::Backup(id)
    }
}

impl From<Moment> for Subject {
    fn from(moment: Moment) -> Self {
        Subject::Point(moment)
    }
}

/// Its name, which is also what has to be said once more before it is put back.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Backup(id) => id.fmt(f),
            Subject::Point(moment) => moment.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN: Tz = Tz::Europe__Berlin;

    #[test]
    fn times_are_read_with_their_offset_or_as_the_zone_has_them() {
        let typed = |text: &str| Moment::typed(text, BERLIN).map(|moment| moment.to_string());
        assert_eq!(typed("2026-11-26T09:14:05Z").unwrap(), "2026-11-26T09:14:05.000Z");
        assert_eq!(typed("2026-11-26T09:14:05.1239+01:00").unwrap(), "2026-11-26T08:14:05.123Z");
        for local in ["2026-11-26 09:14:05", " 2026-11-26T09:14:05 ", "2026-11-26 09:14:05.000"] {
            assert_eq!(typed(local).unwrap(), "2026-11-26T08:14:05.000Z", "{local}");
        }
        assert_eq!(typed("2026-07-26T09:14").unwrap(), "2026-07-26T07:14:00.000Z");
        let twice = typed("2026-10-25 02:30:00").unwrap_err();
        assert!(twice.contains("2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00"), "{twice}");
        assert!(typed("2026-03-29 02:30:00").unwrap_err().contains("never showed"));
        for none in ["", "yesterday", "2026-11-26", "09:14:05", "2026-13-26 09:14:05", "daily-2026-01-08"] {
            assert!(typed(none).unwrap_err().starts_with("a time is like 2026-11-26 09:14:05"), "{none}");
        }
        assert!("2026-11-26 09:14:05".parse::<Moment>().is_err(), "no offset");
        // What is printed is read again: RFC 3339 has no year 10000.
        assert!("9999-12-31T23:59:59-05:00".parse::<Moment>().unwrap_err().contains("9999"));
        assert!(Moment::typed("9999-12-31 23:59:59", Tz::America__St_Johns).unwrap_err().contains("9999"));
    }

    #[test]
    fn a_subject_is_the_field_that_older_versions_wrote() {
        let id: BackupId = "daily-2026-01-08".parse().unwrap();
        let json = serde_json::to_value(Subject::from(id)).unwrap();
        assert_eq!(json, serde_json::json!({ "id": "daily-2026-01-08" }));
        let at: Moment = "2026-11-26T10:14:05.5+01:00".parse().unwrap();
        let json = serde_json::to_value(Subject::from(at)).unwrap();
        assert_eq!(json, serde_json::json!({ "at": "2026-11-26T09:14:05.500Z" }));
        assert_eq!(serde_json::from_value::<Subject>(json).unwrap(), at.into());
        assert_eq!(Moment::of_millis(at.millis()), Some(at));
        assert_eq!("1969-12-31T23:59:59Z".parse::<Moment>().unwrap().millis(), 0);
    }
}
