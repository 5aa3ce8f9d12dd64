"""HAZARDS 1.4, rows C4 to C8: sign-out, another identity and a second hydrate while something is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from starfish_outbox import (
    CacheError,
    CorruptQueueError,
    DrainResult,
    NotHydratedError,
    OfflineError,
    OutboxEntry,
    OutboxQueue,
    UnackedError,
    drain_outbox,
)
from tests.conftest import Opener, Place
from tests.gates import GatedCache, array, ids, short

A, B = "outbox.ana", "outbox.bo"


class Remote:
    """A send that stops until it is let go, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.items: list[Any] = []
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()

    async def __call__(self, entry: OutboxEntry[Any]) -> None:
        self.asked.append(entry.id)
        self.items.append(entry.item)
        self._reached.set()
        await self._opened.wait()

    async def reached(self) -> None:
        async with asyncio.timeout(10):
            await self._reached.wait()

    def answer(self) -> None:
        self._opened.set()


async def signed_in(cache: Any, key: str) -> OutboxQueue[Any]:
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(key)
    return queue


async def test_c4_an_enqueue_while_the_next_identity_is_read_belongs_to_it() -> None:
    cache = GatedCache({A: array("a1"), B: array("b1")})
    queue = await signed_in(cache, A)
    gate = cache.hold("get")
    switching = asyncio.create_task(queue.hydrate(B))
    await gate.reached()
    assert queue.get() == []  # A's entries are no longer to be seen
    enqueuing = asyncio.create_task(queue.enqueue("new", 1))
    claiming = asyncio.create_task(queue.claim("a1"))
    gate.open()
    await switching
    assert await enqueuing
    assert await claiming is False
    assert (ids(cache.texts[A]), ids(cache.texts[B])) == (["a1"], ["b1", "new"])


async def test_c4_an_enqueue_that_began_under_a_is_stored_and_acknowledged_under_a() -> None:
    cache = GatedCache({A: array("a1"), B: array("b1")})
    queue = await signed_in(cache, A)
    gate = cache.hold("set")
    enqueuing = asyncio.create_task(queue.enqueue("a2", 1))
    await gate.reached()
    switching = asyncio.create_task(queue.hydrate(B))
    gate.open()
    assert await enqueuing
    await switching
    assert (ids(cache.texts[A]), ids(cache.texts[B])) == (["a1", "a2"], ["b1"])
    assert [entry.id for entry in queue.get()] == ["b1"]


async def test_c4_a_hydrate_that_is_cancelled_leaves_the_queue_unbound_and_both_texts_alone() -> None:
    cache = GatedCache({A: array("a1"), B: array("b1")})
    queue = await signed_in(cache, A)
    gate = cache.hold("get")
    switching = asyncio.create_task(queue.hydrate(B))
    await gate.reached()
    switching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await switching
    with pytest.raises(NotHydratedError):
        await queue.enqueue("new", 1)
    assert (ids(cache.texts[A]), ids(cache.texts[B])) == (["a1"], ["b1"])
    await queue.hydrate(B)
    assert [entry.id for entry in queue.get()] == ["b1"]


async def test_c4_of_two_hydrates_the_later_wins_whichever_is_read_first() -> None:
    cache = GatedCache({A: array("a1"), B: array("b1")})
    queue = OutboxQueue[Any](cache)
    gate = cache.hold("get")
    first = asyncio.create_task(queue.hydrate(A))
    await gate.reached()
    second = asyncio.create_task(queue.hydrate(B))
    enqueuing = asyncio.create_task(queue.enqueue("new", 1))
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(first, second)
    assert await enqueuing
    assert queue.status().key == B
    assert (ids(cache.texts[A]), ids(cache.texts[B])) == (["a1"], ["b1", "new"])


async def test_c4_an_entry_of_b_that_cannot_be_read_does_not_let_a_through() -> None:
    cache = GatedCache({A: array("a1"), B: f"[null,{array('b1')[1:-1]}]"})
    queue = await signed_in(cache, A)
    await queue.hydrate(B)
    assert await queue.enqueue("new", 1)
    assert (ids(cache.texts[A]), ids(cache.texts[B])) == (["a1"], ["b1", "new"])
    assert "null" in cache.texts[f"{B}.quarantine"]


async def test_c4_a_text_of_b_that_is_refused_unbinds() -> None:
    cache = GatedCache({A: array("a1"), B: "{}"})
    queue = await signed_in(cache, A)
    with pytest.raises(CorruptQueueError):
        await queue.hydrate(B)
    with pytest.raises(NotHydratedError):
        await queue.enqueue("new", 1)
    assert (ids(cache.texts[A]), cache.texts[B]) == (["a1"], "{}")


