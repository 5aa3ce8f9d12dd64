"""The record: one line of JSON a measurement, and what is read out of it: medians, spreads, ratios within rounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeAlias

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str, int]
"""System, workload, entries waiting."""


class Spread(NamedTuple):
    """A median, and the middle half of the rounds around it."""

    middle: float
    low: float
    high: float
    rounds: int


def spread(values: Iterable[float]) -> Spread | None:
    """Of some rounds; None of none."""
    ordered = sorted(values)
    if not ordered:
        return None
    last = len(ordered) - 1
    return Spread(median(ordered), ordered[last // 4], ordered[last - last // 4], len(ordered))


class Record:
    """What was measured.

    Attributes:
        rows: as written. Seconds, bytes and KiB. A row with ``stopped`` says why there is no figure.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        self._by_key: dict[Key, dict[int, Row]] = {}
        self._stopped: dict[Key, str] = {}
        for row in self.rows:
            key = (row["system"], row["workload"], row["n"])
            if "stopped" in row:
                self._stopped[key] = row["stopped"]
            else:
                self._by_key.setdefault(key, {})[row["round"]] = row

    @classmethod
    def load(cls, path: Path) -> Record:
        """From a file; a last line that was cut off is left out."""
        lines = path.read_text("utf-8").split("\n")[:-1]
        return cls(json.loads(line) for line in lines)

    @property
    def about(self) -> Row:
        """Commit, versions and machine: the same in every row of a run."""
        return self.rows[0] if self.rows else {}

    def systems(self, workload: str) -> list[str]:
        """Those that have figures of it."""
        return list(dict.fromkeys(system for system, name, _ in self._by_key if name == workload))

    def workloads(self) -> list[str]:
        return list(dict.fromkeys(row["workload"] for row in self.rows))

    def sizes(self, workload: str, system: str | None = None) -> list[int]:
        """The lengths at which there are figures."""
        return sorted({n for one, name, n in self._by_key if name == workload and system in (None, one)})

    def rounds(self, key: Key, field: str = "wall") -> Mapping[int, float]:
        """Each round's figure."""
        return {
            number: float(row[field]) for number, row in self._by_key.get(key, {}).items() if row.get(field) is not None
        }

    def spread(self, key: Key, field: str = "wall") -> Spread | None:
        """Over the rounds; None where nothing was measured."""
        return spread(self.rounds(key, field).values())

    def why_not(self, key: Key) -> str:
        """Why there is no figure: what stopped it, or that nobody measured it."""
        system, _, n = key
        return self._stopped.get(key) or self._stopped.get((system, "", n)) or self._stopped.get((system, "", 0)) or ""

    def ratio(self, over: Key, under: Key, field: str = "wall") -> Spread | None:
        """Within each round, so that what slows the machine down slows both."""
        return self.combine(lambda values: values[0] / values[1], over, under, field=field)

    def combine(self, formula: Callable[[list[float]], float], *keys: Key, field: str = "wall") -> Spread | None:
        """A formula of several figures, computed in each round that has them all."""
        found = [self.rounds(key, field) for key in keys]
        shared = [number for number in found[0] if all(number in one for one in found)]
        return spread(formula([one[number] for one in found]) for number in shared)
