//! Tokens that count, by every setting about them; how long; and those that the command prints.

use serde_json::{Value, json};

use crate::client::{Answer, HS256, Server, in_an_hour, sign, sign_with, superuser, token};
use crate::door::{afresh, proxied};
use crate::harness::{PROGRAM, Place, Run};
use crate::serving::faketime_library;

pub fn payload() -> String {
    json!({ "sub": "ada", "aud": "backup", "exp": in_an_hour(), "role": "superuser" }).to_string()
}

pub fn status(server: &Server, token: &str) -> Answer {
    afresh(server.request("GET", "/api/backup/status")).token(token).send()
}

#[test]
fn good_tokens_are_let_in() {
    let (_place, server) = proxied(&[]);
    let now = in_an_hour() - 3600;
    let claims = [
        json!({}),
        json!({ "aud": ["attendance", "backup"] }),
        json!({ "aud": ["backup"] }),
        json!({ "sub": 17 }),
        json!({ "sub": u64::MAX }),
        json!({ "sub": "Åsa Öberg 東京" }),
        json!({ "sub": "ü".repeat(200) }),
        // The leeway is half a minute.
        json!({ "exp": now - 10 }),
        json!({ "nbf": now + 10 }),
        json!({ "nbf": 0, "iat": now }),
        json!({ "iss": "anyone", "jti": "1", "scope": ["a", "b"], "token_use": "access", "type": "access" }),
        json!({ "exp": 253_402_300_799_i64 }),
    ];
    for claims in claims {
        let answer = status(&server, &token(claims.clone()));
        assert_eq!(answer.status, 200, "{claims}: {}", answer.text());
    }
    let headers = [
        r#"{"alg":"HS256"}"#,
        r#"{"typ":"jwt","alg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"at+jwt"}"#,
        r#"{"alg":"HS256","typ":"application/at+jwt"}"#,
        // What it says of keys is ignored.
        r#"{"alg":"HS256","kid":"../../dev/null"}"#,
        r#"{"alg":"HS256","jku":"https://evil.example/","x5u":"https://evil.example/"}"#,
    ];
    for header in headers {
        let answer = status(&server, &sign(header, &payload()));
        assert_eq!(answer.status, 200, "{header}: {}", answer.text());
    }
}

#[test]
fn the_header_is_a_single_bearer() {
    let (_place, server) = proxied(&[]);
    let good = superuser();
    let ask = |headers: &[String]| {
        let request = afresh(server.request("GET", "/api/backup/status"));
        headers.iter().fold(request, |request, header| request.header("Authorization", header)).send().status
    };
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(ask(&[format!("{scheme} {good}")]), 200, "{scheme}");
    }
    let table = [
        vec![good.clone()],
        vec![format!("Bearer  {good}")],
        vec![format!("Bearer\t{good}")],
        vec![format!("Bearer:{good}")],
        vec![format!("Bearer{good}")],
        vec![format!("Token {good}")],
        vec![format!("Basic {good}")],
        vec![format!("Bearer {good}"), format!("Bearer {good}")],
        vec!["Basic YTpi".to_owned(), format!("Bearer {good}")],
        vec![format!("Basic YTpi, Bearer {good}")],
        vec!["Bearer".to_owned()],
        vec![String::new()],
    ];
    for headers in table {
        assert_eq!(ask(&headers), 401, "{headers:?}");
    }
}

