//! The log: one line for each request and one for each operation, in text and as JSON, and nothing secret on them.

use serde_json::{Value, json};

use crate::client::{Server, superuser, user};
use crate::harness::{Place, SECRET, eventually};
use crate::visitor::Visitor;

/// The lines of operations: of `operation` those that ended with `message`.
fn ended<'l>(lines: &'l [Value], operation: &str, message: &str) -> Vec<&'l Value> {
    let is_it = |line: &&Value| {
        let fields = &line["fields"];
        fields["operation"] == operation && fields["message"].as_str().is_some_and(|text| text.starts_with(message))
    };
    lines.iter().filter(is_it).collect()
}

#[test]
fn each_request_and_each_operation_is_one_line_of_json() {
    let mut place = Place::new();
    std::fs::create_dir(place.path("nas")).unwrap();
    place
        .set("BACKUP_REPLICA_NAS_URL", &format!("fs://{}", place.path("nas").display()))
        .set("BACKUP_LOG_FORMAT", "json");
    let server = Server::start(&place);
    let created = server.request("POST", "/api/backup/create").token(&superuser()).send();
    let id = created.ok()["id"].as_str().unwrap().to_owned();
    eventually("the replication", || server.log().contains("\"operation\":\"replicate\"").then_some(()));
    let body = json!({ "id": id, "confirm": id });
    let asked = vec![
        created,
        server.post(&format!("/api/backup/verify/{id}")),
        server.get(&format!("/api/backup/{id}/preview")),
        server.get(&format!("/api/backup/download/{id}?database=auth")),
        server.post("/api/backup/drill"),
        server.request("POST", "/api/backup/restore").token(&superuser()).json(&body).send(),
        server.post("/api/backup/replica/nas/verify"),
        server.request("DELETE", "/api/backup/daily-2020-01-01").token(&superuser()).send(),
        server.request("POST", "/api/backup/create").token(&user()).send(),
        server.request("GET", "/api/backup/list?secret=c4n4ry").send(),
    ];
    // The same on the page, as an errand.
    Visitor::superuser(&server).post("/settings/backups/create", &[("reason", "")]);
    std::fs::remove_file(place.live("auth")).unwrap();
    let failed = server.request("POST", "/api/backup/create").token(&superuser()).send();
    failed.problem(422, "live-missing");
    let parsed = || -> Vec<Value> {
        let log = server.log();
        // The last one may be on its way.
        let whole = log.lines().take(log.matches('\n').count());
        whole.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    };
    let lines = eventually("the replication", || {
        let lines = parsed();
        let told = ended(&lines, "download", "done").len() + ended(&lines, "create", "done").len();
        (!ended(&lines, "replicate", "done").is_empty() && told == 3).then_some(lines)
    });
    for answer in asked.iter().chain([&failed]) {
        let id = answer.header("x-request-id").unwrap();
        let of_it = |line: &&Value| line["span"]["id"] == id && line["fields"]["message"] == "answered";
        let answered: Vec<_> = lines.iter().filter(of_it).collect();
        assert_eq!(answered.len(), 1, "{id}: {answered:?}");
        assert_eq!(answered[0]["fields"]["status"], answer.status, "{}", answered[0]);
    }
    for (operation, message, answer) in [
        ("create", "done", Some(&asked[0])),
        ("verify", "done", Some(&asked[1])),
        ("preview", "done", Some(&asked[2])),
        ("download", "done", Some(&asked[3])),
        ("drill", "done", Some(&asked[4])),
        ("restore", "done", Some(&asked[5])),
        ("verify-replica", "done", Some(&asked[6])),
        ("delete", "refused: ", Some(&asked[7])),
        ("request", "refused: ", Some(&asked[8])),
        ("create", "failed: ", Some(&failed)),
        ("sign-in", "done", None),
    ] {
        let found = ended(&lines, operation, message);
        let id = answer.and_then(|answer| answer.header("x-request-id"));
        let of_it: Vec<_> = found.iter().filter(|line| id.is_none_or(|id| line["span"]["id"] == id)).collect();
        assert_eq!(of_it.len(), 1, "{operation} {message}: {found:?}");
        let fields = &of_it[0]["fields"];
        assert!(fields["by"].as_str().is_some_and(|by| by.starts_with("user:")) || operation == "request", "{fields}");
        let is_timed = !matches!(operation, "delete" | "request" | "sign-in");
        assert_eq!(fields["seconds"].as_f64().is_some(), is_timed, "{operation}: {fields}");
        match message {
            "done" => assert!(fields["ok"] == true && of_it[0]["level"] == "INFO", "{fields}"),
            "failed: " => assert!(fields["code"] == "live-missing" && of_it[0]["level"] == "ERROR", "{fields}"),
            _ => assert!(fields["code"].is_string() && of_it[0]["level"] == "WARN", "{fields}"),
        }
    }
    assert_eq!(ended(&lines, "create", "done").len(), 2, "by the API, and by the page");
    let whole = ended(&lines, "create", "done")[0];
    assert_eq!(whole["fields"]["id"], id.as_str());
    assert!(whole["fields"]["bytes"].as_u64() > Some(16_000), "{whole}");
    let said: Vec<_> = lines.iter().filter(|line| line["fields"].to_string().contains("is missing at")).collect();
    assert_eq!(said.len(), 1, "the failure is said once: {said:?}");
    let log = server.stop();
    for secret in [SECRET, "c4n4ry", "Bearer", &superuser()] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

/// The schedule has nothing to add to what the operation says.
#[test]
fn a_scheduled_backup_that_fails_is_said_once() {
    let mut place = Place::new();
    place.set("BACKUP_ENABLED", "true").set("BACKUP_LOG_FORMAT", "text");
    std::fs::rename(place.live("auth"), place.path("aside")).unwrap();
    let server = Server::start(&place);
    eventually("it fails", || server.log().contains("failed: ").then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let log = server.stop();
    let said: Vec<_> =
        log.lines().filter(|line| line.contains("`auth` is missing") && !line.contains("about=")).collect();
    assert_eq!(said.len(), 1, "{log}");
    for part in ["ERROR", "failed: ", "operation=\"create\"", "code=\"live-missing\"", "by=\"scheduler\"", "ok=false"] {
        assert!(said[0].contains(part), "{part}: {}", said[0]);
    }
}

/// Whoever runs a command reads how it ended from the command.
#[test]
fn a_command_says_how_it_ended_once() {
    let place = Place::new();
    let run = place.ok(&["create"]);
    assert_eq!(run.stderr, "");
    let failed = place.run(&["delete", "daily-2020-01-01"]);
    assert_eq!(failed.stderr.matches("daily-2020-01-01").count(), 1, "{}", failed.stderr);
    let output = place.command(&["create"]).env("BACKUP_LOG", "debug").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("operation=\"create\""));
}
