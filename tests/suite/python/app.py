"""The app, told what to do: `NUMBER SQL` a line on standard input, and the rows as JSON, or the error, as the answer.

app.py PATH...: one connection a path, none of which waits for a lock. It ends when standard input does.
"""

import json
import sqlite3
import sys

connections = [sqlite3.connect(path, isolation_level=None, timeout=0) for path in sys.argv[1:]]
print("ready", flush=True)
for line in sys.stdin:
    number, sql = line.split(" ", 1)
    try:
        answer = json.dumps(connections[int(number)].execute(sql).fetchall())
    except sqlite3.Error as error:
        answer = f"error: {error}"
    print(answer, flush=True)
