//! Private copies of a backup: of the very bytes that were recorded, for their owner only, and gone when they are let go. Those that
//! `download` hands out are of the recorded bytes too.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use attendance_backup::backup::BackupId;
use attendance_backup::clock::Clock;
use attendance_backup::config::Config;
use attendance_backup::engine::{Actor, Call, Download, Engine, Error, Leaves, Staged};
use attendance_backup::sqlite::{Control, Error as Live};
use serde_json::Value;

use crate::harness::{Place, tree};

/// A place, its one backup of some megabytes, and an engine on it.
struct Stage {
    place: Place,
    engine: Engine,
    backup: Value,
}

impl Stage {
    fn new() -> Self {
        let place = Place::new();
        place.fill(5);
        let backup = place.create();
        let config = Config::load(&place.environment().into_iter().collect()).unwrap();
        let engine = Engine::new(Arc::new(config), Clock::system()).unwrap();
        Self { place, engine, backup }
    }

    fn stage(&self, control: &Control) -> Result<Staged, Error> {
        let id: BackupId = self.backup["id"].as_str().unwrap().parse().unwrap();
        self.engine.stage(&id, control)
    }

    fn file(&self) -> PathBuf {
        self.place.copy(&self.backup, "attendance")
    }

    fn folder(&self) -> PathBuf {
        self.place.backups().join("restoring")
    }
}

/// Acts once, as soon as the copy is under way.
fn during(act: impl Fn() + Send + Sync + 'static) -> Control {
    let done = AtomicBool::new(false);
    Control::default().also(move |progress| {
        if progress.done > 0 && !done.swap(true, Ordering::Relaxed) {
            act();
        }
    })
}

#[test]
fn copies_are_as_recorded_private_and_gone_when_they_are_let_go() {
    let stage = Stage::new();
    let staged = stage.stage(&Control::default()).unwrap();
    assert_eq!(staged.past.subject.to_string(), stage.backup["id"].as_str().unwrap());
    assert_eq!(staged.files.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["attendance", "auth"]);
    for (name, path) in &staged.files {
        let copy = std::fs::read(stage.place.copy(&stage.backup, name.as_str())).unwrap();
        assert!(std::fs::read(path).unwrap() == copy && path.starts_with(staged.folder.path()), "{name}");
    }
    let name = staged.folder.name();
    assert!(name.len() == 32 && staged.folder.path() == stage.folder().join(name), "{name}");
    for (file, mode, is_dir) in tree(&stage.folder()) {
        assert_eq!(mode & 0o777, if is_dir { 0o700 } else { 0o600 }, "{file}");
    }
    // Another one beside it has a folder of its own, and takes none but that away.
    drop(stage.stage(&Control::default()).unwrap());
    assert!(staged.files.values().all(|path| path.exists()));
    drop(staged);
    assert!(!stage.folder().exists());
    stage.place.assert_whole();
}

#[test]
fn a_folder_that_is_kept_stays_until_the_next_operation() {
    let stage = Stage::new();
    let staged = stage.stage(&Control::default()).unwrap();
    let kept = staged.folder.keep();
    assert!(staged.files.values().all(|path| path.starts_with(&kept) && path.exists()));
    stage.place.create();
    assert!(!stage.folder().exists());
}

#[test]
fn what_is_added_to_a_file_meanwhile_is_not_copied_and_what_is_cut_off_is_damage() {
    let stage = Stage::new();
    let (file, recorded) = (stage.file(), std::fs::read(stage.file()).unwrap());
    let append = during(move || {
        let mut file = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
        file.write_all(&[7; 5_000_000]).unwrap();
    });
    let staged = stage.stage(&append).unwrap();
    assert!(stage.file().metadata().unwrap().len() > recorded.len() as u64, "nothing was added");
    assert!(std::fs::read(staged.files.values().next().unwrap()).unwrap() == recorded);
    std::fs::write(stage.file(), &recorded).unwrap();
    let file = stage.file();
    let cut = during(move || std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(2 << 20).unwrap());
    let error = stage.stage(&cut).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }) && error.to_string().contains("SHA-256"), "{error}");
    let error = stage.stage(&Control::default()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }) && error.to_string().contains("bytes instead of"), "{error}");
    std::fs::remove_file(stage.file()).unwrap();
    assert!(matches!(stage.stage(&Control::default()).unwrap_err(), Error::Damaged { .. }));
    drop(staged);
    assert!(!stage.folder().exists());
}

#[test]
fn what_is_added_to_a_file_meanwhile_is_not_handed_out_and_what_is_cut_off_is_damage() {
    let stage = Stage::new();
    let (file, recorded) = (stage.file(), std::fs::read(stage.file()).unwrap());
    let download = |name: &str, control: Control| {
        let target = stage.place.path(name);
        let [id, database] = [stage.backup["id"].as_str().unwrap(), "attendance"];
        let (id, database) = (id.parse().unwrap(), Some(database.parse().unwrap()));
        let download = Download { id, database, leaves: Leaves::Plain, target: target.clone() };
        let done = stage.engine.download(&download, &Call { control, ..Call::new(Actor::scheduler()) });
        (done, std::fs::read(target).ok())
    };
    let append = during(move || {
        let mut file = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
        file.write_all(&[7; 5_000_000]).unwrap();
    });
    let (done, out) = download("longer", append);
    assert!(stage.file().metadata().unwrap().len() > recorded.len() as u64, "nothing was added");
    assert!(done.unwrap() == recorded.len() as u64 && out.as_ref() == Some(&recorded));
    std::fs::write(stage.file(), &recorded).unwrap();
    let file = stage.file();
    let cut = during(move || std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(2 << 20).unwrap());
    let (done, out) = download("shorter", cut);
    assert!(matches!(done.unwrap_err(), Error::Damaged { .. }) && out.is_none());
}

#[test]
fn rotation_takes_nothing_away_and_a_cancelled_copy_leaves_nothing() {
    let stage = Stage::new();
    let (place, id) = (&stage.place, stage.backup["id"].as_str().unwrap());
    let (recorded, file) = (std::fs::read(stage.file()).unwrap(), stage.file());
    let remove = during(move || std::fs::remove_file(&file).unwrap());
    let staged = stage.stage(&remove).unwrap();
    assert!(std::fs::read(staged.files.values().next().unwrap()).unwrap() == recorded);
    drop(staged);
    std::fs::write(stage.file(), recorded).unwrap();
    let control = Control::default();
    let stop = control.cancel_flag();
    let control = control.also(move |progress| stop.store(progress.done > 0, Ordering::Relaxed));
    assert!(matches!(stage.stage(&control), Err(Error::Sqlite(Live::Cancelled))));
    assert!(!stage.folder().exists());
    place.ok(&["verify", id]);
}
