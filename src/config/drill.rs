//! Rehearsals: how often, and what the owner of a database wants to hold in every copy of it.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Error, Origin, Values, content};
use crate::backup::DatabaseName;
use crate::backup::schedule::DrillSchedule;

/// How the variables of assertions begin; the database's name follows in upper case.
pub(super) const VARIABLE: &str = "BACKUP_DRILL_SQL_";
/// The table of assertions in the TOML file.
pub(super) const TABLE: &str = "drill.sql.";

const ALLOWED: &str = "one SQL statement that reads, and whose first value is true when all is well";

/// What is rehearsed, and when.
#[derive(Clone, PartialEq, Debug)]
pub struct Drill {
    /// How often.
    pub schedule: DrillSchedule,
    /// What is to hold in the copies of a database.
    pub sql: BTreeMap<DatabaseName, Assertion>,
}

/// A question whose answer is true when all is well.
#[derive(Clone, PartialEq, Debug)]
pub struct Assertion {
    /// One statement.
    pub sql: String,
    /// Its variable in the environment.
    pub variable: String,
    /// Where it comes from.
    pub origin: Origin,
    /// As listings show it.
    pub text: String,
}

pub(super) fn schedule(text: &str) -> Option<DrillSchedule> {
    match text {
        "off" => Some(DrillSchedule::Off),
        "daily" => Some(DrillSchedule::Daily),
        "weekly" => Some(DrillSchedule::Weekly),
        "monthly" => Some(DrillSchedule::Monthly),
        _ => None,
    }
}

/// A value, what it was called, where it comes from, and whether it may be shown.
struct Given {
    value: String,
    name: String,
    origin: Origin,
    hidden: bool,
}

impl Values {
    pub(super) fn drill<T>(&self, databases: &BTreeMap<DatabaseName, T>) -> Result<Drill, Error> {
        let unknown = |name: &str| {
            let names: Vec<_> = databases.keys().map(DatabaseName::as_str).collect();
            let problem = format!("BACKUP_DATABASES has no database of that name; it has {}", names.join(", "));
            Error::Trouble { name: name.to_owned(), problem }
        };
        let mut given = BTreeMap::new();
        for (key, value) in self.file.iter().filter(|(key, _)| key.starts_with(TABLE)) {
            let name = format!("{key} in the configuration file");
            let database = databases.keys().find(|it| it.as_str() == &key[TABLE.len()..]);
            let database = database.ok_or_else(|| unknown(&name))?.clone();
            given.insert(database, Given { value: value.clone(), name, origin: Origin::File, hidden: false });
        }
        for (name, value) in &self.env.assertions {
            let called = |suffix: &str| databases.keys().find(|it| it.as_str().to_ascii_uppercase() == suffix);
            let suffix = &name[VARIABLE.len()..];
            let of_file = || called(suffix.strip_suffix("_FILE")?);
            let (database, hidden) = match (called(suffix), of_file()) {
                (Some(database), _) => (database, false),
                (None, Some(database)) => (database, true),
                (None, None) => return Err(unknown(name)),
            };
            let value = if hidden { content(name, Path::new(value))? } else { value.clone() };
            let now = Given { value, name: name.clone(), origin: Origin::Env, hidden };
            let before = given.insert(database.clone(), now);
            if let Some(before) = before.filter(|before| before.origin == Origin::Env) {
                let problem = format!("{} and {name} are both set; keep one", before.name);
                return Err(Error::Trouble { name: before.name, problem });
            }
        }
        let sql = given.into_iter().map(|(database, given)| Ok((database.clone(), assertion(&database, given)?)));
        Ok(Drill { schedule: self.parse("drill.schedule", schedule)?, sql: sql.collect::<Result<_, _>>()? })
    }
}

fn assertion(database: &DatabaseName, given: Given) -> Result<Assertion, Error> {
    let Given { value, name, origin, hidden } = given;
    if value.trim().is_empty() || value.contains('\0') {
        let value = (!hidden).then_some(value);
        return Err(Error::Invalid { name, value, allowed: ALLOWED.to_owned() });
    }
    let text = if hidden { "(read from a file)".to_owned() } else { value.clone() };
    let variable = format!("{VARIABLE}{}", database.as_str().to_ascii_uppercase());
    Ok(Assertion { sql: value, variable, origin, text })
}
