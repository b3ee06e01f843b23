//! What goes wrong, as RFC 9457 says it: one kind for each situation, one exhaustive map from the engine's errors.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use super::headers;
use crate::engine::{Error, Holder};
use crate::{catalog, sqlite};

/// A situation: its stable word, its status, its title. `docs/problems.md` has a heading for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// The last part of `type`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// In a few words.
    pub title: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $code:literal $status:literal $title:literal;)*) => {
        $(#[allow(missing_docs)] pub const $name: Kind = Kind { code: $code, status: $status, title: $title };)*
        /// Every kind there is.
        pub const KINDS: &[Kind] = &[$($name),*];
    };
}

kinds! {
    BAD_REQUEST = "bad-request" 400 "The request can't be understood";
    BAD_PARAMETER = "bad-parameter" 400 "A parameter is not allowed";
    BAD_BODY = "bad-body" 400 "The body can't be understood";
    UNAUTHENTICATED = "unauthenticated" 401 "No valid token";
    FORBIDDEN = "forbidden" 403 "Superusers only";
    CROSS_SITE = "cross-site" 403 "The request comes from another site";
    NO_SUCH_ROUTE = "no-such-route" 404 "Nothing is here";
    NOT_FOUND = "not-found" 404 "No such backup";
    NO_SUCH_DATABASE = "no-such-database" 404 "No such database in the backup";
    REPLICA_UNKNOWN = "replica-unknown" 404 "No such replica";
    METHOD_NOT_ALLOWED = "method-not-allowed" 405 "Not by this method";
    TIMEOUT = "timeout" 408 "The body came too slowly";
    HELD = "held" 409 "Another operation is under way";
    CANCELLED = "cancelled" 409 "The operation was cancelled";
    LAST_GOOD = "last-good" 409 "The last good backup";
    NOTHING_RUNS = "nothing-runs" 409 "Nothing to cancel";
    RUNS_ELSEWHERE = "runs-elsewhere" 409 "Another process does it";
    NOT_FLAGGED = "not-flagged" 409 "Nothing to acknowledge";
    NO_BACKUPS = "no-backups" 409 "There is no backup yet";
    NO_CHANNELS = "no-channels" 409 "No notices are set up";
    REPLICA_EMPTY = "replica-empty" 409 "The replica holds nothing yet";
    LIVE_LOCKED = "live-locked" 409 "A live database is locked";
    ROLLBACK_HOLD = "rollback-hold" 409 "A live database would be held too long";
    LIVE_SWAPPED = "live-swapped" 409 "A live database was replaced meanwhile";
    RESTORE_HOLD = "restore-hold" 409 "The app's writers would be held too long";
    NEEDS_OFFLINE = "needs-offline" 409 "Only while the app is stopped";
    STALE = "stale" 412 "The settings have changed meanwhile";
    PRECONDITION_FAILED = "precondition-failed" 412 "The copy is another one";
    TOO_LARGE = "too-large" 413 "The body is too large";
    URI_TOO_LONG = "uri-too-long" 414 "The address is too long";
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type" 415 "The body is not JSON";
    BAD_RANGE = "bad-range" 416 "The range lies outside of the file";
    BAD_SETTING = "bad-setting" 422 "A setting is not allowed";
    DAMAGED = "damaged" 422 "The backup is damaged";
    NEEDS_IDENTITY = "needs-identity" 422 "The backup is encrypted, and the identity is missing";
    FOREIGN = "foreign" 422 "The backup is of another kind of database";
    FOREIGN_CODE = "foreign-code" 422 "The backup brings code that the live database doesn't have";
    OTHER_DATABASES = "other-databases" 422 "The backup is of other databases";
    POINT_OUTSIDE = "point-outside" 422 "The journal doesn't reach that time";
    POINT_IN_GAP = "point-in-gap" 422 "Nothing was recorded at that time";
    SAME_FILE = "same-file" 422 "Two names of one database";
    LIVE_MISSING = "live-missing" 422 "A live database is missing";
    LIVE_EMPTY = "live-empty" 422 "A live database is empty";
    LIVE_NOT_A_FILE = "live-not-a-file" 422 "A live database is no file";
    LIVE_HARD_LINKED = "live-hard-linked" 422 "A live database has a second name";
    LIVE_MOUNTED_ALONE = "live-mounted-alone" 422 "A live database is a mount by itself";
    LIVE_PARTED = "live-parted" 422 "A live database has lost what lies beside it";
    LIVE_HALF_COMMITTED = "live-half-committed" 422 "A live database has half a commit";
    LIVE_NOT_A_DATABASE = "live-not-a-database" 422 "A live database is none";
    LIVE_CORRUPT = "live-corrupt" 422 "A live database is corrupt";
    LIVE_IO = "live-io" 422 "A live database can't be read";
    LIVE_NOT_ALLOWED = "live-not-allowed" 422 "A live database may not be read";
    PRECONDITION_REQUIRED = "precondition-required" 428 "If-Match is missing";
    TOO_MANY_REQUESTS = "too-many-requests" 429 "Too many requests";
    HEADERS_TOO_LARGE = "headers-too-large" 431 "The headers are too large";
    INTERNAL = "internal" 500 "Something is wrong here";
    RESTORED_WRONG = "restored-wrong" 500 "What was restored is not what the backup holds";
    REPLICA_DAMAGED = "replica-damaged" 502 "The replica is not as it was left";
    REPLICA_REFUSED = "replica-refused" 502 "The replica's store refuses the credentials";
    REPLICA_UNREACHABLE = "replica-unreachable" 502 "The replica's store doesn't answer";
    NOT_READY = "not-ready" 503 "No recent backup";
    BUSY = "busy" 503 "Too many downloads at once";
    ANOTHER_STORE = "another-store" 503 "It is not the backup directory that was expected";
    AUDIT = "audit" 503 "The audit log can't be kept";
    CATALOG = "catalog" 503 "The catalog can't be read";
    JOURNAL = "journal" 503 "The journal can't be read";
    SETTINGS_UNREADABLE = "settings-unreadable" 503 "The saved settings can't be read";
    TOO_SLOW = "too-slow" 503 "It took too long";
    RESTORE_UNFINISHED = "restore-unfinished" 503 "A restore is not settled";
    DISK_FULL = "disk-full" 507 "The disk is full";
}

