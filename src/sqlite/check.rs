//! A look at the structure of a database: SQLite's own checks, the tables and their rows.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension, ffi};

use super::conditions::{Conditions, Unmet};
use super::page_set::lock_page;
use super::pages::joined;
use super::{Control, Error, code, in_words, open_finished, quoted, references, situation};
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
    /// Tables with rows that break a `CHECK`: the app's matter too, since time alone can bring it about.
    pub unmet: Vec<String>,
}

impl Report {
    /// The report with what the rules of the schema showed.
    pub fn with(mut self, rules: Rules) -> Self {
        match (rules, &mut self.verdict) {
            (_, Verdict::Corrupt(_)) => self,
            (Rules::Damaged(found), _) => Self::corrupt(vec![found]),
            (Rules::Asked { orphans, unmet, unknown }, _) if unknown.is_empty() => Self { orphans, unmet, ..self },
            (Rules::Asked { orphans, unmet, mut unknown }, verdict) => {
                if let Verdict::NotCheckable(tables) = verdict {
                    unknown.append(tables);
                }
                unknown.sort();
                unknown.dedup();
                Self { verdict: Verdict::NotCheckable(unknown), orphans, unmet, ..self }
            }
        }
    }

    fn corrupt(findings: Vec<String>) -> Self {
        Self { verdict: Verdict::Corrupt(findings), tables: BTreeMap::new(), orphans: None, unmet: Vec::new() }
    }
}

/// Whether a structure is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything that was looked at is whole.
    Whole,
    /// No fault found, but these tables need the app's own functions, collations or modules to be checked, or are search indexes that lag
    /// behind the text of other tables.
    NotCheckable(Vec<String>),
    /// Faults, in SQLite's words.
    Corrupt(Vec<String>),
}

/// Looks at everything, one thing after the other.
pub fn check(
    connection: &mut Connection,
    name: &DatabaseName,
    kind: CheckKind,
    control: &Control,
) -> Result<Report, Error> {
    let report = look(connection, name, kind, control)?;
    match report.verdict {
        Verdict::Corrupt(_) => Ok(report),
        _ => Ok(report.with(rules(connection, name, control)?)),
    }
}

/// The same of a finished copy at `path`, which another connection sees as this one does: the rules are asked for beside the look.
pub fn check_finished(
    connection: &mut Connection,
    path: &Path,
    name: &DatabaseName,
    kind: CheckKind,
    control: &Control,
) -> Result<Report, Error> {
    let Ok(mut beside) = open_finished(path) else { return check(connection, name, kind, control) };
    // Whoever has the first connection goes on with it.
    let aside = &control.part();
    std::thread::scope(|scope| {
        let ruler = scope.spawn(move || rules(&mut beside, name, aside));
        let report = look(connection, name, kind, control);
        let is_sound = report.as_ref().is_ok_and(|report| !matches!(report.verdict, Verdict::Corrupt(_)));
        if !is_sound {
            aside.abandon();
        }
        let rules = joined(ruler);
        if is_sound { Ok(report?.with(rules?)) } else { report }
    })
}

/// What the schema demands of rows: references and conditions (`CHECK`).
pub enum Rules {
    /// Whether rows keep to them says nothing of the structure.
    Asked {
        /// Rows that point at none; `None` if it can't be asked.
        orphans: Option<u64>,
        /// Tables with rows that break a condition.
        unmet: Vec<String>,
        /// Tables whose conditions need the app's own functions.
        unknown: Vec<String>,
    },
    /// The damage that was met on the way, in SQLite's words.
    Damaged(String),
}

/// Asks for the rules, on a connection that has its snapshot.
pub fn rules(connection: &mut Connection, name: &DatabaseName, control: &Control) -> Result<Rules, Error> {
    control.watch(connection).map_err(|error| situation(name, error))?;
    match asked(connection) {
        Err(error) if is_damage(&error) => Ok(Rules::Damaged(in_words(&error))),
        rules => rules.map_err(|error| late_or(control, name, error)),
    }
}

