//! The page at `/settings/backups`, for superusers: handlers that translate between browsers and the engine. Every address
//! answers a browser without scripts with a whole page, and htmx with the part that it asked for.

mod activity;
mod backup;
mod point;
pub mod problems;
mod restore;
mod settings;
mod tasks;

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::middleware::Compress;
use actix_web::{FromRequest, HttpRequest, HttpResponse, Resource, Route, web};
use maud::html;
use serde::Deserialize;

use super::admit::{Superuser, address};
use super::problem::Problem;
use super::shown::{Shown, changed, html};
use super::views::list::Chosen;
use super::views::{self, Overview, Shelf, Site, Tab, card, checks, delete, errand, list, strip};
use super::{State, notify, resource};
use crate::backup::{BackupId, Tier};
use crate::engine::{Engine, Error};

pub use tasks::Nothing;

/// Every address of the page.
pub fn routes() -> Vec<Resource> {
    let (get, post) = (|| Method::GET, || Method::POST);
    vec![
        resource("/settings/backups", [(get(), page(web::to(overview)))]),
        resource("/settings/backups/card", [(get(), page(web::to(embedded)))]),
        resource("/settings/backups/now", [(get(), page(web::to(now)))]),
        resource("/settings/backups/list", [(get(), page(web::to(listed)))]),
        resource("/settings/backups/create", [(post(), web::to(tasks::create))]),
        resource("/settings/backups/drill", [(post(), web::to(tasks::drill))]),
        resource(
            "/settings/backups/acknowledge",
            [(get(), page(web::to(tasks::ask_to_acknowledge))), (post(), web::to(tasks::acknowledge))],
        ),
        resource("/settings/backups/operation", [(get(), web::to(tasks::operation))]),
        resource("/settings/backups/cancel", [(post(), web::to(tasks::cancel))]),
        resource("/settings/backups/errand/{number}", [(get(), web::to(tasks::errand))]),
        resource("/settings/backups/errand/{number}/cancel", [(post(), web::to(tasks::cancel_errand))]),
        resource("/settings/backups/backup/{id}", [(get(), page(web::to(backup::backup)))]),
        resource("/settings/backups/backup/{id}/verify", [(post(), web::to(tasks::verify))]),
        resource("/settings/backups/replica/{name}/verify", [(post(), web::to(tasks::verify_replica))]),
        resource("/settings/backups/backup/{id}/pin", [(post(), web::to(tasks::pin))]),
        resource(
            "/settings/backups/backup/{id}/restore",
            [(get(), page(web::to(backup::preview))), (post(), web::to(backup::restore))],
        ),
        resource(
            "/settings/backups/point",
            [(get(), page(web::to(point::preview))), (post(), web::to(point::restore))],
        ),
        resource(
            "/settings/backups/backup/{id}/delete",
            [(get(), page(web::to(backup::ask_to_delete))), (post(), web::to(backup::delete))],
        ),
        resource(
            "/settings/backups/settings",
            [(get(), page(web::to(settings::look))), (post(), page(web::to(settings::save)))],
        ),
        resource("/settings/backups/settings/preview", [(post(), page(web::to(settings::preview)))]),
        resource("/settings/backups/notices/test", [(post(), web::to(notify::test_on_page))]),
        resource("/settings/backups/activity", [(get(), page(web::to(activity::look)))]),
    ]
}

/// A route whose answers are worth compressing.
fn page(route: Route) -> Route {
    route.wrap(Compress::default())
}

/// A superuser at a page. Like [`Superuser`] it says at once who it isn't for.
pub struct Visit {
    pub(super) state: web::Data<State>,
    pub(super) superuser: Superuser,
    pub(super) shown: Shown,
    pub(super) request: HttpRequest,
}

impl FromRequest for Visit {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let visit = |superuser| {
            let state = request.app_data::<web::Data<State>>().cloned();
            let state = state.ok_or_else(|| Problem::internal(&"a page without its state"))?;
            Ok(Self { state, superuser, shown: Shown::wanted(request.headers()), request: request.clone() })
        };
        ready(Superuser::from_request(request, payload).into_inner().and_then(visit))
    }
}

impl State {
    /// What every view knows.
    pub(super) fn site(&self, request: &HttpRequest) -> Site {
        let (config, admitted) = (self.engine.config(), address(request));
        Site {
            prefix: config.public_url.as_ref().map_or_else(String::new, |url| url.prefix.clone()),
            subject: admitted.as_ref().map(|admitted| admitted.subject().to_owned()).unwrap_or_default(),
            by_session: admitted.is_ok_and(|admitted| admitted.by_session),
            now: self.engine.clock().now(),
            zone: config.settings.schedule.timezone,
        }
    }

