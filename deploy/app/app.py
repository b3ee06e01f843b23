"""A stand-in for the app: makes `attendance.db` and `auth.db` in a folder when they aren't there, and writes to both.

app.py FOLDER [SECONDS]: a commit to each every SECONDS (0.5), on connections that stay open, until SIGTERM or SIGINT.
`users.seen` of the first user says how many rounds there were, and so does the number of marks.
"""

import os
import signal
import sqlite3
import sys
import threading

SCHEMA = {
    "attendance": """
        CREATE TABLE IF NOT EXISTS people (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS marks (id INTEGER PRIMARY KEY, person_id INTEGER NOT NULL REFERENCES people (id),
                                          at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, status TEXT NOT NULL);
        INSERT OR IGNORE INTO people VALUES (1, 'Ada'), (2, 'Ben'), (3, 'Carla');
    """,
    "auth": """
        CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, role TEXT NOT NULL,
                                          seen INTEGER NOT NULL DEFAULT 0);
        INSERT OR IGNORE INTO users (id, email, role) VALUES (1, 'head@school.example', 'superuser');
    """,
}


def connect(folder, name):
    # Others write too, for a moment: a restore. So wait for them.
    connection = sqlite3.connect(os.path.join(folder, f"{name}.db"), isolation_level=None, timeout=10)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript("BEGIN IMMEDIATE;" + SCHEMA[name] + "COMMIT;")
    return connection


def main():
    folder, pause = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    attendance, auth = connect(folder, "attendance"), connect(folder, "auth")
    print(f"writing to {folder}", flush=True)
    while not stopped.wait(pause):
        attendance.execute("INSERT INTO marks (person_id, status) VALUES (1 + abs(random()) % 3, 'present')")
        auth.execute("UPDATE users SET seen = seen + 1 WHERE id = 1")
    attendance.close()
    auth.close()


main()
