//! What an answer is worth, before OpenDAL sees it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header};
use opendal::{ErrorKind, HttpBody};
use serde_json::Value;

use super::{Failure, Verdict, Wire, failure, received};
use crate::remote::error::{is_busy, is_busy_code};
use crate::remote::place::{Kind, Place};

/// What was asked.
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) reads: bool,
    pub(super) lists: bool,
    pub(super) from_the_middle: bool,
    pub(super) of_token: bool,
    pub(super) uri: http::Uri,
}

/// The most that is read of an answer to find out what it says.
const GLANCE: usize = 64 * 1024;

/// Notes what the answer says, and hands on what OpenDAL is to see of it.
pub(super) async fn judged(
    wire: &Wire,
    asked: &Asked,
    mut response: reqwest::Response,
) -> Result<opendal::Result<Response<HttpBody>>, Failure> {
    let status = response.status();
    if !status.is_success() {
        let body = glance(wire, &mut response, GLANCE).await?;
        let verdict =
            Verdict::Answered { status: status.as_u16(), code: code(&wire.place, &body), of_token: asked.of_token };
        let later = is_later(&verdict);
        wire.call.note(Some(verdict));
        if later {
            return Ok(Err(opendal::Error::new(ErrorKind::Unexpected, "later").set_temporary()));
        }
        if asked.of_token {
            // Dropbox's client would read any answer as one with a token.
            return Ok(Err(opendal::Error::new(ErrorKind::PermissionDenied, "no token")));
        }
        return Ok(Ok(handed_on(wire, asked, Some(body), response, None)));
    }
    if let Some(wrong) = misfit(asked, &response) {
        return Err(Failure::Wrong(wrong.to_owned()));
    }
    let length = length(asked, &response);
    let first = match wire.place.kind {
        Kind::S3 { .. } => {
            let first = glance(wire, &mut response, if asked.reads { 1 } else { GLANCE }).await?;
            if let Some(said) = s3_in_disguise(wire, asked, &first) {
                return said_later(wire, said);
            }
            Some(first)
        }
        Kind::Webdav { .. } if asked.method == "PROPFIND" && status != StatusCode::MULTI_STATUS => {
            return Err(Failure::Wrong(format!("does not speak WebDAV (PROPFIND gave {})", status.as_u16())));
        }
        _ => None,
    };
    wire.call.note(None);
    Ok(Ok(handed_on(wire, asked, first, response, length)))
}

/// An error in an answer that began well.
fn said_later(wire: &Wire, said: Disguise) -> Result<opendal::Result<Response<HttpBody>>, Failure> {
    let code = match said {
        Disguise::Error(code) => code,
        Disguise::Stranger => return Err(Failure::Wrong("does not answer as S3 does".to_owned())),
    };
    let later = is_busy_code(&code);
    wire.call.note(Some(Verdict::Answered { status: 200, code, of_token: false }));
    let error = opendal::Error::new(ErrorKind::Unexpected, "an error as 200 OK");
    Ok(Err(if later { error.set_temporary() } else { error }))
}

fn is_later(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Answered { status, code, .. } if is_busy(*status) || is_busy_code(code))
}

/// Answers after which one could take something for what it isn't.
fn misfit(asked: &Asked, response: &reqwest::Response) -> Option<&'static str> {
    let is_open_ended = !response.headers().contains_key(header::CONTENT_LENGTH);
    if asked.reads && asked.from_the_middle && response.status() != StatusCode::PARTIAL_CONTENT {
        Some("begins again from the start when asked to go on")
    } else if asked.reads && is_open_ended {
        Some("does not say how long its answer is, so that nobody could tell whether all of it came")
    } else if asked.reads && response.headers().contains_key(header::CONTENT_ENCODING) {
        Some("sends something else than what lies there (Content-Encoding)")
    } else {
        None
    }
}

fn length(asked: &Asked, response: &reqwest::Response) -> Option<u64> {
    let length = || response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    if asked.method == "HEAD" { None } else { length() }
}

/// The beginning of a body: so many bytes at least, or all there is.
async fn glance(wire: &Wire, response: &mut reqwest::Response, most: usize) -> Result<Bytes, Failure> {
    let mut seen = BytesMut::new();
    while seen.len() < most {
        let timeout: Duration = wire.call.timeout;
        match tokio::time::timeout(timeout, response.chunk()).await {
            Err(_) => return Err(Failure::Timeout(timeout)),
            Ok(Err(error)) => return Err(failure(&error)),
            Ok(Ok(None)) => break,
            Ok(Ok(Some(piece))) => seen.extend_from_slice(&piece),
        }
    }
    Ok(seen.freeze())
}

/// OpenDAL's form of an answer.
fn handed_on(
    wire: &Wire,
    asked: &Asked,
    first: Option<Bytes>,
    mut response: reqwest::Response,
    length: Option<u64>,
) -> Response<HttpBody> {
    let headers = std::mem::take(response.headers_mut());
    let mut answer = Response::new(());
    *answer.status_mut() = response.status();
    *answer.version_mut() = response.version();
    *answer.headers_mut() = headers;
    answer.extensions_mut().insert(asked.uri.clone());
    answer.map(|()| received(wire, first.filter(|first| !first.is_empty()), response, length))
}

enum Disguise {
    Error(String),
    Stranger,
}

/// S3 says 200 before it knows; and what stands between says 200 to everything.
fn s3_in_disguise(wire: &Wire, asked: &Asked, first: &[u8]) -> Option<Disguise> {
    let text = String::from_utf8_lossy(&first[..first.len().min(GLANCE)]);
    let text = text.trim_start();
    let is_xml = text.starts_with("<?xml") || text.starts_with("<Error");
    if is_xml && text.contains("<Error>") {
        return Some(Disguise::Error(code(&wire.place, first)));
    }
    let wanted = match asked.method.as_str() {
        "GET" if asked.lists => "ListBucketResult",
        "POST" if asked.uri.query().is_some_and(|query| query.starts_with("uploads")) => {
            "InitiateMultipartUploadResult"
        }
        "POST" => "CompleteMultipartUploadResult",
        _ => return None,
    };
    (!text.contains(wanted)).then_some(Disguise::Stranger)
}

/// The code in an error's body: a few plain letters, or nothing. Who is shown credentials can say them back.
fn code(place: &Place, body: &[u8]) -> String {
    let text = place.scrub(&String::from_utf8_lossy(body));
    let in_xml = || text.split_once("<Code>")?.1.split_once("</Code>").map(|(code, _)| code.to_owned());
    let in_json = || {
        let json: Value = serde_json::from_str(&text).ok()?;
        let words =
            [&json["error"]["errors"][0]["reason"], &json["error_summary"], &json["error"]["status"], &json["error"]];
        words.into_iter().find_map(|word| word.as_str().map(str::to_owned))
    };
    let code = in_json().or_else(in_xml).unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || "_/.-".contains(*c);
    code.chars().take_while(plain).take(64).collect()
}
