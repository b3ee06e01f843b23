//! Going back to any second: what the databases held then comes back under a running app, by the command line, the API and
//! the page, and what can't be restored is refused with the times that can.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::client::{Server, superuser};
use crate::harness::{Place, dump, thoroughness};
use crate::inject::{Spot, spots};
use crate::journal_scene::{Recorder, at};
use crate::page_in_chromium::{sign_in, signed_in};
use crate::restore_crash::{kill_recovery, rare};
use crate::restore_scene::{Past, app, assert_goes_on, identities, live_spots};
use crate::scene::{Context, Tally, assert_readers_change_nothing, report};

const PEOPLE: &str = "SELECT group_concat(name) FROM people";

/// Three people at 09:00:00, two at 09:10:00.500, a fourth table and another user at 09:20. The last look was at 09:30. Nobody looked
/// between 09:12 and 09:15.
fn past() -> (Place, Recorder) {
    let place = Place::new();
    let mut recorder = Recorder::of(&place);
    recorder.tick(&place, at("09:00:00"));
    place.sql("attendance", "DELETE FROM people WHERE name = 'Ben'");
    recorder.tick(&place, at("09:10:00.500"));
    recorder.gap(at("09:12:00"), at("09:15:00"));
    place.sql("attendance", "CREATE TABLE marks (mark); INSERT INTO people (name) VALUES ('Dora')");
    place.sql("auth", "INSERT INTO users (email) VALUES ('b@school.example')");
    recorder.tick(&place, at("09:20:00"));
    recorder.alive(at("09:30:00"));
    place.sql("attendance", "DELETE FROM people");
    (place, recorder)
}

fn restore(place: &Place, time: &str) -> Value {
    place.json(&["restore", "--at", time, "--confirm", time])
}

fn live(place: &Place) -> [String; 2] {
    ["attendance", "auth"].map(|name| dump(&place.live(name), false))
}

#[test]
fn each_state_comes_back_at_each_instant_of_its_time_and_is_undone() {
    let (place, _recorder) = past();
    let now = live(&place);
    for (time, people, users) in [
        ("2025-03-04T09:00:00Z", "Ada,Ben,Carla", "1"),
        ("2025-03-04 09:10:00", "Ada,Ben,Carla", "1"),
        ("2025-03-04T09:10:00.499Z", "Ada,Ben,Carla", "1"),
        ("2025-03-04T11:10:00.500+02:00", "Ada,Carla", "1"),
        ("2025-03-04 09:12:00", "Ada,Carla", "1"),
        ("2025-03-04 09:15:00", "Ada,Carla", "1"),
        ("2025-03-04T09:19:59.999Z", "Ada,Carla", "1"),
        ("2025-03-04 09:20", "Ada,Carla,Dora", "2"),
        ("2025-03-04 09:30:00", "Ada,Carla,Dora", "2"),
    ] {
        let restored = restore(&place, time);
        assert_eq!(place.sql("attendance", PEOPLE), people, "{time}");
        assert_eq!(place.sql("auth", "SELECT count(*) FROM users"), users, "{time}");
        assert_eq!(restored["databases"]["attendance"]["readBack"], true, "{restored}");
        assert!(restored.get("id").is_none() && restored["at"].as_str().unwrap().ends_with('Z'), "{restored}");
        let undone = place.json(&["undo"]);
        assert_eq!((&undone["id"], live(&place) == now), (&restored["preRestore"], true), "{time}");
    }
    place.assert_whole();
}

