"""The ledger: what was delivered is not sent again by a cell that is run again. SQLite only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import (
    FileCache,
    OutboxEntry,
    OutboxQueue,
    RejectedError,
    SQLiteCache,
    UnackedError,
    drain_outbox,
    open_outbox,
)
from tests.conftest import ManualClock, Opener, Place

DAYS = 86_400.0


async def arrives(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


async def delivered(queue: OutboxQueue[Any], id: str, item: Any) -> None:
    assert await queue.enqueue(id, item)
    assert (await drain_outbox(queue, arrives)).left == 0


async def test_an_id_that_was_sent_with_the_same_item_is_not_added_again(tmp_path: Path) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db") as queue:
        assert not await queue.was_sent("a")
        await delivered(queue, "a", {"celsius": 21.5})
        assert await queue.was_sent("a")
        assert await queue.enqueue("a", {"celsius": 21.5}) is False
        assert await queue.enqueue_many([("a", {"celsius": 21.5}), ("b", 1)]) == [False, True]
        assert [entry.id for entry in queue.get()] == ["b"]
    async with open_outbox("ana", tmp_path / "outbox.db") as queue:  # the notebook is opened again
        assert await queue.was_sent("a")
        assert await queue.enqueue("a", {"celsius": 21.5}) is False


async def test_an_id_that_was_sent_with_another_item_is_added_and_reported(tmp_path: Path) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db") as queue:
        await delivered(queue, "a", {"celsius": 21.5})
        assert queue.status().set_aside == ()
        assert await queue.enqueue("a", {"celsius": 22.0})
        assert any("'a' was sent before with another item" in line for line in queue.status().set_aside)
        assert [(entry.id, entry.item) for entry in queue.get()] == [("a", {"celsius": 22.0})]
        assert (await drain_outbox(queue, arrives)).sent == 1
        assert await queue.enqueue("a", {"celsius": 22.0}) is False
        assert await queue.enqueue("a", {"celsius": 21.5})  # the ledger knows what was sent last


async def test_only_a_delivery_is_written_into_the_ledger(tmp_path: Path) -> None:
    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "rejected":
            raise RejectedError("never")
        if entry.id == "unanswered":
            raise UnackedError("?")
        if entry.id == "removed while sending":
            await queue.remove(entry.id)

    async with open_outbox("ana", tmp_path / "outbox.db") as queue:
        ids = ["removed", "claimed", "rejected", "unanswered", "removed while sending"]
        await queue.enqueue_many([(id, 1) for id in ids])
        await queue.remove("removed")
        await queue.claim("claimed")
        await queue.remove("claimed")
        result = await drain_outbox(queue, send)
        assert (result.sent, result.superseded) == (1, 1)
        assert [await queue.was_sent(id) for id in ids] == [False] * 5


async def test_each_identity_has_its_own_ledger_and_a_sign_out_does_not_send_twice(tmp_path: Path) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db") as queue:
        await delivered(queue, "a", 1)
        await queue.hydrate("outbox.bo")
        assert not await queue.was_sent("a")
        assert await queue.enqueue("a", 1)
        await queue.hydrate("outbox.ana")
        assert await queue.was_sent("a")


async def test_the_ledger_goes_with_the_key(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with open_outbox("ana", path) as queue:
        await delivered(queue, "a", 1)
    cache = SQLiteCache(path, ledger=True)
    await cache.remove_item("outbox.ana")
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate("outbox.ana")
        assert not await queue.was_sent("a")
        assert await queue.enqueue("a", 1)
    cache.close()


@pytest.mark.parametrize(("days", "known"), [(89.9, True), (90.1, False)])
async def test_the_ledger_is_kept_for_90_days(tmp_path: Path, clock: ManualClock, days: float, known: bool) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db", clock=clock) as queue:
        await delivered(queue, "a", 1)
        clock.advance(days * DAYS)
        await queue.hydrate("outbox.ana")
        assert await queue.was_sent("a") is known
        assert await queue.enqueue("a", 1) is not known


async def test_a_bare_queue_keeps_no_ledger(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await delivered(queue, "a", 1)
    assert not await queue.was_sent("a")
    assert await queue.enqueue("a", 1)


async def test_files_keep_no_ledger_and_nothing_but_the_array(tmp_path: Path) -> None:
    async with open_outbox("ana", tmp_path) as queue:
        await delivered(queue, "a", 1)
        assert not await queue.was_sent("a")
        assert await queue.enqueue("a", 1)
    assert FileCache(tmp_path).path("outbox.ana").exists()
    assert [path.name for path in tmp_path.glob("*.json")] == ["outbox.ana.json"]


async def test_without_the_ledger_open_outbox_adds_an_id_again(tmp_path: Path) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db", ledger=False) as queue:
        await delivered(queue, "a", 1)
        assert not await queue.was_sent("a")
        assert await queue.enqueue("a", 1)


async def test_an_id_that_was_sent_needs_no_room_in_a_full_queue(tmp_path: Path) -> None:
    async with open_outbox("ana", tmp_path / "outbox.db", max_entries=1) as queue:
        await delivered(queue, "a", 1)
        assert await queue.enqueue("b", 1)
        assert await queue.enqueue("a", 1) is False
