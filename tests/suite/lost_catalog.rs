//! A catalog that is missing, damaged or not ours: nothing is begun, nothing is lost, and `catalog rebuild` gets
//! every backup back [P1, P9].

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Server;
use crate::faults_tried::a_create;
use crate::harness::{PROGRAM, Place, Run, eventually, python, traces, tree};
use crate::inject::Spot;
use crate::journal_live::{self, rebuilt, ticked};
use crate::scene::Scene;
use crate::seasons;

/// Every file below the backup directory that data rests on. The lock's note and the audit log go on, of course.
fn content(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let files = tree(&place.backups()).into_iter().filter(|(file, _, dir)| !dir && !file.starts_with(['.', 'a']));
    files.map(|(file, ..)| (file.clone(), std::fs::read(place.backups().join(file)).unwrap())).collect()
}

/// Three backups: one with a reason, one pinned last of all, one from before `auth` was there.
fn three() -> Place {
    let place = Place::new();
    let only = format!("attendance={}", place.live("attendance").display());
    assert!(place.command(&["create"]).env("BACKUP_DATABASES", only).output().unwrap().status.success());
    place.json(&["create", "--type", "daily", "--reason", "before the exams"]);
    let third = place.create();
    place.ok(&["pin", third["id"].as_str().unwrap()]);
    place
}

/// What of an entry must come back.
fn essence(backup: &Value) -> Value {
    let keys = ["id", "type", "timestamp", "localDate", "reason", "createdBy", "pinned", "promotedFrom", "databases"];
    keys.iter().map(|key| (key.to_string(), backup[key].clone())).collect::<serde_json::Map<_, _>>().into()
}

fn broken(good: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut catalog: Value = serde_json::from_slice(good).unwrap();
    change(&mut catalog);
    serde_json::to_vec_pretty(&catalog).unwrap()
}

/// What may be found in the catalog's place, and what is said of it. `None`: nothing is found.
fn faults(good: &[u8]) -> Vec<(Option<Vec<u8>>, &'static str)> {
    let climbing = |catalog: &mut Value| {
        catalog["backups"][0]["databases"]["attendance"]["file"] = json!("manual/../../attendance.db");
    };
    let twice = |catalog: &mut Value| {
        let first = catalog["backups"][0].clone();
        catalog["backups"].as_array_mut().unwrap().push(first);
    };
    vec![
        (None, "no catalog (metadata.json)"),
        (Some(Vec::new()), "can't be read"),
        (Some(good[..good.len() / 2].to_vec()), "can't be read"),
        (Some([&good[..40], &[0xff, 0xfe], &good[40..]].concat()), "can't be read"),
        (Some(b"[]".to_vec()), "can't be read"),
        (Some(broken(good, |it| it["backups"] = json!({}))), "can't be read"),
        (Some(broken(good, |it| it["backups"][0]["sequence"] = json!("one"))), "can't be read"),
        (Some(broken(good, |it| it["version"] = json!(-1))), "can't be read"),
        (Some(broken(good, twice)), "is there twice"),
        (Some(broken(good, climbing)), "names a file that isn't its own"),
        (Some(broken(good, |it| it["backups"][0]["id"] = json!("../../etc"))), "can't be read"),
    ]
}

