//! A backup before each deployment: the very first one has nothing to back up, and one that adds a database has it not yet.

use crate::harness::Place;

const BEFORE: [&str; 4] = ["create", "--reason", "before update", "--if-present"];

#[test]
fn before_the_app_has_ever_run_there_is_nothing_to_back_up() {
    let place = Place::empty();
    let run = place.ok(&BEFORE);
    assert!(run.stdout.contains("nothing to back up yet: attendance, auth"), "{}", run.stdout);
    assert_eq!(place.json(&BEFORE)["awaited"], serde_json::json!(["attendance", "auth"]));
    assert_eq!(std::fs::read_dir(place.path("")).unwrap().count(), 0, "something was made");
    // Without the option it is the failure that it may be.
    place.run(&["create"]).refused(1, &["`attendance` is missing"]);
}

#[test]
fn a_database_that_the_update_brings_is_left_out_and_one_that_was_lost_is_not() {
    let place = Place::new();
    // The app was there, and has opened its second database without a word in it.
    std::fs::remove_file(place.live("auth")).unwrap();
    std::fs::write(place.live("auth"), b"").unwrap();
    let run = place.ok(&BEFORE);
    assert!(run.stdout.contains("without auth, which isn't there yet"), "{}", run.stdout);
    let databases = place.list()[0]["databases"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(databases, ["attendance"]);
    assert!(place.warnings().contains(&"not-covered".to_owned()), "nothing says that auth isn't covered");
    place.sql("auth", "CREATE TABLE users (id INTEGER PRIMARY KEY)");
    let run = place.ok(&BEFORE);
    assert!(!run.stdout.contains("without"), "{}", run.stdout);
    assert!(!place.warnings().contains(&"not-covered".to_owned()));
    place.assert_whole();
    // From here on it is missed, and so is the other.
    for lost in ["auth", "attendance"] {
        let live = place.live(lost);
        std::fs::rename(&live, live.with_extension("gone")).unwrap();
        place.run(&BEFORE).refused(1, &[&format!("`{lost}` is missing")]);
        std::fs::rename(live.with_extension("gone"), live).unwrap();
    }
    assert_eq!(place.ids().len(), 2);
}

/// The volume of the backups isn't mounted: nobody can say what was ever in it.
#[test]
fn with_another_store_than_was_meant_nothing_is_awaited() {
    let mut place = Place::empty();
    place.set("BACKUP_STORE_ID", "0123456789abcdef0123456789abcdef");
    place.run(&BEFORE).refused(1, &["was expected", "is its volume mounted?"]);
}
