//! Clients that mean harm before anybody knows them: bytes that two parsers may read differently, names of hosts that aren't ours,
//! answers that nobody reads, more connections than there are descriptors.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::client::{Answer, Server, superuser};
use crate::harness::{PROGRAM, Place, Writer, eventually, python3};

/// Whatever comes in answer to exactly these bytes, until the other side closes.
fn said(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // Whoever is refused early may close before all of it is written.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request that some proxy in front could take for one and we for two, or the other way round: the second of them would come
/// in under the first one's name (RFC 9112 section 11.2). AUTH stands for a superuser's token, MORE for a request that makes a backup.
const AMBIGUOUS: &[(&str, &str)] = &[
    (
        "both lengths",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nMORE",
    ),
    (
        "two lengths",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\nMORE",
    ),
    (
        "a list of lengths",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: 0, 0\r\n\r\nMORE",
    ),
    (
        "a length with a sign",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: +0\r\n\r\nMORE",
    ),
    (
        "a negative length",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: -1\r\n\r\nMORE",
    ),
    (
        "a length in hex",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: 0x0\r\n\r\nMORE",
    ),
    (
        "a length of 2^64",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nContent-Length: 18446744073709551616\r\n\r\nMORE",
    ),
    ("a body to GET", "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nMORE"),
    ("pipelined", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nMORE"),
    ("pipelined by HTTP/1.0", "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\nMORE"),
    (
        "chunked, but not at last",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nMORE",
    ),
    (
        "chunked twice",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nMORE",
    ),
    (
        "chunked by another name",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nMORE",
    ),
    (
        "chunked with a tab",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\nMORE",
    ),
    (
        "a space before the colon",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\nMORE",
    ),
    (
        "a folded line",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nMORE",
    ),
    ("line ends without CR", "POST /api/backup/operation/cancel HTTP/1.1\nHost: x\nAUTH\nContent-Length: 0\n\nMORE"),
    (
        "a CR alone",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nX: a\rContent-Length: 9\r\n\r\nMORE",
    ),
    ("a zero in a header", "GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\nMORE"),
    (
        "a chunk's size with a sign",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nMORE",
    ),
    (
        "a chunk of 2^64",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nMORE",
    ),
    (
        "a chunk with an extension",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n0;a=\"\r\n\"\r\n\r\nMORE",
    ),
    (
        "a trailer",
        "POST /api/backup/operation/cancel HTTP/1.1\r\nHost: x\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer x\r\n\r\nMORE",
    ),
    ("an upgrade", "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nMORE"),
    (
        "HTTP/2 without TLS",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\nMORE",
    ),
    ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nMORE"),
    ("CONNECT", "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\nMORE"),
    ("HTTP/0.9", "GET /api/backup/list\r\n\r\nMORE"),
    ("another version", "GET /healthz HTTP/1.2\r\nHost: x\r\n\r\nMORE"),
];

#[test]
fn whatever_the_bytes_a_connection_is_for_one_request() {
    let place = Place::new();
    let server = Server::start(&place);
    let auth = format!("Authorization: Bearer {}", superuser());
    let more = format!("POST /api/backup/create HTTP/1.1\r\nHost: x\r\n{auth}\r\nContent-Length: 0\r\n\r\n");
    for (what, text) in AMBIGUOUS {
        let said = said(&server, text.replace("AUTH", &auth).replace("MORE", &more).as_bytes());
        assert!(said.matches("HTTP/1.1 2").count() <= 1, "{what}: {said}");
        assert!(!said.contains(" 201 ") && !said.contains("manual-"), "{what}: {said}");
        if said.matches("HTTP/1.1 ").count() > 1 {
            assert!(said.contains("HTTP/1.1 400 ") && said.contains("for one request here"), "{what}: {said}");
        }
    }
    // A thousand headers, and chunks that are mostly extension.
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let chunk = format!("1;{}\r\n \r\n", "e".repeat(4000));
    let padded = format!(
        "POST /api/backup/create HTTP/1.1\r\nHost: x\r\n{auth}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(500)
    );
    for text in [&many, &padded] {
        let said = said(&server, text.as_bytes());
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    assert_eq!(place.json(&["list"]), json!({ "backups": [] }));
    assert_eq!(server.request("GET", "/healthz").send().status, 200);
    server.stop();
}

/// Links in a mail or a page that lead to whoever asked for them are how passwords are stolen.
#[test]
fn no_answer_names_a_host_that_the_client_has_made_up() {
    let place = Place::new();
    let server = Server::start(&place);
    let names = ["Host", "X-Forwarded-Host", "X-Forwarded-Server", "X-Host", "X-Original-Host", "Forwarded"];
    let targets = ["/healthz", "/sign-in", "/api/openapi.json", "/nowhere", "/api/backup/list", "/settings/backups"];
    let assert_clean = |what: &str, answer: &Answer| {
        let shown = format!("{:?} {}", answer.headers, answer.text());
        assert!(!shown.contains("evil.example"), "{what}: {shown}");
    };
    for name in names {
        let value = if name == "Forwarded" { "host=evil.example;proto=https" } else { "evil.example" };
        for target in targets {
            for accept in ["text/html", "application/json"] {
                let request = server.request("GET", target).header("Accept", accept).token(&superuser());
                assert_clean(&format!("{name}: {target}"), &request.header(name, value).send());
            }
        }
        let created = server.request("POST", "/api/backup/create").token(&superuser()).header(name, value).send();
        assert_clean(name, &created);
        if created.status == 201 {
            assert!(created.header("location").unwrap().starts_with("/api/backup/"), "{created:?}");
        }
    }
    for target in ["http://evil.example/sign-in", "http://evil.example/nowhere", "//evil.example/", "/%2f/evil.example"]
    {
        let answer = server.request("GET", target).header("Accept", "text/html").send();
        // It may say which address was asked for, not lead there.
        assert!(answer.header("location").is_none_or(|to| to.starts_with('/') && !to.starts_with("//")), "{answer:?}");
    }
}

/// Asks for the longest answer that needs no token, over lines whose packets are as small as they may be, and reads nothing of it. The
/// kernel takes little of what it can't send: the rest is ours to keep.
const READS_NOTHING: &str = "
import socket, sys
kept = []
for _ in range(int(sys.argv[3])):
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(b'GET /api/openapi.json HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
    kept.append(s)
print('ready', flush=True)
sys.stdin.readline()
print('end')
";

#[test]
fn memory_does_not_grow_with_who_reads_nothing() {
    const READERS: u64 = 400;
    let place = Place::new();
    let server = Server::start(&place);
    let length = server.request("GET", "/api/openapi.json").send().body.len() as u64;
    let before = server.memory();
    let address = [server.address.ip().to_string(), server.address.port().to_string(), READERS.to_string()];
    let readers = Writer::spawn(python3().args(["-c", READS_NOTHING]).args(address));
    let answered = || server.log().matches("answered").count() as u64;
    eventually("all are answered", || (answered() > READERS).then_some(()));
    let grown = server.memory().saturating_sub(before);
    println!("{} KiB for each of {READERS} who would be sent {} KiB", (grown / READERS) >> 10, length >> 10);
    assert!(grown < READERS * length / 2, "{} KiB each", (grown / READERS) >> 10);
    assert_eq!(server.request("GET", "/healthz").send().status, 200);
    readers.last_line();
}

/// Idle connections take descriptors, and without any left no database could be opened.
#[test]
fn connections_leave_descriptors_for_backups() {
    let place = Place::new();
    let mut command = place.command_of("sh");
    command.args(["-c", "ulimit -n 280; exec \"$0\" serve", PROGRAM]).env("BACKUP_ENABLED", "false");
    let server = Server::of(&mut command, place.path("serve.log"));
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count();
    let create =
        server.request("POST", "/api/backup/create").token(&superuser()).header("Content-Type", "application/json");
    let mut create = create.header("Content-Length", "2").open().unwrap();
    let open = |_: u32| TcpStream::connect_timeout(&server.address, Duration::from_millis(3500)).ok();
    let idle: Vec<_> = (0..400).map_while(open).collect();
    let mut seen = std::collections::VecDeque::new();
    eventually("no more are taken", || {
        seen.push_back(descriptors());
        (seen.len() > 20 && seen.pop_front() == seen.back().copied()).then_some(())
    });
    create.write_all(b"{}").unwrap();
    let answer = Answer::read(&mut create, false).unwrap();
    assert_eq!(answer.status, 201, "with {} connections: {}", idle.len(), answer.text());
    drop(idle);
    server.stop();
    place.assert_whole();
}
