//! The journal in a replica when something rare happens: what goes while it is read, what the store doesn't take, what a crash left.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::client::Server;
use crate::damage::flip;
use crate::fault::{Fault, Reply, When};
use crate::harness::{Place, eventually, sha256};
use crate::journal_live::ticked;
use crate::journal_replica::{is_needed, kill_server, number, numbers_at, packs_of, refused_at, shipping, text, until};
use crate::replica_scene::{Clock, empty_machine};
use crate::stores::Store;

/// What the warning of damage there says.
fn damage(place: &Place) -> Option<String> {
    let status = place.json(&["status"]);
    let mut warnings = status["warnings"].as_array().unwrap().iter();
    Some(warnings.find(|it| it["code"] == "replica-damaged")?["detail"].as_str().unwrap().to_owned())
}

/// It goes bit by bit, and whoever reads it back at the same time finds less and less of it.
#[test]
fn a_journal_that_the_catalog_names_no_more_is_not_missed() {
    let store = Store::s3();
    let place = shipping(&store);
    for n in 1..=2 {
        let server = Server::start(&place);
        number(&place, n);
        kill_server(server);
        if n == 1 {
            std::fs::remove_dir_all(place.backups().join("journal")).unwrap();
        }
    }
    let (key, mut catalog) = store.objects.catalogs().pop().unwrap();
    let [older, newer] = &catalog["journals"].as_array().unwrap()[..] else { panic!("{catalog}") };
    let (older, newer) = (older["lineage"].as_str().unwrap().to_owned(), newer.clone());
    let generation = catalog["generation"].as_u64().unwrap() + 1;
    (catalog["generation"], catalog["journals"]) = (generation.into(), vec![newer].into());
    let bytes = serde_json::to_vec(&catalog).unwrap();
    let next = format!("catalog/{generation:010}-{}.json", &sha256(&bytes)[..16]);
    assert!(key.len() == next.len() && key < next);
    let gone = packs_of(&store, &older).into_iter().filter(|key| !key.contains("/until/")).collect::<Vec<_>>();
    let (store, proxy) = store.proxied();
    let (objects, begun) = (store.objects.clone(), AtomicBool::new(false));
    let go = move |_: &str| {
        if !begun.swap(true, Ordering::SeqCst) {
            objects.put(&next, &bytes);
            gone.iter().for_each(|key| std::fs::remove_file(objects.path(key)).unwrap());
        }
    };
    // The catalog has been read, and what lies there of that one is to be listed.
    proxy.spoil(When::of("GET", &older), Fault::before(go));
    let verified = empty_machine(&place, &store).json(&["replica", "verify", "offsite"]);
    assert_eq!(verified["ok"], true, "{verified}");
    assert!(packs_of(&store, &older).iter().all(|key| key.contains("/until/")), "it went meanwhile");
}

/// What a listing doesn't show for a moment is read all the same, before anybody says that all of it was.
#[test]
fn what_is_not_listed_for_a_moment_is_read_too() {
    let store = Store::webdav();
    let place = shipping(&store);
    let server = Server::start(&place);
    number(&place, 1);
    number(&place, 2);
    kill_server(server);
    let (packs, damaged) = (packs_of(&store, ".tar."), packs_of(&store, "/attendance/").pop().unwrap());
    flip(&store.objects.path(&damaged), |len| len / 2);
    let (store, proxy) = store.proxied();
    let machine = empty_machine(&place, &store);
    let nothing = b"<?xml version=\"1.0\"?><d:multistatus xmlns:d=\"DAV:\"></d:multistatus>";
    for reply in [Reply::of(404, b"<html>"), Reply::of(207, nothing)] {
        proxy.spoil(When::of("PROPFIND", "/attendance/").once(), Fault::Instead(reply));
        let verified = machine.run(&["replica", "verify", "offsite", "--json"]);
        let verified: Value = serde_json::from_str(&verified.stdout).unwrap_or_else(|_| panic!("{}", verified.stderr));
        let journal = &verified["journal"];
        let is_found = |reason: &Value| reason.as_str().unwrap().starts_with(&damaged);
        assert!(verified["ok"] == false && journal["damaged"].as_array().unwrap().iter().any(is_found), "{verified}");
        assert_eq!((journal["packs"].as_u64(), &journal["missing"]), (Some(packs.len() as u64), &json!([])));
        proxy.heal();
    }
}

