//! The way in: a one-time code from the command line, or a token.

use maud::{Markup, html};

use super::{Site, icons, plain_page, words};

/// The page. `code` is one that came with the link; it is redeemed by the button, so that whoever fetches the link
/// beforehand burns nothing. `to` is where it goes on, `wrong` what was wrong with the try before.
pub fn sign_in(site: &Site, code: Option<&str>, to: Option<&str>, wrong: Option<&str>) -> Markup {
    let body = html! {
        div.sign-in {
            p.brand { (icons::store()) span { "Attendance backups" } }
            h1 { "Sign in" }
            @if let Some(wrong) = wrong {
                div.notice.bad role="alert" { (icons::danger()) div.words { p { (words::prose(wrong)) } } }
            }
            form method="post" action=(site.to("/sign-in")) {
                @if let Some(to) = to { input type="hidden" name="to" value=(to); }
                @match code {
                    Some(code) => {
                        p { "Your link holds a one-time code. It works once." }
                        input type="hidden" name="code" value=(code);
                        button.primary type="submit" autofocus { "Sign in" }
                    }
                    None => {
                        label for="token" { "Token or one-time code" }
                        input #token type="password" name="token" autocomplete="off" spellcheck="false" required autofocus
                            aria-describedby="token-help";
                        p.help #token-help {
                            "Superusers of the app are signed in already where this page lies beside it and knows its cookie. Otherwise "
                            code { "attendance-backup token --link" } " on the server prints a link that signs you in."
                        }
                        button.primary type="submit" { "Sign in" }
                    }
                }
            }
        }
    };
    plain_page(site, "Sign in", &body)
}
