//! `serve` as a process: daylight saving, catch-up, a clock that jumps; and the demo as its user meets it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::client::Server;
use crate::harness::{self, PROGRAM, Place, Run, kill};
use crate::replica_scene::Clock;
use crate::together::signal;

/// A running `serve`, ended by SIGTERM.
struct Serving(Child);

impl Serving {
    /// On a clock that begins at a local time and runs `speed` times as fast.
    fn at(place: &Place, local: &str, speed: u32) -> Self {
        let mut command = place.command(&["serve"]);
        command.env("TZ", "Europe/Berlin").env("FAKETIME", format!("@{local} x{speed}"));
        Self::start(command.env("LD_PRELOAD", faketime_library()).env("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
    }

    fn start(command: &mut Command) -> Self {
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }

    fn stop(mut self) {
        terminate(self.0.id());
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        kill(&mut self.0);
    }
}

/// `faketime` would stay between us and the program that a signal is meant for.
pub fn faketime_library() -> String {
    let output = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn terminate(pid: u32) {
    assert!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap().success());
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    harness::eventually(what, || holds().then_some(()));
}

pub fn daily_at(place: &Place, utc: &str) {
    let mut command = place.command_of("faketime");
    command.args([utc, PROGRAM, "create", "--type", "daily"]).env("TZ", "UTC");
    assert_eq!(Run::of(command.output().unwrap()).code, 0);
}

/// Backups that the schedule took.
fn scheduled(place: &Place) -> Vec<String> {
    let lines = place.audit().into_iter();
    lines
        .filter(|line| line["kind"] == "outcome" && line["operation"] == "create" && line["by"] == "scheduler")
        .map(|line| line["details"]["timestamp"].as_str().unwrap_or("failed").to_owned())
        .collect()
}

fn berlin_at_half_past_two() -> Place {
    let mut place = Place::new();
    place.set("BACKUP_TIMEZONE", "Europe/Berlin").set("BACKUP_SCHEDULE_HOUR", "2").set("BACKUP_SCHEDULE_MINUTE", "30");
    place
}

#[test]
fn in_the_night_that_skips_0230_the_backup_comes_at_the_end_of_the_gap_once() {
    let place = berlin_at_half_past_two();
    daily_at(&place, "2026-03-28 02:00:00");
    let serving = Serving::at(&place, "2026-03-29 01:58:00", 60);
    eventually("the backup of the night", || !scheduled(&place).is_empty());
    // Ten more minutes of that night.
    std::thread::sleep(Duration::from_secs(10));
    serving.stop();
    let taken = scheduled(&place);
    assert_eq!(taken.len(), 1, "{taken:?}");
    // A minute is a second here. 02:30 by the winter's clock, and by the summer's an hour late, would be 01:30.
    assert!(["01:0", "01:1", "01:2"].iter().any(|at| taken[0].starts_with(&format!("2026-03-29T{at}"))), "{taken:?}");
}

#[test]
fn in_the_night_that_has_0230_twice_the_backup_comes_the_first_time_only() {
    let place = berlin_at_half_past_two();
    daily_at(&place, "2026-10-24 02:00:00");
    let mut command = place.command(&["serve"]);
    let clock = Clock::of(&place, command.env("TZ", "Europe/Berlin"));
    clock.runs_from_utc("2026-10-25T00:27:00Z", 60);
    let serving = Serving::start(&mut command);
    eventually("the backup of the night", || !scheduled(&place).is_empty());
    // An hour and a half more: past the second 02:30.
    clock.runs_from_utc("2026-10-25T00:57:00Z", 400);
    std::thread::sleep(Duration::from_secs(14));
    serving.stop();
    let taken = scheduled(&place);
    assert_eq!(taken.len(), 1, "{taken:?}");
    // The hour that comes twice begins anew at 01:00.
    assert!(["00:3", "00:4", "00:5"].iter().any(|at| taken[0].starts_with(&format!("2026-10-25T{at}"))), "{taken:?}");
}

#[test]
fn a_restart_over_a_due_time_catches_up_once() {
    let place = Place::new();
    daily_at(&place, "2026-11-01 02:00:00");
    for start in ["2026-11-09 15:00:00", "2026-11-09 15:30:00", "2026-11-09 23:00:00"] {
        let serving = Serving::at(&place, start, 1);
        eventually("serving", || place.backups().join(".serve").metadata().is_ok_and(|meta| meta.len() > 0));
        eventually("the backup that was missed", || !scheduled(&place).is_empty());
        // Time for a burst, if there were one.
        std::thread::sleep(Duration::from_secs(1));
        serving.stop();
    }
    assert_eq!(scheduled(&place).len(), 1);
    assert_eq!(place.ids(), ["daily-2026-11-09", "daily-2026-11-01"]);
}

/// As in a machine that sleeps: all of the process stands still, and the clock goes on.
#[test]
fn a_stop_over_two_due_times_is_caught_up_once() {
    let mut place = Place::new();
    place.set("BACKUP_ENABLED", "true").set("TZ", "UTC");
    let mut command = place.command(&["serve"]);
    let clock = Clock::of(&place, &mut command);
    clock.runs_from("2026-11-01 12:00:00", 60);
    let server = Server::of(&mut command, place.path("serve.log"));
    eventually("the first backup", || place.backups().join("audit.jsonl").exists() && !scheduled(&place).is_empty());
    signal(server.child.id(), "-STOP");
    clock.runs_from("2026-11-03 12:00:00", 60);
    signal(server.child.id(), "-CONT");
    eventually("the backup that was missed", || scheduled(&place).len() > 1);
    // Time for a burst, if there were one: the alarm rings twelve times a second.
    std::thread::sleep(Duration::from_secs(1));
    server.stop();
    let taken = scheduled(&place);
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert!(taken[0].starts_with("2026-11-01T12:") && taken[1].starts_with("2026-11-03T12:"), "{taken:?}");
    place.assert_whole();
}

#[test]
fn while_it_is_off_nothing_is_taken_and_a_saved_setting_counts_at_once() {
    let mut place = Place::new();
    place.set("BACKUP_ENABLED", "false");
    let serving = Serving::start(&mut place.command(&["serve"]));
    eventually("serving", || place.backups().join(".serve").metadata().is_ok_and(|meta| meta.len() > 0));
    assert!(place.warnings().contains(&"disabled".to_owned()));
    // It may still be putting right what there is.
    place.ok(&["config", "--set", "enabled=true", "--wait", "10s"]);
    eventually("the first backup", || !place.ids().is_empty());
    serving.stop();
    place.assert_whole();
}

/// The README's first command, and every line that it prints, as pasted.
#[test]
fn the_demo_runs_prints_commands_that_work_and_leaves_nothing_running() {
    let dir = tempfile::tempdir().unwrap();
    let (demo, log) = (dir.path().join("a demo"), dir.path().join("log"));
    let mut command = Command::new(PROGRAM);
    command
        .args(["demo", "--bind", "127.0.0.1:0", "--directory"])
        .arg(&demo)
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let printed: Vec<String> = lines.take_while(|line| !line.starts_with("Ctrl-C")).collect();
    let (links, commands): (Vec<_>, Vec<_>) =
        printed.iter().filter(|line| line.starts_with("  ")).partition(|line| line.starts_with("  http://"));
    let [link] = links.as_slice() else { panic!("{printed:?}") };
    // It looks first what a crash may have left.
    eventually("serving", || std::fs::read_to_string(&log).unwrap().contains(" serving "));
    let form = "curl -sS -o /dev/null -w '%{http_code} %{redirect_url}'";
    let (page, code) = link.split_once('?').unwrap();
    let signed_in = Command::new("sh").args(["-c", &format!("{form} -d '{code}' {page}")]).output().unwrap();
    let signed_in = String::from_utf8(signed_in.stdout).unwrap();
    assert_eq!(signed_in, format!("303 {}", page.trim().replace("/sign-in", "/settings/backups")));
    assert!(commands.len() >= 22 && commands.iter().any(|line| line.starts_with("  curl")), "{printed:?}");
    for line in commands {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!line.ends_with(" doctor)") || !said.contains("no key for tokens"), "{said}");
    }
    // What they downloaded lies where anybody has room.
    let port = page.trim().rsplit(':').next().unwrap().split('/').next().unwrap();
    for number in [port, &child.id().to_string()] {
        std::fs::remove_file(format!("/tmp/auth-{number}.db")).unwrap();
    }
    let children = || {
        let id = child.id().to_string();
        String::from_utf8(Command::new("pgrep").args(["-P", &id]).output().unwrap().stdout).unwrap()
    };
    let app: u32 = children().trim().parse().unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    eventually("the app ends with the demo", || !std::path::Path::new(&format!("/proc/{app}")).exists());
}

/// A supervisor that signals a process and then its group sends everything twice.
#[test]
fn a_signal_that_comes_twice_ends_it_as_well_as_one() {
    let place = Place::new();
    let mut serving = Serving::start(&mut place.command(&["serve"]));
    eventually("the first backup", || place.backups().join("audit.jsonl").exists() && !scheduled(&place).is_empty());
    let pid = serving.0.id().to_string();
    let twice = format!("kill -TERM {pid} && kill -TERM {pid}");
    assert!(Command::new("sh").args(["-c", &twice]).status().unwrap().success());
    assert_eq!(serving.0.wait().unwrap().code(), Some(0));
    place.assert_whole();
}
