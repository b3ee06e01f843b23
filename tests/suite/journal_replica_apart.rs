//! What is wrong with one object, one database or one name of the journal in a replica, and with nothing else of it.

use std::time::Duration;

use serde_json::Value;

use crate::client::Server;
use crate::fault::{Fault, When};
use crate::harness::{PROGRAM, Place, eventually};
use crate::journal_replica::{number, packs_of, shipping};
use crate::proxy::Proxy;
use crate::replica_scene::told;
use crate::stores::Store;

fn refused() -> Fault {
    Fault::error(403, "AccessDenied")
}

/// The code of the last error of the journal there.
fn trouble(place: &Place) -> Option<String> {
    told(place)["journal"]["lastError"]["code"].as_str().map(str::to_owned)
}

#[test]
fn what_can_not_be_written_is_in_no_others_way() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = shipping(&store);
    // What is given up is asked for again.
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "60s");
    let server = Server::start(&place);
    number(&place, 1);
    number(&place, 2);
    // A pack that was found damaged, and that the store keeps as it is.
    let locked = packs_of(&store, "/attendance/0/")[0].clone();
    let mut bytes = store.objects.get(&locked).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.objects.put(&locked, &bytes);
    assert_eq!(place.run(&["replica", "verify", "offsite"]).code, 1);
    proxy.spoil(When::of("PUT", &locked), refused());
    number(&place, 3);
    let tries = || proxy.seen().iter().filter(|it| it.method == "PUT" && it.target.contains(&locked)).count();
    eventually("it is tried", || (tries() > 1).then_some(()));
    number(&place, 4);
    assert_eq!(tries(), 2, "once when it was sent, and once again");
    // And a database that takes no more, before the other one by its name.
    proxy.heal();
    proxy.spoil(When::of("PUT", "/attendance/0/"), refused());
    let before = packs_of(&store, "/auth/0/");
    for name in ["attendance", "auth"] {
        place.sql(name, "INSERT INTO stamps VALUES (5, '')");
    }
    eventually("the other one is sent", || (packs_of(&store, "/auth/0/") != before).then_some(()));
    eventually("it is told", || trouble(&place).filter(|code| code == "replica-refused"));
    // Nor may what was begun be removed.
    proxy.heal();
    proxy.spoil(When::of("DELETE", &locked), refused());
    number(&place, 6);
    server.stop();
}

/// What is remembered of the replica, changed while nobody runs.
fn remembered(place: &Place, change: impl FnOnce(&mut Value)) {
    let path = place.backups().join("replicas/offsite.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut state);
    std::fs::write(path, state.to_string()).unwrap();
}

/// `serve` on a machine of that name.
fn start(place: &Place, name: &str) -> Server {
    let mut command = place.command_of("unshare");
    let root = std::fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t0");
    command.args(if root { &["--uts"][..] } else { &["--uts", "--map-root-user"] });
    command.args(["sh", "-c", "hostname \"$0\" && exec \"$@\"", name, PROGRAM, "serve"]);
    Server::of(command.env("BACKUP_ENABLED", "false"), place.path("serve.log"))
}

fn lineages(store: &Store) -> usize {
    store.objects.catalog().unwrap()["journals"].as_array().unwrap().len()
}

fn looks(proxy: &Proxy) -> usize {
    proxy.seen().iter().filter(|it| it.target.contains("list-type") && it.target.contains("catalog")).count()
}

#[test]
fn another_name_goes_on_where_nobody_else_does() {
    let (store, proxy) = Store::s3().proxied();
    let place = shipping(&store);
    let server = start(&place, "c4f1a9");
    number(&place, 1);
    server.stop();
    // As the first programs that sent journals have left it.
    remembered(&place, |state| drop(state["journal"].as_object_mut().unwrap().remove("directory")));
    let server = start(&place, "77b0de");
    number(&place, 2);
    server.stop();
    assert_eq!(lineages(&store), 1);
    remembered(&place, |state| assert!(state["journal"]["directory"].as_str().is_some_and(|it| !it.is_empty())));
    // Whether somebody else does can't be found out: that is no reason to ask twice a second.
    proxy.spoil(When::of("GET", "journal"), refused());
    proxy.forget();
    let server = start(&place, "09aa3c");
    eventually("it is told", || trouble(&place).filter(|code| code == "replica-refused"));
    std::thread::sleep(Duration::from_secs(3));
    let looks = looks(&proxy);
    assert!(looks <= 3, "{looks} looks in three seconds");
    server.stop();
    proxy.heal();
    remembered(&place, |state| state["journalTrouble"] = Value::Null);
    // Somebody who was copied with the disk sends on until the catalog says whose it is.
    let newest = packs_of(&store, "/until/").pop().unwrap();
    let millis = newest.rsplit('/').next().unwrap().split('-').next().unwrap();
    let later = newest.replace(millis, &format!("{:015}", millis.parse::<u64>().unwrap() + 1));
    let objects = store.objects.clone();
    let sends = move |_: &str| objects.put(&later, &objects.get(&newest).unwrap());
    proxy.spoil(When::of("PUT", "catalog/").once(), Fault::after(sends));
    let server = start(&place, "e2d5f0");
    eventually("another one is begun", || (lineages(&store) == 2).then_some(()));
    number(&place, 3);
    server.stop();
}
