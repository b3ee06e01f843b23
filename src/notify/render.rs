//! A notice as text and as HTML: the same words, in the same order.

use maud::{DOCTYPE, Markup, html};

use super::Notice;

/// For mail programs that show no HTML, and for webhooks.
pub(super) fn plain(notice: &Notice) -> String {
    let mut text = format!("{}\n", notice.lead);
    let mut list = |title: &str, lines: &[String], is_numbered: bool| {
        if lines.is_empty() {
            return;
        }
        text += &format!("\n{title}\n");
        for (number, line) in lines.iter().enumerate() {
            let mark = if is_numbered { format!("{}.", number + 1) } else { "-".to_owned() };
            text += &format!("{mark} {line}\n");
        }
    };
    list("What was found", &notice.happened, false);
    list("What you can rely on", &notice.stands, false);
    list("What to do now", &notice.todo, true);
    if let Some(link) = &notice.link {
        text += &format!("\nThe page: {link}\n");
    }
    text + &format!("\n{}\n", notice.from)
}

/// For all others.
pub(super) fn html(notice: &Notice) -> String {
    let list = |title: &str, lines: &[String]| -> Markup {
        html! { @if !lines.is_empty() { h2 style="font-size:1em" { (title) } ul { @for line in lines { li { (line) } } } } }
    };
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (notice.subject) } }
            body style="font-family:sans-serif;line-height:1.5;max-width:42em" {
                p { strong { (notice.lead) } }
                (list("What was found", &notice.happened))
                (list("What you can rely on", &notice.stands))
                @if !notice.todo.is_empty() {
                    h2 style="font-size:1em" { "What to do now" }
                    ol { @for line in &notice.todo { li { (line) } } }
                }
                @if let Some(link) = &notice.link { p { a href=(link) { "Open the page" } } }
                p style="color:#666;font-size:0.85em" { (notice.from) }
            }
        }
    };
    markup.into_string()
}
