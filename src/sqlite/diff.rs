//! What differs between a live database and a copy of it: its tables row by row, its schema, its version.
//!
//! 1. Read the schema of the copy: nobody waits for that.
//! 2. Pin the live database (`BEGIN`, one SELECT): one snapshot, and the time runs. Writers of a rollback-journal database
//!    wait from here on; a WAL can't be reset.
//! 3. Walk each table on both sides in the order of its key, small tables first, a row at a time.
//! 4. Let go when all is compared or the time is up, whichever comes first.

mod key;
mod rows;
mod schema;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::check::{is_unknown, late_or};
use super::snapshot::{Facts, facts, is_busy, jitter};
use super::{Control, Error, Source, assert_ended, code, identify_to_open, open_live, situation};
use crate::backup::DatabaseName;

use schema::Schema;

/// For how long a WAL may be kept from being reset.
const WAL_HOLD: Duration = Duration::from_secs(10);

/// A figure of both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Both<T> {
    /// Of the live database.
    pub now: T,
    /// Of the backup.
    pub then: T,
}

/// What differs between a live database and its copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The app's schema version (`PRAGMA user_version`).
    pub user_version: Both<i32>,
    /// Pages.
    pub pages: Both<u64>,
    /// Bytes.
    pub size: Both<u64>,
    /// Each table of either side. SQLite's own and those inside of virtual tables are left out.
    pub tables: BTreeMap<String, TableDifference>,
    /// What else differs; what is the same isn't named.
    pub schema: SchemaDifference,
    /// Every table was compared to its end.
    pub complete: bool,
}

/// How the rows of a table differ. Rows are matched by primary key, or by rowid where there is none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableDifference {
    /// Rows of the live table.
    pub now: u64,
    /// Rows of the backup's.
    pub then: u64,
    /// Rows that a restore would remove.
    pub only_now: u64,
    /// Rows that a restore would bring back.
    pub only_then: u64,
    /// Rows that hold other values.
    pub changed: u64,
    /// It was compared to its end. If not, each figure is the least that it can be.
    pub complete: bool,
    /// Why its rows can't be compared; they are only counted then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub not_comparable: Option<String>,
    /// Columns of one side only; rows are compared by those that both have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub columns: Option<ColumnDifference>,
}

impl TableDifference {
    /// Nothing differs, for sure.
    pub fn is_same(&self) -> bool {
        self.complete && self.columns.is_none() && self.only_now + self.only_then + self.changed == 0
    }
}

/// Columns of one side only.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ColumnDifference {
    /// Those that a restore would take away.
    pub only_now: Vec<String>,
    /// Those that a restore would bring back.
    pub only_then: Vec<String>,
}

/// Tables, indexes, triggers and views that differ.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchemaDifference {
    /// Those that a restore would remove.
    pub only_now: Vec<SchemaObject>,
    /// Those that a restore would bring back.
    pub only_then: Vec<SchemaObject>,
    /// Those whose SQL differs.
    pub changed: Vec<SchemaObject>,
}

impl SchemaDifference {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.only_now.is_empty() && self.only_then.is_empty() && self.changed.is_empty()
    }
}

/// A part of a schema.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, ToSchema)]
pub struct SchemaObject {
    /// `table`, `index`, `trigger` or `view`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// How long others may be kept waiting, and waited for.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long to wait for a live database that is locked.
    pub lock_timeout: Duration,
    /// How long writers of a rollback-journal database may be kept waiting.
    pub rollback_hold: Duration,
}

/// Why two databases weren't compared: the side that can't serve, and why.
#[derive(Debug)]
pub enum Failure {
    /// The live database, or someone asked to stop.
    Live(Error),
    /// The copy: its structure isn't what a finished copy has.
    Copy(Error),
}

