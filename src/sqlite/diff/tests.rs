use std::path::{Path, PathBuf};

use rusqlite::types::Value;

use super::*;
use crate::sqlite::open_finished;

/// A live database and a copy, each made by its SQL.
struct Pair {
    dir: tempfile::TempDir,
}

#[allow(clippy::disallowed_methods)]
fn open(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

impl Pair {
    fn of(both: &str, now: &str, then: &str) -> Self {
        Self::made(now, then, |path, sql| open(path).execute_batch(&format!("{both}; {sql}")).unwrap())
    }

    /// By an app that has a function and a collation of its own.
    fn by_app(both: &str, now: &str, then: &str) -> Self {
        let app = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                   c.create_function('card', 1, lambda _: 7, deterministic=True); \
                   c.create_collation('swedish', lambda a, b: (a > b) - (a < b)); c.executescript(sys.argv[2])";
        Self::made(now, then, |path, sql| {
            let mut python = std::process::Command::new("python3");
            let made = python.args(["-c", app]).arg(path).arg(format!("{both}; {sql}")).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        })
    }

    fn made(now: &str, then: &str, make: impl Fn(&Path, &str)) -> Self {
        let pair = Self { dir: tempfile::tempdir().unwrap() };
        make(&pair.now(), now);
        make(&pair.then(), then);
        pair
    }

    fn now(&self) -> PathBuf {
        self.dir.path().join("now.db")
    }

    fn then(&self) -> PathBuf {
        self.dir.path().join("then.db")
    }

    fn try_compare(&self, bounds: &Bounds, control: &Control) -> Result<Difference, Failure> {
        let source = Source { name: "school".parse().unwrap(), path: self.now() };
        compare(&source, open_finished(&self.then()).unwrap(), &BTreeMap::new(), bounds, control)
    }

    fn compare(&self) -> Difference {
        self.try_compare(&bounds(), &Control::default()).unwrap()
    }

    /// A table of it, as `now then only-now only-then changed`.
    fn figures(&self, table: &str) -> String {
        figures(&self.compare().tables[table])
    }

    /// Why a table can't be compared.
    fn reason(&self, table: &str) -> String {
        let difference = self.compare();
        let table = &difference.tables[table];
        assert!(!table.complete && !difference.complete, "{table:?}");
        table.not_comparable.clone().unwrap_or_default()
    }
}

fn bounds() -> Bounds {
    Bounds { lock_timeout: Duration::from_secs(5), rollback_hold: Duration::from_secs(60) }
}

fn figures(table: &TableDifference) -> String {
    assert!(table.complete, "{table:?}");
    let numbers = [table.now, table.then, table.only_now, table.only_then, table.changed];
    numbers.map(|number| number.to_string()).join(" ")
}

#[test]
fn rows_are_matched_by_their_key_and_compared_by_value_and_type() {
    let cases = [
        // By rowid, under whatever name is left for it.
        ("CREATE TABLE t (a, b)", "(1, 2), (3, 4), (5, 6)", "(1, 2), (3, 5)", "3 2 1 0 1"),
        ("CREATE TABLE t (rowid, oid)", "(1, 2), (3, 4)", "(1, 2), (4, 4)", "2 2 0 0 1"),
        ("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", "(-9, 1), (4, 2)", "(4, 3), (9, 1)", "2 2 1 1 1"),
        ("CREATE TABLE t (a INTEGER PRIMARY KEY DESC, b)", "(1, 1), (4, 2)", "(4, 3), (9, 1)", "2 2 1 1 1"),
        // 1 and 1.0 are one key and two values; so are 'Ada' and 'ada' to NOCASE, 'x' and 'x ' to RTRIM.
        ("CREATE TABLE t (a PRIMARY KEY, b)", "(1, 0), ('1', 0), (x'31', 0)", "(1.0, 0), ('1', 0)", "3 2 1 0 1"),
        ("CREATE TABLE t (a TEXT COLLATE NOCASE PRIMARY KEY)", "('Ada'), ('b_')", "('ada'), ('bZ')", "2 2 1 1 1"),
        ("CREATE TABLE t (a TEXT COLLATE RTRIM PRIMARY KEY)", "('x'), ('y ')", "('x  '), ('y ')", "2 2 0 0 1"),
        (
            "CREATE TABLE t (a, b, PRIMARY KEY (a COLLATE nocase, b DESC))",
            "('A', 1), ('b', 2)",
            "('a', 1)",
            "2 1 1 0 1",
        ),
        (
            "CREATE TABLE t (a, b, c, PRIMARY KEY (b DESC, a)) WITHOUT ROWID",
            "(1, 2, 3), (2, 2, 3)",
            "(2, 2, 4)",
            "2 1 1 0 1",
        ),
        ("CREATE TABLE t (a INTEGER PRIMARY KEY, b) WITHOUT ROWID", "(1, NULL), (2, 0)", "(1, 0), (2, 0)", "2 2 0 0 1"),
        // A key that is NULL is no key: such rows are matched by rowid.
        (
            "CREATE TABLE t (a TEXT PRIMARY KEY, b)",
            "(NULL, 1), (NULL, 2), ('x', 3)",
            "(NULL, 1), (NULL, 3)",
            "3 2 1 0 1",
        ),
        // Beyond what a double holds exactly.
        ("CREATE TABLE t (a PRIMARY KEY, b)", "(9007199254740993, 0)", "(9007199254740992.0, 0)", "1 1 1 1 0"),
        ("CREATE TABLE t (a PRIMARY KEY, b)", "(9223372036854775807, 0)", "(9223372036854775808.0, 0)", "1 1 1 1 0"),
        (
            "CREATE TABLE t (a, b)",
            "(1, '2'), (1, x'32'), (1, NULL), (1, 2.5)",
            "(1, 2), (1, '2'), (1, 0), (1, 2.5)",
            "4 4 0 0 3",
        ),
    ];
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        for (table, now, then, expected) in cases {
            let insert = |rows| format!("INSERT INTO t VALUES {rows}");
            let both = format!("PRAGMA encoding='{encoding}'; {table}");
            let pair = Pair::of(&both, &insert(now), &insert(then));
            assert_eq!(pair.figures("t"), expected, "{encoding}: {table}: {now} / {then}");
        }
    }
}

