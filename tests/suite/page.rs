//! The page as browsers ask for it, by HTTP alone: what it weighs, what is in it and what isn't, the way in, its forms without
//! scripts, and the path prefix behind a real proxy.

use std::path::Path;

use serde_json::{Value, json};

use crate::client::{Request, Server, superuser, user};
use crate::harness::{Place, sha256};
use crate::layers::{bare, sources};
use crate::nginx::Nginx;
use crate::ports::free_address;
use crate::visitor::{Visitor, between};

/// The values of an attribute, wherever it is.
fn values(html: &str, attribute: &str) -> Vec<String> {
    let mark = format!(" {attribute}=\"");
    html.split(&mark).skip(1).map(|rest| rest.split('"').next().unwrap().replace("&amp;", "&")).collect()
}

#[test]
fn nobody_is_shown_the_way_in_and_a_user_what_it_takes() {
    let place = Place::new();
    let server = Server::start(&place);
    let html = |request: Request| request.header("Accept", "text/html").send();
    let page = html(server.request("GET", "/settings/backups?type=daily"));
    assert_eq!(page.status, 401);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(values(&page.text(), "action"), ["/sign-in"]);
    assert!(page.text().contains("value=\"/settings/backups?type=daily\""), "{}", page.text());
    // A program gets what it understands.
    server.request("GET", "/settings/backups").send().problem(401, "unauthenticated");
    let teacher = Visitor::of(&server, &user());
    let refused = teacher.get("/settings/backups");
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("Superusers only") && refused.text().contains("Sign out"), "{}", refused.text());
    let part = teacher.request("GET", "/settings/backups/now").header("HX-Request", "true").send();
    assert_eq!(part.status, 403);
    assert!(part.text().starts_with("<div class=\"notice bad\" role=\"alert\">"), "{}", part.text());
}

#[test]
fn a_link_signs_in_once_and_a_look_at_it_burns_nothing() {
    let place = Place::new();
    let server = Server::start(&place);
    let link = place.json(&["token", "--link", "--subject", "grace"])["link"].as_str().unwrap().to_owned();
    let path = format!("/sign-in?{}", link.split_once('?').unwrap().1);
    let nobody = Visitor::nobody(&server);
    for _ in 0..3 {
        assert_eq!(nobody.get(&path).status, 200);
    }
    let code = values(&nobody.get(&path).text(), "value").pop().unwrap();
    let answer = nobody.post("/sign-in", &[("code", &code), ("to", "/settings/backups?type=daily")]);
    assert_eq!((answer.status, answer.header("location")), (303, Some("/settings/backups?type=daily")));
    let again = nobody.post("/sign-in", &[("code", &code)]);
    assert_eq!(again.status, 401);
    assert!(again.text().contains("doesn't count, or not any more"), "{}", again.text());
}

/// Where a browser goes after signing in is a page of ours, whatever a link says.
#[test]
fn after_signing_in_nobody_is_led_elsewhere() {
    let place = Place::new();
    let server = Server::start(&place);
    let nobody = Visitor::nobody(&server);
    let elsewhere = [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/settings/backups.evil.example",
        "/settings/backups@evil",
        "/settings/backupsx",
        "/api/backup/list",
        "/settings/backups/../../evil",
        "/settings/backups?x=<script>",
        "/settings/backups\r\nX: y",
    ];
    for (at, to) in elsewhere.iter().enumerate() {
        let subject = crate::client::token(json!({ "sub": format!("user-{at}"), "role": "superuser" }));
        let answer = nobody.post("/sign-in", &[("token", &subject), ("to", to)]);
        assert_eq!((answer.status, answer.header("location")), (303, Some("/settings/backups")), "{to}");
    }
}

