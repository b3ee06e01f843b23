//! What browsers get: markup made from what the engine says. Nothing here asks or changes anything. All text is escaped by
//! maud; there are no styles and no scripts in it.

pub mod acknowledge;
pub mod activity;
pub mod backup;
pub mod card;
pub mod checks;
pub mod delete;
pub mod errand;
pub mod icons;
pub mod list;
pub mod notice;
pub mod notices;
pub mod point;
pub mod problem;
pub mod replicas;
pub mod restore;
pub mod settings;
pub mod sign_in;
pub mod strip;
pub mod words;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use maud::{DOCTYPE, Markup, html};

use super::assets::ASSETS;
use crate::backup::retention::Fate;
use crate::backup::settings::Settings;
use crate::backup::{Backup, BackupId};
use crate::engine::status::Status;

/// What htmx may do: nothing that a policy without `unsafe-*` forbids, nothing with other sites. Answers that are problems
/// are shown where an answer would be; what a proxy says while nobody answers is not.
const HTMX: &str = r#"{"allowEval":false,"allowScriptTags":false,"includeIndicatorStyles":false,"selfRequestsOnly":true,"historyEnabled":false,"historyCacheSize":0,"disableInheritance":true,"defaultSettleDelay":0,"responseHandling":[{"code":"204","swap":false},{"code":"50[24]","swap":false},{"code":"...","swap":true}]}"#;

/// What the page tells of, looked up at once.
pub struct Overview {
    /// How things stand.
    pub status: Status,
    /// What there is.
    pub shelf: Shelf,
}

/// The backups that there are.
pub struct Shelf {
    /// Newest first.
    pub backups: Vec<Backup>,
    /// Why each is kept and when it would go.
    pub fates: BTreeMap<BackupId, Fate>,
    /// What is in force.
    pub settings: Settings,
}

/// What every view knows.
#[derive(Clone, Debug)]
pub struct Site {
    /// The path of the public address, which a proxy takes off.
    pub prefix: String,
    /// Who looks at it; nobody, where that isn't known.
    pub subject: String,
    /// By a session of ours, which can be ended here.
    pub by_session: bool,
    /// When.
    pub now: DateTime<Utc>,
    /// Where times are told: where the schedule lives.
    pub zone: Tz,
}

impl Site {
    /// With times as the schedule that is in force has them.
    pub fn of(self, shelf: &Shelf) -> Self {
        Self { zone: shelf.settings.schedule.timezone, ..self }
    }

    /// An address of ours, as browsers ask for it.
    pub fn to(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

/// The parts of the settings, as the navigation has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tab {
    /// State, calendar and list.
    Backups,
    /// Schedule and retention.
    Settings,
    /// The audit log.
    Activity,
}

impl Tab {
    const ALL: [(Self, &str, &str); 3] = [
        (Self::Backups, "Backups", "/settings/backups"),
        (Self::Settings, "Settings", "/settings/backups/settings"),
        (Self::Activity, "Activity", "/settings/backups/activity"),
    ];
}

/// A page of the settings. Browsers that run no scripts ask for it `again` by themselves, as long as it is.
pub fn page(site: &Site, title: &str, tab: Option<Tab>, main: &Markup, again: bool) -> Markup {
    document(
        site,
        title,
        &html! {
            header.top {
                div.bar {
                    a.brand href=(site.to("/settings/backups")) { (icons::store()) span { "Attendance" } }
                    nav.tabs aria-label="Backups" {
                        @for (this, name, path) in Tab::ALL {
                            a href=(site.to(path)) aria-current=[(tab == Some(this)).then_some("page")] { (name) }
                        }
                    }
                    form.session method="post" action=(site.to("/sign-out")) {
                        span.subject { span.hidden { "Signed in as " } (words::text(&site.subject)) }
                        // A session of the app's is ended in the app.
                        @if site.by_session { button.plain type="submit" { "Sign out" } }
                    }
                }
            }
            main #main tabindex="-1" { (main) }
            dialog #dialog aria-labelledby="dialog-title" {}
            (notice::announcer())
        },
        again,
    )
}

/// What is in a dialog.
pub fn dialog(title: &str, content: &Markup) -> Markup {
    html! { div.paper { h2 #dialog-title tabindex="-1" autofocus { (title) } (content) } }
}

/// The same on a page.
pub fn paper(title: &str, content: &Markup) -> Markup {
    html! { h1.hidden { "Backups" } section.paper.alone { h2 { (title) } (content) } }
}

/// A page of its own, before anyone is signed in.
pub fn plain_page(site: &Site, title: &str, main: &Markup) -> Markup {
    document(site, title, &html! { main.narrow #main { (main) } }, false)
}

fn document(site: &Site, title: &str, body: &Markup, again: bool) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="htmx-config" content=(HTMX);
                @if again { noscript { meta http-equiv="refresh" content="15"; } }
                title { (title) " · Attendance backups" }
                link rel="icon" href=(site.to(&ASSETS.icon.path())) type="image/svg+xml";
                link rel="stylesheet" href=(site.to(&ASSETS.style.path()));
                script src=(site.to(&ASSETS.htmx.path())) defer {}
                script src=(site.to(&ASSETS.script.path())) defer {}
            }
            body.backups {
                a.skip href="#main" { "Skip to the content" }
                (body)
            }
        }
    }
}
