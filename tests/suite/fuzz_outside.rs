//! What comes from outside: settings of whoever starts it, and tokens of whoever wants to come in.

use std::collections::BTreeMap;

use attendance_backup::clock::Clock;
use attendance_backup::config::{Config, VARIABLES};
use attendance_backup::token::Keyring;
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::Value;

use crate::client::{HS256, sign};
use crate::fuzz::{assert_told, cases, changed_text, corpus, document, lines};
use crate::harness::{AUDIENCE, SECRET};

/// In secrets only: where it shows, a secret shows.
const CANARY: &str = "c4n4ry";

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn keyring() -> Keyring {
    let environment = [("BACKUP_JWT_SECRET", SECRET), ("BACKUP_JWT_AUDIENCE", AUDIENCE)];
    let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Keyring::new(&Config::load(&environment).unwrap().access, &Clock::from_fn(now)).unwrap()
}

/// The text that the second part of a token is made of.
fn payload(token: &str) -> Vec<u8> {
    use base64::Engine;
    let part = token.split('.').nth(1).unwrap_or_default();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap_or_default()
}

proptest! {
    #![proptest_config(cases(600, "proptest-regressions/fuzz_outside.txt"))]

    #[test]
    fn a_setting(line in changed_text(lines("settings-lines")), at in any::<prop::sample::Index>()) {
        let value = line.split_once('=').map_or(line.as_str(), |(_, value)| value).replace('\0', "");
        let variable = match line.split_once('=').and_then(|(name, _)| VARIABLES.iter().find(|variable| variable.env == name)) {
            Some(variable) => variable,
            None => at.get(VARIABLES),
        };
        let value = if variable.secret { format!("{CANARY}{value}") } else { value };
        let environment = BTreeMap::from([(variable.env.to_owned(), value)]);
        match Config::load(&environment) {
            Ok(config) => prop_assert_eq!(config.settings.validate(), Ok(())),
            Err(error) => {
                assert_told(&error.to_string());
                prop_assert!(!error.to_string().contains(CANARY), "{}", error);
            }
        }
    }

    #[test]
    fn a_configuration_file(text in changed_text(corpus("toml").into_iter().map(|seed| String::from_utf8(seed).unwrap()).collect())) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup.toml");
        std::fs::write(&path, &text).unwrap();
        let environment = BTreeMap::from([("BACKUP_CONFIG_FILE".to_owned(), path.display().to_string())]);
        match Config::load(&environment) {
            Ok(config) => prop_assert_eq!(config.settings.validate(), Ok(())),
            Err(error) => {
                let told = error.to_string();
                prop_assert!(!told.is_empty() && told.len() < 8000, "{}", told);
                prop_assert!(!told.contains(CANARY), "{}", told);
            }
        }
    }

    #[test]
    fn a_token_that_was_changed(token in changed_text(lines("token"))) {
        let seeds = lines("token");
        if let Ok(caller) = keyring().check(&token) {
            prop_assert!(seeds.iter().any(|seed| payload(seed) == payload(&token)), "{} lets {:?} in", token, caller);
        }
    }

    #[test]
    fn a_payload_that_is_signed(bytes in document("payload")) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(caller) = keyring().check(&sign(HS256, &text)) {
            let claims: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(caller.superuser, claims["role"] == "superuser");
            prop_assert!(!caller.subject.is_empty() && !caller.subject.chars().any(char::is_control));
            prop_assert!(claims["exp"].as_i64().is_some_and(|exp| exp > now().timestamp() - 31), "{}", claims);
            let audience = &claims["aud"];
            let is_ours = audience == AUDIENCE || audience.as_array().is_some_and(|all| all.iter().any(|it| it == AUDIENCE));
            prop_assert!(is_ours, "{}", claims);
        }
    }
}
