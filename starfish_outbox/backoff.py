"""How long to wait before a try is repeated: pure, so that a table can test it.

1. Exponential with full jitter and a cap: between 0 and ``min(cap, base * 2**(tries - 1))`` seconds, all equally
   likely, so that a thousand laptops that lost one server do not come back at one moment.
2. A server's ``Retry-After`` is a floor, itself at most ``longest``; the jitter comes on top, or all would keep it to
   the second.
3. What is persisted is an instant of the wall clock, and wall clocks jump. An instant further away than any wait can
   be, or one that was set later than now, comes from a clock that was wrong: it is due. So no jump freezes an entry, or
   fires it early, by more than one wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MOST: Final = 1e9  # seconds: some thirty years; an instant of the wall clock stays a number that JavaScript keeps


@dataclass(frozen=True)
class Backoff:
    """A rule for waiting.

    Attributes:
        base: seconds; the first wait is at most this long, each further one up to twice as long.
        cap: seconds; no wait of our own is longer.
        longest: seconds; a server that asks for more is asked again after this.
    """

    base: float = 1.0
    cap: float = 300.0
    longest: float = 86_400.0

    def __post_init__(self) -> None:
        if not 0 < self.base <= self.cap <= self.longest <= _MOST:
            raise ValueError(
                f"a back-off needs 0 < base <= cap <= longest <= {_MOST:g}, not {self.base}, {self.cap}, {self.longest}"
            )

    def delay(self, tries: int, dice: float, retry_after: float | None = None) -> float:
        """Seconds to wait after so many tries that failed (from 1).

        Args:
            tries: how often it was tried; less than 1 counts as 1.
            dice: a number from 0 to 1.
            retry_after: seconds the server asked for, or None.
        """
        exponent = min(max(tries, 1) - 1, 64)  # beyond, every cap is reached and floats would overflow
        jitter = dice * min(self.cap, self.base * 2.0**exponent)
        if retry_after is None or not retry_after > 0:
            return jitter
        return min(retry_after, self.longest) + min(jitter, self.base)

    def waits(self, until_ms: int | None, now_ms: int, since_ms: int | None = None) -> float:
        """Seconds until that instant; 0 when it is past, was never set, or comes from a clock that was wrong.

        Args:
            until_ms: not before this instant, or None.
            now_ms: the present.
            since_ms: when that was decided, where it is known: a clock that shows less was put back since.
        """
        if until_ms is None or (since_ms is not None and (since_ms - now_ms) / 1000 > self.base):
            return 0.0
        seconds = (until_ms - now_ms) / 1000
        return seconds if 0 < seconds <= self.longest + self.base else 0.0