/// It is told with what the store says, until it is taken.
#[test]
fn what_the_store_does_not_take_again_is_told() {
    let (store, proxy) = Store::s3().proxied();
    let place = shipping(&store);
    let server = Server::start(&place);
    number(&place, 1);
    let last = number(&place, 2);
    let pack = packs_of(&store, "/auth/0/").pop().unwrap();
    flip(&store.objects.path(&pack), |len| len / 2);
    proxy.spoil(When::of("PUT", pack.rsplit('/').next().unwrap()), Fault::error(403, "AccessDenied"));
    let verified = place.run(&["replica", "verify", "offsite"]);
    assert!(verified.code == 1 && verified.stdout.contains(&pack), "{}", verified.stdout);
    let told = eventually("why", || damage(&place).filter(|text| text.contains("can't be sent again")));
    assert!(told.contains("replica offsite: 1 objects of its journal") && told.contains(&pack), "{told}");
    assert!(told.contains("it is tried again every hour") && !told.contains("here no more"), "{told}");
    let listed = place.ok(&["replica", "list"]).stdout;
    assert!(listed.contains("1 objects damaged; ! "), "{listed}");
    kill_server(server);
    proxy.heal();
    let server = Server::start(&place);
    eventually("it is over", || damage(&place).is_none().then_some(()));
    kill_server(server);
    let machine = empty_machine(&place, &store);
    assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true);
    assert_eq!(numbers_at(&machine, last), [2, 2]);
}

/// Encryption was turned off or on since: it lies under another key then, and the damaged one is no more.
#[test]
fn what_is_sent_again_in_another_form_is_not_hidden_by_what_was_damaged() {
    for is_on in [true, false] {
        let store = Store::s3();
        let mut place = shipping(&store);
        let variable = "BACKUP_ENCRYPTION_RECIPIENTS";
        let recipients = place.environment().into_iter().find(|(name, _)| name == variable).unwrap().1;
        if !is_on {
            place.unset(variable);
        }
        let server = Server::start(&place);
        number(&place, 1);
        let last = number(&place, 2);
        kill_server(server);
        let pack = packs_of(&store, "/auth/0/").pop().unwrap();
        flip(&store.objects.path(&pack), |len| len / 2);
        assert_eq!(place.run(&["replica", "verify", "offsite"]).code, 1);
        if is_on {
            place.unset(variable)
        } else {
            place.set(variable, &recipients)
        };
        let server = Server::start(&place);
        let stem = &pack[..pack.find(".tar").unwrap()];
        eventually("it lies there in another form", || {
            let keys = packs_of(&store, stem);
            (keys.len() == 1 && keys[0] != pack).then_some(())
        });
        eventually("it is over", || damage(&place).is_none().then_some(()));
        kill_server(server);
        let machine = empty_machine(&place, &store);
        assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true);
        assert_eq!(numbers_at(&machine, last), [2, 2]);
    }
}

/// A snapshot that never gets there, because it takes too long, say, keeps nothing else from being tidied.
#[test]
fn the_work_of_each_hour_is_done_beside_what_fails() {
    let (store, proxy) = Store::s3().proxied();
    let place = shipping(&store);
    proxy.spoil(When::of("PUT", "/9/"), Fault::error(500, "InternalError"));
    let server = Server::start(&place);
    let of_level_0 = || packs_of(&store, "/attendance/0/");
    ticked(&place);
    for n in 1..=3 {
        place.sql("attendance", &format!("INSERT INTO stamps VALUES ({n}, '')"));
        ticked(&place);
        eventually("it is sent", || (of_level_0().len() == n).then_some(()));
    }
    kill_server(server);
    let before = of_level_0();
    let mut command = place.command(&["serve"]);
    let clock = Clock::of(&place, command.env("BACKUP_ENABLED", "false"));
    clock.put_on(2 * 3600);
    let server = Server::of(&mut command, place.path("serve.log"));
    eventually("they are joined", || before.iter().any(|key| !of_level_0().contains(key)).then_some(()));
    kill_server(server);
    assert_eq!(packs_of(&store, "/9/"), [""; 0]);
}

