//! Tokens: which count and which don't, whatever they claim; the settings about them; keys of each kind and their rotation.

use std::collections::BTreeSet;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::client::{Answer, HS256, Server, base64url, in_an_hour, sign, sign_with, superuser, token};
use crate::door::{afresh, proxied};
use crate::harness::{PROGRAM, Place, Run, SECRET};
use crate::serving::faketime_library;

/// Payloads that are signed as they must be, and still no token of ours. EXP is a second that lies ahead.
const BAD_PAYLOADS: &[(&str, &str)] = &[
    ("exp missing", r#"{"sub":"ada","aud":"backup"}"#),
    ("exp null", r#"{"sub":"ada","aud":"backup","exp":null}"#),
    ("exp a text", r#"{"sub":"ada","aud":"backup","exp":"EXP"}"#),
    ("exp a fraction", r#"{"sub":"ada","aud":"backup","exp":EXP.5}"#),
    ("exp a float", r#"{"sub":"ada","aud":"backup","exp":EXP.0}"#),
    ("exp with an exponent", r#"{"sub":"ada","aud":"backup","exp":2e10}"#),
    ("exp negative", r#"{"sub":"ada","aud":"backup","exp":-1}"#),
    ("exp zero", r#"{"sub":"ada","aud":"backup","exp":0}"#),
    ("exp infinite", r#"{"sub":"ada","aud":"backup","exp":1e400}"#),
    ("exp a list", r#"{"sub":"ada","aud":"backup","exp":[EXP]}"#),
    ("exp an object", r#"{"sub":"ada","aud":"backup","exp":{"at":EXP}}"#),
    ("exp a bool", r#"{"sub":"ada","aud":"backup","exp":true}"#),
    ("exp 2^63", r#"{"sub":"ada","aud":"backup","exp":9223372036854775808}"#),
    ("exp 2^63 - 1", r#"{"sub":"ada","aud":"backup","exp":9223372036854775807}"#),
    ("exp 2^64", r#"{"sub":"ada","aud":"backup","exp":18446744073709551616}"#),
    ("exp 10^18", r#"{"sub":"ada","aud":"backup","exp":1000000000000000000}"#),
    ("exp in milliseconds", r#"{"sub":"ada","aud":"backup","exp":EXP000}"#),
    ("exp long over", r#"{"sub":"ada","aud":"backup","exp":1700000000}"#),
    ("exp under another case", r#"{"sub":"ada","aud":"backup","Exp":EXP}"#),
    ("exp twice", r#"{"sub":"ada","aud":"backup","exp":1,"exp":EXP}"#),
    ("exp twice, once escaped", r#"{"sub":"ada","aud":"backup","exp":EXP,"\u0065xp":EXP}"#),
    ("nbf ahead", r#"{"sub":"ada","aud":"backup","exp":EXP,"nbf":EXP}"#),
    ("nbf a text", r#"{"sub":"ada","aud":"backup","exp":EXP,"nbf":"99999999999"}"#),
    ("nbf null", r#"{"sub":"ada","aud":"backup","exp":EXP,"nbf":null}"#),
    ("nbf a float", r#"{"sub":"ada","aud":"backup","exp":EXP,"nbf":1.5}"#),
    ("nbf 2^63", r#"{"sub":"ada","aud":"backup","exp":EXP,"nbf":9223372036854775808}"#),
    ("aud missing", r#"{"sub":"ada","exp":EXP}"#),
    ("aud another", r#"{"sub":"ada","aud":"attendance","exp":EXP}"#),
    ("aud of another case", r#"{"sub":"ada","aud":"Backup","exp":EXP}"#),
    ("aud longer", r#"{"sub":"ada","aud":"backup2","exp":EXP}"#),
    ("aud a list without ours", r#"{"sub":"ada","aud":["attendance","mail"],"exp":EXP}"#),
    ("aud an empty list", r#"{"sub":"ada","aud":[],"exp":EXP}"#),
    ("aud a list in a list", r#"{"sub":"ada","aud":[["backup"]],"exp":EXP}"#),
    ("aud a list with a number", r#"{"sub":"ada","aud":["backup",1],"exp":EXP}"#),
    ("aud a number", r#"{"sub":"ada","aud":1,"exp":EXP}"#),
    ("aud null", r#"{"sub":"ada","aud":null,"exp":EXP}"#),
    ("aud empty", r#"{"sub":"ada","aud":"","exp":EXP}"#),
    ("aud an object", r#"{"sub":"ada","aud":{"backup":true},"exp":EXP}"#),
    ("aud twice", r#"{"sub":"ada","aud":"mail","aud":"backup","exp":EXP}"#),
    ("sub missing", r#"{"aud":"backup","exp":EXP}"#),
    ("sub null", r#"{"sub":null,"aud":"backup","exp":EXP}"#),
    ("sub empty", r#"{"sub":"","aud":"backup","exp":EXP}"#),
    ("sub a bool", r#"{"sub":true,"aud":"backup","exp":EXP}"#),
    ("sub an object", r#"{"sub":{"id":1},"aud":"backup","exp":EXP}"#),
    ("sub a list", r#"{"sub":["ada"],"aud":"backup","exp":EXP}"#),
    ("sub negative", r#"{"sub":-1,"aud":"backup","exp":EXP}"#),
    ("sub a fraction", r#"{"sub":1.5,"aud":"backup","exp":EXP}"#),
    ("sub with a line end", r#"{"sub":"ada\nben","aud":"backup","exp":EXP}"#),
    ("sub with an escape", r#"{"sub":"\u001b[31mada","aud":"backup","exp":EXP}"#),
    ("sub with a zero", r#"{"sub":"ada\u0000","aud":"backup","exp":EXP}"#),
    ("sub half a character", r#"{"sub":"\ud800","aud":"backup","exp":EXP}"#),
    ("sub twice", r#"{"sub":"ben","sub":"ada","aud":"backup","exp":EXP}"#),
    ("role twice", r#"{"sub":"ada","aud":"backup","exp":EXP,"role":"user","role":"superuser"}"#),
    ("role twice, once escaped", r#"{"sub":"ada","aud":"backup","exp":EXP,"role":"user","r\u006fle":"superuser"}"#),
    ("to refresh: token_use", r#"{"sub":"ada","aud":"backup","exp":EXP,"token_use":"refresh"}"#),
    ("to refresh: type", r#"{"sub":"ada","aud":"backup","exp":EXP,"type":"refresh"}"#),
    ("to refresh: token_type", r#"{"sub":"ada","aud":"backup","exp":EXP,"token_type":"Refresh-Token"}"#),
    ("to refresh: typ", r#"{"sub":"ada","aud":"backup","exp":EXP,"typ":"Refresh"}"#),
    ("a list", r#"[{"sub":"ada","aud":"backup","exp":EXP}]"#),
    ("a text", r#""ada""#),
    ("a number", "1"),
    ("null", "null"),
    ("nothing", ""),
    ("not JSON", "{sub:ada}"),
    ("two objects", r#"{"sub":"ada","aud":"backup","exp":EXP}{}"#),
    ("cut short", r#"{"sub":"ada","aud":"backup","exp":EXP"#),
];

/// Headers that are signed as they must be, over a payload that would do.
const BAD_HEADERS: &[(&str, &str)] = &[
    ("alg none", r#"{"alg":"none","typ":"JWT"}"#),
    ("alg None", r#"{"alg":"None","typ":"JWT"}"#),
    ("alg nOnE", r#"{"alg":"nOnE","typ":"JWT"}"#),
    ("alg empty", r#"{"alg":"","typ":"JWT"}"#),
    ("alg null", r#"{"alg":null,"typ":"JWT"}"#),
    ("alg missing", r#"{"typ":"JWT"}"#),
    ("alg in small letters", r#"{"alg":"hs256","typ":"JWT"}"#),
    ("alg a list", r#"{"alg":["HS256"],"typ":"JWT"}"#),
    ("alg twice", r#"{"alg":"none","alg":"HS256","typ":"JWT"}"#),
    ("alg HS384, signed by HS256", r#"{"alg":"HS384","typ":"JWT"}"#),
    ("alg RS256", r#"{"alg":"RS256","typ":"JWT"}"#),
    ("alg ES256", r#"{"alg":"ES256","typ":"JWT"}"#),
    ("alg EdDSA", r#"{"alg":"EdDSA","typ":"JWT"}"#),
    ("alg unknown", r#"{"alg":"HS257","typ":"JWT"}"#),
    ("typ to refresh", r#"{"alg":"HS256","typ":"refresh+jwt"}"#),
    ("typ another", r#"{"alg":"HS256","typ":"logout+jwt"}"#),
    ("typ empty", r#"{"alg":"HS256","typ":""}"#),
    ("typ a number", r#"{"alg":"HS256","typ":1}"#),
    ("crit", r#"{"alg":"HS256","typ":"JWT","crit":["exp"]}"#),
    ("crit unknown", r#"{"alg":"HS256","typ":"JWT","crit":["x"],"x":1}"#),
    ("crit empty", r#"{"alg":"HS256","typ":"JWT","crit":[]}"#),
    ("a list", r#"["HS256"]"#),
    ("not JSON", "alg=HS256"),
    ("nothing", ""),
];

fn payload() -> String {
    json!({ "sub": "ada", "aud": "backup", "exp": in_an_hour(), "role": "superuser" }).to_string()
}

/// Signed by that algorithm with a text for a key.
fn hmac(algorithm: Algorithm, secret: &[u8], header: &str) -> String {
    let message = format!("{}.{}", base64url(header.as_bytes()), base64url(payload().as_bytes()));
    let key = EncodingKey::from_secret(secret);
    format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap())
}

/// Tokens whose signature or form is at fault.
fn bad_forms() -> Vec<(String, String)> {
    let good = superuser();
    let parts: Vec<&str> = good.split('.').collect();
    let [head, body, signature] = parts[..] else { panic!("{good}") };
    let of_another = sign(HS256, &payload().replace("ada", "ben"));
    let of_another = of_another.rsplit('.').next().unwrap();
    // The last of 43 letters carries four bits; the other two must be zero.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(&signature[42..]).unwrap();
    let loose = format!("{}{}", &signature[..42], &alphabet[last + 1..last + 2]);
    let attacker = "an attacker's own key, 40 letters long ..";
    let kid = |text: &str| json!({ "alg": "HS256", "typ": "JWT", "kid": text }).to_string();
    let jwk = json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": base64url(attacker.as_bytes()) } }).to_string();
    let at = |name: &str| json!({ "alg": "HS256", name: "https://evil.example/key" }).to_string();
    let forms: Vec<(&str, String)> = vec![
        ("HS384 with our secret", hmac(Algorithm::HS384, SECRET.as_bytes(), r#"{"alg":"HS384","typ":"JWT"}"#)),
        ("HS512 with our secret", hmac(Algorithm::HS512, SECRET.as_bytes(), r#"{"alg":"HS512","typ":"JWT"}"#)),
        ("HS512 that says HS256", hmac(Algorithm::HS512, SECRET.as_bytes(), HS256)),
        ("alg none without a signature", format!("{}.{body}.", base64url(br#"{"alg":"none"}"#))),
        ("alg none without its dot", format!("{}.{body}", base64url(br#"{"alg":"none"}"#))),
        ("no signature", format!("{head}.{body}.")),
        ("half a signature", format!("{head}.{body}.{}", &signature[..20])),
        ("a signature cut by a letter", format!("{head}.{body}.{}", &signature[..42])),
        ("a longer signature", format!("{head}.{body}.{signature}AAAA")),
        ("a signature with loose bits", format!("{head}.{body}.{loose}")),
        ("the signature of another payload", format!("{head}.{body}.{of_another}")),
        ("a signature of zeros", format!("{head}.{body}.{}", base64url(&[0; 32]))),
        ("another payload", format!("{head}.{}.{signature}", base64url(payload().replace("ada", "eve").as_bytes()))),
        ("another secret", sign_with(&SECRET.replace('9', "8"), HS256, &payload())),
        ("the secret cut", sign_with(&SECRET[..47], HS256, &payload())),
        ("the secret with a line end", sign_with(&format!("{SECRET}\n"), HS256, &payload())),
        ("an empty secret", hmac(Algorithm::HS256, b"", HS256)),
        ("the secret in base64", sign_with(&base64url(SECRET.as_bytes()), HS256, &payload())),
        ("one part", head.to_owned()),
        ("two parts", format!("{head}.{body}")),
        ("four parts", format!("{good}.{signature}")),
        ("five parts", format!("{good}.{body}.{signature}")),
        ("a dot before", format!(".{good}")),
        ("a dot after", format!("{good}.")),
        ("dots alone", "..".to_owned()),
        ("padded", format!("{good}=")),
        ("padded in the middle", format!("{head}=.{body}.{signature}")),
        ("the other base64", format!("{head}.{body}.{}+", &signature[..42])),
        ("a space inside", format!("{head}. {body}.{signature}")),
        ("a tab inside", format!("{head}\t.{body}.{signature}")),
        ("two tokens", format!("{good} {good}")),
        ("two tokens and a comma", format!("{good}, {good}")),
        ("in quotes", format!("\"{good}\"")),
        ("percent-encoded", good.replace('.', "%2E")),
        ("letters that base64 hasn't", format!("{head}.{body}.ü{}", &signature[2..])),
        ("kid that leads to an empty file", hmac(Algorithm::HS256, b"", &kid("../../../../dev/null"))),
        ("kid that is SQL", sign_with(attacker, &kid("x' UNION SELECT 'key'--"), &payload())),
        ("jwk of its own", sign_with(attacker, &jwk, &payload())),
        ("jku", sign_with(attacker, &at("jku"), &payload())),
        ("x5u", sign_with(attacker, &at("x5u"), &payload())),
        ("header not UTF-8", raw(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}", payload().as_bytes())),
        (
            "payload not UTF-8",
            raw(
                HS256.as_bytes(),
                &payload().into_bytes().iter().map(|b| if *b == b'd' { 0xff } else { *b }).collect::<Vec<_>>(),
            ),
        ),
        ("payload compressed", raw(HS256.as_bytes(), b"\x1f\x8b\x08\x00")),
        ("subject too long", token(json!({ "sub": "a".repeat(201) }))),
        ("longer than tokens are", token(json!({ "x": "a".repeat(7000) }))),
    ];
    forms.into_iter().map(|(name, token)| (name.to_owned(), token)).collect()
}

fn raw(header: &[u8], payload: &[u8]) -> String {
    let message = format!("{}.{}", base64url(header), base64url(payload));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap())
}

fn status(server: &Server, token: &str) -> Answer {
    afresh(server.request("GET", "/api/backup/status")).token(token).send()
}

/// Every bad token gets the same answer, byte for byte but for the id and the date: none tells how close it came.
#[test]
fn bad_tokens_are_all_refused_alike() {
    let (place, server) = proxied(&[]);
    let expires = in_an_hour().to_string();
    let payloads = BAD_PAYLOADS
        .iter()
        .map(|(name, text)| (format!("payload: {name}"), sign(HS256, &text.replace("EXP", &expires))));
    let headers = BAD_HEADERS.iter().map(|(name, text)| (format!("header: {name}"), sign(text, &payload())));
    let bad: Vec<_> = payloads.chain(headers).chain(bad_forms()).collect();
    assert!(bad.len() > 130, "{}", bad.len());
    let shown = |answer: Answer| {
        let own = |name: &str| ["date", "x-request-id"].contains(&name);
        let headers: BTreeSet<_> = answer.headers.into_iter().filter(|(name, _)| !own(name)).collect();
        (answer.status, headers, String::from_utf8(answer.body).unwrap())
    };
    let first = status(&server, &bad[0].1);
    first.problem(401, "unauthenticated");
    assert_eq!(first.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    let first = shown(first);
    for (name, token) in &bad {
        assert_eq!(shown(status(&server, token)), first, "{name}");
    }
    // Without any token only the challenge differs.
    let none = afresh(server.request("GET", "/api/backup/status")).send();
    assert_eq!((none.header("www-authenticate"), none.text()), (Some("Bearer"), first.2.clone()));
    assert_eq!(place.audit().len(), bad.len() + 1);
    status(&server, &superuser()).ok();
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

/// What is too long for a token is refused as one; what is too long for headers isn't looked at, and at some length not
/// even read to its end.
#[test]
fn a_token_of_any_length_is_refused() {
    let (_place, server) = proxied(&[]);
    status(&server, &"a".repeat(9_000)).problem(401, "unauthenticated");
    status(&server, &"a".repeat(20_000)).problem(431, "headers-too-large");
    let huge = afresh(server.request("GET", "/api/backup/status")).token(&"a".repeat(1 << 20));
    if let Ok(answer) = huge.try_send() {
        assert_eq!(answer.status, 431, "{}", answer.text());
    }
    status(&server, &superuser()).ok();
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
    let acknowledge = |claims: Value| {
        let mut all = json!({ "iss": iss, "uid": "ada" });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        afresh(server.request("POST", "/api/backup/acknowledge")).token(&token(all)).send().status
    };
    let claim = "https://school.example/admin";
    assert_eq!(acknowledge(json!({ claim: "ja, auch für Sicherungen" })), 409);
    assert_eq!(acknowledge(json!({ "role": "superuser" })), 403);
    assert_eq!(acknowledge(json!({ claim: "superuser" })), 403);
    assert_eq!(acknowledge(json!({ claim: true })), 403);
    assert_eq!(acknowledge(json!({ "https:": { "": "ja, auch für Sicherungen" } })), 403);
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
