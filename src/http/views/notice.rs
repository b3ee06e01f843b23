//! What is said about something that was done, or couldn't be.

use maud::{Markup, html};

use super::icons;

/// How it is meant: by a colour, and by an icon for those who don't see colours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Under way.
    Busy,
    /// Look at it.
    Look,
    /// It is not as it should be.
    Bad,
}

impl Tone {
    /// The class that colours it.
    pub fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Busy => "busy",
            Tone::Look => "look",
            Tone::Bad => "bad",
        }
    }

    /// Its icon.
    pub fn icon(self) -> Markup {
        match self {
            Tone::Good => icons::tick(),
            Tone::Busy => icons::busy(),
            Tone::Look => icons::attention(),
            Tone::Bad => icons::danger(),
        }
    }
}

/// A notice. What went wrong is read out at once; the rest by [`announced`].
pub fn notice(tone: Tone, title: &str, more: &Markup) -> Markup {
    html! {
        div class={ "notice " (tone.class()) } role=[(tone == Tone::Bad).then_some("alert")] {
            (tone.icon())
            div.words {
                p.title { (title) }
                (more)
            }
        }
    }
}

/// The place from which a screen reader reads out what [`announced`] puts there.
pub fn announcer() -> Markup {
    html! { div.hidden #announcer role="status" aria-live="polite" {} }
}

/// In an answer to htmx: what a screen reader says.
pub fn announced(text: &str) -> Markup {
    html! { div #announcer hx-swap-oob="innerHTML" { (text) } }
}
