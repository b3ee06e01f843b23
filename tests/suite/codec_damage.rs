//! Encoded copies that are damaged, and copies that no identity at hand opens: said clearly, and the live data untouched
//! [P4, P8].

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::client::Server;
use crate::forms::{FORMS, IDENTITY, bytes_of, decode, holds};
use crate::harness::{Place, Run, sha256, tree};
use crate::inject::Spot;
use crate::restore_app::{id, restore};

/// What is left of it for whoever restores: nothing, and the live data is as it was.
fn assert_not_restored(place: &Place, backup: &Value, code: i32, words: &[&str]) {
    let before = place.sql("attendance", "SELECT * FROM people");
    place.run(&["restore", id(backup), "--confirm", id(backup)]).refused(code, words);
    assert_eq!(place.sql("attendance", "SELECT * FROM people"), before);
    assert!(!place.backups().join("restoring").exists() && !place.backups().join("restore.json").exists());
}

/// A backup in that form, with the file of `attendance` and what is in it.
fn backed_up(compressed: bool, encrypted: bool) -> (Place, Value, PathBuf, Vec<u8>) {
    let place = Place::of_form(compressed, encrypted);
    place.sql("attendance", "CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(150000))");
    let backup = place.create();
    let path = place.copy(&backup, "attendance");
    let whole = std::fs::read(&path).unwrap();
    (place, backup, path, whole)
}

#[test]
fn verify_finds_every_one_of_two_hundred_flipped_bits() {
    for (form, compressed, encrypted) in FORMS {
        let (place, backup, path, whole) = backed_up(compressed, encrypted);
        for step in 0..200 {
            let mut bytes = whole.clone();
            let at = step * (whole.len() - 1) / 199;
            bytes[at] ^= 1 << (step % 8);
            std::fs::write(&path, &bytes).unwrap();
            let run = place.run(&["verify", id(&backup)]);
            assert!(run.code == 1 && run.stdout.contains("DAMAGED"), "{form}, byte {at}: {}{}", run.stdout, run.stderr);
            if step % 40 == 0 {
                assert_not_restored(&place, &backup, 1, &["is damaged"]);
                let out = place.path("out");
                let args = ["download", id(&backup), "--database", "attendance", "-o", out.to_str().unwrap()];
                place.run(&args).refused(1, &["is damaged"]);
                assert!(!out.exists());
                place.run(&["preview", id(&backup)]).refused(1, &["is damaged"]);
                assert!(place.warnings().contains(&"damaged".to_owned()));
            }
        }
        std::fs::write(&path, &whole).unwrap();
        place.ok(&["verify", id(&backup)]);
        restore(&place, &backup);
        place.assert_whole();
    }
}

/// A file that the catalog would vouch for, but that doesn't decode to what it says.
#[test]
fn a_file_that_is_as_recorded_and_decodes_to_something_else_is_damaged() {
    for (_, compressed, encrypted) in FORMS {
        let place = Place::of_form(compressed, encrypted);
        let first = place.create();
        place.sql("auth", "UPDATE users SET email = 'b@school.example'");
        let second = place.create();
        let other = std::fs::read(place.copy(&first, "auth")).unwrap();
        std::fs::write(place.copy(&second, "auth"), &other).unwrap();
        let path = place.backups().join("metadata.json");
        let mut catalog = place.catalog();
        let entry = catalog["backups"].as_array_mut().unwrap().iter_mut().find(|it| it["id"] == second["id"]).unwrap();
        entry["databases"]["auth"]["storedChecksum"] = sha256(&other).into();
        entry["databases"]["auth"]["storedSize"] = other.len().into();
        std::fs::write(&path, catalog.to_string()).unwrap();
        let run = place.run(&["verify", id(&second)]);
        assert!(run.code == 1 && run.stdout.contains("decodes to another database"), "{}{}", run.stdout, run.stderr);
        assert_not_restored(&place, &second, 1, &["decodes to another database"]);
        place.run(&["preview", id(&second)]).refused(1, &["decodes to another database"]);
    }
}

