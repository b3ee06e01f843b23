//! What operations answer beside their own success: problems, by the kinds that each can end in, and copies.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{KnownFormat, Object, SchemaFormat};
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder, Type};

use crate::http::problem::*;

/// Any request.
const ANY: &[Kind] = &[URI_TOO_LONG, HEADERS_TOO_LARGE, INTERNAL];
/// What wants a token.
const USER: &[Kind] = &[UNAUTHENTICATED, TOO_MANY_REQUESTS];
/// What wants a superuser's.
const SUPERUSER: &[Kind] = &[UNAUTHENTICATED, FORBIDDEN, TOO_MANY_REQUESTS];
/// What isn't a GET.
const UNSAFE: &[Kind] = &[CROSS_SITE];
/// What reads the backup directory.
const READS: &[Kind] = &[ANOTHER_STORE, CATALOG];
/// What changes it, one at a time, each in the audit log.
const CHANGES: &[Kind] =
    &[HELD, CANCELLED, ANOTHER_STORE, CATALOG, SETTINGS_UNREADABLE, AUDIT, RESTORE_UNFINISHED, DISK_FULL];
/// What takes a body.
const BODY: &[Kind] = &[BAD_BODY, TIMEOUT, TOO_LARGE, UNSUPPORTED_MEDIA_TYPE];
/// What reads the live databases.
const LIVE: &[Kind] = &[
    LIVE_LOCKED,
    ROLLBACK_HOLD,
    LIVE_SWAPPED,
    SAME_FILE,
    LIVE_MISSING,
    LIVE_EMPTY,
    LIVE_NOT_A_FILE,
    LIVE_HARD_LINKED,
    LIVE_MOUNTED_ALONE,
    LIVE_PARTED,
    LIVE_HALF_COMMITTED,
    LIVE_NOT_A_DATABASE,
    LIVE_CORRUPT,
    LIVE_IO,
    LIVE_NOT_ALLOWED,
    TOO_SLOW,
];

macro_rules! problems {
    ($($name:ident: $($kinds:expr),*;)*) => { $(
        #[doc = concat!("The problems ", stringify!($name), ".")]
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                problems(&[$($kinds),*].concat())
            }
        }
    )* };
}

problems! {
    OfOpen: ANY;
    OfPage: ANY, &[BAD_PARAMETER];
    OfReady: ANY, &[NOT_READY];
    OfMetrics: ANY, &[UNAUTHENTICATED, NO_SUCH_ROUTE, TOO_MANY_REQUESTS];
    OfList: ANY, USER, READS, &[BAD_PARAMETER];
    OfGet: ANY, USER, READS, &[NOT_FOUND, SETTINGS_UNREADABLE, AUDIT];
    OfStatus: ANY, USER, READS, &[SETTINGS_UNREADABLE, AUDIT];
    OfDoctor: ANY, SUPERUSER;
    OfConfig: ANY, USER, &[SETTINGS_UNREADABLE];
    OfAudit: ANY, SUPERUSER, &[BAD_PARAMETER, AUDIT];
    OfDownload: ANY, SUPERUSER, READS,
        &[BAD_PARAMETER, NOT_FOUND, NO_SUCH_DATABASE, PRECONDITION_FAILED, BAD_RANGE, DAMAGED, NEEDS_IDENTITY, BUSY, AUDIT, DISK_FULL];
    OfCreate: ANY, SUPERUSER, UNSAFE, CHANGES, BODY, LIVE;
    OfConfigure: ANY, SUPERUSER, UNSAFE, CHANGES, BODY, &[BAD_PARAMETER, PRECONDITION_REQUIRED, STALE, BAD_SETTING];
    OfPatch: ANY, SUPERUSER, UNSAFE, CHANGES, BODY, &[NOT_FOUND];
    OfDelete: ANY, SUPERUSER, UNSAFE, CHANGES, &[BAD_PARAMETER, NOT_FOUND, LAST_GOOD];
    OfVerify: ANY, SUPERUSER, UNSAFE, READS, &[NOT_FOUND, HELD, CANCELLED];
    OfVerifyReplica: ANY, SUPERUSER, UNSAFE, READS,
        &[REPLICA_UNKNOWN, HELD, CANCELLED, REPLICA_EMPTY, REPLICA_DAMAGED, REPLICA_REFUSED, REPLICA_UNREACHABLE];
    OfDrill: ANY, SUPERUSER, UNSAFE, CHANGES, &[NO_BACKUPS, NEEDS_IDENTITY];
    OfNotifyTest: ANY, SUPERUSER, UNSAFE, READS, &[HELD, NO_CHANNELS, AUDIT, DISK_FULL];
    OfPreview: ANY, SUPERUSER, READS, &[NOT_FOUND, HELD, CANCELLED, LIVE_LOCKED, DAMAGED, NEEDS_IDENTITY, DISK_FULL];
    OfPointPreview: ANY, SUPERUSER, READS,
        &[BAD_PARAMETER, HELD, CANCELLED, LIVE_LOCKED, DAMAGED, POINT_OUTSIDE, POINT_IN_GAP, JOURNAL, SETTINGS_UNREADABLE, DISK_FULL];
    OfAcknowledge: ANY, SUPERUSER, UNSAFE, CHANGES, BODY, &[NOT_FLAGGED];
    OfRestore: ANY, SUPERUSER, UNSAFE, CHANGES, BODY, LIVE,
        &[NOT_FOUND, RESTORE_HOLD, NEEDS_OFFLINE, DAMAGED, NEEDS_IDENTITY, FOREIGN, FOREIGN_CODE, OTHER_DATABASES, POINT_OUTSIDE,
            POINT_IN_GAP, JOURNAL, RESTORED_WRONG];
    OfSignIn: ANY, UNSAFE, BODY, &[UNAUTHENTICATED, TOO_MANY_REQUESTS, ANOTHER_STORE, CATALOG, AUDIT, DISK_FULL];
    OfSignOut: ANY, USER, UNSAFE, READS;
    OfCancel: ANY, SUPERUSER, UNSAFE, &[NOTHING_RUNS, RUNS_ELSEWHERE, AUDIT, DISK_FULL];
}

