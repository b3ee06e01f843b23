//! By which key the rows of a table are matched, and in which order SQLite keeps them.

use std::cmp::Ordering;

use rusqlite::types::ValueRef;

use super::schema::Table;
use super::{Fault, Reader};
use crate::sqlite::quoted;

/// The key of a table.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) columns: Vec<KeyColumn>,
    pub(super) walk: Walk,
    encoding: Encoding,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    collation: Collation,
    descending: bool,
}

/// How a table is walked in the order of its key without sorting it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Walk {
    /// By rowid, as its rows lie.
    Rowid,
    /// By the primary key, as the rows of a table WITHOUT ROWID lie.
    Clustered,
    /// By the index of its primary key. NULLs may repeat there; rows that have one are told apart by this name of the rowid.
    Index { name: String, rowid: String },
}

/// SQLite's own collations (sqlite.org/datatype3.html, section 7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Collation {
    Binary,
    NoCase,
    RTrim,
}

/// In which form a database keeps text: BINARY compares its bytes. The other collations always compare UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

/// A column as `PRAGMA table_xinfo` tells it.
pub(super) struct Column {
    pub(super) name: String,
    /// Its place in the primary key, from 1.
    place: i64,
    /// It is stored; a generated one follows from others.
    pub(super) is_stored: bool,
}

impl Column {
    /// The same, by name.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.name.eq_ignore_ascii_case(&other.name)
    }
}

/// The columns of a table.
pub(super) fn columns(reader: &Reader<'_>, table: &Table) -> Result<Vec<Column>, Fault> {
    let sql = format!("PRAGMA main.table_xinfo({})", quoted(&table.name));
    let asked = reader.connection.prepare(&sql).and_then(|mut statement| {
        let column = |row: &rusqlite::Row<'_>| {
            let is_stored = row.get::<_, i64>("hidden")? == 0;
            Ok(Column { name: row.get("name")?, place: row.get("pk")?, is_stored })
        };
        statement.query_map([], column)?.collect()
    });
    asked.map_err(|error| reader.fault(error))
}

impl Key {
    /// The key of a table with these columns.
    pub(super) fn of(reader: &Reader<'_>, table: &Table, columns: &[Column]) -> Result<Self, Fault> {
        let encoding = encoding(reader)?;
        let index = primary_index(reader, table)?;
        let rowid = || rowid(columns).ok_or_else(|| Fault::NotComparable("no name is left for its rowid".to_owned()));
        let (columns, walk) = match index {
            Some((_, columns)) if table.is_clustered => (columns, Walk::Clustered),
            Some((name, columns)) => (columns, Walk::Index { name, rowid: rowid()? }),
            // INTEGER PRIMARY KEY is the rowid by another name.
            None => {
                let alias = columns.iter().find(|column| column.place > 0).map(|column| column.name.clone());
                let name = alias.map_or_else(rowid, Ok)?;
                (vec![KeyColumn { name, collation: Collation::Binary, descending: false }], Walk::Rowid)
            }
        };
        Ok(Self { columns, walk, encoding })
    }

    /// The key by which both sides are in the same order; nothing if there is none.
    pub(super) fn shared(self, other: &Self) -> Option<Self> {
        let same_walk = std::mem::discriminant(&self.walk) == std::mem::discriminant(&other.walk);
        let (ours, theirs) = (&self.columns, &other.columns);
        let same = |(a, b): (&KeyColumn, &KeyColumn)| {
            // A rowid is a rowid, whatever it is called.
            let named = self.walk == Walk::Rowid || a.name.eq_ignore_ascii_case(&b.name);
            named && (a.collation, a.descending) == (b.collation, b.descending)
        };
        let is_shared = same_walk && ours.len() == theirs.len() && ours.iter().zip(theirs).all(same);
        // Two encodings may still have the same order; if they don't, the walk notices.
        let encoding = if self.encoding == other.encoding { self.encoding } else { Encoding::Utf8 };
        is_shared.then_some(Self { encoding, ..self })
    }

    /// What both sides are asked to be sorted by. They are: it is only told which order is meant.
    pub(super) fn terms(&self) -> Vec<String> {
        let term = |column: &KeyColumn| {
            let order = if column.descending { "DESC" } else { "ASC" };
            format!("t.{} COLLATE {} {order}", quoted(&column.name), column.collation.name())
        };
        let mut terms: Vec<_> = self.columns.iter().map(term).collect();
        if let Walk::Index { rowid, .. } = &self.walk {
            terms.push(format!("t.{rowid}"));
        }
        terms
    }

    /// Values that the key takes of a row, the rowid included where it can be part of it.
    pub(super) fn width(&self) -> usize {
        self.columns.len() + usize::from(matches!(self.walk, Walk::Index { .. }))
    }

    /// Which of two rows comes first, given the values of their keys by place, the rowid last.
    pub(super) fn order<'a, 'b>(
        &self,
        a: impl Fn(usize) -> ValueRef<'a>,
        b: impl Fn(usize) -> ValueRef<'b>,
    ) -> Ordering {
        let mut has_null = false;
        for (place, column) in self.columns.iter().enumerate() {
            let (a, b) = (a(place), b(place));
            has_null |= a == ValueRef::Null;
            let order = order(a, b, column.collation, self.encoding);
            if order.is_ne() {
                return if column.descending { order.reverse() } else { order };
            }
        }
        let place = self.columns.len();
        match self.walk {
            Walk::Index { .. } if has_null => order(a(place), b(place), Collation::Binary, self.encoding),
            _ => Ordering::Equal,
        }
    }
}

