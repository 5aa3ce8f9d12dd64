"""What an operation asks of the disk, counted by strace: it does not depend on the machine's mood.

Also whether a system is of the class that it is said to be: in class A everything that it wrote is synced before an
operation returns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.process import Process, UnavailableError, opened
from tests.bench.systems import Durability, System
from tests.strace import Durability as Follower, Tracer, calls

WAITING = 100
"""How many entries wait meanwhile."""

_CALLS = (
    "openat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,msync,ftruncate,mkdir,rename,"
    "renameat,renameat2,unlink,unlinkat"
)
_WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2")
_SYNCS = ("fsync", "fdatasync", "sync_file_range", "msync")
_FILE = re.compile(r"\d+<([^>]*)>")


@dataclass(frozen=True)
class Counted:
    """Of one workload, for each operation.

    Attributes:
        syncs: fsync and fdatasync calls on its files and directories.
        bytes: handed to write calls on its files.
        writes: those calls.
        seen: for one operation at a time, the class that it is of.
        why: what was not synced, where it is not of class A.
    """

    workload: str
    syncs: float
    bytes: float
    writes: float
    seen: Durability | None = None
    why: str = ""


def counted(system: System, folder: Path, lone: int = 20, bulk: int = 1_000) -> Generator[Counted, None, None]:
    """Of each workload that the system has.

    Raises:
        As `Process.hear`; AssertionError where nothing can be traced.
    """
    if system.grows and not system.ours:
        bulk //= 10
    orders: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("lone", "lone", {"number": lone, "seconds": 60.0, "mark": True}),
        ("drain 1", "drain", {"number": lone, "concurrency": 1}),
        ("at once", "at_once", {"number": bulk}),
        ("drain 16", "drain", {"number": bulk, "concurrency": 16}),
        ("enqueue_many", "many", {"number": bulk}),
    )
    with opened(system, folder) as process:
        process.ask("fill", number=WAITING)
        process.ask("lone", number=3, seconds=60.0)  # a file that grows for the first time costs more
        for workload, op, arguments in orders:
            try:
                yield _one(process, workload, op, arguments)
            except UnavailableError:
                continue
        process.end()


def _one(process: Process, workload: str, op: str, arguments: dict[str, Any]) -> Counted:
    log = process.folder.with_name(f"{process.folder.name}.strace")
    follower = Follower(process.folder)  # it wants to know which files are there before
    with Tracer(process, log, "-e", f"trace={_CALLS}"):
        number = process.ask(op, **arguments)["count"]
    root = str(process.folder)
    syncs = size = 0
    writes: Counter[str] = Counter()
    for call in calls(log):
        found = _FILE.match(call.arguments)
        if found is None or not found[1].startswith(root) or call.answer.startswith(("-1", "?")):
            continue
        if call.name in _SYNCS:
            syncs += 1
        elif call.name in _WRITES:
            writes[call.name] += 1
            size += int(call.answer.split()[0])
    seen: Durability | None = None
    why = ""
    if arguments.get("mark"):
        follower.follow(log)
        if follower.acknowledgements != number:
            raise AssertionError(f"{follower.acknowledgements} of {number} acknowledgements were seen")
        why = follower.violations[0].replace(root, "") if follower.violations else ""
        seen = "D" if not writes else "B" if follower.violations or syncs < number else "A"
    log.unlink()
    return Counted(workload, syncs / number, size / number, writes.total() / number, seen, why)
