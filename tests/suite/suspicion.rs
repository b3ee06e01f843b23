//! Live data that is corrupt, or suddenly much less: nothing older goes until it is known to be right [P4].

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::app::App;
use crate::client::{Server, superuser};
use crate::forms::IDENTITY;
use crate::harness::{Place, Run, sql_on_copy};
use crate::inject::Spot;
use crate::replica_scene::{OFFSITE, push, with_replica};
use crate::stores::Store;

const PAGE: usize = 4096;

/// A place whose `attendance` has a hundred pages of marks.
pub fn filled() -> Place {
    let place = Place::new();
    place.sql("attendance", "CREATE TABLE marks (id INTEGER PRIMARY KEY, day TEXT, note TEXT)");
    place.sql("attendance", "CREATE INDEX by_day ON marks (day)");
    place.sql("attendance", MARKS);
    place
}

const MARKS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
    INSERT INTO marks (day, note) SELECT 'day ' || (i % 200), hex(zeroblob(50)) FROM n";

/// Two dailies of two dates, whatever the hour is: these zones are 25 hours apart.
fn two_dailies(place: &mut Place) -> [String; 2] {
    ["Pacific/Niue", "Pacific/Kiritimati"].map(|zone| {
        place.set("BACKUP_TIMEZONE", zone);
        place.json(&["create", "--type", "daily"])["id"].as_str().unwrap().to_owned()
    })
}

fn root(place: &Place, name: &str) -> usize {
    let sql = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{name}'");
    place.sql("attendance", &sql).parse().unwrap()
}

/// Writes into a page of a live file at rest.
fn damage(live: &Path, page: usize, at: usize, bytes: &[u8]) {
    let mut content = std::fs::read(live).unwrap();
    content[(page - 1) * PAGE + at..][..bytes.len()].copy_from_slice(bytes);
    std::fs::write(live, content).unwrap();
}

fn corrupt_files(place: &Place) -> Vec<String> {
    let unmanaged = place.json(&["status"])["unmanaged"].clone();
    unmanaged.as_array().unwrap().iter().map(|file| file.as_str().unwrap().to_owned()).collect()
}

#[test]
fn damage_in_a_page_is_found_and_the_copy_kept_for_a_look() {
    let interior: fn(&Place) -> (usize, usize) = |place| (root(place, "marks"), 0);
    let cells: fn(&Place) -> (usize, usize) = |place| (root(place, "marks"), 12);
    let leaf: fn(&Place) -> (usize, usize) = |place| (root(place, "marks") + 4, 3);
    let index: fn(&Place) -> (usize, usize) = |place| (root(place, "by_day"), 8);
    for (what, place_of) in [("interior", interior), ("cells", cells), ("leaf", leaf), ("index", index)] {
        let place = filled();
        let good = place.create();
        let (page, at) = place_of(&place);
        damage(&place.live("attendance"), page, at, &[0xfe, 0xff, 0xff, 0xff]);
        place.run(&["create"]).refused(1, &["`attendance` is corrupt", "older backups are left alone"]);
        let kept = corrupt_files(&place);
        assert_eq!(kept.len(), 1, "{what}: {kept:?}");
        assert!(kept[0].starts_with("manual/attendance-") && kept[0].ends_with(".db.corrupt"), "{what}: {kept:?}");
        let bytes = std::fs::read(place.backups().join(&kept[0])).unwrap();
        assert!(bytes == std::fs::read(place.live("attendance")).unwrap(), "{what}: it is not what the app has");
        assert_eq!(place.ids(), [good["id"].as_str().unwrap()], "{what}");
        place.assert_whole();
    }
}

/// SQLite reads no page of a database whose schema it can't read, so there is no copy of it.
#[test]
fn damage_in_the_schema_is_found() {
    let place = filled();
    place.create();
    damage(&place.live("attendance"), 1, 100 + 3, &[0xff, 0xff]);
    place.run(&["create"]).refused(1, &["`attendance` is corrupt", "older backups are left alone"]);
    assert_eq!(place.ids().len(), 1);
    assert!(place.warnings().contains(&"rotation-frozen".to_owned()));
    place.assert_whole();
}

