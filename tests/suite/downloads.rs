//! Downloads over HTTP: the very bytes, in parts or as a tar, never a damaged copy whole, and each of them recorded
//! [P8, P10].

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;

use base64::Engine;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::client::{Answer, Request, Server, superuser, token};
use crate::damage::flip;
use crate::harness::{Place, eventually, python, sha256, untimed};

/// A backup, and a server that hands it out.
pub struct Library {
    pub place: Place,
    pub server: Server,
    pub backup: Value,
}

impl Library {
    fn new() -> Self {
        Self::of(Place::new())
    }

    pub fn of(mut place: Place) -> Self {
        place.set("BACKUP_DOWNLOADS_PER_MINUTE", "1000");
        let backup = place.create();
        Self { server: Server::start(&place), place, backup }
    }

    pub fn id(&self) -> &str {
        self.backup["id"].as_str().unwrap()
    }

    pub fn path(&self, name: &str) -> String {
        format!("/api/backup/download/{}?database={name}", self.id())
    }

    pub fn get(&self, name: &str) -> Request {
        self.server.request("GET", &self.path(name)).token(&superuser())
    }

    fn range(&self, range: &str) -> Answer {
        self.get("attendance").header("Range", range).send()
    }

    pub fn tar(&self) -> Request {
        self.server.request("GET", &format!("/api/backup/download/{}", self.id())).token(&superuser())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.place.copy(&self.backup, name)).unwrap()
    }

    pub fn audited(&self) -> Vec<Value> {
        self.place.audit().into_iter().filter(|line| line["operation"] == "download").collect()
    }

    /// The last outcome, when `count` of them are there: it is written after the last byte was sent.
    pub fn outcome(&self, count: usize) -> Value {
        eventually("the outcome", || {
            let outcomes: Vec<_> = self.audited().into_iter().filter(|line| line["kind"] == "outcome").collect();
            assert!(outcomes.len() <= count, "{outcomes:?}");
            outcomes.into_iter().nth(count - 1)
        })
    }
}

#[test]
fn one_database_comes_as_it_lies_there_with_all_that_proves_it() {
    let library = Library::new();
    for name in ["attendance", "auth"] {
        let bytes = library.bytes(name);
        let answer = library.get(name).header("Accept-Encoding", "gzip, br, zstd").send();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.body == bytes, "other bytes than on the disk");
        let checksum = library.backup["databases"][name]["checksum"].as_str().unwrap();
        let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&bytes));
        let expected = [
            ("content-length", bytes.len().to_string()),
            ("content-type", "application/vnd.sqlite3".to_owned()),
            ("etag", format!("\"{checksum}\"")),
            ("repr-digest", format!("sha-256=:{digest}:")),
            ("content-disposition", format!("attachment; filename=\"{name}-{}.db\"", library.id())),
            ("accept-ranges", "bytes".to_owned()),
            ("cache-control", "no-store".to_owned()),
        ];
        let head = library.server.request("HEAD", &library.path(name)).token(&superuser()).send();
        assert_eq!((head.status, head.body.len()), (200, 0));
        for (header, value) in expected {
            assert_eq!(answer.header(header), Some(value.as_str()), "{header}");
            assert_eq!(head.header(header), Some(value.as_str()), "{header} of HEAD");
        }
        assert_eq!(answer.header("content-encoding"), None);
        assert_eq!(answer.header("transfer-encoding"), None);
    }
}

/// The intent is there before the first byte, and a HEAD or an answer without a file leaves no line.
#[test]
fn what_leaves_is_recorded_and_what_does_not_is_not() {
    let library = Library::new();
    let size = library.bytes("auth").len();
    let etag = library.get("auth").send().header("etag").unwrap().to_owned();
    let outcome = library.outcome(1);
    assert_eq!(
        (&outcome["ok"], &untimed(&outcome["details"])),
        (&true.into(), &json!({ "databases": "auth", "bytes": size }))
    );
    assert_eq!((&outcome["by"], &outcome["from"]), (&"user:ada".into(), &"127.0.0.1".into()));
    let before = library.audited().len();
    assert_eq!(before, 2);
    let head = library.server.request("HEAD", &library.path("auth")).token(&superuser());
    assert_eq!(head.send().status, 200);
    assert_eq!(head.header("Range", "bytes=0-9").send().header("content-length"), Some(size.to_string().as_str()));
    for (header, value, status) in [
        ("If-None-Match", etag.as_str(), 304),
        ("If-None-Match", &format!("\"other\", W/{etag}"), 304),
        ("If-None-Match", "*", 304),
        ("If-Match", "\"other\"", 412),
        ("If-Match", &format!("W/{etag}"), 412),
        ("Range", "bytes=99999999-", 416),
    ] {
        let answer = library.get("auth").header(header, value).send();
        assert_eq!(answer.status, status, "{header}: {value}");
        assert_eq!(answer.header("etag").is_some_and(|it| it == etag), status == 304, "{header}: {value}");
    }
    assert_eq!(library.audited().len(), before);
    for (header, value) in [("If-Match", etag.as_str()), ("If-Match", "*"), ("If-None-Match", "\"other\"")] {
        assert_eq!(library.get("auth").header(header, value).send().status, 200, "{header}: {value}");
    }
    // Each comes when its download is over, also after the begin of the next.
    library.outcome(4);
    library.tar().send();
    let outcome = library.outcome(5);
    assert_eq!(outcome["details"]["databases"], "attendance,auth");
    let lines = library.audited();
    let position = |kind: &str| lines.iter().rposition(|line| line["kind"] == kind).unwrap();
    assert!(lines.len() == 10 && position("intent") < position("outcome"));
    library.server.stop();
    library.place.assert_whole();
}

