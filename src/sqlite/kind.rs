//! What kind of database a file holds, and whether one may take the place of another.

mod runs;

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::check::tables;
use super::is_wal;
use runs::Runs;

/// Functions that change nothing and tell nothing (`SQLITE_INNOCUOUS`, sqlite.org/c3ref/c_deterministic.html).
const HARMLESS: &str = "SELECT DISTINCT lower(name) FROM pragma_function_list WHERE builtin AND flags & 0x200000";

/// What tells one kind of database from another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kind {
    /// Bytes a page.
    pub page_size: u32,
    /// Its header says WAL.
    pub is_wal: bool,
    encoding: String,
    /// Bytes at the end of each page that an extension has for itself (sqlite.org/fileformat2.html, section 1.3.4).
    reserved: u8,
    application_id: i32,
    tables: BTreeSet<String>,
    /// What acts by itself: triggers, views and virtual tables with their SQL, and what tables and indexes have SQLite run.
    code: BTreeMap<String, String>,
}

/// Why a database may not take the place of another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Misfit {
    /// It has no table.
    Empty,
    /// It is of another app, or of another of the app's databases: in words.
    Foreign(String),
    /// Open connections couldn't go on: in words.
    Incompatible(String),
    /// Its pages are larger or smaller, which only a database in rollback mode can take over, and only from one in that mode.
    PageSize {
        /// Bytes.
        copy: u32,
        /// Bytes.
        live: u32,
    },
    /// It brings code that runs within the app and that the live database doesn't have: the names.
    Code(Vec<String>),
}

impl Kind {
    /// Asks SQLite.
    pub fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let header = "SELECT substr(data, 21, 1) FROM sqlite_dbpage WHERE pgno = 1";
        let reserved: Vec<u8> = connection.query_row(header, [], |row| row.get(0))?;
        Ok(Self {
            page_size: number("PRAGMA page_size")? as u32,
            is_wal: is_wal(connection)?,
            encoding: connection.query_row("PRAGMA encoding", [], |row| row.get(0))?,
            reserved: reserved.first().copied().unwrap_or(0),
            application_id: number("PRAGMA application_id")? as i32,
            tables: tables(connection)?.into_iter().collect(),
            code: code(connection)?,
        })
    }

    /// Why `self` may not take the place of `live`; what nothing helps against comes first.
    pub fn misfits(&self, live: &Kind) -> Vec<Misfit> {
        if self.tables.is_empty() {
            return vec![Misfit::Empty];
        }
        let mut found = Vec::new();
        found.extend(self.foreign(live).map(Misfit::Foreign));
        let mut differs = |what: &str, ours: &dyn std::fmt::Display, theirs: &dyn std::fmt::Display| {
            found.push(Misfit::Incompatible(format!("its {what} is {ours}, that of the live database is {theirs}")));
        };
        if self.encoding != live.encoding {
            differs("text encoding", &self.encoding, &live.encoding);
        }
        if self.reserved != live.reserved {
            differs("room at the end of each page (of an encryption, say)", &self.reserved, &live.reserved);
        }
        let new = self.code.iter().filter(|(name, sql)| live.code.get(*name) != Some(sql));
        let new: Vec<_> = new.map(|(name, _)| name.clone()).collect();
        if !new.is_empty() {
            found.push(Misfit::Code(new));
        }
        if self.page_size != live.page_size {
            found.push(Misfit::PageSize { copy: self.page_size, live: live.page_size });
        }
        found
    }

    /// Another `application_id`, or hardly a table in common. A live database without tables has lost them.
    fn foreign(&self, live: &Kind) -> Option<String> {
        let (ours, theirs) = (self.application_id, live.application_id);
        if ours != theirs && ours != 0 && theirs != 0 {
            return Some(format!("its application_id is {ours}, that of the live database is {theirs}"));
        }
        let common = self.tables.intersection(&live.tables).count();
        let fewer = self.tables.len().min(live.tables.len());
        (2 * common < fewer || fewer > 0 && common == 0).then(|| {
            let some = |tables: &BTreeSet<String>| tables.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            format!("its tables are {}; the live database has {}", some(&self.tables), some(&live.tables))
        })
    }
}

/// `trigger NAME`, `view NAME`, `virtual table NAME`: their SQL; and what tables and indexes have SQLite run.
fn code(connection: &Connection) -> rusqlite::Result<BTreeMap<String, String>> {
    // SQLite takes these words in any case; written otherwise than it writes them, they are no accident.
    let sql = "SELECT iif(type = 'table', 'virtual table', lower(type)) || ' ' || name, coalesce(sql, '')
               FROM sqlite_schema WHERE type NOT IN ('table', 'index') OR type = 'table' AND coalesce(rootpage, 0) = 0";
    let mut named = connection.prepare(sql)?;
    let named = named.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(named.into_iter().chain(running(connection)?).collect())
}

/// `function NAME`, for those that tables and indexes call; `generated columns of NAME`: what these compute.
fn running(connection: &Connection) -> rusqlite::Result<BTreeMap<String, String>> {
    let mut harmless = connection.prepare(HARMLESS)?;
    let harmless = harmless.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<BTreeSet<String>>>()?;
    let sql = "SELECT type = 'table', name, sql FROM sqlite_schema WHERE type IN ('table', 'index') AND rootpage > 0 AND sql IS NOT NULL";
    let mut statement = connection.prepare(sql)?;
    let (mut rows, mut found) = (statement.query([])?, BTreeMap::new());
    while let Some(row) = rows.next()? {
        let (is_table, name, sql): (bool, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let Runs { calls, generated } = if is_table { Runs::of_table(&sql) } else { Runs::of_index(&sql) };
        let calls = calls.into_iter().filter(|name| !harmless.contains(name));
        found.extend(calls.map(|name| (format!("function {name}"), String::new())));
        if !generated.is_empty() {
            found.insert(format!("generated columns of {name}"), generated.join("; "));
        }
    }
    Ok(found)
}
