//! Which days, weeks and months can be restored: a pure function of (backups, retention, today).

use chrono::{Datelike, Days, Months, NaiveDate};

use super::retention::Retention;
use super::{Backup, BackupId};

/// Months that are shown.
const MONTHS: u32 = 12;
/// The fewest and the most weeks and days that are shown, whatever the retention.
const WEEKS: std::ops::RangeInclusive<u32> = 4..=8;
const DAYS: std::ops::RangeInclusive<u32> = 7..=14;

/// What can be restored, oldest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Calendar {
    /// The last twelve.
    pub months: Vec<Period>,
    /// ISO weeks.
    pub weeks: Vec<Period>,
    /// Up to today.
    pub days: Vec<Period>,
}

/// A day, a week or a month.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Period {
    /// Its first day.
    pub first: NaiveDate,
    /// Its last day.
    pub last: NaiveDate,
    /// Whether it can be restored.
    pub state: State,
}

/// What there is of a period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It can be restored: its newest good backup, and how many there are.
    Kept {
        /// The newest good one.
        id: BackupId,
        /// Good ones.
        count: usize,
    },
    /// It should be there and isn't.
    Gap,
    /// It isn't over, and has none yet.
    Open,
    /// Longer ago than the retention goes.
    NotKept,
    /// Before the oldest backup.
    Before,
}

/// The calendar as it is today.
pub fn calendar(backups: &[Backup], retention: &Retention, today: NaiveDate) -> Calendar {
    let view = View { backups, today, since: backups.iter().map(|backup| backup.local_date).min() };
    let clamped = |count: u32, range: std::ops::RangeInclusive<u32>| count.clamp(*range.start(), *range.end());
    // How many days back each tier reaches.
    let daily = u64::from(retention.daily);
    let weekly = daily + 7 * u64::from(retention.weekly);
    let monthly = weekly + 31 * u64::from(retention.monthly);
    let days = last(clamped(retention.daily, DAYS), |back| {
        let day = before(today, back.into());
        (day, day)
    });
    let weeks = last(clamped(retention.weekly, WEEKS), |back| {
        let monday = before(today, u64::from(today.weekday().num_days_from_monday()) + 7 * u64::from(back));
        (monday, after(monday, 6))
    });
    let months = last(MONTHS, |back| {
        let first = today.with_day(1).unwrap_or(today);
        let first = first.checked_sub_months(Months::new(back)).unwrap_or(first);
        (first, before(first.checked_add_months(Months::new(1)).unwrap_or(first), 1))
    });
    Calendar {
        months: view.periods(months, before(today, monthly)),
        weeks: view.periods(weeks, before(today, weekly)),
        days: view.periods(days, before(today, daily)),
    }
}

/// The last `count` periods, oldest first.
fn last(count: u32, period: impl Fn(u32) -> (NaiveDate, NaiveDate)) -> Vec<(NaiveDate, NaiveDate)> {
    (0..count).rev().map(period).collect()
}

fn before(date: NaiveDate, days: u64) -> NaiveDate {
    date.checked_sub_days(Days::new(days)).unwrap_or(date)
}

fn after(date: NaiveDate, days: u64) -> NaiveDate {
    date.checked_add_days(Days::new(days)).unwrap_or(date)
}

struct View<'a> {
    backups: &'a [Backup],
    today: NaiveDate,
    /// The day of the oldest backup.
    since: Option<NaiveDate>,
}

impl View<'_> {
    /// Those that end after `reach` should be there.
    fn periods(&self, periods: Vec<(NaiveDate, NaiveDate)>, reach: NaiveDate) -> Vec<Period> {
        let period = |(first, last)| Period { first, last, state: self.state(first, last, last > reach) };
        periods.into_iter().map(period).collect()
    }

    fn state(&self, first: NaiveDate, last: NaiveDate, is_within_reach: bool) -> State {
        let good = self.backups.iter().filter(|it| it.is_good() && (first..=last).contains(&it.local_date));
        let good: Vec<&Backup> = good.collect();
        match good.iter().max_by_key(|backup| (backup.timestamp, backup.sequence)) {
            Some(newest) => State::Kept { id: newest.id, count: good.len() },
            None if last >= self.today => State::Open,
            None if self.since.is_none_or(|since| last < since) => State::Before,
            None if is_within_reach => State::Gap,
            None => State::NotKept,
        }
    }
}

#[cfg(test)]
mod tests;
