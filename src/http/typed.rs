//! The form of the settings as it was filled in, and the change that it asks for: only what differs from what is in force.

use chrono::{NaiveTime, Timelike};
use chrono_tz::Tz;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::problem::{FieldError, Problem};
use super::settings::{Partial, not_allowed, parse};
use crate::backup::hex;
use crate::backup::settings::{Saved, Settings};
use crate::config::VARIABLES;
use crate::engine::Outlook;
use crate::engine::status::ConfigView;

/// What was typed, and which button was pressed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Typed {
    /// The settings that were looked at.
    pub version: String,
    /// A box that is ticked or not there.
    pub enabled: Option<String>,
    /// Hour and minute.
    pub time: String,
    /// An IANA time zone.
    pub timezone: String,
    /// How many daily backups.
    pub daily: String,
    /// How many weekly ones.
    pub weekly: String,
    /// How many monthly ones.
    pub monthly: String,
    /// How many manual ones.
    pub manual: String,
    /// How many pre-restore ones.
    pub pre_restore: String,
    /// The drops that stand beside the form.
    pub seen: String,
    /// The button that says that these may go.
    pub drop: Option<String>,
    /// The button that takes back everything that was saved.
    pub reset: Option<String>,
}

impl Typed {
    /// As the form is before anyone types.
    pub fn of(view: &ConfigView) -> Self {
        let Settings { enabled, schedule, retention } = view.settings;
        Self {
            version: view.version(),
            enabled: enabled.then(|| "true".to_owned()),
            time: format!("{:02}:{:02}", schedule.hour, schedule.minute),
            timezone: schedule.timezone.name().to_owned(),
            daily: retention.daily.to_string(),
            weekly: retention.weekly.to_string(),
            monthly: retention.monthly.to_string(),
            manual: retention.manual.to_string(),
            pre_restore: retention.pre_restore.to_string(),
            ..Self::default()
        }
    }

    /// How many of each tier: by name, as typed.
    pub fn counts(&self) -> [(&'static str, &str); 5] {
        [
            ("daily", &self.daily),
            ("weekly", &self.weekly),
            ("monthly", &self.monthly),
            ("manual", &self.manual),
            ("preRestore", &self.pre_restore),
        ]
    }

    /// What is to be saved, on top of the settings `now`.
    pub fn change(&self, now: &Settings) -> Result<Saved, Problem> {
        let (schedule, mut errors) = self.schedule(now);
        let mut retention = Map::new();
        for (name, text) in self.counts() {
            let key = format!("retention.{name}");
            match text.trim().parse::<u32>() {
                Ok(number) if now.number(&key) == Some(number) => {}
                Ok(number) => drop(retention.insert(name.to_owned(), number.into())),
                Err(_) => errors.push(wrong(&format!("/retention/{name}"), text, allowed(&key))),
            }
        }
        let mut partial =
            Partial::from_iter([("schedule".to_owned(), schedule.into()), ("retention".to_owned(), retention.into())]);
        partial.retain(|_, part| part != &json!({}));
        if self.enabled.is_some() != now.enabled {
            partial.insert("enabled".to_owned(), self.enabled.is_some().into());
        }
        match parse(&partial, now) {
            Ok(set) if errors.is_empty() => Ok(set),
            Ok(_) => Err(not_allowed(errors)),
            Err(problem) => {
                errors.extend_from_slice(problem.fields());
                Err(not_allowed(errors))
            }
        }
    }

    fn schedule(&self, now: &Settings) -> (Map<String, Value>, Vec<FieldError>) {
        let (mut schedule, mut errors) = (Map::new(), Vec::new());
        match NaiveTime::parse_from_str(self.time.trim(), "%H:%M") {
            Ok(time) => {
                let parts = [("hour", time.hour(), now.schedule.hour), ("minute", time.minute(), now.schedule.minute)];
                let differing = parts.into_iter().filter(|(_, typed, now)| *typed != u32::from(*now));
                schedule.extend(differing.map(|(name, typed, _)| (name.to_owned(), typed.into())));
            }
            Err(_) => errors.push(wrong("/schedule/hour", &self.time, "a time such as 02:00")),
        }
        match self.timezone.trim().parse::<Tz>() {
            Ok(zone) if zone == now.schedule.timezone => {}
            Ok(zone) => drop(schedule.insert("timezone".to_owned(), zone.name().into())),
            Err(_) => errors.push(wrong("/schedule/timezone", &self.timezone, allowed("schedule.timezone"))),
        }
        (schedule, errors)
    }

    /// Whether nothing would be dropped at once but what was seen beside the form, and may go.
    pub fn agrees(&self, outlook: &Outlook) -> bool {
        let agreed = self.drop.is_some() && self.seen == seen(outlook);
        agreed || self.reset.is_none() && outlook.drops().next().is_none()
    }
}

fn wrong(pointer: &str, text: &str, allowed: &str) -> FieldError {
    let detail = match text.trim() {
        "" => format!("fill it in; it is {allowed}"),
        text => format!("{text} is not allowed; it is {allowed}"),
    };
    FieldError { pointer: pointer.to_owned(), detail }
}

/// What is allowed of the setting of that name, in words.
pub fn allowed(name: &str) -> &'static str {
    VARIABLES.iter().find(|variable| variable.json_key() == name).map_or("", |variable| variable.allowed)
}

