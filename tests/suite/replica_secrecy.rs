//! What lies elsewhere is unreadable to whoever holds it, and what lets us in is seen by nobody.

use serde_json::{Value, json};

use crate::client::{Server, token};
use crate::fault::{Fault, When};
use crate::forms::{IDENTITY, holds};
use crate::harness::{Place, Run, tree};
use crate::objects::{entry_key, objects_of};
use crate::replica_scene::{OFFSITE, PUSH, empty_machine, in_rows, push, pushes, with_replica};
use crate::restore_app::id;
use crate::secrets::commands;
use crate::stores::Store;

/// Words that only the databases, their entries and the audit log have.
const PLAIN: [&str; 9] = [
    "SQLite format 3",
    "Carla",
    "a@school.example",
    "CREATE TABLE",
    "people",
    "INTEGER PRIMARY KEY",
    "before the exams",
    "grace.hopper",
    "journalMode",
];

#[test]
fn nothing_lies_there_plain() {
    let claims = json!({ "sub": "grace.hopper", "role": "superuser" });
    for store in Store::all() {
        let mut place = with_replica(&store);
        for (compressed, encrypted) in [(false, false), (true, false), (false, true), (true, true)] {
            place.writes(compressed, encrypted);
            let server = Server::start(&place);
            let request = server.request("POST", "/api/backup/create").token(&token(claims.clone()));
            request.json(&json!({ "reason": "before the exams" })).send().ok();
            server.stop();
            pushes(&place, &store);
        }
        let all = store.objects.all();
        assert!(all.len() > 4 * 3, "{:?}", all.keys());
        for (key, bytes) in &all {
            for word in PLAIN {
                assert!(!holds(bytes, word), "{word:?} is in {key} of {}", store.url);
            }
        }
        // They are found where they may be.
        let held = store.objects.held().pop().unwrap();
        let entry = store.objects.entry(&place, &held).to_string();
        for word in ["people", "before the exams", "grace.hopper", "journalMode"] {
            assert!(entry.contains(word), "{word:?} isn't in {entry}");
        }
    }
}

/// Without a key to encrypt to it is said where one looks.
#[test]
fn a_plain_replica_is_warned_of() {
    let store = Store::s3();
    let mut place = Place::new();
    place.replica(OFFSITE, &store);
    place.create();
    pushes(&place, &store);
    assert!(place.warnings().contains(&"replica-plain".to_owned()));
    assert!(store.objects.all().iter().any(|(key, bytes)| key.ends_with("entry.json") && holds(bytes, "people")));
    place.keyed();
    assert!(place.warnings().contains(&"replica-plain".to_owned()), "what lies there is plain still");
    pushes(&place, &store);
    assert!(!place.warnings().contains(&"replica-plain".to_owned()));
    let all = store.objects.all();
    assert!(
        !all.iter()
            .any(|(key, bytes)| !key.ends_with(".age") && !key.starts_with("catalog/") || holds(bytes, "people"))
    );
}

#[test]
fn without_the_identity_it_is_told_what_is_missing() {
    let store = Store::s3();
    let place = with_replica(&store);
    let backup = place.create();
    pushes(&place, &store);
    let mut machine = empty_machine(&place, &store);
    machine.forgets_its_identity();
    let verified = machine.json(&["replica", "verify", "offsite"]);
    assert_eq!(verified["backups"][id(&backup)], json!({ "ok": true, "ciphertextOnly": true }));
    assert_eq!(machine.json(&["replica", "list", "offsite"])["backups"][0]["id"], backup["id"]);
    let restore = ["restore", "latest", "--from", "offsite", "--confirm", "latest"];
    machine.run(&restore).refused(1, &["BACKUP_ENCRYPTION_IDENTITY_FILE"]);
    assert!(!machine.live("attendance").exists() && !machine.live("auth").exists());
    // Another's is no better.
    std::fs::remove_file(machine.path(IDENTITY)).unwrap();
    machine.keyed();
    machine.run(&restore).refused(1, &["identit"]);
    assert!(!machine.live("attendance").exists());
    // An app that runs isn't touched either.
    let mut app = Place::new();
    app.keyed();
    app.replica(OFFSITE, &store);
    app.run(&restore).refused(1, &["identit"]);
    assert_eq!(app.sql("attendance", "SELECT count(*) FROM people"), "3");
    app.assert_whole();
}

/// One bit anywhere in any object: it is found, and no live data is touched.
#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let store = Store::folder();
    let place = with_replica(&store);
    place.create();
    pushes(&place, &store);
    let held = store.objects.held().remove(0);
    let machine = empty_machine(&place, &store);
    for (key, _) in objects_of(&held) {
        let bytes = store.objects.get(&key).unwrap();
        for n in 0..24 {
            let mut damaged = bytes.clone();
            let at = n * (bytes.len() - 1) / 23;
            damaged[at] ^= 1 << (n % 8);
            store.objects.put(&key, &damaged);
            let found = place.run(&["replica", "verify", "offsite"]);
            assert!(
                found.code == 1 && found.stdout.contains("DAMAGED"),
                "{key}, byte {at}: {}{}",
                found.stdout,
                found.stderr
            );
            machine.run(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]).refused(1, &["SHA-256"]);
            assert!(!machine.live("attendance").exists() && machine.ids().is_empty(), "{key}, byte {at}");
        }
        store.objects.put(&key, &bytes);
    }
    assert!(store.objects.keys().contains(&entry_key(&held)));
    machine.ok(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]);
    machine.assert_whole();
}

