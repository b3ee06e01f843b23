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
    let owed = Owed::of(retention, today);
    let clamped = |count: u32, range: std::ops::RangeInclusive<u32>| count.clamp(*range.start(), *range.end());
    let days = last(clamped(retention.daily, DAYS), |back| {
        let day = before(today, back.into());
        (day, day)
    });
    let weeks = last(clamped(retention.weekly, WEEKS), |back| week(before(monday(today), 7 * u64::from(back))));
    let months = last(MONTHS, |back| month(months_before(today, back)));
    Calendar {
        months: view.periods(months, |period| owed.has_month(period)),
        weeks: view.periods(weeks, |period| owed.has_week(period)),
        days: view.periods(days, |period| owed.has_day(period)),
    }
}

/// First and last day.
type Span = (NaiveDate, NaiveDate);

/// What rotation has kept if a backup was taken each day. It counts from the newest on: a day that leaves the dailies stands
/// for its week, a week that leaves the weeklies for its month.
struct Owed {
    /// The oldest day of which there is a daily backup for sure.
    day: NaiveDate,
    /// The Monday of the oldest week that a weekly backup stands for; nothing if there are none.
    week: Option<NaiveDate>,
    /// The first day of the oldest month that a monthly backup stands for; nothing if there are none.
    month: Option<NaiveDate>,
}

impl Owed {
    fn of(retention: &Retention, today: NaiveDate) -> Self {
        // The newest day that has left the dailies for sure.
        let left = before(today, retention.daily.into());
        let weeks = u64::from(retention.weekly);
        let week = weeks.checked_sub(1).map(|older| before(monday(left), 7 * older));
        // A weekly backup stands for a month by its own day, which is any of its week's.
        let left = week.map_or(left, |oldest| before(oldest, 1));
        let month = retention.monthly.checked_sub(1).map(|older| month(months_before(left, older)).0);
        Self { day: before(today, u64::from(retention.daily).saturating_sub(1)), week, month }
    }

    fn has_day(&self, (day, _): Span) -> bool {
        day >= self.day
    }

    fn has_week(&self, (first, last): Span) -> bool {
        self.week.is_some_and(|oldest| first >= oldest) || last >= self.day
    }

    /// A month is stood for by its own backup, or by that of a week which lies within it.
    fn has_month(&self, (first, last): Span) -> bool {
        let whole_week = self
            .week
            .map(|oldest| after(if monday(first) == first { first } else { after(monday(first), 7) }.max(oldest), 6));
        self.month.is_some_and(|oldest| first >= oldest)
            || whole_week.is_some_and(|sunday| sunday <= last)
            || last >= self.day
    }
}

fn monday(date: NaiveDate) -> NaiveDate {
    before(date, date.weekday().num_days_from_monday().into())
}

fn week(monday: NaiveDate) -> Span {
    (monday, after(monday, 6))
}

fn months_before(date: NaiveDate, months: u32) -> NaiveDate {
    let first = date.with_day(1).unwrap_or(date);
    first.checked_sub_months(Months::new(months)).unwrap_or(first)
}

fn month(first: NaiveDate) -> Span {
    (first, before(first.checked_add_months(Months::new(1)).unwrap_or(first), 1))
}

/// The last `count` periods, oldest first.
fn last(count: u32, period: impl Fn(u32) -> Span) -> Vec<Span> {
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
    fn periods(&self, periods: Vec<Span>, is_owed: impl Fn(Span) -> bool) -> Vec<Period> {
        let period = |span: Span| Period { first: span.0, last: span.1, state: self.state(span, is_owed(span)) };
        periods.into_iter().map(period).collect()
    }

    fn state(&self, (first, last): Span, is_owed: bool) -> State {
        let good = self.backups.iter().filter(|it| it.is_good() && (first..=last).contains(&it.local_date));
        let good: Vec<&Backup> = good.collect();
        match good.iter().max_by_key(|backup| (backup.timestamp, backup.sequence)) {
            Some(newest) => State::Kept { id: newest.id, count: good.len() },
            None if last >= self.today => State::Open,
            None if self.since.is_none_or(|since| last < since) => State::Before,
            None if is_owed => State::Gap,
            None => State::NotKept,
        }
    }
}

#[cfg(test)]
mod tests;
