"""From ``--store``, ``--identity`` and ``--key`` to a place: one queue in one store."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from starfish_outbox.caches.file import FileCache, private_directory
from starfish_outbox.caches.peek import Peek
from starfish_outbox.caches.peek_sqlite import DatabasePeek
from starfish_outbox.caches.peek_text import TextPeek, key_of_file
from starfish_outbox.caches.sqlite import SQLiteCache
from starfish_outbox.errors import CorruptQueueError, OutboxError
from starfish_outbox.opening import SQLITE_SUFFIXES, default_path
from starfish_outbox.showing import printable

Kind: TypeAlias = Literal["sqlite", "directory", "file"]

_KEYS_NAMED: Final = 20


class RefusedError(OutboxError):
    """The command cannot begin; its message says what to change."""


@dataclass(frozen=True)
class Store:
    """Where queues lie.

    Attributes:
        kind: a database, a directory with one file a key, or one file.
    """

    path: Path
    kind: Kind

    @property
    def exists(self) -> bool:
        """Whether there is anything at this path."""
        return self.path.is_dir() if self.kind == "directory" else self.path.is_file()

    def peek(self) -> Peek:
        """The store for somebody who only looks.

        Raises:
            CacheError: there is nothing at this path.
        """
        return DatabasePeek(self.path) if self.kind == "sqlite" else TextPeek(self.path)

    def cache(self) -> SQLiteCache | FileCache:
        """The store for a queue; what is missing is made. Ids that are delivered go to the ledger of a database."""
        if self.kind == "sqlite":
            if self.path == default_path():
                private_directory(self.path.parent)
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return SQLiteCache(self.path, ledger=True)
        return FileCache(self.path) if self.kind == "directory" else OneFileCache(self.path)


@dataclass(frozen=True)
class Place:
    """One queue."""

    store: Store
    key: str

    def __str__(self) -> str:
        """Key and path, for people."""
        return f"{quoted(self.key)} in {self.store.path}"


class OneFileCache(FileCache):
    """A ``FileCache`` with one queue, in a file of any name; what is set aside and its lock lie beside it."""

    def __init__(self, file: Path) -> None:
        super().__init__(file.parent)
        self._file = self.directory / file.name
        self._only = key_of_file(file)

    @property
    def identity(self) -> object:
        """See ``OwnedCache``."""
        return ("file", str(self._file))

    def path(self, key: str) -> Path:
        """Where the key's text lies."""
        return self._file if key == self._only else super().path(key)


def store_at(path: str | None) -> Store:
    """The store at a path: by the end of its name, or by what is there; None is where ``open_outbox`` keeps it.

    Raises:
        RefusedError: it can be no store.
    """
    if path is None:
        return Store(default_path(), "sqlite")
    where = Path(path).expanduser().absolute()
    if where.suffix.lower() in SQLITE_SUFFIXES:
        return Store(where, "sqlite")
    if where.is_dir() or path.endswith(("/", os.sep)):
        return Store(where, "directory")
    if where.is_file():
        return Store(where, "sqlite" if is_database(where) else "file")
    if where.suffix == ".json":
        return Store(where, "file")
    raise RefusedError(
        f"{where}: there is nothing there, and its name ends neither in {', '.join(SQLITE_SUFFIXES)} (a database) "
        "nor in .json (one file) nor in / (a directory of files)"
    )


def is_database(path: Path) -> bool:
    """Whether the file is a SQLite database; the smallest has a page of 512 bytes, and SQLite takes less for empty."""
    if path.stat().st_size < 512:
        return False
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        return getattr(error, "sqlite_errorname", "") != "SQLITE_NOTADB"
    return True


def existing(store: Store, identity: str | None, key: str | None) -> tuple[Place, Peek]:
    """The queue that was asked for, or the only one there is; and the store for somebody who looks.

    Raises:
        RefusedError: there is none of this name, or several to choose from.
        CacheError: the store cannot be read.
    """
    if not store.exists:
        raise RefusedError(f"there is no outbox at {store.path}")
    wanted = key_for(store, identity, key)
    peek = store.peek()
    if wanted is not None and peek.has(wanted):
        return Place(store, wanted), peek
    keys = peek.keys()
    if wanted is None and len(keys) == 1:
        return Place(store, keys[0]), peek
    if not keys:
        raise RefusedError(f"{store.path} holds no queue")
    there = ", ".join(map(quoted, keys[:_KEYS_NAMED])) + (", …" if len(keys) > _KEYS_NAMED else "")
    if wanted is not None:
        raise RefusedError(f"{store.path} holds no queue {quoted(wanted)}; it holds {there}")
    raise RefusedError(f"{store.path} holds {len(keys)} queues; choose one with --key: {there}")


def named(store: Store, identity: str | None, key: str | None, *, suggestion: str) -> Place:
    """The queue that was asked for, whether it is there or not; entries never land in one that nobody named.

    Raises:
        RefusedError: none was named; the message names the key that is suggested.
    """
    wanted = key_for(store, identity, key)
    if wanted is None and store.kind == "file":
        wanted = key_of_file(store.path)
    if wanted is None:
        raise RefusedError(
            f"say whose entries these are, with --identity or --key (perhaps --key {quoted(suggestion)})"
        )
    return Place(store, wanted)


def to_change(store: Store, identity: str | None, key: str | None) -> Place:
    """As ``existing``, for a queue that will be opened: one in a damaged database is there if it was named.

    Raises:
        RefusedError: there is none of this name, or several to choose from.
        CacheError: the store cannot be read, and no queue was named.
    """
    wanted = key_for(store, identity, key)
    try:
        return existing(store, identity, key)[0]
    except CorruptQueueError:
        if wanted is None:
            raise
        return Place(store, wanted)


def key_for(store: Store, identity: str | None, key: str | None) -> str | None:
    """The key that the two options name, or None.

    Raises:
        RefusedError: they name two, or one where there is nothing to choose.
    """
    if identity is None and key is None:
        return None
    if identity is not None and key is not None:
        raise RefusedError("an identity is the key without 'outbox.' before it; give one of the two")
    if store.kind == "file":
        raise RefusedError(f"{store.path} is one queue; an identity or a key chooses among those of a database")
    if not (key if identity is None else identity):
        raise RefusedError("the identity or key is empty")
    return key if identity is None else f"outbox.{identity}"  # as open_outbox names it


def quoted(text: str) -> str:
    """An id or key in quotes, with nothing in it that a terminal would obey."""
    return f"'{printable(text)}'"