#[test]
fn parts_are_those_that_were_asked_for_and_make_up_the_whole() {
    let library = Library::new();
    let whole = library.bytes("attendance");
    let size = whole.len();
    let etag = format!("\"{}\"", sha256(&whole));
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=4096-", 4096, size),
        ("bytes=-100", size - 100, size),
        ("bytes=-99999999", 0, size),
        ("bytes=0-99999999", 0, size),
        ("bytes=-9223372036854775808", 0, size),
        ("bytes=-18446744073709551616", 0, size),
        ("bytes=7-18446744073709551615", 7, size),
        ("bytes=7-18446744073709551616", 7, size),
        ("bytes=7-999999999999999999999999999999999999", 7, size),
    ] {
        let answer = library.range(range);
        assert_eq!(answer.status, 206, "{range}: {}", answer.text());
        assert!(answer.body == whole[from..to], "{range}");
        let expected = format!("bytes {from}-{}/{size}", to - 1);
        assert_eq!(answer.header("content-range"), Some(expected.as_str()), "{range}");
        assert_eq!(answer.header("content-length"), Some((to - from).to_string().as_str()), "{range}");
        assert_eq!(answer.header("etag"), Some(etag.as_str()), "{range}");
    }
    let last = size.to_string();
    let beyond = [
        &format!("bytes={last}-"),
        &format!("bytes={last}-{last}"),
        "bytes=-0",
        "bytes=5-2",
        "bytes=9223372036854775808-",
        "bytes=18446744073709551615-18446744073709551615",
        "bytes=18446744073709551616-",
        "bytes=18446744073709551616-18446744073709551617",
    ];
    for range in beyond {
        let answer = library.range(range);
        answer.problem(416, "bad-range");
        assert_eq!(answer.header("content-range"), Some(format!("bytes */{size}").as_str()), "{range}");
    }
    let overlapping = format!("bytes={}0-9", "0-9,".repeat(999));
    let others = ["bytes=0-1,4-5", &overlapping, "rows=0-9", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1-2-3"];
    for range in others.into_iter().chain(["bytes=--1", "bytes=+1-2", "bytes=0x1-0x2", "bytes=1.5-2", "=0-1", "0-1"]) {
        let answer = library.range(range);
        assert!(answer.status == 200 && answer.body == whole, "{range}: {}", answer.status);
        assert_eq!(answer.header("content-range"), None, "{range}");
    }
    for (condition, status) in [
        (etag.as_str(), 206),
        ("\"other\"", 200),
        (&format!("W/{etag}"), 200),
        ("Thu, 08 Jan 2026 00:00:00 GMT", 200),
        ("nonsense", 200),
    ] {
        let answer = library.get("attendance").header("Range", "bytes=0-9").header("If-Range", condition).send();
        assert_eq!(answer.status, status, "{condition}");
        assert_eq!(answer.body.len(), if status == 206 { 10 } else { size }, "{condition}");
    }
    let mut joined = Vec::new();
    while joined.len() < size {
        joined.extend(library.range(&format!("bytes={}-{}", joined.len(), joined.len() + 4999)).body);
    }
    assert!(joined == whole);
}

#[test]
fn the_ranges_of_one_download_are_one_pair_of_lines_for_each_user() {
    let library = Library::new();
    let by = |subject: &str, name: &str| {
        let request = library.server.request("GET", &library.path(name));
        request.token(&token(json!({ "sub": subject, "role": "superuser" }))).header("Range", "bytes=0-99").send()
    };
    for (count, subject, name) in [(1, "ada", "auth"), (2, "bea", "auth"), (3, "ada", "attendance")] {
        for _ in 0..5 {
            assert_eq!(by(subject, name).status, 206);
        }
        let outcome = library.outcome(count);
        assert_eq!(outcome["by"], format!("user:{subject}"));
        assert_eq!(untimed(&outcome["details"]), json!({ "range": "0-99", "databases": name, "bytes": 100 }));
    }
    assert_eq!(library.audited().len(), 6);
    // The whole is another thing.
    assert_eq!(library.get("auth").send().status, 200);
    library.outcome(4);
}

