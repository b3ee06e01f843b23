"""What the image promises, tried on one that was built. `scripts/image` runs it, on whichever engine there is."""

import contextlib
import glob
import gzip
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import tomllib

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Compressed, as a registry holds it.
MOST_BYTES = 60_000_000
# What compose gives a service to stop (stop_grace_period).
GRACE = 60
PROGRAM = "attendance-backup"
# The system's: one of root's own is closed to the app's user.
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or sys.executable
BEFORE_UPDATE = ["create", "--reason", "before update", "--wait", "10m", "--if-present"]


class Place:
    """A folder for the app's user, as the volume of docker-compose.yml, and the secret beside it."""

    def __init__(self, folder):
        # Root gives the app a user of its own; whoever else runs this is the app's user.
        self.user = (1234, 1234) if os.getuid() == 0 else (os.getuid(), os.getgid())
        self.data, self.secret = os.path.join(folder, "data"), os.path.join(folder, "jwt_secret")
        os.chmod(folder, 0o755)
        os.mkdir(self.data, 0o755)
        os.chown(self.data, *self.user)
        with open(self.secret, "w") as file:
            file.write(secrets.token_hex(32))
        os.chmod(self.secret, 0o444)
        # Where every user can read it.
        self.program = shutil.copy(os.path.join(HERE, "deploy/app/app.py"), folder)

    def env(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        return {
            "BACKUP_BIND": address,
            "BACKUP_TIMEZONE": "UTC",
            "BACKUP_JWT_SECRET_FILE": "/run/secrets/jwt_secret",
            "BACKUP_JWT_AUDIENCE": "attendance-backup",
        }

    def sql(self, name, sql):
        """As the app's user, who makes the files beside the database."""
        script = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)\n"
            "for row in c.execute(sys.argv[2]): print(*row)"
        )
        command = [*self.as_user(), PYTHON, "-c", script, os.path.join(self.data, f"{name}.db"), sql]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def as_user(self):
        if os.getuid() != 0:
            return []
        return ["setpriv", f"--reuid={self.user[0]}", f"--regid={self.user[1]}", "--clear-groups"]

    @contextlib.contextmanager
    def app(self):
        process = subprocess.Popen([*self.as_user(), PYTHON, self.program, self.data, "0.01"], stdout=subprocess.PIPE)
        try:
            process.stdout.readline()
            yield
            assert process.poll() is None, "the app has ended by itself"
        finally:
            process.terminate()
            process.wait()

    def unfinished(self):
        return glob.glob(os.path.join(self.data, "backups/**/.*.partial"), recursive=True)

    def backups(self):
        return sorted(glob.glob(os.path.join(self.data, "backups/*/attendance-*.db")))


