//! The door: who gets which answer under every address, and what stands open.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::client::{Answer, Request, Server, in_an_hour, superuser, token, user};
use crate::cross_site::COOKIE;
use crate::harness::{Place, eventually};
use crate::visitor::Visitor;

use Who::{Anyone, Superuser, User};

/// Who may come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Anyone,
    User,
    Superuser,
}

/// Every route: method, path, for whom, and what a superuser gets who sends no body and names no backup that there is.
const ROUTES: &[(&str, &str, Who, u16)] = &[
    ("GET", "/healthz", Anyone, 200),
    ("GET", "/readyz", Anyone, 200),
    // Switched off; tests/suite/metrics.rs has it on.
    ("GET", "/metrics", Anyone, 404),
    ("GET", "/api/openapi.json", Anyone, 200),
    ("GET", "/assets/{file}", Anyone, 404),
    ("GET", "/sign-in", Anyone, 200),
    ("POST", "/sign-in", Anyone, 400),
    ("POST", "/sign-out", User, 204),
    ("GET", "/api/backup", User, 200),
    ("POST", "/api/backup", Superuser, 201),
    ("GET", "/api/backup/list", User, 200),
    ("POST", "/api/backup/create", Superuser, 201),
    ("POST", "/api/backup/restore", Superuser, 400),
    ("GET", "/api/backup/preview", Superuser, 400),
    ("GET", "/api/backup/status", User, 200),
    ("GET", "/api/backup/doctor", Superuser, 200),
    ("GET", "/api/backup/config", User, 200),
    ("PUT", "/api/backup/config", Superuser, 428),
    ("GET", "/api/backup/audit", Superuser, 200),
    ("POST", "/api/backup/acknowledge", Superuser, 400),
    ("POST", "/api/backup/drill", Superuser, 200),
    ("POST", "/api/backup/operation/cancel", Superuser, 409),
    ("POST", "/api/backup/notify/test", Superuser, 409),
    ("POST", "/api/backup/verify/{id}", Superuser, 404),
    ("POST", "/api/backup/replica/{name}/verify", Superuser, 404),
    ("GET", "/api/backup/download/{id}", Superuser, 404),
    ("GET", "/api/backup/{id}/download", Superuser, 404),
    ("GET", "/api/backup/{id}/preview", Superuser, 404),
    ("GET", "/api/backup/{id}", User, 404),
    ("PATCH", "/api/backup/{id}", Superuser, 400),
    ("DELETE", "/api/backup/{id}", Superuser, 404),
    ("GET", "/settings/backups", Superuser, 200),
    ("GET", "/settings/backups/card", Superuser, 200),
    ("GET", "/settings/backups/now", Superuser, 200),
    ("GET", "/settings/backups/list", Superuser, 200),
    ("POST", "/settings/backups/create", Superuser, 303),
    ("POST", "/settings/backups/drill", Superuser, 303),
    ("GET", "/settings/backups/acknowledge", Superuser, 400),
    ("POST", "/settings/backups/acknowledge", Superuser, 400),
    ("GET", "/settings/backups/operation", Superuser, 400),
    ("POST", "/settings/backups/cancel", Superuser, 400),
    ("GET", "/settings/backups/errand/{number}", Superuser, 303),
    ("POST", "/settings/backups/errand/{number}/cancel", Superuser, 409),
    ("GET", "/settings/backups/backup/{id}", Superuser, 404),
    ("POST", "/settings/backups/backup/{id}/verify", Superuser, 404),
    ("POST", "/settings/backups/replica/{name}/verify", Superuser, 404),
    ("POST", "/settings/backups/backup/{id}/pin", Superuser, 400),
    ("GET", "/settings/backups/backup/{id}/restore", Superuser, 404),
    ("POST", "/settings/backups/backup/{id}/restore", Superuser, 400),
    ("GET", "/settings/backups/point", Superuser, 400),
    ("POST", "/settings/backups/point", Superuser, 400),
    ("GET", "/settings/backups/backup/{id}/delete", Superuser, 404),
    ("POST", "/settings/backups/backup/{id}/delete", Superuser, 404),
    ("GET", "/settings/backups/settings", Superuser, 200),
    ("POST", "/settings/backups/settings", Superuser, 422),
    ("POST", "/settings/backups/settings/preview", Superuser, 422),
    ("POST", "/settings/backups/notices/test", Superuser, 409),
    ("GET", "/settings/backups/activity", Superuser, 200),
];

const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW"];

/// A server that takes the word of whoever is in front of it for the client's address.
pub fn proxied(set: &[(&str, &str)]) -> (Place, Server) {
    let mut place = Place::new();
    place.set("BACKUP_TRUSTED_PROXIES", "127.0.0.1");
    for (name, value) in set {
        place.set(name, value);
    }
    let server = Server::start(&place);
    (place, server)
}

