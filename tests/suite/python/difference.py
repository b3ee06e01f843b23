"""Two random states of one database, and what differs between them, found without any order: by dictionaries.

difference.py make PATH SEED: a new database. difference.py change PATH SEED: rows come, go and change.
difference.py compare LIVE COPY: prints a JSON line, for each table its figures.
"""

import json
import random
import sqlite3
import sys
import urllib.parse

# Each table with its columns, and the key with its collations.
TABLES = {
    "plain": ("(a, b)", ["rowid"]),
    "numbered": ("(id INTEGER PRIMARY KEY, v)", ["id"]),
    "named": ("(name TEXT PRIMARY KEY, v)", ["name"]),
    "folded": ("(name TEXT COLLATE NOCASE PRIMARY KEY, v)", ["name NOCASE"]),
    "trimmed": ("(name TEXT, v, PRIMARY KEY (name COLLATE RTRIM))", ["name RTRIM"]),
    "pairs": ("(a, b TEXT, v, PRIMARY KEY (b DESC, a)) WITHOUT ROWID", ["b", "a"]),
    "loose": ("(k, l, v, PRIMARY KEY (k, l))", ["k", "l"]),
    "same": ("(id INTEGER PRIMARY KEY, v)", ["id"]),
}
WORDS = ["", " ", "a", "A", "a ", "b", "Ab", "aB ", "ä", "Ä", "z", "Z", "_", "\0", "a\0b", "\uffff", "\U00010000", "12", "1e3"]


def value(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice([0, 1, -1, 2**53 + 1, 2**53, 2**63 - 1, -(2**63), rng.randrange(-50, 50)])
    if kind == 1:
        return rng.choice([0.0, 1.0, 1.5, 2.0**53, 2.0**63, float("inf"), float("-inf"), rng.randrange(-50, 50) / 2])
    if kind == 2:
        return rng.choice(WORDS) + rng.choice(WORDS)
    if kind == 3:
        return rng.randbytes(rng.choice([0, 1, 1, 3, 9000]))
    return None if kind == 4 else rng.randrange(1000)


def name(rng):
    return "".join(rng.choice(WORDS) for _ in range(rng.randrange(4)))


def row(rng, table):
    if table == "plain":
        return [value(rng), value(rng)]
    if table in ("numbered", "same"):
        return [rng.randrange(-2000, 2000), value(rng)]
    if table in ("named", "folded", "trimmed"):
        return [rng.choice([None, name(rng), name(rng), name(rng)]), value(rng)]
    if table == "pairs":
        return [rng.randrange(9) if rng.random() < 0.5 else name(rng), name(rng), value(rng)]
    return [value(rng), value(rng), value(rng)]


def insert(connection, rng, table, rows):
    for _ in range(rows):
        values = row(rng, table)
        connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * len(values))})", values)


def make(path, seed):
    rng = random.Random(seed)
    connection = sqlite3.connect(path)
    if seed % 3 == 2:
        connection.execute("PRAGMA encoding='UTF-16le'")
    connection.execute(f"PRAGMA journal_mode={'WAL' if seed % 2 else 'DELETE'}")
    for table, (columns, _) in TABLES.items():
        connection.execute(f"CREATE TABLE {table} {columns}")
        connection.execute(f"CREATE INDEX {table}_v ON {table} ({'a' if table == 'plain' else 'v'})")
        insert(connection, rng, table, 400)
    connection.commit()


def change(path, seed):
    rng = random.Random(-seed)
    connection = sqlite3.connect(path)
    for table, (_, key) in TABLES.items():
        if table == "same":
            continue
        where = " AND ".join(f"{part.split()[0]} IS ?" for part in key)
        names = ", ".join(part.split()[0] for part in key)
        for chosen in connection.execute(f"SELECT {names} FROM {table}").fetchall():
            way = rng.randrange(12)
            if way == 0:
                connection.execute(f"DELETE FROM {table} WHERE {where}", chosen)
            elif way == 1:
                column = "b" if table == "plain" else "v"
                connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {where}", (value(rng), *chosen))
            elif way == 2 and table == "folded" and chosen[0] is not None:
                connection.execute(f"UPDATE OR IGNORE {table} SET name = ? WHERE {where}", (chosen[0].swapcase(), *chosen))
        insert(connection, rng, table, 60)
    connection.commit()


def folded(value, collation):
    if isinstance(value, str) and collation == "NOCASE":
        # Of ASCII alone, and no further than a NUL.
        text = value.split("\0")[0]
        return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in text), len(value.encode())
    if isinstance(value, str) and collation == "RTRIM":
        return value.rstrip(" ")
    return value


def rows(connection, table):
    columns, key = TABLES[table]
    parts = [(part + " ").split(" ")[:2] for part in key]
    rowid = "rowid" if "WITHOUT ROWID" not in columns else "NULL"
    names = ", ".join(part for part, _ in parts)
    found = {}
    for row in connection.execute(f"SELECT {rowid}, {names}, * FROM {table}"):
        values = [folded(value, collation) for value, (_, collation) in zip(row[1:], parts)]
        # A key that is NULL is no key.
        whose = (row[0] if None in values else None, *values)
        assert whose not in found, (table, whose)
        found[whose] = [(type(value).__name__, value) for value in row[1 + len(parts):]]
    return found


def compare(live, copy):
    def opened(path, how):
        return sqlite3.connect("file:" + urllib.parse.quote(path) + how, uri=True)

    live, copy = opened(live, "?mode=rw"), opened(copy, "?immutable=1")
    figures = {}
    for table in TABLES:
        now, then = rows(live, table), rows(copy, table)
        both = now.keys() & then.keys()
        changed = sum(now[key] != then[key] for key in both)
        figures[table] = {"now": len(now), "then": len(then), "onlyNow": len(now) - len(both),
                          "onlyThen": len(then) - len(both), "changed": changed, "complete": True}
    print(json.dumps(figures))


if sys.argv[1] == "compare":
    compare(*sys.argv[2:])
else:
    {"make": make, "change": change}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
