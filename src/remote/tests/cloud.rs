//! Google Drive and Dropbox as far as OpenDAL's clients ask of them: tokens, folders, files, listings.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::{Credentials, Pace, Place, Remote};
use super::server::{Answer, Request, serve};
use crate::remote::wire::Client;

pub const CLIENT: &str = "c4n4ry-client/id";
pub const SECRET: &str = "c4n4ry+client&secret";
pub const REFRESH: &str = "1//c4n4ry-refresh=token";

/// A file or a folder.
#[derive(Clone, Debug)]
struct Item {
    id: String,
    name: String,
    parent: String,
    /// A folder has none.
    body: Option<Vec<u8>>,
}

/// What the cloud holds and knows.
#[derive(Default)]
pub struct State {
    items: Vec<Item>,
    made: u32,
    /// The access tokens that count.
    valid: Vec<String>,
    tokens: u32,
    revoked: bool,
    /// How long a token is said to count, in seconds.
    pub lifetime: u64,
    /// Answers that are given instead, each once, to requests whose path ends so.
    pub instead: VecDeque<(&'static str, Answer)>,
    /// What was asked: method and path.
    pub asked: Vec<String>,
    /// Entries in one page of a listing.
    pub page: usize,
}

/// A cloud that runs until the test ends.
#[derive(Clone)]
pub struct Cloud {
    pub state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Cloud {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State { lifetime: 3600, page: 1000, ..State::default() }));
        let shared = Arc::clone(&state);
        let address = serve(move |request| shared.lock().unwrap().answer(request));
        Self { state, address }
    }

    /// A remote of that URL over this cloud.
    pub fn remote(&self, url: &str) -> Remote {
        let credentials = Credentials {
            client_id: Some(CLIENT.to_owned()),
            client_secret: Some(SECRET.to_owned()),
            refresh_token: Some(REFRESH.to_owned()),
            ..Credentials::default()
        };
        let place = Place::parse(url, credentials).unwrap();
        let pace = Pace { timeout: Duration::from_secs(2), bandwidth: None };
        let mut client = Client::new(&place, pace.timeout).unwrap();
        client.detour = Some(self.address);
        Remote::with(&place, &pace, Some(client))
    }

    pub fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// All access tokens stop to count before its time, as when a password was changed.
    pub fn expire(&self) {
        self.set(|state| state.valid.clear());
    }

    pub fn revoke(&self) {
        self.set(|state| state.revoked = true);
        self.expire();
    }

    /// Answers so, once, what ends so.
    pub fn instead(&self, path: &'static str, answer: Answer) {
        self.set(|state| state.instead.push_back((path, answer)));
    }

    pub fn tokens(&self) -> u32 {
        self.set(|state| state.tokens)
    }

    /// Names of all files with their sizes, folders left out.
    pub fn files(&self) -> Vec<(String, usize)> {
        let mut files: Vec<_> = self.set(|state| {
            state.items.iter().filter_map(|item| Some((item.name.clone(), item.body.as_ref()?.len()))).collect()
        });
        files.sort();
        files
    }

    pub fn folders(&self) -> Vec<String> {
        self.set(|state| state.items.iter().filter(|item| item.body.is_none()).map(|item| item.name.clone()).collect())
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        self.asked.push(format!("{} {}", request.method, request.path));
        if let Some(at) = self.instead.iter().position(|(path, _)| request.path.ends_with(path)) {
            return self.instead.remove(at).unwrap().1;
        }
        let (host, path) = request.path[1..].split_once('/').unwrap();
        match (host, path) {
            ("oauth2.googleapis.com", "token") | ("api.dropboxapi.com", "oauth2/token") => self.give_token(request),
            _ if !self.valid.iter().any(|token| request.header("authorization") == format!("Bearer {token}")) => {
                unauthorised(host)
            }
            ("www.googleapis.com", path) => self.drive(request, path),
            (_, path) => self.dropbox(request, path),
        }
    }

    fn give_token(&mut self, request: &Request) -> Answer {
        let is_mine = request.value("client_id") == CLIENT && request.value("client_secret") == SECRET;
        if !is_mine {
            return Answer::json(401, &json!({ "error": "invalid_client", "error_description": "Unauthorized" }));
        }
        if self.revoked || request.value("refresh_token") != REFRESH {
            let told = format!("Token {REFRESH} has been expired or revoked.");
            return Answer::json(400, &json!({ "error": "invalid_grant", "error_description": told }));
        }
        self.tokens += 1;
        let token = format!("c4n4ry-access-{}", self.tokens);
        self.valid.push(token.clone());
        Answer::json(200, &json!({ "access_token": token, "expires_in": self.lifetime, "token_type": "Bearer" }))
    }

    fn make(&mut self, parent: &str, name: &str, body: Option<Vec<u8>>) -> Item {
        self.made += 1;
        let item = Item { id: format!("id{}", self.made), name: name.to_owned(), parent: parent.to_owned(), body };
        self.items.push(item.clone());
        item
    }

    /// Removes it, with what is in it.
    fn remove(&mut self, id: &str) {
        let within: Vec<_> = self.items.iter().filter(|item| item.parent == id).map(|item| item.id.clone()).collect();
        within.iter().for_each(|id| self.remove(id));
        self.items.retain(|item| item.id != id);
    }

    fn drive(&mut self, request: &Request, path: &str) -> Answer {
        let id = path.rsplit('/').next().unwrap().to_owned();
        let found = self.items.iter().position(|item| item.id == id);
        match (request.method.as_str(), path, found) {
            ("GET", "drive/v3/files", _) => self.drive_list(&request.value("q"), &request.value("pageToken")),
            ("POST", "drive/v3/files", _) => {
                let wanted: Value = serde_json::from_slice(&request.body).unwrap();
                let parent = wanted["parents"][0].as_str().unwrap().to_owned();
                Answer::json(200, &drive_file(&self.make(&parent, wanted["name"].as_str().unwrap(), None)))
            }
            ("POST", "upload/drive/v3/files", _) => {
                let (wanted, body) = parts_of_form(request);
                assert!(body.len() <= 5_000_000, "Drive's simple upload takes 5 MB");
                let parent = wanted["parents"][0].as_str().unwrap().to_owned();
                Answer::json(200, &drive_file(&self.make(&parent, wanted["name"].as_str().unwrap(), Some(body))))
            }
            (_, _, None) => {
                let error = json!({ "code": 404, "errors": [{ "reason": "notFound" }], "message": "File not found." });
                Answer::json(404, &json!({ "error": error }))
            }
            ("PATCH", path, Some(at)) if path.starts_with("upload/") => {
                self.items[at].body = Some(request.body.clone());
                Answer::json(200, &drive_file(&self.items[at]))
            }
            ("PATCH", _, Some(_)) => {
                self.remove(&id);
                Answer::json(200, &json!({ "id": id, "trashed": true }))
            }
            ("GET", _, Some(at)) if request.value("alt") == "media" => whole_or_range(request, &self.items[at]),
            ("GET", _, Some(at)) => Answer::json(200, &drive_file(&self.items[at])),
            other => panic!("Drive is asked {other:?}"),
        }
    }

    /// `name = 'x' and 'p' in parents and …`, or all of some parents.
    fn drive_list(&self, query: &str, token: &str) -> Answer {
        let quoted =
            |before: &str| query.split_once(before).and_then(|(_, rest)| rest.split('\'').next()).map(str::to_owned);
        let name = quoted("name = '");
        let parents: Vec<&str> = query.split("' in parents").filter_map(|part| part.rsplit('\'').next()).collect();
        let only_folders = query.contains("application/vnd.google-apps.folder");
        let fits = |item: &&Item| {
            parents.contains(&item.parent.as_str())
                && name.as_ref().is_none_or(|name| *name == item.name)
                && (!only_folders || item.body.is_none())
        };
        let skipped: usize = token.parse().unwrap_or(0);
        let all: Vec<_> = self.items.iter().filter(fits).collect();
        let files: Vec<_> = all.iter().skip(skipped).take(self.page).map(|item| drive_file(item)).collect();
        let mut told = json!({ "files": files });
        if skipped + files.len() < all.len() {
            told["nextPageToken"] = json!((skipped + files.len()).to_string());
        }
        Answer::json(200, &told)
    }

    fn dropbox(&mut self, request: &Request, path: &str) -> Answer {
        let in_header = request.header("dropbox-api-arg");
        let wanted = if in_header.is_empty() { request.body.as_slice() } else { in_header.as_bytes() };
        let wanted: Value = serde_json::from_slice(wanted).unwrap();
        let at = wanted["path"].as_str().unwrap_or_default();
        let found = self.find(at);
        match (path, found) {
            ("2/files/upload", found) => {
                if let Some(found) = found {
                    self.remove(&found.id);
                }
                let (folder, name) = at.rsplit_once('/').unwrap();
                let parent = self.folders_to(folder);
                Answer::json(200, &dropbox_file(&self.make(&parent, name, Some(request.body.clone()))))
            }
            ("2/files/list_folder/continue", _) => {
                let (id, skipped) = wanted["cursor"].as_str().unwrap().split_once(' ').unwrap();
                self.dropbox_list(id, skipped.parse().unwrap())
            }
            ("2/files/list_folder", _) if at.is_empty() => self.dropbox_list("", 0),
            ("2/files/delete_v2", None) => not_found("path_lookup"),
            (_, None) => not_found("path"),
            ("2/files/download", Some(item)) => whole_or_range(request, &item),
            ("2/files/list_folder", Some(item)) => self.dropbox_list(&item.id, 0),
            ("2/files/delete_v2", Some(item)) => {
                self.remove(&item.id);
                Answer::json(200, &json!({ "metadata": dropbox_file(&item) }))
            }
            ("2/files/get_metadata", Some(item)) => Answer::json(200, &dropbox_file(&item)),
            other => panic!("Dropbox is asked {other:?}"),
        }
    }

    fn dropbox_list(&self, folder: &str, skipped: usize) -> Answer {
        let all: Vec<_> = self.items.iter().filter(|item| item.parent == folder).collect();
        let entries: Vec<_> = all.iter().skip(skipped).take(self.page).map(|item| dropbox_file(item)).collect();
        let upto = skipped + entries.len();
        let told = json!({ "entries": entries, "cursor": format!("{folder} {upto}"), "has_more": upto < all.len() });
        Answer::json(200, &told)
    }

    fn find(&self, path: &str) -> Option<Item> {
        let mut found: Option<&Item> = None;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let parent = found.map_or("", |item| item.id.as_str()).to_owned();
            found = Some(self.items.iter().find(|item| item.parent == parent && item.name == name)?);
        }
        found.cloned()
    }

    fn folders_to(&mut self, path: &str) -> String {
        let mut parent = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let found = self.items.iter().find(|item| item.parent == parent && item.name == name).cloned();
            parent = found.unwrap_or_else(|| self.make(&parent.clone(), name, None)).id;
        }
        parent
    }
}

