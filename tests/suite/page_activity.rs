//! The activity on the page: who did what, how it ended, filtered and page by page, and rehearsals.

use serde_json::json;

use crate::client::{Server, superuser, token, user};
use crate::harness::{Place, eventually};
use crate::visitor::{Visitor, between, encoded, words};

const PLACE: &str = "/settings/backups/activity";

/// What each entry says, newest first.
fn entries(page: &str) -> Vec<String> {
    page.split("<li class=\"line\">").skip(1).map(|entry| words(entry.split("<details").next().unwrap())).collect()
}

#[track_caller]
fn shown(browser: &Visitor, query: &str) -> Vec<String> {
    let answer = browser.get(&format!("{PLACE}{query}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    entries(&answer.text())
}

#[test]
fn each_operation_is_told_once_with_who_did_it_and_how_it_ended() {
    let place = Place::new();
    let first = place.create()["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    assert_eq!(browser.post(&format!("/settings/backups/backup/{first}/pin"), &[("pinned", "true")]).status, 303);
    let second = place.create()["id"].as_str().unwrap().to_owned();
    place.ok(&["delete", &second]);
    assert_eq!(place.run(&["delete", "daily-2020-01-01"]).code, 1);
    let page = browser.get(PLACE).text();
    let told = entries(&page);
    let about = |start: &str, by: &str| {
        let found: Vec<_> = told.iter().filter(|text| text.starts_with(&format!("{start} "))).collect();
        assert_eq!(found.len(), 1, "{start}: {told:?}");
        assert!(found[0].contains(&format!("{by}, just now")), "{found:?}");
    };
    about(&format!("Done Backup {first}"), "The command line");
    about(&format!("Done Backup {second}"), "The command line");
    about(&format!("Done Pin {first}"), "User ada");
    about(&format!("Done Deletion {second}"), "The command line");
    about("Refused Deletion daily-2020-01-01", "The command line");
    about("Done Sign-in", "User ada");
    assert_eq!(told.len(), 6, "no beginnings: {told:?}");
    assert!(told[0].starts_with("Refused Deletion") && told[5].starts_with("Done Backup"), "{told:?}");
    // What is there leads to it, what is gone doesn't.
    assert!(page.contains(&format!("href=\"/settings/backups/backup/{first}\"")));
    assert!(!page.contains(&format!("href=\"/settings/backups/backup/{second}\"")));
    // The rest is there on demand.
    let details = words(between(&page, "<dl class=\"details\"", "</dl>"));
    assert!(details.contains("From uid ") && details.contains("Code not-found"), "{details}");
    // What was begun and never ended is told, and where it has ended only when asked for.
    let begun = shown(&browser, "?kind=intent");
    assert_eq!(begun.len(), 4, "{begun:?}");
    assert!(begun.iter().all(|text| text.starts_with("Begun ")), "{begun:?}");
    let line = place.audit().into_iter().find(|line| line["kind"] == "intent").unwrap();
    let mut killed = json!({ "kind": "intent", "operation": "restore", "by": "cli", "from": "here", "id": first });
    let last = place.audit().last().unwrap().clone();
    killed["seq"] = (last["seq"].as_u64().unwrap() + 1).into();
    killed["prev"] = line["prev"].clone();
    killed["at"] = last["at"].clone();
    let log = place.backups().join("audit.jsonl");
    std::fs::write(&log, std::fs::read_to_string(&log).unwrap() + &killed.to_string() + "\n").unwrap();
    let told = shown(&browser, "");
    assert!(told.len() == 7 && told[0].starts_with(&format!("Begun Restore {first}")), "{told:?}");
}

#[test]
fn the_filter_shows_what_was_asked_for_with_scripts_and_without() {
    let place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    place.create();
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    server.request("GET", "/api/backup/audit").token(&user()).send().problem(403, "forbidden");
    std::fs::rename(place.live("auth"), place.path("away")).unwrap();
    assert_eq!(place.run(&["create"]).code, 1);
    std::fs::rename(place.path("away"), place.live("auth")).unwrap();
    let starts = |query: &str| {
        let told = shown(&browser, query);
        told.iter().map(|text| text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(starts(""), ["Failed Backup", "Refused Request", "Done Sign-in", "Done Backup", "Done Backup"]);
    assert_eq!(starts("?operation=create&kind=&id="), ["Failed Backup", "Done Backup", "Done Backup"]);
    assert_eq!(starts("?kind=failed"), ["Failed Backup"]);
    assert_eq!(starts("?kind=refused"), ["Refused Request"]);
    assert_eq!(starts("?kind=outcome&operation=sign-in"), ["Done Sign-in"]);
    let of_one = shown(&browser, &format!("?id=+{id}+"));
    assert!(of_one.len() == 1 && of_one[0].contains(&id), "{of_one:?}");
    assert_eq!(starts("?operation=drill"), [""; 0]);
    // What was chosen stays chosen, also what no version of ours has written.
    let page =
        browser.get(&format!("{PLACE}?operation={}&kind=failed", encoded("\"><script>alert(1)</script>"))).text();
    assert!(
        page.contains("<option value=\"failed\" selected>") && page.contains("There is nothing of that kind."),
        "{page}"
    );
    assert!(page.contains("<option value=\"&quot;&gt;&lt;script&gt;") && !page.contains("<script>alert"), "{page}");
    // htmx gets the section and what is told of rehearsals, and says how many there are if the filter asked.
    let asked = browser.request("GET", &format!("{PLACE}?kind=failed")).header("HX-Request", "true");
    let part = asked.clone().header("HX-Trigger", "activity-filter").send().text();
    assert!(
        part.starts_with("<section class=\"activity") && part.contains("id=\"last-rehearsal\" hx-swap-oob"),
        "{part}"
    );
    assert!(part.contains(">1 line</div>") && !asked.send().text().contains("1 line<"), "{part}");
    // What is no id is told beside the field.
    for (request, whole) in [
        (browser.request("GET", &format!("{PLACE}?id=%3Cb%3Ex")), true),
        (browser.request("GET", &format!("{PLACE}?id=%3Cb%3Ex")).header("HX-Request", "true"), false),
    ] {
        let answer = request.send();
        let page = answer.text();
        assert_eq!((answer.status, page.contains("<html")), (400, whole), "{page}");
        assert_eq!(
            words(between(&page, "id=\"id-error\">", "</p>")),
            "that is no backup's id; one looks like daily-2026-01-08"
        );
        assert!(
            page.contains("value=\"&lt;b&gt;x\"") && page.contains("aria-invalid=\"true\"") && !page.contains("<b>x"),
            "{page}"
        );
    }
    for query in ["?kind=nonsense", "?before=-1", "?nonsense=1"] {
        let answer = browser.get(&format!("{PLACE}{query}"));
        assert!(
            answer.status == 400 && answer.text().contains("A parameter is not allowed"),
            "{query}: {}",
            answer.text()
        );
        server.get(&format!("{PLACE}{query}")).problem(400, "bad-parameter");
    }
}

#[test]
fn older_entries_follow_page_by_page_each_once() {
    let place = Place::new();
    place.create();
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    // Without waiting for a hundred operations: lines as the program writes them, but for the chain.
    let log = place.backups().join("audit.jsonl");
    let last = place.audit().last().unwrap().clone();
    let mut text = std::fs::read_to_string(&log).unwrap();
    for number in 1..=120_u64 {
        for (kind, ok) in [("intent", None), ("outcome", Some(true))] {
            let seq = last["seq"].as_u64().unwrap() + 2 * number - u64::from(kind == "intent");
            let mut line = json!({ "seq": seq, "prev": last["prev"], "at": last["at"], "kind": kind, "operation": "pin",
                "by": format!("user:number-{number}."), "from": "here" });
            if let Some(ok) = ok {
                line["ok"] = ok.into();
            }
            text += &(line.to_string() + "\n");
        }
    }
    std::fs::write(&log, text).unwrap();
    for filter in ["?operation=pin", "?operation=pin&kind=outcome", "?operation=pin&kind=intent"] {
        let (mut next, mut told, mut sizes) = (format!("{PLACE}{filter}"), Vec::new(), Vec::new());
        loop {
            let page = browser.get(&next).text();
            let shown = entries(&page);
            sizes.push(shown.len());
            told.extend(shown);
            assert_eq!(page.contains("id=\"newest\""), sizes.len() > 1);
            let Some((_, older)) = page.split_once("id=\"older\" href=\"") else { break };
            next = older.split('"').next().unwrap().split('#').next().unwrap().replace("&amp;", "&");
        }
        assert_eq!(sizes, [50, 50, 20], "{filter}");
        for (at, text) in told.iter().enumerate() {
            assert!(
                text.contains(&format!("User number-{}., ", 120 - at))
                    || text.contains(&format!("User number-{}.,", 120 - at)),
                "{at}: {text}"
            );
        }
    }
}

#[test]
fn what_others_wrote_is_text() {
    let place = Place::new();
    let server = Server::start(&place);
    let mallory = "<img src=x onerror=alert(1)>\u{202e}";
    let of_mallory = token(json!({ "sub": mallory, "role": "superuser" }));
    let created = server.request("POST", "/api/backup").token(&of_mallory);
    let created = created.json(&json!({ "reason": "</li><script>alert(2)</script>" })).send();
    assert_eq!(created.status, 201, "{}", created.text());
    server.request("GET", "/api/backup/audit").token(&token(json!({ "sub": mallory, "role": "<b>" }))).send();
    let log = place.backups().join("audit.jsonl");
    let last = place.audit().last().unwrap().clone();
    let forged = json!({ "seq": last["seq"].as_u64().unwrap() + 1, "prev": last["prev"], "at": last["at"], "kind": "outcome",
        "operation": "<i>own</i>", "by": "scheduler<script>", "from": "\"><script>alert(3)</script>", "ok": false,
        "code": "<u>", "reason": "</p><script>alert(4)</script>", "details": { "<s>key</s>": [{ "<em>": "<script>alert(5)</script>" }] } });
    std::fs::write(&log, std::fs::read_to_string(&log).unwrap() + &forged.to_string() + "\n").unwrap();
    let page = Visitor::superuser(&server).get(PLACE).text();
    for bad in ["<img", "<script>", "<i>own", "<u>", "<s>", "<em>", "\u{202e}"] {
        assert!(!page.contains(bad), "{bad}: {page}");
    }
    assert!(
        page.contains("&lt;img src=x onerror=alert(1)&gt;[U+202E]") && page.contains("&lt;script&gt;alert(5)"),
        "{page}"
    );
    // No subject passes for the schedule.
    let posing = token(json!({ "sub": "scheduler", "role": "superuser" }));
    assert_eq!(server.request("POST", "/api/backup").token(&posing).send().status, 201);
    assert!(shown(&Visitor::superuser(&server), "?operation=create")[0].contains("User scheduler, just now"));
}

#[test]
fn rehearsals_are_told_and_begun_here() {
    let place = Place::new();
    let server = Server::start(&place);
    let browser = Visitor::superuser(&server);
    assert!(browser.get(PLACE).text().contains("There was none yet."));
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let answer = browser.post("/settings/backups/drill", &[]);
    assert_eq!(answer.status, 303, "{}", answer.text());
    let last = || {
        let page = browser.get(PLACE).text();
        let told = words(between(&page, "id=\"last-rehearsal\"", "</section>"));
        told.contains("Last Went well").then_some(told)
    };
    let told = eventually("the rehearsal", last);
    assert!(told.contains(&format!("Newest backup {id}")) && told.contains(" s "), "{told}");
    let past = shown(&browser, "?operation=drill");
    assert!(past.len() == 1 && past[0].starts_with("Done Rehearsal"), "{past:?}");
    // One that fails is told with its reason.
    let copy = place.copy(&place.list()[0], "auth");
    let mut bytes = std::fs::read(&copy).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&copy, bytes).unwrap();
    place.run(&["drill"]);
    let page = browser.get(PLACE).text();
    let told = words(between(&page, "id=\"last-rehearsal\"", "</section>"));
    assert!(told.contains("Last Failed") && told.contains("holds other bytes"), "{told}");
    let past = shown(&browser, "?operation=drill");
    assert!(past.len() == 2 && past[0].starts_with("Failed Rehearsal"), "{past:?}");
}

#[test]
fn only_superusers_see_it() {
    let place = Place::new();
    place.create();
    let server = Server::start(&place);
    let refused = Visitor::of(&server, &user()).get(PLACE);
    assert!(refused.status == 403 && !refused.text().contains("class=\"line\""), "{}", refused.text());
    let nobody = server.request("GET", PLACE).header("Accept", "text/html").send();
    assert!(nobody.status == 401 && nobody.text().contains("<h1>Sign in</h1>"), "{}", nobody.text());
    server.request("GET", PLACE).send().problem(401, "unauthenticated");
    server.request("GET", PLACE).token(&user()).send().problem(403, "forbidden");
    assert_eq!(server.request("GET", PLACE).token(&superuser()).send().status, 200);
}
