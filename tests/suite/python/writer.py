"""The app: commits n to the first database and then n to the second, without pause, on connections that stay open.

writer.py FIRST SECOND [PAUSE_SECONDS [SYNCHRONOUS]]: prints "ready" after the first pair, ends when standard input does, and prints a JSON
line with how many pairs it committed, every error that it saw, and how long the slowest pair was kept waiting. It waits a minute
for a lock: how fast the machine is just now makes no error.
"""

import json
import select
import sqlite3
import sys
import threading
import time

paths = sys.argv[1:3]
pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
connections = [sqlite3.connect(path, isolation_level=None, timeout=60) for path in paths]
for connection in connections:
    if len(sys.argv) > 4:
        connection.execute(f"PRAGMA synchronous={sys.argv[4]}")
    connection.execute("CREATE TABLE IF NOT EXISTS counter (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
    connection.execute("INSERT OR IGNORE INTO counter VALUES (1, 0)")
n = connections[0].execute("SELECT n FROM counter").fetchone()[0]
errors = []
said_ready = False
slow, slowest = [], 0.0
# While this process has no time for anything, nobody keeps it waiting.
pauses = []


def beat():
    last = time.monotonic()
    while True:
        time.sleep(0.01)
        now = time.monotonic()
        if now - last > 0.05:
            pauses.append((last, now))
        last = now


def waited(begun, ended):
    return ended - begun - sum(max(0.0, min(ended, until) - max(begun, since)) for since, until in pauses)


threading.Thread(target=beat, daemon=True).start()
while not select.select([sys.stdin], [], [], 0)[0]:
    n += 1
    begun = time.monotonic()
    for connection in connections:
        try:
            connection.execute("UPDATE counter SET n = ? WHERE id = 1", (n,))
        except sqlite3.Error as error:
            errors.append(str(error))
    ended = time.monotonic()
    if ended - begun > 0.1:
        slow.append((begun, ended))
    else:
        slowest = max(slowest, ended - begun)
    if not said_ready:
        print("ready", flush=True)
        said_ready = True
    if pause:
        time.sleep(pause)
for connection in connections:
    connection.close()
# The beat that comes after a pause knows of it.
time.sleep(0.1)
slowest = max([slowest, *(waited(*commit) for commit in slow)])
print(json.dumps({"pairs": n, "errors": errors[:10], "slowest": slowest}), flush=True)
