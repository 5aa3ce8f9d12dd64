"""The options of a pass (limit, timeout, on_progress, classify), concurrent passes, and what is refused."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from starfish_outbox import (
    AuthNeededError,
    BusyError,
    DrainProgress,
    DrainResult,
    OfflineError,
    OutboxEntry,
    OutboxQueue,
    RejectedError,
    SendError,
    UnackedError,
    drain_outbox,
)
from starfish_outbox.outcomes import classify as default_rule
from tests.conftest import KEY, Opener, Place
from tests.gates import short


def states(queue: OutboxQueue[Any]) -> list[tuple[str, str, int, bool]]:
    """Id, status, attempts, and whether it may be sent."""
    return [(e.id, e.status, e.attempts, e.maybe_sent_ms is not None) for e in queue.get()]


async def arrives(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


async def test_a_limit_ends_the_pass_after_so_many_entries_whatever_became_of_them(
    place: Place, opened: Opener
) -> None:
    queue, asked = await opened(place.cache), list[str]()
    await queue.enqueue_many([(id, 1) for id in "abcd"])

    async def send(entry: OutboxEntry[Any]) -> None:
        asked.append(entry.id)
        if entry.id == "a":
            raise ValueError("no")

    result = await drain_outbox(queue, send, limit=2)
    assert (result.sent, result.stopped, result.left, asked) == (1, "limit", 3, ["a", "b"])
    assert states(queue) == [("a", "queued", 1, False), ("c", "queued", 0, False), ("d", "queued", 0, False)]
    assert result.reason


@pytest.mark.parametrize("limit", [3, 4])
async def test_a_limit_that_is_not_exceeded_is_not_what_stopped_the_pass(
    place: Place, opened: Opener, limit: int
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([(id, 1) for id in "abc"])
    result = await drain_outbox(queue, arrives, limit=limit)
    assert (result.sent, result.stopped, result.left) == (3, "finished", 0)


@pytest.mark.parametrize("unfit", [0, -1, 1.5, True, "3", float("inf")], ids=repr)
async def test_an_unfit_limit_is_refused(place: Place, opened: Opener, unfit: Any) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    with pytest.raises(ValueError, match="limit"):
        await drain_outbox(queue, arrives, limit=unfit)
    assert states(queue) == [("a", "queued", 0, False)]


async def test_a_send_that_takes_longer_than_the_timeout_may_have_arrived(place: Place, opened: Opener) -> None:
    queue, asked, cancelled = await opened(place.cache), list[bool](), list[str]()
    await queue.enqueue_many([("slow", 1), ("quick", 2)])

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "quick":
            return
        asked.append(entry.maybe_sent_ms is not None)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(entry.id)
            raise

    result = await drain_outbox(queue, send, timeout=0.02)
    assert (result.sent, result.left) == (1, 1)
    assert (asked, cancelled) == ([False, True], ["slow", "slow"])
    (entry,) = queue.get()
    assert (entry.status, entry.attempts, entry.maybe_sent_ms is not None) == ("queued", 0, True)
    assert entry.last_error is not None
    assert entry.last_error[:2] == ("UnackedError", "no answer within 0.02 s")


async def test_a_send_that_returns_although_its_time_is_up_has_sent(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()

    assert await drain_outbox(queue, send, timeout=0.02) == DrainResult(1, 0)
    assert queue.get() == []


async def test_a_cancellation_during_a_timed_send_is_a_cancellation(place: Place, opened: Opener) -> None:
    queue, reached = await opened(place.cache), asyncio.Event()
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        reached.set()
        await asyncio.Event().wait()

    draining = asyncio.create_task(drain_outbox(queue, send, timeout=60))
    await reached.wait()
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert states(queue) == [("a", "queued", 0, True)]


async def test_a_timeout_of_the_senders_own_is_unanswered_too(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        raise TimeoutError

    result = await drain_outbox(queue, send, timeout=60)
    assert (result.stopped, states(queue)) == ("unacked", [("a", "queued", 0, True)])


class Sender:
    """A sender object; only its class says whether it is asynchronous."""


class AsyncSender(Sender):
    async def __call__(self, entry: OutboxEntry[Any]) -> None:
        """The remote takes it."""


class PlainSender(Sender):
    def __call__(self, entry: OutboxEntry[Any]) -> None:
        """The remote takes it."""


def plain(entry: OutboxEntry[Any]) -> None:
    """The remote takes it."""


@pytest.mark.parametrize(
    "send",
    [plain, functools.partial(plain), PlainSender(), print],
    ids=["function", "partial", "object", "builtin"],
)
async def test_a_plain_send_with_a_timeout_is_refused_with_a_hint(place: Place, opened: Opener, send: Any) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    with pytest.raises(ValueError, match="async def send"):
        await drain_outbox(queue, send, timeout=1)
    assert states(queue) == [("a", "queued", 0, False)]


@pytest.mark.parametrize(
    "send",
    [arrives, functools.partial(arrives), AsyncSender(), AsyncSender().__call__],
    ids=["function", "partial", "object", "method"],
)
async def test_any_kind_of_async_send_takes_a_timeout(
    place: Place, opened: Opener, send: Callable[[OutboxEntry[Any]], Awaitable[None]]
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    assert (await drain_outbox(queue, send, timeout=1)).sent == 1


@pytest.mark.parametrize("unfit", [0, -1, float("nan"), True, "3"], ids=repr)
async def test_an_unfit_timeout_is_refused(place: Place, opened: Opener, unfit: Any) -> None:
    queue = await opened(place.cache)
    with pytest.raises(ValueError, match="timeout"):
        await drain_outbox(queue, arrives, timeout=unfit)


async def test_on_progress_is_told_after_each_entry_what_became_of_it(place: Place, opened: Opener) -> None:
    queue, seen, stored = await opened(place.cache), list[DrainProgress](), list[list[str]]()
    await queue.enqueue_many([(id, 1) for id in ("ok", "tries", "parked", "offline", "never")])
    errors = {"tries": ValueError(), "parked": RejectedError("no"), "offline": OfflineError("gone")}

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id in errors:
            raise errors[entry.id]

    def on_progress(progress: DrainProgress) -> None:
        seen.append(progress)
        stored.append([entry.id for entry in queue.get()])

    await drain_outbox(queue, send, on_progress=on_progress)
    assert seen == [
        DrainProgress(1, 0, 1, 5, "ok", "sent"),
        DrainProgress(1, 0, 2, 5, "tries", "attempt"),
        DrainProgress(1, 1, 3, 5, "parked", "failed"),
        DrainProgress(1, 1, 4, 5, "offline", "offline"),
    ]
    assert stored[0] == ["tries", "parked", "offline", "never"]  # it is told once the removal is stored


async def test_on_progress_that_raises_is_logged_and_the_pass_goes_on(
    place: Place, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("a", 1), ("b", 2)])

    def on_progress(progress: DrainProgress) -> None:
        raise RuntimeError("the bar is gone")

    with caplog.at_level(logging.ERROR, "starfish_outbox"):
        assert (await drain_outbox(queue, arrives, on_progress=on_progress)).sent == 2
    assert sum("the bar is gone" in (record.exc_text or str(record.exc_info)) for record in caplog.records) == 2


async def test_an_async_on_progress_is_refused(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)

    async def on_progress(progress: DrainProgress) -> None:
        """Nobody would await it."""

    with pytest.raises(TypeError, match="on_progress"):
        await drain_outbox(queue, arrives, on_progress=on_progress)


class TokenExpiredError(Exception):
    """An error of the user's own client."""


