"""What the published package promises, on every cache: from its public names and what it does, seen from outside.

Only published names are used, so that this file also runs against the published package itself.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from starfish_outbox import (
    DrainResult,
    LocalCache,
    OutboxEntry,
    OutboxQueue,
    drain_outbox,
    reset_sending_to_queued,
)

KEY = "outbox.ana"


async def queue_on(cache: LocalCache, key: str = KEY) -> OutboxQueue[Any]:
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(key)
    return queue


async def after_restart(queue: OutboxQueue[Any], cache: LocalCache, key: str = KEY) -> OutboxQueue[Any]:
    """A new queue on what the old one stored."""
    queue.clear()
    return await queue_on(cache, key)


def shape(queue: OutboxQueue[Any]) -> list[tuple[str, str, int]]:
    return [(entry.id, entry.status, entry.attempts) for entry in queue.get()]


async def accept(entry: OutboxEntry[Any]) -> None:
    assert entry.id


async def refuse(entry: OutboxEntry[Any]) -> None:
    raise RuntimeError(f"the server said no to {entry.id}")


async def test_an_entry_has_the_five_published_fields(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", {"celsius": 21.5}, ts=1_700_000_000_000)
    assert queue.get() == [OutboxEntry("a", {"celsius": 21.5}, "queued", 0, 1_700_000_000_000)]


async def test_an_id_is_enqueued_once_and_the_first_item_stays(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", {"n": 1})
    await queue.enqueue("b", {"n": 2})
    await queue.enqueue("a", {"n": 3})
    assert [(entry.id, entry.item) for entry in queue.get()] == [("a", {"n": 1}), ("b", {"n": 2})]


@pytest.mark.parametrize("step", ["claim", "mark_failed"])
async def test_an_id_is_taken_while_its_entry_is_sent_or_failed(cache: LocalCache, step: str) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    await getattr(queue, step)("a")
    before = queue.get()
    await queue.enqueue("a", 2)
    assert queue.get() == before
    await queue.remove("a")
    await queue.enqueue("a", 2)
    assert [(entry.item, entry.status) for entry in queue.get()] == [(2, "queued")]


async def test_entries_keep_the_order_in_which_they_were_enqueued_whatever_their_time(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    for id, ts in (("z", 3000), ("a", 1000), ("m", 2000)):
        await queue.enqueue(id, None, ts=ts)
    assert [entry.id for entry in queue.get()] == ["z", "a", "m"]
    sent: list[str] = []

    async def send(entry: OutboxEntry[Any]) -> None:
        sent.append(entry.id)

    await drain_outbox(queue, send)
    assert sent == ["z", "a", "m"]


async def test_pending_gives_the_entries_whose_item_satisfies_the_predicate_whatever_their_status(
    cache: LocalCache,
) -> None:
    queue = await queue_on(cache)
    for number in range(4):
        await queue.enqueue(f"e{number}", {"n": number})
    await queue.claim("e0")
    await queue.mark_failed("e2")
    assert [entry.id for entry in queue.pending(lambda item: item["n"] % 2 == 0)] == ["e0", "e2"]
    assert queue.pending() == queue.get()


async def test_a_claim_succeeds_once(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    assert [await queue.claim("a"), await queue.claim("a"), await queue.claim("unknown")] == [True, False, False]
    assert shape(queue) == [("a", "sending", 0)]


async def test_a_failed_entry_can_be_claimed(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    await queue.mark_failed("a")
    assert await queue.claim("a")
    assert shape(queue) == [("a", "sending", 1)]


async def test_a_drain_sends_everything_once_and_removes_it(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    for number in range(5):
        await queue.enqueue(f"e{number}", {"n": number})
    seen: list[Any] = []

    async def send(entry: OutboxEntry[Any]) -> None:
        seen.append(entry.item)

    assert await drain_outbox(queue, send) == DrainResult(5, 0)
    assert seen == [{"n": number} for number in range(5)]
    assert queue.get() == []
    assert json.loads(await cache.get_item(KEY) or "null") == []
    assert await drain_outbox(queue, send) == DrainResult(0, 0)
    assert len(seen) == 5


async def test_send_is_called_while_the_queue_says_sending(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    await queue.enqueue("b", 2)
    seen: list[list[tuple[str, str, int]]] = []

    async def send(entry: OutboxEntry[Any]) -> None:
        seen.append(shape(queue))

    await drain_outbox(queue, send)
    assert seen == [[("a", "sending", 0), ("b", "queued", 0)], [("b", "sending", 0)]]


async def test_what_is_enqueued_during_a_pass_waits_for_the_next(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        await queue.enqueue(f"{entry.id}+", 2)

    assert await drain_outbox(queue, send) == DrainResult(1, 0)
    assert shape(queue) == [("a+", "queued", 0)]


async def test_failures_are_counted_and_park_the_entry_which_is_then_skipped(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    tries = 0

    async def send(entry: OutboxEntry[Any]) -> None:
        nonlocal tries
        tries += 1
        raise RuntimeError("no")

    assert await drain_outbox(queue, send, max_attempts=3) == DrainResult(0, 0)
    assert shape(queue) == [("a", "queued", 1)]
    assert await drain_outbox(queue, send, max_attempts=3) == DrainResult(0, 0)
    assert shape(queue) == [("a", "queued", 2)]
    assert await drain_outbox(queue, send, max_attempts=3) == DrainResult(0, 1)
    assert shape(queue) == [("a", "failed", 3)]
    assert await drain_outbox(queue, send, max_attempts=3) == DrainResult(0, 0)
    assert tries == 3


async def test_five_failures_park_an_entry_unless_told_otherwise(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    results = [await drain_outbox(queue, refuse) for _ in range(6)]
    assert [result.failed for result in results] == [0, 0, 0, 0, 1, 0]


async def test_one_entry_that_fails_holds_up_no_other(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    for id in "abc":
        await queue.enqueue(id, id)

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "b":
            raise RuntimeError("no")

    assert await drain_outbox(queue, send, max_attempts=1) == DrainResult(2, 1)
    assert shape(queue) == [("b", "failed", 1)]


async def test_a_failure_is_recorded_by_id_at_the_attempt_that_it_makes(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    await queue.record_failure("a", 2)
    assert shape(queue) == [("a", "queued", 1)]
    await queue.record_failure("a", 2)
    assert shape(queue) == [("a", "failed", 2)]
    await queue.record_failure("a", 9)
    assert shape(queue) == [("a", "queued", 3)]


async def test_mark_failed_parks_at_once_and_counts_an_attempt(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    await queue.mark_failed("a")
    assert shape(queue) == [("a", "failed", 1)]
    await queue.mark_failed("a")
    assert shape(queue) == [("a", "failed", 2)]


async def test_retry_puts_a_failed_entry_back_and_keeps_its_attempts(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    await drain_outbox(queue, refuse, max_attempts=1)
    await queue.retry("a")
    assert shape(queue) == [("a", "queued", 1)]
    assert await drain_outbox(queue, accept, max_attempts=1) == DrainResult(1, 0)


async def test_retry_gives_a_bare_claim_back(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    await queue.claim("a")
    await queue.retry("a")
    assert shape(queue) == [("a", "queued", 0)]
    assert await queue.claim("a")


async def test_entries_outlive_the_queue_and_what_was_sending_is_queued_again(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    for id in "abc":
        await queue.enqueue(id, {"name": id}, ts=ord(id))
    await queue.claim("a")
    await queue.mark_failed("b")
    queue = await after_restart(queue, cache)
    assert queue.get() == [
        OutboxEntry("a", {"name": "a"}, "queued", 0, 97),
        OutboxEntry("b", {"name": "b"}, "failed", 1, 98),
        OutboxEntry("c", {"name": "c"}, "queued", 0, 99),
    ]


async def test_hydrating_again_puts_a_claim_back(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    await queue.claim("a")
    await queue.hydrate(KEY)
    assert shape(queue) == [("a", "queued", 0)]


async def test_each_identity_has_its_own_entries(cache: LocalCache) -> None:
    queue = await queue_on(cache, "outbox.ana")
    await queue.enqueue("a", "ana's")
    await queue.hydrate("outbox.ben")
    assert queue.get() == []
    await queue.enqueue("a", "ben's")
    await queue.hydrate("outbox.ana")
    assert [entry.item for entry in queue.get()] == ["ana's"]
    queue = await after_restart(queue, cache, "outbox.ben")
    assert [entry.item for entry in queue.get()] == ["ben's"]


async def test_clear_empties_the_queue_and_leaves_what_is_stored(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", 1)
    stored = await cache.get_item(KEY)
    queue.clear()
    assert queue.get() == []
    assert await cache.get_item(KEY) == stored
    await queue.hydrate(KEY)
    assert shape(queue) == [("a", "queued", 0)]


async def test_a_drain_without_an_identity_sends_nothing(cache: LocalCache) -> None:
    queue = OutboxQueue[Any](cache)
    assert await drain_outbox(queue, accept) == DrainResult(0, 0)


async def test_listeners_are_told_of_every_change_and_of_no_refusal(cache: LocalCache) -> None:
    queue = OutboxQueue[Any](cache)
    told = 0

    def listener() -> None:
        nonlocal told
        told += 1

    async def told_by(call: Any) -> int:
        before = told
        await call
        return told - before

    unsubscribe = queue.subscribe(listener)
    assert await told_by(queue.hydrate(KEY)) == 1
    assert await told_by(queue.enqueue("a", 1)) == 1
    assert await told_by(queue.enqueue("a", 1)) == 0
    assert await told_by(queue.claim("a")) == 1
    assert await told_by(queue.claim("a")) == 0
    for call in (queue.retry, queue.mark_failed, queue.retry, queue.remove):
        assert await told_by(call("a")) == 1
    # On an id that is unknown these notify too.
    for call in (queue.retry, queue.mark_failed, queue.remove):
        assert await told_by(call("a")) == 1
    assert await told_by(queue.record_failure("a", 5)) == 1
    before = told
    queue.clear()
    queue.clear()
    assert told - before == 2
    unsubscribe()
    assert await told_by(queue.hydrate(KEY)) == 0
    queue.clear()


async def test_a_listener_finds_the_change_in_the_queue(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    seen: list[list[tuple[str, str, int]]] = []
    queue.subscribe(lambda: seen.append(shape(queue)))
    await queue.enqueue("a", 1)
    await queue.claim("a")
    await queue.remove("a")
    assert seen == [[("a", "queued", 0)], [("a", "sending", 0)], []]


def test_sending_is_reset_to_queued_and_nothing_else_changes() -> None:
    entries = [OutboxEntry(status[0], {"of": status}, status, 2, 5) for status in ("sending", "queued", "failed")]
    reset = reset_sending_to_queued(entries)
    assert [(entry.id, entry.status, entry.attempts, entry.enqueued_at) for entry in reset] == [
        ("s", "queued", 2, 5),
        ("q", "queued", 2, 5),
        ("f", "failed", 2, 5),
    ]
    assert [entry.item for entry in reset] == [{"of": "sending"}, {"of": "queued"}, {"of": "failed"}]
    assert reset_sending_to_queued([]) == []


def test_an_entry_becomes_the_stored_object_and_comes_back_equal() -> None:
    entry = OutboxEntry("a", {"deep": [1, None, "é"]}, "failed", 3, 1_700_000_000_000)
    data = entry.to_dict()
    assert data == {
        "id": "a",
        "item": {"deep": [1, None, "é"]},
        "status": "failed",
        "attempts": 3,
        "enqueuedAt": 1_700_000_000_000,
    }
    assert OutboxEntry.from_dict(data) == entry
    assert OutboxEntry.from_dict(json.loads(json.dumps(data))).to_dict() == data


async def test_what_is_stored_is_the_array_of_the_entries_as_objects(cache: LocalCache) -> None:
    queue = await queue_on(cache)
    await queue.enqueue("a", {"n": 1}, ts=1)
    await queue.enqueue("b", {"n": 2}, ts=2)
    await queue.mark_failed("b")
    assert json.loads(await cache.get_item(KEY) or "null") == [entry.to_dict() for entry in queue.get()]
    queue = await after_restart(queue, cache)
    assert [(entry.id, entry.status, entry.attempts) for entry in queue.get()] == [
        ("a", "queued", 0),
        ("b", "failed", 1),
    ]
