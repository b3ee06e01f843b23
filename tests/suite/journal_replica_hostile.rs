//! A journal in a replica that somebody else can write to: what isn't what its name says doesn't come in, whatever it is, and nothing
//! outside the backup directory is made or changed [P9].

use std::process::Command;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use crate::client::Server;
use crate::harness::{Place, python, sha256};
use crate::journal_replica::{journal_keys, kill_server, number, numbers_at, shipping, text};
use crate::replica_hostile::fails_cleanly;
use crate::replica_scene::OFFSITE;
use crate::scene::Context;
use crate::stores::Store;

/// Nothing is encrypted: whoever can write there can write anything.
fn scene() -> (Store, Place, DateTime<Utc>) {
    let store = Store::folder();
    let mut place = shipping(&store);
    place.unset("BACKUP_ENCRYPTION_RECIPIENTS").unset("BACKUP_ENCRYPTION_IDENTITY_FILE");
    let server = Server::start(&place);
    number(&place, 1);
    let at = number(&place, 2);
    kill_server(server);
    (store, place, at)
}

fn machine(store: &Store) -> Place {
    let mut place = Place::empty();
    place.replica(OFFSITE, store);
    place
}

/// A store, an instant, and the last pack of a database there with its bytes; nothing, if that instant comes back without the pack.
fn needed_pack() -> Option<(Store, DateTime<Utc>, String, Vec<u8>)> {
    let (store, _place, at) = scene();
    let last = journal_keys(&store).into_iter().rfind(|key| key.contains("/attendance/0/"))?;
    let whole = store.objects.get(&last).unwrap();
    store.objects.put(&last, b"");
    let is_needed = machine(&store).run(&restore_args(&text(at))).code == 1;
    store.objects.put(&last, &whole);
    is_needed.then_some((store, at, last, whole))
}

/// What becomes of a pack's tar. In each a file is otherwise whole.
const CHANGES: [(&str, &str); 13] = [
    ("a path that climbs", "m.name = '../../../../../tmp/x.ltx'"),
    ("a path from the root", "m.name = '/tmp/x.ltx'"),
    ("another database", "m.name = m.name.replace('attendance', 'auth')"),
    ("another level", "m.name = m.name.replace('/0/', '/9/')"),
    ("another state", "m.name = m.name.replace('1-', '2-')"),
    ("a symbolic link", "m.type, m.linkname, m.size, data = tarfile.SYMTYPE, '/etc/passwd', 0, b''"),
    ("a hard link", "m.type, m.linkname, m.size, data = tarfile.LNKTYPE, 'x', 0, b''"),
    ("a device", "m.type, m.size, data = tarfile.CHRTYPE, 0, b''"),
    ("a folder", "m.type, m.size, data = tarfile.DIRTYPE, 0, b''"),
    ("other bytes", "data = data[:150] + bytes([data[150] ^ 1]) + data[151:]"),
    ("fewer bytes", "m.size, data = len(data) - 1, data[:-1]"),
    ("more bytes", "m.size, data = len(data) + 1, data + b'x'"),
    ("another time", "m.pax_headers = {'mtime': '1764147600.123'}"),
];

/// The pack, with all of its files changed.
fn forged(pack: &[u8], change: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let [old, tar, new] = ["old.zst", "old.tar", "new.tar"].map(|name| dir.path().join(name));
    std::fs::write(&old, pack).unwrap();
    assert!(Command::new("zstd").arg("-dqf").arg(&old).arg("-o").arg(&tar).status().unwrap().success());
    let source = format!(
        "import io, sys, tarfile\n\
         a, b = tarfile.open(sys.argv[1]), tarfile.open(sys.argv[2], 'w', format=tarfile.PAX_FORMAT)\n\
         for m in a:\n\
         \x20   data = a.extractfile(m).read()\n\
         \x20   {change}\n\
         \x20   b.addfile(m, io.BytesIO(data))\n\
         b.close()\n"
    );
    python(&source, &[&tar, &new]);
    let packed = Command::new("zstd").arg("-cq").arg(&new).output().unwrap();
    assert!(packed.status.success());
    packed.stdout
}

fn restore_args(at: &str) -> [&str; 7] {
    ["restore", "--from", "offsite", "--at", at, "--confirm", at]
}

#[test]
fn a_forged_pack_does_not_come_in() {
    // On a machine that had no time for a few seconds a snapshot came after it, and stands for it.
    let (store, at, last, whole) =
        (0..5).find_map(|_| needed_pack()).expect("a pack without which there is no such instant");
    let (at, last) = (text(at), &last);
    for (what, change) in CHANGES {
        let context = Context(what.to_owned());
        store.objects.put(last, &forged(&whole, change));
        let machine = machine(&store);
        fails_cleanly(&machine, &restore_args(&at));
        assert!(!machine.live("attendance").exists() && !machine.backups().join("restoring").exists());
        fails_cleanly(&machine, &["replica", "verify", "offsite"]);
        drop(context);
    }
    let bomb = {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zeros");
        std::fs::File::create(&path).unwrap().set_len(256 << 20).unwrap();
        Command::new("zstd").arg("-cq").arg(&path).output().unwrap().stdout
    };
    for bytes in [
        b"<html>sign in</html>".to_vec(),
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        [&whole[..], b"x"].concat(),
        bomb,
    ] {
        store.objects.put(last, &bytes);
        fails_cleanly(&machine(&store), &restore_args(&at));
    }
    // The very tar that it was, packed by another's hands, is as good.
    store.objects.put(last, &whole);
    assert_eq!(numbers_at(&machine(&store), at.parse().unwrap()), [2, 2]);
}

