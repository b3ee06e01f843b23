//! Replicas: where each is, what one shows there, how fast, and what it keeps. Each has its variables and its table in the TOML file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::{Config, Error, Origin, Values, Variable, content, nearest, whole};
use crate::backup::ReplicaName;
use crate::backup::replica::Mode;
use crate::backup::settings::{SavedRetention, bounds};
use crate::remote::{Credentials, Pace, Place};

/// How the variables of replicas begin; the name follows in capitals, then what it is.
pub(super) const VARIABLE: &str = "BACKUP_REPLICA_";
/// How the tables of replicas in the TOML file begin.
pub(super) const TABLE: &str = "replica.";
/// In place of a name: what `--from URL` shows to a place that is no replica of this configuration.
const FROM: &str = "from";

const SECRET: &str = "a text of 1 to 4096 characters on one line";

/// What there is to say of each replica: `env` without its beginning, `key` without the table's.
pub const REPLICA_VARIABLES: &[Variable] = &[
    plain(
        "URL",
        "url",
        "",
        "fs:///folder, s3://bucket/prefix?endpoint=https://…&region=…, webdavs://host/path, webdav://host/path, gdrive:///folder or \
         dropbox:///folder",
    ),
    secret("ACCESS_KEY", "access_key"),
    secret("SECRET_KEY", "secret_key"),
    secret("USERNAME", "username"),
    secret("PASSWORD", "password"),
    secret("CLIENT_ID", "client_id"),
    secret("CLIENT_SECRET", "client_secret"),
    secret("REFRESH_TOKEN", "refresh_token"),
    plain("MODE", "mode", "full", "full or incremental"),
    plain("BANDWIDTH", "bandwidth", "", "a size per second from 1KiB to 1024GiB, such as 1MiB"),
    plain("TIMEOUT", "timeout", "30s", "a duration from 100ms to 10m, such as 30s"),
    plain("RETENTION_DAILY", "retention_daily", "", "a whole number from 1 to 366"),
    plain("RETENTION_WEEKLY", "retention_weekly", "", "a whole number from 0 to 520"),
    plain("RETENTION_MONTHLY", "retention_monthly", "", "a whole number from 0 to 240"),
    plain("RETENTION_MANUAL", "retention_manual", "", "a whole number from 1 to 1000"),
    plain("RETENTION_PRE_RESTORE", "retention_pre_restore", "", "a whole number from 2 to 100"),
];

/// Whether that key of the TOML file is for nobody else to see.
pub(super) fn is_secret(key: &str) -> bool {
    let named = key.strip_prefix(TABLE).and_then(|key| key.split_once('.'));
    named.is_some_and(|(_, key)| REPLICA_VARIABLES.iter().any(|variable| variable.secret && variable.key == key))
}

const fn plain(env: &'static str, key: &'static str, default: &'static str, allowed: &'static str) -> Variable {
    Variable { env, key, default, allowed, secret: false }
}

const fn secret(env: &'static str, key: &'static str) -> Variable {
    Variable { env, key, default: "", allowed: SECRET, secret: true }
}

/// A copy of the backups elsewhere.
#[derive(Clone, PartialEq, Debug)]
pub struct Replica {
    /// Where, with credentials.
    pub place: Place,
    /// How fast.
    pub pace: Pace,
    /// How it holds what it is sent.
    pub mode: Mode,
    /// What it keeps; what isn't given is as here.
    pub retention: SavedRetention,
}

/// What `--from URL` shows, and how fast it goes.
#[derive(Clone, PartialEq, Debug)]
pub struct Elsewhere {
    /// Of any store.
    pub credentials: Credentials,
    /// How fast.
    pub pace: Pace,
}

/// A value of a replica's, as listings show it.
#[derive(Clone, PartialEq, Debug)]
pub struct Listed {
    /// Its variable in the environment.
    pub variable: String,
    /// Its key in listings in JSON.
    pub key: String,
    /// The value, or that there is one.
    pub text: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// All that is said of replicas.
pub(super) struct All {
    pub(super) replicas: BTreeMap<ReplicaName, Replica>,
    pub(super) elsewhere: Elsewhere,
    pub(super) listed: Vec<Listed>,
}

/// What was given for one replica, by the key of [`REPLICA_VARIABLES`].
#[derive(Default)]
struct Given {
    name: String,
    values: BTreeMap<&'static str, Value>,
}

struct Value {
    text: String,
    /// What it was called.
    called: String,
    origin: Origin,
    hidden: bool,
}

impl Values {
    /// All replicas by name, what `--from` shows, and how listings show all that.
    pub(super) fn replicas(&self) -> Result<All, Error> {
        let mut given = self.given()?;
        let listed = given.values().flat_map(Given::listed).collect();
        let from = given.remove(FROM).unwrap_or_else(|| Given { name: FROM.to_owned(), values: BTreeMap::new() });
        let elsewhere = from.elsewhere()?;
        let mut replicas: BTreeMap<ReplicaName, Replica> = BTreeMap::new();
        for given in given.values() {
            let replica = given.replica()?;
            if let Some((other, _)) =
                replicas.iter().find(|(_, other)| other.place.identity() == replica.place.identity())
            {
                return Err(
                    given.trouble("url", &format!("replica {other} is there already; give each a place of its own"))
                );
            }
            let name = given.name.parse().map_err(|problem: String| given.trouble("url", &problem))?;
            replicas.insert(name, replica);
        }
        Ok(All { replicas, elsewhere, listed })
    }

