//! Configuration: defaults < TOML file < environment, layered by figment into one immutable value. Unknown names and
//! bad values are refused with the name and what is allowed; values that come from files or may be secret are never shown.

mod access;
mod drill;
mod encoding;
mod file;
mod metrics;
mod notify;
mod pitr;
mod replica;
mod strength;
mod variables;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono_tz::Tz;
use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use ipnet::IpNet;
use serde::Serialize;
use utoipa::ToSchema;

use crate::backup::retention::Retention;
use crate::backup::schedule::Schedule;
use crate::backup::settings::Settings;
use crate::backup::{CheckKind, DatabaseName, ReplicaName};
use crate::codec::Codec;
use crate::notify::Channels;

pub use access::{Access, Algorithm, Key, PublicUrl, Secret};
pub use drill::{Assertion, Drill};
use file::{content, secret_file};
pub use metrics::Metrics;
pub use pitr::Pitr;
use replica::All;
pub use replica::{Elsewhere, Listed, REPLICA_VARIABLES, Replica};
use variables::nearest;
pub use variables::{VARIABLES, Variable};

/// Everything that the operator decides.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Where backups lie; absolute.
    pub directory: PathBuf,
    /// Live databases by name; absolute paths.
    pub databases: BTreeMap<DatabaseName, PathBuf>,
    /// The directory must be this store.
    pub store_id: Option<String>,
    /// Switch, schedule and retention, as they are until changed at run time.
    pub settings: Settings,
    /// How long to try for the instant.
    pub lock_timeout: Duration,
    /// How long writers of a rollback-journal database may wait.
    pub rollback_hold: Duration,
    /// How long a restore may keep the app's writers waiting.
    pub restore_hold: Duration,
    /// How thoroughly the structure is checked.
    pub check: CheckKind,
    /// A newest backup older than this is a warning.
    pub stale_after: Duration,
    /// Percent; a database that lost more than this is suspicious.
    pub shrink_alarm: u8,
    /// Rehearsals.
    pub drill: Drill,
    /// The journal, with which one can go back to any second.
    pub pitr: Pitr,
    /// In which form copies are written, and with which keys.
    pub codec: Codec,
    /// Where the identities come from.
    pub identity_file: Option<PathBuf>,
    /// zstd's level, for what is compressed whatever `codec` says.
    pub compression_level: i32,
    /// Copies of the backups elsewhere.
    pub replicas: BTreeMap<ReplicaName, Replica>,
    /// What a place is shown that is named on the command line only.
    pub elsewhere: Elsewhere,
    /// What is said of replicas, as listings show it.
    pub replica_values: Vec<Listed>,
    /// By which ways notices go, and to whom.
    pub notices: Channels,
    /// Where HTTP is answered.
    pub bind: SocketAddr,
    /// Where browsers find it.
    pub public_url: Option<PublicUrl>,
    /// Who may come in.
    pub access: Access,
    /// Downloads that one user, and one address, may begin in a minute.
    pub downloads_per_minute: u32,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Figures for Prometheus.
    pub metrics: Metrics,
    /// Files that hold secrets.
    pub secret_files: Vec<PathBuf>,
    /// Least severe level that is logged.
    pub log: Level,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where each value comes from.
    pub origins: BTreeMap<&'static str, Origin>,
    /// Each value as it was given; of those from files only that they are.
    pub texts: BTreeMap<&'static str, String>,
}

/// Log levels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Log forms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The TOML file.
    File,
    /// The environment, or a file that it names.
    Env,
    /// `settings.json`.
    Saved,
    /// The last `serve`, which keeps more backups than a command was told to keep.
    Serve,
}

