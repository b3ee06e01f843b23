//! Rows that refer to rows which don't exist: `PRAGMA foreign_key_check`, with a shortcut for what is whole.
//!
//! The pragma looks up a parent for each row of a child. Where an index of the child begins with the referring column, it is
//! enough to look one up for each *different* value, found by stepping through the index: a school's marks refer to few people
//! many times. The shortcut only ever proves that nothing is missing; whatever it can't prove, the pragma counts.

use rusqlite::{Connection, OptionalExtension};

use super::quoted;

/// Different values after which the shortcut is none.
const DIFFERENT: i64 = 400_000;

/// How many rows refer to rows that don't exist.
pub fn count(connection: &Connection, tables: &[String]) -> rusqlite::Result<u64> {
    let mut missing = 0;
    for table in tables {
        if !is_whole(connection, table)? {
            let sql = "SELECT count(*) FROM pragma_foreign_key_check(?1)";
            missing += connection.query_row(sql, [table], |row| row.get::<_, i64>(0))?.unsigned_abs();
        }
    }
    Ok(missing)
}

/// A foreign key of one column.
struct Reference {
    column: String,
    parent: String,
    /// Nothing: the parent's primary key.
    key: Option<String>,
}

/// Every foreign key of the table is proven to hold.
fn is_whole(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    let Some(references) = references(connection, table)? else { return Ok(false) };
    for reference in references {
        if !holds(connection, table, &reference)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All foreign keys; nothing if one of them has several columns.
fn references(connection: &Connection, table: &str) -> rusqlite::Result<Option<Vec<Reference>>> {
    let mut statement =
        connection.prepare("SELECT seq, \"from\", \"table\", \"to\" FROM pragma_foreign_key_list(?1)")?;
    let mut rows = statement.query([table])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(0)? > 0 {
            return Ok(None);
        }
        found.push(Reference { column: row.get(1)?, parent: row.get(2)?, key: row.get(3)? });
    }
    Ok(Some(found))
}

fn holds(connection: &Connection, table: &str, reference: &Reference) -> rusqlite::Result<bool> {
    let Some(key) = integer_key(connection, &reference.parent)? else { return Ok(false) };
    if reference.key.as_ref().is_some_and(|named| !named.eq_ignore_ascii_case(&key)) {
        return Ok(false);
    }
    let Some(index) = index_on(connection, table, &reference.column)? else { return Ok(false) };
    let (table, parent) = (quoted(table), quoted(&reference.parent));
    let (column, key, index) = (quoted(&reference.column), quoted(&key), quoted(&index));
    // Every name is qualified: the app's tables and columns may be called anything.
    let sql = format!(
        "WITH RECURSIVE step(value) AS (
             SELECT min(child.{column}) FROM main.{table} AS child INDEXED BY {index}
             UNION ALL
             SELECT (SELECT min(child.{column}) FROM main.{table} AS child INDEXED BY {index}
                     WHERE child.{column} > step.value)
             FROM step WHERE step.value IS NOT NULL
             LIMIT {DIFFERENT})
         SELECT count(*), total(step.value IS NOT NULL AND NOT EXISTS (
             SELECT 1 FROM main.{parent} AS parent WHERE parent.{key} = step.value)) FROM step"
    );
    let (values, missing): (i64, f64) = connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(values < DIFFERENT && missing == 0.0)
}

