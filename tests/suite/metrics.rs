//! Figures for Prometheus: what they say, to whom, and that promtool takes them, the alerts and the dashboard's queries.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::client::{Server, superuser};
use crate::harness::{Place, eventually};

const TOKEN: &str = "b58a6f13d2c94e07";

/// Each sample by its name and labels.
fn figures(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// A place where everything is that figures tell of.
fn furnished() -> Place {
    let mut place = Place::new();
    std::fs::create_dir(place.path("nas")).unwrap();
    let nas = format!("fs://{}", place.path("nas").display());
    place.set("BACKUP_METRICS", "true").set("BACKUP_REPLICA_NAS_URL", &nas).set("BACKUP_PITR", "true");
    place
}

fn scraped(server: &Server) -> String {
    // What was looked up counts for a second.
    std::thread::sleep(std::time::Duration::from_millis(1050));
    let answer = server.request("GET", "/metrics").send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    answer.text()
}

/// promtool, with that on its standard input; what it says.
fn promtool(args: &[&str], input: &str) -> String {
    let mut tool = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/promtool"))
        .args(args)
        .current_dir(deployed("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

/// The names that the page lists, with their labels and types.
fn documented() -> BTreeMap<String, (BTreeSet<String>, String)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `attendance_backup_"));
    let row = |row: &str| {
        let (name, rest) = row.split_once('`').unwrap();
        let kind = rest.split('|').nth(1).unwrap().trim().to_owned();
        let (name, labels) = name.trim_end_matches('}').split_once('{').unwrap_or((name, ""));
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect();
        (format!("attendance_backup_{name}"), (labels, kind))
    };
    rows.map(row).collect()
}

/// The same as they are handed out.
fn exported(text: &str) -> BTreeMap<String, (BTreeSet<String>, String)> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let labels_of = |family: &str| {
        let sample = figures(text).into_keys().find(|sample| {
            let name = sample.split('{').next().unwrap();
            name == family || name == format!("{family}_bucket")
        });
        let labels = sample.as_ref().and_then(|sample| sample.split_once('{')).map_or("", |(_, labels)| labels);
        let names = labels.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.to_owned());
        names.filter(|name| name != "le").collect()
    };
    types.map(|(name, kind)| (name.to_owned(), (labels_of(name), kind.to_owned()))).collect()
}

