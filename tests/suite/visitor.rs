//! The page over plain HTTP, as a browser without scripts asks for it, and as htmx does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::client::{Answer, Request, Server, superuser};
use crate::patience::PATIENCE;

/// A browser that runs no scripts, signed in or not.
pub struct Visitor<'s> {
    server: &'s Server,
    cookie: String,
    prefix: String,
    proxy: Option<SocketAddr>,
}

impl<'s> Visitor<'s> {
    /// Not signed in.
    pub fn nobody(server: &'s Server) -> Self {
        Self { server, cookie: String::new(), prefix: String::new(), proxy: None }
    }

    /// Not signed in, behind a proxy that puts a prefix before each path.
    pub fn behind(server: &'s Server, proxy: SocketAddr, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), proxy: Some(proxy), ..Self::nobody(server) }
    }

    /// Signed in by a token, in the form.
    pub fn of(server: &'s Server, token: &str) -> Self {
        Self::nobody(server).signed_in(token)
    }

    /// As a superuser.
    pub fn superuser(server: &'s Server) -> Self {
        Self::of(server, &superuser())
    }

    /// `name=value` of the session.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    pub fn signed_in(self, token: &str) -> Self {
        let answer = self.post("/sign-in", &[("token", token)]);
        assert_eq!(answer.status, 303, "{}", answer.text());
        assert_eq!(answer.header("location").unwrap(), format!("{}/settings/backups", self.prefix));
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        Self { cookie, ..self }
    }

    pub fn request(&self, method: &str, path: &str) -> Request {
        let request = self.server.request(method, &format!("{}{path}", self.prefix));
        let request =
            request.header("Accept", "text/html,application/xhtml+xml").header("Sec-Fetch-Site", "same-origin");
        let request = if self.cookie.is_empty() { request } else { request.header("Cookie", &self.cookie) };
        match self.proxy {
            Some(proxy) => request.to(proxy),
            None => request,
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path).send()
    }

    /// A form, sent by a browser without scripts.
    #[track_caller]
    pub fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.filled(path, fields).send()
    }

    /// The same, sent by htmx, which wants a part of the page.
    #[track_caller]
    pub fn post_by_htmx(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.filled(path, fields).header("HX-Request", "true").send()
    }

    fn filled(&self, path: &str, fields: &[(&str, &str)]) -> Request {
        let pairs: Vec<_> =
            fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let request = self.request("POST", path).header("Content-Type", "application/x-www-form-urlencoded");
        request.body(pairs.join("&").as_bytes())
    }

    /// After a form, the page that it leads to; until what it began has ended.
    #[track_caller]
    pub fn follow(&self, answer: &Answer) -> String {
        assert_eq!(answer.status, 303, "{}", answer.text());
        let location = answer.header("location").unwrap().strip_prefix(&self.prefix).unwrap().to_owned();
        let begun = Instant::now();
        loop {
            let page = self.get(location.split('#').next().unwrap());
            assert_eq!(page.status, 200, "{}", page.text());
            if !page.text().contains("http-equiv=\"refresh\"") {
                return page.text();
            }
            assert!(begun.elapsed() < PATIENCE, "it never ends: {}", page.text());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
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