/// From an address that has never asked before, so that no limit is in the way.
pub fn afresh(request: Request) -> Request {
    request.header("X-Forwarded-For", &std::net::Ipv4Addr::from_bits(0x0a00_0000 + next()).to_string())
}

fn next() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whoever has never asked before.
pub fn somebody(role: Value) -> String {
    token(json!({ "sub": format!("user-{}", next()), "role": role }))
}

/// What the source says, so that a new route is listed above before it is served.
#[test]
fn every_route_is_listed_here() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let source = std::fs::read_to_string(root.join("http.rs")).unwrap();
    let pages = std::fs::read_to_string(root.join("http/pages.rs")).unwrap();
    let table = |text: &str, head: &str| text.split_once(head).unwrap().1.split_once("\n}\n").unwrap().0.to_owned();
    let table = table(&source, "\nfn routes(") + &table(&pages, "\npub fn routes(");
    let methods = [
        ("get()", "GET"),
        ("post()", "POST"),
        ("put()", "PUT"),
        ("Method::PATCH", "PATCH"),
        ("Method::DELETE", "DELETE"),
    ];
    let routes =
        ["(), web::to", "(), page(web::to", "Method::PATCH, web::to", "Method::DELETE, web::to", "(), download()"];
    let mut served = BTreeSet::new();
    for resource in table.split("resource(").skip(1) {
        let path = resource.split('"').nth(1).unwrap();
        let routes: usize = routes.iter().map(|route| resource.matches(route).count()).sum();
        let mut known = 0;
        for (text, method) in methods {
            known += resource.matches(&format!("({text}, ")).count();
            if resource.contains(&format!("({text}, ")) {
                served.insert((method, path));
            }
        }
        assert!(known > 0 && known == routes, "a method that isn't known here: {resource}");
    }
    let listed: BTreeSet<_> = ROUTES.iter().map(|(method, path, ..)| (*method, *path)).collect();
    assert_eq!(served, listed);
    // Nothing is served beside that table.
    let files = std::fs::read_dir(root.join("http")).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap());
    let all = texts.fold(source, |all, text| all + &text);
    for (word, times) in [("web::resource(", 1), ("web::scope(", 0), (".service(", 0), ("Files::new(", 0)] {
        assert_eq!(all.matches(word).count(), times, "{word}");
    }
}

