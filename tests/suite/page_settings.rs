//! The settings on the page: looked at, tried, saved and taken back, by forms as browsers send them.

use serde_json::Value;

use crate::client::{Server, user};
use crate::harness::Place;
use crate::visitor::{Visitor, between, words};

const PLACE: &str = "/settings/backups/settings";
const PREVIEW: &str = "/settings/backups/settings/preview";

/// The fields of the form as a page has them, with some typed over.
struct Filled(Vec<(String, String)>);

impl Filled {
    #[track_caller]
    fn from(page: &str) -> Self {
        let form = between(page, "<form class=\"values\"", "</form>");
        let value = |name: &str| {
            let field = form.split('<').find(|tag| tag.contains(&format!(" name=\"{name}\""))).unwrap();
            between(field, " value=\"", "\"").to_owned()
        };
        let plain = ["version", "time", "daily", "weekly", "monthly", "manual", "preRestore", "seen"];
        let mut fields: Vec<_> = plain.iter().map(|name| ((*name).to_owned(), value(name))).collect();
        let zone = form.split("<option").find(|option| option.contains(" selected")).unwrap();
        fields.push(("timezone".to_owned(), between(zone, " value=\"", "\"").to_owned()));
        if form.split('<').any(|tag| tag.contains(" name=\"enabled\"") && tag.contains(" checked")) {
            fields.push(("enabled".to_owned(), "true".to_owned()));
        }
        Self(fields)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A box that isn't ticked.
    fn without(mut self, name: &str) -> Self {
        self.0.retain(|(other, _)| other != name);
        self
    }

    fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }
}

/// What `settings.json` holds.
fn saved(place: &Place) -> Value {
    std::fs::read(place.backups().join("settings.json"))
        .map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
}

fn settings_lines(place: &Place) -> Vec<Value> {
    place.audit().into_iter().filter(|line| line["operation"] == "settings").collect()
}

#[track_caller]
fn open(browser: &Visitor) -> (String, Filled) {
    let answer = browser.get(PLACE);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let filled = Filled::from(&answer.text());
    (answer.text(), filled)
}

/// The error beside a field, by its id.
fn error(page: &str, id: &str) -> Option<String> {
    page.contains(&format!("id=\"{id}-error\"")).then(|| words(between(page, &format!("id=\"{id}-error\">"), "</p>")))
}

fn help(page: &str, id: &str) -> String {
    words(between(page, &format!("id=\"{id}-help\">"), "</p>"))
}

#[test]
fn what_is_typed_is_saved_where_it_differs_and_the_page_says_so() {
    let mut place = Place::new();
    // On, with nothing to catch up; so that the schedule takes nothing meanwhile it is switched off first.
    place.set("BACKUP_ENABLED", "true").set("BACKUP_DRILL_SCHEDULE", "off");
    place.ok(&["create", "--type", "daily"]);
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    let (page, filled) = open(&browser);
    assert!(!page.contains("The settings are saved") && !page.contains("Take back all that was saved"));
    assert_eq!(filled.get("enabled"), "true");
    let filled = filled.with("time", "03:15").with("daily", "9").with("timezone", "Europe/Berlin").without("enabled");
    let answer = browser.post(PLACE, &filled.pairs());
    assert_eq!(answer.status, 303, "{}", answer.text());
    let expected = serde_json::json!({ "enabled": false, "schedule": { "hour": 3, "minute": 15, "timezone": "Europe/Berlin" },
        "retention": { "daily": 9 } });
    assert_eq!(saved(&place), expected, "and nothing that was the same");
    let there = answer.header("location").unwrap().to_owned();
    let page = browser.get(&there).text();
    assert!(page.contains("The settings are saved"), "{page}");
    let now = Filled::from(&page);
    for (name, value) in
        [("time", "03:15"), ("daily", "9"), ("timezone", "Europe/Berlin"), ("enabled", ""), ("weekly", "4")]
    {
        assert_eq!(now.get(name), value, "{name}");
    }
    assert_ne!(now.get("version"), filled.get("version"));
    // The same address says so no longer when they are others.
    assert_eq!(browser.post(PLACE, &now.with("daily", "8").pairs()).status, 303);
    assert!(!browser.get(&there).text().contains("The settings are saved"));
    let by: Vec<_> = settings_lines(&place).into_iter().map(|line| line["by"].clone()).collect();
    assert_eq!(by, ["user:ada"; 4]);

    // htmx gets the part, which says so too.
    let (_, filled) = open(&browser);
    let answer = browser.post_by_htmx(PLACE, &filled.with("daily", "7").pairs());
    assert_eq!((answer.status, answer.header("hx-trigger")), (200, Some("backups-changed")), "{}", answer.text());
    assert!(answer.text().starts_with("<div class=\"settings\"") && answer.text().contains("The settings are saved"));
    assert!(answer.text().contains("id=\"announcer\" hx-swap-oob"));
    // What is in force already is no change.
    let (_, filled) = open(&browser);
    let answer = browser.post(PLACE, &filled.pairs());
    assert!(answer.status == 200 && answer.text().contains("Nothing was changed"), "{}", answer.text());
    assert_eq!(settings_lines(&place).len(), 6);
    place.assert_whole();
}

