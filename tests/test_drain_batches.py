"""``batch_size``: one send for many entries and an answer for each; receipts; and what a busy server asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import (
    AuthNeededError,
    BusyError,
    ConflictError,
    OfflineError,
    OutboxEntry,
    OutboxQueue,
    RejectedError,
    SQLiteCache,
    UnackedError,
    drain_outbox,
)
from starfish_outbox.backoff import Backoff
from starfish_outbox.caches import store_of
from starfish_outbox.caches.base import Op, Outcome, Update
from starfish_outbox.entry import StoredEntry
from tests.conftest import KEY, ManualClock, Opener, Place
from tests.drains import Commits, Server, in_virtual_time, opened_with, states

PLACES = pytest.mark.parametrize("place", ["memory", "file", "sqlite"], indirect=True)
Entries = list[OutboxEntry[Any]]


class Bulk:
    """A ``send`` of many that follows a script: for each id what it answers next, or what is raised for all."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.answers: dict[str, list[object]] = {}
        self.raises: list[BaseException | None] = []
        self.maybe: dict[str, list[bool]] = {}

    async def send(self, entries: Entries) -> list[object] | None:
        self.calls.append([entry.id for entry in entries])
        for entry in entries:
            self.maybe.setdefault(entry.id, []).append(entry.maybe_sent_ms is not None)
        await asyncio.sleep(0)
        error = self.raises.pop(0) if self.raises else None
        if error is not None:
            raise error
        said = [self.answers[entry.id].pop(0) if self.answers.get(entry.id) else None for entry in entries]
        return said if any(answer is not None for answer in said) else None


@PLACES
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_send_gets_so_many_and_a_commit_is_paid_for_a_batch(
    place: Place, opened: Opener, concurrency: int
) -> None:
    queue, bulk = await opened(place.cache), Bulk()
    await queue.enqueue_many([(f"e{number:02}", number) for number in range(25)])
    commits = Commits(place.cache)
    result = await drain_outbox(queue, bulk.send, batch_size=10, concurrency=concurrency)
    assert (result.sent, result.done, result.left) == (25, 25, 0)
    assert [len(call) for call in bulk.calls] == [10, 10, 5]
    assert [id for call in bulk.calls for id in call] == [f"e{number:02}" for number in range(25)]
    assert len(commits) <= 4
    assert sum(commits.sizes) == 50


@PLACES
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_each_entry_of_a_batch_has_an_answer_of_its_own(place: Place, opened: Opener, concurrency: int) -> None:
    queue, bulk = await opened(place.cache), Bulk()
    await queue.enqueue_many([(id, 1) for id in ("ok", "rejected", "conflict", "failed", "unacked", "busy", "also ok")])
    bulk.answers = {
        "rejected": [RejectedError("422")],
        "conflict": [ConflictError("409", "v2")],
        "failed": [ValueError("500")],
        "unacked": [UnackedError("lost"), UnackedError("lost again")],
        "busy": [BusyError("429", 30.0)],
        "ok": ["created"],
    }
    result = await drain_outbox(queue, bulk.send, batch_size=7, concurrency=concurrency)
    assert bulk.calls == [["ok", "rejected", "conflict", "failed", "unacked", "busy", "also ok"], ["unacked"]]
    assert (result.sent, result.failed, result.stopped, result.retry_after, result.done) == (2, 2, "busy", 30.0, 7)
    assert states(queue) == [
        ("rejected", "failed", 1, False),
        ("conflict", "failed", 1, False),
        ("failed", "queued", 1, False),
        ("unacked", "queued", 1, True),  # others got through
        ("busy", "queued", 0, False),
    ]
    assert bulk.maybe["unacked"] == [False, True]


@pytest.mark.parametrize(
    ("error", "stopped", "attempts"),
    [
        (OfflineError("gone"), "offline", 0),
        (ConnectionRefusedError(), "offline", 0),
        (AuthNeededError("401"), "auth", 0),
        (BusyError("429"), "busy", 0),
        (ValueError("500"), "finished", 1),
    ],
)
@pytest.mark.parametrize("how", ["raised", "answered"])
async def test_what_is_raised_holds_for_all_as_if_it_were_answered_for_each(
    error: Exception, stopped: str, attempts: int, how: str
) -> None:
    queue, bulk = await opened_with(3), Bulk()
    if how == "raised":
        bulk.raises = [error]
    else:
        bulk.answers = {f"e{number}": [error] for number in range(3)}
    result = await drain_outbox(queue, bulk.send, batch_size=10)
    assert (result.stopped, len(bulk.calls)) == (stopped, 1)
    assert states(queue) == [(f"e{number}", "queued", attempts, False) for number in range(3)]


