//! Problems, as whoever asked can read them: browsers get a page, htmx a part of one, programs JSON.

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpMessage, HttpRequest, web};
use maud::Markup;
use tracing_actix_web::RequestId;

use super::super::State;
use super::super::log::Meant;
use super::super::problem::{Problem, TOO_MANY_REQUESTS, UNAUTHENTICATED};
use super::super::shown::{HTML, Shown, current_path, in_place_of, is_navigation, opens_dialog};
use super::super::sign_in::{PAGE, is_page};
use super::super::views::problem::{in_dialog, meanwhile, part, signed_out, whole};
use super::super::views::{self, Site};

/// What the page asks for again and again.
const NOW: &str = "/settings/backups/now";
const OPERATION: &str = "/settings/backups/operation";

/// The same answer with its problem told as it is wanted. The status and the headers stay.
pub fn as_wanted(mut response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let Some(problem) = response.response_mut().extensions_mut().remove::<Problem>() else { return response };
    let request = response.request().clone();
    let shown = wanted(&request);
    let Some(state) = request.app_data::<web::Data<State>>().filter(|_| shown != Shown::Json) else { return response };
    let site = state.site(&request);
    let id = request.extensions().get::<RequestId>().map(ToString::to_string);
    let problem = id.into_iter().fold(problem, |problem, id| problem.of_request(&id));
    let markup = match (shown, problem.kind()) {
        (Shown::Part, _) => told_in_part(&site, &request, &problem),
        (_, UNAUTHENTICATED) => way_in(&site, &request),
        _ => whole(&site, &problem),
    };
    if request.path() == OPERATION && problem.kind() == UNAUTHENTICATED {
        // The whole of what asks again: else each part of it would be told the same.
        for (name, value) in in_place_of("now") {
            response.headers_mut().insert(name, value);
        }
    }
    if shown == Shown::Part && !is_our_page(&site, &request) {
        // The app's own htmx shows nothing of an answer that is an error.
        request.extensions_mut().insert(Meant(response.status()));
        *response.response_mut().status_mut() = StatusCode::OK;
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(HTML));
    // What was compressed is another body.
    response.headers_mut().remove(CONTENT_ENCODING);
    response.map_body(|_, _| BoxBody::new(markup.into_string()))
}

/// Under `/api` everyone gets JSON but for a person who has followed a link there.
fn wanted(request: &HttpRequest) -> Shown {
    match Shown::wanted(request.headers()) {
        Shown::Page if request.path().starts_with("/api/") && is_navigation(request.headers()) => Shown::Page,
        _ if request.path().starts_with("/api/") => Shown::Json,
        shown => shown,
    }
}

/// Whether it is one of our pages that asks; else it is the app's, which has taken in the card.
fn is_our_page(site: &Site, request: &HttpRequest) -> bool {
    current_path(request.headers()).is_none_or(|path| path.starts_with(&site.to(PAGE)))
}

fn told_in_part(site: &Site, request: &HttpRequest, problem: &Problem) -> Markup {
    let path = request.path();
    let errand = path.strip_prefix("/settings/backups/errand/");
    let reads = request.method() == Method::GET;
    // It may be better soon.
    let passes = problem.kind().status >= 500 || problem.kind() == TOO_MANY_REQUESTS;
    let is_asked_again = reads && passes && (errand.is_some() || [NOW, OPERATION].contains(&path));
    match problem.kind() {
        _ if opens_dialog(request.headers()) => in_dialog(site, problem),
        UNAUTHENTICATED => {
            let to = errand.filter(|_| reads).map(|number| format!("{PAGE}?errand={number}"));
            signed_out(site, to.as_deref().unwrap_or(PAGE), !reads)
        }
        _ if is_asked_again => {
            let address = request.uri().path_and_query().map_or(path, |address| address.as_str());
            meanwhile(site, &site.to(address), (path == NOW).then_some("now"), problem)
        }
        _ => part(site, problem),
    }
}

/// The way in, and after it back to where it was wanted.
fn way_in(site: &Site, request: &HttpRequest) -> Markup {
    let has_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let address = request.uri().path_and_query().map_or("", |address| address.as_str());
    let to = Some(address).filter(|to| has_read && is_page(to));
    let wrong = (!has_read).then_some("your session has ended and nothing was changed; sign in, and try again");
    views::sign_in::sign_in(site, None, to, wrong)
}