    /// The same, with times as the schedule that is in force has them; where that can't be read, as it was configured.
    async fn site_in_force(&self, request: &HttpRequest) -> Site {
        let (site, settings) = (self.site(request), self.read(Engine::settings).await);
        settings.map_or(site.clone(), |settings| Site { zone: settings.schedule.timezone, ..site })
    }

    /// The same and the overview, with times as the schedule that is in force has them.
    async fn overview(&self, request: &HttpRequest) -> Result<(Site, Overview), Problem> {
        let overview = self.read(|engine| Ok(Overview { status: engine.status()?, shelf: shelf(engine)? })).await?;
        Ok((self.site(request).of(&overview.shelf), overview))
    }

    /// The same without a look at how things stand.
    async fn shelf(&self, request: &HttpRequest) -> Result<(Site, Shelf), Problem> {
        let shelf = self.read(shelf).await?;
        Ok((self.site(request).of(&shelf), shelf))
    }
}

fn shelf(engine: &Engine) -> Result<Shelf, Error> {
    Ok(Shelf { backups: engine.list()?, fates: engine.fates()?, settings: engine.settings()? })
}

/// What of the overview is shown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shows {
    /// Only backups of this type.
    #[serde(rename = "type")]
    tier: Option<Tier>,
    /// The page of the list, from 0.
    #[serde(default)]
    page: usize,
    /// What was begun by the request before.
    errand: Option<String>,
    /// What was deleted by it.
    deleted: Option<BackupId>,
}

impl Shows {
    fn chosen(&self) -> Chosen {
        Chosen { tier: self.tier, page: self.page }
    }
}

/// `GET /settings/backups`.
async fn overview(Visit { state, request, .. }: Visit, shows: web::Query<Shows>) -> Result<HttpResponse, Problem> {
    let (site, overview) = state.overview(&request).await?;
    let (recovery, checks) = state.read(|engine| Ok((engine.recovery()?, engine.checks()))).await?;
    let begun = shows.errand.as_ref().map(|number| state.errands.find(number));
    let outcome = match &begun {
        Some(Some(begun)) => errand::errand(&site, begun),
        Some(None) => errand::forgotten(&site),
        None => {
            let gone = shows.deleted.filter(|id| overview.shelf.backups.iter().all(|backup| backup.id != *id));
            html! { @if let Some(id) = gone { (delete::deleted(&id)) } }
        }
    };
    let runs = overview.status.operation.is_some() || begun.flatten().is_some_and(|errand| !errand.has_ended());
    let main = html! {
        h1.hidden { "Backups" }
        (card::card(&site, &overview, &outcome))
        (strip::strip(&site, &overview.shelf, false))
        @if let Some(recovery) = &recovery { (views::point::point(&site, recovery)) }
        @if checks::are_bad(&checks) { (checks::checks(&checks)) }
        (list::list(&site, &overview.shelf, shows.chosen()))
        @if !checks::are_bad(&checks) { (checks::checks(&checks)) }
    };
    Ok(html(views::page(&site, "Backups", Some(Tab::Backups), &main, runs)))
}

/// `GET /settings/backups/card`: for the app's own page, which takes it in by one `hx-get`.
async fn embedded(Visit { state, request, .. }: Visit) -> Result<HttpResponse, Problem> {
    let (site, overview) = state.overview(&request).await?;
    Ok(html(card::embedded(&site, &overview)))
}

/// What the page has seen.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    #[serde(default)]
    seen: String,
}

/// `GET /settings/backups/now`: how things stand. If that is not what was seen before, the page is told.
async fn now(Visit { state, request, .. }: Visit, query: web::Query<Seen>) -> Result<HttpResponse, Problem> {
    let (site, overview) = state.overview(&request).await?;
    let part = card::now(&site, &overview);
    if query.seen.is_empty() || query.seen == card::stamp(&overview) {
        return Ok(html(part));
    }
    Ok(changed(html! { (part) (card::told(&overview)) }))
}

/// `GET /settings/backups/list`: the list, and the calendar that goes with it.
async fn listed(Visit { state, request, .. }: Visit, shows: web::Query<Shows>) -> Result<HttpResponse, Problem> {
    let (site, shelf) = state.shelf(&request).await?;
    Ok(html(html! { (list::list(&site, &shelf, shows.chosen())) (strip::strip(&site, &shelf, true)) }))
}
