//! One line of the activity.

use maud::{Markup, html};
use serde_json::Value;

use super::{Told, backup};
use crate::audit::{Entry, Kind, Line};
use crate::http::views::notice::Tone;
use crate::http::views::{Site, words};

/// Parts of a list that are shown.
const SHOWN: usize = 50;

/// Operations, and what people call them.
pub const OPERATIONS: &[(&str, &str)] = &[
    ("create", "Backup"),
    ("rotate", "Rotation"),
    ("replicate", "Replication"),
    ("restore", "Restore"),
    ("pull", "Return from a replica"),
    ("preview", "Preview of a restore"),
    ("drill", "Rehearsal"),
    ("download", "Download"),
    ("pin", "Pin"),
    ("unpin", "Unpin"),
    ("delete", "Deletion"),
    ("acknowledge", "Acknowledgement"),
    ("settings", "Settings"),
    ("cancel", "Cancellation"),
    ("recovery", "Recovery"),
    ("rebuild", "Rebuild of the catalog"),
    ("notify-test", "Test of notices"),
    ("sign-in", "Sign-in"),
    ("sign-in-code", "One-time code"),
    ("token", "Token"),
    ("request", "Request"),
    ("audit", "Audit log"),
];

/// What was done, how it ended, who did it, when, and the rest on demand.
pub fn line(site: &Site, told: &Told, line: &Line) -> Markup {
    let entry = &line.entry;
    let (tone, word) = end(entry);
    html! {
        li.line {
            span class={ "mark " (tone.class()) } { (tone.icon()) (word) }
            div.what {
                h3 {
                    (operation(&entry.operation))
                    @if let Some(id) = &entry.id { " " (backup(site, told, id)) }
                    @if let Some(point) = entry.point { " " (site.subject(point.into())) }
                    @if let Some(Value::String(name)) = entry.details.get("replica") { " " (words::text(name)) }
                }
                @if let Some(reason) = &entry.reason { p { (words::text(reason)) } }
                p.small { (by(&entry.by)) ", " (words::relative(line.at, site.now)) " · " (site.exact(line.at)) }
                details {
                    summary { "Details" span.hidden { " of line " (line.seq) } }
                    (details(site, line))
                }
            }
        }
    }
}

/// How it is meant, and the word for it.
fn end(entry: &Entry) -> (Tone, &'static str) {
    match (entry.kind, entry.ok, entry.code.as_deref()) {
        (Kind::Intent, ..) => (Tone::Busy, "Begun"),
        (Kind::Refused, ..) => (Tone::Look, "Refused"),
        (Kind::Recovered, ..) => (Tone::Look, "Mended"),
        (Kind::Outcome, Some(false), Some("cancelled")) => (Tone::Look, "Cancelled"),
        (Kind::Outcome, Some(false), Some("interrupted")) => (Tone::Bad, "Cut short"),
        (Kind::Outcome, Some(false), _) => (Tone::Bad, "Failed"),
        (Kind::Outcome, Some(true) | None, _) => (Tone::Good, "Done"),
    }
}

fn operation(name: &str) -> Markup {
    match OPERATIONS.iter().find(|(other, _)| *other == name) {
        Some((_, label)) => html! { (label) },
        None => words::text(name),
    }
}

fn by(by: &str) -> Markup {
    html! {
        @match by.strip_prefix("user:") {
            Some(subject) => { "User " (words::text(subject)) }
            None => @match by {
                "scheduler" => "The schedule",
                "cli" => "The command line",
                "nobody" => "Nobody who is known",
                other => (words::text(other)),
            },
        }
    }
}

fn details(site: &Site, line: &Line) -> Markup {
    let entry = &line.entry;
    let at = line.at.with_timezone(&site.zone).format("%-d %b %Y, %H:%M:%S %:z").to_string();
    html! {
        dl.details {
            div { dt { "Line" } dd { (words::grouped(line.seq)) } }
            div { dt { "At" } dd { (at) } }
            div { dt { "By" } dd { (words::text(&entry.by)) } }
            div { dt { "From" } dd { (words::text(&entry.from)) } }
            @if let Some(code) = &entry.code { div { dt { "Code" } dd { code { (words::text(code)) } } } }
            @for (name, value) in &entry.details { div { dt { (words::text(name)) } dd { (shown(value)) } } }
        }
    }
}

/// A list as one, everything else as text.
fn shown(value: &Value) -> Markup {
    let Value::Array(parts) = value else { return words::text(&text(value)) };
    html! {
        @if parts.is_empty() { "none" }
        @else {
            ul.plain {
                @for part in parts.iter().take(SHOWN) { li { (words::text(&text(part))) } }
                @if parts.len() > SHOWN { li { "and " (parts.len() - SHOWN) " more" } }
            }
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) if fields.is_empty() => "nothing".to_owned(),
        Value::Object(fields) => fields.iter().map(|(name, value)| field(name, value)).collect::<Vec<_>>().join("; "),
    }
}

fn field(name: &str, value: &Value) -> String {
    match value {
        Value::Object(_) => format!("{name} ({})", text(value)),
        value => format!("{name}: {}", text(value)),
    }
}
