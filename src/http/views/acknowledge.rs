//! A backup that is suspiciously small: what goes once it is said to be right, and the question whether it is.

use maud::{Markup, html};

use super::notice::{Tone, notice};
use super::settings::outlook::{Tense, steps};
use super::{Site, words};
use crate::backup::Backup;
use crate::backup::retention::Plan;

/// What the dialog is called.
pub const TITLE: &str = "Is the live data right?";

/// The question.
pub fn ask(site: &Site, backup: &Backup, plan: &Plan) -> Markup {
    let to = site.to("/settings/backups/acknowledge");
    let findings = html! {
        @for finding in &backup.findings { p { (words::text(finding)) } }
        p { "Look into the app first, whether everything is there. If it isn't, restore an older backup: none has been dropped since." }
    };
    html! {
        p.lead { (words::id(&backup.id)) " is much smaller than the backup before it, and rotation stands still because of that." }
        (notice(Tone::Look, "What was noticed", &findings))
        div.outlook { (steps(plan, Tense::Future)) }
        form method="post" action=(to) hx-post=(to) hx-target="#dialog-outcome" hx-swap="innerHTML" hx-sync="this:drop" {
            input type="hidden" name="id" value=(backup.id);
            div.outcome #dialog-outcome {}
            div.buttons {
                a.button data-close href=(site.to("/settings/backups")) { "Not yet" }
                button.dangerous type="submit" { "It is right: rotation goes on" }
            }
        }
    }
}
