//! Databases that somebody else has written: nothing that is in them ends the program, holds it for long or takes its memory, and a
//! restore of one leaves the live database whole: as it was, or as that one is.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attendance_backup::backup::{CheckKind, DatabaseName, Subject, Tier};
use attendance_backup::clock::Clock;
use attendance_backup::config::Config;
use attendance_backup::engine::{Actor, Call, Create, Engine, Restore};
use attendance_backup::sqlite::diff::{Bounds, compare};
use attendance_backup::sqlite::kind::Kind;
use attendance_backup::sqlite::snapshot::facts;
use attendance_backup::sqlite::{Control, Source, check, open_finished};
use proptest::prelude::*;

use crate::fuzz::{cases, changed, corpus};
use crate::harness::{Place, dump, sha256, sql_on_copy};

/// A machine that has much else to do gets there in this time; what never ends doesn't.
const LONG: Duration = Duration::from_secs(300);

/// A place with a database of the corpus as both live ones, and the engine on it.
struct Bench {
    place: Place,
    engine: Engine,
}

impl Bench {
    fn new() -> Self {
        let place = Place::empty();
        for name in ["attendance", "auth"] {
            std::fs::write(place.live(name), &corpus("database")[0]).unwrap();
        }
        let config = Config::load(&place.environment().into_iter().collect()).unwrap();
        let clock = Clock::from_fn(|| "2026-03-01T12:00:00Z".parse().unwrap());
        let engine = Engine::new(Arc::new(config), clock).unwrap();
        Self { place, engine }
    }

    /// Puts these bytes into a new backup, as if they had been backed up.
    fn forged(&self, bytes: &[u8]) -> Subject {
        let create = Create { tier: Tier::Manual, reason: None, accept_shrink: true };
        let id = self.engine.create(&create, &Call::new(Actor::cli())).unwrap().backup.id;
        let mut catalog = self.place.catalog();
        let backups = catalog["backups"].as_array_mut().unwrap();
        let backup = backups.iter_mut().find(|backup| backup["id"] == id.to_string()).unwrap();
        let copy = &mut backup["databases"]["auth"];
        std::fs::write(self.place.backups().join(copy["file"].as_str().unwrap()), bytes).unwrap();
        let page_size = bytes.get(16..18).map_or(0, |it| u32::from(u16::from_be_bytes([it[0], it[1]])));
        copy["pageSize"] = if page_size == 1 { 65536 } else { page_size }.into();
        for (size, sum) in [("size", "checksum"), ("storedSize", "storedChecksum")] {
            copy[size] = bytes.len().into();
            copy[sum] = sha256(bytes).into();
        }
        copy.as_object_mut().unwrap().remove("storedXxh3");
        std::fs::write(self.place.backups().join("metadata.json"), catalog.to_string()).unwrap();
        id.into()
    }
}

fn name() -> DatabaseName {
    "auth".parse().unwrap()
}

/// Everything that looks into a copy.
fn looked(copy: &Path, live: &Path) {
    let control = Control::default().within(Instant::now(), Duration::from_secs(10));
    for kind in [CheckKind::Quick, CheckKind::Integrity] {
        if let Ok(mut connection) = open_finished(copy) {
            let _ = (check::check(&mut connection, &name(), kind, &control), facts(&connection), Kind::of(&connection));
        }
    }
    let Ok(connection) = open_finished(copy) else { return };
    let source = Source { name: name(), path: live.to_owned() };
    let bounds = Bounds { lock_timeout: Duration::from_secs(1), rollback_hold: Duration::from_secs(5) };
    let _ = compare(&source, connection, &Default::default(), &bounds, &control);
}

proptest! {
    #![proptest_config(cases(120, "proptest-regressions/fuzz_databases.txt"))]

    #[test]
    fn a_look_at_one_ends(bytes in changed(corpus("database"))) {
        let bench = Bench::new();
        let copy = bench.place.path("copy.db");
        std::fs::write(&copy, &bytes).unwrap();
        let begun = Instant::now();
        looked(&copy, &bench.place.live("auth"));
        prop_assert!(begun.elapsed() < LONG, "it took {:?}", begun.elapsed());
        prop_assert!(std::fs::read(&copy).unwrap() == bytes, "a look has changed it");
        let beside = ["-wal", "-shm", "-journal"].iter().any(|ending| bench.place.path(&format!("copy.db{ending}")).exists());
        prop_assert!(!beside, "something lies beside it");
    }
}

proptest! {
    #![proptest_config(cases(25, "proptest-regressions/fuzz_databases.txt"))]

    #[test]
    fn a_restore_of_one_leaves_the_live_one_whole(bytes in changed(corpus("database")), force in any::<bool>()) {
        let bench = Bench::new();
        let live = || dump(&bench.place.live("auth"), false);
        let before = live();
        let subject = bench.forged(&bytes);
        let begun = Instant::now();
        let call = Call::new(Actor::cli());
        let _ = bench.engine.preview(subject, &call);
        let restored = bench.engine.restore(&Restore { subject, force, offline: None }, &call);
        prop_assert!(begun.elapsed() < LONG, "it took {:?}", begun.elapsed());
        prop_assert_eq!(bench.place.sql("auth", "PRAGMA integrity_check"), "ok");
        if restored.is_err() {
            prop_assert_eq!(live(), before);
        } else {
            bench.engine.undo(force, None, &call).unwrap();
            prop_assert_eq!(live(), before);
        }
    }
}

/// A backup of a live database that is damaged in any way ends as well, and never counts as good unless SQLite finds it whole.
fn backed_up(bytes: &[u8]) -> Result<(), TestCaseError> {
    let bench = Bench::new();
    std::fs::write(bench.place.live("auth"), bytes).unwrap();
    let begun = Instant::now();
    let create = Create { tier: Tier::Manual, reason: None, accept_shrink: false };
    let created = bench.engine.create(&create, &Call::new(Actor::cli()));
    prop_assert!(begun.elapsed() < LONG, "it took {:?}", begun.elapsed());
    if let Ok(created) = created {
        let copy = &created.backup.databases[&name()];
        let path = bench.place.backups().join(&copy.file);
        prop_assert!(copy.size > 0 && created.backup.is_good());
        let whole = sql_on_copy(&path, "PRAGMA quick_check");
        prop_assert!(whole == "ok", "{} was taken for whole", whole);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(40, "proptest-regressions/fuzz_databases.txt"))]

    #[test]
    fn a_backup_of_one_is_good_only_if_it_is_whole(bytes in changed(corpus("database"))) {
        backed_up(&bytes)?;
    }
}
