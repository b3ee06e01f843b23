//! Each form of copies from one end to the other: taken, proven, read by the tools that people have, handed out, given back;
//! beside older ones of other forms [P8, P12].

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use serde_json::{Value, json};

use crate::client::Server;
use crate::forms::{FORMS, IDENTITY, bytes_of, decode, holds};
use crate::harness::{Place, Run, sha256, sql_on_copy, tree};
use crate::inject::{Spot, goes_on, signal};
use crate::restore_app::{id, restore};
use crate::seasons;
use crate::secrets::commands;

const NAMES: [&str; 2] = ["attendance", "auth"];

/// What the catalog says of a copy is true of the file and of what other tools make of it.
fn assert_recorded(place: &Place, backup: &Value, form: &str, recipients: &Value) {
    let dir = tempfile::tempdir().unwrap();
    for name in NAMES {
        let (copy, bytes) = (&backup["databases"][name], std::fs::read(place.copy(backup, name)).unwrap());
        assert_eq!((&copy["form"], &copy["recipients"]), (&form.into(), recipients), "{copy}");
        assert!(copy["file"].as_str().unwrap().ends_with(&format!(".{form}")), "{copy}");
        assert_eq!(copy["storedSize"], bytes.len(), "{copy}");
        assert_eq!(copy["storedChecksum"], sha256(&bytes), "{copy}");
        let plain = place.decoded(copy, dir.path()).unwrap();
        let decoded = std::fs::read(&plain).unwrap();
        assert_eq!((&copy["size"], &copy["checksum"]), (&decoded.len().into(), &sha256(&decoded).into()), "{copy}");
        assert_eq!(sql_on_copy(&plain, "PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn every_form_is_what_other_tools_read_and_all_commands_work_on_it() {
    for (form, compressed, encrypted) in FORMS {
        let mut place = Place::new();
        let recipient = place.keyed();
        place.writes(compressed, encrypted).fill(3);
        let backup = place.create();
        let recipients = if encrypted { json!([recipient]) } else { json!([]) };
        assert_recorded(&place, &backup, form, &recipients);
        assert_eq!(backup["databases"]["attendance"]["tables"]["people"], 3);
        assert!(backup["verified"].get("ciphertextOnly").is_none(), "{backup}");
        if encrypted {
            let all = bytes_of(&place);
            assert!(!holds(&all, "SQLite format 3") && !holds(&all, "Carla"), "{form}: something lies plain");
        }
        place.ok(&["verify", id(&backup)]);
        let drilled = place.json(&["drill"]);
        assert_eq!(
            (&drilled["ok"], &drilled["backups"][0]["databases"]["attendance"]["rows"]),
            (&true.into(), &9.into())
        );
        place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
        let preview = place.json(&["preview", id(&backup)]);
        assert_eq!(preview["databases"]["attendance"]["tables"]["people"]["onlyNow"], 1, "{preview}");
        let restored = restore(&place, &backup);
        assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "3");
        let before = place.list().into_iter().find(|it| it["id"] == restored["preRestore"]).unwrap();
        assert_recorded(&place, &before, form, &recipients);
        place.ok(&["undo"]);
        assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "4");
        assert!(!place.warnings().iter().any(|code| code == "no-identity"), "{:?}", place.warnings());
        place.assert_whole();
    }
}

#[test]
fn what_compresses_takes_less_room_at_every_level() {
    let mut place = Place::new();
    place.sql("attendance", "CREATE TABLE t (a); INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT 'pupil ' || i FROM n");
    place.set("BACKUP_COMPRESSION", "zstd");
    let mut sizes = Vec::new();
    for level in ["1", "19"] {
        place.set("BACKUP_COMPRESSION_LEVEL", level);
        let backup = place.create();
        assert_recorded(&place, &backup, "db.zst", &json!([]));
        let copy = &backup["databases"]["attendance"];
        sizes.push(copy["storedSize"].as_u64().unwrap());
        assert!(2 * sizes[sizes.len() - 1] < copy["size"].as_u64().unwrap(), "{copy}");
    }
    assert!(sizes[1] < sizes[0], "{sizes:?}");
    // The frame says how long it is, and has its checksum.
    let listed = Command::new("zstd").args(["-lv"]).arg(place.copy(&place.list()[0], "attendance")).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("Check: XXH64") && listed.contains("Decompressed Size:"), "{listed}");
}

