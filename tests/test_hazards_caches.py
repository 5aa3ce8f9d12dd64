"""HAZARDS 1.4, rows C1 to C3 and C9 to C15: caches that fail, hang or answer late. A test is named by its row."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from starfish_outbox import (
    CacheError,
    CacheWriteError,
    LocalCache,
    NotHydratedError,
    OutboxEntry,
    OutboxQueue,
    drain_outbox,
)
from tests.conftest import KEY, Opener, Place
from tests.gates import GatedCache, PlainFunctions, array, ids, short


async def arrives(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


async def settle(task: asyncio.Task[Any]) -> None:
    """Let the task run until it can get no further without somebody else."""
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()


async def test_c1_a_read_that_fails_raises_leaves_the_key_unbound_and_the_text_untouched() -> None:
    cache = GatedCache({KEY: array("precious")})
    cache.fail("get", OSError("the card was pulled"))
    queue = OutboxQueue[Any](cache)
    with pytest.raises(CacheError, match="the card was pulled") as caught:
        await queue.hydrate(KEY)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(NotHydratedError):
        await queue.enqueue("new", 1)
    assert cache.calls("set") == 0
    await queue.hydrate(KEY)
    assert await queue.enqueue("new", 1)
    assert ids(cache.texts[KEY]) == ["precious", "new"]


async def test_c1_a_second_read_that_fails_unbinds_and_does_not_write_what_memory_held() -> None:
    cache = GatedCache({KEY: array("precious")})
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    cache.fail("get", OSError("gone"))
    with pytest.raises(CacheError):
        await queue.hydrate(KEY)
    assert queue.get() == []
    assert queue.status().key is None
    with pytest.raises(NotHydratedError):
        await queue.remove("precious")
    assert cache.calls("set") == 0


async def test_c2_an_enqueue_while_hydrate_reads_waits_and_joins_what_was_read() -> None:
    cache = GatedCache({KEY: array("old1", "old2")})
    queue = OutboxQueue[Any](cache)
    gate = cache.hold("get")
    hydrating = asyncio.create_task(queue.hydrate(KEY))
    await gate.reached()
    enqueuing = asyncio.create_task(queue.enqueue("new", 1))
    await settle(enqueuing)
    assert cache.calls("set") == 0
    gate.open()
    await hydrating
    assert await enqueuing
    assert [entry.id for entry in queue.get()] == ids(cache.texts[KEY]) == ["old1", "old2", "new"]


async def test_c2_an_enqueue_that_waits_for_a_hydrate_that_fails_raises() -> None:
    cache = GatedCache({KEY: array("old")})
    queue = OutboxQueue[Any](cache)
    gate = cache.hold("get")
    hydrating = asyncio.create_task(queue.hydrate(KEY))
    await gate.reached()
    enqueuing = asyncio.create_task(queue.enqueue("new", 1))
    await settle(enqueuing)
    gate.open(OSError("gone"))
    with pytest.raises(CacheError):
        await hydrating
    with pytest.raises(NotHydratedError):
        await enqueuing
    assert ids(cache.texts[KEY]) == ["old"]


async def test_c3_every_change_before_hydrate_raises_and_a_drain_does_nothing(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    for call in (
        queue.enqueue("a", 1),
        queue.enqueue_many([("a", 1)]),
        queue.claim("a"),
        queue.remove("a"),
        queue.record_failure("a", 5),
        queue.mark_failed("a"),
        queue.retry("a"),
        queue.refresh(),
        queue.was_sent("a"),
    ):
        with pytest.raises(NotHydratedError, match="hydrate"):
            await call
    assert queue.get() == []
    result = await drain_outbox(queue, arrives)
    assert (result.sent, result.failed) == (0, 0)
    assert await place.text(KEY) is None


async def test_c9_one_write_is_under_way_at_a_time_and_the_newest_state_is_the_last_written() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    gate = cache.hold("set")
    first = asyncio.create_task(queue.enqueue("a", 1))
    await gate.reached()
    rest = [asyncio.create_task(queue.enqueue(id, 1)) for id in "bcd"]
    rest.append(asyncio.create_task(queue.claim("a")))
    await settle(rest[-1])
    assert cache.texts == {}
    gate.open()
    assert await asyncio.gather(first, *rest) == [True, True, True, True, True]
    assert cache.most_at_once == 1
    assert short(cache.texts[KEY]) == ["a:sending", "b:queued", "c:queued", "d:queued"]
    await queue.remove("a")
    await drain_outbox(queue, arrives)
    assert cache.texts[KEY] == "[]"
    assert cache.most_at_once == 1


async def test_c9_a_write_that_timed_out_and_lands_late_does_not_undo_a_newer_one() -> None:
    """A cache whose write runs where no cancellation reaches it: a thread, IndexedDB."""

    class Detached(GatedCache):
        tasks: list[asyncio.Task[None]]

        async def set_item(self, key: str, value: str) -> None:
            self.tasks.append(asyncio.create_task(super().set_item(key, value)))
            await asyncio.shield(self.tasks[-1])

    cache = Detached()
    cache.tasks = []
    queue = OutboxQueue[Any](cache, write_timeout=0.05)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    gate = cache.hold("set")
    with pytest.raises(CacheWriteError):
        await queue.enqueue("b", 1)
    acknowledged = ["a"]
    try:
        if await queue.enqueue("c", 1):
            acknowledged.append("c")
    except CacheWriteError:  # while the first write is under way this is right as well: nothing is promised
        await gate.reached()
    gate.open()
    await asyncio.gather(*cache.tasks)
    assert set(acknowledged) <= set(ids(cache.texts[KEY]))
    await queue.enqueue("c", 1)
    await queue.enqueue("b", 1)
    assert sorted(ids(cache.texts[KEY])) == ["a", "b", "c"]
    assert sorted(entry.id for entry in queue.get()) == ["a", "b", "c"]


async def test_c10_a_write_that_fails_raises_changes_nothing_in_memory_and_can_be_tried_again() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    heard: list[int] = []
    queue.subscribe(lambda: heard.append(queue.counts().total))
    for change in (
        queue.enqueue("b", 1),
        queue.enqueue_many([("b", 1), ("c", 1)]),
        queue.claim("a"),
        queue.remove("a"),
        queue.record_failure("a", 1),
        queue.mark_failed("a"),
        queue.retry("a"),
    ):
        cache.fail("set", OSError(28, "No space left on device"))
        with pytest.raises(CacheWriteError, match="No space left") as caught:
            await change
        assert isinstance(caught.value.__cause__, OSError)
        assert [(entry.id, entry.status, entry.attempts) for entry in queue.get()] == [("a", "queued", 0)]
    assert heard == []
    assert await queue.enqueue("b", 1)
    assert short(cache.texts[KEY]) == ["a:queued", "b:queued"]
    assert heard == [2]


async def test_c10_a_drain_that_cannot_record_raises_and_the_next_pass_knows_that_it_may_be_sent() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    seen: list[tuple[str, bool]] = []

    async def send(entry: OutboxEntry[Any]) -> None:
        seen.append((entry.id, entry.maybe_sent_ms is not None))
        if len(seen) == 1:
            cache.broken = OSError("disk full")

    with pytest.raises(CacheWriteError, match="disk full"):
        await drain_outbox(queue, send)
    with pytest.raises(CacheWriteError, match="disk full"):  # nothing is sent that could not be claimed
        await drain_outbox(queue, send)
    cache.broken = None
    result = await drain_outbox(queue, send)
    assert seen == [("a", False), ("a", True)]
    assert (result.sent, queue.get(), cache.texts[KEY]) == (1, [], "[]")


async def test_c11_a_plain_set_item_that_throws_is_a_write_error_like_any_other() -> None:
    cache = PlainFunctions()
    queue = OutboxQueue[Any](cast("LocalCache", cache))
    await queue.hydrate(KEY)
    cache.error = RuntimeError("QuotaExceededError")
    with pytest.raises(CacheWriteError, match="QuotaExceededError"):
        await queue.enqueue("a", 1)
    assert queue.get() == []
    assert await queue.enqueue("a", 1)
    cache.error = RuntimeError("QuotaExceededError")
    with pytest.raises(CacheWriteError):
        await drain_outbox(queue, arrives)
    assert (await drain_outbox(queue, arrives)).sent == 1
    assert cache.texts[KEY] == "[]"


async def test_c12_a_cache_of_plain_functions_works() -> None:
    cache = PlainFunctions()
    queue = OutboxQueue[Any](cast("LocalCache", cache))
    await queue.hydrate(KEY)
    assert await queue.enqueue("a", {"x": 1})
    assert ids(cache.texts[KEY]) == ["a"]
    again = OutboxQueue[Any](cast("LocalCache", cache))
    await again.hydrate(KEY)
    assert (await drain_outbox(again, arrives)).sent == 1
    assert cache.texts[KEY] == "[]"


@pytest.mark.parametrize("landed", [False, True], ids=["lost", "landed"])
async def test_c13_a_write_that_hangs_times_out_and_the_retry_is_no_silent_no_op(landed: bool) -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache, write_timeout=0.05)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    gate = cache.hold("set", landed=landed)
    with pytest.raises(CacheWriteError, match="same id again is safe"):
        await queue.enqueue("b", 1)
    with pytest.raises(CacheWriteError, match="same id again is safe"):
        await queue.enqueue("c", 1)  # what was given up can still land, and must not land over a later write
    gate.open()
    await queue.enqueue("b", 1)
    assert ids(cache.texts[KEY]) == ["a", "b"]
    assert [entry.id for entry in queue.get()] == ["a", "b"]
    sent: list[str] = []
    result = await drain_outbox(queue, lambda entry: sent.append(entry.id))
    assert (sent, result.left, cache.texts[KEY]) == (["a", "b"], 0, "[]")


async def test_c13_without_a_timeout_a_write_that_hangs_can_be_cancelled_and_the_queue_goes_on() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    gate = cache.hold("set")
    first = asyncio.create_task(queue.enqueue("a", 1))
    await gate.reached()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.open()
    assert await queue.enqueue("a", 2) is False  # the first was handed in, and is stored by now
    assert ids(cache.texts[KEY]) == ["a"]
    assert [entry.item for entry in queue.get()] == [1]


async def test_c14_the_second_enqueue_of_an_id_returns_only_when_the_first_is_stored() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    gate = cache.hold("set")
    first = asyncio.create_task(queue.enqueue("a", 1))
    await gate.reached()
    second = asyncio.create_task(queue.enqueue("a", 2))
    await settle(second)
    gate.open()
    assert await second is False
    assert ids(cache.texts[KEY]) == ["a"]
    assert await first
    assert [entry.item for entry in queue.get()] == [1]


async def test_c14_when_the_first_write_fails_the_second_enqueue_stores_its_own() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    gate = cache.hold("set")
    first = asyncio.create_task(queue.enqueue("a", 1))
    await gate.reached()
    second = asyncio.create_task(queue.enqueue("a", 2))
    await settle(second)
    gate.open(OSError("full"))
    with pytest.raises(CacheWriteError):
        await first
    assert await second
    assert [entry.item for entry in queue.get()] == [2]


async def test_c15_listeners_hear_of_a_change_after_it_is_stored(place: Place, opened: Opener) -> None:
    cache = GatedCache()
    queue = await opened(cache)
    heard: list[tuple[list[str], list[str]]] = []
    queue.subscribe(lambda: heard.append((short(cache.texts.get(KEY)), [e.id for e in queue.get()])))
    gate = cache.hold("set")
    enqueuing = asyncio.create_task(queue.enqueue("a", 1))
    await gate.reached()
    assert heard == []
    gate.open()
    await enqueuing
    assert heard == [(["a:queued"], ["a"])]
    await queue.claim("a")
    await queue.remove("a")
    assert heard[1:] == [(["a:sending"], ["a"]), ([], [])]