fn unauthorised(host: &str) -> Answer {
    if host == "www.googleapis.com" {
        let error = json!({ "code": 401, "errors": [{ "reason": "authError" }], "message": "Invalid Credentials" });
        Answer::json(401, &json!({ "error": error }))
    } else {
        let error = json!({ "error_summary": "expired_access_token/..", "error": { ".tag": "expired_access_token" } });
        Answer::json(401, &error)
    }
}

fn not_found(what: &str) -> Answer {
    Answer::json(409, &json!({ "error_summary": format!("{what}/not_found/..."), "error": { ".tag": what } }))
}

fn drive_file(item: &Item) -> Value {
    let mut told = json!({ "id": item.id, "name": item.name, "parents": [item.parent], "modifiedTime": "2026-01-08T01:00:00.000Z" });
    match &item.body {
        Some(body) => {
            told["mimeType"] = json!("application/octet-stream");
            told["size"] = json!(body.len().to_string());
        }
        None => told["mimeType"] = json!("application/vnd.google-apps.folder"),
    }
    told
}

fn dropbox_file(item: &Item) -> Value {
    let mut told = json!({ ".tag": "folder", "name": item.name, "id": item.id });
    if let Some(body) = &item.body {
        told[".tag"] = json!("file");
        told["size"] = json!(body.len());
        told["client_modified"] = json!("2026-01-08T01:00:00Z");
        told["server_modified"] = json!("2026-01-08T01:00:00Z");
    }
    told
}

