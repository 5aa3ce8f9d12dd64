"""How far a pass is, how fast it goes, and when it will be done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from starfish_outbox.drain import DrainProgress

_WINDOW: Final = 5.0  # seconds over which the rate is taken
_SOONEST: Final = 0.4  # seconds before there is a rate to tell


class Progress(NamedTuple):
    """Where a pass stands.

    Attributes:
        done: entries settled so far, of ``total``.
        rate: entries a second over the last seconds, or None when that is not known yet.
        seconds_left: at that rate, or None.
    """

    done: int
    total: int
    rate: float | None
    seconds_left: float | None


@dataclass
class Meter:
    """Measures one pass, which may be paused: begun again, it goes on from where it was."""

    total: int
    done: int = 0
    _before: int = 0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def begin(self, now: float) -> None:
        """It begins, or goes on after a pause; ``now`` in seconds of any clock that only goes forward."""
        self._before = self.done
        self._samples.clear()
        self._samples.append((now, self.done))

    def step(self, progress: DrainProgress, now: float) -> None:
        """An entry was settled."""
        self.done = self._before + progress.done
        self.total = self._before + progress.total
        samples = self._samples
        if not samples or now - samples[-1][0] >= _WINDOW / 40:
            samples.append((now, self.done))
            while len(samples) > 2 and now - samples[0][0] > _WINDOW:
                samples.popleft()

    def at(self, now: float) -> Progress:
        """Where it stands."""
        rate = left = None
        if self._samples:
            since, done = self._samples[0]
            if now - since >= _SOONEST and self.done > done:
                rate = (self.done - done) / (now - since)
                left = (self.total - self.done) / rate
        return Progress(self.done, max(self.total, self.done), rate, left)
