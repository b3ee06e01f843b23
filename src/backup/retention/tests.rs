use chrono::Datelike;
use proptest::prelude::*;

use super::*;
use crate::backup::sample::{apply, backup};
use crate::backup::{CAME_FROM, Flag};

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn add_daily(backups: &mut Vec<Backup>, date: NaiveDate, retention: &Retention) {
    let sequence = backups.iter().map(|backup| backup.sequence).max().unwrap_or(0) + 1;
    let mut new = backup(sequence, Tier::Daily, date);
    new.id = free_id(new.id, |id| backups.iter().any(|other| other.id == *id));
    backups.push(new);
    let plan = plan(backups, retention, None);
    apply(backups, &plan);
}

fn ids(backups: &[Backup], tier: Tier) -> Vec<String> {
    let mut of: Vec<_> = backups.iter().filter(|backup| backup.tier == tier).collect();
    of.sort_by_key(|backup| backup.sequence);
    of.into_iter().map(|backup| backup.id.to_string()).collect()
}

fn after_days(from: &str, days: u64, retention: &Retention) -> Vec<Backup> {
    let mut backups = Vec::new();
    for n in 0..days {
        add_daily(&mut backups, day(from) + Days::new(n), retention);
    }
    backups
}

#[test]
fn years_of_dailies_leave_7_4_12_with_distinct_consecutive_weeks_and_months() {
    let backups = after_days("2024-01-01", 1000, &Retention::default());
    assert_eq!(backups.len(), 23);
    let mondays: Vec<_> = backups.iter().filter(|backup| backup.tier == Tier::Weekly).map(|b| b.local_date).collect();
    assert!(mondays.windows(2).all(|pair| (pair[1] - pair[0]).num_days() == 7), "{mondays:?}");
    let months = ids(&backups, Tier::Monthly);
    assert_eq!(months.len(), 12);
    assert_eq!(months.iter().collect::<BTreeSet<_>>().len(), 12);
    assert_eq!((months[0].as_str(), months[11].as_str()), ("monthly-2025-09", "monthly-2026-08"));
}

#[test]
fn new_year_2026_27_has_a_week_53() {
    let backups = after_days("2026-11-01", 80, &Retention::default());
    assert_eq!(
        ids(&backups, Tier::Weekly),
        ["weekly-2026-W52", "weekly-2026-W53", "weekly-2027-W01", "weekly-2027-W02"]
    );
    assert_eq!(ids(&backups, Tier::Monthly), ["monthly-2026-11", "monthly-2026-12"]);
}

#[test]
fn a_tier_of_0_is_passed_over() {
    let retention = Retention { weekly: 0, ..Retention::default() };
    let backups = after_days("2026-01-01", 200, &retention);
    assert!(ids(&backups, Tier::Weekly).is_empty());
    assert_eq!(ids(&backups, Tier::Monthly)[..3], ["monthly-2026-01", "monthly-2026-02", "monthly-2026-03"]);
    let retention = Retention { weekly: 0, monthly: 0, ..Retention::default() };
    assert_eq!(after_days("2026-01-01", 200, &retention).len(), 7);
}

#[test]
fn a_second_daily_of_a_date_replaces_the_first() {
    let mut backups = after_days("2026-01-05", 3, &Retention::default());
    add_daily(&mut backups, day("2026-01-07"), &Retention::default());
    assert_eq!(ids(&backups, Tier::Daily), ["daily-2026-01-05", "daily-2026-01-06", "daily-2026-01-07-2"]);
}

#[test]
fn a_clock_that_goes_back_deletes_nothing_that_the_count_does_not_ask_for() {
    let mut backups = after_days("2026-01-05", 5, &Retention::default());
    add_daily(&mut backups, day("2027-06-01"), &Retention::default());
    add_daily(&mut backups, day("2026-01-10"), &Retention::default());
    assert_eq!(ids(&backups, Tier::Daily).len(), 7);
}

