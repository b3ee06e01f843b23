//! Deleting a backup: what is lost by it, and the question whether to.

use chrono::{Datelike, NaiveDate};
use maud::{Markup, html};

use super::list::{address, fate_text};
use super::notice::{Tone, notice};
use super::restore::insist;
use super::{Shelf, Site, problem, words};
use crate::backup::{Backup, BackupId, Tier};
use crate::http::problem::Problem;

/// What the dialog is called.
pub fn title(id: &BackupId) -> String {
    format!("Delete {id}")
}

/// The question.
pub fn ask(site: &Site, shelf: &Shelf, backup: &Backup) -> Markup {
    let to = site.to(&address(&backup.id, "/delete"));
    html! {
        p.lead { "The copies of " (site.exact(backup.timestamp)) " are removed for good. This can't be undone." }
        dl.facts {
            div { dt { "Holds" } dd { @for (name, copy) in &backup.databases { (name) " " span.figure { (words::bytes(copy.size)) } " " } } }
            @if let Some(reason) = &backup.reason { div { dt { "Taken for" } dd { (words::text(reason)) } } }
            @if let Some(fate) = shelf.fates.get(&backup.id) { div { dt { "Otherwise" } dd { (fate_text(fate)) } } }
        }
        @for loss in losses(shelf, backup) { (notice(Tone::Look, &loss, &html! {})) }
        form method="post" action=(to) hx-post=(to) hx-target="#dialog-outcome" hx-swap="innerHTML" hx-sync="this:drop" {
            @if is_last_good(shelf, backup) { (insist("It is the last good backup. Delete it all the same")) }
            @else if shelf.backups.len() == 1 { (insist("It is the last backup that is left. Delete it all the same")) }
            div.outcome #dialog-outcome {}
            div.buttons {
                a.button data-close href=(site.to("/settings/backups")) { "Keep it" }
                button.dangerous type="submit" { "Delete" }
            }
        }
    }
}

/// Why it was refused, and the box that lifts that: it was not the last good one when the question was asked.
pub fn refused(site: &Site, problem: &Problem) -> Markup {
    html! { (problem::part(site, problem)) (insist("Delete it all the same")) }
}

fn is_last_good(shelf: &Shelf, backup: &Backup) -> bool {
    backup.is_good() && shelf.backups.iter().filter(|it| it.is_good()).count() == 1
}

/// What is lost by it, besides the copies.
fn losses(shelf: &Shelf, backup: &Backup) -> Vec<String> {
    let mut losses = Vec::new();
    if backup.pinned {
        losses.push("It is pinned: someone wanted to keep it".to_owned());
    }
    if backup.tier == Tier::PreRestore {
        losses.push("It is what a restore replaced: without it that restore can't be undone".to_owned());
    }
    losses.extend(only_one_of(shelf, backup).map(|time| format!("{time} could not be restored any more")));
    losses
}

/// The longest time of which it is the only good backup.
fn only_one_of(shelf: &Shelf, backup: &Backup) -> Option<String> {
    let date = backup.local_date;
    let others = || shelf.backups.iter().filter(|it| it.is_good() && it.id != backup.id).map(|it| it.local_date);
    let month = |date: NaiveDate| (date.year(), date.month());
    if !backup.is_good() {
        None
    } else if others().all(|other| month(other) != month(date)) {
        Some(date.format("%B %Y").to_string())
    } else if others().all(|other| other.iso_week() != date.iso_week()) {
        Some(date.format("Week %V of %G").to_string())
    } else {
        others().all(|other| other != date).then(|| words::date(date))
    }
}

/// It was done.
pub fn deleted(id: &BackupId) -> Markup {
    notice(Tone::Good, &format!("{id} was deleted"), &html! {})
}
