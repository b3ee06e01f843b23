//! Whether what is there is what the model says, and whole.

use std::collections::BTreeSet;

use attendance_backup::backup::Tier;
use serde_json::Value;

use crate::harness::{sha256, tree};
use crate::model_book::{Book, Keep, Kept};
use crate::model_deeds::End;
use crate::model_world::{ASKED, World};

/// What is recorded of each backup, in words.
fn recorded(world: &World) -> Vec<String> {
    if !world.place.backups().join("metadata.json").exists() {
        return Vec::new();
    }
    let catalog = world.place.catalog();
    let in_words = |it: &Value| {
        let is_bad = it["checked"]["ok"] != true || it["verified"]["ok"] != true;
        let is_small = it["flags"].as_array().unwrap().iter().any(|flag| flag == "shrunk");
        let marks = [
            ("pinned", it["pinned"] == true),
            ("small", is_small),
            ("bad", is_bad),
            ("deleting", it["deleting"] == true),
        ];
        let marks: String = marks.iter().filter(|(_, is)| *is).map(|(mark, _)| format!(" {mark}")).collect();
        format!("{} {} of {}{marks}", it["sequence"], it["id"].as_str().unwrap(), it["localDate"].as_str().unwrap())
    };
    catalog["backups"].as_array().unwrap().iter().map(in_words).collect()
}

fn foretold(book: &Book) -> Vec<String> {
    let in_words = |it: &Kept| {
        let marks = [("pinned", it.pinned), ("small", it.small), ("bad", it.bad)];
        let marks: String = marks.iter().filter(|(_, is)| *is).map(|(mark, _)| format!(" {mark}")).collect();
        format!("{} {} of {}{marks}", it.sequence, it.id, it.date)
    };
    book.kept.iter().map(in_words).collect()
}

/// What isn't as the model says.
pub fn differences(world: &mut World, book: &Book) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, is: String, should: String| {
        if is != should {
            differences.push(format!("{what}\n  is:     {is}\n  should: {should}"));
        }
    };
    compare("backups", recorded(world).join("\n          "), foretold(book).join("\n          "));
    let settings = world.engine.settings().unwrap();
    let it = settings.retention;
    let [daily, weekly, monthly, manual, pre_restore] =
        [it.daily, it.weekly, it.monthly, it.manual, it.pre_restore].map(|number| number as usize);
    let keep = Keep { daily, weekly, monthly, manual, pre_restore };
    let said = |keep: &Keep, zone| format!("{keep:?} in {zone}");
    compare("settings", said(&keep, settings.schedule.timezone), said(&book.keep, book.zone));
    let (is, should) = (world.live(), book.live.told());
    for at in [0, 1] {
        compare(&format!("live {}", ASKED[at].0), is[at].clone(), should[at].clone());
    }
    differences
}

#[track_caller]
pub fn assert_as_foretold(world: &mut World, book: &Book) {
    let differences = differences(world, book);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Each file that is named is there, with the bytes that are recorded, but for those that were spoiled; nothing else lies about.
pub fn assert_files(world: &World, book: &Book, settled: bool) {
    let backups = world.place.backups();
    if !backups.join("metadata.json").exists() {
        return;
    }
    let mut named = BTreeSet::new();
    for backup in world.place.catalog()["backups"].as_array().unwrap().iter().filter(|it| it["deleting"] != true) {
        let kept = book.kept.iter().find(|kept| kept.sequence == backup["sequence"]);
        let spoiled = kept.and_then(|kept| kept.spoiled.as_ref()).map(|spoiled| spoiled.database);
        for (name, copy) in backup["databases"].as_object().unwrap() {
            let file = copy["file"].as_str().unwrap();
            named.insert(file.to_owned());
            if spoiled != Some(name.as_str()) {
                let bytes = std::fs::read(backups.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
                assert_eq!(sha256(&bytes), copy["storedChecksum"].as_str().unwrap(), "{file}");
            }
        }
    }
    if !settled {
        return;
    }
    for (file, mode, is_dir) in tree(&backups) {
        assert_eq!(mode & 0o777, if is_dir { 0o700 } else { 0o600 }, "mode of {file}");
        // What is remembered of a replica is written over by the next replication.
        let is_state = file.starts_with("replicas/.") && file.ends_with(".json.partial");
        let is_left = ["-wal", "-shm", "-journal", ".partial"].iter().any(|ending| file.ends_with(ending)) && !is_state;
        assert!(!is_left && file != "restore.json" && file != "restoring", "{file} was left");
        let in_tier = Tier::ALL.iter().any(|tier| file.starts_with(&format!("{tier}/")));
        assert!(is_dir || !in_tier || named.contains(&file), "{file} is nobody's");
    }
}

/// What readers say fits together.
pub fn assert_readers(world: &World, book: &Book) {
    let status = world.engine.status().unwrap();
    assert_eq!(status.unmanaged, [""; 0]);
    for tier in Tier::ALL {
        let should = book.kept.iter().filter(|kept| kept.tier == tier.name()).count();
        assert_eq!(*status.counts.of(tier), should, "how many {tier} there are");
    }
    let listed: Vec<_> = world.engine.list().unwrap().iter().map(|backup| backup.id).collect();
    let fates = world.engine.fates().unwrap();
    assert!(fates.len() == listed.len() && listed.iter().all(|id| fates.contains_key(id)), "{fates:?} of {listed:?}");
}

/// Each intent has its outcome before the next begins, but for rotations within. Says how the operation itself ended: an outcome of it
/// that was good, one that wasn't, a refusal.
pub fn ends(lines: &[Value], operation: &str) -> Vec<End> {
    let (mut open, mut ends) = (Vec::new(), Vec::new());
    for line in lines.iter().filter(|line| line["operation"] != "replicate") {
        let said = line["operation"].as_str().unwrap();
        match line["kind"].as_str().unwrap() {
            "intent" => {
                assert_eq!(open.is_empty(), said != "rotate", "{line} within {open:?}");
                open.push(said.to_owned());
            }
            "outcome" if said == "recovery" => {}
            "outcome" => {
                assert_eq!(open.pop().as_deref(), Some(said), "no intent of {line}");
                let end = if line["ok"] == true { End::Done } else { End::Failed };
                ends.extend((said == operation).then_some(end));
                assert!(said == operation || said == "rotate", "nobody asked for {line}");
            }
            "refused" => ends.push(End::Refused),
            _ => {}
        }
    }
    assert!(open.is_empty(), "no outcome of {open:?}");
    ends
}

/// One backup here holds what was live when it was taken.
pub fn assert_content(world: &mut World, kept: &Kept) {
    let backup =
        world.place.catalog()["backups"].as_array().unwrap().iter().find(|it| it["id"] == kept.id).unwrap().clone();
    assert_eq!(world.contents(&backup), kept.content.told(), "{}", kept.id);
}
