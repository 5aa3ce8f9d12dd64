"""The two durable caches by name, and variants of them that are broken on purpose, which every check must find out."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from starfish_outbox import FileCache, OutboxQueue, SQLiteCache

KEY: Final = "outbox.survey"

KINDS: Final = ("file", "sqlite")


class _AloneFileCache(FileCache):
    """For the variants: takes no notice of other writers, which are not what is tested with them."""

    def _changed(self, key: str) -> bool:
        return False


class InPlaceFileCache(_AloneFileCache):
    """Writes over the old text where it lies, as ``open(path, "w")`` does; fsyncs carefully."""

    def _set(self, key: str, value: str, *, own: bool = False) -> None:
        with self.path(key).open("wb") as file:
            file.write(value.encode())
            file.flush()
            os.fsync(file.fileno())
        descriptor = os.open(self.directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


class UnsyncedFileCache(_AloneFileCache):
    """Writes beside and renames, without any fsync."""

    def _set(self, key: str, value: str, *, own: bool = False) -> None:
        beside = self.directory / f".{self.path(key).name}.tmp"
        beside.write_text(value)
        beside.replace(self.path(key))


class UnsyncedDirectoryFileCache(_AloneFileCache):
    """Fsyncs the new file and renames it, and forgets the directory."""

    def _set(self, key: str, value: str, *, own: bool = False) -> None:
        beside = self.directory / f".{self.path(key).name}.tmp"
        with beside.open("w") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path(key))


def make_cache(kind: str, where: str) -> FileCache | SQLiteCache:
    """The cache of this kind in the directory ``where``."""
    if kind.startswith("sqlite"):
        return SQLiteCache(Path(where) / "outbox.db")
    classes: dict[str, type[FileCache]] = {
        "file": FileCache,
        "file, in place": InPlaceFileCache,
        "file, no fsync": UnsyncedFileCache,
        "file, no directory fsync": UnsyncedDirectoryFileCache,
    }
    return classes[kind](where)


async def open_queue(kind: str, where: str) -> OutboxQueue[Any]:
    """A hydrated queue on the cache of this kind."""
    cache = make_cache(kind, where)
    queue: OutboxQueue[Any] = OutboxQueue(cache)
    await queue.hydrate(KEY)
    if kind == "sqlite, synchronous off" and isinstance(cache, SQLiteCache):
        await cache.database._thread.run(run_sql, cache, "PRAGMA synchronous = OFF")
    return queue


def run_sql(cache: SQLiteCache, statement: str) -> list[Any]:
    """What the statement answers on the cache's own connection; to be called on its thread."""
    return cache.database._ready().execute(statement).fetchall()


def as_seen(queue: OutboxQueue[Any]) -> list[list[Any]]:
    """The entries as JSON: id, item, status, attempts, maybe_sent_ms."""
    return [[e.id, e.item, e.status, e.attempts, e.maybe_sent_ms] for e in queue.get()]


def faults(kind: str, where: str) -> list[str]:
    """What is wrong with the files themselves, as another program would see them."""
    if kind.startswith("sqlite"):
        connection = sqlite3.connect(Path(where) / "outbox.db")
        try:
            answer = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        finally:
            connection.close()
        return [] if answer == ["ok"] else answer
    found = []
    for path in Path(where).glob("*.json"):
        try:
            value = json.loads(path.read_bytes())
        except ValueError as error:
            found.append(f"{path.name}: {error}")
        else:
            found += [] if isinstance(value, list) else [f"{path.name} is no array"]
    return found


def look(wire: Any, kind: str, where: str) -> None:
    """A worker: reports what a fresh process finds."""

    async def main() -> None:
        before = faults(kind, where) if kind.startswith("file") else []  # hydrate of a database rolls a journal back
        queue = await open_queue(kind, where)
        wire.say(as_seen(queue), list(queue.status().set_aside), before + faults(kind, where))

    asyncio.run(main())
