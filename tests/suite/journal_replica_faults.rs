//! The journal in a replica when things go wrong: `serve` dies while it sends, the store is away, the directory is put back or lies
//! elsewhere, objects go or are damaged. What is there of an instant is what the databases were, or it is no instant.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::client::Server;
use crate::fault::{Fault, When};
use crate::harness::{PROGRAM, Place, eventually, in_some_tries};
use crate::journal_live::{Stamper, now, stamps, ticked, timeline};
use crate::journal_replica::{
    Span, assert_each_comes_back, assert_none_of_its_own, is_needed, kill_server, number, numbers_at, packs_of,
    refused_at, shipping, text, until, window,
};
use crate::patience::PATIENCE;
use crate::proxy::Seen;
use crate::replica_scene::{Clock, empty_machine, last_error, told};
use crate::stores::Store;
use crate::visitor::{Visitor, words};

/// The one in which that instant lies, of which nothing was recorded, and the others.
#[track_caller]
fn gap_around(gaps: Vec<Span>, at: DateTime<Utc>) -> (Span, Vec<Span>) {
    let (around, others): (Vec<_>, Vec<_>) = gaps.into_iter().partition(|(from, to)| *from < at && at < *to);
    let [gap] = around[..] else { panic!("{around:?} around {at}, and {others:?}") };
    (gap, others)
}

