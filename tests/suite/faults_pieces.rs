//! A file system that gives and takes data in pieces, and signals that come in between: nothing is different for it.

use std::process::Command;

use crate::harness::{Place, Run, sha256};
use crate::invariants::Live;
use crate::replica_scene::{PUSH, empty_machine, with_replica};
use crate::seasons::{self, DAILY, MANUAL};
use crate::stores::Store;
use crate::tried::Tried;

/// A library before the C library that does it.
struct Pieces {
    dir: tempfile::TempDir,
}

impl Pieces {
    fn new() -> Self {
        let pieces = Self { dir: tempfile::tempdir().unwrap() };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/pieces.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(pieces.library()).arg(source);
        assert!(cc.status().expect("a C compiler is needed").success());
        pieces
    }

    fn library(&self) -> std::path::PathBuf {
        self.dir.path().join("pieces.so")
    }

    /// Runs it like that, which must go well.
    fn ok(&self, place: &Place, args: &[&str]) {
        let counts = self.dir.path().join("counts");
        let mut command = place.command(args);
        command.env("LD_PRELOAD", self.library()).env("PIECES", &counts);
        let run = Run::of(command.output().unwrap());
        assert_eq!(run.code, 0, "{args:?}: {}{}", run.stdout, run.stderr);
        let text = std::fs::read_to_string(&counts).unwrap();
        let counts: Vec<usize> = text.split_whitespace().map(|count| count.parse().unwrap()).collect();
        assert!(counts.iter().all(|count| *count > 0), "{args:?}: cut and interrupted {counts:?} times");
        let operation = match args[0] {
            "catalog" => "rebuild",
            "config" => "settings",
            "replica" => args[1],
            other => other,
        };
        for fault in ["half of each read and write", "EINTR at each third"] {
            Tried::of(1, 1, 0).report(operation, fault);
        }
    }
}

/// Plain copies, and such as are compressed and encrypted.
#[test]
fn nothing_is_different() {
    let pieces = Pieces::new();
    for encoded in [false, true] {
        let mut place = seasons::of_three_months();
        place.set("BACKUP_DRILL_SCHEDULE", "off");
        if encoded {
            place.keyed();
            place.writes(true, true);
        }
        place.fill(3);
        let before = Live::of(&place);
        pieces.ok(&place, &["create", "--reason", "in pieces"]);
        let taken = place.list().into_iter().find(|backup| backup["reason"] == "in pieces").unwrap();
        assert_eq!(taken["verified"]["ok"], true);
        for args in [&["verify", "--all"][..], &["drill"], &["preview", MANUAL], &["pin", MANUAL]] {
            pieces.ok(&place, args);
        }
        let out = place.path("out");
        let id = taken["id"].as_str().unwrap();
        pieces.ok(&place, &["download", id, "--database", "attendance", "-o", out.to_str().unwrap()]);
        let recorded = &taken["databases"]["attendance"]["checksum"];
        assert_eq!(*recorded, sha256(&std::fs::read(out).unwrap()));
        place.assert_invariants(&[&before]);
        pieces.ok(&place, &["restore", DAILY, "--confirm", DAILY, "--force"]);
        pieces.ok(&place, &["undo"]);
        place.assert_invariants(&[&before]);
        pieces.ok(&place, &["config", "--set", "retention.manual=1"]);
        pieces.ok(&place, &["delete", MANUAL]);
        pieces.ok(&place, &["create", "--type", "daily"]);
        std::fs::write(place.backups().join("metadata.json"), "{").unwrap();
        pieces.ok(&place, &["catalog", "rebuild"]);
        place.assert_invariants(&[&before]);
    }
}

#[test]
fn nothing_is_different_in_a_replica() {
    let (pieces, store) = (Pieces::new(), Store::folder());
    let mut place = with_replica(&store);
    place.set("BACKUP_REPLICA_OFFSITE_MODE", "incremental");
    for megabytes in [2, 1] {
        place.sql("attendance", "DROP TABLE IF EXISTS blobs");
        place.fill(megabytes);
        place.create();
        pieces.ok(&place, &PUSH);
        store.objects.assert_complete(&place);
    }
    let machine = empty_machine(&place, &store);
    pieces.ok(&machine, &["replica", "pull", "offsite", "--all"]);
    assert_eq!(machine.ids(), place.ids());
    machine.assert_whole();
}
