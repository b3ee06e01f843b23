//! How often, how much and how slowly anyone may ask: downloads are counted by user and by address, whatever headers say;
//! what is too large is refused, and what is too slow is cut while others are served.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Answer, Request, Server, superuser, token};
use crate::harness::{PROGRAM, Place, eventually};
use crate::nginx::Nginx;

/// One more is let through every twenty seconds.
const ALLOWED: u64 = 3;

const HERE: [Ipv4Addr; 3] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];

struct Counted {
    place: Place,
    server: Server,
    path: String,
}

impl Counted {
    fn new(proxies: Option<&str>) -> Self {
        let mut place = Place::new();
        place.set("BACKUP_DOWNLOADS_PER_MINUTE", &ALLOWED.to_string());
        if let Some(proxies) = proxies {
            place.set("BACKUP_TRUSTED_PROXIES", proxies);
        }
        let path = format!("/api/backup/download/{}?database=auth", place.create()["id"].as_str().unwrap());
        Self { server: Server::start(&place), place, path }
    }

    /// By a superuser that nobody has met yet.
    fn by(&self, subject: &str) -> Request {
        self.server.request("GET", &self.path).token(&token(json!({ "sub": subject, "role": "superuser" })))
    }

    /// From where downloads came, by the audit log.
    fn origins(&self) -> Vec<String> {
        let lines = self.place.audit().into_iter().filter(|it| it["operation"] == "download" && it["kind"] == "intent");
        lines.map(|line| line["from"].as_str().unwrap().to_owned()).collect()
    }
}

/// Sends them all; as many as are allowed get through, and the others are told when to come again.
#[track_caller]
fn assert_counted(requests: impl Iterator<Item = Request>) {
    let begun = Instant::now();
    let answers: Vec<Answer> = requests.map(|request| request.send()).collect();
    let regained = begun.elapsed().as_secs() / (60 / ALLOWED);
    let passed = answers.iter().filter(|answer| answer.status == 200).count() as u64;
    assert!((ALLOWED..=ALLOWED + regained).contains(&passed), "{passed} of {} passed", answers.len());
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.problem(429, "too-many-requests");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60 / ALLOWED + 1).contains(&wait), "{wait}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}

/// Says that it comes from elsewhere, each time from another place.
fn forged(request: Request, n: u32) -> Request {
    let elsewhere = format!("10.{}.{}.{}", n * 37 % 256, n * 101 % 256, n * 13 % 256);
    match n % 4 {
        0 => request.header("X-Forwarded-For", &elsewhere),
        1 => request.header("Forwarded", &format!("for={elsewhere}")),
        2 => request.header("X-Real-IP", &elsewhere).header("X-Forwarded-For", &format!("{elsewhere}, 127.0.0.1")),
        _ => request.header("X-Forwarded-For", &elsewhere).header("X-Forwarded-For", "2001:db8::1"),
    }
}

#[test]
fn downloads_are_counted_by_address_and_no_header_changes_it() {
    let counted = Counted::new(None);
    assert_counted((0..50).map(|n| forged(counted.by(&format!("user {n}")), n)));
    let origins = counted.origins();
    assert!(origins.len() >= 3 && origins.iter().all(|from| from == "127.0.0.1"), "{origins:?}");
    // Another address is another matter, and a HEAD takes nothing.
    assert_counted((0..10).map(|n| counted.by(&format!("other {n}")).from(HERE[1])));
    let head = counted.server.request("HEAD", &counted.path).token(&superuser());
    assert!((0..10).all(|_| head.send().status == 200));
}

#[test]
fn downloads_are_counted_by_user_wherever_he_comes_from_and_by_whatever_route() {
    let counted = Counted::new(None);
    let id = counted.path.split(['/', '?']).nth(4).unwrap();
    let other = counted.server.request("GET", &format!("/api/backup/{id}/download"));
    let requests = (0..50).map(|n: usize| {
        let request = if n.is_multiple_of(2) { counted.by("ada") } else { other.clone().token(&superuser()) };
        request.from(Ipv4Addr::new(127, 0, 1, n as u8))
    });
    assert_counted(requests);
    assert_eq!(counted.by("bea").from(HERE[2]).send().status, 200);
}