/// The order that we know is the one that SQLite has, for every pair of values, collation and encoding.
#[test]
fn the_order_of_keys_is_sqlites() {
    let values = "(NULL), (0), (-1), (1), (1.0), (1.5), (-0.0), (9e999), (-9e999), (9223372036854775807),
        (-9223372036854775808), (9223372036854775808.0), (-9223372036854775808.0), (9007199254740993),
        (9007199254740992.0), (''), (' '), ('a'), ('A'), ('a '), ('a  '), ('B'), ('_'), ('[ '), ('ab'), ('a' || char(0)),
        ('a' || char(0) || 'b'), ('a' || char(0) || 'C'), ('ä'), ('Ä'), (char(65535)), (char(65536)), (char(55295)),
        (char(256)), (char(1)), (x''), (x'00'), (x'61'), (x'ff'), (x'6162')";
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        for collation in ["BINARY", "NOCASE", "RTRIM"] {
            let both = format!(
                "PRAGMA encoding='{encoding}'; CREATE TABLE t (a COLLATE {collation}, b INTEGER PRIMARY KEY);
                 CREATE TABLE k (a COLLATE {collation} PRIMARY KEY)"
            );
            let pair = Pair::of(&both, &format!("INSERT INTO t (a) VALUES {values}"), "");
            let connection = open(&pair.now());
            let reader = Reader { side: Side::Now, database: &"school".parse().unwrap(), connection: &connection };
            let table = schema::Table { name: "k".to_owned(), is_clustered: false };
            let columns = key::columns(&reader, &table).ok().unwrap();
            let key = key::Key::of(&reader, &table, &columns).ok().unwrap();
            // NULLs are told apart by rowid, which stands second.
            let sql = "SELECT a.a, a.b, b.a, b.b, CASE WHEN a.a IS NULL AND b.a IS NULL THEN a.b - b.b
                WHEN a.a IS NULL THEN -1 WHEN b.a IS NULL THEN 1
                WHEN a.a < b.a THEN -1 WHEN a.a > b.a THEN 1 ELSE 0 END FROM t a, t b";
            let mut statement = connection.prepare(sql).unwrap();
            let mut rows = statement.query([]).unwrap();
            let mut pairs = 0;
            while let Some(row) = rows.next().unwrap() {
                let expected = row.get::<_, i64>(4).unwrap().cmp(&0);
                let found = key.order(|at| row.get_ref(at).unwrap(), |at| row.get_ref(2 + at).unwrap());
                let shown: Vec<Value> = [0, 2].map(|at| row.get(at).unwrap()).into();
                assert_eq!(found, expected, "{encoding} {collation}: {shown:?}");
                pairs += 1;
            }
            assert_eq!(pairs, 40 * 40);
        }
    }
}