/// What was cut is no longer a backup, also where no catalog says how long it was.
#[test]
fn a_rebuild_takes_nothing_that_was_cut_short_or_goes_on() {
    for (form, compressed, encrypted) in FORMS {
        let (place, backup, path, whole) = backed_up(compressed, encrypted);
        let forget =
            || ["metadata.json", "metadata.json.previous"].map(|it| std::fs::remove_file(place.backups().join(it)));
        for bytes in
            [&whole[..whole.len() - 1], &whole[..whole.len() - 16], &whole[..100], &[&whole[..], b"x"].concat()]
        {
            std::fs::write(&path, bytes).unwrap();
            drop(forget());
            let rebuilt = place.json(&["catalog", "rebuild"]);
            assert_eq!(rebuilt["backups"], json!([]), "{form} {}", bytes.len());
            let left = rebuilt["leftOut"].to_string();
            assert!(left.contains("can't be decoded") || left.contains("no identity"), "{form}: {left}");
        }
        std::fs::write(&path, &whole).unwrap();
        drop(forget());
        let rebuilt = place.json(&["catalog", "rebuild"]);
        let copy = &rebuilt["backups"][0]["databases"]["attendance"];
        for key in [
            "form",
            "size",
            "checksum",
            "storedSize",
            "storedChecksum",
            "storedXxh3",
            "recipients",
            "tables",
            "pageSize",
        ] {
            assert_eq!(copy[key], backup["databases"]["attendance"][key], "{form} {key}");
        }
        place.assert_whole();
    }
}

/// A machine that takes backups and can't read them, by the public key alone.
fn sealed() -> (Place, Value) {
    let mut place = Place::of_form(true, true);
    place.forgets_its_identity();
    std::fs::rename(place.path(IDENTITY), place.path("elsewhere.txt")).unwrap();
    let backup = place.create();
    (place, backup)
}

/// It is found again.
fn opened(place: &mut Place) {
    std::fs::rename(place.path("elsewhere.txt"), place.path(IDENTITY)).unwrap();
    let path = place.path(IDENTITY).display().to_string();
    place.set("BACKUP_ENCRYPTION_IDENTITY_FILE", &path);
}

#[test]
fn without_an_identity_backups_go_on_and_what_needs_it_says_which() {
    let (mut place, backup) = sealed();
    assert_eq!(backup["verified"]["ciphertextOnly"], true);
    let recipient = backup["databases"]["auth"]["recipients"][0].as_str().unwrap();
    let missing = ["encrypted", "BACKUP_ENCRYPTION_IDENTITY_FILE", recipient];
    assert!(place.ok(&["create"]).stdout.contains("ciphertext only"));
    let run = place.ok(&["verify", id(&backup)]);
    assert!(
        run.stdout.contains("every byte is as recorded") && run.stdout.contains("ciphertext only"),
        "{}",
        run.stdout
    );
    assert!(place.ok(&["list"]).stdout.contains("verified (ciphertext)"));
    assert!(place.warnings().contains(&"no-identity".to_owned()));
    assert_not_restored(&place, &backup, 1, &missing);
    place.run(&["preview", id(&backup)]).refused(1, &missing);
    place.run(&["drill"]).refused(1, &missing);
    let out = place.path("out");
    let plain = ["download", id(&backup), "-o", out.to_str().unwrap()];
    place.run(&plain).refused(1, &missing);
    assert!(!out.exists());
    place.ok(&[&plain[..], &["--stored"]].concat());
    // Damage is found all the same.
    let path = place.copy(&backup, "auth");
    let whole = std::fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(place.run(&["verify", id(&backup)]).stdout.contains("DAMAGED"));
    std::fs::write(&path, whole).unwrap();
    place.ok(&["verify", id(&backup)]);
    place.assert_whole();
    opened(&mut place);
    place.ok(&["verify", id(&backup)]);
    assert!(
        place.list().iter().find(|it| it["id"] == backup["id"]).unwrap()["verified"].get("ciphertextOnly").is_none()
    );
    assert!(!place.warnings().contains(&"no-identity".to_owned()));
    restore(&place, &backup);
    place.assert_whole();
}