/// The proxy's own address is trusted and no other: a network that clients belong to must not be.
#[test]
fn behind_a_proxy_each_client_is_counted_and_forging_gains_nothing() {
    let counted = Counted::new(Some("127.0.0.1/32"));
    let nginx = Nginx::before(counted.server.address);
    for from in &HERE[1..] {
        assert_counted((0..12).map(|n| {
            let request = counted.by(&format!("{from} {n}")).to(nginx.address).from(*from);
            if n == 0 { request } else { forged(request, n) }
        }));
    }
    let mut origins = counted.origins();
    origins.dedup();
    assert_eq!(origins, ["127.0.0.2", "127.0.0.3"]);
    // Past the proxy the header is worth nothing.
    assert_counted((0..12).map(|n| forged(counted.by(&format!("past {n}")).from(Ipv4Addr::new(127, 0, 0, 9)), n)));
    assert_eq!(counted.origins().last().unwrap(), "127.0.0.9");
    // A refused token is told with the same address.
    counted.server.request("GET", "/api/backup/list").token("x.y.z").to(nginx.address).from(HERE[2]).send();
    let last = counted.place.audit().pop().unwrap();
    assert_eq!((&last["operation"], &last["from"]), (&"sign-in".into(), &"127.0.0.3".into()));
}

