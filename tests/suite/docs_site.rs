//! The documents hang together: what they point at is there, and every word that the program uses of itself is explained.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use attendance_backup::http::problem::KINDS;

use crate::harness::tree;
use crate::manual::document;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages of the site.
pub fn pages() -> Vec<String> {
    let names = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".md"));
    let mut names: Vec<_> = names.map(|name| format!("docs/{name}")).collect();
    names.sort();
    names
}

/// A page without its blocks, line by line.
fn prose(page: &str) -> String {
    let mut inside = false;
    let text = document(page);
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        inside ^= is_fence;
        !inside && !is_fence && (!line.starts_with("    ") || line.trim_start().starts_with(['-', '|']))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Without what stands in backticks.
fn without_code(text: &str) -> String {
    text.lines().map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

/// As GitHub and mdBook make an anchor of a heading.
fn anchor(heading: &str) -> String {
    let plain = heading.replace(['`', '*'], "").to_lowercase();
    let kept = plain.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    let text = prose(page);
    let headings =
        text.lines().filter_map(|line| Some(line.trim_start_matches('#')).filter(|rest| rest.len() < line.len()));
    let mut found = BTreeSet::new();
    for heading in headings.filter_map(|rest| rest.strip_prefix(' ')) {
        assert!(found.insert(anchor(heading)), "{page} has two headings of that name: {heading}");
    }
    found
}

/// The targets of all links and pictures.
fn links(page: &str) -> Vec<String> {
    let text = without_code(&prose(page));
    let targets = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned());
    targets.collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut all = pages();
    all.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(str::to_owned));
    let mut counted = 0;
    for page in &all {
        for link in links(page) {
            if link.contains("://") {
                assert!(link.starts_with("https://"), "{page}: {link}");
                continue;
            }
            let (path, wanted) = link.split_once('#').map_or((link.as_str(), None), |(path, name)| (path, Some(name)));
            let folder = Path::new(page).parent().unwrap();
            let target = if path.is_empty() { PathBuf::from(page) } else { folder.join(path) };
            assert!(root().join(&target).exists(), "{page} points at {link}, which isn't there");
            // The site is made of these alone.
            assert!(!page.starts_with("docs/") || target.starts_with("docs") && !path.contains(".."), "{page}: {link}");
            if let Some(name) = wanted {
                assert!(
                    anchors(target.to_str().unwrap()).contains(name),
                    "{page}: no heading has the anchor of {link}"
                );
            }
            counted += 1;
        }
    }
    assert!(counted > 60, "{counted}");
}

/// Files that are named in the text, such as `deploy/nginx.conf`.
#[test]
fn every_file_that_is_named_is_there() {
    let mut all = pages();
    all.extend(["README.md", "ARCHITECTURE.md"].map(str::to_owned));
    for page in &all {
        let text = prose(page);
        for name in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_ours = ["docs/", "deploy/", "scripts/", "tests/"].iter().any(|folder| name.starts_with(folder));
            let is_path = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
            assert!(!(is_ours && is_path) || root().join(name).exists(), "{page}: {name} is not there");
        }
    }
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let listed: BTreeSet<_> = links("docs/SUMMARY.md").iter().map(|link| format!("docs/{link}")).collect();
    let mut there: BTreeSet<_> = pages().into_iter().collect();
    there.remove("docs/SUMMARY.md");
    assert_eq!(listed, there);
}

/// Every word that `status` warns with stands in the table, and no other.
#[test]
fn every_warning_is_explained() {
    let mut codes = BTreeSet::new();
    for (file, ..) in
        tree(&root().join("src/engine")).into_iter().filter(|(file, _, is_dir)| !is_dir && file != "preview.rs")
    {
        let text = document(&format!("src/engine/{file}"));
        let gathers = ["status/warnings.rs", "replica/report.rs"].contains(&file.as_str());
        let begins = ["Warning { code:", "add(", "warn("];
        for begin in &begins[..if gathers { 3 } else { 1 }] {
            let words =
                text.split(begin).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')?.split_once('"'));
            codes.extend(words.map(|(word, _)| word.to_owned()));
        }
    }
    assert!(codes.len() > 20, "{codes:?}");
    let text = document("docs/troubleshooting.md");
    let table = text.split_once("\n## Warnings\n").unwrap().1.split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let told: BTreeSet<_> = rows
        .flat_map(|row| {
            row[2..].split(" | ").next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(told, codes);
}

/// What `docs/troubleshooting.md` says of problems are their words.
#[test]
fn troubles_name_problems_by_their_words() {
    let text = document("docs/troubleshooting.md");
    let part = |heading: &str| text.split_once(&format!("\n## {heading}\n")).unwrap().1.split("\n## ").next().unwrap();
    let mut named = BTreeSet::new();
    for heading in ["A restore is refused", "Nobody can sign in"] {
        let starts = part(heading).lines().filter_map(|line| line.strip_prefix("- ")?.split_once([':', '.']));
        let words =
            starts.flat_map(|(words, _)| words.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
        named.extend(words.filter(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
    }
    assert!(named.len() > 10, "{named:?}");
    for word in named {
        assert!(KINDS.iter().any(|kind| kind.code == word), "{word} is no problem");
    }
}

/// Every promise that a comment in the source names, and every test that is named for one.
#[test]
fn promises_and_their_tests_are_there() {
    let page = document("docs/reliability.md");
    let promised = |number: &str| page.contains(&format!("\n### P{number}. "));
    let mut named = 0;
    for (file, ..) in tree(&root().join("src")).into_iter().filter(|(file, _, is_dir)| !is_dir && file.ends_with(".rs"))
    {
        let text = document(&format!("src/{file}"));
        for number in text.split("[P").skip(1).filter_map(|rest| Some(rest.split_once(']')?.0)) {
            if number.bytes().all(|byte| byte.is_ascii_digit()) {
                assert!(promised(number), "src/{file} names P{number}, which is not in docs/reliability.md");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
    let mut tests = 0;
    for word in page.split('`').skip(1).step_by(2) {
        let Some((file, test)) = word.split_once("::") else { continue };
        let text = document(&format!("tests/suite/{file}.rs"));
        assert!(text.contains(&format!("fn {test}()")), "{word} is no test");
        tests += 1;
    }
    assert!(tests > 50, "{tests}");
}
