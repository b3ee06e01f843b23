//! Copies elsewhere on the page: how each stands, what is wrong with it, reading one back, and in which form backups lie.

use std::path::PathBuf;

use crate::client::Server;
use crate::harness::{Place, eventually, tree};
use crate::page_for_all::assert_for_all;
use crate::page_in_chromium::{focus, focused, signed_in};
use crate::ports::free_address;
use crate::visitor::{Visitor, between, words};

const PAGE: &str = "/settings/backups";
/// Shown to a store; never to anybody else.
const CANARY: &str = "canary-of-the-secret-key";

/// One in a folder, and one whose store answers nobody.
fn with_two() -> Place {
    let mut place = Place::new();
    std::fs::create_dir(place.path("nas")).unwrap();
    let closed = free_address();
    place.set("BACKUP_REPLICA_NAS_URL", &format!("fs://{}", place.path("nas").display()));
    place.set("BACKUP_REPLICA_FAR_URL", &format!("s3://school/<b>?endpoint=http://{closed}"));
    place.set("BACKUP_REPLICA_FAR_ACCESS_KEY", "canary-of-the-access-key").set("BACKUP_REPLICA_FAR_SECRET_KEY", CANARY);
    place.set("BACKUP_REPLICA_FAR_TIMEOUT", "1s");
    place
}

/// What the row of a replica says.
fn row(page: &str, name: &str) -> String {
    let rows = page.split("<li class=\"replica\">").skip(1).map(|row| row.split("</li>").next().unwrap());
    let found = rows.map(words).find(|row| row.starts_with(name));
    found.unwrap_or_else(|| panic!("no row of {name} in {page}"))
}

/// Until the first has all and the second has failed.
fn settled(visitor: &Visitor) -> String {
    eventually("both were tried", || {
        let page = visitor.get(PAGE).text();
        (row(&page, "nas").contains("Up to date") && row(&page, "far").contains("Failing since")).then_some(page)
    })
}

/// The objects of databases in the folder.
fn objects(place: &Place) -> Vec<PathBuf> {
    let files = tree(&place.path("nas")).into_iter().map(|(file, ..)| file);
    files.filter(|file| file.contains("attendance.db")).map(|file| place.path("nas").join(file)).collect()
}

#[test]
fn each_replica_says_how_it_stands_and_what_to_do() {
    let place = with_two();
    place.create();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let page = settled(&visitor);
    let nas = row(&page, "nas");
    assert!(nas.contains("Readable by whoever holds it") && nas.contains("Holds 1 backup "), "{nas}");
    assert!(nas.contains("Last complete just now") && nas.contains("Last read back Never"), "{nas}");
    let far = row(&page, "far");
    for told in
        ["1 backup to send", "No connection to the bucket school", "next try in ", "Last complete Never", "&lt;b"]
    {
        assert!(far.contains(told), "{told}: {far}");
    }
    assert!(!page.contains(CANARY) && !page.contains("canary-of-the-access-key"), "{page}");
    // It is told among what wants a look, and the data here is as safe as it was.
    let warnings = words(between(&page, "<ul class=\"warnings\"", "</ul>"));
    assert!(warnings.contains("no connection to the bucket school"), "{warnings}");
    assert!(!page.contains("Your data is not safe"), "{page}");
    // It is in what is asked for again.
    let now = visitor.request("GET", "/settings/backups/now").header("HX-Request", "true").send().text();
    assert!(row(&now, "nas").contains("Up to date"), "{now}");
    let settings = visitor.get("/settings/backups/settings").text();
    assert!(words(&settings).contains("Copies elsewhere far: s3://school/"), "{settings}");
    let told = words(&visitor.get("/settings/backups/activity?operation=replicate&kind=outcome").text());
    assert!(told.contains("Done Replication nas The schedule, just now"), "{told}");
}

#[test]
fn where_there_are_none_the_page_says_nothing_of_them() {
    let place = Place::new();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    assert!(!visitor.get(PAGE).text().contains("Copies elsewhere"));
    let settings = visitor.get("/settings/backups/settings").text();
    assert!(words(&settings).contains("Copies elsewhere None; BACKUP_REPLICA_"), "{settings}");
}

