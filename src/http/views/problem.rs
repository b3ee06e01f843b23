//! Problems as text, where what caused them is.

use maud::{Markup, html};

use super::notice::{Tone, notice};
use super::{Site, card, dialog, icons, page, plain_page, words};
use crate::http::admit::SIGN_IN;
use crate::http::problem::{Problem, UNAUTHENTICATED};
use crate::http::sign_in::PAGE;

const SIGNED_OUT: &str = "Your session has ended";

/// In the place where an answer would be.
pub fn part(site: &Site, problem: &Problem) -> Markup {
    notice(Tone::Bad, problem.kind().title, &text(site, problem))
}

/// In a dialog, in place of what was asked for.
pub fn in_dialog(site: &Site, problem: &Problem) -> Markup {
    let (title, text) = if problem.kind() == UNAUTHENTICATED {
        (SIGNED_OUT, sign_in_again(site, PAGE, true))
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
    let body = |back: &str, label: &str| {
        html! {
            h1.hidden { (title) }
            (part(site, problem))
            p { a.button href=(site.to(back)) { (label) } }
        }
    };
    if site.subject.is_empty() {
        return plain_page(site, title, &body(SIGN_IN, "Sign in"));
    }
    page(site, title, None, &body(PAGE, "Back to the backups"), false)
}

/// In the place of what is asked for again and again from `address`; it goes on being asked for.
pub fn meanwhile(site: &Site, address: &str, id: Option<&str>, problem: &Problem) -> Markup {
    html! {
        div.now id=[id] hx-get=(address) hx-trigger="every 5s" hx-swap="outerHTML" { (part(site, problem)) }
    }
}

/// When nobody is signed in any more: where to go, and to what. Whether anything was to be changed is known.
pub fn signed_out(site: &Site, to: &str, was_to_change: bool) -> Markup {
    notice(Tone::Bad, SIGNED_OUT, &sign_in_again(site, to, was_to_change))
}

fn sign_in_again(site: &Site, to: &str, was_to_change: bool) -> Markup {
    html! {
        p {
            @if was_to_change { "Nothing was changed. " } @else { "What was begun goes on. " }
            a href=(site.to(to)) { "Sign in again" } "."
        }
    }
}

fn text(site: &Site, problem: &Problem) -> Markup {
    html! {
        p { (words::prose(problem.detail())) }
        @if let Some(operation) = problem.operation() {
            p.small {
                (words::text(&operation.operation)) ", begun by " (words::text(&operation.by)) " "
                (words::relative(operation.started_at, site.now))
            }
            (card::cancel(site, &operation.operation, operation.started_at, ("cancel-other", "this")))
        }
    }
}
