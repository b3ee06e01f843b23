//! What the page has done with a press of a button.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use maud::html;
use serde::Deserialize;

use super::super::admit::Superuser;
use super::super::errands::{self, Done, Errand, Stage, Task};
use super::super::form::Form;
use super::super::problem::{self, Problem};
use super::super::shown::{Shown, changed, html, see_other};
use super::super::views::{self, notice};
use super::super::{State, id};
use crate::backup::{BackupId, Tier, reason, timestamp};
use crate::engine::{Create, Holder};

/// What a form asks for that only has buttons.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// The form beside "Create backup now".
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateForm {
    #[serde(default)]
    reason: String,
}

/// `POST /settings/backups/create`.
pub async fn create(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    Form(form): Form<CreateForm>,
) -> Result<HttpResponse, Problem> {
    let text = form.reason.trim();
    let reason = (!text.is_empty()).then(|| reason(text)).transpose();
    let reason = reason.map_err(|allowed| Problem::new(problem::BAD_BODY, allowed))?;
    let create = Create { tier: Tier::Manual, reason, accept_shrink: false };
    let act = move |engine: &crate::engine::Engine, call: &crate::engine::Call| {
        Ok(Done::Created(Box::new(engine.create(&create, call)?.backup)))
    };
    let errand = errands::begin(&state, &superuser, Task::Create, act).await?;
    Ok(answer(&state, &request, shown, &errand))
}

/// `POST /settings/backups/drill`.
pub async fn drill(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    _: Form<Nothing>,
) -> Result<HttpResponse, Problem> {
    let act = |engine: &crate::engine::Engine, call: &crate::engine::Call| Ok(Done::Drilled(engine.drill(call)?));
    let errand = errands::begin(&state, &superuser, Task::Drill, act).await?;
    Ok(answer(&state, &request, shown, &errand))
}

/// `POST /settings/backups/backup/{id}/verify`.
pub async fn verify(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = id(&path)?;
    let slots = state.clone();
    let errand = errands::begin(&state, &superuser, Task::Verify(id), move |engine, call| {
        let _slot = slots.place(&slots.verifying, &format!("verify {id}"), call)?;
        Ok(Done::Verified(engine.verify(&id, call)?))
    });
    let errand = errand.await?;
    Ok(answer(&state, &request, shown, &errand))
}

/// Which way.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinForm {
    pinned: bool,
}

/// `POST /settings/backups/backup/{id}/pin`.
pub async fn pin(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    path: web::Path<String>,
    Form(PinForm { pinned }): Form<PinForm>,
) -> Result<HttpResponse, Problem> {
    let (id, call) = (id(&path)?, state.call(&superuser));
    state.engine(move |engine| engine.pin(id, pinned, &call)).await?;
    let done = if pinned { "is pinned: rotation leaves it alone" } else { "is not pinned any more" };
    Ok(settled(&state, &request, shown, &format!("{id} {done}")))
}

/// Which backup was looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeForm {
    id: BackupId,
}

/// `POST /settings/backups/acknowledge`.
pub async fn acknowledge(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    Form(AcknowledgeForm { id }): Form<AcknowledgeForm>,
) -> Result<HttpResponse, Problem> {
    let call = state.call(&superuser);
    state.engine(move |engine| engine.acknowledge(id, &call)).await?;
    Ok(settled(&state, &request, shown, &format!("{id} is acknowledged: rotation goes on")))
}

/// Which operation was on the page when the button was pressed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelForm {
    operation: String,
    started: String,
}

/// `POST /settings/backups/cancel`: the operation that the page shows, and no other that has begun since.
pub async fn cancel(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    Form(meant): Form<CancelForm>,
) -> Result<HttpResponse, Problem> {
    let call = state.call(&superuser);
    let is_meant = move |holder: &Holder| {
        holder.operation == meant.operation && timestamp::text(holder.started_at) == meant.started
    };
    let holder = state.engine(move |engine| engine.cancel(is_meant, &call)).await?;
    Ok(settled(&state, &request, shown, &format!("{} is asked to stop", holder.operation)))
}

/// `GET /settings/backups/errand/{number}`: how far something is that was begun on the page.
pub async fn errand(
    state: web::Data<State>,
    _: Superuser,
    shown: Shown,
    request: HttpRequest,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    Ok(match state.errands.find(&path) {
        Some(errand) => answer(&state, &request, shown, &errand),
        None => html(views::errand::forgotten(&state.site(&request))),
    })
}

/// `POST /settings/backups/errand/{number}/cancel`.
pub async fn cancel_errand(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let Some(errand) = state.errands.find(&path) else {
        return Err(Problem::new(problem::NOTHING_RUNS, "it is not known any more; the activity tells how it ended"));
    };
    if errand.has_ended() {
        return Err(Problem::new(problem::NOTHING_RUNS, "it has ended already; load the page once more"));
    }
    let (call, meant) = (state.call(&superuser), Arc::clone(&errand));
    state.engine(move |engine| engine.cancel_by(meant.holder.clone(), &meant.control, &call)).await?;
    Ok(answer(&state, &request, shown, &errand))
}

/// What came of an errand so far.
pub fn answer(state: &State, request: &HttpRequest, shown: Shown, errand: &Errand) -> HttpResponse {
    let site = state.site(request);
    if shown != Shown::Part {
        return see_other(&site.to(&format!("/settings/backups?errand={}#outcome", errand.number)));
    }
    let part = html! { (views::errand::errand(&site, errand)) (views::errand::told(errand)) };
    if matches!(errand.stage(), Stage::Ended(_)) { changed(part) } else { html(part) }
}

/// What was done at once, and shows where it was done.
fn settled(state: &State, request: &HttpRequest, shown: Shown, done: &str) -> HttpResponse {
    match shown {
        Shown::Part => changed(notice::announced(done)),
        Shown::Page | Shown::Json => see_other(&state.site(request).to("/settings/backups")),
    }
}
