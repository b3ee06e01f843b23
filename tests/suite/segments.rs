//! What an incremental replica holds, read by others: the segments of a database laid out as litestream wants them, and restored
//! by it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::forms::{IDENTITY, decode};
use crate::harness::Place;
use crate::objects::{Objects, key_of};

/// The segments that make up a database, the first first: whose, and what the catalog says of it.
pub fn chain(objects: &Objects, held: &Value, name: &str) -> Vec<(Value, Value)> {
    let all = [objects.held(), objects.remnants()].concat();
    let (mut chain, mut now) = (Vec::new(), held.clone());
    loop {
        let database = now["databases"][name].clone();
        let base = database["ltx"]["base"].clone();
        chain.push((now.clone(), database));
        if base.is_null() {
            chain.reverse();
            return chain;
        }
        let is_base = |it: &&Value| it["sequence"] == base["sequence"] && it["timestamp"] == base["timestamp"];
        now = all.iter().find(is_base).unwrap_or_else(|| panic!("{base} is not there: {all:?}")).clone();
    }
}

/// How many backups a database of that one stands on.
pub fn depth(objects: &Objects, held: &Value, name: &str) -> usize {
    chain(objects, held, name).len() - 1
}

/// A database as litestream restores it.
pub fn restore(objects: &Objects, place: &Place, held: &Value, name: &str, out: &Path) {
    let dir = tempfile::tempdir().unwrap();
    for (of, database) in chain(objects, held, name) {
        let stored = dir.path().join("stored");
        std::fs::write(&stored, objects.bytes_of(&key_of(&of, name, &database), &database).unwrap()).unwrap();
        let base = database["ltx"]["base"]["sequence"].as_u64();
        let (level, min, max) = (if base.is_some() { 1 } else { 9 }, base.unwrap_or(0) + 1, of["sequence"].as_u64());
        let ltx: PathBuf = dir.path().join(format!("ltx/{level}/{min:016x}-{:016x}.ltx", max.unwrap()));
        std::fs::create_dir_all(ltx.parent().unwrap()).unwrap();
        decode(&stored, database["form"].as_str().unwrap(), &place.path(IDENTITY), &ltx);
    }
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/litestream");
    assert!(Path::new(program).exists(), "{program} is missing: run `scripts/setup test`");
    // It writes a file of its own.
    let made = dir.path().join("made.db");
    let mut command = Command::new(program);
    let output = command.args(["restore", "-o"]).arg(&made).arg(format!("file://{}", dir.path().display()));
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::copy(made, out).unwrap();
}
