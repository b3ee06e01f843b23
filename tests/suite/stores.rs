//! Places for replicas: real stores of each kind, how the program is told of them, and what lies in them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::harness::tree;
use crate::proxy::Proxy;
use crate::s3::{self, S3};
use crate::webdav::WebDav;

/// A store whose objects are files.
pub struct Store {
    /// Without credentials.
    pub url: String,
    /// Below this each object is a file of its key.
    pub folder: PathBuf,
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
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("replica");
        Self { url: format!("fs://{}", folder.display()), folder, server: Kind::Folder(dir) }
    }

    pub fn s3() -> Self {
        let s3 = S3::start();
        Self { url: s3_url(s3.address), folder: s3.bucket().join("offsite"), server: Kind::S3(s3) }
    }

    pub fn webdav() -> Self {
        let webdav = WebDav::start();
        Self { url: webdav_url(webdav.address), folder: webdav.share().join("offsite"), server: Kind::WebDav(webdav) }
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

    /// Every object by its key.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.keys().into_iter();
        files.map(|key| (key.clone(), std::fs::read(self.folder.join(key)).unwrap())).collect()
    }

    pub fn keys(&self) -> Vec<String> {
        if !self.folder.exists() {
            return Vec::new();
        }
        let files = tree(&self.folder).into_iter().filter(|(_, _, is_dir)| !is_dir);
        let mut keys: Vec<_> = files.map(|(key, ..)| key).collect();
        keys.sort();
        keys
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
