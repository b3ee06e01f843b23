//! What the page has done with a press of a button.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use maud::html;
use serde::Deserialize;

use super::super::errands::{self, Done, Errand, Stage, Task};
use super::super::form::Form;
use super::super::problem::{self, Problem};
use super::super::shown::{Shown, changed, html, instead_of, redirected, see_other};
use super::super::sign_in::PAGE;
use super::super::views::{self, notice, words};
use super::super::{State, id, replica};
use super::Visit;
use super::backup::dialog;
use crate::backup::{BackupId, Tier, reason, timestamp};
use crate::engine::status::Operation;
use crate::engine::{Create, Elsewhere, Holder};

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
    Visit { state, superuser, shown, request }: Visit,
    Form(form): Form<CreateForm>,
) -> Result<HttpResponse, Problem> {
    let text = form.reason.trim();
    let reason = (!text.is_empty()).then(|| reason(text)).transpose();
    let reason = reason.map_err(|allowed| Problem::new(problem::BAD_BODY, allowed))?;
    let create = Create { tier: Tier::Manual, reason, accept_shrink: false };
    let errand = errands::begin(&state, &superuser, Task::Create, move |engine, call| {
        Ok(Done::Created(Box::new(engine.create(&create, call)?.backup)))
    });
    let errand = errand.await?;
    Ok(answer(&state, &request, shown, &errand).await)
}

/// `POST /settings/backups/drill`.
pub async fn drill(
    Visit { state, superuser, shown, request }: Visit,
    _: Form<Nothing>,
) -> Result<HttpResponse, Problem> {
    let drill = errands::begin(&state, &superuser, Task::Drill, |engine, call| Ok(Done::Drilled(engine.drill(call)?)));
    let errand = drill.await?;
    Ok(answer(&state, &request, shown, &errand).await)
}

/// `POST /settings/backups/backup/{id}/verify`.
pub async fn verify(
    Visit { state, superuser, shown, request }: Visit,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = id(&path)?;
    let slots = state.clone();
    let errand = errands::begin(&state, &superuser, Task::Verify(id), move |engine, call| {
        let _slot = slots.place(&slots.verifying, &format!("verify {id}"), call)?;
        Ok(Done::Verified(engine.verify(&id, call)?))
    });
    let errand = errand.await?;
    Ok(answer(&state, &request, shown, &errand).await)
}

/// `POST /settings/backups/replica/{name}/verify`.
pub async fn verify_replica(
    Visit { state, superuser, shown, request }: Visit,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let name = replica(&path, &state)?;
    let (slots, task) = (state.clone(), Task::VerifyReplica(name.clone()));
    let errand = errands::begin(&state, &superuser, task, move |engine, call| {
        let _slot = slots.place(&slots.verifying, &format!("verify replica {name}"), call)?;
        Ok(Done::ReplicaVerified(engine.verify_replica(&Elsewhere::Name(name), None, call)?))
    });
    let errand = errand.await?;
    Ok(answer(&state, &request, shown, &errand).await)
}

/// Which way.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinForm {
    pinned: bool,
}

/// `POST /settings/backups/backup/{id}/pin`.
pub async fn pin(
    Visit { state, superuser, shown, request }: Visit,
    path: web::Path<String>,
    Form(PinForm { pinned }): Form<PinForm>,
) -> Result<HttpResponse, Problem> {
    let (id, call) = (id(&path)?, state.call(&superuser));
    state.engine(move |engine| engine.pin(id, pinned, &call)).await?;
    let done = if pinned { "is pinned: rotation leaves it alone" } else { "is not pinned any more" };
    Ok(settled(&state, &request, shown, &views::list::address(&id, ""), &format!("{id} {done}")))
}

/// Which backup was looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flagged {
    id: BackupId,
}

/// `GET /settings/backups/acknowledge`: what goes once a small backup is said to be right, and the question whether it is.
pub async fn ask_to_acknowledge(
    Visit { state, shown, request, .. }: Visit,
    flagged: web::Query<Flagged>,
) -> Result<HttpResponse, Problem> {
    let Flagged { id } = flagged.into_inner();
    let (backup, plan) = state.read(move |engine| Ok((engine.get(&id)?, engine.acknowledging(id)?))).await?;
    let site = state.site(&request);
    let content = views::acknowledge::ask(&site, &backup, &plan);
    Ok(dialog(&site, shown, views::acknowledge::TITLE, &content))
}

