//! Settings that can't be honoured stop the start and say so; what may be secret is in no output and in no file of ours.

use std::collections::BTreeSet;
use std::path::PathBuf;

use attendance_backup::config::REPLICA_VARIABLES;
use serde_json::{Value, json};

use crate::client::{Answer, HS256, Request, Server, sign_with, token, user};
use crate::door::afresh;
use crate::harness::{PROGRAM, Place, Run, SECRET, tree};

/// A value that each variable doesn't allow, and what is said to be allowed.
const BAD: &[(&str, &[&str], &str)] = &[
    ("BACKUP_ENABLED", &["yes", "", "1", "TRUE"], "true or false"),
    ("BACKUP_SCHEDULE_HOUR", &["24", "-1", "+2", "2.5", "", "two", "99999999999"], "from 0 to 23"),
    ("BACKUP_SCHEDULE_MINUTE", &["60", "-0", " 5"], "from 0 to 59"),
    ("BACKUP_TIMEZONE", &["Mars/Olympus", "", "+02:00", "CEST+1"], "IANA time zone"),
    ("BACKUP_RETENTION_DAILY", &["0", "367", "seven"], "from 1 to 366"),
    ("BACKUP_RETENTION_WEEKLY", &["521", "-4"], "from 0 to 520"),
    ("BACKUP_RETENTION_MONTHLY", &["241", "1e1"], "from 0 to 240"),
    ("BACKUP_RETENTION_MANUAL", &["0", "1001"], "from 1 to 1000"),
    ("BACKUP_RETENTION_PRE_RESTORE", &["1", "0", "101"], "from 2 to 100"),
    ("BACKUP_DIRECTORY", &[""], "the path of a folder"),
    ("BACKUP_STORE_ID", &["", "a b", "../x"], "storeId"),
    (
        "BACKUP_DATABASES",
        &[
            "",
            "attendance",
            "attendance=",
            "Big=/x.db",
            "a-b=/x.db",
            "a=/x.db,a=/y.db",
            "a=/x.db,",
            "../a=/x.db",
            "=/x.db",
        ],
        "name=path pairs",
    ),
    ("BACKUP_BIND", &["8080", "localhost:8080", ""], "an address and a port"),
    (
        "BACKUP_PUBLIC_URL",
        &["school.example", "ftp://school.example", "https://a:b@school.example"],
        "reach this service",
    ),
    ("BACKUP_JWT_PREVIOUS_UNTIL", &["soon", "2026-03-01", ""], "the instant until which"),
    ("BACKUP_JWT_ALGORITHM", &["none", "HS512", "hs256", ""], "HS256, RS256, ES256 or EdDSA"),
    ("BACKUP_JWT_AUDIENCE", &[""], "1 to 200 characters"),
    ("BACKUP_JWT_ISSUER", &[""], "1 to 200 characters"),
    ("BACKUP_JWT_SUBJECT_CLAIM", &["", "user id"], "a name of 1 to 64 letters"),
    ("BACKUP_JWT_COOKIE", &["", "a=b", "a;b"], "a cookie's name"),
    ("BACKUP_SUPERUSER_CLAIM", &["", "is admin"], "a name of 1 to 64 letters"),
    ("BACKUP_SUPERUSER_VALUE", &[""], "1 to 200 characters"),
    ("BACKUP_DOWNLOADS_PER_MINUTE", &["0", "1001", "ten"], "from 1 to 1000"),
    ("BACKUP_TRUSTED_PROXIES", &["", "proxy", "10.0.0.0/33"], "addresses and networks"),
    ("BACKUP_LOCK_TIMEOUT", &["50ms", "11m", "30", "-5s", ""], "from 100ms to 10m"),
    ("BACKUP_ROLLBACK_HOLD", &["99ms", "61s", "never"], "from 100ms to 1m"),
    ("BACKUP_RESTORE_HOLD", &["99ms", "61s", "never"], "from 100ms to 1m"),
    ("BACKUP_CHECK", &["none", "Quick", ""], "quick or integrity"),
    ("BACKUP_STALE_AFTER", &["59s", "366d", "26"], "from 1m to 365d"),
    ("BACKUP_SHRINK_ALARM", &["0", "101", "50%"], "from 1 to 100"),
    ("BACKUP_DRILL_SCHEDULE", &["hourly", "Weekly", ""], "off, daily, weekly or monthly"),
    ("BACKUP_PITR", &["yes", "", "1"], "true or false"),
    ("BACKUP_PITR_INTERVAL", &["1", "50ms", ""], "a duration from 100ms to 1h, such as 1s"),
    ("BACKUP_PITR_RETENTION", &["7", "30m", "2y"], "a duration from 1h to 366d, such as 7d"),
    ("BACKUP_PITR_SNAPSHOT_EVERY", &["59s", "31d", "daily"], "a duration from 1m to 30d, such as 1d"),
    ("BACKUP_COMPRESSION", &["gzip", "ZSTD", ""], "none or zstd"),
    ("BACKUP_COMPRESSION_LEVEL", &["0", "20", "max"], "from 1 to 19"),
    ("BACKUP_ENCRYPT_LOCAL", &["yes", "", "1"], "true or false"),
    ("BACKUP_ENCRYPTION_RECIPIENTS", &["", "age1", "ssh-ed25519 AAAA", "a, b"], "recipients of age"),
    ("BACKUP_ENCRYPTION_IDENTITY_FILE", &[""], "the path of a file with identities of age"),
    ("BACKUP_EMAIL_FROM", &["", "nobody", "a@b.example, c@d.example"], "an address"),
    ("BACKUP_EMAIL_TO", &["", "nobody", "a@b.example,,"], "1 to 20 addresses"),
    ("BACKUP_WEBHOOK_FORM", &["", "teams", "JSON"], "auto, json, ntfy, slack or discord"),
    ("BACKUP_NOTIFY_PRIVATE", &["", "yes", "1"], "true or false"),
    ("BACKUP_NOTIFY_CA", &["", "a file", "-----BEGIN PRIVATE KEY-----"], "certificates in PEM"),
    ("BACKUP_METRICS", &["yes", "", "1"], "true or false"),
    ("BACKUP_LOG", &["loud", "INFO", ""], "error, warn, info, debug or trace"),
    ("BACKUP_LOG_FORMAT", &["xml", "JSON"], "text or json"),
];

