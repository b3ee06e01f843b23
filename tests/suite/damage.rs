//! Backup files that are no longer what was recorded: verify says so, download gives nothing, the others stay good [P8].

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::{Place, Run, python};
use crate::inject::Spot;
use crate::replica_scene::{push, told, with_replica};
use crate::seasons;
use crate::stores::Store;

struct Damage {
    what: &'static str,
    /// Does it to the file; the second is the same file of another backup.
    act: fn(&Path, &Path),
    /// What verify says of it.
    word: &'static str,
}

/// As a disk does it: length and times stay.
pub fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let (mut bytes, modified) = (std::fs::read(path).unwrap(), path.metadata().unwrap().modified().unwrap());
    let at = at(bytes.len());
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

const DAMAGES: &[Damage] = &[
    Damage { what: "cut by a byte", act: |file, _| cut(file, 1), word: "bytes instead of" },
    Damage { what: "cut to nothing", act: |file, _| std::fs::write(file, b"").unwrap(), word: "has 0 bytes" },
    Damage { what: "cut by a page", act: |file, _| cut(file, 4096), word: "bytes instead of" },
    Damage { what: "longer", act: |file, _| append(file), word: "bytes instead of" },
    Damage { what: "a bit of the first byte", act: |file, _| flip(file, |_| 0), word: "SHA-256" },
    Damage { what: "a bit of the header", act: |file, _| flip(file, |_| 97), word: "SHA-256" },
    Damage { what: "a bit in the middle", act: |file, _| flip(file, |len| len / 2), word: "SHA-256" },
    Damage { what: "a bit of unused space", act: |file, _| flip(file, |_| 4096 - 1500), word: "SHA-256" },
    Damage { what: "a bit of the last byte", act: |file, _| flip(file, |len| len - 1), word: "SHA-256" },
    Damage { what: "swapped", act: swap, word: "SHA-256" },
    Damage { what: "removed", act: |file, _| std::fs::remove_file(file).unwrap(), word: "No such file" },
    Damage { what: "a link", act: link, word: "symbolic link" },
    Damage { what: "a pipe", act: pipe, word: "not a regular file" },
    Damage { what: "a folder", act: folder, word: "not a regular file" },
];

fn cut(file: &Path, less: u64) {
    let open = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    open.set_len(file.metadata().unwrap().len() - less).unwrap();
}

fn append(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes.push(0);
    std::fs::write(file, bytes).unwrap();
}

fn swap(file: &Path, other: &Path) {
    std::fs::copy(other, file).unwrap();
}

/// Of the very content, even: whoever can place a link can change what it leads to.
fn link(file: &Path, _: &Path) {
    let aside = file.with_extension("aside");
    std::fs::rename(file, &aside).unwrap();
    symlink(&aside, file).unwrap();
}

fn pipe(file: &Path, _: &Path) {
    std::fs::remove_file(file).unwrap();
    python("import os, sys; os.mkfifo(sys.argv[1])", &[file]);
}

fn folder(file: &Path, _: &Path) {
    std::fs::remove_file(file).unwrap();
    std::fs::create_dir(file).unwrap();
}

