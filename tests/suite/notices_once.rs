//! Nobody is told twice, whatever happens on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use attendance_backup::engine::{Actor, Call, Create};
use attendance_backup::notify::Kind;

use crate::client::Server;
use crate::harness::{Place, eventually, tree};
use crate::notices::engine_at;
use crate::receivers::Sink;

/// A server thinks about a mail for longer than the ten seconds in which others answer, and one recipient is refused.
#[test]
fn who_has_a_mail_gets_it_no_second_time() {
    let mut place = Place::new();
    let sink = Sink::start(&place, "thinking");
    place
        .set("BACKUP_NOTIFY_PRIVATE", "true")
        .set("BACKUP_SMTP_URL", &format!("smtp://localhost:{}?tls=none", sink.port));
    place.set("BACKUP_EMAIL_FROM", "backup@school.example");
    place.set("BACKUP_EMAIL_TO", "it@school.example, gone@school.example, head@school.example");
    place.create();
    let server = Server::start(&place);
    place.ok(&["config", "--set", "retention.daily=9"]);
    let channel = || server.get("/api/backup/status").json()["notices"]["channels"][0].clone();
    let told = eventually("both have it", || Some(channel()).filter(|it| it["lastSuccess"].is_string()));
    let error = told["lastError"]["detail"].as_str().unwrap();
    assert!(error.contains("number 2 of 3") && !error.contains("gone@"), "{error}");
    place.ok(&["config", "--set", "retention.daily=10"]);
    eventually("the next one goes though one is refused", || (sink.mails().len() == 4).then_some(()));
    let to: Vec<_> = sink.mails().iter().map(|mail| mail["to"][0].as_str().unwrap().to_owned()).collect();
    assert_eq!(to, ["it@school.example", "head@school.example", "it@school.example", "head@school.example"]);
    assert!(!place.warnings().contains(&"notices-not-sent".to_owned()));
    let kept = std::fs::read_to_string(place.backups().join("notices.json")).unwrap();
    assert!(kept.contains("\"had\"") && !kept.contains("@school.example"), "{kept}");
    server.stop();
}

/// As on a volume that comes late.
#[test]
fn what_can_not_be_read_yet_is_neither_replaced_nor_told_anew() {
    let mut place = Place::new();
    place.set("BACKUP_WEBHOOK_URL", "https://hooks.school.example/x");
    let minutes = Arc::new(AtomicI64::new(0));
    let engine = engine_at(&place, &minutes);
    let create = Create { tier: "daily".parse().unwrap(), reason: None, accept_shrink: false };
    engine.create(&create, &Call::new(Actor::cli())).unwrap();
    for hours in [27, 28] {
        minutes.store(hours * 60, Ordering::Relaxed);
        engine.look_for_notices();
    }
    let (file, aside) = (place.backups().join("notices.json"), place.path("aside"));
    let before = std::fs::read(&file).unwrap();
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    // A restart: what is found is told, and nothing is written.
    let engine = engine_at(&place, &minutes);
    engine.look_for_notices();
    place.ok(&["config", "--set", "retention.daily=9"]);
    engine.look_for_notices();
    assert!(file.is_dir() && engine.next_notice(Kind::Webhook).is_none());
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    engine.look_for_notices();
    assert_eq!(engine.status().unwrap().notices.queued, 2, "what was told before, and the settings");
    let first = engine.next_notice(Kind::Webhook).unwrap().notice;
    assert_eq!(first.subject, "attendance-backup: no new backup for 28 hours");
    // What isn't to be understood is kept for a look.
    std::fs::write(&file, &before[..before.len() / 2]).unwrap();
    engine_at(&place, &minutes).look_for_notices();
    let kept = tree(&place.backups()).into_iter().filter(|(name, ..)| name.starts_with("notices.json"));
    assert_eq!(kept.count(), 2);
    place.assert_whole();
}
