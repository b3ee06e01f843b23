//! S3 and WebDAV as a server that answers amiss would have them.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::server::{Answer, Request, serve};
use crate::remote::{Credentials, Error, Pace, Place, Remote};

const SECRET: &str = "c4n4ry-s3cret/key+";

fn s3(address: SocketAddr, timeout: Duration) -> Remote {
    limited(address, timeout, None)
}

fn limited(address: SocketAddr, timeout: Duration, bandwidth: Option<u64>) -> Remote {
    let (access_key, secret_key) = (Some("c4n4ry-access".to_owned()), Some(SECRET.to_owned()));
    let credentials = Credentials { access_key, secret_key, ..Credentials::default() };
    let place = Place::parse(&format!("s3://school/b?endpoint=http://{address}"), credentials).unwrap();
    Remote::open(&place, &Pace { timeout, bandwidth }).unwrap()
}

pub fn webdav(address: SocketAddr) -> Remote {
    let (username, password) = (Some("c4n4ry-user".to_owned()), Some(SECRET.to_owned()));
    let credentials = Credentials { username, password, ..Credentials::default() };
    let place = Place::parse(&format!("webdav://{address}/dav/b"), credentials).unwrap();
    Remote::open(&place, &Pace { timeout: Duration::from_secs(2), bandwidth: None }).unwrap()
}

const PATIENCE: Duration = Duration::from_secs(2);

/// Answers all requests alike.
fn always(answer: Answer) -> SocketAddr {
    serve(move |_| answer.clone())
}

fn xml(status: u16, code: &str) -> Answer {
    // What a hostile store would like to see in a log.
    Answer::Whole(
        status,
        format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>").into_bytes(),
    )
}

fn told(failure: &Error) -> String {
    let told = format!("{failure} {failure:?}");
    assert!(!told.contains("c4n4ry") && !told.contains('\n'), "{told}");
    failure.to_string()
}

fn all(remote: &Remote) -> [Error; 6] {
    let mut upload = remote.upload("a").unwrap();
    upload.write_all(b"1").unwrap();
    [
        remote.put("a", b"1").unwrap_err(),
        remote.get("a", 1000).unwrap_err(),
        remote.list("").unwrap_err(),
        remote.delete("a").unwrap_err(),
        upload.finish().unwrap_err(),
        remote.download("a", 0).err().unwrap(),
    ]
}

#[test]
fn what_s3_says_is_what_is_told() {
    let cases = [
        (xml(403, "InvalidAccessKeyId"), "replica-refused", "_ACCESS_KEY and BACKUP_REPLICA_<NAME>_SECRET_KEY"),
        (xml(403, "RequestTimeTooSkewed"), "replica-refused", "clock"),
        (xml(403, "AccessDenied"), "replica-refused", "right to list, read, write and delete"),
        (xml(400, "AuthorizationHeaderMalformed"), "replica-refused", "region"),
        (xml(404, "NoSuchBucket"), "replica-absent", "the bucket school"),
        (xml(403, "c4n4ry-access"), "replica-refused", "(403); give"),
        (xml(403, SECRET), "replica-refused", "(403); give"),
        (xml(507, "XMinioStorageFull"), "replica-full", "make room"),
        (Answer::Whole(403, Vec::new()), "replica-refused", "right to list"),
        (Answer::Elsewhere("http://127.0.0.1:1/x".to_owned()), "replica-refused", "another address"),
        (
            Answer::Whole(200, format!("<?xml ?><Error><Code>AccessDenied</Code>{SECRET}</Error>").into_bytes()),
            "replica-",
            "",
        ),
        (Answer::Whole(400, SECRET.as_bytes().to_vec()), "replica-damaged", "not understood"),
    ];
    for (answer, code, words) in cases {
        for failure in all(&s3(always(answer.clone()), PATIENCE)) {
            assert!(failure.code().starts_with(code) && told(&failure).contains(words), "{answer:?} {failure}");
            assert!(!failure.is_temporary(), "{answer:?} {failure}");
        }
    }
}

