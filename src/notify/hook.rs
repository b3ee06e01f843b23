//! Notices by HTTP: JSON of our own, signed, or what ntfy, Slack and Discord take; and the ping.

use std::fmt;
use std::net::SocketAddr;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use url::Url;

use super::{Address, Failure, Message, Notice, PATIENCE, Trust, guard, render};
use crate::backup::notices::Stage;
use crate::backup::{hex, timestamp};

/// Characters that go into a message of Discord's, which takes 2000.
const DISCORD: usize = 1900;
/// The same of ntfy's, which takes 4096 bytes.
const NTFY: usize = 1300;

/// Where notices are posted to, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct Webhook {
    /// Where.
    pub address: Address,
    /// In which form.
    pub form: Form,
    /// What JSON of our own is signed with.
    pub key: Option<Key>,
}

/// What a receiver takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Form {
    Json,
    Ntfy,
    /// Mattermost and Rocket.Chat take it too.
    Slack,
    Discord,
}

impl Form {
    /// By its word; `auto` goes by the address.
    pub fn parse(word: &str, address: Option<&Address>) -> Option<Self> {
        Some(match word {
            "json" => Self::Json,
            "ntfy" => Self::Ntfy,
            "slack" => Self::Slack,
            "discord" => Self::Discord,
            "auto" => match address.and_then(|address| address.0.host_str()) {
                Some("ntfy.sh") => Self::Ntfy,
                Some("hooks.slack.com") => Self::Slack,
                Some("discord.com" | "discordapp.com") => Self::Discord,
                _ => Self::Json,
            },
            _ => return None,
        })
    }
}

/// What notices are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Key {
    /// Long enough, on one line.
    pub fn parse(text: &str) -> Option<Self> {
        ((16..=1024).contains(&text.len()) && !text.contains(char::is_control)).then(|| Self(text.to_owned()))
    }

    /// `t=…,v1=…`: the second in which it was sent, and the HMAC-SHA-256 of that, a dot and the body.
    fn signature(&self, now: DateTime<Utc>, body: &[u8]) -> Option<String> {
        let second = now.timestamp();
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).ok()?;
        mac.update(format!("{second}.").as_bytes());
        mac.update(body);
        Some(format!("t={second},v1={}", hex(&mac.finalize().into_bytes())))
    }
}

impl Webhook {
    pub(super) fn send(&self, message: &Message, trust: &Trust) -> Result<(), Failure> {
        let notice = &message.notice;
        let (to, body) = match self.form {
            Form::Json => (self.address.0.clone(), own(notice)),
            Form::Ntfy => ntfy(&self.address.0, notice),
            Form::Slack => (self.address.0.clone(), slack(notice)),
            Form::Discord => (self.address.0.clone(), discord(notice)),
        };
        let body = body.to_string().into_bytes();
        let signature = self.key.as_ref().and_then(|key| key.signature(message.now, &body));
        ask("the webhook", &to, trust, |client| {
            let request = client.post(to.clone()).header("Content-Type", "application/json").body(body);
            let request = request.header("X-Backup-Event", notice.event.word());
            signature.into_iter().fold(request, |request, signature| request.header("X-Backup-Signature", signature))
        })
    }
}

/// Says that all is in time.
pub(super) fn ping(address: &Address, trust: &Trust) -> Result<(), Failure> {
    ask("the dead man's switch", &address.0, trust, |client| client.get(address.0.clone()))
}

/// Our own form; `docs/notices.md` has it.
fn own(notice: &Notice) -> Value {
    json!({
        "version": 1,
        "id": notice.id,
        "event": notice.event,
        "stage": notice.stage,
        "at": timestamp::text(notice.at),
        "since": timestamp::text(notice.since),
        "subject": notice.subject,
        "text": render::plain(notice),
        "link": notice.link,
    })
}

/// Published as JSON at the server's root: titles in headers can't hold all of Unicode.
fn ntfy(address: &Url, notice: &Notice) -> (Url, Value) {
    let mut root = address.clone();
    let path = address.path().trim_end_matches('/').to_owned();
    let (above, topic) = path.rsplit_once('/').unwrap_or(("", &path));
    root.set_path(&format!("{above}/"));
    let (priority, tag) = match notice.stage {
        Stage::Began => (4, "warning"),
        Stage::Reminder => (3, "warning"),
        Stage::Recovered => (3, "white_check_mark"),
        Stage::Once => (3, "information_source"),
    };
    let mut body = json!({
        "topic": topic,
        "title": notice.subject,
        "message": cut(&render::plain(notice), NTFY),
        "priority": priority,
        "tags": [tag],
    });
    if let Some(link) = &notice.link {
        body["click"] = link.as_str().into();
    }
    (root, body)
}

fn slack(notice: &Notice) -> Value {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": format!("*{}*\n{}", escaped(&notice.subject), escaped(&render::plain(notice))) })
}

/// Nobody is called by it, whatever the text holds.
fn discord(notice: &Notice) -> Value {
    let text = format!("**{}**\n{}", notice.subject, render::plain(notice));
    json!({ "content": cut(&text, DISCORD), "allowed_mentions": { "parse": [] } })
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// One request, of whose answer the status counts alone.
fn ask(whom: &str, to: &Url, trust: &Trust, request: impl FnOnce(&Client) -> RequestBuilder) -> Result<(), Failure> {
    let host = to.host_str().unwrap_or_default();
    let port = to.port_or_known_default().unwrap_or_default();
    let judged = guard::addresses(host, port, to.scheme() == "https", trust);
    let addresses = judged.map_err(|failure| Failure { detail: format!("{whom}: {}", failure.detail), ..failure })?;
    let broken = |_| {
        Failure::new("notice-unsent", format!("{whom}: nothing can be sent from here; is ca-certificates installed?"))
    };
    let client = client(to, &addresses, trust).map_err(broken)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|_| Failure::new("notice-unsent", "no thread could be had for it; it is tried again"))?;
    let answered = runtime.block_on(async { request(&client).send().await.map(|answer| answer.status()) });
    match answered {
        Ok(status) if status.is_success() => Ok(()),
        Ok(status) => Err(rejected(whom, status)),
        Err(error) => Err(unanswered(whom, &error)),
    }
}

