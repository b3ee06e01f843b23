//! The JSON API over real HTTP: what each route answers, and that the engine has done it.

use serde_json::{Value, json};

use crate::client::{Answer, Server, superuser, user};
use crate::harness::{PROGRAM, Place, Run};
use crate::ports::free_address;

fn place() -> (Place, Server) {
    let place = Place::new();
    let server = Server::start(&place);
    (place, server)
}

#[test]
fn a_backup_is_made_listed_looked_at_pinned_verified_and_deleted() {
    let (place, server) = place();
    let created = server
        .request("POST", "/api/backup/create")
        .token(&superuser())
        .json(&json!({ "reason": "before the exams" }))
        .send();
    assert_eq!(created.status, 201, "{}", created.text());
    let backup = created.json();
    let id = backup["id"].as_str().unwrap();
    assert_eq!(created.header("location"), Some(format!("/api/backup/{id}").as_str()));
    assert_eq!((backup["type"].as_str(), backup["reason"].as_str()), (Some("manual"), Some("before the exams")));
    assert_eq!(backup["createdBy"], "user:ada");
    assert_eq!(server.post("/api/backup").status, 201);
    assert_eq!(server.get("/api/backup/list").ok(), place.json(&["list"]));
    assert_eq!(server.get("/api/backup").ok(), server.get("/api/backup/list?type=manual").ok());
    assert_eq!(server.get("/api/backup/list?type=daily").ok(), json!({ "backups": [] }));

    let one = server.get(&format!("/api/backup/{id}")).ok();
    assert_eq!(one["fate"]["kept"], "manual 2 of 10", "{one}");
    let pinned = server
        .request("PATCH", &format!("/api/backup/{id}"))
        .token(&superuser())
        .json(&json!({ "pinned": true }))
        .send();
    assert_eq!(pinned.ok()["pinned"], true);
    let verified = server.post(&format!("/api/backup/verify/{id}")).ok();
    assert_eq!(verified, json!({ "ok": true, "databases": { "attendance": { "ok": true }, "auth": { "ok": true } } }));
    let deleted = server.request("DELETE", &format!("/api/backup/{id}")).token(&superuser()).send();
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    server.get(&format!("/api/backup/{id}")).problem(404, "not-found");
    server.stop();
    place.assert_whole();
}

#[test]
fn the_last_good_backup_goes_only_by_force_and_the_answer_says_how() {
    let (place, server) = place();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    let delete = |query: &str| server.request("DELETE", &format!("/api/backup/{id}{query}")).token(&superuser()).send();
    assert!(delete("").problem(409, "last-good").contains("?force=true"));
    delete("?force=yes").problem(400, "bad-parameter");
    assert_eq!(delete("?force=true").status, 204);
    delete("?force=true").problem(404, "not-found");
}

#[test]
fn status_and_settings_are_those_of_the_command_line() {
    let (place, server) = place();
    place.create();
    let (mut ours, mut theirs) = (server.get("/api/backup/status").ok(), place.json(&["status"]));
    for status in [&mut ours, &mut theirs] {
        status["lastBackup"]["ageSeconds"] = Value::Null;
        // The server was started with the schedule off, by its environment.
        for key in ["enabled", "schedule", "warnings"] {
            status[key] = Value::Null;
        }
    }
    assert_eq!(ours, theirs);
    let config = server.request("GET", "/api/backup/config").token(&user()).send();
    assert_eq!(config.ok()["databases"], json!(["attendance", "auth"]));
    assert!(config.header("etag").unwrap().starts_with('"'));
}

/// `GET` for the version, then `PUT` with it.
fn put(server: &Server, query: &str, body: &Value) -> Answer {
    let config = server.request("GET", "/api/backup/config").token(&superuser()).send();
    let tag = config.header("etag").unwrap().to_owned();
    let put = server.request("PUT", &format!("/api/backup/config{query}")).token(&superuser());
    put.header("If-Match", &tag).json(body).send()
}

