//! Any second: the time that can be restored, where it has gaps, and the choice of an instant.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use maud::{Markup, html};

use super::{Site, words};
use crate::backup::{Moment, timestamp};
use crate::engine::{Recovery, Window};
use crate::journal::timeline::Gap;

/// Where an instant is looked at, and put back.
pub const PLACE: &str = "/settings/backups/point";
/// Units of the track.
const WIDTH: f64 = 1000.0;
/// What a gap takes at least: one that can't be seen would be none.
const LEAST: f64 = 3.0;
/// Gaps that are listed; the others are drawn.
const LISTED: usize = 5;

/// The section.
pub fn point(site: &Site, recovery: &Recovery) -> Markup {
    html! {
        section.point.paper.alone #point aria-labelledby="point-title" {
            h2 #point-title { "Any second" }
            @match Window::common(recovery) {
                Some(window) => (choice(site, &window)),
                None => p.empty { "The first point comes within a minute." },
            }
        }
    }
}

fn choice(site: &Site, window: &Window) -> Markup {
    // Whole seconds that lie within it.
    let last = window.to.trunc_subsecs(0);
    let first = whole_second(window.from).min(last);
    let zone = site.zone.name();
    let local = last.with_timezone(&site.zone).format("%Y-%m-%dT%H:%M:%S").to_string();
    let to = site.to(PLACE);
    html! {
        p {
            "The data can go back to any second from " (second(site, first)) " to " (second(site, last)) "."
        }
        (gaps(site, &window.gaps))
        form.instant method="get" action=(to) data-zone=(zone) data-first=(first.timestamp_millis()) {
            div.track {
                (track(window))
                // Shown by the script that makes it move the field.
                input #point-slider type="range" min="0" max=((last - first).num_seconds()) step="1" value=((last - first).num_seconds())
                    aria-label="Time to go back to" hidden;
            }
            div.field {
                label for="point-at" { "Time (" (zone) ")" }
                input #point-at type="datetime-local" name="at" step="1" value=(local) required;
                input #point-offset type="hidden" name="offset";
            }
            button #point-look type="submit" hx-get=(to) hx-include="closest form" hx-target="#dialog" { "Restore…" span.hidden { " that time" } }
        }
    }
}

fn whole_second(at: DateTime<Utc>) -> DateTime<Utc> {
    let second = at.trunc_subsecs(0);
    if second < at { second + TimeDelta::seconds(1) } else { second }
}

fn second(site: &Site, at: DateTime<Utc>) -> Markup {
    html! { time datetime=(timestamp::text(at)) { (site.typed(Moment::new(at))) } }
}

/// Why an instant can't be restored, in times as they are typed here.
pub fn unreachable(site: &Site, window: &Window, moment: Moment) -> Option<String> {
    let typed = |at| site.typed(Moment::new(at));
    let (at, wanted) = (moment.at(), site.typed(moment));
    if at < window.from || window.to < at {
        let (from, to) = (typed(window.from), typed(window.to));
        return Some(format!("{wanted} can't be restored: the journal reaches from {from} to {to}"));
    }
    let gap = window.gaps.iter().find(|gap| gap.holds(at))?;
    let (before, after) = (typed(gap.from), typed(gap.to));
    let why = Gap::why(gap.wrong, before, after);
    Some(format!("{wanted} can't be restored: {why}. Take one of these two, or another time"))
}

/// The newest first.
fn gaps(site: &Site, gaps: &[Gap]) -> Markup {
    let hidden = gaps.len().saturating_sub(LISTED);
    html! {
        @if !gaps.is_empty() {
            ul.plain.gaps {
                @for gap in gaps.iter().rev().take(LISTED) {
                    li { @if gap.wrong { "What was recorded was found wrong between " } @else { "Nothing was recorded between " } (second(site, gap.from.trunc_subsecs(0))) " and " (second(site, whole_second(gap.to))) "." }
                }
                @if hidden > 0 { li { (words::count(hidden as u64, "earlier gap")) "." } }
            }
        }
    }
}

/// The window as a line, with its gaps.
fn track(window: &Window) -> Markup {
    let whole = (window.to - window.from).num_milliseconds().max(1) as f64;
    let at = |at: DateTime<Utc>| (at - window.from).num_milliseconds() as f64 / whole * WIDTH;
    html! {
        svg.window viewBox={ "0 0 " (WIDTH) " 10" } preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            rect.kept x="0" y="0" width=(WIDTH) height="10" {}
            @for gap in &window.gaps {
                @let width = (at(gap.to) - at(gap.from)).max(LEAST);
                rect.gap x=(format!("{:.1}", at(gap.from).min(WIDTH - width))) y="0" width=(format!("{width:.1}")) height="10" {}
            }
        }
    }
}