#[test]
fn manual_and_pre_restore_backups_push_no_scheduled_one_out() {
    let mut backups = after_days("2026-01-01", 60, &Retention::default());
    let scheduled = backups.iter().filter(|backup| backup.tier.is_scheduled()).count();
    for sequence in 1000..1040 {
        let tier = if sequence % 2 == 0 { Tier::Manual } else { Tier::PreRestore };
        backups.push(backup(sequence, tier, day("2026-03-02")));
        let plan = plan(&backups, &Retention::default(), None);
        apply(&mut backups, &plan);
    }
    assert_eq!(backups.iter().filter(|backup| backup.tier.is_scheduled()).count(), scheduled);
    assert_eq!(ids(&backups, Tier::Manual).len(), 10);
    assert_eq!(ids(&backups, Tier::PreRestore).len(), 5);
}

#[test]
fn pinned_ones_stay_and_fill_nothing() {
    let mut backups = after_days("2026-01-01", 7, &Retention::default());
    backups[0].pinned = true;
    for n in 7..90 {
        add_daily(&mut backups, day("2026-01-01") + Days::new(n), &Retention::default());
    }
    assert_eq!(ids(&backups, Tier::Daily).len(), 8);
    assert!(backups.iter().any(|backup| backup.id.to_string() == "daily-2026-01-01"));
    // The pinned one of the week does not stand for it.
    assert!(ids(&backups, Tier::Monthly).contains(&"monthly-2026-01".to_owned()));
}

#[test]
fn flagged_ones_freeze_rotation_fill_no_quota_and_only_three_stay() {
    let mut backups = after_days("2026-01-01", 40, &Retention::default());
    let mut good: Vec<_> = backups.iter().map(|backup| backup.id).collect();
    for n in 40..60 {
        let before = backup(2000 + n, Tier::PreRestore, day("2026-01-01") + Days::new(n));
        good.push(before.id);
        backups.push(before);
        let mut shrunk = backup(1000 + n, Tier::Daily, day("2026-01-01") + Days::new(n));
        shrunk.flags.insert(Flag::Shrunk);
        backups.push(shrunk);
        let plan = plan(&backups, &Retention::default(), None);
        assert!(plan.frozen.is_some());
        apply(&mut backups, &plan);
    }
    assert!(good.iter().all(|id| backups.iter().any(|backup| backup.id == *id)));
    assert_eq!(backups.len(), good.len() + FLAGGED_KEPT);
    // A good one thaws it; the flagged ones still fill nothing.
    add_daily(&mut backups, day("2026-03-05"), &Retention::default());
    assert_eq!(backups.iter().filter(|backup| backup.tier == Tier::Daily && backup.is_good()).count(), 7);
}

#[test]
fn what_was_brought_from_another_store_freezes_nothing_and_thaws_nothing() {
    let mut ours = backup(1, Tier::Daily, day("2026-01-01"));
    let mut theirs = backup(2, Tier::Manual, day("2026-01-02"));
    theirs.extra.insert(CAME_FROM.to_owned(), "elsewhere".into());
    let frozen = |ours: &Backup, theirs: &Backup| {
        let backups = [ours.clone(), theirs.clone()];
        let plan = plan(&backups, &Retention::default(), None);
        assert_eq!(plan.frozen.is_some(), shrunk_newest(&backups).is_some());
        plan.frozen
    };
    theirs.flags.insert(Flag::Shrunk);
    assert_eq!(frozen(&ours, &theirs), None);
    theirs.flags.clear();
    ours.flags.insert(Flag::Shrunk);
    assert!(frozen(&ours, &theirs).is_some_and(|why| why.contains(&ours.id.to_string())));
}

