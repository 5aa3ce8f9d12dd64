"""Which systems there are, what each promises, and how its process is started."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from tests.bench import environment
from tests.bench.adapters.base import ITEMS

Durability: TypeAlias = Literal["A", "B", "D"]

CLASSES: Final[dict[Durability, str]] = {
    "A": "synced to the disk before each operation is acknowledged",
    "B": "survives a kill of the process, not a power cut",
    "D": "in memory, gone with the process",
}

HERE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        name: as in the record and on the command line.
        label: for people.
        durability: what it promises, and what strace is to see.
        module: of ``tests.bench.adapters``, or with all its packages; empty for Node.
        adapter: the class in it.
        peer: it runs in ``.bench-venv``, not beside our package.
        shared: several processes may use it at once.
        grows: its cost grows with the queue: it is not tried where it would take too long.
        note: where it promises less than it may seem to.
    """

    name: str
    label: str
    durability: Durability
    module: str
    adapter: str
    peer: bool = False
    shared: bool = False
    grows: bool = False
    note: str = ""

    @property
    def ours(self) -> bool:
        return self.name.startswith("ours")

    @property
    def reference(self) -> bool:
        return self.name.startswith("raw")

    def why_not(self) -> str:
        """Why it cannot be run on this machine; empty when it can."""
        if self.module:
            return "" if not self.peer or environment.is_made() else f"{environment.FOLDER.name} is not made"
        if shutil.which("node") is None:
            return "Node is not installed"
        return "" if environment.TYPESCRIPT.is_dir() else "interop/node_modules is not made (npm ci in interop/)"

    def command(self, folder: Path) -> tuple[list[str], dict[str, str]]:
        """The process that serves it on this folder, and its environment."""
        if not self.module:
            about = {"items": ITEMS, "package": environment.typescript_version()}
            return ["node", str(HERE / "adapters/typescript.mjs"), str(folder)], {
                **os.environ,
                "OUTBOX_BENCH": json.dumps(about),
            }
        python = str(environment.PYTHON) if self.peer else sys.executable
        module = self.module if "." in self.module else f"tests.bench.adapters.{self.module}"
        command = [python, "-I", str(HERE / "worker.py"), module, self.adapter, str(folder)]
        return command, dict(os.environ)


SYSTEMS: Final = (
    System("ours-sqlite", "ours, SQLite", "A", "outbox", "OurSQLite", shared=True),
    System("ours-wal", "ours, SQLite WAL", "A", "outbox", "OurWAL", shared=True),
    System("ours-file", "ours, JSON file", "A", "outbox", "OurFile", grows=True),
    System("ours-memory", "ours, memory", "D", "outbox", "OurMemory", grows=True),
    System("published-python", "published Python", "A", "outbox", "PublishedPython", peer=True, grows=True),
    System("published-typescript", "published TypeScript", "A", "", "", grows=True),
    System("raw-sqlite", "raw sqlite3", "A", "raw", "RawSQLite", shared=True),
    System("raw-wal", "raw sqlite3 WAL", "A", "raw", "RawWAL", shared=True),
    System("raw-log", "raw log", "A", "raw", "RawLog"),
    System("persist-queue", "persist-queue Ack", "A", "peers", "PersistQueue", peer=True, shared=True),
    System("persist-queue-unique", "persist-queue UniqueAck", "A", "peers", "PersistUnique", peer=True, shared=True),
    System(
        "huey", "huey", "A", "peers", "Huey", peer=True, shared=True, note="takes a task off before it runs: no ack"
    ),
    System(
        "diskcache-full",
        "diskcache Deque, FULL",
        "A",
        "peers",
        "DiskCacheFull",
        peer=True,
        shared=True,
        note="with sqlite_synchronous=2, which is not its default; popleft before the send: no ack",
    ),
    System(
        "localqueue-durable",
        "localqueue, DURABLE",
        "A",
        "peers",
        "LocalQueueDurable",
        peer=True,
        shared=True,
        note="with DurabilityMode.DURABLE, which is not its default",
    ),
    System(
        "litequeue",
        "litequeue",
        "B",
        "peers",
        "LiteQueue",
        peer=True,
        shared=True,
        note="sets synchronous=NORMAL in WAL mode: a power cut takes what was acknowledged last",
    ),
    System(
        "diskcache",
        "diskcache Deque",
        "B",
        "peers",
        "DiskCache",
        peer=True,
        shared=True,
        note="synchronous=NORMAL in WAL mode by default; popleft before the send: no ack",
    ),
    System(
        "localqueue",
        "localqueue",
        "B",
        "peers",
        "LocalQueue",
        peer=True,
        shared=True,
        note="DurabilityMode.RELAXED by default",
    ),
)

BY_NAME: Final = {system.name: system for system in SYSTEMS}


def chosen(names: Sequence[str] | None) -> list[System]:
    """Those whose name begins with one of these; all of them for None.

    Raises:
        ValueError: a name begins none.
    """
    if names is None:
        return list(SYSTEMS)
    for name in names:
        if not any(system.name.startswith(name) for system in SYSTEMS):
            raise ValueError(f"no system is named {name!r}; there are {', '.join(BY_NAME)}")
    return [system for system in SYSTEMS if any(system.name.startswith(name) for name in names)]
