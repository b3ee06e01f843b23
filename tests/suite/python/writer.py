"""The app: commits n to the first database and then n to the second, without pause, on connections that stay open.

writer.py FIRST SECOND [PAUSE_SECONDS]: prints "ready" after the first pair, ends when standard input does, and prints a JSON
line with how many pairs it committed and every error that it saw.
"""

import json
import select
import sqlite3
import sys
import time

paths = sys.argv[1:3]
pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
connections = [sqlite3.connect(path, isolation_level=None, timeout=5) for path in paths]
for connection in connections:
    connection.execute("CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
    connection.execute("INSERT OR IGNORE INTO counter VALUES (1, 0)")
n = connections[0].execute("SELECT n FROM counter").fetchone()[0]
errors = []
said_ready = False
slowest = 0.0
while not select.select([sys.stdin], [], [], 0)[0]:
    n += 1
    begun = time.monotonic()
    for connection in connections:
        try:
            connection.execute("UPDATE counter SET n = ? WHERE id = 1", (n,))
        except sqlite3.Error as error:
            errors.append(str(error))
    slowest = max(slowest, time.monotonic() - begun)
    if not said_ready:
        print("ready", flush=True)
        said_ready = True
    if pause:
        time.sleep(pause)
for connection in connections:
    connection.close()
print(json.dumps({"pairs": n, "errors": errors[:10], "slowest": slowest}), flush=True)
