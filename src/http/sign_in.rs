//! Signing browsers in and out. A token or a one-time code opens a session of our own, which is kept in a cookie that no
//! script reads and no other site sends.

use std::sync::Arc;

use actix_web::cookie::time;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use utoipa::ToSchema;

use super::admit::{SIGN_IN, User, address, cookie};
use super::body::Body;
use super::form::Form;
use super::problem::{self, Problem};
use super::shown::{Shown, html, see_other};
use super::{State, openapi, views};
use crate::engine::{Actor, Engine};
use crate::session::LIFETIME;
use crate::token::{Caller, Refused};

/// Where the page is.
pub const PAGE: &str = "/settings/backups";

/// `POST /sign-in`: one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum SignInBody {
    Token(ByToken),
    Code(ByCode),
}

/// A token, as in `Authorization: Bearer`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ByToken {
    token: String,
}

/// A one-time code, as `token --link` prints it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ByCode {
    code: String,
}

/// `POST /sign-in`: whose session it is. The session itself is in the cookie.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignedIn {
    subject: String,
    superuser: bool,
    /// Seconds until the session ends by itself.
    expires_in: u64,
}

/// Opens a session by a token or a one-time code.
#[utoipa::path(post, path = "/sign-in", tag = "sessions", security(()), request_body = SignInBody,
    responses((status = 200, description = "Whose session it is", body = SignedIn,
        headers(("Set-Cookie" = String, description = "The session"))), openapi::OfSignIn))]
pub async fn sign_in(state: web::Data<State>, request: HttpRequest, body: Body) -> Result<HttpResponse, Problem> {
    state.assert_ours(&request)?;
    let (caller, cookie) = state.open_session(&request, body.json()?).await?;
    let answer = SignedIn { subject: caller.subject, superuser: caller.superuser, expires_in: LIFETIME.as_secs() };
    Ok(HttpResponse::Ok().cookie(cookie).json(answer))
}

/// What the link of `token --link` carries.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Link {
    /// The one-time code. It is as good as before: only a press of the button redeems it.
    #[param(nullable = false)]
    code: Option<String>,
}

/// The way in for browsers.
#[utoipa::path(get, path = "/sign-in", tag = "sessions", security(()), params(Link),
    responses((status = 200, description = "A page with a form", body = String, content_type = "text/html"), openapi::OfPage))]
pub async fn way_in(state: web::Data<State>, link: web::Query<Link>, request: HttpRequest) -> HttpResponse {
    html(views::sign_in::sign_in(&state.site(&request), link.code.as_deref(), None, None))
}

/// What the page sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignInForm {
    /// A token, or a code that was typed in.
    token: Option<String>,
    /// The code of the link.
    code: Option<String>,
    /// Where it goes on.
    to: Option<String>,
}

/// `POST /sign-in` from the page.
pub async fn sign_in_by_form(
    state: web::Data<State>,
    request: HttpRequest,
    Form(form): Form<SignInForm>,
) -> Result<HttpResponse, Problem> {
    state.assert_ours(&request)?;
    let given = form.code.or(form.token).unwrap_or_default().trim().to_owned();
    // A token has dots in it (RFC 7515 section 3.1), a code has none.
    let given = if given.contains('.') {
        SignInBody::Token(ByToken { token: given })
    } else {
        SignInBody::Code(ByCode { code: given })
    };
    let to = form.to.filter(|to| is_page(to));
    let (_, cookie) = match state.open_session(&request, given).await {
        Err(problem) if problem.kind() == problem::UNAUTHENTICATED => {
            let wrong = Some(
                "that token or code doesn't count, or not any more; `attendance-backup token --link` prints a new link",
            );
            let mut response = html(views::sign_in::sign_in(&state.site(&request), None, to.as_deref(), wrong));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            return Ok(response);
        }
        opened => opened?,
    };
    let to = to.unwrap_or_else(|| PAGE.to_owned());
    let mut response = see_other(&state.site(&request).to(&to));
    response.add_cookie(&cookie).map_err(|error| Problem::internal(&error))?;
    Ok(response)
}

/// An address of the page, and nothing that a browser could take for another place.
pub fn is_page(address: &str) -> bool {
    let rest = address.strip_prefix(PAGE);
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_?=&".contains(c);
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) && rest.chars().all(plain))
}