#[test]
fn each_bad_setting_is_refused_with_its_place_and_none_is_saved() {
    let (_place, server) = place();
    let before = server.get("/api/backup/config").ok();
    let bad = [
        (json!({ "schedule": { "hour": 24 } }), "/schedule/hour", "from 0 to 23"),
        (json!({ "schedule": { "hour": -1 } }), "/schedule/hour", "expected u8"),
        (json!({ "schedule": { "hour": "2" } }), "/schedule/hour", "expected u8"),
        (json!({ "schedule": { "hour": 2.5 } }), "/schedule/hour", "expected u8"),
        (json!({ "schedule": { "hour": null } }), "/schedule/hour", "null"),
        (json!({ "schedule": { "minute": 60 } }), "/schedule/minute", "from 0 to 59"),
        (json!({ "schedule": { "timezone": "Mars/Olympus" } }), "/schedule/timezone", ""),
        (json!({ "schedule": { "hours": 1 } }), "/schedule/hours", "unknown field"),
        (json!({ "schedule": 3 }), "/schedule", ""),
        (json!({ "schedule": null }), "/schedule", "null"),
        (json!({ "retention": { "daily": 0 } }), "/retention/daily", "from 1 to 366"),
        (json!({ "retention": { "weekly": 521 } }), "/retention/weekly", "from 0 to 520"),
        (json!({ "retention": { "monthly": 4_294_967_296_u64 } }), "/retention/monthly", ""),
        (json!({ "retention": { "manual": 0 } }), "/retention/manual", "from 1 to 1000"),
        (json!({ "retention": { "preRestore": 1 } }), "/retention/preRestore", "from 2 to 100"),
        (json!({ "retention": [7] }), "/retention", ""),
        (json!({ "enabled": "yes" }), "/enabled", "boolean"),
        (json!({ "directory": "/etc" }), "/directory", "unknown field"),
        (json!({ "a/b": { "c~d": 1 } }), "/a~1b/c~0d", "unknown field"),
    ];
    for (body, pointer, says) in bad {
        let answer = put(&server, "", &body);
        let detail = answer.problem(422, "bad-setting");
        let errors = answer.json()["errors"].clone();
        assert_eq!(errors[0]["pointer"], pointer, "{errors}");
        assert!(errors[0]["detail"].as_str().unwrap().contains(says), "{errors}");
        assert!(detail.contains(pointer) && detail.contains("nothing was changed"), "{detail}");
    }
    let two = put(&server, "", &json!({ "enabled": 1, "retention": { "daily": 0, "weekly": 3 } }));
    two.problem(422, "bad-setting");
    let pointers: Vec<_> = two.json()["errors"].as_array().unwrap().iter().map(|it| it["pointer"].clone()).collect();
    assert_eq!(pointers, ["/enabled", "/retention/daily"]);
    put(&server, "", &json!([1])).problem(400, "bad-body");
    server.request("POST", "/api/backup").token(&superuser()).json(&json!(["daily"])).send().problem(400, "bad-body");
    put(&server, "?dryRun=1", &json!({})).problem(400, "bad-parameter");
    assert_eq!(server.get("/api/backup/config").ok(), before);
}

#[test]
fn settings_that_someone_else_has_changed_meanwhile_are_not_overwritten() {
    let (place, server) = place();
    let config = server.request("GET", "/api/backup/config").token(&superuser()).send();
    let put = |tag: Option<&str>| {
        let put = server.request("PUT", "/api/backup/config").token(&superuser()).json(&json!({ "enabled": true }));
        tag.map_or(put.clone(), |tag| put.header("If-Match", tag)).send()
    };
    put(None).problem(428, "precondition-required");
    put(Some("\"nonsense\"")).problem(412, "stale");
    let tag = config.header("etag").unwrap();
    place.ok(&["config", "--set", "retention.daily=9"]);
    put(Some(tag)).problem(412, "stale");
    assert_eq!(server.get("/api/backup/config").ok()["retention"]["daily"], 9);
    // A proxy that compresses makes it weak.
    let now = server.request("GET", "/api/backup/config").token(&superuser()).send();
    put(Some(&format!("W/{}", now.header("etag").unwrap()))).ok();
    let done = put(Some("*"));
    assert_eq!(done.ok()["sources"]["enabled"], "saved");
    // The tag that comes with the answer is the one of what is in force now.
    assert_eq!(put(done.header("etag")).status, 200);
}

#[test]
fn a_dry_run_tells_what_a_smaller_retention_drops_and_changes_nothing() {
    let (place, server) = place();
    for _ in 0..4 {
        place.create();
    }
    let (ids, before) = (place.ids(), server.get("/api/backup/config").ok());
    let body = json!({ "retention": { "manual": 1 } });
    let dry = put(&server, "?dryRun=true", &body).ok();
    assert_eq!((dry["dryRun"].as_bool(), dry["retention"]["manual"].as_u64()), (Some(true), Some(1)));
    let dropped: Vec<_> = dry["rotation"].as_array().unwrap().iter().map(|step| step["id"].clone()).collect();
    assert_eq!(dropped.len(), 3, "{dry}");
    assert_eq!((place.ids(), server.get("/api/backup/config").ok()), (ids.clone(), before));
    let done = put(&server, "", &body).ok();
    assert_eq!(done["rotation"], dry["rotation"]);
    assert_eq!(place.ids(), ids[..1]);
    place.assert_whole();
}

#[test]
fn a_new_schedule_is_followed_at_once() {
    let (place, server) = place();
    place.ok(&["create", "--type", "daily"]);
    let body = json!({ "enabled": true, "schedule": { "hour": 23, "minute": 59, "timezone": "Pacific/Kiritimati" } });
    put(&server, "", &body).ok();
    let schedule = server.get("/api/backup/status").ok()["schedule"].clone();
    assert_eq!((schedule["hour"].as_u64(), schedule["timezone"].as_str()), (Some(23), Some("Pacific/Kiritimati")));
    // It is 14 hours ahead of UTC.
    assert!(schedule["nextRun"].as_str().unwrap().ends_with("T09:59:00.000Z"), "{schedule}");
}

