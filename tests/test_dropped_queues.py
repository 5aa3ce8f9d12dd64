"""A queue that nobody closed is collected wherever Python happens to collect: in the middle of anything."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import thread as executor
from typing import Any

import pytest

from starfish_outbox import OutboxQueue
from tests.conftest import KEY, Place


async def drop_one(place: Place) -> None:
    """A queue that is garbage, but only for the cyclic collector: its listener holds it."""
    queue = OutboxQueue[Any](place.fresh())
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    queue.subscribe(lambda: queue.get().clear())


@pytest.mark.timeout(20)
async def test_a_dropped_queue_may_be_collected_while_its_thread_holds_the_executors_lock(place: Place) -> None:
    gc.collect()
    gc.disable()
    try:
        await drop_one(place)
        # ThreadPoolExecutor.submit holds this lock of the whole process while it allocates, and so may collect.
        with executor._global_shutdown_lock:
            assert gc.collect() > 0
    finally:
        gc.enable()
    async with OutboxQueue[Any](place.fresh()) as queue:
        await queue.hydrate(KEY)
        assert [entry.id for entry in queue.get()] == ["a"]


@pytest.mark.timeout(60)
async def test_queues_dropped_by_the_dozen_while_python_collects_all_the_time_hang_nothing(place: Place) -> None:
    usual = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        for number in range(30):
            await drop_one(place)
            async with OutboxQueue[Any](place.fresh()) as queue:
                await queue.hydrate(KEY)
                assert await queue.enqueue(f"e{number}", 1)
                await asyncio.gather(*(queue.claim(entry.id) for entry in queue.get()))
    finally:
        gc.set_threshold(*usual)