#[test]
fn over_http_a_missing_identity_is_a_problem_of_its_own() {
    let (place, backup) = sealed();
    let server = Server::start(&place);
    let address = |form: &str| format!("/api/backup/download/{}?database=auth{form}", id(&backup));
    let said = server.get(&address("")).problem(422, "needs-identity");
    assert!(said.contains("BACKUP_ENCRYPTION_IDENTITY_FILE"), "{said}");
    server.get(&format!("/api/backup/{}/download", id(&backup))).problem(422, "needs-identity");
    server.get(&format!("/api/backup/{}/preview", id(&backup))).problem(422, "needs-identity");
    server.post("/api/backup/drill").problem(422, "needs-identity");
    let confirmed = json!({ "id": id(&backup), "confirm": id(&backup) });
    let restore = server.request("POST", "/api/backup/restore").token(&crate::client::superuser()).json(&confirmed);
    restore.send().problem(422, "needs-identity");
    let verified = server.post(&format!("/api/backup/verify/{}", id(&backup))).ok();
    assert_eq!(verified["databases"]["auth"], json!({ "ok": true, "ciphertextOnly": true }));
    let stored = server.get(&address("&form=stored"));
    assert!(stored.status == 200 && stored.body == std::fs::read(place.copy(&backup, "auth")).unwrap());
    let refused: Vec<_> = place.audit().into_iter().filter(|line| line["code"] == "needs-identity").collect();
    for operation in ["download", "preview", "drill", "restore"] {
        assert!(refused.iter().any(|line| line["operation"] == operation), "{operation} is not in the audit log");
    }
}

/// Rehearsals that can't be are not tried again and again.
#[test]
fn the_schedule_does_not_rehearse_what_it_cannot_open() {
    let (mut place, _) = sealed();
    place.set("BACKUP_ENABLED", "true").set("BACKUP_DRILL_SCHEDULE", "daily");
    place.ok(&["create", "--type", "daily"]);
    let server = Server::start(&place);
    std::thread::sleep(std::time::Duration::from_secs(7));
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");
    assert!(place.audit().iter().all(|line| line["operation"] != "drill"));
}

