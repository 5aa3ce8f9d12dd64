"""What must hold, computed from a record: a ratio, its spread over the rounds, and whether the goal is met."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from rich.console import Console
from rich.table import Table

from tests.bench.record import Key, Record, Spread, spread
from tests.bench.systems import BY_NAME

Side: TypeAlias = Literal["at least", "at most"]
MODES: Final = (("ours-sqlite", "raw-sqlite", ""), ("ours-wal", "raw-wal", "WAL: "))


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    Attributes:
        text: what is compared.
        side: whether the limit is to be reached or not to be passed.
        limit: of the ratio, or of the figure where there is a unit.
        found: what was measured; None where it was not.
        why_not: why there is nothing.
    """

    text: str
    side: Side
    limit: float
    found: Spread | None
    unit: str = ""
    why_not: str = ""

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        if self.found is None:
            return None
        return self.found.middle >= self.limit if self.side == "at least" else self.found.middle <= self.limit


class Judge:
    """The goals, one after the other, from one record."""

    def __init__(self, record: Record) -> None:
        self.record = record
        sizes = record.sizes("at once") or record.sizes("lone") or [0]
        self.standard = sizes[0]

    def goals(self) -> list[Goal]:
        """All of them, in the order of the issue."""
        return [
            *self._growths(),
            *self._against_raw(),
            *self._against_peers(),
            *self._against_published(),
            *self._opening(),
            *self._others(),
        ]

    def _growths(self) -> list[Goal]:
        found = []
        for ours, raw, mode in MODES:
            for workload in ("lone", "drain 1"):
                for long in (100_000, 1_000_000):
                    keys: list[Key] = [
                        (ours, workload, long), (ours, workload, 100), (raw, workload, long), (raw, workload, 100),
                    ]  # fmt: skip
                    measured = self.record.combine(lambda v: (v[0] / v[1]) / (v[2] / v[3]), *keys)
                    text = f"{mode}growth of {_says(workload)}, 100 → {long:,}, beyond R's own"
                    found.append(self._goal(text, "at most", 1.15, measured, keys))
        return found

    def _against_raw(self) -> list[Goal]:
        found = []
        n = self.standard
        for ours, raw, mode in MODES:
            found += [
                self._faster(f"{mode}lone enqueue against R", 0.8, (raw, "lone", n), (ours, "lone", n)),
                self._faster(
                    f"{mode}1,000 at once against R, 100 rows a commit", 1.0, (raw, "at once", n), (ours, "at once", n)
                ),
                self._faster(
                    f"{mode}enqueue_many against the same R", 1.5, (raw, "at once", n), (ours, "enqueue_many", n)
                ),
                self._faster(
                    f"{mode}drain, one at a time, against R's two commits an entry",
                    1.6,
                    (raw, "drain 1", n),
                    (ours, "drain 1", n),
                ),
                self._counts(
                    f"{mode}commits an entry: fsyncs of that drain, in terms of a lone enqueue's", 1.1,
                    (ours, "counts drain 1", 100), (ours, "counts lone", 100), "fsyncs",
                ),
            ]  # fmt: skip
        return found

    def _against_peers(self) -> list[Goal]:
        n = self.standard
        found = []
        for ours, mode, ack, lite in (("ours-sqlite", "", 8.0, 2.0), ("ours-wal", "WAL: ", 15.0, 4.0)):
            for peer, limit in (("persist-queue", ack), ("litequeue", lite)):
                text = f"{mode}drain, 16 at a time, against {BY_NAME[peer].label}"
                found.append(self._faster(text, limit, (peer, "drain 1", n), (ours, "drain 16", n)))
        for peer in ("persist-queue", "huey"):
            text = f"WAL: lone enqueue against {BY_NAME[peer].label}"
            found.append(self._faster(text, 1.0, (peer, "lone", n), ("ours-wal", "lone", n)))
        return found

    def _against_published(self) -> list[Goal]:
        found = []
        for ours, mode, times in (("ours-sqlite", "", 1), ("ours-wal", "WAL: ", 3)):
            for n, enqueue, drain in ((10_000, 100.0, 200.0), (100_000, 1_000.0, 2_000.0)):
                for workload, limit in (("lone", enqueue), ("drain 1", drain)):
                    text = f"{mode}{_says(workload)} against the published Python at {n:,}"
                    found.append(
                        self._faster(text, limit * times, ("published-python", workload, n), (ours, workload, n))
                    )
        for workload, limit, says in (("lone", 12.0, "one by one"), ("at once", 200.0, "in bulk")):
            text = f"FileCache against the published Python at 100,000, {says}"
            keys = (("published-python", workload, 100_000), ("ours-file", workload, 100_000))
            found.append(self._faster(text, limit, *keys))
        return found

    def _opening(self) -> list[Goal]:
        n = 100_000
        ours, python, typescript = ("ours-sqlite", "open", n), "published-python", "published-typescript"
        megabytes = _scaled(self.record.spread(ours, "resident_kib"), 1 / 1024)
        return [
            self._faster(f"open with {n:,} waiting against the published Python", 3.0, (python, "open", n), ours),
            self._faster("the same against TypeScript", 1.4, (typescript, "open", n), ours),
            self._goal("resident after it", "at most", 90.0, megabytes, [ours], "MB"),
        ]  # fmt: skip

    def _others(self) -> list[Goal]:
        record, n = self.record, self.standard
        hit = ("ours-sqlite", "dedup", 100_000)
        found = [self._goal("dedup hit at 100,000", "at most", 5.0, _scaled(record.spread(hit), 1e6), [hit], "µs")]
        for ours, raw, mode in MODES:
            late = (ours, "lateness", n)
            idle = record.rounds(late, "idle")
            ratio = spread(busy / idle[number] for number, busy in record.rounds(late).items() if number in idle)
            text = f"{mode}loop lateness p99 while enqueuing, in terms of idle"
            found.append(self._goal(text, "at most", 3.0, ratio, [late]))
            for workload, limit, says in (("lone", 1.2, "a lone enqueue"), ("at once", 1.0, "in bulk")):
                keys = ((ours, f"counts {workload}", 100), (raw, f"counts {workload}", 100))
                found.append(self._counts(f"{mode}bytes written {says} against R", limit, *keys, "bytes"))
        key = ("ours-sqlite", "import", 0)
        text = "import starfish_outbox, beyond bare Python"
        return [*found, self._goal(text, "at most", 40.0, _scaled(record.spread(key), 1e3), [key], "ms")]

    def _faster(self, text: str, limit: float, theirs: Key, ours: Key) -> Goal:
        return self._goal(text, "at least", limit, self.record.ratio(theirs, ours), [ours, theirs])

    def _counts(self, text: str, limit: float, over: Key, under: Key, field: str) -> Goal:
        return self._goal(text, "at most", limit, self.record.ratio(over, under, field), [over, under])

    def _goal(
        self,
        text: str,
        side: Side,
        limit: float,
        found: Spread | None,
        keys: list[Key],
        unit: str = "",
    ) -> Goal:
        why = ""
        if found is None:
            why = next((reason for key in keys if (reason := self.record.why_not(key))), "not measured")
        return Goal(text, side, limit, found, unit, why)


