//! Stores behind TLS: whoever can't prove to be the one in the URL is sent nothing [P10].

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{Place, kill, python3};
use crate::receivers::authority;
use crate::replica_scene::{PUSH, pushes, told, with_replica};
use crate::stores::Store;

const URL: &str = "BACKUP_REPLICA_OFFSITE_URL";

/// What speaks TLS before a store, with the place's certificate for `localhost`.
struct Front {
    child: Child,
    port: u16,
}

impl Front {
    fn before(place: &Place, store: SocketAddr) -> Self {
        authority(place);
        Self::with("mail.pem", place, store)
    }

    /// With a certificate of the place's that lies there.
    fn with(certificate: &str, place: &Place, store: SocketAddr) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/python/tls_front.py");
        let mut command = python3();
        command.arg(script).args([place.path("tls").join(certificate), place.path("tls/mail.key")]);
        let mut child = command.arg(store.port().to_string()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }

    /// The store's URL over this, where it is called `host`.
    fn url(&self, store: &Store, plain: SocketAddr, host: &str) -> String {
        let here = format!("{host}:{}", self.port);
        let plain = plain.to_string();
        store
            .url
            .replace(&format!("http://{plain}"), &format!("https://{here}"))
            .replace(&format!("webdav://{plain}"), &format!("webdavs://{here}"))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// The push fails with that code, saying so.
#[track_caller]
fn fails(place: &Place, code: &str, words: &[&str]) {
    place.run(&PUSH).refused(1, words);
    let told = told(place);
    assert_eq!((&told["lastError"]["code"], &told["pending"]), (&Value::from(code), &Value::from(1)), "{told}");
}

#[test]
fn a_store_is_asked_nothing_until_its_certificate_is_trusted() {
    for store in [Store::s3(), Store::webdav()] {
        let (store, proxy) = store.proxied();
        let mut place = with_replica(&store);
        let front = Front::before(&place, proxy.address);
        let url = |host| front.url(&store, proxy.address, host);
        place.create();
        place.set(URL, &url("localhost"));
        fails(&place, "replica-refused", &["not from an authority that this machine knows", "SSL_CERT_FILE"]);
        let authority = place.path("tls/ca.pem");
        place.set("SSL_CERT_FILE", authority.to_str().unwrap()).set(URL, &url("127.0.0.1"));
        fails(&place, "replica-refused", &["127.0.0.1", "its certificate is made out to another name"]);
        assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
        place.set(URL, &url("localhost"));
        pushes(&place, &store);
        assert!(!proxy.seen().is_empty());
        place.assert_whole();
    }
}

/// By the trusted authority, for the right name, and over for a year.
#[test]
fn a_store_whose_certificate_has_expired_is_sent_nothing() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = with_replica(&store);
    authority(&place);
    let mut command = Command::new("faketime");
    command.args(["2 years ago", "openssl", "x509", "-req", "-in", "mail.csr", "-CA", "ca.pem", "-CAkey", "ca.key"]);
    command.args(["-CAcreateserial", "-days", "365", "-extfile", "ext", "-out", "old.pem"]);
    let made = command.current_dir(place.path("tls")).stderr(Stdio::null()).status();
    assert!(made.expect("faketime is needed").success());
    let front = Front::with("old.pem", &place, proxy.address);
    let authority = place.path("tls/ca.pem");
    place.set("SSL_CERT_FILE", authority.to_str().unwrap()).set(URL, &front.url(&store, proxy.address, "localhost"));
    place.create();
    fails(&place, "replica-refused", &["its certificate is not valid now", "renew it"]);
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
    place.assert_whole();
}

/// That name stands for nobody by RFC 6761.
#[test]
fn a_store_whose_name_leads_nowhere_is_unreachable() {
    let store = Store::s3();
    let mut place = with_replica(&store);
    place.create();
    place.set(URL, "s3://school/offsite?endpoint=https://nowhere.invalid&region=eu-central-1");
    fails(&place, "replica-unreachable", &["no connection to", "it is tried again later"]);
    assert!(place.ids().len() == 1 && store.objects.keys().is_empty());
    place.replica("OFFSITE", &store);
    pushes(&place, &store);
    place.assert_whole();
}