/// A configuration that the program doesn't start with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that means nothing here.
    #[error("{name} is not a setting of this version{}", suggestion(.near))]
    Unknown {
        /// As it was given.
        name: String,
        /// The nearest known one.
        near: Option<&'static str>,
    },
    /// A value that isn't allowed.
    #[error("{name}{} is not allowed: it is {allowed}", shown(.value))]
    Invalid {
        /// The variable.
        name: String,
        /// The value, where it may be shown.
        value: Option<String>,
        /// What is allowed.
        allowed: String,
    },
    /// Something else about one variable.
    #[error("{name}: {problem}")]
    Trouble {
        /// The variable.
        name: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

fn suggestion(near: &Option<&'static str>) -> String {
    match near {
        Some(name) => format!("; did you mean {name}?"),
        None => "; `attendance-backup config` lists all".to_owned(),
    }
}

fn shown(value: &Option<String>) -> String {
    value.as_ref().map(|value| format!("={value:?}")).unwrap_or_default()
}

/// Names the TOML file itself.
const CONFIG_FILE: &str = "BACKUP_CONFIG_FILE";

impl Config {
    /// Reads the process's environment and the file that it names.
    pub fn from_process() -> Result<Self, Error> {
        let mut environment = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with("BACKUP_") && name != "TZ" {
                continue;
            }
            let Ok(value) = value.into_string() else {
                return Err(Error::Trouble { name, problem: "the value is not UTF-8 text".to_owned() });
            };
            environment.insert(name, value);
        }
        Self::load(&environment)
    }

    /// Layers defaults, the file and `environment`.
    pub fn load(environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut env = Environment::read(environment)?;
        let file = file_layer(environment)?;
        // The configuration file is one more of those if a secret is in it.
        let named = environment
            .get(CONFIG_FILE)
            .filter(|_| flat(file.clone()).keys().any(|key| is_secret(key) || replica::is_secret(key)));
        env.secret_files.extend(named.map(PathBuf::from));
        let defaults = VARIABLES.iter().filter(|v| !v.default.is_empty()).map(|v| (v.key, v.default.to_owned()));
        let merged: Dict = Figment::new()
            .merge(Serialized::defaults(nested(defaults)))
            .merge(Serialized::defaults(file.clone()))
            .merge(Serialized::defaults(nested(env.values.iter().map(|(key, value)| (*key, value.clone())))))
            .extract()
            .map_err(|error| Error::Trouble { name: CONFIG_FILE.to_owned(), problem: error.to_string() })?;
        Values { merged: flat(merged), file: flat(file), env, tz: environment.get("TZ").cloned() }.config()
    }
}

/// The environment's part, with `…_FILE` read.
struct Environment {
    values: BTreeMap<&'static str, String>,
    /// Variables of assertions, each named after a database.
    assertions: BTreeMap<String, String>,
    /// Variables of replicas, each with a replica's name in its own.
    replicas: BTreeMap<String, String>,
    /// Keys whose value came from a file: never shown.
    hidden: Vec<&'static str>,
    /// Those of these files that hold secrets.
    secret_files: Vec<PathBuf>,
}

impl Environment {
    fn read(environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut read = Self {
            values: BTreeMap::new(),
            assertions: BTreeMap::new(),
            replicas: BTreeMap::new(),
            hidden: Vec::new(),
            secret_files: environment.iter().filter_map(|(name, path)| secret_file(name, path)).collect(),
        };
        for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("BACKUP_") && *name != CONFIG_FILE)
        {
            let (variable, value) = if let Some(variable) = Variable::find(name) {
                (variable, value.clone())
            } else if let Some(variable) = name.strip_suffix("_FILE").and_then(Variable::find) {
                read.hidden.push(variable.key);
                (variable, content(name, Path::new(value))?)
            } else if name.starts_with(drill::VARIABLE) {
                read.assertions.insert(name.clone(), value.clone());
                continue;
            } else if name.starts_with(replica::VARIABLE) {
                read.replicas.insert(name.clone(), value.clone());
                continue;
            } else {
                return Err(Error::Unknown {
                    name: name.clone(),
                    near: nearest(name, VARIABLES.iter().map(|v| v.env)),
                });
            };
            if read.values.insert(variable.key, value).is_some() {
                let problem = format!("{} and {}_FILE are both set; keep one", variable.env, variable.env);
                return Err(Error::Trouble { name: variable.env.to_owned(), problem });
            }
        }
        Ok(read)
    }
}

fn file_layer(environment: &BTreeMap<String, String>) -> Result<Dict, Error> {
    let Some(path) = environment.get(CONFIG_FILE) else { return Ok(Dict::new()) };
    let trouble = |problem: String| Error::Trouble { name: CONFIG_FILE.to_owned(), problem };
    let text = file::text(CONFIG_FILE, Path::new(path))?;
    // The message would quote the line, and the line may hold a secret.
    let dict: Dict =
        Figment::from(Toml::string(&text)).extract().map_err(|_| trouble(format!("{path} is not valid TOML")))?;
    for key in flat(dict.clone()).keys() {
        let is_named = is_database(key) || key.starts_with(drill::TABLE) || key.starts_with(replica::TABLE);
        if !is_named && !VARIABLES.iter().any(|variable| variable.key == key) {
            return Err(Error::Unknown {
                name: format!("{key} in {path}"),
                near: nearest(key, VARIABLES.iter().map(|variable| variable.key)),
            });
        }
    }
    Ok(dict)
}

fn is_database(key: &str) -> bool {
    key.starts_with("databases.")
}

