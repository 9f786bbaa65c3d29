"""`RealPostgres`: Debian's PostgreSQL on loopback in a folder of its own, as a user that may run it."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

INSTALL = "PostgreSQL is not installed: apt-get install postgresql"
ROOTS = ("nobody", "postgres")  # who runs the server where the tests run as root, which PostgreSQL refuses


def binaries() -> Path | None:
    """The folder of initdb and postgres, newest version first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]), reverse=True)
    if found:
        return found[0].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).parent


def need_postgres() -> Path:
    """Skip with what to install where there is no PostgreSQL; in CI (CI=true) that is a failure."""
    folder = binaries()
    if folder is not None:
        return folder
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(INSTALL)
    pytest.skip(INSTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealPostgres:
    """One server of the tests' own: ``with RealPostgres(need_postgres()) as server: server.database()``."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Not pytest's folder: that belongs to root alone, and the server runs as somebody else.
        self.folder = Path(tempfile.mkdtemp(prefix="harmony-postgres-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._names = (f"journal_{i}" for i in itertools.count())
        self._as: dict[str, Any] = {"cwd": self.folder, "env": {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}}
        if os.geteuid() == 0:
            user = next(u for u in map(_user, ROOTS) if u is not None)
            self._as |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self.folder, user.pw_uid, user.pw_gid)

    def start(self) -> Self:
        data = self.folder / "data"
        if not data.exists():
            command = [str(self._programs / "initdb"), "-D", str(data), "-U", "harmony", "-A", "trust", "--no-sync"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, **self._as)
            assert done.returncode == 0, done.stdout + done.stderr
        command = [str(self._programs / "postgres"), "-D", str(data), "-p", str(self.port), "-h", "127.0.0.1"]
        command += ["-k", str(self.folder), "-F", "-c", "max_connections=50"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as)
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            try:
                with psycopg.connect(self._dsn("postgres"), connect_timeout=2):
                    return self
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.05)

    def database(self) -> str:
        """The address of a fresh, empty database."""
        name = next(self._names)
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://harmony:never-shown@127.0.0.1:{self.port}/{name}"

    def _dsn(self, name: str) -> str:
        return f"postgresql://harmony@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # "fast" shutdown: sessions are cut off
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