/// What was begun and never read back is no instant, and goes; what was sent before it under its name, too, is sent again.
#[test]
fn what_a_crashed_round_left_is_not_offered_and_goes() {
    let (store, place, [first, second], last) = (0..5)
        .find_map(|_| {
            let store = Store::folder();
            let place = shipping(&store);
            let server = Server::start(&place);
            let seen = [1, 2].map(|n| number(&place, n));
            kill_server(server);
            let last = packs_of(&store, "/attendance/0/").pop().unwrap();
            is_needed(&store, &place, &last, seen[1]).then_some((store, place, seen, last))
        })
        .expect("a pack without which there is no such instant");
    let whole = store.objects.get(&last).unwrap();
    // The next states, given up after the first part: nobody has said that they are there.
    let (folder, name) = last.rsplit_once('/').unwrap();
    let end = until(&place).unwrap() + chrono::TimeDelta::seconds(1);
    let (state, later) = (u64::from_str_radix(&name[17..33], 16).unwrap() + 1, end.timestamp_millis());
    let next = format!("{folder}/{state:016x}-{state:016x}-{later:015}-{later:015}.tar.zst.age");
    let (half, part) = (&whole[..whole.len() / 2], format!("{next}.00001"));
    store.objects.put(&part, half);
    store.objects.put(&last, half);
    let path = place.backups().join("replicas/offsite-journal.json");
    let mut remembered: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    remembered["sending"] = serde_json::json!([last, next]);
    std::fs::write(&path, remembered.to_string()).unwrap();
    let machine = empty_machine(&place, &store);
    let listed = machine.json(&["replica", "list", "offsite"]);
    assert_eq!(listed["journal"]["to"], text(until(&place).unwrap()), "{listed}");
    refused_at(&machine, end, &["can't be restored"]);
    refused_at(&machine, second, &["can't be rebuilt without it"]);
    assert_eq!(numbers_at(&machine, first), [1, 1]);
    let server = Server::start(&place);
    eventually("they go", || (!packs_of(&store, "/attendance/0/").contains(&part)).then_some(()));
    eventually("it is sent again", || store.objects.get(&last).filter(|now| now.len() > half.len()));
    let third = number(&place, 3);
    kill_server(server);
    assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true);
    for (n, at) in [(2, second), (3, third)] {
        assert_eq!(numbers_at(&machine, at), [n, n]);
    }
}

/// Of replicas that aren't configured any more, too; not what somebody may be writing.
#[test]
fn what_a_crash_left_half_written_goes() {
    let store = Store::folder();
    let place = shipping(&store);
    place.create();
    place.ok(&["replica", "push", "offsite"]);
    let folder = place.backups().join("replicas");
    let names =
        [".offsite.json.partial", ".offsite-journal.json.partial", ".gone.json.partial", ".gone-journal.json.partial"];
    let others = [".held.json.partial", ".photo.jpg.partial", "gone.json"];
    for name in names.iter().chain(&others) {
        std::fs::write(folder.join(name), "{").unwrap();
    }
    let held = std::fs::File::create(folder.join(".held")).unwrap();
    held.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let server = Server::start(&place);
    eventually("they go", || names.iter().all(|name| !folder.join(name).exists()).then_some(()));
    number(&place, 1);
    kill_server(server);
    others.iter().for_each(|name| assert!(folder.join(name).exists(), "{name}"));
}
