"""What one schedule is made of, drawn from its seed: which faults are on, and the people and processes in it."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from starfish_outbox import (
    AuthNeededError,
    BusyError,
    OfflineError,
    OutboxQueue,
    RejectedError,
    UnackedError,
)

KEYS: Final = ("A", "B")
IDS: Final = ("p1", "p2", "p3")
ADAPTER_CACHES: Final = ("cooperative", "threaded", "locked")
REAL_CACHES: Final = ("file", "sqlite")

NOT_DELIVERED: Final[dict[str, Callable[[], Exception]]] = {
    "offline": lambda: OfflineError("no network"),
    "refused": lambda: ConnectionRefusedError(errno.ECONNREFUSED, "connection refused"),
    "busy": lambda: BusyError("later", retry_after=1.0),
    "auth": lambda: AuthNeededError("who are you"),
    "rejected": lambda: RejectedError("never"),
    "an attempt": lambda: ValueError("some bug"),
}
_SILENCES: Final[tuple[Callable[[], Exception], ...]] = (
    lambda: UnackedError("no answer"),
    lambda: ConnectionResetError(errno.ECONNRESET, "connection reset"),
    lambda: TimeoutError("timed out"),
)


def not_delivered(fate: str) -> Exception:
    """What a send raises that reached nobody, or was refused."""
    return NOT_DELIVERED[fate]()


def silence(random: Random) -> Exception:
    """What a send raises that got no answer."""
    return random.choice(_SILENCES)()


UNKNOWN: Final = ("request lost", "answer lost", "answer lost", "hangs", "cancels itself")


@dataclass(frozen=True)
class Rules:
    """What a schedule runs: the real thing, or (see tests/broken_rules.py) a variant with one rule left out.

    Attributes:
        queue: makes a queue on a cache.
        patched: entered for the time of a schedule.
        found_as: a regular expression that the violation found must match.
    """

    name: str = "real"
    queue: Callable[..., OutboxQueue[Any]] = OutboxQueue
    patched: Callable[[], AbstractContextManager[object]] = nullcontext
    found_as: str = ""


REAL: Final = Rules()


class Plan:
    """The weather of one schedule (see ``Weather``): each kind of fault is on in some schedules and off in others.

    Attributes:
        calm: no fault happens any more.
        ending: the loop ends; who is cancelled must not go on with the next call.
        ends: how each process but the last ends, and after how many steps.
    """

    def __init__(self, random: Random, caches: tuple[str, ...], counts: Counter[str]) -> None:
        pick = random.choice
        self.random = random
        self.counts = counts
        self.calm = False
        self.ending = False
        self.cache = pick(caches)
        self.queues = pick((1, 1, 2))
        self.actors = pick((2, 3, 4))
        self.calls = pick((3, 6, 10))
        self.write_timeout = pick((None, None, 1.0))
        self.slow = pick((0.1, 0.4, 0.8))
        self.read_fails = pick((0.0, 0.0, 0.1))
        self.write_fails = pick((0.0, 0.05, 0.2))
        self.hangs = pick((0.0, 0.0, 0.05))
        self.send_fails = pick((0.0, 0.2, 0.5))
        self.cancels = pick((0.0, 0.002, 0.01))
        self.cancels_flushes = pick((False, True))
        self.ends = [(pick(("death", "death", "rerun")), random.randrange(20, 500)) for _ in range(pick((0, 0, 1, 2)))]

    def delay(self) -> float:
        return self.random.choice((0.001, 0.05, 0.3)) if self.random.random() < self.slow else 0.0

    def fate(self, what: str) -> str:
        if self.calm:
            return "ok"
        drawn = self.random.random()
        if what == "read":
            fate = "before" if drawn < self.read_fails else "ok"
        elif drawn < self.write_fails:
            fate = "before" if drawn < self.write_fails / 2 else "after"
        else:
            fate = "hang" if drawn > 1 - self.hangs else "ok"
        if fate != "ok":
            self.counts[f"{what}s: {fate}"] += 1
        return fate

    def send_fate(self) -> str:
        if self.calm or self.random.random() >= self.send_fails:
            return "ok"
        fate = self.random.choice((*NOT_DELIVERED, *UNKNOWN))
        self.counts[f"sends: {fate}"] += 1
        return fate

    def cancels_now(self) -> bool:
        return not self.calm and self.random.random() < self.cancels


@dataclass(eq=False)
class Seat:
    """One queue and who is signed in there; ``epoch`` counts sign-ins and sign-outs."""

    queue: OutboxQueue[Any]
    session: str | None = None
    epoch: int = 0


@dataclass(eq=False)
class Process:
    """What dies together."""

    number: int
    cache: Any
    seats: list[Seat] = field(default_factory=list)
    dead: bool = False
