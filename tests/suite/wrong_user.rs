//! Who isn't the app's user makes `-wal` and `-shm` files that the app can't write. It is told, and kept from it.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::Server;
use crate::harness::{PROGRAM, Place, Run, tree};

/// The app's.
const APP: u32 = 1234;

/// Of the app, in a folder where everybody may make files; with a second name of the program, that everybody can get at.
fn of_app() -> (Place, PathBuf) {
    let mut place = Place::new();
    for name in ["attendance", "auth"] {
        // The last connection closes: nothing lies beside it.
        place.sql(name, "SELECT 1");
        chown(place.live(name), Some(APP), Some(APP)).unwrap();
        permit(&place.live(name), 0o644);
    }
    permit(&place.path(""), 0o1777);
    // Backups of its own, for whoever tries.
    let own = place.path("own").display().to_string();
    place.set("BACKUP_DIRECTORY", &own);
    let program = place.path("program");
    if std::fs::hard_link(PROGRAM, &program).is_err() {
        std::fs::copy(PROGRAM, &program).unwrap();
    }
    (place, program)
}

fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// As that user, without capabilities.
fn as_user(place: &Place, program: &Path, uid: u32, args: &[&str]) -> Command {
    let mut command = place.command_of("setpriv");
    let id = |option: &str| format!("--{option}={uid}");
    command.args([id("reuid"), id("regid")]).args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    command.arg(program).args(args);
    command
}

fn run(place: &Place, program: &Path, uid: u32, args: &[&str]) -> Run {
    Run::of(as_user(place, program, uid, args).output().unwrap())
}

fn beside(place: &Place) -> Vec<String> {
    let entries = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter_map(|name| name.into_string().ok()).filter(|name| name.contains(".db-")).collect()
}

#[test]
fn the_doctor_tells_a_wrong_user_and_the_line_that_puts_it_right() {
    let (place, program) = of_app();
    let right = run(&place, &program, APP, &["doctor"]);
    assert_eq!(right.code, 0, "{}", right.stdout);
    assert!(
        right.stdout.contains("ok       user: uid 1234, gid 1234, the owner of the live databases"),
        "{}",
        right.stdout
    );
    for wrong in [4321, 0] {
        let told = run(&place, &program, wrong, &["doctor"]);
        assert_eq!(told.code, 1, "{}", told.stdout);
        let words = [format!("PROBLEM  user: this runs as uid {wrong}"), "user: \"1234:1234\"".to_owned()];
        assert!(words.iter().all(|it| told.stdout.contains(it)), "{}", told.stdout);
    }
    // Root that is all of root hands over what it makes.
    let told = place.ok(&["doctor"]).stdout;
    assert!(told.contains("warning  user: this runs as uid 0, and `attendance` belongs to uid 1234"), "{told}");
}

#[test]
fn the_doctor_tells_who_may_not_even_look_and_who_can_make_no_backups() {
    let (mut place, program) = of_app();
    let data = place.path("data");
    std::fs::create_dir(&data).unwrap();
    for name in ["attendance.db", "auth.db"] {
        std::fs::rename(place.path(name), data.join(name)).unwrap();
    }
    permit(&data, 0o700);
    chown(&data, Some(APP), Some(APP)).unwrap();
    let databases = format!("attendance={0}/attendance.db,auth={0}/auth.db", data.display());
    let inside = data.join("backups").display().to_string();
    place.set("BACKUP_DATABASES", &databases).set("BACKUP_DIRECTORY", &inside);
    let told = run(&place, &program, 4321, &["doctor"]);
    assert_eq!(told.code, 1, "{}", told.stdout);
    for word in ["uid 4321, which may not even look at `attendance`", "user: \"1234:1234\", who owns", "/data"] {
        assert!(told.stdout.contains(word), "{word}: {}", told.stdout);
    }
    permit(&data, 0o755);
    let told = run(&place, &program, 4321, &["doctor"]).stdout;
    assert!(told.contains("PROBLEM  backup directory:") && told.contains("permission denied for uid 4321"), "{told}");
    let told = run(&place, &program, APP, &["doctor"]).stdout;
    assert!(told.contains("warning  backup directory:") && told.contains("the first backup makes it"), "{told}");
}

