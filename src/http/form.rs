//! Bodies of forms, as browsers send them: small, and in time.

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::web::Query;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

use super::body::{PATIENCE, read};
use super::problem::{self, Problem};

/// How browsers encode a form (HTML section 4.10.21.6).
pub const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// What was filled in.
pub struct Form<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Form<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let fits = request.content_type().eq_ignore_ascii_case(MEDIA_TYPE);
        let payload = payload.take();
        Box::pin(async move {
            let body = actix_web::rt::time::timeout(PATIENCE, read(payload));
            let body = body.await.map_err(|_| Problem::of_status(StatusCode::REQUEST_TIMEOUT))??;
            if !fits && !body.is_empty() {
                return Err(Problem::new(problem::UNSUPPORTED_MEDIA_TYPE, "send a form, as the page does"));
            }
            let bad = |error: &dyn std::fmt::Display| {
                Problem::new(problem::BAD_BODY, format!("{error}; load the page once more, and try again"))
            };
            let text = std::str::from_utf8(&body).map_err(|error| bad(&error))?;
            Ok(Self(Query::<T>::from_query(text).map_err(|error| bad(&error))?.into_inner()))
        })
    }
}