/// What ends up where the public one belongs.
const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// The same of secrets, which are not shown.
const BAD_SECRETS: &[(&str, &[&str], &str)] = &[
    (
        "BACKUP_JWT_SECRET",
        &[
            "only-31-bytes-long-1234567890-x",
            "my-super-secret-jwt-token-with-at-least-32-characters-long",
            "change_me_change_me_change_me_change_me",
            "your-256-bit-EXAMPLE-key-goes-in-here-please",
            "11111111111111111111111111111111111111111111",
        ],
        "a random text of 32 to 1024 bytes",
    ),
    ("BACKUP_METRICS_TOKEN", &["only-15-letters", "sixteen letters and spaces"], "a random text of 16 to 1024"),
    ("BACKUP_JWT_PREVIOUS_SECRET", &["short"], "a random text of 32 to 1024 bytes"),
    ("BACKUP_JWT_PUBLIC_KEY", &["", "ssh-ed25519 AAAA", PRIVATE_KEY], "a public key in PEM"),
    ("BACKUP_JWT_PREVIOUS_PUBLIC_KEY", &["", PRIVATE_KEY], "a public key in PEM"),
    (
        "BACKUP_SMTP_URL",
        &["canary.example", "https://canary.example", "smtp://canary.example?tls=off"],
        "smtp://user@host",
    ),
    ("BACKUP_SMTP_PASSWORD", &["canary\ncanary"], "on one line"),
    ("BACKUP_WEBHOOK_URL", &["canary.example", "file:///canary"], "an address such as"),
    ("BACKUP_WEBHOOK_SECRET", &["canary"], "a random text of 16"),
    ("BACKUP_HEALTHCHECK_URL", &["canary.example"], "an address such as"),
];

