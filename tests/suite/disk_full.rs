//! A full disk, for real and by injection, and a disk that fails: said clearly, nothing half kept, nothing older lost
//! [P1, P4, P5, P10].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use crate::harness::{Place, Run, thoroughness, untimed};
use crate::inject::{Spot, spots};
use crate::invariants::Live;
use crate::seasons::{self, DAILY, MONTHLY};
use crate::tried::Tried;

/// A disk of its own for the backups, as small as is said.
pub struct SmallDisk {
    pub place: Place,
}

impl SmallDisk {
    /// Mounts made by a test vanish with it: it runs once more in a namespace of its own. Nothing is returned to the
    /// outer run, which has seen the inner one succeed.
    pub fn of(test: &str, options: &str) -> Option<Self> {
        if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
            run_in_namespace(test);
            return None;
        }
        let place = seasons::of_three_months();
        let aside = place.path("aside");
        std::fs::rename(place.backups(), &aside).unwrap();
        std::fs::create_dir(place.backups()).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place.backups()).status();
        assert!(mounted.unwrap().success());
        let copied = Command::new("cp").arg("-a").arg(aside.join(".")).arg(place.backups()).status();
        assert!(copied.unwrap().success());
        Some(Self { place })
    }

    /// Something else takes all that is left.
    pub fn fill(&self) {
        let mut filler = std::fs::File::create(self.place.path("backups/filler")).unwrap();
        let full = std::io::copy(&mut std::io::repeat(0).take(1 << 30), &mut filler).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        while filler.write_all(&[0]).is_ok() {}
        std::fs::set_permissions(
            self.place.path("backups/filler"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.place.path("backups/filler")).unwrap();
    }
}

/// Runs a test once more where mounts of its own vanish with it.
pub fn run_in_namespace(test: &str) -> String {
    let root = std::fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t0");
    let mut command = Command::new("unshare");
    command.args(if root { &["--mount"][..] } else { &["--mount", "--map-root-user"] });
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = command.env("IN_OWN_NAMESPACE", "1").output().expect("unshare is needed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "there is no test {test}: {said}");
    said.into_owned()
}

pub fn mount(args: &[&str], at: &Path) {
    let status = Command::new("mount").args(args).arg(at).status().unwrap();
    assert!(status.success(), "mount {args:?} {}", at.display());
}

/// The last outcome, which must have failed for want of room.
fn assert_recorded_as_full(place: &Place) {
    let lines = place.audit();
    let last = lines.iter().rfind(|line| line["kind"] == "outcome").unwrap();
    assert_eq!(
        (&last["operation"], &last["ok"], &last["code"]),
        (&"create".into(), &false.into(), &"disk-full".into())
    );
}

#[test]
fn a_full_disk_is_said_with_sizes_and_costs_no_older_backup() {
    let test = "disk_full::a_full_disk_is_said_with_sizes_and_costs_no_older_backup";
    let Some(disk) = SmallDisk::of(test, "size=4m,mode=0700") else { return };
    let before = disk.place.list();
    disk.fill();
    for args in [["create", "--type", "daily"], ["create", "--type", "manual"]] {
        // What is free is nothing, or the audit log's reserve where its lines have needed that.
        disk.place.run(&args).refused(1, &["full", "1.07 MB are needed", "B are free", "make room"]);
        assert_recorded_as_full(&disk.place);
        assert_eq!(disk.place.list(), before);
        disk.place.assert_whole();
    }
    disk.empty();
    disk.place.ok(&["create", "--type", "daily"]);
    disk.place.assert_whole();
    assert_eq!(disk.place.list().len(), before.len());
}

/// What went to make room, and what got another name by it, is told although there was not enough after it.
#[test]
fn a_rotation_that_made_too_little_room_is_recorded() {
    let test = "disk_full::a_rotation_that_made_too_little_room_is_recorded";
    let Some(mut disk) = SmallDisk::of(test, "size=4m,mode=0700") else { return };
    disk.place.set("BACKUP_RETENTION_WEEKLY", "0");
    disk.fill();
    disk.place.run(&["create"]).refused(1, &["full", "make room"]);
    assert_recorded_as_full(&disk.place);
    let lines = disk.place.audit();
    let told: Vec<_> = lines[lines.len() - 4..].iter().map(|line| (&line["kind"], &line["operation"])).collect();
    let [intent, outcome, create, rotate] = ["intent", "outcome", "create", "rotate"].map(|word| word.into());
    assert_eq!(told, [(&intent, &create), (&intent, &rotate), (&outcome, &rotate), (&outcome, &create)]);
    let (planned, done) = (&lines[lines.len() - 3], &lines[lines.len() - 2]);
    assert_eq!((&done["ok"], &untimed(&done["details"])), (&true.into(), &planned["details"]));
    let steps = done["details"]["rotation"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["step"] == "promote" && step["to"] == "monthly-2025-02"), "{steps:?}");
    assert!(steps.iter().any(|step| step["step"] == "drop" && step["id"] == MONTHLY), "{steps:?}");
    disk.empty();
    disk.place.assert_whole();

    let promoted = |place: &Place| place.list().into_iter().find(|it| it["id"] == "monthly-2025-02").unwrap();
    let before = promoted(&disk.place);
    for name in ["metadata.json", "metadata.json.previous"] {
        std::fs::remove_file(disk.place.path("backups").join(name)).unwrap();
    }
    disk.place.ok(&["catalog", "rebuild"]);
    for key in ["timestamp", "localDate", "createdBy", "promotedFrom", "databases"] {
        assert_eq!(promoted(&disk.place)[key], before[key], "{key}");
    }
}

