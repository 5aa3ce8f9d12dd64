"""What a store is: strings by key (``LocalCache``, for everybody) and single entries (``EntryStore``, for the queue).

The one rule of every store here: an operation is a pure step that the store evaluates against its *own* truth, inside
the transaction (or under the lock) that makes the result durable. So nobody compares and retries, and two processes
cannot both win a claim.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable
from weakref import WeakMethod

from starfish_outbox.entry import Claim, StoredEntry
from starfish_outbox.transitions import Step, abandon, let_go

log: Final = logging.getLogger("starfish_outbox")

QUARANTINE: Final = ".quarantine"
CORRUPT: Final = ".corrupt."
SET_ASIDE: Final = re.compile(rf"({re.escape(QUARANTINE)}|{re.escape(CORRUPT)}[0-9]+)\Z")
"""How the keys end under which unreadable text lies."""


def wall_clock_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


@runtime_checkable
class LocalCache(Protocol):
    """Strings by key; nothing may evict them. The three methods may also be plain functions."""

    async def get_item(self, key: str) -> str | None:
        """The text under the key, or None."""

    async def set_item(self, key: str, value: str) -> None:
        """Store the text; returns when it is as durable as this cache makes it."""

    async def remove_item(self, key: str) -> None:
        """Forget the key; nothing happens when it is unknown."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Add this entry (its ``seq`` is given by the store) unless its id is live, or the ledger knows it as sent."""

    entry: StoredEntry


@dataclass(frozen=True, slots=True)
class Update:
    """Apply a step to the entry numbered ``seq``, or to the first with this ``id``.

    Attributes:
        rewrite: store and notify even when nothing changes, as the published package does.
        sent: a removal by this step is a delivery, and goes to the ledger.
        receipt: what the remote answered to it, as JSON text, for the ledger.
    """

    step: Step
    seq: int | None = None
    id: str | None = None
    rewrite: bool = False
    sent: bool = False
    receipt: str | None = None


Op: TypeAlias = Insert | Update


class Outcome(NamedTuple):
    """What became of one operation.

    Attributes:
        applied: whether it changed the truth.
        seq: the entry's number, or None when there is no such entry.
        entry: the entry as it stands now, or None when there is none.
        before: the entry as it stood before an applied change.
        why: ``live`` or ``sent`` for an insert that was refused.
    """

    applied: bool
    seq: int | None = None
    entry: StoredEntry | None = None
    before: StoredEntry | None = None
    why: Literal["", "live", "sent"] = ""


class Sent(NamedTuple):
    """A delivery, as the ledger knows it.

    Attributes:
        at_ms: when it was recorded, in milliseconds since the Unix epoch.
        sha256: of the item's text as UTF-8, in hex.
        receipt: what the remote answered, as JSON text, or None where that was not kept.
    """

    at_ms: int
    sha256: str
    receipt: str | None

    def is_of(self, item: str) -> bool:
        """Whether that is what was delivered, given its JSON text."""
        return self.sha256 == hashlib.sha256(item.encode()).hexdigest()


class Seen(NamedTuple):
    """One change as others see it.

    Attributes:
        seq: the entry's number.
        entry: what stands there now; None: it is gone.
        sent: a drain delivered what stood there before.
    """

    seq: int
    entry: StoredEntry | None
    sent: bool = False


def seen(op: Op, outcome: Outcome) -> Seen | None:
    """What there is to see of one operation; None where there is no such entry."""
    if outcome.seq is None:
        return None
    return Seen(outcome.seq, outcome.entry, outcome.applied and isinstance(op, Update) and op.sent)