#[test]
fn a_damaged_catalog_stops_everything_and_is_made_anew_from_the_files() {
    let place = three();
    let path = place.backups().join("metadata.json");
    let mut good = std::fs::read(&path).unwrap();
    let before = place.catalog();
    for (found, word) in faults(&good.clone()) {
        match &found {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        assert_stopped(&place, word);
        assert_rebuilt(&place, &before, found.as_deref(), word);
        good = std::fs::read(&path).unwrap();
    }
    assert!(!good.is_empty());
}

#[track_caller]
fn assert_stopped(place: &Place, word: &str) {
    let untouched = content(place);
    let id = "manual-2026-01-08T143005Z";
    let commands: [&[&str]; 7] = [
        &["list"],
        &["status"],
        &["create"],
        &["delete", id],
        &["pin", id],
        &["verify", "--all"],
        &["config", "--set", "retention.manual=1"],
    ];
    for args in commands {
        place.run(args).refused(1, &[word]);
        assert_eq!(content(place), untouched, "{word}: {args:?} changed something");
    }
    let doctor = place.run(&["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains(word), "{word}: {}", doctor.stdout);
}

#[track_caller]
fn assert_rebuilt(place: &Place, before: &Value, bad: Option<&[u8]>, word: &str) {
    let files = content(place);
    let rebuilt = place.json(&["catalog", "rebuild"]);
    assert_eq!(rebuilt["leftOut"], json!([]), "{word}");
    let catalog = place.catalog();
    assert_eq!(catalog["storeId"], before["storeId"], "{word}");
    let entries = |catalog: &Value| catalog["backups"].as_array().unwrap().clone();
    for (was, is) in entries(before).iter().zip(entries(&catalog)) {
        assert_eq!(essence(was), essence(&is), "{word}");
        assert!(is["flags"].as_array().unwrap().contains(&json!("recovered")), "{word}");
    }
    assert_eq!(entries(&catalog).len(), 3, "{word}");
    for (file, bytes) in files.iter().filter(|(file, _)| file.contains('/')) {
        assert!(std::fs::read(place.backups().join(file)).unwrap() == *bytes, "{word}: {file} changed");
    }
    assert_eq!(rebuilt["kept"].is_string(), bad.is_some(), "{word}");
    if let Some(bad) = bad {
        let kept = place.backups().join(rebuilt["kept"].as_str().unwrap());
        assert!(std::fs::read(kept).unwrap() == bad, "{word}: the bad catalog is not kept as it was");
    }
    place.assert_whole();
}

/// It isn't read to its end: there is not so much memory.
#[test]
fn a_catalog_that_is_larger_than_any_is_refused_and_made_anew_in_little_memory() {
    let (place, length) = (three(), 1 << 30);
    let (path, before) = (place.backups().join("metadata.json"), place.catalog());
    std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
    let files = tree(&place.backups());
    let bounded = |args: &[&str]| {
        let mut command = place.command_of("prlimit");
        Run::of(command.args(["--as=800000000", PROGRAM]).args(args).output().expect("prlimit is needed"))
    };
    for args in [
        &["list"][..],
        &["status"],
        &["create"],
        &["delete", before["backups"][0]["id"].as_str().unwrap()],
        &["verify", "--all"],
    ] {
        bounded(args).refused(1, &["can't be read", "it is larger than any catalog"]);
        assert_eq!(tree(&place.backups()), files, "{args:?} changed something");
        assert_eq!(path.metadata().unwrap().len(), length, "{args:?}");
    }
    let run = bounded(&["catalog", "rebuild", "--json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let rebuilt: Value = serde_json::from_str(&run.stdout).unwrap();
    let kept = place.backups().join(rebuilt["kept"].as_str().unwrap());
    assert_eq!(kept.metadata().unwrap().len(), length, "it is not kept as it was");
    let essences = |catalog: &Value| catalog["backups"].as_array().unwrap().iter().map(essence).collect::<Vec<_>>();
    assert_eq!(essences(&place.catalog()), essences(&before));
    place.assert_whole();
}

/// A newer program knows more of its catalog than this one could make anew.
#[test]
fn a_catalog_of_a_newer_program_is_left_to_it() {
    let place = three();
    for name in ["metadata.json", "metadata.json.previous"] {
        let place = place.twin();
        let path = place.backups().join(name);
        let newer = broken(&std::fs::read(&path).unwrap(), |it| it["version"] = json!(99));
        std::fs::write(&path, &newer).unwrap();
        if name != "metadata.json" {
            std::fs::write(place.backups().join("metadata.json"), "{").unwrap();
        }
        let untouched = content(&place);
        place.run(&["catalog", "rebuild"]).refused(1, &[name, "is of format 99", "use the program that wrote it"]);
        assert_eq!(content(&place), untouched);
        if name == "metadata.json" {
            assert_stopped(&place, "is of format 99");
        }
    }
}

#[test]
fn what_is_no_file_in_the_catalogs_place_hangs_nobody() {
    let place = three();
    let before = place.catalog();
    let path = place.backups().join("metadata.json");
    std::fs::rename(&path, place.path("elsewhere.json")).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere.json"), &path).unwrap();
    place.run(&["list"]).refused(1, &["metadata.json", "symbolic link"]);
    place.run(&["create"]).refused(1, &["metadata.json", "symbolic link"]);
    std::fs::remove_file(&path).unwrap();
    python("import os, sys; os.mkfifo(sys.argv[1], 0o600)", &[&path]);
    for args in [&["list"][..], &["status"], &["create"]] {
        let mut command = place.command_of("timeout");
        let run = Run::of(command.args(["20", PROGRAM]).args(args).output().unwrap());
        run.refused(1, &["metadata.json", "not a regular file"]);
    }
    let rebuilt = place.json(&["catalog", "rebuild"]);
    assert_eq!(rebuilt["backups"].as_array().unwrap().len(), before["backups"].as_array().unwrap().len());
    place.assert_whole();
}

#[test]
fn without_any_catalog_the_audit_log_tells_the_rest() {
    let place = three();
    let before = place.catalog();
    for name in ["metadata.json", "metadata.json.previous"] {
        std::fs::remove_file(place.backups().join(name)).unwrap();
    }
    assert_rebuilt(&place, &before, None, "no catalog at all");
}

/// The newest is what was taken last, whatever the clock said.
#[test]
fn order_is_of_numbers_and_of_time_only_where_there_is_none() {
    let place = Place::new();
    for date in ["2025-03-03", "2031-01-01", "2025-03-05", "2025-03-06", "2025-03-07"] {
        seasons::then(&place, date, "daily");
    }
    let before = place.catalog();
    let ids = place.ids();
    assert_eq!(ids[3], "daily-2031-01-01");
    let names = ["metadata.json", "metadata.json.previous"];
    // The catalog that is there knows the order, and so does the audit log.
    for lost in [&names[..0], &names[..]] {
        for name in lost {
            std::fs::remove_file(place.backups().join(name)).unwrap();
        }
        let rebuilt = place.json(&["catalog", "rebuild"]);
        assert_eq!(place.ids(), ids, "without {lost:?}");
        let last = |catalog: &Value| catalog["lastSequence"].as_u64().unwrap();
        assert_eq!(rebuilt["backups"][0]["id"], "daily-2025-03-07");
        assert!(rebuilt["backups"][4]["sequence"].as_u64().unwrap() > last(&before));
        assert_eq!(last(&place.catalog()), rebuilt["backups"][0]["sequence"]);
    }
    // One of which nobody knows more than its files: it comes between its days.
    let log = place.backups().join("audit.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let others: Vec<_> = text.lines().filter(|line| !line.contains("daily-2025-03-06")).collect();
    std::fs::write(&log, others.join("\n") + "\n").unwrap();
    std::fs::remove_file(place.backups().join(names[0])).unwrap();
    let shown = ["attendance", "auth"].map(|name| place.backups().join(format!("daily/{name}-2025-03-06.db")));
    for file in &shown {
        assert!(Command::new("touch").args(["-d", "2025-03-06T03:00Z"]).arg(file).status().unwrap().success());
    }
    place.ok(&["catalog", "rebuild"]);
    assert_eq!(place.ids(), ids);
}

/// Numbers don't begin anew when no backup is left.
#[test]
fn a_rebuild_of_nothing_gives_no_number_twice() {
    let place = three();
    let last = place.catalog()["lastSequence"].as_u64().unwrap();
    for folder in ["daily", "manual"] {
        std::fs::remove_dir_all(place.backups().join(folder)).unwrap();
    }
    place.ok(&["catalog", "rebuild"]);
    assert!(place.create()["sequence"].as_u64().unwrap() > last);
}

/// What a changed retention promoted is known by its origin, even if the program was ended before it could say so.
#[test]
fn a_promotion_by_a_changed_retention_is_traced() {
    let place = seasons::of_four_days();
    let change = ["config", "--set", "retention.daily=1"];
    let audit = || Spot { call: "write", path: Some("audit.jsonl".to_owned()) };
    let whole = place.twin();
    whole.ok(&change);
    let after = whole.catalog();
    let promoted = after["backups"].as_array().unwrap().iter().filter(|it| !it["promotedFrom"].is_null()).count();
    assert_eq!(promoted, 2);
    // At the rotation's outcome, and at that of the change.
    for n in [None, Some(3), Some(4)] {
        let place = place.twin();
        match n {
            Some(n) => assert!(place.killed(&audit(), n, &change)),
            None => drop(place.ok(&change)),
        }
        for name in ["metadata.json", "metadata.json.previous"] {
            std::fs::remove_file(place.backups().join(name)).unwrap();
        }
        place.ok(&["catalog", "rebuild"]);
        let order =
            |catalog: &Value| -> Vec<_> { catalog["backups"].as_array().unwrap().iter().map(essence).collect() };
        assert_eq!(order(&place.catalog()), order(&after), "{n:?}");
        place.assert_whole();
    }
}

#[test]
fn suspicion_outlives_the_catalog() {
    let place = Place::new();
    place.create();
    place.sql("attendance", "DROP TABLE people");
    let shrunk = place.create();
    for name in ["metadata.json", "metadata.json.previous"] {
        std::fs::remove_file(place.backups().join(name)).unwrap();
    }
    place.ok(&["catalog", "rebuild"]);
    let newest = &place.list()[0];
    assert_eq!((&newest["id"], &newest["findings"]), (&shrunk["id"], &shrunk["findings"]));
    assert_eq!(newest["flags"], json!(["shrunk", "recovered"]));
    assert!(place.warnings().contains(&"rotation-frozen".to_owned()));
}

#[test]
fn a_rebuild_takes_in_nothing_that_is_damaged() {
    let place = three();
    let ids = place.ids();
    let file = place.copy(&place.list()[0], "auth");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    std::fs::remove_file(place.backups().join("metadata.json")).unwrap();
    let rebuilt = place.json(&["catalog", "rebuild"]);
    assert!(rebuilt["leftOut"].to_string().contains(&ids[0]), "{rebuilt}");
    assert_eq!(place.ids(), ids[1..]);
    assert!(std::fs::read(&file).unwrap() == bytes, "what was left out was touched");
    place.assert_whole();
}

/// That a file can't be opened for want of descriptors says nothing of the backup.
#[test]
fn a_rebuild_leaves_nothing_out_for_want_of_descriptors() {
    let place = three();
    let ids = place.ids();
    let file = place.list()[0]["databases"]["auth"]["file"].as_str().unwrap().to_owned();
    std::fs::remove_file(place.backups().join("metadata.json")).unwrap();
    let spot = Spot::on("openat", &file);
    let run = Run::of(place.faulty(&spot, "error=EMFILE:when=1", &["catalog", "rebuild"]).output().unwrap());
    run.refused(1, &["Too many open files", &file]);
    assert!(!place.backups().join("metadata.json").exists());
    place.ok(&["catalog", "rebuild"]);
    assert_eq!(place.ids(), ids);
    place.assert_whole();
}

#[test]
fn another_store_and_an_empty_place_are_refused() {
    let mut place = three();
    let id = place.json(&["status"])["storeId"].as_str().unwrap().to_owned();
    place.set("BACKUP_STORE_ID", &id).create();
    let untouched = content(&place);
    place.set("BACKUP_STORE_ID", "another");
    for args in [&["create"][..], &["status"], &["delete", "manual-2026-01-08T143005Z"], &["catalog", "rebuild"]] {
        place.run(args).refused(1, &[&id, "another was expected", "another volume"]);
        assert_eq!(content(&place), untouched, "{args:?}");
    }
    place.set("BACKUP_STORE_ID", &id);
    std::fs::rename(place.backups(), place.path("away")).unwrap();
    std::fs::create_dir(place.backups()).unwrap();
    for args in [&["create"][..], &["catalog", "rebuild"]] {
        place.run(args).refused(1, &["is empty", &id, "is its volume mounted?"]);
        assert_eq!(tree(&place.backups()), [], "{args:?} made something");
    }
    std::fs::remove_dir(place.backups()).unwrap();
    place.run(&["create"]).refused(1, &["is its volume mounted?"]);
    assert!(!place.backups().exists());
}

/// The same under a `serve` that runs: told of no store, it knows the one that it has met.
#[test]
fn what_takes_the_place_of_the_directory_under_a_running_serve_is_left_alone() {
    let (place, foreign) = (Place::new(), Place::new());
    place.create();
    foreign.create();
    let server = Server::start(&place);
    let create = || server.post("/api/backup/create");
    assert_eq!(create().status, 201);
    let (before, away) = (traces(&place.backups()), place.path("away"));
    std::fs::rename(place.backups(), &away).unwrap();

    std::fs::create_dir(place.backups()).unwrap();
    let detail = create().problem(503, "another-store");
    assert!(detail.contains("is empty") && detail.contains("is its volume mounted?"), "{detail}");
    server.get("/api/backup/list").problem(503, "another-store");
    eventually("it is not ready", || (server.request("GET", "/readyz").send().status == 503).then_some(()));
    assert_eq!(tree(&place.backups()), [], "something was made");
    std::fs::remove_dir(place.backups()).unwrap();

    std::fs::rename(foreign.backups(), place.backups()).unwrap();
    let theirs = traces(&place.backups());
    let detail = create().problem(503, "another-store");
    assert!(detail.contains("is another volume mounted there?"), "{detail}");
    assert_eq!(traces(&place.backups()), theirs, "what is somebody else's was touched");
    std::fs::rename(place.backups(), foreign.backups()).unwrap();

    std::fs::rename(&away, place.backups()).unwrap();
    assert_eq!(traces(&place.backups()), before);
    assert_eq!(create().status, 201);
    server.stop();
    assert_eq!(place.ids().len(), 3);
    place.assert_whole();
}

/// The same of the journal, which goes on by itself: whatever takes its place is neither thinned out nor added to.
#[test]
fn what_takes_the_place_of_the_journal_is_left_alone() {
    let [place, foreign] = [(), ()].map(|()| journal_live::place("100ms"));
    for place in [&place, &foreign] {
        place.create();
        let server = Server::start(place);
        ticked(place);
        server.stop();
    }
    let server = Server::start(&place);
    ticked(&place);
    let away = place.path("away");
    std::fs::rename(place.backups(), &away).unwrap();
    std::fs::rename(foreign.backups(), place.backups()).unwrap();
    let theirs = traces(&place.backups());
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Dora')");
    // A score of ticks.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(traces(&place.backups()), theirs, "what is somebody else's was touched");
    std::fs::rename(place.backups(), foreign.backups()).unwrap();
    std::fs::rename(&away, place.backups()).unwrap();
    place.sql("attendance", "INSERT INTO people (name) VALUES ('Emil')");
    let at = ticked(&place);
    server.stop();
    assert!(rebuilt(&place, "attendance", at).windows(4).any(|bytes| bytes == b"Emil"));
    place.assert_whole();
    foreign.assert_whole();
}

/// The first backup of all, and nobody has looked at anything since: the store is met all the same, and the log says what was refused.
#[test]
fn a_store_that_serve_has_begun_itself_is_the_one_that_it_goes_on_with() {
    let (place, foreign) = (Place::new(), Place::new());
    foreign.create();
    let server = Server::start(&place);
    let create = || server.post("/api/backup/create");
    assert_eq!(create().status, 201);
    std::fs::rename(place.backups(), place.path("away")).unwrap();
    std::fs::rename(foreign.backups(), place.backups()).unwrap();
    let theirs = traces(&place.backups());
    create().problem(503, "another-store");
    assert_eq!(traces(&place.backups()), theirs, "what is somebody else's was touched");
    let log = server.stop();
    assert!(log.contains("is another volume mounted there?"), "{log}");
}

/// Each as whoever can write to the file would do it, and each is named by the line where it shows first: a changed one by
/// the one after it.
#[test]
fn the_first_line_of_the_audit_log_that_is_not_as_it_was_is_named() {
    let place = three();
    let log = place.backups().join("audit.jsonl");
    let whole = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<String> = whole.lines().map(str::to_owned).collect();
    assert!(lines.len() > 6, "{whole}");
    type Deed = fn(&mut Vec<String>);
    let deeds: [(&str, Deed, u64, &str); 6] = [
        (
            "edited",
            |lines| lines[3] = lines[3].replace("\"by\":\"", "\"by\":\"x"),
            5,
            "was changed after it was written",
        ),
        ("swapped", |lines| lines.swap(3, 4), 4, "missing, doubled or moved"),
        ("removed", |lines| drop(lines.remove(3)), 4, "missing, doubled or moved"),
        ("doubled", |lines| lines.insert(4, lines[3].clone()), 5, "missing, doubled or moved"),
        ("blotted", |lines| lines[3] = "x".repeat(lines[3].len()), 4, "is not a line of the log"),
        ("the first removed", |lines| drop(lines.remove(0)), 1, "missing, doubled or moved"),
    ];
    for (what, deed, line, words) in deeds {
        let mut changed = lines.clone();
        deed(&mut changed);
        assert_ne!(changed, lines, "{what}");
        std::fs::write(&log, changed.join("\n") + "\n").unwrap();
        let named = format!("not whole at line {line} (seq {line})");
        place.run(&["audit", "verify"]).refused(1, &[&named, words]);
    }
    std::fs::write(&log, whole).unwrap();
    place.ok(&["audit", "verify"]);
    place.assert_whole();
}

/// A log that has lost its end, or all of it, is broken until it is put back, whatever comes after.
#[test]
fn an_audit_log_that_was_cut_off_is_not_made_whole_by_what_comes_after() {
    let place = three();
    let log = place.backups().join("audit.jsonl");
    let whole = std::fs::read_to_string(&log).unwrap();
    let mut lines: Vec<_> = whole.lines().collect();
    lines.truncate(4);
    for left in [Some(lines.join("\n") + "\n"), None] {
        let place = place.twin();
        let log = place.backups().join("audit.jsonl");
        match &left {
            Some(text) => std::fs::write(&log, text).unwrap(),
            None => std::fs::remove_file(&log).unwrap(),
        }
        let later: [&[&str]; 5] = [&["create"], &["create"], &["create"], &["create"], &["catalog", "rebuild"]];
        for args in later {
            assert!(place.warnings().contains(&"audit-broken".to_owned()), "{left:?}, before {args:?}");
            place.ok(args);
            place.run(&["audit", "verify"]).refused(1, &["the audit log is not whole"]);
        }
        assert_eq!(place.ids().len(), 7);
        // A pin that is cut short is told as it was, without the help of the anchor.
        let newest = place.ids()[0].clone();
        for (call, path, done) in [("rename", None, false), ("write", Some("audit.jsonl".to_owned()), true)] {
            let place = place.twin();
            assert!(place.killed(&Spot { call, path }, 2, &["pin", &newest]));
            place.create();
            let outcome =
                place.audit().into_iter().rfind(|line| line["kind"] == "outcome" && line["operation"] == "pin");
            let pinned = place.list().iter().any(|it| it["id"] == newest.as_str() && it["pinned"] == true);
            assert_eq!((outcome.unwrap()["ok"] == true, pinned), (done, done), "{call}");
        }
    }
    assert!(!place.warnings().contains(&"audit-broken".to_owned()));
    place.ok(&["audit", "verify"]);
}

/// Where no copy of it is left somebody says so, which is recorded; what is cut off after that shows again.
#[test]
fn an_audit_log_that_is_lost_for_good_is_taken_as_it_is() {
    let place = three();
    place.run(&["audit", "accept"]).refused(1, &["lacks nothing"]);
    let log = place.backups().join("audit.jsonl");
    std::fs::remove_file(&log).unwrap();
    place.create();
    assert!(place.warnings().contains(&"audit-broken".to_owned()));
    // One that is cut short has said it, or not.
    for (call, accepted) in [("rename", false), ("write", true)] {
        let place = place.twin();
        let path = (call == "write").then(|| "audit.jsonl".to_owned());
        assert!(place.killed(&Spot { call, path }, if accepted { 2 } else { 1 }, &["audit", "accept"]));
        place.create();
        assert_eq!(!place.warnings().contains(&"audit-broken".to_owned()), accepted, "{call}");
        let outcome = place.audit().into_iter().rfind(|line| line["kind"] == "outcome" && line["operation"] == "audit");
        assert_eq!(outcome.unwrap()["ok"], accepted, "{call}");
    }
    assert!(place.ok(&["audit", "accept"]).stdout.contains("counts as whole"));
    assert!(!place.warnings().contains(&"audit-broken".to_owned()));
    place.ok(&["audit", "verify"]);
    place.create();
    place.assert_whole();
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.lines().take(3).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert!(place.warnings().contains(&"audit-broken".to_owned()));
}

/// A link in its place, say of somebody who ships logs elsewhere: backups and rehearsals go on, and nothing else does.
#[test]
fn an_audit_log_that_can_not_be_read_keeps_no_backup_away() {
    let place = three();
    let id = &place.ids()[0];
    // Of this one the files have their names, and no catalog names them.
    assert!(place.killed(&Spot::on("rename", ".metadata.json.partial"), 1, &["create"]));
    let unmanaged = place.json(&["status"])["unmanaged"].as_array().unwrap().len();
    let (log, shipped) = (place.backups().join("audit.jsonl"), place.path("shipped.jsonl"));
    std::fs::rename(&log, &shipped).unwrap();
    std::os::unix::fs::symlink(&shipped, &log).unwrap();
    let run = place.ok(&["create"]);
    assert!(run.stderr.contains("going on without a look at the audit log"), "{}", run.stderr);
    assert_eq!(place.ids().len(), 4);
    place.ok(&["drill"]);
    let refused: [&[&str]; 5] = [
        &["delete", id],
        &["unpin", id],
        &["config", "--set", "retention.daily=3"],
        &["restore", id, "--confirm", id],
        &["catalog", "rebuild"],
    ];
    for args in refused {
        place.run(args).refused(1, &["audit log", "symbolic link"]);
    }
    std::fs::remove_file(&log).unwrap();
    std::fs::rename(&shipped, &log).unwrap();
    // What was left then is put right now.
    place.ok(&["unpin", id]);
    assert_eq!((unmanaged, &place.json(&["status"])["unmanaged"]), (2, &json!([])));
    assert_eq!(place.ids().len(), 4);
    place.assert_whole();
}

/// What was cut short has its outcome before anybody who comes later has a line, however long the log can't be read or written meanwhile.
#[test]
fn an_audit_log_that_can_not_be_read_for_a_while_tells_each_end() {
    let scene = a_create();
    // Before any file has its name: the next backup of the day gets the same id. Before the catalog. After it.
    let removal = Spot::on("unlink", "monthly/attendance-2025-01.db");
    for (spot, n, done) in
        [(Spot::anywhere("linkat"), 1, false), (Spot::anywhere("linkat"), 3, false), (removal, 1, true)]
    {
        let crashed = scene.place.twin();
        assert!(crashed.killed(&spot, n, &scene.args) && (scene.done)(&crashed) == done, "{spot} {n}");
        // The last are more than a backup reads of it.
        let reads = (1..=8).map(|n| ("read", format!("error=EIO:when=1..{n}")));
        for (call, effect) in reads.chain([("write", "error=EIO".to_owned())]) {
            let place = crashed.twin();
            let run = place.faulty(&Spot::on(call, "audit.jsonl"), &effect, &scene.args).output().unwrap();
            let run = Run::of(run);
            let said = run.stderr.contains("going on without a look at the audit log");
            assert!(run.code == 0 && said == (call == "read"), "{}", run.stderr);
            let owes = run.stderr.contains("going on without an audit line");
            assert!(owes || call == "read" && !effect.ends_with('8'), "{}", run.stderr);
            assert!((scene.done)(&place), "it is no backup");
            place.create();
            assert_eq!(scene.outcome(&place), Some(done), "{spot} {n}, {call} {effect}");
            assert_eq!(place.json(&["status"])["unmanaged"], json!([]));
            assert!(place.catalog()["unrecorded"].is_null());
            place.assert_whole();
        }
    }
}

/// A rotation without a line drops what a deletion was to, and a pin was on.
#[test]
fn what_went_while_nothing_could_be_recorded_was_not_deleted() {
    let commit = Spot::on("rename", ".metadata.json.partial");
    let after = Spot::on("write", "audit.jsonl");
    for (args, spot, n, done) in
        [(&["delete", seasons::MONTHLY], &commit, 1, false), (&["unpin", seasons::MONTHLY], &after, 2, true)]
    {
        let place = seasons::of_three_months();
        if args[0] == "unpin" {
            place.ok(&["pin", seasons::MONTHLY]);
        }
        let scene = Scene::of(place, args, args[0], |_| false);
        assert!(scene.place.killed(spot, n, args), "{args:?}");
        let mut create = scene.place.faulty(&after, "error=EIO", &["create", "--type", "daily"]);
        assert!(create.output().unwrap().status.success());
        assert!(!scene.place.ids().contains(&seasons::MONTHLY.to_owned()), "it is still there");
        scene.place.create();
        assert_eq!(scene.outcome(&scene.place), Some(done), "{args:?}");
    }
}

/// Lines that come late count as those that came in time.
#[test]
fn a_line_that_was_owed_tells_what_was_done() {
    let log = Spot::on("write", "audit.jsonl");
    // The intent is written after the backup was made, and the outcome isn't.
    let scene = a_create();
    let mut create = scene.place.faulty(&log, "error=EIO:when=1+2", &scene.args);
    assert!(create.output().unwrap().status.success());
    assert_eq!(scene.place.audit().last().unwrap()["kind"], "intent");
    scene.place.create();
    assert_eq!(scene.outcome(&scene.place), Some(true));
    // The rotation that a recovery makes has its intent, and no outcome; then a backup is made without any line.
    let args = ["config", "--set", "retention.daily=1"];
    let scene = Scene::of(seasons::of_four_days(), &args, "settings", |_| true);
    assert!(scene.place.killed(&log, 2, &args));
    let mut create = scene.place.faulty(&log, "error=EIO:when=2+", &["create"]);
    assert!(create.output().unwrap().status.success());
    let last = scene.place.audit().pop().unwrap();
    assert_eq!((&last["kind"], &last["operation"]), (&json!("intent"), &json!("rotate")));
    scene.place.create();
    assert_eq!(scene.outcome(&scene.place), Some(true));
    let is_of_rotation = |line: &Value| line["kind"] == "outcome" && line["operation"] == "rotate";
    assert_eq!(scene.place.audit().into_iter().rfind(is_of_rotation).unwrap()["ok"], true);
}
