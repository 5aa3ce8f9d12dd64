"""Copying entries from one queue to another, with everything that belongs to them.

1. What is copied keeps its order, status, attempts, error and unknown keys. An entry that was being sent has no owner
   in the copy: it is queued, and marked as maybe sent. A newer item that waited for the end of that takes its place.
2. An id that is already there is left alone, and so is one that the ledger knows as delivered with the same item.
3. All new entries become durable in one commit, or none does.
4. The source is only looked at. To move a file it is owned from before it is read until it has another name.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starfish_outbox import codec
from starfish_outbox.caches.base import Insert, wall_clock_ms
from starfish_outbox.caches.file import MAX_UTF16, FileCache
from starfish_outbox.caches.owner import create_private, sync_directory
from starfish_outbox.caches.peek import Look, Peek, read
from starfish_outbox.cli.stores import Place, RefusedError, quoted
from starfish_outbox.entry import StoredEntry
from starfish_outbox.errors import CacheWriteError
from starfish_outbox.queue import OutboxQueue
from starfish_outbox.transitions import abandon, catch_up


@dataclass
class Copied:
    """What a copy did, or would do.

    Attributes:
        taken: entries that are new in the target.
        there: entries whose id was there already.
        sent: entries that the target's ledger knows as delivered.
        left: what could not be copied, and why.
        notes: what was read differently from what is written.
    """

    taken: int = 0
    there: int = 0
    sent: int = 0
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[OutboxQueue[Any]]:
    """The queue at this place, closed at the end.

    Raises:
        CacheError: it cannot be opened.
    """
    cache = place.store.cache()
    queue: OutboxQueue[Any] = OutboxQueue(cache)
    try:
        await queue.hydrate(place.key)
        yield queue
    finally:
        await queue.close()
        cache.close()


@asynccontextmanager
async def owned(place: Place) -> AsyncIterator[tuple[FileCache, Look]]:
    """The file of a queue, owned by this process for as long as it is entered, and what it holds.

    Raises:
        RefusedError: the queue lies in no file of its own.
        QueueLockedError: another process owns it.
    """
    cache = place.store.cache()
    if not isinstance(cache, FileCache):
        raise RefusedError(f"{place.store.path} is a database, which cannot be moved aside; leave --move out")
    await cache.acquire(place.key)
    try:
        yield cache, read(place.key, await cache.read_owned(place.key) or "")
    finally:
        cache.release(place.key)
        cache.close()


async def move_aside(cache: FileCache, key: str) -> Path | None:
    """Give the file of an owned queue a name by which nobody takes it for one; None: it was written meanwhile."""
    if await cache.changed(key):
        return None
    file = cache.path(key)
    number = 1
    while (aside := file.with_name(f"{file.name}.imported{'' if number == 1 else f'.{number}'}")).exists():
        number += 1
    file.rename(aside)
    sync_directory(aside.parent)
    return aside


def portable(look: Look, now_ms: int) -> tuple[list[StoredEntry], Copied]:
    """The entries as copies without an owner, and what stays behind."""
    copies = []
    for entry in look.entries:
        freed = None if entry.id is None else abandon(now_ms)(entry)
        copies.append(replace(catch_up(freed or entry), seq=0, claim=None))
    copied = Copied(left=[f"{reason}: not copied" for reason in look.unread], notes=list(look.notes))
    if look.damage is not None:
        copied.left.append(f"the text is no JSON array ({look.damage}); only whole entries were copied out of it")
    return copies, copied


async def insert(place: Place, entries: Sequence[StoredEntry], copied: Copied) -> None:
    """Add to the queue what is new to it; counts into ``copied``. Durable when this returns.

    Raises:
        CacheError: the queue cannot be opened or written.
    """
    async with opened(place) as queue:
        binding = await queue.bound_or_none()
        if binding is None:
            raise RefusedError(f"{place}: it was closed meanwhile")
        fresh = _fresh(entries, {e.item for e in binding.state if e.id is None}, copied)
        if not fresh:
            return
        for outcome in await asyncio.shield(binding.apply([Insert(entry) for entry in fresh])):
            if outcome.applied:
                copied.taken += 1
            elif outcome.why == "sent":
                copied.sent += 1
            else:
                copied.there += 1


def foresee(place: Place, peek: Peek | None, entries: Sequence[StoredEntry], copied: Copied) -> None:
    """Count what ``insert`` would do; ``peek`` is None where the target does not exist."""
    there = peek.look(place.key).entries if peek is not None and peek.has(place.key) else []
    ids = {entry.id for entry in there if entry.id is not None}
    sent = {line.id: line.sha256 for line in peek.sent(place.key)} if peek is not None else {}
    for entry in _fresh(entries, {e.item for e in there if e.id is None}, copied):
        if entry.id is not None and entry.id in ids:
            copied.there += 1
        elif entry.id is not None and sent.get(entry.id) == hashlib.sha256(entry.item.encode()).digest():
            copied.sent += 1
        else:
            copied.taken += 1


def stored_text(entries: Sequence[StoredEntry]) -> str:
    """The JSON array that a TypeScript program reads.

    Raises:
        RefusedError: it would be too long for one.
    """
    text = codec.encode_array([codec.encode_entry(entry) for entry in entries])
    if len(text) * 2 > MAX_UTF16 and len(text.encode("utf-16-le")) // 2 > MAX_UTF16:
        raise RefusedError(f"the text would be longer than the {MAX_UTF16:,} UTF-16 units that Node can read")
    return text


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet, for its owner's eyes only; durable when this returns.

    Raises:
        OSError: there is no such directory, or it may not be written.
        CacheWriteError: the write failed, or somebody else wrote the file meanwhile; nothing of it is left.
    """
    beside = path.with_name(f".{path.name[:180]}.{secrets.token_hex(8)}.tmp")
    create_private(beside)
    try:
        with beside.open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            raise CacheWriteError(f"{path} appeared meanwhile; nothing was written over it")
        beside.rename(path)
        sync_directory(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CacheWriteError(f"{path} could not be written: {error.strerror}") from error
        raise


def copies_of(look: Look) -> tuple[list[StoredEntry], Copied]:
    """``portable`` as of now."""
    return portable(look, wall_clock_ms())


def _fresh(entries: Sequence[StoredEntry], idless: set[str], copied: Copied) -> list[StoredEntry]:
    """The entries of which a queue can take each: no id twice, and no element without one that it has already."""
    first: dict[str, str] = {}
    fresh = []
    for entry in entries:
        if entry.id is None:
            if entry.item in idless:
                copied.there += 1
                continue
            idless.add(entry.item)
        elif entry.id in first:
            if first[entry.id] == entry.item:
                copied.there += 1
            else:
                what = "stands there twice, with different items: only the first is copied"
                copied.left.append(f"{quoted(entry.id)} {what}")
            continue
        else:
            first[entry.id] = entry.item
        fresh.append(entry)
    return fresh
