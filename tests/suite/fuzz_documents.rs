//! Documents that lie in a backup directory or in a replica, changed by somebody or by a disk: they are refused with a clean word, or
//! taken, and then whatever is made of them can be read again.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use attendance_backup::backup::replica::{ReplicaCatalog, ReplicaEntry, Wishes, plan};
use attendance_backup::backup::retention::Retention;
use attendance_backup::backup::settings::{Saved, SavedRetention};
use attendance_backup::backup::{BackupId, Tier};
use attendance_backup::clock::Clock;
use attendance_backup::config::Config;
use attendance_backup::engine::{Activity, Actor, AuditQuery, Call, Change, Create, Engine, Error, Offline};
use attendance_backup::journal::until::Until;
use proptest::prelude::*;

use crate::fuzz::{assert_told, cases, changed, corpus, document};

/// A backup directory with these files, and no database beside it.
struct Shelf {
    dir: tempfile::TempDir,
    engine: Engine,
}

impl Shelf {
    fn with(files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("backups");
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();
        for (name, bytes) in files {
            std::fs::write(root.join(name), bytes).unwrap();
        }
        let text = |path: PathBuf| path.display().to_string();
        let environment = [
            ("BACKUP_DIRECTORY", text(root)),
            ("BACKUP_DATABASES", format!("attendance={0}/attendance.db,auth={0}/auth.db", dir.path().display())),
            ("BACKUP_TIMEZONE", "UTC".to_owned()),
        ];
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let clock = Clock::from_fn(|| "2026-03-01T12:00:00Z".parse().unwrap());
        let engine = Engine::new(Arc::new(Config::load(&environment).unwrap()), clock).unwrap();
        Self { dir, engine }
    }

    fn call() -> Call {
        Call::new(Actor::cli())
    }
}

/// It went well, or it says why not.
#[track_caller]
fn told<T>(answer: Result<T, Error>) -> Option<T> {
    answer.inspect_err(|error| assert_told(&error.to_string())).ok()
}

/// Much goes, so that rotation has to do with whatever is there.
fn little() -> Change {
    let retention =
        SavedRetention { daily: Some(1), weekly: Some(1), monthly: Some(1), manual: Some(1), pre_restore: Some(2) };
    Change { set: Saved { retention, ..Saved::default() }, reset: false, dry_run: false, expected: None }
}

