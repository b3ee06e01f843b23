//! The documents as they stand, and the commands in them, which are run as they stand.
//!
//! A page's blocks of `sh` are run in their order. What readers don't need is said in comments that they don't see:
//!
//! - `<!-- run: … -->` is run too: it sets the scene, or looks at what came of the lines before.
//! - `<!-- in a terminal of its own -->` before a block: it goes on beside all that follows.
//! - `<!-- not run: why -->` before a block: it wants another machine, or a service that isn't here.
//!
//! The folders of [`ROOTS`] lie in the test's own place, and `127.0.0.1:8080` is an address that is free.

use std::path::Path;
use std::process::Stdio;

use crate::harness::{PROGRAM, Place};
use crate::ports::free_address;

/// Folders that the documents speak of.
const ROOTS: [&str; 6] = ["/data", "/mnt", "/safe", "/old", "/tmp", "/etc/attendance-backup"];
const ADDRESS: &str = "127.0.0.1:8080";

pub fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// What is done with some lines of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    Run,
    Beside,
    NotRun(String),
}

/// Lines of a page for the shell.
#[derive(Clone, Debug)]
pub struct Block {
    /// The heading (`##`) that it stands under; empty before the first one.
    pub heading: String,
    pub kind: Kind,
    pub text: String,
}

/// A line that opens or closes a block: how far it is indented, and the language.
fn fence(line: &str) -> Option<(usize, &str)> {
    let trimmed = line.trim_start();
    Some((line.len() - trimmed.len(), trimmed.strip_prefix("```")?.trim()))
}

fn comment<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    Some(line.trim().strip_prefix("<!-- ")?.strip_suffix(" -->")?.strip_prefix(begin)?.trim())
}

/// All of a page's blocks for the shell. Every block says what it is, and what isn't run says why.
pub fn blocks(page: &str) -> Vec<Block> {
    let text = document(page);
    let (mut blocks, mut heading, mut next) = (Vec::new(), String::new(), Kind::Run);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("## ") {
            name.clone_into(&mut heading);
        } else if let Some(hidden) = comment(line, "run:") {
            blocks.push(Block { heading: heading.clone(), kind: Kind::Run, text: hidden.to_owned() });
        } else if let Some(why) = comment(line, "not run:") {
            assert!(why.len() > 10, "{page}: why is a block under {heading:?} not run?");
            next = Kind::NotRun(why.to_owned());
        } else if comment(line, "in a terminal of its own").is_some() {
            next = Kind::Beside;
        } else if let Some((indent, language)) = fence(line) {
            let is_other_shell = ["bash", "shell", "console", "zsh"].contains(&language);
            assert!(!is_other_shell, "{page}: under {heading:?}, what is for the shell is `sh`");
            let body = lines.by_ref().take_while(|line| fence(line).is_none());
            let body: Vec<_> = body.map(|line| line.get(indent..).unwrap_or_default()).collect();
            let kind = std::mem::replace(&mut next, Kind::Run);
            if language == "sh" {
                blocks.push(Block { heading: heading.clone(), kind, text: body.join("\n") });
            } else {
                assert_eq!(kind, Kind::Run, "{page}: a mark before a block that is no command, under {heading:?}");
            }
        }
    }
    assert_eq!(next, Kind::Run, "{page}: a mark before no block");
    blocks
}

/// The indented lines under a heading of a page.
pub fn indented(page: &str, heading: &str) -> Vec<String> {
    let text = document(page);
    let part = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("{heading} is not in {page}")).1;
    let lines = part.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("    "));
    lines.map(str::to_owned).collect()
}

/// The lines as they are run: in the place, at an address that is free.
pub fn in_place(text: &str, place: &Place, address: &str) -> String {
    let root = place.path("");
    let root = root.to_str().unwrap().trim_end_matches('/');
    let (mut moved, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('/') {
        let (before, found) = rest.split_at(at);
        moved.push_str(before);
        let begins = moved.chars().last().is_none_or(|c| c.is_whitespace() || "\"'=(:,<>@/".contains(c));
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_');
        let named = |name: &&&str| found.strip_prefix(**name).is_some_and(ends);
        match ROOTS.iter().find(named).filter(|_| begins) {
            Some(name) => {
                // The data itself lies where the place has it.
                moved.push_str(root);
                moved.push_str(if *name == "/data" { "" } else { name });
                rest = &found[name.len()..];
            }
            None => {
                moved.push('/');
                rest = &found[1..];
            }
        }
    }
    moved.push_str(rest);
    moved.replace(ADDRESS, address)
}

/// Runs these lines in one shell, which must end well. Says what it said.
pub fn run(place: &Place, what: &str, text: &str, configured: bool) -> String {
    let address = free_address().to_string();
    for root in ROOTS {
        std::fs::create_dir_all(place.path(root.trim_start_matches('/'))).unwrap();
    }
    let script = format!(
        "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{}",
        in_place(text, place, &address)
    );
    let mut bash = place.command_of("bash");
    if !configured {
        for (name, _) in place.environment() {
            bash.env_remove(name);
        }
    }
    let tools = Path::new(PROGRAM).parent().unwrap().display();
    let path = format!("{tools}:{}/target/venv/bin:{}", env!("CARGO_MANIFEST_DIR"), std::env::var("PATH").unwrap());
    // A backup or a rehearsal that the schedule begins would be in the way of the next line.
    bash.env("BACKUP_BIND", &address).env("BACKUP_ENABLED", "false").env("PATH", path).env("HOME", place.path("tmp"));
    let output = bash.args(["-c", &script]).current_dir(place.path("")).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let beside = std::fs::read_to_string(place.path("beside.log")).unwrap_or_default();
    assert!(output.status.success(), "{what}: {}\n{script}\n---\n{said}\n---\n{beside}", output.status);
    said
}

/// Blocks as one script. What goes on beside the others is waited for until it answers.
pub fn script(blocks: &[Block]) -> String {
    let lines = blocks.iter().map(|block| match &block.kind {
        Kind::Run => format!("{}\n", block.text),
        Kind::NotRun(_) => String::new(),
        Kind::Beside => format!(
            "{{ {}\n}} >beside.log 2>&1 &\n\
             until attendance-backup healthcheck >/dev/null 2>&1; do kill -0 $!; sleep 0.05; done\n",
            block.text.replace("attendance-backup serve", "exec attendance-backup serve")
        ),
    });
    lines.collect()
}

/// Runs each part of a page in a place and a shell of its own: whoever comes for one procedure has not read the others.
pub fn run_parts(page: &str, mut prepare: impl FnMut(&str, &mut Place), mut look: impl FnMut(&str, &Place)) {
    let all = blocks(page);
    let mut headings: Vec<&str> = all.iter().map(|block| block.heading.as_str()).collect();
    headings.dedup();
    for heading in headings {
        let part: Vec<_> = all.iter().filter(|block| block.heading == heading).cloned().collect();
        let mut place = Place::new();
        prepare(heading, &mut place);
        run(&place, &format!("{page}, {heading}"), &script(&part), true);
        look(heading, &place);
    }
}

/// A whole one in a terminal: no variables are set but what the page sets.
pub fn run_page(page: &str, place: &Place) -> String {
    run(place, page, &script(&blocks(page)), false)
}
