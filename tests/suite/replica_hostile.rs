//! A replica that somebody else can write to: names, catalogs and entries there are looked at before they are believed, nothing
//! outside the backup directory is touched, and what isn't ours stays [P9].

use std::process::Stdio;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::fault::{Fault, Reply, When};
use crate::harness::{Place, in_time, sha256, traces};
use crate::objects::{Objects, entry_key, key_of};
use crate::replica_scene::{OFFSITE, PUSH, another, push, pushes};
use crate::restore_large::peak;
use crate::scene::Context;
use crate::stores::Store;

/// Nothing is encrypted: whoever can write there can write anything.
pub fn plain_place(store: &Store) -> Place {
    let mut place = Place::new();
    place.replica(OFFSITE, store);
    place
}

/// One that has nothing of the first one's.
pub fn machine(store: &Store) -> Place {
    let mut place = Place::empty();
    place.replica(OFFSITE, store);
    place
}

/// These bytes as the newest catalog, under a name that is right.
fn publish(objects: &Objects, generation: u64, bytes: &[u8]) -> String {
    let key = format!("catalog/{generation:010}-{}.json", &sha256(bytes)[..16]);
    objects.put(&key, bytes);
    key
}

/// The newest catalog, changed, as the next one.
pub fn forge(objects: &Objects, change: impl FnOnce(&mut Value)) -> String {
    let mut catalog = objects.catalog().unwrap();
    let generation = catalog["generation"].as_u64().unwrap() + 1;
    catalog["generation"] = generation.into();
    change(&mut catalog);
    let generation = catalog["generation"].as_u64().unwrap_or(generation);
    publish(objects, generation, catalog.to_string().as_bytes())
}

const READERS: [&[&str]; 4] = [
    &["replica", "list", "offsite"],
    &["replica", "verify", "offsite"],
    &["replica", "pull", "offsite", "--all"],
    &["restore", "latest", "--from", "offsite", "--confirm", "latest"],
];

/// It failed with one clean line, and nothing was made or changed but in the backup directory.
#[track_caller]
pub fn fails_cleanly(place: &Place, args: &[&str]) {
    let outside = |place: &Place| {
        let all = traces(&place.path("")).into_iter();
        all.filter(|(name, ..)| !name.is_empty() && !name.starts_with("backups")).collect::<Vec<_>>()
    };
    let before = outside(place);
    let run = place.run(args);
    assert_eq!(run.code, 1, "{args:?}: {}{}", run.stdout, run.stderr);
    assert!(!run.stderr.contains("panicked") && run.stderr.len() < 4000, "{}", run.stderr);
    assert!(!run.stderr.trim_end().chars().any(|c| c.is_control() && c != '\n'), "{:?}", run.stderr);
    assert_eq!(outside(place), before, "{args:?}");
}

type Change = fn(&mut Value);

/// The first backup that a catalog names.
fn first(catalog: &mut Value) -> &mut Value {
    &mut catalog["backups"][0]
}

const CHANGES: [(&str, Change); 20] = [
    ("a form that is a command to terminals", |it| first(it)["databases"]["auth"]["form"] = "\u{1b}[31m".into()),
    ("a later format", |it| it["version"] = 3.into()),
    ("an id that climbs", |it| first(it)["id"] = "manual-../../../../tmp/x".into()),
    ("an id with NUL", |it| first(it)["id"] = "manual-2026-01-08T010000Z\0".into()),
    ("an id of another kind", |it| first(it)["id"] = 7.into()),
    ("two of one id", |it| it["backups"][1]["id"] = it["backups"][0]["id"].clone()),
    ("two of one instant", |it| {
        for what in ["sequence", "timestamp"] {
            it["backups"][1][what] = it["backups"][0][what].clone();
        }
    }),
    ("a database that climbs", |it| {
        first(it)["databases"] = json!({ "../../x": first(it)["databases"]["auth"].clone() })
    }),
    ("a database of NUL", |it| first(it)["databases"] = json!({ "a\0": first(it)["databases"]["auth"].clone() })),
    ("no database", |it| first(it)["databases"] = json!({})),
    ("an unknown form", |it| first(it)["databases"]["auth"]["form"] = "sh".into()),
    ("a form that climbs", |it| first(it)["databases"]["auth"]["form"] = "db/../../../x".into()),
    ("a sequence without end", |it| first(it)["sequence"] = u64::MAX.into()),
    ("a sequence below nothing", |it| first(it)["sequence"] = (-1).into()),
    ("a size below nothing", |it| first(it)["databases"]["auth"]["size"] = (-1).into()),
    ("more parts than there can be", |it| first(it)["databases"]["auth"]["parts"] = u32::MAX.into()),
    ("no instant", |it| first(it)["timestamp"] = "yesterday".into()),
    ("an instant in year 99999", |it| first(it)["timestamp"] = "99999-01-01T00:00:00.000Z".into()),
    ("no list", |it| it["backups"] = json!({ "0": {} })),
    ("nothing", |it| it["backups"] = Value::Null),
];

