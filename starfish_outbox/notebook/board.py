"""What there is to be seen of a panel, and who is told: at most 8 times a second, of the last change too."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from starfish_outbox.notebook.details import Details
from starfish_outbox.notebook.meter import Progress
from starfish_outbox.notebook.throttle import Throttle
from starfish_outbox.state import Counts

Mode: TypeAlias = Literal["idle", "draining", "pausing", "stopping", "paused", "offline", "waiting", "closed"]

LOG_LINES: Final = 200


class LogLine(NamedTuple):
    """One thing that happened: when, in milliseconds since the Unix epoch, and in words."""

    at_ms: int
    text: str


@dataclass(frozen=True)
class PanelState:
    """What is to be seen.

    Attributes:
        mode: what it is doing.
        running: whether a drain is under way, or waits to go on.
        reason: why, in words; of ``idle`` how the last pass ended.
        until_ms: when it goes on by itself (milliseconds since the Unix epoch), or None.
        counts: the queue's entries by status.
        progress: of the pass under way or the last one; None before the first.
        sent: entries that this panel sent, ever; it only grows, as do the next two.
        retried: sends that did not get through and left the entry queued.
        parked: entries that were parked.
        keeps: whether it drains again by itself.
        online: whether the network is switched on.
        lose_answers: the share of deliveries whose answer gets lost, from 0 to 1.
        turned_away: calls of ``send`` that found the network switched off.
        lost: answers that got lost.
        max_attempts: failed attempts after which an entry is parked.
        concurrency: sends at a time.
        error: what the error strip says; empty: nothing.
        only: the status that the table is about, or None for all.
        selected: the entry that is looked at, or None.
    """

    mode: Mode = "idle"
    running: bool = False
    reason: str = ""
    until_ms: int | None = None
    counts: Counts = field(default_factory=Counts)
    progress: Progress | None = None
    sent: int = 0
    retried: int = 0
    parked: int = 0
    keeps: bool = False
    online: bool = True
    lose_answers: float = 0.0
    turned_away: int = 0
    lost: int = 0
    max_attempts: int = 5
    concurrency: int = 1
    error: str = ""
    only: str | None = None
    selected: Details | None = None

    @property
    def shown(self) -> int:
        """How many entries the table is about."""
        counts = self.counts
        by_status = {None: counts.total, "queued": counts.queued, "sending": counts.sending, "failed": counts.failed}
        return by_status.get(self.only, 0)


class Board:
    """The state, the log, and who is told of them.

    Args:
        state: to begin with.
        look: what has changed by itself since it was last told, as fields of the state.
        now_ms: the clock of the log.

    Attributes:
        state: what is to be seen.
        log: what happened, the last of it.
    """

    def __init__(self, state: PanelState, look: Callable[[], Mapping[str, Any]], now_ms: Callable[[], int]) -> None:
        self.state = state
        self.log: deque[LogLine] = deque(maxlen=LOG_LINES)
        self._look = look
        self._now_ms = now_ms
        self._throttle = Throttle(self.tell)
        self._listeners: list[Callable[[], object]] = []

    def subscribe(self, listener: Callable[[], object]) -> None:
        """Call this plain function, on the queue's loop, when there is something new to see."""
        self._listeners.append(listener)

    def touch(self) -> None:
        """Something changed by itself."""
        self._throttle.touch()

    def change(self, **changes: Any) -> None:
        """Change what is to be seen."""
        self.state = replace(self.state, **changes)
        self.touch()

    def say(self, text: str) -> None:
        """Add a line to the log."""
        self.log.append(LogLine(self._now_ms(), text))
        self.touch()

    def fail(self, text: str) -> None:
        """Put a text into the error strip, and into the log."""
        self.say(text)
        self.change(error=text)

    def flush(self) -> None:
        """Tell now what was not told yet."""
        self._throttle.end()

    def tell(self) -> None:
        """Tell all."""
        self.state = replace(self.state, **self._look())
        for listener in list(self._listeners):
            listener()