#[test]
fn the_app_writes_on_and_the_audit_log_names_the_instant() {
    let place = Place::new();
    let writer = place.writer(0.002);
    let mut recorder = Recorder::of(&place);
    recorder.tick(&place, at("09:00:00"));
    place.sql("attendance", "DELETE FROM people");
    recorder.tick(&place, at("09:10:00"));
    for (time, people) in [("2025-03-04T09:05:00Z", "Ada,Ben,Carla"), ("2025-03-04T09:10:00Z", "None")] {
        restore(&place, time);
        assert_eq!(place.sql("attendance", PEOPLE), people, "{time}");
    }
    let written = writer.stop();
    assert!(written.errors.is_empty() && written.pairs > 0, "{:?}", written.errors);
    let lines = place.audit().into_iter().filter(|line| line["operation"] == "restore");
    let told: Vec<_> = lines.map(|line| (line["kind"].clone(), line["point"].clone(), line["id"].clone())).collect();
    let line = |kind: &str, time: &str| (json!(kind), json!(time), Value::Null);
    let (first, second) = ("2025-03-04T09:05:00.000Z", "2025-03-04T09:10:00.000Z");
    let expected = [line("intent", first), line("outcome", first), line("intent", second), line("outcome", second)];
    assert_eq!(told, expected);
    let reason = place.list().into_iter().find(|it| it["type"] == "pre-restore").unwrap()["reason"].clone();
    assert_eq!(reason, format!("before restoring {second}"));
    place.assert_whole();
}

#[test]
fn what_can_not_be_restored_is_refused_with_the_times_that_can() {
    let (place, _recorder) = past();
    let now = live(&place);
    let refused = |command: &str, time: &str, code, words: &[&str]| {
        let mut args = vec![command, "--at", time];
        args.extend(if command == "restore" { vec!["--confirm", time] } else { Vec::new() });
        place.run(&args).refused(code, words);
    };
    let window = ["2025-03-04T09:00:00.000Z", "2025-03-04T09:30:00.000Z"];
    for command in ["restore", "preview"] {
        refused(command, "2025-03-04T08:59:59.999Z", 1, &window);
        refused(command, "2025-03-04 09:30:01", 1, &window);
        let ends = ["2025-03-04T09:12:00.000Z", "2025-03-04T09:15:00.000Z"];
        refused(command, "2025-03-04 09:14:00", 1, &ends);
        refused(
            command,
            "half past nine",
            2,
            &["--at \"half past nine\"", "a time is like 2026-11-26 09:14:05 (in UTC)"],
        );
    }
    let unconfirmed = |confirm: &[&str]| {
        let run = place.run(&[&["restore", "--at", "2025-03-04 09:20"], confirm].concat());
        run.refused(2, &["nothing was changed", "--confirm 2025-03-04T09:20:00Z"]);
    };
    unconfirmed(&[]);
    unconfirmed(&["--confirm", "2025-03-04 09:21"]);
    unconfirmed(&["--confirm", "yes"]);
    // Nobody is asked about a time that can't be had.
    place.run(&["restore", "--at", "2025-03-04 09:14"]).refused(1, &["2025-03-04T09:12:00.000Z"]);
    place.run(&["restore", "daily-2025-03-04", "--at", "2025-03-04 09:20"]).refused(2, &["cannot be used with"]);
    assert_eq!(live(&place), now);
    let refusals = place.audit().into_iter().filter(|line| line["kind"] == "refused" && line["point"].is_string());
    assert_eq!(refusals.count(), 6);

    let bare = Place::new();
    bare.create();
    bare.run(&["preview", "--at", "2025-03-04 09:20"]).refused(1, &["there is no journal", "BACKUP_PITR"]);
}

/// What the others were before it comes back of them alone.
#[test]
fn a_database_that_was_added_is_named_where_others_reach_farther_back() {
    let mut place = Place::new();
    place.create();
    let [mut first, mut second] = ["attendance", "auth"].map(|name| Recorder::only(&place, &[name]));
    first.tick(&place, at("09:00:00"));
    place.sql("attendance", "DELETE FROM people");
    first.tick(&place, at("09:10:00"));
    second.tick(&place, at("09:20:00"));
    let args = ["restore", "--at", "2025-03-04 09:05", "--confirm", "2025-03-04 09:05"];
    let words = ["reaches from 2025-03-04T09:20:00.000Z", "only `auth` can't go back to it", "BACKUP_DATABASES"];
    place.run(&args).refused(1, &words);
    place.run(&["preview", "--at", "2025-03-04 08:59"]).refused(1, &["Take a time between these, or a backup\n"]);
    let only = format!("attendance={}", place.live("attendance").display());
    place.set("BACKUP_DATABASES", &only).ok(&args);
    assert_eq!(place.sql("attendance", PEOPLE), "Ada,Ben,Carla");
}

