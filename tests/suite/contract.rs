//! The OpenAPI document says what the server does, no less and no more: it is compared with its copy, with the route
//! table, with real answers, and put to the test by schemathesis.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use attendance_backup::http::admit::OPEN;
use serde_json::{Value, json};

use crate::client::{Answer, Request, Server, superuser, token, user};
use crate::harness::{Place, thoroughness};

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A tool in the folder that `scripts/setup test` fills.
fn tool(name: &str) -> Command {
    let path = root("target/venv/bin").join(name);
    assert!(path.exists(), "{} is missing: run `scripts/setup test`", path.display());
    Command::new(path)
}

fn document(server: &Server) -> Value {
    server.request("GET", "/api/openapi.json").send().ok()
}

/// Each path with its operations by method.
fn operations(document: &Value) -> BTreeMap<(String, String), Value> {
    let paths = document["paths"].as_object().unwrap().iter();
    let all = paths.flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter();
        operations.map(|(method, operation)| ((path.clone(), method.clone()), operation.clone()))
    });
    all.collect()
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let (place, copy) = (Place::new(), root("docs/openapi.json"));
    let answer = Server::start(&place).request("GET", "/api/openapi.json").send();
    assert_eq!(answer.header("content-type"), Some("application/json"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&copy, answer.text()).unwrap();
    }
    let committed = std::fs::read_to_string(&copy).unwrap_or_default();
    let how = "docs/openapi.json is not what is served; `UPDATE=1 cargo test --test suite contract` makes it anew";
    assert!(committed == answer.text(), "{how}");
}

#[test]
fn every_route_stands_in_the_document_with_exactly_its_methods() {
    let source = std::fs::read_to_string(root("src/http.rs")).unwrap();
    let table = source.split_once("\nfn routes(").unwrap().1.split_once("\n}\n").unwrap().0;
    let mut routes = BTreeSet::new();
    for entry in table.split("resource(").skip(1) {
        let path = entry.split('"').nth(1).unwrap();
        for method in METHODS {
            if entry.contains(&format!("({method}(), "))
                || entry.contains(&format!("(Method::{}, ", method.to_uppercase()))
            {
                routes.insert((path.to_owned(), method.to_owned()));
            }
        }
    }
    // What the page is made of is the page's.
    assert!(routes.remove(&("/assets/{file}".to_owned(), "get".to_owned())));
    let place = Place::new();
    let operations = operations(&document(&Server::start(&place)));
    assert!(routes.len() > 15, "{routes:?}");
    assert_eq!(operations.keys().cloned().collect::<BTreeSet<_>>(), routes);
    let mut ids = BTreeSet::new();
    for ((path, method), operation) in &operations {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path} has the name of another");
        assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 5), "{method} {path} says nothing");
        let open = OPEN.contains(&path.as_str());
        // Nobody needs a token to sign in with one.
        if path == "/sign-in" {
            assert_eq!(operation["security"], json!([{}]));
            continue;
        }
        for status in ["401", "429"] {
            // It may want a token of its own.
            assert_eq!(
                operation["responses"][status].is_null(),
                open && path != "/metrics",
                "{method} {path}: {status}"
            );
        }
        assert_eq!(operation["security"] == json!([{}]), open, "{method} {path}");
    }
}

/// Answers as `python/schema.py` reads them.
#[derive(Default)]
struct Answers(Vec<Value>);

impl Answers {
    fn add(&mut self, method: &str, route: &str, answer: &Answer) {
        let kind = answer.header("content-type");
        let body = kind.is_some_and(|kind| kind.ends_with("json")).then(|| answer.json());
        let names: Vec<_> = answer.headers.iter().map(|(name, _)| name).collect();
        self.0.push(json!({
            "method": method, "route": route, "status": answer.status, "type": kind, "headers": names, "body": body,
        }));
    }
}

