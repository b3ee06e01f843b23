//! One line a request, with the id that the answer carries in `x-request-id`. The path is there, the query and the headers
//! are not: nothing secret belongs into a log.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{Error, HttpMessage};
use tracing::Span;
use tracing::field::Empty;
use tracing_actix_web::{RequestId, RootSpanBuilder};

use super::admit::Admitted;

/// The header of answers that names their line.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a path that are kept.
const MAX_PATH: usize = 200;

/// The id of a request, as its answer carries it.
pub fn request_id(request: &ServiceRequest) -> Option<HeaderValue> {
    let id = request.extensions().get::<RequestId>().map(ToString::to_string)?;
    HeaderValue::try_from(id).ok()
}

/// The status of a problem that is answered as 200, where only that is shown: what reads the log goes by it.
pub struct Meant(pub StatusCode);

/// What the lines say.
pub struct Lines;

impl RootSpanBuilder for Lines {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let id = request.extensions().get::<RequestId>().map(ToString::to_string).unwrap_or_default();
        let path: String = request.path().chars().take(MAX_PATH).collect();
        tracing::info_span!("request", id, method = %request.method(), path, by = Empty, from = Empty)
    }

    fn on_request_end<B: MessageBody>(span: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        let status = match outcome {
            Ok(response) => {
                if let Some(admitted) = response.request().extensions().get::<Admitted>() {
                    span.record("from", tracing::field::display(admitted.address));
                    if let Some(caller) = &admitted.caller {
                        span.record("by", caller.subject.as_str());
                    }
                }
                let extensions = response.request().extensions();
                extensions.get::<Meant>().map_or(response.status(), |meant| meant.0).as_u16()
            }
            Err(error) => error.as_response_error().status_code().as_u16(),
        };
        span.in_scope(|| tracing::info!(status, "answered"));
    }
}
