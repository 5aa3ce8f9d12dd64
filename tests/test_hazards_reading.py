"""HAZARDS 1.1, row by row: what other programs stored is read, kept or set aside, and nothing around it is lost."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from jsonschema import Draft202012Validator

from starfish_outbox import (
    CacheWriteError,
    CorruptQueueError,
    FileCache,
    NotHydratedError,
    OutboxEntry,
    OutboxQueue,
    codec,
    drain_outbox,
)
from starfish_outbox.jsontext import encode_foreign
from starfish_outbox.schema import schema
from tests.conftest import KEY, ManualClock, Opener, Place
from tests.reading_cases import ELEMENTS, HARMLESS, NO_ARRAYS, ONE, TWO, WHOLES, Element, Whole, entry, numbered, same

T = TypeVar("T")
Stringify = Callable[[str], str | None]

READER = Draft202012Validator(schema("reader"))
QUARANTINE = f"{KEY}.quarantine"
CORRUPT = f"{KEY}.corrupt.1"
TOUCH = numbered("touch")

on_three = pytest.mark.parametrize("place", ["memory", "file", "sqlite"], indirect=True)
on_memory_and_sqlite = pytest.mark.parametrize("place", ["memory", "sqlite"], indirect=True)
on_files = pytest.mark.parametrize("place", ["file"], indirect=True)


def rows(cases: dict[str, T]) -> list[Any]:
    return [pytest.param(case, id=name) for name, case in cases.items()]


def shown(queue: OutboxQueue[Any]) -> list[dict[str, Any]]:
    return [entry.to_dict() for entry in queue.get()]


async def touch(queue: OutboxQueue[Any]) -> None:
    assert await queue.enqueue("touch", 1, ts=5)


@on_three
@pytest.mark.parametrize("case", rows(ELEMENTS))
async def test_an_element_is_read_or_set_aside_and_its_neighbours_survive(
    case: Element,
    place: Place,
    opened: Opener,
    clock: ManualClock,
    stringify: Stringify,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = f"[{ONE},{case.text},{TWO}]"
    await place.put(KEY, before)
    queue = await opened(place.cache)
    expected = [entry(id="one"), *case.read, entry(id="two")]
    assert shown(queue) == expected
    assert same(shown(queue), expected)

    notes = queue.status().set_aside
    if case.said:
        assert any(case.said in note for note in notes)
        assert case.said in caplog.text
    else:
        assert notes == ()
    assert (await place.text(CORRUPT)) == (before if case.fate == "damage" else None)
    quarantine = json.loads(await place.text(QUARANTINE) or "[]")
    assert [element["text"] for element in quarantine] == ([case.text] if case.fate == "quarantined" else [])
    assert all(element["at"] == clock.now_ms and element["reason"] for element in quarantine)

    # Hydrating wrote nothing under the key; in a database the text was taken apart into rows.
    elements = ",".join(text for text in (ONE, case.stored, TWO) if text is not None)
    assert await place.text(KEY) == (f"[{elements}]" if place.kind == "sqlite" else before)

    await touch(queue)
    await queue.close()
    stored = await place.text(KEY)
    assert stored == f"[{elements},{TOUCH}]"
    assert READER.is_valid(json.loads(stored)) == case.closed
    assert stringify(stored) is not None
    assert (stringify(stored) == stored) == case.javascript_keeps

    again = await opened(place.fresh())
    assert shown(again) == [*expected, entry(id="touch")]
    assert await place.text(KEY) == stored
    assert json.loads(await place.text(QUARANTINE) or "[]") == quarantine


@on_memory_and_sqlite
@pytest.mark.parametrize("case", rows({name: case for name, case in ELEMENTS.items() if case.fate != "damage"}))
async def test_what_was_read_is_sent_once_and_what_is_stuck_is_named(
    case: Element, place: Place, opened: Opener
) -> None:
    await place.put(KEY, f"[{ONE},{case.text},{TWO}]")
    queue = await opened(place.cache)
    sent: list[dict[str, Any]] = []

    async def send(entry: OutboxEntry[Any]) -> None:
        sent.append(entry.to_dict())

    result = await drain_outbox(queue, send)
    waiting = [entry(id="one"), *case.read, entry(id="two")]
    # What was asked before without an answer comes last.
    waiting_for_pass = sorted(waiting, key=lambda data: type(data.get("maybeSent")) is int and "lastError" in data)
    assert sent == [data for data in waiting_for_pass if data["status"] == "queued"]
    assert (result.sent, result.failed, result.superseded) == (len(sent), 0, 0)
    assert shown(queue) == [data for data in waiting if data["status"] != "queued"]
    left = len(waiting) - len(sent) + (case.stored or "").count('"id":') * (case.fate == "kept")
    assert len(queue.status().stuck) == queue.counts().other == left
    assert queue.counts().total == left


@on_files
@pytest.mark.parametrize("case", rows(ELEMENTS))
async def test_opening_again_before_any_write_sets_nothing_aside_twice(
    case: Element, place: Place, opened: Opener
) -> None:
    await place.put(KEY, f"[{ONE},{case.text},{TWO}]")
    first = await opened(place.cache)
    beside = await place.text(QUARANTINE)
    await first.close()
    second = await opened(place.fresh())
    assert shown(second) == [entry(id="one"), *case.read, entry(id="two")]
    assert await place.text(QUARANTINE) == beside
    assert await place.text(f"{KEY}.corrupt.2") is None


@on_three
@pytest.mark.parametrize("case", rows(WHOLES))
async def test_a_text_that_is_no_array_is_set_aside_whole_and_searched_for_entries(
    case: Whole, place: Place, opened: Opener, stringify: Stringify
) -> None:
    before = case.text if isinstance(case.text, str) else case.text.decode("utf-8", "surrogateescape")
    await place.put(KEY, case.text)
    queue = await opened(place.cache)
    assert tuple(entry.id for entry in queue.get()) == case.found
    assert await place.text(CORRUPT) == before
    assert await place.text(f"{KEY}.corrupt.2") is None
    assert any(CORRUPT in note for note in queue.status().set_aside)
    if place.kind != "sqlite":
        assert await place.text(KEY) == before
    await touch(queue)
    await queue.close()
    stored = await place.text(KEY)
    assert stored is not None
    READER.validate(json.loads(stored))
    assert stringify(stored) == stored
    again = await opened(place.fresh())
    assert tuple(entry.id for entry in again.get()) == (*case.found, "touch")
    assert await place.text(CORRUPT) == before
    assert await place.text(f"{KEY}.corrupt.2") is None


@on_three
async def test_r30_another_damage_is_kept_beside_the_first_and_the_same_is_not_kept_twice(
    place: Place, opened: Opener
) -> None:
    texts = [f"[{ONE}", "{{{", f"[{ONE}"]
    for text in texts:
        await place.put(KEY, text)
        await (await opened(place.cache)).close()
    kept = [await place.text(f"{KEY}.corrupt.{number}") for number in (1, 2, 3)]
    assert kept == [texts[0], texts[1], None]


@on_three
async def test_r13_the_same_element_is_quarantined_once_and_others_are_added(place: Place, opened: Opener) -> None:
    for text in ('[null,"x",null]', "[1,null]"):
        await place.put(KEY, text)
        await (await opened(place.cache)).close()
    texts = [element["text"] for element in json.loads(await place.text(QUARANTINE) or "[]")]
    assert sorted(set(texts)) == ['"x"', "1", "null"]
    assert len([text for text in texts if text != "null"]) == 2


@on_three
@pytest.mark.parametrize("there", ["", "not JSON", '{"a":1}', "[1]", '[{"text":[]}]', '[{"text":{"a":1}},{"text":1}]'])
async def test_r14_a_quarantine_that_somebody_else_wrote_is_kept(place: Place, opened: Opener, there: str) -> None:
    await place.put(QUARANTINE, there)
    await place.put(KEY, f"[{ONE},7]")
    queue = await opened(place.cache)
    assert [entry.id for entry in queue.get()] == ["one"]
    elements = json.loads(await place.text(QUARANTINE) or "null")
    assert elements[-1]["text"] == "7"
    found = [elements[:-1], elements[0], elements[0].get("text") if isinstance(elements[0], dict) else None]
    assert not there or there in [part if isinstance(part, str) else encode_foreign(part) for part in found]


@on_three
@pytest.mark.parametrize("text", rows(NO_ARRAYS))
async def test_json_that_is_no_array_is_refused_and_left_untouched(place: Place, clock: ManualClock, text: str) -> None:
    await place.put(KEY, text)
    async with OutboxQueue[Any](place.cache, clock=clock) as queue:
        await queue.hydrate("outbox.ben")
        await queue.enqueue("b", 1, ts=5)
        with pytest.raises(CorruptQueueError, match="not an array") as caught:
            await queue.hydrate(KEY)
        assert caught.value.moved_to is None
        assert queue.get() == []
        with pytest.raises(NotHydratedError):
            await queue.enqueue("x", 1)
        assert await place.text(KEY) == text
        assert await place.text(CORRUPT) is await place.text(QUARANTINE) is None
        await queue.hydrate("outbox.ben")
        assert [entry.id for entry in queue.get()] == ["b"]
    await place.put(KEY, f"[{ONE}]")
    async with OutboxQueue[Any](place.fresh(), clock=clock) as queue:
        await queue.hydrate(KEY)
        assert [entry.id for entry in queue.get()] == ["one"]


@on_three
@pytest.mark.parametrize("case", rows(HARMLESS))
async def test_an_empty_text_and_white_space_are_harmless(
    case: tuple[str, tuple[str, ...]], place: Place, opened: Opener
) -> None:
    text, ids = case
    await place.put(KEY, text)
    queue = await opened(place.cache)
    assert tuple(entry.id for entry in queue.get()) == ids
    assert queue.status().set_aside == ()
    assert await place.text(CORRUPT) is await place.text(QUARANTINE) is None
    if place.kind != "sqlite":
        assert await place.text(KEY) == text
    await touch(queue)
    assert await place.text(KEY) == f"[{','.join([*map(numbered, ids), TOUCH])}]"


@on_three
async def test_r15_by_id_the_first_of_two_is_meant_and_each_settles_by_itself(place: Place, opened: Opener) -> None:
    await place.put(KEY, f"[{numbered('x')},{TWO},{numbered('x').replace(':1,', ':2,', 1)}]")
    queue = await opened(place.cache)
    assert not await queue.enqueue("x", 3)
    assert [await queue.claim("x"), await queue.claim("x")] == [True, False]
    await queue.retry("x")

    async def send(entry: OutboxEntry[Any]) -> None:
        if entry.item == 1 and entry.id == "x":
            raise RuntimeError("no")

    result = await drain_outbox(queue, send, max_attempts=1)
    assert (result.sent, result.failed) == (2, 1)
    assert [(entry.id, entry.item, entry.status, entry.attempts) for entry in queue.get()] == [("x", 1, "failed", 1)]
    await queue.remove("x")
    assert await queue.enqueue("x", 3)


@on_three
async def test_r20_ids_that_look_alike_are_claimed_and_removed_one_by_one(place: Place, opened: Opener) -> None:
    await place.put(KEY, f"[{ELEMENTS['R20-ids-that-look-alike'].text},{ELEMENTS['R20-id-lone-surrogate'].text}]")
    queue = await opened(place.cache)
    ids = [entry.id for entry in queue.get()]
    assert len(set(ids)) == 8
    for id in ids:
        assert await queue.claim(id)
        assert [entry.id for entry in queue.get() if entry.status == "sending"] == [id]
        await queue.remove(id)
        assert id not in [entry.id for entry in queue.get()]
    for refused in ("", "\ud83d"):
        with pytest.raises(ValueError, match="id"):
            await queue.enqueue(refused, 1)


async def called_deep(depth: int, call: Callable[[], Awaitable[T]]) -> T:
    return await (call() if depth == 0 else called_deep(depth - 1, call))


@on_three
@pytest.mark.parametrize("levels", [900, 4_000, 20_000], ids=lambda levels: f"R34-{levels}-levels")
@pytest.mark.parametrize("frames", [0, 500], ids=lambda frames: f"from-{frames}-frames")
async def test_r34_deep_items_are_read_sent_and_kept_however_deep_the_caller_is(
    place: Place, clock: ManualClock, levels: int, frames: int
) -> None:
    deep = {"lists": "[" * levels + "]" * levels, "dicts": '{"a":' * levels + "0" + "}" * levels}
    elements = [ONE, *(numbered(id).replace('"item":1', f'"item":{item}') for id, item in deep.items()), TWO]
    text = f"[{','.join(elements)}]"
    await place.put(KEY, text)
    sent = {}

    async def send(entry: OutboxEntry[Any]) -> None:
        sent[entry.id] = encode_foreign(entry.item)
        if entry.id in deep:
            raise RuntimeError("not yet")

    async def work() -> str | None:
        async with OutboxQueue[Any](place.cache, clock=clock) as queue:
            await queue.hydrate(KEY)
            assert queue.status().set_aside == ()
            assert [entry.id for entry in queue.get()] == ["one", "lists", "dicts", "two"]
            assert (await drain_outbox(queue, send)).sent == 2
            await queue.retry("lists")
            await touch(queue)
        return await place.text(KEY)

    stored = await called_deep(frames, work)
    assert sent == {**deep, "one": "1", "two": "1"}
    assert stored is not None
    assert [entry.item for entry in codec.read(stored).entries] == [*deep.values(), "1"]


@on_files
async def test_r35_a_text_that_node_cannot_hold_is_never_written(place: Place, opened: Opener) -> None:
    cache = place.fresh(max_utf16=1_000)
    assert isinstance(cache, FileCache)
    queue = await opened(cache)
    assert await queue.enqueue("penguins", "\U0001f427" * 300, ts=5)  # two UTF-16 units each
    before, shown_before = await place.text(KEY), shown(queue)
    with pytest.raises(CacheWriteError, match="1000 units"):
        await queue.enqueue("more", "\U0001f427" * 200, ts=5)
    assert await place.text(KEY) == before
    assert shown(queue) == shown_before
    assert await queue.enqueue("less", "x" * 200, ts=5)
    stored = await place.text(KEY)
    assert stored is not None
    assert len(stored.encode("utf-16-le")) // 2 <= 1_000
    assert [entry.id for entry in (await opened(place.fresh())).get()] == ["penguins", "less"]


@on_files
async def test_r35_a_queue_at_the_limit_can_still_be_drained(place: Place, opened: Opener) -> None:
    await place.put(KEY, f"[{numbered('a' * 300)},{numbered('b' * 300)}]")
    stored = await place.text(KEY) or ""
    # A claim makes the text one unit longer: "sending" for "queued".
    queue = await opened(place.fresh(max_utf16=len(stored)))

    async def send(entry: OutboxEntry[Any]) -> None:
        assert entry.id

    assert (await drain_outbox(queue, send)).sent == 2
    assert await place.text(KEY) == "[]"


async def test_r36_of_ten_thousand_entries_a_change_encodes_one(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    await place.put(KEY, f"[{','.join(numbered(f'e{number}') for number in range(10_000))}]")
    queue = await opened(place.cache)
    encoded: list[str | None] = []
    encode = codec.encode_entry

    def counting(entry: Any) -> str:
        encoded.append(entry.id)
        return encode(entry)

    monkeypatch.setattr(codec, "encode_entry", counting)
    await touch(queue)
    await queue.claim("e5000")
    assert set(encoded) <= {"touch", "e5000"}
    assert queue.counts().total == 10_001
