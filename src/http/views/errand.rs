//! What was begun on the page: how far it is, and what came of it.

use maud::{Markup, html};

use super::notice::{Tone, announced, notice};
use super::{Site, problem, words};
use crate::backup::{Backup, DatabaseName, Subject};
use crate::engine::{Drilled, ReplicaVerification, Restored, Verification};
use crate::http::errands::{Done, Errand, Stage, Task};

/// What can't be decrypted here was looked at no further than it lies.
const CIPHERTEXT_ONLY: &str =
    "It is encrypted, and no identity is at hand here: the ciphertext is all that was compared.";

/// As it stands; while it runs, htmx asks for its figures again by itself.
pub fn errand(site: &Site, errand: &Errand) -> Markup {
    match errand.stage() {
        Stage::Running(progress) => running(site, errand, progress.as_ref()),
        Stage::Ended(Ok(done)) => ended(site, &errand.task, &done),
        Stage::Ended(Err(problem)) => problem::part(site, &problem),
    }
}

/// What a screen reader says of it, when it has begun and when it has ended.
pub fn told(site: &Site, errand: &Errand) -> Markup {
    match errand.stage() {
        Stage::Running(_) => announced(doing(&errand.task)),
        // That says itself.
        Stage::Ended(Err(_)) => html! {},
        Stage::Ended(Ok(done)) => announced(&title(site, &errand.task, &done).1),
    }
}

/// One that nobody remembers: the program was started anew, or it was long ago.
pub fn forgotten(site: &Site) -> Markup {
    let more = html! {
        p { "The service was started anew meanwhile, or it was long ago. " a href=(site.to("/settings/backups/activity")) { "The activity" } " tells how it ended." }
    };
    notice(Tone::Look, "What was under way is not known any more", &more)
}

fn doing(task: &Task) -> &'static str {
    match task {
        Task::Create => "A backup is being taken",
        Task::Verify(_) => "The backup is being read back",
        Task::Restore(Subject::Backup(_)) => "The backup is being restored",
        Task::Restore(Subject::Point(_)) => "The data of that time is being restored",
        Task::Drill => "A restore is being rehearsed",
        Task::VerifyReplica(_) => "The replica is being read back",
    }
}

/// The id of its element.
pub fn place(errand: &Errand) -> String {
    format!("errand-{}", errand.number)
}

fn address(errand: &Errand, rest: &str) -> String {
    format!("/settings/backups/errand/{}{rest}", errand.number)
}

/// The button stays where it is while the figures come and go: a press is never lost.
fn running(site: &Site, errand: &Errand, progress: Option<&(DatabaseName, f64)>) -> Markup {
    let cancel = site.to(&address(errand, "/cancel"));
    let more = html! {
        (figures(site, errand, progress))
        form method="post" action=(cancel) hx-post=(cancel) hx-target={ "#" (place(errand)) } hx-swap="outerHTML" {
            button id={ "cancel-" (errand.number) } type="submit" { "Cancel" }
        }
    };
    html! { div.errand id=(place(errand)) { (notice(Tone::Busy, doing(&errand.task), &more)) } }
}

/// The part of it that is asked for again and again. A screen reader is spared it.
pub fn figures(site: &Site, errand: &Errand, progress: Option<&(DatabaseName, f64)>) -> Markup {
    let at = progress.map(|(name, share)| (name.as_str(), Some(*share)));
    polled(&site.to(&address(errand, "")), &bar(doing(&errand.task), at))
}

/// Figures that are asked for anew each second.
pub fn polled(address: &str, figures: &Markup) -> Markup {
    html! {
        div.figures aria-live="off" hx-get=(address) hx-trigger="every 1s" hx-swap="outerHTML" { (figures) }
    }
}

/// A bar that moves: the database it is at, and how far all of it is. Without a figure it only says that it moves.
pub fn bar(what: &str, at: Option<(&str, Option<f64>)>) -> Markup {
    let share = at.and_then(|(_, share)| share);
    html! {
        div.progress {
            progress max="1" value=[share.map(|share| format!("{share:.3}"))] aria-label=(what) {}
            p.small {
                @if let Some((name, _)) = at { (name) }
                @if let Some(share) = share { " · " (format!("{:.0} %", share * 100.0)) }
                @if at.is_none() { "Waiting for the first figure" }
            }
        }
    }
}

fn ended(site: &Site, task: &Task, done: &Done) -> Markup {
    let (tone, title) = title(site, task, done);
    let more = match done {
        Done::Created(backup) => created(backup),
        Done::Verified(found) => verified(found),
        Done::Restored(restored) => self::restored(site, restored),
        Done::Drilled(drilled) => self::drilled(drilled),
        Done::ReplicaVerified(found) => replica_verified(found),
    };
    html! { div.errand { (notice(tone, &title, &more)) } }
}

