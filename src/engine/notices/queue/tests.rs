use proptest::prelude::*;

use super::*;
use crate::backup::notices::Event;
use crate::notify::Failure;

fn at(minutes: i64) -> DateTime<Utc> {
    "2026-01-08T01:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
}

fn notice(id: u32, event: Event, stage: Stage) -> Notice {
    let (at, text) = (at(0), String::new);
    let lines = Vec::new;
    let (happened, stands, todo) = (lines(), lines(), lines());
    let (subject, lead, from, id) = (text(), text(), text(), id.to_string());
    Notice { id, event, stage, at, since: at, subject, lead, happened, stands, todo, link: None, from }
}

fn failed() -> Result<(), Unsent> {
    Err(Failure { code: "notice-refused", detail: "no".to_owned() }.into())
}

fn next(remembered: &Remembered, minutes: i64) -> Option<String> {
    remembered.next(Kind::Mail, at(minutes)).map(|it| it.notice.id.clone())
}

#[test]
fn a_failure_puts_the_channel_off_and_the_notice_behind_the_others() {
    let mut remembered = Remembered::default();
    for id in [1, 2] {
        remembered.add(&notice(id, Event::RestoreDone, Stage::Once), [Kind::Mail, Kind::Webhook].into_iter());
    }
    assert_eq!(next(&remembered, 0).as_deref(), Some("1"));
    remembered.tried(Kind::Mail, "1", &failed(), at(0));
    assert_eq!(next(&remembered, 0), None);
    assert_eq!(remembered.next(Kind::Webhook, at(0)).unwrap().notice.id, "1", "each channel by itself");
    assert_eq!(next(&remembered, 1).as_deref(), Some("2"));
    remembered.tried(Kind::Mail, "2", &failed(), at(1));
    assert_eq!((next(&remembered, 2), next(&remembered, 3).as_deref()), (None, Some("1")));
    for _ in 0..70 {
        remembered.tried(Kind::Mail, "1", &failed(), at(3));
    }
    assert_eq!((next(&remembered, 62), next(&remembered, 63).as_deref()), (None, Some("2")));
    assert_eq!(remembered.channels[&Kind::Mail].last_error.as_ref().unwrap().since, at(0));
    // A clock that was wrong once makes nobody wait.
    assert!(next(&remembered, -1_000_000).is_some());
    remembered.tried(Kind::Mail, "2", &Ok(()), at(63));
    assert_eq!((next(&remembered, 63).as_deref(), remembered.channels[&Kind::Mail].failures), (Some("1"), 0));
}

#[test]
fn what_waits_is_bounded_and_gives_way() {
    let (mut remembered, kinds) = (Remembered::default(), [Kind::Mail]);
    remembered.add(&notice(0, Event::Stale, Stage::Began), kinds.into_iter());
    for id in 1..4 {
        remembered.add(&notice(id, Event::Stale, Stage::Reminder), kinds.into_iter());
    }
    let ids = |it: &Remembered| it.queue.iter().map(|it| it.notice.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&remembered), ["0", "3"]);
    for id in 4..300 {
        remembered.add(&notice(id, Event::SettingsChanged, Stage::Once), kinds.into_iter());
    }
    assert_eq!((remembered.queue.len(), ids(&remembered)[99].as_str()), (MOST, "299"));
    remembered.expire(&kinds, None, at(7 * 24 * 60));
    assert_eq!(remembered.queue.len(), MOST);
    remembered.expire(&[Kind::Webhook], None, at(0));
    assert!(remembered.queue.is_empty());
}

