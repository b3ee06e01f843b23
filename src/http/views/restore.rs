//! A restore: what it would change, the question whether to, and how far it is.

use maud::{Markup, html};

use super::list::address;
use super::notice::{Tone, notice};
use super::{Site, errand, icons, point, problem, words};
use crate::backup::{DatabaseName, Moment, Subject, timestamp};
use crate::engine::status::Warning;
use crate::engine::{DatabasePreview, Preview};
use crate::http::errands::Errand;
use crate::http::problem::{DAMAGED, FOREIGN_CODE, LIVE_CORRUPT, OTHER_DATABASES, Problem};
use crate::sqlite::diff::{Difference, SchemaDifference, SchemaObject, TableDifference};

/// What the dialog is called.
pub fn title(site: &Site, subject: Subject) -> String {
    match subject {
        Subject::Backup(id) => format!("Restore {id}"),
        Subject::Point(moment) => format!("Restore {}", site.typed(moment)),
    }
}

/// Where it is asked, and answered.
fn place(site: &Site, subject: Subject) -> String {
    match subject {
        Subject::Backup(id) => site.to(&address(&id, "/restore")),
        Subject::Point(moment) => site.to(&format!("{}?at={moment}", point::PLACE)),
    }
}

/// What is known when it is asked.
#[derive(Default)]
pub struct Known<'a> {
    /// What it would change.
    pub preview: Option<&'a Preview>,
    /// What was wrong with the answer before.
    pub wrong: Option<&'a Problem>,
    /// The answer before was given with force.
    pub forced: bool,
}

/// The question.
pub fn ask(site: &Site, subject: Subject, known: &Known<'_>) -> Markup {
    let to = place(site, subject);
    let all = || known.preview.iter().flat_map(|preview| &preview.warnings);
    let force = known.forced || all().any(|it| it.code == NEEDS_FORCE) && !all().any(|it| it.code == REFUSED);
    html! {
        @match known.preview {
            Some(preview) => (previewed(site, preview)),
            None => p { a href=(to) { "Look once more at what would change" } },
        }
        form.confirm method="post" action=(to) hx-post=(to) hx-target="#dialog-outcome" hx-swap="innerHTML" hx-sync="this:drop" {
            label for="confirm" { "To replace the live data, type " (site.subject(subject)) }
            input #confirm type="text" name="confirm" autocomplete="off" autocapitalize="off" spellcheck="false" required
                aria-describedby="dialog-outcome";
            @if force { (insist("Restore it all the same, in spite of what it would be refused for")) }
            div.outcome #dialog-outcome { @if let Some(wrong) = known.wrong { (refused(site, wrong)) } }
            p.help { "The app may go on running. What is there now is kept as a backup of its own, so this can be undone." }
            div.buttons {
                a.button data-close href=(site.to("/settings/backups")) { "Cancel" }
                button.dangerous type="submit" { "Restore" }
            }
        }
    }
}

/// Why it was refused, and the box that lifts that, if one does.
pub fn refused(site: &Site, problem: &Problem) -> Markup {
    html! {
        (problem::part(site, problem))
        @if yields_to_force(problem) { (insist("Restore it all the same")) }
    }
}

/// Whether force would have lifted it.
pub fn yields_to_force(problem: &Problem) -> bool {
    [LIVE_CORRUPT, FOREIGN_CODE, OTHER_DATABASES, DAMAGED].contains(&problem.kind())
}

/// A box of the form that it is in.
pub fn insist(what: &str) -> Markup {
    html! { label.check { input type="checkbox" name="force" value="true"; (what) } }
}

/// Under way, or done; the dialog stays until it is closed.
pub fn progress(site: &Site, errand: &Errand) -> Markup {
    html! {
        // What is outside of an open dialog nobody hears of.
        div aria-live="polite" { (errand::errand(site, errand)) }
        div.buttons { a.button data-close href=(site.to("/settings/backups")) { "Close" } }
    }
}

/// The codes of warnings that foretell a refusal: force lifts the one and not the other.
const NEEDS_FORCE: &str = "needs-force";
const REFUSED: &str = "refused";