    /// By name in lower case. The environment wins over the file, value by value.
    fn given(&self) -> Result<BTreeMap<String, Given>, Error> {
        let mut all: BTreeMap<String, Given> = BTreeMap::new();
        for (key, text) in self.file.iter().filter(|(key, _)| key.starts_with(TABLE)) {
            let called = format!("{key} in the configuration file");
            let (name, rest) = key[TABLE.len()..].split_once('.').unwrap_or((&key[TABLE.len()..], ""));
            let is_name = name.parse::<ReplicaName>().is_ok();
            let variable = REPLICA_VARIABLES.iter().find(|variable| variable.key == rest && is_name);
            let near = || nearest(rest, REPLICA_VARIABLES.iter().map(|variable| variable.key));
            let variable = variable.ok_or_else(|| Error::Unknown { name: called.clone(), near: near() })?;
            let value = Value { text: text.clone(), called, origin: Origin::File, hidden: variable.secret };
            all.entry(name.to_owned()).or_default().values.insert(variable.key, value);
        }
        for (called, text) in &self.env.replicas {
            let (name, variable, from_file) = taken_apart(called)?;
            let text = if from_file { content(called, Path::new(text))? } else { text.clone() };
            let value =
                Value { text, called: called.clone(), origin: Origin::Env, hidden: from_file || variable.secret };
            let before = all.entry(name).or_default().values.insert(variable.key, value);
            if let Some(before) = before.filter(|before| before.origin == Origin::Env) {
                let problem = format!("{} and {called} are both set; keep one", before.called);
                return Err(Error::Trouble { name: before.called, problem });
            }
        }
        all.iter_mut().for_each(|(name, given)| given.name.clone_from(name));
        Ok(all)
    }
}

/// The name in lower case, what of it, and whether that comes from a file.
fn taken_apart(called: &str) -> Result<(String, &'static Variable, bool), Error> {
    let (name, end) = called[VARIABLE.len()..].split_once('_').unwrap_or((&called[VARIABLE.len()..], ""));
    if !(1..=32).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
        let problem = "after BACKUP_REPLICA_ comes the replica's name, 1 to 32 of A-Z and 0-9, then _URL or another of its settings";
        return Err(Error::Trouble { name: called.to_owned(), problem: problem.to_owned() });
    }
    let find = |end: &str| REPLICA_VARIABLES.iter().find(|variable| variable.env == end);
    let found = find(end).map(|it| (it, false)).or_else(|| Some((find(end.strip_suffix("_FILE")?)?, true)));
    let near = || nearest(end, REPLICA_VARIABLES.iter().map(|variable| variable.env));
    let (variable, from_file) = found.ok_or_else(|| Error::Unknown { name: called.to_owned(), near: near() })?;
    Ok((name.to_ascii_lowercase(), variable, from_file))
}

