//! A test of notices, from the API and from the page.

use actix_web::{HttpResponse, web};
use maud::html;

use super::State;
use super::admit::Superuser;
use super::form::Form;
use super::openapi;
use super::pages::{Nothing, Visit};
use super::problem::Problem;
use super::shown::{Shown, html};
use super::views::{self, Tab};
use crate::engine::NoticesTested;

/// Sends a test by each channel of notices, and says what came of it.
#[utoipa::path(post, path = "/api/backup/notify/test", tag = "service",
    responses((status = 200, description = "What came of it, good or bad", body = NoticesTested), openapi::OfNotifyTest))]
pub async fn test(state: web::Data<State>, superuser: Superuser) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(tested(&state, &superuser).await?))
}

/// `POST /settings/backups/notices/test`.
pub async fn test_on_page(
    Visit { state, superuser, shown, request }: Visit,
    _: Form<Nothing>,
) -> Result<HttpResponse, Problem> {
    let tested = tested(&state, &superuser).await?;
    let outcome = views::notices::tested(&tested);
    Ok(match shown {
        Shown::Json => HttpResponse::Ok().json(tested),
        Shown::Part => html(html! { (outcome) (views::notices::told(&tested)) }),
        Shown::Page => {
            let site = state.site(&request);
            let back = site.to(views::settings::PLACE);
            let main = html! {
                h1.hidden { "Notices" }
                section.paper.alone aria-label="What came of the test" { (outcome) p { a.button href=(back) { "Back to the settings" } } }
            };
            html(views::page(&site, "Notices", Some(Tab::Settings), &main, false))
        }
    })
}

/// One at a time, and not again and again: it tells strangers something, and what is within the house from what isn't.
async fn tested(state: &State, superuser: &Superuser) -> Result<NoticesTested, Problem> {
    state.limits.notice_test(superuser.admitted())?;
    let call = state.call(superuser);
    let slot = state.place(&state.notifying, "notify-test", &call)?;
    let tested = state.engine(move |engine| {
        // Held until it is done, whether or not anyone still waits for it.
        let _slot = slot;
        engine.test_notices(&call)
    });
    tested.await
}