/// All of it is done by plain forms, and what isn't allowed says so on a page.
#[test]
fn without_scripts_everything_works_by_forms() {
    let place = Place::new();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    assert!(visitor.get("/settings/backups").text().contains("There is no backup yet"));
    let page = visitor.follow(&visitor.post("/settings/backups/create", &[("reason", "before <b>the</b> exams")]));
    assert!(page.contains("was taken") && page.contains("before &lt;b&gt;the&lt;/b&gt; exams"), "{page}");
    let id = place.ids().remove(0);
    let path = |rest: &str| format!("/settings/backups/backup/{id}{rest}");
    let page = visitor.follow(&visitor.post(&path("/verify"), &[]));
    assert!(page.contains(&format!("{id} is whole")), "{page}");
    let page = visitor.follow(&visitor.post(&path("/pin"), &[("pinned", "true")]));
    assert!(page.contains("Pinned") && place.list()[0]["pinned"] == true);

    place.sql("attendance", "DELETE FROM people WHERE id > 1; INSERT INTO people VALUES (9, 'Nia')");
    let question = visitor.get(&path("/restore"));
    assert!(question.text().contains("Come back") && question.text().contains("people"), "{}", question.text());
    let wrong = visitor.post(&path("/restore"), &[("confirm", "daily-2026-01-01")]);
    assert!(wrong.text().contains("Nothing was changed: type"), "{}", wrong.text());
    assert_eq!(place.sql("attendance", "SELECT count(*) FROM people"), "2");
    let page = visitor.follow(&visitor.post(&path("/restore"), &[("confirm", &id)]));
    assert!(page.contains(&format!("{id} was restored")) && page.contains("Undo"), "{page}");
    assert_eq!(place.sql("attendance", "SELECT group_concat(name) FROM people"), "Ada,Ben,Carla");
    let before = place.ids().into_iter().find(|id| id.starts_with("pre-restore")).unwrap();
    let undo = visitor.post(&format!("/settings/backups/backup/{before}/restore"), &[("confirm", &before)]);
    visitor.follow(&undo);
    assert_eq!(place.sql("attendance", "SELECT group_concat(name) FROM people"), "Ada,Nia");

    let question = visitor.get(&format!("/settings/backups/backup/{before}/delete"));
    assert!(question.text().contains("can't be undone"), "{}", question.text());
    let page = visitor.follow(&visitor.post(&format!("/settings/backups/backup/{before}/delete"), &[]));
    assert!(page.contains(&format!("{before} was deleted")) && !place.ids().contains(&before), "{page}");
    let gone = visitor.request("GET", &format!("/settings/backups/backup/{before}"));
    let gone = gone.header("Accept-Encoding", "gzip").send();
    assert_eq!((gone.status, gone.header("content-encoding")), (404, None));
    assert!(gone.text().contains("No such backup") && gone.text().contains("Back to the backups"), "{}", gone.text());
    let out = visitor.post("/sign-out", &[]);
    assert_eq!((out.status, out.header("location")), (303, Some("/sign-in")));
    assert_eq!(visitor.get("/settings/backups").status, 401);
    place.assert_whole();
}

/// What begins while another operation holds the directory is refused, and a stranger's form is too.
#[test]
fn what_is_refused_is_told_where_it_was_asked_for() {
    let place = Place::new();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let long = "x".repeat(201);
    let answer = visitor.post_by_htmx("/settings/backups/create", &[("reason", &long)]);
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("at most 200 characters"), "{}", answer.text());
    let shown = [("operation", "create"), ("started", "2026-01-08T02:00:00.000Z")];
    let answer = visitor.post_by_htmx("/settings/backups/cancel", &shown);
    assert_eq!(answer.status, 409);
    assert!(answer.text().contains("Nothing to cancel"), "{}", answer.text());
    let held = visitor
        .request("POST", "/settings/backups/create")
        .header("Content-Type", "text/plain")
        .body(b"reason=x")
        .send();
    assert_eq!(held.status, 415);
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let answer = visitor.post_by_htmx(&format!("/settings/backups/backup/{id}/delete"), &[]);
    assert_eq!(answer.status, 409);
    assert!(answer.text().contains("The last good backup"), "{}", answer.text());
    let forged = server
        .request("POST", "/settings/backups/create")
        .header("Cookie", visitor.cookie())
        .header("Sec-Fetch-Site", "cross-site")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(b"reason=forged");
    forged.send().problem(403, "cross-site");
    assert_eq!(place.ids(), [id]);
}

