//! That the page says what is so, and does what was meant: no word of safety over what is gone, force only where it lifts
//! something, nothing stopped that wasn't shown, nobody kept out or let in by where they come from.

use serde_json::json;

use crate::app::App;
use crate::client::{Answer, Server, in_an_hour, superuser, token};
use crate::harness::{Place, eventually};
use crate::inject::SLOW_READS;
use crate::suspicion::filled;
use crate::together::under_way;
use crate::visitor::{Visitor, between, words};

fn sentence(visitor: &Visitor) -> String {
    words(between(&visitor.get("/settings/backups").text(), "<h2 class=\"sentence\">", "</h2>"))
}

fn warnings(server: &Server) -> Vec<String> {
    let status = server.get("/api/backup/status").ok();
    status["warnings"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap().to_owned()).collect()
}

/// Spoils the first page of the table.
fn spoil(place: &Place) -> Vec<u8> {
    place.sql("attendance", "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=delete");
    let mut bytes = std::fs::read(place.live("attendance")).unwrap();
    bytes[4096 + 8..4096 + 200].fill(0xee);
    std::fs::write(place.live("attendance"), &bytes).unwrap();
    bytes
}

#[test]
fn nothing_is_safe_whose_files_are_gone() {
    let place = Place::new();
    place.json(&["create", "--type", "daily"]);
    let newest = place.create();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    assert_eq!(
        (sentence(&visitor).as_str(), warnings(&server)),
        ("One thing wants a look", vec!["disabled".to_owned()])
    );
    let (file, aside) = (place.copy(&newest, "auth"), place.path("aside"));
    std::fs::rename(&file, &aside).unwrap();
    assert_eq!(sentence(&visitor), "Your data is not safe");
    assert!(warnings(&server).contains(&"files-missing".to_owned()));
    // The one before it is whole.
    let status = server.get("/api/backup/status").ok();
    assert_eq!(status["lastBackup"]["id"], place.ids()[1]);
    let cut = std::fs::read(&aside).unwrap();
    std::fs::write(&file, &cut[4096..]).unwrap();
    assert!(warnings(&server).contains(&"files-missing".to_owned()));
    std::fs::rename(&aside, &file).unwrap();
    assert!(!warnings(&server).contains(&"files-missing".to_owned()));
    std::fs::remove_dir_all(place.backups().join("manual")).unwrap();
    std::fs::remove_dir_all(place.backups().join("daily")).unwrap();
    assert_eq!(sentence(&visitor), "Your data is not safe");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    server.request("GET", "/readyz").send().problem(503, "not-ready");
}

