//! What a place elsewhere is: its URL, taken apart, and the credentials for it.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use url::Url;

/// What one shows to a store; each kind of store wants others.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// S3.
    pub access_key: Option<String>,
    /// S3.
    pub secret_key: Option<String>,
    /// WebDAV.
    pub username: Option<String>,
    /// WebDAV.
    pub password: Option<String>,
    /// Google Drive and Dropbox.
    pub client_id: Option<String>,
    /// Google Drive and Dropbox.
    pub client_secret: Option<String>,
    /// Google Drive and Dropbox.
    pub refresh_token: Option<String>,
}

impl Credentials {
    /// Each with how its variable ends.
    fn all(&self) -> [(&'static str, &Option<String>); 7] {
        [
            ("ACCESS_KEY", &self.access_key),
            ("SECRET_KEY", &self.secret_key),
            ("USERNAME", &self.username),
            ("PASSWORD", &self.password),
            ("CLIENT_ID", &self.client_id),
            ("CLIENT_SECRET", &self.client_secret),
            ("REFRESH_TOKEN", &self.refresh_token),
        ]
    }

    /// The values that are given.
    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.all().into_iter().filter_map(|(_, value)| value.as_deref())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given: Vec<_> = self.all().into_iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name).collect();
        write!(f, "Credentials({})", given.join(", "))
    }
}

/// A place elsewhere that keeps objects, and how to get in.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    url: String,
    pub(super) kind: Kind,
    pub(super) credentials: Credentials,
}

/// The stores that are known, each with what its URL says. Roots are paths that begin with `/`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Folder { root: PathBuf },
    S3 { bucket: String, root: String, endpoint: String, region: String },
    Webdav { endpoint: String, root: String },
    Drive { root: String },
    Dropbox { root: String },
}

const SCHEMES: &str = "fs:///folder, s3://bucket/prefix?endpoint=https://…&region=…, webdavs://host/path, webdav://host/path, \
                       gdrive:///folder or dropbox:///folder";
/// Where S3 is if nobody says otherwise.
const AMAZON: &str = "https://s3.amazonaws.com";
/// What most servers other than Amazon's are content with.
const REGION: &str = "us-east-1";

impl Place {
    /// Takes a URL apart; the error says what is wrong and what to do. `<NAME>` in it stands for the replica's name in capitals.
    pub fn parse(url: &str, credentials: Credentials) -> Result<Place, String> {
        let parsed = Url::parse(url).ok().filter(|_| !url.contains(char::is_control));
        let parsed = parsed.ok_or_else(|| format!("it is no URL; it looks like {SCHEMES}"))?;
        let scheme = parsed.scheme().to_owned();
        let wanted: &[&str] = match scheme.as_str() {
            "fs" => &[],
            "s3" => &["ACCESS_KEY", "SECRET_KEY"],
            "webdav" | "webdavs" => &["USERNAME", "PASSWORD"],
            "gdrive" | "dropbox" => &["CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN"],
            _ => return Err(format!("there is no store {scheme}: here; it looks like {SCHEMES}")),
        };
        refuse_secrets(&parsed, wanted)?;
        if parsed.fragment().is_some() || (scheme != "s3" && parsed.query().is_some()) {
            return Err(format!("a {scheme}: URL ends with the path; write # as %23 and ? as %3F"));
        }
        let kind = match scheme.as_str() {
            "fs" => Kind::Folder { root: PathBuf::from(root(&parsed, false)?) },
            "s3" => s3(&parsed)?,
            "gdrive" => Kind::Drive { root: root(&parsed, false)? },
            "dropbox" => Kind::Dropbox { root: root(&parsed, false)? },
            _ => webdav(&parsed)?,
        };
        complete(&scheme, &credentials, wanted)?;
        Ok(Place { url: url.to_owned(), kind, credentials })
    }

    /// The URL as it was given; it has no credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same for all URLs of one place, whatever is written at their ends.
    pub fn identity(&self) -> String {
        let trimmed = |root: &str| root.trim_matches('/').to_owned();
        match &self.kind {
            Kind::Folder { root } => format!("fs {}", root.components().collect::<PathBuf>().display()),
            Kind::S3 { bucket, root, endpoint, .. } => format!("s3 {} {bucket} {}", trimmed(endpoint), trimmed(root)),
            Kind::Webdav { endpoint, root } => format!("webdav {} {}", trimmed(endpoint), trimmed(root)),
            Kind::Drive { root } => format!("gdrive {}", trimmed(root)),
            Kind::Dropbox { root } => format!("dropbox {}", trimmed(root)),
        }
    }

    /// A folder, here or mounted here.
    pub fn is_on_this_machine(&self) -> bool {
        matches!(self.kind, Kind::Folder { .. })
    }

