//! The JSON API over real HTTP: what each route answers, and that the engine has done it.

use serde_json::{Value, json};

use crate::client::{Server, superuser, user};
use crate::harness::Place;

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
