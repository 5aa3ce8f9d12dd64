"""Pictures of a record, as SVG for light and dark backgrounds: cost against queue length, and throughput by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.goals import digits
from tests.bench.record import Record, Spread
from tests.bench.svg import Drawing, Point, spread_out
from tests.bench.systems import CLASSES, SYSTEMS, System

FOLDER: Final = Path(__file__).with_name("pictures")

_COLOURS: Final = {"ours-sqlite": "ours", "ours-wal": "wal", "ours-file": "file", "ours-memory": "ours"}
_WIDTH: Final = 960


def draw(record: Record, folder: Path) -> list[Path]:
    """Draw what there are figures for; the files that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {
        "enqueue": _growth(record, "lone", "One durable enqueue, by how many entries are waiting"),
        "drain": _growth(record, "drain 1", "Claim, send and remove one entry, by how many are waiting"),
        "throughput": _throughput(record),
    }
    written = []
    for name, drawing in drawings.items():
        if drawing is not None:
            path = folder / f"{name}.svg"
            path.write_text(str(drawing), "utf-8")
            written.append(path)
    return written


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis: a range of values on a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return self.start + share * (self.end - self.start)

    def decades(self) -> list[float]:
        """The powers of ten on it."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def _growth(record: Record, workload: str, title: str) -> Drawing | None:
    """Two panels with the same axes: what is synced, and what is not."""
    sizes = record.sizes(workload)
    panels = [
        (
            [system for system in SYSTEMS if system.durability in classes and record.sizes(workload, system.name)],
            classes,
        )
        for classes in ("A", "BD")
    ]
    systems = [system for shown, _ in panels for system in shown]
    if len(sizes) < 2 or not systems:
        return None
    values = [value for system in systems for n in sizes if (value := _middle(record, system, workload, n)) is not None]
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    top, bottom = 92.0, 470.0
    drawing = Drawing(_WIDTH, 550, title, "Cost against queue length on logarithmic axes, for each system a line.")
    drawing.text((24, 30), title, bold=True, size=18)
    drawing.text(
        (24, 52), "Median of the rounds, both axes logarithmic. A flat line costs the same at any length.", "soft"
    )
    costs = Axis(low, high, bottom, top)
    for (shown, classes), (left, right, labels) in zip(
        panels, ((76.0, 380.0, 178.0), (634.0, 790.0, 160.0)), strict=True
    ):
        lengths = Axis(sizes[0] / 1.25, sizes[-1] * 1.25, left, right)
        heading = "Synced before it is acknowledged (A)" if classes == "A" else "Not synced (B), or memory (D)"
        drawing.text((left, top - 14), heading, bold=True)
        _frame(drawing, costs, lengths, sizes, (left, right), (top, bottom), ticks=classes == "A")
        ends: list[tuple[System, Point]] = []
        for system in sorted(shown, key=_importance):
            points = _line(drawing, record, system, workload, sizes, lengths, costs)
            ends.append((system, points[-1]))
        _labels(drawing, ends, right, labels, (top, bottom))
        drawing.text(((left + right) / 2, bottom + 40), "entries waiting", "soft", anchor="middle")
    _caption(drawing, record, 538)
    return drawing


def _frame(
    drawing: Drawing,
    costs: Axis,
    lengths: Axis,
    sizes: Sequence[int],
    sides: tuple[float, float],
    heights: tuple[float, float],
    *,
    ticks: bool,
) -> None:
    for cost in costs.decades():
        y = costs(cost)
        drawing.line([(sides[0], y), (sides[1], y)], "grid")
        if ticks:
            drawing.text((sides[0] - 8, y + 4), duration(cost), "soft", anchor="end", size=12)
    for n in sizes:
        x = lengths(n)
        drawing.line([(x, heights[1]), (x, heights[1] + 5)], "soft")
        drawing.text((x, heights[1] + 20), length(n), "soft", anchor="middle", size=12)
    drawing.line([(sides[0], heights[1]), (sides[1], heights[1])], "soft")


def _line(
    drawing: Drawing,
    record: Record,
    system: System,
    workload: str,
    sizes: Sequence[int],
    lengths: Axis,
    costs: Axis,
) -> list[Point]:
    colour, thick = _colour(system), system.ours
    points = []
    for n in sizes:
        found = record.spread((system.name, workload, n))
        if found is None:
            continue
        points.append((lengths(n), costs(found.middle)))
        if thick:
            drawing.line([(lengths(n), _clamped(costs, found.low)), (lengths(n), _clamped(costs, found.high))], colour)
    drawing.line(points, colour, width=2.6 if thick else 1.4, dash="5 4" if system.reference else "")
    for point in points:
        drawing.dot(point, colour, 3.6 if thick else 2.2)
    return points


def _labels(
    drawing: Drawing, ends: list[tuple[System, Point]], right: float, width: float, heights: tuple[float, float]
) -> None:
    places = spread_out([point[1] for _, point in ends], 16.5, heights[0] + 4, heights[1] - 4)
    for (system, point), y in zip(ends, places, strict=True):
        drawing.line([(point[0] + 4, point[1]), (right + 14, y), (right + 18, y)], "grid")
        drawing.text((right + 22, y + 4), system.label, _ink(system), bold=system.ours, size=12.5)


def _throughput(record: Record) -> Drawing | None:
    """Bars: three things to do, the systems by class, each class on a scale of its own."""
    n = (record.sizes("at once") or [0])[0]
    shown = [system for system in SYSTEMS if record.spread((system.name, "lone", n)) is not None]
    if not shown:
        return None
    groups = [(durability, [one for one in shown if one.durability == durability]) for durability in CLASSES]
    groups = [(durability, members) for durability, members in groups if members]
    top, head = 96.0, 20.0
    height = top + sum(_ROW * len(members) + head + 14 for _, members in groups) + 34
    title = f"Entries a second, {n:,} waiting"
    drawing = Drawing(_WIDTH, round(height), title, "Bars by class of durability for three workloads.")
    drawing.text((24, 30), title, bold=True, size=18)
    drawing.text(
        (24, 52), "Medians. Each class of durability has scales of its own: they are not to be compared.", "soft"
    )
    width = (_WIDTH - 48 - _NAMES - 2 * _GAP) / len(_COLUMNS)
    lefts = [24 + _NAMES + place * (width + _GAP) for place in range(len(_COLUMNS))]
    for left, (heading, _) in zip(lefts, _COLUMNS, strict=True):
        drawing.text((left, top - 18), heading, bold=True)
    y = top
    for durability, members in groups:
        drawing.line([(24, y - 6), (_WIDTH - 24, y - 6)], "grid")
        drawing.text((24, y + 11), f"{durability}: {CLASSES[durability]}", "soft", size=12.5)
        _bars(drawing, record, members, n, y + head, [(left, width) for left in lefts])
        y += head + _ROW * len(members) + 14
    _caption(drawing, record, height - 12)
    return drawing


_ROW: Final = 21.0
_NAMES: Final = 178.0
_GAP: Final = 26.0
_COLUMNS: Final = (
    ("Enqueue, one by one", ("lone",)),
    ("Enqueue, 1,000 at once", ("at once",)),
    ("Drain (ours 16 at a time)", ("drain 16", "drain 1")),
)


def _bars(
    drawing: Drawing, record: Record, members: list[System], n: int, top: float, columns: list[tuple[float, float]]
) -> None:
    """Of one class, the fastest first, by the first column."""
    rates = [
        {one.name: 1 / found.middle for one in members if (found := _first(record, one, workloads, n)) is not None}
        for _, workloads in _COLUMNS
    ]
    ordered = sorted(members, key=lambda one: -rates[0].get(one.name, 0.0))
    for place, system in enumerate(ordered):
        y = top + place * _ROW
        drawing.text((24 + _NAMES - 10, y + 14.5), system.label, _ink(system), anchor="end", bold=system.ours)
        for (left, width), rated in zip(columns, rates, strict=True):
            rate = rated.get(system.name)
            if rate is None:
                continue
            end = max(1.5, (width - 52) * rate / max(rated.values()))
            colour = _colour(system)
            drawing.bar((left, y + 3), end, _ROW - 6, "floor" if colour == "raw" else colour)
            drawing.text((left + end + 6, y + 14.5), digits(rate), size=12)


def _first(record: Record, system: System, workloads: Sequence[str], n: int) -> Spread | None:
    found = (record.spread((system.name, workload, n)) for workload in workloads)
    return next((one for one in found if one is not None), None)


def _middle(record: Record, system: System, workload: str, n: int) -> float | None:
    found = record.spread((system.name, workload, n))
    return None if found is None else found.middle


def _clamped(axis: Axis, value: float) -> float:
    return axis(min(max(value, axis.low), axis.high))


def _colour(system: System) -> str:
    if system.name in _COLOURS:
        return _COLOURS[system.name]
    return "published" if system.name.startswith("published") else "raw" if system.reference else "peer"


def _ink(system: System) -> str:
    """The colour of its name, which needs more contrast than a line."""
    colour = _colour(system)
    return "soft" if colour == "peer" else colour


def _importance(system: System) -> int:
    """What is drawn last lies on top."""
    return 3 if system.ours else 2 if system.name.startswith("published") else 1 if system.reference else 0


def _caption(drawing: Drawing, record: Record, y: float) -> None:
    about = record.about
    words = (
        f"{about.get('file_system')}, {about.get('processors')} processors, Python {about.get('python')}, SQLite "
        f"{about.get('sqlite')}; commit {about.get('commit')}; items of about 200 bytes; drawn by make bench"
    )
    drawing.text((24, y), words, "soft", size=11)


def duration(seconds: float) -> str:
    """A power of ten of seconds, in the unit that reads best."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size * 0.999:
            return f"{seconds / size:g} {unit}"
    return f"{seconds / 1e-9:g} ns"


def length(n: int) -> str:
    """A number of entries, short."""
    return f"{n // 1_000_000}M" if n >= 1_000_000 else f"{n // 1_000}k" if n >= 1_000 else f"{n}"
