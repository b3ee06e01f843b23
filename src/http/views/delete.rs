//! Deleting a backup: what is lost by it, and the question whether to.

use maud::{Markup, html};

use super::list::{address, fate_text};
use super::notice::{Tone, notice};
use super::{Overview, Site, words};
use crate::backup::calendar::{Period, State, calendar};
use crate::backup::{Backup, BackupId};

/// What the dialog is called.
pub fn title(id: &BackupId) -> String {
    format!("Delete {id}")
}

/// The question.
pub fn ask(site: &Site, overview: &Overview, backup: &Backup) -> Markup {
    let to = site.to(&address(&backup.id, "/delete"));
    let lost = lost(site, overview, backup);
    let is_last_good = backup.is_good() && overview.backups.iter().filter(|it| it.is_good()).count() == 1;
    html! {
        p.lead { "The copies of " (site.exact(backup.timestamp)) " are removed for good. This can't be undone." }
        dl.facts {
            div { dt { "Holds" } dd { @for (name, copy) in &backup.databases { (name) " " span.figure { (words::bytes(copy.size)) } " " } } }
            @if let Some(reason) = &backup.reason { div { dt { "Taken for" } dd { (words::text(reason)) } } }
            @if let Some(fate) = overview.fates.get(&backup.id) { div { dt { "Otherwise" } dd { (fate_text(fate)) } } }
        }
        @if !lost.is_empty() {
            (notice(Tone::Look, "These could not be restored any more", &html! { p { (lost.join(", ")) } }))
        }
        form method="post" action=(to) hx-post=(to) hx-target="#dialog-outcome" hx-sync="this:drop" {
            @if is_last_good || overview.backups.len() == 1 {
                label.check {
                    input type="checkbox" name="force" value="true";
                    "It is the last good backup. Delete it all the same"
                }
            }
            div.outcome #dialog-outcome {}
            div.buttons {
                a.button data-close href=(site.to("/settings/backups")) { "Keep it" }
                button.dangerous type="submit" { "Delete" }
            }
        }
    }
}

/// Days, weeks and months of which it is the only good backup.
fn lost(site: &Site, overview: &Overview, backup: &Backup) -> Vec<String> {
    let today = overview.settings.schedule.local_date(site.now);
    let shown = calendar(&overview.backups, &overview.settings.retention, today);
    let alone = |period: &&Period| period.state == State::Kept { id: backup.id, count: 1 };
    let months = shown.months.iter().filter(alone).map(|period| period.first.format("%B %Y").to_string());
    let weeks = shown.weeks.iter().filter(alone).map(|period| format!("the week of {}", words::date(period.first)));
    let days = shown.days.iter().filter(alone).map(|period| words::date(period.first));
    months.chain(weeks).chain(days).collect()
}

/// It was done.
pub fn deleted(id: &BackupId) -> Markup {
    notice(Tone::Good, &format!("{id} was deleted"), &html! {})
}
