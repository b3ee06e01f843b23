//! What may happen to a request on its way to a store and back.

use std::sync::Arc;

/// Something that a test does with a request's path and query in its hand.
pub type Act = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Clone)]
pub enum Fault {
    None,
    /// Accepted, never answered.
    Silence,
    /// No more of the request's body is taken after so many bytes.
    StallUp(u64),
    /// No more of the answer's body comes after so many bytes.
    StallDown(u64),
    /// The connection is reset after so many bytes of the request's body.
    ResetUp(u64),
    /// The connection is reset after so many bytes of the answer's body.
    ResetDown(u64),
    /// The answer's body ends cleanly after so many bytes.
    CutDown(u64),
    /// The server has done what was asked, and its answer is lost with the connection.
    Lost,
    /// The server gets the request twice.
    Twice,
    /// Somebody else answers.
    Instead(Reply),
    /// This happens before the server hears of it.
    Before(Act),
    /// This happens after the server has done it and before the client hears so.
    After(Act),
    /// This happens, and the server never hears of it.
    InPlace(Act),
}

impl Fault {
    /// How long to wait for a store that has it: it is to be found silent, or else given all the time that it needs.
    pub fn timeout(&self, silent: &'static str) -> &'static str {
        if matches!(self, Self::Silence | Self::StallUp(_) | Self::StallDown(_)) { silent } else { "1m" }
    }

    /// An error in the words of S3.
    pub fn error(status: u16, code: &str) -> Self {
        Self::Instead(Reply::error(status, code))
    }

    pub fn before(act: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self::Before(Arc::new(act))
    }

    pub fn in_place(act: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self::InPlace(Arc::new(act))
    }

    pub fn after(act: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self::After(Arc::new(act))
    }
}

/// The body of an answer to a request's path and query.
pub type Made = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// An answer that doesn't come from the server.
#[derive(Clone)]
pub enum Reply {
    Fixed {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// The body of a 200.
    Made(Made),
}

impl Reply {
    pub fn of(status: u16, body: &[u8]) -> Self {
        Self::Fixed { status, headers: Vec::new(), body: body.to_vec() }
    }

    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>by the proxy</Message>\
             <Resource>/</Resource><RequestId>4442587FB7D0A2F9</RequestId></Error>"
        );
        Self::of(status, body.as_bytes()).header("Content-Type", "application/xml")
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Fixed { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// As it is sent; HEAD gets no body.
    pub fn bytes(&self, method: &str, target: &str) -> (u16, Vec<u8>) {
        let (status, headers, body) = match self {
            Self::Fixed { status, headers, body } => (*status, headers.clone(), body.clone()),
            Self::Made(make) => (200, vec![("Content-Type".to_owned(), "application/xml".to_owned())], make(target)),
        };
        let mut text = format!("HTTP/1.1 {status} by the proxy\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
        let mut bytes = (text + "\r\n").into_bytes();
        if method != "HEAD" {
            bytes.extend(body);
        }
        (status, bytes)
    }
}

/// Which requests are meant.
#[derive(Clone)]
pub struct When {
    method: &'static str,
    part: String,
    from: usize,
    times: usize,
}

impl When {
    /// All of a method (of any, where it is empty) in whose path or query that stands.
    pub fn of(method: &'static str, part: &str) -> Self {
        Self { method, part: part.to_owned(), from: 1, times: usize::MAX }
    }

    pub fn any() -> Self {
        Self::of("", "")
    }

    /// From the `n`-th on.
    pub fn from(self, n: usize) -> Self {
        Self { from: n, ..self }
    }

    /// So many of them.
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    pub fn once(self) -> Self {
        self.times(1)
    }

    pub fn means(&self, method: &str, target: &str) -> bool {
        (self.method.is_empty() || self.method == method) && target.contains(&self.part)
    }

    /// Whether the `n`-th of them is spoilt.
    pub fn is_due(&self, n: usize) -> bool {
        n >= self.from && n - self.from < self.times
    }
}