#[test]
fn strange_keys_are_passed_over_and_stay() {
    let (store, place, at) = scene();
    let keys = journal_keys(&store);
    let folder = keys[0].rsplitn(4, '/').last().unwrap().to_owned();
    let good = keys.iter().find(|key| key.contains("/attendance/9/")).unwrap().clone();
    let name = good.rsplit('/').next().unwrap();
    let strange = [
        format!("{folder}/attendance/0/photo.jpg"),
        format!("{folder}/attendance/7/{name}"),
        format!("{folder}/Attendance/9/{name}"),
        format!("{folder}/attendance/9/{name}.00000"),
        format!("{folder}/attendance/9/x/{name}"),
        format!("{folder}/until/yesterday.json"),
        format!("journal/UPPER/attendance/9/{name}"),
        "journal/notes.txt".to_owned(),
    ];
    strange.iter().for_each(|key| store.objects.put(key, b"x"));
    // Of a lineage that the catalog doesn't name: an older state under the newest time.
    let foreign = good.replace(folder.rsplit('/').next().unwrap(), "00000000000000aa");
    store.objects.put(&foreign, &store.objects.get(&good).unwrap());
    let elsewhere = machine(&store);
    assert_eq!(numbers_at(&elsewhere, at), [2, 2]);
    assert_eq!(elsewhere.json(&["replica", "verify", "offsite"])["ok"], true);
    let server = Server::start(&place);
    crate::harness::eventually("what no catalog names goes", || store.objects.get(&foreign).is_none().then_some(()));
    number(&place, 3);
    kill_server(server);
    for key in strange {
        assert_eq!(store.objects.get(&key).as_deref(), Some(&b"x"[..]), "{key}");
    }
}

/// Nobody writes there any more. Folders of what counts are written to again and again.
#[test]
fn folders_of_what_no_catalog_names_go_too() {
    let store = Store::webdav();
    let place = shipping(&store);
    let server = Server::start(&place);
    number(&place, 1);
    kill_server(server);
    let good = journal_keys(&store).into_iter().find(|key| key.contains("/attendance/")).unwrap();
    let lineage = good.split('/').nth(1).unwrap().to_owned();
    let foreign = good.replace(&lineage, "00000000000000aa");
    store.objects.put(&foreign, b"x");
    store.objects.put("journal/00000000000000bb/photos/photo.jpg", b"x");
    let level = store.objects.path(&format!("journal/{lineage}/attendance/7"));
    std::fs::create_dir(&level).unwrap();
    let server = Server::start(&place);
    let folder = store.objects.path("journal/00000000000000aa");
    crate::harness::eventually("all of it goes", || (!folder.exists()).then_some(()));
    number(&place, 2);
    kill_server(server);
    assert!(level.exists() && store.objects.get("journal/00000000000000bb/photos/photo.jpg").is_some());
}

#[test]
fn what_says_until_when_is_looked_at_before_it_is_believed() {
    let (store, _place, at) = scene();
    let key = journal_keys(&store).into_iter().rfind(|key| key.contains("/until/")).unwrap();
    let folder = key.rsplit_once('/').unwrap().0.to_owned();
    let said: serde_json::Value = serde_json::from_slice(&store.objects.get(&key).unwrap()).unwrap();
    let later = text(at + TimeDelta::days(1));
    let forge = |value: serde_json::Value| {
        let bytes = value.to_string().into_bytes();
        let key = format!("{folder}/009999999999999-{}.json", &sha256(&bytes)[..16]);
        store.objects.put(&key, &bytes);
        key
    };
    for (name, value) in [
        ("version", json!(2)),
        ("alive", json!("yesterday")),
        ("gaps", json!([{ "from": later, "to": text(at) }])),
        ("databases", json!({ "../attendance": 1 })),
    ] {
        let mut other = said.clone();
        other[name] = value;
        let forged = forge(other);
        // The one before it counts.
        let listed = machine(&store).json(&["replica", "list", "offsite"]);
        assert_eq!(listed["journal"]["to"], said["alive"], "{name}: {listed}");
        std::fs::remove_file(store.objects.path(&forged)).unwrap();
    }
    // One whose bytes aren't those of its name, too.
    let mut other = said.clone();
    other["alive"] = json!(later);
    store.objects.put(&format!("{folder}/009999999999999-0000000000000000.json"), other.to_string().as_bytes());
    let listed = machine(&store).json(&["replica", "list", "offsite"]);
    assert_eq!(listed["journal"]["to"], said["alive"]);
    assert_eq!(numbers_at(&machine(&store), at), [2, 2]);
}
