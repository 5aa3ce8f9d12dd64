"""The environment of the published Starfish packages, ``.starfish-venv``, and the programs that run in it.

The client of these packages and this package's queue meet in it: ``PYTHONPATH`` puts the checkout before the published
``starfish-outbox`` that is installed there. The published one is used by what runs with ``published=True``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import venv
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
ENVIRONMENT: Final = ROOT / ".starfish-venv"
PINS: Final = Path(__file__).with_name("requirements.txt")


def interpreter() -> Path:
    """The interpreter of the environment, which is made when it is missing or of other versions (some 20 seconds).

    Raises:
        RuntimeError: it cannot be made; with what pip said.
    """
    python = ENVIRONMENT / "bin/python"
    stamp = ENVIRONMENT / PINS.name
    with PINS.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs that start at once, one makes it
        if not stamp.exists() or stamp.read_bytes() != PINS.read_bytes():
            with tempfile.TemporaryDirectory(dir=ROOT, prefix=".starfish-venv-") as folder:
                fresh = Path(folder) / "venv"
                venv.create(fresh, with_pip=True, symlinks=True)
                pip = [str(fresh / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
                install = [*pip, "--no-deps", "--require-hashes", "--requirement", str(PINS)]
                done = subprocess.run(install, stderr=subprocess.PIPE, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(
                        f"The published Starfish packages could not be installed by {PINS.relative_to(ROOT)} into "
                        f"{ENVIRONMENT.name}; pip said:\n{done.stderr}"
                    )
                shutil.copy(PINS, fresh / PINS.name)
                if ENVIRONMENT.exists():
                    ENVIRONMENT.rename(Path(folder) / "old")
                fresh.rename(ENVIRONMENT)
    return python


class EndedError(Exception):
    """The program is gone."""


class Program:
    """A child process of that environment that is asked one JSON line at a time and answers with one.

    Args:
        name: the module of ``tests.starfish``.
        log: where its standard error goes.
        published: run it beside the published packages only, without anything of this checkout.
    """

    def __init__(self, name: str, log: Path, *, published: bool = False) -> None:
        python = str(interpreter())
        file = str(Path(__file__).with_name(f"{name}.py"))
        command = [python, "-I", file] if published else [python, "-m", f"tests.starfish.{name}"]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what it had not read yet
                    pipe.close()

    async def ask(self, op: str, **arguments: Any) -> Any:
        """What it answers.

        Raises:
            EndedError: it was killed, or it ended by itself; then with the end of its log.
        """
        return await asyncio.to_thread(self.ask_now, op, **arguments)

    def ask_now(self, op: str, **arguments: Any) -> Any:
        """The same for who has no loop."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise EndedError("\n".join(self._log.read_text("utf-8", "replace").splitlines()[-10:]))
        return json.loads(line)

    def kill(self) -> None:
        """SIGKILL; when it returns the process is gone."""
        self._process.kill()
        self._process.wait()
