"""``FaultyCache``: any cache, with planned faults."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from starfish_outbox.caches.base import LocalCache
from starfish_outbox.testing.faults import CALL_FAULTS, CallFault, Hang, Hanging, Lost, Plan, Slow, raise_planned

CacheCall: TypeAlias = Literal["get_item", "set_item", "remove_item"]


class FaultyCache:
    """A ``LocalCache`` around another one whose calls fail as planned.

    The queue sees it as it sees any cache of a user's own: three methods, and no lock. So two of them around one
    ``FileCache`` or ``SQLiteCache`` are not kept apart.

    ```python
    import pytest
    from starfish_outbox import CacheWriteError, MemoryCache, OutboxQueue
    from starfish_outbox.testing import FaultyCache, Lost

    cache = FaultyCache(MemoryCache())
    queue = OutboxQueue(cache)
    await queue.hydrate("outbox.me")
    cache.plan(OSError(28, "No space left on device"), Lost())  # the next two writes
    for attempt in range(2):
        with pytest.raises(CacheWriteError):
            await queue.enqueue("nest-1", {"eggs": 2})  # the second time it is stored, and nobody knows
    assert await queue.enqueue("nest-1", {"eggs": 2})  # the same id is always safe
    assert [entry.id for entry in queue.get()] == ["nest-1"]
    assert cache.injected == {"OSError": 1, "Lost": 1}
    ```

    Args:
        cache: where the texts are; its methods may be plain functions.
        odds: how often what happens in calls for which nothing is planned, such as ``{OSError: 0.05}``.
        seed: of the dice.
        latency: seconds that every call takes.

    Attributes:
        calls: every call, in order: its name and its key.
    """

    def __init__(
        self,
        cache: LocalCache,
        *,
        odds: Mapping[CallFault, float] | None = None,
        seed: int = 0,
        latency: float = 0.0,
    ) -> None:
        self._cache = cache
        self._plan: Plan[CallFault] = Plan(CALL_FAULTS, odds, seed)
        self._latency = latency
        self._hanging = Hanging()
        self.calls: list[tuple[CacheCall, str]] = []

    def __repr__(self) -> str:
        return f"FaultyCache({self._cache!r})"

    def plan(self, *faults: CallFault | None, call: CacheCall = "set_item") -> None:
        """Plan what the next calls of this kind meet, one fault each.

        An exception: raised, and nothing is done. `Lost`: done, then an ``OSError`` is raised, as by a failed fsync.
        `Slow`: done late. `Hang`: until it is cancelled or `let_go`. None: all goes well.

        Raises:
            ValueError: a cache has no such method.
        """
        if call not in get_args(CacheCall):
            raise ValueError(f"call is one of {', '.join(get_args(CacheCall))}, not {call!r}")
        self._plan.add(call, faults)

    def let_go(self) -> int:
        """Let the calls that hang go on, to their end; how many there were."""
        return self._hanging.let_go()

    @property
    def injected(self) -> Counter[str]:
        """How many faults of each kind have happened: look at it before you believe a test."""
        return self._plan.injected

    def assert_plan_used_up(self) -> None:
        """Raises ``AssertionError`` when a planned fault has not happened: a test without faults passes everything."""
        self._plan.assert_used_up()

    async def get_item(self, key: str) -> str | None:
        """The text under the key, or None; or what is planned."""
        text: str | None = await self._do("get_item", key)
        return text

    async def set_item(self, key: str, value: str) -> None:
        """Store the text, or do what is planned."""
        await self._do("set_item", key, value)

    async def remove_item(self, key: str) -> None:
        """Forget the key, or do what is planned."""
        await self._do("remove_item", key)

    async def _do(self, call: CacheCall, key: str, *value: str) -> Any:
        self.calls.append((call, key))
        fault = self._plan.next(call)
        pause = self._latency + (fault.seconds if isinstance(fault, Slow) else 0.0)
        if pause:
            await asyncio.sleep(pause)
        if isinstance(fault, Hang) and not fault.stored:
            await self._hanging.wait()
        raise_planned(fault)
        answer = getattr(self._cache, call)(key, *value)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(fault, Hang) and fault.stored:
            await self._hanging.wait()
        if isinstance(fault, Lost):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return answer
