//! The schema of one side, and how two of them differ.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{SchemaDifference, SchemaObject};

/// What a database is made of, but for what SQLite makes by itself.
pub(super) struct Schema {
    /// Each table by name, with where its rows lie, or why they can't be walked.
    pub(super) tables: BTreeMap<String, Result<Table, &'static str>>,
    /// Each table, index, trigger and view with its SQL.
    objects: BTreeMap<SchemaObject, Option<String>>,
}

/// A table whose rows can be walked.
pub(super) struct Table {
    /// The table itself; of a virtual one, the table inside of it that holds its rows.
    pub(super) name: String,
    /// Its rows lie in the order of its primary key (WITHOUT ROWID).
    pub(super) is_clustered: bool,
}

/// SQLite's word for a table: what kind it is, and whether it is WITHOUT ROWID.
type Kinds = BTreeMap<String, (String, bool)>;

pub(super) fn read(connection: &Connection) -> rusqlite::Result<Schema> {
    let kinds = kinds(connection)?;
    let is_inside = |table: &str| kinds.get(table).is_some_and(|(kind, _)| kind == "shadow");
    let (mut tables, mut objects) = (BTreeMap::new(), BTreeMap::new());
    let sql = "SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let object = SchemaObject { kind: row.get(0)?, name: row.get(1)? };
        if is_inside(&row.get::<_, String>(2)?) {
            continue;
        }
        if object.kind == "table" {
            tables.insert(object.name.clone(), table(&kinds, &object.name));
        }
        objects.insert(object, row.get(3)?);
    }
    Ok(Schema { tables, objects })
}

/// SQLite prepares each view for this list, and of views upon views, twenty of them, that takes hours: meanwhile it may not look
/// into any. What kind a table is it knows without.
fn kinds(connection: &Connection) -> rusqlite::Result<Kinds> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    let listed = listed(connection);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, true)?;
    listed
}

fn listed(connection: &Connection) -> rusqlite::Result<Kinds> {
    let mut statement = connection.prepare("PRAGMA main.table_list")?;
    statement.query_map([], |row| Ok((row.get("name")?, (row.get("type")?, row.get("wr")?))))?.collect()
}

/// Full-text tables keep their rows in a table of their own, which is walked like any other; the rest of a virtual table is
/// its module's matter.
fn table(kinds: &Kinds, name: &str) -> Result<Table, &'static str> {
    let named = |name: &str, is_clustered: bool| Table { name: name.to_owned(), is_clustered };
    match kinds.get(name) {
        Some((kind, _)) if kind == "virtual" => {
            let content = format!("{name}_content");
            match kinds.get(&content) {
                Some((kind, is_clustered)) if kind == "shadow" => Ok(named(&content, *is_clustered)),
                _ => Err("its rows are kept by the module of a virtual table"),
            }
        }
        Some((_, is_clustered)) => Ok(named(name, *is_clustered)),
        None => Err("SQLite doesn't know it as a table"),
    }
}

pub(super) fn difference(now: &Schema, then: &Schema) -> SchemaDifference {
    let only = |these: &Schema, those: &Schema| {
        these.objects.keys().filter(|object| !those.objects.contains_key(object)).cloned().collect()
    };
    let differs = |(object, sql): (&SchemaObject, &Option<String>)| {
        then.objects.get(object).is_some_and(|other| other != sql).then(|| object.clone())
    };
    SchemaDifference {
        only_now: only(now, then),
        only_then: only(then, now),
        changed: now.objects.iter().filter_map(differs).collect(),
    }
}
