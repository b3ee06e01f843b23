//! Putting something back, a backup or what was at an instant: the question, and what is done when it is answered.

use actix_web::HttpResponse;
use serde::Deserialize;

use super::super::errands::{self, Done, Task};
use super::super::problem::{self, Problem};
use super::super::shown::{Shown, changed, html, in_dialog, refused};
use super::super::views::restore::{self, Known};
use super::super::views::{self, Site};
use super::backup::{dialog, on_paper};
use super::{Visit, tasks};
use crate::backup::Subject;
use crate::engine::Restore;

/// The answer to the question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreForm {
    /// What is meant, once more.
    pub confirm: String,
    /// A box that is ticked or not there.
    pub force: Option<String>,
}

/// What a restore would change, and the question whether to.
pub async fn asked(visit: Visit, site: &Site, subject: Subject) -> Result<HttpResponse, Problem> {
    let preview = visit.state.preview(subject, &visit.superuser).await?;
    let question = restore::ask(site, subject, &Known { preview: Some(&preview), ..Known::default() });
    Ok(dialog(site, visit.shown, &restore::title(site, subject), &question))
}

/// Restores it, if it was said twice.
pub async fn answered(
    Visit { state, superuser, shown, request }: Visit,
    site: &Site,
    subject: Subject,
    is_confirmed: bool,
    force: bool,
) -> Result<HttpResponse, Problem> {
    if !is_confirmed {
        let text = match subject {
            Subject::Backup(id) => format!("nothing was changed: type {id} to say which backup is meant"),
            Subject::Point(moment) => {
                format!("nothing was changed: type {} to say which time is meant", site.typed(moment))
            }
        };
        return Ok(asked_again(site, shown, subject, &Problem::new(problem::BAD_BODY, text), force));
    }
    let restore = Restore { subject, force, offline: None };
    let errand = errands::begin(&state, &superuser, Task::Restore(subject), move |engine, call| {
        Ok(Done::Restored(engine.restore(&restore, call)?))
    });
    let errand = match errand.await {
        Err(problem) if restore::yields_to_force(&problem) => {
            return Ok(asked_again(site, shown, subject, &problem, true));
        }
        errand => errand?,
    };
    Ok(match shown {
        Shown::Part => {
            let content = views::dialog(&restore::title(site, subject), &restore::progress(site, &errand));
            in_dialog(if errand.has_ended() { changed(content) } else { html(content) })
        }
        Shown::Page | Shown::Json => tasks::answer(&state, &request, shown, &errand).await,
    })
}

/// The question once more, since the answer could not be taken.
fn asked_again(site: &Site, shown: Shown, subject: Subject, problem: &Problem, forced: bool) -> HttpResponse {
    match shown {
        Shown::Part => refused(problem, restore::refused(site, problem)),
        Shown::Page | Shown::Json => {
            let content = restore::ask(site, subject, &Known { wrong: Some(problem), forced, preview: None });
            refused(problem, on_paper(site, &restore::title(site, subject), &content))
        }
    }
}