#[test]
fn what_passes_is_told_as_such() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    // A port that the system gives to nobody who asks for any.
    let closed = (Ipv4Addr::LOCALHOST, 1).into();
    let places = [
        always(xml(503, "SlowDown")),
        always(xml(500, "InternalError")),
        always(xml(200, "SlowDown")),
        always(Answer::Nothing),
        always(Answer::Stalled(Vec::new())),
        closed,
        silent.local_addr().unwrap(),
    ];
    for (number, address) in places.into_iter().enumerate() {
        let began = Instant::now();
        let remote = s3(address, Duration::from_millis(200));
        // All calls once.
        let failures = if number == 0 { all(&remote).to_vec() } else { vec![remote.get("a", 9).unwrap_err()] };
        for failure in failures {
            assert_eq!(failure.code(), "replica-unreachable", "{number}: {failure}");
            assert!(failure.is_temporary() && told(&failure).contains("tried again later"), "{number}: {failure}");
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{number}: {:?}", began.elapsed());
    }
}

#[test]
fn absence_is_only_what_s3_says_it_is() {
    assert_eq!(s3(always(xml(404, "NoSuchKey")), PATIENCE).get("a", 9).unwrap(), None);
    for answer in [
        Answer::Whole(404, Vec::new()),
        Answer::Whole(404, b"<html><h1>404</h1></html>".to_vec()),
        xml(404, "NoSuchBucket"),
        xml(404, "Else"),
        xml(403, "AccessDenied"),
        xml(200, "NoSuchKey"),
    ] {
        let failure = s3(always(answer.clone()), PATIENCE).get("a", 9).unwrap_err();
        assert!(!failure.is_temporary(), "{answer:?} {failure}");
        told(&failure);
    }
}

/// A portal that says "200 OK" to everything.
#[test]
fn a_stranger_is_not_taken_for_a_store() {
    let portal = always(Answer::Whole(200, b"<html><body>Please sign in</body></html>".to_vec()));
    assert_eq!(s3(portal, PATIENCE).list("").unwrap_err().code(), "replica-damaged");
    let remote = webdav(portal);
    assert_eq!(remote.list("").unwrap_err().code(), "replica-damaged");
    assert_eq!(remote.put("a", b"1").unwrap_err().code(), "replica-damaged");
    let nothing = webdav(always(Answer::Whole(404, b"<html>".to_vec())));
    assert_eq!(nothing.put("a", b"1").unwrap_err().code(), "replica-damaged");
    let failures = [
        nothing.get("a", 9).unwrap_err(),
        nothing.list("").unwrap_err(),
        nothing.download("a", 0).err().unwrap(),
        nothing.delete("a").unwrap_err(),
    ];
    for failure in failures {
        assert!(told(&failure).contains("speaks WebDAV"), "{failure}");
    }
    // Where the answer can't be had, nothing is believed.
    let busy = serve(|request| Answer::Whole(if request.method == "PROPFIND" { 503 } else { 404 }, Vec::new()));
    assert_eq!(webdav(busy).get("a", 9).unwrap_err().code(), "replica-unreachable");
    let refused = webdav(always(Answer::Whole(401, Vec::new())));
    for failure in
        [refused.get("a", 9).unwrap_err(), refused.list("").unwrap_err(), refused.put("a", b"1").unwrap_err()]
    {
        assert_eq!(failure.code(), "replica-refused");
        assert!(told(&failure).contains("BACKUP_REPLICA_<NAME>_PASSWORD"), "{failure}");
    }
    let full = serve(|request| Answer::Whole(if request.method == "PUT" { 507 } else { 207 }, folder().into_bytes()));
    assert_eq!(webdav(full).put("a", b"1").unwrap_err().code(), "replica-full");
}

