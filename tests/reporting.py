"""What a proof prints: how many faults it injected, where, and with which seed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from functools import cache
from pathlib import Path
from random import SystemRandom


def fresh_seed() -> int:
    """A new seed, or the one in STARFISH_SEED, which replays a run as far as the machine's timing does."""
    return int(os.environ.get("STARFISH_SEED") or SystemRandom().getrandbits(32))


def report(text: str, where: Path) -> None:
    """Print a line (pytest shows it on failure and in ``make proof``) with what it ran on."""
    sys.stdout.write(f"\n{text} [commit {_commit()}, SQLite {sqlite3.sqlite_version}, {file_system(where)}]\n")


@cache
def _commit() -> str:
    root = Path(__file__).resolve().parents[1]
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or "unknown"


def file_system(where: Path) -> str:
    """The type of the file system under the path, where the kernel tells."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown file system"
    place = str(where.resolve())
    best, kind = "", "unknown file system"
    for line in mounts.read_text().splitlines():
        _, at, name, *_ = line.split()
        if len(at) >= len(best) and (place == at or place.startswith(at.rstrip("/") + "/")):
            best, kind = at, name
    return kind
