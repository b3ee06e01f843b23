//! Sessions of browsers: a token or a one-time code opens one, the cookie is out of reach of scripts and other sites, and
//! signed out is signed out.

use std::process::Command;
use std::time::Instant;

use serde_json::json;

use crate::client::{Answer, Request, Server, superuser, token, user};
use crate::harness::{PROGRAM, Place, Run};

fn sign_in(server: &Server, body: serde_json::Value) -> Answer {
    server.request("POST", "/sign-in").json(&body).send()
}

/// `name=value` of the cookie that came.
fn cookie(answer: &Answer) -> String {
    answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
}

fn code_of(place: &Place) -> String {
    place.json(&["token", "--link", "--subject", "grace"])["code"].as_str().unwrap().to_owned()
}

fn with(server: &Server, method: &str, path: &str, cookie: &str) -> Request {
    server.request(method, path).header("Cookie", cookie)
}

#[test]
fn a_token_opens_a_session_with_the_same_rights_and_signing_out_ends_it_for_good() {
    let place = Place::new();
    let server = Server::start(&place);
    let answer = sign_in(&server, json!({ "token": superuser() }));
    assert_eq!(answer.ok(), json!({ "subject": "ada", "superuser": true, "expiresIn": 28800 }));
    let set = answer.header("set-cookie").unwrap();
    for part in ["attendance-backup=", "; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=28800"] {
        assert!(set.contains(part), "{part:?} is not in {set}");
    }
    assert!(!set.contains("Secure"), "a browser would drop it over plain http");
    let session = cookie(&answer);
    with(&server, "GET", "/api/backup/audit", &session).send().ok();
    let create = |site: &str| with(&server, "POST", "/api/backup", &session).header("Sec-Fetch-Site", site).send();
    create("cross-site").problem(403, "cross-site");
    assert_eq!(create("same-origin").status, 201);

    let out = with(&server, "POST", "/sign-out", &session);
    out.send().problem(403, "cross-site");
    let out = out.header("Sec-Fetch-Site", "same-origin").send();
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    with(&server, "GET", "/api/backup/status", &session).send().problem(401, "unauthenticated");
    server.stop();
    let server = Server::start(&place);
    with(&server, "GET", "/api/backup/status", &session).send().problem(401, "unauthenticated");
    // Others go on, also over a restart.
    let of_user = cookie(&sign_in(&server, json!({ "token": user() })));
    server.stop();
    let server = Server::start(&place);
    with(&server, "GET", "/api/backup/status", &of_user).send().ok();
    with(&server, "GET", "/api/backup/audit", &of_user).send().problem(403, "forbidden");
    place.assert_whole();
}

#[test]
fn a_code_lets_in_once_and_lies_nowhere_in_the_clear() {
    let place = Place::new();
    let server = Server::start(&place);
    let code = code_of(&place);
    let kept = std::fs::read_to_string(place.backups().join("sign-in.json")).unwrap();
    assert!(kept.contains("grace") && !kept.contains(&code), "{kept}");
    let answer = sign_in(&server, json!({ "code": code }));
    assert_eq!(answer.ok()["subject"], "grace");
    with(&server, "GET", "/api/backup/audit", &cookie(&answer)).send().ok();
    sign_in(&server, json!({ "code": code })).problem(401, "unauthenticated");
    let log = server.stop();
    let audit = std::fs::read_to_string(place.backups().join("audit.jsonl")).unwrap();
    for (text, where_) in [(&log, "log"), (&audit, "audit log")] {
        assert!(!text.contains(&code) && !text.contains(cookie(&answer).split_once('=').unwrap().1), "in the {where_}");
    }
    let lines: Vec<_> = place.audit().into_iter().map(|line| line["operation"].as_str().unwrap().to_owned()).collect();
    assert!(["sign-in-code", "sign-in"].iter().all(|operation| lines.contains(&(*operation).to_owned())), "{lines:?}");
}

