//! Live databases are touched by SQLite alone. A file call that opens one would, on its close, drop the locks that
//! SQLite holds there for this process, and a deleted `-wal` is lost commits [P13].

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::app::App;
use crate::harness::{PROGRAM, Place, Run, sql_on};
use crate::layers::{bare, sources};

/// Calls that open, remove or rename files, or connect to a database.
const CALLS: &[&str] = &[
    "File::open",
    "File::create",
    "File::options",
    "OpenOptions",
    "fs::open",
    "fs::read(",
    "fs::read_to_string",
    "fs::write(",
    "fs::copy",
    "fs::rename",
    "fs::remove_",
    "fs::hard_link",
    "fs::set_permissions",
    "fs::create_dir",
    "Connection::open",
];

/// Where such calls may be, and why there.
const ALLOWED: &[(&str, &[&str], &str)] = &[
    ("disk.rs", &CALLS_OF_DISK, "the file calls of the whole program, on files of the backup directory"),
    ("sqlite.rs", &["Connection::open"], "the two ways to open a database"),
    ("config/file.rs", &["fs::read_to_string"], "the configuration, read before any database is opened"),
    ("engine/permit.rs", &["fs::read_to_string"], "/proc, to know a process again"),
    ("disk/lock.rs", &["fs::read_to_string"], "/proc, to know who holds a lock"),
    ("engine/doctor.rs", &["fs::read_to_string"], "/proc, for the mounts"),
    ("engine/rotation.rs", &["fs::hard_link"], "a second name for a backup's file"),
    ("cli/shell.rs", &["fs::write(", "fs::set_permissions"], "pages of the manual, where they were asked for"),
    ("demo.rs", &["fs::create_dir", "Connection::open"], "the app's side, in a place of its own"),
    ("remote/tests/folders.rs", &CALLS_OF_ITS_TESTS, "tests, in folders of their own"),
    ("journal/tests/folder.rs", &CALLS_ON_ITS_FILES, "tests, in folders of their own"),
    ("journal/tests/model.rs", &["fs::remove_"], "tests, in folders of their own"),
];
const CALLS_ON_ITS_FILES: [&str; 4] = ["OpenOptions", "fs::read(", "fs::write(", "fs::remove_"];
const CALLS_OF_ITS_TESTS: [&str; 5] =
    ["fs::read(", "fs::read_to_string", "fs::write(", "fs::remove_", "fs::create_dir"];
const CALLS_OF_DISK: [&str; 6] =
    ["File::open", "OpenOptions", "fs::rename", "fs::remove_", "fs::hard_link", "fs::create_dir"];

#[test]
fn file_calls_are_in_few_places() {
    let mut found = Vec::new();
    for (file, text) in sources() {
        let allowed = ALLOWED.iter().find(|(name, ..)| *name == file).map_or(&[][..], |(_, calls, _)| calls);
        for call in CALLS.iter().filter(|call| !allowed.contains(call)) {
            if bare(&text).contains(call) {
                found.push(format!("{file}: {call}"));
            }
        }
    }
    assert!(found.is_empty(), "file calls outside the places known for them: {found:?}");
}

