//! Backup ids: parsed by a strict grammar, printed from their fields. Paths come from these fields alone [P9].

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Timelike, Utc, Weekday};
use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{DatabaseName, Form};

/// What a backup is kept for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Scheduled; the last days.
    Daily,
    /// One of its ISO week, promoted from the dailies.
    Weekly,
    /// One of its month, promoted.
    Monthly,
    /// Asked for by someone.
    Manual,
    /// Taken by a restore before it changes anything.
    PreRestore,
}

impl Tier {
    /// All tiers, in the order of lists.
    pub const ALL: [Tier; 5] = [Tier::Daily, Tier::Weekly, Tier::Monthly, Tier::Manual, Tier::PreRestore];

    /// The name in ids, JSON and folders.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Daily => "daily",
            Tier::Weekly => "weekly",
            Tier::Monthly => "monthly",
            Tier::Manual => "manual",
            Tier::PreRestore => "pre-restore",
        }
    }

    /// Scheduled tiers are rotated into each other; the others have limits of their own.
    pub fn is_scheduled(self) -> bool {
        matches!(self, Tier::Daily | Tier::Weekly | Tier::Monthly)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Tier::ALL
            .into_iter()
            .find(|tier| tier.name() == text)
            .ok_or_else(|| "a type is daily, weekly, monthly, manual or pre-restore".to_owned())
    }
}

/// What an id is named after; the tier follows from it, but for the two that are named after a second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Period {
    Day(NaiveDate),
    /// ISO 8601 week-year and week.
    Week(i32, u32),
    Month(i32, u32),
    Second(NaiveDateTime),
}

/// The name of a backup, such as `daily-2026-01-08`, `weekly-2026-W02` or `manual-2026-01-08T143005Z-2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId {
    tier: Tier,
    period: Period,
    /// 1 is not printed; 2, 3 … end the id.
    ordinal: u32,
}

/// A name has fewer backups of its own.
const PLAUSIBLE: u32 = 1000;

impl BackupId {
    /// The first id of a tier for a snapshot taken at `at`, which was `local_date` where the schedule lives.
    pub fn new(tier: Tier, at: DateTime<Utc>, local_date: NaiveDate) -> Self {
        let period = match tier {
            Tier::Daily => Period::Day(local_date),
            Tier::Weekly => Period::Week(local_date.iso_week().year(), local_date.iso_week().week()),
            Tier::Monthly => Period::Month(local_date.year(), local_date.month()),
            Tier::Manual | Tier::PreRestore => Period::Second(at.naive_utc().with_nanosecond(0).unwrap_or_default()),
        };
        Self { tier, period, ordinal: 1 }
    }

    /// The tier that the id begins with.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The same name with the next number at its end, for when this one is taken.
    pub fn next(self) -> Self {
        Self { ordinal: self.ordinal + 1, ..self }
    }

    /// This name, or the one after the highest of those that stand and begin alike: what was called so a while ago isn't
    /// taken for what is called so now. Numbers that nobody comes to don't count: whoever holds a replica could leave us none.
    pub fn after(self, standing: impl Iterator<Item = Self>) -> Self {
        let alike = standing.filter(|other| (other.tier, other.period) == (self.tier, self.period));
        alike.filter(|other| other.ordinal < PLAUSIBLE).max().map_or(self, Self::next)
    }

    /// The id without its tier: how file names go on after the database's name.
    pub fn stem(&self) -> String {
        let period = match self.period {
            Period::Day(day) => day.format("%Y-%m-%d").to_string(),
            Period::Week(year, week) => format!("{year:04}-W{week:02}"),
            Period::Month(year, month) => format!("{year:04}-{month:02}"),
            Period::Second(at) => at.format("%Y-%m-%dT%H%M%SZ").to_string(),
        };
        match self.ordinal {
            1 => period,
            n => format!("{period}-{n}"),
        }
    }

    /// The path below the backup directory at which a database of this backup lies.
    pub fn file(&self, name: &DatabaseName, form: Form) -> String {
        format!("{}/{name}-{}.{}", self.tier, self.stem(), form.ending())
    }

    /// The id of a tier from the part that file names hold.
    pub fn from_stem(tier: Tier, stem: &str) -> Option<Self> {
        let width = match tier {
            Tier::Daily => 10,
            Tier::Weekly => 8,
            Tier::Monthly => 7,
            Tier::Manual | Tier::PreRestore => 18,
        };
        let (text, rest) = (stem.get(..width)?, stem.get(width..)?);
        let period = match tier {
            Tier::Daily => Period::Day(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?),
            Tier::Weekly => {
                let (year, week) = (text.get(..4)?.parse().ok()?, text.get(6..)?.parse().ok()?);
                NaiveDate::from_isoywd_opt(year, week, Weekday::Mon)?;
                Period::Week(year, week)
            }
            Tier::Monthly => {
                let (year, month) = (text.get(..4)?.parse().ok()?, text.get(5..)?.parse().ok()?);
                NaiveDate::from_ymd_opt(year, month, 1)?;
                Period::Month(year, month)
            }
            Tier::Manual | Tier::PreRestore => {
                let second = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H%M%SZ").ok()?;
                // chrono reads a 60th second as a leap second; our clock has none.
                Period::Second(Some(second).filter(|second| second.nanosecond() < 1_000_000_000)?)
            }
        };
        let ordinal = match rest {
            "" => 1,
            _ => rest.strip_prefix('-')?.parse().ok().filter(|n| (2..=9999).contains(n))?,
        };
        let id = Self { tier, period, ordinal };
        // What prints differently was not in the grammar: "+2", "02", other digits, 60 seconds.
        (id.stem() == stem).then_some(id)
    }