/// A short name of what would be dropped at once.
pub fn seen(outlook: &Outlook) -> String {
    let mut sum = Sha256::new();
    outlook.drops().for_each(|id| sum.update(format!("{id};")));
    hex(&sum.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::retention::Retention;
    use crate::backup::schedule::Schedule;

    fn now() -> Settings {
        let schedule = Schedule { hour: 2, minute: 0, timezone: Tz::UTC };
        Settings { enabled: true, schedule, retention: Retention::default() }
    }

    fn typed() -> Typed {
        let text = |text: &str| text.to_owned();
        Typed {
            enabled: Some(text("true")),
            time: text("02:00"),
            timezone: text("UTC"),
            daily: text("7"),
            weekly: text("4"),
            monthly: text("12"),
            manual: text("10"),
            pre_restore: text("5"),
            ..Typed::default()
        }
    }

    #[test]
    fn only_what_differs_is_saved() {
        assert_eq!(typed().change(&now()).unwrap(), Saved::default());
        let set = Typed { time: "02:30".to_owned(), daily: " 9 ".to_owned(), enabled: None, ..typed() };
        let names = set.change(&now()).unwrap().names();
        assert_eq!(names, ["enabled", "schedule.minute", "retention.daily"]);
    }

    #[test]
    fn each_value_that_is_not_allowed_is_told_with_what_is() {
        let bad = |text: &str| text.to_owned();
        let typed = Typed {
            time: bad("25:00"),
            timezone: bad("Mars/Base"),
            daily: bad("0"),
            weekly: bad("many"),
            monthly: bad(""),
            manual: bad("99999999999"),
            ..typed()
        };
        let problem = typed.change(&now()).unwrap_err();
        let told: Vec<_> = problem.fields().iter().map(|it| format!("{} {}", it.pointer, it.detail)).collect();
        let expected = [
            "/schedule/hour 25:00 is not allowed; it is a time such as 02:00",
            "/schedule/timezone Mars/Base is not allowed; it is an IANA time zone such as Europe/Berlin or UTC",
            "/retention/weekly many is not allowed; it is a whole number from 0 to 520",
            "/retention/monthly fill it in; it is a whole number from 0 to 240",
            "/retention/manual 99999999999 is not allowed; it is a whole number from 1 to 1000",
            "/retention/daily 0 is not allowed; it is a whole number from 1 to 366",
        ];
        assert_eq!(told, expected);
    }
}
