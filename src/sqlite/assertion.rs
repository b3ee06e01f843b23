//! A question about a finished copy that its owner has put into SQL: one statement that only reads, and whose first value is
//! true, as SQLite sees truth, when all is well.

use std::time::{Duration, Instant};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::Value;
use rusqlite::{Connection, Error as Sql, OptionalExtension};

use super::{Control, Error, code, situation};
use crate::backup::DatabaseName;

/// How long the answer may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pragmas that only look. FTS5 asks for the last one by itself.
const LOOKS: [&str; 8] = [
    "foreign_key_check",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "user_version",
    "application_id",
    "data_version",
];

/// Asks `sql`. Says why the answer isn't true, if it isn't.
pub fn ask(
    connection: &mut Connection,
    name: &DatabaseName,
    sql: &str,
    control: &Control,
) -> Result<Result<(), String>, Error> {
    let control = control.within(Instant::now(), PATIENCE);
    confine(connection).and_then(|()| control.watch(connection)).map_err(|error| situation(name, error))?;
    let answer = answer(connection, sql);
    let freed = connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>);
    freed.map_err(|error| situation(name, error))?;
    Ok(match answer {
        Ok(Some(value)) => judged(connection, &value).map_err(|error| situation(name, error))?,
        Ok(None) => Err("it gives no row".to_owned()),
        Err(error) if code(&error) == Some(rusqlite::ErrorCode::OperationInterrupted) => {
            control.check()?;
            Err(format!("it gave no answer within {}", humantime::format_duration(PATIENCE)))
        }
        Err(error) => Err(told(error)),
    })
}

/// Nothing but reading, whatever the statement wants. What it has to sort goes to an unnamed file when it grows: memory
/// stays bounded [P11].
fn confine(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA query_only=ON; PRAGMA temp_store=FILE")?;
    connection.authorizer(Some(|asked: AuthContext<'_>| match asked.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Function { .. } | AuthAction::Recursive => {
            Authorization::Allow
        }
        AuthAction::Pragma { pragma_name, .. } if LOOKS.contains(&pragma_name) => Authorization::Allow,
        _ => Authorization::Deny,
    }))
}

fn answer(connection: &Connection, sql: &str) -> rusqlite::Result<Option<Value>> {
    connection.prepare(sql)?.query_row([], |row| row.get(0)).optional()
}

fn judged(connection: &Connection, value: &Value) -> rusqlite::Result<Result<(), String>> {
    let is_true: bool = connection.query_row("SELECT ?1 IS TRUE", [value], |row| row.get(0))?;
    Ok(match value {
        _ if is_true => Ok(()),
        Value::Null => Err("it gives NULL".to_owned()),
        _ => Err("it is false".to_owned()),
    })
}

/// SQLite's words, without the whole statement beside them.
fn told(error: Sql) -> String {
    match error {
        Sql::SqlInputError { msg, .. } => msg,
        Sql::MultipleStatement => "it is more than one statement".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(sql: &str) -> Result<(), String> {
        #[allow(clippy::disallowed_methods)]
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE people (name); INSERT INTO people VALUES ('Ada'), (NULL)").unwrap();
        let answer = ask(&mut connection, &"a".parse().unwrap(), sql, &Control::default()).unwrap();
        let left: i64 = connection.query_row("SELECT count(*) FROM people", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 2, "{sql}");
        answer
    }

    #[test]
    fn truth_is_as_sqlite_sees_it() {
        for sql in ["SELECT 1", "SELECT 0.5", "SELECT '2 people'", "VALUES (1), (0)", "SELECT count(*) FROM people;"] {
            assert_eq!(asked(sql), Ok(()), "{sql}");
        }
        let tables = "SELECT count(*) = 1 FROM pragma_table_info('people')";
        let steps =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9) SELECT max(i) = 9 FROM n -- all";
        assert_eq!((asked(tables), asked(steps)), (Ok(()), Ok(())));
        for sql in ["SELECT 0", "SELECT 0.0", "SELECT 'true'", "SELECT ''", "SELECT NOT 1", "VALUES (0), (1)"] {
            assert_eq!(asked(sql), Err("it is false".to_owned()), "{sql}");
        }
        assert_eq!(asked("SELECT name FROM people WHERE name IS NULL"), Err("it gives NULL".to_owned()));
        assert_eq!(asked("SELECT 1 WHERE 0"), Err("it gives no row".to_owned()));
    }

    #[test]
    fn one_statement_that_only_reads() {
        for (sql, word) in [
            ("DELETE FROM people", "not authorized"),
            ("DELETE FROM people RETURNING 1", "not authorized"),
            ("CREATE TEMP TABLE t AS SELECT 1", "not authorized"),
            ("ATTACH ':memory:' AS other", "not authorized"),
            ("PRAGMA hard_heap_limit=1", "not authorized"),
            ("PRAGMA query_only=OFF", "not authorized"),
            ("VACUUM", "authorization denied"),
            ("BEGIN", "not authorized"),
            ("SELECT load_extension('x')", "not authorized"),
            ("SELECT 1; SELECT 1", "more than one statement"),
            ("SELECT 1; DELETE FROM people", "not authorized"),
            ("SELEC 1", "syntax error"),
            ("SELECT nobody FROM people", "no such column"),
            ("-- nothing", "empty"),
        ] {
            let said = asked(sql).unwrap_err();
            assert!(said.contains(word) && !said.contains(sql), "{sql}: {said}");
        }
    }
}
