//! Bytes that somebody else has written: the seeds of `tests/corpus`, changed at random. `FUZZ_CASES` says how often (`make fuzz`); what
//! once went wrong is kept in `proptest-regressions/` and tried first.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};

/// So many cases in CI, or what was asked for.
pub fn cases(cases: u32, regressions: &'static str) -> ProptestConfig {
    let cases = std::env::var("FUZZ_CASES").map_or(cases, |text| text.parse().unwrap());
    let persistence = FileFailurePersistence::Direct(regressions);
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

/// The seeds of one kind.
pub fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{kind} has no seeds");
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// The same of texts: each line is one.
pub fn lines(kind: &str) -> Vec<String> {
    let texts = corpus(kind).into_iter().map(|bytes| String::from_utf8(bytes).unwrap());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// What may happen to bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Double(Index, usize),
    /// A number of so many bytes, big-endian.
    Number(Index, usize, u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = |index: &Index| index.index(bytes.len());
        match self {
            Change::Flip(index, mask) => {
                let at = at(index);
                bytes[at] ^= mask;
            }
            Change::Cut(index) => bytes.truncate(at(index)),
            Change::Remove(index, length) => {
                let at = at(index);
                let end = bytes.len().min(at + length);
                bytes.drain(at..end);
            }
            Change::Insert(index, more) => {
                let at = at(index);
                bytes.splice(at..at, more.iter().copied());
            }
            Change::Double(index, length) => {
                let at = at(index);
                let part = bytes[at..bytes.len().min(at + length)].to_vec();
                bytes.splice(at..at, part);
            }
            Change::Number(index, length, number) => {
                let (at, length) = (at(index), (*length).min(bytes.len()));
                let at = at.min(bytes.len() - length);
                bytes[at..at + length].copy_from_slice(&number.to_be_bytes()[8 - length..]);
            }
        }
    }
}

/// Numbers at which something ends.
fn number() -> impl Strategy<Value = u64> {
    let ends = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        i64::MAX as u64,
        u64::MAX,
    ];
    prop_oneof![prop::sample::select(ends.to_vec()), any::<u64>()]
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 1..=255_u8).prop_map(|(at, mask)| Change::Flip(at, mask)),
        3 => (at(), prop::sample::select(vec![1, 2, 4, 8]), number()).prop_map(|(at, length, number)| Change::Number(at, length, number)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), 1..200_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, more)| Change::Insert(at, more)),
        1 => (at(), 1..600_usize).prop_map(|(at, length)| Change::Double(at, length)),
    ]
}

/// One of these, changed in a few places.
pub fn changed(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(seeds), prop::collection::vec(change(), 0..8)).prop_map(|(mut bytes, changes)| {
        changes.iter().for_each(|change| change.apply(&mut bytes));
        bytes
    })
}

/// The same as text.
pub fn changed_text(seeds: Vec<String>) -> impl Strategy<Value = String> {
    changed(seeds.into_iter().map(String::into_bytes).collect())
        .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What nobody expects in a document.
fn odd() -> impl Strategy<Value = Value> {
    let texts = [
        "",
        "../../../../tmp/x",
        "/etc/passwd",
        "a\0b",
        "\u{1b}[31m",
        "9999-12-31",
        "+262142-12-31",
        "-0001-01-01",
        "9999-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00Z",
        "+262142-12-31T23:59:59Z",
        "0000-01-01T00:00:00Z",
        "daily-9999-12-31",
        "weekly-0000-W01",
        "monthly-9999-12-9999",
        "manual-9999-12-31T235959Z",
        "pre-restore-0000-01-01T000000Z",
        "db",
        "db.zst.age",
        "wal",
        "shrunk",
        "UTC",
        "Africa/Abidjan",
    ];
    let numbers = [
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(u32::MAX),
        json!(1_u64 << 53),
        json!((1_u64 << 53) + 1),
    ];
    let others = [json!(null), json!(true), json!(false), json!([]), json!({}), json!([[]]), json!("x".repeat(3000))];
    prop_oneof![
        2 => prop::sample::select(texts.map(|text| json!(text)).to_vec()),
        2 => prop::sample::select([numbers.to_vec(), others.to_vec()].concat()),
        1 => any::<String>().prop_map(|text| json!(text)),
        1 => any::<i64>().prop_map(|number| json!(number)),
    ]
}

/// What may happen to a document.
#[derive(Clone, Debug)]
enum Edit {
    Replace(Index, Value),
    Remove(Index),
    /// Another part takes the place of this one.
    Copy(Index, Index),
    Double(Index),
    Add(Index, String, Value),
}

/// Each part of a document, as a JSON pointer (RFC 6901).
fn parts(value: &Value, at: String, found: &mut Vec<String>) {
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(list) => list.iter().enumerate().map(|(n, value)| (n.to_string(), value)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        _ => Vec::new(),
    };
    inner.into_iter().for_each(|(name, value)| parts(value, format!("{at}/{name}"), found));
    found.push(at);
}

impl Edit {
    fn apply(&self, document: &mut Value) {
        let mut found = Vec::new();
        parts(document, String::new(), &mut found);
        let part = |index: &Index| found[index.index(found.len())].clone();
        match self {
            Edit::Replace(index, value) => *document.pointer_mut(&part(index)).unwrap() = value.clone(),
            Edit::Copy(from, to) => {
                let value = document.pointer(&part(from)).unwrap().clone();
                *document.pointer_mut(&part(to)).unwrap() = value;
            }
            Edit::Remove(index) => {
                let part = part(index);
                let Some((above, name)) = part.rsplit_once('/') else { return };
                match document.pointer_mut(above) {
                    Some(Value::Array(list)) => drop(list.remove(name.parse().unwrap())),
                    Some(Value::Object(fields)) => drop(fields.remove(&name.replace("~1", "/").replace("~0", "~"))),
                    _ => {}
                }
            }
            Edit::Double(index) => {
                let part = part(index);
                let Some((above, name)) = part.rsplit_once('/') else { return };
                if let Some(Value::Array(list)) = document.pointer_mut(above) {
                    let one = list[name.parse::<usize>().unwrap()].clone();
                    list.push(one);
                }
            }
            Edit::Add(index, name, value) => {
                if let Some(Value::Object(fields)) = document.pointer_mut(&part(index)) {
                    fields.insert(name.clone(), value.clone());
                }
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        5 => (at(), odd()).prop_map(|(at, value)| Edit::Replace(at, value)),
        2 => at().prop_map(Edit::Remove),
        2 => (at(), at()).prop_map(|(from, to)| Edit::Copy(from, to)),
        1 => at().prop_map(Edit::Double),
        1 => (at(), "[a-zA-Z]{1,12}", odd()).prop_map(|(at, name, value)| Edit::Add(at, name, value)),
    ]
}

/// One of these documents, changed in a few places; now and then as text, so that it may be none any more.
pub fn document(kind: &str) -> BoxedStrategy<Vec<u8>> {
    let seeds = corpus(kind);
    let values: Vec<Value> = seeds.iter().map(|seed| serde_json::from_slice(seed).unwrap()).collect();
    let edited =
        (prop::sample::select(values), prop::collection::vec(edit(), 0..5)).prop_map(|(mut document, edits)| {
            edits.iter().for_each(|edit| edit.apply(&mut document));
            document.to_string().into_bytes()
        });
    prop_oneof![6 => edited, 1 => changed(seeds)].boxed()
}

/// Something is said, and not endlessly. What in it is a command to a terminal is made inert where it is printed.
#[track_caller]
pub fn assert_told(text: &str) {
    assert!(!text.is_empty() && text.len() < 8000, "{text:?}");
}
