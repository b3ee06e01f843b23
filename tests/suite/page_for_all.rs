//! The page for everyone: whatever they see with, on whatever they look at it, with as many backups as there are, and on a
//! page of the app's.

use std::path::Path;

use serde_json::json;

use crate::browser::Browser;
use crate::client::Server;
use crate::harness::Place;
use crate::nginx::Nginx;
use crate::page::five_hundred;
use crate::page_in_chromium::{focus, focused, sign_in, signed_in};
use crate::ports::free_address;
use crate::seasons;

/// Nobody is shut out from what is shown now, in light and in dark, and nothing is wider than the window.
#[track_caller]
pub fn assert_for_all(browser: &Browser, what: &str) {
    println!("{what}");
    for scheme in ["dark", "light"] {
        browser.set_media("prefers-color-scheme", scheme);
        browser.assert_accessible();
    }
    assert_fits(browser);
}

/// Names what sticks out at the side; what scrolls by itself may.
#[track_caller]
pub fn assert_fits(browser: &Browser) {
    let wide = browser.script(
        "const width = document.documentElement.clientWidth;
        const out = [...document.querySelectorAll('body *')].filter(it => {
            const box = it.getBoundingClientRect();
            const out = box.right > width + 0.5 || box.left < -0.5;
            return out && box.width > 1 && it.checkVisibility() && !it.closest('.scroll > *, .subject > *');
        });
        if (document.documentElement.scrollWidth > width) out.push(document.documentElement);
        return out.map(it => it.tagName + '.' + it.className + '#' + it.id + ' ' + it.getBoundingClientRect().right)",
    );
    assert_eq!(wide, json!([]), "these are wider than the window");
}

#[test]
fn every_state_is_for_all() {
    let mut place = seasons::of_three_months();
    place.ok(&["create", "--type", "daily"]);
    let server = Server::start(&place);
    let site = format!("http://{}", server.address);
    let browser = Browser::start();
    browser.expect_status(401);
    browser.go(&format!("{site}/settings/backups"));
    assert_for_all(&browser, "the way in");
    assert_calm(&browser);
    browser.fill("#token", "nonsense");
    browser.expect_status(401);
    browser.press("Enter");
    browser.wait_for(".notice.bad");
    assert_for_all(&browser, "the way in, closed");

    sign_in(&browser, &place, &site, "grace");
    browser.wait_text(".sentence", "One thing wants a look");
    assert_for_all(&browser, "a warning");
    dialogs(&browser, &place);
    browser.go(&format!("{site}/settings/backups/backup/{}", place.ids().pop().unwrap()));
    assert_for_all(&browser, "one backup");
    for question in ["restore", "delete"] {
        browser.go(&format!("{site}/settings/backups/backup/{}/{question}", place.ids().pop().unwrap()));
        browser.wait_for("main .dangerous");
        assert_for_all(&browser, "a question on a page of its own");
    }
    browser.expect_status(404);
    browser.go(&format!("{site}/settings/backups/backup/daily-2020-01-01"));
    browser.wait_text("main", "No such backup");
    assert_for_all(&browser, "a problem");
    server.stop();

    place.set("BACKUP_ENABLED", "true").set("BACKUP_DRILL_SCHEDULE", "off");
    let server = Server::start(&place);
    let page = format!("http://{}/settings/backups", server.address);
    browser.go(&page);
    browser.wait_until("all is well", || browser.text(".sentence") == "Your data is safe");
    assert_for_all(&browser, "all is well");
    place.fill(40);
    let create = place.halted_create();
    browser.reload();
    browser.wait_for(".operation progress");
    assert_for_all(&browser, "under way");
    drop(create);
    std::fs::rename(place.live("auth"), place.path("gone.db")).unwrap();
    place.run(&["create"]).refused(1, &["auth"]);
    browser.reload();
    browser.wait_text(".sentence", "Your data is not safe");
    assert_for_all(&browser, "a failure");

    let fresh = Place::new();
    let server = Server::start(&fresh);
    sign_in(&browser, &fresh, &format!("http://{}", server.address), "grace");
    browser.wait_text(".sentence", "There is no backup yet");
    assert_for_all(&browser, "no backup yet");
}

