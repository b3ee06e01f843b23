//! The list: each backup with what it is, why it is kept, and what can be done with it.

use maud::{Markup, html};

use super::{Shelf, Site, icons, words};
use crate::backup::retention::{Event, Fate};
use crate::backup::{Backup, BackupId, Flag, Tier};

/// Backups on one page.
pub const PAGE: usize = 50;

/// Which of them are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chosen {
    /// Only this tier.
    pub tier: Option<Tier>,
    /// The page, from 0.
    pub page: usize,
}

impl Chosen {
    fn query(self) -> String {
        let tier = self.tier.map(|tier| format!("type={tier}"));
        let page = (self.page > 0).then(|| format!("page={}", self.page));
        let parts: Vec<String> = tier.into_iter().chain(page).collect();
        if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
    }
}

/// The list with its filter.
pub fn list(site: &Site, shelf: &Shelf, chosen: Chosen) -> Markup {
    let of_tier: Vec<&Backup> =
        shelf.backups.iter().filter(|it| chosen.tier.is_none_or(|tier| it.tier == tier)).collect();
    let pages = of_tier.len().div_ceil(PAGE).max(1);
    let chosen = Chosen { page: chosen.page.min(pages - 1), ..chosen };
    let shown = of_tier.iter().skip(chosen.page * PAGE).take(PAGE);
    let again = site.to(&format!("/settings/backups/list{}", chosen.query()));
    html! {
        section.list #list aria-labelledby="list-title" hx-get=(again) hx-trigger="backups-changed from:body" hx-swap="outerHTML" {
            h2 #list-title tabindex="-1" { "Backups" }
            (filter(site, shelf, chosen))
            @if of_tier.is_empty() {
                p.empty { @if chosen.tier.is_some() { "There is none of this type." } @else { "There is no backup yet." } }
            } @else {
                ol.backups-list { @for backup in shown { (entry(site, shelf, backup)) } }
            }
            @if pages > 1 { (pager(site, chosen, pages)) }
        }
    }
}

fn filter(site: &Site, shelf: &Shelf, chosen: Chosen) -> Markup {
    let count = |tier: Option<Tier>| shelf.backups.iter().filter(|it| tier.is_none_or(|tier| it.tier == tier)).count();
    let all = std::iter::once(None).chain(Tier::ALL.into_iter().map(Some));
    html! {
        nav.filter aria-label="Filter by type" {
            @for tier in all {
                @let query = Chosen { tier, page: 0 }.query();
                a href={ (site.to("/settings/backups")) (query) "#list" } hx-get=(site.to(&format!("/settings/backups/list{query}")))
                    hx-target="#list" hx-swap="outerHTML" id={ "filter-" (tier.map_or("all", Tier::name)) }
                    aria-current=[(tier == chosen.tier).then_some("true")] {
                    (tier.map_or("All", words::tier)) " " span.count { (count(tier)) }
                }
            }
        }
    }
}

fn pager(site: &Site, chosen: Chosen, pages: usize) -> Markup {
    let link = |page: usize, label: &str, id: &str| {
        let query = Chosen { page, ..chosen }.query();
        html! {
            a.button id=(id) href={ (site.to("/settings/backups")) (query) "#list" }
                hx-get=(site.to(&format!("/settings/backups/list{query}"))) hx-target="#list" hx-swap="outerHTML show:top" { (label) }
        }
    };
    html! {
        nav.pager aria-label="Pages of the list" {
            @if chosen.page > 0 { (link(chosen.page - 1, "Newer", "newer")) }
            span { "Page " (chosen.page + 1) " of " (pages) }
            @if chosen.page + 1 < pages { (link(chosen.page + 1, "Older", "older")) }
        }
    }
}

fn entry(site: &Site, shelf: &Shelf, backup: &Backup) -> Markup {
    html! {
        li.backup {
            (what(site, shelf, backup))
            (actions(site, backup))
            div.outcome id={ "outcome-" (backup.id) } hx-preserve {}
        }
    }
}

