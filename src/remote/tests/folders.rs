//! Folders, here or mounted here.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::remote::{Credentials, Error, Pace, Place, Remote, Written};

fn remote(root: &Path) -> Remote {
    limited(root, None)
}

fn limited(root: &Path, bandwidth: Option<u64>) -> Remote {
    let place = Place::parse(&format!("fs://{}", root.display()), Credentials::default()).unwrap();
    Remote::open(&place, &Pace { timeout: Duration::from_secs(60), bandwidth }).unwrap()
}

#[test]
fn a_folder_keeps_what_it_is_given_privately() {
    let dir = tempfile::tempdir().unwrap();
    let remote = remote(dir.path());
    let key = "backups/20260108T010000Z-0000000412/attendance.db.zst";
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 5) as u8).collect();
    let mut upload = remote.upload(key).unwrap();
    upload.write_all(&content).unwrap();
    assert!(!dir.path().join(key).exists(), "it has its name before it is whole");
    assert_eq!(upload.finish().unwrap(), Written { size: 3_000_000, parts: 0 });
    assert_eq!(std::fs::read(dir.path().join(key)).unwrap(), content);
    let mut read = Vec::new();
    remote.download(key, 0).unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read, content);
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(key), mode("backups")), (0o600, 0o700));

    remote.put("lease.json", b"1").unwrap();
    remote.put("lease.json", b"23").unwrap();
    assert_eq!(remote.get("lease.json", 2).unwrap().unwrap(), b"23");
    assert_eq!(remote.get("lease.json", 1).unwrap_err().code(), "replica-damaged");
    assert_eq!(remote.get("other.json", 1).unwrap(), None);
    assert_eq!(remote.download("other.json", 0).err().unwrap().code(), "replica-absent");
    let listed = |prefix| remote.list(prefix).unwrap().into_iter().map(|it| (it.key, it.size)).collect::<Vec<_>>();
    assert_eq!(listed("backups"), [(key.to_owned(), 3_000_000)]);
    assert_eq!(listed("").len(), 2);
    assert_eq!(listed("catalog/"), []);

    remote.delete(key).unwrap();
    remote.delete(key).unwrap();
    remote.delete("lease.json").unwrap();
    assert_eq!(listed(""), []);
    assert!(dir.path().join("backups").exists() && !dir.path().join(key).parent().unwrap().exists());
}

#[test]
fn an_upload_that_was_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut upload = remote(dir.path()).upload("a").unwrap();
    upload.write_all(&vec![1; 5_000_000]).unwrap();
    drop(upload);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// What a mount that is away looks like must not be taken for an empty replica, nor be filled.
#[test]
fn a_folder_that_is_not_there_is_never_made() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("nas");
    let remote = remote(&root);
    let all = |remote: &Remote| {
        [
            remote.put("a", b"1").unwrap_err(),
            remote.get("a", 1).unwrap_err(),
            remote.list("").unwrap_err(),
            remote.delete("a").unwrap_err(),
            remote.upload("a").err().unwrap(),
            remote.download("a", 0).err().unwrap(),
        ]
    };
    for failure in all(&remote) {
        assert_eq!(failure.code(), "replica-unreachable", "{failure}");
        assert!(failure.to_string().contains("is not there; mount what it lies on"), "{failure}");
    }
    assert!(!root.exists());
    std::fs::create_dir(&root).unwrap();
    remote.put("a", b"1").unwrap();
    assert_eq!(remote.get("a", 1).unwrap().unwrap(), b"1");
    // Away again, in mid-work.
    let mut upload = remote.upload("b").unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    upload.write_all(b"1").unwrap();
    assert_eq!(upload.finish().unwrap_err().code(), "replica-unreachable");
    all(&remote);
    assert!(!root.exists());
    std::fs::write(&root, "a file").unwrap();
    assert!(all(&remote).iter().all(|failure| failure.code() == "replica-refused"));
}

#[test]
fn keys_stay_below_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("nas");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    let remote = remote(&root);
    for key in ["../secret", "a/../../secret", "/etc/passwd", "", "a//b", "./a"] {
        assert!(remote.put(key, b"1").is_err(), "{key:?}");
        assert!(remote.delete(key).is_err(), "{key:?}");
        assert!(remote.get(key, 10).is_err(), "{key:?}");
        assert!(remote.download(key, 0).is_err(), "{key:?}");
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("secret")).unwrap(), "x");
    assert!(remote.list("../").is_err());
}

#[test]
fn the_line_is_shared_and_its_limit_holds() {
    let dir = tempfile::tempdir().unwrap();
    let remote = limited(dir.path(), Some(1 << 20));
    let began = Instant::now();
    let mut upload = remote.upload("a").unwrap();
    upload.write_all(&vec![1; 2 << 20]).unwrap();
    upload.finish().unwrap();
    remote.download("a", 0).unwrap().read_to_end(&mut Vec::new()).unwrap();
    let took = began.elapsed().as_secs_f64();
    assert!(took >= 2.5, "4 MiB at 1 MiB/s took {took} s");
}

#[test]
fn what_is_cancelled_ends_soon() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let remote = limited(dir.path(), Some(1024)).cancelled_by(move || began.elapsed() > Duration::from_millis(300));
    let mut upload = remote.upload("a").unwrap();
    let failure = upload.write_all(&vec![1; 4 << 20]).unwrap_err();
    assert_eq!(Error::of_io(failure).unwrap(), Error::Cancelled);
    assert_eq!(upload.finish().unwrap_err(), Error::Cancelled);
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(remote.get("a", 1).unwrap_err(), Error::Cancelled);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
