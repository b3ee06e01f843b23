//! The documents say what the program does.

use std::process::Command;

use attendance_backup::backup::notices::Event;
use attendance_backup::config::{REPLICA_VARIABLES, VARIABLES};
use attendance_backup::http::problem::KINDS;

use crate::forms::IDENTITY;
use crate::harness::{Place, sql_on};
use crate::manual::{document, indented};

#[test]
fn every_variable_stands_in_the_readme_and_in_the_example_with_its_default() {
    let (readme, example) = (document("README.md"), document(".env.example"));
    for variable in VARIABLES {
        assert!(readme.contains(&format!("`{}`", variable.env)), "{} is not in README.md", variable.env);
        let line = example
            .lines()
            .map(|line| line.trim_start_matches('#'))
            .find(|line| line.starts_with(&format!("{}=", variable.env)));
        let value =
            line.unwrap_or_else(|| panic!("{} is not in .env.example", variable.env)).split_once('=').unwrap().1;
        assert!(variable.default.is_empty() || value == variable.default, "{}: {value}", variable.env);
    }
    let of_replica = |name: &str| {
        let (_, end) = name.strip_prefix("BACKUP_REPLICA_")?.split_once('_')?;
        REPLICA_VARIABLES.iter().map(|variable| variable.env).find(|known| *known == end)
    };
    let names = example.lines().filter_map(|line| line.trim_start_matches('#').split_once('=').map(|(name, _)| name));
    let told: Vec<_> = names.clone().filter_map(of_replica).collect();
    for variable in REPLICA_VARIABLES {
        let name = format!("`BACKUP_REPLICA_<NAME>_{}`", variable.env);
        assert!(readme.contains(&name), "{name} is not in README.md");
        assert!(told.contains(&variable.env), "{name} is not in .env.example");
    }
    for name in names {
        let known = VARIABLES.iter().any(|variable| variable.env == name) || name == "BACKUP_CONFIG_FILE";
        // One for each database.
        let known = known || name == "BACKUP_DRILL_SQL_ATTENDANCE" || of_replica(name).is_some();
        assert!(!name.starts_with("BACKUP_") || known, "{name} means nothing");
    }
}

/// The example as it stands is a configuration that the program takes.
#[test]
fn the_example_is_taken() {
    let values = document(".env.example");
    let pairs = values.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    let environment = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    attendance_backup::config::Config::load(&environment).unwrap();
}

#[test]
fn every_kind_of_problem_is_explained() {
    let text = document("docs/problems.md");
    let told: Vec<_> = text.split("\n## ").skip(1).map(|part| part.lines().collect::<Vec<_>>()).collect();
    let headings: Vec<_> = told.iter().map(|lines| lines[0]).collect();
    assert_eq!(headings, KINDS.iter().map(|kind| kind.code).collect::<Vec<_>>());
    for (kind, lines) in KINDS.iter().zip(told) {
        assert_eq!(lines[2], format!("{}, {}.", kind.status, kind.title), "{}", kind.code);
        assert!(lines.len() > 4 && lines[4].len() > 30, "{} is not explained", kind.code);
    }
}

/// Every event, with the warnings that it is told for.
#[test]
fn every_notice_is_explained() {
    let text = document("docs/notices.md");
    let row = |event: &Event| text.lines().find(|line| line.starts_with(&format!("| `{}` |", event.word())));
    for event in Event::ALL {
        assert!(row(event).is_some(), "{} is not in docs/notices.md", event.word());
    }
    let mut codes = std::collections::BTreeSet::new();
    for file in ["src/engine/status/warnings.rs", "src/engine/replica/report.rs", "src/engine/notices.rs"] {
        codes.extend(document(file).split('"').map(str::to_owned).filter(|code| Event::of_warning(code).is_some()));
    }
    assert!(codes.len() > 15, "{codes:?}");
    for code in codes {
        let row = Event::of_warning(&code).and_then(|event| row(&event)).unwrap();
        assert!(row.contains(&format!("`{code}`")), "{code} is not in {row}");
    }
}

