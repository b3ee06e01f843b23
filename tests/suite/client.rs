//! A running `serve` and a client that sends exactly the bytes it is told to: no path is tidied, no header added.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{AUDIENCE, Place, SECRET, kill};
use crate::patience::PATIENCE;

/// A running `serve`. Its schedule is off unless the place says otherwise.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    log: PathBuf,
}

impl Server {
    pub fn start(place: &Place) -> Self {
        let mut command = place.command(&["serve"]);
        if !place.environment().iter().any(|(name, _)| name == "BACKUP_ENABLED") {
            command.env("BACKUP_ENABLED", "false");
        }
        Self::of(&mut command, place.path("serve.log"))
    }

    /// Its log goes to a file, from which its address is read.
    pub fn of(command: &mut Command, log: PathBuf) -> Self {
        Self::try_of(command, log.clone()).unwrap_or_else(|| panic!("{}", std::fs::read_to_string(log).unwrap()))
    }

    /// The same; nothing if it ended before it had an address.
    pub fn try_of(command: &mut Command, log: PathBuf) -> Option<Self> {
        let file = std::fs::File::create(&log).unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let begun = Instant::now();
        let address = loop {
            let text = std::fs::read_to_string(&log).unwrap();
            let found = |mark| text.lines().find_map(move |line| Some(line.split_once(mark)?.1.to_owned()));
            // As text, or as JSON.
            if let Some(at) = found(" address=").or_else(|| found("\"address\":\"")) {
                break at.split('"').next().unwrap().trim().parse().unwrap();
            }
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(begun.elapsed() < PATIENCE, "no address: {text}");
            std::thread::sleep(Duration::from_millis(20));
        };
        Some(Self { child, address, log })
    }

    pub fn request(&self, method: &str, path: &str) -> Request {
        let headers = vec![("Host".to_owned(), self.address.to_string())];
        let (method, path) = (method.to_owned(), path.to_owned());
        let (from, body) = (Ipv4Addr::UNSPECIFIED, Vec::new());
        Request { address: self.address, is_direct: true, from, method, path, headers, body }
    }

    /// As a superuser.
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path).token(&superuser()).send()
    }

    /// As a superuser.
    pub fn post(&self, path: &str) -> Answer {
        self.request("POST", path).token(&superuser()).send()
    }

    /// Everything that it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Memory that it holds now, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// How many files, connections and the like it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Asks it to end, waits for that, and says what it has logged.
    pub fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(self.ended().code(), Some(0), "{}", self.log());
        self.log()
    }

    /// How it ended, when it was told to; that takes it no longer than a supervisor waits at most.
    pub fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// A request as it will be sent.
#[derive(Clone)]
pub struct Request {
    address: SocketAddr,
    is_direct: bool,
    from: Ipv4Addr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn token(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// To another port, such as a proxy's.
    pub fn to(self, address: SocketAddr) -> Self {
        Self { address, is_direct: false, ..self }
    }

    /// From this address of this machine, such as 127.0.0.2.
    pub fn from(self, from: Ipv4Addr) -> Self {
        Self { from, ..self }
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string().as_bytes())
    }

    pub fn body(self, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self }.header("Content-Length", &body.len().to_string())
    }

    /// In chunks, without a word of how long it is.
    pub fn chunked(self, body: &[u8]) -> Self {
        let mut chunks = Vec::new();
        for chunk in body.chunks(1000) {
            chunks.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            chunks.extend(chunk);
            chunks.extend(b"\r\n");
        }
        chunks.extend(b"0\r\n\r\n");
        Self { body: chunks, ..self }.header("Transfer-Encoding", "chunked")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let mut bytes = (text + "Connection: close\r\n\r\n").into_bytes();
        bytes.extend(&self.body);
        bytes
    }

    /// Sends it, and reads the answer to its end.
    #[track_caller]
    pub fn send(&self) -> Answer {
        self.try_send().unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.path))
    }

    pub fn try_send(&self) -> std::io::Result<Answer> {
        let mut stream = self.open()?;
        let answer = Answer::read(&mut stream, self.method == "HEAD")?;
        // A proxy has answers of its own.
        if self.is_direct {
            answer.assert_secure(&format!("{} {}", self.method, self.path));
        }
        Ok(answer)
    }

    /// Sends it, and leaves the answer to be read.
    pub fn open(&self) -> std::io::Result<TcpStream> {
        let mut stream = connect(self.from, self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(&self.bytes())?;
        Ok(stream)
    }
}

/// A connection from one of this machine's addresses.
fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    if !from.is_unspecified() {
        bind(&socket, &SocketAddrV4::new(from, 0))?;
    }
    connect(&socket, &to)?;
    Ok(socket.into())
}

/// What each answer says to browsers.
const SECURE: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The head, and as many bytes as `Content-Length` says: fewer are an error.
    pub fn read(stream: &mut impl Read, headless: bool) -> std::io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let bad = || std::io::Error::new(std::io::ErrorKind::InvalidData, "not an answer");
        let status = line.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut answer = Self { status, headers, body: Vec::new() };
        if !headless && let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().map_err(|_| bad())?];
            reader.read_exact(&mut answer.body)?;
        } else if !headless {
            reader.read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// It has those headers, each once, and says how long it may be kept. What isn't HTTP, doesn't come or has no end
    /// is answered by a bare status before any code of ours.
    #[track_caller]
    pub fn assert_secure(&self, what: &str) {
        if [400, 408, 431].contains(&self.status) && self.header("content-type").is_none() {
            return;
        }
        let all =
            |name: &str| self.headers.iter().filter(|it| it.0 == name).map(|it| it.1.as_str()).collect::<Vec<_>>();
        for (name, value) in SECURE {
            assert_eq!(all(name), [value], "{what}: {} {name}", self.status);
        }
        let kept = all("cache-control");
        assert!(kept == ["no-store"] || kept == ["public, max-age=31536000, immutable"], "{what}: {kept:?}");
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// It went well; its JSON.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text());
        self.json()
    }

    /// It is that problem, whole and in form; its `detail`.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:attendance-backup:problem:{code}"), "{problem}");
        assert_eq!(problem["status"], status);
        let detail = problem["detail"].as_str().unwrap();
        assert!(problem["title"].as_str().unwrap().len() > 5 && detail.len() > 10, "{problem}");
        detail.to_owned()
    }
}

/// A second that lies an hour ahead.
#[allow(clippy::disallowed_methods)]
pub fn in_an_hour() -> i64 {
    chrono::Utc::now().timestamp() + 3600
}

/// Signs exactly this text as a payload, with the place's secret.
pub fn sign(header: &str, payload: &str) -> String {
    sign_with(SECRET, header, payload)
}

/// The same with any secret.
pub fn sign_with(secret: &str, header: &str, payload: &str) -> String {
    let message = format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()));
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

pub fn base64url(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

pub const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// A token with these claims on top of those that every token needs.
pub fn token(claims: Value) -> String {
    let mut all = json!({ "sub": "ada", "aud": AUDIENCE, "exp": in_an_hour() });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    sign(HS256, &all.to_string())
}

pub fn superuser() -> String {
    token(json!({ "role": "superuser" }))
}

pub fn user() -> String {
    token(json!({ "role": "teacher" }))
}
