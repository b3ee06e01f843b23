#!/usr/bin/env python3
"""Write OUTDIR/attendance.db and OUTDIR/auth.db, two WAL-mode SQLite databases like those of a school.

The attendance database grows, one school day after another, until its main file reaches SIZE_MB
(of 1,000,000 bytes). The same SIZE_MB and seed always give the same rows.
"""

import argparse
import datetime
import random
import sqlite3
from pathlib import Path

ATTENDANCE_SCHEMA = """
CREATE TABLE "groups" (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    room TEXT NOT NULL
);
CREATE TABLE people (
    id INTEGER PRIMARY KEY,
    card_number TEXT NOT NULL UNIQUE,
    given_name TEXT NOT NULL,
    family_name TEXT NOT NULL,
    guardian_email TEXT,
    group_id INTEGER NOT NULL REFERENCES "groups"(id),
    enrolled_on TEXT NOT NULL
);
CREATE INDEX people_by_group ON people(group_id, family_name);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    group_id INTEGER NOT NULL REFERENCES "groups"(id),
    subject TEXT NOT NULL,
    starts_at TEXT NOT NULL,
    minutes INTEGER NOT NULL,
    UNIQUE (group_id, starts_at)
);
CREATE INDEX events_by_start ON events(starts_at);
CREATE TABLE marks (
    id INTEGER PRIMARY KEY,
    event_id INTEGER NOT NULL REFERENCES events(id) ON DELETE CASCADE,
    person_id INTEGER NOT NULL REFERENCES people(id),
    status TEXT NOT NULL CHECK (status IN ('present', 'late', 'absent', 'excused')),
    marked_at TEXT NOT NULL,
    marked_by INTEGER NOT NULL, -- a user of auth.db
    note TEXT,
    request_id TEXT NOT NULL, -- chosen by the tablet, which may send a mark twice
    UNIQUE (event_id, person_id)
);
CREATE INDEX marks_by_person ON marks(person_id, marked_at);
CREATE INDEX marks_missed ON marks(status, marked_at) WHERE status <> 'present';
"""

AUTH_SCHEMA = """
CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    login TEXT NOT NULL UNIQUE COLLATE NOCASE,
    display_name TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('admin', 'office', 'teacher'))
);
CREATE TABLE sessions (
    token_hash BLOB PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    address TEXT NOT NULL,
    user_agent TEXT
) WITHOUT ROWID;
CREATE INDEX sessions_by_user ON sessions(user_id);
CREATE INDEX sessions_by_last_seen ON sessions(last_seen_at);
"""

