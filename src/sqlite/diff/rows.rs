//! The rows of one table on both sides, walked in the order of their keys like the two halves of a merge. One row of each
//! side is in memory, and the key before it.

use std::cmp::Ordering;

use rusqlite::fallible_streaming_iterator::FallibleStreamingIterator;
use rusqlite::types::ValueRef;
use rusqlite::{Row, Rows, Statement};

use super::key::{Column, Key, Walk, columns};
use super::schema::Table;
use super::{Both, ColumnDifference, Failure, Fault, Reader, TableDifference};
use crate::sqlite::{Control, quoted};

/// A table of the schema, or why it can't be walked; nothing on the side that hasn't got it.
type Known<'s> = Option<&'s Result<Table, &'static str>>;

/// Compares the table of both sides, or counts it where it can't be compared or is on one side only.
pub(super) fn compare(
    readers: &Both<Reader<'_>>,
    tables: Both<Known<'_>>,
    control: &Control,
) -> Result<TableDifference, Failure> {
    let mut found = TableDifference::default();
    let not_comparable = match tried(readers, &tables, control, &mut found) {
        Ok(()) => {
            found.complete = true;
            return Ok(found);
        }
        Err(Fault::Stopped) => return Ok(found),
        Err(Fault::Failed(failure)) => return Err(failure),
        Err(Fault::NotComparable(reason)) => Some(reason),
    };
    // What was found before that was noticed is not to be relied on.
    found = TableDifference { not_comparable, ..TableDifference::default() };
    for (reader, table, rows) in
        [(&readers.now, tables.now, &mut found.now), (&readers.then, tables.then, &mut found.then)]
    {
        if let Some(Ok(table)) = table
            && let Err(Fault::Failed(failure)) = count(reader, table, control, rows)
        {
            return Err(failure);
        }
    }
    Ok(found)
}

fn tried(
    readers: &Both<Reader<'_>>,
    tables: &Both<Known<'_>>,
    control: &Control,
    found: &mut TableDifference,
) -> Result<(), Fault> {
    match (known(tables.now)?, known(tables.then)?) {
        (Some(now), Some(then)) => merge(readers, &Both { now, then }, control, found),
        (Some(now), None) => {
            let counted = count(&readers.now, now, control, &mut found.now);
            found.only_now = found.now;
            counted
        }
        (None, Some(then)) => {
            let counted = count(&readers.then, then, control, &mut found.then);
            found.only_then = found.then;
            counted
        }
        (None, None) => Ok(()),
    }
}

fn known(table: Known<'_>) -> Result<Option<&Table>, Fault> {
    match table {
        None => Ok(None),
        Some(Ok(table)) => Ok(Some(table)),
        Some(Err(reason)) => Err(Fault::NotComparable((*reason).to_owned())),
    }
}

/// Row by row and not by `count(*)`, which nothing interrupts.
fn count(reader: &Reader<'_>, table: &Table, control: &Control, rows: &mut u64) -> Result<(), Fault> {
    let failed = |error| reader.fault(error);
    let sql = format!("SELECT 1 FROM main.{} AS t NOT INDEXED", quoted(&table.name));
    let mut statement = reader.connection.prepare(&sql).map_err(failed)?;
    let mut walked = statement.query([]).map_err(failed)?;
    while !control.must_stop() {
        if walked.next().map_err(failed)?.is_none() {
            return Ok(());
        }
        *rows += 1;
    }
    Err(Fault::Stopped)
}

fn merge(
    readers: &Both<Reader<'_>>,
    tables: &Both<&Table>,
    control: &Control,
    found: &mut TableDifference,
) -> Result<(), Fault> {
    let columns = Both { now: columns(&readers.now, tables.now)?, then: columns(&readers.then, tables.then)? };
    let keys = Both {
        now: Key::of(&readers.now, tables.now, &columns.now)?,
        then: Key::of(&readers.then, tables.then, &columns.then)?,
    };
    let Some(key) = keys.now.clone().shared(&keys.then) else {
        return Err(Fault::NotComparable("its primary key is another one in the backup".to_owned()));
    };
    found.columns = differing(&columns);
    let values = shared(&columns, &keys);
    let mut statements = Both {
        now: prepared(&readers.now, tables.now, &keys.now, &values)?,
        then: prepared(&readers.then, tables.then, &keys.then, &values)?,
    };
    let mut now = Cursor::of(&readers.now, &mut statements.now, &key)?;
    let mut then = Cursor::of(&readers.then, &mut statements.then, &key)?;
    while !control.must_stop() {
        let order = match (now.row(), then.row()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => key.order(value(a), value(b)),
        };
        match order {
            Ordering::Less => found.only_now += 1,
            Ordering::Greater => found.only_then += 1,
            Ordering::Equal => found.changed += u64::from(differs(&key, now.row(), then.row(), values.len())),
        }
        if order.is_le() {
            found.now += 1;
            now.advance()?;
        }
        if order.is_ge() {
            found.then += 1;
            then.advance()?;
        }
    }
    Err(Fault::Stopped)
}

fn differing(columns: &Both<Vec<Column>>) -> Option<ColumnDifference> {
    let only = |these: &[Column], those: &[Column]| {
        these.iter().filter(|column| !those.iter().any(|other| column.is(other))).map(|it| it.name.clone()).collect()
    };
    let (only_now, only_then): (Vec<_>, Vec<_>) =
        (only(&columns.now, &columns.then), only(&columns.then, &columns.now));
    let is_same = only_now.is_empty() && only_then.is_empty();
    (!is_same).then_some(ColumnDifference { only_now, only_then })
}