/// One value of a body that isn't allowed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// Where in the body (RFC 6901).
    #[schema(example = "/retention/daily")]
    pub pointer: String,
    /// What is wrong and what is allowed.
    pub detail: String,
}

/// An error on its way to the client.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    operation: Option<Box<Holder>>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

/// `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Which kind; `docs/problems.md` explains each.
    #[serde(rename = "type")]
    #[schema(example = "urn:attendance-backup:problem:held", pattern = "^urn:attendance-backup:problem:[a-z-]+$")]
    pub kind: String,
    /// The kind in a few words.
    pub title: String,
    /// The HTTP status once more.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened this time, and what to do.
    pub detail: String,
    /// Each value of the body that isn't allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Which operation is under way, since when, and how far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub operation: Option<Holder>,
}

impl Problem {
    /// A problem of that kind; `detail` says what to do.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), operation: None, headers: Vec::new() }
    }

    /// One value of the body isn't allowed.
    pub fn field(kind: Kind, pointer: &str, detail: String) -> Self {
        let text = if pointer.is_empty() { detail.clone() } else { format!("{pointer}: {detail}") };
        Self::new(kind, text).errors(vec![FieldError { pointer: pointer.to_owned(), detail }])
    }

    /// With the values that aren't allowed.
    pub fn errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    /// With a header beside it.
    pub fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What happened and what to do.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Each value of the body that isn't allowed.
    pub fn fields(&self) -> &[FieldError] {
        &self.errors
    }

    /// The operation that is under way.
    pub fn operation(&self) -> Option<&Holder> {
        self.operation.as_deref()
    }

    /// Something that only the log may tell in full; the request's id leads there.
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::new(
            INTERNAL,
            "the server's log says more, under the id in x-request-id; try again, then tell the operator",
        )
    }

    /// With the request's id in its text, for those who see no headers.
    pub fn of_request(mut self, id: &str) -> Self {
        self.detail = self.detail.replace("in x-request-id", id);
        self
    }

    /// What a bare status says, for answers that were made without a problem.
    pub fn of_status(status: StatusCode) -> Self {
        let (kind, detail) = match status.as_u16() {
            401 => (UNAUTHENTICATED, "send a valid token as `Authorization: Bearer …`"),
            403 => (FORBIDDEN, "this is for superusers"),
            404 => (NO_SUCH_ROUTE, "there is nothing under this address; /api/openapi.json lists what there is"),
            405 => (METHOD_NOT_ALLOWED, "this address takes other methods; the Allow header lists them"),
            408 => (TIMEOUT, "send the whole body at once"),
            412 => (PRECONDITION_FAILED, "ask without If-Match, or with the ETag that the file has now"),
            413 => (TOO_LARGE, "send a smaller body"),
            414 => (URI_TOO_LONG, "ask for a shorter address"),
            415 => (UNSUPPORTED_MEDIA_TYPE, "send JSON as Content-Type: application/json"),
            429 => (TOO_MANY_REQUESTS, "wait a little, then try again"),
            431 => (HEADERS_TOO_LARGE, "send fewer or shorter headers"),
            400..500 => {
                (BAD_REQUEST, "look at the address, the headers and the body; /api/openapi.json says what is allowed")
            }
            _ => return Self::internal(&status),
        };
        Self::new(kind, detail)
    }

    fn body(&self) -> ProblemBody {
        ProblemBody {
            kind: format!("urn:attendance-backup:problem:{}", self.kind.code),
            title: self.kind.title.to_owned(),
            status: self.kind.status,
            detail: self.detail.clone(),
            errors: self.errors.clone(),
            operation: self.operation.as_deref().cloned(),
        }
    }
}