#[test]
fn bad_values_are_told_beside_their_fields_and_what_was_typed_stays() {
    let place = Place::new();
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    let (_, filled) = open(&browser);
    let filled =
        filled.with("daily", "0").with("weekly", "\"><b>x").with("time", "25:00").with("timezone", "Mars/Base");
    let filled = filled.with("monthly", "24");
    for (path, status) in [(PLACE, 422), (PREVIEW, 422)] {
        let answer = browser.post(path, &filled.pairs());
        assert_eq!(answer.status, status, "{}", answer.text());
        let page = answer.text();
        let told = |id: &str| error(&page, id).unwrap_or_default();
        assert_eq!(told("daily"), "0 is not allowed; it is a whole number from 1 to 366.");
        assert_eq!(told("weekly"), "\"&gt;&lt;b&gt;x is not allowed; it is a whole number from 0 to 520.");
        assert_eq!(told("time"), "25:00 is not allowed; it is a time such as 02:00.");
        assert!(
            told("timezone").starts_with("Mars/Base is not allowed; it is an IANA time zone"),
            "{}",
            told("timezone")
        );
        assert_eq!((error(&page, "monthly"), error(&page, "manual")), (None, None));
        assert!(!page.contains("<b>x"));
        // What was typed is still there, the first wrong field has the focus, and each wrong one says that it is.
        let now = Filled::from(&page);
        for (name, value) in [
            ("daily", "0"),
            ("weekly", "&quot;&gt;&lt;b&gt;x"),
            ("time", "25:00"),
            ("timezone", "Mars/Base"),
            ("monthly", "24"),
        ] {
            assert_eq!(now.get(name), value, "{name}");
        }
        let tag = |id: &str| between(&page, &format!("id=\"{id}\""), ">").to_owned();
        for id in ["time", "timezone", "daily", "weekly"] {
            let tag = tag(id);
            assert!(
                tag.contains("aria-invalid=\"true\"") && tag.contains(&format!("\"{id}-error {id}-help\"")),
                "{tag}"
            );
        }
        assert!(!tag("monthly").contains("aria-invalid"));
        assert_eq!(page.matches(" autofocus").count(), 1);
        assert!(tag("time").contains(" autofocus"));
    }
    // Programs get the problem.
    let request = server.request("POST", PLACE).token(&crate::client::superuser());
    let answer = request.header("Content-Type", "application/x-www-form-urlencoded").body(b"daily=0").send();
    answer.problem(422, "bad-setting");
    assert!(saved(&place).is_null() && settings_lines(&place).is_empty());
}

