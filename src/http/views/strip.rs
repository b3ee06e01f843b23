//! The calendar: which months, weeks and days of the last year can be restored, and where there are gaps.

use chrono::Datelike;
use maud::{Markup, html};

use super::{Shelf, Site, words};
use crate::backup::calendar::{Calendar, Period, State, calendar};

/// Three rows of cells. Each that can be restored leads to its backup. `again` in place of what the page shows.
pub fn strip(site: &Site, shelf: &Shelf, again: bool) -> Markup {
    let today = shelf.settings.schedule.local_date(site.now);
    let Calendar { months, weeks, days } = calendar(&shelf.backups, &shelf.settings.retention, today);
    let day = |period: &Period| period.first.format("%a %-d").to_string();
    let week = |period: &Period| format!("W{:02}", period.first.iso_week().week());
    let first = months.first().map(|period| period.first);
    let month = |period: &Period| {
        let names_year = period.first.month() == 1 || Some(period.first) == first;
        period.first.format(if names_year { "%b ’%y" } else { "%b" }).to_string()
    };
    html! {
        section.calendar #calendar aria-labelledby="calendar-title" hx-swap-oob=[again.then_some("outerHTML")] {
            h2 #calendar-title { "What can be restored" }
            (row(site, "Months", &months, month))
            (row(site, "Weeks", &weeks, week))
            (row(site, "Days", &days, day))
            ul.key {
                li { span.cell.kept aria-hidden="true" {} "can be restored" }
                li { span.cell.gap aria-hidden="true" {} "a gap" }
                li { span.cell.none aria-hidden="true" {} "not kept, or before the first backup" }
            }
        }
    }
}

fn row(site: &Site, name: &str, periods: &[Period], label: impl Fn(&Period) -> String) -> Markup {
    html! {
        div.row {
            h3 { (name) }
            ol { @for period in periods { li { (cell(site, name, period, &label(period))) } } }
        }
    }
}

fn cell(site: &Site, row: &str, period: &Period, label: &str) -> Markup {
    let span = if period.first == period.last {
        words::date(period.first)
    } else {
        format!("{} to {}", words::date(period.first), words::date(period.last))
    };
    let empty = |class: &str, what: &str| {
        html! { span class={ "cell " (class) } title={ (span) ": " (what) } { span.label { (label) } span.hidden { ": " (what) } } }
    };
    match period.state {
        State::Kept { id, count } => html! {
            a.cell.kept id={ (row) "-" (period.first) } href=(site.to(&format!("/settings/backups/backup/{id}"))) title={ (span) ": " (words::count(count as u64, "backup")) } {
                span.label { (label) } span.hidden { ": " (id) }
            }
        },
        State::Gap => empty("gap", "a gap, no good backup"),
        State::Open => empty("none", "none yet"),
        State::NotKept => empty("none", "not kept"),
        State::Before => empty("none", "before the first backup"),
    }
}