class Trial:
    def __init__(self, engine, folder):
        self.engine, self.place = engine, Place(folder)
        self.env = self.place.env()

    def start(self, *args, user=None):
        return self.engine.start(self.place, [PROGRAM, *args], user or self.place.user, self.env)

    def run(self, *args, user=None, code=0):
        process = self.start(*args, user=user).process
        text, _ = process.communicate(timeout=600)
        assert process.returncode == code, f"{args} ended with {process.returncode} instead of {code}: {text}"
        return text

    def ended(self, running):
        """Stopped, and gone in time; says how it ended."""
        begun = time.monotonic()
        running.stop()
        text, _ = running.process.communicate(timeout=GRACE)
        print(f"    stopped after {time.monotonic() - begun:.1f} s")
        return running.process.returncode, text

    def configuration(self):
        """What docker and compose read from it: a user, a health check, a signal, labels."""
        config = self.engine.config()
        with open(os.path.join(HERE, "Cargo.toml"), "rb") as file:
            version = tomllib.load(file)["package"]["version"]
        assert config["User"] == "1000:1000", config
        assert config["Entrypoint"] == [PROGRAM] and config["Cmd"] == ["serve"], config
        assert config["Healthcheck"]["Test"] == ["CMD", PROGRAM, "healthcheck"], config
        assert config.get("StopSignal", "SIGTERM") in ("SIGTERM", "15"), config
        labels = config["Labels"]
        assert labels["org.opencontainers.image.version"] == version, labels
        told = self.run("--version")
        commit = labels["org.opencontainers.image.revision"][:7]
        assert told.startswith(f"{PROGRAM} {version} (") and f"commit {commit}" in told, told
        print(f"    {told.strip()}")

    def size(self, folder):
        """Less than 60 MB, compressed."""
        path, packed = os.path.join(folder, "image.tar"), os.path.join(folder, "image.tar.gz")
        self.engine.save(path)
        with open(path, "rb") as plain, gzip.open(packed, "wb", compresslevel=6) as out:
            shutil.copyfileobj(plain, out, 1 << 20)
        size = os.path.getsize(packed)
        print(f"    {size / 1e6:.1f} MB compressed")
        os.remove(path)
        os.remove(packed)
        assert size < MOST_BYTES

    def first_deployment(self):
        """Before the app has ever run there is nothing to back up, and nothing is in its way."""
        assert "nothing to back up yet" in self.run(*BEFORE_UPDATE)
        assert os.listdir(self.place.data) == []

    def users(self):
        """The doctor tells a wrong user, and root without capabilities; nothing is left beside the databases."""
        uid, gid = self.place.user
        assert f"ok       user: uid {uid}, gid {gid}, the owner" in self.run("doctor")
        wanted = f'user: "{uid}:{gid}"'
        for wrong in [(4321, 4321), (0, 0)]:
            told = self.run("doctor", user=wrong, code=1)
            assert "PROBLEM  user" in told and wanted in told, told
            self.run("create", user=wrong, code=1)
        for path in glob.glob(os.path.join(self.place.data, "*")):
            assert os.stat(path).st_uid == uid, path

    def deployment(self):
        """Each begins with a backup, while the app writes."""
        self.run(*BEFORE_UPDATE)
        assert "before update" in self.run("list", "--json")

    def service(self):
        """It serves, is healthy, restores under the writing app, and can write nowhere but to /data."""
        serving = self.start("serve")
        healthy(serving)
        status = serving.inside("sh", "-c", "grep -E '^(CapEff|CapBnd|NoNewPrivs|Uid)' /proc/self/status; touch /usr/x /tmp/x").stdout
        held = [line.split() for line in status.splitlines()]
        assert ["CapEff:", "0" * 16] in held and ["CapBnd:", "0" * 16] in held and ["NoNewPrivs:", "1"] in held, status
        assert status.count("Read-only file system") == 2, status
        names = "SELECT group_concat(name) FROM (SELECT name FROM people ORDER BY id)"
        backup = inside(serving, "create", "--reason", "before the mistake", "--wait", "1m").split(":")[0]
        self.place.sql("attendance", "UPDATE people SET name = 'Nobody'")
        inside(serving, "restore", backup, "--confirm", backup, "--wait", "1m")
        assert self.place.sql("attendance", names) == "Ada,Ben,Carla"
        count = lambda: int(self.place.sql("auth", "SELECT seen FROM users WHERE id = 1"))
        before = count()
        time.sleep(1)
        assert count() > before, "the app doesn't go on after the restore"
        inside(serving, "verify", "--all")
        code, text = self.ended(serving)
        assert code == 0, text

    def stopped_in_the_middle(self):
        """A backup that is stopped leaves nothing half-made, whoever takes it; the next start takes it."""
        rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)"
        self.place.sql("attendance", "CREATE TABLE blobs (bytes)")
        self.place.sql("attendance", f"INSERT INTO blobs SELECT randomblob(500000) FROM ({rows} SELECT i FROM n)")
        before = self.place.backups()
        taking = self.start("create")
        eventually("a backup under way", self.place.unfinished)
        code, text = self.ended(taking)
        assert code == 1 and "cancelled" in text, (code, text)
        assert self.place.unfinished() == [] and self.place.backups() == before
        shutil.rmtree(os.path.join(self.place.data, "backups"))
        serving = self.start("serve")
        eventually("the daily backup under way", self.place.unfinished)
        code, text = self.ended(serving)
        assert code == 0, text
        assert self.place.unfinished() == [] and self.place.backups() == []
        self.run("audit", "verify")
        serving = self.start("serve")
        eventually("the daily backup", self.place.backups)
        assert self.ended(serving)[0] == 0
        self.run("verify", "--all")


def inside(running, *args):
    run = running.inside(PROGRAM, *args)
    assert run.returncode == 0, f"{args}: {run.stdout}"
    return run.stdout


def healthy(running):
    eventually("a healthy service", lambda: running.inside(PROGRAM, "healthcheck").returncode == 0)


def eventually(what, holds):
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < 120, f"never happened: {what}"
        time.sleep(0.02)


def run(engine, folder):
    trial = Trial(engine, folder)

    def step(method, *args):
        print(f"{method.__doc__.strip()}", flush=True)
        method(*args)

    step(trial.configuration)
    step(trial.size, folder)
    step(trial.first_deployment)
    with trial.place.app():
        step(trial.users)
        step(trial.deployment)
        step(trial.service)
    step(trial.stopped_in_the_middle)
    print(f"the image is as promised ({engine.name})")
