//! What can go wrong with a place elsewhere, each on one line and with what to do about it, and what OpenDAL's errors
//! and the stores' answers mean. No text of a store and none of a library gets into a message as it is: they can hold secrets.

use std::io;

use opendal::ErrorKind;

use super::place::{Kind, Place};
use super::wire::{Failure, Verdict};

/// A call that failed. `<NAME>` in a text stands for the replica's name in capitals.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// It may work later: no connection, no answer in time, too much to do, a folder that isn't mounted.
    #[error("{0}")]
    Unreachable(String),
    /// It says no to us, and will again until somebody changes something.
    #[error("{0}")]
    Refused(String),
    /// An object, or the bucket itself, isn't there.
    #[error("{0}")]
    Absent(String),
    /// There is no room, or the quota is used up.
    #[error("{0}")]
    Full(String),
    /// A body cut short, or an answer that isn't one.
    #[error("{0}")]
    Broken(String),
    /// Stopped by whoever may.
    #[error("the transfer was cancelled")]
    Cancelled,
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Unreachable(_) => "replica-unreachable",
            Error::Refused(_) => "replica-refused",
            Error::Absent(_) => "replica-absent",
            Error::Full(_) => "replica-full",
            Error::Broken(_) => "replica-damaged",
            Error::Cancelled => "cancelled",
        }
    }

    /// It may work later without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Error::Unreachable(_))
    }

    /// Gets back what an upload or a download has put into an I/O error.
    pub fn of_io(error: io::Error) -> Result<Error, io::Error> {
        error.downcast::<Error>()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::other(error)
    }
}

/// What a failed call means: the last answer of the store says most, OpenDAL's kind the rest.
pub(super) fn understood(place: &Place, key: &str, error: &opendal::Error, verdict: Option<&Verdict>) -> Error {
    let found = match verdict {
        Some(Verdict::Cancelled) => Error::Cancelled,
        Some(Verdict::Failed(failure)) => of_connection(place, failure),
        Some(Verdict::Answered { status, code, of_token: true }) => of_token(place, *status, code),
        Some(Verdict::Answered { status, code, .. }) => of_answer(place, key, *status, code),
        None => of_kind(place, key, error),
    };
    scrubbed(place, found)
}

fn scrubbed(place: &Place, error: Error) -> Error {
    match error {
        Error::Unreachable(text) => Error::Unreachable(place.scrub(&text)),
        Error::Refused(text) => Error::Refused(place.scrub(&text)),
        Error::Absent(text) => Error::Absent(place.scrub(&text)),
        Error::Full(text) => Error::Full(place.scrub(&text)),
        Error::Broken(text) => Error::Broken(place.scrub(&text)),
        Error::Cancelled => Error::Cancelled,
    }
}

/// The store in a sentence.
pub(super) fn named(place: &Place) -> String {
    match &place.kind {
        Kind::Folder { root } => format!("the folder {}", root.display()),
        Kind::S3 { bucket, endpoint, .. } => format!("the bucket {bucket} at {endpoint}"),
        Kind::Webdav { endpoint, root } => format!("{endpoint}{root}"),
        Kind::Drive { .. } => "Google Drive".to_owned(),
        Kind::Dropbox { .. } => "Dropbox".to_owned(),
    }
}

fn of_connection(place: &Place, failure: &Failure) -> Error {
    let store = named(place);
    match failure {
        Failure::Connect(why) => {
            Error::Unreachable(format!("no connection to {store}: {why}; it is tried again later"))
        }
        Failure::Certificate(why) => {
            let (what, fix) = of_certificate(why);
            Error::Refused(format!("{store} cannot be trusted: {what}; {fix}"))
        }
        Failure::Cut(why) => {
            Error::Unreachable(format!("the connection to {store} broke: {why}; it is tried again later"))
        }
        Failure::Timeout(after) => Error::Unreachable(format!(
            "{store} did not go on within {}; it is tried again later (BACKUP_REPLICA_<NAME>_TIMEOUT is how long to wait)",
            humantime::format_duration(*after)
        )),
        Failure::Wrong(what) => Error::Broken(format!("{store} {what}; look at the URL, and at what stands between")),
    }
}

