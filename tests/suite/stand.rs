//! The stores and the proxy that replicas are tried with, tried by OpenDAL itself: they are what they seem, and each fault
//! is what it is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opendal::layers::TimeoutLayer;
use opendal::services::{Fs, S3, Webdav};
use opendal::{ErrorKind, Operator};

use crate::fault::{Fault, Reply, When};
use crate::stores::Store;
use crate::{s3, webdav};

/// OpenDAL on that store, without second tries.
fn operator(store: &Store) -> Operator {
    patient(store, 2)
}

/// The same, which waits so many seconds for anything.
fn patient(store: &Store, seconds: u64) -> Operator {
    let url = url::Url::parse(&store.url).unwrap();
    let authority = || url.as_str().split("://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let wait = Duration::from_secs(seconds);
    let timeout = TimeoutLayer::new().with_timeout(wait).with_io_timeout(wait);
    let operator = match url.scheme() {
        "fs" => Operator::new(Fs::default().root(url.path())),
        "webdav" => Operator::new(
            Webdav::default()
                .endpoint(&format!("http://{}", authority()))
                .root(url.path())
                .username(webdav::USERNAME)
                .password(webdav::PASSWORD),
        ),
        _ => {
            let endpoint = url.query_pairs().find(|(name, _)| name == "endpoint").unwrap().1.into_owned();
            let keys = S3::default().access_key_id(s3::ACCESS_KEY).secret_access_key(s3::SECRET_KEY);
            Operator::new(keys.bucket(s3::BUCKET).root(url.path()).endpoint(&endpoint).region("eu-central-1"))
        }
    };
    operator.unwrap().layer(timeout)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn each_store_keeps_what_it_is_given() {
    for store in Store::all() {
        let operator = operator(&store);
        run(async {
            operator.write("backups/a/b.json", "one").await.unwrap();
            operator.write("backups/a/c.json", vec![7; 300_000]).await.unwrap();
            operator.write("backups/a/c.json", "two").await.unwrap();
            assert_eq!(operator.stat("backups/a/c.json").await.unwrap().content_length(), 3);
            assert_eq!(operator.read("backups/a/b.json").await.unwrap().to_vec(), b"one");
            let listed = operator.list_with("backups/").recursive(true).await.unwrap();
            assert_eq!(listed.iter().filter(|entry| !entry.path().ends_with('/')).count(), 2, "{}", store.url);
            assert_eq!(operator.stat("backups/x").await.unwrap_err().kind(), ErrorKind::NotFound);
        });
        assert_eq!(store.objects.all()["backups/a/c.json"], b"two", "{}", store.url);
        std::fs::write(store.objects.path("backups/a/b.json"), "damaged").unwrap();
        run(async {
            assert_eq!(operator.read("backups/a/b.json").await.unwrap().to_vec(), b"damaged", "{}", store.url);
            operator.delete("backups/a/b.json").await.unwrap();
        });
        assert_eq!(store.objects.keys(), ["backups/a/c.json"]);
    }
}

#[test]
fn strangers_are_not_let_in() {
    let (store, webdav) = (Store::s3(), Store::webdav());
    let endpoint = store.url.split("endpoint=").nth(1).unwrap().split('&').next().unwrap();
    let stranger = S3::default().access_key_id(s3::ACCESS_KEY).secret_access_key("another");
    let stranger = Operator::new(stranger.bucket(s3::BUCKET).endpoint(endpoint).region("eu-central-1")).unwrap();
    let denied = run(async { stranger.write("a", "b").await }).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied, "{denied}");
    let endpoint = webdav.url.replace("webdav://", "http://");
    let stranger = Webdav::default().endpoint(&endpoint).username(webdav::USERNAME).password("another");
    let denied = run(async { Operator::new(stranger).unwrap().write("a", "b").await }).unwrap_err();
    assert!(denied.to_string().contains("401"), "{denied}");
    assert!(store.objects.keys().is_empty() && webdav.objects.keys().is_empty());
}

/// Above what one request may hold, in pieces; until they are put together nothing is there.
#[test]
fn a_large_object_goes_up_in_pieces() {
    let (store, proxy) = Store::s3().proxied();
    let operator = patient(&store, 60);
    let piece: Vec<u8> = (0..8 << 20).map(|i: u32| (i % 251) as u8).collect();
    run(async {
        let mut writer = operator.writer_with("large").chunk(8 << 20).await.unwrap();
        for _ in 0..9 {
            writer.write(piece.clone()).await.unwrap();
        }
        assert!(store.objects.keys().is_empty() && !store.unfinished().is_empty());
        writer.close().await.unwrap();
    });
    assert!(store.objects.all()["large"] == piece.repeat(9) && store.unfinished().is_empty());
    let seen = proxy.seen();
    assert_eq!(seen.iter().filter(|it| it.target.contains("partNumber=")).count(), 9, "{seen:?}");
    assert_eq!(seen.iter().filter(|it| it.method == "PUT").map(|it| it.up).sum::<u64>(), 9 * (8 << 20));
    run(async {
        let mut writer = operator.writer_with("dropped").chunk(8 << 20).await.unwrap();
        for _ in 0..3 {
            writer.write(piece.clone()).await.unwrap();
        }
    });
    assert!(!store.unfinished().is_empty() && store.objects.keys() == ["large"]);
}

#[test]
fn each_fault_is_what_it_is_called() {
    let (store, proxy) = Store::s3().proxied();
    let operator = operator(&store);
    let body = vec![1; 3_000_000];
    let put = || run(async { operator.write("object", body.clone()).await.map(drop) });
    let get = || run(async { operator.read("object").await.map(|bytes| bytes.to_vec()) });
    put().unwrap();
    assert_eq!(get().unwrap(), body);
    let fails = |when: When, fault: Fault, went: &dyn Fn() -> String, words: &str| {
        proxy.spoil(when.once(), fault);
        let error = went();
        assert!(error.contains(words), "{words:?} is not in: {error}");
        proxy.heal();
        assert_eq!(get().unwrap(), body);
    };
    let puts = || format!("{:?}", put().unwrap_err());
    let gets = || format!("{:?}", get().unwrap_err());
    let (up, down) = (When::of("PUT", "object"), When::of("GET", "object"));
    fails(up.clone(), Fault::Silence, &puts, "timeout");
    fails(up.clone(), Fault::StallUp(100_000), &puts, "timeout");
    fails(down.clone(), Fault::StallDown(100_000), &gets, "timeout");
    fails(up.clone(), Fault::ResetUp(100_000), &puts, "");
    fails(down.clone(), Fault::ResetDown(100_000), &gets, "");
    fails(down.clone(), Fault::CutDown(100_000), &gets, "");
    fails(up.clone(), Fault::Lost, &puts, "");
    fails(up.clone(), Fault::error(500, "InternalError"), &puts, "InternalError");
    fails(up.clone(), Fault::error(503, "SlowDown"), &puts, "SlowDown");
    fails(down.clone(), Fault::error(429, "TooManyRequests"), &gets, "TooManyRequests");
    // Nobody sees these by the request alone.
    proxy.spoil(When::of("PUT", "never").once(), Fault::Instead(Reply::of(200, b"").header("ETag", "\"e\"")));
    run(async { operator.write("never", "x").await.map(drop) }).unwrap();
    assert_eq!(store.objects.keys(), ["object"]);
    proxy.spoil(down.once(), Fault::Instead(Reply::of(200, b"older")));
    assert_eq!(get().unwrap(), b"older");
    let file = store.objects.path("object");
    proxy.spoil(up.once(), Fault::after(move |_| std::fs::write(&file, "").unwrap()));
    put().unwrap();
    assert_eq!(get().unwrap(), b"");
}

#[test]
fn a_request_that_comes_twice_comes_twice() {
    let (store, proxy) = Store::s3().proxied();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    proxy.spoil(When::of("PUT", "twice").once(), Fault::Twice);
    let count_it = move |_: &str| {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    proxy.spoil(When::of("DELETE", "").once(), Fault::before(count_it));
    let operator = operator(&store);
    run(async {
        operator.write("twice", "abc").await.unwrap();
        operator.delete("twice").await.unwrap();
    });
    let seen = proxy.seen();
    assert_eq!((seen[0].up, seen[0].status), (6, Some(200)), "{seen:?}");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_server_that_goes_is_gone_until_it_comes_back() {
    let (store, proxy) = Store::s3().proxied();
    let operator = operator(&store);
    let put = || run(async { operator.write("object", "x").await.map(drop) });
    put().unwrap();
    for _ in 0..3 {
        proxy.go();
        let refused = format!("{:?}", put().unwrap_err());
        assert!(refused.contains("refused"), "{refused}");
        proxy.come_back();
        put().unwrap();
    }
}

/// Answers can be made up, and rules and records begin where they are told to.
#[test]
fn a_listing_can_be_made_up() {
    let (store, proxy) = Store::s3().proxied();
    let operator = operator(&store);
    let list = || run(async { operator.list("backups/").await.map(|entries| entries.len()) });
    let made = |_: &str| {
        let contents: String =
            (0..3).map(|n| format!("<Contents><Key>offsite/backups/{n}</Key><ETag>e</ETag><LastModified>2026-01-08T01:00:00.000Z</LastModified><Size>1</Size></Contents>")).collect();
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>").into_bytes()
    };
    proxy.spoil(When::any().from(2), Fault::Instead(Reply::Made(Arc::new(made))));
    assert_eq!(list().unwrap(), 0);
    proxy.forget();
    assert_eq!((list().unwrap(), list().unwrap(), proxy.seen().len()), (3, 3, 2));
}