/// Of those that come at once with one code, one is let in: ten, as many as may sign in within a minute.
#[test]
fn a_code_is_redeemed_by_one_only() {
    let place = Place::new();
    let server = Server::start(&place);
    let code = code_of(&place);
    let tried: Vec<u16> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..10).map(|_| scope.spawn(|| sign_in(&server, json!({ "code": code })).status)).collect();
        tries.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(tried.iter().filter(|status| **status == 200).count(), 1, "{tried:?}");
    assert!(tried.iter().all(|status| [200, 401].contains(status)), "{tried:?}");
}

#[test]
fn a_code_of_ten_minutes_ago_lets_nobody_in() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut command = place.command_of("faketime");
    command.args(["-f", "-11m", PROGRAM, "token", "--link", "--json"]);
    let run = Run::of(command.output().unwrap());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let code: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    sign_in(&server, json!({ "code": code["code"] })).problem(401, "unauthenticated");
}

/// Another site could sign its visitor in as someone else, who then works in the wrong name.
#[test]
fn no_other_site_signs_anyone_in() {
    let place = Place::new();
    let server = Server::start(&place);
    let knock = || server.request("POST", "/sign-in").json(&json!({ "token": superuser() }));
    knock().header("Sec-Fetch-Site", "cross-site").send().problem(403, "cross-site");
    knock().header("Origin", "https://evil.example").send().problem(403, "cross-site");
    let ours = format!("http://{}", server.address);
    knock().header("Origin", &ours).send().ok();
    knock().header("Sec-Fetch-Site", "same-origin").send().ok();
}

#[test]
fn what_is_no_token_and_no_code_is_refused_recorded_and_slowed_down() {
    let place = Place::new();
    let server = Server::start(&place);
    for body in [json!({}), json!({ "token": 1 }), json!({ "token": "x", "code": "y" }), json!("token")] {
        sign_in(&server, body).problem(400, "bad-body");
    }
    let begun = Instant::now();
    sign_in(&server, json!({ "token": token(json!({ "exp": 1 })) })).problem(401, "unauthenticated");
    let refused = place.audit().into_iter().filter(|line| line["kind"] == "refused").count();
    assert_eq!(refused, 1);
    // Thirty a minute, of which the expired token was one; another one comes free every two seconds.
    let mut guesses = 0;
    let last = loop {
        let status = sign_in(&server, json!({ "code": "guess" })).status;
        if status != 401 {
            break status;
        }
        guesses += 1;
        assert!(guesses <= 29 + begun.elapsed().as_secs() / 2, "{guesses} guesses in {:?}", begun.elapsed());
    };
    assert!(last == 429 && guesses >= 2, "{last} after {guesses} guesses");
}

#[test]
fn behind_https_the_cookie_is_for_this_host_and_encrypted_connections_only() {
    let mut place = Place::new();
    place.set("BACKUP_PUBLIC_URL", "https://school.example/backups");
    let server = Server::start(&place);
    let answer = sign_in(&server, json!({ "token": superuser() }));
    let set = answer.header("set-cookie").unwrap();
    assert!(set.starts_with("__Host-attendance-backup=") && set.contains("; Secure"), "{set}");
    let link = place.ok(&["token", "--link"]).stdout;
    assert!(link.starts_with("https://school.example/backups/sign-in?code="), "{link}");
}

/// A token of the app can't pass for a session, nor a session for a token.
#[test]
fn sessions_and_tokens_are_two_things() {
    let place = Place::new();
    let server = Server::start(&place);
    let session = cookie(&sign_in(&server, json!({ "token": superuser() })));
    let value = session.split_once('=').unwrap().1;
    server.request("GET", "/api/backup/status").token(value).send().problem(401, "unauthenticated");
    let posing = format!("attendance-backup={}", superuser());
    with(&server, "GET", "/api/backup/status", &posing).send().problem(401, "unauthenticated");
    // 1 is "nowhere"; a folder that can't be read would be 2.
    let found = Command::new("grep").args(["-rq", value]).arg(place.backups()).status().unwrap();
    assert_eq!(found.code(), Some(1), "the session lies in the backup directory");
}
