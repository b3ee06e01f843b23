//! Notices, as those get them who are told: by mail, by a webhook, by a ping that stays away.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use attendance_backup::clock::Clock;
use attendance_backup::config::Config;
use attendance_backup::engine::{Actor, Call, Create, Engine};
use attendance_backup::notify::Kind;
use serde_json::{Value, json};

use crate::client::{Server, superuser, user};
use crate::disk_full::SmallDisk;
use crate::harness::{Place, eventually, in_some_tries, python, tree};
use crate::receivers::{PASSWORD, Receiver, Sink};
use crate::visitor::{Visitor, words};

const KEY: &str = "d2a0c5b1f7e84936aa10";

/// With mail by STARTTLS, a signed webhook and a ping.
fn told(place: &mut Place) -> (Sink, Receiver, Receiver) {
    let (sink, hook, ping) = (Sink::start(place, "starttls"), Receiver::start(), Receiver::start());
    place.set("BACKUP_SMTP_URL", &format!("smtp://backup@localhost:{}", sink.port));
    place.set("BACKUP_SMTP_PASSWORD", PASSWORD);
    place.set("BACKUP_EMAIL_FROM", "Sicherung Müller <backup@school.example>");
    place.set("BACKUP_EMAIL_TO", "it@school.example, Über <head@school.example>");
    place.set("BACKUP_NOTIFY_CA_FILE", &place.path("tls/ca.pem").display().to_string());
    place.set("BACKUP_NOTIFY_PRIVATE", "true");
    place.set("BACKUP_WEBHOOK_URL", &hook.url("/hook?token=c4n4ry-of-the-url")).set("BACKUP_WEBHOOK_SECRET", KEY);
    place.set("BACKUP_HEALTHCHECK_URL", &ping.url("/ping/c4n4ry-of-the-url"));
    place.set("BACKUP_PUBLIC_URL", "https://school.example/backups");
    (sink, hook, ping)
}

/// What `notify test` says of a channel.
pub fn tested(place: &Place, kind: &str, code: i32) -> String {
    let run = place.run(&["notify", "test", "--json"]);
    assert_eq!(run.code, code, "{}{}", run.stdout, run.stderr);
    let tested: Value = serde_json::from_str(&run.stdout).unwrap();
    let channels = tested["channels"].as_array().unwrap();
    channels.iter().find(|it| it["kind"] == kind).unwrap()["detail"].as_str().unwrap().to_owned()
}

#[test]
fn a_test_goes_by_every_channel() {
    let mut place = Place::new();
    place.run(&["notify", "test"]).refused(1, &["no notices are set up", "BACKUP_SMTP_URL"]);
    let (sink, hook, ping) = told(&mut place);
    assert!(tested(&place, "ping", 0).contains("not sent: something is late"), "there is no backup yet");
    let mails = sink.mails();
    assert_eq!(
        mails.iter().map(|mail| &mail["to"][0]).collect::<Vec<_>>(),
        ["it@school.example", "head@school.example"]
    );
    for mail in &mails {
        assert_eq!((&mail["encrypted"], &mail["from"]), (&true.into(), &"backup@school.example".into()));
        assert!(mail["headers"]["from"].as_str().unwrap().contains("Sicherung Müller"), "{mail}");
        assert_eq!(
            (&mail["headers"]["subject"], &mail["headers"]["auto-submitted"]),
            (&"attendance-backup: this is a test".into(), &"auto-generated".into())
        );
        assert!(mail["headers"]["message-id"].as_str().unwrap().ends_with("@school.example>"), "{mail}");
        assert!(mail["headers"]["date"].is_string(), "{mail}");
        for form in ["plain", "html"] {
            assert!(mail[form].as_str().unwrap().contains("If you can read it, notices arrive."), "{mail}");
            assert!(mail[form].as_str().unwrap().contains("https://school.example/backups/settings/backups"), "{mail}");
        }
    }
    let got = hook.got();
    assert_eq!((got.len(), got[0].line.as_str()), (1, "POST /hook?token=c4n4ry-of-the-url HTTP/1.1"));
    assert_eq!((got[0].header("x-backup-event"), &got[0].json()["event"]), (Some("test"), &"test".into()));
    assert!(is_ours(&place, got[0].header("x-backup-signature").unwrap(), &got[0].body, KEY));
    assert!(!is_ours(&place, got[0].header("x-backup-signature").unwrap(), &got[0].body, "another key of ours"));
    assert!(!is_ours(&place, got[0].header("x-backup-signature").unwrap(), b"{}", KEY));
    assert!(ping.got().is_empty());
    place.create();
    assert!(tested(&place, "ping", 0).contains("it was taken"));
    assert_eq!(ping.got()[0].line, "GET /ping/c4n4ry-of-the-url HTTP/1.1");
    let line = place.audit().into_iter().rfind(|line| line["operation"] == "notify-test").unwrap();
    assert_eq!(line["details"]["channels"], json!(["mail", "webhook", "ping"]));
    place.assert_whole();
}