#[test]
fn the_readme_knows_every_command() {
    let (readme, help) = (document("README.md"), Place::empty().ok(&["--help"]).stdout);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<_> = commands
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty())
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        assert!(readme.contains(&format!("`{name}")), "{name} is not in README.md");
    }
}

/// Every word by which a replica's trouble is known.
#[test]
fn every_trouble_of_a_replica_is_explained() {
    let told = document("docs/offsite.md");
    let mut codes = std::collections::BTreeSet::new();
    for file in ["src/engine/error.rs", "src/remote/error.rs", "src/engine/replica/report.rs"] {
        let text = document(file);
        let quoted = text.split('"').filter(|text| text.starts_with("replica-"));
        codes.extend(quoted.filter(|it| it.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')).map(str::to_owned));
    }
    assert!(codes.len() > 12, "{codes:?}");
    for code in codes {
        assert!(told.contains(&format!("| `{code}` |")), "{code} is not in docs/offsite.md");
    }
}

/// The way out of a replica without our binary, line by line as `docs/offsite.md` has it.
#[test]
fn a_replica_is_read_without_this_program() {
    let mut place = Place::new();
    place.keyed();
    let nas = place.path("nas");
    std::fs::create_dir(&nas).unwrap();
    place.set("BACKUP_REPLICA_NAS_URL", &format!("fs://{}", nas.display()));
    let id = place.create()["id"].as_str().unwrap().to_owned();
    place.ok(&["replica", "push", "nas"]);
    let script = way_out("Without this program", &id).replace("/tmp/sums", "\"$2\"");
    let bash = ["-c", &script];
    let output =
        Command::new("bash").args(bash).args([&nas, &place.path(IDENTITY), &place.path("sums")]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("attendance.db.zst.age: OK") && said.trim_end().ends_with("ok"), "{said}");
    assert_eq!(sql_on(&nas.join("attendance.db"), "SELECT count(*) FROM people"), "3");
}

/// The same of an incremental one, from a chain in which a backup was dropped.
#[test]
fn an_incremental_replica_is_read_without_this_program() {
    let mut place = Place::new();
    place.keyed();
    let nas = place.path("nas");
    std::fs::create_dir(&nas).unwrap();
    place.set("BACKUP_REPLICA_NAS_URL", &format!("fs://{}", nas.display()));
    place.set("BACKUP_REPLICA_NAS_MODE", "incremental").set("BACKUP_RETENTION_MANUAL", "2");
    let mut id = String::new();
    for row in 1..=4 {
        place.sql("attendance", &format!("INSERT INTO people (name) VALUES ('new {row}')"));
        place.create()["id"].as_str().unwrap().clone_into(&mut id);
        place.ok(&["replica", "push", "nas"]);
    }
    let script = way_out("Without this program, where a replica is incremental", &id);
    let path = format!("{}/target/venv/bin:{}", env!("CARGO_MANIFEST_DIR"), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    let output = bash.args(["-c", &script]).args([&nas, &place.path(IDENTITY)]).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("attendance.ltx.zst.age: OK").count(), 4, "{said}");
    assert!(said.trim_end().ends_with("ok"), "{said}");
    assert_eq!(sql_on(&nas.join("attendance.db"), "SELECT count(*) FROM people"), "7");
}

/// The lines below that heading of `docs/offsite.md`, for a folder and an identity that are given.
fn way_out(heading: &str, id: &str) -> String {
    let lines = indented("docs/offsite.md", heading);
    let script = lines.join("\n").replace("/mnt/nas/attendance", "\"$0\"");
    let script = script.replace("id=daily-2026-01-08", &format!("id={id}")).replace("identity.txt", "\"$1\"");
    format!("set -eo pipefail\n{script}")
}