#[test]
fn a_forged_catalog_is_refused() {
    let store = Store::folder();
    let place = plain_place(&store);
    place.create();
    place.create();
    pushes(&place, &store);
    for (name, change) in CHANGES {
        let context = Context(name.to_owned());
        let forged = forge(&store.objects, change);
        READERS.iter().for_each(|args| fails_cleanly(&machine(&store), args));
        for args in [&PUSH[..], &["replica", "push", "offsite", "--take-over"]] {
            fails_cleanly(&place, args);
        }
        std::fs::remove_file(store.objects.path(&forged)).unwrap();
        drop(context);
    }
    pushes(&place, &store);
}

/// What it says of bytes is compared with them.
#[test]
fn forged_sums_are_found() {
    let store = Store::folder();
    let place = plain_place(&store);
    place.create();
    pushes(&place, &store);
    let forgeries: [(&str, Change); 4] = [
        ("a checksum that is none", |it| first(it)["databases"]["auth"]["checksum"] = "\u{1b}[31m../x".into()),
        ("a size without end", |it| first(it)["databases"]["auth"]["size"] = u64::MAX.into()),
        ("many parts", |it| first(it)["databases"]["auth"]["parts"] = 99_999.into()),
        ("an entry without end", |it| first(it)["entry"]["size"] = u64::MAX.into()),
    ];
    for (name, change) in forgeries {
        let context = Context(name.to_owned());
        let forged = forge(&store.objects, change);
        fails_cleanly(&place, &PUSH);
        for args in &READERS[1..] {
            let run = machine(&store).run(args);
            assert!(!run.stderr.contains("panicked") && !run.stderr.contains('\u{1b}'), "{args:?}: {}", run.stderr);
            assert!(run.code == 1 || name == "an entry without end", "{args:?}: {}{}", run.stdout, run.stderr);
        }
        std::fs::remove_file(store.objects.path(&forged)).unwrap();
        drop(context);
    }
}

#[test]
fn a_catalog_that_is_none_is_refused() {
    let store = Store::folder();
    let place = plain_place(&store);
    place.create();
    pushes(&place, &store);
    let deep = "[".repeat(200_000);
    let long = format!("{{\"version\":1,\"x\":\"{}\"}}", "y".repeat(65 << 20));
    let bodies: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("NUL", b"\0\0\0\0"),
        ("a page", b"<html>\x1b[31mlogin</html>"),
        ("no UTF-8", b"{\"version\":1,\"host\":\"\xff\xfe\"}"),
        ("deep", deep.as_bytes()),
        ("long", long.as_bytes()),
    ];
    for (name, bytes) in bodies {
        let context = Context(name.to_owned());
        let key = publish(&store.objects, 900, bytes);
        for args in READERS {
            fails_cleanly(&machine(&store), args);
        }
        fails_cleanly(&place, &PUSH);
        std::fs::remove_file(store.objects.path(&key)).unwrap();
        drop(context);
    }
    // One that nothing can follow is none.
    let forged = forge(&store.objects, |it| it["generation"] = u64::MAX.into());
    place.ok(&["replica", "push", "offsite", "--take-over"]);
    assert_eq!(place.json(&["replica", "list", "offsite"])["backups"].as_array().unwrap().len(), 1);
    std::fs::remove_file(store.objects.path(&forged)).unwrap();
    pushes(&place, &store);
}

/// Close to the last generation that there can be, those who take over are still heard.
#[test]
fn the_last_generations_are_not_the_end() {
    for generation in [(1_u64 << 48) - 1, 1 << 48, (1 << 53) - 1, 9_999_999_999, 10_000_000_000] {
        let context = Context(format!("generation {generation}"));
        let store = Store::folder();
        let place = plain_place(&store);
        place.create();
        pushes(&place, &store);
        forge(&store.objects, |it| it["generation"] = generation.into());
        for round in 0..3 {
            place.create();
            let run = place.run(&["replica", "push", "offsite", "--take-over"]);
            let held = place.json(&["replica", "list", "offsite"])["backups"].as_array().unwrap().len();
            assert!(run.code == 1 || held == round + 2, "{held} are listed: {}{}", run.stdout, run.stderr);
            assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        }
        drop(context);
    }
}