/// With neither, all is as it ever was: no other file is made, no byte differs.
#[test]
fn a_plain_copy_is_written_as_ever() {
    let place = Place::new();
    let backup = place.create();
    for name in NAMES {
        let copy = &backup["databases"][name];
        assert_eq!((&copy["form"], &copy["recipients"]), (&"db".into(), &json!([])));
        assert_eq!((&copy["checksum"], &copy["size"]), (&copy["storedChecksum"], &copy["storedSize"]));
    }
    let trace = place.path("trace");
    let mut command = place.command_of("strace");
    command.args(["-f", "-e", "trace=openat,unlink,unlinkat", "-o"]).arg(&trace);
    assert!(command.arg(crate::harness::PROGRAM).arg("create").output().unwrap().status.success());
    let text = std::fs::read_to_string(trace).unwrap();
    let made = text.lines().filter(|line| line.contains("manual/") && line.contains("O_CREAT")).count();
    assert_eq!(made, 2, "{text}");
    assert!(!text.contains("restoring"), "{text}");
    place.assert_whole();
}

/// Older copies stay as they are, and rotation takes them along with the newer ones.
#[test]
fn forms_stand_beside_each_other_and_are_rotated() {
    let mut place = Place::new();
    place.keyed();
    for tier in ["DAILY", "WEEKLY", "MONTHLY"] {
        place.set(&format!("BACKUP_RETENTION_{tier}"), "2");
    }
    let settings = [(true, true), (false, false), (false, true), (true, false), (false, false), (true, true)];
    let dates = ["2025-01-06", "2025-01-13", "2025-02-03", "2025-02-10", "2025-03-03", "2025-03-10"];
    for ((compressed, encrypted), date) in settings.into_iter().zip(dates) {
        place.writes(compressed, encrypted);
        seasons::then(&place, date, "daily");
        place.assert_whole();
        assert!(place.json(&["verify", "--all"]).as_object().unwrap().values().all(|it| it["ok"] == true));
    }
    let list = place.list();
    let promoted: Vec<_> = list.iter().filter(|it| !it["promotedFrom"].is_null()).collect();
    let forms: Vec<_> = promoted.iter().map(|it| it["databases"]["auth"]["form"].as_str().unwrap()).collect();
    assert!(forms.contains(&"db.zst.age") && forms.contains(&"db.age") && forms.contains(&"db.zst"), "{forms:?}");
    for backup in &promoted {
        // A second name, not a second file.
        assert_eq!(place.copy(backup, "auth").metadata().unwrap().nlink(), 1);
        restore(&place, backup);
        place.ok(&["undo"]);
    }
    assert!(place.json(&["drill"])["ok"] == true);
    place.ok(&["delete", id(promoted[0])]);
    place.assert_whole();
}

/// A key that was changed: what was encrypted to the one before is read as long as its identity is in the file.
#[test]
fn after_a_change_of_keys_old_copies_open_with_the_old_identity() {
    let mut place = Place::of_form(true, true);
    let old = place.create();
    let first = std::fs::read_to_string(place.path(IDENTITY)).unwrap();
    std::fs::rename(place.path(IDENTITY), place.path("old.txt")).unwrap();
    place.unset("BACKUP_ENCRYPTION_IDENTITY_FILE").keyed();
    let new = place.create();
    place.ok(&["verify", id(&new)]);
    let verdict = place.json(&["verify", id(&old)]);
    assert_eq!(verdict["databases"]["auth"], json!({ "ok": true, "ciphertextOnly": true }));
    let second = std::fs::read_to_string(place.path(IDENTITY)).unwrap();
    std::fs::write(place.path(IDENTITY), first + &second).unwrap();
    assert_eq!(place.json(&["verify", id(&old)])["databases"]["auth"], json!({ "ok": true }));
    restore(&place, &old);
    place.assert_whole();
}