/// What a caller says of itself: headers.
type Said = Vec<(&'static str, String)>;

/// Callers, each with whether they count as nobody, a user or a superuser. Sessions are opened anew, since one of the routes
/// ends them.
fn callers(server: &Server) -> Vec<(&'static str, Said, Who)> {
    let bearer = |token: &str| vec![("Authorization", format!("Bearer {token}"))];
    let cookie = |pair: &str| vec![("Cookie", pair.to_owned()), ("Sec-Fetch-Site", "same-origin".to_owned())];
    let apps = |token: &str| cookie(&format!("{COOKIE}={token}"));
    let session = |role: Value| cookie(Visitor::of(server, &somebody(role)).cookie());
    let expired = token(json!({ "role": "superuser", "exp": in_an_hour() - 7200 }));
    vec![
        ("nobody", Vec::new(), Anyone),
        ("an empty token", bearer(""), Anyone),
        ("garbage", bearer("garbage"), Anyone),
        ("three parts of garbage", bearer("a.b.c"), Anyone),
        ("expired", bearer(&expired), Anyone),
        ("expired, by the app's cookie", apps(&expired), Anyone),
        ("a session of nobody's", cookie("attendance-backup=garbage"), Anyone),
        ("a user", bearer(&somebody(json!("teacher"))), User),
        ("a user by session", session(json!("teacher")), User),
        ("a user by the app's cookie", apps(&somebody(json!("teacher"))), User),
        ("no role", bearer(&somebody(Value::Null)), User),
        ("role true", bearer(&somebody(json!(true))), User),
        ("role 1", bearer(&somebody(json!(1))), User),
        ("a list of roles", bearer(&somebody(json!(["superuser"]))), User),
        ("another case", bearer(&somebody(json!("Superuser"))), User),
        ("a space", bearer(&somebody(json!("superuser "))), User),
        ("a nested role", bearer(&somebody(json!({ "role": "superuser" }))), User),
        ("another claim", bearer(&token(json!({ "sub": format!("user-{}", next()), "superuser": true }))), User),
        ("a superuser", bearer(&superuser()), Superuser),
        ("a superuser by session", session(json!("superuser")), Superuser),
        ("a superuser by the app's cookie", apps(&somebody(json!("superuser"))), Superuser),
    ]
}

/// With something in each place that is open.
fn placed(path: &str) -> String {
    path.replace("{id}", "daily-2020-01-01").replace("{number}", "0").replace("{file}", "none.css")
}

fn ask(server: &Server, method: &str, path: &str, token: Option<&String>) -> Answer {
    let request = afresh(server.request(method, &placed(path)));
    token.into_iter().fold(request, |request, token| request.token(token)).send()
}

fn nothing_runs(server: &Server) -> bool {
    ask(server, "GET", "/api/backup/status", Some(&superuser())).ok()["operation"].is_null()
}

#[test]
fn every_route_answers_those_that_it_is_for_and_nobody_else() {
    let (place, server) = proxied(&[]);
    place.create();
    for (method, path, who, status) in ROUTES {
        let methods = if *method == "GET" { vec!["GET", "HEAD"] } else { vec![*method] };
        for (name, said, is) in callers(&server) {
            for method in &methods {
                let expected = match (who, is) {
                    (Anyone, _) | (_, Superuser) | (User, User) => *status,
                    (_, Anyone) => 401,
                    (Superuser, User) => 403,
                };
                let asked = || {
                    let request = afresh(server.request(method, &placed(path)));
                    said.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
                };
                let mut answer = asked();
                // What takes longer than a moment is told on a page of its own: then it is asked once more.
                for _ in 0..3 {
                    if (expected, answer.status) == (404, 303) {
                        eventually("its end", || nothing_runs(&server).then_some(()));
                        answer = asked();
                    }
                }
                assert_eq!(answer.status, expected, "{name}: {method} {path}: {}", answer.text());
                match expected {
                    _ if *method == "HEAD" => {}
                    401 => drop(answer.problem(401, "unauthenticated")),
                    403 => drop(answer.problem(403, "forbidden")),
                    // What was begun on the page goes on by itself, and holds the directory meanwhile.
                    303 => eventually("its end", || nothing_runs(&server).then_some(())),
                    _ => {}
                }
            }
        }
    }
    assert_eq!(place.list().len(), 10, "the first and three of each superuser");
    server.stop();
    place.assert_whole();
}

/// Whoever reads on after the head of such an answer takes a body for the next one.
#[test]
fn no_answer_to_head_has_a_body() {
    let (_place, server) = proxied(&[]);
    for path in ["/healthz", "/readyz", "/api/backup/list", "/api/backup/audit", "/nowhere"] {
        for token in [superuser(), somebody(json!("teacher")), "garbage".to_owned()] {
            let mut text = String::new();
            afresh(server.request("HEAD", path)).token(&token).open().unwrap().read_to_string(&mut text).unwrap();
            assert!(text.starts_with("HTTP/1.1 ") && text.ends_with("\r\n\r\n"), "{path}: {text}");
            assert_eq!(text.matches("\r\n\r\n").count(), 1, "{path}: {text}");
        }
    }
}

#[test]
fn any_other_method_wants_a_token_too_and_then_says_which_there_are() {
    let (_place, server) = proxied(&[]);
    let paths: BTreeSet<_> = ROUTES.iter().map(|(_, path, ..)| *path).collect();
    for path in paths {
        let known: Vec<_> = ROUTES.iter().filter(|route| route.1 == path).map(|route| route.0).collect();
        let known = |method: &str| known.contains(&method) || (method == "HEAD" && known.contains(&"GET"));
        for method in METHODS.into_iter().filter(|method| !known(method)) {
            for token in [None, Some("garbage".to_owned())] {
                assert_eq!(ask(&server, method, path, token.as_ref()).status, 401, "{method} {path}");
            }
            for token in [somebody(json!("teacher")), superuser()] {
                let answer = ask(&server, method, path, Some(&token));
                assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text());
                let allow: BTreeSet<_> = answer.header("allow").unwrap().split(", ").collect();
                let expected: BTreeSet<_> = METHODS.into_iter().filter(|method| known(method)).collect();
                assert_eq!(allow, expected, "{method} {path}");
            }
        }
    }
}

#[test]
fn where_nothing_is_a_token_is_asked_for_first() {
    let (_place, server) = proxied(&[]);
    let paths =
        ["/", "/api", "/api/", "/api/backup/", "/api/backup/list/", "/api/backup/a/b/c", "/favicon.ico", "/.env"];
    for path in paths {
        for method in METHODS {
            assert_eq!(ask(&server, method, path, None).status, 401, "{method} {path}");
            assert_eq!(ask(&server, method, path, Some(&superuser())).status, 404, "{method} {path}");
        }
        ask(&server, "GET", path, Some(&user())).problem(404, "no-such-route");
    }
}