/// `POST /settings/backups/acknowledge`.
pub async fn acknowledge(
    Visit { state, superuser, shown, request }: Visit,
    Form(Flagged { id }): Form<Flagged>,
) -> Result<HttpResponse, Problem> {
    let call = state.call(&superuser);
    state.engine(move |engine| engine.acknowledge(id, &call)).await?;
    let there = state.site(&request).to(PAGE);
    Ok(if shown == Shown::Part { redirected(&there) } else { see_other(&there) })
}

/// `POST /settings/backups/cancel`: the operation that the page shows, and no other that has begun since.
pub async fn cancel(
    Visit { state, superuser, shown, request }: Visit,
    Form(meant): Form<Meant>,
) -> Result<HttpResponse, Problem> {
    let holder = state.cancel(&superuser, move |holder| meant.is(holder)).await?;
    let done = format!("{} is asked to stop", holder.operation);
    Ok(match shown {
        Shown::Part => changed(html! { p.small { (words::text(&done)) } (notice::announced(&done)) }),
        Shown::Page | Shown::Json => settled(&state, &request, shown, PAGE, &done),
    })
}

/// `GET /settings/backups/errand/{number}`: how far something is that was begun on the page, and what came of it.
pub async fn errand(
    Visit { state, shown, request, .. }: Visit,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let site = state.site(&request);
    Ok(match (state.errands.find(&path), shown) {
        (_, Shown::Page | Shown::Json) => see_other(&site.to(&format!("/settings/backups?errand={path}#outcome"))),
        (None, Shown::Part) => instead_of(&format!("errand-{path}"), html(views::errand::forgotten(&site))),
        (Some(errand), Shown::Part) => match errand.stage() {
            Stage::Running(progress) => html(views::errand::figures(&site, &errand, progress.as_ref())),
            Stage::Ended(_) => {
                instead_of(&views::errand::place(&errand), answer(&state, &request, shown, &errand).await)
            }
        },
    })
}

/// Which operation was on the page.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meant {
    operation: String,
    started: String,
}

impl Meant {
    fn is(&self, holder: &Holder) -> bool {
        holder.operation == self.operation && timestamp::text(holder.started_at) == self.started
    }
}

/// `GET /settings/backups/operation`: how far the operation is that the page shows. When it has ended, the page is told.
pub async fn operation(Visit { state, request, .. }: Visit, meant: web::Query<Meant>) -> Result<HttpResponse, Problem> {
    let holder = state.read(|engine| Ok(engine.under_way())).await?.filter(|holder| meant.is(holder));
    Ok(match holder.map(Operation::from) {
        Some(operation) => html(views::card::figures(&state.site(&request), &operation)),
        None => changed(html! {}),
    })
}

/// `POST /settings/backups/errand/{number}/cancel`.
pub async fn cancel_errand(
    Visit { state, superuser, shown, request }: Visit,
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
    Ok(answer(&state, &request, shown, &errand).await)
}

/// What came of an errand so far.
pub async fn answer(state: &State, request: &HttpRequest, shown: Shown, errand: &Errand) -> HttpResponse {
    let site = state.site_in_force(request).await;
    if shown != Shown::Part {
        return see_other(&site.to(&format!("/settings/backups?errand={}#outcome", errand.number)));
    }
    let part = html! { (views::errand::errand(&site, errand)) (views::errand::told(&site, errand)) };
    if matches!(errand.stage(), Stage::Ended(_)) { changed(part) } else { html(part) }
}

/// What was done at once, and shows where it was done: on the page at `place`.
fn settled(state: &State, request: &HttpRequest, shown: Shown, place: &str, done: &str) -> HttpResponse {
    match shown {
        Shown::Part => changed(notice::announced(done)),
        Shown::Page | Shown::Json => see_other(&state.site(request).to(place)),
    }
}