def show(record: Record, console: Console) -> None:
    """The table of the goals."""
    table = Table(title="What must hold", title_justify="left", title_style="bold")
    for column, justify in (
        ("goal", "left"),
        ("limit", "right"),
        ("measured", "right"),
        ("middle half", "right"),
        ("", "left"),
    ):
        table.add_column(column, justify="left" if justify == "left" else "right")
    goals = Judge(record).goals()
    for goal in goals:
        sign = "≥" if goal.side == "at least" else "≤"
        measured, half = _cells(goal)
        verdict = {True: "[green]met[/]", False: "[red]not met[/]", None: f"[dim]{goal.why_not.partition(':')[0]}[/]"}[
            goal.met
        ]
        table.add_row(goal.text, f"{sign} {goal.limit:,g}{_unit(goal)}", measured, half, verdict)
    console.print(table)
    counts = [sum(goal.met is value for goal in goals) for value in (True, False, None)]
    console.print(f"{counts[0]} met, {counts[1]} not met, {counts[2]} without a figure")


def _cells(goal: Goal) -> tuple[str, str]:
    if goal.found is None:
        return "", ""
    middle, low, high, rounds = goal.found
    return f"{digits(middle)}{_unit(goal)}", f"{digits(low)} to {digits(high)} ({rounds})"


def _unit(goal: Goal) -> str:
    return f" {goal.unit}" if goal.unit else ""


def digits(value: float) -> str:
    """Three significant digits, no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def _scaled(found: Spread | None, by: float) -> Spread | None:
    return None if found is None else Spread(found.middle * by, found.low * by, found.high * by, found.rounds)


def _says(workload: str) -> str:
    return {"lone": "one durable enqueue", "drain 1": "claim + remove"}[workload]