/// What looks like an open address, and the answer without a token. 200 is that address itself.
const LIKE_OPEN: &[(&str, u16)] = &[
    ("/healthz?x", 200),
    ("/healthz?/../api/backup/list", 200),
    ("/healthz/", 401),
    ("/healthz/x", 401),
    ("/healthz%2f..%2fapi/backup/list", 401),
    ("/healthz/../api/backup/list", 401),
    ("/healthz/%2e%2e/api/backup/list", 401),
    ("/healthz;x", 401),
    ("/healthz;/../api/backup/list", 401),
    ("/healthz%00", 401),
    ("/healthz%20", 401),
    ("/healthz%3fx", 401),
    ("/healthz\\..\\api\\backup\\list", 401),
    ("/%68ealthz", 401),
    ("/HEALTHZ", 401),
    ("//healthz", 401),
    ("/./healthz", 401),
    ("/readyz/../api/backup/status", 401),
    ("/api/openapi.json/../backup/list", 401),
    ("/api/openapi.json%2f..%2fbackup/list", 401),
    ("/api/openapi.json/", 401),
    ("/api//openapi.json", 401),
    ("/api/backup/../../healthz", 401),
    ("/api/backup/list?x=/healthz", 401),
    ("/api/backup%2flist", 401),
    ("/api/backup/lis%74", 401),
    ("/sign-in/../api/backup/list", 401),
    ("/sign-in%2f..%2fapi%2fbackup%2flist", 401),
    ("/sign-in/", 401),
    // Open by how it begins, and nothing but its files is there.
    ("/assets", 401),
    ("/assets/", 404),
    ("/assets/../api/backup/list", 404),
    ("/assets/%2e%2e/api/backup/list", 404),
    ("/assets/%2e%2e%2fapi%2fbackup%2flist", 404),
    ("/assets/x/../../api/backup/list", 404),
    ("/assets/..\\api\\backup\\list", 404),
    ("/assets/../../../../../../etc/passwd", 404),
    ("/assets//../api/backup/list", 404),
    ("//assets/../api/backup/list", 401),
    ("/Assets/../api/backup/list", 401),
    ("http://school.example/assets/../api/backup/list", 404),
    ("http://school.example/api/backup/list", 401),
    ("http://healthz/api/backup/list", 401),
];

#[test]
fn nothing_that_looks_like_an_open_address_gives_data() {
    let (place, server) = proxied(&[]);
    let id = place.create()["id"].as_str().unwrap().to_owned();
    for (path, status) in LIKE_OPEN {
        let answer = ask(&server, "GET", path, None);
        assert_eq!(answer.status, *status, "{path}: {}", answer.text());
        assert!(!answer.text().contains(&id), "{path}: {}", answer.text());
        if *status == 200 {
            assert_eq!(answer.json(), json!({ "alive": true }), "{path}");
        }
    }
    // Nor does a header that names another address or method, as some proxies' backends take them.
    for (name, value) in [
        ("X-Original-URL", "/api/backup/list"),
        ("X-Rewrite-URL", "/api/backup/list"),
        ("X-Forwarded-Prefix", "/api/backup"),
        ("X-HTTP-Method-Override", "POST"),
    ] {
        let answer = afresh(server.request("GET", "/healthz")).header(name, value).send();
        assert_eq!(answer.ok(), json!({ "alive": true }), "{name}");
        let answer = afresh(server.request("GET", "/api/backup/list")).header(name, "/healthz").send();
        answer.problem(401, "unauthenticated");
    }
}

/// Whoever may not do a thing learns nothing of how it is done.
#[test]
fn a_user_is_forbidden_whatever_else_is_wrong_with_the_request() {
    let (place, server) = proxied(&[]);
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let ask = |method: &str, path: &str| afresh(server.request(method, path)).token(&somebody(json!("teacher")));
    let paths = [
        ("DELETE", format!("/api/backup/{id}?force=perhaps")),
        ("DELETE", "/api/backup/no-such-id?nonsense".to_owned()),
        ("GET", "/api/backup/audit?limit=many".to_owned()),
        ("GET", format!("/api/backup/download/{id}?database=../auth")),
        ("PUT", "/api/backup/config?dryRun=perhaps".to_owned()),
    ];
    for (method, path) in paths {
        ask(method, &path).send().problem(403, "forbidden");
    }
    for body in [&b"{"[..], b"[]", &[b' '; 100_000]] {
        ask("POST", "/api/backup/create").body(body).send().problem(403, "forbidden");
        let request = ask("PATCH", &format!("/api/backup/{id}")).header("Content-Type", "application/json");
        request.body(body).send().problem(403, "forbidden");
    }
    let refused: Vec<_> = place.audit().into_iter().filter(|line| line["kind"] == "refused").collect();
    assert_eq!(refused.len(), 11, "each is written down once: {refused:?}");
}