/// Media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.code, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.clone()));
        }
        let body = serde_json::to_string(&self.body()).unwrap_or_default();
        let mut response = response.insert_header((header::CONTENT_TYPE, MEDIA_TYPE)).body(body);
        // Also where the answer is made beside the middleware.
        headers::secure(response.headers_mut());
        // For those who want it told otherwise.
        response.extensions_mut().insert(self.clone());
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let kind = kind(&error);
        if kind == INTERNAL {
            return Self::internal(&error);
        }
        let detail = match &error {
            // The command line's hints are others.
            Error::NotFound(id) => format!("there is no backup {id}; /api/backup/list shows those that there are"),
            Error::LastGood(id) => format!(
                "{id} is the last backup that is left, or the last good one; make another first, or delete it with ?force=true"
            ),
            Error::Sqlite(sqlite::Error::Cancelled) => {
                "it was asked to stop and has undone what it had begun; begin it again when you like".to_owned()
            }
            error => error.to_string(),
        };
        let operation = match error {
            Error::Held(holder) | Error::ReplicaBusy { holder, .. } => holder,
            Error::RunsElsewhere(holder) => Some(holder),
            _ => None,
        };
        let problem = Self { operation, ..Self::new(kind, detail) };
        match kind {
            HELD => problem.header(header::RETRY_AFTER, HeaderValue::from_static("5")),
            _ => problem,
        }
    }
}

