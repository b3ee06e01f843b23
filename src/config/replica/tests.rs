use super::*;
use crate::backup::retention::Retention;

fn load(pairs: &[(&str, &str)]) -> Result<Config, Error> {
    Config::load(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn refusal(pairs: &[(&str, &str)]) -> String {
    match load(pairs) {
        Ok(_) => panic!("{pairs:?} was taken"),
        Err(error) => error.to_string(),
    }
}

const S3: [(&str, &str); 3] = [
    ("BACKUP_REPLICA_EU1_URL", "s3://school/backups?endpoint=http://127.0.0.1:9000&region=eu"),
    ("BACKUP_REPLICA_EU1_ACCESS_KEY", "canary-access"),
    ("BACKUP_REPLICA_EU1_SECRET_KEY", "canary-secret"),
];

#[test]
fn replicas_are_named_in_their_variables() {
    assert_eq!(load(&[]).unwrap().replicas, BTreeMap::new());
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let toml = "[replica.nas]\nurl = 'fs:///mnt/nas'\ntimeout = '5s'\nmode = 'incremental'\nretention_daily = 3\n[replica.eu1]\nbandwidth = '512KiB'\n";
    let (toml, token) = (file("toml", toml), file("token", "canary-token\n"));
    let mut given = S3.to_vec();
    given.extend([
        ("BACKUP_CONFIG_FILE", toml.as_str()),
        ("BACKUP_REPLICA_NAS_TIMEOUT", "7s"),
        ("BACKUP_REPLICA_NAS_RETENTION_MONTHLY", "0"),
        ("BACKUP_REPLICA_D_URL", "dropbox:///b"),
        ("BACKUP_REPLICA_D_CLIENT_ID", "canary-id"),
        ("BACKUP_REPLICA_D_CLIENT_SECRET", "canary-client"),
        ("BACKUP_REPLICA_D_REFRESH_TOKEN_FILE", &token),
    ]);
    let config = load(&given).unwrap();
    let names: Vec<_> = config.replicas.keys().map(ReplicaName::as_str).collect();
    assert_eq!(names, ["d", "eu1", "nas"]);
    let nas = &config.replicas[&"nas".parse().unwrap()];
    assert_eq!((nas.place.url(), nas.place.is_on_this_machine()), ("fs:///mnt/nas", true));
    assert_eq!(nas.pace, Pace { timeout: Duration::from_secs(7), bandwidth: None });
    assert_eq!(nas.mode, Mode::Incremental);
    let kept = nas.retention.over(&Retention::default());
    assert_eq!(kept, Retention { daily: 3, monthly: 0, ..Retention::default() });
    let eu1 = &config.replicas[&"eu1".parse().unwrap()];
    assert_eq!(eu1.mode, Mode::Full);
    assert_eq!(eu1.pace, Pace { timeout: Duration::from_secs(30), bandwidth: Some(512 << 10) });
    // Nothing secret in what is listed, nor in what is printed by mistake.
    assert!(!format!("{config:?}").contains("canary"), "{config:?}");
    let listed: Vec<_> =
        config.replica_values.iter().map(|it| (it.variable.as_str(), it.text.as_str(), it.origin)).collect();
    assert!(listed.contains(&("BACKUP_REPLICA_EU1_SECRET_KEY", "(set)", Origin::Env)), "{listed:?}");
    assert!(listed.contains(&("BACKUP_REPLICA_D_REFRESH_TOKEN", "(set)", Origin::Env)), "{listed:?}");
    assert!(listed.contains(&("BACKUP_REPLICA_NAS_URL", "fs:///mnt/nas", Origin::File)), "{listed:?}");
    assert!(config.replica_values.iter().any(|it| it.key == "replica.nas.retentionDaily"));
}

#[test]
fn from_holds_credentials_for_the_command_line() {
    let config = load(&[("BACKUP_REPLICA_FROM_PASSWORD", "canary"), ("BACKUP_REPLICA_FROM_TIMEOUT", "1s")]).unwrap();
    assert_eq!(config.replicas, BTreeMap::new());
    assert_eq!(config.elsewhere.credentials.password.as_deref(), Some("canary"));
    assert_eq!(config.elsewhere.pace.timeout, Duration::from_secs(1));
    for name in ["BACKUP_REPLICA_FROM_URL", "BACKUP_REPLICA_FROM_RETENTION_DAILY"] {
        let said = refusal(&[(name, "fs:///x")]);
        assert!(said.contains(name) && said.contains("FROM is no replica"), "{said}");
    }
}

/// Bad values of every variable: the name and what is allowed are said, and nothing secret is.
#[test]
fn bad_values_are_refused_by_name() {
    let bad: &[(&str, &[&str])] = &[
        ("ACCESS_KEY", &["", "canary\ncanary"]),
        ("SECRET_KEY", &["", "canary\0"]),
        ("USERNAME", &["", "canary\t"]),
        ("PASSWORD", &["", "canary\r"]),
        ("CLIENT_ID", &["", "canary\n"]),
        ("CLIENT_SECRET", &["", "canary\n"]),
        ("REFRESH_TOKEN", &["", "canary\n"]),
        ("MODE", &["", "delta", "Incremental"]),
        ("BANDWIDTH", &["", "1", "1MB", "0KiB", "MiB", "1.5MiB", "-1MiB", "2000GiB", "99999999999999999999GiB"]),
        ("TIMEOUT", &["", "30", "50ms", "11m"]),
        ("RETENTION_DAILY", &["", "0", "367", "-1", "x"]),
        ("RETENTION_WEEKLY", &["521"]),
        ("RETENTION_MONTHLY", &["241"]),
        ("RETENTION_MANUAL", &["0", "1001"]),
        ("RETENTION_PRE_RESTORE", &["1", "101"]),
    ];
    // The URL has a test of its own.
    assert_eq!(bad.len() + 1, REPLICA_VARIABLES.len(), "a variable has no bad value here");
    for (end, values) in bad {
        let variable = REPLICA_VARIABLES.iter().find(|variable| variable.env == *end).unwrap();
        let name = format!("BACKUP_REPLICA_NAS_{end}");
        for value in *values {
            let said = refusal(&[("BACKUP_REPLICA_NAS_URL", "fs:///mnt/nas"), (&name, value)]);
            assert!(said.contains(&name) && said.contains(variable.allowed) && !said.contains("canary"), "{said}");
        }
    }
}

#[test]
fn urls_that_lead_nowhere_are_refused() {
    for (url, words) in [
        ("", "it is no URL"),
        ("nas", "it is no URL"),
        ("/mnt/nas", "it is no URL"),
        ("ftp://host/x", "there is no store ftp:"),
        ("https://host/x", "there is no store https:"),
        ("fs://", "name the folder"),
        ("fs:///", "name the folder"),
        ("fs://mnt/nas", "write three slashes: fs:///mnt/nas"),
        ("fs:///mnt/nas?x=1", "write # as %23 and ? as %3F"),
        ("fs:///mnt/nas%00", "cannot be seen"),
        ("s3:///prefix", "name the bucket"),
        ("s3://b", "also needs BACKUP_REPLICA_NAS_ACCESS_KEY and BACKUP_REPLICA_NAS_SECRET_KEY"),
        ("s3://b?endpoint=ftp://x", "endpoint is an address"),
        ("s3://b?endpoint=http://x/y", "endpoint is an address"),
        ("s3://b?region=", "region is a name"),
        ("s3://b?bucket=x", "there may be endpoint= and region="),
        ("webdav:///x", "name the server"),
        ("webdavs://host/x?y", "write # as %23"),
        ("gdrive://folder", "write three slashes: gdrive:///folder"),
        ("dropbox:///b", "also needs BACKUP_REPLICA_NAS_CLIENT_ID and BACKUP_REPLICA_NAS_CLIENT_SECRET"),
    ] {
        let said = refusal(&[("BACKUP_REPLICA_NAS_URL", url)]);
        assert!(said.starts_with("BACKUP_REPLICA_NAS_URL: ") && said.contains(words), "{url}: {said}");
    }
    let said = refusal(&S3[..2]);
    assert!(said.contains("also needs BACKUP_REPLICA_EU1_SECRET_KEY"), "{said}");
}

#[test]
fn credentials_in_a_url_are_refused_and_not_shown() {
    for (url, variable) in [
        ("s3://canary:canary@b", "_ACCESS_KEY"),
        ("s3://b?secret_key=canary", "_SECRET_KEY"),
        ("s3://b?endpoint=http://canary:canary@host", "endpoint is an address"),
        ("webdavs://canary@host/x", "_USERNAME and BACKUP_REPLICA_NAS_PASSWORD"),
        ("webdavs://host/x?password=canary", "_PASSWORD"),
        ("gdrive:///x?refresh_token=canary", "_REFRESH_TOKEN"),
        ("fs://canary:canary@/x", "it is no URL"),
        ("fs:///x?token=canary", "a folder needs none"),
    ] {
        let said = refusal(&[("BACKUP_REPLICA_NAS_URL", url)]);
        assert!(said.contains(variable) && !said.contains("canary"), "{url}: {said}");
    }
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let nas = ("BACKUP_REPLICA_NAS_URL", "fs:///mnt/nas");
    for (pairs, words) in [
        (
            vec![nas, ("BACKUP_REPLICA_NAS_PASSWORD", "canary")],
            "BACKUP_REPLICA_NAS_PASSWORD: a store of this kind has no use for it",
        ),
        (vec![nas, ("BACKUP_REPLICA_OTHER_URL", nas.1)], "replica nas is there already"),
        (vec![("BACKUP_REPLICA_NAS_PASSWORD", "canary")], "BACKUP_REPLICA_NAS_URL: it is not set"),
        (vec![("BACKUP_REPLICA_nas_URL", nas.1)], "1 to 32 of A-Z and 0-9"),
        (vec![("BACKUP_REPLICA_URL", nas.1)], "BACKUP_REPLICA_URL is not a setting"),
        (vec![("BACKUP_REPLICA_NAS", nas.1)], "BACKUP_REPLICA_NAS is not a setting"),
        (
            vec![("BACKUP_REPLICA_NAS_SECRETKEY", "canary")],
            "BACKUP_REPLICA_NAS_SECRETKEY is not a setting of this version; did you mean SECRET_KEY?",
        ),
        (vec![nas, ("BACKUP_REPLICA_NAS_URL_FILE", "/nonexistent/x")], "cannot read"),
        (vec![nas, ("BACKUP_DIRECTORY", "/mnt/nas/backups")], "BACKUP_REPLICA_NAS_URL: it and BACKUP_DIRECTORY"),
        (vec![nas, ("BACKUP_DIRECTORY", "/mnt")], "set it to a place apart"),
    ] {
        let said = refusal(&pairs);
        assert!(said.contains(words) && !said.contains("canary"), "{said}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let file = |text: &str| {
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap()
    };
    let said = refusal(&[nas, ("BACKUP_REPLICA_NAS_URL_FILE", file("fs:///other"))]);
    assert!(said.contains("BACKUP_REPLICA_NAS_URL and BACKUP_REPLICA_NAS_URL_FILE are both set"), "{said}");
    for (text, words) in [
        ("[replica.nas]\nurll = 'canary'\n", "replica.nas.urll in the configuration file"),
        ("[replica.Nas]\nurl = 'fs:///x'\n", "replica.Nas.url in the configuration file"),
        ("[replica]\nurl = 'fs:///x'\n", "replica.url in the configuration file"),
        (
            "[replica.nas]\nurl = 'fs:///x'\ntimeout = 3\n",
            "replica.nas.timeout in the configuration file=\"3\" is not allowed",
        ),
        ("[replica.nas]\nurl = 'dropbox:///x'\n", "replica.nas.url in the configuration file: dropbox: also needs"),
    ] {
        let said = refusal(&[("BACKUP_CONFIG_FILE", file(text))]);
        assert!(said.contains(words) && !said.contains("canary"), "{said}");
    }
}
