"""What a benchmark has measured, beside its peer: `--json FILE` of each writes it, and `scripts/bench_table` makes docs/benchmarks.md of all.
And in which environment the program is run for that."""

import datetime
import json
import os
import subprocess
from pathlib import Path


class Figures:
    """The figures of one benchmark, in rows. Less is better in all of them."""

    def __init__(self, title, about, tools=()):
        self.told = {"title": title, "about": about, "tools": list(tools), "rows": []}

    def add(self, what, unit, ours, peer=None, theirs=None, ratio=None, between=None):
        """What was measured, in which unit; of a peer its name and its figure. The ratio is ours by theirs, unless one is given (the
        median of pairs, say); where it is known so well only, it lies between two."""
        row = {"what": what, "unit": unit, "ours": ours, "peer": peer, "theirs": theirs}
        if theirs is not None:
            row["ratio"] = ours / theirs if ratio is None else ratio
        if between:
            row["between"] = between
        self.told["rows"].append(row)

    def write(self, path):
        """Does nothing where nobody wants it."""
        if path:
            self.told["at"] = at()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.told, indent=2) + "\n")


def at():
    """Today, and the commit that is measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True).stdout.strip()
    return f"{datetime.datetime.now(datetime.timezone.utc).date()}, {commit}"


def environment(settings=()):
    """This one's without what is set of the program, and these settings."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("BACKUP_")}
    return others | {name: str(value) for name, value in dict(settings).items()}
