"""What may enter a queue: items are encoded, once, and kept within the limits that the user set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from starfish_outbox.binding import Binding
from starfish_outbox.caches.base import Insert, Outcome, Update
from starfish_outbox.checks import check_limit
from starfish_outbox.entry import StoredEntry
from starfish_outbox.errors import ItemError, OutboxFullError
from starfish_outbox.jsontext import encode_item
from starfish_outbox.state import size_of, weight
from starfish_outbox.transitions import GONE, Step


class Admission:
    """The limits of one queue, and what is on its way in; the arguments are those of `OutboxQueue`."""

    def __init__(
        self,
        *,
        default: Callable[[Any], Any] | None,
        big_ints: bool,
        max_item_bytes: int,
        max_depth: int,
        max_entries: int | None,
        max_bytes: int | None,
    ) -> None:
        limits = {"max_item_bytes": max_item_bytes, "max_depth": max_depth, "max_entries": max_entries}
        for name, value in {**limits, "max_bytes": max_bytes}.items():
            check_limit(name, value)
        self._default = default
        self._big_ints = big_ints
        self._max_item_bytes = max_item_bytes
        self._max_depth = max_depth
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._reserved: dict[str, int] = {}  # new entries on their way, not yet counted: id -> bytes
        self._growing = 0  # bytes by which changes on their way make entries larger, at most

    def encode(self, key: str | None, id: str, item: Any) -> str:
        """The item's JSON text.

        Raises:
            ItemError: the item is unfit; it says whose, and where.
        """
        try:
            return encode_item(
                item,
                big_ints=self._big_ints,
                default=self._default,
                max_depth=self._max_depth,
                max_bytes=self._max_item_bytes,
            )
        except ItemError as error:
            raise ItemError(f"{key!r}, id {id!r}: {error}", error.path) from error.__cause__

    async def insert(self, binding: Binding, entries: list[StoredEntry]) -> list[Outcome]:
        """Add the entries in one commit, all or none, and say what became of each.

        Raises:
            OutboxFullError: a limit leaves no room.
            CacheWriteError: they could not be stored.
        """
        ops = [Insert(entry) for entry in entries]
        if self._max_entries is None and self._max_bytes is None:
            return await binding.durably(ops)
        fresh = await self._reserve(binding, entries)
        inserted = binding.apply(ops)
        # Not when the caller goes: what is cancelled can still land, and needs its room.
        inserted.add_done_callback(lambda _: [self._reserved.pop(id, None) for id in fresh])
        return await asyncio.shield(inserted)

    async def change(self, binding: Binding, id: str, step: Step) -> Outcome:
        """Apply a step that may make the first entry with this id larger.

        Raises:
            OutboxFullError: a limit leaves no room.
            CacheWriteError: it could not be stored.
        """
        if self._max_bytes is None:
            return (await binding.durably([Update(step, id=id)]))[0]
        while True:
            room = _growth(binding.state.first(id), step)
            full = self._is_full(binding, 0, room) if room else ""
            if full:
                raise OutboxFullError(f"{binding.key!r}: {id!r} was not changed; {full}")
            bounded = _Bounded(step, room)
            self._growing += room
            changed = binding.apply([Update(bounded, id=id)])
            changed.add_done_callback(partial(self._give_back, room))
            (outcome,) = await asyncio.shield(changed)
            if not bounded.exceeded:
                return outcome
            # Between the look and the change it was claimed, or another process changed it: now that is known here.

    def _give_back(self, room: int, _: object) -> None:
        self._growing -= room

    async def _reserve(self, binding: Binding, entries: list[StoredEntry]) -> list[str]:
        """Keep room for the entries while they are on their way; which ids need some.

        Raises:
            OutboxFullError: a limit leaves none.
        """
        texts = {entry.id: entry.item for entry in entries if entry.id is not None}
        sizes = {id: size_of(text) for id, text in texts.items()}
        delivered: set[str] = set()
        while True:
            reserved = self._reserved
            fresh = [id for id in sizes if id not in reserved and id not in delivered and not binding.state.first(id)]
            full = self._is_full(binding, len(fresh), sum(sizes[id] for id in fresh)) if fresh else ""
            if not full:
                reserved.update({id: sizes[id] for id in fresh})
                return fresh
            known = {id for id in fresh if await _was_sent(binding, id, texts[id])}
            if not known:
                raise OutboxFullError(f"{binding.key!r}: {fresh[0]!r} was not stored; {full}")
            delivered |= known  # what the ledger knows is not added again

    def _is_full(self, binding: Binding, entries: int, size: int) -> str:
        """Why there is no room for so many entries and bytes; empty when there is."""
        total = len(binding.state) + len(self._reserved)
        if entries and self._max_entries is not None and total + entries > self._max_entries:
            return f"there are {total} entries of at most {self._max_entries}"
        if self._max_bytes is not None:
            used = binding.state.bytes + sum(self._reserved.values()) + self._growing
            if used + size > self._max_bytes:
                return f"it needs {size} bytes, and {used} of at most {self._max_bytes} are in use"
        return ""


class _Bounded:
    """A step that is refused where it would make the entry larger by more than there is room for."""

    def __init__(self, step: Step, room: int) -> None:
        self._step = step
        self._room = room
        self.exceeded = False

    def __call__(self, entry: StoredEntry) -> Any:
        self.exceeded = _growth(entry, self._step) > self._room
        return None if self.exceeded else self._step(entry)


async def _was_sent(binding: Binding, id: str, item: str) -> bool:
    known = await binding.store.sent(binding.key, id)
    return known is not None and known.is_of(item)


def _growth(entry: StoredEntry | None, step: Step) -> int:
    """Bytes by which the step makes the entry larger."""
    after = None if entry is None else step(entry)
    return 0 if entry is None or after is None or after is GONE else max(0, weight(after) - weight(entry))