class Member:
    """One queue's tie to one key of a store: where news are delivered, and on which loop.

    ``now_ms`` is the queue's clock. ``absorb`` gets what changed (and whether it was this queue's own doing);
    ``reload`` gets everything anew. Both run on the member's loop.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        absorb: Callable[[Sequence[Seen], bool], None],
        reload: Callable[[Sequence[StoredEntry], bool], None],
    ) -> None:
        self.now_ms = now_ms
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stale = False
        self.left = False
        self.version = -1
        # Weak, so that a queue that nobody holds any more is collected although it never left.
        self._absorb = WeakMethod(absorb)
        self._reload = WeakMethod(reload)

    def deliver(self, changes: Sequence[Seen], *, own: bool) -> None:
        """Hand over changes in the order in which they were committed."""
        absorb = self._absorb()
        if absorb is not None:
            self._call(lambda: absorb(changes, own))

    def deliver_all(self, entries: Sequence[StoredEntry], *, own: bool = False) -> None:
        """Hand over the whole state, in turn with the changes; ``own``: this queue asked for it."""
        reload = self._reload()
        if reload is not None:
            self._call(lambda: reload(entries, own))

    def _call(self, function: Callable[[], None]) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:  # a store's own thread
            running = None
        loop = self.loop
        if loop is None:
            self.stale = True
        elif loop is running:
            function()
        else:
            try:
                loop.call_soon_threadsafe(function)
            except RuntimeError:  # its loop is closed: it reads everything anew when it is used again
                self.stale = True


class EntryStore(Protocol):
    """Entries of many keys, each change durable before it is answered."""

    @property
    def owner(self) -> str:
        """128 random bits in hex: this process on this store."""

    @property
    def where(self) -> str:
        """Where it lies, for people."""

    @property
    def durability(self) -> str:
        """What an acknowledged change survives, for people."""

    def new_claimant(self) -> int:
        """A number under which claims are made; they are live until ``drop_claimant``."""

    def drop_claimant(self, claimant: int) -> None:
        """Claims made under this number are free from now on."""

    async def open(self, key: str, member: Member) -> None:
        """Join the key and deliver what it holds; when that fails it raises, and nothing is joined."""

    def notes(self, key: str) -> list[str]:
        """What was set aside, read differently from what was written, or merged, in words, since the key was opened."""

    async def apply(self, key: str, member: Member, ops: Sequence[Op], *, late: bool = False) -> list[Outcome]:
        """Make the operations durable, all or none, in order; news go to every member before this returns.

        ``late``: the queue has moved on to another identity; what is there now is read again before an entry is
        changed, and nothing is changed where the key is gone.
        """

    async def refresh(self, key: str, member: Member) -> None:
        """Learn what others changed, and take back the claims of owners that are gone."""

    async def sent(self, key: str, id: str) -> Sent | None:
        """What the ledger knows of this id's delivery; None where it knows nothing, or none is kept."""

    async def forget_sent(self, key: str, until_ms: int) -> int:
        """Forget deliveries up to that instant; how many there were."""

    def leave(self, key: str, member: Member, *, collected: bool = False) -> None:
        """The member needs the key no more; the last one gives it back.

        ``collected``: called by the garbage collector, in the middle of anything: no lock of others may be waited for.
        """

    async def left(self, key: str) -> None:
        """Returns when a key that was left is really given back."""


class Claimants:
    """The numbers under which claims of this process are live; both kinds of store keep them alike."""

    def __init__(self) -> None:
        self._claimants: set[int] = set()
        self._numbers = count(1)

    def new_claimant(self) -> int:
        """See ``EntryStore``."""
        number = next(self._numbers)
        self._claimants.add(number)
        return number

    def drop_claimant(self, claimant: int) -> None:
        """See ``EntryStore``."""
        self._claimants.discard(claimant)


def is_free(claim: Claim | None, owner: str, claimants: Iterable[int]) -> bool:
    """Whether nobody of *this* process holds this claim any more (another process's is judged by its lock)."""
    return claim is None or (claim.owner == owner and claim.claimant not in claimants)


def free(entry: StoredEntry, owner: str, now_ms: int) -> StoredEntry:
    """A claimed entry whose claimer is gone, back to ``queued``."""
    claim = entry.claim
    step = let_go if claim is not None and claim.owner == owner and claim.kind == "bare" else abandon(now_ms)
    return step(entry) or entry


async def settled(answer: Awaitable[object] | object) -> object:
    """The answer of a cache method, plain or awaitable: synchronous wrappers of a storage are welcome."""
    return await answer if isinstance(answer, Awaitable) else answer
