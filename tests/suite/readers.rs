//! Who reads a download, and how: slowly, while the backup goes, not to the end, or one of too many. It takes little
//! memory, and holds up nothing [P8, P10].

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::client::{Answer, Server, superuser};
use crate::downloads::{Library, Unbuffered};
use crate::harness::{PROGRAM, Place, eventually};
use crate::inject::{signal, traced};

/// Takes a megabyte at a time, with pauses in the first part of it. Says the checksum of all of it.
fn take_slowly(mut stream: TcpStream, mut between: impl FnMut(u64)) -> (String, u64) {
    let head = Answer::read(&mut Unbuffered(&mut stream), true).unwrap();
    let announced: u64 = head.header("content-length").unwrap().parse().unwrap();
    let (mut hash, mut taken) = (Sha256::new(), 0);
    let mut block = vec![0; 1 << 20];
    while taken < announced {
        let part = block.len().min((announced - taken) as usize);
        stream.read_exact(&mut block[..part]).unwrap();
        hash.update(&block[..part]);
        taken += part as u64;
        between(taken);
        if taken < 40 << 20 {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    (hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), taken)
}

#[test]
fn a_large_download_outlives_its_backup_in_little_memory() {
    let place = Place::new();
    place.fill(300);
    let library = Library::of(place);
    let server = &library.server;
    let checksum = library.backup["databases"]["attendance"]["checksum"].as_str().unwrap().to_owned();
    server.get("/api/backup/status").ok();
    let before = server.memory();
    let (mut most, mut is_gone) = (before, false);
    let [one, other] = [(); 2].map(|()| library.get("attendance").open().unwrap());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| take_slowly(one, |_| ()));
        let second = take_slowly(other, |taken| {
            most = most.max(server.memory());
            if taken > 10 << 20 && !is_gone {
                let path = format!("/api/backup/{}?force=true", library.id());
                assert_eq!(server.request("DELETE", &path).token(&superuser()).send().status, 204);
                is_gone = true;
            }
        });
        for (sum, taken) in [first.join().unwrap(), second] {
            assert!(sum == checksum && taken > 300_000_000, "{taken} bytes of another checksum");
        }
    });
    library.get("attendance").send().problem(404, "not-found");
    println!("it grew by {} kB", (most - before) >> 10);
    assert!(most - before < 32 << 20, "{} MB more", (most - before) >> 20);
    assert!(!library.place.copy(&library.backup, "attendance").exists());
    library.outcome(2);
    let sent: Vec<_> = library.audited().iter().filter_map(|line| line["details"]["bytes"].as_u64()).collect();
    assert!(sent.len() == 2 && sent.iter().all(|bytes| *bytes > 300_000_000), "{sent:?}");
}

/// That nothing is taken any more only the kernel sees: it is told with each connection how long that may be.
#[test]
fn a_connection_on_which_nothing_is_taken_has_an_end() {
    let place = Place::new();
    let log = place.path("calls");
    let mut command = place.command_of("strace");
    command
        .args(["-f", "-e", "trace=setsockopt", "-o"])
        .arg(&log)
        .args([PROGRAM, "serve"])
        .env("BACKUP_ENABLED", "false");
    let mut server = Server::of(&mut command, place.path("serve.log"));
    for _ in 0..3 {
        server.get("/api/backup/status").ok();
    }
    signal(&traced(server.child.id()).unwrap(), "-TERM");
    assert!(server.child.wait().unwrap().success());
    let calls = std::fs::read_to_string(log).unwrap();
    assert_eq!(calls.matches("TCP_USER_TIMEOUT, [60000], 4) = 0").count(), 3, "{calls}");
}

#[test]
fn a_download_outlives_the_rotation_that_takes_its_backup() {
    let mut place = Place::new();
    place.set("BACKUP_RETENTION_MANUAL", "1").fill(20);
    let library = Library::of(place);
    let checksum = library.backup["databases"]["attendance"]["checksum"].as_str().unwrap().to_owned();
    let stream = library.get("attendance").open().unwrap();
    let mut is_gone = false;
    let (sum, _) = take_slowly(stream, |_| {
        if !is_gone {
            assert_eq!(library.server.post("/api/backup/create").status, 201);
            is_gone = true;
        }
    });
    assert!(sum == checksum);
    assert!(!library.place.copy(&library.backup, "attendance").exists());
    library.get("attendance").send().problem(404, "not-found");
    assert_eq!(library.outcome(1)["ok"], true);
    library.server.stop();
    library.place.assert_whole();
}

