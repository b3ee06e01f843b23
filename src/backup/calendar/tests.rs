use super::*;
use crate::backup::Tier;
use crate::backup::retention::plan;
use crate::backup::sample::{apply, backup};

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

/// A store that misses nothing has no gap on any day, whatever the retention; and one that missed a day has one for it.
#[test]
fn a_store_that_missed_nothing_has_no_gap() {
    let retentions = [
        (7, 4, 12),
        (7, 4, 6),
        (7, 4, 3),
        (7, 2, 12),
        (7, 1, 1),
        (7, 0, 3),
        (7, 0, 0),
        (1, 0, 0),
        (1, 1, 1),
        (3, 8, 0),
        (14, 52, 24),
    ];
    for (daily, weekly, monthly) in retentions {
        let retention = Retention { daily, weekly, monthly, ..Retention::default() };
        let (mut backups, mut today) = (Vec::new(), day("2024-01-03"));
        for sequence in 1..=800 {
            // In the morning, before the day's backup, and after it.
            for is_taken in [false, true] {
                if is_taken {
                    backups.push(backup(sequence, Tier::Daily, today));
                    let plan = plan(&backups, &retention, None);
                    apply(&mut backups, &plan);
                }
                let shown = calendar(&backups, &retention, today);
                let all = [letters(&shown.months), letters(&shown.weeks), letters(&shown.days)];
                assert!(all.iter().all(|letters| !letters.contains('G')), "{retention:?} {today} {is_taken}: {all:?}");
                let kept = |letters: &String| letters.matches('k').count();
                if is_taken && sequence > 700 && (daily, weekly, monthly) == (7, 4, 12) {
                    assert_eq!(all.iter().map(kept).collect::<Vec<_>>(), [12, 4, 7], "{today}: {all:?}");
                }
            }
            today = today.succ_opt().unwrap();
        }
    }
}

#[test]
fn what_is_gone_of_what_is_owed_is_a_gap() {
    let mut backups = of(Tier::Monthly, &["2025-02-28"]);
    backups.extend(of(Tier::Daily, &["2026-01-07"]));
    let few = Retention { daily: 1, weekly: 0, monthly: 2, ..Retention::default() };
    let shown = calendar(&backups, &few, day("2026-01-08"));
    assert_eq!(letters(&shown.days), "-----ko");
    assert_eq!(letters(&shown.weeks), "---k");
    assert_eq!(letters(&shown.months), "k---------Gk");
}
