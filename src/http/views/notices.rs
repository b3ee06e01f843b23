//! Notices: by which ways they go, how these stand, and a test of them.

use maud::{Markup, html};

use super::notice::{Tone, announced, notice};
use super::{Site, words};
use crate::engine::{ChannelStatus, NoticesStatus, NoticesTested};
use crate::notify::Kind;

/// All of it.
pub fn notices(site: &Site, notices: &NoticesStatus) -> Markup {
    let test = site.to("/settings/backups/notices/test");
    html! {
        section.paper.alone #notices aria-labelledby="notices-title" {
            h2 #notices-title { "Notices" }
            @if notices.channels.is_empty() {
                p { "Nobody is told when backups fail. " code { "BACKUP_SMTP_URL" } ", " code { "BACKUP_WEBHOOK_URL" } " and " code { "BACKUP_HEALTHCHECK_URL" } " change that." }
            } @else {
                dl.facts { @for channel in &notices.channels { (row(site, channel)) } }
                @if notices.queued > 0 { p.small { (words::count(notices.queued as u64, "notice")) " to be sent." } }
                form.buttons method="post" action=(test) hx-post=(test) hx-target="#outcome-notices" hx-disabled-elt="find button" {
                    button #test-notices type="submit" { "Send a test" }
                }
                div.outcome #outcome-notices {}
            }
        }
    }
}

fn row(site: &Site, channel: &ChannelStatus) -> Markup {
    html! {
        div {
            dt { (name(channel.kind)) }
            dd {
                @match &channel.last_error {
                    Some(error) => { "Failing since " (site.exact(error.since)) ": " (words::text(&error.detail)) },
                    None => @match channel.last_success {
                        Some(at) => (site.moment(at)),
                        None => "Nothing was sent yet",
                    },
                }
            }
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Mail => "E-mail",
        Kind::Webhook => "Webhook",
        Kind::Ping => "Dead man's switch",
    }
}

/// What came of a test.
pub fn tested(tested: &NoticesTested) -> Markup {
    let tone = if tested.ok { Tone::Good } else { Tone::Bad };
    let more = html! {
        ul.plain { @for channel in &tested.channels { li { (name(channel.kind)) ": " (words::text(&channel.detail)) } } }
    };
    notice(tone, title(tested), &more)
}

/// What a screen reader says of it; what failed is said by itself.
pub fn told(tested: &NoticesTested) -> Markup {
    html! { @if tested.ok { (announced(title(tested))) } }
}

fn title(tested: &NoticesTested) -> &'static str {
    if tested.ok { "The test was sent" } else { "Not every test was sent" }
}
