//! The JSON API. Handlers translate: a request into a call of the engine, its answer into a shape.

use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, EntityTag, IfMatch, LOCATION};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admit::{Superuser, User};
use super::body::Body;
use super::openapi;
use super::problem::{self, Problem};
use super::settings::{Partial, parse};
use super::{State, id, replica};
use crate::backup::retention::{Fate, Step};
use crate::backup::settings::Saved;
use crate::backup::{Backup, BackupId, Moment, Subject, Tier, reason};
use crate::engine::doctor::Finding;
use crate::engine::status::{ConfigView, Operation, Status};
use crate::engine::{
    AuditPage, AuditQuery, Change, Create, Drilled, Elsewhere, Engine, Preview, ReplicaVerification, Restore, Restored,
    Verification,
};

/// Which backups to list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only this type.
    #[serde(rename = "type")]
    #[param(rename = "type", nullable = false)]
    tier: Option<Tier>,
}

/// `GET /api/backup/list`.
#[derive(Serialize, ToSchema)]
pub struct Backups {
    /// Newest first.
    backups: Vec<Backup>,
}

/// Lists the backups, newest first.
#[utoipa::path(get, path = "/api/backup/list", tag = "backups", params(ListQuery),
    responses((status = 200, description = "The backups", body = Backups), openapi::OfList))]
pub async fn list(state: web::Data<State>, _: User, query: web::Query<ListQuery>) -> Result<HttpResponse, Problem> {
    let tier = query.tier;
    let mut backups = state.read(Engine::list).await?;
    backups.retain(|backup| tier.is_none_or(|tier| backup.tier == tier));
    Ok(HttpResponse::Ok().json(Backups { backups }))
}

/// `GET /api/backup/{id}`: an entry of the catalog, and what becomes of it.
#[derive(Serialize, ToSchema)]
pub struct OneBackup {
    #[serde(flatten)]
    backup: Backup,
    /// Why it is kept, and when it would go.
    fate: Fate,
}

/// One backup, why it is kept and when it would go.
#[utoipa::path(get, path = "/api/backup/{id}", tag = "backups", params(openapi::Id),
    responses((status = 200, description = "The backup", body = OneBackup), openapi::OfGet))]
pub async fn get(state: web::Data<State>, _: User, path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id = id(&path)?;
    let found = state.read(move |engine| Ok(OneBackup { backup: engine.get(&id)?, fate: engine.fate(&id)? })).await?;
    Ok(HttpResponse::Ok().json(found))
}

/// `POST /api/backup/create`.
#[derive(Deserialize, Default, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CreateBody {
    /// `manual` (the default) or `daily`, which counts as the scheduled one of today.
    #[serde(rename = "type")]
    tier: Option<CreateType>,
    /// Why, for people; at most 200 characters in one line.
    #[schema(max_length = 200, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    reason: Option<String>,
    /// A database that is suddenly much smaller is right as it is.
    accept_shrink: bool,
}

/// What can be asked for.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum CreateType {
    Manual,
    Daily,
}

/// Takes a backup now, and answers when it is done.
#[utoipa::path(post, path = "/api/backup/create", tag = "backups", request_body = CreateBody,
    responses((status = 201, description = "The backup", body = Backup,
        headers(("Location" = String, description = "Its address"))), openapi::OfCreate))]
pub async fn create(state: web::Data<State>, superuser: Superuser, body: Body) -> Result<HttpResponse, Problem> {
    let body: CreateBody = body.optional()?.unwrap_or_default();
    let reason = body.reason.map(|text| reason(&text)).transpose();
    let reason = reason.map_err(|allowed| Problem::field(problem::BAD_BODY, "/reason", allowed))?;
    let tier = match body.tier {
        Some(CreateType::Daily) => Tier::Daily,
        Some(CreateType::Manual) | None => Tier::Manual,
    };
    let (create, call) = (Create { tier, reason, accept_shrink: body.accept_shrink }, state.call(&superuser));
    let backup = state.engine(move |engine| engine.create(&create, &call)).await?.backup;
    let prefix = state.engine.config().public_url.as_ref().map_or("", |url| url.prefix.as_str());
    let location = format!("{prefix}/api/backup/{}", backup.id);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(backup))
}

