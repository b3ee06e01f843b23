//! Every command of the documents is run, on real databases (`manual` says how).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::client::Server;
use crate::docs_site::pages;
use crate::forms::IDENTITY;
use crate::harness::{Place, tree};
use crate::manual::{self, Kind, blocks, document, indented};

/// The pages that are run here, and how many of their blocks are not. Who adds one says so here.
const PAGES: [(&str, usize); 5] = [
    ("docs/getting-started.md", 1),
    ("docs/operating.md", 2),
    ("docs/troubleshooting.md", 0),
    ("docs/faq.md", 0),
    ("docs/formats.md", 0),
];

#[test]
fn what_is_not_run_is_known() {
    for page in pages() {
        let blocks = blocks(&page);
        let not_run = blocks.iter().filter(|block| matches!(block.kind, Kind::NotRun(_))).count();
        match PAGES.iter().find(|(name, _)| *name == page) {
            Some((_, known)) => assert_eq!(not_run, *known, "{page}"),
            None => assert!(blocks.is_empty(), "{page} has commands that no test runs"),
        }
    }
}

#[test]
fn one_gets_started() {
    let place = Place::new();
    manual::run_page("docs/getting-started.md", &place);
    place.assert_whole();
}

/// With a key in the safe and a replica in a folder.
fn furnish(place: &mut Place) {
    for folder in ["safe", "mnt/nas"] {
        std::fs::create_dir_all(place.path(folder)).unwrap();
    }
    place.keyed();
    std::fs::rename(place.path(IDENTITY), place.path("safe/identity.txt")).unwrap();
    let (identity, url) = (place.path("safe/identity.txt"), format!("fs://{}", place.path("mnt/nas").display()));
    place.set("BACKUP_ENCRYPTION_IDENTITY_FILE", identity.to_str().unwrap()).set("BACKUP_REPLICA_NAS_URL", &url);
}

#[test]
fn the_procedures_are_followed() {
    let with_replica = ["Come back", "Check the copies", "Change the key", "Replace the disk"];
    let prepare = |heading: &str, place: &mut Place| {
        if with_replica.iter().any(|begin| heading.starts_with(begin)) {
            furnish(place);
        }
        if heading.starts_with("Change the key") {
            place.set("BACKUP_ENCRYPT_LOCAL", "true");
        }
    };
    // What another directory goes on with isn't in this one's settings.
    let moved = ["Come back from a replica", "Replace the disk of the backups", "Change the key of the encryption"];
    manual::run_parts("docs/operating.md", prepare, |heading, place| {
        if !moved.contains(&heading) && !heading.is_empty() {
            place.assert_whole();
        }
    });
}

#[test]
fn troubles_are_looked_into() {
    let prepare = |heading: &str, place: &mut Place| {
        if heading == "A backup is damaged" {
            furnish(place);
        }
    };
    manual::run_parts("docs/troubleshooting.md", prepare, |_, place| place.assert_whole());
}

#[test]
fn questions_are_answered() {
    manual::run_parts("docs/faq.md", |_, _| {}, |_, _| {});
}

/// And every field that is found in the files is explained.
#[test]
fn the_formats_are_as_they_are_said_to_be() {
    let told = document("docs/formats.md");
    let mut unknown = BTreeSet::new();
    manual::run_parts(
        "docs/formats.md",
        |_, place| furnish(place),
        |_, place| {
            for root in ["backups", "mnt/nas/catalog"].into_iter().filter(|root| place.path(root).exists()) {
                for (file, ..) in tree(&place.path(root)).into_iter().filter(|(file, _, dir)| !dir && is_json(file)) {
                    let text = std::fs::read_to_string(place.path(root).join(file)).unwrap();
                    serde_json::Deserializer::from_str(&text)
                        .into_iter()
                        .for_each(|it| names(&it.unwrap(), &mut unknown));
                }
            }
        },
    );
    assert!(unknown.len() > 40, "{unknown:?}");
    unknown.retain(|name| !told.contains(&format!("`{name}`")));
    assert_eq!(unknown, BTreeSet::new(), "not in docs/formats.md");
}

/// What is remembered of replicas is no format.
fn is_json(file: &str) -> bool {
    let is_ours = file.ends_with(".json") || file.ends_with(".jsonl") || file.ends_with(".previous");
    is_ours && !file.starts_with("replicas/")
}

/// The names of all fields; those of databases, tables and details are no words of the format.
fn names(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Array(list) => list.iter().for_each(|it| names(it, into)),
        Value::Object(fields) => {
            for (name, value) in fields {
                into.insert(name.clone());
                match (name.as_str(), value) {
                    ("databases", Value::Object(databases)) => databases.values().for_each(|it| names(it, into)),
                    ("tables" | "details", _) => {}
                    _ => names(value, into),
                }
            }
        }
        _ => {}
    }
}

/// The way out without our binary [P12], line by line as the README has it: a backup is a plain database with the sum in the catalog.
#[test]
fn the_data_comes_back_without_this_program() {
    let place = Place::new();
    let id = place.json(&["create", "--type", "daily"])["id"].as_str().unwrap().to_owned();
    place.sql("attendance", "DELETE FROM people");
    let lines = indented("README.md", "Get your data back without this program");
    let (plain, encoded): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| !line.starts_with("age "));
    assert_eq!((plain.len(), encoded.len()), (5, 1));
    let script = plain.join("\n").replace("2026-01-08", id.strip_prefix("daily-").unwrap());
    let said = manual::run(&place, "README.md, without this program", &script, true);
    let sum = place.list()[0]["databases"]["attendance"]["checksum"].as_str().unwrap().to_owned();
    assert_eq!(said.matches(&sum).count(), 3, "in the catalog twice, and by sha256sum: {said}");
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "3");
}

/// The requests that the README shows.
#[test]
fn the_readme_is_sent_over_http() {
    let place = Place::new();
    let id = place.json(&["create", "--type", "daily"])["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let lines: Vec<_> = indented("README.md", "HTTP").iter().map(|line| line.replace("curl ", "curl -fsS ")).collect();
    assert_eq!(lines.len(), 7);
    let script =
        lines.join("\n").replace("daily-2026-01-08", &id).replace("127.0.0.1:8080", &server.address.to_string());
    manual::run(&place, "README.md, HTTP", &script, true);
    let downloaded = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let downloaded = downloaded.filter(|name| name.to_string_lossy().contains(id.trim_start_matches("daily-")));
    assert_eq!(downloaded.count(), 1, "it was not downloaded");
    let types: Vec<_> = place.list().iter().map(|backup| backup["type"].clone()).collect();
    assert_eq!(types, ["pre-restore", "manual", "daily"]);
}