#[test]
fn keygen_makes_a_key_for_both_programs_and_overwrites_nothing() {
    let mut place = Place::new();
    let path = place.path("key.txt");
    let run = place.ok(&["keygen", "-o", path.to_str().unwrap()]);
    let file = std::fs::read_to_string(&path).unwrap();
    let secret = file.lines().last().unwrap();
    assert!(secret.starts_with("AGE-SECRET-KEY-1") && !(run.stdout.clone() + &run.stderr).contains(secret));
    let recipient = run.stdout.lines().next().unwrap();
    for words in ["BACKUP_ENCRYPTION_RECIPIENTS=age1", "BACKUP_ENCRYPTION_IDENTITY_FILE=/", "print a copy"] {
        assert!(run.stdout.contains(words), "{}", run.stdout);
    }
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let public = Command::new("age-keygen").arg("-y").arg(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&public.stdout).trim(), recipient);
    place.run(&["keygen", "-o", path.to_str().unwrap()]).refused(1, &["exists already and is not overwritten"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), file);
    // It wants no configuration, and no folder of its own.
    let bad =
        place.command(&["keygen", "-o", "other.txt"]).current_dir(place.path("")).env("BACKUP_CHECK", "bad").output();
    assert_eq!(Run::of(bad.unwrap()).code, 0);
    assert!(!place.backups().exists());
    // One of age's own serves as well.
    let theirs = place.path("theirs.txt");
    assert!(Command::new("age-keygen").arg("-o").arg(&theirs).output().unwrap().status.success());
    let public = Command::new("age-keygen").arg("-y").arg(&theirs).output().unwrap();
    place.set("BACKUP_ENCRYPTION_RECIPIENTS", String::from_utf8_lossy(&public.stdout).trim());
    place.set("BACKUP_ENCRYPTION_IDENTITY_FILE", theirs.to_str().unwrap()).writes(true, true);
    let backup = place.create();
    place.ok(&["verify", id(&backup)]);
    decode(&place.copy(&backup, "auth"), "db.zst.age", &theirs, &place.path("auth.out"));
}

#[test]
fn an_encryption_that_cannot_be_honoured_takes_no_backup() {
    let mut place = Place::new();
    place.set("BACKUP_ENCRYPT_LOCAL", "true");
    place
        .run(&["create"])
        .refused(2, &["BACKUP_ENCRYPT_LOCAL", "nobody to encrypt to", "BACKUP_ENCRYPTION_RECIPIENTS"]);
    place.keyed();
    place.set("BACKUP_ENCRYPTION_IDENTITY_FILE", "/nowhere/identity.txt");
    place.run(&["serve"]).refused(2, &["BACKUP_ENCRYPTION_IDENTITY_FILE", "/nowhere/identity.txt"]);
    std::fs::rename(place.path(IDENTITY), place.path("other.txt")).unwrap();
    place.unset("BACKUP_ENCRYPTION_IDENTITY_FILE").keyed();
    place.set("BACKUP_ENCRYPTION_IDENTITY_FILE", place.path("other.txt").to_str().unwrap());
    place.run(&["create"]).refused(2, &["none of its identities", "age1"]);
    assert!(!place.backups().exists());
}