#[test]
fn with_another_identity_it_is_as_without_one() {
    let mut place = Place::of_form(true, true);
    let backup = place.create();
    std::fs::rename(place.path(IDENTITY), place.path("first.txt")).unwrap();
    place.unset("BACKUP_ENCRYPTION_IDENTITY_FILE").keyed();
    let missing = ["no identity at hand opens it", backup["databases"]["auth"]["recipients"][0].as_str().unwrap()];
    assert_not_restored(&place, &backup, 1, &missing);
    // Nor where the catalog has been told that it were for this one.
    let path = place.backups().join("metadata.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mine = Run::of(std::process::Command::new("age-keygen").arg("-y").arg(place.path(IDENTITY)).output().unwrap());
    std::fs::write(&path, text.replace(missing[1], mine.stdout.trim())).unwrap();
    assert_not_restored(&place, &backup, 1, &["can't be decoded"]);
    assert!(place.run(&["verify", id(&backup)]).stdout.contains("DAMAGED"));
}

/// A rebuild without the identity keeps what a catalog knows of a file that is still the same, and leaves out the others.
#[test]
fn a_rebuild_without_the_identity_says_so_and_one_with_it_finds_all() {
    let (mut place, backup) = sealed();
    let catalog = place.backups().join("metadata.json");
    let previous = place.backups().join("metadata.json.previous");
    std::fs::copy(&catalog, &previous).unwrap();
    std::fs::write(&catalog, "{").unwrap();
    let rebuilt = place.json(&["catalog", "rebuild"]);
    let entry = &rebuilt["backups"][0];
    assert_eq!((&entry["id"], &entry["databases"]), (&backup["id"], &backup["databases"]));
    assert_eq!((&entry["flags"], &entry["verified"]["ciphertextOnly"]), (&json!(["recovered"]), &true.into()));
    place.assert_whole();
    std::fs::remove_file(&catalog).unwrap();
    std::fs::remove_file(&previous).unwrap();
    let rebuilt = place.json(&["catalog", "rebuild"]);
    assert_eq!(rebuilt["backups"], json!([]));
    assert!(rebuilt["leftOut"].to_string().contains("BACKUP_ENCRYPTION_IDENTITY_FILE"), "{rebuilt}");
    assert!(place.copy(&backup, "auth").exists() && place.warnings().contains(&"unmanaged".to_owned()));
    opened(&mut place);
    let rebuilt = place.json(&["catalog", "rebuild"]);
    let entry = &rebuilt["backups"][0];
    assert_eq!((&entry["id"], &entry["databases"]), (&backup["id"], &backup["databases"]));
    restore(&place, entry);
    place.assert_whole();
}

/// The same database of the same backup in two forms: the recorded one counts, the other is left alone and told.
#[test]
fn a_second_form_of_a_copy_is_told_and_left_alone() {
    let mut place = Place::of_form(true, true);
    let backup = place.create();
    let copy = &backup["databases"]["auth"];
    let aside = place.decoded(copy, place.path("").as_path()).unwrap();
    let twin = place.backups().join(copy["file"].as_str().unwrap().replace(".zst.age", ""));
    std::fs::rename(aside, &twin).unwrap();
    std::fs::set_permissions(&twin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for args in [&["create"][..], &["catalog", "rebuild"], &["verify", "--all"]] {
        place.ok(args);
        assert!(twin.exists(), "{args:?}");
        assert_eq!(place.list().last().unwrap()["databases"]["auth"]["form"], "db.zst.age", "{args:?}");
        place.assert_whole();
    }
    assert!(place.warnings().contains(&"unmanaged".to_owned()));
    let rebuilt = place.json(&["catalog", "rebuild"]);
    assert!(rebuilt["leftOut"].to_string().contains(".db: another form of"), "{rebuilt}");
    // An id whose files lie about in any form is not given again.
    place.writes(false, false);
    std::fs::remove_file(twin).unwrap();
    place.assert_whole();
}

/// Encrypts, and its live data is corrupt.
fn corrupt() -> Place {
    let place = Place::of_form(true, true);
    place.sql("attendance", "CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(100000))");
    place.sql("attendance", "PRAGMA wal_checkpoint(TRUNCATE)");
    let mut bytes = std::fs::read(place.live("attendance")).unwrap();
    // The page of `people`: its cells point nowhere.
    bytes[4096..4196].fill(0xAA);
    std::fs::write(place.live("attendance"), bytes).unwrap();
    place
}

/// Whenever the machine dies, the next operation leaves nothing plain of it.
#[test]
fn a_crash_leaves_no_plain_copy_of_corrupt_data() {
    let place = corrupt();
    let (mut killed, mut kept) = (0, 0);
    for call in ["renameat2", "fsync", "unlink"] {
        for n in 1.. {
            let twin = place.twin();
            let mut create = twin.faulty(&Spot::anywhere(call), &format!("signal=KILL:when={n}"), &["create"]);
            if create.output().unwrap().status.signal() != Some(9) {
                break;
            }
            killed += 1;
            twin.ok(&["config", "--set", "retention.daily=6"]);
            assert!(!holds(&bytes_of(&twin), "SQLite format 3"), "{call} {n}: {:?}", tree(&twin.backups()));
            kept += tree(&twin.backups()).iter().filter(|it| it.0.ends_with(".corrupt.zst.age")).count();
            twin.assert_whole();
        }
    }
    assert!(killed > 5 && kept > 0 && kept < killed, "{killed} {kept}");
}

/// Data that failed its check is kept for a look, and in no other form than backups are.
#[test]
fn a_copy_of_corrupt_data_is_encrypted_too() {
    let place = corrupt();
    for _ in 0..2 {
        place.run(&["create"]).refused(1, &["is corrupt", ".corrupt.zst.age"]);
    }
    let kept: Vec<_> = tree(&place.backups()).into_iter().map(|it| it.0).filter(|it| it.contains("corrupt")).collect();
    assert!(kept.len() == 2 && kept.iter().all(|file| file.ends_with(".corrupt.zst.age")), "{kept:?}");
    assert!(place.warnings().contains(&"corrupt-copies".to_owned()), "{:?}", place.warnings());
    assert!(!holds(&bytes_of(&place), "SQLite format 3"));
    decode(&place.backups().join(&kept[0]), "db.zst.age", &place.path(IDENTITY), &place.path("look"));
    assert!(std::fs::read(place.path("look")).unwrap().starts_with(b"SQLite format 3"));
    place.assert_whole();
}
