//! Tokens that don't count: whatever is wrong with one, it gets the answer that every other gets.

use std::collections::BTreeSet;
use std::time::Instant;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;

use crate::client::{Answer, HS256, base64url, in_an_hour, sign, sign_with, superuser, token};
use crate::door::{afresh, proxied};
use crate::harness::SECRET;
use crate::tokens::{payload, status};

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
    let latin: Vec<u8> = payload().bytes().map(|byte| if byte == b'd' { 0xe4 } else { byte }).collect();
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
        ("header not UTF-8", signed(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}", payload().as_bytes())),
        ("payload not UTF-8", signed(HS256.as_bytes(), &latin)),
        ("payload compressed", signed(HS256.as_bytes(), b"\x1f\x8b\x08\x00")),
        ("subject too long", token(json!({ "sub": "a".repeat(201) }))),
        ("longer than tokens are", token(json!({ "x": "a".repeat(7000) }))),
    ];
    forms.into_iter().map(|(name, token)| (name.to_owned(), token)).collect()
}

fn signed(header: &[u8], payload: &[u8]) -> String {
    let message = format!("{}.{}", base64url(header), base64url(payload));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    format!("{message}.{}", jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap())
}

/// Every bad token gets the same answer, byte for byte but for the id and the date: none tells how close it came.
#[test]
fn bad_tokens_are_all_refused_alike() {
    let (_place, server) = proxied(&[]);
    let expires = in_an_hour().to_string();
    let payloads = BAD_PAYLOADS
        .iter()
        .map(|(name, text)| (format!("payload: {name}"), sign(HS256, &text.replace("EXP", &expires))));
    let headers = BAD_HEADERS.iter().map(|(name, text)| (format!("header: {name}"), sign(text, &payload())));
    let bad: Vec<_> = payloads.chain(headers).chain(bad_forms()).collect();
    assert_eq!((BAD_PAYLOADS.len(), BAD_HEADERS.len(), bad.len()), (66, 24, 135));
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
    status(&server, &superuser()).ok();
}

/// Whoever floods the door from ever new addresses doesn't fill the audit log: sixty at once have room there, and one more
/// each second.
#[test]
fn of_a_flood_of_bad_tokens_sixty_a_minute_are_written_down() {
    let (place, server) = proxied(&[]);
    let begun = Instant::now();
    for n in 0..150 {
        status(&server, &format!("flood.of.{n}")).problem(401, "unauthenticated");
    }
    let most = 61 + begun.elapsed().as_secs() as usize;
    let recorded = place.audit().iter().filter(|line| line["operation"] == "sign-in").count();
    assert!((60..=most).contains(&recorded), "{recorded}, at most {most}");
    // The others are at least in the log.
    assert_eq!(server.stop().matches("this one is not in the audit log").count(), 150 - recorded);
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
