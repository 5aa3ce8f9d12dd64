"""This package behind the driver protocol (``../protocol.schema.json``, ``../README.md``)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, ClassVar, Final

from serve import Driver, Gates, Store, UnsupportedError

import starfish_outbox as outbox
from starfish_outbox.jsontext import DamagedText, decode, encode_foreign

# The most special first: the first that fits is the answer.
_KINDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (UnsupportedError, "unsupported"),
    (outbox.NotHydratedError, "not-hydrated"),
    (outbox.ItemError, "item"),
    (outbox.OutboxFullError, "full"),
    (outbox.QueueLockedError, "locked"),
    (outbox.CorruptQueueError, "corrupt"),
    (outbox.CacheWriteError, "write"),
    (outbox.CacheError, "cache"),
    (ValueError, "argument"),
    (TypeError, "argument"),
)


class FileStore(Store):
    """A directory; looked at through a cache of its own, which knows nothing of what the queue has seen."""

    def __init__(self, gates: Gates, path: str) -> None:
        super().__init__(gates)
        self.cache = outbox.FileCache(path)
        self._beside = outbox.FileCache(path)

    async def text(self, key: str) -> str | None:
        return await self._beside.get_item(key)

    async def put(self, key: str, text: str | None) -> None:
        if text is None:
            await self._beside.remove_item(key)
        else:
            await self._beside.set_item(key, text)

    def close(self) -> None:
        self._beside.close()
        self.cache.close()


class SQLiteStore(Store):
    """A database."""

    def __init__(self, gates: Gates, path: str) -> None:
        super().__init__(gates)
        self.cache = outbox.SQLiteCache(path)

    async def text(self, key: str) -> str | None:
        text: str | None = await self.cache.get_item(key)
        return text

    async def put(self, key: str, text: str | None) -> None:
        if text is None:
            await self.cache.remove_item(key)
        else:
            await self.cache.set_item(key, text)

    def close(self) -> None:
        self.cache.close()


class PythonDriver(Driver):
    """Ours."""

    outcomes: ClassVar = {
        **Driver.outcomes,
        "offline": outbox.OfflineError,
        "unacked": outbox.UnackedError,
        "busy": outbox.BusyError,
        "auth": outbox.AuthNeededError,
        "rejected": outbox.RejectedError,
    }

    def hello(self) -> dict[str, Any]:
        return {
            "protocol": 1,
            "name": "python",
            "version": version("starfish-outbox"),
            "language": "python",
            "capabilities": ["memory", "files", "sqlite", "gates", "outcomes", "cancel", "careless"],
        }

    def make_store(self, kind: str, path: str | None) -> Store:
        if path is not None and kind in ("files", "sqlite"):
            return {"files": FileStore, "sqlite": SQLiteStore}[kind](self.gates, path)
        return super().make_store(kind, path)

    def make_queue(self, cache: Any) -> Any:
        return outbox.OutboxQueue(cache, clock=self.now_ms)

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch: what a ``clock`` request said, or the wall clock."""
        return time.time_ns() // 1_000_000 if self.clock_ms is None else self.clock_ms

    async def let_go(self) -> None:
        self.gates.close()
        if self.queue is not None:
            await self.queue.close()
        await super().let_go()

    def parse(self, item: str) -> Any:
        try:
            return decode(item)  # knows no limit of depth
        except DamagedText:
            return json.loads(item)  # knows NaN

    def text_of(self, entries: list[Any]) -> str:
        return encode_foreign([entry.to_dict() for entry in entries])

    def kind_of(self, error: Exception) -> str:
        return next((kind for type_, kind in _KINDS if isinstance(error, type_)), "other")

    async def drain_with(self, send: Callable[[Any], Any], options: dict[str, Any]) -> dict[str, Any]:
        result = await outbox.drain_outbox(self.queue, send, **options)
        return {"sent": result.sent, "failed": result.failed, "stopped": result.stopped}


if __name__ == "__main__":
    asyncio.run(PythonDriver().run())
