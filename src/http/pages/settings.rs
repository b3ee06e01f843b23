//! The settings: looked at, tried, saved, taken back.

use actix_web::{HttpRequest, HttpResponse, web};
use maud::html;
use serde::Deserialize;

use super::super::State;
use super::super::admit::Superuser;
use super::super::form::Form;
use super::super::problem::{self, Problem};
use super::super::shown::{Shown, changed, html, refused, see_other};
use super::super::typed::Typed;
use super::super::views::settings::{PLACE, Said, Stand, previewed, settings, told};
use super::super::views::{self, Site, Tab, words};
use super::Visit;
use crate::backup::settings::Saved;
use crate::engine::{Call, Change, Changed, Engine, Error, Outlook};

/// What the request before has done.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    /// The settings that it saved.
    saved: Option<String>,
}

/// `GET /settings/backups/settings`.
pub async fn look(
    Visit { state, superuser, request, .. }: Visit,
    before: web::Query<Before>,
) -> Result<HttpResponse, Problem> {
    let stand = stand(&state, &superuser, None).await?;
    let is_saved = before.saved.as_ref().is_some_and(|version| *version == stand.view.version());
    let said = if is_saved { Said::Saved { did: None, gone: false } } else { Said::Nothing };
    Ok(html(page(&state, &site(&state, &request, &stand), &stand, &said)))
}

/// `POST /settings/backups/settings/preview`: what would follow from what is typed. Nothing is changed.
pub async fn preview(
    Visit { state, superuser, shown, request }: Visit,
    Form(typed): Form<Typed>,
) -> Result<HttpResponse, Problem> {
    let stand = stand(&state, &superuser, Some(typed)).await?;
    let site = site(&state, &request, &stand);
    let markup = match (shown, &stand.outlook) {
        (Shown::Json, Err(problem)) => return Err(problem.clone()),
        (Shown::Part, _) => previewed(&site, &stand),
        (Shown::Page | Shown::Json, outlook) => {
            let said = outlook.as_ref().err().map_or(Said::Nothing, |problem| Said::Refused(problem.clone(), None));
            page(&state, &site, &stand, &said)
        }
    };
    Ok(match &stand.outlook {
        // What is half typed is no mistake yet: that it can't be saved so is what follows from it.
        Err(problem) if shown != Shown::Part => refused(problem, markup),
        _ => html(markup),
    })
}

/// `POST /settings/backups/settings`: saves what is typed, or takes back all that was saved.
pub async fn save(
    Visit { state, superuser, shown, request }: Visit,
    Form(typed): Form<Typed>,
) -> Result<HttpResponse, Problem> {
    let (call, asked) = (state.call(&superuser), typed.clone());
    let ended = state.engine(move |engine| saved(engine, &asked, &call)).await.flatten();
    let said = match (shown, ended) {
        (Shown::Json, Err(problem)) => return Err(problem),
        (Shown::Json, Ok(Ended::Asks(outlook))) => return Err(unasked(&outlook)),
        (Shown::Part, Ok(Ended::Saved(did))) => Said::Saved { did: Some(did), gone: typed.drop.is_some() },
        (Shown::Page | Shown::Json, Ok(Ended::Saved(_))) => return back(&state, &request).await,
        (_, Ok(Ended::Same)) => Said::Same,
        (_, Ok(Ended::Asks(outlook))) if typed.reset.is_some() => Said::AsksToReset(outlook),
        (_, Ok(Ended::Asks(_))) => Said::Asks { anew: typed.drop.is_some() },
        (_, Err(problem)) => {
            let by = if problem.kind() == problem::STALE { last_change(&state, &request).await } else { None };
            Said::Refused(problem, by)
        }
    };
    let is_typed = matches!(said, Said::Asks { .. } | Said::Refused(..)) && typed.reset.is_none();
    let stand = stand(&state, &superuser, is_typed.then_some(typed)).await?;
    let site = site(&state, &request, &stand);
    let markup = match shown {
        Shown::Part => html! { (settings(&site, state.engine.config(), &stand, &said)) (told(&said)) },
        Shown::Page | Shown::Json => page(&state, &site, &stand, &said),
    };
    Ok(match &said {
        Said::Refused(problem, _) => refused(problem, markup),
        Said::Saved { .. } => changed(markup),
        Said::Nothing | Said::Same | Said::Asks { .. } | Said::AsksToReset(_) => html(markup),
    })
}

