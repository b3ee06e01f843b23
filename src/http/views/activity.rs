//! The activity: who did what when, how it ended, and how rehearsals went.

mod line;

use std::collections::BTreeSet;

use chrono_tz::Tz;
use maud::{Markup, html};

use super::{Site, icons, list, words};
use crate::backup::BackupId;
use crate::config::Config;
use crate::engine::{AuditPage, LastDrill};
use crate::http::problem::Problem;
use crate::http::wanted::Wanted;

/// Where it is.
const PLACE: &str = "/settings/backups/activity";
/// The filter's id, by which htmx says who asks.
pub const FILTER: &str = "activity-filter";

/// What is told.
pub struct Told {
    /// Lines of the audit log.
    pub lines: AuditPage,
    /// The backups that there are.
    pub ids: BTreeSet<BackupId>,
    /// Where the schedule lives.
    pub zone: Tz,
    /// The last rehearsal.
    pub last_drill: Option<LastDrill>,
    /// What was asked for.
    pub wanted: Wanted,
    /// What is wrong with that.
    pub wrong: Option<Problem>,
}

/// The log with its filter.
pub fn activity(site: &Site, told: &Told) -> Markup {
    let lines = &told.lines.lines;
    let again = site.to(&format!("{PLACE}{}", told.wanted.query(told.wanted.before.parse().ok())));
    html! {
        section.activity.paper.alone #activity aria-labelledby="activity-title" hx-get=(again)
            hx-trigger="backups-changed from:body" hx-target="this" hx-swap="outerHTML" {
            h2 #activity-title tabindex="-1" { "What was done" }
            (filter(site, told))
            @if told.wrong.is_none() {
                @if lines.is_empty() { p.empty { "There is nothing of that kind." } }
                @else { ol.lines { @for line in lines { (line::line(site, told, line)) } } }
                (pager(site, told))
            }
        }
    }
}

fn filter(site: &Site, told: &Told) -> Markup {
    let (wanted, to) = (&told.wanted, site.to(PLACE));
    let is_known = wanted.operation.is_empty() || line::OPERATIONS.iter().any(|(name, _)| *name == wanted.operation);
    let option = |value: &str, label: &str, chosen: &str| {
        html! { option value=(value) selected[value == chosen] { (words::visible(label)) } }
    };
    let wrong = told.wrong.as_ref().and_then(|problem| problem.fields().first());
    html! {
        form.sieve id=(FILTER) method="get" action=(to) hx-get=(to) hx-trigger="submit, change" hx-target="#activity" hx-swap="outerHTML" {
            div.field {
                label for="operation" { "What" }
                select #operation name="operation" {
                    (option("", "Everything", &wanted.operation))
                    @for (name, label) in line::OPERATIONS { (option(name, label, &wanted.operation)) }
                    @if !is_known { (option(&wanted.operation, &wanted.operation, &wanted.operation)) }
                }
            }
            div.field {
                label for="kind" { "How it went" }
                select #kind name="kind" {
                    (option("", "All ends", &wanted.kind))
                    (option("outcome", "Done or failed", &wanted.kind))
                    (option("failed", "Failed", &wanted.kind))
                    (option("refused", "Refused", &wanted.kind))
                    (option("intent", "Each beginning", &wanted.kind))
                }
            }
            div.field {
                label for="id" { "Backup" }
                input #id type="text" name="id" value=(wanted.id) autocomplete="off" autocapitalize="off" spellcheck="false"
                    placeholder="daily-2026-01-08" aria-invalid=[wrong.map(|_| "true")] aria-describedby=[wrong.map(|_| "id-error")] autofocus[wrong.is_some()];
                @if let Some(wrong) = wrong { p.error #id-error { (words::text(&wrong.detail)) } }
            }
            button #show type="submit" { "Show" }
        }
    }
}

fn pager(site: &Site, told: &Told) -> Markup {
    let link = |before: Option<u64>, label: &str, id: &str| {
        let to = site.to(&format!("{PLACE}{}", told.wanted.query(before)));
        html! { a.button id=(id) href={ (to) "#activity" } hx-get=(to) hx-target="#activity" hx-swap="outerHTML show:top" { (label) } }
    };
    html! {
        @if !told.wanted.before.is_empty() || told.lines.next.is_some() {
            nav.pager aria-label="Pages of the activity" {
                @if !told.wanted.before.is_empty() { (link(None, "Newest", "newest")) }
                @if let Some(next) = told.lines.next { (link(Some(next), "Older", "older")) }
            }
        }
    }
}

/// Rehearsals: the last one, and a new one.
pub fn rehearsals(site: &Site, config: &Config, told: &Told) -> Markup {
    let drill = site.to("/settings/backups/drill");
    let past = site.to(&format!("{PLACE}?operation=drill"));
    html! {
        section.rehearsals.paper.alone aria-labelledby="rehearsals-title" {
            h2 #rehearsals-title { "Rehearsals" }
            p.help {
                "A rehearsal restores the newest backup of each type into a private place, checks it there, and throws the copy away. Where a journal is kept, its newest instant is rebuilt so too and compared with the live data. By the schedule: "
                (config.texts.get("drill.schedule").map_or("", String::as_str)) "."
            }
            (rehearsal(site, told, false))
            form.buttons method="post" action=(drill) hx-post=(drill) hx-target="#outcome" hx-disabled-elt="find button" {
                a.button #past href={ (past) "#activity" } hx-get=(past) hx-target="#activity" hx-swap="outerHTML" { "Past rehearsals" }
                button.primary #rehearse type="submit" { "Rehearse now" }
            }
            div.outcome #outcome {}
        }
    }
}

/// What is told of the last one, in an answer to htmx.
pub fn rehearsal_in_place(site: &Site, told: &Told) -> Markup {
    rehearsal(site, told, true)
}

fn rehearsal(site: &Site, told: &Told, in_place: bool) -> Markup {
    html! {
        div #last-rehearsal hx-swap-oob=[in_place.then_some("outerHTML")] {
            @match &told.last_drill {
                None => p { "There was none yet." },
                Some(last) => {
                    dl.facts {
                        div {
                            dt { "Last" }
                            dd {
                                @if last.ok { span.mark.good { (icons::tick()) "Went well" } } @else { span.mark.bad { (icons::danger()) "Failed" } }
                                " " (site.moment(last.at))
                            }
                        }
                        div { dt { "Took" } dd { (words::seconds(last.seconds)) } }
                        @if let Some(right) = last.journal { div { dt { "Journal" } dd { @if right { "Right" } @else { "Wrong" } } } }
                        @if let Some(id) = &last.id { div { dt { @if last.ok { "Newest backup" } @else { "Backup" } } dd { (backup(site, told, id)) } } }
                    }
                    @if !last.ok { p { (words::text(&last.reason)) } }
                }
            }
        }
    }
}

/// A backup, with the way to it if it is still there.
fn backup(site: &Site, told: &Told, id: &BackupId) -> Markup {
    html! {
        @if told.ids.contains(id) { a href=(site.to(&list::address(id, ""))) { (words::id(id)) } } @else { (words::id(id)) }
    }
}