impl Given {
    fn replica(&self) -> Result<Replica, Error> {
        let Some(url) = self.values.get("url") else {
            return Err(self
                .trouble("url", "it is not set, and the replica has other settings; set it to where the replica is"));
        };
        let place = Place::parse(&url.text, self.credentials()?).map_err(|problem| self.trouble("url", &problem))?;
        if let Some(end) = place.unused() {
            let key = REPLICA_VARIABLES.iter().find(|it| it.env == end).map_or("url", |it| it.key);
            return Err(self.trouble(key, "a store of this kind has no use for it; take it out, or put the URL right"));
        }
        let number = |key: &'static str, bound: &str| {
            let allowed = |text: &str| {
                whole(text).filter(|number| bounds(bound).is_some_and(|(least, most)| (least..=most).contains(number)))
            };
            self.parse(key, allowed)
        };
        let retention = SavedRetention {
            daily: number("retention_daily", "retention.daily")?,
            weekly: number("retention_weekly", "retention.weekly")?,
            monthly: number("retention_monthly", "retention.monthly")?,
            manual: number("retention_manual", "retention.manual")?,
            pre_restore: number("retention_pre_restore", "retention.preRestore")?,
        };
        let mode = self.parse("mode", mode)?.unwrap_or_default();
        Ok(Replica { place, pace: self.pace()?, mode, retention })
    }

    fn elsewhere(&self) -> Result<Elsewhere, Error> {
        if let Some(key) =
            self.values.keys().find(|key| matches!(**key, "url" | "mode") || key.starts_with("retention"))
        {
            let problem = "FROM is no replica: it holds credentials, BANDWIDTH and TIMEOUT for `--from URL`; give the replica another name";
            return Err(self.trouble(key, problem));
        }
        Ok(Elsewhere { credentials: self.credentials()?, pace: self.pace()? })
    }

    fn credentials(&self) -> Result<Credentials, Error> {
        let secret = |key| self.parse(key, one_line);
        Ok(Credentials {
            access_key: secret("access_key")?,
            secret_key: secret("secret_key")?,
            username: secret("username")?,
            password: secret("password")?,
            client_id: secret("client_id")?,
            client_secret: secret("client_secret")?,
            refresh_token: secret("refresh_token")?,
        })
    }

    fn pace(&self) -> Result<Pace, Error> {
        let between = Duration::from_millis(100)..=Duration::from_secs(600);
        let duration = |text: &str| humantime::parse_duration(text).ok().filter(|it| between.contains(it));
        let timeout = self.parse("timeout", duration)?.unwrap_or(TIMEOUT);
        Ok(Pace { timeout, bandwidth: self.parse("bandwidth", size)? })
    }

    fn parse<T>(&self, key: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let allowed =
            REPLICA_VARIABLES.iter().find(|variable| variable.key == key).map_or("", |variable| variable.allowed);
        let invalid = || Error::Invalid {
            name: value.called.clone(),
            value: (!value.hidden).then(|| value.text.clone()),
            allowed: allowed.to_owned(),
        };
        parse(&value.text).ok_or_else(invalid).map(Some)
    }

    fn capitals(&self) -> String {
        self.name.to_ascii_uppercase()
    }

    /// What is wrong with a value that may not be shown, or isn't there.
    fn trouble(&self, key: &str, problem: &str) -> Error {
        let variable =
            REPLICA_VARIABLES.iter().find(|variable| variable.key == key).map_or("URL", |variable| variable.env);
        let name = self.values.get(key).map(|value| value.called.clone());
        let name = name.unwrap_or_else(|| format!("{VARIABLE}{}_{variable}", self.capitals()));
        Error::Trouble { name, problem: problem.replace("<NAME>", &self.capitals()) }
    }

    fn listed(&self) -> impl Iterator<Item = Listed> {
        let given = REPLICA_VARIABLES.iter().filter_map(|variable| Some((variable, self.values.get(variable.key)?)));
        given.map(|(variable, value)| Listed {
            variable: format!("{VARIABLE}{}_{}", self.capitals(), variable.env),
            key: format!("{TABLE}{}.{}", self.name, variable.json_key()),
            text: match (variable.secret, value.hidden) {
                (true, _) => "(set)".to_owned(),
                (false, true) => "(read from a file)".to_owned(),
                (false, false) => value.text.clone(),
            },
            origin: value.origin,
        })
    }
}

const TIMEOUT: Duration = Duration::from_secs(30);

fn one_line(text: &str) -> Option<String> {
    ((1..=4096).contains(&text.len()) && !text.contains(char::is_control)).then(|| text.to_owned())
}

fn mode(text: &str) -> Option<Mode> {
    match text {
        "full" => Some(Mode::Full),
        "incremental" => Some(Mode::Incremental),
        _ => None,
    }
}

/// `1MiB`.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit: u64 = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    whole::<u64>(number)?.checked_mul(unit).filter(|bytes| (1 << 10..=1 << 40).contains(bytes))
}

/// What has changed is found by comparing copies, which is no use where they are encrypted and nobody can look inside.
pub(super) fn comparable(config: &Config) -> Result<(), Error> {
    let is_locked = config.codec.encrypts && config.codec.identities.is_empty();
    match config.replicas.iter().find(|(_, replica)| is_locked && replica.mode == Mode::Incremental) {
        None => Ok(()),
        Some((name, _)) => Err(Error::Trouble {
            name: format!("{VARIABLE}{}_MODE", name.as_str().to_ascii_uppercase()),
            problem: "the copies here are encrypted, and to find what has changed they have to be read; set \
                      BACKUP_ENCRYPTION_IDENTITY_FILE, or this to full"
                .to_owned(),
        }),
    }
}

/// A replica in the folder that it is to replace would be lost with it, and be taken for what lies there.
pub(super) fn apart(config: &Config) -> Result<(), Error> {
    for (name, replica) in &config.replicas {
        let Some(folder) = replica.place.folder() else { continue };
        if folder.starts_with(&config.directory) || config.directory.starts_with(folder) {
            let problem = format!(
                "it and BACKUP_DIRECTORY ({}) lie one in the other; set it to a place apart",
                config.directory.display()
            );
            return Err(Error::Trouble {
                name: format!("{VARIABLE}{}_URL", name.as_str().to_ascii_uppercase()),
                problem,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
