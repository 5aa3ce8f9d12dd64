"""What somebody sees of a store who only looks: no lock is taken, nothing is written, nothing is repaired.

`caches.peek_sqlite` and `caches.peek_text` are the two kinds; here stands what they have in common.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from starfish_outbox import codec
from starfish_outbox.caches.base import QUARANTINE, SET_ASIDE, Sent as Delivery
from starfish_outbox.entry import FAILED, QUEUED, SENDING, StoredEntry
from starfish_outbox.errors import CorruptQueueError
from starfish_outbox.jsontext import decode

Claimed: TypeAlias = Literal["live", "gone", "unknown", ""]
"""Whether whoever claimed an entry still lives: its lock is held, is free, cannot be seen; empty when not claimed."""

KNOWN: Final = (QUEUED, SENDING, FAILED)

CLAIMED: Final[dict[bool | None, Claimed]] = {True: "live", False: "gone", None: "unknown"}
"""By what ``probe.lock_is_held`` answers."""


@dataclass(frozen=True)
class Look:
    """What lies under a key.

    Attributes:
        entries: in order.
        unread: elements or rows that are no entry, and why; a queue that opens the key sets them aside.
        notes: what a queue would read differently from what is written.
        damage: why the whole text is no JSON array, or None; a queue sets it aside and keeps ``entries``.
        total: how many entries there are, where ``entries`` is only a part of them.
    """

    entries: list[StoredEntry] = field(default_factory=list)
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    damage: str | None = None
    total: int = 0


class Sent(NamedTuple):
    """A line of the ledger."""

    id: str
    sha256: bytes


class Peek(Protocol):
    """A store as somebody sees it who only looks."""

    @property
    def kind(self) -> Literal["sqlite", "directory", "file"]:
        """What the store is."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def durability(self) -> str:
        """What a change that a queue acknowledges there survives."""

    @property
    def notes(self) -> list[str]:
        """What was unusual about looking, for people."""

    def keys(self) -> list[str]:
        """The keys of queues, in alphabetical order; texts that were set aside are none."""

    def has(self, key: str) -> bool:
        """Whether there is a queue under this key."""

    def look(self, key: str) -> Look:
        """Everything under a key."""

    def page(self, key: str, *, status: str | None, offset: int, limit: int | None) -> Look:
        """Some of the entries under a key.

        Args:
            key: the queue's.
            status: only these; ``other`` means those that this package does not know.
            offset: how many to leave out.
            limit: how many at most.
        """

    def find(self, key: str, id: str) -> list[StoredEntry]:
        """The entries with this id: one as a rule, more where another program wrote them."""

    def set_aside(self, key: str) -> list[str]:
        """What was set aside earlier, in words: under which key or name, and how much."""

    def owners(self, key: str) -> list[str]:
        """Who holds the key now, such as ``pid 4711 on lab-3``."""

    def claimed(self, key: str, entry: StoredEntry) -> Claimed:
        """Whether whoever claimed the entry still lives."""

    def sent(self, key: str) -> list[Sent]:
        """What the ledger knows as delivered; empty where none is kept."""

    def delivery(self, key: str, id: str) -> Delivery | None:
        """What the ledger knows of the delivery of this id."""


def read(key: str, text: str) -> Look:
    """What a queue would find in a stored text.

    Raises:
        CorruptQueueError: valid JSON, but no array.
    """
    try:
        reading = codec.read(text)
    except codec.NotAQueueError as error:
        raise CorruptQueueError(f"{key!r}: {error}") from error
    unread = tuple(element.reason for element in reading.rejected)
    return Look(reading.entries, unread, tuple(reading.notes), reading.damage, len(reading.entries))


def sliced(look: Look, status: str | None, offset: int, limit: int | None) -> Look:
    """The part of it that ``Peek.page`` asks for."""
    if status == "other":
        chosen = [entry for entry in look.entries if entry.id is None or entry.status not in KNOWN]
    elif status is not None:
        chosen = [entry for entry in look.entries if entry.id is not None and entry.status == status]
    else:
        chosen = look.entries
    end = None if limit is None else offset + limit
    return replace(look, entries=chosen[offset:end], total=len(chosen))


def belongs(name: str, key: str) -> bool:
    """Whether this is the name of something that was set aside from the key."""
    return name != key and name.startswith(key) and SET_ASIDE.fullmatch(name.removeprefix(key)) is not None


def describe(name: str, text: str) -> str:
    """What was set aside under this name, in words."""
    if name.endswith(QUARANTINE):
        try:
            elements = decode(text)
        except ValueError:
            elements = None
        if isinstance(elements, list):
            return f"{name}: {len(elements)} element{'' if len(elements) == 1 else 's'} that could be no entry"
    return f"{name}: a whole text of {len(text.encode('utf-8', 'surrogatepass')):,} bytes"
