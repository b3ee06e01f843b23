//! What a superuser does on the page, in a real Chromium: whole stories, with scripts and without. Whatever a browser
//! complains of on the way fails the test.

use crate::browser::Browser;
use crate::browser_itself::pages;
use crate::client::{Server, superuser};
use crate::harness::{Place, sha256};
use crate::inject::SLOW_READS;
use crate::ports::free_address;

/// What would act if it came anywhere unescaped, or turn around what stands beside it.
pub const HOSTILE: &str = "\"><img src=x onerror=alert(1)></script>\u{202e}x";
/// The same as people see it.
pub const SHOWN: &str = "\"><img src=x onerror=alert(1)></script>[U+202E]x";

/// Signs in by the link that the command line prints.
#[track_caller]
pub fn sign_in(browser: &Browser, place: &Place, site: &str, subject: &str) {
    let link = place.json(&["token", "--link", "--subject", subject])["link"].as_str().unwrap().to_owned();
    browser.go(&format!("{site}/sign-in?{}", link.split_once('?').unwrap().1));
    browser.click_on("Sign in");
    browser.wait_for("#main .card");
}

/// A browser of a superuser on the page of this server.
#[track_caller]
pub fn signed_in(place: &Place, server: &Server) -> Browser {
    let browser = Browser::start();
    sign_in(&browser, place, &format!("http://{}", server.address), "grace");
    browser
}

/// Puts the focus there, as the Tab key would in the end.
#[track_caller]
pub fn focus(browser: &Browser, id: &str) {
    browser.wait_for(&format!("#{id}"));
    browser.script(&format!("document.getElementById('{id}').focus()"));
    assert!(browser.has_focus(&format!("#{id}")), "{id} takes no focus");
}

/// What has the focus, told by its id or else its tag.
pub fn focused(browser: &Browser) -> String {
    let told = browser.script("const it = document.activeElement; return it.id || it.tagName");
    told.as_str().unwrap().to_owned()
}

#[track_caller]
fn wait_focus(browser: &Browser, id: &str) {
    browser.wait_until(&format!("{id} has the focus"), || focused(browser) == id);
}

/// A table of a hostile name, and a subject of one.
#[test]
fn a_whole_story_is_done_with_the_keyboard_and_the_mouse() {
    let place = Place::new();
    let table = HOSTILE.replace('"', "\"\"");
    place.sql("attendance", &format!("CREATE TABLE \"{table}\" (id INTEGER PRIMARY KEY)"));
    let server = Server::start(&place);
    let site = format!("http://{}", server.address);
    let browser = Browser::start();
    browser.expect_status(401);
    browser.go(&format!("{site}/settings/backups"));
    assert_eq!(browser.text("h1"), "Sign in");
    sign_in(&browser, &place, &site, HOSTILE);
    assert!(browser.text(".subject").contains(SHOWN));
    browser.wait_text(".sentence", "There is no backup yet");
    // Whatever is done from here on, the page is not left: this would be lost.
    browser.script("window.kept = true");

    let id = create_it(&browser, &place);
    download_it(&browser, &place, &id);
    verify_and_pin_it(&browser, &place, &id);
    place.sql("attendance", &format!("DELETE FROM people WHERE id > 1; INSERT INTO \"{table}\" VALUES (1)"));
    ask_and_go_back(&browser, &id);
    let before = restore_and_undo(&browser, &place, &id);
    delete_it(&browser, &place, &before);

    assert_eq!(browser.script("return window.kept"), true, "the page was left");
    browser.click("h3 a");
    browser.wait_text("h1", "pre-restore-");
    assert!(browser.text("main").contains(SHOWN));
    browser.click_on("Sign out");
    browser.wait_text("h1", "Sign in");
    browser.expect_status(401);
    browser.go(&format!("{site}/settings/backups"));
    assert_eq!(browser.text("h1"), "Sign in");
    place.assert_whole();
}

/// For a browser a page at another port of this host is of the same site, so that the session is sent along with its forms; with
/// those of another host it is not.
#[test]
fn forms_that_other_sites_send_by_themselves_change_nothing() {
    let place = Place::new();
    let server = Server::start(&place);
    let site = format!("http://{}", server.address);
    let browser = Browser::with(&["--host-resolver-rules=MAP evil.example 127.0.0.1"]);
    sign_in(&browser, &place, &site, "grace");
    let port = pages().port();
    for (host, status) in [("127.0.0.1", 403), ("evil.example", 401)] {
        for path in ["settings/backups/create", "sign-out"] {
            browser.expect_status(status);
            browser.go(&format!("http://{host}:{port}/forged/{}/{path}", server.address));
            browser.wait_until("the answer", || browser.url() == format!("{site}/{path}"));
            browser.assert_quiet();
        }
    }
    browser.go(&format!("{site}/settings/backups"));
    browser.wait_text(".sentence", "There is no backup yet");
    let refused = place.audit().into_iter().filter(|line| line["code"] == "cross-site").count();
    assert_eq!((refused, place.list().len()), (2, 0));
}

