//! Requests of which a part is nonsense: each gets an answer in form, none is an error of ours, and a range is that range.

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;

use crate::client::{Answer, Request, Server, token};
use crate::fuzz::{cases, changed_text, document, lines};
use crate::harness::Place;

/// Nobody asks twice, or limits would answer.
fn anyone(server: &Server, method: &str, path: &str) -> Request {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let address = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
    let token = token(json!({ "sub": format!("user-{number}"), "role": "superuser" }));
    server.request(method, path).token(&token).header("X-Forwarded-For", &address)
}

/// Only what a line of a head can carry.
fn sendable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

fn in_a_path(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// No error of ours, and a problem is in form.
fn assert_in_form(answer: &Answer) -> Result<(), TestCaseError> {
    prop_assert!((200..500).contains(&answer.status), "{}: {}", answer.status, answer.text());
    if answer.status >= 400 {
        prop_assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem = answer.json();
        prop_assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{}", problem);
        prop_assert_eq!(&problem["status"], answer.status);
    }
    Ok(())
}

/// What a strict `bytes=first-last` means for so many bytes; `Err` if it can't be had, nothing if it isn't one.
fn meant(text: &str, size: u128) -> Option<Result<(u128, u128), ()>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| {
            text.trim_start_matches('0').get(..30).unwrap_or(text.trim_start_matches('0')).parse().unwrap_or(0_u128)
        })
    };
    Some(match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => {
            if first < size {
                Ok((first, last.min(size - 1)))
            } else {
                Err(())
            }
        }
        (Some(first), None) if last.is_empty() => {
            if first < size {
                Ok((first, size - 1))
            } else {
                Err(())
            }
        }
        (None, Some(length)) if first.is_empty() => {
            if length > 0 {
                Ok((size.saturating_sub(length), size - 1))
            } else {
                Err(())
            }
        }
        _ => return None,
    })
}

fn assert_ranged(answer: &Answer, range: &str, bytes: &[u8]) -> Result<(), TestCaseError> {
    assert_in_form(answer)?;
    match (answer.status, meant(range, bytes.len() as u128)) {
        (206, Some(Ok((first, last)))) => {
            prop_assert!(answer.body == bytes[first as usize..=last as usize], "{range}: other bytes");
            let told = format!("bytes {first}-{last}/{}", bytes.len());
            prop_assert_eq!(answer.header("content-range"), Some(told.as_str()));
        }
        (416, Some(Err(())) | None) => {
            let told = format!("bytes */{}", bytes.len());
            prop_assert_eq!(answer.header("content-range"), Some(told.as_str()));
        }
        (200, None) => prop_assert!(answer.body == bytes, "{range}: other bytes"),
        (400, _) => {}
        (status, meant) => prop_assert!(false, "{range:?} means {meant:?}, and got {status}"),
    }
    Ok(())
}

/// One server for all of them: starting it takes longer than hundreds of requests.
#[test]
fn every_request_gets_an_answer_in_form() {
    let mut place = Place::new();
    place.set("BACKUP_TRUSTED_PROXIES", "127.0.0.1");
    let backup = place.create();
    let id = backup["id"].as_str().unwrap().to_owned();
    let bytes = std::fs::read(place.copy(&backup, "auth")).unwrap();
    let server = Server::start(&place);
    let runner = |each: u32| TestRunner::new(cases(each, "proptest-regressions/fuzz_http.txt"));

    let path = format!("/api/backup/download/{id}?database=auth");
    let ranged = |range: String| {
        let range = sendable(&range);
        let answer = anyone(&server, "GET", &path).header("Range", &range).send();
        assert_ranged(&answer, &range, &bytes)
    };
    runner(150).run(&changed_text(lines("range")), ranged).unwrap();

    let asked = |query: String| {
        let query = sendable(&query);
        let (name, value) = query.split_once('=').unwrap_or((&query, ""));
        for path in [
            "/api/backup/audit",
            "/api/backup/list",
            "/api/backup/preview",
            "/api/backup/config",
            &path[..path.len() - 14],
        ] {
            let path = format!("{path}?{}={}", in_a_path(name).replace("%5F", "_"), in_a_path(value));
            assert_in_form(&anyone(&server, "GET", &path).send())?;
        }
        Ok(())
    };
    runner(60).run(&changed_text(lines("query")), asked).unwrap();

    let named = |name: String| {
        let name = in_a_path(&name);
        for (method, path) in [("GET", ""), ("GET", "download/"), ("DELETE", ""), ("POST", "verify/")] {
            let answer = anyone(&server, method, &format!("/api/backup/{path}{name}x")).send();
            assert_in_form(&answer)?;
        }
        Ok(())
    };
    runner(60).run(&changed_text(lines("names")), named).unwrap();

    let posted = |body: Vec<u8>| {
        let to = [
            ("POST", "/api/backup/restore"),
            ("POST", "/api/backup/acknowledge"),
            ("PUT", "/api/backup/config?dryRun=true"),
        ];
        for (method, path) in to
            .into_iter()
            .map(|(method, path)| (method, path.to_owned()))
            .chain([("PATCH", format!("/api/backup/{id}"))])
        {
            let request =
                anyone(&server, method, &path).header("If-Match", "*").header("Content-Type", "application/json");
            assert_in_form(&request.body(&body).send())?;
        }
        Ok(())
    };
    runner(60).run(&document("body"), posted).unwrap();
    assert!(!server.stop().contains("panicked"), "it panicked");
    place.assert_whole();
}
