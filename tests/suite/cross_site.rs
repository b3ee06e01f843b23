//! The app's cookie at the door: what it opens, and what another site can't make a browser do with it.

use crate::client::{Answer, Request, Server, superuser, token, user};
use crate::door::{afresh, proxied, somebody};
use crate::harness::Place;
use serde_json::json;

/// The app's.
pub const COOKIE: &str = "backup_session";

fn by_cookie(server: &Server, method: &str, path: &str) -> Request {
    afresh(server.request(method, path)).header("Cookie", &format!("{COOKIE}={}", somebody(json!("superuser"))))
}

fn with(request: Request, headers: &[(&str, &str)]) -> Request {
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// Something that changes something and is refused for another reason once it is let in.
#[track_caller]
fn assert_lets(server: &Server, headers: &[(&str, &str)], passes: bool) {
    let answer = with(by_cookie(server, "POST", "/api/backup/operation/cancel"), headers).send();
    let expected = if passes { (409, "nothing-runs") } else { (403, "cross-site") };
    assert_eq!(answer.status, expected.0, "{headers:?}: {}", answer.text());
    answer.problem(expected.0, expected.1);
}

const SITE: &str = "Sec-Fetch-Site";
const ORIGIN: &str = "Origin";

#[test]
fn what_changes_something_by_cookie_must_come_from_our_own_pages() {
    let (_place, server) = proxied(&[]);
    let ours = format!("http://{}", server.address);
    let secure = format!("https://{}", server.address);
    let ours = ours.as_str();
    let sub = format!("http://sub.{}", server.address);
    let (longer, slash, path) = (format!("{ours}.evil.example"), format!("{ours}/"), format!("{ours}/page"));
    let other_port = format!("http://{}:1", server.address.ip());
    let table: &[(&[(&str, &str)], bool)] = &[
        (&[(SITE, "same-origin")], true),
        (&[(SITE, "same-origin"), (ORIGIN, ours)], true),
        (&[(ORIGIN, ours)], true),
        (&[(ORIGIN, &secure)], true),
        (&[], false),
        (&[(SITE, "cross-site")], false),
        (&[(SITE, "same-site")], false),
        (&[(SITE, "none")], false),
        (&[(SITE, "")], false),
        (&[(SITE, "Same-Origin")], false),
        (&[(SITE, "same-origin, cross-site")], false),
        (&[(SITE, "same-origin"), (SITE, "same-origin")], false),
        (&[(SITE, "same-origin"), (SITE, "cross-site")], false),
        // The one that scripts can't write decides.
        (&[(SITE, "cross-site"), (ORIGIN, ours)], false),
        (&[(SITE, "same-site"), (ORIGIN, ours)], false),
        (&[(SITE, ""), (ORIGIN, ours)], false),
        (&[(ORIGIN, "null")], false),
        (&[(ORIGIN, "")], false),
        (&[(ORIGIN, "http://evil.example")], false),
        (&[(ORIGIN, &sub)], false),
        (&[(ORIGIN, &longer)], false),
        (&[(ORIGIN, &slash)], false),
        (&[(ORIGIN, &path)], false),
        (&[(ORIGIN, &other_port)], false),
        (&[(ORIGIN, ours), (ORIGIN, ours)], false),
        (&[(ORIGIN, ours), (ORIGIN, "http://evil.example")], false),
        // Neither is a proof of anything.
        (&[("Referer", ours)], false),
        (&[("X-Requested-With", "XMLHttpRequest")], false),
        (&[("HX-Request", "true")], false),
        (&[("X-Forwarded-Host", "evil.example"), (ORIGIN, "http://evil.example")], false),
        (&[("Forwarded", "host=evil.example"), (ORIGIN, "http://evil.example")], false),
    ];
    for (headers, passes) in table {
        assert_lets(&server, headers, *passes);
    }
}

#[test]
fn where_the_public_address_is_known_only_its_origin_is_ours() {
    let (_place, server) = proxied(&[("BACKUP_PUBLIC_URL", "https://school.example/backups")]);
    let local = format!("http://{}", server.address);
    let table: &[(&[(&str, &str)], bool)] = &[
        (&[(SITE, "same-origin")], true),
        (&[(ORIGIN, "https://school.example")], true),
        (&[(ORIGIN, "http://school.example")], false),
        (&[(ORIGIN, "https://school.example:8443")], false),
        (&[(ORIGIN, "https://school.example/backups")], false),
        (&[(ORIGIN, "https://backups.school.example")], false),
        (&[(ORIGIN, "https://school.example.evil.example")], false),
        (&[(ORIGIN, &local)], false),
        (&[], false),
    ];
    for (headers, passes) in table {
        assert_lets(&server, headers, *passes);
    }
}

/// Every unsafe method, and the forms that a page elsewhere can have a browser send without asking us first.
#[test]
fn a_form_on_another_site_makes_nothing() {
    let (place, server) = proxied(&[]);
    let forms: [(&str, &str); 5] = [
        ("application/x-www-form-urlencoded", "type=manual&reason=forged"),
        ("text/plain", r#"{"reason":"forged","x":"="}"#),
        (
            "multipart/form-data; boundary=x",
            "--x\r\nContent-Disposition: form-data; name=\"reason\"\r\n\r\nforged\r\n--x--\r\n",
        ),
        ("application/json", r#"{"reason":"forged"}"#),
        ("", ""),
    ];
    let sites: [&[(&str, &str)]; 4] = [
        &[(SITE, "cross-site"), (ORIGIN, "https://evil.example")],
        &[(ORIGIN, "https://evil.example")],
        &[(ORIGIN, "null")],
        &[],
    ];
    for (kind, body) in forms {
        for site in sites {
            for path in ["/api/backup", "/api/backup/create"] {
                let request = with(by_cookie(&server, "POST", path), site).header("Content-Type", kind);
                request.body(body.as_bytes()).send().problem(403, "cross-site");
            }
        }
        // Our own pages send JSON.
        if !["application/json", ""].contains(&kind) {
            let request = by_cookie(&server, "POST", "/api/backup/create").header(SITE, "same-origin");
            request.header("Content-Type", kind).body(body.as_bytes()).send().problem(415, "unsupported-media-type");
        }
    }
    assert!(place.list().is_empty());
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let of = format!("/api/backup/{id}");
    for (method, path) in [("DELETE", of.as_str()), ("PATCH", &of), ("PUT", "/api/backup/config"), ("BREW", "/")] {
        let request = with(by_cookie(&server, method, path), sites[0]).json(&json!({ "pinned": true }));
        request.send().problem(403, "cross-site");
    }
    // Nor may a picture on another site use up what a superuser may download; whoever types the address may look.
    for site in ["cross-site", "same-site"] {
        let picture = by_cookie(&server, "GET", &format!("/api/backup/download/{id}")).header(SITE, site);
        picture.send().problem(403, "cross-site");
    }
    let request = by_cookie(&server, "GET", &of).header(SITE, "none").header("X-HTTP-Method-Override", "DELETE");
    assert_eq!(request.send().ok()["pinned"], false);
    assert_eq!(place.ids(), [id]);
}

#[test]
fn no_other_site_may_read_what_is_answered() {
    let (_place, server) = proxied(&[]);
    let preflight = afresh(server.request("OPTIONS", "/api/backup/create"))
        .header(ORIGIN, "https://evil.example")
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization");
    let read = by_cookie(&server, "GET", "/api/backup/list").header(ORIGIN, "https://evil.example");
    let (refused, read) = (preflight.send(), read.send());
    assert_eq!((refused.status, read.status), (401, 200));
    for answer in [refused, read] {
        let names: Vec<_> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(!names.iter().any(|name| name.starts_with("access-control")), "{names:?}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[test]
fn a_cookie_counts_once_under_its_own_name() {
    let (place, server) = proxied(&[]);
    let ask = |cookies: &[String]| -> Answer {
        let request = afresh(server.request("GET", "/api/backup/list"));
        cookies.iter().fold(request, |request, cookie| request.header("Cookie", cookie)).send()
    };
    let good = format!("{COOKIE}={}", user());
    let table: Vec<(Vec<String>, u16)> = vec![
        (vec![good.clone()], 200),
        (vec![format!("theme=dark; {good}; lang=de")], 200),
        (vec!["theme=dark".to_owned(), good.clone()], 200),
        (vec![format!("{good}; {good}")], 401),
        (vec![format!("{good}; {COOKIE}=planted")], 401),
        (vec![format!("{COOKIE}=planted; {good}")], 401),
        (vec![good.clone(), good.clone()], 401),
        (vec![good.clone(), format!("{COOKIE}=")], 401),
        (vec![format!("{COOKIE}=")], 401),
        (vec![COOKIE.to_owned()], 401),
        (vec![format!("x{good}")], 401),
        (vec![good.to_uppercase()], 401),
        (vec![format!("{COOKIE}=\"{}\"", user())], 401),
        (vec![format!("{COOKIE}=Bearer {}", user())], 401),
        (vec![format!("other={}", user())], 401),
    ];
    for (cookies, status) in table {
        assert_eq!(ask(&cookies).status, status, "{cookies:?}");
    }
    drop(server);
    let mut place = place;
    place.set("BACKUP_JWT_COOKIE", "__Host-app.session");
    let server = Server::start(&place);
    let ask = |name: &str| {
        let request = afresh(server.request("GET", "/api/backup/list"));
        request.header("Cookie", &format!("{name}={}", user())).send().status
    };
    assert_eq!((ask("__Host-app.session"), ask(COOKIE)), (200, 401));
}

#[test]
fn where_there_is_a_header_the_cookie_says_nothing() {
    let (_place, server) = proxied(&[]);
    let expired = token(json!({ "role": "superuser", "exp": 1 }));
    for header in ["", "Bearer", "Bearer x", "Token x", &format!("Bearer {expired}"), &superuser()] {
        let request = by_cookie(&server, "GET", "/api/backup/list").header("Authorization", header);
        request.send().problem(401, "unauthenticated");
    }
    // What a proxy in front has asked for is not for us.
    for header in ["Basic YTpi", "negotiate x"] {
        by_cookie(&server, "GET", "/api/backup/list").header("Authorization", header).send().ok();
    }
    // No page elsewhere can write that header, and a proxy in front may, for whoever is signed in there.
    let ours = format!("http://{}", server.address);
    let table: [(&[(&str, &str)], bool); 8] = [
        (&[], true),
        (&[(SITE, "none")], true),
        (&[(SITE, "same-origin"), (ORIGIN, "http://evil.example")], true),
        (&[(ORIGIN, &ours)], true),
        (&[(SITE, "cross-site")], false),
        (&[(SITE, "same-site"), (ORIGIN, &ours)], false),
        (&[(SITE, "same-origin"), (SITE, "cross-site")], false),
        (&[(ORIGIN, "http://evil.example")], false),
    ];
    for (headers, passes) in table {
        let request = with(by_cookie(&server, "POST", "/api/backup/operation/cancel"), headers);
        let expected = if passes { (409, "nothing-runs") } else { (403, "cross-site") };
        request.token(&superuser()).send().problem(expected.0, expected.1);
        // What only looks is told: nobody else reads the answer.
        with(by_cookie(&server, "GET", "/api/backup/list"), headers).token(&superuser()).send().ok();
    }
    // And it isn't the cookie's rights that count.
    let request = by_cookie(&server, "POST", "/api/backup/operation/cancel").header(SITE, "same-origin");
    request.token(&user()).send().problem(403, "forbidden");
}

/// Neither in the address nor in the body does a token count: both end up in logs.
#[test]
fn a_token_elsewhere_is_none() {
    let place = Place::new();
    let server = Server::start(&place);
    for name in ["token", "access_token", "jwt", COOKIE] {
        let path = format!("/api/backup/list?{name}={}", superuser());
        server.request("GET", &path).send().problem(401, "unauthenticated");
        let body = format!("{name}={}", superuser());
        let request = server.request("POST", "/api/backup/create").body(body.as_bytes());
        request.header("Content-Type", "application/x-www-form-urlencoded").send().problem(401, "unauthenticated");
    }
    let request = server.request("GET", "/api/backup/list").header("X-Access-Token", &superuser());
    request.header("Proxy-Authorization", &format!("Bearer {}", superuser())).send().problem(401, "unauthenticated");
    assert!(place.list().is_empty());
}
