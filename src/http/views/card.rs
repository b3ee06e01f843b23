//! The card: whether the data is safe, what there is, what comes next, what is wrong and what to do.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use sha2::{Digest, Sha256};

use super::notice::{Tone, announced, announcer};
use super::{Overview, Site, errand, icons, replicas, words};
use crate::backup::{Tier, hex, timestamp};
use crate::engine::status::{Operation, Status, Warning};
use crate::http::assets::ASSETS;

/// Between two looks. What runs is looked at more often.
const PACE: &str = "every 20s";
/// Width of the chart, in its own units.
const WIDTH: u64 = 1000;

/// The card and what is done from it.
pub fn card(site: &Site, overview: &Overview, outcome: &Markup) -> Markup {
    let create = site.to("/settings/backups/create");
    html! {
        section.card aria-label="State of the backups" {
            (now(site, overview))
            form.create method="post" action=(create) hx-post=(create) hx-target="#outcome" hx-swap="innerHTML" hx-sync="this:drop" {
                label for="reason" { "Reason " span.optional { "(optional)" } }
                input #reason type="text" name="reason" maxlength="200" autocomplete="off" placeholder="before the exams";
                button.primary type="submit" { "Create backup now" }
            }
            div.outcome #outcome { (outcome) }
        }
    }
}

/// The card alone, for a page of the app's under the same origin. It brings its styles with it.
pub fn embedded(site: &Site, overview: &Overview) -> Markup {
    html! {
        div.backups.embedded hx-disinherit="*" {
            link rel="stylesheet" href=(site.to(&ASSETS.style.path()));
            (card(site, overview, &html! {}))
            p { a href=(site.to("/settings/backups")) { "All backups and settings" } }
            (announcer())
        }
    }
}

/// The part of it that is asked for again and again.
pub fn now(site: &Site, overview: &Overview) -> Markup {
    let status = &overview.status;
    let (tone, sentence) = verdict(overview);
    let address = site.to(&format!("/settings/backups/now?seen={}", stamp(overview)));
    html! {
        div.now #now hx-get=(address) hx-trigger={ (PACE) ", backups-changed from:body" } hx-swap="outerHTML" {
            div class={ "state " (tone.class()) } {
                @if tone == Tone::Good { (icons::safe()) } @else { (tone.icon()) }
                div { h2.sentence { (sentence) } p { (because(site, status)) } }
            }
            @if let Some(operation) = &status.operation { (under_way(site, operation)) }
            (facts(site, status))
            (storage(status))
            (warnings(site, overview))
            (replicas::replicas(site, &status.replicas))
        }
    }
}

/// What changes when the list isn't what was seen any more, or the state another one.
pub fn stamp(overview: &Overview) -> String {
    let mut sum = Sha256::new();
    for it in &overview.shelf.backups {
        sum.update(format!("{} {} {} {} {:?};", it.sequence, it.id, it.pinned, it.verified.ok, it.flags));
    }
    sum.update(verdict(overview).1);
    hex(&sum.finalize()[..8])
}

/// What a screen reader says when it has changed.
pub fn told(overview: &Overview) -> Markup {
    announced(&verdict(overview).1)
}

/// How bad a warning is.
fn tone(warning: &Warning) -> Tone {
    match warning.code {
        "stale" | "backup-failed" | "restore-unfinished" | "drill-failed" | "audit-broken" | "files-missing"
        | "live-unusable" | "not-covered" | "clock-implausible" => Tone::Bad,
        // Whatever is wrong elsewhere, what is here is as it was.
        _ => Tone::Look,
    }
}

/// One sentence. Nothing is called safe that wants a look.
fn verdict(overview: &Overview) -> (Tone, String) {
    let status = &overview.status;
    let worst = status.warnings.iter().map(tone).max().unwrap_or(Tone::Good);
    let is_new = overview.shelf.backups.is_empty() && status.last_failure.is_none();
    match (worst, status.last_backup.is_some()) {
        (Tone::Good | Tone::Busy | Tone::Look, false) if is_new => (Tone::Look, "There is no backup yet".to_owned()),
        (Tone::Bad, _) | (_, false) => (Tone::Bad, "Your data is not safe".to_owned()),
        (Tone::Look, true) => (
            worst,
            match status.warnings.len() {
                1 => "One thing wants a look".to_owned(),
                more => format!("{more} things want a look"),
            },
        ),
        (Tone::Good | Tone::Busy, true) => (Tone::Good, "Your data is safe".to_owned()),
    }
}

fn because(site: &Site, status: &Status) -> Markup {
    html! {
        @match &status.last_backup {
            Some(last) => { "The last good backup was taken " (words::relative(last.timestamp, site.now)) ", checked, and read back." }
            None if status.enabled => "Take the first one now; after that the schedule does it.",
            None => "Take one now; the schedule is off.",
        }
    }
}

fn under_way(site: &Site, operation: &Operation) -> Markup {
    html! {
        div.operation {
            p.title { (icons::busy()) (doing(operation)) span.small { "begun " (words::relative(operation.started_at, site.now)) } }
            (figures(site, operation))
            (cancel(site, &operation.kind, operation.started_at, ("cancel", "#outcome")))
        }
    }
}