    /// The folder that it is, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        if let Kind::Folder { root } = &self.kind { Some(root) } else { None }
    }

    /// The variable, without its beginning, of a credential that this store has no use for.
    pub fn unused(&self) -> Option<&'static str> {
        let used: &[&str] = match self.kind {
            Kind::Folder { .. } => &[],
            Kind::S3 { .. } => &["ACCESS_KEY", "SECRET_KEY"],
            Kind::Webdav { .. } => &["USERNAME", "PASSWORD"],
            Kind::Drive { .. } | Kind::Dropbox { .. } => &["CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN"],
        };
        let given = self.credentials.all().into_iter().filter(|(_, value)| value.is_some());
        given.map(|(name, _)| name).find(|name| !used.contains(name))
    }

    /// The known secrets, also as they look inside URLs and headers, made unreadable.
    pub(super) fn scrub(&self, text: &str) -> String {
        let mut scrubbed = text.to_owned();
        let basic = self.credentials.username.iter().zip(&self.credentials.password).map(|(user, password)| {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
        });
        let mut secrets: Vec<String> = self.credentials.values().map(str::to_owned).chain(basic).collect();
        secrets.extend(secrets.clone().iter().map(|secret| encoded(secret)));
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets.iter().filter(|secret| secret.len() > 3) {
            scrubbed = scrubbed.replace(secret.as_str(), "…");
        }
        scrubbed
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({}, {:?})", self.url, self.credentials)
    }
}

/// A value as it goes into a form or a query.
pub(super) fn encoded(value: &str) -> String {
    percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn variables(ends: &[&str]) -> String {
    ends.iter().map(|end| format!("BACKUP_REPLICA_<NAME>_{end}")).collect::<Vec<_>>().join(" and ")
}

/// URLs end up in logs, listings and histories.
fn refuse_secrets(url: &Url, wanted: &[&str]) -> Result<(), String> {
    let in_query = |(key, _): (std::borrow::Cow<str>, _)| {
        let key = key.to_ascii_lowercase();
        ["key", "secret", "token", "password", "username", "client", "credential"].iter().any(|word| key.contains(word))
    };
    if url.username().is_empty() && url.password().is_none() && !url.query_pairs().any(in_query) {
        return Ok(());
    }
    let fix = if wanted.is_empty() { "a folder needs none".to_owned() } else { format!("set {}", variables(wanted)) };
    Err(format!("credentials do not belong into the URL, which is shown; take them out: {fix}"))
}

/// What is asked of a store without them could only come from the machine, and whose that is nobody has said.
fn complete(scheme: &str, credentials: &Credentials, wanted: &[&str]) -> Result<(), String> {
    let all = credentials.all();
    let is_given =
        |end: &str| all.iter().any(|(name, value)| *name == end && value.as_ref().is_some_and(|it| !it.is_empty()));
    let missing: Vec<&str> = wanted.iter().copied().filter(|end| !is_given(end)).collect();
    let nobody = scheme.starts_with("webdav") && missing.len() == wanted.len();
    if missing.is_empty() || nobody { Ok(()) } else { Err(format!("{scheme}: also needs {}", variables(&missing))) }
}

/// The path, decoded, without a slash at its end.
fn root(url: &Url, with_host: bool) -> Result<String, String> {
    if !with_host && url.host_str().is_some_and(|host| !host.is_empty()) {
        return Err(format!(
            "write three slashes: {}:///{}{}",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            url.path()
        ));
    }
    let path = percent_decode_str(url.path()).decode_utf8().map_err(|_| "the path is not UTF-8 text".to_owned())?;
    if path.contains(['\0', '\\', '\n', '\r']) || path.split('/').any(|part| part == "..") {
        return Err("the path has .. or \\ or characters in it that cannot be seen".to_owned());
    }
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.is_empty() && url.scheme() == "fs" {
        return Err("name the folder, such as fs:///mnt/nas/backups".to_owned());
    }
    Ok(format!("/{}", names.join("/")))
}

fn s3(url: &Url) -> Result<Kind, String> {
    let bucket = url.host_str().unwrap_or_default().to_owned();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !(1..=255).contains(&bucket.len()) || !bucket.bytes().all(allowed) || url.port().is_some() {
        return Err("name the bucket, such as s3://bucket/prefix; where it is goes into ?endpoint=".to_owned());
    }
    let (mut endpoint, mut region) = (AMAZON.to_owned(), REGION.to_owned());
    for (key, value) in url.query_pairs() {
        match key.as_ref() {
            "endpoint" => endpoint = server(&value)?,
            "region" if !value.is_empty() && value.bytes().all(allowed) => region = value.into_owned(),
            "region" => return Err("region is a name such as eu-central-1".to_owned()),
            _ => return Err("after ? there may be endpoint= and region=, divided by &".to_owned()),
        }
    }
    Ok(Kind::S3 { bucket, root: root(url, true)?, endpoint, region })
}

/// An address with nothing behind it.
fn server(text: &str) -> Result<String, String> {
    let wanted = "endpoint is an address such as https://s3.school.example or http://127.0.0.1:9000";
    let url = Url::parse(text).ok().filter(|_| !text.contains(char::is_control)).ok_or_else(|| wanted.to_owned())?;
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let has_no_user = url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() || !is_bare || !has_no_user {
        return Err(wanted.to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn webdav(url: &Url) -> Result<Kind, String> {
    let scheme = if url.scheme() == "webdavs" { "https" } else { "http" };
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| format!("name the server, such as {}://cloud.school.example/dav", url.scheme()))?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Ok(Kind::Webdav { endpoint: server(&format!("{scheme}://{host}{port}"))?, root: root(url, true)? })
}