/// By the names and words of rustls.
fn of_certificate(why: &str) -> (&str, &'static str) {
    let is = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if is(&["UnknownIssuer", "CaUsedAsEndEntity"]) {
        (
            "its certificate is not from an authority that this machine knows",
            "let one make it, or add your own authority to the system's (ca-certificates, or SSL_CERT_FILE); a certificate that \
             stands for itself is not enough",
        )
    } else if is(&["Expired", "NotValidYet", "certificate expired", "not valid yet"]) {
        ("its certificate is not valid now", "renew it, or put this machine's clock right")
    } else if is(&["NotValidForName", "not valid for name"]) {
        ("its certificate is made out to another name", "write the name in the URL as the certificate has it")
    } else {
        (why, "look at its certificate")
    }
}

fn of_token(place: &Place, status: u16, code: &str) -> Error {
    let store = named(place);
    if is_busy(status) {
        return busy(&store, status, code);
    }
    let (what, fix) = match code {
        _ if code.starts_with("invalid_grant") => (
            "the refresh token was revoked or has expired",
            "make a new one and set BACKUP_REPLICA_<NAME>_REFRESH_TOKEN",
        ),
        _ if code.contains("client") => (
            "the client's id or secret is wrong",
            "set BACKUP_REPLICA_<NAME>_CLIENT_ID and BACKUP_REPLICA_<NAME>_CLIENT_SECRET to those of the refresh token",
        ),
        _ => {
            ("it gives no access token", "look at BACKUP_REPLICA_<NAME>_CLIENT_ID, …_CLIENT_SECRET and …_REFRESH_TOKEN")
        }
    };
    Error::Refused(format!("{store} refuses the credentials ({}): {what}; {fix}", shown(status, code)))
}

fn of_answer(place: &Place, key: &str, status: u16, code: &str) -> Error {
    let store = named(place);
    let told = shown(status, code);
    if is_full(status, code) {
        return Error::Full(format!(
            "{store} is full, or the quota on it is used up ({told}); make room, or keep fewer backups there"
        ));
    }
    if is_busy(status) || is_busy_code(code) {
        return busy(&store, status, code);
    }
    match (&place.kind, status) {
        (_, 300..=399) => Error::Refused(format!(
            "{store} sends us to another address ({told}), which is not followed; set the URL, with its region, as the store names it"
        )),
        (Kind::S3 { .. }, _) => of_s3(&store, key, status, code),
        (_, 401) => Error::Refused(format!("{store} refuses the credentials ({told}); {}", credentials_of(place))),
        (Kind::Drive { .. } | Kind::Dropbox { .. }, 403) => Error::Refused(format!(
            "{store} forbids it ({told}); give the app the right to read and write files, and make a new refresh token"
        )),
        (_, 403) => Error::Refused(format!(
            "{store} forbids it ({told}); give the user the right to read, write and delete there"
        )),
        (_, 413) => {
            Error::Refused(format!("{store} takes no body of that size ({told}); raise the server's limit to 16 MiB"))
        }
        (Kind::Dropbox { .. }, 409) if is_missing(code) => absent(&store, key),
        _ => Error::Broken(format!("{store} gave an answer that is not understood ({told}); look at the URL")),
    }
}

fn of_s3(store: &str, key: &str, status: u16, code: &str) -> Error {
    let told = shown(status, code);
    let fix = match code {
        "NoSuchKey" => return absent(store, key),
        "NoSuchBucket" => {
            return Error::Absent(format!("{store} is not there ({told}); make it, or put its name right"));
        }
        "RequestTimeTooSkewed" => "put this machine's clock right",
        "AuthorizationHeaderMalformed" | "PermanentRedirect" => "set the store's region in the URL (&region=…)",
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" | "InvalidSecurity" => {
            "set BACKUP_REPLICA_<NAME>_ACCESS_KEY and BACKUP_REPLICA_<NAME>_SECRET_KEY to keys that count"
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => RIGHTS,
        _ if matches!(status, 401 | 403) => RIGHTS,
        _ if status == 404 => {
            let what = format!("what is said to be {store} does not answer as S3 does ({told})");
            return Error::Broken(format!("{what}; look at endpoint= in the URL"));
        }
        _ => return Error::Broken(format!("{store} gave an answer that is not understood ({told}); look at the URL")),
    };
    Error::Refused(format!("{store} refuses ({told}); {fix}"))
}