#[test]
fn while_the_live_data_is_corrupt_nothing_older_goes() {
    let mut place = filled();
    let dailies = two_dailies(&mut place);
    for _ in 0..3 {
        place.create();
    }
    let whole = std::fs::read(place.live("attendance")).unwrap();
    let page = root(&place, "marks");
    damage(&place.live("attendance"), page, 0, &[0xfe; 8]);
    place.run(&["create", "--type", "daily"]).refused(1, &["corrupt"]);
    let first = place.backups().join(&corrupt_files(&place)[0]).metadata().unwrap().ino();
    for _ in 0..4 {
        place.run(&["create", "--type", "daily"]).refused(1, &["corrupt"]);
    }
    // Retries fill no disk, and the first copy, which shows the damage as it began, stays.
    let kept = corrupt_files(&place);
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.iter().any(|file| place.backups().join(file).metadata().unwrap().ino() == first), "{kept:?}");
    let warnings = place.warnings();
    assert!(warnings.contains(&"rotation-frozen".to_owned()), "{warnings:?}");
    let less = ["config", "--set", "retention.daily=1", "--set", "retention.manual=1"];
    assert_eq!(place.json(&less)["rotation"], json!([]));
    assert_eq!(place.ids().len(), 5);

    std::fs::write(place.live("attendance"), whole).unwrap();
    let newest = place.create()["id"].as_str().unwrap().to_owned();
    assert!(!place.warnings().contains(&"rotation-frozen".to_owned()));
    let ids = place.ids();
    assert!(ids.contains(&dailies[1]) && !ids.contains(&dailies[0]), "{ids:?}");
    assert_eq!(ids.iter().filter(|id| id.starts_with("manual-")).collect::<Vec<_>>(), [&newest]);
    place.assert_whole();
}

#[test]
fn a_failure_that_says_nothing_of_the_live_data_thaws_nothing() {
    let mut place = filled();
    place.set("BACKUP_LOCK_TIMEOUT", "200ms");
    for _ in 0..3 {
        place.create();
    }
    let page = root(&place, "by_day");
    damage(&place.live("attendance"), page, 0, &[0xfe; 8]);
    place.run(&["create"]).refused(1, &["corrupt"]);
    let mut app = App::on(&[&place.live("auth")]);
    app.ok(0, "PRAGMA locking_mode=EXCLUSIVE");
    app.ok(0, "UPDATE users SET id = id");
    place.run(&["create"]).refused(1, &["`auth` was locked"]);
    assert!(place.warnings().contains(&"rotation-frozen".to_owned()));
    assert_eq!(place.json(&["config", "--set", "retention.manual=1"])["rotation"], json!([]));
    assert_eq!(place.ids().len(), 3);
}

#[test]
fn what_a_database_lost_while_it_was_not_backed_up_is_suspicious_too() {
    let place = filled();
    place.create();
    let only = format!("auth={}", place.live("auth").display());
    assert!(place.command(&["create"]).env("BACKUP_DATABASES", only).output().unwrap().status.success());
    place.sql("attendance", "DROP TABLE marks");
    assert_eq!(place.create()["flags"], json!(["shrunk"]));
}

/// Loses much; the backup is taken, flagged, and nothing goes until someone says that it is right.
fn assert_shrunk(sql: &str, finding: &str) {
    let mut place = filled();
    place.set("BACKUP_RETENTION_MANUAL", "1");
    let good = place.create();
    place.sql("attendance", sql);
    let flagged: Vec<Value> = (0..4).map(|_| place.create()).collect();
    for backup in &flagged {
        assert_eq!(backup["flags"], json!(["shrunk"]), "{sql}");
        assert!(backup["findings"].to_string().contains(finding), "{sql}: {}", backup["findings"]);
    }
    let id = |backup: &Value| backup["id"].as_str().unwrap().to_owned();
    assert_eq!(place.ids(), [id(&flagged[3]), id(&flagged[2]), id(&flagged[1]), id(&good)]);
    assert!(place.warnings().contains(&"rotation-frozen".to_owned()), "{sql}");
    assert_eq!(place.json(&["status"])["lastBackup"]["id"], good["id"]);
    assert!(place.ok(&["list"]).stdout.contains("shrunk"));
    place.assert_whole();

    let accepted = place.json(&["create", "--accept-shrink"]);
    assert_eq!(accepted["flags"], json!([]));
    assert!(!place.warnings().contains(&"rotation-frozen".to_owned()), "{sql}");
    let ids = place.ids();
    assert!(ids.contains(&id(&accepted)) && !ids.contains(&id(&good)), "{ids:?}");
    assert_eq!(place.create()["flags"], json!([]), "what was accepted is the new measure");
    place.assert_whole();
}

#[test]
fn a_deletion_with_vacuum_is_suspicious() {
    assert_shrunk("DELETE FROM marks WHERE id > 100; VACUUM", "of data instead of");
}

