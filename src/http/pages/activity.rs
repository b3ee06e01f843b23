//! The activity: the audit log, and rehearsals.

use std::collections::BTreeSet;

use actix_web::{HttpResponse, web};
use maud::html;

use super::super::problem::Problem;
use super::super::shown::{Shown, html, refused};
use super::super::views::activity::{FILTER, Told, activity, rehearsal_in_place, rehearsals};
use super::super::views::{self, Site, Tab, notice, words};
use super::super::wanted::Wanted;
use super::Visit;
use crate::engine::Engine;

/// `GET /settings/backups/activity`.
pub async fn look(
    Visit { state, shown, request, .. }: Visit,
    wanted: web::Query<Wanted>,
) -> Result<HttpResponse, Problem> {
    let wanted = wanted.into_inner();
    let parsed = wanted.parse();
    // An id that is none is told beside its field; the rest of an address no form of ours makes.
    let wrong = match &parsed {
        Err(problem) if problem.fields().is_empty() || shown == Shown::Json => return Err(problem.clone()),
        parsed => parsed.as_ref().err().cloned(),
    };
    let query = parsed.unwrap_or_default();
    let told = state.read(move |engine: &Engine| {
        let lines = engine.activity(&query)?;
        let ids: BTreeSet<_> = engine.list()?.into_iter().map(|backup| backup.id).collect();
        Ok(Told {
            lines,
            ids,
            zone: engine.settings()?.schedule.timezone,
            last_drill: engine.last_drill()?,
            wanted,
            wrong,
        })
    });
    let told = told.await?;
    let site = Site { zone: told.zone, ..state.site(&request) };
    let markup = match shown {
        Shown::Part => {
            let by_filter = request.headers().get("hx-trigger").is_some_and(|id| id == FILTER);
            html! {
                (activity(&site, &told))
                (rehearsal_in_place(&site, &told))
                @if by_filter { (notice::announced(&words::count(told.lines.lines.len() as u64, "line"))) }
            }
        }
        Shown::Page | Shown::Json => {
            let main = html! {
                h1.hidden { "Activity" }
                (rehearsals(&site, state.engine.config(), &told))
                (activity(&site, &told))
            };
            views::page(&site, "Activity", Some(Tab::Activity), &main, false)
        }
    };
    Ok(match &told.wrong {
        Some(problem) => refused(problem, markup),
        None => html(markup),
    })
}