#[test]
fn the_configured_issuer_and_claims_are_those_that_count() {
    let set = [
        ("BACKUP_JWT_ISSUER", "https://school.example"),
        ("BACKUP_JWT_SUBJECT_CLAIM", "uid"),
        ("BACKUP_SUPERUSER_CLAIM", "https://school.example/admin"),
        ("BACKUP_SUPERUSER_VALUE", "ja, auch für Sicherungen"),
    ];
    let (place, server) = proxied(&set);
    let issued = |issuer: Value| status(&server, &token(json!({ "uid": "ada", "iss": issuer }))).status;
    assert_eq!(issued(json!("https://school.example")), 200);
    for issuer in [
        json!("https://school.example/"),
        json!("https://evil.example"),
        json!(""),
        json!(["https://school.example"]),
        json!(["https://evil.example", "https://school.example"]),
        json!({ "https://school.example": 1 }),
        json!(1),
        Value::Null,
    ] {
        assert_eq!(issued(issuer.clone()), 401, "{issuer}");
    }
    assert_eq!(status(&server, &token(json!({ "uid": "ada" }))).status, 401, "no issuer");
    let iss = "https://school.example";
    assert_eq!(status(&server, &token(json!({ "iss": iss }))).status, 401, "sub is not the subject");
    let cancel = |claims: Value| {
        let mut all = json!({ "iss": iss, "uid": "ada" });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        afresh(server.request("POST", "/api/backup/operation/cancel")).token(&token(all)).send().status
    };
    let claim = "https://school.example/admin";
    assert_eq!(cancel(json!({ claim: "ja, auch für Sicherungen" })), 409);
    assert_eq!(cancel(json!({ "role": "superuser" })), 403);
    assert_eq!(cancel(json!({ claim: "superuser" })), 403);
    assert_eq!(cancel(json!({ claim: true })), 403);
    assert_eq!(cancel(json!({ "https:": { "": "ja, auch für Sicherungen" } })), 403);
    // A token of our own is made to the same measure.
    let ours = place.ok(&["token", "--subject", "root"]).stdout;
    let created = afresh(server.request("POST", "/api/backup/create")).token(ours.trim()).send().ok();
    assert_eq!(created["createdBy"], "user:root");
}