#[test]
fn what_was_stopped_on_purpose_is_no_failure_and_only_what_was_shown_is_stopped() {
    let place = Place::new();
    place.fill(20);
    let server = place.slowed(SLOW_READS);
    let visitor = Visitor::superuser(&server);
    let answer = visitor.post("/settings/backups/create", &[("reason", "one")]);
    let number = between(answer.header("location").unwrap(), "errand=", "#").to_owned();
    let before = server.request("POST", "/api/backup").token(&superuser()).json(&json!({ "reason": "another's" }));
    visitor.follow(&answer);
    let kept = place.ids();
    let stream = before.open().unwrap();
    under_way(&place, "create");
    // The first has ended, and the page that showed it is old.
    let late = visitor.post_by_htmx(&format!("/settings/backups/errand/{number}/cancel"), &[]);
    assert_eq!(late.status, 409, "{}", late.text());
    let shown = [("operation", "create"), ("started", "2026-01-08T02:00:00.000Z")];
    assert_eq!(visitor.post_by_htmx("/settings/backups/cancel", &shown).status, 409);
    // What is shown now is stopped.
    let page = visitor.get("/settings/backups").text();
    let form = between(&page, "action=\"/settings/backups/cancel\"", "</form>").to_owned();
    let started = between(between(&form, "name=\"started\"", ">"), "value=\"", "\"").to_owned();
    let answer = visitor.post_by_htmx("/settings/backups/cancel", &[("operation", "create"), ("started", &started)]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    drop(stream);
    eventually("it has ended", || server.get("/api/backup/status").ok()["operation"].is_null().then_some(()));
    assert_eq!(place.ids(), kept);
    assert!(!warnings(&server).contains(&"backup-failed".to_owned()));
    assert!(server.get("/api/backup/status").ok()["lastFailure"].is_null());
}

/// A preview that nobody waits for any more keeps the next one away: whoever meets it there can stop it there.
#[test]
fn what_stands_in_the_way_is_stopped_where_it_is_told() {
    let place = Place::new();
    place.sql("attendance", "PRAGMA journal_mode=DELETE");
    let id = place.json(&["create"])["id"].as_str().unwrap().to_owned();
    let mut app = App::on(&[&place.live("attendance")]);
    app.ok(0, "BEGIN EXCLUSIVE");
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let preview = server.request("GET", &format!("/api/backup/{id}/preview")).token(&superuser());
    let mut first = preview.open().unwrap();
    let held = eventually("another one finds it in its way", || {
        let answer = visitor
            .request("GET", &format!("/settings/backups/backup/{id}/restore"))
            .header("HX-Request", "true")
            .send();
        (answer.status == 409).then(|| answer.text())
    });
    let form = between(&held, "action=\"/settings/backups/cancel\"", "</form>").to_owned();
    let field = |name: &str| between(between(&form, &format!("name=\"{name}\""), ">"), "value=\"", "\"").to_owned();
    let (operation, started) = (field("operation"), field("started"));
    assert_eq!(operation, format!("preview {id}"));
    let post = |started: &str| {
        visitor.post_by_htmx("/settings/backups/cancel", &[("operation", &operation), ("started", started)])
    };
    assert_eq!(post("2026-01-08T02:00:00.000Z").status, 409, "that was another one");
    let answer = post(&started);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains(&format!("preview {id} is asked to stop")), "{}", answer.text());
    first.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    Answer::read(&mut first, false).unwrap().problem(409, "cancelled");
    let told = |line: &serde_json::Value| {
        line["operation"] == "cancel" && line["details"]["cancelled"].as_str().unwrap().starts_with("preview ")
    };
    assert!(place.audit().iter().any(told), "{:?}", place.audit());
}

#[test]
fn corrupt_live_data_is_told_and_restored_over_by_force_and_undone_so_too() {
    let place = Place::new();
    let id = place.json(&["create", "--type", "daily"])["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let path = |id: &str| format!("/settings/backups/backup/{id}/restore");
    assert!(!visitor.get(&path(&id)).text().contains("name=\"force\""), "there is nothing to insist on");
    let bytes = spoil(&place);
    let question = visitor.get(&path(&id)).text();
    assert!(question.contains("name=\"force\"") && words(&question).contains("is corrupt"), "{question}");
    // What takes longer than a moment is told later: then it is asked once more.
    let refused = eventually("it is refused at once", || {
        let answer = visitor.post_by_htmx(&path(&id), &[("confirm", &id)]);
        (answer.status == 422).then_some(answer)
    });
    assert!(refused.text().contains("name=\"force\"") && refused.text().contains("is corrupt"), "{}", refused.text());
    assert_eq!(sentence(&visitor), "Your data is not safe");
    assert!(warnings(&server).contains(&"live-unusable".to_owned()));
    visitor.follow(&visitor.post(&path(&id), &[("confirm", &id), ("force", "true")]));
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "3");
    assert_ne!(sentence(&visitor), "Your data is not safe");
    // Taking it back is putting corrupt data in place: by force alone, and possible.
    let before = place.ids().into_iter().find(|id| id.starts_with("pre-restore")).unwrap();
    let question = visitor.get(&path(&before));
    assert_eq!(question.status, 200, "{}", question.text());
    assert!(question.text().contains("name=\"force\""), "{}", question.text());
    visitor.follow(&visitor.post(&path(&before), &[("confirm", &before), ("force", "true")]));
    assert_eq!(std::fs::read(place.live("attendance")).unwrap()[4096..], bytes[4096..]);
}