#[test]
fn damaged_ones_fill_nothing_and_are_never_dropped() {
    let mut backups = after_days("2026-01-01", 60, &Retention::default());
    let damaged: Vec<_> = backups.iter().map(|backup| backup.id).collect();
    backups.iter_mut().for_each(|backup| backup.verified.ok = false);
    for n in 60..100 {
        add_daily(&mut backups, day("2026-01-01") + Days::new(n), &Retention::default());
    }
    assert!(damaged.iter().all(|id| backups.iter().any(|backup| backup.id == *id)));
    assert_eq!(counted(&backups, Tier::Daily).len(), 7);
}

#[test]
fn a_name_that_is_still_to_be_removed_is_not_given_again() {
    let mut backups = after_days("2026-01-05", 7, &Retention::default());
    let mut going = backup(100, Tier::Weekly, day("2026-01-05"));
    going.deleting = true;
    backups.push(going);
    backups.push(backup(101, Tier::Daily, day("2026-01-12")));
    let to = plan(&backups, &Retention::default(), None).steps.into_iter().find_map(|step| match step {
        Step::Promote { to, .. } => Some(to.to_string()),
        Step::Drop { .. } => None,
    });
    assert_eq!(to.as_deref(), Some("weekly-2026-W02-2"));
}

#[test]
fn damaged_ones_are_never_promoted() {
    let mut backups = after_days("2026-01-05", 7, &Retention::default());
    backups[0].verified.ok = false;
    for n in 7..14 {
        add_daily(&mut backups, day("2026-01-05") + Days::new(n), &Retention::default());
    }
    assert_eq!(ids(&backups, Tier::Weekly), ["weekly-2026-W02"]);
    let weekly = backups.iter().find(|backup| backup.tier == Tier::Weekly).unwrap();
    assert_eq!(weekly.local_date, day("2026-01-06"));
}

#[test]
fn while_frozen_from_outside_nothing_good_goes() {
    let backups = after_days("2026-01-01", 60, &Retention::default());
    let smaller = Retention { daily: 1, weekly: 1, monthly: 1, manual: 1, pre_restore: 2 };
    let plan = plan(&backups, &smaller, Some("the live data is corrupt"));
    assert!(plan.steps.is_empty() && plan.frozen.is_some());
}

#[test]
fn fates_come_true() {
    let retention = Retention::default();
    let mut backups = after_days("2025-01-01", 500, &retention);
    let mut foretold = fates(&backups, &retention, None);
    let first = backups.iter().map(|backup| (backup.sequence, backup.id)).collect::<BTreeMap<_, _>>();
    let newest = backups.iter().max_by_key(|backup| backup.sequence).unwrap();
    assert_eq!(foretold[&newest.id].kept, "daily 1 of 7");
    let mut date = newest.local_date;
    for _ in 0..500 {
        date = date + Days::new(1);
        let before: BTreeMap<_, _> = backups.iter().map(|backup| (backup.sequence, backup.id)).collect();
        add_daily(&mut backups, date, &retention);
        let after: BTreeMap<_, _> = backups.iter().map(|backup| (backup.sequence, backup.id)).collect();
        for (sequence, id) in before.iter().filter(|(sequence, _)| first.contains_key(sequence)) {
            let event = match after.get(sequence) {
                Some(now) if now == id => continue,
                Some(now) => Event::Becomes { id: *now, on: date },
                None => Event::Goes { on: date },
            };
            assert_eq!(foretold.get_mut(&first[sequence]).unwrap().then.remove(0), event);
        }
    }
    assert!(foretold.values().all(|fate| fate.then.is_empty()), "something foretold never came");
}

fn any_retention() -> impl Strategy<Value = Retention> {
    (1..9_u32, 0..6_u32, 0..14_u32, 1..5_u32, 2..4_u32).prop_map(|(daily, weekly, monthly, manual, pre_restore)| {
        Retention { daily, weekly, monthly, manual, pre_restore }
    })
}