INSERT_MARK = """
INSERT INTO marks (event_id, person_id, status, marked_at, marked_by, note, request_id)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

GIVEN_NAMES = (
    "Aïcha Alexander Amelie Bogdan Chiara Désirée Emre Farah Gustav Hüseyin Ines Jakub Katarzyna Leon "
    "Mathéo Milan Nadia Noah Olga Per Rahel Sigrún Tomáš Ulrike Valentina Wiktor Yusuf Zsófia 美咲 Олена"
).split()
FAMILY_NAMES = (
    "Abadi Álvarez Bergström Çelik Dubois Eder Ferreira Görgülü Hoffmann Ilić Jørgensen Keller Lindqvist "
    "Meyer Nguyễn O'Brien Popescu Richter Şahin Schröder Szabó Tkachenko Urban Vogel Wiśniewska Zimmermann"
).split()
SUBJECTS = "Art Biology Chemistry Chorus English French Geography German History Latin Maths Music PE Physics".split()
USER_AGENTS = (
    "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:115.0) Gecko/20100101 Firefox/115.0",
    None,
)
NOTES = {
    "late": ("Bus was late", "Train cancelled, came with the next one", "Overslept", None, None),
    "absent": ("Parents not reached by telephone", "Office informed", None, None),
    "excused": ("Dentist", "Sick note until Friday", "Away with the orchestra", "Driving test", None),
}
STATUSES = ("present", "late", "absent", "excused")
STATUS_TOTALS = (88, 92, 96, 100)  # cumulative percentages
LESSON_HOURS = (8, 10, 11, 13)

FIRST_DAY = datetime.date(2020, 9, 1)
PAGE_SIZE = 4096
DAYS_PER_COMMIT = 20
# A formatted time for each second of a day: formatting one for each of millions of marks is slow.
CLOCK = [f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in range(86400)]


def create_database(path, schema):
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    db.execute("PRAGMA journal_mode = WAL")
    # A generator that is cut off is simply run again, so there is nothing here to keep safe.
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -512000")
    db.executescript(schema)
    return db


def finish_database(db):
    busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise SystemExit("another process is using the database")
    db.close()


def make_name(rng):
    return rng.choice(GIVEN_NAMES), rng.choice(FAMILY_NAMES)


def add_groups(db, rng, count):
    """Insert the groups with their people and return the person ids of each group."""
    members, next_id = {}, 1
    for group in range(1, count + 1):
        name = f"{5 + group % 8}{'abcdefghijklmnopqrstuvwxyz'[group // 8 % 26]}-{group}"
        db.execute('INSERT INTO "groups" VALUES (?, ?, ?)', (group, name, f"Room {rng.randrange(100, 400)}"))
        members[group] = list(range(next_id, next_id + rng.randrange(18, 31)))
        next_id = members[group][-1] + 1
        db.executemany(
            "INSERT INTO people VALUES (?, ?, ?, ?, ?, ?, ?)", (make_person(rng, i, group) for i in members[group])
        )
    return members


def make_person(rng, person, group):
    given, family = make_name(rng)
    email = f"guardian.{person}@families.example" if rng.random() < 0.9 else None
    return person, f"{rng.getrandbits(24):06X}-{person}", given, family, email, group, FIRST_DAY.isoformat()


def make_event_marks(rng, event, day, hour, people, teacher):
    """Yield the marks of one event in the order in which the people come in."""
    people = rng.sample(people, len(people))
    second = hour * 3600 - 240
    for person, status in zip(people, rng.choices(STATUSES, cum_weights=STATUS_TOTALS, k=len(people))):
        second += int(rng.random() * 25)
        note = None if status == "present" else rng.choice(NOTES[status])
        marked_at = f"{day}T{CLOCK[second]}.{rng.getrandbits(16) % 1000:03}Z"
        yield event, person, status, marked_at, teacher, note, f"{rng.getrandbits(128):032x}"


def add_day(db, rng, day, members, users):
    """Insert the events and marks of one school day, and some corrections that the office makes later."""
    for group, people in members.items():
        for hour in LESSON_HOURS:
            starts_at = f"{day}T{hour:02}:00:00Z"
            event = db.execute(
                "INSERT INTO events (group_id, subject, starts_at, minutes) VALUES (?, ?, ?, ?)",
                (group, rng.choice(SUBJECTS), starts_at, rng.choice((45, 90))),
            ).lastrowid
            db.executemany(
                INSERT_MARK,
                make_event_marks(rng, event, day, hour, people, rng.randrange(users) + 1),
            )
    correct_marks(db, rng, len(members))


def correct_marks(db, rng, count):
    """Excuse absences in marks of any age, as changes of old rows are what fragments a real file."""
    newest = db.execute("SELECT max(id) FROM marks").fetchone()[0]
    db.executemany(
        "UPDATE marks SET status = 'excused', note = ? WHERE id = ? AND status = 'absent'",
        [(rng.choice(NOTES["excused"]), rng.randrange(newest) + 1) for _ in range(count * 5)],
    )


def school_days():
    day = FIRST_DAY
    while True:
        if day.weekday() < 5:
            yield day
        day += datetime.timedelta(days=1)


def fill_attendance(db, rng, size, users):
    # The number of groups grows with the root of the size, so a larger file is also a longer history.
    db.execute("BEGIN")
    members = add_groups(db, rng, max(4, round(2.5 * (size / 1e6) ** 0.5)))
    for number, day in enumerate(school_days()):
        add_day(db, rng, day, members, users)
        if db.execute("PRAGMA page_count").fetchone()[0] * PAGE_SIZE >= size:
            break
        if number % DAYS_PER_COMMIT == 0:
            db.execute("COMMIT")
            db.execute("BEGIN")
    db.execute("COMMIT")


def make_user(rng, user):
    given, family = make_name(rng)
    password_hash = f"$argon2id$v=19$m=19456,t=2,p=1${rng.randbytes(16).hex()}${rng.randbytes(32).hex()}"
    role = "admin" if user <= 2 else "office" if user <= 6 else "teacher"
    return user, f"staff{user}@school.example", f"{given} {family}", password_hash, role


def make_session(rng, users):
    created = 1_700_000_000 + rng.randrange(30 * 86400)
    address = f"10.{rng.randrange(4)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
    last_seen = created + rng.randrange(14 * 86400)
    return rng.randbytes(32), rng.randrange(users) + 1, created, last_seen, address, rng.choice(USER_AGENTS)


def fill_auth(db, rng, users):
    db.execute("BEGIN")
    db.executemany("INSERT INTO users VALUES (?, ?, ?, ?, ?)", (make_user(rng, i + 1) for i in range(users)))
    db.executemany(
        "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)", (make_session(rng, users) for _ in range(users * 6))
    )
    db.execute("COMMIT")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outdir", type=Path, metavar="OUTDIR")
    parser.add_argument("size_mb", type=int, metavar="SIZE_MB")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    arguments.outdir.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{arguments.size_mb}:{arguments.seed}")
    users = 40 + 2 * arguments.size_mb
    paths = [arguments.outdir / name for name in ("attendance.db", "auth.db")]

    attendance = create_database(paths[0], ATTENDANCE_SCHEMA)
    fill_attendance(attendance, rng, arguments.size_mb * 1_000_000, users)
    marks = attendance.execute("SELECT max(id) FROM marks").fetchone()[0]
    finish_database(attendance)

    auth = create_database(paths[1], AUTH_SCHEMA)
    fill_auth(auth, rng, users)
    finish_database(auth)

    for path in paths:
        print(f"{path}: {path.stat().st_size} bytes")
    print(f"{marks} marks, {users} users")


if __name__ == "__main__":
    main()