#[test]
fn a_replica_is_read_back_and_what_is_damaged_is_named() {
    let place = with_two();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    settled(&visitor);
    let path = "/settings/backups/replica/nas/verify";
    let page = visitor.follow(&visitor.post(path, &[]));
    assert!(page.contains("All that replica nas holds is whole"), "{page}");
    assert!(row(&page, "nas").contains("Last read back just now"), "{page}");
    // A flipped bit there.
    let object = objects(&place).remove(0);
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, &bytes).unwrap();
    let page = visitor.follow(&visitor.post(path, &[]));
    assert!(page.contains("1 of the 1 backups in replica nas are damaged"), "{page}");
    let outcome = words(between(&page, "id=\"outcome\">", "</section>"));
    assert!(outcome.contains(&id) && outcome.contains("attendance.db") && outcome.contains("sent again"), "{outcome}");
    // As it says.
    eventually("it is sent anew, and what was damaged is gone", || (!object.exists()).then_some(()));
    let part = eventually("it is whole", || {
        let answer = visitor.post_by_htmx(path, &[]);
        (answer.status == 200 && answer.text().contains("is whole")).then_some(answer)
    });
    assert_eq!(part.header("hx-trigger"), Some("backups-changed"));
    // What can't be asked says why, where it was asked.
    let gone = visitor.post_by_htmx("/settings/backups/replica/far/verify", &[]);
    assert!(gone.text().contains("no connection to") || gone.text().contains("being read back"), "{}", gone.text());
    let unknown = visitor.post_by_htmx("/settings/backups/replica/nobody/verify", &[]);
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("there are far, nas"), "{}", unknown.text());
    let lines = visitor.post("/settings/backups/replica/nas%2F..%2Ffar/verify", &[]);
    assert_eq!(lines.status, 404, "{}", lines.text());
}

#[test]
fn a_backup_says_in_which_form_it_lies_and_when_only_ciphertext_was_compared() {
    let mut place = Place::of_form(true, true);
    place.create();
    place.forgets_its_identity();
    place.create();
    let ids = place.ids();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let of = |id: &str| words(&visitor.get(&format!("/settings/backups/backup/{id}")).text());
    let (blind, seen) = (of(&ids[0]), of(&ids[1]));
    for page in [&blind, &seen] {
        assert!(page.contains("Lies compressed and encrypted to 1 recipient, in "), "{page}");
    }
    assert!(blind.contains("Verified as ciphertext") && blind.contains("as ciphertext only: no identity"), "{blind}");
    assert!(!seen.contains("as ciphertext"), "{seen}");
    assert_eq!(words(&visitor.get(PAGE).text()).matches("Verified as ciphertext").count(), 1);
    let page = visitor.follow(&visitor.post(&format!("/settings/backups/backup/{}/verify", ids[1]), &[]));
    assert!(page.contains("the ciphertext is all that was compared"), "{page}");
    place.writes(false, false);
    place.create();
    assert!(of(&place.ids()[0]).contains("Lies as a plain SQLite file"));
}

/// By keyboard, on a screen and on a phone, in light and in dark; what is told stays while the figures around it change.
#[test]
fn a_replica_is_read_back_with_the_keyboard() {
    let place = with_two();
    place.create();
    let server = Server::start(&place);
    let browser = signed_in(&place, &server);
    browser.wait_text(".replicas", "Up to date");
    browser.wait_text(".replicas", "Failing since");
    assert_for_all(&browser, "one replica is fine, one is failing");
    focus(&browser, "verify-replica-nas");
    browser.press("Enter");
    browser.wait_text("#outcome-replica-nas", "All that replica nas holds is whole");
    browser.wait_text(".replicas", "Last read back\njust now");
    assert_eq!(focused(&browser), "verify-replica-nas");
    browser
        .script("document.getElementById('now').old = true; document.body.dispatchEvent(new Event('backups-changed'))");
    browser.wait_until("the card is another", || browser.script("return !document.getElementById('now').old") == true);
    assert!(browser.text("#outcome-replica-nas").contains("is whole"));
    assert_eq!(focused(&browser), "verify-replica-nas");
    browser.phone();
    assert_for_all(&browser, "the same on a phone");
}
