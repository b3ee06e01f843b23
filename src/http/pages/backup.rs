//! One backup: all that is known of it, putting it back, deleting it.

use actix_web::{HttpResponse, web};
use maud::{Markup, html};
use serde::Deserialize;

use super::super::errands::{self, Done, Task};
use super::super::form::Form;
use super::super::id;
use super::super::problem::{self, Problem};
use super::super::shown::{
    Shown, changed, current_path, done_in_dialog, html, in_dialog, redirected, refused, see_other,
};
use super::super::sign_in::PAGE;
use super::super::views::list::address;
use super::super::views::restore::{self, Known};
use super::super::views::{self, Site, Tab, delete};
use super::Visit;
use super::tasks;
use crate::backup::{Backup, BackupId};
use crate::engine::{Error, Restore};

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
fn on_paper(site: &Site, title: &str, content: &Markup) -> Markup {
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
pub async fn preview(
    Visit { state, superuser, shown, request }: Visit,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = id(&path)?;
    let (preview, site) = (state.preview(id, &superuser).await?, state.site(&request));
    Ok(dialog(
        &site,
        shown,
        &restore::title(&id),
        &restore::ask(&site, &id, &Known { preview: Some(&preview), ..Known::default() }),
    ))
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
    Visit { state, superuser, shown, request }: Visit,
    path: web::Path<String>,
    Form(form): Form<RestoreForm>,
) -> Result<HttpResponse, Problem> {
    let (id, site) = (id(&path)?, state.site(&request));
    if form.confirm.trim() != id.to_string() {
        let problem =
            Problem::new(problem::BAD_BODY, format!("nothing was changed: type {id} to say which backup is meant"));
        return Ok(asked_again(&site, shown, &id, &problem, form.force.is_some()));
    }
    let restore = Restore { id, force: form.force.is_some(), offline: None };
    let errand = errands::begin(&state, &superuser, Task::Restore(id), move |engine, call| {
        Ok(Done::Restored(engine.restore(&restore, call)?))
    });
    let errand = match errand.await {
        Err(problem) if restore::yields_to_force(&problem) => {
            return Ok(asked_again(&site, shown, &id, &problem, true));
        }
        errand => errand?,
    };
    Ok(match shown {
        Shown::Part => {
            let content = views::dialog(&restore::title(&id), &restore::progress(&site, &errand));
            in_dialog(if errand.has_ended() { changed(content) } else { html(content) })
        }
        Shown::Page | Shown::Json => tasks::answer(&state, &request, shown, &errand),
    })
}

/// The question once more, since the answer could not be taken.
fn asked_again(site: &Site, shown: Shown, id: &BackupId, problem: &Problem, forced: bool) -> HttpResponse {
    match shown {
        Shown::Part => refused(problem, restore::refused(site, problem)),
        Shown::Page | Shown::Json => {
            let content = restore::ask(site, id, &Known { wrong: Some(problem), forced, preview: None });
            refused(problem, on_paper(site, &restore::title(id), &content))
        }
    }
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