fn nested(values: impl Iterator<Item = (&'static str, String)>) -> Dict {
    let mut dict = Dict::new();
    for (key, value) in values {
        match key.split_once('.') {
            None => drop(dict.insert(key.to_owned(), value.into())),
            Some((table, key)) => {
                let inner = dict.entry(table.to_owned()).or_insert_with(|| Value::from(Dict::new()));
                if let Value::Dict(_, inner) = inner {
                    inner.insert(key.to_owned(), value.into());
                }
            }
        }
    }
    dict
}

fn flat(dict: Dict) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for (key, value) in dict {
        if let Value::Dict(_, inner) = value {
            texts.extend(flat(inner).into_iter().map(|(name, text)| (format!("{key}.{name}"), text)));
        } else {
            texts.insert(key, text(&value));
        }
    }
    texts
}

fn text(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Bool(_, on) => on.to_string(),
        Value::Num(_, number) => number
            .to_i128()
            .map(|n| n.to_string())
            .or_else(|| number.to_f64().map(|n| n.to_string()))
            .unwrap_or_default(),
        // Lists and dates are no setting's value: whatever asks for it says what is allowed.
        _ => format!("{:?}", value.to_actual()),
    }
}

struct Values {
    merged: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    env: Environment,
    tz: Option<String>,
}

impl Values {
    fn config(self) -> Result<Config, Error> {
        let settings = Settings {
            enabled: self.parse("enabled", |text| text.parse().ok())?,
            schedule: Schedule {
                hour: self.parse("schedule.hour", whole)?,
                minute: self.parse("schedule.minute", whole)?,
                timezone: self.timezone()?,
            },
            retention: Retention {
                daily: self.parse("retention.daily", whole)?,
                weekly: self.parse("retention.weekly", whole)?,
                monthly: self.parse("retention.monthly", whole)?,
                manual: self.parse("retention.manual", whole)?,
                pre_restore: self.parse("retention.pre_restore", whole)?,
            },
        };
        // The bounds are those of the settings, which can be changed at run time too.
        if let Err((name, _)) = settings.validate() {
            let key =
                VARIABLES.iter().find(|variable| variable.json_key() == name).map_or(name, |variable| variable.key);
            return Err(self.invalid(key, self.merged.get(key).map_or("", String::as_str)));
        }
        let databases = self.databases()?;
        let All { replicas, elsewhere, listed: replica_values } = self.replicas()?;
        let config = Config {
            directory: self.parse("directory", absolute)?,
            drill: self.drill(&databases)?,
            databases,
            store_id: self.optional("store_id", store_id)?,
            settings,
            lock_timeout: self.duration("lock_timeout", "100ms", "10m")?,
            rollback_hold: self.duration("rollback_hold", "100ms", "1m")?,
            restore_hold: self.duration("restore_hold", "100ms", "1m")?,
            check: self.parse("check", check_kind)?,
            stale_after: self.duration("stale_after", "1m", "365d")?,
            shrink_alarm: self
                .parse("shrink_alarm", |text| whole(text).filter(|percent| (1..=100).contains(percent)))?,
            pitr: self.pitr()?,
            codec: self.codec()?,
            compression_level: self.compression_level()?,
            identity_file: self.optional("encryption.identity_file", absolute)?,
            replicas,
            elsewhere,
            replica_values,
            notices: self.notices()?,
            bind: self.parse("bind", |text| text.parse().ok())?,
            public_url: self.optional("public_url", PublicUrl::parse)?,
            access: self.access()?,
            downloads_per_minute: self
                .parse("downloads_per_minute", |text| whole(text).filter(|count| (1..=1000).contains(count)))?,
            trusted_proxies: self.optional("trusted_proxies", networks)?.unwrap_or_default(),
            metrics: self.metrics()?,
            secret_files: self.env.secret_files.clone(),
            log: self.parse("log", level)?,
            log_format: self.parse("log_format", log_format)?,
            origins: VARIABLES.iter().map(|variable| (variable.key, self.origin(variable.key))).collect(),
            texts: VARIABLES.iter().map(|variable| (variable.key, self.shown(variable.key))).collect(),
        };
        replica::apart(&config)?;
        replica::comparable(&config)?;
        Ok(config)
    }

    fn origin(&self, key: &str) -> Origin {
        let in_file = |name: &String| name == key || (key == "databases" && is_database(name));
        if self.env.values.contains_key(key) {
            Origin::Env
        } else if self.file.keys().any(in_file) {
            Origin::File
        } else {
            Origin::Default
        }
    }

