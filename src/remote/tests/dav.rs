//! A WebDAV server, and what stands before it and says 404 to what is there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::server::{Answer, Request, serve};
use super::stores::webdav;
use crate::remote::{Contents, Error, Listed, Remote};

const ROOT: &str = "/dav/b/";

/// What lies there, and what is answered instead.
#[derive(Default)]
struct State {
    /// Paths of files, and of folders with a `/` at their ends.
    paths: BTreeSet<String>,
    /// To a PROPFIND of that folder below the root, so often.
    instead: Vec<(&'static str, usize, Answer)>,
    /// Paths that were to be removed.
    removed: Vec<String>,
}

/// As far as listings and deletions go: a folder is removed with all that is in it (RFC 4918, section 9.6.1).
#[derive(Clone)]
struct Dav(Arc<Mutex<State>>);

impl Dav {
    /// With these files, each of one byte, and the folders that they lie in.
    fn with(keys: &[&str]) -> (Self, Remote) {
        let mut paths = BTreeSet::new();
        for path in keys.iter().map(|key| format!("{ROOT}{key}")) {
            paths.extend(path.match_indices('/').map(|(at, _)| path[..=at].to_owned()));
            paths.insert(path);
        }
        let dav = Self(Arc::new(Mutex::new(State { paths, ..State::default() })));
        let shared = Arc::clone(&dav.0);
        let address = serve(move |request| shared.lock().unwrap().answer(request));
        (dav, webdav(address))
    }

    fn instead(&self, folder: &'static str, times: usize, answer: Answer) {
        self.0.lock().unwrap().instead.push((folder, times, answer));
    }

    fn heal(&self) {
        self.0.lock().unwrap().instead.clear();
    }

    /// Files and folders below the root.
    fn left(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let below = state.paths.iter().filter_map(|path| path.strip_prefix(ROOT));
        below.filter(|key| !key.is_empty()).map(str::to_owned).collect()
    }

    fn removed(&self) -> Vec<String> {
        self.0.lock().unwrap().removed.clone()
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let folder = format!("{}/", request.path.trim_end_matches('/'));
        match request.method.as_str() {
            "PROPFIND" => {
                let asked = folder.strip_prefix(ROOT);
                let spoilt = self.instead.iter_mut().find(|(of, left, _)| Some(*of) == asked && *left > 0);
                if let Some((_, left, answer)) = spoilt {
                    *left -= 1;
                    return answer.clone();
                }
                if !self.paths.contains(&folder) {
                    return missing();
                }
                let inside = |path: &&String| {
                    let name = path.strip_prefix(&folder).unwrap_or_default().trim_end_matches('/');
                    !name.is_empty() && !name.contains('/')
                };
                listing([&folder].into_iter().chain(self.paths.iter().filter(inside)).map(String::as_str))
            }
            "DELETE" => {
                self.removed.push(request.path.clone());
                let before = self.paths.len();
                self.paths.retain(|path| *path != request.path && !path.starts_with(&folder));
                Answer::Whole(if self.paths.len() < before { 204 } else { 404 }, Vec::new())
            }
            other => panic!("it is asked {other}"),
        }
    }
}

fn missing() -> Answer {
    Answer::Whole(404, b"<html><h1>404</h1></html>".to_vec())
}

fn listing<'a>(paths: impl Iterator<Item = &'a str>) -> Answer {
    let entry = |path: &str| {
        let kind = match path.ends_with('/') {
            true => "<d:resourcetype><d:collection/></d:resourcetype>",
            false => "<d:resourcetype/><d:getcontentlength>1</d:getcontentlength>",
        };
        format!(
            "<d:response><d:href>{path}</d:href><d:propstat><d:prop>{kind}<d:getlastmodified>Thu, 08 Jan 2026 01:00:00 \
             GMT</d:getlastmodified></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
        )
    };
    let entries: String = paths.map(entry).collect();
    let text = format!("<?xml version=\"1.0\"?><d:multistatus xmlns:d=\"DAV:\">{entries}</d:multistatus>");
    Answer::Whole(207, text.into_bytes())
}

const PACKS: [&str; 4] = ["journal/5f/auth/0/1", "journal/5f/auth/0/2", "journal/5f/auth/9/1", "journal/5f/until/1"];
const LEVEL: &str = "journal/5f/auth/0/";
const ALWAYS: usize = usize::MAX;