/// Any mixture: gaps, doubles, pins, flags, tiers, dates out of order.
fn any_backups() -> impl Strategy<Value = Vec<Backup>> {
    prop::collection::vec((0..5_usize, 0..900_u64, 0..20_u8), 0..60).prop_map(|specs| {
        let mut backups: Vec<Backup> = Vec::new();
        for (sequence, (tier, days, luck)) in (1..).zip(specs) {
            let mut new = backup(sequence, Tier::ALL[tier], day("2025-01-01") + Days::new(days));
            new.id = free_id(new.id, |id| backups.iter().any(|other| other.id == *id));
            new.pinned = luck == 0;
            if luck == 1 {
                new.flags.insert(Flag::Shrunk);
            }
            new.verified.ok = luck != 2;
            backups.push(new);
        }
        backups
    })
}

fn counted(backups: &[Backup], tier: Tier) -> Vec<&Backup> {
    backups.iter().filter(|backup| backup.tier == tier && !backup.pinned && backup.is_good()).collect()
}

proptest! {
    #[test]
    fn never_over_the_limits_idempotent_and_blind_to_order(
        (backups, shuffled) in any_backups().prop_flat_map(|backups| (Just(backups.clone()), Just(backups).prop_shuffle())),
        retention in any_retention(),
    ) {
        let first = plan(&backups, &retention, None);
        prop_assert_eq!(&first, &plan(&shuffled, &retention, None));
        let newest_good = backups.iter().filter(|backup| backup.is_good()).max_by_key(|backup| backup.sequence).map(|b| b.sequence);
        let mut after = backups.clone();
        apply(&mut after, &first);
        prop_assert!(newest_good.is_none_or(|newest| after.iter().any(|backup| backup.sequence == newest)));
        for kept in backups.iter().filter(|backup| backup.pinned) {
            prop_assert!(after.iter().any(|backup| backup.id == kept.id));
        }
        if first.frozen.is_some() {
            for good in backups.iter().filter(|backup| backup.is_good() && backup.tier != Tier::PreRestore) {
                prop_assert!(after.iter().any(|backup| backup.id == good.id));
            }
        } else {
            for tier in Tier::ALL {
                // One more only where it is the newest good one of all.
                let over = counted(&after, tier).len().saturating_sub(retention.of(tier));
                let newest_here = counted(&after, tier).iter().any(|backup| Some(backup.sequence) == newest_good);
                prop_assert!(over <= usize::from(newest_here), "{} over in {}", over, tier);
            }
            let dates: Vec<_> = counted(&after, Tier::Daily).iter().map(|backup| backup.local_date).collect();
            prop_assert_eq!(dates.iter().collect::<BTreeSet<_>>().len(), dates.len());
        }
        let again = plan(&after, &retention, None);
        prop_assert!(again.steps.is_empty(), "{:?} after {:?}", again.steps, first.steps);
        let foretold = fates(&after, &retention, None);
        prop_assert_eq!(foretold.len(), after.len());
    }

    #[test]
    fn from_dailies_alone_weeks_and_months_are_distinct(
        gaps in prop::collection::vec(1..40_u64, 1..120),
        retention in any_retention(),
    ) {
        let (mut backups, mut date) = (Vec::new(), day("2024-01-01"));
        for gap in gaps {
            date = date + Days::new(gap);
            let before: Vec<_> = backups.clone();
            add_daily(&mut backups, date, &retention);
            // A gap of any length drops nothing that the count doesn't ask for.
            let total = (retention.daily + retention.weekly + retention.monthly) as usize;
            prop_assert!(backups.len() <= total);
            prop_assert!(before.len() < retention.daily as usize || !backups.is_empty());
        }
        let weeks: Vec<_> = counted(&backups, Tier::Weekly).iter().map(|b| b.local_date.iso_week()).collect();
        prop_assert_eq!(weeks.iter().collect::<std::collections::HashSet<_>>().len(), weeks.len());
        let months: Vec<_> = counted(&backups, Tier::Monthly).iter().map(|b| (b.local_date.year(), b.local_date.month())).collect();
        prop_assert_eq!(months.iter().collect::<BTreeSet<_>>().len(), months.len());
    }
}