fn kind(error: &Error) -> Kind {
    use sqlite::Error as Live;
    match error {
        Error::Held(_) | Error::ReplicaBusy { .. } => HELD,
        Error::NotFound(_) => NOT_FOUND,
        Error::NoBackups => NO_BACKUPS,
        Error::NoChannels => NO_CHANNELS,
        Error::NoSuchDatabase { .. } => NO_SUCH_DATABASE,
        Error::LastGood(_) => LAST_GOOD,
        Error::Damaged { .. } => DAMAGED,
        Error::NeedsIdentity { .. } => NEEDS_IDENTITY,
        Error::ReplicaNeedsIdentity { .. } | Error::ReplicaJournalLocked { .. } => NEEDS_IDENTITY,
        Error::ReplicaUnknown { .. } => REPLICA_UNKNOWN,
        Error::ReplicaEmpty { .. } => REPLICA_EMPTY,
        Error::Replica { error, .. } => match error.code() {
            "replica-unreachable" => REPLICA_UNREACHABLE,
            "replica-refused" => REPLICA_REFUSED,
            _ => REPLICA_DAMAGED,
        },
        Error::ReplicaDamaged { .. }
        | Error::ReplicaCatalogLost { .. }
        | Error::ReplicaVanished { .. }
        | Error::ReplicaEmptied { .. } => REPLICA_DAMAGED,
        Error::AnotherStore { .. } | Error::StoreGone { .. } => ANOTHER_STORE,
        Error::SameFile(..) => SAME_FILE,
        Error::Stale => STALE,
        Error::NothingRuns => NOTHING_RUNS,
        Error::RunsElsewhere(_) => RUNS_ELSEWHERE,
        Error::NotFlagged(_) => NOT_FLAGGED,
        Error::Setting { .. } => BAD_SETTING,
        Error::OtherDatabases { .. } => OTHER_DATABASES,
        Error::NoJournal | Error::ReplicaNoJournal { .. } | Error::PointOutside { .. } => POINT_OUTSIDE,
        Error::PointInGap { .. } => POINT_IN_GAP,
        Error::NeedsOffline { .. } => NEEDS_OFFLINE,
        Error::Foreign { .. } => FOREIGN,
        Error::ForeignCode { .. } => FOREIGN_CODE,
        Error::CorruptLive { .. } => LIVE_CORRUPT,
        Error::RestoreHold { .. } => RESTORE_HOLD,
        Error::RestoredWrong { .. } => RESTORED_WRONG,
        Error::RestoreUnfinished { .. } | Error::PlanUnreadable { .. } | Error::PlanNamesUnknown { .. } => {
            RESTORE_UNFINISHED
        }
        error if error.is_full() => DISK_FULL,
        Error::Full { .. } | Error::DataFull { .. } => DISK_FULL,
        Error::Sqlite(error) => match error {
            Live::Missing { .. } => LIVE_MISSING,
            Live::Empty { .. } => LIVE_EMPTY,
            Live::NotAFile { .. } => LIVE_NOT_A_FILE,
            Live::HardLinked { .. } => LIVE_HARD_LINKED,
            Live::MountedAlone { .. } => LIVE_MOUNTED_ALONE,
            Live::Parted { .. } => LIVE_PARTED,
            Live::HalfCommitted { .. } => LIVE_HALF_COMMITTED,
            Live::NotADatabase { .. } => LIVE_NOT_A_DATABASE,
            Live::Locked { .. } => LIVE_LOCKED,
            Live::HeldTooLong { .. } => ROLLBACK_HOLD,
            Live::Corrupt { .. } => LIVE_CORRUPT,
            Live::Swapped { .. } => LIVE_SWAPPED,
            Live::SourceIo { .. } | Live::Write { .. } => LIVE_IO,
            Live::Full { .. } => DISK_FULL,
            Live::NotAllowed { .. } => LIVE_NOT_ALLOWED,
            Live::TooSlow { .. } => TOO_SLOW,
            Live::Cancelled => CANCELLED,
            Live::ReadBack { .. } | Live::NoDescriptor { .. } | Live::Disk(_) | Live::Sqlite { .. } => INTERNAL,
        },
        Error::SavedSettings { .. } => SETTINGS_UNREADABLE,
        Error::Audit(_) => AUDIT,
        Error::Journal(_) => JOURNAL,
        Error::Catalog(catalog::Error::Disk(_) | catalog::Error::Unwritable { .. }) | Error::Disk(_) => INTERNAL,
        Error::Catalog(_) => CATALOG,
        // Of the command line alone.
        Error::RuinedLive { .. }
        | Error::AppRuns { .. }
        | Error::AppMayRun { .. }
        | Error::Served(_)
        | Error::NothingToUndo
        | Error::NothingLost
        | Error::BadPlace { .. }
        | Error::ReplicaForeign { .. }
        | Error::ReplicaHeld { .. }
        | Error::ReplicaTakenOver { .. }
        | Error::NotSent { .. }
        | Error::NothingToSend { .. }
        | Error::NoDataFolder { .. }
        | Error::TargetExists { .. }
        | Error::Unfinished { .. }
        | Error::Beside { .. } => INTERNAL,
    }
}
