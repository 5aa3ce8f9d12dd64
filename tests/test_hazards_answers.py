"""HAZARDS 1.4, rows C22 to C24: keys, what ``get_item`` answers, what is left. A test is named by its row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from starfish_outbox import (
    CacheError,
    CorruptQueueError,
    NotHydratedError,
    OutboxEntry,
    OutboxQueue,
    drain_outbox,
)
from tests.conftest import KEY, Opener, Place
from tests.gates import GatedCache, array, ids


async def arrives(entry: OutboxEntry[Any]) -> None:
    """A send that the remote takes."""


@pytest.mark.parametrize("key", ["", None, 7, b"outbox.ana"])
async def test_c22_a_key_that_is_empty_or_no_string_is_refused(place: Place, key: Any) -> None:
    queue = OutboxQueue[Any](place.cache)
    with pytest.raises((ValueError, TypeError), match="cache key"):
        await queue.hydrate(key)
    with pytest.raises(NotHydratedError):
        await queue.enqueue("a", 1)
    assert queue.status().key is None


@pytest.mark.parametrize(
    "answer",
    [
        array("a").encode(),
        b"\xef\xbb\xbf" + array("a").encode(),
        bytearray(b"[]"),
        json.loads(array("a")),
        [],
        0,
        False,
    ],
    ids=["bytes", "bytes with a BOM", "bytearray", "parsed array", "empty array", "number", "bool"],
)
async def test_c23_get_item_that_answers_no_text_raises_and_nothing_is_overwritten(answer: Any) -> None:
    cache = GatedCache({KEY: answer})
    queue = OutboxQueue[Any](cache)
    with pytest.raises(CacheError, match=f"get_item answered {type(answer).__name__}"):
        await queue.hydrate(KEY)
    with pytest.raises(NotHydratedError):
        await queue.enqueue("a", 1)
    assert cache.texts == {KEY: answer}
    assert cache.calls("set") == 0


async def test_c24_an_empty_queue_stays_as_an_empty_array_and_clear_leaves_what_is_stored(
    place: Place, opened: Opener
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue_many([("a", 1), ("b", 2)])
    await drain_outbox(queue, arrives, limit=1)
    queue.clear()
    assert queue.get() == []
    assert ids(await place.text(KEY)) == ["b"]
    await queue.hydrate(KEY)
    await drain_outbox(queue, arrives)
    queue.clear()
    assert await place.text(KEY) == "[]"


async def test_c24_the_key_is_never_removed() -> None:
    cache = GatedCache()
    queue = OutboxQueue[Any](cache)
    await queue.hydrate(KEY)
    await queue.enqueue("a", 1)
    await drain_outbox(queue, arrives)
    queue.clear()
    await queue.close()
    assert cache.calls("remove") == 0
    assert cache.texts == {KEY: "[]"}


async def test_hydrate_writes_nothing_under_the_key(place: Place) -> None:
    text = array("a", status="sending")
    await place.put(KEY, text)
    queue = OutboxQueue[Any](place.cache)
    await queue.hydrate(KEY)
    assert [entry.status for entry in queue.get()] == ["queued"]
    if place.kind != "sqlite":  # SQLite takes the text apart into rows, and answers it as we write it
        assert await place.text(KEY) == text
    await queue.close()


async def test_a_text_that_is_json_but_no_array_is_refused_and_stays(place: Place) -> None:
    text = '{"v":2,"entries":[]}'
    await place.put(KEY, text)
    queue = OutboxQueue[Any](place.cache)
    with pytest.raises(CorruptQueueError):
        await queue.hydrate(KEY)
    with pytest.raises(NotHydratedError):
        await queue.enqueue("a", 1)
    assert await place.text(KEY) == text