async def test_classify_replaces_the_rule_and_can_hand_on_to_it(place: Place, opened: Opener) -> None:
    queue, script = await opened(place.cache), dict[str, Exception]()
    await queue.enqueue_many([("a", 1), ("b", 2)])

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id in script:
            raise script[entry.id]

    def rule(error: Exception) -> type[SendError] | None:
        return AuthNeededError if isinstance(error, TokenExpiredError) else default_rule(error)

    script["a"] = TokenExpiredError("at 12:00")
    result = await drain_outbox(queue, send, classify=rule)
    assert (result.stopped, result.reason) == ("auth", "TokenExpiredError: at 12:00")
    script["a"] = ConnectionRefusedError()
    assert (await drain_outbox(queue, send, classify=rule)).stopped == "offline"
    assert (await drain_outbox(queue, send, classify=lambda _: None)).stopped == "finished"
    assert states(queue) == [("a", "queued", 1, False)]
    script["a"] = ValueError("never")
    assert (await drain_outbox(queue, send, classify=lambda _: RejectedError)).failed == 1


@pytest.mark.parametrize("answer", [ValueError, "offline", OfflineError("x"), RuntimeError("the rule is broken")])
async def test_a_broken_rule_raises_but_not_at_the_cost_of_the_entry(place: Place, opened: Opener, answer: Any) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("a", 1), ("b", 2)])

    def rule(error: Exception) -> Any:
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    async def send(entry: OutboxEntry[Any]) -> None:
        raise ValueError("no")

    with pytest.raises(RuntimeError if isinstance(answer, RuntimeError) else TypeError):
        await drain_outbox(queue, send, classify=rule)
    assert states(queue) == [("a", "queued", 0, True), ("b", "queued", 0, False)]
    assert short(await place.text(KEY)) == ["a:queued", "b:queued"]


