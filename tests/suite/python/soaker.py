"""An app that works: each number goes into `attendance.db` and then into `auth.db`, a transaction each, with a row of its daily work.

soaker.py ATTENDANCE AUTH RATE LOG: so many commits a second in both together. A line of JSON in LOG for each commit: its number, its
database, when it was begun and when it was there, how many milliseconds it took, and the row that it left (null: it is gone). Now and
then it checkpoints a WAL. It goes on where the databases are. Told to end (SIGTERM) it ends after a line: what it did is in LOG.
"""

import json
import random
import signal
import sqlite3
import sys
import time

# A row of work of both, after which a number is found there: made before the first commit.
COUNTER = "CREATE TABLE IF NOT EXISTS soak (n INTEGER NOT NULL)"
CHECKPOINT_SECONDS = 20
STATUSES = ("present", "late", "absent", "excused")


class Attendance:
    """Marks are made, corrected and taken back."""

    def __init__(self, database, rng):
        self.database, self.rng = database, rng
        self.known = [key for (key,) in database.execute("SELECT id FROM marks")]
        self.people = [key for (key,) in database.execute("SELECT id FROM people")]
        self.event, self.left = None, []

    def work(self, number):
        turn = self.rng.random()
        if turn < 0.5 or not self.known:
            return self.insert(number)
        at = self.rng.randrange(len(self.known))
        if turn < 0.85:
            key, row = self.known[at], [self.rng.choice(STATUSES), f"corrected by {number}"]
            self.database.execute("UPDATE marks SET status = ?, note = ? WHERE id = ?", (*row, key))
            return key, row
        key, self.known[at] = self.known[at], self.known[-1]
        self.known.pop()
        self.database.execute("DELETE FROM marks WHERE id = ?", (key,))
        return key, None

    def insert(self, number):
        if not self.left:
            event = "INSERT INTO events (group_id, subject, starts_at, minutes) VALUES (1, 'Soak', ?, 45)"
            self.event, self.left = self.database.execute(event, (f"{time.time():.6f}",)).lastrowid, self.people.copy()
        row = [self.rng.choice(STATUSES), f"made by {number}"]
        mark = "INSERT INTO marks (event_id, person_id, status, note, marked_at, marked_by, request_id) VALUES (?, ?, ?, ?, ?, 1, ?)"
        values = (self.event, self.left.pop(), *row, f"{time.time():.3f}", self.rng.randbytes(16).hex())
        key = self.database.execute(mark, values).lastrowid
        self.known.append(key)
        return key, row


class Auth:
    """Sessions begin, are seen, and end."""

    def __init__(self, database, rng):
        self.database, self.rng = database, rng
        self.known = [key for (key,) in database.execute("SELECT hex(token_hash) FROM sessions")]

    def work(self, number):
        turn = self.rng.random()
        if turn < 0.3 or not self.known:
            key = self.rng.randbytes(32)
            self.database.execute("INSERT INTO sessions VALUES (?, 1, ?, ?, '192.0.2.7', NULL)", (key, number, number))
            self.known.append(key.hex().upper())
            return self.known[-1], [number]
        at = self.rng.randrange(len(self.known))
        key = self.known[at]
        if turn < 0.75:
            self.database.execute("UPDATE sessions SET last_seen_at = ? WHERE token_hash = ?", (number, bytes.fromhex(key)))
            return key, [number]
        self.known[at] = self.known[-1]
        self.known.pop()
        self.database.execute("DELETE FROM sessions WHERE token_hash = ?", (bytes.fromhex(key),))
        return key, None


def connect(path):
    database = sqlite3.connect(path, isolation_level=None, timeout=5)
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", COUNTER):
        database.execute(statement)
    database.execute("INSERT INTO soak SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM soak)")
    return database


def commit(name, database, app, number, log):
    begun, at = time.time(), time.perf_counter()
    database.execute("BEGIN IMMEDIATE")
    key, row = app.work(number)
    database.execute("UPDATE soak SET n = ?", (number,))
    database.execute("COMMIT")
    took = (time.perf_counter() - at) * 1000
    line = {"n": number, "db": name, "begun": begun, "done": time.time(), "ms": took, "key": key, "row": row}
    log.write(json.dumps(line) + "\n")


class Told:
    """Whether it was told to end."""

    def __init__(self):
        self.to_end = False
        signal.signal(signal.SIGTERM, self.note)

    def note(self, *_):
        self.to_end = True


def main():
    told = Told()
    rate, log = float(sys.argv[3]), open(sys.argv[4], "a", buffering=1)
    databases = [connect(path) for path in sys.argv[1:3]]
    rng = random.Random(1)
    apps = [Attendance(databases[0], rng), Auth(databases[1], rng)]
    number = databases[0].execute("SELECT n FROM soak").fetchone()[0]
    due = checkpointed = time.monotonic()
    rounds = 0
    while True:
        number += 1
        for name, database, app in zip(("attendance", "auth"), databases, apps):
            if told.to_end:
                return
            commit(name, database, app, number, log)
            # Whoever is late doesn't hurry.
            due = max(due + 1 / rate, time.monotonic() - 0.1)
            time.sleep(max(0, due - time.monotonic()))
        if time.monotonic() - checkpointed > CHECKPOINT_SECONDS:
            checkpointed, rounds = time.monotonic(), rounds + 1
            mode = ("PASSIVE", "TRUNCATE")[rounds // 2 % 2]
            databases[rounds % 2].execute(f"PRAGMA wal_checkpoint({mode})").fetchone()


main()
