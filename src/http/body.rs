//! Bodies of requests: JSON, small, and in time.

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use actix_web::web::{Bytes, BytesMut};
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::problem::{self, Problem};

/// Bytes of a body.
const MAX_BODY: usize = 64 << 10;
/// How long a body may take to come.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A body as it came; empty if there was none.
pub struct Body(Bytes);

impl Body {
    /// The JSON in it; nothing of an empty body.
    pub fn optional<T: DeserializeOwned>(&self) -> Result<Option<T>, Problem> {
        if self.0.is_empty() { Ok(None) } else { self.json().map(Some) }
    }

    /// The JSON in it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        // serde takes a list for a struct too.
        if self.0.trim_ascii_start().first() != Some(&b'{') {
            let text = "send a JSON object as the body; /api/openapi.json shows its form";
            return Err(Problem::field(problem::BAD_BODY, "", text.to_owned()));
        }
        let mut input = serde_json::Deserializer::from_slice(&self.0);
        let parsed = serde_path_to_error::deserialize(&mut input)
            .map_err(|error| Problem::field(problem::BAD_BODY, &pointer(error.path()), error.inner().to_string()))?;
        input.end().map_err(|error| Problem::field(problem::BAD_BODY, "", error.to_string()))?;
        Ok(parsed)
    }
}

/// RFC 6901.
fn pointer(path: &serde_path_to_error::Path) -> String {
    let part = |segment: &Segment| match segment {
        Segment::Map { key } => Some(key.replace('~', "~0").replace('/', "~1")),
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(part).map(|part| format!("/{part}")).collect()
}

impl FromRequest for Body {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let json = request.content_type().eq_ignore_ascii_case("application/json");
        let plain = !request.headers().contains_key(CONTENT_ENCODING);
        let named = request.headers().contains_key(CONTENT_TYPE);
        let payload = payload.take();
        Box::pin(async move {
            let read = actix_web::rt::time::timeout(PATIENCE, read(payload));
            let body = read.await.map_err(|_| Problem::of_status(StatusCode::REQUEST_TIMEOUT))??;
            if (!body.is_empty() || named) && !(json && plain) {
                return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
            }
            Ok(Self(body))
        })
    }
}

/// All of it.
pub(super) async fn read(mut payload: Payload) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    while let Some(part) = payload.next().await {
        let part =
            part.map_err(|_| Problem::new(problem::BAD_BODY, "the body ended before it was whole; send it again"))?;
        if body.len() + part.len() > MAX_BODY {
            let text = format!("a body has at most {MAX_BODY} bytes here; send a smaller one");
            return Err(Problem::new(problem::TOO_LARGE, text));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}