fn what(site: &Site, shelf: &Shelf, backup: &Backup) -> Markup {
    html! {
        div.what {
            h3 {
                span class={ "badge " (backup.tier.name()) } { (words::tier(backup.tier)) } " "
                a id={ "at-" (backup.id) } href=(site.to(&address(&backup.id, ""))) { (site.exact(backup.timestamp)) }
            }
            p.marks {
                (verified(backup)) " "
                span { (words::bytes(backup.stored_size())) }
                @if backup.pinned { " " span.mark { (icons::pin()) "Pinned" } }
                @for flag in &backup.flags { " " span.mark.look { (icons::attention()) (flag_text(flag)) } }
            }
            @if let Some(reason) = &backup.reason { p.reason { (words::text(reason)) } }
            @if let Some(fate) = shelf.fates.get(&backup.id) { p.fate { (fate_text(fate)) } }
        }
    }
}

/// Whether its bytes and its structure were right when they were last looked at.
pub fn verified(backup: &Backup) -> Markup {
    html! {
        @if backup.verified.ok && backup.checked.ok {
            span.mark.good { (icons::tick()) @if backup.verified.ciphertext_only { "Verified as ciphertext" } @else { "Verified" } }
        } @else {
            span.mark.bad { (icons::danger()) "Damaged" }
        }
    }
}

/// A flag in words.
pub fn flag_text(flag: &Flag) -> Markup {
    html! {
        @match flag {
            Flag::Shrunk => "Suspiciously small",
            Flag::NotCheckable => "Partly unchecked",
            Flag::Recovered => "Recovered entry",
            Flag::Other(text) => (words::text(text)),
        }
    }
}

/// Why it is kept, and what becomes of it.
pub fn fate_text(fate: &Fate) -> Markup {
    html! {
        "Kept as " (words::text(&fate.kept))
        @for event in &fate.then {
            @match event {
                Event::Becomes { id, on } => { "; becomes " (id.tier().name()) " on " (words::date(*on)) }
                Event::Goes { on } => { "; goes on " (words::date(*on)) }
                Event::GoesAfter { newer } => { "; goes after " (newer) " more" }
            }
        }
    }
}

/// An address of this backup.
pub fn address(id: &BackupId, rest: &str) -> String {
    format!("/settings/backups/backup/{id}{rest}")
}

/// What can be done with it. The outcome is told in the place that is named after it.
pub fn actions(site: &Site, backup: &Backup) -> Markup {
    let id = &backup.id;
    let to = |rest: &str| site.to(&address(id, rest));
    html! {
           form.actions method="post" action=(to("/verify")) hx-post=(to("/verify")) hx-target={ "#outcome-" (id) } {
               a.button id={ "restore-" (id) } href=(to("/restore")) hx-get=(to("/restore")) hx-target="#dialog"
    { "Restore…" span.hidden { " " (id) } }
               details.menu {
                   summary id={ "download-" (id) } { (icons::download()) span.hidden { "Download " (id) } }
                   ul {
                       @for (name, copy) in &backup.databases {
                           li { a id={ "file-" (id) "-" (name) } href=(site.to(&format!("/api/backup/download/{id}?database={name}"))) download { (name) ".db" span.figure { (words::bytes(copy.size)) } } }
                       }
                       li { a id={ "tar-" (id) } href=(site.to(&format!("/api/backup/download/{id}"))) download { "All in a tar" span.figure { (words::bytes(backup.stored_size())) } } }
                   }
               }
               details.menu {
                   summary id={ "more-" (id) } { (icons::more()) span.hidden { "More for " (id) } }
                   ul {
                       li { button type="submit" id={ "verify-" (id) } { "Verify" } }
                       li {
                           button type="submit" id={ "pin-" (id) } formaction=(to("/pin")) name="pinned" value=(!backup.pinned) {
                               @if backup.pinned { "Unpin" } @else { "Pin" }
                           }
                       }
                       li { a.bad id={ "delete-" (id) } href=(to("/delete")) hx-get=(to("/delete")) hx-target="#dialog" { "Delete…" } }
                   }
               }
           }
       }
}