/// `POST /api/backup/restore`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBody {
    /// The backup. Restoring the `preRestore` of a restore takes that back.
    id: Option<BackupId>,
    /// Instead of a backup what the databases held at that instant, by the journal.
    at: Option<Moment>,
    /// The id or the instant once more.
    confirm: String,
    /// Also over corrupt live data, with triggers and views that the live databases don't have, and of a backup that hasn't
    /// the very databases that are configured.
    #[serde(default)]
    force: bool,
}

impl RestoreBody {
    /// What is to be restored, if it was said twice.
    fn subject(&self) -> Result<Subject, Problem> {
        let (subject, confirm) = match (self.id, self.at) {
            (Some(id), None) => (id.into(), self.confirm.parse().map(Subject::Backup)),
            (None, Some(moment)) => (moment.into(), self.confirm.parse().map(Subject::Point)),
            _ => {
                let text = "say what to restore: `id`, a backup, or `at`, an instant, and not both";
                return Err(Problem::field(problem::BAD_BODY, "", text.to_owned()));
            }
        };
        if confirm == Ok(subject) {
            return Ok(subject);
        }
        let text = "this replaces the live data: say the id of the backup, or the instant, once more as `confirm`";
        Err(Problem::field(problem::BAD_BODY, "/confirm", text.to_owned()))
    }
}

/// Puts the live databases back to what a backup holds, or to what they held at an instant, while the app has them open, and
/// answers when it is done. What they held before is a backup of its own, of type `pre-restore`.
#[utoipa::path(post, path = "/api/backup/restore", tag = "backups", request_body = RestoreBody,
    responses((status = 200, description = "What was restored", body = Restored), openapi::OfRestore))]
pub async fn restore(state: web::Data<State>, superuser: Superuser, body: Body) -> Result<HttpResponse, Problem> {
    let body: RestoreBody = body.json()?;
    let restore = Restore { subject: body.subject()?, force: body.force, offline: None };
    let call = state.call(&superuser);
    Ok(HttpResponse::Ok().json(state.engine(move |engine| engine.restore(&restore, &call)).await?))
}

/// `PATCH /api/backup/{id}`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchBody {
    /// Whether rotation leaves it alone.
    pinned: bool,
}

/// Pins a backup, or takes the pin off.
#[utoipa::path(patch, path = "/api/backup/{id}", tag = "backups", params(openapi::Id), request_body = PatchBody,
    responses((status = 200, description = "The backup", body = Backup), openapi::OfPatch))]
pub async fn patch(
    state: web::Data<State>,
    superuser: Superuser,
    path: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let (id, PatchBody { pinned }, call) = (id(&path)?, body.json()?, state.call(&superuser));
    let backup = state.engine(move |engine| engine.pin(id, pinned, &call)).await?;
    Ok(HttpResponse::Ok().json(backup))
}

/// How to delete.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// Also the last backup, or the last good one.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

/// Deletes a backup.
#[utoipa::path(delete, path = "/api/backup/{id}", tag = "backups", params(openapi::Id, DeleteQuery),
    responses((status = 204, description = "It is gone"), openapi::OfDelete))]
pub async fn delete(
    state: web::Data<State>,
    superuser: Superuser,
    path: web::Path<String>,
    query: web::Query<DeleteQuery>,
) -> Result<HttpResponse, Problem> {
    let (id, force, call) = (id(&path)?, query.force, state.call(&superuser));
    state.engine(move |engine| engine.delete(id, force, &call)).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Reads every byte of a backup back and compares it with what was recorded.
#[utoipa::path(post, path = "/api/backup/verify/{id}", tag = "backups", params(openapi::Id),
    responses((status = 200, description = "What was found, good or bad", body = Verification), openapi::OfVerify))]
pub async fn verify(
    state: web::Data<State>,
    superuser: Superuser,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let (id, call) = (id(&path)?, state.call(&superuser));
    let slot = state.place(&state.verifying, &format!("verify {id}"), &call)?;
    let found = state.engine(move |engine| {
        // Held until it is done, whether or not anyone still waits for it.
        let _slot = slot;
        engine.verify(&id, &call)
    });
    Ok(HttpResponse::Ok().json(found.await?))
}

/// Reads every byte of a replica back and compares it with what was recorded. What is damaged there is sent again.
#[utoipa::path(post, path = "/api/backup/replica/{name}/verify", tag = "backups", params(openapi::Replica),
    responses((status = 200, description = "What was found, good or bad", body = ReplicaVerification), openapi::OfVerifyReplica))]