/// Two sets of databases, of which force restores what both have; where they have none in common it helps nothing.
#[test]
fn force_is_offered_only_where_it_lifts_something() {
    let mut place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let live = |place: &Place, name: &str| format!("{name}={}", place.live(name).display());
    place.sql("library", "CREATE TABLE books (x)");
    let path = format!("/settings/backups/backup/{id}/restore");
    for (names, offered) in [(&["attendance", "library"][..], true), (&["library"][..], false)] {
        let databases: Vec<_> = names.iter().map(|name| live(&place, name)).collect();
        place.set("BACKUP_DATABASES", &databases.join(","));
        let server = Server::start(&place);
        let visitor = Visitor::superuser(&server);
        let question = visitor.get(&path).text();
        assert_eq!(question.contains("name=\"force\""), offered, "{names:?}: {question}");
        assert!(warnings(&server).contains(&"not-covered".to_owned()), "{names:?}");
    }
}

#[test]
fn rotation_goes_on_only_after_a_look_at_what_goes() {
    let mut place = filled();
    place.set("BACKUP_RETENTION_MANUAL", "1");
    let first = place.create()["id"].as_str().unwrap().to_owned();
    place.sql("attendance", "DELETE FROM marks; VACUUM");
    let small = place.create()["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let ask = format!("/settings/backups/acknowledge?id={small}");
    assert!(visitor.get("/settings/backups").text().contains(&format!("href=\"{ask}\"")));
    let question = words(&visitor.get(&ask).text());
    assert!(question.contains("1 backup would be dropped at once") && question.contains(&first), "{question}");
    assert_eq!(visitor.get(&format!("/settings/backups/acknowledge?id={first}")).status, 409);
    assert_eq!(place.ids().len(), 2, "a look changes nothing");
    assert_eq!(visitor.post("/settings/backups/acknowledge", &[("id", &small)]).status, 303);
    assert_eq!(place.ids(), [small]);
}

#[test]
fn a_deletion_says_what_is_lost_by_it() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_DAILY", "20");
    for date in ["2025-02-03", "2025-02-10", "2025-02-11", "2025-03-03"] {
        crate::seasons::then(&place, date, "daily");
    }
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let asked = |id: &str| words(&visitor.get(&format!("/settings/backups/backup/{id}/delete")).text());
    for (id, lost) in [
        ("daily-2025-03-03", "March 2025 could not be restored any more"),
        ("daily-2025-02-03", "Week 06 of 2025 could not be restored any more"),
        ("daily-2025-02-10", "10 Feb 2025 could not be restored any more"),
    ] {
        assert!(asked(id).contains(lost), "{id}: {}", asked(id));
        assert!(!asked(id).contains("all the same"), "{}", asked(id));
    }
    // Asked on a page of its own, with scripts: what is gone has nothing to show there.
    let path = "/settings/backups/backup/daily-2025-02-11/delete";
    let on_its_page = visitor.request("POST", path).header("Content-Type", "application/x-www-form-urlencoded");
    let on_its_page = on_its_page.header("HX-Request", "true").header("Content-Length", "0");
    let answer = on_its_page.header("HX-Current-URL", &format!("http://{}{path}", server.address)).send();
    let there = "/settings/backups?deleted=daily-2025-02-11#outcome";
    assert_eq!((answer.status, answer.header("hx-redirect")), (200, Some(there)), "{}", answer.text());
    place.ok(&["pin", "daily-2025-02-10"]);
    assert!(asked("daily-2025-02-10").contains("It is pinned"));
    // Another has deleted the others since the question was asked.
    for id in ["daily-2025-02-03", "daily-2025-02-10"] {
        place.ok(&["delete", id]);
    }
    let refused = visitor.post_by_htmx("/settings/backups/backup/daily-2025-03-03/delete", &[]);
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("name=\"force\""), "{}", refused.text());
    let deleted = visitor.post("/settings/backups/backup/daily-2025-03-03/delete", &[("force", "true")]);
    assert_eq!(deleted.status, 303);
    assert_eq!(place.ids(), [""; 0]);
}

/// Only damaged ones are worse than none, and say so.
#[test]
fn where_no_backup_is_good_nothing_is_called_new() {
    let place = Place::new();
    let backup = place.create();
    let file = place.copy(&backup, "auth");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    place.run(&["verify", backup["id"].as_str().unwrap()]);
    let server = Server::start(&place);
    assert_eq!(sentence(&Visitor::superuser(&server)), "Your data is not safe");
}