/// A new volume of a container is root's, and everybody makes files in it: what comes back there is the app's, and nobody else's to read.
#[test]
fn a_missing_database_comes_back_in_a_folder_where_everybody_makes_files() {
    let (place, program) = of_app();
    let backup = run(&place, &program, APP, &["create", "--json"]);
    let id = serde_json::from_str::<serde_json::Value>(&backup.stdout).unwrap()["id"].as_str().unwrap().to_owned();
    std::fs::remove_file(place.live("attendance")).unwrap();
    let offline = ["restore", &id, "--offline", "--confirm", &id];
    let restored = run(&place, &program, APP, &offline);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    let back = place.live("attendance").metadata().unwrap();
    assert_eq!((back.uid(), back.mode() & 0o777), (APP, 0o600));
    assert_eq!(place.live("auth").metadata().unwrap().mode() & 0o777, 0o644, "as it was");
    // Root hands it over where the folder is somebody's.
    std::fs::remove_file(place.live("attendance")).unwrap();
    permit(&place.path(""), 0o750);
    chown(place.path(""), Some(APP), Some(APP)).unwrap();
    place.ok(&offline);
    let back = place.live("attendance").metadata().unwrap();
    assert_eq!((back.uid(), back.gid(), back.mode() & 0o777), (APP, APP, 0o640));
}

#[test]
fn a_wrong_user_opens_no_database_and_the_app_goes_on() {
    let (place, program) = of_app();
    let refused = run(&place, &program, 4321, &["create"]);
    refused.refused(1, &["attendance.db", "permission denied for uid 4321", "the user who owns the databases"]);
    assert_eq!(beside(&place), Vec::<String>::new(), "files that the app can't write");

    let mut command = Command::new("setpriv");
    command.args(["--reuid=1234", "--regid=1234", "--clear-groups", "sqlite3"]).arg(place.live("attendance"));
    command.arg("CREATE TABLE after (x)");
    let wrote = Run::of(command.output().unwrap());
    assert_eq!(wrote.code, 0, "{}", wrote.stderr);
}

#[test]
fn serve_says_so_at_its_start() {
    let (mut place, program) = of_app();
    place.set("BACKUP_ENABLED", "false");
    let mut server = Server::of(&mut as_user(&place, &program, 4321, &["serve"]), place.path("serve.log"));
    let log = crate::harness::eventually("a word of the user", || {
        std::fs::read_to_string(place.path("serve.log")).ok().filter(|log| log.contains("belongs to uid 1234"))
    });
    assert!(log.contains("user: \"1234:1234\"") && log.contains("ERROR"), "{log}");
    // Nothing is well, and it stays to say so: an end would be tried again and again.
    server.request("GET", "/readyz").send().problem(503, "not-ready");
    assert_eq!(server.request("GET", "/healthz").send().status, 200);
    assert!(server.child.try_wait().unwrap().is_none());
}

/// Who owns what lies in a folder, and the folder.
fn owners(folder: &Path) -> BTreeSet<u32> {
    let entries = tree(folder).into_iter().map(|(name, ..)| folder.join(name));
    let all = entries.chain([folder.to_owned()]);
    all.map(|path| path.symlink_metadata().unwrap().uid()).collect()
}

/// What root does beside `serve` leaves nothing that `serve` can't go on with.
#[test]
fn what_root_makes_in_the_backup_directory_belongs_to_whoever_owns_that() {
    let (mut place, program) = of_app();
    place.set("BACKUP_RETENTION_MANUAL", "2");
    let own = place.path("own");
    assert_eq!(run(&place, &program, APP, &["create"]).code, 0);
    let by_root = place.json(&["create"]);
    let id = by_root["id"].as_str().unwrap();
    place.ok(&["pin", id]);
    place.ok(&["config", "--set", "retention.daily=5"]);
    place.ok(&["drill"]);
    place.ok(&["restore", id, "--confirm", id]);
    assert_eq!(owners(&own), BTreeSet::from([APP]));
    assert!(tree(&own).iter().all(|(_, mode, is_dir)| mode & 0o777 == if *is_dir { 0o700 } else { 0o600 }));
    for args in [&["create"][..], &["unpin", id], &["config", "--reset"], &["verify", "--all"], &["undo"]] {
        let run = run(&place, &program, APP, args);
        assert_eq!(run.code, 0, "{args:?}: {}{}", run.stdout, run.stderr);
    }
    // Where root makes all of it, that belongs to whoever owns the folder around it; what root asks for elsewhere is root's.
    let data = place.path("data");
    std::fs::create_dir(&data).unwrap();
    chown(&data, Some(APP), Some(APP)).unwrap();
    place.set("BACKUP_DIRECTORY", &data.join("backups").display().to_string());
    let backup = place.create();
    assert_eq!(owners(&data), BTreeSet::from([APP]));
    let out = data.join("out.db");
    place.ok(&["download", backup["id"].as_str().unwrap(), "--database", "auth", "-o", out.to_str().unwrap()]);
    assert_eq!(out.metadata().unwrap().uid(), 0);
}
