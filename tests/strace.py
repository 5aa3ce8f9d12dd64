"""strace as an injector and as a witness: kills and errors at chosen system calls, and the order in which they ran.

Needs no privilege but ptrace. ``when=N`` counts for each system call and thread. ``--seccomp-bpf`` is not used: with it
strace 6.1 injects nothing, silently.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath
from typing import Final, NamedTuple, Protocol

from tests.workers.zygote import PATIENCE

STORAGE: Final = (
    "openat,write,pwrite64,fsync,fdatasync,ftruncate,fchmod,mkdir,rename,renameat,renameat2,unlink,unlinkat,writev"
)
"""What a store does to a disk, and ``writev``, which reports."""


@cache
def why_not() -> str:
    """Why nothing can be traced on this machine; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (Linux: apt-get install strace)"
    tried = subprocess.run(["strace", "-f", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()[-200:]}"


class Traceable(Protocol):
    """A process that waits for an order."""

    @property
    def pid(self) -> int: ...


class Tracer:
    """strace on a worker that waits, from ``with`` on; after it, the worker runs untraced.

    Leave the block while the worker waits for an order, or after it has been waited for.
    """

    def __init__(self, worker: Traceable, log: Path, *options: str) -> None:
        self._worker = worker
        self._command = ["strace", "-f", "-y", "-qq", "-s", "48", "-o", str(log), "-e", f"trace={STORAGE}", *options]

    def __enter__(self) -> None:
        self._process = subprocess.Popen([*self._command, "-p", str(self._worker.pid)])
        status = Path(f"/proc/{self._worker.pid}/status")
        deadline = time.monotonic() + PATIENCE
        while "\nTracerPid:\t0\n" in status.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise AssertionError(f"strace does not attach; it ended with {self._process.returncode}")

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + PATIENCE
        # It detaches, or has ended with a tracee that was killed. More than once: a signal that comes just before it
        # waits for the tracee's next call is taken note of after that call, which may never come.
        while self._process.poll() is None and time.monotonic() < deadline:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
        if self._process.poll() is None:
            self._end()
            raise AssertionError("strace does not detach")

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


class Call(NamedTuple):
    """One system call that ended: its thread, name, arguments as strace prints them, and answer."""

    thread: str
    name: str
    arguments: str
    answer: str


_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed>)(.*)")


def calls(log: Path) -> Iterator[Call]:
    """The calls of a log in the order in which they ended; one cut off by a kill has no answer."""
    begun: dict[str, str] = {}
    for line in log.read_text("utf-8", "replace").splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        thread, name, how, rest = found.groups()
        if rest.endswith("<unfinished ...>"):
            begun[thread] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        if how != "(":
            rest = begun.pop(thread, "") + rest
        arguments, _, answer = rest.rpartition(" = ")
        yield Call(thread, name, arguments.rstrip().removesuffix(")"), answer)


def counts(log: Path) -> dict[str, int]:
    """How often each system call ran in the thread that made it most: the points at which ``when=N`` can strike."""
    by_thread = Counter((call.thread, call.name) for call in calls(log))
    most: dict[str, int] = {}
    for (_, name), number in by_thread.items():
        most[name] = max(most.get(name, 0), number)
    return most


_FD_PATH = re.compile(r"\d+<([^>]*)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OWNERSHIP = re.compile(r"\.lock$|\.owner$|-owners(/|$)")  # lives as long as a process, so that a power cut may take it


class Durability:
    """Follows the calls of a store and knows what a power cut could take.

    Attributes:
        violations: what was acknowledged, renamed or overwritten while it, or what it stands on, was not yet durable.
        acknowledgements: how many were judged.
    """

    def __init__(self, root: Path) -> None:
        self.violations: list[str] = []
        self.acknowledgements = 0
        self._root = str(root)
        self._known = {str(path) for path in root.rglob("*")} | {self._root}
        self._dirty: set[str] = set()

    def follow(self, log: Path) -> Durability:
        """Judge every call of the log."""
        for call in calls(log):
            if not call.answer.startswith(("-1", "?")):
                self._take(call)
        return self

    def _take(self, call: Call) -> None:
        if call.name == "writev":
            self._acknowledged(call.arguments)
            return
        at = _FD_PATH.match(call.arguments)
        names = [name for name in _QUOTED.findall(call.arguments) if self._counts(name)]
        match call.name:
            case "write" | "pwrite64" | "ftruncate" if at is not None and self._counts(at[1]):
                self._written(at[1])
            case "fsync" | "fdatasync" if at is not None:
                self._dirty.discard(at[1])
            case "openat" if names and "O_CREAT" in call.arguments:
                self._made(names[0])
                if "O_TRUNC" in call.arguments:
                    self._dirty.add(names[0])
            case "mkdir" if names:
                self._made(names[0])
            case "rename" | "renameat" | "renameat2" if len(names) == 2:
                if names[0] in self._dirty:
                    self.violations.append(f"{names[0]} renamed before it was synced")
                self._dirty.discard(names[0])
                self._known |= {names[1]}
                self._dirty.add(_folder(names[1]))
            case "unlink" | "unlinkat" if names:
                self._dirty.discard(names[0])
                self._known.discard(names[0])

    def _counts(self, name: str) -> bool:
        return name.startswith(self._root) and not _OWNERSHIP.search(name)

    def _made(self, name: str) -> None:
        if name not in self._known:
            self._known.add(name)
            self._dirty.add(_folder(name))

    def _written(self, name: str) -> None:
        if f"{name}-journal" in self._dirty:
            self.violations.append(f"{name} written before its journal was synced")
        self._dirty.add(name)

    def _acknowledged(self, report: str) -> None:
        said = re.search(r'iov_base="\[\\"(\w+)\\"', report)
        # A claim is to be durable before its send starts.
        if said is None or said[1] not in ("done", "settled", "send"):
            return
        self.acknowledgements += 1
        if self._dirty:
            self.violations.append(f"{said[1]} reported while {sorted(self._dirty)} was not synced")


def _folder(name: str) -> str:
    return str(PurePath(name).parent)
