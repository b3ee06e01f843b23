//! The OpenAPI document.

use actix_web::HttpResponse;

/// `GET /api/openapi.json`.
pub async fn document() -> HttpResponse {
    HttpResponse::Ok().finish()
}
