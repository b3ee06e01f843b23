//! Downloads of encoded copies: the plain database, whole and in parts, with all that proves it; or the file as it lies.

use std::io::Read;
use std::process::Command;

use base64::Engine;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::client::{Answer, superuser};
use crate::downloads::{Library, Unbuffered};
use crate::forms::FORMS;
use crate::harness::{Place, sha256, untimed};
use crate::restore_app::id;

fn library(compressed: bool, encrypted: bool, megabytes: usize) -> (Library, Vec<u8>) {
    let place = Place::of_form(compressed, encrypted);
    if megabytes > 0 {
        place.fill(megabytes);
    }
    let library = Library::of(place);
    let dir = tempfile::tempdir().unwrap();
    let plain = library.place.decoded(&library.backup["databases"]["attendance"], dir.path()).unwrap();
    let plain = std::fs::read(plain).unwrap();
    (library, plain)
}

fn stored(library: &Library, name: &str) -> Answer {
    library.server.get(&format!("{}&form=stored", library.path(name)))
}

/// `answer` is `bytes`, and says so.
#[track_caller]
fn assert_proven(answer: &Answer, bytes: &[u8], checksum: &str, kind: &str, file: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(bytes));
    for (header, value) in [
        ("content-length", bytes.len().to_string()),
        ("content-type", kind.to_owned()),
        ("etag", format!("\"{checksum}\"")),
        ("repr-digest", format!("sha-256=:{digest}:")),
        ("content-disposition", format!("attachment; filename=\"{file}\"")),
        ("accept-ranges", "bytes".to_owned()),
    ] {
        assert_eq!(answer.header(header), Some(value.as_str()), "{header}");
    }
    assert_eq!(answer.header("content-encoding"), None);
}

#[test]
fn the_plain_database_comes_by_default_and_the_file_when_it_is_asked_for() {
    let kinds = ["application/zstd", "application/octet-stream", "application/octet-stream"];
    for ((form, compressed, encrypted), kind) in FORMS.into_iter().zip(kinds) {
        let (library, plain) = library(compressed, encrypted, 3);
        let copy = &library.backup["databases"]["attendance"];
        let checksum = |key: &str| copy[key].as_str().unwrap();
        let name = format!("attendance-{}", library.id());
        let answer = library.get("attendance").send();
        assert_proven(&answer, &plain, checksum("checksum"), "application/vnd.sqlite3", &format!("{name}.db"));
        assert!(answer.body == plain, "{form}");
        library.outcome(1);
        let file = std::fs::read(library.place.copy(&library.backup, "attendance")).unwrap();
        let answer = stored(&library, "attendance");
        assert_proven(&answer, &file, checksum("storedChecksum"), kind, &format!("{name}.{form}"));
        assert!(answer.body == file, "{form}");
        let head = library.server.request("HEAD", &library.path("attendance")).token(&superuser()).send();
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(plain.len().to_string().as_str()));
        assert_eq!(library.outcome(2)["details"]["form"], form);
        library.server.get(&format!("{}&form=zip", library.path("attendance"))).problem(400, "bad-parameter");
    }
}

#[test]
fn parts_of_the_plain_database_are_decoded_from_the_start() {
    for (form, compressed, encrypted) in FORMS {
        // Past what is thrown away at once.
        let (library, plain) = library(compressed, encrypted, 18);
        let size = plain.len();
        let etag = library.get("attendance").send().header("etag").unwrap().to_owned();
        let far = (17 << 20) + 12_345;
        let edges = [0, 1, 4095, 65_535, 65_536, (1 << 20) - 1, 1 << 20, (16 << 20) - 1, 16 << 20, far, size - 1];
        for start in edges {
            for end in [start, start + 99, start + 65_536, size - 1] {
                let end = end.min(size - 1);
                let range = format!("bytes={start}-{end}");
                let answer = library.get("attendance").header("Range", &range).header("If-Range", &etag).send();
                assert_eq!(answer.status, 206, "{form} {range}: {}", answer.text());
                assert!(answer.body == plain[start..=end], "{form} {range}");
                let told = format!("bytes {start}-{end}/{size}");
                assert_eq!(answer.header("content-range"), Some(told.as_str()));
            }
        }
        let last = library.get("attendance").header("Range", "bytes=-5").send();
        assert!(last.body == plain[size - 5..], "{form}");
        library.get("attendance").header("Range", &format!("bytes={size}-")).send().problem(416, "bad-range");
        // That of the file is another thing.
        let other = library.get("attendance").header("Range", "bytes=0-9").header("If-Range", "\"x\"").send();
        assert!(other.status == 200 && other.body == plain, "{form}");
        let path = format!("{}&form=stored", library.path("attendance"));
        let part = library.server.request("GET", &path).token(&superuser()).header("Range", "bytes=3-9").send();
        let file = std::fs::read(library.place.copy(&library.backup, "attendance")).unwrap();
        assert!(part.status == 206 && part.body == file[3..10], "{form}");
    }
}

/// The way people do it: curl was stopped, and goes on.
#[test]
fn an_interrupted_download_goes_on() {
    let (library, plain) = library(true, true, 8);
    let out = library.place.path("attendance.out");
    std::fs::write(&out, &plain[..5_000_001]).unwrap();
    let url = format!("http://{}{}", library.server.address, library.path("attendance"));
    let token = format!("Authorization: Bearer {}", superuser());
    let mut curl = Command::new("curl");
    let status = curl.args(["-sS", "--fail", "-C", "-", "-H", &token, "-o"]).arg(&out).arg(url).status().unwrap();
    assert!(status.success() && std::fs::read(&out).unwrap() == plain);
}

