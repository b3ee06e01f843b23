//! What the program tells of itself: which one it is, its manual, what shells complete.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::harness::{PROGRAM, Place, Run};

/// Without any settings, even bad ones.
fn bare(args: &[&str]) -> Run {
    let run = Run::of(Command::new(PROGRAM).args(args).env("BACKUP_SCHEDULE_HOUR", "99").output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    run
}

/// Those that `--help` shows.
fn commands() -> Vec<String> {
    let help = Place::empty().ok(&["--help"]).stdout;
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !name.is_empty());
    names.map(str::to_owned).filter(|name| name != "help").collect()
}

#[test]
fn its_version_tells_which_sqlite_it_brings() {
    let version = bare(&["--version"]).stdout;
    let expected = concat!("attendance-backup ", env!("CARGO_PKG_VERSION"), " (");
    assert!(version.starts_with(expected) && version.contains("SQLite 3."), "{version}");
    assert_eq!(version.lines().count(), 1);
}

#[test]
fn shells_complete_every_command_that_is_shown() {
    for shell in ["bash", "zsh", "fish"] {
        let script = bare(&["completions", shell]).stdout;
        for command in commands() {
            assert!(script.contains(&command), "{shell} doesn't know {command}");
        }
        assert!(!script.contains("demo-app"), "{shell} offers what nobody calls by hand");
    }
    let ask = "source <(\"$0\" completions bash); COMP_WORDS=(attendance-backup restore --off); COMP_CWORD=2; \
               _attendance__backup attendance-backup --off restore; echo \"${COMPREPLY[@]}\"";
    let run = Run::of(Command::new("bash").args(["-c", ask, PROGRAM]).output().unwrap());
    assert_eq!(run.stdout.trim(), "--offline", "{}", run.stderr);
}

#[test]
fn each_command_has_a_page_that_everybody_can_read() {
    let folder = tempfile::tempdir().unwrap();
    bare(&["man", folder.path().to_str().unwrap()]);
    for command in commands() {
        let page = folder.path().join(format!("attendance-backup-{command}.1"));
        assert!(std::fs::read_to_string(&page).unwrap().contains(".SH NAME"), "{command}");
        assert_eq!(page.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    }
    assert!(!folder.path().join("attendance-backup-demo-app.1").exists());
    let whole = bare(&["man"]).stdout;
    assert!(whole.contains(".TH attendance-backup 1") && !whole.contains("demo-app"), "{whole}");
    let nowhere = Command::new(PROGRAM).args(["man", "/nowhere"]).output().unwrap();
    Run::of(nowhere).refused(1, &["/nowhere/attendance-backup", "name a folder that exists"]);
}

/// At a terminal, by whoever has thought better of it.
#[test]
fn ctrl_c_at_the_question_of_a_restore_ends_it() {
    let place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let mut terminal = place.command_of("script");
    terminal.args(["-qec", &format!("{PROGRAM} restore {id}"), "/dev/null"]);
    let mut child = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"once more to go on: ") {
        let read = child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
        assert_eq!(read, 1, "{}", String::from_utf8_lossy(&said));
        said.extend(byte);
    }
    child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(place.ids(), [id]);
    place.assert_whole();
}
