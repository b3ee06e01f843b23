//! HTTP as OpenDAL asks for it, by our own rules: what is waited for ends in time and at once when it is cancelled, the line
//! is shared, nobody is followed to another address, and what a store answered is kept for the error's text. A body that
//! could end early without anybody noticing, and an error that comes as "200 OK", are failures.

mod answer;
mod body;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use http::{Request, Response};
use opendal::raw::Operation;
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport};
use reqwest::redirect::Policy;

use super::pace::Line;
use super::place::{Kind, Place};
use body::{Drip, Received, Sent};

/// What is asked from time to time whether to stop.
pub(super) type Cancel = Arc<dyn Fn() -> bool + Send + Sync>;

/// The last that was seen of the store within a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// An answer that is no success: its status, and its code as far as that is plain text.
    Answered {
        status: u16,
        code: String,
        of_token: bool,
    },
    /// None at all, or none that counts.
    Failed(Failure),
    Cancelled,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    Connect(String),
    Certificate(String),
    Cut(String),
    Timeout(Duration),
    Wrong(String),
}

/// What the transfers of one call share.
pub(super) struct Call {
    pub(super) timeout: Duration,
    pub(super) line: Arc<Line>,
    cancel: Option<Cancel>,
    /// It is being tidied up, which cancelling doesn't stop.
    closing: AtomicBool,
    verdict: Mutex<Option<Verdict>>,
    drip: Mutex<Drip>,
}

impl Call {
    pub(super) fn new(timeout: Duration, line: Arc<Line>, cancel: Option<Cancel>) -> Self {
        Self {
            timeout,
            line,
            cancel,
            closing: AtomicBool::new(false),
            verdict: Mutex::new(None),
            drip: Mutex::default(),
        }
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, verdict: Option<Verdict>) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
    }

    /// From here on nothing cancels.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        !self.closing.load(Ordering::Relaxed) && self.cancel.as_ref().is_some_and(|cancel| cancel())
    }

    /// Ends when it is cancelled.
    pub(super) async fn cancelled(&self) {
        while !self.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn failed(&self, failure: Failure) -> opendal::Error {
        let wrong = matches!(failure, Failure::Wrong(_) | Failure::Certificate(_));
        self.note(Some(Verdict::Failed(failure)));
        // The text goes nowhere: what is told is the verdict.
        let error = opendal::Error::new(ErrorKind::Unexpected, "no answer that counts");
        if wrong { error } else { error.set_temporary() }
    }
}

/// A client that keeps connections to one store.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    /// Where everything goes instead.
    #[cfg(test)]
    pub(super) detour: Option<std::net::SocketAddr>,
}

impl Client {
    /// Proxies are those of the environment, as everywhere. The error is what is wrong.
    pub(super) fn new(place: &Place, timeout: Duration) -> Result<Self, String> {
        let same_address = Policy::custom(|attempt| {
            let to = attempt.url().origin();
            let is_same = attempt.previous().last().is_some_and(|from| from.origin() == to);
            if is_same && attempt.previous().len() <= 3 { attempt.follow() } else { attempt.stop() }
        });
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .redirect(same_address)
            .referer(false)
            // OpenDAL's retries are counted; others would multiply them.
            .retry(reqwest::retry::never())
            .connect_timeout(timeout.min(Duration::from_secs(10)))
            .pool_idle_timeout(Duration::from_secs(30));
        let endpoint = match &place.kind {
            Kind::S3 { endpoint, .. } | Kind::Webdav { endpoint, .. } => endpoint.as_str(),
            _ => "https",
        };
        if !endpoint.starts_with("https") {
            // What isn't encrypted needs no authorities.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|_| {
            "no certificates of authorities are on this machine, so nobody could be trusted; install ca-certificates, or set \
             SSL_CERT_FILE"
                .to_owned()
        })?;
        Ok(Self {
            http,
            #[cfg(test)]
            detour: None,
        })
    }

    fn address(&self, uri: &http::Uri) -> Result<reqwest::Url, Failure> {
        let url = reqwest::Url::parse(&uri.to_string()).map_err(|_| Failure::Wrong("has no address".to_owned()))?;
        #[cfg(test)]
        if let Some(detour) = self.detour {
            let path =
                format!("http://{detour}/{}{}", url.host_str().unwrap_or_default(), &url[url::Position::BeforePath..]);
            return reqwest::Url::parse(&path).map_err(|_| Failure::Wrong("has no address".to_owned()));
        }
        Ok(url)
    }
}