/// The button that stops what is under way, and no other that has begun since: its id, and where it is told what came of it.
pub fn cancel(site: &Site, operation: &str, started_at: DateTime<Utc>, (id, place): (&str, &str)) -> Markup {
    let cancel = site.to("/settings/backups/cancel");
    html! {
        form method="post" action=(cancel) hx-post=(cancel) hx-target=(place) hx-swap="innerHTML" {
            input type="hidden" name="operation" value=(operation);
            input type="hidden" name="started" value=(timestamp::text(started_at));
            button id=(id) type="submit" { "Cancel" }
        }
    }
}

fn doing(operation: &Operation) -> String {
    match operation.kind.as_str() {
        "create" => "A backup is being taken".to_owned(),
        "restore" => "A backup is being restored".to_owned(),
        "drill" => "A restore is being rehearsed".to_owned(),
        "pull" => "Backups are being brought from a replica".to_owned(),
        other => format!("Under way: {other}"),
    }
}

/// How far the operation is.
pub fn figures(site: &Site, operation: &Operation) -> Markup {
    let (kind, started) = (&operation.kind, timestamp::text(operation.started_at));
    let at = operation.database.as_ref().map(|name| (name.as_str(), operation.progress));
    let address = site.to(&format!("/settings/backups/operation?operation={kind}&started={started}"));
    errand::polled(&address, &errand::bar(&doing(operation), at))
}

fn facts(site: &Site, status: &Status) -> Markup {
    html! {
        dl.facts {
            div {
                dt { "Last backup" }
                dd { @match &status.last_backup { Some(last) => (site.moment(last.timestamp)), None => "None yet" } }
            }
            div {
                dt { "Next backup" }
                dd { @match status.schedule.next_run { Some(at) => (site.moment(at)), None => "The schedule is off" } }
            }
            div {
                dt { "Last rehearsal" }
                dd {
                    @match &status.last_drill {
                        Some(last) => {
                            (site.moment(last.at))
                            @if last.ok { span.exact { "went well" } } @else { span.exact { "failed" } }
                        }
                        None => "None yet",
                    }
                }
            }
        }
    }
}

/// What the tiers hold, as a bar and in figures.
fn storage(status: &Status) -> Markup {
    let total = status.storage.total;
    let mut tiers = Vec::new();
    let mut left = 0;
    for tier in Tier::ALL {
        let bytes = *status.storage.by_type.of(tier);
        let width = if total == 0 { 0 } else { (u128::from(bytes) * u128::from(WIDTH) / u128::from(total)) as u64 };
        tiers.push((tier, *status.counts.of(tier), bytes, left, width));
        left += width;
    }
    html! {
        div.storage {
            h3 { "Storage " span.total { (words::bytes(total)) } }
            svg.bar viewBox={ "0 0 " (WIDTH) " 14" } width="100%" height="14" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
                rect.rest x="0" y="0" width=(WIDTH) height="14" {}
                @for (tier, _, _, x, width) in &tiers {
                    @if *width > 0 { rect class=(tier.name()) x=(x) y="0" width=(width) height="14" {} }
                }
            }
            ul.legend {
                @for (tier, count, bytes, ..) in &tiers {
                    li {
                        svg.swatch viewBox="0 0 10 10" width="10" height="10" aria-hidden="true" focusable="false" {
                            rect class=(tier.name()) width="10" height="10" rx="3" {}
                        }
                        span.tier { (words::tier(*tier)) } " "
                        span.figure { (count) " · " (words::bytes(*bytes)) }
                    }
                }
            }
        }
    }
}

fn warnings(site: &Site, overview: &Overview) -> Markup {
    let mut warnings: Vec<&Warning> = overview.status.warnings.iter().collect();
    warnings.sort_by_key(|warning| std::cmp::Reverse(tone(warning)));
    html! {
        @if !warnings.is_empty() {
            ul.warnings aria-label="What wants a look" {
                @for warning in warnings {
                    @let tone = tone(warning);
                    li class=(tone.class()) {
                        (tone.icon())
                        div { p { (words::prose(&warning.detail)) } (fix(site, overview, warning)) }
                    }
                }
            }
        }
    }
}

/// What the page itself can do about it.
fn fix(site: &Site, overview: &Overview, warning: &Warning) -> Markup {
    let newest = overview.shelf.backups.iter().find(|backup| backup.is_measure());
    // Rotation may stand still for another reason, which has no button.
    let shrunk = newest.filter(|it| it.is_shrunk() && warning.detail.contains(&it.id.to_string()));
    match (warning.code, shrunk) {
        ("drill-failed", _) => {
            let drill = site.to("/settings/backups/drill");
            html! {
                form method="post" action=(drill) hx-post=(drill) hx-target="#outcome" hx-swap="innerHTML" {
                    button #drill-again type="submit" { "Rehearse again" }
                }
            }
        }
        ("rotation-frozen", Some(backup)) => {
            let ask = site.to(&format!("/settings/backups/acknowledge?id={}", backup.id));
            html! { p { a.button #acknowledge href=(ask) { "The live data is right…" } } }
        }
        ("disabled", _) => {
            html! { p { a.button #open-settings href=(site.to("/settings/backups/settings")) { "Open the settings" } } }
        }
        _ => html! {},
    }
}
