//! The settings: what can be changed, where each value comes from, and what follows from a change before it is made.

mod fields;
mod fixed;
pub(super) mod outlook;

use maud::{Markup, html};

use super::notice::{Tone, announced, notice};
use super::{Site, icons, problem, words};
use crate::backup::settings::Settings;
use crate::config::Config;
use crate::engine::status::ConfigView;
use crate::engine::{Changed, NoticesStatus, Outlook};
use crate::http::problem::{BAD_SETTING, FieldError, Problem, STALE};
use crate::http::typed::Typed;

pub use outlook::outlook;

/// Where they are.
pub const PLACE: &str = "/settings/backups/settings";

/// The settings, what was typed over them, and what follows from that.
pub struct Stand {
    /// What is in force, and where it comes from.
    pub view: ConfigView,
    /// What the form holds.
    pub typed: Typed,
    /// What would follow, or why it can't be told.
    pub outlook: Result<Outlook, Problem>,
    /// How notices go.
    pub notices: NoticesStatus,
}

impl Stand {
    /// What isn't allowed of the values at these places.
    fn wrong(&self, keys: &[&str]) -> Option<&FieldError> {
        let place = |key: &&str| format!("/{}", key.replace('.', "/"));
        let errors = self.outlook.as_ref().err().map_or(&[][..], Problem::fields);
        keys.iter().map(place).find_map(|place| errors.iter().find(|error| error.pointer == place))
    }
}

/// What is said above the form.
pub enum Said {
    /// Nothing.
    Nothing,
    /// It was saved.
    Saved {
        /// What that did, where it is known.
        did: Option<Changed>,
        /// The button that was pressed is gone.
        gone: bool,
    },
    /// Nothing differs from what is in force.
    Same,
    /// Whether these backups may go.
    Asks {
        /// They are others than were seen.
        anew: bool,
    },
    /// Whether everything that was saved may go.
    AsksToReset(Outlook),
    /// Nothing was saved; and who has changed the settings meanwhile.
    Refused(Problem, Option<String>),
}

/// All of it.
pub fn settings(site: &Site, config: &Config, stand: &Stand, said: &Said) -> Markup {
    let saved = stand.view.sources.values().any(|origin| *origin == crate::config::Origin::Saved);
    let to = site.to(PLACE);
    html! {
        div.settings #settings {
            section.paper.alone aria-labelledby="settings-title" {
                h2 #settings-title tabindex="-1" { "Schedule and retention" }
                div.outcome #settings-outcome { (notices(site, config, stand, said)) }
                form.values #values method="post" action=(to) hx-post=(to) hx-target="#settings" hx-swap="outerHTML" novalidate {
                    // What Enter in a field presses: it never agrees to a loss.
                    button.hidden type="submit" tabindex="-1" aria-hidden="true" { "Save" }
                    input type="hidden" name="version" value=(stand.typed.version);
                    (fields::fields(stand, &config.settings))
                    (foretold(site, stand))
                    (buttons(stand, false))
                }
            }
            section.paper.alone aria-labelledby="fixed-title" {
                h2 #fixed-title { "Set by the configuration" }
                (fixed::fixed(config, &stand.view))
                @if saved { (reset(site, stand)) }
            }
            (super::notices::notices(site, &stand.notices))
        }
    }
}

/// What a screen reader says of it; what was refused is said by itself.
pub fn told(said: &Said) -> Markup {
    match said {
        Said::Saved { .. } => announced("The settings are saved"),
        Said::Same => announced("Nothing was changed"),
        Said::Nothing | Said::Asks { .. } | Said::AsksToReset(_) | Said::Refused(..) => html! {},
    }
}

/// What follows from what was typed; asked for anew while it is typed.
fn foretold(site: &Site, stand: &Stand) -> Markup {
    html! {
        div.foretold {
            h3 #foretold-title { "What would follow" }
            div #outlook role="region" aria-labelledby="foretold-title" aria-live="polite"
                hx-post=(site.to("/settings/backups/settings/preview")) hx-trigger="input delay:400ms from:closest form"
                hx-target="this" hx-swap="innerHTML" hx-sync="this:replace" {
                (outlook(site, stand))
            }
            noscript {
                button type="submit" formaction=(site.to("/settings/backups/settings/preview")) { "Preview" }
            }
        }
    }
}

/// The answer to what is typed: what follows, and the buttons if they are others now.
pub fn previewed(site: &Site, stand: &Stand) -> Markup {
    let shown = stand.typed.seen.as_str();
    html! { (outlook(site, stand)) @if agreement(stand).unwrap_or_default() != shown { (buttons(stand, true)) } }
}

/// What agrees to the drops that are shown, if there are any.
fn agreement(stand: &Stand) -> Option<String> {
    let outlook = stand.outlook.as_ref().ok().filter(|outlook| outlook.drops().next().is_some());
    outlook.map(crate::http::typed::seen)
}

