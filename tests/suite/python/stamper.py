"""An app that counts: each number goes into the first database and then into the second, a commit each.

stamper.py FIRST SECOND PAUSE LOG: appends to LOG when a number was begun, and when each of its commits was there: `begun N SECONDS`,
`first N SECONDS`, `second N SECONDS`. Now and then it truncates the WAL of the first. It ends when it is killed; at SIGTERM between
two statements.
"""

import signal
import sqlite3
import sys
import time

signal.signal(signal.SIGTERM, lambda *_: sys.exit())

databases = [sqlite3.connect(path, isolation_level=None, timeout=30) for path in sys.argv[1:3]]
pause, log = float(sys.argv[3]), open(sys.argv[4], "a", buffering=1)
for database in databases:
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE IF NOT EXISTS stamps (n INTEGER, filler TEXT)")
number = databases[0].execute("SELECT coalesce(max(n), 0) FROM stamps").fetchone()[0]
while True:
    number += 1
    log.write(f"begun {number} {time.time():.6f}\n")
    for name, database in zip(("first", "second"), databases):
        database.execute("INSERT INTO stamps VALUES (?, hex(randomblob(200)))", (number,))
        log.write(f"{name} {number} {time.time():.6f}\n")
    if number % 60 == 0:
        databases[0].execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if number % 200 == 0:
        databases[0].execute("DELETE FROM stamps WHERE n < ?", (number - 150,))
    time.sleep(pause)