/// Who has named no audience is warned of it, and is none that a token could be for (RFC 7519 section 4.1.3).
#[test]
fn without_an_audience_a_token_for_somebody_is_for_somebody_else() {
    let place = Place::new();
    let mut command = place.command(&["serve"]);
    let server =
        Server::of(command.env_remove("BACKUP_JWT_AUDIENCE").env("BACKUP_ENABLED", "false"), place.path("serve.log"));
    let of = |audience: &str| sign(HS256, &format!(r#"{{"sub":"ada","exp":{}{audience}}}"#, in_an_hour()));
    assert_eq!(status(&server, &of("")).status, 200);
    for audience in [r#","aud":"attendance""#, r#","aud":["attendance"]"#, r#","aud":"""#] {
        assert_eq!(status(&server, &of(audience)).status, 401, "{audience}");
    }
    assert!(server.stop().contains("set BACKUP_JWT_AUDIENCE"));
}

/// A server on a clock that stands.
fn standing(place: &Place, utc: &str) -> Server {
    let mut command = place.command(&["serve"]);
    command.env("TZ", "UTC").env("FAKETIME", utc).env("LD_PRELOAD", faketime_library());
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("BACKUP_ENABLED", "false");
    Server::of(&mut command, place.path("serve.log"))
}

/// 2031-03-01T00:00:00Z.
const MARCH: i64 = 1_930_089_600;

#[test]
fn the_previous_key_counts_until_the_instant_that_is_set_and_times_to_the_second() {
    let mut place = Place::new();
    let previous = "5d0c2f6b8a914e3790cc1fbe26d7a4083b5e9d17";
    place.set("BACKUP_JWT_PREVIOUS_SECRET", previous).set("BACKUP_JWT_PREVIOUS_UNTIL", "2031-03-01T01:00:00+01:00");
    let claims = json!({ "sub": "ada", "aud": "backup", "exp": MARCH + 86_400 }).to_string();
    let (old, new) = (sign_with(previous, HS256, &claims), sign(HS256, &claims));
    for (at, expected) in [("2031-02-28 23:59:59", 200), ("2031-03-01 00:00:00", 401)] {
        let server = standing(&place, at);
        assert_eq!((status(&server, &old).status, status(&server, &new).status), (expected, 200), "{at}");
    }
    let server = standing(&place, "2031-03-01 00:00:00");
    let counts = |times: Value| {
        let mut claims = json!({ "sub": "ada", "aud": "backup", "exp": MARCH + 100 });
        claims.as_object_mut().unwrap().extend(times.as_object().unwrap().clone());
        status(&server, &sign(HS256, &claims.to_string())).status == 200
    };
    assert!(counts(json!({ "exp": MARCH - 29 })) && !counts(json!({ "exp": MARCH - 30 })));
    assert!(counts(json!({ "nbf": MARCH + 30 })) && !counts(json!({ "nbf": MARCH + 31 })));
}

#[test]
fn serve_does_not_start_without_a_key_or_with_one_that_anybody_could_know() {
    let place = Place::new();
    let serve = |secret: Option<&str>| {
        let mut command = place.command_of("timeout");
        command.args(["20", PROGRAM, "serve"]).env_remove("BACKUP_JWT_SECRET");
        Run::of(command.envs(secret.map(|secret| ("BACKUP_JWT_SECRET", secret))).output().unwrap())
    };
    let run = serve(None);
    run.refused(
        1,
        &["BACKUP_JWT_SECRET", "BACKUP_JWT_SECRET_FILE", "BACKUP_JWT_PUBLIC_KEY_FILE", "BACKUP_JWT_ALGORITHM"],
    );
    let short = "only-31-bytes-long-1234567890-x";
    for secret in ["", short, "change-me-please-change-me-please-now", "0123456789abcdef0123456789abcdef"] {
        let run = serve(Some(secret));
        run.refused(2, &["BACKUP_JWT_SECRET", "openssl rand"]);
        assert!(secret.is_empty() || !run.stderr.contains(secret), "it is shown: {}", run.stderr);
    }
    assert!(!place.backups().exists());
    // What needs no key goes on without one.
    let create = Run::of(place.command(&["create"]).env_remove("BACKUP_JWT_SECRET").output().unwrap());
    assert_eq!(create.code, 0, "{}", create.stderr);
}

#[test]
fn the_command_prints_tokens_that_count_and_writes_down_for_whom() {
    let (place, server) = proxied(&[]);
    let create = |token: &str| afresh(server.request("POST", "/api/backup/create")).token(token).send();
    let made = [
        (place.ok(&["token"]).stdout, "operator", true, 3600),
        (place.ok(&["token", "--subject", "ada", "--for", "30d"]).stdout, "ada", true, 2_592_000),
        (place.ok(&["token", "--user", "--for", "1s"]).stdout, "operator", false, 1),
        (place.json(&["token", "--user"])["token"].as_str().unwrap().to_owned() + "\n", "operator", false, 3600),
    ];
    for ((token, subject, superuser, seconds), line) in made.iter().zip(place.audit()) {
        let token = token.strip_suffix('\n').unwrap();
        assert_eq!(status(&server, token).status, 200);
        let answer = create(token);
        if *superuser {
            assert_eq!(answer.ok()["createdBy"], format!("user:{subject}"));
        } else {
            answer.problem(403, "forbidden");
        }
        let claims =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token.split('.').nth(1).unwrap());
        let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), *seconds);
        let shown = [&line["kind"], &line["operation"], &line["by"], &line["ok"], &line["details"]];
        let details = json!({ "subject": subject, "superuser": superuser, "seconds": seconds });
        assert_eq!(shown, [&json!("outcome"), &json!("token"), &json!("cli"), &json!(true), &details]);
        let log = std::fs::read_to_string(place.backups().join("audit.jsonl")).unwrap();
        assert!(!log.contains(token) && !log.contains(token.rsplit('.').next().unwrap()));
    }
    place.ok(&["audit", "verify"]);
}

#[test]
fn no_token_is_printed_that_could_not_be_used_or_was_not_written_down() {
    let place = Place::new();
    for subject in ["", "a\nb", "\u{1b}[31m", &"a".repeat(201)] {
        let run = place.run(&["token", "--subject", subject]);
        run.refused(1, &["a subject has 1 to 200 characters"]);
        assert_eq!(run.stdout, "");
    }
    for lifetime in ["0s", "31d", "-1s", "forever", ""] {
        assert_eq!(place.run(&["token", "--for", lifetime]).code, 2, "{lifetime}");
    }
    // An unmounted volume, or another one, is no place to write it down.
    let elsewhere = Run::of(place.command(&["token"]).env("BACKUP_STORE_ID", "of-the-volume").output().unwrap());
    elsewhere.refused(1, &["of-the-volume"]);
    assert_eq!((elsewhere.stdout.as_str(), place.backups().exists()), ("", false));
    std::fs::create_dir_all(place.backups().join("audit.jsonl")).unwrap();
    let run = place.run(&["token"]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{}", run.stderr);
}