/// The rotation within a create is ended with it, before or after its catalog: both get their outcome, each its own.
#[test]
fn a_create_that_was_ended_while_it_made_room_is_recorded() {
    let test = "disk_full::a_create_that_was_ended_while_it_made_room_is_recorded";
    let Some(mut disk) = SmallDisk::of(test, "size=4m,mode=0700") else { return };
    disk.place.set("BACKUP_RETENTION_WEEKLY", "0");
    disk.fill();
    let removal = Spot { call: "unlink", path: Some("monthly/attendance-2025-01.db".to_owned()) };
    for spot in [Spot { call: "linkat", path: None }, removal] {
        assert!(disk.place.killed(&spot, 1, &["create"]), "{spot}");
    }
    disk.empty();
    disk.place.ok(&["create"]);
    disk.place.assert_whole();
    let lines = disk.place.audit();
    let closed = lines.iter().filter(|line| line["code"] == "interrupted");
    let closed: Vec<_> = closed.map(|line| (line["operation"].as_str().unwrap(), line["ok"] == true)).collect();
    assert_eq!(closed, [("rotate", false), ("create", false), ("rotate", true), ("create", false)]);
    for operation in ["create", "rotate"] {
        let count = |kind: &str| lines.iter().filter(|it| it["kind"] == kind && it["operation"] == operation).count();
        assert_eq!(count("intent"), count("outcome"), "{operation}");
    }
}

/// Enough room by the preflight, but not for long: the file system counts inodes too.
#[test]
fn a_disk_without_inodes_is_full_as_well() {
    let test = "disk_full::a_disk_without_inodes_is_full_as_well";
    let Some(disk) = SmallDisk::of(test, "size=8m,mode=0700,nr_inodes=40") else { return };
    let before = disk.place.list();
    let inodes = disk.place.path("backups/inodes");
    std::fs::create_dir(&inodes).unwrap();
    let mut count = 0;
    while std::fs::File::create(inodes.join(count.to_string())).is_ok() {
        count += 1;
    }
    disk.place.run(&["create"]).refused(1, &["the disk is full", "inodes"]);
    assert_recorded_as_full(&disk.place);
    assert_eq!(disk.place.list(), before);
    std::fs::remove_dir_all(&inodes).unwrap();
    disk.place.ok(&["create"]);
    disk.place.assert_whole();
}

#[test]
fn a_deletion_makes_room_on_a_disk_that_is_full_to_the_last_byte() {
    let test = "disk_full::a_deletion_makes_room_on_a_disk_that_is_full_to_the_last_byte";
    let Some(mut disk) = SmallDisk::of(test, "size=4m,mode=0700") else { return };
    disk.place.set("BACKUP_RETENTION_MANUAL", "50");
    for _ in 0..30 {
        disk.place.create();
    }
    let (catalog, previous) =
        ["metadata.json", "metadata.json.previous"].map(|name| disk.place.backups().join(name)).into();
    for round in 0..3 {
        // As a crash may leave it: nothing is gained when the one before gives way to the next.
        std::fs::remove_file(&previous).unwrap();
        std::fs::hard_link(&catalog, &previous).unwrap();
        disk.fill();
        let oldest = disk.place.ids().into_iter().rfind(|id| id.starts_with("manual")).unwrap();
        disk.place.ok(&["delete", &oldest]);
        assert!(!disk.place.ids().contains(&oldest), "round {round}");
        disk.place.assert_whole();
        disk.empty();
        // Whoever comes next sets the reserve aside again.
        disk.place.ok(&["pin", MONTHLY]);
    }
}

