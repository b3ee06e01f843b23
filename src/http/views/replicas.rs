//! Copies elsewhere: how each replica stands, what it holds, what is wrong with it and what to do.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::notice::Tone;
use super::{Site, icons, words};
use crate::backup::replica::Mode;
use crate::engine::{LastError, ReplicaStatus};

/// A row for each; nothing where there are none.
pub fn replicas(site: &Site, replicas: &[ReplicaStatus]) -> Markup {
    html! {
        @if !replicas.is_empty() {
            div.replicas {
                h3 #replicas-title { "Copies elsewhere" }
                ul aria-labelledby="replicas-title" { @for replica in replicas { (row(site, replica)) } }
            }
        }
    }
}

fn row(site: &Site, replica: &ReplicaStatus) -> Markup {
    let name = &replica.name;
    let verify = site.to(&format!("/settings/backups/replica/{name}/verify"));
    let (tone, state) = state(site, replica);
    html! {
        li.replica {
            div.what {
                h4 { (name) " " span.url { (words::text(&replica.url)) } }
                p.marks {
                    span class={ "mark " (tone.class()) } { (tone.icon()) (state) }
                    @if replica.damaged > 0 { " " span.mark.look { (icons::attention()) (replica.damaged) " found damaged" } }
                    @if let Some(journal) = replica.journal.as_ref().filter(|journal| journal.damaged > 0) {
                        " " span.mark.look { (icons::attention()) (words::count(journal.damaged as u64, "object")) " of its journal damaged" }
                    }
                    " " span { @match (replica.encrypted, replica.plain) {
                        (true, 0) => "Encrypted",
                        (true, plain) => { "Encrypted, but for " (plain) " from before" }
                        (false, _) => "Readable by whoever holds it",
                    } }
                    @if replica.mode == Mode::Incremental { " " span { "Incremental" } }
                }
            }
            form.actions method="post" action=(verify) hx-post=(verify) hx-target={ "#outcome-replica-" (name) } {
                button type="submit" id={ "verify-replica-" (name) } { "Verify" span.hidden { " replica " (name) } }
            }
            @if let Some(error) = &replica.last_error { p.small { (words::prose(detail(replica, error))) } }
            @else if let Some(error) = replica.journal.as_ref().and_then(|journal| journal.last_error.as_ref()) {
                p.small { "Its journal: " (words::prose(detail(replica, error))) }
            }
            (facts(site, replica))
            // It outlives the figures around it.
            div.outcome id={ "outcome-replica-" (name) } hx-preserve {}
        }
    }
}

/// How it stands, in words.
fn state(site: &Site, replica: &ReplicaStatus) -> (Tone, Markup) {
    let lacks = || words::count(replica.pending as u64, "backup");
    match (&replica.last_error, replica.pending_since, replica.last_success) {
        (Some(error), ..) => (
            Tone::Look,
            html! {
                span {
                    "Failing since " (site.exact(error.since)) ", " (again(site, replica.next_try))
                    @if replica.pending > 0 { ", " (lacks()) " to send" }
                }
            },
        ),
        (None, Some(since), _) => {
            let tone = if replica.is_behind(site.now) { Tone::Look } else { Tone::Busy };
            let sent = if replica.under_way { ", under way" } else { "" };
            (tone, html! { span { (lacks()) " to send since " (site.exact(since)) (sent) } })
        }
        (None, None, Some(_)) => (Tone::Good, html! { "Up to date" }),
        (None, None, None) => (Tone::Busy, html! { "Nothing to send yet" }),
    }
}

/// When it is tried the next time.
fn again(site: &Site, next: Option<DateTime<Utc>>) -> String {
    match next {
        Some(at) if at > site.now => format!("next try {}", words::relative(at, site.now)),
        _ => "tried again now".to_owned(),
    }
}

/// What went wrong, and what to do; beside its name it needs no name.
fn detail<'e>(replica: &ReplicaStatus, error: &'e LastError) -> &'e str {
    let named = format!("the replica `{}`: ", replica.name);
    error.detail.strip_prefix(&named).unwrap_or(&error.detail)
}

fn facts(site: &Site, replica: &ReplicaStatus) -> Markup {
    let moment = |at: Option<DateTime<Utc>>| html! { @match at { Some(at) => (site.moment(at)), None => "Never" } };
    html! {
        dl.facts {
            div {
                dt { "Holds" }
                dd { span.ago { (words::count(replica.held as u64, "backup")) } " " span.exact { (words::bytes(replica.size)) } }
            }
            div { dt { "Last complete" } dd { (moment(replica.last_success)) } }
            div { dt { "Last read back" } dd { (moment(replica.last_verified)) } }
            @if let Some(journal) = &replica.journal { div { dt { "Any second until" } dd { (moment(journal.until)) } } }
        }
    }
}
