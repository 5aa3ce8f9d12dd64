"""HAZARDS 1.5, rows D22 to D33: listeners, no-ops, order, clocks and ids. One test a row, named by its number."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from typing import Any

import pytest

from starfish_outbox import OutboxEntry, OutboxQueue, drain_outbox
from tests.conftest import KEY, ManualClock, Opener, Place
from tests.gates import GatedCache, array, ids


async def arrives(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


async def test_d22_listeners_are_called_in_the_order_of_subscription(place: Place, opened: Opener) -> None:
    queue, heard = await opened(place.cache), list[int]()
    for n in range(20):
        queue.subscribe(functools.partial(heard.append, n))
    await queue.enqueue("a", 1)
    await queue.claim("a")
    assert heard == list(range(20)) * 2


async def test_d23_a_listener_that_raises_is_logged_and_disturbs_nobody(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    queue, heard = OutboxQueue[Any](place.cache), list[str]()

    def broken() -> None:
        raise RuntimeError("the widget is gone")

    queue.subscribe(broken)
    queue.subscribe(lambda: heard.append("told"))
    with caplog.at_level(logging.ERROR, "starfish_outbox"):
        await queue.hydrate(KEY)
        assert await queue.enqueue("a", 1)
        assert (await drain_outbox(queue, arrives)).sent == 1
        queue.clear()
    assert queue.get() == []
    assert await place.text(KEY) == "[]"
    assert len(heard) >= 4
    records = [record for record in caplog.records if record.exc_info and "the widget is gone" in str(record.exc_info)]
    assert len(records) == len(heard)
    await queue.close()


async def test_d24_who_is_told_is_fixed_when_a_round_begins(place: Place, opened: Opener) -> None:
    queue, heard = await opened(place.cache), list[str]()

    def first() -> None:
        heard.append("first")
        if len(heard) == 1:
            unsubscribe_second()
            queue.subscribe(lambda: heard.append("third"))

    queue.subscribe(first)
    unsubscribe_second = queue.subscribe(lambda: heard.append("second"))
    await queue.enqueue("a", 1)
    assert heard == ["first", "second"]
    await queue.enqueue("b", 1)
    assert heard[2:] == ["first", "third"]


async def test_d25_each_subscription_of_one_function_is_its_own(place: Place, opened: Opener) -> None:
    queue, heard = await opened(place.cache), list[int]()

    def listener() -> None:
        heard.append(1)

    ends = [queue.subscribe(listener), queue.subscribe(listener)]
    await queue.enqueue("a", 1)
    assert len(heard) == 2
    ends[0]()
    ends[0]()  # twice is once
    await queue.enqueue("b", 1)
    assert len(heard) == 3
    ends[1]()
    await queue.enqueue("c", 1)
    assert len(heard) == 3


async def test_d26_a_coroutine_function_is_refused_as_a_listener(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)

    async def listener() -> None:
        """Nobody would await it."""

    for unfit in (listener, functools.partial(listener), None, "listener"):
        with pytest.raises(TypeError, match="listener"):
            queue.subscribe(unfit)  # type: ignore[arg-type]


async def test_d26_a_listener_that_cannot_be_hashed_is_fine_and_one_that_answers_a_coroutine_is_reported(
    place: Place, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    class Unhashable(list[int]):
        def __call__(self) -> None:
            self.append(1)

    async def later() -> None:
        """Nobody awaits it."""

    queue, listener = await opened(place.cache), Unhashable()
    end = queue.subscribe(listener)
    queue.subscribe(lambda: later())  # type: ignore[arg-type]  # noqa: PLW0108  # a lambda hides it
    with caplog.at_level(logging.ERROR, "starfish_outbox"):
        await queue.enqueue("a", 1)
    assert listener == [1]
    assert "coroutine" in caplog.text
    end()
    await queue.enqueue("b", 1)
    assert listener == [1]


async def test_d27_a_listener_that_starts_changes_ends_and_each_change_is_told(place: Place, opened: Opener) -> None:
    queue, tasks, seen = await opened(place.cache), list[asyncio.Task[Any]](), list[int]()

    def listener() -> None:
        seen.append(queue.counts().total)
        if queue.counts().total < 5:
            tasks.append(asyncio.create_task(queue.enqueue(f"e{queue.counts().total}", 1)))

    queue.subscribe(listener)
    await queue.enqueue("e0", 1)
    while any(not task.done() for task in tasks):
        await asyncio.gather(*tasks)
    assert seen == [1, 2, 3, 4, 5]


async def test_d27_a_listener_that_always_signs_out_again_is_stopped_and_reported(
    place: Place, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    queue, rounds = await opened(place.cache), list[int]()

    def listener() -> None:
        rounds.append(1)
        queue.clear()

    queue.subscribe(listener)
    with caplog.at_level(logging.ERROR, "starfish_outbox"):
        await queue.enqueue("a", 1)
    assert 1 < len(rounds) < 1000
    assert "listeners keep changing the queue" in caplog.text
    assert ids(await place.text(KEY)) == ["a"]


@pytest.mark.parametrize("change", ["remove", "retry", "mark_failed", "record_failure"])
async def test_d28_a_change_that_changes_nothing_still_notifies_and_writes_the_array(change: str) -> None:
    cache, heard = GatedCache({KEY: array("a")}), list[int]()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    queue.subscribe(lambda: heard.append(1))
    call = getattr(queue, change)
    await (call("unknown", 5) if change == "record_failure" else call("unknown"))
    assert (len(heard), cache.calls("set"), ids(cache.texts[KEY])) == (1, 1, ["a"])


async def test_d28_a_refused_claim_and_a_dedup_hit_neither_notify_nor_write() -> None:
    cache, heard = GatedCache({KEY: array("a")}), list[int]()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    await queue.claim("a")
    writes = cache.calls("set")
    queue.subscribe(lambda: heard.append(1))
    assert not await queue.claim("a")
    assert not await queue.claim("unknown")
    assert not await queue.enqueue("a", 2)
    assert (heard, cache.calls("set")) == ([], writes)


@pytest.mark.parametrize("change", ["remove", "retry", "mark_failed", "record_failure"])
async def test_d28_a_change_of_an_unknown_id_notifies_on_every_cache(place: Place, opened: Opener, change: str) -> None:
    queue, heard = await opened(place.cache), list[int]()
    await queue.enqueue("a", 1)
    queue.subscribe(lambda: heard.append(1))
    call = getattr(queue, change)
    await (call("unknown", 5) if change == "record_failure" else call("unknown"))
    assert heard == [1]
    assert ids(await place.text(KEY)) == ["a"]


async def test_d29_a_predicate_is_taken_by_its_truth_in_python(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("a", []), ("b", [1]), ("c", "")])
    same: Any = lambda item: item  # noqa: E731  # an empty list is false here, and true in TypeScript
    assert [entry.id for entry in queue.pending(same)] == ["b"]
    assert [entry.id for entry in queue.pending()] == ["a", "b", "c"]


async def test_d30_the_order_is_that_of_enqueuing_whatever_the_clock_says(place: Place, opened: Opener) -> None:
    clock = ManualClock()
    queue, sent = await opened(place.cache, clock=clock), list[str]()
    await queue.enqueue("a", 1)
    clock.jump(-3600)
    await queue.enqueue("b", 1)
    await queue.enqueue("c", 1, ts=0)
    assert [entry.enqueued_at for entry in queue.get()] == [1_700_000_000_000, 1_699_996_400_000, 0]
    await drain_outbox(queue, lambda entry: sent.append(entry.id))
    assert sent == ["a", "b", "c"]


@pytest.mark.parametrize("ms", [1_700_000_000_001, 1_700_000_000_513, 1_733_999_999_999, 4_102_444_799_999])
async def test_d31_the_wall_clock_is_exact_to_the_millisecond(monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
    """``int(time.time() * 1000)`` is one lower for some of these."""
    queue = OutboxQueue[Any](GatedCache())
    await queue.hydrate(KEY)
    monkeypatch.setattr(time, "time_ns", lambda: ms * 1_000_000)
    monkeypatch.setattr(time, "time", lambda: ms / 1000)
    await queue.enqueue("a", 1)
    assert [entry.enqueued_at for entry in queue.get()] == [ms]


async def test_d32_a_drain_neither_sets_nor_honours_next_attempt_at(place: Place, opened: Opener) -> None:
    later = 1_800_000_000_000  # beyond the manual clock
    element = {**json.loads(array("a"))[0], "nextAttemptAt": later}
    await place.put(KEY, json.dumps([element]))
    queue, tried = await opened(place.cache), list[str]()
    await queue.enqueue("b", 1)

    async def fails(entry: OutboxEntry[Any]) -> None:
        tried.append(entry.id)
        raise ValueError("no")

    await drain_outbox(queue, fails)
    await drain_outbox(queue, fails)
    assert tried == ["a", "b", "a", "b"]
    assert [entry.next_attempt_ms for entry in queue.get()] == [later, None]
    assert f'"nextAttemptAt":{later}' in (await place.text(KEY) or "")


NO_IDS: list[Any] = [1, True, 1.0, None, [1], b"a", ("a",)]


async def test_d33_an_id_that_is_no_string_is_not_enqueued(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    for unfit in NO_IDS:
        with pytest.raises(TypeError, match="id is a string"):
            await queue.enqueue(unfit, 1)
        with pytest.raises(TypeError, match="id is a string"):
            await queue.enqueue_many([("b", 1), (unfit, 1)])
        with pytest.raises(TypeError, match="id is a string"):
            await queue.was_sent(unfit)
    assert ids(await place.text(KEY)) == ["a"]


@pytest.mark.parametrize("change", ["claim", "remove", "retry", "mark_failed", "record_failure"])
async def test_d33_a_change_by_an_id_that_is_no_string_is_refused(place: Place, opened: Opener, change: str) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    for unfit in NO_IDS:
        arguments = (unfit, 5) if change == "record_failure" else (unfit,)
        with pytest.raises(TypeError, match="id is a string"):
            await getattr(queue, change)(*arguments)
    assert ids(await place.text(KEY)) == ["a"]


async def test_r20_an_empty_id_that_another_program_stored_can_be_addressed(place: Place, opened: Opener) -> None:
    await place.put(KEY, array("", "a"))
    queue = await opened(place.cache)
    assert await queue.claim("")
    await queue.retry("")
    await queue.mark_failed("")
    await queue.remove("")
    assert ids(await place.text(KEY)) == ["a"]


@pytest.mark.parametrize("unfit", ["", "\ud800", "a\udfff"], ids=ascii)
async def test_d33_an_empty_id_and_one_that_is_no_unicode_text_are_refused(
    place: Place, opened: Opener, unfit: str
) -> None:
    queue = await opened(place.cache)
    for call in (queue.enqueue(unfit, 1), queue.enqueue_many([("b", 1), (unfit, 1)])):
        with pytest.raises(ValueError, match="id"):
            await call
    assert queue.get() == []