/// A database whose journal was begun later, or never.
#[test]
fn a_database_without_a_journal_is_left_alone_by_force_only() {
    let place = Place::new();
    place.create();
    let mut recorder = Recorder::only(&place, &["attendance"]);
    recorder.tick(&place, at("09:00:00"));
    place.sql("attendance", "DELETE FROM people");
    let users = || place.sql("auth", "SELECT count(*) FROM users");
    place.sql("auth", "INSERT INTO users (email) VALUES ('b@school.example')");
    let args = ["restore", "--at", "2025-03-04 09:00", "--confirm", "2025-03-04 09:00"];
    place.run(&args).refused(1, &["it has no copy of `auth`", "with force"]);
    place.ok(&[&args[..], &["--force"]].concat());
    assert_eq!((place.sql("attendance", PEOPLE), users()), ("Ada,Ben,Carla".to_owned(), "2".to_owned()));
}

#[test]
fn a_damaged_or_missing_file_of_the_journal_changes_nothing() {
    let (place, recorder) = past();
    let now = live(&place);
    let file = recorder.newest("attendance");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let meta = file.metadata().unwrap();
    std::fs::write(&file, &bytes).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    let args = ["restore", "--at", "2025-03-04 09:25", "--confirm", "2025-03-04 09:25"];
    place.run(&args).refused(1, &["2025-03-04T09:25:00.000Z is damaged", "another time, or a backup"]);
    place.run(&["preview", "--at", "2025-03-04 09:25"]).refused(1, &["is damaged"]);
    assert_eq!(live(&place), now);
    assert!(!place.backups().join("restoring").exists());
    // What came before it is as good as ever.
    restore(&place, "2025-03-04 09:05");
    assert_eq!(place.sql("attendance", PEOPLE), "Ada,Ben,Carla");
}

#[test]
fn an_offline_restore_puts_the_files_of_an_instant_in_place() {
    let (place, _recorder) = past();
    std::fs::remove_file(place.live("auth")).unwrap();
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("auth.db{ending}")));
    }
    let args = ["restore", "--at", "2025-03-04 09:10:30", "--confirm", "2025-03-04 09:10:30", "--offline"];
    let restored = place.json(&args);
    assert_eq!(restored["at"], "2025-03-04T09:10:30.000Z");
    assert_eq!(place.sql("attendance", PEOPLE), "Ada,Carla");
    assert_eq!(place.sql("auth", "SELECT count(*) FROM users"), "1");
    place.assert_whole();
}

#[test]
fn the_api_previews_and_restores_an_instant() {
    let (place, _recorder) = past();
    let server = Server::start(&place);
    let preview = server.get("/api/backup/preview?at=2025-03-04T10:10:00.5%2B01:00").ok();
    assert_eq!((&preview["at"], &preview["timestamp"]), (&json!("2025-03-04T09:10:00.500Z"), &preview["at"]));
    let people = &preview["databases"]["attendance"]["tables"]["people"];
    assert_eq!((&people["onlyThen"], &people["onlyNow"]), (&json!(2), &json!(0)), "{preview}");
    let restore = |body: Value| server.request("POST", "/api/backup/restore").token(&superuser()).json(&body).send();
    let (at, same) = ("2025-03-04T09:10:00.500Z", "2025-03-04T11:10:00.5+02:00");
    let id = place.ids().remove(0);
    for body in [
        json!({ "confirm": at }),
        json!({ "at": at, "id": id, "confirm": at }),
        json!({ "at": at }),
        json!({ "at": at, "confirm": "2025-03-04T09:10:00.501Z" }),
        json!({ "at": at, "confirm": id }),
        json!({ "id": id, "confirm": at }),
        json!({ "at": "2025-03-04 09:10:00", "confirm": "2025-03-04 09:10:00" }),
    ] {
        restore(body).problem(400, "bad-body");
    }
    let of = |at: &str| restore(json!({ "at": at, "confirm": at }));
    let detail = of("2025-03-04T09:13:00Z").problem(422, "point-in-gap");
    assert!(detail.contains("09:12:00.000Z and before 2025-03-04T09:15:00.000Z"), "{detail}");
    of("2025-03-04T10:00:00Z").problem(422, "point-outside");
    server.get("/api/backup/preview?at=2025-03-04T09:13:00Z").problem(422, "point-in-gap");
    server.get("/api/backup/preview?at=yesterday").problem(400, "bad-parameter");
    assert_eq!(place.sql("attendance", PEOPLE), "None");
    let restored = restore(json!({ "at": at, "confirm": same })).ok();
    assert_eq!((&restored["at"], restored.get("id")), (&json!(at), None));
    assert_eq!(place.sql("attendance", PEOPLE), "Ada,Carla");
    let before = restored["preRestore"].clone();
    restore(json!({ "id": before, "confirm": before })).ok();
    assert_eq!(place.sql("attendance", PEOPLE), "None");
    server.stop();
    place.assert_whole();
}