const RIGHTS: &str = "give the key the right to list, read, write and delete objects there, or set one that has it as BACKUP_REPLICA_<NAME>_ACCESS_KEY";

fn credentials_of(place: &Place) -> &'static str {
    match place.kind {
        Kind::Webdav { .. } => {
            "set BACKUP_REPLICA_<NAME>_USERNAME and BACKUP_REPLICA_<NAME>_PASSWORD to those of an account there"
        }
        Kind::Dropbox { .. } => {
            "give the app the scopes files.metadata.read, files.content.read and files.content.write, make a new refresh token and \
             set BACKUP_REPLICA_<NAME>_REFRESH_TOKEN"
        }
        _ => "make a new refresh token and set BACKUP_REPLICA_<NAME>_REFRESH_TOKEN",
    }
}

/// Without an answer that failed: what OpenDAL found in one that didn't, or what the file system said.
fn of_kind(place: &Place, key: &str, error: &opendal::Error) -> Error {
    let store = named(place);
    let said = io_kind(error);
    match (error.kind(), said) {
        (ErrorKind::NotFound, _) if matches!(place.kind, Kind::Folder { .. } | Kind::Drive { .. }) => {
            absent(&store, key)
        }
        (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => Error::Full(format!(
            "{store} is full, or the quota on it is used up; make room, or keep fewer backups there"
        )),
        (ErrorKind::PermissionDenied, _) => Error::Refused(format!(
            "{store} may not be used by uid {}; give it the right to read and write there",
            rustix::process::geteuid().as_raw()
        )),
        (ErrorKind::RateLimited, _) => busy(&store, 200, ""),
        (_, Some(kind)) => {
            Error::Unreachable(format!("{store} cannot be read or written: {kind}; it is tried again later"))
        }
        _ if is_late(error) => Error::Unreachable(format!(
            "{store} did not finish in time; it is tried again later (BACKUP_REPLICA_<NAME>_TIMEOUT is how long to wait)"
        )),
        _ => Error::Broken(format!(
            "{store} gave an answer that is not understood; look at the URL, and at what stands between"
        )),
    }
}

fn is_late(error: &opendal::Error) -> bool {
    error.message().contains("timeout")
}

fn io_kind(error: &opendal::Error) -> Option<io::ErrorKind> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            return Some(inner.kind());
        }
        source = inner.source();
    }
    None
}

/// The store said so itself.
pub(super) fn absent(store: &str, key: &str) -> Error {
    Error::Absent(format!("{key} is not in {store}; `replica verify` tells what else is missing there"))
}

fn busy(store: &str, status: u16, code: &str) -> Error {
    Error::Unreachable(format!(
        "{store} has a fault or too much to do ({}); it is tried again later",
        shown(status, code)
    ))
}

fn shown(status: u16, code: &str) -> String {
    if code.is_empty() { status.to_string() } else { format!("{status} {code}") }
}

/// Statuses with which a store says: later.
pub(super) fn is_busy(status: u16) -> bool {
    matches!(status, 408 | 423 | 425 | 429 | 499 | 500 | 502 | 503 | 504 | 509 | 520..=530)
}

/// Other answers that mean the same.
pub(super) fn is_busy_code(code: &str) -> bool {
    matches!(
        code,
        "SlowDown"
            | "InternalError"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "TooManyRequests"
            | "OperationAborted"
            | "NoSuchUpload"
            | "userRateLimitExceeded"
            | "rateLimitExceeded"
            | "dailyLimitExceeded"
            | "backendError"
            | "internalError"
    ) || ["too_many_write_operations", "too_many_requests"].iter().any(|it| code.starts_with(it))
}

fn is_full(status: u16, code: &str) -> bool {
    let full = [
        "storageQuotaExceeded",
        "teamDriveFileLimitExceeded",
        "QuotaExceeded",
        "XMinioStorageFull",
        "StorageFull",
        "InsufficientStorage",
    ];
    status == 507 || full.contains(&code) || code.contains("insufficient_space") || code.contains("insufficient_quota")
}

/// Dropbox's way to say that there is no such thing.
pub(super) fn is_missing(code: &str) -> bool {
    code.starts_with("path/not_found") || code.starts_with("path_lookup/not_found")
}
