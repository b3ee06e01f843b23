//! Ids and names that climb, and what lies in the place of a copy: nothing outside of the backup directory is reached,
//! nothing in it changes, nothing hangs [P9].

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::client::{Answer, Server, superuser};
use crate::harness::{Place, python, traces};

/// Every route that takes an id, with what it needs to act: the body of a form, or of JSON, where `{}` stands for the id of
/// the backup that there is.
const ROUTES: [(&str, &str, &str); 18] = [
    ("GET", "/api/backup/{id}", ""),
    ("PATCH", "/api/backup/{id}", r#"{"pinned":true}"#),
    ("DELETE", "/api/backup/{id}?force=true", ""),
    ("POST", "/api/backup/verify/{id}", ""),
    ("GET", "/api/backup/download/{id}", ""),
    ("GET", "/api/backup/download/{id}?database=auth", ""),
    ("GET", "/api/backup/{id}/download", ""),
    ("HEAD", "/api/backup/download/{id}", ""),
    ("GET", "/api/backup/{id}/preview", ""),
    ("GET", "/settings/backups/backup/{id}", ""),
    ("POST", "/settings/backups/backup/{id}/verify", ""),
    ("POST", "/settings/backups/backup/{id}/pin", "pinned=true"),
    ("GET", "/settings/backups/backup/{id}/restore", ""),
    ("POST", "/settings/backups/backup/{id}/restore", "confirm={}"),
    ("GET", "/settings/backups/backup/{id}/delete", ""),
    ("POST", "/settings/backups/backup/{id}/delete", "force=on"),
    ("GET", "/settings/backups/acknowledge?id={id}", ""),
    ("POST", "/settings/backups/acknowledge", "id={id}"),
];

/// Ids that are none. `{}` stands for the one that there is.
const CLIMBING: [&str; 52] = [
    "../{}",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "..%2F{}",
    "%2e%2e/{}",
    "%2e%2e%2f{}",
    "%252e%252e%252f{}",
    "..%252f{}",
    "..\\{}",
    "..%5c{}",
    "%5c{}",
    ".%2f{}",
    "./{}",
    "{}/../{}",
    "{}/.",
    "{}%2f",
    "manual%2f{}",
    "%2fetc%2fpasswd",
    "{}%00",
    "{}%00.db",
    "%00{}",
    "%c0%ae%c0%ae%c0%af{}",
    "%c0%ae%c0%ae/{}",
    "%ef%bc%8e%ef%bc%8e%ef%bc%8f{}",
    "%ef%bc%8e%ef%bc%8e/{}",
    "%e2%80%a4%e2%80%a4%2f{}",
    "%c3%a9{}",
    "e%cc%81{}",
    "{}%cc%81",
    "%ff",
    "%ff{}",
    "{}%",
    "{}%2",
    "{}%zz",
    "{}.",
    "{}%2e",
    "{}%20",
    "%20{}",
    "{}%0a",
    "{}%0d%0a",
    "{}%09",
    "{}%3fdatabase=auth",
    "{}.db",
    "-rf",
    "--",
    "CON",
    ".",
    "..",
    "*",
    "file:x%3fmode=rwc",
    "file:%2f%2f%2fetc%2fpasswd",
    "",
];

/// They look like ids, and no day of any calendar has them.
const IMPOSSIBLE: [&str; 16] = [
    "DAILY-2026-01-08",
    "Daily-2026-01-08",
    "weekly-2026-W00",
    "weekly-2026-W54",
    "weekly-2025-W53",
    "weekly-2026-w02",
    "monthly-2026-13",
    "monthly-2026-00",
    "daily-2026-01-32",
    "daily-2026-02-29",
    "daily-2026-1-8",
    "daily-+026-01-08",
    "daily-2026-01-08-1",
    "daily-2026-01-08-02",
    "daily-2026-01-08-99999999999999999999",
    "manual-2026-01-08T250000Z",
];

/// Refused as a problem, with all headers, and without a word of what lies elsewhere.
#[track_caller]
fn assert_refused(what: &str, answer: &Answer, statuses: &[u16]) {
    assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    answer.assert_secure(what);
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
    assert!(!answer.text().contains("root:"), "{what}: {}", answer.text());
}

/// That id in letters that Unicode takes for the same: of full width, digits of another script, the hyphen that doesn't break.
fn alike(id: &str) -> [String; 5] {
    let pairs = [("0", "%ef%bc%90"), ("0", "%d9%a0"), ("-", "%ef%bc%8d"), ("-", "%e2%80%91"), ("m", "%ef%bd%8d")];
    pairs.map(|(ours, other)| id.replace(ours, other))
}

fn none_of_ours(id: &str) -> impl Iterator<Item = String> {
    let long = ["a", "%2e%2e%2f", "../"].map(|part| part.repeat(5000 / part.len()));
    let known = CLIMBING.iter().chain(&IMPOSSIBLE).map(|text| text.replace("{}", id));
    known.chain(long).chain(alike(id)).collect::<Vec<_>>().into_iter()
}

#[test]
fn an_id_that_climbs_is_refused_on_every_route_and_touches_nothing() {
    let mut place = Place::new();
    place.set("BACKUP_DOWNLOADS_PER_MINUTE", "1000");
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let before = traces(&place.backups());
    for climbing in none_of_ours(&id) {
        for (method, route, body) in ROUTES {
            let path = route.replace("{id}", &climbing);
            let body = body.replace("{id}", &climbing).replace("{}", &id);
            let request = server.request(method, &path).token(&superuser());
            let kind = if body.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
            let request =
                if body.is_empty() { request } else { request.header("Content-Type", kind).body(body.as_bytes()) };
            assert_refused(&format!("{method} {path} {body}"), &request.send(), &[400, 404, 405]);
        }
        assert!(traces(&place.backups()) == before, "{climbing} has changed something");
    }
    let endless = format!("/api/backup/download/{}", "%2e%2e%2f".repeat(1000));
    assert_refused("9 kB", &server.get(&endless), &[414]);
    assert!(traces(&place.backups()) == before);
    // A HEAD is told the same, and of a body only how long it would be.
    for path in ["/nowhere", "/api/backup/nothing"] {
        let mut answer = String::new();
        server.request("HEAD", path).token(&superuser()).open().unwrap().read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

/// In JSON nothing is decoded: as it stands, and as it would be in an address.
#[test]
fn an_id_that_climbs_in_a_body_is_refused_and_touches_nothing() {
    let place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let before = traces(&place.backups());
    for climbing in none_of_ours(&id) {
        let decoded = percent_decode_str(&climbing).decode_utf8_lossy();
        for climbing in BTreeSet::from([climbing.as_str(), &decoded]) {
            for (path, body) in [
                ("restore", json!({ "id": climbing, "confirm": climbing, "force": true })),
                ("restore", json!({ "id": climbing, "confirm": id, "force": true })),
                ("restore", json!({ "id": id, "confirm": climbing, "force": true })),
                ("acknowledge", json!({ "id": climbing })),
            ] {
                let request = server.request("POST", &format!("/api/backup/{path}")).token(&superuser());
                assert_refused(&format!("{path} {body}"), &request.json(&body).send(), &[400, 404]);
            }
        }
        assert!(traces(&place.backups()) == before, "{climbing} has changed something");
    }
}

#[test]
fn a_database_that_is_none_is_refused_and_touches_nothing() {
    let mut place = Place::new();
    place.set("BACKUP_DOWNLOADS_PER_MINUTE", "1000");
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let before = traces(&place.backups());
    let long = format!("database={}", "a".repeat(5000));
    for query in [
        "database=",
        "database",
        "database=auth&database=attendance",
        "database=auth&database=auth",
        "database[]=auth",
        "database%5b%5d=auth",
        "DATABASE=auth",
        "Database=auth",
        "database=AUTH",
        "database=auth.db",
        "database=auth%00",
        "database=auth%0a",
        "database=auth+",
        "database=%20auth",
        "database=..",
        "database=../auth",
        "database=..%2fauth",
        "database=%2e%2e%2fauth",
        "database=%252e%252e%252fauth",
        "database=..%5cauth",
        "database=%2fetc%2fpasswd",
        "database=%c0%ae%c0%ae%2fauth",
        "database=%ef%bc%8e%ef%bc%8e%ef%bc%8fauth",
        "database=%ff",
        "database=-rf",
        "database=CON",
        "database=*",
        "database=file:x?mode=rwc",
        "database=file%3ax%3fmode%3drwc",
        "database=auth&file=x",
        "path=../../etc/passwd",
        &long,
    ] {
        let answer = server.get(&format!("/api/backup/download/{id}?{query}"));
        assert_refused(query, &answer, &[400]);
    }
    assert!(traces(&place.backups()) == before);
    // One that could be is looked for, and it is recorded that it was asked for.
    let other = server.get(&format!("/api/backup/download/{id}?database=etc_passwd"));
    assert_refused("etc_passwd", &other, &[404]);
    assert_eq!(place.audit().last().unwrap()["code"], "no-such-database");
}

fn named_pipe(path: &Path) {
    python("import os, sys; os.mkfifo(sys.argv[1], 0o600)", &[path]);
}

/// With the very bytes that are expected: were it read, it would be found good.
#[test]
fn what_lies_in_the_place_of_a_copy_is_neither_followed_nor_waited_for() {
    let mut place = Place::new();
    place.set("BACKUP_DOWNLOADS_PER_MINUTE", "1000");
    let backup = place.create();
    let id = backup["id"].as_str().unwrap();
    let (copy, outside) = (place.copy(&backup, "auth"), place.path("outside.db"));
    std::fs::copy(&copy, &outside).unwrap();
    let server = Server::start(&place);
    let link: fn(&Path, &Path) = |copy, outside| symlink(outside, copy).unwrap();
    let dangling: fn(&Path, &Path) = |copy, _| symlink("/nowhere/at/all", copy).unwrap();
    let device: fn(&Path, &Path) = |copy, _| symlink("/dev/zero", copy).unwrap();
    let pipe: fn(&Path, &Path) = |copy, _| named_pipe(copy);
    let folder: fn(&Path, &Path) = |copy, _| std::fs::create_dir(copy).unwrap();
    let cases =
        [("a link", link), ("to nowhere", dangling), ("to a device", device), ("a pipe", pipe), ("a folder", folder)];
    for (what, plant) in cases {
        std::fs::remove_file(&copy).unwrap();
        plant(&copy, &outside);
        let verified = server.post(&format!("/api/backup/verify/{id}")).ok();
        let databases = &verified["databases"];
        assert_eq!((&verified["ok"], &databases["auth"]["ok"]), (&false.into(), &false.into()), "{what}: {verified}");
        assert_eq!(databases["attendance"]["ok"], true, "{what}: {verified}");
        for path in [format!("download/{id}?database=auth"), format!("download/{id}"), format!("{id}/download")] {
            assert_refused(what, &server.get(&format!("/api/backup/{path}")), &[422]);
        }
        assert_eq!(server.get(&format!("/api/backup/download/{id}?database=attendance")).status, 200, "{what}");
        if copy.symlink_metadata().unwrap().is_dir() {
            std::fs::remove_dir(&copy).unwrap();
        } else {
            std::fs::remove_file(&copy).unwrap();
        }
        std::fs::copy(&outside, &copy).unwrap();
    }
    assert_eq!(server.post(&format!("/api/backup/verify/{id}")).ok()["ok"], true);
    server.stop();
    place.assert_whole();
}

/// A catalog is a file like others: whoever could write to it gains no path by it.
#[test]
fn a_catalog_that_names_a_file_elsewhere_is_refused() {
    let mut place = Place::new();
    place.set("BACKUP_DOWNLOADS_PER_MINUTE", "1000");
    let backup = place.create();
    let id = backup["id"].as_str().unwrap();
    let server = Server::start(&place);
    let (path, good) = (place.backups().join("metadata.json"), place.catalog());
    let files =
        ["../../etc/passwd", "/etc/passwd", "manual/../../../etc/passwd", "manual/auth.db", "", "daily/../x.db"];
    for file in files {
        let mut catalog = good.clone();
        catalog["backups"][0]["databases"]["auth"]["file"] = file.into();
        std::fs::write(&path, catalog.to_string()).unwrap();
        let before = traces(&place.backups());
        for (method, path) in [
            ("GET", "/api/backup/list".to_owned()),
            ("GET", "/api/backup/status".to_owned()),
            ("GET", format!("/api/backup/{id}")),
            ("GET", format!("/api/backup/download/{id}")),
            ("GET", format!("/api/backup/download/{id}?database=auth")),
            ("POST", format!("/api/backup/verify/{id}")),
            ("POST", "/api/backup/create".to_owned()),
            ("DELETE", format!("/api/backup/{id}?force=true")),
        ] {
            let answer = server.request(method, &path).token(&superuser()).send();
            assert_eq!(answer.status, 503, "{file:?}: {method} {path}: {}", answer.text());
            answer.problem(503, "catalog");
        }
        let changed: Vec<_> = traces(&place.backups()).into_iter().filter(|it| !before.contains(it)).collect();
        // That it was refused is recorded; the lock's own file was written to.
        assert!(changed.iter().all(|it| ["audit.jsonl", ".lock"].contains(&it.0.as_str())), "{changed:?}");
    }
    std::fs::write(&path, serde_json::to_vec(&good).unwrap()).unwrap();
    assert_eq!(server.get(&format!("/api/backup/{id}")).ok()["id"], id);
}

/// Not even the files that the program keeps for itself can make it wait.
#[test]
fn a_pipe_in_the_place_of_any_file_of_ours_stops_no_answer() {
    for name in ["metadata.json", "settings.json", "audit.jsonl"] {
        let place = Place::new();
        place.create();
        let server = Server::start(&place);
        let path = place.backups().join(name);
        drop(std::fs::remove_file(&path));
        named_pipe(&path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for route in ["status", "list", "config", "audit"] {
            let answer = server.get(&format!("/api/backup/{route}"));
            assert!([200, 500, 503].contains(&answer.status), "{name}: {route}: {}", answer.text());
        }
        assert_eq!(server.request("GET", "/healthz").send().status, 200);
    }
}