pub const POINT: [&str; 5] = ["restore", "--at", "2025-03-04 12:00", "--confirm", "2025-03-04 12:00"];

/// The content of the backup is in the journal too, and what the databases hold now after it.
pub fn killable(modes: [&'static str; 2]) -> Past {
    let past = Past::of(modes);
    let place = &past.scene.place;
    let backup = place.list().remove(0);
    let mut recorder = Recorder::only(place, &["attendance", "auth"]);
    recorder.tick_of(at("11:00:00"), |name| place.copy(&backup, name));
    recorder.tick(place, at("13:00:00"));
    past
}

fn kill_everywhere(modes: [&'static str; 2]) {
    let past = killable(modes);
    let stride = if thoroughness() >= 2 { 3 } else { 23 };
    let mut tallies = BTreeMap::new();
    for spot in spots(&[]).into_iter().chain(live_spots()) {
        let (mut tally, mut n) = (Tally::default(), 1);
        loop {
            let context = Context(format!("a restore of an instant was ended at {spot} {n}"));
            let place = past.twin();
            let before = identities(&place);
            let held = (n % 2 == 0).then(|| app(&place));
            if !place.killed(&spot, n, &POINT) {
                break;
            }
            assert_readers_change_nothing(&place);
            place.ok(&["create"]);
            let done = past.assert_settled(&place, &before, None);
            if done && n.is_multiple_of(4) {
                past.assert_undone(&place, None);
            }
            if let Some(app) = held {
                assert_goes_on(app, &place);
            }
            tally.count(done);
            drop(context);
            n += stride;
        }
        tallies.insert(spot.to_string(), tally);
    }
    report(&format!("restore of an instant over {modes:?}"), &tallies);
}

#[test]
fn a_restore_of_an_instant_that_is_killed_is_settled() {
    kill_everywhere(["wal", "wal"]);
}

/// Killed with none or one of both committed, and again while that is settled.
#[test]
fn a_recovery_from_a_restore_of_an_instant_that_is_killed() {
    let past = killable(["wal", "wal"]);
    let mut tallies = BTreeMap::new();
    for (at, is_new) in [[false, false], [true, false]].into_iter().enumerate() {
        let crashed = past.crashed(&POINT, is_new);
        let tally = kill_recovery(
            || crashed.twin(),
            rare(at),
            |place, before| {
                let done = past.assert_settled(place, before, None);
                assert_eq!(done, is_new[0], "settled otherwise than it was committed");
                done
            },
        );
        tallies.insert(format!("new content at first: {is_new:?}"), tally);
    }
    report("recovery from a restore of an instant", &tallies);
}

/// What is left of the journal doesn't matter once the private copies are made; and without these they are made anew from it.
#[test]
fn what_was_cut_short_between_two_commits_goes_on_without_the_journal_or_without_the_private_copies() {
    let past = killable(["wal", "wal"]);
    for lost in ["journal", "restoring"] {
        let (mut n, mut halves) = (1, 0);
        while n < 80 && halves < 2 {
            let place = past.twin();
            let before = identities(&place);
            if !place.killed(&Spot::anywhere("pwrite64"), n, &POINT) {
                break;
            }
            n += 1;
            let (is_new, _) = past.found(&place);
            if is_new[0] == is_new[1] {
                continue;
            }
            halves += 1;
            for entry in std::fs::read_dir(place.backups().join(lost)).unwrap() {
                let path = entry.unwrap().path();
                let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.unwrap();
            }
            place.ok(&["create"]);
            assert!(past.assert_settled(&place, &before, None), "{lost} {n}");
        }
        assert!(halves > 0, "no kill came between the commits");
    }
}

/// The slider and the field say one time; what was chosen is shown, asked for and done.
#[test]
fn any_second_is_chosen_on_the_page() {
    let (place, _recorder) = past();
    place.ok(&["config", "--set", "schedule.timezone=Europe/Berlin"]);
    let server = Server::start(&place);
    let browser = signed_in(&place, &server);
    let field = || browser.property("#point-at", "value").unwrap();
    let text = browser.text("#point");
    assert!(text.contains("2025-03-04 10:00:00 to 2025-03-04 10:30:00"), "{text}");
    assert!(text.contains("Nothing was recorded between 2025-03-04 10:12:00 and 2025-03-04 10:15:00"), "{text}");
    assert_eq!((browser.count("#point rect.gap"), field().as_str()), (1, "2025-03-04T10:30"));
    browser.script(
        "const it = document.getElementById('point-slider'); it.value = 605; it.dispatchEvent(new Event('input'))",
    );
    assert_eq!(field(), "2025-03-04T10:10:05");
    browser.assert_accessible();
    browser.script(
        "const it = document.getElementById('point-at'); it.value = '2025-03-04T10:13:00'; it.dispatchEvent(new Event('input'))",
    );
    assert_eq!(browser.property("#point-slider", "value").as_deref(), Some("780"));
    browser.expect_status(422);
    browser.click("#point-look");
    browser.wait_text("#dialog", "Nothing was recorded at that time");
    browser
        .wait_text("#dialog", "2025-03-04 10:13:00 can't be restored: nothing was recorded after 2025-03-04 10:12:00");
    browser.click_on("Close");
    browser.wait_gone("#dialog");
    browser.script(
        "const it = document.getElementById('point-slider'); it.value = 605; it.dispatchEvent(new Event('input'))",
    );
    choose(&browser, &place);
    place.assert_whole();
}

fn choose(browser: &Browser, place: &Place) {
    browser.click("#point-look");
    browser.wait_text("#dialog-title", "Restore 2025-03-04 10:10:05");
    browser.wait_text("#dialog .difference", "people");
    browser.assert_accessible();
    browser.fill("#confirm", "2025-03-04 10:10:06");
    browser.expect_status(400);
    browser.press("Enter");
    browser.wait_text("#dialog-outcome", "Nothing was changed: type");
    assert_eq!(place.sql("attendance", PEOPLE), "None");
    browser.fill("#confirm", "2025-03-04 10:10:05");
    browser.press("Enter");
    browser.wait_text("#dialog", "The data is as it was at 2025-03-04 10:10:05");
    assert_eq!(place.sql("attendance", PEOPLE), "Ada,Carla");
    browser.click_on("Undo");
    browser.wait_text("#dialog-title", "Restore pre-restore-");
    browser.click_on("Cancel");
    browser.wait_gone("#dialog");
    browser.go(&format!("{}/activity", browser.url().split(['?', '#']).next().unwrap()));
    browser.wait_text("#activity code.id", "2025-03-04 10:10:05");
}

#[test]
fn without_scripts_the_field_alone_does_it() {
    let (place, _recorder) = past();
    let server = Server::start(&place);
    let browser = Browser::without_javascript(&[]);
    sign_in(&browser, &place, &format!("http://{}", server.address), "grace");
    assert!(!browser.is_shown("#point-slider"));
    let site = format!("http://{}/settings/backups/point?at=2025-03-04T09%3A10%3A05&offset=", server.address);
    browser.go(&site);
    browser.wait_text("h2", "Restore 2025-03-04 09:10:05");
    browser.fill("#confirm", "2025-03-04 09:10:05");
    browser.click(".confirm .dangerous");
    browser.wait_text("#outcome", "The data is as it was at 2025-03-04 09:10:05");
    assert_eq!(place.sql("attendance", PEOPLE), "Ada,Carla");
}