#[test]
fn a_deletion_that_leaves_the_file_as_large_is_suspicious() {
    assert_shrunk("DELETE FROM marks WHERE id > 100", "of data instead of");
}

#[test]
fn a_table_that_is_gone_is_suspicious() {
    assert_shrunk("DROP TABLE people", "tables are gone (people)");
}

#[test]
fn the_alarm_is_where_it_was_set() {
    let mut place = filled();
    place.set("BACKUP_SHRINK_ALARM", "100").create();
    place.sql("attendance", "DELETE FROM marks WHERE id > 100");
    let backup = place.create();
    assert_eq!(backup["flags"], json!([]));
    assert_eq!(sql_on_copy(&place.copy(&backup, "attendance"), "SELECT count(*) FROM marks"), "100");
    place.set("BACKUP_SHRINK_ALARM", "10");
    place.sql("attendance", MARKS);
    place.create();
    place.sql("attendance", "DELETE FROM marks WHERE id % 5 = 0; VACUUM");
    assert_eq!(place.create()["flags"], json!(["shrunk"]));
}

/// Rows go, and their pages may stay: a table that was filled and is empty is suspicious by itself.
#[test]
fn a_table_that_is_emptied_is_suspicious() {
    let place = Place::new();
    let filler = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 150) ";
    place.sql("auth", &format!("{filler} INSERT INTO users (email) SELECT 'u'||i FROM n"));
    place.ok(&["create", "--type", "daily"]);
    place.sql("auth", "DELETE FROM users");
    let backup = place.create();
    assert_eq!(backup["flags"], serde_json::json!(["shrunk"]));
    let findings = backup["findings"].to_string();
    assert!(findings.contains("tables are empty that were not (users)"), "{findings}");
    assert!(place.warnings().contains(&"rotation-frozen".to_owned()));
}

#[test]
fn a_small_database_that_lost_all_of_its_rows_is_suspicious() {
    let place = Place::new();
    place.sql("auth", "DELETE FROM users");
    let filled = |rows: u32| {
        let filler = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {rows}) ");
        place.sql("auth", &format!("{filler} INSERT INTO users (email) SELECT NULL FROM n"));
        place.create();
    };
    filled(9);
    place.sql("auth", "DELETE FROM users");
    assert_eq!(place.create()["flags"], json!([]));
    filled(10);
    place.sql("auth", "DELETE FROM users WHERE id > (SELECT min(id) FROM users)");
    assert_eq!(place.create()["flags"], json!([]));
    filled(10);
    place.sql("auth", "DELETE FROM users");
    let backup = place.create();
    assert_eq!(backup["flags"], json!(["shrunk"]));
    assert!(backup["findings"].to_string().contains("0 rows instead of 11"), "{}", backup["findings"]);
}

/// What a restore keeps is what was given up: whatever is lost again is compared with what was restored, and then with the newest
/// good backup of before.
#[test]
fn what_a_restore_has_kept_is_no_measure_of_what_comes_after() {
    let place = filled();
    let good = place.create()["id"].as_str().unwrap().to_owned();
    let lose = || place.sql("attendance", "DELETE FROM marks");
    lose();
    assert_eq!(place.create()["flags"], json!(["shrunk"]));
    place.ok(&["restore", &good, "--confirm", &good]);
    lose();
    for n in 0..3 {
        let backup = place.create();
        assert_eq!(backup["flags"], json!(["shrunk"]), "{n}");
        assert!(backup["findings"].to_string().contains(&format!("since {good}")), "{n}: {}", backup["findings"]);
    }
    assert!(place.warnings().contains(&"rotation-frozen".to_owned()));
    // What was kept is no loss where it is just that which was brought back.
    place.ok(&["undo"]);
    assert_eq!(place.create()["flags"], json!([]));
    place.assert_whole();
}

#[test]
fn a_database_that_the_restored_backup_lacks_is_compared_with_the_newest_that_has_it() {
    let place = filled();
    let only = format!("auth={}", place.live("auth").display());
    let run = Run::of(place.command(&["create", "--json"]).env("BACKUP_DATABASES", only).output().unwrap());
    let of_auth: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr));
    let id = of_auth["id"].as_str().unwrap();
    place.create();
    place.ok(&["restore", id, "--confirm", id, "--force"]);
    place.sql("attendance", "DROP TABLE marks");
    assert_eq!(place.create()["flags"], json!(["shrunk"]));
}

