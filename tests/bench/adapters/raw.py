"""What the disk and SQLite themselves cost: no queue, no loop, no copies. All of it blocks whoever calls."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

from tests.bench.adapters.base import Adapter, Pair, Remote, alone

ROWS_A_COMMIT = 100
"""Of those that come at once: what somebody gets who collects by hand what many callers bring."""


class RawSQLite(Adapter):
    """``sqlite3`` in the journal mode and with the durability of our default."""

    journal: ClassVar[str] = "TRUNCATE"

    async def open(self) -> None:
        self.connection = sqlite3.connect(self.folder / "raw.db", isolation_level=None)
        execute = self.connection.execute
        execute(f"PRAGMA journal_mode = {self.journal}")
        execute("PRAGMA synchronous = FULL")
        execute(
            "CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, status TEXT, "
            "item TEXT)"
        )

    async def close(self) -> None:
        self.connection.close()

    async def enqueue(self, pair: Pair) -> None:
        self._insert([pair])

    async def enqueue_at_once(self, pairs: Sequence[Pair]) -> None:
        for start in range(0, len(pairs), ROWS_A_COMMIT):
            self._insert(pairs[start : start + ROWS_A_COMMIT])

    async def enqueue_many(self, pairs: Sequence[Pair]) -> None:
        self._insert(pairs)

    async def enqueue_again(self, pair: Pair) -> None:
        id, _ = pair
        if self.connection.execute("SELECT 1 FROM entries WHERE id = ?", (id,)).fetchone() is None:
            self._insert([pair])

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        """Two commits an entry: the claim before the send, the removal after it. The oldest row is the first one."""
        alone(concurrency)
        execute = self.connection.execute
        oldest = "SELECT seq, id, item FROM entries WHERE status = 'queued' ORDER BY seq LIMIT 1"
        for _ in range(number):
            execute("BEGIN IMMEDIATE")
            seq, id, item = execute(oldest).fetchone()
            execute("UPDATE entries SET status = 'sending' WHERE seq = ?", (seq,))
            execute("COMMIT")
            json.loads(item)
            remote.take(id)
            execute("BEGIN IMMEDIATE")
            execute("DELETE FROM entries WHERE seq = ?", (seq,))
            execute("COMMIT")

    async def count(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM entries").fetchone()[0])

    async def read_all(self) -> int:
        return len([json.loads(item) for (item,) in self.connection.execute("SELECT item FROM entries ORDER BY seq")])

    def _insert(self, pairs: Sequence[Pair]) -> None:
        rows = [(id, json.dumps(item)) for id, item in pairs]
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT INTO entries (id, status, item) VALUES (?, 'queued', ?)", rows)
        self.connection.execute("COMMIT")


class RawWAL(RawSQLite):
    """The same with a write-ahead log: faster, and less safe where people peek at files (see README)."""

    journal = "WAL"


class RawLog(Adapter):
    """Lines appended to a file and synced: the floor. A second file says how many were removed; none is ever rewritten.

    No ids, no index, no claim by others: nothing that a queue needs but order and durability.
    """

    async def open(self) -> None:
        self._lines = os.open(self.folder / "log.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._marks = os.open(self.folder / "done.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._removed = os.fstat(self._marks).st_size // 2
        with open(self._lines, "rb", closefd=False) as file:
            self._written = sum(1 for _ in file)
            file.seek(0)
            self._next = sum(len(line) for line in islice(file, self._removed))
        directory = os.open(self.folder, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    async def close(self) -> None:
        os.close(self._lines)
        os.close(self._marks)

    async def enqueue(self, pair: Pair) -> None:
        self._append([pair])

    async def enqueue_at_once(self, pairs: Sequence[Pair]) -> None:
        for start in range(0, len(pairs), ROWS_A_COMMIT):
            self._append(pairs[start : start + ROWS_A_COMMIT])

    async def enqueue_many(self, pairs: Sequence[Pair]) -> None:
        self._append(pairs)

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        """Two syncs an entry, as in the others: "c" claims the oldest, and a line end removes it."""
        alone(concurrency)
        with open(self._lines, "rb", closefd=False) as file:
            file.seek(self._next)
            for _ in range(number):
                line = file.readline()
                os.write(self._marks, b"c")
                self.sync(self._marks)
                remote.take(json.loads(line)[0])
                os.write(self._marks, b"\n")
                self.sync(self._marks)
                self._removed += 1
                self._next += len(line)

    async def count(self) -> int:
        return self._written - self._removed

    async def read_all(self) -> int:
        with open(self._lines, "rb", closefd=False) as file:
            file.seek(self._next)
            return len([json.loads(line) for line in file])

    def sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def _append(self, pairs: Sequence[Pair]) -> None:
        data = b"".join(json.dumps(pair).encode() + b"\n" for pair in pairs)
        view = memoryview(data)
        while view:
            view = view[os.write(self._lines, view) :]
        self.sync(self._lines)
        self._written += len(pairs)