#[test]
fn a_form_that_was_opened_before_another_change_is_refused_and_keeps_what_was_typed() {
    let place = Place::new();
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    let (_, filled) = open(&browser);
    place.ok(&["config", "--set", "retention.weekly=6"]);
    let before = saved(&place);
    let filled = filled.with("daily", "9");
    for fields in [filled.pairs(), [filled.pairs(), vec![("drop", "true")]].concat()] {
        let answer = browser.post(PLACE, &fields);
        assert_eq!(answer.status, 412, "{}", answer.text());
        let page = answer.text();
        assert!(page.contains("The settings have changed meanwhile") && page.contains("last saved by cli,"), "{page}");
        let now = Filled::from(&page);
        assert_eq!((now.get("daily"), now.get("weekly"), now.get("version")), ("9", "4", filled.get("version")));
        assert_eq!(saved(&place), before);
    }
    // Typed on, it says so before anyone saves.
    let answer = browser.post_by_htmx(PREVIEW, &filled.pairs());
    assert!(answer.status == 200 && answer.text().contains("The settings have changed meanwhile"), "{}", answer.text());
    let refused: Vec<_> = settings_lines(&place).into_iter().filter(|line| line["kind"] == "refused").collect();
    assert_eq!((refused.len(), &refused[0]["by"]), (2, &"user:ada".into()));
    let (_, filled) = open(&browser);
    assert_eq!(browser.post(PLACE, &filled.with("daily", "9").pairs()).status, 303);
    assert_eq!(saved(&place)["retention"], serde_json::json!({ "daily": 9, "weekly": 6 }));
}

#[test]
fn a_preview_tells_the_next_runs_and_what_would_go_and_changes_nothing() {
    let mut place = Place::new();
    place.set("BACKUP_ENABLED", "true").set("BACKUP_DRILL_SCHEDULE", "off");
    for _ in 0..3 {
        place.create();
    }
    // So that the schedule has nothing to catch up.
    place.ok(&["create", "--type", "daily"]);
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    let (page, filled) = open(&browser);
    assert!(words(&page).contains("Nothing would be dropped."), "{page}");
    let (list, lines) = (place.list(), place.audit().len());
    let seen = crate::harness::traces(&place.backups());
    let typed = filled.with("timezone", "Europe/Berlin").with("time", "02:30").with("manual", "1");
    for htmx in [false, true] {
        let answer =
            if htmx { browser.post_by_htmx(PREVIEW, &typed.pairs()) } else { browser.post(PREVIEW, &typed.pairs()) };
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page = answer.text();
        let runs = between(&page, "<ol class=\"runs\">", "</ol>");
        assert_eq!(runs.matches("<time").count(), 3, "{runs}");
        for run in runs.split("<li>").skip(1) {
            let text = words(run);
            let is_summer = text.contains("CEST (UTC+02:00)");
            assert!(text.contains(", 02:30 ") && (is_summer || text.contains("CET (UTC+01:00)")), "{text}");
            assert!(run.contains(if is_summer { "T00:30:00" } else { "T01:30:00" }), "{run}");
        }
        assert!(words(&page).contains("2 backups would be dropped at once."), "{page}");
        for backup in list.iter().filter(|it| it["type"] == "manual").skip(1) {
            assert!(page.contains(backup["id"].as_str().unwrap()), "{page}");
        }
        assert!(page.contains("more than 1 manual backups"));
        // The button says it.
        assert!(page.contains(">Save and drop 2 backups</button>"), "{page}");
        assert_eq!(page.contains("<html"), !htmx);
        assert_eq!(page.contains("hx-swap-oob"), htmx, "{page}");
        if !htmx {
            let kept = Filled::from(&page);
            assert_eq!((kept.get("manual"), kept.get("timezone"), kept.get("time")), ("1", "Europe/Berlin", "02:30"));
        }
    }
    // Buttons that are as they should be are left alone: nobody's press is lost.
    let page = browser.post(PREVIEW, &typed.pairs()).text();
    let again = browser.post_by_htmx(PREVIEW, &Filled::from(&page).pairs());
    assert!(
        again.text().contains("would be dropped") && !again.text().contains("settings-buttons"),
        "{}",
        again.text()
    );
    let off = browser.post_by_htmx(PREVIEW, &typed.without("enabled").pairs());
    assert!(off.text().contains("The schedule is off"), "{}", off.text());
    assert_eq!((place.list(), place.audit().len(), saved(&place)), (list, lines, Value::Null));
    assert_eq!(crate::harness::traces(&place.backups()), seen);
}