/// OpenDAL's way to the store, for one call.
pub(super) struct Wire {
    pub(super) client: Client,
    pub(super) call: Arc<Call>,
    pub(super) place: Place,
}

impl HttpTransport for Wire {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let call = Arc::clone(&self.call);
        let outcome = {
            let fetched = std::pin::pin!(self.exchange(request));
            let cancelled = std::pin::pin!(call.cancelled());
            match select(fetched, cancelled).await {
                Either::Left((fetched, _)) => fetched,
                Either::Right(_) => {
                    call.note(Some(Verdict::Cancelled));
                    return Err(opendal::Error::new(ErrorKind::Unexpected, "cancelled"));
                }
            }
        };
        outcome.map_err(|failure| call.failed(failure))?
    }
}

impl Wire {
    /// One request and its answer's head; `Ok(Err)` is for answers that OpenDAL is not to see.
    async fn exchange(&self, request: Request<Buffer>) -> Result<opendal::Result<Response<HttpBody>>, Failure> {
        let asked = answer::Asked::of(&request);
        let (parts, body) = request.into_parts();
        let mut outgoing =
            self.client.http.request(parts.method, self.client.address(&parts.uri)?).headers(parts.headers);
        let sent = Sent::new(body, Arc::clone(&self.call.line));
        let progress = sent.progress();
        if !sent.is_nothing() {
            outgoing = outgoing.body(reqwest::Body::wrap(sent));
        }
        let sending = std::pin::pin!(outgoing.send());
        let late = std::pin::pin!(progress.stands_still_for(self.call.timeout));
        let response = match select(sending, late).await {
            Either::Left((response, _)) => response.map_err(|error| failure(&error))?,
            Either::Right(_) => return Err(Failure::Timeout(self.call.timeout)),
        };
        answer::judged(self, &asked, response).await
    }
}

impl answer::Asked {
    fn of(request: &Request<Buffer>) -> Self {
        let uri = request.uri();
        let range = request.headers().get(http::header::RANGE).and_then(|range| range.to_str().ok());
        Self {
            method: request.method().as_str().to_owned(),
            reads: request.extensions().get::<Operation>() == Some(&Operation::Read),
            lists: request.extensions().get::<Operation>() == Some(&Operation::List),
            from_the_middle: range.is_some_and(|range| !range.starts_with("bytes=0-")),
            of_token: uri.path().ends_with("/token")
                && matches!(uri.host(), Some("oauth2.googleapis.com" | "api.dropboxapi.com")),
            uri: uri.clone(),
        }
    }
}

/// A library's failure in few words, without addresses.
pub(super) fn failure(error: &reqwest::Error) -> Failure {
    let mut why = String::new();
    let mut source = std::error::Error::source(error);
    let mut is_tls = false;
    while let Some(inner) = source {
        why = inner.to_string();
        is_tls |= why.contains("certificate");
        source = inner.source();
    }
    why = why.chars().filter(|c| !c.is_control()).take(200).collect();
    if error.is_connect() && is_tls {
        Failure::Certificate(why)
    } else if error.is_connect() {
        Failure::Connect(if error.is_timeout() { "it took too long".to_owned() } else { why })
    } else {
        Failure::Cut(why)
    }
}

/// The answer's body as OpenDAL takes it.
pub(super) fn received(
    wire: &Wire,
    first: Option<bytes::Bytes>,
    response: reqwest::Response,
    length: Option<u64>,
) -> HttpBody {
    HttpBody::new(Received::new(first, response, Arc::clone(&wire.call)), length)
}
