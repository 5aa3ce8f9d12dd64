"""Limits that the user sets: entries, bytes, the size and depth of an item, and seconds for a write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from starfish_outbox import CacheWriteError, ItemError, OutboxEntry, OutboxFullError, OutboxQueue, drain_outbox
from tests.conftest import KEY, Opener, Place
from tests.gates import GatedCache, ids


async def arrives(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


async def test_max_entries_counts_live_entries_of_any_status(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache, max_entries=2)
    await queue.enqueue("a", 1)
    await queue.enqueue("b", 1)
    await queue.mark_failed("b")
    with pytest.raises(OutboxFullError, match="2 entries of at most 2"):
        await queue.enqueue("c", 1)
    assert await queue.enqueue("a", 1) is False  # what is live needs no room
    assert await queue.enqueue_many([("a", 1), ("b", 1)]) == [False, False]
    assert (await drain_outbox(queue, arrives)).sent == 1
    assert await queue.enqueue("c", 1)
    assert ids(await place.text(KEY)) == ["b", "c"]


async def test_enqueue_many_beyond_a_limit_adds_none(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache, max_entries=3)
    await queue.enqueue("a", 1)
    with pytest.raises(OutboxFullError):
        await queue.enqueue_many([("b", 1), ("c", 1), ("d", 1)])
    assert ids(await place.text(KEY)) == ["a"]
    assert await queue.enqueue_many([("a", 1), ("b", 1), ("b", 1), ("c", 1)]) == [False, True, False, True]


async def test_max_bytes_counts_the_items_in_utf_8(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache, max_bytes=10)
    assert await queue.enqueue("a", "éé")  # six bytes with its quotes
    with pytest.raises(OutboxFullError, match="needs 5 bytes, and 6 of at most 10"):
        await queue.enqueue("b", "abc")
    assert await queue.enqueue("b", "ab")
    assert queue.status().bytes == 10
    await queue.remove("a")
    assert queue.status().bytes == 4
    assert await queue.enqueue("c", "éé")


async def test_changes_under_way_count_so_that_no_limit_is_passed_together() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache, max_entries=3, max_bytes=100)
    await queue.hydrate(KEY)
    gate = cache.hold("set")
    tasks = [asyncio.create_task(queue.enqueue(f"e{n}", n)) for n in range(6)]
    await gate.reached()
    gate.open()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [bool] * 3 + [OutboxFullError] * 3
    assert len(ids(cache.texts[KEY])) == 3


async def test_an_id_that_is_on_its_way_needs_no_second_room(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache, max_entries=1, max_bytes=1)
    first, second = await asyncio.gather(queue.enqueue("a", 1), queue.enqueue("a", 1))
    assert (first, second) == (True, False)


async def test_room_is_given_back_when_a_write_fails_or_its_caller_is_cancelled() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache, max_entries=1)
    await queue.hydrate(KEY)
    cache.fail("set", OSError("full"))
    with pytest.raises(CacheWriteError):
        await queue.enqueue("a", 1)
    gate = cache.hold("set")
    cancelled = asyncio.create_task(queue.enqueue("b", 1))
    await gate.reached()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    gate.open(OSError("full"))
    async with asyncio.timeout(10):
        while queue.counts().total == 0:
            try:
                await queue.enqueue("c", 1)
            except OutboxFullError:  # the cancelled one is still on its way
                await asyncio.sleep(0)
    assert ids(cache.texts[KEY]) == ["c"]


async def test_a_cancelled_enqueue_that_still_lands_counts(opened: Opener) -> None:
    cache = GatedCache()
    queue = await opened(cache, max_entries=1)
    gate = cache.hold("set")
    cancelled = asyncio.create_task(queue.enqueue("a", 1))
    await gate.reached()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    with pytest.raises(OutboxFullError):
        await queue.enqueue("b", 1)
    gate.open()
    assert await queue.enqueue("a", 1) is False  # it is stored when this returns
    assert ids(cache.texts[KEY]) == ["a"]


async def test_max_item_bytes_and_max_depth_are_checked_before_anything_is_stored(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache, max_item_bytes=10, max_depth=2)
    assert await queue.enqueue("a", "x" * 8)
    assert await queue.enqueue("b", [[1]])
    for id, item in (("c", "x" * 9), ("d", "é" * 5), ("e", [[[1]]])):
        with pytest.raises(ItemError):
            await queue.enqueue(id, item)
    assert ids(await place.text(KEY)) == ["a", "b"]


async def test_the_limit_of_an_item_is_one_mebibyte_by_default(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    assert await queue.enqueue("fits", "x" * ((1 << 20) - 2))
    with pytest.raises(ItemError):
        await queue.enqueue("does not", "x" * ((1 << 20) - 1))
    assert ids(await place.text(KEY)) == ["fits"]


async def test_write_timeout_covers_every_change_and_leaves_the_queue_usable() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache, write_timeout=0.05)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    for change in (
        queue.enqueue("b", 1),
        queue.enqueue_many([("b", 1)]),
        queue.claim("a"),
        queue.remove("a"),
        queue.mark_failed("a"),
        queue.record_failure("a", 5),
        queue.retry("a"),
        drain_outbox(queue, arrives),
    ):
        gate = cache.hold("set")
        with pytest.raises(CacheWriteError):
            await change
        gate.open(OSError("given up"))
    await asyncio.sleep(0)
    assert await queue.enqueue("b", 1)
    assert (await drain_outbox(queue, arrives)).sent == 2
    assert cache.texts[KEY] == "[]"


@pytest.mark.parametrize(("landed", "expected"), [(False, ["a", "c"]), (True, ["a", "b", "c"])])
async def test_after_a_write_timed_out_the_queue_shows_what_is_stored(landed: bool, expected: list[str]) -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache, write_timeout=0.05)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    gate = cache.hold("set", landed=landed)
    with pytest.raises(CacheWriteError):
        await queue.enqueue("b", 1)
    gate.open(None if landed else OSError("lost"))
    await queue.enqueue("c", 1)
    assert sorted(entry.id for entry in queue.get()) == sorted(ids(cache.texts[KEY])) == expected
    sent: list[str] = []
    assert (await drain_outbox(queue, lambda entry: sent.append(entry.id))).left == 0
    assert sorted(sent) == expected
