//! One backup: all that is known of it, putting it back, deleting it.

use actix_web::{HttpResponse, web};
use maud::{Markup, html};
use serde::Deserialize;

use super::super::form::Form;
use super::super::id;
use super::super::problem::{self, Problem};
use super::super::shown::{Shown, current_path, done_in_dialog, html, redirected, refused, see_other};
use super::super::sign_in::PAGE;
use super::super::views::list::address;
use super::super::views::{self, Site, Tab, delete};
use super::Visit;
use super::restore::{self, RestoreForm};
use crate::backup::{Backup, BackupId};
use crate::engine::Error;

/// `GET /settings/backups/backup/{id}`.
pub async fn backup(Visit { state, request, .. }: Visit, path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id = id(&path)?;
    let (site, shelf) = state.shelf(&request).await?;
    let backup = found(&shelf.backups, id)?;
    let main = views::backup::backup(&site, &shelf, backup);
    Ok(html(views::page(&site, &id.to_string(), Some(Tab::Backups), &main, false)))
}

fn found(backups: &[Backup], id: BackupId) -> Result<&Backup, Error> {
    backups.iter().find(|backup| backup.id == id).ok_or(Error::NotFound(id))
}

/// The question on a page.
pub fn on_paper(site: &Site, title: &str, content: &Markup) -> Markup {
    views::page(site, title, Some(Tab::Backups), &views::paper(title, content), false)
}

/// A dialog, or where there are no scripts a page.
pub fn dialog(site: &Site, shown: Shown, title: &str, content: &Markup) -> HttpResponse {
    match shown {
        Shown::Part => html(views::dialog(title, content)),
        Shown::Page | Shown::Json => html(on_paper(site, title, content)),
    }
}

/// `GET /settings/backups/backup/{id}/restore`: what a restore would change, and the question whether to.
pub async fn preview(visit: Visit, path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let site = visit.state.site_in_force(&visit.request).await;
    restore::asked(visit, &site, id(&path)?.into()).await
}

/// `POST /settings/backups/backup/{id}/restore`.
pub async fn restore(
    visit: Visit,
    path: web::Path<String>,
    Form(form): Form<RestoreForm>,
) -> Result<HttpResponse, Problem> {
    let (id, site) = (id(&path)?, visit.state.site_in_force(&visit.request).await);
    let is_confirmed = form.confirm.trim() == id.to_string();
    restore::answered(visit, &site, id.into(), is_confirmed, form.force.is_some()).await
}

/// `GET /settings/backups/backup/{id}/delete`: what would be lost, and the question whether to.
pub async fn ask_to_delete(
    Visit { state, shown, request, .. }: Visit,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = id(&path)?;
    let (site, shelf) = state.shelf(&request).await?;
    let content = delete::ask(&site, &shelf, found(&shelf.backups, id)?);
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
    Visit { state, superuser, shown, request }: Visit,
    path: web::Path<String>,
    Form(form): Form<DeleteForm>,
) -> Result<HttpResponse, Problem> {
    let (id, call) = (id(&path)?, state.call(&superuser));
    let force = form.force.is_some();
    let site = state.site(&request);
    match state.engine(move |engine| engine.delete(id, force, &call)).await {
        Err(problem) if problem.kind() == problem::LAST_GOOD && shown == Shown::Part => {
            return Ok(refused(&problem, delete::refused(&site, &problem)));
        }
        deleted => deleted?,
    }
    let there = site.to(&format!("{PAGE}?deleted={id}#outcome"));
    // On its own page, or that of the question, there is nothing left to show.
    let its_pages = ["", "/delete"].map(|rest| site.to(&address(&id, rest)));
    let is_its_page = current_path(request.headers()).is_some_and(|path| its_pages.contains(&path));
    Ok(match shown {
        Shown::Part if is_its_page => redirected(&there),
        Shown::Part => done_in_dialog(html! { div #outcome hx-swap-oob="innerHTML" { (delete::deleted(&id)) } }),
        Shown::Page | Shown::Json => see_other(&there),
    })
}
