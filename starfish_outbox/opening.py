"""``open_outbox``: an identity and, if need be, a place -> a hydrated queue."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from starfish_outbox.caches import FileCache, LocalCache, SQLiteCache
from starfish_outbox.caches.file import private_directory
from starfish_outbox.caches.owner import make_directory
from starfish_outbox.queue import OutboxQueue

SQLITE_SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")


def default_path() -> Path:
    """The database that ``open_outbox`` uses without a path: ``outbox.db`` in the user's own data directory."""
    import platformdirs

    return Path(platformdirs.user_data_dir("starfish-outbox", appauthor=False)) / "outbox.db"


def cache_at(path: str | os.PathLike[str] | None = None, *, ledger: bool = False) -> SQLiteCache | FileCache:
    """The cache at a path: ``*.db`` or ``*.sqlite`` -> SQLite; a directory -> files.

    Raises:
        ValueError: the path is neither.
        CacheError: the directory is not the user's alone.
    """
    if path is None:
        where = default_path()
        private_directory(where.parent)
        return SQLiteCache(where, ledger=ledger)
    where = Path(path).expanduser()
    if where.suffix.lower() in SQLITE_SUFFIXES:
        make_directory(where.parent)
        return SQLiteCache(where, ledger=ledger)
    if where.is_dir() or os.fspath(path).endswith(("/", os.sep)):
        return FileCache(where)
    raise ValueError(
        f"{where} is neither a directory nor a database; name a directory (made when it ends in /) "
        f"or a file that ends in {', '.join(SQLITE_SUFFIXES)}"
    )


class _Queue(OutboxQueue[Any]):
    """A queue that closes the cache that was made for it."""

    def __init__(self, cache: LocalCache, own_cache: SQLiteCache | FileCache | None, **options: Any) -> None:
        super().__init__(cache, **options)
        self._own_cache = own_cache

    async def close(self) -> None:
        await super().close()
        if self._own_cache is not None:
            cache, self._own_cache = self._own_cache, None
            cache.close()


class Opening:
    """``await`` it for the queue, or ``async with`` it to have the queue closed at the end."""

    def __init__(self, queue: _Queue, key: str) -> None:
        self._queue = queue
        self._key = key

    def __await__(self) -> Generator[Any, None, OutboxQueue[Any]]:
        return self._open().__await__()

    async def __aenter__(self) -> OutboxQueue[Any]:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._queue.close()

    async def _open(self) -> OutboxQueue[Any]:
        await self._queue.hydrate(self._key)
        return self._queue


def open_outbox(
    identity: str, path: str | os.PathLike[str] | LocalCache | None = None, *, ledger: bool = True, **options: Any
) -> Opening:
    """The hydrated queue of one identity: await it, or ``async with`` it to have it closed at the end.

    Args:
        identity: whose writes these are; stored under the key ``outbox.<identity>``.
        path: a database (``*.db``, ``*.sqlite``), a directory (one JSON file a key), or any cache. By default a SQLite
            database in the user's data directory.
        ledger: remember delivered ids for 90 days (SQLite only), so that a cell that is run again sends nothing twice.
        options: as for ``OutboxQueue``.

    Raises:
        ValueError, TypeError: the identity or path is unfit.
        CacheError: it cannot be opened.
    """
    if not isinstance(identity, str):
        raise TypeError(f"an identity is a string, not {type(identity).__name__}")
    if not identity:
        raise ValueError("the identity is empty; name whose writes these are")
    if path is None or isinstance(path, str | os.PathLike):
        cache = cache_at(path, ledger=ledger)
        queue = _Queue(cache, cache, **options)
    else:
        queue = _Queue(path, None, **options)
    return Opening(queue, f"outbox.{identity}")