/// By a number that is far above all others whoever can write there would leave us none: what is numbered by it now would be taken
/// for no backup of ours after the next disaster.
#[test]
fn a_number_that_nobody_comes_to_is_not_taken_up() {
    for forged in [(1_u64 << 40) - 1, (1 << 39) - 1, 1 << 47] {
        let store = Store::folder();
        let place = plain_place(&store);
        let [_, _, newest] = [(); 3].map(|()| another(&place));
        let id = newest["id"].as_str().unwrap();
        pushes(&place, &store);
        forge(&store.objects, |catalog| {
            let mut far = catalog["backups"][0].clone();
            (far["sequence"], far["id"]) = (forged.into(), "manual-2020-01-01T000000Z".into());
            catalog["backups"].as_array_mut().unwrap().push(far);
        });
        // Twice everything is lost but the replica.
        for sequence in [4, 5] {
            let machine = machine(&store);
            machine.ok(&["restore", id, "--from", "offsite", "--confirm", id]);
            assert_eq!(another(&machine)["sequence"], sequence, "{forged}");
            machine.ok(&[&PUSH[..], &["--take-over"]].concat());
        }
    }
}

/// What a host calls itself is shown as text.
#[test]
fn a_name_with_escapes_is_shown_as_text() {
    let store = Store::folder();
    let place = plain_place(&store);
    place.create();
    pushes(&place, &store);
    forge(&store.objects, |it| it["host"] = format!("\u{1b}[2J\r\n\u{202e}evil{}", "x".repeat(100_000)).into());
    fails_cleanly(&place, &PUSH);
    let status = place.ok(&["status"]).stdout;
    assert!(!status.contains('\u{1b}') && status.len() < 20_000, "{status:?}");
}

/// An entry that says where its files are to lie, and whose they are.
#[test]
fn a_forged_entry_says_nothing_of_paths() {
    type Forge = fn(&mut Value);
    let forgeries: [(&str, Forge); 5] = [
        ("a file that climbs", |it| it["backup"]["databases"]["auth"]["file"] = "../../../x.db".into()),
        ("an id that climbs", |it| it["backup"]["id"] = "../../x".into()),
        ("another database", |it| {
            it["backup"]["databases"] = json!({ "../x": it["backup"]["databases"]["auth"].clone() });
        }),
        ("another instant", |it| it["backup"]["timestamp"] = "2020-01-01T00:00:00.000Z".into()),
        ("no entry", |it| *it = json!([])),
    ];
    for (name, forgery) in forgeries {
        let context = Context(name.to_owned());
        let store = Store::folder();
        let place = plain_place(&store);
        place.create();
        pushes(&place, &store);
        let held = store.objects.held().remove(0);
        let mut entry = store.objects.entry(&place, &held);
        forgery(&mut entry);
        let bytes = entry.to_string().into_bytes();
        store.objects.put(&entry_key(&held), &bytes);
        forge(&store.objects, |it| {
            let said = &mut first(it)["entry"];
            (said["size"], said["checksum"]) = (bytes.len().into(), sha256(&bytes).into());
        });
        let machine = machine(&store);
        let run = machine.run(&["replica", "pull", "offsite", "--all"]);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        let names: Vec<_> = std::fs::read_dir(machine.path("")).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["backups"], "{}", run.stderr);
        assert_eq!(run.code, if name == "a file that climbs" { 0 } else { 1 }, "{}", run.stderr);
        if run.code == 0 {
            machine.ok(&["verify", "--all"]);
        }
        machine.assert_whole();
        drop(context);
    }
}

/// Two gigabytes of nothing in a small object: neither the disk nor the time is taken.
#[test]
fn a_bomb_ends_where_the_database_would() {
    let store = Store::folder();
    let place = plain_place(&store);
    place.create();
    pushes(&place, &store);
    let held = store.objects.held().remove(0);
    let bomb = place.path("bomb");
    let script = "head -c 2147483648 /dev/zero | zstd -q -1 -T0 > \"$0\"";
    assert!(std::process::Command::new("sh").args(["-c", script]).arg(&bomb).status().unwrap().success());
    let bytes = std::fs::read(bomb).unwrap();
    store.objects.put(&key_of(&held, "auth", &held["databases"]["auth"]), &bytes);
    forge(&store.objects, |it| {
        let said = &mut first(it)["databases"]["auth"];
        (said["size"], said["checksum"]) = (bytes.len().into(), sha256(&bytes).into());
    });
    let machine = in_time(std::time::Duration::from_secs(20), || {
        let machine = machine(&store);
        machine.run(&["replica", "verify", "offsite"]).refused(1, &[]);
        machine.run(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]).refused(1, &[]);
        machine
    });
    assert!(machine.ids().is_empty() && !machine.live("auth").exists());
    machine.assert_whole();
}