#[test]
fn what_would_be_dropped_is_asked_about_and_only_that_goes() {
    let place = Place::new();
    for _ in 0..4 {
        place.create();
    }
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    let (_, filled) = open(&browser);
    // Enter, or "Save" before the preview came.
    let typed = filled.with("manual", "2");
    let answer = browser.post(PLACE, &typed.pairs());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("Saving this drops 2 backups at once"), "{}", answer.text());
    assert!(saved(&place).is_null() && place.list().len() == 4);
    // Whoever has seen the drops but not pressed that button is asked again.
    let asked = Filled::from(&answer.text());
    assert_eq!(asked.get("manual"), "2");
    assert!(browser.post(PLACE, &asked.pairs()).text().contains("Saving this drops 2 backups"));
    // Pressed for two, but by now it would be three.
    place.create();
    let pressed = asked.with("drop", "true");
    let answer = browser.post(PLACE, &pressed.pairs());
    assert!(answer.text().contains("The list has changed since you saw it"), "{}", answer.text());
    assert!(answer.text().contains(">Save and drop 3 backups</button>"), "{}", answer.text());
    // A button that was pressed for nothing agrees to nothing.
    let bare = typed.with("drop", "true");
    assert!(browser.post(PLACE, &bare.pairs()).text().contains("Saving this drops 3 backups"));
    assert!(saved(&place).is_null() && place.list().len() == 5 && settings_lines(&place).is_empty());
    let kept: Vec<_> = place.ids().into_iter().take(2).collect();
    let answer = browser.post_by_htmx(PLACE, &Filled::from(&answer.text()).with("drop", "true").pairs());
    assert!(answer.status == 200 && words(&answer.text()).contains("3 backups were dropped."), "{}", answer.text());
    assert_eq!(place.ids(), kept);
    assert_eq!(saved(&place)["retention"]["manual"], 2);
    place.assert_whole();
}

#[test]
fn what_was_saved_can_be_taken_back_after_a_question() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "2");
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    let (_, filled) = open(&browser);
    assert_eq!(browser.post(PLACE, &filled.with("manual", "20").with("daily", "9").pairs()).status, 303);
    for _ in 0..3 {
        place.create();
    }
    let (page, _) = open(&browser);
    let reset = |page: &str, last: &[(&str, &str)]| {
        let form = between(page, "<form class=\"reset\"", "</form>");
        let version = between(form, "name=\"version\" value=\"", "\"").to_owned();
        browser.post(PLACE, &[&[("version", version.as_str()), ("reset", "true")], last].concat())
    };
    let answer = reset(&page, &[]);
    let asked = answer.text();
    assert!(answer.status == 200 && asked.contains("Take back all that was saved?"), "{asked}");
    let said = words(&asked);
    assert!(said.contains("Manual: 20 → 2") && said.contains("Daily: 9 → 7"), "{said}");
    assert!(asked.contains(">Take it back and drop 1 backup</button>"), "{asked}");
    assert_eq!(saved(&place)["retention"]["manual"], 20);
    let question = between(&asked, "Take back all that was saved?", "</form>");
    let seen = between(question, "name=\"seen\" value=\"", "\"");
    // By now one more would go.
    place.create();
    assert!(reset(&page, &[("seen", seen), ("drop", "true")]).text().contains("drop 2 backups"));
    let asked = reset(&page, &[]).text();
    let question = between(&asked, "Take back all that was saved?", "</form>");
    let seen = between(question, "name=\"seen\" value=\"", "\"");
    let answer = reset(&page, &[("seen", seen), ("drop", "true")]);
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert_eq!(saved(&place)["retention"], serde_json::json!({}));
    assert_eq!(place.list().len(), 2);
    let (page, filled) = open(&browser);
    assert_eq!((filled.get("manual"), filled.get("daily")), ("2", "7"));
    assert!(!page.contains("Take back all that was saved"));
    place.assert_whole();
}