/// The parent's INTEGER PRIMARY KEY, whose comparison knows no collation.
fn integer_key(connection: &Connection, parent: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT name, upper(type) = 'INTEGER', count(*) FROM pragma_table_info(?1) WHERE pk > 0";
    let (name, integer, columns): (Option<String>, Option<bool>, i64) =
        connection.query_row(sql, [parent], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(name.filter(|_| integer == Some(true) && columns == 1))
}

/// A whole index that begins with the column, in SQLite's own order.
fn index_on(connection: &Connection, table: &str, column: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT list.name FROM pragma_index_list(?1) AS list, pragma_index_xinfo(list.name) AS info
               WHERE NOT list.partial AND info.seqno = 0 AND info.name = ?2 COLLATE NOCASE AND info.coll = 'BINARY' LIMIT 1";
    connection.query_row(sql, [table, column], |row| row.get(0)).optional()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)]
    fn database(sql: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&format!("PRAGMA foreign_keys=OFF; {sql}")).unwrap();
        connection
    }

    fn tables(connection: &Connection) -> Vec<String> {
        let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    const PARENT: &str =
        "CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT UNIQUE); INSERT INTO p VALUES (1,'a'),(2,'b'),(7,'c');";

    /// What the pragma counts, whatever way we took; and whether the shortcut was enough.
    fn assert_counts(child: &str, missing: u64, shortcut: bool) {
        let connection = database(&format!("{PARENT} {child}"));
        let sql = "SELECT count(*) FROM pragma_foreign_key_check";
        let pragma: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(pragma.unsigned_abs(), missing, "{child}");
        assert_eq!(count(&connection, &tables(&connection)).unwrap(), missing, "{child}");
        assert_eq!(is_whole(&connection, "c").unwrap(), shortcut, "{child}");
    }

    #[test]
    fn the_shortcut_proves_what_is_whole_and_the_pragma_counts_the_rest() {
        let indexed = "CREATE TABLE c (x INTEGER REFERENCES p); CREATE INDEX i ON c (x);";
        assert_counts(indexed, 0, true);
        assert_counts(&format!("{indexed} INSERT INTO c VALUES (1),(1),(2),(7),(7),(NULL),(NULL);"), 0, true);
        assert_counts(&format!("{indexed} INSERT INTO c VALUES (1),(3),(3),(7),(8);"), 3, false);
        assert_counts(&format!("{indexed} INSERT INTO c VALUES (0),(-5),('text'),(x'00'),(1.5);"), 5, false);
        let step =
            "CREATE TABLE step (value INTEGER REFERENCES p); CREATE INDEX j ON step (value); CREATE TABLE c (x);";
        assert_counts(&format!("{step} INSERT INTO step VALUES (1),(3),(3),(7),(8);"), 3, true);
        let text = "CREATE TABLE c (x TEXT REFERENCES p (id)); CREATE INDEX i ON c (x DESC);";
        assert_counts(&format!("{text} INSERT INTO c VALUES ('1'),('7');"), 0, true);
        assert_counts(&format!("{text} INSERT INTO c VALUES ('1'),('07'),('9'),('x');"), 2, false);
    }

    #[test]
    fn what_the_shortcut_does_not_know_is_the_pragmas() {
        let rows = "INSERT INTO c VALUES (1),(2),(3);";
        assert_counts(&format!("CREATE TABLE c (x REFERENCES p); {rows}"), 1, false);
        assert_counts(
            &format!("CREATE TABLE c (x REFERENCES p); CREATE INDEX i ON c (x) WHERE x < 3; {rows}"),
            1,
            false,
        );
        assert_counts(&format!("CREATE TABLE c (x REFERENCES p); CREATE INDEX i ON c (x + 1); {rows}"), 1, false);
        assert_counts(
            "CREATE TABLE c (x TEXT REFERENCES p (code)); CREATE INDEX i ON c (x); INSERT INTO c VALUES ('a'),('z');",
            1,
            false,
        );
        let two = "CREATE TABLE q (a, b, PRIMARY KEY (a, b)); CREATE TABLE c (x, y, FOREIGN KEY (x, y) REFERENCES q);";
        assert_counts(&format!("{two} CREATE INDEX i ON c (x, y); INSERT INTO c VALUES (1, 2);"), 1, false);
    }

    #[test]
    fn a_parent_that_is_not_there_leaves_every_row_alone() {
        assert_counts(
            "CREATE TABLE c (x REFERENCES gone); CREATE INDEX i ON c (x); INSERT INTO c VALUES (1);",
            1,
            false,
        );
    }
}