#[test]
fn every_figure_is_explained_right_and_taken_by_promtool() {
    let place = furnished();
    let server = Server::start(&place);
    let before = figures(&scraped(&server));
    let figure = |of: &BTreeMap<String, f64>, name: &str| of.get(&format!("attendance_backup_{name}")).copied();
    assert_eq!(figure(&before, "ready"), Some(0.0));
    assert_eq!(figure(&before, "newest_proven_age_seconds"), None);
    assert_eq!(figure(&before, r#"operations_total{operation="create",outcome="done"}"#), Some(0.0));
    // One by the server, one beside it, a rehearsal, a restore, and what goes wrong.
    server.request("POST", "/api/backup/create").token(&superuser()).send().ok();
    let id = place.create()["id"].as_str().unwrap().to_owned();
    server.post("/api/backup/drill").ok();
    server.post(&format!("/api/backup/verify/{id}")).ok();
    server.post("/api/backup/verify/daily-2020-01-01").problem(404, "not-found");
    server.post("/api/backup/replica/nas/verify");
    let body = serde_json::json!({ "id": id, "confirm": id });
    server.request("POST", "/api/backup/restore").token(&superuser()).json(&body).send().ok();
    place.run(&["delete", "daily-2020-01-01"]);
    server.request("GET", "/api/backup/list").send();
    std::fs::rename(place.live("auth"), place.path("aside")).unwrap();
    assert_eq!(place.run(&["create"]).code, 1);
    std::fs::rename(place.path("aside"), place.live("auth")).unwrap();
    let sent = r#"replica_success_age_seconds{replica="nas"}"#;
    eventually("something is there", || figure(&figures(&scraped(&server)), sent));
    place.ok(&["replica", "verify", "nas"]);
    let held = place.run(&["replica", "push", "nas"]);
    assert!(held.code == 0 || held.code == 3, "{}", held.stderr);
    let text = eventually("the replica to be complete", || {
        let text = scraped(&server);
        let now = figures(&text);
        let done = figure(&now, r#"replica_success_age_seconds{replica="nas"}"#).is_some()
            && figure(&now, r#"replica_pending{replica="nas"}"#) == Some(0.0)
            && figure(&now, r#"replica_journal_lag_seconds{replica="nas"}"#).is_some()
            && figure(&now, r#"operations_total{operation="replicate",outcome="done"}"#) > Some(0.0);
        done.then_some(text)
    });
    let now = figures(&text);
    for (name, value) in [
        ("ready", 1.0),
        ("readable", 1.0),
        (r#"operations_total{operation="create",outcome="done"}"#, 2.0),
        (r#"operations_total{operation="create",outcome="failed"}"#, 1.0),
        (r#"failures_total{code="live-missing",operation="create"}"#, 1.0),
        (r#"refusals_total{code="not-found",operation="delete"}"#, 1.0),
        (r#"operations_total{operation="verify",outcome="done"}"#, 1.0),
        (r#"operations_total{operation="verify",outcome="failed"}"#, 0.0),
        (r#"refusals_total{code="not-found",operation="verify"}"#, 1.0),
        (r#"failures_total{code="damaged",operation="verify"}"#, 0.0),
        (r#"operation_duration_seconds_count{operation="restore"}"#, 1.0),
        ("restore_hold_seconds_count", 1.0),
        ("barrier_seconds_count", 2.0),
        (r#"wal_growth_bytes_count{database="auth"}"#, 2.0),
        (r#"backups{type="manual"}"#, 2.0),
        (r#"backups{type="pre-restore"}"#, 1.0),
        ("drill_ok", 1.0),
        (r#"http_requests_total{class="2xx",method="POST",route="/api/backup/verify/{id}"}"#, 1.0),
        (r#"http_requests_total{class="4xx",method="GET",route="/api/backup/list"}"#, 1.0),
    ] {
        assert_eq!(figure(&now, name), Some(value), "{name}: {text}");
    }
    for name in ["newest_proven_age_seconds", r#"journal_lag_seconds{database="auth"}"#, "drill_age_seconds"] {
        assert!(figure(&now, name).is_some_and(|seconds| (0.0..120.0).contains(&seconds)), "{name}: {text}");
    }
    assert!(figure(&now, r#"database_bytes{database="auth"}"#) > Some(4095.0));
    assert!(figure(&now, r#"written_bytes_total{operation="create"}"#) > Some(16_000.0));
    assert!(!text.contains(&id) && !text.contains(&place.path("").display().to_string()), "{text}");
    let mut exported = exported(&text);
    // Only while something runs, and while the schedule is on.
    let gauge = |label: Option<&str>| (label.map(str::to_owned).into_iter().collect(), "gauge".to_owned());
    exported.insert("attendance_backup_operation_running".to_owned(), gauge(Some("operation")));
    exported.insert("attendance_backup_next_run_timestamp_seconds".to_owned(), gauge(None));
    assert_eq!(exported, documented());
    promtool(&["check", "metrics"], &text);
    queries(&exported.into_keys().collect());
    server.stop();
}

/// Every query of the dashboard, and every metric in one or in an alert.
fn queries(known: &BTreeSet<String>) {
    let dashboard: Value =
        serde_json::from_slice(&std::fs::read(deployed("grafana/attendance-backup.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(queries.len() > 20, "{queries:?}");
    let plain =
        |query: &str| query.replace("$__rate_interval", "5m").replace("$__range", "1d").replace("$instance", ".*");
    let rule = |(at, query): (usize, &String)| {
        format!("  - record: query:{at}\n    expr: {}\n", serde_json::json!(plain(query)))
    };
    let rules: String = queries.iter().enumerate().map(rule).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("groups:\n- name: dashboard\n  rules:\n{rules}")).unwrap();
    let said = promtool(&["check", "rules", file.path().to_str().unwrap()], "");
    assert!(said.contains(&format!("{} rules found", queries.len())), "{said}");
    let alerts = std::fs::read_to_string(deployed("prometheus/alerts.yml")).unwrap();
    let asked = queries.join("\n") + &alerts;
    let words = asked.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    for word in words.filter(|word| word.starts_with("attendance_backup_")) {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        let is_known = known.contains(word) || family.is_some_and(|family| known.contains(family));
        assert!(is_known, "{word} is asked for, and there is no such metric");
    }
}

/// While a backup reads, nobody can begin the WAL anew: by how much it grew is told, and how long the writers waited.
#[test]
fn what_a_backup_costs_the_app_is_measured() {
    let place = Place::new();
    place.fill(20);
    let writer = place.writer(0.0);
    // They may have no time while it reads.
    let (details, grown) = eventually("a commit meanwhile", || {
        place.create();
        let is_outcome = |line: &Value| line["kind"] == "outcome" && line["operation"] == "create";
        let details = place.audit().into_iter().rfind(is_outcome).unwrap()["details"].clone();
        let grown = details["walGrown"]["attendance"].as_u64().unwrap();
        (grown > 0).then_some((details, grown))
    });
    let written = writer.stop();
    assert_eq!(written.errors, [""; 0]);
    let wal = place.path("attendance.db-wal").metadata().map_or(u64::MAX, |meta| meta.len());
    assert!((4096..=wal).contains(&grown), "{details}: {wal}");
    let barrier = details["barrierMicros"].as_u64().unwrap();
    assert!((1..5_000_000).contains(&barrier) && details["seconds"].as_f64().unwrap() > 0.0, "{details}");
}

#[test]
fn promtool_takes_the_alerts_and_they_fire_and_recover() {
    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["test", "rules", "alerts.test.yml"], "");
    promtool(&["check", "config", "--syntax-only", "scrape.yml"], "");
    let alerts = std::fs::read_to_string(deployed("prometheus/alerts.yml")).unwrap();
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring.md")).unwrap();
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(page.contains(&format!("`{alert}`")), "{alert} is not in docs/monitoring.md");
    }
}

/// Of a series that begins with its first failure Prometheus sees no increase.
#[test]
fn what_an_alert_sees_rise_is_there_before_anything_happens() {
    let mut place = Place::new();
    place.set("BACKUP_METRICS", "true");
    let server = Server::start(&place);
    let told = server.get("/metrics").text();
    let alerts = std::fs::read_to_string(deployed("prometheus/alerts.yml")).unwrap();
    let mut rises = 0;
    for asked in alerts.split("increase(").skip(1).map(|rest| rest.split_once('[').unwrap().0) {
        let Some((metric, labels)) = asked.strip_suffix('}').and_then(|asked| asked.split_once('{')) else { continue };
        let labels = labels.split(',').map(|label| label.split_once('=').unwrap());
        let choices: Vec<(&str, Vec<&str>)> =
            labels.map(|(name, values)| (name, values.trim_matches(['~', '"']).split('|').collect())).collect();
        // Each value of one label, with some value of the others.
        for (name, value) in choices.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value))) {
            let has = |line: &&str| {
                let others = choices.iter().filter(|(other, _)| other != name);
                let mut others =
                    others.map(|(other, values)| values.iter().any(|it| line.contains(&format!("{other}=\"{it}\""))));
                line.starts_with(metric) && line.contains(&format!("{name}=\"{value}\"")) && others.all(|is| is)
            };
            assert!(told.lines().any(|line| has(&line)), "{metric} of {name} {value} is not there from the start");
            rises += 1;
        }
    }
    assert!(rises >= 8, "{rises}");
}

#[test]
fn its_token_and_no_other_opens_it() {
    let mut place = Place::new();
    place.set("BACKUP_METRICS", "true").set("BACKUP_METRICS_TOKEN", TOKEN).set("BACKUP_ENABLED", "true");
    let server = Server::start(&place);
    let ask = |header: &str| server.request("GET", "/metrics").header("Authorization", header).send();
    let superuser = format!("Bearer {}", superuser());
    for header in
        [&superuser, "", TOKEN, &format!("Bearer {TOKEN}x"), &format!("Basic {TOKEN}"), &format!("Bearer  {TOKEN}")]
    {
        let refused = ask(header);
        refused.problem(401, "unauthenticated");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    server.request("GET", "/metrics").send().problem(401, "unauthenticated");
    let twice = server.request("GET", "/metrics").token(TOKEN).token(TOKEN).send();
    twice.problem(401, "unauthenticated");
    let text = ask(&format!("bearer {TOKEN}")).text();
    assert!(
        text.contains("\nattendance_backup_next_run_timestamp_seconds ")
            && text.contains("\nattendance_backup_scheduled 1\n"),
        "{text}"
    );
    assert_eq!(server.request("HEAD", "/metrics").token(TOKEN).send().status, 200);
    // It opens nothing else.
    server.request("GET", "/api/backup/list").token(TOKEN).send().problem(401, "unauthenticated");
    // Who guesses has to wait, who knows it doesn't.
    let answers: Vec<_> = (0..40).map(|_| ask("Bearer guess-guess-guess").status).collect();
    assert!(answers.contains(&429) && answers.iter().all(|status| [401, 429].contains(status)), "{answers:?}");
    assert_eq!(ask(&format!("Bearer {TOKEN}")).status, 200);
    assert!(!server.stop().contains(TOKEN));
}