fn asked(connection: &Connection) -> rusqlite::Result<Rules> {
    let orphans = orphans(connection)?;
    let Unmet { mut tables, unknown } = Conditions::of(connection)?.unmet(connection)?;
    let unknown = ask_pragma(connection, unknown, &mut tables)?;
    tables.sort();
    tables.truncate(FINDINGS);
    Ok(Rules::Asked { orphans, unmet: tables, unknown })
}

/// How the check pragmas tell of a row that breaks a condition; its table's name follows.
const CHECK_FAILED: &str = "CHECK constraint failed in ";

/// Of conditions that can't be asked for by a statement: another schema's name in them, say. Those that it can't ask for are the app's.
fn ask_pragma(connection: &Connection, tables: Vec<String>, unmet: &mut Vec<String>) -> rusqlite::Result<Vec<String>> {
    if !tables.is_empty() {
        connection.execute_batch("PRAGMA ignore_check_constraints=OFF")?;
    }
    let mut unknown = Vec::new();
    for table in tables {
        match findings(connection, CheckKind::Quick, Some(&table)) {
            // Whatever else it finds, the look at the structure does too.
            Ok(found) if found.iter().any(|finding| finding.starts_with(CHECK_FAILED)) => unmet.push(table),
            Ok(_) => {}
            Err(error) if is_unknown(&error) => unknown.push(table),
            Err(error) => return Err(error),
        }
    }
    Ok(unknown)
}

/// Structure and number of rows, on a connection that has its snapshot. Conditions are left to [`rules`]: each row that breaks one would
/// take the place of a finding.
pub fn look(
    connection: &mut Connection,
    name: &DatabaseName,
    kind: CheckKind,
    control: &Control,
) -> Result<Report, Error> {
    control.watch(connection).map_err(|error| situation(name, error))?;
    match structure_and_rows(connection, kind) {
        Err(error) if is_damage(&error) => Ok(Report::corrupt(vec![in_words(&error)])),
        report => report.map_err(|error| late_or(control, name, error)),
    }
}

fn structure_and_rows(connection: &Connection, kind: CheckKind) -> rusqlite::Result<Report> {
    let tables = tables(connection)?;
    connection.execute_batch("PRAGMA ignore_check_constraints=ON")?;
    let verdict = structure(connection, kind, &tables)?;
    if let Verdict::Corrupt(findings) = verdict {
        return Ok(Report::corrupt(findings));
    }
    let unchecked = match &verdict {
        Verdict::NotCheckable(tables) => tables.as_slice(),
        _ => &[],
    };
    let rows = rows(connection, &tables, unchecked)?;
    Ok(Report { verdict, tables: rows, orphans: None, unmet: Vec::new() })
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
        Ok(found) => told(connection, found),
        Err(error) if is_damage(&error) => Ok(Verdict::Corrupt(vec![in_words(&error)])),
        Err(error) if is_unknown(&error) => by_table(connection, kind, tables, &error),
        Err(error) => Err(error),
    }
}

/// What findings come to. A search index whose text is kept elsewhere is the app's to keep up, and nothing is lost with it; SQLite doesn't
/// compare those of FTS5 at all (fts5.html, "The 'integrity-check' Command").
fn told(connection: &Connection, found: Vec<String>) -> rusqlite::Result<Verdict> {
    let mut stale = Vec::new();
    for finding in &found {
        stale.extend(stale_search(connection, finding)?);
    }
    Ok(match (found.len(), stale.len()) {
        (0, _) => Verdict::Whole,
        // More findings than these hide others.
        (all, stale_ones) if all == stale_ones && all < FINDINGS => Verdict::NotCheckable(stale),
        _ => Verdict::Corrupt(found),
    })
}