fn keys(listed: Vec<Listed>) -> Vec<String> {
    listed.into_iter().map(|listed| listed.key).collect()
}

/// Whatever is said of the folder that it lay in.
#[test]
fn nothing_goes_but_what_is_removed() {
    let itself = format!("{ROOT}{LEVEL}");
    for answer in [missing(), listing([].into_iter()), listing([itself.as_str()].into_iter())] {
        let (dav, remote) = Dav::with(&PACKS);
        dav.instead(LEVEL, ALWAYS, answer);
        remote.delete(PACKS[0]).unwrap();
        remote.delete(PACKS[0]).unwrap();
        dav.heal();
        assert_eq!(keys(remote.list("").unwrap()), PACKS[1..]);
        remote.delete(PACKS[1]).unwrap();
        // Somebody else may be about to write there.
        assert!(dav.left().contains(&LEVEL.to_owned()));
        let removed = [PACKS[0], PACKS[0], PACKS[1]].map(|key| format!("{ROOT}{key}"));
        assert_eq!(dav.removed(), removed, "no folder");
    }
}

#[test]
fn a_folder_goes_only_if_it_says_itself_that_it_is_empty() {
    let (dav, remote) = Dav::with(&PACKS);
    let whole = dav.left();
    remote.remove_folder(LEVEL).unwrap();
    remote.remove_folder("journal/").unwrap();
    for answer in [missing(), listing([].into_iter()), listing([ROOT].into_iter())] {
        dav.instead(LEVEL, ALWAYS, answer);
        remote.remove_folder(LEVEL).unwrap();
        dav.heal();
    }
    dav.instead(LEVEL, ALWAYS, Answer::Whole(403, Vec::new()));
    assert_eq!(remote.remove_folder(LEVEL).unwrap_err().code(), "replica-refused");
    dav.heal();
    assert_eq!((dav.left(), dav.removed()), (whole, Vec::new()));

    PACKS[..2].iter().for_each(|key| remote.delete(key).unwrap());
    let Contents { objects, folders } = remote.contents("journal").unwrap();
    assert_eq!(keys(objects), PACKS[2..]);
    let level = |name: &str| format!("journal/5f/{name}/");
    assert_eq!(folders, ["journal/5f/".to_owned(), level("auth"), level("auth/0"), level("auth/9"), level("until")]);
    remote.remove_folder(LEVEL).unwrap();
    assert!(!dav.left().contains(&LEVEL.to_owned()));
    assert_eq!(keys(remote.list("").unwrap()), PACKS[2..]);
    // One that isn't there is fine.
    remote.remove_folder(LEVEL).unwrap();
    for strange in ["", "/", "journal", "../", "journal//"] {
        assert!(matches!(remote.remove_folder(strange), Err(Error::Broken(_))), "{strange}");
    }
}

/// A listing is whole, or it is an error.
#[test]
fn a_folder_that_is_not_found_is_no_hole() {
    for (prefix, spoilt) in [("", ""), ("", "journal/5f/auth/"), ("", LEVEL), ("journal/5f/", LEVEL), (LEVEL, LEVEL)] {
        let (dav, remote) = Dav::with(&PACKS);
        let whole = remote.list(prefix).unwrap();
        assert!(!whole.is_empty());
        dav.instead(spoilt, 1, missing());
        assert_eq!(remote.list(prefix).unwrap(), whole, "{prefix} {spoilt}: it passed");
        dav.instead(spoilt, ALWAYS, missing());
        let failure = remote.list(prefix).unwrap_err();
        assert!(failure.is_temporary() && failure.to_string().contains("404"), "{prefix} {spoilt}: {failure}");
        dav.heal();
        assert_eq!(remote.list(prefix).unwrap(), whole);
    }
}

#[test]
fn a_folder_that_goes_while_it_is_listed_is_missed_by_nobody() {
    let (dav, remote) = Dav::with(&PACKS);
    // What lay there was named, and has gone by the time that it is asked for.
    let named = ["auth/", "gone/", "until/"].map(|name| format!("{ROOT}journal/5f/{name}"));
    dav.instead("journal/5f/", 1, listing(named.iter().map(String::as_str)));
    assert_eq!(keys(remote.list("journal").unwrap()), PACKS);
    assert_eq!(remote.list("backups/20260108T010000Z-0000000412/").unwrap(), []);
}
