//! The door. Every request passes here before it is routed: its address is found out, and unless it asks for one of the
//! few open addresses it needs a token that counts, in a header or in the app's cookie, or a session of ours. What changes
//! something and comes by cookie must come from our own pages, and what comes with a token from no other site.

use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpMessage, HttpRequest, ResponseError, web};

use super::State;
use super::assets::PLACE;
use super::limits;
use super::problem::{self, Problem};
use super::shown::{Shown, is_navigation};
use super::sign_in::PAGE;
use super::views::point;
use crate::config::PublicUrl;
use crate::engine::Actor;
use crate::token::{Caller, Refused};

/// What anyone may read, by GET or HEAD, under exactly these paths; `/metrics` has a token of its own.
pub const OPEN: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/api/openapi.json"];
/// Where anyone may knock: the page by GET, the rest by POST.
pub const SIGN_IN: &str = "/sign-in";
/// Bytes of all header names and values.
const MAX_HEADERS: usize = 16 << 10;
/// Bytes of path and query.
const MAX_URI: usize = 8 << 10;
/// Schemes by which whoever stands in front of us keeps a door of its own (RFC 7617, RFC 4559, RFC 7616).
const PROXY_SCHEMES: [&str; 3] = ["basic", "negotiate", "digest"];
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Of a connection: whether a request has come over it.
#[derive(Default)]
pub struct Asked(AtomicBool);

impl Asked {
    fn again(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }
}

/// What is known of a request from here on.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// From where.
    pub address: IpAddr,
    /// Who; of an open address nobody.
    pub caller: Option<Caller>,
    /// By a session of ours, which we can end.
    pub by_session: bool,
}

/// How a caller says who it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    Header,
    Session,
    /// The app's.
    Cookie,
}

impl Admitted {
    /// Who, as text; empty of an open address.
    pub fn subject(&self) -> &str {
        self.caller.as_ref().map_or("", |caller| caller.subject.as_str())
    }

    fn actor(&self) -> Actor {
        match &self.caller {
            Some(caller) => Actor::user(&caller.subject, self.address),
            None => Actor::nobody(self.address),
        }
    }
}

/// The middleware.
pub async fn admit<B: MessageBody>(
    state: web::Data<State>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let peer = request.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip());
    let config = state.engine.config();
    let mut admitted = Admitted {
        address: limits::client(peer, request.headers(), &config.trusted_proxies),
        caller: None,
        by_session: false,
    };
    let passed = match passes(&state, &request) {
        Ok(None) => Ok(()),
        Ok(Some((caller, means))) => {
            admitted.caller = Some(caller);
            admitted.by_session = means == Means::Session;
            Ok(())
        }
        // Whoever isn't signed in is shown the way in, however many of them share an address.
        Err(Refusal::Token(None)) if Shown::wanted(request.headers()) == Shown::Page => Err(unauthenticated()),
        Err(Refusal::Unfit(problem)) => Err(*problem),
        Err(Refusal::Token(refused)) => Err(state.turned_away(&admitted, refused).await),
        Err(Refusal::CrossSite(caller)) => {
            admitted.caller = Some(caller);
            let text = "what changes something and comes from a browser must come from this site's own pages; a script sends \
                        the token as `Authorization: Bearer …`, and no `Origin`";
            let problem = Problem::new(problem::CROSS_SITE, text);
            Err(state.refused(&admitted, format!("{} {}", request.method(), request.uri().path()), problem).await)
        }
    };
    request.extensions_mut().insert(admitted.clone());
    if let Err(problem) = passed {
        return Ok(request.into_response(problem.error_response()).map_into_right_body());
    }
    let response = next.call(request).await?;
    if !is_forbidden(&response) {
        return Ok(response.map_into_left_body());
    }
    let request = response.request();
    let route = format!("{} {}", request.method(), request.match_pattern().unwrap_or_default());
    let problem = state.refused(&admitted, route, Problem::of_status(StatusCode::FORBIDDEN)).await;
    Ok(response.into_response(problem.error_response()).map_into_right_body())
}

/// Whether `Superuser` has turned it away.
fn is_forbidden<B>(response: &ServiceResponse<B>) -> bool {
    let problem = response.response().error().and_then(Error::as_error::<Problem>);
    problem.is_some_and(|problem| problem.kind() == problem::FORBIDDEN)
}

enum Refusal {
    /// Too long, or behind another one.
    Unfit(Box<Problem>),
    /// No token that counts; without a reason there was none at all.
    Token(Option<Refused>),
    /// By cookie, from elsewhere.
    CrossSite(Caller),
}