#[test]
fn a_request_is_small_plain_and_one_json_object() {
    let place = Place::new();
    let server = Server::start(&place);
    let create = server.request("POST", "/api/backup/create").token(&superuser());
    let typed = create.clone().header("Content-Type", "application/json");
    let fat = format!(r#"{{"reason":"{}"}}"#, "x".repeat(64 << 10)).into_bytes();
    typed.clone().body(&fat).send().problem(413, "too-large");
    typed.clone().chunked(&fat).send().problem(413, "too-large");
    // Of exactly what is allowed, only the reason is too long.
    let full = format!(r#"{{"reason":"{}"}}"#, "x".repeat((64 << 10) - 13)).into_bytes();
    typed.clone().body(&full).send().problem(400, "bad-body");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"] {
        let answer = create.clone().header("Content-Type", kind).body(b"{}").send();
        answer.problem(415, "unsupported-media-type");
    }
    create.clone().body(b"{}").send().problem(415, "unsupported-media-type");
    for coding in ["gzip", "br", "identity"] {
        let answer = typed.clone().header("Content-Encoding", coding).body(b"{}").send();
        answer.problem(415, "unsupported-media-type");
    }
    let deep = format!(r#"{{"reason":{}"#, "[".repeat(30_000));
    let bodies = [
        &deep,
        r#"{"reason":"a","reason":"b"}"#,
        r#"{"reason":"a"} x"#,
        r#"{"reason":"a"}{}"#,
        r#"{"reason":"a","more":1}"#,
        r#"{"reason":"#,
        "[]",
        "null",
        "\u{0}",
    ];
    for body in bodies {
        typed.clone().body(body.as_bytes()).send().problem(400, "bad-body");
    }
    typed.clone().body(b"{\"reason\":\"\xff\"}").send().problem(400, "bad-body");
    let nested = |depth: usize| format!(r#"{{"retention":{}1{}}}"#, r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for body in [nested(5000), r#"{"enabled":true} {}"#.to_owned(), r#"{"retention":["#.to_owned()] {
        let put = server.request("PUT", "/api/backup/config").token(&superuser()).header("If-Match", "*");
        let answer = put.header("Content-Type", "application/json").body(body.as_bytes()).send();
        answer.problem(400, "bad-body");
    }
    let head =
        |bytes: usize| server.request("GET", "/api/backup/list").token(&superuser()).header("X", &"x".repeat(bytes));
    assert_eq!(head(15 << 10).send().status, 200);
    head(16 << 10).send().problem(431, "headers-too-large");
    let many = (0..90).fold(head(1), |request, n| request.header(&format!("X-{n}"), &"y".repeat(200)));
    many.send().problem(431, "headers-too-large");
    server.get(&format!("/api/backup/list?type={}", "x".repeat(8 << 10))).problem(414, "uri-too-long");
    assert_eq!(place.json(&["list"]), json!({ "backups": [] }));
}

/// Writes the rest byte by byte, one a second, until it is cut. Says what came.
fn drip(what: &str, mut stream: TcpStream, mut rest: impl Iterator<Item = u8>) -> String {
    let (begun, mut answer) = (Instant::now(), Vec::new());
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    loop {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{what} was never cut: {}",
            String::from_utf8_lossy(&answer)
        );
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => answer.extend(&bytes[..n]),
            Err(error) if [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind()) => {
                if stream.write_all(&[rest.next().unwrap()]).is_err() {
                    // Cut since it was read from last.
                    let _ = stream.read_to_end(&mut answer);
                    break;
                }
            }
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn who_is_slow_is_cut_and_others_are_served_meanwhile() {
    let place = Place::new();
    let server = Server::start(&place);
    let filler = || std::iter::repeat(b'x');
    let open = |head: &str| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let slow_body = |method: &str, path: &str, token: &str| {
        let request = server.request(method, path).header("Content-Type", "application/json");
        let request = request.header("Content-Length", "60000");
        if token.is_empty() { request.open().unwrap() } else { request.token(token).open().unwrap() }
    };
    let mut again = open("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut first = [0; 15];
    again.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    again.write_all(b"GET /healthz HTTP/1.1\r\nX: ").unwrap();
    let slow = [
        ("a head", open("GET /healthz HTTP/1.1\r\nX: ")),
        ("a request line", open("GET /")),
        ("a second head", again),
        ("a body", slow_body("POST", "/api/backup/create", &superuser())),
        ("a body that nobody reads", slow_body("POST", "/api/backup/operation/cancel", &superuser())),
        ("a body without a token", slow_body("POST", "/api/backup/create", "")),
        ("a body to nowhere", slow_body("POST", "/nowhere", &superuser())),
    ];
    let answers = std::thread::scope(|scope| {
        let slow = slow.map(|(what, stream)| (what, scope.spawn(move || drip(what, stream, filler()))));
        while slow.iter().any(|(_, thread)| !thread.is_finished()) {
            assert_eq!(server.get("/api/backup/status").status, 200);
            std::thread::sleep(Duration::from_millis(100));
        }
        slow.map(|(what, thread)| (what, thread.join().unwrap()))
    });
    for (what, answer) in &answers[..2] {
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{what}: {answer}");
    }
    let (what, answer) = &answers[3];
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("problem:timeout"), "{what}: {answer}");
    assert_eq!(place.json(&["list"]), json!({ "backups": [] }));
}

/// The soft limit that shells give is 1024. Where the hard one forbids ten thousand, as many are opened as it allows.
#[test]
fn ten_thousand_idle_connections_stand_in_nobodys_way() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    // Others of these tests run beside this one.
    let count = limit.maximum.map_or(10_000, |most| most.saturating_sub(1000).min(10_000)) as usize;
    let place = Place::new();
    let mut command = place.command_of("sh");
    command.args(["-c", "ulimit -Sn 1024; exec \"$0\" serve", PROGRAM]).env("BACKUP_ENABLED", "false");
    let server = Server::of(&mut command, place.path("serve.log"));
    server.get("/api/backup/status").ok();
    let before = server.memory();
    let (mut idle, mut most, mut grown, mut late) = (Vec::new(), 0, 0, 0);
    let begun = Instant::now();
    while idle.len() < count {
        idle.extend((0..500).map(|_| TcpStream::connect(server.address).unwrap()));
        let asked = Instant::now();
        assert_eq!(server.get("/api/backup/status").status, 200);
        // Where no more connections are taken, it is served when the first idle ones are cut.
        late += usize::from(asked.elapsed() > Duration::from_secs(5));
        assert!(late < 3, "{:?} with {} idle", asked.elapsed(), idle.len());
        (most, grown) = (most.max(server.descriptors()), grown.max(server.memory().saturating_sub(before)));
    }
    let opened_in = begun.elapsed();
    println!("{} idle connections, {most} at once, take {} KiB", idle.len(), grown >> 10);
    // Each is cut when its head has not come for ten seconds: on a slow machine the first before the last come.
    let least = if opened_in < Duration::from_secs(9) { count } else { 2000 };
    assert!(most > least, "only {most} were open at once, all opened in {opened_in:?}");
    assert!(grown < (most as u64) << 14, "{} KiB for {most}", grown >> 10);
    for stream in &mut idle {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut answer = Vec::new();
        // Told that it was too slow, or nothing; but closed.
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "));
    }
    assert_eq!(server.get("/api/backup/status").status, 200);
    eventually("they are closed", || (server.descriptors() < 100).then_some(()));
}
