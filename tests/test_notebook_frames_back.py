"""Out of a queue into a frame, into the queue again, and the same with Polars and Arrow."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
import sys
from typing import Any, Final

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from starfish_outbox import MemoryCache, OutboxQueue
from starfish_outbox.notebook.frames import FrameError, Requeued, enqueue_frame, requeue_frame, to_frame
from starfish_outbox.notebook.frames_in import plain, span
from tests.conftest import KEY, ManualClock, Opener, PlainCache

OURS: Final = ["id", "status", "attempts", "enqueued_at", "last_error", "next_attempt"]
SAFE: Final = 2**53 - 1


@pytest.fixture
async def queue(opened: Opener) -> OutboxQueue[Any]:
    return await opened(MemoryCache())


def whole(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(max(low, -SAFE), min(high, SAFE))


def missing_too(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
REALS: Final = st.floats(allow_nan=False, allow_infinity=False)
SINGLES: Final = st.floats(width=32, allow_nan=False, allow_infinity=False)
INSTANTS: Final = st.integers(-(10**18), 4 * 10**18).map(pd.Timestamp)
SPANS: Final = st.integers(-(10**17), 10**17).map(pd.Timedelta)
CLOCKS: Final = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))  # noqa: DTZ001  # frames hold such

COLUMNS: Final[dict[str, tuple[st.SearchStrategy[Any], Any]]] = {
    "bool": (st.booleans(), "bool"),
    "boolean": (missing_too(st.booleans()), "boolean"),
    "bool[pyarrow]": (missing_too(st.booleans()), "bool[pyarrow]"),
    "int8": (whole(-128, 127), "int8"),
    "int64": (whole(-SAFE, SAFE), "int64"),
    "uint64": (whole(0, SAFE), "uint64"),
    "Int16": (missing_too(whole(-32768, 32767)), "Int16"),
    "UInt64": (missing_too(whole(0, SAFE)), "UInt64"),
    "int32[pyarrow]": (missing_too(whole(-(2**31), 2**31 - 1)), "int32[pyarrow]"),
    "float32": (missing_too(SINGLES), "float32"),
    "float64": (missing_too(REALS), "float64"),
    "Float64": (missing_too(REALS), "Float64"),
    "double[pyarrow]": (missing_too(REALS), "double[pyarrow]"),
    "Sparse[float64]": (missing_too(REALS), "Sparse[float64]"),
    "object": (missing_too(TEXTS | whole(-SAFE, SAFE) | REALS | st.booleans()), "object"),
    "string": (missing_too(TEXTS), "string"),
    "string[pyarrow]": (missing_too(TEXTS), pd.ArrowDtype(pa.string())),
    "category": (missing_too(st.sampled_from(["a", "b", "<c>"])), "category"),
    "datetime64[ns]": (missing_too(INSTANTS), "datetime64[ns]"),
    "datetime64[ns, tz]": (
        missing_too(INSTANTS.map(lambda at: at.tz_localize("UTC"))),
        "datetime64[ns, Europe/Berlin]",
    ),
    "timestamp[ns][pyarrow]": (missing_too(INSTANTS), "timestamp[ns][pyarrow]"),
    "timedelta64[ns]": (missing_too(SPANS), "timedelta64[ns]"),
    "duration[ns][pyarrow]": (missing_too(SPANS), "duration[ns][pyarrow]"),
    "dates": (missing_too(CLOCKS.map(dt.datetime.date)), "object"),
    "datetimes": (missing_too(CLOCKS), "object"),
    "times": (missing_too(CLOCKS.map(dt.datetime.time)), "object"),
}


def same(put: Any, got: Any) -> bool:
    """Whether a cell came back as the rule says; nothing of the code under test is asked."""
    if put is None or put is pd.NA or put is pd.NaT or (isinstance(put, float) and np.isnan(put)):
        return got is None or bool(pd.isna(got))
    if isinstance(put, pd.Timestamp):
        return isinstance(got, str) and pd.Timestamp(got) == put
    if isinstance(put, pd.Timedelta):
        return isinstance(got, str) and pd.Timedelta(got) == put
    if isinstance(put, dt.date | dt.time):
        return isinstance(got, str) and type(put).fromisoformat(got) == put
    if isinstance(put, bool | np.bool_ | str):
        return type(got) in (bool, np.bool_, str) and got == put
    return not isinstance(got, bool | str | None) and float(got) == float(put)


@pytest.mark.parametrize("kind", COLUMNS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_what_goes_in_comes_back(kind: str, data: st.DataObject) -> None:
    cells, dtype = COLUMNS[kind]
    values = data.draw(st.lists(cells, min_size=1, max_size=12))
    frame = pd.DataFrame({"nr": range(len(values)), "x": pd.Series(values, dtype=dtype)})

    async def there_and_back() -> pd.DataFrame:
        queue = OutboxQueue[Any](MemoryCache())
        await queue.hydrate(KEY)
        await enqueue_frame(queue, frame, id="nr")
        back: pd.DataFrame = to_frame(queue)
        return back

    back = asyncio.run(there_and_back())
    assert list(back.columns) == [*OURS, "nr", "x"]
    assert list(back["nr"]) == list(range(len(values)))
    put = frame["x"].astype(object).tolist()
    got = back["x"].astype(object).tolist()
    assert [(one, other) for one, other in zip(put, got, strict=True) if not same(one, other)] == []


def test_the_judge_of_that_notices_a_change() -> None:
    at = pd.Timestamp("2026-01-02T03:04:05.000000006")
    changed: list[tuple[Any, Any]] = [
        (1, 2),
        (1, True),
        (True, 1),
        (1.5, 1.25),
        (None, 0),
        ("a", "b"),
        (at, str(at)[:-1]),
    ]
    changed += [
        (1, None),
        (pd.Timedelta(-1), "PT0.000000001S"),
        (dt.time(1), "01:00:01"),
        (0.1, float(np.float32(0.1))),
    ]
    assert [pair for pair in changed if same(*pair)] == []


def test_every_cell_has_its_form_in_json() -> None:
    berlin = pd.Timestamp("2026-07-02 03:04:05.5", tz="Europe/Berlin")
    for cell, form in [
        (berlin, "2026-07-02T03:04:05.500000+02:00"),
        (pd.Timestamp("2026-01-02 00:00:00.000000006"), "2026-01-02T00:00:00.000000006"),
        (np.datetime64("2026-01-02"), "2026-01-02"),
        (np.datetime64("NaT"), None),
        (dt.time(1, 2, tzinfo=dt.UTC), "01:02:00+00:00"),
        (np.float32("nan"), None),
        (np.str_("a"), "a"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(["2026-01-02"], dtype="datetime64[D]"), ["2026-01-02"]),
        (np.array(5), 5),
        ([np.nan, pd.NaT, pd.NA, (np.int8(1),)], [None, None, None, [1]]),
        ({"at": berlin, "x": {"y": np.nan}}, {"at": "2026-07-02T03:04:05.500000+02:00", "x": {"y": None}}),
    ]:
        assert plain(cell) == form
        assert type(plain(cell)) is type(form)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (dt.timedelta(0), "PT0S"),
        (dt.timedelta(days=2), "P2D"),
        (dt.timedelta(days=1, hours=2, minutes=3, seconds=4.5), "P1DT2H3M4.5S"),
        (dt.timedelta(days=-1, hours=-2), "-P1DT2H"),
        (dt.timedelta(microseconds=-1), "-PT0.000001S"),
        (pd.Timedelta(1), "PT0.000000001S"),
        (pd.Timedelta(hours=36), "P1DT12H"),
    ],
)
def test_a_time_span_is_an_iso_duration(value: dt.timedelta, text: str) -> None:
    assert span(value) == text
    assert pd.Timedelta(text) == value


async def test_a_frame_has_sensible_columns(opened: Opener, clock: ManualClock) -> None:
    cache = PlainCache()
    error = {"type": "Oops", "message": "no", "at": 5}
    cache.texts[KEY] = json.dumps(
        [
            {"id": "a", "item": {"n": 1, "b": True, "s": "x", "r": 1.5, "m": [1], "id": "mine", "item.id": 5}},
            {"id": "b", "item": {"n": None, "b": None, "r": 2, "m": "t", "late": 1}, "lastError": error},
            {"id": "c", "item": [1, 2], "status": "failed", "attempts": 3, "nextAttemptAt": 1_700_000_000_123},
            {"id": "d", "item": {"item": 0, "big": 2**60}, "status": 7, "enqueuedAt": 1e17},
            {"id": "e", "item": {"s": "\ud800"}},
        ]
    )
    frame = to_frame(await opened(cache))
    assert list(frame.columns) == [
        *OURS,
        *["n", "b", "s", "r", "m", "item.id", "item.item.id", "late", "item", "item.item", "big"],
    ]
    dtypes = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert dtypes["attempts"] == "int64"
    assert dtypes["enqueued_at"] == dtypes["next_attempt"] == "datetime64[ms, UTC]"
    assert (dtypes["n"], dtypes["b"], dtypes["r"], dtypes["big"]) == ("Int64", "boolean", "float64", "Int64")
    assert frame["m"].tolist()[:2] == [[1], "t"]
    assert frame["item"].tolist()[2] == [1, 2]
    assert frame["item.id"].tolist()[0] == "mine"
    assert frame["big"].tolist()[3] == 2**60
    assert frame["s"].tolist()[4] == "\ud800"
    assert frame["last_error"].tolist()[1] == "Oops: no"
    assert frame["next_attempt"][2] == pd.Timestamp(1_700_000_000_123, unit="ms", tz="UTC")
    assert frame["enqueued_at"].isna().tolist() == [False, False, False, True, False]
    assert frame["status"].tolist() == ["queued", "queued", "failed", "7", "queued"]
    assert to_frame(await opened(MemoryCache(), "outbox.none")).shape == (0, 6)


async def test_fixed_rows_are_queued_again_and_what_is_not_parked_is_told(queue: OutboxQueue[Any]) -> None:
    await queue.enqueue_many(
        [("a", {"x": -1, "keep": [1], "id": 5}), ("b", {"x": -2}), ("c", -3), ("d", {"x": 1}), ("e", {"x": 1})]
    )
    for id in "abcd":
        await queue.mark_failed(id)
    frame = to_frame(queue, status="failed")
    assert list(frame["id"]) == list("abcd")
    await queue.retry("d")
    frame["x"] = frame["x"].abs()
    frame["item"] = [None, None, 3, None]
    extra = pd.DataFrame({"id": ["e", "gone"], "x": [2, 2]})
    done = await requeue_frame(queue, pd.concat([frame, extra]))
    assert done == Requeued(("a", "b", "c"), ("d", "e", "gone"))
    assert repr(done) == "<Requeued: 3 queued again, 3 not parked any more>"
    assert {entry.id: entry.item for entry in queue.get()} == {
        "a": {"x": 1, "keep": [1], "id": 5},
        "b": {"x": 2},
        "c": 3,
        "d": {"x": 1},
        "e": {"x": 1},
    }
    assert {(entry.status, entry.attempts) for entry in queue.get() if entry.id in "abc"} == {("queued", 0)}


async def test_a_frame_of_the_columns_that_change_is_enough(queue: OutboxQueue[Any]) -> None:
    await queue.enqueue_many([("a", {"x": 1, "y": 2}), ("b", {"x": 1})])
    await queue.mark_failed("a")
    await queue.mark_failed("b")
    frame = pd.DataFrame({"id": ["a", "b"], "y": [None, None], "z": [None, "new"]})
    await requeue_frame(queue, frame)
    assert [entry.item for entry in queue.get()] == [{"x": 1, "y": None}, {"x": 1, "z": "new"}]


async def test_rows_that_cannot_be_requeued_are_told_and_nothing_changes(queue: OutboxQueue[Any]) -> None:
    await queue.enqueue_many([("a", {"x": 1}), ("b", {"x": 1}), ("c", {"x": 1})])
    for id in "abc":
        await queue.mark_failed(id)
    frame = pd.DataFrame({"id": ["a", "b", "b", 7, "c"], "x": pd.Series([b"1", 2, 3, 4, 5], dtype=object)})
    with pytest.raises(FrameError) as caught:
        await requeue_frame(queue, frame)
    assert [(bad.number, bad.column) for bad in caught.value.rows] == [(0, "x"), (2, "id"), (3, "id")]
    assert queue.counts().failed == 3
    done = await requeue_frame(queue, frame, on_bad="skip")
    assert done.requeued == ("b", "c")
    assert len(done.skipped) == 3
    with pytest.raises(ValueError, match="no column 'id'"):
        await requeue_frame(queue, pd.DataFrame({"x": [1]}))


async def test_many_rows_are_queued_again_in_few_commits(queue: OutboxQueue[Any]) -> None:
    await queue.enqueue_many((f"{number}", {"x": 1}) for number in range(3_000))
    await asyncio.gather(*(queue.mark_failed(f"{number}") for number in range(3_000)))
    commits: list[int] = []
    queue.subscribe(lambda: commits.append(queue.counts().failed))
    frame = to_frame(queue).assign(x=2)
    assert len((await requeue_frame(queue, frame)).requeued) == 3_000
    assert len(commits) < 10
    assert {entry.item["x"] for entry in queue.get()} == {2}


async def test_polars_and_arrow_frames_do_as_well(opened: Opener) -> None:
    columns: dict[str, list[Any]] = {
        "nr": [1, 2, 3],
        "real": [1.5, None, float("nan")],
        "ok": [True, None, False],
        "name": ["a", "<b>", None],
        "at": [dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC), None, None],
        "day": [dt.date(2026, 1, 2), None, None],
        "span": [dt.timedelta(hours=25), None, None],
        "list": [[1, None], [], None],
        "struct": [{"x": 1.5, "at": dt.date(2026, 1, 2)}, {"x": None, "at": None}, None],
    }
    first = {
        "nr": 1,
        "real": 1.5,
        "ok": True,
        "name": "a",
        "at": "2026-01-02T03:04:05.000006+00:00",
        "day": "2026-01-02",
        "span": "P1DT1H",
        "list": [1, None],
        "struct": {"x": 1.5, "at": "2026-01-02"},
    }
    for key, frame in (("outbox.polars", pl.DataFrame(columns)), ("outbox.arrow", pa.table(columns))):
        queue = await opened(MemoryCache(), key)
        done = await enqueue_frame(queue, frame, id="nr")
        assert done.added == ("1", "2", "3")
        assert queue.get()[0].item == first
        assert queue.get()[2].item == {**dict.fromkeys(columns), "nr": 3, "ok": False}
        for library in ("polars", "pyarrow"):
            back = to_frame(queue, library=library)
            names = back.columns if library == "polars" else back.column_names
            assert names == [*OURS, *columns]
            rows = back.to_dicts() if library == "polars" else back.to_pylist()
            assert rows[0]["real"] == 1.5
            assert rows[0]["list"] == "[1,null]"  # a mix of kinds is JSON text there
            assert rows[0]["enqueued_at"] == dt.datetime.fromtimestamp(1_700_000_000, dt.UTC)
        await queue.mark_failed("2")
        fixed = to_frame(queue, status="failed", library="polars").select("id", pl.lit("c").alias("name"))
        assert (await requeue_frame(queue, fixed)).requeued == ("2",)
        assert queue.get()[1].item["name"] == "c"


async def test_nanoseconds_are_not_cut_off_in_silence(queue: OutboxQueue[Any]) -> None:
    kinds: list[Any] = [pl.Datetime("ns"), pl.Duration("ns"), pl.Time]
    for kind in kinds:
        frame = pl.DataFrame({"nr": [1, 2], "x": pl.Series([1000, 1001]).cast(kind)})
        with pytest.raises(FrameError) as caught:
            await enqueue_frame(queue, frame, id="nr")
        assert [(bad.number, bad.column) for bad in caught.value.rows] == [(1, "x")]
    nested = pl.DataFrame({"nr": [1, 2], "x": pl.Series([[1], None]).cast(pl.List(pl.Datetime("ns")))})
    arrow = pa.table({"nr": [1], "x": pa.array([1001], pa.time64("ns"))})
    for lossy in (nested, arrow):
        with pytest.raises(FrameError, match="column 'x'"):
            await enqueue_frame(queue, lossy, id="nr")
    kept = pa.table({"nr": [1], "x": pa.array([1001], pa.timestamp("ns"))})
    await enqueue_frame(queue, kept, id="nr")
    assert queue.get()[0].item["x"] == "1970-01-01T00:00:00.000001001"


def test_pandas_is_needed_for_its_own_frames_alone() -> None:
    program = """
import asyncio, datetime, sys
sys.modules["pandas"] = None  # as if it were not installed
import polars
from starfish_outbox import MemoryCache, OutboxQueue
from starfish_outbox.notebook.frames import enqueue_frame, to_frame

async def main():
    queue = OutboxQueue(MemoryCache())
    await queue.hydrate("outbox.me")
    at = datetime.datetime(2026, 1, 2)
    print(await enqueue_frame(queue, polars.DataFrame({"nr": [1, 2], "at": [at, None]}), id="nr"))
    print(to_frame(queue, library="polars").select("id", "at").rows())
    try:
        to_frame(queue)
    except ModuleNotFoundError as error:
        print(error)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "<Enqueued: 2 added>",
        "[('1', '2026-01-02T00:00:00'), ('2', None)]",
        "pandas is not installed: pip install pandas, or ask for a frame of another library "
        "(library='polars' or library='pyarrow')",
    ]


async def test_a_library_that_nobody_knows_is_said(queue: OutboxQueue[Any]) -> None:
    with pytest.raises(ValueError, match="pandas, polars, pyarrow"):
        to_frame(queue, library="dask")  # type: ignore[arg-type]