fn is_refusal(warning: &Warning) -> bool {
    [NEEDS_FORCE, REFUSED].contains(&warning.code)
}

fn previewed(site: &Site, preview: &Preview) -> Markup {
    html! {
        p.lead { "The live data goes back to " (then(site, preview)) ", " (words::relative(preview.timestamp, site.now)) "." }
        @for warning in &preview.warnings {
            div class={ "notice " (if is_refusal(warning) { Tone::Bad.class() } else { Tone::Look.class() }) } {
                @if is_refusal(warning) { (icons::danger()) } @else { (icons::attention()) }
                div.words { p { (words::prose(&warning.detail)) } }
            }
        }
        @for (name, database) in &preview.databases {
            section.difference {
                h3 { (name) }
                @match database {
                    DatabasePreview::Compared(found) => (difference(name, found)),
                    DatabasePreview::NotCompared { reason } => (notice(Tone::Look, "Not compared", &html! { p { (words::prose(reason)) } })),
                }
            }
        }
    }
}

/// To the second, where that was asked for.
fn then(site: &Site, preview: &Preview) -> Markup {
    match preview.subject {
        Subject::Backup(_) => site.exact(preview.timestamp),
        Subject::Point(_) => {
            html! { time datetime=(timestamp::text(preview.timestamp)) { (site.typed(Moment::new(preview.timestamp))) } " (" (site.zone.name()) ")" }
        }
    }
}

fn difference(name: &DatabaseName, found: &Difference) -> Markup {
    let differing: Vec<_> = found.tables.iter().filter(|(_, table)| !table.is_same()).collect();
    let same = found.tables.len() - differing.len();
    html! {
        @if differing.is_empty() && found.schema.is_empty() {
            p { "Nothing would change." }
        }
        @if !differing.is_empty() {
            div.scroll tabindex="0" role="region" aria-label={ "Rows of " (name) " that would change" } {
                table {
                    thead { tr {
                        th scope="col" { "Table" }
                        th.number scope="col" { "Vanish" }
                        th.number scope="col" { "Come back" }
                        th.number scope="col" { "Change" }
                        th.number scope="col" { "Rows" }
                    } }
                    tbody { @for (name, table) in &differing { (table_row(name, table)) } }
                }
            }
        }
        @if same > 0 && !differing.is_empty() {
            p.small { (words::count(same as u64, "other table")) " would stay as " @if same == 1 { "it is." } @else { "they are." } }
        }
        (schema(&found.schema))
    }
}

fn table_row(name: &str, table: &TableDifference) -> Markup {
    let least = if table.complete { "" } else { "at least " };
    html! {
        tr {
            th scope="row" { (words::text(name)) }
            @match &table.not_comparable {
                Some(reason) => td colspan="3" { (words::text(reason)) },
                None => {
                    td.number { (least) (words::grouped(table.only_now)) }
                    td.number { (least) (words::grouped(table.only_then)) }
                    td.number { (least) (words::grouped(table.changed)) }
                }
            }
            td.number { (words::grouped(table.now)) " → " (words::grouped(table.then)) }
        }
        @if let Some(columns) = &table.columns {
            tr.note { td colspan="5" {
                @if !columns.only_now.is_empty() { "Columns that go: " (words::text(&columns.only_now.join(", "))) ". " }
                @if !columns.only_then.is_empty() { "Columns that come back: " (words::text(&columns.only_then.join(", "))) "." }
            } }
        }
    }
}

fn schema(schema: &SchemaDifference) -> Markup {
    let line = |what: &str, objects: &[SchemaObject]| {
        html! {
            @if !objects.is_empty() {
                li { (what) ": " @for (at, it) in objects.iter().enumerate() { @if at > 0 { ", " } (words::text(&format!("{} {}", it.kind, it.name))) } }
            }
        }
    };
    html! {
        @if !schema.is_empty() {
            ul.plain.schema {
                (line("Would go", &schema.only_now))
                (line("Would come back", &schema.only_then))
                (line("Would be another", &schema.changed))
            }
        }
    }
}