fn whole_or_range(request: &Request, item: &Item) -> Answer {
    let body = item.body.clone().unwrap_or_default();
    let start =
        request.header("range").strip_prefix("bytes=").and_then(|range| range.split('-').next()?.parse::<usize>().ok());
    match start {
        Some(start) if start >= body.len() => Answer::Whole(416, Vec::new()),
        Some(start) => Answer::Whole(206, body[start..].to_vec()),
        None => Answer::Whole(200, body),
    }
}

/// The two parts of Drive's upload: what it is to be called, and the bytes.
fn parts_of_form(request: &Request) -> (Value, Vec<u8>) {
    let boundary = request.header("content-type").split_once("boundary=").unwrap().1.trim_matches('"').to_owned();
    let after = |bytes: &[u8], mark: &[u8]| bytes.windows(mark.len()).position(|it| it == mark).unwrap() + mark.len();
    let (blank, end) = (b"\r\n\r\n", format!("\r\n--{boundary}"));
    let first = after(&request.body, blank);
    let first_end = first + after(&request.body[first..], end.as_bytes()) - end.len();
    let second = first_end + after(&request.body[first_end..], blank);
    let second_end = request.body.len() - format!("\r\n--{boundary}--\r\n").len();
    let wanted = serde_json::from_slice(&request.body[first..first_end]).unwrap();
    (wanted, request.body[second..second_end].to_vec())
}
