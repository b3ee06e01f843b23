//! Places for replicas: real stores of each kind, how the program is told of them, and what lies in them.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::harness::Place;
use crate::objects::Objects;
use crate::proxy::Proxy;
use crate::s3::{self, S3};
use crate::webdav::{self, WebDav};

/// A store whose objects are files.
pub struct Store {
    /// Without credentials.
    pub url: String,
    /// What its credentials are called and what they are.
    pub credentials: Vec<(&'static str, String)>,
    pub objects: Objects,
    server: Kind,
}

/// What runs as long as the store is there.
enum Kind {
    Folder(#[allow(dead_code)] TempDir),
    S3(S3),
    WebDav(WebDav),
}

impl Store {
    pub fn folder() -> Self {
        Self::folder_in(tempfile::tempdir().unwrap())
    }

    pub fn folder_in(dir: TempDir) -> Self {
        let folder = dir.path().join("replica");
        std::fs::create_dir(&folder).unwrap();
        Self {
            url: format!("fs://{}", folder.display()),
            credentials: Vec::new(),
            objects: Objects(folder),
            server: Kind::Folder(dir),
        }
    }

    pub fn s3() -> Self {
        Self::of_s3(S3::start())
    }

    /// It lets nobody in whose clock is wrong by more than a quarter of an hour.
    pub fn strict_s3() -> Self {
        Self::of_s3(S3::that_bears(900))
    }

    fn of_s3(s3: S3) -> Self {
        Self {
            url: s3_url(s3.address),
            credentials: vec![("ACCESS_KEY", s3::ACCESS_KEY.to_owned()), ("SECRET_KEY", s3::SECRET_KEY.to_owned())],
            objects: Objects(s3.bucket().join("offsite")),
            server: Kind::S3(s3),
        }
    }

    pub fn webdav() -> Self {
        let webdav = WebDav::start();
        Self {
            url: webdav_url(webdav.address),
            credentials: vec![("USERNAME", webdav::USERNAME.to_owned()), ("PASSWORD", webdav::PASSWORD.to_owned())],
            objects: Objects(webdav.share().join("offsite")),
            server: Kind::WebDav(webdav),
        }
    }

    /// One of each kind.
    pub fn all() -> [Self; 3] {
        [Self::folder(), Self::s3(), Self::webdav()]
    }

    /// With a proxy in between, over which its address leads from now on.
    pub fn proxied(mut self) -> (Self, Proxy) {
        let proxy = match &self.server {
            Kind::Folder(_) => panic!("a folder has no address"),
            Kind::S3(s3) => Proxy::before(s3.address),
            Kind::WebDav(webdav) => Proxy::before(webdav.address),
        };
        self.url = match &self.server {
            Kind::WebDav(_) => webdav_url(proxy.address),
            _ => s3_url(proxy.address),
        };
        (self, proxy)
    }

    /// Pieces of uploads that were neither completed nor taken back.
    pub fn unfinished(&self) -> Vec<String> {
        match &self.server {
            Kind::S3(s3) => s3.unfinished(),
            _ => Vec::new(),
        }
    }
}

fn s3_url(address: SocketAddr) -> String {
    format!("s3://{}/offsite?endpoint=http://{address}&region=eu-central-1", s3::BUCKET)
}

fn webdav_url(address: SocketAddr) -> String {
    format!("webdav://{address}/offsite")
}

impl Place {
    /// The program copies everything there as well, from now on.
    pub fn replica(&mut self, name: &str, store: &Store) -> &mut Self {
        self.set(&format!("BACKUP_REPLICA_{name}_URL"), &store.url);
        self.credentials(name, store)
    }

    /// What it needs to be let in there.
    pub fn credentials(&mut self, name: &str, store: &Store) -> &mut Self {
        for (what, value) in &store.credentials {
            self.set(&format!("BACKUP_REPLICA_{name}_{what}"), value);
        }
        self
    }
}
