"""The queue itself: adding one and many, copies, counts, status, listeners, group commit, closing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from starfish_outbox import (
    CacheWriteError,
    Counts,
    ItemError,
    NotHydratedError,
    OutboxEntry,
    OutboxError,
    OutboxQueue,
    drain_outbox,
)
from tests.conftest import KEY, ManualClock, Opener, Place
from tests.gates import GatedCache, array, ids


async def arrives(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


async def test_enqueue_answers_whether_it_added(place: Place, opened: Opener, clock: ManualClock) -> None:
    queue = await opened(place.cache)
    assert await queue.enqueue("a", {"x": [1, 2]}) is True
    assert await queue.enqueue("a", {"x": "other"}) is False
    assert await queue.enqueue("b", None, ts=5) is True
    assert queue.get() == [
        OutboxEntry("a", {"x": [1, 2]}, "queued", 0, clock.now_ms),
        OutboxEntry("b", None, "queued", 0, 5),
    ]
    assert await place.text(KEY) == (
        '[{"id":"a","item":{"x":[1,2]},"status":"queued","attempts":0,"enqueuedAt":1700000000000},'
        '{"id":"b","item":null,"status":"queued","attempts":0,"enqueuedAt":5}]'
    )


async def test_the_item_of_an_id_that_is_live_is_not_looked_at(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    assert await queue.enqueue("a", object()) is False
    with pytest.raises(ItemError):
        await queue.enqueue("b", object())


@pytest.mark.parametrize("ts", [-1, 2**53, 1.5, True, "5", float("nan")], ids=repr)
async def test_an_unfit_ts_is_refused_and_nothing_is_stored(place: Place, opened: Opener, ts: Any) -> None:
    queue = await opened(place.cache)
    with pytest.raises((ValueError, TypeError), match="ts"):
        await queue.enqueue("a", 1, ts=ts)
    assert queue.get() == []


async def test_enqueue_many_answers_for_each_and_keeps_their_order(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("b", 0)
    assert await queue.enqueue_many([("a", 1), ("b", 2), ("c", 3), ("a", 4)]) == [True, False, True, False]
    assert [(entry.id, entry.item) for entry in queue.get()] == [("b", 0), ("a", 1), ("c", 3)]
    assert ids(await place.text(KEY)) == ["b", "a", "c"]
    assert await queue.enqueue_many([]) == []
    assert await queue.enqueue_many((f"g{n}", n) for n in range(3)) == [True] * 3


@pytest.mark.parametrize(
    ("unfit", "error"),
    [
        (("x", float("nan")), ItemError),
        (("x", {1}), ItemError),
        (("", 1), ValueError),
        ((7, 1), TypeError),
    ],
    ids=["nan", "set", "empty id", "number as id"],
)
async def test_enqueue_many_checks_every_pair_before_it_adds_the_first(
    place: Place, opened: Opener, unfit: Any, error: type[Exception]
) -> None:
    queue, heard = await opened(place.cache), list[int]()
    await queue.enqueue("old", 1)
    queue.subscribe(lambda: heard.append(1))
    with pytest.raises(error):
        await queue.enqueue_many([("a", 1), ("b", 2), unfit, ("c", 3)])
    assert [entry.id for entry in queue.get()] == ids(await place.text(KEY)) == ["old"]
    assert heard == []


async def test_enqueue_many_is_one_write_and_all_or_nothing() -> None:
    cache = GatedCache()
    queue, heard = OutboxQueue[Any](cache), list[int]()
    await queue.hydrate(KEY)
    queue.subscribe(lambda: heard.append(1))
    cache.fail("set", OSError("full"))
    with pytest.raises(CacheWriteError):
        await queue.enqueue_many([(f"e{n}", n) for n in range(100)])
    assert (queue.get(), cache.texts, heard) == ([], {}, [])
    assert await queue.enqueue_many([(f"e{n}", n) for n in range(100)]) == [True] * 100
    assert (cache.calls("set"), len(heard)) == (2, 1)


async def test_what_a_caller_gets_is_his_own(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", {"list": [1], "dict": {"k": "v"}})
    before = await place.text(KEY)
    for read in (queue.get, queue.pending, lambda: queue.pending(lambda item: item["list"].append(9) or True)):
        entries = read()
        entries[0].item["list"].append(2)
        entries[0].item["dict"].clear()
        entries[0].status, entries[0].id, entries[0].attempts = "failed", "z", 99
        entries[0].extra["x"] = 1
        entries.append(entries[0])
        assert queue.get() == [OutboxEntry("a", {"list": [1], "dict": {"k": "v"}}, "queued", 0, entries[0].enqueued_at)]
    assert queue.get()[0] is not queue.get()[0]
    assert isinstance(queue.get(), list)
    await queue.claim("a")
    await queue.retry("a")
    assert await place.text(KEY) == before


async def test_an_item_is_in_memory_what_a_reload_would_give(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", {"tuple": (1, 2), "float": 1.0, "big": 1e16})
    (now,) = queue.get()
    await queue.hydrate(KEY)
    (reloaded,) = queue.get()
    assert now == reloaded
    assert repr(now.item) == repr(reloaded.item) == "{'tuple': [1, 2], 'float': 1, 'big': 1e+16}"


async def test_counts_and_status_say_what_is_there(place: Place, opened: Opener, clock: ManualClock) -> None:
    unbound = OutboxQueue[Any](place.cache)
    assert (unbound.counts(), unbound.counts().total) == (Counts(0, 0, 0, 0), 0)
    assert (unbound.status().key, unbound.status().oldest_ms, unbound.status().bytes) == (None, None, 0)
    await place.put(KEY, f"[{array('other', status='paused')[1:-1]}]")
    queue = await opened(place.cache)
    clock.advance(60)
    await queue.enqueue_many([("q1", "é"), ("q2", "é"), ("s", "é"), ("f", "é")])
    await queue.claim("s")
    await queue.mark_failed("f")
    assert queue.counts() == Counts(queued=2, sending=1, failed=1, other=1)
    assert queue.counts().total == 5
    status = queue.status()
    assert (status.key, status.counts, status.oldest_ms) == (KEY, queue.counts(), 1_700_000_000_000)
    assert status.bytes == len('"item of other"') + 4 * len('"é"'.encode())
    assert ("outbox.db" if place.kind == "sqlite" else "Cache") in status.where
    assert status.durability
    assert [line for line in status.set_aside if "'other'" not in line] == []
    assert any("'other' has the unknown status 'paused'" in line for line in status.stuck)
    assert any("'s' is claimed by this process" in line for line in status.stuck)
    assert len(status.stuck) == 2


async def test_what_was_set_aside_is_told_by_status(place: Place, opened: Opener) -> None:
    await place.put(KEY, f"[17,{array('a')[1:-1]}]")
    queue = await opened(place.cache)
    assert any(f"{KEY}.quarantine" in line for line in queue.status().set_aside)
    assert '"text":"17"' in (await place.text(f"{KEY}.quarantine") or "")
    await queue.enqueue("b", 1)
    assert ids(await place.text(KEY)) == ["a", "b"]


async def test_a_subscription_ends_when_told_and_hears_nothing_of_others(place: Place, opened: Opener) -> None:
    queue, heard = await opened(place.cache), list[str]()
    end = queue.subscribe(lambda: heard.append("x"))
    await queue.enqueue("a", 1)
    await queue.hydrate(KEY)
    queue.clear()
    assert len(heard) == 3
    end()
    await queue.hydrate(KEY)
    await queue.enqueue("b", 1)
    assert len(heard) == 3


async def test_a_second_queue_hears_of_changes_made_by_the_first(place: Place, opened: Opener) -> None:
    first, second, heard = await opened(place.cache), await opened(place.cache), list[list[str]]()
    told = asyncio.Event()

    def listener() -> None:
        heard.append([entry.id for entry in second.get()])
        told.set()

    second.subscribe(listener)
    await first.enqueue("a", 1)
    async with asyncio.timeout(10):
        await told.wait()
    assert heard == [["a"]]


async def test_close_unbinds_without_a_word_and_gives_up_bare_claims(place: Place, opened: Opener) -> None:
    other = await opened(place.cache)
    async with OutboxQueue[Any](place.cache) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue("a", 1)
        assert await queue.claim("a")
        heard: list[int] = []
        queue.subscribe(lambda: heard.append(1))
    assert (heard, queue.get(), queue.status().key) == ([], [], None)
    with pytest.raises(NotHydratedError):
        await queue.enqueue("b", 1)
    await other.refresh()
    assert [(entry.id, entry.status, entry.maybe_sent_ms) for entry in other.get()] == [("a", "queued", None)]


async def test_close_waits_for_what_is_being_stored(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    await queue.hydrate(KEY)
    adding = [asyncio.create_task(queue.enqueue(f"e{n}", n)) for n in range(5)]
    await asyncio.sleep(0)
    await queue.close()
    assert ids(await place.text(KEY)) == [f"e{n}" for n in range(5)]
    assert await asyncio.gather(*adding) == [True] * 5


async def test_a_queue_that_nobody_holds_any_more_gives_the_key_back(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    await queue.claim("a")
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None
    other = OutboxQueue[Any](place.fresh() if place.kind != "memory" else place.cache)
    await other.hydrate(KEY)
    assert [(entry.id, entry.status) for entry in other.get()] == [("a", "queued")]
    await other.close()


async def test_not_hydrated_is_an_outbox_error_and_a_runtime_error(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    with pytest.raises(NotHydratedError) as caught:
        await queue.enqueue("a", 1)
    assert isinstance(caught.value, OutboxError)
    assert isinstance(caught.value, RuntimeError)
    await queue.hydrate(KEY)
    queue.clear()
    with pytest.raises(NotHydratedError):
        await queue.enqueue("a", 1)


async def test_a_thousand_enqueues_at_once_need_few_writes() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    answers = await asyncio.gather(*(queue.enqueue(f"e{n}", n) for n in range(1000)))
    assert answers == [True] * 1000
    assert cache.calls("set") <= 3
    assert ids(cache.texts[KEY]) == [f"e{n}" for n in range(1000)]


async def test_what_waits_while_a_write_is_under_way_shares_the_next() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    gate = cache.hold("set")
    first = asyncio.create_task(queue.enqueue("first", 0))
    await gate.reached()
    rest = [asyncio.create_task(queue.enqueue(f"e{n}", n)) for n in range(200)]
    rest += [asyncio.create_task(queue.claim("first")), asyncio.create_task(queue.claim("first"))]
    for _ in range(10):
        await asyncio.sleep(0)
    gate.open()
    assert await first
    answers = await asyncio.gather(*rest)
    assert answers == [True] * 200 + [True, False]  # of two claims in one flush one wins
    assert cache.calls("set") == 2


async def test_a_lone_change_is_one_write_and_a_drained_entry_is_one_and_the_last_two() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    assert cache.calls("set") == 1
    await queue.enqueue_many([(f"e{n}", n) for n in range(9)])
    before = cache.calls("set")
    assert (await drain_outbox(queue, arrives)).sent == 10
    assert cache.calls("set") - before == 11  # each claim, with the settlement before it, and the last settlement


async def test_a_write_that_fails_fails_all_that_share_it_and_none_of_the_next() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    gate, second = cache.hold("set"), cache.hold("set")
    tasks = [asyncio.create_task(queue.enqueue("a", 1))]
    await gate.reached()
    tasks += [asyncio.create_task(queue.enqueue(id, 1)) for id in "bc"]
    for _ in range(5):
        await asyncio.sleep(0)
    gate.open(OSError("full"))
    await second.reached()
    second.open()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [CacheWriteError, bool, bool]
    assert [entry.id for entry in queue.get()] == ids(cache.texts[KEY]) == ["b", "c"]


async def test_a_refused_call_does_not_hide_what_a_later_call_of_the_same_flush_changed(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    assert await queue.claim("a")
    refused, _ = await asyncio.gather(queue.claim("a"), queue.retry("a"))
    assert refused is False
    assert [entry.status for entry in queue.get()] == ["queued"]
    assert (await drain_outbox(queue, lambda _: None)).sent == 1