/// 500 backups, as much as a page of them weighs.
#[test]
fn the_whole_page_is_light_also_with_500_backups() {
    let place = Place::new();
    place.create();
    five_hundred(&place);
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let zipped = |path: &str| visitor.request("GET", path).header("Accept-Encoding", "gzip").send();
    let page = zipped("/settings/backups");
    assert_eq!(page.header("content-encoding"), Some("gzip"));
    let html = visitor.get("/settings/backups").text();
    assert!(html.contains("Page 1 of 10"), "{html}");
    let mut weight = page.body.len();
    let mut assets = values(&html, "src");
    assets.extend(values(&html, "href").into_iter().filter(|href| href.starts_with("/assets/")));
    assert_eq!(assets.len(), 4, "{assets:?}");
    for path in assets {
        let asset = zipped(&path);
        assert_eq!(asset.header("content-encoding"), Some("gzip"), "{path}");
        assert_eq!(asset.header("cache-control"), Some("public, max-age=31536000, immutable"));
        assert_eq!(asset.header("vary"), Some("Accept-Encoding"));
        // As it is, and named after what it holds.
        let plain = server.request("GET", &path).send();
        assert_eq!((plain.status, plain.header("content-encoding")), (200, None));
        let hash = path.rsplit_once('-').unwrap().1.split('.').next().unwrap();
        assert!(sha256(&plain.body).starts_with(hash), "{path}");
        weight += asset.body.len();
    }
    println!("the page with 500 backups: {weight} bytes over the wire, {} of them HTML", page.body.len());
    assert!(weight < 60_000, "{weight} bytes");
    assert_eq!(server.request("GET", "/assets/page-0000000000000000.css").send().status, 404);
    // Every one is found, on its page.
    let found: usize = (0..10)
        .map(|page| visitor.get(&format!("/settings/backups?page={page}")).text().matches("class=\"backup\"").count())
        .sum();
    assert_eq!(found, 500);
}

/// Catalog entries made from the one that there is; the files are not looked at by lists.
pub fn five_hundred(place: &Place) {
    let mut catalog = place.catalog();
    let entry = catalog["backups"][0].clone();
    let backups = (0..500_u64).map(|n| {
        let mut entry = entry.clone();
        let at = format!("2026-{:02}-{:02}T0{}:00:00", 1 + n / 100, 1 + n % 25, n / 25 % 4);
        let id = format!("manual-{}Z", at.replace(':', ""));
        entry["sequence"] = json!(n + 1);
        entry["id"] = json!(id);
        entry["timestamp"] = json!(format!("{at}.000Z"));
        entry["localDate"] = json!(at[..10]);
        entry["reason"] = json!(format!("before exam number {n}"));
        for (name, copy) in entry["databases"].as_object_mut().unwrap() {
            copy["file"] = json!(format!("manual/{name}-{}.db", id.strip_prefix("manual-").unwrap()));
        }
        entry
    });
    let backups: Vec<Value> = backups.collect();
    catalog["backups"] = backups.into();
    std::fs::write(place.backups().join("metadata.json"), catalog.to_string()).unwrap();
}

/// Nothing in the page is a script or a style, and nothing gets past the escaping.
#[test]
fn there_is_no_inline_script_or_style_and_nothing_is_put_in_unescaped() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, text) in sources() {
        assert!(!bare(&text).contains("PreEscaped"), "{file}");
    }
    let place = Place::new();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let mut told = Vec::new();
    for reason in [
        "\"><img src=x onerror=alert(1)></script>\u{202e}x",
        "x' onmouseover='alert(2)",
        "x\u{2028}alert(3)\u{2029}x",
        "x\0<script>alert(4)</script>",
        &"<script>".repeat(1250),
    ] {
        let answer = visitor.post("/settings/backups/create", &[("reason", reason)]);
        told.push(if answer.status == 303 { visitor.follow(&answer) } else { answer.text() });
    }
    let of_each = |id: &String| ["", "/restore", "/delete"].map(|rest| format!("/backup/{id}{rest}"));
    let ids = place.ids();
    let pages = ["", "/card", "/activity"].map(str::to_owned).into_iter().chain(ids.iter().flat_map(of_each));
    told.extend(pages.map(|path| visitor.get(&format!("/settings/backups{path}")).text()));
    assert!(told.len() > 13, "{}", told.len());
    for html in told {
        for (mark, what) in
            [(" style=", "a style"), ("<style", "a style"), (" onerror=alert(1)>", "an event"), ("<img", "an image")]
        {
            assert!(!html.contains(mark), "it has {what}: {html}");
        }
        for script in html.split("<script").skip(1) {
            assert!(script.contains("></script>"), "{script}");
        }
        // The values of attributes stand in double quotes, where a single one is a letter.
        for tag in html.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
            let names: String = tag.split('"').step_by(2).collect();
            assert!(!names.contains("onmouseover") && !names.contains('\''), "{tag}");
        }
        assert!(!html.contains(['\u{202e}', '\u{2028}', '\u{2029}', '\0']), "{html}");
    }
    let script = std::fs::read_to_string(root.join("assets/page.js")).unwrap();
    for word in ["eval", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "Function("] {
        assert!(!script.contains(word), "{word} in page.js");
    }
}