/// The FTS3 or FTS4 table whose index a finding is about (`fts3IntegrityMethod`), if its text is kept elsewhere.
fn stale_search(connection: &Connection, finding: &str) -> rusqlite::Result<Option<String>> {
    let ways = ["malformed inverted index for FTS", "unable to validate the inverted index for FTS"];
    let Some((version, rest)) = ways.iter().find_map(|way| finding.strip_prefix(way)?.split_once(" table main."))
    else {
        return Ok(None);
    };
    let table = rest.strip_suffix(": SQL logic error").unwrap_or(rest);
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    let made: Option<String> = connection.query_row(sql, [table], |row| row.get(0)).optional()?;
    let is_elsewhere = made.is_some_and(|made| {
        let made: String = made.to_lowercase().split_whitespace().collect();
        made.contains("content=")
    });
    Ok((["3", "4"].contains(&version) && is_elsewhere).then(|| table.to_owned()))
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
            Ok(found) => match told(connection, found)? {
                Verdict::Whole => {}
                Verdict::NotCheckable(stale) => unknown.extend(stale),
                Verdict::Corrupt(found) => faults.extend(found),
            },
            Err(error) if is_damage(&error) => faults.push(format!("{table}: {}", in_words(&error))),
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
    let rows: Vec<_> = rows.iter().flat_map(|row| each(row)).collect();
    let lock_page = lock_page(connection.query_row("PRAGMA page_size", [], |row| row.get(0))?);
    if let Some(error) = rows.iter().find_map(|finding| failed_read(finding, lock_page)) {
        return Err(error);
    }
    Ok(rows.into_iter().filter(|row| *row != "ok").take(FINDINGS).map(str::to_owned).collect())
}

/// The findings in a row. Those on the b-trees come in one, under a heading (`OP_IntegrityCk` and what follows it); they have numbers in
/// them and no names, so none goes over a line.
fn each(row: &str) -> Vec<&str> {
    row.strip_prefix("*** in database main ***\n").map_or_else(|| vec![row], |trees| trees.lines().collect())
}