/// What connects to these addresses and to no other: not by a proxy, and not to where an answer leads.
fn client(to: &Url, addresses: &[SocketAddr], trust: &Trust) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .resolve_to_addrs(to.host_str().unwrap_or_default(), addresses)
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .timeout(PATIENCE);
    if to.scheme() != "https" {
        // What isn't encrypted needs no authorities.
        return builder.tls_certs_only([]).build();
    }
    let mut authorities = Vec::new();
    for pem in trust.pieces() {
        authorities.push(Certificate::from_pem(pem.as_bytes())?);
    }
    builder.tls_certs_merge(authorities).build()
}

fn rejected(whom: &str, status: StatusCode) -> Failure {
    let status = status.as_u16();
    let what = match status {
        300..=399 => {
            "notices go to no other address than the one that is set; set it to where that leads, if it is right"
        }
        401 | 403 => "look at the token or the password in its address",
        404 | 410 => "look at its address; was it taken back?",
        429 => "there were too many; it is tried again",
        500.. => "look at that server; it is tried again",
        _ => "look at its address, and at BACKUP_WEBHOOK_FORM",
    };
    Failure::new("notice-refused", format!("{whom} answers {status}; {what}"))
}

/// Without the name of the host, which may be as secret as the rest: whoever has a token reads this.
fn unanswered(whom: &str, error: &reqwest::Error) -> Failure {
    let mut why = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        why += &inner.to_string();
        source = inner.source();
    }
    if why.contains("certificate") {
        let what =
            "it must be of that name and by an authority that is trusted; BACKUP_NOTIFY_CA_FILE names one of your own";
        return Failure::new("notice-certificate", format!("{whom} has no certificate that counts; {what}"));
    }
    let what = "look at its host and port, and whether a firewall is between";
    Failure::new("notice-unreachable", format!("{whom} doesn't answer; {what}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::backup::notices::Event;

    fn notice() -> Notice {
        let at = "2026-01-08T01:00:00Z".parse().unwrap();
        Notice {
            id: "0123".to_owned(),
            event: Event::Stale,
            stage: Stage::Began,
            at,
            since: at,
            subject: "no backup <!channel> & @everyone".to_owned(),
            lead: "ä".repeat(5000),
            happened: Vec::new(),
            stands: Vec::new(),
            todo: Vec::new(),
            link: Some("https://school.example/settings/backups".to_owned()),
            from: "here".to_owned(),
        }
    }

    /// No name server knows the name. Whoever looked it up once more, after it was judged, might be told another address.
    #[test]
    fn what_was_judged_is_connected_to_and_no_name_is_looked_up_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        let to: Url = format!("http://no-such-host.invalid:{}/", address.port()).parse().unwrap();
        let client = client(&to, &[address], &Trust { private: true, authorities: None }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answered = runtime.block_on(async { client.get(to).send().await }).unwrap();
        assert_eq!(answered.status(), StatusCode::NO_CONTENT);
        answer.join().unwrap();
    }

    #[test]
    fn the_form_goes_by_the_address() {
        let form = |url: &str| Form::parse("auto", Address::parse(url).as_ref()).unwrap();
        assert_eq!(form("https://hooks.slack.com/services/T/B/x"), Form::Slack);
        assert_eq!(form("https://discord.com/api/webhooks/1/x"), Form::Discord);
        assert_eq!(form("https://ntfy.sh/topic"), Form::Ntfy);
        assert_eq!(form("https://hooks.slack.com.example/x"), Form::Json);
        assert_eq!(Form::parse("slack", None), Some(Form::Slack));
        assert_eq!(Form::parse("Slack", None), None);
    }

    #[test]
    fn each_form_holds_what_its_receiver_takes() {
        let (root, body) = ntfy(&"https://ntfy.example/sub/school/".parse().unwrap(), &notice());
        assert_eq!((root.as_str(), &body["topic"]), ("https://ntfy.example/sub/", &json!("school")));
        assert!(body["message"].as_str().unwrap().len() < 4096 && body["click"].is_string(), "{body}");
        assert_eq!(ntfy(&"https://ntfy.sh/school".parse().unwrap(), &notice()).0.as_str(), "https://ntfy.sh/");
        let text = slack(&notice())["text"].as_str().unwrap().to_owned();
        assert!(text.starts_with("*no backup &lt;!channel&gt; &amp; @everyone*"), "{text}");
        let body = discord(&notice());
        assert!(body["content"].as_str().unwrap().chars().count() <= 2000, "{body}");
        assert_eq!(body["allowed_mentions"], json!({ "parse": [] }));
    }

    /// RFC 4231 has no case with our prefix: this one was made by `openssl dgst -sha256 -hmac`.
    #[test]
    fn the_signature_is_the_hmac_of_the_second_and_the_body() {
        let key = Key::parse("0123456789abcdef").unwrap();
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let wanted = "t=1700000000,v1=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23";
        assert_eq!(key.signature(at, b"{\"a\":1}").unwrap(), wanted);
        assert!(Key::parse("short").is_none() && Key::parse("0123456789abcde\n").is_none());
        assert_eq!(format!("{key:?}"), "(secret)");
    }
}
