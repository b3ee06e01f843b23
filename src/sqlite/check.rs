//! A look at the structure of a database: SQLite's own checks, the tables and their rows.

use std::collections::BTreeMap;

use rusqlite::{Connection, ErrorCode};

use super::{Control, Error, code, quoted, references, situation};
use crate::backup::{CheckKind, DatabaseName};

/// Findings that are kept; the first ones tell enough.
const FINDINGS: usize = 10;

/// What a look at the structure showed.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// Rows of each table that could be counted.
    pub tables: BTreeMap<String, u64>,
    /// Rows that point at none (`PRAGMA foreign_key_check`): the app's matter, reported; `None` if it can't be asked.
    pub orphans: Option<u64>,
}

impl Report {
    /// The report with what following the references showed.
    pub fn with(self, references: References) -> Self {
        match (references, &self.verdict) {
            (References::Damaged(found), Verdict::Whole | Verdict::NotCheckable(_)) => Self::corrupt(vec![found]),
            (References::Damaged(_), Verdict::Corrupt(_)) => self,
            (References::Missing(orphans), _) => Self { orphans, ..self },
        }
    }

    fn corrupt(findings: Vec<String>) -> Self {
        Self { verdict: Verdict::Corrupt(findings), tables: BTreeMap::new(), orphans: None }
    }
}

/// Whether a structure is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything that was looked at is whole.
    Whole,
    /// No fault found, but these tables need the app's own functions, collations or modules to be checked.
    NotCheckable(Vec<String>),
    /// Faults, in SQLite's words.
    Corrupt(Vec<String>),
}

/// Looks at everything, one after the other.
pub fn check(
    connection: &mut Connection,
    name: &DatabaseName,
    kind: CheckKind,
    control: &Control,
) -> Result<Report, Error> {
    let report = look(connection, name, kind, control)?;
    match report.verdict {
        Verdict::Corrupt(_) => Ok(report),
        _ => Ok(report.with(references(connection, name, control)?)),
    }
}

/// Rows that point at none, or the damage that was met on the way.
pub enum References {
    /// How many; `None` if it can't be asked.
    Missing(Option<u64>),
    /// In SQLite's words.
    Damaged(String),
}

/// Follows the references, on a connection that has its snapshot.
pub fn references(connection: &mut Connection, name: &DatabaseName, control: &Control) -> Result<References, Error> {
    control.watch(connection).map_err(|error| situation(name, error))?;
    match orphans(connection) {
        Err(error) if is_damage(&error) => Ok(References::Damaged(error.to_string())),
        counted => counted.map(References::Missing).map_err(|error| late_or(control, name, error)),
    }
}

/// Structure and rows, on a connection that has its snapshot.
pub fn look(
    connection: &mut Connection,
    name: &DatabaseName,
    kind: CheckKind,
    control: &Control,
) -> Result<Report, Error> {
    control.watch(connection).map_err(|error| situation(name, error))?;
    match structure_and_rows(connection, kind) {
        Err(error) if is_damage(&error) => Ok(Report::corrupt(vec![error.to_string()])),
        report => report.map_err(|error| late_or(control, name, error)),
    }
}

fn structure_and_rows(connection: &Connection, kind: CheckKind) -> rusqlite::Result<Report> {
    let tables = tables(connection)?;
    let verdict = structure(connection, kind, &tables)?;
    if let Verdict::Corrupt(findings) = verdict {
        return Ok(Report::corrupt(findings));
    }
    let unchecked = match &verdict {
        Verdict::NotCheckable(tables) => tables.as_slice(),
        _ => &[],
    };
    let rows = rows(connection, &tables, unchecked)?;
    Ok(Report { verdict, tables: rows, orphans: None })
}

pub(super) fn late_or(control: &Control, name: &DatabaseName, error: rusqlite::Error) -> Error {
    match situation(name, error) {
        Error::Cancelled if !control.is_cancelled() => Error::TooSlow { name: name.clone(), limit: control.limit() },
        other => other,
    }
}

/// Damage of the file, as opposed to something that we don't know how to ask.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(code(error), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// An error in preparing or running a statement that needs what only the app has, or more memory than anything there should.
pub(super) fn is_unknown(error: &rusqlite::Error) -> bool {
    matches!(code(error), Some(ErrorCode::Unknown | ErrorCode::TooBig))
}

pub(super) fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

fn structure(connection: &Connection, kind: CheckKind, tables: &[String]) -> rusqlite::Result<Verdict> {
    match findings(connection, kind, None) {
        Ok(found) if found.is_empty() => Ok(Verdict::Whole),
        Ok(found) => Ok(Verdict::Corrupt(found)),
        Err(error) if is_damage(&error) => Ok(Verdict::Corrupt(vec![error.to_string()])),
        Err(error) if is_unknown(&error) => by_table(connection, kind, tables, &error),
        Err(error) => Err(error),
    }
}

/// Table by table, so that one that can't be checked hides no fault of another.
fn by_table(
    connection: &Connection,
    kind: CheckKind,
    tables: &[String],
    why: &rusqlite::Error,
) -> rusqlite::Result<Verdict> {
    let (mut faults, mut unknown) = (Vec::new(), Vec::new());
    for table in tables {
        match findings(connection, kind, Some(table)) {
            Ok(found) => faults.extend(found),
            Err(error) if is_damage(&error) => faults.push(format!("{table}: {error}")),
            Err(error) if is_unknown(&error) => unknown.push(table.clone()),
            Err(error) => return Err(error),
        }
    }
    if !faults.is_empty() {
        faults.truncate(FINDINGS);
        return Ok(Verdict::Corrupt(faults));
    }
    if unknown.is_empty() {
        unknown.push(format!("the database as a whole ({why})"));
    }
    Ok(Verdict::NotCheckable(unknown))
}

fn findings(connection: &Connection, kind: CheckKind, table: Option<&str>) -> rusqlite::Result<Vec<String>> {
    let pragma = match kind {
        CheckKind::Quick => "quick_check",
        CheckKind::Integrity => "integrity_check",
    };
    let argument = table.map_or(FINDINGS.to_string(), quoted);
    let mut statement = connection.prepare(&format!("PRAGMA {pragma}({argument})"))?;
    let rows: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(rows.into_iter().filter(|row| row != "ok").take(FINDINGS).collect())
}

fn rows(connection: &Connection, tables: &[String], unchecked: &[String]) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut counted = BTreeMap::new();
    for table in tables {
        // An index is smaller, but may need the app's collation; and of a table that had no check, all pages are to be
        // visited here at least.
        let ways = if unchecked.contains(table) { [" NOT INDEXED", ""] } else { ["", " NOT INDEXED"] };
        for way in ways {
            let sql = format!("SELECT count(*) FROM {}{way}", quoted(table));
            match connection.query_row(&sql, [], |row| row.get::<_, i64>(0)) {
                Ok(rows) => {
                    counted.insert(table.clone(), rows.unsigned_abs());
                    break;
                }
                Err(error) if is_unknown(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(counted)
}

fn orphans(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    match tables(connection).and_then(|tables| references::count(connection, &tables)) {
        Ok(rows) => Ok(Some(rows)),
        // A foreign key that names a table or column that isn't there is the app's matter.
        Err(error) if is_unknown(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