/// Every kind of call fails, once or from then on, for want of room or because the disk is broken.
#[test]
fn faults_in_every_call_of_a_create_leave_the_old_or_the_new() {
    let place = seasons::of_three_months();
    let live = Live::of(&place);
    let stride = if thoroughness() >= 2 { 1 } else { 14 };
    let mut tallies: BTreeMap<String, Tried> = BTreeMap::new();
    for (offset, spot) in spots(&seasons::partials_of_today(&place)).into_iter().enumerate() {
        for (turn, (error, ever)) in
            [("ENOSPC", ""), ("EIO", ""), ("ENOSPC", "+"), ("EIO", "+")].into_iter().enumerate()
        {
            let tally = tallies.entry(format!("{error}{ever}")).or_default();
            let mut n = 1 + (offset + turn) % stride;
            while let Some((new, refused)) = strike(&place, &live, &spot, &format!("error={error}:when={n}{ever}")) {
                tally.count(new, refused);
                n += stride;
            }
        }
    }
    println!("a create that rotates, with an error at a call (+: and ever after): tried, succeeded, failed");
    for (kind, tried) in tallies {
        let Tried { points, refused, .. } = tried;
        println!("  {kind:<8} {points:>5} {:>5} {refused:>5}", points - refused);
        assert!(refused > 0, "{kind} never mattered");
        tried.report_error("create", &kind);
    }
}

/// One faulty create in a twin, and what must hold after it: whether it was done, and whether it was said to have failed. Nothing
/// when it made too few calls for the fault.
fn strike(place: &Place, live: &Live, spot: &Spot, effect: &str) -> Option<(bool, bool)> {
    let place = place.twin();
    let log = place.path("strace");
    let run = Run::of(place.faulty_into(&log, spot, effect, &["create", "--type", "daily"]).output().unwrap());
    let calls = std::fs::read_to_string(&log).unwrap();
    if !calls.contains("(INJECTED)") {
        return None;
    }
    assert!(run.code == 0 || run.code == 1, "{effect} at {spot}: exit code {}, {}", run.code, run.stderr);
    assert!(!run.stderr.contains("panicked"), "{effect} at {spot}: {}", run.stderr);
    assert_no_sync_after_failure(&calls);
    assert_catalog_is_true(&place);
    let ids = place.ids();
    let done = ids.iter().any(|id| id.starts_with("daily-") && id != DAILY);
    assert!(done || run.code != 0, "it says that it is done");
    // It rotates, or says that a promotion fails; then all are there.
    let rotates = !ids.contains(&MONTHLY.to_owned());
    let refuses = run.stderr.contains("nothing is promoted or dropped");
    assert!(
        rotates == (done && !refuses) && (rotates || ids.contains(&DAILY.to_owned())),
        "{effect} at {spot}: {ids:?}"
    );
    // What can't be removed on a broken disk is the next operation's.
    place.ok(&["create"]);
    place.assert_invariants(&[live]);
    Some((done, run.code != 0))
}

/// Entries that stand are whole, whatever else lies about.
fn assert_catalog_is_true(place: &Place) {
    for backup in place.list() {
        for copy in backup["databases"].as_object().unwrap().values() {
            let bytes = std::fs::read(place.backups().join(copy["file"].as_str().unwrap())).unwrap();
            assert_eq!(crate::harness::sha256(&bytes), copy["storedChecksum"].as_str().unwrap());
        }
    }
}

/// What is marked goes, sooner or later, and the audit log says when.
#[test]
fn faults_in_the_removals_of_a_deletion_only_put_it_off() {
    let place = seasons::of_three_months();
    for name in ["attendance", "auth"] {
        let place = place.twin();
        let removal = Spot { call: "unlink", path: Some(format!("monthly/{name}-2025-01.db")) };
        let run = Run::of(place.faulty(&removal, "error=EIO", &["delete", MONTHLY]).output().unwrap());
        run.refused(1, &["cannot remove", "Input/output error"]);
        assert!(!place.ids().contains(&MONTHLY.to_owned()));
        place.create();
        place.assert_whole();
        let lines = place.audit();
        let finished = lines.iter().find(|line| line["operation"] == "recovery").unwrap();
        assert_eq!(finished["details"]["deleted"], serde_json::json!([MONTHLY]));
    }
}

/// After a failed fsync nobody knows what the kernel still has of a file: it is never synced again. (Of the audit log the
/// failed line is cut off; folders hold no data.)
fn assert_no_sync_after_failure(calls: &str) {
    let mut failed: BTreeSet<&str> = BTreeSet::new();
    for line in calls.lines().filter(|line| line.contains("sync(")) {
        let file = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
        let is_new_file = file.ends_with(".partial");
        assert!(!is_new_file || !failed.contains(file), "{file} was synced again:\n{calls}");
        if line.contains("EIO") {
            failed.insert(file);
        }
    }
}
