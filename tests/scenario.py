"""One drain to strike at: a remote that remembers, three entries that each take another way, what must hold after."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from starfish_outbox import (
    FileCache,
    LocalCache,
    MemoryCache,
    OutboxEntry,
    OutboxQueue,
    SQLiteCache,
    UnackedError,
    drain_outbox,
)
from tests.conftest import KEY, ManualClock
from tests.stepping import stepping

IDS = ("plain", "fails once", "unanswered once")


class Remote:
    """Takes every entry in the middle of ``send``; a second delivery must say that it may be one.

    Attributes:
        delivered: the ids it has, in order, with repetitions.
        answered: the ids for which ``send`` returned.
        asked: how often ``send`` was called.
        failures: how often it raised for the entry that fails once.
    """

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.answered: list[str] = []
        self.asked = 0
        self.failures = 0

    async def send(self, entry: OutboxEntry[Any]) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        self.take(entry)
        await asyncio.sleep(0)
        if entry.id == "unanswered once" and self.delivered.count(entry.id) == 1:
            raise UnackedError("the answer was lost")
        await asyncio.sleep(0)
        self.answered.append(entry.id)

    def take(self, entry: OutboxEntry[Any]) -> None:
        if entry.id == "fails once" and self.failures == 0:
            self.failures += 1
            raise ValueError("500 Internal Server Error")
        if entry.id in self.delivered:
            assert entry.maybe_sent_ms is not None, f"{entry.id} was sent again without saying so"
        self.delivered.append(entry.id)


def cache_of(kind: str, folder: Path) -> LocalCache:
    if kind == "file":
        return FileCache(folder / "files")
    return SQLiteCache(folder / "outbox.db") if kind == "sqlite" else MemoryCache()


class Stage:
    """A key of its own in a cache, a queue on it with the three entries, and the remote."""

    def __init__(self, cache: LocalCache, number: int) -> None:
        self.cache = cache
        self.key = f"{KEY}.{number}"
        self.remote = Remote()

    async def open(self, ids: tuple[str, ...] = IDS, *, clock: Callable[[], int] | None = None) -> OutboxQueue[Any]:
        """With the entries; the clock stands still unless one is given."""
        queue = OutboxQueue[Any](self.cache, clock=clock or ManualClock())
        await queue.hydrate(self.key)
        await queue.enqueue_many([(id, {"of": id}) for id in ids])
        return queue

    async def text(self) -> list[tuple[str, str, int]]:
        """Id, status and attempts of each stored entry."""
        stored = json.loads(await self.cache.get_item(self.key) or "[]")
        return [(element["id"], element["status"], element["attempts"]) for element in stored]

    def nothing_is_lost(self, queue: OutboxQueue[Any]) -> None:
        assert set(IDS) <= {*self.remote.delivered, *(entry.id for entry in queue.get())}

    async def deliver_the_rest(self, queue: OutboxQueue[Any]) -> None:
        """A few more passes, undisturbed: nothing is stuck after the first, everything arrives, nothing is left."""
        for _ in range(4):
            result = await drain_outbox(queue, self.remote.send)
            assert queue.counts().sending == 0
            if not result.left:
                break
        assert queue.get() == []
        assert await self.text() == []
        assert set(self.remote.delivered) == set(IDS)
        await queue.close()


def sweep(
    kind: str, folder: Path, scenario: Callable[[Stage, int], Coroutine[Any, Any, bool]], *, every: int = 1
) -> int:
    """Run the scenario, struck at step 1, 2, 3 … (or at ``every`` so many) until it ends first; how many struck."""
    cache = cache_of(kind, folder)
    for struck, step in enumerate(range(1, 2000, every)):
        if not stepping(scenario(Stage(cache, step), step)):
            if isinstance(cache, FileCache | SQLiteCache):
                cache.close()
            return struck
    raise AssertionError("the scenario never ended before its strike")


def states(queue: OutboxQueue[Any]) -> list[tuple[str, str, int]]:
    return [(entry.id, entry.status, entry.attempts) for entry in queue.get()]
