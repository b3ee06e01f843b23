use proptest::prelude::*;

use super::*;

fn at(minutes: i64) -> DateTime<Utc> {
    "2026-01-08T01:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
}

fn found(code: &str, about: &str) -> Found {
    let event = Event::of_warning(code).unwrap();
    Found { event, code: code.to_owned(), about: about.to_owned(), detail: format!("{code} of {about}") }
}

fn stages(memory: &mut Memory, found: &[Found], minutes: i64) -> Vec<(Event, Stage)> {
    memory.stand(found, |_| true, at(minutes)).into_iter().map(|it| (it.event, it.stage)).collect()
}

#[test]
fn what_stands_is_told_once_then_daily_and_when_it_is_over() {
    let (mut memory, failed) = (Memory::default(), [found("drill-failed", "")]);
    let day = 24 * 60;
    assert_eq!(stages(&mut memory, &failed, 0), [(Event::DrillFailed, Stage::Began)]);
    for minutes in [0, 1, day - 1] {
        assert_eq!(stages(&mut memory, &failed, minutes), []);
    }
    assert_eq!(stages(&mut memory, &failed, day), [(Event::DrillFailed, Stage::Reminder)]);
    assert_eq!(stages(&mut memory, &failed, 2 * day - 1), []);
    assert_eq!(stages(&mut memory, &failed, 2 * day), [(Event::DrillFailed, Stage::Reminder)]);
    // What comes and goes is one thing, which is over when it stays away.
    for minutes in [1, 15, 30] {
        assert_eq!(stages(&mut memory, &[], 2 * day + minutes), []);
        assert_eq!(stages(&mut memory, &failed, 2 * day + minutes + 14), []);
    }
    assert_eq!(stages(&mut memory, &[], 2 * day + 50), []);
    assert_eq!(stages(&mut memory, &[], 2 * day + 64), []);
    assert_eq!(stages(&mut memory, &[], 2 * day + 65), [(Event::DrillFailed, Stage::Recovered)]);
    assert_eq!(stages(&mut memory, &[], 2 * day + 66), []);
    assert_eq!(memory, Memory::default());
}

#[test]
fn a_start_after_days_and_the_room_of_a_backup_alarm_nobody() {
    for (code, patience) in [("stale", 30), ("no-backup", 30), ("not-covered", 30), ("space-low", 15)] {
        let (mut memory, found) = (Memory::default(), [found(code, "")]);
        assert_eq!(stages(&mut memory, &found, 0), []);
        assert_eq!(stages(&mut memory, &found, patience - 1), []);
        assert_eq!(stages(&mut memory, &[], patience), []);
        assert_eq!(stages(&mut memory, &found, patience + 1), []);
        assert_eq!(stages(&mut memory, &found, 2 * patience + 1), [(found[0].event, Stage::Began)]);
    }
}

#[test]
fn what_was_found_before_the_clock_was_set_is_of_now() {
    let (mut memory, failed) = (Memory::default(), [found("drill-failed", "")]);
    let told = memory.stand(&failed, |_| true, DateTime::UNIX_EPOCH);
    assert_eq!(told.len(), 1);
    assert_eq!(stages(&mut memory, &failed, 0), [], "a reminder after a minute");
    assert_eq!(memory.standing[&Event::DrillFailed].since, at(0));
}

#[test]
fn what_was_told_before_is_told_no_more_when_it_can_be_read_again() {
    let (mut before, failed) = (Memory::default(), [found("drill-failed", "")]);
    stages(&mut before, &failed, 0);
    let mut memory = Memory::default();
    stages(&mut memory, &[found("audit-broken", "")], 10);
    before.follow(memory);
    assert_eq!(stages(&mut before, &[failed[0].clone(), found("audit-broken", "")], 11), []);
    assert_eq!(stages(&mut before, &failed, 24 * 60), [(Event::DrillFailed, Stage::Reminder)]);
}

#[test]
fn what_passes_by_itself_is_told_to_nobody() {
    let (mut memory, failing) = (Memory::default(), [found("replica-failing", "nas")]);
    assert_eq!(stages(&mut memory, &failing, 0), []);
    assert_eq!(stages(&mut memory, &failing, 59), []);
    assert_eq!(stages(&mut memory, &[], 60), []);
    assert_eq!(stages(&mut memory, &failing, 61), []);
    assert_eq!(stages(&mut memory, &failing, 121), [(Event::ReplicaBehind, Stage::Began)]);
    // A second one has an hour too, and is told by itself.
    let both = [found("replica-failing", "nas"), found("replica-failing", "far")];
    assert_eq!(stages(&mut memory, &both, 122), []);
    let told = memory.stand(&both, |_| true, at(182));
    assert_eq!((told.len(), told[0].stage, told[0].details.len()), (1, Stage::Began, 2));
    // One that comes and goes is told no second time.
    assert_eq!(stages(&mut memory, &failing, 183), []);
    assert_eq!(stages(&mut memory, &both, 300), []);
}

#[test]
fn what_can_not_be_found_out_stands_as_it_stood() {
    let (mut memory, failed) = (Memory::default(), [found("drill-failed", "")]);
    assert_eq!(stages(&mut memory, &failed, 0), [(Event::DrillFailed, Stage::Began)]);
    let lost =
        [Found { event: Event::Unreadable, code: "catalog".to_owned(), about: String::new(), detail: "x".to_owned() }];
    let only = |event| event == Event::Unreadable;
    assert_eq!(memory.stand(&lost, only, at(1)), []);
    let told = memory.stand(&lost, only, at(2));
    assert_eq!((told.len(), told[0].event, told[0].stage), (1, Event::Unreadable, Stage::Began));
    assert_eq!(stages(&mut memory, &failed, 3), []);
    assert_eq!(stages(&mut memory, &failed, 18), [(Event::Unreadable, Stage::Recovered)]);
}

