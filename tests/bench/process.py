"""The processes in which systems are measured, seen from the program that measures."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from tests.bench.systems import System

ANSWER: Final = 120.0
"""Seconds in which a process must answer when nothing else is said."""


class TooSlowError(Exception):
    """It did not answer in time, and was killed."""


class UnavailableError(Exception):
    """The system is not built, or cannot do this."""


class BrokenError(Exception):
    """The process ended; the text holds the end of what it said."""


class Process:
    """One system on one folder; a context manager that leaves no process behind."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system = system
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder.with_name(f"{folder.name}.log")
        command, environ = system.command(folder)
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
            )
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, op: str, **arguments: Any) -> None:
        """Give an order; ``hear`` its answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # hear says what became of it
            self._process.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")

    def hear(self, patience: float = ANSWER) -> dict[str, Any]:
        """The answer to the last order.

        Raises:
            TooSlowError: it took more than ``patience`` seconds; the process is gone.
            BrokenError: the process ended.
            UnavailableError: the system is not built, or cannot do this.
        """
        line = self._line(patience)
        answer: dict[str, Any] = json.loads(line)
        for why in ("unsupported", "not_built"):
            if why in answer:
                raise UnavailableError(("not built: " if why == "not_built" else "") + answer[why])
        return answer

    def ask(self, op: str, patience: float = ANSWER, **arguments: Any) -> dict[str, Any]:
        """``tell`` and ``hear``."""
        self.tell(op, **arguments)
        return self.hear(patience)

    def kill(self) -> None:
        """SIGKILL; when it returns the process is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def end(self) -> None:
        """Close the system, and let the process end by itself."""
        self.ask("close")
        self.kill()

    def _line(self, patience: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + patience
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise TooSlowError(f"no answer within {patience:.0f} s")
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            if not data:
                code = self._process.wait()
                tail = self._log.read_text("utf-8", "replace").splitlines()[-6:]
                raise BrokenError(f"{self.system.name} ended with {code}:\n" + "\n".join(tail))
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line


@contextlib.contextmanager
def opened(system: System, folder: Path, patience: float = ANSWER) -> Iterator[Process]:
    """A process that has opened the folder; it is killed at the end.

    Raises:
        As `Process.hear`.
    """
    with Process(system, folder) as process:
        process.ask("open", patience)
        yield process