fn passes(state: &State, request: &ServiceRequest) -> Result<Option<(Caller, Means)>, Refusal> {
    // Each answer says that it is the last. What comes behind a request may be what whoever is in front of us took for its
    // body (RFC 9112 sections 9.6 and 11.2).
    if request.conn_data::<Asked>().is_some_and(Asked::again) {
        let text = "a connection is for one request here; open another for the next";
        return Err(Refusal::Unfit(Problem::new(problem::BAD_REQUEST, text).into()));
    }
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > MAX_HEADERS {
        let text = format!("all headers together have at most {MAX_HEADERS} bytes here; send fewer or shorter ones");
        return Err(Refusal::Unfit(Problem::new(problem::HEADERS_TOO_LARGE, text).into()));
    }
    if request.uri().path_and_query().is_some_and(|text| text.as_str().len() > MAX_URI) {
        return Err(Refusal::Unfit(Problem::of_status(StatusCode::URI_TOO_LONG).into()));
    }
    let (path, method) = (request.uri().path(), request.method());
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let is_open = OPEN.contains(&path) || path == SIGN_IN || path.starts_with(PLACE);
    if reads && is_open || *method == Method::POST && path == SIGN_IN {
        return Ok(None);
    }
    let (caller, means) = caller(state, headers).map_err(Refusal::Token)?;
    let safe = reads || matches!(*method, Method::OPTIONS | Method::TRACE);
    let is_ours = match means {
        // By a script, or by a browser whose request a proxy in front of us has given the token of who is signed in there.
        Means::Header => safe || !state.is_elsewhere(headers),
        Means::Session | Means::Cookie if safe => {
            is_asked_for(headers) || is_visit(request.match_info().as_str(), headers)
        }
        Means::Session | Means::Cookie => state.is_same_origin(headers),
    };
    if !is_ours {
        return Err(Refusal::CrossSite(caller));
    }
    Ok(Some((caller, means)))
}

/// Who asks, and what says so; cookies a browser sends along whoever made it ask. A header counts before a session, a session
/// before the app's cookie.
fn caller(state: &State, headers: &HeaderMap) -> Result<(Caller, Means), Option<Refused>> {
    if let Some(token) = bearer(headers) {
        let token = token.ok_or(Refused::Malformed)?;
        return Ok((state.keyring.check(token)?, Means::Header));
    }
    if let Some(caller) = cookie(headers, state.session_cookie()).flatten().and_then(|it| state.sessions.check(it)) {
        return Ok((caller, Means::Session));
    }
    match cookie(headers, &state.engine.config().access.cookie) {
        Some(token) => Ok((state.keyring.check(token.ok_or(Refused::Malformed)?)?, Means::Cookie)),
        // A session that is over is as good as none.
        None => Err(None),
    }
}

/// The token of the one `Authorization` header (RFC 6750 section 2.1), if there is such a header at all. What a browser or a
/// proxy in front of us signs in with there is not for us.
fn bearer(headers: &HeaderMap) -> Option<Option<&str>> {
    let mut given = headers.get_all(AUTHORIZATION);
    let text = given.next()?.to_str().unwrap_or_default();
    if given.next().is_some() {
        return Some(None);
    }
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if PROXY_SCHEMES.iter().any(|other| scheme.eq_ignore_ascii_case(other)) {
        return None;
    }
    Some(scheme.eq_ignore_ascii_case("bearer").then_some(token))
}

/// The value of that cookie, if there is one. Two of one name are as good as none: one of them may be planted by another
/// host of the same domain (RFC 6265 section 8.6). What else is in the header may be any bytes.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<Option<&'h str>> {
    let pairs = headers.get_all(COOKIE).flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let named = |pair: &'h [u8]| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=");
    let mut found = pairs.filter_map(named);
    let value = found.next()?;
    Some(std::str::from_utf8(value).ok().filter(|_| found.next().is_none()))
}

/// Whether no browser says that another site made it ask: that could read nothing of the answer, but use up downloads.
fn is_asked_for(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(FETCH_SITE);
    sites.all(|site| site == "same-origin" || site == "none")
}

