//! What is written down of those who are turned away, and how often they may come.

use serde_json::{Value, json};

use crate::client::{Answer, HS256, Server, sign, superuser, token, user};
use crate::door::{afresh, proxied};
use crate::harness::Place;

#[test]
fn whoever_is_turned_away_is_written_down_with_whence_they_came() {
    let (place, server) = proxied(&[]);
    let ask = |method: &str, path: &str, from: &str| server.request(method, path).header("X-Forwarded-For", from);
    ask("GET", "/api/backup/list", "203.0.113.6").send().problem(401, "unauthenticated");
    ask("GET", "/api/backup/list", "203.0.113.7").token("a.b.c").send().problem(401, "unauthenticated");
    ask("POST", "/api/backup/create", "2001:db8::7").token(&user()).send().problem(403, "forbidden");
    let by_cookie =
        ask("POST", "/api/backup/create", "203.0.113.8").header("Cookie", &format!("backup_session={}", superuser()));
    by_cookie.send().problem(403, "cross-site");
    ask("HEAD", "/api/backup/download/daily-2020-01-01", "203.0.113.9").token(&user()).send();
    let shown = |line: &Value| {
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        assert_eq!(line["kind"], "refused", "{line}");
        [text("operation"), text("by"), text("from"), text("code"), text("reason")]
    };
    let lines: Vec<_> = place.audit().iter().map(shown).collect();
    // That somebody came without a token says nothing.
    let expected = [
        ["sign-in", "nobody", "203.0.113.7", "unauthenticated", "it is not a token of the configured algorithm"],
        ["request", "user:ada", "2001:db8::7", "forbidden", "POST /api/backup/create: Superusers only"],
        [
            "request",
            "user:ada",
            "203.0.113.8",
            "cross-site",
            "POST /api/backup/create: The request comes from another site",
        ],
        ["request", "user:ada", "203.0.113.9", "forbidden", "HEAD /api/backup/download/{id}: Superusers only"],
    ];
    assert_eq!(lines, expected);
    let page = server.get("/api/backup/audit?kind=refused").ok();
    assert_eq!(page["lines"].as_array().unwrap().len(), 4, "{page}");
    place.ok(&["audit", "verify"]);
}

#[test]
fn no_subject_can_forge_a_line_or_pass_for_somebody_else() {
    let (place, server) = proxied(&[]);
    let subjects = [
        r#"x","kind":"outcome"#,
        r#"x"}{"seq":9,"#,
        "a\u{2028}b\u{2029}c",
        "\u{202e}resurepus",
        "scheduler",
        "cli",
        "nobody",
        "user:ada",
        "<script>alert(1)</script>",
        "\\u000a",
    ];
    for subject in subjects {
        let request = afresh(server.request("POST", "/api/backup/create"));
        request.token(&token(json!({ "sub": subject }))).send().problem(403, "forbidden");
    }
    let text = std::fs::read_to_string(place.backups().join("audit.jsonl")).unwrap();
    assert_eq!(text.split('\n').count(), subjects.len() + 1);
    let lines = place.audit();
    for (number, (line, subject)) in lines.iter().zip(subjects).enumerate() {
        assert_eq!(line["by"], format!("user:{subject}"));
        assert_eq!((&line["kind"], &line["seq"]), (&json!("refused"), &json!(number + 1)));
    }
    // What a terminal would obey names nobody.
    for subject in ["\u{1b}[31mred", "a\nb", "a\rb", "\u{85}", "\u{7f}", "\0", "\u{9b}2J"] {
        let request = afresh(server.request("GET", "/api/backup/list"));
        request.token(&token(json!({ "sub": subject }))).send().problem(401, "unauthenticated");
    }
    assert_eq!(place.audit().last().unwrap()["reason"], "a claim is missing or malformed");

    let created = afresh(server.request("POST", "/api/backup/create"));
    let created = created.token(&token(json!({ "sub": "scheduler", "role": "superuser" }))).send().ok();
    assert_eq!(created["createdBy"], "user:scheduler");
    assert_eq!(place.audit().last().unwrap()["by"], "user:scheduler");
    let log = server.stop();
    assert!(!log.contains('\u{1b}') && !log.contains('\u{2028}'), "{log}");
    place.assert_whole();
}

/// Asks until it is told to wait; says how often it was refused before.
#[track_caller]
fn flood(refused: u16, mut ask: impl FnMut() -> Answer) -> usize {
    for times in 0..90 {
        let answer = ask();
        if answer.status == 429 {
            let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=60).contains(&wait), "{wait}");
            answer.problem(429, "too-many-requests");
            return times;
        }
        assert_eq!(answer.status, refused, "{}", answer.text());
    }
    panic!("it was never told to wait");
}

#[test]
fn who_knocks_too_often_is_told_to_wait_and_locks_out_nobody_else() {
    let place = Place::new();
    let server = Server::start(&place);
    let bad = || {
        // No proxy is trusted: the header is the client's own.
        let request = afresh(server.request("GET", "/api/backup/status"));
        request.token(&sign(HS256, r#"{"sub":"ada"}"#)).send()
    };
    let refused = flood(401, bad);
    assert!(refused >= 30, "{refused}");
    // Now and then one more is let through to be refused; each of those has a line, and the others have none.
    let more = (0..20).filter(|_| bad().status == 401).count();
    assert!(more < 20);
    assert_eq!(place.audit().len(), refused + more);
    let nobody = (0..20).map(|_| server.request("GET", "/").send().status).collect::<Vec<_>>();
    assert!(nobody.contains(&429), "{nobody:?}");
    server.get("/api/backup/status").ok();
    assert_eq!(server.post("/api/backup/create").status, 201);
    assert_eq!(server.request("GET", "/healthz").send().status, 200);
}

#[test]
fn a_user_who_is_forbidden_too_often_is_told_to_wait_and_others_are_not() {
    let (place, server) = proxied(&[]);
    let ask = |subject: &str| {
        let request = afresh(server.request("POST", "/api/backup/create"));
        request.token(&token(json!({ "sub": subject }))).send()
    };
    let refused = flood(403, || ask("mallory"));
    assert!(refused >= 30, "{refused}");
    let more = (0..20).filter(|_| ask("mallory").status == 403).count();
    assert_eq!(place.audit().len(), refused + more);
    // What mallory may do goes on, and so do others.
    let request = afresh(server.request("GET", "/api/backup/list"));
    request.token(&token(json!({ "sub": "mallory" }))).send().ok();
    ask("ben").problem(403, "forbidden");
}
