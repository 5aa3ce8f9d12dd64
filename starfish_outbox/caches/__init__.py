"""Where a queue lives: memory, files, SQLite, or anything with the three methods of ``LocalCache``."""

from __future__ import annotations

from starfish_outbox.caches.adapter import OwnedCache, adapted
from starfish_outbox.caches.base import EntryStore, LocalCache
from starfish_outbox.caches.file import FileCache
from starfish_outbox.caches.memory import MemoryCache
from starfish_outbox.caches.sqlite import SQLiteCache

__all__ = ["EntryStore", "FileCache", "LocalCache", "MemoryCache", "OwnedCache", "SQLiteCache", "store_of"]


def store_of(cache: LocalCache) -> EntryStore:
    """The store of single entries behind a cache: its own, or an adapter that writes the whole array."""
    return cache.database if isinstance(cache, SQLiteCache) else adapted(cache)
