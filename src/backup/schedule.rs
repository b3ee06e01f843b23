//! When a daily backup is due: a pure function of (now, last daily, schedule, failures). croner and chrono-tz
//! know gaps and folds of daylight saving; no clock is read here. And when a rehearsal is due.

use chrono::{DateTime, Datelike, Duration, NaiveDate, SubsecRound, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// After the first failure of a slot it is tried again this many minutes after each failure; then the next day.
pub const RETRY_MINUTES: [i64; 4] = [1, 5, 15, 30];

/// Once each local day at a wall-clock time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// An IANA time zone.
    #[schema(value_type = String)]
    pub timezone: Tz,
}

/// What to do now, and until when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The backup of `slot` is due; `failures` tries at it have failed.
    Run {
        /// The instant it was planned for.
        slot: DateTime<Utc>,
        /// Failed tries since.
        failures: usize,
    },
    /// Nothing is due before `until`.
    Wait {
        /// When to ask again, unless the clock jumps.
        until: DateTime<Utc>,
    },
}

impl Schedule {
    /// The last planned instant not later than `now`.
    pub fn slot_before(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        // A local day lasts 25 hours at most, and some zones have once skipped a whole date.
        let from = now - Duration::hours(75);
        self.slots(from).take_while(|slot| *slot <= now).last().unwrap_or(from)
    }

    /// The next planned instant after `now`.
    pub fn next_run(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.slots(now).find(|slot| *slot > now).unwrap_or(now + Duration::days(1))
    }

    /// The date on the wall where the schedule lives.
    pub fn local_date(&self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.timezone).date_naive()
    }

    fn slots(&self, from: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> + use<> {
        let cron = self.cron();
        // croner keeps fractions of a second.
        let mut at = from.trunc_subsecs(0).with_timezone(&self.timezone);
        std::iter::from_fn(move || {
            at = cron.as_ref()?.find_next_occurrence(&at, false).ok()?;
            Some(at.with_timezone(&Utc))
        })
    }

    fn cron(&self) -> Option<Cron> {
        let pattern = format!("0 {} {} * * *", self.minute, self.hour);
        CronParser::builder().seconds(Seconds::Required).build().parse(&pattern).ok()
    }
}

/// Decides. Whatever lies in the future (the clock went back) is left out, so it can neither stall nor burst.
pub fn decide(
    schedule: &Schedule,
    now: DateTime<Utc>,
    dailies: impl IntoIterator<Item = DateTime<Utc>>,
    failures: impl IntoIterator<Item = DateTime<Utc>>,
) -> Decision {
    let slot = schedule.slot_before(now);
    let next = schedule.next_run(now);
    let past = |at: &DateTime<Utc>| *at <= now;
    if dailies.into_iter().filter(past).max().is_some_and(|last| last >= slot) {
        return Decision::Wait { until: next };
    }
    let failed: Vec<_> = failures.into_iter().filter(past).filter(|at| *at >= slot).collect();
    let Some(last) = failed.iter().max() else { return Decision::Run { slot, failures: 0 } };
    let Some(pause) = RETRY_MINUTES.get(failed.len() - 1) else { return Decision::Wait { until: next } };
    let again = *last + Duration::minutes(*pause);
    if again <= now {
        Decision::Run { slot, failures: failed.len() }
    } else {
        Decision::Wait { until: again.min(next) }
    }
}

/// How often backups are rehearsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum DrillSchedule {
    Off,
    Daily,
    Weekly,
    Monthly,
}

impl DrillSchedule {
    /// The day, the ISO week or the month of a date; nothing if there are no rehearsals.
    fn period(self, date: NaiveDate) -> Option<(i32, u32)> {
        match self {
            Self::Off => None,
            Self::Daily => Some((date.year(), date.ordinal())),
            Self::Weekly => Some((date.iso_week().year(), date.iso_week().week())),
            Self::Monthly => Some((date.year(), date.month())),
        }
    }
}