#[test]
fn every_variable_refuses_what_it_does_not_allow() {
    let place = Place::new();
    let listed = place.ok(&["config"]).stdout;
    let listed: BTreeSet<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let tried: BTreeSet<&str> = BAD.iter().chain(BAD_SECRETS).map(|(name, ..)| *name).collect();
    assert_eq!(listed, tried, "each variable wants a bad value here");
    let refuse = |name: &str, value: &str, allowed: &str| {
        let run = Run::of(place.command(&["status"]).env(name, value).output().unwrap());
        assert_eq!(run.stdout, "", "{name}={value}");
        run.refused(2, &[name, "is not allowed", allowed]);
        run
    };
    for (name, values, allowed) in BAD {
        values.iter().for_each(|value| refuse(name, value, allowed).refused(2, &[value]));
    }
    for (name, values, allowed) in BAD_SECRETS {
        for value in values.iter().filter(|value| !value.is_empty()) {
            assert!(!refuse(name, value, allowed).stderr.contains(value), "{name} is shown");
        }
    }
    assert!(!place.backups().exists(), "something was made in spite of it");
}

/// A mail has its recipients in lines, and a request its address: whatever ends one begins another.
#[test]
fn nobody_that_is_told_of_anything_has_a_line_end_in_his_address() {
    let place = Place::new();
    for (name, value) in [
        ("BACKUP_EMAIL_FROM", "a@b.example{}Bcc: eve@evil.example"),
        ("BACKUP_EMAIL_FROM", "Ada{}Bcc: eve@evil.example <a@b.example>"),
        ("BACKUP_EMAIL_TO", "a@b.example{}RCPT TO:<eve@evil.example>"),
        ("BACKUP_EMAIL_TO", "a@b.example,{}eve@evil.example{}"),
        ("BACKUP_SMTP_URL", "smtp://ada{}AUTH@mail.example"),
        ("BACKUP_SMTP_URL", "smtp://mail.example{}"),
        ("BACKUP_WEBHOOK_URL", "https://hook.example/a{}X-Evil: 1"),
        ("BACKUP_WEBHOOK_URL", "https://hook.example{}.evil.example/"),
        ("BACKUP_HEALTHCHECK_URL", "https://ping.example/a{}{}GET /b"),
        ("BACKUP_PUBLIC_URL", "https://school.example/{}X-Evil: 1"),
    ] {
        for end in ["\r\n", "\n", "\r"] {
            let value = value.replace("{}", end);
            let run = Run::of(place.command(&["status"]).env(name, &value).output().unwrap());
            run.refused(2, &[name, "is not allowed"]);
        }
    }
}

/// The same of replicas, whose names stand in their variables.
const BAD_OF_REPLICAS: &[(&str, &[&str], &str)] = &[
    ("MODE", &["", "delta"], "full or incremental"),
    ("BANDWIDTH", &["", "1", "1MB", "0KiB"], "a size per second from 1KiB to 1024GiB"),
    ("TIMEOUT", &["", "30", "11m"], "from 100ms to 10m"),
    ("RETENTION_DAILY", &["", "0", "367"], "from 1 to 366"),
    ("RETENTION_WEEKLY", &["521", "x"], "from 0 to 520"),
    ("RETENTION_MONTHLY", &["241"], "from 0 to 240"),
    ("RETENTION_MANUAL", &["0", "1001"], "from 1 to 1000"),
    ("RETENTION_PRE_RESTORE", &["1"], "from 2 to 100"),
];
const SECRETS_OF_REPLICAS: &[&str] =
    &["ACCESS_KEY", "SECRET_KEY", "USERNAME", "PASSWORD", "CLIENT_ID", "CLIENT_SECRET", "REFRESH_TOKEN"];

#[test]
fn every_variable_of_a_replica_refuses_what_it_does_not_allow() {
    let place = Place::new();
    let tried = BAD_OF_REPLICAS.iter().map(|(end, ..)| *end).chain(SECRETS_OF_REPLICAS.iter().copied());
    let known: BTreeSet<&str> =
        REPLICA_VARIABLES.iter().map(|variable| variable.env).filter(|end| *end != "URL").collect();
    assert_eq!(tried.collect::<BTreeSet<_>>(), known, "each variable wants a bad value here");
    let run = |environment: &[(&str, &str)]| {
        Run::of(place.command(&["status"]).envs(environment.iter().copied()).output().unwrap())
    };
    let url = ("BACKUP_REPLICA_NAS_URL", "fs:///mnt/nas");
    for (end, values, allowed) in BAD_OF_REPLICAS {
        let name = format!("BACKUP_REPLICA_NAS_{end}");
        for value in *values {
            run(&[url, (&name, value)]).refused(2, &[&name, value, "is not allowed", allowed]);
        }
    }
    let line = format!("{CANARY}\n{CANARY}");
    for end in SECRETS_OF_REPLICAS {
        let name = format!("BACKUP_REPLICA_NAS_{end}");
        for (value, words) in [(line.as_str(), "on one line"), (CANARY, "has no use for it")] {
            let refused = run(&[url, (&name, value)]);
            refused.refused(2, &[&name, words]);
            assert!(!refused.stderr.contains(CANARY), "{name} is shown");
        }
    }
    for url in [format!("s3://{CANARY}:{CANARY}@bucket"), format!("webdavs://host/?password={CANARY}")] {
        let refused = run(&[("BACKUP_REPLICA_NAS_URL", &url)]);
        refused.refused(2, &["BACKUP_REPLICA_NAS_URL", "credentials do not belong into the URL"]);
        assert!(!refused.stderr.contains(CANARY), "{url} is shown");
    }
    assert!(!place.backups().exists(), "something was made in spite of it");
}