fn buttons(stand: &Stand, in_place: bool) -> Markup {
    let dropped = stand.outlook.as_ref().map_or(0, |outlook| outlook.drops().count() as u64);
    let agreement = agreement(stand);
    html! {
        div.buttons #settings-buttons hx-swap-oob=[in_place.then_some("outerHTML")] {
            input type="hidden" name="seen" value=(agreement.as_deref().unwrap_or_default());
            // Of another id, so that a press that was meant for the one doesn't reach the other.
            @if agreement.is_some() {
                button.dangerous #save-and-drop type="submit" name="drop" value="true" { "Save and drop " (words::count(dropped, "backup")) }
            } @else {
                button.primary #save type="submit" { "Save" }
            }
        }
    }
}

fn notices(site: &Site, config: &Config, stand: &Stand, said: &Said) -> Markup {
    match said {
        Said::Nothing => html! {},
        Said::Saved { did, gone } => saved(did.as_ref(), *gone),
        Said::Same => notice(Tone::Good, "Nothing was changed", &html! { p { "These are the settings in force." } }),
        Said::Asks { anew } => asks(stand, *anew),
        Said::AsksToReset(outlook) => asks_to_reset(site, config, stand, outlook),
        Said::Refused(problem, by) => refused(site, problem, by.as_deref()),
    }
}

fn saved(did: Option<&Changed>, gone: bool) -> Markup {
    html! {
        div.notice.good {
            (icons::tick())
            div.words {
                p.title tabindex=[gone.then_some("-1")] autofocus[gone] { "The settings are saved" }
                @if let Some(did) = did { (outlook::steps(&did.rotation, outlook::Tense::Past)) }
            }
        }
    }
}

fn asks(stand: &Stand, anew: bool) -> Markup {
    let dropped = stand.outlook.as_ref().map_or(0, |outlook| outlook.drops().count() as u64);
    let title = format!("Saving this drops {} at once", words::count(dropped, "backup"));
    question(
        &title,
        &html! {
            p {
                @if anew { "The list has changed since you saw it. " }
                "Nothing was changed. Look below which they are; then save and drop them, or change the values."
            }
        },
    )
}

/// A notice that takes the focus, so that one more press of the same key says nothing.
fn question(title: &str, more: &Markup) -> Markup {
    html! {
        div.notice.look {
            (icons::attention())
            div.words { p.title tabindex="-1" autofocus { (title) } (more) }
        }
    }
}

fn refused(site: &Site, problem: &Problem, by: Option<&str>) -> Markup {
    match problem.kind() {
        BAD_SETTING => notice(Tone::Bad, "Nothing was saved", &html! { p { "Look at what is marked below." } }),
        STALE => notice(
            Tone::Bad,
            problem.kind().title,
            &html! {
                p { "Nothing was saved. What you typed is still here." @if let Some(by) = by { " " (words::text(by)) } }
                p { a.button href=(site.to(PLACE)) { "Load the settings as they are now" } }
            },
        ),
        _ => problem::part(site, problem),
    }
}

/// The way back to what the configuration says.
fn reset(site: &Site, stand: &Stand) -> Markup {
    let to = site.to(PLACE);
    html! {
        form.reset method="post" action=(to) hx-post=(to) hx-target="#settings" hx-swap="outerHTML" {
            p { "Values that were saved here win over those of the configuration." }
            input type="hidden" name="version" value=(stand.view.version());
            button #reset type="submit" name="reset" value="true" { "Take back all that was saved…" }
        }
    }
}

fn asks_to_reset(site: &Site, config: &Config, stand: &Stand, outlook: &Outlook) -> Markup {
    let to = site.to(PLACE);
    let dropped = outlook.drops().count() as u64;
    let changes = changes(&stand.view.settings, &config.settings);
    question(
        "Take back all that was saved?",
        &html! {
            @if changes.is_empty() { p { "The configuration says the same." } }
            @else { ul.plain { @for (name, now, then) in &changes { li { (name) ": " (now) " → " (then) } } } }
            (outlook::steps(&outlook.rotation, outlook::Tense::Future))
            form method="post" action=(to) hx-post=(to) hx-target="#settings" hx-swap="outerHTML" {
                input type="hidden" name="version" value=(stand.view.version());
                input type="hidden" name="reset" value="true";
                input type="hidden" name="seen" value=(crate::http::typed::seen(outlook));
                div.buttons {
                    a.button href=(site.to(PLACE)) { "Keep it" }
                    button #reset-for-good class=(if dropped > 0 { "dangerous" } else { "primary" }) type="submit" name="drop" value="true" {
                        @if dropped > 0 { "Take it back and drop " (words::count(dropped, "backup")) } @else { "Take it back" }
                    }
                }
            }
        },
    )
}

/// Each value that differs: what it is called, what it is and what it would be.
fn changes(now: &Settings, then: &Settings) -> Vec<(&'static str, String, String)> {
    let values = fields::VALUES.iter().map(|(key, name)| (*name, fields::value(now, key), fields::value(then, key)));
    values.filter(|(_, now, then)| now != then).collect()
}