#[test]
fn columns_that_one_side_lacks_are_named_and_the_others_compared() {
    let pair = Pair::by_app(
        "",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name, email, n AS (id * 2), m AS (card(id)) STORED);
         INSERT INTO t VALUES (1, 'Ada', 'a@x'), (2, 'Ben', 'b@x')",
        "CREATE TABLE t (phone, NAME, id INTEGER PRIMARY KEY, n AS (id * 3), m AS (card(id)) STORED);
         INSERT INTO t VALUES ('5', 'Ada', 1), ('6', 'Benno', 2)",
    );
    let difference = pair.compare();
    let table = &difference.tables["t"];
    assert_eq!(figures(table), "2 2 0 0 1");
    let columns = table.columns.as_ref().unwrap();
    assert_eq!((columns.only_now.join(","), columns.only_then.join(",")), ("email".to_owned(), "phone".to_owned()));
    assert!(!table.is_same() && difference.schema.changed.len() == 1);
}

#[test]
fn the_schema_and_its_version_are_compared_by_what_differs() {
    let pair = Pair::of(
        "CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT, name); INSERT INTO people VALUES (1, 'Ada');
         CREATE INDEX same ON people (name); CREATE VIEW v AS SELECT 1;",
        "PRAGMA user_version=8; CREATE TABLE marks (x); INSERT INTO marks VALUES (1), (2); DROP VIEW v; CREATE VIEW v AS SELECT 2;
         CREATE TRIGGER g AFTER INSERT ON marks BEGIN SELECT 1; END; ANALYZE",
        "PRAGMA user_version=7; CREATE TABLE gone (x UNIQUE); INSERT INTO gone VALUES (1); CREATE INDEX i ON gone (x);",
    );
    let difference = pair.compare();
    assert_eq!(difference.user_version, Both { now: 8, then: 7 });
    let names = |objects: &[SchemaObject]| {
        objects.iter().map(|object| format!("{} {}", object.kind, object.name)).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(names(&difference.schema.only_now), "table marks, trigger g");
    assert_eq!(names(&difference.schema.only_then), "index i, table gone");
    assert_eq!(names(&difference.schema.changed), "view v");
    let tables: Vec<_> = difference.tables.iter().map(|(name, table)| (name.as_str(), figures(table))).collect();
    let expected = [("gone", "0 1 0 1 0"), ("marks", "2 0 2 0 0"), ("people", "1 1 0 0 0")];
    assert_eq!(tables, expected.map(|(name, figures)| (name, figures.to_owned())));
    assert!(difference.complete && difference.tables["people"].is_same());
}

#[test]
fn a_table_that_needs_the_apps_own_is_named_and_the_others_go_on() {
    let both = "CREATE TABLE own (name TEXT COLLATE swedish PRIMARY KEY); CREATE TABLE held (name TEXT COLLATE swedish PRIMARY KEY) WITHOUT ROWID;
        CREATE TABLE indexed (a, b, name TEXT COLLATE swedish CHECK (card(name) > 0)); CREATE INDEX i ON indexed (card(a));
        CREATE INDEX j ON indexed (name); CREATE TABLE t (a, c AS (card(a))); CREATE TABLE other (a PRIMARY KEY);
        INSERT INTO own VALUES ('Ada'), ('Ben'); INSERT INTO held VALUES ('Ada'); INSERT INTO indexed VALUES (1, 2, 'x'); INSERT INTO t VALUES (1)";
    let now = "INSERT INTO own VALUES ('Cy'); UPDATE indexed SET b = 3; INSERT INTO t VALUES (2)";
    let pair = Pair::by_app(both, now, "DROP TABLE other; CREATE TABLE other (a, b, PRIMARY KEY (b, a))");
    for name in ["own", "held"] {
        assert!(pair.reason(name).contains("collation `swedish`"), "{}", pair.reason(name));
    }
    assert!(pair.reason("other").contains("primary key is another"), "{}", pair.reason("other"));
    let difference = pair.compare();
    assert_eq!((difference.tables["own"].now, difference.tables["own"].then), (3, 2), "its rows are counted");
    assert_eq!(difference.tables["held"].now, 0, "not even that can be done without the collation");
    assert_eq!(figures(&difference.tables["indexed"]), "1 1 0 0 1");
    assert_eq!(figures(&difference.tables["t"]), "2 1 1 0 0");
}

#[test]
fn virtual_tables_are_compared_by_the_rows_that_they_keep() {
    let both = "CREATE VIRTUAL TABLE notes USING fts5(title, body); CREATE VIRTUAL TABLE bare USING fts5(x, content='');
        CREATE VIRTUAL TABLE old USING fts4(x); CREATE VIRTUAL TABLE boxes USING rtree(id, low, high);
        INSERT INTO notes VALUES ('a', 'one'), ('b', 'two'); INSERT INTO old VALUES ('x'); INSERT INTO boxes VALUES (1, 2, 3)";
    let now = "INSERT INTO notes VALUES ('c', 'three'); UPDATE notes SET body = 'other' WHERE title = 'a'";
    let pair = Pair::of(both, now, "DELETE FROM notes WHERE title = 'b'; INSERT INTO boxes VALUES (2, 2, 3)");
    let difference = pair.compare();
    assert_eq!(
        difference.tables.keys().collect::<Vec<_>>(),
        ["bare", "boxes", "notes", "old"],
        "and nothing from inside"
    );
    assert_eq!(figures(&difference.tables["notes"]), "3 1 2 0 1");
    assert_eq!(figures(&difference.tables["old"]), "1 1 0 0 0");
    for name in ["bare", "boxes"] {
        assert!(pair.reason(name).contains("virtual table"), "{}", pair.reason(name));
    }
    assert!(difference.schema.is_empty());
}

/// Names that SQL could trip over, and tables that stand in for what is asked.
#[test]
fn any_name_will_do() {
    let both = "CREATE TABLE \"a \"\"b\"\" 'c'; --\" (\"select\" TEXT PRIMARY KEY, \"t.\"\"x\" INT);
        INSERT INTO \"a \"\"b\"\" 'c'; --\" VALUES ('k', 1); CREATE TABLE t (t, \"t.t\"); INSERT INTO t VALUES (1, 2);
        CREATE TABLE pragma_table_list (name, type, wr); CREATE TABLE empty (x)";
    let pair = Pair::of(both, "UPDATE \"a \"\"b\"\" 'c'; --\" SET \"t.\"\"x\" = 2", "DELETE FROM t");
    assert_eq!(pair.figures("a \"b\" 'c'; --"), "1 1 0 0 1");
    assert_eq!(pair.figures("t"), "1 0 1 0 0");
    assert_eq!(pair.figures("empty"), "0 0 0 0 0");
}

/// BINARY compares bytes: two encodings are two orders, and what a walk in step would count is wrong.
#[test]
fn rows_in_another_order_than_is_known_are_not_compared() {
    let table = "CREATE TABLE t (a TEXT PRIMARY KEY); INSERT INTO t VALUES (char(65535)), (char(65536)), ('x')";
    let pair = Pair::of("", table, &format!("PRAGMA encoding='UTF-16be'; {table}"));
    assert!(pair.reason("t").contains("order"), "{}", pair.reason("t"));
    let difference = pair.compare();
    assert_eq!((difference.tables["t"].now, difference.tables["t"].then), (3, 3));
    let plain = "CREATE TABLE t (a TEXT PRIMARY KEY); INSERT INTO t VALUES ('ä'), ('b'), ('x')";
    let pair = Pair::of("", plain, &format!("PRAGMA encoding='UTF-16be'; {plain}; DELETE FROM t WHERE a = 'b'"));
    assert_eq!(pair.figures("t"), "3 2 1 0 0");
}

/// Where SQLite follows no index (sqlite.org/fileformat2.html, section 2.6.1, `unordered`), all rows would be in memory.
#[test]
fn nothing_is_sorted() {
    let both = "CREATE TABLE t (a TEXT PRIMARY KEY, b);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO t SELECT hex(i * 7919 % 20011), i FROM n; CREATE INDEX i ON t (b, a); ANALYZE";
    let then = "UPDATE t SET b = -b WHERE b % 1000 = 1";
    let pair = Pair::of(both, "DELETE FROM t WHERE b % 100 = 0", then);
    assert_eq!(pair.figures("t"), "19800 20000 0 200 20");
    let pair = Pair::of(both, "UPDATE sqlite_stat1 SET stat = '20000 1 unordered' WHERE idx LIKE '%auto%'", then);
    assert!(pair.reason("t").contains("sort"), "{}", pair.reason("t"));
}

fn numbered(rows: u64) -> String {
    format!(
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE TABLE alone (x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO t SELECT i, i % 100 FROM n"
    )
}

/// Whenever the time is up, no figure is more than there is.
#[test]
fn figures_of_a_comparison_that_ran_out_of_time_are_the_least_that_they_can_be() {
    let now = "UPDATE t SET b = -1 WHERE a % 10 = 0; DELETE FROM t WHERE a % 10 = 1";
    let pair = Pair::of(&numbered(1_200_000), now, "DELETE FROM t WHERE a % 10 = 2; INSERT INTO alone VALUES (1)");
    let truth = TableDifference {
        now: 1_080_000,
        then: 1_080_000,
        only_now: 120_000,
        only_then: 120_000,
        changed: 120_000,
        ..TableDifference::default()
    };
    let mut met = 0;
    // On a machine that has no time for it, the last comes to nothing now and then.
    for limit in [0, 1, 20, 60, 150].into_iter().chain([400; 20]) {
        let control = Control::default().within(Instant::now(), Duration::from_millis(limit));
        let difference = pair.try_compare(&bounds(), &control).unwrap();
        let found = &difference.tables["t"];
        assert!(!found.complete && !difference.complete && found.not_comparable.is_none(), "{limit} ms: {found:?}");
        assert!(found.now <= truth.now && found.then <= truth.then && found.changed <= truth.changed, "{found:?}");
        assert!(found.only_now <= truth.only_now && found.only_then <= truth.only_then, "{found:?}");
        met = met.max(found.changed);
        if limit == 400 && met > 0 {
            break;
        }
    }
    assert!(met > 0, "it never came so far as to find a difference");
    let found = pair.compare();
    assert_eq!(found.tables["t"], TableDifference { complete: true, ..truth });
    assert_eq!((figures(&found.tables["alone"]), found.complete), ("0 1 0 1 0".to_owned(), true));
}

/// Small tables come first, by what the copy is said to have.
#[test]
fn a_large_table_leaves_time_for_small_ones() {
    let pair = Pair::of(
        &numbered(600_000),
        "ALTER TABLE t RENAME TO a",
        "ALTER TABLE t RENAME TO a; INSERT INTO alone VALUES (1)",
    );
    let rows = [("a".to_owned(), 600_000), ("alone".to_owned(), 1)].into();
    let source = Source { name: "school".parse().unwrap(), path: pair.now() };
    let compared = |limit| {
        let control = Control::default().within(Instant::now(), Duration::from_millis(limit));
        compare(&source, open_finished(&pair.then()).unwrap(), &rows, &bounds(), &control).unwrap()
    };
    // How long the small one takes is the machine's doing.
    let mut tried = [60, 60, 60, 120, 120, 240].into_iter().map(compared);
    let difference = tried.find(|difference| difference.tables["alone"].complete).unwrap();
    assert_eq!(figures(&difference.tables["alone"]), "0 1 0 1 0");
    assert!(!difference.tables["a"].complete);
}

#[test]
fn a_rollback_journal_database_is_held_no_longer_than_allowed_and_a_locked_one_is_waited_for() {
    let pair = Pair::of(&numbered(400_000), "", "");
    let hold = Duration::from_millis(20);
    let bounds = Bounds { lock_timeout: Duration::from_millis(300), rollback_hold: hold };
    let difference = pair.try_compare(&bounds, &Control::default()).unwrap();
    assert!(!difference.tables["t"].complete);
    let writer = open(&pair.now());
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let begun = Instant::now();
    let refused = pair.try_compare(&bounds, &Control::default());
    assert!(matches!(refused, Err(Failure::Live(Error::Locked { .. }))), "{refused:?}");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    let control = Control::default();
    control.cancel();
    assert!(matches!(pair.try_compare(&bounds, &control), Err(Failure::Live(Error::Cancelled))));
    writer.execute_batch("ROLLBACK; PRAGMA journal_mode=WAL").unwrap();
    let whole = pair.try_compare(&bounds, &Control::default()).unwrap();
    assert_eq!(figures(&whole.tables["t"]), "400000 400000 0 0 0", "nobody waits in WAL mode");
}

#[test]
fn a_cancelled_comparison_gives_no_figures() {
    let pair = Pair::of(&numbered(1_200_000), "", "");
    let cancelled = || {
        let control = Control::default();
        std::thread::scope(|scope| {
            let compared = scope.spawn(|| pair.try_compare(&bounds(), &control));
            std::thread::sleep(Duration::from_millis(50));
            control.cancel();
            compared.join().unwrap()
        })
    };
    // Where the machine had no time for us it is done before that, and then all of it.
    let is_cancelled = |done: Result<Difference, Failure>| match done {
        Ok(whole) if whole.complete => false,
        Err(Failure::Live(Error::Cancelled)) => true,
        other => panic!("{other:?}"),
    };
    assert!((0..4).any(|_| is_cancelled(cancelled())), "it is never cancelled");
}

#[test]
fn each_side_tells_its_own_damage() {
    let rows = "CREATE TABLE t (a INTEGER PRIMARY KEY, b);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, hex(i) FROM n";
    let spoil = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[8192..8200].fill(0xff);
        std::fs::write(path, bytes).unwrap();
    };
    let pair = Pair::of(rows, "", "");
    spoil(&pair.then());
    let failed = pair.try_compare(&bounds(), &Control::default());
    assert!(matches!(failed, Err(Failure::Copy(Error::Corrupt { .. }))), "{failed:?}");
    let pair = Pair::of(rows, "", "");
    spoil(&pair.now());
    let failed = pair.try_compare(&bounds(), &Control::default());
    assert!(matches!(failed, Err(Failure::Live(Error::Corrupt { .. }))), "{failed:?}");
}