pub async fn verify_replica(
    state: web::Data<State>,
    superuser: Superuser,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let (name, call) = (replica(&path, &state)?, state.call(&superuser));
    let slot = state.place(&state.verifying, &format!("verify replica {name}"), &call)?;
    let found = state.engine(move |engine| {
        // Held until it is done, whether or not anyone still waits for it.
        let _slot = slot;
        engine.verify_replica(&Elsewhere::Name(name), None, &call)
    });
    Ok(HttpResponse::Ok().json(found.await?))
}

/// Rehearses a restore of the newest backup of each type: copies it aside, opens it, checks it, compares it with what was
/// recorded, and throws the copy away. Where a journal is kept its newest instant is rebuilt too, and compared with the live databases.
#[utoipa::path(post, path = "/api/backup/drill", tag = "backups",
    responses((status = 200, description = "What was found, good or bad", body = Drilled), openapi::OfDrill))]
pub async fn drill(state: web::Data<State>, superuser: Superuser) -> Result<HttpResponse, Problem> {
    let call = state.call(&superuser);
    Ok(HttpResponse::Ok().json(state.engine(move |engine| engine.drill(&call)).await?))
}

/// What a restore would change: the live databases compared with the backup's. Nothing is changed.
#[utoipa::path(get, path = "/api/backup/{id}/preview", tag = "backups", params(openapi::Id),
    responses((status = 200, description = "What differs", body = Preview), openapi::OfPreview))]
pub async fn preview(
    state: web::Data<State>,
    superuser: Superuser,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(state.preview(id(&path)?.into(), &superuser).await?))
}

/// Of which instant.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PointQuery {
    /// With its offset; a `+` is sent as `%2B`.
    at: Moment,
}

/// What a restore of an instant would change: the live databases compared with what they held then. Nothing is changed.
#[utoipa::path(get, path = "/api/backup/preview", tag = "backups", params(PointQuery),
    responses((status = 200, description = "What differs", body = Preview), openapi::OfPointPreview))]
pub async fn preview_point(
    state: web::Data<State>,
    superuser: Superuser,
    query: web::Query<PointQuery>,
) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(state.preview(query.at.into(), &superuser).await?))
}

/// How things stand, and what is wrong.
#[utoipa::path(get, path = "/api/backup/status", tag = "service",
    responses((status = 200, description = "How things stand", body = Status), openapi::OfStatus))]
pub async fn status(state: web::Data<State>, _: User) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(state.read(Engine::status).await?))
}

/// `GET /api/backup/doctor`.
#[derive(Serialize, ToSchema)]
pub struct Findings {
    /// What was looked at, good or bad.
    findings: Vec<Finding>,
}

/// What tends to be wrong around backups: user, mounts, file systems, space, clock, secrets, proxies; one fix a finding.
#[utoipa::path(get, path = "/api/backup/doctor", tag = "service",
    responses((status = 200, description = "What was found", body = Findings), openapi::OfDoctor))]
pub async fn doctor(state: web::Data<State>, _: Superuser) -> Result<HttpResponse, Problem> {
    let findings = state.read(|engine| Ok(engine.doctor())).await?;
    Ok(HttpResponse::Ok().json(Findings { findings }))
}

/// The settings, and where each comes from.
#[utoipa::path(get, path = "/api/backup/config", tag = "settings",
    responses((status = 200, description = "The settings", body = ConfigView,
        headers(("ETag" = String, description = "Their version, for `If-Match`"))), openapi::OfConfig))]
pub async fn config(state: web::Data<State>, _: User) -> Result<HttpResponse, Problem> {
    let view = state.read(Engine::config_view).await?;
    Ok(HttpResponse::Ok().insert_header((ETAG, tag(&view))).json(view))
}

fn tag(view: &ConfigView) -> String {
    EntityTag::new_strong(view.version()).to_string()
}

/// How to change the settings.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct ConfigQuery {
    /// Only tell what the change would do.
    #[serde(default)]
    #[param(required = false)]
    dry_run: bool,
}

