//! Whether it is alive, and whether the backups can be relied on; open to anyone, so they say no more than that.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi;
use super::problem::{self, Problem};
use super::{State, locked};
use crate::engine::Engine;

/// How long an answer of `/readyz` counts: anyone may ask, as often as they like.
const FRESH: Duration = Duration::from_secs(1);

/// The last answer of `/readyz`.
#[derive(Default)]
pub struct Ready(Mutex<Option<(Instant, bool)>>);

/// `GET /healthz`.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always true: something answers.
    alive: bool,
}

/// `GET /readyz`.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// Always true: the newest proven backup is recent enough.
    ready: bool,
}

/// Whether it is alive.
#[utoipa::path(get, path = "/healthz", tag = "open", security(()),
    responses((status = 200, description = "It is", body = Health), openapi::OfOpen))]
pub async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(Health { alive: true })
}

/// Whether the backups can be relied on.
///
/// Red when the newest backup that was checked and read back is older than `BACKUP_STALE_AFTER`, or when that can't be
/// told.
#[utoipa::path(get, path = "/readyz", tag = "open", security(()),
    responses((status = 200, description = "They can", body = Readiness), openapi::OfReady))]
pub async fn ready(state: web::Data<State>) -> Result<HttpResponse, Problem> {
    let known = *locked(&state.ready.0);
    let ready = match known.filter(|(at, _)| at.elapsed() < FRESH) {
        Some((_, ready)) => ready,
        None => {
            let ready = state.read(Engine::is_ready).await.unwrap_or(false);
            *locked(&state.ready.0) = Some((Instant::now(), ready));
            ready
        }
    };
    if ready {
        return Ok(HttpResponse::Ok().json(Readiness { ready }));
    }
    let text = "there is no proven backup that is younger than BACKUP_STALE_AFTER; /api/backup/status says why";
    Err(Problem::new(problem::NOT_READY, text))
}
