//! The doctor on what is around the databases: who runs it, where things lie, who may read the secrets, which way requests come. Each
//! is told before anything breaks, with one fix.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::client::{Server, superuser};
use crate::disk_full::{mount, run_in_namespace};
use crate::harness::{Place, Run, eventually};
use crate::visitor::Visitor;

/// All findings of `command`, a run of `doctor --json`.
fn findings(command: &mut Command) -> Vec<Value> {
    let run = Run::of(command.output().unwrap());
    let answer: Value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr));
    let findings = answer["findings"].as_array().unwrap().clone();
    let is_ill = findings.iter().any(|finding| finding["severity"] == "problem");
    assert_eq!(run.code, i32::from(is_ill), "{findings:?}");
    findings
}

fn all(place: &Place) -> Vec<Value> {
    findings(&mut place.command(&["doctor", "--json"]))
}

/// The one that says so; it has a fix.
#[track_caller]
fn finding(findings: &[Value], about: &str, severity: &str, words: &str) -> Value {
    let is_it = |it: &&Value| it["about"] == about && it["found"].as_str().unwrap().contains(words);
    let found: Vec<_> = findings.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{about} {words}: {findings:?}");
    assert_eq!(found[0]["severity"], severity, "{}", found[0]);
    assert!(severity == "ok" || found[0]["fix"].as_str().is_some_and(|fix| fix.len() > 8), "{}", found[0]);
    found[0].clone()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn given_to(place: &Place, owner: &str) {
    assert!(Command::new("chown").args(["-R", owner]).arg(place.path("")).status().unwrap().success());
}

/// `doctor`, as somebody else.
fn as_user(place: &Place, args: &[&str]) -> Vec<Value> {
    let mut command = place.command_of("setpriv");
    command.args(args).arg(crate::harness::PROGRAM).args(["doctor", "--json"]);
    findings(&mut command)
}

#[test]
fn a_wrong_uid_is_told_before_anything_breaks() {
    if !is_root() {
        return println!("only root can be somebody else");
    }
    let place = Place::new();
    std::fs::create_dir(place.backups()).unwrap();
    given_to(&place, "1000:1000");
    std::fs::set_permissions(place.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    for name in ["attendance", "auth"] {
        std::fs::set_permissions(place.live(name), PermissionsExt::from_mode(0o664)).unwrap();
    }
    let before = crate::harness::traces(&place.path(""));
    let other = as_user(&place, &["--reuid=2000", "--regid=2000", "--clear-groups"]);
    let told = finding(&other, "user", "problem", "this runs as uid 2000, and `attendance` belongs to uid 1000");
    assert!(told["fix"].as_str().unwrap().contains("user: \"1000:1000\""), "{told}");
    let group = as_user(&place, &["--reuid=1000", "--regid=2000", "--clear-groups"]);
    finding(&group, "user", "warning", "belongs to gid 1000");
    let same = as_user(&place, &["--reuid=1000", "--regid=1000", "--clear-groups"]);
    finding(&same, "user", "ok", "uid 1000, gid 1000");
    let mighty = all(&place);
    finding(&mighty, "user", "warning", "this runs as uid 0");
    let weak = as_user(&place, &["--bounding-set=-chown,-dac_override", "--inh-caps=-chown,-dac_override"]);
    finding(&weak, "user", "problem", "without CAP_CHOWN and CAP_DAC_OVERRIDE");
    assert_eq!(crate::harness::traces(&place.path("")), before, "the doctor left something");
    for name in ["attendance", "auth"] {
        assert_eq!(place.live(name).metadata().unwrap().uid(), 1000);
    }
}

/// What the doctor tells of at the start, over HTTP and on the page.
#[test]
fn what_is_wrong_stands_in_the_log_in_the_answer_and_on_the_page() {
    let mut place = Place::new();
    place.set("BACKUP_TRUSTED_PROXIES", "0.0.0.0/0");
    place.create();
    let server = Server::start(&place);
    let words = "BACKUP_TRUSTED_PROXIES names 0.0.0.0/0";
    let log = eventually("it is said", || Some(server.log()).filter(|log| log.contains(words)));
    let line = log.lines().find(|line| line.contains(words)).unwrap();
    assert!(line.contains("ERROR") && line.contains("; name the addresses of the proxy alone"), "{line}");
    assert_eq!(log.matches(words).count(), 1, "{log}");
    let answer = server.request("GET", "/api/backup/doctor").token(&superuser()).send().ok();
    finding(answer["findings"].as_array().unwrap(), "proxies", "problem", words);
    let page = Visitor::superuser(&server).get("/settings/backups").text();
    let section = page.split_once("id=\"checks\"").unwrap().1.split_once("</section>").unwrap().0;
    let (at_once, folded) = section.split_once("<details").unwrap();
    assert!(at_once.contains(words) && at_once.contains("Name the addresses of the proxy alone"), "{section}");
    assert!(folded.contains("1 problem") && folded.contains("WAL mode") && !folded.contains(words), "{section}");
    assert!(page.find("id=\"checks\"") < page.find("id=\"list\""), "a problem is below the list");
}

#[test]
fn secrets_are_looked_at() {
    let mut place = Place::new();
    place.set("BACKUP_METRICS_TOKEN", "correct-horse-battery");
    let poor = finding(&all(&place), "secrets", "warning", "BACKUP_METRICS_TOKEN is made of words");
    assert!(!poor.to_string().contains("correct-horse"), "{poor}");
    assert!(poor.to_string().contains("in Prometheus too"), "{poor}");
    place.unset("BACKUP_METRICS_TOKEN");
    finding(&all(&place), "secrets", "ok", "drawn");
    let file = place.path("jwt");
    std::fs::write(&file, crate::harness::SECRET).unwrap();
    for (mode, is_told) in [(0o644, true), (0o640, true), (0o600, false)] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let mut command = place.command(&["doctor", "--json"]);
        let found = findings(command.env_remove("BACKUP_JWT_SECRET").env("BACKUP_JWT_SECRET_FILE", &file));
        let told = found.iter().any(|it| it["found"].as_str().unwrap().contains("can be read by others"));
        assert_eq!(told, is_told, "{mode:o}: {found:?}");
    }
    // So is the configuration file, if there is one in it.
    let toml = place.path("backup.toml");
    for (text, is_told) in [
        ("[schedule]\nhour = 5\n", false),
        ("[metrics]\ntoken = 'b58a6f13d2c94e07'\n", true),
        ("[replica.nas]\nurl = 'webdavs://nas.example/x'\nusername = 'a'\npassword = 'canary'\n", true),
    ] {
        std::fs::write(&toml, text).unwrap();
        std::fs::set_permissions(&toml, PermissionsExt::from_mode(0o644)).unwrap();
        let found = findings(place.command(&["doctor", "--json"]).env("BACKUP_CONFIG_FILE", &toml));
        let told = found.iter().any(|it| it["found"].as_str().unwrap().contains("backup.toml can be read by others"));
        assert_eq!(told, is_told, "{text}: {found:?}");
    }
}

#[test]
fn the_way_that_requests_come_is_looked_at() {
    let place = Place::new();
    let of =
        |environment: &[(&str, &str)]| findings(place.command(&["doctor", "--json"]).envs(environment.iter().copied()));
    finding(&of(&[]), "proxies", "ok", "none is trusted");
    let (https, proxy) =
        (("BACKUP_PUBLIC_URL", "https://school.example/backups"), ("BACKUP_TRUSTED_PROXIES", "172.18.0.2"));
    finding(&of(&[https]), "proxies", "warning", "all of them count as one address");
    finding(&of(&[https, proxy]), "proxies", "ok", "1 trusted");
    let open = ("BACKUP_BIND", "0.0.0.0:8080");
    finding(&of(&[open]), "proxies", "warning", "without TLS");
    finding(&of(&[open, https, proxy]), "proxies", "ok", "1 trusted");
    let metrics = ("BACKUP_METRICS", "true");
    finding(&of(&[open, metrics]), "metrics", "warning", "whoever reaches 0.0.0.0:8080 can read /metrics");
    for proxied in [https, proxy] {
        finding(&of(&[proxied, metrics]), "metrics", "warning", "comes through the proxy can read /metrics");
    }
    let token = ("BACKUP_METRICS_TOKEN", "b58a6f13d2c94e07");
    for well in [&[metrics][..], &[open], &[open, metrics, token], &[https, proxy, metrics, token]] {
        assert!(of(well).iter().all(|it| it["about"] != "metrics"), "{well:?}");
    }
    finding(&of(&[("BACKUP_TRUSTED_PROXIES", "10.0.0.1,::/0")]), "proxies", "problem", "::/0");
}

#[test]
fn a_clock_that_went_back_is_told() {
    let place = Place::new();
    place.create();
    let mut command = place.command_of("faketime");
    command.args(["2025-06-01 12:00:00", crate::harness::PROGRAM, "doctor", "--json"]).env("TZ", "UTC");
    finding(&findings(&mut command), "clock", "warning", "which is yet to come");
    assert!(all(&place).iter().all(|it| it["about"] != "clock"));
    let mut command = place.command_of("faketime");
    command.args(["1970-01-01 00:01:00", crate::harness::PROGRAM, "doctor", "--json"]).env("TZ", "UTC");
    finding(&findings(&mut command), "time", "problem", "the clock says 1970");
}

#[test]
fn links_journal_modes_and_page_sizes_are_told() {
    let place = Place::empty();
    std::fs::create_dir(place.path("real")).unwrap();
    let real = place.path("real/a.db");
    crate::harness::sql_on(&real, "PRAGMA page_size=8192; PRAGMA journal_mode=WAL; CREATE TABLE people (id)");
    std::os::unix::fs::symlink(&real, place.live("attendance")).unwrap();
    place.sql("auth", "CREATE TABLE users (id)");
    std::fs::hard_link(place.live("auth"), place.path("second.db")).unwrap();
    let found = all(&place);
    let told = finding(&found, "database `attendance`", "ok", "pages of 8192 bytes");
    assert!(
        told["found"].as_str().unwrap().contains(&format!("(by {})", place.live("attendance").display())),
        "{told}"
    );
    finding_without_fix(&found, "database `auth`", "has 2 hard links");
    std::fs::remove_file(place.path("second.db")).unwrap();
    finding(&all(&place), "database `auth`", "warning", "journal mode rollback, pages of 4096 bytes");
}

/// What the error itself says what to do about.
fn finding_without_fix(findings: &[Value], about: &str, words: &str) {
    let is_it = |it: &&Value| it["about"] == about && it["found"].as_str().unwrap().contains(words);
    let found = findings.iter().find(is_it).unwrap_or_else(|| panic!("{about} {words}: {findings:?}"));
    assert_eq!(found["severity"], "problem");
}

#[test]
fn mounts_are_looked_at() {
    if std::env::var_os("IN_OWN_NAMESPACE").is_none() {
        run_in_namespace("doctor_places::mounts_are_looked_at");
        return;
    }
    let mut place = Place::new();
    // As a container has it: a file alone, a folder read-only, backups in memory.
    std::fs::create_dir(place.path("alone")).unwrap();
    std::fs::write(place.path("alone/auth.db"), b"").unwrap();
    mount(&["--bind", place.live("auth").to_str().unwrap()], &place.path("alone/auth.db"));
    let named = |attendance: &Path, auth: &Path| format!("attendance={},auth={}", attendance.display(), auth.display());
    place.set("BACKUP_DATABASES", &named(&place.live("attendance"), &place.path("alone/auth.db")));
    finding_without_fix(&all(&place), "database `auth`", "is a mount by itself");
    std::fs::create_dir(place.path("data")).unwrap();
    mount(&["--bind", place.path("").to_str().unwrap()], &place.path("data"));
    mount(&["-o", "remount,bind,ro"], &place.path("data"));
    place.set("BACKUP_DATABASES", &named(&place.path("data/attendance.db"), &place.live("auth")));
    let told = finding(&all(&place), "database `attendance`", "problem", "is mounted read-only");
    assert_eq!(told["fix"], json!("mount the folder without `:ro`"));
    std::fs::create_dir(place.backups()).unwrap();
    mount(&["-t", "tmpfs", "-o", "mode=0700", "tmpfs"], &place.backups());
    finding(&all(&place), "backup directory", "warning", "it lies in memory");
    mount(&["-o", "remount,ro"], &place.backups());
    finding(&all(&place), "backup directory", "problem", "is mounted read-only");
}