/// One answer for each status: kinds share it. What one kind alone gives stands among the components.
fn problems(kinds: &[Kind]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Kind>> = BTreeMap::new();
    for kind in kinds {
        by_status.entry(kind.status).or_default().push(*kind);
    }
    let answer = |kinds: Vec<Kind>| match kinds.as_slice() {
        [kind] => RefOr::Ref(Ref::from_response_name(kind.code)),
        kinds => RefOr::T(problem(kinds)),
    };
    by_status.into_iter().map(|(status, kinds)| (status.to_string(), answer(kinds))).collect()
}

/// The answer that all of these kinds, of one status, give.
pub fn problem(kinds: &[Kind]) -> Response {
    let texts: Vec<_> = kinds.iter().map(|kind| format!("`{}`: {}", kind.code, kind.title)).collect();
    let body = Content::new(Some(Ref::from_schema_name("Problem")));
    let answer = ResponseBuilder::new().description(texts.join("; ")).content(MEDIA_TYPE, body);
    headers(answer, kinds.first().map_or(&[], |kind| of_status(kind.status))).build()
}

/// Headers that come with problems of that status.
fn of_status(status: u16) -> &'static [(&'static str, &'static str)] {
    match status {
        401 => &[("WWW-Authenticate", "`Bearer`, with `error=\"invalid_token\"` if there was one")],
        409 => &[("Retry-After", "Seconds; of `held` alone")],
        416 => &[("Content-Range", "How long the copy is")],
        429 => &[("Retry-After", "Seconds")],
        503 => &[("Retry-After", "Seconds; of `busy` alone")],
        _ => &[],
    }
}

/// A copy, a part of it, or nothing because it is known.
pub struct Copies;

const COPY: &[(&str, &str)] = &[
    ("Content-Disposition", "A name for the file"),
    ("ETag", "Strong; of one database the SHA-256 of its copy"),
    ("Accept-Ranges", "`bytes`; of one database alone"),
    ("Repr-Digest", "SHA-256 of the whole copy (RFC 9530); of one database alone"),
];

impl IntoResponses for Copies {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        let binary = || Content::new(Some(Object::builder().schema_type(Type::String).format(Some(format.clone()))));
        let answer = |text: &str| headers(ResponseBuilder::new().description(text), COPY);
        let database = "application/vnd.sqlite3";
        let stored = |answer: ResponseBuilder| {
            let answer = answer.content(database, binary()).content("application/zstd", binary());
            answer.content("application/octet-stream", binary())
        };
        let whole = stored(answer("The copy")).content("application/x-tar", binary());
        let part = stored(answer("A part of it"));
        let part = headers(part, &[("Content-Range", "Which part")]);
        let known = ResponseBuilder::new().description("The copy is known already");
        let known = headers(known, &[("ETag", "The one that is known")]);
        let answers = [("200", whole), ("206", part), ("304", known)];
        answers.into_iter().map(|(status, answer)| (status.to_owned(), RefOr::T(answer.build()))).collect()
    }
}

fn headers(answer: ResponseBuilder, headers: &[(&str, &str)]) -> ResponseBuilder {
    headers.iter().fold(answer, |answer, (name, text)| {
        let kind = if *name == "Retry-After" { Type::Integer } else { Type::String };
        let header = HeaderBuilder::new().schema(Some(Object::with_type(kind))).description(Some(*text));
        answer.header(*name, header.build())
    })
}