/// The error that a finding tells of: a page that could not be read says nothing of the structure, but SQLite goes on and has it among
/// its findings (`checkTreePage` with the code, `checkList` without it; that one says the same of the lock page, which is damage).
fn failed_read(finding: &str, lock_page: u32) -> Option<rusqlite::Error> {
    let (place, what) = finding.split_once(": ")?;
    if !place.starts_with("Tree ") && place != "Freelist" {
        return None;
    }
    let code = if let Some(code) = what.strip_prefix("unable to get the page. error code=") {
        code.parse().ok()?
    } else {
        let page: u32 = what.strip_prefix("failed to get page ")?.parse().ok()?;
        (page != lock_page).then_some(ffi::SQLITE_IOERR_READ)?
    };
    let error = ffi::Error::new(code);
    let failed = error.code == ErrorCode::SystemIoFailure;
    failed.then(|| rusqlite::Error::SqliteFailure(error, Some(format!("{error}; {finding}"))))
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_search_index_over_other_tables_is_the_apps_to_keep_up() {
        let connection = Connection::open_in_memory().unwrap();
        let made =
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT); CREATE VIEW texts AS SELECT text FROM notes;
             CREATE VIRTUAL TABLE stale USING fts4(content=\"notes\", text);
             CREATE VIRTUAL TABLE viewed USING fts4(CONTENT='texts', text);
             CREATE VIRTUAL TABLE own USING fts4(text); INSERT INTO own VALUES ('late today'), ('ill');
             INSERT INTO notes VALUES (1, 'late today')";
        connection.execute_batch(made).unwrap();
        let look = || structure_and_rows(&connection, CheckKind::Quick).unwrap().verdict;
        let Verdict::NotCheckable(mut stale) = look() else { panic!("{:?}", look()) };
        stale.sort();
        assert_eq!(stale, ["stale", "viewed"]);
        connection.execute_batch("UPDATE own_segdir SET root = zeroblob(length(root))").unwrap();
        let Verdict::Corrupt(findings) = look() else { panic!("{:?}", look()) };
        assert!(findings.iter().any(|finding| finding.contains("main.own")), "{findings:?}");
    }

    /// A condition that asks for the time is broken by waiting. More rows than there are findings hide no damage.
    #[test]
    fn rows_that_break_a_condition_are_told_and_hide_no_damage() {
        let mut connection = Connection::open_in_memory().unwrap();
        let made = "CREATE TABLE sessions (id INTEGER PRIMARY KEY, expires TEXT CHECK (expires > CURRENT_TIMESTAMP));
             CREATE TABLE marks (id INTEGER PRIMARY KEY, at TEXT, CHECK (at > CURRENT_TIMESTAMP)) WITHOUT ROWID;
             CREATE TABLE met (a CHECK (a > 0)); CREATE TABLE late (a);
             PRAGMA ignore_check_constraints=ON; INSERT INTO met VALUES (1);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
             INSERT INTO sessions SELECT i, '2020-01-01 00:00:00' FROM n;
             INSERT INTO marks SELECT * FROM sessions; INSERT INTO late VALUES (NULL);
             PRAGMA ignore_check_constraints=OFF";
        connection.execute_batch(made).unwrap();
        let name = "app".parse().unwrap();
        let look =
            |connection: &mut Connection| check(connection, &name, CheckKind::Quick, &Control::default()).unwrap();
        let report = look(&mut connection);
        assert_eq!((report.verdict, report.unmet), (Verdict::Whole, vec!["marks".to_owned(), "sessions".to_owned()]));
        let harmed = "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE late (a NOT NULL)' WHERE name = 'late';
             PRAGMA writable_schema=RESET";
        connection.execute_batch(harmed).unwrap();
        assert_eq!(look(&mut connection).verdict, Verdict::Corrupt(vec!["NULL value in late.a".to_owned()]));
    }

    /// For each row the schema computes a text of 200 kB, which takes minutes for all.
    #[test]
    fn a_look_that_takes_too_long_is_cut_soon_and_told_from_one_that_was_cancelled() {
        let mut connection = Connection::open_in_memory().unwrap();
        let made = "CREATE TABLE slow (a CHECK (length(hex(zeroblob(100000 + a))) > 0)); PRAGMA ignore_check_constraints=ON;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) INSERT INTO slow SELECT i FROM n;
             PRAGMA ignore_check_constraints=OFF";
        connection.execute_batch(made).unwrap();
        let (name, limit, begun) = ("app".parse().unwrap(), Duration::from_millis(100), Instant::now());
        let control = Control::default().within(begun, limit);
        let mut look = |control: &Control| check(&mut connection, &name, CheckKind::Quick, control);
        let error = look(&control).unwrap_err();
        assert!(matches!(error, Error::TooSlow { limit: told, .. } if told == limit), "{error}");
        assert!((limit..limit * 600).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        let control = Control::default().within(Instant::now(), Duration::from_secs(600));
        control.cancel();
        assert!(matches!(look(&control), Err(Error::Cancelled)));
    }

    #[test]
    fn the_findings_on_trees_are_taken_one_by_one() {
        let trees =
            "*** in database main ***\nTree 2 page 2: unable to get the page. error code=266\nPage 3: never used";
        assert_eq!(each(trees), ["Tree 2 page 2: unable to get the page. error code=266", "Page 3: never used"]);
        assert!(each(trees).into_iter().any(|finding| failed_read(finding, 262_145).is_some()));
        let named = "non-unique entry in index a\nb";
        assert_eq!(each(named), [named]);
    }

    #[test]
    fn a_page_that_cannot_be_read_is_no_damage() {
        let code = |finding: &str| failed_read(finding, 262_145)?.sqlite_error().map(|error| error.extended_code);
        assert_eq!(code("Tree 2 page 2: unable to get the page. error code=8458"), Some(ffi::SQLITE_IOERR_CORRUPTFS));
        assert_eq!(code("Tree 2 page 7 cell 3: failed to get page 9"), Some(ffi::SQLITE_IOERR_READ));
        assert_eq!(code("Freelist: failed to get page 9"), Some(ffi::SQLITE_IOERR_READ));
        for damage in [
            "Tree 2 page 2: unable to get the page. error code=11",
            "Freelist: failed to get page 262145",
            "Tree 2 page 2: btreeInitPage() returns error code 11",
            "Freelist: size is 3 but should be 4",
            "non-unique entry in index a: unable to get the page. error code=10",
            "row 3 missing from index Tree : failed to get page 9",
        ] {
            assert_eq!(code(damage), None, "{damage}");
        }
    }
}