fn create_it(browser: &Browser, place: &Place) -> String {
    browser.fill("#reason", HOSTILE);
    for _ in 0..5 {
        if !browser.has_focus(".create button") {
            browser.press("Tab");
        }
    }
    browser.press("Enter");
    browser.wait_text("#outcome", "was taken");
    assert!(browser.has_focus(".create button"), "the focus went to {}", focused(browser));
    browser.wait_text("#list", SHOWN);
    browser.wait_text(".sentence", "2 things want a look");
    // It is taken, and nobody wants the same words for the next one.
    assert_eq!(browser.property("#reason", "value").as_deref(), Some(""));
    place.ids().remove(0)
}

/// By keyboard to the menu, by mouse to the file.
fn download_it(browser: &Browser, place: &Place, id: &str) {
    let (summary, file) = (format!("download-{id}"), "//details[@open]//a[contains(., 'attendance.db')]");
    focus(browser, &summary);
    browser.press("Enter");
    browser.wait_for(file);
    browser.press("Tab");
    assert!(browser.has_focus(file));
    browser.press("Escape");
    browser.wait_gone(file);
    assert_eq!(focused(browser), summary);
    browser.press("Enter");
    browser.click(file);
    let bytes = std::fs::read(browser.downloaded(&format!("attendance-{id}.db"))).unwrap();
    assert_eq!(sha256(&bytes), place.list()[0]["databases"]["attendance"]["checksum"].as_str().unwrap());
    browser.wait_gone("details[open]");
}

fn verify_and_pin_it(browser: &Browser, place: &Place, id: &str) {
    let more = format!("#more-{id}");
    browser.click(&more);
    browser.click(&format!("#verify-{id}"));
    browser.wait_text(&format!("#outcome-{id}"), "is whole");
    for (word, pinned) in [("Pin", true), ("Unpin", false), ("Pin", true)] {
        browser.click(&more);
        browser.wait_text(&format!("#pin-{id}"), word);
        browser.click(&format!("#pin-{id}"));
        browser.wait_until("it is pinned or not", || browser.text(".backup .marks").contains("Pinned") == pinned);
        assert_eq!(place.list()[0]["pinned"], pinned);
    }
}

/// A dialog opens and closes, and the focus is where one goes on.
fn ask_and_go_back(browser: &Browser, id: &str) {
    let opener = format!("restore-{id}");
    focus(browser, &opener);
    browser.press("Enter");
    wait_focus(browser, "dialog-title");
    for keys in ["Tab", "Shift+Tab"] {
        for _ in 0..8 {
            browser.press(keys);
            let outside = "return !['BODY', 'HTML'].includes(document.activeElement.tagName) && \
                           !document.getElementById('dialog').contains(document.activeElement)";
            assert_eq!(browser.script(outside), false, "{keys} led out of the dialog, to {}", focused(browser));
        }
    }
    browser.press("Escape");
    browser.wait_gone("#dialog");
    assert_eq!(focused(browser), opener);
    browser.click(&format!("#{opener}"));
    browser.wait_for("#dialog[open] .confirm");
    browser.click_on("Cancel");
    browser.wait_gone("#dialog");
    assert_eq!(focused(browser), opener);
}

fn restore_and_undo(browser: &Browser, place: &Place, id: &str) -> String {
    let people = || place.sql("attendance", "SELECT group_concat(name) FROM people");
    browser.click(&format!("#restore-{id}"));
    browser.wait_text("#dialog .difference", "people");
    assert!(browser.text("#dialog").contains(SHOWN));
    browser.fill("#confirm", "daily-2026-01-01");
    browser.expect_status(400);
    browser.press("Enter");
    browser.wait_text("#dialog-outcome", "Nothing was changed: type");
    assert_eq!((people().as_str(), focused(browser).as_str()), ("Ada", "confirm"));
    browser.fill("#confirm", id);
    browser.press("Enter");
    browser.wait_text("#dialog", &format!("{id} was restored"));
    assert_eq!(people(), "Ada,Ben,Carla");
    assert_eq!(focused(browser), "dialog-title");

    let before = place.ids().into_iter().find(|id| id.starts_with("pre-restore")).unwrap();
    browser.click_on("Undo");
    browser.wait_text("#dialog-title", &format!("Restore {before}"));
    browser.fill("#confirm", &before);
    browser.click("#dialog .dangerous");
    browser.wait_text("#dialog", &format!("{before} was restored"));
    assert_eq!(people(), "Ada");
    browser.click_on("Close");
    browser.wait_gone("#dialog");
    assert_eq!(focused(browser), format!("restore-{id}"));
    before
}