/// Whether a rehearsal is due: once a day, week or month, after the day's time for the backup. One that was missed is caught
/// up once. Each is of the day whose backup it follows, also where that ends after midnight, or is caught up the next morning. `last` is
/// the last one, however it ended; if it lies in a period to come, the clock was wrong.
pub fn drill_is_due(
    schedule: &Schedule,
    every: DrillSchedule,
    now: DateTime<Utc>,
    last: Option<DateTime<Utc>>,
) -> bool {
    let day_of = |at| schedule.local_date(schedule.slot_before(at));
    let Some(period) = every.period(day_of(now)) else { return false };
    last.and_then(|last| every.period(day_of(last))) != Some(period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn schedule(hour: u8, minute: u8, timezone: Tz) -> Schedule {
        Schedule { hour, minute, timezone }
    }

    #[test]
    fn berlin_runs_once_at_each_change_of_the_clocks() {
        let berlin = schedule(2, 30, chrono_tz::Europe::Berlin);
        // 02:30 does not exist on 2026-03-29: the first instant after the gap is 03:00 summer time.
        assert_eq!(berlin.next_run(at("2026-03-28T12:00:00Z")), at("2026-03-29T01:00:00Z"));
        assert_eq!(berlin.next_run(at("2026-03-29T01:00:00Z")), at("2026-03-30T00:30:00Z"));
        // 02:30 comes twice on 2026-10-25: the first time is summer time.
        assert_eq!(berlin.next_run(at("2026-10-24T12:00:00Z")), at("2026-10-25T00:30:00Z"));
        assert_eq!(berlin.next_run(at("2026-10-25T00:30:00Z")), at("2026-10-26T01:30:00Z"));
        assert_eq!(berlin.slot_before(at("2026-10-25T01:30:00Z")), at("2026-10-25T00:30:00Z"));
    }

    /// Every minute of a year asked, one backup a local day, whatever the zone does.
    #[test]
    fn one_run_a_local_day_in_odd_zones() {
        use chrono_tz::{Africa, America, Australia, Europe, Pacific};
        let zones = [Europe::Berlin, America::St_Johns, Australia::Lord_Howe, Africa::Cairo, Pacific::Chatham];
        for zone in zones {
            for (hour, minute) in [(0, 0), (0, 30), (1, 59), (2, 15), (2, 30), (3, 0), (23, 59)] {
                let schedule = schedule(hour, minute, zone);
                let mut now = zone.with_ymd_and_hms(2026, 1, 1, 12, 0, 0).unwrap().with_timezone(&Utc);
                let end = now + Duration::days(365);
                let mut runs = vec![now];
                while now < end {
                    now = schedule.next_run(now);
                    assert!(matches!(decide(&schedule, now, runs.clone(), []), Decision::Run { .. }));
                    runs.push(now);
                }
                let dates: std::collections::BTreeSet<_> =
                    runs[1..].iter().map(|run| schedule.local_date(*run)).collect();
                assert_eq!(dates.len(), runs.len() - 1, "{zone} {hour}:{minute}");
                assert_eq!(runs.len() - 1, 365 + usize::from(runs.last() > Some(&end)), "{zone} {hour}:{minute}");
            }
        }
    }

    #[test]
    fn a_missed_run_is_caught_up_once_and_a_restart_postpones_nothing() {
        let utc = schedule(2, 0, Tz::UTC);
        let last = [at("2026-01-05T02:00:00Z")];
        let now = at("2026-01-08T14:00:00Z");
        assert_eq!(decide(&utc, now, last, []), Decision::Run { slot: at("2026-01-08T02:00:00Z"), failures: 0 });
        assert_eq!(decide(&utc, now, [last[0], now], []), Decision::Wait { until: at("2026-01-09T02:00:00Z") });
        assert_eq!(decide(&utc, now, [], []), Decision::Run { slot: at("2026-01-08T02:00:00Z"), failures: 0 });
    }

    #[test]
    fn failures_are_retried_after_1_5_15_30_minutes_then_the_next_day() {
        let utc = schedule(2, 0, Tz::UTC);
        let mut failures = Vec::new();
        let mut now = at("2026-01-08T02:00:00Z");
        let mut tried = Vec::new();
        while now < at("2026-01-09T03:00:00Z") {
            if let Decision::Run { failures: count, .. } = decide(&utc, now, [], failures.clone()) {
                tried.push((now.format("%d %H:%M").to_string(), count));
                failures.push(now);
            }
            now += Duration::minutes(1);
        }
        let times: Vec<_> = tried.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(times[..5], ["08 02:00", "08 02:01", "08 02:06", "08 02:21", "08 02:51"]);
        assert_eq!(times[5..7], ["09 02:00", "09 02:01"]);
        assert_eq!(tried[4].1, 4);
    }

    #[test]
    fn a_clock_that_jumps_a_day_and_back_neither_bursts_nor_stalls() {
        let utc = schedule(2, 0, Tz::UTC);
        let mut dailies = vec![at("2026-01-08T02:00:00Z")];
        let wrong = at("2026-01-09T14:00:00Z");
        assert!(matches!(decide(&utc, wrong, dailies.clone(), []), Decision::Run { .. }));
        dailies.push(wrong);
        let right = at("2026-01-08T14:01:00Z");
        let until = at("2026-01-09T02:00:00Z");
        assert_eq!(decide(&utc, right, dailies.clone(), []), Decision::Wait { until });
        assert!(matches!(decide(&utc, until, dailies.clone(), []), Decision::Run { .. }));
        // Failures of the wrong time don't hold the right one back either.
        assert!(matches!(decide(&utc, until, [], [at("2026-01-10T02:00:00Z")]), Decision::Run { failures: 0, .. }));
    }

    /// Asked at every quarter of an hour between two instants: when a rehearsal would run.
    fn drills(schedule: &Schedule, every: DrillSchedule, from: &str, to: &str) -> Vec<String> {
        let (mut now, mut last, mut ran) = (at(from), None, Vec::new());
        while now < at(to) {
            if drill_is_due(schedule, every, now, last) {
                last = Some(now);
                ran.push(now.with_timezone(&schedule.timezone).format("%Y-%m-%d %H:%M").to_string());
            }
            now += Duration::minutes(15);
        }
        ran
    }

    #[test]
    fn a_rehearsal_comes_once_a_day_a_week_a_month_after_the_backup() {
        let utc = schedule(2, 0, Tz::UTC);
        let ran = |every| drills(&utc, every, "2025-12-27T12:00:00Z", "2026-02-03T00:00:00Z");
        assert_eq!(ran(DrillSchedule::Off), Vec::<String>::new());
        let daily = ran(DrillSchedule::Daily);
        assert_eq!((daily.len(), daily[0].as_str(), daily[1].as_str()), (38, "2025-12-27 12:00", "2025-12-28 02:00"));
        // The week of New Year begins on Monday the 29th: one rehearsal for all of it.
        let weekly = ran(DrillSchedule::Weekly);
        assert_eq!(weekly[..3], ["2025-12-27 12:00", "2025-12-29 02:00", "2026-01-05 02:00"]);
        assert_eq!(weekly.len(), 7);
        assert_eq!(ran(DrillSchedule::Monthly), ["2025-12-27 12:00", "2026-01-01 02:00", "2026-02-01 02:00"]);
    }

    #[test]
    fn a_year_of_53_weeks_has_one_rehearsal_in_each() {
        let utc = schedule(2, 0, Tz::UTC);
        let ran = drills(&utc, DrillSchedule::Weekly, "2026-12-21T02:00:00Z", "2027-01-13T00:00:00Z");
        assert_eq!(ran, ["2026-12-21 02:00", "2026-12-28 02:00", "2027-01-04 02:00", "2027-01-11 02:00"]);
    }

    #[test]
    fn changes_of_the_clocks_neither_skip_nor_double_a_rehearsal() {
        let berlin = schedule(2, 30, chrono_tz::Europe::Berlin);
        let ran = |from, to| drills(&berlin, DrillSchedule::Daily, from, to);
        // 02:30 does not exist on the 29th.
        let spring = ran("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(spring, ["2026-03-28 13:00", "2026-03-29 03:00", "2026-03-30 02:30"]);
        // It comes twice on the 25th.
        let autumn = ran("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(autumn, ["2026-10-24 14:00", "2026-10-25 02:30", "2026-10-26 02:30"]);
        // A Sunday's evening in Berlin is Sunday, whatever day it is elsewhere.
        let auckland = schedule(2, 0, chrono_tz::Pacific::Auckland);
        let monday = at("2026-01-04T14:00:00Z");
        assert!(drill_is_due(&auckland, DrillSchedule::Weekly, monday, Some(at("2026-01-04T10:00:00Z"))));
        assert!(!drill_is_due(&berlin, DrillSchedule::Weekly, monday, Some(at("2026-01-04T10:00:00Z"))));
    }

    /// Asked once a day, when the backup of 23:55 has ended: at one minute past midnight.
    #[test]
    fn a_backup_late_in_the_evening_has_its_rehearsal_after_midnight() {
        let late = schedule(23, 55, Tz::UTC);
        let ran = |every| {
            let (mut last, mut ran) = (None, Vec::new());
            // A Monday.
            let days = (0..36).map(|day| at("2025-12-29T00:01:00Z") + Duration::days(day));
            for now in days.filter(|now| {
                let due = drill_is_due(&late, every, *now, last);
                last = if due { Some(*now + Duration::minutes(3)) } else { last };
                due
            }) {
                ran.push(now.format("%m-%d").to_string());
            }
            ran
        };
        assert_eq!(ran(DrillSchedule::Daily).len(), 36);
        // Each is of the evening before: of a Sunday, and then of Mondays.
        assert_eq!(ran(DrillSchedule::Weekly), ["12-29", "12-30", "01-06", "01-13", "01-20", "01-27"]);
        assert_eq!(ran(DrillSchedule::Monthly), ["12-29", "01-02", "02-02"]);
        // Where the machine is off at night it comes in the morning, after the backup that is caught up then; once.
        let due = |now, last| drill_is_due(&late, DrillSchedule::Weekly, at(now), last);
        assert!(due("2025-12-30T08:00:00Z", None) && !due("2025-12-30T23:55:00Z", Some(at("2025-12-30T08:04:00Z"))));
    }

    #[test]
    fn a_missed_rehearsal_is_caught_up_once_and_not_before_the_backup() {
        let utc = schedule(14, 0, Tz::UTC);
        let last = Some(at("2026-01-02T14:00:00Z"));
        let due = |now, last| drill_is_due(&utc, DrillSchedule::Weekly, at(now), last);
        assert!(!due("2026-01-05T13:59:59Z", last) && due("2026-01-05T14:00:00Z", last));
        // Where none came for weeks it follows the newest backup, of whichever day.
        assert!(due("2026-01-22T13:59:59Z", last));
        for last in ["2026-01-22T13:59:59Z", "2026-01-22T14:00:05Z"] {
            assert!(!due("2026-01-23T15:00:00Z", Some(at(last))));
        }
        assert!(due("2026-01-22T14:00:00Z", None));
    }

    #[test]
    fn a_rehearsal_of_a_wrong_clock_neither_stalls_nor_bursts() {
        let utc = schedule(2, 0, Tz::UTC);
        let due = |now, last| drill_is_due(&utc, DrillSchedule::Weekly, at(now), Some(at(last)));
        assert!(due("2026-01-22T14:00:00Z", "2031-01-22T14:00:00Z"));
        // A second of the same week doesn't count.
        assert!(!due("2026-01-22T14:00:00Z", "2026-01-22T14:00:01Z"));
    }
}