fn clear(path: &Path) {
    if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        std::fs::remove_dir(path).unwrap();
    } else if path.symlink_metadata().is_ok() {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn damage_is_told_and_nothing_of_it_is_given_out() {
    let place = Place::new();
    let other = place.create();
    // As long as the first, and different.
    place.sql("auth", "UPDATE users SET email = 'b@school.example'");
    let backup = place.create();
    let id = backup["id"].as_str().unwrap();
    let (file, twin) = (place.copy(&backup, "auth"), place.copy(&other, "auth"));
    let whole = std::fs::read(&file).unwrap();
    for damage in DAMAGES {
        (damage.act)(&file, &twin);
        assert_damaged(&place, id, damage);
        place.ok(&["verify", other["id"].as_str().unwrap()]);
        clear(&file);
        clear(&file.with_extension("aside"));
        std::fs::write(&file, &whole).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        place.ok(&["verify", id]);
        assert!(!place.ok(&["list"]).stdout.contains("DAMAGED"), "{}: mended", damage.what);
    }
    place.assert_whole();
}

#[track_caller]
fn assert_damaged(place: &Place, id: &str, damage: &Damage) {
    let what = damage.what;
    let run = place.run(&["verify", id]);
    assert_eq!(run.code, 1, "{what}: {}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("DAMAGED") && run.stdout.contains(damage.word), "{what}: {}", run.stdout);
    let all = place.run(&["verify", "--all", "--json"]);
    let all: serde_json::Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(all[id]["ok"], false, "{what}");
    assert_eq!(all[id]["databases"]["attendance"]["ok"], true, "{what}");
    let list = place.ok(&["list"]).stdout;
    assert!(list.lines().any(|line| line.contains(id) && line.contains("DAMAGED")), "{what}: {list}");
    assert!(place.warnings().contains(&"damaged".to_owned()), "{what}");
    assert_ne!(place.json(&["status"])["lastBackup"]["id"], id, "{what}");
    for database in [&["--database", "auth"][..], &[]] {
        let target = place.path("out");
        let mut args = vec!["download", id, "-o", target.to_str().unwrap()];
        args.extend(database);
        place.run(&args).refused(1, &[id, "is damaged", damage.word]);
        assert!(target.symlink_metadata().is_err(), "{what}: something was given out");
        assert!(place.path(".out.partial").symlink_metadata().is_err(), "{what}");
    }
}

#[test]
fn a_damaged_backup_holds_no_place_and_pushes_no_good_one_out() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "2");
    let good = place.create();
    let bad = place.create();
    flip(&place.copy(&bad, "attendance"), |len| len - 1);
    assert_eq!(place.run(&["verify", "--all"]).code, 1);
    let third = place.create();
    let ids = place.ids();
    for backup in [&good, &third] {
        assert!(ids.contains(&backup["id"].as_str().unwrap().to_owned()), "{ids:?}");
    }
}

/// Its file is gone, cut or a link when rotation wants to promote it, and nobody has verified it.
#[test]
fn damage_to_what_is_to_be_promoted_stops_no_backup() {
    for damage in DAMAGES.iter().filter(|it| ["removed", "cut by a page", "a link", "a pipe"].contains(&it.what)) {
        let mut place = Place::new();
        place.set("BACKUP_RETENTION_DAILY", "1");
        // 25 hours apart: two dates, whatever the hour is.
        place.set("BACKUP_TIMEZONE", "Pacific/Niue");
        let old = place.json(&["create", "--type", "daily"]);
        (damage.act)(&place.copy(&old, "auth"), Path::new(""));
        place.set("BACKUP_TIMEZONE", "Pacific/Kiritimati");
        let new = place.json(&["create", "--type", "daily"]);
        assert_eq!(place.json(&["status"])["lastBackup"]["id"], new["id"], "{}", damage.what);
        assert_eq!(place.ids(), [&new, &old].map(|it| it["id"].as_str().unwrap()), "{}", damage.what);
        assert!(place.warnings().contains(&"damaged".to_owned()), "{}", damage.what);
        assert!(place.ok(&["list"]).stdout.contains("DAMAGED"), "{}", damage.what);
    }
}

/// Its file is gone, and nobody has looked: it is not the newest good one, which rotation spares whatever the limits say [P5].
#[test]
fn what_is_gone_is_not_the_newest_good_one_that_stays() {
    let place = seasons::of_four_days();
    place.ok(&["delete", &place.ids()[0]]);
    let dailies = place.list();
    assert!(dailies.len() == 4 && dailies.iter().all(|it| it["type"] == "daily"));
    std::fs::remove_file(place.copy(&dailies[0], "auth")).unwrap();
    let less = ["retention.daily=1", "retention.weekly=0", "retention.monthly=0"];
    let args: Vec<_> = ["config"].into_iter().chain(less.iter().flat_map(|set| ["--set", set])).collect();
    let foretold = place.json(&[&args[..], &["--dry-run"]].concat())["rotation"].clone();
    assert_eq!(place.json(&args)["rotation"], foretold);
    assert_eq!(place.ids(), [&dailies[0], &dailies[1]].map(|it| it["id"].as_str().unwrap()));
    place.ok(&["verify", dailies[1]["id"].as_str().unwrap()]);
    assert!(place.warnings().contains(&"damaged".to_owned()));
}

#[test]
fn the_last_good_one_whose_files_are_there_goes_only_with_force() {
    let place = Place::new();
    let (gone, good) = (place.create(), place.create());
    let [gone_id, good_id] = [&gone, &good].map(|it| it["id"].as_str().unwrap());
    std::fs::remove_file(place.copy(&gone, "auth")).unwrap();
    place.run(&["delete", good_id]).refused(1, &["or the last good one"]);
    place.ok(&["delete", gone_id]);
    assert_eq!(place.ids(), [good_id]);
    place.assert_whole();
}

