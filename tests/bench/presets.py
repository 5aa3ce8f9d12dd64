"""How much is measured: in two minutes, a quarter of an hour, or an hour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Preset:
    """Sizes, rounds and limits. Seconds.

    Attributes:
        sizes: how many entries wait.
        bulk: at which of these lengths many at once are measured, too.
        rounds: at most.
        least: rounds that are made in any case.
        lone: operations one after the other in a round.
        seconds: after so many, a workload of one system in one round is cut short.
        slowest: a system is not tried at a length at which one enqueue is expected to take longer.
        rounds_end: no round begins after so many.
        fill: a system that needs longer to be filled is stopped.
        openings: how often each system is opened, at the shortest and at the longest of ``open_sizes``.
        csv_rows: of the CSV, at most; None: the penguins.
    """

    sizes: tuple[int, ...]
    bulk: tuple[int, ...]
    rounds: int
    least: int
    lone: int
    seconds: float
    slowest: float
    rounds_end: float
    fill: float
    open_sizes: tuple[int, int]
    openings: int
    imports: int
    pair: int
    csv_rows: int | None

    @property
    def standard(self) -> int:
        """The length for what is measured at one length only."""
        return self.bulk[0]


AT_ONCE: Final = 1_000

TINY: Final = Preset((10,), (10,), 1, 1, 5, 0.3, 0.5, 1.0, 10.0, (0, 10), 1, 1, 5, None)
"""For the tests of the benchmark itself."""

QUICK: Final = Preset((100, 10_000), (10_000,), 5, 2, 15, 0.25, 1.0, 60.0, 10.0, (100, 10_000), 1, 5, 40, None)
DEFAULT: Final = Preset(
    (100, 1_000, 10_000, 100_000), (1_000, 100_000), 9, 3, 25, 1.0, 3.0, 500.0, 60.0, (100, 100_000), 3, 15, 200, 5_000
)
FULL: Final = Preset(
    (100, 1_000, 10_000, 100_000, 1_000_000),
    (1_000, 10_000, 100_000),
    15,
    3,
    30,
    2.0,
    3.0,
    2_400.0,
    240.0,
    (100, 100_000),
    5,
    25,
    500,
    None,
)
