//! What only the configuration sets: read, and not changed here.

use maud::{Markup, html};

use super::fields::from;
use crate::config::{Config, Origin};
use crate::engine::status::ConfigView;
use crate::http::views::words;

/// What matters to whoever looks after the backups: by key, what it is called.
const VALUES: [(&str, &str); 6] = [
    ("stale_after", "Backups count as late after"),
    ("drill.schedule", "Rehearsals"),
    ("check", "Check of each copy"),
    ("shrink_alarm", "A loss that is suspicious, in percent"),
    ("lock_timeout", "Patience with a locked database"),
    ("restore_hold", "How long a restore may keep writers waiting"),
];

/// A list that opens.
pub fn fixed(config: &Config, view: &ConfigView) -> Markup {
    let value = |key: &str| config.texts.get(key).map_or("", String::as_str);
    let source = |key: &str| html! { span.exact { (from(config.origins.get(key).copied().unwrap_or(Origin::Default), &json_key(key))) } };
    html! {
        details.fixed {
            summary { "Places, limits and rehearsals" }
            dl.facts {
                div { dt { "Backups lie in" } dd { (words::text(&view.directory)) " " (source("directory")) } }
                div {
                    dt { "Databases" }
                    dd {
                        @for (name, path) in &config.databases { span.database { (name) ": " (words::text(&path.display().to_string())) } " " }
                        (source("databases"))
                    }
                }
                div {
                    dt { "Copies elsewhere" }
                    dd {
                        @for (name, replica) in &config.replicas { span.database { (name) ": " (words::text(replica.place.url())) } " " }
                        @if config.replicas.is_empty() { "None; " code { "BACKUP_REPLICA_<NAME>_URL" } " makes one" }
                    }
                }
                @for (key, name) in VALUES { div { dt { (name) } dd { (words::text(value(key))) " " (source(key)) } } }
            }
            p.small { "These change in the environment or in the configuration file, with a new start of the service." }
        }
    }
}

fn json_key(key: &str) -> String {
    crate::config::VARIABLES
        .iter()
        .find(|variable| variable.key == key)
        .map_or_else(String::new, crate::config::Variable::json_key)
}