    /// A date inside the period: the day itself, the Monday of the week, the first of the month.
    pub fn first_date(&self) -> NaiveDate {
        match self.period {
            Period::Day(day) => Some(day),
            Period::Week(year, week) => NaiveDate::from_isoywd_opt(year, week, Weekday::Mon),
            Period::Month(year, month) => NaiveDate::from_ymd_opt(year, month, 1),
            Period::Second(at) => Some(at.date()),
        }
        .unwrap_or_default()
    }

    /// Whether a snapshot of that local date may bear this id.
    pub fn covers(&self, date: NaiveDate) -> bool {
        match self.period {
            Period::Day(day) => day == date,
            Period::Week(year, week) => (date.iso_week().year(), date.iso_week().week()) == (year, week),
            Period::Month(year, month) => (date.year(), date.month()) == (year, month),
            Period::Second(_) => true,
        }
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.tier, self.stem()))
    }
}

impl PartialSchema for BackupId {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).examples(["daily-2026-01-08", "weekly-2026-W02"]);
        text.pattern(Some(
            r"^(daily-[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])|weekly-[0-9]{4}-W(0[1-9]|[1-4][0-9]|5[0-3])|monthly-[0-9]{4}-(0[1-9]|1[0-2])|(manual|pre-restore)-[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])([0-5][0-9]){2}Z)(-([2-9]|[1-9][0-9]{1,3}))?$",
        ))
        .into()
    }
}

impl ToSchema for BackupId {}

impl FromStr for BackupId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Tier::ALL
            .into_iter()
            .find_map(|tier| Self::from_stem(tier, text.strip_prefix(tier.name())?.strip_prefix('-')?))
            .ok_or_else(|| {
                "not a backup id; they look like daily-2026-01-08, weekly-2026-W02, monthly-2026-01 or \
                 manual-2026-01-08T143005Z, as `list` shows them"
                    .to_owned()
            })
    }
}

impl TryFrom<String> for BackupId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_goes_on_from_the_highest_that_stands() {
        let ids = |text: &str| -> Vec<BackupId> { text.split_whitespace().map(|id| id.parse().unwrap()).collect() };
        let others = "daily-2026-01-07-9 weekly-2026-W02-9 monthly-2026-01-9 manual-2026-01-08T000000Z-9";
        for (standing, next) in [
            ("", "daily-2026-01-08"),
            ("daily-2026-01-08", "daily-2026-01-08-2"),
            ("daily-2026-01-08-2", "daily-2026-01-08-3"),
            ("daily-2026-01-08-10 daily-2026-01-08 daily-2026-01-08-9", "daily-2026-01-08-11"),
            ("daily-2026-01-08-9999 daily-2026-01-08-2", "daily-2026-01-08-3"),
        ] {
            let standing = ids(standing).into_iter().chain(ids(others));
            assert_eq!(ids("daily-2026-01-08")[0].after(standing).to_string(), next);
        }
    }

    #[test]
    fn the_grammar_is_strict() {
        let good = "daily-2026-01-08 weekly-2026-W02 weekly-2026-W53 monthly-2026-01 manual-2026-01-08T143005Z \
                    pre-restore-2026-01-08T150112Z daily-2026-01-08-2 manual-2026-01-08T143005Z-17";
        for text in good.split_whitespace() {
            assert_eq!(text.parse::<BackupId>().map(|id| id.to_string()).as_deref(), Ok(text));
        }
        let bad = [
            "",
            "daily",
            "daily-",
            "daily-2026-1-8",
            "daily-2026-02-30",
            "daily-2026-01-08-1",
            "daily-2026-01-08-02",
            "daily-2026-01-08-",
            "daily-2026-01-08-+2",
            "weekly-2025-W53",
            "weekly-2026-w02",
            "weekly-2026-W00",
            "weekly-2026-W+2",
            "monthly-2026-13",
            "monthly-2026-+1",
            "manual-2026-01-08T143060Z",
            "Daily-2026-01-08",
            "daily-2026-01-08/..",
            "../daily-2026-01-08",
            "daily-２０２６-01-08",
            "daily-2026-01-08 ",
            "daily-2026-01-08\n",
            "daily-2026-01-08\0",
            "manual-2026-01-08",
            "daily-2026-01-08-99999",
        ];
        for text in bad {
            assert!(text.parse::<BackupId>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn weeks_at_new_year_belong_to_their_iso_year() {
        let date = NaiveDate::from_ymd_opt(2027, 1, 3).unwrap();
        let id = BackupId::new(Tier::Weekly, DateTime::UNIX_EPOCH, date);
        assert_eq!(id.to_string(), "weekly-2026-W53");
        assert!(id.covers(NaiveDate::from_ymd_opt(2026, 12, 28).unwrap()));
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_the_same(text in "(daily|weekly|monthly|manual|pre-restore)-[0-9TZW-]{4,24}") {
            if let Ok(id) = text.parse::<BackupId>() {
                prop_assert_eq!(id.to_string(), text);
                prop_assert!(id.covers(id.first_date()));
            }
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = text.parse::<BackupId>();
        }
    }
}