/// `PUT /api/backup/config`: the settings after the change, and what it did or would do.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Configured {
    #[serde(flatten)]
    config: ConfigView,
    /// What the new retention drops and promotes at once.
    rotation: Vec<Step>,
    /// Why nothing good is dropped or promoted.
    #[schema(required = true)]
    frozen: Option<String>,
    /// Nothing was changed.
    dry_run: bool,
}

/// Changes some of the settings, all that are named or none. What isn't named stays.
#[utoipa::path(put, path = "/api/backup/config", tag = "settings", params(ConfigQuery, openapi::Version),
    request_body = Saved,
    responses((status = 200, description = "The settings after the change", body = Configured,
        headers(("ETag" = Option<String>, description = "Their version; none of a dry run"))), openapi::OfConfigure))]
pub async fn configure(
    state: web::Data<State>,
    superuser: Superuser,
    query: web::Query<ConfigQuery>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let expected = expected(&request)?;
    let (partial, dry_run, call) = (body.json::<Partial>()?, query.dry_run, state.call(&superuser));
    let configured = state
        .engine(move |engine| {
            let set = match parse(&partial, &engine.settings()?) {
                Ok(set) => set,
                Err(problem) => return Ok(Err(problem)),
            };
            let changed = engine.change_settings(&Change { set, reset: false, dry_run, expected }, &call)?;
            let config = ConfigView { settings: changed.settings, ..engine.config_view()? };
            let (rotation, frozen) = (changed.rotation.steps, changed.rotation.frozen);
            Ok(Ok(Configured { config, rotation, frozen, dry_run }))
        })
        .await??;
    let mut response = HttpResponse::Ok();
    if !dry_run {
        response.insert_header((ETAG, tag(&configured.config)));
    }
    Ok(response.json(configured))
}

/// The version of the settings that the caller has looked at; nothing for `*`, any.
fn expected(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let text = "look at the settings first (GET), and send the ETag that came with them as If-Match";
    match request.get_header::<IfMatch>() {
        Some(IfMatch::Any) => Ok(None),
        Some(IfMatch::Items(tags)) => match tags.as_slice() {
            // A proxy that compresses makes the tag a weak one; what is meant is the version all the same.
            [tag] => Ok(Some(tag.tag().to_owned())),
            _ => Err(Problem::new(problem::STALE, text)),
        },
        None => Err(Problem::new(problem::PRECONDITION_REQUIRED, text)),
    }
}

/// The audit log, newest first.
#[utoipa::path(get, path = "/api/backup/audit", tag = "service", params(AuditQuery),
    responses((status = 200, description = "A page of it", body = AuditPage), openapi::OfAudit))]
pub async fn audit(
    state: web::Data<State>,
    _: Superuser,
    query: web::Query<AuditQuery>,
) -> Result<HttpResponse, Problem> {
    let query = query.into_inner();
    Ok(HttpResponse::Ok().json(state.read(move |engine| engine.audit_page(&query)).await?))
}

/// `POST /api/backup/acknowledge`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeBody {
    /// The backup that was looked at.
    id: BackupId,
}

/// Says that the newest backup is small because the live data is: rotation goes on.
#[utoipa::path(post, path = "/api/backup/acknowledge", tag = "backups", request_body = AcknowledgeBody,
    responses((status = 200, description = "The backup, no longer flagged", body = Backup), openapi::OfAcknowledge))]
pub async fn acknowledge(state: web::Data<State>, superuser: Superuser, body: Body) -> Result<HttpResponse, Problem> {
    let (AcknowledgeBody { id }, call) = (body.json()?, state.call(&superuser));
    Ok(HttpResponse::Ok().json(state.engine(move |engine| engine.acknowledge(id, &call)).await?))
}

/// `POST /api/backup/operation/cancel`: what is asked to stop. It ends as soon as it has undone what it had begun.
#[derive(Serialize, ToSchema)]
pub struct Cancelling {
    operation: Operation,
}

/// Asks the operation that is under way to stop. It undoes what it had begun.
#[utoipa::path(post, path = "/api/backup/operation/cancel", tag = "service",
    responses((status = 202, description = "What is asked to stop", body = Cancelling), openapi::OfCancel))]
pub async fn cancel(state: web::Data<State>, superuser: Superuser) -> Result<HttpResponse, Problem> {
    let operation = state.cancel(&superuser, |_| true).await?.into();
    Ok(HttpResponse::build(StatusCode::ACCEPTED).json(Cancelling { operation }))
}