/// Stored columns that both sides have, but for those of the key of both.
fn shared<'c>(columns: &'c Both<Vec<Column>>, keys: &Both<Key>) -> Vec<&'c str> {
    let in_key = |key: &Key, name: &str| key.columns.iter().any(|part| part.name.eq_ignore_ascii_case(name));
    let is_shared = |column: &&Column| {
        let other = columns.then.iter().find(|other| column.is(other));
        let is_compared = in_key(&keys.now, &column.name) && in_key(&keys.then, &column.name);
        column.is_stored && other.is_some_and(|other| other.is_stored) && !is_compared
    };
    columns.now.iter().filter(is_shared).map(|column| column.name.as_str()).collect()
}

/// The statement that walks a table: its key, the rowid if that can be part of it, its other values.
fn prepared<'c>(reader: &Reader<'c>, table: &Table, key: &Key, values: &[&str]) -> Result<Statement<'c>, Fault> {
    let mut asked: Vec<_> = key.columns.iter().map(|column| format!("t.{}", quoted(&column.name))).collect();
    let way = match &key.walk {
        Walk::Rowid | Walk::Clustered => "NOT INDEXED".to_owned(),
        Walk::Index { name, rowid } => {
            asked.push(format!("t.{rowid}"));
            format!("INDEXED BY {}", quoted(name))
        }
    };
    asked.extend(values.iter().map(|name| format!("t.{}", quoted(name))));
    let (asked, terms) = (asked.join(", "), key.terms().join(", "));
    let sql = format!("SELECT {asked} FROM main.{} AS t {way} ORDER BY {terms}", quoted(&table.name));
    let failed = |error| reader.fault(error);
    if is_sorted(reader, &sql).map_err(failed)? {
        return Err(Fault::NotComparable("SQLite would sort all of its rows first, in memory".to_owned()));
    }
    reader.connection.prepare(&sql).map_err(failed)
}

/// Whether SQLite would have to keep all rows to put them into order.
fn is_sorted(reader: &Reader<'_>, sql: &str) -> rusqlite::Result<bool> {
    let mut plan = reader.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
    let mut steps = plan.query([])?;
    while let Some(step) = steps.next()? {
        if step.get::<_, String>("detail")?.contains("TEMP B-TREE") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Both rows have the same key, by its collation. Whether anything in them differs, types included; the rowid doesn't count.
fn differs(key: &Key, a: Option<&Row<'_>>, b: Option<&Row<'_>>, values: usize) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    let width = key.width() + values;
    let (a, b) = (value(a), value(b));
    // A rowid stands after the columns of the key, or is the key and the same.
    (0..key.columns.len()).chain(key.width()..width).any(|place| a(place) != b(place))
}

/// The value at a place, of those that were asked for.
fn value<'r>(row: &'r Row<'_>) -> impl Fn(usize) -> ValueRef<'r> {
    move |place| row.get_ref(place).unwrap_or(ValueRef::Null)
}

/// One side, at a row.
struct Cursor<'a> {
    reader: &'a Reader<'a>,
    key: &'a Key,
    rows: Rows<'a>,
    /// The key of the row before.
    before: Option<Vec<Kept>>,
}

impl<'a> Cursor<'a> {
    fn of(reader: &'a Reader<'a>, statement: &'a mut Statement<'_>, key: &'a Key) -> Result<Self, Fault> {
        let rows = statement.query([]).map_err(|error| reader.fault(error))?;
        let mut cursor = Self { reader, key, rows, before: None };
        cursor.advance()?;
        Ok(cursor)
    }

    fn row(&self) -> Option<&Row<'a>> {
        self.rows.get()
    }

    /// To the next row. Were its key not beyond the last one, rows would be missed and nothing that was counted be true:
    /// an index that is damaged, or text in another encoding.
    fn advance(&mut self) -> Result<(), Fault> {
        let width = self.key.width();
        self.before = self.row().map(|row| (0..width).map(value(row)).map(Kept::from).collect());
        self.rows.advance().map_err(|error| self.reader.fault(error))?;
        if let (Some(before), Some(row)) = (&self.before, self.rows.get())
            && self.key.order(|place| before[place].value(), value(row)).is_ge()
        {
            let text = "its keys do not lie in the order that SQLite gives them; try PRAGMA integrity_check on it";
            return Err(Fault::NotComparable(text.to_owned()));
        }
        Ok(())
    }
}

/// A value of its own.
enum Kept {
    Null,
    Integer(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl From<ValueRef<'_>> for Kept {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Kept::Null,
            ValueRef::Integer(number) => Kept::Integer(number),
            ValueRef::Real(number) => Kept::Real(number),
            ValueRef::Text(text) => Kept::Text(text.to_vec()),
            ValueRef::Blob(bytes) => Kept::Blob(bytes.to_vec()),
        }
    }
}

impl Kept {
    fn value(&self) -> ValueRef<'_> {
        match self {
            Kept::Null => ValueRef::Null,
            Kept::Integer(number) => ValueRef::Integer(*number),
            Kept::Real(number) => ValueRef::Real(*number),
            Kept::Text(text) => ValueRef::Text(text),
            Kept::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }
}
