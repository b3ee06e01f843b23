//! When a daily backup is due: a pure function of (now, last daily, schedule, failures). croner and chrono-tz
//! know gaps and folds of daylight saving; no clock is read here.

use chrono::{DateTime, Duration, SubsecRound, Utc};
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
    pub fn local_date(&self, at: DateTime<Utc>) -> chrono::NaiveDate {
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
}