fn folder() -> String {
    "<?xml version=\"1.0\"?><d:multistatus xmlns:d=\"DAV:\"><d:response><d:href>/dav/</d:href><d:propstat><d:prop>\
     <d:resourcetype><d:collection/></d:resourcetype><d:getlastmodified>Thu, 08 Jan 2026 01:00:00 GMT</d:getlastmodified>\
     </d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>"
        .to_owned()
}

/// The place isn't there yet, and the server is one.
#[test]
fn a_webdav_folder_that_is_not_made_yet_is_empty() {
    let above = |request: &Request| match (request.method.as_str(), request.path.as_str()) {
        ("PROPFIND", "/dav" | "/dav/") => Answer::Whole(207, folder().into_bytes()),
        _ => Answer::Whole(404, Vec::new()),
    };
    let remote = webdav(serve(above));
    assert_eq!(remote.get("a", 9).unwrap(), None);
    assert_eq!(remote.list("").unwrap(), []);
    assert_eq!(remote.download("a", 0).err().unwrap().code(), "replica-absent");
    remote.delete("a").unwrap();
}

/// An S3 that takes uploads by chunks, and notes what it is asked.
fn chunks(answers: VecDeque<(&'static str, Answer)>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (noted, answers) = (Arc::clone(&asked), Mutex::new(answers));
    let address = serve(move |request| {
        let what = format!("{} {}", request.method, request.query);
        noted.lock().unwrap().push(what.clone());
        let mut answers = answers.lock().unwrap();
        if let Some(at) = answers.iter().position(|(when, _)| what.contains(when)) {
            return answers.remove(at).unwrap().1;
        }
        let ok = |text: &str| Answer::Whole(200, text.as_bytes().to_vec());
        match request.method.as_str() {
            "POST" if request.query.starts_with("uploads") => {
                ok("<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>")
            }
            "POST" => ok("<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"),
            "DELETE" => Answer::Whole(204, Vec::new()),
            _ => Answer::Tagged,
        }
    });
    (address, asked)
}

#[test]
fn an_upload_by_chunks_that_fails_is_taken_back() {
    let fails = |answers: &[(&'static str, Answer)]| {
        let (address, asked) = chunks(answers.iter().cloned().collect());
        let remote = s3(address, Duration::from_millis(500));
        let mut upload = remote.upload("a").unwrap();
        let written = upload.write_all(&vec![7; 17 << 20]).map_err(|error| Error::of_io(error).unwrap());
        let done = written.and_then(|()| upload.finish());
        (done, asked.lock().unwrap().clone())
    };
    let (done, asked) = fails(&[]);
    assert_eq!(done.unwrap().size, 17 << 20);
    assert!(!asked.iter().any(|it| it.starts_with("DELETE")), "{asked:?}");
    // One that passes is tried again.
    let (done, _) = fails(&[("partNumber=2", xml(503, "SlowDown")), ("POST uploadId", xml(200, "InternalError"))]);
    assert_eq!(done.unwrap().size, 17 << 20);
    let (done, asked) = fails(&[("partNumber=2", xml(403, "AccessDenied"))]);
    assert!(told(&done.unwrap_err()).contains("right to list"));
    assert!(asked.last().unwrap().starts_with("DELETE uploadId=u1"), "{asked:?}");
    let (done, asked) = fails(&[("POST uploadId", xml(200, "AccessDenied"))]);
    assert_eq!(done.unwrap_err().code(), "replica-refused");
    assert!(asked.last().unwrap().starts_with("DELETE uploadId=u1"), "{asked:?}");
    let strange = Answer::Whole(200, b"<html>Result</html>".to_vec());
    let (done, asked) = fails(&[("POST uploadId", strange)]);
    assert_eq!(done.unwrap_err().code(), "replica-damaged");
    assert!(asked.last().unwrap().starts_with("DELETE uploadId=u1"), "{asked:?}");
}

#[test]
fn an_upload_by_chunks_that_is_cancelled_is_taken_back() {
    let (address, asked) = chunks([("partNumber=1", Answer::Stalled(Vec::new()))].into());
    let began = Instant::now();
    let remote =
        s3(address, Duration::from_secs(300)).cancelled_by(move || began.elapsed() > Duration::from_millis(400));
    let mut upload = remote.upload("a").unwrap();
    let failure = upload.write_all(&vec![7; 40 << 20]).unwrap_err();
    assert_eq!(Error::of_io(failure).unwrap(), Error::Cancelled);
    drop(upload);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let asked = asked.lock().unwrap();
    assert!(asked.last().unwrap().starts_with("DELETE uploadId=u1"), "{asked:?}");
}

/// Slow because it is asked to be isn't dead; dead is.
#[test]
fn a_limit_on_the_line_is_no_standstill() {
    let (address, _) = chunks(VecDeque::new());
    let timeout = Duration::from_secs(3);
    let remote = |bandwidth| limited(address, timeout, bandwidth);
    let began = Instant::now();
    remote(Some(32 << 10)).put("a", &vec![7; 160 << 10]).unwrap();
    let took = began.elapsed().as_secs_f64();
    assert!(took >= 4.4, "160 KiB at 32 KiB/s took {took} s");

    // Each piece takes longer than the time-out.
    remote(Some(250)).put("a", &[7; 2 << 10]).unwrap();

    let content = vec![b'x'; 160 << 10];
    let given = content.clone();
    let address = serve(move |_| Answer::Whole(200, given.clone()));
    let began = Instant::now();
    assert!(limited(address, timeout, Some(32 << 10)).get("a", 1 << 20).unwrap() == Some(content));
    let took = began.elapsed().as_secs_f64();
    assert!(took >= 4.4, "160 KiB at 32 KiB/s took {took} s");

    // It takes the connection, and never a byte.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let mut upload = s3(silent.local_addr().unwrap(), Duration::from_millis(300)).upload("a").unwrap();
    upload.write_all(&vec![7; 8 << 20]).unwrap();
    assert_eq!(upload.finish().unwrap_err().code(), "replica-unreachable");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

/// Whoever reads may take longer than the store.
#[test]
fn a_reader_may_take_its_time() {
    let content: Vec<u8> = (0..20_000_000_u32).map(|i| (i / 9) as u8).collect();
    let given = content.clone();
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let address = serve(move |_| {
        *count.lock().unwrap() += 1;
        Answer::Whole(200, given.clone())
    });
    let mut download = s3(address, Duration::from_secs(5)).download("a", 0).unwrap();
    let mut read = vec![0; 1000];
    download.read_exact(&mut read).unwrap();
    std::thread::sleep(Duration::from_secs(7));
    download.read_to_end(&mut read).unwrap();
    assert!(read == content && *asked.lock().unwrap() == 1);
}

/// Asked for the rest, it sends all of it again: what was there already must not come twice.
#[test]
fn a_store_that_begins_again_is_not_believed() {
    let content = vec![7; 100_000];
    let first = Mutex::new(true);
    let address = serve(move |_| {
        let is_first = std::mem::take(&mut *first.lock().unwrap());
        if is_first { Answer::Cut(200, content[..50_000].to_vec()) } else { Answer::Whole(200, content.clone()) }
    });
    let failure = s3(address, PATIENCE).get("a", 1_000_000).unwrap_err();
    assert!(failure.to_string().contains("begins again from the start"), "{failure}");
}

/// A body that comes drop by drop ends too.
#[test]
fn a_drip_is_no_body() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut head = [0; 4096];
                let size = stream.read(&mut head).unwrap();
                let is_range = String::from_utf8_lossy(&head[..size]).contains("range:");
                let status = if is_range { "206 Partial" } else { "200 OK" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 1000\r\n\r\n");
                while stream.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
    });
    let failure = s3(address, Duration::from_millis(200)).get("a", 2000).unwrap_err();
    assert_eq!(failure.code(), "replica-unreachable", "{failure}");
}