#[test]
fn it_comes_back_as_it_was_kept() {
    let (dir, mut remembered) = (tempfile::tempdir().unwrap(), Remembered::default());
    assert_eq!(Remembered::load(dir.path()).unwrap().unwrap(), remembered);
    remembered.add(&notice(1, Event::Stale, Stage::Began), [Kind::Mail].into_iter());
    remembered.tried(Kind::Mail, "1", &failed(), at(0));
    remembered.seen = Some(7);
    remembered.save(dir.path()).unwrap();
    assert_eq!(Remembered::load(dir.path()).unwrap().unwrap(), remembered);
    // What was told before it could be read comes after it.
    let mut later = Remembered::default();
    later.add(&notice(2, Event::Unreadable, Stage::Began), [Kind::Mail].into_iter());
    later.follow(remembered);
    let ids: Vec<_> = later.queue.iter().map(|it| it.notice.id.as_str()).collect();
    assert_eq!((ids, later.seen), (vec!["1", "2"], Some(7)));
    // What isn't to be understood is not thrown away.
    std::fs::write(dir.path().join(FILE), "{").unwrap();
    assert_eq!(Remembered::load(dir.path()).unwrap(), None);
    Remembered::set_aside(dir.path(), at(0)).unwrap();
    let files: Vec<_> = dir.path().read_dir().unwrap().map(|it| it.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    assert_eq!(std::fs::read(&files[0]).unwrap(), b"{");
    assert_eq!(Remembered::load(dir.path()).unwrap().unwrap(), Remembered::default());
}

#[test]
fn a_clock_that_is_put_right_makes_nothing_old() {
    let (mut remembered, kinds, year) = (Remembered::default(), [Kind::Mail], 365 * 24 * 60);
    remembered.add(&notice(1, Event::Stale, Stage::Began), kinds.into_iter());
    remembered.expire(&kinds, Some(at(10)), at(year));
    assert_eq!(remembered.queue[0].notice.at, at(year));
    // It gets old all the same.
    let week = 7 * 24 * 60;
    remembered.expire(&kinds, Some(at(year + week)), at(year + week + 1));
    assert!(remembered.queue.is_empty());
    // After a start nothing is known of a jump.
    let early = Notice { at: DateTime::UNIX_EPOCH, ..notice(2, Event::Stale, Stage::Began) };
    remembered.add(&early, kinds.into_iter());
    remembered.expire(&kinds, None, at(0));
    assert_eq!(remembered.queue[0].notice.at, at(0));
}

fn refused(extent: Extent) -> Result<(), Unsent> {
    Err(Unsent { failure: Failure { code: "notice-refused", detail: "no".to_owned() }, extent })
}

#[test]
fn one_who_is_refused_is_in_no_others_way() {
    let mut remembered = Remembered::default();
    for id in [1, 2] {
        remembered.add(&notice(id, Event::RestoreDone, Stage::Once), [Kind::Mail].into_iter());
    }
    // Nobody takes it: that is the channel's.
    remembered.tried(Kind::Mail, "1", &refused(Extent::Refused), at(0));
    assert_eq!((next(&remembered, 0), remembered.channels[&Kind::Mail].failures), (None, 1));
    remembered.taken(Kind::Mail, "2", "head".to_owned());
    remembered.tried(Kind::Mail, "2", &refused(Extent::Refused), at(1));
    let channel = &remembered.channels[&Kind::Mail];
    assert_eq!((channel.failures, channel.last_success), (0, Some(at(1))));
    assert!(channel.last_error.is_some(), "nobody sees that one is not told");
    assert_eq!(next(&remembered, 1).as_deref(), Some("1"), "the channel waits for one who is refused");
    remembered.tried(Kind::Mail, "1", &Ok(()), at(1));
    // What others have is tried a few times more.
    assert_eq!((next(&remembered, 1), next(&remembered, 2).as_deref()), (None, Some("2")));
    remembered.tried(Kind::Mail, "2", &refused(Extent::Refused), at(2));
    assert!(remembered.may_try(Kind::Mail, at(2)));
    assert_eq!(remembered.next(Kind::Mail, at(4)).unwrap().had, ["head"]);
    // Whether the server is there at all is another matter.
    remembered.tried(Kind::Mail, "2", &failed(), at(4));
    assert!(!remembered.may_try(Kind::Mail, at(4)) && remembered.queue.len() == 1);
    remembered.tried(Kind::Mail, "2", &refused(Extent::Refused), at(5));
    assert!(remembered.queue.is_empty(), "it is never given up");
}

#[test]
fn what_is_over_takes_the_place_of_what_was_not_told() {
    let mut remembered = Remembered::default();
    let both = [Kind::Mail, Kind::Webhook];
    let began =
        Notice { happened: vec!["the disk is full".to_owned()], ..notice(1, Event::BackupFailed, Stage::Began) };
    remembered.add(&began, both.into_iter());
    remembered.tried(Kind::Mail, "1", &failed(), at(0));
    remembered.tried(Kind::Webhook, "1", &Ok(()), at(0));
    remembered.add(&notice(2, Event::Stale, Stage::Began), both.into_iter());
    remembered.add(&notice(3, Event::BackupFailed, Stage::Recovered), both.into_iter());
    let told: Vec<_> =
        remembered.queue.iter().map(|it| (it.kind, it.notice.id.as_str(), it.notice.happened.len())).collect();
    assert_eq!(told, [(Kind::Mail, "2", 0), (Kind::Webhook, "2", 0), (Kind::Mail, "3", 1), (Kind::Webhook, "3", 0)]);
}

#[test]
fn who_lacks_what_others_have_gets_what_is_newer_instead() {
    let mut remembered = Remembered::default();
    remembered.add(&notice(1, Event::Stale, Stage::Began), [Kind::Mail].into_iter());
    remembered.add(&notice(2, Event::Stale, Stage::Began), [Kind::Mail].into_iter());
    assert_eq!(next(&remembered, 0).as_deref(), Some("1"));
    remembered.taken(Kind::Mail, "1", "head".to_owned());
    remembered.tried(Kind::Mail, "1", &refused(Extent::Recipients), at(0));
    assert_eq!(next(&remembered, 0).as_deref(), Some("2"), "one who isn't told keeps others from what is newer");
    remembered.taken(Kind::Mail, "2", "head".to_owned());
    remembered.tried(Kind::Mail, "2", &refused(Extent::Recipients), at(0));
    remembered.add(&notice(3, Event::Stale, Stage::Reminder), [Kind::Mail].into_iter());
    assert_eq!((next(&remembered, 0).as_deref(), remembered.queue.len()), (Some("3"), 1));
}

#[test]
fn the_ping_comes_back_before_its_monitor_is_alarmed() {
    let mut remembered = Remembered::default();
    for _ in 0..70 {
        remembered.tried(Kind::Ping, "", &failed(), at(0));
    }
    assert!(!remembered.may_try(Kind::Ping, at(4)) && remembered.may_try(Kind::Ping, at(5)));
}

proptest! {
    /// Whatever becomes of each try: nobody gets anything twice, nor anything of one event in another order than it came about.
    #[test]
    fn nobody_is_told_twice_or_in_the_wrong_order(
        course in prop::collection::vec((0..3u8, 0..2usize, 0..4u8, 0..4u8), 1..80)
    ) {
        let (mut remembered, events) = (Remembered::default(), [Event::Stale, Event::StorageLow]);
        let mut told: BTreeMap<(u8, Event), u32> = BTreeMap::new();
        for (step, (what, event, a, b)) in course.into_iter().enumerate() {
            let minutes = step as i64 * 40;
            if what == 0 {
                let stage = [Stage::Began, Stage::Reminder, Stage::Recovered, Stage::Began][usize::from(a)];
                remembered.add(&notice(step as u32, events[event], stage), [Kind::Mail].into_iter());
                continue;
            }
            let Some(it) = remembered.next(Kind::Mail, at(minutes)).cloned() else { continue };
            let mut sent = Ok(());
            for (who, outcome) in [(0, a), (1, b)] {
                if it.had.contains(&who.to_string()) {
                    continue;
                }
                match outcome {
                    0 | 1 => {
                        let id: u32 = it.notice.id.parse().unwrap();
                        let before = told.insert((who, it.notice.event), id);
                        prop_assert!(before.is_none_or(|before| before < id), "{before:?}, then {id}");
                        remembered.taken(Kind::Mail, &it.notice.id, who.to_string());
                    }
                    2 => sent = refused(Extent::Refused),
                    _ => sent = refused(Extent::Recipients),
                }
            }
            remembered.tried(Kind::Mail, &it.notice.id, &sent, at(minutes));
        }
    }
}