fn delete_it(browser: &Browser, place: &Place, id: &str) {
    let more = format!("more-{id}");
    let ask = || {
        focus(browser, &more);
        browser.press("Enter");
        browser.click(&format!("#delete-{id}"));
        wait_focus(browser, "dialog-title");
    };
    ask();
    browser.click_on("Keep it");
    browser.wait_gone("#dialog");
    assert_eq!(focused(browser), more);
    assert!(place.ids().iter().any(|it| it == id));
    ask();
    browser.click("#dialog .dangerous");
    browser.wait_text("#outcome", &format!("{id} was deleted"));
    browser.wait_gone(&format!("#{more}"));
    wait_focus(browser, "list-title");
    assert!(!place.ids().iter().any(|it| it == id));
}

/// While another process takes a backup the card says so, and then the list has it; nobody loses what they were at.
#[test]
fn what_is_done_elsewhere_shows_by_itself_and_disturbs_nobody() {
    let place = Place::new();
    place.fill(40);
    place.create();
    let first = place.ids().remove(0);
    let server = Server::start(&place);
    let elsewhere = place.halted_create();
    let browser = signed_in(&place, &server);
    browser.wait_text(".operation", "A backup is being taken");
    browser.wait_text(".operation", "attendance · ");
    browser.fill("#reason", "half a sent");
    let run = elsewhere.goes_on();
    assert_eq!(run.code, 0, "{}", run.stderr);
    browser.wait_text("#filter-all", "All 2");
    browser.wait_gone(".operation");
    browser.press("e");
    assert_eq!(browser.property("#reason", "value").as_deref(), Some("half a sente"));
    assert_eq!(focused(&browser), "reason");
    browser.wait_until("the calendar has both", || browser.count("a.cell[title$='2 backups']") == 3);

    // A question about one that went meanwhile is answered in a dialog too.
    browser.wait_for(&format!("#restore-{first}"));
    place.ok(&["delete", &first]);
    browser.expect_status(404);
    browser.click(&format!("#restore-{first}"));
    browser.wait_text("#dialog-title", "No such backup");
    browser.click_on("Close");
    browser.wait_gone("#dialog");
    assert_eq!(focused(&browser), format!("restore-{first}"));

    // By its id the focus is found again in what takes the place of what had it.
    let nameless = "return [...document.querySelectorAll(':is(#now, #list, #calendar) :is(a, button, summary, input)')]
        .filter(it => !it.id && it.type !== 'hidden').map(it => it.outerHTML)";
    assert_eq!(browser.script(nameless), serde_json::json!([]));

    // What is new comes in under an open menu.
    let second = place.ids().remove(0);
    focus(&browser, &format!("more-{second}"));
    browser.press("Enter");
    browser.press("Tab");
    assert_eq!(focused(&browser), format!("verify-{second}"));
    browser.script(
        "document.getElementById('list').old = true; document.body.dispatchEvent(new Event('backups-changed'))",
    );
    browser.wait_until("the list is another", || browser.script("return !document.getElementById('list').old") == true);
    assert_eq!(focused(&browser), format!("verify-{second}"));
    assert!(browser.is_shown(&format!("#verify-{second}")));
    place.assert_whole();
}

/// It is told once, wherever it was met; nothing was changed, and from there one signs in and comes back.
#[test]
fn a_session_that_ends_in_the_middle_is_told_once() {
    let place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    place.fill(40);
    let server = Server::start(&place);
    let stopped = place.halted_create();
    let browser = signed_in(&place, &server);
    browser.wait_for(".operation");
    browser.fill("#reason", "before the exams");
    browser.expect_status(401);
    browser.forget_cookies();
    browser.wait_gone(".operation");
    assert_eq!(browser.text(".card .notice .title"), "Your session has ended");
    // It would have asked three times meanwhile.
    std::thread::sleep(std::time::Duration::from_secs(3));
    browser.assert_quiet();
    drop(stopped);

    browser.expect_status(401);
    browser.click_on("Create backup now");
    browser.wait_text("#outcome", "Nothing was changed. Sign in again.");
    assert_eq!(browser.property("#reason", "value").as_deref(), Some("before the exams"));
    assert_eq!(place.ids(), [id.as_str()]);
    browser.expect_status(401);
    browser.click(&format!("#restore-{id}"));
    browser.wait_text("#dialog-title", "Your session has ended");
    browser.click_on("Close");
    browser.expect_status(401);
    browser.click("#outcome a");
    browser.fill("#token", &superuser());
    browser.press("Enter");
    browser.wait_for(".card");
    assert!(browser.url().ends_with("/settings/backups"));
}