/// What the program asked of the system about the live files: the call, the file's name, the flags.
fn traced(place: &Place, args: &[&str]) -> Vec<(String, String, String)> {
    let trace = place.path("trace");
    let calls = "trace=openat,open,creat,unlink,unlinkat,rename,renameat,renameat2,link,linkat,truncate,chmod";
    let mut command = place.command_of("strace");
    let run = Run::of(command.args(["-f", "-e", calls, "-o"]).arg(&trace).arg(PROGRAM).args(args).output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let text = std::fs::read_to_string(&trace).unwrap();
    let live = format!("\"{}/a", place.path("").display().to_string().trim_end_matches('/'));
    let lines = text.lines().filter(|line| line.contains(&live));
    lines.map(|line| parsed(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

/// `123 openat(AT_FDCWD, "/x/auth.db", O_RDWR|O_CLOEXEC) = 3`
fn parsed(line: &str) -> Option<(String, String, String)> {
    let (call, rest) = line.split_once(' ')?.1.trim_start().split_once('(')?;
    let (path, flags) = rest.split_once('"')?.1.split_once('"')?;
    let flags = flags.trim_start_matches(", ").split_once(')')?.0;
    Some((call.to_owned(), Path::new(path).file_name()?.to_str()?.to_owned(), flags.to_owned()))
}

/// A place whose app is at work: content in the WAL, and a reader that needs it.
fn at_work() -> (Place, App) {
    let place = Place::new();
    let live = place.live("attendance");
    let mut app = App::on(&[&live, &live]);
    app.ok(0, "INSERT INTO people (name) VALUES ('Dora')");
    app.ok(1, "BEGIN");
    app.ok(1, "SELECT count(*) FROM people");
    app.ok(0, "INSERT INTO people (name) VALUES ('Emil')");
    (place, app)
}

#[test]
fn a_backup_opens_live_files_through_sqlite_only() {
    let (place, _app) = at_work();
    let mut opened = BTreeMap::new();
    for (call, file, flags) in traced(&place, &["create"]) {
        assert_eq!(call, "openat", "{file} was changed by {call}");
        // Nothing lies beside this one: it is looked at whether anybody has it open.
        if file == "auth.db" && flags.starts_with("O_RDONLY|") {
            continue;
        }
        assert!(flags.starts_with("O_RDWR|") && flags.contains("O_NOFOLLOW|O_CLOEXEC"), "{file}: {flags}");
        let beside = file.ends_with("-wal") || file.ends_with("-shm");
        assert_eq!(flags.contains("O_CREAT"), beside, "{file}: {flags}");
        *opened.entry(file).or_insert(0) += 1;
    }
    // A gate and two readers.
    assert_eq!((opened["attendance.db"], opened["auth.db"]), (3, 3), "{opened:?}");
}

/// What is opened besides SQLite to look at locks stays open: else all locks of the process would go with it.
#[test]
fn what_looks_at_the_locks_of_a_live_file_is_never_closed() {
    let place = Place::new();
    let trace = place.path("trace");
    let mut command = place.command_of("strace");
    command.args(["-f", "-e", "trace=openat,close", "-o"]).arg(&trace).args([PROGRAM, "create"]);
    assert_eq!(Run::of(command.output().unwrap()).code, 0);
    let text = std::fs::read_to_string(trace).unwrap();
    for name in ["attendance", "auth"] {
        let opened = format!("\"{}\", O_RDONLY|", place.live(name).display());
        let mut lines = text.lines().skip_while(|line| !line.contains(&opened));
        let (_, number) = lines.next().unwrap().rsplit_once(" = ").unwrap();
        let number: u32 = number.parse().unwrap();
        assert!(!lines.any(|line| line.contains(&opened) || line.contains(&format!("close({number})"))), "{text}");
    }
}

/// One reader of each, and nothing beside them is made that wasn't there.
#[test]
fn a_preview_opens_live_files_through_sqlite_only() {
    let (place, _app) = at_work();
    let backup = place.create();
    let mut opened = BTreeMap::new();
    for (call, file, flags) in traced(&place, &["preview", backup["id"].as_str().unwrap()]) {
        assert_eq!(call, "openat", "{file} was changed by {call}");
        assert!(flags.starts_with("O_RDWR|") && flags.contains("O_NOFOLLOW|O_CLOEXEC"), "{file}: {flags}");
        assert!(!file.ends_with(".db") || !flags.contains("O_CREAT"), "{file}: {flags}");
        *opened.entry(file).or_insert(0) += 1;
    }
    // Once to be compared, once to be asked whether the copy may take its place.
    assert_eq!((opened["attendance.db"], opened["auth.db"]), (2, 2), "{opened:?}");
}

/// A journal that the app keeps (PERSIST) or is about to write is not ours to open for writing, or to remove.
#[test]
fn a_backup_in_rollback_mode_leaves_the_journal_alone() {
    let place = Place::new();
    place.sql("attendance", "PRAGMA journal_mode=PERSIST; INSERT INTO people (name) VALUES ('Dora')");
    let journal = std::fs::read(place.path("attendance.db-journal")).unwrap();
    for (call, file, flags) in traced(&place, &["create"]) {
        assert_eq!(call, "openat", "{file} was changed by {call}");
        assert!(!file.ends_with("-journal") || flags.starts_with("O_RDONLY|"), "{file}: {flags}");
    }
    assert!(std::fs::read(place.path("attendance.db-journal")).unwrap() == journal);
}

#[test]
fn what_only_looks_opens_nothing_or_only_to_read() {
    let (place, _app) = at_work();
    place.create();
    let commands: [&[&str]; 5] = [&["status"], &["list"], &["verify", "--all"], &["config"], &["audit", "verify"]];
    for args in commands {
        assert_eq!(traced(&place, args), [], "{args:?}");
    }
    let looked = traced(&place, &["doctor"]);
    assert!(!looked.is_empty(), "the doctor looks at nothing");
    for (call, file, flags) in looked {
        assert!(call == "openat" && file.ends_with(".db") && flags.starts_with("O_RDONLY|"), "{call} {file} {flags}");
    }
}

#[test]
fn the_apps_wal_and_its_readers_stay_protected() {
    let (place, mut app) = at_work();
    let wal = place.path("attendance.db-wal");
    let look = || wal.metadata().map(|meta| (meta.ino(), meta.len(), meta.mtime_nsec())).unwrap();
    let before = look();
    for args in [&["create"][..], &["status"], &["doctor"], &["create"]] {
        place.ok(args);
        assert_eq!(look(), before, "{args:?} changed the WAL");
        let checkpoint = sql_on_at_once(&place, "PRAGMA wal_checkpoint(TRUNCATE)");
        assert!(checkpoint.starts_with("1|"), "{args:?}: the reader didn't hold off a checkpoint: {checkpoint}");
    }
    app.ok(0, "INSERT INTO people (name) VALUES ('Fred')");
    assert_eq!(app.ok(1, "SELECT count(*) FROM people"), "[[4]]");
    app.ok(1, "COMMIT");
    assert_eq!(app.ok(1, "SELECT count(*) FROM people"), "[[6]]");
    assert_eq!(app.ok(0, "PRAGMA integrity_check"), "[[\"ok\"]]");
}

/// A third process, which waits for nobody.
fn sql_on_at_once(place: &Place, sql: &str) -> String {
    let mut app = App::on(&[&place.live("attendance")]);
    app.sql(0, sql).trim_matches(['[', ']']).replace(", ", "|")
}

#[test]
fn a_write_lock_of_the_app_outlives_whoever_looks() {
    for mode in ["DELETE", "WAL"] {
        let mut place = Place::new();
        place.set("BACKUP_LOCK_TIMEOUT", "300ms");
        place.sql("attendance", &format!("PRAGMA journal_mode={mode}"));
        let mut app = App::on(&[&place.live("attendance")]);
        app.ok(0, "BEGIN IMMEDIATE");
        app.ok(0, "INSERT INTO people (name) VALUES ('Dora')");
        place.ok(&["doctor"]);
        place.ok(&["status"]);
        match mode {
            "WAL" => drop(place.ok(&["create"])),
            _ => place.run(&["create"]).refused(1, &["locked by another process"]),
        }
        let second = sql_on_at_once(&place, "BEGIN IMMEDIATE");
        assert_eq!(second, "error: database is locked", "{mode}");
        app.ok(0, "COMMIT");
        assert_eq!(sql_on(&place.live("attendance"), "SELECT count(*) FROM people; PRAGMA integrity_check"), "4\nok");
    }
}

/// Made by us while the app is away, they must be the app's to write.
#[test]
fn files_made_beside_a_database_have_its_mode() {
    let place = Place::new();
    for mode in [0o600, 0o664, 0o644] {
        let live = place.live("attendance");
        std::fs::set_permissions(&live, PermissionsExt::from_mode(mode)).unwrap();
        place.create();
        for ending in ["-wal", "-shm"] {
            let meta = place.path(&format!("attendance.db{ending}")).metadata().unwrap();
            assert_eq!(meta.mode() & 0o777, mode, "{ending}");
        }
        // The app comes and goes, and takes them with it.
        place.sql("attendance", "SELECT count(*) FROM people");
        assert!(!place.path("attendance.db-wal").exists());
    }
}
