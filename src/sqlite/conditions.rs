//! What `CHECK` constraints demand of rows, asked for by statements of our own: the check pragmas make the list of an `IN` anew for each
//! row (`sqlite3CodeRhsOfIN`, where a row is checked by itself), which took a third of their time. A statement makes it once, and can be
//! run beside them, on another connection with the same snapshot.
//!
//! A row that breaks one is no damage: what was right when it was written (`CHECK (due >= CURRENT_DATE)`) needn't be so today. Of a database
//! that is opened to be read alone SQLite knows no conditions (`sqlite3AddCheckConstraint`): finished copies are not held to them.

use rusqlite::{Connection, PrepFlags};

use super::check::is_unknown;
use super::quoted;
use super::tokens::{Token, Tokens};

/// The conditions of each table that has any; none known of one where they can't be told or asked for sure.
pub(super) struct Conditions(Vec<(String, Option<Vec<String>>)>);

/// Tables with rows that break a condition, and such whose conditions can't be asked so.
#[derive(Default)]
pub(super) struct Unmet {
    pub(super) tables: Vec<String>,
    pub(super) unknown: Vec<String>,
}

impl Conditions {
    /// Those of a database.
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let mut found = Vec::new();
        if connection.is_readonly("main")? {
            return Ok(Self(found));
        }
        let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND sql IS NOT NULL";
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let conditions = row.get_ref(1)?.as_str().ok().and_then(conditions);
            if conditions.as_ref().is_none_or(|conditions| !conditions.is_empty()) {
                let owned = |conditions: Vec<&str>| conditions.into_iter().map(str::to_owned).collect();
                found.push((row.get(0)?, conditions.map(owned)));
            }
        }
        Ok(Self(found))
    }

    /// Asks whether all rows meet them: what is neither true nor NULL doesn't (sqlite.org/lang_createtable.html, section 3.7).
    pub(super) fn unmet(self, connection: &Connection) -> rusqlite::Result<Unmet> {
        let mut found = Unmet::default();
        for (table, conditions) in self.0 {
            let Some(conditions) = conditions else {
                found.unknown.push(table);
                continue;
            };
            let unmet: Vec<_> = conditions.iter().map(|condition| format!("NOT ({condition}\n)")).collect();
            // The rows themselves, not what an index says of them.
            let rows = format!("SELECT 1 FROM main.{} NOT INDEXED WHERE {}", quoted(&table), unmet.join(" OR "));
            let sql = format!("SELECT EXISTS ({rows})");
            // What the schema may not call, it may not call here either.
            let flags = PrepFlags::SQLITE_PREPARE_FROM_DDL | PrepFlags::SQLITE_PREPARE_NO_VTAB;
            let statement = connection.prepare_with_flags(&sql, flags);
            match statement.and_then(|mut statement| statement.query_row([], |row| row.get(0))) {
                Ok(true) => found.tables.push(table),
                Ok(false) => {}
                Err(error) if is_unknown(&error) => found.unknown.push(table),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// What stands in the parentheses of each `CHECK`: a word that SQLite takes for nothing else. None for a table without rowids, too, of
/// which `NOT INDEXED` means nothing; and for what SQLite reads up to a NUL alone.
fn conditions(sql: &str) -> Option<Vec<&str>> {
    if sql.contains('\0') {
        return None;
    }
    let (mut found, mut depth, mut begun) = (Vec::new(), 0_usize, None);
    let mut tokens = Tokens::of(sql);
    while let Some((at, token)) = tokens.next() {
        match token {
            Token::Open => depth += 1,
            Token::Close => {
                depth = depth.checked_sub(1)?;
                if let Some((start, _)) = begun.take_if(|(_, outside)| *outside == depth) {
                    found.push(&sql[start..at]);
                }
            }
            Token::Word(word) if word == "check" => {
                let Some((open, Token::Open)) = tokens.next() else { return None };
                if begun.replace((open + 1, depth)).is_some() {
                    return None;
                }
                depth += 1;
            }
            Token::Word(word) if word == "without" && depth == 0 && !found.is_empty() => return None,
            Token::Word(_) | Token::Name(_) | Token::Other => {}
        }
    }
    (depth == 0 && begun.is_none()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::CheckKind;
    use crate::sqlite::check::{Verdict, check};
    use crate::sqlite::{Control, open_finished, open_live};

    #[test]
    fn conditions_are_found_wherever_they_stand() {
        for (sql, found) in [
            ("CREATE TABLE t (a, \"check\" TEXT, 'check (1)' x, b DEFAULT ('check (0)') -- check (2)\n)", &[][..]),
            (
                "CREATE TABLE t (a CHECK(a IN ('x', 'y)')), b CONSTRAINT c CHECK /* ( */ (b > (0)) NOT NULL)",
                &["a IN ('x', 'y)')", "b > (0)"],
            ),
            ("CREATE TABLE without (a INT \u{feff}CHECK (a > 0), \u{feff}CHECK(1))", &["a > 0", "1"]),
            ("CREATE TABLE t (a CHEC\u{212a} (0), b) WITHOUT ROWID", &[]),
            ("CREATE TABLE t (a, b, ChEcK (a < b), CHECK (length(\"(\") > 1))", &["a < b", "length(\"(\") > 1"]),
        ] {
            assert_eq!(conditions(sql).unwrap(), found, "{sql}");
        }
        for sql in [
            "CREATE TABLE t (a CHECK (",
            "CREATE TABLE t (a CHECK a > 1)",
            "CREATE TABLE t (a PRIMARY KEY, b CHECK (b > 1)) WITHOUT ROWID",
            "CREATE TABLE t (a)\0 CHECK (0)",
            "CREATE TABLE t (a))",
            "CHECK (CHECK (1))",
            "check",
        ] {
            assert!(conditions(sql).is_none(), "{sql}");
        }
    }

    #[test]
    fn comments_without_end_are_no_depth() {
        let sql = format!("CREATE TABLE t (a {} CHECK (a > 0))", "/**/".repeat(300_000));
        assert_eq!(conditions(&sql).unwrap(), ["a > 0"]);
    }

    #[test]
    fn what_no_statement_can_ask_for_is_left_to_the_pragma_and_of_a_copy_nothing_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        std::fs::write(&path, "").unwrap();
        let connection = open_live(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA ignore_check_constraints=ON; CREATE TABLE t (a CHECK (app.t.a > 0)); INSERT INTO t VALUES (0)",
            )
            .unwrap();
        let found = Conditions::of(&connection).unwrap().unmet(&connection).unwrap();
        assert_eq!((found.tables, found.unknown), (Vec::new(), vec!["t".to_owned()]));
        let of = |connection: &mut Connection| {
            let (name, control) = ("app".parse().unwrap(), Control::default());
            let report = check(connection, &name, CheckKind::Quick, &control).unwrap();
            (report.verdict, report.unmet)
        };
        let mut live = open_live(&path).unwrap();
        assert_eq!(of(&mut live), (Verdict::Whole, vec!["t".to_owned()]));
        let mut copy = open_finished(&path).unwrap();
        assert_eq!(of(&mut copy), (Verdict::Whole, Vec::new()));
    }

    /// Rows that were written while nobody looked, in every way that SQLite knows of a condition.
    #[test]
    fn what_is_broken_is_what_the_pragma_finds() {
        let values =
            ["NULL", "0", "1", "-1", "0.0", "0.5", "''", "'a'", "'A'", "'0'", "'1x'", "x'00'", "x'31'", "9e999"];
        let conditions = [
            "a",
            "a > 0",
            "a IN ('a', '1', 1, 0)",
            "a NOT IN (1, 2, 3)",
            "a BETWEEN 0 AND 1",
            "a LIKE 'a%'",
            "typeof(a) <> 'blob'",
            "a = 'A' COLLATE NOCASE",
            "a IS NOT NULL",
            "a IS 1",
            "CASE a WHEN 1 THEN 0 ELSE NULL END",
            "length(a) < 2",
            "t.a <> 0.5",
            "rowid = 1 -- the only one\n",
            "a GLOB \"?\"",
            "(a, 1) = (1, 1)",
            "b > 0",
            "abs(a) >= 0 AND a < 'b'",
            "NOT a",
            "+a = '1'",
        ];
        let mut tally = [0, 0];
        for (condition, column) in conditions
            .iter()
            .flat_map(|condition| ["", "INT", "TEXT", "REAL", "NUMERIC COLLATE NOCASE"].map(|of| (condition, of)))
        {
            for value in values {
                let connection = Connection::open_in_memory().unwrap();
                let made = format!(
                    "CREATE TABLE t (a {column} CHECK ({condition}), b AS (a + 1)); PRAGMA ignore_check_constraints=ON;
                     INSERT INTO t VALUES ({value}); PRAGMA ignore_check_constraints=OFF"
                );
                connection.execute_batch(&made).unwrap();
                let said: String = connection.query_row("PRAGMA quick_check", [], |row| row.get(0)).unwrap();
                let ours = Conditions::of(&connection).unwrap().unmet(&connection).unwrap();
                assert!(ours.unknown.is_empty(), "{made}");
                assert_eq!(ours.tables.is_empty(), said == "ok", "{made}: {said}");
                tally[usize::from(said == "ok")] += 1;
            }
        }
        assert!(tally.iter().all(|count| *count > 300), "{tally:?}");
    }
}