/// Ends the session that the cookie holds.
#[utoipa::path(post, path = "/sign-out", tag = "sessions",
    responses((status = 204, description = "It is over",
        headers(("Set-Cookie" = String, description = "Takes the cookie away"))), openapi::OfSignOut))]
pub async fn sign_out(
    state: web::Data<State>,
    _: User,
    shown: Shown,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    if let Some(session) = cookie(request.headers(), state.session_cookie()).flatten().map(str::to_owned) {
        state.engine(Engine::assert_expected).await?;
        let sessions = state.clone();
        state.blocking(move || sessions.sessions.sign_out(&session)).await?;
    }
    let mut response = match shown {
        Shown::Page => see_other(&state.site(&request).to(SIGN_IN)),
        Shown::Part | Shown::Json => HttpResponse::NoContent().finish(),
    };
    let gone = state.cookie(String::new(), time::Duration::ZERO);
    response.add_cookie(&gone).map_err(|error| Problem::internal(&error))?;
    Ok(response)
}

impl State {
    fn assert_ours(&self, request: &HttpRequest) -> Result<(), Problem> {
        if self.is_ours(request.headers()) {
            return Ok(());
        }
        let text = "signing in is for this site's own pages and for clients that are no browsers";
        Err(Problem::new(problem::CROSS_SITE, text))
    }

    /// Whose session it is, and the cookie that carries it.
    async fn open_session(
        self: &Arc<Self>,
        request: &HttpRequest,
        given: SignInBody,
    ) -> Result<(Caller, Cookie<'static>), Problem> {
        let mut admitted = address(request)?;
        let (found, code) = match given {
            SignInBody::Token(ByToken { token }) => (self.keyring.check(&token), None),
            SignInBody::Code(ByCode { code }) => (self.known_code(&code).await?.ok_or(Refused::Signature), Some(code)),
        };
        let caller = match found {
            Ok(caller) => caller,
            Err(refused) => return Err(self.turned_away(&admitted, Some(refused)).await),
        };
        let how = if code.is_some() { "code" } else { "token" };
        admitted.caller = Some(caller.clone());
        self.limits.sign_in(&admitted)?;
        let actor = Actor::user(&caller.subject, admitted.address);
        let details =
            Map::from_iter([("how".to_owned(), how.into()), ("superuser".to_owned(), caller.superuser.into())]);
        self.engine(move |engine| engine.record_access("sign-in", &actor, details)).await?;
        // Last, so that nobody loses it to a limit or a full disk; and of those who come at once one has it.
        if let Some(code) = code
            && self.redeemed(code).await?.is_none()
        {
            admitted.caller = None;
            return Err(self.turned_away(&admitted, Some(Refused::Signature)).await);
        }
        let session = self.sessions.open(&caller).map_err(|error| Problem::internal(&error))?;
        let lifetime = time::Duration::seconds(LIFETIME.as_secs() as i64);
        Ok((caller, self.cookie(session, lifetime)))
    }

    /// Looks a code up; whoever guesses has nothing written.
    async fn known_code(self: &Arc<Self>, code: &str) -> Result<Option<Caller>, Problem> {
        let _turn = self.turn().await?;
        let (state, code) = (Arc::clone(self), code.to_owned());
        self.blocking(move || state.sessions.known_code(&code)).await
    }

    async fn redeemed(self: &Arc<Self>, code: String) -> Result<Option<Caller>, Problem> {
        let state = Arc::clone(self);
        self.blocking(move || state.sessions.redeem(&code)).await
    }

    /// The name of our own cookie; browsers hold one of that prefix to this very host (RFC 6265bis section 4.1.3.2).
    pub(super) fn session_cookie(&self) -> &'static str {
        if self.is_https() { "__Host-attendance-backup" } else { "attendance-backup" }
    }

    fn is_https(&self) -> bool {
        self.engine.config().public_url.as_ref().is_some_and(|url| url.is_https())
    }

    fn cookie(&self, session: String, lifetime: time::Duration) -> Cookie<'static> {
        Cookie::build(self.session_cookie(), session)
            .path("/")
            .secure(self.is_https())
            .http_only(true)
            .same_site(SameSite::Strict)
            .max_age(lifetime)
            .finish()
    }
}
