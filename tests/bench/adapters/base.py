"""What a system must be able to do to be measured, and what all of them are given to store.

Nothing but the standard library: these modules also run beside the published package, which has our package's name.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

Pair: TypeAlias = tuple[str, dict[str, Any]]

ITEM: Final[dict[str, Any]] = {
    "station": "north-17",
    "taken": "2026-03-01T08:30:00Z",
    "values": [12.25, 13.5, 11.75, 12.5, 14.125],
    "note": "wind from the west, two nests, one ring read twice to be sure; battery of the logger at 61 percent",
}
"""About 200 bytes of JSON: one observation in the field."""

BIG_ITEM: Final[dict[str, Any]] = {**ITEM, "note": "wind from the west, two nests; " * 330}
"""About 10 KB of JSON."""

ITEMS: Final = {"small": ITEM, "big": BIG_ITEM}


class UnsupportedError(Exception):
    """The system cannot do that."""


class NotBuiltError(Exception):
    """The system is not there (yet)."""


class EnoughError(BaseException):
    """Ends a drain that cannot be told how many entries to take; no ``Exception``, which would count as a failure."""


class Remote:
    """Where a drain sends to: it takes everything at once, and knows in which order.

    Attributes:
        ids: what was sent, in order.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._stamps: list[float] = []
        self.ids: list[str] = []

    def take(self, id: str) -> None:
        """One send.

        Raises:
            EnoughError: as many as were wanted came before.
        """
        self._stamps.append(time.perf_counter())
        if len(self.ids) == self._number:
            raise EnoughError
        self.ids.append(id)

    def seconds(self, begin: float, end: float) -> float:
        """What the entries took, given when the drain began and ended.

        One that had to be ended took another claim: from its first send to its last lie as many removals and claims as
        entries were sent.
        """
        overran = len(self._stamps) > len(self.ids)
        return self._stamps[-1] - self._stamps[0] if overran else end - begin


class Adapter(ABC):
    """One system on one folder. Every call returns when its change is as durable as the system makes it.

    Attributes:
        package: whose version is told.
    """

    package: ClassVar[str] = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    async def open(self) -> None:
        """Open what lies in the folder; afterwards it can be used."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it."""

    async def fill(self, pairs: Sequence[Pair]) -> None:
        """Add these, however it goes fastest; called once, on an open and empty system."""
        await self.enqueue_many(pairs)

    @abstractmethod
    async def enqueue(self, pair: Pair) -> None:
        """One entry."""

    async def enqueue_at_once(self, pairs: Sequence[Pair]) -> None:
        """As many callers as pairs, none waiting for another; where calls block, they come one after the other."""
        for pair in pairs:
            await self.enqueue(pair)

    async def enqueue_many(self, pairs: Sequence[Pair]) -> None:
        """All in one call.

        Raises:
            UnsupportedError: there is no such call.
        """
        raise UnsupportedError("there is no call that takes many")

    async def enqueue_again(self, pair: Pair) -> None:
        """The same entry a second time, which adds nothing.

        Raises:
            UnsupportedError: it would be added twice.
        """
        raise UnsupportedError("it would be there twice")

    @abstractmethod
    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        """The oldest entries to the remote: each taken in a way that survives a crash, sent, and removed.

        Raises:
            UnsupportedError: it cannot send several at a time.
        """

    @abstractmethod
    async def count(self) -> int:
        """How many entries are waiting, asked of the system."""

    async def read_all(self) -> int:
        """Every item, decoded; how many there were.

        Raises:
            UnsupportedError: they can only be taken.
        """
        raise UnsupportedError("its entries can only be taken")


def alone(concurrency: int) -> None:
    """For systems that take one entry at a time."""
    if concurrency != 1:
        raise UnsupportedError("it sends one at a time")