/// By the lines that `docs/notices.md` gives to those who receive them.
fn is_ours(place: &Place, header: &str, body: &[u8], key: &str) -> bool {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/notices.md")).unwrap();
    let code = text.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    let source =
        format!("{code}\nimport sys\nprint(is_ours(sys.argv[1], sys.argv[2], open(sys.argv[3], 'rb').read()))");
    std::fs::write(place.path("body"), body).unwrap();
    python(&source, &[Path::new(key), Path::new(header), &place.path("body")]) == "True"
}

#[test]
fn what_is_done_and_what_goes_wrong_is_told_while_it_is_and_when_it_is_over() {
    let mut place = Place::new();
    let (sink, hook, ping) = told(&mut place);
    let first = place.create()["id"].as_str().unwrap().to_owned();
    let server = Server::start(&place);
    eventually("all is well", || (!ping.got().is_empty()).then_some(()));
    // By other processes than the one that tells.
    place.ok(&["config", "--set", "retention.daily=9"]);
    let changed = hook.event("settings-changed", "once");
    assert!(changed["text"].as_str().unwrap().contains("Saved now: retention.daily=9."), "{changed}");
    place.ok(&["restore", &first, "--confirm", &first]);
    let mail = sink.mail(&format!("the data was put back to {first}"));
    assert!(mail["plain"].as_str().unwrap().contains("`attendance-backup undo` brings back"), "{mail}");

    // A backup fails, and goes well again. As long as it stands, the ping stays away.
    let aside = place.path("aside.db");
    std::fs::rename(place.live("auth"), &aside).unwrap();
    assert_eq!(place.run(&["create"]).code, 1);
    let began = hook.event("backup-failed", "began");
    let text = began["text"].as_str().unwrap();
    for told in ["auth", "What you can rely on", "The newest good backup is", "attendance-backup create"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let pings = ping.got().len();
    std::fs::rename(&aside, place.live("auth")).unwrap();
    place.create();
    eventually("the ping comes again", || (ping.got().len() > pings).then_some(()));
    // It is over when it stays away, also over a restart.
    let remembered = place.backups().join("notices.json");
    let gone = |kept: &Value| kept["memory"]["standing"]["backup-failed"]["gone"].is_string();
    let kept = || serde_json::from_slice::<Value>(&std::fs::read(&remembered).unwrap()).unwrap();
    eventually("it is gone", || gone(&kept()).then_some(()));
    assert!(hook.got().iter().all(|it| it.json()["stage"] != "recovered"), "it is over too soon");
    let mut said = server.stop();
    let mut kept = kept();
    let earlier = Clock::system().now() - chrono::TimeDelta::minutes(16);
    kept["memory"]["standing"]["backup-failed"]["gone"] = earlier.to_rfc3339().into();
    std::fs::write(&remembered, kept.to_string()).unwrap();
    let server = Server::start(&place);
    assert_eq!(hook.event("backup-failed", "recovered")["since"], began["since"]);
    sink.mail("a backup went well again");

    assert!(hook.got().iter().all(|it| it.json()["event"] != "rotation-frozen"), "one cause is told twice");

    // One whose files are gone.
    let gone = place.list().into_iter().find(|it| it["id"] == first.as_str()).unwrap();
    std::fs::remove_file(place.copy(&gone, "auth")).unwrap();
    place.ok(&["pin", &first]);
    assert!(hook.event("verification-failed", "began")["text"].as_str().unwrap().contains(&first));

    // Somebody tries tokens; expired ones are somebody's old page.
    for bad in ["no token at all"; 12] {
        server.request("GET", "/api/backup/list").token(bad).send();
    }
    hook.event("sign-in-refused", "once");

    // All of it once, and nobody sees a secret.
    let status = server.request("GET", "/api/backup/status").token(&user()).send();
    let notices = status.json()["notices"].clone();
    assert_eq!(notices["channels"].as_array().unwrap().len(), 3, "{notices}");
    assert!(
        notices["channels"]
            .as_array()
            .unwrap()
            .iter()
            .all(|it| it["lastSuccess"].is_string() && it["lastError"].is_null()),
        "{notices}"
    );
    eventually("the queue is empty", || {
        (server.get("/api/backup/status").json()["notices"]["queued"] == 0).then_some(())
    });
    let mut events: Vec<_> = hook
        .got()
        .iter()
        .map(|it| (it.json()["event"].clone(), it.json()["stage"].clone()))
        .map(|it| format!("{} {}", it.0, it.1))
        .collect();
    let count = events.len();
    events.sort();
    events.dedup();
    assert_eq!(events.len(), count, "{events:?}");
    assert_eq!(sink.mails().len(), 2 * count, "each to both");
    said += &server.stop();
    let mut seen = said + &status.text() + &place.ok(&["status"]).stdout + &place.ok(&["config", "--json"]).stdout;
    for (file, _, dir) in tree(&place.backups()) {
        seen += &if dir {
            String::new()
        } else {
            String::from_utf8_lossy(&std::fs::read(place.backups().join(file)).unwrap()).into_owned()
        };
    }
    for secret in [PASSWORD, KEY, "c4n4ry-of-the-url"] {
        assert!(!seen.contains(secret), "{secret}");
    }
}

/// An engine whose clock the test moves, in minutes.
pub fn engine_at(place: &Place, minutes: &Arc<AtomicI64>) -> Engine {
    let config = Config::load(&place.environment().into_iter().collect()).unwrap();
    let minutes = Arc::clone(minutes);
    let start: chrono::DateTime<chrono::Utc> = "2026-01-08T02:00:00Z".parse().unwrap();
    let clock = Clock::from_fn(move || start + chrono::TimeDelta::minutes(minutes.load(Ordering::Relaxed)));
    Engine::new(Arc::new(config), clock).unwrap()
}

#[test]
fn what_is_stale_is_told_by_the_clock_and_a_restart_loses_and_repeats_nothing() {
    let mut place = Place::new();
    // Nobody answers there; what waits is looked at here.
    place
        .set("BACKUP_WEBHOOK_URL", "https://hooks.school.example/x")
        .set("BACKUP_HEALTHCHECK_URL", "https://hc.example/x");
    let minutes = Arc::new(AtomicI64::new(0));
    let mut engine = engine_at(&place, &minutes);
    let create = Create { tier: "daily".parse().unwrap(), reason: None, accept_shrink: false };
    engine.create(&create, &Call::new(Actor::cli())).unwrap();
    let mut told: Vec<String> = Vec::new();
    let mut look = |engine: &mut Engine, hours: i64, restart: bool| {
        minutes.store(hours * 60, Ordering::Relaxed);
        if restart {
            *engine = engine_at(&place, &minutes);
        }
        let look = engine.look_for_notices();
        let text = std::fs::read_to_string(place.backups().join("notices.json")).unwrap_or_else(|_| "{}".to_owned());
        let kept: Value = serde_json::from_str(&text).unwrap();
        let queue = kept["queue"].as_array().cloned().unwrap_or_default();
        let subjects: Vec<_> = queue.iter().map(|it| it["notice"]["subject"].as_str().unwrap().to_owned()).collect();
        let new = subjects.iter().filter(|it| !told.contains(it)).cloned().collect::<Vec<_>>();
        told.extend(new.clone());
        (look.in_time, new)
    };
    assert_eq!(look(&mut engine, 26, false), (true, vec![]));
    // A start takes one at once, which may take its time.
    let (in_time, new) = look(&mut engine, 27, false);
    assert_eq!((in_time, new), (false, vec![]), "the ping goes on though all is late");
    assert_eq!(look(&mut engine, 28, true).1, ["attendance-backup: no new backup for 28 hours"]);
    // A restart, in the moment after, and a day later.
    assert_eq!(look(&mut engine, 29, true), (false, vec![]));
    assert_eq!(look(&mut engine, 51, true), (false, vec![]));
    assert_eq!(look(&mut engine, 52, false).1, ["attendance-backup: still: no new backup for 52 hours"]);
    assert_eq!(look(&mut engine, 53, true), (false, vec![]));
    let waiting = engine.next_notice(Kind::Webhook).unwrap();
    assert_eq!(
        waiting.notice.subject, "attendance-backup: no new backup for 28 hours",
        "the oldest first, after restarts too"
    );
    engine.create(&create, &Call::new(Actor::cli())).unwrap();
    assert_eq!(look(&mut engine, 53, true), (true, vec![]), "it is over before it stays away");
    assert_eq!(look(&mut engine, 54, true), (true, vec!["attendance-backup: backups are in time again".to_owned()]));
    assert_eq!(look(&mut engine, 55, true), (true, vec![]));
    let status = engine.status().unwrap();
    assert_eq!((status.notices.channels.len(), status.notices.queued), (2, 1), "what is over waits alone");
    place.assert_whole();
}

#[test]
fn what_can_not_be_sent_waits_and_shows_and_is_in_no_backups_way() {
    let mut place = Place::new();
    let (hook, other) = (Receiver::start(), Receiver::start());
    hook.answers(&format!("302 Found\r\nLocation: {}", other.url("/")));
    place.set("BACKUP_WEBHOOK_URL", &hook.url("/x")).set("BACKUP_NOTIFY_PRIVATE", "true");
    place.create();
    assert!(tested(&place, "webhook", 1).contains("the webhook answers 302"));
    assert!(other.got().is_empty(), "a redirect was followed");
    hook.answers("500 Oh");
    let said = tested(&place, "webhook", 1);
    assert!(said.contains("answers 500") && !said.contains("127.0.0.1"), "{said}");

    // One that never answers delays no backup, and no stop.
    hook.answers("");
    let (server, count) = (Server::start(&place), hook.got().len());
    place.ok(&["config", "--set", "retention.daily=9"]);
    eventually("it is asked", || (hook.got().len() > count).then_some(()));
    let mut server = Some(server);
    in_some_tries(|| {
        let server = server.take().unwrap_or_else(|| {
            let (server, count) = (Server::start(&place), hook.got().len());
            eventually("it is asked again", || (hook.got().len() > count).then_some(()));
            server
        });
        let begun = Instant::now();
        place.create();
        server.request("POST", "/api/backup/create").token(&superuser()).send().ok();
        server.stop();
        let took = begun.elapsed();
        if took.as_secs() < 8 { Ok(()) } else { Err(format!("a backup waited {took:?} for a notice")) }
    });

    hook.answers("500 Oh");
    let server = Server::start(&place);
    let status = eventually("it failed", || {
        let status = server.get("/api/backup/status").json();
        status["notices"]["channels"][0]["lastError"].is_object().then_some(status)
    });
    let channel = &status["notices"]["channels"][0];
    assert_eq!((&status["notices"]["queued"], &channel["kind"]), (&1.into(), &"webhook".into()));
    assert_eq!(channel["lastError"]["code"], "notice-refused");
    let page = words(&Visitor::superuser(&server).get("/settings/backups/settings").text());
    for told in ["Webhook Failing since", "1 notice to be sent", "Send a test"] {
        assert!(page.contains(told), "{told}: {page}");
    }
    server.stop();

    // What waits is sent after a restart, as soon as its time has come.
    hook.answers("204 No Content");
    let file = place.backups().join("notices.json");
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(!place.warnings().contains(&"notices-not-sent".to_owned()), "one failure is no warning");
    kept["channels"]["webhook"]["failures"] = 2.into();
    kept["channels"]["webhook"]["nextTry"] = Value::Null;
    std::fs::write(&file, kept.to_string()).unwrap();
    assert!(place.warnings().contains(&"notices-not-sent".to_owned()));
    let count = hook.got().len();
    let _server = Server::start(&place);
    eventually("it is sent", || (hook.got().len() > count).then_some(()));
    assert_eq!(hook.got().last().unwrap().json()["event"], "settings-changed");
    eventually("and then forgotten", || (place.json(&["status"])["notices"]["queued"] == 0).then_some(()));
    assert!(place.json(&["status"])["notices"]["channels"][0]["lastSuccess"].is_string());
}

#[test]
fn a_full_disk_is_told_all_the_same() {
    let test = "notices::a_full_disk_is_told_all_the_same";
    let Some(mut disk) = SmallDisk::of(test, "size=4m,mode=0700") else { return };
    let hook = Receiver::start();
    disk.place.set("BACKUP_WEBHOOK_URL", &hook.url("/x")).set("BACKUP_NOTIFY_PRIVATE", "true");
    let _server = Server::start(&disk.place);
    disk.fill();
    assert_eq!(disk.place.run(&["create"]).code, 1);
    let told = hook.event("backup-failed", "began");
    assert!(told["text"].as_str().unwrap().contains("full"), "{told}");
    disk.empty();
    disk.place.ok(&["create"]);
    // What was told is remembered where there is room again.
    let kept = disk.place.backups().join("notices.json");
    eventually("it is gone", || std::fs::read_to_string(&kept).ok().filter(|text| text.contains("\"gone\": \"")));
}

#[test]
fn a_test_over_http_is_for_superusers_and_not_for_ever() {
    let mut place = Place::new();
    place.create();
    let hook = Receiver::start();
    place.set("BACKUP_WEBHOOK_URL", &hook.url("/x")).set("BACKUP_NOTIFY_PRIVATE", "true");
    let server = Server::start(&place);
    let path = "/api/backup/notify/test";
    server.request("POST", path).token(&user()).send().problem(403, "forbidden");
    let visitor = Visitor::superuser(&server);
    let page = words(&visitor.post("/settings/backups/notices/test", &[]).text());
    assert!(page.contains("The test was sent Webhook: it was taken"), "{page}");
    let answer = server.post(path).ok();
    assert_eq!(
        answer,
        json!({ "ok": true, "channels": [{ "kind": "webhook", "ok": true, "detail": "it was taken; look whether it has arrived" }] })
    );
    let answers: Vec<_> = (0..4).map(|_| server.post(path).status).collect();
    assert_eq!(answers.last(), Some(&429), "{answers:?}");
    assert!(place.audit().iter().any(|line| line["operation"] == "notify-test" && line["by"] == "user:ada"));
    let told = words(&visitor.get("/settings/backups/activity?operation=notify-test").text());
    assert!(told.contains("Test of notices"), "{told}");
}
