//! What can be changed while the program runs: the switch, the schedule and the retention.

use chrono_tz::Tz;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Map;
use utoipa::ToSchema;

use super::retention::Retention;
use super::schedule::Schedule;

/// The settings in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Scheduled backups are taken.
    pub enabled: bool,
    /// When.
    pub schedule: Schedule,
    /// How many are kept.
    pub retention: Retention,
}

/// `settings.json`, and a change to it: what is absent stays as the configuration has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Saved {
    /// Scheduled backups are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub enabled: Option<bool>,
    /// Parts of the schedule.
    #[serde(default, deserialize_with = "object")]
    pub schedule: SavedSchedule,
    /// Parts of the retention.
    #[serde(default, deserialize_with = "object")]
    pub retention: SavedRetention,
}

/// From an object only: serde takes a list for a struct too, in the order of its fields.
fn object<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let object = Map::deserialize(deserializer)?;
    serde_json::from_value(object.into()).map_err(D::Error::custom)
}

/// The parts of [`Schedule`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SavedSchedule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 23)]
    pub hour: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 59)]
    pub minute: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, example = "Europe/Berlin")]
    pub timezone: Option<Tz>,
}

/// The parts of [`Retention`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SavedRetention {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 366)]
    pub daily: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 520)]
    pub weekly: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 240)]
    pub monthly: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 1000)]
    pub manual: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 2, maximum = 100)]
    pub pre_restore: Option<u32>,
}

impl SavedRetention {
    /// Nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This on top of `base`.
    pub fn over(&self, base: &Retention) -> Retention {
        Retention {
            daily: self.daily.unwrap_or(base.daily),
            weekly: self.weekly.unwrap_or(base.weekly),
            monthly: self.monthly.unwrap_or(base.monthly),
            manual: self.manual.unwrap_or(base.manual),
            pre_restore: self.pre_restore.unwrap_or(base.pre_restore),
        }
    }
}

impl Saved {
    /// This on top of `base`.
    pub fn over(&self, base: &Settings) -> Settings {
        let s = self.schedule;
        Settings {
            enabled: self.enabled.unwrap_or(base.enabled),
            schedule: Schedule {
                hour: s.hour.unwrap_or(base.schedule.hour),
                minute: s.minute.unwrap_or(base.schedule.minute),
                timezone: s.timezone.unwrap_or(base.schedule.timezone),
            },
            retention: self.retention.over(&base.retention),
        }
    }

    /// This with what `change` names replaced.
    pub fn with(&self, change: &Saved) -> Saved {
        let (s, r) = (self.schedule, self.retention);
        Saved {
            enabled: change.enabled.or(self.enabled),
            schedule: SavedSchedule {
                hour: change.schedule.hour.or(s.hour),
                minute: change.schedule.minute.or(s.minute),
                timezone: change.schedule.timezone.or(s.timezone),
            },
            retention: SavedRetention {
                daily: change.retention.daily.or(r.daily),
                weekly: change.retention.weekly.or(r.weekly),
                monthly: change.retention.monthly.or(r.monthly),
                manual: change.retention.manual.or(r.manual),
                pre_restore: change.retention.pre_restore.or(r.pre_restore),
            },
        }
    }

    /// The names of what is set here, as `config` lists them.
    pub fn names(&self) -> Vec<&'static str> {
        let (s, r) = (self.schedule, self.retention);
        [
            (self.enabled.is_some(), "enabled"),
            (s.hour.is_some(), "schedule.hour"),
            (s.minute.is_some(), "schedule.minute"),
            (s.timezone.is_some(), "schedule.timezone"),
            (r.daily.is_some(), "retention.daily"),
            (r.weekly.is_some(), "retention.weekly"),
            (r.monthly.is_some(), "retention.monthly"),
            (r.manual.is_some(), "retention.manual"),
            (r.pre_restore.is_some(), "retention.preRestore"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect()
    }
}

/// What the numbers may be: by name, from, to.
const BOUNDS: [(&str, u32, u32); 7] = [
    ("schedule.hour", 0, 23),
    ("schedule.minute", 0, 59),
    ("retention.daily", 1, 366),
    ("retention.weekly", 0, 520),
    ("retention.monthly", 0, 240),
    ("retention.manual", 1, 1000),
    ("retention.preRestore", 2, 100),
];

/// The least and the most that a number of that name may be.
pub fn bounds(name: &str) -> Option<(u32, u32)> {
    BOUNDS.iter().find(|(other, ..)| *other == name).map(|(_, least, most)| (*least, *most))
}

impl Settings {
    /// Ranges: what is wrong and what is allowed, by name.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        for (name, least, most) in BOUNDS {
            let value = self.number(name).unwrap_or(least);
            if !(least..=most).contains(&value) {
                return Err((name, format!("{value} is not allowed; it is a whole number from {least} to {most}")));
            }
        }
        Ok(())
    }

    /// Keeping as many backups of each type as `kept`, too, unless that is more than anybody may say.
    pub fn keeping(&self, kept: &Retention) -> Self {
        let all = Self { retention: self.retention.at_least(kept), ..*self };
        if all.validate().is_ok() { all } else { *self }
    }

    /// The number of that name.
    pub fn number(&self, name: &str) -> Option<u32> {
        let (s, r) = (&self.schedule, &self.retention);
        Some(match name {
            "schedule.hour" => s.hour.into(),
            "schedule.minute" => s.minute.into(),
            "retention.daily" => r.daily,
            "retention.weekly" => r.weekly,
            "retention.monthly" => r.monthly,
            "retention.manual" => r.manual,
            "retention.preRestore" => r.pre_restore,
            _ => return None,
        })
    }
}