/// A link in a mail leads to the page; another site's scripts and pictures get nothing, nor what costs more than a look.
#[test]
fn a_link_from_elsewhere_leads_to_the_page_and_nothing_else_does() {
    let place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let app = format!("backup_session={}", token(json!({ "role": "superuser" })));
    let from_elsewhere = |path: &str, mode: &str, dest: &str| {
        let request = server.request("GET", path).header("Cookie", &app).header("Accept", "text/html");
        let request = request.header("Sec-Fetch-Site", "cross-site").header("Sec-Fetch-Mode", mode);
        request.header("Sec-Fetch-Dest", dest).send()
    };
    let page = from_elsewhere("/settings/backups", "navigate", "document");
    assert_eq!(page.status, 200, "{}", page.text());
    // It was the app that let them in, and the app where they go out.
    assert!(!page.text().contains("Sign out") && page.text().contains("ada"), "{}", page.text());
    assert_eq!(from_elsewhere(&format!("/settings/backups/backup/{id}"), "navigate", "document").status, 200);
    for (path, mode, dest) in [
        ("/settings/backups".to_owned(), "no-cors", "image"),
        ("/settings/backups".to_owned(), "navigate", "iframe"),
        ("/settings/backups".to_owned(), "cors", "empty"),
        (format!("/settings/backups/backup/{id}/restore"), "navigate", "document"),
        ("/settings/backups/point?at=2026-01-08T14:30:05Z".to_owned(), "navigate", "document"),
        (format!("/api/backup/download/{id}"), "navigate", "document"),
        ("/settings/backupsx".to_owned(), "navigate", "document"),
    ] {
        assert_eq!(from_elsewhere(&path, mode, dest).status, 403, "{path} {mode} {dest}");
    }
}

/// However often a whole school without a token comes by, whoever wants in finds the way.
#[test]
fn neighbours_keep_nobody_from_the_way_in() {
    let place = Place::new();
    let server = Server::start(&place);
    let html = |request: crate::client::Request| request.header("Accept", "text/html").send();
    for _ in 0..40 {
        assert_eq!(html(server.request("GET", "/settings/backups")).status, 401);
    }
    // Guessing is counted as before.
    let guess = || html(server.request("GET", "/settings/backups").token("x.y.z")).status;
    let guesses: Vec<u16> = (0..40).map(|_| guess()).collect();
    assert!(guesses.contains(&429), "{guesses:?}");
    let slow = html(server.request("GET", "/settings/backups").token("x.y.z")).text();
    assert!(slow.contains("href=\"/sign-in\"") && !slow.contains("Sign out"), "{slow}");
    assert_eq!(html(server.request("GET", "/settings/backups")).status, 401);
    Visitor::of(&server, &token(json!({ "role": "superuser", "exp": in_an_hour() })));
}

/// What goes wrong while something runs is told in its place, and is asked for again.
#[test]
fn what_is_asked_again_and_again_survives_a_bad_moment() {
    let place = Place::new();
    place.create();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let catalog = place.backups().join("metadata.json");
    let text = std::fs::read_to_string(&catalog).unwrap();
    std::fs::write(&catalog, "{").unwrap();
    let now = |visitor: &Visitor| visitor.request("GET", "/settings/backups/now").header("HX-Request", "true").send();
    let bad = now(&visitor);
    assert_eq!(bad.status, 503, "{}", bad.text());
    assert!(bad.text().contains("id=\"now\"") && bad.text().contains("hx-trigger=\"every 5s\""), "{}", bad.text());
    // On the app's page it is shown whatever that makes of errors.
    let elsewhere = visitor.request("GET", "/settings/backups/now").header("HX-Request", "true");
    let shown = elsewhere.header("HX-Current-URL", "http://school.example/admin").send();
    assert_eq!(shown.status, 200);
    // What reads the log is told what it was.
    let id = shown.header("x-request-id").unwrap();
    let told = |log: String| log.lines().any(|line| line.contains(id) && line.contains("status=503"));
    eventually("its line", || told(server.log()).then_some(()));
    std::fs::write(&catalog, text).unwrap();
    assert_eq!(now(&visitor).status, 200);
}