/// In each page it is told that it evaluates nothing, asks no other site and keeps no page.
#[test]
fn htmx_is_held_to_what_the_policy_allows() {
    let place = Place::new();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    let pages = ["", "/settings", "/activity", &format!("/backup/{id}"), &format!("/backup/{id}/restore"), "/nowhere"];
    let pages = pages.map(|path| visitor.get(&format!("/settings/backups{path}")));
    let nobody = Visitor::nobody(&server);
    for page in pages.iter().chain(&["/sign-in", "/settings/backups"].map(|path| nobody.get(path))) {
        let html = page.text();
        let config = between(&html, "<meta name=\"htmx-config\" content=\"", "\"").replace("&quot;", "\"");
        let config: Value = serde_json::from_str(&config).unwrap();
        for (name, value) in [
            ("allowEval", json!(false)),
            ("allowScriptTags", json!(false)),
            ("includeIndicatorStyles", json!(false)),
            ("selfRequestsOnly", json!(true)),
            ("historyEnabled", json!(false)),
            ("historyCacheSize", json!(0)),
            ("disableInheritance", json!(true)),
        ] {
            assert_eq!(config[name], value, "{name}: {config}");
        }
    }
}

/// Whatever keeps answers on the way gives none to who asks for the other form of it.
#[test]
fn a_page_and_its_parts_are_told_apart() {
    let place = Place::new();
    let server = Server::start(&place);
    let visitor = Visitor::superuser(&server);
    for path in ["", "/now", "/list", "/settings", "/activity"] {
        for (header, value) in [("HX-Request", "true"), ("Accept-Encoding", "gzip")] {
            let answer = visitor.request("GET", &format!("/settings/backups{path}")).header(header, value).send();
            let vary: Vec<_> =
                answer.headers.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value).collect();
            assert!(answer.status == 200 && vary.iter().any(|value| value.contains("HX-Request")), "{path}: {vary:?}");
        }
    }
}

#[test]
fn behind_a_proxy_under_a_path_every_address_has_the_prefix() {
    let snippet = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx.conf")).unwrap();
    let address = free_address();
    let mut place = Place::new();
    place.set("BACKUP_PUBLIC_URL", &format!("http://{address}/backups")).set("BACKUP_TRUSTED_PROXIES", "127.0.0.1/32");
    place.set("BACKUP_METRICS", "true");
    let server = Server::start(&place);
    let _nginx = Nginx::with(address, &snippet.replace("127.0.0.1:8080", &server.address.to_string()));
    let nobody = Visitor::behind(&server, address, "/backups");
    assert_eq!((server.request("GET", "/metrics").send().status, nobody.get("/metrics").status), (200, 404));
    // Who asks is who nginx says, whatever they say themselves.
    let stranger = server.request("GET", "/backups/api/backup/list").to(address).from([127, 0, 0, 2].into());
    stranger.header("X-Forwarded-For", "203.0.113.7").token("none").send().problem(401, "unauthenticated");
    assert_eq!(place.audit().last().unwrap()["from"], "127.0.0.2");
    let way_in = nobody.get("/settings/backups");
    assert_eq!((way_in.status, values(&way_in.text(), "action")), (401, vec!["/backups/sign-in".to_owned()]));
    let visitor = nobody.signed_in(&superuser());
    let page = visitor.follow(&visitor.post("/settings/backups/create", &[("reason", "")]));
    let id = place.ids().remove(0);
    let mut pages = vec![page];
    for path in
        ["/card".to_owned(), format!("/backup/{id}"), format!("/backup/{id}/restore"), format!("/backup/{id}/delete")]
    {
        pages.push(visitor.get(&format!("/settings/backups{path}")).text());
    }
    for page in pages {
        let mut addresses = Vec::new();
        for attribute in ["href", "src", "action", "formaction", "hx-get", "hx-post"] {
            addresses.extend(values(&page, attribute));
        }
        assert!(addresses.len() > 5, "{page}");
        for address in addresses.iter().filter(|address| !address.starts_with('#')) {
            assert!(address.starts_with("/backups/"), "{address}");
        }
        for asset in values(&page, "src").iter().map(|path| path.strip_prefix("/backups").unwrap()) {
            assert_eq!(visitor.get(asset).status, 200, "{asset}");
        }
    }
    let part = visitor
        .request("GET", &format!("/api/backup/download/{id}?database=auth"))
        .header("Range", "bytes=0-15")
        .send();
    assert_eq!((part.status, part.body.as_slice()), (206, b"SQLite format 3\0".as_slice()));
}
