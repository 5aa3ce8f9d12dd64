"""What tests of senders share: entries, queues full of them, and errors that must not repeat an item."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import OutboxEntry, OutboxQueue, SendError, SQLiteCache
from tests.conftest import KEY

SECRET = "geheim"  # stands in every item, and must stand in no error


def entry(item: Any = SECRET, id: str = "nest-1") -> OutboxEntry[Any]:
    return OutboxEntry(id, item, "queued", 0, 1_700_000_000_000)


async def refused(send: Callable[[Any], Awaitable[Any]], one: OutboxEntry[Any] | None = None) -> SendError:
    """The error, which tells nothing of the item and keeps nothing that does."""
    with pytest.raises(SendError) as caught:
        await send(one or entry())
    error = caught.value
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    return error


@asynccontextmanager
async def filled(path: Path, entries: dict[str, Any]) -> AsyncIterator[OutboxQueue[Any]]:
    """A queue in SQLite, with a ledger and these entries."""
    cache = SQLiteCache(path, ledger=True)
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue_many(entries.items())
        yield queue
    cache.close()


class Counted:
    """A ``send`` that counts its calls."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.calls = 0

    async def __call__(self, entry: Any) -> Any:
        self.calls += 1
        return await self._send(entry)