#[test]
fn tars_hold_plain_databases_or_the_files() {
    let (library, _) = library(true, true, 0);
    let dir = tempfile::tempdir().unwrap();
    for (query, names, file) in [
        ("", ["attendance.db", "auth.db"], "tar"),
        ("?form=stored", ["attendance.db.zst.age", "auth.db.zst.age"], "stored.tar"),
    ] {
        let answer = library.server.get(&format!("/api/backup/download/{}{query}", library.id()));
        let name = format!("attachment; filename=\"{}.{file}\"", library.id());
        assert_eq!(answer.header("content-disposition"), Some(name.as_str()));
        assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
        let by_cli = library.place.path(&format!("cli-{file}"));
        let args = ["download", library.id(), "-o", by_cli.to_str().unwrap()];
        let more: &[&str] = if query.is_empty() { &[] } else { &["--stored"] };
        library.place.ok(&[&args[..], more].concat());
        assert!(std::fs::read(by_cli).unwrap() == answer.body, "the command line gives another tar");
        std::fs::write(dir.path().join("it.tar"), &answer.body).unwrap();
        let script = "tar -tf it.tar && tar -xf it.tar && sha256sum -c SHA256SUMS";
        let output = Command::new("sh").current_dir(dir.path()).args(["-c", script]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let [first, second] = names;
        assert_eq!(said, format!("{first}\n{second}\nSHA256SUMS\n{first}: OK\n{second}: OK\n"));
        for name in ["attendance", "auth"] {
            let ending = names[0].trim_start_matches("attendance");
            let bytes = std::fs::read(dir.path().join(format!("{name}{ending}"))).unwrap();
            let key = if query.is_empty() { "checksum" } else { "storedChecksum" };
            assert_eq!(library.backup["databases"][name][key], sha256(&bytes), "{name}");
        }
    }
}

#[test]
fn the_command_line_gives_both() {
    for (_, compressed, encrypted) in FORMS {
        let place = Place::of_form(compressed, encrypted);
        let backup = place.create();
        let (plain, file) = (place.path("plain"), place.path("file"));
        let args = |out: &std::path::Path| {
            ["download", id(&backup), "--database", "auth", "-o"]
                .map(str::to_owned)
                .into_iter()
                .chain([out.display().to_string()])
                .collect::<Vec<_>>()
        };
        let run = |args: Vec<String>| place.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
        run(args(&plain));
        run([args(&file), vec!["--stored".to_owned()]].concat());
        let copy = &backup["databases"]["auth"];
        assert_eq!(copy["checksum"], sha256(&std::fs::read(plain).unwrap()));
        assert_eq!(copy["storedChecksum"], sha256(&std::fs::read(file).unwrap()));
    }
}

/// The first block is what decides: it is there, or the copy is damaged, before anything is said.
#[test]
fn damage_in_what_would_be_sent_first_is_answered() {
    for (compressed, encrypted) in [(false, true), (true, true)] {
        let (library, plain) = library(compressed, encrypted, 3);
        let path = library.place.copy(&library.backup, "attendance");
        let mut bytes = std::fs::read(&path).unwrap();
        // Behind the header, which says that it can be opened.
        bytes[1000] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let range = format!("bytes={}-", plain.len() - 10);
        for (number, request) in [
            library.get("attendance"),
            library.get("attendance").header("Range", &range),
            library.server.request("GET", &format!("/api/backup/download/{}", library.id())).token(&superuser()),
        ]
        .into_iter()
        .enumerate()
        {
            let said = request.send().problem(422, "damaged");
            assert!(said.contains("can't be decoded") && said.contains("use another backup"), "{said}");
            let outcome = library.outcome(number + 1);
            assert_eq!((&outcome["code"], &outcome["details"]["bytes"]), (&"damaged".into(), &0.into()), "{outcome}");
        }
    }
}

#[test]
fn a_damaged_encoded_copy_is_never_delivered_whole() {
    for (form, compressed, encrypted) in FORMS {
        let (library, plain) = library(compressed, encrypted, 2);
        let path = library.place.copy(&library.backup, "attendance");
        let whole = std::fs::read(&path).unwrap();
        let mut count = 0;
        for at in [300, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let mut stream = library.get("attendance").open().unwrap();
            let head = Answer::read(&mut Unbuffered(&mut stream), true).unwrap();
            let mut body = Vec::new();
            drop(stream.read_to_end(&mut body));
            assert!(body.len() < plain.len(), "{form} {at}: {}", body.len());
            // Damage in what would be sent first is answered as such.
            assert!(head.status == 200 || head.status == 422, "{form} {at}: {}", head.status);
            if library.audited().last().unwrap()["kind"] == "refused" {
                continue;
            }
            count += 1;
            let outcome = library.outcome(count);
            assert_eq!((&outcome["ok"], &outcome["code"]), (&false.into(), &"damaged".into()), "{outcome}");
        }
        assert!(count > 0, "{form}");
        std::fs::write(&path, &whole).unwrap();
        assert!(library.get("attendance").send().body == plain);
        assert_eq!(
            untimed(&library.outcome(count + 1)["details"]),
            json!({ "databases": "attendance", "bytes": plain.len() })
        );
    }
}