/// A slip in BACKUP_DATABASES is told before the last backup that has it is gone.
#[test]
fn a_database_that_is_named_no_more_is_missed() {
    let mut place = filled();
    let both = place.create()["id"].as_str().unwrap().to_owned();
    let only = format!("attendance={}", place.live("attendance").display());
    place.set("BACKUP_DATABASES", &only);
    let without = place.create();
    assert_eq!(without["flags"], json!(["shrunk"]));
    assert!(
        without["findings"]
            .to_string()
            .contains(&format!("auth: BACKUP_DATABASES names it no more, and {both} has it"))
    );
    assert!(place.warnings().contains(&"rotation-frozen".to_owned()));
    assert_eq!(place.json(&["create", "--accept-shrink"])["flags"], json!([]));
    assert_eq!(place.create()["flags"], json!([]));
    assert!(!place.warnings().contains(&"rotation-frozen".to_owned()));
    place.assert_whole();
}

/// How large another store's databases are says nothing of ours.
#[test]
fn what_is_brought_from_another_store_thaws_nothing_and_freezes_nothing() {
    let theirs = Store::folder();
    let (mut place, other) = (filled(), with_replica(&theirs));
    std::fs::copy(other.path(IDENTITY), place.path(IDENTITY)).unwrap();
    place.set("BACKUP_ENCRYPTION_IDENTITY_FILE", place.path(IDENTITY).to_str().unwrap());
    place.replica(OFFSITE, &theirs);
    let is_frozen = |place: &Place| place.warnings().contains(&"rotation-frozen".to_owned());
    other.create();
    assert_eq!(push(&other).code, 0);
    place.create();
    place.sql("attendance", "DELETE FROM marks");
    let small = place.create()["id"].as_str().unwrap().to_owned();
    place.json(&["replica", "pull", "offsite", "latest"]);
    assert!(is_frozen(&place));
    let server = Server::start(&place);
    server.request("POST", "/api/backup/acknowledge").token(&superuser()).json(&json!({ "id": small })).send().ok();
    server.stop();
    assert!(!is_frozen(&place));
    other.sql("auth", "DROP TABLE users");
    let brought = other.create();
    assert_eq!(brought["flags"], json!(["shrunk"]));
    assert_eq!(push(&other).code, 0);
    place.json(&["replica", "pull", "offsite", brought["id"].as_str().unwrap()]);
    assert!(place.list()[0]["flags"] == json!(["shrunk"]) && !is_frozen(&place), "{:?}", place.list()[0]);
}

/// It is the measure of the next backup, by whatever name it has then.
#[test]
fn what_was_restored_is_no_loss_if_rotation_gave_it_another_name_since() {
    let mut place = filled();
    place.sql("attendance", "DELETE FROM marks WHERE id > 50; VACUUM");
    place.set("BACKUP_TIMEZONE", "Pacific/Niue");
    let small = place.json(&["create", "--type", "daily"])["id"].as_str().unwrap().to_owned();
    place.sql("attendance", MARKS);
    // These zones are 25 hours apart.
    place.set("BACKUP_TIMEZONE", "Pacific/Kiritimati");
    place.ok(&["create", "--type", "daily"]);
    place.ok(&["restore", &small, "--confirm", &small]);
    let rotated = place.json(&["config", "--set", "retention.daily=1"]);
    assert_eq!((&rotated["rotation"][0]["step"], &rotated["rotation"][0]["from"]), (&json!("promote"), &json!(small)));
    assert_eq!(place.create()["flags"], json!([]));
}

/// What rotation dropped but the disk doesn't let go stops nothing, and its name isn't given again.
#[test]
fn a_file_that_can_not_be_removed_stops_no_backup() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "1");
    let first = place.create();
    let path = place.copy(&first, "auth");
    let spot = Spot::on("unlink", first["databases"]["auth"]["file"].as_str().unwrap());
    let run = Run::of(place.faulty(&spot, "error=EBUSY", &["create", "--json"]).output().unwrap());
    let second: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr));
    assert!(path.exists() && place.ids() == [second["id"].as_str().unwrap()], "{}", run.stderr);
    // A folder in its place: unlink fails for good.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let third = place.create();
    assert_eq!(place.ids(), [third["id"].as_str().unwrap()]);
    assert_ne!(second["id"], first["id"]);
    place.ok(&["pin", third["id"].as_str().unwrap()]);
    std::fs::remove_dir(&path).unwrap();
    place.create();
    place.assert_whole();
}