/// The bar moves, and what is cancelled leaves nothing.
#[test]
fn a_create_is_watched_and_cancelled() {
    let place = Place::new();
    place.fill(20);
    let server = place.slowed(SLOW_READS);
    let browser = signed_in(&place, &server);
    browser.click_on("Create backup now");
    let cancel = "#outcome .errand button";
    browser.wait_for(cancel);
    let share =
        || browser.script("const bar = document.querySelector('#outcome progress'); return bar ? bar.value : 1");
    let mut shares = Vec::new();
    browser.wait_until("the bar moves", || {
        shares.push(share().as_f64().unwrap());
        shares.last() > shares.first()
    });
    assert!(shares.last() < Some(&1.0), "{shares:?}");
    browser.script("document.querySelector('#outcome .errand button').focus()");
    browser.press("Enter");
    browser.wait_text("#outcome", "cancelled");
    browser.wait_until("the focus is near", || browser.has_focus("#outcome"));
    assert!(place.ids().is_empty());
    place.assert_whole();
}

/// Plain HTTP under a name of its own: a browser sends no `Sec-Fetch-Site` there.
fn on_plain_http(place: &mut Place) -> (Server, String) {
    let address = free_address();
    let site = format!("http://backups.example:{}", address.port());
    place.set("BACKUP_BIND", &address.to_string()).set("BACKUP_PUBLIC_URL", &site);
    (Server::start(place), site)
}

const NAMED: &str = "--host-resolver-rules=MAP backups.example 127.0.0.1";

#[test]
fn on_plain_http_the_page_works() {
    let mut place = Place::new();
    let (_server, site) = on_plain_http(&mut place);
    let browser = Browser::with(&[NAMED]);
    sign_in(&browser, &place, &site, "grace");
    browser.click_on("Create backup now");
    browser.wait_text("#outcome", "was taken");
    browser.click_on("Sign out");
    browser.wait_text("h1", "Sign in");
}

#[test]
fn without_scripts_a_backup_is_taken_restored_and_deleted() {
    let mut place = Place::new();
    let (_server, site) = on_plain_http(&mut place);
    let browser = Browser::without_javascript(&[NAMED]);
    sign_in(&browser, &place, &site, HOSTILE);
    browser.fill("#reason", HOSTILE);
    browser.click_on("Create backup now");
    browser.wait_text("#outcome", "was taken");
    assert!(browser.text("#list").contains(SHOWN));
    let id = place.ids().remove(0);

    place.sql("attendance", "DELETE FROM people WHERE id > 1");
    let people = || place.sql("attendance", "SELECT group_concat(name) FROM people");
    let restore = |id: &str, confirm: &str| {
        browser.click(&format!("#restore-{id}"));
        browser.wait_text("main", "people");
        browser.fill("#confirm", confirm);
        browser.click("main .dangerous");
    };
    browser.expect_status(400);
    restore(&id, "daily-2026-01-01");
    browser.wait_text("#dialog-outcome", "Nothing was changed: type");
    assert_eq!(people(), "Ada");
    browser.fill("#confirm", &id);
    browser.click("main .dangerous");
    browser.wait_text("#outcome", &format!("{id} was restored"));
    assert_eq!(people(), "Ada,Ben,Carla");
    let before = place.ids().into_iter().find(|id| id.starts_with("pre-restore")).unwrap();
    browser.click_on("Undo");
    browser.fill("#confirm", &before);
    browser.click("main .dangerous");
    browser.wait_text("#outcome", &format!("{before} was restored"));
    assert_eq!(people(), "Ada");

    browser.click(&format!("#more-{before}"));
    browser.click(&format!("#delete-{before}"));
    browser.wait_text("main", "can't be undone");
    browser.click("main .dangerous");
    browser.wait_text("#outcome", &format!("{before} was deleted"));
    assert!(!place.ids().contains(&before));
    place.assert_whole();
}
