use super::*;

fn load(pairs: &[(&str, &str)]) -> Result<Config, Error> {
    Config::load(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn refusal(name: &str, value: &str) -> String {
    match load(&[(name, value)]) {
        Ok(_) => panic!("{name}={value:?} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = load(&[]).unwrap();
    assert_eq!(config.settings.retention, Retention::default());
    assert_eq!((config.settings.schedule.hour, config.settings.schedule.minute), (2, 0));
    assert_eq!(config.settings.schedule.timezone, Tz::UTC);
    assert!(config.directory.ends_with("databases/backups") && config.directory.is_absolute());
    assert_eq!(config.databases.len(), 2);
    assert!(config.origins.values().all(|origin| *origin == Origin::Default));
}

/// Bad values of every variable: the name and what is allowed are said.
#[test]
fn bad_values_are_refused_by_name() {
    let bad: &[(&str, &[&str])] = &[
        ("BACKUP_ENABLED", &["", "yes", "1", "TRUE"]),
        ("BACKUP_SCHEDULE_HOUR", &["", "24", "-1", "2.0", "two", "+2", " 2"]),
        ("BACKUP_SCHEDULE_MINUTE", &["60", "0x1"]),
        ("BACKUP_TIMEZONE", &["", "Berlin", "CEST", "Europe/Berlin ", "../etc"]),
        ("BACKUP_RETENTION_DAILY", &["0", "-7", "367", "99999999999999999999"]),
        ("BACKUP_RETENTION_WEEKLY", &["-1", "x"]),
        ("BACKUP_RETENTION_MONTHLY", &["241"]),
        ("BACKUP_RETENTION_MANUAL", &["0"]),
        ("BACKUP_RETENTION_PRE_RESTORE", &["1"]),
        ("BACKUP_DIRECTORY", &[""]),
        ("BACKUP_STORE_ID", &["", "a b", "../x"]),
        ("BACKUP_DATABASES", &["", "attendance", "a=x,", "A=x", "a=x,a=y", "a=", "a/b=x", "=x"]),
        ("BACKUP_BIND", &["", "8080", "localhost:8080", "127.0.0.1"]),
        (
            "BACKUP_PUBLIC_URL",
            &["", "school.example", "ftp://x.example", "https://u:p@x.example", "https://x.example/?a=b"],
        ),
        (
            "BACKUP_JWT_SECRET",
            &["", "short", "change-me-change-me-change-me-change-me", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        ),
        ("BACKUP_JWT_PREVIOUS_SECRET", &["", "short"]),
        ("BACKUP_JWT_PUBLIC_KEY", &["", "a key", "-----BEGIN PRIVATE KEY-----"]),
        ("BACKUP_JWT_PREVIOUS_PUBLIC_KEY", &["a key"]),
        ("BACKUP_JWT_PREVIOUS_UNTIL", &["", "tomorrow", "2026-03-01"]),
        ("BACKUP_JWT_ALGORITHM", &["", "none", "hs256", "HS512"]),
        ("BACKUP_JWT_AUDIENCE", &["", "a\nb"]),
        ("BACKUP_JWT_ISSUER", &[""]),
        ("BACKUP_JWT_SUBJECT_CLAIM", &["", "a claim"]),
        ("BACKUP_JWT_COOKIE", &["", "a;b", "a b"]),
        ("BACKUP_SUPERUSER_CLAIM", &["", "ro le"]),
        ("BACKUP_SUPERUSER_VALUE", &[""]),
        ("BACKUP_DOWNLOADS_PER_MINUTE", &["0", "1001", "-1"]),
        ("BACKUP_TRUSTED_PROXIES", &["", "10.0.0.0/33", "proxy", "10.0.0.1,"]),
        ("BACKUP_LOCK_TIMEOUT", &["", "30", "0s", "11m", "-1s"]),
        ("BACKUP_ROLLBACK_HOLD", &["2h", "50ms"]),
        ("BACKUP_RESTORE_HOLD", &["2h", "50ms"]),
        ("BACKUP_CHECK", &["full", "Quick"]),
        ("BACKUP_STALE_AFTER", &["0s", "26"]),
        ("BACKUP_SHRINK_ALARM", &["0", "101", "50%"]),
        ("BACKUP_DRILL_SCHEDULE", &["", "hourly", "Weekly", "1"]),
        ("BACKUP_PITR", &["", "yes", "1"]),
        ("BACKUP_PITR_INTERVAL", &["", "1", "50ms", "2h"]),
        ("BACKUP_PITR_RETENTION", &["7", "30m", "2y"]),
        ("BACKUP_PITR_SNAPSHOT_EVERY", &["59s", "31d", "daily"]),
        ("BACKUP_COMPRESSION", &["", "gzip", "Zstd", "true"]),
        ("BACKUP_COMPRESSION_LEVEL", &["", "0", "20", "-5", "fast"]),
        ("BACKUP_ENCRYPT_LOCAL", &["", "yes", "1"]),
        ("BACKUP_ENCRYPTION_RECIPIENTS", &["", "age1", "ssh-ed25519 AAAA", ",", "age1yubikey1q", "#age1"]),
        ("BACKUP_ENCRYPTION_IDENTITY_FILE", &[""]),
        (
            "BACKUP_SMTP_URL",
            &[
                "",
                "mail.school.example",
                "https://mail.example",
                "smtp://",
                "smtp://mail.example/path",
                "smtp://mail.example?tls=off",
                "smtp://a%0d%0ab@mail.example",
                "smtp://mail%00.example",
            ],
        ),
        ("BACKUP_SMTP_PASSWORD", &["", "two\nlines"]),
        ("BACKUP_EMAIL_FROM", &["", "nobody", "a@b.example, c@d.example", "a@b.example\r\nBcc: x@y.example"]),
        ("BACKUP_EMAIL_TO", &["", "nobody", "a@b.example,,", "a@b.example\nBcc: x@y.example"]),
        (
            "BACKUP_WEBHOOK_URL",
            &[
                "",
                "hooks.example",
                "ftp://hooks.example",
                "https://",
                "file:///etc/passwd",
                "https://hooks.example/#x",
                "https://hooks.example/\r\nx",
            ],
        ),
        ("BACKUP_WEBHOOK_SECRET", &["", "short"]),
        ("BACKUP_WEBHOOK_FORM", &["", "teams", "JSON"]),
        ("BACKUP_HEALTHCHECK_URL", &["", "hc.example/ping", "gopher://hc.example"]),
        ("BACKUP_NOTIFY_PRIVATE", &["", "yes", "1"]),
        ("BACKUP_NOTIFY_CA", &["", "a file", "-----BEGIN PRIVATE KEY-----"]),
        ("BACKUP_METRICS", &["yes", ""]),
        ("BACKUP_METRICS_TOKEN", &["", "only-15-letters", "sixteen letters and spaces"]),
        ("BACKUP_LOG", &["loud", "info,sqlite=debug"]),
        ("BACKUP_LOG_FORMAT", &["xml"]),
    ];
    assert_eq!(bad.len(), VARIABLES.len(), "a variable has no bad value here");
    for (name, values) in bad {
        let allowed = Variable::find(name).unwrap().allowed;
        for value in *values {
            let said = refusal(name, value);
            assert!(said.contains(name) && said.contains(allowed), "{said}");
        }
    }
}

#[test]
fn unknown_names_are_refused_without_their_value() {
    let said = refusal("BACKUP_RETENTION_DALY", "canary-7f3a");
    assert!(said.contains("BACKUP_RETENTION_DAILY") && !said.contains("canary"), "{said}");
    let said = refusal("BACKUP_JWT_SECRTE", "canary-7f3a");
    assert!(said.contains("BACKUP_JWT_SECRTE") && !said.contains("canary"), "{said}");
}

#[test]
fn a_value_may_come_from_a_file_and_is_then_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hour");
    std::fs::write(&path, "23\n").unwrap();
    let name = path.to_str().unwrap();
    let config = load(&[("BACKUP_SCHEDULE_HOUR_FILE", name)]).unwrap();
    assert_eq!(config.settings.schedule.hour, 23);
    assert_eq!(config.origins["schedule.hour"], Origin::Env);
    std::fs::write(&path, "canary-7f3a").unwrap();
    let said = refusal("BACKUP_SCHEDULE_HOUR_FILE", name);
    assert!(said.contains("BACKUP_SCHEDULE_HOUR_FILE") && !said.contains("canary"), "{said}");
    let both = load(&[("BACKUP_SCHEDULE_HOUR_FILE", name), ("BACKUP_SCHEDULE_HOUR", "3")]);
    assert!(both.unwrap_err().to_string().contains("both set"));
    assert!(refusal("BACKUP_STORE_ID_FILE", "/nonexistent/x").contains("BACKUP_STORE_ID_FILE"));
}

#[test]
fn the_environment_wins_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup.toml");
    let toml = "check = 'integrity'\n[schedule]\nhour = 4\nminute = 30\n[databases]\nschool = '/data/a,b=c.db'\n";
    std::fs::write(&path, toml).unwrap();
    let name = path.to_str().unwrap();
    let config = load(&[("BACKUP_CONFIG_FILE", name), ("BACKUP_SCHEDULE_HOUR", "5")]).unwrap();
    assert_eq!((config.settings.schedule.hour, config.settings.schedule.minute), (5, 30));
    assert_eq!(config.check, CheckKind::Integrity);
    assert_eq!(config.databases.values().next().unwrap(), Path::new("/data/a,b=c.db"));
    assert_eq!(config.databases.len(), 1);
    assert_eq!(config.origins["schedule.minute"], Origin::File);
    assert_eq!(config.origins["databases"], Origin::File);
    let config = load(&[("BACKUP_CONFIG_FILE", name), ("BACKUP_DATABASES", "one=/x.db")]).unwrap();
    assert_eq!(config.databases.keys().next().unwrap().as_str(), "one");

    std::fs::write(&path, "[schedule]\nour = 4\n").unwrap();
    assert!(refusal("BACKUP_CONFIG_FILE", name).contains("schedule.our"));
    std::fs::write(&path, "canary = [\n").unwrap();
    assert!(!refusal("BACKUP_CONFIG_FILE", name).contains("canary"));
    std::fs::write(&path, "[schedule]\nhour = 77\n").unwrap();
    assert!(refusal("BACKUP_CONFIG_FILE", name).contains("schedule.hour in the configuration file=\"77\""));
}

#[test]
fn assertions_are_named_after_databases() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let (sql, toml) =
        (file("sql", "SELECT 7\n"), file("toml", "[drill]\nschedule = 'off'\n[drill.sql]\nauth = 'SELECT 2'\n"));
    let both = [("BACKUP_CONFIG_FILE", toml.as_str()), ("BACKUP_DRILL_SQL_ATTENDANCE_FILE", &sql)];
    let drill = load(&both).unwrap().drill;
    assert_eq!(drill.schedule, crate::backup::schedule::DrillSchedule::Off);
    let told: Vec<_> = drill.sql.iter().map(|(name, it)| (name.as_str(), it.sql.as_str(), it.text.as_str())).collect();
    assert_eq!(told, [("attendance", "SELECT 7", "(read from a file)"), ("auth", "SELECT 2", "SELECT 2")]);
    let drill = load(&[both[0], ("BACKUP_DRILL_SQL_AUTH", "SELECT 3")]).unwrap().drill;
    let (auth, wanted) = (drill.sql.values().next().unwrap(), "SELECT 3");
    assert_eq!(
        (auth.sql.as_str(), auth.variable.as_str(), auth.origin),
        (wanted, "BACKUP_DRILL_SQL_AUTH", Origin::Env)
    );
    // A database may be called so itself.
    let names = ("BACKUP_DATABASES", "a=/x.db,a_file=/y.db");
    let config = load(&[names, ("BACKUP_DRILL_SQL_A_FILE", "SELECT 4")]).unwrap();
    assert_eq!(
        config.drill.sql.iter().map(|(name, it)| (name.as_str(), it.sql.as_str())).collect::<Vec<_>>(),
        [("a_file", "SELECT 4")]
    );

    for (name, value, words) in [
        ("BACKUP_DRILL_SQL_STAFF", "SELECT 1", "no database of that name; it has attendance, auth"),
        ("BACKUP_DRILL_SQL_auth", "SELECT 1", "no database of that name"),
        ("BACKUP_DRILL_SQL_", "SELECT 1", "no database of that name"),
        ("BACKUP_DRILL_SQL_AUTH", " ", "one SQL statement"),
        ("BACKUP_DRILL_SQL_AUTH_FILE", "/nonexistent/x", "cannot read"),
    ] {
        let said = refusal(name, value);
        assert!(said.contains(name) && said.contains(words), "{said}");
    }
    let twice = load(&[("BACKUP_DRILL_SQL_AUTH", "SELECT 1"), ("BACKUP_DRILL_SQL_AUTH_FILE", &sql)]).unwrap_err();
    assert!(twice.to_string().contains("BACKUP_DRILL_SQL_AUTH and BACKUP_DRILL_SQL_AUTH_FILE are both set"), "{twice}");
    let said = refusal("BACKUP_CONFIG_FILE", &file("other", "[drill.sql]\nstaff = 'SELECT 1'\n"));
    assert!(said.contains("drill.sql.staff in the configuration file"), "{said}");
}

/// Two keys, each with the file of its secret half.
fn keys(dir: &Path) -> [(String, String); 2] {
    ["one", "two"].map(|name| {
        let pair = crate::codec::Keypair::generate(crate::clock::Clock::system().now());
        std::fs::write(dir.join(name), &pair.file).unwrap();
        (pair.recipient.to_string(), dir.join(name).display().to_string())
    })
}

#[test]
fn encryption_that_cannot_be_honoured_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [(one, file), (two, other)] = keys(dir.path());
    let (recipients, identity) = ("BACKUP_ENCRYPTION_RECIPIENTS", "BACKUP_ENCRYPTION_IDENTITY_FILE");
    assert!(refusal("BACKUP_ENCRYPT_LOCAL", "true").contains("set BACKUP_ENCRYPTION_RECIPIENTS"));
    let said = refusal(recipients, &format!("{one},{}", &two[..60]));
    assert!(said.contains("number 2 is none of those"), "{said}");
    let secret = std::fs::read_to_string(&file).unwrap().lines().last().unwrap().to_owned();
    let said = refusal(recipients, &format!("{one},{secret}"));
    assert!(said.contains("there is an identity") && !said.contains(&secret[20..]), "{said}");
    assert!(refusal(identity, "/nonexistent/x").contains("cannot read /nonexistent/x"));
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "# nothing\n").unwrap();
    assert!(refusal(identity, empty.to_str().unwrap()).contains("no identity in it"));
    std::fs::write(&empty, &secret[..70]).unwrap();
    let said = refusal(identity, empty.to_str().unwrap());
    assert!(said.contains("line 1 is not an identity") && !said.contains(&secret[20..70]), "{said}");
    let said = load(&[(recipients, &one), (identity, &other)]).unwrap_err().to_string();
    assert!(said.contains(identity) && said.contains("none of its identities") && said.contains(&two), "{said}");
}