#[test]
fn real_answers_are_as_the_document_says() {
    let (mut place, mut answers) = (Place::new(), Answers::default());
    std::fs::create_dir(place.path("nas")).unwrap();
    let nas = format!("fs://{}", place.path("nas").display());
    place.set("BACKUP_REPLICA_NAS_URL", &nas);
    let server = Server::start(&place);
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let mut ask = |status: u16, method: &str, route: &str, query: &str, with: &dyn Fn(Request) -> Request| {
        let path = route.replace("{id}", &id).replace("{name}", "nas") + query;
        let answer = with(server.request(method, &path)).send();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        answers.add(method, route, &answer);
        answer
    };
    let any = |request: Request| request.token(&user());
    let su = |request: Request| request.token(&superuser());
    let body = |body: Value| move |request: Request| request.token(&superuser()).json(&body);
    ask(200, "GET", "/healthz", "", &|request| request);
    ask(200, "GET", "/readyz", "", &|request| request);
    ask(201, "POST", "/api/backup/create", "", &body(json!({ "type": "daily", "reason": "a try" })));
    ask(201, "POST", "/api/backup", "", &su);
    ask(400, "POST", "/api/backup/create", "", &body(json!({ "reason": "two\nlines" })));
    ask(400, "POST", "/api/backup/create", "", &body(json!([null, null])));
    ask(415, "POST", "/api/backup", "", &|request| su(request).body(b"{}"));
    ask(413, "POST", "/api/backup", "", &body(json!({ "reason": "x".repeat(70_000) })));
    ask(200, "GET", "/api/backup/list", "?type=manual", &any);
    ask(200, "GET", "/api/backup", "", &any);
    ask(400, "GET", "/api/backup/list", "?type=yearly", &any);
    ask(401, "GET", "/api/backup/list", "", &|request| request);
    ask(200, "GET", "/api/backup/status", "", &any);
    ask(200, "GET", "/api/backup/doctor", "", &su);
    ask(404, "GET", "/metrics", "", &|request| request);
    ask(200, "GET", "/api/backup/{id}", "", &any);
    ask(404, "GET", "/api/backup/{id}", "-7", &any);
    ask(403, "POST", "/api/backup/verify/{id}", "", &any);
    ask(200, "POST", "/api/backup/verify/{id}", "", &su);
    place.ok(&["replica", "push", "nas", "--wait", "30s"]);
    ask(200, "POST", "/api/backup/replica/{name}/verify", "", &su);
    std::fs::rename(place.path("nas"), place.path("gone")).unwrap();
    ask(502, "POST", "/api/backup/replica/{name}/verify", "", &su);
    ask(200, "POST", "/api/backup/drill", "", &su);
    ask(200, "GET", "/api/backup/status", "", &any);
    place.sql(
        "attendance",
        "ALTER TABLE people ADD COLUMN email TEXT; CREATE VIRTUAL TABLE boxes USING rtree(id, low, high)",
    );
    ask(200, "GET", "/api/backup/{id}/preview", "", &su);
    std::fs::rename(place.live("auth"), place.path("aside")).unwrap();
    ask(200, "GET", "/api/backup/{id}/preview", "", &su);
    std::fs::rename(place.path("aside"), place.live("auth")).unwrap();
    ask(404, "GET", "/api/backup/{id}/preview", "-7", &su);
    ask(200, "PATCH", "/api/backup/{id}", "", &body(json!({ "pinned": true })));
    ask(400, "PATCH", "/api/backup/{id}", "", &body(json!([true])));
    ask(409, "POST", "/api/backup/acknowledge", "", &body(json!({ "id": "manual-2026-01-08T143005Z" })));
    ask(409, "POST", "/api/backup/operation/cancel", "", &su);
    ask(200, "GET", "/api/backup/audit", "?limit=100", &su);
    let tag = ask(200, "GET", "/api/backup/config", "", &any).header("etag").unwrap().to_owned();
    let change = |tag: &str, body: Value| {
        let tag = tag.to_owned();
        move |request: Request| request.token(&superuser()).header("If-Match", &tag).json(&body)
    };
    ask(409, "POST", "/api/backup/notify/test", "", &su);
    let fewer = || json!({ "retention": { "manual": 1 } });
    ask(428, "PUT", "/api/backup/config", "", &body(fewer()));
    ask(200, "PUT", "/api/backup/config", "?dryRun=true", &change(&tag, fewer()));
    ask(422, "PUT", "/api/backup/config", "", &change(&tag, json!({ "schedule": [3, 4] })));
    ask(200, "PUT", "/api/backup/config", "", &change(&tag, fewer()));
    ask(412, "PUT", "/api/backup/config", "", &change(&tag, fewer()));

    let download = "/api/backup/download/{id}";
    let tar = ask(200, "GET", download, "", &su).header("etag").unwrap().to_owned();
    let tag = ask(200, "GET", download, "?database=auth", &su).header("etag").unwrap().to_owned();
    let only = |name: &'static str, value: &str| {
        let value = value.to_owned();
        move |request: Request| request.token(&superuser()).header(name, &value)
    };
    ask(206, "GET", download, "?database=auth", &only("Range", "bytes=0-99"));
    ask(304, "GET", download, "?database=auth", &only("If-None-Match", &tag));
    ask(412, "GET", download, "?database=auth", &only("If-Match", "\"another\""));
    ask(304, "GET", download, "", &only("If-None-Match", &tar));
    ask(412, "GET", download, "", &only("If-Match", &tag));
    ask(416, "GET", "/api/backup/{id}/download", "?database=auth", &only("Range", "bytes=99999999-"));
    ask(404, "GET", download, "?database=nobody", &su);
    ask(204, "DELETE", "/api/backup/{id}", "", &su);
    assert_fit(&place, document(&server), answers);
}