#[test]
fn names_that_mean_nothing_stop_the_start() {
    let place = Place::new();
    let run = |name, value: &str| Run::of(place.command(&["create"]).env(name, value).output().unwrap());
    run("BACKUP_RETENTION_DAYLY", "5").refused(2, &["BACKUP_RETENTION_DAYLY", "did you mean BACKUP_RETENTION_DAILY?"]);
    run("BACKUP_NONSENSE", "5").refused(2, &["BACKUP_NONSENSE is not a setting of this version"]);
    run("BACKUP_CONFIG_FILE", "/nowhere/backup.toml").refused(2, &["BACKUP_CONFIG_FILE", "/nowhere/backup.toml"]);
    run("BACKUP_CHECK_FILE", "/nowhere/check").refused(2, &["BACKUP_CHECK_FILE", "/nowhere/check"]);
    std::fs::write(place.path("toml"), "retention.dayly = 3").unwrap();
    run("BACKUP_CONFIG_FILE", place.path("toml").to_str().unwrap())
        .refused(2, &["retention.dayly", "retention.daily?"]);
    std::fs::write(place.path("check"), "quick").unwrap();
    let check = place.path("check").display().to_string();
    let both = place.command(&["create"]).env("BACKUP_CHECK_FILE", check).env("BACKUP_CHECK", "quick").output();
    Run::of(both.unwrap()).refused(2, &["BACKUP_CHECK and BACKUP_CHECK_FILE are both set"]);
}

/// In no output of ours may this be.
const CANARY: &str = "c4n4ry-5ecret";
/// Nor this.
const METRICS_TOKEN: &str = "n0b0dy-5-f1gur35";
const FORM: &str = "application/x-www-form-urlencoded";