async def test_a_batch_without_an_answer_is_asked_once_more_and_ends_the_pass() -> None:
    queue, bulk = await opened_with(8), Bulk()
    bulk.raises = [TimeoutError(), TimeoutError()]
    result = await drain_outbox(queue, bulk.send, batch_size=4, concurrency=2)
    assert (result.stopped, bulk.calls) == ("unacked", [["e0", "e1", "e2", "e3"]] * 2)
    assert states(queue) == [(f"e{number}", "queued", 0, number < 4) for number in range(8)]


@PLACES
@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    "answer",
    [
        lambda entries: [None] * (len(entries) - 1),
        lambda entries: [None] * (len(entries) + 1),
        lambda _: [],
        lambda _: "ok!",
        lambda _: b"ok!",
        lambda entries: {entry.id: None for entry in entries},
        lambda entries: (None for _ in entries),
        lambda _: True,
        lambda entries: [OfflineError for _ in entries],
        lambda entries: [asyncio.get_running_loop().create_future() for _ in entries],
    ],
)
async def test_an_answer_that_answers_nothing_is_an_error_and_puts_all_back_as_maybe_sent(
    place: Place, opened: Opener, concurrency: int, answer: Callable[[Entries], object]
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([(f"e{number}", number) for number in range(5)])

    async def send(entries: Entries) -> object:
        return answer(entries)

    with pytest.raises(TypeError, match="answer"):
        await drain_outbox(queue, send, batch_size=3, concurrency=concurrency)
    assert states(queue) == [(f"e{number}", "queued", 0, number < 3) for number in range(5)]


async def test_a_send_that_hands_back_a_coroutine_has_sent_nothing() -> None:
    """``return client.post(...)`` without ``await``: the published package takes that for a success."""
    queue, server = await opened_with(1), Server()
    forgotten = server.send(queue.get()[0])

    async def send(_: OutboxEntry[Any]) -> object:
        return forgotten

    with closing(forgotten), pytest.raises(TypeError, match="coroutine"):
        await drain_outbox(queue, send)
    assert states(queue) == [("e0", "queued", 0, True)]


async def test_a_part_that_was_cancelled_is_no_success() -> None:
    """``gather(..., return_exceptions=True)`` lists a ``CancelledError``, which is no ``Exception``."""
    queue, server, rounds = await opened_with(3), Server(), 0

    async def send(entries: Entries) -> list[object]:
        nonlocal rounds
        rounds += 1
        tasks = [asyncio.ensure_future(server.send(entry)) for entry in entries]
        if rounds < 3:
            tasks[-1].cancel()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    result = await drain_outbox(queue, send, batch_size=3)
    assert (result.sent, server.taken) == (2, ["e0", "e1"])
    assert states(queue) == [("e2", "queued", 1, True)]
    assert (await drain_outbox(queue, send, batch_size=3)).sent == 1


async def test_the_lanes_of_a_batch_are_different() -> None:
    queue, bulk = await opened_with(0), Bulk()
    await queue.enqueue_many([(id, id[0]) for id in ("a1", "a2", "b1", "c1", "a3", "b2")])
    result = await drain_outbox(queue, bulk.send, batch_size=10, lane=lambda entry: str(entry.item))
    assert (result.sent, bulk.calls) == (6, [["a1", "b1", "c1"], ["a2", "b2"], ["a3"]])


async def test_a_limit_cuts_the_last_batch() -> None:
    queue, bulk = await opened_with(20), Bulk()
    result = await drain_outbox(queue, bulk.send, batch_size=4, concurrency=2, limit=10)
    assert (result.sent, result.stopped, [len(call) for call in bulk.calls]) == (10, "limit", [4, 4, 2])


async def test_a_plain_function_may_send_many() -> None:
    queue = await opened_with(3)
    taken: list[str] = []

    def send(entries: Entries) -> None:
        taken.extend(entry.id for entry in entries)

    assert (await drain_outbox(queue, send, batch_size=2)).sent == 3
    assert taken == ["e0", "e1", "e2"]


def receipts_of(queue: OutboxQueue[Any], cache: Any) -> dict[str, str | None]:
    """The receipts that the store is handed with each delivery, as they come."""
    store, seen = store_of(cache), dict[str, str | None]()
    apply = store.apply

    async def watched(key: str, member: Any, ops: list[Op], *, late: bool = False) -> list[Outcome]:
        outcomes = await apply(key, member, ops, late=late)
        for op, outcome in zip(ops, outcomes, strict=True):
            if isinstance(op, Update) and op.sent:
                before = outcome.before
                assert isinstance(before, StoredEntry)
                seen[before.id or ""] = op.receipt
        return outcomes

    store.apply = watched  # type: ignore[method-assign, assignment]  # an observer in front of the real one
    return seen


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_what_a_send_returns_is_handed_to_the_ledger_where_that_is_asked_for(
    tmp_path: Path, concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(SQLiteCache(tmp_path / "outbox.db")) as cache:
        queue = await opened_with(5, cache)
        seen = receipts_of(queue, cache)
        answers: dict[str, object] = {
            "e0": {"etag": "é", "n": 1.0},
            "e1": None,
            "e2": float("nan"),
            "e3": "x" * 10_001,
            "e4": [1, None],
        }

        async def send(entry: OutboxEntry[Any]) -> object:
            return answers[entry.id]

        result = await drain_outbox(queue, send, receipts=True, concurrency=concurrency)
        assert (result.sent, result.left) == (5, 0)
        assert seen == {"e0": '{"etag":"é","n":1}', "e1": None, "e2": None, "e3": None, "e4": "[1,null]"}
        assert [record.message.split(" ")[0] for record in caplog.records] == ["'e2'", "'e3'"]
        await queue.enqueue("e5", 1)
        answers["e5"] = {"etag": "kept nowhere"}
        await drain_outbox(queue, send)
        assert seen["e5"] is None
        await queue.close()


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_each_entry_of_a_batch_has_a_receipt_of_its_own(tmp_path: Path, concurrency: int) -> None:
    with closing(SQLiteCache(tmp_path / "outbox.db")) as cache:
        queue = await opened_with(3, cache)
        seen = receipts_of(queue, cache)

        async def send(entries: Entries) -> list[object]:
            return [{"took": entry.id} if entry.item != 1 else RejectedError("422") for entry in entries]

        await drain_outbox(queue, send, receipts=True, batch_size=3, concurrency=concurrency)
        assert seen == {"e0": '{"took":"e0"}', "e2": '{"took":"e2"}'}
        await queue.close()


RULE = Backoff(base=1.0, cap=60.0)


@PLACES
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_what_a_busy_server_asked_for_is_kept_by_later_passes_also_after_a_restart(
    place: Place, opened: Opener, clock: ManualClock, concurrency: int
) -> None:
    queue, server = await opened(place.cache), Server()
    await queue.enqueue_many([(f"e{number}", number) for number in range(10)])
    server.script["e0"].append(BusyError("429", 30.0))
    result = await drain_outbox(queue, server.send, backoff=RULE, concurrency=concurrency)
    assert (result.stopped, result.retry_after, result.left, server.asked) == ("busy", 30.0, 10, ["e0"])
    again = await drain_outbox(queue, server.send, backoff=RULE, concurrency=concurrency)
    assert (again.stopped, again.done, server.asked) == ("busy", 0, ["e0"])
    assert again.retry_after is not None
    assert 30.0 <= again.retry_after <= 31.0
    await queue.close()

    restarted = await opened(place.fresh())
    clock.advance(29.9)
    assert (await drain_outbox(restarted, server.send, backoff=RULE, concurrency=concurrency)).stopped == "busy"
    assert server.asked == ["e0"]
    clock.advance(1.2)
    assert (await drain_outbox(restarted, server.send, backoff=RULE, concurrency=concurrency)).sent == 10
    assert restarted.get() == []


@PLACES
async def test_what_a_busy_server_asked_for_survives_another_program_that_keeps_unknown_keys(
    place: Place, opened: Opener, clock: ManualClock
) -> None:
    queue, server = await opened(place.cache), Server()
    await queue.enqueue_many([("a", 1), ("b", 2)])
    server.script["a"].append(BusyError("429", 3_600))
    await drain_outbox(queue, server.send, backoff=RULE)
    await queue.close()
    text = await place.text(KEY)
    elements = [{"theirs": [1], **element} for element in json.loads(text or "")]
    await place.put(KEY, json.dumps([*elements, {**elements[1], "id": "c"}], indent=1))

    restarted = await opened(place.fresh())
    assert (await drain_outbox(restarted, server.send, backoff=RULE)).stopped == "busy"
    clock.advance(3_602)
    assert (await drain_outbox(restarted, server.send, backoff=RULE)).sent == 3
    assert server.asked == ["a", "a", "b", "c"]


@pytest.mark.parametrize("back", [-3_600, -90_000, -(10**9)])
async def test_a_clock_that_was_put_back_does_not_prolong_what_a_server_asked_for(back: float) -> None:
    clock = ManualClock()
    queue, server = await opened_with(2, clock=clock), Server()
    server.script["e0"].append(BusyError("429", 30.0))
    await drain_outbox(queue, server.send, backoff=RULE)
    clock.jump(back)
    assert (await drain_outbox(queue, server.send, backoff=RULE)).sent == 2


async def test_without_a_back_off_nothing_is_kept_and_nothing_is_honoured() -> None:
    clock = ManualClock()
    queue, server = await opened_with(2, clock=clock), Server()
    server.script["e0"].extend([BusyError("429", 30.0), BusyError("429", 30.0)])
    assert (await drain_outbox(queue, server.send)).retry_after == 30.0
    assert [entry.next_attempt_ms for entry in queue.get()] == [None, None]
    assert (await drain_outbox(queue, server.send, backoff=RULE)).stopped == "busy"
    assert (await drain_outbox(queue, server.send)).sent == 2


async def test_a_failed_entry_that_is_not_due_holds_up_itself_alone() -> None:
    clock = ManualClock()
    queue, server = await opened_with(3, clock=clock), Server()
    server.script["e1"].extend([ValueError("500"), ValueError("500")])
    for _ in range(2):
        await drain_outbox(queue, server.send, backoff=Backoff(base=60, cap=60))
    assert server.taken == ["e0", "e2"]
    clock.advance(61)
    assert (await drain_outbox(queue, server.send, backoff=RULE)).stopped == "finished"
    assert len(server.calls) >= 4


async def test_the_word_of_a_busy_server_holds_although_its_entry_stands_behind_another_that_waits() -> None:
    """In a lane that somebody else is sending."""
    clock = ManualClock()
    queue, server = await opened_with(0, clock=clock), Server()
    await queue.enqueue_many([("a1", "a"), ("a2", "a"), ("b1", "b")])
    server.script["a2"].append(BusyError("429", 30.0))
    server.script["a1"].append(ValueError("500"))
    await drain_outbox(queue, server.send, limit=2, backoff=RULE)
    assert await queue.claim("a1")
    result = await drain_outbox(queue, server.send, backoff=RULE, lane=lambda entry: str(entry.item))
    assert (result.stopped, server.asked) == ("busy", ["a1", "a2"])


@pytest.mark.parametrize("asked", ["120", None, -1, float("nan"), [1], True])
async def test_a_busy_error_of_somebody_else_may_say_anything_about_when(asked: object) -> None:
    class ThrottledError(Exception):
        retry_after = asked

    queue, server = await opened_with(2), Server()
    server.script["e0"].append(ThrottledError())
    result = await drain_outbox(
        queue,
        server.send,
        backoff=RULE,
        classify=lambda error: BusyError if isinstance(error, ThrottledError) else None,
    )
    assert (result.stopped, result.left) == ("busy", 2)
    assert states(queue) == [("e0", "queued", 0, False), ("e1", "queued", 0, False)]


def test_the_time_of_a_batch_is_bounded_by_the_timeout() -> None:
    async def main() -> None:
        queue, calls = await opened_with(6), 0

        async def send(entries: Entries) -> None:
            nonlocal calls
            calls += 1
            await asyncio.sleep(100.0 if calls < 3 else 1.0)

        result = await drain_outbox(queue, send, batch_size=3, concurrency=2, timeout=10.0)
        assert (result.stopped, calls, asyncio.get_running_loop().time()) == ("unacked", 2, 20.0)
        assert (await drain_outbox(queue, send, batch_size=3, concurrency=2, timeout=10.0)).sent == 6

    in_virtual_time(main())