async def test_a_retry_after_that_a_rule_finds_on_a_foreign_error_is_reported(place: Place, opened: Opener) -> None:
    class ThrottledError(Exception):
        retry_after = 7.0

    queue = await opened(place.cache)
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        raise ThrottledError

    result = await drain_outbox(queue, send, classify=lambda _: BusyError)
    assert (result.stopped, result.retry_after) == ("busy", 7.0)


async def test_two_passes_at_once_share_the_work(place: Place, opened: Opener) -> None:
    queue, asked = await opened(place.cache), list[str]()
    await queue.enqueue_many([(f"e{n}", n) for n in range(20)])

    async def send(entry: OutboxEntry[Any]) -> None:
        await asyncio.sleep(0)
        asked.append(entry.id)
        await asyncio.sleep(0)

    results = await asyncio.gather(*(drain_outbox(queue, send) for _ in range(3)))
    assert sorted(asked) == sorted(f"e{n}" for n in range(20))
    assert sum(result.sent for result in results) == 20
    assert all(result.superseded == 0 for result in results)
    assert queue.get() == []


async def test_a_pass_takes_what_was_queued_when_it_began(place: Place, opened: Opener) -> None:
    queue, asked = await opened(place.cache), list[str]()
    await queue.enqueue_many([("a", 1), ("b", 2)])

    async def send(entry: OutboxEntry[Any]) -> None:
        asked.append(entry.id)
        await queue.enqueue(f"{entry.id} again", 1)

    result = await drain_outbox(queue, send)
    assert (asked, result.sent, result.left) == (["a", "b"], 2, 2)


async def test_what_is_removed_before_its_turn_is_not_sent(place: Place, opened: Opener) -> None:
    queue, asked = await opened(place.cache), list[str]()
    await queue.enqueue_many([("a", 1), ("b", 2), ("c", 3), ("d", 4)])

    async def send(entry: OutboxEntry[Any]) -> None:
        asked.append(entry.id)
        if entry.id == "a":
            await queue.remove("b")
            await queue.mark_failed("c")

    result = await drain_outbox(queue, send)
    assert (asked, result.sent, result.superseded) == (["a", "d"], 2, 0)
    assert states(queue) == [("c", "failed", 1, False)]


async def test_a_removal_that_returned_before_the_send_began_is_honoured(place: Place, opened: Opener) -> None:
    """The claim and the removal may be stored in one commit."""
    queue, events = await opened(place.cache), list[str]()
    for n in range(40):
        await queue.enqueue("a", n)

        async def send(entry: OutboxEntry[Any]) -> None:
            events.append("sent")

        async def remove(rounds: int = n) -> None:
            for _ in range(rounds):
                await asyncio.sleep(0)
            await queue.remove("a")
            events.append("removed")

        events.clear()
        await asyncio.gather(drain_outbox(queue, send), remove())
        assert events in (["removed"], ["sent", "removed"]), n
        assert queue.get() == []


async def test_a_send_may_use_the_queue_and_drain_it_again(place: Place, opened: Opener) -> None:
    queue, asked = await opened(place.cache), list[str]()
    await queue.enqueue_many([("a", 1), ("b", 2), ("c", 3)])

    async def send(entry: OutboxEntry[Any]) -> None:
        asked.append(entry.id)
        if entry.id == "a":
            assert (await drain_outbox(queue, send)).sent == 2
            await queue.hydrate(KEY)

    assert (await drain_outbox(queue, send)).sent == 1
    assert (asked, queue.get()) == (["a", "b", "c"], [])


async def test_an_unhydrated_queue_drains_nothing(place: Place) -> None:
    result = await drain_outbox(OutboxQueue[Any](place.cache), arrives)
    assert (result, result.stopped, result.left) == (DrainResult(0, 0), "switched", 0)


async def test_a_pass_that_ends_with_silence_says_so(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        raise UnackedError("closed")

    result = await drain_outbox(queue, send)
    assert (result.stopped, result.left, bool(result.reason)) == ("unacked", 1, True)