#[test]
fn the_audit_log_comes_in_pages_newest_first() {
    let (place, server) = place();
    for _ in 0..3 {
        server.post("/api/backup");
    }
    server.request("GET", "/api/backup/audit").token(&user()).send().problem(403, "forbidden");
    let whole = server.get("/api/backup/audit?limit=200").ok();
    let seqs = |page: &Value| -> Vec<u64> {
        page["lines"].as_array().unwrap().iter().map(|line| line["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(seqs(&whole), [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(whole["next"], Value::Null);
    let first = server.get("/api/backup/audit?limit=3").ok();
    assert_eq!((seqs(&first), first["next"].as_u64()), (vec![7, 6, 5], Some(5)));
    let second = server.get("/api/backup/audit?limit=4&before=5").ok();
    assert_eq!((seqs(&second), second["next"].as_u64()), (vec![4, 3, 2, 1], None));
    assert_eq!(seqs(&server.get("/api/backup/audit?operation=create&kind=intent").ok()).len(), 3);
    let id = place.ids()[0].clone();
    assert_eq!(seqs(&server.get(&format!("/api/backup/audit?id={id}")).ok()).len(), 2);
    for bad in ["limit=0", "limit=201", "limit=x", "before=-1", "kind=nonsense", "id=..", "page=2"] {
        server.get(&format!("/api/backup/audit?{bad}")).problem(400, "bad-parameter");
    }
}

#[test]
fn readiness_follows_the_newest_proven_backup() {
    let (place, server) = place();
    let ready = || server.request("GET", "/readyz").send();
    assert_eq!(server.request("GET", "/healthz").send().ok(), json!({ "alive": true }));
    ready().problem(503, "not-ready");
    let backup = place.create();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(ready().ok(), json!({ "ready": true }));
    // Found damaged, it proves nothing.
    let path = place.copy(&backup, "auth");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    server.post(&format!("/api/backup/verify/{}", backup["id"].as_str().unwrap())).ok();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    ready().problem(503, "not-ready");
}

#[test]
fn readiness_ends_when_the_newest_proven_backup_is_too_old() {
    let mut place = Place::new();
    place.set("BACKUP_METRICS", "true");
    let mut command = place.command_of("faketime");
    command.args(["-f", "-30h", PROGRAM, "create"]).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    assert_eq!(Run::of(command.output().unwrap()).code, 0);
    let asked = |place: &Place| {
        let server = Server::start(place);
        let [ready, metrics] = ["/readyz", "/metrics"].map(|path| server.request("GET", path).send());
        let figure =
            metrics.text().lines().find_map(|line| line.strip_prefix("attendance_backup_ready ").map(str::to_owned));
        (ready, figure.unwrap(), server)
    };
    // 26 hours are allowed.
    let (ready, figure, server) = asked(&place);
    assert!(ready.problem(503, "not-ready").contains("younger than BACKUP_STALE_AFTER; /api/backup/status says why"));
    assert_eq!(figure, "0");
    let warnings = server.get("/api/backup/status").ok()["warnings"].clone();
    let stale = warnings.as_array().unwrap().iter().find(|it| it["code"] == "stale").unwrap();
    assert!(stale["detail"].as_str().unwrap().contains("the newest backup is 30 hours old"), "{stale}");
    drop(server);
    place.set("BACKUP_STALE_AFTER", "31h");
    let (ready, figure, _) = asked(&place);
    assert_eq!((ready.ok(), figure.as_str()), (json!({ "ready": true }), "1"));
    place.unset("BACKUP_STALE_AFTER").create();
    let (ready, figure, _) = asked(&place);
    assert_eq!((ready.ok(), figure.as_str()), (json!({ "ready": true }), "1"));
}

#[test]
fn the_health_check_knows_whether_anything_answers() {
    let mut place = Place::new();
    place.set("BACKUP_BIND", &free_address().to_string());
    let server = Server::start(&place);
    place.ok(&["healthcheck"]);
    let busy = place.run(&["serve"]);
    assert_eq!(busy.code, 3, "{}", busy.stderr);
    server.stop();
    place.run(&["healthcheck"]).refused(1, &["nothing answers", "BACKUP_BIND"]);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    place.set("BACKUP_BIND", &other.local_addr().unwrap().to_string());
    place.run(&["serve"]).refused(1, &["cannot listen on", "BACKUP_BIND"]);
}

#[test]
fn every_answer_carries_the_headers_and_every_request_has_its_line() {
    let (_place, server) = place();
    let answers = [
        server.get("/api/backup/list"),
        server.request("GET", "/api/backup/list").send(),
        server.request("BREW", "/api/backup/list").token(&superuser()).send(),
        server.get("/nowhere"),
        server.post("/api/backup/status"),
        server.request("PUT", "/api/backup/config").token(&superuser()).header("If-Match", "*").body(b"{").send(),
        server.request("GET", "/healthz").send(),
    ];
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 401, 405, 404, 405, 415, 200]);
    assert_eq!(answers[4].header("allow"), Some("GET, HEAD"));
    for answer in &answers {
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    let ids: Vec<_> = answers.iter().map(|answer| answer.header("x-request-id").unwrap().to_owned()).collect();
    let log = server.stop();
    for id in ids {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&id)).collect();
        assert!(lines.len() == 1 && lines[0].contains("status="), "{lines:?}");
    }
}
