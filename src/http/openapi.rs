//! The OpenAPI document: made from the handlers' attributes and the types that they answer with. `docs/openapi.json` is
//! its committed copy, which a test compares.

mod answers;
mod parameters;

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header::CONTENT_TYPE;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Object, SchemaFormat};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Header, OpenApi as Document, PathItem, RefOr, Type};
use utoipa::{Modify, OpenApi};

use super::problem::ProblemBody;
use super::{api, download, health, log};

pub use answers::*;
pub use parameters::*;

/// The description of everything that `super::routes` has.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "attendance-backup",
        description = "Backups of live SQLite databases. Every GET answers HEAD too. Errors are `application/problem+json` \
                       (RFC 9457); docs/problems.md explains each `type`.",
        license(name = "GPL-3.0-or-later", identifier = "GPL-3.0-or-later")
    ),
    paths(
        health::alive, health::ready, document, api::list, api::create, api::status, api::config, api::configure,
        api::audit, api::acknowledge, api::cancel, api::verify, download::download, api::get, api::patch, api::delete
    ),
    components(schemas(ProblemBody)),
    security(("bearer" = []), ("cookie" = [])),
    tags(
        (name = "backups", description = "Take, look at, hand out and delete backups"),
        (name = "settings", description = "What can be changed while it runs"),
        (name = "service", description = "How things stand"),
        (name = "open", description = "For anyone")
    ),
    modifiers(&Schemes, &ShortForms, &RequestIds)
)]
pub struct Description;

/// The document as text, indented, with a line feed at its end.
pub static TEXT: LazyLock<String> = LazyLock::new(|| {
    let text = Description::openapi().to_pretty_json().unwrap_or_default();
    format!("{text}\n")
});

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "open", security(()),
    responses((status = 200, description = "An OpenAPI 3.1 document", body = Object), OfOpen))]
pub async fn document() -> HttpResponse {
    HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/json")).body(TEXT.as_str())
}

/// How a token comes.
struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
        let bearer = bearer.description(Some("`attendance-backup token` prints one"));
        let cookie = "The app's cookie, by the name in BACKUP_JWT_COOKIE. What changes something must then come from this \
                      site's own pages";
        let cookie = ApiKey::Cookie(ApiKeyValue::with_description("backup_session", cookie));
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        components.add_security_scheme("cookie", SecurityScheme::ApiKey(cookie));
    }
}

/// Short addresses of the same handlers.
struct ShortForms;

impl Modify for ShortForms {
    fn modify(&self, document: &mut Document) {
        let paths = &mut document.paths.paths;
        let of = |path: &str| paths.get(path).cloned().unwrap_or_default();
        let (list, create) = (of("/api/backup/list").get, of("/api/backup/create").post);
        let download = of("/api/backup/download/{id}").get;
        let (mut backups, mut backup) = (PathItem::default(), PathItem::default());
        (backups.get, backups.post, backup.get) = (short(list), short(create), short(download));
        paths.insert("/api/backup".to_owned(), backups);
        paths.insert("/api/backup/{id}/download".to_owned(), backup);
    }
}

fn short(operation: Option<Operation>) -> Option<Operation> {
    let mut operation = operation?;
    operation.operation_id = operation.operation_id.map(|id| format!("{id}_short"));
    Some(operation)
}

/// Every answer names its line in the log.
struct RequestIds;

impl Modify for RequestIds {
    fn modify(&self, document: &mut Document) {
        let uuid = Object::builder().schema_type(Type::String).format(Some(SchemaFormat::Custom("uuid".to_owned())));
        let header = HeaderBuilder::new().schema(Some(uuid)).description(Some("The request's id in the server's log"));
        let header: Header = header.build();
        let items = document.paths.paths.values_mut();
        let operations = items.flat_map(|item| {
            [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
        });
        for response in operations.flat_map(|operation| operation.responses.responses.values_mut()) {
            if let RefOr::T(response) = response {
                response.headers.insert(log::REQUEST_ID.to_string(), RefOr::T(header.clone()));
            }
        }
    }
}