#[test]
fn each_value_says_where_it_comes_from() {
    let mut place = Place::new();
    std::fs::write(place.path("backup.toml"), "[retention]\nweekly = 5\n[drill]\nschedule = \"monthly\"\n").unwrap();
    let file = place.path("backup.toml").display().to_string();
    place.set("BACKUP_CONFIG_FILE", &file).set("BACKUP_RETENTION_MONTHLY", "24").set("BACKUP_SCHEDULE_MINUTE", "30");
    place.ok(&["config", "--set", "retention.daily=9"]);
    let server = Server::start(&place);
    let (page, _) = open(&Visitor::superuser(&server));
    assert_eq!(help(&page, "daily"), "A whole number from 1 to 366. Saved here; the configuration says 7.");
    assert!(help(&page, "weekly").ends_with("From the configuration file."), "{}", help(&page, "weekly"));
    assert!(help(&page, "monthly").ends_with("From BACKUP_RETENTION_MONTHLY"), "{}", help(&page, "monthly"));
    assert!(help(&page, "manual").ends_with("The default."), "{}", help(&page, "manual"));
    assert!(help(&page, "timezone").ends_with("From BACKUP_TIMEZONE"), "{}", help(&page, "timezone"));
    assert!(
        help(&page, "time").ends_with("Hour: The default. Minute: From BACKUP_SCHEDULE_MINUTE"),
        "{}",
        help(&page, "time")
    );
    let fixed = words(between(&page, "<details class=\"fixed\"", "</details>"));
    assert!(fixed.contains("Rehearsals monthly From the configuration file."), "{fixed}");
    assert!(fixed.contains("late after 26h The default."), "{fixed}");
    let directory = place.backups().canonicalize().unwrap().display().to_string();
    assert!(fixed.contains(&directory) && fixed.contains("From BACKUP_DIRECTORY"), "{fixed}");
    assert!(!page.contains(crate::harness::SECRET));
    // Every zone there is can be chosen.
    for zone in ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Pacific/Chatham", "Etc/GMT+5"] {
        assert!(page.contains(&format!("<option value=\"{zone}\"")), "{zone}");
    }
}

#[test]
fn only_superusers_see_and_change_them() {
    let place = Place::new();
    let server = Server::start(&place);
    let teacher = Visitor::of(&server, &user());
    for answer in [teacher.get(PLACE), teacher.post(PLACE, &[]), teacher.post(PREVIEW, &[])] {
        assert_eq!(answer.status, 403);
        assert!(answer.text().contains("Superusers only") && !answer.text().contains("BACKUP_"), "{}", answer.text());
    }
    let nobody = server.request("GET", PLACE).header("Accept", "text/html").send();
    assert!(nobody.status == 401 && nobody.text().contains("<h1>Sign in</h1>"), "{}", nobody.text());
    assert!(nobody.text().contains(&format!("name=\"to\" value=\"{PLACE}\"")), "{}", nobody.text());
    // A page of another site can't make a browser save.
    let superuser = Visitor::superuser(&server);
    let forged = superuser.request("POST", PLACE).header("Sec-Fetch-Site", "cross-site");
    let forged =
        forged.header("Content-Type", "application/x-www-form-urlencoded").body(b"reset=true&drop=true").send();
    assert_eq!(forged.status, 403, "{}", forged.text());
    assert!(saved(&place).is_null());
}

/// A page that a browser unpacks is the page.
#[test]
fn problems_come_as_they_say_they_are_encoded() {
    let place = Place::new();
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    let request = browser.request("GET", "/settings/backups/backup/daily-2020-01-01").header("Accept-Encoding", "gzip");
    let answer = request.send();
    assert!(answer.status == 404 && answer.header("content-encoding").is_none(), "{:?}", answer.headers);
    assert!(answer.text().starts_with("<!DOCTYPE html>"), "{}", answer.text());
    let answer = browser.request("GET", PLACE).header("Accept-Encoding", "gzip").send();
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")));
    assert!(
        answer.body.windows(3).any(|bytes| bytes == [0x1f, 0x8b, 8]) && answer.body.len() < 16_000,
        "{} bytes",
        answer.body.len()
    );
}