/// Keys that nobody of us has given are left alone, whatever they look like.
#[test]
fn what_is_not_ours_stays() {
    for store in Store::all() {
        let place = plain_place(&store);
        place.create();
        pushes(&place, &store);
        let foreign = [
            "holiday.jpg",
            "backups/holiday.jpg",
            "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/holiday.jpg",
            "backups/20260108T010000Z-412-5f0c2a9be1d37784/attendance.db.zst",
            "backups/20260108T010000Z-0000000412-5F0C2A9BE1D37784/attendance.db.zst",
            "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db.zst.1",
            "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/Attendance.db.zst",
            "catalog/notes.txt",
            "catalog/0000000001-xyz.json",
            "lease.json.old",
        ];
        foreign.iter().for_each(|key| store.objects.put(key, b"of somebody else"));
        // One that looks like ours is: it is what a crash leaves.
        let leftover = "backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db.zst";
        store.objects.put(leftover, b"half of it");
        let done = place.json(&PUSH);
        assert_eq!(done["removed"], json!([leftover]));
        assert!(place.audit().iter().any(|line| line["details"]["removed"] == json!([leftover])), "no record of it");
        for key in foreign {
            assert_eq!(store.objects.get(key).unwrap(), b"of somebody else", "{key}");
        }
        place.ok(&["replica", "verify", "offsite"]);
        store.objects.assert_true();
    }
}

/// A listing with a hundred thousand keys that aren't ours.
#[test]
fn a_hundred_thousand_foreign_keys_are_borne() {
    let store = Store::folder();
    let place = plain_place(&store);
    place.create();
    pushes(&place, &store);
    for folder in 0..100 {
        let folder = store.objects.path(&format!("backups/holiday-{folder}"));
        std::fs::create_dir(&folder).unwrap();
        (0..1000).for_each(|n| std::fs::write(folder.join(format!("{n}.jpg")), "").unwrap());
    }
    place.create();
    let mut child = place.command(&PUSH).stdout(Stdio::null()).spawn().unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(peak(child.id()).unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
    println!("{} MB of memory", most >> 20);
    assert!(most < 128 << 20, "{most} bytes of memory");
    store.objects.assert_true();
    assert_eq!(store.objects.ids().len(), 2);
}

/// A store that lists what can't be: keys that climb, that lie elsewhere, of any size and any length.
#[test]
fn a_forged_listing_is_looked_at() {
    let (store, proxy) = Store::s3().proxied();
    let place = plain_place(&store);
    place.create();
    pushes(&place, &store);
    let names = [
        "offsite/backups/../../../etc/passwd",
        "offsite/backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/../../x.db",
        "elsewhere/backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db.zst",
        "offsite/backups/20260108T010000Z-0000000412-5f0c2a9be1d37784/attendance.db.zst/",
        "/etc/passwd",
        "",
        "offsite/backups/&#x1b;[31m",
    ];
    let made = move |_: &str| {
        let contents = |key: &str| {
            format!(
                "<Contents><Key>{key}</Key><ETag>e</ETag><LastModified>2026-01-08T01:00:00.000Z</LastModified><Size>9223372036854775807</Size></Contents>"
            )
        };
        let long = format!("offsite/backups/{}", "x".repeat(100_000));
        let all: String = names.iter().map(|key| contents(key)).chain([contents(&long)]).collect();
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{all}</ListBucketResult>").into_bytes()
    };
    proxy.spoil(When::of("GET", "prefix=offsite%2Fbackups"), Fault::Instead(Reply::Made(Arc::new(made))));
    proxy.forget();
    // By that listing everything is lost, and is sent again.
    let run = push(&place);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    let deleted: Vec<_> = proxy.seen().into_iter().filter(|it| it.method == "DELETE").map(|it| it.target).collect();
    assert!(
        deleted.iter().all(|it| it.contains("/offsite/catalog/") || it.contains("/offsite/lease.json")),
        "{deleted:?}"
    );
    proxy.heal();
    pushes(&place, &store);
    let machine = machine(&store);
    machine.ok(&["replica", "pull", "offsite", "--all"]);
}
