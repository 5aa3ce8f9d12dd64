"""What tests of drains need: virtual time, a server that follows a script, counted commits, entries in short."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from starfish_outbox import LocalCache, MemoryCache, OutboxEntry, OutboxQueue
from starfish_outbox.backoff import Backoff
from starfish_outbox.caches import store_of
from starfish_outbox.caches.base import Op, Outcome
from starfish_outbox.drain.keeping import KeepDraining, Probe
from starfish_outbox.drain.options import DrainOptions, Send
from tests.conftest import KEY, ManualClock
from tests.virtual import VirtualLoop

T = TypeVar("T")
NOW = 1_700_000_000_000


class Clock:
    """The wall clock of virtual time: it goes with the running loop, and jumps when told."""

    def __init__(self) -> None:
        self.jumped_ms = 0

    def __call__(self) -> int:
        return NOW + round(1000 * asyncio.get_running_loop().time()) + self.jumped_ms

    def jump(self, seconds: float) -> None:
        self.jumped_ms += round(1000 * seconds)


def in_virtual_time(main: Coroutine[Any, Any, T], seed: int = 0) -> T:
    """Run it on a loop whose clock jumps to the next timer; what asyncio would have logged is an error."""
    loop = VirtualLoop(Random(seed))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        answer = runner.run(main)
    assert loop.problems == []
    return answer


async def opened_with(
    count: int, cache: LocalCache | None = None, clock: Callable[[], int] | None = None
) -> OutboxQueue[Any]:
    """A hydrated queue with entries e0, e1, …; in memory, and in virtual time, unless told otherwise."""
    queue = OutboxQueue[Any](cache or MemoryCache(), clock=clock or (ManualClock() if cache else Clock()))
    await queue.hydrate(KEY)
    await queue.enqueue_many([(f"e{number}", number) for number in range(count)])
    return queue


def keeping(
    queue: OutboxQueue[Any],
    send: Send,
    *,
    dice: float = 1.0,
    interval: float = 60.0,
    probe: Probe | None = None,
    backoff: Backoff | None = None,
    **options: Any,
) -> KeepDraining:
    """What ``keep_draining`` makes, with dice that always fall the same: by default every wait is the longest."""
    told = DrainOptions(send, dice=lambda: dice, **options)
    return KeepDraining(queue, told, backoff or Backoff(1.0, 300.0), interval, probe)


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(second: float) -> None:
    await asyncio.sleep(second - now())


class Server:
    """An async ``send`` that takes so many seconds and then does what the script says for that id, or for anybody.

    Attributes:
        script: by id, what is raised by its next sends; None: it gets through.
        for_all: the same for whoever comes next, while there is something in it.
        calls: each call: when it began, and the id.
        taken: the ids that got through.
        most_at_once: how many calls were ever under way together.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.script: dict[str, deque[BaseException | None]] = defaultdict(deque)
        self.for_all: deque[BaseException | None] = deque()
        self.calls: list[tuple[float, str]] = []
        self.taken: list[str] = []
        self.most_at_once = 0
        self._under_way = 0

    @property
    def asked(self) -> list[str]:
        return [id for _, id in self.calls]

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.calls]

    async def send(self, entry: OutboxEntry[Any]) -> dict[str, str]:
        self.calls.append((asyncio.get_running_loop().time(), entry.id))
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            await asyncio.sleep(self.seconds)
            answer = self.for_all.popleft() if self.for_all else None
            if answer is None and self.script[entry.id]:
                answer = self.script[entry.id].popleft()
            if answer is not None:
                raise answer
            self.taken.append(entry.id)
            return {"took": entry.id}
        finally:
            self._under_way -= 1


class Commits:
    """Counts what a store makes durable: how many operations in each of its transactions."""

    def __init__(self, cache: LocalCache) -> None:
        self.sizes: list[int] = []
        store = store_of(cache)
        apply = store.apply

        async def counted(key: str, member: Any, ops: Sequence[Op], *, late: bool = False) -> list[Outcome]:
            self.sizes.append(len(ops))
            return await apply(key, member, ops, late=late)

        store.apply = counted  # type: ignore[method-assign]  # a counter in front of the real one

    def __len__(self) -> int:
        return len(self.sizes)


def states(queue: OutboxQueue[Any]) -> list[tuple[str, str, int, bool]]:
    """Id, status, attempts, and whether it may be sent."""
    return [(e.id, e.status, e.attempts, e.maybe_sent_ms is not None) for e in queue.get()]
