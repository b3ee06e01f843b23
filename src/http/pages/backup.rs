//! One backup: all that is known of it, putting it back, deleting it.

use actix_web::{HttpRequest, HttpResponse, web};
use maud::html;
use serde::Deserialize;

use super::super::admit::Superuser;
use super::super::errands::{self, Done, Task};
use super::super::form::Form;
use super::super::problem::{self, Problem};
use super::super::shown::{Shown, changed, done_in_dialog, html, in_dialog, see_other};
use super::super::views::{self, Site, Tab, delete, restore};
use super::super::{State, id};
use super::tasks;
use crate::backup::{Backup, BackupId};
use crate::engine::{Error, Restore};

/// `GET /settings/backups/backup/{id}`.
pub async fn backup(
    state: web::Data<State>,
    _: Superuser,
    request: HttpRequest,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = id(&path)?;
    let (site, overview) = state.overview(&request).await?;
    let backup = found(&overview.backups, id)?;
    let main = views::backup::backup(&site, &overview, backup);
    Ok(html(views::page(&site, &id.to_string(), Some(Tab::Backups), &main, false)))
}

fn found(backups: &[Backup], id: BackupId) -> Result<&Backup, Error> {
    backups.iter().find(|backup| backup.id == id).ok_or(Error::NotFound(id))
}

/// A dialog, or where there are no scripts a page.
fn dialog(site: &Site, shown: Shown, title: &str, content: &maud::Markup) -> HttpResponse {
    match shown {
        Shown::Part => html(views::dialog(title, content)),
        Shown::Page | Shown::Json => {
            html(views::page(site, title, Some(Tab::Backups), &views::paper(title, content), false))
        }
    }
}

/// `GET /settings/backups/backup/{id}/restore`: what a restore would change, and the question whether to.
pub async fn preview(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let (id, call) = (id(&path)?, state.call(&superuser));
    let slot = state.place(&state.previewing, &format!("preview {id}"), &call)?;
    let preview = state.engine(move |engine| {
        let _slot = slot;
        engine.preview(&id, &call)
    });
    let (preview, site) = (preview.await?, state.site(&request));
    Ok(dialog(&site, shown, &restore::title(&id), &restore::ask(&site, &id, Some(&preview), None)))
}

/// The answer to the question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreForm {
    confirm: String,
    /// A box that is ticked or not there.
    force: Option<String>,
}

/// `POST /settings/backups/backup/{id}/restore`.
pub async fn restore(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    path: web::Path<String>,
    Form(form): Form<RestoreForm>,
) -> Result<HttpResponse, Problem> {
    let (id, site) = (id(&path)?, state.site(&request));
    if form.confirm.trim() != id.to_string() {
        let problem =
            Problem::new(problem::BAD_BODY, format!("nothing was changed: type {id} to say which backup is meant"));
        return match shown {
            Shown::Page => {
                Ok(dialog(&site, shown, &restore::title(&id), &restore::ask(&site, &id, None, Some(&problem))))
            }
            Shown::Part | Shown::Json => Err(problem),
        };
    }
    let restore = Restore { id, force: form.force.is_some(), offline: None };
    let errand = errands::begin(&state, &superuser, Task::Restore(id), move |engine, call| {
        Ok(Done::Restored(engine.restore(&restore, call)?))
    });
    let errand = errand.await?;
    Ok(match shown {
        Shown::Part => {
            let content = views::dialog(&restore::title(&id), &restore::progress(&site, &errand));
            in_dialog(if errand.has_ended() { changed(content) } else { html(content) })
        }
        Shown::Page | Shown::Json => tasks::answer(&state, &request, shown, &errand),
    })
}

/// `GET /settings/backups/backup/{id}/delete`: what would be lost, and the question whether to.
pub async fn ask_to_delete(
    state: web::Data<State>,
    _: Superuser,
    shown: Shown,
    request: HttpRequest,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = id(&path)?;
    let (site, overview) = state.overview(&request).await?;
    let content = delete::ask(&site, &overview, found(&overview.backups, id)?);
    Ok(dialog(&site, shown, &delete::title(&id), &content))
}

/// The answer to the question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteForm {
    /// Also the last good one; a box that is ticked or not there.
    force: Option<String>,
}

/// `POST /settings/backups/backup/{id}/delete`.
pub async fn delete(
    state: web::Data<State>,
    superuser: Superuser,
    shown: Shown,
    request: HttpRequest,
    path: web::Path<String>,
    Form(form): Form<DeleteForm>,
) -> Result<HttpResponse, Problem> {
    let (id, call) = (id(&path)?, state.call(&superuser));
    let force = form.force.is_some();
    state.engine(move |engine| engine.delete(id, force, &call)).await?;
    Ok(match shown {
        Shown::Part => done_in_dialog(html! { div #outcome hx-swap-oob="innerHTML" { (delete::deleted(&id)) } }),
        Shown::Page | Shown::Json => {
            see_other(&state.site(&request).to(&format!("/settings/backups?deleted={id}#outcome")))
        }
    })
}
