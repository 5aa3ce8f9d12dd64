"""How fast a pass goes: a rate, a limit, and a server that says that it is too fast."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import pairwise
from typing import Any

import pytest

from starfish_outbox import (
    BusyError,
    OutboxEntry,
    drain_outbox,
)
from starfish_outbox.drain.options import DrainOptions
from starfish_outbox.drain.pace import Pace
from starfish_outbox.drain.passes import one_pass
from tests.drains import Server, in_virtual_time, keeping, opened_with


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_rate_spreads_the_sends_in_virtual_time(concurrency: int) -> None:
    async def main() -> None:
        queue, server = await opened_with(101), Server()
        await drain_outbox(queue, server.send, concurrency=concurrency, rate=10.0)
        assert len(server.taken) == 101
        gaps = [after - before for before, after in pairwise(server.times)]
        assert gaps == pytest.approx([0.1] * 100, abs=0.051)
        assert asyncio.get_running_loop().time() == pytest.approx(10.0, abs=0.2)

    in_virtual_time(main())


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_rate_counts_entries_and_not_calls(concurrency: int) -> None:
    async def main() -> None:
        queue = await opened_with(50)

        async def send(entries: list[OutboxEntry[Any]]) -> None:
            await asyncio.sleep(0)

        assert (await drain_outbox(queue, send, concurrency=concurrency, batch_size=20, rate=10.0)).sent == 50
        assert asyncio.get_running_loop().time() == pytest.approx(4.0, abs=0.1)

    in_virtual_time(main())


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_is_asked_to_stop_while_it_keeps_to_the_rate_starts_no_other_send(concurrency: int) -> None:
    async def main() -> None:
        queue, server, halted = await opened_with(10), Server(), False
        options = DrainOptions(server.send, concurrency=concurrency, rate=0.1)
        running = asyncio.create_task(
            one_pass(queue, options, Pace(concurrency, 0.1, adaptive=False), halt=lambda: halted)
        )
        await asyncio.sleep(15.0)
        halted = True
        result = await running
        assert (result.stopped, result.sent, server.asked) == ("asked", 2, ["e0", "e1"])
        assert asyncio.get_running_loop().time() <= 16.0  # and not when the next one could have gone

    in_virtual_time(main())


@pytest.mark.parametrize("early", [1e-9, 1e-6])
def test_a_timer_that_comes_a_little_early_does_not_end_the_pass(early: float) -> None:
    """A loop lets a timer run up to the clock's resolution early; the clock ticks between two looks."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue, server = await opened_with(20), Server()

        class Ticking(Pace):
            """Each look takes a moment, and what sleeps is woken that moment early."""

            def wait(self, now: float) -> float:
                left = super().wait(loop.time())
                loop.now += early  # type: ignore[attr-defined]  # of the VirtualLoop
                return left - 2 * early if left > 3 * early else left

        pace = Ticking(4, 10.0, adaptive=False)
        result = await one_pass(queue, DrainOptions(server.send, concurrency=4, rate=10.0), pace)
        assert (result.sent, result.left) == (20, 0)

    in_virtual_time(main())


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_limit_holds_however_many_are_under_way(concurrency: int) -> None:
    queue, server = await opened_with(10), Server()
    result = await drain_outbox(queue, server.send, concurrency=concurrency, limit=6)
    assert (result.sent, result.stopped, result.left, len(server.asked)) == (6, "limit", 4, 6)
    assert (await drain_outbox(queue, server.send, concurrency=concurrency, limit=4)).stopped == "finished"


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_limit_counts_only_what_was_to_be_had(concurrency: int) -> None:
    queue, server = await opened_with(10), Server()

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "e0":
            for taken in ("e2", "e3", "e5"):
                await queue.remove(taken)
        await server.send(entry)

    result = await drain_outbox(queue, send, concurrency=concurrency, limit=6)
    assert (result.sent, result.stopped) == (6, "limit")
    assert sorted(server.taken) == ["e0", "e1", "e4", "e6", "e7", "e8"]


class Limiter:
    """A server that takes so many a second and answers 429 with ``Retry-After`` to everything above that."""

    def __init__(self, rate: int, retry_after: float) -> None:
        self.taken: list[str] = []
        self.refused: list[float] = []
        self.too_early = 0
        self._rate = rate
        self._retry_after = retry_after
        self._window: deque[float] = deque()

    async def send(self, entry: OutboxEntry[Any]) -> None:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)
        now = asyncio.get_running_loop().time()
        if self.refused and self.refused[-1] + 0.06 < began < self.refused[-1] + self._retry_after:
            self.too_early += 1  # what was not under way when we said so
        while self._window and self._window[0] <= now - 1.0:
            self._window.popleft()
        if len(self._window) >= self._rate:
            self.refused.append(now)
            raise BusyError("429", self._retry_after)
        self._window.append(now)
        self.taken.append(entry.id)


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_storm_of_429s_is_weathered(adaptive: bool) -> None:
    """At least ``Retry-After`` is kept to each time; going slower afterwards saves most of the refusals."""

    async def main() -> Limiter:
        queue, limiter = await opened_with(1_000), Limiter(50, 2.0)
        draining, idle = keeping(queue, limiter.send, dice=0.5, concurrency=8, adaptive=adaptive), asyncio.Event()
        draining.subscribe(lambda state: idle.set() if state.name == "idle" else None)
        async with draining:
            await idle.wait()
        assert sorted(limiter.taken) == sorted(f"e{number}" for number in range(1_000))
        assert (queue.get(), draining.failed, limiter.too_early) == ([], 0, 0)
        assert asyncio.get_running_loop().time() < 120
        return limiter

    limiter = in_virtual_time(main())
    assert limiter.refused
    if adaptive:
        assert len(limiter.refused) < 40