fn title(site: &Site, task: &Task, done: &Done) -> (Tone, String) {
    match (done, task) {
        (Done::Created(backup), _) if backup.is_shrunk() => {
            (Tone::Look, format!("{} was taken, and is suspiciously small", backup.id))
        }
        (Done::Created(backup), _) => (Tone::Good, format!("{} was taken", backup.id)),
        (Done::Verified(found), Task::Verify(id)) if found.ok => (Tone::Good, format!("{id} is whole")),
        (Done::Verified(found), _) if found.is_damaged() => (Tone::Bad, "The backup is damaged".to_owned()),
        (Done::Verified(_), _) => (Tone::Look, "Not all of the backup could be read".to_owned()),
        (Done::Restored(restored), _) => (Tone::Good, restored_title(site, restored.subject)),
        (Done::Drilled(drilled), _) if drilled.ok => (Tone::Good, "The rehearsal went well".to_owned()),
        (Done::Drilled(_), _) => (Tone::Bad, "The rehearsal failed".to_owned()),
        (Done::ReplicaVerified(found), task) => replica_title(task, found),
    }
}

fn restored_title(site: &Site, subject: Subject) -> String {
    match subject {
        Subject::Backup(id) => format!("{id} was restored"),
        Subject::Point(moment) => format!("The data is as it was at {}", site.typed(moment)),
    }
}

fn replica_title(task: &Task, found: &ReplicaVerification) -> (Tone, String) {
    let what = match task {
        Task::VerifyReplica(name) => format!("replica {name}"),
        _ => "the replica".to_owned(),
    };
    let damaged = found.backups.values().filter(|verdict| !verdict.ok).count();
    match damaged {
        0 if !found.ok => (Tone::Bad, format!("The journal in {what} is not whole")),
        0 => (Tone::Good, format!("All that {what} holds is whole")),
        damaged => (Tone::Bad, format!("{damaged} of the {} backups in {what} are damaged", found.backups.len())),
    }
}

fn created(backup: &Backup) -> Markup {
    let names: Vec<_> = backup.databases.keys().map(DatabaseName::as_str).collect();
    html! {
        p { (names.join(", ")) ": " (words::bytes(backup.stored_size())) ", checked and read back." }
        @for finding in &backup.findings { p { (words::text(finding)) } }
    }
}

fn verified(found: &Verification) -> Markup {
    html! {
        @if found.ok { p { "Every byte was read back and is as it was recorded." } }
        @if found.is_ciphertext_only() { p { (CIPHERTEXT_ONLY) } }
        @for (name, verdict) in &found.databases {
            @if let Some(reason) = &verdict.reason { p { (name) ": " (words::text(reason)) } }
        }
        @if found.is_damaged() { p { "Don't rely on it: take another backup, and look at the disk." } }
    }
}

fn replica_verified(found: &ReplicaVerification) -> Markup {
    let damaged = || found.backups.iter().filter(|(_, verdict)| !verdict.ok);
    html! {
        @if found.ok {
            p { (words::count(found.backups.len() as u64, "backup")) ": every byte was read back from there and is as it was recorded." }
        } @else {
            ul.plain {
                @for (id, verdict) in damaged() {
                    li { (words::id(id)) ": " (words::text(verdict.reason.as_deref().unwrap_or_default())) }
                }
                @for reason in found.journal.iter().flat_map(|journal| journal.damaged.iter().chain(&journal.missing)) { li { (words::text(reason)) } }
            }
            p { "What is whole here is sent again by itself. Look at that store: who else writes there, is it full, was something deleted?" }
        }
        @if let Some(journal) = found.journal.as_ref().filter(|journal| journal.ok) {
            p { "The journal: " (words::count(journal.packs, "pack")) " read, each file of them whole." }
        }
        @let of_journal = found.journal.iter().any(|journal| journal.ciphertext_only);
        @if of_journal || found.backups.values().any(|verdict| verdict.ciphertext_only) { p { (CIPHERTEXT_ONLY) } }
    }
}

fn restored(site: &Site, restored: &Restored) -> Markup {
    let names: Vec<_> = restored.databases.keys().map(DatabaseName::as_str).collect();
    html! {
        p { (names.join(", ")) ": as they were then. The app's writers waited for " (restored.held_millis) " ms." }
        @for note in &restored.notes { p { (words::text(note)) } }
        @if let Some(before) = &restored.pre_restore {
            p { "What was there before is kept as " (words::id(before)) "." }
            @let address = site.to(&format!("/settings/backups/backup/{before}/restore"));
            p { a.button #undo href=(address) hx-get=(address) hx-target="#dialog" { (super::icons::back()) "Undo" } }
        }
    }
}

fn drilled(drilled: &Drilled) -> Markup {
    html! {
        ul.plain {
            @for rehearsal in &drilled.backups {
                li {
                    (words::id(&rehearsal.id)) ": "
                    @if rehearsal.ok { "could be restored (" (words::seconds(rehearsal.seconds)) ")" }
                    @for (name, found) in &rehearsal.databases {
                        @if let Some(reason) = &found.reason { " " (name) ": " (words::text(reason)) }
                    }
                }
            }
            @if let Some(journal) = &drilled.journal {
                li #journal {
                    @match journal.failure() {
                        Some(reason) => (words::text(&reason)),
                        None if journal.is_compared() => { "The journal is what the databases are (" (words::seconds(journal.seconds)) ")" }
                        None if journal.written => "The journal could be rebuilt, and was compared with nothing",
                        None => "The journal isn't written now, and was compared with nothing",
                    }
                }
            }
        }
    }
}
