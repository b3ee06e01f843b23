//! `/metrics`, for Prometheus: its own switch, its own token.

use std::hint::black_box;

use actix_web::dev::ServiceRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, web};
use sha2::{Digest, Sha256};

use super::admit::address;
use super::problem::{self, Problem};
use super::{State, openapi};

/// The text format (prometheus.io/docs/instrumenting/exposition_formats).
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How things stand and what was done, as figures for Prometheus.
///
/// There is nothing here unless `BACKUP_METRICS=true`; with a `BACKUP_METRICS_TOKEN` it wants that one, and no other, as
/// `Authorization: Bearer …`.
#[utoipa::path(get, path = "/metrics", tag = "open", security(()),
    responses((status = 200, description = "The figures", body = String, content_type = "text/plain"), openapi::OfMetrics))]
pub async fn metrics(state: web::Data<State>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let config = &state.engine.config().metrics;
    if !config.enabled {
        return Err(Problem::of_status(StatusCode::NOT_FOUND));
    }
    if let Some(token) = &config.token
        && !bears(request.headers(), token.reveal())
    {
        // Guesses are counted like those at the door.
        state.limits.refuse(&address(&request)?)?;
        let text = "send the BACKUP_METRICS_TOKEN as `Authorization: Bearer …`";
        let challenge = HeaderValue::from_static("Bearer");
        return Err(Problem::new(problem::UNAUTHENTICATED, text).header(WWW_AUTHENTICATE, challenge));
    }
    let _turn = state.turn().await?;
    let engine = state.engine.clone();
    let text = state.blocking(move || engine.metrics_text()).await?;
    Ok(HttpResponse::Ok().content_type(MEDIA_TYPE).body(text))
}

/// Whether the one header that there is holds that token.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let mut given = headers.get_all(AUTHORIZATION);
    let (text, more) = (given.next().and_then(|value| value.to_str().ok()), given.next());
    let bearer = text.and_then(|text| text.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    bearer.is_some_and(|(_, given)| more.is_none() && is_same(given, token))
}

/// Takes as long whatever is wrong with it: what is compared are hashes, all of them.
fn is_same(given: &str, token: &str) -> bool {
    let (given, token) = (Sha256::digest(given), Sha256::digest(token));
    let differences = given.iter().zip(token.iter()).fold(0, |all, (one, other)| black_box(all | (one ^ other)));
    differences == 0
}

/// Counts the answer to a request by its route.
pub fn counting(request: &ServiceRequest) -> impl Fn(StatusCode) + use<> {
    let state = request.app_data::<web::Data<State>>().cloned();
    let route = request.match_pattern().unwrap_or_else(|| "unmatched".to_owned());
    let method = request.method().clone();
    move |status| {
        if let Some(state) = &state {
            state.engine.metrics().answered(&route, method.as_str(), status.as_u16());
        }
    }
}
