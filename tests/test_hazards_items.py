"""HAZARDS 1.2, row by row: items made in Python that JavaScript would change or lose."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pytest

from starfish_outbox import ItemError, OutboxEntry, drain_outbox
from tests.conftest import KEY, ManualClock, Opener, Place
from tests.reading_cases import compact, entry, numbered, same

on_three = pytest.mark.parametrize("place", ["memory", "file", "sqlite"], indirect=True)


@dataclasses.dataclass
class Reading:
    celsius: float


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Unit(enum.StrEnum):
    GRAM = "g"


class Point(NamedTuple):
    x: int
    y: int


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def cycle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


# What is refused wherever it stands in an item, by row.
REFUSED: dict[str, Any] = {
    "P1-nan": float("nan"),
    "P1-inf": float("inf"),
    "P1-minus-inf": float("-inf"),
    "P1-np.float64-nan": np.float64("nan"),
    **{
        f"P2-{type(value).__name__}": value
        for value in (
            dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            dt.date(2026, 1, 1),
            dt.timedelta(1),
            Decimal("1.5"),
            uuid.UUID(int=1),
            PurePosixPath("a/b"),
            1j,
            {1},
            frozenset({1}),
            b"a",
            bytearray(b"a"),
            Reading(21.5),
            Colour.RED,
            ValueError("a"),
            (number for number in (1, 2)),
            abs,
            ...,
            np.float32(1.5),
            np.int64(1),
            np.bool_(True),
            np.zeros(2),
            UserDict(a=1),
            deque([1]),
            range(2),
            {"a": 1}.keys(),
            object,
            NotImplemented,
        )
    },
    "P2-cycle": cycle(),
    "P2-depth-1100": nested(1100),
    "P2-5000-digits": 10**4999,
    **{f"P3-{value}": value for value in (2**53, -(2**53), 2**53 + 1, 1234567890123456789, -(2**63))},
    "P4-400-digits": 10**400,
    "P9-lone-surrogate": "a\ud83d",
}
BAD_KEYS: dict[str, Any] = {
    "P2-key-tuple": (1, 2),
    "P2-key-bytes": b"a",
    "P5-key-1": 1,
    "P5-key-None": None,
    "P5-key-True": True,
    "P5-key-1.5": 1.5,
    "P5-key-nan": float("nan"),
    "P9-key-lone-surrogate": "\udc00",
}
# What lies too deep, or in itself, is found at the first level too many, the 129th; three are around the value.
DEEP = {"P2-cycle", "P2-depth-1100"}
CASES = [
    pytest.param([1, {"é": [value]}], "$[1].é[0]" + "[0]" * 125 * (name in DEEP), id=name)
    for name, value in REFUSED.items()
]
CASES += [pytest.param([{"a": {key: 1}}], "$[0].a", id=name) for name, key in BAD_KEYS.items()]
CASES += [
    pytest.param([{"a b": [0, {"": float("nan")}]}], '$[0]["a b"][1][""]', id="P1-odd-keys"),
    pytest.param({1: "a", "1": "b"}, "$", id="P5-two-keys-with-one-text"),
    pytest.param({"\ud83d\ude00": 1, "\U0001f600": 2}, "$", id="P8-two-keys-with-one-text"),
    pytest.param("x" * (1 << 20), "$", id="R35-item-past-1-MiB"),
    pytest.param(nested(129), "$" + "[0]" * 128, id="R34-129-levels"),
]  # fmt: skip


@on_three
@pytest.mark.parametrize(("item", "path"), CASES)
async def test_what_javascript_would_change_or_lose_is_refused_before_anything_changes(
    item: Any, path: str, place: Place, opened: Opener
) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("first", 1, ts=5)
    told: list[None] = []
    queue.subscribe(lambda: told.append(None))
    before = (queue.get(), queue.counts(), queue.status(), await place.text(KEY))
    for attempt in (queue.enqueue("x", item), queue.enqueue_many([("y", 1), ("x", item), ("z", 2)])):
        with pytest.raises(ItemError) as caught:
            await attempt
        assert caught.value.path == path
        assert "'x'" in str(caught.value)
    assert (queue.get(), queue.counts(), queue.status(), await place.text(KEY)) == before
    assert told == []
    assert await queue.enqueue("x", "fit", ts=5)
    assert await place.text(KEY) == f"[{numbered('first')},{compact(entry(item='fit'))}]"
    assert len(told) == 1


@on_three
async def test_r34_an_item_of_128_levels_is_taken(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    assert await queue.enqueue("x", nested(128))
    assert queue.get()[0].item == nested(128)


@on_three
async def test_a_live_id_is_answered_before_its_item_is_looked_at(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    assert await queue.enqueue("a", 1)
    assert not await queue.enqueue("a", float("nan"))
    assert [entry.item for entry in queue.get()] == [1]


@on_three
async def test_p2_default_turns_other_types_into_json_and_its_answer_is_checked(place: Place, opened: Opener) -> None:
    def default(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        if isinstance(value, dt.datetime):
            return value.isoformat()
        if isinstance(value, Decimal):
            return [value]  # an answer that needs another
        raise TypeError(f"no idea about {type(value)}")

    queue = await opened(place.cache, default=default)
    item = {"mass": np.float32(1.5), "grid": np.arange(3), "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}
    assert await queue.enqueue("a", item, ts=5)
    expected = {"mass": 1.5, "grid": [0, 1, 2], "at": "2026-01-01T00:00:00+00:00"}
    assert queue.get()[0].item == expected
    before = await place.text(KEY)
    assert before == f"[{compact(entry(id='a', item=expected))}]"
    for bad, path in (({"b": [uuid.UUID(int=1)]}, "$.b[0]"), ([np.array([1.0, np.nan])], "$[0][1]")):
        with pytest.raises(ItemError) as caught:
            await queue.enqueue("b", bad)
        assert caught.value.path == path
    with pytest.raises(ItemError, match="128 levels"):
        await queue.enqueue("b", Decimal(1))
    assert await place.text(KEY) == before


@on_three
async def test_p3_big_integers_are_kept_exact_where_only_python_reads_them(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache, big_ints=True)
    values = [2**53, 2**53 + 1, 1234567890123456789, -(2**63), 10**300 + 1]
    assert await queue.enqueue("a", values, ts=5)
    with pytest.raises(ItemError, match="too large for a double"):
        await queue.enqueue("b", 10**400)
    assert queue.get()[0].item == values
    await queue.close()
    assert (await opened(place.fresh(), big_ints=True)).get()[0].item == values


NORMALISED: dict[str, tuple[Any, Any]] = {
    "P6-tuple": ((1, (2, 3)), [1, [2, 3]]),
    "P6-namedtuple": (Point(1, 2), [1, 2]),
    "P6-IntEnum": ([Level.HIGH], [3]),
    "P6-StrEnum": ({Unit.GRAM: Unit.GRAM}, {"g": "g"}),
    "P6-np.float64": ({"a": np.float64(1.25)}, {"a": 1.25}),
    "P6-np.str": ({np.str_("a"): np.str_("b")}, {"a": "b"}),
    "P6-dict-subclass": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "P6-bool-is-no-int": ([True, False, 1, 0], [True, False, 1, 0]),
    "P7-1.0": ([1.0, 1e16, 1e21, 2.5e-7], [1, 1e16, 1e21, 2.5e-7]),
    "P7-minus-zero": (-0.0, 0),
    "P8-two-halves": ("\ud83d\ude00", "\U0001f600"),
    "P8-two-halves-in-a-key": ({"\ud83d\ude00": 1}, {"\U0001f600": 1}),
    "P9-strings": (
        ["\0", "\u2028\u2029", "\ufeff", "\U0001f427", "\uffff\ufdd0", "__proto__", "\x7f\x1f"],
        ["\0", "\u2028\u2029", "\ufeff", "\U0001f427", "\uffff\ufdd0", "__proto__", "\x7f\x1f"],
    ),
    "P9-proto": ({"__proto__": {"a": 1}}, {"__proto__": {"a": 1}}),
    "P10-scripts": (["漢字", "Ж", "\U0001f427", "é"], ["漢字", "Ж", "\U0001f427", "é"]),
    "P10-null": (None, None),
}


@on_three
@pytest.mark.parametrize(("item", "expected"), [pytest.param(*pair, id=name) for name, pair in NORMALISED.items()])
async def test_an_item_is_from_the_first_moment_what_a_reload_reads(
    item: Any, expected: Any, place: Place, opened: Opener, stringify: Callable[[str], str | None]
) -> None:
    queue = await opened(place.cache)
    assert await queue.enqueue("a", item, ts=5)
    at_once = queue.get()[0].item
    assert same(at_once, expected)
    sent: list[Any] = []

    async def send(entry: OutboxEntry[Any]) -> None:
        sent.append(entry.item)
        raise RuntimeError("no")

    await drain_outbox(queue, send)
    assert same(sent[0], expected)
    stored = await place.text(KEY)
    assert stored is not None
    # P10: compact, in UTF-8, exactly what JavaScript writes.
    assert stringify(stored) == stored
    await queue.close()
    assert same((await opened(place.fresh())).get()[0].item, expected)


@on_three
async def test_p10_what_is_stored_is_compact_and_unescaped(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("ü", {"ort": "Zürich", "värde": [1.5, None]}, ts=5)
    assert await place.text(KEY) == (
        '[{"id":"ü","item":{"ort":"Zürich","värde":[1.5,null]},"status":"queued","attempts":0,"enqueuedAt":5}]'
    )


@on_three
async def test_p11_a_time_of_zero_is_kept_and_none_means_now(place: Place, opened: Opener, clock: ManualClock) -> None:
    queue = await opened(place.cache)
    await queue.enqueue("a", 1, ts=0)
    await queue.enqueue("b", 1)
    await queue.enqueue("c", 1, ts=None)
    assert [entry.enqueued_at for entry in queue.get()] == [0, clock.now_ms, clock.now_ms]


@pytest.mark.parametrize(
    "ts", [float("nan"), 1.75, 5.0, "5", True, -1, 2**53, 10**400, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)]
)
@pytest.mark.parametrize("place", ["memory"], indirect=True)
async def test_p12_a_time_that_is_no_whole_milliseconds_is_refused(place: Place, opened: Opener, ts: Any) -> None:
    queue = await opened(place.cache)
    with pytest.raises((ValueError, TypeError), match="ts is"):
        await queue.enqueue("a", 1, ts=ts)
    assert queue.get() == []
    assert await place.text(KEY) is None
    assert await queue.enqueue("a", 1, ts=2**53 - 1)


@pytest.mark.parametrize("id", ["", 7, None, True, 1.0, b"a", ("a",), "\ud800", "a\udcff"])
@pytest.mark.parametrize("place", ["memory"], indirect=True)
async def test_r17_to_r20_an_id_that_is_no_text_is_refused(place: Place, opened: Opener, id: Any) -> None:
    queue = await opened(place.cache)
    for attempt in (queue.enqueue(id, 1), queue.enqueue_many([("b", 1), (id, 1)])):
        with pytest.raises((ValueError, TypeError), match="id"):
            await attempt
    assert queue.get() == []
    assert await place.text(KEY) is None


@on_three
async def test_d21_nothing_that_a_caller_changes_afterwards_reaches_the_queue(place: Place, opened: Opener) -> None:
    queue = await opened(place.cache)
    item = {"readings": [1]}
    await queue.enqueue("a", item, ts=5)
    item["readings"].append(2)
    shown = queue.get()
    shown[0].item["readings"].append(3)
    shown[0].status, shown[0].id = "failed", "b"
    shown.clear()

    async def send(entry: OutboxEntry[Any]) -> None:
        entry.item["token"] = "s3cret"
        entry.extra["token"] = "s3cret"
        raise RuntimeError("no")

    await drain_outbox(queue, send)
    assert [(entry.id, entry.item, entry.status, entry.extra) for entry in queue.get()] == [
        ("a", {"readings": [1]}, "queued", {})
    ]
    assert "s3cret" not in str(await place.text(KEY))