/// Each credential as it is, and as it looks in URLs and headers.
fn shapes(secrets: &[String]) -> Vec<String> {
    use base64::Engine;
    let encoded = |secret: &String| url::form_urlencoded::byte_serialize(secret.as_bytes()).collect::<String>();
    let base64 = |secret: &String| base64::engine::general_purpose::STANDARD.encode(secret);
    let pair = secrets.join(":");
    let mut shapes: Vec<_> =
        secrets.iter().cloned().chain(secrets.iter().map(encoded)).chain(secrets.iter().map(base64)).collect();
    shapes.push(base64(&pair));
    shapes
}

/// Everything that all commands say.
fn said_by_commands(place: &Place, backup: &Value) -> String {
    let mut seen = String::new();
    for args in commands(place, id(backup)).into_iter().filter(|args| args[0] != "serve" && args[0] != "delete") {
        let run = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        seen += &(run.stdout + &run.stderr);
    }
    seen
}

/// Everything that is said and written on account of a replica, whatever its store does just now.
fn said_of_replicas(place: &Place, store: &Store) -> String {
    let mut seen = String::new();
    let mut note = |run: Run| seen += &(run.stdout + &run.stderr);
    for line in [
        "push offsite",
        "list",
        "list offsite",
        "list --json",
        "verify offsite",
        "pull offsite --all",
        "pull offsite latest",
    ] {
        note(place.run(&["replica"].into_iter().chain(line.split(' ')).collect::<Vec<_>>()));
    }
    note(place.run(&["replica", "list", &store.url]));
    note(place.run(&["restore", "latest", "--from", "offsite", "--confirm", "latest"]));
    note(Run::of(place.command(&PUSH).env("BACKUP_REPLICA_OFFSITE_URL", "s3://x:y@z/").output().unwrap()));
    let server = Server::start(place);
    server.post("/api/backup/create").ok();
    std::thread::sleep(std::time::Duration::from_secs(2));
    for path in [
        "/api/backup/config",
        "/api/backup/status",
        "/api/backup/audit",
        "/api/backup/list",
        "/settings/backups",
        "/readyz",
        "/healthz",
        "/metrics",
    ] {
        let answer = server.get(path);
        seen += &format!("{:?}{}", answer.headers, answer.text());
    }
    seen += &server.post("/api/backup/replica/offsite/verify").text();
    seen += &server.stop();
    for (file, _, is_dir) in tree(&place.backups()) {
        if !is_dir {
            seen += &String::from_utf8_lossy(&std::fs::read(place.backups().join(file)).unwrap());
        }
    }
    seen
}

/// What the store does just now; one may say back what it was sent.
fn faults(secrets: &[String]) -> [Fault; 5] {
    let (refused, echo) = (Fault::error(403, "SignatureDoesNotMatch"), Fault::error(400, &secrets.join(" ")));
    [Fault::None, refused, Fault::CutDown(10), Fault::Silence, echo]
}

/// Right ones that are wrong.
fn said_of_wrong_credentials(place: &Place, store: &Store) -> String {
    let mut seen = String::new();
    for (what, value) in &store.credentials {
        let run = place.command(&PUSH).env(format!("BACKUP_REPLICA_OFFSITE_{what}"), value.to_owned() + "x").output();
        let run = Run::of(run.unwrap());
        run.refused(1, &["refuses"]);
        seen += &(run.stdout + &run.stderr);
    }
    seen
}

/// With the `n`-th of the faults.
fn assert_credentials_are_shown_nowhere(store: Store, format: &str, n: usize) {
    let (store, proxy) = store.proxied();
    let mut place = with_replica(&store);
    place.set("BACKUP_LOG", "trace").set("BACKUP_LOG_FORMAT", format).credentials("FROM", &store);
    let backup = place.create();
    place.ok(&PUSH);
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "200ms").set("BACKUP_REPLICA_FROM_TIMEOUT", "200ms");
    let secrets: Vec<_> = store.credentials.iter().map(|(_, value)| value.clone()).collect();
    proxy.spoil(When::any(), faults(&secrets)[n].clone());
    let mut seen = said_of_replicas(&place, &store);
    proxy.heal();
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "1m").set("BACKUP_REPLICA_FROM_TIMEOUT", "1m");
    if n == 0 {
        seen += &(said_by_commands(&place, &backup) + &said_of_wrong_credentials(&place, &store));
    }
    assert!(seen.len() > 50_000 && seen.contains("offsite"), "{}", seen.len());
    for secret in shapes(&secrets) {
        let at = seen.find(&secret).map(|at| seen[at.saturating_sub(300)..].chars().take(600).collect::<String>());
        assert!(at.is_none(), "{secret} is shown: {at:?}");
    }
    for (key, bytes) in store.objects.all() {
        assert!(!shapes(&secrets).iter().any(|secret| holds(&bytes, secret)), "it is in {key}");
    }
}

#[test]
fn credentials_are_in_no_output_and_no_file() {
    in_rows((0..5).collect(), |faults| {
        for n in faults {
            assert_credentials_are_shown_nowhere(Store::s3(), "text", n);
            assert_credentials_are_shown_nowhere(Store::webdav(), "json", n);
        }
    });
}

/// From a file, as containers have them.
#[test]
fn credentials_may_come_from_files() {
    let store = Store::s3();
    let mut place = with_replica(&store);
    for (what, value) in &store.credentials {
        std::fs::write(place.path(what), format!("{value}\n")).unwrap();
        let path = place.path(what).display().to_string();
        place
            .unset(&format!("BACKUP_REPLICA_OFFSITE_{what}"))
            .set(&format!("BACKUP_REPLICA_OFFSITE_{what}_FILE"), &path);
    }
    place.create();
    pushes(&place, &store);
    let secret = place.path("SECRET_KEY");
    std::fs::write(secret, "another\n").unwrap();
    push(&place).refused(1, &["BACKUP_REPLICA_OFFSITE_SECRET_KEY"]);
}