/// Another file is put in its place, or written over it: what arrives whole is never of two files.
#[test]
fn a_download_is_whole_and_of_the_file_that_it_began_with_or_it_is_cut() {
    let place = Place::new();
    place.fill(20);
    let library = Library::of(place);
    let (file, other) = (library.place.copy(&library.backup, "attendance"), library.place.path("other"));
    let recorded = std::fs::read(&file).unwrap();
    std::fs::write(&other, recorded.iter().map(|byte| !byte).collect::<Vec<_>>()).unwrap();
    let mut is_replaced = false;
    let (sum, taken) = take_slowly(library.get("attendance").open().unwrap(), |_| {
        if !is_replaced {
            std::fs::rename(&other, &file).unwrap();
            is_replaced = true;
        }
    });
    assert!(library.backup["databases"]["attendance"]["checksum"] == sum, "{taken} bytes of another checksum");
    assert_eq!(library.outcome(1)["ok"], true);

    let mut stream = library.get("attendance").open().unwrap();
    assert_eq!(Answer::read(&mut Unbuffered(&mut stream), true).unwrap().status, 200);
    let mut start = vec![0; 1 << 20];
    stream.read_exact(&mut start).unwrap();
    assert!(start[..] != recorded[..1 << 20], "it has not begun with the other file");
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().write_all(&recorded).unwrap();
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(ended.is_err() || start.len() + rest.len() < recorded.len(), "a mix has arrived whole");
    let outcome = library.outcome(2);
    assert_eq!((&outcome["ok"], &outcome["code"]), (&false.into(), &"damaged".into()), "{outcome}");
}

#[test]
fn who_goes_away_frees_the_place_and_it_is_no_failure() {
    let place = Place::new();
    place.fill(20);
    let library = Library::of(place);
    library.server.get("/api/backup/status").ok();
    let before = library.server.descriptors();
    for n in 1..=40 {
        let mut stream = library.get("attendance").open().unwrap();
        let mut first = [0; 1000];
        stream.read_exact(&mut first).unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200 OK"), "{n}: {}", String::from_utf8_lossy(&first));
        drop(stream);
        let outcome = library.outcome(n);
        assert_eq!((&outcome["ok"], &outcome["code"]), (&false.into(), &"aborted".into()), "{outcome}");
        assert!(outcome["details"]["bytes"].as_u64().unwrap() < 20_000_000, "{outcome}");
    }
    eventually("what it had open is closed", || (library.server.descriptors() <= before).then_some(()));
    assert_eq!(library.server.get("/api/backup/status").ok()["lastFailure"], Value::Null);
    library.server.stop();
    library.place.assert_whole();
}

/// A stop doesn't wait for a reader who takes nothing, and what he didn't get is recorded.
#[test]
fn a_download_that_a_stop_cuts_off_has_its_outcome() {
    let place = Place::new();
    place.fill(20);
    let library = Library::of(place);
    let mut stream = library.get("attendance").open().unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    library.server.stop();
    let lines = library.place.audit();
    let outcome = lines.last().unwrap();
    assert_eq!((&outcome["operation"], &outcome["kind"]), (&"download".into(), &"outcome".into()), "{outcome}");
    assert_eq!((&outcome["ok"], &outcome["code"]), (&false.into(), &"aborted".into()), "{outcome}");
    library.place.assert_whole();
}

#[test]
fn thirty_two_at_once_and_the_next_is_told_to_come_again() {
    let place = Place::new();
    place.fill(20);
    let library = Library::of(place);
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut stream = library.get("attendance").open().unwrap();
        let mut first = [0; 15];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        open.push(stream);
    }
    for request in [library.get("attendance"), library.tar(), library.get("auth").header("Range", "bytes=0-9")] {
        let answer = request.send();
        answer.problem(503, "busy");
        assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    }
    // What takes no place is answered as ever.
    assert_eq!(library.server.request("HEAD", &library.path("auth")).token(&superuser()).send().status, 200);
    assert_eq!(library.server.get("/api/backup/list").status, 200);
    open.pop();
    eventually("a free place", || (library.get("auth").send().status == 200).then_some(()));
}