/// What moves by itself moves only for those who don't mind.
#[track_caller]
fn assert_calm(browser: &Browser) {
    let moving = browser.script(
        "const moves = rule => rule.media && rule.media.mediaText === '(prefers-reduced-motion: no-preference)' ? [] :
            rule.cssRules && rule.cssRules.length ? [...rule.cssRules].flatMap(moves) :
            /(transition|animation|scroll-behavior)/.test(rule.cssText) ? [rule.cssText] : [];
        return [...document.styleSheets].flatMap(sheet => [...sheet.cssRules]).flatMap(moves)",
    );
    assert_eq!(moving, json!([]));
}

/// Menus, and every dialog.
fn dialogs(browser: &Browser, place: &Place) {
    let ids = place.ids();
    let weekly = ids.iter().find(|id| id.starts_with("weekly")).unwrap();
    for menu in ["download", "more"] {
        browser.click(&format!("#{menu}-{weekly}"));
        browser.wait_for("details[open] li");
        assert_for_all(browser, menu);
    }
    let daily = ids.iter().find(|id| id.starts_with("daily")).unwrap();
    browser.click(&format!("#more-{daily}"));
    browser.click(&format!("#delete-{daily}"));
    browser.wait_text("#dialog", "could not be restored any more");
    assert_for_all(browser, "the question whether to delete");
    browser.click_on("Keep it");
    browser.click(&format!("#restore-{}", seasons::MANUAL));
    browser.wait_for("#confirm");
    assert_for_all(browser, "the question whether to restore");
    browser.expect_status(400);
    browser.fill("#confirm", "no");
    browser.press("Enter");
    browser.wait_for("#dialog-outcome .notice");
    assert_for_all(browser, "an answer that is not one");
    browser.fill("#confirm", seasons::MANUAL);
    browser.press("Enter");
    browser.wait_for("#undo");
    assert_for_all(browser, "restored");
    browser.click_on("Close");
    place.ok(&["delete", weekly]);
    browser.expect_status(404);
    browser.click(&format!("#restore-{weekly}"));
    browser.wait_text("#dialog", "No such backup");
    assert_for_all(browser, "a question about nothing");
    browser.press("Escape");
    browser.wait_gone("#dialog");
}

/// Names and reasons as long as may be.
#[test]
fn on_a_phone_nothing_is_wider_than_it() {
    let mut place = seasons::of_four_days();
    place.set("BACKUP_RETENTION_DAILY", "7");
    let long = "x".repeat(120);
    place.sql("attendance", &format!("CREATE TABLE {long} (id INTEGER PRIMARY KEY, {long} TEXT)"));
    place.ok(&["create", "--reason", &"y".repeat(200)]);
    let id = place.ids().remove(0);
    place.sql("attendance", &format!("INSERT INTO {long} VALUES (1, 'x'); DROP TABLE people"));
    let server = Server::start(&place);
    let site = format!("http://{}", server.address);
    let browser = Browser::start();
    browser.phone();
    browser.expect_status(401);
    browser.go(&format!("{site}/settings/backups"));
    assert_for_all(&browser, "the way in");
    sign_in(&browser, &place, &site, &"z".repeat(100));
    browser.wait_for("#list");
    assert_eq!(browser.script("return innerWidth"), 375);
    assert_for_all(&browser, "the page");
    for menu in ["download", "more"] {
        browser.click(&format!("#{menu}-{id}"));
        browser.wait_for("details[open] li");
        assert_fits(&browser);
    }
    browser.click(&format!("#delete-{id}"));
    browser.wait_for("#dialog .dangerous");
    assert_for_all(&browser, "the question whether to delete");
    browser.press("Escape");
    browser.click(&format!("#restore-{id}"));
    browser.wait_for("#confirm");
    assert_for_all(&browser, "the question whether to restore");
    browser.fill("#confirm", &id);
    browser.press("Enter");
    browser.wait_for("#undo");
    assert_for_all(&browser, "restored");
    browser.go(&format!("{site}/settings/backups/backup/{id}"));
    assert_for_all(&browser, "one backup");
}

