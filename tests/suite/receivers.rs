//! What notices are sent to: a mail server, and whoever takes them by HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Place, eventually, kill};

/// The password of the mailbox that the sink knows.
pub const PASSWORD: &str = "pass-of-the-mailbox";

/// A mail server that keeps what it is sent.
pub struct Sink {
    child: Child,
    pub port: u16,
    file: PathBuf,
}

impl Sink {
    /// `starttls`, `tls`, `none`, `thinking`, `stripped` or `slow`.
    pub fn start(place: &Place, mode: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = place.path(&format!("mails-{mode}.jsonl"));
        std::fs::write(&file, "").unwrap();
        authority(place);
        let mut child = Command::new(root.join("target/venv/bin/python"))
            .arg(root.join("tests/suite/python/smtp_sink.py"))
            .arg(mode)
            .arg(&file)
            .args([place.path("tls/mail.pem"), place.path("tls/mail.key")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("run `scripts/setup test`");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap(), file }
    }

    /// Every mail so far.
    pub fn mails(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The mail of that subject, which must come.
    pub fn mail(&self, subject: &str) -> Value {
        let is_it = |mail: &Value| mail["headers"]["subject"].as_str().unwrap().contains(subject);
        eventually(subject, || self.mails().into_iter().find(is_it))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// An authority of the school's own, and a certificate by it for `localhost`, once for each place.
pub fn authority(place: &Place) {
    let folder = place.path("tls");
    if folder.exists() {
        return;
    }
    std::fs::create_dir(&folder).unwrap();
    let script = "set -e; \
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -keyout ca.key -out ca.pem -subj '/CN=School CA' \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign; \
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout mail.key -out mail.csr -subj /CN=localhost; \
        printf 'subjectAltName=DNS:localhost\\nextendedKeyUsage=serverAuth\\n' > ext; \
        openssl x509 -req -in mail.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -extfile ext -out mail.pem";
    let made = Command::new("sh").args(["-c", script]).current_dir(&folder).stderr(Stdio::null()).status();
    assert!(made.unwrap().success());
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Got {
    pub line: String,
    pub head: String,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A server that keeps what it is asked, and answers what it is told to.
pub struct Receiver {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    answer: Arc<Mutex<String>>,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self { address: listener.local_addr().unwrap(), got: Arc::default(), answer: Arc::default() };
        receiver.answers("204 No Content");
        let (got, answer) = (Arc::clone(&receiver.got), Arc::clone(&receiver.answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (got, answer) = (Arc::clone(&got), answer.lock().unwrap().clone());
                std::thread::spawn(move || drop(take(stream, &got, &answer)));
            }
        });
        receiver
    }

    /// From now on: a status with its words, and headers; nothing at all where it is empty.
    pub fn answers(&self, answer: &str) {
        *self.answer.lock().unwrap() = answer.to_owned();
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// The event that must come, in that stage.
    pub fn event(&self, event: &str, stage: &str) -> Value {
        let is_it = |it: &Value| it["event"] == event && it["stage"] == stage;
        eventually(event, || self.got().iter().map(Got::json).find(is_it))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn take(mut stream: TcpStream, got: &Mutex<Vec<Got>>, answer: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut head) = (String::new(), String::new());
    reader.read_line(&mut line)?;
    while !head.ends_with("\r\n\r\n") && head != "\r\n" {
        reader.read_line(&mut head)?;
    }
    let mut request = Got { line: line.trim_end().to_owned(), head, body: Vec::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    got.lock().unwrap().push(request);
    if answer.is_empty() {
        std::thread::sleep(Duration::from_secs(30));
    }
    write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}
