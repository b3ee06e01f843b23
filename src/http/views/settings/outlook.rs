//! What follows from a change of the settings: the next runs, and what the new retention drops and promotes.

use chrono::{DateTime, Offset, Utc};
use chrono_tz::Tz;
use maud::{Markup, html};

use super::Stand;
use crate::backup::retention::{Plan, Step};
use crate::backup::timestamp;
use crate::engine::Outlook;
use crate::http::problem::{BAD_SETTING, STALE};
use crate::http::views::{Site, problem, words};

/// Steps that are shown at first sight.
const SHOWN: usize = 10;

/// Whether it has been.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tense {
    /// It would be.
    Future,
    /// It was.
    Past,
}

/// What would follow, or why that can't be told.
pub fn outlook(site: &Site, stand: &Stand) -> Markup {
    match &stand.outlook {
        Ok(outlook) => html! { (runs(site, outlook)) (steps(&outlook.rotation, Tense::Future)) },
        Err(problem) if problem.kind() == BAD_SETTING => html! {
            p.error { "That can't be saved:" }
            ul.plain { @for error in problem.fields() { li { (words::text(&named(&error.pointer))) ": " (words::text(&error.detail)) } } }
        },
        Err(problem) if problem.kind() == STALE => html! {
            p { "The settings have changed meanwhile, so this can't be saved. " a href=(site.to(super::PLACE)) { "Load them as they are now" } "." }
        },
        Err(problem) => problem::part(site, problem),
    }
}

/// What the field is called.
fn named(pointer: &str) -> String {
    let key = pointer.trim_start_matches('/').replace('/', ".");
    match key.as_str() {
        "schedule.hour" | "schedule.minute" => "Time of day".to_owned(),
        key => super::fields::VALUES.iter().find(|(other, _)| *other == key).map_or(key, |(_, name)| name).to_owned(),
    }
}

fn runs(site: &Site, outlook: &Outlook) -> Markup {
    let zone = outlook.settings.schedule.timezone;
    let offsets: Vec<_> = outlook.runs.iter().map(|run| run.with_timezone(&zone).offset().fix()).collect();
    let first_offset = site.now.with_timezone(&zone).offset().fix();
    let before = |at: usize| if at == 0 { first_offset } else { offsets[at - 1] };
    html! {
        h4 { "Next backups" }
        @if outlook.runs.is_empty() { p { "The schedule is off: none is taken by itself." } }
        @else {
            ol.runs {
                @for (at, run) in outlook.runs.iter().enumerate() {
                    li {
                        (exact(*run, zone))
                        @if *run <= site.now { span.small { "at once: the last planned time has no backup yet" } }
                        @else { span.small { (words::relative(*run, site.now)) } }
                        @if offsets[at] != before(at) { span.small.clocks { "the clocks have changed by then" } }
                    }
                }
            }
        }
    }
}

/// With what tells which side of a change of the clocks it is on.
fn exact(run: DateTime<Utc>, zone: Tz) -> Markup {
    let local = run.with_timezone(&zone);
    let (name, offset) = (local.format("%Z").to_string(), local.format("UTC%:z").to_string());
    html! {
        time datetime=(timestamp::text(run)) {
            (local.format("%a %-d %b %Y, %H:%M")) " "
            // Some zones have a number for a name.
            @if name.starts_with(|c: char| c.is_ascii_alphabetic()) { (name) @if name != "UTC" { " (" (offset) ")" } } @else { (offset) }
        }
    }
}

/// What a rotation does or has done, step by step with the reasons.
pub fn steps(plan: &Plan, tense: Tense) -> Markup {
    let rest = &plan.steps[plan.steps.len().min(SHOWN)..];
    let drops = plan.steps.iter().filter(|step| matches!(step, Step::Drop { .. })).count() as u64;
    html! {
        h4 { @if tense == Tense::Future { "Backups" } @else { "What that did" } }
        @match (drops, tense) {
            (0, Tense::Future) => p { "Nothing would be dropped." },
            (0, Tense::Past) => p { "Nothing was dropped." },
            (drops, Tense::Future) => p.losses { (words::count(drops, "backup")) " would be dropped at once." },
            (drops, Tense::Past) => p { (words::count(drops, "backup")) @if drops == 1 { " was dropped." } @else { " were dropped." } },
        }
        @if let Some(frozen) = &plan.frozen {
            p { "Rotation stands still, and what the numbers ask for comes when it goes on: " (words::text(frozen)) "." }
        }
        @if !plan.steps.is_empty() { ul.steps { @for step in plan.steps.iter().take(SHOWN) { (self::step(step)) } } }
        @if !rest.is_empty() {
            details { summary { "And " (rest.len()) " more" } ul.steps { @for step in rest { (self::step(step)) } } }
        }
    }
}

fn step(step: &Step) -> Markup {
    html! {
        li {
            @match step {
                Step::Drop { id, why } => { (words::id(id)) span.small { (words::text(why)) } }
                Step::Promote { from, to, why } => { (words::id(from)) " → " (words::id(to)) span.small { (words::text(why)) } }
            }
        }
    }
}
