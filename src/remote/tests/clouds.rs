//! OpenDAL's own clients of Google Drive and Dropbox against a server that plays both.

use std::io::{Read, Write};

use super::cloud::{CLIENT, Cloud, REFRESH, SECRET};
use super::server::Answer;
use crate::remote::{Error, Listed, Remote, Written, part_key};

const STORES: [(&str, usize); 2] = [("gdrive:///school/backups", 4 << 20), ("dropbox:///school/backups", 16 << 20)];
const KEY: &str = "backups/20260108T010000Z-0000000412/attendance.db.zst";

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn upload(remote: &Remote, key: &str, bytes: &[u8]) -> Result<Written, Error> {
    let mut upload = remote.upload(key)?;
    upload.write_all(bytes).map_err(|error| Error::of_io(error).unwrap())?;
    upload.finish()
}

fn download(remote: &Remote, key: &str, parts: u32) -> Result<Vec<u8>, Error> {
    let mut read = Vec::new();
    remote.download(key, parts)?.read_to_end(&mut read).map_err(|error| Error::of_io(error).unwrap())?;
    Ok(read)
}

/// One line, with what to do, and with nothing in it that is secret.
fn told(error: &Error) -> String {
    let told = format!("{error} {error:?}");
    for secret in ["c4n4ry", CLIENT, SECRET, REFRESH, "Bearer", "%2F"] {
        assert!(!told.contains(secret), "{told}");
    }
    assert!(!told.contains('\n') && error.to_string().contains(';'), "{told}");
    error.to_string()
}

#[test]
fn what_goes_out_in_parts_comes_back_as_it_was() {
    for (url, chunk) in STORES {
        let cloud = Cloud::start();
        let remote = cloud.remote(url);
        assert_eq!(remote.list("").unwrap(), [], "{url}");
        assert_eq!(remote.get(KEY, 100).unwrap(), None);
        let content = bytes(2 * chunk + 5000);
        let written = upload(&remote, KEY, &content).unwrap();
        assert_eq!(written, Written { size: content.len() as u64, parts: 3 });
        let sizes: Vec<_> = cloud.files().into_iter().map(|(_, size)| size).collect();
        assert_eq!(sizes, [chunk, chunk, 5000], "{url}");
        assert!(download(&remote, KEY, 3).unwrap() == content);
        // A part that is gone is no end.
        let missing = download(&remote, KEY, 4).unwrap_err();
        assert!(matches!(missing, Error::Absent(_)) && missing.code() == "replica-absent", "{missing}");

        // Less than a part is an object under its own name.
        let small = "backups/20260108T010000Z-0000000412/entry.json";
        assert_eq!(upload(&remote, small, b"{}").unwrap(), Written { size: 2, parts: 0 });
        assert_eq!(remote.get(small, 2).unwrap().unwrap(), b"{}");
        assert!(matches!(remote.get(small, 1).unwrap_err(), Error::Broken(_)));
        remote.put(small, b"{ }").unwrap();
        assert_eq!(remote.get(small, 100).unwrap().unwrap(), b"{ }");
        let names = [part_key(KEY, 1), part_key(KEY, 2), part_key(KEY, 3), small.to_owned()];
        let mut listed = cloud.remote(url).list("backups").unwrap();
        listed.sort();
        assert_eq!(listed.iter().map(|it| it.key.clone()).collect::<Vec<_>>(), names);
        assert_eq!(listed.last(), Some(&Listed { key: small.to_owned(), size: 3 }));
        assert_eq!(remote.list("catalog/").unwrap(), []);

        for name in &names {
            remote.delete(name).unwrap();
            remote.delete(name).unwrap();
        }
        assert_eq!(remote.list("").unwrap(), []);
        assert_eq!(remote.get(small, 100).unwrap(), None);
        assert_eq!(cloud.tokens(), 2, "one for each remote");
    }
}

/// Both remove a folder with all that is in it.
#[test]
fn a_folder_goes_by_itself_and_only_when_it_is_empty() {
    for (url, _) in STORES {
        let cloud = Cloud::start();
        let remote = cloud.remote(url);
        let (folder, _) = KEY.rsplit_once('/').unwrap();
        let (folder, beside) = (format!("{folder}/"), format!("{folder}/entry.json"));
        [KEY, &beside].iter().for_each(|key| remote.put(key, b"1").unwrap());
        let files = cloud.files();
        remote.remove_folder(&folder).unwrap();
        let nowhere = serde_json::json!({ "error_summary": "path/not_found/..", "error": { ".tag": "path" } });
        for answer in [Answer::Whole(404, b"<html>".to_vec()), Answer::json(409, &nowhere)] {
            for path in ["/files/list_folder", "/drive/v3/files"] {
                (0..20).for_each(|_| cloud.instead(path, answer.clone()));
            }
            // That it couldn't be found out may be an error.
            drop(remote.remove_folder(&folder));
            cloud.set(|state| state.instead.clear());
            assert_eq!(cloud.files(), files, "{url} {answer:?}");
        }
        remote.delete(KEY).unwrap();
        assert_eq!(cloud.files().len(), 1);
        remote.delete(&beside).unwrap();
        let name = folder.rsplit('/').nth(1).unwrap();
        assert_eq!(cloud.folders(), ["school", "backups", "backups", name], "{url}");
        assert_eq!(remote.contents("backups").unwrap().folders, [folder.as_str()], "{url}");
        remote.remove_folder(&folder).unwrap();
        assert_eq!(cloud.folders(), ["school", "backups", "backups"], "{url}");
    }
}