fn lineages(store: &Store) -> Vec<String> {
    let catalog = store.objects.catalog().unwrap();
    let held = catalog["journals"].as_array().unwrap().iter();
    held.map(|it| it["lineage"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_serve_that_is_killed_while_it_sends_goes_on() {
    for store in [Store::s3(), Store::webdav()] {
        let place = shipping(&store);
        let app = Stamper::start(&place);
        let log = app.log.clone();
        let server = Server::start(&place);
        eventually("the first is there", || until(&place));
        let mut server = Some(server);
        for millis in [100, 700, 300, 1500, 5200, 900] {
            server.take().into_iter().for_each(kill_server);
            server = Some(Server::start(&place));
            ticked(&place);
            std::thread::sleep(Duration::from_millis(millis));
        }
        drop(app);
        let at = ticked(&place);
        let begun = Instant::now();
        while until(&place).is_none_or(|until| until < at) {
            assert!(begun.elapsed() < PATIENCE, "{}", place.json(&["status"]));
            std::thread::sleep(Duration::from_millis(50));
        }
        // Larger steps may still be on their way, and are none too few.
        eventually("nothing is under way", || {
            let remembered = std::fs::read(place.backups().join("replicas/offsite-journal.json")).unwrap();
            let remembered: Value = serde_json::from_slice(&remembered).unwrap();
            (remembered["sending"] == serde_json::json!([])).then_some(())
        });
        // Told to, it leaves nothing half written.
        server.into_iter().for_each(|server| drop(server.stop()));
        assert_eq!(lineages(&store).len(), 1);
        assert_eq!(packs_of(&store, ".partial"), [""; 0]);
        let (stamps, machine) = (stamps(&log), empty_machine(&place, &store));
        let (from, to, gaps) = window(&machine);
        assert!(to >= at);
        assert_each_comes_back(&machine, &stamps, (from, to, &gaps), 8);
        assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true);
        place.assert_whole();
    }
}

#[test]
fn a_store_that_is_away_is_made_up_for() {
    let (store, proxy) = Store::s3().proxied();
    let place = shipping(&store);
    let server = Server::start(&place);
    number(&place, 1);
    proxy.go();
    let before = until(&place).unwrap();
    let mut seen = Vec::new();
    for n in 2..=4 {
        place.sql("attendance", &format!("INSERT INTO stamps VALUES ({n}, '')"));
        place.sql("auth", &format!("INSERT INTO stamps VALUES ({n}, '')"));
        seen.push((n, ticked(&place)));
        std::thread::sleep(Duration::from_millis(2500));
    }
    let error =
        eventually("it is told", || Some(told(&place)["journal"]["lastError"].clone()).filter(Value::is_object));
    assert_eq!(error["code"], "replica-unreachable", "{error}");
    // A backup is delayed by none of it, nor is the end of the server.
    let begun = Instant::now();
    assert_eq!(server.post("/api/backup/create").ok()["verified"]["ok"], true);
    // The store would be away for ever.
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(until(&place).unwrap() - before < TimeDelta::seconds(10));
    proxy.come_back();
    number(&place, 5);
    eventually("the error is over", || told(&place)["journal"]["lastError"].is_null().then_some(()));
    server.stop();
    let machine = empty_machine(&place, &store);
    assert_none_of_its_own(&window(&machine).2, timeline(&place).gaps);
    for (n, at) in seen {
        assert_eq!(numbers_at(&machine, at), [n, n]);
    }
}

/// What a store wants money for: what one state of both databases costs, and a time in which nothing happens.
#[test]
fn few_requests_do() {
    let (store, proxy) = Store::s3().proxied();
    let mut place = shipping(&store);
    // What is given up is asked for again.
    place.set("BACKUP_REPLICA_OFFSITE_TIMEOUT", "60s");
    let server = Server::start(&place);
    number(&place, 1);
    eventually("snapshots are sent", || (packs_of(&store, "/9/").len() == 2).then_some(()));
    let mut n = 1;
    in_some_tries(|| {
        n += 1;
        number(&place, n);
        let gaps = timeline(&place).gaps;
        std::thread::sleep(Duration::from_secs(11));
        proxy.forget();
        std::thread::sleep(Duration::from_secs(20));
        let quiet = proxy.seen();
        proxy.forget();
        n += 1;
        number(&place, n);
        std::thread::sleep(Duration::from_secs(1));
        let one = proxy.seen();
        // After a tick that the machine had no time for, all is sent anew.
        if timeline(&place).gaps != gaps {
            return Err(format!("a gap: {:?}", timeline(&place).gaps));
        }
        // So are those of five minutes and of an hour, when these are over.
        let is_joined = |it: &Seen| {
            ["/attendance/", "/auth/"].iter().any(|name| {
                let level = it.target.split_once(name).and_then(|(_, rest)| rest.split('/').next());
                level.is_some_and(|level| ["2", "3"].contains(&level))
            })
        };
        if let Some(joined) = quiet.iter().chain(&one).find(|it| is_joined(it)) {
            return Err(format!("a joined pack: {joined:?}"));
        }
        // One round that says until when, and perhaps the look of each hour.
        assert!(quiet.len() <= 9, "{} requests in a quiet time: {quiet:?}", quiet.len());
        let of = |method: &str| one.iter().filter(|it| it.method == method).count();
        // Two packs and what says until when; once more, where the two were not seen at once.
        assert!(of("PUT") <= 5 && of("GET") <= 8 && of("POST") == 0, "{one:?}");
        Ok(())
    });
    kill_server(server);
}

/// After a gap the journal begins anew with a snapshot. Before that is there, what follows it is of no use, and nothing older stands in.
#[test]
fn what_waits_for_its_snapshot_is_no_instant_yet() {
    let (store, proxy) = Store::s3().proxied();
    let place = shipping(&store);
    let server = Server::start(&place);
    let first = number(&place, 1);
    eventually("snapshots are sent", || (packs_of(&store, "/9/").len() == 2).then_some(()));
    kill_server(server);
    let dead = now();
    let add = |n: u64| {
        for name in ["attendance", "auth"] {
            place.sql(name, &format!("INSERT INTO stamps VALUES ({n}, '')"));
        }
    };
    add(2);
    proxy.spoil(When::of("PUT", "/9/"), Fault::error(500, "InternalError"));
    let sent = || packs_of(&store, "/0/").len();
    let before = sent();
    let server = Server::start(&place);
    let second = ticked(&place);
    add(3);
    let third = ticked(&place);
    eventually("what follows is sent", || (sent() >= before + 2).then_some(()));
    std::thread::sleep(Duration::from_secs(6));
    assert!(until(&place).unwrap() < second);
    let error =
        eventually("it is told", || Some(told(&place)["journal"]["lastError"].clone()).filter(Value::is_object));
    assert_eq!(error["code"], "replica-unreachable");
    let machine = empty_machine(&place, &store);
    assert_eq!(numbers_at(&machine, first), [1, 1]);
    refused_at(&machine, second, &["can't be restored"]);
    refused_at(&machine, third, &["can't be restored"]);
    proxy.heal();
    eventually("all is sent", || until(&place).filter(|until| *until >= third));
    kill_server(server);
    assert_eq!(numbers_at(&machine, second), [2, 2]);
    assert_eq!(numbers_at(&machine, third), [3, 3]);
    let (gap, others) = gap_around(window(&machine).2, dead);
    assert!(first <= gap.0 && gap.1 <= second, "{gap:?}");
    assert_none_of_its_own(&others, timeline(&place).gaps);
}

#[test]
fn one_that_is_behind_is_told() {
    let (store, proxy) = Store::s3().proxied();
    let place = shipping(&store);
    let mut command = place.command(&["serve"]);
    let clock = Clock::of(&place, command.env("BACKUP_ENABLED", "false"));
    let server = Server::of(&mut command, place.path("serve.log"));
    let gone = Instant::now();
    number(&place, 1);
    let visitor = Visitor::superuser(&server);
    eventually("it is up to date", || {
        words(&visitor.get("/settings/backups").text()).contains("Any second until just now").then_some(())
    });
    assert!(!place.warnings().contains(&"replica-journal-behind".to_owned()));
    proxy.go();
    clock.put_on(1200);
    eventually("it is told", || place.warnings().contains(&"replica-journal-behind".to_owned()).then_some(()));
    let page = eventually("why, too", || {
        let page = words(&visitor.get("/settings/backups").text());
        page.contains("Its journal:").then_some(page)
    });
    // The 20 minutes that the clock was put on, and those that all of this took.
    let most = 20 + gone.elapsed().as_secs().div_ceil(60);
    assert!((20..=most).any(|it| page.contains(&format!("Any second until {it} minutes ago"))), "{page}");
    let listed = place.ok(&["replica", "list"]).stdout;
    assert!(listed.contains("offsite: the journal, until 20") && listed.contains("; ! "), "{listed}");
    proxy.come_back();
    kill_server(server);
}

/// As a virtual machine's snapshot puts it back: the same folders, with what was in them.
fn put_back(place: &Place, saved: &Path) {
    let script = "find \"$1\" -type f -delete && cp -a \"$2/.\" \"$1\"";
    let done = Command::new("bash").args(["-c", script, "-"]).arg(place.backups()).arg(saved).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_directory_that_was_put_back_begins_another_journal() {
    let store = Store::folder();
    let place = shipping(&store);
    let server = Server::start(&place);
    let first = number(&place, 1);
    kill_server(server);
    let saved = place.path("saved");
    assert!(Command::new("cp").arg("-a").arg(place.backups()).arg(&saved).status().unwrap().success());
    let server = Server::start(&place);
    let lost = number(&place, 2);
    kill_server(server);
    put_back(&place, &saved);
    place.sql("attendance", "DELETE FROM stamps WHERE n = 2");
    place.sql("auth", "DELETE FROM stamps WHERE n = 2");
    let server = Server::start(&place);
    eventually("another is begun", || (lineages(&store).len() == 2).then_some(()));
    let later = number(&place, 3);
    kill_server(server);
    let machine = empty_machine(&place, &store);
    let gaps = window(&machine).2;
    assert!(gaps.iter().any(|(from, to)| lost <= *from && *to <= later), "{gaps:?}");
    for (n, at) in [(1, first), (2, lost), (3, later)] {
        assert_eq!(numbers_at(&machine, at), [n, n]);
    }
}

#[test]
fn a_journal_that_was_begun_anew_is_another() {
    let store = Store::s3();
    let place = shipping(&store);
    let server = Server::start(&place);
    let first = number(&place, 1);
    kill_server(server);
    let (dead, mut here) = (now(), timeline(&place).gaps);
    std::fs::remove_dir_all(place.backups().join("journal")).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let server = Server::start(&place);
    let second = number(&place, 2);
    kill_server(server);
    assert_eq!(lineages(&store).len(), 2);
    let machine = empty_machine(&place, &store);
    let (from, to, gaps) = window(&machine);
    let (gap, others) = gap_around(gaps, dead);
    here.extend(timeline(&place).gaps);
    assert_none_of_its_own(&others, here);
    assert!(from <= first && first <= gap.0 && gap.1 <= second && second <= to, "{gap:?}");
    assert_eq!(numbers_at(&machine, first), [1, 1]);
    assert_eq!(numbers_at(&machine, second), [2, 2]);
    refused_at(&machine, gap.0 + TimeDelta::milliseconds(1), &[&text(gap.0), &text(gap.1)]);
    // Somebody removes all that is there of one database in the older one.
    let lost = format!("/{}/auth/", lineages(&store)[0]);
    packs_of(&store, &lost).iter().for_each(|key| std::fs::remove_file(store.objects.path(key)).unwrap());
    let near = format!("next to it can be had: {}", text(gap.1));
    refused_at(&machine, first, &["nothing of `auth` can be rebuilt from what is left there", &near]);
    assert_eq!(numbers_at(&machine, second), [2, 2]);
    let verified = place.run(&["replica", "verify", "offsite"]);
    assert!(verified.code == 1 && verified.stdout.contains("auth: states after 20"), "{}", verified.stdout);
    // And in the newer one too.
    packs_of(&store, "/auth/").iter().for_each(|key| std::fs::remove_file(store.objects.path(key)).unwrap());
    refused_at(&machine, second, &["nothing of `auth` can be rebuilt", "take a backup"]);
}

/// The machine that came back goes on in place of the one that was lost; should that one still live, it sends nothing more.
#[test]
fn only_one_directory_sends() {
    let store = Store::s3();
    let place = shipping(&store);
    place.create();
    let server = Server::start(&place);
    let first = number(&place, 1);
    let mut other = empty_machine(&place, &store);
    let recipients =
        place.environment().into_iter().find(|(name, _)| name == "BACKUP_ENCRYPTION_RECIPIENTS").unwrap().1;
    other.set("BACKUP_ENCRYPTION_RECIPIENTS", &recipients);
    other.set("BACKUP_PITR", "true").set("BACKUP_PITR_INTERVAL", "500ms");
    assert_eq!(numbers_at(&other, first), [1, 1]);
    let others = Server::start(&other);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(lineages(&store).len(), 1, "it was not told to");
    other.ok(&["replica", "push", "offsite", "--take-over", "--wait", "30s"]);
    let after = number(&other, 7);
    let [mine, theirs] = lineages(&store).try_into().unwrap();
    let before = packs_of(&store, &mine);
    for name in ["attendance", "auth"] {
        place.sql(name, "INSERT INTO stamps VALUES (2, '')");
    }
    ticked(&place);
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(packs_of(&store, &mine), before);
    assert!(!packs_of(&store, &theirs).is_empty());
    place.create();
    eventually("it is told why", || (last_error(&place)? == "replica-taken-over").then_some(()));
    kill_server(server);
    kill_server(others);
    let machine = empty_machine(&place, &store);
    assert_eq!(numbers_at(&machine, first), [1, 1]);
    assert_eq!(numbers_at(&machine, after), [7, 7]);
}

/// As a container is called that was made anew over the same volume: it goes on with its journal, unless somebody else has meanwhile.
#[test]
fn a_machine_with_another_name_goes_on() {
    let store = Store::folder();
    let place = shipping(&store);
    let start = |name: &str| {
        let mut command = place.command_of("unshare");
        let root = std::fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t0");
        command.args(if root { &["--uts"][..] } else { &["--uts", "--map-root-user"] });
        command.args(["sh", "-c", "hostname \"$0\" && exec \"$@\"", name, PROGRAM, "serve"]);
        Server::of(command.env("BACKUP_ENABLED", "false"), place.path("serve.log"))
    };
    let mut seen = Vec::new();
    for (n, name) in [(1, "c4f1a9"), (2, "77b0de"), (3, "09aa3c")] {
        let server = start(name);
        seen.push((n, number(&place, n)));
        server.stop();
        assert_eq!(store.objects.catalog().unwrap()["host"], name);
    }
    let [lineage] = lineages(&store).try_into().unwrap();
    // One that was copied with its disk has sent more of it.
    let newest = packs_of(&store, "/until/").pop().unwrap();
    let millis = newest.rsplit('/').next().unwrap().split('-').next().unwrap();
    let later = newest.replace(millis, &format!("{:015}", millis.parse::<u64>().unwrap() + 1));
    store.objects.put(&later, &store.objects.get(&newest).unwrap());
    let server = start("e2d5f0");
    seen.push((4, number(&place, 4)));
    server.stop();
    let [first, _] = lineages(&store).try_into().unwrap();
    assert_eq!(first, lineage);
    let machine = empty_machine(&place, &store);
    for (n, at) in seen {
        assert_eq!(numbers_at(&machine, at), [n, n]);
    }
}

/// What lies there between two instants, and went.
#[test]
fn states_that_are_missing_are_a_gap_and_are_sent_again() {
    let store = Store::folder();
    let place = shipping(&store);
    let server = Server::start(&place);
    let seen: Vec<_> = (1..=4).map(|n| (n, number(&place, n))).collect();
    kill_server(server);
    let packs = packs_of(&store, "/attendance/0/");
    // That of the second number, unless two of them came in one.
    let at = packs.len() - 3;
    let machine = empty_machine(&place, &store);
    // The newest one, of which no other tells.
    let (other, bytes) = (packs.last().unwrap(), store.objects.get(packs.last().unwrap()).unwrap());
    std::fs::remove_file(store.objects.path(other)).unwrap();
    refused_at(&machine, seen[3].1, &["can't be restored"]);
    store.objects.put(other, &bytes);
    std::fs::remove_file(store.objects.path(&packs[at])).unwrap();
    let (_, to, _) = window(&machine);
    let verified = place.run(&["replica", "verify", "offsite", "--json"]);
    let told: Value = serde_json::from_str(&verified.stdout).unwrap();
    let missing = format!("attendance: states after {} were sent and are missing", text(to));
    assert!(verified.code == 1 && told["journal"]["damaged"] == serde_json::json!([]), "{told}");
    assert!(told["journal"]["missing"][0].as_str().unwrap().starts_with(&missing), "{told}");
    assert!(to < seen[1].1, "{to} {seen:?}");
    // The other database may have got its number a tick later.
    assert_eq!(numbers_at(&machine, to)[0], 1);
    for (_, at) in &seen[1..] {
        refused_at(&machine, *at, &[&text(to)]);
    }
    let server = Server::start(&place);
    eventually("it is sent again", || packs_of(&store, "/attendance/0/").contains(&packs[at]).then_some(()));
    kill_server(server);
    assert_eq!(machine.json(&["replica", "verify", "offsite"])["ok"], true);
    for (n, at) in seen {
        assert_eq!(numbers_at(&machine, at), [n, n]);
    }
}

#[test]
fn a_damaged_pack_is_named_with_what_can_be_had_and_sent_again() {
    let (store, place, seen, last) = (0..5)
        .find_map(|_| {
            let store = Store::s3();
            let place = shipping(&store);
            let server = Server::start(&place);
            let seen = [1, 2, 3].map(|n| (n, number(&place, n)));
            kill_server(server);
            let last = packs_of(&store, "/auth/0/").pop().unwrap();
            is_needed(&store, &place, &last, seen[2].1).then_some((store, place, seen, last))
        })
        .expect("a pack without which there is no such instant");
    let last = &last;
    let mut bytes = store.objects.get(last).unwrap();
    let middle = bytes.len() - 40;
    bytes[middle] ^= 1;
    store.objects.put(last, &bytes);
    let machine = empty_machine(&place, &store);
    refused_at(&machine, seen[2].1, &[last, "can't be rebuilt without it", "next to it can be had: 20"]);
    assert!(!machine.live("auth").exists() && !machine.backups().join("restoring").exists());
    assert_eq!(numbers_at(&machine, seen[1].1), [2, 2]);
    // And the snapshot that all begins with.
    let snapshot = packs_of(&store, "/attendance/9/")[0].clone();
    let whole = store.objects.get(&snapshot).unwrap();
    store.objects.put(&snapshot, &whole[..whole.len() - 20]);
    refused_at(&machine, seen[0].1, &[&snapshot, "can't be rebuilt without it"]);
    // And one of which nothing lies here.
    let millis = snapshot.rsplit('-').next().unwrap().split('.').next().unwrap();
    let stray = snapshot.replace(millis, &format!("{:015}", millis.parse::<u64>().unwrap() - 1));
    store.objects.put(&stray, &whole);
    let verified = place.run(&["replica", "verify", "offsite", "--json"]);
    assert_eq!(verified.code, 1);
    let verified: Value = serde_json::from_str(&verified.stdout).unwrap();
    let damaged = verified["journal"]["damaged"].as_array().unwrap();
    assert!(damaged.len() == 3 && damaged[2].as_str().unwrap().starts_with(last.as_str()), "{verified}");
    let server = Server::start(&place);
    let lost = || -> Value {
        let remembered = std::fs::read(place.backups().join("replicas/offsite-journal.json")).unwrap();
        serde_json::from_slice::<Value>(&remembered).unwrap()["lost"].clone()
    };
    eventually("what can't be sent again is remembered", || (lost() == serde_json::json!([stray])).then_some(()));
    let told = eventually("it is told", || {
        let told = told(&place)["journal"].clone();
        (told["damaged"] == 1).then_some(told)
    });
    assert_eq!(told["lost"], 1, "{told}");
    let text = "1 objects of its journal were found damaged there; 1 of them can't be sent again";
    for command in ["status", "doctor"] {
        let said = place.run(&[command]).stdout;
        assert!(said.contains(text), "{said}");
    }
    let listed = place.ok(&["replica", "list"]).stdout;
    assert!(listed.contains("1 objects damaged, 1 of which can't be sent again"), "{listed}");
    std::fs::remove_file(store.objects.path(&stray)).unwrap();
    eventually("it is sent again", || store.objects.get(last).filter(|now| !now.is_empty() && *now != bytes));
    eventually("and read back", || place.run(&["replica", "verify", "offsite"]).code.eq(&0).then_some(()));
    assert!(!place.warnings().contains(&"replica-damaged".to_owned()), "what is whole, or gone, is damaged no more");
    eventually("nor is it remembered", || (lost() == serde_json::json!([])).then_some(()));
    kill_server(server);
    for (n, at) in seen {
        assert_eq!(numbers_at(&machine, at), [n, n]);
    }
}
