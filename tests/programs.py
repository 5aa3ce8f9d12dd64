"""Server programs that tests start, kill and start again on the same port."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any


def free_port() -> int:
    """A port that no connection gets by itself: below those that the system gives out, so that it stays free."""
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


class Program:
    """A program that says in a line of its output that it is ready.

    Attributes:
        said: every line so far.
    """

    def __init__(self, command: Sequence[str], ready: str, **options: Any) -> None:
        self._command = command
        self._ready = ready
        self._options: Mapping[str, Any] = options
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread()
        self.said: list[str] = []

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **self._options
        )
        assert self._process.stdout is not None
        lines = self._process.stdout
        for line in lines:
            self.said.append(line)
            if self._ready in line:
                break
        else:
            raise AssertionError(f"{self._command[0]} ended with {self._process.wait()}: {''.join(self.said)}")
        # Nobody reads what it says from here on, and a full pipe would stop it.
        self._reader = threading.Thread(target=lambda: self.said.extend(lines), daemon=True)
        self._reader.start()

    def kill(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """End it and wait until it is gone."""
        if self._process is not None:
            self._process.send_signal(with_signal)
            self._process.wait(30)
            self._reader.join(30)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