/// Places that hold secrets, each with the exit code that follows.
fn planted(place: &Place) -> Vec<(Vec<(&'static str, String)>, i32)> {
    let file = |name: &str, text: String| -> String {
        std::fs::write(place.path(name), text).unwrap();
        place.path(name).display().to_string()
    };
    let toml = "BACKUP_CONFIG_FILE";
    vec![
        (vec![("BACKUP_SMTP_PASSWORD", CANARY.to_owned())], 2),
        (vec![("BACKUP_SMTP_URL", format!("smtp://{CANARY}@mail.example"))], 2),
        (vec![("BACKUP_JWT_SECRET_FILE", file("jwt", CANARY.to_owned()))], 2),
        (vec![("BACKUP_CHECK_FILE", file("check", CANARY.to_owned()))], 2),
        (vec![("BACKUP_DATABASES_FILE", file("databases", CANARY.to_owned())), ("BACKUP_DATABASES", String::new())], 2),
        (vec![(toml, file("broken", format!("check = \"quick\"\nsecret = \"{CANARY}\" {CANARY}")))], 2),
        (vec![(toml, file("unknown", format!("smtp_password = \"{CANARY}\"")))], 2),
        (vec![(toml, file("nested", format!("[retention.daily]\nsecret = \"{CANARY}\"")))], 2),
        (vec![(toml, file("database", format!("SQLite format 3\0{CANARY}")))], 2),
        (
            vec![
                ("AWS_SECRET_ACCESS_KEY", CANARY.to_owned()),
                ("SMTP_PASSWORD", CANARY.to_owned()),
                ("RUST_LOG", format!("trace,{CANARY}=trace")),
                // Nobody answers there.
                ("BACKUP_REPLICA_EU1_URL", "s3://school/b?endpoint=http://127.0.0.1:9".to_owned()),
                ("BACKUP_REPLICA_EU1_ACCESS_KEY", CANARY.to_owned()),
                ("BACKUP_REPLICA_EU1_SECRET_KEY", CANARY.to_owned()),
                // Nor there, whoever they would be.
                ("HTTPS_PROXY", "http://127.0.0.1:9".to_owned()),
                ("BACKUP_REPLICA_DRIVE_URL", "gdrive:///b".to_owned()),
                ("BACKUP_REPLICA_DRIVE_CLIENT_ID", CANARY.to_owned()),
                ("BACKUP_REPLICA_DRIVE_CLIENT_SECRET", CANARY.to_owned()),
                ("BACKUP_REPLICA_DRIVE_REFRESH_TOKEN", CANARY.to_owned()),
                ("BACKUP_METRICS", "true".to_owned()),
                ("BACKUP_METRICS_TOKEN", format!("{CANARY}-of-the-metrics")),
                ("BACKUP_REPLICA_FROM_REFRESH_TOKEN_FILE", file("token", CANARY.to_owned())),
                ("BACKUP_REPLICA_FROM_PASSWORD", CANARY.to_owned()),
                ("BACKUP_LOG", "trace".to_owned()),
            ],
            0,
        ),
        (
            vec![
                // Nobody answers there.
                ("BACKUP_SMTP_URL", format!("smtp://{CANARY}@127.0.0.1:9")),
                ("BACKUP_SMTP_PASSWORD_FILE", file("smtp", CANARY.to_owned())),
                ("BACKUP_EMAIL_FROM", "backup@school.example".to_owned()),
                ("BACKUP_EMAIL_TO", "it@school.example".to_owned()),
                ("BACKUP_WEBHOOK_URL", format!("http://{CANARY}:{CANARY}@127.0.0.1:9/{CANARY}?{CANARY}")),
                ("BACKUP_WEBHOOK_SECRET", format!("{CANARY}-of-the-webhook")),
                ("BACKUP_HEALTHCHECK_URL", format!("http://127.0.0.1:9/{CANARY}")),
                ("BACKUP_NOTIFY_PRIVATE", "true".to_owned()),
                ("BACKUP_LOG", "trace".to_owned()),
            ],
            0,
        ),
        (vec![("BACKUP_REPLICA_NAS_PASSWORD", CANARY.to_owned())], 2),
        (vec![("BACKUP_REPLICA_NAS_SECRETKEY", CANARY.to_owned())], 2),
    ]
}

#[test]
fn what_may_be_secret_is_printed_by_no_command() {
    let place = Place::new();
    for (environment, code) in planted(&place) {
        // The last command deletes it.
        let id = place.create()["id"].as_str().unwrap().to_owned();
        for args in commands(&place, &id) {
            if args[0] == "serve" && code == 0 {
                assert!(!served(&place, &environment).contains(CANARY), "{environment:?} {args:?}");
                continue;
            }
            let run = Run::of(place.command(&[]).args(&args).envs(environment.clone()).output().unwrap());
            assert_eq!(run.code, code, "{environment:?} {args:?}: {}{}", run.stdout, run.stderr);
            assert!(!(run.stdout + &run.stderr).contains(CANARY), "{environment:?} {args:?}");
        }
        // It fails, for nobody is there or nothing is set up.
        let run = Run::of(place.command(&["notify", "test"]).envs(environment.clone()).output().unwrap());
        assert!(run.code != 0 && !(run.stdout + &run.stderr).contains(CANARY), "{environment:?}");
        for (file, _, dir) in tree(&place.backups()) {
            let holds = |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains(CANARY);
            assert!(dir || !holds(place.backups().join(&file)), "{environment:?}: it is in {file}");
        }
    }
    place.assert_whole();
}

/// All that `serve` prints, until it is told to stop.
fn served(place: &Place, environment: &[(&str, String)]) -> String {
    let mut command = place.command_of("sh");
    command.args(["-c", "exec \"$0\" serve >&2", PROGRAM]).envs(environment.iter().cloned());
    let server = Server::of(&mut command, place.path("serve.log"));
    // Time to say what it shouldn't.
    std::thread::sleep(std::time::Duration::from_secs(1));
    server.stop()
}

/// Every command, in an order that lets each go well.
pub fn commands(place: &Place, id: &str) -> Vec<Vec<String>> {
    let out = place.path("out");
    let _ = std::fs::remove_file(&out);
    let download = format!("download {id} -o {}", out.display());
    let lines = [
        "create",
        "create --json --reason why",
        "list",
        "list --json",
        "verify --all",
        "drill",
        "status",
        "status --json",
        "doctor",
        "config",
        "config --json",
        "config --set retention.daily=9",
        "audit verify",
        "catalog rebuild",
        &download,
    ];
    let last = [format!("pin {id}"), format!("unpin {id}"), "serve".to_owned(), format!("delete {id}")];
    let lines = lines.iter().map(|line| line.to_string()).chain(last);
    lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

#[test]
fn a_value_from_a_file_counts_and_is_not_shown() {
    let mut place = Place::new();
    let file = place.path("hold");
    std::fs::write(&file, "17s\n").unwrap();
    place.unset("BACKUP_ROLLBACK_HOLD").set("BACKUP_ROLLBACK_HOLD_FILE", file.to_str().unwrap());
    let shown = place.ok(&["config"]).stdout;
    let line = shown.lines().find(|line| line.starts_with("BACKUP_ROLLBACK_HOLD ")).unwrap();
    assert!(line.contains("(read from a file)") && line.ends_with("env") && !shown.contains("17s"), "{shown}");
    let json: Value = place.json(&["config"]);
    assert_eq!(json["sources"]["rollbackHold"], "env");
    assert!(!json.to_string().contains("17s"));
}

/// Keys and tokens pass through the server's hands, with each level of logging and in each form.
#[test]
fn keys_and_tokens_are_in_no_answer_no_log_and_no_file() {
    let previous = "5d0c2f6b8a914e3790cc1fbe26d7a4083b5e9d17";
    for format in ["text", "json"] {
        let mut place = Place::new();
        place.set("BACKUP_LOG", "trace").set("BACKUP_LOG_FORMAT", format).set("BACKUP_TRUSTED_PROXIES", "127.0.0.1");
        place.set("BACKUP_JWT_PREVIOUS_SECRET", previous).set("BACKUP_JWT_PREVIOUS_UNTIL", "2999-01-01T00:00:00Z");
        place.set("BACKUP_METRICS", "true").set("BACKUP_METRICS_TOKEN", METRICS_TOKEN);
        let server = Server::start(&place);
        let printed = place.ok(&["token"]);
        let code = place.json(&["token", "--link"])["code"].as_str().unwrap().to_owned();
        let tokens = [
            printed.stdout.trim().to_owned(),
            user(),
            token(json!({ "role": "superuser", "exp": 1 })),
            sign_with(previous, HS256, r#"{"sub":"ada"}"#),
            sign_with("of somebody else, and 32 bytes long", HS256, r#"{"sub":"ada"}"#),
            format!("{CANARY}.{CANARY}.{CANARY}"),
        ];
        let mut answers = knocks(&server, &tokens);
        let figures = afresh(server.request("GET", "/metrics")).token(METRICS_TOKEN).send();
        let by_code = afresh(server.request("POST", "/sign-in")).json(&json!({ "code": code })).send();
        assert_eq!((figures.status, by_code.status), (200, 200), "{}{}", figures.text(), by_code.text());
        answers.extend([figures, by_code]);
        let sessions: Vec<_> = answers.iter_mut().filter_map(session).collect();
        assert!(sessions.len() > 4, "{}", sessions.len());
        let key = std::fs::read_to_string(place.backups().join("session.key")).unwrap();
        let others = [METRICS_TOKEN.to_owned(), code, key];
        let rightly = |session: &String| {
            let ask = |method, path| {
                afresh(server.request(method, path)).header("Cookie", &format!("attendance-backup={session}"))
            };
            let ours = |request: Request| request.header("Sec-Fetch-Site", "same-origin").send();
            [ask("GET", "/settings/backups").header("Accept", "text/html").send(), ours(ask("POST", "/sign-out"))]
        };
        answers.extend(knocks(&server, &[&sessions[..2], &others].concat()));
        answers.extend(sessions.iter().flat_map(rightly));
        let mut seen: String = answers.into_iter().map(|it| format!("{:?}{}", it.headers, it.text())).collect();
        seen += &printed.stderr;
        for args in commands(&place, place.create()["id"].as_str().unwrap()) {
            // Another server would hold the directory no better.
            if args[0] != "serve" {
                let run = place.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
                seen += &(run.stdout + &run.stderr);
            }
        }
        let log = server.stop();
        assert!(log.contains("TRACE") && log.contains("answered") && seen.len() > 20_000, "{log}");
        seen += &log;
        for (file, _, dir) in tree(&place.backups()) {
            if !dir && file != "session.key" {
                seen += &String::from_utf8_lossy(&std::fs::read(place.backups().join(file)).unwrap());
            }
        }
        for secret in [SECRET, previous, CANARY].into_iter().chain(others.iter().map(String::as_str)) {
            assert!(!seen.contains(secret), "{format}: {secret}");
        }
        for part in tokens.iter().chain(&sessions).flat_map(|token| token.split('.').skip(1)) {
            assert!(!seen.contains(part), "{format}: {part}");
        }
        place.assert_whole();
    }
}

/// The session that an answer opens, which is taken out of it.
fn session(answer: &mut Answer) -> Option<String> {
    let at = answer.headers.iter().position(|(name, value)| name == "set-cookie" && !value.contains("Max-Age=0"))?;
    let (_, cookie) = answer.headers.remove(at);
    Some(cookie.split(['=', ';']).nth(1).unwrap().to_owned())
}

/// Each token wherever one may send it, rightly or wrongly.
fn knocks(server: &Server, tokens: &[String]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for token in tokens {
        let cookie = format!("backup_session={token}");
        let bearer = format!("Bearer {token}");
        let ask = |method: &str, path: &str| afresh(server.request(method, path));
        let requests = [
            ask("GET", "/api/backup/status").token(token),
            ask("GET", "/api/backup/config").token(token),
            ask("GET", "/api/backup/audit").token(token),
            ask("GET", "/api/backup/daily-2020-01-01").token(token),
            ask("GET", "/nowhere").token(token),
            ask("BREW", "/api/backup").token(token),
            ask("TRACE", "/api/backup/list").token(token),
            ask("POST", "/api/backup/create").token(token).json(&json!({ "reason": "by a token" })),
            ask("POST", "/api/backup/create").token(token).json(&json!({ "token": token })),
            ask("PUT", "/api/backup/config").token(token).header("If-Match", "\"x\"").body(b"{"),
            ask("GET", "/api/backup/list").header("Cookie", &cookie),
            ask("GET", "/api/backup/list").header("Cookie", &cookie).header("Cookie", &cookie),
            ask("POST", "/api/backup/create").header("Cookie", &cookie).header("Sec-Fetch-Site", "cross-site"),
            ask("GET", "/api/backup/list").header("Cookie", &format!("attendance-backup={token}")),
            ask("POST", "/sign-in").json(&json!({ "token": token })),
            ask("POST", "/sign-in").json(&json!({ "code": token })),
            ask("POST", "/sign-in").json(&json!({ "token": token, "code": token })),
            ask("POST", "/sign-in").json(&json!({ token: token })),
            ask("POST", "/sign-in").json(&json!(token)),
            ask("POST", "/sign-in").header("Content-Type", FORM).body(format!("token={token}").as_bytes()),
            ask("POST", "/sign-in").header("Content-Type", FORM).body(format!("code={token}&to={token}").as_bytes()),
            ask("POST", "/sign-out").token(token).header("Cookie", &format!("attendance-backup={token}")),
            ask("GET", "/metrics").token(token),
            ask("GET", &format!("/api/backup/list?access_token={token}")),
            ask("GET", &format!("/healthz?access_token={token}")),
            ask("GET", "/api/backup/list").token(token).token(token),
            ask("GET", "/api/backup/list").header("Authorization", &format!("Basic {token}")),
            ask("GET", "/api/backup/list").header("Proxy-Authorization", &bearer),
            ask("GET", "/api/backup/list").token(token).header("X-Long", &"x".repeat(20_000)),
            // What isn't HTTP any more.
            ask("GET", "/api/backup/list").token(token).header("Content-Length", "1x"),
            ask("GET", "/a b").token(token),
            ask("GET", "/").token(token).header("a b", "c"),
        ];
        answers.extend(requests.iter().map(Request::send));
    }
    answers
}