#[test]
fn listings_of_many_pages_are_whole() {
    for (url, _) in STORES {
        let cloud = Cloud::start();
        let remote = cloud.remote(url);
        cloud.set(|state| state.page = 3);
        let mut names: Vec<_> = (0..10).map(|i| format!("catalog/{i:010}.json")).collect();
        names.push("lease.json".to_owned());
        names.iter().for_each(|name| remote.put(name, b"{}").unwrap());
        let mut listed: Vec<_> = cloud.remote(url).list("").unwrap().into_iter().map(|it| it.key).collect();
        listed.sort();
        assert_eq!(listed, names, "{url}");
    }
}

#[test]
fn an_access_token_that_ends_is_renewed() {
    for (url, chunk) in STORES {
        let cloud = Cloud::start();
        let remote = cloud.remote(url);
        remote.put("a", b"1").unwrap();
        remote.put("a", b"2").unwrap();
        assert_eq!(cloud.tokens(), 1);
        // Before its time, in the middle of an upload.
        let mut upload = remote.upload(KEY).unwrap();
        upload.write_all(&bytes(chunk + 1)).unwrap();
        cloud.expire();
        upload.write_all(&bytes(chunk)).unwrap();
        assert_eq!(upload.finish().unwrap().parts, 3, "{url}");
        assert_eq!(cloud.tokens(), 2);
        cloud.expire();
        assert_eq!(remote.get("a", 10).unwrap().unwrap(), b"2");
        cloud.expire();
        assert_eq!(remote.list("").unwrap().len(), 4);
        // One that is over when it comes is asked for each time.
        cloud.set(|state| state.lifetime = 100);
        cloud.expire();
        remote.put("a", b"3").unwrap();
        let before = cloud.tokens();
        remote.put("a", b"4").unwrap();
        assert!(cloud.tokens() > before, "{url}");
    }
}

#[test]
fn a_revoked_refresh_token_is_refused_with_its_fix() {
    for (url, _) in STORES {
        let cloud = Cloud::start();
        let remote = cloud.remote(url);
        remote.put("a", b"1").unwrap();
        cloud.revoke();
        let asked = cloud.set(|state| state.asked.len());
        let failures = [
            remote.put("a", b"2").unwrap_err(),
            remote.get("a", 10).unwrap_err(),
            remote.get("nothing", 10).unwrap_err(),
            remote.list("").unwrap_err(),
            remote.delete("a").unwrap_err(),
            upload(&remote, KEY, b"1").unwrap_err(),
            download(&remote, "a", 0).unwrap_err(),
        ];
        for failure in failures {
            assert_eq!(failure.code(), "replica-refused", "{failure}");
            assert!(!failure.is_temporary());
            let told = told(&failure);
            assert!(told.contains("the refresh token was revoked or has expired"), "{told}");
            assert!(told.ends_with("make a new one and set BACKUP_REPLICA_<NAME>_REFRESH_TOKEN"), "{told}");
        }
        let asked = cloud.set(|state| state.asked.len()) - asked;
        assert!(asked < 20, "{url}: {asked} requests for seven calls");
    }
}