    fn shown(&self, key: &str) -> String {
        if self.env.hidden.contains(&key) {
            return "(read from a file)".to_owned();
        }
        if is_secret(key) {
            return if self.merged.contains_key(key) { "(set)".to_owned() } else { String::new() };
        }
        let table: Vec<_> = self.file.iter().filter(|(name, _)| key == "databases" && is_database(name)).collect();
        if table.is_empty() || self.env.values.contains_key(key) {
            return self.merged.get(key).cloned().unwrap_or_default();
        }
        table.iter().map(|(name, path)| format!("{}={path}", &name["databases.".len()..])).collect::<Vec<_>>().join(",")
    }

    fn parse<T>(&self, key: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Error> {
        let text = self.merged.get(key).map_or("", String::as_str);
        parse(text).ok_or_else(|| self.invalid(key, text))
    }

    fn optional<T>(&self, key: &'static str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Error> {
        if self.merged.contains_key(key) { self.parse(key, parse).map(Some) } else { Ok(None) }
    }

    fn invalid(&self, key: &'static str, text: &str) -> Error {
        let value = (!self.env.hidden.contains(&key) && !is_secret(key)).then(|| text.to_owned());
        let allowed = VARIABLES.iter().find(|variable| variable.key == key).map(|variable| variable.allowed.to_owned());
        Error::Invalid { name: self.name(key), value, allowed: allowed.unwrap_or_default() }
    }

    /// What it is called where it was given.
    fn name(&self, key: &'static str) -> String {
        let variable = VARIABLES.iter().find(|variable| variable.key == key);
        match (variable, self.origin(key)) {
            (Some(variable), Origin::Env) if self.env.hidden.contains(&key) => format!("{}_FILE", variable.env),
            (Some(variable), Origin::Env | Origin::Default) => variable.env.to_owned(),
            _ => format!("{key} in the configuration file"),
        }
    }

    /// Something else that is wrong with it.
    fn trouble(&self, key: &'static str, problem: &str) -> Error {
        Error::Trouble { name: self.name(key), problem: problem.to_owned() }
    }

    fn duration(&self, key: &'static str, least: &str, most: &str) -> Result<Duration, Error> {
        let parse = |text: &str| humantime::parse_duration(text).ok();
        self.parse(key, |text| parse(text).filter(|it| parse(least) <= Some(*it) && Some(*it) <= parse(most)))
    }

    /// `BACKUP_TIMEZONE`, else `TZ` where it is an IANA name, else UTC.
    fn timezone(&self) -> Result<Tz, Error> {
        if self.merged.contains_key("schedule.timezone") {
            return self.parse("schedule.timezone", |text| text.parse().ok());
        }
        Ok(self.tz.as_ref().and_then(|tz| tz.trim_start_matches(':').parse().ok()).unwrap_or(Tz::UTC))
    }

    /// The environment's list replaces the file's table as a whole.
    fn databases(&self) -> Result<BTreeMap<DatabaseName, PathBuf>, Error> {
        let text = self.merged.get("databases").cloned().unwrap_or_default();
        let table: Vec<_> =
            self.file.iter().filter_map(|(key, path)| Some((key.strip_prefix("databases.")?, path))).collect();
        let pairs: Option<Vec<(&str, &str)>> = if table.is_empty() || self.env.values.contains_key("databases") {
            text.split(',').map(|pair| pair.trim().split_once('=')).collect()
        } else {
            Some(table.into_iter().map(|(name, path)| (name, path.as_str())).collect())
        };
        let mut databases = BTreeMap::new();
        for (name, path) in pairs.ok_or_else(|| self.invalid("databases", &text))? {
            let parsed = name.trim().parse().ok().zip(absolute(path.trim()));
            let Some((name, path)) = parsed else { return Err(self.invalid("databases", &text)) };
            if databases.insert(name, path).is_some() {
                return Err(self.invalid("databases", &text));
            }
        }
        Ok(databases)
    }
}

fn whole<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn absolute(text: &str) -> Option<PathBuf> {
    if text.is_empty() || text.contains('\0') { None } else { std::path::absolute(text).ok() }
}

fn is_secret(key: &str) -> bool {
    VARIABLES.iter().any(|variable| variable.key == key && variable.secret)
}

fn networks(text: &str) -> Option<Vec<IpNet>> {
    let network = |text: &str| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
    text.split(',').map(|text| network(text.trim())).collect()
}

fn store_id(text: &str) -> Option<String> {
    let plain = !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plain.then(|| text.to_owned())
}

fn check_kind(text: &str) -> Option<CheckKind> {
    match text {
        "quick" => Some(CheckKind::Quick),
        "integrity" => Some(CheckKind::Integrity),
        _ => None,
    }
}

fn level(text: &str) -> Option<Level> {
    Some(match text {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "info" => Level::Info,
        "debug" => Level::Debug,
        "trace" => Level::Trace,
        _ => return None,
    })
}

fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
