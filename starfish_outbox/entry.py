"""The nouns: an entry as callers see it, as the queue keeps it, and who claimed it.

Nothing here reads a clock, a file or the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from starfish_outbox.drawing import Drawn

T = TypeVar("T")

OutboxStatus: TypeAlias = str
"""``queued`` (waits), ``sending`` (claimed) or ``failed`` (parked for a person).

A plain ``str`` as in the published package: a status another program wrote is kept as it is and never drained.
"""

QUEUED: Final = "queued"
SENDING: Final = "sending"
FAILED: Final = "failed"


BUSY_HOLDS: Final = "starfish_outbox.BusyError"
"""The ``LastError.type`` of an entry whose ``nextAttemptAt`` is a server's word to all, and not about this entry."""


class LastError(NamedTuple):
    """Why the last try of an entry failed.

    Attributes:
        type: the exception's class name, such as ``ReadTimeout``.
        message: its text, at most 500 characters.
        at_ms: when, in milliseconds since the Unix epoch.
    """

    type: str
    message: str
    at_ms: int


class Replacement(NamedTuple):
    """What is to be sent instead, once the send that is under way has ended.

    Attributes:
        item: its JSON text.
        enqueued_at: when it was enqueued, in milliseconds since the Unix epoch.
    """

    item: str
    enqueued_at: int


@dataclass
class OutboxEntry(Drawn, Generic[T]):
    """One write that waits: a copy, so changing it changes nothing in the queue.

    Attributes:
        id: the caller's id; unique among live entries; the idempotency key on the wire.
        item: the caller's JSON, decoded from the stored text.
        status: ``queued``, ``sending``, ``failed``, or whatever another program wrote.
        attempts: how many sends of this entry failed.
        enqueued_at: when it was enqueued, in milliseconds since the Unix epoch.
        maybe_sent_ms: since when it may be at the server without our knowing, or None.
        next_attempt_ms: not before this instant, or None.
        last_error: why the last try failed, or None.
        replacement: an entry that waits for this one's send to end and then takes its place, or None.
        extra: keys another program stored with the entry, kept as they are.
    """

    id: str
    item: T
    status: OutboxStatus
    attempts: int
    enqueued_at: int
    maybe_sent_ms: int | None = field(default=None, compare=False, repr=False, kw_only=True)
    next_attempt_ms: int | None = field(default=None, compare=False, repr=False, kw_only=True)
    last_error: LastError | None = field(default=None, compare=False, repr=False, kw_only=True)
    replacement: OutboxEntry[T] | None = field(default=None, compare=False, repr=False, kw_only=True)
    extra: dict[str, Any] = field(default_factory=dict, compare=False, repr=False, kw_only=True)

    def __repr__(self) -> str:
        """Id, status and attempts; never the item, which is private data."""
        return f"OutboxEntry(id={self.id!r}, status={self.status!r}, attempts={self.attempts})"

    def to_dict(self) -> dict[str, Any]:
        """The entry under the key names of the stored form, ready for ``json.dumps``."""
        from starfish_outbox import codec

        return codec.entry_to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OutboxEntry[Any]:
        """The entry that a decoded stored object describes.

        Raises:
            KeyError: ``id`` is missing.
        """
        from starfish_outbox import codec

        return codec.entry_from_dict(data)


def reset_sending_to_queued(items: list[OutboxEntry[T]]) -> list[OutboxEntry[T]]:
    """The same list, every ``sending`` in it turned back to ``queued``, in place (as the published package does)."""
    for entry in items:
        if entry.status == SENDING:
            entry.status = QUEUED
    return items


class Claim(NamedTuple):
    """Who holds an entry: the token by which everything after a claim goes.

    Attributes:
        owner: 128 random bits in hex, one a process and store; lives as long as an OS lock.
        claimant: a number within the owner: one for each queue (bare claims) and one for each pass of a drain.
        serial: counts the claims of that claimant, so that no two claims are ever equal.
        kind: ``drain`` when a pass holds it, ``bare`` when ``queue.claim`` does.
        at_ms: when it was claimed, in milliseconds since the Unix epoch.
    """

    owner: str
    claimant: int
    serial: int
    kind: Literal["drain", "bare"]
    at_ms: int


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as the queue keeps it: immutable, the item as JSON text, decoded only when somebody looks.

    Attributes:
        seq: internal number; the order of the queue, and the identity of an entry (two may share an id).
        id: the caller's id, or None for an element whose id is no string: it stays in the text and is never drained.
        item: the item's JSON text; for an element without a usable id, the text of the whole element.
        status: usually a string; any decoded JSON value that another program wrote.
        enqueued_at: milliseconds since the Unix epoch; a float when another program wrote one.
        replacement: what takes its place once the send that is under way has ended, or None.
        extra: unknown keys and the JSON text of their values, in the order they were read.
        claim: who holds it; known to the store, never part of the JSON text.
    """

    seq: int
    id: str | None
    item: str
    status: Any
    attempts: int
    enqueued_at: int | float
    maybe_sent_ms: int | None = None
    next_attempt_ms: int | None = None
    last_error: LastError | None = None
    replacement: Replacement | None = None
    extra: tuple[tuple[str, str], ...] = ()
    claim: Claim | None = None

    def __repr__(self) -> str:
        """Without the item, which is private data."""
        return f"StoredEntry(seq={self.seq}, id={self.id!r}, status={self.status!r}, {len(self.item)} characters)"
