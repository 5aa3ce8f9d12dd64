"""``on_duplicate``, ``cancel`` and ``edit``: what is being sent is never touched, and the newest item wins, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

import pytest

from starfish_outbox import (
    BusyError,
    CacheWriteError,
    DuplicateIdError,
    ItemError,
    OfflineError,
    OutboxEntry,
    OutboxFullError,
    OutboxQueue,
    RejectedError,
    SQLiteCache,
    UnackedError,
    drain_outbox,
    open_outbox,
)
from starfish_outbox.backoff import Backoff
from tests.conftest import KEY, ManualClock, Opener, Place
from tests.gates import GatedCache
from tests.workers.stores import make_cache
from tests.workers.zygote import Zygote

OLD, NEW, NEWEST = {"v": 1}, {"v": 2}, {"v": 3}
NOW = ManualClock().now_ms


class Server:
    """Takes what it is sent; the first send holds until it is told how to end.

    Attributes:
        got: id and item of every send that ended well.
        seen: the item of every send that began.
    """

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []
        self.seen: list[Any] = []
        self.begun = asyncio.Event()
        self.end: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    async def send(self, entry: OutboxEntry[Any]) -> None:
        self.seen.append(entry.item)
        self.begun.set()
        error = await asyncio.shield(self.end)
        if error is not None:
            raise error
        self.got.append((entry.id, entry.item))


async def takes(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


async def stored(place: Place) -> list[dict[str, Any]]:
    return json.loads(await place.text(KEY) or "[]")  # type: ignore[no-any-return]  # JSON


async def test_by_default_a_live_id_is_ignored_and_its_item_not_looked_at(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    assert await queue.enqueue("a", OLD)
    assert await queue.enqueue("a", object()) is False
    assert await queue.enqueue("a", object(), on_duplicate="ignore") is False
    assert queue.get()[0].item == OLD


async def test_raise_says_which_id_is_live_or_was_sent(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    assert await queue.enqueue("a", OLD, on_duplicate="raise")
    with pytest.raises(DuplicateIdError, match="'a' is live") as caught:
        await queue.enqueue("a", NEW, on_duplicate="raise")
    assert caught.value.id == "a"
    assert queue.get()[0].item == OLD
    with pytest.raises(ValueError, match="'overwrite'"):
        await queue.enqueue("a", NEW, on_duplicate="overwrite")  # type: ignore[arg-type]


async def test_a_queued_entry_is_replaced_where_it_stands(place: Place, opened: Opener, clock: ManualClock) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("a", OLD), ("b", OLD)])
    await queue.record_failure("a", 5)
    clock.advance(1)
    assert await queue.enqueue("a", NEW, on_duplicate="replace")
    assert await queue.enqueue("c", NEW, on_duplicate="replace")  # nobody's place
    expected = [("a", NEW, "queued", 0, NOW + 1000), ("b", OLD, "queued", 0, NOW), ("c", NEW, "queued", 0, NOW + 1000)]
    assert [(e.id, e.item, e.status, e.attempts, e.enqueued_at) for e in queue.get()] == expected
    assert [entry["item"] for entry in await stored(place)] == [NEW, OLD, NEW]
    assert "replacement" not in (await place.text(KEY) or "")


async def test_what_says_the_same_changes_nothing(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", OLD)
    await queue.record_failure("a", 5)
    before = await place.text(KEY)
    assert await queue.enqueue("a", OLD, on_duplicate="replace") is False
    assert await place.text(KEY) == before
    await queue.mark_failed("a")  # parked: to enqueue it again is to want it sent
    assert await queue.enqueue("a", OLD, on_duplicate="replace")
    assert [(e.status, e.attempts) for e in queue.get()] == [("queued", 0)]


async def test_parked_and_foreign_entries_are_replaced_and_queued(place: Place, opened: Opener) -> None:
    entry = {"id": "a", "item": OLD, "status": "paused", "attempts": 3, "enqueuedAt": 5, "meta": [1]}
    error = {"type": "RejectedError", "message": "no", "at": 6}
    await place.put(KEY, json.dumps([entry, {**entry, "id": "b", "status": "failed", "lastError": error}]))
    queue = await opened(place.cache)
    for id in ("a", "b"):
        assert await queue.enqueue(id, NEW, on_duplicate="replace")
    fresh = {"item": NEW, "status": "queued", "attempts": 0, "enqueuedAt": NOW, "meta": [1]}
    assert await stored(place) == [{"id": "a", **fresh}, {"id": "b", **fresh}]


def fail(error: Exception | None) -> Callable[[Server, asyncio.Task[Any]], None]:
    return lambda server, _: server.end.set_result(error)


def cancelled(_: Server, drain: asyncio.Task[Any]) -> None:
    drain.cancel()


Ending: TypeAlias = Callable[[Server, asyncio.Task[Any]], None]
ENDINGS: dict[str, tuple[Ending, bool]] = {
    "sent": (fail(None), False),
    "attempt": (fail(ValueError("a bug")), False),
    "rejected": (fail(RejectedError("never")), False),
    "offline": (fail(OfflineError("no network")), False),
    "unacked": (fail(UnackedError("no answer")), True),
    "busy": (fail(BusyError("later", 5)), False),
    "cancelled": (cancelled, True),
}
"""How a send ends, and whether the remote may have the older item without our knowing."""


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_whatever_ends_a_send_the_newest_item_takes_its_place_once(
    place: Place, opened: Opener, clock: ManualClock, ending: str, concurrency: int
) -> None:
    queue, server = await opened(place.cache), Server()
    await queue.enqueue("a", OLD)
    drain = asyncio.create_task(drain_outbox(queue, server.send, concurrency=concurrency, max_attempts=1))
    await server.begun.wait()
    clock.advance(1)
    assert await queue.enqueue("a", NEW, on_duplicate="replace")
    assert await queue.enqueue("a", NEWEST, on_duplicate="replace")
    assert await queue.enqueue("a", NEWEST, on_duplicate="replace") is False
    (shown,) = queue.get()
    assert (shown.item, shown.status) == (OLD, "sending")  # untouched
    assert shown.replacement is not None
    assert (shown.replacement.item, shown.replacement.enqueued_at) == (NEWEST, NOW + 1000)
    (text,) = await stored(place)
    assert text["replacement"] == {"item": NEWEST, "enqueuedAt": NOW + 1000}
    end, unsure = ENDINGS[ending]
    end(server, drain)
    await asyncio.wait([drain])
    assert {str(item) for item in server.seen} == {str(OLD)}
    assert drain.cancelled() == (ending == "cancelled")
    if not drain.cancelled():
        result = drain.result()
        assert (result.sent, result.failed, result.left) == (int(ending == "sent"), 0, 1)
    expected = {"id": "a", "item": NEWEST, "status": "queued", "attempts": 0, "enqueuedAt": NOW + 1000}
    assert await stored(place) == [{**expected, **({"maybeSent": NOW + 1000} if unsure else {})}]
    got: list[Any] = []
    assert (await drain_outbox(queue, lambda entry: got.append(entry.item))).sent == 1
    assert got == [NEWEST]
    assert queue.counts().total == 0


BY_HAND: dict[str, Callable[[OutboxQueue[Any]], Awaitable[None]]] = {
    "remove": lambda queue: queue.remove("a"),
    "record_failure": lambda queue: queue.record_failure("a", 1),
    "mark_failed": lambda queue: queue.mark_failed("a"),
    "retry": lambda queue: queue.retry("a"),
    "hydrate": lambda queue: queue.hydrate(KEY),
}


@pytest.mark.parametrize("ending", BY_HAND)
async def test_a_send_by_hand_ends_likewise(place: Place, opened: Opener, ending: str) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", OLD)
    assert await queue.claim("a")
    assert await queue.enqueue("a", NEW, on_duplicate="replace")
    await BY_HAND[ending](queue)
    assert [(e.item, e.status, e.attempts, e.maybe_sent_ms) for e in queue.get()] == [(NEW, "queued", 0, None)]
    await queue.remove("a")
    assert queue.counts().total == 0


async def test_remove_while_a_drain_sends_removes_both(place: Place, opened: Opener) -> None:
    queue, server = await opened(place.cache), Server()
    await queue.enqueue("a", OLD)
    drain = asyncio.create_task(drain_outbox(queue, server.send))
    await server.begun.wait()
    await queue.enqueue("a", NEW, on_duplicate="replace")
    await queue.remove("a")
    server.end.set_result(None)
    assert (await drain).superseded == 1
    assert await stored(place) == []


async def test_a_replacement_can_be_taken_back_by_cancel_or_by_the_old_item(place: Place, opened: Opener) -> None:
    queue, server = await opened(place.cache), Server()
    await queue.enqueue("a", OLD)
    drain = asyncio.create_task(drain_outbox(queue, server.send))
    await server.begun.wait()
    assert await queue.cancel("a") is False  # it is on its way
    for by_cancel in (True, False):
        assert await queue.enqueue("a", NEW, on_duplicate="replace")
        assert await (queue.cancel("a") if by_cancel else queue.enqueue("a", OLD, on_duplicate="replace"))
        assert queue.get()[0].replacement is None
        assert "replacement" not in (await place.text(KEY) or "")
    server.end.set_result(None)
    assert (await drain).left == 0


async def test_cancel_removes_what_is_not_being_sent(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("queued", 1), ("failed", 1), ("sending", 1)])
    await queue.mark_failed("failed")
    await queue.claim("sending")
    assert [await queue.cancel(id) for id in ("queued", "failed", "sending", "unknown")] == [True, True, False, False]
    assert [entry["id"] for entry in await stored(place)] == ["sending"]


async def test_edit_corrects_a_parked_entry_and_no_other(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("queued", OLD), ("sending", OLD), ("parked", OLD)])
    await queue.claim("sending")
    await drain_outbox(queue, rejects, limit=1)
    await queue.retry("queued")
    await queue.mark_failed("parked")
    assert [await queue.edit(id, NEW) for id in ("queued", "sending", "unknown", "parked")] == [False] * 3 + [True]
    shown = {e.id: (e.item, e.status, e.attempts, e.last_error) for e in queue.get()}
    assert shown["parked"] == (NEW, "queued", 0, None)
    assert (shown["queued"][0], shown["sending"][:2]) == (OLD, (OLD, "sending"))
    await queue.mark_failed("parked")
    with pytest.raises(ItemError):
        await queue.edit("parked", object())


async def rejects(entry: OutboxEntry[Any]) -> None:
    raise RejectedError("never")


@pytest.mark.parametrize("place", ["file", "sqlite"], indirect=True)
async def test_two_queues_on_one_store_replace_and_send(place: Place, opened: Opener) -> None:
    sending, writing, server = await opened(place.cache), await opened(place.fresh()), Server()
    await sending.enqueue("a", OLD)
    drain = asyncio.create_task(drain_outbox(sending, server.send))
    await server.begun.wait()
    assert await writing.enqueue("a", NEW, on_duplicate="replace")
    server.end.set_result(None)
    assert (await drain).left == 1
    assert [(e.item, e.status) for e in writing.get()] == [(NEW, "queued")]
    got: list[Any] = []
    await drain_outbox(writing, lambda entry: got.append(entry.item))
    assert got == [NEW]
    assert await stored(place) == []


@pytest.mark.parametrize("status", ["sending", "queued", "failed"])
async def test_a_stored_replacement_takes_its_place_when_the_text_is_opened(
    place: Place, opened: Opener, status: str
) -> None:
    """A process died in the middle of a send; perhaps a program that does not know the key tried it since."""
    entry = {"id": "a", "item": OLD, "status": status, "attempts": 2, "enqueuedAt": 5}
    await place.put(KEY, json.dumps([{**entry, "replacement": {"item": NEW, "enqueuedAt": 7}}]))
    queue = await opened(place.cache)
    (shown,) = queue.get()
    assert (shown.item, shown.status, shown.attempts, shown.enqueued_at) == (NEW, "queued", 0, 7)
    assert shown.replacement is None
    assert shown.maybe_sent_ms == (NOW if status == "sending" else None)
    got: list[Any] = []
    await drain_outbox(queue, lambda entry: got.append(entry.item))
    assert got == [NEW]
    assert await stored(place) == []


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_killed_process_leaves_the_newest_item_to_the_next(
    zygote: Zygote, kind: str, memory_path: Any, opened: Opener
) -> None:
    worker = zygote.start("tests.workers.coalescing:replace_and_hang", kind, str(memory_path))
    assert worker.expect("replaced") == [True]
    worker.kill()
    worker.wait()
    queue = await opened(make_cache(kind, str(memory_path)), "outbox.survey")
    assert [(e.item, e.status, e.maybe_sent_ms is not None) for e in queue.get()] == [(NEW, "queued", True)]
    got: list[Any] = []
    await drain_outbox(queue, lambda entry: got.append(entry.item))
    assert got == [NEW]
    assert queue.counts().total == 0


@pytest.mark.parametrize("first", ["claim", "replace"])
async def test_a_claim_and_a_replacement_in_one_flush(place: Place, opened: Opener, first: str) -> None:
    queue = await opened(place.cache, max_bytes=100)
    await queue.enqueue("a", OLD)
    calls: list[Awaitable[bool]] = [queue.claim("a"), queue.enqueue("a", NEW, on_duplicate="replace")]
    assert await asyncio.gather(*(calls if first == "claim" else calls[::-1])) == [True, True]
    (shown,) = queue.get()
    waiting = shown.replacement and shown.replacement.item
    assert (shown.status, shown.item, waiting) == ("sending", *((OLD, NEW) if first == "claim" else (NEW, None)))


async def test_many_replacements_at_once_share_commits_and_the_last_wins() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    await queue.enqueue("a", -1)
    before = sum(call == ("set", KEY) for call in cache.log)
    assert all(await asyncio.gather(*(queue.enqueue("a", n, on_duplicate="replace") for n in range(200))))
    assert queue.get()[0].item == 199
    assert sum(call == ("set", KEY) for call in cache.log) - before <= 3


async def test_a_replacement_that_cannot_be_stored_leaves_everything_as_it_was() -> None:
    cache = GatedCache()
    queue, server = OutboxQueue[Any](cache), Server()
    await queue.hydrate(KEY)
    await queue.enqueue("a", OLD)
    drain = asyncio.create_task(drain_outbox(queue, server.send))
    await server.begun.wait()
    cache.fail("set", OSError("full"))
    with pytest.raises(CacheWriteError):
        await queue.enqueue("a", NEW, on_duplicate="replace")
    assert queue.get()[0].replacement is None
    assert await queue.enqueue("a", NEW, on_duplicate="replace")
    server.end.set_result(None)
    assert (await drain).left == 1
    assert queue.get()[0].item == NEW


async def test_limits_count_what_waits_to_replace(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache, max_entries=1, max_bytes=10, max_item_bytes=8)
    assert await queue.enqueue("a", "xxxx")  # six bytes with its quotes
    assert await queue.enqueue("a", "yyyyyy", on_duplicate="replace")  # in its place: no second room
    with pytest.raises(ItemError):
        await queue.enqueue("a", "z" * 7, on_duplicate="replace")
    assert await queue.enqueue("a", "xxxx", on_duplicate="replace")
    await queue.claim("a")
    with pytest.raises(OutboxFullError, match="needs 5 bytes, and 6 of at most 10"):
        await queue.enqueue("a", "abc", on_duplicate="replace")
    assert await queue.enqueue("a", "ab", on_duplicate="replace")
    assert queue.status().bytes == 10
    with pytest.raises(OutboxFullError):
        await queue.enqueue("b", 1, on_duplicate="replace")
    assert await queue.enqueue("a", 1, on_duplicate="replace")
    assert queue.status().bytes == 7
    await queue.mark_failed("a")
    assert queue.status().bytes == 1


async def test_no_limit_is_passed_by_two_replacements_together(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache, max_bytes=10)
    await queue.enqueue("a", "aaaa")
    await queue.claim("a")
    both = (queue.enqueue("a", text, on_duplicate="replace") for text in ("bb", "cc"))
    assert [type(answer) for answer in await asyncio.gather(*both, return_exceptions=True)] == [bool, OutboxFullError]
    assert await queue.enqueue("a", "cc", on_duplicate="replace")
    assert queue.status().bytes == 10


async def test_what_a_server_asked_of_all_outlives_the_replacement(place: Place, opened: Opener) -> None:
    queue, server = await opened(place.cache), Server()
    await queue.enqueue("a", OLD)
    drain = asyncio.create_task(drain_outbox(queue, server.send, backoff=Backoff()))
    await server.begun.wait()
    await queue.enqueue("a", NEW, on_duplicate="replace")
    server.end.set_result(BusyError("later", 60))
    await drain
    (shown,) = queue.get()
    assert (shown.item, shown.status) == (NEW, "queued")
    assert shown.next_attempt_ms is not None
    result = await drain_outbox(queue, takes, backoff=Backoff())
    assert (result.stopped, result.sent) == ("busy", 0)
    assert await queue.enqueue("a", NEWEST, on_duplicate="replace")  # nor does a later one wipe it out
    assert (await drain_outbox(queue, takes, backoff=Backoff())).stopped == "busy"


async def test_the_ledger_knows_the_old_item_first_and_the_new_one_then(tmp_path: Any) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db") as queue:
        server = Server()
        await queue.enqueue("a", OLD)
        drain = asyncio.create_task(drain_outbox(queue, server.send))
        await server.begun.wait()
        await queue.enqueue("a", NEW, on_duplicate="replace")
        server.end.set_result(None)
        await drain
        old = await queue.ledger.get("a")
        assert old is not None
        assert old.is_of('{"v":1}')
        assert [e.item for e in queue.get()] == [NEW]
        assert (await drain_outbox(queue, takes)).sent == 1
        new = await queue.ledger.get("a")
        assert new is not None
        assert new.is_of('{"v":2}')
        how: Literal["ignore", "replace"]
        for how in ("ignore", "replace"):
            assert await queue.enqueue("a", NEW, on_duplicate=how) is False
        with pytest.raises(DuplicateIdError, match="was sent before"):
            await queue.enqueue("a", NEW, on_duplicate="raise")
        assert await queue.enqueue("a", OLD, on_duplicate="replace")  # another item than was sent last


async def test_rows_that_were_replaced_match_their_checksums(tmp_path: Any, opened: Opener) -> None:
    cache = SQLiteCache(tmp_path / "outbox.db")
    queue = await opened(cache)
    await queue.enqueue("a", OLD)
    await queue.claim("a")
    await queue.enqueue("a", NEW, on_duplicate="replace")
    await queue.mark_failed("a")
    await queue.enqueue("a", NEWEST, on_duplicate="replace")
    await queue.close()
    cache.close()
    again = await opened(SQLiteCache(tmp_path / "outbox.db"))
    assert again.status().set_aside == ()
    assert [e.item for e in again.get()] == [NEWEST]