/// A rowid can be asked for by any of its names that no column has.
fn rowid(columns: &[Column]) -> Option<String> {
    let is_free = |name: &&str| columns.iter().all(|column| !column.name.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(is_free).map(str::to_owned)
}

fn encoding(reader: &Reader<'_>) -> Result<Encoding, Fault> {
    let asked = reader.connection.query_row("PRAGMA main.encoding", [], |row| row.get::<_, String>(0));
    Ok(match asked.map_err(|error| reader.fault(error))?.as_str() {
        "UTF-16le" => Encoding::Utf16Le,
        "UTF-16be" => Encoding::Utf16Be,
        _ => Encoding::Utf8,
    })
}

/// The index of the primary key, which a table WITHOUT ROWID is itself, and its columns.
fn primary_index(reader: &Reader<'_>, table: &Table) -> Result<Option<(String, Vec<KeyColumn>)>, Fault> {
    let failed = |error| reader.fault(error);
    let mut lists =
        reader.connection.prepare(&format!("PRAGMA main.index_list({})", quoted(&table.name))).map_err(failed)?;
    let index = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>("name")?, row.get::<_, String>("origin")?));
    let mut found = None;
    for listed in lists.query_map([], index).map_err(failed)? {
        let (name, origin) = listed.map_err(failed)?;
        if origin == "pk" {
            found = Some(name);
        }
    }
    let Some(name) = found else { return Ok(None) };
    let sql = format!("PRAGMA main.index_xinfo({})", quoted(&name));
    let mut statement = reader.connection.prepare(&sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut columns = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        if row.get::<_, bool>("key").map_err(failed)? {
            let collation: String = row.get("coll").map_err(failed)?;
            columns.push(KeyColumn {
                name: row.get("name").map_err(failed)?,
                collation: Collation::parse(&collation)?,
                descending: row.get("desc").map_err(failed)?,
            });
        }
    }
    Ok(Some((name, columns)))
}

impl Collation {
    fn parse(name: &str) -> Result<Self, Fault> {
        match name.to_ascii_uppercase().as_str() {
            "BINARY" => Ok(Collation::Binary),
            "NOCASE" => Ok(Collation::NoCase),
            "RTRIM" => Ok(Collation::RTrim),
            _ => Err(Fault::NotComparable(format!("its key is sorted by the app's own collation `{name}`"))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Collation::Binary => "BINARY",
            Collation::NoCase => "NOCASE",
            Collation::RTrim => "RTRIM",
        }
    }
}

/// SQLite's order: NULL, numbers by value, text by its collation, bytes (sqlite.org/datatype3.html, section 4.1).
fn order(a: ValueRef<'_>, b: ValueRef<'_>, collation: Collation, encoding: Encoding) -> Ordering {
    use ValueRef::{Blob, Integer, Real, Text};
    match (a, b) {
        (Integer(a), Integer(b)) => a.cmp(&b),
        (Integer(a), Real(b)) => numbers(a, b),
        (Real(a), Integer(b)) => numbers(b, a).reverse(),
        // No NaN is ever stored.
        (Real(a), Real(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (Text(a), Text(b)) => texts(a, b, collation, encoding),
        (Blob(a), Blob(b)) => a.cmp(b),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

fn rank(value: ValueRef<'_>) -> u8 {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 1,
        ValueRef::Text(_) => 2,
        ValueRef::Blob(_) => 3,
    }
}

/// By value, exactly: most integers beyond 2^53 are no `f64`.
fn numbers(a: i64, b: f64) -> Ordering {
    if b < i64::MIN as f64 {
        return Ordering::Greater;
    }
    // 2^63, the first that is too large.
    if b >= -(i64::MIN as f64) {
        return Ordering::Less;
    }
    // A number with a fraction is small enough for the second comparison to be exact.
    a.cmp(&(b as i64)).then_with(|| (a as f64).partial_cmp(&b).unwrap_or(Ordering::Equal))
}

fn texts(a: &[u8], b: &[u8], collation: Collation, encoding: Encoding) -> Ordering {
    match collation {
        Collation::Binary => match encoding {
            Encoding::Utf8 => a.cmp(b),
            Encoding::Utf16Be => units(a, b, |unit| unit),
            Encoding::Utf16Le => units(a, b, u16::swap_bytes),
        },
        Collation::NoCase => folded(a).cmp(folded(b)).then(a.len().cmp(&b.len())),
        Collation::RTrim => trimmed(a).cmp(trimmed(b)),
    }
}

/// The order of the bytes of UTF-16.
fn units(a: &[u8], b: &[u8], arranged: fn(u16) -> u16) -> Ordering {
    let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
    a.encode_utf16().map(arranged).cmp(b.encode_utf16().map(arranged))
}

/// NOCASE knows the letters of ASCII alone, and reads no further than a NUL.
fn folded(text: &[u8]) -> impl Iterator<Item = u8> {
    text.iter().take_while(|byte| **byte != 0).map(u8::to_ascii_lowercase)
}

fn trimmed(text: &[u8]) -> &[u8] {
    let spaces = text.iter().rev().take_while(|byte| **byte == b' ').count();
    &text[..text.len() - spaces]
}
