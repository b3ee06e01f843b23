use super::*;
use crate::backup::Tier;
use crate::backup::sample::backup;

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn of(tier: Tier, days: &[&str]) -> Vec<Backup> {
    days.iter().enumerate().map(|(at, text)| backup(at as u64 + 1, tier, day(text))).collect()
}

/// Each state as a letter, oldest first.
fn letters(periods: &[Period]) -> String {
    let letter = |period: &Period| match period.state {
        State::Kept { .. } => 'k',
        State::Gap => 'G',
        State::Open => 'o',
        State::NotKept => '-',
        State::Before => '.',
    };
    periods.iter().map(letter).collect()
}

#[test]
fn without_backups_nothing_is_missing_yet() {
    let shown = calendar(&[], &Retention::default(), day("2026-01-08"));
    assert_eq!(letters(&shown.days), "......o");
    assert_eq!(letters(&shown.weeks), "...o");
    assert_eq!(letters(&shown.months), "...........o");
}

#[test]
fn a_missing_day_is_a_gap_and_today_is_not_over_yet() {
    let backups = of(Tier::Daily, &["2026-01-03", "2026-01-04", "2026-01-06", "2026-01-07"]);
    let shown = calendar(&backups, &Retention::default(), day("2026-01-08"));
    assert_eq!(letters(&shown.days), ".kkGkko");
    let days: Vec<_> = shown.days.iter().map(|period| period.first.to_string()).collect();
    assert_eq!((days[0].as_str(), days[6].as_str()), ("2026-01-02", "2026-01-08"));
}

#[test]
fn weeks_begin_on_monday_and_months_have_their_own_length() {
    let shown = calendar(&[], &Retention::default(), day("2024-03-01"));
    let (week, month) = (&shown.weeks[3], &shown.months[10]);
    assert_eq!((week.first, week.last), (day("2024-02-26"), day("2024-03-03")));
    assert_eq!((month.first, month.last), (day("2024-02-01"), day("2024-02-29")));
    assert_eq!(shown.months[0].first, day("2023-04-01"));
}

#[test]
fn the_newest_good_one_stands_for_a_period_and_a_damaged_one_for_none() {
    let mut backups = of(Tier::Daily, &["2026-01-05", "2026-01-06", "2026-01-07"]);
    backups[2].verified.ok = false;
    let shown = calendar(&backups, &Retention::default(), day("2026-01-08"));
    assert_eq!(letters(&shown.days), "...kkGo");
    assert_eq!(shown.weeks[3].state, State::Kept { id: backups[1].id, count: 2 });
}

#[test]
fn beyond_what_the_retention_reaches_nothing_is_missing() {
    let mut backups = of(Tier::Monthly, &["2025-02-28"]);
    backups.extend(of(Tier::Daily, &["2026-01-07"]));
    let few = Retention { daily: 1, weekly: 0, monthly: 2, ..Retention::default() };
    let shown = calendar(&backups, &few, day("2026-01-08"));
    assert_eq!(letters(&shown.days), "-----ko");
    assert_eq!(letters(&shown.weeks), "---k");
    assert_eq!(letters(&shown.months), "k--------GGk");
}