/// With as many as there may be, and nothing moves while the page comes.
#[test]
fn five_hundred_backups_are_leafed_through_and_nothing_jumps() {
    let place = Place::new();
    place.create();
    five_hundred(&place);
    let server = Server::start(&place);
    let browser = signed_in(&place, &server);
    browser.reload();
    browser.script(
        "window.shifts = []; new PerformanceObserver(list => window.shifts.push(...list.getEntries().map(it => it.value)))
            .observe({ type: 'layout-shift', buffered: true })",
    );
    let page = || browser.text(".pager span");
    assert_eq!(page(), "Page 1 of 10");
    for at in 2..=10 {
        focus(&browser, "older");
        browser.press("Enter");
        browser.wait_until("the next page", || page() == format!("Page {at} of 10"));
        assert_eq!(browser.count(".backup"), 50);
        if at < 10 {
            assert_eq!(focused(&browser), "older");
        }
    }
    browser.wait_until("the focus is on the list", || focused(&browser) == "list-title");
    assert!(browser.text("#list").contains("before exam number 0"));
    // Later it is shorter, and what stands below it comes nearer.
    assert_eq!(browser.script("return window.shifts.reduce((sum, it) => sum + it, 0)"), 0, "it jumped");
    browser.click("#filter-daily");
    browser.wait_text("#list", "There is none of this type");
    assert_eq!(browser.attribute("#filter-daily", "aria-current").as_deref(), Some("true"));
    browser.click("#filter-manual");
    browser.wait_until("the first page", || page() == "Page 1 of 10");

    let browser = Browser::without_javascript(&[]);
    sign_in(&browser, &place, &format!("http://{}", server.address), "grace");
    browser.click("#older");
    browser.wait_until("the second page", || browser.text(".pager span") == "Page 2 of 10");
    assert!(browser.url().contains("page=1"));
    browser.click("#filter-manual");
    browser.wait_until("the first page", || browser.text(".pager span") == "Page 1 of 10");
    browser.click("#older");
    browser.wait_until("both", || browser.url().contains("type=manual&page=1"));
}

/// As `deploy/nginx.conf` says, on a page of the app's that brings nothing but htmx.
#[test]
fn the_card_stands_on_a_page_of_the_apps() {
    let snippet = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx.conf")).unwrap();
    let address = free_address();
    let mut place = Place::new();
    place.set("BACKUP_PUBLIC_URL", &format!("http://{address}/backups")).set("BACKUP_TRUSTED_PROXIES", "127.0.0.1/32");
    let server = Server::start(&place);
    let way_in = server.request("GET", "/sign-in").send().text();
    let htmx = way_in.split('"').find(|text| text.starts_with("/backups/assets/htmx")).unwrap();
    let app = {
        let card = r#"<div hx-get="/backups/settings/backups/card" hx-trigger="load"></div>"#;
        let page = format!(
            r#"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width"><title>The app</title><link rel=icon href="data:,">
            <script src="{htmx}"></script><main><h1>The app</h1>{card}</main>"#
        );
        format!("location = /app {{ default_type text/html; return 200 '{page}'; }}")
    };
    let locations = [snippet.replace("127.0.0.1:8080", &server.address.to_string()), app];
    let _nginx = Nginx::with(address, &locations.join("\n"));
    let browser = Browser::start();
    sign_in(&browser, &place, &format!("http://{address}/backups"), "grace");
    browser.go(&format!("http://{address}/app"));
    browser.wait_text(".sentence", "There is no backup yet");
    browser.wait_until("it has its styles", || {
        browser.script("return getComputedStyle(document.querySelector('.card')).borderRadius") == "12px"
    });
    browser.fill("#reason", "from the app");
    browser.click_on("Create backup now");
    browser.wait_text("#outcome", "was taken");
    browser.wait_text(".sentence", "2 things want a look");
    assert_eq!(place.list()[0]["reason"], "from the app");
    assert_for_all(&browser, "the card on another page");
    browser.phone();
    assert_fits(&browser);

    // What couldn't be done is told too, whatever the app's htmx makes of errors.
    browser.forget_cookies();
    browser.click_on("Create backup now");
    browser.wait_text("#outcome", "Your session has ended");
    assert_eq!(place.ids().len(), 1);
}
