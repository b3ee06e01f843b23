//! What the SQL of a table or an index has the app's SQLite run by itself: functions that its constraints, defaults, generated
//! columns and indexes call, and what its generated columns compute (sqlite.org/security.html, section 1.1). SQLite has parsed that
//! SQL before: here its places are only found.

use std::collections::BTreeSet;

use crate::sqlite::tokens::{Token, Tokens};

/// What runs.
#[derive(PartialEq, Eq, Default, Debug)]
pub(super) struct Runs {
    /// Functions, in small letters.
    pub(super) calls: BTreeSet<String>,
    /// What each generated column is computed by.
    pub(super) generated: Vec<String>,
}

/// Words that may stand before a parenthesis within an expression and call nothing.
const WORDS: [&str; 22] = [
    "and", "as", "between", "case", "cast", "collate", "else", "end", "escape", "exists", "filter", "glob", "in", "is",
    "isnull", "like", "not", "notnull", "or", "then", "when", "where",
];
/// Operators that are functions of the app's.
const OPERATORS: [&str; 2] = ["match", "regexp"];

impl Runs {
    /// Those of a table. Within its outer parentheses stand names and types; expressions stand in parentheses of their own.
    pub(super) fn of_table(sql: &str) -> Self {
        Self::of(sql, |open| open.depth >= 2)
    }

    /// Those of an index. Its first parenthesis stands after the name of the table.
    pub(super) fn of_index(sql: &str) -> Self {
        Self { generated: Vec::new(), ..Self::of(sql, |open| open.number > 0) }
    }

    fn of(sql: &str, in_expression: impl Fn(Open) -> bool) -> Self {
        let mut found = Self::default();
        let (mut open, mut before) = (Open::default(), [None, None]);
        // Where the expression of a generated column began, and how deep.
        let mut generated = None;
        for (at, token) in Tokens::of(sql) {
            match &token {
                Token::Open => {
                    let [earlier, name] = &before;
                    let is_type = matches!(earlier, Some(Token::Word(word)) if word == "as");
                    match name {
                        Some(Token::Word(word)) if word == "as" && open.depth == 1 => generated = Some(at + 1),
                        Some(Token::Word(name) | Token::Name(name)) if in_expression(open) && !is_type => {
                            let is_word = matches!(&before[1], Some(Token::Word(_))) && WORDS.contains(&name.as_str());
                            found.calls.extend((!is_word).then(|| name.to_lowercase()));
                        }
                        _ => {}
                    }
                    open.depth += 1;
                    open.number += 1;
                }
                Token::Close => {
                    open.depth = open.depth.saturating_sub(1);
                    if open.depth == 1
                        && let Some(start) = generated.take()
                    {
                        found.generated.push(sql[start..at].to_owned());
                    }
                }
                Token::Word(word) if OPERATORS.contains(&word.as_str()) && in_expression(open) => {
                    found.calls.insert(word.clone());
                }
                Token::Word(_) | Token::Name(_) | Token::Other => {}
            }
            let [_, last] = before;
            before = [last, Some(token)];
        }
        found
    }
}

/// How many parentheses are open, and how many were opened so far.
#[derive(Clone, Copy, Default)]
struct Open {
    depth: usize,
    number: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_calls(runs: &Runs, calls: &[&str]) {
        assert_eq!(runs.calls.iter().map(String::as_str).collect::<Vec<_>>(), calls);
    }

    #[test]
    fn functions_are_found_wherever_a_table_may_call_them() {
        for (sql, calls) in [
            ("CREATE TABLE t(a, b decimal(10, 2), UNIQUE (a), FOREIGN KEY (a) REFERENCES u(b) MATCH FULL)", &[][..]),
            ("CREATE TABLE t(a CHECK(evil(a)))", &["evil"]),
            ("CREATE TABLE t(a DEFAULT (\"EviL\" /* ( */ (1)), CHECK (a IN (1, 2) AND NOT (a = 'f(x)')))", &["evil"]),
            ("CREATE TABLE t(a, b AS (upper([e v](a))) STORED)", &["e v", "upper"]),
            ("CREATE TABLE t(a CHECK (a REGEXP 'x' OR a match 'y'))", &["match", "regexp"]),
            ("CREATE TABLE t(a CHECK (CAST(a AS decimal(3)) BETWEEN (1) AND (2)) -- f(x)\n, b)", &[]),
            ("CREATE TABLE t(a CHECK(CASE WHEN (a) THEN (1) ELSE (coalesce(a, 2)) END)) WITHOUT ROWID", &["coalesce"]),
            ("CREATE TABLE \"f(\"(a, 'g(' text, [h(] text)", &[]),
        ] {
            assert_calls(&Runs::of_table(sql), calls);
        }
    }

    #[test]
    fn functions_are_found_wherever_an_index_may_call_them() {
        for (sql, calls) in [
            ("CREATE UNIQUE INDEX i ON t (a, b DESC)", &[][..]),
            ("CREATE INDEX i ON t(lower(a) COLLATE NOCASE, (b + 1))", &["lower"]),
            ("CREATE INDEX i ON t(a) WHERE evil(a) AND b IN (1)", &["evil"]),
        ] {
            assert_calls(&Runs::of_index(sql), calls);
        }
    }

    #[test]
    fn what_generated_columns_compute_is_known() {
        let sql =
            "CREATE TABLE t(a, b INT GENERATED ALWAYS AS (a + (1)), c AS('x)' || a) STORED, d CHECK (CAST(d AS INT)))";
        assert_eq!(Runs::of_table(sql).generated, ["a + (1)", "'x)' || a"]);
    }

    #[test]
    fn what_is_cut_short_ends() {
        for sql in ["", "CREATE TABLE t(a CHECK (", "CREATE TABLE \"t", "x'", "/*", "--", "))((", "ü(ß(", "[", "1e"] {
            let _ = (Runs::of_table(sql), Runs::of_index(sql));
        }
    }
}
