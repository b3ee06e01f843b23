//! All that is known of one backup.

use maud::{Markup, html};

use super::list::{actions, address, fate_text, flag_text, verified};
use super::{Shelf, Site, icons, words};
use crate::backup::{Backup, CheckKind, DatabaseCopy, Form};

/// The page of a backup.
pub fn backup(site: &Site, shelf: &Shelf, backup: &Backup) -> Markup {
    let again = site.to(&address(&backup.id, ""));
    html! {
        section.paper.alone #backup hx-get=(again) hx-trigger="backups-changed from:body" hx-select="#backup" hx-swap="outerHTML" {
            p { a.back href=(site.to("/settings/backups")) { (icons::back()) "All backups" } }
            h1 { (words::id(&backup.id)) }
            p.marks {
                span class={ "badge " (backup.tier.name()) } { (words::tier(backup.tier)) } " " (verified(backup))
                @if backup.pinned { " " span.mark { (icons::pin()) "Pinned" } }
                @for flag in &backup.flags { " " span.mark.look { (icons::attention()) (flag_text(flag)) } }
            }
            div.backup.single { (actions(site, backup)) div.outcome id={ "outcome-" (backup.id) } hx-preserve {} }
            (facts(site, shelf, backup))
            @for finding in &backup.findings { p { (words::text(finding)) } }
            @for (name, copy) in &backup.databases {
                section.difference {
                    h2 { (name) span.figure { " " (words::bytes(copy.size)) } }
                    p.small.digest { "SHA-256 " code { (copy.checksum) } }
                    p.small { (lies(copy)) }
                    p.small { "Page size " (words::grouped(copy.page_size.into())) ", journal mode " (words::text(&copy.journal_mode)) ", user_version " (copy.user_version) }
                    div.scroll tabindex="0" role="region" aria-label={ "Tables of " (name) } {
                        table {
                            thead { tr { th scope="col" { "Table" } th.number scope="col" { "Rows" } } }
                            tbody { @for (table, rows) in &copy.tables { tr { th scope="row" { (words::text(table)) } td.number { (words::grouped(*rows)) } } } }
                        }
                    }
                }
            }
        }
    }
}

fn facts(site: &Site, shelf: &Shelf, backup: &Backup) -> Markup {
    let check = match backup.checked.kind {
        CheckKind::Quick => "quick check",
        CheckKind::Integrity => "full check",
    };
    html! {
        dl.facts {
            div { dt { "Taken" } dd { (site.moment(backup.timestamp)) } }
            div { dt { "By" } dd { (words::text(&backup.created_by)) } }
            @if let Some(reason) = &backup.reason { div { dt { "For" } dd { (words::text(reason)) } } }
            @if let Some(before) = &backup.promoted_from { div { dt { "Was once" } dd { (words::id(before)) } } }
            div { dt { "Structure" } dd { span.ago { @if backup.checked.ok { "Sound" } @else { "Damaged" } } " " span.exact { (check) ", " (site.exact(backup.checked.at)) } } }
            div {
                dt { "Read back" }
                dd {
                    (site.moment(backup.verified.at))
                    @if backup.verified.ciphertext_only { span.exact { "as ciphertext only: no identity was at hand to decrypt it" } }
                }
            }
            @if let Some(fate) = shelf.fates.get(&backup.id) { div { dt { "Kept" } dd { (fate_text(fate)) } } }
        }
    }
}

/// In which form the file is.
fn lies(copy: &DatabaseCopy) -> String {
    let size = words::bytes(copy.stored_size);
    let encrypted = match copy.recipients.len() {
        0 => "encrypted".to_owned(),
        number => format!("encrypted to {}", words::count(number as u64, "recipient")),
    };
    match copy.form {
        Form::Plain => "Lies as a plain SQLite file".to_owned(),
        Form::Compressed => format!("Lies compressed, in {size}"),
        Form::Encrypted => format!("Lies {encrypted}, in {size}"),
        Form::CompressedEncrypted => format!("Lies compressed and {encrypted}, in {size}"),
    }
}
