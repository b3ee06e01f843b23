"""The app in Python: connections and cursors that stay for ever. Speaks what app.mjs of tests/node speaks, whose head tells it.

held.py NAME=PATH...
"""

import json
import pathlib
import sqlite3
import sys


class App:
    def __init__(self, path):
        uri = pathlib.Path(path).absolute().as_uri() + "?mode=rw"
        # Every statement stays prepared.
        self.connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60, cached_statements=1000)
        self.cursor = self.connection.cursor()
        self.cursors = {}

    def run(self, sql, values):
        self.cursor.execute(sql, values)
        if self.cursor.description is None:
            return {"changes": max(self.cursor.rowcount, 0)}
        return {"rows": self.cursor.fetchall()}

    def step(self, sql):
        if sql not in self.cursors:
            self.cursors[sql] = self.connection.cursor().execute(sql)
        row = self.cursors[sql].fetchone()
        if row is None:
            del self.cursors[sql]
        return {"row": row}


def obey(command):
    app = apps[command["db"]]
    try:
        return app.step(command["sql"]) if command.get("step") else app.run(command["sql"], command["values"])
    except sqlite3.Error as error:
        return {"error": getattr(error, "sqlite_errorname", type(error).__name__), "message": str(error)}


apps = {}
for argument in sys.argv[1:]:
    name, path = argument.split("=", 1)
    apps[name] = App(path)
print('"ready"', flush=True)
for line in sys.stdin:
    print(json.dumps(obey(json.loads(line))), flush=True)
for app in apps.values():
    app.connection.close()
