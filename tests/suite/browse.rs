//! The page over plain HTTP, as a browser without scripts asks for it, and as htmx does.

use crate::client::{Answer, Request, Server, superuser};

/// Someone who is signed in, by the cookie that the page's own form gave.
pub struct Browser<'s> {
    server: &'s Server,
    cookie: String,
}

impl<'s> Browser<'s> {
    /// Signs in as the token says.
    pub fn of(server: &'s Server, token: &str) -> Self {
        let request = server.request("POST", "/sign-in").header("Accept", "text/html");
        let answer = form(request, &[("token", token)]).send();
        assert_eq!(answer.status, 303, "{}", answer.text());
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        Self { server, cookie }
    }

    /// As a superuser.
    pub fn superuser(server: &'s Server) -> Self {
        Self::of(server, &superuser())
    }

    pub fn request(&self, method: &str, path: &str) -> Request {
        self.server.request(method, path).header("Accept", "text/html").header("Cookie", &self.cookie)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path).send()
    }

    /// A form, sent by a browser without scripts.
    #[track_caller]
    pub fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        form(self.request("POST", path), fields).send()
    }

    /// The same, sent by htmx.
    #[track_caller]
    pub fn post_by_htmx(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        form(self.request("POST", path), fields).header("HX-Request", "true").send()
    }
}

/// As browsers encode and send it.
fn form(request: Request, fields: &[(&str, &str)]) -> Request {
    let pairs: Vec<_> = fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let request = request.header("Content-Type", "application/x-www-form-urlencoded");
    request.header("Sec-Fetch-Site", "same-origin").body(pairs.join("&").as_bytes())
}

/// Bytes that a form or a query may hold as they are, and the number of every other.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What follows `mark` in a text, up to `end`.
#[track_caller]
pub fn between<'t>(text: &'t str, mark: &str, end: &str) -> &'t str {
    let (_, rest) = text.split_once(mark).unwrap_or_else(|| panic!("no {mark:?} in {text}"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end:?} after {mark:?}")).0
}

/// What people read of it: without tags, with single spaces.
pub fn words(html: &str) -> String {
    let pieces = html.split('<').map(|piece| piece.split_once('>').map_or(piece, |(_, text)| text));
    let text: Vec<_> = pieces.flat_map(str::split_whitespace).collect();
    text.join(" ").replace(" .", ".").replace(" ,", ",").replace("&quot;", "\"").replace("&amp;", "&")
}