proptest! {
    #![proptest_config(cases(150, "proptest-regressions/fuzz_documents.txt"))]

    #[test]
    fn a_catalog(bytes in document("catalog"), before in document("catalog")) {
        let shelf = Shelf::with(&[("metadata.json", &bytes), ("metadata.json.previous", &before)]);
        let engine = &shelf.engine;
        let (_, _, _) = (told(engine.status()), told(engine.fates()), told(engine.is_ready()));
        if let Some(listed) = told(engine.list()) {
            for backup in listed.iter().take(3) {
                told(engine.get(&backup.id));
                told(engine.verify(&backup.id, &Shelf::call()));
                told(engine.pin(backup.id, true, &Shelf::call()));
            }
            if told(engine.change_settings(&little(), &Shelf::call())).is_some() {
                engine.list().unwrap();
            }
            if let Some(one) = listed.first() {
                told(engine.delete(one.id, true, &Shelf::call()));
                engine.list().unwrap();
            }
        }
        told(engine.rebuild(&Shelf::call()));
        prop_assert!(shelf.dir.path().read_dir().unwrap().count() == 1, "something lies outside of the backup directory");
    }

    #[test]
    fn saved_settings(bytes in document("settings")) {
        let shelf = Shelf::with(&[("settings.json", &bytes)]);
        let engine = &shelf.engine;
        if let Some(settings) = told(engine.settings()) {
            prop_assert_eq!(settings.validate(), Ok(()));
        }
        let (_, _) = (told(engine.status()), told(engine.config_view()));
        told(engine.outlook(&little(), &Shelf::call()));
        if told(engine.change_settings(&little(), &Shelf::call())).is_some() {
            prop_assert_eq!(engine.settings().unwrap().retention.daily, 1);
        }
        let reset = Change { reset: true, ..Change::default() };
        engine.change_settings(&reset, &Shelf::call()).unwrap();
        prop_assert_eq!(engine.settings().unwrap().retention, Retention::default());
    }

    #[test]
    fn an_audit_log(bytes in changed(corpus("audit")), catalog in document("catalog")) {
        let catalog: &[(&str, &[u8])] = &[("audit.jsonl", &bytes), ("metadata.json", &catalog)];
        let shelf = Shelf::with(catalog);
        let engine = &shelf.engine;
        let (_, _, _) = (told(engine.verify_audit()), told(engine.status()), told(engine.last_drill()));
        let query: AuditQuery = serde_json::from_str(r#"{"limit":200}"#).unwrap();
        told(engine.audit_page(&query));
        engine.record_refusal("delete", &Actor::cli(), "not-found", "there is none".to_owned());
        if engine.assert_expected().is_ok() {
            let page = engine.audit_page(&query).unwrap();
            prop_assert_eq!(page.lines[0].entry.reason.as_deref(), Some("there is none"));
        }
        told(engine.activity(&Activity::default()));
    }

    /// What a restore that was cut short has left: without its private copies no live byte changes on the word of it.
    #[test]
    fn a_plan_of_a_restore(bytes in document("plan"), catalog in document("catalog")) {
        let shelf = Shelf::with(&[("restore.json", &bytes), ("metadata.json", &catalog)]);
        let live = ["attendance.db", "auth.db"].map(|name| shelf.dir.path().join(name));
        live.iter().for_each(|path| std::fs::write(path, &corpus("database")[1]).unwrap());
        let engine = &shelf.engine;
        let (_, _, _) = (told(engine.status()), told(engine.list()), told(engine.is_ready()));
        let create = Create { tier: Tier::Manual, reason: None, accept_shrink: true };
        told(engine.create(&create, &Shelf::call()));
        for offline in [None, Some(Offline { app_is_stopped: true })] {
            told(engine.undo(true, offline, &Shelf::call()));
        }
        prop_assert!(live.iter().all(|path| std::fs::read(path).unwrap() == corpus("database")[1]));
        prop_assert_eq!(shelf.dir.path().read_dir().unwrap().count(), 3, "something lies outside of the backup directory");
    }

    #[test]
    fn a_replicas_catalog(bytes in document("replica-catalog")) {
        match ReplicaCatalog::parse(&bytes) {
            Err(reason) => assert_told(&reason),
            Ok(catalog) => {
                let again = ReplicaCatalog::parse(&catalog.to_bytes());
                prop_assert_eq!(again.as_ref(), Ok(&catalog));
                let (_, _, _) = (catalog.keys(), catalog.damaged(), catalog.latest(None));
                let chains = catalog.chains();
                let _ = chains.unsound();
                for held in &catalog.backups {
                    // Whatever it becomes here has a name that is read again.
                    for tier in Tier::ALL {
                        let id = BackupId::new(tier, held.origin.timestamp, held.local_date);
                        prop_assert_eq!(id.to_string().parse(), Ok(id));
                    }
                    for name in held.databases.keys() {
                        let _ = (chains.steps(held.origin, name), chains.is_stood_on(held.origin, name), chains.key(held.origin, name));
                    }
                    let _ = held.size();
                }
                for own in [false, true] {
                    let retention = Retention { daily: 1, weekly: 1, monthly: 1, manual: 1, pre_restore: 2 };
                    let wishes = Wishes { retention: &retention, own, encrypts: false, known: &BTreeSet::new(), freeze: None };
                    let planned = plan(&[], &catalog.backups, wishes);
                    // What is written then is read again.
                    let mut next = catalog.clone();
                    next.backups.retain(|held| !planned.drop.iter().any(|(origin, _)| *origin == held.origin));
                    for held in &mut next.backups {
                        if let Some(amended) = planned.amend.iter().find(|amended| amended.origin == held.origin) {
                            held.id = amended.id;
                        }
                    }
                    let ids: BTreeSet<_> = next.backups.iter().map(|held| held.id).collect();
                    if ids.len() == next.backups.len() && next.remnants.is_empty() {
                        let parsed = ReplicaCatalog::parse(&next.to_bytes());
                        prop_assert!(parsed.is_ok() || next.validate().is_err(), "{:?}", parsed);
                    }
                }
            }
        }
    }

    #[test]
    fn an_entry_in_a_replica(bytes in document("replica-entry"), catalog in document("replica-catalog")) {
        if let (Ok(entry), Ok(catalog)) = (serde_json::from_slice::<ReplicaEntry>(&bytes), ReplicaCatalog::parse(&catalog)) {
            for held in &catalog.backups {
                if entry.is_of(held, &catalog.store_id) {
                    prop_assert!(entry.backup.databases.keys().eq(held.databases.keys()));
                }
            }
        }
    }

    #[test]
    fn until_when_a_journal_is_there(bytes in document("until")) {
        match Until::parse(&bytes) {
            Err(reason) => assert_told(&reason),
            Ok(until) => {
                prop_assert_eq!(Until::parse(&until.to_bytes()), Ok(until.clone()));
                for name in until.databases.keys() {
                    let _ = until.missing(name, None);
                }
            }
        }
    }
}

/// Such a backup, brought from a replica or promoted, would have an id that nobody can read, and the catalog with it.
#[test]
fn a_time_that_no_id_can_have_is_refused() {
    for (field, text) in [
        ("timestamp", "+10000-01-01T00:00:00.000Z"),
        ("timestamp", "-0001-12-31T00:00:00.000Z"),
        ("localDate", "+262142-12-31"),
        ("localDate", "0000-01-01"),
    ] {
        let spoiled = |kind: &str| {
            let mut document: serde_json::Value = serde_json::from_slice(&corpus(kind)[0]).unwrap();
            document["backups"][0][field] = text.into();
            document.to_string().into_bytes()
        };
        assert!(ReplicaCatalog::parse(&spoiled("replica-catalog")).is_err(), "{field} {text}");
        let shelf = Shelf::with(&[("metadata.json", &spoiled("catalog"))]);
        assert_eq!(shelf.engine.list().unwrap_err().code(), "catalog", "{field} {text}");
    }
}
