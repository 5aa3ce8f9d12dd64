"""The entries of one key in memory: ordered, indexed by id, counted. Every operation costs the same at any length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from starfish_outbox.entry import FAILED, QUEUED, SENDING, StoredEntry


class Counts(NamedTuple):
    """How many entries have which status; ``other`` counts statuses that this package does not know."""

    queued: int = 0
    sending: int = 0
    failed: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All live entries."""
        return self.queued + self.sending + self.failed + self.other


class State:
    """Entries by sequence number, oldest first.

    Two entries may share an id (another program wrote them): both are kept, and the id means the first.
    """

    def __init__(self, entries: Iterable[StoredEntry] = ()) -> None:
        self._entries: dict[int, StoredEntry] = {}
        self._first: dict[str, int] = {}
        self._twins: dict[str, list[int]] = {}
        self._counts: dict[str, int] = {QUEUED: 0, SENDING: 0, FAILED: 0, "": 0}
        self._bytes = 0
        self._last = -1
        self._unsorted = False
        for entry in entries:
            self.put(entry.seq, entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[StoredEntry]:
        if self._unsorted:  # an entry came in behind its place: another process's, or one put back
            self._entries = dict(sorted(self._entries.items()))
            self._unsorted = False
        return iter(self._entries.values())

    def get(self, seq: int) -> StoredEntry | None:
        """The entry with this number, or None."""
        return self._entries.get(seq)

    def first(self, id: str) -> StoredEntry | None:
        """The oldest entry with this id, or None."""
        seq = self._first.get(id)
        return None if seq is None else self._entries[seq]

    def put(self, seq: int, entry: StoredEntry | None) -> StoredEntry | None:
        """Make ``entry`` (None: nothing) what stands under ``seq``; the entry that stood there before.

        Putting back what was removed restores its place, so a put can be undone by putting the answer.
        """
        before = self._entries.get(seq)
        if before is not None:
            self._count(before, -1)
        if entry is None:
            if before is not None:
                del self._entries[seq]
                self._unindex(before)
            return before
        self._entries[seq] = entry
        self._count(entry, 1)
        if before is None:
            self._unsorted = self._unsorted or seq < self._last
            self._last = max(self._last, seq)
            self._index(entry)
        return before

    def counts(self) -> Counts:
        """How many have which status."""
        counts = self._counts
        return Counts(counts[QUEUED], counts[SENDING], counts[FAILED], counts[""])

    @property
    def bytes(self) -> int:
        """UTF-8 size of all items' texts, those that wait to take another's place too."""
        return self._bytes

    def _count(self, entry: StoredEntry, by: int) -> None:
        known = isinstance(entry.status, str) and entry.status in self._counts and entry.id is not None
        self._counts[entry.status if known else ""] += by
        self._bytes += by * weight(entry)

    def _index(self, entry: StoredEntry) -> None:
        if entry.id is None:
            return
        seq = self._first.setdefault(entry.id, entry.seq)
        if seq != entry.seq:
            twins = self._twins.setdefault(entry.id, [seq])
            twins.append(entry.seq)
            twins.sort()
            self._first[entry.id] = twins[0]

    def _unindex(self, entry: StoredEntry) -> None:
        if entry.id is None:
            return
        twins = self._twins.get(entry.id)
        if twins is None:
            del self._first[entry.id]
            return
        twins.remove(entry.seq)
        self._first[entry.id] = twins[0]
        if len(twins) == 1:
            del self._twins[entry.id]


def weight(entry: StoredEntry) -> int:
    """Bytes of its item, and of the one that is to take its place."""
    return size_of(entry.item) + (0 if entry.replacement is None else size_of(entry.replacement.item))


def size_of(text: str) -> int:
    """Bytes of the text in UTF-8 (a raw surrogate, which no text of ours holds, counts three)."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