#[test]
fn a_clock_that_went_back_puts_a_reminder_off_by_a_day_at_most() {
    let (mut memory, failed) = (Memory::default(), [found("drill-failed", "")]);
    stages(&mut memory, &failed, 1_000_000);
    assert_eq!(stages(&mut memory, &failed, 0), []);
    assert_eq!(stages(&mut memory, &failed, 24 * 60), [(Event::DrillFailed, Stage::Reminder)]);
}

#[test]
fn refused_sign_ins_are_told_when_they_are_many() {
    let mut memory = Memory::default();
    // One every five minutes is somebody with an old token.
    assert!((0..50).all(|n| memory.refused(at(n * 5)).is_none()));
    let told: Vec<_> = (0..100).filter_map(|n| memory.refused(at(1000) + TimeDelta::seconds(n))).collect();
    assert_eq!(told.len(), 1, "once a day");
    assert_eq!((told[0].stage, told[0].details[0].as_str()), (Stage::Once, "10 sign-ins were refused within 1 min"));
    assert!((0..9).all(|n| memory.refused(at(1000 + 24 * 60) + TimeDelta::seconds(100 + n)).is_none()));
    assert!(memory.refused(at(1000 + 24 * 60) + TimeDelta::seconds(110)).is_some());
    assert!(memory.refusals.len() <= REFUSALS);
}

#[test]
fn every_event_has_a_word_of_its_own() {
    let words: BTreeSet<&str> = Event::ALL.iter().map(|event| event.word()).collect();
    assert_eq!(words.len(), Event::ALL.len());
    for event in Event::ALL {
        assert_eq!(serde_json::to_value(event).unwrap(), event.word());
    }
}

const CODES: [&str; 6] = ["stale", "no-backup", "damaged", "replica-failing", "replica-behind", "space-low"];

proptest! {
    /// Whatever comes and goes: nothing is over that was not told, nothing is told twice as new, a day brings no more than one
    /// reminder, and what stands for long enough is told.
    #[test]
    fn nothing_is_lost_and_nothing_told_in_vain(
        course in prop::collection::vec((prop::collection::btree_set((0..CODES.len(), 0..3u8), 0..6), 1..2000i64), 1..60)
    ) {
        let (mut memory, mut minutes) = (Memory::default(), 0);
        let mut standing: BTreeMap<Event, (DateTime<Utc>, BTreeSet<String>)> = BTreeMap::new();
        let mut gone: BTreeMap<Event, DateTime<Utc>> = BTreeMap::new();
        for (now, pause) in course {
            minutes += pause;
            let found: Vec<_> = now.iter().map(|(code, about)| found(CODES[*code], &format!("{code} {about}"))).collect();
            for event in standing.keys() {
                match found.iter().any(|one| one.event == *event) {
                    true => drop(gone.remove(event)),
                    false => drop(gone.entry(*event).or_insert(at(minutes))),
                }
            }
            let told = memory.stand(&found, |_| true, at(minutes));
            prop_assert_eq!(memory.stand(&found, |_| true, at(minutes)), vec![], "told twice");
            for telling in &told {
                let of: BTreeSet<String> =
                    found.iter().filter(|one| one.event == telling.event).map(|one| one.about.clone()).collect();
                prop_assert_eq!(telling.details.len(), of.len());
                match telling.stage {
                    Stage::Began => {
                        let known = standing.entry(telling.event).or_insert((at(minutes), BTreeSet::new()));
                        prop_assert!(!of.is_subset(&known.1), "{:?} is told as new once more", telling);
                        known.0 = at(minutes);
                        // Of those that are not ripe nobody knows here; they may be told once more.
                        let ripe = &memory.standing[&telling.event].findings;
                        known.1.extend(of.into_iter().filter(|about| ripe[about].told));
                    }
                    Stage::Reminder => {
                        let known = standing.get_mut(&telling.event);
                        let last = known.expect("a reminder of what was not told");
                        prop_assert!(at(minutes) - last.0 >= AGAIN);
                        last.0 = at(minutes);
                    }
                    Stage::Recovered => {
                        prop_assert!(of.is_empty());
                        let since = gone.remove(&telling.event);
                        prop_assert!(since.is_some_and(|since| at(minutes) - since >= CALM), "over too soon");
                        prop_assert!(standing.remove(&telling.event).is_some(), "over, and was never told");
                    }
                    Stage::Once => prop_assert!(false),
                }
            }
            // What needs no patience is told by now.
            for one in found.iter().filter(|one| ["damaged", "replica-behind"].contains(&one.code.as_str())) {
                prop_assert!(standing.get(&one.event).is_some_and(|(_, told)| told.contains(&one.about)), "{:?}", one);
            }
            // Nor is anything left to stand that is gone.
            prop_assert!(gone.values().all(|since| at(minutes) - *since < CALM));
            let kept: Memory = serde_json::from_value(serde_json::to_value(&memory).unwrap()).unwrap();
            prop_assert_eq!(&kept, &memory);
        }
        stages(&mut memory, &[], minutes + 1);
        stages(&mut memory, &[], minutes + 16);
        prop_assert_eq!(memory, Memory::default());
    }
}
