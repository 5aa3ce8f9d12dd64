"""``explain``, ``history``, ``wait_for`` and the ledger's ``get`` and ``prune``: what a person asks of one entry."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from starfish_outbox import (
    BusyError,
    NotHydratedError,
    OutboxEntry,
    OutboxQueue,
    RejectedError,
    SQLiteCache,
    UnackedError,
    drain_outbox,
    open_outbox,
)
from starfish_outbox.backoff import Backoff
from starfish_outbox.binding import Binding
from tests.conftest import KEY, ManualClock, Opener, Place
from tests.virtual import VirtualLoop

NOW = ManualClock().now_ms
DAYS = 86_400.0


async def takes(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


async def rejects(entry: OutboxEntry[Any]) -> None:
    raise RejectedError("422: mass_g is missing")


async def breaks(entry: OutboxEntry[Any]) -> None:
    raise ValueError("a bug")


async def never_answers(entry: OutboxEntry[Any]) -> None:
    raise UnackedError("no answer in 10 s")


async def is_busy(entry: OutboxEntry[Any]) -> None:
    raise BusyError("later", 60)


async def known_as(queue: OutboxQueue[Any], id: str) -> tuple[str, str]:
    explained = await queue.explain(id)
    assert explained.id == id
    assert str(explained) == f"{id!r} {explained.reason}"
    return explained.situation, explained.reason


async def test_every_situation_is_explained_with_what_to_do(place: Place, opened: Opener, clock: ManualClock) -> None:
    foreign = {"id": "paused", "item": 1, "status": "paused", "attempts": 0, "enqueuedAt": 5}
    await place.put(KEY, json.dumps([foreign]))
    queue = await opened(place.cache)
    situation, reason = await known_as(queue, "nobody")
    assert (situation, "never enqueued here, or was sent or removed" in reason) == ("unknown", True)
    situation, reason = await known_as(queue, "paused")
    assert (situation, "status of another program, 'paused'" in reason) == ("foreign", True)
    await queue.enqueue("parked", 1)
    assert await known_as(queue, "parked") == ("queued", "is queued: the next pass takes it.")
    await drain_outbox(queue, rejects)
    situation, reason = await known_as(queue, "parked")
    assert situation == "failed"
    assert "parked after 1 failed attempt: retry() sends it again, edit() corrects it." in reason
    assert reason.endswith("The last try failed with RejectedError: 422: mass_g is missing")
    await queue.enqueue("claimed", 1)
    await queue.claim("claimed")
    assert await known_as(queue, "claimed") == (
        "sending",
        "is claimed: this process holds it by claim(), not by a drain.",
    )
    await queue.enqueue("claimed", 2, on_duplicate="replace")
    assert (await known_as(queue, "claimed"))[1].endswith(
        "A newer item waits for the end of that and then takes its place."
    )
    await queue.enqueue("silent", 1)
    await drain_outbox(queue, never_answers)
    situation, reason = await known_as(queue, "silent")
    assert situation == "queued"
    assert "behind the others: it was sent before and no answer came. It may have arrived already." in reason
    await queue.remove("silent")
    await queue.enqueue("later", 1)
    await drain_outbox(queue, breaks, backoff=Backoff(base=86_400, cap=86_400))
    entry = next(entry for entry in queue.get() if entry.id == "later")
    assert entry.next_attempt_ms is not None
    situation, reason = await known_as(queue, "later")
    wait = (entry.next_attempt_ms - NOW) / 1000
    assert situation == "waiting"
    assert f"not due for another {wait:,.1f} s to drains with back-off, after 1 failed attempt." in reason
    clock.advance(86_400)
    assert (await known_as(queue, "later"))[0] == "queued"


async def test_while_a_server_asked_all_to_wait_the_others_say_so(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("a", 1), ("b", 1)])
    await drain_outbox(queue, is_busy, backoff=Backoff())
    for id in ("a", "b"):
        situation, reason = await known_as(queue, id)
        assert situation == "waiting"
        assert "the server asked all to wait" in reason


async def test_what_a_drain_is_sending_and_what_was_delivered(tmp_path: Path, clock: ManualClock) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db", clock=clock) as queue:
        said: list[str] = []

        async def send(entry: OutboxEntry[Any]) -> None:
            said.append((await queue.explain(entry.id)).reason)
            said.append(str((await queue.history(entry.id))[-1]))

        await queue.enqueue("a", 1)
        await drain_outbox(queue, send)
        assert said == [
            "is claimed: this process is sending it.",
            "2023-11-14 22:13:20 UTC claimed: this process is sending it",
        ]
        assert await known_as(queue, "a") == ("sent", "was delivered at 2023-11-14 22:13:20 UTC.")


async def test_a_history_is_in_order_and_tells_what_the_remote_answered(tmp_path: Path, clock: ManualClock) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db", clock=clock) as queue:
        assert await queue.history("a") == []
        await queue.enqueue("a", 1)
        clock.advance(1)
        await drain_outbox(queue, never_answers)
        clock.advance(1)
        await drain_outbox(queue, breaks, backoff=Backoff(base=1e-3, cap=1e-3))
        clock.advance(1)
        await queue.claim("a")
        await queue.enqueue("a", 2, on_duplicate="replace")
        events = await queue.history("a")
        assert [(event.event, event.at_ms - NOW) for event in events if event.event != "not before"] == [
            ("enqueued", 0),
            ("maybe sent", 1000),
            ("failed", 2000),
            ("claimed", 3000),
            ("enqueued", 3000),
        ]
        assert [event.at_ms for event in events] == sorted(event.at_ms for event in events)
        assert next(event.detail for event in events if event.event == "failed") == "ValueError: a bug (attempt 1)"
        await queue.remove("a")  # done by hand: the newer item takes its place
        clock.advance(1)

        async def answers(entry: OutboxEntry[Any]) -> dict[str, int]:
            return {"status": 201}

        assert (await drain_outbox(queue, answers, receipts=True)).sent == 1
        (sent,) = await queue.history("a")
        assert (sent.event, sent.at_ms - NOW, sent.detail) == ("sent", 4000, {"status": 201})
        assert str(sent) == "2023-11-14 22:13:24 UTC sent: {'status': 201}"


async def test_a_receipt_belongs_to_the_last_delivery_alone_and_goes_with_it(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "outbox.db"

    async def answers(entry: OutboxEntry[Any]) -> str:
        return "thanks"

    async with open_outbox("ana", path, clock=clock) as queue:
        for item, receipts, expected in ((1, True, '"thanks"'), (2, False, None), (3, True, '"thanks"')):
            await queue.enqueue("a", item)
            await drain_outbox(queue, answers, receipts=receipts)
            sent = await queue.ledger.get("a")
            assert sent is not None
            assert (sent.receipt, sent.at_ms) == (expected, NOW)
            assert sent.is_of(str(item))
    cache = SQLiteCache(path, ledger=True)
    await cache.remove_item("outbox.ana")  # a sign-out takes it all away
    tables = {
        table: cache.database._ready().execute(f"SELECT count(*) FROM {table}") for table in ("ledger", "receipts")
    }
    assert {table: found.fetchone()[0] for table, found in tables.items()} == {"ledger": 0, "receipts": 0}
    cache.close()


async def test_prune_forgets_what_is_old_enough_and_its_receipts(tmp_path: Path, clock: ManualClock) -> None:
    async def answers(entry: OutboxEntry[Any]) -> int:
        return 1

    async with open_outbox("ana", tmp_path / "outbox.db", clock=clock) as queue:
        for id in ("old", "middle", "new"):
            await queue.enqueue(id, 1)
            await drain_outbox(queue, answers, receipts=True)
            clock.advance(10 * DAYS)
        assert await queue.ledger.prune(days=31) == 0
        assert await queue.ledger.prune(days=30) == 1
        assert [await queue.was_sent(id) for id in ("old", "middle", "new")] == [False, True, True]
        assert await queue.enqueue("old", 1)
        assert await queue.ledger.prune(days=1e300) == 0
        assert await queue.ledger.prune(days=0) == 2
        assert await queue.ledger.get("new") is None
        for days in (-1, float("nan"), float("inf"), True, "7"):
            with pytest.raises(ValueError, match="days is a number from 0 on"):
                await queue.ledger.prune(days=days)  # type: ignore[arg-type]


async def test_without_a_ledger_nothing_is_known_and_nothing_to_forget(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    await drain_outbox(queue, takes)
    assert await queue.ledger.get("a") is None
    assert await queue.ledger.prune(days=0) == 0
    assert await queue.history("a") == []
    assert (await queue.explain("a")).situation == "unknown"


async def test_who_is_bound_to_nobody_is_told_so(place: Place) -> None:
    queue = OutboxQueue[Any](place.cache)
    for call in (
        queue.explain("a"),
        queue.history("a"),
        queue.wait_for("a"),
        queue.ledger.get("a"),
        queue.ledger.prune(),
    ):
        with pytest.raises(NotHydratedError):
            await call


async def waiting(queue: OutboxQueue[Any], id: str, **options: Any) -> asyncio.Task[str]:
    """Somebody waits for it, from his first step on."""
    task = asyncio.create_task(queue.wait_for(id, **options))
    await asyncio.sleep(0)
    assert watched(queue, id)
    return task


def watched(queue: OutboxQueue[Any], id: str) -> bool:
    assert isinstance(queue._binding, Binding)
    return id in queue._binding._watched


async def test_several_wait_for_a_delivery_and_leave_nothing_behind(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("a", 1), ("b", 1)])
    tasks = [await waiting(queue, "a") for _ in range(3)]
    tasks[0].cancel()
    await drain_outbox(queue, takes, limit=1)
    assert await asyncio.gather(*tasks[1:]) == ["sent", "sent"]
    assert tasks[0].cancelled()
    assert not watched(queue, "a")


async def test_a_parked_or_removed_entry_ends_the_wait(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("parked", 1), ("removed", 1), ("cancelled", 1)])
    tasks = [await waiting(queue, id) for id in ("parked", "removed", "cancelled")]
    await queue.mark_failed("parked")
    await queue.remove("removed")
    await queue.cancel("cancelled")
    assert await asyncio.gather(*tasks) == ["failed", "removed", "removed"]
    assert await queue.wait_for("parked") == "failed"
    assert await queue.wait_for("removed") == "removed"


async def test_what_happened_before_the_waiter_could_look_counts(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    task = await waiting(queue, "a")
    await asyncio.gather(queue.mark_failed("a"), queue.retry("a"), queue.remove("a"), queue.enqueue("a", 2))
    assert await task == "failed"


async def test_the_newest_item_is_waited_for(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)

    async def send(entry: OutboxEntry[Any]) -> None:
        await queue.enqueue("a", 2, on_duplicate="replace")

    task = await waiting(queue, "a")
    assert (await drain_outbox(queue, send)).sent == 1
    await queue.refresh()
    assert not task.done()
    assert (await drain_outbox(queue, takes)).sent == 1
    assert await task == "sent"


@pytest.mark.parametrize("place", ["memory", "file", "sqlite"], indirect=True)
async def test_another_queue_of_this_process_delivers(place: Place, opened: Opener) -> None:
    queue, other = await opened(place.cache), await opened(place.fresh())
    await queue.enqueue("a", 1)
    task = await waiting(queue, "a")
    await drain_outbox(other, takes)
    assert await task == "sent"


async def test_a_delivery_of_before_is_no_delivery_of_now(tmp_path: Path) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db") as queue:
        await queue.enqueue("a", 1)
        await drain_outbox(queue, takes)
        assert await queue.wait_for("a") == "sent"
        await queue.enqueue("a", 2)
        task = await waiting(queue, "a")
        await asyncio.sleep(0)
        await queue.explain("a")  # the waiter has asked the ledger by now: the store answers in order
        await queue.remove("a")
        assert await task == "removed"


@pytest.mark.parametrize("leave", ["clear", "hydrate", "close"])
async def test_who_waits_is_told_when_the_queue_moves_on(place: Place, opened: Opener, leave: str) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1)
    task = await waiting(queue, "a")
    if leave == "clear":
        queue.clear()
    else:
        await (queue.close() if leave == "close" else queue.hydrate("outbox.ben"))
    with pytest.raises(NotHydratedError, match="was left while somebody waited for 'a'"):
        await task


def test_a_timeout_says_what_was_waited_for() -> None:
    async def main() -> None:
        from starfish_outbox import MemoryCache

        queue = OutboxQueue[Any](MemoryCache())
        await queue.hydrate(KEY)
        await queue.enqueue("a", 1)
        with pytest.raises(TimeoutError, match="'a' was neither sent, parked nor removed within 90 s"):
            await queue.wait_for("a", timeout=90)
        assert not watched(queue, "a")

    loop = VirtualLoop(Random(1))
    loop.run_until_complete(main())
    loop.close()