async def test_c5_hydrate_of_the_same_key_during_a_drain_does_not_send_again(place: Place, opened: Opener) -> None:
    queue, remote = await opened(place.cache), Remote()
    await queue.enqueue_many([("a", 1), ("b", 2)])
    draining = asyncio.create_task(drain_outbox(queue, remote))
    await remote.reached()
    await queue.hydrate("outbox.ana")
    assert [entry.status for entry in queue.get()] == ["sending", "queued"]
    second = asyncio.create_task(drain_outbox(queue, remote))
    await asyncio.sleep(0)
    remote.answer()
    results = await asyncio.gather(draining, second)
    assert sorted(remote.asked) == ["a", "b"]
    assert sum(result.sent for result in results) == 2
    assert (queue.get(), await place.text("outbox.ana")) == ([], "[]")


async def test_c5_a_second_queue_on_the_same_cache_does_not_send_what_the_first_is_sending(
    place: Place, opened: Opener
) -> None:
    first, remote = await opened(place.cache), Remote()
    await first.enqueue_many([("a", 1), ("b", 2)])
    draining = asyncio.create_task(drain_outbox(first, remote))
    await remote.reached()
    second = await opened(place.fresh() if place.kind != "memory" else place.cache)
    assert [entry.status for entry in second.get()] == ["sending", "queued"]
    other: list[str] = []
    assert (await drain_outbox(second, lambda entry: other.append(entry.id))).sent == 1
    remote.answer()
    assert (await draining).sent == 1
    assert (remote.asked, other, second.get(), first.get()) == (["a"], ["b"], [], [])


async def test_c5_hydrate_again_releases_bare_claims_of_this_queue_and_no_others(place: Place, opened: Opener) -> None:
    first, second = await opened(place.cache), await opened(place.cache)
    await first.enqueue_many([("mine", 1), ("theirs", 2)])
    assert await first.claim("mine")
    assert await second.claim("theirs")
    await first.hydrate("outbox.ana")
    assert [(e.id, e.status, e.maybe_sent_ms) for e in first.get()] == [
        ("mine", "queued", None),
        ("theirs", "sending", None),
    ]


async def test_c6_a_send_in_flight_is_recorded_under_a_and_b_is_not_touched(place: Place, opened: Opener) -> None:
    await place.put(B, array("b1", "b2"))
    queue, remote = await opened(place.cache, A), Remote()
    await queue.enqueue_many([("a1", 1), ("a2", 2)])
    draining = asyncio.create_task(drain_outbox(queue, remote))
    await remote.reached()
    await queue.hydrate(B)
    assert short(await place.text(A)) == ["a1:sending", "a2:queued"]
    remote.answer()
    result = await draining
    assert (result.sent, result.stopped, result.left, remote.asked) == (1, "switched", 1, ["a1"])
    assert short(await place.text(A)) == ["a2:queued"]
    assert short(await place.text(B)) == ["b1:queued", "b2:queued"]
    assert [entry.id for entry in queue.get()] == ["b1", "b2"]


async def test_c7_the_same_ids_under_b_are_neither_sent_nor_removed(place: Place, opened: Opener) -> None:
    queue, remote = await opened(place.cache, B), Remote()
    await queue.enqueue_many([("p1", "of B"), ("p2", "of B")])
    await queue.hydrate(A)
    await queue.enqueue_many([("p1", "of A"), ("p2", "of A")])
    draining = asyncio.create_task(drain_outbox(queue, remote))
    await remote.reached()
    await queue.hydrate(B)
    remote.answer()
    assert (await draining).stopped == "switched"
    assert remote.items == ["of A"]
    assert [(entry.id, entry.item, entry.status) for entry in queue.get()] == [
        ("p1", "of B", "queued"),
        ("p2", "of B", "queued"),
    ]
    assert short(await place.text(A)) == ["p2:queued"]
    assert short(await place.text(B)) == ["p1:queued", "p2:queued"]


async def test_c8_a_sign_out_during_a_drain_loses_no_result_and_starts_no_other_send(
    place: Place, opened: Opener
) -> None:
    queue, remote = await opened(place.cache, A), Remote()
    await queue.enqueue_many([("a1", 1), ("a2", 2)])
    draining = asyncio.create_task(drain_outbox(queue, remote))
    await remote.reached()
    queue.clear()
    remote.answer()
    assert await draining == DrainResult(1, 0)
    assert short(await place.text(A)) == ["a2:queued"]
    await queue.hydrate(A)
    assert (await drain_outbox(queue, remote)).sent == 1
    assert remote.asked == ["a1", "a2"]


Leave = Callable[[OutboxQueue[Any]], Any]


async def signs_out(queue: OutboxQueue[Any]) -> None:
    queue.clear()


async def becomes_b(queue: OutboxQueue[Any]) -> None:
    await queue.hydrate(B)


async def closes(queue: OutboxQueue[Any]) -> None:
    await queue.close()


