"""Frames in and out of a queue: the rule for each kind of cell, for ids, for what is refused, and the way back."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from starfish_outbox import MemoryCache, OutboxFullError, OutboxQueue, SQLiteCache
from starfish_outbox.notebook import BlockingOutbox
from starfish_outbox.notebook.frames import (
    BadRow,
    Enqueued,
    FrameError,
    Requeued,
    enqueue_frame,
    requeue_frame,
    to_frame,
)
from tests.conftest import KEY, Opener

READINGS = pd.DataFrame({"ship": ["Meteor", "Sonne", "Meteor"], "nr": [1, 1, 2], "celsius": [4.5, np.nan, 7.0]})


@pytest.fixture
def outbox() -> Iterator[BlockingOutbox]:
    with BlockingOutbox("ana", MemoryCache()) as opened:
        yield opened


@pytest.fixture
async def queue(opened: Opener) -> OutboxQueue[Any]:
    return await opened(MemoryCache())


def items(queue: OutboxQueue[Any]) -> list[Any]:
    return [entry.item for entry in queue.get()]


def ids(queue: OutboxQueue[Any]) -> list[str]:
    return [entry.id for entry in queue.get()]


async def test_each_row_is_an_entry_with_an_id_of_its_columns(queue: OutboxQueue[Any]) -> None:
    done = await enqueue_frame(queue, READINGS, id=["ship", "nr"], prefix="ctd/")
    assert done == Enqueued(("ctd/Meteor/1", "ctd/Sonne/1", "ctd/Meteor/2"))
    assert repr(done) == "<Enqueued: 3 added>"
    assert ids(queue) == list(done.added)
    assert items(queue)[:2] == [
        {"ship": "Meteor", "nr": 1, "celsius": 4.5},
        {"ship": "Sonne", "nr": 1, "celsius": None},
    ]
    again = await enqueue_frame(queue, READINGS, id=["ship", "nr"], prefix="ctd/")
    assert again == Enqueued((), done.added)
    assert repr(again) == "<Enqueued: 0 added, 3 known already>"


async def test_the_rows_come_in_one_commit(tmp_path: Path) -> None:
    cache = SQLiteCache(tmp_path / "outbox.db")
    commits = []
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        queue.subscribe(lambda: commits.append(queue.counts().total))
        await enqueue_frame(queue, pd.DataFrame({"nr": range(2_000)}), id="nr")
        assert commits == [2_000]
        for number in range(3):
            await queue.enqueue(f"single {number}", 1)
        assert len(commits) == 4
    cache.close()


async def test_id_columns_can_be_left_out_of_the_items(queue: OutboxQueue[Any]) -> None:
    await enqueue_frame(queue, READINGS, id=["ship", "nr"], drop_id=True)
    assert items(queue) == [{"celsius": 4.5}, {"celsius": None}, {"celsius": 7}]
    big = pd.DataFrame({"snowflake": [2**60 + 1, 2**60 + 2]})
    done = await enqueue_frame(queue, big, id="snowflake", drop_id=True)
    assert done.added == (str(2**60 + 1), str(2**60 + 2))
    with pytest.raises(FrameError, match=r"row 0, column 'snowflake': \$\.snowflake is an integer beyond"):
        await enqueue_frame(queue, big, id="snowflake", prefix="x")


async def test_ids_are_texts_of_every_kind_of_cell(queue: OutboxQueue[Any]) -> None:
    cells = ["text", 7, 7.5, 8.0, 1e21, True, dt.date(2026, 1, 2), pd.Timestamp("2026-01-02", tz="UTC"), np.int8(3)]
    await enqueue_frame(queue, pd.DataFrame({"key": pd.Series(cells, dtype=object)}), id="key")
    assert ids(queue) == ["text", "7", "7.5", "8", "1e+21", "true", "2026-01-02", "2026-01-02T00:00:00+00:00", "3"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(*[st.text("a/%2F5", max_size=4)] * 2), min_size=2, max_size=8, unique=True))
@example([("a/b", "c"), ("a", "b/c")])
@example([("a%2Fb", "c"), ("a/b", "c")])
@example([("", "a"), ("a", "")])
def test_no_two_combinations_make_the_same_id(rows: list[tuple[str, str]]) -> None:
    async def check() -> int:
        queue = OutboxQueue[Any](MemoryCache())
        await queue.hydrate(KEY)
        return len((await enqueue_frame(queue, pd.DataFrame(rows, columns=["x", "y"]), id=["x", "y"])).added)

    assert asyncio.run(check()) == len(rows)


async def test_a_missing_part_of_an_id_is_refused(queue: OutboxQueue[Any]) -> None:
    frame = pd.DataFrame(
        {"ship": ["a", None, "c"], "nr": [1.0, 2.0, np.nan], "x": ["", b"", {}]}, index=["r", "s", "t"]
    )
    with pytest.raises(FrameError) as caught:
        await enqueue_frame(queue, frame[["ship", "nr"]], id=["ship", "nr"])
    assert caught.value.rows == (
        BadRow(1, "s", "ship", "is missing, and it is part of the id"),
        BadRow(2, "t", "nr", "is missing, and it is part of the id"),
    )
    assert str(caught.value).startswith("2 of 3 rows cannot be enqueued, and none was: row 1 ('s'), column 'ship': is")
    with pytest.raises(FrameError) as caught:
        await enqueue_frame(queue, frame, id="x")
    assert [(bad.number, bad.column) for bad in caught.value.rows][:3] == [(0, "x"), (1, "x"), (2, "x")]
    assert queue.get() == []


async def test_two_rows_with_one_id_are_one_entry_or_refused(queue: OutboxQueue[Any]) -> None:
    same = pd.DataFrame({"id": ["a", "b", "a"], "x": [1, 2, 1]})
    done = await enqueue_frame(queue, same, id="id")
    assert (done.added, done.repeated) == (("a", "b"), 1)
    assert repr(done) == "<Enqueued: 2 added, 1 repeated>"
    other = pd.DataFrame({"id": ["p", "q", "p"], "x": pd.Series([1, 2, True], dtype=object)})
    with pytest.raises(FrameError, match=r"row 2: its id 'p' is that of row 0 too"):
        await enqueue_frame(queue, other, id="id")
    with pytest.raises(FrameError, match=r"row 2: its id 'new-a' is that of row 0 too"):
        await enqueue_frame(queue, same, id="id", prefix="new-", on_duplicate="raise")
    with pytest.raises(FrameError, match=r"row 0: its id 'a' is live in the queue already"):
        await enqueue_frame(queue, same.head(1), id="id", on_duplicate="raise")
    assert ids(queue) == ["a", "b"]


class Odd:
    pass


REFUSED: list[tuple[Any, str]] = [
    (Decimal("1.5"), "decimal.Decimal"),
    (b"x", "bytes"),
    (1j, "complex"),
    (np.complex128(1j), "complex"),
    (np.longdouble(1.5), "numpy."),
    (float("inf"), "NaN or infinite"),
    (2**53, "beyond"),
    ("\ud800", "lone surrogate"),
    (pd.Interval(1, 2), "pandas.Interval"),
    (pd.Period("2026-01"), "pandas.Period"),
    (np.timedelta64(1, "M"), "numpy.timedelta64"),
    ([1, [b"x"]], r"$.x[1][0]"),
    ({"k": {1: 2}}, "$.x.k has a key of type int"),
    (Odd(), "Odd"),
]


async def test_every_refusal_is_told_and_nothing_is_enqueued(queue: OutboxQueue[Any]) -> None:
    good = [1, "b", None]
    cells = good + [cell for cell, _ in REFUSED]
    labels = [f"label {number}" for number in range(len(cells))]
    frame = pd.DataFrame({"nr": range(len(cells)), "x": pd.Series(cells, dtype=object).array, "y": 1}, index=labels)
    with pytest.raises(FrameError) as caught:
        await enqueue_frame(queue, frame, id="nr")
    assert isinstance(caught.value, ValueError)
    assert [(bad.number, bad.label, bad.column) for bad in caught.value.rows] == [
        (number, f"label {number}", "x") for number in range(3, len(cells))
    ]
    for bad, (_, why) in zip(caught.value.rows, REFUSED, strict=True):
        assert why in bad.reason
        assert bad.reason.startswith("$.x")
    assert queue.get() == []
    done = await enqueue_frame(queue, frame, id="nr", on_bad="skip")
    assert done.added == ("0", "1", "2")
    assert done.skipped == caught.value.rows
    assert repr(done) == f"<Enqueued: 3 added, {len(REFUSED)} left out>"
    assert [item["x"] for item in items(queue)] == good


async def test_the_queue_decides_what_it_can_encode(opened: Opener) -> None:
    frame = pd.DataFrame({"nr": [1, 2], "x": [Decimal("1.5"), b"x"], "y": [2**60, 1]})
    queue = await opened(MemoryCache(), default=str, big_ints=True)
    await enqueue_frame(queue, frame, id="nr")
    assert [item["x"] for item in items(queue)] == ["1.5", "b'x'"]
    small = await opened(MemoryCache(), "outbox.small", max_item_bytes=35, max_entries=2)
    with pytest.raises(FrameError) as caught:
        await enqueue_frame(small, pd.DataFrame({"nr": [1, 2], "x": ["a" * 9, "b" * 19], "y": "c"}), id="nr")
    assert [(bad.number, bad.column) for bad in caught.value.rows] == [(1, None)]
    with pytest.raises(OutboxFullError):
        await enqueue_frame(small, pd.DataFrame({"nr": [1, 2, 3]}), id="nr")
    assert small.get() == []


async def test_what_is_no_frame_or_lacks_a_column_is_said(queue: OutboxQueue[Any], outbox: BlockingOutbox) -> None:
    for frame, said in [
        ([{"a": 1}], "not list"),
        (READINGS["nr"], "to_frame"),
        (pl.LazyFrame({"a": [1]}), "collect"),
        (pd.DataFrame({0: [1]}), "frame.columns = "),
    ]:
        with pytest.raises(TypeError, match=said):
            await enqueue_frame(queue, frame, id="a")
    with pytest.raises(ValueError, match="no column 'no'; the frame has 'ship', 'nr', 'celsius'"):
        await enqueue_frame(queue, READINGS, id="no")
    with pytest.raises(ValueError, match="named 'x'"):
        await enqueue_frame(queue, pd.DataFrame([[1, 2]], columns=["x", "x"]), id="x")
    with pytest.raises(ValueError, match="no column"):
        await enqueue_frame(queue, READINGS, id=[])
    with pytest.raises(ValueError, match="on_duplicate"):
        await enqueue_frame(queue, READINGS, id="nr", on_duplicate="replace")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="on_bad"):
        requeue_frame(outbox, READINGS, on_bad="drop")  # type: ignore[call-overload]
    assert queue.get() == []


def test_without_await(outbox: BlockingOutbox) -> None:
    assert enqueue_frame(outbox, READINGS, id=["ship", "nr"]) == Enqueued(("Meteor/1", "Sonne/1", "Meteor/2"))
    assert list(to_frame(outbox)["id"]) == ["Meteor/1", "Sonne/1", "Meteor/2"]
    outbox.mark_failed("Sonne/1")
    fixed = to_frame(outbox, status="failed").assign(celsius=5.5)
    assert requeue_frame(outbox, fixed) == Requeued(("Sonne/1",))
    assert set(to_frame(outbox)["status"]) == {"queued"}


async def test_named_levels_of_an_index_are_columns(queue: OutboxQueue[Any]) -> None:
    done = await enqueue_frame(queue, READINGS.set_index(["ship", "nr"]), id=["ship", "nr"])
    assert done.added == ("Meteor/1", "Sonne/1", "Meteor/2")
    assert items(queue)[0] == {"ship": "Meteor", "nr": 1, "celsius": 4.5}
    days = pd.DataFrame({"x": [1, 2]}, index=pd.date_range("2026-01-02", periods=2, name="day"))
    assert (await enqueue_frame(queue, days, id="day")).added == ("2026-01-02T00:00:00", "2026-01-03T00:00:00")


async def test_a_row_is_named_by_its_label(queue: OutboxQueue[Any]) -> None:
    labels = pd.Index([7, pd.NA, 2], dtype="Int64")
    with pytest.raises(FrameError) as caught:
        await enqueue_frame(queue, pd.DataFrame({"nr": [None, None, None]}, index=labels), id="nr")
    what = "column 'nr': is missing, and it is part of the id"
    assert list(map(str, caught.value.rows)) == [f"row 0 (7), {what}", f"row 1 (None), {what}", f"row 2, {what}"]
