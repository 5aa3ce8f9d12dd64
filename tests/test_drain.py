"""What a pass does with each outcome of a send (DESIGN section 5 and "Draining" of its section 10)."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import pytest

from starfish_outbox import (
    AuthNeededError,
    BusyError,
    CacheWriteError,
    ConflictError,
    DrainResult,
    OfflineError,
    OutboxEntry,
    OutboxQueue,
    RejectedError,
    SendError,
    UnackedError,
    drain_outbox,
)
from tests.conftest import KEY, ManualClock, Opener, Place
from tests.gates import GatedCache, short


class Script:
    """A send that raises what the script says for an id, one after the other, and then arrives.

    Attributes:
        asked: ids, in the order in which they were asked.
        maybe: for each, whether the entry said that it may be sent.
    """

    def __init__(self, **answers: Sequence[Exception]) -> None:
        self._answers = {id: list(errors) for id, errors in answers.items()}
        self.asked: list[str] = []
        self.maybe: list[bool] = []

    async def __call__(self, entry: OutboxEntry[Any]) -> None:
        self.asked.append(entry.id)
        self.maybe.append(entry.maybe_sent_ms is not None)
        left = self._answers.get(entry.id)
        if left:
            raise left.pop(0)


def states(queue: OutboxQueue[Any]) -> list[tuple[str, str, int, bool]]:
    """Id, status, attempts, and whether it may be sent."""
    return [(e.id, e.status, e.attempts, e.maybe_sent_ms is not None) for e in queue.get()]


async def test_returning_means_the_remote_has_it(place: Place, opened: Opener) -> None:
    queue, send = await opened(place.cache), Script()
    await queue.enqueue_many([("a", 1), ("b", 2)])
    result = await drain_outbox(queue, send)
    assert result == DrainResult(2, 0)
    assert (result.stopped, result.left, result.retry_after, result.superseded, result.reason) == (
        "finished",
        0,
        None,
        0,
        "",
    )
    assert (send.asked, queue.get()) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("error", "stopped", "retry_after"),
    [
        (OfflineError("no network"), "offline", None),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "offline", None),
        (BusyError("429", retry_after=12.5), "busy", 12.5),
        (BusyError("503"), "busy", None),
        (AuthNeededError("401: log in again"), "auth", None),
        (ExceptionGroup("tasks", [BusyError("429", retry_after=3.0)]), "busy", 3.0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_what_is_not_about_the_entry_puts_it_back_for_nothing_and_ends_the_pass(
    place: Place, opened: Opener, error: Exception, stopped: str, retry_after: float | None
) -> None:
    queue, send = await opened(place.cache), Script(b=[error])
    await queue.enqueue_many([("a", 1), ("b", 2), ("c", 3)])
    result = await drain_outbox(queue, send)
    assert (result.sent, result.failed, result.stopped, result.left) == (1, 0, stopped, 2)
    assert result.retry_after == retry_after
    assert send.asked == ["a", "b"]
    assert states(queue) == [("b", "queued", 0, False), ("c", "queued", 0, False)]
    assert [entry.last_error for entry in queue.get()] == [None, None]
    assert (await drain_outbox(queue, send)).sent == 2


async def test_the_reason_says_in_words_what_stopped_the_pass(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    result = await drain_outbox(queue, Script(a=[AuthNeededError("401: log in again")]))
    assert result.reason == "AuthNeededError: 401: log in again"


@pytest.mark.parametrize("error", [RejectedError("422: no such site"), ConflictError("409: another version", "etag-7")])
async def test_what_never_will_be_taken_is_parked_with_the_reason_and_the_pass_goes_on(
    place: Place, opened: Opener, clock: ManualClock, error: RejectedError
) -> None:
    queue, send = await opened(place.cache), Script(a=[error])
    await queue.enqueue_many([("a", 1), ("b", 2)])
    result = await drain_outbox(queue, send)
    assert (result.sent, result.failed, result.stopped, result.left) == (1, 1, "finished", 0)
    (entry,) = queue.get()
    assert (entry.status, entry.attempts) == ("failed", 1)
    assert entry.last_error == (type(error).__name__, str(error), clock.now_ms)


@pytest.mark.parametrize("error", [ValueError("no such site"), SendError("of no kind that is known"), KeyError("site")])
async def test_any_other_error_costs_one_attempt_and_the_pass_goes_on(
    place: Place, opened: Opener, error: Exception
) -> None:
    queue, send = await opened(place.cache), Script(a=[error] * 2)
    await queue.enqueue_many([("a", 1), ("b", 2)])
    result = await drain_outbox(queue, send, max_attempts=2)
    assert (result.sent, result.failed, result.left) == (1, 0, 1)
    assert states(queue) == [("a", "queued", 1, False)]
    result = await drain_outbox(queue, send, max_attempts=2)
    assert (result.sent, result.failed, result.left) == (0, 1, 0)
    assert states(queue) == [("a", "failed", 2, False)]
    assert send.asked == ["a", "b", "a"]


async def test_failed_counts_what_was_parked_in_this_pass_only(place: Place, opened: Opener) -> None:
    queue, send = await opened(place.cache), Script(a=[ValueError()], b=[ValueError()])
    await queue.enqueue("a", 1)
    assert (await drain_outbox(queue, send, max_attempts=1)).failed == 1
    await queue.enqueue("b", 2)
    assert (await drain_outbox(queue, send, max_attempts=1)).failed == 1


async def test_without_an_answer_the_entry_is_asked_once_more_and_says_that_it_may_be_sent(
    place: Place, opened: Opener
) -> None:
    queue, send = await opened(place.cache), Script(a=[UnackedError("?")])
    await queue.enqueue("a", 1)
    assert (await drain_outbox(queue, send)).sent == 1
    assert (send.asked, send.maybe, queue.get()) == (["a", "a"], [False, True], [])


async def test_twice_without_an_answer_costs_nothing_and_marks_the_entry_since_the_first_time(
    place: Place, opened: Opener, clock: ManualClock
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    first = clock.now_ms

    async def send(entry: OutboxEntry[Any]) -> None:
        clock.advance(5)
        raise UnackedError("?")

    result = await drain_outbox(queue, send)
    assert (result.sent, result.failed, result.stopped, result.left) == (0, 0, "unacked", 1)
    (entry,) = queue.get()
    assert (entry.status, entry.attempts, entry.maybe_sent_ms) == ("queued", 0, first + 5000)
    await drain_outbox(queue, send)
    assert queue.get()[0].maybe_sent_ms == first + 5000
    assert '"maybeSent":1700000005000' in (await place.text(KEY) or "")


AFTER_SILENCE: list[tuple[Exception, tuple[str, int]]] = [
    (OfflineError("gone"), ("queued", 0)),
    (BusyError("429"), ("queued", 0)),
    (AuthNeededError("401"), ("queued", 0)),
    (ConflictError("409: somebody has it"), ("failed", 1)),
    (ValueError("500"), ("queued", 1)),
]


@pytest.mark.parametrize(("second", "expected"), AFTER_SILENCE, ids=[type(e).__name__ for e, _ in AFTER_SILENCE])
async def test_whatever_the_second_answer_is_the_entry_still_says_that_the_first_may_have_arrived(
    place: Place, opened: Opener, second: Exception, expected: tuple[str, int]
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    await drain_outbox(queue, Script(a=[UnackedError("?"), second]))
    assert states(queue) == [("a", *expected, True)]
    again = Script()
    await queue.retry("a")
    await drain_outbox(queue, again)
    assert again.maybe == [True]


async def test_three_different_entries_in_a_row_without_an_answer_end_the_pass(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([(id, 1) for id in "abcde"])
    send = Script(**{id: [UnackedError("?")] * 4 for id in "abcde"})
    result = await drain_outbox(queue, send)
    assert (result.stopped, result.left, send.asked) == ("unacked", 5, ["a", "a", "b", "b", "c", "c"])
    assert states(queue) == [(id, "queued", 0, id in "abc") for id in "abcde"]


async def test_an_answer_in_between_begins_the_row_anew(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([(id, 1) for id in "abcde"])
    silence = {id: [UnackedError("?")] * 2 for id in "abde"}
    send = Script(**silence, c=[ValueError("an answer")])
    result = await drain_outbox(queue, send)
    assert len(send.asked) == 9
    assert (result.sent, result.failed, result.left) == (0, 0, 5)
    assert [entry.attempts for entry in queue.get()] == [0, 0, 1, 0, 0]


async def test_the_next_pass_takes_first_what_was_not_asked_in_vain(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([(id, 1) for id in "abcde"])
    await drain_outbox(queue, Script(**{id: [UnackedError("?")] * 2 for id in "abc"}))
    send = Script()
    assert (await drain_outbox(queue, send)).sent == 5
    assert send.asked == ["d", "e", "a", "b", "c"]
    assert send.maybe == [False, False, True, True, True]


async def test_two_poisoned_entries_do_not_wedge_the_rest_and_are_parked_in_the_end(
    place: Place, opened: Opener
) -> None:
    queue, sent = await opened(place.cache), list[str]()
    await queue.enqueue_many([("poison1", 1), ("poison2", 2)])

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id.startswith("poison"):
            raise UnackedError("the connection was closed")
        sent.append(entry.id)

    for n in range(8):
        await queue.enqueue_many([(f"good{n}.{m}", m) for m in range(3)])
        await drain_outbox(queue, send, max_attempts=5)
    assert len(sent) == 24
    assert states(queue) == [("poison1", "failed", 5, True), ("poison2", "failed", 5, True)]


async def test_silence_where_others_got_through_costs_an_attempt(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([(id, 1) for id in "abc"])
    send = Script(b=[UnackedError("?")] * 2)
    result = await drain_outbox(queue, send, max_attempts=1)
    assert (result.sent, result.failed, send.asked) == (2, 1, ["a", "b", "b", "c"])
    assert states(queue) == [("b", "failed", 1, True)]


async def test_a_network_that_falls_silent_in_the_middle_of_a_pass_ends_it_after_three(
    place: Place, opened: Opener
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([(f"e{n}", 1) for n in range(12)])
    send = Script(**{f"e{n}": [UnackedError("?")] * 9 for n in range(1, 12)})
    result = await drain_outbox(queue, send)
    assert (result.sent, result.stopped, result.left, len(send.asked)) == (1, "unacked", 11, 7)
    assert [attempts for _, _, attempts, _ in states(queue)][3:] == [0] * 8


@pytest.mark.parametrize("length", [499, 500, 501, 100_000])
async def test_last_error_is_stored_and_cut_at_500_characters(
    place: Place, opened: Opener, clock: ManualClock, length: int
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    words = "é" * length
    await drain_outbox(queue, Script(a=[ValueError(words)]))
    (entry,) = queue.get()
    assert entry.last_error == ("ValueError", words[:500], clock.now_ms)
    again = OutboxQueue[Any](place.cache)
    await again.hydrate(KEY)
    assert again.get()[0].last_error == entry.last_error
    assert f'"lastError":{{"type":"ValueError","message":"{words[:500]}"' in (await place.text(KEY) or "")
    await again.close()


@pytest.mark.parametrize("words", ['quotes " and \\', "line\nfeed", "nul \0", "lone \ud800 surrogate", "\u2028 🦀", ""])
async def test_a_message_of_any_characters_is_stored_and_read_back(place: Place, opened: Opener, words: str) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    await drain_outbox(queue, Script(a=[ValueError(words)]))
    assert short(await place.text(KEY)) == ["a:queued"]
    await queue.hydrate(KEY)
    (entry,) = queue.get()
    assert entry.last_error is not None
    assert entry.last_error.message == words.replace("\ud800", "\ufffd")  # servers choke on what is no Unicode text
    assert (await drain_outbox(queue, Script())).sent == 1


async def test_the_last_error_is_that_of_the_last_failure(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    for error in (ValueError("first"), KeyError("second")):
        await drain_outbox(queue, Script(a=[error]))
    (entry,) = queue.get()
    assert entry.last_error is not None
    assert (entry.last_error.type, entry.attempts) == ("KeyError", 2)
    assert (await place.text(KEY) or "").count('"lastError"') == 1


@pytest.mark.parametrize("stage", ["claim", "settlement"])
async def test_a_pass_that_cannot_store_raises_and_sends_nothing_that_is_not_claimed(stage: str) -> None:
    cache = GatedCache()
    queue, send = OutboxQueue[Any](cache), Script()
    await queue.hydrate(KEY)
    await queue.enqueue_many([("a", 1), ("b", 2)])

    async def breaks(entry: OutboxEntry[Any]) -> None:
        await send(entry)
        cache.broken = OSError(errno.ENOSPC, "No space left on device")

    if stage == "claim":
        cache.broken = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(CacheWriteError, match="No space left"):
        await drain_outbox(queue, breaks)
    assert send.asked == ([] if stage == "claim" else ["a"])
    cache.broken = None
    assert (await drain_outbox(queue, send)).sent == 2
    assert send.maybe == ([False, False] if stage == "claim" else [False, True, False])
