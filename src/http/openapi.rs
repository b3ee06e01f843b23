//! The OpenAPI document: made from the handlers' attributes and the types that they answer with. `docs/openapi.json` is
//! its committed copy, which a test compares.

mod answers;
mod parameters;

use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, web};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Object, SchemaFormat};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi as Document, PathItem, Ref, RefOr, Required, Response, Server, Type};
use utoipa::{Modify, OpenApi};

use super::problem::{KINDS, ProblemBody};
use super::{State, api, download, health, log, metrics, notify, sign_in};
use crate::config::PublicUrl;

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
        health::alive, health::ready, metrics::metrics, document, api::list, api::create, api::restore, api::status, api::doctor, api::config, api::configure,
        api::audit, api::acknowledge, api::cancel, api::verify, api::verify_replica, api::drill, notify::test, download::download, api::preview, api::preview_point, api::get, api::patch, api::delete,
        sign_in::way_in, sign_in::sign_in, sign_in::sign_out
    ),
    components(schemas(ProblemBody)),
    security(("bearer" = []), ("cookie" = [])),
    tags(
        (name = "backups", description = "Take, look at, hand out and delete backups"),
        (name = "settings", description = "What can be changed while it runs"),
        (name = "service", description = "How things stand"),
        (name = "sessions", description = "Browsers sign in and out"),
        (name = "open", description = "For anyone")
    ),
    modifiers(&Schemes, &ShortForms, &Shared)
)]
pub struct Description;

/// The document as text, indented, with a line feed at its end. With a public address it says so: a path prefix is none of
/// the routes'.
pub fn text(public: Option<&PublicUrl>) -> String {
    let mut document = Description::openapi();
    document.servers = public.map(|url| vec![Server::new(format!("{}{}", url.origin, url.prefix))]);
    document.to_pretty_json().unwrap_or_default() + "\n"
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "open", security(()),
    responses((status = 200, description = "An OpenAPI 3.1 document", body = Object), OfOpen))]
pub async fn document(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(state.document.clone())
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

/// Short addresses of the same handlers, and the one body that may be left out.
struct ShortForms;

impl Modify for ShortForms {
    fn modify(&self, document: &mut Document) {
        let paths = &mut document.paths.paths;
        let create = paths.get_mut("/api/backup/create").and_then(|item| item.post.as_mut());
        if let Some(RefOr::T(body)) = create.and_then(|create| create.request_body.as_mut()) {
            body.required = Some(Required::False);
        }
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

/// Problems that several answers refer to, and the header that every answer carries.
struct Shared;

impl Modify for Shared {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_with(Components::new);
        let uuid = Object::builder().schema_type(Type::String).format(Some(SchemaFormat::Custom("uuid".to_owned())));
        let header = HeaderBuilder::new().schema(Some(uuid)).description(Some("The request's id in the server's log"));
        components.headers.insert("RequestId".to_owned(), RefOr::T(header.build()));
        let answers =
            document.paths.paths.values_mut().flat_map(operations).flat_map(|it| it.responses.responses.values_mut());
        for answer in answers {
            match answer {
                RefOr::T(answer) => name_request(answer),
                RefOr::Ref(to) => {
                    let kind = KINDS.iter().find(|kind| *to == Ref::from_response_name(kind.code));
                    components.responses.extend(kind.map(|kind| {
                        let mut answer = problem(&[*kind]);
                        name_request(&mut answer);
                        (kind.code.to_owned(), RefOr::T(answer))
                    }));
                }
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
}

fn name_request(answer: &mut Response) {
    answer.headers.insert(log::REQUEST_ID.to_string(), RefOr::Ref(Ref::new("#/components/headers/RequestId")));
}