@pytest.mark.parametrize("leave", [signs_out, becomes_b, closes])
async def test_c8_nothing_is_sent_once_the_queue_has_moved_on_while_a_claim_was_being_stored(leave: Leave) -> None:
    cache = GatedCache({A: array("a1", "a2")})
    queue, asked = await signed_in(cache, A), list[str]()
    gate = cache.hold("set")
    draining = asyncio.create_task(drain_outbox(queue, lambda entry: asked.append(entry.id)))
    await gate.reached()
    leaving = asyncio.create_task(leave(queue))
    await asyncio.sleep(0)
    gate.open()
    await leaving
    result = await draining
    assert (asked, result.sent, result.stopped, result.left) == ([], 0, "switched", 2)
    assert short(cache.texts[A]) == ["a1:queued", "a2:queued"]
    assert "maybeSent" not in cache.texts[A]  # it was not
    await queue.hydrate(A)
    assert (await drain_outbox(queue, lambda entry: asked.append(entry.id))).sent == 2


async def test_c8_no_second_time_is_asked_once_the_queue_has_moved_on(place: Place, opened: Opener) -> None:
    queue, asked = await opened(place.cache, A), list[str]()
    await queue.enqueue_many([("a1", 1), ("a2", 2)])

    async def send(entry: OutboxEntry[Any]) -> None:
        asked.append(entry.id)
        queue.clear()
        raise UnackedError("no answer")

    result = await drain_outbox(queue, send)
    assert (asked, result.stopped) == (["a1"], "switched")
    await queue.hydrate(A)
    assert [(e.id, e.status, e.attempts, e.maybe_sent_ms is not None) for e in queue.get()] == [
        ("a1", "queued", 0, True),
        ("a2", "queued", 0, False),
    ]


async def test_c8_a_late_record_of_a_failure_costs_an_attempt_under_its_own_identity(
    place: Place, opened: Opener
) -> None:
    queue = await opened(place.cache, A)
    await queue.enqueue_many([("a1", 1), ("a2", 2)])

    async def send(entry: OutboxEntry[Any]) -> None:
        queue.clear()
        raise ValueError("the server has no such site")

    result = await drain_outbox(queue, send, max_attempts=1)
    assert (result.failed, result.stopped) == (1, "switched")
    assert short(await place.text(A)) == ["a1:failed", "a2:queued"]


async def test_c8_a_late_record_writes_nothing_where_the_key_is_gone() -> None:
    cache = GatedCache()
    queue, remote = await signed_in(cache, A), Remote()
    await queue.enqueue_many([("a1", 1), ("a2", 2)])
    draining = asyncio.create_task(drain_outbox(queue, remote))
    await remote.reached()
    queue.clear()
    await cache.remove_item(A)  # the app wipes the device at sign-out
    remote.answer()
    result = await draining
    assert (result.sent, result.superseded, cache.texts) == (1, 1, {})


async def test_c8_a_late_record_makes_its_one_change_to_what_is_there_now() -> None:
    cache = GatedCache()
    queue, remote = await signed_in(cache, A), Remote()
    await queue.enqueue_many([("a1", 1), ("a2", 2)])
    draining = asyncio.create_task(drain_outbox(queue, remote))
    await remote.reached()
    queue.clear()
    text = cache.texts[A]
    cache.texts[A] = f"{text[:-1]},{array('a3')[1:]}"  # another program adds one
    remote.answer()
    await draining
    assert short(cache.texts[A]) == ["a2:queued", "a3:queued"]


async def test_c8_a_late_record_reaches_a_queue_that_is_signed_in_again(place: Place, opened: Opener) -> None:
    queue, remote = await opened(place.cache, A), Remote()
    await queue.enqueue_many([("a1", 1), ("a2", 2)])
    draining = asyncio.create_task(drain_outbox(queue, remote))
    await remote.reached()
    await queue.hydrate(B)
    await queue.hydrate(A)
    assert short(await place.text(A)) == ["a1:sending", "a2:queued"]
    remote.answer()
    assert (await draining).sent == 1
    assert [entry.id for entry in queue.get()] == ["a2"]
    assert short(await place.text(A)) == ["a2:queued"]


async def test_c8_a_pass_that_meets_an_outage_after_a_sign_out_puts_its_entry_back_under_a(
    place: Place, opened: Opener
) -> None:
    queue = await opened(place.cache, A)
    await queue.enqueue("a1", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        await queue.hydrate(B)
        raise OfflineError("no route")

    result = await drain_outbox(queue, send)
    assert (result.stopped, result.left) == ("offline", 1)
    assert short(await place.text(A)) == ["a1:queued"]
    assert short(await place.text(B)) == []


async def test_c8_a_late_record_that_cannot_be_stored_raises_from_the_drain() -> None:
    cache = GatedCache()
    queue, remote = await signed_in(cache, A), Remote()
    await queue.enqueue("a1", 1)
    draining = asyncio.create_task(drain_outbox(queue, remote))
    await remote.reached()
    queue.clear()
    cache.broken = OSError("full")
    remote.answer()
    with pytest.raises(CacheError):
        await draining
    cache.broken = None
    await queue.hydrate(A)
    assert [(e.id, e.status, e.maybe_sent_ms is not None) for e in queue.get()] == [("a1", "queued", True)]
