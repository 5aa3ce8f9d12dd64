"""The outboxes: ours on each store, and the published Python package, whose names are the same."""

from __future__ import annotations

import asyncio
import json
import os
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from starfish_outbox import OutboxQueue, drain_outbox
from tests.bench.adapters.base import Adapter, EnoughError, NotBuiltError, Pair, Remote, alone

KEY = "outbox.bench"


class Outbox(Adapter):
    """An ``OutboxQueue`` on some cache."""

    package = "starfish-outbox"
    queue: OutboxQueue[Any]

    @abstractmethod
    def make_cache(self) -> Any: ...

    async def open(self) -> None:
        self.cache = self.make_cache()
        self.queue = OutboxQueue(self.cache)
        await self.queue.hydrate(KEY)

    async def enqueue(self, pair: Pair) -> None:
        await self.queue.enqueue(*pair)

    async def enqueue_at_once(self, pairs: Sequence[Pair]) -> None:
        await asyncio.gather(*[self.queue.enqueue(*pair) for pair in pairs])

    async def enqueue_again(self, pair: Pair) -> None:
        await self.queue.enqueue(*pair)

    async def read_all(self) -> int:
        return len([entry.item for entry in self.queue.get()])


class Ours(Outbox):
    """This package.

    Attributes:
        lot: how many are added in one call where there are more: what is in one call is in memory several times.
    """

    lot: ClassVar[int] = 20_000

    async def close(self) -> None:
        await self.queue.close()
        close = getattr(self.cache, "close", None)
        if close is not None:
            close()

    async def enqueue_many(self, pairs: Sequence[Pair]) -> None:
        for start in range(0, len(pairs), self.lot):
            added = await self.queue.enqueue_many(pairs[start : start + self.lot])
            if not all(added):
                raise RuntimeError(f"{added.count(False)} were there already")

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        async def send(entry: Any) -> None:
            remote.take(entry.id)

        await drain_outbox(self.queue, send, limit=number, concurrency=concurrency)

    async def count(self) -> int:
        return self.queue.counts().total


class OurSQLite(Ours):
    def make_cache(self) -> Any:
        from starfish_outbox import SQLiteCache

        return SQLiteCache(self.folder / "outbox.db")


class OurWAL(Ours):
    def make_cache(self) -> Any:
        from starfish_outbox import SQLiteCache

        make: Any = SQLiteCache
        try:
            return make(self.folder / "outbox.db", journal="wal")
        except TypeError as error:
            raise NotBuiltError(f"SQLiteCache(path, journal='wal'): {error}") from error


class OurFile(Ours):
    lot = 1_000_000  # each is a whole new file

    def make_cache(self) -> Any:
        from starfish_outbox import FileCache

        return FileCache(self.folder / "files")


class OurMemory(Ours):
    lot = 1_000_000

    def make_cache(self) -> Any:
        from starfish_outbox import MemoryCache

        return MemoryCache()


class AtomicFile:
    """A ``LocalCache`` of one file a key, as a careful user of the published package would write it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def get_item(self, key: str) -> str | None:
        try:
            return (self._folder / key).read_text("utf-8")
        except FileNotFoundError:
            return None

    async def set_item(self, key: str, value: str) -> None:
        beside = self._folder / f"{key}.tmp"
        with beside.open("w", encoding="utf-8") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self._folder / key)
        directory = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    async def remove_item(self, key: str) -> None:
        (self._folder / key).unlink(missing_ok=True)


class PublishedPython(Outbox):
    """3.0.0a72; only what it has is used, so that a drain has to be ended from within its send."""

    def make_cache(self) -> AtomicFile:
        return AtomicFile(self.folder)

    async def fill(self, pairs: Sequence[Pair]) -> None:
        """As the package would store them; it needs minutes to add 10,000."""
        await self.cache.set_item(KEY, stored_text(pairs))
        await self.queue.hydrate(KEY)

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        alone(concurrency)
        last = ""

        async def send(entry: Any) -> None:
            nonlocal last
            last = entry.id
            remote.take(entry.id)

        with suppress(EnoughError):
            await drain_outbox(self.queue, send)
            return
        await self.queue.retry(last)

    async def count(self) -> int:
        return len(self.queue.get())

    async def close(self) -> None:
        self.queue.clear()


def stored_text(pairs: Sequence[Pair]) -> str:
    """The array that both published packages read."""
    entries = [
        {"id": id, "item": item, "status": "queued", "attempts": 0, "enqueuedAt": 1772354400000 + number}
        for number, (id, item) in enumerate(pairs)
    ]
    return json.dumps(entries, separators=(",", ":"), ensure_ascii=False)