/// Compares a live database with a finished copy of it. `rows` are those that the copy is said to have: they decide
/// nothing but which table comes first.
pub fn compare(
    source: &Source,
    mut copy: Connection,
    rows: &BTreeMap<String, u64>,
    bounds: &Bounds,
    control: &Control,
) -> Result<Difference, Failure> {
    let live_failed = |error| Failure::Live(situation(&source.name, error));
    let copy_failed = |error| match situation(&source.name, error) {
        stopped @ Error::Cancelled => Failure::Live(stopped),
        other => Failure::Copy(other),
    };
    identify_to_open(source).map_err(Failure::Live)?;
    control.watch(&mut copy).map_err(copy_failed)?;
    let (facts_then, schema_then) = look(&copy).map_err(copy_failed)?;
    let (mut live, since) = pin(source, bounds, control).map_err(Failure::Live)?;
    let facts_now = facts(&live).map_err(live_failed)?;
    let hold = if facts_now.journal_mode == "wal" { WAL_HOLD } else { bounds.rollback_hold };
    let control = control.within(since, hold);
    control.watch(&mut live).map_err(live_failed)?;
    let schema_now = schema::read(&live).map_err(|error| Failure::Live(late_or(&control, &source.name, error)))?;
    control.watch(&mut copy).map_err(copy_failed)?;
    let readers = Both {
        now: Reader { side: Side::Now, database: &source.name, connection: &live },
        then: Reader { side: Side::Then, database: &source.name, connection: &copy },
    };
    let schemas = Both { now: &schema_now, then: &schema_then };
    let tables = tables(&readers, schemas, rows, &control)?;
    Ok(Difference {
        user_version: Both { now: facts_now.user_version, then: facts_then.user_version },
        pages: Both { now: facts_now.pages, then: facts_then.pages },
        size: Both { now: facts_now.bytes(), then: facts_then.bytes() },
        complete: tables.values().all(|table| table.complete),
        schema: schema::difference(&schema_now, &schema_then),
        tables,
    })
}

fn look(connection: &Connection) -> rusqlite::Result<(Facts, Schema)> {
    Ok((facts(connection)?, schema::read(connection)?))
}

/// Step 2. Says since when it is pinned.
fn pin(source: &Source, bounds: &Bounds, control: &Control) -> Result<(Connection, Instant), Error> {
    let failed = |error| situation(&source.name, error);
    let live = open_live(&source.path).map_err(failed)?;
    live.execute_batch("PRAGMA query_only=ON").map_err(failed)?;
    let (begun, mut round) = (Instant::now(), 0);
    loop {
        control.check()?;
        assert_ended(source)?;
        let since = Instant::now();
        live.execute_batch("BEGIN").map_err(failed)?;
        match live.query_row("SELECT count(*) FROM main.sqlite_schema", [], |_| Ok(())) {
            Ok(()) => return Ok((live, since)),
            Err(error) if !is_busy(&error) => return Err(failed(error)),
            Err(_) => live.execute_batch("ROLLBACK").map_err(failed)?,
        }
        if begun.elapsed() >= bounds.lock_timeout {
            return Err(Error::Locked { name: source.name.clone(), waited: bounds.lock_timeout });
        }
        std::thread::sleep(jitter(round));
        round += 1;
    }
}

/// Step 3. Those that only the live database has come last: nobody knows how large they are.
fn tables(
    readers: &Both<Reader<'_>>,
    schemas: Both<&Schema>,
    rows: &BTreeMap<String, u64>,
    control: &Control,
) -> Result<BTreeMap<String, TableDifference>, Failure> {
    let mut names: Vec<&String> = schemas.now.tables.keys().chain(schemas.then.tables.keys()).collect();
    names.sort_by_key(|name| {
        let inside = schemas.then.tables.get(*name).and_then(|table| table.as_ref().ok());
        let rows = inside.and_then(|table| rows.get(&table.name));
        (rows.copied().unwrap_or(u64::MAX), *name)
    });
    names.dedup();
    let mut compared = BTreeMap::new();
    for name in names {
        let tables = Both { now: schemas.now.tables.get(name), then: schemas.then.tables.get(name) };
        let table = rows::compare(readers, tables, control)?;
        control.check().map_err(Failure::Live)?;
        compared.insert(name.clone(), table);
    }
    Ok(compared)
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Now,
    Then,
}

/// One of the two, to be read.
struct Reader<'c> {
    side: Side,
    database: &'c DatabaseName,
    connection: &'c Connection,
}

/// Why a table wasn't compared to its end.
enum Fault {
    /// The time is up, or someone asked to stop.
    Stopped,
    /// For this reason, which is one of this table alone.
    NotComparable(String),
    /// It ends here for all tables.
    Failed(Failure),
}

impl Reader<'_> {
    /// Puts a situation to an error of SQLite.
    fn fault(&self, error: rusqlite::Error) -> Fault {
        if code(&error) == Some(ErrorCode::OperationInterrupted) {
            return Fault::Stopped;
        }
        if is_unknown(&error) {
            return Fault::NotComparable(format!("it needs what only the app has ({})", words(&error)));
        }
        let error = situation(self.database, error);
        Fault::Failed(match self.side {
            Side::Now => Failure::Live(error),
            Side::Then => Failure::Copy(error),
        })
    }
}

/// What SQLite says, without the statement that we have asked.
fn words(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