/// Each answer, to a write and to a read: what it means.
#[test]
fn answers_mean_what_they_mean() {
    let google = |status: u16, reason: &str| {
        let error = serde_json::json!({ "code": status, "errors": [{ "reason": reason }], "message": REFRESH });
        Answer::json(status, &serde_json::json!({ "error": error }))
    };
    let dropbox = |status: u16, summary: &str| {
        Answer::json(status, &serde_json::json!({ "error_summary": summary, "error": { ".tag": SECRET } }))
    };
    let drive = "gdrive:///b";
    let cases = [
        (drive, "/drive/v3/files", google(403, "storageQuotaExceeded"), "replica-full"),
        (drive, "/drive/v3/files", google(403, "insufficientPermissions"), "replica-refused"),
        (drive, "/drive/v3/files", google(403, "accessNotConfigured"), "replica-refused"),
        (drive, "/drive/v3/files", google(404, "notFound"), "replica-damaged"),
        (drive, "/token", Answer::json(401, &serde_json::json!({ "error": "invalid_client" })), "replica-refused"),
        (drive, "/token", Answer::Whole(200, b"<html>".to_vec()), "replica-damaged"),
        ("dropbox:///b", "/files/upload", dropbox(409, "path/insufficient_space/.."), "replica-full"),
        ("dropbox:///b", "/files/upload", dropbox(403, "no_permission/"), "replica-refused"),
        ("dropbox:///b", "/files/upload", dropbox(401, "missing_scope/..."), "replica-refused"),
        ("dropbox:///b", "/files/upload", dropbox(409, "path/malformed_path/.."), "replica-damaged"),
        (
            "dropbox:///b",
            "/token",
            Answer::json(400, &serde_json::json!({ "error": "invalid_client: no" })),
            "replica-refused",
        ),
    ];
    for (url, path, answer, code) in cases {
        let cloud = Cloud::start();
        // What stands for good is answered so each time; a renewed token changes nothing.
        (0..3).for_each(|_| cloud.instead(path, answer.clone()));
        let failure = cloud.remote(url).put("a", b"1").unwrap_err();
        assert_eq!(failure.code(), code, "{url} {answer:?}: {failure}");
        told(&failure);
    }
}

/// What may pass is tried again within the call, and told as such when it doesn't pass.
#[test]
fn what_passes_is_waited_for() {
    for (url, path) in [("gdrive:///b", "/drive/v3/files"), ("dropbox:///b", "/files/upload")] {
        for answer in [Answer::Whole(503, b"busy".to_vec()), Answer::Nothing] {
            let cloud = Cloud::start();
            let remote = cloud.remote(url);
            (0..2).for_each(|_| cloud.instead(path, answer.clone()));
            remote.put("a", b"1").unwrap();
            (0..200).for_each(|_| cloud.instead(path, answer.clone()));
            let failure = remote.put("b", b"1").unwrap_err();
            assert_eq!(failure.code(), "replica-unreachable", "{url} {answer:?}: {failure}");
            assert!(failure.is_temporary());
            told(&failure);
            let left = cloud.set(|state| state.instead.len());
            assert!((180..200).contains(&left), "{url} {answer:?}: tried {} times", 200 - left);
        }
    }
}

/// 503 isn't "not there".
#[test]
fn only_the_store_itself_says_that_nothing_is_there() {
    for (url, path) in [("gdrive:///b", "/drive/v3/files"), ("dropbox:///b", "/files/download")] {
        for answer in
            [Answer::Whole(503, Vec::new()), Answer::Whole(404, b"<html>".to_vec()), Answer::Whole(403, Vec::new())]
        {
            let cloud = Cloud::start();
            (0..20).for_each(|_| cloud.instead(path, answer.clone()));
            let failure = cloud.remote(url).get("a", 10).unwrap_err();
            assert_ne!(failure.code(), "replica-absent", "{url} {answer:?}");
            told(&failure);
        }
    }
    let cloud = Cloud::start();
    (0..20).for_each(|_| cloud.instead("/files/list_folder", Answer::Whole(404, b"<html>".to_vec())));
    told(&cloud.remote("dropbox:///b").list("").unwrap_err());
}

#[test]
fn a_body_cut_short_is_never_an_end() {
    for (url, path) in [("gdrive:///b", "/id2"), ("dropbox:///b", "/files/download")] {
        let cloud = Cloud::start();
        let remote = cloud.remote(url);
        let content = bytes(50_000);
        remote.put("a", &content).unwrap();
        // Once: it goes on where it was.
        cloud.instead(path, Answer::Cut(200, content[..20_000].to_vec()));
        assert!(download(&remote, "a", 0).unwrap() == content, "{url}");
        // Without end: an error.
        (0..20).for_each(|_| cloud.instead(path, Answer::Cut(206, content[..2_000].to_vec())));
        let failure = remote.get("a", 1_000_000);
        assert_ne!(failure.clone().map(Option::unwrap_or_default).unwrap_or_default(), content, "{url} {failure:?}");
        cloud.set(|state| state.instead.clear());
        (0..20).for_each(|_| cloud.instead(path, Answer::Endless(content[..2_000].to_vec())));
        let failure = download(&remote, "a", 0).unwrap_err();
        assert_eq!(failure.code(), "replica-damaged", "{failure}");
        assert!(failure.to_string().contains("does not say how long"), "{failure}");
        told(&failure);
    }
}

#[test]
fn parts_of_an_upload_that_was_given_up_go() {
    for (url, chunk) in STORES {
        let cloud = Cloud::start();
        let remote = cloud.remote(url);
        let mut upload = remote.upload(KEY).unwrap();
        upload.write_all(&bytes(2 * chunk + 1)).unwrap();
        assert_eq!(cloud.files().len(), 2);
        drop(upload);
        assert_eq!(cloud.files(), [], "{url}");
    }
}
