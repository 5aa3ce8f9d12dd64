"""The queue on any ``LocalCache``: one JSON array under one key, written whole on every change.

The adapter keeps the entries and the encoded text of each, so that a write joins texts and encodes only what changed.
It is the one owner of the array; a cache that other programs can reach says so by being an ``OwnedCache``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any, Final, Protocol, runtime_checkable
from weakref import WeakValueDictionary

from starfish_outbox import codec
from starfish_outbox.caches.array import Array
from starfish_outbox.caches.base import (
    CORRUPT,
    QUARANTINE,
    Claimants,
    Insert,
    LocalCache,
    Member,
    Op,
    Outcome,
    Seen,
    Sent,
    free,
    is_free,
    log,
    seen,
    settled,
)
from starfish_outbox.caches.owner import new_owner
from starfish_outbox.caches.turnstile import Turnstile
from starfish_outbox.entry import StoredEntry
from starfish_outbox.errors import CacheError, CacheWriteError, CorruptQueueError
from starfish_outbox.transitions import merged

_MOST_ASIDE: Final = 10_000
"""Texts set aside from one key: beyond, the cache answers something for keys that it does not know."""


class ForeignWriteError(CacheError):
    """Raised by an ``OwnedCache`` instead of writing over a text that somebody else wrote meanwhile."""


@runtime_checkable
class OwnedCache(LocalCache, Protocol):
    """A cache that other programs can reach: it locks keys, and notices writers that take no lock."""

    @property
    def identity(self) -> object:
        """Equal for two objects on the same place, so that they share one state in this process."""

    async def acquire(self, key: str) -> None:
        """Own the key, or raise ``QueueLockedError``."""

    def release(self, key: str, *, now: bool = False) -> None:
        """Give the key back, after what still runs; ``now``: at once, without waiting for any lock."""

    def check_growth(self, key: str, text: str) -> None:
        """Raise ``CacheWriteError`` when a text with more entries than before is too long."""

    async def read_owned(self, key: str) -> str | None:
        """The owner's own reading: what it saw is remembered."""

    async def write_owned(self, key: str, value: str) -> None:
        """The owner's own write; raises ``ForeignWriteError`` when somebody else wrote since it last saw the key."""

    async def changed(self, key: str) -> bool:
        """Whether somebody else wrote the key since its owner last read or wrote it."""


