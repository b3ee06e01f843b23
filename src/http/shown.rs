//! In which form an answer is wanted: as a page by a browser, as a part of a page by htmx, as JSON by everything else.

use std::convert::Infallible;
use std::future::{Ready, ready};

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, VARY};
use actix_web::{FromRequest, HttpRequest, HttpResponse, ResponseError};
use maud::Markup;

use super::problem::Problem;

pub(super) const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// htmx sends it with every request of its own.
const HX_REQUEST: HeaderName = HeaderName::from_static("hx-request");
/// The id of what the answer goes into.
const HX_TARGET: HeaderName = HeaderName::from_static("hx-target");
/// Events for the page that gets the answer.
const HX_TRIGGER: HeaderName = HeaderName::from_static("hx-trigger");
/// What pages and parts of them are.
pub(super) const HTML: &str = "text/html; charset=utf-8";
/// Where the answer goes instead, and how.
const HX_RETARGET: HeaderName = HeaderName::from_static("hx-retarget");
const HX_RESWAP: HeaderName = HeaderName::from_static("hx-reswap");
const HX_REDIRECT: HeaderName = HeaderName::from_static("hx-redirect");
/// The page from which htmx asks.
const HX_CURRENT_URL: HeaderName = HeaderName::from_static("hx-current-url");
/// The event: what lists and figures show is not what there is any more.
const CHANGED: &str = "backups-changed";
/// The events: the same, and what the open dialog is for is done.
const CHANGED_BY_DIALOG: &str = "backups-changed, dialog-done";

/// The form that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// For programs.
    Json,
    /// For browsers.
    Page,
    /// For htmx.
    Part,
}

impl Shown {
    /// By `HX-Request`, or by an `Accept` that names HTML: no program does that without wanting it.
    pub fn wanted(headers: &HeaderMap) -> Self {
        if headers.get(HX_REQUEST).is_some_and(|value| value == "true") {
            return Self::Part;
        }
        let accepts = headers.get_all(ACCEPT).any(|value| value.to_str().is_ok_and(|text| text.contains("text/html")));
        if accepts { Self::Page } else { Self::Json }
    }
}

impl FromRequest for Shown {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self::wanted(request.headers())))
    }
}

/// Whether a person goes to that address, by a link or by hand (W3C Fetch Metadata).
pub fn is_navigation(headers: &HeaderMap) -> bool {
    headers.get_all(FETCH_MODE).map(HeaderValue::as_bytes).eq([b"navigate".as_slice()])
}

/// Whether the answer will be all that is in a dialog.
pub fn opens_dialog(headers: &HeaderMap) -> bool {
    headers.get(HX_TARGET).is_some_and(|id| id == "dialog")
}

/// HTML, a whole page or a part of one.
pub fn html(markup: Markup) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, HTML))
        .insert_header((VARY, "HX-Request"))
        .body(markup.into_string())
}

/// The same, and what lists and figures show has changed.
pub fn changed(markup: Markup) -> HttpResponse {
    with(html(markup), HX_TRIGGER, CHANGED)
}

/// The same, and the dialog in which it was asked for closes.
pub fn done_in_dialog(markup: Markup) -> HttpResponse {
    with(html(markup), HX_TRIGGER, CHANGED_BY_DIALOG)
}

/// The answer takes the place of all that is in the dialog.
pub fn in_dialog(answer: HttpResponse) -> HttpResponse {
    with(with(answer, HX_RETARGET, "#dialog"), HX_RESWAP, "innerHTML")
}

/// The answer takes the place of the element of that id.
pub fn instead_of(id: &str, mut answer: HttpResponse) -> HttpResponse {
    for (name, value) in in_place_of(id) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// What says so; ids are ours, and fit a header.
pub fn in_place_of(id: &str) -> Vec<(HeaderName, HeaderValue)> {
    let target = HeaderValue::try_from(format!("#{id}")).ok().map(|target| (HX_RETARGET, target));
    target.into_iter().chain([(HX_RESWAP, HeaderValue::from_static("outerHTML"))]).collect()
}

/// The page goes to another address.
pub fn redirected(address: &str) -> HttpResponse {
    HttpResponse::Ok().insert_header((HX_REDIRECT, address)).finish()
}

/// The path of the page from which htmx asks.
pub fn current_path(headers: &HeaderMap) -> Option<String> {
    let address = headers.get(HX_CURRENT_URL)?.to_str().ok()?;
    Some(url::Url::parse(address).ok()?.path().to_owned())
}

/// A problem on a page of its own kind: its status and its headers, and this instead of its text.
pub fn refused(problem: &Problem, markup: Markup) -> HttpResponse {
    let mut response = problem.error_response();
    response.extensions_mut().remove::<Problem>();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(HTML));
    response.headers_mut().insert(VARY, HeaderValue::from_static("HX-Request"));
    response.set_body(BoxBody::new(markup.into_string()))
}

fn with(mut response: HttpResponse, name: HeaderName, value: &'static str) -> HttpResponse {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// To another address, by GET (RFC 9110 section 15.4.4).
pub fn see_other(address: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, address)).finish()
}
