"""HAZARDS 1.5, rows D1 to D21: what a drain meets, by the parity rulings. A test is named by its row."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from starfish_outbox import (
    OfflineError,
    OutboxEntry,
    OutboxQueue,
    RejectedError,
    drain_outbox,
)
from tests.conftest import KEY, ManualClock, Opener, Place
from tests.gates import array, ids, short


def states(queue: OutboxQueue[Any]) -> list[tuple[str, str, int]]:
    return [(entry.id, entry.status, entry.attempts) for entry in queue.get()]


async def fails(entry: OutboxEntry[Any]) -> None:
    raise ValueError("no such site")


async def arrives(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


async def test_d1_an_id_that_is_being_sent_is_live_and_a_second_enqueue_says_so(place: Place, opened: Opener) -> None:
    queue, answers = await opened(place.cache), list[bool]()
    await queue.enqueue("a", "v1")

    async def send(entry: OutboxEntry[Any]) -> None:
        answers.append(await queue.enqueue("a", "v2"))

    assert (await drain_outbox(queue, send)).sent == 1
    assert answers == [False]  # the caller knows that v2 is not stored
    assert queue.get() == []
    assert await queue.enqueue("a", "v2")


async def test_d1_a_removal_goes_by_the_claim_so_an_entry_put_in_its_place_stays(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", "v1")

    async def send(entry: OutboxEntry[Any]) -> None:
        await queue.remove("a")
        assert await queue.enqueue("a", "v2")

    result = await drain_outbox(queue, send)
    assert (result.sent, result.superseded, result.left) == (1, 1, 1)
    assert [(entry.id, entry.item, entry.status) for entry in queue.get()] == [("a", "v2", "queued")]
    assert short(await place.text(KEY)) == ["a:queued"]


async def test_d2_an_entry_replaced_while_another_is_sent_is_not_sent_in_its_old_form(
    place: Place, opened: Opener
) -> None:
    queue, sent = await opened(place.cache), list[Any]()
    await queue.enqueue_many([("a", "v1"), ("b", "v1")])

    async def send(entry: OutboxEntry[Any]) -> None:
        sent.append((entry.id, entry.item))
        if entry.id == "a":
            await queue.remove("b")
            await queue.enqueue("b", "v2")

    first, second = await drain_outbox(queue, send), await drain_outbox(queue, send)
    assert sent == [("a", "v1"), ("b", "v2")]
    assert (first.sent + second.sent, queue.get()) == (2, [])


async def test_d3_the_id_of_a_failed_entry_is_live_and_enqueue_says_so(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", "v1")
    await drain_outbox(queue, fails, max_attempts=1)
    assert await queue.enqueue("a", "v2") is False
    assert [(entry.item, entry.status) for entry in queue.get()] == [("v1", "failed")]


async def test_d4_a_drain_never_claims_what_another_drain_parked_meanwhile(place: Place, opened: Opener) -> None:
    queue, tried, gate, reached = await opened(place.cache), list[str](), asyncio.Event(), asyncio.Event()
    await queue.enqueue_many([("a", 1), ("b", 2)])

    async def slow(entry: OutboxEntry[Any]) -> None:
        tried.append(f"first {entry.id}")
        if entry.id == "a":
            reached.set()
            await gate.wait()

    async def refuses(entry: OutboxEntry[Any]) -> None:
        tried.append(f"second {entry.id}")
        raise ValueError("no")

    first = asyncio.create_task(drain_outbox(queue, slow))
    await reached.wait()
    assert (await drain_outbox(queue, refuses, max_attempts=1)).failed == 1
    gate.set()
    assert (await first).sent == 1
    assert tried == ["first a", "second b"]
    assert states(queue) == [("b", "failed", 1)]


async def test_d5_claim_by_id_accepts_a_failed_entry_and_one_of_unknown_status(place: Place, opened: Opener) -> None:
    await place.put(KEY, f"[{array('f', status='failed')[1:-1]},{array('u', status='paused')[1:-1]}]")
    queue = await opened(place.cache)
    assert await queue.claim("f")
    assert await queue.claim("u")
    assert not await queue.claim("f")
    assert short(await place.text(KEY)) == ["f:sending", "u:sending"]


async def test_d5_a_drain_takes_neither(place: Place, opened: Opener) -> None:
    await place.put(KEY, f"[{array('f', status='failed')[1:-1]},{array('u', status='paused')[1:-1]}]")
    queue = await opened(place.cache)
    result = await drain_outbox(queue, arrives)
    assert (result.sent, result.left) == (0, 0)
    assert short(await place.text(KEY)) == ["f:failed", "u:paused"]
    assert any("paused" in line for line in queue.status().stuck)


async def test_d6_removed_while_sending_counts_as_sent_when_it_arrives_and_as_nothing_when_not(
    place: Place, opened: Opener
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("a", 1), ("b", 2)])

    async def send(entry: OutboxEntry[Any]) -> None:
        await queue.remove(entry.id)
        if entry.id == "b":
            raise ValueError("no")

    result = await drain_outbox(queue, send, max_attempts=1)
    assert (result.sent, result.failed, result.superseded, queue.get()) == (1, 0, 2, [])


async def test_d7_retry_is_refused_while_a_drain_holds_the_entry(place: Place, opened: Opener) -> None:
    queue, sent = await opened(place.cache), list[str]()
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        sent.append(entry.id)
        await queue.retry(entry.id)
        assert states(queue) == [("a", "sending", 0)]
        assert (await drain_outbox(queue, send)).sent == 0

    assert (await drain_outbox(queue, send)).sent == 1
    assert (sent, queue.get()) == (["a"], [])


async def test_d7_retry_keeps_its_published_meaning_on_a_bare_claim(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    assert await queue.claim("a")
    await queue.retry("a")
    assert states(queue) == [("a", "queued", 0)]
    assert short(await place.text(KEY)) == ["a:queued"]


async def test_d8_mark_failed_inside_send_holds_although_send_then_raises(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        await queue.mark_failed(entry.id)
        raise ValueError("permanent")

    result = await drain_outbox(queue, send)
    assert (result.failed, result.superseded) == (0, 1)
    assert states(queue) == [("a", "failed", 1)]


async def test_d8_rejected_is_how_send_says_permanent(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        raise RejectedError("422: no such site")

    assert (await drain_outbox(queue, send)).failed == 1
    (entry,) = queue.get()
    assert (entry.status, entry.attempts) == ("failed", 1)
    assert entry.last_error is not None
    assert entry.last_error[:2] == ("RejectedError", "422: no such site")


async def test_d9_record_failure_by_id_revives_a_failed_entry_below_the_maximum(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    await queue.record_failure("a", 1)
    assert states(queue) == [("a", "failed", 1)]
    await queue.record_failure("a", 5)
    assert states(queue) == [("a", "queued", 2)]
    await queue.record_failure("a", 3)
    assert states(queue) == [("a", "failed", 3)]


async def test_d10_retry_keeps_attempts_unless_they_are_reset(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    for _ in range(5):
        await drain_outbox(queue, fails)
    assert states(queue) == [("a", "failed", 5)]
    await queue.retry("a")
    assert states(queue) == [("a", "queued", 5)]
    assert (await drain_outbox(queue, fails)).failed == 1
    assert states(queue) == [("a", "failed", 6)]
    await queue.retry("a", reset_attempts=True)
    assert states(queue) == [("a", "queued", 0)]
    assert (await drain_outbox(queue, fails)).failed == 0
    assert states(queue) == [("a", "queued", 1)]
    await queue.retry("a", reset_attempts=True)
    assert states(queue) == [("a", "queued", 0)]


async def no_route() -> None:
    raise OSError(101, "Network is unreachable")


async def says_offline() -> None:
    raise OfflineError("no network")


@pytest.mark.parametrize("outage", [no_route, says_offline])
async def test_d11_five_blips_while_offline_cost_no_attempt(
    place: Place, opened: Opener, outage: Callable[[], Awaitable[None]]
) -> None:
    queue, asked = await opened(place.cache), list[str]()
    await queue.enqueue_many([("a", 1), ("b", 2), ("c", 3)])

    async def send(entry: OutboxEntry[Any]) -> None:
        asked.append(entry.id)
        await outage()

    for _ in range(5):
        result = await drain_outbox(queue, send)
        assert (result.sent, result.failed, result.stopped, result.left) == (0, 0, "offline", 3)
    assert asked == ["a"] * 5  # a pass ends at the first
    assert [(e.id, e.status, e.attempts, e.maybe_sent_ms) for e in queue.get()] == [
        (id, "queued", 0, None) for id in "abc"
    ]
    assert (await drain_outbox(queue, arrives)).sent == 3


async def test_d12_a_drain_cancelled_while_it_sends_puts_the_entry_back_as_maybe_sent(
    place: Place, opened: Opener, clock: ManualClock
) -> None:
    queue, reached = await opened(place.cache), asyncio.Event()
    await queue.enqueue_many([("a", 1), ("b", 2)])

    async def hangs(entry: OutboxEntry[Any]) -> None:
        reached.set()
        await asyncio.Event().wait()

    draining = asyncio.create_task(drain_outbox(queue, hangs))
    await reached.wait()
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert [(e.id, e.status, e.attempts, e.maybe_sent_ms) for e in queue.get()] == [
        ("a", "queued", 0, clock.now_ms),
        ("b", "queued", 0, None),
    ]
    assert short(await place.text(KEY)) == ["a:queued", "b:queued"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await drain_outbox(queue, hangs)
    assert short(await place.text(KEY)) == ["a:queued", "b:queued"]
    assert (await drain_outbox(queue, arrives)).sent == 2


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "plain"])
@pytest.mark.parametrize("interrupt", [asyncio.CancelledError, GeneratorExit])
async def test_d13_a_send_that_raises_no_exception_but_an_interrupt_leaves_nothing_sending(
    place: Place, opened: Opener, interrupt: type[BaseException], asynchronous: bool
) -> None:
    """KeyboardInterrupt and SystemExit, which end the loop, are in test_interrupts.py."""
    queue = await opened(place.cache)
    await queue.enqueue_many([("a", 1), ("b", 2)])

    def plain(entry: OutboxEntry[Any]) -> None:
        raise interrupt

    async def asynchronously(entry: OutboxEntry[Any]) -> None:
        raise interrupt

    with pytest.raises(interrupt):
        await drain_outbox(queue, asynchronously if asynchronous else plain)
    assert [(e.id, e.status, e.attempts, e.maybe_sent_ms is None) for e in queue.get()] == [
        ("a", "queued", 0, False),
        ("b", "queued", 0, True),
    ]


# D14, a cancellation while a claim or a removal is being stored: test_cancellation.py, at every step.


async def test_d15_a_plain_function_as_send_is_called_once_and_its_answer_awaited_when_it_can_be(
    place: Place, opened: Opener
) -> None:
    queue, sent = await opened(place.cache), list[str]()
    await queue.enqueue_many([("a", 1), ("b", 2), ("c", 3)])

    def plain(entry: OutboxEntry[Any]) -> object:
        if entry.id == "a":
            sent.append("a")
            return None

        async def later() -> None:
            await asyncio.sleep(0)
            sent.append(entry.id)

        return asyncio.ensure_future(later()) if entry.id == "b" else later()

    assert (await drain_outbox(queue, plain)).sent == 3
    assert (sent, queue.get()) == (["a", "b", "c"], [])


@pytest.mark.parametrize("unfit", [0, -1, None, "3", float("nan"), float("inf"), 1.5, True, False], ids=repr)
async def test_d16_d17_d18_an_unfit_max_attempts_is_refused_before_anything_is_touched(
    place: Place, opened: Opener, unfit: Any
) -> None:
    queue, sent = await opened(place.cache), list[str]()
    await queue.enqueue("a", 1)
    for call in (
        drain_outbox(queue, lambda entry: sent.append(entry.id), max_attempts=unfit),
        queue.record_failure("a", unfit),
    ):
        with pytest.raises((ValueError, TypeError), match="max_attempts"):
            await call
    assert (sent, states(queue)) == ([], [("a", "queued", 0)])


async def test_d19_the_options_of_a_drain_are_named(place: Place, opened: Opener) -> None:
    queue: Any = await opened(place.cache)
    with pytest.raises(TypeError):
        await drain_outbox(queue, arrives, 5)  # type: ignore[call-arg]  # the published signature is keyword-only too
    with pytest.raises(TypeError, match="send"):
        await drain_outbox(queue, None)  # type: ignore[arg-type]


async def test_d20_send_sees_the_entry_as_it_waited_while_the_queue_says_sending(place: Place, opened: Opener) -> None:
    queue, seen = await opened(place.cache), list[Any]()
    await queue.enqueue("a", 1)
    await drain_outbox(queue, fails)

    async def send(entry: OutboxEntry[Any]) -> None:
        seen.append((entry.status, entry.attempts, [e.status for e in queue.get()]))
        seen.append(short(await place.text(KEY)))

    await drain_outbox(queue, send)
    assert seen == [("queued", 1, ["sending"]), ["a:sending"]]


async def test_d21_nothing_that_a_caller_changes_is_stored(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    item = {"value": [1]}
    await queue.enqueue("a", item)
    item["value"].append(2)
    (entry,) = queue.get()
    entry.status, entry.id, entry.item["value"] = "failed", "x", "changed"
    entry.extra["token"] = "s3cret"
    queue.get().clear()
    queue.pending()[0].item.clear()

    async def send(entry: OutboxEntry[Any]) -> None:
        entry.item["token"] = "s3cret"
        entry.attempts = 99
        raise ValueError("then fails")

    await drain_outbox(queue, send)
    (entry,) = queue.get()
    assert (entry.id, entry.status, entry.attempts, entry.item) == ("a", "queued", 1, {"value": [1]})
    text = await place.text(KEY)
    assert "s3cret" not in (text or "")
    assert ids(text) == ["a"]


async def test_r15_two_entries_with_one_id_are_both_sent(place: Place, opened: Opener) -> None:
    await place.put(KEY, array("a", "b", "a"))
    queue, sent = await opened(place.cache), list[str]()

    async def send(entry: OutboxEntry[Any]) -> None:
        sent.append(entry.id)

    assert (await drain_outbox(queue, send)).sent == 3
    assert (sent, await place.text(KEY)) == (["a", "b", "a"], "[]")


async def test_r15_a_pass_that_fails_costs_each_of_the_two_one_attempt(place: Place, opened: Opener) -> None:
    await place.put(KEY, array("a", "a"))
    queue = await opened(place.cache)
    assert (await drain_outbox(queue, fails, max_attempts=2)).failed == 0
    assert states(queue) == [("a", "queued", 1), ("a", "queued", 1)]
    assert (await drain_outbox(queue, fails, max_attempts=2)).failed == 2