class AdaptedStore(Claimants):
    """See ``EntryStore``. One for each cache and process; use ``adapted(cache)`` to get it."""

    def __init__(self, cache: LocalCache) -> None:
        super().__init__()
        self.owner = new_owner()
        self._cache = cache
        self._owned = cache if isinstance(cache, OwnedCache) else None
        self._keys: dict[str, Array] = {}
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._turn = Turnstile()
        self._seqs = count(1)

    @property
    def where(self) -> str:
        """See ``EntryStore``."""
        return repr(self._cache)

    @property
    def durability(self) -> str:
        """See ``EntryStore``."""
        return str(getattr(self._cache, "durability", "as durable as this cache makes it"))

    async def sent(self, key: str, id: str) -> Sent | None:
        """See ``EntryStore``: nothing but quarantine lies beside the key, so there is no ledger."""
        return None

    async def forget_sent(self, key: str, until_ms: int) -> int:
        """See ``EntryStore``."""
        return 0

    async def open(self, key: str, member: Member) -> None:
        """See ``EntryStore``."""
        async with self._alone():
            known = key in self._keys
            keyed = self._keys.setdefault(key, Array())
            joins = member not in keyed.members
            if joins:  # before the first wait, so that another member that leaves meanwhile is not the last
                keyed.members.append(member)
            try:
                if not known and self._owned is not None:
                    await self._owned.acquire(key)
                if known and self._owned is not None and await self._owned.changed(key):
                    await self._merge(key, keyed, member)
                else:
                    await self._read(key, keyed, member.now_ms(), quiet=member)
                    self._free_claims(keyed, member)
            except BaseException:
                if joins:
                    self.leave(key, member)
                raise
            member.deliver_all(list(keyed.state), own=True)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._turn.turn() as inherited:
            if inherited:  # from a loop that was closed in the middle of a change
                for keyed in self._keys.values():
                    keyed.suspect = True
            yield

    def notes(self, key: str) -> list[str]:
        """See ``EntryStore``."""
        keyed = self._keys.get(key)
        return list(keyed.notes) if keyed else []

    def leave(self, key: str, member: Member, *, collected: bool = False) -> None:
        """See ``EntryStore``."""
        keyed = self._keys.get(key)
        if keyed is None or member not in keyed.members:
            return
        keyed.members.remove(member)
        if not keyed.members:
            del self._keys[key]
            if self._owned is not None:
                self._owned.release(key, now=collected)

    async def left(self, key: str) -> None:
        """See ``EntryStore``."""
        if self._owned is not None:
            with suppress(OSError):  # what the file is like does not matter any more
                await self._owned.changed(key)  # comes after the release on the cache's thread

    async def refresh(self, key: str, member: Member) -> None:
        """See ``EntryStore``. A claim that is taken back is written with the next change, as a hydrate's would be."""
        async with self._alone():
            keyed = self._keyed(key)
            if self._owned is not None and await self._owned.changed(key):
                await self._merge(key, keyed, member)
            if keyed.suspect:
                await self._read(key, keyed, member.now_ms())
            self._free_claims(keyed, member)
            if member.stale:
                member.stale = False
                member.deliver_all(list(keyed.state))

    async def apply(self, key: str, member: Member, ops: Sequence[Op], *, late: bool = False) -> list[Outcome]:
        """See ``EntryStore``."""
        async with self._alone():
            keyed = self._keyed(key)
            if late or keyed.suspect:
                await self._read(key, keyed, member.now_ms())
            for _ in range(5):
                undo: list[Seen] = []
                epoch = keyed.epoch
                try:
                    outcomes = [keyed.apply(op, self._seqs, undo) for op in ops]
                    if undo or (not late and any(not isinstance(op, Insert) and op.rewrite for op in ops)):
                        grows = any(before is None for _, before, _ in undo)
                        await self._write(key, keyed, grows=grows)
                except ForeignWriteError:
                    keyed.undo(undo)
                    await self._merge(key, keyed, member)
                    continue
                except BaseException as error:
                    if epoch != keyed.epoch:  # collected long after its loop was closed: others have gone on
                        raise
                    keyed.undo(undo)
                    # Ctrl-C can strike between a change and the note of how to undo it.
                    keyed.suspect = not isinstance(error, Exception)
                    raise
                news = [seen(op, done) for op, done in zip(ops, outcomes, strict=True) if done.applied]
                _tell(keyed.members, member, [one for one in news if one is not None])
                return outcomes
            raise CacheWriteError(f"{key!r}: another program keeps writing it without taking the lock")

    def _keyed(self, key: str) -> Array:
        if key not in self._keys:
            raise CacheError(f"{key!r} was given back; hydrate it again")
        return self._keys[key]

    async def _write(self, key: str, keyed: Array, *, grows: bool) -> None:
        """One write in flight a key: one that was given up may still go on, and must not land over a later one."""
        if key in self._writing:
            await _ended(self._writing[key])
        text = keyed.text()
        if grows and self._owned is not None:
            self._owned.check_growth(key, text)

        async def write() -> None:
            store = self._owned.write_owned if self._owned is not None else self._cache.set_item
            await settled(store(key, text))

        # By key, not with what is known of it: it may outlast the queue's hold on the key.
        self._writing[key] = asyncio.ensure_future(write())
        self._writing[key].add_done_callback(_retrieve)
        await asyncio.shield(self._writing[key])
        keyed.stored = text

    async def _get(self, key: str, *, own: bool = False) -> str | None:
        read = self._owned.read_owned if own and self._owned is not None else self._cache.get_item
        text: Any = await settled(read(key))
        if text is not None and not isinstance(text, str):
            raise CacheError(f"{key!r}: get_item answered {type(text).__name__}; a cache answers str or None")
        return text

    async def _decode(self, key: str, text: str | None, now_ms: int) -> codec.Reading:
        """What the text holds; whatever it loses by being read is first set aside."""
        try:
            reading = codec.read(text or "")
        except codec.NotAQueueError as error:
            raise CorruptQueueError(f"{key!r}: {error}. Nothing was changed.") from error
        if reading.damage is not None:
            moved_to = await self._set_aside(key, text or "")
            reading.notes.insert(
                0, f"{key!r} was no JSON array ({reading.damage}); its text is kept under {moved_to!r}"
            )
        if reading.rejected:
            beside = key + QUARANTINE
            more = codec.add_to_quarantine(await self._get(beside), reading.rejected, now_ms)
            if more is not None:
                await settled(self._cache.set_item(beside, more))
            reading.notes += [f"{element.reason}: set aside under {beside!r}" for element in reading.rejected]
        for note in reading.notes:
            log.warning("%s: %s", key, note)
        return reading

    async def _set_aside(self, key: str, text: str) -> str:
        for number in range(1, _MOST_ASIDE + 1):
            beside = f"{key}{CORRUPT}{number}"
            there = await self._get(beside)
            if there is None:
                await settled(self._cache.set_item(beside, text))
            if there is None or there == text:
                return beside
        raise CacheError(
            f"{key!r} cannot be read, and no key is free to set it aside: every one up to {beside!r} holds a text. "
            "A cache answers None for a key that it does not know"
        )

    async def _read(self, key: str, keyed: Array, now_ms: int, *, quiet: Member | None = None) -> None:
        """The key as the cache has it now; claims that are live here survive. ``quiet`` is told by the caller."""
        text = await self._get(key, own=True)
        if text == keyed.stored and not keyed.suspect:
            return
        reading = await self._decode(key, text, now_ms)
        keyed.adopt(text, reading.entries, reading.notes, self._seqs, self._released(now_ms))
        _tell_all(keyed, quiet)

    async def _merge(self, key: str, keyed: Array, member: Member) -> None:
        """Take in what a program without the lock wrote, and keep what we acknowledged and it did not know.

        It may have sent and removed an entry, or never have seen it: kept, and marked ``maybe_sent``, nothing is lost.
        Nor is an item that took the place of one it knew.
        """
        now_ms = member.now_ms()
        text = await self._get(key, own=True)
        reading = await self._decode(key, text, now_ms)
        theirs = {entry.id for entry in reading.entries}
        known: dict[str | None, StoredEntry] = {e.id: e for e in reversed(list(keyed.state)) if e.id is not None}
        there = [merged(known.pop(e.id), e) if e.id in known else e for e in reading.entries]
        ours = [e if e.claim else replace(e, maybe_sent_ms=e.maybe_sent_ms or now_ms) for e in keyed.state]
        missing = [entry for entry in ours if entry.id not in theirs]
        note = f"another program wrote {key!r} without the lock; merged, {len(missing)} entries of ours kept"
        log.warning("%s", note)
        notes = [*keyed.notes, *reading.notes, note]
        keyed.adopt(text, [*there, *missing], notes, self._seqs, self._released(now_ms))
        _tell_all(keyed)

    def _released(self, now_ms: int) -> Callable[[StoredEntry], StoredEntry | None]:
        """A rule: what a claimed entry becomes when its claimer is gone; None while it is not."""

        def rule(entry: StoredEntry) -> StoredEntry | None:
            if is_free(entry.claim, self.owner, self._claimants):
                return free(entry, self.owner, now_ms)
            return None

        return rule

    def _free_claims(self, keyed: Array, member: Member) -> None:
        """Take back the claims of claimers that are gone; written with the next change, as after a hydrate."""
        _tell(keyed.members, member, keyed.release(self._released(member.now_ms())))

    def abandon_in_child(self) -> None:
        """After a fork, in the child: keys are the parent's, and the lock may have been held at that moment."""
        self._turn = Turnstile()
        self._keys, self._writing = {}, {}
        self._claimants.clear()
        self.owner = new_owner()