/// Whether someone follows a link to the page, from a mail or from another site, which sees nothing of it. What a look at it
/// costs more than a look is left out.
fn is_visit(path: &str, headers: &HeaderMap) -> bool {
    let is_document = headers.get_all(FETCH_DEST).map(HeaderValue::as_bytes).eq([b"document".as_slice()]);
    let is_page = path.strip_prefix(PAGE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_look = !path.ends_with("/restore") && path != point::PLACE;
    is_page && is_look && is_navigation(headers) && is_document
}

impl State {
    /// Whether a browser says that one of our own pages sent it.
    pub(super) fn is_same_origin(&self, headers: &HeaderMap) -> bool {
        is_same_origin(headers, self.engine.config().public_url.as_ref())
    }

    /// Whether a browser says that another site sent it: by `Sec-Fetch-Site`, or where that header is absent by `Origin`.
    fn is_elsewhere(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(FETCH_SITE) {
            return !is_asked_for(headers);
        }
        headers.contains_key(ORIGIN) && !self.is_same_origin(headers)
    }

    /// Whether it comes from no browser, or from one of our own pages.
    pub(super) fn is_ours(&self, headers: &HeaderMap) -> bool {
        !(headers.contains_key(FETCH_SITE) || headers.contains_key(ORIGIN)) || self.is_same_origin(headers)
    }
}

/// Whether a browser says that one of our own pages sent it: by `Sec-Fetch-Site` (W3C Fetch Metadata), or where that
/// header is absent by `Origin` (RFC 6454). Both absent, nobody says so.
fn is_same_origin(headers: &HeaderMap, public_url: Option<&PublicUrl>) -> bool {
    let one = |name: HeaderName| {
        let mut values = headers.get_all(name);
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    if headers.contains_key(FETCH_SITE) {
        return one(FETCH_SITE) == Some("same-origin");
    }
    let Some(origin) = one(ORIGIN) else { return false };
    match (public_url, one(HOST)) {
        (Some(url), _) => origin == url.origin,
        (None, Some(host)) => origin.split_once("://").is_some_and(|(_, authority)| authority == host),
        (None, None) => false,
    }
}

impl State {
    /// Answers a request without a token that counts. A bad token is recorded, as long as they don't come in a flood.
    pub(super) async fn turned_away(&self, admitted: &Admitted, refused: Option<Refused>) -> Problem {
        let mut problem = unauthenticated();
        if refused.is_some() {
            // RFC 6750 section 3: with a token that doesn't count, the challenge says so.
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            problem = problem.header(WWW_AUTHENTICATE, challenge);
        }
        match (self.limits.refuse(admitted), refused) {
            (Err(wait), _) => wait,
            (Ok(()), None) => problem,
            (Ok(()), Some(refused)) => {
                self.record_refusal(admitted, "sign-in", "unauthenticated", refused.to_string()).await;
                problem
            }
        }
    }

    /// Answers a request that this caller may not make.
    pub(super) async fn refused(&self, admitted: &Admitted, request: String, problem: Problem) -> Problem {
        if let Err(wait) = self.limits.refuse(admitted) {
            return wait;
        }
        let reason = format!("{request}: {}", problem.kind().title);
        self.record_refusal(admitted, "request", problem.kind().code, reason).await;
        problem
    }

    async fn record_refusal(&self, admitted: &Admitted, operation: &'static str, code: &'static str, reason: String) {
        if !self.limits.may_record(admitted) {
            return tracing::warn!(code, "too many refusals in a minute: this one is not in the audit log");
        }
        let actor = admitted.actor();
        let recorded = self.engine(move |engine| {
            engine.record_refusal(operation, &actor, code, reason);
            Ok(())
        });
        // Whether or not it could be recorded, it is refused.
        drop(recorded.await);
    }
}

/// Without a token.
fn unauthenticated() -> Problem {
    let text = "send a valid token as `Authorization: Bearer …`; `attendance-backup token` prints one";
    Problem::new(problem::UNAUTHENTICATED, text).header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// Anyone with a token that counts.
pub struct User;

/// A superuser.
pub struct Superuser(Admitted);

impl Superuser {
    /// On whose behalf an operation is carried out.
    pub fn actor(&self) -> Actor {
        self.0.actor()
    }

    /// What is known of the request.
    pub(super) fn admitted(&self) -> &Admitted {
        &self.0
    }
}

/// From where, whoever it is.
pub(super) fn address(request: &HttpRequest) -> Result<Admitted, Problem> {
    let admitted = request.extensions().get::<Admitted>().cloned();
    admitted.ok_or_else(|| Problem::internal(&"a route that the door doesn't stand before"))
}

fn admitted(request: &HttpRequest) -> Result<Admitted, Problem> {
    let admitted = request.extensions().get::<Admitted>().cloned().filter(|admitted| admitted.caller.is_some());
    admitted.ok_or_else(|| Problem::of_status(StatusCode::UNAUTHORIZED))
}

impl FromRequest for User {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(admitted(request).map(|_| User))
    }
}

impl FromRequest for Superuser {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    /// Says so at once: while it waited, what comes after it could answer first. `admit` records the refusal.
    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(admitted(request).and_then(|admitted| match &admitted.caller {
            Some(caller) if caller.superuser => Ok(Superuser(admitted)),
            _ => Err(Problem::of_status(StatusCode::FORBIDDEN)),
        }))
    }
}