/// The first call of a kind on the copy of `auth` fails.
fn failing(place: &Place, backup: &serde_json::Value, call: &'static str, error: &str, args: &[&str]) -> Run {
    let path = backup["databases"]["auth"]["file"].as_str().unwrap().to_owned();
    let spot = Spot { call, path: Some(path) };
    Run::of(place.faulty(&spot, &format!("error={error}"), args).output().unwrap())
}

#[test]
fn what_can_not_be_read_just_now_is_told_and_not_recorded_as_damage() {
    let place = Place::new();
    let backup = place.create();
    let id = backup["id"].as_str().unwrap();
    let target = place.path("out");
    for (call, error, words) in [
        ("openat", "EACCES", "permission denied"),
        ("openat", "EMFILE", "Too many open files"),
        ("openat", "ESTALE", "Stale file handle"),
        ("pread64", "EIO", "Input/output error"),
    ] {
        let before = place.catalog();
        let run = failing(&place, &backup, call, error, &["verify", id]);
        assert_eq!(run.code, 1, "{error}: {}{}", run.stdout, run.stderr);
        assert!(run.stdout.contains("can't be read just now") && run.stdout.contains(words), "{}", run.stdout);
        assert!(!run.stdout.contains("DAMAGED"), "{}", run.stdout);
        let json = failing(&place, &backup, call, error, &["verify", id, "--json"]).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["ok"], &json["databases"]["auth"]["unread"]), (&false.into(), &true.into()), "{error}");
        assert_eq!(place.catalog(), before, "{error}");
        let call = if call == "pread64" { "read" } else { call };
        let args = ["download", id, "-o", target.to_str().unwrap()];
        let run = failing(&place, &backup, call, error, &args);
        run.refused(1, &[words, backup["databases"]["auth"]["file"].as_str().unwrap()]);
        assert!(!run.stderr.contains("damaged") && !target.exists(), "{error}: {}", run.stderr);
    }
    place.ok(&["verify", id]);
    place.assert_whole();
}

/// Damage to one database is recorded, whether or not the other can be read.
#[test]
fn damage_beside_what_can_not_be_read_is_recorded() {
    let place = Place::new();
    let backup = place.create();
    flip(&place.copy(&backup, "attendance"), |len| len - 1);
    let run = failing(&place, &backup, "openat", "EACCES", &["verify", backup["id"].as_str().unwrap()]);
    assert!(run.stdout.contains("DAMAGED"), "{}", run.stdout);
    assert!(place.ok(&["list"]).stdout.contains("DAMAGED"));
}

#[test]
fn what_can_not_be_looked_at_is_left_where_it_is_by_rotation() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_DAILY", "1");
    // 25 hours apart: two dates, whatever the hour is.
    place.set("BACKUP_TIMEZONE", "Pacific/Niue");
    let old = place.json(&["create", "--type", "daily"]);
    place.set("BACKUP_TIMEZONE", "Pacific/Kiritimati");
    let run = failing(&place, &old, "statx", "EIO", &["create", "--type", "daily"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let ids = place.ids();
    assert!(ids.len() == 2 && ids.contains(&old["id"].as_str().unwrap().to_owned()), "{ids:?}");
    assert!(!place.ok(&["list"]).stdout.contains("DAMAGED"));
    assert_eq!(place.list().iter().filter(|backup| backup["pinned"] == true).count(), 0);
    place.assert_whole();
}

/// Whoever wants to send it finds it out, and everybody knows from then on.
#[test]
fn a_copy_that_is_gone_or_cut_short_is_not_sent_and_known_for_that() {
    let spoils: [fn(&Path) -> std::io::Result<()>; 2] =
        [|file| std::fs::remove_file(file), |file| std::fs::write(file, "short")];
    for spoil in spoils {
        let store = Store::folder();
        let place = with_replica(&store);
        let backup = place.create();
        spoil(&place.copy(&backup, "auth")).unwrap();
        push(&place).refused(1, &[backup["id"].as_str().unwrap(), "is damaged"]);
        assert_eq!(place.list()[0]["verified"]["ok"], false);
        assert_eq!(told(&place)["pending"], 0);
    }
}
