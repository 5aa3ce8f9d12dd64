"""How many sends at a time, and how many a second: pure, given the time.

1. The first send of a pass goes alone: while nobody answers, one call finds out, not as many as may run side by side.
2. Sends are spread evenly over a second; a late one may catch up a little, so that timers that come late cost nothing.
3. Adaptive: when the server asks to wait, as many at a time and as many a second as half of what got through; with each
   quiet second a little more again (additive increase, multiplicative decrease, as TCP does it).
"""

from __future__ import annotations

from collections import deque
from typing import Final

_CATCH_UP: Final = 0.05  # seconds
_WINDOW: Final = 1.0  # seconds over which what got through is counted


class Pace:
    """The pace of one drain; kept over its passes.

    Args:
        concurrency: sends under way at a time at most.
        rate: sends a second at most, or None.
        adaptive: whether to go slower when the server asks for it.
    """

    def __init__(self, concurrency: int, rate: float | None, *, adaptive: bool) -> None:
        self._most = concurrency
        self._top_rate = rate
        self._adaptive = adaptive
        self._limit = concurrency
        self._rate = rate
        self._next = 0.0
        self._reached = False
        self._told = False
        self._through: deque[float] = deque()
        self._grown = 0.0

    @property
    def at_a_time(self) -> int:
        """How many sends may be under way now."""
        return self._limit if self._reached else 1

    @property
    def rate(self) -> float | None:
        """How many a second now; None: as many as can be."""
        return self._rate

    def begin(self) -> None:
        """A pass begins: nobody has answered yet."""
        self._reached = self._told = False

    def wait(self, now: float) -> float:
        """Seconds until the next send may start."""
        return 0.0 if self._rate is None else max(0.0, self._next - now)

    def started(self, now: float, count: int = 1) -> None:
        """So many entries are on their way."""
        if self._rate is not None:
            self._next = max(self._next, now - _CATCH_UP) + count / self._rate

    def answered(self, now: float, count: int = 1) -> None:
        """Somebody is there, and so many got through."""
        self._reached = True
        if not self._adaptive:
            return
        self._through.extend([now] * count)
        self._forget(now)
        if now - self._grown >= _WINDOW:
            self._grown = now
            self._limit = min(self._most, self._limit + 1)
            if self._rate is not None:
                self._rate *= 1.1
                top = self._top_rate
                if top is not None:
                    self._rate = min(self._rate, top)

    def told_to_wait(self, now: float) -> None:
        """The server says later; what else is under way will be told the same, and counts once."""
        if not self._adaptive or self._told:
            return
        self._told = True
        self._forget(now)
        self._limit = max(1, self._limit // 2)
        before = self._rate or float(self._most)
        self._rate = max(1.0, (len(self._through) / _WINDOW or before) / 2)
        self._grown = now
        self._through.clear()

    def _forget(self, now: float) -> None:
        while self._through and self._through[0] <= now - _WINDOW:
            self._through.popleft()
