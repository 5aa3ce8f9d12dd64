"""Clocks, rounds and what is known of the machine."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass
class Sample:
    """One block of operations.

    Attributes:
        walls: seconds of each operation, or of the block divided by its operations where they ran together.
        cpu: processor seconds of the whole process, all threads, an operation.
        written: bytes handed to the disk an operation (Linux only, else None).
    """

    walls: list[float]
    cpu: float
    written: float | None


@dataclass
class Result:
    """All rounds of one measurement; not every round need have measured everything."""

    what: str
    system: str
    waiting: int
    rounds: dict[int, Sample] = field(default_factory=dict)

    @property
    def samples(self) -> list[Sample]:
        return list(self.rounds.values())

    @property
    def wall(self) -> float:
        """p50 of all operations, in seconds."""
        return median(wall for sample in self.samples for wall in sample.walls)

    def record(self) -> dict[str, Any]:
        """For a line of JSON; microseconds."""
        walls = sorted(wall for sample in self.samples for wall in sample.walls)
        written = [sample.written for sample in self.samples if sample.written is not None]
        return {
            "what": self.what,
            "system": self.system,
            "waiting": self.waiting,
            "rounds": len(self.samples),
            "operations": len(walls),
            "p50_us": round(self.wall * 1e6, 1),
            "p95_us": round(walls[int(0.95 * (len(walls) - 1))] * 1e6, 1),
            "cpu_us": round(median(sample.cpu for sample in self.samples) * 1e6, 1),
            "written_bytes": round(median(written)) if written else None,
            "p50_us_by_round": [round(median(sample.walls) * 1e6, 1) for sample in self.samples],
        }


def paired_ratio(over: Result, under: Result) -> float:
    """The median over rounds of the ratio within one round: what slows the machine down slows both."""
    both = over.rounds.keys() & under.rounds.keys()
    return median(median(over.rounds[number].walls) / median(under.rounds[number].walls) for number in both)


async def one_by_one(operation: Callable[[int], Awaitable[object]], count: int) -> Sample:
    """Each operation timed alone."""
    walls = []
    cpu, written = time.process_time(), _written()
    for number in range(count):
        begin = time.perf_counter()
        await operation(number)
        walls.append(time.perf_counter() - begin)
    return _sample(walls, count, cpu, written)


async def together(operation: Callable[[], Awaitable[object]], count: int) -> Sample:
    """One call that does ``count`` operations; what is noted is the share of each."""
    cpu, written = time.process_time(), _written()
    begin = time.perf_counter()
    await operation()
    return _sample([(time.perf_counter() - begin) / count], count, cpu, written)


def _sample(walls: list[float], count: int, cpu: float, written: int | None) -> Sample:
    now = _written()
    bytes_each = None if written is None or now is None else (now - written) / count
    return Sample(walls, (time.process_time() - cpu) / count, bytes_each)


def _written() -> int | None:
    """Bytes that this process caused to be sent to the disk (proc(5): ``write_bytes``)."""
    try:
        lines = Path("/proc/self/io").read_text("ascii").splitlines()
    except OSError:
        return None
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def file_system(path: Path) -> str:
    """The type of the file system that holds the path, such as ``ext4``; ``unknown`` where that cannot be said."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return "unknown"
    found, longest = "unknown", -1
    for line in mounts:
        left, right = line.split(" - ", 1)
        mount = left.split()[4].replace("\\040", " ")
        if path.is_relative_to(mount) and len(mount) > longest:
            found, longest = right.split()[0], len(mount)
    return found


def environment(folder: Path) -> dict[str, Any]:
    """What a reader needs to compare figures."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False, cwd=Path(__file__).parent).stdout.strip()
    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "file_system": file_system(folder),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
    }