#[test]
fn recipients_and_identities_come_from_lists_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let [(one, file), (two, _)] = keys(dir.path());
    let list = dir.path().join("recipients");
    std::fs::write(&list, format!("# the school\n{one}\r\n\n{two}\n{one}\n")).unwrap();
    let listed = [
        ("BACKUP_ENCRYPTION_RECIPIENTS_FILE", list.to_str().unwrap()),
        ("BACKUP_ENCRYPTION_IDENTITY_FILE", &file),
        ("BACKUP_ENCRYPT_LOCAL", "true"),
        ("BACKUP_COMPRESSION", "zstd"),
    ];
    let codec = load(&listed).unwrap().codec;
    assert_eq!(codec.recipients.iter().map(ToString::to_string).collect::<Vec<_>>(), [one.clone(), two.clone()]);
    assert_eq!((codec.form(), codec.level), (crate::backup::Form::CompressedEncrypted, Some(3)));
    assert_eq!(codec.identities.len(), 1);
    let codec = load(&[("BACKUP_ENCRYPTION_RECIPIENTS", &format!("{one}, {two}"))]).unwrap().codec;
    assert_eq!((codec.recipients.len(), codec.form()), (2, crate::backup::Form::Plain));
    // To read what was encrypted once, an identity alone will do.
    assert_eq!(load(&[listed[1]]).unwrap().codec.identities.len(), 1);
}

#[test]
fn tz_is_the_default_zone() {
    assert_eq!(load(&[("TZ", "Europe/Berlin")]).unwrap().settings.schedule.timezone, chrono_tz::Europe::Berlin);
    assert_eq!(load(&[("TZ", "CET-1CEST")]).unwrap().settings.schedule.timezone, Tz::UTC);
}

#[test]
fn browsers_trust_https_and_their_own_machine() {
    let trusted = |url: &str| load(&[("BACKUP_PUBLIC_URL", url)]).unwrap().public_url.unwrap().is_trustworthy();
    for url in
        ["https://a.example", "http://localhost:8080/x", "http://app.localhost", "http://127.0.0.2", "http://[::1]:1"]
    {
        assert!(trusted(url), "{url}");
    }
    for url in ["http://a.example", "http://localhost.example", "http://192.168.0.7:8080", "http://[fe80::1]"] {
        assert!(!trusted(url), "{url}");
    }
}
