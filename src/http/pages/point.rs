//! Any second: what the databases held at an instant, and putting that back.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use super::super::State;
use super::super::form::Form;
use super::super::problem::{self, Problem};
use super::super::views::{Site, point};
use super::Visit;
use super::restore::{self, RestoreForm};
use crate::backup::Moment;
use crate::engine::{Engine, Window};

/// Which instant, as it was typed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Where the schedule lives, or with its offset.
    at: String,
    /// The offset, where the slider knows it: the clocks may have shown that time twice.
    #[serde(default)]
    offset: String,
}

impl Wanted {
    fn moment(&self, site: &Site) -> Result<Moment, Problem> {
        let at = self.at.trim();
        // Browsers leave out seconds that are 0.
        let seconds = if at.len() == "2026-11-26T09:14".len() { ":00" } else { "" };
        let exact = match self.offset.as_str() {
            "" => None,
            offset => format!("{at}{seconds}{offset}").parse().ok(),
        };
        let moment = exact.map_or_else(|| Moment::typed(at, site.zone), Ok);
        moment.map_err(|allowed| Problem::new(problem::BAD_PARAMETER, allowed))
    }
}

/// Times as the schedule that is in force has them.
async fn site(state: &State, request: &HttpRequest) -> Result<Site, Problem> {
    let zone = state.read(Engine::settings).await?.schedule.timezone;
    Ok(Site { zone, ..state.site(request) })
}

/// `GET /settings/backups/point`: what a restore would change, and the question whether to.
pub async fn preview(visit: Visit, wanted: web::Query<Wanted>) -> Result<HttpResponse, Problem> {
    let site = site(&visit.state, &visit.request).await?;
    let (state, moment) = (visit.state.clone(), wanted.moment(&site)?);
    match restore::asked(visit, &site, moment.into()).await {
        Err(problem) if [problem::POINT_OUTSIDE, problem::POINT_IN_GAP].contains(&problem.kind()) => {
            let recovery = state.read(Engine::recovery).await?;
            let window = recovery.as_ref().and_then(Window::common);
            let here = window.and_then(|window| point::unreachable(&site, &window, moment));
            Err(here.map_or(problem.clone(), |text| Problem::new(problem.kind(), text)))
        }
        asked => asked,
    }
}

/// `POST /settings/backups/point`.
pub async fn restore(
    visit: Visit,
    wanted: web::Query<Wanted>,
    Form(form): Form<RestoreForm>,
) -> Result<HttpResponse, Problem> {
    let site = site(&visit.state, &visit.request).await?;
    let moment = wanted.moment(&site)?;
    let is_confirmed = Moment::typed(&form.confirm, site.zone) == Ok(moment);
    restore::answered(visit, &site, moment.into(), is_confirmed, form.force.is_some()).await
}