_stores: WeakValueDictionary[object, AdaptedStore] = WeakValueDictionary()


def adapted(cache: LocalCache) -> AdaptedStore:
    """The store on this cache: the same one for all queues of this process, so that they share one state."""
    for name in ("get_item", "set_item", "remove_item"):
        if not callable(getattr(cache, name, None)):
            raise TypeError(f"{type(cache).__name__} is no LocalCache: it has no method {name}")
    identity = cache.identity if isinstance(cache, OwnedCache) else id(cache)
    store = _stores.get(identity)
    if store is None:
        store = _stores[identity] = AdaptedStore(cache)
    return store


def _retrieve(write: asyncio.Task[None]) -> None:
    """The error of a write that was given up was reported when it was."""
    if not write.cancelled():
        write.exception()


async def _ended(write: asyncio.Task[None]) -> None:
    """Returns when the write is over, on whichever loop it runs; one whose loop is gone is over."""
    loop = write.get_loop()
    if write.done() or loop.is_closed():
        return
    if loop is asyncio.get_running_loop():
        await asyncio.wait([write])
    else:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_ended(write), loop))


def _tell_all(keyed: Array, quiet: Member | None = None) -> None:
    entries = list(keyed.state)
    for member in keyed.members:
        if member is not quiet:
            member.deliver_all(entries)


def _tell(members: Sequence[Member], own: Member, changes: Sequence[Seen]) -> None:
    if changes:
        for member in members:
            member.deliver(changes, own=member is own)


def _abandon_all() -> None:
    for store in list(_stores.values()):
        store.abandon_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