#[test]
fn the_doctor_looks_at_keys() {
    let mut place = Place::of_form(false, false);
    let found = |place: &Place| {
        let all = Run::of(place.command(&["doctor", "--json"]).output().unwrap()).stdout;
        let all: Value = serde_json::from_str(&all).unwrap();
        let ours = all["findings"].as_array().unwrap().iter();
        let ours = ours.filter(|it| ["encryption", "identity", "no-identity"].contains(&it["about"].as_str().unwrap()));
        ours.map(|it| format!("{} {}", it["severity"], it["found"])).collect::<Vec<_>>().join("\n")
    };
    assert!(found(&place).contains("copies lie unencrypted"), "{}", found(&place));
    place.writes(true, true);
    assert!(found(&place).contains("encrypted to 1 recipients (db.zst.age)"), "{}", found(&place));
    assert!(found(&place).contains("\"ok\"") && !found(&place).contains("warning"), "{}", found(&place));
    std::fs::set_permissions(place.path(IDENTITY), PermissionsExt::from_mode(0o640)).unwrap();
    assert!(found(&place).contains("can be read by others (mode 640)"), "{}", found(&place));
    place.create();
    let beside = place.backups().join("identity.txt");
    std::fs::copy(place.path(IDENTITY), &beside).unwrap();
    place.set("BACKUP_ENCRYPTION_IDENTITY_FILE", beside.to_str().unwrap());
    assert!(found(&place).contains("lies beside the backups"), "{}", found(&place));
    place.forgets_its_identity();
    assert!(found(&place).contains("no identity at hand"), "{}", found(&place));
}

/// A preview holds no lock of the directory: whoever takes that meanwhile leaves its private copies alone, and removes those of
/// one that was killed.
#[test]
fn private_copies_of_a_preview_are_left_alone_while_it_lives() {
    let place = Place::of_form(true, true);
    let backup = place.create();
    let folders = || tree(&place.backups()).iter().filter(|it| it.0.starts_with("restoring/")).count();
    for (call, n, held) in [("mkdir", 1, 0), ("flock", 1, 1), ("write", 1, 2)] {
        for ends in ["-CONT", "-KILL"] {
            let (child, pid) = place.stopped(&Spot::anywhere(call), n, &["preview", id(&backup)]).unwrap();
            assert_eq!(folders(), held, "{call}");
            place.ok(&["pin", id(&backup)]);
            assert_eq!(folders(), held, "{call}: what is in use is gone");
            if ends == "-KILL" {
                signal(&pid, ends);
            }
            assert_eq!(goes_on(child, &pid).code == 0, ends == "-CONT", "{call}");
            place.ok(&["unpin", id(&backup)]);
            assert!(!place.backups().join("restoring").exists(), "{call} {ends}");
            place.assert_whole();
        }
    }
}

/// The identity passes through the program's hands, and is in none of its outputs and files.
#[test]
fn an_identity_is_never_shown() {
    let mut place = Place::of_form(true, true);
    place.set("BACKUP_LOG", "trace");
    let secret = std::fs::read_to_string(place.path(IDENTITY)).unwrap().lines().last().unwrap().to_owned();
    let backup = place.create();
    let server = Server::start(&place);
    let mut seen = String::new();
    for path in ["config", "status", "audit", "list"] {
        seen += &server.get(&format!("/api/backup/{path}")).text();
    }
    seen += &server.get("/settings/backups").text();
    for args in commands(&place, id(&backup)).into_iter().filter(|args| args[0] != "serve") {
        let run = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        seen += &(run.stdout + &run.stderr);
    }
    seen += &server.stop();
    // Where it doesn't belong it isn't shown either.
    let run = place.command(&["status"]).env("BACKUP_ENCRYPTION_RECIPIENTS", &secret).output();
    let run = Run::of(run.unwrap());
    run.refused(2, &["there is an identity"]);
    seen += &(run.stdout + &run.stderr);
    assert!(seen.len() > 10_000 && seen.contains("age1"));
    let secret = &secret["AGE-SECRET-KEY-1".len()..];
    assert!(!seen.to_uppercase().contains(secret), "an identity is shown");
    assert!(!holds(&bytes_of(&place), secret));
}
