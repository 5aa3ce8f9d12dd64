"""Fresh processes at a few milliseconds each: a process that has imported all and opened nothing forks on demand.

A worker is a function ``f(wire, *arguments)`` that is named ``module:function``. It reports lines of JSON on one pipe
and gets its orders on another. A process started here is a zombie until it is waited for, so its number names no other.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE: Final = 60.0
"""Seconds after which a worker that says nothing is taken to hang; none of them is slow."""


class Wire:
    """A worker's end of both pipes."""

    def __init__(self, reports: int, orders: int) -> None:
        self._reports = reports
        self._orders = os.fdopen(orders, encoding="utf-8")

    def say(self, *words: Any) -> None:
        """Report one line; it is in the pipe, and survives a kill, when this returns.

        With a system call that no storage uses, so that a tracer can tell reports from writes.
        """
        data = json.dumps(words).encode() + b"\n"
        while data:
            data = data[os.writev(self._reports, [data]) :]

    def hear(self) -> Any:
        """The next order; waits for it."""
        line = self._orders.readline()
        if not line:
            os._exit(3)  # the test is gone
        return json.loads(line)


class Worker:
    """The test's end: a started process."""

    def __init__(self, zygote: Zygote, pid: int, reports: int, orders: int) -> None:
        self.pid = pid
        self._zygote = zygote
        self._reports = reports
        self._orders = orders
        self._buffer = b""
        self._status: int | None = None

    def hears(self, timeout: float = PATIENCE) -> Any:
        """The next line that the worker reports, or None when it is gone and has said everything."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not select.select([self._reports], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"the worker {self.pid} said nothing for {timeout:g} s")
            data = os.read(self._reports, 1 << 16)
            if not data:
                return None
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def expect(self, word: str) -> list[Any]:
        """What the worker reports behind this word, which must come next."""
        line = self.hears()
        assert line is not None, f"the worker ended with status {self.wait()} before it said {word!r}"
        assert line[0] == word, line
        return list(line[1:])

    def rest(self) -> list[Any]:
        """Everything else that it reports until it is gone."""
        lines = []
        while (line := self.hears()) is not None:
            lines.append(line)
        return lines

    def tell(self, order: Any = None) -> None:
        """Give the next order."""
        os.write(self._orders, json.dumps(order).encode() + b"\n")

    def kill(self) -> None:
        """SIGKILL, now; reports already in the pipe can still be read."""
        os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP, and wait until it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while _state(self.pid) not in "Tt":
            assert time.monotonic() < deadline, f"{self.pid} would not stop"

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> int:
        """The exit code, or minus the signal that ended it, as ``subprocess`` has it."""
        if self._status is None:
            self._status = self._zygote.reap(self.pid)
        return self._status

    def close(self) -> None:
        """End it, if it still runs, and close the pipes."""
        if self._status is None:
            self.kill()
            self.wait()
        os.close(self._reports)
        os.close(self._orders)


class Zygote:
    """Starts workers; ``with`` it, and all that it started are ended at the end."""

    def __enter__(self) -> Self:
        self._socket, other = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.workers.zygote", str(other.fileno())], pass_fds=[other.fileno()], cwd=ROOT
        )
        other.close()
        self._workers: list[Worker] = []
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()
        self._socket.close()
        self._process.wait(PATIENCE)

    def start(self, function: str, *arguments: Any) -> Worker:
        """A new process that runs ``module:function`` with a wire and these arguments (JSON)."""
        reports, reports_theirs = os.pipe()
        orders_theirs, orders = os.pipe()
        request = json.dumps({"run": function, "arguments": arguments}).encode()
        socket.send_fds(self._socket, [request], [reports_theirs, orders_theirs])
        os.close(reports_theirs)
        os.close(orders_theirs)
        worker = Worker(self, self._answer(), reports, orders)
        self._workers.append(worker)
        return worker

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a worker reports that says one thing and ends."""
        worker = self.start(function, *arguments)
        lines = worker.rest()
        status = worker.wait()
        assert status == 0, f"{function} ended with {status}"
        assert len(lines) == 1, lines
        self.forget(worker)
        return lines[0]

    def forget(self, worker: Worker) -> None:
        """Close what is left of a worker."""
        worker.close()
        self._workers.remove(worker)

    def reap(self, pid: int) -> int:
        """See ``Worker.wait``."""
        self._socket.sendall(json.dumps({"reap": pid}).encode())
        return os.waitstatus_to_exitcode(self._answer())

    def _answer(self) -> int:
        answer = self._socket.recv(64)
        assert answer, f"the zygote ended with {self._process.wait()}"
        return int(answer)


def _state(pid: int) -> str:
    """The letter that the kernel has for what a process does."""
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]


def _serve(channel: socket.socket) -> None:
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 2)
        if not data:
            return
        request = json.loads(data)
        if "reap" in request:
            channel.sendall(str(os.waitpid(request["reap"], 0)[1]).encode())
            continue
        module, _, name = request["run"].partition(":")
        function = getattr(importlib.import_module(module), name)
        pid = os.fork()
        if pid == 0:
            channel.close()
            _run(function, Wire(*descriptors), request["arguments"])
        for descriptor in descriptors:
            os.close(descriptor)
        channel.sendall(str(pid).encode())


def _run(function: Any, wire: Wire, arguments: list[Any]) -> None:
    status = 1
    try:
        function(wire, *arguments)
        status = 0
    except BaseException:  # noqa: BLE001  # whatever it is, it is told; the fork must not go on as a second zygote
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    logging.getLogger("starfish_outbox").addHandler(logging.NullHandler())  # reports say what is said
    _serve(socket.socket(fileno=int(sys.argv[1])))
