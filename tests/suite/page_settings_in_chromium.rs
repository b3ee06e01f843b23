//! The settings and the activity in a real browser: what follows is shown as one types, two tabs don't overwrite each other,
//! nothing is dropped by a slip, and both are for everyone.

use crate::browser::Browser;
use crate::client::Server;
use crate::page_for_all::{assert_fits, assert_for_all};
use crate::page_in_chromium::signed_in;
use crate::seasons;

fn save(browser: &Browser) {
    browser.click("#settings-buttons button:not(.hidden)");
}

#[test]
fn what_follows_is_shown_as_one_types_and_the_second_of_two_tabs_is_refused() {
    let mut place = seasons::of_four_days();
    place.set("BACKUP_DRILL_SCHEDULE", "off").set("BACKUP_RETENTION_DAILY", "8");
    let before = place.ids();
    let server = Server::start(&place);
    let settings = format!("http://{}/settings/backups/settings", server.address);
    let browser = signed_in(&place, &server);
    browser.go(&settings);
    assert_for_all(&browser, "the settings");
    browser.script("document.getElementById('enabled').click()");
    browser.wait_text("#outlook", "UTC");
    browser.script(
        "const zone = document.getElementById('timezone'); zone.value = 'America/New_York';
        zone.dispatchEvent(new Event('input', { bubbles: true }))",
    );
    browser.wait_text("#outlook", "UTC-0");
    browser.fill("#daily", "1");
    browser.wait_text("#outlook", "would be dropped at once");
    browser.wait_text("#settings-buttons", "Save and drop");
    assert!(browser.has_focus("#daily"), "what is shown takes the focus from nobody");
    assert_for_all(&browser, "what would be dropped");
    browser.fill("#daily", "0");
    browser.wait_text("#outlook", "can't be saved");
    browser.fill("#daily", "8");
    browser.wait_text("#outlook", "Nothing would be dropped");

    let first = browser.tab();
    let second = browser.new_tab();
    browser.switch(&second);
    browser.go(&settings);
    browser.fill("#manual", "7");
    browser.switch(&first);
    save(&browser);
    browser.wait_text("#settings-outcome", "saved");
    assert_eq!(place.json(&["config"])["schedule"]["timezone"], "America/New_York");
    browser.switch(&second);
    browser.expect_status(412);
    save(&browser);
    browser.wait_text("#settings-outcome", "changed");
    assert_eq!(browser.property("#manual", "value").as_deref(), Some("7"), "what was typed is there still");
    assert_eq!(place.json(&["config"])["retention"]["manual"], 10);
    assert_for_all(&browser, "a form that is too old");
    // The schedule is on now, and may have taken one since.
    assert!(before.iter().all(|id| place.ids().contains(id)));
}

#[test]
fn the_activity_is_for_all() {
    let place = seasons::of_four_days();
    place.run(&["verify", "daily-2020-01-01"]);
    let server = Server::start(&place);
    let browser = signed_in(&place, &server);
    browser.go(&format!("http://{}/settings/backups/activity", server.address));
    assert_for_all(&browser, "the activity");
    browser.click_on("Rehearse now");
    browser.wait_text("main", "The rehearsal went well");
    assert_for_all(&browser, "a rehearsal");
    browser.phone();
    assert_fits(&browser);
    browser.go(&format!("http://{}/settings/backups/settings", server.address));
    assert_fits(&browser);
}