/// What can't be recorded doesn't leave, at the second try as little as at the first.
#[test]
fn without_an_audit_log_no_part_leaves() {
    let library = Library::new();
    let log = library.place.backups().join("audit.jsonl");
    let aside = library.place.path("audit.aside");
    std::fs::rename(&log, &aside).unwrap();
    std::fs::create_dir(&log).unwrap();
    for _ in 0..3 {
        library.range("bytes=0-9").problem(503, "audit");
        library.get("auth").send().problem(503, "audit");
        library.tar().send().problem(503, "audit");
    }
    std::fs::remove_dir(&log).unwrap();
    std::fs::rename(&aside, &log).unwrap();
    assert_eq!(library.range("bytes=0-9").status, 206);
    library.outcome(1);
}

#[test]
fn the_tar_is_unpacked_checked_and_opened_by_the_tools_that_people_have() {
    let library = Library::new();
    let answer = library.tar().send();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    assert_eq!(answer.body.len() % 512, 0);
    let name = format!("attachment; filename=\"{}.tar\"", library.id());
    assert_eq!(answer.header("content-disposition"), Some(name.as_str()));
    let head = library.server.request("HEAD", &format!("/api/backup/{}/download", library.id()));
    let head = head.token(&superuser()).send();
    for header in ["content-length", "etag", "content-type"] {
        assert_eq!(answer.header(header), head.header(header), "{header}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("it.tar"), &answer.body).unwrap();
    let run = |command: &str| {
        let output = Command::new("sh").current_dir(dir.path()).args(["-c", command]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("tar -tf it.tar"), "attendance.db\nauth.db\nSHA256SUMS\n");
    assert_eq!(run("tar -xf it.tar && sha256sum -c SHA256SUMS"), "attendance.db: OK\nauth.db: OK\n");
    assert!(run("stat -c %a *.db SHA256SUMS").lines().all(|mode| mode == "600"));
    let opened = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n\
                  print(c.execute('PRAGMA integrity_check').fetchone()[0], *c.execute('SELECT count(*) FROM people'))";
    assert_eq!(python(opened, &[&dir.path().join("attendance.db")]), "ok (3,)");
}

/// The head, and what came of the body until the connection ended.
fn broken_off(request: &Request) -> (Answer, Vec<u8>) {
    let mut stream = request.open().unwrap();
    let head = Answer::read(&mut Unbuffered(&mut stream), true).unwrap();
    let mut body = Vec::new();
    drop(stream.read_to_end(&mut body));
    (head, body)
}

/// Gives a reader no more than it has asked for: what follows the head is left.
pub struct Unbuffered<'a>(pub &'a mut TcpStream);

impl Read for Unbuffered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = buffer.len().min(1);
        self.0.read(&mut buffer[..n])
    }
}

#[test]
fn a_damaged_copy_is_never_delivered_whole() {
    let place = Place::new();
    // Longer than what is read before anything is answered.
    place.fill(3);
    let library = Library::of(place);
    let path = library.place.copy(&library.backup, "attendance");
    let whole = library.bytes("attendance");
    let mut count = 0;
    for at in [0, whole.len() / 2, whole.len() - 1] {
        flip(&path, |_| at);
        for request in [library.get("attendance"), library.tar()] {
            let (head, body) = broken_off(&request);
            let announced: usize = head.header("content-length").unwrap().parse().unwrap();
            assert_eq!(head.status, 200);
            assert!(body.len() < announced && body.len() < whole.len(), "{} of {announced}", body.len());
            count += 1;
            let outcome = library.outcome(count);
            assert_eq!((&outcome["ok"], &outcome["code"]), (&false.into(), &"damaged".into()), "{outcome}");
            assert!(outcome["reason"].as_str().unwrap().contains("other bytes than were recorded"), "{outcome}");
            // The head's bytes of the tar count as well; the last block of the copy doesn't.
            assert!(outcome["details"]["bytes"].as_u64().unwrap() < whole.len() as u64, "{outcome}");
        }
        flip(&path, |_| at);
    }
    // That is a failure of ours.
    assert_eq!(library.server.get("/api/backup/status").ok()["lastFailure"]["operation"], "download");
    for less in [1, 4096, whole.len() as u64] {
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(whole.len() as u64 - less).unwrap();
        library.get("attendance").send().problem(422, "damaged");
        library.tar().send().problem(422, "damaged");
        library.range("bytes=0-9").problem(422, "damaged");
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(library.get("attendance").send().body == whole);
    library.outcome(count + 1);
    assert_eq!(library.server.get("/api/backup/status").ok()["lastFailure"], Value::Null);
    let small = Library::new();
    flip(&small.place.copy(&small.backup, "attendance"), |_| 5000);
    let said = small.get("attendance").send().problem(422, "damaged");
    assert!(said.contains("other bytes than were recorded"), "{said}");
    small.tar().send().problem(422, "damaged");
}
