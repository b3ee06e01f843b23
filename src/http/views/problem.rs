//! Problems as text, where what caused them is.

use maud::{Markup, html};

use super::notice::{Tone, notice};
use super::{Site, dialog, icons, page, words};
use crate::http::problem::{Problem, UNAUTHENTICATED};

const SIGNED_OUT: &str = "Your session has ended";

/// In the place where an answer would be.
pub fn part(site: &Site, problem: &Problem) -> Markup {
    notice(Tone::Bad, problem.kind().title, &text(site, problem))
}

/// In a dialog, in place of what was asked for.
pub fn in_dialog(site: &Site, problem: &Problem) -> Markup {
    let (title, text) = if problem.kind() == UNAUTHENTICATED {
        (SIGNED_OUT, sign_in_again(site))
    } else {
        (problem.kind().title, text(site, problem))
    };
    let content = html! {
        div.notice.bad role="alert" { (icons::danger()) div.words { (text) } }
        div.buttons { a.button data-close href=(site.to("/settings/backups")) { "Close" } }
    };
    dialog(title, &content)
}

/// A page of its own.
pub fn whole(site: &Site, problem: &Problem) -> Markup {
    let title = problem.kind().title;
    let body = html! {
        h1.hidden { (title) }
        (part(site, problem))
        p { a.button href=(site.to("/settings/backups")) { "Back to the backups" } }
    };
    page(site, title, None, &body, false)
}

/// When nobody is signed in any more: where to go.
pub fn signed_out(site: &Site) -> Markup {
    notice(Tone::Bad, SIGNED_OUT, &sign_in_again(site))
}

fn sign_in_again(site: &Site) -> Markup {
    html! { p { "Nothing was changed. " a href=(site.to("/settings/backups")) { "Sign in again" } "." } }
}

fn text(site: &Site, problem: &Problem) -> Markup {
    html! {
        p { (words::prose(problem.detail())) }
        @if let Some(operation) = problem.operation() {
            p.small {
                (words::text(&operation.operation)) ", begun by " (words::text(&operation.by)) " "
                (words::relative(operation.started_at, site.now))
            }
        }
    }
}