fn assert_fit(place: &Place, document: Value, answers: Answers) {
    let given = place.path("answers.json");
    std::fs::write(&given, json!({ "document": document, "answers": answers.0 }).to_string()).unwrap();
    let output = tool("python").arg(root("tests/suite/python/schema.py")).arg(given).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output));
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The bounds of the settings are told twice: in the rules and in the document.
#[test]
fn the_document_has_the_bounds_that_the_server_keeps() {
    let place = Place::new();
    let server = Server::start(&place);
    let document = document(&server);
    let mut bounds = 0;
    for (group, schema) in [("schedule", "SavedSchedule"), ("retention", "SavedRetention")] {
        for (name, value) in document["components"]["schemas"][schema]["properties"].as_object().unwrap() {
            let (Some(least), Some(most)) = (value["minimum"].as_i64(), value["maximum"].as_i64()) else { continue };
            bounds += 1;
            for (value, status) in [(least - 1, 422), (least, 200), (most, 200), (most + 1, 422)] {
                let change = json!({ group: { name.as_str(): value } });
                let asked = server.request("PUT", "/api/backup/config?dryRun=true").token(&superuser());
                let answer = asked.header("If-Match", "*").json(&change).send();
                assert_eq!(answer.status, status, "{change}: {}", answer.text());
            }
        }
    }
    assert_eq!(bounds, 7);
}

/// Behind a path prefix the document names the address that its reader has to use.
#[test]
fn the_document_knows_the_public_address() {
    let mut place = Place::new();
    place.set("BACKUP_PUBLIC_URL", "https://school.example/backups");
    let document = document(&Server::start(&place));
    assert_eq!(document["servers"], json!([{ "url": "https://school.example/backups" }]));
}

#[test]
fn nothing_a_superuser_sends_is_answered_otherwise_than_described() {
    let (place, _) = preyed_on();
    schemathesis(&place, &[superuser()], 12);
    place.assert_whole();
}

#[test]
fn nothing_a_plain_user_sends_is_answered_otherwise_than_described() {
    let (place, ids) = preyed_on();
    let users: Vec<_> = (0..60).map(|n| token(json!({ "sub": format!("user-{n}"), "role": "teacher" }))).collect();
    schemathesis(&place, &users, 10);
    place.assert_whole();
    assert_eq!(place.ids().into_iter().collect::<BTreeSet<_>>(), ids, "a plain user has changed something");
}

/// A place with backups that rotation leaves alone, for requests that must meet one.
fn preyed_on() -> (Place, BTreeSet<String>) {
    let mut place = Place::new();
    place.set("BACKUP_DOWNLOADS_PER_MINUTE", "1000").set("BACKUP_TRUSTED_PROXIES", "127.0.0.1");
    let ids: BTreeSet<_> = (0..4).map(|_| place.create()["id"].as_str().unwrap().to_owned()).collect();
    for id in &ids {
        place.ok(&["pin", id]);
    }
    let mut settings = std::fs::read_to_string(root("tests/schemathesis.toml")).unwrap();
    settings += &format!("ids = {{ values = {} }}\n", json!(ids));
    std::fs::write(place.path("schemathesis.toml"), settings).unwrap();
    (place, ids)
}

/// What is looked at in CI: nothing is answered that the document doesn't have. Whether each request is taken that the
/// document allows, and none besides, is `make faults`' matter: the ids hold the time, so no two runs try the same.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,ignored_auth,unsupported_method,use_after_free";

/// Runs schemathesis on the place.
fn schemathesis(place: &Place, tokens: &[String], examples: u32) {
    let server = Server::start(place);
    std::fs::write(place.path("tokens"), tokens.join("\n")).unwrap();
    let output = tool("schemathesis")
        .args(["--config-file", "schemathesis.toml", "run", "--no-color", "--max-examples", &examples.to_string()])
        .args(["--checks", if thoroughness() < 2 { CHECKS } else { "all" }])
        .args(["--header", &format!("Authorization: Bearer {}", tokens[0])])
        .arg(format!("http://{}/api/openapi.json", server.address))
        .env("SCHEMATHESIS_HOOKS", "crowd")
        .env("PYTHONPATH", root("tests/suite/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TOKENS", place.path("tokens"))
        .env("NO_PROXY", "127.0.0.1")
        .current_dir(place.path(""))
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    println!("{}", text.split_once("= SUMMARY =").map_or(text.as_str(), |(_, summary)| summary));
    let log = server.stop();
    assert!(!log.contains("panicked"), "{log}");
}
