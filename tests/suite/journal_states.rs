//! What each state was as a whole, noted beside the journal: files that are whole and not those that were written are found out, and
//! what is noted wrongly or not at all stops nothing.

use std::fs::{FileTimes, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use attendance_backup::journal::folder::folder;
use attendance_backup::journal::ltx::{Decoder, Encoder};
use attendance_backup::journal::{FileName, Level, states};
use chrono::{DateTime, SecondsFormat, Utc};

use crate::client::Server;
use crate::harness::{Place, kill};
use crate::journal_live::{index, live, place, rebuilt, ticked};

/// Puts a file in the place of another that differs in nothing but the last byte of its last page, with its checksum and its time.
pub fn falsify(path: &Path) {
    let mut decoder = Decoder::new(std::fs::File::open(path).unwrap()).unwrap();
    let header = decoder.header();
    let (mut pages, mut page) = (Vec::new(), Vec::new());
    while let Some(number) = decoder.page(&mut page).unwrap() {
        pages.push((number, page.clone()));
    }
    *pages.last_mut().unwrap().1.last_mut().unwrap() ^= 1;
    let aside = path.with_extension("other");
    let mut encoder = Encoder::new(std::fs::File::create(&aside).unwrap(), header).unwrap();
    pages.iter().for_each(|(number, page)| encoder.page(*number, page).unwrap());
    encoder.finish().unwrap();
    let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_millis(header.millis));
    let file = OpenOptions::new().write(true).open(&aside).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.set_times(times).unwrap();
    std::fs::rename(&aside, path).unwrap();
}

/// In all files that lead from the first state of `attendance` to the next: those of some time are joined.
pub fn falsify_changes(place: &Place) {
    let (journal, index) = (folder(&place.backups(), &"attendance".parse().unwrap()), index(place, "attendance"));
    let next = index.level(Level::CAPTURED)[0].name.max;
    let leads_there = |name: &&FileName| name.level != Level::SNAPSHOT && name.min <= next && next <= name.max;
    index.files().map(|file| &file.name).filter(leads_there).for_each(|name| falsify(&name.path(&journal)));
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The first backup, and three states of `attendance`, the first with the snapshot.
fn kept(place: &Place) -> Vec<DateTime<Utc>> {
    place.create();
    let server = Server::start(place);
    let mut times = vec![ticked(place)];
    for name in ["Dora", "Emil"] {
        place.sql("attendance", &format!("INSERT INTO people (name) VALUES ('{name}')"));
        times.push(ticked(place));
    }
    stop(server);
    times
}

fn stop(mut server: Server) {
    kill(&mut server.child);
}

#[test]
fn each_state_that_is_captured_is_noted() {
    let place = place("200ms");
    kept(&place);
    for name in ["attendance", "auth"] {
        let folder = folder(&place.backups(), &name.parse().unwrap());
        let index = index(&place, name);
        // Those of some time are joined, and don't go for that.
        let files: Vec<_> = [Level::SNAPSHOT, Level::CAPTURED].iter().flat_map(|level| index.level(*level)).collect();
        assert_eq!(files.len(), if name == "auth" { 1 } else { 3 });
        assert!(files.iter().all(|file| states::find(&folder, (*file).into()).is_some()), "{name}");
    }
}

#[test]
fn a_whole_file_that_is_not_the_one_that_was_written_leads_nowhere() {
    let place = place("200ms");
    let times = kept(&place);
    falsify_changes(&place);
    let before = live(&place, "attendance");
    let at = text(times[1]);
    for args in [&["preview", "--at", &at][..], &["restore", "--at", &at, "--confirm", &at]] {
        place.run(args).refused(1, &["don't come to what the database was", "choose another instant, or a backup"]);
    }
    assert_eq!(live(&place, "attendance"), before);
    assert!(!place.backups().join("restoring").exists());
    let at = text(times[0]);
    place.ok(&["restore", "--at", &at, "--confirm", &at]);
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people").trim(), "3");
    place.assert_whole();
}

#[test]
fn what_is_noted_badly_stops_nothing() {
    let place = place("200ms");
    kept(&place);
    let path = folder(&place.backups(), &"attendance".parse().unwrap()).join("states");
    let whole = std::fs::read(&path).unwrap();
    for (bytes, said) in [(&whole[..whole.len() - 9], false), (b"{}", true)] {
        std::fs::write(&path, bytes).unwrap();
        let server = Server::start(&place);
        place.sql("attendance", "UPDATE people SET name = name || '!'");
        let at = ticked(&place);
        assert_eq!(server.log().contains("states is damaged; it is put aside"), said, "{}", server.log());
        assert_eq!(rebuilt(&place, "attendance", at), live(&place, "attendance"));
        stop(server);
    }
    let point = index(&place, "attendance").newest().unwrap();
    assert!(states::find(path.parent().unwrap(), point).is_some());
    // Nothing can be written there at all.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let server = Server::start(&place);
    place.sql("attendance", "UPDATE people SET name = name || '?'");
    let at = ticked(&place);
    assert!(server.log().contains("is not compared"), "{}", server.log());
    assert_eq!(rebuilt(&place, "attendance", at), live(&place, "attendance"));
    stop(server);
}