/// What came of it.
enum Ended {
    Saved(Changed),
    /// Nothing differs.
    Same,
    /// Backups would go that nobody has said may go. Nothing was changed.
    Asks(Outlook),
}

/// Between the outlook and the change another backup may come, and then one more goes: by the numbers that were agreed to.
fn saved(engine: &Engine, typed: &Typed, call: &Call) -> Result<Result<Ended, Problem>, Error> {
    let reset = typed.reset.is_some();
    let set = if reset { Ok(Saved::default()) } else { typed.change(&engine.settings()?) };
    let set = match set {
        Ok(set) => set,
        Err(problem) => return Ok(Err(problem)),
    };
    let change = Change { set, reset, dry_run: false, expected: Some(typed.version.clone()) };
    match engine.outlook(&change, call) {
        Ok(_) if !reset && set == Saved::default() => return Ok(Ok(Ended::Same)),
        Ok(outlook) if !typed.agrees(&outlook) => return Ok(Ok(Ended::Asks(outlook))),
        // Refused once more, and this time written down.
        Ok(_) | Err(Error::Stale) => {}
        Err(error) => return Err(error),
    }
    Ok(Ok(Ended::Saved(engine.change_settings(&change, call)?)))
}

/// How the settings stand, with what was typed over them.
async fn stand(state: &State, superuser: &Superuser, typed: Option<Typed>) -> Result<Stand, Problem> {
    let call = state.call(superuser);
    let looked = state.read(move |engine| {
        let view = engine.config_view()?;
        let typed = typed.unwrap_or_else(|| Typed::of(&view));
        let outlook = typed.change(&view.settings).and_then(|set| {
            let expected = Some(typed.version.clone());
            Ok(engine.outlook(&Change { set, reset: false, dry_run: true, expected }, &call)?)
        });
        Ok(Stand { view, typed, outlook, notices: engine.notices_status() })
    });
    looked.await
}

/// Times as the schedule that is in force has them.
fn site(state: &State, request: &HttpRequest, stand: &Stand) -> Site {
    Site { zone: stand.view.settings.schedule.timezone, ..state.site(request) }
}

fn page(state: &State, site: &Site, stand: &Stand, said: &Said) -> maud::Markup {
    let main = html! { h1.hidden { "Settings of the backups" } (settings(site, state.engine.config(), stand, said)) };
    views::page(site, "Settings", Some(Tab::Settings), &main, false)
}

/// To the settings as they are now, which say that they were saved.
async fn back(state: &State, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let version = state.read(Engine::config_view).await?.version();
    Ok(see_other(&state.site(request).to(&format!("{PLACE}?saved={version}"))))
}

/// Who it was that changed them meanwhile; the answer doesn't depend on it.
async fn last_change(state: &State, request: &HttpRequest) -> Option<String> {
    let found = state.read(Engine::last_change).await.ok().flatten();
    found.map(|(by, at)| format!("They were last saved by {by}, {}.", words::relative(at, state.site(request).now)))
}

/// For programs, which have seen nothing.
fn unasked(outlook: &Outlook) -> Problem {
    let ids: Vec<_> = outlook.drops().map(|id| id.to_string()).collect();
    let text = format!(
        "nothing was changed. It would drop {} at once, which the page asks about first; PUT /api/backup/config does it unasked",
        if ids.is_empty() { "nothing".to_owned() } else { ids.join(", ") }
    );
    Problem::new(problem::BAD_BODY, text)
}
