//! Who imports whom, as the head of `src/lib.rs` says; read from the sources.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::tree;

const GROUND: &[&str] = &["backup", "disk", "clock"];
const PARTS: &[&str] = &["sqlite", "catalog", "store", "audit"];

/// What each module may use.
fn allowed(module: &str) -> BTreeSet<&'static str> {
    let parts = || [GROUND, PARTS, &["codec", "config", "journal", "notify", "remote"]].concat();
    let used = match module {
        "backup" | "disk" | "clock" => Vec::new(),
        "codec" => GROUND.to_vec(),
        "remote" => vec!["disk"],
        "notify" => vec!["backup"],
        "config" => vec!["backup", "codec", "notify", "remote"],
        "telemetry" => vec!["config"],
        "token" => vec!["config", "clock"],
        "session" => [GROUND, &["config", "token"]].concat(),
        "sqlite" | "catalog" | "store" | "audit" => GROUND.to_vec(),
        "journal" => [GROUND, &["sqlite"]].concat(),
        "engine" => parts(),
        "scheduler" | "replicator" | "recorder" | "notifier" => [parts(), vec!["engine"]].concat(),
        "http" => [parts(), vec!["engine", "token", "session"]].concat(),
        "demo" => [parts(), vec!["engine", "session", "app"]].concat(),
        "cli" => [parts(), vec!["engine", "token", "session", "app", "demo"]].concat(),
        "app" => {
            let threads = ["scheduler", "replicator", "recorder", "notifier"];
            [parts(), threads.to_vec(), vec!["engine", "token", "session", "http", "telemetry"]].concat()
        }
        "lib" | "main" => Vec::new(),
        other => panic!("{other} is new: say in src/lib.rs and here what it may import"),
    };
    used.into_iter().collect()
}

/// Every source file but for unit tests: its path below `src/`, its text.
pub fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let ours = |file: &str| file.ends_with(".rs") && !file.ends_with("/tests.rs");
    let files = tree(&root).into_iter().filter(|(file, _, dir)| !dir && ours(file));
    files.map(|(file, ..)| (file.clone(), std::fs::read_to_string(root.join(file)).unwrap())).collect()
}

/// Without comments and without the tests at the end.
pub fn bare(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

/// The modules after each `crate::`, which may be a list in braces.
fn used(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{').and_then(|list| list.split_once('}')) {
            Some((list, _)) => used.extend(list.split(',').map(word)),
            None => drop(used.insert(word(rest))),
        }
    }
    used.into_iter().filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_module_imports_only_what_lies_below_it() {
    assert_eq!(
        used("use crate::{app, disk::Error};\n crate::backup::hex()"),
        ["app", "backup", "disk"].map(str::to_owned).into()
    );
    for (file, text) in sources() {
        let module = module(&file);
        let allowed = allowed(module);
        for used in used(&bare(&text)) {
            assert!(used == module || allowed.contains(used.as_str()), "src/{file} uses `{used}`");
        }
    }
}

#[test]
fn only_one_file_reads_the_wall_clock() {
    for (file, text) in sources().iter().filter(|(file, _)| file != "clock.rs") {
        let code: String = bare(text).split_whitespace().collect();
        for call in [
            "Utc::now",
            "Local::now",
            "SystemTime::now",
            "modified().ok()?.elapsed()",
            "rustix::time",
            "CURRENT_TIMESTAMP",
        ] {
            assert!(!code.contains(call), "src/{file} reads the clock: {call}");
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "src/{file} has no head");
    }
}
