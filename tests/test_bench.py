"""The benchmark measures what it says: no system loses or reorders, each is of its class, figures come from records.

The peers take part where ``make bench`` has made ``.bench-venv``, the TypeScript package where ``interop/node_modules``
is; a test of one that is not there says so in its name.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, strategies as st

from tests.bench import goals, pictures
from tests.bench.__main__ import main
from tests.bench.counts import WAITING, counted
from tests.bench.presets import TINY
from tests.bench.process import Process, TooSlowError, UnavailableError, opened
from tests.bench.record import Record, Row
from tests.bench.running import WORKLOADS, Run
from tests.bench.svg import spread_out
from tests.bench.systems import BY_NAME, SYSTEMS, System
from tests.strace import why_not as nothing_can_be_traced

LONE = 5
SIZES = (100, 1_000, 10_000, 100_000)


def _id(system: System) -> str:
    why = system.why_not()
    return f"{system.name} is left out: {why}" if why else system.name


def _control(adapter: str) -> System:
    return System("control", adapter, "A", "tests.bench_controls", adapter)


def _faults(system: System, folder: Path) -> list[str]:
    """What is wrong with a system: its class as strace sees it, what a kill takes, what is sent, what stays."""
    found = []
    first = counted(system, folder, lone=LONE)
    lone = next(first)
    if lone.seen != system.durability:
        found.append(f"of class {lone.seen}")
    first.close()  # SIGKILL, in the middle
    with opened(system, folder) as process:
        kept = process.ask("count")["entries"]
        if kept != (0 if system.durability == "D" else WAITING + 3 + LONE):
            found.append("lost by a kill")
        if not kept:
            process.ask("fill", number=20)
        process.ask("at_once", number=10)
        before = process.ask("count")["entries"]
        sent = process.ask("drain", number=before, concurrency=1, ids=True)["ids"]
        numbers = [int(id, 16) * pow(0x9E3779B97F4A7C15, -1, 2**64) % 2**64 for id in sent]
        # Of the process that was killed, then of this one: each numbers what it adds from its own start.
        one, other = (numbers[:-10], numbers[-10:])
        if any(part != list(range(part[0], part[0] + len(part))) for part in (one, other)):
            found.append("out of order")
        if process.ask("count")["entries"] != 0:
            found.append("not removed")
        process.end()
    return found


@pytest.mark.skipif(bool(nothing_can_be_traced()), reason=nothing_can_be_traced() or "-")
@pytest.mark.parametrize("system", SYSTEMS, ids=_id)
def test_a_system_is_of_its_class_and_loses_reorders_and_keeps_nothing(system: System, tmp_path: Path) -> None:
    if why := system.why_not():
        assert system.peer or not system.module, why
        return
    try:
        found = _faults(system, tmp_path / "it")
    except UnavailableError as error:
        pytest.skip(str(error))
    assert found == []


@pytest.mark.skipif(bool(nothing_can_be_traced()), reason=nothing_can_be_traced() or "-")
@pytest.mark.parametrize(
    ("adapter", "fault"),
    [
        ("Unsynced", "of class B"),
        ("Forgetful", "lost by a kill"),
        ("Disordered", "out of order"),
        ("Doubling", "not removed"),
    ],
)
def test_a_system_that_is_wrong_is_caught(adapter: str, fault: str, tmp_path: Path) -> None:
    assert fault in _faults(_control(adapter), tmp_path / "it")


def test_a_system_that_is_too_slow_is_killed_and_said_to_be(tmp_path: Path) -> None:
    with Process(BY_NAME["raw-log"], tmp_path / "it") as process:
        process.ask("open")
        with pytest.raises(TooSlowError, match="no answer within 0 s"):
            process.ask("late", patience=0.05, seconds=60.0, number=1)
        assert not Path(f"/proc/{process.pid}/fd").exists()


def test_a_run_measures_every_workload_of_ours_and_raw_sqlite(tmp_path: Path) -> None:
    rows: list[Row] = []
    steps: list[str] = []
    only = [name for name in WORKLOADS if name not in ("counts", "csv", "import")]
    run = Run(TINY, [BY_NAME["ours-sqlite"], BY_NAME["raw-sqlite"]], tmp_path, only, rows.append, steps.append)
    run.run()
    assert run.failures == []
    record = Record(json.loads(json.dumps(rows)))
    for workload in only:
        for system in ("ours-sqlite", "raw-sqlite"):
            key = (system, workload, 10)
            if record.spread(key) is None:
                assert "one at a time" in record.why_not(key), key
                assert system == "raw-sqlite"
                assert workload.startswith("drain")
    assert {"commit", "python", "sqlite", "file_system", "version", "cpu", "count"} <= rows[0].keys()


def _row(system: str, workload: str, n: int, number: int, wall: float, **more: Any) -> Row:
    durability = BY_NAME[system].durability
    head = {"system": system, "durability": durability, "workload": workload, "n": n, "round": number}
    return {**head, "wall": wall, "cpu": wall / 2, "count": 1_000, "commit": "c0ffee", "python": "3.11", **more}


def _fixed_rows() -> list[Row]:
    """Three rounds; the second is of a machine that does something else, at half the speed."""
    rows = []
    for number, mood in enumerate((1.0, 2.0, 1.1)):
        for place, system in enumerate(SYSTEMS):
            for n in SIZES:
                if system.name == "ours-wal" or (system.name == "published-python" and n == 100_000):
                    continue
                wall = 1e-4 * (place + 1) * mood * (n / 100 if system.grows else 1)
                rows.append(_row(system.name, "lone", n, number, wall))
                rows.append(_row(system.name, "drain 1", n, number, 2 * wall))
            rows.append(_row(system.name, "at once", 1_000, number, 1e-5 * mood * (place + 1)))
        rows.append(_row("ours-sqlite", "drain 16", 1_000, number, 5e-3 * mood))
        rows.append(_row("ours-sqlite", "lateness", 1_000, number, 3e-4 * mood, idle=2e-4 * mood))
    stopped = {"system": "published-python", "durability": "A", "workload": "", "n": 100_000, "round": 0}
    rows.append({**stopped, "stopped": "stopped: one enqueue took 4.2 s"})
    rows.append({**stopped, "system": "ours-wal", "n": 0, "stopped": "not built: no such keyword"})
    return rows


def test_ratios_are_taken_within_rounds() -> None:
    record = Record(_fixed_rows())
    ratio = record.ratio(("raw-sqlite", "lone", 100), ("ours-sqlite", "lone", 100))
    assert ratio is not None
    assert ratio.middle == pytest.approx(7)
    assert ratio.low == pytest.approx(ratio.high)
    wall = record.spread(("ours-sqlite", "lone", 100))
    assert wall is not None
    assert wall.middle == pytest.approx(1.1e-4)
    assert wall.rounds == 3


def test_goals_are_computed_from_the_record_and_say_why_one_has_no_figure() -> None:
    found = {goal.text: goal for goal in goals.Judge(Record(_fixed_rows())).goals()}
    lone = found["lone enqueue against R"]
    assert lone.met is True
    assert found["drain, 16 at a time, against persist-queue Ack"].met is False
    assert lone.found is not None
    assert lone.found.middle == pytest.approx(7)
    assert found["loop lateness p99 while enqueuing, in terms of idle"].found is not None
    growth = found["growth of one durable enqueue, 100 → 100,000, beyond R's own"]
    assert growth.found is not None
    assert growth.found.middle == pytest.approx(1)
    against = found["one durable enqueue against the published Python at 10,000"]
    assert against.found is not None
    assert against.found.middle == pytest.approx(500)
    assert against.met is True
    assert found["one durable enqueue against the published Python at 100,000"].why_not.startswith("stopped")
    assert found["WAL: lone enqueue against R"].why_not.startswith("not built")
    assert found["dedup hit at 100,000"].why_not == "not measured"
    assert {goal.met for goal in found.values()} == {True, False, None}


def test_a_record_that_was_cut_off_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in _fixed_rows()]
    (tmp_path / "record.jsonl").write_text("\n".join(lines)[:-7], "utf-8")
    assert len(Record.load(tmp_path / "record.jsonl").rows) == len(lines) - 1


def test_pictures_name_every_system_that_was_measured_and_no_label_covers_another(tmp_path: Path) -> None:
    drawn = pictures.draw(Record(_fixed_rows()), tmp_path)
    assert [path.name for path in drawn] == ["enqueue.svg", "drain.svg", "throughput.svg"]
    for path in drawn:
        root = ET.fromstring(path.read_text("utf-8"))
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        texts = [one for one in root.iter() if one.tag.endswith("}text")]
        words = [one.text for one in texts]
        for system in SYSTEMS:
            assert words.count(system.label) == (0 if system.name == "ours-wal" else 1), (path.name, system.label)
        columns: dict[tuple[str, str], list[float]] = {}
        for one in texts:
            x, y = float(one.attrib["x"]), float(one.attrib["y"])
            assert 0 <= x <= width
            assert 10 <= y <= height
            columns.setdefault((one.attrib["x"], one.attrib["text-anchor"]), []).append(y)
        for heights in columns.values():
            heights.sort()
            assert all(below - above >= 12 for above, below in pairwise(heights)), path.name
        style = next(one.text for one in root.iter() if one.tag.endswith("}style"))
        assert style is not None
        assert "prefers-color-scheme: dark" in style


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert pictures.draw(Record([]), tmp_path) == []


@given(st.lists(st.floats(0, 400), min_size=1, max_size=20))
def test_labels_keep_their_order_and_their_distance_within_bounds(wanted: list[float]) -> None:
    placed = spread_out(wanted, 16.0, 0.0, 400.0)
    ordered = [placed[index] for index in sorted(range(len(wanted)), key=lambda index: wanted[index])]
    assert all(below - above >= 16 - 1e-6 for above, below in pairwise(ordered))
    assert ordered[0] >= -1e-6
    assert ordered[-1] <= 400 + 1e-6


def test_the_command_line_lists_what_there_is_and_refuses_what_there_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in [*WORKLOADS, *BY_NAME])
    record = tmp_path / "record.jsonl"
    assert main(["--goals", "--record", str(record)]) == 2
    for wrong in (["--systems", "rabbit"], ["--only", "nonsense"]):
        with pytest.raises(SystemExit) as ended:
            main([*wrong, "--record", str(record)])
        assert ended.value.code == 2
    record.write_text("".join(json.dumps(row) + "\n" for row in _fixed_rows()), "utf-8")
    capsys.readouterr()
    assert main(["--goals", "--markdown", "--record", str(record)]) == 0
    said = capsys.readouterr().out
    assert "not met" in said
    assert "| ours, SQLite | 110 | 110 |" in said
