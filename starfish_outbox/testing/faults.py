"""What can go wrong, in one vocabulary for senders, caches and servers, and a plan of what goes wrong next."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Generic, TypeAlias, TypeVar


@dataclass(frozen=True)
class Lost:
    """It takes effect, and the answer gets lost."""


@dataclass(frozen=True)
class Slow:
    """It takes effect, and the answer comes so many seconds late."""

    seconds: float


@dataclass(frozen=True)
class Hang:
    """No answer ever comes: who waits has to give up.

    Attributes:
        stored: whether it took effect.
    """

    stored: bool = False


@dataclass(frozen=True)
class Answer:
    """A server's answer with this status, in place of storing anything.

    Attributes:
        status: such as 429 or 503.
        retry_after: whole seconds for a ``Retry-After`` header, or None for no such header.
        body: what the answer says.
    """

    status: int
    retry_after: int | None = None
    body: str = ""


@dataclass(frozen=True)
class Truncated:
    """A server's answer that breaks off in the middle.

    Attributes:
        stored: whether the request took effect.
    """

    stored: bool = True


CallFault: TypeAlias = Lost | Slow | Hang | Exception | type[Exception]
"""What a call of a `FlakySender` or a `FaultyCache` can meet; an exception is raised, and nothing is done."""

ServerFault: TypeAlias = Lost | Slow | Hang | Answer | Truncated
"""What a request to a `MisbehavingServer` can meet."""

CALL_FAULTS: Final = (Lost, Slow, Hang, Exception)
SERVER_FAULTS: Final = (Lost, Slow, Hang, Answer, Truncated)

F = TypeVar("F")


class Plan(Generic[F]):
    """Which fault comes next: what was planned for a name, then what was planned for anybody, then dice.

    The dice of one ``who`` fall alike with the same seed, in whatever order others come between.

    Args:
        allowed: the classes of faults.
        odds: how likely each fault is, from 0 to 1, for calls for which nothing is planned.
        seed: of the dice.

    Attributes:
        injected: how often each kind of fault happened, by the name of its class.

    Raises:
        TypeError: something is no fault.
        ValueError: a share is no probability, or they are more than 1 together.
    """

    def __init__(self, allowed: tuple[type, ...], odds: Mapping[F, float] | None, seed: int) -> None:
        self._allowed = allowed
        self._odds = dict(odds or {})
        self._check(self._odds)
        if any(not 0 <= share <= 1 for share in self._odds.values()) or sum(self._odds.values()) > 1 + 1e-9:
            raise ValueError(f"odds are shares of all calls, from 0 to 1 and at most 1 together, not {self._odds}")
        self._seed = seed
        self._named: defaultdict[str, deque[F | None]] = defaultdict(deque)
        self._for_all: deque[F | None] = deque()
        self._rolls: Counter[str] = Counter()
        self._lock = threading.Lock()  # a server meets its faults in another thread than the one that plans them
        self.injected: Counter[str] = Counter()

    def add(self, name: str | None, faults: Sequence[F | None]) -> None:
        """Plan these, one a call, for calls with this name or, with None, for any; None in it: this one goes well."""
        self._check(fault for fault in faults if fault is not None)
        with self._lock:
            (self._for_all if name is None else self._named[name]).extend(faults)

    def next(self, name: str, who: str | None = None) -> F | None:
        """What this call meets; None: nothing. ``who`` rolls the dice, by default ``name``."""
        with self._lock:
            queue = self._named.get(name) or self._for_all
            fault = queue.popleft() if queue else self._roll(name if who is None else who)
            if fault is not None:
                self.injected[kind_of(fault)] += 1
            return fault

    @property
    def left(self) -> list[F]:
        """Faults that were planned and that nobody has met."""
        with self._lock:
            return [fault for queue in (*self._named.values(), self._for_all) for fault in queue if fault is not None]

    def assert_used_up(self) -> None:
        """Raises ``AssertionError`` when a planned fault has not happened: a test without faults passes everything."""
        if left := self.left:
            raise AssertionError(f"{len(left)} planned faults have not happened, such as {left[0]!r}")

    def _roll(self, who: str) -> F | None:
        if not self._odds:
            return None
        self._rolls[who] += 1
        dice = Random(f"{self._seed} {self._rolls[who]} {who}").random()  # noqa: S311  # dice for a test
        for fault, share in self._odds.items():
            dice -= share
            if dice < 0:
                return fault
        return None

    def _check(self, faults: Iterable[object]) -> None:
        for fault in faults:
            raisable = Exception in self._allowed and isinstance(fault, type) and issubclass(fault, Exception)
            if not raisable and not isinstance(fault, self._allowed):
                names = ", ".join(kind.__name__ for kind in self._allowed)
                raise TypeError(f"a fault is one of {names}, or None where all goes well, not {fault!r}")


def kind_of(fault: object) -> str:
    """The class of a fault, by name."""
    return fault.__name__ if isinstance(fault, type) else type(fault).__name__


def exception_of(fault: CallFault | None) -> Exception | None:
    """What a fault raises before anything is done, or None."""
    if isinstance(fault, Exception):
        return fault.with_traceback(None)  # dice may raise one many times
    return fault() if isinstance(fault, type) else None


def raise_planned(fault: CallFault | None) -> None:
    """Raise the fault, where it is an exception."""
    error = exception_of(fault)
    if error is not None:
        raise error


class Hanging:
    """Calls that hang, until they are cancelled or let go."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Hang."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def let_go(self) -> int:
        """Let all calls that hang go on; how many there were."""
        waiting = [future for future in self._waiting if not future.done()]
        for future in waiting:
            future.set_result(None)
        return len(waiting)
