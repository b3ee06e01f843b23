//! A server on loopback that reads one request a connection, and answers it as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// What was asked. The first part of the path is the host that it was meant for.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// A value of the query, or of a form.
    pub fn value(&self, name: &str) -> String {
        let form =
            if self.query.is_empty() { String::from_utf8_lossy(&self.body).into_owned() } else { self.query.clone() };
        let found = url::form_urlencoded::parse(form.as_bytes()).find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned()).unwrap_or_default()
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A whole answer.
    Whole(u16, Vec<u8>),
    /// One that says it is longer than what comes; then the connection is closed.
    Cut(u16, Vec<u8>),
    /// The head, and the body as far as it goes; then nothing, until the other side has had enough.
    Stalled(Vec<u8>),
    /// No length, and the end is the connection's.
    Endless(Vec<u8>),
    /// S3's to a chunk.
    Tagged,
    /// Another address.
    Elsewhere(String),
    /// The connection is closed without a word.
    Nothing,
}

impl Answer {
    pub fn json(status: u16, json: &serde_json::Value) -> Self {
        Answer::Whole(status, json.to_string().into_bytes())
    }
}

/// Answers on loopback until the test ends.
pub fn serve(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), Arc::clone(&answer));
            std::thread::spawn(move || {
                if let Some(request) = read(&stream) {
                    let answer = answer(&request);
                    write(stream, &answer);
                }
            });
        }
    });
    address
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut request = Request { method, path: path.to_owned(), query: query.to_owned(), headers, body: Vec::new() };
    let length = request.header("content-length").parse().unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.body = body;
    Some(request)
}

fn write(mut stream: TcpStream, answer: &Answer) {
    let head = |status: u16, length: Option<usize>| {
        let length = length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
        format!("HTTP/1.1 {status} Said\r\n{length}Connection: close\r\n\r\n")
    };
    let (head, body) = match answer {
        Answer::Whole(status, body) => (head(*status, Some(body.len())), body.as_slice()),
        Answer::Cut(status, body) => (head(*status, Some(body.len() + 1000)), body.as_slice()),
        Answer::Stalled(body) => (head(200, Some(body.len() + 1000)), body.as_slice()),
        Answer::Endless(body) => (head(200, None), body.as_slice()),
        Answer::Tagged => {
            ("HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(), &[][..])
        }
        Answer::Elsewhere(address) => (
            format!("HTTP/1.1 302 Found\r\nLocation: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            &[][..],
        ),
        Answer::Nothing => return,
    };
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    if matches!(answer, Answer::Stalled(_)) {
        // Until the other side closes.
        let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
        let _ = stream.read(&mut [0]);
    }
}
