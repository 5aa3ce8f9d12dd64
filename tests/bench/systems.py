"""What is measured side by side: our two durable caches, and SQLite used as bare as the same promise allows."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from abc import ABC, abstractmethod
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from starfish_outbox import FileCache, OutboxQueue, SQLiteCache, drain_outbox

KEY = "outbox.bench"
ITEM: dict[str, Any] = {
    "station": "north-17",
    "taken": "2026-03-01T08:30:00Z",
    "values": [12.25, 13.5, 11.75, 12.0, 14.125],
    "note": "wind from the west, two nests, one ring read twice to be sure; battery of the logger at 61 percent",
}
"""About 200 bytes of JSON: one observation in the field."""


class System(ABC):
    """One queue with about ``waiting`` entries; every call returns when its change would survive a power cut."""

    name: ClassVar[str]

    def __init__(self, folder: Path, waiting: int) -> None:
        self.folder = folder
        self.waiting = waiting
        self._numbers = count()

    def fresh_ids(self, number: int) -> list[str]:
        """Ids that nobody used, in no order that an index could profit from."""
        return [f"{(next(self._numbers) * 0x9E3779B97F4A7C15) % 2**64:016x}" for _ in range(number)]

    @abstractmethod
    async def start(self) -> None:
        """Make it and fill it."""

    @abstractmethod
    async def enqueue(self, id: str) -> None: ...

    @abstractmethod
    async def enqueue_many(self, ids: list[str]) -> None: ...

    @abstractmethod
    async def remove_all(self, ids: list[str]) -> None:
        """In one commit: the queue is as long as before."""

    @abstractmethod
    async def drain(self, number: int) -> None:
        """Claim and remove so many, each claimed durably before its send, one commit an entry."""

    @abstractmethod
    async def stop(self) -> None: ...


class OurSystem(System):
    """An ``OutboxQueue`` on one of our caches."""

    @abstractmethod
    def make_cache(self) -> SQLiteCache | FileCache: ...

    async def start(self) -> None:
        self.cache = self.make_cache()
        self.queue: OutboxQueue[Any] = OutboxQueue(self.cache)
        await self.queue.hydrate(KEY)
        await self.enqueue_many(self.fresh_ids(self.waiting))

    async def enqueue(self, id: str) -> None:
        if not await self.queue.enqueue(id, ITEM):
            raise RuntimeError(f"{id} was there already")

    async def enqueue_at_once(self, ids: list[str]) -> None:
        """As many callers as ids, none waiting for another."""
        await asyncio.gather(*[self.queue.enqueue(id, ITEM) for id in ids])

    async def enqueue_many(self, ids: list[str]) -> None:
        for start in range(0, len(ids), 20_000):
            await self.queue.enqueue_many([(id, ITEM) for id in ids[start : start + 20_000]])

    async def remove_all(self, ids: list[str]) -> None:
        await asyncio.gather(*[self.queue.remove(id) for id in ids])

    async def drain(self, number: int) -> None:
        result = await drain_outbox(self.queue, _send_nothing, limit=number)
        if result.sent != number:
            raise RuntimeError(f"{result}, {number} were expected")

    async def stop(self) -> None:
        await self.queue.close()
        self.cache.close()


class OurSQLite(OurSystem):
    name = "SQLiteCache"

    def make_cache(self) -> SQLiteCache:
        return SQLiteCache(self.folder / f"ours-{self.waiting}.db")


class OurFile(OurSystem):
    name = "FileCache"

    def make_cache(self) -> FileCache:
        return FileCache(self.folder / f"files-{self.waiting}")


class RawSQLite(System):
    """``sqlite3`` in the caller's thread, one commit an operation, in the journal mode and with the durability of ours.

    No queue, no loop, no copies: what SQLite itself costs here. It blocks whoever calls it.
    """

    name = "raw sqlite3"

    async def start(self) -> None:
        path = self.folder / f"raw-{self.waiting}.db"
        self.connection = sqlite3.connect(path, isolation_level=None)
        execute = self.connection.execute
        execute("PRAGMA journal_mode = TRUNCATE")
        execute("PRAGMA synchronous = FULL")
        execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, status TEXT, item TEXT)")
        await self.enqueue_many(self.fresh_ids(self.waiting))

    async def enqueue(self, id: str) -> None:
        await self.enqueue_many([id])

    async def enqueue_many(self, ids: list[str]) -> None:
        rows = [(id, json.dumps(ITEM)) for id in ids]
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT INTO entries (id, status, item) VALUES (?, 'queued', ?)", rows)
        execute("COMMIT")

    async def remove_all(self, ids: list[str]) -> None:
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        self.connection.executemany("DELETE FROM entries WHERE id = ?", [(id,) for id in ids])
        execute("COMMIT")

    async def drain(self, number: int) -> None:
        """The removal of one entry and the claim of the next share a commit, as in ours."""
        execute = self.connection.execute
        todo = execute("SELECT seq FROM entries WHERE status = 'queued' ORDER BY seq LIMIT ?", (number,)).fetchall()
        last = None
        for (seq,) in [*todo, (None,)]:
            execute("BEGIN IMMEDIATE")
            if last is not None:
                execute("DELETE FROM entries WHERE seq = ?", (last,))
            if seq is not None:
                execute("UPDATE entries SET status = 'sending' WHERE seq = ?", (seq,))
                json.loads(execute("SELECT item FROM entries WHERE seq = ?", (seq,)).fetchone()[0])
            execute("COMMIT")
            last = seq

    async def stop(self) -> None:
        self.connection.close()


async def _send_nothing(entry: object) -> None:
    """The remote takes everything at once."""
